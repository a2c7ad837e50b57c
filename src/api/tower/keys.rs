//! The keys of a credential as Tower's clients have sent them since 2020: at the top level of `credentials`, under `keys`
//! with a `discriminator`, or as Google's document under `data`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::super::json::Confidential;
use super::Wrong;
use super::provider::{Provider, fold};

/// What is no key where keys stand at the top level.
const OTHERS: [&str; 15] = [
    "id",
    "name",
    "description",
    "provider",
    "baseurl",
    "category",
    "keys",
    "deleted",
    "datecreated",
    "lastupdated",
    "lastused",
    "lastvalidated",
    "status",
    "message",
    "setupsnippet",
];

/// Keys by their folded names. `Debug` shows the names.
#[derive(Default)]
pub(super) struct Keys {
    members: BTreeMap<String, Confidential>,
    /// Whether the client sent any.
    given: bool,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.members.keys()).finish()
    }
}

/// Nothing, as clients write it: an empty text stands in forms that were not filled in.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

impl Keys {
    /// Takes the keys out of `credentials`, and what they say their provider is.
    pub(super) fn take(credentials: &mut Map<String, Value>) -> Result<(Self, Option<Provider>), Wrong> {
        let mut own = Map::new();
        let names: Vec<String> = credentials.keys().cloned().collect();
        for name in names {
            if !OTHERS.contains(&fold(&name).as_str()) {
                own.extend(credentials.remove(&name).map(|value| (name, value)));
            }
        }
        let mut keys = Self::default();
        let mut discriminator = None;
        for members in [Some(Value::Object(own)), credentials.remove("keys")].into_iter().flatten() {
            let mut members = Confidential::new(members);
            let members = match members.expose_mut() {
                Value::Null => continue,
                Value::Object(members) => std::mem::take(members),
                _ => return Err(Wrong::at("keys", "an object, such as { \"accessKey\": …, \"secretKey\": … }")),
            };
            for (name, value) in members {
                let folded = fold(&name);
                if matches!(folded.as_str(), "discriminator" | "provider") {
                    discriminator = Some(value);
                } else if !is_nothing(&value) {
                    keys.given = true;
                    keys.members.insert(folded, Confidential::new(value));
                }
            }
        }
        let discriminator = match discriminator {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if name.is_empty() => None,
            Some(Value::String(name)) => {
                Some(Provider::parse(&name).ok_or_else(|| Wrong::at("keys.discriminator", unknown()))?)
            }
            Some(_) => return Err(Wrong::at("keys.discriminator", "text: the name of a provider")),
        };
        Ok((keys, discriminator))
    }

    /// Whether any was given that a change could be about.
    pub(super) fn are_given(&self, provider: Provider) -> bool {
        // What is shown of an SSH key follows from the key, and clients send back what they were shown.
        if provider == Provider::Ssh { self.give_a_secret(provider) } else { self.given }
    }

    /// Whether a secret was given.
    pub(super) fn give_a_secret(&self, provider: Provider) -> bool {
        let secret = |name: &String| provider.fields().iter().any(|field| field.secret && field.is_called(name));
        self.given && self.members.keys().any(secret)
    }

    /// Adds what is stored of the keys that were not given: public ones as they are, secret ones as what they are sealed
    /// under, so that a client changes one without sending all.
    pub(super) fn complete(&mut self, provider: Provider, settings: &Value, kept: &Map<String, Value>) {
        // A passphrase belongs to its key: neither is of use with another's.
        let together = provider == Provider::Ssh && self.give_a_secret(provider);
        for field in provider.fields().iter().filter(|_| !together) {
            let given = self.members.keys().any(|name| field.is_called(name));
            if given {
                continue;
            }
            if let Some((path, value)) = field.find(settings) {
                let value = if is_sealed(value) { json!({ "sealed": path }) } else { value.clone() };
                self.members.insert(fold(field.name), Confidential::new(value));
            }
        }
        for name in provider.kept().iter().filter(|_| !together) {
            if let Some(value) = kept.get(*name) {
                self.members.entry(fold(name)).or_insert_with(|| Confidential::new(value.clone()));
            }
        }
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(&fold(name))
    }

