//! `oauth2`: an access token from a token endpoint, sent as `Authorization: Bearer` (RFC 6749, 6750, 7523, 8705, 8707).
//!
//! The fields are those of Flexera cred/v2 `oauth2`, without the level between the credential and its parameters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::{Draft, Identity, Kind, Scheme, SettingsError, Setup, at, is_reserved, settings};
use crate::base::request::is_spelling_of;
use crate::base::{Authorizer, BoxFuture, ClientOptions, Destination, Mutations, Prepared, Protocol, Random, Secret};
use crate::base::{Public, SecretField, SecretRef, Unavailable};
use crate::token::{
    Algorithm, Answer, Assertion, AssertionParts, ClientAuth, Endpoint, ExchangeError, Failure, FailureKind, Grant,
    Handle, KeyBuilder, Param, PrivateKey, RefreshReuse, Rotation, Token, TokenRequest, TokenSource,
};

pub(super) const KIND: Kind = Kind {
    name: "oauth2",
    about: "An access token from a token endpoint, by client credentials, a refresh token or a signed assertion",
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

/// Form fields that have keys of their own.
const OWN_PARAMS: [&str; 7] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "assertion",
    "refresh_token",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GrantType {
    ClientCredentials,
    RefreshToken,
    JwtBearer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthMethod {
    Form,
    Basic,
    BasicRaw,
    ClientSecretJwt,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    grant_type: GrantType,
    token_url: Public,
    /// Let the client's secret travel to the token endpoint over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that the token endpoint may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    /// Where the secret goes: `form` for `client_secret`, `basic` for `client_password`, unless this says otherwise.
    client_auth: Option<AuthMethod>,
    client_id: Option<Public>,
    client_secret: Option<SecretField>,
    client_user: Option<Public>,
    client_password: Option<SecretField>,
    client_assertion: Option<ClientAssertion>,
    /// PEM, for mutual TLS with the token endpoint.
    client_certificate: Option<SecretField>,
    client_key: Option<SecretField>,
    #[serde(default)]
    scopes: OneOrMany,
    audience: Option<Public>,
    #[serde(default)]
    resource: OneOrMany,
    #[serde(default)]
    additional_params: BTreeMap<String, Public>,
    #[serde(default)]
    additional_headers: BTreeMap<String, OneOrMany>,
    /// How long a token lives when the answer does not say.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    token_lifetime: Option<Duration>,
    // grant_type: refresh_token
    token: Option<SecretField>,
    #[serde(default)]
    refresh_reuse: Option<RefreshReuse>,
    // grant_type: jwt_bearer
    iss: Option<Public>,
    signing_key: Option<SecretField>,
    signing_key_password: Option<SecretField>,
    sub: Option<Public>,
    aud: Option<Public>,
    alg: Option<Algorithm>,
    #[serde(default)]
    additional_claims: Map<String, Value>,
    #[serde(default)]
    jwt_headers: Map<String, Value>,
    #[serde(default)]
    include_jti: bool,
    max_minutes: Option<u32>,
}

/// `private_key_jwt`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientAssertion {
    #[serde(default, rename = "assertion_type")]
    _assertion_type: AssertionType,
    /// The client id unless said otherwise.
    iss: Option<Public>,
    signing_key: SecretField,
    signing_key_password: Option<SecretField>,
    /// The issuer unless said otherwise (RFC 7523 section 3).
    sub: Option<Public>,
    aud: Option<Public>,
    alg: Option<Algorithm>,
    #[serde(default)]
    additional_claims: Map<String, Value>,
    #[serde(default)]
    jwt_headers: Map<String, Value>,
    /// OpenID Connect wants one, and nobody refuses it.
    #[serde(default = "yes")]
    include_jti: bool,
    max_minutes: Option<u32>,
}

fn yes() -> bool {
    true
}

/// There is one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AssertionType {
    #[default]
    JwtBearer,
}

