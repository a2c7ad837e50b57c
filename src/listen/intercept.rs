//! Inside a tunnel: TLS is terminated with a leaf for exactly the tunnel's host, and every request is decided anew.

use std::io;
use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ca::Ca;
use super::forward::{agree, still};
use super::http::{Handler, serve_boxed};
use super::rewound::Rewound;
use super::shared::{Conn, Tunnelling};
use super::transparent;
use crate::base::{Body, Code, Destination, Host, Protocol, Refusal};
use crate::proxy::{Inbound, Via, problem, problem_bytes};
use crate::route::Caller;

/// First byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Buffer for each direction of a blind tunnel.
const BUFFER: usize = 16 * 1024;

/// What was settled when a tunnel was opened.
#[derive(Debug)]
pub(super) struct Tunnel {
    destination: Destination,
    caller: Arc<Caller>,
    named: Option<Arc<str>>,
    /// Nobody asked for it: a connection was redirected.
    captured: bool,
    /// What every request in it is answered, when it was opened only to say so.
    denied: Option<Refusal>,
    /// The SNI named another host than CONNECT did.
    sni_differs: bool,
}

impl Tunnel {
    /// One that a caller asked for.
    fn asked(destination: Destination, caller: Arc<Caller>, named: Option<Arc<str>>) -> Self {
        Self { destination, caller, named, captured: false, denied: None, sni_differs: false }
    }

    /// One that nobody asked for, to the name that the client's greeting holds.
    pub(super) fn captured(destination: Destination, caller: Arc<Caller>, denied: Option<Refusal>) -> Self {
        Self { captured: true, denied, ..Self::asked(destination, caller, None) }
    }

    fn kind(&self) -> &'static str {
        if self.captured { "transparent" } else { "tunnel" }
    }
}

/// Takes over a connection after `200` and serves what is inside.
pub(super) fn spawn(
    conn: &Arc<Conn>,
    ca: Arc<Ca>,
    upgrade: OnUpgrade,
    destination: Destination,
    caller: Arc<Caller>,
    named: Option<Arc<str>>,
) {
    let tunnelling = Tunnelling::begin(conn);
    let tracker = conn.shared.tasks.clone();
    tracker.spawn(async move {
        let conn = Arc::clone(&tunnelling.0);
        let Ok(upgraded) = upgrade.await else { return };
        serve(conn, &ca, Tunnel::asked(destination, caller, named), TokioIo::new(upgraded), Vec::new()).await;
    });
}

/// Serves what is inside a tunnel, of which some bytes were read already.
pub(super) async fn serve<S>(conn: Arc<Conn>, ca: &Ca, tunnel: Tunnel, io: S, read_before: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let patience = conn.shared.limits().patience.header_read;
    match tokio::time::timeout(patience, terminate(&conn, ca, tunnel, io, read_before)).await {
        Ok(Some((stream, tunnel))) => {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve_boxed(stream, conn, Handler::Tunnel(Arc::new(tunnel)), h2, Vec::new()).await;
        }
        Ok(None) => {}
        Err(_) => tracing::info!("no TLS handshake in time inside a tunnel"),
    }
}

/// The TLS handshake with the caller; `None` when there is none.
async fn terminate<S>(
    conn: &Conn,
    ca: &Ca,
    mut tunnel: Tunnel,
    mut io: S,
    mut read_before: Vec<u8>,
) -> Option<(TlsStream<Rewound<S>>, Tunnel)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if read_before.is_empty() {
        read_before.push(io.read_u8().await.ok()?);
    }
    if read_before.first() != Some(&TLS_HANDSHAKE) {
        let refusal = Refusal::bad_request(format!(
            "{} has a credential, and what came through the tunnel is not TLS; secrets do not travel in cleartext tunnels",
            tunnel.destination
        ));
        conn.log_refusal(tunnel.kind(), Some(&tunnel.caller), Some(&tunnel.destination), &refusal);
        let _ = io.write_all(&problem_bytes(&refusal)).await;
        let _ = io.shutdown().await;
        return None;
    }
    let io = Rewound::new(io, read_before);
    let failed = |error: &io::Error| {
        tracing::info!(
            destination = %tunnel.destination,
            %error,
            "the caller broke the TLS handshake off; does it trust our CA (`countersign ca bundle`)?"
        );
    };
    let start = match LazyConfigAcceptor::new(Acceptor::default(), io).await {
        Ok(start) => start,
        Err(error) => {
            failed(&error);
            return None;
        }
    };
    let sni = start.client_hello().server_name().map(Host::parse);
    let differs = sni.is_some_and(|host| host.ok().as_ref() != Some(tunnel.destination.host()));
    let config = match ca.server_config(tunnel.destination.host(), conn.shared.clock.now()) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(destination = %tunnel.destination, error, "no leaf can be minted");
            return None;
        }
    };
    match start.into_stream(config).await {
        Ok(stream) => {
            tunnel.sni_differs = differs;
            Some((stream, tunnel))
        }
        Err(error) => {
            failed(&error);
            None
        }
    }
}

