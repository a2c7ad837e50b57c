//! Who a Kubernetes service account token is of: the API server says so (TokenReview), or the issuer's keys do.
//!
//! A verdict is remembered under the token's SHA-256, for a short time: the API server knows at once when a pod is gone.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, StatusCode, Uri, header};
use ipnet::IpNet;
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::issuer::{Disbelief, Issuer, IssuerSettings, KeyPlace, texts};
use crate::base::{
    BoxFuture, ClientOptions, Clock, Destination, HttpClients, NotVouched, Protocol, Secret, SecretField, SecretRef,
    Vouched, Voucher,
};
use crate::source::Sources;

/// A verdict is asked for again this long before its end: it must not end between two looks at it.
const MARGIN: Duration = Duration::from_secs(1);
/// A token that was confirmed is not asked about again for so long: a pod that was deleted is a caller for no longer.
const CONFIRMED: Duration = Duration::from_secs(60);
/// One that was refused; it may have been shown before our own rights were set up.
const REFUSED: Duration = Duration::from_secs(10);
/// The API server is left alone for a moment when it does not answer.
const UNAVAILABLE: Duration = Duration::from_secs(1);
/// Callers wait meanwhile, and a review is one look-up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Verdicts kept: more pods than one cluster has.
const VERDICTS: u64 = 65_536;
/// Reviews under way at a time; by the token's digest, so that one token is asked about once.
const FLIGHTS: usize = 32;
/// Longer tokens are not looked at.
const LONGEST: usize = 16 * 1024;
/// What the API server calls a service account.
const PREFIX: &str = "system:serviceaccount:";

/// The `service_accounts` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountSettings {
    /// What the tokens must be made for; one that was made for the API server or anybody else is refused.
    #[serde(default = "audience")]
    pub audience: String,
    /// The API server that is asked.
    pub token_review: Option<TokenReviewSettings>,
    /// The issuer of the tokens, where its keys are believed instead.
    pub issuer: Option<String>,
    /// Where its keys are, an address or a file; without it, where its discovery document says.
    pub jwks: Option<String>,
    /// Roots that the issuer's certificate must come from (PEM), in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Addresses normally refused that the issuer may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    pub allow_addresses: Vec<IpNet>,
}

/// The API server, as pods know it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenReviewSettings {
    /// Its address.
    #[serde(default = "server")]
    pub server: String,
    /// Roots that its certificate must come from (PEM), in place of the system's. Read at each review.
    #[serde(default = "ca_file")]
    pub ca_file: PathBuf,
    /// What we show it. Read at each review, since the kubelet replaces it.
    #[serde(default = "token")]
    pub token: SecretField,
    /// Addresses normally refused that it may have; those of private networks are what API servers have.
    #[serde(default = "private", deserialize_with = "crate::base::nets::deserialize")]
    pub allow_addresses: Vec<IpNet>,
}

fn audience() -> String {
    "countersign".to_owned()
}

fn server() -> String {
    "https://kubernetes.default.svc".to_owned()
}

fn ca_file() -> PathBuf {
    PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
}

fn token() -> SecretField {
    SecretRef::File { file: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token") }.into()
}

/// The ranges that clusters give their services (RFC 1918, RFC 6598, RFC 4193). The certificate says who answers.
fn private() -> Vec<IpNet> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]
        .iter()
        .filter_map(|net| net.parse().ok())
        .collect()
}

/// `namespace/name`, each as Kubernetes lets it be.
///
/// # Errors
/// A sentence that says what is expected.
pub fn check_account(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let part = |part: &str| (1..=253).contains(&part.len()) && part.chars().all(plain);
    match text.split_once('/') {
        Some((namespace, name)) if part(namespace) && !namespace.contains('.') && part(name) => Ok(()),
        _ => Err(format!("`{text}` is no service account: write namespace/name")),
    }
}

