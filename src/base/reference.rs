//! References to secrets, as they stand in a credential's settings in place of the values, and what they gave.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::secret::Secret;

/// The name of a secret's resting place: `{ env: NAME }`, `{ file: PATH }`, `{ command: [PROGRAM, …], expires: 1h }`,
/// `{ store: NAME, name: SECRET }`; for a credential of the encrypted store also a place in that one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// An environment variable of Countersign's own process.
    Env {
        /// Its name.
        env: String,
    },
    /// A file; one trailing line end is dropped. Read again when it changes.
    File {
        /// Its path, relative ones from the working directory.
        file: PathBuf,
    },
    /// A command whose standard output is the secret; one trailing line end is dropped.
    Command {
        /// The program and its arguments; no shell is involved.
        command: Vec<String>,
        /// How long its answer may be used; it is run again before that. Without it, until the next reload.
        expires: Option<Duration>,
    },
    /// A secret store that the operator has configured by name (`secret_stores`).
    Store(Box<StoreRef>),
    /// Beside the settings, in the encrypted store: the path of the field that it was taken out of. Never written by
    /// people; the configuration file and the API refuse it.
    Sealed {
        /// Such as `additional[0].key`.
        sealed: String,
    },
}

/// One secret of a secret store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreRef {
    /// The name of the store, as `secret_stores` lists it.
    pub store: String,
    /// The secret's name there: a Key Vault secret, a path of Vault, an ARN or name of Secrets Manager.
    pub name: String,
    /// One version of it; the latest if none is named.
    pub version: Option<String>,
    /// One member of a secret that is a JSON object or has several fields.
    pub field: Option<String>,
}

impl fmt::Display for StoreRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {} of store {}", self.name, self.store)?;
        if let Some(version) = &self.version {
            write!(f, ", version {version}")?;
        }
        self.field.as_ref().map_or(Ok(()), |field| write!(f, ", field {field}"))
    }
}

impl SecretRef {
    /// How long a loaded value may be used, if it ends at all.
    pub fn expires(&self) -> Option<Duration> {
        match self {
            Self::Command { expires, .. } => *expires,
            Self::Env { .. } | Self::File { .. } | Self::Store(_) | Self::Sealed { .. } => None,
        }
    }

    /// Whether only the operator may write it: it reads files and variables of this host, or runs commands.
    pub fn is_operators(&self) -> bool {
        matches!(self, Self::Env { .. } | Self::File { .. } | Self::Command { .. })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { env } => write!(f, "environment variable {env}"),
            Self::File { file } => write!(f, "file {}", file.display()),
            Self::Command { command, .. } => {
                write!(f, "command {}", command.first().map_or("", String::as_str))
            }
            Self::Store(reference) => write!(f, "{reference}"),
            Self::Sealed { sealed } => write!(f, "{sealed}, as it was stored"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    env: Option<String>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    expires: Option<Duration>,
    store: Option<String>,
    name: Option<String>,
    version: Option<String>,
    field: Option<String>,
    sealed: Option<String>,
}

impl Raw {
    /// The keys that go with `store`.
    fn store(self) -> Result<StoreRef, &'static str> {
        let Self { store: Some(store), name: Some(name), version, field, .. } = self else {
            return Err("`store` and `name` go together");
        };
        if store.is_empty() || name.is_empty() {
            return Err("`store` and `name` are not empty");
        }
        Ok(StoreRef { store, name, version, field })
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        if raw.expires.is_some() && raw.command.is_none() {
            return Err(de::Error::custom("`expires` goes with `command`"));
        }
        if raw.expires.is_some_and(|expires| expires < Duration::from_secs(1)) {
            return Err(de::Error::custom("`expires` is a second at least"));
        }
        if raw.store.is_none() && (raw.name.is_some() || raw.version.is_some() || raw.field.is_some()) {
            return Err(de::Error::custom("`name`, `version` and `field` go with `store`"));
        }
        let elsewhere = raw.env.is_some() || raw.file.is_some() || raw.command.is_some();
        match (&raw.store, &raw.sealed, elsewhere) {
            (Some(_), None, false) => {
                return raw.store().map(|stored| Self::Store(Box::new(stored))).map_err(de::Error::custom);
            }
            (None, Some(sealed), false) => return Ok(Self::Sealed { sealed: sealed.clone() }),
            (None, None, _) => {}
            _ => return Err(de::Error::custom("a reference names one place")),
        }
        match (raw.env, raw.file, raw.command) {
            (Some(env), None, None) if !env.is_empty() => Ok(Self::Env { env }),
            (None, Some(file), None) if !file.as_os_str().is_empty() => Ok(Self::File { file }),
            (None, None, Some(command)) if command.first().is_some_and(|program| !program.is_empty()) => {
                Ok(Self::Command { command, expires: raw.expires })
            }
            _ => Err(de::Error::custom(
                "a reference is one of { env: NAME }, { file: PATH }, { command: [PROGRAM, ARGUMENT], expires: 1h }, { store: NAME, name: SECRET }",
            )),
        }
    }
}

/// A secret field of a credential. In the configuration file it holds a reference, never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretField(SecretRef);

impl From<SecretRef> for SecretField {
    fn from(reference: SecretRef) -> Self {
        Self(reference)
    }
}

impl SecretField {
    /// The reference to load.
    pub fn reference(&self) -> &SecretRef {
        &self.0
    }
}

/// A field that is either plain text or a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Public {
    /// The text itself.
    Literal(String),
    /// Where the text rests.
    Reference(SecretRef),
}

