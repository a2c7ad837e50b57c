//! What a server asks (`WWW-Authenticate`, `Authentication-Info`) of a credential that is asked before it can answer: no
//! server can make digest or NTLM panic, or answer with a header that could not be sent.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use countersign::base::request::BodyDigest;
use countersign::base::{BodyNeed, Challenge, Challenged, ClientOptions, Deps, Destination, HttpClient, HttpClients};
use countersign::base::{RequestView, Secret, SecretRef, Secrets};
use countersign::route::Lending;
use countersign::scheme::{Identity, Outside, Scheme, Setup, find};
use countersign::token::{StateDirectory, Tokens};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::Method;
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Nobody;

impl HttpClients for Nobody {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Err("there is nobody to call".into())
    }
}

fn scheme(name: &str) -> Arc<dyn Scheme> {
    let deps = Deps::system();
    let outside = Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(Nobody),
        clock: Arc::clone(&deps.clock),
        environment: deps.environment,
        random: deps.random,
        state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
        lender: Arc::new(Lending::new(deps.clock, Default::default())),
    };
    let secrets: Secrets = [(SecretRef::Env { env: "P".into() }, Secret::new("p"))].into_iter().collect();
    let setup = Setup { account: "default", credential: "c", secrets: &secrets, outside: &outside };
    let settings = serde_json::json!({ "username": "user", "password": { "env": "P" } });
    (find(name).unwrap().parse)(settings).unwrap().build(&setup).unwrap()
}

static DIGEST: LazyLock<Arc<dyn Scheme>> = LazyLock::new(|| scheme("digest"));
static NTLM: LazyLock<Arc<dyn Scheme>> = LazyLock::new(|| scheme("ntlm"));
static HERE: LazyLock<Destination> = LazyLock::new(|| Destination::from_upstream("http://api.test").unwrap());

fn challenged(scheme: &Arc<dyn Scheme>) -> Arc<dyn Challenged> {
    match scheme.identity() {
        Identity::Challenged(challenged) => Arc::clone(challenged),
        _ => unreachable!("it is asked first"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    if kind & 2 != 0 {
        // The message of NTLM itself, which a fuzzer would not find behind base64.
        let line = format!("NTLM {}", STANDARD.encode(rest));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(&line).unwrap());
    } else {
        for line in rest.split(|byte| *byte == b'\n') {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(WWW_AUTHENTICATE, value.clone());
                headers.append(HeaderName::from_static("authentication-info"), value);
            }
        }
    }
    let challenged = challenged(if kind & 1 == 0 { &DIGEST } else { &NTLM });
    let none = HeaderMap::new();
    let method = Method::POST;
    let mut view = RequestView {
        method: &method,
        path_and_query: "/a?b=c",
        headers: &none,
        removed: &none,
        destination: &HERE,
        length: Some(0),
        body: None,
        narrowing: None,
    };
    let challenge = Challenge { headers: &headers, certificate: None };
    if let Ok(authorizer) = challenged.answer(&view, &challenge) {
        let facts = BodyDigest { sha256: [0; 32], further: Some(Box::new([0; 32])), length: 0, whole: None };
        if authorizer.body_need(&view).is_ok_and(|need| need != BodyNeed::None) {
            view.body = Some(&facts);
        }
        if let Ok(authorized) = authorizer.authorize(&view, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30)) {
            let sent = authorized.mutations.set.iter().any(|(name, value)| *name == AUTHORIZATION && value.is_sensitive());
            assert!(sent, "an answer that is no answer");
        }
    }
    challenged.heard(&view, &headers, false);
    challenged.heard(&view, &headers, true);
});
