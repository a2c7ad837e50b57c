//! What Google's programs want before they send anything: a service account's key, and an endpoint that gives tokens for it.
//!
//! Both are made for one command and open nothing: a program that has them sends its requests, and Countersign puts the
//! real token in the place of the worthless one. Without a key such a program does not even begin, and none of its
//! settings takes a token as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};

use super::endpoint::{LIFE, Listener, Serving, WORTHLESS, end, unsigned};
use super::supervise::write_private;
use crate::base::Clock;

/// Where Google's programs find keys, or another way to some: not for the command.
pub(super) const KEYS: [&str; 11] = [
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_CLOUD_KEYFILE_JSON",
    "GCLOUD_KEYFILE_JSON",
    "GOOGLE_GHA_CREDS_PATH",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
];

/// The key file and the endpoint, until it is dropped.
pub(super) struct Google {
    file: PathBuf,
    _serving: Serving,
}

impl Google {
    /// Makes the key file in a private folder, and listens.
    pub(super) async fn begin(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let listener = Listener::bind().await?;
        let file = folder.join("google-credentials.json");
        let document = json!({
            "type": "service_account",
            "client_email": "worthless@countersign.invalid",
            "client_id": "0",
            "private_key_id": "worthless",
            "private_key": key()?,
            "token_uri": format!("http://{}/token", listener.address()),
        });
        write_private(&file, document.to_string().as_bytes()).map_err(|error| error.to_string())?;
        let tokens = axum::Router::new().route("/token", post(move || async move { Json(tokens(clock.now())) }));
        Ok(Self { file, _serving: listener.serve(tokens) })
    }

    /// Where the command finds them.
    pub(super) fn variables(&self) -> [(&'static str, &Path); 2] {
        ["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"].map(|name| (name, &*self.file))
    }
}

/// A new key that nobody knows.
fn key() -> Result<String, String> {
    let made = || {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let der: Pkcs8V1Der<'_> = pair.as_der()?;
        Ok::<_, aws_lc_rs::error::Unspecified>(pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref())))
    };
    made().map_err(|_| "no key can be made".into())
}

/// An access token, and an ID token whose end can be read and nothing else.
fn tokens(now: SystemTime) -> Value {
    let id_token = unsigned(&json!({ "exp": end(now) }));
    json!({ "access_token": WORTHLESS, "expires_in": LIFE, "token_type": "Bearer", "id_token": id_token })
}
