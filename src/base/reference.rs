//! References to secrets, as they stand in the configuration in place of the values, and what they gave.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::secret::Secret;

/// The name of a secret's resting place: `{ env: NAME }`, `{ file: PATH }` or `{ command: [PROGRAM, …], expires: 1h }`.
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
}

impl SecretRef {
    /// How long a loaded value may be used, if it ends at all.
    pub fn expires(&self) -> Option<Duration> {
        match self {
            Self::Command { expires, .. } => *expires,
            Self::Env { .. } | Self::File { .. } => None,
        }
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
        match (raw.env, raw.file, raw.command) {
            (Some(env), None, None) if !env.is_empty() => Ok(Self::Env { env }),
            (None, Some(file), None) if !file.as_os_str().is_empty() => Ok(Self::File { file }),
            (None, None, Some(command)) if command.first().is_some_and(|program| !program.is_empty()) => {
                Ok(Self::Command { command, expires: raw.expires })
            }
            _ => Err(de::Error::custom(
                "a reference is one of { env: NAME }, { file: PATH }, { command: [PROGRAM, ARGUMENT], expires: 1h }",
            )),
        }
    }
}

/// A secret field of a credential. In the configuration file it holds a reference, never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretField(SecretRef);

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

/// Secrets that were loaded, by their reference.
#[derive(Debug, Default)]
pub struct Secrets(HashMap<SecretRef, Result<Secret, Unavailable>>);

impl Secrets {
    /// Whether a reference was tried, with whatever outcome.
    pub fn contains(&self, reference: &SecretRef) -> bool {
        self.0.contains_key(reference)
    }

    /// Notes what a reference gave.
    pub fn insert(&mut self, reference: SecretRef, outcome: Result<Secret, Unavailable>) {
        self.0.insert(reference, outcome);
    }

    /// The secret of a reference.
    ///
    /// # Errors
    /// Why there is none.
    pub fn get(&self, reference: &SecretRef) -> Result<Secret, Unavailable> {
        self.0.get(reference).cloned().unwrap_or_else(|| Err(Unavailable(format!("{reference} was not loaded"))))
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
        Self(iter.into_iter().map(|(reference, secret)| (reference, Ok(secret))).collect())
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
        for value in [
            json!({}),
            json!({"env": "A", "file": "b"}),
            json!({"env": "A", "expires": "1h"}),
            json!({"command": []}),
            json!({"command": ["x"], "expires": "1ms"}),
            json!({"enw": "A"}),
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
