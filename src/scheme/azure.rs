//! `azure`: a token of Microsoft Entra for one of Azure's services, as a service principal, a workload or a managed identity.
//!
//! <https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow>,
//! <https://learn.microsoft.com/en-us/entra/identity-platform/certificate-credentials>

mod audience;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) use self::audience::is_service;
pub use self::audience::{Aim, aim};
use self::audience::{Audience, Cloud, Target};
use super::bearer::{Bearer, Supplied};
use super::fields::endpoint;
use super::{Draft, Fields, Foresight, Identity, Kind, Scheme, SettingsError, Setup, at, hosts, settings};
use crate::base::{AnswerView, Authorized, Authorizer, BoxFuture, ClientOptions, Mutations, Random};
use crate::base::{Public, Refusal, RequestView, Secret, SecretField, SecretRef, Text, Unavailable, Verdict};
use crate::token::{
    Algorithm, Assertion, AssertionParts, Certificate, ClientAuth, Endpoint, Failure, FailureKind, Grant, Handle,
    IdentityId, ManagedIdentity, Param, PrivateKey, Resting, SigningKey, Token, TokenRequest, TokenSource,
};

pub(super) const KIND: Kind = Kind {
    name: "azure",
    about: "A Microsoft Entra token for an Azure service: secret, certificate, federated token or managed identity",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &["client_secret", "certificate", "key", "key_password"],
        leading: &["authority", "token_url", "cloud", "tenant", "allow_cleartext", "allow_foreign_hosts"],
        operators: &["allow_addresses", "federated_token_file", "workload_identity", "managed_identity"],
    },
    parse: |value| {
        let settings: Settings = settings(value)?;
        let target = settings.check()?;
        Ok(Box::new(Azure { settings, target }))
    },
};

/// Used when an answer says nothing of a lifetime; Entra's always do.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

/// From `nbf` to `exp`: the five to ten minutes that Microsoft advises.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(600);

/// Versions before 2017-11-09 know no tokens, and tables none before 2020-12-06; this one is old enough to be everywhere.
const STORAGE_VERSION: &str = "2023-11-03";
const X_MS_VERSION: HeaderName = HeaderName::from_static("x-ms-version");

/// Entra's names for all tenants, or no certain one: an application is in one.
const NO_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

/// What AKS's webhook gives a pod.
const FEDERATED_TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const TENANT_ID: &str = "AZURE_TENANT_ID";
const CLIENT_ID: &str = "AZURE_CLIENT_ID";
const AUTHORITY_HOST: &str = "AZURE_AUTHORITY_HOST";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum AssertionAlgorithm {
    PS256,
    RS256,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    cloud: Cloud,
    tenant: Option<Public>,
    client_id: Option<Public>,
    // What for.
    audience: Option<Audience>,
    /// For the endpoint of version 1.
    resource: Option<Text>,
    /// For that of version 2.
    scope: Option<Text>,
    // How the application proves itself.
    client_secret: Option<SecretField>,
    certificate: Option<SecretField>,
    /// In the certificate's own file unless said otherwise.
    key: Option<SecretField>,
    key_password: Option<SecretField>,
    assertion_algorithm: Option<AssertionAlgorithm>,
    /// Sends the certificate itself, for applications that trust a subject name and its issuer.
    #[serde(default)]
    send_chain: bool,
    federated_token_file: Option<PathBuf>,
    #[serde(default)]
    workload_identity: bool,
    #[serde(default)]
    managed_identity: bool,
    object_id: Option<Text>,
    resource_id: Option<Text>,
    // Where.
    authority: Option<String>,
    token_url: Option<String>,
    /// Let the credential travel to that endpoint over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that the endpoint may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    x_ms_version: Option<Text>,
    /// Hosts that are none of Microsoft's may get the token.
    #[serde(default)]
    allow_foreign_hosts: bool,
}

