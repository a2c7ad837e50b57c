//! The keys of `login`, and what must fit together in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use http::header::{AUTHORIZATION, HeaderName};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::super::basic::check_username;
use super::super::fields::{AdditionalHeaders, endpoint};
use super::super::{Draft, SettingsError, at};
use super::body::{Tree, is_confidential};
use super::inject::{self, Inject};
use crate::base::{Destination, Protocol, Public, SecretField};
use crate::token::{Moment, Place};

/// What `token_lifetime` may say at most.
const LONGEST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The name that the one of `token` has in templates.
pub(super) const TOKEN: &str = "token";

const NO_SECRET_HERE: &str =
    "a secret does not stand in this file; write { env: NAME }, { file: PATH } or { command: [PROGRAM] }";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) login_url: Public,
    /// POST unless said otherwise.
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) form: BTreeMap<String, Public>,
    pub(super) json: Option<Tree>,
    pub(super) basic: Option<Basic>,
    /// Another credential that authenticates the login.
    pub(super) credential: Option<String>,
    #[serde(default)]
    pub(super) additional_headers: AdditionalHeaders,
    /// Let the login's secrets travel over `http://`.
    #[serde(default)]
    pub(super) allow_cleartext: bool,
    /// Addresses normally refused that the login may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    pub(super) allow_addresses: Vec<IpNet>,
    /// PEM, for mutual TLS with the login.
    pub(super) client_certificate: Option<SecretField>,
    pub(super) client_key: Option<SecretField>,
    pub(super) token: Option<Spot>,
    /// Further ones, by the names that templates have for them.
    #[serde(default)]
    pub(super) tokens: BTreeMap<String, Spot>,
    pub(super) lifetime: Option<Spot>,
    /// How long a token lives when the answer does not say.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    pub(super) token_lifetime: Option<Duration>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) inject: Vec<Inject>,
    /// Statuses by which the login refuses the credential; 401 and 403 unless said otherwise.
    pub(super) rejected: Option<Vec<u16>>,
    /// Statuses of calls by which the service says that the token is no longer good; 401 unless said otherwise.
    pub(super) expired: Option<Vec<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Basic {
    pub(super) username: Public,
    pub(super) password: SecretField,
}

/// A place in the login's answer, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spot {
    pub(super) header: Option<String>,
    pub(super) cookie: Option<String>,
    pub(super) pointer: Option<String>,
    #[serde(default)]
    pub(super) body: bool,
    /// Of a lifetime: what its text means; guessed when it is not said.
    pub(super) form: Option<Moment>,
}

