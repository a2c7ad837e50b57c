//! `jwt`: a JWT that is signed here and sent with each call (RFC 7519), or one that a service hands out for a GET (Flexera's older `jwt`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use ipnet::IpNet;
use serde::Deserialize;

use super::assertion::{AssertionKeys, Claims};
use super::fields::{AdditionalHeaders, endpoint};
use super::placement::{self, Location, Place};
use super::{Draft, Fields, Kind, Obtained, Scheme, SettingsError, Setup, at, settings};
use crate::base::{Authorizer, BoxFuture, ClientOptions, Mutations, Prepared, Public, Random, Secret};
use crate::base::{SecretField, SecretRef, Unavailable};
use crate::token::{Assertion, Failure, FailureKind, PrivateKey, Service, SigningKey, Token, TokenSource, expiry};

pub(super) const KIND: Kind = Kind {
    name: "jwt",
    about: "A JWT signed here with a private key or a shared secret, or one that a service hands out for basic or an API key",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &[
            "signing_key",
            "signing_key_password",
            "shared_secret",
            "basic_auth_password",
            "api_key.key",
            "api_key.additional[].key",
            "additional_headers.*",
        ],
        leading: &["token_url", "allow_cleartext"],
        operators: &["allow_addresses"],
    },
    parse: |mut value| {
        let signed = AssertionKeys::among(&mut value)?;
        let settings = Settings { signed, ..settings(value)? };
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Used when an answer says nothing of a lifetime. Short, since a token that ended earlier costs the caller a 401.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// Stands in `iss` for a digest of the public key, as Snowflake wants it.
const FINGERPRINT: &str = "{fingerprint}";

/// Claims that are made anew for each token.
const TIMES: [&str; 3] = ["iat", "exp", "nbf"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    location: Option<Location>,
    field: Option<String>,
    r#type: Option<String>,
    /// Beside the JWT on each call; in the older form, on the request for it.
    #[serde(default)]
    additional_headers: AdditionalHeaders,
    // Signed here.
    #[serde(skip)]
    signed: AssertionKeys,
    shared_secret: Option<SecretField>,
    shared_secret_encoding: Option<Encoding>,
    // Handed out by a service.
    token_url: Option<Public>,
    #[serde(default)]
    allow_cleartext: bool,
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    basic_auth_username: Option<Public>,
    basic_auth_password: Option<SecretField>,
    api_key: Option<ApiKey>,
    /// How long a token lives when neither the answer nor the token says so.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    token_lifetime: Option<Duration>,
}

/// How a shared secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    Text,
    Base64,
    Hex,
}

/// What authenticates the request for a token: the keys of scheme `api_key`, for one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKey {
    key: SecretField,
    location: Option<Location>,
    field: Option<String>,
    r#type: Option<String>,
}

impl ApiKey {
    fn place(&self) -> Place<'_> {
        let place = Place::usual(self.location, self.field.as_deref(), self.r#type.as_deref());
        Place { path: "api_key.".into(), ..place }
    }
}

impl Settings {
    fn place(&self) -> Place<'_> {
        Place::usual(self.location, self.field.as_deref(), self.r#type.as_deref())
    }

