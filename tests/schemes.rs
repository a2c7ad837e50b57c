//! Walks every scheme there is: each has vectors and a recipe, signs what its vectors say, and shows its secrets nowhere
//! but in the request. The whole way through a running proxy is in `e2e/secrets.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and drives the real outside"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use countersign::base::request::BodyDigest;
use countersign::base::{BodyNeed, Destination, RequestView, Secret};
use countersign::base::{SecretRef, Secrets};
use countersign::scheme::{KINDS, Scheme};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    source: String,
    credential: Value,
    secrets: BTreeMap<String, String>,
    request: Request,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Expect {
    Refused { refused: String },
    Signed { headers: Vec<(String, String)>, target: String },
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn vectors(kind: &str) -> Vec<Vector> {
    let folder = root().join("tests/vectors").join(kind);
    let Ok(files) = fs::read_dir(&folder) else { return Vec::new() };
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .flat_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            serde_json::from_str::<Vec<Vector>>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

fn secrets(vector: &Vector) -> Secrets {
    let load = |(name, value): (&String, &String)| (SecretRef::Env { env: name.clone() }, Secret::new(value.as_str()));
    vector.secrets.iter().map(load).collect()
}

fn build(kind: &countersign::scheme::Kind, vector: &Vector) -> Result<Arc<dyn Scheme>, String> {
    let draft =
        (kind.parse)(vector.credential.clone()).map_err(|error| format!("{}: {}", error.path, error.message))?;
    draft.build(&secrets(vector)).map_err(|error| error.0)
}

/// The head as it would go out.
fn signed(scheme: &dyn Scheme, request: &Request) -> Result<http::request::Parts, String> {
    let mut builder = http::Request::builder().method(request.method.as_str()).uri(&request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let mut parts = builder.body(()).unwrap().into_parts().0;
    let destination = Destination::from_absolute(&parts.uri).unwrap();
    // The pipeline removes the caller's copies in every spelling; here the plain ones and the underscored.
    for owned in scheme.owned_headers() {
        let gone: Vec<_> =
            parts.headers.keys().filter(|name| name.as_str().replace('_', "-") == owned.as_str()).cloned().collect();
        gone.iter().for_each(|name| drop(parts.headers.remove(name)));
    }
    let target = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let view = |body| RequestView {
        method: &parts.method,
        path_and_query: &target,
        headers: &parts.headers,
        destination: &destination,
        body,
    };
    let body = match scheme.body_need(&view(None)) {
        BodyNeed::None => None,
        BodyNeed::Sha256 => Some(BodyDigest { sha256: [0; 32], length: 0 }),
    };
    let mutations = scheme.authorize(&view(body), SystemTime::UNIX_EPOCH).map_err(|refusal| refusal.to_string())?;
    mutations.apply(&mut parts).map_err(|refusal| refusal.to_string())?;
    Ok(parts)
}

#[test]
fn every_scheme_has_a_sentence_vectors_and_a_recipe() {
    let recipes: Vec<String> = fs::read_dir(root().join("config/recipes"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let mut names = Vec::new();
    for kind in KINDS {
        assert!(kind.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{}", kind.name);
        assert!(kind.about.len() > 10, "{} has no description", kind.name);
        assert!(!names.contains(&kind.name), "{} twice", kind.name);
        names.push(kind.name);
        let vectors = vectors(kind.name);
        assert!(vectors.iter().any(|v| matches!(v.expect, Expect::Signed { .. })), "{} has no vector", kind.name);
        assert!(vectors.iter().any(|v| matches!(v.expect, Expect::Refused { .. })), "{} has no negative", kind.name);
        assert!(recipes.iter().any(|text| text.contains(&format!("scheme: {}", kind.name))), "{}", kind.name);
        assert!(root().join("src/scheme").join(format!("{}.rs", kind.name)).exists(), "{} is one file", kind.name);
    }
}

#[test]
fn every_vector_is_signed_as_its_source_says() {
    for kind in KINDS {
        for vector in vectors(kind.name) {
            let what = format!("{}: {}", kind.name, vector.name);
            assert!(vector.source.starts_with("http"), "{what} names no source");
            match (&vector.expect, build(kind, &vector)) {
                (Expect::Refused { refused }, Err(why)) => assert!(why.contains(refused), "{what}: {why}"),
                (Expect::Refused { .. }, Ok(_)) => panic!("{what} was not refused"),
                (Expect::Signed { .. }, Err(why)) => panic!("{what}: {why}"),
                (Expect::Signed { headers, target }, Ok(scheme)) => {
                    let parts = signed(&*scheme, &vector.request).unwrap();
                    let sent = |value: &http::HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
                    let mut got: Vec<_> =
                        parts.headers.iter().map(|(name, value)| (name.to_string(), sent(value))).collect();
                    got.sort();
                    let mut expected = headers.clone();
                    expected.sort();
                    assert_eq!(got, expected, "{what}");
                    assert_eq!(parts.uri.path_and_query().unwrap().as_str(), target, "{what}");
                }
            }
        }
    }
}

#[test]
fn no_secret_shows_in_any_debug_or_error_of_any_scheme() {
    let canary = "k4n4ryk4n4ry";
    for kind in KINDS {
        for mut vector in vectors(kind.name) {
            let positive = matches!(vector.expect, Expect::Signed { .. });
            for (index, value) in vector.secrets.values_mut().enumerate() {
                // A refused vector keeps what makes it refused, the canary before it.
                *value = if positive { format!("{canary}{index}") } else { format!("{canary}{value}") };
            }
            let draft = (kind.parse)(vector.credential.clone()).unwrap();
            let mut shown = format!("{draft:?} {:?}", secrets(&vector));
            match draft.build(&secrets(&vector)) {
                Err(error) => shown.push_str(&format!("{error} {error:?}")),
                Ok(scheme) => {
                    shown.push_str(&format!("{scheme:?} {scheme:#?}"));
                    if let Ok(parts) = signed(&*scheme, &vector.request) {
                        // Header values that carry a secret are marked, so that nothing that prints a request shows them.
                        shown.push_str(&format!("{:?}", parts.headers));
                    }
                }
            }
            assert!(!shown.contains(canary), "{}: {} shows its secret: {shown}", kind.name, vector.name);
            let encoded = base64_of(canary);
            assert!(!shown.contains(&encoded), "{}: {} shows its secret", kind.name, vector.name);
        }
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(&text.as_bytes()[..9])
}

#[test]
fn a_secret_written_into_the_settings_is_refused_by_every_scheme_without_being_repeated() {
    for kind in KINDS {
        for vector in vectors(kind.name) {
            let mut settings = vector.credential.clone();
            let mut planted = 0;
            plant(&mut settings, &mut planted);
            assert!(planted > 0, "{} takes no secret?", kind.name);
            let error = (kind.parse)(settings).err();
            // A public field takes text, so a scheme whose references are all public would accept; none is.
            let error = error.unwrap_or_else(|| panic!("{} took a secret as text", kind.name));
            assert!(!error.message.contains("hunter2"), "{}: {}", kind.name, error.message);
        }
    }
}

fn plant(value: &mut Value, planted: &mut usize) {
    match value {
        Value::Object(map) if map.contains_key("env") => {
            *value = Value::from("hunter2");
            *planted += 1;
        }
        Value::Object(map) => map.values_mut().for_each(|inner| plant(inner, planted)),
        Value::Array(items) => items.iter_mut().for_each(|inner| plant(inner, planted)),
        _ => {}
    }
}

#[test]
fn names_are_found_with_hyphen_or_underscore() {
    assert_eq!(countersign::scheme::find("api-key").unwrap().name, "api_key");
    assert!(countersign::scheme::find("no_such_scheme").is_none());
    assert!(Path::new(&root().join("tests/vectors")).is_dir());
}
