//! The `store` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::connect::Address;
use crate::base::{Public, SecretField, SecretRef};

/// Where credentials of accounts rest, and what their keys are encrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `sqlite:PATH` or `postgres://USER@HOST/DATABASE?sslmode=verify-full`, without a password if it is written here.
    #[serde(deserialize_with = "address")]
    pub url: Public,
    /// The password of PostgreSQL's user.
    pub password: Option<SecretField>,
    /// The key-encryption key; without one, a file is made beside the database, 0600.
    pub key: Option<KeySettings>,
    /// Keys that it was encrypted with before, or that it is about to be: they open, and encrypt nothing new.
    pub old_keys: Vec<KeySettings>,
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

/// An address in plain text is judged at once.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Public, D::Error> {
    let public = Public::deserialize(deserializer)?;
    if let Public::Literal(text) = &public {
        let address: Address = text.parse().map_err(de::Error::custom)?;
        if address.has_password() {
            return Err(de::Error::custom(
                "a password does not stand in this file: put it into `store.password`, or the whole address into { env }",
            ));
        }
    }
    Ok(public)
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
            old_keys: Vec::new(),
            // A look costs one read of a page that is in memory.
            poll: Duration::from_millis(250),
            // Long enough for a database's restart, short enough for a removal to count.
            grace: Duration::from_secs(300),
        }
    }
}

impl Settings {
    /// Whether there is something to open: a server, or a file that exists already.
    pub fn exists(&self) -> bool {
        match &self.url {
            Public::Literal(url) => !matches!(url.parse(), Ok(Address::Sqlite(path)) if !path.exists()),
            Public::Reference(_) => true,
        }
    }

    /// The references to load.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let keys = self.keys().filter_map(|key| match key {
            KeySettings::Held(key) => Some(key.reference()),
            KeySettings::Transit { .. } => None,
        });
        self.url.reference().into_iter().chain(self.password.as_ref().map(SecretField::reference)).chain(keys)
    }

    /// The keys, the present one first.
    pub fn keys(&self) -> impl Iterator<Item = &KeySettings> {
        self.key.iter().chain(&self.old_keys)
    }

    /// Where the key is that a new store gets, if none is configured: beside the database.
    pub fn key_file(url: &str) -> PathBuf {
        match url.parse() {
            Ok(Address::Sqlite(path)) => path.with_file_name("store.key"),
            _ => PathBuf::from("state/store.key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Settings, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn the_default_is_one_file() {
        let settings = read(json!({})).unwrap();
        assert_eq!(settings.url, Public::Literal("sqlite:state/countersign.db".into()));
        assert_eq!(Settings::key_file("sqlite:state/countersign.db"), PathBuf::from("state/store.key"));
        assert_eq!(Settings::key_file("postgres://db/store"), PathBuf::from("state/store.key"));
        assert_eq!(settings.references().count(), 0);
    }

    #[test]
    fn keys_are_references_or_of_a_transit_engine() {
        let settings = read(json!({
            "url": { "env": "STORE" },
            "password": { "env": "PASSWORD" },
            "key": { "transit": { "store": "kv", "key": "store" } },
            "old_keys": [{ "file": "/run/key" }],
        }));
        let settings = settings.unwrap();
        assert_eq!(settings.references().count(), 3);
        assert_eq!(settings.keys().count(), 2);
        assert!(read(json!({ "key": "aGVsbG8=" })).is_err());
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = read(json!({ "url": "postgres://me:hunter2@db/store" })).unwrap_err().to_string();
        assert!(error.contains("store.password") && !error.contains("hunter2"), "{error}");
        assert!(read(json!({ "url": "mysql://db" })).is_err());
        assert!(read(json!({ "url": "postgres://me@db/store" })).is_ok());
    }
}
