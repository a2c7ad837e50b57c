//! What all listeners and all connections share: the proxy, the authority, the limits, and who is connected.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ca::Ca;
use super::door::Door;
use super::framing::HeadLimits;
use super::identify::Evidence;
use super::vet::Patience;
use crate::base::{Clock, Code, Destination, Refusal};
use crate::proxy::{Denial, Proxy};
use crate::route::Caller;

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Open connections over all listeners.
    pub connections: usize,
    /// Bounds of a request head.
    pub head: HeadLimits,
    /// Time allowed to callers.
    pub patience: Patience,
}

impl ConnectionLimits {
    /// Why a connection is not served: there are as many as there may be.
    pub(super) fn no_place(&self) -> Refusal {
        Refusal::new(Code::Overloaded, format!("{} connections are open (`limits.connections`)", self.connections))
            .with_retry_after(Duration::from_secs(1))
    }
}

/// What all listeners share.
#[derive(Debug)]
pub struct Shared {
    /// Where requests go.
    pub proxy: Arc<Proxy>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Every task that serves somebody.
    pub tasks: TaskTracker,
    /// Cancelled when no new connection is taken.
    pub drain: CancellationToken,
    /// Cancelled when connections that do nothing are not kept any longer.
    pub(super) part: CancellationToken,
    /// As `drain`, for the path of every request: asking a token takes a lock.
    draining: AtomicBool,
    pub(super) local: Arc<Caller>,
    ca: ArcSwapOption<Ca>,
    limits: ArcSwap<ConnectionLimits>,
    open: AtomicUsize,
}

impl Shared {
    /// Shared parts of all listeners.
    pub fn new(proxy: Arc<Proxy>, clock: Arc<dyn Clock>, ca: Option<Arc<Ca>>, limits: ConnectionLimits) -> Self {
        Self {
            tasks: proxy.tasks().clone(),
            proxy,
            clock,
            drain: CancellationToken::new(),
            part: CancellationToken::new(),
            draining: AtomicBool::new(false),
            local: Arc::new(Caller::local()),
            ca: ArcSwapOption::from(ca),
            limits: ArcSwap::from_pointee(limits),
            open: AtomicUsize::new(0),
        }
    }

    /// The certificate authority, if there is one.
    pub fn ca(&self) -> Option<Arc<Ca>> {
        self.ca.load_full()
    }

    /// Replaces the authority.
    pub fn set_ca(&self, ca: Option<Arc<Ca>>) {
        self.ca.store(ca);
    }

    /// Takes no new connection. Who is connected is told with its next answer that it was the last one.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain.cancel();
    }

    /// Closes the connections that do nothing.
    pub fn close_idle(&self) {
        self.part.cancel();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The limits in force.
    pub fn limits(&self) -> ConnectionLimits {
        **self.limits.load()
    }

    /// Replaces the limits, for connections that come after.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.limits.store(Arc::new(limits));
    }
}

/// A stream of any kind. What speaks HTTP over it is compiled once, not once for each kind.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A place among the open connections; given back when dropped.
pub(super) struct OpenPlace(Arc<Shared>, metrics::Gauge);

impl OpenPlace {
    pub(super) fn take(shared: &Arc<Shared>, kind: &'static str) -> Option<Self> {
        let open = metrics::gauge!("countersign_connections_open", "listener" => kind);
        open.increment(1);
        let place = Self(Arc::clone(shared), open);
        (shared.open.fetch_add(1, Ordering::Relaxed) < shared.limits().connections).then_some(place)
    }
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.1.decrement(1);
    }
}

/// One accepted connection.
pub(super) struct Conn {
    pub(super) shared: Arc<Shared>,
    pub(super) door: Arc<ArcSwap<Door>>,
    pub(super) evidence: Evidence,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) place: Option<OpenPlace>,
    /// The Host that a reverse listener last found to be its own.
    pub(super) own_host: OwnHost,
    /// Tunnels that run inside this connection.
    pub(super) tunnels: AtomicUsize,
}

/// A Host that was found to be the listener's own, remembered since a caller writes the same one in each of its requests.
/// It holds for the rules that it was judged by, and for no later ones.
#[derive(Default)]
pub(super) struct OwnHost(Mutex<Option<(Weak<Door>, HeaderValue)>>);

impl OwnHost {
    /// The Host, if it is the one that was remembered under these rules.
    pub(super) fn known(&self, door: &Arc<Door>, host: &[u8]) -> Option<HeaderValue> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rules, own) = last.as_ref()?;
        (std::ptr::eq(rules.as_ptr(), Arc::as_ptr(door)) && own.as_bytes() == host).then(|| own.clone())
    }

    /// Remembers a Host that these rules accept.
    pub(super) fn remember(&self, door: &Arc<Door>, host: &HeaderValue) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::downgrade(door), host.clone()));
    }
}

/// A tunnel at work inside a connection; counted until it is dropped.
pub(super) struct Tunnelling(pub(super) Arc<Conn>);

impl Tunnelling {
    pub(super) fn begin(conn: &Arc<Conn>) -> Self {
        conn.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(conn))
    }
}

impl Drop for Tunnelling {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Conn {
    /// Logs what was refused before the pipeline saw it.
    pub(super) fn log_refusal(
        &self,
        via: &'static str,
        caller: Option<&Caller>,
        destination: Option<&Destination>,
        refusal: &Refusal,
    ) {
        let denial = Denial { via, caller, destination, method: None, credential: None };
        self.shared.proxy.denied(&denial, refusal);
        denial.count(refusal, self.shared.proxy.clock());
        if !self.shared.proxy.state().log_requests {
            return;
        }
        tracing::info!(
            target: "countersign::request",
            caller = caller.map_or("-", |caller| &*caller.name),
            via,
            destination = destination.map_or_else(|| "-".to_owned(), ToString::to_string),
            status = refusal.status.as_u16(),
            code = refusal.code.as_str(),
            fault = refusal.fault.as_str(),
            detail = &*refusal.detail,
            "request refused"
        );
    }
}
