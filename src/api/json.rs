//! JSON that may hold secrets, and the two spellings of keys.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use zeroize::Zeroize;

/// JSON that may hold secrets: `Debug` shows nothing of it, and its texts are wiped when it is dropped.
#[derive(Clone, Default, PartialEq)]
pub struct Confidential(Value);

impl Confidential {
    /// Takes over a document.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// The document.
    pub fn expose(&self) -> &Value {
        &self.0
    }

    /// The document, to be changed.
    pub fn expose_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// The document itself, for whoever wipes it.
    #[must_use]
    pub fn take(mut self) -> Value {
        std::mem::take(&mut self.0)
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Confidential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

impl Drop for Confidential {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Keys whose members are named by people, or by others' formats: their names stay as they are.
const OPEN: [&str; 11] = [
    "additional_params",
    "additional_headers",
    "additional_claims",
    "jwt_headers",
    "session_tags",
    "form",
    "json",
    "tokens",
    "service_account",
    "external_account",
    "authorized_user",
];

/// `tokenUrl` is `token_url`.
pub(super) fn snake_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// `token_url` is `tokenUrl`.
pub(super) fn camel_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        match c {
            '_' if !out.is_empty() => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn renamed(value: Value, spell: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            let rename = |(key, value): (String, Value)| {
                let open = OPEN.contains(&snake_key(&key).as_str());
                (spell(&key), if open { value } else { renamed(value, spell) })
            };
            Value::Object(map.into_iter().map(rename).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| renamed(item, spell)).collect()),
        other => other,
    }
}

/// Settings as the configuration file spells them; those that are spelt so already stay.
pub(super) fn snake(value: Value) -> Value {
    renamed(value, &snake_key)
}

/// Settings as JSON spells them.
pub(super) fn camel(value: Value) -> Value {
    renamed(value, &camel_key)
}

/// Whether this stands for a value that rests elsewhere: one thing, that is replaced and never merged into.
fn is_reference(map: &Map<String, Value>) -> bool {
    ["sealed", "store", "env", "file", "command"].iter().any(|key| map.get(*key).is_some_and(|at| !at.is_null()))
}

/// JSON merge patch (RFC 7396). A reference, and the mark of a secret, are replaced as a whole.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        wipe(target);
        *target = patch;
        return;
    };
    let whole = is_reference(&patch) || target.as_object().is_none_or(is_reference);
    if whole {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// The paths of the marks that `scheme::seal` leaves where secrets were.
pub(super) fn marks(value: &Value) -> Vec<String> {
    fn below(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => match mark(map) {
                Some(path) => found.push(path.to_owned()),
                None => map.values().for_each(|value| below(value, found)),
            },
            Value::Array(items) => items.iter().for_each(|item| below(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    below(value, &mut found);
    found
}

fn mark(map: &Map<String, Value>) -> Option<&str> {
    map.get("sealed").and_then(Value::as_str).filter(|_| map.len() == 1)
}

/// Settings as they are shown: without the marks.
pub(super) fn shown(value: &Value) -> Value {
    let is_mark = |value: &Value| value.as_object().and_then(mark).is_some();
    match value {
        Value::Object(map) => {
            let public = map.iter().filter(|(_, value)| !is_mark(value));
            Value::Object(public.map(|(key, value)| (key.clone(), shown(value))).collect())
        }
        // What stands in a list is counted by its place.
        Value::Array(items) => Value::Array(items.iter().filter(|item| !is_mark(item)).map(shown).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Confidential::new(json!({"key": "canary"}))), "[redacted]");
    }

    #[test]
    fn keys_of_ours_change_their_spelling_and_keys_of_others_do_not() {
        let ours = json!({"tokenUrl": "u", "additionalParams": {"camelCase": "x"}, "second": {"clientId": "i"}});
        let snaked = snake(ours.clone());
        assert_eq!(
            snaked,
            json!({"token_url": "u", "additional_params": {"camelCase": "x"}, "second": {"client_id": "i"}})
        );
        assert_eq!(snake(snaked.clone()), snaked);
        assert_eq!(camel(snaked), ours);
        assert_eq!(snake(json!({"serviceAccount": {"privateKey": 1}})), json!({"service_account": {"privateKey": 1}}));
    }

    #[test]
    fn a_patch_merges_removes_and_replaces_references_as_a_whole() {
        let mut target =
            json!({"a": 1, "b": {"c": 2, "d": 3}, "key": {"sealed": "key"}, "r": {"store": "s", "name": "n"}});
        merge(&mut target, json!({"a": null, "b": {"c": 4}, "key": {"type": "x"}, "r": {"store": "t", "name": "m"}}));
        assert_eq!(target, json!({"b": {"c": 4, "d": 3}, "key": {"type": "x"}, "r": {"store": "t", "name": "m"}}));
        merge(&mut target, json!({"b": "text", "r": {"name": "only"}}));
        assert_eq!(target, json!({"b": "text", "key": {"type": "x"}, "r": {"name": "only"}}));
    }

    #[test]
    fn marks_are_found_and_not_shown() {
        let sealed = json!({"key": {"sealed": "key"}, "field": "X", "additional": [{"field": "Y", "key": {"sealed": "additional[0].key"}}]});
        assert_eq!(marks(&sealed).len(), 2);
        assert_eq!(shown(&sealed), json!({"field": "X", "additional": [{"field": "Y"}]}));
    }
}
