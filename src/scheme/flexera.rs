//! `flexera`: a token for Flexera One, of a refresh token or a service account; and RightScale's older form of it.
//!
//! <https://developer.flexera.com/docs/page/authentication>,
//! <https://reference.rightscale.com/api1.5/resources/ResourceOauth2.html>

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::Deserialize;

use super::bearer::{Bearer, Supplied};
use super::fields::endpoint;
use super::hosts::{self, name, overlap};
use super::{Draft, Fields, Foresight, Identity, Kind, Scheme, SettingsError, Setup, at, settings};
use crate::base::{Authorizer, BoxFuture, ClientOptions, Random};
use crate::base::{Public, Refusal, RequestView, SecretField, SecretRef, Unavailable};
use crate::token::{
    Answer, ClientAuth, Endpoint, ExchangeError, Failure, FailureKind, Grant, Handle, KeyBuilder, RefreshReuse,
    Rotation, Token, TokenRequest, TokenSource,
};

pub(super) const KIND: Kind = Kind {
    name: "flexera",
    about: "A Flexera One token, of a refresh token or of a service account with one or two clients",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &["refresh_token", "client_secret", "second.client_secret"],
        leading: &["token_url", "zone", "shard", "allow_cleartext"],
        operators: &["allow_addresses"],
    },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Used when an answer says nothing of a lifetime; an hour is what Flexera's tokens have.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// RightScale refuses requests that do not name the version of its API.
const X_API_VERSION: HeaderName = HeaderName::from_static("x-api-version");
const API_VERSION: HeaderValue = HeaderValue::from_static("1.5");

/// Where an organization lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Zone {
    Nam,
    Eu,
    Apac,
}

impl Zone {
    const ALL: [Self; 3] = [Self::Nam, Self::Eu, Self::Apac];

    fn token_url(self) -> &'static str {
        match self {
            Self::Nam => "https://login.flexera.com/oidc/token",
            Self::Eu => "https://login.flexera.eu/oidc/token",
            Self::Apac => "https://login.flexera.au/oidc/token",
        }
    }

    /// The unified API, Optima (bills and recommendations), GRS (projects), and the policy API of the first generation.
    fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::Nam => &[
                "api.flexera.com",
                "api.optima.flexeraeng.com",
                "grs-front.iam-us-east-1.flexeraeng.com",
                "governance-3.rightscale.com",
                "governance-4.rightscale.com",
            ],
            Self::Eu => {
                &["api.flexera.eu", "api.optima-eu.flexeraeng.com", "grs-front.eu-central-1.iam-eu.flexeraeng.com"]
            }
            Self::Apac => &[
                "api.flexera.au",
                "api.optima-apac.flexeraeng.com",
                "grs-front.ap-southeast-2.iam-apac.flexeraeng.com",
            ],
        }
    }

    /// All of Flexera One is here.
    fn domain(self) -> &'static str {
        match self {
            Self::Nam => "flexera.com",
            Self::Eu => "flexera.eu",
            Self::Apac => "flexera.au",
        }
    }

    /// Whether anything that a pattern means is here.
    fn has(self, pattern: &str) -> bool {
        let all = format!("*.{}", self.domain());
        name(pattern) == self.domain()
            || overlap(pattern, &all)
            || self.hosts().iter().any(|host| overlap(pattern, host))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    zone: Option<Zone>,
    /// RightScale's own login, such as `us-3`.
    shard: Option<String>,
    refresh_token: Option<SecretField>,
    refresh_reuse: Option<RefreshReuse>,
    client_id: Option<Public>,
    client_secret: Option<SecretField>,
    /// The other of the two clients that a service account may have.
    second: Option<Pair>,
    token_url: Option<String>,
    /// Let the credential travel to that endpoint over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that the endpoint may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    client_id: Public,
    client_secret: SecretField,
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        match (&self.zone, &self.shard) {
            (Some(_), None) => {}
            (None, Some(shard)) if is_shard(shard) => {}
            (None, Some(_)) => return Err(at("shard", "a shard is such as us-3, us-4 or telstra-10")),
            _ => {
                return Err(at(
                    "zone",
                    "one of `zone` (nam, eu or apac) and, for RightScale's own login, `shard` is needed",
                ));
            }
        }
        match (&self.refresh_token, &self.client_id, &self.client_secret) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            (Some(_), ..) => {
                return Err(at("refresh_token", "it is sent alone, without `client_id` and `client_secret`"));
            }
            (None, None, None) => {
                return Err(at(
                    "",
                    "`refresh_token` is needed, or `client_id` and `client_secret` of a service account",
                ));
            }
            (None, None, _) => return Err(at("client_id", "`client_id` and `client_secret` go together")),
            (None, _, None) => return Err(at("client_secret", "`client_id` and `client_secret` go together")),
        }
        if self.client_id.is_some() && self.shard.is_some() {
            return Err(at("shard", "service accounts are of Flexera One: write `zone`"));
        }
        if self.refresh_reuse.is_some() && self.refresh_token.is_none() {
            return Err(at("refresh_reuse", "it goes with `refresh_token`"));
        }
        match (&self.second, &self.client_id) {
            (Some(_), None) => return Err(at("second", "it stands beside `client_id` and `client_secret`")),
            (Some(Pair { client_id: Public::Literal(second), .. }), Some(Public::Literal(first)))
                if second == first =>
            {
                return Err(at(
                    "second.client_id",
                    "it is the same as the first; a service account may have two clients",
                ));
            }
            _ => {}
        }
        endpoint(&self.url(), self.allow_cleartext).map_err(|why| at("token_url", why))?;
        Ok(())
    }

    fn url(&self) -> String {
        match (&self.token_url, self.zone, &self.shard) {
            (Some(url), ..) => url.clone(),
            (None, Some(zone), _) => zone.token_url().to_owned(),
            (None, None, shard) => format!("https://{}/api/oauth2", shard_host(shard.as_deref().unwrap_or_default())),
        }
    }

    fn version(&self) -> Option<Supplied> {
        let host = shard_host(self.shard.as_deref()?);
        Some(Supplied { name: X_API_VERSION, value: API_VERSION, host: Some(host) })
    }

    fn clients(&self, setup: &Setup<'_>) -> Result<Vec<ClientAuth>, Unavailable> {
        let second = self.second.as_ref().map(|pair| (&pair.client_id, &pair.client_secret));
        let pairs = self.client_id.as_ref().zip(self.client_secret.as_ref()).into_iter().chain(second);
        let client = |(id, secret): (&Public, &SecretField)| {
            Ok(ClientAuth::Form(setup.secrets.public(id)?, setup.secrets.field(secret)?))
        };
        pairs.map(client).collect()
    }
}

