//! Walks every scheme there is: each has vectors and a recipe, signs what its vectors say, and shows its secrets nowhere
//! but in the request. The whole way through a running proxy is in `e2e/secrets.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and drives the real outside"
)]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use countersign::base::deps::Sleep;
use countersign::base::request::BodyDigest;
use countersign::base::{Authorizer, BodyNeed, Challenge, Clock, Deps, Destination, Random, RequestView, Secret};
use countersign::base::{BoxFuture, CallError, ClientOptions, HttpClient, HttpClients};
use countersign::base::{SecretRef, Secrets};
use countersign::scheme::{Identity, KINDS, Outside, Scheme, Setup};
use countersign::token::{StateDirectory, Tokens};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    source: String,
    credential: Value,
    secrets: BTreeMap<String, String>,
    /// What a scheme that obtains a token must ask for, and what it is answered: nothing, one exchange or several in order.
    exchange: Option<Exchanges>,
    /// The 401 that a scheme which must be asked answers, as its headers.
    challenge: Option<Vec<(String, String)>>,
    /// The server's certificate, PEM, relative to this folder; for channel binding.
    certificate: Option<String>,
    /// Hexadecimal: what randomness gives, over and over; `aa` unless said otherwise.
    random: Option<String>,
    request: Request,
    expect: Expect,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Exchanges {
    One(Box<Exchange>),
    Several(Vec<Exchange>),
}

impl Exchanges {
    fn all(&mut self) -> &mut [Exchange] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Several(several) => several,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    #[serde(default = "post")]
    method: String,
    url: String,
    /// Headers that must be there, beside those that every request has.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The whole body.
    #[serde(default)]
    form: String,
    status: u16,
    #[serde(default)]
    answer_headers: BTreeMap<String, String>,
    answer: Value,
}

fn post() -> String {
    "POST".into()
}

/// The same bytes over and over.
#[derive(Debug)]
struct Repeated(Vec<u8>);

impl Random for Repeated {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        bytes.iter_mut().zip(self.0.iter().cycle()).for_each(|(byte, own)| *byte = *own);
        true
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// 2023-11-14T22:13:20Z: assertions hold the time, and vectors must not change with it.
const NOW: Duration = Duration::from_secs(1_700_000_000);

#[derive(Debug)]
struct Frozen(Instant);

impl Clock for Frozen {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }
    fn instant(&self) -> Instant {
        self.0
    }
    fn sleep_until(&self, _: Instant) -> Sleep {
        Box::pin(std::future::pending())
    }
}

/// The token endpoint of a vector.
#[derive(Debug, Default)]
struct TokenEndpoint {
    exchanges: Arc<Mutex<VecDeque<Exchange>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl HttpClients for TokenEndpoint {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(Self { exchanges: Arc::clone(&self.exchanges), wrong: Arc::clone(&self.wrong) }))
    }
}

