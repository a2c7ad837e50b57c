//! Serving HTTP on a connection: the choice of version, HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::framing::HeadLimits;
use super::intercept::{self, Tunnel};
use super::rewound::Rewound;
use super::shared::{Conn, Connection, ConnectionLimits};
use super::vet::Vet;
use super::{forward, reverse, transparent};
use crate::base::body::Release;
use crate::base::{Body, Refusal};
use crate::proxy::problem;

/// How every HTTP/2 connection with prior knowledge begins (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Concurrent streams of one HTTP/2 connection; what browsers and servers commonly allow.
const STREAMS: u32 = 250;

/// HTTP/2 windows towards callers, as towards upstreams.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Without TLS the first bytes tell HTTP/2 with prior knowledge from HTTP/1.
pub(super) async fn begin_http<S>(mut stream: S, conn: Conn, handler: Handler, limits: ConnectionLimits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut read = Vec::new();
    let mut buffer = [0; PREFACE.len()];
    let mut deadline = None;
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        let patience = if read.is_empty() { limits.patience.idle } else { limits.patience.header_read };
        let until = *deadline.get_or_insert_with(|| tokio::time::Instant::now() + patience);
        let part = conn.shared.part.clone();
        let room = &mut buffer[..PREFACE.len() - read.len()];
        let count = tokio::select! {
            result = tokio::time::timeout_at(until, stream.read(room)) => match result {
                Ok(Ok(count)) if count > 0 => count,
                _ => return,
            },
            // Not before: a caller that has just connected has its request on its way.
            () = part.cancelled() => return,
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
    /// Cleartext that was redirected on its way to this port.
    Captured(u16),
}

async fn respond(conn: &Arc<Conn>, handler: &Handler, request: Request<Incoming>) -> Response<Body> {
    match handler {
        Handler::Forward => forward::respond(conn, request).await,
        Handler::Reverse => reverse::respond(conn, request).await,
        Handler::Tunnel(tunnel) => intercept::respond(conn, tunnel, request).await,
        Handler::Captured(port) => transparent::respond(conn, *port, request).await,
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
    let stream: Box<dyn Connection> = Box::new(stream);
    if h2 {
        Box::pin(serve_h2(Rewound::new(stream, read_before), conn, handler))
    } else {
        Box::pin(serve_h1(stream, conn, handler, read_before))
    }
}

async fn serve_h1(stream: Box<dyn Connection>, conn: Arc<Conn>, handler: Handler, read_before: Vec<u8>) {
    let limits = conn.shared.limits();
    let vet = Vet::new(stream, &read_before, limits.head, limits.patience, conn.shared.proxy.state().log_requests);
    drop(read_before);
    let turn = vet.turn();
    let part = conn.shared.part.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (conn, handler, turn) = (Arc::clone(&conn), handler.clone(), Arc::clone(&turn));
        async move {
            let connect = request.method() == Method::CONNECT;
            let mut response = respond(&conn, &handler, request).await;
            let status = response.status();
            let switches = status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
            if !switches && conn.shared.is_draining() {
                turn.last();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            turn.answered(switches);
            Ok::<_, Infallible>(response.map(|body| body.releasing(turn)))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(vet), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => {}
        // While we drain, answers say that they are the last. Closing what is idle at once would lose the requests on their way.
        () = part.cancelled() => {
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

async fn serve_h2(stream: Rewound<Box<dyn Connection>>, conn: Arc<Conn>, handler: Handler) {
    let limits = conn.shared.limits();
    let (drain, part) = (conn.shared.drain.clone(), conn.shared.part.clone());
    let activity = Arc::new(Activity::default());
    let (seen, counted) = (Arc::clone(&activity), Arc::clone(&activity));
    let outer = Arc::clone(&conn);
    let quiet = move || seen.active.load(Ordering::Relaxed) == 0 && outer.tunnels.load(Ordering::Relaxed) == 0;
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
            () = drain.cancelled() => {
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    _ = serving.as_mut() => return,
                    () = part.cancelled() => break,
                }
            }
            () = tokio::time::sleep(limits.patience.idle) => {
                let now_seen = counted.seen.load(Ordering::Relaxed);
                if quiet() && now_seen == last_seen {
                    break;
                }
                last_seen = now_seen;
            }
        }
    }
    serving.as_mut().graceful_shutdown();
    // A caller that never answers (one that has not even said its preface) must not hold the connection.
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = tokio::time::sleep(limits.patience.header_read) => if quiet() { return },
        }
    }
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
