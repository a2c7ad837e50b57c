//! The OpenAPI document: what the handlers say of themselves, and what is common to all of them.

use serde_json::{Map, Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use super::web::Surface;

/// What it begins with.
pub(super) fn head() -> OpenApi {
    let info =
        InfoBuilder::new().title("Countersign management API").version(env!("CARGO_PKG_VERSION")).description(Some(
            "Accounts, credentials, bindings and callers; with the ways in of Flexera's and Tower's clients. No answer \
             holds a secret, tokens that are made by a request and shown this once excepted.",
        ));
    OpenApiBuilder::new().info(info.build()).build()
}

/// Errors that every handler of a surface may answer with.
const ALWAYS: [&str; 7] = ["400", "401", "403", "422", "429", "500", "503"];
/// Where the path names something.
const NAMING: &[&str] = &["404"];
/// Where something is changed.
const CHANGING: &[&str] = &["404", "409", "412", "413"];

/// The whole, with every error.
pub(super) fn finished(openapi: &OpenApi) -> Value {
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A management token, or a token of the issuer"},
    });
    document["security"] = json!([{"bearer": []}]);
    let schemas = &mut document["components"]["schemas"];
    schemas["Problem"] = problem();
    schemas["GoaError"] = goa();
    schemas["TowerError"] = json!({
        "type": "object", "required": ["message"], "properties": {"message": {"type": "string"}},
    });
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            let operations = item.as_object_mut().into_iter().flatten();
            let methods = ["get", "put", "post", "patch", "delete"];
            for (method, operation) in operations.filter(|(method, _)| methods.contains(&method.as_str())) {
                complete(path, method, operation);
            }
        }
    }
    document
}

fn complete(path: &str, method: &str, operation: &mut Value) {
    let mut errors = ALWAYS.to_vec();
    if path.contains('{') {
        errors.extend(NAMING);
    }
    if method != "get" {
        errors.extend(CHANGING);
    }
    exemplify(operation);
    // Looking for what is not there leaves a null, which is no list of parameters.
    if let Some(members) = operation.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    let surface = Surface::of(path);
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for error in errors {
        responses.entry(error).or_insert_with(|| described(surface, error));
    }
    for (status, response) in responses {
        // OpenAPI wants a word for each answer.
        let code = status.parse().ok().and_then(|code| axum::http::StatusCode::from_u16(code).ok());
        let word = code.and_then(|code| code.canonical_reason()).unwrap_or("An answer");
        if response["description"].as_str().is_none_or(str::is_empty) {
            response["description"] = word.into();
        }
        let headers = response["headers"].take();
        let mut headers = headers.as_object().cloned().unwrap_or_else(Map::new);
        headers.insert("x-ratelimit-remaining".into(), remaining());
        response["headers"] = Value::Object(headers);
    }
}

/// What stands in paths, by the name of the place.
const EXAMPLES: [(&str, &str); 7] = [
    ("account", "default"),
    ("id", "jira"),
    ("name", "runner"),
    ("number", "1234"),
    ("scheme", "basic"),
    ("scope", "projects"),
    ("filter", "(id co 'jira' and scheme eq 'basic')"),
];

fn exemplify(operation: &mut Value) {
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        let known = EXAMPLES.iter().find(|(name, _)| parameter["name"] == *name);
        if let Some((_, example)) = known {
            let number = example.parse::<u64>().map(Value::from);
            parameter["example"] = number.unwrap_or_else(|_| json!(example));
        }
    }
}

fn remaining() -> Value {
    json!({"description": "How many more requests there may be at once", "schema": {"type": "integer"}, "required": false})
}

fn described(surface: Surface, status: &str) -> Value {
    let status = status.parse().ok().and_then(|status| axum::http::StatusCode::from_u16(status).ok());
    let status = status.unwrap_or_default();
    let (kind, schema) = match surface {
        Surface::Native => ("application/problem+json", "Problem"),
        Surface::Flexera => ("application/vnd.goa.error", "GoaError"),
        Surface::Tower => ("application/json", "TowerError"),
    };
    let mut response = json!({"description": status.canonical_reason().unwrap_or_default()});
    if surface != Surface::Tower || status != axum::http::StatusCode::FORBIDDEN {
        response["content"] = json!({kind: {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    }
    let header = |about: &str, kind: &str| json!({"description": about, "schema": {"type": kind}});
    match status.as_u16() {
        401 => response["headers"] = json!({"www-authenticate": header("How to prove oneself", "string")}),
        429 | 503 => response["headers"] = json!({"retry-after": header("Seconds", "integer")}),
        _ => {}
    }
    response
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What to change"},
            "code": {"type": "string"},
            "path": {"type": "string", "description": "The key that it is about, as the configuration file spells it"},
        },
    })
}

fn goa() -> Value {
    json!({
        "type": "object",
        "required": ["name", "id", "message", "temporary", "timeout", "fault"],
        "properties": {
            "name": {"type": "string"},
            "id": {"type": "string"},
            "message": {"type": "string"},
            "temporary": {"type": "boolean"},
            "timeout": {"type": "boolean"},
            "fault": {"type": "boolean"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Api;

    #[test]
    fn the_document_is_openapi_3_1_and_every_operation_tells_its_errors_and_has_a_name_of_its_own() {
        let document = Api::openapi();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let mut names = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                names.push(operation["operationId"].as_str().unwrap_or_default().to_owned());
                for status in ["400", "401", "403", "429", "500", "503"] {
                    assert!(operation["responses"][status].is_object(), "{method} {path} {status}");
                }
                assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count >= 30, "{count}");
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = Api::openapi();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
