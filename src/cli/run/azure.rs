//! What Azure's programs want before they send anything: an endpoint that gives them tokens. It speaks as App Service's does,
//! which every library of Azure's asks of itself, and its tokens are worth nothing: Countersign puts the real one in their place.
//!
//! <https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference>

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::Request;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::endpoint::{Listener, Serving, end, unsigned};
use crate::base::Deps;
use crate::base::text::hex;

/// Where Azure's clients, Terraform and the tools of storage find a proof of their own, or a way to one: not for the command.
pub(super) const KEYS: [&str; 25] = [
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "ARM_CLIENT_SECRET",
    "ARM_CLIENT_SECRET_FILE_PATH",
    "ARM_CLIENT_CERTIFICATE",
    "ARM_CLIENT_CERTIFICATE_PATH",
    "ARM_CLIENT_CERTIFICATE_PASSWORD",
    "ARM_OIDC_TOKEN",
    "ARM_OIDC_TOKEN_FILE_PATH",
    "ARM_OIDC_REQUEST_TOKEN",
    "ARM_ACCESS_KEY",
    "ARM_SAS_TOKEN",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
];

const PATH: &str = "/msi/token";
const VERSION: &str = "2019-08-01";

/// The endpoint, until it is dropped.
pub(super) struct Azure {
    url: String,
    header: Arc<str>,
    _serving: Serving,
}

impl Azure {
    /// Listens.
    pub(super) async fn begin(deps: &Deps) -> Result<Self, String> {
        let mut header = [0; 16];
        if !deps.random.fill(&mut header) {
            return Err("the system gives no randomness".into());
        }
        let header: Arc<str> = hex(&header).into();
        let listener = Listener::bind().await?;
        let url = format!("http://{}{PATH}", listener.address());
        let (clock, known) = (Arc::clone(&deps.clock), Arc::clone(&header));
        let answers = axum::Router::new().fallback(move |request: Request| async move {
            let (status, document) = answer(&request, &known, clock.now());
            (status, Json(document))
        });
        Ok(Self { url, header, _serving: listener.serve(answers) })
    }

    /// Where the command finds it. Who has logged in on this host is not looked for: `prod` leaves that out.
    pub(super) fn variables(&self) -> [(&'static str, &str); 3] {
        [("IDENTITY_ENDPOINT", &self.url), ("IDENTITY_HEADER", &self.header), ("AZURE_TOKEN_CREDENTIALS", "prod")]
    }
}

/// A token for whatever it is asked for, or why there is none.
fn answer<B>(request: &http::Request<B>, header: &str, now: SystemTime) -> (StatusCode, Value) {
    let refused = |status: StatusCode, why: &str| (status, json!({ "statusCode": status.as_u16(), "message": why }));
    if request.headers().get("x-identity-header").is_none_or(|given| given != header) {
        return refused(StatusCode::UNAUTHORIZED, "X-IDENTITY-HEADER is not that of this command");
    }
    if request.method() != Method::GET || request.uri().path() != PATH {
        return refused(StatusCode::NOT_FOUND, "there are only tokens here");
    }
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
    let asked = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let (Some(resource), Some(VERSION)) = (asked("resource"), asked("api-version").map(|value| &**value)) else {
        return refused(StatusCode::BAD_REQUEST, "resource, and api-version 2019-08-01, are required");
    };
    let end = end(now);
    let mut document = json!({
        "access_token": unsigned(&json!({ "aud": resource, "exp": end })),
        "expires_on": end.to_string(),
        "resource": resource,
        "token_type": "Bearer",
    });
    if let Some(id) = asked("client_id") {
        document["client_id"] = json!(id);
    }
    (StatusCode::OK, document)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const ASKED: &str = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net&client_id=mine";

    fn asked(method: &str, target: &str, header: Option<&str>) -> (u16, Value) {
        let mut request = http::Request::builder().method(method).uri(target);
        if let Some(header) = header {
            request = request.header("X-IDENTITY-HEADER", header);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (status, document) = answer(&request.body(()).unwrap(), "known", now);
        (status.as_u16(), document)
    }

    #[test]
    fn whoever_knows_the_header_gets_a_token_as_app_service_words_it() {
        let (status, document) = asked("GET", ASKED, Some("known"));
        assert_eq!(status, 200, "{document}");
        assert_eq!(document["expires_on"], "1700003600");
        assert_eq!(document["resource"], "https://vault.azure.net");
        assert_eq!((&document["token_type"], &document["client_id"]), (&json!("Bearer"), &json!("mine")));
        let claims = document["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims, json!({ "aud": "https://vault.azure.net", "exp": 1_700_003_600 }));
    }

    #[test]
    fn anything_else_gets_none() {
        for (method, target, header, wanted) in [
            ("GET", ASKED, None, 401),
            ("GET", ASKED, Some("another"), 401),
            ("GET", ASKED, Some(""), 401),
            ("POST", "/", None, 401),
            ("POST", ASKED, Some("known"), 404),
            ("GET", "/?api-version=2019-08-01&resource=r", Some("known"), 404),
            ("GET", "/msi/token", Some("known"), 400),
            ("GET", "/msi/token?api-version=2019-08-01&resource=", Some("known"), 400),
            ("GET", "/msi/token?api-version=2017-09-01&resource=r", Some("known"), 400),
        ] {
            let (status, document) = asked(method, target, header);
            assert!(
                status == wanted && document.get("access_token").is_none(),
                "{method} {target}: {status} {document}"
            );
        }
    }
}