    /// The keys that belong to a token which is signed here, as far as they are written.
    fn own(&self) -> impl Iterator<Item = &'static str> {
        let more = [
            self.shared_secret.as_ref().map(|_| "shared_secret"),
            self.shared_secret_encoding.map(|_| "shared_secret_encoding"),
        ];
        self.signed.written().chain(more.into_iter().flatten())
    }

    /// The keys that belong to a token which is fetched, as far as they are written.
    fn fetched(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            self.token_url.as_ref().map(|_| "token_url"),
            self.basic_auth_username.as_ref().map(|_| "basic_auth_username"),
            self.basic_auth_password.as_ref().map(|_| "basic_auth_password"),
            self.api_key.as_ref().map(|_| "api_key"),
            self.token_lifetime.map(|_| "token_lifetime"),
            self.allow_cleartext.then_some("allow_cleartext"),
            (!self.allow_addresses.is_empty()).then_some("allow_addresses"),
        ];
        all.into_iter().flatten()
    }

    fn check(&self) -> Result<(), SettingsError> {
        placement::check(&[self.place()])?;
        match (&self.token_url, self.own().next()) {
            (Some(url), None) => self.check_fetched(url),
            (Some(_), Some(key)) => {
                let why = format!(
                    "`{key}` is for a JWT that is signed here, `token_url` for one that is fetched; remove one of them"
                );
                Err(at(key, why))
            }
            (None, _) => self.check_own(),
        }
    }

    fn check_own(&self) -> Result<(), SettingsError> {
        if self.signed.signing_key.is_none() && self.shared_secret.is_none() {
            let why = "`signing_key` or `shared_secret` signs a JWT here; `token_url` is where one is fetched: write one of them";
            return Err(at("", why));
        }
        if let Some(key) = self.fetched().next() {
            return Err(at(key, format!("`{key}` goes with `token_url`; a JWT that is signed here is not fetched")));
        }
        if self.shared_secret.is_some() {
            for key in ["signing_key", "signing_key_password"] {
                if self.signed.written().any(|written| written == key) {
                    return Err(at(key, format!("`shared_secret` signs; `{key}` is for a private key")));
                }
            }
            if matches!(&self.signed.iss, Some(Public::Literal(iss)) if iss.contains(FINGERPRINT)) {
                return Err(at("iss", format!("{FINGERPRINT} is of a public key, and `shared_secret` has none")));
            }
        } else if self.shared_secret_encoding.is_some() {
            return Err(at("shared_secret_encoding", "it says how `shared_secret` is written, and there is none"));
        }
        if let Some(name) = TIMES.iter().find(|name| self.signed.additional_claims.contains_key(**name)) {
            let why = "each JWT has its own times: `max_minutes` is its lifetime, `backdate` moves `iat` into the past";
            return Err(at(format!("additional_claims.{name}"), why));
        }
        self.signed.check("")?;
        self.additional_headers.check_single()?;
        let own = self.place().header();
        self.additional_headers.check(own.as_ref().map(|own| (own, "the JWT itself stands in this header")))
    }

    fn check_fetched(&self, url: &Public) -> Result<(), SettingsError> {
        if let Public::Literal(url) = url {
            endpoint(url, self.allow_cleartext).map_err(|why| at("token_url", why))?;
        }
        let basic = match (&self.basic_auth_username, &self.basic_auth_password) {
            (Some(username), Some(_)) => {
                if matches!(username, Public::Literal(name) if name.contains(':')) {
                    return Err(at("basic_auth_username", "a user name cannot hold a colon (RFC 7617)"));
                }
                true
            }
            (None, None) => false,
            (Some(_), None) => return Err(at("basic_auth_password", "it goes with `basic_auth_username`")),
            (None, Some(_)) => return Err(at("basic_auth_username", "it goes with `basic_auth_password`")),
        };
        let key = self.api_key.as_ref().map(ApiKey::place);
        if basic && key.is_some() {
            let why = "the request for a token is authenticated in one way: by `basic_auth_username` and \
                       `basic_auth_password`, or by `api_key`";
            return Err(at("api_key", why));
        }
        placement::check(key.as_slice())?;
        let taken = key.as_ref().and_then(Place::header).or_else(|| basic.then_some(AUTHORIZATION));
        let why = "the request for a token is authenticated in this header";
        self.additional_headers.check(taken.as_ref().map(|taken| (taken, why)))
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let public = [&self.token_url, &self.basic_auth_username].into_iter().flatten().filter_map(Public::reference);
        let key = self.api_key.as_ref().map(|api_key| &api_key.key);
        let secret = [&self.shared_secret, &self.basic_auth_password].into_iter().flatten().chain(key);
        let own = self.signed.references().chain(self.additional_headers.references());
        own.chain(public).chain(secret.map(SecretField::reference)).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let place = self.place();
        let headers = self.additional_headers.build(setup.secrets)?;
        let way = Way {
            location: place.location,
            field: place.field.to_owned(),
            prefix: place.prefix.to_owned(),
            beside: if self.token_url.is_some() { HeaderMap::new() } else { headers.clone() },
        };
        let owned = place.header().into_iter().chain(way.beside.keys().cloned()).collect();
        let source: Arc<dyn TokenSource> = match &self.token_url {
            Some(url) => Arc::new(self.service(setup, url, headers, way)?),
            None => Arc::new(self.signer(setup, way)?),
        };
        let key = setup.token_key(self)?;
        let handle = Arc::new(setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, source));
        Ok(Arc::new(Obtained { handle, owned, adds: place.adds().into_iter().collect() }))
    }
}