/// One text or a list of them.
#[derive(Debug, Default)]
struct OneOrMany(Vec<Public>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through a value, so that the error is the one of the form that was written.
        match Value::deserialize(deserializer)? {
            Value::Array(values) => values.into_iter().map(Public::deserialize).collect::<Result<_, _>>(),
            value => Public::deserialize(value).map(|one| vec![one]),
        }
        .map(Self)
        .map_err(de::Error::custom)
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if let Public::Literal(url) = &self.token_url {
            self.endpoint(url).map_err(|why| at("token_url", why))?;
        }
        self.check_client()?;
        self.check_grant()?;
        self.check_assertions()?;
        if self.token_lifetime.is_some_and(|lifetime| lifetime > LONGEST_LIFETIME) {
            return Err(at("token_lifetime", "at most a year"));
        }
        self.check_params()?;
        self.check_headers()
    }

    /// What assertions are made of, of the grant's and of the client's.
    fn check_assertions(&self) -> Result<(), SettingsError> {
        let own = ("", &self.additional_claims, &self.jwt_headers, self.max_minutes);
        let client = self.client_assertion.as_ref();
        let client =
            client.map(|part| ("client_assertion.", &part.additional_claims, &part.jwt_headers, part.max_minutes));
        for (path, claims, headers, minutes) in [own].into_iter().chain(client) {
            if minutes.is_some_and(|minutes| !(1..=1440).contains(&minutes)) {
                return Err(at(format!("{path}max_minutes"), "from 1 to 1440"));
            }
            for (key, values) in [("additional_claims", claims), ("jwt_headers", headers)] {
                if let Some((name, _)) = values.iter().find(|(_, value)| looks_like_a_reference(value)) {
                    let why = "it is sent as it is written here; references are not read";
                    return Err(at(format!("{path}{key}.{name}"), why));
                }
            }
            if let Some(name) = ["crit", "b64"].into_iter().find(|name| headers.contains_key(*name)) {
                let why = "extensions of JWS that must be understood are not spoken here";
                return Err(at(format!("{path}jwt_headers.{name}"), why));
            }
        }
        Ok(())
    }

    fn check_params(&self) -> Result<(), SettingsError> {
        for (index, scope) in self.scopes.0.iter().enumerate() {
            if matches!(scope, Public::Literal(text) if text.trim().is_empty()) {
                return Err(at(format!("scopes[{index}]"), "an empty scope; leave it out"));
            }
        }
        for (name, value) in &self.additional_params {
            let confidential = ["password", "passwd", "secret", "token"].iter().any(|end| name.ends_with(end));
            if confidential && value.reference().is_none() {
                let why = "a secret does not stand in this file; write { env: NAME }, { file: PATH } or { command: [PROGRAM] }";
                return Err(at(format!("additional_params.{name}"), why));
            }
        }
        for name in self.additional_params.keys() {
            let twice = match name.as_str() {
                "scope" => !self.scopes.0.is_empty(),
                "audience" => self.audience.is_some(),
                "resource" => !self.resource.0.is_empty(),
                name => OWN_PARAMS.contains(&name),
            };
            if twice {
                return Err(at(format!("additional_params.{name}"), "it has a key of its own"));
            }
        }
        Ok(())
    }

    fn check_headers(&self) -> Result<(), SettingsError> {
        for name in self.additional_headers.keys() {
            let wrong = |why: &str| at(format!("additional_headers.{name}"), why);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("not a header name"))?;
            if is_reserved(&name) || is_spelling_of(name.as_str(), "content-type") {
                return Err(wrong("this header belongs to the request itself"));
            }
            if name == AUTHORIZATION && self.is_basic() {
                return Err(wrong("the client authenticates in this header"));
            }
        }
        Ok(())
    }

    fn endpoint(&self, url: &str) -> Result<Destination, String> {
        let endpoint = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        if endpoint.protocol() == Protocol::Http && !self.allow_cleartext {
            return Err(
                "the credential would travel unencrypted; use https, or set `allow_cleartext: true` on it".into()
            );
        }
        Ok(endpoint)
    }

    fn uses_client_secret_jwt(&self) -> bool {
        self.client_auth == Some(AuthMethod::ClientSecretJwt)
    }

    fn is_basic(&self) -> bool {
        match self.client_auth {
            Some(method) => matches!(method, AuthMethod::Basic | AuthMethod::BasicRaw),
            None => self.client_password.is_some(),
        }
    }

    fn id(&self) -> Option<&Public> {
        self.client_id.as_ref().or(self.client_user.as_ref())
    }

    fn secret(&self) -> Option<&SecretField> {
        self.client_secret.as_ref().or(self.client_password.as_ref())
    }

    fn check_client(&self) -> Result<(), SettingsError> {
        if self.client_id.is_some() && self.client_user.is_some() {
            return Err(at("client_user", "`client_id` and `client_user` are two names of one thing; write one"));
        }
        if self.client_secret.is_some() && self.client_password.is_some() {
            return Err(at(
                "client_password",
                "`client_secret` and `client_password` are two names of one thing; write one",
            ));
        }
        if self.secret().is_some() && self.id().is_none() {
            return Err(at(
                "",
                "a client secret needs `client_id` (sent in the form) or `client_user` (sent as Basic)",
            ));
        }
        if self.client_auth.is_some() && self.secret().is_none() {
            return Err(at("client_auth", "it says where `client_secret` goes, and there is none"));
        }
        if let Some(assertion) = &self.client_assertion {
            if self.secret().is_some() {
                return Err(at(
                    "client_assertion",
                    "a client authenticates in one way: by its secret or by an assertion",
                ));
            }
            if assertion.iss.is_none() && self.id().is_none() {
                return Err(at("client_assertion.iss", "`iss` is needed, or `client_id`"));
            }
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return Err(at("client_certificate", "`client_certificate` and `client_key` go together"));
        }
        if self.client_certificate.is_some() && self.id().is_none() {
            return Err(at("client_certificate", "it needs `client_id` (RFC 8705 section 2)"));
        }
        let known = self.secret().is_some() || self.client_assertion.is_some() || self.client_certificate.is_some();
        if self.grant_type == GrantType::ClientCredentials && !known {
            return Err(at(
                "",
                "client_credentials needs a client: `client_id` and `client_secret`, `client_user` and \
                 `client_password`, `client_assertion`, or `client_certificate` and `client_key`",
            ));
        }
        Ok(())
    }

    fn check_grant(&self) -> Result<(), SettingsError> {
        let assertion = [
            ("iss", self.iss.is_some()),
            ("signing_key", self.signing_key.is_some()),
            ("signing_key_password", self.signing_key_password.is_some()),
            ("sub", self.sub.is_some()),
            // These three are for client_secret_jwt too.
            ("aud", self.aud.is_some() && !self.uses_client_secret_jwt()),
            ("alg", self.alg.is_some() && !self.uses_client_secret_jwt()),
            ("max_minutes", self.max_minutes.is_some() && !self.uses_client_secret_jwt()),
            ("additional_claims", !self.additional_claims.is_empty()),
            ("jwt_headers", !self.jwt_headers.is_empty()),
            ("include_jti", self.include_jti),
        ];
        let refresh = [("token", self.token.is_some()), ("refresh_reuse", self.refresh_reuse.is_some())];
        let (needed, foreign): (&[&str], Vec<_>) = match self.grant_type {
            GrantType::ClientCredentials => (&[], assertion.iter().chain(&refresh).copied().collect()),
            GrantType::RefreshToken => (&["token"], assertion.to_vec()),
            GrantType::JwtBearer => (&["iss", "signing_key"], refresh.to_vec()),
        };
        for name in needed {
            if assertion.iter().chain(&refresh).any(|(key, set)| key == name && !set) {
                return Err(at(*name, format!("`{name}` is needed with this grant_type")));
            }
        }
        match foreign.into_iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(at(name, format!("`{name}` does not go with this grant_type"))),
            None => Ok(()),
        }
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let assertion = self.client_assertion.as_ref();
        let public = [
            Some(&self.token_url),
            self.id(),
            self.audience.as_ref(),
            self.iss.as_ref(),
            self.sub.as_ref(),
            self.aud.as_ref(),
        ];
        let in_assertion = assertion.map(|part| [part.iss.as_ref(), part.sub.as_ref(), part.aud.as_ref()]);
        let secret = [
            self.secret(),
            self.client_certificate.as_ref(),
            self.client_key.as_ref(),
            self.token.as_ref(),
            self.signing_key.as_ref(),
            self.signing_key_password.as_ref(),
            assertion.map(|part| &part.signing_key),
            assertion.and_then(|part| part.signing_key_password.as_ref()),
        ];
        public
            .into_iter()
            .chain(in_assertion.into_iter().flatten())
            .flatten()
            .chain(self.scopes.0.iter().chain(&self.resource.0))
            .chain(self.additional_params.values())
            .chain(self.additional_headers.values().flat_map(|values| &values.0))
            .filter_map(Public::reference)
            .chain(secret.into_iter().flatten().map(SecretField::reference))
            .collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let secrets = setup.secrets;
        let unfit = |path: &str, why: String| Unavailable(format!("{path}: {why}"));
        let url = secrets.public(&self.token_url)?;
        let endpoint = self.endpoint(&url).map_err(|why| match self.token_url.reference() {
            // What it holds may be another secret, put there by mistake.
            Some(reference) => unfit("token_url", format!("what {reference} holds is not an address that can be used")),
            None => unfit("token_url", why),
        })?;
        if endpoint.protocol() == Protocol::Http && self.client_certificate.is_some() {
            return Err(unfit("client_certificate", "there is no TLS with an http:// token_url".into()));
        }
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some((secrets.field(certificate)?, secrets.field(key)?)),
            _ => None,
        };
        let options =
            ClientOptions { allow_addresses: self.allow_addresses.clone(), identity, ..ClientOptions::default() };
        let http = setup.outside.http.client(&endpoint, &options);
        let http = http.map_err(|why| unfit("client_certificate", why))?;
        let endpoint = Endpoint::new(&url, http, self.headers(setup)?).map_err(|why| unfit("token_url", why))?;
        let source = Source {
            endpoint,
            client: self.client(setup, &url)?,
            grant: self.grant(setup, &url)?,
            scopes: self.scopes.0.iter().map(|scope| secrets.public(scope)).collect::<Result<_, _>>()?,
            params: self.params(setup)?,
            unsaid_lifetime: self.token_lifetime.unwrap_or(UNSAID_LIFETIME),
            random: Arc::clone(&setup.outside.random),
        };
        // Every key as it is written, and what every reference gave: nothing that changes the token is left out.
        let mut key = KeyBuilder::new(setup.account, setup.credential).with("settings", format!("{self:?}"));
        for reference in self.references() {
            key = key.with(&reference.to_string(), secrets.get(reference)?.expose());
        }
        let handle = setup.outside.tokens.handle(key.finish(), setup.credential, Arc::new(source));
        Ok(Arc::new(OAuth2 { handle: Arc::new(handle) }))
    }
}

