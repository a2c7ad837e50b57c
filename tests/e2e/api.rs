//! The management API of the real binary: who comes in, what is described, and that nothing else is answered.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, kit, measured, raw, skip, text};

const ADMIN: &str = "an-admin-token-of-the-file";

/// A proxy whose `admin` section has these further keys.
fn start(root: &Root, config: Config, more: &str) -> Proxy {
    let config = config.rest(&format!("admin:\n  address: 127.0.0.1:0\n{more}"));
    let variables = [("SECRET", "s3cret"), ("ADMIN", ADMIN)];
    Proxy::start_with(&config.text(), &variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    })
}

/// A raw request to the admin listener.
fn ask(proxy: &Proxy, path: &str, headers: &str) -> crate::support::Raw {
    let admin = proxy.address("admin", 0);
    raw(&admin, format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_one_token_and_nobody_comes_in_without_one() {
    let root = Root::new();
    let proxy = start(&root, Config::new(), "");
    let file = proxy.folder.path().join("state/admin-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(!proxy.log().contains(token.trim()), "the log says where it is, not what it is");
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    let own = format!("Host: {}\r\n", proxy.address("admin", 0));
    let who = ask(&proxy, "/v1/whoami", &format!("{own}{bearer}"));
    assert_eq!(who.status(), 200, "{}", who.text);
    assert!(who.text.contains("token:first") && who.text.contains("x-ratelimit-remaining"));
    for (headers, status) in [
        (own.clone(), 401),
        (format!("{own}Authorization: Bearer cs_wrong\r\n"), 401),
        (format!("Host: rebound.test\r\n{bearer}"), 403),
        (format!("{own}{bearer}Origin: http://evil.test\r\n"), 403),
        (format!("{own}{bearer}Sec-Fetch-Site: cross-site\r\n"), 403),
    ] {
        let answer = ask(&proxy, "/v1/whoami", &headers);
        assert_eq!(answer.status(), status, "{headers}{}", answer.text);
        assert!(answer.text.contains("application/problem+json"));
    }
    assert_eq!(ask(&proxy, "/openapi.json", &own).status(), 200);
    // Health needs no token.
    assert_eq!(ask(&proxy, "/livez", &own).status(), 200);
    let manager = Manager::of(&proxy);
    let body = json!({"name": "x", "scheme": "basic", "settings": {"username": "u", "password": "canary-in-a-body"}});
    manager.done("POST", "/v1/accounts/a/credentials", Some(body)).await;
    let wrong = json!({"name": "x", "scheme": "basic", "settings": {"username": "u", "passwort": "canary-in-a-body"}});
    assert_eq!(manager.call("POST", "/v1/accounts/a/credentials", Some(wrong)).await.0, 422);
    // Killed and started again there is the same store and no second token.
    let proxy = proxy.killed_and_started_again(&crate::support::binary(), &[("SECRET", "s3cret"), ("ADMIN", ADMIN)]);
    assert_eq!(std::fs::read_to_string(proxy.folder.path().join("state/admin-token")).unwrap(), token);
    let manager = Manager::of(&proxy);
    assert_eq!(manager.done("GET", "/v1/accounts/a/credentials/x", None).await["secretFields"], json!(["password"]));
    let log = proxy.stop();
    assert!(!log.contains("canary-in-a-body"), "{log}");
}

#[test]
fn an_address_that_others_reach_wants_tls() {
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.yaml");
    let check = |admin: &str| {
        std::fs::write(&file, format!("admin: {admin}\n")).unwrap();
        crate::support::countersign(&["check", "--config", file.to_str().unwrap()]).output().unwrap()
    };
    let refused = check("{ address: 0.0.0.0:0 }");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("admin.address") && said.contains("admin.tls"), "{said}");
    assert_eq!(check("{ address: 127.0.0.1:0 }").status.code(), Some(0));
    drop(root);
}

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_an_issuer_come_in_with_the_roles_that_their_claims_mean() {
    let root = Root::new();
    let public: Value = serde_json::from_slice(&vector("public.json")).unwrap();
    let mut key = public["rsa"].clone();
    key["kid"] = json!("k1");
    let answers: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
    let of = Arc::clone(&answers);
    let issuer = Origin::https_with(&root, &["idp.test"], &["http/1.1"], move |seen| {
        match of.lock().unwrap().get(&seen.target) {
            Some(document) => text(200, &document.to_string()),
            None => text(500, "away"),
        }
    })
    .await;
    let address = "https://idp.test/realm";
    let says = |alive: bool| {
        let mut answers = answers.lock().unwrap();
        answers.clear();
        if alive {
            let discovery = json!({"issuer": address, "jwks_uri": "https://idp.test/keys"});
            answers.insert("/realm/.well-known/openid-configuration".into(), discovery);
            answers.insert("/keys".into(), json!({"keys": [key]}));
        }
    };
    let section = "  oidc: { issuer: \"https://idp.test/realm\", audience: countersign, account_claim: tenant, roles: [{ value: ops, role: manager }], allow_addresses: [127.0.0.0/8] }\n";
    let proxy = start(&root, Config::new().resolve("idp.test:443", issuer.address), section);
    assert!(!proxy.folder.path().join("state/admin-token").exists(), "an issuer lets people in");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({"iss": address, "aud": "countersign", "sub": "anna", "roles": ["ops"], "tenant": "7",
            "exp": now + 300});
        change(&mut claims);
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("k1".into());
        let der = pem::parse(vector("rsa-pkcs1.pem")).unwrap().into_contents();
        encode(&header, &claims, &EncodingKey::from_rsa_der(&der)).unwrap()
    };
    let good = token(&|_| {});
    let whoami = async |token: &str| Manager::with_token(&proxy, token).call("GET", "/v1/whoami", None).await;
    let (status, problem) = whoami(&good).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "a dead issuer makes no token wrong");
    says(true);
    // The pause after a failure is short.
    let came_back = SystemTime::now() + Duration::from_secs(20);
    let who = loop {
        let (status, who) = whoami(&good).await;
        if status == 200 {
            break who;
        }
        assert!(SystemTime::now() < came_back, "{who}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    assert_eq!((&who["name"], &who["role"], &who["account"]), (&json!("oidc:anna"), &json!("manager"), &json!("7")));
    let anna = Manager::with_token(&proxy, &good);
    assert_eq!(anna.call("GET", "/v1/accounts/7/credentials", None).await.0, 200);
    assert_eq!(anna.call("GET", "/v1/accounts/8/credentials", None).await.0, 403);
    assert_eq!(anna.call("GET", "/v1/tokens", None).await.0, 403);
    for change in [
        (&|claims: &mut Value| claims["aud"] = json!("others")) as &dyn Fn(&mut Value),
        &|claims| claims["iss"] = json!("https://evil.test"),
        &|claims| claims["exp"] = json!(1_000_000_000),
        &|claims| claims["nbf"] = json!(4_000_000_000_u64),
    ] {
        assert_eq!(whoami(&token(change)).await.0, 401);
    }
    let (body, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    assert_eq!(whoami(&format!("{body}.{other}{}", &signature[1..])).await.0, 401);
}

/// As many as the run must have made at least.
const EXAMPLES: u64 = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_5xx_and_no_undocumented_answer() {
    let test = "schemathesis";
    let Some(kit) = kit(test) else { return };
    let program = kit.join("schemathesis/bin/schemathesis");
    if !program.exists() {
        return skip(test, "schemathesis is not in the test kit").unwrap_or_default();
    }
    let root = Root::new();
    let more =
        "  rate_limit: { account: 0, principal: 0 }\n  tokens: [{ name: fuzz, role: admin, token: { env: ADMIN } }]\n";
    let proxy = start(&root, Config::new(), more);
    let admin = proxy.address("admin", 0);
    let folder = tempfile::tempdir().unwrap();
    // One worker: Python 3.11 loses count of how deep its parser is when two threads use it.
    let output = Command::new(program)
        .args(["run", &format!("http://{admin}/openapi.json"), "--url", &format!("http://{admin}")])
        .args(["-H", &format!("Authorization: Bearer {ADMIN}")])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,response_headers_conformance"])
        .args([
            "--phases",
            "examples,coverage,fuzzing,stateful",
            "--max-examples",
            "15",
            "--seed",
            "4711",
            "--no-shrink",
        ])
        .args(["--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "30", "--workers", "1"])
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", proxy.log());
    let generated = said.lines().find(|line| line.contains(" generated, ")).unwrap_or_default();
    let count =
        generated.split_whitespace().find_map(|word| word.replace(',', "").parse::<u64>().ok()).unwrap_or_default();
    assert!(count >= EXAMPLES, "{count} examples: {said}");
    measured(&format!("management API: schemathesis made {count} examples, no 5xx and no undocumented answer"));
}
