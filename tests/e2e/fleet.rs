//! Two processes on one PostgreSQL and one Redis: what is changed through one is obeyed by the other's next request, an
//! outage of the database ends by itself, and what was changed is on record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::postgres::{PASSWORD as STORE_PASSWORD, Postgres};
use crate::support::redis::{PASSWORD, Redis};
use crate::support::{Config, DEADLINE, Origin, Proxy, Raw, Root, SECRET, measured, raw, text};

/// 32 bytes in base64: each process has the same.
const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ=";
/// 16 bytes at least.
const ADMIN: &str = "an-administrators-token";

struct Fleet {
    postgres: Postgres,
    _redis: Redis,
    proxies: [Proxy; 2],
    api: Origin,
    idp: Origin,
}

impl Fleet {
    async fn start(test: &str, more: &str) -> Option<Self> {
        let (postgres, redis) = (Postgres::start(test)?, Redis::start(test, None)?);
        let count = AtomicUsize::new(0);
        let idp = Origin::http_with(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            text(200, &json!({ "access_token": format!("token-{number}"), "expires_in": 3600 }).to_string())
        })
        .await;
        let api = Origin::http_with(|seen| text(200, seen.header("authorization").unwrap_or("nothing"))).await;
        let config = Config::new()
            .resolve("idp.test:80", idp.address)
            .resolve("one.test:80", api.address)
            .resolve("api.test:80", api.address)
            .resolve("two.test:80", api.address)
            .rest(&format!(
                "admin: {{ address: 127.0.0.1:0, tokens: [{{ name: ops, role: admin, token: {{ env: ADMIN }} }}] }}\n\
                 store: {{ url: \"{}\", password: {{ env: STORE_PASSWORD }}, key: {{ env: STORE_KEY }}, {more} }}\n\
                 tokens: {{ shared: \"{}\", shared_password: {{ env: PASSWORD }} }}\n",
                postgres.url(),
                redis.url()
            ))
            .text();
        let start = || {
            let root = Root::new();
            let variables = [
                ("SECRET", SECRET),
                ("PASSWORD", PASSWORD),
                ("STORE_PASSWORD", STORE_PASSWORD),
                ("STORE_KEY", KEY),
                ("ADMIN", ADMIN),
            ];
            Proxy::start_with(&config, &variables, |folder| {
                std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
            })
        };
        let proxies = [start(), start()];
        Some(Self { postgres, _redis: redis, proxies, api, idp })
    }

    fn manager(&self, number: usize) -> Manager {
        Manager::with_token(&self.proxies[number], ADMIN)
    }

    /// Begins a run of a policy that lets it GET a host with a credential: the run's id, and what proves it.
    async fn run(&self, credential: &str, host: &str) -> (String, String) {
        let manager = self.manager(0);
        let template = json!([{ "name": "auth_it", "schemes": ["api_key"], "label": "It",
            "uses": [{ "method": "GET", "host": host, "path": "/", "cleartext": true }] }]);
        let body = json!({ "template": template, "credentials": { "auth_it": credential }, "allowCleartext": true });
        let applied = manager.done("POST", "/v1/accounts/default/applied-policies", Some(body)).await;
        let path = format!("/v1/accounts/default/applied-policies/{}/runs", applied["id"].as_str().unwrap());
        let run = manager.done("POST", &path, None).await;
        let word = |name: &str| run[name].as_str().unwrap().to_owned();
        let proof = format!("{}:{}", word("caller"), word("token"));
        (word("id"), base64::Engine::encode(&base64::engine::general_purpose::STANDARD, proof))
    }

    fn get_as(&self, number: usize, host: &str, proof: &str) -> Raw {
        let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close");
        let request = format!("{head}\r\nProxy-Authorization: Basic {proof}\r\n\r\n");
        raw(&self.proxies[number].forward(), request.as_bytes())
    }

    /// How long it takes until this process answers the run so.
    fn until_as(&self, number: usize, host: &str, proof: &str, words: &str) -> Duration {
        let began = Instant::now();
        while !self.get_as(number, host, proof).text.contains(words) {
            assert!(began.elapsed() < DEADLINE, "never: {}", self.get_as(number, host, proof).text);
        }
        began.elapsed()
    }

    fn get(&self, number: usize, host: &str) -> Raw {
        get(&self.proxies[number], host)
    }

    /// How long it takes until this process answers so.
    fn until(&self, number: usize, host: &str, done: impl Fn(&Raw) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            let answer = self.get(number, host);
            if done(&answer) {
                return began.elapsed();
            }
            assert!(began.elapsed() < DEADLINE, "it was never obeyed: {}", answer.text);
            std::thread::yield_now();
        }
    }
}

