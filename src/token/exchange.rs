//! One token request and its answer (RFC 6749, RFC 7521, RFC 8707), strict in what is sent and lenient in what is read.
//!
//! The `oauth2` crate makes requests and reads answers; what it does not know stands in [`Endpoint::send`]: assertion
//! grants, Basic authentication as servers want it, and answers that are meant well but written badly.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use oauth2::basic::{BasicClient, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, Scope, TokenResponse, TokenUrl,
};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::assertion::Assertion;
use super::failure::{Failure, FailureKind};
use crate::base::{BoxFuture, Destination, HttpClient, Random, Secret};

/// RFC 7523 section 2.1, the grant, and section 2.2, the client authentication.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// No access token lives longer, whatever the answer says: the number is a provider's mistake, and time must not overflow.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Types of tokens that need a proof (RFC 9449, RFC 8693 section 2.2.1 and drafts).
const PROVEN: [&str; 5] = ["dpop", "mac", "pop", "hok", "n_a"];

/// As much of a provider's own words as a person reads.
const MAX_DESCRIPTION: usize = 300;

/// As much of them as is looked through for secrets.
const LONGEST_WORDS: usize = 2000;

/// What is shorter is no secret, and would be found in any text.
const SHORTEST_SECRET: usize = 4;

/// So many characters of a longer secret in a row are not shown either.
const PIECE: usize = 12;

/// A token endpoint.
pub struct Endpoint {
    url: TokenUrl,
    destination: Destination,
    http: Arc<dyn HttpClient>,
    headers: HeaderMap,
}

/// Statuses of those who stand between and lost the answer; the last three are a content network's.
const GAVE_UP: [u16; 6] = [408, 502, 504, 520, 522, 524];

/// What only a provider says itself (RFC 6749 section 5.2, RFC 8628 section 3.5, GitHub).
const PROVIDERS_OWN: [&str; 10] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "temporarily_unavailable",
    "server_error",
    "slow_down",
    "bad_refresh_token",
];

/// What is exchanged for an access token.
#[derive(Debug)]
pub enum Grant<'a> {
    /// RFC 6749 section 4.4.
    ClientCredentials,
    /// RFC 6749 section 6.
    RefreshToken(&'a Secret),
    /// RFC 7523 section 2.1.
    JwtBearer(&'a Assertion),
}

/// How the client authenticates (RFC 6749 section 2.3, RFC 7521 section 4.2).
#[derive(Debug)]
pub enum ClientAuth {
    /// Not at all, or by a TLS certificate (RFC 8705); the id is sent when there is one.
    None(Option<String>),
    /// Id and secret in the form.
    Form(String, Secret),
    /// Id and secret in an Authorization header, form-urlencoded first as the RFC wants it.
    Basic(String, Secret),
    /// The same without that encoding, for servers that do not decode.
    BasicRaw(String, Secret),
    /// A signed assertion (`private_key_jwt`, `client_secret_jwt`); the id is sent when there is one.
    Assertion(Option<String>, Box<Assertion>),
    /// An assertion that somebody else made: a token of the workload's own platform (RFC 7523 section 2.2).
    Presented(String, Secret),
}

/// One request.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// What is exchanged.
    pub grant: Grant<'a>,
    /// Who exchanges it.
    pub client: &'a ClientAuth,
    /// Joined by spaces.
    pub scopes: &'a [String],
    /// Further form fields.
    pub params: &'a [Param],
}

/// A form field.
#[derive(Debug)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
    /// Whether no error may repeat the value.
    pub confidential: bool,
}

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// The access token.
    pub access_token: Secret,
    /// How long it lives, if the answer says so.
    pub lifetime: Option<Duration>,
    /// A refresh token, if the answer has one.
    pub refresh_token: Option<Secret>,
}

/// Why there is no token.
#[derive(Debug)]
pub struct ExchangeError {
    /// What the caller is told.
    pub failure: Failure,
    /// The request may have been granted without our knowing: what it spent must not be spent again blindly.
    pub lost: bool,
}

