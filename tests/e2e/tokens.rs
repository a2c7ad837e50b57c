//! The life of a token, seen from outside: how often an endpoint is asked, what callers get meanwhile, and what a 401 does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::support::{Answer, Config, DEADLINE, Origin, Proxy, Root, SECRET, Seen, measured, raw, skip, text};

/// Stops whoever waits at it until it is opened.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn wait(&self) {
        // The runtime's other tasks must not wait behind this one.
        tokio::task::block_in_place(|| {
            let open = self.open.lock().unwrap();
            let (_open, timeout) = self.opened.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap();
            assert!(!timeout.timed_out(), "the gate was never opened");
        });
    }

    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

fn token(number: usize, seconds: u64) -> Answer {
    text(
        200,
        &json!({ "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": seconds })
            .to_string(),
    )
}

/// A token endpoint that numbers its tokens, and an API that notes who called it.
async fn endpoint(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http_with(move |seen| answer(count.fetch_add(1, Ordering::SeqCst) + 1, seen)).await
}

const CREDENTIAL: &str = "  - id: key\n    scheme: oauth2\n    hosts: [api.test]\n    grant_type: client_credentials\n    \
     token_url: http://idp.test/token\n    allow_cleartext: true\n    client_id: me\n    client_secret: { file: FOLDER/secret }\n";

fn config(idp: &Origin, api: &Origin) -> Config {
    Config::new()
        .credentials(CREDENTIAL)
        .bindings("  - { credential: key, allow_cleartext: true }\n")
        .resolve("idp.test:80", idp.address)
        .resolve("api.test:80", api.address)
        .rest("tokens: { directory: FOLDER/tokens }\n")
}

fn start(config: &Config) -> Proxy {
    let root = Root::new();
    Proxy::start_with(&config.text(), &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("secret"), SECRET).unwrap();
    })
}

const GET: &str = "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";

fn get(proxy: &Proxy) -> crate::support::Raw {
    raw(&proxy.forward(), GET.as_bytes())
}

fn sent(api: &Origin) -> Vec<String> {
    api.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect()
}

