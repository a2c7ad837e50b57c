//! `apptio`: an API key pair of Apptio, exchanged at Frontdoor for the token `apptio-opentoken`, which goes with every call
//! beside the environment that it is about.
//!
//! <https://www.ibm.com/docs/en/apptio-platform/access-administration/saas?topic=apis-about-frontdoor-api>

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};

use super::fields;
use super::hosts::{self, overlap, shared, write_the_whole_name};
use super::{Draft, Fields, Kind, Obtained, Scheme, SettingsError, Setup, at, is_reserved, settings};
use crate::base::{Authorizer, BoxFuture, ClientOptions, Destination, Mutations, Prepared, Public, Secret};
use crate::base::{SecretField, SecretRef, Unavailable};
use crate::token::{Failure, FailureKind, Pairs, Place, Reply, Service, Token, TokenSource, lifetime};

pub(super) const KIND: Kind = Kind {
    name: "apptio",
    about: "A token of Apptio Frontdoor for an API key pair, with the environment it is for",
    // Those of the region: see `default_hosts` of the draft.
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &["key_secret", "second.key_secret"],
        leading: &["frontdoor_url", "region", "allow_cleartext"],
        operators: &["allow_addresses"],
    },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Used when an answer says nothing of a lifetime. Sessions last as long as the customer's domain says; none is shorter.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// What `token_lifetime` may say at most: sessions are for a working day.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The header, and the cookie, that the token comes in, and the header that it goes out in.
const TOKEN: HeaderName = HeaderName::from_static("apptio-opentoken");

/// Every customer of Apptio has hosts under these, so no wildcard means them.
const SHARED: &[&str] = &["apptio.com", "cloudability.com"];

/// Frontdoor says 400 for a wrong key; the others are what a gateway in front of it would say.
const REJECTED: [StatusCode; 3] = [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Region {
    #[default]
    Us,
    Eu,
    Au,
    /// The US government's.
    Usgov,
    /// The Australian government's.
    Aug,
    Me,
}

impl Region {
    const ALL: [Self; 6] = [Self::Us, Self::Eu, Self::Au, Self::Usgov, Self::Aug, Self::Me];

    fn frontdoor(self) -> &'static str {
        match self {
            Self::Us => "frontdoor.apptio.com",
            Self::Eu => "frontdoor-eu.apptio.com",
            Self::Au => "frontdoor-au.apptio.com",
            Self::Usgov => "frontdoor-usgov.apptio.com",
            Self::Aug => "frontdoor-aug.apptio.com",
            Self::Me => "frontdoor-me.apptio.com",
        }
    }

    /// The Cloudability API, where the region has a documented one.
    fn cloudability(self) -> Option<&'static str> {
        match self {
            Self::Us => Some("api.cloudability.com"),
            Self::Eu => Some("api-eu.cloudability.com"),
            Self::Au => Some("api-au.cloudability.com"),
            Self::Me => Some("api-me.cloudability.com"),
            Self::Usgov | Self::Aug => None,
        }
    }

    fn hosts(self) -> impl Iterator<Item = &'static str> {
        self.cloudability().into_iter().chain([self.frontdoor()])
    }
}

/// Which products' APIs are called: they read the environment from different headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Product {
    /// Costing, Planning and the other applications of Apptio One.
    #[default]
    Apptio,
    Cloudability,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    key_access: Public,
    key_secret: SecretField,
    /// Tried when the first is refused, so that replacing one interrupts nothing.
    second: Option<KeyPair>,
    #[serde(default)]
    region: Region,
    /// Frontdoor's address, if it is not the region's.
    frontdoor_url: Option<Public>,
    environment: Option<Environment>,
    #[serde(default)]
    product: Product,
    /// The header that says the environment, if it is not the product's.
    environment_header: Option<String>,
    /// How long a token lives when the answer does not say.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    token_lifetime: Option<Duration>,
    /// Let the keys travel to Frontdoor over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that Frontdoor may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPair {
    key_access: Public,
    key_secret: SecretField,
}