impl Endpoint {
    /// An endpoint with the headers that every request to it carries.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(url: &str, http: Arc<dyn HttpClient>, headers: HeaderMap) -> Result<Self, String> {
        let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        let url = TokenUrl::new(url.to_owned()).map_err(|_| "not an address".to_owned())?;
        Ok(Self { url, destination, http, headers })
    }

    /// Exchanges a grant for a token.
    ///
    /// # Errors
    /// What the server said, or what was in the way; nothing of what was sent is in it.
    pub async fn exchange(
        &self,
        request: &TokenRequest<'_>,
        now: SystemTime,
        random: &dyn Random,
    ) -> Result<Answer, ExchangeError> {
        let form = Form::of(request, self.confidential(), now, random)
            .map_err(|why| ExchangeError { failure: Failure::new(FailureKind::Unavailable, why), lost: false })?;
        let transport = Transport { endpoint: self, form: &form, now };
        let client =
            BasicClient::new(ClientId::new(form.id.clone().unwrap_or_default())).set_token_uri(self.url.clone());
        let client = client.set_auth_type(AuthType::RequestBody);
        let client = match &form.secret {
            Some(secret) => client.set_client_secret(secret.clone()),
            None => client,
        };
        let scopes = request.scopes.iter().map(|scope| Scope::new(scope.clone()));
        let params = || form.params.iter().map(|(name, value)| (name.clone(), value.clone()));
        let refreshing = matches!(request.grant, Grant::RefreshToken(_));
        let answer: Exchanged = match &form.refresh_token {
            Some(token) => {
                let mut exchange = client.exchange_refresh_token(token).add_scopes(scopes);
                for (name, value) in params() {
                    exchange = exchange.add_extra_param(name, value);
                }
                exchange.request_async(&transport).await
            }
            None => {
                let mut exchange = client.exchange_client_credentials().add_scopes(scopes);
                for (name, value) in params() {
                    exchange = exchange.add_extra_param(name, value);
                }
                exchange.request_async(&transport).await
            }
        };
        read(answer, refreshing)
    }

    /// What every request to this endpoint carries and no error may repeat: its headers, and the query of its address.
    fn confidential(&self) -> Vec<Secret> {
        let marked = self.headers.values().filter(|value| value.is_sensitive());
        let mut secrets: Vec<Secret> = marked.map(|value| Secret::new(value.as_bytes())).collect();
        if let Some(query) = self.url.url().query() {
            secrets.extend(form_urlencoded::parse(query.as_bytes()).map(|(_, value)| Secret::new(value.into_owned())));
        }
        secrets
    }

    /// Sends what the crate made, in the form this server wants, and makes of the answer what the crate reads.
    async fn send(&self, mut request: HttpRequest, form: &Form, now: SystemTime) -> Result<HttpResponse, Obstacle> {
        form.dress(&mut request);
        for name in self.headers.keys() {
            request.headers_mut().remove(name);
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let host = self.destination.host();
        let answer = self.http.call(request).await.map_err(|error| Obstacle {
            failure: Failure::new(FailureKind::Unavailable, format!("no answer from {host}: {}", error.detail)),
            lost: error.sent,
        })?;
        let status = answer.status();
        let said = |text: &str| format!("{host} answered {}{}", status.as_u16(), form.scrubbed(text));
        let refused = |kind, text: &str| Obstacle { failure: Failure::new(kind, said(text)), lost: false };
        if status.is_redirection() {
            return Err(refused(FailureKind::Unavailable, &moved(&self.url, answer.headers())));
        }
        match reading(status, answer.body(), now) {
            Reading::Token(token) => Ok(json(StatusCode::OK, &token)),
            // A token may have been made all the same, and a refresh token be spent.
            Reading::Nothing(why) => {
                Err(Obstacle { lost: true, ..refused(FailureKind::Unavailable, &format!(", but {why}")) })
            }
            Reading::Error { code, description } => {
                let text = [" ", &code, ": ", &description].concat();
                let text = text.trim_end_matches([' ', ':']).replace(" : ", ": ");
                if unavailable(status, &code) {
                    let mut obstacle = refused(FailureKind::Unavailable, &text);
                    // A gateway that gave up says nothing of what became of the request behind it.
                    obstacle.lost = GAVE_UP.contains(&status.as_u16()) && !PROVIDERS_OWN.contains(&code.as_str());
                    obstacle.failure = obstacle.failure.with_retry_after(retry_after(answer.headers(), now));
                    return Err(obstacle);
                }
                let denied = status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && code.is_empty());
                // A 401 says it by itself, whatever the provider calls it (goa: `unauthorized`).
                if code.is_empty() || (denied && !PROVIDERS_OWN.contains(&code.as_str())) {
                    return Err(refused(if denied { FailureKind::Rejected } else { FailureKind::Refused }, &text));
                }
                let document = serde_json::json!({ "error": code, "error_description": said(&text) });
                Ok(json(StatusCode::BAD_REQUEST, &document))
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.destination)
    }
}

/// The crate's way to [`Endpoint::send`].
struct Transport<'a> {
    endpoint: &'a Endpoint,
    form: &'a Form,
    now: SystemTime,
}

impl<'c> oauth2::AsyncHttpClient<'c> for Transport<'_> {
    type Error = Obstacle;
    type Future = BoxFuture<'c, Result<HttpResponse, Obstacle>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.endpoint.send(request, self.form, self.now))
    }
}