impl Settings {
    fn check(&self) -> Result<Target, SettingsError> {
        self.check_ways()?;
        self.check_endpoint()?;
        let target = self.target()?;
        if self.x_ms_version.is_some() && !is_storage(&target) {
            return Err(at("x_ms_version", "it goes with the storage audience"));
        }
        if let Some(Text(version)) = &self.x_ms_version
            && !is_version(version)
        {
            return Err(at("x_ms_version", "a version is a date, such as 2023-11-03"));
        }
        if let Some(Public::Literal(tenant)) = &self.tenant {
            check_tenant(tenant).map_err(|why| at("tenant", why))?;
        }
        if let Some(Public::Literal(id)) = &self.client_id
            && id.is_empty()
        {
            return Err(at("client_id", "an empty id; it is the application's, in its overview in the portal"));
        }
        Ok(target)
    }

    /// One way to prove who asks, and what goes with it.
    fn check_ways(&self) -> Result<(), SettingsError> {
        let ways = [
            ("client_secret", self.client_secret.is_some()),
            ("certificate", self.certificate.is_some()),
            ("federated_token_file", self.federated_token_file.is_some()),
            ("workload_identity", self.workload_identity),
            ("managed_identity", self.managed_identity),
        ];
        let mut chosen = ways.iter().filter(|(_, set)| *set).map(|(way, _)| *way);
        let all = "`client_secret`, `certificate`, `federated_token_file`, `workload_identity` or `managed_identity`";
        let Some(way) = chosen.next() else { return Err(at("", format!("one of {all} is needed"))) };
        if let Some(second) = chosen.next() {
            return Err(at(second, format!("an application proves itself in one way: by {all}")));
        }
        let managed = way == "managed_identity";
        let needs = [("tenant", self.tenant.is_some()), ("client_id", self.client_id.is_some())];
        if let Some((key, _)) = needs.iter().find(|(_, set)| !set && !managed && way != "workload_identity") {
            return Err(at(*key, format!("`{key}` is needed with `{way}`")));
        }
        let foreign = [
            ("key", self.key.is_some(), "certificate"),
            ("key_password", self.key_password.is_some(), "certificate"),
            ("assertion_algorithm", self.assertion_algorithm.is_some(), "certificate"),
            ("send_chain", self.send_chain, "certificate"),
            ("object_id", self.object_id.is_some(), "managed_identity"),
            ("resource_id", self.resource_id.is_some(), "managed_identity"),
        ];
        if let Some((key, _, with)) = foreign.iter().find(|(_, set, with)| *set && *with != way) {
            return Err(at(*key, format!("it goes with `{with}`")));
        }
        if managed {
            let ids = [self.client_id.is_some(), self.object_id.is_some(), self.resource_id.is_some()];
            if ids.into_iter().filter(|set| *set).count() > 1 {
                return Err(at("", "an identity is named by one of `client_id`, `object_id` and `resource_id`"));
            }
            for (key, set) in [("tenant", self.tenant.is_some()), ("authority", self.authority.is_some())] {
                if set {
                    return Err(at(key, "a managed identity is of the machine's own tenant"));
                }
            }
        }
        Ok(())
    }

    fn check_endpoint(&self) -> Result<(), SettingsError> {
        if self.authority.is_some() && self.token_url.is_some() {
            return Err(at("authority", "`token_url` is the whole address already"));
        }
        for (key, url) in [("authority", &self.authority), ("token_url", &self.token_url)] {
            if let Some(url) = url {
                endpoint(url, self.allow_cleartext).map_err(|why| at(key, why))?;
            }
        }
        if let Some(url) = &self.authority {
            check_authority(url).map_err(|why| at("authority", why))?;
        }
        Ok(())
    }

    fn target(&self) -> Result<Target, SettingsError> {
        match (&self.audience, &self.resource, &self.scope) {
            (Some(audience), None, None) => Target::named(*audience, self.cloud).map_err(|why| at("audience", why)),
            (None, Some(Text(resource)), None) if !resource.trim().is_empty() => {
                if resource.ends_with("/.default") {
                    return Err(at("resource", "with `/.default` it is a `scope`"));
                }
                Target::of_resource(resource, self.cloud).map_err(|why| at("resource", why))
            }
            (None, None, Some(Text(scope))) => {
                let resource =
                    scope.strip_suffix("/.default").filter(|resource| !resource.contains(char::is_whitespace));
                let why = "an application asks for all it was granted at one service: its scope ends in `/.default` \
                           (AADSTS1002012), such as https://graph.microsoft.com/.default";
                let resource = resource.filter(|resource| !resource.is_empty()).ok_or_else(|| at("scope", why))?;
                Target::of_resource(resource, self.cloud).map_err(|why| at("scope", why))
            }
            _ => {
                let why = "a token is for one service: write `audience` (resource_management, graph, log_analytics, metrics, \
                           storage, key_vault or databricks), `resource` (version 1) or `scope` (version 2)";
                Err(at("", why))
            }
        }
    }
}