/// The environment, by its id, or by the names that people know it by.
#[derive(Debug)]
enum Environment {
    Id(Public),
    Named(EnvironmentName),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvironmentName {
    /// The customer's domain, such as `example.com`.
    domain: Public,
    /// The environment's name there, such as `main`.
    name: Public,
}

impl<'de> Deserialize<'de> for Environment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(map) if map.contains_key("domain") || map.contains_key("name") => {
                EnvironmentName::deserialize(Value::Object(map)).map(Self::Named)
            }
            value => Public::deserialize(value).map(Self::Id),
        }
        .map_err(de::Error::custom)
    }
}

impl Environment {
    fn parts(&self) -> Vec<&Public> {
        match self {
            Self::Id(id) => vec![id],
            Self::Named(EnvironmentName { domain, name }) => vec![domain, name],
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if let Some(Public::Literal(url)) = &self.frontdoor_url {
            self.frontdoor(url).map_err(|why| at("frontdoor_url", why))?;
        }
        for (index, part) in self.environment.iter().flat_map(Environment::parts).enumerate() {
            if matches!(part, Public::Literal(text) if !is_plain(text)) {
                let key = match (&self.environment, index) {
                    (Some(Environment::Named(_)), 0) => "environment.domain",
                    (Some(Environment::Named(_)), _) => "environment.name",
                    _ => "environment",
                };
                return Err(at(key, "it is empty or holds control characters"));
            }
        }
        match &self.environment_header {
            None => {}
            Some(_) if self.environment.is_none() => {
                return Err(at("environment_header", "it goes with `environment`"));
            }
            Some(name) => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(header) if !is_reserved(&header) && header != TOKEN => {}
                _ => return Err(at("environment_header", "not a header that can say the environment")),
            },
        }
        if self.token_lifetime.is_some_and(|lifetime| lifetime > LONGEST_LIFETIME) {
            return Err(at("token_lifetime", "at most a day"));
        }
        Ok(())
    }

    /// Frontdoor's destination, and its address without a slash at the end.
    fn frontdoor(&self, url: &str) -> Result<(Destination, String), String> {
        let endpoint = fields::endpoint(url, self.allow_cleartext)?;
        let uri: Uri = url.parse().map_err(|_| "not an address".to_owned())?;
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err("the address of Frontdoor has no path; write https://frontdoor.example.com".into());
        }
        let base = format!("{}://{}", endpoint.protocol().as_str(), endpoint.authority());
        Ok((endpoint, base))
    }

    fn environment_header(&self) -> Result<HeaderName, Unavailable> {
        let name = self.environment_header.as_deref().unwrap_or(match self.product {
            Product::Apptio => "apptio-current-environment",
            Product::Cloudability => "apptio-environmentid",
        });
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unavailable("environment_header: not a header name".into()))
    }

    fn pairs(&self) -> impl Iterator<Item = (&Public, &SecretField)> {
        let second = self.second.iter().map(|pair| (&pair.key_access, &pair.key_secret));
        std::iter::once((&self.key_access, &self.key_secret)).chain(second)
    }

    /// What the credential's environment is, as far as it is known.
    fn whereabouts(&self, setup: &Setup<'_>, base: &str) -> Result<Option<Whereabouts>, Unavailable> {
        let Some(environment) = &self.environment else { return Ok(None) };
        let text = |part: &Public| {
            let text = setup.secrets.public(part)?;
            if is_plain(&text) { Ok(text) } else { Err(Unavailable("environment: it is empty or no text".into())) }
        };
        let header = self.environment_header()?;
        let id = OnceLock::new();
        let lookup = match environment {
            Environment::Id(part) => {
                let value = HeaderValue::from_str(&text(part)?);
                // A new cell takes its first value.
                let _ = id.set(value.map_err(|_| Unavailable("environment: it cannot be sent in a header".into()))?);
                None
            }
            Environment::Named(EnvironmentName { domain, name }) => {
                let segment = |text: String| {
                    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
                };
                let path = format!("{base}/api/environment/{}/{}", segment(text(domain)?), segment(text(name)?));
                Some(path.parse().map_err(|_| Unavailable("environment: it makes no address".into()))?)
            }
        };
        Ok(Some(Whereabouts { header, id, lookup }))
    }
}

