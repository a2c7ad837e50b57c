//! Inside a tunnel: TLS is terminated with a leaf for exactly the tunnel's host, and every request is decided anew.

use std::io;
use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::ca::Ca;
use super::forward::agree;
use super::http::{Handler, serve_boxed};
use super::rewound::Rewound;
use super::shared::{Conn, Tunnelling};
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
    /// The SNI named another host than CONNECT did.
    sni_differs: bool,
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
        let limits = conn.shared.limits();
        let Ok(upgraded) = upgrade.await else { return };
        let tunnel = Tunnel { destination, caller, named, sni_differs: false };
        let handshake = terminate(&conn, &ca, tunnel, TokioIo::new(upgraded));
        match tokio::time::timeout(limits.patience.header_read, handshake).await {
            Ok(Some((stream, tunnel))) => {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                serve_boxed(stream, conn, Handler::Tunnel(Arc::new(tunnel)), h2, Vec::new()).await;
            }
            Ok(None) => {}
            Err(_) => tracing::info!("no TLS handshake in time inside a tunnel"),
        }
    });
}

type Inner = Rewound<TokioIo<hyper::upgrade::Upgraded>>;

/// The TLS handshake with the caller; `None` when there is none.
async fn terminate(
    conn: &Conn,
    ca: &Ca,
    mut tunnel: Tunnel,
    mut io: TokioIo<hyper::upgrade::Upgraded>,
) -> Option<(tokio_rustls::server::TlsStream<Inner>, Tunnel)> {
    let mut first = [0];
    if io.read(&mut first).await.ok()? == 0 {
        return None;
    }
    if first[0] != TLS_HANDSHAKE {
        let refusal = Refusal::bad_request(format!(
            "{} has a credential, and what came through the tunnel is not TLS; secrets do not travel in cleartext tunnels",
            tunnel.destination
        ));
        conn.log_refusal("tunnel", Some(&tunnel.caller), Some(&tunnel.destination), &refusal);
        let _ = io.write_all(&problem_bytes(&refusal)).await;
        let _ = io.shutdown().await;
        return None;
    }
    let io = Rewound::new(io, first.to_vec());
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
    match check(tunnel, &request) {
        Ok(()) => {
            let inbound = Inbound {
                request,
                destination: tunnel.destination.clone(),
                caller: Arc::clone(&tunnel.caller),
                named: tunnel.named.clone(),
                via: Via::Tunnel,
            };
            conn.shared.proxy.handle(inbound).await
        }
        Err(refusal) => {
            conn.log_refusal("tunnel", Some(&tunnel.caller), Some(&tunnel.destination), &refusal);
            problem(&refusal)
        }
    }
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
    mut upstream: TcpStream,
    destination: Destination,
    caller: &Arc<Caller>,
) {
    let caller = Arc::clone(caller);
    let tunnelling = Tunnelling::begin(conn);
    let tracker = conn.shared.tasks.clone();
    tracker.spawn(async move {
        let conn = Arc::clone(&tunnelling.0);
        let started = conn.shared.clock.instant();
        let Ok(upgraded) = upgrade.await else { return };
        let mut io = TokioIo::new(upgraded);
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER).await;
        let (sent, received) = copied.unwrap_or_default();
        if !conn.shared.proxy.state().log_requests {
            return;
        }
        let total_ms = conn.shared.clock.instant().saturating_duration_since(started).as_millis() as u64;
        tracing::info!(
            target: "countersign::request",
            caller = &*caller.name, via = "blind_tunnel", %destination, sent, received, total_ms, "tunnel closed"
        );
    });
}
