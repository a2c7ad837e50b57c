//! For tests of schemes that call a service: what it answers is written down, what it is asked is remembered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use serde_json::Value;

use super::{Draft, Identity, Kind, Lender, Lent, Outside, Scheme, Setup};
use crate::base::{
    BoxFuture, CallError, ClientOptions, Deps, Destination, HttpClient, HttpClients, Mutations, Refusal,
};
use crate::base::{RequestView, Secret, SecretRef, Secrets};
use crate::token::{StateDirectory, Tokens};

/// A service that gives its answers one after the other, the last one for ever.
#[derive(Debug, Clone, Default)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<Response<Vec<u8>>>,
    asked: Vec<Request<Vec<u8>>>,
}

/// An answer: status, headers, body.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Vec<u8>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.as_bytes().to_vec()).unwrap()
}

impl Network {
    pub(super) fn answering(answers: impl IntoIterator<Item = Response<Vec<u8>>>) -> Self {
        let state = State { answers: answers.into_iter().collect(), asked: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What it was asked, taken away.
    pub(super) fn asked(&self) -> Vec<Request<Vec<u8>>> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl HttpClients for Network {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(self.clone()))
    }
}

impl HttpClient for Network {
    fn call(&self, request: Request<Vec<u8>>) -> BoxFuture<'_, Result<Response<Vec<u8>>, CallError>> {
        let mut state = self.0.lock().unwrap();
        state.asked.push(request);
        let next = if state.answers.len() > 1 { state.answers.pop_front() } else { state.answers.front().cloned() };
        let none = CallError { detail: "connection refused".into(), sent: false };
        Box::pin(std::future::ready(next.ok_or(none)))
    }
}

/// A credential `other` that signs with `X-Lent`.
#[derive(Debug)]
struct OneLender;

impl Lender for OneLender {
    fn fingerprint(&self, id: &str) -> Option<String> {
        (id == "other").then(|| "fingerprint".to_owned())
    }

    fn sign<'a>(&'a self, _: &'a str, mut request: Request<Vec<u8>>) -> BoxFuture<'a, Result<Lent, Refusal>> {
        let mut value = http::HeaderValue::from_static("lent-secret-value");
        value.set_sensitive(true);
        request.headers_mut().insert("x-lent", value);
        Box::pin(std::future::ready(Ok(Lent { request, token: None })))
    }
}

/// Reads settings, the error as `path: message`.
pub(super) fn parsed(kind: &Kind, settings: Value) -> Result<Box<dyn Draft>, String> {
    (kind.parse)(settings).map_err(|error| format!("{}: {}", error.path, error.message))
}

/// A scheme of these settings before this network; every `{ env: X }` gives `secret-of-X`.
pub(super) fn built(kind: &Kind, settings: Value, network: &Network) -> Result<Arc<dyn Scheme>, String> {
    let draft = parsed(kind, settings)?;
    let value = |reference: &SecretRef| match reference {
        SecretRef::Env { env } => Secret::new(format!("secret-of-{env}")),
        _ => Secret::new(""),
    };
    let secrets: Secrets = draft.references().into_iter().map(|one| (one.clone(), value(one))).collect();
    let deps = Deps::system();
    let outside = Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(network.clone()),
        clock: deps.clock,
        environment: deps.environment,
        random: deps.random,
        state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
        lender: Arc::new(OneLender),
    };
    let setup = Setup { account: "default", credential: "c", version: 0, secrets: &secrets, outside: &outside };
    draft.build(&setup).map_err(|error| error.0)
}

/// What a call gets, or why it gets nothing.
pub(super) async fn signed(scheme: &dyn Scheme) -> Result<Mutations, Refusal> {
    let Identity::Token(handle) = scheme.identity() else { panic!("no token") };
    let live = handle.obtain().await?;
    let view = RequestView {
        method: &http::Method::GET,
        path_and_query: "/",
        headers: &http::HeaderMap::new(),
        removed: &http::HeaderMap::new(),
        destination: &Destination::from_upstream("https://api.test").unwrap(),
        length: None,
        body: None,
        narrowing: None,
    };
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let authorized = live.authorizer().authorize(&view, moment)?;
    Ok(Mutations::clone(&authorized.mutations))
}
