//! What authenticates one request: the seam between what a credential is and what is done to a request.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use super::{Body, BodyNeed, Destination, Mutations, Refusal, RequestView};

/// Signs requests: with a fixed key, or with one token for as long as that lives. `Debug` shows no secret.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// What must be known of the body first.
    ///
    /// # Errors
    /// When the request cannot be signed whatever its body is.
    fn body_need(&self, _view: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
        Ok(BodyNeed::None)
    }

    /// The instructions that authenticate this request at this time.
    ///
    /// # Errors
    /// When the request cannot be signed.
    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Authorized, Refusal>;

    /// Whether this provider's errors say what was wrong with the signature, so that the beginning of a 400, 401 or 403 is
    /// worth reading.
    fn reads_errors(&self) -> bool {
        false
    }

    /// What an answer says about what the request was signed with. `now` is when it came.
    fn verdict(&self, answer: &AnswerView<'_>, _now: SystemTime) -> Verdict {
        if answer.status == StatusCode::UNAUTHORIZED { Verdict::Token } else { Verdict::Fine }
    }
}

/// Makes a body of a request another one, frame by frame: for bodies that carry signatures of their own.
pub type Rewrite = Box<dyn FnOnce(Body) -> Body + Send>;

/// How a request is authenticated.
pub struct Authorized {
    /// What changes in the head.
    pub mutations: Arc<Mutations>,
    /// What becomes of the body, if it does not go out as it is.
    pub rewrite: Option<Rewrite>,
    /// Whatever the authorizer wants to be told again when it judges the answer.
    pub mark: i64,
}

impl From<Mutations> for Authorized {
    fn from(mutations: Mutations) -> Self {
        Self { mutations: Arc::new(mutations), rewrite: None, mark: 0 }
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorized").field("mutations", &self.mutations).finish_non_exhaustive()
    }
}

/// An upstream's answer, as far as it is worth judging.
#[derive(Debug, Clone, Copy)]
pub struct AnswerView<'a> {
    /// Whose answer it is.
    pub destination: &'a Destination,
    /// The mark of what was signed.
    pub mark: i64,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The beginning of its body, for an authorizer that [reads errors](Authorizer::reads_errors).
    pub body: &'a [u8],
}

/// What an answer says about what the request was signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// The token was refused.
    Token,
    /// The time was refused, and signing is corrected by now.
    Clock,
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
    fn authorize(&self, _: &RequestView<'_>, _: SystemTime) -> Result<Authorized, Refusal> {
        Ok(Authorized { mutations: Arc::clone(&self.0), rewrite: None, mark: 0 })
    }
}
