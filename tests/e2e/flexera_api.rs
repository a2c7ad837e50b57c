//! Flexera's credential service as its clients know it, and its credentials at work in the proxy.

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, provider, raw, text};

/// A client that sends what Flexera's own send.
struct Client {
    client: reqwest::Client,
    base: String,
    token: String,
}

struct Said {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Said {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }
}

impl Client {
    fn of(proxy: &Proxy) -> Self {
        provider();
        let token = std::fs::read_to_string(proxy.folder.path().join("state/admin-token")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client, base: format!("http://{}", proxy.address("admin", 0)), token: token.trim().to_owned() }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Said {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Said { status, headers, text: answer.text().await.unwrap() }
    }
}

/// A proxy with an admin listener and a caller that proves itself, and an origin that shows what it was sent.
async fn start(more: &str) -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::http_with(|seen| text(200, seen.header("authorization").unwrap_or("nothing"))).await;
    let config = Config::new()
        .rest(&format!("admin: {{ address: 127.0.0.1:0{more} }}\n"))
        .rest("callers: [{ name: mine, token: { env: TOKEN } }]\n")
        .resolve("one.test:80", origin.address);
    (config.start(&root), origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_a_project_is_made_changed_used_and_removed() {
    let (proxy, _origin) = start("").await;
    let client = Client::of(&proxy);
    let path = "/cred/v2/projects/4711/credentials/api-key/spot";
    let body = json!({"name": "Spot", "key": "first", "type": "Token", "hosts": ["one.test"],
        "tags": [{"key": "provider", "value": "spot"}]});
    let created = client.call("PUT", path, &[], body.clone()).await;
    assert_eq!((created.status, created.text.as_str()), (201, ""));
    assert_eq!(created.header("location"), path);
    assert_eq!(created.header("x-ref"), "ref:nam::project/4711:cred:api-key-credential:spot");
    assert_eq!(client.call("PUT", path, &[], body).await.status, 409);
    let native = Manager::of(&proxy);
    let binding = json!({"credential": "spot", "allowCleartext": true});
    native.done("PUT", "/v1/accounts/4711/bindings/spot", Some(binding)).await;
    let caller = native.done("POST", "/v1/accounts/4711/callers", Some(json!({"name": "policy"}))).await;
    let token = caller["token"].as_str().unwrap().to_owned();
    let get = || {
        let head =
            format!("GET http://one.test/ HTTP/1.1\r\nHost: one.test\r\nProxy-Authorization: Bearer {token}\r\n\r\n");
        raw(&proxy.forward(), head.as_bytes())
    };
    assert!(get().text.ends_with("Token first"), "{}", get().text);
    // What is answered is obeyed.
    assert_eq!(client.call("PATCH", path, &[], json!({"key": {"data": "second", "type": "plain"}})).await.status, 204);
    assert!(get().text.ends_with("Token second"), "{}", get().text);
    let shown = client.call("GET", path, &[], Value::Null).await;
    assert!(!shown.text.contains("second") && shown.json()["type"] == "Token", "{}", shown.text);
    let list = "/cred/v2/projects/4711/credentials?filter=%28id%20co%20%27sp%27%20and%20scheme%20eq%20%27api-key%27%29";
    let listed = client.call("GET", list, &[], Value::Null).await;
    assert_eq!(
        (listed.json()["count"].clone(), listed.json()["kind"].clone()),
        (json!(1), json!("cred:credentials-list"))
    );
    let same = client.call("GET", list, &[("if-none-match", listed.header("e-tag"))], Value::Null).await;
    assert_eq!((same.status, same.text.as_str()), (304, ""));
    let wrong =
        client.call("GET", "/cred/v2/projects/4711/credentials?filter=id%20is%20%27x%27", &[], Value::Null).await;
    assert_eq!((wrong.status, wrong.header("content-type")), (400, "application/vnd.goa.error"));
    assert!(wrong.json()["message"].as_str().unwrap().contains("at character 4"), "{}", wrong.text);
    assert_eq!(client.call("DELETE", &path.replace("api-key", "basic"), &[], Value::Null).await.status, 404);
    assert_eq!(client.call("DELETE", path, &[], Value::Null).await.status, 204);
    assert_eq!(get().code(), "credential_unknown");
    let changed = client.call("GET", list, &[("if-none-match", listed.header("e-tag"))], Value::Null).await;
    assert_eq!((changed.status, changed.json()["count"].clone()), (200, json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_script_works_as_it_stands() {
    let (proxy, _origin) = start(", zone: eu").await;
    let client = Client::of(&proxy);
    let version = [("Api-Version", "1.0")];
    let path = "/cloud/projects/7/credentials/aws_sts/aws_default";
    let body = json!({"name": "aws_default", "scheme": "aws_sts", "id": "aws_default",
        "role_arn": "arn:aws:iam::123456789012:role/flexera", "role_session_name": "flexera-policies", "external_id": "4711",
        "access_key": {"data": "AKIAIOSFODNN7EXAMPLE", "type": "plain"},
        "secret_key": {"data": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "type": "plain"},
        "tags": [{"key": "provider", "value": "aws"}, {"key": "ui", "value": "aws_sts"}]});
    let created = client.call("PUT", path, &version, body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.header("x-ref"), "ref:eu::project/7:cred:aws-sts-credential:aws_default");
    let listed = client.call("GET", "/cloud/projects/7/credentials?scheme=aws_sts", &version, Value::Null).await;
    assert_eq!(
        (listed.json()["count"].clone(), listed.json()["items"][0]["scheme"].clone()),
        (json!(1), json!("aws_sts"))
    );
    let shown = client.call("GET", path, &version, Value::Null).await;
    assert_eq!(shown.json()["external_id"], "4711");
    assert!(!shown.text.contains("wJalr"), "{}", shown.text);
    // The same credential through the newer paths.
    let newer = client.call("GET", "/cred/v2/projects/7/credentials/aws-sts/aws_default", &[], Value::Null).await;
    assert_eq!(newer.json()["externalId"], "4711");
    assert_eq!(client.call("GET", path, &[("Api-Version", "9")], Value::Null).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let (proxy, _origin) = start(", rate_limit: { principal: 3 }").await;
    let client = Client::of(&proxy);
    let list = "/cred/v2/orgs/1/credentials";
    for remaining in ["2", "1", "0"] {
        let said = client.call("GET", list, &[], Value::Null).await;
        assert_eq!((said.status, said.header("x-ratelimit-remaining")), (200, remaining), "{}", said.text);
    }
    let limited = client.call("GET", list, &[], Value::Null).await;
    assert_eq!((limited.status, limited.json()["name"].clone()), (429, json!("too_many_requests")));
    let after: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&after), "{after}");
}
