//! Azure Key Vault: secrets of one vault, by name and version.
//!
//! <https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/get-secret/get-secret>,
//! <https://learn.microsoft.com/en-us/azure/key-vault/general/authentication-requests-and-responses>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{ACCEPT, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::content::Content;
use super::line::{Answer, Line, Trouble, printable};
use super::settings::{Backend, Common, Implied, Parsed, Read, StoreError, StoreKind, at, endpoint, keys};
use crate::base::{BoxFuture, Destination, Secret, StoreRef};

pub(super) const KIND: StoreKind = StoreKind { name: "azure_key_vault", parse };

/// Every vault of every cloud knows it.
const API_VERSION: &str = "7.4";

/// The domains of vaults, each with what its tokens are for and the cloud that it is of.
const DOMAINS: [(&str, &str, &str); 3] = [
    ("vault.azure.net", "https://vault.azure.net", "public"),
    ("vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net", "us_government"),
    ("vault.azure.cn", "https://vault.azure.cn", "china"),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    vault_url: String,
    api_version: Option<String>,
}

fn parse(mut own: Map<String, Value>, common: &Common) -> Result<Parsed, StoreError> {
    let mut mine = Map::new();
    for key in ["vault_url", "api_version"] {
        mine.extend(own.remove(key).map(|value| (key.to_owned(), value)));
    }
    let settings: Settings = keys(mine)?;
    let endpoint = endpoint("vault_url", &settings.vault_url, common)?;
    let bare = settings.vault_url.trim_end_matches('/');
    if bare.matches('/').count() != 2 || bare.contains(['?', '#']) {
        return Err(at(
            "vault_url",
            "the vault's address, such as https://myvault.vault.azure.net; names go where it is used",
        ));
    }
    let api_version = settings.api_version.unwrap_or_else(|| API_VERSION.to_owned());
    if !is_api_version(&api_version) {
        return Err(at("api_version", "2016-10-01 or later, such as 7.4 or 2025-07-01; put it in quotes"));
    }
    let implied = match (own.is_empty(), common.borrows) {
        (true, true) => None,
        (false, true) => {
            let key = own.keys().next().cloned().unwrap_or_default();
            return Err(at(key, "the store authenticates in one way: by its own keys or by `credential`"));
        }
        (_, false) => Some(implied(own, &endpoint, common)?),
    };
    Ok(Parsed { backend: Box::new(KeyVault { address: bare.to_owned(), endpoint, api_version }), implied })
}

/// The vault's own keys as those of the scheme `azure`.
fn implied(mut own: Map<String, Value>, endpoint: &Destination, common: &Common) -> Result<Implied, StoreError> {
    if let Some(grant) = own.remove("grant_type").filter(|grant| grant != "client_credentials") {
        let _ = grant;
        return Err(at("grant_type", "client_credentials: an application asks for itself"));
    }
    if let Some(tenant) = own.remove("tenant_id") {
        if own.contains_key("tenant") {
            return Err(at("tenant_id", "`tenant` and `tenant_id` are two names of one thing; write one"));
        }
        own.insert("tenant".into(), tenant);
    }
    let host = endpoint.host().to_string();
    let domain = DOMAINS.iter().find(|(domain, _, _)| is_below(&host, domain));
    let (_, resource, cloud) = domain.unwrap_or(&DOMAINS[0]);
    if !["resource", "scope", "audience"].iter().any(|key| own.contains_key(*key)) {
        own.insert("resource".into(), (*resource).into());
    }
    if !own.contains_key("cloud") {
        own.insert("cloud".into(), (*cloud).into());
    }
    own.insert("allow_cleartext".into(), common.allow_cleartext.into());
    if !common.allow_addresses.is_null() {
        own.insert("allow_addresses".into(), common.allow_addresses.clone());
    }
    if domain.is_none() && !own.contains_key("allow_foreign_hosts") {
        // The operator names the vault, and its resource where that is no vault of Azure's own clouds.
        own.insert("allow_foreign_hosts".into(), json!(true));
    }
    let hosts = vec![format!("{host}:{}", endpoint.port())];
    const PATHS: &[(&str, &str)] = &[("tenant", "tenant_id"), ("hosts", "vault_url")];
    Ok(Implied { scheme: "azure", settings: Value::Object(own), hosts, paths: PATHS })
}

