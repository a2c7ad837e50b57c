//! What the caller is told when Countersign, not the upstream, says no: the codes, their statuses and whose fault it was.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::audit::AuditUnavailable;

/// The machine-readable reason of a refusal; the `code` member of the problem document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Malformed, ambiguous framing, userinfo, dot segments where a path rule applies.
    BadRequest,
    /// Caller token missing or wrong.
    CallerUnknown,
    /// SNI, Host, authority and destination disagree.
    DestinationMismatch,
    /// Address range refused, or a host outside the credential's hosts.
    DestinationForbidden,
    /// No binding; the detail shows the binding that would be needed.
    Unbound,
    /// The named credential does not exist for this caller.
    CredentialUnknown,
    /// A body that must be hashed exceeds the limit.
    BodyTooLarge,
    /// The identity provider refused the credential.
    CredentialRejected,
    /// A token could not be obtained for now.
    TokenEndpointUnavailable,
    /// A refresh token was lost or revoked; a person must act.
    ReauthorizationRequired,
    /// DNS, connect or TLS towards the upstream failed.
    UpstreamUnreachable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// A secret would travel unencrypted.
    CleartextRefused,
    /// CONNECT to a bound host on a listener that does not intercept.
    InterceptionOff,
    /// No AWS region or service can be told, or they contradict the binding.
    CannotInfer,
    /// A secret could not be loaded.
    SecretUnavailable,
    /// A limit of ours was reached.
    Overloaded,
    /// No room to hold a body that must be hashed.
    SpoolFull,
    /// A reverse listener has no route for the path.
    NoRoute,
    /// The audit record cannot be written, so no credential is used.
    AuditUnavailable,
}

/// Who is to blame, for the log and for `Proxy-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's request.
    Caller,
    /// The upstream or the way to it.
    Upstream,
    /// Our own limits or configuration.
    Countersign,
}

impl Fault {
    /// One word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Upstream => "upstream",
            Self::Countersign => "countersign",
        }
    }
}

impl Code {
    /// Every code with its name, status, blame, `Proxy-Status` error type (RFC 9209 section 2.3) and title.
    const fn row(self) -> (&'static str, u16, Fault, &'static str, &'static str) {
        use Fault::{Caller, Countersign, Upstream};
        match self {
            Self::BadRequest => {
                ("bad_request", 400, Caller, "http_request_error", "The request is malformed or ambiguous")
            }
            Self::CallerUnknown => ("caller_unknown", 407, Caller, "http_request_denied", "The caller is not known"),
            Self::DestinationMismatch => {
                ("destination_mismatch", 421, Caller, "http_request_denied", "The request names two destinations")
            }
            Self::DestinationForbidden => {
                ("destination_forbidden", 403, Caller, "destination_ip_prohibited", "The destination is not allowed")
            }
            Self::Unbound => ("unbound", 403, Caller, "http_request_denied", "No credential is bound to this call"),
            Self::CredentialUnknown => (
                "credential_unknown",
                403,
                Caller,
                "http_request_denied",
                "The named credential is not available to this caller",
            ),
            Self::BodyTooLarge => {
                ("body_too_large", 413, Caller, "http_request_denied", "The body is too large to be signed")
            }
            Self::CredentialRejected => (
                "credential_rejected",
                502,
                Countersign,
                "proxy_configuration_error",
                "The identity provider refused the credential",
            ),
            Self::TokenEndpointUnavailable => (
                "token_endpoint_unavailable",
                503,
                Upstream,
                "destination_unavailable",
                "No token can be obtained for now",
            ),
            Self::ReauthorizationRequired => (
                "reauthorization_required",
                502,
                Countersign,
                "proxy_configuration_error",
                "The credential must be authorized again",
            ),
            Self::UpstreamUnreachable => {
                ("upstream_unreachable", 502, Upstream, "destination_unavailable", "The upstream cannot be reached")
            }
            Self::UpstreamTimeout => {
                ("upstream_timeout", 504, Upstream, "http_response_timeout", "The upstream did not answer in time")
            }
            Self::CleartextRefused => {
                ("cleartext_refused", 403, Caller, "http_request_denied", "A secret would travel unencrypted")
            }
            Self::InterceptionOff => (
                "interception_off",
                403,
                Countersign,
                "proxy_configuration_error",
                "This listener does not intercept TLS",
            ),
            Self::CannotInfer => (
                "cannot_infer",
                400,
                Caller,
                "http_request_error",
                "The service or region cannot be told, or is outside the binding",
            ),
            Self::SecretUnavailable => {
                ("secret_unavailable", 503, Countersign, "proxy_internal_error", "A secret cannot be loaded")
            }
            Self::Overloaded => ("overloaded", 503, Countersign, "connection_limit_reached", "A limit was reached"),
            Self::SpoolFull => {
                ("spool_full", 507, Countersign, "proxy_internal_error", "There is no room to hold the body")
            }
            Self::NoRoute => ("no_route", 404, Caller, "destination_not_found", "No route has this prefix"),
            Self::AuditUnavailable => (
                "audit_unavailable",
                503,
                Countersign,
                "proxy_internal_error",
                "No credential is used, since the audit record cannot be written",
            ),
        }
    }

