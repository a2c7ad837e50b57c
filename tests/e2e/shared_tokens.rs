//! Tokens that several processes share by way of a real Redis: one exchange for all, nothing readable in it, and no request
//! that fails because it is away.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use crate::support::redis::{PASSWORD, Redis};
use crate::support::{
    Answer, Config, DEADLINE, Origin, Proxy, Raw, Root, SECRET, Seen, countersign, measured, raw, skip, text,
};
use crate::tokens::{Gate, may_open};

/// 32 bytes in base64.
const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ=";
const OTHER_KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmMDEyMzU=";

fn token(number: usize, seconds: u64) -> Answer {
    text(200, &json!({ "access_token": format!("token-canary-{number}"), "expires_in": seconds }).to_string())
}

/// A token endpoint that numbers its tokens.
async fn endpoint(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http_with(move |seen| answer(count.fetch_add(1, Ordering::SeqCst) + 1, seen)).await
}

fn credential(id: &str, host: &str) -> String {
    format!(
        "  - id: {id}\n    scheme: oauth2\n    hosts: [{host}]\n    grant_type: client_credentials\n    \
         token_url: http://idp.test/token\n    allow_cleartext: true\n    client_id: me\n    client_secret: {{ env: SECRET }}\n"
    )
}

fn config(idp: &Origin, api: &Origin, tokens: &str) -> String {
    Config::new()
        .credentials(&credential("key", "api.test"))
        .bindings("  - { credential: key, allow_cleartext: true }\n")
        .resolve("idp.test:80", idp.address)
        .resolve("api.test:80", api.address)
        .rest(&format!("tokens: {{ directory: FOLDER/tokens, key: {{ env: KEY }}, {tokens} }}\n"))
        .text()
}

fn by(redis: &Redis) -> String {
    format!("shared: \"{}\", shared_password: {{ env: PASSWORD }}", redis.url())
}

const VARIABLES: [(&str, &str); 3] = [("SECRET", SECRET), ("PASSWORD", PASSWORD), ("KEY", KEY)];

fn start(config: &str) -> Proxy {
    start_with(config, &VARIABLES)
}

fn start_with(config: &str, variables: &[(&str, &str)]) -> Proxy {
    let root = Root::new();
    Proxy::start_with(config, variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    })
}

const GET: &str = "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";

fn get(proxy: &Proxy) -> Raw {
    raw(&proxy.forward(), GET.as_bytes())
}

