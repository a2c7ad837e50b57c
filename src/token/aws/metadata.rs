//! What the two kinds of metadata services have in common: who may be called, and how an answer is read.
//!
//! **Never goes through the corporate proxy, and never reaches an address that neither AWS reserves for this nor the
//! operator wrote into our environment.**

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::endpoint::is_loopback;
use super::keys::{Document, Issued};
use crate::base::{CallError, ClientOptions, Destination, Environment, Host, HttpClient, HttpClients, Secret};
use crate::token::exchange::{retry_after, scrubbed};
use crate::token::{Failure, FailureKind};

/// What a source gave.
#[derive(Debug)]
pub(super) enum Found {
    /// Keys.
    Keys(Issued),
    /// It is not configured, or not there; the text says what was looked for.
    Absent(String),
}

/// The value of a variable that is set to something.
pub(super) fn variable(environment: &dyn Environment, name: &str) -> Option<String> {
    environment.variable(name).filter(|value| !value.trim().is_empty())
}

/// A setting that a person must change.
pub(super) fn misconfigured(detail: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Refused, detail)
}

/// A service at one address.
#[derive(Debug)]
pub(super) struct Service {
    /// What errors call it.
    name: &'static str,
    endpoint: Destination,
    http: Arc<dyn HttpClient>,
}

impl Service {
    /// A service at the root of `url`, which may be at this address only: the literal one in it, loopback for
    /// `localhost`, any for another name, which the operator then wrote himself.
    pub(super) fn open(
        name: &'static str,
        url: &str,
        timeout: Duration,
        http: &dyn HttpClients,
    ) -> Result<Self, Failure> {
        let endpoint =
            Destination::from_upstream(url).map_err(|refusal| misconfigured(format!("{name}: {}", refusal.detail)))?;
        let options = ClientOptions {
            allow_addresses: addresses(endpoint.host()),
            direct: true,
            timeout: Some(timeout),
            ..ClientOptions::default()
        };
        let client = http.client(&endpoint, &options);
        let http = client.map_err(|why| misconfigured(format!("{name}: {why}")))?;
        Ok(Self { name, endpoint, http })
    }

    /// Calls the service. The header's value is confidential.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        header: Option<(&'static str, &Secret)>,
    ) -> Result<Response<Vec<u8>>, CallError> {
        let unsent = |detail: &str| CallError { detail: detail.into(), sent: false };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .body(Vec::new())
            .map_err(|_| unsent("its path cannot stand in a request"))?;
        if let Some((name, value)) = header {
            let mut value = HeaderValue::from_bytes(value.expose())
                .map_err(|_| unsent("the token for it has characters that cannot stand in a header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self.http.call(request).await
    }

    /// The keys of an answer.
    pub(super) fn keys(
        &self,
        answer: &Response<Vec<u8>>,
        source: &'static str,
        now: SystemTime,
        secret: Option<&Secret>,
    ) -> Result<Issued, Failure> {
        let unusable =
            |why: String| self.failure(FailureKind::Unavailable, format!("its answer cannot be used: {why}"));
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, now, secret));
        }
        let document = Document::read(answer.body()).map_err(unusable)?;
        if let Some(code) = document.code.as_deref().filter(|code| *code != "Success") {
            let code = scrubbed(code, secret.map(std::slice::from_ref).unwrap_or_default());
            return Err(self.failure(
                FailureKind::Unavailable,
                format!("it says {code} instead of Success: check the trust policy of the role that is attached"),
            ));
        }
        let issued = document.keys(source, now).map_err(unusable)?;
        if issued.expires_at.is_none() {
            return Err(unusable("there is no Expiration in it".into()));
        }
        Ok(issued)
    }

    /// What an answer that is not 200 means.
    pub(super) fn refusal(&self, answer: &Response<Vec<u8>>, now: SystemTime, secret: Option<&Secret>) -> Failure {
        let status = answer.status();
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => FailureKind::Unavailable,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Rejected,
            status if status.is_client_error() => FailureKind::Refused,
            _ => FailureKind::Unavailable,
        };
        let text = String::from_utf8_lossy(answer.body());
        let words = scrubbed(text.trim(), secret.map(std::slice::from_ref).unwrap_or_default());
        let after = retry_after(answer.headers(), now).filter(|_| kind == FailureKind::Unavailable);
        self.failure(kind, format!("it answered {} {words}", status.as_u16()).trim_end()).with_retry_after(after)
    }

    /// A failure that names the service.
    pub(super) fn failure(&self, kind: FailureKind, why: impl Display) -> Failure {
        Failure::new(kind, format!("{} at {}: {why}", self.name, self.endpoint))
    }
}

