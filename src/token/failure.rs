//! Why a token could not be obtained, and for how long the same is not tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{AuditUnavailable, Code, Refusal};

/// The first pause after a failure that may be over soon, and the longest.
const SHORT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The same after the provider refused the credential: it takes a person, or a provider's slow replication, to mend that.
const LONG: (Duration, Duration) = (Duration::from_secs(30), LONGEST);

/// No pause is longer, whatever `Retry-After` says: a credential must not be lost to one wrong header.
pub(super) const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The provider refused the credential itself: RFC 6749 `invalid_client`, `invalid_grant`, `unauthorized_client`.
    Rejected,
    /// The provider refused the request for another reason, which a changed setting mends: `invalid_scope` and the like.
    Refused,
    /// No usable answer: network, 429, 5xx, something that is not a token.
    Unavailable,
    /// A refresh token was lost or revoked, or its last use had an unknown outcome: a person must act.
    Reauthorize,
    /// What authenticates the exchange must not go to its host.
    Forbidden,
    /// The exchange cannot be recorded, so what it brought is not used.
    Unrecorded,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What the provider said, or what was in the way; never a secret.
    pub detail: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    /// The same, with the provider's `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// How long nothing is tried after the `count`th failure in a row (from 1). `jitter` is from 0 to 1: it adds up to a
    /// quarter, so that a fleet does not come back in step.
    pub(super) fn pause(&self, count: u32, jitter: f64) -> Duration {
        let (first, longest) = match self.kind {
            FailureKind::Rejected | FailureKind::Reauthorize => LONG,
            FailureKind::Refused | FailureKind::Unavailable | FailureKind::Forbidden => SHORT,
            // Over as soon as there is room again, which is looked at each second.
            FailureKind::Unrecorded => (SHORT.0, SHORT.0),
        };
        let grown = first.saturating_mul(1 << count.saturating_sub(1).min(10)).min(longest);
        // Bounded before it is multiplied: a server may write any number.
        let wanted = grown.max(self.retry_after.unwrap_or_default().min(LONGEST));
        wanted.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0).min(LONGEST)
    }

    /// Whether a failure after this one counts as one more in a row: what a person must mend and what passes by itself are
    /// counted apart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let lasting = |failure: &Self| matches!(failure.kind, FailureKind::Rejected | FailureKind::Reauthorize);
        lasting(self) == lasting(other)
    }

    /// The failure of an exchange that could not be authenticated.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        let kind = match refusal.code {
            Code::CredentialRejected => FailureKind::Rejected,
            Code::ReauthorizationRequired => FailureKind::Reauthorize,
            Code::DestinationForbidden => FailureKind::Forbidden,
            Code::TokenEndpointUnavailable => FailureKind::Unavailable,
            Code::AuditUnavailable => FailureKind::Unrecorded,
            _ => FailureKind::Refused,
        };
        Self::new(kind, refusal.detail.clone()).with_retry_after(refusal.retry_after)
    }

    /// What the caller is told: for how long to stay away is known to whoever remembers the failure.
    pub(super) fn refusal(&self, credential: &str, pause: Duration) -> Refusal {
        let detail = format!("credential {credential}: {}", self.detail);
        match self.kind {
            FailureKind::Rejected | FailureKind::Refused => Refusal::new(Code::CredentialRejected, detail),
            FailureKind::Reauthorize => Refusal::new(Code::ReauthorizationRequired, detail),
            FailureKind::Forbidden => Refusal::new(Code::DestinationForbidden, detail),
            FailureKind::Unavailable => later(Code::TokenEndpointUnavailable, detail, pause),
            FailureKind::Unrecorded => later(Code::AuditUnavailable, detail, pause),
        }
    }
}

impl From<AuditUnavailable> for Failure {
    fn from(unavailable: AuditUnavailable) -> Self {
        Self::new(FailureKind::Unrecorded, unavailable.to_string())
    }
}

/// Rounded up: a caller that comes back a moment too early has waited for nothing.
fn later(code: Code, detail: String, pause: Duration) -> Refusal {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    Refusal::new(code, detail).with_retry_after(Duration::from_secs(seconds.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(kind: FailureKind, count: u32) -> u64 {
        Failure::new(kind, "").pause(count, 0.0).as_secs()
    }

    #[test]
    fn pauses_grow_and_end_growing() {
        let seconds = |kind| (1..=12).map(|count| pause(kind, count)).collect::<Vec<_>>();
        assert_eq!(seconds(FailureKind::Unavailable), [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]);
        assert_eq!(seconds(FailureKind::Rejected)[..7], [30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(pause(FailureKind::Reauthorize, 1), 30);
        assert_eq!([pause(FailureKind::Unrecorded, 1), pause(FailureKind::Unrecorded, 9)], [1, 1]);
        assert_eq!(pause(FailureKind::Rejected, u32::MAX), 900);
    }

    #[test]
    fn jitter_adds_and_never_takes_away() {
        let failure = Failure::new(FailureKind::Unavailable, "");
        assert_eq!(failure.pause(3, 1.0), Duration::from_secs(5));
        assert_eq!(Failure::new(FailureKind::Rejected, "").pause(20, 1.0), LONGEST);
    }

    #[test]
    fn a_retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
        let after = |seconds| {
            Failure::new(FailureKind::Unavailable, "")
                .with_retry_after(Some(Duration::from_secs(seconds)))
                .pause(1, 0.0)
        };
        assert_eq!(after(120).as_secs(), 120);
        assert_eq!(after(10_000_000), LONGEST);
        assert_eq!(after(u64::MAX), LONGEST);
        assert_eq!(after(0).as_secs(), 1);
    }

    #[test]
    fn each_kind_has_its_code() {
        let refusal = |kind| Failure::new(kind, "x").refusal("c", Duration::from_millis(1500));
        assert_eq!(refusal(FailureKind::Rejected).code, Code::CredentialRejected);
        assert_eq!(refusal(FailureKind::Refused).code, Code::CredentialRejected);
        assert_eq!(refusal(FailureKind::Reauthorize).code, Code::ReauthorizationRequired);
        assert_eq!(refusal(FailureKind::Forbidden).code, Code::DestinationForbidden);
        for kind in [
            FailureKind::Rejected,
            FailureKind::Reauthorize,
            FailureKind::Forbidden,
            FailureKind::Unavailable,
            FailureKind::Unrecorded,
        ] {
            assert_eq!(Failure::of_refusal(&refusal(kind)).kind, kind, "there and back");
        }
        let unavailable = refusal(FailureKind::Unavailable);
        assert_eq!((unavailable.code, unavailable.status.as_u16()), (Code::TokenEndpointUnavailable, 503));
        assert_eq!(unavailable.retry_after, Some(Duration::from_secs(2)));
        assert_eq!(unavailable.detail, "credential c: x");
    }
}