fn sent(api: &Origin) -> Vec<String> {
    api.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_cold_callers_in_each_of_two_processes_cost_one_exchange_in_all() {
    let Some(redis) = Redis::start("five hundred cold callers in two processes", None) else { return };
    // Callers, and connections of the proxies to the API, which all end in this process.
    if !may_open(6000) {
        let _: Option<()> = skip("five hundred cold callers in two processes", "this process may not open 6,000 files");
        return;
    }
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let idp = endpoint(move |number, _| {
        held.wait();
        token(number, 3600)
    })
    .await;
    let api = Origin::http().await;
    let text = config(&idp, &api, &by(&redis));
    let proxies = [start(&text), start(&text)];
    let addresses: Vec<_> = proxies.iter().map(Proxy::forward).collect();
    let answers = tokio::task::spawn_blocking(move || {
        let mut callers: Vec<TcpStream> = Vec::new();
        for number in 0..1000 {
            let mut caller = TcpStream::connect(&addresses[number % 2]).unwrap();
            caller.set_read_timeout(Some(DEADLINE)).unwrap();
            caller.write_all(GET.as_bytes()).unwrap();
            callers.push(caller);
        }
        // Every request is on its way before the first token is.
        gate.open();
        let answer = |mut caller: TcpStream| {
            let mut answer = String::new();
            caller.read_to_string(&mut answer).unwrap();
            answer.starts_with("HTTP/1.1 200")
        };
        callers.into_iter().filter_map(|caller| answer(caller).then_some(())).count()
    });
    assert_eq!(answers.await.unwrap(), 1000);
    assert_eq!(idp.seen().len(), 1, "one exchange in all");
    let sent = sent(&api);
    assert_eq!(sent.len(), 1000);
    assert!(sent.iter().all(|line| line == "Bearer token-canary-1"));
    measured("500 cold callers in each of two processes with one Redis: 1 exchange, 1,000 answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_under_load_fails_no_request_and_tokens_are_shared_again_when_it_is_back() {
    let Some(mut redis) = Redis::start("Redis killed under load", None) else { return };
    // They live for a second, so that there are exchanges all the time.
    let idp = endpoint(|number, _| token(number, 1)).await;
    let api = Origin::http().await;
    let text = config(&idp, &api, &by(&redis));
    let proxies = [start(&text), start(&text)];
    let (stop, failed, served) =
        (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let (address, stop) = (proxies[number % 2].forward(), Arc::clone(&stop));
            let (failed, served) = (Arc::clone(&failed), Arc::clone(&served));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = raw(&address, GET.as_bytes());
                    if answer.status() != 200 {
                        failed.lock().unwrap().push(answer.text);
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let exchanges = |count| {
        let wanted = idp.seen().len() + count;
        wait_until("no exchanges any more", || idp.seen().len() >= wanted);
    };
    tokio::task::block_in_place(|| {
        exchanges(2);
        redis.kill();
        for proxy in &proxies {
            proxy.wait_log(|log| log.contains("tokens cannot be shared now"));
        }
        // Both go on by themselves.
        exchanges(4);
        redis.start_again();
        for proxy in &proxies {
            proxy.wait_log(|log| log.contains("tokens are shared again"));
        }
        wait_until("nothing is in Redis", || !redis.keys(":token").is_empty());
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    measured(&format!(
        "Redis killed and started again under load: {} requests, none failed, {} exchanges",
        served.load(Ordering::Relaxed),
        idp.seen().len()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_redis_is_encrypted_and_opens_in_its_own_place_only() {
    let Some(redis) = Redis::start("what lies in Redis", None) else { return };
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http().await;
    let both = credential("key", "api.test") + &credential("other", "other.test");
    let text = config(&idp, &api, &by(&redis))
        .replace(&credential("key", "api.test"), &both)
        .replace("  - { credential: key,", "  - { credential: other, allow_cleartext: true }\n  - { credential: key,")
        .replace("    \"unused.test:1\"", &format!("    \"other.test:80\": {}\n    \"unused.test:1\"", api.address));
    let first = start(&text);
    assert_eq!(get(&first).status(), 200);
    let content = redis.content();
    assert!(content.iter().any(|(name, _)| name.ends_with(":token")), "{content:?}");
    for canary in ["token-canary", SECRET, PASSWORD, "api.test", "idp.test", "default"] {
        for (name, value) in &content {
            let found = value.windows(canary.len()).any(|part| part == canary.as_bytes());
            assert!(!found && !name.contains(canary), "{canary} is in {name}");
        }
    }
    // Moved to the other credential's place, it is not taken for that one's token.
    let mine = redis.keys(":token").pop().unwrap();
    let other = "GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&first.forward(), other.as_bytes()).status(), 200);
    let moved = redis.keys(":token").into_iter().find(|name| *name != mine).unwrap();
    let copied: i64 = redis::cmd("COPY").arg(&mine).arg(&moved).arg("REPLACE").query(&mut redis.connection()).unwrap();
    assert_eq!(copied, 1);
    let second = start(&text);
    assert_eq!(get(&second).status(), 200);
    assert_eq!(raw(&second.forward(), other.as_bytes()).status(), 200);
    second.wait_log(|log| log.contains("it was encrypted with another key, or for another place"));
    assert_eq!(
        sent(&api),
        ["Bearer token-canary-1", "Bearer token-canary-2", "Bearer token-canary-1", "Bearer token-canary-3"]
    );
    // Another key finds nothing of it, under other names.
    let before = redis.keys(":token").len();
    let stranger = start_with(&text, &[("SECRET", SECRET), ("PASSWORD", PASSWORD), ("KEY", OTHER_KEY)]);
    assert_eq!(get(&stranger).status(), 200);
    assert_eq!(sent(&api).last().unwrap(), "Bearer token-canary-4");
    assert_eq!(redis.keys(":token").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_by_tls_with_a_password_and_what_is_wrong_with_it_is_said() {
    let root = Root::new();
    let Some(redis) = Redis::start("Redis by TLS", Some(&root)) else { return };
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http().await;
    let trusted = format!("{}, shared_ca_file: FOLDER/redis.pem", by(&redis));
    let start = |tokens: &str, variables: &[(&str, &str)]| {
        let other = Root::new();
        Proxy::start_with(&config(&idp, &api, tokens), variables, |folder| {
            std::fs::write(folder.join("origin.pem"), other.pem()).unwrap();
            std::fs::write(folder.join("redis.pem"), root.pem()).unwrap();
        })
    };
    let good = start(&trusted, &VARIABLES);
    assert_eq!(get(&good).status(), 200);
    assert_eq!(redis.keys(":token").len(), 1);
    let wrong = [("SECRET", SECRET), ("PASSWORD", "wrong-canary"), ("KEY", KEY)];
    for (tokens, variables, why) in [
        (by(&redis), &VARIABLES, "TLS"),
        (trusted.replace("rediss://", "redis://"), &VARIABLES, "tokens cannot be shared now"),
        (trusted.clone(), &wrong, "it refuses the user name or password"),
    ] {
        let proxy = start(&tokens, variables);
        assert_eq!(get(&proxy).status(), 200, "{why}");
        let log = proxy.wait_log(|log| log.contains("tokens cannot be shared now"));
        assert!(log.contains(why) && !log.contains("canary"), "{why}: {log}");
    }
    assert_eq!(idp.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_is_tried_once_for_all_processes() {
    let Some(redis) = Redis::start("a refused client", None) else { return };
    let idp = endpoint(|_, _| text(401, r#"{"error":"invalid_client","error_description":"secret has ended"}"#)).await;
    let api = Origin::http().await;
    let text = config(&idp, &api, &by(&redis));
    for _ in 0..3 {
        let proxy = start(&text);
        for _ in 0..5 {
            let answer = get(&proxy);
            assert_eq!((answer.status(), answer.code()), (502, "credential_rejected".into()), "{}", answer.text);
            assert!(answer.text.contains("secret has ended"), "{}", answer.text);
        }
    }
    assert_eq!(idp.seen().len(), 1);
    assert!(api.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_upstream_refuses_is_replaced_once_for_all_processes() {
    let Some(redis) = Redis::start("a refused token", None) else { return };
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http_with(|seen| {
        let revoked = seen.header("authorization") == Some("Bearer token-canary-1") && seen.target == "/";
        text(if revoked { 401 } else { 200 }, "")
    })
    .await;
    let text = config(&idp, &api, &by(&redis));
    let proxies = [start(&text), start(&text)];
    // Both have it, and then it is revoked.
    let before = "GET http://api.test/before HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
    for proxy in &proxies {
        assert_eq!(raw(&proxy.forward(), before.as_bytes()).status(), 200);
    }
    for proxy in &proxies {
        assert_eq!(get(proxy).status(), 200);
    }
    assert_eq!(idp.seen().len(), 2, "one exchange for both, before and after");
    assert_eq!(sent(&api).iter().filter(|line| **line == "Bearer token-canary-2").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_always_answers_401_costs_one_exchange_a_minute_in_all_processes_together() {
    let Some(redis) = Redis::start("always 401", None) else { return };
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http_with(|_| text(401, "")).await;
    let text = config(&idp, &api, &by(&redis));
    for _ in 0..4 {
        let proxy = start(&text);
        for _ in 0..3 {
            assert_eq!(get(&proxy).status(), 401);
        }
    }
    assert_eq!(idp.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_credential_takes_its_token_out_of_redis_and_an_ending_process_leaves_it() {
    let Some(redis) = Redis::start("a changed credential", None) else { return };
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http().await;
    let text = config(&idp, &api, &by(&redis));
    let mut proxy = start(&text);
    assert_eq!(get(&proxy).status(), 200);
    let old = redis.keys(":token");
    assert_eq!(old.len(), 1);
    let changed = std::fs::read_to_string(&proxy.config).unwrap().replace("client_id: me", "client_id: you");
    std::fs::write(&proxy.config, changed).unwrap();
    tokio::task::block_in_place(|| {
        proxy.wait_log(|log| log.contains("configuration reloaded"));
        wait_until("the old token is still there", || redis.keys(":token") != old);
    });
    assert_eq!(get(&proxy).status(), 200);
    assert_eq!(sent(&api), ["Bearer token-canary-1", "Bearer token-canary-2"]);
    let new = redis.keys(":token");
    assert!(new.len() == 1 && new != old, "{new:?}");
    proxy.signal("TERM");
    proxy.child.wait().unwrap();
    assert_eq!(redis.keys(":token"), new, "others go on with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_in_the_middle_of_an_exchange_is_followed_by_another() {
    let Some(redis) = Redis::start("a process that dies", None) else { return };
    let gate = Arc::new(Gate::default());
    let (held, asked) = (Arc::clone(&gate), Arc::new(AtomicBool::new(false)));
    let first_asked = Arc::clone(&asked);
    let idp = endpoint(move |number, _| {
        if number == 1 {
            first_asked.store(true, Ordering::SeqCst);
            held.wait();
        }
        token(number, 3600)
    })
    .await;
    let api = Origin::http().await;
    let text = config(&idp, &api, &by(&redis));
    let mut first = start(&text);
    let address = first.forward();
    let caller = std::thread::spawn(move || raw(&address, GET.as_bytes()));
    // In the middle: it holds the lease, and the endpoint has its request.
    let under_way = || !redis.keys(":lease").is_empty() && asked.load(Ordering::SeqCst);
    tokio::task::block_in_place(|| wait_until("nothing was asked for", under_way));
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(caller.join().unwrap().status(), 0);
    let began = Instant::now();
    let second = start(&text);
    assert_eq!(get(&second).status(), 200);
    measured(&format!(
        "a process killed while it held the lease: another serves {} ms later",
        began.elapsed().as_millis()
    ));
    gate.open();
}

#[test]
fn sharing_that_cannot_be_right_is_refused_with_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let check = |tokens: &str| {
        let file = folder.path().join("countersign.yaml");
        std::fs::write(&file, format!("tokens: {{ {tokens} }}\n")).unwrap();
        let mut command = countersign(&["check", "--config", file.to_str().unwrap()]);
        let output = command.current_dir(folder.path()).env("KEY", KEY).env("PASSWORD", PASSWORD).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let key = "key: { env: KEY }";
    let password = "shared_password: { env: PASSWORD }";
    for (tokens, place, words) in [
        ("shared: \"redis://cache\"".to_owned(), "tokens.shared", "tokens.key"),
        (format!("{key}, shared: \"redis://:{PASSWORD}@cache\""), "tokens.shared", "shared_password"),
        (format!("{key}, shared: \"http://cache\""), "tokens.shared", "rediss://"),
        (format!("{key}, shared: \"redis://cache\", {password}"), "tokens.shared", "shared_allow_cleartext"),
        (format!("{key}, {password}"), "tokens.shared_password", "goes with `shared`"),
        (format!("{key}, shared: \"redis://cache\", shared_username: me"), "tokens.shared_username", "shared_password"),
        (format!("{key}, shared: \"rediss://cache\", shared_ca_file: /no/such"), "tokens.shared_ca_file", "/no/such"),
        (format!("{key}, shared: {{ env: NOT_SET }}"), "tokens.shared", "NOT_SET"),
    ] {
        let (code, said) = check(&tokens);
        assert!(code != 0 && said.contains(place) && said.contains(words), "{tokens}: {code} {said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
    for tokens in [
        format!("{key}, shared: \"redis://cache\""),
        format!("{key}, shared: \"rediss://me@cache/1\", {password}"),
        format!("{key}, shared: \"redis://cache\", {password}, shared_allow_cleartext: true"),
        format!("{key}, shared: \"redis://127.0.0.1:1\", {password}"),
        format!("{key}, shared: \"unix:/run/redis.sock\", {password}"),
    ] {
        let (code, said) = check(&tokens);
        assert_eq!(code, 0, "{tokens}: {said}");
    }
    assert!(!Path::new(folder.path()).join("state").exists());
}
