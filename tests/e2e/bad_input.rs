//! What bad input gets: a clear error for the caller, nothing for the upstream, no secret in the log, and the process lives on.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Config, DEADLINE, Origin, Proxy, Root, SECRET, raw, read_answer, read_connect, text, tls_tunnel};

/// A proxy with one origin, reached as `api.test` over cleartext and, when bound, with the credential.
async fn cleartext() -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .start(&root);
    (proxy, origin)
}

/// Everything that a refusal promises.
fn refused(proxy: Proxy, origin: &Origin, answer: &crate::support::Raw, status: u16, code: &str) {
    assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{}", answer.text);
    assert!(origin.untouched(), "the upstream saw something");
    // The process lives on: a good request still passes.
    let good = raw(&proxy.forward(), b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!(good.status(), 200, "{}", good.text);
    let log = proxy.stop();
    assert!(!log.contains(SECRET), "{log}");
}

async fn refused_head(head: &[u8], status: u16, code: &str) {
    let (proxy, origin) = cleartext().await;
    let answer = raw(&proxy.forward(), head);
    refused(proxy, &origin, &answer, status, code);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_host_headers_are_refused() {
    refused_head(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\n\r\n", 400, "bad_request")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_header_that_differs_from_the_request_line_is_refused() {
    refused_head(b"GET http://api.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421, "destination_mismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_length_with_transfer_encoding_is_refused() {
    let head = b"POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused_head(head, 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_content_lengths_are_refused_even_when_they_agree() {
    let head = b"POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
    refused_head(head, 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_chunk_size_is_refused() {
    let head = b"POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n";
    refused_head(head, 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folded_header_is_refused() {
    refused_head(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\r\n b\r\n\r\n", 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_a_header_is_refused() {
    refused_head(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n\r\n", 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn userinfo_in_the_authority_is_refused() {
    refused_head(b"GET http://api.test@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400, "bad_request").await;
    refused_head(b"CONNECT api.test@evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_form_on_a_forward_listener_is_refused() {
    refused_head(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_line_that_is_none_is_refused() {
    refused_head(b"\x00\x01\x02 nonsense\r\n\r\n", 400, "bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_past_the_limits_is_431() {
    let many = format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n{}\r\n", "X: y\r\n".repeat(120));
    refused_head(many.as_bytes(), 431, "overloaded").await;
    let large = format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    refused_head(large.as_bytes(), 431, "overloaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_with_a_credential_is_refused_since_it_would_send_it_back() {
    refused_head(b"TRACE http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, "bad_request").await;
}

/// A proxy with a TLS origin behind `api.test`.
async fn tls() -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let proxy = Config::new().resolve("api.test:443", origin.address).start(&root);
    (proxy, origin)
}

fn still_works(proxy: Proxy, origin: &Origin) {
    assert!(origin.untouched(), "the upstream saw something");
    let mut stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    drop(stream);
    assert!(!proxy.stop().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_name_that_differs_from_the_connect_target_is_refused() {
    let (proxy, origin) = tls().await;
    let mut stream = tls_tunnel(&proxy, "api.test:443", "evil.test", &["http/1.1"]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    let answer = crate::support::Raw { text: read_answer(&mut stream) };
    assert_eq!((answer.status(), answer.code().as_str()), (421, "destination_mismatch"), "{}", answer.text);
    still_works(proxy, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_inside_the_tunnel_that_differs_is_refused() {
    let (proxy, origin) = tls().await;
    for head in [
        "GET / HTTP/1.1\r\nHost: evil.test",
        "GET https://evil.test/ HTTP/1.1\r\nHost: api.test",
        "GET http://api.test/ HTTP/1.1\r\nHost: api.test",
        "GET / HTTP/1.1\r\nHost: api.test:8443",
    ] {
        let mut stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
        write!(stream, "{head}\r\n\r\n").unwrap();
        let answer = crate::support::Raw { text: read_answer(&mut stream) };
        assert_eq!((answer.status(), answer.code().as_str()), (421, "destination_mismatch"), "{head}: {}", answer.text);
    }
    still_works(proxy, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_authority_that_differs_is_refused() {
    let (proxy, origin) = tls().await;
    for (uri, host) in
        [("https://evil.test/", None), ("https://api.test/", Some("evil.test")), ("http://api.test/", None)]
    {
        let stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["h2"]);
        let (mut connection, socket) = (stream.conn, stream.sock);
        // The handshake is driven to its end here; then the async half takes over.
        let mut socket = socket;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
        let io = BlockingTls::start(connection, socket);
        let (mut sender, driver) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(io),
        )
        .await
        .unwrap();
        tokio::spawn(driver);
        let mut request = http::Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer =
            sender.send_request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 421, "{uri} {host:?}");
    }
    still_works(proxy, &origin);
}

/// A finished TLS session over a blocking socket, as an async stream.
struct BlockingTls;

impl BlockingTls {
    fn start(connection: rustls::ClientConnection, socket: TcpStream) -> tokio::io::DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        socket.set_read_timeout(Some(std::time::Duration::from_millis(5))).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut stream = rustls::StreamOwned::new(connection, socket);
                let mut theirs = theirs;
                let (mut from_caller, mut from_proxy) = ([0; 16384], [0; 16384]);
                loop {
                    let pause = std::time::Duration::from_millis(1);
                    match tokio::time::timeout(pause, theirs.read(&mut from_caller)).await {
                        Ok(Ok(0)) | Ok(Err(_)) => return,
                        Ok(Ok(count)) => {
                            if stream.write_all(&from_caller[..count]).and_then(|()| stream.flush()).is_err() {
                                return;
                            }
                        }
                        Err(_) => {}
                    }
                    match stream.read(&mut from_proxy) {
                        Ok(0) => return,
                        Ok(count) => {
                            if theirs.write_all(&from_proxy[..count]).await.is_err() {
                                return;
                            }
                        }
                        Err(error)
                            if matches!(
                                error.kind(),
                                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                            ) => {}
                        Err(_) => return,
                    }
                }
            });
        });
        ours
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_a_bound_host_with_plain_http_or_junk_inside_is_refused() {
    let (proxy, origin) = tls().await;
    for inside in [&b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n"[..], b"\x05\x01\x00junk", b"SSH-2.0-x\r\n"] {
        let mut stream = TcpStream::connect(proxy.forward()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n").unwrap();
        assert!(read_connect(&mut stream).starts_with("HTTP/1.1 200"));
        stream.write_all(inside).unwrap();
        let answer = crate::support::Raw { text: read_answer(&mut stream) };
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{}", answer.text);
    }
    // A TLS record that holds no ClientHello: the handshake fails, nothing else does.
    let mut stream = TcpStream::connect(proxy.forward()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n").unwrap();
    read_connect(&mut stream);
    stream.write_all(b"\x16\x03\x01\x00\x05junk!").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    still_works(proxy, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_authorization_cannot_take_the_credential_away() {
    let (proxy, origin) = cleartext().await;
    let answer = raw(
        &proxy.forward(),
        b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: authorization, host, x-hop\r\nX-Hop: 1\r\n\r\n",
    );
    assert_eq!(answer.status(), 200);
    let seen = origin.only();
    assert_eq!(seen.header("authorization").unwrap(), format!("Bearer {SECRET}"));
    assert_eq!(seen.header("host").unwrap(), "api.test");
    assert!(seen.header("x-hop").is_none());
    assert!(!proxy.stop().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_own_authorization_and_its_look_alikes_never_reach_a_bound_upstream() {
    let (proxy, origin) = cleartext().await;
    let answer = raw(
        &proxy.forward(),
        b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer mine\r\nAUTHORIZATION_: mine\r\nauthorization: mine\r\n\
          Proxy-Authorization: Basic bWluZQ==\r\nProxy_Authorization: mine\r\nProxy-Connection: mine\r\nCountersign-Anything: mine\r\n\r\n",
    );
    assert_eq!(answer.status(), 200);
    let seen = format!("{:?}", origin.only());
    assert!(!seen.contains("mine") && !seen.contains("bWluZQ"), "{seen}");
    assert_eq!(origin.only().headers.get_all("authorization").iter().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_rule_refuses_neighbours_and_tricks() {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .bindings("  - { credential: key, hosts: [api.test], paths: [/setup], allow_cleartext: true }\n")
        .start(&root);
    let get = |path: &str| {
        raw(&proxy.forward(), format!("GET http://api.test{path} HTTP/1.1\r\nHost: api.test\r\n\r\n").as_bytes())
    };
    for (path, status, code) in [
        ("/setup-x", 403, "unbound"),
        ("/setup/%2e%2e/", 400, "bad_request"),
        ("/setup/../admin", 400, "bad_request"),
        ("/setup/%2E%2e%2fadmin", 400, "bad_request"),
        ("/setup\\..\\admin", 400, "bad_request"),
        ("/setup/..;/admin", 400, "bad_request"),
        ("//setup", 400, "bad_request"),
    ] {
        let answer = get(path);
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{path}: {}", answer.text);
    }
    assert!(origin.untouched());
    assert_eq!(get("/setup/x").status(), 200);
    assert!(!proxy.stop().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_is_passed_on_and_the_next_request_gets_nothing() {
    let root = Root::new();
    let evil = Origin::http().await;
    let origin = Origin::http_with(|_| {
        let mut answer = text(302, "");
        answer.headers_mut().insert("location", "http://evil.test/steal".parse().unwrap());
        answer
    })
    .await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .resolve("evil.test:80", evil.address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .rest("unbound: pass\n")
        .start(&root);
    let answer = raw(&proxy.forward(), b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!(answer.status(), 302);
    assert!(answer.text.contains("http://evil.test/steal"));
    assert!(evil.untouched(), "the proxy followed a redirect");
    assert_eq!(raw(&proxy.forward(), b"GET http://evil.test/steal HTTP/1.1\r\nHost: evil.test\r\n\r\n").status(), 200);
    assert!(evil.only().header("authorization").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_addresses_are_refused_after_dns_and_as_literals() {
    let root = Root::new();
    let origin = Origin::http().await;
    let port = origin.address.port();
    // No range is allowed here, and the names resolve to where an attacker would have them.
    let config = format!(
        "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nunbound: pass\nupstream:\n  resolve:\n    \"a.test:80\": 127.0.0.1:{port}\n    \
         \"b.test:80\": \"[::ffff:127.0.0.1]:{port}\"\n    \"c.test:80\": 169.254.169.254:80\n"
    );
    let proxy =
        Proxy::start_with(&config, &[], |folder| std::fs::write(folder.join("origin.pem"), root.pem()).unwrap());
    for host in [
        "a.test",
        "b.test",
        "c.test",
        "localhost",
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
        "127.0.0.1.",
    ] {
        let answer = raw(&proxy.forward(), format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (403, "destination_forbidden"),
            "{host}: {}",
            answer.text
        );
        let answer = raw(&proxy.forward(), format!("CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n").as_bytes());
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (403, "destination_forbidden"),
            "{host}: {}",
            answer.text
        );
    }
    assert!(origin.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_to_our_own_listener_is_refused() {
    let (proxy, _origin) = cleartext().await;
    let own = proxy.forward();
    let port = own.rsplit(':').next().unwrap().to_owned();
    let folder = proxy.folder.path().join("countersign.yaml");
    let text = std::fs::read_to_string(&folder).unwrap();
    let looping = text
        .replace("bindings:\n", "bindings:\n  - { credential: key, hosts: [loop.api.test], allow_cleartext: true }\n")
        .replace("  resolve:\n", &format!("  resolve:\n    \"loop.api.test:80\": 127.0.0.1:{port}\n"));
    std::fs::write(&folder, looping).unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    let answer = raw(&own, b"GET http://loop.api.test/ HTTP/1.1\r\nHost: loop.api.test\r\n\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (403, "destination_forbidden"), "{}", answer.text);
    assert!(answer.text.contains("proxy_loop_detected"));
}

/// Configurations that are wrong, each with what the error must say.
#[test]
fn a_wrong_configuration_is_refused_with_its_path_line_and_reason() {
    for (text, expected) in [
        ("unbond: deny\n", "line 1: unbond: unknown section"),
        ("log: { levl: info }\n", "log.levl"),
        (
            "credentials:\n  - { id: a, scheme: basic, username: u, password: { env: P }, hosts: [a.test] }\n  - { id: b, scheme: basic, username: u, password: { env: P }, hosts: [a.test] }\n\
             bindings:\n  - { credential: a }\n  - { credential: b }\n",
            "line 6: bindings[1]: bindings[0] and bindings[1] bind different credentials",
        ),
        (
            "credentials:\n  - { id: a, scheme: basic, username: u, password: { file: /no/such/file }, hosts: [a.test] }\n",
            "/no/such/file",
        ),
        (
            "credentials:\n  - { id: a, scheme: api_key, key: { env: P }, hosts: [\"a.*.test\"] }\n",
            "credentials[0].hosts[0]",
        ),
        ("listeners: { forward: [{ address: 0.0.0.0:0 }] }\n", "allow_anonymous"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let output =
            crate::support::countersign(&["check", "--config", path.to_str().unwrap()]).env("P", "p").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}: {said}");
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_no_uri_gets_a_problem_document_too() {
    for target in ["http://api.test/a<b", "http://[::1/", "http:///x"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        refused_head(head.as_bytes(), 400, "bad_request").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_name_that_is_no_host_is_no_agreement() {
    let (proxy, origin) = tls().await;
    let mut stream = tls_tunnel(&proxy, "api.test:443", "xn--a.evil.test", &["http/1.1"]);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    let answer = crate::support::Raw { text: read_answer(&mut stream) };
    assert_eq!((answer.status(), answer.code().as_str()), (421, "destination_mismatch"), "{}", answer.text);
    still_works(proxy, &origin);
}

/// What an upstream that is a plain socket is sent for one request, byte for byte.
async fn upstream_sees(request: &[u8]) -> String {
    upstream_sees_with("", request).await
}

/// The same, as `api.test` where it is bound and as `free.test` where it is not, with more of a configuration.
async fn upstream_sees_with(rest: &str, request: &[u8]) -> String {
    let root = Root::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Config::new()
        .resolve("api.test:80", listener.local_addr().unwrap())
        .resolve("free.test:80", listener.local_addr().unwrap())
        .rest(rest)
        .credentials(
            "  - { id: key, scheme: api_key, key: { env: SECRET }, field: X_Api_Key, type: \"\", hosts: [api.test] }\n",
        )
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .start(&root);
    let origin = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if !head.contains("transfer-encoding: chunked")
                || body.ends_with("0\r\n\r\n")
                || body.contains("\r\n0\r\n") && body.ends_with("\r\n\r\n")
            {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                return text;
            }
        }
    });
    let answer = raw(&proxy.forward(), request);
    assert_eq!(answer.status(), 200, "{}", answer.text);
    origin.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_are_judged_like_headers() {
    let seen = upstream_sees(
        b"POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nTrailer: x-ok, x-api-key, countersign-x, proxy-x\r\nTransfer-Encoding: chunked\r\n\r\n\
          5\r\nhello\r\n0\r\nx-ok: fine\r\nX-Api-Key: mine\r\nCountersign-X: mine\r\nProxy-X: mine\r\n\r\n",
    )
    .await;
    assert!(seen.contains("5\r\nhello\r\n0\r\n") && !seen.contains("mine"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ours_goes_no_further_with_an_unbound_call_either() {
    let seen = upstream_sees_with(
        "unbound: pass\n",
        b"POST http://free.test/ HTTP/1.1\r\nHost: free.test\r\nAuthorization: own\r\nProxy-X: mine\r\nTrailer: x-ok, countersign-x\r\n\
          Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-ok: fine\r\nCountersign-X: mine\r\n\r\n",
    )
    .await;
    assert!(seen.contains("authorization: own") && !seen.contains("mine"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_spelt_with_hyphens_is_a_look_alike_of_one_spelt_with_underscores() {
    let seen =
        upstream_sees(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: mine\r\nX_Api-Key: mine\r\n\r\n")
            .await;
    assert!(seen.contains(&format!("x_api_key: {SECRET}")) && !seen.contains("mine"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let seen = upstream_sees(b"GET http://api.test/_search HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert!(seen.contains("transfer-encoding: chunked") && seen.contains("5\r\nhello\r\n0\r\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_turn_and_a_bad_one_among_them_in_its_turn() {
    let (proxy, origin) = cleartext().await;
    let get = "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let mut stream = TcpStream::connect(proxy.forward()).unwrap();
    stream.write_all(format!("{get}{get}{get}NONSENSE\r\n\r\n").as_bytes()).unwrap();
    for _ in 0..3 {
        assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    }
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 400"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_when_its_time_is_up() {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .rest("limits: { idle_timeout: 300ms }\n")
        .start(&root);
    let mut stream = TcpStream::connect(proxy.forward()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed, and nothing more was said");
}
