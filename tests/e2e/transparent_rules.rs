//! `countersign transparent up|down|show`: what the kernel does with the rules, in networks of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::namespaces::{Namespace, PROXY_UID, USER_UID, default_route, join, possible};
use crate::support::{DEADLINE, binary};

const TOOLS: [&str; 2] = ["nft", "iptables"];
const PROGRAMS: [&str; 4] = ["nft", "iptables-restore", "ip6tables-restore", "iptables-save"];

/// A caller's network and, beyond it, everything else.
struct Net {
    here: Namespace,
    far: Namespace,
}

impl Net {
    fn new() -> Self {
        let (here, far) = (Namespace::new("here"), Namespace::new("far"));
        join((&here, "here"), (&far, "far"), 1);
        for port in [80, 8080] {
            names_itself(&far, &format!("10.77.1.2:{port}"), "far");
            names_itself(&far, &format!("[fd77:1::2]:{port}"), "far");
        }
        for (address, name) in [
            ("127.0.0.1:15001", "captured"),
            ("[::1]:15001", "captured"),
            ("127.0.0.1:80", "loop"),
            ("[::1]:80", "loop"),
        ] {
            names_itself(&here, address, name);
        }
        Self { here, far }
    }

    /// Who answers this user at this address, over IPv4 and over IPv6; `-` where nobody does.
    fn who(&self, uid: u32, port: u16) -> [String; 2] {
        ["10.77.1.2", "[fd77:1::2]"].map(|address| who(&self.here, uid, &format!("{address}:{port}")))
    }
}

/// Answers whoever comes with a name, or with the address that the caller meant where the name is empty.
fn names_itself(namespace: &Namespace, address: &str, name: &'static str) {
    serve(namespace.listen(address), name);
}

fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let said = if name.is_empty() { stream.local_addr().unwrap().to_string() } else { name.to_owned() };
            // Read first: closing with the request unread would reset the answer.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{said}").as_bytes());
        }
    });
}

/// A listener that takes connections which were meant for others.
fn transparent(namespace: &Namespace, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = namespace.inside(|| {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(16).unwrap();
        TcpListener::from(socket)
    });
    serve(listener, "");
}

fn who(namespace: &Namespace, uid: u32, address: &str) -> String {
    let answer = namespace.curl(uid, "", &[], &["--noproxy", "*", &format!("http://{address}/")]);
    answer.unwrap_or_else(|_| "-".into())
}

/// The words of a run: exit code, standard output, standard error.
fn words(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// `countersign transparent …` inside, as root, with these folders first in PATH.
fn transparently(namespace: &Namespace, first: Option<&Path>, arguments: &str) -> (i32, String, String) {
    let mut command = namespace.command(binary());
    command.env("PATH", path(first)).arg("transparent").args(arguments.split_whitespace());
    words(&command.output().unwrap())
}

fn path(first: Option<&Path>) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths(first.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path))).unwrap()
}

/// Runs it, and it succeeds.
fn done(namespace: &Namespace, arguments: &str) -> String {
    let (code, out, err) = transparently(namespace, None, arguments);
    assert_eq!(code, 0, "{arguments}: {out}{err}");
    out
}

/// Everything that rules are made of, as the kernel has it now.
fn state(namespace: &Namespace) -> String {
    // The nft form of iptables leaves its empty chains behind when they were first used: they are there from the beginning.
    namespace.run(
        "prime() {
             $1 -t $2 -N PRIME 2>/dev/null && $1 -t $2 -A $3 -j PRIME && $1 -t $2 -D $3 -j PRIME && $1 -t $2 -X PRIME
         }
         for tool in iptables ip6tables; do
             prime $tool filter OUTPUT
             for table in nat mangle; do prime $tool $table OUTPUT; prime $tool $table PREROUTING; done
         done
         { nft list ruleset; iptables-save; ip6tables-save; ip -4 rule; ip -6 rule
           ip -4 route show table 17235 || true; ip -6 route show table 17235 || true; } 2>/dev/null | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//'",
    )
}

fn both(name: &str) -> [String; 2] {
    [name.to_owned(), name.to_owned()]
}