/// `7.4`, or a date from 2016-10-01 on; either may be a preview.
fn is_api_version(text: &str) -> bool {
    let text = text.split_once("-preview").map_or(text, |(version, _)| version);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [year, month, day] => {
            [year, month, day].into_iter().all(digits)
                && (year.len(), month.len(), day.len()) == (4, 2, 2)
                && text >= "2016-10-01"
        }
        [number] => number.split_once('.').is_some_and(|(major, minor)| {
            digits(major) && digits(minor) && major.parse::<u32>().is_ok_and(|major| (7..100).contains(&major))
        }),
        _ => false,
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

#[derive(Debug)]
struct KeyVault {
    /// Without a slash at its end.
    address: String,
    endpoint: Destination,
    api_version: String,
}

/// `SecretName`, or `SecretName/Version`.
fn split(reference: &StoreRef) -> (&str, Option<&str>) {
    match reference.name.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (&reference.name, reference.version.as_deref()),
    }
}

impl Backend for KeyVault {
    fn endpoint(&self) -> &Destination {
        &self.endpoint
    }

    fn check(&self, reference: &StoreRef) -> Result<(), StoreError> {
        if reference.name.contains('/') && reference.version.is_some() {
            return Err(at("version", "the version stands in `name` already"));
        }
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let (name, version) = split(reference);
        if !plain(name) || name.len() > 127 {
            return Err(at("name", "SecretName or SecretName/Version: a name has up to 127 letters, digits and `-`"));
        }
        if version.is_some_and(|version| !plain(version) || version.len() > 64) {
            let path = if reference.name.contains('/') { "name" } else { "version" };
            return Err(at(path, "a version is the 32 characters at the end of the secret's identifier"));
        }
        Ok(())
    }

    fn read<'a>(&'a self, line: &'a Line, reference: &'a StoreRef) -> BoxFuture<'a, Result<Read, Trouble>> {
        Box::pin(async move {
            let (name, version) = split(reference);
            let (address, version) = (&self.address, version.unwrap_or_default());
            let url = format!("{address}/secrets/{name}/{version}?api-version={}", self.api_version);
            let request = Request::get(url).header(ACCEPT, "application/json").body(Vec::new());
            let request = request.map_err(|_| Trouble::secret("its name cannot stand in an address"))?;
            let answer = line.call(request, |answer| answer.status == StatusCode::UNAUTHORIZED, words).await?;
            if answer.status == StatusCode::UNAUTHORIZED {
                return Err(self.unauthorized(&answer));
            }
            if !answer.status.is_success() {
                return Err(refused(&answer));
            }
            bundle(&answer.body, line.clock.now())
        })
    }
}

impl KeyVault {
    /// What the vault wants instead, if the challenge is the vault's own.
    fn unauthorized(&self, answer: &Answer) -> Trouble {
        let header = answer.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some(resource) = parameter(header, "resource").or_else(|| parameter(header, "scope")) else {
            return Trouble::store(format!(
                "it refuses the token and does not say which it wants {}",
                words(&answer.body)
            ));
        };
        let wanted = Destination::from_upstream(&resource).ok();
        let own = self.endpoint.host().to_string();
        // A vault that asks for a token of somebody else's would get one that is good there.
        let is_own = wanted.is_some_and(|wanted| is_below(&own, &wanted.host().to_string()));
        let resource = printable(&resource);
        if !is_own {
            return Trouble::store(format!(
                "it asks for a token for {resource}, which is not the domain that {own} is in; none is given: check `vault_url`"
            ));
        }
        let tenant = parameter(header, "authorization").or_else(|| parameter(header, "authorization_uri"));
        let tenant = tenant.and_then(|url| url.trim_end_matches('/').rsplit('/').next().map(printable));
        let tenant = tenant.map(|tenant| format!(" of tenant {tenant}")).unwrap_or_default();
        Trouble::store(format!(
            "it refuses the token and wants one for {resource}{tenant}: compare `resource` (a slash at its end counts) and \
             `tenant_id`"
        ))
    }
}

/// A parameter of a Bearer challenge (RFC 9110 section 11.2).
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let (_, parameters) = challenge.split_once(' ')?;
    let value = parameters.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })?;
    Some(value.strip_suffix("/.default").map_or(value.clone(), str::to_owned))
}

fn error_of(body: &[u8]) -> (String, String, String) {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &document["error"];
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    (text(&error["code"]), text(&error["innererror"]["code"]), text(&error["message"]))
}

fn words(body: &[u8]) -> String {
    let (code, inner, message) = error_of(body);
    let code = if inner.is_empty() { code } else { format!("{code} ({inner})") };
    format!("{code}: {message}").trim_matches([' ', ':']).to_owned()
}

