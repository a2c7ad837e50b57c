//! A client of Tower's against the real program: every provider, in both generations of its payload, and the proxy that
//! then signs with what was created.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::aws::Scene;
use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Raw, Root, kit, measured, raw, text};

const ADMIN: &str = "admin: { address: 127.0.0.1:0 }\n";

/// Hosts of providers that lead to the origin here, over cleartext, as a binding of the test allows.
const HOSTS: [&str; 13] = [
    "github.com",
    "api.github.com",
    "gitlab.com",
    "bitbucket.org",
    "gitea.test",
    "dev.azure.com",
    "registry.test",
    "auth.docker.io",
    "k8s.test",
    "git-codecommit.eu-west-1.amazonaws.com",
    "storage.googleapis.com",
    "management.azure.com",
    "store1.blob.core.windows.net",
];

/// The headers that credentials go into, as they were sent.
fn shown(seen: &crate::support::Seen) -> String {
    let header = |name: &str| seen.header(name).unwrap_or("-").to_owned();
    format!("[{}|{}]", header("authorization"), header("private-token"))
}

async fn start(root: &Root, s3s: Option<u16>) -> (Proxy, Origin, Origin) {
    let origin = Origin::http_with(|seen| text(200, &shown(seen))).await;
    let names = ["oauth2.googleapis.com", "login.microsoftonline.com"];
    let token = r#"{"access_token":"minted","token_type":"Bearer","expires_in":3600}"#;
    let identity = Origin::https_with(root, &names, &[], move |_| {
        let mut answer = text(200, token);
        answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
        answer
    })
    .await;
    let mut config = Config::new().rest(ADMIN);
    for host in HOSTS {
        config = config.resolve(&format!("{host}:80"), origin.address);
    }
    for name in names {
        config = config.resolve(&format!("{name}:443"), identity.address);
    }
    for host in ["s3.us-east-1.amazonaws.com", "minio.test"] {
        if let Some(port) = s3s {
            config = config.resolve(&format!("{host}:80"), ([127, 0, 0, 1], port).into());
        }
    }
    (config.start(root), origin, identity)
}

