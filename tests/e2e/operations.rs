//! Operations: health, reload, drain, limits, a busy port, a kill at any moment.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Config, DEADLINE, Origin, Proxy, Root, SECRET, countersign, raw, read_answer, text};

const OPEN: &str = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";
const GET: &[u8] = b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_need_no_token_and_name_what_cannot_be_used() {
    let root = Root::new();
    let config = Config::new()
        .credentials("  - { id: key, scheme: api_key, key: { file: FOLDER/gone }, hosts: [api.test] }\n")
        .rest("admin: { address: 127.0.0.1:0 }\n");
    let proxy = config.start(&root);
    let admin = proxy.address("admin", 0);
    let ask = |path: &str, host: &str| raw(&admin, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    assert_eq!(ask("/livez", "localhost").status(), 200);
    let ready = ask("/readyz", "localhost");
    assert_eq!(ready.status(), 200);
    assert!(ready.text.contains(&proxy.forward()) && ready.text.contains("key: file"), "{}", ready.text);
    assert_eq!(ask("/readyz", "evil.test").status(), 421, "DNS rebinding");
    assert_eq!(ask("/nonesuch", "localhost").status(), 401, "whoever is not known learns of no path");
    let refused = raw(&proxy.forward(), b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!((refused.status(), refused.code().as_str()), (503, "secret_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_or_a_hangup_reloads_and_a_bad_file_changes_nothing() {
    let root = Root::new();
    let origin = Origin::http().await;
    let config = Config::new().resolve("api.test:80", origin.address).bindings(OPEN);
    let proxy = config.start(&root);
    let reloads = |count: usize| proxy.wait_log(|log| log.matches("configuration reloaded").count() >= count);
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
    let good = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, good.replace("hosts: [api.test], allow", "hosts: [api.test], paths: [/only], allow"))
        .unwrap();
    reloads(1);
    assert_eq!(raw(&proxy.forward(), GET).code(), "unbound");
    std::fs::write(&proxy.config, "unbound: maybe\n").unwrap();
    // While it is written it may be seen empty, which is refused as well.
    proxy.wait_log(|log| log.contains("the old one stays") && log.contains("line 1: unbound"));
    assert_eq!(raw(&proxy.forward(), GET).code(), "unbound", "still the one before");
    let emptied = proxy.log().matches("the file is empty").count();
    std::fs::write(&proxy.config, "").unwrap();
    proxy.wait_log(|log| log.matches("the file is empty").count() > emptied);
    assert_eq!(raw(&proxy.forward(), GET).code(), "unbound", "a file that is being written is no configuration");
    std::fs::write(&proxy.config, &good).unwrap();
    reloads(2);
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
    proxy.signal("HUP");
    reloads(3);
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_file_that_changes_is_read_again() {
    let root = Root::new();
    let origin = Origin::http().await;
    let config = Config::new()
        .credentials("  - { id: key, scheme: api_key, key: { file: FOLDER/key }, hosts: [api.test] }\n")
        .resolve("api.test:80", origin.address)
        .bindings(OPEN);
    let proxy = Proxy::start_with(&config.text(), &[], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("key"), "first\n").unwrap();
    });
    raw(&proxy.forward(), GET);
    // As Kubernetes does it: a new file takes the old one's place.
    let folder = proxy.folder.path();
    std::fs::write(folder.join("key.new"), "second\n").unwrap();
    std::fs::rename(folder.join("key.new"), folder.join("key")).unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    raw(&proxy.forward(), GET);
    let keys: Vec<_> = origin.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(keys, ["Bearer first", "Bearer second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_was_removed_is_refused_inside_its_open_connection() {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let callers = "callers:\n  - { name: runner, token: { env: TOKEN } }\n";
    let proxy = Config::new().resolve("api.test:443", origin.address).rest(callers).start(&root);
    let client = proxy.client_as("runner:t0ken@");
    assert_eq!(client.get("https://api.test/").send().await.unwrap().status(), 200);
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, text.replace("token: { env: TOKEN }", "token: { env: SECRET }")).unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    // The tunnel is still open, and the client reuses it.
    let refused = client.get("https://api.test/").send().await.unwrap();
    assert_eq!(refused.status(), 407);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_drops_no_request() {
    let root = Root::new();
    let origin = Origin::http().await;
    let proxy = Config::new()
        .resolve("api.test:80", origin.address)
        .bindings(OPEN)
        .rest("log: { requests: false }\n")
        .start(&root);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (stop, done, address) = (Arc::clone(&stop), Arc::clone(&done), proxy.forward());
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(GET).unwrap();
                    let answer = read_answer(&mut stream);
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for count in 1..=10 {
        let before = done.load(Ordering::Relaxed);
        proxy.signal("HUP");
        proxy.wait_log(|log| log.matches("configuration reloaded").count() >= count);
        while done.load(Ordering::Relaxed) < before + 50 {
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(origin.seen().len(), done.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let root = Root::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let wait = Arc::clone(&gate);
    let origin = Origin::http_with(move |_| {
        arrived.send(()).unwrap();
        let (open, opened) = &*wait;
        let guard = open.lock().unwrap();
        drop(opened.wait_timeout_while(guard, DEADLINE, |open| !*open).unwrap());
        text(200, "finished")
    })
    .await;
    let config =
        Config::new().resolve("api.test:80", origin.address).bindings(OPEN).rest("admin: { address: 127.0.0.1:0 }\n");
    let proxy = config.start(&root);
    let (address, admin) = (proxy.forward(), proxy.address("admin", 0));
    let idle = TcpStream::connect(&address).unwrap();
    let calling = {
        let address = address.clone();
        std::thread::spawn(move || raw(&address, GET))
    };
    arrivals.recv().await.unwrap();
    proxy.signal("TERM");
    proxy.wait_log(|log| log.contains("draining"));
    let ready = raw(&admin, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(ready.status(), 503, "{}", ready.text);
    let (open, opened) = &*gate;
    *open.lock().unwrap() = true;
    opened.notify_all();
    let answer = calling.join().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text.ends_with("finished"), "{}", answer.text);
    drop(idle);
    let mut proxy = proxy;
    assert!(proxy.child.wait().unwrap().success());
    assert!(TcpStream::connect(&address).is_err(), "nothing listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_a_busy_port_says_which() {
    let root = Root::new();
    let proxy = Config::new().start(&root);
    let busy = proxy.forward();
    let text = std::fs::read_to_string(&proxy.config).unwrap().replace("127.0.0.1:0", &busy);
    let second = proxy.folder.path().join("second.yaml");
    std::fs::write(&second, text).unwrap();
    let output = countersign(&["serve", "--config", second.to_str().unwrap()]).env("SECRET", SECRET).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("cannot listen on {busy}")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_leaves_nothing_that_stops_the_next() {
    let root = Root::new();
    let origin = Origin::http().await;
    let config = Config::new()
        .listeners("  forward:\n    - address: unix:FOLDER/p.sock\n    - address: 127.0.0.1:0\n")
        .resolve("api.test:80", origin.address)
        .bindings(OPEN);
    let mut proxy = config.start(&root);
    let socket = proxy.folder.path().join("p.sock");
    let ca = std::fs::read(proxy.ca_file()).unwrap();
    proxy.child.kill().unwrap();
    proxy.child.wait().unwrap();
    assert!(socket.exists(), "killed: nobody cleaned up");
    let mut again = countersign(&["serve", "--config", proxy.config.to_str().unwrap()])
        .env("SECRET", SECRET)
        .current_dir(proxy.folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = String::new();
    let mut reader = std::io::BufReader::new(again.stderr.take().unwrap());
    while !log.contains("\"started\"") {
        assert!(std::io::BufRead::read_line(&mut reader, &mut log).unwrap() > 0, "{log}");
    }
    assert_eq!(std::fs::read(proxy.ca_file()).unwrap(), ca, "the same authority");
    let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(crate::support::talk(stream, GET).status(), 200);
    again.kill().unwrap();
    again.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_refuses_with_a_problem_document() {
    let root = Root::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let wait = Arc::clone(&gate);
    let origin = Origin::http_with(move |seen| {
        if seen.target == "/slow" {
            arrived.send(()).unwrap();
            let (open, opened) = &*wait;
            let guard = open.lock().unwrap();
            drop(opened.wait_timeout_while(guard, DEADLINE, |open| !*open).unwrap());
        }
        text(200, "")
    })
    .await;
    let limits = "limits: { caller_requests: 1, connections: 3, header_read_timeout: 300ms, idle_timeout: 10s, header_bytes: 2048, header_count: 5 }\n";
    let proxy = Config::new().resolve("api.test:80", origin.address).bindings(OPEN).rest(limits).start(&root);
    let address = proxy.forward();
    let calling = {
        let address = address.clone();
        std::thread::spawn(move || raw(&address, b"GET http://api.test/slow HTTP/1.1\r\nHost: api.test\r\n\r\n"))
    };
    arrivals.recv().await.unwrap();
    let second = raw(&address, GET);
    assert_eq!((second.status(), second.code().as_str()), (503, "overloaded"), "{}", second.text);
    assert!(second.text.to_ascii_lowercase().contains("retry-after: "));
    let (open, opened) = &*gate;
    *open.lock().unwrap() = true;
    opened.notify_all();
    assert_eq!(calling.join().unwrap().status(), 200);
    assert_eq!(raw(&address, GET).status(), 200, "the place was given back");
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET http://api.test/ HT").unwrap();
    let answer = crate::support::Raw { text: read_answer(&mut slow) };
    assert_eq!((answer.status(), answer.code().as_str()), (408, "overloaded"), "{}", answer.text);
    drop(slow);
    let large = raw(
        &address,
        format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n", "y".repeat(3000)).as_bytes(),
    );
    assert_eq!((large.status(), large.code().as_str()), (431, "overloaded"));
    let many = raw(
        &address,
        format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n{}\r\n", "X: y\r\n".repeat(5)).as_bytes(),
    );
    assert_eq!(many.status(), 431);
    let mut held: Vec<TcpStream> = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut start = [0; 12];
        match stream.read(&mut start) {
            Ok(count) if count > 0 => break String::from_utf8_lossy(&start[..count]).into_owned(),
            _ => held.push(stream),
        }
        assert!(held.len() < 10, "connections are not limited");
    };
    assert_eq!(refused, "HTTP/1.1 503");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_slow_reload_is_obeyed_at_once() {
    let root = Root::new();
    let config = Config::new()
        .credentials("  - { id: key, scheme: api_key, key: { command: [sh, FOLDER/secret.sh] }, hosts: [api.test] }\n");
    let proxy = Proxy::start_with(&config.text(), &[], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        // Quick the first time; from then on it never comes to an end.
        let script =
            "cd \"$(dirname \"$0\")\"; if [ -e again ]; then touch asked; exec sleep 600; fi; touch again; echo key";
        std::fs::write(folder.join("secret.sh"), script).unwrap();
    });
    proxy.signal("HUP");
    while !proxy.folder.path().join("asked").exists() {
        std::thread::yield_now();
    }
    let log = proxy.stop();
    assert!(log.contains("draining"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_never_quiet_does_not_put_a_reload_off() {
    let root = Root::new();
    let proxy = Config::new().start(&root);
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, format!("{text}# changed\n")).unwrap();
    let noise = proxy.folder.path().join("noise");
    let mut count = 0_u64;
    while !proxy.log().contains("configuration reloaded") {
        count += 1;
        std::fs::write(&noise, count.to_string()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_refused_configuration_names_is_waited_for() {
    let root = Root::new();
    let proxy = Config::new().start(&root);
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    let later = proxy.folder.path().join("later");
    std::fs::create_dir(&later).unwrap();
    std::fs::write(&proxy.config, text.replace("origin.pem", "later/ca.pem")).unwrap();
    proxy.wait_log(|log| log.contains("the old one stays"));
    std::fs::write(later.join("ca.pem"), root.pem()).unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
}
