//! Vault and OpenBao: key/value secrets of both versions, secrets that are leased, and the transit engine.
//!
//! <https://developer.hashicorp.com/vault/api-docs>, <https://openbao.org/api-docs/>

mod answer;
mod auth;
mod mount;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::answer::{refused, reply, words};
use self::auth::Auth;
use self::mount::{Engine as Mounted, Mounts};
use super::content::Content;
use super::line::{Answer, Line, Trouble};
use super::settings::{Backend, Common, Parsed, Read, StoreError, StoreKind, at, endpoint, keys};
use crate::base::{BoxFuture, Destination, Secret, StoreRef};

pub(super) const KIND: StoreKind = StoreKind { name: "vault", parse };

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault refuses what has it not where it is told to, so that no web page and no redirected request is obeyed.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    address: String,
    namespace: Option<String>,
    /// The engine in which names are looked up; without it a name begins with its engine.
    mount: Option<String>,
    /// Of that engine; asked of Vault when it is not said.
    kv_version: Option<u8>,
    auth: Option<Auth>,
}

fn parse(own: Map<String, Value>, common: &Common) -> Result<Parsed, StoreError> {
    let written = own.get("auth").cloned();
    let settings: Settings = keys(own)?;
    let endpoint = endpoint("address", &settings.address, common)?;
    if settings.address.contains(['?', '#']) {
        return Err(at("address", "an address has no query"));
    }
    let namespace = settings.namespace.as_deref().map(namespace).transpose()?;
    if let Some(mount) = &settings.mount {
        check_path(mount).map_err(|why| at("mount", why))?;
    }
    match (settings.kv_version, &settings.mount) {
        (None | Some(1 | 2), Some(_)) | (None, None) => {}
        (Some(_), None) => return Err(at("kv_version", "it goes with `mount`")),
        (Some(_), Some(_)) => return Err(at("kv_version", "1 or 2")),
    }
    let address = settings.address.trim_end_matches('/').to_owned();
    let implied = match (&settings.auth, common.borrows) {
        (None, true) => None,
        (Some(_), true) => return Err(at("auth", "the store authenticates in one way: `auth` or `credential`")),
        (None, false) => {
            return Err(at("auth", "`auth` is needed: approle, kubernetes, jwt or token; or `credential`"));
        }
        (Some(auth), false) => {
            Some(auth.implied(written, &address, &endpoint, settings.namespace.as_deref(), common)?)
        }
    };
    let backend = Vault {
        address,
        endpoint,
        namespace,
        mounts: Mounts::new(settings.mount, settings.kv_version),
        disposable: settings.auth.as_ref().is_some_and(Auth::logs_in),
    };
    Ok(Parsed { backend: Box::new(backend), implied })
}

fn namespace(text: &str) -> Result<HeaderValue, StoreError> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::from_str(text).ok().filter(|_| fits);
    value.ok_or_else(|| at("namespace", "a namespace is a path such as teams/finance"))
}

/// Several names with slashes between them.
fn check_path(path: &str) -> Result<(), String> {
    let plain = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && !segment.contains(|c: char| c.is_control())
    };
    if path.contains(['?', '#', '\\']) || !path.split('/').all(plain) {
        return Err("a path such as secret/team/db, without a slash at its beginning or end".into());
    }
    Ok(())
}

/// What Vault made for us and takes back at its end.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: String,
    /// When it was made.
    pub(super) lasts: Duration,
    pub(super) renewable: bool,
    /// What asked for it: the lease ends with that token.
    token: HeaderMap,
}

/// One server.
#[derive(Debug)]
pub(super) struct Vault {
    /// Without a slash at its end.
    address: String,
    endpoint: Destination,
    namespace: Option<HeaderValue>,
    mounts: Mounts,
    /// Its tokens are of our own logins, and nobody else's.
    disposable: bool,
}

impl Backend for Vault {
    fn endpoint(&self) -> &Destination {
        &self.endpoint
    }