impl HttpClient for TokenEndpoint {
    fn call(&self, request: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
        let next = self.exchanges.lock().unwrap().pop_front();
        let exchange = next.unwrap_or_else(|| panic!("a token was asked for: {}", request.uri()));
        let form = String::from_utf8(request.body().clone()).unwrap();
        let check = |what: &str, got: &str, wanted: &str| {
            if got != wanted {
                self.wrong.lock().unwrap().push(format!("{what}: {got} and not {wanted}"));
            }
        };
        check("form", &form, &exchange.form);
        check("url", &request.uri().to_string(), &exchange.url);
        check("method", request.method().as_str(), &exchange.method);
        for (name, value) in &exchange.headers {
            let got: Vec<_> = request.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
            check(name, &got.join(", "), value);
        }
        let secret = request.headers().get("authorization").is_some();
        check(
            "an Authorization header",
            &secret.to_string(),
            &exchange.headers.contains_key("authorization").to_string(),
        );
        // A document that is no JSON stands in the vector as text.
        let answer = exchange.answer.as_str().map_or_else(|| exchange.answer.to_string(), str::to_owned);
        let mut response = http::Response::builder().status(exchange.status);
        for (name, value) in &exchange.answer_headers {
            response = response.header(name, value);
        }
        let response = response.body(answer.into_bytes()).unwrap();
        Box::pin(async move { Ok(response) })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Expect {
    Refused { refused: String },
    Signed { headers: Vec<(String, String)>, target: String },
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn vectors(kind: &str) -> Vec<Vector> {
    let folder = root().join("tests/vectors").join(kind);
    let Ok(files) = fs::read_dir(&folder) else { return Vec::new() };
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .flat_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            serde_json::from_str::<Vec<Vector>>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

fn secrets(vector: &Vector) -> Secrets {
    let load = |(name, value): (&String, &String)| (SecretRef::Env { env: name.clone() }, Secret::new(value.as_str()));
    vector.secrets.iter().map(load).collect()
}

/// A scheme built from a vector, with what its token endpoint found wrong.
struct Built {
    scheme: Arc<dyn Scheme>,
    wrong: Arc<Mutex<Vec<String>>>,
    _state: tempfile::TempDir,
}

fn prepare(draft: &dyn countersign::scheme::Draft, vector: &Vector) -> Result<Built, String> {
    let exchanges: VecDeque<Exchange> =
        vector.exchange.clone().map(|mut exchanges| exchanges.all().to_vec().into()).unwrap_or_default();
    let endpoint = TokenEndpoint { exchanges: Arc::new(Mutex::new(exchanges)), ..TokenEndpoint::default() };
    let wrong = Arc::clone(&endpoint.wrong);
    let random = Arc::new(Repeated(unhex(vector.random.as_deref().unwrap_or("aa"))));
    let deps = Deps { clock: Arc::new(Frozen(Instant::now())), random, ..Deps::system() };
    let state = tempfile::tempdir().unwrap();
    let outside = Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(endpoint),
        clock: deps.clock,
        environment: deps.environment,
        random: deps.random,
        state: Arc::new(StateDirectory::new(state.path().to_owned(), None, Arc::default()).unwrap()),
        lender: Arc::new(countersign::route::Lending::new(Deps::system().clock, Default::default())),
    };
    let secrets = secrets(vector);
    let setup = Setup { account: "default", credential: "vector", version: 0, secrets: &secrets, outside: &outside };
    let scheme = draft.build(&setup).map_err(|error| error.0)?;
    Ok(Built { scheme, wrong, _state: state })
}

fn build(kind: &countersign::scheme::Kind, vector: &Vector) -> Result<Built, String> {
    let draft =
        (kind.parse)(vector.credential.clone()).map_err(|error| format!("{}: {}", error.path, error.message))?;
    prepare(&*draft, vector)
}

/// What signs, obtained if need be.
fn authorizer(scheme: &dyn Scheme, vector: &Vector, view: &RequestView<'_>) -> Result<Arc<dyn Authorizer>, String> {
    match scheme.identity() {
        Identity::Fixed(authorizer) => Ok(Arc::clone(authorizer)),
        Identity::Token(handle) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let live = runtime.block_on(handle.obtain()).map_err(|refusal| refusal.to_string())?;
            Ok(Arc::clone(live.authorizer()))
        }
        Identity::Challenged(challenged) => {
            challenged.opening().map_err(|refusal| refusal.to_string())?;
            let mut headers = http::HeaderMap::new();
            for (name, value) in vector.challenge.iter().flatten() {
                headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
            }
            let certificate = vector.certificate.as_ref().map(|file| {
                use rustls_pki_types::pem::PemObject;
                let path = root().join("tests/vectors").join(file);
                rustls_pki_types::CertificateDer::from_pem_file(path).unwrap()
            });
            let challenge = Challenge { headers: &headers, certificate: certificate.as_deref() };
            challenged.answer(view, &challenge).map_err(|refusal| refusal.to_string())
        }
    }
}

/// The facts of a body, as the pipeline would find them.
fn hashed(body: &str, need: BodyNeed) -> BodyDigest {
    use aws_lc_rs::digest::{SHA256, SHA512_256, digest};
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, body.as_bytes()).as_ref());
    let further: Option<Box<[u8]>> = match need {
        BodyNeed::None | BodyNeed::Sha256 => None,
        BodyNeed::Md5 => Some(<md5::Md5 as md5::Digest>::digest(body).as_slice().into()),
        BodyNeed::Sha512Trunc256 => Some(digest(&SHA512_256, body.as_bytes()).as_ref().into()),
    };
    BodyDigest { sha256, further, length: body.len() as u64, whole: None }
}