/// A GUID or a domain, as it stands in the path of the endpoint.
fn check_tenant(tenant: &str) -> Result<(), String> {
    let plain = tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    if tenant.is_empty() || !plain || tenant.starts_with('.') {
        return Err("a tenant is its id or one of its domains, such as contoso.onmicrosoft.com".into());
    }
    if NO_TENANTS.contains(&tenant) {
        return Err(format!("`{tenant}` is no tenant: an application gets its token from its own"));
    }
    Ok(())
}

fn check_authority(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| "not an address".to_owned())?;
    let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
    bare.then_some(()).ok_or_else(|| "an authority has no path: the tenant and the rest follow it".into())
}

fn is_storage(target: &Target) -> bool {
    target.place.is_some_and(|place| place.audience == Audience::Storage)
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts[..], [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
}

/// Checked settings, and what the token is for.
#[derive(Debug)]
struct Azure {
    settings: Settings,
    target: Target,
}

impl Draft for Azure {
    fn references(&self) -> Vec<&SecretRef> {
        let settings = &self.settings;
        let public = [settings.tenant.as_ref(), settings.client_id.as_ref()];
        let secret = [&settings.client_secret, &settings.certificate, &settings.key, &settings.key_password];
        let public = public.into_iter().flatten().filter_map(Public::reference);
        public.chain(secret.into_iter().flatten().map(SecretField::reference)).collect()
    }

    fn default_hosts(&self) -> Option<Vec<String>> {
        Some(self.target.default_hosts())
    }

    fn check_hosts(&self, named: &[String]) -> Result<(), SettingsError> {
        if let Some(place) = self.target.place.filter(|place| place.needs_hosts())
            && named.is_empty()
            && self.target.default_hosts().is_empty()
        {
            let why = format!("every customer has hosts there: name your own, such as {}", place.example());
            return Err(at("hosts", why));
        }
        hosts::each(named, |host| self.target.check(host, self.settings.allow_foreign_hosts).err())
    }

    fn audience(&self) -> Option<String> {
        Some(self.target.resource.clone())
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let mut key = setup.key().with("settings", format!("{self:?}"));
        for reference in self.references() {
            key = key.with(&reference.to_string(), setup.secrets.get(reference)?.expose());
        }
        let from = if self.settings.managed_identity {
            let identity = self.managed_identity(setup)?;
            let (url, header) = identity.inputs();
            key = key.with("identity", url).with_option("header", header.map(Secret::expose));
            From::Machine(identity)
        } else {
            let (entra, url) = self.entra(setup)?;
            key = key.with("endpoint", url).with("client", format!("{:?}", entra.client));
            From::Entra(Box::new(entra))
        };
        let place = self.target.place.map(|place| place.audience);
        let version = self.settings.x_ms_version.as_ref().map_or(STORAGE_VERSION, |version| &version.0);
        let version = HeaderValue::from_str(version).map_err(|_| Unavailable("x_ms_version: not a header".into()))?;
        let supplied = Supplied { name: X_MS_VERSION, value: version, host: None };
        let supplied = is_storage(&self.target).then_some(supplied);
        let vault = place == Some(Audience::KeyVault);
        let source = Source { from, supplied: supplied.clone(), vault };
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(source));
        Ok(Arc::new(Ready { handle: Arc::new(handle), supplied, vault }))
    }
}

impl Azure {
    fn managed_identity(&self, setup: &Setup<'_>) -> Result<ManagedIdentity, Unavailable> {
        let settings = &self.settings;
        let client = settings.client_id.as_ref().map(|id| setup.secrets.public(id)).transpose()?;
        let id = client.map(IdentityId::Client);
        let id = id.or_else(|| settings.object_id.as_ref().map(|id| IdentityId::Object(id.0.clone())));
        let id = id.or_else(|| settings.resource_id.as_ref().map(|id| IdentityId::Resource(id.0.clone())));
        let url = settings.token_url.as_deref().map(|url| (url, &settings.allow_addresses[..]));
        let (environment, http) = (&*setup.outside.environment, &*setup.outside.http);
        let identity = ManagedIdentity::open(environment, http, url, id.as_ref(), &self.target.resource);
        identity.map_err(|why| Unavailable(format!("managed_identity: {why}")))
    }

