//! The JSON documents of the native API.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::json::{Confidential, camel, snake};
use crate::api::time;
use crate::api::{Credential, Input, Origin, Patch, TagsPatch};
use crate::store::{BindingRecord, Change, Role};

/// Reads a time (RFC 3339).
fn time_of(text: &str) -> Result<SystemTime, String> {
    time::parse(text).ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z".to_owned())
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| time_of(&text).map_err(de::Error::custom)).transpose()
}

/// Present, though it may be null.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Where something is declared.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// The encrypted store.
    Store,
    /// The configuration file; it is changed only there.
    File,
}

impl From<Origin> for Source {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Store => Self::Store,
            Origin::File => Self::File,
        }
    }
}

/// When, and by whom.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeDocument {
    #[schema(format = DateTime)]
    at: String,
    by: String,
}

impl From<&Change> for ChangeDocument {
    fn from(change: &Change) -> Self {
        Self { at: time::text(change.at), by: change.by.name.clone() }
    }
}

/// A credential without its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CredentialDocument {
    account: String,
    id: String,
    version: i64,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    scheme: String,
    hosts: Vec<String>,
    tags: BTreeMap<String, String>,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// The scheme's keys, without its secrets.
    #[schema(value_type = Object)]
    settings: Value,
    /// The paths of the secrets that are stored, as the configuration file spells them.
    secret_fields: Vec<String>,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<ChangeDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated: Option<ChangeDocument>,
    removed: bool,
}

impl From<&Credential> for CredentialDocument {
    fn from(credential: &Credential) -> Self {
        Self {
            account: credential.account.clone(),
            id: credential.id.clone(),
            version: credential.version,
            name: credential.name.clone(),
            description: credential.description.clone(),
            scheme: credential.scheme.clone(),
            hosts: credential.hosts.clone(),
            tags: credential.tags.clone(),
            enabled: credential.enabled,
            expires_at: credential.expires_at.map(time::text),
            settings: camel(credential.shown()),
            secret_fields: credential.secret_fields(),
            source: credential.origin.into(),
            created: credential.created.as_ref().map(Into::into),
            updated: credential.updated.as_ref().map(Into::into),
            removed: credential.removed,
        }
    }
}

/// Members that are shown and cannot be written; whoever sends back what it was shown is not refused for them.
const READ_ONLY: [&str; 8] =
    ["account", "version", "secretFields", "secret_fields", "source", "created", "updated", "removed"];

/// A document without what cannot be written.
pub(super) fn writable(mut document: Confidential) -> Confidential {
    if let Value::Object(map) = document.expose_mut() {
        READ_ONLY.iter().for_each(|key| drop(map.remove(*key)));
    }
    document
}

/// A new credential, or the whole content of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "Jira", "scheme": "basic", "hosts": ["jira.example.com"],
    "tags": {"provider": "jira"}, "settings": {"username": "bot", "password": "the password"}}))]
pub(super) struct CredentialBody {
    /// Made from the name when absent; never changes.
    #[schema(pattern = "^[_a-zA-Z0-9][-_a-zA-Z0-9]{0,127}$")]
    id: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    #[schema(max_length = 4096)]
    description: Option<String>,
    /// One of `GET /v1/schemes`.
    scheme: String,
    /// Host patterns; those of the scheme when there is none.
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default = "yes")]
    #[schema(default = true)]
    enabled: bool,
    /// When the secret itself ends, where that is known.
    #[serde(default, alias = "expires_at", deserialize_with = "some_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<SystemTime>,
    /// The scheme's keys, secrets in clear or as `{ "store": …, "name": … }`.
    #[schema(value_type = Object)]
    settings: Confidential,
}

fn yes() -> bool {
    true
}

impl From<CredentialBody> for Input {
    fn from(body: CredentialBody) -> Self {
        Self {
            id: body.id,
            name: body.name,
            description: body.description,
            scheme: body.scheme,
            hosts: body.hosts,
            tags: body.tags,
            enabled: body.enabled,
            expires_at: body.expires_at,
            settings: Confidential::new(snake(body.settings.take())),
            extra: Value::Null,
        }
    }
}