impl Spot {
    pub(super) fn place(&self) -> Result<Place, String> {
        match (&self.header, &self.cookie, &self.pointer, self.body) {
            (Some(name), None, None, false) => {
                let header = HeaderName::from_bytes(name.as_bytes());
                header.map(Place::Header).map_err(|_| format!("`{name}` is not a header name"))
            }
            (None, Some(name), None, false) if !name.is_empty() => Ok(Place::Cookie(name.clone())),
            (None, None, Some(pointer), false) if pointer.starts_with('/') => Ok(Place::Pointer(pointer.clone())),
            (None, None, Some(pointer), false) => {
                Err(format!("`{pointer}`: a JSON pointer begins with `/`, as in /data/token (RFC 6901)"))
            }
            (None, None, None, true) => Ok(Place::Body),
            _ => {
                Err("it is in one place: write `header: NAME`, `cookie: NAME`, `pointer: /a/b` or `body: true`".into())
            }
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Inject>, D::Error> {
    // Through a value, so that the error is the one of the form that was written.
    match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(Inject::deserialize).collect::<Result<_, _>>(),
        value => Inject::deserialize(value).map(|one| vec![one]),
    }
    .map_err(de::Error::custom)
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if let Public::Literal(url) = &self.login_url {
            self.endpoint(url).map_err(|why| at("login_url", why))?;
        }
        self.method().map_err(|why| at("method", why))?;
        self.check_request()?;
        let taken = self.basic.is_some() || self.credential.is_some();
        let taken = taken.then_some((&AUTHORIZATION, "the login authenticates in this header"));
        self.additional_headers.check(taken)?;
        self.check_answer()?;
        let tokens: BTreeSet<String> = self.spots().map(|(name, _)| name.to_owned()).collect();
        inject::check(&self.injects(), &tokens)?;
        for (key, statuses, range) in [("rejected", &self.rejected, 400..=499), ("expired", &self.expired, 300..=499)] {
            let wrong = statuses.iter().flatten().any(|status| !range.contains(status) || [408, 429].contains(status));
            if wrong {
                let (first, last) = range.into_inner();
                return Err(at(key, format!("statuses from {first} to {last}, and neither 408 nor 429")));
            }
        }
        Ok(())
    }

    pub(super) fn method(&self) -> Result<Method, String> {
        match self.method.as_deref().unwrap_or("POST") {
            "POST" => Ok(Method::POST),
            "PUT" => Ok(Method::PUT),
            "GET" if !self.form.is_empty() || self.json.is_some() => {
                Err("a GET has no body; use `basic`, or POST".into())
            }
            "GET" => Ok(Method::GET),
            _ => Err("POST, PUT or GET".into()),
        }
    }

    fn check_request(&self) -> Result<(), SettingsError> {
        if !self.form.is_empty() && self.json.is_some() {
            return Err(at("json", "a login has one body: `form` or `json`"));
        }
        if self.basic.is_some() && self.credential.is_some() {
            return Err(at("credential", "a login is authenticated in one way: `basic` or `credential`"));
        }
        if let Some(Basic { username: Public::Literal(username), .. }) = &self.basic {
            check_username(username).map_err(|why| at("basic.username", why))?;
        }
        for (name, value) in &self.form {
            if matches!(value, Public::Literal(text) if is_confidential(name, text)) {
                return Err(at(format!("form.{name}"), NO_SECRET_HERE));
            }
        }
        if let Some(path) = self.json.as_ref().and_then(Tree::written_secret) {
            return Err(at(format!("json.{path}"), NO_SECRET_HERE));
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return Err(at("client_certificate", "`client_certificate` and `client_key` go together"));
        }
        if self.references().is_empty() && self.credential.is_none() {
            let why = "a login says who asks: by `form`, `json`, `basic`, `credential`, a header or a certificate";
            return Err(at("", why));
        }
        Ok(())
    }

    fn check_answer(&self) -> Result<(), SettingsError> {
        if self.token.is_none() && self.tokens.is_empty() {
            let why =
                "where in the answer is it? Write `header: NAME`, `cookie: NAME`, `pointer: /a/b` or `body: true`";
            return Err(at("token", why));
        }
        if self.token.is_some() && self.tokens.contains_key(TOKEN) {
            return Err(at("tokens.token", "it has a key of its own: `token`"));
        }
        for (name, spot) in self.spots() {
            let path = if self.tokens.contains_key(name) { format!("tokens.{name}") } else { TOKEN.to_owned() };
            spot.place().map_err(|why| at(&path, why))?;
            if spot.form.is_some() {
                return Err(at(format!("{path}.form"), "it goes with `lifetime`"));
            }
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(at(path, "a name has letters, digits and `_`"));
            }
        }
        if let Some(spot) = &self.lifetime {
            spot.place().map_err(|why| at("lifetime", why))?;
            if spot.cookie.is_some() && spot.form.is_some() {
                return Err(at("lifetime.form", "of a cookie, its Max-Age or Expires is read"));
            }
        }
        if self.token_lifetime.is_some_and(|lifetime| lifetime > LONGEST_LIFETIME) {
            return Err(at("token_lifetime", "at most a year"));
        }
        Ok(())
    }

    pub(super) fn endpoint(&self, url: &str) -> Result<Destination, String> {
        let endpoint = endpoint(url, self.allow_cleartext)?;
        if endpoint.protocol() == Protocol::Http && self.client_certificate.is_some() {
            return Err("there is no TLS for the client certificate".into());
        }
        Ok(endpoint)
    }

    /// Every token by its name.
    pub(super) fn spots(&self) -> impl Iterator<Item = (&str, &Spot)> {
        let first = self.token.iter().map(|spot| (TOKEN, spot));
        first.chain(self.tokens.iter().map(|(name, spot)| (name.as_str(), spot)))
    }

    pub(super) fn injects(&self) -> Vec<Inject> {
        if self.inject.is_empty() { vec![Inject::bearer()] } else { self.inject.clone() }
    }
}
