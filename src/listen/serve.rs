//! Accepting connections and serving them: limits, TLS, the choice of HTTP version, draining.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ca::Ca;
use super::door::{Door, Kind};
use super::framing::HeadLimits;
use super::identify::Evidence;
use super::intercept::{self, Tunnel};
use super::rewound::Rewound;
use super::settings::Address;
use super::vet::{Patience, Vet};
use super::{forward, kernel, reverse};
use crate::base::body::Release;
use crate::base::{Body, Clock, Code, Destination, Refusal};
use crate::proxy::{Proxy, problem, problem_bytes};
use crate::route::Caller;

/// How every HTTP/2 connection with prior knowledge begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Concurrent streams of one HTTP/2 connection; what browsers and servers commonly allow.
const STREAMS: u32 = 250;

/// HTTP/2 windows towards callers, as towards upstreams.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

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

/// What all listeners share.
#[derive(Debug)]
pub struct Shared {
    /// Where requests go.
    pub proxy: Arc<Proxy>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Every task that serves somebody.
    pub tasks: TaskTracker,
    /// Cancelled when no new work is taken.
    pub drain: CancellationToken,
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

    /// The limits in force.
    pub fn limits(&self) -> ConnectionLimits {
        **self.limits.load()
    }

    /// Replaces the limits, for connections that come after.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.limits.store(Arc::new(limits));
    }
}

/// A place among the open connections; given back when dropped.
struct OpenPlace(Arc<Shared>);

impl OpenPlace {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let place = Self(Arc::clone(shared));
        (shared.open.fetch_add(1, Ordering::Relaxed) < shared.limits().connections).then_some(place)
    }
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One accepted connection.
pub(super) struct Conn {
    pub(super) shared: Arc<Shared>,
    pub(super) door: Arc<ArcSwap<Door>>,
    pub(super) evidence: Evidence,
    pub(super) local_ip: Option<IpAddr>,
    _place: Option<OpenPlace>,
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

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// What was bound: port 0 resolved.
    pub address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a unix socket, removed when the listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Binds an address.
    ///
    /// # Errors
    /// A sentence that names the address and why it cannot be bound.
    pub async fn new(address: &Address, mode: u32) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot listen on {address}: {error}");
        match address {
            Address::Tcp(socket) => {
                let listener = TcpListener::bind(socket).await.map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound) })
            }
            Address::Unix(path) => {
                remove_stale(path).await.map_err(fail)?;
                let listener = UnixListener::bind(path).map_err(fail)?;
                let file = SocketFile(path.clone());
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
                Ok(Self { socket: Socket::Unix { listener, _file: file }, address: address.clone() })
            }
        }
    }
}

/// Removes the socket of a process that was killed; one that still answers is left alone, and binding fails.
async fn remove_stale(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(std::io::ErrorKind::AddrInUse.into()),
    }
}

/// A listener at work.
#[derive(Debug)]
pub struct Listener {
    /// What was bound.
    pub address: Address,
    /// Its rules, which a reload replaces.
    pub door: Arc<ArcSwap<Door>>,
    stop: CancellationToken,
}

impl Listener {
    /// Begins to accept.
    pub fn start(bound: Bound, door: Door, shared: &Arc<Shared>) -> Self {
        let door = Arc::new(ArcSwap::from_pointee(door));
        let stop = shared.drain.child_token();
        tracing::info!(listener = door.load().kind(), address = %bound.address, "listening");
        let listener = Self { address: bound.address, door: Arc::clone(&door), stop: stop.clone() };
        tokio::spawn(accept(bound.socket, door, Arc::clone(shared), stop));
        listener
    }