/// What stood between us and a token, on its way through the crate.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
struct Obstacle {
    failure: Failure,
    lost: bool,
}

type Exchanged = Result<
    BasicTokenResponse,
    oauth2::RequestTokenError<Obstacle, oauth2::StandardErrorResponse<BasicErrorResponseType>>,
>;

/// What the crate made of it. Its parse errors hold the whole answer, so they are never printed.
fn read(answer: Exchanged, refreshing: bool) -> Result<Answer, ExchangeError> {
    let answer = answer.map_err(|error| match error {
        oauth2::RequestTokenError::ServerResponse(error) => {
            let kind = match error.error() {
                BasicErrorResponseType::InvalidGrant if refreshing => FailureKind::Reauthorize,
                // GitHub's name for it.
                BasicErrorResponseType::Extension(code) if refreshing && code == "bad_refresh_token" => {
                    FailureKind::Reauthorize
                }
                BasicErrorResponseType::InvalidGrant
                | BasicErrorResponseType::InvalidClient
                | BasicErrorResponseType::UnauthorizedClient => FailureKind::Rejected,
                _ => FailureKind::Refused,
            };
            let detail = error.error_description().cloned().unwrap_or_default();
            ExchangeError { failure: Failure::new(kind, detail), lost: false }
        }
        oauth2::RequestTokenError::Request(Obstacle { failure, lost }) => ExchangeError { failure, lost },
        oauth2::RequestTokenError::Parse(..) | oauth2::RequestTokenError::Other(_) => ExchangeError {
            failure: Failure::new(FailureKind::Unavailable, "the token endpoint's answer cannot be read"),
            lost: true,
        },
    })?;
    Ok(Answer {
        access_token: Secret::new(answer.access_token().secret().as_bytes()),
        lifetime: answer.expires_in(),
        refresh_token: answer.refresh_token().map(|token| Secret::new(token.secret().as_bytes())),
    })
}

/// The fields of one request, and what of them must not come back in an error.
struct Form {
    id: Option<String>,
    secret: Option<ClientSecret>,
    basic: Option<HeaderValue>,
    refresh_token: Option<RefreshToken>,
    grant_type: Option<&'static str>,
    params: Vec<(String, String)>,
    secrets: Vec<Secret>,
}

impl Form {
    /// `secrets` are those that belong to the endpoint.
    fn of(
        request: &TokenRequest<'_>,
        secrets: Vec<Secret>,
        now: SystemTime,
        random: &dyn Random,
    ) -> Result<Self, String> {
        let mut form = Self {
            id: None,
            secret: None,
            basic: None,
            refresh_token: None,
            grant_type: None,
            params: Vec::new(),
            secrets,
        };
        match &request.grant {
            Grant::ClientCredentials => {}
            Grant::RefreshToken(token) => {
                form.refresh_token = Some(RefreshToken::new(text(token, "the refresh token")?.to_owned()));
                form.secrets.push((*token).clone());
            }
            Grant::JwtBearer(assertion) => {
                form.grant_type = Some(JWT_BEARER);
                form.signed("assertion", assertion, now, random)?;
            }
        }
        match request.client {
            ClientAuth::None(id) => form.id.clone_from(id),
            ClientAuth::Form(id, secret) => {
                form.id = Some(id.clone());
                form.secret = Some(ClientSecret::new(text(secret, "the client secret")?.to_owned()));
                form.secrets.push(secret.clone());
            }
            ClientAuth::Basic(id, secret) => {
                // A space as %20: some servers decode `%XX` and leave `+` alone, and none does the reverse.
                let encoded =
                    |bytes: &[u8]| form_urlencoded::byte_serialize(bytes).collect::<String>().replace('+', "%20");
                form.basic(encoded(id.as_bytes()).as_bytes(), encoded(secret.expose()).as_bytes());
                form.secrets.push(secret.clone());
            }
            ClientAuth::BasicRaw(id, secret) => {
                form.basic(id.as_bytes(), secret.expose());
                form.secrets.push(secret.clone());
            }
            ClientAuth::Assertion(id, assertion) => {
                form.id.clone_from(id);
                form.params.push(("client_assertion_type".into(), CLIENT_JWT_BEARER.into()));
                form.signed("client_assertion", assertion, now, random)?;
            }
            ClientAuth::Presented(id, assertion) => {
                form.id = Some(id.clone());
                form.params.push(("client_assertion_type".into(), CLIENT_JWT_BEARER.into()));
                form.params.push(("client_assertion".into(), text(assertion, "the assertion")?.to_owned()));
                form.secrets.push(assertion.clone());
            }
        }
        for Param { name, value, confidential } in request.params {
            form.params.push((name.clone(), text(value, name)?.to_owned()));
            form.secrets.extend(confidential.then(|| value.clone()));
        }
        Ok(form)
    }