fn get(proxy: &Proxy, host: &str) -> Raw {
    raw(
        &proxy.forward(),
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
    )
}

fn token_credential(secret: &str) -> Value {
    json!({
        "id": "token", "name": "Token", "scheme": "oauth2", "hosts": ["two.test"],
        "settings": {
            "grantType": "client_credentials", "tokenUrl": "http://idp.test/token", "allowCleartext": true,
            "clientId": "me", "clientSecret": secret,
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_changes_the_other_obeys_within_a_second_and_both_share_one_token() {
    let Some(fleet) = Fleet::start("two processes on one store", "").await else { return };
    let one = fleet.manager(0);
    one.key("one", "first", "one.test").await;
    let mut took = vec![fleet.until(1, "one.test", |answer| answer.text.ends_with("Bearer first"))];
    let path = "/v1/accounts/default/credentials/one";
    one.done("PATCH", path, Some(json!({ "settings": { "key": "second" } }))).await;
    took.push(fleet.until(1, "one.test", |answer| answer.text.ends_with("Bearer second")));
    assert!(fleet.get(0, "one.test").text.ends_with("Bearer second"), "its own next request obeys at once");
    fleet.manager(1).done("DELETE", path, None).await;
    assert_eq!(fleet.get(1, "one.test").code(), "credential_unknown", "its own next request obeys at once");
    took.push(fleet.until(0, "one.test", |answer| answer.text.contains("credential_unknown")));

    one.done("POST", "/v1/accounts/default/credentials", Some(token_credential("s1"))).await;
    let binding = json!({ "credential": "token", "allowCleartext": true });
    one.done("PUT", "/v1/accounts/default/bindings/token", Some(binding)).await;
    took.push(fleet.until(1, "two.test", |answer| answer.text.ends_with("Bearer token-1")));
    assert!(fleet.get(0, "two.test").text.ends_with("Bearer token-1"));
    assert_eq!(fleet.idp.seen().len(), 1, "one exchange for both");
    let path = "/v1/accounts/default/credentials/token";
    one.done("PATCH", path, Some(json!({ "settings": { "clientSecret": "s2" } }))).await;
    assert!(fleet.get(0, "two.test").text.ends_with("Bearer token-2"), "the token of the old version is gone");
    took.push(fleet.until(1, "two.test", |answer| answer.text.ends_with("Bearer token-2")));
    assert_eq!(fleet.idp.seen().len(), 2);
    let usage = fleet.manager(0).done("GET", &format!("{path}/usage"), None).await;
    assert_eq!(usage["tokens"].as_array().map(Vec::len), Some(1), "{usage}");
    assert!(took.iter().all(|time| *time < Duration::from_secs(1)), "{took:?}");
    let slowest = took.iter().max().unwrap();
    measured(&format!("a change is obeyed by the other process after {} ms at most", slowest.as_millis()));
    assert!(!fleet.api.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_told_and_what_was_read_serves_until_it_is_back() {
    let Some(mut fleet) = Fleet::start("a database that goes away", "").await else { return };
    fleet.manager(0).key("one", "first", "one.test").await;
    // What was used is in memory; what never was cannot be brought while the database is away.
    for number in [0, 1] {
        fleet.until(number, "one.test", |answer| answer.text.ends_with("Bearer first"));
    }
    fleet.postgres.stop("INT");
    let one = fleet.manager(0);
    let path = "/v1/accounts/default/credentials/one";
    let (status, answer) = one.call("PATCH", path, Some(json!({ "settings": { "key": "second" } }))).await;
    assert_eq!(status, 503, "{answer}");
    for number in [0, 1] {
        assert!(fleet.get(number, "one.test").text.ends_with("Bearer first"), "within the grace");
    }
    fleet.postgres.start_again();
    let began = Instant::now();
    while one.call("PATCH", path, Some(json!({ "settings": { "key": "second" } }))).await.0 != 200 {
        assert!(began.elapsed() < DEADLINE);
    }
    for number in [0, 1] {
        fleet.until(number, "one.test", |answer| answer.text.ends_with("Bearer second"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_grace_nothing_of_the_store_is_used_and_all_of_it_again_when_it_is_back() {
    let Some(mut fleet) = Fleet::start("a store past its grace", "grace: 1s").await else { return };
    fleet.manager(0).key("one", "first", "one.test").await;
    fleet.until(1, "one.test", |answer| answer.text.ends_with("Bearer first"));
    fleet.postgres.stop("INT");
    for number in [0, 1] {
        fleet.until(number, "one.test", |answer| answer.text.contains("secret_unavailable"));
    }
    fleet.postgres.start_again();
    for number in [0, 1] {
        fleet.until(number, "one.test", |answer| answer.text.ends_with("Bearer first"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_before_its_database_serves_the_file_and_then_the_store() {
    let Some(mut fleet) = Fleet::start("a store that comes later", "").await else { return };
    fleet.manager(0).key("one", "first", "one.test").await;
    fleet.postgres.stop("INT");
    let [_, second] = &mut fleet.proxies;
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    let config = std::fs::read_to_string(&second.config).unwrap();
    let variables = [
        ("SECRET", SECRET),
        ("PASSWORD", PASSWORD),
        ("STORE_PASSWORD", STORE_PASSWORD),
        ("STORE_KEY", KEY),
        ("ADMIN", ADMIN),
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(second.folder.path().join("origin.pem"), folder.path().join("origin.pem")).unwrap();
    let config = config.replace(second.folder.path().to_str().unwrap(), "FOLDER");
    let late = Proxy::start_program(&crate::support::binary(), folder, &config, &variables, |_| {});
    assert_eq!(get(&late, "one.test").code(), "caller_unknown", "nothing passes while it is not known who may");
    fleet.postgres.start_again();
    let began = Instant::now();
    while !get(&late, "one.test").text.ends_with("Bearer first") {
        assert!(began.elapsed() < DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_row_that_the_api_finds() {
    let Some(fleet) = Fleet::start("the record in the store", "").await else { return };
    fleet.manager(1).key("one", "canary-key", "one.test").await;
    let api = fleet.manager(0);
    let began = Instant::now();
    let found = loop {
        let answer = api.done("GET", "/v1/audit?action=credential.&subject=one", None).await;
        if answer.to_string().contains("credential.create") {
            break answer.to_string();
        }
        assert!(began.elapsed() < DEADLINE, "{answer}");
    };
    assert!(found.contains("ops") && !found.contains("canary-key"), "{found}");
    assert!(!fleet.postgres.dump().contains("canary-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_known_to_both_processes_and_ends_in_both() {
    let Some(fleet) = Fleet::start("a run in a fleet", "").await else { return };
    fleet.manager(0).key("one", "first", "one.test").await;
    let (id, proof) = fleet.run("one", "one.test").await;
    let answer = fleet.get_as(0, "one.test", &proof);
    assert!(answer.text.ends_with("Bearer first"), "where it was begun, at once");
    let begun = fleet.until_as(1, "one.test", &proof, "Bearer first");
    fleet.manager(1).done("DELETE", &format!("/v1/accounts/default/runs/{id}"), None).await;
    assert_eq!(fleet.get_as(1, "one.test", &proof).code(), "caller_unknown", "where it was ended, at once");
    let ended = fleet.until_as(0, "one.test", &proof, "caller_unknown");
    assert!(begun < Duration::from_secs(1) && ended < Duration::from_secs(1), "{begun:?} {ended:?}");
    measured(&format!(
        "a run is known and over in the other process after {} ms at most",
        begun.max(ended).as_millis()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_stores_grace_a_run_is_over_though_the_file_has_its_credential_and_a_reload_brings_none_back() {
    let Some(mut fleet) = Fleet::start("a run past the grace", "grace: 1s").await else { return };
    let (_, proof) = fleet.run("key", "api.test").await;
    let signed = format!("Bearer {SECRET}");
    assert!(fleet.get_as(0, "api.test", &proof).text.ends_with(&signed));
    fleet.postgres.stop("INT");
    fleet.until_as(0, "api.test", &proof, "caller_unknown");
    fleet.proxies[0].signal("HUP");
    fleet.proxies[0].wait_log(|log| log.contains("configuration reloaded"));
    for _ in 0..20 {
        assert_eq!(fleet.get_as(0, "api.test", &proof).code(), "caller_unknown", "nobody knows whether it was ended");
    }
    fleet.postgres.start_again();
    fleet.until_as(0, "api.test", &proof, &signed);
}
