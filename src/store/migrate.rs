//! The tables, and how they came to be: each step once, in order, under a lock.

use super::database::{Database, Transaction, values};
use super::{Result, StoreError};

/// Every step that ever was; never changed, only added to.
const STEPS: &[&str] = &[include_str!("migrations/0001.sql"), include_str!("migrations/0002.sql")];

/// The number of steps that this program knows.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Brings the tables to what this program knows. Only looks, where there is nothing to do.
pub(super) async fn migrate(database: &Database) -> Result<()> {
    if present(database.snapshot().await?).await? == newest() {
        return Ok(());
    }
    let mut transaction = database.begin().await?;
    if transaction.is_postgres() {
        // Of those who start at the same time one does it, and the others find it done.
        transaction.run("SELECT pg_advisory_xact_lock(4850726218394)", values![]).await?;
    }
    transaction.script("CREATE TABLE IF NOT EXISTS countersign_schema (version BIGINT PRIMARY KEY)").await?;
    let done = version(&mut transaction).await?;
    refuse_newer(done)?;
    for (step, sql) in (1..).zip(STEPS).skip(usize::try_from(done).unwrap_or(0)) {
        let sql = if transaction.is_postgres() {
            sql.replace(" TEXT", " TEXT COLLATE \"C\"").replace(" BYTES", " BYTEA")
        } else {
            sql.replace(" BYTES", " BLOB")
        };
        transaction.script(sqlx::AssertSqlSafe(sql)).await?;
        transaction.run("INSERT INTO countersign_schema (version) VALUES ($1)", values![step]).await?;
    }
    transaction.commit().await
}

/// The step that the tables are at; 0 for none.
async fn present(mut transaction: Transaction) -> Result<i64> {
    let exists = if transaction.is_postgres() {
        "SELECT 1 WHERE to_regclass('countersign_schema') IS NOT NULL"
    } else {
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'countersign_schema'"
    };
    if transaction.first(exists, values![]).await?.is_none() {
        return Ok(0);
    }
    let version = version(&mut transaction).await?;
    refuse_newer(version)?;
    Ok(version)
}

async fn version(transaction: &mut Transaction) -> Result<i64> {
    let row = transaction.first("SELECT COALESCE(MAX(version), 0) FROM countersign_schema", values![]).await?;
    row.map_or(Ok(0), |row| row.get(0))
}

fn refuse_newer(version: i64) -> Result<()> {
    let newest = newest();
    if version <= newest {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "a newer Countersign wrote this store (its tables are at step {version}, this program knows {newest}): run that \
         version, or restore a backup that was made before"
    )))
}
