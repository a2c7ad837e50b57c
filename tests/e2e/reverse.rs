//! Reverse listeners: plain requests, a route for each API, and no way in for a web page.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::{Config, Origin, Proxy, Raw, Root, SECRET, raw, talk, text};

fn listeners(route: &str) -> String {
    format!(
        "  reverse:\n    - address: 127.0.0.1:0\n      server_names: [proxy.corp.test]\n      routes:\n        - {route}\n"
    )
}

async fn start(route: &str, bindings: &str) -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::https_with(&root, &["api.test"], &["h2", "http/1.1"], |seen| {
        let mut answer = text(200, "hello from the origin");
        if seen.target.starts_with("/paged") {
            let headers = answer.headers_mut();
            headers.insert("location", "https://api.test/paged?page=2".parse().unwrap());
            headers.insert(
                "link",
                "<https://api.test/paged?page=2>; rel=\"next\", <https://other.test/>; rel=\"help\"".parse().unwrap(),
            );
        }
        answer
    })
    .await;
    let proxy = Config::new()
        .listeners(&listeners(route))
        .bindings(bindings)
        .resolve("api.test:443", origin.address)
        .start(&root);
    (proxy, origin)
}

const ROUTE: &str = "{ prefix: /api, upstream: \"https://api.test\", credential: key }";

fn get(proxy: &Proxy, path: &str, headers: &str) -> Raw {
    let address = proxy.reverse();
    raw(&address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_strips_its_prefix_and_adds_its_credential() {
    let (proxy, origin) = start(ROUTE, "  []\n").await;
    let answer = get(&proxy, "/api/v1/a%2Fb?q=%20", "Authorization: mine\r\n");
    assert_eq!(answer.status(), 200, "{}", answer.text);
    let seen = origin.only();
    assert_eq!(seen.target, "/v1/a%2Fb?q=%20");
    assert_eq!(seen.header("authorization").unwrap(), format!("Bearer {SECRET}"));
    assert_eq!(get(&proxy, "/api", "").status(), 200);
    assert_eq!(origin.seen()[1].target, "/");
    let answer = get(&proxy, "/apis", "");
    assert_eq!((answer.status(), answer.code().as_str()), (404, "no_route"));
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_the_keys_of_a_binding() {
    let route = "{ prefix: /api, upstream: \"https://api.test\", credential: key, methods: [GET], paths: [/v1] }";
    let (proxy, origin) = start(route, "  []\n").await;
    assert_eq!(get(&proxy, "/api/v1/x", "").status(), 200);
    for (request, status) in
        [("GET /api/v2", 403), ("DELETE /api/v1", 403), ("GET /api/v1/%2e%2e/v2", 400), ("GET /api/v1/../v2", 400)]
    {
        let address = proxy.reverse();
        let answer = raw(&address, format!("{request} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
        assert_eq!(answer.status(), status, "{request}: {}", answer.text);
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_with_a_path_of_its_own_cannot_be_left() {
    let route = "{ prefix: /api, upstream: \"https://api.test/tenant-a\", credential: key }";
    let (proxy, origin) = start(route, "  []\n").await;
    assert_eq!(get(&proxy, "/api/x", "").status(), 200);
    assert_eq!(origin.only().target, "/tenant-a/x");
    for path in ["/api/../tenant-b", "/api/%2e%2e/tenant-b", "/api/..%2ftenant-b"] {
        assert_eq!(get(&proxy, path, "").status(), 400, "{path}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_to_the_upstream_become_links_to_the_route() {
    let (proxy, _origin) = start(ROUTE, "  []\n").await;
    let answer = get(&proxy, "/api/paged", "");
    let base = format!("http://{}/api/paged?page=2", proxy.reverse());
    assert!(answer.text.contains(&format!("location: {base}\r\n")), "{}", answer.text);
    assert!(
        answer.text.contains(&format!("<{base}>; rel=\"next\", <https://other.test/>; rel=\"help\"")),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_request_is_refused() {
    let (proxy, origin) = start(ROUTE, "  []\n").await;
    for header in
        ["Origin: http://evil.test", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin"]
    {
        let answer = get(&proxy, "/api", &format!("{header}\r\n"));
        assert_eq!((answer.status(), answer.code().as_str()), (403, "destination_forbidden"), "{header}");
    }
    assert!(origin.untouched());
    assert_eq!(get(&proxy, "/api", "Sec-Fetch-Site: none\r\n").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_names_are_answered_to() {
    let (proxy, origin) = start(ROUTE, "  []\n").await;
    let ask = |host: &str| raw(&proxy.reverse(), format!("GET /api HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    for host in ["evil.test", "127.0.0.2", "api.test", "localhost.evil.test"] {
        let answer = ask(host);
        assert_eq!((answer.status(), answer.code().as_str()), (421, "destination_mismatch"), "{host}");
    }
    assert!(origin.untouched());
    for host in ["localhost", "localhost:1234", "127.0.0.1", "Proxy.corp.test"] {
        assert_eq!(ask(host).status(), 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_credential_is_judged_by_the_bindings() {
    let route = "{ prefix: /api, upstream: \"https://api.test\" }";
    let (proxy, origin) = start(route, "  - { credential: key, hosts: [api.test], paths: [/v1] }\n").await;
    assert_eq!(get(&proxy, "/api/v1", "").status(), 200);
    assert_eq!(origin.only().header("authorization").unwrap(), format!("Bearer {SECRET}"));
    assert_eq!(get(&proxy, "/api/v2", "").code(), "unbound");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_is_removed_at_the_end() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let config = Config::new()
        .listeners("  reverse:\n    - address: unix:FOLDER/p.sock\n      routes:\n        - { prefix: /, upstream: \"https://api.test\", credential: key }\n")
        .bindings("  []\n")
        .resolve("api.test:443", origin.address);
    let proxy = config.start(&root);
    let path = proxy.folder.path().join("p.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let stream = UnixStream::connect(&path).unwrap();
    let refused = talk(stream, b"GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n");
    assert_eq!(refused.status(), 421);
    let kept = path.clone();
    let folder = proxy.folder.path().to_owned();
    let log = {
        assert!(folder.exists());
        proxy.stop()
    };
    assert!(!kept.exists(), "{log}");
}
