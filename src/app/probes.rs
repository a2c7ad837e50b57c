//! What the probes of the admin listener are told, and what keeps the credentials that must work ready to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::routes::Routes;
use super::secret_stores::{self, InUse};
use crate::base::Clock;
use crate::observe::{Health, Probed};
use crate::proxy::Proxy;
use crate::route::{CredentialEntry, Readiness};
use crate::scheme::Identity;

/// Credentials that must work are looked at this often. A failure is remembered by the token itself, with a pause that
/// spares its provider.
const LOOK: Duration = Duration::from_secs(1);

/// How this process is.
pub(super) struct Probes {
    proxy: Arc<Proxy>,
    stores: InUse,
    routes: Arc<Routes>,
    has_store: bool,
    listeners: ArcSwap<Vec<String>>,
    /// The configuration changed: other credentials may be required.
    changed: Notify,
    /// What is required was tried once.
    tried: AtomicBool,
    draining: AtomicBool,
    started: AtomicBool,
    may_quit: AtomicBool,
    quit: CancellationToken,
}

impl Probes {
    pub(super) fn new(proxy: &Arc<Proxy>, stores: &InUse, routes: &Arc<Routes>, has_store: bool) -> Arc<Self> {
        Arc::new(Self {
            proxy: Arc::clone(proxy),
            stores: stores.clone(),
            routes: Arc::clone(routes),
            has_store,
            listeners: ArcSwap::default(),
            changed: Notify::new(),
            tried: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
            may_quit: AtomicBool::new(false),
            quit: CancellationToken::new(),
        })
    }

    /// A configuration is in use, with these listeners.
    pub(super) fn publish(&self, listeners: Vec<String>) {
        self.listeners.store(Arc::new(listeners));
        self.changed.notify_one();
    }

    pub(super) fn allow_quit(&self, allowed: bool) {
        self.may_quit.store(allowed, Ordering::Relaxed);
    }

    /// Cancelled when somebody who may has told us to end.
    pub(super) fn told_to_quit(&self) -> &CancellationToken {
        &self.quit
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn required(&self) -> Vec<Arc<CredentialEntry>> {
        let state = self.proxy.state();
        state.routes.credentials().iter().filter(|entry| entry.required).cloned().collect()
    }

    /// Obtains what required credentials sign with before anybody asks for it, and again whenever it is gone.
    pub(super) async fn keep(self: Arc<Self>, clock: Arc<dyn Clock>) {
        loop {
            let required = self.required();
            join_all(required.iter().map(|entry| obtain(entry))).await;
            self.tried.store(true, Ordering::Release);
            if required.is_empty() {
                self.changed.notified().await;
                continue;
            }
            tokio::select! {
                () = clock.sleep_until(clock.instant() + LOOK) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Why no work should come here now.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        if self.listeners.load().is_empty() {
            reasons.push("the listeners are not up yet".to_owned());
        }
        // Within its grace what was read last serves. If it did not count as ready, a database that restarts would take
        // every replica away at once.
        reasons.extend(self.routes.refusing().filter(|_| self.has_store));
        reasons.extend(self.required().iter().filter_map(|entry| missing(entry)));
        reasons
    }
}

impl Probed for Probes {
    fn health(&self) -> Health {
        let reasons = self.reasons();
        let state = self.proxy.state();
        let credentials = state.routes.credentials().iter().filter_map(|one| secret_stores::unusable(one));
        Health {
            ready: reasons.is_empty(),
            reasons,
            listeners: self.listeners.load().to_vec(),
            unusable_credentials: credentials.chain(self.stores.unusable()).chain(self.routes.trouble()).collect(),
        }
    }

    fn started(&self) -> bool {
        if self.started.load(Ordering::Relaxed) {
            return true;
        }
        let whole = !self.listeners.load().is_empty()
            && self.tried.load(Ordering::Acquire)
            && (!self.has_store || self.routes.refusing().is_none());
        self.started.fetch_or(whole, Ordering::Relaxed) || whole
    }

    fn may_quit(&self) -> bool {
        self.may_quit.load(Ordering::Relaxed)
    }

    fn quit(&self) {
        tracing::info!("told to end by POST /quit");
        self.quit.cancel();
    }
}

/// Asks for what a credential signs with; what comes of it is told by [`missing`].
async fn obtain(entry: &CredentialEntry) {
    if let Err(error) = entry.wake().await {
        tracing::debug!(credential = &*entry.id, %error, "a required credential cannot be brought");
    }
    if let Readiness::Ready(scheme) = &*entry.readiness()
        && let Identity::Token(handle) = scheme.identity()
        && handle.current().is_none()
    {
        // Said by whoever obtains it.
        let _ = handle.obtain().await;
    }
}

/// Why a required credential cannot sign now.
fn missing(entry: &CredentialEntry) -> Option<String> {
    let why = match &*entry.readiness() {
        _ if !entry.enabled => "it is switched off".to_owned(),
        Readiness::Unusable(reason) => reason.clone(),
        Readiness::Resting(_) => "it was not loaded yet".to_owned(),
        Readiness::Ready(scheme) => match scheme.identity() {
            Identity::Token(handle) if handle.current().is_none() => {
                handle.trouble().unwrap_or_else(|| "its token was not obtained yet".to_owned())
            }
            Identity::Token(_) | Identity::Fixed(_) | Identity::Challenged(_) => return None,
        },
    };
    Some(format!("credential {}: {why}", entry.id))
}
