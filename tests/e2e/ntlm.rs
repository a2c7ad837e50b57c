//! NTLM against servers that judge it: pyspnego, connection by connection as IIS does, and Apache with gss-ntlmssp.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use countersign::base::{Challenge, Deps, Destination, Mutations, RequestView, Secret, SecretRef};
use countersign::scheme::{Identity, Setup, find};
use http::Method;
use http::header::{HeaderMap, WWW_AUTHENTICATE};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::aws_signing::outside;
use crate::support::{
    Apache, Config, DEADLINE, Origin, Proxy, Root, kit, measured, provider, read_answer, skip, text, tool,
};

const PASSWORD: &str = "Passw0rd!-of-anna";
const OTHER: &str = "Geheim-2-of-bert";
const USERS: &str =
    "INTRANET:anna:Passw0rd!-of-anna\nINTRANET:bert:Geheim-2-of-bert\n:anna@intranet.test:Passw0rd!-of-anna\n";
const HOST: &str = "intranet.test";

/// Each credential and what it says of its user.
const CREDENTIALS: &[(&str, &str)] = &[
    ("anna", r"username: INTRANET\anna, password: { env: PASSWORD }"),
    ("bert", r"username: INTRANET\bert, password: { env: OTHER }"),
    ("principal", "username: anna@intranet.test, password: { env: PASSWORD }"),
    ("apart", "username: ANNA, domain: INTRANET, workstation: RUNNER7, password: { env: PASSWORD }"),
    ("wrong-password", r"username: INTRANET\anna, password: { env: OTHER }"),
    ("wrong-user", r"username: INTRANET\carl, password: { env: PASSWORD }"),
    ("wrong-domain", r"username: ELSEWHERE\anna, password: { env: PASSWORD }"),
    ("no-domain", "username: anna, password: { env: PASSWORD }"),
];

/// The kit, if its second venv is there.
fn python(test: &str) -> Option<PathBuf> {
    let python = kit(test)?.join("cloud/bin/python");
    if python.exists() { Some(python) } else { skip(test, "the test kit has no venv `cloud`; run tests/run") }
}

