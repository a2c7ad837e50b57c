//! The keys of an OIDC issuer, and the claims of a token that they verify.
//!
//! A token that was not verified to the last claim means nothing; an issuer that cannot be reached is no reason to call a
//! token wrong.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{Request, StatusCode, Uri, header};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::base::{ClientOptions, Clock, Destination, HttpClients, Protocol};

/// What issuers sign with. Never a shared secret, never nothing.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Keys are read again after this time: a key that the issuer withdrew is not believed for longer.
const KEYS_FRESH: Duration = Duration::from_secs(3600);
/// While the issuer cannot be reached its last keys serve for this long.
const KEYS_LAST: Duration = Duration::from_secs(24 * 3600);
/// Not more often than this, whatever key ids strangers make up.
const KEYS_PAUSE: Duration = Duration::from_secs(30);
/// After a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// Clocks differ.
const LEEWAY: u64 = 60;
/// Longer tokens are not read.
const LONGEST: usize = 16 * 1024;

/// Whose tokens are believed, and how its keys are found.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// As it stands in `iss`, character by character.
    pub issuer: String,
    /// What `aud` must hold.
    pub audience: String,
    /// Where its keys are.
    pub keys: KeyPlace,
    /// What its addresses need.
    pub options: ClientOptions,
    /// Its keys may travel over `http://`.
    pub allow_cleartext: bool,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// Where its discovery document says.
    Discovered,
    /// At this address.
    Url(String),
    /// In this file, which somebody keeps at the present state.
    File(PathBuf),
}

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disbelief {
    /// It is wrong.
    Refused(String),
    /// Nobody can tell at present.
    Unavailable(String),
}

/// An issuer.
pub struct Issuer {
    settings: IssuerSettings,
    clients: Arc<dyn HttpClients>,
    clock: Arc<dyn Clock>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Option<Arc<JwkSet>>,
    read: Option<Instant>,
    tried: Option<(Instant, Result<(), String>)>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.settings.issuer)
    }
}

fn refused(why: impl fmt::Display) -> Disbelief {
    Disbelief::Refused(format!("the token is refused: {why}"))
}