    /// How to ask Entra, and where.
    fn entra(&self, setup: &Setup<'_>) -> Result<(Entra, String), Unavailable> {
        let (settings, secrets) = (&self.settings, setup.secrets);
        let variable = |name: &str| setup.outside.environment.variable(name).filter(|value| !value.trim().is_empty());
        let told = |name: &str| {
            let missing = || {
                Unavailable(format!(
                    "workload_identity: the environment has no {name}; AKS's webhook sets it where the pod has the label azure.workload.identity/use"
                ))
            };
            variable(name).ok_or_else(missing)
        };
        let written = |field: &Option<Public>, name: &str| match field {
            Some(field) => secrets.public(field),
            None => told(name),
        };
        let tenant = written(&settings.tenant, TENANT_ID)?;
        check_tenant(&tenant).map_err(|why| Unavailable(format!("tenant: {why}")))?;
        let client_id = written(&settings.client_id, CLIENT_ID)?;
        let authority =
            settings.authority.clone().or_else(|| variable(AUTHORITY_HOST).filter(|_| settings.workload_identity));
        let authority = authority.unwrap_or_else(|| settings.cloud.authority().to_owned());
        check_authority(&authority).map_err(|why| Unavailable(format!("authority: {why}")))?;
        let version = if settings.resource.is_some() { "token" } else { "v2.0/token" };
        let built = format!("{}/{tenant}/oauth2/{version}", authority.trim_end_matches('/'));
        let url = settings.token_url.clone().unwrap_or(built);
        let unfit = |why: String| Unavailable(format!("token_url: {why}"));
        let destination = endpoint(&url, settings.allow_cleartext).map_err(unfit)?;
        let options = ClientOptions { allow_addresses: settings.allow_addresses.clone(), ..ClientOptions::default() };
        let http = setup.outside.http.client(&destination, &options).map_err(unfit)?;
        let endpoint = Endpoint::new(&url, http, HeaderMap::new()).map_err(unfit)?;
        let client = if let Some(secret) = &settings.client_secret {
            Client::Known(ClientAuth::Form(client_id, secrets.field(secret)?))
        } else if let Some(certificate) = &settings.certificate {
            let assertion = self.assertion(setup, &secrets.field(certificate)?, &client_id, &url)?;
            Client::Known(ClientAuth::Assertion(Some(client_id), Box::new(assertion)))
        } else {
            let file = settings.federated_token_file.clone();
            let file = file.map_or_else(|| told(FEDERATED_TOKEN_FILE).map(PathBuf::from), Ok)?;
            Client::Federated { client_id, token: Resting::File(file) }
        };
        let (scopes, params) = match settings.resource {
            Some(_) => (Vec::new(), vec![self.resource()]),
            None => (vec![format!("{}/.default", self.target.resource)], Vec::new()),
        };
        Ok((Entra { endpoint, client, scopes, params, random: Arc::clone(&setup.outside.random) }, url))
    }

    fn resource(&self) -> Param {
        Param { name: "resource".into(), value: Secret::new(self.target.resource.as_str()), confidential: false }
    }

