//! HTTP/2 load, WebSocket, gRPC, bodies of a gibibyte, a thousand idle connections: real programs through both legs, and
//! what they cost in memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Config, Proxy, Root, SECRET, kit, raw, read_answer, tls_tunnel, tool};

/// A program of the test kit that says where it listens, ended with the test.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().strip_prefix("listening ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
    command
}

/// Certificate and key files for a name.
fn files(root: &Root, folder: &Path, name: &str) -> (String, String) {
    let (certificate, key) = root.leaf(&[name]);
    let (cert_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert_path, certificate.pem()).unwrap();
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    (cert_path.to_str().unwrap().to_owned(), key_path.to_str().unwrap().to_owned())
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name).to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_passes_through_both_legs_over_http2_and_http1() {
    let test = "h2load";
    if tool(test, "h2load").is_none() || tool(test, "nghttpd").is_none() {
        return;
    }
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = files(&root, folder.path(), "api.test");
    std::fs::write(folder.path().join("page"), "x".repeat(10_000)).unwrap();
    // nghttpd wants a port by number: one that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut nghttpd = clean("nghttpd")
        .args(["--address=127.0.0.1", "-d", folder.path().to_str().unwrap(), &port.to_string(), &key, &cert])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(nghttpd.try_wait().unwrap().is_none(), "nghttpd ended");
        std::thread::yield_now();
    }
    let (server, server_key) = root.leaf(&["localhost"]);
    let listener = "    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /api, upstream: \"https://api.test\", credential: key }\n";
    let config = Config::new()
        .listeners(&format!(
            "  reverse:\n{listener}{}",
            listener.replace(
                "      routes",
                "      tls: { certificate: FOLDER/s.pem, key: { file: FOLDER/s.key } }\n      routes"
            )
        ))
        .bindings("  []\n")
        .resolve("api.test:443", SocketAddr::from(([127, 0, 0, 1], port)))
        .rest("log: { requests: false }\n");
    let proxy = Proxy::start_with(&config.text(), &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("s.pem"), server.pem()).unwrap();
        std::fs::write(folder.join("s.key"), server_key.serialize_pem()).unwrap();
    });
    for (index, scheme, extra) in [(0, "http", "-m10"), (1, "https", "-m10"), (0, "http", "--h1")] {
        let url = format!("{scheme}://{}/api/page", proxy.address("reverse", index));
        let output = clean("h2load").args(["-n2000", "-c20", extra, &url]).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(out.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{url} {extra}: {out}");
        assert!(out.contains("status codes: 2000 2xx"), "{url} {extra}: {out}");
    }
    let _ = nghttpd.kill();
    let _ = nghttpd.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_websocket_cases_pass_through_both_kinds_of_listener() {
    let Some(kit) = kit("websocket") else { return };
    let python = kit.join("venv/bin/python");
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = files(&root, folder.path(), "api.test");
    let mut server = clean(&python);
    // The server refuses a handshake without exactly the credential that the proxy is to inject.
    server.args([script("websocket/echo_server.py"), cert, key]).env("ECHO_AUTHORIZATION", format!("Bearer {SECRET}"));
    let server = Program::start(server);
    let listeners = "  forward:\n    - address: 127.0.0.1:0\n  reverse:\n    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /ws, upstream: \"https://api.test\", credential: key }\n";
    let proxy = Config::new()
        .listeners(listeners)
        .resolve("api.test:443", server.address)
        .rest("log: { requests: false }\n")
        .start(&root);
    let mut forward = clean(&python);
    forward
        .args([&script("websocket/cases_client.py"), "wss://api.test/"])
        .env("https_proxy", format!("http://{}", proxy.forward()))
        .env("SSL_CERT_FILE", proxy.bundle());
    let mut reverse = clean(&python);
    reverse.args([
        script("websocket/cases_client.py"),
        format!("ws://{}/ws", proxy.reverse()),
        "--cases".into(),
        "1.*,2.*,5.*,7.1.1".into(),
    ]);
    for (what, mut command) in [("forward", forward), ("reverse", reverse)] {
        let output = command.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let summary: serde_json::Value = serde_json::from_str(out.trim().lines().last().unwrap_or_default())
            .unwrap_or_else(|_| panic!("{what}: {out} {}", String::from_utf8_lossy(&output.stderr)));
        assert!(summary["cases"].as_u64().unwrap() >= 40, "{what}: {summary}");
        assert_eq!(summary["cases"], summary["passed"], "{what}: {summary}");
    }
    // The negative twin: without us the server refuses.
    let mut direct = std::net::TcpStream::connect(proxy.reverse()).unwrap();
    write!(direct, "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").unwrap();
    assert!(!read_answer(&mut direct).starts_with("HTTP/1.1 101"), "only WebSocket passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_passes_with_its_messages_as_they_come_and_its_trailers() {
    let Some(kit) = kit("grpc") else { return };
    let python = kit.join("venv/bin/python");
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = files(&root, folder.path(), "api.test");
    let mut server = clean(&python);
    server.args([script("grpc_echo_server.py"), cert, key, format!("Bearer {SECRET}")]);
    let server = Program::start(server);
    let proxy = Config::new().resolve("api.test:443", server.address).start(&root);
    let call = |extra: &[(&str, &str)]| -> serde_json::Value {
        let output = clean(&python)
            .args([&script("grpc_echo_client.py"), "api.test:443", "50"])
            .env("https_proxy", format!("http://{}", proxy.forward()))
            .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", proxy.bundle())
            .envs(extra.iter().copied())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let last = out.trim().lines().last().unwrap_or_default().to_owned();
        serde_json::from_str(&last).unwrap_or_else(|_| panic!("{out} {}", String::from_utf8_lossy(&output.stderr)))
    };
    let answer = call(&[]);
    assert_eq!((answer["messages"].as_u64(), answer["code"].as_str()), (Some(50), Some("OK")), "{answer}");
    assert_eq!(answer["trailers"]["echo-count"], "50", "{answer}");
    assert_eq!(call(&[("CLIENT_FAIL", "1")])["code"], "NOT_FOUND", "the status in the trailers is the server's");
}

const GIBIBYTE: u64 = 1 << 30;

/// A TLS origin that streams: it counts what is uploaded, and sends a gibibyte to whoever asks.
async fn streaming_origin(root: &Root) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let uploaded = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&uploaded);
    let tls = tokio_rustls::TlsAcceptor::from(root.server_config(&["api.test"], &["h2", "http/1.1"]));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, count) = (tls.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    let count = Arc::clone(&count);
                    async move {
                        let download = request.method() == http::Method::GET;
                        let mut body = request.into_body();
                        while let Some(Ok(frame)) = body.frame().await {
                            count.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
                        }
                        let piece = Bytes::from(vec![0; 64 * 1024]);
                        let pieces = if download { GIBIBYTE / 65536 } else { 0 };
                        let frames =
                            (0..pieces).map(move |_| Ok::<_, std::convert::Infallible>(Frame::data(piece.clone())));
                        Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(
                            futures_util::stream::iter(frames),
                        )))
                    }
                });
                let io = TokioIo::new(stream);
                if h2 {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    (address, uploaded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_each_way_moves_with_little_memory() {
    if tool("a gibibyte", "curl").is_none() {
        return;
    }
    let root = Root::new();
    let (address, uploaded) = streaming_origin(&root).await;
    let proxy = Config::new().resolve("api.test:443", address).start(&root);
    let curl = |arguments: &[&str], stdin: Stdio| {
        clean("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{http_version}"])
            .args(arguments)
            .env("https_proxy", format!("http://{}", proxy.forward()))
            .env("CURL_CA_BUNDLE", proxy.bundle())
            .stdin(stdin)
            .output()
            .unwrap()
    };
    for version in ["--http2", "--http1.1"] {
        let down = curl(&[version, "https://api.test/"], Stdio::null());
        let said = String::from_utf8_lossy(&down.stdout);
        assert!(
            said.starts_with(&format!("200 {GIBIBYTE} ")),
            "{version}: {said} {}",
            String::from_utf8_lossy(&down.stderr)
        );
        let before = uploaded.load(Ordering::Relaxed);
        let mut zeros = Command::new("head")
            .args(["-c", &GIBIBYTE.to_string(), "/dev/zero"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let up = curl(&[version, "-T", "-", "https://api.test/up"], zeros.stdout.take().unwrap().into());
        zeros.wait().unwrap();
        assert!(
            String::from_utf8_lossy(&up.stdout).starts_with("200 "),
            "{version}: {}",
            String::from_utf8_lossy(&up.stderr)
        );
        assert_eq!(uploaded.load(Ordering::Relaxed) - before, GIBIBYTE, "{version}");
    }
    let (_, peak) = proxy.memory();
    crate::support::measured(&format!("peak memory after 4 GiB: {peak} KiB"));
    assert!(peak < 64 * 1024, "{peak} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_a_thousand_idle_connections_cost_little_memory() {
    if std::env::var_os("COUNTERSIGN_BIN").is_none() {
        crate::support::skip::<()>("idle memory", "it is measured on the release build, by tests/run");
        return;
    }
    let root = Root::new();
    let origin = crate::support::Origin::https(&root, &["api.test"]).await;
    let proxy =
        Config::new().resolve("api.test:443", origin.address).rest("limits: { idle_timeout: 1h }\n").start(&root);
    let (idle, _) = proxy.memory();
    crate::support::measured(&format!("idle memory: {idle} KiB"));
    let own = proxy.own_memory();
    assert!(idle < 24 * 1024 && own < 6 * 1024, "{idle} and {own} KiB");
    let plain = b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let open: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(proxy.forward()).unwrap();
            stream.write_all(plain).unwrap();
            assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
            stream
        })
        .collect();
    let (plain_memory, _) = proxy.memory();
    let plain_own = proxy.own_memory();
    crate::support::measured(&format!("memory with 1000 idle connections: {plain_memory} KiB"));
    drop(open);
    let intercepted: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
            assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
            stream
        })
        .collect();
    let ((tls_memory, _), tls_own) = (proxy.memory(), proxy.own_memory());
    crate::support::measured(&format!(
        "memory with 1000 idle intercepted connections: {tls_memory} KiB, of which {tls_own} KiB are not the program's file"
    ));
    assert!(plain_own < 40 * 1024 && tls_own < 56 * 1024, "{plain_own} and {tls_own} KiB of its own");
    drop(intercepted);
    assert_eq!(raw(&proxy.forward(), plain).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_upstream_back() {
    let root = Root::new();
    let (address, _) = streaming_origin(&root).await;
    let proxy = Config::new().resolve("api.test:443", address).start(&root);
    let mut stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    let mut start = [0; 1024];
    stream.read_exact(&mut start).unwrap();
    // Nobody reads; a proxy without back-pressure would take in the gibibyte while it answers others.
    for _ in 0..500 {
        let other = raw(&proxy.forward(), b"GET https://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n");
        assert_eq!(other.code(), "unbound");
    }
    let (now, _) = proxy.memory();
    assert!(now < 96 * 1024, "{now} KiB were taken in");
}