/// `us-3`, `telstra-10`, `moo-1`.
fn is_shard(text: &str) -> bool {
    let digits = |number: &str| (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-').is_some_and(|(name, number)| ["us", "telstra", "moo"].contains(&name) && digits(number))
}

fn shard_host(shard: &str) -> String {
    format!("{shard}.rightscale.com")
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let second = self.second.as_ref();
        let public = [self.client_id.as_ref(), second.map(|pair| &pair.client_id)];
        let secret = [self.refresh_token.as_ref(), self.client_secret.as_ref(), second.map(|pair| &pair.client_secret)];
        let public = public.into_iter().flatten().filter_map(Public::reference);
        public.chain(secret.into_iter().flatten().map(SecretField::reference)).collect()
    }

    fn default_hosts(&self) -> Option<Vec<String>> {
        let own = self.zone.into_iter().flat_map(Zone::hosts).map(|host| (*host).to_owned());
        let legacy = self.shard.iter().flat_map(|shard| {
            let number = shard.split('-').next_back().unwrap_or_default();
            [shard_host(shard), format!("cloud-{number}.rightscale.com"), format!("governance-{number}.rightscale.com")]
        });
        Some(own.chain(legacy).collect())
    }

    /// A token is of one zone; one that its organization could use there is not for the login of another.
    fn check_hosts(&self, named: &[String]) -> Result<(), SettingsError> {
        let Some(zone) = self.zone else { return Ok(()) };
        hosts::each(named, |host| {
            let own = zone.hosts().first().copied().unwrap_or_default();
            let other = Zone::ALL.into_iter().filter(|other| *other != zone).find(|other| other.has(host))?;
            let other = format!("{other:?}").to_lowercase();
            Some(format!("hosts of the zone {other} are there, where this token is good for nothing: write {own}"))
        })
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let url = self.url();
        let unfit = |why: String| Unavailable(format!("token_url: {why}"));
        let destination = endpoint(&url, self.allow_cleartext).map_err(unfit)?;
        let options = ClientOptions { allow_addresses: self.allow_addresses.clone(), ..ClientOptions::default() };
        let http = setup.outside.http.client(&destination, &options).map_err(unfit)?;
        let mut headers = HeaderMap::new();
        if self.shard.is_some() {
            headers.insert(X_API_VERSION, API_VERSION);
        }
        let endpoint = Endpoint::new(&url, http, headers).map_err(unfit)?;
        let grant = match &self.refresh_token {
            None => Granted::ServiceAccount(self.clients(setup)?),
            Some(field) => {
                let token = setup.secrets.field(field)?;
                if token.expose_str().is_none() {
                    return Err(Unavailable("refresh_token: it is not text".into()));
                }
                // Without the credential's id: whoever renames a credential must not lose its token.
                let key = KeyBuilder::new(setup.account, "").with("url", &url).with("token", token.expose()).finish();
                Granted::RefreshToken(Rotation::new(
                    Arc::clone(&setup.outside.state),
                    Arc::clone(&setup.outside.random),
                    setup.account,
                    &key,
                    token,
                    self.refresh_reuse.unwrap_or_default(),
                ))
            }
        };
        let mut key = setup.key().with("settings", format!("{self:?}"));
        for reference in self.references() {
            key = key.with(&reference.to_string(), setup.secrets.get(reference)?.expose());
        }
        let source = Source {
            credential: setup.credential.to_owned(),
            endpoint,
            grant,
            shard: self.shard.is_some(),
            supplied: self.version(),
            random: Arc::clone(&setup.outside.random),
        };
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(source));
        Ok(Arc::new(Flexera { handle: Arc::new(handle), supplied: self.version() }))
    }
}