    fn assertion(&self, setup: &Setup<'_>, pem: &Secret, client_id: &str, url: &str) -> Result<Assertion, Unavailable> {
        let settings = &self.settings;
        let password = settings.key_password.as_ref().map(|password| setup.secrets.field(password)).transpose()?;
        let (path, text) = match &settings.key {
            Some(key) => ("key", setup.secrets.field(key)?),
            None => ("certificate", pem.clone()),
        };
        let key = PrivateKey::from_pem(&text, password.as_ref());
        let key = key.map_err(|why| Unavailable(format!("{path}: {why}")))?;
        let unfit = |why: String| Unavailable(format!("certificate: {why}"));
        let certificate = Certificate::from_pem(pem, &key, setup.outside.clock.now()).map_err(unfit)?;
        let mut headers = Map::new();
        let algorithm = match settings.assertion_algorithm.unwrap_or(AssertionAlgorithm::PS256) {
            AssertionAlgorithm::PS256 => {
                headers.insert("x5t#S256".into(), certificate.sha256_thumbprint().into());
                Algorithm::PS256
            }
            AssertionAlgorithm::RS256 => {
                headers.insert("x5t".into(), certificate.sha1_thumbprint().into());
                Algorithm::RS256
            }
        };
        if settings.send_chain {
            let chain = certificate.x5c().map_err(unfit)?;
            headers.insert("x5c".into(), chain.into_iter().map(Value::from).collect());
        }
        let assertion = Assertion::new(AssertionParts {
            key: SigningKey::Private(key),
            algorithm: Some(algorithm),
            issuer: Some(client_id.to_owned()),
            subject: Some(client_id.to_owned()),
            audience: Some(url.to_owned()),
            claims: Map::new(),
            headers,
            include_jti: true,
            lifetime: ASSERTION_LIFETIME,
            backdate: Duration::ZERO,
        });
        assertion.map(Assertion::with_not_before).map_err(|why| Unavailable(format!("{path}: {why}")))
    }
}

/// How an application proves itself to Entra.
#[derive(Debug)]
enum Client {
    Known(ClientAuth),
    /// With a token of its platform, which is read again each time: it lives an hour or a day.
    Federated {
        client_id: String,
        token: Resting,
    },
}

#[derive(Debug)]
struct Entra {
    endpoint: Endpoint,
    client: Client,
    scopes: Vec<String>,
    params: Vec<Param>,
    random: Arc<dyn Random>,
}

impl Entra {
    async fn fetch(&self, now: SystemTime) -> Result<(Secret, Option<Duration>), Failure> {
        let presented;
        let client = match &self.client {
            Client::Known(client) => client,
            Client::Federated { client_id, token } => {
                let token = token.read().await.map_err(|mut failure| {
                    failure.detail.insert_str(0, "federated_token_file: ");
                    failure
                })?;
                let token = Secret::new(token.expose().trim_ascii());
                if token.expose().is_empty() {
                    return Err(Failure::new(FailureKind::Unavailable, "federated_token_file: it is empty"));
                }
                presented = ClientAuth::Presented(client_id.clone(), token);
                &presented
            }
        };
        let grant = Grant::ClientCredentials;
        let request = TokenRequest { grant, client, scopes: &self.scopes, params: &self.params };
        let answer = self.endpoint.exchange(&request, now, &*self.random).await.map_err(|error| {
            // The file may hold another token a moment later, which nothing tells us.
            let presented =
                matches!(self.client, Client::Federated { .. }) && error.failure.kind == FailureKind::Rejected;
            Failure { kind: if presented { FailureKind::Refused } else { error.failure.kind }, ..error.failure }
        })?;
        Ok((answer.access_token, answer.lifetime))
    }
}

/// Where tokens come from.
#[derive(Debug)]
enum From {
    Entra(Box<Entra>),
    Machine(ManagedIdentity),
}

#[derive(Debug)]
struct Source {
    from: From,
    supplied: Option<Supplied>,
    vault: bool,
}

impl TokenSource for Source {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let (secret, lifetime) = match &self.from {
                From::Entra(entra) => entra.fetch(now).await?,
                From::Machine(identity) => identity.fetch(now).await?,
            };
            Ok(Token { secret, expires_at: now + lifetime.unwrap_or(UNSAID_LIFETIME) })
        })
    }

    /// Neither what this machine is, nor what its platform put into a file.
    fn shareable(&self) -> bool {
        matches!(&self.from, From::Entra(entra) if matches!(entra.client, Client::Known(_)))
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let bearer = Bearer::new(token, self.supplied.as_ref())?;
        Ok(if self.vault { Arc::new(VaultBearer(bearer)) } else { Arc::new(bearer) })
    }
}

/// A bearer token for a vault.
///
/// Azure's clients do not know what to ask a token for until the vault has told them: their first request goes without
/// `Authorization` and without its body, to be refused. Signed, it would be let in and fail for the body that is missing.
/// So a request to write something that has neither goes out as it is, and the client's next one is signed.
#[derive(Debug)]
struct VaultBearer(Bearer);

