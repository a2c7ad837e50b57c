//! For tests of stores: a clock that the test holds, a server that says what it is told, and a signer whose tokens can die.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Request, Response};
use serde_json::Value;

use super::{StoreSettings, Stores};
use crate::base::deps::Sleep;
use crate::base::{
    BoxFuture, CallError, ClientOptions, Clock, Deps, Destination, HttpClient, HttpClients, Random, Refusal,
    RequestSigner, SignedRequest, StoreRef,
};

/// The time of tokio, which stands still in tests that say so.
#[derive(Debug)]
pub(super) struct TestClock(tokio::time::Instant);

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep_until(&self, moment: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(moment.into()))
    }
}

/// No jitter.
#[derive(Debug)]
struct Zero;

impl Random for Zero {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        bytes.fill(0);
        true
    }
}

/// What the server says to one request; the last is said for ever.
pub(super) type Said = Result<Response<Vec<u8>>, CallError>;

type Answering = Box<dyn Fn(&Request<Vec<u8>>) -> Option<Said> + Send>;

/// A server, and what it was asked.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<Inner>>);

struct Inner {
    said: VecDeque<Said>,
    /// Asked first.
    answering: Option<Answering>,
    asked: Vec<Request<Vec<u8>>>,
    takes: Duration,
}

impl Server {
    pub(super) fn new(said: impl IntoIterator<Item = Said>) -> Self {
        let said = said.into_iter().collect();
        Self(Arc::new(Mutex::new(Inner { said, answering: None, asked: Vec::new(), takes: Duration::ZERO })))
    }

    /// Answers by the request.
    pub(super) fn with(answering: impl Fn(&Request<Vec<u8>>) -> Option<Said> + Send + 'static) -> Self {
        let server = Self::new([]);
        server.0.lock().unwrap().answering = Some(Box::new(answering));
        server
    }

    /// From now on it says this.
    pub(super) fn say(&self, said: impl IntoIterator<Item = Said>) {
        self.0.lock().unwrap().said = said.into_iter().collect();
    }

    /// An answer takes so long.
    pub(super) fn takes(&self, time: Duration) {
        self.0.lock().unwrap().takes = time;
    }

    pub(super) fn asked(&self) -> Vec<Request<Vec<u8>>> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(super) fn count(&self) -> usize {
        self.asked().len()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl HttpClient for Server {
    fn call(&self, request: Request<Vec<u8>>) -> BoxFuture<'_, Result<Response<Vec<u8>>, CallError>> {
        let mut inner = self.0.lock().unwrap();
        let told = inner.answering.as_ref().and_then(|answering| answering(&request));
        inner.asked.push(request);
        let next = if inner.said.len() > 1 { inner.said.pop_front() } else { inner.said.front().cloned() };
        let none = CallError { detail: "connection refused".into(), sent: false };
        let (said, takes) = (told.or(next).unwrap_or(Err(none)), inner.takes);
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            said
        })
    }
}

impl HttpClients for Server {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(self.clone()))
    }
}

/// Signs with `X-Vault-Token: token-N`; a refused token is replaced `lives` times.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) lives: usize,
    signed: AtomicUsize,
    refused: Arc<AtomicUsize>,
}

impl Signer {
    pub(super) fn new(lives: usize) -> Arc<Self> {
        Arc::new(Self { lives, signed: AtomicUsize::new(0), refused: Arc::default() })
    }
}

impl RequestSigner for Signer {
    fn sign<'a>(&'a self, _: &'a str, mut request: Request<Vec<u8>>) -> BoxFuture<'a, Result<SignedRequest, Refusal>> {
        self.signed.fetch_add(1, Ordering::SeqCst);
        let number = self.refused.load(Ordering::SeqCst);
        let token = HeaderValue::from_str(&format!("token-{number}")).unwrap();
        request.headers_mut().insert("x-vault-token", token);
        let (refused, lives) = (Arc::clone(&self.refused), self.lives);
        let refused = Box::new(move || refused.fetch_add(1, Ordering::SeqCst) < lives);
        Box::pin(async move { Ok(SignedRequest { request, refused: Some(refused) }) })
    }
}

/// An answer in JSON.
pub(super) fn says(status: u16, body: Value) -> Said {
    Ok(Response::builder().status(status).body(body.to_string().into_bytes()).unwrap())
}

/// The same with a header.
pub(super) fn says_with(status: u16, name: &str, value: &str, body: Value) -> Said {
    Ok(Response::builder().status(status).header(name, value).body(body.to_string().into_bytes()).unwrap())
}

/// Stores of these settings before this server.
pub(super) fn stores(settings: Value, server: &Server, signer: &Arc<Signer>, previous: Option<&Stores>) -> Stores {
    let deps = Deps { clock: TestClock::new(), random: Arc::new(Zero), ..Deps::system() };
    let (settings, _) = StoreSettings::parse(settings).unwrap();
    let signer = Arc::clone(signer) as Arc<dyn RequestSigner>;
    Stores::new(&[Arc::new(settings)], previous, server, &signer, &deps).unwrap()
}

/// A secret of the store `s`.
pub(super) fn reference(name: &str, version: Option<&str>, field: Option<&str>) -> StoreRef {
    let text = |text: Option<&str>| text.map(str::to_owned);
    StoreRef { store: "s".into(), name: name.into(), version: text(version), field: text(field) }
}
