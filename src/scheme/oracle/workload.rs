//! The principal of a pod: its service account's token is exchanged for a session token by the cluster itself.
//!
//! <https://docs.oracle.com/en-us/iaas/Content/ContEng/Tasks/contenggrantingworkloadaccesstoresources.htm>; the exchange is as
//! Oracle's SDKs have it (`OkeWorkloadIdentityResourcePrincipalSigner`). The cluster's own CA must be in `upstream.ca_file`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::principal::{SessionKey, authorizer, issued};
use super::variable;
use crate::base::{Authorizer, BoxFuture, ClientOptions, Destination, Environment, Host, HttpClients, Secret};
use crate::sigv4::Skew;
use crate::token::{Failure, FailureKind, Reply, Resting, Service, Token, TokenSource};

/// Where every pod finds the token of its service account, which the cluster replaces before it ends.
pub(super) const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The service account of this pod.
pub(super) struct Workload {
    url: String,
    service: Service,
    token: Resting,
    skew: Arc<Skew>,
}

impl Workload {
    /// The cluster's own endpoint, and the address that it alone may have.
    ///
    /// # Errors
    /// When this runs in no pod.
    pub(super) fn own(environment: &dyn Environment) -> Result<(String, Vec<IpNet>), String> {
        let host = variable(environment, "KUBERNETES_SERVICE_HOST")
            .ok_or("principal: KUBERNETES_SERVICE_HOST is not set: this does not run in a pod")?;
        let host = host.trim();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let allowed = match Host::parse(&host) {
            Ok(Host::Address(address)) => vec![IpNet::from(address)],
            _ => Vec::new(),
        };
        Ok((format!("https://{host}:12250/resourcePrincipalSessionTokens"), allowed))
    }

    /// Calls nobody yet.
    ///
    /// # Errors
    /// When the address is none.
    pub(super) fn new(url: &str, allowed: Vec<IpNet>, token: Resting, http: &dyn HttpClients) -> Result<Self, String> {
        let unfit = |why: String| format!("federation_url: {why}");
        let destination = Destination::from_upstream(url).map_err(|refusal| unfit(refusal.detail.into_owned()))?;
        let options = ClientOptions { allow_addresses: allowed, direct: true, ..ClientOptions::default() };
        let client = http.client(&destination, &options).map_err(unfit)?;
        Ok(Self {
            url: url.to_owned(),
            service: Service::new(destination, client),
            token,
            skew: Arc::new(super::hosts::skew()),
        })
    }
}

/// The answer is JSON in base64, in quotes or not, and its token begins with `ST$`.
fn session(reply: &Reply) -> Result<Secret, Failure> {
    let read = || {
        let text = reply.body().expose().trim_ascii();
        let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
        let document: Value = serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()?;
        document["token"].as_str()?.strip_prefix("ST$").map(Secret::new)
    };
    read().ok_or_else(|| reply.unusable("there is no session token in it"))
}

impl TokenSource for Workload {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let account = self.token.read().await?;
            let key = SessionKey::generate().await?;
            let refused = |why: &str| Failure::new(FailureKind::Refused, why);
            let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", account.expose()].concat())
                .map_err(|_| refused("the service account's token cannot stand in a header"))?;
            bearer.set_sensitive(true);
            let request = Request::builder()
                .method(Method::POST)
                .uri(&self.url)
                .header(CONTENT_TYPE, "application/json")
                .header(AUTHORIZATION, bearer)
                .body(json!({ "podKey": key.public }).to_string().into_bytes())
                .map_err(|_| refused("federation_url cannot stand in a request"))?;
            let rejected = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            let reply = self.service.call(request, &[account], &rejected, now).await;
            let reply = reply.map_err(|failure| match failure.kind {
                FailureKind::Rejected => {
                    let hint = "workload identity needs an enhanced cluster and a policy for this service account";
                    Failure::new(failure.kind, format!("{}; {hint}", failure.detail))
                }
                _ => failure,
            })?;
            issued(&session(&reply)?, key.private.expose(), now, "is the clock of this node right?")
        })
    }

    /// The service account of this pod.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        authorizer(token, &self.skew)
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workload({:?})", self.service)
    }
}