    /// The crate's own encoding writes a space as `+`, and it has none for servers that do not decode.
    fn basic(&mut self, id: &[u8], secret: &[u8]) {
        let pair = STANDARD.encode([id, b":", secret].concat());
        self.basic = HeaderValue::from_str(&format!("Basic {pair}")).ok();
        if let Some(basic) = &mut self.basic {
            basic.set_sensitive(true);
        }
        self.secrets.push(Secret::new(pair));
    }

    fn signed(
        &mut self,
        field: &str,
        assertion: &Assertion,
        now: SystemTime,
        random: &dyn Random,
    ) -> Result<(), String> {
        let signed = assertion.sign(now, random)?;
        self.params.push((field.to_owned(), text(&signed, field)?.to_owned()));
        self.secrets.push(signed);
        Ok(())
    }

    /// Makes of the crate's request what the crate cannot: no client id, another grant type, Basic as servers read it.
    fn dress(&self, request: &mut HttpRequest) {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form_urlencoded::parse(request.body()).filter_map(|(name, value)| match &*name {
                "client_id" if self.id.is_none() => None,
                "grant_type" => Some((name, self.grant_type.map_or(value, Into::into))),
                _ => Some((name, value)),
            }))
            .finish();
        *request.body_mut() = body.into_bytes();
        if let Some(basic) = &self.basic {
            request.headers_mut().insert(AUTHORIZATION, basic.clone());
        }
    }

    fn scrubbed(&self, text: &str) -> String {
        scrubbed(text, &self.secrets)
    }
}

/// A server's own words, on one line, without what we sent it in confidence, as many of them as a person reads.
pub(super) fn scrubbed(text: &str, secrets: &[Secret]) -> String {
    let text: String = text.chars().take(LONGEST_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let spellings: Vec<String> = secrets.iter().filter_map(Secret::expose_str).flat_map(spellings).collect();
    without(&text, &spellings).chars().take(MAX_DESCRIPTION).collect()
}

/// The ways in which a server may repeat a secret: as it is, percent-encoded in one of the usual ways, in JSON.
fn spellings(secret: &str) -> Vec<String> {
    let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let percent = form.replace('+', "%20");
    let json = serde_json::Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let (lower_form, lower_percent) = (lower_escapes(&form), lower_escapes(&percent));
    let all = [secret.to_owned(), form, percent, lower_form, lower_percent, json.replace('/', "\\/"), json];
    let mut all: Vec<String> = all.into_iter().filter(|spelling| spelling.len() >= SHORTEST_SECRET).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `%2B` as `%2b`.
fn lower_escapes(text: &str) -> String {
    let mut left = 0;
    let lower = |c: char| match (c, left) {
        ('%', _) => {
            left = 2;
            c
        }
        (_, 0) => c,
        _ => {
            left -= 1;
            c.to_ascii_lowercase()
        }
    };
    text.chars().map(lower).collect()
}

/// The text with `[redacted]` for every part of it that is a piece of one of these, so that half a secret does not stay
/// when a server cuts it or one secret begins like another.
fn without(text: &str, spellings: &[String]) -> String {
    let mut hidden = vec![false; text.len()];
    // Where each piece of the text stands, so that a long secret is gone through once.
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, window) in text.as_bytes().windows(PIECE).enumerate() {
        places.entry(window).or_default().push(at);
    }
    for spelling in spellings.iter().map(String::as_bytes) {
        if spelling.len() < PIECE {
            let whole = text.as_bytes().windows(spelling.len()).enumerate().filter(|(_, window)| *window == spelling);
            whole.for_each(|(at, _)| hidden[at..at + spelling.len()].fill(true));
        }
        for at in spelling.windows(PIECE).filter_map(|piece| places.get(piece)).flatten() {
            hidden[*at..at + PIECE].fill(true);
        }
    }
    let mut shown = String::new();
    let mut hiding = false;
    for (at, c) in text.char_indices() {
        if !hidden[at] {
            shown.push(c);
        } else if !hiding {
            shown.push_str("[redacted]");
        }
        hiding = hidden[at];
    }
    shown
}

fn text<'a>(secret: &'a Secret, what: &str) -> Result<&'a str, String> {
    secret.expose_str().ok_or_else(|| format!("{what} is not text"))
}

