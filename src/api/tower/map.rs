//! From a provider's keys to the credential that signs with them: scheme, hosts, settings.
//!
//! **A secret goes to no host that its provider does not own, unless `baseUrl` or `registry` names it; what no scheme
//! signs with is refused and not kept.**

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::super::json::Confidential;
use super::super::judge::credential_source;
use super::address::host;
use super::keys::{Keys, is_sealed};
use super::provider::Provider;
use super::{Wrong, ssh};
use crate::base::Secret;

/// A credential as the service takes it.
#[derive(Debug, PartialEq)]
pub(super) struct Mapped {
    pub(super) scheme: &'static str,
    pub(super) hosts: Vec<String>,
    /// The scheme's keys, in snake_case, secrets among them in clear, or as what they are sealed under.
    pub(super) settings: Confidential,
    /// Public keys that the scheme has no place for.
    pub(super) kept: Map<String, Value>,
}

impl Mapped {
    /// Of a scheme, for the hosts that are the scheme's own.
    fn new(scheme: &'static str) -> Self {
        let settings = Confidential::new(Value::Object(Map::new()));
        Self { scheme, hosts: Vec::new(), settings, kept: Map::new() }
    }

    /// As it is stored already.
    pub(super) fn stored(scheme: &'static str, settings: Value, kept: Map<String, Value>) -> Self {
        Self { scheme, hosts: Vec::new(), settings: Confidential::new(settings), kept }
    }

    fn hosts(self, hosts: Vec<String>) -> Self {
        Self { hosts, ..self }
    }

    /// With a key of the scheme, unless there is nothing in it.
    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if let Some(settings) = self.settings.expose_mut().as_object_mut().filter(|_| !value.is_null()) {
            settings.insert(key.to_owned(), value);
        }
        self
    }

    fn secret(self, key: &str, value: impl Into<Option<Confidential>>) -> Self {
        self.set(key, value.into().map_or(Value::Null, Confidential::take))
    }

    fn keep(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.kept.insert(key.to_owned(), value);
        }
        self
    }
}

/// What the keys are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) provider: Provider,
    pub(super) base_url: Option<&'a str>,
    /// `useExternalId`, and a new id for that.
    pub(super) external_id: Option<&'a str>,
    /// The user name that is stored, when something is changed.
    pub(super) username: Option<&'a str>,
}

/// Makes a credential of keys.
///
/// # Errors
/// The key and what to change; never a value.
pub(super) fn map(keys: Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let mut keys = keys;
    match about.provider {
        Provider::Aws | Provider::SeqeraCompute => aws(&mut keys, about),
        Provider::S3 => s3(&mut keys, about),
        Provider::Google => google(&mut keys),
        Provider::Github => github(&mut keys, about),
        Provider::Bitbucket => bitbucket(&mut keys, about),
        Provider::Gitea => gitea(&mut keys, about),
        Provider::AzureRepos => azure_repos(&mut keys, about),
        Provider::Gitlab => gitlab(&mut keys, about),
        Provider::CodeCommit => code_commit(&mut keys, about),
        Provider::GithubApp => github_app(&mut keys, about),
        Provider::ContainerReg => registry(&mut keys),
        Provider::K8s => kubernetes(&mut keys, about),
        Provider::Azure | Provider::AzureEntra | Provider::AzureCloud => azure(&mut keys, about.provider),
        Provider::Ssh => kept_ssh(&mut keys),
        Provider::TwAgent => {
            let why = "an agent's connection holds no key that could sign: Tower's agent makes it with Tower itself";
            Err(Wrong::at("provider", why))
        }
    }
}

fn needed(name: &str) -> Wrong {
    Wrong::at(format!("keys.{name}"), format!("`{name}` is needed"))
}

/// The provider's own hosts, unless `baseUrl` names another.
fn hosts_of(own: &[&str], base_url: Option<&str>) -> Result<Vec<String>, Wrong> {
    let named = base_url.map(host).transpose().map_err(|why| Wrong::at("baseUrl", why))?;
    Ok(match named {
        // `https://github.com/ORGANISATION` is how Tower's users say which repositories are meant.
        Some(named) if !own.contains(&named.as_str()) => vec![named],
        _ => own.iter().map(|host| (*host).to_owned()).collect(),
    })
}

