//! Tokens of an issuer, right and nearly right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::ErrorKind;
use super::oidc::Oidc;
use super::settings::OidcSettings;
use crate::base::deps::Sleep;
use crate::base::{BoxFuture, CallError, ClientOptions, Clock, Destination, HttpClient, HttpClients};
use crate::store::Role;

/// Nobody is there.
#[derive(Debug)]
pub(super) struct Nobody;

impl HttpClients for Nobody {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Err("there is nobody".into())
    }
}

/// What an issuer answers by path, and what it was asked.
type Answers = (HashMap<String, Value>, Vec<String>);

/// An issuer.
#[derive(Debug, Default, Clone)]
struct Issuer(Arc<Mutex<Answers>>);

impl HttpClients for Issuer {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(self.clone()))
    }
}

impl HttpClient for Issuer {
    fn call(&self, request: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<Response<Vec<u8>>, CallError>> {
        let mut inner = self.0.lock().unwrap();
        let path = request.uri().path().to_owned();
        let answer = match inner.0.get(&path) {
            Some(document) => Ok(Response::new(document.to_string().into_bytes())),
            None => Err(CallError { detail: "nobody answers".into(), sent: false }),
        };
        inner.1.push(path);
        Box::pin(std::future::ready(answer))
    }
}

/// A clock that stands until it is moved.
#[derive(Debug)]
struct Standing {
    start: Instant,
    moved: Mutex<Duration>,
}

const NOW: u64 = 1_800_000_000;

impl Clock for Standing {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW) + *self.moved.lock().unwrap()
    }

    fn instant(&self) -> Instant {
        self.start + *self.moved.lock().unwrap()
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Box::pin(std::future::pending())
    }
}

fn vector(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name);
    std::fs::read(path).unwrap()
}

/// The public keys of the vectors, as an issuer shows them.
fn keys(kids: &[(&str, &str)]) -> Value {
    let public: Value = serde_json::from_slice(&vector("public.json")).unwrap();
    let key = |(kid, key): &(&str, &str)| {
        let mut jwk = public[*key].clone();
        jwk["kid"] = json!(kid);
        jwk["kty"] = json!(if *key == "rsa" { "RSA" } else { "EC" });
        if *key == "p256" {
            jwk["crv"] = json!("P-256");
        }
        jwk
    };
    let mut keys: Vec<Value> = kids.iter().map(key).collect();
    // What we cannot read stands beside what we can.
    keys.push(json!({"kty": "future", "kid": "x"}));
    json!({ "keys": keys })
}

struct Bench {
    issuer: Issuer,
    clock: Arc<Standing>,
    oidc: Oidc,
}

const ISSUER: &str = "https://idp.test/realm";

impl Bench {
    fn new(more: Value) -> Self {
        let mut settings = json!({"issuer": ISSUER, "audience": "countersign", "roles": [
            {"value": "viewers", "role": "viewer"}, {"value": "team", "role": "manager", "account": "a"}]});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings: OidcSettings = serde_json::from_value(settings).unwrap();
        let issuer = Issuer::default();
        issuer.says(
            "/realm/.well-known/openid-configuration",
            json!({"issuer": ISSUER, "jwks_uri": "https://idp.test/keys"}),
        );
        issuer.says("/keys", keys(&[("k1", "rsa")]));
        let clock = Arc::new(Standing { start: crate::base::Deps::system().clock.instant(), moved: Mutex::default() });
        let clients: Arc<dyn HttpClients> = Arc::new(issuer.clone());
        let oidc = Oidc::new(settings, clients, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { issuer, clock, oidc }
    }

    fn pass(&self, seconds: u64) {
        *self.clock.moved.lock().unwrap() += Duration::from_secs(seconds);
    }
}

impl Issuer {
    fn says(&self, path: &str, document: Value) {
        self.0.lock().unwrap().0.insert(path.into(), document);
    }

