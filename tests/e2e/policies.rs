//! Policies: a run of a template is a lease on what the template uses, and nothing else.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, DEADLINE, Origin, Proxy, Root, SECRET, binary, read_answer, text};

const ACCOUNT: &str = "/v1/accounts/default";

/// Asks Jira and Flexera, and a price list that needs no credential.
const TEMPLATE: &str = r#"
name "Old tickets"
credentials "auth_jira" do
  schemes "api_key"
  label "Jira"
  tags "provider=jira"
end
credentials "auth_flexera" do schemes "api_key"; label "Flexera"; end

datasource "ds_tickets" do
  request do
    auth $auth_jira
    host "jira.test"
    path "/rest/api/search"
  end
end
datasource "ds_report" do
  request do
    auth $auth_flexera
    verb "POST"
    host join(["api.", val(iter_item, "zone"), ".flexera.test"])
    path "/report"
  end
end
datasource "ds_prices" do
  request do
    host "prices.test"
    path "/list.json"
  end
end
"#;

const HOSTS: [&str; 6] =
    ["jira.test", "api.eu.flexera.test", "login.eu.flexera.test", "prices.test", "other.test", "www.other.test"];

/// One proxy with its store, an origin behind every name, and credentials that are their own names.
struct Scene {
    proxy: Proxy,
    origin: Origin,
    manager: Manager,
}

fn config(origin: &Origin) -> String {
    let mut config = Config::new().credentials("  []\n").bindings("  []\n");
    for host in HOSTS {
        config = config.resolve(&format!("{host}:443"), origin.address);
    }
    config
        .resolve("ws.test:80", origin.address)
        .listeners("  forward:\n    - { address: 127.0.0.1:0, intercept: true }\n")
        .rest("admin: { address: 127.0.0.1:0 }\nunbound: pass\n")
        .text()
        .replace("credentials:\n  []", "credentials: []")
        .replace("bindings:\n  []", "bindings: []")
}

impl Scene {
    async fn start() -> Self {
        let root = Root::new();
        let answer = |seen: &crate::support::Seen| text(200, seen.header("authorization").unwrap_or("nothing"));
        let origin = Origin::https_with(&root, &HOSTS, &["http/1.1"], answer).await;
        let proxy = Proxy::start_with(&config(&origin), &[("SECRET", SECRET)], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        });
        let manager = Manager::of(&proxy);
        for (id, host, provider) in
            [("jira", "jira.test", "jira"), ("flexera", "*.flexera.test", "flexera"), ("other", "other.test", "other")]
        {
            let credential = json!({
                "id": id, "name": id, "scheme": "api_key", "hosts": [host], "tags": { "provider": provider },
                "settings": { "key": format!("{id}-key") },
            });
            manager.done("POST", &format!("{ACCOUNT}/credentials"), Some(credential)).await;
        }
        let binding = json!({ "credential": "other", "hosts": ["other.test"] });
        manager.done("PUT", &format!("{ACCOUNT}/bindings/everybodys"), Some(binding)).await;
        Self { proxy, origin, manager }
    }

    /// Applies a template; its id.
    async fn apply(&self, template: Value, credentials: Value) -> String {
        let body = json!({ "template": template, "credentials": credentials });
        let applied = self.manager.done("POST", &format!("{ACCOUNT}/applied-policies"), Some(body)).await;
        applied["id"].as_str().unwrap().to_owned()
    }

    async fn tickets(&self) -> String {
        self.apply(json!(TEMPLATE), json!({ "auth_jira": "jira", "auth_flexera": "flexera" })).await
    }

    async fn run(&self, policy: &str) -> Run {
        let path = format!("{ACCOUNT}/applied-policies/{policy}/runs");
        Run(self.manager.done("POST", &path, Some(json!({ "lifetime": "10m" }))).await)
    }

    async fn end(&self, run: &Run) {
        self.manager.done("DELETE", &format!("{ACCOUNT}/runs/{}", run.id()), None).await;
    }

    async fn report(&self, run: &Run) -> Value {
        self.manager.done("GET", &format!("{ACCOUNT}/runs/{}", run.id()), None).await
    }

    fn client(&self, run: &Run) -> reqwest::Client {
        self.proxy.client_as(&format!("{}@", run.user()))
    }
}

/// A run as the API told it.
struct Run(Value);

impl Run {
    fn id(&self) -> &str {
        self.0["id"].as_str().unwrap()
    }