#[derive(Debug)]
enum Granted {
    RefreshToken(Arc<Rotation>),
    /// One client or two.
    ServiceAccount(Vec<ClientAuth>),
}

#[derive(Debug)]
struct Source {
    credential: String,
    endpoint: Endpoint,
    grant: Granted,
    shard: bool,
    supplied: Option<Supplied>,
    random: Arc<dyn Random>,
}

impl Source {
    async fn exchange(&self, grant: Grant<'_>, client: &ClientAuth, now: SystemTime) -> Result<Answer, ExchangeError> {
        let request = TokenRequest { grant, client, scopes: &[], params: &[] };
        let answer = self.endpoint.exchange(&request, now, &*self.random).await;
        answer.map_err(|mut error| {
            // The address it has now is that of another shard.
            if self.shard && error.failure.detail.contains("no redirect is followed") {
                error.failure.detail = error.failure.detail.replace(
                    "write the address it has now into `token_url`",
                    "the account is on that shard: write it under `shard`",
                );
            }
            error
        })
    }

    async fn refresh(&self, rotation: &Arc<Rotation>, now: SystemTime) -> Result<Answer, Failure> {
        let attempt = rotation.begin().await?;
        let result = self.exchange(Grant::RefreshToken(attempt.token()), &ClientAuth::None(None), now).await;
        // It is all that was sent, so a refusal is its own.
        let result = result.map_err(|mut error| {
            if error.failure.kind == FailureKind::Rejected {
                error.failure.kind = FailureKind::Reauthorize;
            }
            error
        });
        attempt.end(result).await
    }

    /// The first client, and when it is refused the second: whoever replaces one of them interrupts nothing.
    async fn service_account(&self, clients: &[ClientAuth], now: SystemTime) -> Result<Answer, Failure> {
        let mut refused: Option<Failure> = None;
        for client in clients {
            match self.exchange(Grant::ClientCredentials, client, now).await.map_err(|error| error.failure) {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.kind == FailureKind::Unavailable => return Err(failure),
                Err(mut failure) => {
                    if let Some(first) = &refused {
                        failure.detail = format!("{}; the second client: {}", first.detail, failure.detail);
                        return Err(failure);
                    }
                    if clients.len() > 1 {
                        tracing::warn!(
                            target: "countersign::token",
                            credential = self.credential,
                            reason = %failure,
                            "the first client was refused, the second is tried"
                        );
                    }
                    refused = Some(failure);
                }
            }
        }
        Err(refused.unwrap_or_else(|| Failure::new(FailureKind::Refused, "there is no client")))
    }
}

impl TokenSource for Source {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let answer = match &self.grant {
                Granted::RefreshToken(rotation) => self.refresh(rotation, now).await?,
                Granted::ServiceAccount(clients) => self.service_account(clients, now).await?,
            };
            let lifetime = answer.lifetime.unwrap_or(UNSAID_LIFETIME);
            Ok(Token { secret: answer.access_token, expires_at: now + lifetime })
        })
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        Ok(Arc::new(Bearer::new(token, self.supplied.as_ref())?))
    }
}

/// A credential with its token.
#[derive(Debug)]
struct Flexera {
    handle: Arc<Handle>,
    supplied: Option<Supplied>,
}

