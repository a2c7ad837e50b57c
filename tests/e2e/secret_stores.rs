//! Secrets that rest in secret stores: OpenBao for real, Secrets Manager of moto, a Key Vault that Microsoft's client verified.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::aws;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::{
    Config, DEADLINE, Origin, Proxy, Root, countersign, kit, measured, provider, run_client, skip, text,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/secret_stores")
}

/// A program of `tests/secret_stores`, which ends with the test.
struct Program {
    child: Child,
    facts: Value,
}

impl Program {
    fn start(python: &Path, program: &str, arguments: &[&Path], variables: &[(&str, &Path)]) -> Self {
        let program = folder().join(program);
        let mut command = Command::new(python);
        command
            .arg(&program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} did not start", program.display()));
        Self { child, facts }
    }

    fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    fn port(&self, name: &str) -> u64 {
        self.facts[name].as_u64().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It cleans up when its standard input ends.
        drop(self.child.stdin.take());
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn called(method: &str, url: &str, headers: &[(&str, &str)], body: Option<Value>) -> (u16, Value) {
    provider();
    let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
    let mut request = client.request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

/// A real OpenBao with a KV engine of each version and a policy that reads them.
struct Bao(Program);

impl Bao {
    async fn start(test: &str) -> Option<Self> {
        let kit = kit(test)?;
        let venv: PathBuf = kit.join("vault");
        if !venv.join("bin/python").exists() {
            return skip(test, "OpenBao is not installed; run tests/run");
        }
        let bao = Self(Program::start(&kit.join("venv/bin/python"), "openbao.py", &[], &[("TESTKIT_VAULT", &venv)]));
        bao.write("sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).await;
        bao.write("sys/mounts/old", json!({"type": "kv", "options": {"version": "1"}})).await;
        let policy = "path \"secret/data/*\" { capabilities = [\"read\"] }\npath \"old/*\" { capabilities = [\"read\"] }\n\
                      path \"secret/data/forbidden\" { capabilities = [\"deny\"] }\n\
                      path \"database/creds/*\" { capabilities = [\"read\"] }";
        bao.write("sys/policies/acl/reader", json!({"policy": policy})).await;
        bao.write("sys/auth/approle", json!({"type": "approle"})).await;
        let role = json!({"token_policies": ["reader"], "token_ttl": "1h"});
        bao.write("auth/approle/role/countersign", role).await;
        Some(bao)
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port("port"))
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let headers = [("x-vault-token", self.0.fact("token"))];
        called(method, &format!("{}/v1/{path}", self.address()), &headers, body).await
    }

    async fn write(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, Some(body)).await;
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }

    /// A new version of a secret of the KV engine of version 2.
    async fn put(&self, name: &str, data: Value) {
        self.write(&format!("secret/data/{name}"), json!({"data": data})).await;
    }

    /// The ids of an AppRole.
    async fn approle(&self) -> (String, String) {
        let (_, role) = self.call("GET", "auth/approle/role/countersign/role-id", None).await;
        let secret = self.write("auth/approle/role/countersign/secret-id", json!({})).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&role["data"]["role_id"]), text(&secret["data"]["secret_id"]))
    }

    async fn seal(&self) {
        self.write("sys/seal", json!({})).await;
    }

