//! Credentials that are created, changed, switched off, restored and removed while the proxy runs: the next request obeys.

use serde_json::json;

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, raw, text};

const ADMIN: &str = "admin: { address: 127.0.0.1:0 }\n";

/// A proxy with an admin listener, and an origin that shows the credential it was sent.
async fn start(more: &str) -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::http_with(|seen| text(200, seen.header("authorization").unwrap_or("nothing"))).await;
    let mut config = Config::new().rest(ADMIN).rest(more);
    for host in ["one.test:80", "two.test:80", "api.test:80"] {
        config = config.resolve(host, origin.address);
    }
    (config.start(&root), origin)
}

fn get(proxy: &Proxy, host: &str, more: &str) -> crate::support::Raw {
    raw(&proxy.forward(), format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_obeyed_by_the_next_request() {
    let (proxy, _origin) = start("").await;
    let api = Manager::of(&proxy);
    assert_eq!(get(&proxy, "one.test", "").code(), "unbound");
    api.key("one", "first", "one.test").await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer first"));
    let path = "/v1/accounts/default/credentials/one";
    api.done("PATCH", path, Some(json!({ "settings": { "key": "second" } }))).await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer second"));
    api.done("PATCH", path, Some(json!({ "enabled": false }))).await;
    assert_eq!(get(&proxy, "one.test", "").code(), "credential_unknown");
    api.done("PATCH", path, Some(json!({ "enabled": true }))).await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer second"));
    api.done("POST", &format!("{path}/restore"), Some(json!({ "version": 1 }))).await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer first"));
    api.done("DELETE", path, None).await;
    assert_eq!(get(&proxy, "one.test", "").code(), "credential_unknown", "its host stays bound");
    assert_eq!(api.call("GET", path, None).await.0, 404);
    api.done("POST", &format!("{path}/restore"), Some(json!({}))).await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_an_account_uses_that_accounts_credentials_and_no_others() {
    let (proxy, _origin) = start("callers: [{ name: mine, token: { env: TOKEN } }]\n").await;
    let api = Manager::of(&proxy);
    for (account, key) in [("4711", "of-4711"), ("4712", "of-4712")] {
        let credential = json!({ "id": "key", "name": "Key", "scheme": "api-key", "hosts": ["one.test"], "settings": { "key": key } });
        api.done("POST", &format!("/v1/accounts/{account}/credentials"), Some(credential)).await;
        let binding = json!({ "credential": "key", "allowCleartext": true });
        api.done("PUT", &format!("/v1/accounts/{account}/bindings/all"), Some(binding)).await;
    }
    let caller = api.done("POST", "/v1/accounts/4711/callers", Some(json!({ "name": "runner" }))).await;
    let token = caller["token"].as_str().unwrap().to_owned();
    let shown = |token: &str| format!("Proxy-Authorization: Bearer {token}\r\n");
    assert!(get(&proxy, "one.test", &shown(&token)).text.ends_with("Bearer of-4711"));
    assert_eq!(get(&proxy, "one.test", &shown("t0ken")).code(), "unbound", "the file's caller is of another account");
    assert_eq!(get(&proxy, "one.test", "").code(), "caller_unknown");
    let id = caller["id"].as_str().unwrap();
    api.done("DELETE", &format!("/v1/accounts/4711/callers/runner/tokens/{id}"), None).await;
    assert_eq!(get(&proxy, "one.test", &shown(&token)).code(), "caller_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_survives_a_kill_and_a_reload_of_the_file() {
    let (proxy, _origin) = start("").await;
    Manager::of(&proxy).key("one", "kept", "one.test").await;
    proxy.signal("HUP");
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer kept"));
    let variables = [("SECRET", crate::support::SECRET), ("TOKEN", "t0ken")];
    let proxy = proxy.killed_and_started_again(&crate::support::binary(), &variables);
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer kept"));
    let database = std::fs::read(proxy.folder.path().join("state/countersign.db")).unwrap();
    let wal = std::fs::read(proxy.folder.path().join("state/countersign.db-wal")).unwrap_or_default();
    for content in [database, wal] {
        assert!(!content.windows(4).any(|bytes| bytes == b"kept"), "it is encrypted at rest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_declares_is_shown_and_changed_there_only() {
    let (proxy, _origin) = start("").await;
    let api = Manager::of(&proxy);
    let listed = api.done("GET", "/v1/accounts/default/credentials", None).await;
    assert_eq!(listed["credentials"][0]["id"], "key", "{listed}");
    assert_eq!(listed["credentials"][0]["source"], "file");
    let path = "/v1/accounts/default/credentials/key";
    assert_eq!(api.call("DELETE", path, None).await.0, 409);
    assert_eq!(api.call("PATCH", path, Some(json!({ "enabled": false }))).await.0, 409);
    let other =
        json!({ "id": "key", "name": "Key", "scheme": "api_key", "hosts": ["one.test"], "settings": { "key": "x" } });
    assert_eq!(api.call("POST", "/v1/accounts/default/credentials", Some(other)).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bindings_between_which_nothing_decides_are_refused_when_they_are_written() {
    let (proxy, _origin) = start("").await;
    let api = Manager::of(&proxy);
    api.key("one", "1", "one.test").await;
    let two =
        json!({ "id": "two", "name": "Two", "scheme": "api_key", "hosts": ["one.test"], "settings": { "key": "2" } });
    api.done("POST", "/v1/accounts/default/credentials", Some(two)).await;
    let binding = |more: serde_json::Value| {
        let mut binding = json!({ "credential": "two", "hosts": ["one.test"], "allowCleartext": true });
        binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Some(binding)
    };
    let path = "/v1/accounts/default/bindings/two";
    let (status, answer) = api.call("PUT", path, binding(json!({}))).await;
    assert!(
        (400..500).contains(&status) && answer["detail"].as_str().unwrap().contains("onlyNamed")
            || answer["detail"].as_str().unwrap().contains("only_named"),
        "{status} {answer}"
    );
    api.done("PUT", path, binding(json!({ "onlyNamed": true }))).await;
    assert!(get(&proxy, "one.test", "").text.ends_with("Bearer 1"));
    assert!(get(&proxy, "one.test", "Countersign-Credential: two\r\n").text.ends_with("Bearer 2"));
    for wrong in
        [json!({ "hosts": ["evil.test"] }), json!({ "callers": ["nobody"] }), json!({ "methods": ["CONNECT"] })]
    {
        assert!((400..500).contains(&api.call("PUT", path, binding(wrong.clone())).await.0), "{wrong}");
    }
    assert_eq!(api.call("PUT", path, Some(json!({ "credential": "none" }))).await.0 / 100, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_assumes_the_role_and_asks_aws_who_that_is_and_tells_a_refusal_from_an_outage() {
    let hosts = ["sts.amazonaws.com", "sts.us-east-1.amazonaws.com"];
    let root = Root::new();
    let state = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(200));
    let status = std::sync::Arc::clone(&state);
    let sts = Origin::https_with(&root, &hosts, &["http/1.1"], move |seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let signed = seen.header("authorization").unwrap_or_default().to_owned();
        match status.load(std::sync::atomic::Ordering::SeqCst) {
            200 if body.contains("Action=AssumeRole") && signed.contains("Credential=AKIAIOSFODNN7EXAMPLE/") => text(
                200,
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIASESSION000001</AccessKeyId>\
                 <SecretAccessKey>session-canary</SecretAccessKey><SessionToken>token-canary</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
            ),
            200 if body.contains("Action=GetCallerIdentity") && signed.contains("Credential=ASIASESSION000001/") => text(
                200,
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/policies/x</Arn>\
                 <UserId>A:x</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
            ),
            503 => text(503, "away"),
            _ => text(
                403,
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized</Message></Error></ErrorResponse>",
            ),
        }
    })
    .await;
    let mut config = Config::new().rest(ADMIN);
    for host in hosts {
        config = config.resolve(&format!("{host}:443"), sts.address);
    }
    let proxy = config.start(&root);
    let api = Manager::of(&proxy);
    let role = json!({
        "id": "role", "name": "Role", "scheme": "aws-sts",
        "settings": {
            "roleArn": "arn:aws:iam::123456789012:role/policies", "roleSessionName": "countersign", "region": "us-east-1",
            "accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        },
    });
    api.done("POST", "/v1/accounts/default/credentials", Some(role)).await;
    let test = async || api.done("POST", "/v1/accounts/default/credentials/role/test", Some(json!({}))).await;
    let found = test().await;
    assert_eq!(found["result"], "accepted", "{found}");
    assert_eq!(found["facts"]["arn"], "arn:aws:sts::123456789012:assumed-role/policies/x", "{found}");
    assert!(!found.to_string().contains("canary"));
    for (answer, result) in [(403, "refused"), (503, "unreachable"), (200, "accepted")] {
        state.store(answer, std::sync::atomic::Ordering::SeqCst);
        // A test is not kept by the pause after the failure before.
        assert_eq!(test().await["result"], result, "{answer}");
    }
}