impl Settings {
    fn signer(&self, setup: &Setup<'_>, way: Way) -> Result<Signer, Unavailable> {
        let mut claims = self.signed.claims(setup, Claims::default())?;
        let key = match &self.shared_secret {
            Some(field) => {
                let encoding = self.shared_secret_encoding.unwrap_or(Encoding::Text);
                let secret = decoded(&setup.secrets.field(field)?, encoding);
                SigningKey::Shared(secret.map_err(|why| Unavailable(format!("shared_secret: {why}")))?)
            }
            None => {
                let key = self.signed.private_key(setup, "")?;
                if let Some(iss) = claims.issuer.as_mut().filter(|iss| iss.contains(FINGERPRINT)) {
                    let fingerprint = fingerprint(&key).map_err(|why| Unavailable(format!("signing_key: {why}")))?;
                    *iss = iss.replace(FINGERPRINT, &fingerprint);
                }
                SigningKey::Private(key)
            }
        };
        let assertion = self.signed.assertion(key, claims, false).map_err(Unavailable)?;
        Ok(Signer { assertion, random: Arc::clone(&setup.outside.random), way })
    }

    fn service(&self, setup: &Setup<'_>, url: &Public, headers: HeaderMap, way: Way) -> Result<Fetcher, Unavailable> {
        let secrets = setup.secrets;
        let text = secrets.public(url)?;
        let destination = endpoint(&text, self.allow_cleartext).map_err(|why| match url.reference() {
            // What it holds may be another secret, put there by mistake.
            Some(reference) => {
                Unavailable(format!("token_url: what {reference} holds is not an address that can be used"))
            }
            None => Unavailable(format!("token_url: {why}")),
        })?;
        let options = ClientOptions { allow_addresses: self.allow_addresses.clone(), ..ClientOptions::default() };
        let http = setup.outside.http.client(&destination, &options);
        let http = http.map_err(|why| Unavailable(format!("token_url: {why}")))?;
        let mut request = Request::builder().method(Method::GET).uri(&text).body(());
        let request = request.as_mut().map_err(|_| Unavailable("token_url: not an address".into()))?;
        *request.headers_mut() = headers;
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        let mut confidential: Vec<Secret> = Vec::new();
        let mut proof = Mutations::default();
        if let (Some(username), Some(password)) = (&self.basic_auth_username, &self.basic_auth_password) {
            let (username, password) = (secrets.public(username)?, secrets.field(password)?);
            let pair = Secret::new(STANDARD.encode([username.as_bytes(), b":", password.expose()].concat()));
            let basic = Place::usual(None, None, Some("Basic"));
            basic.put(&pair, &mut proof).map_err(|why| Unavailable(format!("basic_auth_password: {why}")))?;
            confidential.extend([password, pair]);
        }
        if let Some(api_key) = &self.api_key {
            let key = secrets.field(&api_key.key)?;
            api_key.place().put(&key, &mut proof).map_err(|why| Unavailable(format!("api_key.key: {why}")))?;
            confidential.push(key);
        }
        let mut head = std::mem::take(request).into_parts().0;
        proof.apply(&mut head).map_err(|_| Unavailable("token_url: it cannot carry the API key".into()))?;
        let marked = head.headers.values().filter(|value| value.is_sensitive());
        confidential.extend(marked.map(|value| Secret::new(value.as_bytes())));
        let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
        confidential.extend(query.map(|(_, value)| Secret::new(value.into_owned())));
        let unsaid = self.token_lifetime.unwrap_or(UNSAID_LIFETIME);
        Ok(Fetcher { service: Service::new(destination, http), head, confidential, unsaid, way })
    }
}

