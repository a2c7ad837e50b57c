//! Digest before servers that verify: Apache, and one written from the RFC; each accepted call has its refused twin.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, SHA512_256, digest as hash};
use base64::Engine;
use countersign::base::request::BodyDigest;
use countersign::base::{BodyNeed, Challenge, Deps, Destination, Random, RequestView, Secret, SecretRef};
use countersign::base::{BoxFuture, CallError, ClientOptions, HttpClient, HttpClients};
use countersign::scheme::{Identity, Outside, Setup, find};
use countersign::token::{StateDirectory, Tokens};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::support::{Apache, Config, DEADLINE, Origin, Proxy, Root, kit, measured, skip, text, tool};

const USER: &str = "Mufasa";
const PASSWORD: &str = "Circle of Life";
/// One wrong byte.
const WRONG: &str = "Circle of Lifd";

/// A proxy with this user's credential for every host under `.test`.
fn proxy(address: SocketAddr, user: &str, password: &str, more: &str) -> Proxy {
    let config = Config::new()
        .credentials(&format!(
            "  - {{ id: user, scheme: digest, username: {user:?}, password: {{ env: PASSWORD }}, hosts: [\"*.test\"] {more} }}\n"
        ))
        .bindings("  - { credential: user, hosts: [\"*.test\"], allow_cleartext: true }\n")
        .resolve("server.test:80", address);
    Proxy::start_with(&config.text(), &[("PASSWORD", password)], |folder| {
        std::fs::write(folder.join("origin.pem"), Root::new().pem()).unwrap();
    })
}