impl ServiceAccountSettings {
    /// What is wrong with it: the key, and what to change.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.audience.is_empty() {
            wrong.push(("audience", "without an audience every token of the cluster would do".to_owned()));
        }
        let encrypted = |address: &str| {
            let destination = address.parse().ok().and_then(|uri: Uri| Destination::from_absolute(&uri).ok());
            destination.is_some_and(|to| to.protocol() == Protocol::Https)
        };
        match (&self.token_review, &self.issuer) {
            (Some(review), None) => {
                if !encrypted(&review.server) {
                    wrong.push(("token_review.server", "an address with https:// is expected".to_owned()));
                }
                if matches!(review.token.reference(), SecretRef::Store(_)) {
                    wrong.push(("token_review.token", "write { file }, { env } or { command }".to_owned()));
                }
                if self.jwks.is_some() || self.ca_file.is_some() {
                    wrong.push(("token_review", "`jwks` and `ca_file` go with `issuer`".to_owned()));
                }
            }
            (None, Some(issuer)) => {
                let jwks_is_right = self.jwks.as_ref().is_none_or(|jwks| jwks.starts_with('/') || encrypted(jwks));
                if !jwks_is_right {
                    wrong.push(("jwks", "an address with https:// or the path of a file is expected".to_owned()));
                }
                // An issuer whose keys are given by other means is a name and no more.
                if issuer.is_empty() || (self.jwks.is_none() && !encrypted(issuer)) {
                    wrong.push(("issuer", "an address with https:// is expected, or `jwks` beside it".to_owned()));
                }
            }
            _ => wrong.push(("", "tokens are verified by one of `token_review` and `issuer`".to_owned())),
        }
        wrong
    }

    /// The issuer as whoever verifies its tokens takes it.
    fn issuer(&self, issuer: &str) -> IssuerSettings {
        let keys = match &self.jwks {
            None => KeyPlace::Discovered,
            Some(path) if path.starts_with('/') => KeyPlace::File(PathBuf::from(path)),
            Some(address) => KeyPlace::Url(address.clone()),
        };
        let options = ClientOptions {
            allow_addresses: self.allow_addresses.clone(),
            only_roots: self.ca_file.clone(),
            timeout: Some(PATIENCE),
            ..ClientOptions::default()
        };
        let (issuer, audience) = (issuer.to_owned(), self.audience.clone());
        IssuerSettings { issuer, audience, keys, options, allow_cleartext: false }
    }
}

type Verdict = Result<Vouched, NotVouched>;

/// Vouches for the service accounts that are listed as callers.
pub struct ServiceAccounts {
    audience: String,
    listed: HashSet<String>,
    by: By,
    clients: Arc<dyn HttpClients>,
    clock: Arc<dyn Clock>,
    sources: Sources,
    verdicts: Cache<[u8; 32], (Verdict, Instant)>,
    flights: Vec<Mutex<()>>,
}

/// Who is believed.
enum By {
    Review(TokenReviewSettings),
    Keys(Box<Issuer>),
}

impl fmt::Debug for ServiceAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccounts({})", self.audience)
    }
}

fn refused(why: impl fmt::Display) -> NotVouched {
    NotVouched::Refused(format!("the service account token is refused: {why}"))
}

impl ServiceAccounts {
    /// From settings that were checked, for these accounts; nothing is asked yet.
    pub fn new(
        settings: &ServiceAccountSettings,
        listed: impl IntoIterator<Item = String>,
        clients: Arc<dyn HttpClients>,
        clock: Arc<dyn Clock>,
        sources: Sources,
    ) -> Option<Self> {
        let by = match (&settings.token_review, &settings.issuer) {
            (Some(review), None) => By::Review(review.clone()),
            (None, Some(issuer)) => {
                By::Keys(Box::new(Issuer::new(settings.issuer(issuer), Arc::clone(&clients), Arc::clone(&clock))))
            }
            _ => return None,
        };
        Some(Self {
            audience: settings.audience.clone(),
            listed: listed.into_iter().collect(),
            by,
            clients,
            clock,
            sources,
            verdicts: Cache::builder().max_capacity(VERDICTS).build(),
            flights: (0..FLIGHTS).map(|_| Mutex::default()).collect(),
        })
    }

