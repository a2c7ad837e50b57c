//! All request cases of `http_desync_guardian` (its own files, in `tests/vectors/desync/`) against both kinds of listener:
//! what it calls Severe never reaches an upstream as anything but exactly one well-formed request, and what reaches an
//! upstream at all is judged by the library itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;
use serde_json::Value;

use crate::support::{Config, Root};

struct Case {
    name: String,
    tier: String,
    /// The request with `{target}` where its address stands.
    head: String,
}

fn cases() -> Vec<Case> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/desync");
    let mut cases = Vec::new();
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let found: Vec<Value> =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for case in found {
            let field = |key: &str| match &case[key] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let plain =
                |value: &Value| value.as_str().map_or_else(|| value.to_string().replace("null", ""), str::to_owned);
            let mut head = format!("{} {} {}\r\n", field("method"), field("uri"), field("version"));
            for header in case["headers"].as_array().into_iter().flatten() {
                head.push_str(&format!("{}: {}\r\n", plain(&header["name"]), plain(&header["value"])));
            }
            head.push_str("\r\n");
            cases.push(Case {
                name: field("name"),
                tier: case["expected"]["tier"].as_str().unwrap_or_default().to_owned(),
                head,
            });
        }
    }
    cases
}

/// An upstream that keeps every byte it is sent, per connection, and answers each message that is complete.
struct Recorder {
    address: std::net::SocketAddr,
    connections: Connections,
}

/// The bytes of each connection.
type Connections = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

impl Recorder {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::default();
        let all = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
                all.lock().unwrap().push(Arc::clone(&bytes));
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count) = stream.read(&mut buffer) {
                        if count == 0 {
                            return;
                        }
                        let mut bytes = bytes.lock().unwrap();
                        bytes.extend_from_slice(&buffer[..count]);
                        if complete(&bytes).is_some() {
                            let _ =
                                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                            let _ = stream.shutdown(std::net::Shutdown::Write);
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }

    /// What came on each connection since the last call.
    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.connections.lock().unwrap())
            .iter()
            .map(|bytes| bytes.lock().unwrap().clone())
            .collect()
    }
}

/// The length of the first message in some bytes, by a reading of RFC 9112 that shares no code with the proxy.
fn complete(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if value("transfer-encoding") == Some("chunked") {
        let body = &bytes[end..];
        return body.windows(5).position(|five| five == b"0\r\n\r\n").map(|at| end + at + 5);
    }
    let length = value("content-length").map_or(0, |text| text.parse().unwrap());
    (bytes.len() >= end + length).then_some(end + length)
}

/// Sends a case with as much body as its framing could ask for, and reads until the end.
fn send(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(request);
    let _ = stream.write_all(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: smuggled.test\r\n\r\n");
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The library's own verdict on what reached the upstream.
fn tier(bytes: &[u8]) -> RequestSafetyTier {
    HttpRequestData::analyze_raw_request(bytes).tier
}

#[tokio::test(flavor = "multi_thread")]
async fn no_severe_request_reaches_an_upstream_as_anything_but_one_well_formed_request() {
    let cases = cases();
    assert_eq!(cases.len(), 159);
    let root = Root::new();
    let recorder = Recorder::start();
    let listeners = "  forward:\n    - address: 127.0.0.1:0\n  reverse:\n    - address: 127.0.0.1:0\n      server_names: [api.test]\n      routes:\n        - { prefix: /, upstream: \"http://api.test\", credential: key, allow_cleartext: true }\n";
    let proxy = Config::new()
        .listeners(listeners)
        .resolve("api.test:80", recorder.address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .start(&root);
    let (mut reached, mut severe) = (0, 0);
    for case in &cases {
        let with_host = |head: &str| {
            let has = head.to_ascii_lowercase().contains("\nhost:");
            if has { head.to_owned() } else { head.replacen("\r\n", "\r\nHost: api.test\r\n", 1) }
        };
        let (line, rest) = case.head.split_once("\r\n").unwrap();
        let absolute = match line.split_once(' ') {
            Some((method, target)) if target.starts_with('/') => format!("{method} http://api.test{target}\r\n{rest}"),
            _ => case.head.clone(),
        };
        severe += usize::from(case.tier == "Severe");
        for (kind, head) in [("forward", with_host(&absolute)), ("reverse", with_host(&case.head))] {
            let answer = send(&proxy.address(kind, 0), head.as_bytes());
            for bytes in recorder.take() {
                if bytes.is_empty() {
                    continue;
                }
                let what = format!(
                    "{kind}, {}: {head:?}\nreached the upstream as {:?}\nanswer {answer:?}",
                    case.name,
                    String::from_utf8_lossy(&bytes)
                );
                let Some(length) = complete(&bytes) else {
                    // A body that broke off is a request that never came to its end; no server acts on it.
                    assert_ne!(case.tier, "Severe", "{what}");
                    continue;
                };
                assert_eq!(length, bytes.len(), "more than one request: {what}");
                let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                assert_eq!(head.matches("\r\nhost:").count(), 1, "{what}");
                assert!(
                    head.matches("\r\ncontent-length:").count() + head.matches("\r\ntransfer-encoding:").count() <= 1,
                    "{what}"
                );
                let verdict = tier(&bytes);
                assert!(verdict != RequestSafetyTier::Severe, "{verdict:?}: {what}");
                assert!(!head.contains("host: smuggled.test"), "{what}");
                reached += 1;
            }
        }
    }
    assert!(reached > 30 && severe > 20, "{reached} reached, {severe} severe: the cases were not really sent");
    // The process lives on.
    assert!(
        send(&proxy.forward(), b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n").starts_with("HTTP/1.1 200")
    );
}