fn aws(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let mode = keys.text("mode")?;
    let role = keys.text("assumeRoleArn")?;
    match mode.as_deref() {
        Some("role") => {
            keys.remove("accessKey");
            keys.remove("secretKey");
            if role.is_none() {
                return Err(needed("assumeRoleArn"));
            }
        }
        Some("keys") | None => {}
        Some(_) => return Err(Wrong::at("keys.mode", "`keys` or `role`")),
    }
    let access_key = keys.text("accessKey")?;
    let secret_key = keys.secret(&["secretKey"])?;
    match (&access_key, &secret_key) {
        (Some(_), None) => return Err(needed("secretKey")),
        (None, Some(_)) => return Err(needed("accessKey")),
        (None, None) if role.is_none() => {
            let why =
                "give `accessKey` and `secretKey`, or `assumeRoleArn` of a role that trusts Countersign's own keys";
            return Err(Wrong::at("keys", why));
        }
        _ => {}
    }
    let external_id = keys.text("externalId")?;
    // With the host's own keys the external id is made for the account and nobody chooses it.
    let external_id = external_id.or_else(|| about.external_id.map(str::to_owned));
    let external_id = external_id.filter(|_| access_key.is_some() && role.is_some());
    let scheme = if role.is_some() { "aws_sts" } else { "aws" };
    let keys = Mapped::new(scheme).set("access_key", access_key).secret("secret_key", secret_key);
    Ok(keys.set("role_arn", role).set("external_id", external_id))
}

/// Keys for something that speaks S3: AWS unless an address is given.
fn s3(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let access_key = keys.text("accessKey")?.ok_or_else(|| needed("accessKey"))?;
    let secret_key = keys.secret(&["secretKey"])?.ok_or_else(|| needed("secretKey"))?;
    let path_style = keys.flag("pathStyleAccessEnabled")?;
    let credential = Mapped::new("aws").set("access_key", access_key).secret("secret_key", secret_key);
    let mut credential = credential.set("service", "s3").keep("pathStyleAccessEnabled", path_style);
    let named = about.base_url.map(host).transpose().map_err(|why| Wrong::at("baseUrl", why))?;
    if let Some(named) = named.filter(|named| !named.ends_with(".amazonaws.com")) {
        // Its host tells no region; this is the one that servers have unless they are told another.
        credential = credential.set("region", "us-east-1");
        let is_address = named.starts_with('[')
            || named.split(':').next().is_some_and(|name| name.parse::<std::net::Ipv4Addr>().is_ok());
        // Buckets in host names are below the server's own.
        if path_style == Some(false) && !is_address {
            credential.hosts.push(format!("*.{named}"));
        }
        credential.hosts.push(named);
    }
    Ok(credential)
}

fn google(keys: &mut Keys) -> Result<Mapped, Wrong> {
    for name in ["workloadIdentityProvider", "serviceAccountEmail", "tokenAudience"] {
        if keys.text(name)?.is_some() {
            let why = "Tower's own tokens are not made here: give `data`, the configuration of a workload identity pool's \
                       provider (`gcloud iam workload-identity-pools create-cred-config`) or a service account's key";
            return Err(Wrong::at(format!("keys.{name}"), why));
        }
    }
    let data = keys.secret(&["data"])?.ok_or_else(|| needed("data"))?;
    let google = Mapped::new("google");
    let own = ["service_account", "external_account", "authorized_user"];
    if let Some(path) = data.expose().get("sealed") {
        let path = own.into_iter().find(|own| path == own).ok_or_else(|| needed("data"))?;
        return Ok(google.secret(path, data));
    }
    if data.expose().get("store").is_some() {
        // What kind it is, only the store knows; keys of service accounts are what is kept there.
        return Ok(google.secret("service_account", data));
    }
    let wrong = |why: &str| Wrong::at("keys.data", why);
    let document = match data.expose() {
        Value::String(text) => {
            serde_json::from_str(text).map_err(|_| wrong("the JSON file of a service account, whole"))?
        }
        document => document.clone(),
    };
    let document = Confidential::new(document);
    let form = match document.expose().get("type").and_then(Value::as_str) {
        Some("service_account") => Ok("service_account"),
        Some("authorized_user") => Ok("authorized_user"),
        Some("external_account") => credential_source(document.expose()).map(|()| "external_account"),
        _ => Err("its `type` is none of service_account, external_account and authorized_user"),
    };
    // As text: no member of it is a reference of ours.
    Ok(google.set(form.map_err(wrong)?, document.expose().to_string()))
}

