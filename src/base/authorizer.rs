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

    /// Whether an answer of this status may be about what the request was signed with, so that it is worth a
    /// [verdict](Authorizer::verdict). Asked of answers that are no success.
    fn suspects(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::UNAUTHORIZED => true,
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => self.reads_errors(),
            _ => false,
        }
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

/// A credential of a scheme that is asked before it can answer (digest, NTLM). `Debug` shows no secret.
///
/// A conversation about one request goes so: what is [remembered](Challenged::remembered) signs it at once. Where nothing
/// is, its head goes out alone with the [opening](Challenged::opening), the server's 401 asks, and what
/// [answers](Challenged::answer) signs the request itself.
pub trait Challenged: Send + Sync + fmt::Debug {
    /// Whether what was proven holds for the connection over which it was, which then belongs to this credential and one
    /// caller alone, or for any connection.
    fn holds(&self) -> Holds;

    /// What signs this request without the server being asked again.
    fn remembered(&self, _view: &RequestView<'_>) -> Option<Arc<dyn Authorizer>> {
        None
    }

    /// What the head carries that goes first, without the body.
    ///
    /// # Errors
    /// When there is nothing to begin with.
    fn opening(&self) -> Result<Mutations, Refusal>;

    /// What signs this request, now that the server asked.
    ///
    /// # Errors
    /// `credential_rejected` when the server asks for what cannot be given: another scheme, an algorithm that is not known.
    fn answer(&self, view: &RequestView<'_>, challenge: &Challenge<'_>) -> Result<Arc<dyn Authorizer>, Refusal>;

    /// Whether a server that refused an answer says that only its nonce was old, so that another answer is worth it.
    fn is_stale(&self, _headers: &HeaderMap) -> bool {
        false
    }

    /// What a server said beside its answer to a signed request: a nonce for the next one. `refused` when the answer was
    /// 401: what is remembered for this place is not used again.
    fn heard(&self, _view: &RequestView<'_>, _headers: &HeaderMap, _refused: bool) {}
}

/// How far a proof reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The connection, and whatever is sent over it.
    ForConnection,
    /// The request.
    ForRequest,
}

/// What a server asks before it lets a request in.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// The headers of its 401.
    pub headers: &'a HeaderMap,
    /// The end-entity certificate of the server in DER, over TLS.
    pub certificate: Option<&'a [u8]>,
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
