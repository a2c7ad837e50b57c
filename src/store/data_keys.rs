//! The data keys of accounts: made when first needed, wrapped by the key-encryption key, kept in memory once opened.

use std::collections::{BTreeMap, HashMap};

use super::changes::Writing;
use super::database::values;
use super::envelope::{open, place, seal};
use super::keys::fresh;
use super::open::wrong;
use super::{Result, Store, StoreError, lock};
use crate::base::Secret;

/// Attempts to encrypt under the newest data key while somebody changes it.
const ATTEMPTS: usize = 10;

/// Data keys in memory, by account and generation.
pub(super) type Opened = HashMap<String, BTreeMap<i64, Secret>>;

/// A data key. An account has several only while its key is being changed.
#[derive(Debug, Clone)]
pub(super) struct DataKey {
    pub(super) generation: i64,
    pub(super) key: Secret,
}

/// Where a data key belongs.
pub(super) fn place_of_key(account: &str, generation: i64) -> Vec<u8> {
    place("data key", &[account.as_bytes(), &generation.to_be_bytes()])
}

pub(super) fn no_randomness() -> StoreError {
    StoreError::Unavailable("the system gives no randomness".into())
}

impl Store {
    /// A certain data key; nothing if there is none.
    pub(super) async fn data_key(&self, account: &str, generation: i64) -> Result<Option<DataKey>> {
        let opened = lock(&self.inner.data_keys).get(account).and_then(|keys| keys.get(&generation).cloned());
        if let Some(key) = opened {
            return Ok(Some(DataKey { generation, key }));
        }
        let sql = "SELECT key_encryption_key, wrapped FROM data_keys WHERE account = $1 AND generation = $2";
        let Some(row) = self.inner.database.first(sql, values![account, generation]).await? else { return Ok(None) };
        let (id, wrapped): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let above = self.inner.ring.need(&id)?;
        let key = above.unwrap(&place_of_key(account, generation), &wrapped).await;
        let key = DataKey { generation, key: key.map_err(|error| wrong(&*above, &error))? };
        self.opened(account, &key);
        Ok(Some(key))
    }

    /// The data key that is encrypted with now; made if there is none.
    pub(super) async fn newest_data_key(&self, account: &str) -> Result<DataKey> {
        for _ in 0..ATTEMPTS {
            let sql = "SELECT MAX(generation) FROM data_keys WHERE account = $1";
            let row = self.inner.database.first(sql, values![account]).await?;
            let generation: Option<i64> = row.map_or(Ok(None), |row| row.get(0))?;
            let key = match generation {
                Some(generation) => self.data_key(account, generation).await?,
                None => self.add_data_key(account, 1).await?,
            };
            if let Some(key) = key {
                return Ok(key);
            }
        }
        Err(busy())
    }

    /// Makes a data key; nothing when somebody else made it, or the key-encryption key changed meanwhile.
    pub(super) async fn add_data_key(&self, account: &str, generation: i64) -> Result<Option<DataKey>> {
        let row = self.inner.database.first("SELECT current_key FROM store", values![]).await?;
        let id: Option<String> = row.map_or(Ok(None), |row| row.get(0))?;
        let above = self.inner.ring.need(&id.unwrap_or_default())?;
        let key = DataKey { generation, key: fresh(&*self.inner.deps.random)? };
        let wrapped = above.wrap(&place_of_key(account, generation), &key.key).await;
        let wrapped = wrapped.map_err(|error| wrong(&*above, &error))?;
        let mut writing = self.write_untold().await?;
        let sql = "INSERT INTO data_keys (account, generation, key_encryption_key, wrapped, rekey) \
                   SELECT $1, $2, $3, $4, revision FROM store WHERE current_key = $3 \
                   ON CONFLICT (account, generation) DO NOTHING";
        let values = values![account, generation, above.id(), wrapped];
        if writing.transaction.run(sql, values).await? == 0 {
            return Ok(None);
        }
        writing.transaction.commit().await?;
        self.opened(account, &key);
        Ok(Some(key))
    }