/// Raises this process's limit of open files to what the system allows, and says whether that is enough.
pub fn may_open(files: u64) -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    raised && limit.maximum.is_none_or(|maximum| maximum >= files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_two_thousand_cold_callers_costs_one_exchange() {
    // Callers, and connections of the proxy to the API, which both end in this process.
    if !may_open(6000) {
        let _: Option<()> = skip("a burst of two thousand", "this process may not open 6,000 files");
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
    let proxy = start(&config(&idp, &api));
    let address = proxy.forward();
    let answers = tokio::task::spawn_blocking(move || {
        let mut callers: Vec<TcpStream> = Vec::new();
        for _ in 0..2000 {
            let mut caller = TcpStream::connect(&address).unwrap();
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
    let answers = answers.await.unwrap();
    assert_eq!(answers, 2000);
    assert_eq!(idp.seen().len(), 1, "exchanges");
    let form = String::from_utf8(idp.only().body.to_vec()).unwrap();
    assert_eq!(form, format!("grant_type=client_credentials&client_id=me&client_secret={SECRET}"));
    assert!(sent(&api).iter().all(|header| header == "Bearer token-1"));
    measured("2,000 cold callers at once: 1 exchange, 2,000 answers with 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_identity_provider_costs_callers_typed_503s_and_itself_no_more_than_the_backoff() {
    let api = Origin::http().await;
    let broken = Arc::new(Mutex::new(true));
    let state = Arc::clone(&broken);
    let idp =
        endpoint(move |number, _| if *state.lock().unwrap() { text(500, "<html>") } else { token(number, 3600) }).await;
    let proxy = start(&config(&idp, &api));
    let began = std::time::Instant::now();
    for _ in 0..300 {
        let answer = get(&proxy);
        assert_eq!((answer.status(), answer.code().as_str()), (503, "token_endpoint_unavailable"), "{}", answer.text);
        assert!(answer.text.to_ascii_lowercase().contains("\r\nretry-after: "), "{}", answer.text);
        assert!(answer.text.contains("idp.test answered 500"), "{}", answer.text);
    }
    // Pauses of at least 1, 2, 4 … seconds: the number of attempts is bounded by the time that passed, whatever that was.
    let seconds = began.elapsed().as_secs_f64();
    let allowed = 1 + (seconds + 1.0).log2().floor() as usize;
    let asked = idp.seen().len();
    assert!(asked <= allowed, "{asked} exchanges in {seconds} s");
    assert!(api.untouched(), "nothing goes out without a token");
    *broken.lock().unwrap() = false;
    let healed = std::time::Instant::now();
    loop {
        let answer = get(&proxy);
        if answer.status() == 200 {
            break;
        }
        assert!(healed.elapsed() < DEADLINE, "it never came back: {}", answer.text);
        tokio::task::yield_now().await;
    }
    measured(&format!(
        "300 calls while the identity provider is broken: {asked} exchanges; recovery without a restart"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_provider_that_is_not_there_is_a_typed_503_that_says_so() {
    let (api, idp) = (Origin::http().await, Origin::http().await);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = start(&Config {
        resolve: vec![("idp.test:80".into(), gone), ("api.test:80".into(), api.address)],
        ..config(&idp, &api)
    });
    let answer = get(&proxy);
    assert_eq!((answer.status(), answer.code().as_str()), (503, "token_endpoint_unavailable"));
    assert!(answer.text.contains("no answer from idp.test") && answer.text.contains("refused"), "{}", answer.text);
    assert!(api.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_about_to_expire_is_renewed_before_any_caller_waits() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let under_way = Arc::new(AtomicUsize::new(0));
    let begun = Arc::clone(&under_way);
    let idp = endpoint(move |number, _| {
        begun.store(number, Ordering::SeqCst);
        if number == 2 {
            held.wait();
        }
        // The first is due for renewal after four seconds and ends after six; what follows lasts.
        token(number, if number == 1 { 6 } else { 3600 })
    })
    .await;
    let api = Origin::http().await;
    let proxy = start(&config(&idp, &api));
    let began = std::time::Instant::now();
    let (mut before, mut during) = (0, 0);
    loop {
        let renewing = under_way.load(Ordering::SeqCst) == 2;
        let answer = get(&proxy);
        assert_eq!(answer.status(), 200, "{}", answer.text);
        if !renewing {
            before += 1;
        } else {
            // The second exchange stands still at the gate, and callers are served all the same.
            during += 1;
            if during == 20 {
                break;
            }
        }
        assert!(began.elapsed() < DEADLINE, "no renewal ever began");
        tokio::task::yield_now().await;
    }
    assert!(before > 0 && sent(&api).iter().all(|header| header == "Bearer token-1"));
    gate.open();
    while sent(&api).last().map(String::as_str) != Some("Bearer token-2") {
        assert_eq!(get(&proxy).status(), 200);
        assert!(began.elapsed() < DEADLINE, "the new token was never used");
        tokio::task::yield_now().await;
    }
    assert_eq!(idp.seen().len(), 2);
}

/// An API that takes every token but those with these numbers.
async fn api_refusing(numbers: &'static [usize]) -> Origin {
    Origin::http_with(move |seen| {
        let header = seen.header("authorization").unwrap_or_default();
        let refused = numbers.iter().any(|number| header == format!("Bearer token-{number}"));
        if refused { text(401, "token refused") } else { text(200, "welcome") }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_401_the_token_is_dropped_and_the_request_signed_and_sent_once_more() {
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = api_refusing(&[1]).await;
    let proxy = start(&config(&idp, &api));
    let body = "{\"id\": 7}".repeat(1000);
    let post = format!(
        "POST http://api.test/items?x=1 HTTP/1.1\r\nHost: api.test\r\nX-Own: yes\r\nAuthorization: Bearer worthless\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(&proxy.forward(), post.as_bytes());
    assert_eq!(answer.status(), 200, "{}", answer.text);
    assert_eq!(sent(&api), ["Bearer token-1", "Bearer token-2"]);
    for seen in api.seen() {
        assert_eq!((seen.target.as_str(), seen.header("x-own")), ("/items?x=1", Some("yes")));
        assert!(seen.body == body.as_bytes(), "the body came whole both times");
    }
    assert_eq!(get(&proxy).status(), 200);
    assert_eq!(idp.seen().len(), 2);
    let requests = proxy.requests(2);
    assert_eq!(requests[0]["status"], 200, "one request of the caller is one line");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_to_a_body_that_cannot_be_sent_again_is_passed_on_and_the_next_request_is_fresh() {
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = api_refusing(&[1]).await;
    let proxy = start(&config(&idp, &api));
    let body = "x".repeat(200_000);
    let post = format!(
        "POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(&proxy.forward(), post.as_bytes());
    assert_eq!(answer.status(), 401);
    assert!(answer.text.ends_with("token refused"), "the upstream's own answer: {}", answer.text);
    assert_eq!(get(&proxy).status(), 200);
    assert_eq!(sent(&api), ["Bearer token-1", "Bearer token-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_always_answers_401_costs_one_exchange_a_minute_and_two_requests_once() {
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = api_refusing(&[1, 2, 3, 4, 5]).await;
    let proxy = start(&config(&idp, &api));
    for _ in 0..50 {
        let answer = get(&proxy);
        assert_eq!((answer.status(), answer.text.ends_with("token refused")), (401, true), "{}", answer.text);
    }
    assert_eq!(idp.seen().len(), 2, "the first and the one that was forced");
    assert_eq!(api.seen().len(), 51, "one request was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_keys_401_is_passed_on_untouched() {
    let api = Origin::http_with(|_| text(401, "no")).await;
    let bindings = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";
    let proxy = Config::new().bindings(bindings).resolve("api.test:80", api.address).start(&Root::new());
    assert_eq!(get(&proxy).status(), 401);
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_is_exchanged_anew_and_an_unchanged_credential_keeps_its_token() {
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http().await;
    let proxy = start(&config(&idp, &api));
    assert_eq!(get(&proxy).status(), 200);
    proxy.signal("HUP");
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    assert_eq!(get(&proxy).status(), 200);
    assert_eq!(idp.seen().len(), 1, "a reload is no reason to ask again");
    std::fs::write(proxy.folder.path().join("secret"), "the-new-secret").unwrap();
    proxy.wait_log(|log| log.matches("configuration reloaded").count() == 2);
    assert_eq!(get(&proxy).status(), 200);
    assert_eq!(sent(&api), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    assert!(String::from_utf8_lossy(&idp.seen()[1].body).contains("client_secret=the-new-secret"));
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, text.replace("    client_id: me\n", "    client_id: me\n    enabled: false\n"))
        .unwrap();
    proxy.wait_log(|log| log.matches("configuration reloaded").count() == 3);
    assert_eq!(get(&proxy).code(), "credential_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_is_refused_until_its_secret_changes() {
    let idp = endpoint(|number, seen| {
        let good = String::from_utf8_lossy(&seen.body).contains("right");
        if good { token(number, 3600) } else { text(401, r#"{"error":"invalid_client","error_description":"no"}"#) }
    })
    .await;
    let api = Origin::http().await;
    let proxy = start(&config(&idp, &api));
    for _ in 0..20 {
        let answer = get(&proxy);
        assert_eq!((answer.status(), answer.code().as_str()), (502, "credential_rejected"));
        assert!(answer.text.contains("invalid_client: no"), "{}", answer.text);
    }
    assert_eq!(idp.seen().len(), 1, "remembered for half a minute at least");
    std::fs::write(proxy.folder.path().join("secret"), "right").unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    assert_eq!(get(&proxy).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_redirects_is_not_followed() {
    let elsewhere = Origin::http().await;
    let target = format!("http://evil.test:{}/token", elsewhere.address.port());
    let idp = endpoint(move |_, _| {
        let mut moved = text(301, "");
        moved.headers_mut().insert("location", target.parse().unwrap());
        moved
    })
    .await;
    let api = Origin::http().await;
    let config = config(&idp, &api).resolve(&format!("evil.test:{}", elsewhere.address.port()), elsewhere.address);
    let proxy = start(&config);
    let answer = get(&proxy);
    assert_eq!(answer.code(), "token_endpoint_unavailable");
    assert!(answer.text.contains("301 and points to evil.test"), "{}", answer.text);
    assert!(elsewhere.untouched() && api.untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_is_called_through_the_corporate_proxy() {
    // A proxy for cleartext is called with the whole address in the request line.
    let corporate = Origin::http_with(|seen| match seen.target.as_str() {
        "/token" => token(1, 3600),
        _ => text(200, "from the API"),
    })
    .await;
    let api = Origin::http().await;
    let text = config(&api, &api).text().replace(
        "upstream:\n",
        &format!(
            "upstream:\n  proxy: {{ url: \"http://{}\", username: corp, password: {{ env: SECRET }}, no_proxy: [api.test] }}\n",
            corporate.address
        ),
    );
    let text = text.replace(&format!("    \"idp.test:80\": {}\n", api.address), "");
    let root = Root::new();
    let proxy = Proxy::start_with(&text, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("secret"), SECRET).unwrap();
    });
    let answer = get(&proxy);
    assert_eq!(answer.status(), 200, "{}", answer.text);
    let seen = corporate.only();
    assert_eq!(seen.header("host"), Some("idp.test"));
    assert!(seen.header("proxy-authorization").is_some_and(|value| value.starts_with("Basic ")));
    assert_eq!(sent(&api), ["Bearer token-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_at_a_private_address_is_refused_unless_the_credential_allows_it() {
    let idp = endpoint(|number, _| token(number, 3600)).await;
    let api = Origin::http().await;
    let closed = |more: &str| {
        let credential = format!("{CREDENTIAL}{more}");
        let text = config(&idp, &api).credentials(&credential).text();
        text.replace("allow_addresses: [127.0.0.0/8]", "allow_addresses: []")
            .replace("allow_cleartext: true }", "allow_cleartext: true, allow_addresses: [127.0.0.0/8] }")
    };
    let root = Root::new();
    let begin = |text: &str| {
        Proxy::start_with(text, &[("SECRET", SECRET)], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
            std::fs::write(folder.join("secret"), SECRET).unwrap();
        })
    };
    let refused = get(&begin(&closed("")));
    assert_eq!(refused.code(), "token_endpoint_unavailable");
    assert!(refused.text.contains("allow_addresses"), "{}", refused.text);
    assert!(idp.untouched(), "a binding's leave is not the token endpoint's");
    assert_eq!(get(&begin(&closed("    allow_addresses: [127.0.0.1]\n"))).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_credential_is_shown_by_the_admin_listener() {
    let idp = endpoint(|_, _| text(401, r#"{"error":"invalid_client"}"#)).await;
    let api = Origin::http().await;
    let proxy = start(&config(&idp, &api).rest("admin: { address: 127.0.0.1:0 }\n"));
    let ready = || {
        let answer =
            raw(&proxy.address("admin", 0), b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .text;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
        serde_json::from_str::<Value>(&body).unwrap()["unusable_credentials"].clone()
    };
    assert_eq!(ready(), json!([]));
    get(&proxy);
    assert_eq!(ready(), json!(["key: idp.test answered 401 invalid_client"]));
}