/// A user name with a password or token for every host, or a token alone for those of the API.
fn repository(keys: &mut Keys, hosts: Vec<String>, api: &[&str], kind: &str) -> Result<Mapped, Wrong> {
    let username = keys.text("username")?;
    let secret = keys.secret(&["token", "accessToken", "password"])?;
    let secret = secret.ok_or_else(|| Wrong::at("keys.password", "`password` or `token` is needed"))?;
    Ok(match username {
        Some(username) => Mapped::new("basic").set("username", username).secret("password", secret).hosts(hosts),
        None => {
            // Git itself wants a user name, so that its hosts are not among these.
            let hosts = if hosts.len() > 1 { api.iter().map(|host| (*host).to_owned()).collect() } else { hosts };
            Mapped::new("api_key").secret("key", secret).set("type", kind).hosts(hosts)
        }
    })
}

fn github(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    const API: &[&str] = &["api.github.com", "raw.githubusercontent.com", "uploads.github.com"];
    const OWN: &[&str] = &["github.com", "api.github.com", "raw.githubusercontent.com", "uploads.github.com"];
    repository(keys, hosts_of(OWN, about.base_url)?, API, "Bearer")
}

fn bitbucket(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let hosts = hosts_of(&["bitbucket.org", "api.bitbucket.org"], about.base_url)?;
    repository(keys, hosts, &["api.bitbucket.org"], "Bearer")
}

fn gitea(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    repository(keys, hosts_of(&["gitea.com"], about.base_url)?, &["gitea.com"], "token")
}

fn azure_repos(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let hosts = hosts_of(&["dev.azure.com"], about.base_url)?;
    let username = keys.text("username")?.unwrap_or_default();
    let token = keys.secret(&["token", "accessToken", "password"])?;
    let token = token.ok_or_else(|| Wrong::at("keys.token", "`token` is needed: a personal access token"))?;
    Ok(Mapped::new("basic").set("username", username).secret("password", token).hosts(hosts))
}

/// GitLab's API reads the token in a header of its own, git its Authorization: both are sent.
fn gitlab(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let hosts = hosts_of(&["gitlab.com"], about.base_url)?;
    // GitLab takes any name with a token, and this one in its own examples.
    let username = keys.text("username")?.unwrap_or_else(|| "oauth2".to_owned());
    if username.contains(':') {
        return Err(Wrong::at("keys.username", "a user name cannot hold a colon (RFC 7617)"));
    }
    let token = keys.secret(&["token", "accessToken"])?;
    let password = keys.secret(&["password"])?;
    let again =
        || Wrong::at("keys.token", "the token in clear: it is needed once more with another user name or password");
    let basic = match password.as_ref().or(token.as_ref()).map(Confidential::expose) {
        Some(Value::String(secret)) => {
            let pair = Zeroizing::new(format!("{username}:{secret}"));
            Confidential::new(json!(STANDARD.encode(pair.as_bytes())))
        }
        // Made of the user name as well, so that it stays only with that.
        Some(secret) if is_sealed(secret) && about.username == Some(&username) => {
            Confidential::new(json!({ "sealed": "additional[0].key" }))
        }
        Some(_) => return Err(again()),
        None => return Err(Wrong::at("keys.token", "`token` or `password` is needed")),
    };
    let mut second = Map::new();
    second.insert("key".into(), basic.take());
    second.insert("field".into(), json!("Authorization"));
    second.insert("type".into(), json!("Basic"));
    let first = Mapped::new("api_key").secret("key", token.or(password)).set("field", "PRIVATE-TOKEN").set("type", "");
    Ok(first.set("additional", vec![Value::Object(second)]).hosts(hosts).keep("username", username))
}

/// Keys of AWS for its API, or the user name and password that IAM makes for git.
fn code_commit(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let username = keys.text("username")?.ok_or_else(|| needed("username"))?;
    let password = keys.secret(&["password", "token", "accessToken"])?.ok_or_else(|| needed("password"))?;
    if is_access_key(&username) {
        let keys = Mapped::new("aws").set("access_key", username).secret("secret_key", password);
        return Ok(keys.set("service", "codecommit"));
    }
    let Some(base_url) = about.base_url else {
        let why = "a user name and password of IAM are for git in one region: its address is needed, such as \
                   https://git-codecommit.eu-west-1.amazonaws.com";
        return Err(Wrong::at("baseUrl", why));
    };
    let hosts = hosts_of(&[], Some(base_url))?;
    Ok(Mapped::new("basic").set("username", username).secret("password", password).hosts(hosts))
}