/// Which addresses a host may have that are normally refused.
fn addresses(host: &Host) -> Vec<IpNet> {
    match host {
        Host::Address(address) => vec![IpNet::from(*address)],
        host if is_loopback(host) => {
            vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8)), IpNet::V6(Ipv6Addr::LOCALHOST.into())]
        }
        Host::Name(_) => vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())],
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Network, answer};
    use super::*;

    async fn opened(url: &str) -> Result<Vec<String>, Failure> {
        let network = Network::default();
        let service = Service::open("the service", url, Duration::from_secs(2), &network)?;
        let _ = service.call(Method::GET, "/x", None).await;
        let options = network.calls().remove(0).options;
        assert!(options.direct && options.timeout == Some(Duration::from_secs(2)) && options.identity.is_none());
        Ok(options.allow_addresses.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn exactly_the_address_that_is_meant_is_allowed_and_no_proxy_is_used() {
        for (url, allowed) in [
            ("http://169.254.169.254", &["169.254.169.254/32"][..]),
            ("http://[fd00:ec2::254]", &["fd00:ec2::254/128"]),
            ("http://localhost:1338", &["127.0.0.1/8", "::1/128"]),
            ("https://metadata.corp.test", &["0.0.0.0/0", "::/0"]),
        ] {
            assert_eq!(opened(url).await.unwrap(), allowed, "{url}");
        }
        assert!(opened("gopher://x").await.unwrap_err().detail.starts_with("the service: "));
    }

    #[test]
    fn an_answer_gives_keys_that_end_or_a_failure_without_a_secret() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let service =
            Service::open("the service", "http://10.0.0.1", Duration::from_secs(2), &Network::default()).unwrap();
        let secret = Secret::new("the-authorization");
        let keys = |status, body: &str| service.keys(&answer(status, body).unwrap(), "x", now, Some(&secret));
        let good = r#"{"Code":"Success","AccessKeyId":"ASIAIOSFODNN7EXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-15T00:00:00Z"}"#;
        assert!(keys(200, good).is_ok() && keys(200, &good.replace(r#""Code":"Success","#, "")).is_ok());
        for (status, body, kind, said) in [
            (200, good.replace("2023-11-15", "2023-11-14"), FailureKind::Unavailable, "ended at"),
            (200, good.replace("Expiration", "Other"), FailureKind::Unavailable, "no Expiration"),
            (
                200,
                good.replace("Success", "AssumeRoleUnauthorizedAccess"),
                FailureKind::Unavailable,
                "AssumeRoleUnauth",
            ),
            (200, "<html>".into(), FailureKind::Unavailable, "cannot be used"),
            (200, String::new(), FailureKind::Unavailable, "cannot be used"),
            (403, "the-authorization is wrong".into(), FailureKind::Rejected, "403 [redacted] is wrong"),
            (400, r#"{"code":"x"}"#.into(), FailureKind::Refused, r#"400 {"code":"x"}"#),
            (302, String::new(), FailureKind::Unavailable, "302"),
            (500, String::new(), FailureKind::Unavailable, "500"),
            (429, String::new(), FailureKind::Unavailable, "429"),
        ] {
            let failure = keys(status, &body).unwrap_err();
            assert!(failure.kind == kind && failure.detail.contains(said), "{status} {body}: {failure:?}");
            assert!(failure.detail.starts_with("the service at http://10.0.0.1: "), "{failure}");
        }
    }
}
