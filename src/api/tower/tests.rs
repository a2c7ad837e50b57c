//! Tower's surface over a real store, and a process that can be told what to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::map::tests::payloads;
use crate::api::{Api, Condition, Declared, Engine, Input, Principal, TestReport, Tested, TokenLife, WriteError};
use crate::base::{BoxFuture, Deps, Secret};
use crate::route::Uses;
use crate::scheme::{Draft, Introduction, Kind};
use crate::store::{BindingRecord, Keys, Place, Role, Store};

/// A process that says what it is told to.
#[derive(Debug, Default)]
struct Process {
    found: Mutex<Option<TestReport>>,
    uses: Mutex<BTreeMap<String, Uses>>,
    introduction: Mutex<Option<Introduction>>,
}

impl Engine for Process {
    fn applied(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn check_credential<'a>(
        &'a self,
        _: &'a str,
        _: &'static Kind,
        draft: &'a dyn Draft,
        hosts: &'a [String],
        _: &'a BTreeMap<String, Secret>,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let checked = draft.check_hosts(hosts);
        Box::pin(async move { checked.map_err(|error| WriteError { path: error.path, message: error.message }) })
    }

    fn check_binding<'a>(&'a self, _: &'a BindingRecord) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async { Ok(()) })
    }

    fn store_is_open(&self, store: &str, _: &str) -> bool {
        store == "vault"
    }

    fn declared(&self, account: &str) -> Vec<Declared> {
        let declared = Declared {
            id: "of_the_file".into(),
            scheme: "aws",
            hosts: vec!["*.amazonaws.com".into()],
            tags: [("provider".to_owned(), "aws".to_owned())].into(),
            description: None,
            enabled: true,
            audience: None,
            accounts: Vec::new(),
        };
        if account == "default" { vec![declared] } else { Vec::new() }
    }

    fn declared_callers(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn introduce<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<Introduction>> {
        Box::pin(async { self.introduction.lock().unwrap().clone() })
    }

    fn test<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<TestReport>> {
        Box::pin(async { self.found.lock().unwrap().clone() })
    }

    fn tokens(&self, _: &str, _: &str) -> Vec<TokenLife> {
        Vec::new()
    }

    fn uses(&self, _: &str, id: &str) -> Option<Uses> {
        self.uses.lock().unwrap().get(id).cloned()
    }

    fn status(&self) -> Value {
        json!({})
    }
}

struct Surface {
    _folder: tempfile::TempDir,
    api: Api,
    process: Arc<Process>,
    router: axum::Router,
    document: Value,
    /// Everything that was ever answered, headers included.
    told: Mutex<String>,
    principal: Principal,
}

struct Answer {
    status: StatusCode,
    body: Value,
    headers: HeaderMap,
}

