//! What happens to every request, measured piece by piece: `cargo bench`. Compare runs on one machine; absolute times mean
//! nothing. The whole path against other proxies is `bench/run`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use countersign::base::meter::MeterSlot;
use countersign::base::{Authorizer, BoxFuture, CallError, Challenge, ClientOptions, HttpClient, HttpClients};
use countersign::base::{Deps, Destination, RequestView, Secret, SecretRef, Secrets, SystemClock};
use countersign::proxy::header_pass;
use countersign::route::{
    Ask, Binding, Caller, Callers, CredentialEntry, Decision, HostPattern, PathPrefix, Readiness, RouteTable, Unbound,
};
use countersign::scheme::{Identity, Outside, Scheme, Setup};
use countersign::token::{StateDirectory, Tokens};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

fn main() {
    divan::main();
}

/// A token endpoint that always grants.
#[derive(Debug)]
struct Granting;

impl HttpClients for Granting {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(Granting))
    }
}

impl HttpClient for Granting {
    fn call(&self, _: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
        let body = json!({ "access_token": "x".repeat(1000), "expires_in": 3600 }).to_string();
        Box::pin(async move { Ok(http::Response::new(body.into_bytes())) })
    }
}

fn scheme(name: &str, settings: serde_json::Value) -> Arc<dyn Scheme> {
    let deps = Deps::system();
    let outside = Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(Granting),
        clock: deps.clock,
        environment: deps.environment,
        random: deps.random,
        state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
        lender: Arc::new(countersign::route::Lending::new(Deps::system().clock, Default::default())),
    };
    let secret = |(name, value): (&str, Secret)| (SecretRef::Env { env: name.into() }, value);
    let secrets: Secrets = [("S", Secret::new("s3cret-k3y")), ("KEY", rsa_key())].into_iter().map(secret).collect();
    let setup = Setup { account: "default", credential: "bench", version: 0, secrets: &secrets, outside: &outside };
    let kind = countersign::scheme::find(name).unwrap();
    (kind.parse)(settings).unwrap().build(&setup).unwrap()
}

/// 2048 bits, PKCS#1, PEM.
fn rsa_key() -> Secret {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys/rsa-pkcs1.pem");
    Secret::new(std::fs::read(path).unwrap())
}

