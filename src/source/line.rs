//! The way to a store: one of our credentials signs, and when what it signed with is dead, signs once more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};

use crate::base::{Clock, HttpClient, Refusal, RequestSigner};

/// As much of a store's own words as a person reads.
const LONGEST_WORDS: usize = 300;

/// Why a store gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What it is about.
    pub(super) about: About,
    /// For a person; holds no secret.
    pub(super) detail: String,
    /// When the store wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// What a trouble is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The whole store: nobody gets anything now.
    Store,
    /// The one secret.
    Secret,
}

impl Trouble {
    /// With the store.
    pub(super) fn store(detail: impl Into<String>) -> Self {
        Self { about: About::Store, detail: detail.into(), retry_after: None }
    }

    /// With the secret.
    pub(super) fn secret(detail: impl Into<String>) -> Self {
        Self { about: About::Secret, detail: detail.into(), retry_after: None }
    }
}

/// An answer, and the headers that its request was signed with.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Of the request.
    pub(super) signed: HeaderMap,
}

/// The way to one store.
pub(super) struct Line {
    pub(super) http: Arc<dyn HttpClient>,
    pub(super) signer: Arc<dyn RequestSigner>,
    pub(super) credential: String,
    pub(super) clock: Arc<dyn Clock>,
}

impl Line {
    /// Sends a request. `dead` says of an answer that what the request was signed with may be dead: then it is signed and
    /// sent once more, if another token can be had.
    ///
    /// # Errors
    /// When it cannot be signed, when there is no answer, and for answers that are the store's trouble: 408, 429, 5xx,
    /// redirects. `words` finds a store's own words in a body.
    pub(super) async fn call(
        &self,
        request: Request<Vec<u8>>,
        dead: impl Fn(&Answer) -> bool,
        words: impl Fn(&[u8]) -> String,
    ) -> Result<Answer, Trouble> {
        let mut answer = self.once(request.clone()).await?;
        if dead(&answer.0) && answer.1.take().is_some_and(|refused| refused()) {
            answer = self.once(request).await?;
        }
        let answer = answer.0;
        let status = answer.status;
        if status.is_redirection() {
            let place = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let place = place.and_then(|place| url::Url::parse(place).ok());
            let place = place.as_ref().and_then(url::Url::host_str).unwrap_or("another address").to_owned();
            let why = format!(
                "it answers {} and points to {place}; no redirect is followed: write that address",
                status.as_u16()
            );
            return Err(Trouble::store(why));
        }
        let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        if busy || status.is_server_error() {
            let words = printable(&words(&answer.body));
            let detail = format!("it answers {} {words}", status.as_u16());
            let retry_after = self.retry_after(&answer.headers);
            return Err(Trouble { retry_after, ..Trouble::store(detail.trim_end()) });
        }
        Ok(answer)
    }

    async fn once(&self, request: Request<Vec<u8>>) -> Result<(Answer, Option<Refused>), Trouble> {
        let signed = self.signer.sign(&self.credential, request).await.map_err(|refusal| unsigned(&refusal))?;
        let headers = signed.request.headers().clone();
        let response = self.http.call(signed.request).await;
        let response: Response<Vec<u8>> =
            response.map_err(|error| Trouble::store(format!("it does not answer: {}", printable(&error.detail))))?;
        let (head, body) = response.into_parts();
        Ok((Answer { status: head.status, headers: head.headers, body, signed: headers }, signed.refused))
    }

    /// RFC 9110 section 10.2.3: seconds or a date.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        match value.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(self.clock.now()).ok(),
        }
    }
}

/// The refusal names the credential itself.
fn unsigned(refusal: &Refusal) -> Trouble {
    Trouble { retry_after: refusal.retry_after, ..Trouble::store(refusal.detail.clone()) }
}

type Refused = Box<dyn FnOnce() -> bool + Send>;

/// Words from outside on one line, as many as a person reads.
pub(super) fn printable(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST_WORDS).collect()
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", self.credential)
    }
}