/// Ten megabytes that compress to nothing and repeat nowhere.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..10_000_000).map(|_| byte()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hash(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Status and body.
async fn ask(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

// --- Apache ----------------------------------------------------------------------------------------------------------

/// Apache with mod_auth_digest, in a folder of the test's own.
struct Protected {
    apache: Apache,
    folder: tempfile::TempDir,
}

impl Protected {
    fn start(test: &str) -> Option<Self> {
        tool(test, "sh")?;
        if !Path::new("/usr/sbin/apache2").exists() || !Path::new(Apache::MODULES).join("mod_auth_digest.so").exists() {
            return skip(test, "Apache with mod_auth_digest is not installed (apache2-bin)");
        }
        let folder = tempfile::tempdir().unwrap();
        let users: String = ["the API, all of it", "once"]
            .iter()
            .map(|realm| {
                let line = <md5::Md5 as md5::Digest>::digest(format!("{USER}:{realm}:{PASSWORD}"));
                let line: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{USER}:{realm}:{line}\n")
            })
            .collect();
        std::fs::write(folder.path().join("users"), users).unwrap();
        std::fs::write(
            folder.path().join("echo"),
            "#!/bin/sh\nsum=$(sha256sum)\nprintf 'Content-Type: text/plain\\n\\n%s %s %s' \"$REQUEST_METHOD\" \"$REMOTE_USER\" \"${sum%% *}\"\n",
        )
        .unwrap();
        // Apache's workers may be somebody else than whoever runs the tests.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder.path().join("echo"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let apache = Apache::start(|address| Self::program(folder.path(), address));
        Some(Self { apache, folder })
    }

    fn program(folder: &Path, address: SocketAddr) -> Command {
        let home = folder.to_str().unwrap();
        let modules =
            ["mpm_prefork", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest", "alias", "cgi"];
        let folder_of_modules = Apache::MODULES;
        let modules: String = modules
            .iter()
            .map(|name| format!("LoadModule {name}_module {folder_of_modules}/mod_{name}.so\n"))
            .collect();
        let protected =
            format!("AuthType Digest\nAuthDigestProvider file\nAuthUserFile {home}/users\nRequire valid-user\n");
        std::fs::write(
            folder.join("httpd.conf"),
            format!(
                "ServerName server.test\nServerRoot {home}\nDefaultRuntimeDir {home}\nPidFile {home}/pid\nListen {address}\n\
                 {modules}<IfModule unixd_module>\nUser nobody\nGroup nogroup\n</IfModule>\n\
                 ErrorLog /dev/stderr\nLogFormat \"%>s %m %U %I %{{Authorization}}i\" plain\nCustomLog {home}/access.log plain\n\
                 StartServers 8\nAllowEncodedSlashes On\nMaxRequestWorkers 64\nServerLimit 64\nKeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
                 ScriptAlias /api {home}/echo\nScriptAlias /once {home}/echo\n\
                 <Location /api>\nAuthName \"the API, all of it\"\nAuthDigestDomain /api /more\n{protected}</Location>\n\
                 <Location /once>\nAuthName once\nAuthDigestDomain /once\nAuthDigestNonceLifetime 0\n{protected}</Location>\n"
            ),
        )
        .unwrap();
        let mut command = Command::new("/usr/sbin/apache2");
        command.args(["-f", &format!("{home}/httpd.conf")]);
        command
    }

    /// What it logged: status, method, path, bytes received and the Authorization header of every request but its own.
    fn log(&self, lines: usize) -> Vec<String> {
        // A line is written when its answer has been sent.
        let began = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap();
            let log: Vec<String> =
                log.lines().filter(|line| !line.contains(" * ")).map(|line| line.replace("\\\"", "\"")).collect();
            if log.len() >= lines {
                return log;
            }
            assert!(began.elapsed() < DEADLINE, "{log:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Another process at the same place, with another secret in its nonces.
    fn restart(self) -> Self {
        let Self { apache, folder } = self;
        let apache = apache.restart(|address| Self::program(folder.path(), address));
        Self { apache, folder }
    }

    fn proxy(&self, password: &str) -> Proxy {
        proxy(self.apache.address, USER, password, "")
    }
}

/// The value of a parameter of an Authorization header.
fn parameter(line: &str, name: &str) -> Option<String> {
    let value = line.split(&format!(" {name}=")).nth(1)?;
    Some(value.trim_start_matches('"').split(['"', ',']).next()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_asks_once_and_lets_in_whoever_has_the_password() {
    let Some(apache) = Protected::start("digest_apache") else { return };
    let right = apache.proxy(PASSWORD);
    let client = right.client();
    let none = sha256(b"");
    for number in 0..20 {
        let url = format!("http://server.test/api/items%2F{number}?q=%20a,\"b\"&c");
        assert_eq!(ask(client.get(&url)).await, (200, format!("GET {USER} {none}")));
    }
    let body = "some body".repeat(100);
    let answer = ask(client.post("http://server.test/api").body(body.clone())).await;
    assert_eq!(answer, (200, format!("POST {USER} {}", sha256(body.as_bytes()))));
    // The caller's own header is worthless and goes.
    let answer = ask(client.get("http://server.test/api").header("authorization", "Digest username=\"caller\"")).await;
    assert_eq!(answer.0, 200);
    let log = apache.log(23);
    let refused: Vec<_> = log.iter().filter(|line| line.starts_with("401")).collect();
    assert_eq!((log.len(), refused.len()), (23, 1), "one challenge serves all: {log:#?}");
    let counts: Vec<_> = log.iter().filter_map(|line| parameter(line, "nc")).collect();
    assert_eq!(counts, (1..=22).map(|count| format!("{count:08x}")).collect::<Vec<_>>());
    // One wrong byte of the password: Apache's 401 is the caller's, and there is no storm.
    let wrong = apache.proxy(WRONG);
    let client = wrong.client();
    for _ in 0..3 {
        assert_eq!(ask(client.get("http://server.test/api")).await.0, 401);
    }
    assert_eq!(apache.log(29).len(), 29, "two legs for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_stream_to_apache_after_their_head() {
    let Some(apache) = Protected::start("digest_apache_large") else { return };
    let proxy = apache.proxy(PASSWORD);
    let client = proxy.client();
    let body = large();
    for times in 1..=2 {
        let answer = ask(client.post("http://server.test/api").body(body.clone())).await;
        assert_eq!(answer, (200, format!("POST {USER} {}", sha256(&body))));
        let log = apache.log(2 * times);
        let last: Vec<_> = log[2 * times - 2..].iter().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
        assert_eq!((last[0][0], last[1][0]), ("401", "200"), "{log:#?}");
        assert!(last[0][3].parse::<usize>().unwrap() < 1000, "the first leg has no body: {log:#?}");
        assert!(last[1][3].parse::<usize>().unwrap() > body.len(), "{log:#?}");
    }
    let (_, peak) = proxy.memory();
    let chunked = reqwest::Body::wrap(http_body_util::StreamBody::new(futures_util::stream::iter(
        body.chunks(100_000)
            .map(|chunk| Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::copy_from_slice(chunk))))
            .collect::<Vec<_>>(),
    )));
    let answer = ask(client.post("http://server.test/api").body(chunked)).await;
    assert_eq!(answer, (200, format!("POST {USER} {}", sha256(&body))), "a body of no announced length");
    measured(&format!("digest: 10 MB posts through Apache, {} MiB of memory at most", peak / 1024));
    let wrong = apache.proxy(WRONG);
    assert_eq!(ask(wrong.client().post("http://server.test/api").body(body)).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_at_once_use_no_count_of_apaches_twice() {
    let Some(apache) = Protected::start("digest_apache_parallel") else { return };
    let proxy = apache.proxy(PASSWORD);
    let client = proxy.client();
    let callers = (0..50).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            for number in 0..20 {
                let body = format!("{caller} {number}");
                let request = client.post(format!("http://server.test/api/{caller}/{number}")).body(body.clone());
                assert_eq!(ask(request).await, (200, format!("POST {USER} {}", sha256(body.as_bytes()))));
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let log = apache.log(1001);
    let asked = log.iter().filter(|line| line.starts_with("401")).count();
    let used: Vec<_> =
        log.iter().filter_map(|line| Some((parameter(line, "nonce")?, parameter(line, "nc")?))).collect();
    assert_eq!(used.iter().collect::<BTreeSet<_>>().len(), used.len(), "no count of a nonce twice");
    assert_eq!(used.len(), 1000);
    assert!(asked <= 50, "no more than the callers that came before the first answer: {asked}");
    measured(&format!("digest: 1,000 requests of 50 callers at once before Apache, {asked} challenges"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_apache_finds_the_old_nonce_stale_and_no_caller_notices() {
    let Some(apache) = Protected::start("digest_apache_stale") else { return };
    let proxy = apache.proxy(PASSWORD);
    let client = proxy.client();
    assert_eq!(ask(client.get("http://server.test/api")).await.0, 200);
    let apache = apache.restart();
    let answer = ask(client.post("http://server.test/api").body("again")).await;
    assert_eq!(answer, (200, format!("POST {USER} {}", sha256(b"again"))));
    let log = apache.log(4);
    let statuses: Vec<_> = log.iter().map(|line| &line[..3]).collect();
    assert_eq!(statuses, ["401", "200", "401", "200"]);
    assert_eq!(parameter(&log[2], "nc").as_deref(), Some("00000002"), "the old nonce was tried: {log:#?}");
    assert_eq!(parameter(&log[3], "nc").as_deref(), Some("00000001"));
    assert_eq!(ask(client.get("http://server.test/api")).await.0, 200);
    assert_eq!(apache.log(5).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn apaches_next_nonce_is_taken_where_each_is_good_for_one_request() {
    let Some(apache) = Protected::start("digest_apache_nextnonce") else { return };
    let proxy = apache.proxy(PASSWORD);
    let client = proxy.client();
    for _ in 0..10 {
        assert_eq!(ask(client.get("http://server.test/once")).await.0, 200);
    }
    let log = apache.log(11);
    assert_eq!(log.iter().filter(|line| line.starts_with("401")).count(), 1, "{log:#?}");
    let nonces: BTreeSet<_> = log.iter().filter_map(|line| parameter(line, "nonce")).collect();
    assert_eq!(nonces.len(), 10, "{log:#?}");
    // Another realm of the same server does not disturb this one.
    assert_eq!(ask(client.get("http://server.test/api/x")).await.0, 200);
    assert_eq!(ask(client.get("http://server.test/once/x")).await.0, 200);
    assert_eq!(ask(client.get("http://server.test/api/y")).await.0, 200);
    assert_eq!(apache.log(15).iter().filter(|line| line.starts_with("401")).count(), 2);
}

// --- a server written from the RFC -----------------------------------------------------------------------------------

struct Server {
    child: Child,
    port: u16,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/digest")
}

impl Server {
    fn start(test: &str, user: &str) -> Option<Self> {
        let python = kit(test)?.join("venv/bin/python");
        let mut command = Command::new(python);
        command.arg(folder().join("server.py")).args(["--username", user, "--password", PASSWORD]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts: Value = serde_json::from_str(&line).expect("the server did not start");
        Some(Self { child, port: facts["port"].as_u64().unwrap() as u16 })
    }

    fn proxy(&self, user: &str, password: &str) -> Proxy {
        proxy(SocketAddr::from(([127, 0, 0, 1], self.port)), user, password, "")
    }

    /// What arrived below a segment, as `method status why`.
    async fn seen(&self, segment: &str) -> Vec<String> {
        let text = |value: &Value| format!("{} {} {}", value["method"], value["status"], value["why"]).replace('"', "");
        self.requests(segment).await.iter().map(text).collect()
    }

    async fn requests(&self, segment: &str) -> Vec<Value> {
        crate::support::provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (_, body) = ask(client.get(format!("http://127.0.0.1:{}/requests", self.port))).await;
        let all: Vec<Value> = serde_json::from_str(&body).unwrap();
        let here = format!("/{segment}/");
        all.into_iter().filter(|request| request["target"].as_str().unwrap().starts_with(&here)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every algorithm with every protection, and what else a server may do.
fn segments() -> Vec<String> {
    let mut all = Vec::new();
    for algorithm in ["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess"] {
        for qop in ["auth", "auth-int", "both", "none"] {
            // Of an old server's form of -sess nobody says where the client's nonce stands.
            if !(algorithm.ends_with("-sess") && qop == "none") {
                all.push(format!("{algorithm};qop={qop}"));
            }
        }
    }
    for more in [
        "MD5;silent",
        "MD5;silent;qop=none",
        "MD5,SHA-256,SHA-512-256",
        "SHA-256;userhash",
        "SHA-512-256-sess;qop=auth-int;userhash;utf8",
        "SHA-256,MD5;crowd",
        "SHA-256-sess;nextnonce",
        "MD5;nextnonce;qop=auth-int",
    ] {
        all.push(more.to_owned());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_and_protection_is_accepted_and_with_one_wrong_byte_refused() {
    let Some(server) = Server::start("digest_algorithms", USER) else { return };
    let (right, wrong) = (server.proxy(USER, PASSWORD), server.proxy(USER, WRONG));
    let (right, wrong) = (right.client(), wrong.client());
    for segment in segments() {
        let url = |rest: &str| format!("http://server.test/{segment}/{rest}");
        for rest in ["a%2Fb/%7e?c=%20d&\"e\"", "", "x?y=1,2;3"] {
            assert_eq!(ask(right.get(url(rest))).await, (200, "right".into()), "{segment}");
        }
        assert_eq!(ask(right.put(url("put")).body("some body")).await.0, 200, "{segment}");
        assert_eq!(ask(right.delete(url("delete"))).await.0, 200, "{segment}");
        let seen = server.seen(&segment).await;
        assert_eq!(seen.iter().filter(|line| line.contains("401")).count(), 1, "{segment}: {seen:#?}");
        let put = server.requests(&segment).await.into_iter().find(|request| request["method"] == "PUT").unwrap();
        assert_eq!((put["length"].as_u64(), put["sha256"].as_str()), (Some(9), Some(&*sha256(b"some body"))));
        assert_eq!(ask(wrong.get(url("x"))).await.0, 401, "{segment}");
        let seen = server.seen(&segment).await;
        assert_eq!(seen.last().unwrap(), "GET 401 the response is wrong", "{segment}");
    }
    let one = server.requests("MD5,SHA-256,SHA-512-256").await;
    assert!(one[1]["authorization"].as_str().unwrap().contains("algorithm=SHA-512-256,"), "the strongest: {one:#?}");
}

/// The server takes what others make of the RFC too, so it is not wrong together with us.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_the_answers_of_curl_and_aiohttp_as_it_takes_ours() {
    let test = "digest_clients";
    let Some(server) = Server::start(test, USER) else { return };
    let Some(curl) = tool(test, "curl") else { return };
    let run = |segment: &str, password: &str| {
        let url = format!("http://127.0.0.1:{}/{segment}/a%2Fb?c", server.port);
        let user = format!("{USER}:{password}");
        let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--digest", "-u", &user, &url];
        let output = Command::new(&curl).args(arguments).env_clear().output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let known = [
        "MD5",
        "MD5-sess",
        "SHA-256",
        "SHA-256-sess",
        "MD5;qop=none",
        "MD5;silent;qop=none",
        "SHA-256;userhash",
        "MD5;qop=both",
    ];
    for segment in known {
        assert_eq!((&*run(segment, PASSWORD), &*run(segment, WRONG)), ("200", "401"), "{segment}");
    }
    let python = kit(test).unwrap().join("venv/bin/python");
    let theirs = [
        "MD5-sess;qop=auth-int",
        "SHA-256;qop=auth-int",
        "SHA-512-256;qop=auth-int",
        "SHA-512-256-sess",
        "SHA-256;uses=1",
    ];
    for (password, status) in [(PASSWORD, 200), (WRONG, 401)] {
        let mut command = Command::new(&python);
        command.arg(folder().join("client.py")).args([&server.port.to_string(), USER, password]).args(theirs);
        let output = command.output().unwrap();
        let statuses: BTreeMap<String, Vec<u16>> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(statuses.len(), theirs.len());
        assert!(statuses.values().flatten().all(|got| *got == status), "{statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_end_soon_cost_a_round_trip_and_no_request() {
    let Some(server) = Server::start("digest_stale", USER) else { return };
    let proxy = server.proxy(USER, PASSWORD);
    let client = proxy.client();
    let segment = "SHA-256;uses=3";
    for number in 0..9 {
        let body = format!("body {number}");
        let request = client.post(format!("http://server.test/{segment}/x")).body(body);
        assert_eq!(ask(request).await, (200, "right".into()));
    }
    let seen = server.seen(segment).await;
    let stale = seen.iter().filter(|line| line.contains("used up")).count();
    assert_eq!((seen.len(), stale), (12, 2), "asked once, twice stale: {seen:#?}");
    // Everybody at once, while nonces end all the time; no count is used twice, or the server would say that.
    let callers = (0..30).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..10 {
                statuses.push(ask(client.get("http://server.test/MD5;uses=40/x")).await.0);
            }
            statuses
        })
    });
    let mut right = 0;
    for caller in callers.collect::<Vec<_>>() {
        right += caller.await.unwrap().iter().filter(|status| **status == 200).count();
    }
    let seen = server.seen("MD5;uses=40").await;
    assert!(!seen.iter().any(|line| line.contains("replayed")), "{seen:#?}");
    assert!(right >= 295, "{right} of 300; an answer may find its own nonce used up by others");
    assert!(seen.len() <= 900, "at most three legs each: {}", seen.len());
    // A nonce with each answer: nothing is asked again.
    for _ in 0..10 {
        assert_eq!(ask(client.get("http://server.test/MD5-sess;nextnonce;uses=1/x")).await.0, 200);
    }
    let seen = server.seen("MD5-sess;nextnonce;uses=1").await;
    assert_eq!(seen.len(), 11, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_beyond_ascii_go_as_the_server_takes_them() {
    let user = "J\u{e4}s\u{f8}n \"D\" Doe";
    let Some(server) = Server::start("digest_names", user) else { return };
    let proxy = server.proxy(user, PASSWORD);
    let client = proxy.client();
    for segment in ["SHA-256", "SHA-256;utf8", "SHA-512-256;utf8;userhash", "MD5;userhash"] {
        assert_eq!(ask(client.get(format!("http://server.test/{segment}/x"))).await.0, 200, "{segment}");
    }
    let header = &server.requests("SHA-256;utf8").await[1]["authorization"];
    assert!(header.as_str().unwrap().contains("username*=UTF-8''J%C3%A4s%C3%B8n%20%22D%22%20Doe,"), "{header}");
    let other = server.proxy("J\u{e4}son \"D\" Doe", PASSWORD);
    for segment in ["SHA-256", "SHA-256;utf8", "SHA-512-256;utf8;userhash"] {
        assert_eq!(ask(other.client().get(format!("http://server.test/{segment}/x"))).await.0, 401, "{segment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_must_be_covered_is_held_and_another_streams() {
    let Some(server) = Server::start("digest_bodies", USER) else { return };
    let proxy = server.proxy(USER, PASSWORD);
    let client = proxy.client();
    let body = large();
    for segment in ["MD5;qop=auth-int", "SHA-256;qop=auth-int", "SHA-512-256-sess;qop=auth-int", "SHA-256;uses=1"] {
        for _ in 0..2 {
            let request = client.post(format!("http://server.test/{segment}/x")).body(body.clone());
            assert_eq!(ask(request).await, (200, "right".into()), "{segment}");
        }
        let arrived = server.requests(segment).await;
        let lengths: Vec<_> = arrived.iter().map(|request| request["length"].as_u64().unwrap()).collect();
        assert_eq!(lengths, [0, 10_000_000, 0, 10_000_000], "{segment}");
        assert_eq!(arrived[1]["sha256"], *sha256(&body), "{segment}");
    }
    // Who does not ask for this method gets the body without any proof.
    let request = client.post("http://server.test/MD5;open=POST/x").body(body);
    assert_eq!(ask(request).await, (200, "open".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_a_clear_refusal_and_never_a_storm() {
    let Some(server) = Server::start("digest_bad", USER) else { return };
    let proxy = server.proxy(USER, PASSWORD);
    let client = proxy.client();
    for (lines, why) in [
        ("Digest realm=\"r\", nonce=\"n\", algorithm=SHA3-256", "algorithm SHA3-256 is not known"),
        ("Digest realm=\"r\", nonce=\"n\", qop=\"auth-conf\"", "qop auth-conf is neither"),
        ("Digest realm=\"r\", qop=\"auth\"", "no nonce"),
        ("Digest nonce=\"n\"", "no realm"),
        ("Digest realm=\"r\", nonce=\"n", "has no end"),
        ("Digest \u{e4}\"=,,=\"\\", "malformed"),
        ("Basic realm=\"r\"\nNegotiate", "asks for Basic, Negotiate and not for Digest"),
        ("", "does not say how"),
    ] {
        let encoded =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(lines.chars().map(|c| c as u8).collect::<Vec<_>>());
        let padded = format!("{encoded}{}", "=".repeat((4 - encoded.len() % 4) % 4));
        let segment = format!("MD5;raw={padded}");
        for request in [
            client.get(format!("http://server.test/{segment}/x")),
            client.post(format!("http://server.test/{segment}/x")).body("b"),
        ] {
            let (status, body) = ask(request).await;
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, problem["code"].as_str()), (502, Some("credential_rejected")), "{lines}: {body}");
            assert!(problem["detail"].as_str().unwrap().contains(why), "{lines}: {body}");
        }
        assert_eq!(server.requests(&segment).await.len(), 2, "one leg each: {lines}");
    }
    // A server that asks properly and is never content: its 401 is the caller's, after two legs each time.
    let endless =
        base64::engine::general_purpose::URL_SAFE.encode("Digest realm=\"r\", nonce=\"n\", qop=\"auth\", stale=true");
    let segment = format!("MD5;raw={endless}");
    for _ in 0..3 {
        assert_eq!(ask(client.get(format!("http://server.test/{segment}/x"))).await.0, 401);
    }
    let counts: Vec<_> = server
        .requests(&segment)
        .await
        .iter()
        .map(|request| request["authorization"].as_str().map(|line| parameter(line, "nc").unwrap()))
        .collect();
    let count = |number: u8| Some(format!("0000000{number}"));
    // Each nonce is called old: one more answer, and that is the end.
    assert_eq!(counts, [None, count(1), count(2), None, count(3), count(4), None, count(5), count(6)]);
    let log = proxy.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panicked"), "{log}");
    let strict = self::proxy(SocketAddr::from(([127, 0, 0, 1], server.port)), USER, PASSWORD, ", forbid_md5: true");
    let (status, body) = ask(strict.client().get("http://server.test/MD5;x/x")).await;
    assert!(status == 502 && body.contains("forbid_md5"), "{body}");
    assert_eq!(ask(strict.client().get("http://server.test/SHA-256,MD5;x/x")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_http2_is_asked_and_answered_in_the_same_way() {
    let root = Root::new();
    let origin = Origin::https_with(&root, &["server.test"], &["h2"], |seen| match seen.header("authorization") {
        Some(line) if line.contains("uri=\"/x?y\"") && line.contains("nonce=\"n\"") => text(200, "right"),
        _ => {
            let mut answer = text(401, "");
            let challenge = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256";
            answer.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            answer
        }
    })
    .await;
    let config = Config::new()
        .credentials("  - { id: user, scheme: digest, username: u, password: { env: SECRET }, hosts: [server.test] }\n")
        .bindings("  - { credential: user, hosts: [server.test] }\n")
        .resolve("server.test:443", origin.address);
    let proxy = config.start(&root);
    let client = proxy.client();
    for _ in 0..3 {
        assert_eq!(ask(client.get("https://server.test/x?y")).await, (200, "right".into()));
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|seen| seen.version == http::Version::HTTP_2));
}

// --- a second client, byte for byte ----------------------------------------------------------------------------------

/// Nobody has to be called.
#[derive(Debug)]
struct NoClients;

impl HttpClients for NoClients {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Err("there is nobody to call".into())
    }
}

impl HttpClient for NoClients {
    fn call(&self, _: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
        Box::pin(async { Err(CallError { detail: "nobody".into(), sent: false }) })
    }
}

/// The same bytes for every client nonce.
#[derive(Debug)]
struct Fixed([u8; 33]);

impl Random for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        bytes.copy_from_slice(&self.0);
        true
    }
}

/// What the scheme answers to a row's challenge when its nonce is used for the row's count.
fn ours(row: &Value, random: [u8; 33]) -> String {
    let text = |key: &str| row[key].as_str().unwrap();
    let deps = Deps::system();
    let outside = Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(NoClients),
        clock: deps.clock,
        environment: deps.environment,
        random: Arc::new(Fixed(random)),
        state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
        lender: Arc::new(countersign::route::Lending::new(Deps::system().clock, Default::default())),
    };
    let secrets = [(SecretRef::Env { env: "P".into() }, Secret::new(text("password")))].into_iter().collect();
    let setup = Setup { account: "default", credential: "row", version: 0, secrets: &secrets, outside: &outside };
    let settings = json!({ "username": text("username"), "password": { "env": "P" } });
    let scheme = (find("digest").unwrap().parse)(settings).unwrap().build(&setup).unwrap();
    let Identity::Challenged(challenged) = scheme.identity() else { panic!("digest is asked") };
    let uri: http::Uri = text("url").parse().unwrap();
    let body: Vec<u8> = (0..text("body").len() / 2)
        .map(|at| u8::from_str_radix(&text("body")[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let method = text("method").parse().unwrap();
    let headers: HeaderMap =
        [(http::header::WWW_AUTHENTICATE, text("challenge").parse().unwrap())].into_iter().collect();
    let (none, destination) = (HeaderMap::new(), Destination::from_absolute(&uri).unwrap());
    let mut view = RequestView {
        method: &method,
        path_and_query: uri.path_and_query().unwrap().as_str(),
        headers: &none,
        removed: &none,
        destination: &destination,
        length: Some(body.len() as u64),
        body: None,
        narrowing: None,
    };
    let challenge = Challenge { headers: &headers, certificate: None };
    let mut authorizer = challenged.answer(&view, &challenge).unwrap();
    let need = authorizer.body_need(&view).unwrap();
    let further: Option<Box<[u8]>> = match need {
        BodyNeed::None | BodyNeed::Sha256 => None,
        BodyNeed::Md5 => Some(<md5::Md5 as md5::Digest>::digest(&body).as_slice().into()),
        BodyNeed::Sha512Trunc256 => Some(hash(&SHA512_256, &body).as_ref().into()),
    };
    let sha256 = hash(&SHA256, &body).as_ref().try_into().unwrap();
    let facts = BodyDigest { sha256, further, length: body.len() as u64, whole: None };
    view.body = (need != BodyNeed::None).then_some(&facts);
    let mut line = String::new();
    for count in 1..=row["count"].as_u64().unwrap() {
        if count > 1 {
            authorizer = challenged.remembered(&view).unwrap();
        }
        let signed = authorizer.authorize(&view, SystemTime::UNIX_EPOCH).unwrap();
        line = String::from_utf8(signed.mutations.set[0].1.as_bytes().to_vec()).unwrap();
    }
    line
}

#[test]
fn a_thousand_challenges_are_answered_as_aiohttp_answers_them() {
    let Some(kit) = kit("digest_aiohttp") else { return };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut pick = |from: &[&str]| from[random(from.len() as u64) as usize].to_owned();
    let rows: Vec<(Value, [u8; 33])> = (0..1000_u32)
        .map(|index| {
            let algorithm = pick(&["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess"]);
            let qop = pick(&["auth", "auth-int", "auth", "none"]);
            let mut challenge =
                format!("Digest realm=\"{} {index}\"", pick(&["r", "a, b=c", "with \\\"quotes\\\"", ""]));
            challenge
                .push_str(&format!(", nonce=\"{}{index}==\", algorithm={algorithm}", pick(&["n/+", "0000", "a:b"])));
            if qop != "none" {
                challenge.push_str(&format!(", qop=\"{qop}\""));
            }
            challenge.push_str(&pick(&["", ", opaque=\"o=,p\"", ", domain=\"/ /x\", stale=true"]));
            let bytes = std::array::from_fn(|at| (index as usize * 7 + at * 31) as u8);
            let path = pick(&["/", "/a%2Fb/../c", "/x?y=z&&%20+;", "/~u/%E2%82%AC?q=a,b='c'"]);
            let row = json!({
                "challenge": challenge, "username": pick(&["Mufasa", "user name", "DOM\\user", "a\"b"]),
                "password": pick(&["Circle of Life", "p:w", "\u{fc}\u{20ac}", ""]), "count": 1 + index % 3,
                "method": pick(&["GET", "POST", "PROPFIND"]), "url": format!("http://server.test{path}"),
                "body": pick(&["", "00ff", "68656c6c6f"]),
                "cnonce": base64::engine::general_purpose::STANDARD.encode(bytes),
            });
            (row, bytes)
        })
        .collect();
    let mut command = Command::new(kit.join("venv/bin/python"));
    command.arg(folder().join("vectors.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: String = rows.iter().map(|(row, _)| format!("{row}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let theirs: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(theirs.len(), rows.len());
    let parts = |line: &str| -> BTreeSet<String> {
        // aiohttp leaves an opaque out that is empty, and orders otherwise; both quote alike.
        line.strip_prefix("Digest ").unwrap().split(", ").map(str::to_owned).collect()
    };
    let mut wrong = Vec::new();
    for ((row, random), theirs) in rows.iter().zip(&theirs) {
        let mut ours = parts(&ours(row, *random));
        if !row["challenge"].as_str().unwrap().contains("qop") {
            // RFC 2069's form of -sess: aiohttp does not say which client nonce it took.
            ours.retain(|part| !part.starts_with("cnonce="));
        }
        if ours != parts(theirs) {
            wrong.push(format!("{row}\n  ours   {ours:?}\n  theirs {theirs}"));
        }
    }
    let count = wrong.len();
    wrong.truncate(3);
    assert!(wrong.is_empty(), "{count} differ, such as {}", wrong.join("\n"));
    measured(&format!("digest: {} answers as aiohttp's, byte for byte", rows.len()));
}
