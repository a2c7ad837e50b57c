//! Looking after a store: what is in it, and what is to be forgotten.

use std::time::SystemTime;

use super::database::{Value, values};
use super::{Result, Store, migrate, millis};

/// What is in a store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Without user and password.
    pub address: String,
    /// `SQLite` or `PostgreSQL`.
    pub database: &'static str,
    /// The step that the tables are at.
    pub schema: i64,
    /// How often anything changed.
    pub revision: i64,
    /// The key-encryption key that new data keys are wrapped with.
    pub key: Option<String>,
    /// Data keys, by the key-encryption key that wraps them; more than one while it is being changed.
    pub data_keys: Vec<(String, i64)>,
    /// A change of the data keys has not come to its end.
    pub rekeying: bool,
    /// Accounts.
    pub accounts: i64,
    /// Credentials, without removed ones.
    pub credentials: i64,
    /// Removed credentials.
    pub removed: i64,
    /// Versions, tombstones included.
    pub versions: i64,
    /// Bindings.
    pub bindings: i64,
    /// Rows of the audit record.
    pub audit_rows: i64,
}

impl Store {
    /// What is in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn info(&self) -> Result<Info> {
        let row = self.inner.database.first("SELECT revision, current_key, rekey FROM store", values![]).await?;
        let (revision, key, rekey): (i64, Option<String>, Option<i64>) = match row {
            Some(row) => (row.get(0)?, row.get(1)?, row.get(2)?),
            None => (0, None, None),
        };
        let sql = "SELECT key_encryption_key, COUNT(*) FROM data_keys GROUP BY key_encryption_key ORDER BY 1";
        let data_keys = self.inner.database.all(sql, values![]).await?;
        let count = async |sql| -> Result<i64> { Ok(i64::try_from(self.count(sql, values![]).await?).unwrap_or(0)) };
        Ok(Info {
            address: self.address().to_owned(),
            database: self.inner.database.name(),
            schema: migrate::newest(),
            revision,
            key,
            data_keys: data_keys.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect::<Result<_>>()?,
            rekeying: rekey.is_some(),
            accounts: count("SELECT COUNT(*) FROM accounts").await?,
            credentials: count("SELECT COUNT(*) FROM credentials WHERE removed = 0").await?,
            removed: count("SELECT COUNT(*) FROM credentials WHERE removed = 1").await?,
            versions: count("SELECT COUNT(*) FROM credential_versions").await?,
            bindings: count("SELECT COUNT(*) FROM bindings").await?,
            audit_rows: count("SELECT COUNT(*) FROM audit").await?,
        })
    }

    pub(super) async fn count(&self, sql: &'static str, values: Vec<Value>) -> Result<u64> {
        let row = self.inner.database.first(sql, values).await?;
        Ok(row.map_or(Ok(0), |row| row.get::<i64>(0))?.unsigned_abs())
    }

    /// Forgets old versions with their secrets: of each credential all but the newest `keep` (one at least), and of those
    /// that were removed before `removed_before` all, so that they cannot be restored any more; their tombstones stay. How
    /// many versions that was.
    ///
    /// # Errors
    /// When the store cannot be written; what was forgotten by then stays so.
    pub async fn prune(&self, keep: u32, removed_before: Option<SystemTime>) -> Result<u64> {
        let mut gone = 0;
        for (account, _) in self.accounts().await? {
            let mut writing = self.write().await?;
            let sql = "DELETE FROM credential_versions WHERE account = $1 AND removed = 0 AND version <= \
                       (SELECT c.version - c.removed FROM credentials c WHERE c.account = credential_versions.account \
                       AND c.id = credential_versions.id) - $2";
            let mut now = writing.transaction.run(sql, values![account.as_str(), i64::from(keep.max(1))]).await?;
            if let Some(before) = removed_before {
                let sql = "DELETE FROM credential_versions WHERE account = $1 AND removed = 0 AND EXISTS \
                           (SELECT 1 FROM credentials c JOIN credential_versions t ON t.account = c.account \
                           AND t.id = c.id AND t.version = c.version WHERE c.account = credential_versions.account \
                           AND c.id = credential_versions.id AND c.removed = 1 AND t.updated_at < $2)";
                now += writing.transaction.run(sql, values![account.as_str(), millis(before)]).await?;
            }
            if now > 0 {
                self.finish(writing).await?;
            }
            gone += now;
        }
        Ok(gone)
    }

    /// Forgets the audit record's rows from before a time; the files have them still.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_audit_rows(&self, before: SystemTime) -> Result<u64> {
        let mut transaction = self.inner.database.begin().await?;
        let gone = transaction.run("DELETE FROM audit WHERE at < $1", values![millis(before)]).await?;
        transaction.commit().await?;
        Ok(gone)
    }
}
