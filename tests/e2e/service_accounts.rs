//! Callers that are Kubernetes service accounts: their tokens are reviewed by the API server, or verified by its keys.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{Config, Origin, Proxy, Raw, Root, SECRET, raw, text};

const CALLERS: &str =
    "callers:\n  - { name: runner, service_account: policies/runner }\n  - { name: other, token: { env: TOKEN } }\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token as the API server of a cluster makes them; the stub looks at its claims and not at its signature.
fn claims(account: &str, audience: &str, exp: u64) -> Value {
    let sub = format!("system:serviceaccount:{}", account.replace('/', ":"));
    json!({"iss": "https://cluster.test", "sub": sub, "aud": [audience], "exp": exp, "iat": now()})
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "kid": "k"})), part(claims))
}

/// What the API server says of every token, and whether it is there at all.
#[derive(Clone, Default)]
struct Says(Arc<Mutex<Option<Value>>>);

impl Says {
    fn status(&self, status: Value) {
        *self.0.lock().unwrap() = Some(status);
    }

    fn account(&self, account: &str, audiences: &[&str]) {
        let username = format!("system:serviceaccount:{}", account.replace('/', ":"));
        self.status(json!({"authenticated": true, "user": {"username": username}, "audiences": audiences}));
    }
}

async fn api(root: &Root, says: &Says) -> Origin {
    let says = says.clone();
    Origin::https_with(root, &["kubernetes.default.svc"], &["http/1.1"], move |seen| {
        let ours = seen.header("authorization") == Some("Bearer 0ur-own");
        let right = seen.target == "/apis/authentication.k8s.io/v1/tokenreviews" && seen.method == "POST";
        match says.0.lock().unwrap().clone() {
            _ if !ours || !right => text(401, "{}"),
            None => text(503, "{}"),
            Some(status) => text(201, &json!({"kind": "TokenReview", "status": status}).to_string()),
        }
    })
    .await
}

struct Bench {
    proxy: Proxy,
    origin: Origin,
    api: Origin,
    says: Says,
}

/// `trusted` is whose certificate of the API server we expect.
async fn start(trusted: Option<&Root>) -> Bench {
    let (root, cluster) = (Root::new(), Root::new());
    let says = Says::default();
    let api = api(&cluster, &says).await;
    let origin = Origin::https(&root, &["api.test"]).await;
    let section = "service_accounts:\n  token_review: { ca_file: FOLDER/cluster.pem, token: { file: FOLDER/own }, allow_addresses: [127.0.0.0/8] }\n";
    let reverse = "  forward:\n    - address: 127.0.0.1:0\n  reverse:\n    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /api, upstream: \"https://api.test\", credential: key, callers: [runner] }\n";
    let config = Config::new()
        .listeners(reverse)
        .bindings("  - { credential: key, hosts: [api.test], callers: [runner] }\n")
        .resolve("api.test:443", origin.address)
        .resolve("kubernetes.default.svc:443", api.address)
        .rest(CALLERS)
        .rest(section);
    let pem = trusted.unwrap_or(&cluster).pem();
    let proxy = Proxy::start_with(&config.text(), &[("SECRET", SECRET), ("TOKEN", "t0ken")], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("cluster.pem"), pem).unwrap();
        std::fs::write(folder.join("own"), "0ur-own\n").unwrap();
    });
    Bench { proxy, origin, api, says }
}

impl Bench {
    fn ask(&self, token: &str) -> Raw {
        let head = "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n";
        raw(&self.proxy.forward(), format!("{head}Proxy-Authorization: Bearer {token}\r\n\r\n").as_bytes())
    }

