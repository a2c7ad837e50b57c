//! The rows, as the other rooms see them. Nothing here is secret.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::Secret;

/// Who changed something: a management token, a person of an issuer, the command line on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Such as `token:ci`, `oidc:anna@example.com`, `local`.
    pub name: String,
}

/// One version of a credential.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialRecord {
    /// The account that owns it.
    pub account: String,
    /// Its id within the account; never changes.
    pub id: String,
    /// From 1; each change makes another.
    pub version: i64,
    /// What people call it.
    pub name: String,
    /// A sentence for people.
    pub description: Option<String>,
    /// The scheme, in snake_case; also of what no scheme signs with (`ssh`).
    pub scheme: String,
    /// Host patterns; empty for those of the scheme.
    pub hosts: Vec<String>,
    /// Tags, `provider` among them.
    pub tags: BTreeMap<String, String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// The scheme's own keys, sealed (`scheme::seal`).
    pub settings: Value,
    /// What a way in keeps beside them, by its own name: `tower` its provider, category and base address.
    pub extra: Value,
    /// When the secret itself ends, where that is known.
    pub expires_at: Option<SystemTime>,
    /// When the first version was made, and by whom.
    pub created: Change,
    /// When this version was made, and by whom.
    pub updated: Change,
    /// A tombstone: it was removed by this version.
    pub removed: bool,
    /// The fields that this version changed, never values.
    pub changed_fields: Vec<String>,
}

/// When and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// To the millisecond.
    pub at: SystemTime,
    /// By whom.
    pub by: Actor,
}

/// The content of a new credential, or of a new version of one.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// What people call it.
    pub name: String,
    /// A sentence for people.
    pub description: Option<String>,
    /// The scheme, in snake_case.
    pub scheme: String,
    /// Host patterns.
    pub hosts: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// The scheme's own keys, sealed.
    pub settings: Value,
    /// See [`CredentialRecord::extra`].
    pub extra: Value,
    /// See [`CredentialRecord::expires_at`].
    pub expires_at: Option<SystemTime>,
    /// The secrets, by the path of their field.
    pub secrets: BTreeMap<String, Secret>,
    /// The fields that differ from the version before; empty for a new one.
    pub changed_fields: Vec<String>,
}

/// A binding of the store. As one of the configuration file, in an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRecord {
    /// The account.
    pub account: String,
    /// Its id within the account.
    pub id: String,
    /// The credential of the same account.
    pub credential: String,
    /// Callers of the same account; empty for all.
    pub callers: Vec<String>,
    /// Host patterns; empty for those of the credential.
    pub hosts: Vec<String>,
    /// Methods; empty for all.
    pub methods: Vec<String>,
    /// Path prefixes; empty for all.
    pub paths: Vec<String>,
    /// Services, for schemes that know them.
    pub services: Vec<String>,
    /// Regions, for schemes that know them.
    pub regions: Vec<String>,
    /// Actions, for schemes that know them.
    pub actions: Vec<String>,
    /// The secret may travel unencrypted.
    pub allow_cleartext: bool,
    /// Addresses that may be reached though they are normally refused.
    pub allow_addresses: Vec<String>,
    /// Only when the request names the credential.
    pub only_named: bool,
}

/// A policy template that was applied to an account: which credential each of its blocks stands for. Never changed;
/// applied again instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedPolicyRecord {
    /// The account.
    pub account: String,
    /// Its id within the account.
    pub id: String,
    /// What it was made of.
    pub content: AppliedPolicy,
    /// When it was applied, and by whom.
    pub created: Change,
}

/// What an applied policy consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppliedPolicy {
    /// What people call it.
    pub name: String,
    /// What the template declares (`policy::Template`); nothing in the routing, which has no use for it.
    pub template: Value,
    /// Each block's credential, by the block's name.
    pub credentials: BTreeMap<String, String>,
    /// The same as it was asked for, with `{org_id}` and `{project_id}`, where that is something else.
    pub asked: BTreeMap<String, String>,
    /// The template's parameters that were set.
    pub parameters: BTreeMap<String, String>,
    /// The credentials' own hosts, not only those that the template uses.
    pub loose: bool,
    /// What a run may use.
    pub bindings: Vec<PolicyBinding>,
    /// What a run may call without a credential.
    pub passages: Vec<PolicyPassage>,
}