    fn dies(&self) {
        self.0.lock().unwrap().0.clear();
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": ["other", "countersign"], "exp": NOW + 300, "sub": "anna", "roles": ["viewers", "x"]});
    for (key, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(key);
        } else {
            claims[key] = value.clone();
        }
    }
    claims
}

fn signed(kid: Option<&str>, key: &str, algorithm: Algorithm, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    let der = pem::parse(vector(key)).unwrap().into_contents();
    let key = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_der(&der),
        _ => EncodingKey::from_rsa_der(&der),
    };
    encode(&header, claims, &key).unwrap()
}

fn token(more: Value) -> String {
    signed(Some("k1"), "rsa-pkcs1.pem", Algorithm::RS256, &claims(more))
}

#[tokio::test]
async fn a_token_of_the_issuer_for_us_is_somebody() {
    let bench = Bench::new(json!({}));
    let anna = bench.oidc.verify(&token(json!({}))).await.unwrap();
    assert_eq!(anna.name, "oidc:anna");
    assert!(anna.may_everywhere(Role::Viewer).is_ok() && anna.may(Role::Manager, "a").is_err());
    let manager = bench.oidc.verify(&token(json!({"roles": "x team", "aud": "countersign"}))).await.unwrap();
    assert!(manager.may(Role::Manager, "a").is_ok() && manager.may(Role::Viewer, "b").is_err());
    let none = bench.oidc.verify(&token(json!({"roles": ["strangers"]}))).await.unwrap();
    assert!(none.may(Role::Viewer, "a").is_err());
    for algorithm in [Algorithm::RS512, Algorithm::PS256] {
        let token = signed(None, "rsa-pkcs1.pem", algorithm, &claims(json!({"nbf": NOW, "exp": NOW as f64 + 0.5})));
        assert!(bench.oidc.verify(&token).await.is_ok(), "{algorithm:?}");
    }
    assert_eq!(bench.issuer.asked(), 2, "discovery and keys, once");
}

#[tokio::test]
async fn what_is_nearly_such_a_token_is_nobody() {
    let bench = Bench::new(json!({}));
    let plain = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let good = token(json!({}));
    let (body, _) = good.rsplit_once('.').unwrap();
    let public: Value = serde_json::from_slice(&vector("public.json")).unwrap();
    let modulus = public["rsa"]["n"].as_str().unwrap();
    let mut hmac = Header::new(Algorithm::HS256);
    hmac.kid = Some("k1".into());
    let shared = encode(&hmac, &claims(json!({})), &EncodingKey::from_secret(modulus.as_bytes())).unwrap();
    let mut critical = Header::new(Algorithm::RS256);
    critical.kid = Some("k1".into());
    critical.crit = Some(vec!["exp".into()]);
    let key = EncodingKey::from_rsa_der(&pem::parse(vector("rsa-pkcs1.pem")).unwrap().into_contents());
    for (why, token) in [
        ("another issuer", token(json!({"iss": "https://idp.test/realm/"}))),
        ("no issuer", token(json!({"iss": null}))),
        ("another audience", token(json!({"aud": "countersign2"}))),
        ("no audience", token(json!({"aud": null}))),
        ("expired", token(json!({"exp": NOW - 61}))),
        ("never expires", token(json!({"exp": null}))),
        ("expires in words", token(json!({"exp": "tomorrow"}))),
        ("not yet", token(json!({"nbf": NOW + 61}))),
        ("nobody", token(json!({"sub": null}))),
        ("nobody by name", token(json!({"sub": ""}))),
        ("another key", signed(Some("k1"), "rsa-other.pem", Algorithm::RS256, &claims(json!({})))),
        ("another kind of key", signed(Some("k1"), "p256-pkcs8.pem", Algorithm::ES256, &claims(json!({})))),
        ("the public key as a shared secret", shared),
        ("unsigned", format!("{}.{}.", plain(json!({"alg": "none", "kid": "k1"})), plain(claims(json!({}))))),
        ("cut", format!("{body}.")),
        ("changed", good.replace('.', "..")),
        ("critical", encode(&critical, &claims(json!({})), &key).unwrap()),
        ("not a token", "a.b.c".into()),
        ("too long", format!("{}.b.c", "a".repeat(20_000))),
    ] {
        let error = bench.oidc.verify(&token).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthorized, "{why}: {error}");
        assert!(!error.detail.contains(&token), "{why}");
    }
    assert!(bench.oidc.verify(&good).await.is_ok());
}

