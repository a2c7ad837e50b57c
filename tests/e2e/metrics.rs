//! `/metrics`: what is counted, read by parsers that are not ours, and what says so in documents, dashboard and alerts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, SECRET, countersign, kit, raw, run_client, text, tool};

const PAGE: &str = include_str!("../../config/metrics.md");
const RULES: &str = include_str!("../../deploy/prometheus/alerts.yaml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/countersign.json");

/// Name to type and labels, as the page has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `countersign_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].to_owned(), labels.filter(|label| !label.is_empty()).collect()),
        )
    })
    .collect()
}

/// Every metric that a text names, the parts of histograms under the histogram's own name.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("countersign_"));
    metrics
        .map(|word| {
            let parts = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            parts.filter(|name| name.ends_with("_seconds")).unwrap_or(word).to_owned()
        })
        .collect()
}

fn scrape(admin: &str, accept: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let answer = raw(admin, request.as_bytes());
    assert_eq!(answer.status(), 200, "{}", answer.text);
    answer.text
}

/// The same by an ordinary client, which joins chunks.
async fn body(admin: &str, accept: &str) -> (String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{admin}/metrics")).header("accept", accept).send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, answer.text().await.unwrap())
}

const CREDENTIALS: &str = "  - id: key\n    scheme: oauth2\n    hosts: [api.test]\n    grant_type: client_credentials\n    \
     token_url: http://idp.test/token\n    allow_cleartext: true\n    client_id: me\n    client_secret: { file: FOLDER/secret }\n  \
     - { id: aws, scheme: aws, access_key: AKIDEXAMPLE, secret_key: { file: FOLDER/secret }, service: s3, region: eu-west-1, \
     hosts: [s3.test], payload: signed }\n";

