//! One call of ours to a service that hands out tokens by a protocol of its own: what is sent, and what an answer means.
//!
//! OAuth2 token endpoints have [`super::Endpoint`]; this is for all others: logins, metadata services, token exchanges.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, LOCATION};
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value};

use super::exchange::{LONGEST_LIFE, error_of, fields, lifetime, retry_after, scrubbed, unavailable};
use super::failure::{Failure, FailureKind};
use crate::base::{Destination, HttpClient, Secret};

/// A service at one address.
pub struct Service {
    destination: Destination,
    http: Arc<dyn HttpClient>,
}

/// A service's answer, of status 2xx. `Debug` shows the status only: tokens are in the rest.
pub struct Reply {
    host: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Secret,
}

impl Service {
    /// The service that this client was made for.
    pub fn new(destination: Destination, http: Arc<dyn HttpClient>) -> Self {
        Self { destination, http }
    }

    /// Sends a request and reads the answer: [`Service::send`] and [`Service::reply`] in one. `secrets` are what no error may repeat; `rejected` are the statuses by which
    /// this service refuses a credential, beside the error codes of RFC 6749.
    ///
    /// # Errors
    /// What the service said, or what was in the way: redirects are not followed, 429, 408 and 5xx are
    /// [`FailureKind::Unavailable`] with `Retry-After`.
    pub async fn call(
        &self,
        request: Request<Vec<u8>>,
        secrets: &[Secret],
        rejected: &[StatusCode],
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let answer = self.send(request, secrets).await?;
        self.reply(answer, secrets, rejected, now)
    }

    /// Sends a request, for a conversation in which a 401 is no refusal yet.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&self, request: Request<Vec<u8>>, secrets: &[Secret]) -> Result<Response<Vec<u8>>, Failure> {
        self.http.call(request).await.map_err(|error| {
            let detail = format!("no answer from {}: {}", self.destination.host(), error.detail);
            Failure::new(FailureKind::Unavailable, scrubbed(&detail, secrets))
        })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// As [`Service::call`].
    pub fn reply(
        &self,
        answer: Response<Vec<u8>>,
        secrets: &[Secret],
        rejected: &[StatusCode],
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let host = self.destination.host().to_string();
        let (head, body) = answer.into_parts();
        let (status, body) = (head.status, Secret::new(body));
        if status.is_success() {
            return Ok(Reply { host, status, headers: head.headers, body });
        }
        if status.is_redirection() {
            let place = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let place = place.and_then(|place| url::Url::parse(place).ok());
            let place = place.as_ref().and_then(url::Url::host_str).unwrap_or("another address");
            let detail = format!(
                "{host} answered {} and points to {place}; no redirect is followed with a secret: write the address it has now",
                status.as_u16()
            );
            return Err(Failure::new(FailureKind::Unavailable, detail));
        }
        let (code, words) = fields(body.expose()).as_ref().map(error_of).unwrap_or_default();
        let said = format!("{code}: {words}");
        let said = scrubbed(said.trim_matches([' ', ':']), secrets);
        let detail = format!("{host} answered {} {said}", status.as_u16());
        let kind = match code.as_str() {
            _ if unavailable(status, &code) => FailureKind::Unavailable,
            "invalid_grant" | "invalid_client" | "unauthorized_client" => FailureKind::Rejected,
            _ if rejected.contains(&status) => FailureKind::Rejected,
            _ => FailureKind::Refused,
        };
        Err(Failure::new(kind, detail.trim_end()).with_retry_after(retry_after(&head.headers, now)))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.destination)
    }
}

impl Reply {
    #[cfg(test)]
    pub(super) fn of(host: &str, response: http::Response<Vec<u8>>) -> Self {
        let (head, body) = response.into_parts();
        Self { host: host.into(), status: head.status, headers: head.headers, body: Secret::new(body) }
    }

    /// The status, which is 2xx.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The whole body.
    pub fn body(&self) -> &Secret {
        &self.body
    }

    /// The body as JSON, if it is that.
    pub fn document(&self) -> Option<Value> {
        let body = self.body.expose();
        serde_json::from_slice(body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)).ok()
    }

    /// The body as a JSON object.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when it is none.
    pub fn object(&self) -> Result<Map<String, Value>, Failure> {
        match self.document() {
            Some(Value::Object(fields)) => Ok(fields),
            _ => Err(self.unusable("the answer is not a JSON object")),
        }
    }

    /// The text of a field of a JSON object, as the token.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when there is none.
    pub fn token(&self, field: &str) -> Result<Secret, Failure> {
        match self.object()?.remove(field) {
            Some(Value::String(token)) if !token.is_empty() => Ok(Secret::new(token)),
            _ => Err(self.unusable(&format!("there is no {field} in it"))),
        }
    }

    /// How long the token lives by `expires_in` or `expires_on`, as numbers or texts.
    pub fn lifetime(&self, now: SystemTime) -> Option<Duration> {
        let seconds = lifetime(&self.object().ok()?, now)?;
        Some(Duration::from_secs(seconds).min(LONGEST_LIFE))
    }

    /// A failure for an answer without what was asked for: the service refused, when it names an `error` in its place; else a
    /// setting looks for it in the wrong place, or the service is not well.
    pub fn without(&self, what: &str, secrets: &[Secret]) -> Failure {
        let fields = self.object().unwrap_or_default();
        let (code, words) = error_of(&fields);
        let said = scrubbed(format!("{code}: {words}").trim_matches([' ', ':']), secrets);
        let failure = self.unusable(format!("there is no {what}: {said}").trim_end_matches([' ', ':']));
        let refused = fields.get("error").is_some_and(|error| !matches!(error, Value::Null | Value::Bool(false)));
        Failure { kind: if refused { FailureKind::Rejected } else { FailureKind::Refused }, ..failure }
    }

    /// A failure for an answer that holds no token.
    pub fn unusable(&self, why: &str) -> Failure {
        Failure::new(FailureKind::Unavailable, format!("{} answered {}, but {why}", self.host, self.status.as_u16()))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.status)
    }
}