#[tokio::test]
async fn keys_are_changed_by_the_issuer_and_asked_for_seldom() {
    let bench = Bench::new(json!({}));
    bench.oidc.verify(&token(json!({}))).await.unwrap();
    bench.issuer.says("/keys", keys(&[("k1", "rsa"), ("k2", "p256")]));
    let new = signed(Some("k2"), "p256-pkcs8.pem", Algorithm::ES256, &claims(json!({})));
    let asked = bench.issuer.asked();
    for _ in 0..100 {
        assert_eq!(bench.oidc.verify(&new).await.unwrap_err().kind, ErrorKind::Unauthorized);
    }
    assert_eq!(bench.issuer.asked(), asked, "not within the pause");
    bench.pass(31);
    assert!(bench.oidc.verify(&new).await.is_ok());
    // A key that was withdrawn is believed for an hour and no longer.
    bench.issuer.says("/keys", keys(&[("k2", "p256")]));
    bench.pass(3601);
    let late = token(json!({"exp": NOW + 10_000}));
    assert_eq!(bench.oidc.verify(&late).await.unwrap_err().kind, ErrorKind::Unauthorized);
}

#[tokio::test]
async fn an_issuer_that_is_gone_makes_no_token_wrong() {
    let bench = Bench::new(json!({}));
    let good = token(json!({"exp": NOW + 1_000_000}));
    bench.issuer.dies();
    let error = bench.oidc.verify(&good).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let asked = bench.issuer.asked();
    assert_eq!(bench.oidc.verify(&good).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(bench.issuer.asked(), asked, "a dead issuer is left alone for a moment");
    bench.issuer.says(
        "/realm/.well-known/openid-configuration",
        json!({"issuer": ISSUER, "jwks_uri": "https://idp.test/keys"}),
    );
    bench.issuer.says("/keys", keys(&[("k1", "rsa")]));
    bench.pass(6);
    assert!(bench.oidc.verify(&good).await.is_ok());
    // It dies again: the keys it gave serve, for a day.
    bench.issuer.dies();
    bench.pass(7200);
    assert!(bench.oidc.verify(&good).await.is_ok());
    bench.pass(24 * 3600);
    assert_eq!(bench.oidc.verify(&good).await.unwrap_err().kind, ErrorKind::Unavailable);
    // One that says it is another, or sends its keys over http, is not believed.
    for discovery in [
        json!({"issuer": "https://evil.test", "jwks_uri": "https://idp.test/keys"}),
        json!({"issuer": ISSUER, "jwks_uri": "http://idp.test/keys"}),
        json!({"issuer": ISSUER}),
    ] {
        let bench = Bench::new(json!({}));
        bench.issuer.says("/realm/.well-known/openid-configuration", discovery);
        assert_eq!(bench.oidc.verify(&good).await.unwrap_err().kind, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn an_account_may_come_from_a_claim() {
    let bench = Bench::new(json!({
        "account_claim": "tenant.id", "role_claim": "realm_access.roles", "name_claim": "email",
        "roles": [{"value": "m", "role": "manager"}, {"value": "root", "role": "admin", "account": "*"}],
    }));
    let with = |roles: Value, tenant: Value| {
        let realm = json!({"roles": roles});
        token(json!({"realm_access": realm, "tenant": {"id": tenant}, "email": "anna smith\n@x.test"}))
    };
    let anna = bench.oidc.verify(&with(json!(["m"]), json!(["7", "a/b"]))).await.unwrap();
    assert_eq!(anna.name, "oidc:annasmith@x.test");
    assert!(anna.may(Role::Manager, "7").is_ok() && anna.may(Role::Viewer, "8").is_err());
    assert_eq!(anna.grants.len(), 1, "a/b is no account");
    let nowhere = bench.oidc.verify(&with(json!(["m"]), Value::Null)).await.unwrap();
    assert!(nowhere.grants.is_empty());
    let root = bench.oidc.verify(&with(json!(["root"]), json!("7"))).await.unwrap();
    assert!(root.may_everywhere(Role::Admin).is_ok());
}