#[test]
fn what_programs_open_is_redirected_but_ours_and_loopback_s_and_down_leaves_no_rule() {
    let test = "what_programs_open_is_redirected_but_ours_and_loopback_s_and_down_leaves_no_rule";
    let Some(()) = possible(test, &PROGRAMS) else { return };
    for tool in TOOLS {
        let net = Net::new();
        let before = state(&net.here);
        assert_eq!(net.who(USER_UID, 80), both("far"));
        let up = format!("up --tool {tool} --exclude-uid {PROXY_UID}");
        done(&net.here, &up);
        assert_eq!(net.who(USER_UID, 80), both("captured"), "{tool}");
        assert_eq!(net.who(0, 80), both("captured"), "{tool}: root is a user like others");
        assert_eq!(net.who(PROXY_UID, 80), both("far"), "{tool}: we do not call ourselves");
        assert_eq!(net.who(USER_UID, 8080), both("far"), "{tool}: a port that is not captured");
        for address in ["127.0.0.1:80", "[::1]:80"] {
            assert_eq!(who(&net.here, USER_UID, address), "loop", "{tool}");
        }
        let during = state(&net.here);
        assert!(done(&net.here, &up).contains("already"));
        let (code, _, err) = transparently(&net.here, None, &format!("{up} --ports all"));
        assert_eq!(code, 1);
        assert!(err.contains("are there already") && err.contains("transparent down"), "{err}");
        let other = TOOLS.into_iter().find(|other| *other != tool).unwrap();
        let (code, ..) = transparently(&net.here, None, &format!("up --tool {other} --exclude-uid {PROXY_UID}"));
        assert_eq!(code, 1, "by one tool at a time");
        assert_eq!(state(&net.here), during, "{tool}: what is refused changes nothing");
        assert!(done(&net.here, "show").contains("15001"));
        let shown: serde_json::Value = serde_json::from_str(&done(&net.here, "show --json")).unwrap();
        assert_eq!((&shown["up"], &shown["found"][0]["tool"]), (&true.into(), &tool.into()));
        assert!(done(&net.here, "down").contains("removed"));
        assert_eq!(state(&net.here), before, "{tool}");
        assert_eq!(net.who(USER_UID, 80), both("far"));
        assert!(done(&net.here, "down").contains("nothing of ours"));
        assert_eq!(transparently(&net.here, None, "show").0, 1);
    }
}

#[test]
fn only_the_users_that_are_named_are_captured() {
    let Some(()) = possible("only_the_users_that_are_named_are_captured", &PROGRAMS) else { return };
    for tool in TOOLS {
        let net = Net::new();
        done(&net.here, &format!("up --tool {tool} --uid {USER_UID} --ports all --ipv4-only --only-way-out"));
        assert_eq!(net.who(USER_UID, 8080), ["captured", "-"], "{tool}: IPv6 is no hole");
        assert_eq!(net.who(USER_UID + 1, 8080), both("far"), "{tool}");
        done(&net.here, "down");
        done(&net.here, &format!("up --tool {tool} --exclude-uid {PROXY_UID} --ipv4-only"));
        assert_eq!(net.who(USER_UID, 80), ["captured", "far"], "{tool}: IPv6 is not looked at");
    }
}

/// Whether a datagram to this port comes back.
fn echoes(net: &Net, address: &str) -> bool {
    let to: SocketAddr = address.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    net.here.inside(|| {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        // What is rejected fails at once, here or when the answer is awaited.
        socket.connect(to).is_ok() && socket.send(b"?").is_ok() && socket.recv(&mut [0; 8]).is_ok()
    })
}

#[test]
fn the_only_way_out_is_ours_over_both_versions_of_ip_but_for_dns() {
    let Some(()) = possible("the_only_way_out_is_ours_over_both_versions_of_ip_but_for_dns", &PROGRAMS) else { return };
    for tool in TOOLS {
        let net = Net::new();
        let before = state(&net.here);
        for address in ["10.77.1.2", "[fd77:1::2]"] {
            for port in [53, 443] {
                let address = format!("{address}:{port}");
                let socket = net.far.inside(|| UdpSocket::bind(&address).unwrap());
                std::thread::spawn(move || {
                    let mut bytes = [0; 8];
                    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], from);
                    }
                });
                assert!(echoes(&net, &address), "{address}");
            }
            names_itself(&net.far, &format!("{address}:53"), "far");
        }
        names_itself(&net.here, "10.77.1.1:9000", "here");
        done(
            &net.here,
            &format!("up --tool {tool} --exclude-uid {PROXY_UID} --only-way-out --dns 10.77.1.2 --dns fd77:1::2"),
        );
        assert_eq!(net.who(USER_UID, 80), both("captured"), "{tool}");
        assert_eq!(net.who(USER_UID, 8080), both("-"), "{tool}");
        assert_eq!(net.who(0, 8080), both("-"), "{tool}");
        assert_eq!(net.who(PROXY_UID, 8080), both("far"), "{tool}");
        assert_eq!(net.who(USER_UID, 53), both("far"), "{tool}: DNS by TCP");
        for address in ["10.77.1.2", "[fd77:1::2]"] {
            assert!(echoes(&net, &format!("{address}:53")), "{tool}: DNS {address}");
            assert!(!echoes(&net, &format!("{address}:443")), "{tool}: QUIC {address}");
        }
        assert_eq!(who(&net.far, USER_UID, "10.77.1.1:9000"), "here", "{tool}: what is asked from outside is answered");
        done(&net.here, "down");
        assert_eq!(state(&net.here), before, "{tool}");
    }
}