    /// Takes a key away, whatever it holds.
    pub(super) fn remove(&mut self, name: &str) {
        self.members.remove(&fold(name));
    }

    /// Takes a key that may be shown.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.members.remove(&fold(name)) else { return Ok(None) };
        match value.expose() {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(number) => Ok(Some(number.to_string())),
            _ => Err(Wrong::at(format!("keys.{name}"), "text")),
        }
    }

    /// Takes a key that says yes or no.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Wrong> {
        let Some(value) = self.members.remove(&fold(name)) else { return Ok(None) };
        match value.expose() {
            Value::Bool(flag) => Ok(Some(*flag)),
            Value::String(text) if text == "true" || text == "false" => Ok(Some(text == "true")),
            _ => Err(Wrong::at(format!("keys.{name}"), "true or false")),
        }
    }

    /// Takes the first of these that is there: a text, or a reference to a secret store or to what is stored already.
    pub(super) fn secret(&mut self, names: &[&str]) -> Result<Option<Confidential>, Wrong> {
        for name in names {
            let Some(value) = self.members.remove(&fold(name)) else { continue };
            if !matches!(value.expose(), Value::String(_) | Value::Object(_)) {
                return Err(Wrong::at(format!("keys.{name}"), "text"));
            }
            return Ok(Some(value));
        }
        Ok(None)
    }
}

/// Whether this stands for a secret that is stored.
pub(super) fn is_sealed(value: &Value) -> bool {
    value.get("sealed").is_some()
}

/// What to say of a provider that there is not.
pub(super) fn unknown() -> String {
    let names: Vec<&str> = Provider::ALL.iter().map(|provider| provider.name()).collect();
    format!("one of {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(value: Value) -> Result<(Keys, Option<Provider>), Wrong> {
        let Value::Object(mut members) = value else { panic!("an object") };
        Keys::take(&mut members)
    }

    #[test]
    fn keys_are_found_where_each_generation_puts_them() {
        for body in [
            json!({"name": "a", "provider": "gitlab", "username": "u", "access_token": "t"}),
            json!({"name": "a", "keys": {"username": "u", "accessToken": "t", "password": ""}}),
            json!({"name": "a", "keys": {"provider": "gitlab", "username": "u", "ACCESS-TOKEN": "t"}}),
        ] {
            let (mut keys, _) = take(body).unwrap();
            assert_eq!(keys.text("username").unwrap().as_deref(), Some("u"));
            assert_eq!(keys.secret(&["password", "accessToken"]).unwrap(), Some(Confidential::new(json!("t"))));
        }
    }

    #[test]
    fn what_is_no_key_is_left() {
        let Value::Object(mut members) = json!({"name": "a", "description": null, "baseUrl": "x", "keys": null}) else {
            panic!("an object")
        };
        let (keys, provider) = Keys::take(&mut members).unwrap();
        assert!(!keys.are_given(Provider::Github) && provider.is_none());
        assert_eq!(members.len(), 3);
    }

    #[test]
    fn a_discriminator_is_a_provider_and_keys_are_an_object() {
        assert_eq!(take(json!({"keys": {"discriminator": "container_reg"}})).unwrap().1, Some(Provider::ContainerReg));
        for body in [
            json!({"keys": {"discriminator": "canary"}}),
            json!({"keys": {"discriminator": 1}}),
            json!({"keys": "canary"}),
        ] {
            let error = take(body).unwrap_err();
            assert!(!error.message.contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn debug_shows_names_alone() {
        let (keys, _) = take(json!({"keys": {"password": "canary"}})).unwrap();
        assert_eq!(format!("{keys:?}"), r#"{"password"}"#);
    }
}
