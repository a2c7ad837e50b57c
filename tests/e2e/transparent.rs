//! The transparent listener: connections that the kernel redirects, in networks of the test's own.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::namespaces::{Namespace, PROXY_UID, USER_UID, default_route, join, possible};
use crate::support::{DEADLINE, Origin, Proxy, Root, SECRET, read_answer, talk};

/// An origin's namespace and a client's, in which Countersign is and everything that others send is redirected to it.
struct Output {
    client: Namespace,
    origin: Namespace,
    root: Root,
    proxy: Proxy,
    /// What the names lead to, as we resolve them: `api.test`, `plain.test` and `free.test` by IPv4, `six.test` by IPv6.
    named: [Origin; 3],
    /// What the client calls: 10.77.1.3 and fd77:1::3, port 443, and port 80.
    captured: [Origin; 3],
}

const IPTABLES: &[&str] = &["iptables", "ip6tables"];

const BOUND: &str = "credentials:
  - { id: key, scheme: api_key, key: { env: SECRET }, hosts: [api.test, six.test, plain.test] }
bindings:
  - { credential: key, hosts: [api.test, six.test] }
  - { credential: key, hosts: [plain.test], allow_cleartext: true }
";

const BOTH: &str = "listeners:
  transparent:
    - address: 127.0.0.1:15001
    - address: \"[::1]:15001\"
";