/// Text that can stand in an address or a header.
fn is_plain(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(char::is_control) && !matches!(text, "." | "..")
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let environment = self.environment.iter().flat_map(Environment::parts);
        let public = self.frontdoor_url.iter().chain(environment).chain(self.pairs().map(|(access, _)| access));
        let secret = self.pairs().map(|(_, secret)| secret.reference());
        public.filter_map(Public::reference).chain(secret).collect()
    }

    fn default_hosts(&self) -> Option<Vec<String>> {
        Some(self.region.hosts().map(str::to_owned).collect())
    }

    /// A token is of one region; and every customer has hosts under the same domains.
    fn check_hosts(&self, named: &[String]) -> Result<(), SettingsError> {
        hosts::each(named, |host| {
            if let Some(domain) = shared(host, SHARED) {
                return Some(write_the_whole_name(domain, "example"));
            }
            let others = Region::ALL.into_iter().filter(|other| *other != self.region);
            let other = others.into_iter().find(|other| other.hosts().any(|own| overlap(host, own)))?;
            let other = format!("{other:?}").to_lowercase();
            let own = self.region.frontdoor();
            Some(format!(
                "it is of the region {other}, where this token is good for nothing: write {own} or set `region: {other}`"
            ))
        })
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let secrets = setup.secrets;
        let url = match &self.frontdoor_url {
            Some(url) => secrets.public(url)?,
            None => format!("https://{}", self.region.frontdoor()),
        };
        let (endpoint, base) = self.frontdoor(&url).map_err(|why| Unavailable(format!("frontdoor_url: {why}")))?;
        let options = ClientOptions { allow_addresses: self.allow_addresses.clone(), ..ClientOptions::default() };
        let http = setup.outside.http.client(&endpoint, &options).map_err(Unavailable)?;
        let mut pairs = Vec::new();
        for (access, secret) in self.pairs() {
            let text = |secret: Secret| secret.expose_str().map(str::to_owned);
            let secret = text(secrets.field(secret)?).filter(|secret| is_plain(secret));
            let secret = secret.ok_or_else(|| Unavailable("key_secret: it is empty or no text".into()))?;
            pairs.push(Secret::new(json!({ "keyAccess": secrets.public(access)?, "keySecret": secret }).to_string()));
        }
        let key = setup.token_key(self)?;
        let confidential = setup.confidential(self)?;
        let login = format!("{base}/service/apikeylogin").parse();
        let whereabouts = self.whereabouts(setup, &base)?;
        let owned = [TOKEN].into_iter().chain(whereabouts.as_ref().map(|place| place.header.clone())).collect();
        let source = Frontdoor {
            credential: setup.credential.to_owned(),
            service: Service::new(endpoint, http),
            login: login.map_err(|_| Unavailable("frontdoor_url: not an address".into()))?,
            pairs,
            in_use: Pairs::default(),
            confidential,
            whereabouts,
            unsaid_lifetime: self.token_lifetime.unwrap_or(UNSAID_LIFETIME),
        };
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(source));
        Ok(Arc::new(Obtained { handle: Arc::new(handle), owned, adds: Vec::new() }))
    }
}

/// Where the environment's id goes, and where it comes from.
#[derive(Debug)]
struct Whereabouts {
    header: HeaderName,
    /// Known from the configuration, or since the first login.
    id: OnceLock<HeaderValue>,
    lookup: Option<Uri>,
}

