//! Accepting connections and welcoming them: limits, the caller's uid, TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Kind};
use super::http::{Handler, begin_http, serve_boxed};
use super::identify::Evidence;
use super::kernel;
use super::settings::Address;
use super::shared::{Conn, OpenPlace, OwnHost, Shared};
use super::socket::{Accepted, Bound, accept_one};
use super::transparent;
use crate::base::{Code, Refusal};
use crate::proxy::problem_bytes;

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
        let listener = Self { address: bound.address.clone(), door: Arc::clone(&door), stop: stop.clone() };
        // Among what a drain waits for: it has the queue to empty.
        shared.tasks.spawn(accept(bound, door, Arc::clone(shared), stop));
        listener
    }

    /// Stops accepting; connections that are open go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn accept(bound: Bound, door: Arc<ArcSwap<Door>>, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept_one(&bound.socket) => accepted,
        };
        match result {
            Ok(accepted) => greet(accepted, &door, &shared),
            Err(error) => {
                // Out of file descriptors, mostly: trying again at once would only spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // To these callers we are there: their connections are open, and their requests may have been sent.
    bound.close().into_iter().for_each(|accepted| greet(accepted, &door, &shared));
}

fn greet(accepted: Accepted, door: &Arc<ArcSwap<Door>>, shared: &Arc<Shared>) {
    shared.tasks.spawn(welcome(accepted, Arc::clone(door), Arc::clone(shared)));
}

async fn welcome(accepted: Accepted, door: Arc<ArcSwap<Door>>, shared: Arc<Shared>) {
    let rules = door.load_full();
    let place = OpenPlace::take(&shared, rules.kind());
    let mut evidence =
        Evidence { same_user: rules.run.as_ref().map(|(caller, _)| Arc::clone(caller)), ..Evidence::default() };
    match accepted {
        Accepted::Tcp(stream, peer) => {
            let _ = stream.set_nodelay(true);
            if let Kind::Transparent { .. } = rules.kind {
                return transparent::welcome(stream, peer, place, door, shared).await;
            }
            let local = stream.local_addr().ok();
            if rules.same_user && !same_user(local, peer).await {
                return turn_away(stream, &not_same_user(), &shared).await;
            }
            let conn = Conn {
                shared,
                door,
                evidence,
                local_ip: local.map(|local| local.ip()),
                place,
                own_host: OwnHost::default(),
                tunnels: AtomicUsize::new(0),
            };
            begin(stream, conn, &rules).await;
        }
        Accepted::Unix(stream) => {
            evidence.uid = stream.peer_cred().ok().map(|cred| cred.uid());
            if rules.same_user && !evidence.uid.is_some_and(|uid| uid == 0 || uid == kernel::own_uid()) {
                return turn_away(stream, &not_same_user(), &shared).await;
            }
            let own_host = OwnHost::default();
            let conn = Conn { shared, door, evidence, local_ip: None, place, own_host, tunnels: AtomicUsize::new(0) };
            begin(stream, conn, &rules).await;
        }
    }
}

async fn same_user(local: Option<SocketAddr>, peer: SocketAddr) -> bool {
    let Some(local) = local else { return false };
    kernel::peer_uid(local, peer).await.is_some_and(|uid| uid == 0 || uid == kernel::own_uid())
}

pub(super) fn not_same_user() -> Refusal {
    Refusal::new(Code::CallerUnknown, "this listener serves only sockets of its own user (`same_user: true`)")
        .with_status(StatusCode::FORBIDDEN)
}

/// Says why on a connection that is not served, and closes it.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, refusal: &Refusal, shared: &Shared) {
    if shared.proxy.state().log_requests {
        let code = refusal.code.as_str();
        tracing::info!(target: "countersign::request", code, detail = &*refusal.detail, "connection refused");
    }
    say_goodbye(&mut stream, &problem_bytes(refusal)).await;
}

/// Says something last and closes, so that it arrives: what the caller still says is read for a second.
pub(super) async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, last_words: &[u8]) {
    let goodbye = async {
        let _ = stream.write_all(last_words).await;
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
    if conn.place.is_none() {
        let refusal = limits.no_place();
        // Cleartext means nothing to a caller that is about to speak TLS.
        if rules.tls.is_none() {
            turn_away(stream, &refusal, &conn.shared).await;
        }
        return;
    }
    let handler = match rules.kind {
        Kind::Forward { .. } => Handler::Forward,
        Kind::Reverse { .. } => Handler::Reverse,
        // Was welcomed elsewhere.
        Kind::Transparent { .. } => return,
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