    /// What a token says of itself: whatever it is, one that says the wrong thing is not worth a question. Its end.
    fn claims(&self, token: &str) -> Result<SystemTime, NotVouched> {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Option<Map<String, Value>> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
        let claims = claims.ok_or_else(|| refused("it is no token that we can read"))?;
        if !texts(claims.get("aud")).contains(&self.audience.as_str()) {
            return Err(refused(format!("it is not for the audience {}", self.audience)));
        }
        let account = claims.get("sub").and_then(Value::as_str).and_then(account);
        if !account.is_some_and(|account| self.listed.contains(&account)) {
            return Err(refused("no caller has its service account"));
        }
        let exp = claims.get("exp").and_then(Value::as_u64).ok_or_else(|| refused("it does not say when it ends"))?;
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(exp)).ok_or_else(|| refused("it never ends"))?;
        if end <= self.clock.now() { Err(refused("it has expired")) } else { Ok(end) }
    }

    async fn verdict(&self, token: &Secret) -> Verdict {
        let text = token.expose_str().ok_or_else(|| refused("it is no text"))?;
        let end = self.claims(text)?;
        let account = match &self.by {
            By::Review(settings) => self.review(settings, text).await?,
            By::Keys(issuer) => {
                let claims = issuer.verify(text).await.map_err(|disbelief| match disbelief {
                    Disbelief::Refused(why) => NotVouched::Refused(why),
                    Disbelief::Unavailable(why) => NotVouched::Unavailable(why),
                })?;
                let account = claims.get("sub").and_then(Value::as_str).and_then(account);
                account.ok_or_else(|| refused("it is of no service account"))?
            }
        };
        if !self.listed.contains(&account) {
            return Err(refused("no caller has its service account"));
        }
        Ok(Vouched { account, until: end.min(self.clock.now() + CONFIRMED) })
    }

    /// `TokenReview` of authentication.k8s.io/v1.
    async fn review(&self, settings: &TokenReviewSettings, token: &str) -> Result<String, NotVouched> {
        let unavailable = |why: String| NotVouched::Unavailable(why);
        let (own, _) = self
            .sources
            .load(settings.token.reference())
            .await
            .map_err(|error| unavailable(format!("our own token for the API server: {error}")))?;
        let address = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", settings.server.trim_end_matches('/'));
        let uri: Uri = address.parse().map_err(|_| unavailable(format!("`{address}` is no address")))?;
        let destination =
            Destination::from_absolute(&uri).map_err(|refusal| unavailable(refusal.detail.into_owned()))?;
        let options = ClientOptions {
            allow_addresses: settings.allow_addresses.clone(),
            only_roots: Some(settings.ca_file.clone()),
            // An API server is no matter of a corporate proxy.
            direct: true,
            timeout: Some(PATIENCE),
            ..ClientOptions::default()
        };
        let client = self.clients.client(&destination, &options).map_err(unavailable)?;
        let bearer = [b"Bearer ", own.expose()].concat();
        let mut bearer = header::HeaderValue::from_maybe_shared(bytes::Bytes::from(bearer))
            .map_err(|_| unavailable("our own token for the API server is no token".to_owned()))?;
        bearer.set_sensitive(true);
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let request = Request::post(uri)
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(review.to_string().into_bytes())
            .map_err(|error| unavailable(error.to_string()))?;
        let answer = client.call(request).await.map_err(|error| unavailable(error.detail))?;
        if !matches!(answer.status(), StatusCode::OK | StatusCode::CREATED) {
            return Err(unavailable(format!(
                "the API server answered {}; may our service account create tokenreviews (system:auth-delegator)?",
                answer.status()
            )));
        }
        let answer: Value = serde_json::from_slice(answer.body())
            .map_err(|_| unavailable("the API server answered no JSON".to_owned()))?;
        self.judge(&answer["status"])
    }

    /// What the API server says, believed only when it says all of it.
    fn judge(&self, status: &Value) -> Result<String, NotVouched> {
        if status["authenticated"].as_bool() != Some(true) {
            return Err(refused("the API server does not know it"));
        }
        // An API server that does not know audiences says nothing of them, and has not looked.
        if !texts(status.get("audiences")).contains(&self.audience.as_str()) {
            return Err(refused(format!("it is not for the audience {}", self.audience)));
        }
        let account = status["user"]["username"].as_str().and_then(account);
        account.ok_or_else(|| refused("it is of no service account"))
    }
}

/// `namespace/name` of a user name such as `system:serviceaccount:namespace:name`.
fn account(user: &str) -> Option<String> {
    let account = user.strip_prefix(PREFIX)?.replacen(':', "/", 1);
    check_account(&account).is_ok().then_some(account)
}

fn key(token: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token).as_ref());
    key
}

impl Voucher for ServiceAccounts {
    fn concerns(&self, token: &[u8]) -> bool {
        // `{"` in base64, and two dots.
        token.len() <= LONGEST && token.starts_with(b"eyJ") && token.iter().filter(|byte| **byte == b'.').count() == 2
    }

    fn remembered(&self, token: &[u8]) -> Option<Verdict> {
        let (verdict, until) = self.verdicts.get(&key(token))?;
        let ended = verdict.as_ref().is_ok_and(|vouched| vouched.until <= self.clock.now() + MARGIN);
        (self.clock.instant() < until && !ended).then_some(verdict)
    }