/// Whether a text is an access key id of AWS's own.
fn is_access_key(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    plain && text.len() >= 16 && ["AKIA", "ASIA"].iter().any(|front| text.starts_with(front))
}

/// The app itself: what it may do for an installation needs a second credential, a `login` that this one signs.
fn github_app(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    let hosts = hosts_of(&["api.github.com"], about.base_url)?;
    let (app, client, slug) = (keys.text("appId")?, keys.text("clientId")?, keys.text("slug")?);
    let issuer = client.clone().or_else(|| app.clone()).ok_or_else(|| needed("appId"))?;
    let key = keys.secret(&["privateKey"])?.ok_or_else(|| needed("privateKey"))?;
    let credential = Mapped::new("jwt").set("alg", "RS256").set("iss", issuer).secret("signing_key", key);
    // GitHub takes ten minutes at most, and its clock may be behind.
    let credential = credential.set("max_minutes", 9).set("backdate", "1m").hosts(hosts);
    Ok(credential.keep("appId", app).keep("clientId", client).keep("slug", slug))
}

/// Docker's clients fetch a token with name and password where the registry tells them to: there they are needed.
fn registry(keys: &mut Keys) -> Result<Mapped, Wrong> {
    let registry = keys.text("registry")?.unwrap_or_else(|| "docker.io".to_owned());
    let named = host(&registry).map_err(|why| Wrong::at("keys.registry", why))?;
    let username = keys.text("userName")?.ok_or_else(|| needed("userName"))?;
    let password = keys.secret(&["password", "token"])?.ok_or_else(|| needed("password"))?;
    if named.contains(".dkr.ecr.") && is_access_key(&username) {
        let why = "this registry takes the user name AWS and a password that `aws ecr get-login-password` makes, not \
                   AWS keys; keys are a credential of provider aws";
        return Err(Wrong::at("keys.userName", why));
    }
    let named = match named.as_str() {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "auth.docker.io",
        "registry.gitlab.com" => "gitlab.com",
        other => other,
    };
    let credential = Mapped::new("basic").set("username", username).secret("password", password);
    Ok(credential.hosts(vec![named.to_owned()]).keep("registry", registry))
}

fn kubernetes(keys: &mut Keys, about: About<'_>) -> Result<Mapped, Wrong> {
    if keys.has("certificate") || keys.has("privateKey") {
        let why = "client certificates are not presented to clusters; give `token`, that of a service account";
        return Err(Wrong::at("keys.certificate", why));
    }
    let token = keys.secret(&["token"])?.ok_or_else(|| needed("token"))?;
    let Some(base_url) = about.base_url else {
        let why = "the address of the cluster is needed, such as https://cluster.example.com:6443: its token goes nowhere else";
        return Err(Wrong::at("baseUrl", why));
    };
    let hosts = hosts_of(&[], Some(base_url))?;
    Ok(Mapped::new("api_key").secret("key", token).hosts(hosts))
}

/// An application of Entra, for the storage account if one is named, else for the management of resources.
fn azure(keys: &mut Keys, provider: Provider) -> Result<Mapped, Wrong> {
    let mut kept = Map::new();
    for name in provider.kept() {
        kept.extend(keys.text(name)?.map(|text| ((*name).to_owned(), json!(text))));
    }
    // The keys of a batch or storage account sign with Azure's Shared Key, which no scheme here does.
    let shared = keys.has("batchKey") || keys.has("storageKey");
    keys.remove("batchKey");
    keys.remove("storageKey");
    let tenant = keys.text("tenantId")?;
    let client = keys.text("clientId")?;
    let secret = keys.secret(&["clientSecret"])?;
    if shared && (tenant.is_none() || client.is_none() || secret.is_none()) {
        let why = "the keys of batch and storage accounts (Shared Key) do not sign here; give `tenantId`, `clientId` and \
                   `clientSecret` of an application, with provider azure_entra";
        return Err(Wrong::at("keys", why));
    }
    let tenant = tenant.ok_or_else(|| needed("tenantId"))?;
    let client = client.ok_or_else(|| needed("clientId"))?;
    let secret = secret.ok_or_else(|| needed("clientSecret"))?;
    let storage = kept.get("storageName").and_then(Value::as_str).filter(|_| provider != Provider::AzureCloud);
    let (audience, hosts) = match storage {
        None => ("resource_management", Vec::new()),
        Some(account) => {
            let plain = account.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            if !plain || !(3..=24).contains(&account.len()) {
                let why = "the name of a storage account has 3 to 24 small letters and digits";
                return Err(Wrong::at("keys.storageName", why));
            }
            let services = ["blob", "dfs", "file", "queue", "table"];
            ("storage", services.iter().map(|service| format!("{account}.{service}.core.windows.net")).collect())
        }
    };
    let credential =
        Mapped::new("azure").set("tenant", tenant).set("client_id", client).secret("client_secret", secret);
    Ok(Mapped { kept, ..credential.set("audience", audience).hosts(hosts) })
}