/// The bytes that a shared secret stands for.
fn decoded(secret: &Secret, encoding: Encoding) -> Result<Secret, &'static str> {
    let decoded = match encoding {
        Encoding::Text => secret.clone(),
        Encoding::Hex => {
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let whole = secret.expose().len().is_multiple_of(2) && secret.expose().iter().all(u8::is_ascii_hexdigit);
            let read: Option<Vec<u8>> = secret.expose().chunks(2).map(byte).collect();
            Secret::new(read.filter(|_| whole).ok_or("it is not hexadecimal")?)
        }
        Encoding::Base64 => {
            let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let either = [&alphabet::STANDARD, &alphabet::URL_SAFE];
            let read = either.iter().find_map(|set| GeneralPurpose::new(set, lenient).decode(secret.expose()).ok());
            Secret::new(read.ok_or("it is not base64")?)
        }
    };
    if decoded.expose().is_empty() { Err("it is empty") } else { Ok(decoded) }
}

/// `SHA256:` and the digest of the SubjectPublicKeyInfo in base64, as Snowflake shows it (`RSA_PUBLIC_KEY_FP`).
fn fingerprint(key: &PrivateKey) -> Result<String, String> {
    Ok(format!("SHA256:{}", STANDARD.encode(digest(&SHA256, &key.public_key()?))))
}

/// How a JWT goes with a call.
#[derive(Debug)]
struct Way {
    location: Location,
    field: String,
    prefix: String,
    /// Headers beside it.
    beside: HeaderMap,
}

impl Way {
    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let beside = self.beside.iter().map(|(name, value)| (name.clone(), value.clone()));
        let mut mutations = Mutations { set: beside.collect(), ..Mutations::default() };
        let place = Place { path: String::new(), location: self.location, field: &self.field, prefix: &self.prefix };
        let unfit = |why| Failure::new(FailureKind::Unavailable, format!("the JWT cannot be sent: {why}"));
        place.put(&token.secret, &mut mutations).map_err(unfit)?;
        Ok(Arc::new(Prepared::new(mutations)))
    }
}

/// Signs a JWT; nobody is asked.
#[derive(Debug)]
struct Signer {
    assertion: Assertion,
    random: Arc<dyn Random>,
    way: Way,
}

impl TokenSource for Signer {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        let signed = self.assertion.sign(now, &*self.random);
        let token = signed.map(|secret| Token { secret, expires_at: now + self.assertion.remaining() });
        Box::pin(std::future::ready(token.map_err(|why| Failure::new(FailureKind::Unavailable, why))))
    }

    /// It is signed here, which costs less than to ask for it.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.way.authorizer(token)
    }
}

/// Fetches a JWT from where they are handed out.
struct Fetcher {
    service: Service,
    head: http::request::Parts,
    confidential: Vec<Secret>,
    unsaid: Duration,
    way: Way,
}

