//! JWTs of ours before verifiers that are not: PyJWT, joserfc and authlib, each with its negative twins.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Proxy, kit, measured, provider, skip};

const SHARED: &str = "a-shared-secret-of-64-bytes-and-more-for-the-largest-of-the-hashes";
const HANDED_OUT_BY: &str = "the-secret-of-the-one-who-hands-out";
const PASSWORD: &str = "pa:ss wörd";
const API_KEY: &str = "the-api-key";

/// One credential, the path it is for, and what its API says.
struct Case {
    id: &'static str,
    settings: String,
    path: &'static str,
    expect: Expect,
}

enum Expect {
    /// The library takes the token.
    Accepted,
    /// The library refuses it for one of these reasons, each library having its own words.
    Refused(&'static [&'static str]),
    /// Countersign refuses: nothing reaches the API.
    Ours(&'static str, &'static str),
}
use Expect::{Accepted, Ours, Refused};

/// The API, which ends with the test.
struct Api {
    child: Child,
    port: u64,
    /// Past the proxy.
    client: reqwest::Client,
}

impl Api {
    fn start(kit: &Path, library: &str, config: &Value) -> Option<Self> {
        let python = kit.join(if library == "pyjwt" { "cloud" } else { "venv" }).join("bin/python");
        if !python.exists() {
            return skip(library, "the test kit has no environment for it");
        }
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jwt/api_server.py");
        let mut child = Command::new(python)
            .arg(program)
            .arg(library)
            .env("JWT_CONFIG", config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{library} did not start"));
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(Self { child, port: facts["port"].as_u64().unwrap(), client })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The last token that was taken, and how many were handed out.
    async fn last(&self) -> (String, u64) {
        let facts = self.direct("/last", "").await.1;
        (facts["token"].as_str().unwrap().to_owned(), facts["fetches"].as_u64().unwrap())
    }

    /// Past the proxy, as somebody who has the token.
    async fn direct(&self, path: &str, token: &str) -> (u16, Value) {
        let request = self.client.get(self.url(path)).header("authorization", format!("Bearer {token}"));
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pem(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name)).unwrap()
}

fn key(name: &str) -> String {
    format!("signing_key: {{ file: {}/tests/vectors/keys/{name} }}\n", env!("CARGO_MANIFEST_DIR"))
}

/// What each algorithm is verified with: all want the same issuer and audience.
fn config() -> Value {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let keys: Value = serde_json::from_str(&pem("public.json")).unwrap();
    let with = |alg: &str, more: Value| {
        let mut route = json!({ "alg": alg, "aud": "api", "iss": "me" });
        let name = match &alg[..2] {
            "RS" | "PS" => "rsa",
            "ES" if alg == "ES384" => "p384",
            "ES" => "p256",
            _ => "ed25519",
        };
        if alg.starts_with("HS") {
            route["secret"] = encode(SHARED).into();
        } else {
            route["jwk"] = keys[name].clone();
        }
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    let plain = |alg: &str| with(alg, json!({}));
    json!({
        "password": PASSWORD,
        "api_key": API_KEY,
        "issuing_secret": HANDED_OUT_BY,
        "snowflake_public_key": public_pem(&keys["rsa"]),
        "routes": {
            "/rs256": plain("RS256"), "/rs512": plain("RS512"), "/ps256": plain("PS256"), "/ps384": plain("PS384"),
            "/es256": plain("ES256"), "/es384": plain("ES384"), "/eddsa": plain("EdDSA"),
            "/hs256": plain("HS256"), "/hs384": plain("HS384"), "/hs512": plain("HS512"),
            "/later": with("RS256", json!({ "ahead": 7200 })),
            "/other-header": with("RS256", json!({ "field": "X-Token", "prefix": "Token token=" })),
            "/query": with("RS256", json!({ "place": "query", "field": "jwt", "prefix": "" })),
            "/cookie": with("RS256", json!({ "place": "cookie", "field": "session", "prefix": "" })),
            "/snowflake": with("RS256", json!({ "iss": format!("ACCOUNT.USER.{}", fingerprint()), "aud": "api", "snowflake": true })),
            "/handed-out": { "alg": "HS256", "aud": "api", "iss": "hand-out", "secret": encode(HANDED_OUT_BY) },
        },
    })
}

/// By `openssl pkey -in rsa-pkcs8.pem -pubout -outform DER | openssl dgst -sha256 -binary | base64`.
fn fingerprint() -> &'static str {
    "SHA256:3Grfhhe6wrjQ6lml6VZW84bQ9sq92mbHADH0PfYLGgs="
}

fn public_pem(jwk: &Value) -> String {
    use base64::Engine;
    use rsa::pkcs8::EncodePublicKey;
    let number = |name: &str| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        rsa::BigUint::from_bytes_be(&bytes)
    };
    let key = rsa::RsaPublicKey::new(number("n"), number("e")).unwrap();
    key.to_public_key_pem(rsa::pkcs8::LineEnding::LF).unwrap()
}

fn case(id: &'static str, settings: String, path: &'static str, expect: Expect) -> Case {
    Case { id, settings, path, expect }
}

/// Every algorithm with its twins: another key, another audience, another issuer, another algorithm, a time that is over.
fn signed_cases() -> Vec<Case> {
    let claims = "iss: me\naud: api\n";
    let with = |file: &str, more: &str| format!("{}{claims}{more}", key(file));
    let shared = |more: &str| format!("shared_secret: {{ env: SHARED }}\n{claims}{more}");
    // The libraries' words for a wrong signature, issuer, audience, algorithm and time.
    const SIGNATURE: &[&str] = &["InvalidSignatureError", "BadSignatureError"];
    const CLAIM: &[&str] = &["InvalidAudienceError", "InvalidIssuerError", "InvalidClaimError"];
    const ALGORITHM: &[&str] = &["InvalidAlgorithmError", "UnsupportedAlgorithmError", "is not allowed"];
    const TIME: &[&str] = &["ExpiredSignatureError", "ExpiredTokenError"];
    vec![
        case("rs256", with("rsa-pkcs1.pem", ""), "/rs256", Accepted),
        case("rs256-key", with("rsa-other.pem", ""), "/rs256", Refused(SIGNATURE)),
        case("rs256-aud", with("rsa-pkcs1.pem", "").replace("aud: api", "aud: else"), "/rs256", Refused(CLAIM)),
        case("rs256-iss", with("rsa-pkcs1.pem", "").replace("iss: me", "iss: you"), "/rs256", Refused(CLAIM)),
        case("rs256-expired", with("rsa-pkcs1.pem", "max_minutes: 60"), "/later", Refused(TIME)),
        case("rs256-not-yet-expired", with("rsa-pkcs1.pem", "max_minutes: 180"), "/later", Accepted),
        case("rs512", with("rsa-pkcs8.pem", "alg: RS512"), "/rs512", Accepted),
        case("rs512-algorithm", with("rsa-pkcs8.pem", "alg: RS512"), "/rs256", Refused(ALGORITHM)),
        case("ps256", with("rsa-pkcs8.pem", "alg: PS256"), "/ps256", Accepted),
        case("ps256-key", with("rsa-other.pem", "alg: PS256"), "/ps256", Refused(SIGNATURE)),
        case(
            "ps384",
            with("rsa-encrypted-aes256.pem", "alg: PS384\nsigning_key_password: { env: PASSWORD }"),
            "/ps384",
            Accepted,
        ),
        case("es256", with("p256-sec1.pem", "jwt_headers: { kid: k1 }"), "/es256", Accepted),
        case("es256-key", with("p256-other.pem", ""), "/es256", Refused(SIGNATURE)),
        case("es384", with("p384-sec1.pem", "include_jti: true"), "/es384", Accepted),
        case("eddsa", with("ed25519-pkcs8.pem", "backdate: 60s\nmax_minutes: 10"), "/eddsa", Accepted),
        case("eddsa-key", with("ed25519-other.pem", ""), "/eddsa", Refused(SIGNATURE)),
        case("hs256", shared(""), "/hs256", Accepted),
        case("hs256-key", shared("").replace("SHARED", "API_KEY"), "/hs256", Refused(SIGNATURE)),
        case("hs256-base64", shared("shared_secret_encoding: base64").replace("SHARED", "ENCODED"), "/hs256", Accepted),
        case("hs384", shared("alg: HS384"), "/hs384", Accepted),
        case("hs512", shared("alg: HS512"), "/hs512", Accepted),
        case("header", with("rsa-pkcs1.pem", "field: X-Token\ntype: Token token="), "/other-header", Accepted),
        case("query", with("rsa-pkcs1.pem", "location: query\nfield: jwt"), "/query", Accepted),
        case("cookie", with("rsa-pkcs1.pem", "location: cookie\nfield: session"), "/cookie", Accepted),
        case("cookie-elsewhere", with("rsa-pkcs1.pem", ""), "/cookie", Refused(&["there is no token"])),
    ]
}

/// Snowflake's own form, and tokens that are handed out.
fn other_cases(hand_out: impl Fn(&str) -> String) -> Vec<Case> {
    let snowflake = |file: &str, more: &str| {
        format!("{}aud: api\nsub: ACCOUNT.USER\niss: ACCOUNT.USER.{{fingerprint}}\n{more}", key(file))
    };
    let typed = "additional_headers: { X-Snowflake-Authorization-Token-Type: KEYPAIR_JWT }";
    let fetched = |way: &str, more: &str| format!("token_url: {}\nallow_cleartext: true\n{more}", hand_out(way));
    let basic = "basic_auth_username: caller\nbasic_auth_password: { env: HAND_OUT }";
    let api_key = "api_key: { key: { env: API_KEY }, field: X-Api-Key, type: \"\" }";
    let rejected = |words| Ours("credential_rejected", words);
    vec![
        case("snowflake", snowflake("rsa-pkcs8.pem", typed), "/snowflake", Accepted),
        case("snowflake-untyped", snowflake("rsa-pkcs8.pem", ""), "/snowflake", Refused(&["type of the token"])),
        case(
            "snowflake-key",
            snowflake("rsa-other.pem", typed),
            "/snowflake",
            Refused(&["InvalidSignatureError", "BadSignatureError"]),
        ),
        case("basic", fetched("basic", basic), "/handed-out", Accepted),
        case(
            "basic-wrong",
            fetched("basic", basic).replace("HAND_OUT", "SHARED"),
            "/handed-out",
            rejected("answered 401 unauthorized"),
        ),
        case("api-key", fetched("api-key", api_key), "/handed-out", Accepted),
        case(
            "api-key-wrong",
            fetched("api-key", api_key).replace("API_KEY", "SHARED"),
            "/handed-out",
            rejected("answered 401"),
        ),
        case("unsigned", fetched("unsigned", "additional_headers: { X-Account: \"4711\" }"), "/handed-out", Accepted),
        case("nothing", fetched("nothing", ""), "/handed-out", rejected("there is no access_token in it")),
    ]
}

fn start(api: &Api, cases: &[Case]) -> Proxy {
    use base64::Engine;
    let mut text = String::from(
        "listeners: { forward: [{ address: 127.0.0.1:0 }] }\nlog: { level: trace }\n\
         upstream: { allow_addresses: [127.0.0.0/8] }\ncredentials:\n",
    );
    let mut bindings = String::from("bindings:\n");
    for case in cases {
        let settings = case.settings.trim().replace('\n', "\n    ");
        text.push_str(&format!(
            "  - id: {}\n    scheme: jwt\n    hosts: [\"127.0.0.1:{}\"]\n    {settings}\n",
            case.id, api.port
        ));
        bindings.push_str(&format!("  - {{ credential: {}, only_named: true, allow_cleartext: true }}\n", case.id));
    }
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(SHARED);
    let variables = [
        ("SHARED", SHARED),
        ("ENCODED", &encoded),
        ("API_KEY", API_KEY),
        ("HAND_OUT", PASSWORD),
        ("PASSWORD", "hunter2"),
    ];
    Proxy::start_with(&(text + &bindings), &variables, |_| {})
}

/// One wrong byte, at many places of header, claims and signature.
async fn flipped(api: &Api, path: &str, library: &str) -> usize {
    let (token, _) = api.last().await;
    assert_eq!(api.direct(path, &token).await.0, 200, "{library}: the token itself");
    let places: Vec<usize> = (0..token.len() - 1).step_by(17).filter(|at| token.as_bytes()[*at] != b'.').collect();
    for at in &places {
        let mut wrong = token.clone().into_bytes();
        wrong[*at] = if wrong[*at] == b'A' { b'B' } else { b'A' };
        let (status, body) = api.direct(path, std::str::from_utf8(&wrong).unwrap()).await;
        assert_eq!(status, 401, "{library}: byte {at} of {token}: {body}");
    }
    places.len()
}

async fn verified_by(library: &str) {
    let Some(kit) = kit(library) else { return };
    let Some(api) = Api::start(&kit, library, &config()) else { return };
    let mut cases = signed_cases();
    cases.extend(other_cases(|way| api.url(&format!("/hand-out/{way}"))));
    let proxy = start(&api, &cases);
    let client = proxy.client();
    let mut bytes = 0;
    for case in &cases {
        let call = || client.get(api.url(case.path)).header("countersign-credential", case.id).send();
        let answer = call().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        match &case.expect {
            Accepted => {
                assert_eq!(status, 200, "{library} {}: {body}", case.id);
                let first = api.last().await;
                assert_eq!(call().await.unwrap().status(), 200);
                assert_eq!(api.last().await, first, "{library} {}: one token serves two calls", case.id);
                if ["/rs256", "/ps256", "/es256", "/eddsa", "/hs256"].contains(&case.path) {
                    bytes += flipped(&api, case.path, library).await;
                }
            }
            Refused(words) => {
                let why = body["refused"].as_str().unwrap_or_else(|| panic!("{library} {}: {body}", case.id));
                assert_eq!(status, 401, "{library} {}: {body}", case.id);
                assert!(words.iter().any(|word| why.contains(word)), "{library} {}: {why}", case.id);
            }
            Ours(code, words) => {
                assert_eq!(body["code"], *code, "{library} {}: {body}", case.id);
                assert!(status == 502 && body["detail"].as_str().unwrap().contains(words), "{library}: {body}");
                assert!(!body.to_string().contains(SHARED), "{library} {}: {body}", case.id);
            }
        }
    }
    let log = proxy.stop();
    for secret in [SHARED, HANDED_OUT_BY, API_KEY, PASSWORD, "hunter2", "eyJ0eXAi", "eyJhbGci"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.contains("token obtained"), "the log was looked at");
    measured(&format!("{library} refused each of {bytes} JWTs with one wrong byte"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pyjwt_takes_every_algorithm_and_refuses_each_twin() {
    verified_by("pyjwt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joserfc_takes_every_algorithm_and_refuses_each_twin() {
    verified_by("joserfc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authlib_takes_every_algorithm_and_refuses_each_twin() {
    verified_by("authlib").await;
}

#[test]
fn check_tells_what_is_wrong_with_each_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("countersign.yaml");
    for (settings, status, why) in [
        (key("rsa-encrypted-aes256.pem"), 78, "signing_key: it is encrypted and there is no password for it"),
        (
            key("rsa-encrypted-aes256.pem") + "    signing_key_password: { env: WRONG }\n",
            78,
            "signing_key: it cannot be decrypted: the password is wrong",
        ),
        (key("rsa-1024.pem"), 78, "signing_key: it has 1024 bits"),
        (key("rsa-pkcs8.pem") + "    alg: ES256\n", 78, "ES256 does not go with the key"),
        (key("rsa-pkcs8.pem") + "    token_url: https://id.test/\n", 78, "signing_key"),
        (key("rsa-pkcs8.pem"), 0, ""),
    ] {
        let text = format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nca: {{ directory: {0}/ca }}\ncredentials:\n  - id: c\n    \
             scheme: jwt\n    hosts: [api.test]\n    {settings}bindings: [{{ credential: c, hosts: [api.test] }}]\n",
            folder.path().display()
        );
        std::fs::write(&path, text).unwrap();
        let output = crate::support::countersign(&["check", "--config", path.to_str().unwrap()])
            .env("WRONG", "not-the-password")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(why) && !said.contains("not-the-password"), "{said}");
        assert_eq!(output.status.code(), Some(status), "{said}");
    }
}
