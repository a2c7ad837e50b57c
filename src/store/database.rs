//! One way to speak to both databases: the same statements, values and rows, each call bounded in time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Decode, PgPool, Postgres, Row as _, SqlSafeStr, Sqlite, SqlitePool, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Result, StoreError};

/// No single call to a database takes longer; a connection to a machine that vanished would wait for many minutes.
const LONGEST: Duration = Duration::from_secs(15);

/// PostgreSQL's channel on which every change is told.
pub(super) const CHANNEL: &str = "countersign_changes";

/// An open database. Clones share it.
#[derive(Debug, Clone)]
pub(super) enum Database {
    /// One connection writes, so that writers wait for each other in order; several read.
    Sqlite {
        /// Writes.
        write: SqlitePool,
        /// Reads.
        read: SqlitePool,
    },
    /// PostgreSQL.
    Postgres {
        /// Its connections.
        pool: PgPool,
        /// Turns to write: fewer than connections, so that those who wait for each other do not keep readers waiting.
        writers: Arc<Semaphore>,
    },
}

/// A value of a statement's parameter.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A number, a time, a truth.
    Number(Option<i64>),
    /// Text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Number(Some(truth.into()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Some(bytes.to_vec()))
    }
}

/// The values of a statement's parameters, in their order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::database::Value::from($value)),*] };
}
pub(super) use values;

/// One row.
pub(super) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

impl Row {
    /// A column, by its place.
    pub(super) fn get<T>(&self, column: usize) -> Result<T>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(unavailable)
    }

    /// A truth.
    pub(super) fn is(&self, column: usize) -> Result<bool> {
        Ok(self.get::<i64>(column)? != 0)
    }
}

fn for_sqlite<'q>(sql: impl SqlSafeStr, values: Vec<Value>) -> Query<'q, Sqlite, SqliteArguments> {
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Number(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

fn for_postgres<'q>(sql: impl SqlSafeStr, values: Vec<Value>) -> Query<'q, Postgres, PgArguments> {
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Number(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// PostgreSQL has no NUL in a text, and nothing of ours holds one.
fn checked(values: Vec<Value>) -> Result<Vec<Value>> {
    let odd = |value: &Value| matches!(value, Value::Text(Some(text)) if text.contains('\0'));
    if values.iter().any(odd) {
        return Err(StoreError::Invalid("text with a NUL character is not stored".into()));
    }
    Ok(values)
}

async fn bounded<T>(call: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(LONGEST, call).await {
        Ok(outcome) => outcome.map_err(unavailable),
        Err(_) => Err(StoreError::Unavailable(format!("the database did not answer within {LONGEST:?}"))),
    }
}

impl Database {
    /// The rows of one statement that only reads.
    pub(super) async fn all(&self, sql: impl SqlSafeStr, values: Vec<Value>) -> Result<Vec<Row>> {
        let values = checked(values)?;
        match self {
            Self::Sqlite { read, .. } => {
                let rows = for_sqlite(sql, values).fetch(read).map_ok(Row::Sqlite);
                bounded(rows.try_collect()).await
            }
            Self::Postgres { pool, .. } => {
                let rows = for_postgres(sql, values).fetch(pool).map_ok(Row::Postgres);
                bounded(rows.try_collect()).await
            }
        }
    }

    /// The first row of one statement that only reads.
    pub(super) async fn first(&self, sql: impl SqlSafeStr, values: Vec<Value>) -> Result<Option<Row>> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }

    /// Begins what happens whole or not at all.
    pub(super) async fn begin(&self) -> Result<Transaction> {
        Ok(match self {
            // Taken at once: a lock that is asked for later is refused when somebody else wrote meanwhile.
            Self::Sqlite { write, .. } => Transaction::Sqlite(Open::begin(write, "BEGIN IMMEDIATE").await?),
            Self::Postgres { pool, writers } => {
                let turn = tokio::time::timeout(LONGEST, Arc::clone(writers).acquire_owned()).await;
                let turn = turn.ok().and_then(std::result::Result::ok);
                let turn = turn.ok_or_else(|| StoreError::Unavailable("others write all the time".into()))?;
                Transaction::Postgres { inner: bounded(pool.begin()).await?, _turn: Some(turn) }
            }
        })
    }

    /// Begins reading one state of everything, whatever others write meanwhile.
    pub(super) async fn snapshot(&self) -> Result<Transaction> {
        Ok(match self {
            Self::Sqlite { read, .. } => Transaction::Sqlite(Open::begin(read, "BEGIN").await?),
            Self::Postgres { pool, .. } => {
                let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
                Transaction::Postgres { inner: bounded(pool.begin_with(begin)).await?, _turn: None }
            }
        })
    }

    /// Which of the two it is, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "SQLite",
            Self::Postgres { .. } => "PostgreSQL",
        }
    }

    /// Ends every connection.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres { pool, .. } => pool.close().await,
        }
    }
}

