//! Between HTTP and the service: who comes in, what is read of a request, and how an error looks to whom.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::access::Access;
use super::error::{ApiError, ErrorKind};
use super::json::Confidential;
use super::principal::Principal;
use super::{Api, flexera};
use crate::base::{AuditEvent, Host};
use crate::store::Role;

/// Bytes of a request: a hundred of the largest keys.
const LARGEST: usize = 1024 * 1024;
/// For the whole of a request's body.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(30);

/// The document that describes it all; whoever may reach the listener may read it.
pub(super) const OPENAPI: &str = "/openapi.json";

/// A way in, by how its errors look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    /// Problem documents (RFC 9457).
    Native,
    /// Goa's error media type.
    Flexera,
    /// `{message}`.
    Tower,
}

impl Surface {
    /// The way in that a path belongs to.
    pub(super) fn of(path: &str) -> Self {
        let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if below("/cred") || below("/cloud") {
            Self::Flexera
        } else if below("/api") {
            Self::Tower
        } else {
            Self::Native
        }
    }

    /// An error as its clients know it.
    pub(super) fn answer(self, error: &ApiError) -> Response {
        if error.kind == ErrorKind::Internal {
            tracing::error!(error = error.detail, "the management API failed");
        }
        let mut response = match self {
            Self::Native => problem(error),
            Self::Flexera => flexera::goa(error),
            Self::Tower => tower(error),
        };
        *response.status_mut() = error.status();
        let headers = response.headers_mut();
        if let Some(after) = error.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if error.kind == ErrorKind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Countersign\""));
        }
        response
    }
}

fn problem(error: &ApiError) -> Response {
    let mut document = json!({
        "type": format!("urn:countersign:problem:{}", error.code()),
        "title": error.title(),
        "status": error.status().as_u16(),
        "detail": error.detail,
        "code": error.code(),
    });
    if let Some(path) = &error.path {
        document["path"] = json!(path);
    }
    ([(header::CONTENT_TYPE, "application/problem+json")], document.to_string()).into_response()
}

/// Tower's clients want no body where they may not.
fn tower(error: &ApiError) -> Response {
    if error.kind == ErrorKind::Forbidden {
        return StatusCode::FORBIDDEN.into_response();
    }
    Json(json!({"message": error.detail})).into_response()
}

/// An error of the native API, as handlers return it.
#[derive(Debug)]
pub(super) struct Problem(ApiError);

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Surface::Native.answer(&self.0)
    }
}

/// Who asks; the layers have proven it.
#[derive(Debug, Clone)]
pub(super) struct Asking(pub(super) Principal);

impl<S: Sync> FromRequestParts<S> for Asking {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Surface::of(parts.uri.path()).answer(&ApiError::unauthorized("nobody was proven")))
    }
}

/// Parts of the path.
#[derive(Debug)]
pub(super) struct At<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let found: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        let wrong = |_| ApiError::bad_request("the path is not text in UTF-8");
        found.map(|Path(found)| Self(found)).map_err(|error| Surface::of(parts.uri.path()).answer(&wrong(error)))
    }
}

/// The query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let found: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        found.map(|Query(found)| Self(found)).map_err(|error| {
            let why = format!("the query cannot be read: {}", unquoted(&error.body_text()));
            Surface::of(parts.uri.path()).answer(&ApiError::bad_request(why))
        })
    }
}

/// The body, a JSON document that may hold secrets; an empty one is an empty object.
#[derive(Debug)]
pub(super) struct Document(pub(super) Confidential);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let surface = Surface::of(request.uri().path());
        read(request.into_body()).await.map(Self).map_err(|error| surface.answer(&error))
    }
}

async fn read(body: Body) -> Result<Confidential, ApiError> {
    let mut whole = Zeroizing::new(Vec::new());
    let mut body = Limited::new(body, LARGEST);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    ApiError::new(ErrorKind::TooLarge, format!("a body has {LARGEST} bytes at most"))
                } else {
                    ApiError::bad_request("the body ended before its end")
                }
            })?;
            if let Ok(bytes) = frame.into_data() {
                whole.extend_from_slice(&bytes);
            }
        }
        Ok::<(), ApiError>(())
    };
    let late = |_| ApiError::bad_request(format!("the body did not arrive within {} s", BODY_TIME.as_secs()));
    tokio::time::timeout(BODY_TIME, reading).await.map_err(late)??;
    if whole.is_empty() {
        return Ok(Confidential::new(json!({})));
    }
    let parsed = serde_json::from_slice::<Value>(&whole);
    parsed.map(Confidential::new).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ApiError::bad_request(format!("the body is no JSON document: line {line}, column {column}"))
    })
}

/// Reads a document into a type.
pub(super) fn typed<T: DeserializeOwned>(document: Confidential) -> Result<T, ApiError> {
    let document = document.take();
    // A list would be taken for an object whose keys are left out.
    if document.is_array() {
        return Err(ApiError::unprocessable("", "the body is an object"));
    }
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let why = unquoted(&error.into_inner().to_string());
        let path = if path == "." { String::new() } else { super::json::snake_key(&path) };
        ApiError::unprocessable(path, why)
    })
}