/// A JSON merge patch (RFC 7396) of a credential: what is absent stays, `null` takes away. Secrets that are not mentioned
/// stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"description": "For the policies", "settings": {"password": "the new password"}}))]
pub(super) struct CredentialPatch {
    /// For whoever repeats it.
    id: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 4096)]
    description: Option<Option<String>>,
    /// For whoever repeats it: another scheme is another content.
    scheme: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    hosts: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    tags: Option<Option<BTreeMap<String, Option<String>>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>)]
    enabled: Option<Option<bool>>,
    #[serde(default, alias = "expires_at", deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<String>>,
    #[schema(value_type = Option<Object>)]
    settings: Option<Confidential>,
}

impl CredentialPatch {
    /// The patch of the credential of this id.
    pub(super) fn of(self, id: &str) -> Result<Patch, ApiError> {
        if self.id.is_some_and(|own| own != id) {
            return Err(ApiError::unprocessable("id", "an id never changes"));
        }
        let settings = match self.settings {
            Some(settings) if settings.expose().is_object() => Some(Confidential::new(snake(settings.take()))),
            Some(_) => {
                return Err(ApiError::unprocessable("settings", "an object with keys of the scheme is expected"));
            }
            None => None,
        };
        let end = |text: String| time_of(&text).map_err(|why| ApiError::unprocessable("expires_at", why));
        Ok(Patch {
            name: self.name,
            description: self.description,
            scheme: self.scheme,
            hosts: self.hosts.map(Option::unwrap_or_default),
            tags: self.tags.map(|tags| match tags {
                Some(tags) => TagsPatch::Merge(tags),
                None => TagsPatch::Replace(BTreeMap::new()),
            }),
            enabled: self.enabled.map(|enabled| enabled.unwrap_or(true)),
            expires_at: self.expires_at.map(|text| text.map(end).transpose()).transpose()?,
            settings,
            extra: None,
        })
    }
}

/// A page of credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CredentialsDocument {
    pub(super) credentials: Vec<CredentialDocument>,
    /// The value of `after` for the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// One version of a credential.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionDocument {
    version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    changed_fields: Vec<String>,
    removed: bool,
}

impl From<&Credential> for VersionDocument {
    fn from(credential: &Credential) -> Self {
        Self {
            version: credential.version,
            at: credential.updated.as_ref().map(|change| time::text(change.at)),
            by: credential.updated.as_ref().map(|change| change.by.name.clone()),
            changed_fields: credential.changed_fields.clone(),
            removed: credential.removed,
        }
    }
}

/// Every version, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VersionsDocument {
    pub(super) versions: Vec<VersionDocument>,
}

/// Which version to restore.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreBody {
    /// The one before the present one when absent.
    pub(super) version: Option<i64>,
}

/// What a test found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TestDocument {
    pub(super) result: TestResult,
    pub(super) detail: String,
    pub(super) facts: BTreeMap<String, String>,
}

/// Whether it works.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TestResult {
    /// The provider accepted it.
    Accepted,
    /// The provider refused it.
    Refused,
    /// The provider could not be asked.
    Unreachable,
    /// Nobody can be asked; it signed.
    Signed,
}

/// A token that lives.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenLifeDocument {
    pub(super) label: String,
    #[schema(format = DateTime)]
    pub(super) expires_at: String,
}

/// How a credential is used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageDocument {
    pub(super) count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) last_used: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_caller: Option<String>,
    /// Its tokens that live in this process.
    pub(super) tokens: Vec<TokenLifeDocument>,
    /// When the secret itself ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<String>,
}

/// A role.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    /// See what is not secret.
    Viewer,
    /// Manage credentials, bindings and callers.
    Manager,
    /// Everything.
    Admin,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Manager => Self::Manager,
            Role::Admin => Self::Admin,
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Viewer => Self::Viewer,
            RoleName::Manager => Self::Manager,
            RoleName::Admin => Self::Admin,
        }
    }
}

/// A role, in one account or in all.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantDocument {
    pub(super) role: RoleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WhoamiDocument {
    pub(super) name: String,
    pub(super) role: RoleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    /// All of its roles.
    pub(super) grants: Vec<GrantDocument>,
}

/// A scheme and which of its keys are more than words; paths as the configuration file spells them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SchemeDocument {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) secret: Vec<&'static str>,
    pub(super) leading: Vec<&'static str>,
    pub(super) operators: Vec<&'static str>,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountDocument {
    pub(super) name: String,
    pub(super) created: ChangeDocument,
}

/// The accounts that the caller may see.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountsDocument {
    pub(super) accounts: Vec<AccountDocument>,
}

