//! Logins of services' own and Apptio's, against a stub that verifies (`tests/login/stub.py`), accepted and refused.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Origin, Proxy, Root, countersign, kit, measured, provider, text};

const SECRETS: [(&str, &str); 5] = [
    ("KEY", "right-secret-of-the-first-pair-with-60-characters-00000000000"),
    ("KEY2", "right-secret-of-the-second-pair-with-60-characters-0000000000"),
    ("PASSWORD", "right-password"),
    ("WRONG", "not-the-password-that-it-knows"),
    ("PROOF", "right-password"),
];

/// The stub, which ends with the test.
struct Stub {
    child: Child,
    port: u16,
}

impl Stub {
    fn start(kit: &Path) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/login/stub.py");
        let mut command = Command::new(kit.join("venv/bin/python"));
        command.arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts: Value = serde_json::from_str(&line).expect("the stub did not start");
        Self { child, port: facts["port"].as_u64().unwrap().try_into().unwrap() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://stub.test:{}{path}", self.port)
    }

    /// Changes its state and gives what there is.
    async fn admin(&self, change: Value) -> Value {
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.put(format!("http://127.0.0.1:{}/admin", self.port));
        let answer = request.header("content-type", "application/json").body(change.to_string()).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn count(&self, what: &str) -> u64 {
        self.admin(json!({})).await["count"][what].as_u64().unwrap()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy with these credentials for the stub, each used when a request names it.
fn start(stub: &Stub, credentials: &[(&str, String)]) -> Proxy {
    Proxy::start_with(&config(stub.port, credentials, ""), &SECRETS, |_| {})
}

fn config(port: u16, credentials: &[(&str, String)], resolve: &str) -> String {
    let mut text = format!(
        "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nlog: {{ level: trace }}\ntokens: {{ directory: FOLDER/tokens }}\n\
         upstream: {{ allow_addresses: [127.0.0.0/8], resolve: {{ \"stub.test:{port}\": \"127.0.0.1:{port}\"{resolve} }} }}\ncredentials:\n"
    );
    let mut bindings = String::from("bindings:\n");
    for (id, settings) in credentials {
        let hosts =
            if settings.contains("hosts:") { String::new() } else { format!("    hosts: [\"stub.test:{port}\"]\n") };
        text.push_str(&format!("  - id: {id}\n{hosts}{}\n", settings.trim_end().replace("PORT", &port.to_string())));
        bindings.push_str(&format!("  - {{ credential: {id}, only_named: true, allow_cleartext: true }}\n"));
    }
    text + &bindings
}

fn apptio(more: &str) -> String {
    let mut text = String::from(
        "    scheme: apptio\n    key_access: first\n    key_secret: { env: KEY }\n    frontdoor_url: http://stub.test:PORT\n    \
         allow_cleartext: true\n    environment: { domain: example.com, name: main }\n",
    );
    for line in more.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

fn login(how: &str, more: &str) -> String {
    let sent = match how {
        "form" => "form: { user: countersign, password: { env: PASSWORD } }",
        "json" => "json: { auth: { user: { name: countersign, password: { env: PASSWORD } } } }",
        "basic" => "basic: { username: countersign, password: { env: PASSWORD } }",
        _ => "credential: proof",
    };
    let mut text = format!(
        "    scheme: login\n    login_url: http://stub.test:PORT/login/{how}\n    allow_cleartext: true\n    {sent}\n"
    );
    for line in more.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

const FROM_HEADER: &str = "token: { header: X-Session }\ninject: { header: X-Session }";
const PROJECTS: &str = "/biit/api/v1/projects";

struct Called {
    status: u16,
    body: Value,
}

impl Called {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

async fn call(proxy: &Proxy, credential: &str, url: &str) -> Called {
    call_with(&proxy.client(), credential, reqwest::Method::GET, url).await
}

async fn call_with(client: &reqwest::Client, credential: &str, method: reqwest::Method, url: &str) -> Called {
    let request = client.request(method, url).header("countersign-credential", credential);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    Called { status, body: serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default() }
}

/// No secret and no token is in the log, at trace level.
async fn nothing_leaked(stub: &Stub, log: &str) {
    for (name, secret) in SECRETS {
        assert!(!log.contains(secret), "{name} is in the log");
    }
    let tokens = stub.admin(json!({})).await["tokens"].as_array().unwrap().clone();
    for token in tokens {
        assert!(!log.contains(token.as_str().unwrap()), "a token is in the log");
    }
    assert!(log.contains("countersign::token"), "the log was looked at");
}

fn first_pair() -> Value {
    json!({ "pairs": { "first": SECRETS[0].1 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_at_once_cost_one_login() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    stub.admin(json!({ "pairs": first_pair()["pairs"], "wait": 0.3 })).await;
    let credentials = [("apptio", apptio("")), ("login", login("form", FROM_HEADER))];
    let proxy = start(&stub, &credentials);
    for (credential, path) in [("apptio", PROJECTS), ("login", "/me")] {
        stub.admin(json!({ "reset": true })).await;
        let client = proxy.client();
        let url = stub.url(path);
        let calls = (0..100).map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { call_with(&client, credential, reqwest::Method::GET, &url).await })
        });
        for call in calls.collect::<Vec<_>>() {
            let call = call.await.unwrap();
            assert_eq!((call.status, call.body["verdict"].as_str()), (200, Some("right")), "{}", call.body);
        }
        let count = stub.admin(json!({})).await["count"].clone();
        assert_eq!((&count["logins"], &count["calls"]), (&json!(1), &json!(100)), "{credential}");
        if credential == "apptio" {
            assert_eq!(count["lookups"], 1, "the environment is looked up once");
        }
    }
    measured("100 callers at once: 1 login each for apptio and login");
    nothing_leaked(&stub, &proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_says_who_asks_in_four_ways_and_each_wrong_one_is_refused_once() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    let mut credentials = Vec::new();
    for how in ["form", "json", "basic"] {
        let wrong = login(how, FROM_HEADER).replace("env: PASSWORD", "env: WRONG");
        credentials.push((how, login(how, FROM_HEADER)));
        credentials.push((ends(how), wrong));
    }
    let proof = |variable: &str| {
        format!("    scheme: api_key\n    field: X-Proof\n    type: \"\"\n    key: {{ env: {variable} }}\n")
    };
    credentials.push(("borrowing", login("header", FROM_HEADER)));
    credentials.push(("proof", proof("PROOF")));
    credentials.push((
        "borrowing-wrong",
        login("header", FROM_HEADER).replace("credential: proof", "credential: wrong-proof"),
    ));
    credentials.push(("wrong-proof", proof("WRONG")));
    let proxy = start(&stub, &credentials);
    for (right, wrong) in
        [("form", "form-wrong"), ("json", "json-wrong"), ("basic", "basic-wrong"), ("borrowing", "borrowing-wrong")]
    {
        let answer = call(&proxy, right, &stub.url("/me")).await;
        assert_eq!(answer.status, 200, "{right}: {}", answer.body);
        stub.admin(json!({ "reset": true })).await;
        for _ in 0..20 {
            let answer = call(&proxy, wrong, &stub.url("/me")).await;
            assert_eq!((answer.status, answer.code()), (502, "credential_rejected"), "{wrong}: {}", answer.body);
            assert!(answer.detail().contains("stub.test answered 401 denied: you sent"), "{}", answer.body);
            assert!(!answer.detail().contains(SECRETS[3].1), "{}", answer.body);
        }
        let count = stub.admin(json!({})).await["count"].clone();
        assert_eq!((&count["logins"], &count["calls"]), (&json!(1), &json!(0)), "{wrong}: no retry storm");
    }
    nothing_leaked(&stub, &proxy.stop()).await;
}

fn ends(how: &str) -> &'static str {
    match how {
        "form" => "form-wrong",
        "json" => "json-wrong",
        _ => "basic-wrong",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_found_wherever_a_service_puts_it() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    let csrf = "tokens: { csrf: { header: X-CSRF-Token } }\ninject:\n  - { cookie: sid }\n  - { header: X-CSRF-Token, value: \"{csrf}\" }";
    let credentials = [
        ("header", login("json", FROM_HEADER)),
        ("cookie", login("json", &format!("token: {{ cookie: X-Session }}\n{csrf}"))),
        ("json", login("json", "token: { pointer: /session/id }\ninject: { header: X-Session }")),
        ("body", login("json", "token: { body: true }\ninject: { header: X-Session }")),
    ];
    let proxy = start(&stub, &credentials);
    let client = proxy.client();
    for (credential, _) in &credentials {
        stub.admin(json!({ "place": credential })).await;
        let answer = call(&proxy, credential, &stub.url("/me")).await;
        assert_eq!(answer.status, 200, "{credential}: {}", answer.body);
    }
    // A second token goes with the first; whoever has only that is refused, and logs in once more for nothing.
    stub.admin(json!({ "place": "cookie" })).await;
    assert_eq!(call_with(&client, "cookie", reqwest::Method::POST, &stub.url("/me")).await.status, 200);
    assert_eq!(call_with(&client, "json", reqwest::Method::POST, &stub.url("/me")).await.status, 401);
    nothing_leaked(&stub, &proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_session_costs_one_login_more_and_the_caller_does_not_notice() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    stub.admin(first_pair()).await;
    let credentials = [
        ("apptio", apptio("")),
        ("login", login("form", FROM_HEADER)),
        ("unauthorized-or-timeout", login("basic", &format!("{FROM_HEADER}\nexpired: [401, 440]"))),
    ];
    let proxy = start(&stub, &credentials);
    for (credential, path, dead) in
        [("apptio", PROJECTS, 401), ("login", "/me", 401), ("unauthorized-or-timeout", "/me", 440)]
    {
        assert_eq!(call(&proxy, credential, &stub.url(path)).await.status, 200, "{credential}");
        stub.admin(json!({ "forget": true, "reset": true, "dead": dead })).await;
        for _ in 0..5 {
            assert_eq!(call(&proxy, credential, &stub.url(path)).await.status, 200, "{credential}");
        }
        let count = stub.admin(json!({})).await["count"].clone();
        assert_eq!((&count["logins"], &count["denied"]), (&json!(1), &json!(1)), "{credential}");
        // Dead again within the minute: the answer is passed on, and nobody logs in.
        stub.admin(json!({ "forget": true, "reset": true })).await;
        for _ in 0..5 {
            assert_eq!(call(&proxy, credential, &stub.url(path)).await.status, dead, "{credential}");
        }
        assert_eq!(stub.count("logins").await, 0, "{credential}: no storm");
    }
    // A status that is not listed says nothing of the session.
    assert_eq!(call(&proxy, "login", &stub.url("/me")).await.status, 440);
    assert_eq!(stub.count("logins").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_to_a_login_is_typed_and_asked_for_once() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    stub.admin(json!({ "pairs": first_pair()["pairs"], "place": "json" })).await;
    let at = |place: &str| format!("token: {{ pointer: /session/id }}\ninject: {{ {place} }}");
    let credentials = |n: usize| {
        [
            (["apptio-0", "apptio-1", "apptio-2", "apptio-3"][n], apptio("")),
            (["header-0", "header-1", "header-2", "header-3"][n], login("json", &at("header: X-Session"))),
        ]
    };
    let all: Vec<_> = (0..4).flat_map(credentials).collect();
    let more = [
        ("hostile-header", login("json", &at("header: X-Session"))),
        ("hostile-cookie", login("json", &at("cookie: sid"))),
    ];
    let proxy = start(&stub, &[all, more.to_vec()].concat());
    for (n, (mode, words)) in [
        ("no_token", "there is no "),
        ("page", "there is no "),
        ("redirect", "answered 302 and points to elsewhere.test; no redirect is followed"),
        ("unavailable", "answered 503"),
    ]
    .into_iter()
    .enumerate()
    {
        stub.admin(json!({ "mode": mode, "reset": true })).await;
        let began = std::time::Instant::now();
        for credential in [format!("apptio-{n}"), format!("header-{n}")] {
            for _ in 0..10 {
                let path = if credential.starts_with("apptio") { PROJECTS } else { "/me" };
                let answer = call(&proxy, &credential, &stub.url(path)).await;
                // A token in another place than the settings say is a person's to mend; the rest may pass.
                let missing = words.starts_with("there is no");
                let typed = if missing { (502, "credential_rejected") } else { (503, "token_endpoint_unavailable") };
                assert_eq!((answer.status, answer.code()), typed, "{}", answer.body);
                assert!(answer.detail().contains(words), "{mode}: {}", answer.body);
            }
        }
        let count = stub.admin(json!({})).await["count"].clone();
        // Pauses of at least 1, 2, 4 … seconds, for each of the two.
        let allowed = 2 * (1 + (began.elapsed().as_secs_f64() + 1.0).log2().floor() as u64);
        assert!(count["logins"].as_u64().unwrap() <= allowed, "{mode}: {count}");
        assert_eq!(count["calls"], 0, "{mode}: nothing goes out without a token");
    }
    for (mode, place) in [("hostile_header", "header"), ("hostile_cookie", "cookie")] {
        stub.admin(json!({ "mode": mode, "reset": true })).await;
        let answer = call(&proxy, &mode.replace('_', "-"), &stub.url("/me")).await;
        assert_eq!((answer.status, answer.code()), (503, "token_endpoint_unavailable"), "{}", answer.body);
        assert!(answer.detail().contains(&format!("characters that cannot be sent in a {place}")), "{}", answer.body);
        assert_eq!(stub.count("calls").await, 0);
    }
    nothing_leaked(&stub, &proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_key_of_two_interrupts_nothing() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    stub.admin(first_pair()).await;
    let second = "second: { key_access: second, key_secret: { env: KEY2 } }";
    // Sessions of two seconds: each second sees a new login.
    stub.admin(json!({ "seconds": 2, "till": ["header", "epoch_ms"] })).await;
    let proxy = start(&stub, &[("apptio", apptio(second))]);
    let client = proxy.client();
    let calls = AtomicUsize::new(0);
    let steady = async |until: &dyn Fn(&Value) -> bool| {
        let began = std::time::Instant::now();
        loop {
            let answer = call_with(&client, "apptio", reqwest::Method::GET, &stub.url(PROJECTS)).await;
            assert_eq!(answer.status, 200, "interrupted: {}", answer.body);
            calls.fetch_add(1, Ordering::Relaxed);
            if until(&stub.admin(json!({})).await) {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "it never came to that");
        }
    };
    let logins =
        |state: &Value, of: &str| state["pairs_asked"].as_array().unwrap().iter().filter(|asked| **asked == of).count();
    steady(&|state| logins(state, "first") >= 2).await;
    assert_eq!(logins(&stub.admin(json!({})).await, "second"), 0, "the second rests");
    // The first is replaced in Apptio: it is refused from now on, in favour of the second, which had been made before.
    stub.admin(json!({ "pairs": { "second": SECRETS[1].1 }, "reset": true })).await;
    steady(&|state| logins(state, "second") >= 3).await;
    let state = stub.admin(json!({})).await;
    assert_eq!(logins(&state, "first"), 1, "the refused key is not hammered: {}", state["pairs_asked"]);
    assert_eq!(state["count"]["denied"], 0);
    let log = proxy.stop();
    assert!(log.contains("the first key was refused; the second one is tried"), "{log}");
    assert!(log.contains("the second key is in use now"), "{log}");
    measured(&format!("a key pair of two replaced under {} calls: none failed", calls.into_inner()));
    nothing_leaked(&stub, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_pairs_refused_is_a_rejected_credential_and_each_is_asked_once() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    let second = "second: { key_access: second, key_secret: { env: KEY2 } }";
    let proxy = start(&stub, &[("apptio", apptio(second))]);
    for _ in 0..20 {
        let answer = call(&proxy, "apptio", &stub.url(PROJECTS)).await;
        assert_eq!((answer.status, answer.code()), (502, "credential_rejected"), "{}", answer.body);
        assert!(answer.detail().contains("stub.test answered 400 unable to log in"), "{}", answer.body);
        assert!(!answer.detail().contains("right-secret"), "{}", answer.body);
    }
    let state = stub.admin(json!({})).await;
    assert_eq!(state["pairs_asked"], json!(["first", "second"]));
    assert_eq!(state["count"]["calls"], 0);
    nothing_leaked(&stub, &proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_is_read_in_every_shape() {
    let Some(kit) = kit("logins") else { return };
    let stub = Stub::start(&kit);
    stub.admin(first_pair()).await;
    let mut shapes: Vec<(String, String, String)> = Vec::new();
    for place in ["header", "dashed", "body"] {
        for form in ["epoch", "epoch_ms", "rfc3339", "http_date"] {
            shapes.push((format!("{place}-{}", form.replace('_', "-")), place.into(), form.into()));
        }
    }
    let ids: Vec<(String, String)> = shapes
        .iter()
        .flat_map(|(id, ..)| [(format!("{id}-live"), apptio("")), (format!("{id}-over"), apptio(""))])
        .collect();
    let credentials: Vec<(&str, String)> = ids.iter().map(|(id, settings)| (id.as_str(), settings.clone())).collect();
    let proxy = start(&stub, &credentials);
    for (id, place, form) in &shapes {
        stub.admin(json!({ "till": [place, form], "seconds": 3600, "reset": true })).await;
        for _ in 0..3 {
            let answer = call(&proxy, &format!("{id}-live"), &stub.url(PROJECTS)).await;
            assert_eq!(answer.status, 200, "{id}: {}", answer.body);
        }
        assert_eq!(stub.count("logins").await, 1, "{id}");
        // What is over is not used: the shape was read, or the safe default would have let it pass.
        stub.admin(json!({ "seconds": -60, "reset": true })).await;
        let answer = call(&proxy, &format!("{id}-over"), &stub.url(PROJECTS)).await;
        assert_eq!((answer.status, answer.code()), (503, "token_endpoint_unavailable"), "{id}: {}", answer.body);
        assert!(answer.detail().contains("already expired when it arrived"), "{id}: {}", answer.body);
        assert_eq!(stub.count("calls").await, 0, "{id}");
    }
    measured(&format!("valid_till read in {} shapes, and what is over is not used", shapes.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_lent_only_to_the_hosts_that_it_is_for() {
    let api = Origin::http_with(|_| text(200, "{\"token\":\"t\"}")).await;
    let url = format!("http://elsewhere.test:{}/login", api.address.port());
    let lender = "    scheme: api_key\n    key: { env: PROOF }\n    hosts: [api.test]\n".to_owned();
    let borrower = |url: &str| {
        format!(
            "    scheme: login\n    login_url: {url}\n    allow_cleartext: true\n    credential: proof\n    \
             token: {{ pointer: /token }}\n    hosts: [api.test]\n"
        )
    };
    let resolve =
        format!(", \"elsewhere.test:{0}\": \"127.0.0.1:{0}\", \"api.test:80\": \"127.0.0.1:{0}\"", api.address.port());
    // Written out, it is a mistake of the configuration.
    let written = config(1, &[("proof", lender.clone()), ("login", borrower(&url))], &resolve);
    let errors = check(&written);
    assert!(
        errors.contains("credentials[1].credential: proof is not for elsewhere.test; list it under its `hosts`"),
        "{errors}"
    );
    // From a reference, it is known when the login is about to be sent.
    let written = config(1, &[("proof", lender), ("login", borrower("{ env: URL }"))], &resolve);
    let variables = [SECRETS.to_vec(), vec![("URL", url.as_str())]].concat();
    let proxy = Proxy::start_with(&written, &variables, |_| {});
    let answer = call(&proxy, "login", "http://api.test/").await;
    assert_eq!((answer.status, answer.code()), (403, "destination_forbidden"), "{}", answer.body);
    assert!(answer.detail().contains("credential proof is not for elsewhere.test"), "{}", answer.body);
    assert!(api.untouched(), "nothing went out");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_need_each_other_or_nobody_are_refused_by_check() {
    let borrower = |id: &str| {
        format!(
            "    scheme: login\n    login_url: https://stub.test:1/login\n    credential: {id}\n    token: {{ pointer: /token }}\n"
        )
    };
    let errors = check(&config(1, &[("a", borrower("b")), ("b", borrower("c")), ("c", borrower("a"))], ""));
    for (index, id) in ["a", "b", "c"].iter().enumerate() {
        assert!(
            errors.contains(&format!("credentials[{index}].credential"))
                && errors.contains(&format!("needs {id} itself")),
            "{errors}"
        );
    }
    let errors = check(&config(1, &[("a", borrower("a"))], ""));
    assert!(errors.contains("credentials[0].credential: a needs a itself"), "{errors}");
    let errors = check(&config(1, &[("a", borrower("nobody")), ("b", borrower("a"))], ""));
    assert!(errors.contains("credentials[0].credential: there is no credential nobody"), "{errors}");
    assert_eq!(errors.matches("there is no credential").count(), 1, "said once: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_borrowed_token_that_is_refused_is_replaced_and_the_login_sent_once_more() {
    let root = Root::new();
    let issued = std::sync::Arc::new(AtomicUsize::new(0));
    let number = std::sync::Arc::clone(&issued);
    let idp = Origin::http_with(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        text(200, &json!({ "access_token": format!("proof-{number}"), "expires_in": 3600 }).to_string())
    })
    .await;
    // The first proof was withdrawn before it was used.
    let service = Origin::http_with(|seen| match (seen.target.as_str(), seen.header("authorization")) {
        ("/login", Some("Bearer proof-2")) => text(200, "{\"token\":\"session-1\"}"),
        ("/login", _) => text(401, "{\"error\":\"invalid_token\"}"),
        (_, Some("Bearer session-1")) => text(200, "right"),
        _ => text(401, "no"),
    })
    .await;
    let proof = "    scheme: oauth2\n    grant_type: client_credentials\n    token_url: http://idp.test/token\n    allow_cleartext: true\n    \
                 client_id: me\n    client_secret: { env: PASSWORD }\n    hosts: [api.test]\n";
    let login = "    scheme: login\n    login_url: http://api.test/login\n    allow_cleartext: true\n    credential: proof\n    \
                 token: { pointer: /token }\n    hosts: [api.test]\n";
    let resolve = format!(", \"idp.test:80\": \"{}\", \"api.test:80\": \"{}\"", idp.address, service.address);
    let text = config(1, &[("proof", proof.to_owned()), ("login", login.to_owned())], &resolve);
    let proxy =
        Proxy::start_with(&text, &SECRETS, |folder| std::fs::write(folder.join("origin.pem"), root.pem()).unwrap());
    let answer = proxy.client().get("http://api.test/").header("countersign-credential", "login").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "right".into()));
    assert_eq!((issued.load(Ordering::SeqCst), service.seen().len()), (2, 3));
}

/// What `countersign check` says of a configuration.
fn check(config: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("countersign.yaml");
    std::fs::write(&path, config.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let mut command = countersign(&["check", "--config", path.to_str().unwrap()]);
    let output = command.envs(SECRETS).output().unwrap();
    assert!(!output.status.success(), "it was in order");
    [output.stdout, output.stderr].concat().into_iter().map(char::from).collect()
}