    /// Stops accepting; connections that are open go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn accept(socket: Socket, door: Arc<ArcSwap<Door>>, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept_one(&socket) => accepted,
        };
        match result {
            Ok(accepted) => {
                let (door, shared) = (Arc::clone(&door), Arc::clone(&shared));
                let tracker = shared.tasks.clone();
                tracker.spawn(welcome(accepted, door, shared));
            }
            Err(error) => {
                // Out of file descriptors, mostly: trying again at once would only spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

async fn accept_one(socket: &Socket) -> std::io::Result<Accepted> {
    match socket {
        Socket::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
        Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
    }
}

async fn welcome(accepted: Accepted, door: Arc<ArcSwap<Door>>, shared: Arc<Shared>) {
    let place = OpenPlace::take(&shared);
    let rules = door.load_full();
    let mut evidence =
        Evidence { same_user: rules.run.as_ref().map(|(caller, _)| Arc::clone(caller)), ..Evidence::default() };
    match accepted {
        Accepted::Tcp(stream, peer) => {
            let _ = stream.set_nodelay(true);
            let local = stream.local_addr().ok();
            if rules.same_user && !same_user(local, peer).await {
                return turn_away(stream, &not_same_user()).await;
            }
            let conn = Conn { shared, door, evidence, local_ip: local.map(|local| local.ip()), _place: place };
            begin(stream, conn, &rules).await;
        }
        Accepted::Unix(stream) => {
            evidence.uid = stream.peer_cred().ok().map(|cred| cred.uid());
            if rules.same_user && !evidence.uid.is_some_and(|uid| uid == 0 || uid == kernel::own_uid()) {
                return turn_away(stream, &not_same_user()).await;
            }
            let conn = Conn { shared, door, evidence, local_ip: None, _place: place };
            begin(stream, conn, &rules).await;
        }
    }
}

async fn same_user(local: Option<SocketAddr>, peer: SocketAddr) -> bool {
    let Some(local) = local else { return false };
    kernel::peer_uid(local, peer).await.is_some_and(|uid| uid == 0 || uid == kernel::own_uid())
}

fn not_same_user() -> Refusal {
    Refusal::new(Code::CallerUnknown, "this listener serves only sockets of its own user (`same_user: true`)")
        .with_status(StatusCode::FORBIDDEN)
}

/// Says why on a connection that is not served, and closes it.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, refusal: &Refusal) {
    tracing::info!(target: "countersign::request", code = refusal.code.as_str(), detail = &*refusal.detail, "connection refused");
    let goodbye = async {
        let _ = stream.write_all(&problem_bytes(refusal)).await;
        let _ = stream.shutdown().await;
        let mut scrap = [0; 1024];
        while stream.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
}

/// TLS if the listener has it, then HTTP.
async fn begin<S>(stream: S, mut conn: Conn, rules: &Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = conn.shared.limits();
    if conn._place.is_none() {
        let refusal = Refusal::new(
            Code::Overloaded,
            format!("{} connections are open (`limits.connections`)", limits.connections),
        )
        .with_retry_after(Duration::from_secs(1));
        // Cleartext means nothing to a caller that is about to speak TLS.
        if rules.tls.is_none() {
            turn_away(stream, &refusal).await;
        }
        return;
    }
    let handler = match rules.kind {
        Kind::Forward { .. } => Handler::Forward,
        Kind::Reverse { .. } => Handler::Reverse,
    };
    let Some(tls) = &rules.tls else {
        return begin_http(stream, conn, handler, limits).await;
    };
    let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(tls)).accept(stream);
    match tokio::time::timeout(limits.patience.header_read, handshake).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            conn.evidence.names =
                session.peer_certificates().and_then(<[_]>::first).map(|leaf| names(leaf)).unwrap_or_default();
            let h2 = session.alpn_protocol() == Some(b"h2");
            serve_boxed(stream, Arc::new(conn), handler, h2, Vec::new()).await;
        }
        Ok(Err(error)) => tracing::info!(%error, "a caller's TLS handshake failed"),
        Err(_) => tracing::info!("a caller's TLS handshake did not end in time"),
    }
}

/// The subject alternative names of a verified certificate: DNS names, URIs and mail addresses.
fn names(leaf: &[u8]) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => Some((*text).to_owned()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

/// Without TLS the first bytes tell HTTP/2 with prior knowledge from HTTP/1.
async fn begin_http<S>(mut stream: S, conn: Conn, handler: Handler, limits: ConnectionLimits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut read = Vec::new();
    let mut buffer = [0; PREFACE.len()];
    let mut deadline = None;
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        let patience = if read.is_empty() { limits.patience.idle } else { limits.patience.header_read };
        let until = *deadline.get_or_insert_with(|| tokio::time::Instant::now() + patience);
        let drain = conn.shared.drain.clone();
        let room = &mut buffer[..PREFACE.len() - read.len()];
        let count = tokio::select! {
            result = tokio::time::timeout_at(until, stream.read(room)) => match result {
                Ok(Ok(count)) if count > 0 => count,
                _ => return,
            },
            () = drain.cancelled() => return,
        };
        if read.is_empty() {
            deadline = None;
        }
        read.extend_from_slice(&buffer[..count]);
    }
    let h2 = read == PREFACE;
    serve_boxed(stream, Arc::new(conn), handler, h2, read).await;
}

