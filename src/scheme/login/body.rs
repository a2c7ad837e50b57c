//! What a login sends: a form, or JSON of any shape whose texts may be references to secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::base::{Public, Secret, SecretRef, Secrets, Unavailable};
use crate::scheme::fields;

/// JSON with references in it.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    /// Text, a number, a truth value, null.
    Plain(Value),
    /// Text that rests elsewhere.
    Reference(SecretRef),
    List(Vec<Tree>),
    Map(BTreeMap<String, Tree>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Tree {
    fn of(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::Object(map) if is_reference(&map) => Self::Reference(
                // Its own message shows no value.
                SecretRef::deserialize(Value::Object(map)).map_err(|error| error.to_string())?,
            ),
            Value::Object(map) => {
                let branch = |(name, value)| Self::of(value).map(|tree| (name, tree));
                Self::Map(map.into_iter().map(branch).collect::<Result<_, _>>()?)
            }
            Value::Array(values) => Self::List(values.into_iter().map(Self::of).collect::<Result<_, _>>()?),
            value => Self::Plain(value),
        })
    }

    /// Every reference in it.
    pub(super) fn references(&self) -> Vec<&SecretRef> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Reference(reference) => vec![reference],
            Self::List(items) => items.iter().flat_map(Self::references).collect(),
            Self::Map(map) => map.values().flat_map(Self::references).collect(),
        }
    }

    /// The path, as in `credentials.password`, of a text that looks as if it were a secret by the name of its field.
    pub(super) fn written_secret(&self) -> Option<String> {
        let below = |name: String, tree: &Self| tree.written_secret().map(|path| format!("{name}.{path}"));
        match self {
            Self::Plain(_) | Self::Reference(_) => None,
            Self::List(items) => items.iter().enumerate().find_map(|(index, tree)| below(index.to_string(), tree)),
            Self::Map(map) => map.iter().find_map(|(name, tree)| match tree {
                Self::Plain(Value::String(text)) if is_confidential(name, text) => Some(name.clone()),
                tree => below(name.clone(), tree),
            }),
        }
    }

    /// The document to send.
    ///
    /// # Errors
    /// When a reference gave nothing, or nothing that is text.
    pub(super) fn filled(&self, secrets: &Secrets) -> Result<Value, Unavailable> {
        Ok(match self {
            Self::Plain(value) => value.clone(),
            Self::Reference(reference) => Value::String(secrets.public(&Public::Reference(reference.clone()))?),
            Self::List(items) => Value::Array(items.iter().map(|tree| tree.filled(secrets)).collect::<Result<_, _>>()?),
            Self::Map(map) => {
                let pair = |(name, tree): (&String, &Self)| Ok((name.clone(), tree.filled(secrets)?));
                Value::Object(map.iter().map(pair).collect::<Result<Map<_, _>, Unavailable>>()?)
            }
        })
    }
}

/// A form as it is sent.
///
/// # Errors
/// When a reference gave nothing, or nothing that is text.
pub(super) fn form(fields: &BTreeMap<String, Public>, secrets: &Secrets) -> Result<Secret, Unavailable> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        form.append_pair(name, &secrets.public(value)?);
    }
    Ok(Secret::new(form.finish()))
}

/// Whether a text under this name would be a secret written into the file.
pub(super) fn is_confidential(name: &str, text: &str) -> bool {
    !text.is_empty() && fields::is_confidential(name)
}

/// `{ env: X }` where a value is meant.
fn is_reference(map: &Map<String, Value>) -> bool {
    let only = |keys: &[&str]| map.keys().all(|key| keys.contains(&key.as_str()));
    let here = ["env", "file", "command"].iter().any(|key| map.contains_key(*key));
    let stored = map.contains_key("store") && map.contains_key("name");
    let sealed = map.contains_key("sealed");
    here && only(&["env", "file", "command", "expires"])
        || stored && only(&["store", "name", "version", "field"])
        || sealed && only(&["sealed"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(value: Value) -> Tree {
        serde_json::from_value(value).unwrap()
    }

    fn secrets() -> Secrets {
        [(SecretRef::Env { env: "P".into() }, Secret::new("p\"w"))].into_iter().collect()
    }

    #[test]
    fn references_are_filled_in_however_deep_and_everything_else_stays() {
        let written = json!({"a": [{"user": "u", "password": {"env": "P"}}], "n": 1, "t": true, "z": null, "e": {}});
        let tree = tree(written);
        assert_eq!(tree.references().len(), 1);
        let filled = json!({"a": [{"user": "u", "password": "p\"w"}], "n": 1, "t": true, "z": null, "e": {}});
        assert_eq!(tree.filled(&secrets()).unwrap(), filled);
        assert!(tree.filled(&Secrets::default()).unwrap_err().0.contains("environment variable P"));
    }

    #[test]
    fn a_map_that_is_more_than_a_reference_is_a_map() {
        assert!(tree(json!({"env": "prod", "user": "u"})).references().is_empty());
        assert!(tree(json!({"store": "s", "region": "eu"})).references().is_empty());
        for reference in [json!({"store": "s", "name": "n", "field": "f"}), json!({"sealed": "json.x"})] {
            assert_eq!(tree(json!({"x": reference})).references().len(), 1);
        }
        let error = serde_json::from_value::<Tree>(json!({"x": {"env": "A", "file": "b"}})).unwrap_err();
        assert!(error.to_string().contains("a reference is one of"), "{error}");
    }

    #[test]
    fn a_secret_that_is_written_out_is_found_by_the_name_of_its_field() {
        for name in ["password", "userPassword", "api_key", "clientSecret", "refresh-token", "PWD"] {
            let found = tree(json!({"list": [{name: "hunter2"}]})).written_secret();
            assert_eq!(found, Some(format!("list.0.{name}")), "{name}");
            assert_eq!(tree(json!({name: {"env": "P"}})).written_secret(), None);
        }
        let fine = json!({"grant_type": "password", "tokenType": "x", "password": "", "secrets": 1, "key": "k"});
        assert_eq!(tree(fine).written_secret(), None);
    }

    #[test]
    fn a_form_is_encoded() {
        let fields = [
            ("a b".to_owned(), Public::Literal("1&2".into())),
            ("p".into(), Public::Reference(SecretRef::Env { env: "P".into() })),
        ];
        let form = form(&fields.into(), &secrets()).unwrap();
        assert_eq!(form.expose_str(), Some("a+b=1%262&p=p%22w"));
    }
}