/// What happens whole or not at all; dropped, it did not happen.
pub(super) enum Transaction {
    /// Of SQLite.
    Sqlite(Open),
    /// Of PostgreSQL.
    Postgres {
        /// The library's own.
        inner: sqlx::Transaction<'static, Postgres>,
        /// Given back when it ends.
        _turn: Option<OwnedSemaphorePermit>,
    },
}

/// A transaction of SQLite. The library's own counts how deep it is, and counts wrong when SQLite takes everything back by
/// itself, as it does when the disk is full. Here a connection that did not come to its end is closed, which leaves nothing.
pub(super) struct Open {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl Open {
    async fn begin(pool: &SqlitePool, sql: &'static str) -> Result<Self> {
        let mut open = Self { connection: bounded(pool.acquire()).await?, committed: false };
        bounded(sqlx::raw_sql(sql).execute(&mut *open.connection)).await?;
        Ok(open)
    }

    async fn commit(mut self) -> Result<()> {
        bounded(sqlx::raw_sql("COMMIT").execute(&mut *self.connection)).await?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

impl Transaction {
    /// The rows of a statement.
    pub(super) async fn all(&mut self, sql: impl SqlSafeStr, values: Vec<Value>) -> Result<Vec<Row>> {
        let values = checked(values)?;
        match self {
            Self::Sqlite(inner) => {
                let rows = for_sqlite(sql, values).fetch(&mut *inner.connection).map_ok(Row::Sqlite);
                bounded(rows.try_collect()).await
            }
            Self::Postgres { inner, .. } => {
                let rows = for_postgres(sql, values).fetch(&mut **inner).map_ok(Row::Postgres);
                bounded(rows.try_collect()).await
            }
        }
    }

    /// The first row of a statement.
    pub(super) async fn first(&mut self, sql: impl SqlSafeStr, values: Vec<Value>) -> Result<Option<Row>> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }

    /// Every row of a statement, one after the other, however many.
    pub(super) async fn each(&mut self, sql: impl SqlSafeStr, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
        match self {
            Self::Sqlite(inner) => {
                let mut rows = for_sqlite(sql, Vec::new()).fetch(&mut *inner.connection).map_ok(Row::Sqlite);
                while let Some(row) = bounded(rows.try_next()).await? {
                    take(row)?;
                }
            }
            Self::Postgres { inner, .. } => {
                let mut rows = for_postgres(sql, Vec::new()).fetch(&mut **inner).map_ok(Row::Postgres);
                while let Some(row) = bounded(rows.try_next()).await? {
                    take(row)?;
                }
            }
        }
        Ok(())
    }

    /// A single statement of it may take as long as it takes.
    pub(super) async fn patiently(&mut self) -> Result<()> {
        if self.is_postgres() { self.script("SET LOCAL statement_timeout = 0").await } else { Ok(()) }
    }

    /// The number of rows that a statement changed.
    pub(super) async fn run(&mut self, sql: impl SqlSafeStr, values: Vec<Value>) -> Result<u64> {
        let values = checked(values)?;
        match self {
            Self::Sqlite(inner) => {
                bounded(for_sqlite(sql, values).execute(&mut *inner.connection)).await.map(|done| done.rows_affected())
            }
            Self::Postgres { inner, .. } => {
                bounded(for_postgres(sql, values).execute(&mut **inner)).await.map(|done| done.rows_affected())
            }
        }
    }

    /// Statements without parameters, several at once.
    pub(super) async fn script(&mut self, sql: impl SqlSafeStr) -> Result<()> {
        match self {
            Self::Sqlite(inner) => bounded(sqlx::raw_sql(sql).execute(&mut *inner.connection)).await.map(drop),
            Self::Postgres { inner, .. } => bounded(sqlx::raw_sql(sql).execute(&mut **inner)).await.map(drop),
        }
    }

    /// Makes it happen.
    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(inner) => inner.commit().await,
            Self::Postgres { inner, .. } => bounded(inner.commit()).await,
        }
    }

