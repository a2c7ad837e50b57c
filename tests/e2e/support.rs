//! A running Countersign, an origin that records what reaches it, and raw callers.

pub mod management;
pub mod namespaces;
pub mod postgres;
pub mod redis;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Nothing that a test waits for takes this long; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The binary under test: a release build when `tests/run` made one.
pub fn binary() -> PathBuf {
    std::env::var_os("COUNTERSIGN_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_countersign")), PathBuf::from)
}

/// A command of the binary with an environment of nothing but what a user has.
pub fn countersign(arguments: &[&str]) -> Command {
    program_with(&binary(), arguments)
}

fn program_with(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
    command
}

/// A root that signs the certificates of test origins.
pub struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test origin root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for some names, as DER and PEM.
    pub fn leaf(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test origin");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate, key)
    }

    pub fn server_config(&self, names: &[&str], alpn: &[&str]) -> Arc<rustls::ServerConfig> {
        provider();
        let (certificate, key) = self.leaf(names);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// One TLS provider for every test.
pub fn provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// What reached an origin.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: http::Method,
    pub target: String,
    pub version: http::Version,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

pub type Answer = Response<BoxBody<Bytes, Infallible>>;
type Handler = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

pub fn text(status: u16, body: &str) -> Answer {
    Response::builder().status(status).body(Full::new(Bytes::from(body.to_owned())).boxed()).unwrap()
}

/// A server that records every request and answers `hello from the origin`, unless told otherwise.
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Origin {
    /// Cleartext HTTP/1.1.
    pub async fn http() -> Self {
        Self::start(None, Arc::new(|_| text(200, "hello from the origin"))).await
    }

    /// TLS with HTTP/2 and HTTP/1.1.
    pub async fn https(root: &Root, names: &[&str]) -> Self {
        Self::https_with(root, names, &["h2", "http/1.1"], |_| text(200, "hello from the origin")).await
    }

    pub async fn https_with(
        root: &Root,
        names: &[&str],
        alpn: &[&str],
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(root.server_config(names, alpn)), Arc::new(handler)).await
    }

    pub async fn http_with(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(handler)).await
    }

    async fn start(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        Self::at(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), tls, handler)
    }

    /// TLS for some names (HTTP/2 and HTTP/1.1), or cleartext where there are none, on a socket that is there already:
    /// one of another network namespace, say.
    pub fn on(listener: std::net::TcpListener, tls: Option<(&Root, &[&str])>) -> Self {
        let tls = tls.map(|(root, names)| root.server_config(names, &["h2", "http/1.1"]));
        Self::at(listener, tls, Arc::new(|_| text(200, "hello from the origin")))
    }

    fn at(listener: std::net::TcpListener, tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (record, count) = (Arc::clone(&seen), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let (tls, handler, record) = (tls.clone(), Arc::clone(&handler), Arc::clone(&record));
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (handler, record) = (Arc::clone(&handler), Arc::clone(&record));
                        async move {
                            let (parts, body) = request.into_parts();
                            let Ok(body) = body.collect().await else {
                                return Ok::<_, Infallible>(text(400, "broken body"));
                            };
                            let seen = Seen {
                                method: parts.method,
                                target: parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned(),
                                version: parts.version,
                                headers: parts.headers,
                                body: body.to_bytes(),
                            };
                            let answer = handler(&seen);
                            record.lock().unwrap().push(seen);
                            Ok(answer)
                        }
                    });
                    match tls {
                        None => {
                            let io = TokioIo::new(stream);
                            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                        }
                        Some(config) => {
                            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            let io = TokioIo::new(stream);
                            if h2 {
                                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                                let _ = builder.serve_connection(io, service).await;
                            } else {
                                let builder = hyper::server::conn::http1::Builder::new();
                                let _ = builder.serve_connection(io, service).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, connections }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// Nothing reached it, not even a connection.
    pub fn untouched(&self) -> bool {
        self.seen.lock().unwrap().is_empty() && *self.connections.lock().unwrap() == 0
    }
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

/// A running `countersign serve`.
pub struct Proxy {
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub config: PathBuf,
    log: Arc<Log>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// Starts it with a configuration in which `FOLDER` stands for a folder of the test's own, and waits until it listens.
    pub fn start_with(config: &str, variables: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        Self::start_program(&binary(), tempfile::tempdir().unwrap(), config, variables, prepare)
    }

    /// Kills it at once and starts another in the same folder, with the same configuration.
    pub fn killed_and_started_again(mut self, program: &Path, variables: &[(&str, &str)]) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let config = std::fs::read_to_string(&self.config).unwrap();
        Self::start_program(program, folder, &config, variables, |_| {})
    }

    /// The same for a certain binary and folder.
    pub fn start_program(
        program: &Path,
        folder: tempfile::TempDir,
        config: &str,
        variables: &[(&str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        Self::start_command(program_with(program, &[]), folder, config, variables, prepare)
    }

    /// The same for a command that becomes the program: its arguments are added.
    pub fn start_command(
        mut command: Command,
        folder: tempfile::TempDir,
        config: &str,
        variables: &[(&str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        Self::start(folder, config, prepare, |config| {
            command.args(["serve", "--config", config]).envs(variables.iter().copied()).stdout(Stdio::null());
            command
        })
    }

    /// Starts it with listening sockets of ours (two at most), as systemd hands them over.
    pub fn start_on(
        sockets: Vec<OwnedFd>,
        config: &str,
        variables: &[(&str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        // A child has its first descriptors from us and none else: they are moved to where LISTEN_FDS says they are.
        let script = "exec 3<&0 4<&1 </dev/null >/dev/null; exec env LISTEN_FDS=\"$COUNT\" LISTEN_PID=$$ \"$@\"";
        Self::start(tempfile::tempdir().unwrap(), config, prepare, |config| {
            let program = binary();
            let mut command = program_with(
                Path::new("sh"),
                &["-c", script, "sh", program.to_str().unwrap(), "serve", "--config", config],
            );
            command.envs(variables.iter().copied()).env("COUNT", sockets.len().to_string()).stdout(Stdio::null());
            let mut sockets = sockets.into_iter();
            command.stdin(sockets.next().map_or_else(Stdio::null, Stdio::from));
            command.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from));
            command
        })
    }

    fn start(
        folder: tempfile::TempDir,
        config: &str,
        prepare: impl FnOnce(&Path),
        command: impl FnOnce(&str) -> Command,
    ) -> Self {
        prepare(folder.path());
        let path = folder.path().join("countersign.yaml");
        let text = config.replace("FOLDER", folder.path().to_str().unwrap());
        let text = if text.contains("\nca:") || text.starts_with("ca:") {
            text
        } else {
            format!("{text}\nca: {{ directory: {}/ca }}\n", folder.path().display())
        };
        std::fs::write(&path, text).unwrap();
        let mut command = command(path.to_str().unwrap());
        command.stderr(Stdio::piped()).current_dir(folder.path());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (sink, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                sink.text.lock().unwrap().push_str(&(line + "\n"));
                sink.grown.notify_all();
            }
            sink.text.lock().unwrap().push_str("END OF LOG\n");
            sink.grown.notify_all();
        });
        let proxy = Self { child, folder, config: path, log, reader: Some(reader) };
        let started = proxy.wait_log(|log| log.contains("\"started\"") || log.contains("END OF LOG"));
        assert!(started.contains("\"started\""), "it did not start:\n{started}");
        proxy
    }

    /// Waits until the log fulfils a condition and returns it.
    pub fn wait_log(&self, done: impl Fn(&str) -> bool) -> String {
        let guard = self.log.text.lock().unwrap();
        let (guard, timeout) = self.log.grown.wait_timeout_while(guard, DEADLINE, |text| !done(text)).unwrap();
        let text = guard.clone();
        // The lock is free again before anything fails, so that the log can still be shown.
        drop(guard);
        assert!(!timeout.timed_out(), "the log never said it");
        text
    }

    pub fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Request lines of the log, parsed.
    pub fn requests(&self, count: usize) -> Vec<serde_json::Value> {
        let lines = |log: &str| -> Vec<serde_json::Value> {
            let request = |value: &serde_json::Value| value["target"] == "countersign::request";
            log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(request).collect()
        };
        lines(&self.wait_log(|log| lines(log).len() >= count))
    }

    /// The address of the n-th listener of a kind.
    pub fn address(&self, kind: &str, index: usize) -> String {
        let log = self.log();
        let of_kind = |value: &serde_json::Value| value["message"] == "listening" && value["listener"] == kind;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let address = lines.filter(of_kind).nth(index).unwrap_or_else(|| panic!("no {kind} {index}:\n{log}"));
        address["address"].as_str().unwrap().to_owned()
    }

    pub fn forward(&self) -> String {
        self.address("forward", 0)
    }

    pub fn reverse(&self) -> String {
        self.address("reverse", 0)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca/ca.pem")
    }

    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("ca-bundle.pem")
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it by SIGTERM and returns its whole log.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
        self.log()
    }

    /// A client that trusts our CA, through the forward listener.
    pub fn client(&self) -> reqwest::Client {
        self.client_as("")
    }

    /// The same with proxy credentials, such as `runner:token@`.
    pub fn client_as(&self, userinfo: &str) -> reqwest::Client {
        provider();
        let root = reqwest::Certificate::from_pem(&std::fs::read(self.ca_file()).unwrap()).unwrap();
        let proxy = reqwest::Proxy::all(format!("http://{userinfo}{}", self.forward())).unwrap();
        reqwest::Client::builder()
            .no_proxy()
            .proxy(proxy)
            .tls_certs_only([root])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .build()
            .unwrap()
    }

    /// Resident memory in KiB that is the process's own: without the pages of the program's file, which are clean and shared.
    pub fn own_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Resident memory in KiB, and its peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS"), field("VmHWM"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of countersign ---\n{}", self.log());
        }
    }
}

