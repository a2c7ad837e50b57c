//! The transparent listener: connections that the kernel redirected, from callers that know of no proxy.
//!
//! The name in a connection (in the TLS greeting, in Host) is the destination: we resolve it and dial it. The address that was
//! called is dialled for what is passed on unseen and without a credential, and for nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use http::header::HOST;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::door::{Door, Kind};
use super::http::{Handler, serve_boxed};
use super::identify::{self, Evidence};
use super::intercept::{self, Tunnel, copy_blind};
use super::rewound::Rewound;
use super::serve::{not_same_user, say_goodbye};
use super::shared::{Conn, OpenPlace, OwnHost, Shared};
use super::sniff::{Opening, Silent, Sniffer};
use super::{kernel, original};
use crate::base::{Body, Code, Destination, Host, Protocol, Refusal};
use crate::proxy::{Inbound, Via, problem, refuse_two_hosts};
use crate::route::{Caller, Gate};

/// How logs call it.
const VIA: &str = "transparent";
const VIA_BLIND: &str = "transparent_blind";

/// Room for a greeting of TLS and for the head of most requests.
const FIRST_ROOM: usize = 4 * 1024;

/// More than any greeting that is read, records and all.
const LONGEST_OPENING: usize = 128 * 1024;

/// The fatal alert `access_denied` (RFC 8446 section 6.2), for whom there is no other way to be told.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// Takes a connection in: where it was going, who is behind it, what it speaks.
pub(super) async fn welcome(
    mut stream: TcpStream,
    peer: SocketAddr,
    place: Option<OpenPlace>,
    door: Arc<ArcSwap<Door>>,
    shared: Arc<Shared>,
) {
    let local_ip = stream.local_addr().ok().map(|local| local.ip());
    let (evidence, own_host) = (Evidence::default(), OwnHost::default());
    let mut conn = Conn { shared, door, evidence, local_ip, place, own_host, tunnels: AtomicUsize::new(0) };
    let captured = match admit(&mut conn, &stream, peer).await {
        Ok(captured) => captured,
        // Nothing was said yet, so nobody knows in which language to answer.
        Err(refusal) => return conn.log_refusal(VIA, None, None, &refusal),
    };
    let Some((opening, read)) = listen(&conn, &mut stream).await else { return };
    let conn = Arc::new(conn);
    let connection = Captured { conn: &conn, address: captured };
    match opening {
        Opening::Tls(Some(name)) => connection.tls(stream, read, &name).await,
        Opening::Http | Opening::Http2 => {
            let h2 = opening == Opening::Http2;
            serve_boxed(stream, Arc::clone(&conn), Handler::Captured(captured.port()), h2, read).await;
        }
        Opening::Tls(None) => connection.pass(Rewound::new(stream, read), None, &ACCESS_DENIED).await,
        Opening::Other => connection.pass(Rewound::new(stream, read), None, &[]).await,
        Opening::More if read.is_empty() => connection.pass(Silent::new(stream), None, &[]).await,
        Opening::More => {
            let why = "what the connection speaks could not be told in time (`limits.header_read_timeout`)";
            conn.log_refusal(VIA, who(&conn).ok().as_deref(), None, &Refusal::bad_request(why));
        }
        Opening::BrokenTls(why) => {
            conn.log_refusal(VIA, who(&conn).ok().as_deref(), None, &Refusal::bad_request(why));
            say_goodbye(&mut stream, &ACCESS_DENIED).await;
        }
    }
}