const RESOLVED: &str = "upstream:
  allow_addresses: [10.77.0.0/16, \"fd77::/16\", 127.0.0.0/8]
  ca_file: FOLDER/origin.pem
  resolve:
    \"api.test:443\": 10.77.1.2:443
    \"free.test:443\": 10.77.1.2:443
    \"six.test:443\": \"[fd77:1::2]:443\"
    \"plain.test:80\": 10.77.1.2:80
    \"free.test:80\": 10.77.1.2:80
";

/// Everything to these ports that is not our own is redirected, as OUTPUT sees it.
fn redirect_output(namespace: &Namespace, ports: &str) {
    for program in IPTABLES {
        namespace.run(&format!(
            "{program} -w -t nat -A OUTPUT -p tcp -m owner ! --uid-owner {PROXY_UID} -m multiport --dports {ports} \
             -j REDIRECT --to-ports 15001"
        ));
    }
}

impl Output {
    fn start(test: &str, listeners: &str, bound: &str, rest: &str) -> Option<Self> {
        possible(test, IPTABLES)?;
        let (client, origin, root) = (Namespace::new("client"), Namespace::new("origin"), Root::new());
        join((&client, "client"), (&origin, "origin"), 1);
        origin.run("ip -4 addr add 10.77.1.3/24 dev to-client; ip -6 addr add fd77:1::3/64 dev to-client nodad");
        let names = ["api.test", "six.test", "free.test", "10.77.1.3"];
        let at = |address: &str, tls: bool| Origin::on(origin.listen(address), tls.then_some((&root, &names[..])));
        let named = [at("10.77.1.2:443", true), at("[fd77:1::2]:443", true), at("10.77.1.2:80", false)];
        let captured = [at("10.77.1.3:443", true), at("[fd77:1::3]:443", true), at("10.77.1.3:80", false)];
        let proxy = client.countersign(&format!("{listeners}{bound}{RESOLVED}{rest}"), "", &root);
        redirect_output(&client, "80,443");
        Some(Self { client, origin, root, proxy, named, captured })
    }

    /// curl, unaware of any proxy: it finds every name at the captured address, and trusts our authority alone.
    fn curl(&self, uid: u32, arguments: &[&str]) -> Result<String, String> {
        self.curl_trusting(uid, &std::fs::read_to_string(self.proxy.ca_file()).unwrap(), arguments)
    }

    fn curl_trusting(&self, uid: u32, trusted: &str, arguments: &[&str]) -> Result<String, String> {
        const NAMES: &[&str] = &[
            "api.test:443:10.77.1.3",
            "free.test:443:10.77.1.3",
            "six.test:443:[fd77:1::3]",
            "plain.test:80:10.77.1.3",
            "free.test:80:10.77.1.3",
        ];
        self.client.curl(uid, trusted, NAMES, arguments)
    }

    /// A connection from the client's namespace, as curl would make it.
    fn connect(&self, address: &str) -> TcpStream {
        let stream = self.client.inside(|| TcpStream::connect(address).unwrap());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Whatever the client called, it was never dialled.
    fn captured_nobody(&self) -> bool {
        self.captured.iter().all(Origin::untouched)
    }
}

fn signed(origin: &Origin) -> bool {
    let bearer = format!("Bearer {SECRET}");
    origin.seen().iter().all(|seen| seen.header("authorization") == Some(&bearer)) && !origin.seen().is_empty()
}

const STATUS: [&str; 2] = ["--write-out", " %{http_code}"];

#[tokio::test(flavor = "multi_thread")]
async fn curl_unaware_of_any_proxy_reaches_the_named_host_with_the_credential_over_ipv4_and_ipv6() {
    let test = "curl_unaware_of_any_proxy_reaches_the_named_host_with_the_credential_over_ipv4_and_ipv6";
    let Some(net) = Output::start(test, BOTH, BOUND, "") else { return };
    for (host, origin) in [("api.test", &net.named[0]), ("six.test", &net.named[1])] {
        for version in ["--http1.1", "--http2"] {
            let answer = net.curl(USER_UID, &[version, &format!("https://{host}/x?y=1")]);
            assert_eq!(answer.unwrap(), "hello from the origin");
        }
        assert!(signed(origin));
        assert_eq!(origin.seen()[0].target, "/x?y=1");
    }
    assert!(net.captured_nobody(), "the address that curl called was dialled");
    let lines = net.proxy.requests(4);
    assert!(lines.iter().all(|line| line["via"] == "transparent" && line["credential"] == "key"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_host_or_server_name_gets_nothing_and_the_captured_address_no_credential() {
    let test = "a_forged_host_or_server_name_gets_nothing_and_the_captured_address_no_credential";
    let Some(net) = Output::start(test, BOTH, BOUND, "") else { return };
    // A Host that is not the server name, both ways.
    for (host, url) in [("free.test", "https://api.test/"), ("api.test", "https://free.test/")] {
        let answer = net.curl(USER_UID, &[&STATUS[..], &["-H", &format!("Host: {host}"), url]].concat()).unwrap();
        let expected = if url.contains("api.test") { "destination_mismatch" } else { "unbound" };
        assert!(answer.contains(expected), "{answer}");
    }
    // A server name that nothing is bound to.
    let answer = net.curl(USER_UID, &[&STATUS[..], &["https://free.test/"]].concat()).unwrap();
    assert!(answer.contains("\"unbound\"") && answer.ends_with(" 403"), "{answer}");
    // None at all, and an address in its place.
    let nameless = net.curl(USER_UID, &["--insecure", "https://10.77.1.3/"]);
    assert!(nameless.as_ref().is_err_and(|why| why.contains("denied")), "{nameless:?}");
    // Cleartext: another port than the one that was called, and another host on a connection that is kept.
    let answer = net.curl(USER_UID, &[&STATUS[..], &["-H", "Host: plain.test:8080", "http://plain.test/"]].concat());
    assert!(answer.as_ref().is_ok_and(|answer| answer.ends_with(" 421")), "{answer:?}");
    let mut kept = net.connect("10.77.1.3:80");
    for (host, status) in [("plain.test", "200"), ("free.test", "403"), ("plain.test", "200")] {
        write!(kept, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let answer = read_answer(&mut kept);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host} {answer}");
    }
    assert!(net.captured_nobody());
    assert!(net.named[0].seen().is_empty() && net.named[1].seen().is_empty());
    assert!(signed(&net.named[2]), "the named host alone was called, with its credential");
}

/// A connection that sends every byte by itself.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_over_many_records_and_segments_is_read_as_any_other() {
    let test = "a_greeting_over_many_records_and_segments_is_read_as_any_other";
    let Some(net) = Output::start(test, BOTH, BOUND, "") else { return };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(net.proxy.ca_file()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.max_fragment_size = Some(48);
    let config = std::sync::Arc::new(config);
    for (name, status) in [("api.test", 200), ("free.test", 403)] {
        let stream = net.connect("10.77.1.3:443");
        stream.set_nodelay(true).unwrap();
        let server = rustls_pki_types::ServerName::try_from(name).unwrap();
        let connection = rustls::ClientConnection::new(config.clone(), server).unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let answer = talk(rustls::StreamOwned::new(connection, Dribble(stream)), request.as_bytes());
        assert_eq!(answer.status(), status, "{}", answer.text);
    }
    assert!(signed(&net.named[0]) && net.captured_nobody());
}

#[tokio::test(flavor = "multi_thread")]
async fn cleartext_http_is_sent_to_the_host_that_each_request_names_in_both_versions() {
    let test = "cleartext_http_is_sent_to_the_host_that_each_request_names_in_both_versions";
    let Some(net) = Output::start(test, BOTH, BOUND, "") else { return };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = net.curl(USER_UID, &[&STATUS[..], &[version, "http://plain.test/x"]].concat());
        assert_eq!(answer.unwrap(), "hello from the origin 200");
        let answer = net.curl(USER_UID, &[&STATUS[..], &[version, "http://free.test/x"]].concat()).unwrap();
        assert!(answer.contains("\"unbound\"") && answer.ends_with(" 403"), "{answer}");
    }
    assert_eq!(net.named[2].seen().len(), 2);
    assert!(signed(&net.named[2]) && net.captured_nobody());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unbound_passes_blind_to_the_captured_address_where_the_policy_says_pass() {
    let test = "what_is_unbound_passes_blind_to_the_captured_address_where_the_policy_says_pass";
    let Some(net) = Output::start(test, BOTH, BOUND, "unbound: pass\n") else { return };
    // The origin's own certificate is seen, with a name and without.
    for url in ["https://free.test/named", "https://10.77.1.3/nameless"] {
        assert_eq!(net.curl_trusting(USER_UID, &net.root.pem(), &[url]).unwrap(), "hello from the origin");
        assert!(net.curl(USER_UID, &[url]).is_err_and(|why| why.contains("certificate")), "{url}");
    }
    assert!(net.captured[0].seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert_eq!(net.captured[0].seen().len(), 2);
    assert!(net.named.iter().all(Origin::untouched));
    // A host that is bound is never passed blind, whatever its clients trust.
    let blind = net.curl_trusting(USER_UID, &net.root.pem(), &["https://api.test/"]);
    assert!(blind.is_err_and(|why| why.contains("certificate")));
    assert_eq!(net.curl(USER_UID, &["https://api.test/"]).unwrap(), "hello from the origin");
    assert!(signed(&net.named[0]));
    // Cleartext goes to the name, as on any listener.
    assert_eq!(net.curl(USER_UID, &["http://free.test/"]).unwrap(), "hello from the origin");
    assert!(net.captured[2].untouched() && net.named[2].only().header("authorization").is_none());
    let log = net.proxy.stop();
    assert!(log.contains("\"transparent_blind\""), "{log}");
}

/// A server that speaks first, as mail servers do, and then says everything twice.
fn greeting_server(origin: &Namespace, address: &str) {
    let listener = origin.listen(address);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.write_all(b"220 hello\r\n");
                let mut heard = [0; 100];
                while let Ok(count @ 1..) = stream.read(&mut heard) {
                    let _ = stream.write_all(&[&heard[..count], &heard[..count]].concat());
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_neither_tls_nor_http_is_refused_and_passes_blind_where_the_policy_says_pass() {
    let test = "what_is_neither_tls_nor_http_is_refused_and_passes_blind_where_the_policy_says_pass";
    for (policy, passes) in [("deny", false), ("pass", true)] {
        let rest = format!("unbound: {policy}\nlimits: {{ header_read_timeout: 2s }}\n");
        let Some(net) = Output::start(test, BOTH, BOUND, &rest) else { return };
        net.origin.run("ip -4 addr add 10.77.1.4/24 dev to-client");
        greeting_server(&net.origin, "10.77.1.4:443");
        // The client speaks first, or waits to be greeted.
        for first in ["SSH-2.0-x\r\n", ""] {
            let mut stream = net.connect("10.77.1.4:443");
            stream.write_all(first.as_bytes()).unwrap();
            let mut greeting = [0; 11];
            let greeted = stream.read_exact(&mut greeting).is_ok() && &greeting == b"220 hello\r\n";
            assert_eq!(greeted, passes, "{policy} {first:?}");
            if passes {
                stream.write_all(b"EHLO me\r\n").unwrap();
                let mut twice = vec![0; 2 * first.len() + 18];
                stream.read_exact(&mut twice).unwrap();
            }
        }
        // A greeting that does not end in time is nobody's, whatever the policy.
        let mut slow = net.connect("10.77.1.4:443");
        slow.write_all(&[0x16, 3, 1, 1, 0, 1]).unwrap();
        assert_eq!(read_answer(&mut slow), "");
        // Who waited, and then speaks TLS, was let through without a name: no further.
        if passes {
            let mut late = net.connect("10.77.1.4:443");
            late.read_exact(&mut [0; 11]).unwrap();
            late.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
            assert!(late.read(&mut [0; 10]).is_ok_and(|count| count == 0) || late.read(&mut [0]).is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_going_to_ourselves_is_refused() {
    let listeners = format!("{BOTH}  forward:\n    - address: 127.0.0.1:18180\n");
    let test = "a_connection_that_was_going_to_ourselves_is_refused";
    let Some(net) = Output::start(test, &listeners, BOUND, "unbound: pass\n") else { return };
    redirect_output(&net.client, "18180");
    // By a call of the listener itself, and by one of another listener of ours that was redirected.
    for address in ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:18180"] {
        let request = b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n";
        let mut stream = net.connect(address);
        let _ = stream.write_all(request);
        assert_eq!(read_answer(&mut stream), "", "{address}");
    }
    assert_eq!(talk(net.connect("10.77.1.3:80"), b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n").status(), 200);
    assert!(net.captured_nobody());
    // By rules that do not except our own uid: what we dial would come back to us.
    net.client.run("iptables -w -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001");
    let answer = net.curl(USER_UID, &[&STATUS[..], &["http://free.test/"]].concat()).unwrap();
    assert!(answer.ends_with(" 502"), "{answer}");
    let log = net.proxy.stop();
    assert!(log.contains("comes from Countersign's own uid"), "{log}");
    assert_eq!(log.matches("nothing redirected this connection").count(), 2, "{log}");
    assert_eq!(log.matches("the destination is this proxy itself").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uid_behind_a_redirected_connection_is_its_caller_and_nobody_else_is_served() {
    let test = "the_uid_behind_a_redirected_connection_is_its_caller_and_nobody_else_is_served";
    let callers = format!("callers:\n  - {{ name: user, uid: {USER_UID} }}\n{BOUND}");
    let Some(net) = Output::start(test, BOTH, &callers, "") else { return };
    for host in ["api.test", "six.test"] {
        let url = format!("https://{host}/");
        assert_eq!(net.curl(USER_UID, &[&url]).unwrap(), "hello from the origin");
        let other = net.curl(USER_UID + 1, &[&url]);
        assert!(other.as_ref().is_err_and(|why| why.contains("denied")), "{other:?}");
    }
    let answer = net.curl(USER_UID + 1, &[&STATUS[..], &["http://plain.test/"]].concat()).unwrap();
    assert!(answer.contains("caller_unknown"), "{answer}");
    assert_eq!((net.named[0].seen().len(), net.named[1].seen().len(), net.named[2].seen().len()), (1, 1, 0));
    let lines = net.proxy.requests(5);
    let by_user = lines.iter().filter(|line| line["caller"] == "user").count();
    assert_eq!((by_user, lines.len()), (2, 5), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_for_one_caller_or_one_user_serves_only_that() {
    let test = "a_listener_for_one_caller_or_one_user_serves_only_that";
    let callers = format!("callers:\n  - {{ name: pod, token: {{ env: TOKEN }} }}\n{BOUND}");
    let one_caller = "listeners:\n  transparent:\n    - { address: 127.0.0.1:15001, caller: pod }\n";
    let Some(net) = Output::start(test, one_caller, &callers, "") else { return };
    assert_eq!(net.curl(USER_UID, &["https://api.test/"]).unwrap(), "hello from the origin");
    assert_eq!(net.proxy.requests(1)[0]["caller"], "pod");
    drop(net);
    let one_user = "listeners:\n  transparent:\n    - { address: 127.0.0.1:15001, same_user: true }\n";
    let Some(net) = Output::start(test, one_user, BOUND, "") else { return };
    assert!(net.curl(USER_UID, &["https://api.test/"]).is_err());
    assert_eq!(net.curl(0, &["https://api.test/"]).unwrap(), "hello from the origin");
    assert_eq!(net.named[0].seen().len(), 1);
}

/// A client, a router with Countersign on it, and an origin; the client finds everything by the router.
fn router(root: &Root, listeners: &str, capabilities: &str) -> ([Namespace; 3], Proxy, [Origin; 2]) {
    let net = [Namespace::new("client"), Namespace::new("router"), Namespace::new("origin")];
    let [client, between, origin] = &net;
    join((client, "client"), (between, "router"), 2);
    join((between, "router"), (origin, "origin"), 1);
    default_route(client, 2, 2);
    default_route(origin, 1, 1);
    between.run("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let names: &[&str] = &["api.test", "six.test"];
    let at = |address: &str| Origin::on(origin.listen(address), Some((root, names)));
    let origins = [at("10.77.1.2:443"), at("[fd77:1::2]:443")];
    let callers = "callers: [{ name: machines, token: { env: TOKEN } }]\n";
    let proxy = between.countersign(&format!("{listeners}{callers}{BOUND}{RESOLVED}"), capabilities, root);
    (net, proxy, origins)
}

/// Both names are called at addresses where nobody is, and the named hosts are reached with the credential.
fn reaches_both_through_the_router(client: &Namespace, proxy: &Proxy, origins: &[Origin; 2]) {
    let trusted = std::fs::read_to_string(proxy.ca_file()).unwrap();
    let names = ["api.test:443:10.77.1.99", "six.test:443:[fd77:1::99]"];
    for (host, origin) in ["api.test", "six.test"].into_iter().zip(origins) {
        let answer = client.curl(USER_UID, &trusted, &names, &[&format!("https://{host}/")]);
        assert_eq!(answer.unwrap(), "hello from the origin");
        assert!(signed(origin), "{host}");
    }
    assert!(proxy.requests(2).iter().all(|line| line["caller"] == "machines"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_redirects_what_other_machines_send_to_the_address_of_its_interface() {
    let test = "a_router_redirects_what_other_machines_send_to_the_address_of_its_interface";
    let Some(()) = possible(test, &["nft"]) else { return };
    let listeners = "listeners:\n  transparent:\n    - { address: 10.77.2.2:15001, caller: machines }\n    \
                     - { address: \"[fd77:2::2]:15001\", caller: machines }\n";
    let root = Root::new();
    let (net, proxy, origins) = router(&root, listeners, "");
    net[1].run(
        "nft -f - <<'END'
table inet countersign {
  chain prerouting {
    type nat hook prerouting priority dstnat
    iifname \"to-client\" tcp dport 443 redirect to :15001
  }
}
END",
    );
    reaches_both_through_the_router(&net[0], &proxy, &origins);
    // The listener itself is no way in.
    let mut direct = net[0].inside(|| TcpStream::connect("10.77.2.2:15001").unwrap());
    assert_eq!(read_answer(&mut direct), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn tproxy_brings_connections_as_they_are_and_the_socket_s_own_address_is_the_captured_one() {
    let test = "tproxy_brings_connections_as_they_are_and_the_socket_s_own_address_is_the_captured_one";
    let Some(()) = possible(test, IPTABLES) else { return };
    let listeners = "listeners:\n  transparent:\n    - { address: 0.0.0.0:15001, tproxy: true, caller: machines }\n    \
                     - { address: \"[::1]:15001\", tproxy: true, caller: machines }\n";
    let root = Root::new();
    let (net, proxy, origins) = router(&root, listeners, "+net_admin");
    net[1].run(
        "iptables -w -t mangle -A PREROUTING -i to-client -p tcp --dport 443 -j TPROXY --on-port 15001 --on-ip 127.0.0.1 --tproxy-mark 1
         ip6tables -w -t mangle -A PREROUTING -i to-client -p tcp --dport 443 -j TPROXY --on-port 15001 --on-ip ::1 --tproxy-mark 1
         for version in -4 -6; do
           ip $version rule add fwmark 1 lookup 100
           ip $version route add local default dev lo table 100
         done",
    );
    reaches_both_through_the_router(&net[0], &proxy, &origins);
    // A call of the wildcard listener itself looks like a captured one, and is not served.
    let mut direct = net[0].inside(|| TcpStream::connect("10.77.2.2:15001").unwrap());
    assert_eq!(read_answer(&mut direct), "");
    assert!(proxy.stop().contains("the destination is this proxy itself"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_for_tproxy_without_the_capability_does_not_start_and_says_which() {
    let test = "a_listener_for_tproxy_without_the_capability_does_not_start_and_says_which";
    let Some(()) = possible(test, &[]) else { return };
    let (namespace, root) = (Namespace::new("alone"), Root::new());
    let listeners = "listeners:\n  transparent:\n    - { address: 127.0.0.1:0, tproxy: true }\n";
    let start = || namespace.countersign(listeners, "", &root);
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start)).err().unwrap();
    let said = failure.downcast_ref::<String>().unwrap();
    assert!(said.contains("NET_ADMIN"), "{said}");
    drop(namespace.countersign(listeners, "+net_admin", &root));
}