    fn ask<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let key = key(token.expose());
            let _flight = self.flights[usize::from(key[0]) % FLIGHTS].lock().await;
            // Somebody else may have asked meanwhile.
            if let Some(verdict) = self.remembered(token.expose()) {
                return verdict;
            }
            let verdict = self.verdict(token).await;
            let lasts = match &verdict {
                Ok(_) => CONFIRMED,
                Err(NotVouched::Refused(_)) => REFUSED,
                Err(NotVouched::Unavailable(why)) => {
                    tracing::warn!(why, "service account tokens cannot be verified");
                    UNAVAILABLE
                }
            };
            self.verdicts.insert(key, (verdict.clone(), self.clock.instant() + lasts));
            verdict
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Lock;

    use super::*;
    use crate::base::deps::Sleep;
    use crate::base::{CallError, Deps, HttpClient};

    /// An API server that confirms everybody, and counts; and a clock that stands until it is moved.
    #[derive(Debug, Default, Clone)]
    struct Stub(Arc<Lock<(usize, Duration)>>, Option<Instant>);

    const NOW: u64 = 1_800_000_000;

    impl Clock for Stub {
        fn now(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(NOW) + self.0.lock().unwrap().1
        }

        fn instant(&self) -> Instant {
            self.1.unwrap() + self.0.lock().unwrap().1
        }

        fn sleep_until(&self, _: Instant) -> Sleep {
            Box::pin(std::future::pending())
        }
    }

    impl HttpClients for Stub {
        fn client(&self, _: &Destination, options: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
            assert!(options.only_roots.is_some() && options.direct);
            Ok(Arc::new(self.clone()))
        }
    }

    impl HttpClient for Stub {
        fn call(&self, _: Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
            self.0.lock().unwrap().0 += 1;
            let user = json!({"username": "system:serviceaccount:ns:app"});
            let status = json!({"authenticated": true, "user": user, "audiences": ["countersign"]});
            let answer = http::Response::new(json!({ "status": status }).to_string().into_bytes());
            Box::pin(std::future::ready(Ok(answer)))
        }
    }

    #[tokio::test]
    async fn a_verdict_lasts_a_minute_and_never_longer_than_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("token");
        std::fs::write(&own, "own").unwrap();
        let settings = json!({"token_review": {"token": {"file": own}}});
        let settings: ServiceAccountSettings = serde_json::from_value(settings).unwrap();
        assert!(settings.check().is_empty());
        let stub = Stub(Arc::default(), Some(Deps::system().clock.instant()));
        let listed = ["ns/app".to_owned()];
        let (clients, clock) = (Arc::new(stub.clone()), Arc::new(stub.clone()));
        let accounts = ServiceAccounts::new(&settings, listed, clients, clock, Sources::new(Deps::system())).unwrap();
        let token = |seconds: u64| {
            let claims = json!({"aud": "countersign", "sub": "system:serviceaccount:ns:app", "exp": NOW + seconds});
            Secret::new(format!("eyJ.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string())))
        };
        let (long, short) = (token(3600), token(30));
        assert_eq!(accounts.remembered(long.expose()), None);
        for _ in 0..2 {
            let (of_long, of_short) = (accounts.ask(&long).await.unwrap(), accounts.ask(&short).await.unwrap());
            assert_eq!(of_long.until, UNIX_EPOCH + Duration::from_secs(NOW + 60));
            assert_eq!(of_short.until, UNIX_EPOCH + Duration::from_secs(NOW + 30));
        }
        assert_eq!(stub.0.lock().unwrap().0, 2);
        stub.0.lock().unwrap().1 = Duration::from_secs(31);
        assert!(accounts.remembered(long.expose()).is_some() && accounts.remembered(short.expose()).is_none());
        assert!(matches!(accounts.ask(&short).await, Err(NotVouched::Refused(_))));
        assert_eq!(stub.0.lock().unwrap().0, 2, "what has expired is not asked about");
        stub.0.lock().unwrap().1 = Duration::from_secs(61);
        assert_eq!(accounts.remembered(long.expose()), None);
        assert!(accounts.ask(&long).await.is_ok());
        assert_eq!(stub.0.lock().unwrap().0, 3);
    }

    #[test]
    fn an_account_has_a_namespace_and_a_name() {
        assert_eq!(account("system:serviceaccount:ns:app").as_deref(), Some("ns/app"));
        for user in ["ns:app", "system:serviceaccount:ns", "system:serviceaccount:ns:a:b", "system:serviceaccount::a"] {
            assert_eq!(account(user), None, "{user}");
        }
    }
}