/// Where a connection was going, if it may be served at all; and what the kernel knows of its other end.
async fn admit(conn: &mut Conn, stream: &TcpStream, peer: SocketAddr) -> Result<SocketAddr, Refusal> {
    if conn.place.is_none() {
        return Err(conn.shared.limits().no_place());
    }
    let rules = conn.door.load_full();
    let Kind::Transparent { tproxy, caller } = &rules.kind else {
        return Err(Refusal::bad_request("this listener is not transparent any more"));
    };
    let captured = original::destination(stream, *tproxy).ok_or_else(|| {
        Refusal::new(
            Code::DestinationForbidden,
            "nothing redirected this connection: a transparent listener is not to be called itself",
        )
        .with_proxy_error("proxy_loop_detected")
    })?;
    let peer = original::canonical(peer);
    let state = conn.shared.proxy.state();
    // By TPROXY, a connection to a wildcard listener itself looks like a captured one to that port.
    let from = if *tproxy { captured } else { peer };
    state.upstream.egress(&Arc::default())?.check_captured(captured, from)?;
    let asked = rules.same_user || (caller.is_none() && !state.routes.callers().is_empty());
    // A listener on loopback is for what this machine sends, and our own traffic is a part of that.
    // By TPROXY our end has the captured address, which says nothing.
    if asked || *tproxy || conn.local_ip.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        // The other end has the address that it called, not ours.
        conn.evidence.uid = kernel::peer_uid(captured, peer).await;
    }
    let own = conn.evidence.uid == Some(kernel::own_uid());
    match (rules.same_user, own || conn.evidence.uid == Some(0)) {
        (true, false) => Err(not_same_user()),
        (false, _) if own => Err(Refusal::new(
            Code::DestinationForbidden,
            "the connection comes from Countersign's own uid, which the rules have to except (or set `same_user: true`)",
        )
        .with_proxy_error("proxy_loop_detected")),
        _ => Ok(captured),
    }
}

/// Reads until it is clear what a connection speaks; [`Opening::More`] when it is not in time. `None` when it is gone, or
/// when no new work is taken.
async fn listen<S: AsyncRead + Unpin>(conn: &Conn, stream: &mut S) -> Option<(Opening, Vec<u8>)> {
    let until = tokio::time::Instant::now() + conn.shared.limits().patience.header_read;
    let mut read = Vec::with_capacity(FIRST_ROOM);
    let mut sniffer = Sniffer::default();
    loop {
        match sniffer.look(&read) {
            Opening::More if read.len() > LONGEST_OPENING => {
                return Some((Opening::BrokenTls("a greeting that does not end"), read));
            }
            Opening::More => {}
            opening => return Some((opening, read)),
        }
        let more = tokio::select! {
            more = tokio::time::timeout_at(until, stream.read_buf(&mut read)) => more,
            // Not at the beginning of a drain: who has just connected has its request on its way.
            () = conn.shared.part.cancelled() => return None,
        };
        match more {
            Err(_) => return Some((Opening::More, read)),
            Ok(Ok(count)) if count > 0 => {}
            Ok(_) => return None,
        }
    }
}

/// Who is behind a connection: whom the listener says, or the uid that the kernel named.
///
/// # Errors
/// `caller_unknown`.
pub(super) fn who(conn: &Conn) -> Result<Arc<Caller>, Refusal> {
    let rules = conn.door.load();
    if let Kind::Transparent { caller: Some(caller), .. } = &rules.kind {
        return Ok(Arc::clone(caller));
    }
    let state = conn.shared.proxy.state();
    identify::by_connection(state.routes.callers(), &conn.shared.local, &conn.evidence, rules.allow_anonymous)
}

/// A connection whose kind is known.
struct Captured<'a> {
    conn: &'a Arc<Conn>,
    /// Where it was going.
    address: SocketAddr,
}

