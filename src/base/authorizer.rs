//! What authenticates one request: the seam between what a credential is and what is done to a request.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{BodyNeed, Mutations, Refusal, RequestView};

/// Signs requests: with a fixed key, or with one token for as long as that lives. `Debug` shows no secret.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// What must be known of the body first.
    fn body_need(&self, _view: &RequestView<'_>) -> BodyNeed {
        BodyNeed::None
    }

    /// The instructions that authenticate this request at this time.
    ///
    /// # Errors
    /// When the request cannot be signed.
    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Arc<Mutations>, Refusal>;
}

/// The same instructions for every request: fixed keys and bearer tokens, prepared once.
#[derive(Debug)]
pub struct Prepared(Arc<Mutations>);

impl Prepared {
    /// Instructions that depend on no request.
    pub fn new(mutations: Mutations) -> Self {
        Self(Arc::new(mutations))
    }
}

impl Authorizer for Prepared {
    fn authorize(&self, _: &RequestView<'_>, _: SystemTime) -> Result<Arc<Mutations>, Refusal> {
        Ok(Arc::clone(&self.0))
    }
}
