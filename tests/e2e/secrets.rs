//! Canary secrets in every scheme: planted, used, refused, reloaded, and found in no log, error, answer or page.

use std::collections::{HashMap, HashSet};

use crate::support::{Answer, Config, Origin, Proxy, Root, Seen, raw, text};

/// What services with logins of their own answer, by host and path: the exchanges of their vectors.
fn logins() -> HashMap<String, serde_json::Value> {
    let mut answers = HashMap::new();
    for kind in ["apptio", "login"] {
        let file = format!("{}/tests/vectors/{kind}/documented.json", env!("CARGO_MANIFEST_DIR"));
        let vectors: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for vector in vectors.into_iter().filter(|vector| vector["expect"]["refused"].is_null()) {
            let exchanges = match &vector["exchange"] {
                serde_json::Value::Array(several) => several.clone(),
                one => vec![one.clone()],
            };
            for exchange in exchanges {
                answers.insert(exchange["url"].as_str().unwrap().trim_start_matches("https://").to_owned(), exchange);
            }
        }
    }
    answers
}

/// A login's answer with a canary for its token, and an end that is not over.
fn login_answer(exchange: &serde_json::Value, number: usize) -> Answer {
    let canary = |text: &str| {
        let text = text.replace("sessiontoken", &format!("k4n4ry-access-{number}-"));
        text.replace("2023", "2099").replace("170000", "407000")
    };
    let body = &exchange["answer"];
    let mut answer = text(200, &canary(&body.as_str().map_or_else(|| body.to_string(), str::to_owned)));
    for (name, value) in exchange["answer_headers"].as_object().into_iter().flatten() {
        let value = canary(value.as_str().unwrap()).parse().unwrap();
        answer.headers_mut().insert(name.parse::<http::HeaderName>().unwrap(), value);
    }
    answer
}

/// Every vector of every scheme that signs something, as a credential of its own.
#[derive(Default)]
struct Planted {
    credentials: String,
    bindings: String,
    paths: Vec<String>,
    /// Each canary and the variable that holds it.
    variables: Vec<(String, String)>,
    /// Hosts of token endpoints.
    logins: Vec<String>,
    /// What the upstream asks on these paths before it lets anybody in.
    challenges: HashMap<String, Vec<(String, String)>>,
}

fn planted() -> Planted {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let Planted { mut credentials, mut bindings, mut paths, mut variables, mut logins, mut challenges } =
        Planted::default();
    for kind in countersign::scheme::KINDS {
        for file in std::fs::read_dir(root.join(kind.name)).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            for (index, vector) in
                vectors.iter().enumerate().filter(|(_, vector)| vector["expect"]["refused"].is_null())
            {
                let exchanges = match &vector["exchange"] {
                    serde_json::Value::Array(several) => several.clone(),
                    one => vec![one.clone()],
                };
                let urls: Vec<&str> = exchanges.iter().filter_map(|exchange| exchange["url"].as_str()).collect();
                // A metadata service's own address is no name that leads to a server of ours.
                if urls.iter().any(|url| url.starts_with("http://")) {
                    continue;
                }
                let id = format!("{}-{index}", kind.name);
                // A file that a vector names is below the project's folder, where the proxy does not run.
                let project = format!("\"{}/tests/vectors/", env!("CARGO_MANIFEST_DIR"));
                let mut settings = vector["credential"].to_string().replace("\"tests/vectors/", &project);
                let secrets = vector["secrets"].as_object().unwrap();
                // A key must stay a key, and its password the one that opens it; what is encoded must stay decodable, and a
                // document one.
                let real = |secret: &str| secret.contains("PRIVATE KEY") || secret.starts_with('{');
                let real = secrets.values().any(|secret| real(secret.as_str().unwrap()))
                    || settings.contains("shared_secret_encoding");
                for (name, secret) in secrets {
                    let variable = format!("{}_{index}_{name}", kind.name).to_uppercase();
                    settings =
                        settings.replace(&format!("{{\"env\":\"{name}\"}}"), &format!("{{\"env\":\"{variable}\"}}"));
                    let canary = format!("k4n4ry-{}", variable.to_lowercase());
                    variables.push((variable, if real { secret.as_str().unwrap().to_owned() } else { canary }));
                }
                logins.extend(urls.iter().map(|url| url.split('/').nth(2).unwrap().to_owned()));
                let common = format!("{{\"id\":\"{id}\",\"scheme\":\"{}\",\"hosts\":[\"api.test\"],", kind.name);
                credentials.push_str(&format!("  - {}\n", settings.replacen('{', &common, 1)));
                bindings.push_str(&format!(
                    "  - {{ credential: {id}, hosts: [api.test], paths: [/{id}], allow_cleartext: true }}\n"
                ));
                if let Ok(challenge) = serde_json::from_value(vector["challenge"].clone()) {
                    challenges.insert(format!("/{id}"), challenge);
                }
                paths.push(id);
            }
        }
    }
    logins.sort();
    logins.dedup();
    Planted { credentials, bindings, paths, variables, logins, challenges }
}

