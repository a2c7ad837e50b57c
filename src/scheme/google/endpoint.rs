//! Calls to Google's own services that hand out tokens, and what their answers give.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::base::{ClientOptions, Destination, HttpClients, Secret};
use crate::scheme::fields;
use crate::token::{Failure, FailureKind, Reply, Service, Token};

/// Used when an answer says nothing of a lifetime. Short, since a token that ended earlier costs the caller a 401.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// Statuses by which these services say that whoever asks may not.
const REJECTED: [StatusCode; 2] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];

/// What a token is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An OAuth2 access token.
    Access,
    /// An OpenID Connect ID token.
    Identity,
}

/// How an operator lets addresses be others than Google's own.
pub(super) struct Access<'a> {
    pub(super) http: &'a dyn HttpClients,
    pub(super) options: ClientOptions,
    pub(super) allow_cleartext: bool,
}

impl Access<'_> {
    /// An endpoint that the operator wrote.
    pub(super) fn written(&self, url: &str) -> Result<Endpoint, String> {
        fields::endpoint(url, self.allow_cleartext)?;
        Endpoint::new(url, self.http, &self.options)
    }
}

/// One address of a service. `Debug` shows the host: what else stands in an address may be a secret.
pub(super) struct Endpoint {
    url: String,
    service: Service,
}

impl Endpoint {
    /// The service at an address, called as the options say.
    pub(super) fn new(url: &str, http: &dyn HttpClients, options: &ClientOptions) -> Result<Self, String> {
        let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        let client = http.client(&destination, options)?;
        Ok(Self { url: url.to_owned(), service: Service::new(destination, client) })
    }

    /// Sends a form. A client authenticates by Basic, where there is one.
    pub(super) async fn form(
        &self,
        fields: &[(&str, &str)],
        client: Option<&(String, Secret)>,
        secrets: &[Secret],
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))];
        if let Some((id, secret)) = client {
            let pair = Zeroizing::new([id.as_bytes(), b":", secret.expose()].concat());
            headers.push((AUTHORIZATION, confidential(&["Basic ", &STANDARD.encode(&*pair)])?));
        }
        self.call(Method::POST, "", headers, body.into_bytes(), secrets, now).await
    }

    /// Sends a document in the name of whom a token was given to. `path` follows the address.
    pub(super) async fn document(
        &self,
        path: &str,
        bearer: &Secret,
        document: &Value,
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let token = bearer.expose_str().unwrap_or_default();
        let headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (AUTHORIZATION, confidential(&["Bearer ", token])?),
        ];
        let body = document.to_string().into_bytes();
        self.call(Method::POST, path, headers, body, std::slice::from_ref(bearer), now).await
    }

    /// Reads what is there. `path` follows the address.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let confidential: Vec<Secret> = headers
            .iter()
            .filter(|(_, value)| value.is_sensitive())
            .map(|(_, value)| Secret::new(value.as_bytes()))
            .collect();
        self.call(Method::GET, path, headers, Vec::new(), &confidential, now).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Vec<u8>,
        secrets: &[Secret],
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url)).body(body);
        let mut request = request.map_err(|_| unsendable("the address"))?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            request.headers_mut().insert(name, value);
        }
        self.service.call(request, secrets, &REJECTED, now).await
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)
    }
}

/// A header value that is shown nowhere.
fn confidential(parts: &[&str]) -> Result<HeaderValue, Failure> {
    let text = Zeroizing::new(parts.concat());
    let mut value = HeaderValue::from_str(&text).map_err(|_| unsendable("a secret"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unsendable(what: &str) -> Failure {
    Failure::new(FailureKind::Refused, format!("{what} has characters that cannot be sent"))
}

/// The token of an answer of a token endpoint: `access_token` with its lifetime, or `id_token`, which tells its own end.
pub(super) fn token(reply: &Reply, wanted: Wanted, now: SystemTime) -> Result<Token, Failure> {
    match wanted {
        Wanted::Access => {
            let lifetime = reply.lifetime(now).unwrap_or(UNSAID_LIFETIME);
            Ok(Token { secret: reply.token("access_token")?, expires_at: now + lifetime })
        }
        Wanted::Identity => identity(reply.token("id_token")?, reply),
    }
}

/// An ID token, which is used until its `exp`. Whoever receives it verifies it; we only ask how long it lives.
pub(super) fn identity(token: Secret, reply: &Reply) -> Result<Token, Failure> {
    let end = token.expose_str().and_then(|text| {
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?.trim_end_matches('=')).ok()?);
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.get("exp")?.as_u64()?))
    });
    match end {
        Some(expires_at) => Ok(Token { secret: token, expires_at }),
        None => Err(reply.unusable("its token is not an ID token that tells when it ends")),
    }
}

/// The token of an answer of IAM Credentials to `generateAccessToken`.
pub(super) fn generated(reply: &Reply) -> Result<Token, Failure> {
    let secret = reply.token("accessToken")?;
    let fields = reply.object()?;
    let end = fields.get("expireTime").and_then(Value::as_str);
    let end = end.and_then(|end| DateTime::from_str(end, Format::DateTimeWithOffset).ok());
    match end.and_then(|end| SystemTime::try_from(end).ok()) {
        Some(expires_at) => Ok(Token { secret, expires_at }),
        None => Err(reply.unusable("there is no expireTime in it")),
    }
}
