//! What the API promises, over a real store.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::testing::{Answer, Bench, ask};
use super::{Access, Input, Settings, first_token, kinds};
use crate::base::{Secret, SecretRef, Secrets};
use crate::scheme::is_at;
use crate::store::Role;

fn basic(password: &str) -> Value {
    json!({"name": "Jira", "scheme": "basic", "hosts": ["jira.test"], "settings": {"username": "u", "password": password}})
}

fn oauth2(secret: &str) -> Value {
    json!({"name": "IDP", "scheme": "oauth2", "hosts": ["api.test"], "settings": {
        "grantType": "client_credentials", "tokenUrl": "https://idp.test/token", "clientId": "me", "clientSecret": secret,
        "additionalHeaders": {"X-Key": secret}, "additionalParams": {"resourceId": secret},
    }})
}

#[track_caller]
fn is(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
}

async fn stored_secrets(bench: &Bench, account: &str, id: &str) -> BTreeMap<String, Vec<u8>> {
    let record = bench.store.credential(account, id).await.unwrap().unwrap();
    let secrets = bench.store.secrets(&record).await.unwrap();
    secrets.into_iter().map(|(path, secret)| (path, secret.expose().to_vec())).collect()
}

#[tokio::test]
async fn a_credential_lives_from_its_first_write_to_its_tombstone_and_back() {
    let bench = Bench::new().await;
    let created = bench.admin("POST", "/v1/accounts/a/credentials", basic("s3cret")).await;
    is(&created, 201);
    assert_eq!(created.header("location"), "/v1/accounts/a/credentials/jira");
    assert_eq!(created.header("etag"), "\"1\"");
    let shown = bench.admin("GET", "/v1/accounts/a/credentials/jira", Value::Null).await;
    assert_eq!(shown.json()["settings"], json!({"username": "u"}));
    assert_eq!(shown.json()["secretFields"], json!(["password"]));
    assert_eq!(shown.json()["created"]["by"], "token:somebody");
    // The same name again makes another id.
    let second = bench.admin("POST", "/v1/accounts/a/credentials", basic("s")).await;
    assert_eq!(second.json()["id"], "jira-2");
    let named = json!({"id": "jira", "scheme": "basic", "settings": {"username": "u", "password": "p"}});
    is(&bench.admin("POST", "/v1/accounts/a/credentials", named).await, 409);

    let patch = json!({"description": "ours", "tags": {"provider": "jira"}, "settings": {"username": "v"}});
    let patched = bench.admin("PATCH", "/v1/accounts/a/credentials/jira", patch.clone()).await;
    is(&patched, 200);
    assert_eq!(patched.json()["version"], 2);
    assert_eq!(stored_secrets(&bench, "a", "jira").await["password"], b"s3cret");
    let again = bench.admin("PATCH", "/v1/accounts/a/credentials/jira", patch).await;
    assert_eq!(again.json()["version"], 2, "what changes nothing makes no version");
    let versions = bench.admin("GET", "/v1/accounts/a/credentials/jira/versions", Value::Null).await.json();
    assert_eq!(versions["versions"][0]["changedFields"], json!(["description", "tags", "settings.username"]));

    is(&bench.admin("DELETE", "/v1/accounts/a/credentials/jira", Value::Null).await, 204);
    is(&bench.admin("GET", "/v1/accounts/a/credentials/jira", Value::Null).await, 404);
    is(&bench.admin("DELETE", "/v1/accounts/a/credentials/jira", Value::Null).await, 404);
    let listed = bench.admin("GET", "/v1/accounts/a/credentials?removed=true", Value::Null).await.json();
    assert_eq!(listed["credentials"][0]["removed"], true);
    let restored = bench.admin("POST", "/v1/accounts/a/credentials/jira/restore", Value::Null).await;
    is(&restored, 200);
    assert_eq!(restored.json()["settings"]["username"], "v");
    let first = bench.admin("POST", "/v1/accounts/a/credentials/jira/restore", json!({"version": 1})).await;
    assert_eq!(first.json()["settings"]["username"], "u");
    is(&bench.admin("POST", "/v1/accounts/a/credentials/jira/restore", json!({"version": 77})).await, 404);
    assert_eq!(stored_secrets(&bench, "a", "jira").await["password"], b"s3cret");
    let accounts = bench.admin("GET", "/v1/accounts", Value::Null).await.json();
    assert_eq!(accounts["accounts"][0]["name"], "a");
}

#[tokio::test]
async fn a_put_creates_and_replaces_as_the_conditions_say() {
    let bench = Bench::new().await;
    let admin = bench.somebody(Role::Admin, None);
    let path = "/v1/accounts/a/credentials/x";
    let put = async |headers: &[(&str, &str)], password: &str| ask(&admin, "PUT", path, headers, basic(password)).await;
    is(&put(&[("if-match", "\"1\"")], "p").await, 412);
    is(&put(&[("if-none-match", "*")], "p").await, 201);
    is(&put(&[("if-none-match", "*")], "p").await, 412);
    is(&put(&[("if-match", "\"7\"")], "q").await, 412);
    is(&put(&[("if-match", "nonsense")], "q").await, 412);
    let replaced = put(&[("if-match", "\"1\"")], "q").await;
    is(&replaced, 200);
    assert_eq!(replaced.header("etag"), "\"2\"");
    is(&put(&[("if-match", "\"2\""), ("if-none-match", "*")], "q").await, 400);
    let body = json!({"id": "y", "scheme": "basic", "settings": {}});
    let other = ask(&admin, "PUT", path, &[], body).await;
    is(&other, 422);
    assert_eq!(other.json()["path"], "id");
    // What was shown may be sent back; without the secret it is not a whole.
    let shown = ask(&admin, "GET", path, &[], Value::Null).await.json();
    let without = ask(&admin, "PUT", path, &[], shown.clone()).await;
    is(&without, 422);
    assert!(without.json()["detail"].as_str().unwrap().contains("password"), "{without:?}");
    is(&ask(&admin, "PATCH", path, &[], shown).await, 200);
    is(&ask(&admin, "PATCH", path, &[("if-match", "\"1\"")], json!({"name": "z"})).await, 412);
    is(&ask(&admin, "DELETE", path, &[("if-match", "\"1\"")], Value::Null).await, 412);
}

