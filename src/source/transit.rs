//! A key of Vault's transit engine, which encrypts and decrypts for us and never leaves Vault.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::line::Trouble;
use super::no_store;
use super::stores::Stores;
use crate::base::{Secret, Unavailable};

/// Encrypts and decrypts with one key of a store of kind `vault`.
#[derive(Debug, Clone)]
pub struct TransitClient {
    /// Those of the configuration in use.
    stores: Arc<ArcSwap<Stores>>,
    store: String,
    mount: String,
    key: String,
}

impl TransitClient {
    /// The key of that name, in the engine at `mount`, of a store of kind `vault`. `stores` are looked at anew for every
    /// call, so that a reload is followed.
    pub fn new(stores: Arc<ArcSwap<Stores>>, store: &str, mount: &str, key: &str) -> Self {
        Self { stores, store: store.to_owned(), mount: mount.to_owned(), key: key.to_owned() }
    }

    /// What Vault gives for some bytes, such as `vault:v1:…`: it names the version of the key and can be stored anywhere.
    ///
    /// # Errors
    /// When Vault does not answer or refuses.
    pub async fn encrypt(&self, plain: &Secret) -> Result<String, Unavailable> {
        let stores = self.stores.load_full();
        let store = stores.get(&self.store).ok_or_else(|| no_store(&self.store))?;
        let vault = store.settings.backend.vault().ok_or_else(|| self.is_none())?;
        vault.encrypt(&store.line, &self.mount, &self.key, plain).await.map_err(|why| self.failed(why))
    }

    /// The bytes behind what [`TransitClient::encrypt`] gave.
    ///
    /// # Errors
    /// When Vault does not answer or refuses, or the text is none of this key's.
    pub async fn decrypt(&self, sealed: &str) -> Result<Secret, Unavailable> {
        let stores = self.stores.load_full();
        let store = stores.get(&self.store).ok_or_else(|| no_store(&self.store))?;
        let vault = store.settings.backend.vault().ok_or_else(|| self.is_none())?;
        vault.decrypt(&store.line, &self.mount, &self.key, sealed).await.map_err(|why| self.failed(why))
    }

    fn is_none(&self) -> Unavailable {
        Unavailable(format!("store {} is not of kind vault, so it has no transit engine", self.store))
    }

    fn failed(&self, why: Trouble) -> Unavailable {
        Unavailable(format!("transit key {} of store {}: {}", self.key, self.store, why.detail))
    }
}