impl Scheme for Flexera {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let supplied = self.supplied.as_ref().filter(|supplied| supplied.is_missing(view));
        let note = supplied.map(|supplied| format!("{}: 1.5 is for callers that send none", supplied.name));
        let adds = [Some(&AUTHORIZATION), supplied.map(|supplied| &supplied.name)];
        Ok(Foresight { adds: adds.into_iter().flatten().map(ToString::to_string).collect(), note })
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(value: &Value) -> Result<Box<dyn Draft>, String> {
        (KIND.parse)(value.clone()).map_err(|error| format!("{}: {}", error.path, error.message))
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_to_change() {
        let account = |more: Value| {
            let mut all = json!({ "zone": "nam", "client_id": "a", "client_secret": { "env": "S" } });
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all.as_object()
                .unwrap()
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        let second = |id: &str| json!({ "second": { "client_id": id, "client_secret": { "env": "S2" } } });
        for value in [
            account(json!({})),
            account(second("b")),
            account(json!({ "token_url": "http://127.0.0.1:1/", "allow_cleartext": true })),
            json!({ "zone": "apac", "refresh_token": { "env": "R" }, "refresh_reuse": "retry" }),
            json!({ "shard": "telstra-10", "refresh_token": { "env": "R" } }),
        ] {
            assert_eq!(parsed(&value).err(), None, "{value}");
        }
        for (value, said) in [
            (account(json!({ "zone": null })), "zone: one of `zone`"),
            (account(json!({ "zone": "us" })), "zone: unknown variant"),
            (account(json!({ "shard": "us-3" })), "zone: one of `zone`"),
            (account(json!({ "zone": null, "shard": "us-3" })), "shard: service accounts are of Flexera One"),
            (json!({ "shard": "us-3.evil.test", "refresh_token": { "env": "R" } }), "shard: a shard is such as us-3"),
            (json!({ "shard": "eu-1", "refresh_token": { "env": "R" } }), "shard: a shard is such as us-3"),
            (account(json!({ "client_secret": null })), "client_secret: `client_id` and `client_secret` go together"),
            (account(json!({ "client_id": null })), "client_id: `client_id` and `client_secret` go together"),
            (json!({ "zone": "eu" }), ": `refresh_token` is needed"),
            (account(json!({ "refresh_token": { "env": "R" } })), "refresh_token: it is sent alone"),
            (account(json!({ "refresh_reuse": "retry" })), "refresh_reuse: it goes with `refresh_token`"),
            (account(second("a")), "second.client_id: it is the same"),
            (account(json!({ "second": { "client_id": "b" } })), "second: missing field"),
            (account(json!({ "token_url": "http://login.test/" })), "token_url: the credential would travel"),
        ] {
            let error = parsed(&value).unwrap_err();
            assert!(error.contains(said), "{value}: {error}");
        }
    }

    #[test]
    fn hosts_follow_from_the_zone_and_those_of_another_zone_are_refused() {
        let draft = |zone: &str| parsed(&json!({ "zone": zone, "refresh_token": { "env": "R" } })).unwrap();
        let check = |zone: &str, host: &str| draft(zone).check_hosts(&[host.to_owned()]);
        for (zone, own) in [("nam", "api.flexera.com"), ("eu", "api.flexera.eu"), ("apac", "api.flexera.au")] {
            let hosts = draft(zone).default_hosts().unwrap();
            assert_eq!(hosts[0], own);
            for other in ["nam", "eu", "apac"] {
                for host in &hosts {
                    assert_eq!(check(other, host).is_ok(), other == zone, "{other} {host}");
                    assert_eq!(check(other, &format!("{host}:443")).is_ok(), other == zone);
                }
            }
        }
        let error = check("nam", "*.flexera.eu").unwrap_err();
        assert_eq!(
            (&*error.path, &*error.message),
            (
                "hosts[0]",
                "*.flexera.eu: hosts of the zone eu are there, where this token is good for nothing: write api.flexera.com"
            )
        );
        for (zone, host) in [
            ("nam", "*.flexera.eu:443"),
            ("nam", "*.eu"),
            ("nam", "app.flexera.eu"),
            ("nam", "flexera.eu"),
            ("nam", "login.flexera.au"),
            ("nam", "*.app.flexera.au"),
            ("eu", "app.flexera.com:443"),
            ("eu", "*.com"),
            ("eu", "*.flexeraeng.com"),
            ("eu", "*.rightscale.com:443"),
            ("apac", "*.iam-eu.flexeraeng.com"),
        ] {
            assert_eq!(check(zone, host).unwrap_err().path, "hosts[0]", "{zone} {host}");
        }
        for (zone, host) in [
            ("nam", "gateway.example.com"),
            ("nam", "*.flexera.com:443"),
            ("eu", "app.flexera.eu"),
            ("eu", "*.flexera.eu"),
            ("eu", "flexera.eu.example.com"),
            ("apac", "*.xflexera.eu"),
        ] {
            assert_eq!(check(zone, host), Ok(()), "{zone} {host}");
        }
        let legacy = parsed(&json!({ "shard": "us-4", "refresh_token": { "env": "R" } })).unwrap();
        let hosts = ["us-4.rightscale.com", "cloud-4.rightscale.com", "governance-4.rightscale.com"];
        assert_eq!(legacy.default_hosts().unwrap(), hosts);
    }
}