/// A message of the JSON reader without the value that it complains about, which may be a secret in the wrong place.
fn unquoted(message: &str) -> String {
    let echoes = ["invalid type: ", "invalid value: ", "unknown variant "];
    if !echoes.iter().any(|echo| message.contains(echo)) {
        return message.to_owned();
    }
    match message.rfind("expected ") {
        Some(at) => message[at..].to_owned(),
        None => "it has the wrong type".to_owned(),
    }
}

/// There is nothing here.
pub(super) async fn nowhere(request: Request) -> Response {
    let path = request.uri().path();
    Surface::of(path).answer(&ApiError::new(ErrorKind::NotFound, format!("there is nothing at {path}")))
}

/// There is something here, and it is not asked so.
pub(super) async fn not_so(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let why = format!("{path} takes other methods than {method}: {OPENAPI} lists them");
    Surface::of(path).answer(&ApiError::new(ErrorKind::MethodNotAllowed, why))
}

/// What is left to say when a handler broke.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Surface::Native.answer(&ApiError::internal("this is our own fault; the log says more"))
}

/// Runs what changes something to its end although its client goes away: what was recorded is then also made.
pub(super) async fn to_the_end(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let surface = Surface::of(request.uri().path());
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(_) => surface.answer(&ApiError::internal("a change ended in the middle; look whether it was made")),
    }
}

