//! What an admin listener brings with it: the encrypted store and the management API.
//!
//! The proxy serves what the configuration file declares also while the store cannot be reached; what the store adds
//! follows as soon as it can be.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_service::Service;

use super::engine::Running;
use super::opening::StoreWanted;
use super::routes::Routes;
use crate::api::Api;
use crate::base::{BoxFuture, Code, Deps, Refusal};
use crate::observe::audit::AuditLog;
use crate::proxy::problem;
use crate::source::Stores;
use crate::store::{Store, StoreError, TokenStore};

/// A store that could not be opened is tried again this soon, and then ever later.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The API of the moment: there is none before the store was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct ApiSlot(Arc<ArcSwapOption<Router>>);

impl Service<Request<Body>> for ApiSlot {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.0.load_full() {
            Some(api) => Box::pin(Router::clone(&api).oneshot(request)),
            None => Box::pin(async {
                let refusal = Refusal::new(Code::SecretUnavailable, "the store is not open")
                    .with_retry_after(Duration::from_secs(1));
                Ok(problem(&refusal).map(Body::new))
            }),
        }
    }
}

/// What knows of the store, or what it needs.
#[derive(Debug, Clone)]
pub(super) struct Around {
    /// Where the API goes.
    pub(super) slot: ApiSlot,
    /// Its lines are brought into the store.
    pub(super) audit: Option<AuditLog>,
    /// Has the store once it is open.
    pub(super) tokens: TokenStore,
    /// The secret stores of the configuration in use.
    pub(super) stores: Arc<ArcSwap<Stores>>,
}

/// The store of one process, and what follows it.
#[derive(Debug)]
pub(super) struct Management {
    inner: Arc<Inner>,
    /// Dropping the set ends its tasks.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    routes: Arc<Routes>,
    deps: Deps,
    wanted: ArcSwap<StoreWanted>,
    store: ArcSwapOption<Store>,
    api: ArcSwapOption<Api>,
    around: Around,
}

impl Management {
    /// Opens the store, or goes on trying when it cannot be reached now.
    ///
    /// # Errors
    /// When trying again would change nothing: a wrong key, a database of a newer program.
    pub(super) async fn start(
        routes: &Arc<Routes>,
        deps: &Deps,
        wanted: StoreWanted,
        around: Around,
    ) -> Result<Self, StoreError> {
        let inner = Arc::new(Inner {
            routes: Arc::clone(routes),
            deps: deps.clone(),
            wanted: ArcSwap::from_pointee(wanted),
            store: ArcSwapOption::empty(),
            api: ArcSwapOption::empty(),
            around,
        });
        let mut tasks = JoinSet::new();
        match inner.open().await {
            Ok(store) => {
                tasks.spawn(Arc::clone(&inner).follow(store));
            }
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::error!(%error, "the store cannot be opened; what it holds is not served until it can be");
                tasks.spawn(Arc::clone(&inner).keep_trying());
            }
            Err(error) => return Err(error),
        }
        tasks.spawn(Arc::clone(routes).keep_books());
        Ok(Self { inner, _tasks: tasks })
    }

    /// The configuration was loaded again.
    pub(super) async fn reload(&self, wanted: StoreWanted) {
        if self.inner.wanted.load().settings != wanted.settings {
            tracing::error!("`store` was changed: that is obeyed after a restart, and the old one stays until then");
        }
        self.inner.wanted.store(Arc::new(wanted));
        if let Some(api) = self.inner.api.load_full() {
            self.inner.let_in(&api).await;
        }
    }

    /// Writes down what was counted; the process ends.
    pub(super) async fn close(&self) {
        self.inner.routes.write_down().await;
    }
}

impl Inner {
    /// Opens the store and the API over it.
    async fn open(&self) -> Result<Store, StoreError> {
        let wanted = self.wanted.load_full();
        let store = wanted.open(&self.routes.file(), &self.around.stores, &self.deps).await?;
        self.around.tokens.opened(store.clone());
        if let Err(error) = self.routes.open(store.clone()).await {
            tracing::error!(%error, "the store was opened and cannot be read now");
        }
        let engine = Arc::new(Running { routes: Arc::clone(&self.routes) });
        if wanted.admin.is_some() {
            let api = Arc::new(Api::new(store.clone(), engine, self.deps.clone()));
            self.let_in(&api).await;
            self.around.slot.0.store(Some(Arc::new(api.router())));
            self.api.store(Some(api));
        }
        self.store.store(Some(Arc::new(store.clone())));
        Ok(store)
    }

    /// Tells the API who may come in, and makes a first token where nobody could.
    async fn let_in(&self, api: &Api) {
        let wanted = self.wanted.load_full();
        let Some(access) = wanted.access(&self.routes.file(), &self.deps).await else { return };
        match wanted.first_token(api.store(), &access, &self.deps).await {
            Ok(None) => {}
            Ok(Some(file)) => tracing::warn!(file = %file.display(), "a first admin token was made"),
            Err(why) => tracing::error!(why, "no first admin token could be made"),
        }
        api.set_access(access);
    }

    async fn keep_trying(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let store = loop {
            self.deps.clock.sleep_until(self.deps.clock.instant() + pause).await;
            match self.open().await {
                Ok(store) => break store,
                Err(StoreError::Unavailable(why)) => tracing::debug!(why, "the store cannot be opened yet"),
                Err(error) => tracing::error!(%error, "the store cannot be opened"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        tracing::info!("the store is open");
        self.follow(store).await;
    }

    /// Follows the store, and brings the lines of the audit record there.
    async fn follow(self: Arc<Self>, store: Store) {
        let rows = async {
            match self.around.audit.as_ref().filter(|audit| audit.settings().rows) {
                Some(audit) => audit.keep_rows(Arc::new(store.clone())).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(rows, Arc::clone(&self.routes).follow(store.clone()));
    }
}
