//! The demo's API and the door to its identity provider: verifies what it is sent by its own means. It shares no code with the schemes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::aws::Aws;
use super::azure::Azure;
use super::cases::{self, HOST, Keys};
use super::digest::Guard;
use super::flexera::Flexera;
use super::google::Google;
use super::identity::Identity;
use super::jwt::Jwt;
use super::login::Logins;
use super::ntlm::{Session, Windows};
use super::oracle;
use crate::base::Clock;

/// The running API.
pub(super) struct Api {
    address: SocketAddr,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Api {
    /// Listens on loopback with TLS under a certificate authority of its own.
    pub(super) async fn start(keys: Keys, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let now = clock.now();
        let text = |error: rcgen::Error| error.to_string();
        let validity = |params: &mut CertificateParams| {
            params.not_before = (now - Duration::from_secs(3600)).into();
            params.not_after = (now + Duration::from_secs(24 * 3600)).into();
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Demo API root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        validity(&mut params);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(text)?).map_err(text)?;
        let mut params =
            CertificateParams::new(cases::hosts().into_iter().map(str::to_owned).collect::<Vec<_>>()).map_err(text)?;
        params.distinguished_name.push(DnType::CommonName, HOST);
        validity(&mut params);
        let key = KeyPair::generate().map_err(text)?;
        let leaf = params.signed_by(&key, &issuer).map_err(text)?;
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .map_err(|error| error.to_string())?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::new(Service { services: services(&keys, leaf.der()), clock }),
        ));
        Ok(Self { address, issuer })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn ca_der(&self) -> &[u8] {
        self.issuer.der()
    }
}

/// A call, as a verifier sees it.
pub(super) struct Call<'a> {
    pub(super) head: &'a Parts,
    pub(super) body: &'a [u8],
    /// What was said on this connection before.
    pub(super) session: &'a Session,
    pub(super) now: SystemTime,
}

impl Call<'_> {
    /// A header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What a verifier answers.
pub(super) struct Reply {
    pub(super) status: u16,
    body: String,
    pub(super) headers: Vec<(HeaderName, String)>,
}

impl Reply {
    /// A verdict: what was received with its secret part left out, nothing for a call without a credential.
    pub(super) fn verdict(received: &str, right: bool) -> Self {
        let (status, verdict) = match (right, received.is_empty()) {
            (true, _) => (200, "the credential is right"),
            (false, true) => (401, "no credential"),
            (false, false) => (401, "the credential is wrong"),
        };
        (status, serde_json::json!({ "received": received, "verdict": verdict }).to_string()).into()
    }

    /// The same with a further header.
    pub(super) fn with(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<(u16, String)> for Reply {
    fn from((status, body): (u16, String)) -> Self {
        Self { status, body, headers: Vec::new() }
    }
}

/// Answers what is meant for it.
type Verifier = Box<dyn Fn(&Call<'_>) -> Option<Reply> + Send + Sync>;

/// Everything behind the one address: clouds, identity providers, and the demo's own API, which takes what is left.
fn services(keys: &Keys, certificate: &[u8]) -> Vec<Verifier> {
    let (aws, jwt, windows) = (Aws::new(&keys.second), Jwt::new(keys.clone()), Windows::new(&keys.second, certificate));
    let (identity, own, tenancy) = (Identity::new(keys.clone()), keys.clone(), keys.clone());
    let (logins, guard) = (Logins::new(keys.clone()), Guard::new(&keys.second));
    let google = Google::new(Arc::clone(&keys.google));
    let (azure, flexera) = (Azure::new(keys.clone()), Flexera::new(keys.clone()));
    vec![
        Box::new(move |call| aws.answer(call.head, call.body, call.now).map(Reply::from)),
        Box::new(move |call| azure.answer(call.head, call.body, call.now).map(Reply::from)),
        Box::new(move |call| google.answer(call.head, call.body, call.now).map(Reply::from)),
        Box::new(move |call| flexera.answer(call.head, call.body).map(Reply::from)),
        Box::new(move |call| jwt.answer(call.head, call.now).map(Reply::from)),
        Box::new(move |call| guard.answer(call)),
        Box::new(move |call| logins.answer(call)),
        Box::new(move |call| windows.answer(call)),
        Box::new(move |call| oracle::answer(call.head, call.body, &tenancy.oracle, call.now).map(Reply::from)),
        Box::new(move |call| Some(answer(call, &own, &identity))),
    ]
}

struct Service {
    services: Vec<Verifier>,
    clock: Arc<dyn Clock>,
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, service: Arc<Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), Arc::clone(&service));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let session = Arc::new(Session::default());
            let answer = service_fn(move |request: Request<Incoming>| {
                let (service, session) = (Arc::clone(&service), Arc::clone(&session));
                async move { Ok::<_, Infallible>(service.answer(request, &session).await) }
            });
            // A connection that the client drops is no matter here.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>, session: &Session) -> Response<Full<Bytes>> {
        let (request, body) = request.into_parts();
        let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        let call = Call { head: &request, body: &body, session, now: self.clock.now() };
        let reply = self.services.iter().find_map(|service| service(&call));
        let Reply { status, body, headers } = reply.unwrap_or_else(|| Reply::verdict("", false));
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        for (name, value) in headers {
            response.headers_mut().extend(HeaderValue::from_str(&value).map(|value| (name, value)));
        }
        response
    }
}

/// The demo's own API, and the token endpoint of its identity provider.
fn answer(call: &Call<'_>, keys: &Keys, identity: &Identity) -> Reply {
    if call.head.uri.path() == "/token" {
        let (status, document) = identity.token(call.body, call.now);
        return (status, document.to_string()).into();
    }
    let (received, right) = verify(call.head, keys, identity);
    Reply::verdict(&received, right)
}

/// What was received, the secret part left out, and whether it is right.
fn verify(request: &Parts, keys: &Keys, identity: &Identity) -> (String, bool) {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    match request.uri.path() {
        "/bearer" => {
            let token = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
            (token.map_or_else(String::new, |_| "Authorization: Bearer [redacted]".into()), token == Some(&*keys.first))
        }
        "/two-headers" => {
            let (first, second) = (header("x-api-key"), header("x-application-key"));
            let received =
                if first.or(second).is_some() { "X-Api-Key: [redacted], X-Application-Key: [redacted]" } else { "" };
            (received.into(), first == Some(&*keys.first) && second == Some(&*keys.second))
        }
        "/query" => {
            let key = request.uri.query().and_then(|query| query.strip_prefix("api_key="));
            (key.map_or_else(String::new, |_| "?api_key=[redacted]".into()), key == Some(&*keys.first))
        }
        "/cookie" => {
            let key = header(COOKIE.as_str()).and_then(|value| value.strip_prefix("session="));
            (key.map_or_else(String::new, |_| "Cookie: session=[redacted]".into()), key == Some(&*keys.first))
        }
        "/basic" => {
            let pair = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Basic "));
            let decoded = pair.and_then(|pair| STANDARD.decode(pair).ok());
            let right = decoded.is_some_and(|pair| pair == format!("demo:{}", keys.second).into_bytes());
            (pair.map_or_else(String::new, |_| "Authorization: Basic [redacted]".into()), right)
        }
        path => {
            let token = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
            let granted = token.and_then(|token| identity.grant_of(token));
            let right = granted.is_some() && path.strip_prefix("/oauth2/") == granted;
            (token.map_or_else(String::new, |_| "Authorization: Bearer [redacted]".into()), right)
        }
    }
}