impl Settings {
    fn headers(&self, setup: &Setup<'_>) -> Result<HeaderMap, Unavailable> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.additional_headers {
            let unfit = || Unavailable(format!("additional_headers.{name}: it cannot be sent in a header"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            for field in &values.0 {
                let value = setup.secrets.public(field)?;
                let mut value = HeaderValue::from_str(&value).map_err(|_| unfit())?;
                value.set_sensitive(field.reference().is_some());
                headers.append(header.clone(), value);
            }
        }
        Ok(headers)
    }

    fn params(&self, setup: &Setup<'_>) -> Result<Vec<Param>, Unavailable> {
        let audience = self.audience.iter().map(|value| ("audience", value));
        let resource = self.resource.0.iter().map(|value| ("resource", value));
        let further = self.additional_params.iter().map(|(name, value)| (name.as_str(), value));
        let all = audience.chain(resource).chain(further);
        let param = |(name, field): (&str, &Public)| {
            let value = Secret::new(setup.secrets.public(field)?);
            Ok(Param { name: name.to_owned(), value, confidential: field.reference().is_some() })
        };
        all.map(param).collect()
    }

    fn client(&self, setup: &Setup<'_>, url: &str) -> Result<ClientAuth, Unavailable> {
        let secrets = setup.secrets;
        let id = self.id().map(|id| secrets.public(id)).transpose()?;
        if let Some(part) = &self.client_assertion {
            let iss = part.iss.as_ref().map(|iss| secrets.public(iss)).transpose()?.or_else(|| id.clone());
            let iss = iss.unwrap_or_default();
            let assertion = AssertionParts {
                subject: Some(optional(setup, part.sub.as_ref())?.unwrap_or_else(|| iss.clone())),
                issuer: iss,
                key: private_key(setup, "client_assertion.", &part.signing_key, part.signing_key_password.as_ref())?,
                audience: optional(setup, part.aud.as_ref())?.unwrap_or_else(|| url.to_owned()),
                algorithm: part.alg,
                claims: part.additional_claims.clone(),
                headers: part.jwt_headers.clone(),
                include_jti: part.include_jti,
                lifetime: minutes(part.max_minutes),
            };
            let assertion = Assertion::new(assertion);
            let assertion = assertion.map_err(|why| Unavailable(format!("client_assertion: {why}")))?;
            return Ok(ClientAuth::Assertion(id, Box::new(assertion)));
        }
        let (Some(id), Some(secret)) = (id.clone(), self.secret()) else { return Ok(ClientAuth::None(id)) };
        let secret = secrets.field(secret)?;
        Ok(match self.client_auth {
            Some(AuthMethod::BasicRaw) => ClientAuth::BasicRaw(id, secret),
            Some(AuthMethod::ClientSecretJwt) => {
                // With an assertion as the grant, these keys are the grant's.
                let own = self.grant_type != GrantType::JwtBearer;
                let aud = optional(setup, self.aud.as_ref().filter(|_| own))?.unwrap_or_else(|| url.to_owned());
                let (alg, lifetime) = (self.alg.filter(|_| own), minutes(self.max_minutes.filter(|_| own)));
                let assertion = Assertion::shared(&secret, alg, &id, &aud, lifetime);
                let assertion = assertion.map_err(|why| Unavailable(format!("alg: {why}")))?;
                ClientAuth::Assertion(Some(id), Box::new(assertion))
            }
            _ if self.is_basic() => ClientAuth::Basic(id, secret),
            _ => ClientAuth::Form(id, secret),
        })
    }

    fn grant(&self, setup: &Setup<'_>, url: &str) -> Result<GrantSource, Unavailable> {
        Ok(match (self.grant_type, &self.token, &self.iss, &self.signing_key) {
            (GrantType::RefreshToken, Some(token), _, _) => {
                let token = setup.secrets.field(token)?;
                if token.expose_str().is_none() {
                    return Err(Unavailable("token: it is not text".into()));
                }
                // Without the credential's id: whoever renames a credential must not lose its token.
                let key = KeyBuilder::new(setup.account, "").with("url", url).with("token", token.expose()).finish();
                GrantSource::RefreshToken(Rotation::new(
                    Arc::clone(&setup.outside.state),
                    Arc::clone(&setup.outside.random),
                    &key,
                    token,
                    self.refresh_reuse.unwrap_or_default(),
                ))
            }
            (GrantType::JwtBearer, _, Some(iss), Some(signing_key)) => {
                let assertion = Assertion::new(AssertionParts {
                    key: private_key(setup, "", signing_key, self.signing_key_password.as_ref())?,
                    algorithm: self.alg,
                    issuer: setup.secrets.public(iss)?,
                    subject: optional(setup, self.sub.as_ref())?,
                    audience: optional(setup, self.aud.as_ref())?.unwrap_or_else(|| url.to_owned()),
                    claims: self.additional_claims.clone(),
                    headers: self.jwt_headers.clone(),
                    include_jti: self.include_jti,
                    lifetime: minutes(self.max_minutes),
                });
                GrantSource::JwtBearer(Box::new(assertion.map_err(Unavailable)?))
            }
            _ => GrantSource::ClientCredentials,
        })
    }
}

/// `{ env: X }` where a value is meant, however deep.
fn looks_like_a_reference(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            let named = ["env", "file", "command"].iter().any(|key| map.contains_key(*key));
            let alone = map.keys().all(|key| ["env", "file", "command", "expires"].contains(&key.as_str()));
            (named && alone) || map.values().any(looks_like_a_reference)
        }
        Value::Array(values) => values.iter().any(looks_like_a_reference),
        _ => false,
    }
}

