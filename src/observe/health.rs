//! `/livez`, `/readyz`, `/startupz` and `/quit` on the admin listener: no token, nothing secret.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde::Serialize;

use crate::base::{Code, Host, Refusal};
use crate::proxy::problem;

/// What readiness is made of.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Health {
    /// Whether work is taken.
    pub ready: bool,
    /// Why not, if it is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What was bound: `forward 127.0.0.1:8180`.
    pub listeners: Vec<String>,
    /// Credentials that cannot be used now, by id, with the reason.
    pub unusable_credentials: Vec<String>,
}

/// Who knows how this process is, and may be told to end it.
pub trait Probed: Send + Sync {
    /// How it is now.
    fn health(&self) -> Health;

    /// Whether it has been whole once: from then on it has started, whatever happens.
    fn started(&self) -> bool;

    /// Whether others may end it.
    fn may_quit(&self) -> bool;

    /// Ends it, as SIGTERM does.
    fn quit(&self);
}

type Asked = Arc<dyn Probed>;

/// The routes of the admin listener.
pub fn router(probed: Asked) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/quit", any(quit))
        .layer(middleware::from_fn(refuse_web_pages))
        .with_state(probed)
}

fn answer(good: bool, health: Health) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn readyz(State(probed): State<Asked>) -> Response {
    let health = probed.health();
    answer(health.ready, health)
}

async fn startupz(State(probed): State<Asked>) -> Response {
    answer(probed.started(), probed.health())
}

/// For platforms that cannot send a sidecar a signal. What is switched off is not there.
async fn quit(State(probed): State<Asked>, method: Method) -> Response {
    if !probed.may_quit() {
        return StatusCode::NOT_FOUND.into_response();
    }
    if method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    probed.quit();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

/// A page in a browser on this machine must not read even this (DNS rebinding).
pub(super) async fn refuse_web_pages(request: Request, next: Next) -> Response {
    if may_ask(request.headers()) {
        return next.run(request).await;
    }
    let refusal = Refusal::new(
        Code::DestinationMismatch,
        "the admin listener answers to addresses and localhost, and to no web page",
    );
    problem(&refusal).map(axum::body::Body::new)
}

fn may_ask(headers: &HeaderMap) -> bool {
    let named = |authority: &str| {
        let host = authority
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(authority, |(host, _)| host);
        matches!(Host::parse(host), Ok(Host::Address(_))) || host.eq_ignore_ascii_case("localhost")
    };
    let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
    let own = matches!(hosts[..], [host] if host.to_str().is_ok_and(named));
    own && !headers.contains_key(header::ORIGIN) && headers.get("sec-fetch-site").is_none_or(|site| site == "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_or_localhost_may_be_asked_for() {
        let with = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            may_ask(&headers)
        };
        assert!(with(&[("host", "127.0.0.1:8190")]));
        assert!(with(&[("host", "10.0.0.3:8190")]), "a kubelet probes the pod's address");
        assert!(with(&[("host", "[::1]:8190")]));
        assert!(with(&[("host", "localhost")]));
        assert!(!with(&[]));
        assert!(!with(&[("host", "evil.test:8190")]));
        assert!(!with(&[("host", "127.0.0.1"), ("origin", "http://evil.test")]));
        assert!(!with(&[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")]));
    }
}
