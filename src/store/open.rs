//! Opening a store: connect, bring the tables up to date, and prove that the keys are the right ones.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::changes::Reach;
use super::connect::Address;
use super::database::{Database, values};
use super::envelope::place;
use super::keys::{KeyEncryption, KeyError, KeyFile, KeyMade, Keys};
use super::{Inner, Result, Store, StoreError, migrate};
use crate::base::{Deps, Secret};

/// What every key-encryption key has to give back to prove itself.
const PROBE: &[u8] = b"countersign";

/// Where a store is.
#[derive(Debug, Clone)]
pub struct Place {
    /// As `store.url` says.
    pub url: String,
    /// As `store.password` says.
    pub password: Option<Secret>,
    /// How often changes of other processes are looked for.
    pub poll: Duration,
}

/// The key-encryption keys at hand.
#[derive(Debug)]
pub(super) struct Ring {
    keys: RwLock<Vec<Arc<dyn KeyEncryption>>>,
    pub(super) file: Option<KeyFile>,
}

impl Ring {
    /// The key of that name.
    pub(super) fn find(&self, id: &str) -> Option<Arc<dyn KeyEncryption>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| key.id() == id).map(Arc::clone)
    }

    /// The key of that name, or a sentence about which one is missing.
    pub(super) fn need(&self, id: &str) -> Result<Arc<dyn KeyEncryption>> {
        if let (None, Some(file)) = (self.find(id), &self.file) {
            // Another process may have put a new key there.
            file.read()?.into_iter().flatten().for_each(|key| self.add(Arc::new(key)));
        }
        self.find(id).ok_or_else(|| {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let held: Vec<&str> = keys.iter().map(|key| key.id()).collect();
            let held = held.join(", ");
            StoreError::Sealed(match &self.file {
                Some(file) => format!(
                    "the store is encrypted with the key {id}, and the key file {} holds {held}: restore the file that \
                     belongs to this store",
                    file.path().display()
                ),
                None => format!(
                    "the store is encrypted with the key {id}, and this process has {held}: configure that key too, as \
                     `store.key` or in `store.old_keys`"
                ),
            })
        })
    }

    pub(super) fn add(&self, key: Arc<dyn KeyEncryption>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if !keys.iter().any(|other| other.id() == key.id()) {
            keys.insert(0, key);
        }
    }

    fn first(&self) -> Option<Arc<dyn KeyEncryption>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).first().map(Arc::clone)
    }
}

impl Store {
    /// Opens a store, and makes it where there is none. When a key had to be made for it, the answer says where it lies.
    ///
    /// # Errors
    /// `Unavailable` when the database or the key cannot be reached now; everything else stays until somebody changes
    /// something: another key is needed (`Sealed`), or another address, file or program (`Invalid`).
    pub async fn open(at: &Place, keys: Keys, deps: &Deps) -> Result<(Self, Option<KeyMade>)> {
        let address: Address = at.url.parse().map_err(|why| StoreError::Invalid(format!("`store.url`: {why}")))?;
        let database = address.connect(at.password.as_ref()).await?;
        migrate::migrate(&database).await?;
        let (ring, made) = ring(&database, keys, deps).await?;
        let inner = Inner {
            address: address.shown(),
            ring,
            data_keys: Mutex::default(),
            revision: watch::Sender::new(revision(&database).await?),
            reach: Mutex::new(Reach { last: deps.clock.instant(), failing: None }),
            look: tokio::sync::Notify::new(),
            watch: Mutex::default(),
            deps: deps.clone(),
            database,
        };
        let store = Self { inner: Arc::new(inner) };
        store.begin_watching(at.poll);
        Ok((store, made))
    }

    /// Ends every connection. Whatever is asked afterwards is `Unavailable`.
    pub async fn close(&self) {
        self.inner.database.close().await;
    }

    /// Where it is, without user and password.
    pub fn address(&self) -> &str {
        &self.inner.address
    }
}

/// The number of changes so far.
pub(super) async fn revision(database: &Database) -> Result<i64> {
    let row = database.first("SELECT revision FROM store", values![]).await?;
    row.map_or(Ok(0), |row| row.get(0))
}

async fn current(database: &Database) -> Result<Option<String>> {
    let row = database.first("SELECT current_key FROM store", values![]).await?;
    row.map_or(Ok(None), |row| row.get(0))
}

