//! The forward listener: requests in absolute form, and CONNECT.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;

use super::door::Kind;
use super::identify::{self, Finding, Identity};
use super::intercept;
use super::shared::Conn;
use crate::base::{Body, Code, Destination, NotVouched, Refusal, Secret};
use crate::proxy::{Inbound, Via, problem, refuse_two_hosts};
use crate::route::{Caller, Gate};

/// When somebody who vouches is asked again after it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
        Ok(destination) => match absolute(conn, request, destination).await {
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

async fn absolute(conn: &Arc<Conn>, request: Request<Incoming>, destination: &Destination) -> Result<Inbound, Refusal> {
    agree(request.headers(), destination)?;
    let Identity { caller, named } = who(conn, identify::Door::Forward, request.headers()).await?;
    Ok(Inbound { request, destination: destination.clone(), caller, named, via: Via::Forward })
}

/// The caller of a request on this connection, and the credential it names by the channel.
pub(super) async fn who(conn: &Conn, door: identify::Door, headers: &HeaderMap) -> Result<Identity, Refusal> {
    let settings = conn.door.load();
    let state = conn.shared.proxy.state();
    let callers = state.routes.callers();
    let voucher = state.voucher.as_deref();
    let (local, anonymous) = (&conn.shared.local, settings.allow_anonymous);
    let finding = identify::identify(callers, local, &conn.evidence, door, headers, anonymous, voucher)?;
    let mut identity = match finding {
        Finding::Known(identity) => identity,
        Finding::Foreign(foreign) => {
            let caller = vouched(conn, &foreign.token).await?;
            foreign.identity(caller, door)?
        }
    };
    if let Some((_, Some(credential))) = &settings.run {
        identity.named.get_or_insert_with(|| Arc::clone(credential));
    }
    Ok(identity)
}

/// The caller that somebody else vouches for, as that stands now.
async fn vouched(conn: &Conn, token: &Secret) -> Result<Option<Arc<Caller>>, Refusal> {
    let state = conn.shared.proxy.state();
    let Some(voucher) = &state.voucher else { return Ok(None) };
    let verdict = match voucher.remembered(token.expose()) {
        Some(verdict) => verdict,
        None => voucher.ask(token).await,
    };
    match verdict {
        Ok(vouched) => Ok(state.routes.callers().by_voucher(&vouched, token)),
        Err(NotVouched::Refused(why)) => Err(Refusal::new(Code::CallerUnknown, why)),
        // What went wrong is in our log: it is about our own network, and nobody has proven anything yet.
        Err(NotVouched::Unavailable(_)) => {
            let why = "the caller's service account token cannot be verified for now";
            Err(Refusal::new(Code::TokenEndpointUnavailable, why).with_retry_after(ASK_AGAIN))
        }
    }
}

/// The caller of a tunnel at one of its later requests: whoever was vouched for must be vouched for still.
pub(super) async fn still(conn: &Conn, caller: &Arc<Caller>) -> Result<Arc<Caller>, Refusal> {
    let Some(token) = caller.vouched_token() else { return Ok(Arc::clone(caller)) };
    let now = vouched(conn, token).await?.filter(|now| now.name == caller.name);
    now.ok_or_else(|| Refusal::new(Code::CallerUnknown, "this caller is no longer known; open a new connection"))
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
    let Identity { caller, named } = who(conn, identify::Door::Forward, request.headers()).await?;
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