/// What an answer says, whatever its content type claims.
#[derive(Debug, PartialEq)]
enum Reading {
    /// A token answer as RFC 6749 section 5.1 writes it.
    Token(Value),
    /// The server's error; the code is empty when it names none.
    Error { code: String, description: String },
    /// Success, and no token.
    Nothing(&'static str),
}

fn reading(status: StatusCode, body: &[u8], now: SystemTime) -> Reading {
    let fields = fields(body);
    let (code, description) = fields.as_ref().map(error_of).unwrap_or_default();
    if !status.is_success() {
        return Reading::Error { code, description };
    }
    let Some(mut fields) = fields else {
        return Reading::Nothing(if body.is_empty() { "the answer is empty" } else { "the answer is not JSON" });
    };
    let Some(Value::String(token)) = fields.remove("access_token").filter(|token| token.as_str() != Some("")) else {
        let failed = fields.get("error").is_some_and(|error| !error.is_null());
        return if failed {
            Reading::Error { code, description }
        } else {
            Reading::Nothing("there is no access_token in it")
        };
    };
    let kind = fields.get("token_type").and_then(Value::as_str).unwrap_or("bearer").to_ascii_lowercase();
    // RFC 6749 section 7.1: a token that needs a proof is of no use without it. Other words are written for bearer tokens
    // too: `BearerToken`, `bot`.
    if PROVEN.contains(&kind.as_str()) {
        return Reading::Nothing("its token needs a proof of possession and is not a bearer token");
    }
    let mut plain = Map::new();
    plain.insert("access_token".into(), token.into());
    plain.insert("token_type".into(), "bearer".into());
    if let Some(seconds) = lifetime(&fields, now) {
        plain.insert("expires_in".into(), seconds.into());
    }
    if let Some(Value::String(refresh)) = fields.remove("refresh_token").filter(|token| token.as_str() != Some("")) {
        plain.insert("refresh_token".into(), refresh.into());
    }
    Reading::Token(plain.into())
}

/// JSON, or a form as GitHub answers unless it is asked not to.
pub(super) fn fields(body: &[u8]) -> Option<Map<String, Value>> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii();
    if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
        return Some(fields);
    }
    let is_form = body
        .split(|byte| *byte == b'&')
        .any(|pair| [&b"access_token="[..], b"error="].iter().any(|name| pair.starts_with(name)));
    is_form.then(|| {
        form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), Value::from(value.into_owned()))).collect()
    })
}

/// Whole seconds: `expires_in` as a number or a string (Azure v1), or the moment `expires_on`.
pub(super) fn lifetime(fields: &Map<String, Value>, now: SystemTime) -> Option<u64> {
    let number = |name: &str| match fields.get(name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let seconds = number("expires_in").or_else(|| number("expires_on").map(|moment| moment - since))?;
    // A NaN becomes 0 too: an answer that says nonsense gives a token that is not kept.
    Some(seconds.clamp(0.0, LONGEST_LIFE.as_secs_f64()) as u64)
}

/// The code and the words of an error: RFC 6749 section 5.2, or one of the forms that others write.
pub(super) fn error_of(fields: &Map<String, Value>) -> (String, String) {
    let text = |fields: &Map<String, Value>, names: &[&str]| {
        let value = names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()));
        match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    };
    let described = ["error_description", "message", "errorSummary", "error_message", "detail"];
    // Microsoft's number, by which people look for what to do; it mostly stands in the words already.
    let number = fields.get("error_codes").and_then(|codes| codes.get(0)).and_then(Value::as_u64);
    let (code, words) = match fields.get("error") {
        Some(Value::Object(inner)) => (text(inner, &["status", "code", "type"]), text(inner, &described)),
        Some(Value::String(code)) => (code.clone(), text(fields, &described)),
        _ => (text(fields, &["errorCode", "name", "code"]), text(fields, &described)),
    };
    // Vault lists its errors.
    let listed = fields.get("errors").and_then(Value::as_array).filter(|_| code.is_empty() && words.is_empty());
    let listed = listed.map(|errors| errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "));
    let words = listed.unwrap_or(words);
    match number {
        Some(number) if !words.contains(&number.to_string()) => (code, format!("{words} (error code {number})")),
        _ => (code, words),
    }
}

/// What may be over soon: a busy or broken server, not a wrong request.
pub(super) fn unavailable(status: StatusCode, code: &str) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        || matches!(code, "temporarily_unavailable" | "server_error" | "internal_failure" | "slow_down")
}

/// RFC 9110 section 10.2.3: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

/// Where a redirect points: the host alone, since a query may hold anything.
fn moved(url: &TokenUrl, headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| url.url().join(location).ok());
    let place = match target.as_ref().and_then(url::Url::host_str) {
        Some(host) => format!("and points to {host}"),
        None => "without a place to go".to_owned(),
    };
    format!(" {place}; no redirect is followed with a secret: write the address it has now into `token_url`")
}