#[test]
fn tproxy_hands_over_what_programs_open_with_its_address_and_down_takes_its_routes_too() {
    let test = "tproxy_hands_over_what_programs_open_with_its_address_and_down_takes_its_routes_too";
    let Some(()) = possible(test, &PROGRAMS) else { return };
    for tool in TOOLS {
        let net = Net::new();
        for address in ["127.0.0.1:15002", "[::1]:15002"] {
            transparent(&net.here, address);
        }
        let before = state(&net.here);
        done(
            &net.here,
            &format!("up --tool {tool} --tproxy --port 15002 --exclude-uid {PROXY_UID} --only-way-out --dns 10.9.9.9"),
        );
        assert_eq!(net.who(USER_UID, 80), ["10.77.1.2:80", "[fd77:1::2]:80"], "{tool}");
        assert_eq!(net.who(PROXY_UID, 80), both("far"), "{tool}");
        assert_eq!(net.who(USER_UID, 8080), both("-"), "{tool}");
        assert_ne!(state(&net.here), before);
        done(&net.here, "down");
        assert_eq!(state(&net.here), before, "{tool}");
    }
}

#[test]
fn what_comes_in_for_others_is_captured_on_its_interface_redirected_or_by_tproxy() {
    let test = "what_comes_in_for_others_is_captured_on_its_interface_redirected_or_by_tproxy";
    let Some(()) = possible(test, &PROGRAMS) else { return };
    let (client, gate, far) = (Namespace::new("client"), Namespace::new("gate"), Namespace::new("far"));
    join((&client, "client"), (&gate, "gate"), 1);
    join((&gate, "gate"), (&far, "far"), 2);
    default_route(&client, 1, 2);
    default_route(&far, 2, 1);
    gate.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    for address in ["10.77.2.2:80", "[fd77:2::2]:80"] {
        names_itself(&far, address, "far");
    }
    for address in ["10.77.1.2", "[fd77:1::2]"] {
        names_itself(&gate, &format!("{address}:80"), "gate");
        names_itself(&gate, &format!("{address}:15001"), "captured");
        transparent(&gate, &format!("{address}:15002"));
    }
    let ask = || ["10.77.2.2:80", "[fd77:2::2]:80"].map(|address| who(&client, USER_UID, address));
    let before = state(&gate);
    assert_eq!(ask(), both("far"));
    for tool in TOOLS {
        done(&gate, &format!("up --tool {tool} --for prerouting --interface to-client"));
        assert_eq!(ask(), both("captured"), "{tool}");
        assert_eq!(who(&client, USER_UID, "10.77.1.2:80"), "gate", "{tool}: what is for the host itself");
        assert_eq!(who(&gate, USER_UID, "10.77.2.2:80"), "far", "{tool}: what the host itself opens");
        done(&gate, "down");
        done(&gate, &format!("up --tool {tool} --for prerouting --interface to-far"));
        assert_eq!(ask(), both("far"), "{tool}: another interface");
        done(&gate, "down");
        done(&gate, &format!("up --tool {tool} --for prerouting --interface to-client --tproxy --port 15002"));
        assert_eq!(ask(), ["10.77.2.2:80", "[fd77:2::2]:80"], "{tool}");
        assert_eq!(who(&client, USER_UID, "10.77.1.2:80"), "gate", "{tool}");
        done(&gate, "down");
        done(&gate, &format!("up --tool {tool} --for prerouting --interface to-client --tproxy --port 15003"));
        for address in ["10.77.2.2:80", "[fd77:2::2]:80"] {
            let address: SocketAddr = address.parse().unwrap();
            // iptables' TPROXY drops, so there may be nothing to wait for.
            let answer = client.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
            assert!(answer.is_err(), "{tool}: nobody listens, and nothing passes");
        }
        done(&gate, "down");
        assert_eq!(state(&gate), before, "{tool}");
    }
}

