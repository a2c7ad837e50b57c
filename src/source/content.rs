//! What a store gave: one text, or several fields.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::{Lifetime, Secret, StoreRef, Unavailable};

/// A secret as its store keeps it. `Debug` shows the names of its fields.
#[derive(Clone)]
pub enum Content {
    /// One text; a field is a member of it when it is a JSON object.
    Whole(Secret),
    /// Several fields.
    Fields(BTreeMap<String, Secret>),
}

impl Content {
    /// The members of a JSON object; those that are no text as JSON.
    pub(super) fn of(members: Map<String, Value>) -> Self {
        Self::Fields(members.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
    }

    /// One field; without a name the whole, the only field, or the one called `value`.
    ///
    /// # Errors
    /// What there is instead.
    pub(super) fn field(&self, name: Option<&str>) -> Result<Secret, String> {
        match (self, name) {
            (Self::Whole(whole), None) => Ok(whole.clone()),
            (Self::Whole(whole), Some(name)) => match serde_json::from_slice(whole.expose()) {
                Ok(Value::Object(members)) => Self::of(members).field(Some(name)),
                _ => Err(format!("it is no JSON object, so it has no field {name}")),
            },
            (Self::Fields(fields), Some(name)) => {
                fields.get(name).cloned().ok_or_else(|| format!("there is no field {name}; {}", has(fields)))
            }
            (Self::Fields(fields), None) => match (fields.len(), fields.get("value")) {
                (_, Some(value)) => Ok(value.clone()),
                (1, None) => Ok(fields.values().next().cloned().unwrap_or_else(|| Secret::new(""))),
                _ => Err(format!("name one of its fields as `field`; {}", has(fields))),
            },
        }
    }
}

fn has(fields: &BTreeMap<String, Secret>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) }
}

fn text(value: Value) -> Option<Secret> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Secret::new(text)),
        other => Some(Secret::new(other.to_string())),
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(_) => f.write_str("Whole"),
            Self::Fields(fields) => write!(f, "Fields({:?})", fields.keys()),
        }
    }
}

/// A secret that was read, and for how long it is good.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The secret.
    pub content: Arc<Content>,
    /// From now on.
    pub lifetime: Lifetime,
}

impl Reading {
    /// What a reference means of it.
    ///
    /// # Errors
    /// When there is no such field.
    pub fn field(&self, reference: &StoreRef) -> Result<Secret, Unavailable> {
        self.content.field(reference.field.as_deref()).map_err(|why| Unavailable(format!("{reference}: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Content {
        let Value::Object(members) = value else { panic!("an object") };
        Content::of(members)
    }

    fn text(content: &Content, name: Option<&str>) -> Result<String, String> {
        content.field(name).map(|secret| secret.expose_str().unwrap().to_owned())
    }

    #[test]
    fn a_field_is_named_or_is_the_only_one_or_is_called_value() {
        let one = fields(json!({"password": "p"}));
        assert_eq!(text(&one, None).unwrap(), "p");
        let two = fields(json!({"username": "u", "password": "p", "port": 5432, "gone": null, "more": {"a": [1]}}));
        assert_eq!(text(&two, Some("password")).unwrap(), "p");
        assert_eq!(text(&two, Some("port")).unwrap(), "5432");
        assert_eq!(text(&two, Some("more")).unwrap(), "{\"a\":[1]}");
        assert_eq!(
            text(&two, None).unwrap_err(),
            "name one of its fields as `field`; it has more, password, port, username"
        );
        assert!(text(&two, Some("gone")).is_err());
        assert_eq!(text(&fields(json!({"value": "v", "other": "o"})), None).unwrap(), "v");
    }

    #[test]
    fn a_text_that_is_json_has_fields_and_another_has_none() {
        let whole = Content::Whole(Secret::new("{\"username\":\"u\"}"));
        assert_eq!(text(&whole, Some("username")).unwrap(), "u");
        assert_eq!(text(&whole, None).unwrap(), "{\"username\":\"u\"}");
        let plain = Content::Whole(Secret::new("hunter2"));
        let error = text(&plain, Some("username")).unwrap_err();
        assert!(error.contains("no JSON object") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{plain:?}{whole:?}").contains("hunter2"));
    }
}