    fn check(&self, reference: &StoreRef) -> Result<(), StoreError> {
        check_path(&reference.name).map_err(|why| at("name", why))?;
        if !self.mounts.is_given() && !reference.name.contains('/') {
            let why = "write the engine before it, as in secret/db, or set the store's `mount`";
            return Err(at("name", why));
        }
        match &reference.version {
            Some(version) if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(at("version", "a version is a number; put it in quotes"))
            }
            _ => Ok(()),
        }
    }

    fn read<'a>(&'a self, line: &'a Line, reference: &'a StoreRef) -> BoxFuture<'a, Result<Read, Trouble>> {
        Box::pin(async move {
            let engine = self.mounts.find(self, line, &reference.name).await?;
            match engine {
                Mounted::Kv2 { mount, path } => self.read_versioned(line, &mount, &path, reference).await,
                Mounted::Other { path } if reference.version.is_none() => self.read_plain(line, &path).await,
                Mounted::Other { .. } => Err(Trouble::secret("only the key/value engine of version 2 has versions")),
            }
        })
    }

    fn vault(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Vault {
    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Vec<u8>>, Trouble> {
        let mut request = Request::builder().method(method).uri(format!("{}/v1/{path}", self.address));
        request = request.header(REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace.clone());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        request.body(body).map_err(|_| Trouble::secret("its path cannot be asked for"))
    }

    /// A token that Vault does not know any more and one whose policy is too narrow both get 403.
    async fn call(&self, line: &Line, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Trouble> {
        let request = self.request(method, path, body)?;
        line.call(request, |answer| matches!(answer.status.as_u16(), 401 | 403), words).await
    }

    /// Calls with a certain token, whatever the store's own is now.
    async fn call_with(&self, line: &Line, token: &HeaderMap, path: &str) -> Result<Value, Trouble> {
        let method = if path.ends_with("lookup-self") { Method::GET } else { Method::POST };
        let mut request = self.request(method, path, None)?;
        request.headers_mut().extend(token.clone());
        let answer = line.http.call(request).await;
        let answer = answer.map_err(|error| Trouble::store(format!("it does not answer: {}", error.detail)))?;
        let (head, body) = answer.into_parts();
        if head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Trouble::store(format!("it answers {} {}", head.status.as_u16(), words(&body))));
        }
        if !head.status.is_success() {
            return Err(refused(head.status, &body, path));
        }
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn read_versioned(
        &self,
        line: &Line,
        mount: &str,
        path: &str,
        reference: &StoreRef,
    ) -> Result<Read, Trouble> {
        let query = reference.version.as_ref().map(|version| format!("?version={version}")).unwrap_or_default();
        let answer = self.call(line, Method::GET, &format!("{mount}/data/{path}{query}"), None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(answer::absent(&answer.body, reference));
        }
        let mut document = reply(&answer, &reference.name)?;
        match document["data"]["data"].take() {
            Value::Object(members) => Ok(Read { content: Content::of(members), ends_in: None, lease: None }),
            _ => Err(answer::absent(&answer.body, reference)),
        }
    }

    async fn read_plain(&self, line: &Line, path: &str) -> Result<Read, Trouble> {
        let answer = self.call(line, Method::GET, path, None).await?;
        let mut document = reply(&answer, path)?;
        let Value::Object(members) = document["data"].take() else {
            return Err(Trouble::secret("there is nothing in it"));
        };
        let content = Content::of(members);
        let id = document["lease_id"].as_str().unwrap_or_default().to_owned();
        if id.is_empty() {
            return Ok(Read { content, ends_in: None, lease: None });
        }
        let token = token_of(&answer.signed);
        let seconds = document["lease_duration"].as_u64().unwrap_or_default();
        let lasts = self.bounded(line, &token, Duration::from_secs(seconds)).await?;
        let renewable = document["renewable"].as_bool().unwrap_or_default();
        Ok(Read { content, ends_in: None, lease: Some(Lease { id, lasts, renewable, token }) })
    }

    /// A lease ends with the token that asked for it, however long it is.
    async fn bounded(&self, line: &Line, token: &HeaderMap, lasts: Duration) -> Result<Duration, Trouble> {
        let token = self.call_with(line, token, "auth/token/lookup-self").await?;
        Ok(match token["data"]["ttl"].as_u64() {
            // Of a token that has no end.
            None | Some(0) => lasts,
            Some(seconds) => lasts.min(Duration::from_secs(seconds)),
        })
    }

    /// For how long the lease goes on.
    pub(super) async fn renew(&self, line: &Line, lease: &Lease) -> Result<Duration, Trouble> {
        let body = json!({"lease_id": lease.id, "increment": lease.lasts.as_secs()});
        let answer = self.call(line, Method::PUT, "sys/leases/renew", Some(&body)).await?;
        let document = reply(&answer, "sys/leases/renew")?;
        let seconds = document["lease_duration"].as_u64().unwrap_or_default();
        self.bounded(line, &lease.token, Duration::from_secs(seconds)).await
    }

    pub(super) async fn revoke(&self, line: &Line, lease: &Lease) -> Result<(), Trouble> {
        let body = json!({"lease_id": lease.id});
        let request = self.request(Method::PUT, "sys/leases/revoke", Some(&body))?;
        // A policy that does not allow it is likely, and no reason to log in once more.
        let answer = line.call(request, |_| false, words).await?;
        if answer.status == StatusCode::FORBIDDEN && self.disposable {
            // Every token may end itself, and its leases with it.
            return self.call_with(line, &lease.token, "auth/token/revoke-self").await.map(drop);
        }
        if answer.status.is_success() { Ok(()) } else { Err(refused(answer.status, &answer.body, "sys/leases/revoke")) }
    }

    pub(super) async fn encrypt(&self, line: &Line, mount: &str, key: &str, plain: &Secret) -> Result<String, Trouble> {
        let body = json!({"plaintext": STANDARD.encode(plain.expose())});
        let document = self.transit(line, mount, "encrypt", key, &body).await?;
        let sealed = document["data"]["ciphertext"].as_str().filter(|sealed| !sealed.is_empty());
        sealed.map(str::to_owned).ok_or_else(|| Trouble::secret("its answer holds no ciphertext"))
    }

    pub(super) async fn decrypt(&self, line: &Line, mount: &str, key: &str, sealed: &str) -> Result<Secret, Trouble> {
        let document = self.transit(line, mount, "decrypt", key, &json!({"ciphertext": sealed})).await?;
        let plain = document["data"]["plaintext"].as_str().and_then(|plain| STANDARD.decode(plain).ok());
        plain.map(Secret::new).ok_or_else(|| Trouble::secret("its answer holds no plaintext"))
    }

    async fn transit(&self, line: &Line, mount: &str, what: &str, key: &str, body: &Value) -> Result<Value, Trouble> {
        let path = format!("{}/{what}/{}", encoded(mount.trim_matches('/')), encoded(key));
        let answer = self.call(line, Method::POST, &path, Some(body)).await?;
        reply(&answer, &format!("{mount}/{what}/{key}"))
    }
}

/// What a request was signed with.
fn token_of(signed: &HeaderMap) -> HeaderMap {
    [TOKEN, AUTHORIZATION].into_iter().filter_map(|name| Some((name.clone(), sensitive(signed.get(name)?)))).collect()
}

fn sensitive(value: &HeaderValue) -> HeaderValue {
    let mut value = value.clone();
    value.set_sensitive(true);
    value
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests;