/// Answers one request inside a tunnel.
pub(super) async fn respond(conn: &Arc<Conn>, tunnel: &Tunnel, request: Request<Incoming>) -> Response<Body> {
    if let Some(refusal) = &tunnel.denied {
        // It stands in the log since the tunnel was opened.
        return problem(refusal);
    }
    let caller = match check(tunnel, &request) {
        Ok(()) => caller(conn, tunnel).await,
        Err(refusal) => Err(refusal),
    };
    match caller {
        Ok(caller) => {
            let inbound = Inbound {
                request,
                destination: tunnel.destination.clone(),
                caller,
                named: tunnel.named.clone(),
                via: if tunnel.captured { Via::Transparent } else { Via::Tunnel },
            };
            conn.shared.proxy.handle(inbound).await
        }
        Err(refusal) => {
            conn.log_refusal(tunnel.kind(), Some(&tunnel.caller), Some(&tunnel.destination), &refusal);
            problem(&refusal)
        }
    }
}

/// Who asks: what the tunnel was opened with is confirmed by the pipeline; what a listener says may change with a reload.
async fn caller(conn: &Conn, tunnel: &Tunnel) -> Result<Arc<Caller>, Refusal> {
    if tunnel.captured { transparent::who(conn) } else { still(conn, &tunnel.caller).await }
}

/// Everything that names a host must name the tunnel's.
fn check(tunnel: &Tunnel, request: &Request<Incoming>) -> Result<(), Refusal> {
    let mismatch = |what: &str| {
        Err(Refusal::new(
            Code::DestinationMismatch,
            format!("{what} names another host than the tunnel to {}", tunnel.destination),
        ))
    };
    if tunnel.sni_differs {
        return mismatch("the TLS server name");
    }
    if request.method() == Method::CONNECT {
        return Err(Refusal::bad_request("a tunnel inside a tunnel"));
    }
    if let Some(authority) = request.uri().authority()
        && !tunnel.destination.is_named_by(authority.as_str().as_bytes())
    {
        return mismatch("the request's authority");
    }
    if request.uri().scheme_str().is_some_and(|scheme| scheme != Protocol::Https.as_str()) {
        return mismatch("the request's scheme");
    }
    agree(request.headers(), &tunnel.destination)
}

/// Copies bytes both ways, unseen.
pub(super) fn spawn_blind(
    conn: &Arc<Conn>,
    upgrade: OnUpgrade,
    upstream: TcpStream,
    destination: Destination,
    caller: &Arc<Caller>,
) {
    let caller = Arc::clone(caller);
    let tunnelling = Tunnelling::begin(conn);
    let tracker = conn.shared.tasks.clone();
    tracker.spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        copy_blind(&tunnelling.0, TokioIo::new(upgraded), upstream, "blind_tunnel", &destination, &caller).await;
    });
}

/// Copies bytes both ways, unseen, until one side has ended.
pub(super) async fn copy_blind<S>(
    conn: &Conn,
    mut io: S,
    mut upstream: TcpStream,
    via: &'static str,
    destination: &Destination,
    caller: &Caller,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = conn.shared.clock.instant();
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER).await;
    let (sent, received) = copied.unwrap_or_default();
    if !conn.shared.proxy.state().log_requests {
        return;
    }
    let total_ms = conn.shared.clock.instant().saturating_duration_since(started).as_millis() as u64;
    tracing::info!(
        target: "countersign::request",
        caller = &*caller.name, via, %destination, sent, received, total_ms, "tunnel closed"
    );
}
