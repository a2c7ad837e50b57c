//! Canary secrets in every scheme: planted, used, refused, reloaded, and found in no log, error, answer or page.

use crate::support::{Config, Origin, Proxy, Root, raw};

/// Every vector of every scheme that signs something, as a credential of its own.
fn credentials() -> (String, String, Vec<String>, Vec<(String, String)>) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let (mut credentials, mut bindings, mut paths, mut variables) =
        (String::new(), String::new(), Vec::new(), Vec::new());
    for kind in countersign::scheme::KINDS {
        for file in std::fs::read_dir(root.join(kind.name)).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            for (index, vector) in
                vectors.iter().enumerate().filter(|(_, vector)| vector["expect"]["refused"].is_null())
            {
                let id = format!("{}-{index}", kind.name);
                let mut settings = vector["credential"].to_string();
                for name in vector["secrets"].as_object().unwrap().keys() {
                    let variable = format!("{}_{index}_{name}", kind.name).to_uppercase();
                    settings =
                        settings.replace(&format!("{{\"env\":\"{name}\"}}"), &format!("{{\"env\":\"{variable}\"}}"));
                    variables.push((variable.clone(), format!("k4n4ry-{}", variable.to_lowercase())));
                }
                let common = format!("{{\"id\":\"{id}\",\"scheme\":\"{}\",\"hosts\":[\"api.test\"],", kind.name);
                credentials.push_str(&format!("  - {}\n", settings.replacen('{', &common, 1)));
                bindings.push_str(&format!(
                    "  - {{ credential: {id}, hosts: [api.test], paths: [/{id}], allow_cleartext: true }}\n"
                ));
                paths.push(id);
            }
        }
    }
    (credentials, bindings, paths, variables)
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_of_every_scheme_reach_the_upstream_and_nothing_else() {
    let root = Root::new();
    let origin = Origin::http().await;
    let (credentials, bindings, paths, variables) = credentials();
    let listeners = "  forward:\n    - address: 127.0.0.1:0\n  reverse:\n    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /, upstream: \"http://api.test\" }\n";
    let config = Config::new()
        .listeners(listeners)
        .credentials(&credentials)
        .bindings(&bindings)
        .resolve("api.test:80", origin.address)
        .rest("admin: { address: 127.0.0.1:0 }\nlog: { level: trace, requests: true }\n");
    let environment: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let proxy = Proxy::start_with(&config.text(), &environment, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    let mut shown = String::new();
    for id in &paths {
        for (request, status) in [
            (format!("GET http://api.test/{id}?q=1"), 200),
            (format!("TRACE http://api.test/{id}"), 400),
            (format!("GET http://api.test/{id}/%2e%2e"), 400),
            (format!("GET https://api.test/{id}"), 502),
        ] {
            let answer = raw(&proxy.forward(), format!("{request} HTTP/1.1\r\nHost: api.test\r\n\r\n").as_bytes());
            assert_eq!(answer.status(), status, "{request}: {}", answer.text);
            shown.push_str(&answer.text);
        }
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), paths.len());
    for (seen, id) in seen.iter().zip(&paths) {
        let all = format!("{} {:?}", seen.target, seen.headers);
        let encoded = all.contains("k4n4ry") || all.contains("Basic ");
        assert!(encoded, "{id} signed nothing: {all}");
    }
    for page in ["/livez", "/readyz"] {
        shown.push_str(
            &raw(&proxy.address("admin", 0), format!("GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).text,
        );
    }
    let path = proxy.config.clone();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("credentials:", "creds:")).unwrap();
    proxy.wait_log(|log| log.contains("the old one stays"));
    shown.push_str(&proxy.stop());
    for (name, value) in &variables {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        assert!(!shown.contains(value.as_str()), "{name} was shown");
        // Behind any user name, a password stands at one of three offsets of base64's groups.
        for offset in 0..3 {
            let padded = format!("{}{value}", "x".repeat(offset));
            let encoded = engine.encode(padded);
            let inner = &encoded[4..encoded.len() - 4];
            assert!(!shown.contains(inner), "{name} was shown in base64");
        }
    }
    assert!(shown.contains("countersign::request"), "the log was looked at");
}