#[tokio::test]
async fn a_secret_is_led_nowhere_else_unless_it_is_given_anew() {
    let bench = Bench::new().await;
    let path = "/v1/accounts/a/credentials/idp";
    is(&bench.admin("PUT", path, oauth2("canary")).await, 201);
    let patch = async |body: Value| bench.admin("PATCH", path, body).await;
    let elsewhere = patch(json!({"settings": {"tokenUrl": "https://evil.test/token"}})).await;
    is(&elsewhere, 422);
    assert_eq!(elsewhere.json()["path"], "settings.token_url");
    let detail = elsewhere.json()["detail"].to_string();
    for field in ["client_secret", "additional_headers.X-Key", "additional_params.resourceId"] {
        assert!(detail.contains(field), "{detail}");
    }
    for hosts in [json!(["evil.test"]), json!(["api.test", "evil.test"]), json!(["*.test"]), Value::Null] {
        let answer = patch(json!({"hosts": hosts})).await;
        // Without hosts an oauth2 credential signs nothing, which leads nowhere.
        is(&answer, if hosts.is_null() { 200 } else { 422 });
    }
    let back = patch(json!({"hosts": ["api.test"]})).await;
    is(&back, 422);
    let anew =
        json!({"clientSecret": "n", "additionalHeaders": {"X-Key": "n"}, "additionalParams": {"resourceId": "n"}});
    is(&patch(json!({"hosts": ["evil.test"], "settings": anew})).await, 200);
    // Of several secrets all must be given.
    let some = json!({"tokenUrl": "https://evil.test/token", "clientSecret": "n"});
    is(&patch(json!({"settings": some})).await, 422);
    // Another scheme is another content, whatever names its fields have.
    let scheme = patch(json!({"scheme": "basic"})).await;
    is(&scheme, 422);
    let borrowed = json!({"scheme": "digest", "settings": {"username": "u", "password": {"sealed": "password"}}});
    is(&bench.admin("PUT", "/v1/accounts/a/credentials/b", basic("p")).await, 201);
    is(&bench.admin("PUT", "/v1/accounts/a/credentials/b", borrowed).await, 422);
    let kept = json!({"scheme": "basic", "hosts": ["jira.test"], "settings": {"username": "w", "password": {"sealed": "password"}}});
    is(&bench.admin("PUT", "/v1/accounts/a/credentials/b", kept).await, 200);
    assert_eq!(stored_secrets(&bench, "a", "b").await["password"], b"p");
}

#[tokio::test]
async fn everybody_does_what_the_role_says_and_where_it_says() {
    let bench = Bench::new().await;
    is(&bench.admin("PUT", "/v1/accounts/a/credentials/x", basic("p")).await, 201);
    let binding = json!({"credential": "x", "hosts": ["jira.test"]});
    let open = json!({"credential": "x", "allowCleartext": true});
    let reach = json!({"credential": "x", "allowAddresses": ["10.0.0.0/8"]});
    let token = json!({"name": "t", "role": "viewer", "account": "a"});
    let table: &[(&str, &str, Value, [u16; 5])] = &[
        // viewer of a, manager of a, admin of a, admin of b, viewer of all
        ("GET", "/v1/whoami", Value::Null, [200, 200, 200, 200, 200]),
        ("GET", "/v1/status", Value::Null, [403, 403, 403, 403, 200]),
        ("GET", "/v1/accounts/a/credentials", Value::Null, [200, 200, 200, 403, 200]),
        ("GET", "/v1/accounts/never/credentials", Value::Null, [403, 403, 403, 403, 200]),
        ("GET", "/v1/accounts/a/credentials/x", Value::Null, [200, 200, 200, 403, 200]),
        ("GET", "/v1/accounts/a/credentials/x/usage", Value::Null, [200, 200, 200, 403, 200]),
        ("GET", "/v1/accounts/a/credentials/x/versions", Value::Null, [200, 200, 200, 403, 200]),
        ("POST", "/v1/accounts/a/credentials/x/test", Value::Null, [403, 200, 200, 403, 403]),
        ("PATCH", "/v1/accounts/a/credentials/x", json!({"description": "d"}), [403, 200, 200, 403, 403]),
        ("POST", "/v1/accounts/a/credentials", basic("p"), [403, 201, 201, 403, 403]),
        ("PUT", "/v1/accounts/a/credentials/y", basic("p"), [403, 201, 200, 403, 403]),
        ("PUT", "/v1/accounts/a/bindings/b", binding, [403, 201, 200, 403, 403]),
        ("PUT", "/v1/accounts/a/bindings/c", open, [403, 403, 201, 403, 403]),
        ("PUT", "/v1/accounts/a/bindings/d", reach, [403, 403, 403, 403, 403]),
        ("GET", "/v1/accounts/a/bindings", Value::Null, [200, 200, 200, 403, 200]),
        ("GET", "/v1/accounts/a/callers", Value::Null, [200, 200, 200, 403, 200]),
        ("POST", "/v1/accounts/a/callers", json!({"name": "c"}), [403, 201, 409, 403, 403]),
        ("GET", "/v1/tokens", Value::Null, [403, 403, 200, 200, 403]),
        ("POST", "/v1/tokens", token, [403, 403, 201, 403, 403]),
        ("POST", "/v1/tokens", json!({"name": "u", "role": "viewer"}), [403, 403, 403, 403, 403]),
        ("GET", "/v1/audit?account=a", Value::Null, [403, 403, 200, 403, 403]),
        ("GET", "/v1/audit", Value::Null, [403, 403, 403, 403, 403]),
        ("DELETE", "/v1/tokens/t", Value::Null, [403, 403, 204, 404, 403]),
        ("DELETE", "/v1/accounts/a/bindings/b", Value::Null, [403, 204, 404, 403, 403]),
        ("DELETE", "/v1/accounts/a/callers/c", Value::Null, [403, 204, 404, 403, 403]),
        ("DELETE", "/v1/accounts/a/credentials/y", Value::Null, [403, 204, 404, 403, 403]),
    ];
    let people = [
        bench.somebody(Role::Viewer, Some("a")),
        bench.somebody(Role::Manager, Some("a")),
        bench.somebody(Role::Admin, Some("a")),
        bench.somebody(Role::Admin, Some("b")),
        bench.somebody(Role::Viewer, None),
    ];
    for (method, path, body, expected) in table {
        for (index, (router, expected)) in people.iter().zip(expected).enumerate() {
            let answer = ask(router, method, path, &[], body.clone()).await;
            assert_eq!(answer.status.as_u16(), *expected, "{method} {path} by {index}: {answer:?}");
        }
    }
    let unknown = bench.admin("GET", "/v1/accounts/never/credentials", Value::Null).await;
    assert_eq!(unknown.json(), json!({"credentials": []}));
    is(&bench.admin("GET", "/v1/accounts/a%20b/credentials", Value::Null).await, 400);
    let own = ask(&people[0], "GET", "/v1/accounts", &[], Value::Null).await.json();
    assert_eq!(own["accounts"].as_array().unwrap().len(), 1);
    assert_eq!(ask(&people[3], "GET", "/v1/accounts", &[], Value::Null).await.json(), json!({"accounts": []}));
}

