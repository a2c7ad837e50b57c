//! A process's life as a pod sees it: probes, the drain, the order to quit, and sockets that outlive it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::support::{
    Config, DEADLINE, Origin, Proxy, Root, SECRET, binary, countersign, raw, read_answer, talk, text, tls_tunnel,
};

const OPEN: &str = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";
const ADMIN: &str = "admin: { address: 127.0.0.1:0, api: false }\n";
const GET: &[u8] = b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n";

fn get(page: &str) -> Vec<u8> {
    format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Asks until it is so; a bounded number of looks, and each waits for its answer.
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_serves_what_comes_on_open_connections_and_says_that_it_was_the_last() {
    let root = Root::new();
    let (plain, encrypted) = (Origin::http().await, Origin::https(&root, &["api.test"]).await);
    let config = Config::new().resolve("api.test:80", plain.address).resolve("api.test:443", encrypted.address);
    let mut proxy = config.bindings(OPEN).rest(ADMIN).start(&root);
    let admin = proxy.address("admin", 0);
    let connect = || TcpStream::connect(proxy.forward()).unwrap();
    let (fresh, mut used) = (connect(), connect());
    used.write_all(GET).unwrap();
    let before = read_answer(&mut used);
    assert!(before.starts_with("HTTP/1.1 200") && !before.contains("connection: close"), "{before}");
    let mut tunnel = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
    let inside = b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n";
    tunnel.write_all(inside).unwrap();
    assert!(read_answer(&mut tunnel).starts_with("HTTP/1.1 200"));
    proxy.signal("TERM");
    until("no longer listening", || TcpStream::connect(proxy.forward()).is_err());
    assert_eq!(raw(&admin, &get("/livez")).status(), 200);
    let ready = raw(&admin, &get("/readyz"));
    assert!(ready.status() == 503 && ready.text.contains("\"reasons\":[\"draining\"]"), "{}", ready.text);
    let last = |answer: String| {
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}")
    };
    last(talk(&fresh, GET).text);
    // Two at once: the second is not answered, and the answer to the first is not lost over it.
    last(talk(&used, &[GET, GET].concat()).text);
    last(talk(&mut tunnel, inside).text);
    for mut closed in [fresh, used] {
        assert_eq!(closed.read(&mut [0]).unwrap(), 0);
    }
    assert!(proxy.child.wait().unwrap().success());
    assert_eq!((plain.seen().len(), encrypted.seen().len()), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_lets_callers_come_while_readiness_is_gone() {
    let root = Root::new();
    let origin = Origin::http().await;
    let config = Config::new().resolve("api.test:80", origin.address).bindings(OPEN);
    let mut proxy = config.rest(ADMIN).rest("limits: { drain_delay: 1h }\n").start(&root);
    proxy.signal("TERM");
    proxy.wait_log(|log| log.contains("draining"));
    assert_eq!(raw(&proxy.address("admin", 0), &get("/readyz")).status(), 503);
    let served = raw(&proxy.forward(), GET);
    assert!(served.status() == 200 && !served.text.contains("connection: close"), "{}", served.text);
    // Now.
    proxy.signal("INT");
    assert!(proxy.child.wait().unwrap().success());
}

/// An upstream that counts each path, and answers those past a gate when it is opened.
struct Upstream {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<HashMap<String, usize>>>,
    waiting: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
}

impl Upstream {
    /// The first half of each caller's requests passes; what follows waits for the gate, if there is one.
    async fn start(gate: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(false);
        let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (record, waiting) = (Arc::clone(&seen), Arc::new(AtomicUsize::new(0)));
        let held = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, held, opened) = (Arc::clone(&record), Arc::clone(&held), opened.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (record, held, mut opened) = (Arc::clone(&record), Arc::clone(&held), opened.clone());
                    async move {
                        let path = request.uri().path();
                        let number: usize = path[1..].parse().unwrap();
                        *record.lock().unwrap().entry(path.to_owned()).or_default() += 1;
                        if gate && number % EACH >= EACH / 2 {
                            held.fetch_add(1, Ordering::SeqCst);
                            let _ = opened.wait_for(|open| *open).await;
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from_static(b"done"))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, seen, waiting, open }
    }
}

/// A caller that knows no retry: whatever goes wrong is a request lost.
async fn call(address: String, numbers: std::ops::Range<usize>, answered: Arc<AtomicUsize>) -> Result<(), String> {
    let mut kept: Option<tokio::io::BufReader<tokio::net::TcpStream>> = None;
    for number in numbers {
        let fail = |what: &str, error: std::io::Error| format!("request {number}: {what}: {error}");
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => {
                let stream = tokio::net::TcpStream::connect(&address).await.map_err(|error| fail("connect", error))?;
                tokio::io::BufReader::new(stream)
            }
        };
        let request = format!("GET http://api.test/{number} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| fail("write", error))?;
        let (mut head, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            let count = stream.read_line(&mut line).await.map_err(|error| fail("read", error))?;
            if count == 0 {
                return Err(format!("request {number}: closed after {head:?}"));
            }
            head.push_str(&line);
        }
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.map_err(|error| fail("body", error))?;
        if !head.starts_with("HTTP/1.1 200") || &body != b"done" {
            return Err(format!("request {number}: {head}"));
        }
        answered.fetch_add(1, Ordering::SeqCst);
        if !head.contains("connection: close") {
            kept = Some(stream);
        }
    }
    Ok(())
}

const CALLERS: usize = 500;
const EACH: usize = 20;

/// One process after another on one socket, while 500 callers send 10,000 requests. With a gate all 500 are in flight when
/// the first is told to end; without, they come and go as it happens.
async fn restart(gate: bool) {
    let root = Root::new();
    let upstream = Upstream::start(gate).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let listeners = format!("  forward:\n    - address: {address}\n");
    let log = "log: { requests: false }\n";
    let config =
        Config::new().listeners(&listeners).resolve("api.test:80", upstream.address).bindings(OPEN).rest(ADMIN);
    let config = config.rest(log).text();
    let start = || {
        let socket: OwnedFd = socket.try_clone().unwrap().into();
        Proxy::start_on(vec![socket], &config, &[("SECRET", SECRET)], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        })
    };
    let mut old = start();
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|one| tokio::spawn(call(address.clone(), one * EACH..(one + 1) * EACH, Arc::clone(&answered))))
        .collect();
    if gate {
        until("all in flight", || upstream.waiting.load(Ordering::SeqCst) == CALLERS);
    }
    let new = start();
    until("ready", || raw(&new.address("admin", 0), &get("/readyz")).status() == 200);
    old.signal("TERM");
    old.wait_log(|log| log.contains("draining"));
    upstream.open.send_replace(true);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(old.child.wait().unwrap().success(), "{}", old.log());
    assert!(!old.log().contains("did not finish"), "{}", old.log());
    let seen = upstream.seen.lock().unwrap();
    assert_eq!((answered.load(Ordering::SeqCst), seen.len()), (CALLERS * EACH, CALLERS * EACH));
    assert!(seen.values().all(|count| *count == 1), "one was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_10000_requests_500_in_flight_none_is_lost_across_a_restart_with_socket_hand_over() {
    restart(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_10000_requests_that_come_and_go_none_is_lost_across_a_restart_with_socket_hand_over() {
    restart(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_both_kinds_are_taken_over_by_their_address_and_left_to_the_next() {
    let root = Root::new();
    let origin = Origin::http().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.sock");
    let (unix, tcp) = (UnixListener::bind(&path).unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let admin = tcp.local_addr().unwrap().to_string();
    let listeners = format!("  forward:\n    - address: unix:{}\n    - address: 127.0.0.1:0\n", path.display());
    let config = Config::new().listeners(&listeners).resolve("api.test:80", origin.address).bindings(OPEN);
    let config = config.rest(&format!("admin: {{ address: \"{admin}\", api: false }}\n")).text();
    let start = || {
        let sockets = vec![unix.try_clone().unwrap().into(), tcp.try_clone().unwrap().into()];
        Proxy::start_on(sockets, &config, &[("SECRET", SECRET)], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        })
    };
    for _ in 0..2 {
        let proxy = start();
        assert_eq!(raw(&admin, &get("/livez")).status(), 200);
        assert_eq!(talk(UnixStream::connect(&path).unwrap(), GET).status(), 200);
        assert_eq!(raw(&proxy.address("forward", 1), GET).status(), 200, "what was not handed over is bound");
        // Without a listener its callers would wait for ever: such a configuration is refused.
        let text = std::fs::read_to_string(&proxy.config).unwrap();
        let line = format!("    - address: unix:{}\n", path.display());
        std::fs::write(&proxy.config, text.replace(&line, "")).unwrap();
        proxy.wait_log(|log| log.contains("no listener has that address"));
        std::fs::write(&proxy.config, text).unwrap();
        proxy.wait_log(|log| log.contains("configuration reloaded"));
        assert_eq!(talk(UnixStream::connect(&path).unwrap(), GET).status(), 200);
        proxy.stop();
        assert!(path.exists(), "the file is its maker's");
    }
}

#[test]
fn a_socket_that_no_listener_has_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let config = folder.path().join("c.yaml");
    let ca = folder.path().join("ca");
    std::fs::write(
        &config,
        format!("listeners: {{ forward: [{{ address: \"127.0.0.1:0\" }}] }}\nca: {{ directory: {} }}\n", ca.display()),
    )
    .unwrap();
    let serve = |pid: &str| {
        let script = format!("exec 3<&0 </dev/null; exec env LISTEN_FDS=1 LISTEN_PID={pid} \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "sh", binary().to_str().unwrap(), "serve", "--config", config.to_str().unwrap()]);
        command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let output = serve("$$").wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("a socket for {address} was handed over")), "{said}");
    // What is meant for another process is none of ours.
    let mut other = serve("1");
    let mut lines = BufReader::new(other.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("started")));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_what_is_required_and_startup_only_for_the_first_try() {
    let root = Root::new();
    let (fails, gate) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (failing, answering) = (Arc::clone(&fails), Arc::clone(&gate));
    let idp = Origin::https_with(&root, &["idp.test"], &["http/1.1"], move |_| {
        until("it may answer", || answering.load(Ordering::SeqCst));
        if failing.load(Ordering::SeqCst) {
            return text(503, "down");
        }
        let mut answer = text(200, r#"{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}"#);
        answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
        answer
    })
    .await;
    let credential = |id: &str, required: bool| {
        format!(
            "  - {{ id: {id}, scheme: oauth2, token_url: \"https://idp.test/{id}\", grant_type: client_credentials, client_id: me, \
             client_secret: {{ env: SECRET }}, hosts: [{id}.test], required: {required} }}\n"
        )
    };
    let credentials = credential("api", true) + &credential("other", false);
    let config = Config::new().credentials(&credentials).bindings("  - { credential: api, hosts: [api.test] }\n");
    let proxy = config.resolve("idp.test:443", idp.address).rest(ADMIN).start(&root);
    let admin = proxy.address("admin", 0);
    let health = |which: &str| countersign(&["health", which, "--address", &admin]).output().unwrap();
    assert!(health("--live").status.success());
    let early = health("--startup");
    assert_eq!(early.status.code(), Some(1));
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(said.contains("credential api: its token was not obtained yet"), "{said}");
    gate.store(true, Ordering::SeqCst);
    until("tried", || health("--startup").status.success());
    let ready = health("--ready");
    assert!(ready.status.code() == Some(1) && String::from_utf8_lossy(&ready.stderr).contains("credential api: "));
    // The provider recovers, and nobody had to ask.
    fails.store(false, Ordering::SeqCst);
    until("ready", || raw(&admin, &get("/readyz")).status() == 200);
    assert!(health("--ready").status.success());
    assert!(idp.seen().iter().all(|seen| seen.target == "/api"), "what is not required waits for its first use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_is_no_readiness_and_no_start() {
    let root = Root::new();
    let config = Config::new().rest("admin: { address: 127.0.0.1:0 }\n");
    let down = "store: { url: \"postgres://nobody@127.0.0.1:1/none\", password: { env: SECRET }, key: { file: FOLDER/key } }\n";
    let proxy = Proxy::start_with(&config.rest(down).text(), &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("key"), "k".repeat(43) + "=\n").unwrap();
    });
    let admin = proxy.address("admin", 0);
    for page in ["/readyz", "/startupz"] {
        let answer = raw(&admin, &get(page));
        assert!(answer.status() == 503 && answer.text.contains("store: "), "{}", answer.text);
    }
    assert_eq!(raw(&admin, &get("/livez")).status(), 200);
    // One that is there.
    let proxy = Config::new().rest("admin: { address: 127.0.0.1:0 }\n").start(&root);
    for page in ["/readyz", "/startupz"] {
        assert_eq!(raw(&proxy.address("admin", 0), &get(page)).status(), 200, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_drains_where_it_is_switched_on_and_no_web_page_asks() {
    let root = Root::new();
    let post = |host: &str, more: &str| {
        format!("POST /quit HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n")
            .into_bytes()
    };
    let off = Config::new().rest(ADMIN).start(&root);
    assert_eq!(raw(&off.address("admin", 0), &post("localhost", "")).status(), 404);
    let refused = countersign(&["quit", "--address", &off.address("admin", 0)]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`admin.quit` is not true"));
    assert_eq!(raw(&off.address("admin", 0), &get("/readyz")).status(), 200);

    let mut on = Config::new().rest("admin: { address: 127.0.0.1:0, api: false, quit: true }\n").start(&root);
    let admin = on.address("admin", 0);
    assert_eq!(raw(&admin, &post("evil.test", "")).status(), 421);
    assert_eq!(raw(&admin, &post("localhost", "Origin: http://evil.test\r\n")).status(), 421);
    assert_eq!(raw(&admin, &get("/quit")).status(), 405);
    assert_eq!(raw(&admin, &get("/readyz")).status(), 200, "none of these ended it");
    let quit = countersign(&["quit", "--config", on.config.to_str().unwrap(), "--address", &admin]).output().unwrap();
    assert!(quit.status.success(), "{quit:?}");
    assert!(on.child.wait().unwrap().success());
    assert!(on.log().contains("told to end by POST /quit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_when_its_sidecar_is_up_and_the_sidecar_ends_after_it() {
    let root = Root::new();
    let origin = Origin::http().await;
    let config = Config::new().resolve("api.test:80", origin.address).bindings(OPEN).rest(ADMIN);
    let mut sidecar = config.start(&root);
    let admin = sidecar.address("admin", 0);
    let probe = |which: &str| countersign(&["health", which, "--address", &admin]).status().unwrap().success();
    until("started", || probe("--startup"));
    until("ready", || probe("--ready"));
    // The job: a program that knows nothing but its environment.
    let job = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "http://api.test/job"])
        .env("http_proxy", format!("http://{}", sidecar.forward()))
        .output()
        .unwrap();
    assert!(job.status.success(), "{job:?}");
    assert_eq!(origin.only().target, "/job");
    sidecar.signal("TERM");
    // A pod's grace is 30 s unless it says otherwise; the wait is bounded by that.
    let deadline = std::time::Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = sidecar.child.try_wait().unwrap() {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "killed by its grace:\n{}", sidecar.log());
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
    assert!(!probe("--live"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_is_told_what_happens() {
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let said = || {
        let mut buffer = [0; 1024];
        let count = supervisor.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let variables = [("SECRET", SECRET), ("NOTIFY_SOCKET", path.to_str().unwrap())];
    let proxy = Proxy::start_with(&Config::new().text(), &variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    assert_eq!(said(), "READY=1\n");
    proxy.signal("HUP");
    let reloading = said();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(said(), "READY=1\n");
    proxy.stop();
    assert_eq!(said(), "STOPPING=1\n");
}
