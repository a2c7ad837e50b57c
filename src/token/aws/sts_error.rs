//! What the errors of STS mean: whose fault, what to change, and what the caller can do itself.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html#API_AssumeRole_Errors>,
//! <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>

use std::time::SystemTime;

use http::header::{DATE, HeaderMap};
use http::{Response, StatusCode};

use super::role::Role;
use crate::base::{Host, Secret};
use crate::sigv4::is_about_time;
use crate::token::exchange::{retry_after, scrubbed};
use crate::token::{Failure, FailureKind};

/// What the caller can do about an error of STS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StsErrorKind {
    /// The keys that signed the request have ended or are not known: with others, the same request may be made once more.
    BaseExpired,
    /// Our clock and the server's differ too much: with the server's time, the same request may be made once more.
    ClockSkewed {
        /// The answer's `Date`, if it has one.
        server_time: Option<SystemTime>,
    },
    /// Nothing, beyond what [`Failure::kind`] says.
    Other,
}

/// Why STS gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct StsError {
    /// For the caller of the credential; holds nothing of what was sent in confidence.
    pub failure: Failure,
    /// What can be done about it.
    pub kind: StsErrorKind,
}

impl StsError {
    pub(super) fn other(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { failure: Failure::new(kind, detail), kind: StsErrorKind::Other }
    }
}

impl From<StsError> for Failure {
    fn from(error: StsError) -> Self {
        error.failure
    }
}

/// What was asked of STS.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked<'a> {
    /// `AssumeRole`.
    Role(&'a Role),
    /// `AssumeRoleWithWebIdentity`.
    RoleByToken(&'a Role),
    /// `GetCallerIdentity`.
    CallerIdentity,
}

/// An error as STS writes it.
pub(super) struct Said<'a> {
    pub(super) host: &'a Host,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// What was sent in confidence.
    pub(super) secrets: &'a [Secret],
}

