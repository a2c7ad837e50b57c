//! An API over a real store and no proxy, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Api, Declared, Engine, Principal, TestReport, Tested, TokenLife, WriteError};
use crate::base::{AuditEvent, AuditSink, AuditUnavailable, BoxFuture, Deps, Secret};
use crate::route::{DEFAULT_ACCOUNT, Uses};
use crate::scheme::{Draft, Kind};
use crate::store::{BindingRecord, Keys, Place, Role, Store};

/// A process that signs nothing, with one credential and one caller in its file, and one store open to `open`.
#[derive(Debug)]
pub(super) struct Still;

impl Engine for Still {
    fn applied(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn check_credential<'a>(
        &'a self,
        _: &'a str,
        _: &'static Kind,
        _: &'a dyn Draft,
        hosts: &'a [String],
        _: &'a BTreeMap<String, Secret>,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let bad = hosts.iter().any(|host| host == "refused.test");
        let error = WriteError { path: "hosts[0]".into(), message: "it is refused".into() };
        Box::pin(std::future::ready(if bad { Err(error) } else { Ok(()) }))
    }

    fn check_binding<'a>(&'a self, binding: &'a BindingRecord) -> BoxFuture<'a, Result<(), WriteError>> {
        let bad = binding.credential == "none";
        let error = WriteError { path: "credential".into(), message: "there is no credential none".into() };
        Box::pin(std::future::ready(if bad { Err(error) } else { Ok(()) }))
    }

    fn store_is_open(&self, store: &str, account: &str) -> bool {
        store == "kv" && account == "open"
    }

    fn declared(&self, account: &str) -> Vec<Declared> {
        let of_file = Declared {
            id: "of-file".into(),
            scheme: "basic",
            hosts: vec!["file.test".into()],
            tags: BTreeMap::new(),
            description: None,
            enabled: true,
            audience: None,
            accounts: Vec::new(),
        };
        if account == DEFAULT_ACCOUNT { vec![of_file] } else { Vec::new() }
    }

    fn declared_callers(&self, account: &str) -> Vec<String> {
        if account == DEFAULT_ACCOUNT { vec!["runner".into()] } else { Vec::new() }
    }

    fn test<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Option<TestReport>> {
        let report =
            TestReport { tested: Tested::Signed, detail: "it signed".into(), facts: vec![("who", "me".into())] };
        Box::pin(std::future::ready(Some(report)))
    }

    fn tokens(&self, _: &str, _: &str) -> Vec<TokenLife> {
        Vec::new()
    }

    fn uses(&self, _: &str, _: &str) -> Option<Uses> {
        None
    }

    fn status(&self) -> Value {
        json!({})
    }
}

/// A record that can be read, and that can be full.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) events: Mutex<Vec<AuditEvent>>,
    pub(super) full: std::sync::atomic::AtomicBool,
}

impl AuditSink for Heard {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>> {
        let full = self.full.load(std::sync::atomic::Ordering::Relaxed);
        if !full {
            self.events.lock().unwrap().push(event);
        }
        let outcome = if full { Err(AuditUnavailable("the disk is full".into())) } else { Ok(()) };
        Box::pin(std::future::ready(outcome))
    }

    fn note(&self, event: AuditEvent) {
        self.events.lock().unwrap().push(event);
    }

    fn blocked(&self) -> Option<AuditUnavailable> {
        None
    }
}

/// An API of its own, in a folder of its own.
pub(super) struct Bench {
    pub(super) api: Api,
    pub(super) store: Store,
    pub(super) deps: Deps,
    pub(super) heard: Arc<Heard>,
    pub(super) folder: tempfile::TempDir,
}

/// An answer, read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Everything that was said, names and values of headers included.
    pub(super) fn all(&self) -> String {
        format!("{:?}\n{}", self.headers, self.text)
    }
}

impl Bench {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let heard: Arc<Heard> = Arc::default();
        let deps = Deps { audit: Arc::clone(&heard) as Arc<dyn AuditSink>, ..Deps::system() };
        let url = format!("sqlite:{}", folder.path().join("store.db").display());
        let place = Place { url, password: None, poll: std::time::Duration::from_millis(50) };
        let keys = Keys::File(folder.path().join("store.key"));
        let store = Store::open(&place, keys, &deps).await.unwrap().0;
        let api = Api::new(store.clone(), Arc::new(Still), deps.clone());
        Self { api, store, deps, heard, folder }
    }

    /// A router for somebody.
    pub(super) fn somebody(&self, role: Role, account: Option<&str>) -> Router {
        self.api.router_as(Principal::new("token:somebody", role, account.map(str::to_owned)))
    }

    pub(super) async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        ask(&self.somebody(Role::Admin, None), method, path, &[], body).await
    }

    /// The actions that were written down.
    pub(super) fn actions(&self) -> Vec<String> {
        let events = self.heard.events.lock().unwrap();
        events.iter().map(|event| format!("{} {}", event.action, event.outcome)).collect()
    }
}

/// Asks; `null` for no body.
pub(super) async fn ask(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}