fn settings(name: &str) -> serde_json::Value {
    let secret = json!({ "env": "S" });
    match name {
        "api_key" => json!({ "key": secret }),
        "aws" => json!({ "access_key": "AKIDEXAMPLE", "secret_key": secret, "region": "us-east-1", "service": "s3" }),
        "basic" | "digest" => json!({ "username": "me", "password": secret }),
        "oauth2" => json!({
            "grant_type": "client_credentials", "token_url": "https://idp.test/token",
            "client_id": "me", "client_secret": secret,
        }),
        "oracle" => json!({
            "tenancy_ocid": "ocid1.tenancy.oc1..aaaaaaaabench", "user_ocid": "ocid1.user.oc1..aaaaaaaabench",
            "fingerprint": "b2:16:7d:00:03:a2:f2:d1:14:b7:db:2a:6d:9d:13:b9", "private_key": { "env": "KEY" },
        }),
        other => panic!("say here how {other} is set up"),
    }
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.test"),
        ("user-agent", "python-requests/2.32"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "keep-alive"),
        ("proxy-connection", "keep-alive"),
        ("content-type", "application/json"),
        ("x-request-id", "4711"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn table(bindings: usize, one_host: bool) -> RouteTable {
    let scheme = scheme("api_key", settings("api_key"));
    let mut all = Vec::new();
    let mut entries = Vec::new();
    for index in 0..bindings {
        let host = if one_host { "api.test".to_owned() } else { format!("host{index}.test") };
        let hosts = vec![HostPattern::parse(&host).unwrap()];
        let ready = Readiness::Ready(Arc::clone(&scheme));
        let entry = Arc::new(CredentialEntry::new(&format!("c{index}"), "api_key", hosts.clone(), true, ready));
        let paths = if one_host { vec![PathPrefix::parse(&format!("/v1/p{index}")).unwrap()] } else { vec![] };
        entries.push(Arc::clone(&entry));
        all.push(Binding {
            name: format!("b{index}").into(),
            credential: entry,
            callers: vec![],
            hosts,
            methods: vec![],
            paths,
            allow_cleartext: false,
            allow_addresses: Arc::new([]),
            only_named: false,
            narrowing: None,
            route: None,
            policy: None,
            meter: MeterSlot::default(),
        });
    }
    RouteTable::new(all, entries, Callers::default(), Unbound::Deny).unwrap()
}

#[divan::bench(args = [(10, false), (10_000, false), (10, true), (10_000, true)])]
fn decide(bencher: Bencher<'_, '_>, (bindings, one_host): (usize, bool)) {
    let table = table(bindings, one_host);
    let (host, path) = if one_host { ("api.test", "/v1/p7/items") } else { ("host7.test", "/v1/items") };
    let destination = Destination::from_connect(&format!("{host}:443")).unwrap();
    let (caller, headers) = (Caller::local(), headers());
    bencher.bench(|| {
        let decision = table.decide(&Ask {
            caller: &caller,
            destination: &destination,
            method: &Method::GET,
            path: black_box(path),
            target: path,
            headers: &headers,
            named: None,
            route: None,
            clock: &SystemClock,
        });
        assert!(matches!(decision, Decision::Use(_)));
    });
}

/// Every credential of an account is for one host, and the request names its own.
#[divan::bench(args = [10, 100_000])]
fn decide_named(bencher: Bencher<'_, '_>, credentials: usize) {
    let scheme = scheme("api_key", settings("api_key"));
    let hosts = vec![HostPattern::parse("api.test").unwrap()];
    let (mut all, mut entries) = (Vec::new(), Vec::new());
    for index in 0..credentials {
        let ready = Readiness::Ready(Arc::clone(&scheme));
        let entry = Arc::new(CredentialEntry::new(&format!("c{index}"), "api_key", hosts.clone(), true, ready));
        entries.push(Arc::clone(&entry));
        all.push(Binding {
            name: format!("b{index}").into(),
            credential: entry,
            callers: vec![],
            hosts: hosts.clone(),
            methods: vec![],
            paths: vec![],
            allow_cleartext: false,
            allow_addresses: Arc::new([]),
            only_named: true,
            narrowing: None,
            route: None,
            policy: None,
            meter: MeterSlot::default(),
        });
    }
    let table = RouteTable::new(all, entries, Callers::default(), Unbound::Deny).unwrap();
    let destination = Destination::from_connect("api.test:443").unwrap();
    let (caller, headers) = (Caller::local(), headers());
    bencher.bench(|| {
        let decision = table.decide(&Ask {
            caller: &caller,
            destination: &destination,
            method: &Method::GET,
            path: black_box("/v1/items"),
            target: "/v1/items",
            headers: &headers,
            named: Some("c7"),
            route: None,
            clock: &SystemClock,
        });
        assert!(matches!(decision, Decision::Use(_)));
    });
}

/// What signs, a token obtained where the scheme needs one.
fn authorizer(scheme: &dyn Scheme) -> Arc<dyn Authorizer> {
    match scheme.identity() {
        Identity::Fixed(authorizer) => Arc::clone(authorizer),
        Identity::Challenged(_) => panic!("a server has to ask first"),
        Identity::Token(handle) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Arc::clone(runtime.block_on(handle.obtain()).unwrap().authorizer())
        }
    }
}

#[divan::bench(args = ["api_key", "aws", "basic", "oauth2", "oracle"])]
fn authorize(bencher: Bencher<'_, '_>, name: &str) {
    let authorizer = authorizer(&*scheme(name, settings(name)));
    let destination = Destination::from_connect("api.test:443").unwrap();
    let headers = headers();
    let view = RequestView {
        method: &Method::GET,
        path_and_query: "/v1/items?x=1",
        headers: &headers,
        removed: &HeaderMap::new(),
        destination: &destination,
        length: Some(0),
        body: None,
        narrowing: None,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    bencher.bench(|| authorizer.authorize(black_box(&view), now).unwrap());
}

/// What a server asked once signs every request: found by host and path, then hashed.
#[divan::bench(args = ["MD5", "SHA-256", "SHA-512-256"])]
fn digest(bencher: Bencher<'_, '_>, algorithm: &str) {
    let scheme = scheme("digest", settings("digest"));
    let Identity::Challenged(challenged) = scheme.identity() else { panic!("digest is asked") };
    let asked = format!("Digest realm=\"r\", nonce=\"{}\", qop=\"auth\", algorithm={algorithm}", "n".repeat(44));
    let asked: HeaderMap = [(http::header::WWW_AUTHENTICATE, asked.parse().unwrap())].into_iter().collect();
    let destination = Destination::from_connect("api.test:443").unwrap();
    let headers = headers();
    let view = RequestView {
        method: &Method::GET,
        path_and_query: "/v1/items?x=1",
        headers: &headers,
        removed: &HeaderMap::new(),
        destination: &destination,
        length: Some(0),
        body: None,
        narrowing: None,
    };
    challenged.answer(&view, &Challenge { headers: &asked, certificate: None }).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    bencher.bench(|| challenged.remembered(black_box(&view)).unwrap().authorize(&view, now).unwrap());
}

/// What `authorize` of `oracle` is compared with: the signature alone, of a text as long, by the library that makes it.
#[divan::bench]
fn rsa_signature(bencher: Bencher<'_, '_>) {
    let pem = pem::parse(rsa_key().expose()).unwrap();
    let pair = aws_lc_rs::rsa::KeyPair::from_der(pem.contents()).unwrap();
    let random = aws_lc_rs::rand::SystemRandom::new();
    let text = b"date: Tue, 14 Nov 2023 22:13:20 GMT\n(request-target): get /v1/items?x=1\nhost: api.test";
    let mut signature = vec![0; pair.public_modulus_len()];
    bencher.bench_local(|| {
        pair.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, black_box(text), &mut signature).unwrap();
    });
}

#[divan::bench]
fn header_pass_of_a_request(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(headers).bench_refs(|headers| header_pass(headers).unwrap());
}

#[divan::bench]
fn token_hit(bencher: Bencher<'_, '_>) {
    let scheme = scheme("oauth2", settings("oauth2"));
    drop(authorizer(&*scheme));
    let Identity::Token(handle) = scheme.identity() else { panic!("oauth2 has tokens") };
    bencher.bench(|| black_box(handle.current()).unwrap());
}
