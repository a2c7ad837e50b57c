//! `login`: a request to a login address hands out a token, which then goes with every call: the way of the many services
//! that have a login of their own in place of OAuth2.

mod body;
mod inject;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use self::body::{Tree, form, is_confidential};
use self::inject::{Inject, Injection};
use self::session::{Borrowed, Login, Session, Wanted};
use super::basic::{self, check_username};
use super::{Draft, Identity, Kind, Loan, Scheme, SettingsError, Setup, at, is_reserved, settings};
use crate::base::request::is_spelling_of;
use crate::base::{ClientOptions, Destination, Protocol, Public, Secret, SecretField, SecretRef, Unavailable};
use crate::token::{Handle, KeyBuilder, Moment, Place, Service};

pub(super) const KIND: Kind = Kind {
    name: "login",
    about: "A token from a service's own login, put into headers, cookies or the query of every call",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Used when an answer says nothing of a lifetime. Short, since a token that ended earlier costs the caller a 401.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// What `token_lifetime` may say at most.
const LONGEST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The name that the one of `token` has in templates.
const TOKEN: &str = "token";

const NO_SECRET_HERE: &str =
    "a secret does not stand in this file; write { env: NAME }, { file: PATH } or { command: [PROGRAM] }";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    login_url: Public,
    /// POST unless said otherwise.
    method: Option<String>,
    #[serde(default)]
    form: BTreeMap<String, Public>,
    json: Option<Tree>,
    basic: Option<Basic>,
    /// Another credential that authenticates the login.
    credential: Option<String>,
    #[serde(default)]
    additional_headers: BTreeMap<String, Public>,
    /// Let the login's secrets travel over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that the login may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    /// PEM, for mutual TLS with the login.
    client_certificate: Option<SecretField>,
    client_key: Option<SecretField>,
    token: Option<Spot>,
    /// Further ones, by the names that templates have for them.
    #[serde(default)]
    tokens: BTreeMap<String, Spot>,
    lifetime: Option<Spot>,
    /// How long a token lives when the answer does not say.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    token_lifetime: Option<Duration>,
    #[serde(default, deserialize_with = "one_or_many")]
    inject: Vec<Inject>,
    /// Statuses by which the login refuses the credential; 401 and 403 unless said otherwise.
    rejected: Option<Vec<u16>>,
    /// Statuses of calls by which the service says that the token is no longer good; 401 unless said otherwise.
    expired: Option<Vec<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Basic {
    username: Public,
    password: SecretField,
}

/// A place in the login's answer, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spot {
    header: Option<String>,
    cookie: Option<String>,
    pointer: Option<String>,
    #[serde(default)]
    body: bool,
    /// Of a lifetime: what its text means; guessed when it is not said.
    form: Option<Moment>,
}

