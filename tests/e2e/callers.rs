//! Callers prove themselves by the channel: a token, the uid behind a unix socket, a client certificate.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::{Config, Origin, Proxy, Root, SECRET, raw, read_connect, talk};

const CALLERS: &str = "callers:\n  - { name: runner, token: { env: TOKEN } }\n";

async fn start(config: Config, callers: &str) -> (Proxy, Origin, Root) {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let proxy = config.resolve("api.test:443", origin.address).rest(callers).start(&root);
    (proxy, origin, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_shows_its_token_in_the_proxy_credentials_and_it_goes_no_further() {
    let (proxy, origin, _root) = start(Config::new(), CALLERS).await;
    let answer = proxy.client_as("runner:t0ken@").get("https://api.test/").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!format!("{:?}", origin.only()).contains("t0ken"));
    assert_eq!(proxy.requests(1)[0]["caller"], "runner");
    for wrong in ["", "runner:wrong@", "other:t0ken@", "runner@"] {
        let error = proxy.client_as(wrong).get("https://api.test/").send().await;
        assert!(error.is_err(), "{wrong}");
    }
    assert_eq!(origin.seen().len(), 1);
    assert!(!proxy.stop().contains("t0ken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_407_says_how_and_keeps_the_connection_for_the_second_try() {
    let (proxy, origin, _root) = start(Config::new(), CALLERS).await;
    // What git does: CONNECT without credentials, and again with them on the same connection.
    let mut stream = std::net::TcpStream::connect(proxy.forward()).unwrap();
    let connect = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n";
    write!(stream, "{connect}\r\n").unwrap();
    let refused = crate::support::read_answer(&mut stream).to_ascii_lowercase();
    assert!(refused.starts_with("http/1.1 407"), "{refused}");
    assert!(refused.contains("proxy-authenticate: basic realm=") && refused.contains("caller_unknown"), "{refused}");
    write!(stream, "{connect}Proxy-Authorization: Basic cnVubmVyOnQwa2Vu\r\n\r\n").unwrap();
    assert!(read_connect(&mut stream).starts_with("HTTP/1.1 200"));
    let absolute = "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n";
    assert_eq!(raw(&proxy.forward(), format!("{absolute}\r\n").as_bytes()).status(), 407);
    let bearer = format!("{absolute}Proxy-Authorization: Bearer t0ken\r\n\r\n");
    assert_eq!(raw(&proxy.forward(), bearer.as_bytes()).status(), 200);
    assert_eq!(origin.only().header("authorization").unwrap(), format!("Bearer {SECRET}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_for_the_callers_it_names() {
    let callers =
        "callers:\n  - { name: runner, token: { env: TOKEN } }\n  - { name: other, token: { env: SECRET } }\n";
    let config = Config::new().bindings("  - { credential: key, hosts: [api.test], callers: [runner] }\n");
    let (proxy, origin, _root) = start(config, callers).await;
    let absolute = |token: &str| {
        let head =
            format!("GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: Bearer {token}\r\n\r\n");
        raw(&proxy.forward(), head.as_bytes())
    };
    assert_eq!(absolute(SECRET).code(), "unbound");
    assert!(origin.untouched());
    assert_eq!(absolute("t0ken").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverse_route_takes_its_own_header_and_strips_it() {
    let listeners = "  reverse:\n    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /api, upstream: \"https://api.test\", credential: key, callers: [runner] }\n";
    let (proxy, origin, _root) = start(Config::new().listeners(listeners).bindings("  []\n"), CALLERS).await;
    let ask = |header: &str| {
        let address = proxy.reverse();
        raw(&address, format!("GET /api HTTP/1.1\r\nHost: {address}\r\n{header}\r\n").as_bytes())
    };
    for wrong in [
        "",
        "Countersign-Authorization: Bearer wrong\r\n",
        "Proxy-Authorization: Bearer t0ken\r\n",
        "Authorization: Bearer t0ken\r\n",
    ] {
        let answer = ask(wrong);
        assert_eq!((answer.status(), answer.code().as_str()), (407, "caller_unknown"), "{wrong}");
    }
    assert!(origin.untouched());
    assert_eq!(ask("Countersign-Authorization: Bearer t0ken\r\n").status(), 200);
    assert!(!format!("{:?}", origin.only()).contains("t0ken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_proves_the_uid_of_its_caller() {
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    for (listed, status) in [(uid, 200), (uid + 1, 407)] {
        let callers = format!("callers:\n  - {{ name: pod, uid: {listed} }}\n");
        let config = Config::new().listeners("  forward:\n    - address: unix:FOLDER/p.sock\n");
        let (proxy, _origin, _root) = start(config, &callers).await;
        let stream = UnixStream::connect(proxy.folder.path().join("p.sock")).unwrap();
        let answer = talk(stream, b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
        assert_eq!(answer.status(), status, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_proves_the_name_in_it() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let callers_root = Root::new();
    let (server, server_key) = root.leaf(&["localhost"]);
    let config = Config::new()
        .resolve("api.test:443", origin.address)
        .listeners(
            "  forward:\n    - address: 127.0.0.1:0\n      tls: { certificate: FOLDER/s.pem, key: { file: FOLDER/s.key }, client_ca: FOLDER/callers.pem }\n",
        )
        .rest("callers:\n  - { name: mesh, client_cert: mesh.test }\n");
    let proxy = Proxy::start_with(&config.text(), &[("SECRET", SECRET), ("TOKEN", "t")], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("s.pem"), server.pem()).unwrap();
        std::fs::write(folder.join("s.key"), server_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("callers.pem"), callers_root.pem()).unwrap();
    });
    let ask = |identity: Option<(&Root, &str)>| {
        crate::support::provider();
        let mut roots = rustls::RootCertStore::empty();
        let pem = root.pem();
        roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((root, name)) => {
                let (certificate, key) = root.leaf(&[name]);
                let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(proxy.forward()).unwrap());
        if stream.write_all(b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n").is_err() {
            return 0;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        crate::support::Raw { text: String::from_utf8_lossy(&answer).into_owned() }.status()
    };
    assert_eq!(ask(None), 407);
    assert_eq!(ask(Some((&callers_root, "other.test"))), 407);
    assert_eq!(ask(Some((&root, "mesh.test"))), 0, "signed by somebody else");
    assert!(origin.untouched());
    assert_eq!(ask(Some((&callers_root, "mesh.test"))), 200);
    assert_eq!(proxy.requests(3).last().unwrap()["caller"], "mesh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_others_reach_needs_callers_or_the_escape_named_for_its_danger() {
    let listen = |extra: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, format!("listeners:\n  forward:\n    - address: 0.0.0.0:0\n{extra}")).unwrap();
        crate::support::countersign(&["check", "--config", path.to_str().unwrap()]).env("TOKEN", "t").output().unwrap()
    };
    let refused = listen("");
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("allow_anonymous: true"));
    assert!(listen("      allow_anonymous: true\n").status.success());
    assert!(listen(CALLERS).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_for_its_own_user_turns_others_away() {
    let test = "same_user with another uid";
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    if uid != 0 {
        crate::support::skip::<()>(test, "it needs root to become somebody else");
        return;
    }
    let (Some(_), Some(_)) = (crate::support::tool(test, "setpriv"), crate::support::tool(test, "curl")) else {
        return;
    };
    let config = Config::new().listeners("  forward:\n    - { address: 127.0.0.1:0, same_user: true }\n");
    let (proxy, origin, _root) = start(config, "").await;
    // Both ask for the same; what differs is who asks. The proxy runs as root, so only root is its own user.
    let status = |prefix: &[&str]| {
        let url = format!("http://{}", proxy.forward());
        let arguments = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_connect}",
            "--proxytunnel",
            "-x",
            &url,
            "http://api.test:443/",
        ];
        let all: Vec<&str> = prefix.iter().chain(&arguments).copied().collect();
        let output = std::process::Command::new(all[0]).args(&all[1..]).env("HOME", "/nonexistent").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(status(&["setpriv", "--reuid=65534", "--clear-groups"]), "403");
    assert!(origin.untouched());
    assert_eq!(status(&[]), "200");
}