/// A run that exercises everything that is counted: requests, refusals, tokens, a 401, a spooled body, reloads.
async fn exercised() -> Proxy {
    let (root, count) = (Root::new(), AtomicUsize::new(0));
    let idp = Origin::http_with(|_| {
        text(200, &json!({ "access_token": "t0ken-canary", "token_type": "Bearer", "expires_in": 3600 }).to_string())
    })
    .await;
    let api =
        Origin::http_with(move |_| text(if count.fetch_add(1, Ordering::SeqCst) == 1 { 401 } else { 200 }, "ok")).await;
    let config = Config::new()
        .credentials(CREDENTIALS)
        .bindings("  - { name: first, credential: key, allow_cleartext: true }\n  - { name: second, credential: aws, allow_cleartext: true }\n")
        .resolve("idp.test:80", idp.address)
        .resolve("api.test:80", api.address)
        .resolve("s3.test:80", api.address)
        .rest(
            "tokens: { directory: FOLDER/tokens }\nadmin: { address: 127.0.0.1:0 }\n\
             store: {}\n",
        );
    let proxy = Proxy::start_with(&config.text(), &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("secret"), SECRET).unwrap();
    });
    let manager = Manager::of(&proxy);
    let ending = json!({ "id": "ends", "name": "ends", "scheme": "api_key", "hosts": ["ends.test"],
        "settings": { "key": "k3y" }, "expiresAt": "2099-01-31T00:00:00Z" });
    manager.done("POST", "/v1/accounts/default/credentials", Some(ending)).await;
    let binding = json!({ "credential": "ends", "hosts": ["ends.test"] });
    manager.done("PUT", "/v1/accounts/default/bindings/ends", Some(binding)).await;
    let forward = proxy.forward();
    let ask = |url: &str, body: &str| {
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        let length = body.len();
        let head = format!(
            "PUT {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        raw(&forward, head.as_bytes()).status()
    };
    assert_eq!(ask("http://api.test/one?query=canary", ""), 200);
    assert_eq!(ask("http://api.test/two", ""), 200, "refused once, and signed again");
    assert_eq!(ask("http://s3.test/bucket/key", "a body that is hashed"), 200);
    assert_eq!(ask("http://caller-chosen.test/", ""), 403, "unbound");
    proxy.signal("HUP");
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    let good = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, "unbound: maybe\n").unwrap();
    proxy.wait_log(|log| log.contains("the old one stays"));
    std::fs::write(&proxy.config, good).unwrap();
    proxy.wait_log(|log| log.matches("configuration reloaded").count() >= 2);
    // What a request is counted with is its end, which may come a moment after its answer.
    proxy.requests(4);
    drop((idp, api));
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_everything_documented_is_exported() {
    let proxy = exercised().await;
    let admin = proxy.address("admin", 0);
    let (kind, prometheus) = body(&admin, "text/plain").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let (kind, open) = body(&admin, "application/openmetrics-text; version=1.0.0, text/plain;q=0.5").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n") && !prometheus.contains("# EOF"));
    for canary in [SECRET, "canary", "caller-chosen", "api.test", "AKIDEXAMPLE"] {
        assert!(!prometheus.contains(canary) && !open.contains(canary), "{canary} is in\n{prometheus}");
    }
    let exported: BTreeSet<String> = prometheus
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(exported, documented().into_keys().collect(), "{prometheus}");
    let sample = "countersign_requests_total{listener=\"forward\",binding=\"first\",scheme=\"oauth2\",outcome=\"complete\",\
                  fault=\"none\"} 2";
    assert!(prometheus.contains(sample), "{prometheus}");
    for (series, value) in [
        ("countersign_reloads_total{outcome=\"failed\"}", "1"),
        ("countersign_upstream_unauthorized_total{binding=\"first\",scheme=\"oauth2\"}", "1"),
        ("countersign_refusals_total{code=\"unbound\",fault=\"caller\"}", "1"),
        ("countersign_bodies_spooled_total{held_in=\"memory\"}", "1"),
        ("countersign_token_exchanges_total{credential=\"key\",outcome=\"ok\"}", "2"),
        ("countersign_credential_usable{credential=\"key\"}", "1"),
    ] {
        assert!(prometheus.lines().any(|line| line == format!("{series} {value}")), "{series} {value}:\n{prometheus}");
    }
    let Some(kit) = kit("metrics read by the Prometheus client library") else { return };
    for (form, text) in [("prometheus", &prometheus), ("open", &open)] {
        let file = proxy.folder.path().join(form);
        std::fs::write(&file, text).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/parse.py");
        let arguments = [program.to_str().unwrap(), form, file.to_str().unwrap()];
        let told = run_client(&kit.join("venv/bin/python"), &arguments, &HashMap::new()).unwrap();
        let told: BTreeMap<String, (String, BTreeSet<String>)> = told
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, family)| {
                let labels =
                    family["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap().to_owned());
                (name.clone(), (family["type"].as_str().unwrap().to_owned(), labels.collect()))
            })
            .collect();
        assert_eq!(told, documented(), "{form}");
    }
    let Some(promtool) = tool("promtool check metrics", "promtool") else { return };
    let mut checking = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut checking.stdin.take().unwrap(), prometheus.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_metrics_of_a_demo_run_tell_of_its_requests_and_tokens() {
    let Some(kit) = kit("metrics of a demo run") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics");
    let output = countersign(&["demo", "--json", "--metrics", file.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/parse.py");
    let arguments = [program.to_str().unwrap(), "open", file.to_str().unwrap()];
    let told = run_client(&kit.join("venv/bin/python"), &arguments, &HashMap::new()).unwrap();
    let known = documented();
    for (name, family) in told.as_object().unwrap() {
        assert_eq!(known.get(name).map(|(kind, _)| kind.as_str()), family["type"].as_str(), "{name}");
    }
    let schemes = |name: &str, key: &str, word: &str| -> BTreeSet<String> {
        let samples = told[name]["samples"].as_array().unwrap().iter();
        let of = samples.filter(|sample| sample[1][key] == word && sample[2].as_f64().unwrap() >= 1.0);
        of.map(|sample| sample[1]["scheme"].as_str().unwrap().to_owned()).collect()
    };
    let served = schemes("countersign_requests_total", "outcome", "complete");
    assert!(["api_key", "aws", "oauth2", "ntlm", "jwt"].iter().all(|scheme| served.contains(*scheme)), "{served:?}");
    assert!(schemes("countersign_token_uses_total", "result", "obtained").contains("oauth2"));
    assert!(!told["countersign_token_expiry_seconds"]["samples"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_told_to_no_web_page_and_can_be_switched_off() {
    let root = Root::new();
    let proxy = Config::new().rest("admin: { address: 127.0.0.1:0 }\n").start(&root);
    let admin = proxy.address("admin", 0);
    assert!(scrape(&admin, "*/*").contains("countersign_build_info"));
    for head in ["Host: evil.test", "Host: localhost\r\nOrigin: http://evil.test"] {
        let answer = raw(&admin, format!("GET /metrics HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(answer.status(), 421, "{}", answer.text);
    }
    let off = Config::new().rest("admin: { address: 127.0.0.1:0 }\nmetrics: { enabled: false }\n").start(&root);
    let answer =
        raw(&off.address("admin", 0), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status(), 401, "whoever is not known learns of no path");
}

#[test]
fn dashboard_and_alerts_name_only_what_is_exported() {
    let known: BTreeSet<String> = documented().into_keys().collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 8));
    for (what, text) in [("dashboard", DASHBOARD), ("alerts", RULES)] {
        let named = named(text);
        assert!(named.len() > 5, "{what}");
        assert_eq!(named.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "{what}");
    }
    assert!(!named("x: countersign_nonesuch > 1").is_subset(&known), "a name that nobody exports is seen");
}

#[test]
fn alerts_are_well_formed_and_fire_when_they_should() {
    let Some(promtool) = tool("promtool test rules", "promtool") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}
