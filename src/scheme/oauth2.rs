//! `oauth2`: an access token from a token endpoint, sent as `Authorization: Bearer` (RFC 6749, 6750, 7523, 8705, 8707).
//!
//! The fields are those of Flexera cred/v2 `oauth2`, without the level between the credential and its parameters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use ipnet::IpNet;
use serde::Deserialize;

use super::assertion::{AssertionKeys, Claims};
use super::fields::{AdditionalHeaders, OneOrMany, endpoint, is_confidential};
use super::{Draft, Fields, Kind, Obtained, Scheme, SettingsError, Setup, at, bearer, settings};
use crate::base::{Authorizer, BoxFuture, ClientOptions, Mutations, Prepared, Protocol, Random, Secret};
use crate::base::{Public, SecretField, SecretRef, Unavailable};
use crate::token::{
    Answer, Assertion, ClientAuth, Endpoint, ExchangeError, Failure, Grant, KeyBuilder, Param, RefreshReuse, Rotation,
    SigningKey, Token, TokenRequest, TokenSource,
};

pub(super) const KIND: Kind = Kind {
    name: "oauth2",
    about: "An access token from a token endpoint, by client credentials, a refresh token or a signed assertion",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &[
            "client_secret",
            "client_password",
            "client_certificate",
            "client_key",
            "token",
            "signing_key",
            "signing_key_password",
            "client_assertion.signing_key",
            "client_assertion.signing_key_password",
            "additional_params.*",
            "additional_headers.*",
        ],
        leading: &["token_url", "allow_cleartext"],
        operators: &["allow_addresses"],
    },
    parse: |mut value| {
        let assertion = AssertionKeys::among(&mut value)?;
        let settings = Settings { assertion, ..settings(value)? };
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
    /// `private_key_jwt`.
    client_assertion: Option<AssertionKeys>,
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
    additional_headers: AdditionalHeaders,
    /// How long a token lives when the answer does not say.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    token_lifetime: Option<Duration>,
    // grant_type: refresh_token
    token: Option<SecretField>,
    #[serde(default)]
    refresh_reuse: Option<RefreshReuse>,
    /// For grant_type jwt_bearer; some for client_secret_jwt too.
    #[serde(skip)]
    assertion: AssertionKeys,
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if let Public::Literal(url) = &self.token_url {
            endpoint(url, self.allow_cleartext).map_err(|why| at("token_url", why))?;
        }
        self.check_client()?;
        self.check_grant()?;
        self.assertion.check("")?;
        if let Some(assertion) = &self.client_assertion {
            assertion.check("client_assertion.")?;
        }
        if self.token_lifetime.is_some_and(|lifetime| lifetime > LONGEST_LIFETIME) {
            return Err(at("token_lifetime", "at most a year"));
        }
        self.check_params()?;
        let basic = (&AUTHORIZATION, "the client authenticates in this header");
        self.additional_headers.check(self.is_basic().then_some(basic))
    }

    fn check_params(&self) -> Result<(), SettingsError> {
        for (index, scope) in self.scopes.0.iter().enumerate() {
            if matches!(scope, Public::Literal(text) if text.trim().is_empty()) {
                return Err(at(format!("scopes[{index}]"), "an empty scope; leave it out"));
            }
        }
        for (name, value) in &self.additional_params {
            if is_confidential(name) && value.reference().is_none() {
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
            if assertion.signing_key.is_none() {
                return Err(at("client_assertion.signing_key", "`signing_key` is needed: the key that signs"));
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
        // These three are for client_secret_jwt too.
        let also = |key: &&str| self.uses_client_secret_jwt() && ["aud", "alg", "max_minutes"].contains(key);
        let assertion = self.assertion.written().filter(|key| !also(key));
        let refresh = [("token", self.token.is_some()), ("refresh_reuse", self.refresh_reuse.is_some())];
        let refresh = refresh.into_iter().filter_map(|(key, written)| written.then_some(key));
        let needed = |key: &str| Err(at(key, format!("`{key}` is needed with this grant_type")));
        let foreign = match self.grant_type {
            GrantType::RefreshToken if self.token.is_none() => return needed("token"),
            GrantType::JwtBearer if self.assertion.iss.is_none() => return needed("iss"),
            GrantType::JwtBearer if self.assertion.signing_key.is_none() => return needed("signing_key"),
            GrantType::ClientCredentials => assertion.chain(refresh).next(),
            GrantType::RefreshToken => { assertion }.next(),
            GrantType::JwtBearer => { refresh }.next(),
        };
        match foreign {
            Some(key) => Err(at(key, format!("`{key}` does not go with this grant_type"))),
            None => Ok(()),
        }
    }
}

fn literal(field: &Public) -> Option<&str> {
    match field {
        Public::Literal(text) => Some(text),
        Public::Reference(_) => None,
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let secret = [self.secret(), self.client_certificate.as_ref(), self.client_key.as_ref(), self.token.as_ref()];
        [Some(&self.token_url), self.id(), self.audience.as_ref()]
            .into_iter()
            .flatten()
            .chain(self.scopes.0.iter().chain(&self.resource.0))
            .chain(self.additional_params.values())
            .filter_map(Public::reference)
            .chain(self.additional_headers.references())
            .chain(secret.into_iter().flatten().map(SecretField::reference))
            .chain(self.assertion.references())
            .chain(self.client_assertion.iter().flat_map(AssertionKeys::references))
            .collect()
    }

    fn audience(&self) -> Option<String> {
        let params = |name: &str| self.additional_params.get(name).and_then(literal);
        let named = self.resource.0.first().filter(|_| self.resource.0.len() == 1).or(self.audience.as_ref());
        let named = named.and_then(literal).or_else(|| params("resource")).or_else(|| params("audience"));
        // Entra's way to ask for all that was granted at one service.
        let scopes = self.scopes.0.iter().filter_map(literal).chain(params("scope"));
        let granted = || scopes.flat_map(str::split_whitespace).find_map(|scope| scope.strip_suffix("/.default"));
        named.or_else(granted).filter(|audience| !audience.is_empty()).map(str::to_owned)
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let secrets = setup.secrets;
        let unfit = |path: &str, why: String| Unavailable(format!("{path}: {why}"));
        let url = secrets.public(&self.token_url)?;
        let endpoint = endpoint(&url, self.allow_cleartext).map_err(|why| match self.token_url.reference() {
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
        let endpoint = Endpoint::new(&url, http, self.additional_headers.build(secrets)?)
            .map_err(|why| unfit("token_url", why))?;
        let source = Source {
            endpoint,
            client: self.client(setup, &url)?,
            grant: self.grant(setup, &url)?,
            scopes: self.scopes.0.iter().map(|scope| secrets.public(scope)).collect::<Result<_, _>>()?,
            params: self.params(setup)?,
            unsaid_lifetime: self.token_lifetime.unwrap_or(UNSAID_LIFETIME),
            random: Arc::clone(&setup.outside.random),
        };
        let key = setup.token_key(self)?;
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(source));
        Ok(Arc::new(Obtained { handle: Arc::new(handle), owned: vec![AUTHORIZATION], adds: Vec::new() }))
    }
}

impl Settings {
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
            let key = SigningKey::Private(part.private_key(setup, "client_assertion.")?);
            // The issuer is the client, and the subject the issuer, unless said otherwise (RFC 7523 section 3).
            let iss = optional(setup, part.iss.as_ref())?.or_else(|| id.clone());
            let claims = Claims { issuer: iss.clone(), subject: iss, audience: Some(url.to_owned()) };
            // OpenID Connect wants a jti, and nobody refuses it.
            let assertion = part.assertion(key, part.claims(setup, claims)?, true);
            let assertion = assertion.map_err(|why| Unavailable(format!("client_assertion: {why}")))?;
            return Ok(ClientAuth::Assertion(id, Box::new(assertion)));
        }
        let (Some(id), Some(secret)) = (id.clone(), self.secret()) else { return Ok(ClientAuth::None(id)) };
        let secret = secrets.field(secret)?;
        Ok(match self.client_auth {
            Some(AuthMethod::BasicRaw) => ClientAuth::BasicRaw(id, secret),
            Some(AuthMethod::ClientSecretJwt) => {
                // With an assertion as the grant, these keys are the grant's.
                let none = AssertionKeys::default();
                let keys = if self.grant_type == GrantType::JwtBearer { &none } else { &self.assertion };
                let claims =
                    Claims { issuer: Some(id.clone()), subject: Some(id.clone()), audience: Some(url.to_owned()) };
                let assertion = keys.assertion(SigningKey::Shared(secret), keys.claims(setup, claims)?, true);
                let assertion = assertion.map_err(|why| Unavailable(format!("alg: {why}")))?;
                ClientAuth::Assertion(Some(id), Box::new(assertion))
            }
            _ if self.is_basic() => ClientAuth::Basic(id, secret),
            _ => ClientAuth::Form(id, secret),
        })
    }

    fn grant(&self, setup: &Setup<'_>, url: &str) -> Result<GrantSource, Unavailable> {
        Ok(match (self.grant_type, &self.token) {
            (GrantType::RefreshToken, Some(token)) => {
                let token = setup.secrets.field(token)?;
                if token.expose_str().is_none() {
                    return Err(Unavailable("token: it is not text".into()));
                }
                // Without the credential's id: whoever renames a credential must not lose its token.
                let key = KeyBuilder::new(setup.account, "").with("url", url).with("token", token.expose()).finish();
                GrantSource::RefreshToken(Rotation::new(
                    Arc::clone(&setup.outside.state),
                    Arc::clone(&setup.outside.random),
                    setup.account,
                    &key,
                    token,
                    self.refresh_reuse.unwrap_or_default(),
                ))
            }
            (GrantType::JwtBearer, _) => {
                let key = SigningKey::Private(self.assertion.private_key(setup, "")?);
                let claims = Claims { audience: Some(url.to_owned()), ..Claims::default() };
                let claims = self.assertion.claims(setup, claims)?;
                let assertion = self.assertion.assertion(key, claims, false).map_err(Unavailable)?;
                GrantSource::JwtBearer(Box::new(assertion))
            }
            _ => GrantSource::ClientCredentials,
        })
    }
}

/// Empty text means the default, as it does for `aud` in cred/v2.
fn optional(setup: &Setup<'_>, field: Option<&Public>) -> Result<Option<String>, Unavailable> {
    Ok(field.map(|field| setup.secrets.public(field)).transpose()?.filter(|text| !text.is_empty()))
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
        let mutations = Mutations { set: vec![(AUTHORIZATION, bearer::line(token)?)], ..Mutations::default() };
        Ok(Arc::new(Prepared::new(mutations)))
    }
}