impl Captured<'_> {
    /// TLS to a name.
    async fn tls(&self, mut stream: TcpStream, read: Vec<u8>, name: &str) {
        let conn = self.conn;
        let (caller, destination) = match (who(conn), self.destination(name)) {
            (Ok(caller), Ok(destination)) => (caller, destination),
            (caller, destination) => {
                let refusal = caller.as_ref().err().or(destination.as_ref().err());
                let (caller, destination) = (caller.as_deref().ok(), destination.as_ref().ok());
                if let Some(refusal) = refusal {
                    conn.log_refusal(VIA, caller, destination, refusal);
                }
                return say_goodbye(&mut stream, &ACCESS_DENIED).await;
            }
        };
        let state = conn.shared.proxy.state();
        let denied = match state.routes.gate(&caller, &destination, None, conn.shared.proxy.clock()) {
            Gate::Intercept => None,
            Gate::Deny(refusal) => Some(refusal),
            Gate::Tunnel(passage) => {
                if let Some(binding) = passage.observed() {
                    tracing::info!(target: "countersign::observe", %destination, binding, "no binding; passed because `unbound: observe`");
                }
                return self.pass(Rewound::new(stream, read), Some(&destination), &ACCESS_DENIED).await;
            }
        };
        if let Some(refusal) = &denied {
            conn.log_refusal(VIA, Some(&caller), Some(&destination), refusal);
        }
        // A refusal is said in a tunnel of our own, where the caller understands it.
        match conn.shared.ca() {
            Some(ca) => {
                intercept::serve(Arc::clone(conn), &ca, Tunnel::captured(destination, caller, denied), stream, read)
                    .await;
            }
            None => {
                if denied.is_none() {
                    let refusal = Refusal::new(Code::InterceptionOff, "the certificate authority is not available");
                    conn.log_refusal(VIA, Some(&caller), Some(&destination), &refusal);
                }
                say_goodbye(&mut stream, &ACCESS_DENIED).await;
            }
        }
    }

    /// The destination that a server name makes of it.
    fn destination(&self, name: &str) -> Result<Destination, Refusal> {
        let no_name = || Refusal::bad_request("the TLS server name is not the name of a host");
        match Host::parse(name) {
            Ok(Host::Name(_)) => {}
            // An address is never a server name (RFC 6066 section 3).
            Ok(Host::Address(_)) | Err(_) => return Err(no_name()),
        }
        Destination::from_captured(Protocol::Https, name, self.address.port())?.ok_or_else(no_name)
    }

    /// Copies it unseen to where it was going, if it may. `named`: the destination it was found to be unbound for. Where it
    /// may not, it hears these last words.
    async fn pass<S>(&self, mut stream: S, named: Option<&Destination>, last_words: &[u8])
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let conn = self.conn;
        let caller = who(conn);
        match self.way(caller.as_ref().map_err(Clone::clone), named).await {
            Ok((caller, place, upstream)) => {
                copy_blind(conn, stream, upstream, VIA_BLIND, named.unwrap_or(&place), caller).await;
            }
            Err(refusal) => {
                let place = Destination::from_connect(&self.address.to_string()).ok();
                conn.log_refusal(VIA_BLIND, caller.ok().as_deref(), named.or(place.as_ref()), &refusal);
                say_goodbye(&mut stream, last_words).await;
            }
        }
    }

    /// A connection to where it was going. The address is judged as a destination, whatever the name was.
    async fn way<'a>(
        &self,
        caller: Result<&'a Arc<Caller>, Refusal>,
        named: Option<&Destination>,
    ) -> Result<(&'a Caller, Destination, TcpStream), Refusal> {
        let caller = caller?;
        let place = Destination::from_connect(&self.address.to_string())?;
        let state = self.conn.shared.proxy.state();
        match state.routes.gate(caller, &place, None, self.conn.shared.proxy.clock()) {
            Gate::Deny(refusal) => return Err(refusal),
            Gate::Intercept => {
                return Err(Refusal::new(
                    Code::DestinationMismatch,
                    format!("{place} has a credential, and the connection does not name it"),
                ));
            }
            Gate::Tunnel(passage) => {
                if let (Some(binding), None) = (passage.observed(), named) {
                    tracing::info!(target: "countersign::observe", destination = %place, binding, "no binding; passed because `unbound: observe`");
                }
            }
        }
        let upstream = state.upstream.egress(&Arc::default())?.tunnel(&place).await?;
        Ok((caller, place, upstream))
    }
}