    /// The name, as in the problem document and in the log.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Whether it says that a credential may not be used as was asked, in distinction to a use that did not succeed.
    pub const fn is_denial(self) -> bool {
        match self {
            Self::BadRequest
            | Self::CallerUnknown
            | Self::DestinationMismatch
            | Self::DestinationForbidden
            | Self::Unbound
            | Self::CredentialUnknown
            | Self::CleartextRefused
            | Self::InterceptionOff
            | Self::CannotInfer
            | Self::AuditUnavailable => true,
            Self::BodyTooLarge
            | Self::CredentialRejected
            | Self::TokenEndpointUnavailable
            | Self::ReauthorizationRequired
            | Self::UpstreamUnreachable
            | Self::UpstreamTimeout
            | Self::SecretUnavailable
            | Self::Overloaded
            | Self::SpoolFull
            | Self::NoRoute => false,
        }
    }

    /// The title of the problem document.
    pub const fn title(self) -> &'static str {
        self.row().4
    }
}

/// A refusal or failure of ours, on its way to the one function that makes a response of it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The machine-readable reason.
    pub code: Code,
    /// The HTTP status.
    pub status: StatusCode,
    /// What to change, for a person. Never holds a secret or a query string.
    pub detail: Cow<'static, str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The error type for `Proxy-Status`.
    pub proxy_error: &'static str,
    /// Who is to blame.
    pub fault: Fault,
}

impl Refusal {
    /// A refusal with the code's own status and blame.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let (_, status, fault, proxy_error, _) = code.row();
        Self {
            code,
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            detail: detail.into(),
            retry_after: None,
            proxy_error,
            fault,
        }
    }

    /// `bad_request` with a detail.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// Another status under the same code (431 and 408 are `overloaded` too).
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// A more precise `Proxy-Status` error type.
    #[must_use]
    pub fn with_proxy_error(mut self, proxy_error: &'static str) -> Self {
        self.proxy_error = proxy_error;
        self
    }

    /// When the caller may try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Somebody else's fault than the code says.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

impl From<AuditUnavailable> for Refusal {
    fn from(unavailable: AuditUnavailable) -> Self {
        // It is tried again each second.
        Self::new(Code::AuditUnavailable, unavailable.to_string()).with_retry_after(Duration::from_secs(1))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_contract() {
        assert_eq!(Refusal::new(Code::CallerUnknown, "").status, 407);
        assert_eq!(Refusal::new(Code::DestinationMismatch, "").status, 421);
        assert_eq!(Refusal::new(Code::SpoolFull, "").status, 507);
        assert_eq!(Refusal::new(Code::Unbound, "x").to_string(), "unbound: x");
    }
}