/// What an error means.
fn refused(answer: &Answer) -> Trouble {
    let (code, inner, message) = error_of(&answer.body);
    match (answer.status.as_u16(), &*code, &*inner) {
        (404, "SecretNotFound", _) => {
            Trouble::secret("there is no such secret, or no such version of it, in this vault")
        }
        (403, _, "SecretDisabled") => Trouble::secret("it is disabled; enable it, or name another version"),
        (403, _, "ForbiddenByFirewall" | "ForbiddenByConnection" | "ForbiddenByPolicy")
            if inner != "ForbiddenByPolicy" =>
        {
            Trouble::store(format!("the vault's network rules do not let us in: {message}"))
        }
        (403, _, _) => Trouble::secret(format!(
            "the vault does not let us read it: give the application the role Key Vault Secrets User, or an access policy with \
             get ({})",
            words(&answer.body)
        )),
        (400, _, _) => Trouble::secret(format!("the vault does not understand the request: {}", words(&answer.body))),
        (status, _, _) => Trouble::secret(format!("it answers {status} {}", words(&answer.body)).trim_end()),
    }
}

/// The secret of an answer, if its attributes let it be used now.
fn bundle(body: &[u8], now: SystemTime) -> Result<Read, Trouble> {
    #[derive(Deserialize)]
    struct Bundle {
        value: Option<String>,
        #[serde(default)]
        attributes: Attributes,
    }
    #[derive(Default, Deserialize)]
    struct Attributes {
        enabled: Option<bool>,
        nbf: Option<u64>,
        exp: Option<u64>,
    }
    let Ok(Bundle { value, attributes }) = serde_json::from_slice(body) else {
        return Err(Trouble::store("its answer is no secret; is this a Key Vault?"));
    };
    let moment = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let shown = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    if attributes.enabled == Some(false) {
        return Err(Trouble::secret("it is disabled; enable it, or name another version"));
    }
    if let Some(from) = attributes.nbf.and_then(moment).filter(|from| *from > now) {
        return Err(Trouble::secret(format!("it may be used from {} on (nbf)", shown(from))));
    }
    let ends = attributes.exp.and_then(moment);
    if let Some(ended) = ends.filter(|end| *end <= now) {
        return Err(Trouble::secret(format!("it expired at {} (exp); write a new version", shown(ended))));
    }
    let value = value.ok_or_else(|| Trouble::secret("it has no value"))?;
    let ends_in = ends.and_then(|end| end.duration_since(now).ok());
    Ok(Read { content: Content::Whole(Secret::new(value)), ends_in, lease: None })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Said, Server, Signer, reference, says, says_with, stores};
    use super::super::{SecretStores, StoreSettings};
    use super::*;

    fn settings() -> Value {
        json!({"name": "s", "kind": "azure_key_vault", "vault_url": "https://v.vault.azure.net/", "credential": "c"})
    }

    async fn read(said: Said) -> (Result<String, String>, Vec<Request<Vec<u8>>>) {
        let server = Server::new([said]);
        let stores = stores(settings(), &server, &Signer::new(0), None);
        let reference = reference("db-password/0123456789abcdef0123456789abcdef", None, None);
        let reading = stores.read(&reference).await.map_err(|error| error.0);
        let text = reading.and_then(|reading| reading.field(&reference).map_err(|error| error.0));
        (text.map(|secret| secret.expose_str().unwrap().to_owned()), server.asked())
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_asked_for_as_microsofts_client_does() {
        let (value, asked) = read(says(200, json!({"value": "v", "id": "x", "attributes": {"enabled": true}}))).await;
        assert_eq!(value.unwrap(), "v");
        let url = "https://v.vault.azure.net/secrets/db-password/0123456789abcdef0123456789abcdef?api-version=7.4";
        assert_eq!(asked[0].uri(), url);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_vault_refuses_is_told_with_what_to_change() {
        let error = |status: u16, code: &str, inner: &str| {
            let inner = if inner.is_empty() { Value::Null } else { json!({"code": inner}) };
            says(status, json!({"error": {"code": code, "message": "words of Azure", "innererror": inner}}))
        };
        let challenge =
            |parameters: &str| says_with(401, "www-authenticate", &format!("Bearer {parameters}"), json!({}));
        let attributes = |attributes: Value| says(200, json!({"value": "c4nary", "attributes": attributes}));
        // The clock stands at 1,700,000,000.
        for (said, expected) in [
            (error(404, "SecretNotFound", ""), "there is no such secret, or no such version of it, in this vault"),
            (error(403, "Forbidden", "SecretDisabled"), "it is disabled"),
            (error(403, "Forbidden", "ForbiddenByFirewall"), "the vault's network rules do not let us in"),
            (error(403, "Forbidden", "ForbiddenByRbac"), "Key Vault Secrets User"),
            (error(400, "BadParameter", ""), "the vault does not understand the request: BadParameter: words of Azure"),
            (error(503, "ServiceUnavailable", ""), "it answers 503 ServiceUnavailable: words of Azure"),
            (attributes(json!({"enabled": false})), "it is disabled"),
            (
                attributes(json!({"enabled": true, "nbf": 1_700_000_100})),
                "it may be used from 2023-11-14T22:15:00Z on (nbf)",
            ),
            (attributes(json!({"exp": 1_699_999_999})), "it expired at 2023-11-14T22:13:19Z (exp)"),
            (
                challenge(
                    "authorization=\"https://login.microsoftonline.com/T1\", resource=\"https://vault.azure.net\"",
                ),
                "wants one for https://vault.azure.net of tenant T1",
            ),
            (
                challenge(
                    "authorization=\"https://login.microsoftonline.com/T1\", resource=\"https://management.azure.com\"",
                ),
                "https://management.azure.com, which is not the domain that v.vault.azure.net is in",
            ),
            (challenge("resource=\"https://ault.azure.net\""), "which is not the domain"),
            (challenge("realm=\"x\""), "does not say which it wants"),
        ] {
            let (value, _) = read(said).await;
            let text = value.unwrap_err();
            assert!(text.contains(expected) && !text.contains("c4nary"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_not_used_past_its_own_end() {
        let server = Server::new([says(200, json!({"value": "v", "attributes": {"exp": 1_700_000_060}}))]);
        let stores = stores(settings(), &server, &Signer::new(0), None);
        let reading = stores.read(&reference("a", None, None)).await.unwrap();
        assert_eq!(reading.lifetime.usable, Duration::from_secs(60));
    }

    #[test]
    fn settings_and_names_are_judged_where_they_are_written() {
        let parse = |changes: Value| {
            let mut settings = settings();
            settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            if changes.get("credential").is_some_and(Value::is_null) {
                settings.as_object_mut().unwrap().remove("credential");
            }
            StoreSettings::parse(settings).map_err(|error| format!("{}: {}", error.path, error.message))
        };
        let (settings, implied) = parse(json!({})).unwrap();
        assert!(implied.is_none());
        for version in ["2016-10-01", "7.0", "7.6", "7.6-preview.2", "2025-07-01"] {
            assert!(parse(json!({"api_version": version})).is_ok(), "{version}");
        }
        for (changes, expected) in [
            (json!({"api_version": "2015-06-01"}), "api_version: 2016-10-01 or later"),
            (json!({"api_version": "latest"}), "api_version:"),
            (json!({"vault_url": "https://v.vault.azure.net/secrets/x"}), "vault_url: the vault's address"),
            (json!({"vault_url": "http://v.vault.azure.net"}), "vault_url: secrets would travel unencrypted"),
            (json!({"client_id": "x"}), "client_id: the store authenticates in one way"),
            (json!({"credential": null, "grant_type": "password"}), "grant_type: client_credentials"),
        ] {
            let error = parse(changes.clone()).err().unwrap_or_default();
            assert!(error.starts_with(expected), "{changes}: {error}");
        }
        for (name, version, path) in [
            ("a_b", None, "name"),
            ("", None, "name"),
            ("a/b/c", None, "name"),
            ("a/v", Some("v"), "version"),
            ("a", Some("v/../x"), "version"),
        ] {
            assert_eq!(settings.check(&reference(name, version, None)).unwrap_err().path, path, "{name}");
        }
    }

    #[test]
    fn its_own_keys_are_a_credential_of_the_scheme_azure_and_the_resource_is_as_it_is_written() {
        let implied = |more: Value| {
            let mut settings = json!({
                "name": "s", "kind": "azure_key_vault", "vault_url": "https://v.vault.azure.net", "tenant_id": "t",
                "client_id": "c", "client_secret": {"env": "S"}, "grant_type": "client_credentials",
            });
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            StoreSettings::parse(settings).unwrap().1.unwrap()
        };
        let own = implied(json!({}));
        assert_eq!((own.scheme, own.hosts.as_slice()), ("azure", &["v.vault.azure.net:443".to_owned()][..]));
        let expected = json!({
            "tenant": "t", "client_id": "c", "client_secret": {"env": "S"}, "resource": "https://vault.azure.net",
            "cloud": "public", "allow_cleartext": false,
        });
        assert_eq!(own.settings, expected);
        assert_eq!(own.path("tenant"), "tenant_id");
        let slash = implied(json!({"resource": "https://vault.azure.net/"}));
        assert_eq!(slash.settings["resource"], "https://vault.azure.net/");
        let china = implied(json!({"vault_url": "https://v.vault.azure.cn"}));
        assert_eq!(
            (&china.settings["cloud"], &china.settings["resource"]),
            (&json!("china"), &json!("https://vault.azure.cn"))
        );
    }
}