impl Spot {
    fn place(&self) -> Result<Place, String> {
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
    fn check(&self) -> Result<(), SettingsError> {
        if let Public::Literal(url) = &self.login_url {
            self.endpoint(url).map_err(|why| at("login_url", why))?;
        }
        self.method().map_err(|why| at("method", why))?;
        self.check_request()?;
        self.check_headers()?;
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

    fn method(&self) -> Result<Method, String> {
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

    fn check_headers(&self) -> Result<(), SettingsError> {
        for (name, value) in &self.additional_headers {
            let wrong = |why: &str| at(format!("additional_headers.{name}"), why);
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("not a header name"))?;
            if is_reserved(&header) {
                return Err(wrong("this header belongs to the request itself"));
            }
            if is_spelling_of(header.as_str(), "authorization") && (self.basic.is_some() || self.credential.is_some()) {
                return Err(wrong("the login authenticates in this header"));
            }
            if matches!(value, Public::Literal(text) if is_confidential(name, text)) {
                return Err(wrong(NO_SECRET_HERE));
            }
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

    fn endpoint(&self, url: &str) -> Result<Destination, String> {
        let endpoint = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        if endpoint.protocol() == Protocol::Http {
            if !self.allow_cleartext {
                return Err(
                    "the credential would travel unencrypted; use https, or set `allow_cleartext: true` on it".into()
                );
            }
            if self.client_certificate.is_some() {
                return Err("there is no TLS for the client certificate".into());
            }
        }
        Ok(endpoint)
    }

    /// Every token by its name.
    fn spots(&self) -> impl Iterator<Item = (&str, &Spot)> {
        let first = self.token.iter().map(|spot| (TOKEN, spot));
        first.chain(self.tokens.iter().map(|(name, spot)| (name.as_str(), spot)))
    }

    fn injects(&self) -> Vec<Inject> {
        if self.inject.is_empty() { vec![Inject::bearer()] } else { self.inject.clone() }
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let values = self.inject.iter().filter_map(Inject::value);
        let public = [Some(&self.login_url), self.basic.as_ref().map(|basic| &basic.username)].into_iter().flatten();
        let public = public.chain(self.form.values()).chain(self.additional_headers.values()).chain(values);
        let secret = [
            self.basic.as_ref().map(|basic| &basic.password),
            self.client_certificate.as_ref(),
            self.client_key.as_ref(),
        ];
        public
            .filter_map(Public::reference)
            .chain(secret.into_iter().flatten().map(SecretField::reference))
            .chain(self.json.iter().flat_map(Tree::references))
            .collect()
    }

    fn borrows(&self) -> Option<Loan<'_>> {
        let destination = match &self.login_url {
            Public::Literal(url) => Destination::from_upstream(url).ok(),
            Public::Reference(_) => None,
        };
        self.credential.as_deref().map(|credential| Loan { credential, destination })
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let secrets = setup.secrets;
        let unfit = |path: &str, why: String| Unavailable(format!("{path}: {why}"));
        let url = secrets.public(&self.login_url)?;
        let endpoint = self.endpoint(&url).map_err(|why| match self.login_url.reference() {
            // What it holds may be another secret, put there by mistake.
            Some(reference) => unfit("login_url", format!("what {reference} holds is not an address that can be used")),
            None => unfit("login_url", why),
        })?;
        let uri: Uri = url.parse().map_err(|_| unfit("login_url", "not an address".into()))?;
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some((secrets.field(certificate)?, secrets.field(key)?)),
            _ => None,
        };
        let options =
            ClientOptions { allow_addresses: self.allow_addresses.clone(), identity, ..ClientOptions::default() };
        let http = setup.outside.http.client(&endpoint, &options);
        let http = http.map_err(|why| unfit("client_certificate", why))?;
        // Every key as it is written, and what every reference gave: nothing that changes the token is left out.
        let mut key = KeyBuilder::new(setup.account, setup.credential).with("settings", format!("{self:?}"));
        let mut confidential = Vec::new();
        for reference in self.references() {
            let secret = secrets.get(reference)?;
            key = key.with(&reference.to_string(), secret.expose());
            confidential.push(secret);
        }
        let lender = &setup.outside.lender;
        if let Some(id) = &self.credential {
            let fingerprint = lender.fingerprint(id);
            let fingerprint = fingerprint.ok_or_else(|| unfit("credential", format!("there is no credential {id}")))?;
            key = key.with("credential", fingerprint);
        }
        let borrowed = self.credential.clone().map(|id| Borrowed { id, lender: Arc::clone(lender) });
        let (headers, body) = self.request(setup)?;
        let login = Login {
            service: Service::new(endpoint, http),
            method: self.method().map_err(|why| unfit("method", why))?,
            uri,
            headers,
            body,
            borrowed,
            confidential,
            rejected: statuses(self.rejected.as_deref(), &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]),
        };
        let place = |spot: &Spot| spot.place().map_err(|why| unfit("token", why));
        let tokens = self.spots().map(|(name, spot)| Ok((name.to_owned(), place(spot)?)));
        let wanted = Wanted {
            tokens: tokens.collect::<Result<_, Unavailable>>()?,
            lifetime: self.lifetime.as_ref().map(|spot| Ok((place(spot)?, spot.form))).transpose()?,
            unsaid_lifetime: self.token_lifetime.unwrap_or(UNSAID_LIFETIME),
        };
        let injections =
            self.injects().iter().map(|inject| Injection::of(inject, secrets)).collect::<Result<Vec<_>, _>>()?;
        let owned = injections.iter().filter_map(|injection| injection.header().cloned()).collect();
        let mut adds: Vec<String> = injections.iter().filter_map(Injection::adds).collect();
        adds.dedup();
        let expired = statuses(self.expired.as_deref(), &[StatusCode::UNAUTHORIZED]);
        let session = Session { login, wanted, injections, expired: expired.into() };
        let handle = setup.outside.tokens.handle(key.finish(), setup.credential, Arc::new(session));
        Ok(Arc::new(LoginScheme { handle: Arc::new(handle), owned, adds }))
    }
}

impl Settings {
    /// Headers and body of the login.
    fn request(&self, setup: &Setup<'_>) -> Result<(HeaderMap, Secret), Unavailable> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = match &self.json {
            Some(tree) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Secret::new(tree.filled(setup.secrets)?.to_string())
            }
            None if self.form.is_empty() => Secret::new(""),
            None => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                form(&self.form, setup.secrets)?
            }
        };
        if let Some(Basic { username, password }) = &self.basic {
            let value = basic::header(&setup.secrets.public(username)?, &setup.secrets.field(password)?);
            headers.insert(AUTHORIZATION, value.map_err(|error| Unavailable(format!("basic.{}", error.0)))?);
        }
        for (name, field) in &self.additional_headers {
            let unfit = || Unavailable(format!("additional_headers.{name}: it cannot be sent in a header"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            let mut value = HeaderValue::from_str(&setup.secrets.public(field)?).map_err(|_| unfit())?;
            value.set_sensitive(field.reference().is_some());
            headers.insert(header, value);
        }
        Ok((headers, body))
    }
}