impl Public {
    /// The reference to load, if it is one.
    pub fn reference(&self) -> Option<&SecretRef> {
        match self {
            Self::Literal(_) => None,
            Self::Reference(reference) => Some(reference),
        }
    }
}

/// Reads text or a map, keeping what stood there out of every error message.
enum TextOr {
    Text(String),
    Reference(SecretRef),
}

impl<'de> Deserialize<'de> for TextOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TextOr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a reference such as { env: NAME }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TextOr, E> {
                Ok(TextOr::Text(text.to_owned()))
            }
            // An unquoted number where text is meant: its value must not reach a message (it may be a key), so no
            // default "invalid type: integer `4711`".
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<TextOr, E> {
                Err(E::custom("a number; put it in quotes"))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<TextOr, E> {
                Err(E::custom("a number; put it in quotes"))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<TextOr, E> {
                Err(E::custom("a number; put it in quotes"))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<TextOr, A::Error> {
                SecretRef::deserialize(de::value::MapAccessDeserializer::new(map)).map(TextOr::Reference)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Text of which nothing is secret and nothing a reference; a number is told to be put in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOr::deserialize(deserializer)? {
            TextOr::Text(text) => Ok(Self(text)),
            TextOr::Reference(_) => Err(de::Error::custom("text; references are not read here")),
        }
    }
}

impl<'de> Deserialize<'de> for SecretField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOr::deserialize(deserializer)? {
            TextOr::Reference(reference) => Ok(Self(reference)),
            TextOr::Text(_) => Err(de::Error::custom(
                "a secret does not stand in this file; write { env: NAME }, { file: PATH } or { command: [PROGRAM] }",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Public {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match TextOr::deserialize(deserializer)? {
            TextOr::Text(text) => Self::Literal(text),
            TextOr::Reference(reference) => Self::Reference(reference),
        })
    }
}

/// Why a reference gives no secret. The texts name the reference, never its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// For how long something that was loaded is good, from the moment it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// After this time it is loaded again.
    pub refresh: Duration,
    /// If that does not succeed, it serves for this long and no longer.
    pub usable: Duration,
}

impl Lifetime {
    /// Of something that ends after a time, so that it is loaded again a little earlier.
    pub fn ending(after: Duration) -> Self {
        Self { refresh: after - after / 5, usable: after }
    }

    fn and(self, other: Self) -> Self {
        Self { refresh: self.refresh.min(other.refresh), usable: self.usable.min(other.usable) }
    }
}

/// Secrets that were loaded, by their reference.
#[derive(Debug, Default)]
pub struct Secrets {
    loaded: HashMap<SecretRef, Result<Secret, Unavailable>>,
    lifetimes: HashMap<SecretRef, Lifetime>,
}

impl Secrets {
    /// Notes that what a reference gave ends.
    pub fn ends(&mut self, reference: SecretRef, lifetime: Lifetime) {
        self.lifetimes.insert(reference, lifetime);
    }

    /// For how long what these references gave is good; for ever if nothing is known to end.
    pub fn lifetime_of<'a>(&self, references: impl IntoIterator<Item = &'a SecretRef>) -> Option<Lifetime> {
        let lifetimes = references.into_iter().filter_map(|reference| self.lifetimes.get(reference).copied());
        lifetimes.reduce(Lifetime::and)
    }

    /// A digest of what these references gave, to see whether it is the same as another time.
    pub fn digest_of<'a>(&self, references: impl IntoIterator<Item = &'a SecretRef>) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for reference in references {
            let secret = self.loaded.get(reference).and_then(|outcome| outcome.as_ref().ok());
            let length = secret.map_or(u64::MAX, |secret| secret.expose().len() as u64);
            context.update(&length.to_be_bytes());
            context.update(secret.map_or(&[], Secret::expose));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// Whether a reference was tried, with whatever outcome.
    pub fn contains(&self, reference: &SecretRef) -> bool {
        self.loaded.contains_key(reference)
    }

    /// Notes what a reference gave.
    pub fn insert(&mut self, reference: SecretRef, outcome: Result<Secret, Unavailable>) {
        self.loaded.insert(reference, outcome);
    }

    /// The secret of a reference.
    ///
    /// # Errors
    /// Why there is none.
    pub fn get(&self, reference: &SecretRef) -> Result<Secret, Unavailable> {
        self.loaded.get(reference).cloned().unwrap_or_else(|| Err(Unavailable(format!("{reference} was not loaded"))))
    }

    /// The secret of a field.
    ///
    /// # Errors
    /// Why there is none.
    pub fn field(&self, field: &SecretField) -> Result<Secret, Unavailable> {
        self.get(field.reference())
    }

    /// The text of a public field.
    ///
    /// # Errors
    /// Why there is none: its reference gave nothing, or nothing that is text.
    pub fn public(&self, field: &Public) -> Result<String, Unavailable> {
        match field {
            Public::Literal(text) => Ok(text.clone()),
            Public::Reference(reference) => self
                .get(reference)?
                .expose_str()
                .map(str::to_owned)
                .ok_or_else(|| Unavailable(format!("{reference} is not text"))),
        }
    }
}

impl FromIterator<(SecretRef, Secret)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (SecretRef, Secret)>>(iter: I) -> Self {
        let loaded = iter.into_iter().map(|(reference, secret)| (reference, Ok(secret))).collect();
        Self { loaded, lifetimes: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_names_exactly_one_place() {
        let read = |value| serde_json::from_value::<SecretRef>(value);
        assert_eq!(read(json!({"env": "A"})).unwrap(), SecretRef::Env { env: "A".into() });
        let command = read(json!({"command": ["vault", "read"], "expires": "1h"})).unwrap();
        assert_eq!(command.expires(), Some(Duration::from_secs(3600)));
        let stored = read(json!({"store": "kv", "name": "db", "version": "3", "field": "password"})).unwrap();
        assert_eq!(stored.to_string(), "secret db of store kv, version 3, field password");
        assert!(!stored.is_operators() && command.is_operators());
        for value in [
            json!({}),
            json!({"env": "A", "file": "b"}),
            json!({"env": "A", "expires": "1h"}),
            json!({"command": []}),
            json!({"command": ["x"], "expires": "1ms"}),
            json!({"enw": "A"}),
            json!({"name": "A"}),
            json!({"store": "A"}),
            json!({"store": "A", "name": ""}),
            json!({"store": "A", "name": "b", "env": "C"}),
            json!({"sealed": "key", "env": "C"}),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_secret_written_into_the_file_is_refused_and_not_repeated_in_the_message() {
        for value in [json!("hunter2"), json!(4711)] {
            let error = serde_json::from_value::<SecretField>(value).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("4711"), "{error}");
        }
        assert!(serde_json::from_value::<SecretField>(json!({"env": "A"})).is_ok());
    }

    #[test]
    fn text_that_looks_like_a_number_wants_quotes() {
        assert_eq!(serde_json::from_value::<Text>(json!("007")).unwrap().0, "007");
        let error = serde_json::from_value::<Text>(json!(7)).unwrap_err().to_string();
        assert!(error.contains("quotes"), "{error}");
        assert!(serde_json::from_value::<Text>(json!({"env": "A"})).is_err());
    }

    #[test]
    fn a_public_field_takes_text_or_a_reference() {
        assert_eq!(serde_json::from_value::<Public>(json!("id")).unwrap(), Public::Literal("id".into()));
        assert!(serde_json::from_value::<Public>(json!({"env": "ID"})).unwrap().reference().is_some());
    }
}
