//! What goes in and out, as Tower's documents have it.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A credential, never a secret of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TowerCredentials {
    /// At most 22 characters where Tower's clients created it; it never changes.
    pub(super) id: String,
    /// Unique in its workspace.
    pub(super) name: String,
    /// A sentence for people.
    pub(super) description: Option<String>,
    /// One of `aws`, `azure`, `azure_entra`, `azure-cloud`, `google`, `github`, `github_app`, `gitlab`, `bitbucket`, `gitea`,
    /// `azurerepos`, `codecommit`, `container-reg`, `k8s`, `ssh`, `s3`, `seqeracompute`.
    pub(super) provider: &'static str,
    /// As it was given.
    pub(super) category: Option<String>,
    /// The address of a provider that the user runs, or the repositories that are meant.
    pub(super) base_url: Option<String>,
    /// The keys that are not secret, with their `discriminator`.
    #[schema(value_type = Object)]
    pub(super) keys: Map<String, Value>,
    /// Always false: what was removed is not listed.
    pub(super) deleted: bool,
    /// `INVALID` when the provider refused it, or it is switched off.
    pub(super) status: TowerStatus,
    /// Why it is invalid.
    pub(super) message: Option<String>,
    /// When the proxy used it last.
    #[schema(format = DateTime)]
    pub(super) last_used: Option<String>,
    /// When this process validated it last.
    #[schema(format = DateTime)]
    pub(super) last_validated: Option<String>,
    /// When it was created; absent for what the configuration file declares.
    #[schema(format = DateTime)]
    pub(super) date_created: Option<String>,
    /// When it was changed last.
    #[schema(format = DateTime)]
    pub(super) last_updated: Option<String>,
    /// For a role of AWS: the trust policy that lets Countersign assume it. Only where one credential is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) setup_snippet: Option<String>,
}

/// Whether a credential works, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum TowerStatus {
    Available,
    Invalid,
}

/// Every credential of a workspace that Tower has a provider for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TowerCredentialsList {
    pub(super) credentials: Vec<TowerCredentials>,
}

/// One credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TowerCredentialsDescribed {
    pub(super) credentials: TowerCredentials,
}

/// What was created.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TowerCredentialsCreated {
    pub(super) credentials_id: String,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TowerValidation {
    pub(super) status: TowerStatus,
    pub(super) message: Option<String>,
    /// The provider could not be asked: the status is what it was.
    pub(super) transient_error: bool,
}

/// What uses a credential that is not deleted for that.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TowerConflicts {
    pub(super) credentials_id: String,
    pub(super) conflicts: Vec<TowerConflict>,
}

/// One binding.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TowerConflict {
    pub(super) id: String,
    pub(super) name: String,
    /// `binding`.
    pub(super) r#type: &'static str,
    /// Where it is in the API of Countersign.
    pub(super) url: String,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TowerError {
    pub(super) message: String,
}

/// What comes in: for documentation, since clients send keys at several places.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what Keys::take reads")]
pub(super) struct TowerCredentialsRequest {
    credentials: TowerCredentialsSpec,
}

/// A credential as it comes in. The keys stand under `keys`, or as in 2020 beside the others.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it describes what Keys::take reads")]
pub(super) struct TowerCredentialsSpec {
    /// Repeated from the path when one is changed.
    id: Option<String>,
    /// 2 to 100 letters, digits, `_` and `-`.
    name: Option<String>,
    description: Option<String>,
    /// See the same field of an answer. It never changes.
    provider: Option<String>,
    /// Up to 20 characters.
    category: Option<String>,
    /// Up to 200 characters.
    base_url: Option<String>,
    /// The provider's keys, secrets among them, with their `discriminator`: those of `aws` are `accessKey`, `secretKey`, `assumeRoleArn`
    /// and `mode`. When one is changed, those that are left out stay.
    #[schema(value_type = Option<Object>)]
    keys: Option<Map<String, Value>>,
}

/// A time as Tower writes it.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
