//! What an admin listener brings with it: the encrypted store and the management API.
//!
//! The proxy serves what the configuration file declares also while the store cannot be reached; what the store adds
//! follows as soon as it can be.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_service::Service;

use super::opening::StoreWanted;
use super::routes::Routes;
use crate::base::{BoxFuture, Code, Deps, Refusal};
use crate::proxy::problem;
use crate::store::{Settings, Store, StoreError};

/// A store that could not be opened is tried again this soon, and then ever later.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The API of the moment: there is none before the store was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct ApiSlot(Arc<ArcSwapOption<Router>>);

impl ApiSlot {
    fn fill(&self, api: Router) {
        self.0.store(Some(Arc::new(api)));
    }
}

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
                let refusal = Refusal::new(Code::SecretUnavailable, "the store is not open yet")
                    .with_retry_after(Duration::from_secs(1));
                Ok(problem(&refusal).map(Body::new))
            }),
        }
    }
}

/// Opens a store, now or as soon as it can be reached.
pub(super) type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Store, StoreError>> + Send + Sync>;

/// Makes the API over an open store.
pub(super) type MakeApi = Arc<dyn Fn(Store) -> Router + Send + Sync>;

/// The store of one process, and what follows it.
pub(super) struct Management {
    routes: Arc<Routes>,
    settings: Settings,
    store: Arc<ArcSwapOption<Store>>,
    make: Arc<ArcSwapOption<MakeApi>>,
    api: ApiSlot,
    /// Dropping the set ends its tasks.
    _tasks: JoinSet<()>,
}

impl Management {
    /// Opens the store, or goes on trying when it cannot be reached now.
    ///
    /// # Errors
    /// When trying again would change nothing: a wrong key, a database of a newer program.
    pub(super) async fn start(
        routes: &Arc<Routes>,
        deps: &Deps,
        settings: Settings,
        open: Open,
        make: MakeApi,
        api: ApiSlot,
    ) -> Result<Self, StoreError> {
        let mut tasks = JoinSet::new();
        let opening = Opening {
            routes: Arc::clone(routes),
            store: Arc::default(),
            make: Arc::new(ArcSwapOption::from_pointee(make)),
            api,
        };
        let this = Self {
            routes: Arc::clone(routes),
            settings,
            store: Arc::clone(&opening.store),
            make: Arc::clone(&opening.make),
            api: opening.api.clone(),
            _tasks: JoinSet::new(),
        };
        match open().await {
            Ok(store) => {
                opening.opened(store.clone()).await;
                tasks.spawn(Arc::clone(routes).follow(store));
            }
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::error!(%error, "the store cannot be opened; what it holds is not served until it can be");
                tasks.spawn(opening.keep_trying(open, deps.clone()));
            }
            Err(error) => return Err(error),
        }
        tasks.spawn(Arc::clone(routes).keep_books());
        Ok(Self { _tasks: tasks, ..this })
    }

    /// Whether it is what the configuration still asks for.
    pub(super) fn is_of(&self, wanted: &StoreWanted) -> bool {
        self.settings == wanted.settings
    }

    /// The configuration changed: the API's own settings may have.
    pub(super) fn remake(&self, make: MakeApi) {
        if let Some(store) = self.store.load_full() {
            self.api.fill(make(Store::clone(&store)));
        }
        self.make.store(Some(Arc::new(make)));
    }

    /// The store, once it is open.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.store.load_full()
    }

    /// Writes down what was counted; the process ends.
    pub(super) async fn close(&self) {
        self.routes.write_down().await;
    }
}

/// What is to be done once the store is open.
struct Opening {
    routes: Arc<Routes>,
    store: Arc<ArcSwapOption<Store>>,
    make: Arc<ArcSwapOption<MakeApi>>,
    api: ApiSlot,
}

impl Opening {
    async fn opened(&self, store: Store) {
        if let Err(error) = self.routes.open(store.clone()).await {
            tracing::error!(%error, "the store was opened and cannot be read now");
        }
        self.store.store(Some(Arc::new(store.clone())));
        if let Some(make) = self.make.load_full() {
            self.api.fill(make(store));
        }
    }

    async fn keep_trying(self, open: Open, deps: Deps) {
        let mut pause = FIRST_PAUSE;
        let store = loop {
            deps.clock.sleep_until(deps.clock.instant() + pause).await;
            match open().await {
                Ok(store) => break store,
                Err(StoreError::Unavailable(why)) => tracing::debug!(why, "the store cannot be opened yet"),
                Err(error) => tracing::error!(%error, "the store cannot be opened"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        tracing::info!("the store is open");
        self.opened(store.clone()).await;
        self.routes.follow(store).await;
    }
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Management")
    }
}
