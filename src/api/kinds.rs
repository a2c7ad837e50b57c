//! What a credential may be: a scheme, or a key that no scheme signs with.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::json::snake_key;
use super::tower::check_ssh_key;
use crate::base::{Secret, SecretField, SecretRef, Unavailable};
use crate::scheme::{self, Draft, Fields, KINDS, Kind, Scheme, SettingsError, Setup};

/// A key for `ssh`: stored, checked and listed. It signs no HTTP request.
static SSH: Kind = Kind {
    name: "ssh",
    about: "A private key for ssh and git over ssh: stored and checked; it signs no HTTP request",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields { secret: &["private_key", "passphrase"], leading: &[], operators: &[] },
    parse: |value: Value| {
        let settings: Ssh = serde_path_to_error::deserialize(value).map_err(|error| SettingsError {
            path: error.path().to_string(),
            message: error.into_inner().to_string(),
        })?;
        Ok(Box::new(settings))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ssh {
    private_key: SecretField,
    passphrase: Option<SecretField>,
}

impl Draft for Ssh {
    fn references(&self) -> Vec<&SecretRef> {
        [Some(&self.private_key), self.passphrase.as_ref()].into_iter().flatten().map(SecretField::reference).collect()
    }

    fn build(&self, _: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        Err(Unavailable("an ssh key signs no HTTP request".into()))
    }
}

/// The kind of that name, `-` and `_` being the same.
pub fn find(name: &str) -> Option<&'static Kind> {
    if name == SSH.name { Some(&SSH) } else { scheme::find(name) }
}

/// Whether a kind signs nothing, so that no binding can use it.
pub fn is_kept_only(kind: &Kind) -> bool {
    kind.name == SSH.name
}

/// Judges the secrets of what signs nothing, as far as they are here and not in a secret store.
pub(super) fn check_kept(secrets: &BTreeMap<String, Secret>) -> Result<(), SettingsError> {
    let Some(key) = secrets.get("private_key") else { return Ok(()) };
    check_ssh_key(key, secrets.get("passphrase"))
        .map_err(|(path, message)| SettingsError { path: snake_key(path), message })
}

/// Every kind.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain([&SSH])
}