/// What a run may use of one credential, by one block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyBinding {
    /// The block, which is also the credential's alias within a run.
    pub block: String,
    /// The credential of the same account.
    pub credential: String,
    /// Host patterns.
    pub hosts: Vec<String>,
    /// What of these hosts is meant (`route::HostShape`), such as `ec2.{region}.amazonaws.com`; empty for all.
    pub shapes: Vec<String>,
    /// Methods; empty for all.
    pub methods: Vec<String>,
    /// The account of AWS whose role is assumed in place of the credential's own.
    pub account_number: Option<String>,
    /// The secret may travel unencrypted.
    pub allow_cleartext: bool,
    /// Only when the request names the block or the credential, since nothing else tells it from another.
    pub only_named: bool,
}

/// What a run may call without a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyPassage {
    /// Host patterns.
    pub hosts: Vec<String>,
    /// As in [`PolicyBinding`].
    pub shapes: Vec<String>,
    /// Methods; empty for all.
    pub methods: Vec<String>,
}

/// One run of an applied policy: a lease on what the policy may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The account.
    pub account: String,
    /// Its id within the account.
    pub id: String,
    /// The applied policy.
    pub policy: String,
    /// What its token is known by (`route::fingerprint`).
    pub digest: [u8; 32],
    /// When it began, and by whom.
    pub created: Change,
    /// When it ends by itself.
    pub expires_at: SystemTime,
    /// When it was ended before that, and by whom.
    pub ended: Option<Change>,
}

impl RunRecord {
    /// Whether its token still proves it.
    pub fn lives(&self, now: SystemTime) -> bool {
        self.ended.is_none() && now < self.expires_at
    }
}

/// Calls of one kind that a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunUse {
    /// The block of the template whose credential was used, or that the refused call was for; empty for none.
    pub block: String,
    /// That credential.
    pub credential: String,
    /// The host, with its port where that is not the scheme's own, and `http://` before it where it was unencrypted.
    pub host: String,
    /// The method.
    pub method: String,
    /// `used`, `passed` without a credential, or the code with which it was refused.
    pub outcome: String,
    /// How many.
    pub count: i64,
    /// The last one, to the second.
    pub last_used: SystemTime,
}

/// A caller of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerRecord {
    /// The account.
    pub account: String,
    /// Its name within the account.
    pub name: String,
    /// What proves it: digests of its tokens (`route::fingerprint`), by the id of the token.
    pub proofs: Vec<CallerProofRecord>,
}

/// One proof of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerProofRecord {
    /// The id of the proof within the caller.
    pub id: String,
    /// See `route::fingerprint`.
    pub digest: [u8; 32],
    /// When it was made.
    pub created: SystemTime,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
}

/// What somebody may do through the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See what is not secret.
    Viewer,
    /// Manage credentials, bindings and callers.
    Manager,
    /// Everything, tokens and other people's roles included.
    Admin,
}

/// A token for the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementToken {
    /// Its name, unique.
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// What it may do.
    pub role: Role,
    /// In this account; in all if none is named.
    pub account: Option<String>,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
}

/// Everything that the route table is made of.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The state of the store that this is; it grows with every change.
    pub revision: i64,
    /// Every binding.
    pub bindings: Vec<BindingRecord>,
    /// The credentials that bindings name, without secrets; those that were removed, too, since their bindings refuse.
    pub credentials: Vec<CredentialRecord>,
    /// Every caller.
    pub callers: Vec<CallerRecord>,
    /// The runs that nobody has ended and that had not ended by themselves.
    pub runs: Vec<RunRecord>,
    /// Their policies.
    pub policies: Vec<AppliedPolicyRecord>,
    /// A policy was applied somewhere, so that whoever calls has to say which run it is, or who else.
    pub asks: bool,
}

/// The uses of a credential, over all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// How many.
    pub count: i64,
    /// The last one, to the second.
    pub last_used: SystemTime,
    /// Who that was.
    pub last_caller: String,
}

/// Why the store does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Something of that id exists already, or was removed under it.
    #[error("{0} exists already")]
    Exists(String),
    /// There is none of that id.
    #[error("there is no {0}")]
    Unknown(String),
    /// It was changed by somebody else meanwhile.
    #[error("{0} was changed meanwhile")]
    Changed(String),
    /// It is in use.
    #[error("{what} is in use by {by}")]
    InUse {
        /// What.
        what: String,
        /// By which bindings.
        by: String,
    },
    /// It is not what a store takes: a name, an address, a database of a newer version. Trying again does not help.
    #[error("{0}")]
    Invalid(String),
    /// The database or the key cannot be reached, or is read-only or full; nothing was changed, unless the connection was
    /// lost just when it was to be: then nobody knows.
    #[error("the store cannot be used now: {0}")]
    Unavailable(String),
    /// What is stored cannot be opened with the keys at hand, or was moved from elsewhere; a whole sentence.
    #[error("{0}")]
    Sealed(String),
}