impl Surface {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("countersign.db").display());
        let place = Place { url, password: None, poll: std::time::Duration::from_millis(20) };
        let deps = Deps::system();
        let store = Store::open(&place, Keys::File(folder.path().join("store.key")), &deps).await.unwrap().0;
        let process = Arc::new(Process::default());
        let api = Api::new(store, Arc::clone(&process) as Arc<dyn Engine>, deps);
        let principal = Principal::local();
        let router = api.router_as(principal.clone());
        Self { _folder: folder, api, process, router, document: Api::openapi(), told: Mutex::default(), principal }
    }

    /// One request; its answer must be one that is documented.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.call_as(&self.principal, method, path, body).await
    }

    async fn call_as(&self, principal: &Principal, method: Method, path: &str, body: Option<Value>) -> Answer {
        let text = body.map_or_else(String::new, |body| body.to_string());
        self.raw(principal, method, path, text).await
    }

    async fn raw(&self, principal: &Principal, method: Method, path: &str, body: String) -> Answer {
        let router =
            if *principal == self.principal { self.router.clone() } else { self.api.router_as(principal.clone()) };
        let request = Request::builder().method(method.clone()).uri(path).body(Body::from(body)).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.told.lock().unwrap().push_str(&format!("{:?} {text}\n", parts.headers));
        let plain = path.split('?').next().unwrap_or_default();
        let template = match plain.strip_prefix("/api/credentials").unwrap() {
            "" => "/api/credentials",
            "/validate" => "/api/credentials/validate",
            rest if rest.ends_with("/validate") => "/api/credentials/{credentialsId}/validate",
            rest if rest.ends_with("/keys") => "/api/credentials/{credentialsId}/keys",
            _ => "/api/credentials/{credentialsId}",
        };
        let responses = &self.document["paths"][template][method.as_str().to_lowercase()]["responses"];
        let documented = &responses[parts.status.as_str()];
        assert!(!documented.is_null(), "{method} {path}: {} is not documented: {text}", parts.status);
        assert_eq!(documented.get("content").is_some(), !text.is_empty(), "{method} {path}: {} {text}", parts.status);
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Answer { status: parts.status, body, headers: parts.headers }
    }

    async fn create(&self, name: &str, mut body: Value) -> String {
        body["name"] = json!(name);
        let answer = self.call(Method::POST, "/api/credentials", Some(json!({ "credentials": body }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.body);
        answer.body["credentialsId"].as_str().unwrap().to_owned()
    }

    async fn describe(&self, id: &str) -> Value {
        let answer = self.call(Method::GET, &format!("/api/credentials/{id}"), None).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.body["credentials"].clone()
    }

    async fn put(&self, id: &str, body: Value) -> Answer {
        self.call(Method::PUT, &format!("/api/credentials/{id}"), Some(json!({ "credentials": body }))).await
    }

    async fn secret(&self, id: &str, path: &str) -> String {
        let record = self.api.store.credential("default", id).await.unwrap().unwrap();
        let secrets = self.api.store.secrets(&record).await.unwrap();
        secrets[path].expose_str().unwrap().to_owned()
    }
}

fn github() -> Value {
    json!({"provider": "github", "keys": {"discriminator": "github", "username": "u", "password": "canary-first"}})
}

fn said(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn every_providers_payload_is_created_listed_described_changed_and_deleted_and_no_answer_holds_a_secret() {
    let surface = Surface::new().await;
    let report = TestReport { tested: Tested::Refused, detail: "it said no".into(), facts: Vec::new() };
    *surface.process.found.lock().unwrap() = Some(report);
    let mut ids = Vec::new();
    for (number, (_, body)) in payloads().into_iter().enumerate() {
        let id = surface.create(&format!("creds_{number}"), body.clone()).await;
        let described = surface.describe(&id).await;
        let provider = body["provider"].as_str().unwrap();
        assert_eq!((&described["provider"], &described["keys"]["discriminator"]), (&json!(provider), &json!(provider)));
        assert_eq!((&described["deleted"], &described["status"]), (&json!(false), &json!("AVAILABLE")));
        // What a client reads it may send back.
        let answer = surface.put(&id, described).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{provider}: {}", answer.body);
        let mut wrong = body.clone();
        wrong["keys"] = json!(["canary-in-a-wrong-place"]);
        assert_eq!(surface.put(&id, wrong).await.status, StatusCode::BAD_REQUEST);
        for path in [format!("/api/credentials/{id}/keys?pairingId=wave"), format!("/api/credentials/{id}/keys")] {
            assert_eq!(surface.call(Method::GET, &path, None).await.status, StatusCode::FORBIDDEN);
        }
        let answer = surface.call(Method::POST, &format!("/api/credentials/{id}/validate"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{provider}: {}", answer.body);
        ids.push(id);
    }
    let listed = surface.call(Method::GET, "/api/credentials", None).await;
    let listed: BTreeSet<&str> =
        listed.body["credentials"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| listed.contains(id.as_str())) && listed.contains("of_the_file"));
    for id in &ids {
        assert!(id.len() <= 22, "{id}");
        let path = format!("/api/credentials/{id}");
        assert_eq!(surface.call(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
        let gone = surface.call(Method::GET, &path, None).await;
        assert_eq!(gone.status, StatusCode::FORBIDDEN);
    }
    let told = surface.told.lock().unwrap();
    assert!(!told.contains("canary") && !told.contains("PRIVATE KEY-----\\n"), "{told}");
}

#[tokio::test]
async fn what_is_not_there_and_what_may_not_be_done_are_one_answer_without_a_body() {
    let surface = Surface::new().await;
    surface.create("mine", github()).await;
    let viewer = Principal::new("token:v", Role::Viewer, Some("default".into()));
    for (method, path, body) in [
        (Method::GET, "/api/credentials/nothing", None),
        (Method::GET, "/api/credentials/mine?workspaceId=7", None),
        (Method::PUT, "/api/credentials/nothing", Some(json!({"credentials": {"name": "nothing"}}))),
        (Method::DELETE, "/api/credentials/nothing", None),
        (Method::DELETE, "/api/credentials/nothing?checked=true", None),
    ] {
        assert_eq!(surface.call(method.clone(), path, body).await.status, StatusCode::FORBIDDEN, "{method} {path}");
    }
    for (method, path, body) in [
        (Method::GET, "/api/credentials?workspaceId=7", None),
        (Method::GET, "/api/credentials/validate?name=ab&workspaceId=7", None),
        (Method::POST, "/api/credentials", Some(json!({"credentials": github()}))),
        (Method::PUT, "/api/credentials/mine", Some(json!({"credentials": {"description": "x"}}))),
        (Method::DELETE, "/api/credentials/mine", None),
        (Method::POST, "/api/credentials/mine/validate", None),
        (Method::POST, "/api/credentials/mine/validate?force=true", None),
    ] {
        let mut body = body;
        if let Some(body) = body.as_mut().filter(|_| method == Method::POST) {
            body["credentials"]["name"] = json!("other");
        }
        let answer = surface.call_as(&viewer, method.clone(), path, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
    }
    assert_eq!(surface.call_as(&viewer, Method::GET, "/api/credentials/mine", None).await.status, StatusCode::OK);
    let answer = surface.call(Method::POST, "/api/credentials/nothing/validate", None).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_read_is_400_with_the_key_and_without_its_value() {
    let surface = Surface::new().await;
    surface.create("mine", github()).await;
    for (body, says) in [
        ("", "credentials"),
        ("{\"canary\":", "no JSON document"),
        ("[]", "an object"),
        ("{}", "credentials"),
        (r#"{"credentials":"canary"}"#, "credentials"),
        (r#"{"credentials":{"provider":"github"}}"#, "name"),
        (r#"{"credentials":{"name":"x","provider":"github"}}"#, "2 to 100"),
        (r#"{"credentials":{"name":"my creds","provider":"github"}}"#, "2 to 100"),
        (r#"{"credentials":{"name":"ab"}}"#, "one of aws"),
        (r#"{"credentials":{"name":"ab","provider":"canary"}}"#, "one of aws"),
        (r#"{"credentials":{"name":"ab","provider":7}}"#, "provider: text"),
        (
            r#"{"credentials":{"name":"ab","provider":"github","keys":{"discriminator":"aws"}}}"#,
            "of github and the keys of aws",
        ),
        (r#"{"credentials":{"name":"ab","provider":"github","keys":{}}}"#, "keys.password"),
        (r#"{"credentials":{"name":"ab","provider":"github","baseUrl":"https://u:canary@a.test"}}"#, "baseUrl"),
        (
            r#"{"credentials":{"name":"ab","provider":"aws","keys":{"accessKey":"a:b","secretKey":"canary"}}}"#,
            "keys.accessKey",
        ),
        (
            r#"{"credentials":{"name":"ab","provider":"github","keys":{"username":"u","password":{"env":"NAME"}}}}"#,
            "operator",
        ),
        (
            r#"{"credentials":{"name":"ab","provider":"github","keys":{"username":"u","password":{"sealed":"password"}}}}"#,
            "keys.password",
        ),
        (
            r#"{"credentials":{"name":"ab","provider":"github","keys":{"username":"u","password":{"store":"canary-s","name":"n"}}}}"#,
            "not open",
        ),
        (r#"{"credentials":{"name":"ab","provider":"tw-agent","keys":{"connectionId":"c"}}}"#, "agent"),
        (r#"{"credentials":{"name":"ab","provider":"github","category":"0123456789012345678901"}}"#, "20"),
        (r#"{"credentials":{"name":"mine","provider":"github","keys":{"username":"u","password":"p"}}}"#, "already"),
        (
            r#"{"credentials":{"name":"of_the_file","provider":"github","keys":{"username":"u","password":"p"}}}"#,
            "already",
        ),
    ] {
        let answer = surface.raw(&surface.principal, Method::POST, "/api/credentials", body.to_owned()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        let message = said(&answer);
        assert!(message.contains(says), "{body}: {message}");
        assert!(!message.contains("canary") || message.contains("canary-s"), "{body}: {message}");
    }
    for path in [
        "/api/credentials?workspaceId=x",
        "/api/credentials?workspaceId=0",
        "/api/credentials?workspaceId=-1",
        "/api/credentials/validate",
        "/api/credentials/validate?name=a%20b",
    ] {
        assert_eq!(surface.call(Method::GET, path, None).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let answer = surface.call(Method::DELETE, "/api/credentials/mine?checked=perhaps", None).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = surface.call(Method::DELETE, "/api/credentials/of_the_file", None).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && said(&answer).contains("configuration file"));
}

#[tokio::test]
async fn a_workspace_is_an_account_of_its_own() {
    let surface = Surface::new().await;
    let body =
        json!({"credentials": {"name": "both", "provider": "github", "keys": {"username": "u", "password": "p"}}});
    for path in ["/api/credentials", "/api/credentials?workspaceId=42", "/api/credentials?workspaceId=043"] {
        let answer = surface.call(Method::POST, path, Some(body.clone())).await;
        assert_eq!((answer.status, &answer.body["credentialsId"]), (StatusCode::OK, &json!("both")), "{path}");
    }
    for account in ["default", "42", "43"] {
        assert!(surface.api.store.credential(account, "both").await.unwrap().is_some(), "{account}");
    }
    let listed = surface.call(Method::GET, "/api/credentials?workspaceId=44", None).await;
    assert_eq!(listed.body, json!({"credentials": []}));
}

#[tokio::test]
async fn a_name_is_free_or_taken_and_its_id_is_made_of_it() {
    let surface = Surface::new().await;
    let free = async |name: &str| {
        surface.call(Method::GET, &format!("/api/credentials/validate?name={name}"), None).await.status
    };
    assert_eq!(free("validate").await, StatusCode::NO_CONTENT);
    let id = surface.create("validate", github()).await;
    assert!(id != "validate" && id.starts_with("validate-"), "{id}");
    assert_eq!(free("validate").await, StatusCode::CONFLICT);
    assert_eq!(surface.create("my_creds", github()).await, "my_creds");
    // The id stays when the name does not, and its name can be used anew.
    assert_eq!(surface.put("my_creds", json!({"name": "renamed"})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(surface.describe("my_creds").await["name"], json!("renamed"));
    let second = surface.create("my_creds", github()).await;
    assert!(second.starts_with("my_creds-") && second.len() <= 22, "{second}");
    let taken = surface.put(&second, json!({"name": "renamed"})).await;
    assert!(taken.status == StatusCode::BAD_REQUEST && said(&taken).contains("already"));
    for _ in 0..12 {
        let id = surface.create("again", github()).await;
        let deleted = surface.call(Method::DELETE, &format!("/api/credentials/{id}"), None).await;
        assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn what_a_change_leaves_out_stays_and_a_secret_is_led_nowhere() {
    let surface = Surface::new().await;
    let id = surface.create("repo", github()).await;
    let change = async |body: Value| surface.put(&id, body).await;
    assert_eq!(change(json!({"description": "for tests", "category": "git"})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(change(json!({"keys": {"username": "other"}})).await.status, StatusCode::NO_CONTENT);
    let described = surface.describe(&id).await;
    assert_eq!(described["keys"], json!({"discriminator": "github", "username": "other"}));
    assert_eq!((&described["description"], &described["category"]), (&json!("for tests"), &json!("git")));
    assert_eq!(surface.secret(&id, "password").await, "canary-first");
    assert_eq!(change(json!({"keys": {"password": ""}, "baseUrl": null})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(surface.secret(&id, "password").await, "canary-first");
    assert_eq!(change(json!({"keys": {"token": "second"}})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(surface.secret(&id, "password").await, "second");

    let elsewhere = change(json!({"baseUrl": "https://git.example.com"})).await;
    assert_eq!(elsewhere.status, StatusCode::BAD_REQUEST);
    assert!(said(&elsewhere).contains("baseUrl") && said(&elsewhere).contains("`password`"), "{}", said(&elsewhere));
    let anew = json!({"baseUrl": "https://git.example.com", "keys": {"password": "third"}});
    assert_eq!(change(anew).await.status, StatusCode::NO_CONTENT);
    let record = surface.api.store.credential("default", &id).await.unwrap().unwrap();
    assert_eq!(record.hosts, ["git.example.com"]);
    assert_eq!(record.tags["provider"], "github");

    for (body, says) in [
        (json!({"provider": "gitlab", "keys": {"token": "t"}}), "never changes"),
        (json!({"id": "another"}), "never changes"),
        (json!({"name": "not a name"}), "2 to 100"),
    ] {
        let answer = change(body).await;
        assert!(answer.status == StatusCode::BAD_REQUEST && said(&answer).contains(says), "{}", said(&answer));
    }
}

#[tokio::test]
async fn hosts_that_were_narrowed_elsewhere_survive_a_new_secret() {
    let surface = Surface::new().await;
    let id = surface.create("repo", github()).await;
    let service = surface.api.credentials(&surface.principal, "default").unwrap();
    let patch = crate::api::Patch { hosts: Some(vec!["api.github.com".into()]), ..crate::api::Patch::default() };
    service.patch(&id, &patch, Condition::None).await.unwrap();
    assert_eq!(surface.put(&id, json!({"keys": {"password": "second"}})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(service.get(&id).await.unwrap().hosts, ["api.github.com"]);
}

#[tokio::test]
async fn a_role_of_aws_gets_an_external_id_and_its_policy_is_shown() {
    let surface = Surface::new().await;
    let introduction = Introduction {
        documents: vec![("trust policy".into(), json!({"Statement": [{"Action": "sts:AssumeRole"}]}))],
        ..Introduction::default()
    };
    *surface.process.introduction.lock().unwrap() = Some(introduction);
    let keys = json!({"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "canary", "assumeRoleArn": "arn:aws:iam::123456789012:role/tower"});
    let body = json!({"credentials": {"name": "role", "provider": "aws", "keys": keys}});
    let created = surface.call(Method::POST, "/api/credentials?useExternalId=true", Some(body)).await;
    assert_eq!(created.status, StatusCode::OK);
    let described = surface.describe("role").await;
    let made = described["keys"]["externalId"].as_str().unwrap().to_owned();
    assert!(made.starts_with("countersign-") && made.len() > 30 && described["keys"]["mode"] == json!("keys"));
    assert!(described["setupSnippet"].as_str().unwrap().contains("sts:AssumeRole"));
    let put = async |query: &str| {
        let body = json!({"credentials": {"keys": {"accessKey": "AKIAIOSFODNN7EXAMPL2"}}});
        let answer = surface.call(Method::PUT, &format!("/api/credentials/role{query}"), Some(body)).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
        surface.describe("role").await["keys"]["externalId"].clone()
    };
    assert_eq!(put("?useExternalId=true").await, json!(made));
    assert_eq!(put("").await, json!(made));
    assert_eq!(put("?useExternalId=false").await, Value::Null);
    let plain = surface
        .create("plain", json!({"provider": "aws", "keys": {"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "s"}}))
        .await;
    assert_eq!(surface.describe(&plain).await.get("setupSnippet"), None);
}

#[tokio::test]
async fn credentials_in_use_are_not_deleted_when_that_is_checked() {
    let surface = Surface::new().await;
    let id = surface.create("used", github()).await;
    let binding = BindingRecord {
        account: "default".into(),
        id: "git".into(),
        credential: id.clone(),
        callers: Vec::new(),
        hosts: vec!["github.com".into()],
        methods: Vec::new(),
        paths: Vec::new(),
        services: Vec::new(),
        regions: Vec::new(),
        actions: Vec::new(),
        allow_cleartext: false,
        allow_addresses: Vec::new(),
        only_named: false,
    };
    surface.api.store.put_binding(binding, &surface.principal.actor()).await.unwrap();
    let answer = surface.call(Method::DELETE, "/api/credentials/used?checked=true", None).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let conflict = json!({"id": "git", "name": "git", "type": "binding", "url": "/v1/accounts/default/bindings/git"});
    assert_eq!(answer.body, json!({"credentialsId": "used", "conflicts": [conflict]}));
    let answer = surface.call(Method::DELETE, "/api/credentials/used?checked=false", None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_validation_is_remembered_until_the_next_version_and_a_provider_that_is_away_changes_nothing() {
    let surface = Surface::new().await;
    surface.create("repo", github()).await;
    let tell = |tested, detail: &str| {
        *surface.process.found.lock().unwrap() = Some(TestReport { tested, detail: detail.into(), facts: Vec::new() });
    };
    let validate =
        async |query: &str| surface.call(Method::POST, &format!("/api/credentials/repo/validate{query}"), None).await;
    assert_eq!(validate("?force=true").await.status, StatusCode::CONFLICT);
    tell(Tested::Unreachable, "nobody is there");
    assert_eq!(
        validate("").await.body,
        json!({"status": "AVAILABLE", "message": "nobody is there", "transientError": true})
    );
    assert_eq!(surface.describe("repo").await["lastValidated"], Value::Null);
    tell(Tested::Refused, &"no ".repeat(3000));
    let answer = validate("").await;
    assert_eq!((&answer.body["status"], &answer.body["transientError"]), (&json!("INVALID"), &json!(false)));
    let described = surface.describe("repo").await;
    let message = described["message"].as_str().unwrap();
    assert!(message.chars().count() == 4096 && message.ends_with(" (truncated)"));
    assert!(described["status"] == json!("INVALID") && described["lastValidated"].is_string());
    tell(Tested::Unreachable, "nobody is there");
    assert_eq!(validate("").await.body["status"], json!("INVALID"));
    assert_eq!(
        validate("?force=true").await.body,
        json!({"status": "AVAILABLE", "message": null, "transientError": false})
    );
    tell(Tested::Signed, "it signs");
    assert_eq!(validate("").await.body["status"], json!("AVAILABLE"));
    assert_eq!(surface.put("repo", json!({"keys": {"password": "second"}})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(surface.describe("repo").await["lastValidated"], Value::Null);
    let service = surface.api.credentials(&surface.principal, "default").unwrap();
    let off = crate::api::Patch { enabled: Some(false), ..crate::api::Patch::default() };
    service.patch("repo", &off, Condition::None).await.unwrap();
    assert_eq!(surface.describe("repo").await["status"], json!("INVALID"));
    assert_eq!(validate("").await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn the_last_use_is_told_whichever_process_noted_it() {
    let surface = Surface::new().await;
    surface.create("repo", github()).await;
    assert_eq!(surface.describe("repo").await["lastUsed"], Value::Null);
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let used = crate::store::UsageRecord { count: 1, last_used: at(1_600_000_000), last_caller: "c".into() };
    surface.api.store.add_usage(&[("default".into(), "repo".into(), used)]).await.unwrap();
    assert_eq!(surface.describe("repo").await["lastUsed"], json!("2020-09-13T12:26:40Z"));
    let uses = Uses { count: 1, last: at(1_700_000_000), caller: "c".into() };
    surface.process.uses.lock().unwrap().insert("repo".into(), uses);
    assert_eq!(surface.describe("repo").await["lastUsed"], json!("2023-11-14T22:13:20Z"));
}

#[tokio::test]
async fn what_other_ways_in_made_is_shown_where_tower_has_a_word_for_it_and_changed_where_it_was_made() {
    let surface = Surface::new().await;
    let service = surface.api.credentials(&surface.principal, "default").unwrap();
    let tagged = |scheme: &str, settings: Value, provider: &str| {
        let mut input = Input::new(scheme, settings);
        input.name = Some(format!("{scheme} of {provider}"));
        input.tags.insert("provider".into(), provider.into());
        input
    };
    let basic = json!({"username": "u", "password": "canary"});
    let shown = service.create(tagged("basic", basic.clone(), "github")).await.unwrap();
    service.create(tagged("basic", basic, "servicenow")).await.unwrap();
    let listed = surface.call(Method::GET, "/api/credentials", None).await;
    let ids: Vec<_> = listed.body["credentials"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [json!(shown.id), json!("of_the_file")]);
    assert_eq!(surface.describe(&shown.id).await["keys"], json!({"discriminator": "github", "username": "u"}));
    assert_eq!(surface.put(&shown.id, json!({"description": "d"})).await.status, StatusCode::NO_CONTENT);
    let answer = surface.put(&shown.id, json!({"keys": {"password": "second"}})).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && said(&answer).contains("where they were made"));
    let path = "/api/credentials/basic-of-servicenow";
    assert_eq!(surface.call(Method::GET, path, None).await.status, StatusCode::FORBIDDEN);
    assert!(surface.describe("of_the_file").await["dateCreated"].is_null());
}

#[tokio::test]
async fn a_store_that_is_away_is_told_with_a_time_to_ask_again() {
    let surface = Surface::new().await;
    surface.create("repo", github()).await;
    surface.api.store.close().await;
    let answer = surface.call(Method::GET, "/api/credentials", None).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(http::header::RETRY_AFTER) && !said(&answer).is_empty());
}

#[tokio::test]
async fn an_ssh_key_is_kept_with_what_may_be_shown_of_it_and_replaced_together_with_its_passphrase() {
    let surface = Surface::new().await;
    let file = |name: &str| {
        std::fs::read_to_string(format!("{}/tests/tower/keys/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let id = surface.create("key", json!({"provider": "ssh", "privateKey": file("ed25519"), "passphrase": null})).await;
    let keys = surface.describe(&id).await["keys"].clone();
    assert_eq!(keys["fingerprint"], json!("SHA256:001gY8VRx4E5fzX5DEuPDztCGP+kEHmjRLdQWqJZcjk"));
    assert!(
        keys["publicKey"].as_str().unwrap().starts_with("ssh-ed25519 AAAA") && keys.as_object().unwrap().len() == 4
    );
    let answer = surface.put(&id, json!({"keys": {"passphrase": "hunter2"}})).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && said(&answer).contains("privateKey"));
    let locked = json!({"keys": {"privateKey": file("ed25519-encrypted")}});
    assert_eq!(surface.put(&id, locked).await.status, StatusCode::BAD_REQUEST);
    let both = json!({"keys": {"privateKey": file("ed25519-encrypted"), "passphrase": "hunter2"}});
    assert_eq!(surface.put(&id, both).await.status, StatusCode::NO_CONTENT);
    assert_eq!(surface.secret(&id, "passphrase").await, "hunter2");
    let open = json!({"keys": {"privateKey": file("ed25519")}});
    assert_eq!(surface.put(&id, open).await.status, StatusCode::NO_CONTENT);
    let record = surface.api.store.credential("default", &id).await.unwrap().unwrap();
    assert_eq!(surface.api.store.secrets(&record).await.unwrap().len(), 1);
}
