//! Flexera's documents and ours: what a client sends becomes the keys of a scheme, and back.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::json::{Confidential, camel, snake};
use crate::api::{Credential, time};

/// What every scheme's document has, and the keys of the scheme.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) name: Option<String>,
    /// `Some(None)` takes it away.
    pub(super) description: Option<Option<String>>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) hosts: Option<Vec<String>>,
    pub(super) enabled: Option<bool>,
    pub(super) expires_at: Option<Option<SystemTime>>,
    pub(super) settings: Confidential,
}

/// Members of an answer that a client may send back; they are ours to say.
const OURS: [&str; 11] = [
    "id",
    "kind",
    "ref",
    "href",
    "scheme",
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "org_id",
    "project_id",
];

/// Where oauth2's parameters stand, by the grant.
const PARAMS: [(&str, &str); 3] = [
    ("client_credentials", "client_credentials_params"),
    ("jwt_bearer", "jwt_bearer_params"),
    ("refresh_token", "refresh_token_params"),
];

/// Reads a document of a client: camelCase or snake_case, texts plain or as `{ data, type: "plain" }`.
pub(super) fn incoming(scheme: &str, document: Confidential) -> Result<Incoming, ApiError> {
    let mut value = snake(document.take());
    plain(&mut value, "")?;
    let mut document = Confidential::new(value);
    let Value::Object(map) = document.expose_mut() else {
        return Err(ApiError::bad_request("a JSON object is expected"));
    };
    OURS.iter().for_each(|key| drop(map.remove(*key)));
    let mut incoming = Incoming {
        name: text(map, "name")?.flatten(),
        description: text(map, "description")?,
        tags: map.remove("tags").map(tags).transpose()?,
        hosts: map.remove("hosts").map(hosts).transpose()?,
        enabled: flag(map)?,
        expires_at: None,
        settings: Confidential::default(),
    };
    incoming.expires_at = match text(map, "expires_at")? {
        None => None,
        Some(None) => Some(None),
        Some(Some(at)) => {
            let wrong = || ApiError::unprocessable("expires_at", "a time is written 2026-01-31T12:00:00Z");
            Some(Some(time::parse(&at).ok_or_else(wrong)?))
        }
    };
    if scheme == "oauth2" {
        flatten(map)?;
    }
    if scheme == "aws_sts" {
        // As one tool spells them.
        for (short, long) in [("rolearn", "role_arn"), ("rolesessionname", "role_session_name")] {
            if let Some(value) = map.remove(short) {
                map.entry(long).or_insert(value);
            }
        }
    }
    incoming.settings = document;
    Ok(incoming)
}

fn text(map: &mut Map<String, Value>, key: &str) -> Result<Option<Option<String>>, ApiError> {
    match map.remove(key) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(text)) => Ok(Some(Some(text))),
        Some(_) => Err(ApiError::unprocessable(key, "text is expected")),
    }
}

fn flag(map: &mut Map<String, Value>) -> Result<Option<bool>, ApiError> {
    match map.remove("enabled") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(ApiError::unprocessable("enabled", "true or false is expected")),
    }
}

fn hosts(value: Value) -> Result<Vec<String>, ApiError> {
    match value {
        Value::Null => Ok(Vec::new()),
        value => {
            serde_json::from_value(value).map_err(|_| ApiError::unprocessable("hosts", "a list of texts is expected"))
        }
    }
}

/// `[{ key, value }]`, `["key=value"]` or `{ key: value }`.
fn tags(value: Value) -> Result<BTreeMap<String, String>, ApiError> {
    let wrong = || ApiError::unprocessable("tags", "a list of { key, value } is expected");
    let pair = |tag: Value| match tag {
        Value::String(text) => text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())),
        Value::Object(tag) if tag.len() == 2 => match (tag.get("key"), tag.get("value")) {
            (Some(Value::String(key)), Some(Value::String(value))) => Some((key.clone(), value.clone())),
            _ => None,
        },
        _ => None,
    };
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Array(tags) => {
            let mut found = BTreeMap::new();
            for tag in tags {
                let (key, value) = pair(tag).ok_or_else(wrong)?;
                if found.insert(key.clone(), value).is_some() {
                    return Err(ApiError::unprocessable("tags", format!("the key {key} is there twice")));
                }
            }
            Ok(found)
        }
        value => serde_json::from_value(value).map_err(|_| wrong()),
    }
}