/// The usual configuration: names under `.test` lead to loopback origins; `api.test` is bound to an api_key in `SECRET`.
pub struct Config {
    pub listeners: String,
    pub resolve: Vec<(String, SocketAddr)>,
    pub credentials: String,
    pub bindings: String,
    pub rest: String,
}

pub const SECRET: &str = "s3cret-k3y";

impl Config {
    pub fn new() -> Self {
        Self {
            listeners: "  forward:\n    - address: 127.0.0.1:0\n".into(),
            resolve: Vec::new(),
            credentials: "  - { id: key, scheme: api_key, key: { env: SECRET }, hosts: [api.test, \"*.api.test\"] }\n"
                .into(),
            bindings: "  - { credential: key, hosts: [api.test] }\n".into(),
            rest: String::new(),
        }
    }

    pub fn resolve(mut self, name: &str, address: SocketAddr) -> Self {
        self.resolve.push((name.into(), address));
        self
    }

    pub fn listeners(mut self, text: &str) -> Self {
        self.listeners = text.into();
        self
    }

    pub fn credentials(mut self, text: &str) -> Self {
        self.credentials = text.into();
        self
    }

    pub fn bindings(mut self, text: &str) -> Self {
        self.bindings = text.into();
        self
    }

    pub fn rest(mut self, text: &str) -> Self {
        self.rest.push_str(text);
        self
    }