/// The mark of a request that went out unsigned.
const UNSIGNED: i64 = 1;

impl Authorizer for VaultBearer {
    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Authorized, Refusal> {
        let writes = [Method::PUT, Method::POST, Method::PATCH].contains(view.method);
        if writes && view.length == Some(0) && !view.removed.contains_key(AUTHORIZATION) {
            return Ok(Authorized { mark: UNSIGNED, ..Mutations::default().into() });
        }
        self.0.authorize(view, now)
    }

    fn verdict(&self, answer: &AnswerView<'_>, now: SystemTime) -> Verdict {
        if answer.mark == UNSIGNED { Verdict::Fine } else { self.0.verdict(answer, now) }
    }
}

/// A credential with its token.
#[derive(Debug)]
struct Ready {
    handle: Arc<Handle>,
    supplied: Option<Supplied>,
    vault: bool,
}

impl Scheme for Ready {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let mut adds = vec![AUTHORIZATION.to_string()];
        if let Some(supplied) = self.supplied.as_ref().filter(|supplied| supplied.is_missing(view)) {
            adds.push(supplied.name.to_string());
            let version = supplied.value.to_str().unwrap_or_default();
            let note = Some(format!("{}: {version} is for callers that send none", supplied.name));
            return Ok(Foresight { adds, note });
        }
        let writes = [Method::PUT, Method::POST, Method::PATCH].contains(view.method);
        let note = "without a body and an Authorization header of the caller's it goes out as it is, for the vault to say \
                    what it asks for";
        Ok(Foresight { adds, note: (self.vault && writes).then(|| note.to_owned()) })
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::base::Destination;