impl Said<'_> {
    /// What it means for whoever asked.
    pub(super) fn meaning(&self, asked: Asked<'_>, answer: &Response<Vec<u8>>, now: SystemTime) -> StsError {
        let (status, headers) = (answer.status(), answer.headers());
        let (kind, failure, advice) = self.judge(asked, status, headers);
        // The code is the server's text too.
        let words = scrubbed(&format!("{}: {}", self.code, self.message), self.secrets);
        let words = words.trim().trim_end_matches([':', '.', ' ']);
        let detail = match &*advice {
            "" => format!("{} answered {} {words}", self.host, status.as_u16()),
            advice => format!("{} answered {} {words}; {advice}", self.host, status.as_u16()),
        };
        let failure = Failure::new(failure, detail);
        let waits = failure.kind == FailureKind::Unavailable;
        let after = waits.then(|| retry_after(headers, now)).flatten();
        StsError { failure: failure.with_retry_after(after), kind }
    }

    fn judge(&self, asked: Asked<'_>, status: StatusCode, headers: &HeaderMap) -> (StsErrorKind, FailureKind, String) {
        use FailureKind::{Refused, Rejected, Unavailable};
        let other = |kind: FailureKind, advice: &str| (StsErrorKind::Other, kind, advice.to_owned());
        let by_token = matches!(asked, Asked::RoleByToken(_));
        // Most codes exist with and without this ending.
        let code = self.code.strip_suffix("Exception").unwrap_or(self.code);
        if is_about_time(code, self.message) {
            return (
                StsErrorKind::ClockSkewed { server_time: date(headers) },
                Unavailable,
                "the clock of this host differs from AWS's by more than five minutes; set it (NTP)".into(),
            );
        }
        match code {
            "AccessDenied" => other(Rejected, &denied(asked)),
            "ExpiredToken" | "IDPRejectedClaim" | "InvalidIdentityToken" if by_token => other(
                Rejected,
                "the token in the web identity token file (`web_identity_token_file`, AWS_WEB_IDENTITY_TOKEN_FILE) was \
                 not accepted: check that it is renewed, that its issuer is an identity provider of the role's account, \
                 and that its audience is a client id of that provider",
            ),
            "ExpiredToken" => (
                StsErrorKind::BaseExpired,
                Rejected,
                "the session that asks has ended: renew the keys it comes from, session token included".into(),
            ),
            // Keys that were rotated are told by the same code: whoever has others meanwhile asks once more.
            "InvalidClientTokenId" | "UnrecognizedClient" => (
                StsErrorKind::BaseExpired,
                Rejected,
                "these keys are not known there: check that the access key exists and is active, that a session's keys \
                 come with their session token, and that the region and partition are theirs (a region that must be \
                 opted into needs tokens of a regional endpoint)"
                    .into(),
            ),
            "SignatureDoesNotMatch" | "IncompleteSignature" | "MissingAuthenticationToken" => other(
                Rejected,
                "the secret access key does not belong to the access key, the clock of this host is wrong, or \
                 `sts_endpoint` is signed for another region than its own",
            ),
            "RegionDisabled" => other(
                Rejected,
                "STS is switched off for this region in that account: name another with `sts_endpoint`, or activate it in \
                 IAM's account settings",
            ),
            "OptInRequired" => other(Rejected, "this account or region is not activated"),
            "MalformedPolicyDocument" => other(Refused, "`policy_json` is not an IAM policy"),
            "PackedPolicyTooLarge" => other(Refused, "`policy_json`, `policy_arns` and `session_tags` are too large together"),
            "ValidationError" | "Validation" | "InvalidParameterValue" | "InvalidParameterCombination" => {
                other(Refused, &self.invalid())
            }
            "IDPCommunicationError" => other(Unavailable, "AWS could not reach the token's issuer"),
            _ if is_busy(code, status) => other(Unavailable, ""),
            _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => other(Rejected, ""),
            _ if status.is_client_error() => other(Refused, ""),
            _ => other(Unavailable, ""),
        }
    }

    /// Which key a `ValidationError` is about.
    fn invalid(&self) -> String {
        let message = self.message;
        if message.contains("role chaining") {
            return "a role that is assumed with the session of another role lasts 1 h at most: set `max_minutes` to 60 or \
                    less"
                .into();
        }
        if message.contains("MaxSessionDuration") {
            return "the role's own maximum session duration is shorter: lower `max_minutes`, or raise the role's maximum"
                .into();
        }
        let keys: Vec<_> = PARAMETERS
            .iter()
            .filter(|(parameter, _)| {
                message.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.eq_ignore_ascii_case(parameter))
            })
            .map(|(_, key)| format!("`{key}`"))
            .collect();
        match keys.len() {
            0 => "a parameter of the role is not accepted".into(),
            _ => format!("check {}", keys.join(", ")),
        }
    }
}

/// Names that messages use, and our keys.
const PARAMETERS: [(&str, &str); 10] = [
    ("roleArn", "role_arn"),
    ("roleSessionName", "role_session_name"),
    ("externalId", "external_id"),
    ("durationSeconds", "max_minutes"),
    ("policyArns", "policy_arns"),
    ("policy", "policy_json"),
    ("tags", "session_tags"),
    ("transitiveTagKeys", "transitive_tag_keys"),
    ("sourceIdentity", "source_identity"),
    ("webIdentityToken", "web_identity_token_file"),
];

fn is_busy(code: &str, status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error()
        || matches!(
            code,
            "Throttling"
                | "Throttled"
                | "ThrottledRequest"
                | "RequestThrottled"
                | "RequestLimitExceeded"
                | "TooManyRequests"
                | "SlowDown"
                | "RequestTimeout"
                | "ServiceUnavailable"
                | "InternalFailure"
                | "InternalError"
                | "InternalServerError"
        )
}