fn json(status: StatusCode, document: &Value) -> HttpResponse {
    let mut response = Response::new(document.to_string().into_bytes());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::base::CallError;
    use crate::base::deps::SystemRandom;

    /// Answers with the next of its answers and keeps what it was asked.
    #[derive(Debug, Default)]
    struct Server {
        asked: Mutex<Vec<(HeaderMap, String)>>,
        answers: Mutex<Vec<Result<HttpResponse, CallError>>>,
    }

    impl HttpClient for Server {
        fn call(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, CallError>> {
            let body = String::from_utf8(request.body().clone()).unwrap();
            self.asked.lock().unwrap().push((request.headers().clone(), body));
            let answer = self.answers.lock().unwrap().remove(0);
            Box::pin(async move { answer })
        }
    }

    fn answer(status: u16, kind: &str, body: &str) -> Result<HttpResponse, CallError> {
        Ok(Response::builder().status(status).header(CONTENT_TYPE, kind).body(body.as_bytes().to_vec()).unwrap())
    }

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    async fn ask(
        client: &ClientAuth,
        grant: Grant<'_>,
        params: &[Param],
        answer: Result<HttpResponse, CallError>,
    ) -> (Result<Answer, ExchangeError>, HeaderMap, String) {
        let server = Arc::new(Server::default());
        server.answers.lock().unwrap().push(answer);
        let endpoint =
            Endpoint::new("https://idp.test/token?x=1", Arc::clone(&server) as Arc<dyn HttpClient>, HeaderMap::new());
        let request = TokenRequest { grant, client, scopes: &["a".into(), "b c".into()], params };
        let result = endpoint.unwrap().exchange(&request, SystemTime::UNIX_EPOCH + NOW, &SystemRandom).await;
        let (headers, body) = server.asked.lock().unwrap().pop().unwrap();
        (result, headers, body)
    }

    fn form(id: &str, secret: &str) -> ClientAuth {
        ClientAuth::Form(id.into(), Secret::new(secret))
    }

    async fn answered(answer: Result<HttpResponse, CallError>) -> Result<Answer, ExchangeError> {
        ask(&form("me", "s3cr3t-value"), Grant::ClientCredentials, &[], answer).await.0
    }

    const TOKEN: &str = r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#;

    fn token() -> Result<HttpResponse, CallError> {
        answer(200, "application/json", TOKEN)
    }

    #[tokio::test]
    async fn the_client_is_in_the_form_or_in_basic_encoded_or_raw() {
        let (_, headers, body) = ask(&form("me", "a&b"), Grant::ClientCredentials, &[], token()).await;
        assert_eq!(body, "grant_type=client_credentials&scope=a+b+c&client_id=me&client_secret=a%26b");
        assert!(!headers.contains_key(AUTHORIZATION));
        let basic = ClientAuth::Basic("a:b c".into(), Secret::new("p%é"));
        let (_, headers, body) = ask(&basic, Grant::ClientCredentials, &[], token()).await;
        assert_eq!(headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("a%3Ab%20c:p%25%C3%A9")));
        assert_eq!(body, "grant_type=client_credentials&scope=a+b+c");
        let raw = ClientAuth::BasicRaw("a b".into(), Secret::new("p%:"));
        let (_, headers, body) = ask(&raw, Grant::ClientCredentials, &[], token()).await;
        assert_eq!(headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("a b:p%:")));
        assert_eq!(body, "grant_type=client_credentials&scope=a+b+c");
    }

    #[tokio::test]
    async fn a_refresh_token_goes_without_a_client_where_there_is_none_and_parameters_follow() {
        let token = Secret::new("r");
        let param =
            |name: &str, value: &str| Param { name: name.into(), value: Secret::new(value), confidential: false };
        let params = [param("resource", "https://x/"), param("audience", "y")];
        let answer = answer(200, "application/json", r#"{"access_token":"t","refresh_token":"r2"}"#);
        let (result, _, body) = ask(&ClientAuth::None(None), Grant::RefreshToken(&token), &params, answer).await;
        assert_eq!(body, "grant_type=refresh_token&refresh_token=r&scope=a+b+c&resource=https%3A%2F%2Fx%2F&audience=y");
        let result = result.unwrap();
        assert_eq!(result.refresh_token.unwrap().expose(), b"r2");
        assert_eq!(result.lifetime, None);
    }

    #[tokio::test]
    async fn answers_are_read_as_they_come_in_the_wild() {
        let long = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(100_000));
        for (kind, body, lifetime) in [
            ("text/plain", TOKEN, Some(3600)),
            (
                "application/json;charset=UTF-8",
                r#"{"access_token":"t","token_type":"bearer","expires_in":"3599"}"#,
                Some(3599),
            ),
            ("application/json", r#"{"access_token":"t","expires_on":"1700000060"}"#, Some(60)),
            ("application/json", r#"{"access_token":"t","token_type":"BearerToken","expires_in":59.7}"#, Some(59)),
            ("application/json", r#"{"access_token":"t","token_type":null,"error":null}"#, None),
            ("application/json", r#"{"access_token":"t","token_type":"bot"}"#, None),
            ("application/json", r#"{"access_token":"t","expires_in":1e300}"#, Some(31_536_000)),
            ("application/json", r#"{"access_token":"t","expires_in":-5}"#, Some(0)),
            (
                "application/x-www-form-urlencoded",
                "access_token=t&scope=&token_type=bearer&expires_in=28800",
                Some(28800),
            ),
            ("text/html", &long, None),
            ("application/json", "\u{feff}{\"access_token\":\"t\"}", None),
        ] {
            let answer = answered(answer(200, kind, body)).await.unwrap_or_else(|error| panic!("{body}: {error:?}"));
            assert_eq!(answer.lifetime, lifetime.map(Duration::from_secs), "{body}");
            assert!(answer.access_token.expose().len() == 100_000 || answer.access_token.expose() == b"t");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_token_is_none_and_may_have_been_granted() {
        for body in ["", "<html>", "[]", "{}", r#"{"access_token":""}"#, r#"{"access_token":7}"#, "null"] {
            let error = answered(answer(200, "application/json", body)).await.unwrap_err();
            assert!(error.lost && error.failure.kind == FailureKind::Unavailable, "{body}: {error:?}");
        }
        let error = answered(answer(200, "", r#"{"access_token":"t","token_type":"DPoP"}"#)).await.unwrap_err();
        assert!(error.failure.detail.contains("not a bearer token") && error.lost);
    }

    #[tokio::test]
    async fn errors_are_told_apart_by_what_mends_them() {
        use FailureKind::{Refused, Rejected, Unavailable};
        let goa = r#"{"name":"unauthorized","id":"x","message":"access token is invalid","fault":false}"#;
        for (status, body, kind, said) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"no such client"}"#,
                Rejected,
                "invalid_client: no such client",
            ),
            (400, r#"{"error":"invalid_grant"}"#, Rejected, "idp.test answered 400 invalid_grant"),
            (400, r#"{"error":"unauthorized_client"}"#, Rejected, "unauthorized_client"),
            (
                400,
                r#"{"error":"invalid_scope","error_description":"AADSTS70011: x"}"#,
                Refused,
                "invalid_scope: AADSTS70011",
            ),
            (
                200,
                r#"{"error":"bad_verification_code","error_description":"y"}"#,
                Refused,
                "200 bad_verification_code: y",
            ),
            (400, r#"{"error":{"code":401,"message":"z","status":"UNAUTHENTICATED"}}"#, Refused, "UNAUTHENTICATED: z"),
            (401, goa, Rejected, "unauthorized: access token is invalid"),
            (403, goa, Refused, "403 unauthorized: access token is invalid"),
            (401, r#"{"error":"invalid_scope"}"#, Refused, "401 invalid_scope"),
            (
                400,
                r#"{"error":"invalid_resource","error_description":"no such thing","error_codes":[500011]}"#,
                Refused,
                "invalid_resource: no such thing (error code 500011)",
            ),
            (401, "<html>", Rejected, "answered 401"),
            (404, "", Refused, "answered 404"),
            (500, "<html>", Unavailable, "answered 500"),
            (429, "{}", Unavailable, "answered 429"),
            (400, r#"{"error":"temporarily_unavailable"}"#, Unavailable, "temporarily_unavailable"),
            (503, r#"{"error":"invalid_client"}"#, Unavailable, "503 invalid_client"),
        ] {
            let error = answered(answer(status, "text/html", body)).await.unwrap_err();
            assert_eq!(error.failure.kind, kind, "{body}");
            assert!(error.failure.detail.contains(said) && !error.lost, "{body}: {}", error.failure.detail);
        }
        for (status, body, lost) in [
            (502, "<html>", true),
            (504, "", true),
            (408, "", true),
            (502, r#"{"error":"invalid_grant"}"#, false),
            (504, r#"{"status":504,"error":"Gateway Timeout"}"#, true),
            (524, "", true),
            (500, "", false),
            (503, "", false),
        ] {
            let error = answered(answer(status, "", body)).await.unwrap_err();
            assert_eq!((error.lost, error.failure.kind), (lost, Unavailable), "{status} {body}");
        }
        let token = Secret::new("r3fr3sh");
        let revoked =
            answer(400, "application/json", r#"{"error":"invalid_grant","error_description":"r3fr3sh is used"}"#);
        let (error, _, _) = ask(&ClientAuth::None(None), Grant::RefreshToken(&token), &[], revoked).await;
        let failure = error.unwrap_err().failure;
        assert_eq!(failure.kind, FailureKind::Reauthorize);
        assert!(failure.detail.contains("[redacted] is used"), "{}", failure.detail);
        let github = answer(200, "application/json", r#"{"error":"bad_refresh_token"}"#);
        let (error, _, _) = ask(&ClientAuth::None(None), Grant::RefreshToken(&token), &[], github).await;
        assert_eq!(error.unwrap_err().failure.kind, FailureKind::Reauthorize);
    }

    #[tokio::test]
    async fn a_server_that_repeats_what_it_was_sent_is_not_repeated() {
        let client = form("me", "s3cr3t+val/ue");
        let body = r#"{"error":"invalid_client","error_description":"bad s3cr3t+val/ue\r\nor s3cr3t%2Bval%2Fue!"}"#;
        let (error, _, _) = ask(&client, Grant::ClientCredentials, &[], answer(401, "application/json", body)).await;
        let detail = error.unwrap_err().failure.detail;
        assert!(detail.ends_with("bad [redacted]  or [redacted]!"), "{detail}");
        let long = format!(r#"{{"error":"invalid_request","error_description":"{}"}}"#, "x".repeat(9999));
        assert!(answered(answer(400, "", &long)).await.unwrap_err().failure.detail.len() <= MAX_DESCRIPTION + 30);
    }

    #[test]
    fn no_spelling_and_no_half_of_a_secret_stays() {
        let hide = |text: &str, secrets: &[&str]| {
            without(text, &secrets.iter().flat_map(|secret| spellings(secret)).collect::<Vec<_>>())
        };
        let secret = "a+b/c d\"e=ü-0123456789";
        for spelling in spellings(secret) {
            assert_eq!(hide(&format!("<{spelling}>"), &[secret]), "<[redacted]>", "{spelling}");
        }
        assert!(spellings(secret).iter().any(|spelling| spelling.contains("%2b")));
        // One begins like another; one is cut by the server.
        assert_eq!(hide("x secret-and-more-of-it y", &["secret", "secret-and-more-of-it"]), "x [redacted] y");
        assert_eq!(hide("got 0123456789abcdefg… (cut)", &["0123456789abcdefghijklmnop"]), "got [redacted]… (cut)");
        assert_eq!(hide("the id is abc", &["abc"]), "the id is abc", "too short to be one");
        assert_eq!(hide("ünïcödé stays", &["something-else"]), "ünïcödé stays");
    }

    #[tokio::test]
    async fn what_headers_and_the_query_of_the_address_hold_is_not_repeated_either() {
        let server = Arc::new(Server::default());
        let body = r#"{"error":"invalid_request","error_description":"bad header-secret and query-secret"}"#;
        server.answers.lock().unwrap().push(answer(400, "", body));
        let mut headers = HeaderMap::new();
        let mut value = HeaderValue::from_static("header-secret");
        value.set_sensitive(true);
        headers.insert("x-key", value);
        let http = Arc::clone(&server) as Arc<dyn HttpClient>;
        let endpoint = Endpoint::new("https://idp.test/token?key=query-secret", http, headers).unwrap();
        let client = form("me", "s3cr3t");
        let request = TokenRequest { grant: Grant::ClientCredentials, client: &client, scopes: &[], params: &[] };
        let error = endpoint.exchange(&request, SystemTime::UNIX_EPOCH + NOW, &SystemRandom).await.unwrap_err();
        assert!(error.failure.detail.ends_with("bad [redacted] and [redacted]"), "{}", error.failure.detail);
    }

    #[tokio::test]
    async fn a_redirect_is_an_error_that_names_the_new_host_and_no_more() {
        let mut moved = answer(301, "", "").unwrap();
        moved.headers_mut().insert(LOCATION, HeaderValue::from_static("https://login.new.test/t?code=hidden"));
        let error = answered(Ok(moved)).await.unwrap_err();
        assert_eq!(error.failure.kind, FailureKind::Unavailable);
        let detail = error.failure.detail;
        assert!(detail.contains("301 and points to login.new.test;") && !detail.contains("hidden"), "{detail}");
    }

    #[tokio::test]
    async fn an_answer_that_never_came_is_lost_only_if_the_request_went_out() {
        for sent in [true, false] {
            let error = answered(Err(CallError { detail: "reset".into(), sent })).await.unwrap_err();
            assert_eq!((error.lost, error.failure.kind), (sent, FailureKind::Unavailable));
            assert_eq!(error.failure.detail, "no answer from idp.test: reset");
        }
    }

    #[tokio::test]
    async fn a_retry_after_is_seconds_or_a_date() {
        for (value, seconds) in [("120", Some(120)), ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)), ("soon", None)] {
            let mut busy = answer(503, "", "").unwrap();
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(value));
            let failure = answered(Ok(busy)).await.unwrap_err().failure;
            assert_eq!(failure.retry_after, seconds.map(Duration::from_secs), "{value}");
        }
    }
}
