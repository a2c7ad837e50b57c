//! The store of a configuration, and the API over it, for a command on this host: nothing listens.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::Router;

use super::build::{Built, Parts, build};
use super::engine::Running;
use super::opening::StoreWanted;
use super::routes::Routes;
use super::serve::{StartError, reliance};
use super::stored::Stored;
use crate::api::{Api, Principal};
use crate::base::{AuditEvent, AuditSink, AuditUnavailable, BoxFuture, Deps};
use crate::config::{Config, ConfigError};
use crate::observe::audit::{AuditLog, Settings};
use crate::proxy::Proxy;
use crate::store::{KeyEncryption, Store, StoreError, TokenStore};
use crate::token::Tokens;
use crate::upstream::system_roots;

/// An open store.
#[derive(Debug)]
pub struct OpenStore {
    /// The store.
    pub store: Store,
    /// The key that the configuration names for it; nothing where it is in a file of ours.
    pub key: Option<Arc<dyn KeyEncryption>>,
    /// Where what is done to the whole of it is written down.
    pub audit: LocalAudit,
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Other(error.to_string())
    }
}

/// The audit record of one command: what it changes is written down, and a command that changes nothing writes nothing.
#[derive(Debug, Clone)]
pub struct LocalAudit {
    settings: Settings,
    deps: Deps,
    log: Arc<OnceLock<Result<AuditLog, AuditUnavailable>>>,
}

impl LocalAudit {
    fn of(config: &Config, deps: &Deps) -> Self {
        Self { settings: config.audit.clone().unwrap_or_default(), deps: deps.clone(), log: Arc::default() }
    }

    fn log(&self) -> Result<&AuditLog, AuditUnavailable> {
        let log = self.log.get_or_init(|| AuditLog::open(&self.settings, &self.deps).map_err(AuditUnavailable));
        log.as_ref().map_err(Clone::clone)
    }

    /// The command ends.
    pub async fn close(&self) {
        if let Some(Ok(log)) = self.log.get() {
            log.close().await;
        }
    }
}

impl AuditSink for LocalAudit {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>> {
        Box::pin(async move { self.log()?.record(event).await })
    }

    fn note(&self, event: AuditEvent) {
        if let Ok(log) = self.log() {
            log.note(event);
        }
    }

    fn blocked(&self) -> Option<AuditUnavailable> {
        match self.log.get()? {
            Ok(log) => log.blocked(),
            Err(unavailable) => Some(unavailable.clone()),
        }
    }
}

/// The API over the store of a configuration, as who runs this process. A Countersign that serves the same store learns of
/// changes as it does of those of any other process.
///
/// # Errors
/// Every mistake of the configuration, or why the store cannot be opened.
pub async fn manage(config: Config, deps: &Deps) -> Result<(Router, LocalAudit), StartError> {
    let audit = LocalAudit::of(&config, deps);
    let deps = Deps { audit: Arc::new(audit.clone()), ..deps.clone() };
    let (routes, store, _) = opened(config, &deps).await?;
    routes.open(store.clone()).await?;
    let api = Api::new(store, Arc::new(Running { routes }), deps);
    Ok((api.router_as(Principal::local()), audit))
}

/// The store of a configuration.
///
/// # Errors
/// As [`manage`].
pub async fn open_store(config: Config, deps: &Deps) -> Result<OpenStore, StartError> {
    let audit = LocalAudit::of(&config, deps);
    let (_, store, key) = opened(config, deps).await?;
    Ok(OpenStore { store, key, audit })
}

/// Everything that a configuration and its store describe, for a look at it: nothing is made, and nothing changed.
///
/// # Errors
/// Every mistake of the configuration. Why the store cannot be read stands among what is unresolved.
pub async fn build_whole(config: Config, parts: Parts<'_>) -> Result<Built, Vec<ConfigError>> {
    let wanted = StoreWanted::of(&config, true).filter(|wanted| wanted.settings.exists());
    let (document, deps) = (config.document.clone(), parts.deps);
    let mut built = build(config, parts).await?;
    if let Some(wanted) = wanted {
        let stores = Arc::new(ArcSwap::new(Arc::clone(&built.file.secret_stores.stores)));
        let routes = async {
            let stored = Stored::new(wanted.open(&built.file, &stores, deps).await?);
            let table = stored.table(&built.file).await?;
            Ok::<_, StoreError>((table, stored))
        };
        match routes.await {
            Ok((table, stored)) => {
                built.state.routes = table.routes;
                let left_out = table.left_out.into_iter().map(|why| document.error("store", why));
                built.warnings.extend(left_out);
                built.stored = Some(stored);
            }
            Err(error) => {
                built.state = built.state.before_the_store();
                built.unresolved.push(document.error("store", error.to_string()));
            }
        }
    }
    Ok(built)
}

async fn opened(
    config: Config,
    deps: &Deps,
) -> Result<(Arc<Routes>, Store, Option<Arc<dyn KeyEncryption>>), StartError> {
    let Some(wanted) = StoreWanted::of(&config, false) else {
        let why = "there is no store; write `store: {}` for one beside this host's state, or use --server";
        return Err(StartError::Config(vec![config.document.error("store", why)]));
    };
    let (roots, own, tokens) = (system_roots(), Arc::default(), Tokens::new(deps));
    // A refresh token that the provider rotates is spent by one process at a time, be it a command.
    let token_store = TokenStore::new(Arc::clone(&deps.random));
    tokens.rely_on(Some(reliance(&token_store)));
    let parts = Parts { deps, roots: &roots, own: &own, tokens: &tokens, stores: None, previous: None, private: None };
    let Built { state, file, .. } = build(config, parts).await.map_err(StartError::Config)?;
    let proxy = Arc::new(Proxy::new(state.before_the_store(), deps.clone()));
    let stores = Arc::new(ArcSwap::new(Arc::clone(&file.secret_stores.stores)));
    let store = wanted.open(&file, &stores, deps).await?;
    token_store.opened(store.clone());
    let key = wanted.key(&file, &stores).await?;
    let routes = Routes::new(proxy, deps, file, wanted.settings.grace);
    Ok((routes, store, key))
}