impl TokenSource for Fetcher {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let request = Request::from_parts(self.head.clone(), Vec::new());
            let rejected = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            let reply = self.service.call(request, &self.confidential, &rejected, now).await?;
            if reply.status() != StatusCode::OK {
                return Err(reply.unusable("200 is what a token comes with"));
            }
            // What is no JSON may be a page that is gone tomorrow; JSON without a token will not have one then either.
            reply.object()?;
            let without = |failure| Failure { kind: FailureKind::Refused, ..failure };
            let secret = reply.token("access_token").map_err(without)?;
            let said = reply.lifetime(now).map(|lifetime| now + lifetime);
            let expires_at = said.or_else(|| expiry(&secret)).unwrap_or(now + self.unsaid);
            Ok(Token { secret, expires_at })
        })
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.way.authorizer(token)
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may carry the key.
        write!(f, "Fetcher({:?})", self.service)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "rsa-pkcs8.pem";

    fn build(mut settings: serde_json::Value, secret: &str) -> Result<Arc<dyn Scheme>, String> {
        if settings.get("shared_secret").is_none() && settings.get("token_url").is_none() {
            settings["signing_key"] = json!({"env": "S"});
        }
        let draft = (KIND.parse)(settings).map_err(|error| format!("{}: {}", error.path, error.message))?;
        let secret = if secret.ends_with(".pem") {
            let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys");
            std::fs::read_to_string(keys.join(secret)).unwrap()
        } else {
            secret.to_owned()
        };
        let secrets = [(SecretRef::Env { env: "S".into() }, Secret::new(secret))].into_iter().collect();
        crate::scheme::tests::build(&*draft, &secrets).map_err(|error| error.0)
    }

    /// What is signed, without the network there is none of here.
    async fn signed(settings: serde_json::Value, secret: &str) -> Arc<crate::token::Live> {
        let scheme = build(settings, secret).unwrap();
        let crate::scheme::Identity::Token(handle) = scheme.identity() else { panic!("no token") };
        handle.obtain().await.unwrap()
    }

    #[test]
    fn a_secret_is_read_as_it_is_written() {
        let read = |text: &str, encoding| decoded(&Secret::new(text), encoding).map(|secret| secret.expose().to_vec());
        assert_eq!(read("ab", Encoding::Text), Ok(b"ab".to_vec()));
        assert_eq!(read("00fF", Encoding::Hex), Ok(vec![0, 255]));
        for text in ["-_8", "-_8=", "+/8", "+/8="] {
            assert_eq!(read(text, Encoding::Base64), Ok(vec![0xfb, 0xff]), "{text}");
        }
        for (text, encoding) in
            [("+1", Encoding::Hex), ("abc", Encoding::Hex), ("", Encoding::Hex), ("!", Encoding::Base64)]
        {
            assert!(read(text, encoding).is_err(), "{text}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_one_that_openssl_makes() {
        let pem = Secret::new(include_str!("../../tests/vectors/keys/rsa-pkcs8.pem"));
        let key = PrivateKey::from_pem(&pem, None).unwrap();
        assert_eq!(fingerprint(&key).unwrap(), "SHA256:3Grfhhe6wrjQ6lml6VZW84bQ9sq92mbHADH0PfYLGgs=");
    }

    #[tokio::test]
    async fn one_jwt_serves_every_call_until_its_end_comes_near() {
        let scheme = build(json!({"iss": "me"}), KEY).unwrap();
        let crate::scheme::Identity::Token(handle) = scheme.identity() else { panic!("no token") };
        let (first, second) = (handle.obtain().await.unwrap(), handle.obtain().await.unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn what_is_the_schemes_own_follows_from_where_the_jwt_goes() {
        let owned = |settings| {
            let scheme = build(settings, KEY).unwrap();
            let names: Vec<String> = scheme.owned_headers().iter().map(ToString::to_string).collect();
            (names, scheme.adds())
        };
        let beside = json!({"additional_headers": {"X-Token-Type": "KEYPAIR_JWT"}});
        assert_eq!(owned(beside), (vec!["authorization".into(), "x-token-type".into()], vec![]));
        assert_eq!(owned(json!({"location": "query", "field": "jwt"})), (vec![], vec!["?jwt".to_owned()]));
        // On the request for a token, not beside it.
        let fetched = json!({"token_url": "https://id.test/", "additional_headers": {"X-Account": "1"}});
        let draft = (KIND.parse)(fetched).unwrap();
        let error = crate::scheme::tests::build(&*draft, &crate::base::Secrets::default()).unwrap_err();
        assert!(error.0.contains("nobody to call"), "{error}");
    }

    #[tokio::test]
    async fn debug_shows_neither_key_nor_token() {
        let live = signed(json!({"shared_secret": {"env": "S"}, "iss": "canary-issuer"}), "canary-secret").await;
        let text = format!("{live:?} {:?}", live.authorizer());
        assert!(!text.contains("eyJ") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn bad_keys_are_refused_with_their_path_and_without_their_content() {
        for (settings, secret, why) in [
            (json!({"iss": "me"}), "rsa-1024.pem", "signing_key: it has 1024 bits"),
            (json!({"iss": "me"}), "p521-pkcs8.pem", "signing_key: its curve"),
            (json!({"iss": "me"}), "rsa-encrypted-aes256.pem", "signing_key: it is encrypted"),
            (json!({"iss": "me"}), "certificate.pem", "signing_key: there is no private key"),
            (json!({"shared_secret": {"env": "S"}, "alg": "ES256"}), "canary", "ES256 does not sign with a shared"),
        ] {
            let error = build(settings, secret).unwrap_err();
            assert!(error.starts_with(why) && !error.contains("canary"), "{secret}: {error}");
        }
    }
}