/// Lets in whom the section allows, says who it is, and counts.
pub(super) async fn enter(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let access = api.access.load_full();
    let surface = Surface::of(request.uri().path());
    let page = match page(&access, request.headers()) {
        Ok(page) => page,
        Err(error) => return no_store(surface.answer(&error)),
    };
    if let Some(preflight) = preflight(&request, page.as_ref()) {
        return preflight;
    }
    if request.uri().path() == OPENAPI {
        return allowed(next.run(request).await, page);
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let account = account_of(request.uri().path(), request.uri().query());
    let denied = |error: &ApiError, actor: Option<&str>| {
        // Who is nobody belongs to no account, whatever path was asked for.
        let account = account.clone().filter(|_| actor.is_some()).unwrap_or_default();
        let event = AuditEvent::new("management.denied", account, error.code());
        let event = event.fact("method", method.as_str()).fact("path", path.chars().take(256).collect::<String>());
        api.deps.audit.note(match actor {
            Some(actor) => event.by(actor),
            None => event,
        });
    };
    let principal = match access.authenticate(request.headers(), &api.store, &api.deps).await {
        Ok(principal) => principal,
        Err(error) => {
            if error.kind == ErrorKind::Unauthorized {
                denied(&error, None);
            }
            return allowed(no_store(surface.answer(&error)), page);
        }
    };
    // Only who may be there uses up what an account has.
    let charged = account.as_deref().filter(|account| principal.may(Role::Viewer, account).is_ok());
    let remaining = match access.limits.count(charged, &principal.name) {
        Ok(remaining) => remaining,
        Err(after) => {
            let mut response = surface.answer(&ApiError::too_many(after));
            response.headers_mut().insert("x-ratelimit-remaining", HeaderValue::from_static("0"));
            return allowed(no_store(response), page);
        }
    };
    let name = principal.name.clone();
    request.extensions_mut().insert(Asking(principal));
    let mut response = next.run(request).await;
    if response.status() == StatusCode::FORBIDDEN {
        denied(&ApiError::forbidden(""), Some(&name));
    }
    if let Some(remaining) = remaining {
        response.headers_mut().insert("x-ratelimit-remaining", HeaderValue::from(remaining));
    }
    allowed(no_store(response), page)
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a request is of a program, of a page of our own, or of one that may ask; refuses all other pages, and names
/// that somebody else's DNS gave to our address.
fn page(access: &Access, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let own_name = |authority: &str| {
        let host = authority
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(authority, |(host, _)| host);
        match Host::parse(host) {
            Ok(Host::Address(_)) => true,
            Ok(Host::Name(name)) => &*name == "localhost" || access.server_names.iter().any(|own| **own == *name),
            Err(_) => false,
        }
    };
    let hosts: Vec<&str> = headers.get_all(header::HOST).iter().filter_map(|host| host.to_str().ok()).collect();
    let [host] = hosts[..] else {
        return Err(ApiError::forbidden("one Host header is expected"));
    };
    if !own_name(host) {
        return Err(ApiError::forbidden(
            "the admin listener answers to addresses, to localhost and to `admin.server_names`",
        ));
    }
    let refused = || ApiError::forbidden("web pages may not ask, except those of `admin.allow_origins`");
    let Some(origin) = headers.get(header::ORIGIN) else {
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let harmless = matches!(site, None | Some(b"none" | b"same-origin"));
        return if harmless { Ok(None) } else { Err(refused()) };
    };
    let text = origin.to_str().unwrap_or_default();
    let own = text.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    if own || access.allow_origins.iter().any(|allowed| allowed == text) {
        return Ok(Some(origin.clone()));
    }
    Err(refused())
}

/// What a browser asks before a page may ask.
fn preflight(request: &Request, page: Option<&HeaderValue>) -> Option<Response> {
    let page = page?.clone();
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key("access-control-request-method");
    let mut response = asks.then(|| StatusCode::NO_CONTENT.into_response())?;
    let headers = response.headers_mut();
    headers.insert("access-control-allow-methods", HeaderValue::from_static("GET, PUT, POST, PATCH, DELETE"));
    let names = "authorization, content-type, if-match, if-none-match, api-version";
    headers.insert("access-control-allow-headers", HeaderValue::from_static(names));
    Some(allowed(response, Some(page)))
}

fn allowed(mut response: Response, page: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(page) = page {
        headers.insert("access-control-allow-origin", page);
        let names = "etag, e-tag, location, x-ref, x-ratelimit-remaining, retry-after";
        headers.insert("access-control-expose-headers", HeaderValue::from_static(names));
    }
    response
}

/// The account that a request is about, for its limit; the handlers find it by themselves.
fn account_of(path: &str, query: Option<&str>) -> Option<String> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments[..] {
        ["v1", "accounts", account, ..]
        | ["cred", "v2", "projects", account, ..]
        | ["cloud", "projects", account, ..] => Some(account.to_owned()),
        ["cred", "v2", "orgs", org, ..] => Some(format!("org-{org}")),
        ["api", ..] => {
            let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            let workspace = pairs.find(|(key, value)| key == "workspaceId" && !value.is_empty());
            Some(workspace.map_or_else(|| "default".to_owned(), |(_, value)| value.into_owned()))
        }
        _ => None,
    }
    .filter(|account| super::check_account(account).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Deps;

    #[test]
    fn no_message_repeats_a_value_in_the_wrong_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only read into")]
        struct Form {
            enabled: bool,
            role: crate::store::Role,
        }
        for document in [
            json!({"enabled": "canary", "role": "admin"}),
            json!({"enabled": true, "role": "canary"}),
            json!("canary"),
            json!({"enabled": true, "role": ["canary"]}),
        ] {
            let error = typed::<Form>(Confidential::new(document)).unwrap_err();
            assert!(!format!("{error:?}").contains("canary") && error.detail.contains("expected"), "{error:?}");
        }
        let error = typed::<Form>(Confidential::new(json!({"pasword": "canary"}))).unwrap_err();
        assert!(error.detail.contains("pasword"));
    }

    #[test]
    fn programs_and_pages_of_our_own_may_ask_and_others_when_they_are_listed() {
        let mut access = Access::closed(&Deps::system());
        access.server_names.push("admin.test".into());
        access.allow_origins.push("https://console.test".into());
        let asks = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            page(&access, &headers).is_ok()
        };
        for pairs in [
            &[("host", "127.0.0.1:8190")][..],
            &[("host", "[::1]:8190")],
            &[("host", "localhost")],
            &[("host", "Admin.test:8190")],
            &[("host", "127.0.0.1:1"), ("sec-fetch-site", "none")],
            &[("host", "127.0.0.1:1"), ("sec-fetch-site", "same-origin")],
            &[("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-origin")],
            &[("host", "localhost:1"), ("origin", "https://console.test"), ("sec-fetch-site", "cross-site")],
        ] {
            assert!(asks(pairs), "{pairs:?}");
        }
        for pairs in [
            &[][..],
            &[("host", "evil.test")],
            &[("host", "localhost.evil.test")],
            &[("host", "127.0.0.1"), ("host", "evil.test")],
            &[("host", "127.0.0.1"), ("origin", "http://evil.test")],
            &[("host", "127.0.0.1"), ("origin", "null")],
            &[("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:2")],
            &[("host", "127.0.0.1"), ("origin", "https://console.test.evil.test")],
            &[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")],
            &[("host", "127.0.0.1"), ("sec-fetch-site", "same-site")],
            // Rebound: the page's own name, and both agree.
            &[("host", "evil.test"), ("origin", "http://evil.test"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!asks(pairs), "{pairs:?}");
        }
    }

    #[test]
    fn each_path_is_of_one_account_and_of_one_way_in() {
        assert_eq!(account_of("/v1/accounts/a/credentials", None).as_deref(), Some("a"));
        assert_eq!(account_of("/cred/v2/orgs/7/credentials", None).as_deref(), Some("org-7"));
        assert_eq!(account_of("/cloud/projects/7/credentials", None).as_deref(), Some("7"));
        assert_eq!(account_of("/api/credentials", Some("a=b&workspaceId=9")).as_deref(), Some("9"));
        assert_eq!(account_of("/api/credentials", None).as_deref(), Some("default"));
        assert_eq!(account_of("/v1/tokens", None), None);
        assert_eq!(Surface::of("/cred/v2/x"), Surface::Flexera);
        assert_eq!(Surface::of("/apiary"), Surface::Native);
        assert_eq!(Surface::of("/api/credentials"), Surface::Tower);
    }
}
