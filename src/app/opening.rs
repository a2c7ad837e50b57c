//! From the configuration to an open store and the API over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::file::FilePart;
use crate::api::Access;
use crate::base::{BoxFuture, Deps, HttpClients, Public, Secret, Secrets};
use crate::config::Config;
use crate::source::{Stores, TransitClient};
use crate::store::{
    HeldKey, KeyEncryption, KeyError, KeySettings, Keys, Place, Settings, Store, StoreError, Transit, TransitKey,
    TransitSettings,
};

/// A store that the configuration asks for.
#[derive(Debug, Clone)]
pub(super) struct StoreWanted {
    /// Its own settings.
    pub(super) settings: Settings,
    /// The API over it.
    pub(super) admin: Option<crate::api::Settings>,
}

impl StoreWanted {
    /// One is asked for by `store`, or by an admin listener that manages. A private listener makes none of its own.
    pub(super) fn of(config: &Config, private: bool) -> Option<Self> {
        let managed = config.admin.as_ref().filter(|admin| admin.api);
        // A private listener and a look at the configuration use the store that there is, and make none.
        if private && config.store.is_none() && !Settings::default().exists() {
            return None;
        }
        let settings = match (&config.store, managed) {
            (Some(settings), _) => settings.clone(),
            (None, Some(_)) => Settings::default(),
            (None, None) => return None,
        };
        Some(Self { settings, admin: managed.filter(|_| !private).cloned() })
    }

    /// Opens it.
    ///
    /// # Errors
    /// See [`open`].
    pub(super) async fn open(
        &self,
        file: &FilePart,
        stores: &Arc<ArcSwap<Stores>>,
        deps: &Deps,
    ) -> Result<Store, StoreError> {
        open(&self.settings, file, stores, deps).await
    }

    /// The key that is configured for it.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) async fn key(
        &self,
        file: &FilePart,
        stores: &Arc<ArcSwap<Stores>>,
    ) -> Result<Option<Arc<dyn KeyEncryption>>, StoreError> {
        let secrets = file.sources.load_all(self.settings.references()).await;
        let keys = keys(&self.settings, &secrets, stores)?;
        Ok(keys.into_iter().next().filter(|_| self.settings.key.is_some()))
    }

    /// Who may use the API.
    pub(super) async fn access(&self, file: &FilePart, deps: &Deps) -> Option<Access> {
        let admin = self.admin.as_ref()?;
        let secrets = file.sources.load_all(admin.references()).await;
        let clients: Arc<dyn HttpClients> = Arc::clone(&file.upstream) as Arc<dyn HttpClients>;
        Some(Access::new(admin, &secrets, &clients, deps))
    }

    /// Makes the first admin token where nobody could come in: beside the database, where it is a file.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) async fn first_token(
        &self,
        store: &Store,
        access: &Access,
        deps: &Deps,
    ) -> Result<Option<PathBuf>, String> {
        let url = match &self.settings.url {
            Public::Literal(url) => url.as_str(),
            Public::Reference(_) => "",
        };
        let key = Settings::key_file(url);
        let folder = key.parent().unwrap_or(Path::new("state"));
        crate::api::first_token(store, access, folder, deps).await
    }
}

/// A transit engine, as the store sees it.
#[derive(Debug)]
struct Engine(TransitClient);

impl Transit for Engine {
    fn encrypt<'a>(&'a self, plain: &'a Secret) -> BoxFuture<'a, Result<String, KeyError>> {
        Box::pin(async { self.0.encrypt(plain).await.map_err(|error| KeyError::Unavailable(error.0)) })
    }

    fn decrypt<'a>(&'a self, sealed: &'a str) -> BoxFuture<'a, Result<Secret, KeyError>> {
        Box::pin(async { self.0.decrypt(sealed).await.map_err(|error| KeyError::Unavailable(error.0)) })
    }
}

/// Opens the store.
///
/// # Errors
/// `Unavailable` when its database or its key cannot be reached now; anything else stays until somebody changes something.
pub(super) async fn open(
    settings: &Settings,
    file: &FilePart,
    stores: &Arc<ArcSwap<Stores>>,
    deps: &Deps,
) -> Result<Store, StoreError> {
    let secrets = file.sources.load_all(settings.references()).await;
    let unavailable = |error: crate::base::Unavailable| StoreError::Unavailable(error.0);
    let url = match &settings.url {
        Public::Literal(url) => url.clone(),
        reference @ Public::Reference(_) => secrets.public(reference).map_err(unavailable)?,
    };
    let password = settings.password.as_ref().map(|password| secrets.field(password)).transpose();
    let password = password.map_err(unavailable)?;
    let given = keys(settings, &secrets, stores)?;
    let keys = match settings.key {
        Some(_) => Keys::Given(given),
        None => Keys::File(Settings::key_file(&url)),
    };
    let (store, made) = Store::open(&Place { url, password, poll: settings.poll }, keys, deps).await?;
    if let Some(made) = made {
        tracing::warn!(
            file = %made.0.display(),
            "a key for the store was made; keep a copy of it where the store's backups are not"
        );
    }
    Ok(store)
}

/// The keys that are configured, the present one first.
fn keys(
    settings: &Settings,
    secrets: &Secrets,
    stores: &Arc<ArcSwap<Stores>>,
) -> Result<Vec<Arc<dyn KeyEncryption>>, StoreError> {
    let key = |key: &KeySettings| -> Result<Arc<dyn KeyEncryption>, StoreError> {
        Ok(match key {
            KeySettings::Held(field) => {
                let text = secrets.field(field).map_err(|error| StoreError::Unavailable(error.0))?;
                Arc::new(HeldKey::new(&text)?)
            }
            KeySettings::Transit { transit: TransitSettings { store, key, mount } } => {
                let client = TransitClient::new(Arc::clone(stores), store, mount, key);
                Arc::new(TransitKey::new(store, mount, key, Arc::new(Engine(client))))
            }
        })
    };
    settings.keys().map(key).collect()
}