/// A folder with the users' passwords, a certificate for the host and another one.
struct Scene {
    root: Root,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { root: Root::new(), folder: tempfile::tempdir().unwrap() };
        for name in ["server", "other"] {
            let (certificate, key) = scene.root.leaf(&[HOST, "127.0.0.1"]);
            std::fs::write(scene.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(scene.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        std::fs::write(scene.path("root.pem"), scene.root.pem()).unwrap();
        std::fs::write(scene.path("users"), USERS).unwrap();
        scene
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn tls(&self, python: &Path) -> Server {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        Server::start(python, &[&self.path("users"), "--cert", &cert, "--key", &key])
    }

    /// One that requires the proof to be bound to a certificate.
    fn protected(&self, python: &Path, certificate: &str) -> Server {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        let binding = self.path(certificate);
        Server::start(python, &[&self.path("users"), "--cert", &cert, "--key", &key, "--binding", &binding])
    }

    fn proxy(&self, tls: SocketAddr, cleartext: SocketAddr) -> Proxy {
        let mut credentials = String::new();
        let mut bindings = String::new();
        for (id, user) in CREDENTIALS {
            credentials.push_str(&format!("  - {{ id: {id}, scheme: ntlm, hosts: [{HOST}], {user} }}\n"));
            bindings.push_str(&format!(
                "  - {{ credential: {id}, hosts: [{HOST}], only_named: true, allow_cleartext: true }}\n"
            ));
        }
        let config = Config::new()
            .credentials(&credentials)
            .bindings(&bindings)
            .resolve(&format!("{HOST}:443"), tls)
            .resolve(&format!("{HOST}:80"), cleartext)
            .rest(
                "log: { level: trace }\ncallers:\n  - { name: one, token: { env: ONE } }\n  - { name: two, token: { env: TWO } }\n",
            );
        let variables = [("PASSWORD", PASSWORD), ("OTHER", OTHER), ("ONE", "t0ken-1"), ("TWO", "t0ken-2")];
        Proxy::start_with(&config.text(), &variables, |folder| {
            std::fs::write(folder.join("origin.pem"), self.root.pem()).unwrap();
        })
    }
}

/// A running `ntlm_server.py`, which ends with the test.
struct Server {
    child: Child,
    facts: Value,
}

impl Server {
    fn start(python: &Path, arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ntlm/ntlm_server.py");
        let mut command = Command::new(python);
        command.arg(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the server did not start: {arguments:?}"));
        Self { child, facts }
    }

    fn address(&self) -> SocketAddr {
        format!("127.0.0.1:{}", self.facts["port"]).parse().unwrap()
    }

    /// What it was sent since it was asked last, and how many connections there were at all.
    async fn seen(&self) -> (u64, Vec<Value>) {
        let all = self.ask(reqwest::Method::POST).await;
        (all["connections"].as_u64().unwrap(), all["requests"].as_array().unwrap().clone())
    }

    async fn ask(&self, method: reqwest::Method) -> Value {
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/", self.facts["admin"]);
        let answer = client.request(method, url).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer: its status, and its document.
async fn call(client: &reqwest::Client, credential: &str, url: &str) -> (u16, Value) {
    send(client.get(url), credential).await
}

async fn send(request: reqwest::RequestBuilder, credential: &str) -> (u16, Value) {
    let answer = request.header("countersign-credential", credential).send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
}

fn one(proxy: &Proxy) -> reqwest::Client {
    proxy.client_as("one:t0ken-1@")
}

fn legs(requests: &[Value]) -> Vec<&str> {
    requests.iter().map(|request| request["legs"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_take_clients_that_everybody_uses_and_refuse_the_same_ones_when_they_are_wrong() {
    let test = "ntlm clients";
    let Some(python) = python(test) else { return };
    let scene = Scene::new();
    let (open, protected) = (scene.tls(&python), scene.protected(&python, "server.pem"));
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ntlm/ntlm_client.py");
    let requests = |server: &Server, password: &str, more: &[&str]| {
        let url = format!("https://{}/", server.address());
        let mut command = Command::new(&python);
        command.arg(&client).args([&url, "INTRANET\\anna", password, "--ca", &scene.path("root.pem")]).args(more);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
        answer["status"].as_u64().unwrap()
    };
    assert_eq!(requests(&open, PASSWORD, &["--unbound"]), 200);
    assert_eq!(requests(&open, "wrong", &[]), 401);
    assert_eq!(requests(&protected, PASSWORD, &[]), 200);
    assert_eq!(requests(&protected, PASSWORD, &["--unbound"]), 401);
    let Some(curl) = tool(test, "curl") else { return };
    let curl = |server: &Server, password: &str| {
        let output = Command::new(&curl)
            .args(["-s", "--noproxy", "*", "--ntlm", "-u", &format!("INTRANET\\anna:{password}")])
            .args(["--cacert", &scene.path("root.pem"), "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(format!("https://{}/", server.address()))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // This curl binds to no channel.
    assert_eq!((curl(&open, PASSWORD), curl(&open, "wrong")), ("200".into(), "401".into()));
    assert_eq!(curl(&protected, PASSWORD), "401");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_every_form_are_let_in_and_wrong_ones_are_not() {
    let Some(python) = python("ntlm users") else { return };
    let scene = Scene::new();
    let server = scene.tls(&python);
    let proxy = scene.proxy(server.address(), server.address());
    let client = one(&proxy);
    for (credential, user) in [
        ("anna", r"INTRANET\anna"),
        ("bert", r"INTRANET\bert"),
        ("principal", "anna@intranet.test"),
        ("apart", r"INTRANET\ANNA"),
    ] {
        let (status, body) = call(&client, credential, &format!("https://{HOST}/{credential}")).await;
        assert_eq!((status, body["user"].as_str()), (200, Some(user)), "{credential}: {body}");
        // What it was told: the service, the channel, and that there is an integrity code, which it verified.
        assert_eq!(
            (&body["target"], &body["bound"], &body["mic"]),
            (&json!("HTTP/intranet.test"), &json!(true), &json!(true))
        );
    }
    server.seen().await;
    for credential in ["wrong-password", "wrong-user", "wrong-domain", "no-domain"] {
        let (status, body) = call(&client, credential, &format!("https://{HOST}/{credential}")).await;
        // The server's own answer: it was asked once, and nothing of ours is in it.
        assert_eq!((status, &body["user"], &body["code"]), (401, &Value::Null, &Value::Null), "{credential}: {body}");
        assert_eq!(legs(&server.seen().await.1), ["NTLM 1", "NTLM 3"], "{credential}");
    }
    let log = proxy.stop();
    for secret in [PASSWORD, OTHER, "TlRMTVNTUAADAAAA"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_is_good_for_one_certificate_alone() {
    let Some(python) = python("ntlm channel binding") else { return };
    let scene = Scene::new();
    let protected = scene.protected(&python, "server.pem");
    // As behind somebody who ends TLS with a certificate of his own and passes everything on.
    let betrayed = scene.protected(&python, "other.pem");
    let cleartext = Server::start(&python, &[&scene.path("users"), "--binding", &scene.path("server.pem")]);
    let proxy = scene.proxy(protected.address(), cleartext.address());
    let (status, body) = call(&one(&proxy), "anna", &format!("https://{HOST}/")).await;
    assert_eq!((status, &body["bound"]), (200, &json!(true)), "{body}");
    let (status, body) = call(&one(&proxy), "anna", &format!("http://{HOST}/")).await;
    assert_eq!((status, &body["user"]), (401, &Value::Null), "{body}");
    let proxy = scene.proxy(betrayed.address(), cleartext.address());
    let (status, body) = call(&one(&proxy), "anna", &format!("https://{HOST}/")).await;
    assert_eq!((status, &body["user"]), (401, &Value::Null), "{body}");
    // Without such a rule, cleartext is taken where the binding allows it.
    let plain = Server::start(&python, &[&scene.path("users")]);
    let proxy = scene.proxy(protected.address(), plain.address());
    let (status, body) = call(&one(&proxy), "anna", &format!("http://{HOST}/")).await;
    assert_eq!((status, &body["bound"]), (200, &json!(false)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_streams_behind_a_first_leg_that_has_none() {
    let Some(python) = python("ntlm streaming") else { return };
    let scene = Scene::new();
    let server = Server::start(&python, &[&scene.path("users")]);
    let proxy = scene.proxy(server.address(), server.address());
    let body: Vec<u8> = (0..10 * 1024 * 1024_u32).map(|number| (number % 251) as u8).collect();
    let facts = tokio::task::block_in_place(|| {
        let mut stream = TcpStream::connect(proxy.forward()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = body.len();
        let head = format!("POST http://{HOST}/upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n");
        let own = "Countersign-Credential: anna\r\nProxy-Authorization: Bearer t0ken-1\r\n\r\n";
        stream.write_all((head + own).as_bytes()).unwrap();
        let (first, second) = body.split_at(body.len() / 2);
        stream.write_all(first).unwrap();
        stream.flush().unwrap();
        // The other half exists nowhere yet.
        let handle = tokio::runtime::Handle::current();
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let all = handle.block_on(server.ask(reqwest::Method::GET));
            if all["arrived"]["/upload"].as_u64().is_some_and(|arrived| arrived > 4 * 1024 * 1024) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the first half never came: {all}");
        }
        stream.write_all(second).unwrap();
        stream.flush().unwrap();
        read_answer(&mut stream)
    });
    assert!(facts.starts_with("HTTP/1.1 200"), "{facts}");
    let facts: Value = serde_json::from_str(facts.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&facts["length"], &facts["sha256"]), (&json!(body.len()), &json!(digest)));
    let (connections, requests) = server.seen().await;
    assert_eq!((connections, legs(&requests)), (1, vec!["NTLM 1", "NTLM 3"]));
    assert_eq!((&requests[0]["length"], &requests[1]["length"]), (&json!(0), &json!(body.len())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_proven_once_and_kept_for_its_owner() {
    let Some(python) = python("ntlm keep-alive") else { return };
    let scene = Scene::new();
    let server = scene.tls(&python);
    let proxy = scene.proxy(server.address(), server.address());
    let client = one(&proxy);
    for number in 0..20 {
        let request = match number % 2 {
            0 => client.get(format!("https://{HOST}/{number}")),
            // Small enough to be sent over a connection that may have been closed meanwhile.
            _ => client.post(format!("https://{HOST}/{number}")).body("x".repeat(1000)),
        };
        let (status, body) = send(request, "anna").await;
        assert_eq!((status, &body["user"], &body["connection"]), (200, &json!(r"INTRANET\anna"), &json!(1)), "{body}");
    }
    let (connections, requests) = server.seen().await;
    assert_eq!((connections, requests.len()), (1, 21), "one more than was called: the first leg");
    assert!(requests[2..].iter().all(|request| request["authorization"] == false), "{requests:?}");
    // Another credential of the same caller, and another caller with the same credential.
    assert_eq!(call(&client, "bert", &format!("https://{HOST}/")).await.1["connection"], 2);
    assert_eq!(call(&proxy.client_as("two:t0ken-2@"), "anna", &format!("https://{HOST}/")).await.1["connection"], 3);
    assert_eq!(call(&client, "anna", &format!("https://{HOST}/")).await.1["connection"], 1);
    measured("NTLM: 20 requests of one caller over 1 connection, 1 handshake");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_of_two_credentials_are_never_mixed() {
    let Some(python) = python("ntlm parallel") else { return };
    let scene = Scene::new();
    let server = scene.tls(&python);
    let proxy = scene.proxy(server.address(), server.address());
    let mixed = mix(&proxy, "https").await;
    assert_eq!(mixed, 500);
    let (connections, requests) = server.seen().await;
    let mut owners: BTreeMap<u64, BTreeSet<(String, String)>> = BTreeMap::new();
    for request in requests.iter().filter(|request| request["status"] == 200) {
        let caller = request["target"].as_str().unwrap().split('=').nth(1).unwrap().to_owned();
        let user = request["user"].as_str().unwrap().to_owned();
        owners.entry(request["connection"].as_u64().unwrap()).or_default().insert((user, caller));
    }
    assert!(owners.values().all(|owners| owners.len() == 1), "{owners:#?}");
    assert!((4..=60).contains(&connections), "{connections}");
    measured(&format!(
        "NTLM: {mixed} requests of 50 parallel callers with 2 credentials, none mixed, {connections} connections"
    ));
}

/// Fifty at once: two callers, each with two credentials; whoever the server takes one for comes back. Says how many calls
/// there were.
async fn mix(proxy: &Proxy, protocol: &str) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (caller, token) = [("one", "t0ken-1"), ("two", "t0ken-2")][number % 2];
        let credential = ["anna", "bert"][number / 2 % 2];
        let client = proxy.client_as(&format!("{caller}:{token}@"));
        let url = format!("{protocol}://{HOST}/mixed?caller={caller}");
        tasks.spawn(async move {
            for _ in 0..10 {
                let (status, body) = call(&client, credential, &url).await;
                let user = format!("INTRANET\\{credential}");
                assert_eq!((status, body["user"].as_str()), (200, Some(&*user)), "{body}");
            }
            10
        });
    }
    tasks.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_play_by_the_rules_are_left_alone_after_a_few_words() {
    let Some(python) = python("ntlm servers") else { return };
    let scene = Scene::new();
    let server = scene.tls(&python);
    let proxy = scene.proxy(server.address(), server.address());
    let client = one(&proxy);
    for (path, words, most) in [
        ("loop", "asks again and again", 2),
        ("close", "does not keep the connection open", 1),
        ("basic", "asks for Basic and not for NTLM", 1),
        ("negotiate", "add the provider NTLM", 1),
        ("nothing", "does not say what it wants", 1),
        ("ntlmv1", "NTLMv1", 1),
        ("garbage", "cut short", 1),
    ] {
        for body in ["", "a body"] {
            let request = client.post(format!("https://{HOST}/{path}")).body(body);
            let (status, answer) = send(request, "anna").await;
            assert_eq!((status, answer["code"].as_str()), (502, Some("credential_rejected")), "{path}: {answer}");
            let detail = answer["detail"].as_str().unwrap();
            assert!(detail.contains(words) && detail.contains("credential anna at intranet.test"), "{path}: {detail}");
            let (_, requests) = server.seen().await;
            assert_eq!(requests.len(), most, "{path}: {requests:?}");
            assert!(requests.iter().all(|request| most == 2 || request["length"] == 0), "{path}: {requests:?}");
        }
    }
    // One that says nothing of it may close before the answer is on its way, or while it is.
    let (status, answer) = call(&client, "anna", &format!("https://{HOST}/hang-up")).await;
    let code = answer["code"].as_str().unwrap();
    assert!(status == 502 && ["credential_rejected", "upstream_unreachable"].contains(&code), "{answer}");
    assert_eq!(legs(&server.seen().await.1), ["NTLM 1"]);
    // Nobody asked: the answer is the server's, and the body goes out once, without a proof.
    for (body, words) in [("", vec!["NTLM 1"]), ("a body", vec!["NTLM 1", "none"])] {
        let (status, answer) = send(client.post(format!("https://{HOST}/open")).body(body), "anna").await;
        assert_eq!((status, &answer["length"]), (200, &json!(body.len())), "{answer}");
        assert_eq!(legs(&server.seen().await.1), words);
    }
    // Proven, and still not let in: the server's own answer.
    let (status, answer) = call(&client, "anna", &format!("https://{HOST}/not-for-you")).await;
    assert_eq!((status, &answer["user"], &answer["code"]), (401, &json!(r"INTRANET\anna"), &Value::Null));
    server.seen().await;
    // It forgets after each request who it was (authPersistSingleRequest): it is told again, and nobody else notices.
    for round in 0..3 {
        let (status, answer) = call(&client, "anna", &format!("https://{HOST}/once")).await;
        assert_eq!((status, &answer["user"]), (200, &json!(r"INTRANET\anna")), "{round}: {answer}");
    }
    let all = server.seen().await.1;
    assert_eq!(legs(&all), ["NTLM 1", "NTLM 3", "none", "NTLM 1", "NTLM 3", "none", "NTLM 1", "NTLM 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_servers_of_http2_meet_over_http11() {
    let root = Root::new();
    // Any challenge will do for a server that does not look at the answer.
    let vectors =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ntlm/pyspnego.json"));
    let vectors: Value = serde_json::from_str(&vectors.unwrap()).unwrap();
    let challenge = vectors[0]["challenge"][0][1].as_str().unwrap().to_owned();
    let origin =
        Origin::https_with(&root, &[HOST], &["h2", "http/1.1"], move |seen| match seen.header("authorization") {
            Some(first) if first.starts_with("NTLM TlRMTVNTUAABAAAA") => {
                let mut answer = text(401, "");
                answer.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
                answer
            }
            _ => text(200, "hello"),
        })
        .await;
    let scene = Scene { root, folder: tempfile::tempdir().unwrap() };
    let proxy = scene.proxy(origin.address, origin.address);
    let request = one(&proxy).post(format!("https://{HOST}/")).body("a body").header("countersign-credential", "anna");
    let answer = request.send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.version == http::Version::HTTP_11), "{seen:?}");
    assert!(seen[1].header("authorization").unwrap().starts_with("NTLM TlRMTVNTUAADAAAA"));
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (&b""[..], &b"a body"[..]));
}

/// pyspnego's judgement of third messages of one exchange, which ends with the test.
struct Judge {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Judge {
    fn start(python: &Path, scene: &Scene) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ntlm/judge.py");
        let mut command = Command::new(python);
        command.arg(program).args([scene.path("users"), scene.path("server.pem")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says to a message in base64.
    fn tell(&mut self, message: &str) -> String {
        writeln!(self.child.stdin.as_ref().unwrap(), "{message}").unwrap();
        self.lines.next().expect("the judge is gone").unwrap()
    }

    /// Why the acceptor that requires the binding refuses a message, and why the one that does not look at it.
    fn refusals(&mut self, message: &[u8]) -> [Option<String>; 2] {
        let said: Value = serde_json::from_str(&self.tell(&STANDARD.encode(message))).unwrap();
        ["bound", "unbound"].map(|name| said[name].as_str().map(str::to_owned))
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The base64 of the message that these are to be applied for.
fn message(mutations: &Mutations) -> String {
    mutations.set[0].1.to_str().unwrap().strip_prefix("NTLM ").unwrap().to_owned()
}

#[test]
fn one_wrong_byte_of_the_proof_of_the_integrity_code_or_of_what_they_cover_is_refused() {
    let Some(python) = python("ntlm one wrong byte") else { return };
    let scene = Scene::new();
    let mut judge = Judge::start(&python, &scene);
    let secrets = [(SecretRef::Env { env: "P".into() }, Secret::new(PASSWORD))].into_iter().collect();
    let outside = outside(Deps::system());
    let setup = Setup { account: "default", credential: "anna", version: 0, secrets: &secrets, outside: &outside };
    let settings = json!({ "username": r"INTRANET\anna", "password": { "env": "P" } });
    let scheme = (find("ntlm").unwrap().parse)(settings).unwrap().build(&setup).unwrap();
    let Identity::Challenged(challenged) = scheme.identity() else { panic!("NTLM is asked") };
    let second = judge.tell(&message(&challenged.opening().unwrap()));
    let headers = [(WWW_AUTHENTICATE, format!("NTLM {second}").parse().unwrap())].into_iter().collect();
    let pem = std::fs::read(scene.path("server.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let (none, method) = (HeaderMap::new(), Method::GET);
    let view = RequestView {
        method: &method,
        path_and_query: "/",
        headers: &none,
        removed: &none,
        destination: &Destination::from_upstream(&format!("https://{HOST}")).unwrap(),
        length: None,
        body: None,
        narrowing: None,
    };
    let challenge = Challenge { headers: &headers, certificate: Some(&certificate) };
    let answer = challenged.answer(&view, &challenge).unwrap().authorize(&view, SystemTime::UNIX_EPOCH).unwrap();
    let third = STANDARD.decode(message(&answer.mutations)).unwrap();
    assert_eq!(judge.refusals(&third), [None, None]);

    // MS-NLMP section 2.2.1.3: where the response is; section 2.2.2.7: 28 bytes before the pairs of the temp.
    let short = |at: usize| usize::from(u16::from_le_bytes(third[at..at + 2].try_into().unwrap()));
    let (length, proof) = (short(20), short(24));
    let temp = proof + 16;
    let (mut pair, mut pairs) = (temp + 28, BTreeMap::new());
    while short(pair) != 0 {
        pairs.insert(short(pair), pair + 4..pair + 4 + short(pair + 2));
        pair += 4 + short(pair + 2);
    }
    let (name, binding) = (pairs[&9].clone(), pairs[&10].clone());
    let rest = (temp..proof + length).filter(|at| !name.contains(at) && !binding.contains(at));
    let groups: [(&str, Vec<usize>, [&str; 2]); 5] = [
        ("NTProofStr", (proof..temp).collect(), ["Invalid NTLM response"; 2]),
        ("integrity code", (72..88).collect(), ["Invalid MIC"; 2]),
        ("channel binding", binding.clone().collect(), ["Acceptor bindings do not match", "Invalid NTLM response"]),
        ("target name", name.clone().collect(), ["Invalid NTLM response"; 2]),
        // Also lengths, so that it may be refused for something else.
        ("rest", rest.collect(), [""; 2]),
    ];
    assert_eq!((binding.len(), name.len()), (16, 2 * format!("HTTP/{HOST}").len()));
    let mut count = 0;
    for (group, bytes, reasons) in groups {
        for at in bytes {
            let mut forged = third.clone();
            forged[at] ^= 1;
            for (refusal, reason) in judge.refusals(&forged).into_iter().zip(reasons) {
                let refusal = refusal.unwrap_or_else(|| panic!("{group}: byte {at} may be another"));
                assert!(refusal.contains(reason), "{group}, byte {at}: {refusal}");
            }
            count += 1;
        }
    }
    assert_eq!(judge.refusals(&third), [None, None]);
    measured(&format!("NTLM: pyspnego takes the third message, and none of {count} with one wrong byte"));
}

/// Apache with mod_auth_gssapi and gss-ntlmssp, in front of an origin that records what Apache says of the user.
fn apache(test: &str, scene: &Scene, origin: SocketAddr) -> Option<Apache> {
    let program = tool(test, "apache2")?;
    let modules = Path::new(Apache::MODULES);
    if !modules.join("mod_auth_gssapi.so").exists() || !Path::new("/etc/gss/mech.d/mech.ntlmssp.conf").exists() {
        return skip(test, "mod_auth_gssapi or gss-ntlmssp is not installed");
    }
    // Where Apache runs as root its children do not, and have to read the users.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(scene.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let names =
        ["mpm_event", "authn_core", "authz_core", "authz_user", "auth_gssapi", "headers", "proxy", "proxy_http"];
    let load = |name: &&str| format!("LoadModule {name}_module {}\n", modules.join(format!("mod_{name}.so")).display());
    let loads: String = names.iter().map(load).collect();
    let folder = scene.folder.path().display();
    Some(Apache::start(|address| {
        // With fewer threads it ends idle connections when it is busy.
        let config = format!(
            "ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {folder}/httpd.pid\nServerName {HOST}\nListen {address}\n{loads}\
             User #65534\nGroup #65534\nErrorLog /dev/stderr\nKeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\nStartServers 1\nServerLimit 2\nThreadsPerChild 128\nMaxRequestWorkers 256\n\
             <Location />\nAuthType GSSAPI\nAuthName intranet\nGssapiAllowedMech ntlmssp\nGssapiConnectionBound On\nRequire valid-user\n\
             RequestHeader set X-User \"expr=%{{REMOTE_USER}}\"\nRequestHeader set X-Connection \"expr=%{{REMOTE_PORT}}\"\n</Location>\n\
             ProxyPass / http://{origin}/\n"
        );
        std::fs::write(scene.path("httpd.conf"), config).unwrap();
        let mut command = Command::new(&program);
        command.args(["-f", &scene.path("httpd.conf")]).env("NTLM_USER_FILE", scene.path("users"));
        command
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_with_gss_ntlmssp_takes_what_is_sent_and_refuses_wrong_passwords() {
    let test = "ntlm apache";
    let Some(python) = python(test) else { return };
    let scene = Scene::new();
    let origin = Origin::http_with(|seen| {
        let facts = json!({ "user": seen.header("x-user"), "connection": seen.header("x-connection"), "length": seen.body.len() });
        text(200, &facts.to_string())
    })
    .await;
    let Some(apache) = apache(test, &scene, origin.address) else { return };
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ntlm/ntlm_client.py");
    for (password, status) in [(PASSWORD, 200), ("wrong", 401)] {
        let url = format!("http://{}/", apache.address);
        let output = Command::new(&python).arg(&client).args([&url, "INTRANET\\anna", password]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["status"], status, "requests-ntlm: {answer}");
    }
    let proxy = scene.proxy(apache.address, apache.address);
    let client = one(&proxy);
    let url = format!("http://{HOST}/");
    let (status, body) = call(&client, "anna", &url).await;
    assert_eq!((status, &body["user"]), (200, &json!(r"INTRANET\anna")), "{body}");
    let connection = body["connection"].clone();
    for _ in 0..20 {
        let (status, body) = call(&client, "anna", &url).await;
        assert_eq!((status, &body["connection"]), (200, &connection), "{body}");
    }
    let large = vec![7; 10 * 1024 * 1024];
    let (status, body) = send(client.post(&url).body(large.clone()), "bert").await;
    assert_eq!(
        (status, &body["user"], &body["length"]),
        (200, &json!(r"INTRANET\bert"), &json!(large.len())),
        "{body}"
    );
    assert!(origin.seen().last().unwrap().body == large);
    let before = origin.seen().len();
    for credential in ["wrong-password", "wrong-user", "wrong-domain"] {
        let (status, body) = call(&client, credential, &url).await;
        assert_eq!(status, 401, "{credential}: {body}");
        assert!(body["code"].is_null(), "{credential}: the answer is Apache's: {body}");
    }
    assert_eq!(origin.seen().len(), before, "nothing of that reached what is behind");
    let mixed = mix(&proxy, "http").await;
    let mut owners: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for seen in origin.seen().iter().filter(|seen| seen.target.starts_with("/mixed")) {
        let owner = (seen.header("x-user").unwrap().to_owned(), seen.target.clone());
        owners.entry(seen.header("x-connection").unwrap().to_owned()).or_default().insert(owner);
        assert!(seen.header("authorization").is_none_or(|value| value.starts_with("NTLM ")));
    }
    assert!(owners.values().all(|owners| owners.len() == 1), "{owners:#?}");
    measured(&format!(
        "NTLM: Apache took {mixed} requests of 50 parallel callers over {} connections, none mixed",
        owners.len()
    ));
}
