//! The native API of a running proxy, as its first administrator.

use serde_json::{Value, json};

use super::{Proxy, provider};

/// The API of one process, with one token.
#[derive(Clone)]
pub struct Manager {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Manager {
    /// With the token that the first start made.
    pub fn of(proxy: &Proxy) -> Self {
        let token = std::fs::read_to_string(proxy.folder.path().join("state/admin-token")).unwrap();
        Self::with_token(proxy, token.trim())
    }

    /// With another one.
    pub fn with_token(proxy: &Proxy, token: &str) -> Self {
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client, base: format!("http://{}", proxy.address("admin", 0)), token: token.to_owned() }
    }

    /// One call: the status and the answer, which is null when there is none.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// One call that must succeed.
    pub async fn done(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A credential of scheme api_key with a binding of the same id, in the account `default`.
    pub async fn key(&self, id: &str, key: &str, host: &str) {
        let credential =
            json!({ "id": id, "name": id, "scheme": "api_key", "hosts": [host], "settings": { "key": key } });
        self.done("POST", "/v1/accounts/default/credentials", Some(credential)).await;
        let binding = json!({ "credential": id, "hosts": [host], "allowCleartext": true });
        self.done("PUT", &format!("/v1/accounts/default/bindings/{id}"), Some(binding)).await;
    }
}