#[derive(Debug)]
struct Frontdoor {
    credential: String,
    service: Service,
    login: Uri,
    /// What is sent for each key pair.
    pairs: Vec<Secret>,
    in_use: Pairs,
    /// What no error may repeat.
    confidential: Vec<Secret>,
    whereabouts: Option<Whereabouts>,
    unsaid_lifetime: Duration,
}

impl Frontdoor {
    async fn log_in(&self, pair: &Secret, now: SystemTime) -> Result<(Secret, Duration), Failure> {
        let mut request = Request::new(pair.expose().to_vec());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.login.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let reply = self.service.call(request, &self.confidential, &REJECTED, now).await?;
        let cookie = Place::Cookie(TOKEN.as_str().to_owned());
        let token = Place::Header(TOKEN).text(&reply).or_else(|| cookie.text(&reply));
        let token =
            token.ok_or_else(|| reply.without("apptio-opentoken in its headers or cookies", &self.confidential))?;
        let said = valid_till(&reply, now).or_else(|| cookie.lifetime(&reply, None, now));
        Ok((token, said.unwrap_or(self.unsaid_lifetime)))
    }

    /// Looks the environment up, once.
    async fn find_environment(&self, token: &Secret, now: SystemTime) -> Result<(), Failure> {
        let Some(Whereabouts { id, lookup: Some(lookup), .. }) = &self.whereabouts else { return Ok(()) };
        if id.get().is_some() {
            return Ok(());
        }
        let mut request = Request::new(Vec::new());
        *request.uri_mut() = lookup.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(TOKEN, sendable(token)?);
        let confidential: Vec<Secret> = self.confidential.iter().chain([token]).cloned().collect();
        let named = |failure: Failure| Failure { detail: format!("environment: {}", failure.detail), ..failure };
        let reply = self.service.call(request, &confidential, &[], now).await.map_err(named)?;
        let found = Place::Pointer("/id".into()).text(&reply);
        let found = found.ok_or_else(|| named(reply.without("id in it", &confidential)))?;
        let value = HeaderValue::from_bytes(found.expose());
        let value = value.map_err(|_| named(reply.unusable("its id cannot be sent in a header")))?;
        // Whoever was first found the same.
        let _ = id.set(value);
        Ok(())
    }
}

/// In a header or the body, under any of the names and in any of the forms that were seen.
fn valid_till(reply: &Reply, now: SystemTime) -> Option<Duration> {
    let headers =
        ["valid_till", "valid-till", "apptio-valid-till"].map(|name| Place::Header(HeaderName::from_static(name)));
    let fields = ["/valid_till", "/validTill", "/valid-till"].map(|pointer| Place::Pointer(pointer.into()));
    let said = headers.iter().chain(&fields).find_map(|place| place.text(reply))?;
    lifetime(said.expose_str()?, None, now)
}

fn sendable(token: &Secret) -> Result<HeaderValue, Failure> {
    let unfit = |_| {
        let why = "the token of Frontdoor holds characters that cannot be sent in a header";
        Failure::new(FailureKind::Unavailable, why)
    };
    let mut value = HeaderValue::from_bytes(token.expose()).map_err(unfit)?;
    value.set_sensitive(true);
    Ok(value)
}

