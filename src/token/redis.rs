//! The place in Redis where processes leave their tokens for each other, under leases.
//!
//! Every step is one script, so that nothing happens between looking and taking. Waits are short and bounded: whoever asks
//! goes on alone when Redis is slow.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, Script, ScriptInvocation};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::shared::{Board, Entry, FORCED, Glance, Sight};
use crate::base::{BoxFuture, Secret};
use crate::upstream::Roots;

/// Longer, and a token is obtained without Redis: it is to save an exchange, not to delay one.
const ANSWER: Duration = Duration::from_millis(500);

/// The same when there is no connection yet.
const CONNECT: Duration = Duration::from_secs(1);

/// Looks for a token and for a failure, and takes the lease if there is neither.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local token = redis.call('GET', KEYS[1])
         if token then
           if string.sub(token, 1, #ARGV[3]) ~= ARGV[3] or ARGV[3] == '' then
             return {'token', token, redis.call('PTTL', KEYS[1])}
           end
           if ARGV[4] == '1' then
             if redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[5]) then
               redis.call('DEL', KEYS[1])
             else
               return {'token', token, redis.call('PTTL', KEYS[1])}
             end
           end
         end
         local failure = redis.call('GET', KEYS[3])
         if failure then
           return {'failure', failure, redis.call('PTTL', KEYS[3])}
         end
         if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[2]) == ARGV[1] then
           return {'lease', '', 0}
         end
         return {'busy', '', 0}",
    )
});

/// Holds a lease longer; takes it again if Redis forgot it.
static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local holder = redis.call('GET', KEYS[1])
         if not holder or holder == ARGV[1] then
           redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         end
         return 1",
    )
});

/// Leaves what an exchange brought, and gives the lease back. Whoever lost the lease leaves nothing in another's place.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local mine = redis.call('GET', KEYS[2]) == ARGV[1]
         if ARGV[2] == 'token' and (mine or redis.call('EXISTS', KEYS[1]) == 0) then
           redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
           redis.call('DEL', KEYS[3])
         elseif ARGV[2] == 'failure' and mine then
           redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
         end
         if mine then
           redis.call('DEL', KEYS[2])
         end
         return 1",
    )
});

/// Where Redis is.
pub(super) struct Whereabouts {
    pub(super) address: Address,
    pub(super) database: i64,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// How it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Whereabouts {
    /// Reads `redis://HOST:PORT/DATABASE`, `rediss://` for TLS, or `unix:PATH`. `written` is for one that stands in the
    /// configuration file.
    pub(super) fn parse(text: &str, written: bool) -> Result<Self, String> {
        let forms = "write redis://HOST:6379, rediss://HOST:6379 for TLS, or unix:/PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let whole = path.is_absolute();
            let address = Address::Unix(path);
            let there = Self { address, database: 0, username: None, password: None };
            return if whole { Ok(there) } else { Err(forms.into()) };
        }
        let url = url::Url::parse(text).map_err(|_| forms.to_owned())?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(forms.into()),
        };
        if written && url.password().is_some() {
            return Err("a password does not stand in this file; put it into `shared_password`, or the whole address \
                        into { env: NAME } or { file: PATH }"
                .into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("nothing follows the number of the database; {forms}"));
        }
        // Of a scheme that it does not know, `url` leaves an IPv6 address and a name as they are written.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(forms.into());
        }
        let database = match url.path().trim_matches('/') {
            "" => 0,
            number => {
                number.parse().ok().filter(|number| *number >= 0).ok_or("the database is a number, such as /0")?
            }
        };
        let decode = |text: &str| {
            let text = percent(text).and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or("user name or password are not percent-encoded UTF-8")
        };
        let username = Some(url.username()).filter(|name| !name.is_empty()).map(decode).transpose()?;
        let password = url.password().map(decode).transpose()?;
        let address = Address::Tcp { host, port: url.port().unwrap_or(6379), tls };
        Ok(Self { address, database, username, password })
    }

    /// Whether a password would travel where others can read it.
    pub(super) fn is_open(&self) -> bool {
        let Address::Tcp { host, tls: false, .. } = &self.address else { return false };
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        self.password.is_some() && !loopback && host != "localhost"
    }
}