    pub fn text(&self) -> String {
        let mut resolve = String::new();
        for (name, address) in &self.resolve {
            resolve.push_str(&format!("    \"{name}\": {address}\n"));
        }
        format!(
            "listeners:\n{}credentials:\n{}bindings:\n{}upstream:\n  allow_addresses: [127.0.0.0/8]\n  ca_file: FOLDER/origin.pem\n  \
             resolve:\n    \"unused.test:1\": 127.0.0.1:1\n{resolve}{}",
            self.listeners, self.credentials, self.bindings, self.rest
        )
    }

    pub fn start(&self, root: &Root) -> Proxy {
        Proxy::start_with(&self.text(), &[("SECRET", SECRET), ("TOKEN", "t0ken")], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        })
    }
}

/// An answer as it came over a raw connection.
#[derive(Debug, Clone)]
pub struct Raw {
    pub text: String,
}

impl Raw {
    pub fn status(&self) -> u16 {
        self.text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The `code` of the problem document in it.
    pub fn code(&self) -> String {
        let body = self.text.split("\r\n\r\n").last().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends bytes and reads until the other side closes, or says nothing more for a while after an answer began.
pub fn raw(address: &str, bytes: &[u8]) -> Raw {
    let stream = TcpStream::connect(address).unwrap();
    talk(stream, bytes)
}

pub fn talk(mut stream: impl Read + Write, bytes: &[u8]) -> Raw {
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
    Raw { text: read_answer(&mut stream) }
}

/// Reads one answer: its head, and its body by content-length, chunks or the end of the connection.
pub fn read_answer(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            _ => return String::from_utf8_lossy(&answer).into_owned(),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length, 0);
        let mut read = 0;
        while read < length {
            match stream.read(&mut body[read..]) {
                Ok(count) if count > 0 => read += count,
                _ => break,
            }
        }
        body.truncate(read);
    } else if head.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => body.push(byte[0]),
                _ => break,
            }
        }
    }
    answer.extend(body);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A blocking TLS client connection inside a CONNECT tunnel, with any server name.