    fn opened(&self, account: &str, key: &DataKey) {
        lock(&self.inner.data_keys).entry(account.to_owned()).or_default().insert(key.generation, key.key.clone());
    }

    /// Begins a change that encrypts, with the key that is the newest until the change ends.
    pub(super) async fn write_sealed(&self, account: &str) -> Result<(Writing, DataKey)> {
        super::named("an account's name", account)?;
        for _ in 0..ATTEMPTS {
            let key = self.newest_data_key(account).await?;
            let mut writing = self.write().await?;
            let sql = "SELECT MAX(generation) FROM data_keys WHERE account = $1";
            let newest = writing.transaction.first(sql, values![account]).await?;
            if newest.map_or(Ok(None), |row| row.get::<Option<i64>>(0))? == Some(key.generation) {
                return Ok((writing, key));
            }
        }
        Err(busy())
    }

    /// Encrypts what rests elsewhere (shared tokens, journals) under the account's data key. `aad` is the place that it
    /// opens in again.
    ///
    /// # Errors
    /// When the data key cannot be had.
    pub async fn seal(&self, account: &str, aad: &[u8], plain: &Secret) -> Result<Vec<u8>> {
        super::named("an account's name", account)?;
        let key = match self.newest_data_key(account).await {
            // What a key that is known already seals stays readable for as long as it matters.
            Err(StoreError::Unavailable(why)) => {
                let opened = lock(&self.inner.data_keys);
                let last = opened.get(account).and_then(BTreeMap::last_key_value);
                let (generation, key) = last.ok_or(StoreError::Unavailable(why))?;
                DataKey { generation: *generation, key: key.clone() }
            }
            key => key?,
        };
        seal_under(account, &key, aad, plain)
    }

    /// Decrypts what [`Store::seal`] gave, for the same account and place.
    ///
    /// # Errors
    /// `Sealed` when it was sealed for another place or account, or under a data key that is gone.
    pub async fn open_sealed(&self, account: &str, aad: &[u8], sealed: &[u8]) -> Result<Secret> {
        let moved =
            || StoreError::Sealed(format!("what was sealed for account {account} was moved here from elsewhere"));
        let (owner, generation, text) = header(sealed).ok_or_else(moved)?;
        if owner != account {
            return Err(moved());
        }
        let key = self.data_key(account, generation).await?;
        let key = key.ok_or_else(|| {
            StoreError::Sealed(format!("what was sealed for account {account} is older than its data key"))
        })?;
        open(&key.key, &place_of_sealed(account, generation, aad), text).ok_or_else(moved)
    }
}

fn busy() -> StoreError {
    StoreError::Unavailable("the data key of the account changes all the time".into())
}

fn place_of_sealed(account: &str, generation: i64, aad: &[u8]) -> Vec<u8> {
    place("sealed", &[account.as_bytes(), &generation.to_be_bytes(), aad])
}

/// Generation and account in front, so that a change of data keys finds what it has to encrypt anew.
pub(super) fn seal_under(account: &str, key: &DataKey, aad: &[u8], plain: &Secret) -> Result<Vec<u8>> {
    let place = place_of_sealed(account, key.generation, aad);
    let text = seal(&key.key, &place, plain.expose()).ok_or_else(no_randomness)?;
    let length = u16::try_from(account.len()).unwrap_or(u16::MAX);
    let mut sealed = Vec::with_capacity(10 + account.len() + text.len());
    sealed.extend(key.generation.to_be_bytes());
    sealed.extend(length.to_be_bytes());
    sealed.extend(account.as_bytes());
    sealed.extend(text);
    Ok(sealed)
}

/// The account, the generation and the rest.
pub(super) fn header(sealed: &[u8]) -> Option<(&str, i64, &[u8])> {
    let (generation, rest) = sealed.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (account, text) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((std::str::from_utf8(account).ok()?, i64::from_be_bytes(*generation), text))
}