/// An hour unless said otherwise, as cred/v2 has it.
fn minutes(minutes: Option<u32>) -> Duration {
    Duration::from_secs(u64::from(minutes.unwrap_or(60)) * 60)
}

/// Empty text means the default, as it does for `aud` in cred/v2.
fn optional(setup: &Setup<'_>, field: Option<&Public>) -> Result<Option<String>, Unavailable> {
    Ok(field.map(|field| setup.secrets.public(field)).transpose()?.filter(|text| !text.is_empty()))
}

fn private_key(
    setup: &Setup<'_>,
    path: &str,
    key: &SecretField,
    password: Option<&SecretField>,
) -> Result<PrivateKey, Unavailable> {
    let password = password.map(|password| setup.secrets.field(password)).transpose()?;
    let key = PrivateKey::from_pem(&setup.secrets.field(key)?, password.as_ref());
    key.map_err(|why| Unavailable(format!("{path}signing_key: {why}")))
}

#[derive(Debug)]
enum GrantSource {
    ClientCredentials,
    RefreshToken(Arc<Rotation>),
    JwtBearer(Box<Assertion>),
}

#[derive(Debug)]
struct Source {
    endpoint: Endpoint,
    client: ClientAuth,
    grant: GrantSource,
    scopes: Vec<String>,
    params: Vec<Param>,
    unsaid_lifetime: Duration,
    random: Arc<dyn Random>,
}