    /// Some settings with others on top; `null` takes one away.
    fn with(base: &Value, more: &Value) -> Value {
        let mut all = base.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        all.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    fn parsed(value: &Value) -> Result<Box<dyn Draft>, String> {
        (KIND.parse)(value.clone()).map_err(|error| format!("{}: {}", error.path, error.message))
    }

    fn secret() -> Value {
        json!({ "tenant": "t", "client_id": "c", "client_secret": { "env": "S" }, "audience": "graph" })
    }

    #[test]
    fn every_way_and_every_target_is_taken() {
        let machine = json!({ "managed_identity": true, "audience": "key_vault" });
        let workload = json!({ "workload_identity": true, "scope": "https://storage.azure.com/.default" });
        let certificate = json!({ "client_secret": null, "certificate": { "file": "x.pem" } });
        for value in [
            secret(),
            with(&secret(), &json!({ "tenant": { "env": "T" }, "client_id": { "env": "C" } })),
            with(&secret(), &json!({ "audience": null, "resource": "https://vault.azure.net/" })),
            with(&secret(), &json!({ "token_url": "http://127.0.0.1:1/t", "allow_cleartext": true })),
            with(&secret(), &json!({ "authority": "https://login.example.com/" })),
            with(&secret(), &certificate),
            with(&with(&secret(), &certificate), &json!({ "key": { "env": "K" }, "key_password": { "env": "P" } })),
            with(&with(&secret(), &certificate), &json!({ "assertion_algorithm": "RS256", "send_chain": true })),
            with(&secret(), &json!({ "client_secret": null, "federated_token_file": "/run/token" })),
            workload.clone(),
            with(&workload, &json!({ "tenant": "t", "x_ms_version": "2025-01-05" })),
            machine.clone(),
            with(&machine, &json!({ "client_id": "c" })),
            with(&machine, &json!({ "object_id": "o" })),
            with(&machine, &json!({ "resource_id": "/subscriptions/1" })),
        ] {
            assert_eq!(parsed(&value).err(), None, "{value}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_to_change() {
        let machine = json!({ "managed_identity": true, "audience": "graph" });
        let certificate = with(&secret(), &json!({ "client_secret": null, "certificate": { "file": "x" } }));
        for (value, said) in [
            (with(&secret(), &json!({ "client_secret": null })), ": one of `client_secret`"),
            (
                with(&secret(), &json!({ "managed_identity": true })),
                "managed_identity: an application proves itself in one",
            ),
            (with(&secret(), &json!({ "certificate": { "file": "x" } })), "certificate: an application proves"),
            (with(&secret(), &json!({ "tenant": null })), "tenant: `tenant` is needed with `client_secret`"),
            (with(&certificate, &json!({ "client_id": null })), "client_id: `client_id` is needed with `certificate`"),
            (with(&secret(), &json!({ "client_id": "" })), "client_id: an empty id"),
            (with(&secret(), &json!({ "tenant": "a/b" })), "tenant: a tenant is its id"),
            (with(&secret(), &json!({ "tenant": "organizations" })), "is no tenant"),
            (with(&secret(), &json!({ "audience": null })), "a token is for one service"),
            (with(&secret(), &json!({ "resource": "https://x" })), "a token is for one service"),
            (with(&secret(), &json!({ "audience": "grph" })), "audience: unknown variant"),
            (with(&secret(), &json!({ "cloud": "germany" })), "cloud: unknown variant"),
            (
                with(&secret(), &json!({ "audience": null, "resource": "https://graph.microsoft.us" })),
                "resource: https://graph.microsoft.us is of another cloud: set `cloud: us_government`",
            ),
            (
                with(&secret(), &json!({ "audience": null, "resource": "x/.default" })),
                "resource: with `/.default` it is",
            ),
            (with(&secret(), &json!({ "audience": null, "scope": "/.default" })), "scope: an application asks"),
            (with(&secret(), &json!({ "audience": null, "scope": "a b/.default" })), "scope: an application asks"),
            (with(&secret(), &json!({ "key": { "file": "k" } })), "key: it goes with `certificate`"),
            (with(&secret(), &json!({ "send_chain": true })), "send_chain: it goes with `certificate`"),
            (with(&certificate, &json!({ "assertion_algorithm": "HS256" })), "assertion_algorithm: unknown variant"),
            (with(&secret(), &json!({ "object_id": "x" })), "object_id: it goes with `managed_identity`"),
            (with(&machine, &json!({ "object_id": "x", "client_id": "y" })), "named by one of"),
            (with(&machine, &json!({ "tenant": "x" })), "tenant: a managed identity is of the machine's own tenant"),
            (with(&machine, &json!({ "token_url": "http://127.0.0.1/" })), "token_url: the credential would travel"),
            (with(&secret(), &json!({ "token_url": "http://idp.test/" })), "token_url: the credential would travel"),
            (with(&secret(), &json!({ "authority": "http://idp.test/" })), "authority: the credential would travel"),
            (with(&secret(), &json!({ "authority": "https://idp.test/t" })), "authority: an authority has no path"),
            (
                with(&secret(), &json!({ "authority": "https://a.test", "token_url": "https://b.test" })),
                "authority: `token",
            ),
            (with(&secret(), &json!({ "x_ms_version": "2023-11-03" })), "x_ms_version: it goes with the storage"),
            (
                with(&secret(), &json!({ "audience": "storage", "x_ms_version": "new" })),
                "x_ms_version: a version is a date",
            ),
            (with(&secret(), &json!({ "client_secret": "hunter2" })), "client_secret: a secret does not stand"),
        ] {
            let error = parsed(&value).unwrap_err();
            assert!(error.contains(said), "{value}: {error}");
            assert!(!error.contains("hunter2"));
        }
    }

    #[test]
    fn hosts_follow_from_the_audience() {
        let hosts = |more: &Value| parsed(&with(&secret(), more)).unwrap().default_hosts().unwrap();
        assert_eq!(hosts(&json!({})), ["graph.microsoft.com"]);
        assert_eq!(hosts(&json!({ "cloud": "china" })), ["microsoftgraph.chinacloudapi.cn"]);
        assert_eq!(
            hosts(&json!({ "audience": null, "scope": "https://graph.microsoft.com/.default" })),
            hosts(&json!({}))
        );
        assert!(hosts(&json!({ "audience": null, "scope": "api://mine/.default" })).is_empty());
        let check = |more: &Value, named: &[&str]| {
            let named: Vec<String> = named.iter().map(|host| (*host).to_owned()).collect();
            parsed(&with(&secret(), more)).unwrap().check_hosts(&named)
        };
        let storage = json!({ "audience": "storage" });
        assert_eq!(check(&storage, &["mine.blob.core.windows.net"]), Ok(()));
        for (named, path, said) in [
            (
                &[][..],
                "hosts",
                "every customer has hosts there: name your own, such as myaccount.blob.core.windows.net",
            ),
            (
                &["mine.blob.core.windows.net", "graph.microsoft.com"],
                "hosts[1]",
                "must not go to a host of https://graph",
            ),
            (&["*.blob.core.windows.net"], "hosts[0]", "others have hosts there too"),
            (&["storage.example.com"], "hosts[0]", "`allow_foreign_hosts: true`"),
        ] {
            let error = check(&storage, named).unwrap_err();
            assert!(error.path == path && error.message.contains(said), "{error:?}");
        }
        let own = json!({ "audience": null, "resource": "api://mine" });
        let hosts = ["*.azurewebsites.net", "*.cloudapp.azure.com:443", "*.eastus.cloudapp.azure.com", "*.azurefd.net"];
        let more = ["*.azureedge.net", "*.azurecontainerapps.io", "*.trafficmanager.net", "*.azure-api.net", "*.io"];
        for host in
            hosts.iter().chain(&more).chain(&["*.web.core.windows.net", "*.azurestaticapps.net", "*.cloudapp.net"])
        {
            for foreign in [false, true] {
                let mut settings = own.clone();
                settings["allow_foreign_hosts"] = foreign.into();
                let error = check(&settings, &["mine.azurewebsites.net", host]).unwrap_err();
                assert!(error.path == "hosts[1]" && error.message.contains("write the whole name"), "{error:?}");
            }
        }
        for host in ["mine.azurewebsites.net:443", "*.example.com", "*.xazurefd.net", "mine.eastus.cloudapp.azure.com"]
        {
            assert_eq!(check(&own, &[host]), Ok(()), "{host}");
        }
        let foreign = json!({ "audience": "storage", "allow_foreign_hosts": true });
        assert_eq!(check(&foreign, &["storage.example.com"]), Ok(()));
    }

    fn asked(bearer: &dyn Authorizer, method: &Method, length: Option<u64>, own: bool) -> (bool, i64) {
        let (mut removed, headers) = (HeaderMap::new(), HeaderMap::new());
        if own {
            removed.insert(AUTHORIZATION, HeaderValue::from_static("Bearer worthless"));
        }
        let destination = Destination::from_upstream("https://v.vault.azure.net").unwrap();
        let view = RequestView {
            method,
            path_and_query: "/secrets/a?api-version=7.4",
            headers: &headers,
            removed: &removed,
            destination: &destination,
            length,
            body: None,
            narrowing: None,
        };
        let authorized = bearer.authorize(&view, SystemTime::UNIX_EPOCH).unwrap();
        (!authorized.mutations.set.is_empty(), authorized.mark)
    }

    #[test]
    fn only_what_elicits_a_challenge_goes_to_a_vault_as_it_is() {
        let token = Token { secret: Secret::new("t"), expires_at: SystemTime::UNIX_EPOCH };
        let vault = VaultBearer(Bearer::new(&token, None).unwrap());
        for method in [Method::PUT, Method::POST, Method::PATCH] {
            assert_eq!(asked(&vault, &method, Some(0), false), (false, UNSIGNED));
            for (length, own) in [(Some(0), true), (Some(9), false), (Some(9), true), (None, false)] {
                assert_eq!(asked(&vault, &method, length, own), (true, 0), "{method} {length:?} {own}");
            }
        }
        assert_eq!(asked(&vault, &Method::GET, Some(0), false), (true, 0));
        assert_eq!(asked(&vault, &Method::DELETE, Some(0), false), (true, 0));
        let destination = Destination::from_upstream("https://v.vault.azure.net").unwrap();
        let answer = |mark| AnswerView {
            destination: &destination,
            mark,
            status: StatusCode::UNAUTHORIZED,
            headers: Box::leak(Box::default()),
            body: b"",
        };
        // What was refused without a token says nothing of the token.
        assert_eq!(vault.verdict(&answer(UNSIGNED), SystemTime::UNIX_EPOCH), Verdict::Fine);
        assert_eq!(vault.verdict(&answer(0), SystemTime::UNIX_EPOCH), Verdict::Token);
    }
}
