//! Secrets that rest in secret stores: OpenBao for real, Secrets Manager of moto, a Key Vault that Microsoft's client verified.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Config, DEADLINE, Origin, Proxy, Root, kit, measured, provider, skip, text};

/// A program of `tests/secret_stores`, which ends with the test.
struct Program {
    child: Child,
    facts: Value,
}

impl Program {
    fn start(python: &Path, program: &str, variables: &[(&str, &Path)]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/secret_stores").join(program);
        let mut command = Command::new(python);
        command.arg(&program).envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
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
        let bao = Self(Program::start(&kit.join("venv/bin/python"), "openbao.py", &[("TESTKIT_VAULT", &venv)]));
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
    stores: String,
    credentials: String,
    bindings: String,
    variables: Vec<(String, String)>,
}

impl Setting {
    async fn new(stores: &str) -> Self {
        let api = Origin::http().await;
        let (credentials, bindings) = (String::new(), String::new());
        Self { api, stores: stores.to_owned(), credentials, bindings, variables: Vec::new() }
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

    fn text(&self) -> String {
        Config::new()
            .resolve("api.test:80", self.api.address)
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
        let root = Root::new();
        Proxy::start_with(&self.text(), &variables, |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
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
