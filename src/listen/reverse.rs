//! The reverse listener: plain requests whose path names a route. Browser-proof: a web page that can reach it cannot use it.

use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::uri::Authority;
use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::door::{Door, Kind, Route};
use super::forward::who;
use super::identify::{self, Identity};
use super::shared::Conn;
use crate::base::{Body, Code, Destination, Host, Protocol, Refusal};
use crate::proxy::{Inbound, Links, Via, problem, refuse_two_hosts};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Answers one request on a reverse listener.
pub(super) async fn respond(conn: &Arc<Conn>, request: Request<Incoming>) -> Response<Body> {
    match inbound(conn, request).await {
        Ok(inbound) => conn.shared.proxy.handle(inbound).await,
        Err(refusal) => {
            conn.log_refusal("reverse", None, None, &refusal);
            problem(&refusal)
        }
    }
}

async fn inbound(conn: &Arc<Conn>, mut request: Request<Incoming>) -> Result<Inbound, Refusal> {
    let door = conn.door.load();
    let Kind::Reverse { server_names, routes } = &door.kind else {
        return Err(Refusal::bad_request("this listener has become a forward proxy; open a new connection"));
    };
    if request.method() == Method::CONNECT {
        return Err(Refusal::bad_request("a reverse listener opens no tunnels; use a forward listener"));
    }
    let host = own_host(conn, &door, server_names, &request)?;
    let path = request.uri().path();
    let route = routes
        .iter()
        .find(|route| route.prefix.matches(path))
        .ok_or_else(|| Refusal::new(Code::NoRoute, "no route of this listener has a prefix of this path"))?;
    refuse_web_pages(request.headers(), route)?;
    let Identity { caller, named } = who(conn, identify::Door::Reverse, request.headers()).await?;
    let target = route.target(request.uri())?;
    let scheme = if door.tls.is_some() { Protocol::Https } else { Protocol::Http };
    let links =
        Links { protocol: scheme, authority: host, prefix: route.prefix.clone(), base: Arc::clone(&route.base) };
    let via = Via::Route {
        binding: route.bound.then(|| Arc::clone(&route.name)),
        links: Box::new(links),
        confined: !route.base.is_empty(),
    };
    let destination = route.destination.clone();
    *request.uri_mut() = target;
    Ok(Inbound { request, destination, caller, named, via })
}

/// The Host that the caller wrote, if it is one that this listener answers to: a page on another name that resolves here
/// (DNS rebinding) is refused.
fn own_host(
    conn: &Conn,
    door: &Arc<Door>,
    names: &[Host],
    request: &Request<Incoming>,
) -> Result<HeaderValue, Refusal> {
    refuse_two_hosts(request.headers())?;
    let header = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str);
    if let (Some(host), None) | (None, Some(host)) = (authority, header)
        && let Some(own) = conn.own_host.known(door, host.as_bytes())
    {
        return Ok(own);
    }
    let scheme = if door.tls.is_some() { Protocol::Https } else { Protocol::Http };
    let parse = |text: &str| Destination::from_authority(scheme, text);
    let host = match (authority, header) {
        (Some(authority), Some(header)) if parse(authority)? != parse(header)? => {
            return Err(Refusal::new(
                Code::DestinationMismatch,
                "the Host header and the request's authority disagree",
            ));
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(Refusal::bad_request("the request names no host")),
    };
    let named = parse(host)?;
    let own = match named.host() {
        Host::Name(name) => &**name == "localhost" || names.contains(named.host()),
        Host::Address(address) => {
            names.contains(named.host())
                || conn.local_ip.is_some_and(|own| own.to_canonical() == address.to_canonical())
        }
    };
    if own {
        // A copy, since a header holds the whole buffer that it was read into.
        let host = HeaderValue::from_str(host).map_err(|_| Refusal::bad_request("the request names no host"))?;
        conn.own_host.remember(door, &host);
        return Ok(host);
    }
    Err(Refusal::new(
        Code::DestinationMismatch,
        format!(
            "this listener does not answer to {}; its own address and localhost do, and names in `server_names`",
            named.host()
        ),
    ))
}

/// Browsers say where a request comes from; only listed pages may use a route.
fn refuse_web_pages(headers: &HeaderMap, route: &Route) -> Result<(), Refusal> {
    let forbidden = |what: &str| {
        Err(Refusal::new(Code::DestinationForbidden, format!("{what}; `allow_origins` of the route would permit it"))
            .with_proxy_error("http_request_denied"))
    };
    let origins = headers.get_all(ORIGIN);
    let listed = |value: &HeaderValue| route.allow_origins.iter().any(|origin| value.as_bytes() == origin.as_bytes());
    if !origins.iter().all(listed) {
        return forbidden("a web page may not use this route");
    }
    let foreign = headers.get_all(SEC_FETCH_SITE).iter().any(|value| value.as_bytes() != b"none");
    if foreign && !headers.contains_key(ORIGIN) {
        return forbidden("a browser may not use this route from a page");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathPrefix;

    fn route(prefix: &str, base: &str) -> Route {
        Route {
            name: "r".into(),
            bound: true,
            prefix: PathPrefix::parse(prefix).unwrap(),
            destination: Destination::from_upstream("https://api.test").unwrap(),
            base: base.into(),
            allow_origins: vec!["https://app.test".into()],
        }
    }

    #[test]
    fn the_prefix_is_stripped_and_every_other_byte_stays() {
        let target = |prefix, base, path: &str| route(prefix, base).target(&path.parse().unwrap()).unwrap().to_string();
        assert_eq!(target("/azure", "", "/azure/a%2Fb?q=%20+"), "/a%2Fb?q=%20+");
        assert_eq!(target("/azure", "", "/azure?x"), "/?x");
        assert_eq!(target("/azure", "/v1", "/azure"), "/v1");
        assert_eq!(target("/azure", "/v1", "/azure//x"), "/v1//x");
        assert_eq!(target("/", "", "/a"), "/a");
    }

    #[test]
    fn only_a_listed_page_may_use_a_route() {
        let refused = |pairs: &[(&str, &str)], route: &Route| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            refuse_web_pages(&headers, route).is_err()
        };
        let open = route("/", "");
        let closed = Route { allow_origins: vec![], ..route("/", "") };
        assert!(!refused(&[], &closed));
        assert!(!refused(&[("sec-fetch-site", "none")], &closed));
        assert!(refused(&[("sec-fetch-site", "same-origin")], &closed));
        assert!(refused(&[("sec-fetch-site", "cross-site")], &closed));
        assert!(refused(&[("origin", "https://app.test")], &closed));
        assert!(!refused(&[("origin", "https://app.test"), ("sec-fetch-site", "cross-site")], &open));
        assert!(refused(&[("origin", "https://evil.test")], &open));
        assert!(refused(&[("origin", "null")], &open));
        assert!(refused(&[("sec-fetch-site", "cross-site")], &open), "no Origin says which page it was");
        assert!(refused(&[("origin", "https://app.test"), ("origin", "https://evil.test")], &open));
    }
}
