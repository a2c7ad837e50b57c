//! The stores of one configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::{Cache, Store};
use super::content::Reading;
use super::line::Line;
use super::settings::{StoreError, StoreSettings, at};
use super::{SecretStores, no_store};
use crate::base::{BoxFuture, Deps, HttpClients, RequestSigner, StoreRef, Unavailable};

/// The secret stores of one configuration, by their names.
#[derive(Debug, Default)]
pub struct Stores {
    stores: BTreeMap<String, Arc<Store>>,
}

impl Stores {
    /// Stores that are reached over `http` with what `signer` signs. What a store of the same settings gave before is kept.
    ///
    /// # Errors
    /// The name of a store that cannot be called at all, and why.
    pub fn new(
        settings: &[Arc<StoreSettings>],
        previous: Option<&Self>,
        http: &dyn HttpClients,
        signer: &Arc<dyn RequestSigner>,
        deps: &Deps,
    ) -> Result<Self, (String, String)> {
        let mut stores = BTreeMap::new();
        for settings in settings {
            let name = settings.name.clone();
            let http = http.client(settings.endpoint(), &settings.client_options());
            let line = Line {
                http: http.map_err(|why| (name.clone(), why))?,
                signer: Arc::clone(signer),
                credential: settings.credential.clone(),
                clock: Arc::clone(&deps.clock),
            };
            let before = previous.and_then(|previous| previous.stores.get(&name));
            let cache = match before.filter(|before| before.settings.is_same(settings)) {
                Some(before) => Arc::clone(&before.cache),
                None => Arc::new(Cache::default()),
            };
            let (settings, random) = (Arc::clone(settings), Arc::clone(&deps.random));
            stores.insert(name, Arc::new(Store { settings, line, random, cache }));
        }
        Ok(Self { stores })
    }

    /// Whether credentials of this account, which others than the operator write, may use secrets of a store.
    pub fn is_open_to(&self, store: &str, account: &str) -> bool {
        self.stores.get(store).is_some_and(|store| store.settings.is_open_to(account))
    }

    /// Judges a reference before it is stored.
    ///
    /// # Errors
    /// At `store`, `name`, `version` or `field`: what to write instead.
    pub fn check(&self, reference: &StoreRef) -> Result<(), StoreError> {
        let store = self.stores.get(&reference.store);
        store.ok_or_else(|| at("store", no_store(&reference.store).0))?.settings.check(reference)
    }

    /// The stores that cannot be used at present, with the reason.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let trouble = |(name, store): (&String, &Arc<Store>)| Some((name.clone(), store.cache.trouble()?));
        self.stores.iter().filter_map(trouble).collect()
    }

    /// Gives back what was made for us; the process is about to end.
    pub async fn revoke(&self) {
        for store in self.stores.values() {
            store.revoke().await;
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Store>> {
        self.stores.get(name)
    }
}

impl SecretStores for Stores {
    fn read<'a>(&'a self, reference: &'a StoreRef) -> BoxFuture<'a, Result<Reading, Unavailable>> {
        Box::pin(async move {
            let store = self.stores.get(&reference.store).ok_or_else(|| no_store(&reference.store))?;
            if let Err(wrong) = store.settings.check(reference) {
                return Err(Unavailable(format!("{reference}: {}: {}", wrong.path, wrong.message)));
            }
            store.read(reference).await
        })
    }
}