/// Takes texts out of `{ data, type: "plain" }`; also where the two were swapped, as one published example has them.
fn plain(value: &mut Value, path: &str) -> Result<(), ApiError> {
    match value {
        Value::Object(map) if map.len() == 2 => {
            let data = match (map.get("data"), map.get("type")) {
                (Some(Value::String(_)), Some(Value::String(kind))) if kind == "plain" => Some("data"),
                (Some(Value::String(data)), Some(Value::String(_))) if data == "plain" => Some("type"),
                (Some(Value::String(_)), Some(Value::String(_))) => {
                    return Err(ApiError::unprocessable(path, "`type` is \"plain\" where a value is in `data`"));
                }
                _ => None,
            };
            match data {
                Some(key) => {
                    *value = map.remove(key).unwrap_or_default();
                    Ok(())
                }
                None => members(value, path),
            }
        }
        other => members(other, path),
    }
}

fn members(value: &mut Value, path: &str) -> Result<(), ApiError> {
    match value {
        Value::Object(map) => map.iter_mut().try_for_each(|(key, value)| {
            plain(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") })
        }),
        Value::Array(items) => {
            items.iter_mut().enumerate().try_for_each(|(index, value)| plain(value, &format!("{path}[{index}]")))
        }
        _ => Ok(()),
    }
}

/// oauth2's nested parameters beside its own keys, where ours stand.
fn flatten(map: &mut Map<String, Value>) -> Result<(), ApiError> {
    for (_, params) in PARAMS {
        let Some(nested) = map.remove(params) else { continue };
        let nested = match nested {
            Value::Null => continue,
            Value::Object(nested) => nested,
            _ => return Err(ApiError::unprocessable(params, "an object is expected")),
        };
        for (key, value) in nested {
            if map.contains_key(&key) {
                return Err(ApiError::unprocessable(format!("{params}.{key}"), "it is there twice"));
            }
            map.insert(key, value);
        }
    }
    if let Some(Value::Object(assertion)) = map.get_mut("client_assertion")
        && let Some(Value::Object(nested)) = assertion.remove("jwt_bearer_params")
    {
        assertion.extend(nested);
        no_audience(assertion);
    }
    no_audience(map);
    Ok(())
}

/// An empty `aud` is none: the token endpoint.
fn no_audience(map: &mut Map<String, Value>) {
    if map.get("aud").and_then(Value::as_str) == Some("") {
        map.insert("aud".into(), Value::Null);
    }
}

/// Settings of a new credential: what is null is absent.
pub(super) fn without_nulls(mut settings: Confidential) -> Confidential {
    fn drop_nulls(value: &mut Value) {
        if let Value::Object(map) = value {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
    }
    drop_nulls(settings.expose_mut());
    settings
}

/// The scheme's keys as cred/v2 shows them: camelCase, defaults said, oauth2's parameters in their place.
pub(super) fn outgoing(credential: &Credential) -> Map<String, Value> {
    let Value::Object(mut shown) = credential.shown() else { return Map::new() };
    let mut default = |key: &str, value: Value| {
        shown.entry(key).or_insert(value);
    };
    match credential.scheme.as_str() {
        "api_key" => {
            default("location", json!("header"));
            if credential.settings.get("location").is_none_or(|location| location == "header") {
                default("field", json!("Authorization"));
                default("type", json!("Bearer"));
            }
        }
        "aws" | "aws_sts" => {
            default("region", json!("inferred"));
            default("service", json!("inferred"));
            default("version", json!(4));
            if credential.scheme == "aws_sts" {
                default("max_minutes", json!(60));
            }
        }
        "oauth2" => shown = nested(shown),
        _ => {}
    }
    match camel(Value::Object(shown)) {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

fn nested(flat: Map<String, Value>) -> Map<String, Value> {
    let grant = flat.get("grant_type").and_then(Value::as_str).unwrap_or_default();
    let params = PARAMS.iter().find(|(name, _)| *name == grant).map_or("params", |(_, params)| params);
    let (mut own, mut inner) = (Map::new(), Map::new());
    for (key, value) in flat {
        match (key.as_str(), value) {
            ("grant_type" | "token_url", value) => drop(own.insert(key, value)),
            ("scopes", Value::String(scope)) => drop(inner.insert(key, json!([scope]))),
            ("client_assertion", Value::Object(mut assertion)) => {
                let kind = assertion.remove("assertion_type").unwrap_or_else(|| json!("jwt_bearer"));
                inner.insert(key, json!({"assertion_type": kind, "jwt_bearer_params": assertion}));
            }
            (_, value) => drop(inner.insert(key, value)),
        }
    }
    own.insert(params.to_owned(), Value::Object(inner));
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(scheme: &str, document: Value) -> Value {
        without_nulls(incoming(scheme, Confidential::new(document)).unwrap().settings).take()
    }

    #[test]
    fn both_spellings_and_the_wrapper_are_read() {
        let expected = json!({"private_key": "pem", "tenancy_ocid": "ocid1.tenancy.x", "fingerprint": "f"});
        for document in [
            json!({"privateKey": "pem", "tenancyOcid": "ocid1.tenancy.x", "fingerprint": "f"}),
            json!({"private_key": "pem", "tenancy_ocid": "ocid1.tenancy.x", "fingerprint": "f", "kind": "x", "id": "y"}),
            json!({"privateKey": {"data": "pem", "type": "plain"}, "fingerprint": {"type": "plain", "data": "f"},
                "tenancyOcid": {"data": "plain", "type": "ocid1.tenancy.x"}}),
        ] {
            assert_eq!(settings("oracle", document), expected);
        }
        let wrapped = json!({"key": {"data": "x", "type": "encrypted"}});
        let error = incoming("api_key", Confidential::new(wrapped)).unwrap_err();
        assert_eq!(error.path.as_deref(), Some("key"));
    }

    #[test]
    fn a_type_that_is_a_prefix_is_no_wrapper() {
        let document = json!({"key": "k", "type": "Token", "location": "header"});
        assert_eq!(settings("api_key", document.clone()), document);
    }

    #[test]
    fn the_parameters_of_oauth2_go_flat_and_come_back_nested() {
        let document = json!({
            "grantType": "client_credentials", "tokenUrl": "https://idp.test/t",
            "clientCredentialsParams": {
                "clientId": "i", "scopes": ["a"], "additionalParams": {"camelCase": "v"},
                "clientAssertion": {"assertionType": "jwt_bearer", "jwtBearerParams": {"iss": "i", "aud": ""}},
            },
        });
        let flat = settings("oauth2", document);
        assert_eq!(
            flat,
            json!({
                "grant_type": "client_credentials", "token_url": "https://idp.test/t", "client_id": "i", "scopes": ["a"],
                "additional_params": {"camelCase": "v"},
                "client_assertion": {"assertion_type": "jwt_bearer", "iss": "i"},
            })
        );
        let Value::Object(flat) = flat else { unreachable!() };
        let back = camel(Value::Object(nested(flat)));
        assert_eq!(back["clientCredentialsParams"]["clientAssertion"]["jwtBearerParams"], json!({"iss": "i"}));
        assert_eq!(back["clientCredentialsParams"]["additionalParams"], json!({"camelCase": "v"}));
        let twice = json!({"token": "a", "refreshTokenParams": {"token": "b"}});
        assert!(incoming("oauth2", Confidential::new(twice)).is_err());
    }

    #[test]
    fn tags_come_in_three_forms_and_never_twice() {
        for form in [json!([{"key": "provider", "value": "aws"}]), json!(["provider=aws"]), json!({"provider": "aws"})]
        {
            assert_eq!(tags(form).unwrap(), BTreeMap::from([("provider".into(), "aws".into())]));
        }
        for form in
            [json!("x"), json!(["x"]), json!([{"key": "a"}]), json!([1]), json!({"a": 1}), json!(["a=1", "a=2"])]
        {
            assert!(tags(form.clone()).is_err(), "{form}");
        }
    }
}