/// The keys, each of which the store needs and none wrong.
async fn ring(database: &Database, keys: Keys, deps: &Deps) -> Result<(Ring, Option<KeyMade>)> {
    let (ring, made) = match keys {
        Keys::Given(keys) => (Ring { keys: RwLock::new(keys), file: None }, false),
        Keys::File(path) => from_file(database, path, deps).await?,
    };
    let first = ring.first().ok_or_else(|| StoreError::Invalid("a store needs a key".into()))?;
    if current(database).await?.is_none() {
        let won = introduce(database, &*first).await?;
        // Another process may have read the file that we made, and have been quicker with the same key.
        let mine = won || current(database).await?.as_deref() == Some(first.id());
        if let Some(file) = ring.file.as_ref().filter(|_| made && !mine) {
            file.discard();
        }
    }
    for row in database.all("SELECT id, probe FROM key_encryption_keys", values![]).await? {
        let (id, probe): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        prove(&*ring.need(&id)?, &probe).await?;
    }
    let made = ring.file.as_ref().filter(|_| made).map(|file| KeyMade(file.path().to_owned()));
    Ok((ring, made))
}

/// The keys of our own file, and whether it was made just now.
async fn from_file(database: &Database, path: PathBuf, deps: &Deps) -> Result<(Ring, bool)> {
    let file = KeyFile::at(&path);
    let mut made = false;
    let keys = match file.read()? {
        Some(keys) => keys,
        None => {
            let encrypted = current(database).await?;
            // Whoever made it a moment ago made the file first.
            if let (Some(_), Some(keys)) = (&encrypted, file.read()?) {
                let keys = keys.into_iter().map(|key| Arc::new(key) as Arc<dyn KeyEncryption>).collect();
                return Ok((Ring { keys: RwLock::new(keys), file: Some(file) }, false));
            }
            if let Some(id) = encrypted {
                return Err(StoreError::Sealed(format!(
                    "the key file {} is missing: the store is encrypted with the key {id} that was in it, and nothing else \
                     opens it. Restore the file from a copy, or copy it from the host that made it; a new one would not help",
                    path.display()
                )));
            }
            made = file.make(&*deps.random)?;
            file.read()?.ok_or_else(|| StoreError::Unavailable(format!("the key file {} is gone", path.display())))?
        }
    };
    let keys = keys.into_iter().map(|key| Arc::new(key) as Arc<dyn KeyEncryption>).collect();
    Ok((Ring { keys: RwLock::new(keys), file: Some(file) }, made))
}

/// Makes a key that of a new store; false when somebody else was faster.
async fn introduce(database: &Database, key: &dyn KeyEncryption) -> Result<bool> {
    let probe = probe(key).await?;
    let mut transaction = database.begin().await?;
    let sql = "UPDATE store SET current_key = $1 WHERE current_key IS NULL";
    if transaction.run(sql, values![key.id()]).await? == 0 {
        return Ok(false);
    }
    let sql = "INSERT INTO key_encryption_keys (id, probe) VALUES ($1, $2)";
    transaction.run(sql, values![key.id(), probe]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// What the key proves itself with later.
pub(super) async fn probe(key: &dyn KeyEncryption) -> Result<Vec<u8>> {
    let wrapped = key.wrap(&place("probe", &[key.id().as_bytes()]), &Secret::new(PROBE)).await;
    wrapped.map_err(|error| wrong(key, &error))
}

pub(super) async fn prove(key: &dyn KeyEncryption, probe: &[u8]) -> Result<()> {
    match key.unwrap(&place("probe", &[key.id().as_bytes()]), probe).await {
        Ok(plain) if plain.expose() == PROBE => Ok(()),
        Ok(_) => Err(wrong(key, &KeyError::Wrong)),
        Err(error) => Err(wrong(key, &error)),
    }
}

/// A key's failure, as the store's.
pub(super) fn wrong(key: &dyn KeyEncryption, error: &KeyError) -> StoreError {
    let id = key.id();
    match error {
        KeyError::Wrong => StoreError::Sealed(format!(
            "the key {id} does not open what is stored under its name: it was made anew, or the store was copied from \
             elsewhere; give the key that the store was written with"
        )),
        KeyError::Unavailable(why) => StoreError::Unavailable(format!("the key {id}: {why}")),
    }
}