    /// The database's own clock, in milliseconds: what several processes compare must come from one clock.
    pub(super) async fn clock(&mut self) -> Result<i64> {
        let sql = match self {
            Self::Sqlite(_) => "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            Self::Postgres { .. } => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        };
        self.first(sql, Vec::new()).await?.map_or(Ok(0), |row| row.get(0))
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }
}

/// What a database's refusal means; never its own text where that may repeat a value.
pub(super) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(match &error {
        sqlx::Error::PoolTimedOut => "no connection to the database became free in time".into(),
        sqlx::Error::PoolClosed => "the store is closed".into(),
        sqlx::Error::Io(error) => format!("the connection to the database was lost: {error}"),
        sqlx::Error::Tls(error) => format!("TLS with the database failed: {error}"),
        sqlx::Error::WorkerCrashed => "the connection to the database was lost".into(),
        sqlx::Error::Database(inner) => {
            let code = inner.code().unwrap_or_default();
            match inner.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => sqlite(&code),
                None => postgres(&code, inner.message()),
            }
        }
        // These name types and places in our own code; of a value they know nothing.
        other => format!("the database answered what was not expected: {other}"),
    })
}

/// By the lower byte of SQLite's extended result codes.
fn sqlite(code: &str) -> String {
    let reason = match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(5 | 6) => "the database is locked by another process",
        Ok(8) => "the database is read-only: check the rights of the file and its folder",
        Ok(10) => "the disk cannot be read or written",
        Ok(11) => "the database file is damaged: restore a backup",
        Ok(13) => "the disk is full",
        Ok(14) => "the database file cannot be opened: check its path and rights",
        Ok(26) => "the file is no SQLite database",
        _ => return format!("SQLite refused it, code {code}"),
    };
    reason.to_owned()
}

/// By SQLSTATE (PostgreSQL's documentation, appendix A).
fn postgres(code: &str, message: &str) -> String {
    let reason = match code {
        "53100" => "the database's disk is full",
        "25006" => "the database is read-only",
        "53300" => "the database has no connection left for us",
        "57P01" | "57P02" | "57P03" => "the database is restarting",
        "57014" | "55P03" => "the database took too long",
        "40001" | "40P01" => "others wrote at the same time",
        "42501" => "the user may not do this in the database: grant it what its tables need",
        // Authentication and unknown databases: the message names the user and the database, never a password.
        code if code.starts_with("28") || code == "3D000" => return format!("PostgreSQL refuses us: {message}"),
        code if code.starts_with("08") => "the connection to the database was lost",
        code => return format!("PostgreSQL refused it, SQLSTATE {code}"),
    };
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_look_at_and_no_value() {
        assert_eq!(sqlite("13"), "the disk is full");
        assert_eq!(sqlite("1032"), "the database is read-only: check the rights of the file and its folder");
        assert_eq!(sqlite("1555"), "SQLite refused it, code 1555");
        assert_eq!(postgres("57P01", "terminating"), "the database is restarting");
        assert!(!postgres("22P02", "invalid input: \"hunter2\"").contains("hunter2"));
        assert!(postgres("28P01", "password authentication failed for user \"me\"").contains("\"me\""));
    }
}
