//! Unmodified AWS clients with worthless keys, through Countersign, against servers that verify signatures.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::support::management::Manager;
use crate::support::{Proxy, Root, kit, measured};

/// A program of `tests/aws`, which ends with the test.
pub struct Server {
    child: Child,
    pub facts: Value,
}

impl Server {
    pub fn start(kit: &Path, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(kit.join("venv/bin/python"));
        command.arg(folder().join(program)).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{program} did not start"));
        Self { child, facts }
    }

    pub fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    /// Its address without TLS.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.facts["admin"])
    }

    /// What moto was asked.
    async fn requests(&self) -> Vec<Value> {
        crate::support::provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/requests", self.facts["admin"]);
        let answer = client.get(url).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws")
}

/// A corporate proxy that leads every name to one port of this machine.
pub async fn tunnel(port: u64) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = tokio::io::BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let Ok(mut upstream) = tokio::net::TcpStream::connect(("127.0.0.1", port as u16)).await else { return };
                if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                }
            });
        }
    });
    address
}

/// Servers with certificates for AWS's names, and what the proxy needs to reach them.
pub struct Scene {
    root: Root,
    folder: tempfile::TempDir,
}

impl Scene {
    pub fn new() -> Self {
        let scene = Self { root: Root::new(), folder: tempfile::tempdir().unwrap() };
        let names =
            ["*.amazonaws.com", "*.us-east-1.amazonaws.com", "*.s3.amazonaws.com", "*.s3.us-east-1.amazonaws.com"];
        let (certificate, key) = scene.root.leaf(&names);
        std::fs::write(scene.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(scene.path("key.pem"), key.serialize_pem()).unwrap();
        scene
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn moto(&self, kit: &Path, more: &[&str]) -> Server {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let arguments = [&["--cert", &*cert, "--key", &*key][..], more].concat();
        Server::start(kit, "moto_server.py", &arguments)
    }

    pub fn s3s(&self, kit: &Path) -> Server {
        let (cert, key, program) = (self.path("cert.pem"), self.path("key.pem"), kit.join("s3s/bin/s3s-fs"));
        let program = program.to_str().unwrap();
        let domains = ["--domain", "s3.amazonaws.com", "--domain", "s3.us-east-1.amazonaws.com"];
        Server::start(kit, "s3_server.py", &[&[program, "--cert", &*cert, "--key", &*key][..], &domains].concat())
    }

    /// A proxy with this one credential for every service.
    pub async fn proxy(&self, server: &Server, credential: &str, variables: &[(&str, &str)]) -> Proxy {
        let tunnel = tunnel(server.facts["port"].as_u64().unwrap()).await;
        let config = format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nlog: {{ level: debug }}\ntokens: {{ directory: FOLDER/tokens }}\n\
             ca: {{ directory: FOLDER/ca, bundle: FOLDER/ca-bundle.pem }}\n\
             upstream: {{ ca_file: FOLDER/origin.pem, proxy: \"http://{tunnel}\" }}\n\
             credentials:\n  - id: aws\n{credential}\nbindings:\n  - {{ credential: aws, hosts: [\"*.amazonaws.com\"] }}\n"
        );
        let root = self.root.pem();
        Proxy::start_with(&config, variables, |folder| std::fs::write(folder.join("origin.pem"), root).unwrap())
    }
}

/// A proxy with a store beside that credential, for runs of policies.
async fn leasing(scene: &Scene, server: &Server, variables: &[(&str, &str)]) -> Proxy {
    let tunnel = tunnel(server.facts["port"].as_u64().unwrap()).await;
    let config = format!(
        "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nadmin: {{ address: 127.0.0.1:0 }}\n\
         ca: {{ directory: FOLDER/ca, bundle: FOLDER/ca-bundle.pem }}\n\
         upstream: {{ ca_file: FOLDER/origin.pem, proxy: \"http://{tunnel}\" }}\ncredentials:\n  - id: aws\n{KEYS}"
    );
    let root = scene.root.pem();
    Proxy::start_with(&config, variables, |folder| std::fs::write(folder.join("origin.pem"), root).unwrap())
}

/// Applies a declaration for AWS and begins a run of it: its id, and what stands before the `@` of the proxy's address.
async fn lease(manager: &Manager, uses: Value) -> (String, String) {
    let template = json!([{ "name": "auth_aws", "schemes": ["aws", "aws_sts"], "label": "AWS", "uses": uses }]);
    let body = json!({ "template": template, "credentials": { "auth_aws": "aws" } });
    let applied = manager.done("POST", "/v1/accounts/default/applied-policies", Some(body)).await;
    let path = format!("/v1/accounts/default/applied-policies/{}/runs", applied["id"].as_str().unwrap());
    let run = manager.done("POST", &path, None).await;
    let word = |name: &str| run[name].as_str().unwrap().to_owned();
    (word("id"), format!("{}:{}@", word("caller"), word("token")))
}

/// Runs Cloud Custodian; whether it ran through, and what it printed.
fn custodian(kit: &Path, proxy: &Proxy, user: &str, policies: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kit.join("venv/bin/python"));
    command.arg(folder().join("custodian.py")).arg(kit.join("venv/bin/custodian")).args(policies).env_clear();
    command.envs(environment(proxy)).env("HTTPS_PROXY", format!("http://{user}{}", proxy.forward()));
    command.env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_custodian_runs_under_a_lease_on_the_hosts_that_are_declared_and_on_nothing_after_it() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let moto = scene.moto(&kit, &[]);
    let keys = [("KEY", moto.fact("access_key")), ("SECRET", moto.fact("secret_key"))];
    let proxy = leasing(&scene, &moto, &keys).await;
    let manager = Manager::of(&proxy);
    // A declaration that tells no uses: the credential's own hosts, and what the run did says what would have sufficed.
    let (wide, user) = lease(&manager, json!([])).await;
    let (done, out) = custodian(&kit, &proxy, &user, &["buckets", "queues", "users"]);
    assert!(done, "{out}");
    let report = manager.done("GET", &format!("/v1/accounts/default/runs/{wide}"), None).await;
    assert_eq!(report["refused"], json!([]), "{report}");
    let mut uses = Vec::new();
    for binding in report["sufficient"].as_array().unwrap() {
        for host in binding["hosts"].as_array().unwrap() {
            for method in binding["methods"].as_array().unwrap() {
                uses.push(json!({ "host": host, "method": method, "path": "/" }));
            }
        }
    }
    assert!(uses.len() >= 3, "{report}");
    // Just that suffices.
    let (narrow, user) = lease(&manager, json!(uses)).await;
    let (done, out) = custodian(&kit, &proxy, &user, &["buckets", "queues", "users"]);
    assert!(done, "{out}");
    let report = manager.done("GET", &format!("/v1/accounts/default/runs/{narrow}"), None).await;
    assert_eq!(report["refused"], json!([]), "{report}");
    // Another host was not declared, and is refused before anything goes out.
    let (done, _) = custodian(&kit, &proxy, &user, &["volumes"]);
    assert!(!done);
    let report = manager.done("GET", &format!("/v1/accounts/default/runs/{narrow}"), None).await;
    let refused = report["refused"].to_string();
    assert!(refused.contains("ec2.us-east-1.amazonaws.com") && refused.contains("unbound"), "{report}");
    assert!(!moto.requests().await.iter().any(|one| one.to_string().contains("ec2.us-east-1")), "nothing went out");
    // The lease ends, and with it everything.
    manager.done("DELETE", &format!("/v1/accounts/default/runs/{narrow}"), None).await;
    let before = moto.requests().await.len();
    assert!(!custodian(&kit, &proxy, &user, &["users"]).0);
    assert_eq!(moto.requests().await.len(), before);
    measured(&format!("Cloud Custodian ran under a lease on {} hosts and methods", uses.len()));
}

pub const KEYS: &str = "    scheme: aws\n    access_key: { env: KEY }\n    secret_key: { env: SECRET }\n";

/// What an ordinary AWS program finds in its environment.
fn environment(proxy: &Proxy) -> HashMap<String, String> {
    HashMap::from([
        ("HTTPS_PROXY".to_owned(), format!("http://{}", proxy.forward())),
        ("AWS_CA_BUNDLE".to_owned(), proxy.bundle().to_str().unwrap().to_owned()),
        ("REQUESTS_CA_BUNDLE".to_owned(), proxy.bundle().to_str().unwrap().to_owned()),
        ("AWS_ACCESS_KEY_ID".to_owned(), "AKIAWORTHLESS0000000".to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), "worthless".to_owned()),
        ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
        ("AWS_DEFAULT_REGION".to_owned(), "us-east-1".to_owned()),
    ])
}

/// Runs a client program and returns its operations; panics when one went against the plan.
fn operations(kit: &Path, program: &str, arguments: &[&str], proxy: &Proxy) -> Vec<Value> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kit.join("venv/bin/python"));
    command.arg(folder().join(program)).args(arguments).env_clear().envs(environment(proxy)).env("HOME", home.path());
    command.env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}\n{stdout}\n{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// How many were done, as they were planned.
fn done(operations: &[Value]) -> usize {
    operations.iter().filter(|operation| operation.get("skipped").is_none()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_and_the_command_line_use_every_kind_of_api_with_worthless_keys() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let moto = scene.moto(&kit, &[]);
    let keys = [("KEY", moto.fact("access_key")), ("SECRET", moto.fact("secret_key"))];
    let proxy = scene.proxy(&moto, KEYS, &keys).await;
    let aws = kit.join("venv/bin/aws");
    let aws = aws.to_str().unwrap();
    let apis = done(&operations(&kit, "api_client.py", &[], &proxy));
    let s3 = done(&operations(&kit, "s3_client.py", &[], &proxy));
    let cli = done(&operations(&kit, "cli.py", &[aws, "--presigned"], &proxy));
    assert!(apis >= 14 && s3 >= 83 && cli >= 12, "{apis} {s3} {cli}");
    measured(&format!("moto: {apis} API, {s3} S3 and {cli} command line operations with worthless keys"));
    for request in moto.requests().await {
        assert_eq!(request["access_key"], keys[0].1, "{request}");
        assert_ne!(request["body_matches"], false, "{request}");
        for name in request["signed_headers"][0].as_str().unwrap().split(';') {
            let ours = ["host", "content-type"].contains(&name) || name.starts_with("x-amz-");
            assert!(ours, "{name} is signed: {request}");
        }
    }
    let log = proxy.stop();
    for secret in [keys[1].1, "AKIAWORTHLESS"] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
    // The negative twin: whoever the proxy is, the server refuses it.
    let proxy = scene.proxy(&moto, KEYS, &[keys[0], ("SECRET", "another/secret/that/is/not/the/users/own")]).await;
    operations(&kit, "api_client.py", &["--expect-refused"], &proxy);
    operations(&kit, "s3_client.py", &["--expect-refused"], &proxy);
    operations(&kit, "cli.py", &[aws, "--presigned", "--expect-refused"], &proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_uses_an_s3_that_verifies_by_itself_in_both_styles_of_address() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let s3s = scene.s3s(&kit);
    let keys = [("KEY", s3s.fact("access_key")), ("SECRET", s3s.fact("secret_key"))];
    let proxy = scene.proxy(&s3s, KEYS, &keys).await;
    let signed = format!("{KEYS}    payload: signed\n");
    let hashing = scene.proxy(&s3s, &signed, &keys).await;
    let mut count = 0;
    for proxy in [&proxy, &hashing] {
        for style in ["virtual", "path"] {
            let arguments = ["--addressing", style, "--server", "s3s-fs"];
            count += done(&operations(&kit, "s3_client.py", &arguments, proxy));
        }
    }
    assert!(count >= 4 * 82, "{count}");
    measured(&format!("s3s-fs: {count} S3 operations with worthless keys, bodies hashed and not"));
    let wrong = [keys[0], ("SECRET", "another-secret")];
    let proxy = scene.proxy(&s3s, KEYS, &wrong).await;
    operations(&kit, "s3_client.py", &["--server", "s3s-fs", "--expect-refused"], &proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_custodian_runs_its_policies_with_worthless_keys() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let moto = scene.moto(&kit, &[]);
    let keys = [("KEY", moto.fact("access_key")), ("SECRET", moto.fact("secret_key"))];
    let custodian = kit.join("venv/bin/custodian");
    let custodian = custodian.to_str().unwrap();
    let wrong = scene.proxy(&moto, KEYS, &[keys[0], ("SECRET", "another/secret/that/is/not/the/users/own")]).await;
    operations(&kit, "custodian.py", &[custodian, "--expect-refused"], &wrong);
    let proxy = scene.proxy(&moto, KEYS, &keys).await;
    let found = operations(&kit, "custodian.py", &[custodian], &proxy);
    let counts: HashMap<&str, u64> = found
        .iter()
        .map(|policy| (policy["operation"].as_str().unwrap(), policy["resources"].as_u64().unwrap()))
        .collect();
    let of = |name: &str| *counts.iter().find(|(operation, _)| operation.contains(name)).unwrap().1;
    assert_eq!((of("buckets"), of("queues"), of("users"), of("volumes")), (2, 1, 1, 4), "{counts:?}");
    // Its action, which changes things, was signed as well.
    let again = operations(&kit, "custodian.py", &[custodian, "volumes"], &proxy);
    assert_eq!(again[0]["resources"], 0, "{again:?}");
    measured(&format!("Cloud Custodian: {} policies with worthless keys", counts.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_roles_are_taken_by_a_server_that_verifies_them_and_refusals_say_what_to_change() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let moto = scene.moto(&kit, &["--session-seconds", "20"]);
    let keys = [("KEY", moto.fact("access_key")), ("SECRET", moto.fact("secret_key"))];
    let credential = |role: &str, more: &str| {
        format!(
            "    scheme: aws_sts\n    role_arn: {}\n    access_key: {{ env: KEY }}\n    secret_key: {{ env: SECRET }}\n{more}",
            moto.fact(role)
        )
    };
    let right = format!("    external_id: \"{}\"\n", moto.fact("external_id"));
    let chain = format!("    chain: [{{ role_arn: \"{}\" }}]\n", moto.fact("role_arn"));
    for (role, more) in [("role_arn", ""), ("external_role_arn", &*right)] {
        let proxy = scene.proxy(&moto, &credential(role, more), &keys).await;
        let found = operations(&kit, "api_client.py", &[], &proxy);
        let arn = found.iter().find(|one| one["operation"] == "sts:GetCallerIdentity").unwrap()["arn"].to_string();
        assert!(arn.contains(":assumed-role/") && arn.contains("/countersign"), "{arn}");
        assert!(done(&found) >= 14);
        let s3 = operations(&kit, "s3_client.py", &[], &proxy);
        assert!(done(&s3) >= 83);
    }
    let refused = [
        ("external_role_arn", "    external_id: somebody-elses\n", keys[1].1, "external id"),
        ("external_role_arn", "", keys[1].1, "external id"),
        ("untrusting_role_arn", "", keys[1].1, "trust policy"),
        ("untrusting_role_arn", &*chain, keys[1].1, "trust policy"),
        ("role_arn", "", "another/secret/that/is/not/the/users/own", "does not belong to the access key"),
    ];
    for (role, more, secret, words) in refused {
        let proxy = scene.proxy(&moto, &credential(role, more), &[keys[0], ("SECRET", secret)]).await;
        let url = "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15";
        let answer = proxy.client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 502);
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(problem["code"] == "credential_rejected" && detail.contains(words), "{problem}");
        assert_eq!(problem["message"], problem["detail"], "what AWS's own clients show");
        assert!(!detail.contains("somebody-elses") && !detail.contains(secret), "{detail}");
    }
}