/// Runs the client; panics with its message when something went against the documents.
fn client(kit: &std::path::Path, proxy: &Proxy, request: &Value) -> Value {
    let token = std::fs::read_to_string(proxy.folder.path().join("state/admin-token")).unwrap();
    let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tower/client.py");
    let mut child = Command::new(kit.join("venv/bin/python"))
        .arg(program)
        .arg(format!("http://{}/api", proxy.address("admin", 0)))
        .env("TOWER_ACCESS_TOKEN", token.trim())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn get(proxy: &Proxy, host: &str, path: &str, more: &str) -> Raw {
    raw(&proxy.forward(), format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes())
}

async fn bind(api: &Manager, id: &str, host: &str) {
    let binding = json!({ "credential": id, "hosts": [host], "allowCleartext": true, "onlyNamed": true });
    let path = format!("/v1/accounts/default/bindings/{id}");
    api.done("PUT", &path, Some(binding)).await;
}

fn basic(pair: &str) -> String {
    format!("[Basic {}|-]", STANDARD.encode(pair))
}

/// Every provider whose credentials go into a header: its payload, a host, and what the origin is to see.
fn providers() -> Vec<(Value, &'static str, String)> {
    let file = |path: &str| std::fs::read_to_string(format!("{}/tests/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let account: Value = serde_json::from_str(&file("vectors/keys/google-service-account.json")).unwrap();
    let entra = |more: Value| {
        let mut keys =
            json!({"tenantId": "contoso.onmicrosoft.com", "clientId": "app", "clientSecret": "canary-entra"});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys
    };
    let app = json!({"discriminator": "github_app", "appId": "1", "privateKey": file("vectors/keys/rsa-pkcs1.pem")});
    let both = format!("[Basic {}|canary-gitlab]", STANDARD.encode("me:canary-gitlab"));
    let minted = || "[Bearer minted|-]".to_owned();
    vec![
        (
            json!({"name": "github_2020", "provider": "github", "username": "me", "password": "canary-github"}),
            "github.com",
            basic("me:canary-github"),
        ),
        (
            json!({"name": "github_now", "provider": "github", "keys": {"discriminator": "github", "username": "me", "password": "canary-github"}}),
            "api.github.com",
            basic("me:canary-github"),
        ),
        (
            json!({"name": "github_token", "provider": "github", "keys": {"token": "canary-token"}}),
            "api.github.com",
            "[Bearer canary-token|-]".into(),
        ),
        (json!({"name": "github_app", "provider": "github_app", "keys": app}), "api.github.com", "[Bearer eyJ".into()),
        (
            json!({"name": "gitlab_2020", "provider": "gitlab", "username": "me", "access_token": "canary-gitlab"}),
            "gitlab.com",
            both.clone(),
        ),
        (
            json!({"name": "gitlab_now", "provider": "gitlab", "keys": {"discriminator": "gitlab", "username": "me", "token": "canary-gitlab"}}),
            "gitlab.com",
            both,
        ),
        (
            json!({"name": "bitbucket_2020", "provider": "bitbucket", "username": "me", "password": "canary-bb"}),
            "bitbucket.org",
            basic("me:canary-bb"),
        ),
        (
            json!({"name": "bitbucket_now", "provider": "bitbucket", "keys": {"discriminator": "bitbucket", "username": "me", "password": "canary-bb"}}),
            "bitbucket.org",
            basic("me:canary-bb"),
        ),
        (
            json!({"name": "gitea", "provider": "gitea", "baseUrl": "http://gitea.test", "keys": {"username": "me", "password": "canary-gitea"}}),
            "gitea.test",
            basic("me:canary-gitea"),
        ),
        (
            json!({"name": "repos", "provider": "azurerepos", "keys": {"username": "me", "token": "canary-repos"}}),
            "dev.azure.com",
            basic("me:canary-repos"),
        ),
        (
            json!({"name": "codecommit_git", "provider": "codecommit", "baseUrl": "https://git-codecommit.eu-west-1.amazonaws.com",
                "keys": {"username": "me-at-1", "password": "canary-cc"}}),
            "git-codecommit.eu-west-1.amazonaws.com",
            basic("me-at-1:canary-cc"),
        ),
        (
            json!({"name": "registry", "provider": "container-reg", "keys": {"userName": "me", "password": "canary-reg", "registry": "registry.test"}}),
            "registry.test",
            basic("me:canary-reg"),
        ),
        (
            json!({"name": "docker_hub", "provider": "container-reg", "keys": {"userName": "me", "password": "canary-hub", "registry": "docker.io"}}),
            "auth.docker.io",
            basic("me:canary-hub"),
        ),
        (
            json!({"name": "k8s", "provider": "k8s", "baseUrl": "http://k8s.test", "keys": {"token": "canary-k8s"}}),
            "k8s.test",
            "[Bearer canary-k8s|-]".into(),
        ),
        (
            json!({"name": "google_2020", "provider": "google", "data": account.clone()}),
            "storage.googleapis.com",
            minted(),
        ),
        (
            json!({"name": "google_now", "provider": "google", "keys": {"discriminator": "google", "data": account.to_string()}}),
            "storage.googleapis.com",
            minted(),
        ),
        (
            json!({"name": "entra", "provider": "azure_entra", "keys": entra(json!({"storageName": "store1"}))}),
            "store1.blob.core.windows.net",
            minted(),
        ),
        (
            json!({"name": "azure_cloud", "provider": "azure-cloud", "keys": entra(json!({"subscriptionId": "s"}))}),
            "management.azure.com",
            minted(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_in_both_generations_is_created_by_towers_client_and_used_by_the_proxy() {
    let Some(kit) = kit("tower_api") else { return };
    let root = Root::new();
    let (proxy, _origin, _identity) = start(&root, None).await;
    let api = Manager::of(&proxy);
    let providers = providers();
    let payloads: Vec<&Value> = providers.iter().map(|(payload, ..)| payload).collect();
    let secrets = ["canary", "PRIVATE KEY-----", "minted"];
    let done = client(&kit, &proxy, &json!({ "credentials": payloads, "secrets": secrets }));
    for (payload, host, expected) in &providers {
        let name = payload["name"].as_str().unwrap();
        let id = done["ids"][name].as_str().unwrap();
        bind(&api, id, host).await;
        let answer =
            get(&proxy, host, "/", &format!("Countersign-Credential: {id}\r\nAuthorization: the caller's own\r\n"));
        assert!(answer.text.contains(expected.as_str()), "{name} at {host}: {}", answer.text);
        let elsewhere = get(&proxy, "minio.test", "/", &format!("Countersign-Credential: {id}\r\n"));
        assert_ne!(elsewhere.status(), 200, "{name}");
        let described = api.done("GET", &format!("/api/credentials/{id}"), None).await;
        assert!(described["credentials"]["lastUsed"].is_string(), "{name}: {described}");
        let (status, conflict) = api.call("DELETE", &format!("/api/credentials/{id}?checked=true"), None).await;
        assert!(status == 409 && conflict["conflicts"][0]["type"] == "binding", "{name}: {conflict}");
    }
    let log = proxy.log();
    assert!(!log.contains("canary") && !log.contains("PRIVATE KEY"), "a secret is in the log");
    let (count, calls) = (providers.len(), &done["calls"]);
    measured(&format!("Tower: {count} payloads created and used, {calls} calls of a client after its documents"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_aws_and_of_another_s3_sign_what_a_server_verifies() {
    let Some(kit) = kit("tower_api") else { return };
    let scene = Scene::new();
    let s3s = scene.s3s(&kit);
    let plain = u16::try_from(s3s.facts["plain"].as_u64().unwrap()).unwrap();
    let (proxy, ..) = start(&Root::new(), Some(plain)).await;
    let api = Manager::of(&proxy);
    let (access, secret) = (s3s.fact("access_key"), s3s.fact("secret_key"));
    let keys = json!({"accessKey": access, "secretKey": secret});
    let payloads = json!([
        {"name": "aws_2020", "provider": "aws", "keys": keys},
        {"name": "aws_now", "provider": "aws", "keys": {"discriminator": "aws", "accessKey": access, "secretKey": secret, "mode": "keys"}},
        {"name": "seqera", "provider": "seqeracompute", "keys": keys},
        {"name": "other_s3", "provider": "s3", "baseUrl": "http://minio.test", "keys": {"accessKey": access, "secretKey": secret, "pathStyleAccessEnabled": true}},
    ]);
    let done = client(&kit, &proxy, &json!({ "credentials": payloads, "secrets": [secret] }));
    let ids: HashMap<String, String> = serde_json::from_value(done["ids"].clone()).unwrap();
    let put = |id: &str, host: &str, bucket: &str| {
        let request = format!(
            "PUT http://{host}/{bucket} HTTP/1.1\r\nHost: {host}\r\nCountersign-Credential: {id}\r\nContent-Length: 0\r\n\r\n"
        );
        raw(&proxy.forward(), request.as_bytes()).status()
    };
    for (name, host) in [
        ("aws_2020", "s3.us-east-1.amazonaws.com"),
        ("aws_now", "s3.us-east-1.amazonaws.com"),
        ("seqera", "s3.us-east-1.amazonaws.com"),
        ("other_s3", "minio.test"),
    ] {
        let id = &ids[name];
        bind(&api, id, host).await;
        let bucket = name.replace('_', "-");
        assert_eq!(put(id, host, &bucket), 200, "{name}");
        // The near miss: the same with another secret, which the very next request signs with.
        let wrong = json!({"credentials": {"keys": {"secretKey": "another-secret-that-is-not-the-users-own"}}});
        api.done("PUT", &format!("/api/credentials/{id}"), Some(wrong)).await;
        assert_eq!(put(id, host, &format!("{bucket}-2")), 403, "{name}");
        let right = json!({"credentials": {"keys": {"secretKey": secret}}});
        api.done("PUT", &format!("/api/credentials/{id}"), Some(right)).await;
        assert_eq!(put(id, host, &format!("{bucket}-3")), 200, "{name}");
        api.done("DELETE", &format!("/api/credentials/{id}"), None).await;
        assert_eq!(put(id, host, &format!("{bucket}-4")), 403, "{name} was deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_and_its_ssh_keys_are_seen_by_who_has_a_right_there() {
    let Some(kit) = kit("tower_api") else { return };
    let (proxy, ..) = start(&Root::new(), None).await;
    let api = Manager::of(&proxy);
    let file = |name: &str| {
        std::fs::read_to_string(format!("{}/tests/tower/keys/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let payloads = json!([
        {"name": "ssh_2020", "provider": "ssh", "privateKey": file("ed25519-encrypted"), "passphrase": "hunter2"},
        {"name": "ssh_now", "provider": "ssh", "keys": {"discriminator": "ssh", "privateKey": file("rsa-2048")}},
    ]);
    let done = client(
        &kit,
        &proxy,
        &json!({ "workspaceId": 4711, "credentials": payloads, "secrets": ["hunter2", "PRIVATE KEY-----"] }),
    );
    let shown = api
        .done("GET", &format!("/api/credentials/{}?workspaceId=4711", done["ids"]["ssh_2020"].as_str().unwrap()), None)
        .await;
    assert_eq!(shown["credentials"]["keys"]["fingerprint"], "SHA256:ApuvP8tm7fQo5k6zP27IOPCxuwaUf7pF87txTyHN2C8");
    let viewer = json!({ "name": "viewer", "role": "viewer", "account": "4711" });
    let viewer = api.done("POST", "/v1/tokens", Some(viewer)).await;
    let viewer = Manager::with_token(&proxy, viewer["token"].as_str().unwrap());
    let listed = viewer.done("GET", "/api/credentials?workspaceId=4711", None).await;
    assert_eq!(listed["credentials"].as_array().unwrap().len(), 2);
    assert_eq!(viewer.call("GET", "/api/credentials", None).await, (403, Value::Null));
    assert_eq!(viewer.call("DELETE", "/api/credentials/ssh_now?workspaceId=4711", None).await, (403, Value::Null));
    let nobody = Manager::with_token(&proxy, "nobody-knows-this-token");
    let (status, answer) = nobody.call("GET", "/api/credentials?workspaceId=4711", None).await;
    assert!(status == 401 && answer["message"].is_string(), "{answer}");
}