impl Source {
    async fn exchange(&self, grant: Grant<'_>, now: SystemTime) -> Result<Answer, ExchangeError> {
        let request = TokenRequest { grant, client: &self.client, scopes: &self.scopes, params: &self.params };
        self.endpoint.exchange(&request, now, &*self.random).await
    }
}

impl TokenSource for Source {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let said = |error: ExchangeError| error.failure;
            let answer = match &self.grant {
                GrantSource::ClientCredentials => self.exchange(Grant::ClientCredentials, now).await.map_err(said)?,
                GrantSource::JwtBearer(assertion) => {
                    self.exchange(Grant::JwtBearer(assertion), now).await.map_err(said)?
                }
                GrantSource::RefreshToken(rotation) => {
                    let attempt = rotation.begin().await?;
                    let result = self.exchange(Grant::RefreshToken(attempt.token()), now).await;
                    attempt.end(result).await?
                }
            };
            let lifetime = answer.lifetime.unwrap_or(self.unsaid_lifetime);
            Ok(Token { secret: answer.access_token, expires_at: now + lifetime })
        })
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let line = zeroize::Zeroizing::new([b"Bearer ", token.secret.expose()].concat());
        let mut value = HeaderValue::from_bytes(&line).map_err(|_| {
            Failure::new(FailureKind::Unavailable, "the access token holds characters that cannot be sent in a header")
        })?;
        value.set_sensitive(true);
        let mutations = Mutations { set: vec![(AUTHORIZATION, value)], ..Mutations::default() };
        Ok(Arc::new(Prepared::new(mutations)))
    }
}

#[derive(Debug)]
struct OAuth2 {
    handle: Arc<Handle>,
}

impl Scheme for OAuth2 {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }
}