impl Issuer {
    /// An issuer; nothing is read yet.
    pub fn new(settings: IssuerSettings, clients: Arc<dyn HttpClients>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clients, clock, keys: Mutex::default() }
    }

    /// The claims of a token of this issuer, for us, at this time.
    ///
    /// # Errors
    /// What is wrong with it, or why that cannot be told.
    pub async fn verify(&self, token: &str) -> Result<Map<String, Value>, Disbelief> {
        if token.len() > LONGEST {
            return Err(refused("it is too long"));
        }
        let header = decode_header(token).map_err(|_| refused("it is no JWT that we can read"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("it is not signed by a key pair"));
        }
        if header.crit.is_some() {
            return Err(refused("it demands extensions that are not known here"));
        }
        let mut keys = self.keys(header.kid.as_deref(), header.alg).await?;
        let mut validation = Validation::new(header.alg);
        // The claims are judged below, by a clock that is an argument.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = keys.drain(..).find_map(|key| decode::<Map<String, Value>>(token, &key, &validation).ok());
        let claims = claims.ok_or_else(|| refused("its signature is wrong"))?.claims;
        self.judge(&claims)?;
        Ok(claims)
    }

    fn judge(&self, claims: &Map<String, Value>) -> Result<(), Disbelief> {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims.get("iss").and_then(Value::as_str) != Some(self.settings.issuer.as_str()) {
            return Err(refused("it is of another issuer"));
        }
        if !texts(claims.get("aud")).contains(&self.settings.audience.as_str()) {
            return Err(refused("it is for another audience"));
        }
        let time = |name: &str| claims.get(name).map(|at| at.as_f64().filter(|at| at.is_finite()));
        let (exp, nbf) = (time("exp"), time("nbf"));
        // 2^53 seconds are exact.
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
        let (now, leeway) = (now as f64, LEEWAY as f64);
        match exp {
            Some(Some(exp)) if now < exp + leeway => {}
            Some(Some(_)) => return Err(refused("it has expired")),
            _ => return Err(refused("it does not say when it expires")),
        }
        match nbf {
            None => Ok(()),
            Some(Some(nbf)) if nbf <= now + leeway => Ok(()),
            _ => Err(refused("it is not valid yet")),
        }
    }

    /// The keys that a token may be signed by.
    async fn keys(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<DecodingKey>, Disbelief> {
        let mut keys = self.keys.lock().await;
        let now = self.clock.instant();
        let since = |moment: Option<Instant>| moment.map(|moment| now.saturating_duration_since(moment));
        let fresh = since(keys.read).is_some_and(|age| age < KEYS_FRESH);
        let found = keys.set.as_ref().map(|set| fitting(set, kid, algorithm)).unwrap_or_default();
        if fresh && !found.is_empty() {
            return Ok(found);
        }
        let pause = keys.tried.as_ref().map(|(at, outcome)| {
            let pause = if outcome.is_ok() { KEYS_PAUSE } else { FAILURE_PAUSE };
            (now.saturating_duration_since(*at) < pause, outcome.clone())
        });
        let outcome = match pause {
            Some((true, outcome)) => outcome,
            _ => {
                let read = self.read().await;
                let outcome = read.as_ref().map(|_| ()).map_err(Clone::clone);
                if let Err(why) = &outcome {
                    tracing::warn!(issuer = self.settings.issuer, why, "the issuer's keys cannot be read");
                }
                keys.tried = Some((now, outcome.clone()));
                if let Ok(set) = read {
                    keys.set = Some(Arc::new(set));
                    keys.read = Some(now);
                }
                outcome
            }
        };
        let usable = since(keys.read).is_some_and(|age| age < KEYS_LAST);
        let found = keys.set.as_ref().filter(|_| usable).map(|set| fitting(set, kid, algorithm)).unwrap_or_default();
        match (found.is_empty(), outcome) {
            (false, _) => Ok(found),
            (true, Ok(())) => Err(refused("the issuer has no such key")),
            (true, Err(why)) => Err(Disbelief::Unavailable(format!("the issuer's keys cannot be had now: {why}"))),
        }
    }

    async fn read(&self) -> Result<JwkSet, String> {
        let document = match &self.settings.keys {
            KeyPlace::Url(address) => self.get(address).await?,
            KeyPlace::Discovered => self.get(&self.discover().await?).await?,
            KeyPlace::File(path) => {
                let text = crate::source::read_file(path).await.map_err(|error| error.to_string())?;
                serde_json::from_slice(text.expose()).map_err(|_| format!("{} is no JSON", path.display()))?
            }
        };
        // Keys of kinds that we do not know stand beside those that we do.
        let keys = document.get("keys").and_then(Value::as_array).ok_or("its key set has no `keys`")?;
        let keys = keys.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok()).collect();
        Ok(JwkSet { keys })
    }

    async fn discover(&self) -> Result<String, String> {
        let issuer = self.settings.issuer.trim_end_matches('/');
        let document = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let text = |key: &str| document.get(key).and_then(Value::as_str);
        // OpenID Connect Discovery 1.0, section 4.3: they must be the same.
        if text("issuer") != Some(self.settings.issuer.as_str()) {
            return Err(format!("its discovery document is of the issuer {:?}", text("issuer").unwrap_or_default()));
        }
        text("jwks_uri").map(str::to_owned).ok_or_else(|| "its discovery document has no `jwks_uri`".to_owned())
    }

    async fn get(&self, address: &str) -> Result<Value, String> {
        let uri: Uri = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        let destination = Destination::from_absolute(&uri).map_err(|refusal| refusal.detail.to_string())?;
        if destination.protocol() == Protocol::Http && !self.settings.allow_cleartext {
            return Err(format!("`{address}` is not encrypted"));
        }
        let client = self.clients.client(&destination, &self.settings.options)?;
        let request = Request::get(uri).header(header::ACCEPT, "application/json").body(Vec::new());
        let answer = client.call(request.map_err(|error| error.to_string())?).await.map_err(|error| error.detail)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{} answered {}", destination.host(), answer.status()));
        }
        serde_json::from_slice(answer.body()).map_err(|_| format!("{} answered no JSON", destination.host()))
    }
}

/// The keys of a set that may have signed this.
fn fitting(set: &JwkSet, kid: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    let fits = |key: &&Jwk| {
        let named = kid.is_none_or(|kid| key.common.key_id.as_deref() == Some(kid));
        let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let alike = key.common.key_algorithm.is_none_or(|own| own.to_string() == format!("{algorithm:?}"));
        named && signs && alike
    };
    set.keys.iter().filter(fits).filter_map(|key| DecodingKey::from_jwk(key).ok()).collect()
}

/// One text or several.
pub fn texts(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
