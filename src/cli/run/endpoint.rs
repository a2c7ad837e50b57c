//! Endpoints of one command's own, which give tokens that are worth nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(super) const WORTHLESS: &str = "worthless-countersign-puts-in-the-real-one";

/// How long a worthless token is said to live, in seconds.
pub(super) const LIFE: u64 = 3600;

/// A listener on loopback, until it is dropped.
pub(super) struct Listener(TcpListener, SocketAddr);

impl Listener {
    pub(super) async fn bind() -> Result<Self, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Self(listener, address))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.1
    }

    pub(super) fn serve(self, router: axum::Router) -> Serving {
        Serving(tokio::spawn(async move {
            // It ends with its task.
            let _ = axum::serve(self.0, router).await;
        }))
    }
}

/// An endpoint that answers, until it is dropped.
pub(super) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// When a token that is given now is said to end, in seconds since 1970.
pub(super) fn end(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() + LIFE
}

/// A JWT whose claims can be read, and nothing else.
pub(super) fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({ "alg": "RS256", "typ": "JWT" }));
    format!("{header}.{}.{}", part(claims), URL_SAFE_NO_PAD.encode(WORTHLESS))
}