    fn ask_route(&self, token: &str) -> Raw {
        let address = self.proxy.reverse();
        let head = format!("GET /api HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        raw(&address, format!("{head}Countersign-Authorization: Bearer {token}\r\n\r\n").as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_api_server_confirms_is_its_caller_and_is_reviewed_once() {
    let bench = start(None).await;
    bench.says.account("policies/runner", &["countersign"]);
    let good = token(&claims("policies/runner", "countersign", now() + 600));
    let answer = bench.proxy.client_as(&format!("runner:{good}@")).get("https://api.test/").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(bench.ask(&good).status(), 200);
    assert_eq!(bench.ask_route(&good).status(), 200);
    assert!(bench.proxy.client_as(&format!("other:{good}@")).get("https://api.test/").send().await.is_err());
    assert_eq!(bench.ask("t0ken").code(), "unbound", "a token of our own is no matter of the API server");
    let review = bench.api.only();
    let asked: Value = serde_json::from_slice(&review.body).unwrap();
    assert_eq!(asked["spec"], json!({"token": good, "audiences": ["countersign"]}));
    assert!(bench.origin.seen().iter().all(|seen| !format!("{seen:?}").contains(&good)));
    assert_eq!(bench.proxy.requests(1)[0]["caller"], "runner");
    let log = bench.proxy.stop();
    assert!(!log.contains(&good) && !log.contains("0ur-own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_does_not_confirm_for_us_is_nobody() {
    let bench = start(None).await;
    let fresh = |claim: u64| token(&claims("policies/runner", "countersign", now() + 600 + claim));
    let cases = [
        json!({"authenticated": false, "error": "expired"}),
        json!({"authenticated": true, "user": {"username": "system:serviceaccount:policies:runner"}, "audiences": ["https://kubernetes.default.svc"]}),
        json!({"authenticated": true, "user": {"username": "system:serviceaccount:policies:runner"}}),
        json!({"authenticated": "true", "user": {"username": "system:serviceaccount:policies:runner"}, "audiences": ["countersign"]}),
        json!({"authenticated": true, "user": {"username": "system:serviceaccount:policies:other"}, "audiences": ["countersign"]}),
        json!({"authenticated": true, "user": {"username": "policies/runner"}, "audiences": ["countersign"]}),
        json!({"authenticated": true, "audiences": ["countersign"]}),
        json!({}),
    ];
    let mut asked = 0;
    for (claim, status) in cases.into_iter().enumerate() {
        bench.says.status(status.clone());
        let token = fresh(claim as u64);
        assert_eq!(bench.ask(&token).code(), "caller_unknown", "{status}");
        assert_eq!(bench.ask_route(&token).code(), "caller_unknown", "{status}");
        asked += 1;
        assert_eq!(bench.api.seen().len(), asked, "a refusal is remembered");
    }
    // Nobody is asked about what a token itself says it is not.
    bench.says.account("policies/runner", &["countersign"]);
    for claims in [
        claims("policies/runner", "others", now() + 600),
        claims("policies/other", "countersign", now() + 600),
        claims("policies/runner", "countersign", now() - 1),
    ] {
        assert_eq!(bench.ask(&token(&claims)).code(), "caller_unknown", "{claims}");
    }
    assert_eq!(bench.ask("eyJ.x.y").code(), "caller_unknown");
    assert_eq!(bench.api.seen().len(), asked);
    assert!(bench.origin.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_or_another_makes_nobody_a_caller_until_it_is_back() {
    let bench = start(None).await;
    let good = token(&claims("policies/runner", "countersign", now() + 600));
    let away = bench.ask(&good);
    assert_eq!((away.status(), away.code()), (503, "token_endpoint_unavailable".to_owned()));
    assert!(away.text.to_ascii_lowercase().contains("retry-after: 1"));
    assert!(bench.origin.untouched());
    bench.says.account("policies/runner", &["countersign"]);
    // The pause after a failure is a second.
    let came_back = SystemTime::now() + crate::support::DEADLINE;
    while bench.ask(&good).status() != 200 {
        assert!(SystemTime::now() < came_back);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // One that shows the certificate of somebody else is not even told the token.
    let bench = start(Some(&Root::new())).await;
    bench.says.account("policies/runner", &["countersign"]);
    assert_eq!(bench.ask(&good).code(), "token_endpoint_unavailable");
    assert!(bench.api.seen().is_empty() && bench.origin.untouched());
}

fn vector(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name);
    std::fs::read(path).unwrap()
}

fn signed(kid: &str, key: &str, claims: &Value) -> String {
    let algorithm = if key.starts_with("p256") { Algorithm::ES256 } else { Algorithm::RS256 };
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.into());
    let der = pem::parse(vector(key)).unwrap().into_contents();
    let key = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_der(&der),
        _ => EncodingKey::from_rsa_der(&der),
    };
    encode(&header, claims, &key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuers_keys_verify_a_token_and_no_other_key_does() {
    let public: Value = serde_json::from_slice(&vector("public.json")).unwrap();
    let jwk = |kid: &str, key: &str| {
        let mut jwk = public[key].clone();
        jwk["kid"] = json!(kid);
        jwk["kty"] = json!(if key == "rsa" { "RSA" } else { "EC" });
        if key == "p256" {
            jwk["crv"] = json!("P-256");
        }
        jwk
    };
    for keys in [json!([jwk("k1", "rsa")]), json!([jwk("k1", "rsa"), jwk("k2", "p256")])] {
        let root = Root::new();
        let origin = Origin::https(&root, &["api.test"]).await;
        let section = "service_accounts: { issuer: \"https://cluster.test\", jwks: FOLDER/keys.json }\n";
        let config = Config::new().resolve("api.test:443", origin.address).rest(CALLERS).rest(section);
        let proxy = Proxy::start_with(&config.text(), &[("SECRET", SECRET), ("TOKEN", "t0ken")], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
            std::fs::write(folder.join("keys.json"), json!({"keys": keys}).to_string()).unwrap();
        });
        let bench = Bench { proxy, origin, api: Origin::http().await, says: Says::default() };
        let good = claims("policies/runner", "countersign", now() + 600);
        assert_eq!(bench.ask(&signed("k1", "rsa-pkcs1.pem", &good)).status(), 200);
        let of_new_key = bench.ask(&signed("k2", "p256-pkcs8.pem", &good)).status();
        assert_eq!(of_new_key, if keys.as_array().unwrap().len() == 2 { 200 } else { 407 });
        assert_eq!(bench.ask(&signed("k1", "rsa-other.pem", &good)).code(), "caller_unknown");
        assert_eq!(bench.ask(&token(&good)).code(), "caller_unknown", "unsigned");
        let mut foreign = good.clone();
        foreign["iss"] = json!("https://other.test");
        assert_eq!(bench.ask(&signed("k1", "rsa-pkcs1.pem", &foreign)).code(), "caller_unknown");
        let mut early = good.clone();
        early["nbf"] = json!(now() + 3600);
        assert_eq!(bench.ask(&signed("k1", "rsa-pkcs1.pem", &early)).code(), "caller_unknown");
        let other = claims("policies/runner", "others", now() + 600);
        assert_eq!(bench.ask(&signed("k1", "rsa-pkcs1.pem", &other)).code(), "caller_unknown");
        assert_eq!(bench.origin.seen().len(), if of_new_key == 200 { 2 } else { 1 });
    }
}