/// What a role's trust policy may look at. STS says who asked and never which condition failed.
fn denied(asked: Asked<'_>) -> String {
    match asked {
        Asked::CallerIdentity => "a policy forbids these keys even to ask who they are".into(),
        Asked::RoleByToken(role) => format!(
            "{} was not given: check that its trust policy names the token's identity provider for \
             sts:AssumeRoleWithWebIdentity, and its conditions on `sub` and `aud`",
            role.role_arn
        ),
        Asked::Role(role) => {
            let sent =
                |what: &str, is_sent: bool| format!("{what} ({} sent)", if is_sent { "one is" } else { "none is" });
            format!(
                "{} was not given: check that its trust policy names this principal and the principal's own policy \
                 allows sts:AssumeRole, and what the trust policy asks of {}, {} and {}",
                role.role_arn,
                sent("the external id", role.external_id.is_some()),
                sent("tags (sts:TagSession)", !role.tags.is_empty()),
                sent("a source identity (sts:SetSourceIdentity)", role.source_identity.is_some()),
            )
        }
    }
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use FailureKind::{Refused, Rejected, Unavailable};

    const ARN: &str = "arn:aws:iam::123456789012:role/reader";

    fn role() -> Role {
        Role { external_id: Some("external-0815".into()), ..Role::new(ARN, "countersign") }
    }

    fn meaning(asked: Asked<'_>, status: u16, code: &str, message: &str, headers: &[(&'static str, &str)]) -> StsError {
        let mut answer = Response::new(Vec::new());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            answer.headers_mut().insert(*name, value.parse().unwrap());
        }
        let secrets = [Secret::new("wJalrXUtnFEMI/K7MDENG"), Secret::new("external-0815")];
        let said = Said { host: &Host::parse("sts.test").unwrap(), code, message, secrets: &secrets };
        said.meaning(asked, &answer, SystemTime::UNIX_EPOCH)
    }

    fn of(status: u16, code: &str, message: &str) -> StsError {
        meaning(Asked::Role(&role()), status, code, message, &[])
    }

    #[test]
    fn a_denied_role_is_named_with_who_asked_and_what_to_check() {
        let error = of(403, "AccessDenied", "User: arn:aws:iam::1:user/me is not authorized; external-0815 is wrong.");
        assert_eq!((error.failure.kind, error.kind), (Rejected, StsErrorKind::Other));
        let detail = error.failure.detail;
        for part in [
            ARN,
            "User: arn:aws:iam::1:user/me",
            "403 AccessDenied",
            "trust policy",
            "external id (one is sent)",
            "tags (sts:TagSession) (none is sent)",
            "a source identity",
        ] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        assert!(!detail.contains("external-0815"), "{detail}");
        let by_token = meaning(Asked::RoleByToken(&role()), 403, "AccessDenied", "", &[]).failure.detail;
        assert!(by_token.contains("`aud`") && !by_token.contains("external"), "{by_token}");
    }

    #[test]
    fn each_code_has_its_kind_and_says_what_to_change() {
        for (status, code, kind, said) in [
            (403, "SignatureDoesNotMatch", Rejected, "does not belong to the access key"),
            (403, "RegionDisabledException", Rejected, "`sts_endpoint`"),
            (400, "MalformedPolicyDocument", Refused, "`policy_json`"),
            (400, "MalformedPolicyDocumentException", Refused, "`policy_json`"),
            (400, "PackedPolicyTooLarge", Refused, "`session_tags`"),
            (400, "Throttling", Unavailable, "Throttling"),
            (400, "ThrottlingException", Unavailable, "Throttling"),
            (429, "Whatever", Unavailable, "Whatever"),
            (503, "ServiceUnavailable", Unavailable, "503"),
            (500, "AccessSomething", Unavailable, "500"),
            (400, "IDPCommunicationError", Unavailable, "issuer"),
            (400, "NeverSeen", Refused, "NeverSeen"),
            (403, "NeverSeen", Rejected, "NeverSeen"),
            (200, "NeverSeen", Unavailable, "NeverSeen"),
        ] {
            let error = of(status, code, "");
            assert_eq!((error.failure.kind, error.kind), (kind, StsErrorKind::Other), "{code}");
            assert!(error.failure.detail.contains(said), "{code}: {}", error.failure.detail);
        }
    }

    #[test]
    fn keys_that_are_not_known_may_have_been_rotated_since() {
        for code in ["InvalidClientTokenId", "UnrecognizedClientException"] {
            let error = of(403, code, "");
            assert_eq!((error.failure.kind, error.kind), (Rejected, StsErrorKind::BaseExpired), "{code}");
            assert!(error.failure.detail.contains("exists and is active"), "{}", error.failure.detail);
        }
    }

    #[test]
    fn a_session_that_ended_can_be_told_from_a_web_identity_that_did() {
        for code in ["ExpiredToken", "ExpiredTokenException"] {
            let error = of(403, code, "The security token included in the request is expired");
            assert_eq!((error.failure.kind, error.kind), (Rejected, StsErrorKind::BaseExpired));
            let error = meaning(Asked::RoleByToken(&role()), 400, code, "Token expired", &[]);
            assert_eq!((error.failure.kind, error.kind), (Rejected, StsErrorKind::Other));
            assert!(error.failure.detail.contains("web identity token file"));
        }
        for code in ["InvalidIdentityToken", "IDPRejectedClaim"] {
            let error = meaning(Asked::RoleByToken(&role()), 400, code, "", &[]);
            assert!(error.failure.kind == Rejected && error.failure.detail.contains("web identity token file"));
        }
    }

    #[test]
    fn a_wrong_clock_comes_with_the_servers_time_whatever_its_code() {
        let time = "Tue, 14 Nov 2023 22:14:20 GMT";
        let server_time = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060));
        for (code, message) in [
            ("RequestTimeTooSkewed", ""),
            ("RequestExpired", ""),
            ("SignatureDoesNotMatch", "Signature expired: 20231114T000000Z is now earlier than 20231114T221420Z"),
            ("SignatureDoesNotMatch", "Signature not yet current: 20231115T000000Z is still later than …"),
        ] {
            let error = meaning(Asked::CallerIdentity, 403, code, message, &[("date", time)]);
            assert_eq!(error.kind, StsErrorKind::ClockSkewed { server_time }, "{code}");
            assert!(error.failure.detail.contains("the clock of this host"));
            let undated = meaning(Asked::CallerIdentity, 403, code, message, &[("date", "today")]);
            assert_eq!(undated.kind, StsErrorKind::ClockSkewed { server_time: None });
        }
        let plain = meaning(Asked::CallerIdentity, 403, "SignatureDoesNotMatch", "The request signature", &[]);
        assert_eq!(plain.kind, StsErrorKind::Other);
    }

    #[test]
    fn a_validation_error_names_our_key() {
        for (message, said) in [
            (
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
                "maximum session duration",
            ),
            (
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
                "lasts 1 h at most",
            ),
            (
                "1 validation error detected: Value at 'roleSessionName' failed to satisfy constraint",
                "check `role_session_name`",
            ),
            (
                "2 errors: Value at 'tags.1.member.key' failed; Value at 'policy' failed",
                "check `policy_json`, `session_tags`",
            ),
            ("something", "a parameter"),
        ] {
            let error = of(400, "ValidationError", message);
            assert_eq!(error.failure.kind, Refused);
            assert!(error.failure.detail.contains(said), "{}", error.failure.detail);
        }
    }

    #[test]
    fn a_retry_after_is_kept_where_trying_again_helps() {
        let after = |code| meaning(Asked::CallerIdentity, 400, code, "", &[("retry-after", "7")]).failure.retry_after;
        assert_eq!(after("Throttling"), Some(Duration::from_secs(7)));
        assert_eq!(after("InvalidClientTokenId"), None);
    }

    #[test]
    fn the_servers_words_hold_no_secret_and_are_not_long() {
        let message = format!("The Canonical String was 'x:wJalrXUtnFEMI/K7MDENG'\r\n{}", "z".repeat(5000));
        let detail = of(403, "SignatureDoesNotMatch", &message).failure.detail;
        assert!(detail.contains("x:[redacted]") && !detail.contains("wJalr") && !detail.contains('\n'), "{detail}");
        assert!(detail.matches('z').count() < 300);
        let in_code = of(403, "wJalrXUtnFEMI/K7MDENG", "").failure.detail;
        assert!(!in_code.contains("wJalr"), "{in_code}");
    }
}
