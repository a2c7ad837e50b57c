//! The forward listener: requests in absolute form, and CONNECT.

use std::sync::Arc;

use http::header::{HOST, HeaderMap};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;

use super::door::Kind;
use super::identify::{self, Identity};
use super::intercept;
use super::shared::Conn;
use crate::base::{Body, Code, Destination, Refusal};
use crate::proxy::{Inbound, Via, problem, refuse_two_hosts};
use crate::route::{Caller, Gate};

/// Answers one request on a forward listener.
pub(super) async fn respond(conn: &Arc<Conn>, request: Request<Incoming>) -> Response<Body> {
    let connect_to = request.method() == Method::CONNECT;
    let destination = destination(&request);
    let (caller, answer) = match &destination {
        Err(refusal) => (None, Err(refusal.clone())),
        Ok(destination) if connect_to => {
            let mut caller = None;
            let answer = connect(conn, request, destination, &mut caller).await;
            (caller, answer)
        }
        Ok(destination) => match absolute(conn, request, destination) {
            Ok(inbound) => return conn.shared.proxy.handle(inbound).await,
            Err(refusal) => (None, Err(refusal)),
        },
    };
    answer.unwrap_or_else(|refusal| {
        conn.log_refusal("forward", caller.as_deref(), destination.as_ref().ok(), &refusal);
        problem(&refusal)
    })
}

/// The destination that the request line names: the CONNECT target, or the address of an absolute form.
fn destination(request: &Request<Incoming>) -> Result<Destination, Refusal> {
    let Some(authority) = request.uri().authority() else {
        return Err(Refusal::bad_request(
            "this is a forward proxy: the request line must hold the whole address (a reverse listener takes paths)",
        ));
    };
    if request.method() == Method::CONNECT {
        Destination::from_connect(authority.as_str())
    } else {
        Destination::from_absolute(request.uri())
    }
}

fn absolute(conn: &Arc<Conn>, request: Request<Incoming>, destination: &Destination) -> Result<Inbound, Refusal> {
    agree(request.headers(), destination)?;
    let Identity { caller, named } = who(conn, identify::Door::Forward, request.headers())?;
    Ok(Inbound { request, destination: destination.clone(), caller, named, via: Via::Forward })
}

/// The caller of a request on this connection, and the credential it names by the channel.
pub(super) fn who(conn: &Conn, door: identify::Door, headers: &HeaderMap) -> Result<Identity, Refusal> {
    let settings = conn.door.load();
    let state = conn.shared.proxy.state();
    let callers = state.routes.callers();
    let mut identity =
        identify::identify(callers, &conn.shared.local, &conn.evidence, door, headers, settings.allow_anonymous)?;
    if let Some((_, Some(credential))) = &settings.run {
        identity.named.get_or_insert_with(|| Arc::clone(credential));
    }
    Ok(identity)
}

/// Refuses a Host header that names anything but the destination.
pub(super) fn agree(headers: &HeaderMap, destination: &Destination) -> Result<(), Refusal> {
    refuse_two_hosts(headers)?;
    match headers.get(HOST) {
        Some(host) if !destination.is_named_by(host.as_bytes()) => Err(Refusal::new(
            Code::DestinationMismatch,
            format!("the Host header names another host than {destination}"),
        )),
        _ => Ok(()),
    }
}

async fn connect(
    conn: &Arc<Conn>,
    request: Request<Incoming>,
    destination: &Destination,
    who_called: &mut Option<Arc<Caller>>,
) -> Result<Response<Body>, Refusal> {
    // Clients write the Host of a CONNECT with and without the port; both name the same host.
    if request.version() < Version::HTTP_2 && !host_without_port(request.headers(), destination) {
        agree(request.headers(), destination)?;
    }
    let Identity { caller, named } = who(conn, identify::Door::Forward, request.headers())?;
    *who_called = Some(Arc::clone(&caller));
    let state = conn.shared.proxy.state();
    match state.routes.gate(&caller, destination, named.as_deref(), conn.shared.proxy.clock()) {
        Gate::Deny(refusal) => Err(refusal),
        Gate::Intercept => {
            if !matches!(conn.door.load().kind, Kind::Forward { intercept: true }) {
                return Err(Refusal::new(
                    Code::InterceptionOff,
                    format!("{destination} has a credential, and this listener has `intercept: false`"),
                ));
            }
            let Some(ca) = conn.shared.ca() else {
                return Err(Refusal::new(Code::InterceptionOff, "the certificate authority is not available"));
            };
            intercept::spawn(conn, ca, hyper::upgrade::on(request), destination.clone(), caller, named);
            Ok(Response::new(Body::empty()))
        }
        Gate::Tunnel(passage) => {
            let stream = state.upstream.egress(&Arc::default())?.tunnel(destination).await?;
            if let Some(binding) = passage.observed() {
                tracing::info!(target: "countersign::observe", %destination, binding, "no binding; passed because `unbound: observe`");
            }
            intercept::spawn_blind(conn, hyper::upgrade::on(request), stream, destination.clone(), &caller);
            Ok(Response::new(Body::empty()))
        }
    }
}

fn host_without_port(headers: &HeaderMap, destination: &Destination) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(|host| crate::base::Host::parse(host).is_ok_and(|host| host == *destination.host()))
}
