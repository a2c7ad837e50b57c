//! The seam by which a room below the schemes has its own requests signed by a credential.

use std::fmt;

use http::Request;

use super::error::Refusal;
use super::http_client::BoxFuture;

/// Signs requests of ours with a credential, to the hosts that it is for.
pub trait RequestSigner: Send + Sync + fmt::Debug {
    /// Signs a request with the credential of that id.
    ///
    /// # Errors
    /// Why not: there is none of that id, it has no token, or it is not for that host.
    fn sign<'a>(
        &'a self,
        credential: &'a str,
        request: Request<Vec<u8>>,
    ) -> BoxFuture<'a, Result<SignedRequest, Refusal>>;
}

/// A request that a credential signed.
pub struct SignedRequest {
    /// Ready to be sent.
    pub request: Request<Vec<u8>>,
    /// To be called when the answer says that the token it was signed with is dead: drops it, and says whether signing
    /// once more is worth it.
    pub refused: Option<Box<dyn FnOnce() -> bool + Send>>,
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedRequest")
    }
}