fn kept_ssh(keys: &mut Keys) -> Result<Mapped, Wrong> {
    let key = keys.secret(&["privateKey"])?.ok_or_else(|| needed("privateKey"))?;
    let passphrase = keys.secret(&["passphrase"])?;
    let (Value::String(key), None | Some(Value::String(_))) =
        (key.expose(), passphrase.as_ref().map(Confidential::expose))
    else {
        return Err(Wrong::at("keys.privateKey", "the key and its passphrase are given together, in clear"));
    };
    let secret = passphrase.as_ref().and_then(|passphrase| passphrase.expose().as_str()).map(Secret::new);
    let read = ssh::read(&Secret::new(key.as_bytes()), secret.as_ref());
    let read = read.map_err(|(name, why)| Wrong::at(format!("keys.{name}"), why))?;
    let credential = Mapped::new("ssh").set("private_key", key.as_str()).secret("passphrase", passphrase);
    let credential = credential.keep("algorithm", read.algorithm).keep("fingerprint", read.fingerprint);
    Ok(credential.keep("publicKey", read.public_key))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::kinds;
    use crate::scheme::{Sealed, seal};

    /// A payload of every provider that can sign, of 2020 where it was there then and of today; each secret in it holds `canary`.
    pub(in super::super) fn payloads() -> Vec<(&'static str, Value)> {
        let account = json!({"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": "canary-google"});
        let pool = json!({
            "type": "external_account", "audience": "//iam.googleapis.com/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "credential_source": {"url": "https://idp.test/token", "headers": {"x": "canary-pool"}},
        });
        let key = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tower/keys/ed25519")).unwrap();
        let old = |provider: &str, mut keys: Value| {
            keys["provider"] = json!(provider);
            keys
        };
        let now = |provider: &str, mut keys: Value| {
            keys["discriminator"] = json!(provider);
            json!({"provider": provider, "keys": keys})
        };
        let based = |base_url: &str, mut body: Value| {
            body["baseUrl"] = json!(base_url);
            body
        };
        vec![
            (
                "aws",
                json!({"provider": "aws", "keys": {"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "canary-aws"}}),
            ),
            ("aws", now("aws", json!({"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "canary-aws"}))),
            (
                "aws_sts",
                now(
                    "aws",
                    json!({"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "canary-aws", "mode": "keys",
                    "assumeRoleArn": "arn:aws:iam::123456789012:role/tower", "externalId": "4711"}),
                ),
            ),
            ("aws_sts", now("aws", json!({"mode": "role", "assumeRoleArn": "arn:aws:iam::123456789012:role/tower"}))),
            ("aws", now("seqeracompute", json!({"accessKey": "AKIAIOSFODNN7EXAMPLE", "secretKey": "canary-sc"}))),
            (
                "aws",
                based(
                    "https://minio.test:9000",
                    now("s3", json!({"accessKey": "minio", "secretKey": "canary-s3", "pathStyleAccessEnabled": true})),
                ),
            ),
            ("google", old("google", json!({"data": account}))),
            ("google", now("google", json!({"data": account.to_string()}))),
            ("google", now("google", json!({"data": pool.to_string()}))),
            ("basic", old("github", json!({"username": "u", "password": "canary-gh"}))),
            ("basic", now("github", json!({"username": "u", "password": "canary-gh"}))),
            ("api_key", now("github", json!({"token": "canary-gh-token"}))),
            (
                "jwt",
                now(
                    "github_app",
                    json!({"appId": "1", "clientId": "Iv1", "slug": "s", "clientSecret": "canary-unused",
                "webhookSecret": "canary-unused", "privateKey": "canary-app"}),
                ),
            ),
            ("api_key", old("gitlab", json!({"username": "u", "access_token": "canary-gl"}))),
            ("api_key", now("gitlab", json!({"username": "u", "password": "canary-pw", "token": "canary-gl"}))),
            ("basic", old("bitbucket", json!({"username": "u", "password": "canary-bb"}))),
            ("basic", now("bitbucket", json!({"username": "u", "token": "canary-bb"}))),
            ("basic", based("https://gitea.test", now("gitea", json!({"username": "u", "password": "canary-gitea"})))),
            ("basic", now("azurerepos", json!({"username": "u", "token": "canary-repos"}))),
            ("aws", now("codecommit", json!({"username": "AKIAIOSFODNN7EXAMPLE", "password": "canary-cc"}))),
            (
                "basic",
                based(
                    "https://git-codecommit.eu-west-1.amazonaws.com",
                    now("codecommit", json!({"username": "me-at-1", "password": "canary-cc"})),
                ),
            ),
            ("basic", now("container-reg", json!({"userName": "u", "password": "canary-reg", "registry": "quay.io"}))),
            ("api_key", based("https://k8s.test:6443", now("k8s", json!({"token": "canary-k8s"})))),
            (
                "azure",
                now(
                    "azure_entra",
                    json!({"tenantId": "contoso.onmicrosoft.com", "clientId": "app", "clientSecret": "canary-entra",
                    "batchName": "b", "storageName": "store1", "storageKey": "canary-unused"}),
                ),
            ),
            (
                "azure",
                now(
                    "azure-cloud",
                    json!({"tenantId": "contoso.onmicrosoft.com", "clientId": "app", "clientSecret": "canary-cloud", "subscriptionId": "s"}),
                ),
            ),
            ("ssh", old("ssh", json!({"privateKey": key}))),
            ("ssh", now("ssh", json!({"privateKey": key, "passphrase": ""}))),
        ]
    }

    fn about(provider: Provider, base_url: Option<&str>) -> About<'_> {
        About { provider, base_url, external_id: None, username: None }
    }

    fn mapped(body: Value) -> Result<Mapped, Wrong> {
        let Value::Object(mut members) = body else { panic!("an object") };
        let (keys, _) = Keys::take(&mut members)?;
        let provider = Provider::parse(members["provider"].as_str().unwrap()).unwrap();
        map(keys, about(provider, members.get("baseUrl").and_then(Value::as_str)))
    }

    fn sealed(mapped: Mapped) -> Sealed {
        seal(kinds::find(mapped.scheme).unwrap(), mapped.settings.take(), None).unwrap()
    }

    #[test]
    fn every_providers_payload_becomes_a_credential_whose_scheme_takes_it_and_shows_no_secret() {
        for (scheme, body) in payloads() {
            let text = body.to_string();
            let mapped = mapped(body).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            assert_eq!(mapped.scheme, scheme, "{text}");
            assert!(!json!(mapped.kept).to_string().contains("canary"), "{text}");
            let sealed = sealed(mapped);
            assert!(!sealed.settings.to_string().contains("canary"), "{text}: {}", sealed.settings);
            let unused = |secret: &Secret| secret.expose_str().is_some_and(|text| text.contains("canary-unused"));
            assert!(!sealed.secrets.values().any(unused), "{text}: a secret that nothing signs with is not kept");
        }
    }

    #[test]
    fn both_generations_of_a_payload_are_one_credential() {
        let of = |body: Value| {
            let mapped = mapped(body).unwrap();
            (
                mapped.hosts.clone(),
                sealed(mapped).secrets.into_values().map(|secret| secret.expose().to_vec()).collect::<Vec<_>>(),
            )
        };
        for (old, now) in [
            (
                json!({"provider": "github", "username": "u", "password": "p"}),
                json!({"provider": "github", "keys": {"discriminator": "github", "username": "u", "password": "p"}}),
            ),
            (
                json!({"provider": "gitlab", "username": "u", "access_token": "t"}),
                json!({"provider": "gitlab", "keys": {"username": "u", "token": "t"}}),
            ),
            (
                json!({"provider": "google", "data": {"type": "service_account", "private_key": "k"}}),
                json!({"provider": "google", "keys": {"data": r#"{"type":"service_account","private_key":"k"}"#}}),
            ),
        ] {
            assert_eq!(of(old), of(now));
        }
    }

    #[test]
    fn a_secret_goes_to_its_providers_hosts_or_to_the_one_that_is_named() {
        let hosts = |body: Value| mapped(body).unwrap().hosts;
        let github = json!({"provider": "github", "keys": {"username": "u", "password": "p"}});
        let own = ["github.com", "api.github.com", "raw.githubusercontent.com", "uploads.github.com"];
        assert_eq!(hosts(github.clone()), own);
        let with = |body: &Value, base_url: &str| {
            let mut body = body.clone();
            body["baseUrl"] = json!(base_url);
            body
        };
        assert_eq!(hosts(with(&github, "https://github.com/seqeralabs")), own);
        assert_eq!(hosts(with(&github, "https://git.example.com/team")), ["git.example.com"]);
        let registry = |name: &str| {
            hosts(json!({"provider": "container-reg", "keys": {"userName": "u", "password": "p", "registry": name}}))
        };
        assert_eq!(registry("docker.io"), ["auth.docker.io"]);
        assert_eq!(registry("https://index.docker.io/v1/"), ["auth.docker.io"]);
        assert_eq!(registry("registry.gitlab.com"), ["gitlab.com"]);
        assert_eq!(registry("registry.example.com:5000/team"), ["registry.example.com:5000"]);
        let s3 = |style: Value| {
            let keys = json!({"accessKey": "minio", "secretKey": "s", "pathStyleAccessEnabled": style});
            hosts(json!({"provider": "s3", "baseUrl": "https://s3.example.com", "keys": keys}))
        };
        assert_eq!(s3(json!(null)), ["s3.example.com"]);
        assert_eq!(s3(json!(false)), ["*.s3.example.com", "s3.example.com"]);
        let entra = json!({"tenantId": "t", "clientId": "c", "clientSecret": "s", "storageName": "store1"});
        assert_eq!(
            hosts(json!({"provider": "azure_entra", "keys": entra})).first().unwrap(),
            "store1.blob.core.windows.net"
        );
    }

    #[test]
    fn what_cannot_sign_is_refused_with_what_to_change_and_no_secret_repeated() {
        let pool = |source: Value| json!({"type": "external_account", "credential_source": source}).to_string();
        for (body, path, said) in [
            (json!({"provider": "aws", "keys": {"accessKey": "AKIA"}}), "keys.secretKey", "needed"),
            (json!({"provider": "aws", "keys": {}}), "keys", "accessKey"),
            (json!({"provider": "aws", "keys": {"mode": "role"}}), "keys.assumeRoleArn", "needed"),
            (
                json!({"provider": "aws", "keys": {"mode": "magic", "accessKey": "a", "secretKey": "canary"}}),
                "keys.mode",
                "role",
            ),
            (
                json!({"provider": "aws", "keys": {"accessKey": {"x": "canary"}, "secretKey": "s"}}),
                "keys.accessKey",
                "text",
            ),
            (json!({"provider": "aws", "keys": {"accessKey": "a", "secretKey": ["canary"]}}), "keys.secretKey", "text"),
            (json!({"provider": "google", "keys": {"data": "canary"}}), "keys.data", "JSON"),
            (json!({"provider": "google", "keys": {"data": {"type": "canary"}}}), "keys.data", "type"),
            (
                json!({"provider": "google", "keys": {"workloadIdentityProvider": "p"}}),
                "keys.workloadIdentityProvider",
                "Tower",
            ),
            (
                json!({"provider": "google", "keys": {"data": pool(json!({"file": "/etc/shadow"}))}}),
                "keys.data",
                "operator",
            ),
            (
                json!({"provider": "google", "keys": {"data": pool(json!({"environment_id": "aws1"}))}}),
                "keys.data",
                "operator",
            ),
            (
                json!({"provider": "google", "keys": {"data": pool(json!({"url": "http://169.254.169.254/metadata/identity/oauth2/token?x"}))}}),
                "keys.data",
                "operator",
            ),
            (json!({"provider": "github", "keys": {"username": "u"}}), "keys.password", "token"),
            (json!({"provider": "gitlab", "keys": {"username": "a:b", "token": "canary"}}), "keys.username", "colon"),
            (json!({"provider": "gitlab", "keys": {"token": {"store": "kv", "name": "n"}}}), "keys.token", "clear"),
            (
                json!({"provider": "github", "baseUrl": "ftp://x", "keys": {"username": "u", "password": "canary"}}),
                "baseUrl",
                "address",
            ),
            (json!({"provider": "github_app", "keys": {"privateKey": "canary"}}), "keys.appId", "needed"),
            (
                json!({"provider": "codecommit", "keys": {"username": "me-at-1", "password": "canary"}}),
                "baseUrl",
                "region",
            ),
            (json!({"provider": "k8s", "keys": {"token": "canary"}}), "baseUrl", "cluster"),
            (
                json!({"provider": "k8s", "keys": {"certificate": "c", "privateKey": "canary"}}),
                "keys.certificate",
                "token",
            ),
            (
                json!({"provider": "container-reg", "keys": {"userName": "AKIAIOSFODNN7EXAMPLE", "password": "canary",
                    "registry": "1.dkr.ecr.us-east-1.amazonaws.com"}}),
                "keys.userName",
                "get-login-password",
            ),
            (
                json!({"provider": "azure", "keys": {"batchName": "b", "batchKey": "canary", "storageKey": "canary"}}),
                "keys",
                "azure_entra",
            ),
            (
                json!({"provider": "azure_entra", "keys": {"tenantId": "t", "clientId": "c", "clientSecret": "canary", "storageName": "A/b"}}),
                "keys.storageName",
                "small letters",
            ),
            (json!({"provider": "ssh", "keys": {"privateKey": "canary"}}), "keys.privateKey", "PEM"),
            (json!({"provider": "ssh", "keys": {"passphrase": "canary"}}), "keys.privateKey", "needed"),
            (json!({"provider": "tw-agent", "keys": {"connectionId": "c"}}), "provider", "agent"),
        ] {
            let text = body.to_string();
            let wrong = mapped(body).unwrap_err();
            assert_eq!(wrong.path, path, "{text}: {wrong:?}");
            assert!(wrong.message.contains(said) && !wrong.message.contains("canary"), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn what_is_stored_completes_a_change_and_a_pair_stays_only_with_its_user_name() {
        let settings = json!({"key": {"sealed": "key"}, "field": "PRIVATE-TOKEN", "type": "", "additional": [{"key": {"sealed": "additional[0].key"}}]});
        let kept = Map::from_iter([("username".to_owned(), json!("u"))]);
        let change = |body: Value| {
            let Value::Object(mut members) = body else { panic!("an object") };
            let (mut keys, _) = Keys::take(&mut members).unwrap();
            keys.complete(Provider::Gitlab, &settings, &kept);
            map(keys, About { username: Some("u"), ..about(Provider::Gitlab, None) })
        };
        let unchanged = change(json!({})).unwrap();
        assert_eq!(unchanged.settings.expose()["key"], json!({"sealed": "key"}));
        assert_eq!(unchanged.settings.expose()["additional"][0]["key"], json!({"sealed": "additional[0].key"}));
        assert_eq!(change(json!({"keys": {"username": "other"}})).unwrap_err().path, "keys.token");
        let anew = change(json!({"keys": {"username": "other", "token": "t"}})).unwrap();
        assert_eq!(anew.settings.expose()["additional"][0]["key"], json!(STANDARD.encode("other:t")));
    }

    #[test]
    fn an_external_id_goes_with_keys_and_a_role() {
        let keys = |body: Value| {
            let Value::Object(mut members) = json!({ "keys": body }) else { panic!("an object") };
            Keys::take(&mut members).unwrap().0
        };
        let made = About { external_id: Some("made"), ..about(Provider::Aws, None) };
        let both = json!({"accessKey": "AKIA", "secretKey": "s", "assumeRoleArn": "r"});
        assert_eq!(map(keys(both), made).unwrap().settings.expose()["external_id"], json!("made"));
        let role = json!({"assumeRoleArn": "r", "externalId": "theirs"});
        assert_eq!(map(keys(role), made).unwrap().settings.expose().get("external_id"), None);
        let plain = json!({"accessKey": "AKIA", "secretKey": "s"});
        assert_eq!(map(keys(plain), made).unwrap().settings.expose().get("external_id"), None);
    }
}