fn statuses(written: Option<&[u16]>, default: &[StatusCode]) -> Vec<StatusCode> {
    match written {
        Some(written) => written.iter().filter_map(|status| StatusCode::from_u16(*status).ok()).collect(),
        None => default.to_vec(),
    }
}

#[derive(Debug)]
struct LoginScheme {
    handle: Arc<Handle>,
    owned: Vec<HeaderName>,
    adds: Vec<String>,
}

impl Scheme for LoginScheme {
    fn owned_headers(&self) -> &[HeaderName] {
        &self.owned
    }

    fn adds(&self) -> Vec<String> {
        self.adds.clone()
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Network, answer, built, parsed, signed};
    use super::*;
    use crate::base::Code;

    fn minimal() -> Value {
        json!({"login_url": "https://login.test/login", "form": {"user": "u", "password": {"env": "P"}}, "token": {"pointer": "/token"}})
    }

    fn with(changes: Value) -> Value {
        let mut settings = minimal();
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        settings
    }

    #[test]
    fn every_mistake_is_named_where_it_is_written() {
        assert!(parsed(&KIND, minimal()).is_ok());
        for (change, path) in [
            (json!({"login_url": "http://login.test/"}), "login_url: the credential would travel"),
            (json!({"login_url": "login.test"}), "login_url:"),
            (json!({"method": "DELETE"}), "method: POST, PUT or GET"),
            (json!({"method": "GET"}), "method: a GET has no body"),
            (json!({"json": {"a": 1}}), "json: a login has one body"),
            (json!({"form": {"password": "hunter2"}}), "form.password: a secret does not stand"),
            (json!({"basic": {"username": "u:v", "password": {"env": "P"}}}), "basic.username: a user name"),
            (
                json!({"basic": {"username": "u", "password": {"env": "P"}}, "credential": "x"}),
                "credential: a login is",
            ),
            (json!({"form": {"user": "u"}}), ": a login says who asks"),
            (json!({"additional_headers": {"Host": "x"}}), "additional_headers.Host: this header"),
            (json!({"additional_headers": {"x-api-key": "hunter2"}}), "additional_headers.x-api-key: a secret"),
            (json!({"client_certificate": {"env": "C"}}), "client_certificate: `client_certificate` and"),
            (json!({"token": null}), "token: where in the answer"),
            (json!({"token": {"pointer": "token"}}), "token: `token`: a JSON pointer begins"),
            (json!({"token": {"pointer": "/a", "header": "b"}}), "token: it is in one place"),
            (json!({"token": {"pointer": "/a", "form": "seconds"}}), "token.form: it goes with `lifetime`"),
            (json!({"tokens": {"csrf": {"header": "x-csrf"}}}), "inject: the token {csrf} goes nowhere"),
            (json!({"tokens": {"token": {"header": "x-csrf"}}}), "tokens.token: it has a key"),
            (json!({"tokens": {"a-b": {"header": "x-csrf"}}}), "tokens.a-b: a name has letters"),
            (json!({"lifetime": {"cookie": "a", "form": "date"}}), "lifetime.form: of a cookie"),
            (json!({"token_lifetime": "400d"}), "token_lifetime: at most a year"),
            (json!({"inject": {"header": "Cookie"}}), "inject: Cookie belongs"),
            (json!({"rejected": [200]}), "rejected: statuses from 400 to 499"),
            (json!({"rejected": [429]}), "rejected: statuses from 400 to 499"),
            (json!({"expired": [500]}), "expired: statuses from 300 to 499"),
        ] {
            let error = parsed(&KIND, with(change)).unwrap_err();
            assert!(error.starts_with(path), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = parsed(&KIND, with(json!({"json": {"a": {"password": "hunter2"}}, "form": {}}))).unwrap_err();
        assert!(error.starts_with("json.a.password: a secret"), "{error}");
    }

    #[test]
    fn a_login_address_from_a_reference_is_not_repeated_when_it_is_none() {
        let settings = with(json!({"login_url": {"env": "URL"}}));
        let error = built(&KIND, settings, &Network::default()).unwrap_err();
        assert!(error.contains("environment variable URL") && !error.contains("secret-of"), "{error}");
    }

    #[test]
    fn every_reference_changes_the_token_and_is_asked_for() {
        let settings = json!({
            "login_url": {"env": "A"}, "json": {"x": [{"env": "B"}]}, "basic": {"username": {"env": "C"}, "password": {"env": "D"}},
            "additional_headers": {"x": {"env": "E"}}, "client_certificate": {"env": "F"}, "client_key": {"env": "G"},
            "token": {"body": true}, "inject": [{"header": "a"}, {"header": "b", "value": {"env": "H"}}],
        });
        let draft = parsed(&KIND, settings).unwrap();
        let mut names: Vec<String> = draft.references().into_iter().map(ToString::to_string).collect();
        names.sort();
        let expected: Vec<_> = "ABCDEFGH".chars().map(|name| format!("environment variable {name}")).collect();
        assert_eq!(names, expected);
    }

    #[tokio::test]
    async fn a_login_borrows_another_credential() {
        let network = Network::answering([answer(201, &[], r#"{"token": "t1"}"#)]);
        let settings =
            json!({"login_url": "https://login.test/x", "credential": "other", "token": {"pointer": "/token"}});
        let draft = parsed(&KIND, settings.clone()).unwrap();
        let loan = draft.borrows().unwrap();
        assert_eq!((loan.credential, loan.destination.unwrap().to_string()), ("other", "https://login.test".into()));
        let scheme = built(&KIND, settings.clone(), &network).unwrap();
        let mutations = signed(&*scheme).await.unwrap();
        assert_eq!(mutations.set, [(AUTHORIZATION, HeaderValue::from_static("Bearer t1"))]);
        let asked = network.asked();
        assert_eq!((asked.len(), &asked[0].headers()["x-lent"]), (1, &HeaderValue::from_static("lent-secret-value")));
        let mut none = settings;
        none["credential"] = "nobody".into();
        assert_eq!(built(&KIND, none, &network).unwrap_err(), "credential: there is no credential nobody");
    }

    #[tokio::test]
    async fn what_the_service_says_decides_who_is_told_what_and_repeats_no_secret() {
        let said = r#"{"error": "denied", "message": "you sent secret-of-P and lent-secret-value"}"#;
        for (status, body, rejected, code, words) in [
            (401, said, None, Code::CredentialRejected, "answered 401 denied: you sent [redacted]"),
            (403, "<html>", None, Code::CredentialRejected, "answered 403"),
            (400, said, None, Code::CredentialRejected, "answered 400 denied"),
            (400, said, Some(json!([400])), Code::CredentialRejected, "answered 400 denied"),
            (404, "", None, Code::CredentialRejected, "answered 404"),
            (500, "<html>", None, Code::TokenEndpointUnavailable, "answered 500"),
            (429, said, None, Code::TokenEndpointUnavailable, "answered 429"),
            (200, "", None, Code::TokenEndpointUnavailable, "there is no token at /token in its JSON"),
            (200, "<html>", None, Code::TokenEndpointUnavailable, "there is no token"),
            (200, r#"{"token": ""}"#, None, Code::TokenEndpointUnavailable, "there is no token"),
            (200, r#"{"token": "a\nb"}"#, None, Code::TokenEndpointUnavailable, "cannot be sent in a header"),
            (200, said, None, Code::CredentialRejected, "no token at /token in its JSON: denied: you sent [redacted]"),
            (302, "", None, Code::TokenEndpointUnavailable, "no redirect is followed"),
        ] {
            let network = Network::answering([answer(status, &[], body)]);
            let mut settings = with(json!({"credential": "other"}));
            if let Some(rejected) = rejected {
                settings["rejected"] = rejected;
            }
            let scheme = built(&KIND, settings, &network).unwrap();
            let refusal = signed(&*scheme).await.unwrap_err();
            assert_eq!(refusal.code, code, "{status} {body}: {refusal}");
            assert!(refusal.detail.contains(words), "{status} {body}: {refusal}");
            assert!(!refusal.detail.contains("secret-of-P") && !refusal.detail.contains("lent-secret"), "{refusal}");
            // What was refused is remembered: no retry storm.
            assert!(signed(&*scheme).await.is_err());
            assert_eq!(network.asked().len(), 1, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn several_tokens_go_where_each_belongs() {
        let headers = [("set-cookie", "SID=s%3A1; HttpOnly"), ("X-CSRF-Token", "c1")];
        let network = Network::answering([answer(200, &headers, "{}")]);
        let scheme = built(
            &KIND,
            with(json!({
                "token": {"cookie": "SID"}, "tokens": {"csrf": {"header": "x-csrf-token"}},
                "inject": [{"cookie": "SID"}, {"header": "X-CSRF-Token", "value": "{csrf}"}, {"header": "X-Requested-With", "value": "x"}],
            })),
            &network,
        );
        let scheme = scheme.unwrap();
        assert_eq!(scheme.owned_headers(), ["x-csrf-token", "x-requested-with"]);
        assert_eq!(scheme.adds(), ["cookie"]);
        let mutations = signed(&*scheme).await.unwrap();
        assert_eq!(mutations.cookies[0].1.expose_str(), Some("s%3A1"));
        assert_eq!((mutations.set[0].1.to_str().unwrap(), mutations.set[1].1.to_str().unwrap()), ("c1", "x"));
        assert!(!format!("{mutations:?}").contains("c1"), "marked sensitive");
    }
}