/// A folder with a program that says no to what this shell condition is true of, and else does what the real one does.
fn fake(name: &str, condition: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let real = std::env::split_paths(&path(None)).map(|folder| folder.join(name)).find(|path| path.exists()).unwrap();
    let script = format!(
        "#!/bin/sh\ninput=\ncase \"$*\" in -f*|--noflush*) input=$(cat) ;; esac\nif {condition}; then echo 'the fake says no' >&2; exit 4; fi\n\
         printf '%s\\n' \"$input\" | {} \"$@\"\n",
        real.display()
    );
    let file = folder.path().join(name);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn a_tool_that_fails_half_way_leaves_nothing_and_is_quoted() {
    let Some(()) = possible("a_tool_that_fails_half_way_leaves_nothing_and_is_quoted", &PROGRAMS) else { return };
    let here = Namespace::new("here");
    let before = state(&here);
    for (name, condition, arguments) in [
        ("ip6tables-restore", "true", "--tool iptables --only-way-out"),
        ("ip6tables-restore", "echo \"$input\" | grep -q -e '-A COUNTERSIGN'", "--tool iptables --tproxy"),
        ("nft", "[ \"$1\" = -f ] && ! echo \"$input\" | grep -q '^delete'", "--tool nft --tproxy"),
        ("ip", "echo \"$*\" | grep -q -e '-6 rule add'", "--tool nft --tproxy"),
    ] {
        let folder = fake(name, condition);
        let (code, _, err) =
            transparently(&here, Some(folder.path()), &format!("up --exclude-uid {PROXY_UID} {arguments}"));
        assert_eq!(code, 1, "{name}");
        assert!(err.contains("the fake says no") && err.contains("Nothing was changed"), "{name}: {err}");
        assert_eq!(state(&here), before, "{name}");
    }
    // The one that cannot even be taken back is named, and left to `down`.
    let folder = fake("ip", "echo \"$*\" | grep -q -e '-6 rule add' -e '-4 rule del'");
    let (code, _, err) =
        transparently(&here, Some(folder.path()), &format!("up --exclude-uid {PROXY_UID} --tool nft --tproxy"));
    assert_eq!(code, 1);
    assert!(err.contains("still there: ip: -4 rule") && err.contains("transparent down"), "{err}");
    done(&here, "down");
    assert_eq!(state(&here), before);
    // What cannot be looked at is not said to be gone.
    done(&here, &format!("up --exclude-uid {PROXY_UID} --tool iptables"));
    let folder = fake("iptables-save", "true");
    let (code, _, err) = transparently(&here, Some(folder.path()), "down");
    assert!(code == 1 && err.contains("it cannot be told what is there"), "{err}");
    done(&here, "down");
    assert_eq!(state(&here), before);
    // A kernel without NAT for both families at once gets a table for each.
    let folder = fake("nft", "echo \"$input\" | grep -q '^table inet'");
    let (code, _, err) = transparently(&here, Some(folder.path()), &format!("up --exclude-uid {PROXY_UID} --tool nft"));
    assert_eq!(code, 0, "{err}");
    assert!(done(&here, "show").contains("table ip6 countersign"));
    assert!(done(&here, &format!("up --exclude-uid {PROXY_UID} --tool nft")).contains("already"));
    done(&here, "down");
    assert_eq!(state(&here), before);
}

#[test]
fn down_removes_what_an_interrupted_up_left_and_nothing_of_others() {
    let Some(()) = possible("down_removes_what_an_interrupted_up_left_and_nothing_of_others", &PROGRAMS) else {
        return;
    };
    let here = Namespace::new("here");
    here.run(
        "iptables -A OUTPUT -p tcp --dport 81 -j ACCEPT; nft add table inet others; ip rule add fwmark 9 lookup 9",
    );
    let before = state(&here);
    here.run(
        "ip -4 route add local default dev lo table 17235; ip -6 rule add pref 17235 fwmark 0x4353 lookup 17235
         iptables -t mangle -N COUNTERSIGN_CAPTURE; iptables -N COUNTERSIGN_REFUSE; iptables -A OUTPUT -j COUNTERSIGN_REFUSE
         ip6tables -t nat -N COUNTERSIGN_TAKE; nft add table ip countersign",
    );
    let (code, _, err) = transparently(&here, None, &format!("up --exclude-uid {PROXY_UID}"));
    assert_eq!(code, 1);
    assert!(err.contains("transparent down"), "{err}");
    done(&here, "down");
    assert_eq!(state(&here), before);
}

#[test]
fn without_net_admin_it_refuses_and_says_what_to_give_and_with_it_alone_it_works() {
    let test = "without_net_admin_it_refuses_and_says_what_to_give_and_with_it_alone_it_works";
    let Some(()) = possible(test, &PROGRAMS) else { return };
    let here = Namespace::new("here");
    let before = state(&here);
    let folder = tempfile::tempdir().unwrap();
    // A checkout may lie where this uid cannot look.
    let program = folder.path().join("countersign");
    std::fs::copy(binary(), &program).unwrap();
    here.run(&format!("chmod 755 {}", folder.path().display()));
    let run = |capabilities: &str, arguments: &[&str]| {
        let mut command: Command = here.command_as(USER_UID, capabilities, &program);
        words(&command.arg("transparent").args(arguments).output().unwrap())
    };
    for arguments in
        [&["up", "--exclude-uid", "65532"][..], &["up", "--exclude-uid", "65532", "--tproxy"], &["down"], &["show"]]
    {
        let (code, _, err) = run("", arguments);
        assert_eq!(code, 1, "{arguments:?}");
        assert!(err.contains("run as root or give CAP_NET_ADMIN"), "{err}");
    }
    let (code, out, err) = run("", &["up", "--exclude-uid", "65532", "--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("redirect to :15001"), "{out}");
    assert_eq!(state(&here), before);
    let (code, _, err) = run("+net_admin", &["up", "--exclude-uid", "65532", "--tool", "nft", "--tproxy"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run("+net_admin", &["down"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(state(&here), before);
}

#[test]
fn dry_run_prints_exactly_what_up_runs() {
    use std::os::unix::fs::PermissionsExt;
    let Some(()) = possible("dry_run_prints_exactly_what_up_runs", &PROGRAMS) else { return };
    let here = Namespace::new("here");
    let before = state(&here);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    for name in ["nft", "ip", "iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save"] {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in ''|list*|*show*) exit 0 ;; esac\n{{ echo \"# {name} $*\"; cat; }} >> {}\n",
            log.display()
        );
        std::fs::write(folder.path().join(name), script).unwrap();
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for tool in TOOLS {
        let arguments = format!("up --tool {tool} --exclude-uid {PROXY_UID} --tproxy --only-way-out --dns 10.9.9.9");
        let (code, dry, err) = transparently(&here, Some(folder.path()), &format!("{arguments} --dry-run"));
        assert_eq!(code, 0, "{err}");
        assert!(!log.exists(), "--dry-run runs nothing");
        let (code, _, err) = transparently(&here, Some(folder.path()), &arguments);
        assert_eq!(code, 0, "{err}");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), dry, "{tool}");
        std::fs::remove_file(&log).unwrap();
    }
    assert_eq!(state(&here), before);
}

#[test]
fn a_wrong_command_line_is_told_from_a_failure() {
    let run = |arguments: &[&str]| {
        let mut command = crate::support::countersign(&["transparent"]);
        words(&command.args(arguments).output().unwrap())
    };
    for arguments in [
        &["up"][..],
        &["up", "--exclude-uid", "no such"],
        &["up", "--for", "prerouting", "--interface", "a;b"],
        &["sideways"],
    ] {
        assert_eq!(run(arguments).0, 64, "{arguments:?}");
    }
    assert_eq!(run(&["up", "--exclude-uid", "1", "--dry-run"]).0, 0);
}

/// A connection that a program leaves is ended for real, though its last packets have no owner any more.
#[test]
fn a_connection_whose_program_is_gone_still_ends_under_the_only_way_out() {
    let test = "a_connection_whose_program_is_gone_still_ends_under_the_only_way_out";
    let Some(()) = possible(test, &PROGRAMS) else { return };
    for tool in TOOLS {
        let net = Net::new();
        let listener = net.far.listen("10.77.1.2:53");
        // Nobody but root is ours here: the threads of this test are root's.
        done(&net.here, &format!("up --tool {tool} --exclude-uid 0 --only-way-out --dns 10.9.9.9"));
        let stream = net.here.inside(|| TcpStream::connect("10.77.1.2:53").unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_read_timeout(Some(DEADLINE)).unwrap();
        (&stream).write_all(b"last words").unwrap();
        drop(stream);
        let mut said = String::new();
        accepted.read_to_string(&mut said).unwrap();
        assert_eq!(said, "last words", "{tool}");
    }
}