#[tokio::test]
async fn cleartext_to_its_own_endpoint_is_an_admins_to_allow() {
    let bench = Bench::new().await;
    let with = |url: &str, allow: bool| {
        let mut body = oauth2("s");
        body["settings"]["tokenUrl"] = json!(url);
        body["settings"]["allowCleartext"] = json!(allow);
        body
    };
    let manager = bench.somebody(Role::Manager, Some("a"));
    let path = "/v1/accounts/a/credentials/x";
    let refused = ask(&manager, "PUT", path, &[], with("http://idp.test/t", true)).await;
    is(&refused, 403);
    assert_eq!(refused.json()["path"], "settings.allow_cleartext");
    is(&ask(&manager, "PUT", path, &[], with("https://idp.test/t", false)).await, 201);
    is(&ask(&bench.somebody(Role::Admin, Some("a")), "PUT", path, &[], with("http://idp.test/t", true)).await, 200);
    is(&ask(&manager, "PATCH", path, &[], json!({"description": "stays allowed"})).await, 200);
}

#[tokio::test]
async fn what_the_file_declares_is_seen_and_not_changed() {
    let bench = Bench::new().await;
    let path = "/v1/accounts/default/credentials/of-file";
    let shown = bench.admin("GET", path, Value::Null).await.json();
    assert_eq!(shown["source"], "file");
    for (method, body) in [("PUT", basic("p")), ("PATCH", json!({"name": "x"})), ("DELETE", Value::Null)] {
        let answer = bench.admin(method, path, body).await;
        is(&answer, 409);
        assert!(answer.text.contains("the configuration file declares"), "{answer:?}");
    }
    for id in ["a-first", "z-last"] {
        let body = json!({"id": id, "scheme": "basic", "settings": {"username": "u", "password": "p"}});
        is(&bench.admin("POST", "/v1/accounts/default/credentials", body).await, 201);
    }
    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let page =
            bench.admin("GET", &format!("/v1/accounts/default/credentials?limit=1{after}"), Value::Null).await.json();
        ids.extend(page["credentials"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids, ["a-first", "of-file", "z-last"]);
    // A name that would become the id of one of the file gets another.
    let body = json!({"name": "of file", "scheme": "basic", "settings": {"username": "u", "password": "p"}});
    assert_eq!(bench.admin("POST", "/v1/accounts/default/credentials", body).await.json()["id"], "of-file-2");
    let callers = bench.admin("GET", "/v1/accounts/default/callers", Value::Null).await.json();
    assert_eq!(callers["callers"][0], json!({"name": "runner", "source": "file", "tokens": []}));
    is(&bench.admin("POST", "/v1/accounts/default/callers", json!({"name": "runner"})).await, 409);
    is(&bench.admin("DELETE", "/v1/accounts/default/callers/runner", Value::Null).await, 409);
}

#[tokio::test]
async fn a_manager_reads_no_file_of_this_host_and_no_store_that_is_closed() {
    let bench = Bench::new().await;
    let with =
        |password: Value| json!({"name": "x", "scheme": "basic", "settings": {"username": "u", "password": password}});
    for reference in [
        json!({"env": "HOME"}),
        json!({"file": "/etc/passwd"}),
        json!({"command": ["id"]}),
        json!({"sealed": "password"}),
    ] {
        is(&bench.admin("POST", "/v1/accounts/open/credentials", with(reference)).await, 422);
    }
    let stored = with(json!({"store": "kv", "name": "n"}));
    is(&bench.admin("POST", "/v1/accounts/open/credentials", stored.clone()).await, 201);
    let closed = bench.admin("POST", "/v1/accounts/closed/credentials", stored).await;
    is(&closed, 422);
    let none = bench.admin("POST", "/v1/accounts/open/credentials", with(json!({"store": "none", "name": "n"}))).await;
    is(&none, 422);
    let shown = bench.admin("GET", "/v1/accounts/open/credentials/x", Value::Null).await.json();
    assert_eq!(shown["settings"]["password"], json!({"store": "kv", "name": "n"}));
}

#[tokio::test]
async fn every_change_is_written_down_first_and_none_is_made_without() {
    let bench = Bench::new().await;
    is(&bench.admin("PUT", "/v1/accounts/a/credentials/x", basic("canary")).await, 201);
    is(&bench.admin("PATCH", "/v1/accounts/a/credentials/x", json!({"settings": {"password": "canary2"}})).await, 200);
    is(&bench.admin("PUT", "/v1/accounts/a/bindings/b", json!({"credential": "x"})).await, 201);
    let caller = bench.admin("POST", "/v1/accounts/a/callers", json!({"name": "c"})).await;
    is(&caller, 201);
    let token = caller.json()["token"].as_str().unwrap().to_owned();
    let made = bench.admin("POST", "/v1/tokens", json!({"name": "t", "role": "viewer"})).await;
    let made = made.json()["token"].as_str().unwrap().to_owned();
    is(&bench.admin("DELETE", "/v1/accounts/a/credentials/x", Value::Null).await, 204);
    let expected = [
        "credential.create ok",
        "credential.update ok",
        "binding.put ok",
        "caller.create ok",
        "token.create ok",
        "credential.remove ok",
    ];
    assert_eq!(bench.actions(), expected);
    let said = format!("{:?}", bench.heard.events.lock().unwrap());
    assert!(said.contains("settings.password") && said.contains("token:somebody"));
    assert!(!said.contains("canary") && !said.contains(&token) && !said.contains(&made));

    bench.heard.full.store(true, std::sync::atomic::Ordering::Relaxed);
    for (method, path, body) in [
        ("PUT", "/v1/accounts/a/credentials/y", basic("p")),
        ("POST", "/v1/accounts/a/credentials/x/restore", Value::Null),
        ("PUT", "/v1/accounts/a/bindings/c", json!({"credential": "x"})),
        ("DELETE", "/v1/accounts/a/bindings/b", Value::Null),
        ("POST", "/v1/accounts/a/callers", json!({"name": "d"})),
        ("DELETE", "/v1/accounts/a/callers/c", Value::Null),
        ("POST", "/v1/tokens", json!({"name": "u", "role": "viewer"})),
        ("DELETE", "/v1/tokens/t", Value::Null),
    ] {
        let answer = bench.admin(method, path, body).await;
        is(&answer, 503);
        assert!(!answer.header("retry-after").is_empty() && answer.text.contains("audit record"), "{answer:?}");
    }
    bench.heard.full.store(false, std::sync::atomic::Ordering::Relaxed);
    is(&bench.admin("GET", "/v1/accounts/a/credentials/y", Value::Null).await, 404);
    is(&bench.admin("GET", "/v1/accounts/a/credentials/x", Value::Null).await, 404);
    assert_eq!(
        bench.admin("GET", "/v1/accounts/a/bindings", Value::Null).await.json()["bindings"].as_array().unwrap().len(),
        1
    );
    assert_eq!(bench.admin("GET", "/v1/tokens", Value::Null).await.json()["tokens"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn callers_have_several_tokens_and_each_is_shown_once() {
    let bench = Bench::new().await;
    let first = bench.admin("POST", "/v1/accounts/a/callers", json!({"name": "team/runner"})).await.json();
    let token = first["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("cs_") && token.len() > 40);
    let past = json!({"expiresAt": "2001-01-01T00:00:00Z"});
    is(&bench.admin("POST", "/v1/accounts/a/callers/team%2Frunner/tokens", past).await, 422);
    let second = bench
        .admin("POST", "/v1/accounts/a/callers/team%2Frunner/tokens", json!({"expiresAt": "2099-01-01T00:00:00Z"}))
        .await;
    is(&second, 201);
    let listed = bench.admin("GET", "/v1/accounts/a/callers", Value::Null).await;
    assert_eq!(listed.json()["callers"][0]["tokens"].as_array().unwrap().len(), 2);
    assert!(!listed.text.contains(&token));
    let proofs = bench.store.callers("a").await.unwrap().remove(0).proofs;
    assert!(proofs.iter().any(|proof| proof.digest == crate::route::fingerprint("token", token.as_bytes())));
    let path = format!("/v1/accounts/a/callers/team%2Frunner/tokens/{}", first["id"].as_str().unwrap());
    is(&bench.admin("DELETE", &path, Value::Null).await, 204);
    is(&bench.admin("DELETE", &path, Value::Null).await, 404);
    is(&bench.admin("DELETE", "/v1/accounts/a/callers/team%2Frunner", Value::Null).await, 204);
    is(&bench.admin("DELETE", "/v1/accounts/a/callers/team%2Frunner", Value::Null).await, 404);
    is(&bench.admin("POST", "/v1/accounts/a/callers/nobody/tokens", Value::Null).await, 404);
    for name in ["", "a b", "local", "a:b"] {
        is(&bench.admin("POST", "/v1/accounts/a/callers", json!({"name": name})).await, 422);
    }
}

#[tokio::test]
async fn who_asks_is_proven_counted_and_told_from_a_web_page() {
    let bench = Bench::new().await;
    let secrets: Secrets = [
        (SecretRef::Env { env: "LONG".into() }, Secret::new("a-token-of-the-file")),
        (SecretRef::Env { env: "SHORT".into() }, Secret::new("short")),
    ]
    .into_iter()
    .collect();
    let section: Settings = serde_json::from_value(json!({
        "address": "127.0.0.1:0",
        "tokens": [
            {"name": "ci", "role": "manager", "account": "a", "token": {"env": "LONG"}},
            {"name": "weak", "role": "admin", "token": {"env": "SHORT"}},
            {"name": "gone", "role": "admin", "token": {"env": "GONE"}},
        ],
        "rate_limit": {"principal": 4, "account": 1000},
    }))
    .unwrap();
    let clients: Arc<dyn crate::base::HttpClients> = Arc::new(super::oidc_tests::Nobody);
    let access = Access::new(&section, &secrets, &clients, &bench.deps);
    let unusable: Vec<_> = access.unusable.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(unusable, ["weak", "gone"]);
    bench.api.set_access(access);
    let router = bench.api.router();
    let with = async |headers: &[(&str, &str)]| ask(&router, "GET", "/v1/whoami", headers, Value::Null).await;
    for headers in [
        &[][..],
        &[("authorization", "a-token-of-the-file")],
        &[("authorization", "Bearer a-token-of-the-fil")],
        &[("authorization", "Bearer short")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", "Bearer a-token-of-the-file"), ("authorization", "Bearer x")],
        &[("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")],
    ] {
        let answer = with(headers).await;
        is(&answer, 401);
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let known = ("authorization", "bearer a-token-of-the-file");
    is(&with(&[known, ("origin", "http://evil.test")]).await, 403);
    is(&with(&[known, ("sec-fetch-site", "cross-site")]).await, 403);
    let own = with(&[known, ("origin", "http://localhost")]).await;
    is(&own, 200);
    assert_eq!(own.header("access-control-allow-origin"), "http://localhost");
    let answer = with(&[known]).await;
    assert_eq!(answer.json()["name"], "token:ci");
    assert_eq!(answer.json()["account"], "a");
    assert_eq!(answer.header("x-ratelimit-remaining"), "2");
    assert_eq!(answer.header("cache-control"), "no-store");
    // In the form of each way in.
    let flexera = ask(&router, "GET", "/cred/v2/orgs/1/credentials", &[known], Value::Null).await;
    is(&flexera, 403);
    assert_eq!(flexera.header("content-type"), "application/vnd.goa.error");
    is(&with(&[known]).await, 200);
    let limited = ask(&router, "GET", "/cred/v2/orgs/1/credentials", &[known], Value::Null).await;
    is(&limited, 429);
    assert_eq!(limited.json()["name"], "too_many_requests");
    assert_eq!(limited.json()["temporary"], true);
    assert!(limited.header("retry-after").parse::<u64>().unwrap() <= 15);
    is(&ask(&router, "GET", "/openapi.json", &[], Value::Null).await, 200);
    assert!(bench.actions().iter().any(|action| action == "management.denied unauthorized"));
    assert!(bench.actions().iter().any(|action| action == "management.denied forbidden"));
}

#[tokio::test]
async fn a_token_of_the_store_is_good_until_it_ends_or_is_removed() {
    let bench = Bench::new().await;
    bench.api.set_access(Access::closed(&bench.deps));
    let made = first_token(&bench.store, &Access::closed(&bench.deps), bench.folder.path(), &bench.deps).await.unwrap();
    let path = made.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap();
    let again =
        first_token(&bench.store, &Access::closed(&bench.deps), bench.folder.path(), &bench.deps).await.unwrap();
    assert_eq!(again, None, "once");
    let router = bench.api.router();
    let ask_as = async |token: &str, method: &str, path: &str, body: Value| {
        ask(&router, method, path, &[("authorization", &format!("Bearer {}", token.trim()))], body).await
    };
    let made = ask_as(&token, "POST", "/v1/tokens", json!({"name": "t", "role": "viewer", "account": "a"})).await;
    is(&made, 201);
    let viewer = made.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(ask_as(&viewer, "GET", "/v1/whoami", Value::Null).await.json()["role"], "viewer");
    let soon = json!({"name": "s", "role": "viewer", "expiresAt": "2099-01-01T00:00:00+01:00"});
    is(&ask_as(&token, "POST", "/v1/tokens", soon).await, 201);
    let ended = json!({"name": "e", "role": "viewer", "expiresAt": "2001-01-01T00:00:00Z"});
    is(&ask_as(&token, "POST", "/v1/tokens", ended).await, 422);
    is(&ask_as(&token, "POST", "/v1/tokens", json!({"name": "t", "role": "admin"})).await, 409);
    is(&ask_as(&token, "DELETE", "/v1/tokens/t", Value::Null).await, 204);
    is(&ask_as(&viewer, "GET", "/v1/whoami", Value::Null).await, 401);
    let record = crate::store::ManagementToken {
        name: "old".into(),
        digest: super::access::sha256(b"an-old-token"),
        role: Role::Admin,
        account: None,
        expires_at: Some(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1)),
    };
    bench.store.add_management_token(record, &crate::store::Actor { name: "x".into() }).await.unwrap();
    is(&ask_as("an-old-token", "GET", "/v1/whoami", Value::Null).await, 401);
}

#[tokio::test]
async fn bad_requests_are_told_apart_and_repeat_nothing() {
    let bench = Bench::new().await;
    let router = bench.somebody(Role::Admin, None);
    let post = async |body: Value| ask(&router, "POST", "/v1/accounts/a/credentials", &[], body).await;
    for (body, path) in [
        (json!({"scheme": "basic", "settings": {"username": "u", "password": "canary"}}), "name"),
        (json!({"name": "x", "scheme": "magic", "settings": {"password": "canary"}}), "scheme"),
        (json!({"name": "x", "scheme": "basic", "settings": "canary"}), "settings"),
        (
            json!({"name": "x", "scheme": "basic", "settings": {"username": "u", "pasword": "canary"}}),
            "settings.pasword",
        ),
        (
            json!({"name": "x", "scheme": "basic", "settings": {"username": "u", "password": ["canary"]}}),
            "settings.password",
        ),
        (json!({"name": "x", "scheme": "basic", "password": "canary", "settings": {}}), "password"),
        (json!({"name": "x", "scheme": "basic", "enabled": "canary", "settings": {}}), "enabled"),
        (
            json!({"name": "x", "scheme": "basic", "hosts": ["*"], "settings": {"username": "u", "password": "canary"}}),
            "hosts[0]",
        ),
        (
            json!({"name": "x", "scheme": "basic", "hosts": ["refused.test"], "settings": {"username": "u", "password": "canary"}}),
            "hosts[0]",
        ),
        (
            json!({"name": "x", "id": "a/b", "scheme": "basic", "settings": {"username": "u", "password": "canary"}}),
            "id",
        ),
        (
            json!({"name": "x", "scheme": "basic", "tags": {"a b": "c"}, "settings": {"username": "u", "password": "canary"}}),
            "tags",
        ),
        (
            json!({"name": "x", "scheme": "basic", "expiresAt": "soon", "settings": {"username": "u", "password": "canary"}}),
            "expires_at",
        ),
        (
            json!({"name": "x", "scheme": "api_key", "settings": {"key": "canary", "allow_addresses": []}}),
            "settings.allow_addresses",
        ),
    ] {
        let answer = post(body.clone()).await;
        is(&answer, 422);
        assert_eq!(answer.json()["path"], path, "{body} {answer:?}");
        assert!(!answer.all().contains("canary"), "{answer:?}");
    }
    is(&post(json!([])).await, 422);
    let large = json!({"name": "x".repeat(1024 * 1024)});
    is(&post(large).await, 413);
    is(&bench.admin("PATCH", "/v1/accounts/a/credentials", Value::Null).await, 405);
    is(&bench.admin("GET", "/v1/nothing", Value::Null).await, 404);
    is(&bench.admin("GET", "/v1/accounts/a/credentials?limit=0", Value::Null).await, 400);
    is(&bench.admin("GET", "/v1/accounts/a/credentials?limit=many", Value::Null).await, 400);
    is(&bench.admin("GET", "/v1/accounts/a/credentials?filter=id", Value::Null).await, 400);
    is(&bench.admin("GET", "/v1/accounts/%ff/credentials", Value::Null).await, 400);
    is(&bench.admin("GET", "/v1/audit?since=yesterday", Value::Null).await, 400);
    is(&bench.admin("PUT", "/v1/accounts/a/bindings/b", json!({"credential": "none"})).await, 422);
    is(&bench.admin("PUT", "/cred/v2/orgs/0/credentials/basic/x", json!({})).await, 400);
    is(&bench.admin("PUT", "/cred/v2/teams/1/credentials/basic/x", json!({})).await, 404);
}

#[tokio::test]
async fn a_key_for_ssh_is_judged_whichever_way_it_comes() {
    let bench = Bench::new().await;
    let path = "/v1/accounts/a/credentials/key";
    let with = |key: &str| json!({"name": "k", "scheme": "ssh", "settings": {"privateKey": key}});
    let bad = bench.admin("PUT", path, with("canary")).await;
    is(&bad, 422);
    assert_eq!(bad.json()["path"], "settings.private_key");
    assert!(!bad.all().contains("canary"));
    let key = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys/rsa-pkcs8.pem");
    is(&bench.admin("PUT", path, with(&std::fs::read_to_string(key).unwrap())).await, 201);
    is(&bench.admin("POST", "/v1/accounts/a/credentials/key/test", Value::Null).await, 422);
}

/// A JSON value with a canary wherever a secret may stand: references of the file become values.
fn with_canaries(kind: &crate::scheme::Kind, path: &str, value: &Value, count: &mut usize) -> Value {
    let mut canary = || {
        *count += 1;
        json!(format!("k4n4ry{count}"))
    };
    let secret = is_at(kind.fields.secret, path);
    match value {
        Value::Object(map) if ["env", "file", "command"].iter().any(|key| map.contains_key(*key)) => {
            if secret {
                canary()
            } else {
                json!("public")
            }
        }
        Value::String(_) if secret => canary(),
        Value::Object(map) => {
            let below = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let members = map.iter().map(|(key, value)| (key.clone(), with_canaries(kind, &below(key), value, count)));
            Value::Object(members.collect())
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| with_canaries(kind, &format!("{path}[{index}]"), item, count)).collect()
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn no_answer_of_any_way_in_holds_a_secret_that_was_written_through_any() {
    let bench = Bench::new().await;
    let mut written = BTreeMap::<&str, usize>::new();
    let mut canaries = 0;
    let mut answers = Vec::new();
    let mut places = Vec::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    // No canary is a key for ssh; Tower's own tests have real ones.
    for kind in kinds::all().filter(|kind| !kinds::is_kept_only(kind)) {
        let mut documents = vec![match kind.name {
            "oauth2" => oauth2("x")["settings"].clone(),
            _ => Value::Null,
        }];
        for file in std::fs::read_dir(root.join(kind.name)).into_iter().flatten() {
            let vectors: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
            documents.extend(vectors.as_array().unwrap().iter().take(10).map(|vector| vector["credential"].clone()));
        }
        documents.retain(Value::is_object);
        for (index, document) in documents.iter().enumerate() {
            let document = super::json::snake(document.clone());
            let settings = with_canaries(kind, "", &document, &mut canaries);
            let id = format!("{}-{index}", kind.name.replace('_', "-"));
            let path = format!("/v1/accounts/7/credentials/{id}");
            let body = json!({"name": id, "scheme": kind.name, "hosts": ["api.test"], "settings": settings});
            let native = bench.admin("PUT", &path, body).await;
            if native.status.is_success() {
                *written.entry(kind.name).or_default() += 1;
                places.push((kind.name, id.clone()));
            }
            answers.push(native);
            let flexera = format!("/cred/v2/projects/8/credentials/{}/{id}", kind.name);
            let mut body = settings.clone();
            body["name"] = json!(id);
            answers.push(bench.admin("PUT", &flexera, body.clone()).await);
            answers.push(bench.admin("PATCH", &flexera, body.clone()).await);
            answers.push(bench.admin("PUT", &flexera.replace("cred/v2", "cloud"), body).await);
            answers.push(bench.admin("PATCH", &path, json!({"settings": settings, "description": "again"})).await);
        }
    }
    for kind in kinds::all().filter(|kind| !kinds::is_kept_only(kind)) {
        assert!(
            written.get(kind.name).is_some_and(|count| *count >= 1),
            "nothing of {} was written: {answers:?}",
            kind.name
        );
    }
    for (scheme, id) in &places {
        let native = format!("/v1/accounts/7/credentials/{id}");
        for below in ["", "/versions", "/usage"] {
            answers.push(bench.admin("GET", &format!("{native}{below}"), Value::Null).await);
        }
        answers.push(bench.admin("POST", &format!("{native}/test"), Value::Null).await);
        answers.push(bench.admin("POST", &format!("{native}/restore"), Value::Null).await);
        answers.push(bench.admin("GET", &format!("/cred/v2/projects/8/credentials/{scheme}/{id}"), Value::Null).await);
        answers.push(bench.admin("GET", &format!("/cloud/projects/8/credentials/{scheme}/{id}"), Value::Null).await);
    }
    for path in [
        "/v1/accounts/7/credentials?limit=1000&removed=true",
        "/v1/accounts/8/credentials?limit=1000",
        "/cred/v2/projects/7/credentials",
        "/cred/v2/projects/8/credentials?filter=scheme%20ne%20%27x%27",
        "/cloud/projects/8/credentials",
        "/v1/accounts",
        "/v1/status",
        "/v1/schemes",
        "/v1/audit",
        "/openapi.json",
    ] {
        let answer = bench.admin("GET", path, Value::Null).await;
        is(&answer, 200);
        answers.push(answer);
    }
    assert!(canaries > 100, "{canaries}");
    for answer in &answers {
        assert!(!answer.status.is_server_error(), "{answer:?}");
        assert!(!answer.all().contains("k4n4ry"), "{answer:?}");
    }
    assert!(!format!("{:?}", bench.heard.events.lock().unwrap()).contains("k4n4ry"));
}

#[tokio::test]
async fn flexeras_clients_find_what_they_know() {
    let bench = Bench::new().await;
    let path = "/cred/v2/orgs/1234/credentials/aws-sts/aws_default";
    let body = json!({"name": "AWS", "description": "d", "tags": [{"key": "provider", "value": "aws"}],
        "roleArn": "arn:aws:iam::123456789012:role/policies", "roleSessionName": "flexera-policies", "externalId": "1234",
        "accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"});
    let created = bench.admin("PUT", path, body.clone()).await;
    is(&created, 201);
    assert_eq!(created.text, "");
    assert_eq!(created.header("location"), path);
    assert_eq!(created.header("x-ref"), "ref:nam:1234::cred:aws-sts-credential:aws_default");
    let conflict = bench.admin("PUT", path, body.clone()).await;
    is(&conflict, 409);
    assert_eq!(conflict.header("content-type"), "application/vnd.goa.error");
    let error = conflict.json();
    for member in ["name", "id", "message", "temporary", "timeout", "fault"] {
        assert!(!error[member].is_null(), "{error}");
    }
    let shown = bench.admin("GET", path, Value::Null).await.json();
    for (key, value) in [
        ("id", json!("aws_default")),
        ("kind", json!("cred:aws-sts-credential")),
        ("ref", json!("ref:nam:1234::cred:aws-sts-credential:aws_default")),
        ("scheme", json!("aws-sts")),
        ("orgId", json!(1234)),
        ("tags", json!([{"key": "provider", "value": "aws"}])),
        ("roleArn", json!("arn:aws:iam::123456789012:role/policies")),
        ("externalId", json!("1234")),
        ("accessKey", json!("AKIAIOSFODNN7EXAMPLE")),
        ("maxMinutes", json!(60)),
        ("region", json!("inferred")),
        ("version", json!(4)),
        ("description", json!("d")),
    ] {
        assert_eq!(shown[key], value, "{shown}");
    }
    assert_eq!(shown["createdBy"]["kind"], "iam:service-account");
    assert!(shown.get("secretKey").is_none());

    is(&bench.admin("PATCH", path, json!({"external_id": {"data": "99", "type": "plain"}, "tags": []})).await, 204);
    let shown = bench.admin("GET", &path.replace("aws-sts", "aws_sts"), Value::Null).await.json();
    assert_eq!((&shown["externalId"], &shown["tags"]), (&json!("99"), &json!([])));
    assert_eq!(stored_secrets(&bench, "org-1234", "aws_default").await.len(), 1);
    let list = "/cred/v2/orgs/1234/credentials";
    let listed = bench.admin("GET", list, Value::Null).await;
    assert_eq!(listed.json()["count"], 1);
    assert_eq!(listed.json()["kind"], "cred:credentials-list");
    assert_eq!(listed.json()["notModified"], "false");
    assert!(listed.json()["values"][0].get("description").is_none());
    let tag = listed.header("e-tag").to_owned();
    let admin = bench.somebody(Role::Admin, None);
    let same = ask(&admin, "GET", list, &[("if-none-match", &tag)], Value::Null).await;
    is(&same, 304);
    assert_eq!(same.text, "");
    // Orgs and projects have separate lists.
    assert_eq!(bench.admin("GET", "/cred/v2/projects/1234/credentials", Value::Null).await.json()["count"], 0);
    is(&bench.admin("GET", &path.replace("aws-sts", "aws"), Value::Null).await, 404);
    is(&bench.admin("DELETE", &path.replace("aws-sts", "aws"), Value::Null).await, 404);
    is(&bench.admin("GET", &path.replace("aws-sts", "magic"), Value::Null).await, 404);
    is(&bench.admin("PUT", &path.replace("aws_default", "-bad"), body.clone()).await, 422);
    let mut nameless = body;
    nameless.as_object_mut().unwrap().remove("name");
    is(&bench.admin("PUT", &path.replace("aws_default", "n"), nameless).await, 400);
    is(&bench.admin("DELETE", path, Value::Null).await, 204);
    is(&bench.admin("DELETE", path, Value::Null).await, 404);
    let changed = ask(&admin, "GET", list, &[("if-none-match", &tag)], Value::Null).await;
    is(&changed, 200);
    assert_eq!(changed.json()["values"], json!([]));
}

#[tokio::test]
async fn oauth2_goes_in_nested_and_comes_back_nested_without_its_secrets() {
    let bench = Bench::new().await;
    let path = "/cred/v2/projects/5/credentials/oauth2/x";
    let body = json!({"name": "x", "grantType": "client_credentials", "tokenUrl": "https://idp.test/t",
        "clientCredentialsParams": {"clientId": "i", "clientSecret": "canary", "scopes": ["a", "b"],
            "additionalParams": {"resource": "canary"}, "additionalHeaders": {"X-A": ["canary"]}}});
    is(&bench.admin("PUT", path, body).await, 201);
    let shown = bench.admin("GET", path, Value::Null).await;
    assert!(!shown.all().contains("canary"));
    let params = &shown.json()["clientCredentialsParams"];
    assert_eq!((&params["clientId"], &params["scopes"]), (&json!("i"), &json!(["a", "b"])));
    assert_eq!(shown.json()["ref"], "ref:nam::project/5:cred:oauth2-credential:x");
    assert_eq!(shown.json()["projectId"], 5);
    is(&bench.admin("PATCH", path, json!({"clientCredentialsParams": {"scopes": ["c"]}})).await, 204);
    assert_eq!(stored_secrets(&bench, "5", "x").await["client_secret"], b"canary");
    let lead = bench.admin("PATCH", path, json!({"tokenUrl": "https://evil.test/t"})).await;
    is(&lead, 422);
    assert_eq!(lead.json()["name"], "unprocessable_entity");
    let refresh = json!({"name": "r", "grantType": "refresh_token", "tokenUrl": "https://idp.test/t", "refreshTokenParams": {"token": "t"}});
    is(&bench.admin("PUT", &path.replace("/x", "/r"), refresh).await, 201);
    let wrong = json!({"name": "w", "grantType": "client_credentials", "tokenUrl": "https://idp.test/t", "clientCredentialsParams": 7});
    is(&bench.admin("PUT", &path.replace("/x", "/w"), wrong).await, 422);
}

#[tokio::test]
async fn the_older_paths_speak_snake_case() {
    let bench = Bench::new().await;
    let admin = bench.somebody(Role::Admin, None);
    let version = [("api-version", "1.0")];
    let path = "/cloud/projects/9/credentials/api_key/spot";
    let body =
        json!({"name": "Spot", "key": {"data": "canary", "type": "plain"}, "tags": ["provider=spot"], "id": "spot"});
    let created = ask(&admin, "PUT", path, &version, body).await;
    is(&created, 201);
    assert_eq!(created.header("location"), path);
    let shown = ask(&admin, "GET", path, &version, Value::Null).await;
    assert_eq!(shown.json()["project_id"], 9);
    assert_eq!(shown.json()["scheme"], "api_key");
    assert!(!shown.all().contains("canary"));
    let listed = ask(&admin, "GET", "/cloud/projects/9/credentials?scheme=api_key", &version, Value::Null).await;
    assert_eq!(listed.json()["count"], 1);
    assert_eq!(listed.json()["items"][0]["created_by"]["kind"], "iam:service-account");
    let none =
        ask(&admin, "GET", "/cloud/projects/9/credentials?scheme=aws_sts&view=extended&limit=5000", &[], Value::Null)
            .await;
    assert_eq!(none.json(), json!({"items": [], "count": 0}));
    is(&ask(&admin, "GET", "/cloud/projects/9/credentials", &[("api-version", "2.0")], Value::Null).await, 400);
    is(&ask(&admin, "PATCH", path, &version, json!({"name": "Spot 2"})).await, 204);
    is(&ask(&admin, "DELETE", path, &version, Value::Null).await, 204);
}

#[tokio::test]
async fn a_long_list_comes_whole_or_in_pages_and_filtered() {
    let bench = Bench::new().await;
    let principal = super::Principal::local();
    let credentials = bench.api.credentials(&principal, "3").unwrap();
    for index in 0..1203 {
        let mut input = Input::new("api_key", json!({"key": "k"}));
        input.id = Some(format!("c{index:04}"));
        input.tags = BTreeMap::from([("n".into(), (index % 2).to_string())]);
        credentials.create(input).await.unwrap();
    }
    let whole = bench.admin("GET", "/cred/v2/projects/3/credentials", Value::Null).await.json();
    assert_eq!((&whole["count"], whole["values"].as_array().unwrap().len()), (&json!(1203), 1203));
    let page = bench.admin("GET", "/cred/v2/projects/3/credentials?limit=1000&after=c0100", Value::Null).await.json();
    assert_eq!(
        (&page["count"], &page["next"], &page["values"][0]["id"]),
        (&json!(1000), &json!("c1100"), &json!("c0101"))
    );
    let odd =
        bench.admin("GET", "/cred/v2/projects/3/credentials?filter=tags.n%20eq%20%271%27", Value::Null).await.json();
    assert_eq!(odd["count"], 601);
    let few =
        bench.admin("GET", "/v1/accounts/3/credentials?filter=id%20co%20%27c12%27&limit=2", Value::Null).await.json();
    assert_eq!((&few["credentials"][1]["id"], &few["next"]), (&json!("c1201"), &json!("c1201")));
    let rest = bench
        .admin("GET", "/v1/accounts/3/credentials?filter=id%20co%20%27c12%27&limit=2&after=c1201", Value::Null)
        .await
        .json();
    assert_eq!((rest["credentials"].as_array().unwrap().len(), rest.get("next")), (1, None));
    let exact = bench.admin("GET", "/v1/accounts/3/credentials?limit=1000&after=c0202", Value::Null).await.json();
    assert_eq!((exact["credentials"].as_array().unwrap().len(), exact.get("next")), (1000, None));
}