impl TokenSource for Frontdoor {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let log_in = |index: usize| -> BoxFuture<'_, _> {
                Box::pin(async move {
                    let missing = || Failure::new(FailureKind::Refused, "there is no such key pair");
                    self.log_in(self.pairs.get(index).ok_or_else(missing)?, now).await
                })
            };
            let asked = self.in_use.ask(self.pairs.len() > 1, &self.credential, now, log_in).await;
            let (secret, lifetime) = asked?;
            self.find_environment(&secret, now).await?;
            let found =
                self.whereabouts.as_ref().filter(|place| place.lookup.is_some()).and_then(|place| place.id.get());
            // With the token, for a process that it is shared with and that looked nothing up. No header holds a line end.
            let secret = match found {
                Some(id) => Secret::new([secret.expose(), b"\n", id.as_bytes()].concat()),
                None => secret,
            };
            Ok(Token { secret, expires_at: now + lifetime })
        })
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let mut parts = token.secret.expose().split(|byte| *byte == b'\n');
        let mut set = vec![(TOKEN, sendable(&Secret::new(parts.next().unwrap_or_default()))?)];
        if let Some(Whereabouts { header, id, .. }) = &self.whereabouts {
            if let Some(found) = parts.next().and_then(|found| HeaderValue::from_bytes(found).ok()) {
                // Whoever was first found the same.
                let _ = id.set(found);
            }
            let unknown = || Failure::new(FailureKind::Unavailable, "the environment is not known");
            set.push((header.clone(), id.get().ok_or_else(unknown)?.clone()));
        }
        Ok(Arc::new(Prepared::new(Mutations { set, ..Mutations::default() })))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Network, answer, built, parsed, signed};
    use super::*;
    use crate::base::Code;

    fn with(changes: Value) -> Value {
        let mut settings = json!({"key_access": "11111111-2222-3333-4444-555555555555", "key_secret": {"env": "S"}});
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        settings
    }

    fn sent(mutations: &Mutations) -> Vec<(&str, &str)> {
        mutations.set.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn every_mistake_is_named_where_it_is_written() {
        for (change, path) in [
            (json!({"region": "mars"}), "region:"),
            (json!({"key_secret": "hunter2"}), "key_secret: a secret does not stand"),
            (json!({"second": {"key_access": "x"}}), "second: missing field `key_secret`"),
            (json!({"frontdoor_url": "http://f.test"}), "frontdoor_url: the credential would travel"),
            (
                json!({"frontdoor_url": "https://f.test/service/apikeylogin"}),
                "frontdoor_url: the address of Frontdoor has no path",
            ),
            (json!({"environment": " "}), "environment: it is empty"),
            (json!({"environment": {"domain": "a.test"}}), "environment: missing field `name`"),
            (json!({"environment": {"domain": "a.test", "name": ".."}}), "environment.name: it is empty"),
            (json!({"environment_header": "x"}), "environment_header: it goes with"),
            (json!({"environment": "e", "environment_header": "Host"}), "environment_header: not a header"),
            (json!({"environment": "e", "environment_header": "apptio-opentoken"}), "environment_header: not a header"),
            (json!({"token_lifetime": "2d"}), "token_lifetime: at most a day"),
        ] {
            let error = parsed(&KIND, with(change)).unwrap_err();
            assert!(error.starts_with(path), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_region_has_its_own_hosts_and_no_other() {
        let hosts = |region: &str| parsed(&KIND, with(json!({"region": region}))).unwrap().default_hosts().unwrap();
        assert_eq!(hosts("us"), ["api.cloudability.com", "frontdoor.apptio.com"]);
        assert_eq!(hosts("eu"), ["api-eu.cloudability.com", "frontdoor-eu.apptio.com"]);
        assert_eq!(hosts("au"), ["api-au.cloudability.com", "frontdoor-au.apptio.com"]);
        assert_eq!(hosts("me"), ["api-me.cloudability.com", "frontdoor-me.apptio.com"]);
        assert_eq!(hosts("usgov"), ["frontdoor-usgov.apptio.com"]);
        assert_eq!(hosts("aug"), ["frontdoor-aug.apptio.com"]);
        let check = |region: &str, host: &str| {
            let draft = parsed(&KIND, with(json!({"region": region}))).unwrap();
            draft.check_hosts(&["gateway.example.com".into(), host.into()])
        };
        for region in ["us", "eu", "au", "usgov", "aug", "me"] {
            for host in hosts(region) {
                for other in ["us", "eu", "au", "usgov", "aug", "me"] {
                    for host in [host.clone(), format!("{host}:443")] {
                        assert_eq!(check(other, &host).is_ok(), other == region, "{other} {host}");
                    }
                }
            }
        }
        for host in
            ["*.apptio.com", "*.com:443", "*.cloudability.com", "*.example.apptio.com", "api-eu.cloudability.com"]
        {
            let error = check("us", host).unwrap_err();
            assert!(error.path == "hosts[1]" && error.message.contains("write "), "{error:?}");
        }
        for host in ["example.apptio.com", "example.apptio.com:443", "*.example.com", "*.xapptio.com"] {
            assert_eq!(check("us", host), Ok(()), "{host}");
        }
    }

    #[tokio::test]
    async fn the_token_comes_from_a_header_or_a_cookie_and_goes_out_with_the_environment() {
        let cookie = ("set-cookie", "apptio-opentoken=c1; Path=/; Secure");
        for (headers, token) in [(vec![("Apptio-OpenToken", "h1"), cookie], "h1"), (vec![cookie], "c1")] {
            for (change, header) in [
                (json!({"environment": "e-1"}), "apptio-current-environment"),
                (json!({"environment": "e-1", "product": "cloudability"}), "apptio-environmentid"),
                (json!({"environment": "e-1", "environment_header": "X-Env"}), "x-env"),
            ] {
                let network = Network::answering([answer(200, &headers, "")]);
                let scheme = built(&KIND, with(change), &network).unwrap();
                assert_eq!(scheme.owned_headers(), ["apptio-opentoken", header]);
                assert_eq!(sent(&signed(&*scheme).await.unwrap()), [("apptio-opentoken", token), (header, "e-1")]);
                let asked = network.asked();
                assert_eq!(asked[0].uri(), "https://frontdoor.apptio.com/service/apikeylogin");
                let body: Value = serde_json::from_slice(asked[0].body()).unwrap();
                let pair = json!({"keyAccess": "11111111-2222-3333-4444-555555555555", "keySecret": "secret-of-S"});
                assert_eq!(body, pair);
            }
        }
    }

    #[tokio::test]
    async fn an_environment_is_looked_up_by_its_names_once() {
        let login = || answer(200, &[("apptio-opentoken", "t1")], "");
        let network = Network::answering([login(), answer(200, &[], r#"{"id": "e-9"}"#), login()]);
        let settings = with(json!({"region": "eu", "environment": {"domain": "a.test", "name": "Main Env/1"}}));
        let scheme = built(&KIND, settings.clone(), &network).unwrap();
        let expected = [("apptio-opentoken", "t1"), ("apptio-current-environment", "e-9")];
        assert_eq!(sent(&signed(&*scheme).await.unwrap()), expected);
        let asked = network.asked();
        assert_eq!(asked[1].uri(), "https://frontdoor-eu.apptio.com/api/environment/a.test/Main%20Env%2F1");
        assert_eq!(
            (asked[1].method(), &asked[1].headers()["apptio-opentoken"]),
            (&Method::GET, &HeaderValue::from_static("t1"))
        );
        for (status, body) in [(404, ""), (400, "{}"), (200, "{}"), (200, r#"{"id": "a\nb"}"#)] {
            let network = Network::answering([login(), answer(status, &[], body)]);
            let refusal = signed(&*built(&KIND, settings.clone(), &network).unwrap()).await.unwrap_err();
            assert!(refusal.detail.contains("environment: frontdoor-eu.apptio.com answered"), "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_refused_pair_gives_way_to_the_second_and_both_refused_is_a_rejected_credential() {
        let second = json!({"second": {"key_access": "2", "key_secret": {"env": "S2"}}});
        let refused = || answer(400, &[], r#"{"message": "bad login secret-of-S"}"#);
        let network = Network::answering([refused(), answer(200, &[("apptio-opentoken", "t2")], "")]);
        let scheme = built(&KIND, with(second.clone()), &network).unwrap();
        assert_eq!(sent(&signed(&*scheme).await.unwrap()), [("apptio-opentoken", "t2")]);
        let sent: Vec<Value> =
            network.asked().iter().map(|asked| serde_json::from_slice(asked.body()).unwrap()).collect();
        assert_eq!((&sent[0]["keySecret"], &sent[1]["keySecret"]), (&json!("secret-of-S"), &json!("secret-of-S2")));
        let network = Network::answering([refused()]);
        for (settings, calls) in [(with(second), 2), (with(json!({})), 1)] {
            let scheme = built(&KIND, settings, &network).unwrap();
            for _ in 0..3 {
                let refusal = signed(&*scheme).await.unwrap_err();
                assert_eq!(refusal.code, Code::CredentialRejected, "{refusal}");
                assert!(!refusal.detail.contains("secret-of"), "{refusal}");
            }
            assert_eq!(network.asked().len(), calls, "no retry storm");
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_token_and_a_hostile_token_are_typed_failures() {
        for (headers, words) in [
            (vec![], "there is no apptio-opentoken in its headers or cookies"),
            (vec![("apptio-opentoken", "")], "there is no apptio-opentoken"),
            (vec![("set-cookie", "apptio-opentoken=a\tb\u{80}; Path=/")], ""),
        ] {
            let network = Network::answering([answer(200, &headers, "{}")]);
            let outcome = signed(&*built(&KIND, with(json!({})), &network).unwrap()).await;
            if let Err(refusal) = outcome {
                let missing = words.starts_with("there is no");
                assert_eq!(refusal.code == Code::CredentialRejected, missing, "{refusal}");
                assert!(refusal.detail.contains(words), "{refusal}");
            } else {
                assert!(words.is_empty());
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_session_is_read_wherever_and_however_it_is_written() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (headers, body) in [
            (vec![("valid_till", "1700003600")], "{}"),
            (vec![("valid-till", "1700003600000")], "{}"),
            (vec![("Valid_Till", "Tue, 14 Nov 2023 23:13:20 GMT")], ""),
            (vec![("valid_till", "2023-11-14T23:13:20Z")], "no JSON"),
            (vec![], r#"{"valid_till": 1700003600}"#),
            (vec![], r#"{"valid_till": "1700003600000"}"#),
            (vec![], r#"{"validTill": "2023-11-14T23:13:20.000+0000"}"#),
            (vec![("set-cookie", "apptio-opentoken=x; Max-Age=3600")], "{}"),
        ] {
            let mut headers = headers;
            headers.push(("apptio-opentoken", "t"));
            let network = Network::answering([answer(200, &headers, body)]);
            assert_eq!(life(&network, now).await, Duration::from_secs(3600), "{headers:?} {body}");
        }
        for till in ["", "whenever", "3600000", "-1"] {
            let network = Network::answering([answer(200, &[("apptio-opentoken", "t"), ("valid_till", till)], "")]);
            assert_eq!(life(&network, now).await, UNSAID_LIFETIME, "{till}");
        }
        let network = Network::answering([answer(200, &[("apptio-opentoken", "t"), ("valid_till", "1600000000")], "")]);
        assert_eq!(life(&network, now).await, Duration::ZERO, "over");
    }

    async fn life(network: &Network, now: SystemTime) -> Duration {
        use crate::base::HttpClients;
        let endpoint = Destination::from_upstream("https://frontdoor.apptio.com").unwrap();
        let http = network.client(&endpoint, &ClientOptions::default()).unwrap();
        let frontdoor = Frontdoor {
            credential: "c".into(),
            service: Service::new(endpoint, http),
            login: Uri::from_static("https://frontdoor.apptio.com/service/apikeylogin"),
            pairs: vec![Secret::new("{}")],
            in_use: Pairs::default(),
            confidential: Vec::new(),
            whereabouts: None,
            unsaid_lifetime: UNSAID_LIFETIME,
        };
        frontdoor.fetch(now).await.unwrap().expires_at.duration_since(now).unwrap()
    }
}
