//! From the address of a database to connections with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor};
use tokio::sync::Semaphore;
use url::Url;

use super::database::{Database, unavailable};
use super::{Result, StoreError};
use crate::base::Secret;

/// For a connection, and for the turn to write.
const PATIENCE: Duration = Duration::from_secs(5);

/// To PostgreSQL: one hears of changes, half of the others may write.
const CONNECTIONS: u32 = 8;
const WRITERS: usize = 4;

/// What PostgreSQL's users write behind the question mark, and nothing that sqlx would ignore.
const PARAMETERS: [&str; 10] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "dbname", "user", "application_name", "options"];

/// A server that is told to lose what it acknowledged is asked not to; whatever waits is bounded there as well. Every read
/// of ours follows a key, in the key's order, which the planner does not believe of tables that grew since it looked.
const SESSION: &str = "SELECT set_config('statement_timeout', '10s', false), set_config('lock_timeout', '5s', false), \
     set_config('idle_in_transaction_session_timeout', '30s', false), \
     set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false), \
     set_config('enable_bitmapscan', 'off', false), \
     set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' \
     ELSE current_setting('synchronous_commit') END, false)";

/// The address of a database, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Url),
}

impl FromStr for Address {
    type Err = String;

    /// Reads `sqlite:PATH` and `postgres://…`; the error says what to change and repeats nothing of it.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let odd = path.is_empty() || path.starts_with(':') || path.contains(['?', '\0']);
            return if odd {
                Err("write sqlite:PATH, such as sqlite:state/countersign.db".into())
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        let url = Url::parse(text).ok().filter(|url| ["postgres", "postgresql"].contains(&url.scheme()));
        let url = url.ok_or("write sqlite:PATH or postgres://USER@HOST/DATABASE")?;
        for (name, _) in url.query_pairs() {
            if name == "password" {
                return Err("a password goes into `store.password`, not into a parameter".into());
            }
            if !PARAMETERS.contains(&&*name) {
                return Err(format!("a parameter of postgres:// is one of {}", PARAMETERS.join(", ")));
            }
        }
        Ok(Self::Postgres(url))
    }
}

impl Address {
    /// Whether a password stands in it.
    pub(super) fn has_password(&self) -> bool {
        matches!(self, Self::Postgres(url) if url.password().is_some())
    }

    /// Connects. A new file of SQLite and its folder are for nobody else.
    pub(super) async fn connect(&self, password: Option<&Secret>) -> Result<Database> {
        match self {
            Self::Sqlite(path) => sqlite(path).await,
            Self::Postgres(url) => postgres(url, password).await,
        }
    }

    /// For people; without user and password.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("postgres://{}{port}{}", url.host_str().unwrap_or_default(), url.path())
            }
        }
    }
}

async fn sqlite(path: &Path) -> Result<Database> {
    let refused = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refused)?;
    }
    // SQLite gives its two other files the rights of this one.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(_) if fs::metadata(path).is_ok() => {}
        Err(error) => return Err(refused(error)),
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // Less may lose what was acknowledged when the power fails.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        // What a change of the data keys replaced does not stay behind in free pages.
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
        // After a burst of writes the log shrinks again.
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging();
    let pool = || SqlitePoolOptions::new().acquire_timeout(PATIENCE).idle_timeout(None).max_lifetime(None);
    let write = pool().max_connections(1).connect_with(options.clone()).await.map_err(unavailable)?;
    let read = pool().max_connections(4).connect_lazy_with(options.pragma("query_only", "ON"));
    Ok(Database::Sqlite { write, read })
}

async fn postgres(url: &Url, password: Option<&Secret>) -> Result<Database> {
    let mut options = PgConnectOptions::from_str(url.as_str())
        .map_err(|error| StoreError::Invalid(format!("the address of the store: {error}")))?
        .disable_statement_logging();
    if let Some(password) = password {
        let password = password.expose_str().ok_or_else(|| StoreError::Invalid("the password is not text".into()))?;
        options = options.password(password);
    }
    if !url.query_pairs().any(|(name, _)| name == "sslmode") {
        // The library's own default is to do without TLS where it does not succeed.
        let here = options.get_socket().is_some() || is_here(options.get_host());
        options = options.ssl_mode(if here { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
    }
    if !url.query_pairs().any(|(name, _)| name == "application_name") {
        options = options.application_name("countersign");
    }
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(SESSION).await.map(drop) }));
    let pool = pool.connect_with(options).await.map_err(unavailable)?;
    Ok(Database::Postgres { pool, writers: Arc::new(Semaphore::new(WRITERS)) })
}

/// Whether a host is this one: nobody can listen between.
fn is_here(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.starts_with('/') || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_or_a_server() {
        assert_eq!("sqlite:state/a.db".parse(), Ok(Address::Sqlite("state/a.db".into())));
        assert_eq!("sqlite:///var/a.db".parse(), Ok(Address::Sqlite("/var/a.db".into())));
        let server: Address = "postgres://me@db.test/store?sslmode=verify-full".parse().unwrap();
        assert_eq!(server.shown(), "postgres://db.test/store");
        assert!(!server.has_password());
        for wrong in ["", "sqlite:", "sqlite::memory:", "sqlite:a?mode=ro", "mysql://a/b", "state/a.db"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_seen_and_never_shown() {
        let server: Address = "postgres://me:hunter2@db.test/store".parse().unwrap();
        assert!(server.has_password() && !server.shown().contains("hunter2"));
        for wrong in ["postgres://db.test/store?password=hunter2", "postgres://db.test/store?sslmod=hunter2"] {
            assert!(!wrong.parse::<Address>().unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn only_this_host_may_do_without_tls_unasked() {
        assert!(is_here("127.0.0.1") && is_here("localhost") && is_here("/run/postgresql") && is_here("::1"));
        assert!(!is_here("10.0.0.1") && !is_here("localhost.example.com"));
    }
}
