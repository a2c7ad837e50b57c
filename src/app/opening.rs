//! From the configuration to an open store and the API over it.

use std::sync::Arc;

use super::engine::Running;
use super::file::FilePart;
use super::management::{ApiSlot, MakeApi, Management, Open};
use super::routes::Routes;
use super::serve::StartError;
use crate::base::{BoxFuture, Deps, Public, SecretField, SecretRef, Secrets};
use crate::config::Config;
use crate::store::{HeldKey, KeyEncryption, KeySettings, Keys, Place, Settings, Store, StoreError};

/// A store that the configuration asks for.
#[derive(Debug, Clone)]
pub(super) struct StoreWanted {
    /// Its own settings.
    pub(super) settings: Settings,
    admin: Option<crate::api::Settings>,
}

impl StoreWanted {
    /// One is asked for by `store`, or by an admin listener that manages. A private listener makes none of its own.
    pub(super) fn of(config: &Config, private: bool) -> Option<Self> {
        let managed = config.admin.as_ref().filter(|admin| admin.management && !private);
        let settings = match (&config.store, managed) {
            (Some(settings), _) => settings.clone(),
            (None, Some(_)) => Settings::default(),
            (None, None) => return None,
        };
        Some(Self { settings, admin: managed.map(|admin| admin.api.clone()) })
    }

    /// Opens it, or begins to try.
    ///
    /// # Errors
    /// When trying again would change nothing.
    pub(super) async fn start(
        &self,
        routes: &Arc<Routes>,
        deps: &Deps,
        api: ApiSlot,
    ) -> Result<Management, StartError> {
        let (settings, own, with) = (self.settings.clone(), deps.clone(), Arc::clone(routes));
        let open: Open = Arc::new(move || {
            let (settings, deps, file) = (settings.clone(), own.clone(), with.file());
            Box::pin(async move { open(&settings, &file, &deps).await })
        });
        let management =
            Management::start(routes, deps, self.settings.clone(), open, self.api(routes, deps), api).await;
        management.map_err(|error| StartError::Other(error.to_string()))
    }

    /// Makes the API over it.
    pub(super) fn api(&self, routes: &Arc<Routes>, deps: &Deps) -> MakeApi {
        let (routes, deps, admin) = (Arc::clone(routes), deps.clone(), self.admin.clone());
        Arc::new(move |store| {
            let engine = Arc::new(Running { routes: Arc::clone(&routes) });
            crate::api::router(store, engine, deps.clone(), admin.clone())
        })
    }
}

/// Opens the store.
///
/// # Errors
/// `Unavailable` when its database or its key cannot be reached now; anything else stays until somebody changes something.
pub(super) async fn open(settings: &Settings, file: &FilePart, deps: &Deps) -> Result<Store, StoreError> {
    let secrets = file.sources.load_all(settings.references()).await;
    let unavailable = |error: crate::base::Unavailable| StoreError::Unavailable(error.0);
    let url = match &settings.url {
        Public::Literal(url) => url.clone(),
        reference @ Public::Reference(_) => secrets.public(reference).map_err(unavailable)?,
    };
    let password = settings.password.as_ref().map(|password| secrets.field(password)).transpose();
    let password = password.map_err(unavailable)?;
    let mut given: Vec<Arc<dyn KeyEncryption>> = Vec::new();
    for key in settings.keys() {
        given.push(match key {
            KeySettings::Held(field) => Arc::new(HeldKey::new(&secrets.field(field).map_err(unavailable)?)?),
            KeySettings::Transit { transit } => file.transit(transit)?,
        });
    }
    let keys = match settings.key {
        Some(_) => Keys::Given(given),
        None => Keys::File(Settings::key_file(&url)),
    };
    let (store, made) = Store::open(&Place { url, password, poll: settings.poll }, keys, deps).await?;
    if let Some(made) = made {
        tracing::warn!(
            file = %made.path().display(),
            "a key for the store was made; keep a copy of it where the store's backups are not"
        );
    }
    Ok(store)
}
