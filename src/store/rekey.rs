//! Changing keys while everybody goes on reading and writing. What was interrupted is taken up where it stood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::credentials::place_of_secret;
use super::data_keys::{DataKey, header, no_randomness, place_of_key, seal_under};
use super::database::values;
use super::envelope::{open, seal};
use super::keys::KeyEncryption;
use super::open::{probe, prove, wrong};
use super::{Result, Store, StoreError, lock};

/// So many rows at a time: others write in between.
const BATCH: i64 = 200;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// So many keys, secrets or rows are done.
    pub done: u64,
    /// Of so many, as far as that is known.
    pub of: u64,
}

/// Told of progress.
pub type Watcher<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Store {
    /// With a key, every data key is wrapped by that one from now on, and by no other when this has ended: then the old
    /// one is not needed any more. Without, every account gets a new data key, every secret is encrypted anew, and the old
    /// data keys go. Others read and write meanwhile; a call that was interrupted is taken up by the next.
    ///
    /// # Errors
    /// `Sealed` when a key is missing or wrong, `Unavailable` when the database or a key cannot be reached.
    pub async fn rekey(&self, new: Option<Arc<dyn KeyEncryption>>, progress: Watcher<'_>) -> Result<()> {
        match new {
            Some(key) => self.change_key(key, progress).await,
            None => self.change_data_keys(progress).await,
        }
    }

    /// Puts a new key into the key file that we made, in front of the old one; [`Store::rekey`] with it then takes the old
    /// one out.
    ///
    /// # Errors
    /// `Invalid` when the key is not in a file of ours.
    pub async fn renew_key_file(&self) -> Result<Arc<dyn KeyEncryption>> {
        let file = self.inner.ring.file.as_ref().ok_or_else(|| {
            StoreError::Invalid(
                "the key is configured: put a new one into `store.key`, the old one into `store.old_keys`".into(),
            )
        })?;
        // One that was put there already, by a change that did not come to its end.
        let row = self.inner.database.first("SELECT current_key FROM store", values![]).await?;
        let current: Option<String> = row.map_or(Ok(None), |row| row.get(0))?;
        if let Some(newer) = file.read()?.unwrap_or_default().into_iter().next()
            && Some(newer.id()) != current.as_deref()
        {
            return Ok(Arc::new(newer));
        }
        let key: Arc<dyn KeyEncryption> = file.renew(&*self.inner.deps.random)?;
        Ok(key)
    }

    async fn change_key(&self, key: Arc<dyn KeyEncryption>, progress: Watcher<'_>) -> Result<()> {
        let sql = "SELECT probe FROM key_encryption_keys WHERE id = $1";
        let known = self.inner.database.first(sql, values![key.id()]).await?;
        let proof = match known {
            Some(row) => {
                let proof: Vec<u8> = row.get(0)?;
                prove(&*key, &proof).await?;
                proof
            }
            None => probe(&*key).await?,
        };
        self.inner.ring.add(Arc::clone(&key));
        let mut writing = self.write_untold().await?;
        let sql = "INSERT INTO key_encryption_keys (id, probe) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
        writing.transaction.run(sql, values![key.id(), proof]).await?;
        writing.transaction.run("UPDATE store SET current_key = $1", values![key.id()]).await?;
        writing.transaction.commit().await?;

        // From here on nobody wraps with another key.
        let sql = "SELECT COUNT(*) FROM data_keys WHERE key_encryption_key <> $1";
        let of = self.count(sql, values![key.id()]).await?;
        let mut done = 0;
        progress(Progress { done, of });
        loop {
            let sql = "SELECT account, generation, key_encryption_key, wrapped FROM data_keys \
                       WHERE key_encryption_key <> $1 ORDER BY account, generation LIMIT $2";
            let rows = self.inner.database.all(sql, values![key.id(), BATCH]).await?;
            if rows.is_empty() {
                break;
            }
            let mut wrapped = Vec::with_capacity(rows.len());
            for row in &rows {
                let (account, generation): (String, i64) = (row.get(0)?, row.get(1)?);
                let above = self.inner.ring.need(&row.get::<String>(2)?)?;
                let place = place_of_key(&account, generation);
                let plain = above.unwrap(&place, &row.get::<Vec<u8>>(3)?).await;
                let plain = plain.map_err(|error| wrong(&*above, &error))?;
                let again = key.wrap(&place, &plain).await.map_err(|error| wrong(&*key, &error))?;
                wrapped.push((account, generation, again));
            }
            let mut writing = self.write_untold().await?;
            for (account, generation, wrapped) in wrapped {
                let sql = "UPDATE data_keys SET key_encryption_key = $3, wrapped = $4 \
                           WHERE account = $1 AND generation = $2";
                writing.transaction.run(sql, values![account, generation, key.id(), wrapped]).await?;
                done += 1;
            }
            writing.transaction.commit().await?;
            progress(Progress { done, of: of.max(done) });
        }
        let mut writing = self.write_untold().await?;
        let sql = "DELETE FROM key_encryption_keys WHERE id <> $1 \
                   AND NOT EXISTS (SELECT 1 FROM data_keys d WHERE d.key_encryption_key = key_encryption_keys.id)";
        writing.transaction.run(sql, values![key.id()]).await?;
        writing.transaction.commit().await?;
        match &self.inner.ring.file {
            Some(file) => file.keep(key.id()),
            None => Ok(()),
        }
    }

    async fn change_data_keys(&self, progress: Watcher<'_>) -> Result<()> {
        let run = self.begin_run().await?;
        let of = self.count("SELECT COUNT(*) FROM secrets", values![]).await?;
        let mut done = 0;
        progress(Progress { done, of });
        let rows =
            self.inner.database.all("SELECT DISTINCT account FROM data_keys ORDER BY account", values![]).await?;
        let mut newest = BTreeMap::new();
        for row in rows {
            let account: String = row.get(0)?;
            let key = self.data_key_of_run(&account, run).await?;
            loop {
                let changed = self.seal_batch_anew(&account, &key).await?;
                done += changed;
                progress(Progress { done, of: of.max(done) });
                if changed == 0 {
                    break;
                }
            }
            newest.insert(account, key);
        }
        self.seal_journals_anew(&newest).await?;
        self.end_run(&newest).await
    }

    /// The revision at which the change of data keys began that is under way.
    async fn begin_run(&self) -> Result<i64> {
        let mut writing = self.write().await?;
        let sql = "UPDATE store SET rekey = COALESCE(rekey, revision) RETURNING rekey";
        let row = writing.transaction.first(sql, values![]).await?;
        let run = row.map_or(Ok(0), |row| row.get(0))?;
        self.finish(writing).await?;
        Ok(run)
    }

    /// The account's data key of this run, made if there is none yet.
    async fn data_key_of_run(&self, account: &str, run: i64) -> Result<DataKey> {
        loop {
            let sql = "SELECT generation, rekey FROM data_keys WHERE account = $1 ORDER BY generation DESC LIMIT 1";
            let row = self.inner.database.first(sql, values![account]).await?;
            let (generation, since) = match row {
                Some(row) => (row.get(0)?, row.get(1)?),
                None => (0, -1),
            };
            let key = if since >= run {
                self.data_key(account, generation).await?
            } else {
                self.add_data_key(account, generation + 1).await?
            };
            // Nothing: somebody else was faster, or the key-encryption key changed just now.
            if let Some(key) = key {
                return Ok(key);
            }
        }
    }

    /// Encrypts some secrets anew that are under an older data key; how many.
    async fn seal_batch_anew(&self, account: &str, key: &DataKey) -> Result<u64> {
        let sql = "SELECT id, version, field, generation, sealed FROM secrets \
                   WHERE account = $1 AND generation < $2 LIMIT $3";
        let rows = self.inner.database.all(sql, values![account, key.generation, BATCH]).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut writing = self.write_untold().await?;
        for row in &rows {
            let (id, version, field): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (generation, sealed): (i64, Vec<u8>) = (row.get(3)?, row.get(4)?);
            let damaged = || {
                StoreError::Sealed(format!(
                    "the secret {field} of version {version} of credential {id} in account {account} does not open: \
                     prune that version or restore a backup"
                ))
            };
            let old = self.data_key(account, generation).await?.ok_or_else(damaged)?;
            let place = |generation| place_of_secret(account, &id, version, &field, generation);
            let plain = open(&old.key, &place(generation), &sealed).ok_or_else(damaged)?;
            let again = seal(&key.key, &place(key.generation), plain.expose()).ok_or_else(no_randomness)?;
            let sql = "UPDATE secrets SET generation = $5, sealed = $6 \
                       WHERE account = $1 AND id = $2 AND version = $3 AND field = $4 AND generation < $5";
            let values = values![account, id.as_str(), version, field.as_str(), key.generation, again];
            writing.transaction.run(sql, values).await?;
        }
        writing.transaction.commit().await?;
        Ok(rows.len() as u64)
    }

    /// The same for journals. One that does not open by its name stays, and its data key with it.
    async fn seal_journals_anew(&self, newest: &BTreeMap<String, DataKey>) -> Result<()> {
        let sql = "SELECT name, sealed FROM journals WHERE sealed IS NOT NULL";
        for row in self.inner.database.all(sql, values![]).await? {
            let (name, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let Some((account, generation, _)) = header(&sealed) else { continue };
            let Some(key) = newest.get(account).filter(|key| key.generation > generation) else { continue };
            let plain = match self.open_sealed(account, name.as_bytes(), &sealed).await {
                Err(StoreError::Sealed(_)) => continue,
                plain => plain?,
            };
            let again = seal_under(account, key, name.as_bytes(), &plain)?;
            let mut transaction = self.inner.database.begin().await?;
            // Unless its holder wrote it meanwhile.
            let sql = "UPDATE journals SET sealed = $2 WHERE name = $1 AND sealed = $3";
            transaction.run(sql, values![name, again, sealed]).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Removes the data keys that nothing needs any more.
    async fn end_run(&self, newest: &BTreeMap<String, DataKey>) -> Result<()> {
        let mut writing = self.write_untold().await?;
        let mut needed = BTreeSet::new();
        let sql = "SELECT sealed FROM journals WHERE sealed IS NOT NULL";
        for row in writing.transaction.all(sql, values![]).await? {
            let sealed: Vec<u8> = row.get(0)?;
            needed.extend(header(&sealed).map(|(account, generation, _)| (account.to_owned(), generation)));
        }
        for (account, key) in newest {
            let sql = "SELECT generation FROM data_keys d WHERE account = $1 AND generation < $2 AND NOT EXISTS \
                       (SELECT 1 FROM secrets s WHERE s.account = d.account AND s.generation = d.generation)";
            for row in writing.transaction.all(sql, values![account.as_str(), key.generation]).await? {
                let generation: i64 = row.get(0)?;
                if !needed.contains(&(account.clone(), generation)) {
                    let sql = "DELETE FROM data_keys WHERE account = $1 AND generation = $2";
                    writing.transaction.run(sql, values![account.as_str(), generation]).await?;
                }
            }
        }
        writing.transaction.run("UPDATE store SET rekey = NULL", values![]).await?;
        writing.transaction.commit().await?;
        lock(&self.inner.data_keys).clear();
        Ok(())
    }
}