/// `%XX` decoded; nothing for what is no escape.
fn percent(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(if byte == b'%' { digit(rest.next())? << 4 | digit(rest.next())? } else { byte });
    }
    Some(bytes)
}

impl fmt::Debug for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Without user name and password.
impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{host}:{port}/{}", self.database)
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Redis, connected when it is first needed and again whenever the connection broke.
pub(super) struct Redis {
    there: Whereabouts,
    tls: Option<TlsConnector>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What has a byte stream to Redis.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Redis {
    /// Not connected yet.
    ///
    /// # Errors
    /// When no TLS can be set up.
    pub(super) fn new(there: Whereabouts, roots: &Roots) -> Result<Self, String> {
        let tls = match &there.address {
            Address::Tcp { tls: true, .. } => Some(TlsConnector::from(Arc::new(roots.client_config()?))),
            Address::Tcp { .. } | Address::Unix(_) => None,
        };
        Ok(Self { there, tls, connection: Mutex::default() })
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, String> {
        let (host, port) = match &self.there.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                return Ok(Box::new(stream));
            }
            Address::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        // Each step is one small write that somebody waits for.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        Ok(Box::new(stream))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let stream = self.stream().await?;
        let mut login = RedisConnectionInfo::default().set_db(self.there.database).set_skip_set_lib_name();
        if let Some(username) = &self.there.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.there.password {
            login = login.set_password(password);
        }
        // Bounded by whoever waits, the connection to be made included.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let made = MultiplexedConnection::new_with_config(&login, stream, config).await;
        let (connection, driver) = made.map_err(|error| words(&error))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Runs a script, connecting first if need be. A connection that was left from before may have broken since: then once
    /// more over another, which each script allows.
    async fn run(&self, script: &ScriptInvocation<'_>) -> Result<redis::Value, String> {
        let (connection, was_there) = self.connection().await?;
        match self.run_over(connection, script).await {
            Err(Broken::Connection(_)) if was_there => {
                let (connection, _) = self.connection().await?;
                self.run_over(connection, script).await
            }
            outcome => outcome,
        }
        .map_err(|(Broken::Connection(why) | Broken::Refused(why))| why)
    }

    /// The connection, and whether it was there before.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), String> {
        let connecting = timeout(CONNECT, async {
            let mut slot = self.connection.lock().await;
            if let Some(connection) = &*slot {
                return Ok((connection.clone(), true));
            }
            let connection = self.connect().await?;
            *slot = Some(connection.clone());
            Ok((connection, false))
        });
        connecting.await.unwrap_or_else(|_| Err(format!("no connection within {} ms", CONNECT.as_millis())))
    }

    async fn run_over(
        &self,
        mut connection: MultiplexedConnection,
        script: &ScriptInvocation<'_>,
    ) -> Result<redis::Value, Broken> {
        let why = match timeout(ANSWER, script.invoke_async(&mut connection)).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if !error.is_io_error() && !error.is_unrecoverable_error() => {
                return Err(Broken::Refused(words(&error)));
            }
            Ok(Err(error)) => words(&error),
            Err(_) => format!("no answer within {} ms", ANSWER.as_millis()),
        };
        // If somebody connected again meanwhile, that costs one connection more.
        *self.connection.lock().await = None;
        Err(Broken::Connection(why))
    }
}

/// Why there is no answer that is of use.
enum Broken {
    /// There is none: whether the script ran is not known.
    Connection(String),
    /// It says no, over a connection that is good.
    Refused(String),
}

/// What is wrong, without anything that was sent.
fn words(error: &RedisError) -> String {
    match (error.code(), error.kind()) {
        (Some(code), _) => format!("it answers {code}"),
        (None, ErrorKind::Io) => error.to_string(),
        (None, ErrorKind::AuthenticationFailed) => "it refuses the user name or password".into(),
        (None, kind) => format!("{kind:?}"),
    }
}