    async fn unseal(&self) {
        let url = format!("{}/v1/sys/unseal", self.address());
        let (status, _) = called("PUT", &url, &[], Some(json!({"key": self.0.fact("key")}))).await;
        assert_eq!(status, 200);
        let began = Instant::now();
        while self.call("GET", "sys/mounts", None).await.0 != 200 {
            assert!(began.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Credentials whose keys are secrets of stores, each called `/ID` and sent as `X-Key`.
struct Setting {
    api: Origin,
    root: Root,
    resolve: Vec<(String, std::net::SocketAddr)>,
    stores: String,
    credentials: String,
    bindings: String,
    variables: Vec<(String, String)>,
}

impl Setting {
    async fn new(stores: &str) -> Self {
        let (credentials, bindings) = (String::new(), String::new());
        Self {
            api: Origin::http().await,
            root: Root::new(),
            resolve: Vec::new(),
            stores: stores.to_owned(),
            credentials,
            bindings,
            variables: Vec::new(),
        }
    }

    fn key(mut self, id: &str, reference: &str) -> Self {
        self.credentials.push_str(&format!(
            "  - {{ id: {id}, scheme: api_key, field: X-Key, type: \"\", key: {reference}, hosts: [api.test] }}\n"
        ));
        self.bindings.push_str(&format!(
            "  - {{ credential: {id}, hosts: [api.test], paths: [/{id}], allow_cleartext: true }}\n"
        ));
        self
    }

    fn more(mut self, credentials: &str) -> Self {
        self.credentials.push_str(credentials);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn resolve(mut self, name: &str, port: u64) -> Self {
        self.resolve.push((name.to_owned(), format!("127.0.0.1:{port}").parse().unwrap()));
        self
    }

    fn text(&self) -> String {
        let config = Config::new().resolve("api.test:80", self.api.address);
        let config = self.resolve.iter().fold(config, |config, (name, address)| config.resolve(name, *address));
        config
            .listeners("  forward:\n    - address: 127.0.0.1:0\n")
            .credentials(&self.credentials)
            .bindings(&self.bindings)
            .rest(&format!(
                "admin: {{ address: 127.0.0.1:0 }}\nlog: {{ level: \"trace\" }}\ntokens: {{ directory: FOLDER/tokens }}\n\
                 secret_stores:\n{}",
                self.stores
            ))
            .text()
    }

    fn start(&self) -> Proxy {
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Proxy::start_with(&self.text(), &variables, |folder| {
            std::fs::write(folder.join("origin.pem"), self.root.pem()).unwrap();
        })
    }

    /// What the API gets as the key of a credential, or the code and the detail of the refusal.
    async fn got(&self, proxy: &Proxy, id: &str) -> Result<String, (String, String)> {
        let answer = proxy.client().get(format!("http://api.test/{id}")).send().await.unwrap();
        if answer.status() == 200 {
            let seen = self.api.seen();
            return Ok(seen.last().unwrap().header("x-key").unwrap().to_owned());
        }
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        Err((problem["code"].as_str().unwrap().to_owned(), problem["detail"].as_str().unwrap().to_owned()))
    }

    /// Waits until the API gets this key, and returns for how long it did not.
    async fn until(&self, proxy: &Proxy, id: &str, key: &str) -> Duration {
        let began = Instant::now();
        while self.got(proxy, id).await.as_deref() != Ok(key) {
            assert!(began.elapsed() < DEADLINE, "{key} never came: {:?}", self.got(proxy, id).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    }

    /// Waits until a credential is refused, and returns the code and the detail.
    async fn until_refused(&self, proxy: &Proxy, id: &str) -> (String, String) {
        let began = Instant::now();
        loop {
            match self.got(proxy, id).await {
                Err(refused) => return refused,
                Ok(_) => assert!(began.elapsed() < DEADLINE, "it is never refused"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What readiness says of credentials that cannot be used.
async fn unusable(proxy: &Proxy) -> Vec<String> {
    let (_, health) = called("GET", &format!("http://{}/readyz", proxy.address("admin", 0)), &[], None).await;
    let list = health["unusable_credentials"].as_array().unwrap();
    list.iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

fn vault(bao: &Bao, auth: &str, more: &str) -> String {
    format!(
        "  - {{ name: bao, kind: vault, address: \"{}\", allow_cleartext: true, allow_addresses: [127.0.0.1], auth: {auth}{more} }}\n",
        bao.address()
    )
}

const APPROLE: &str = "{ approle: { role_id: { env: ROLE_ID }, secret_id: { env: SECRET_ID } } }";

#[tokio::test(flavor = "multi_thread")]
async fn keys_rest_in_vault_in_both_versions_of_its_engine_and_a_rotation_there_is_used_within_the_refresh_time() {
    let Some(bao) = Bao::start("vault keys").await else { return };
    bao.put("team/api", json!({"key": "c4nary-first", "other": "o"})).await;
    bao.put("team/api", json!({"key": "c4nary-second", "other": "o"})).await;
    bao.put("one", json!({"whatever": "c4nary-one"})).await;
    bao.write("old/plain", json!({"value": "c4nary-plain", "other": "o"})).await;
    let (role, secret) = bao.approle().await;
    let setting = Setting::new(&vault(&bao, APPROLE, ", refresh: 2s"))
        .await
        .key("named", "{ store: bao, name: secret/team/api, field: key }")
        .key("before", "{ store: bao, name: secret/team/api, version: \"1\", field: key }")
        .key("only", "{ store: bao, name: secret/one }")
        .key("plain", "{ store: bao, name: old/plain }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    let proxy = setting.start();
    for (id, key) in
        [("named", "c4nary-second"), ("before", "c4nary-first"), ("only", "c4nary-one"), ("plain", "c4nary-plain")]
    {
        assert_eq!(setting.got(&proxy, id).await.as_deref(), Ok(key), "{id}");
    }
    assert_eq!(unusable(&proxy).await, Vec::<String>::new());
    bao.put("team/api", json!({"key": "c4nary-third"})).await;
    let took = setting.until(&proxy, "named", "c4nary-third").await;
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert_eq!(setting.got(&proxy, "before").await.as_deref(), Ok("c4nary-first"), "a version stays what it is");
    measured(&format!("a rotation in OpenBao with a refresh time of 2 s was used after {:.1} s", took.as_secs_f64()));
    let log = proxy.stop();
    assert!(!log.contains("c4nary") && !log.contains(&role) && !log.contains(&secret), "{log}");
    // What did not change is not made anew: one line for the one rotation.
    assert_eq!(log.matches("a secret was loaded again").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vault_does_not_give_is_told_in_words_and_the_rest_is_used() {
    let Some(bao) = Bao::start("vault refusals").await else { return };
    bao.put("good", json!({"k": "v"})).await;
    bao.put("deleted", json!({"k": "v"})).await;
    bao.call("DELETE", "secret/data/deleted", None).await;
    bao.put("destroyed", json!({"k": "v"})).await;
    bao.write("secret/destroy/destroyed", json!({"versions": [1]})).await;
    bao.put("two", json!({"a": "1", "b": "2"})).await;
    let (role, secret) = bao.approle().await;
    let setting = Setting::new(&vault(&bao, APPROLE, ""))
        .await
        .key("good", "{ store: bao, name: secret/good }")
        .key("deleted", "{ store: bao, name: secret/deleted }")
        .key("destroyed", "{ store: bao, name: secret/destroyed }")
        .key("gone", "{ store: bao, name: secret/gone }")
        .key("later", "{ store: bao, name: secret/good, version: \"7\" }")
        .key("forbidden", "{ store: bao, name: secret/forbidden }")
        .key("engine", "{ store: bao, name: nowhere/x }")
        .key("two", "{ store: bao, name: secret/two }")
        .key("data", "{ store: bao, name: secret/data/good }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    let proxy = setting.start();
    assert_eq!(setting.got(&proxy, "good").await.as_deref(), Ok("v"));
    for (id, expected) in [
        ("deleted", "secret secret/deleted of store bao: version 1 was deleted at 20"),
        ("destroyed", "version 1 was destroyed"),
        ("gone", "there is no such secret"),
        ("later", "no such version"),
        ("forbidden", "the policy of the store's credential does not allow secret/forbidden"),
        ("engine", "there is no engine for nowhere/x"),
        ("two", "name one of its fields as `field`; it has a, b"),
        ("data", "leave `data/` out of its name"),
    ] {
        let (code, detail) = setting.got(&proxy, id).await.unwrap_err();
        assert_eq!(code, "secret_unavailable");
        assert!(detail.contains(expected), "{id}: {detail}");
        assert!(unusable(&proxy).await.iter().any(|one| one.starts_with(&format!("{id}: "))), "{id}");
    }
    // What appears later is used without a restart.
    bao.put("gone", json!({"k": "found"})).await;
    setting.until(&proxy, "gone", "found").await;
    // The same is what `check` says.
    let output = countersign(&["check", "--config", proxy.config.to_str().unwrap()])
        .envs(setting.variables.iter().cloned())
        .current_dir(proxy.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("version 1 was destroyed") && said.contains("destroyed cannot be used"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_vault_forgot_is_replaced_at_the_next_read() {
    let Some(bao) = Bao::start("vault tokens").await else { return };
    bao.put("api", json!({"k": "one"})).await;
    let (role, secret) = bao.approle().await;
    let setting = Setting::new(&vault(&bao, APPROLE, ", refresh: 1s"))
        .await
        .key("api", "{ store: bao, name: secret/api }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    let proxy = setting.start();
    assert_eq!(setting.got(&proxy, "api").await.as_deref(), Ok("one"));
    let (status, _) = bao.call("PUT", "sys/leases/revoke-prefix/auth/approle", Some(json!({}))).await;
    assert_eq!(status, 204);
    bao.put("api", json!({"k": "two"})).await;
    setting.until(&proxy, "api", "two").await;
    let log = proxy.stop();
    assert!(log.contains("the upstream refused the token; it is dropped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_log_in_to_vault_works_and_its_near_miss_is_told() {
    let Some(bao) = Bao::start("vault logins").await else { return };
    bao.put("api", json!({"k": "v"})).await;
    let (role, secret) = bao.approle().await;
    // Kubernetes: a pod's token that the cluster vouches for.
    let cluster = Origin::http_with(|seen| {
        let review: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let known = review["spec"]["token"] == POD && seen.header("authorization") == Some("Bearer reviewer");
        let user = json!({"username": "system:serviceaccount:apps:countersign", "uid": "u-1", "groups": []});
        let status = if known { json!({"authenticated": true, "user": user}) } else { json!({"authenticated": false}) };
        let mut answer = text(
            201,
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).to_string(),
        );
        answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
        answer
    })
    .await;
    bao.write("sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    let config = json!({
        "kubernetes_host": format!("http://{}", cluster.address), "token_reviewer_jwt": "reviewer",
        "kubernetes_ca_cert": Root::new().pem(),
        "disable_local_ca_jwt": true, "disable_iss_validation": true,
    });
    bao.write("auth/kubernetes/config", config).await;
    let pod = json!({
        "bound_service_account_names": "countersign", "bound_service_account_namespaces": "apps",
        "token_policies": ["reader"], "token_ttl": "1h",
    });
    bao.write("auth/kubernetes/role/pod", pod).await;
    // JWT: an issuer's key.
    let key = rcgen::KeyPair::generate().unwrap();
    bao.write("sys/auth/jwt", json!({"type": "jwt"})).await;
    bao.write("auth/jwt/config", json!({"jwt_validation_pubkeys": [key.public_key_pem()]})).await;
    let workload = json!({
        "role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub", "token_policies": ["reader"], "token_ttl": "1h",
    });
    bao.write("auth/jwt/role/workload", workload).await;
    let jwt = |audience: &str| {
        let claims = json!({"sub": "w", "aud": audience, "exp": 4_102_444_800_u64, "iat": 1_700_000_000});
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        let key = jsonwebtoken::EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let made = json!({"policies": ["reader"], "ttl": "1h"});
    let token = bao.write("auth/token/create", made).await["auth"]["client_token"].as_str().unwrap().to_owned();
    for (auth, secrets, refusal) in [
        (APPROLE, [("ROLE_ID", role.as_str()), ("SECRET_ID", secret.as_str())], None),
        (APPROLE, [("ROLE_ID", &role), ("SECRET_ID", "c4nary-wrong")], Some("invalid role or secret ID")),
        ("{ kubernetes: { role: pod, token: { file: FOLDER/pod } } }", [("POD", POD), ("X", "x")], None),
        ("{ kubernetes: { role: pod, token: { file: FOLDER/pod } } }", [("POD", OTHER_POD), ("X", "x")], Some("403")),
        ("{ jwt: { role: workload, jwt: { env: JWT } } }", [("JWT", &jwt("vault")), ("X", "x")], None),
        ("{ jwt: { role: workload, jwt: { env: JWT } } }", [("JWT", &jwt("other")), ("X", "x")], Some("audience")),
        ("{ token: { env: T } }", [("T", &token), ("X", "x")], None),
        ("{ token: { env: T }, renew: true }", [("T", &token), ("X", "x")], None),
        ("{ token: { env: T } }", [("T", "c4nary-wrong"), ("X", "x")], Some("permission denied")),
    ] {
        let mut setting = Setting::new(&vault(&bao, auth, "")).await.key("api", "{ store: bao, name: secret/api }");
        for (name, value) in secrets {
            setting = setting.variable(name, value);
        }
        let pod = secrets[0].1.to_owned();
        let variables: Vec<(&str, &str)> = secrets.to_vec();
        let proxy = Proxy::start_with(&setting.text(), &variables, |folder| {
            std::fs::write(folder.join("origin.pem"), setting.root.pem()).unwrap();
            std::fs::write(folder.join("pod"), pod).unwrap();
        });
        let got = setting.got(&proxy, "api").await;
        match refusal {
            None => assert_eq!(got.as_deref(), Ok("v"), "{auth}"),
            Some(words) => {
                let (code, detail) = got.unwrap_err();
                assert_eq!(code, "secret_unavailable", "{auth}");
                assert!(detail.contains(words), "{auth}: {detail}");
                let said = unusable(&proxy).await;
                assert!(
                    said.iter().any(|one| one.starts_with("secret_store:bao: ") || one.starts_with("api: ")),
                    "{said:?}"
                );
            }
        }
        let log = proxy.stop();
        for (_, value) in secrets.iter().filter(|(name, _)| *name != "X" && *name != "ROLE_ID") {
            assert!(!log.contains(*value), "{auth}: {log}");
        }
    }
}

/// A token of a pod, of which only its form is looked at before the cluster is asked.
const POD: &str = concat!(
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YXBwczpjb3VudGVyc2lnbiIsImt1YmVybmV0ZXM",
    "uaW8iOnsibmFtZXNwYWNlIjoiYXBwcyIsInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJjb3VudGVyc2lnbiIsInVpZCI6InUtMSJ",
    "9fSwiaWF0IjoxNzAwMDAwMDAwLCJuYmYiOjE3MDAwMDAwMDAsImV4cCI6NDEwMjQ0NDgwMH0.c2lnbmF0dXJl",
);
const OTHER_POD: &str = concat!(
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YXBwczpjb3VudGVyc2lnbiIsImt1YmVybmV0ZXM",
    "uaW8iOnsibmFtZXNwYWNlIjoiYXBwcyIsInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJjb3VudGVyc2lnbiIsInVpZCI6InUtMSJ",
    "9fSwiaWF0IjoxNzAwMDAwMDAwLCJuYmYiOjE3MDAwMDAwMDAsImV4cCI6NDEwMjQ0NDgwMH0.bm9ib2R5",
);

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_vault_is_an_outage_with_the_last_value_for_the_grace_and_a_refusal_after_it() {
    let Some(bao) = Bao::start("vault seal").await else { return };
    bao.put("api", json!({"k": "one"})).await;
    let (role, secret) = bao.approle().await;
    let setting = Setting::new(&vault(&bao, APPROLE, ", refresh: 1s, grace: 4s"))
        .await
        .key("api", "{ store: bao, name: secret/api }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    let proxy = setting.start();
    assert_eq!(setting.got(&proxy, "api").await.as_deref(), Ok("one"));
    bao.seal().await;
    let began = Instant::now();
    let (code, detail) = setting.until_refused(&proxy, "api").await;
    let lasted = began.elapsed();
    assert_eq!(code, "secret_unavailable");
    assert!(detail.contains("Vault is sealed") && detail.contains("it was read last at 20"), "{detail}");
    assert!((3.0..6.5).contains(&lasted.as_secs_f64()), "{lasted:?}");
    assert!(unusable(&proxy).await.iter().any(|one| one.contains("Vault is sealed")));
    // One that starts now starts, and takes up its credential when it can.
    let other = setting.start();
    assert!(setting.got(&other, "api").await.is_err());
    bao.unseal().await;
    bao.put("api", json!({"k": "two"})).await;
    setting.until(&proxy, "api", "two").await;
    setting.until(&other, "api", "two").await;
    assert_eq!(unusable(&proxy).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_user_is_leased_with_its_password_renewed_replaced_in_time_and_given_back() {
    let Some(bao) = Bao::start("vault leases").await else { return };
    let Some(postgres) = Postgres::start("vault leases") else { return };
    bao.write("sys/mounts/database", json!({"type": "database"})).await;
    let url = postgres.url().replace("countersign@", "{{username}}:{{password}}@") + "?sslmode=disable";
    let connection = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": url,
        "username": "countersign", "password": PASSWORD,
    });
    bao.write("database/config/pg", connection).await;
    let role = json!({
        "db_name": "pg", "default_ttl": "3s", "max_ttl": "8s",
        "creation_statements": ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"],
    });
    let mut long = role.clone();
    (long["default_ttl"], long["max_ttl"]) = (json!("1h"), json!("2h"));
    bao.write("database/roles/app", role).await;
    bao.write("database/roles/long", long).await;
    let (role, secret) = bao.approle().await;
    let setting = Setting::new(&vault(&bao, APPROLE, ""))
        .await
        .more(
            "  - { id: db, scheme: basic, username: { store: bao, name: database/creds/app, field: username }, password: \
             { store: bao, name: database/creds/app, field: password }, hosts: [api.test] }\n",
        )
        .key("long", "{ store: bao, name: database/creds/long, field: password }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    let mut setting = setting;
    setting.bindings.push_str("  - { credential: db, hosts: [api.test], allow_cleartext: true }\n");
    let proxy = setting.start();
    let mut users: Vec<String> = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(14) {
        let answer = proxy.client().get("http://api.test/").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = setting.api.seen().pop().unwrap();
        let basic = seen.header("authorization").unwrap().strip_prefix("Basic ").unwrap().to_owned();
        use base64::Engine;
        let pair = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(basic).unwrap()).unwrap();
        let (user, password) = pair.split_once(':').unwrap();
        assert!(postgres.admits(user, password), "{user} was handed out and is not let in after {:?}", began.elapsed());
        if users.last().is_none_or(|last| last != user) {
            users.push(user.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Of three seconds each it would be five; renewed, each lives for most of its eight.
    assert!((2..=3).contains(&users.len()), "{users:?}");
    measured(&format!(
        "leases of 3 s, at most 8 s, over 14 s: {} database users, each let in at every use",
        users.len()
    ));
    let log = proxy.stop();
    assert!(users.iter().all(|user| !log.contains(user.as_str())), "{log}");
    // The user that would live for an hour as well: Vault takes it back in the background.
    let left = || postgres.query("countersign", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'");
    let began = Instant::now();
    while left().trim() != "0" {
        assert!(began.elapsed() < DEADLINE, "what is left is given back when the process ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A Key Vault and Entra's token endpoint.
struct KeyVault {
    program: Program,
    certificate: tempfile::TempDir,
}

const VAULTS: [&str; 3] = ["one.vault.azure.net", "two.vault.azure.net", "login.microsoftonline.com"];

impl KeyVault {
    fn start(kit: &Path, root: &Root) -> Self {
        let certificate = tempfile::tempdir().unwrap();
        let (leaf, key) = root.leaf(&[VAULTS[0], VAULTS[1], VAULTS[2], "localhost"]);
        let place = |name: &str| certificate.path().join(name);
        std::fs::write(place("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(place("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(place("ca.pem"), root.pem()).unwrap();
        let files = [place("cert.pem"), place("key.pem")];
        let program = Program::start(&kit.join("venv/bin/python"), "key_vault.py", &[&files[0], &files[1]], &[]);
        Self { program, certificate }
    }

    /// Changes its state and gives what there is.
    async fn admin(&self, change: Value) -> Value {
        called("PUT", &format!("http://127.0.0.1:{}/", self.program.port("admin")), &[], Some(change)).await.1
    }

    /// A secret with these values, the oldest first.
    async fn put(&self, name: &str, values: &[&str], attributes: Value) {
        let version = |(index, value): (usize, &&str)| json!({"version": (index + 1).to_string().repeat(32), "value": value, "attributes": attributes});
        let versions: Vec<Value> = values.iter().enumerate().map(version).collect();
        self.admin(json!({"secrets": {name: versions}})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_own_client_finds_the_key_vault_of_these_tests_true_to_its_wire_format() {
    let Some(kit) = kit("key vault client") else { return };
    let python = kit.join("cloud/bin/python");
    if !python.exists() {
        return skip("key vault client", "the venv `cloud` is not installed; run tests/run").unwrap_or_default();
    }
    let vault = KeyVault::start(&kit, &Root::new());
    vault.put("db", &["first", "second"], json!({})).await;
    vault.put("off", &["x"], json!({"enabled": false})).await;
    vault.put("ends", &["x"], json!({"exp": 4_102_444_800_u64})).await;
    let script = folder().join("key_vault_client.py");
    let (port, ca) = (vault.program.port("port").to_string(), vault.certificate.path().join("ca.pem"));
    let arguments = [script.to_str().unwrap(), &port, ca.to_str().unwrap()];
    let found = tokio::task::block_in_place(|| run_client(&python, &arguments, &Default::default())).unwrap();
    assert_eq!(found["current"], json!(["second", "db", "2".repeat(32), true]));
    assert_eq!((&found["first"], &found["old"]), (&json!("first"), &json!("second")));
    assert_eq!(found["listed"], json!(["1".repeat(32), "2".repeat(32)]));
    assert_eq!((&found["scopes"], &found["tenant"]), (&json!(["https://vault.azure.net/.default"]), &json!("t")));
    assert_eq!(found["missing"], json!(["ResourceNotFoundError", 404, "SecretNotFound", "False"]));
    assert_eq!(found["disabled"], json!(["HttpResponseError", 403, "Forbidden", "True"]));
    assert_eq!(found["expires"], json!(4_102_444_800.0));
}

const AZURE: &str = "  - { name: one, kind: azure_key_vault, vault_url: \"https://one.vault.azure.net\", tenant_id: t, \
                     client_id: app, client_secret: { env: APP_SECRET }, grant_type: client_credentials, api_version: \
                     \"2016-10-01\", resource: \"https://vault.azure.net/\", allow_addresses: [127.0.0.1], refresh: 1s, grace: 4s }\n  \
                     - { name: two, kind: azure_key_vault, vault_url: \"https://two.vault.azure.net/\", credential: entra, \
                     allow_addresses: [127.0.0.1], refresh: 1s, grace: 4s }\n";

async fn azure(vault: impl FnOnce(&Root) -> KeyVault) -> (Setting, KeyVault) {
    let mut setting = Setting::new(AZURE)
        .await
        .more(
            "  - { id: entra, scheme: azure, tenant: t, client_id: app, client_secret: { env: APP_SECRET }, audience: key_vault, \
             hosts: [two.vault.azure.net], allow_addresses: [127.0.0.1] }\n",
        )
        .key("current", "{ store: one, name: db }")
        .key("first", "{ store: one, name: db/11111111111111111111111111111111 }")
        .key("member", "{ store: two, name: document, field: password }")
        .variable("APP_SECRET", "app-secret");
    let vault = vault(&setting.root);
    for name in VAULTS {
        setting = setting.resolve(&format!("{name}:443"), vault.program.port("port"));
    }
    vault.put("db", &["c4nary-first", "c4nary-second"], json!({})).await;
    vault.put("document", &["{\"user\":\"u\",\"password\":\"c4nary-member\"}"], json!({})).await;
    (setting, vault)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rest_in_several_key_vaults_and_a_rotation_there_is_used_within_the_refresh_time() {
    let Some(kit) = kit("key vault keys") else { return };
    let (setting, vault) = azure(|root| KeyVault::start(&kit, root)).await;
    let proxy = setting.start();
    for (id, key) in [("current", "c4nary-second"), ("first", "c4nary-first"), ("member", "c4nary-member")] {
        assert_eq!(setting.got(&proxy, id).await.as_deref(), Ok(key), "{id}");
    }
    let state = vault.admin(json!({})).await;
    // One token for each vault, however many secrets; the resource as it is written.
    let asked: Vec<&Value> = state["tokens"].as_array().unwrap().iter().collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().any(|one| one["resource"] == "https://vault.azure.net/"), "{asked:?}");
    let reads = state["reads"].as_array().unwrap();
    assert!(reads.iter().all(|read| read["token"] == true && read["status"] == 200), "{reads:?}");
    assert!(reads.iter().any(|read| read["path"] == "/secrets/db/?api-version=2016-10-01"), "{reads:?}");
    vault.put("db", &["c4nary-first", "c4nary-second", "c4nary-third"], json!({})).await;
    let took = setting.until(&proxy, "current", "c4nary-third").await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    measured(&format!("a rotation in Key Vault with a refresh time of 1 s was used after {:.1} s", took.as_secs_f64()));
    // A token that the vault does not take any more is replaced.
    vault.admin(json!({"revoke": true})).await;
    vault.put("db", &["c4nary-first", "c4nary-second", "c4nary-third", "c4nary-fourth"], json!({})).await;
    setting.until(&proxy, "current", "c4nary-fourth").await;
    let log = proxy.stop();
    assert!(!log.contains("c4nary") && !log.contains("app-secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_vault_that_throttles_is_left_alone_and_one_that_is_down_past_its_grace_fails_closed() {
    let Some(kit) = kit("key vault outage") else { return };
    let (setting, vault) = azure(|root| KeyVault::start(&kit, root)).await;
    let proxy = setting.start();
    assert_eq!(setting.got(&proxy, "current").await.as_deref(), Ok("c4nary-second"));
    vault.admin(json!({"throttle": 2})).await;
    vault.put("db", &["c4nary-first", "c4nary-rotated"], json!({})).await;
    setting.until(&proxy, "current", "c4nary-rotated").await;
    let state = vault.admin(json!({})).await;
    let throttled: Vec<f64> = state["reads"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|read| read["status"] == 429)
        .map(|read| read["at"].as_f64().unwrap())
        .collect();
    assert_eq!(throttled.len(), 2);
    vault.admin(json!({"down": true})).await;
    let (code, detail) = setting.until_refused(&proxy, "current").await;
    assert_eq!(code, "secret_unavailable");
    assert!(
        detail.contains("it answers 503 ServiceUnavailable") && detail.contains("it was read last at 20"),
        "{detail}"
    );
    let answered: usize = setting.api.seen().len();
    assert!(setting.got(&proxy, "current").await.is_err());
    assert_eq!(setting.api.seen().len(), answered, "the API is not even asked");
    let said = unusable(&proxy).await;
    assert!(said.iter().any(|one| one.starts_with("secret_store:one: it answers 503")), "{said:?}");
    vault.admin(json!({"down": false})).await;
    setting.until(&proxy, "current", "c4nary-rotated").await;
    let log = proxy.stop();
    assert!(!log.contains("c4nary") && !log.contains("app-secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_vault_that_asks_for_a_token_of_somebody_elses_gets_none() {
    let Some(kit) = kit("key vault challenge") else { return };
    let (setting, vault) = azure(|root| KeyVault::start(&kit, root)).await;
    vault.admin(json!({"resource": "https://management.azure.com"})).await;
    let proxy = setting.start();
    let (code, detail) = setting.got(&proxy, "current").await.unwrap_err();
    assert_eq!(code, "secret_unavailable");
    assert!(
        detail.contains("it asks for a token for https://management.azure.com, which is not the domain"),
        "{detail}"
    );
    let asked = vault.admin(json!({})).await["tokens"].as_array().unwrap().clone();
    assert!(asked.iter().all(|one| one["resource"] != "https://management.azure.com"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rest_in_secrets_manager_by_name_stage_and_field_and_a_rotation_there_is_used() {
    let Some(kit) = kit("secrets manager") else { return };
    let moto = aws::Server::start(&kit, "moto_server.py", &[]);
    let script = folder().join("secrets_manager.py");
    let write = |action: &str, document: Value| {
        let (endpoint, document) = (moto.admin(), document.to_string());
        let arguments = [
            script.to_str().unwrap(),
            &endpoint,
            moto.fact("access_key"),
            moto.fact("secret_key"),
            "eu-central-1",
            action,
            &document,
        ];
        run_client(&kit.join("venv/bin/python"), &arguments, &Default::default()).unwrap()
    };
    let first = write("create", json!({"Name": "prod/api", "SecretString": "{\"key\":\"c4nary-first\",\"n\":1}"}));
    write("put", json!({"SecretId": "prod/api", "SecretString": "{\"key\":\"c4nary-second\",\"n\":1}"}));
    write("create", json!({"Name": "bytes", "bytes": "YzRuYXJ5LWJ5dGVz"}));
    let store = |name: &str, how: &str| {
        format!(
            "  - {{ name: {name}, kind: aws_secrets_manager, region: eu-central-1, endpoint: \"{}\", allow_cleartext: true, \
             allow_addresses: [127.0.0.1], refresh: 1s, {how} }}\n",
            moto.admin()
        )
    };
    let keys = |key: &str, secret: &str| format!("access_key: {{ env: {key} }}, secret_key: {{ env: {secret} }}");
    let role = format!(
        "{}, role_arn: \"{}\", sts_endpoint: \"{}\"",
        keys("KEY", "SECRET"),
        moto.fact("role_arn"),
        moto.admin()
    );
    let stores = store("user", &keys("KEY", "SECRET"))
        + &store("role", &role)
        + &store("denied", &keys("DENIED", "DENIED_SECRET"));
    let version = first["VersionId"].as_str().unwrap();
    let setting = Setting::new(&stores)
        .await
        .key("current", "{ store: user, name: prod/api, field: key }")
        .key("previous", "{ store: user, name: prod/api, version: AWSPREVIOUS, field: key }")
        .key("version", &format!("{{ store: role, name: prod/api, version: \"{version}\", field: key }}"))
        .key("bytes", "{ store: role, name: bytes }")
        .key("gone", "{ store: user, name: none }")
        .key("denied", "{ store: denied, name: prod/api, field: key }")
        .variable("KEY", moto.fact("access_key"))
        .variable("SECRET", moto.fact("secret_key"))
        .variable("DENIED", moto.fact("denied_access_key"))
        .variable("DENIED_SECRET", moto.fact("denied_secret_key"));
    let proxy = setting.start();
    for (id, key) in [
        ("current", "c4nary-second"),
        ("previous", "c4nary-first"),
        ("version", "c4nary-first"),
        ("bytes", "c4nary-bytes"),
    ] {
        assert_eq!(setting.got(&proxy, id).await.as_deref(), Ok(key), "{id}");
    }
    for (id, words) in [("gone", "there is no such secret"), ("denied", "it needs secretsmanager:GetSecretValue")] {
        let (code, detail) = setting.got(&proxy, id).await.unwrap_err();
        assert_eq!(code, "secret_unavailable");
        assert!(detail.contains(words), "{detail}");
    }
    write("put", json!({"SecretId": "prod/api", "SecretString": "{\"key\":\"c4nary-third\"}"}));
    let took = setting.until(&proxy, "current", "c4nary-third").await;
    assert!(took < Duration::from_millis(1800), "{took:?}");
    measured(&format!(
        "a rotation in Secrets Manager with a refresh time of 1 s was used after {:.1} s",
        took.as_secs_f64()
    ));
    setting.until(&proxy, "previous", "c4nary-second").await;
    let log = proxy.stop();
    assert!(!log.contains("c4nary") && !log.contains(moto.fact("secret_key")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_about_stores_is_told_where_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("countersign.yaml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output =
            countersign(&["check", "--config", path.to_str().unwrap()]).current_dir(folder.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let store = "secret_stores:\n  - name: v\n    kind: vault\n    address: https://v.test\n    auth:\n      token: { env: T }\n";
    let key = |reference: &str| {
        format!("credentials:\n  - id: a\n    scheme: api_key\n    hosts: [a.test]\n    key: {reference}\n{store}")
    };
    for (text, expected) in [
        (
            key("{ store: w, name: secret/x }"),
            "line 5: credentials[0].key.store: there is no store w; list it under `secret_stores`",
        ),
        (key("{ store: v, name: x }"), "line 5: credentials[0].key.name: write the engine before it"),
        (
            key("{ store: v, name: secret/x, version: new }"),
            "line 5: credentials[0].key.version: a version is a number",
        ),
        (
            store.replace("vault", "volt"),
            "line 3: secret_stores[0].kind: unknown kind of store; there are aws_secrets_manager",
        ),
        (
            store.replace("{ env: T }", "hunter2"),
            "line 6: secret_stores[0].auth.token: a secret does not stand in this file",
        ),
        (store.replace("https", "http"), "line 4: secret_stores[0].address: secrets would travel unencrypted"),
        (
            store.replace("{ env: T }", "{ store: v, name: secret/x }"),
            "line 2: secret_stores[0]: secret_store:v, which signs for v, needs a secret of v itself",
        ),
        (
            format!(
                "{store}  - name: v\n    kind: vault\n    address: https://v.test\n    auth: {{ token: {{ env: T }} }}\n"
            ),
            "line 7: secret_stores[1].name: v is listed twice",
        ),
        (
            store.replace("auth:\n      token: { env: T }", "credential: nobody"),
            "line 5: secret_stores[0].credential: there is no credential nobody",
        ),
        (
            format!("{}upstream: {{ proxy: {{ store: v, name: secret/x }} }}\n", key("{ env: K }")),
            "upstream.proxy: stores are read over the way out",
        ),
        (
            key("{ store: v, name: secret/x }")
                .replace("auth:\n      token: { env: T }", "credential: a")
                .replace("a.test", "v.test"),
            "secret_stores[0].credential: a, which signs for v, needs a secret of v itself",
        ),
        (
            key("{ env: K }").replace("auth:\n      token: { env: T }", "credential: a"),
            "secret_stores[0].credential: a is not for v.test; list it under its `hosts`",
        ),
    ] {
        let (code, said) = check(&text);
        assert_eq!(code, 78, "{said}");
        assert!(said.contains(expected) && !said.contains("hunter2"), "{expected}\n{said}");
    }
    // Which nobody can bind or name.
    let (code, said) = check(&format!("bindings: [{{ credential: \"secret_store:v\", hosts: [v.test] }}]\n{store}"));
    assert!(code == 78 && said.contains("there is no credential secret_store:v"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_token_rests_in_a_store_and_its_rotation_is_followed() {
    let Some(bao) = Bao::start("vault callers").await else { return };
    bao.put("api", json!({"k": "v"})).await;
    bao.put("caller", json!({"token": "c4nary-one"})).await;
    let (role, secret) = bao.approle().await;
    let mut setting = Setting::new(&vault(&bao, APPROLE, ", refresh: 1s"))
        .await
        .key("api", "{ store: bao, name: secret/api }")
        .variable("ROLE_ID", &role)
        .variable("SECRET_ID", &secret);
    setting.stores.push_str("callers: [{ name: runner, token: { store: bao, name: secret/caller } }]\n");
    let proxy = setting.start();
    let status = async |token: &str| {
        let client = proxy.client_as(&format!("runner:{token}@"));
        client.get("http://api.test/api").send().await.unwrap().status().as_u16()
    };
    assert_eq!((status("c4nary-one").await, status("c4nary-two").await), (200, 407));
    bao.put("caller", json!({"token": "c4nary-two"})).await;
    let began = Instant::now();
    while status("c4nary-two").await != 200 {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status("c4nary-one").await, 407);
    assert!(!proxy.stop().contains("c4nary"));
}