/// Answers one request that came in cleartext on its way to a port.
pub(super) async fn respond(conn: &Arc<Conn>, port: u16, request: Request<Incoming>) -> Response<Body> {
    let refused = |caller: Option<&Caller>, destination: Option<&Destination>, refusal: &Refusal| {
        conn.log_refusal(VIA, caller, destination, refusal);
        problem(refusal)
    };
    let destination = match destination(&request, port) {
        Ok(destination) => destination,
        Err(refusal) => return refused(who(conn).ok().as_deref(), None, &refusal),
    };
    match who(conn) {
        Ok(caller) => {
            let inbound = Inbound { request, destination, caller, named: None, via: Via::Transparent };
            conn.shared.proxy.handle(inbound).await
        }
        Err(refusal) => refused(None, Some(&destination), &refusal),
    }
}

/// The destination that a request names. Whatever names one must name the same, and the port that was called.
fn destination<B>(request: &Request<B>, port: u16) -> Result<Destination, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::bad_request("CONNECT on a connection that was redirected; call the forward listener"));
    }
    if request.uri().scheme_str().is_some_and(|scheme| scheme != Protocol::Http.as_str()) {
        return Err(Refusal::new(Code::DestinationMismatch, "the request's scheme is not that of the connection"));
    }
    refuse_two_hosts(request.headers())?;
    let host = match request.headers().get(HOST) {
        Some(host) => Some(host.to_str().map_err(|_| Refusal::bad_request("the Host header is not a host name"))?),
        None => None,
    };
    let mut found: Option<Destination> = None;
    for authority in request.uri().authority().map(http::uri::Authority::as_str).into_iter().chain(host) {
        let named = Destination::from_captured(Protocol::Http, authority, port)?.ok_or_else(|| {
            Refusal::new(
                Code::DestinationMismatch,
                format!("the request names another port than {port}, which was called"),
            )
        })?;
        if found.as_ref().is_some_and(|found| *found != named) {
            return Err(Refusal::new(Code::DestinationMismatch, "the Host header names another host than the request"));
        }
        found = Some(named);
    }
    found.ok_or_else(|| Refusal::bad_request("the request names no host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uri: &str, hosts: &[&str], port: u16) -> String {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        match destination(&request.body(()).unwrap(), port) {
            Ok(destination) => destination.to_string(),
            Err(refusal) => refusal.code.as_str().to_owned(),
        }
    }

    #[test]
    fn the_host_of_a_request_and_the_port_that_was_called_are_its_destination() {
        assert_eq!(named("/x", &["API.test"], 80), "http://api.test");
        assert_eq!(named("/x", &["api.test:80"], 80), "http://api.test");
        assert_eq!(named("/x", &["api.test"], 8080), "http://api.test:8080");
        assert_eq!(named("/x", &["192.0.2.1:8080"], 8080), "http://192.0.2.1:8080");
        assert_eq!(named("http://api.test/x", &["api.test."], 80), "http://api.test");
        assert_eq!(named("http://api.test/x", &[], 80), "http://api.test");
    }

    #[test]
    fn what_disagrees_or_names_nothing_is_refused() {
        for (uri, hosts, code) in [
            ("/x", &["api.test:8080"][..], "destination_mismatch"),
            ("http://api.test/x", &["evil.test"], "destination_mismatch"),
            ("http://api.test:81/x", &["api.test"], "destination_mismatch"),
            ("https://api.test/x", &["api.test"], "destination_mismatch"),
            ("/x", &["api.test", "api.test"], "bad_request"),
            ("/x", &["u@api.test"], "bad_request"),
            ("/x", &[""], "bad_request"),
            ("/x", &[], "bad_request"),
        ] {
            assert_eq!(named(uri, hosts, 80), code, "{uri} {hosts:?}");
        }
        let request = Request::builder().method("CONNECT").uri("api.test:443").body(()).unwrap();
        assert_eq!(destination(&request, 80).unwrap_err().code, Code::BadRequest);
    }
}
