//! What the token engine has of the store: the accounts' keys for tokens that processes share, and the journals of refresh
//! tokens that are replaced at every use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::task::AbortHandle;

use super::data_keys::seal_under;
use super::{Store, StoreError, lock};
use crate::base::failpoint::reached;
use crate::base::text::hex;
use crate::base::{BoxFuture, Random, Secret};
use crate::token::{FleetKey, Journal, JournalError, Journals, Record, Sealer, SealerError};

/// A lease of a journal: whoever does not come back within this time was killed.
const LEASE: Duration = Duration::from_secs(5);

/// The lease is held longer this often.
const HOLD: Duration = Duration::from_millis(1500);

/// For this long the database is asked whether a data key is still the newest; then the newest that is known is good enough.
const NEWEST: Duration = Duration::from_millis(300);

/// For this long it is tried to write what an exchange brought, when the database cannot be reached just then.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);

/// The store of this process, once it is open. Until then nothing is sealed and no refresh token spent.
#[derive(Debug, Clone)]
pub struct TokenStore {
    store: Arc<ArcSwapOption<Store>>,
    random: Arc<dyn Random>,
}

impl TokenStore {
    /// Not open yet.
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self { store: Arc::default(), random }
    }

    /// From now on this is the store.
    pub fn opened(&self, store: Store) {
        self.store.store(Some(Arc::new(store)));
    }

    fn store(&self) -> Result<Arc<Store>, String> {
        self.store.load_full().ok_or_else(|| "the encrypted store is not open yet".to_owned())
    }
}

fn sealer_error(error: &StoreError) -> SealerError {
    match error {
        StoreError::Sealed(_) => SealerError::Wrong,
        other => SealerError::Unavailable(other.to_string()),
    }
}

impl Sealer for TokenStore {
    fn seal<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        plain: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, SealerError>> {
        Box::pin(async move {
            let store = self.store().map_err(SealerError::Unavailable)?;
            let sealed = tokio::time::timeout(NEWEST, store.seal(account, aad, plain)).await;
            sealed.unwrap_or_else(|_| store.seal_quickly(account, aad, plain)).map_err(|error| sealer_error(&error))
        })
    }

    fn open<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, SealerError>> {
        Box::pin(async move {
            let store = self.store().map_err(SealerError::Unavailable)?;
            store.open_sealed(account, aad, sealed).await.map_err(|error| sealer_error(&error))
        })
    }

    fn name<'a>(&'a self, account: &'a str, of: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SealerError>> {
        Box::pin(async move {
            let store = self.store().map_err(SealerError::Unavailable)?;
            let key = match store.known_data_key(account) {
                Some(key) => key,
                None => store.newest_data_key(account).await.map_err(|error| sealer_error(&error))?,
            };
            // A key for names comes of it, so that no key does two things.
            FleetKey::new(&key.key).name(account, of).await
        })
    }
}

impl Store {
    /// The newest data key that is in memory.
    fn known_data_key(&self, account: &str) -> Option<super::data_keys::DataKey> {
        let opened = lock(&self.inner.data_keys);
        let (generation, key) = opened.get(account).and_then(BTreeMap::last_key_value)?;
        Some(super::data_keys::DataKey { generation: *generation, key: key.clone() })
    }

    /// As [`Store::seal`], without asking the database.
    fn seal_quickly(&self, account: &str, aad: &[u8], plain: &Secret) -> Result<Vec<u8>, StoreError> {
        let key = self.known_data_key(account);
        let key = key.ok_or_else(|| StoreError::Unavailable("the data key does not come in time".into()))?;
        seal_under(account, &key, aad, plain)
    }
}

impl Journals for TokenStore {
    fn lock<'a>(
        &'a self,
        account: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Journal>>, JournalError>> {
        Box::pin(async move {
            let store = self.store().map_err(JournalError::Unavailable)?;
            let mut holder = [0; 16];
            if !self.random.fill(&mut holder) {
                return Err(JournalError::Unavailable("the system gives no randomness".into()));
            }
            let locked = store.journal_lock(name, &hex(&holder), LEASE).await;
            let Some((fence, sealed)) = locked.map_err(|error| JournalError::Unavailable(error.to_string()))? else {
                return Ok(None);
            };
            let lease = Lease { store: Store::clone(&store), name: name.to_owned(), fence };
            let holding = tokio::spawn(lease.clone().hold()).abort_handle();
            let journal = StoreJournal { lease: Some(lease), account: account.to_owned(), sealed, holding };
            Ok(Some(Box::new(journal) as Box<dyn Journal>))
        })
    }
}

/// A journal that is ours for a while.
#[derive(Debug, Clone)]
struct Lease {
    store: Store,
    name: String,
    fence: i64,
}

impl Lease {
    /// Holds it until it is told not to, or until somebody else has it.
    async fn hold(self) {
        loop {
            tokio::time::sleep(HOLD).await;
            if let Err(StoreError::Changed(_)) = self.store.journal_hold(&self.name, self.fence, LEASE).await {
                return;
            }
        }
    }

    async fn release(self) {
        // What is not given back ends by itself.
        let _ = self.store.journal_release(&self.name, self.fence).await;
    }
}

/// A journal in the database.
#[derive(Debug)]
struct StoreJournal {
    lease: Option<Lease>,
    account: String,
    sealed: Option<Vec<u8>>,
    holding: AbortHandle,
}

impl StoreJournal {
    async fn write_once(&self, lease: &Lease, plain: &Secret) -> Result<(), StoreError> {
        let sealed = lease.store.seal(&self.account, lease.name.as_bytes(), plain).await?;
        lease.store.journal_write(&lease.name, lease.fence, &sealed).await
    }
}

impl Journal for StoreJournal {
    fn read(&mut self) -> BoxFuture<'_, Result<Option<Record>, JournalError>> {
        Box::pin(async move {
            let (Some(sealed), Some(lease)) = (&self.sealed, &self.lease) else { return Ok(None) };
            let plain = lease.store.open_sealed(&self.account, lease.name.as_bytes(), sealed).await;
            let wrong = |why: String| JournalError::Wrong(format!("{why}; authorize again and set the new token"));
            let plain = plain.map_err(|error| match error {
                StoreError::Sealed(_) => wrong(error.to_string()),
                other => JournalError::Unavailable(other.to_string()),
            })?;
            Record::from_secret(&plain).map(Some).ok_or_else(|| wrong("its journal is damaged".into()))
        })
    }

    fn write<'a>(&'a mut self, record: &'a Record) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let lease = self.lease.as_ref().ok_or("the lease was given back")?;
            let plain = record.to_secret()?;
            if record.is_announcement() {
                reached("announcement-written");
                return self.write_once(lease, &plain).await.map_err(|error| error.to_string());
            }
            let written = tokio::time::timeout(PATIENCE, async {
                while let Err(error) = self.write_once(lease, &plain).await {
                    match error {
                        StoreError::Unavailable(_) => tokio::time::sleep(AGAIN).await,
                        other => return Err(other.to_string()),
                    }
                }
                Ok(())
            });
            written.await.unwrap_or_else(|_| Err("the database cannot be reached".into()))?;
            reached("successor-written");
            Ok(())
        })
    }

    fn release(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        self.holding.abort();
        let lease = self.lease.take();
        Box::pin(async move {
            if let Some(lease) = lease {
                lease.release().await;
            }
        })
    }
}

impl Drop for StoreJournal {
    fn drop(&mut self) {
        self.holding.abort();
        if let (Some(lease), Ok(runtime)) = (self.lease.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(lease.release());
        }
    }
}