    /// What stands before the `@` of the proxy's address.
    fn user(&self) -> String {
        format!("{}:{}", self.0["caller"].as_str().unwrap(), self.0["token"].as_str().unwrap())
    }
}

/// The status, and the code of a refusal or the body.
async fn ask(client: &reqwest::Client, method: &str, url: &str, named: Option<&str>) -> (u16, String) {
    let mut request = client.request(method.parse().unwrap(), url);
    if let Some(named) = named {
        request = request.header("countersign-credential", named);
    }
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            let code =
                serde_json::from_str::<Value>(&text).ok().and_then(|one| one["code"].as_str().map(str::to_owned));
            (status, code.unwrap_or(text))
        }
        // The tunnel itself was refused.
        Err(error) => (0, format!("{error:?}")),
    }
}

fn is_refused((status, text): &(u16, String), code: &str) -> bool {
    // What hyper says of a CONNECT that was answered so.
    let (number, words) = match code {
        "caller_unknown" => (407, "ProxyAuthRequired"),
        _ => (403, "TunnelUnsuccessful"),
    };
    (*status == number && text == code) || (*status == 0 && text.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_uses_what_was_selected_where_the_template_uses_it_and_nothing_after_it_ended() {
    let scene = Scene::start().await;
    let run = scene.run(&scene.tickets().await).await;
    let client = scene.client(&run);
    let get = |url: &'static str| ask(&client, "GET", url, None);
    assert_eq!(get("https://jira.test/rest/api/search").await, (200, "Bearer jira-key".into()));
    let post = ask(&client, "POST", "https://api.eu.flexera.test/report", None).await;
    assert_eq!(post, (200, "Bearer flexera-key".into()));
    assert_eq!(get("https://prices.test/list.json").await, (200, "nothing".into()));
    let before = scene.origin.seen().len();
    let refused = [
        ("DELETE", "https://jira.test/rest/api/search", None, "unbound"),
        ("GET", "https://api.eu.flexera.test/report", None, "unbound"),
        ("POST", "https://login.eu.flexera.test/report", None, "unbound"),
        ("POST", "https://prices.test/list.json", None, "unbound"),
        ("GET", "https://other.test/", None, "unbound"),
        ("GET", "https://other.test/", Some("other"), "credential_unknown"),
        ("GET", "https://jira.test/", Some("other"), "credential_unknown"),
        ("GET", "https://jira.test/", Some("auth_flexera"), "credential_unknown"),
        ("GET", "https://www.other.test/", None, "unbound"),
    ];
    for (method, url, named, code) in refused {
        let answer = ask(&client, method, url, named).await;
        assert!(is_refused(&answer, code), "{method} {url} {named:?}: {answer:?}");
    }
    assert_eq!(scene.origin.seen().len(), before, "nothing of it went out");
    let named = ask(&client, "GET", "https://jira.test/rest", Some("auth_jira")).await;
    assert_eq!(named, (200, "Bearer jira-key".into()), "the block's name is the credential's within the run");

    // Since there are runs, whoever says nothing is nobody.
    let anonymous = ask(&scene.proxy.client(), "GET", "https://other.test/", None).await;
    assert!(is_refused(&anonymous, "caller_unknown"), "{anonymous:?}");

    scene.end(&run).await;
    let before = scene.origin.seen().len();
    for client in [&client, &scene.client(&run)] {
        let answer = ask(client, "GET", "https://jira.test/rest/api/search", None).await;
        assert!(is_refused(&answer, "caller_unknown"), "in an open tunnel and in a new one: {answer:?}");
        let answer = ask(client, "GET", "https://prices.test/list.json", None).await;
        assert!(is_refused(&answer, "caller_unknown"), "{answer:?}");
    }
    assert_eq!(scene.origin.seen().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_two_policies_at_the_same_time_never_get_each_others_credentials() {
    let scene = Scene::start().await;
    let both = |name: &str| {
        json!([{ "name": name, "schemes": ["api-key"], "label": name,
            "uses": [{ "method": "GET", "host": "jira.test", "path": "/" }] }])
    };
    // Two credentials for one host, so that only the run tells them apart.
    let credential = json!({
        "id": "jira-two", "name": "jira-two", "scheme": "api_key", "hosts": ["jira.test"], "settings": { "key": "two-key" },
    });
    scene.manager.done("POST", &format!("{ACCOUNT}/credentials"), Some(credential)).await;
    let one = scene.run(&scene.apply(both("auth_one"), json!({ "auth_one": "jira" })).await).await;
    let two = scene.run(&scene.apply(both("auth_two"), json!({ "auth_two": "jira-two" })).await).await;
    let many = async |run: &Run, expected: &str| {
        let client = scene.client(run);
        let calls = (0..200).map(|_| ask(&client, "GET", "https://jira.test/", None));
        let answers: BTreeSet<_> = futures_util::future::join_all(calls).await.into_iter().collect();
        assert_eq!(answers, BTreeSet::from([(200, expected.to_owned())]));
    };
    tokio::join!(many(&one, "Bearer jira-key"), many(&two, "Bearer two-key"));
    let stranger = ask(&scene.client(&one), "GET", "https://jira.test/", Some("auth_two")).await;
    assert!(is_refused(&stranger, "credential_unknown"), "{stranger:?}");
    scene.end(&one).await;
    many(&two, "Bearer two-key").await;
    let gone = ask(&scene.client(&one), "GET", "https://jira.test/", None).await;
    assert!(is_refused(&gone, "caller_unknown"), "{gone:?}");
    let two = scene.report(&two).await;
    assert_eq!(two["uses"].as_array().map(Vec::len), Some(1), "{two}");
    assert_eq!((&two["uses"][0]["credential"], &two["uses"][0]["count"]), (&json!("jira-two"), &json!(400)));
}

/// One request in a tunnel that stays open.
fn in_tunnel(tunnel: &mut (impl Read + Write), host: &str) -> String {
    write!(tunnel, "GET /rest HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    read_answer(tunnel)
}

/// A tunnel with the proxy's certificate inside it, opened as a run.
fn tunnel_as(scene: &Scene, run: &Run, host: &str) -> impl Read + Write + use<> {
    crate::support::tls_tunnel_as(&scene.proxy, &format!("{host}:443"), host, &["http/1.1"], Some(&run.user()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_used_by_the_next_request_and_a_removal_ends_the_use_in_open_tunnels_and_new_ones() {
    let scene = Scene::start().await;
    let run = scene.run(&scene.tickets().await).await;
    let mut tunnel = tunnel_as(&scene, &run, "jira.test");
    // A client that keeps its connection, too.
    let client = scene.client(&run);
    let url = "https://jira.test/rest";
    assert!(in_tunnel(&mut tunnel, "jira.test").ends_with("Bearer jira-key"));
    assert_eq!(ask(&client, "GET", url, None).await.1, "Bearer jira-key");
    let path = format!("{ACCOUNT}/credentials/jira");
    scene.manager.done("PATCH", &path, Some(json!({ "settings": { "key": "rotated" } }))).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").ends_with("Bearer rotated"));
    assert_eq!(ask(&client, "GET", url, None).await.1, "Bearer rotated");
    assert_eq!(ask(&scene.client(&run), "GET", url, None).await.1, "Bearer rotated");
    scene.manager.done("PATCH", &path, Some(json!({ "enabled": false }))).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").contains("credential_unknown"));
    scene.manager.done("PATCH", &path, Some(json!({ "enabled": true }))).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").ends_with("Bearer rotated"));
    scene.manager.done("DELETE", &path, None).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").contains("credential_unknown"));
    for client in [&client, &scene.client(&run)] {
        let answer = ask(client, "GET", url, None).await;
        assert!(is_refused(&answer, "credential_unknown"), "{answer:?}");
        let answer = ask(client, "GET", url, Some("auth_jira")).await;
        assert!(is_refused(&answer, "credential_unknown"), "{answer:?}");
    }
    let other = ask(&client, "POST", "https://api.eu.flexera.test/report", None).await;
    assert_eq!(other, (200, "Bearer flexera-key".into()), "the rest of the run goes on");
    scene.manager.done("POST", &format!("{path}/restore"), Some(json!({}))).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").ends_with("Bearer rotated"), "what is restored serves at once");
    // A policy that is removed ends its runs.
    let policy = run.0["policy"].as_str().unwrap();
    scene.manager.done("DELETE", &format!("{ACCOUNT}/applied-policies/{policy}"), None).await;
    assert!(in_tunnel(&mut tunnel, "jira.test").contains("caller_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_by_itself_in_an_open_tunnel_too() {
    let scene = Scene::start().await;
    let policy = scene.tickets().await;
    let path = format!("{ACCOUNT}/applied-policies/{policy}/runs");
    let run = Run(scene.manager.done("POST", &path, Some(json!({ "lifetime": 2 }))).await);
    let mut tunnel = tunnel_as(&scene, &run, "jira.test");
    assert!(in_tunnel(&mut tunnel, "jira.test").ends_with("Bearer jira-key"));
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < DEADLINE, "the run never ended");
        if write!(tunnel, "GET /rest HTTP/1.1\r\nHost: jira.test\r\n\r\n").is_err() {
            break;
        }
        // Refused, or cut because it ended just while this one was answered.
        if !read_answer(&mut tunnel).ends_with("Bearer jira-key") {
            break;
        }
    }
    let answer = ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await;
    assert!(is_refused(&answer, "caller_unknown"), "{answer:?}");
    assert_eq!(scene.report(&run).await["lives"], json!(false));
    for wrong in [json!({ "lifetime": "25h" }), json!({ "lifetime": 0 }), json!({ "lifetime": "soon" })] {
        let (status, _) = scene.manager.call("POST", &path, Some(wrong.clone())).await;
        assert!(status == 422 || status == 400, "{wrong}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_did_is_told_with_the_bindings_that_would_have_sufficed_for_it() {
    let scene = Scene::start().await;
    let run = scene.run(&scene.tickets().await).await;
    let client = scene.client(&run);
    for _ in 0..3 {
        ask(&client, "GET", "https://jira.test/rest", None).await;
    }
    ask(&client, "GET", "https://prices.test/list.json", None).await;
    ask(&client, "DELETE", "https://jira.test/rest", None).await;
    ask(&client, "GET", "https://other.test/", None).await;
    let report = scene.report(&run).await;
    let lines = |list: &str| {
        let shown = report[list].as_array().unwrap().iter().map(|one| {
            let word = |name: &str| one[name].as_str().unwrap_or("-").to_owned();
            let words = [word("credential"), word("method"), word("host"), word("outcome"), one["count"].to_string()];
            words.join(" ")
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(lines("uses"), ["- GET prices.test passed 1", "jira GET jira.test used 3"]);
    assert_eq!(lines("refused"), ["- DELETE jira.test unbound 1", "- CONNECT other.test unbound 1"]);
    assert_eq!(report["unused"], json!(["auth_flexera"]));
    let sufficient = json!([{ "credential": "jira", "hosts": ["jira.test"], "methods": ["GET"], "source": "store" }]);
    assert_eq!(report["sufficient"], sufficient);
    // Which they do: somebody else with that binding may make the same calls, and no others.
    let caller = scene.manager.done("POST", &format!("{ACCOUNT}/callers"), Some(json!({ "name": "somebody" }))).await;
    let mut binding = report["sufficient"][0].clone();
    binding.as_object_mut().unwrap().remove("source");
    binding["callers"] = json!(["somebody"]);
    scene.manager.done("PUT", &format!("{ACCOUNT}/bindings/sufficient"), Some(binding)).await;
    let somebody = scene.proxy.client_as(&format!("somebody:{}@", caller["token"].as_str().unwrap()));
    assert_eq!(ask(&somebody, "GET", "https://jira.test/rest", None).await, (200, "Bearer jira-key".into()));
    assert!(is_refused(&ask(&somebody, "DELETE", "https://jira.test/rest", None).await, "unbound"));
    assert_eq!((&report["lives"], &report["policyName"]), (&json!(true), &json!("Old tickets")));
    assert!(!report.to_string().contains(run.0["token"].as_str().unwrap()), "the token is told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_after_the_proxy_was_killed() {
    let scene = Scene::start().await;
    let run = scene.run(&scene.tickets().await).await;
    assert_eq!(ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await.0, 200);
    let Scene { proxy, origin, .. } = scene;
    let proxy = proxy.killed_and_started_again(&binary(), &[("SECRET", SECRET)]);
    let manager = Manager::of(&proxy);
    let scene = Scene { proxy, origin, manager };
    let answer = ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await;
    assert_eq!(answer, (200, "Bearer jira-key".into()));
    scene.end(&run).await;
    let gone = ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await;
    assert!(is_refused(&gone, "caller_unknown"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_that_cannot_work_is_refused_with_every_reason() {
    let scene = Scene::start().await;
    let path = format!("{ACCOUNT}/applied-policies");
    let apply = async |credentials: Value| {
        let body = json!({ "template": TEMPLATE, "credentials": credentials });
        let (status, answer) = scene.manager.call("POST", &path, Some(body)).await;
        (status, answer["detail"].as_str().unwrap_or_default().to_owned())
    };
    for (credentials, words) in [
        (json!({ "auth_jira": "jira" }), vec!["auth_flexera"]),
        (json!({ "auth_jira": "nobodys", "auth_flexera": "flexera" }), vec!["auth_jira", "credential: not found"]),
        (json!({ "auth_jira": "other", "auth_flexera": "flexera" }), vec!["auth_jira", "jira.test", "other.test"]),
        (json!({ "auth_jira": "jira", "auth_flexera": "flexera", "auth_x": "jira" }), vec!["auth_x"]),
        (json!({ "auth_jira": "jira-{nothing}", "auth_flexera": "flexera" }), vec!["{nothing}"]),
    ] {
        let (status, detail) = apply(credentials.clone()).await;
        assert_eq!(status, 422, "{credentials}: {detail}");
        for word in words {
            assert!(detail.contains(word), "{credentials}: {detail}");
        }
    }
    let all = scene.manager.done("GET", &path, None).await;
    assert_eq!(all["policies"], json!([]), "nothing of it was applied");
    assert_eq!(apply(json!({ "auth_jira": "jira", "auth_flexera": "flexera" })).await.0, 201);
    let all = scene.manager.done("GET", &path, None).await;
    let id = all["policies"][0]["id"].as_str().unwrap();
    for method in ["PUT", "PATCH"] {
        let (status, _) = scene.manager.call(method, &format!("{path}/{id}"), Some(json!({}))).await;
        assert_eq!(status, 405, "what was applied is never changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_template_is_applied_to_many_accounts_with_each_ones_own_credential() {
    let scene = Scene::start().await;
    for (account, id) in [("17", "jira_17"), ("18", "jira_18"), ("org-5", "jira_of_5")] {
        let credential = json!({
            "id": id, "name": id, "scheme": "api_key", "hosts": ["jira.test"], "settings": { "key": format!("{id}-key") },
        });
        scene.manager.done("POST", &format!("/v1/accounts/{account}/credentials"), Some(credential)).await;
    }
    let template = json!([{ "name": "auth_jira", "schemes": ["api_key"], "label": "Jira",
        "uses": [{ "method": "GET", "host": "jira.test", "path": "/" }] }]);
    let apply = async |accounts: Value, credential: &str| {
        let credentials = json!({ "auth_jira": credential });
        let body = json!({ "accounts": accounts, "template": template, "credentials": credentials });
        scene.manager.done("POST", "/v1/applied-policies", Some(body)).await
    };
    let results = apply(json!(["17", "18", "19"]), "jira_{project_id}").await;
    let results = results["results"].as_array().unwrap().clone();
    assert_eq!(results[2]["account"], "19");
    assert!(results[2]["error"].as_str().unwrap().contains("credential: not found"), "{results:?}");
    let of_org = apply(json!(["org-5"]), "jira_of_{org_id}").await;
    assert_eq!(of_org["results"][0]["policy"]["credentials"]["auth_jira"], "jira_of_5");
    for (account, result) in ["17", "18"].iter().zip(&results) {
        let policy = &result["policy"];
        assert_eq!(policy["asked"]["auth_jira"], "jira_{project_id}");
        let path = format!("/v1/accounts/{account}/applied-policies/{}/runs", policy["id"].as_str().unwrap());
        let run = Run(scene.manager.done("POST", &path, None).await);
        let answer = ask(&scene.client(&run), "GET", "https://jira.test/", None).await;
        assert_eq!(answer, (200, format!("Bearer jira_{account}-key")));
    }
}

/// A server that answers with this head and then talks until nobody listens any more.
fn talker(answer: &'static str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let bearer = head.lines().find(|line| line.starts_with("authorization:")).unwrap_or("nobody").to_owned();
            let _ = stream.write_all(answer.as_bytes());
            while stream.write_all(format!("{bearer}\n").as_bytes()).is_ok() {}
        }
    });
    address
}

/// A run that may call `ws.test` unencrypted, where this address is.
async fn unencrypted(address: std::net::SocketAddr) -> (Proxy, Manager, Run) {
    let root = Root::new();
    let config = Config::new()
        .resolve("ws.test:80", address)
        .rest("admin: { address: 127.0.0.1:0 }\n")
        .text()
        .replace("{ env: SECRET }, hosts: [api.test", "{ env: SECRET }, hosts: [ws.test, api.test");
    let proxy = Proxy::start_with(&config, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    let manager = Manager::of(&proxy);
    let template = json!([{ "name": "auth_ws", "schemes": ["api_key"], "label": "Talk",
        "uses": [{ "method": "GET", "host": "ws.test", "path": "/", "cleartext": true }] }]);
    let mut body = json!({ "template": template, "credentials": { "auth_ws": "key" } });
    let path = format!("{ACCOUNT}/applied-policies");
    let (status, answer) = manager.call("POST", &path, Some(body.clone())).await;
    assert_eq!(status, 422, "a secret would travel unencrypted: {answer}");
    body["allowCleartext"] = json!(true);
    let applied = manager.done("POST", &path, Some(body)).await;
    let path = format!("{path}/{}/runs", applied["id"].as_str().unwrap());
    let run = Run(manager.done("POST", &path, None).await);
    (proxy, manager, run)
}

/// Begins a call of `ws.test` as a run, and reads some of what comes after the head of the answer.
fn begin_talk(proxy: &Proxy, run: &Run, more: &str) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(proxy.forward()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let proof = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, run.user());
    let head = "GET http://ws.test/ HTTP/1.1\r\nHost: ws.test";
    write!(stream, "{head}\r\n{more}Proxy-Authorization: Basic {proof}\r\n\r\n").unwrap();
    let head = crate::support::read_connect(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
    let mut some = [0; 256];
    stream.read_exact(&mut some).unwrap();
    assert!(String::from_utf8_lossy(&some).contains(&format!("bearer {SECRET}")), "it is on");
    stream
}

/// Whatever was on its way comes, then the end.
fn comes_to_its_end(mut stream: std::net::TcpStream) {
    let ended = stream.read_to_end(&mut Vec::new());
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(ended.is_ok() || ended.as_ref().is_err_and(is_reset), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_and_an_answer_that_streams_are_cut_when_the_run_ends() {
    for (answer, more) in [
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n", "Connection: close\r\n"),
    ] {
        let (proxy, manager, run) = unencrypted(talker(answer)).await;
        let stream = begin_talk(&proxy, &run, more);
        manager.done("DELETE", &format!("{ACCOUNT}/runs/{}", run.id()), None).await;
        comes_to_its_end(stream);
        let report = manager.done("GET", &format!("{ACCOUNT}/runs/{}", run.id()), None).await;
        let sufficient = json!([{ "credential": "key", "hosts": ["ws.test"], "methods": ["GET"], "allowCleartext": true, "source": "file" }]);
        assert_eq!(report["sufficient"], sufficient, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_body_comes_after_the_run_ended_is_neither_signed_nor_sent() {
    let root = Root::new();
    let host = "sqs.us-east-1.amazonaws.com";
    let origin = Origin::https_with(&root, &[host], &["http/1.1"], |_| text(200, "here")).await;
    let config = Config::new()
        .credentials("  - { id: aws, scheme: aws, access_key: AKIAIOSFODNN7EXAMPLE, secret_key: { env: SECRET } }\n")
        .bindings("  []\n")
        .resolve(&format!("{host}:443"), origin.address)
        .rest("admin: { address: 127.0.0.1:0 }\n")
        .text()
        .replace("bindings:\n  []", "bindings: []");
    let proxy = Proxy::start_with(&config, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    let manager = Manager::of(&proxy);
    let scene = Scene { proxy, origin, manager };
    let template = json!([{ "name": "auth_aws", "schemes": ["aws"], "label": "AWS",
        "uses": [{ "method": "POST", "host": host, "path": "/" }] }]);
    let policy = scene.apply(template, json!({ "auth_aws": "aws" })).await;
    for ends in [false, true] {
        let run = scene.run(&policy).await;
        let before = scene.origin.seen().len();
        let mut tunnel = tunnel_as(&scene, &run, host);
        write!(tunnel, "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nfirst").unwrap();
        tunnel.flush().unwrap();
        // It is under way once the proxy counts it, which the report does not tell; another request of the run is behind it.
        assert_eq!(ask(&scene.client(&run), "POST", &format!("https://{host}/"), None).await.0, 200);
        if ends {
            scene.end(&run).await;
        }
        let _ = tunnel.write_all(b"later");
        let answer = read_answer(&mut tunnel);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), !ends, "{answer}");
        assert_eq!(scene.origin.seen().len() - before, if ends { 1 } else { 2 }, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_run_is_not_nobody_after_its_policy_was_removed() {
    let scene = Scene::start().await;
    let policy = scene.tickets().await;
    let run = scene.run(&policy).await;
    assert_eq!(ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await.0, 200);
    scene.manager.done("DELETE", &format!("{ACCOUNT}/applied-policies/{policy}"), None).await;
    let plain = scene.proxy.client();
    let wrong = scene.proxy.client_as("run-ffffffffffff:cs_nothing@");
    for client in [&scene.client(&run), &plain, &wrong] {
        for url in ["https://other.test/", "https://jira.test/rest"] {
            let answer = ask(client, "GET", url, None).await;
            assert!(is_refused(&answer, "caller_unknown"), "{url}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_matches_and_who_manages_applies_what_the_store_has_and_an_admin_what_the_file_has() {
    let with_file = Config::new().rest("admin: { address: 127.0.0.1:0 }\n").start(&Root::new());
    let admin = Manager::of(&with_file);
    let token = async |name: &str, role: &str, account: &str| {
        let body = json!({ "name": name, "role": role, "account": account });
        let token = admin.done("POST", "/v1/tokens", Some(body)).await["token"].as_str().unwrap().to_owned();
        Manager::with_token(&with_file, &token)
    };
    let (viewer, manager) = (token("sees", "viewer", "default").await, token("manages", "manager", "default").await);
    let elsewhere = token("elsewhere", "manager", "17").await;
    let credential =
        json!({ "id": "own", "name": "own", "scheme": "api_key", "hosts": ["own.test"], "settings": { "key": "k" } });
    manager.done("POST", &format!("{ACCOUNT}/credentials"), Some(credential)).await;
    let declaration = json!([{ "name": "a", "schemes": ["api_key"], "label": "A" }]);
    let inspected = viewer.done("POST", "/v1/policies/inspect", Some(json!({ "template": declaration }))).await;
    assert_eq!(inspected["credentials"][0]["name"], "a");
    let matched = format!("{ACCOUNT}/policies/match");
    let answer = viewer.done("POST", &matched, Some(json!({ "template": declaration }))).await;
    let fits: Vec<_> =
        answer["blocks"][0]["fits"].as_array().unwrap().iter().map(|fit| fit["credential"].clone()).collect();
    assert_eq!(fits, ["key", "own"], "{answer}");
    let path = format!("{ACCOUNT}/applied-policies");
    let apply = |id: &str| json!({ "template": declaration, "credentials": { "a": id } });
    let status = async |who: &Manager, path: &str, body: Value| who.call("POST", path, Some(body)).await.0;
    assert_eq!(status(&viewer, &path, apply("own")).await, 403);
    assert_eq!(status(&elsewhere, &path, apply("own")).await, 403);
    assert_eq!(status(&elsewhere, &matched, json!({ "template": declaration })).await, 403);
    assert_eq!(status(&manager, &path, apply("key")).await, 403, "the file says who may use it where");
    assert_eq!(status(&admin, &path, apply("key")).await, 201);
    let mut cleartext = apply("own");
    cleartext["allowCleartext"] = json!(true);
    assert_eq!(status(&manager, &path, cleartext).await, 403);
    let applied = manager.done("POST", &path, Some(apply("own"))).await;
    let runs = format!("{path}/{}/runs", applied["id"].as_str().unwrap());
    assert_eq!(status(&viewer, &runs, json!({})).await, 403);
    assert_eq!(status(&elsewhere, &runs, json!({})).await, 403);
    let run = manager.done("POST", &runs, None).await;
    let at = format!("{ACCOUNT}/runs/{}", run["id"].as_str().unwrap());
    assert_eq!(viewer.call("GET", &at, None).await.0, 200);
    assert_eq!(elsewhere.call("GET", &at, None).await.0, 403);
    assert_eq!(viewer.call("DELETE", &at, None).await.0, 403);
    for wrong in [json!([]), json!(7), json!({ "lifetime": true }), json!({ "nothing": 1 })] {
        let refused = status(&manager, &runs, wrong.clone()).await;
        assert!(refused == 422 || refused == 400, "{wrong}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_did_is_written_down_when_the_process_ends() {
    let scene = Scene::start().await;
    let run = scene.run(&scene.tickets().await).await;
    assert_eq!(ask(&scene.client(&run), "GET", "https://jira.test/rest", None).await.0, 200);
    let Scene { proxy, origin, .. } = scene;
    proxy.signal("TERM");
    proxy.wait_log(|log| log.contains("\"stopped\""));
    let proxy = proxy.killed_and_started_again(&binary(), &[("SECRET", SECRET)]);
    let manager = Manager::of(&proxy);
    let scene = Scene { proxy, origin, manager };
    let report = scene.report(&run).await;
    assert_eq!(
        (&report["uses"][0]["credential"], &report["uses"][0]["count"]),
        (&json!("jira"), &json!(1)),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reaches_private_addresses_where_the_accounts_own_binding_of_the_credential_does() {
    let root = Root::new();
    let origin = Origin::https_with(&root, &HOSTS, &["http/1.1"], |_| text(200, "here")).await;
    let config = config(&origin).replace("  allow_addresses: [127.0.0.0/8]\n", "");
    let proxy = Proxy::start_with(&config, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    let manager = Manager::of(&proxy);
    for (id, hosts) in [("jira", json!(["jira.test", "www.other.test"])), ("other", json!(["other.test"]))] {
        let credential =
            json!({ "id": id, "name": id, "scheme": "api_key", "hosts": hosts, "settings": { "key": "k" } });
        manager.done("POST", &format!("{ACCOUNT}/credentials"), Some(credential)).await;
    }
    let binding = json!({ "credential": "jira", "hosts": ["jira.test"], "allowAddresses": ["127.0.0.0/8"] });
    manager.done("PUT", &format!("{ACCOUNT}/bindings/jira"), Some(binding)).await;
    let scene = Scene { proxy, origin, manager };
    let template = json!([
        { "name": "a", "schemes": ["api_key"], "label": "A", "uses": [
            { "method": "GET", "host": "jira.test", "path": "/" }, { "method": "GET", "host": "www.other.test", "path": "/" },
        ] },
        { "name": "b", "schemes": ["api_key"], "label": "B", "uses": [{ "method": "GET", "host": "other.test", "path": "/" }] },
    ]);
    let run = scene.run(&scene.apply(template, json!({ "a": "jira", "b": "other" })).await).await;
    let client = scene.client(&run);
    assert_eq!(ask(&client, "GET", "https://jira.test/", None).await, (200, "here".into()));
    let elsewhere = ask(&client, "GET", "https://www.other.test/", None).await;
    assert_eq!(elsewhere, (403, "destination_forbidden".into()), "the binding is not for that host");
    assert_eq!(ask(&client, "GET", "https://other.test/", None).await, (403, "destination_forbidden".into()));
    let report = scene.report(&run).await;
    assert_eq!(report["uses"].as_array().map(Vec::len), Some(1), "what never went out was not used: {report}");
    assert_eq!(report["refused"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["unused"], json!(["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_begun_ended_and_removed_is_on_record_and_so_is_what_a_run_was_refused() {
    let scene = Scene::start().await;
    let policy = scene.tickets().await;
    let run = scene.run(&policy).await;
    ask(&scene.client(&run), "DELETE", "https://jira.test/rest", None).await;
    scene.end(&run).await;
    scene.manager.done("DELETE", &format!("{ACCOUNT}/applied-policies/{policy}"), None).await;
    let began = Instant::now();
    loop {
        let events = scene.manager.done("GET", "/v1/audit?account=default", None).await["events"].clone();
        let actions: BTreeSet<String> = events
            .as_array()
            .unwrap()
            .iter()
            .map(|event| format!("{} {}", event["action"].as_str().unwrap(), event["subject"].as_str().unwrap_or("-")))
            .collect();
        let wanted = [
            format!("policy.apply {policy}"),
            format!("run.start {}", run.id()),
            format!("run.end {}", run.id()),
            format!("policy.remove {policy}"),
            "use.denied -".to_owned(),
        ];
        if wanted.iter().all(|one| actions.contains(one)) {
            let denied = events.as_array().unwrap().iter().find(|event| event["action"] == "use.denied").unwrap();
            assert_eq!(denied["actor"], json!(format!("run-{}", run.id())));
            assert!(!events.to_string().contains(run.0["token"].as_str().unwrap()));
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{actions:?}");
    }
}