/// A binding: which callers may use a credential where.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BindingDocument {
    account: String,
    id: String,
    credential: String,
    callers: Vec<String>,
    hosts: Vec<String>,
    methods: Vec<String>,
    paths: Vec<String>,
    services: Vec<String>,
    regions: Vec<String>,
    actions: Vec<String>,
    only_named: bool,
    allow_cleartext: bool,
    allow_addresses: Vec<String>,
}

impl From<BindingRecord> for BindingDocument {
    fn from(record: BindingRecord) -> Self {
        Self {
            account: record.account,
            id: record.id,
            credential: record.credential,
            callers: record.callers,
            hosts: record.hosts,
            methods: record.methods,
            paths: record.paths,
            services: record.services,
            regions: record.regions,
            actions: record.actions,
            only_named: record.only_named,
            allow_cleartext: record.allow_cleartext,
            allow_addresses: record.allow_addresses,
        }
    }
}

/// The bindings of an account that the store has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BindingsDocument {
    pub(super) bindings: Vec<BindingDocument>,
}

/// The content of a binding.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"credential": "jira", "callers": ["runner"], "methods": ["GET"], "paths": ["/rest"]}))]
pub(super) struct BindingBody {
    /// For whoever repeats it.
    id: Option<String>,
    credential: String,
    #[serde(default)]
    callers: Vec<String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    #[serde(default)]
    regions: Vec<String>,
    #[serde(default)]
    actions: Vec<String>,
    #[serde(default, alias = "only_named")]
    only_named: bool,
    /// An admin's to set.
    #[serde(default, alias = "allow_cleartext")]
    allow_cleartext: bool,
    /// An admin's of all accounts to set.
    #[serde(default, alias = "allow_addresses")]
    allow_addresses: Vec<String>,
}

impl BindingBody {
    /// The binding of this id.
    pub(super) fn of(self, account: String, id: String) -> Result<BindingRecord, ApiError> {
        if self.id.is_some_and(|own| own != id) {
            return Err(ApiError::unprocessable("id", "an id never changes"));
        }
        Ok(BindingRecord {
            account,
            id,
            credential: self.credential,
            callers: self.callers,
            hosts: self.hosts,
            methods: self.methods,
            paths: self.paths,
            services: self.services,
            regions: self.regions,
            actions: self.actions,
            allow_cleartext: self.allow_cleartext,
            allow_addresses: self.allow_addresses,
            only_named: self.only_named,
        })
    }
}

/// A token of a caller without the token itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallerTokenDocument {
    pub(super) id: String,
    #[schema(format = DateTime)]
    pub(super) created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
}

/// A caller.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallerDocument {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) tokens: Vec<CallerTokenDocument>,
}

/// The callers of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallersDocument {
    pub(super) callers: Vec<CallerDocument>,
}

/// A new caller.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CallerBody {
    #[schema(pattern = "^[-_./@a-zA-Z0-9]{1,128}$")]
    pub(super) name: String,
    /// When its token ends.
    #[serde(default, alias = "expires_at", deserialize_with = "some_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) expires_at: Option<SystemTime>,
}

/// A further token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CallerTokenBody {
    /// When it ends.
    #[serde(default, alias = "expires_at", deserialize_with = "some_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) expires_at: Option<SystemTime>,
}

/// A token of a caller, shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewCallerTokenDocument {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
}

/// A new management token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TokenBody {
    #[schema(pattern = "^[-_./@a-zA-Z0-9]{1,128}$")]
    pub(super) name: String,
    pub(super) role: RoleName,
    /// In this account; in all when absent.
    pub(super) account: Option<String>,
    /// When it ends.
    #[serde(default, alias = "expires_at", deserialize_with = "some_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) expires_at: Option<SystemTime>,
}

/// A management token without the token itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenDocument {
    pub(super) name: String,
    pub(super) role: RoleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
    pub(super) source: Source,
}

/// The management tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokensDocument {
    pub(super) tokens: Vec<TokenDocument>,
}

/// A management token, shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewTokenDocument {
    pub(super) name: String,
    pub(super) role: RoleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
    pub(super) token: String,
}

/// Lines of the audit record, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditDocument {
    /// As they stand in the record.
    #[schema(value_type = Vec<Object>)]
    pub(super) events: Vec<Value>,
}
