//! Calls that Countersign makes for itself (token endpoints, secret sources): the seam that `upstream` implements.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Destination, Secret};

/// A future that somebody else runs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Calls one endpoint. Never follows a redirect; an answer of any status is an answer.
pub trait HttpClient: Send + Sync + fmt::Debug {
    /// Sends a request whose address names the endpoint this client was made for, and reads the whole answer, which may
    /// have up to a mebibyte.
    ///
    /// # Errors
    /// When there is no whole answer.
    fn call(&self, request: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>>;
}

/// Makes clients.
pub trait HttpClients: Send + Sync + fmt::Debug {
    /// A client for one endpoint.
    ///
    /// # Errors
    /// When the TLS library refuses the certificate or key.
    fn client(&self, endpoint: &Destination, options: &ClientOptions) -> Result<Arc<dyn HttpClient>, String>;
}

/// What an endpoint needs beside its address.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Addresses that are normally refused and that this endpoint may have.
    pub allow_addresses: Vec<IpNet>,
    /// A client certificate chain and its key, both PEM, for mutual TLS (RFC 8705).
    pub identity: Option<(Secret, Secret)>,
    /// Never through the corporate proxy: a metadata service answers whoever asks from this very host.
    pub direct: bool,
    /// From the first byte to the last, when that is to be less than the usual time; connecting may take half of it.
    pub timeout: Option<Duration>,
    /// Roots (PEM) that its certificate must come from, in place of all others; read when the client is made.
    pub only_roots: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct CallError {
    /// For a person; holds no secret.
    pub detail: String,
    /// Whether the request may have reached the other side: what spends something (a refresh token) must then not be
    /// repeated blindly.
    pub sent: bool,
}
