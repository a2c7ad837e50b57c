//! Why the API does not do what it was asked for. Each way in renders it in its own form.

use std::time::Duration;

use http::StatusCode;

use crate::base::AuditUnavailable;
use crate::store::StoreError;

/// The kinds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request cannot be understood.
    BadRequest,
    /// Nobody whom we know sent it.
    Unauthorized,
    /// Whoever sent it may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// It exists already, is declared in the file, or was changed meanwhile.
    Conflict,
    /// `If-Match` or `If-None-Match` says otherwise.
    Precondition,
    /// The body is larger than any that is meant.
    TooLarge,
    /// Understood, and not to be done: what to change is said.
    Unprocessable,
    /// Too many requests.
    TooMany,
    /// The store, the audit record or the issuer cannot be used now.
    Unavailable,
    /// Our own fault.
    Internal,
}

/// An error of the API. No text of it repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// Which kind.
    pub kind: ErrorKind,
    /// A sentence that says what to change.
    pub detail: String,
    /// The key that it is about, as the configuration file spells it: `settings.token_url`.
    pub path: Option<String>,
    /// When it is worth asking again.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), path: None, retry_after: None }
    }

    /// The request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, detail)
    }

    /// Nobody whom we know sent it.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthorized, detail)
    }

    /// Whoever sent it may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, detail)
    }

    /// There is no such thing.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {what}"))
    }

    /// It cannot be, since something else is.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, detail)
    }

    /// A condition of the request does not hold.
    pub fn precondition(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Precondition, detail)
    }

    /// Understood, and wrong at this key.
    pub fn unprocessable(path: impl Into<String>, detail: impl Into<String>) -> Self {
        let path = path.into();
        Self { path: (!path.is_empty()).then_some(path), ..Self::new(ErrorKind::Unprocessable, detail) }
    }

    /// Too many requests; the next may come after this time.
    pub fn too_many(after: Duration) -> Self {
        let detail = "too many requests; `admin.rate_limit` says how many there may be";
        Self { retry_after: Some(after), ..Self::new(ErrorKind::TooMany, detail) }
    }

    /// Something that is needed cannot be used now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        // As long as a database takes to restart.
        Self { retry_after: Some(Duration::from_secs(2)), ..Self::new(ErrorKind::Unavailable, detail) }
    }

    /// Our own fault.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, detail)
    }

    /// The status that says the same.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Precondition => StatusCode::PRECONDITION_FAILED,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// For programs.
    pub fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::NotFound => "not_found",
            ErrorKind::MethodNotAllowed => "method_not_allowed",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Precondition => "precondition_failed",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Unprocessable => "unprocessable",
            ErrorKind::TooMany => "too_many_requests",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Internal => "internal",
        }
    }

    /// For people, the same for every error of the kind.
    pub fn title(&self) -> &'static str {
        self.status().canonical_reason().unwrap_or("Refused")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Exists(_) | StoreError::Changed(_) | StoreError::InUse { .. } => {
                Self::conflict(error.to_string())
            }
            StoreError::Invalid(_) => Self::new(ErrorKind::Unprocessable, error.to_string()),
            StoreError::Unknown(_) => Self::new(ErrorKind::NotFound, error.to_string()),
            StoreError::Unavailable(_) | StoreError::Sealed(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<AuditUnavailable> for ApiError {
    fn from(error: AuditUnavailable) -> Self {
        Self::unavailable(format!("{error}; nothing was changed"))
    }
}