pub fn tls_tunnel(
    proxy: &Proxy,
    connect: &str,
    sni: &str,
    alpn: &[&str],
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    tls_tunnel_as(proxy, connect, sni, alpn, None)
}

/// The same with proxy credentials, such as `runner:token`.
pub fn tls_tunnel_as(
    proxy: &Proxy,
    connect: &str,
    sni: &str,
    alpn: &[&str],
    user: Option<&str>,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    provider();
    let mut stream = TcpStream::connect(proxy.forward()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let proof = user.map(|user| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user)));
    let proof = proof.unwrap_or_default();
    write!(stream, "CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n{proof}\r\n").unwrap();
    let answer = read_connect(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoVerifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = rustls_pki_types::ServerName::try_from(sni.to_owned()).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(connection, stream)
}

/// The head of an answer to CONNECT, and not a byte more.
pub fn read_connect(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// For the caller that trusts everything: what a careless script does, and an attacker.
#[derive(Debug)]
struct NoVerifier;

impl rustls::client::danger::ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The test kit, or the reason why this test is skipped. In CI a missing kit is a failure.
pub fn kit(test: &str) -> Option<PathBuf> {
    let kit = std::env::var_os("COUNTERSIGN_TESTKIT").map(PathBuf::from);
    match kit.filter(|kit| kit.join("venv/bin/python").exists()) {
        Some(kit) => Some(kit),
        None => skip(test, "the test kit is not installed; run tests/run"),
    }
}

/// A command of the system, or a skip.
pub fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
    found.or_else(|| skip(test, &format!("{name} is not installed")))
}

/// A figure that a test measured, for `tests/run` to print.
pub fn measured(text: &str) {
    println!("{text}");
    append("COUNTERSIGN_MEASURED", text);
}

/// Adds a line to the file that a variable names, if it names one.
fn append(variable: &str, line: &str) {
    if let Some(file) = std::env::var_os(variable) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

pub fn skip<T>(test: &str, why: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "{test}: {why}");
    println!("SKIPPED {test}: {why}");
    append("COUNTERSIGN_SKIPPED", &format!("{test}: {why}"));
    None
}

