//! Journals of refresh tokens that the provider replaces at every use: whoever has the lease may write, nobody else.
//!
//! The lease ends by the database's clock, and each holder has a number of its own, the fence: one that was thought dead
//! and wakes up again writes nothing.

use std::time::Duration;

use super::data_keys::{header, seal_under};
use super::database::values;
use super::{Result, Store, StoreError, named};

fn lost(name: &str) -> StoreError {
    StoreError::Changed(format!("journal {name}"))
}

impl Store {
    /// Takes the lease of a journal for a while: its fence, and what is written there. Nothing when somebody holds it.
    ///
    /// # Errors
    /// When the store cannot be reached: then nobody has the lease who had not had it.
    pub async fn journal_lock(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<(i64, Option<Vec<u8>>)>> {
        named("a journal's name", name)?;
        let mut transaction = self.inner.database.begin().await?;
        let now = transaction.clock().await?;
        let until = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let sql = "INSERT INTO journals (name, fence, holder, lease_until) VALUES ($1, 1, $2, $3) \
                   ON CONFLICT (name) DO UPDATE SET fence = journals.fence + 1, holder = excluded.holder, \
                   lease_until = excluded.lease_until WHERE journals.lease_until <= $4 RETURNING fence, sealed";
        let Some(row) = transaction.first(sql, values![name, holder, until, now]).await? else { return Ok(None) };
        let locked = (row.get(0)?, row.get(1)?);
        transaction.commit().await?;
        Ok(Some(locked))
    }

    /// Holds the lease for a while longer from now.
    ///
    /// # Errors
    /// `Changed` when it was lost.
    pub async fn journal_hold(&self, name: &str, fence: i64, ttl: Duration) -> Result<()> {
        let mut transaction = self.inner.database.begin().await?;
        let now = transaction.clock().await?;
        let until = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let sql = "UPDATE journals SET lease_until = $3 WHERE name = $1 AND fence = $2";
        if transaction.run(sql, values![name, fence, until]).await? == 0 {
            return Err(lost(name));
        }
        transaction.commit().await
    }

    /// Writes a journal, sealed by [`Store::seal`] with the journal's name as its place.
    ///
    /// # Errors
    /// `Changed` when the lease was lost: somebody else has it, or had it.
    pub async fn journal_write(&self, name: &str, fence: i64, sealed: &[u8]) -> Result<()> {
        // One at a time with changes of the data keys, which must know every journal that still needs an old one.
        let mut writing = self.write_untold().await?;
        let (account, generation, _) = header(sealed)
            .ok_or_else(|| StoreError::Invalid("a journal is written as `Store::seal` seals it".into()))?;
        let sql = "SELECT 1 FROM data_keys WHERE account = $1 AND generation = $2";
        let known = writing.transaction.first(sql, values![account, generation]).await?.is_some();
        let sealed = if known {
            sealed.to_vec()
        } else {
            drop(writing);
            let plain = self.open_sealed(account, name.as_bytes(), sealed).await?;
            let (again, key) = self.write_sealed(account).await?;
            writing = again;
            seal_under(account, &key, name.as_bytes(), &plain)?
        };
        let sql = "UPDATE journals SET sealed = $3 WHERE name = $1 AND fence = $2";
        if writing.transaction.run(sql, values![name, fence, sealed]).await? == 0 {
            return Err(lost(name));
        }
        writing.transaction.commit().await
    }

    /// Gives the lease back; the fence writes nothing any more.
    ///
    /// # Errors
    /// `Changed` when the lease was lost before.
    pub async fn journal_release(&self, name: &str, fence: i64) -> Result<()> {
        let mut transaction = self.inner.database.begin().await?;
        let sql =
            "UPDATE journals SET lease_until = 0, holder = NULL, fence = fence + 1 WHERE name = $1 AND fence = $2";
        if transaction.run(sql, values![name, fence]).await? == 0 {
            return Err(lost(name));
        }
        transaction.commit().await
    }
}