/// The head as it would go out.
fn signed(scheme: &dyn Scheme, vector: &Vector) -> Result<http::request::Parts, String> {
    let request = &vector.request;
    let mut builder = http::Request::builder().method(request.method.as_str()).uri(&request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let mut parts = builder.body(()).unwrap().into_parts().0;
    let destination = Destination::from_absolute(&parts.uri).unwrap();
    // The pipeline removes the caller's copies in every spelling; here the plain ones and the underscored.
    let mut removed = http::HeaderMap::new();
    for owned in scheme.owned_headers() {
        let gone: Vec<_> =
            parts.headers.keys().filter(|name| name.as_str().replace('_', "-") == owned.as_str()).cloned().collect();
        for name in gone {
            let value = parts.headers.remove(&name).unwrap();
            removed.insert(name, value);
        }
    }
    let target = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let view = |body| RequestView {
        method: &parts.method,
        path_and_query: &target,
        headers: &parts.headers,
        removed: &removed,
        destination: &destination,
        length: Some(request.body.len() as u64),
        body,
        narrowing: None,
    };
    let authorizer = authorizer(scheme, vector, &view(None))?;
    let body = match authorizer.body_need(&view(None)).map_err(|refusal| refusal.to_string())? {
        BodyNeed::None => None,
        need => Some(hashed(&request.body, need)),
    };
    let signed = authorizer.authorize(&view(body.as_ref()), SystemTime::UNIX_EPOCH + NOW);
    let signed = signed.map_err(|refusal| refusal.to_string())?;
    signed.mutations.apply(&mut parts).map_err(|refusal| refusal.to_string())?;
    Ok(parts)
}

#[test]
fn every_scheme_has_a_sentence_vectors_and_a_recipe() {
    let recipes: Vec<String> = fs::read_dir(root().join("config/recipes"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let page = fs::read_to_string(root().join("config/schemes.md")).unwrap();
    let titles: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut names = Vec::new();
    for kind in KINDS {
        assert!(titles.iter().any(|title| title.split(" and ").any(|name| name == kind.name)), "{}", kind.name);
        assert!(kind.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{}", kind.name);
        assert!(kind.about.len() > 10, "{} has no description", kind.name);
        assert!(!names.contains(&kind.name), "{} twice", kind.name);
        names.push(kind.name);
        let vectors = vectors(kind.name);
        assert!(vectors.iter().any(|v| matches!(v.expect, Expect::Signed { .. })), "{} has no vector", kind.name);
        assert!(vectors.iter().any(|v| matches!(v.expect, Expect::Refused { .. })), "{} has no negative", kind.name);
        assert!(recipes.iter().any(|text| text.contains(&format!("scheme: {}", kind.name))), "{}", kind.name);
        assert!(root().join("src/scheme").join(format!("{}.rs", kind.name)).exists(), "{} is one file", kind.name);
    }
}

#[test]
fn every_vector_is_signed_as_its_source_says() {
    for kind in KINDS {
        for vector in vectors(kind.name) {
            let what = format!("{}: {}", kind.name, vector.name);
            assert!(vector.source.starts_with("http"), "{what} names no source");
            match (&vector.expect, build(kind, &vector)) {
                (Expect::Refused { refused }, Err(why)) => assert!(why.contains(refused), "{what}: {why}"),
                (Expect::Refused { refused }, Ok(built)) => {
                    let why = signed(&*built.scheme, &vector).expect_err(&what);
                    assert!(why.contains(refused), "{what}: {why}");
                    assert!(built.wrong.lock().unwrap().is_empty(), "{what}: {:#?}", built.wrong);
                }
                (Expect::Signed { .. }, Err(why)) => panic!("{what}: {why}"),
                (Expect::Signed { headers, target }, Ok(built)) => {
                    let parts = signed(&*built.scheme, &vector).unwrap_or_else(|why| panic!("{what}: {why}"));
                    assert!(built.wrong.lock().unwrap().is_empty(), "{what}: {:#?}", built.wrong);
                    let sent = |value: &http::HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
                    let mut got: Vec<_> =
                        parts.headers.iter().map(|(name, value)| (name.to_string(), sent(value))).collect();
                    got.sort();
                    let mut expected = headers.clone();
                    expected.sort();
                    assert_eq!(got, expected, "{what}");
                    assert_eq!(parts.uri.path_and_query().unwrap().as_str(), target, "{what}");
                }
            }
        }
    }
}

#[test]
fn no_secret_shows_in_any_debug_or_error_of_any_scheme() {
    let canary = "k4n4ryk4n4ry";
    for kind in KINDS {
        for mut vector in vectors(kind.name) {
            let positive = matches!(vector.expect, Expect::Signed { .. });
            for (index, value) in vector.secrets.values_mut().enumerate() {
                // A document stays one, with the canary in it. A refused vector keeps what makes it refused, the canary
                // before it.
                *value = match documented(value, canary) {
                    Some(document) => document,
                    None if positive => format!("{canary}{index}"),
                    None => format!("{canary}{value}"),
                };
            }
            for exchange in vector.exchange.iter_mut().flat_map(Exchanges::all) {
                // A server that repeats what it was sent, and a token that is a secret too.
                // A private key is sent to nobody.
                let sent: Vec<_> = vector.secrets.values().filter(|secret| !secret.contains("PRIVATE KEY")).collect();
                let (status, text) = (exchange.status, format!("you sent {sent:?}"));
                let planted = |text: &str| text.replace("sessiontoken", &format!("{canary}token"));
                for value in exchange.answer_headers.values_mut() {
                    *value = planted(value);
                }
                if let Value::String(document) = &mut exchange.answer {
                    let said = document.replace("sessionsecret", &format!("{canary}secret"));
                    let said = said.replace("sessiontoken", &format!("{canary}token"));
                    *document = said.replace("<Message>", &format!("<Message>{} ", text.replace('"', "")));
                } else if exchange.answer.is_object() {
                    exchange.answer = serde_json::from_str(&planted(&exchange.answer.to_string())).unwrap();
                    exchange.answer["access_token"] = format!("{canary}-token").into();
                    for field in ["accessToken", "id_token", "token"] {
                        // Of a JWT the signature: the rest is read.
                        let Some(token) = exchange.answer[field].as_str() else { continue };
                        let front = token.rsplit_once('.').map_or("", |(front, _)| front);
                        exchange.answer[field] = format!("{front}.{canary}").into();
                    }
                    exchange.answer["error_description"] = if status == 200 { Value::Null } else { text.into() };
                }
            }
            let Ok(draft) = (kind.parse)(vector.credential.clone()) else { continue };
            let mut shown = format!("{draft:?} {:?}", secrets(&vector));
            match prepare(&*draft, &vector) {
                Err(error) => shown.push_str(&error),
                Ok(built) => {
                    let scheme = &*built.scheme;
                    shown.push_str(&format!("{scheme:?} {scheme:#?}"));
                    match signed(scheme, &vector) {
                        // Header values that carry a secret are marked, so that nothing that prints a request shows them.
                        Ok(parts) => shown.push_str(&format!("{:?}", parts.headers)),
                        Err(why) => shown.push_str(&why),
                    }
                    shown.push_str(&format!("{scheme:?}"));
                }
            }
            assert!(!shown.contains(canary), "{}: {} shows its secret: {shown}", kind.name, vector.name);
            for secret in vector.secrets.values() {
                let document = serde_json::from_str::<Value>(secret).unwrap_or_default();
                let line = document["private_key"].as_str().and_then(|key| key.lines().nth(1));
                assert!(!line.is_some_and(|line| shown.contains(line)), "{}: {}", kind.name, vector.name);
            }
            let encoded = base64_of(canary);
            assert!(!shown.contains(&encoded), "{}: {} shows its secret", kind.name, vector.name);
        }
    }
}

/// A JSON document with the canary in place of what is secret in it; a private key stays one.
fn documented(text: &str, canary: &str) -> Option<String> {
    let mut document: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
    for field in ["client_secret", "refresh_token"] {
        if document[field].is_string() {
            document[field] = canary.into();
        }
    }
    Some(document.to_string())
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(&text.as_bytes()[..9])
}

#[test]
fn a_secret_written_into_the_settings_is_refused_by_every_scheme_without_being_repeated() {
    for kind in KINDS {
        for vector in vectors(kind.name) {
            let mut settings = vector.credential.clone();
            let mut planted = 0;
            plant(&mut settings, &mut planted);
            if planted == 0 {
                // This one has its secrets from elsewhere.
                continue;
            }
            let error = (kind.parse)(settings).err();
            // A public field takes text, so a scheme whose references are all public would accept; none is.
            let error = error.unwrap_or_else(|| panic!("{} took a secret as text", kind.name));
            assert!(!error.message.contains("hunter2"), "{}: {}", kind.name, error.message);
        }
    }
}

fn plant(value: &mut Value, planted: &mut usize) {
    match value {
        Value::Object(map) if map.contains_key("env") => {
            *value = Value::from("hunter2");
            *planted += 1;
        }
        Value::Object(map) => map.values_mut().for_each(|inner| plant(inner, planted)),
        Value::Array(items) => items.iter_mut().for_each(|inner| plant(inner, planted)),
        _ => {}
    }
}

#[test]
fn names_are_found_with_hyphen_or_underscore() {
    assert_eq!(countersign::scheme::find("api-key").unwrap().name, "api_key");
    assert!(countersign::scheme::find("no_such_scheme").is_none());
    assert!(Path::new(&root().join("tests/vectors")).is_dir());
}

/// The path of every reference in a credential's settings.
fn references(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if map.keys().any(|key| ["env", "file", "command"].contains(&key.as_str())) => {
            found.push(path.to_owned());
        }
        Value::Object(map) => {
            for (name, value) in map {
                references(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                references(&format!("{path}[{index}]"), item, found);
            }
        }
        _ => {}
    }
}

#[test]
fn a_field_that_takes_no_text_in_the_file_is_known_to_be_secret_and_nothing_secret_is_left_in_what_is_stored() {
    let mut seen = 0;
    for kind in KINDS {
        for vector in vectors(kind.name) {
            let mut paths = Vec::new();
            references("", &vector.credential, &mut paths);
            for path in paths {
                let mut changed = vector.credential.clone();
                let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
                *changed.pointer_mut(&pointer).unwrap() = Value::String("canary-of-the-store".into());
                let refused =
                    (kind.parse)(changed.clone()).is_err_and(|error| error.message.contains("does not stand in"));
                let listed = countersign::scheme::is_at(kind.fields.secret, &path);
                assert!(listed || !refused, "{}: {path} is secret, and `fields.secret` does not say so", kind.name);
                if let Ok(sealed) = countersign::scheme::seal(kind, changed, None) {
                    let shown = sealed.settings.to_string();
                    assert!(!listed || !shown.contains("canary"), "{}: {path}: {shown}", kind.name);
                }
                seen += 1;
            }
            // Keys that name a service, wherever they are, decide where a secret goes.
            for key in vector.credential.as_object().unwrap().keys() {
                let leads = key.ends_with("url") || key.ends_with("endpoint") || key == "allow_cleartext";
                let known = [kind.fields.leading, kind.fields.operators, kind.fields.secret].concat();
                assert!(!leads || countersign::scheme::is_at(&known, key), "{}: {key}", kind.name);
            }
        }
    }
    assert!(seen > 100, "{seen} references");
}