/// Runs a client with exactly this environment, and returns its standard output parsed as JSON.
pub fn run_client(
    program: &Path,
    arguments: &[&str],
    environment: &HashMap<String, String>,
) -> Result<serde_json::Value, String> {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .envs(environment)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{} {stdout} {stderr}", output.status));
    }
    serde_json::from_str(stdout.trim().lines().last().unwrap_or_default()).map_err(|_| format!("{stdout} {stderr}"))
}

/// A real token server of `tests/idp`, which ends with the test.
pub struct Idp {
    child: Child,
    pub facts: serde_json::Value,
}

impl Idp {
    /// `oidc-provider` on node, or `authlib` on Python.
    pub fn start(kit: &Path, program: &str, config: &serde_json::Value) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/idp");
        let mut command = match program {
            "oidc_provider" => {
                let mut command = Command::new("node");
                command.arg(folder.join("oidc_provider.mjs")).env("TESTKIT_NODE", kit.join("node"));
                command
            }
            _ => {
                let mut command = Command::new(kit.join("venv/bin/python"));
                command.arg(folder.join("authlib_server.py"));
                command
            }
        };
        command
            .env("IDP_CONFIG", config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{program} did not start with {config}"));
        Self { child, facts }
    }

    pub fn url(&self, name: &str) -> String {
        self.facts[name].as_str().unwrap().to_owned()
    }

    /// One of the administrative endpoints.
    pub async fn admin(&self, path: &str, body: Option<serde_json::Value>) -> serde_json::Value {
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.facts["admin"]);
        let request = match body {
            Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
            None => client.get(url),
        };
        let answer = request.send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default()
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Apache in the foreground, which ends with the test.
pub struct Apache {
    child: Child,
    pub address: SocketAddr,
    /// What it said: read all the time, or it stands still.
    log: Arc<Mutex<Vec<String>>>,
}

impl Apache {
    pub const MODULES: &str = "/usr/lib/apache2/modules";

    /// Starts it at a free port. `program` is told the address and has to write it into the configuration, with
    /// `ErrorLog /dev/stderr`. It cannot choose a port itself, and a free one may be taken again before it binds it.
    pub fn start(program: impl Fn(SocketAddr) -> Command) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut attempts = (0..5).map(|_| free()).filter_map(|address| Self::at(address, program(address)));
        attempts.next().expect("five free ports were taken by others")
    }

    /// Starts it at an address, or `None` when somebody else has that.
    fn at(address: SocketAddr, mut program: Command) -> Option<Self> {
        // When it ends, it ends its whole process group.
        std::os::unix::process::CommandExt::process_group(&mut program, 0);
        let child =
            program.arg("-DFOREGROUND").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        // Whatever goes wrong from here on, it is ended.
        let mut apache = Self { child: child.unwrap(), address, log: Arc::default() };
        let lines = BufReader::new(apache.child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let (ready, readiness) = std::sync::mpsc::channel();
        let log = Arc::clone(&apache.log);
        std::thread::spawn(move || {
            for line in lines {
                let resuming = line.contains("resuming normal operations");
                log.lock().unwrap().push(line);
                if resuming {
                    let _ = ready.send(());
                }
            }
        });
        match readiness.recv_timeout(DEADLINE) {
            Ok(()) => Some(apache),
            // Its standard error ended before it was ready.
            Err(_) => {
                let log = apache.log.lock().unwrap();
                assert!(log.iter().any(|line| line.contains("could not bind")), "Apache did not start: {log:#?}");
                None
            }
        }
    }

    /// Another process at the same place.
    pub fn restart(mut self, program: impl Fn(SocketAddr) -> Command) -> Self {
        self.stop();
        Self::at(self.address, program(self.address)).expect("its port was taken by somebody else")
    }

    fn stop(&mut self) {
        // Its children end with it only when it is asked.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!(
                "--- log of Apache ---\n{}",
                self.log.lock().map_or_else(|_| String::new(), |log| log.join("\n"))
            );
        }
    }
}