fn path_of(seen: &Seen) -> &str {
    seen.target.split('?').next().unwrap_or_default()
}

/// Whether a request proves something, and does not only begin a conversation.
fn proves(seen: &Seen) -> bool {
    seen.header("authorization").is_some_and(|value| !value.starts_with("NTLM TlRMTVNTUAABAAAA"))
}

/// A token under each of the names that token services have for it; the ID token ends in a far future.
fn token_answer(number: usize) -> serde_json::Value {
    let token = format!("k4n4ry-access-{number}");
    let identity = format!("e30.eyJleHAiOjQxMDI0NDQ4MDB9.{token}");
    serde_json::json!({
        "access_token": token, "expires_in": 3600, "id_token": identity,
        "accessToken": token, "expireTime": "2099-01-01T00:00:00Z", "token": identity,
    })
}

/// What of a secret must be seen nowhere: of a key, one line of it; of a document, whatever in it is secret.
fn confidential(value: &str) -> Vec<String> {
    let line = |text: &str| text.lines().nth(1).unwrap_or(text).to_owned();
    match serde_json::from_str::<serde_json::Value>(value) {
        Ok(document) if document.is_object() => ["private_key", "client_secret", "refresh_token"]
            .iter()
            .filter_map(|field| document[field].as_str().map(line))
            .collect(),
        _ => vec![line(value)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_of_every_scheme_reach_the_upstream_and_nothing_else() {
    let root = Root::new();
    let Planted { credentials, bindings, paths, mut variables, mut logins, challenges } = planted();
    let conversing: HashSet<String> = challenges.keys().cloned().collect();
    let origin = Origin::http_with(move |seen| {
        let challenge = challenges.get(path_of(seen)).filter(|_| !proves(seen));
        let mut answer = text(if challenge.is_some() { 401 } else { 200 }, "hello from the origin");
        for (name, value) in challenge.into_iter().flatten() {
            answer.headers_mut().append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        answer
    })
    .await;
    let answers = self::logins();
    logins.extend(answers.keys().map(|place| place.split('/').next().unwrap().to_owned()));
    logins.sort();
    logins.dedup();
    let names: Vec<&str> = logins.iter().map(String::as_str).collect();
    // Every other exchange is refused by a provider that repeats what it was sent.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let login = Origin::https_with(&root, &names, &["http/1.1"], move |seen| {
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let form = String::from_utf8_lossy(&seen.body).into_owned();
        let authorization = seen.header("authorization").unwrap_or_default();
        let key = seen.header("x-api-key").unwrap_or_default();
        let description = format!("you sent {form} and {authorization} and {key} to {}", seen.target);
        if let Some(exchange) = answers.get(&format!("{}{}", seen.header("host").unwrap_or_default(), seen.target)) {
            let refusal = serde_json::json!({ "error": "denied", "message": description });
            let granted = number.is_multiple_of(2);
            return if granted { login_answer(exchange, number) } else { text(400, &refusal.to_string()) };
        }
        if form.contains("Action=AssumeRole") {
            return if number.is_multiple_of(2) {
                text(
                    200,
                    &format!(
                        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIASESSION00000{number:04}</AccessKeyId>\
                         <SecretAccessKey>k4n4ry-access-{number}</SecretAccessKey><SessionToken>k4n4ry-session-{number}</SessionToken>\
                         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
                    ),
                )
            } else {
                let description = description.replace(['<', '&'], " ");
                text(403, &format!("<ErrorResponse><Error><Code>AccessDenied</Code><Message>{description}</Message></Error></ErrorResponse>"))
            };
        }
        if number.is_multiple_of(2) {
            text(
                200,
                &token_answer(number).to_string(),
            )
        } else {
            text(400, &serde_json::json!({ "error": "invalid_client", "error_description": description }).to_string())
        }
    })
    .await;
    let listeners = "  forward:\n    - address: 127.0.0.1:0\n  reverse:\n    - address: 127.0.0.1:0\n      routes:\n        - { prefix: /, upstream: \"http://api.test\" }\n";
    let mut config = Config::new();
    for name in &names {
        config = config.resolve(&format!("{name}:443"), login.address);
    }
    let config = config
        .listeners(listeners)
        .credentials(&credentials)
        .bindings(&bindings)
        .resolve("api.test:80", origin.address)
        .rest("admin: { address: 127.0.0.1:0 }\nlog: { level: trace, requests: true }\ntokens: { directory: FOLDER/tokens }\n");
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
            // A client of AWS signs with worthless keys, which tells service and region.
            let signed = "Authorization: AWS4-HMAC-SHA256 Credential=worthless/20260101/us-east-1/s3/aws4_request\r\n";
            let signed = if id.starts_with("aws") { signed } else { "" };
            let head = format!("{request} HTTP/1.1\r\nHost: api.test\r\n{signed}\r\n");
            let answer = raw(&proxy.forward(), head.as_bytes());
            let kinds = ["apptio", "aws_sts", "azure", "flexera", "google", "jwt", "login", "oauth2"];
            let tokens = kinds.iter().any(|kind| id.starts_with(kind));
            let refused = tokens && ["credential_rejected", "reauthorization_required"].contains(&&*answer.code());
            assert!(answer.status() == status || (refused && status != 400), "{request}: {}", answer.text);
            shown.push_str(&answer.text);
        }
    }
    let seen = origin.seen();
    assert!(seen.len() > paths.len() / 2 && login.seen().len() >= names.len());
    // Of those that are asked first, each went out with its proof.
    for path in &conversing {
        assert!(seen.iter().any(|seen| path_of(seen) == path && proves(seen)), "{path} proved nothing");
    }
    for seen in seen.iter().filter(|seen| !conversing.contains(path_of(seen))) {
        let all = format!("{} {:?}", seen.target, seen.headers);
        let proofs =
            ["k4n4ry", "Basic ", "AWS4-HMAC-SHA256 Credential=A", "eyJ0eXAi", "Signature algorithm=\\\"rsa-sha256\\\""];
        let encoded = proofs.iter().any(|proof| all.contains(proof));
        assert!(encoded, "signed nothing: {all}");
    }
    for number in 0..login.seen().len() {
        variables.push(("ACCESS_TOKEN".into(), format!("k4n4ry-access-{number}")));
        variables.push(("SESSION_TOKEN".into(), format!("k4n4ry-session-{number}")));
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
    let all = variables.iter().flat_map(|(name, value)| confidential(value).into_iter().map(move |part| (name, part)));
    for (name, value) in all {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        assert!(!shown.contains(&value), "{name} was shown");
        // Behind any user name, a password stands at one of three offsets of base64's groups.
        for offset in 0..3 {
            let padded = format!("{}{value}", "x".repeat(offset));
            let encoded = engine.encode(padded);
            let inner = &encoded[4..encoded.len() - 4];
            assert!(!shown.contains(inner), "{name} was shown in base64");
        }
    }
    assert!(!shown.contains("eyJ0eXAi"), "a JWT was shown");
    assert!(shown.contains("countersign::request"), "the log was looked at");
    // What follows from a password can be guessed at, as the password itself.
    assert!(!shown.contains("NTLM TlRM"), "an NTLM message was shown");
    // At this level the signing library writes whole requests down.
    assert!(!shown.contains("aws_sigv4"), "the library that signs for STS is heard");
}
