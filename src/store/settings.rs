//! The `store` section.

use std::time::Duration;

use serde::Deserialize;

use crate::base::{Public, SecretField, SecretRef};

/// Where credentials of accounts rest, and what their keys are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `sqlite:PATH` or `postgres://USER@HOST/DATABASE?sslmode=verify-full`, without a password if it is written here.
    pub url: Public,
    /// The password of PostgreSQL's user.
    pub password: Option<SecretField>,
    /// The key-encryption key; without one, a file is made beside the database, 0600.
    pub key: Option<KeySettings>,
    /// How often changes of other processes are looked for; PostgreSQL tells of them besides.
    #[serde(deserialize_with = "crate::base::duration::deserialize")]
    pub poll: Duration,
    /// While the store cannot be reached, what was read last is used for this long and no longer.
    #[serde(deserialize_with = "crate::base::duration::deserialize")]
    pub grace: Duration,
}

/// Where the key-encryption key is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum KeySettings {
    /// A key of Vault's transit engine: it never leaves Vault.
    Transit {
        /// The secret store of kind `vault` (`secret_stores`).
        transit: TransitSettings,
    },
    /// 32 bytes in base64, in a file, a variable or what a command prints.
    Held(SecretField),
}

/// A key of Vault's transit engine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransitSettings {
    /// The secret store of kind `vault`.
    pub store: String,
    /// The key's name.
    pub key: String,
    /// Where the engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
}

fn transit() -> String {
    "transit".to_owned()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: Public::Literal("sqlite:state/countersign.db".into()),
            password: None,
            key: None,
            // A look costs one read of a page that is in memory.
            poll: Duration::from_millis(250),
            // Long enough for a database's restart, short enough for a removal to count.
            grace: Duration::from_secs(300),
        }
    }
}

impl Settings {
    /// The references to load.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let key = match &self.key {
            Some(KeySettings::Held(key)) => Some(key.reference()),
            Some(KeySettings::Transit { .. }) | None => None,
        };
        self.url.reference().into_iter().chain(self.password.as_ref().map(SecretField::reference)).chain(key)
    }
}
