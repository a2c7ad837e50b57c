//! The main job: an ordinary client calls an API through the forward listener, holds no key, and the API sees the
//! credential that is bound to the call.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::support::{Config, DEADLINE, Origin, Root, SECRET, raw, read_answer, text, tls_tunnel};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_key_reaches_an_https_api_with_the_bound_credential() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let proxy = Config::new().resolve("api.test:443", origin.address).start(&root);
    let answer = proxy
        .client()
        .get("https://api.test/v1/things?q=%20a")
        .header("authorization", "Bearer callers-own")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "hello from the origin");
    let seen = origin.only();
    assert_eq!(seen.target, "/v1/things?q=%20a");
    assert_eq!(seen.headers.get_all("authorization").iter().collect::<Vec<_>>(), [&format!("Bearer {SECRET}")]);
    assert!(!format!("{seen:?}").contains("callers-own"));
    let line = &proxy.requests(1)[0];
    assert_eq!(line["credential"], "key");
    assert_eq!(line["binding"], "bindings[0]");
    assert_eq!(line["destination"], "https://api.test");
    assert_eq!(line["caller"], "local");
    assert_eq!(line["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_https_request_in_cleartext_goes_out_over_tls() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let proxy = Config::new().resolve("api.test:443", origin.address).start(&root);
    let answer = raw(&proxy.forward(), b"GET https://api.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!(answer.status(), 200, "{}", answer.text);
    assert_eq!(origin.only().header("authorization").unwrap(), format!("Bearer {SECRET}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cleartext_upstreams_get_a_credential_only_where_the_binding_says_so() {
    let root = Root::new();
    let origin = Origin::http().await;
    let request = b"GET http://api.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let proxy = Config::new().resolve("api.test:80", origin.address).start(&root);
    let answer = raw(&proxy.forward(), request);
    assert_eq!((answer.status(), answer.code().as_str()), (403, "cleartext_refused"));
    assert!(origin.untouched());
    let open = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";
    let proxy = Config::new().resolve("api.test:80", origin.address).bindings(open).start(&root);
    assert_eq!(raw(&proxy.forward(), request).status(), 200);
    let seen = origin.only();
    assert_eq!(seen.header("host").unwrap(), "api.test");
    assert_eq!(seen.header("authorization").unwrap(), format!("Bearer {SECRET}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_caller_reaches_an_http2_upstream_and_an_http2_caller_an_http1_upstream() {
    let root = Root::new();
    let h2 = Origin::https_with(&root, &["api.test"], &["h2"], |_| text(200, "two")).await;
    let h1 = Origin::https_with(&root, &["www.api.test"], &["http/1.1"], |_| text(200, "one")).await;
    let proxy = Config::new()
        .resolve("api.test:443", h2.address)
        .resolve("www.api.test:443", h1.address)
        .bindings("  - { credential: key }\n")
        .start(&root);
    let mut one = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
    one.write_all(b"POST /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        .unwrap();
    let answer = read_answer(&mut one);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("two"), "{answer}");
    assert_eq!((h2.only().version, h2.only().body), (http::Version::HTTP_2, "hello".into()));
    // reqwest speaks HTTP/2 inside the tunnel when we offer it.
    let answer = proxy.client().post("https://www.api.test/down").body("hello").send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "one");
    let seen = h1.only();
    assert_eq!((seen.version, seen.body.as_ref()), (http::Version::HTTP_11, &b"hello"[..]));
    assert_eq!(seen.header("host").unwrap(), "www.api.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_no_content_and_not_modified_have_no_body_and_the_connection_goes_on() {
    let root = Root::new();
    let origin = Origin::https_with(&root, &["api.test"], &["http/1.1"], |seen| match seen.target.as_str() {
        "/204" => text(204, ""),
        "/304" => text(304, ""),
        _ => text(200, "body"),
    })
    .await;
    let proxy = Config::new().resolve("api.test:443", origin.address).start(&root);
    let mut stream = tls_tunnel(&proxy, "api.test:443", "api.test", &["http/1.1"]);
    for (request, status) in [("HEAD /", "200"), ("GET /204", "204"), ("GET /304", "304"), ("GET /", "200")] {
        write!(stream, "{request} HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {head}");
    }
    let mut body = [0; 4];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"body");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_host_is_denied_and_the_answer_shows_the_binding_it_needs() {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new().resolve("other.test:80", origin.address).start(&root);
    let answer = raw(&proxy.forward(), b"GET http://other.test/p?q=secret HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (403, "unbound"));
    assert!(answer.text.contains("hosts: [\\\"other.test\\\"]") && !answer.text.contains("secret"), "{}", answer.text);
    assert!(answer.text.to_ascii_lowercase().contains("proxy-status: countersign; error="));
    let answer = raw(&proxy.forward(), b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (403, "unbound"));
    assert!(origin.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_host_passes_blind_where_the_policy_says_so_and_a_bound_one_never() {
    let root = Root::new();
    let origin = Origin::https(&root, &["other.test"]).await;
    let config = |policy: &str| {
        Config::new()
            .listeners("  forward:\n    - address: 127.0.0.1:0\n    - { address: 127.0.0.1:0, intercept: false }\n")
            .resolve("other.test:443", origin.address)
            .resolve("api.test:443", origin.address)
            .rest(&format!("unbound: {policy}\n"))
            .start(&root)
    };
    let proxy = config("observe");
    // The client trusts only the origin's own root: what it sees is the origin's certificate, not ours.
    crate::support::provider();
    let client = reqwest::Client::builder()
        .no_proxy()
        .proxy(reqwest::Proxy::all(format!("http://{}", proxy.forward())).unwrap())
        .tls_certs_only([reqwest::Certificate::from_pem(root.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let answer = client.get("https://other.test/x").header("authorization", "mine").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.only().header("authorization").unwrap(), "mine");
    let log = proxy.wait_log(|log| log.contains("countersign::observe"));
    assert!(log.contains("hosts: [\\\"other.test\\\"]"), "{log}");
    let refused = raw(&proxy.address("forward", 1), b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n");
    assert_eq!((refused.status(), refused.code().as_str()), (403, "interception_off"));
    let refused = raw(&proxy.forward(), b"CONNECT other.test:22 HTTP/1.1\r\nHost: other.test:22\r\n\r\n");
    assert_eq!((refused.status(), refused.code().as_str()), (403, "unbound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_credential_by_header_or_by_the_user_of_the_proxy_credentials() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let proxy = Config::new()
        .resolve("api.test:443", origin.address)
        .credentials(
            "  - { id: key, scheme: api_key, key: { env: SECRET }, hosts: [api.test] }\n  \
               - { id: other, scheme: api_key, key: { env: TOKEN }, hosts: [api.test] }\n",
        )
        .bindings("  - { credential: key, hosts: [api.test] }\n  - { credential: other, hosts: [api.test], only_named: true }\n")
        .start(&root);
    let sent = |index: usize| origin.seen()[index].header("authorization").unwrap().to_owned();
    let get = |client: reqwest::Client| client.get("https://api.test/");
    get(proxy.client()).send().await.unwrap();
    get(proxy.client()).header("countersign-credential", "other").send().await.unwrap();
    get(proxy.client_as("local+other:x@")).send().await.unwrap();
    assert_eq!([sent(0), sent(1), sent(2)], [format!("Bearer {SECRET}"), "Bearer t0ken".into(), "Bearer t0ken".into()]);
    assert!(origin.seen().iter().all(|seen| seen.header("countersign-credential").is_none()));
    let refused = get(proxy.client()).header("countersign-credential", "nonesuch").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("credential_unknown"));
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_caller_as_they_are_sent() {
    let root = Root::new();
    let (sender, receiver) = tokio::sync::mpsc::channel::<&'static str>(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let origin = Origin::https_with(&root, &["api.test"], &["h2", "http/1.1"], move |_| {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver
                .poll_recv(cx)
                .map(|event| event.map(|text| Ok::<_, std::convert::Infallible>(Frame::data(text.into()))))
        });
        http::Response::builder()
            .header("content-type", "text/event-stream")
            .body(BodyExt::boxed(SyncStream::of(stream)))
            .unwrap()
    })
    .await;
    let proxy = Config::new().resolve("api.test:443", origin.address).start(&root);
    let mut answer = proxy.client().get("https://api.test/events").send().await.unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // Each is sent only after the one before arrived, so nothing on the way may hold one back.
        sender.send(event).await.unwrap();
        let chunk = tokio::time::timeout(DEADLINE, answer.chunk()).await.unwrap().unwrap().unwrap();
        assert_eq!(chunk, event);
    }
    drop(sender);
    // HTTP/2 may end a stream with an empty frame.
    while let Some(rest) = answer.chunk().await.unwrap() {
        assert!(rest.is_empty());
    }
}

/// `BoxBody` wants `Sync`; a stream that is only polled is as good as that behind a lock.
struct SyncStream;

impl SyncStream {
    fn of<S>(stream: S) -> StreamBody<impl futures_util::Stream<Item = S::Item> + Send + Sync>
    where
        S: futures_util::Stream + Send + Unpin + 'static,
    {
        let stream = std::sync::Mutex::new(stream);
        StreamBody::new(futures_util::stream::poll_fn(move |cx| {
            std::pin::Pin::new(&mut *stream.lock().unwrap()).poll_next(cx)
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_body_is_asked_for_only_when_the_upstream_asks_for_it() {
    let root = Root::new();
    // An origin that is a plain socket: it answers the head, and says whether any of the body came before.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";
    let proxy = Config::new()
        .resolve("api.test:80", address)
        .bindings(open)
        .rest("limits: { expect_continue_timeout: 4m }\n")
        .start(&root);
    for (first, expected) in [
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 417"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100"),
    ] {
        let mut caller = TcpStream::connect(proxy.forward()).unwrap();
        caller.set_read_timeout(Some(DEADLINE)).unwrap();
        caller
            .write_all(b"PUT http://api.test/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.contains("expect: 100-continue"), "{head}");
        // The caller was not asked yet: nothing has come back to it.
        caller.set_nonblocking(true).unwrap();
        assert!(caller.read(&mut byte).is_err(), "the caller was asked before the upstream answered");
        caller.set_nonblocking(false).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        let answer = read_answer(&mut caller);
        assert!(answer.starts_with(expected), "{answer}");
        if expected.ends_with("100") {
            caller.write_all(b"hello").unwrap();
            let mut body = [0; 5];
            stream.read_exact(&mut body).unwrap();
            assert_eq!(&body, b"hello");
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").unwrap();
            let answer = read_answer(&mut caller);
            assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upstream_is_a_typed_502_and_a_silent_one_a_504() {
    let root = Root::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong_name = Origin::https(&root, &["elsewhere.test"]).await;
    let proxy = Config::new()
        .resolve("api.test:443", refused)
        .resolve("a.api.test:443", wrong_name.address)
        .resolve("b.api.test:80", silent.local_addr().unwrap())
        .bindings("  - { credential: key, allow_cleartext: true }\n")
        .rest("  response_timeout: 200ms\n")
        .start(&root);
    let get = |url: &str| {
        let authority = url.split('/').nth(2).unwrap();
        raw(&proxy.forward(), format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
    };
    for (url, status, code, error) in [
        ("https://api.test/", 502, "upstream_unreachable", "connection_refused"),
        ("https://a.api.test/", 502, "upstream_unreachable", "tls_certificate_error"),
        ("https://c.api.test/", 502, "upstream_unreachable", "dns_error"),
        ("http://b.api.test/", 504, "upstream_timeout", "http_response_timeout"),
    ] {
        let answer = get(url);
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{url}: {}", answer.text);
        assert!(answer.text.contains(error), "{url}: {}", answer.text);
    }
    assert!(proxy.requests(4).iter().all(|line| line["fault"] == "upstream"));
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_ends_the_call_to_the_upstream() {
    let root = Root::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Config::new()
        .resolve("api.test:80", listener.local_addr().unwrap())
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .start(&root);
    let mut caller = TcpStream::connect(proxy.forward()).unwrap();
    caller.write_all(b"GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).unwrap() > 0);
    drop(caller);
    assert_eq!(stream.read(&mut buffer).unwrap(), 0, "the upstream connection was closed");
    assert_eq!(proxy.requests(1)[0]["outcome"], "caller_left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corporate_proxy_is_chained_to_with_its_exceptions() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test", "direct.api.test"]).await;
    // The corporate proxy: answers CONNECT by joining the caller to the origin, whatever the name.
    let corporate = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = corporate.local_addr().unwrap();
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let target = origin.address;
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = corporate.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.send(String::from_utf8(head).unwrap()).unwrap();
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            let mut upstream = tokio::net::TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut upstream).await });
        }
    });
    let proxy = Config::new()
        .resolve("direct.api.test:443", origin.address)
        .bindings("  - { credential: key }\n")
        .rest(&format!(
            "  proxy:\n    url: http://{address}\n    username: corp\n    password: {{ env: TOKEN }}\n    no_proxy: [direct.api.test]\n"
        ))
        .start(&root);
    let client = proxy.client();
    // The name resolves nowhere here: only the corporate proxy knows it.
    assert_eq!(client.get("https://api.test/").send().await.unwrap().status(), 200);
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("CONNECT api.test:443 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic y29ycdp0mgtlbg=="), "{head}");
    assert_eq!(client.get("https://direct.api.test/").send().await.unwrap().status(), 200);
    assert!(seen.try_recv().is_err(), "an exception is dialled directly");
    assert!(origin.seen().iter().all(|seen| seen.header("proxy-authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_take_the_connection_is_a_504_that_says_so() {
    let root = Root::new();
    // A listener whose queue is full: the kernel drops what comes after.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _held: Vec<_> = (0..4)
        .map(|_| {
            let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.connect(&address.into());
            stream
        })
        .collect();
    let proxy = Config::new().resolve("api.test:443", address).rest("  connect_timeout: 300ms\n").start(&root);
    let answer = raw(&proxy.forward(), b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"), "{}", answer.text);
    assert!(answer.text.contains("connection_timeout"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_in_the_middle_of_its_body_is_told_so_and_the_upstream_not_blamed() {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .rest("  response_timeout: 300ms\n")
        .start(&root);
    let head = b"POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = raw(&proxy.forward(), head);
    assert_eq!((answer.status(), answer.code().as_str()), (408, "overloaded"), "{}", answer.text);
    assert_eq!(proxy.requests(1)[0]["fault"], "caller");
    assert!(origin.seen().iter().all(|seen| seen.body.len() < 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_of_an_expected_body_gives_every_connection_back() {
    let root = Root::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let upstream_closed = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let closed = std::sync::Arc::clone(&upstream_closed);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, closed) = (stream.unwrap(), std::sync::Arc::clone(&closed));
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let expects = String::from_utf8_lossy(&buffer[..count]).to_ascii_lowercase().contains("expect:");
                    let status = if expects { "417 Expectation Failed" } else { "200 OK" };
                    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhm").as_bytes()).unwrap();
                }
                closed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
    });
    let proxy = Config::new()
        .resolve("api.test:80", address)
        .bindings("  - { credential: key, hosts: [api.test], allow_cleartext: true }\n")
        .rest("limits: { connections: 3 }\n")
        .start(&root);
    let head = b"PUT http://api.test/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    for round in 0..9 {
        let mut caller = TcpStream::connect(proxy.forward()).unwrap();
        caller.set_read_timeout(Some(DEADLINE)).unwrap();
        caller.write_all(head).unwrap();
        assert!(read_answer(&mut caller).starts_with("HTTP/1.1 417"), "round {round}");
        // A body that nobody asked for cannot be told from the next request, so the connection ends.
        assert_eq!(caller.read(&mut [0]).unwrap_or(0), 0, "round {round}");
    }
    assert_eq!(raw(&proxy.forward(), b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n").status(), 200);
    while upstream_closed.load(std::sync::atomic::Ordering::SeqCst) < 9 {
        tokio::task::yield_now().await;
    }
}