/// The names of everything about one token; the braces keep them together in a cluster.
fn keys(name: &str) -> [String; 4] {
    ["token", "lease", "failure", "forced"].map(|part| format!("countersign:{{{name}}}:{part}"))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Board for Redis {
    fn take<'a>(&'a self, name: &'a str, glance: &'a Glance<'a>) -> BoxFuture<'a, Result<Sight, String>> {
        Box::pin(async move {
            let mut script = TAKE.prepare_invoke();
            for key in keys(name) {
                script.key(key);
            }
            script.arg(glance.holder).arg(milliseconds(glance.lease)).arg(glance.not.unwrap_or_default());
            script.arg(u8::from(glance.refused)).arg(milliseconds(FORCED));
            let value = self.run(&script).await?;
            let read = redis::from_redis_value::<(String, Vec<u8>, i64)>(value);
            let (what, bytes, left) = read.map_err(|_| "an answer that nobody understands".to_owned())?;
            let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
            Ok(match what.as_str() {
                "token" => Sight::Token(bytes, left),
                "failure" => Sight::Failure(bytes, left),
                "lease" => Sight::Leased,
                _ => Sight::Busy,
            })
        })
    }

    fn hold<'a>(&'a self, name: &'a str, holder: &'a str, lease: Duration) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let [_, key, ..] = keys(name);
            let mut script = HOLD.key(key);
            script.arg(holder).arg(milliseconds(lease));
            self.run(&script).await.map(drop)
        })
    }

    fn leave<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        entry: Option<&'a Entry>,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let mut script = LEAVE.prepare_invoke();
            for key in keys(name) {
                script.key(key);
            }
            let (what, bytes, life) = match entry {
                Some(Entry::Token(bytes, life)) => ("token", bytes.as_slice(), *life),
                Some(Entry::Failure(bytes, life)) => ("failure", bytes.as_slice(), *life),
                None => ("nothing", &[][..], Duration::ZERO),
            };
            script.arg(holder).arg(what).arg(bytes).arg(milliseconds(life));
            self.run(&script).await.map(drop)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        static REMOVE: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('DEL', KEYS[1], KEYS[2])"));
        Box::pin(async move {
            let [token, _, failure, _] = keys(name);
            let mut script = REMOVE.key(token);
            script.key(failure);
            self.run(&script).await.map(drop)
        })
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.there)
    }
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.there)
    }
}

/// The password, for a place whose address has none.
pub(super) fn text(secret: &Secret, key: &str) -> Result<String, String> {
    secret.expose_str().map(str::to_owned).ok_or_else(|| format!("{key}: it is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        Whereabouts::parse(text, true).map(|there| there.to_string())
    }

    #[test]
    fn addresses_are_read_and_shown_without_who_logs_in() {
        for (text, expected) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache:7000/3", "redis://cache:7000/3"),
            ("rediss://me@cache.example/", "rediss://cache.example:6379/0"),
            ("redis://[::1]:1", "redis://::1:1/0"),
            ("unix:/run/redis/redis.sock", "unix:/run/redis/redis.sock"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "cache:6379", "http://cache", "redis://", "redis://cache/x", "redis://cache/-1", "unix:redis"]
        {
            assert!(shown(text).is_err(), "{text}");
        }
        assert!(shown("rediss://cache/0#insecure").unwrap_err().contains("nothing follows"));
    }

    #[test]
    fn a_password_stands_in_no_file() {
        let error = shown("redis://:canary@cache").unwrap_err();
        assert!(error.contains("shared_password") && !error.contains("canary"), "{error}");
        let referred = Whereabouts::parse("rediss://me:p%40ss@cache", false).unwrap();
        assert_eq!((referred.username.as_deref(), referred.password.as_deref()), (Some("me"), Some("p@ss")));
        assert!(!format!("{referred:?} {referred}").contains("p@ss"));
        assert!(Whereabouts::parse("redis://:%zz@cache", false).is_err());
    }

    #[test]
    fn a_password_goes_unencrypted_to_this_host_only() {
        let is_open = |text| Whereabouts::parse(text, false).unwrap().is_open();
        assert!(is_open("redis://:p@cache") && is_open("redis://:p@10.0.0.1"));
        for text in
            ["rediss://:p@cache", "redis://cache", "redis://:p@127.0.0.1", "redis://:p@[::1]", "redis://:p@localhost"]
        {
            assert!(!is_open(text), "{text}");
        }
    }
}