/// Who answers the requests of a connection.
#[derive(Clone)]
pub(super) enum Handler {
    Forward,
    Reverse,
    Tunnel(Arc<Tunnel>),
}

async fn respond(conn: &Arc<Conn>, handler: &Handler, request: Request<Incoming>) -> Response<Body> {
    match handler {
        Handler::Forward => forward::respond(conn, request).await,
        Handler::Reverse => reverse::respond(conn, request).await,
        Handler::Tunnel(tunnel) => intercept::respond(conn, tunnel, request).await,
    }
}

/// Serves a connection to its end. Boxed, since a tunnel inside a connection is served by the same function.
pub(super) fn serve_boxed<S>(
    stream: S,
    conn: Arc<Conn>,
    handler: Handler,
    h2: bool,
    read_before: Vec<u8>,
) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if h2 {
        Box::pin(serve_h2(Rewound::new(stream, read_before), conn, handler))
    } else {
        Box::pin(serve_h1(stream, conn, handler, read_before))
    }
}

async fn serve_h1<S>(stream: S, conn: Arc<Conn>, handler: Handler, read_before: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = conn.shared.limits();
    let vet = Vet::new(stream, &read_before, limits.head, limits.patience);
    drop(read_before);
    let turn = vet.turn();
    let drain = conn.shared.drain.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (conn, handler, turn) = (Arc::clone(&conn), handler.clone(), Arc::clone(&turn));
        async move {
            let connect = request.method() == Method::CONNECT;
            let response = respond(&conn, &handler, request).await;
            let status = response.status();
            turn.answered(status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success()));
            Ok::<_, Infallible>(response.map(|body| body.releasing(turn)))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(vet), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => {}
        () = drain.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

/// Whether an HTTP/2 connection has something to do.
#[derive(Default)]
struct Activity {
    active: AtomicUsize,
    seen: AtomicU64,
}

/// One request under way on an HTTP/2 connection: until its body is gone, or the caller gives it up before.
struct Active(Arc<Activity>);

impl Active {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.seen.fetch_add(1, Ordering::Relaxed);
        activity.active.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Release for Active {
    /// Dropping is what counts, and the body holds the only reference.
    fn released(&self) {}
}

async fn serve_h2<S>(stream: S, conn: Arc<Conn>, handler: Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = conn.shared.limits();
    let drain = conn.shared.drain.clone();
    let activity = Arc::new(Activity::default());
    let seen = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (conn, handler, activity) = (Arc::clone(&conn), handler.clone(), Arc::clone(&activity));
        async move {
            let active = Active::begin(activity);
            let response = match head_too_large(&request, limits.head) {
                Some(refusal) => problem(&refusal),
                None => respond(&conn, &handler, request).await,
            };
            Ok::<_, Infallible>(response.map(|body| body.releasing(Arc::new(active))))
        }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        // More room than is allowed, so that a head past the limit is answered and not cut off.
        .max_header_list_size(u32::try_from(limits.head.bytes * 4).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut last_seen = 0;
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = drain.cancelled() => break,
            () = tokio::time::sleep(limits.patience.idle) => {
                let now_seen = seen.seen.load(Ordering::Relaxed);
                if seen.active.load(Ordering::Relaxed) == 0 && now_seen == last_seen {
                    break;
                }
                last_seen = now_seen;
            }
        }
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// The limits of a head over HTTP/2, where [`super::framing`] does not look.
fn head_too_large(request: &Request<Incoming>, limits: HeadLimits) -> Option<Refusal> {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    // As HTTP/2 counts them (RFC 9113 section 6.5.2), less its overhead.
    let bytes = target + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    if headers.len() > limits.count {
        return Some(limits.too_many());
    }
    (bytes > limits.bytes).then(|| limits.too_large())
}

impl Bound {
    /// Serves an axum router on this socket until told to stop: the admin listener.
    pub fn serve_axum(self, router: axum::Router, stop: CancellationToken) {
        let done = async move { stop.cancelled().await };
        tokio::spawn(async move {
            let served = match self.socket {
                Socket::Tcp(listener) => axum::serve(listener, router).with_graceful_shutdown(done).await,
                Socket::Unix { listener, _file } => axum::serve(listener, router).with_graceful_shutdown(done).await,
            };
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener ended");
            }
        });
    }
}
