//! The command line: check, explain, ca, run, demo, help and exit codes.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Config, Origin, Root, SECRET, countersign};

/// A folder with a configuration in it.
fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = config.replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(folder.path().join("countersign.yaml"), text).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output =
        countersign(arguments).current_dir(folder).env("SECRET", SECRET).env("TOKEN", "t0ken").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const CONFIG: &str = "
listeners:
  forward: [{ address: 127.0.0.1:0 }]
  reverse:
    - address: 127.0.0.1:18181
      routes: [{ prefix: /api, upstream: https://api.test, credential: key, callers: [runner] }]
ca: { directory: FOLDER/state/ca, bundle: FOLDER/out/bundle.pem }
callers:
  - { name: runner, token: { env: TOKEN } }
  - { name: other, token: { env: SECRET } }
credentials:
  - { id: key, scheme: api_key, key: { env: SECRET }, hosts: [api.test] }
  - { id: off, scheme: api_key, key: { env: SECRET }, hosts: [off.test], enabled: false }
bindings:
  - { credential: key, hosts: [api.test], callers: [runner], methods: [GET], paths: [/v1] }
  - { credential: off }
";

#[test]
fn check_says_that_everything_is_in_order_or_lists_every_error() {
    let good = folder(CONFIG);
    let (code, out, _) = run(good.path(), &["check"]);
    assert_eq!(code, 0);
    assert!(out.contains("2 credentials, 2 listeners"), "{out}");
    assert!(!good.path().join("state").exists(), "check makes nothing");
    let bad = folder("unbound: maybe\nlisteners: { forward: [{ adress: x }] }\n");
    let (code, out, err) = run(bad.path(), &["check"]);
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(err.contains("line 1: unbound") && err.contains("line 2: listeners.forward[0].adress"), "{err}");
    let (code, _, err) = run(good.path(), &["check", "--config", "/no/such/file"]);
    assert_eq!(code, 78);
    assert!(err.contains("/no/such/file"), "{err}");
}

#[test]
fn a_missing_secret_fails_check_and_does_not_stop_serve_from_building() {
    let folder = folder(CONFIG);
    let output = countersign(&["check"]).current_dir(folder.path()).env("TOKEN", "t").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(said.contains("environment variable SECRET is not set"), "{said}");
    let output = countersign(&["explain", "--json", "--caller", "runner", "GET", "https://api.test/v1"])
        .current_dir(folder.path())
        .env("TOKEN", "t")
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["code"], "secret_unavailable");
}

#[test]
fn explain_answers_for_any_caller_method_and_url() {
    let folder = folder(CONFIG);
    let explain = |arguments: &[&str]| -> Value {
        let (code, out, err) = run(folder.path(), &[&["explain", "--json"], arguments].concat());
        assert_eq!(code, 0, "{err}");
        assert!(!out.contains(SECRET));
        serde_json::from_str(&out).unwrap()
    };
    let answer = explain(&["--caller", "runner", "GET", "https://api.test/v1/x?q=1"]);
    assert_eq!(answer["decision"], "use");
    assert_eq!(answer["credential"], "key");
    assert_eq!(answer["binding"], "bindings[0]");
    assert_eq!(answer["destination"], "https://api.test");
    assert_eq!(answer["headers"], serde_json::json!(["authorization"]));
    for (arguments, code) in [
        (&["--caller", "other", "GET", "https://api.test/v1"][..], "unbound"),
        (&["--caller", "runner", "DELETE", "https://api.test/v1"], "unbound"),
        (&["--caller", "runner", "GET", "https://api.test/v1-x"], "unbound"),
        (&["--caller", "runner", "GET", "https://api.test/v1/%2e%2e"], "bad_request"),
        (&["--caller", "runner", "GET", "http://api.test/v1"], "cleartext_refused"),
        (&["--caller", "runner", "GET", "https://other.test/"], "unbound"),
        (&["--caller", "runner", "GET", "https://user@api.test/v1"], "bad_request"),
        (&["--caller", "runner", "--credential", "nonesuch", "GET", "https://api.test/v1"], "credential_unknown"),
        (&["--caller", "runner", "--credential", "off", "GET", "https://off.test/"], "credential_unknown"),
    ] {
        let answer = explain(arguments);
        assert_eq!((answer["decision"].as_str(), answer["code"].as_str()), (Some("deny"), Some(code)), "{arguments:?}");
    }
    let (code, out, _) = run(folder.path(), &["explain", "--caller", "runner", "get", "https://api.test/v1"]);
    assert_eq!(code, 0);
    assert!(out.contains("decision     use") && out.contains("headers      authorization"), "{out}");
    let answer = explain(&["--caller", "runner", "GET", "http://127.0.0.1:18181/api/v1/x"]);
    assert_eq!(
        (answer["decision"].as_str(), answer["binding"].as_str()),
        (Some("use"), Some("listeners.reverse[0].routes[0]"))
    );
    assert_eq!(answer["destination"], "https://api.test");
    let answer = explain(&["--caller", "other", "GET", "http://127.0.0.1:18181/api/v1/x"]);
    assert_eq!(answer["code"], "unbound");
    let answer = explain(&["--caller", "runner", "TRACE", "https://api.test/v1"]);
    assert_eq!(answer["decision"], "deny");
    assert_eq!(
        run(folder.path(), &["explain", "GET", "https://api.test/v1"]).0,
        1,
        "several callers: one must be named"
    );
}

#[test]
fn explain_foresees_the_guard_and_a_listener_that_does_not_intercept() {
    let folder = folder(
        "listeners: { forward: [{ address: 127.0.0.1:0, intercept: false }] }\nunbound: pass\ncredentials:\n  - { id: key, scheme: api_key, \
         key: { env: SECRET }, hosts: [api.test, 10.0.0.1], location: cookie, field: sid }\nbindings:\n  - { credential: key, allow_cleartext: true }\n",
    );
    for (url, decision, code) in [
        ("https://api.test/", "deny", "interception_off"),
        ("http://10.0.0.1/", "deny", "destination_forbidden"),
        ("http://2130706433/", "deny", "destination_forbidden"),
        ("https://other.test/", "pass", ""),
    ] {
        let (_, out, err) = run(folder.path(), &["explain", "--json", "GET", url]);
        let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{url}: {out}{err}"));
        assert_eq!(
            (answer["decision"].as_str(), answer["code"].as_str().unwrap_or("")),
            (Some(decision), code),
            "{url}"
        );
    }
    let (_, out, _) = run(folder.path(), &["explain", "--json", "GET", "http://api.test/"]);
    assert!(out.contains("\"cookie\""), "{out}");
}

#[test]
fn ca_prints_where_and_what_it_is_and_writes_the_bundle() {
    let folder = folder(CONFIG);
    let (code, path, _) = run(folder.path(), &["ca", "path"]);
    assert_eq!((code, path.lines().count()), (0, 1));
    let pem = std::fs::read_to_string(path.trim()).unwrap();
    let (_, printed, _) = run(folder.path(), &["ca", "print"]);
    assert_eq!(printed, pem);
    let (_, bundle, _) = run(folder.path(), &["ca", "bundle"]);
    let bundle = std::fs::read_to_string(bundle.trim()).unwrap();
    let system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let count = |text: &str| text.matches("BEGIN CERTIFICATE").count();
    assert!(count(&bundle) > 1 && count(&bundle) + 5 > count(&system), "system roots and ours");
    // It reads only its own section, and resolves no secret.
    std::fs::write(folder.path().join("countersign.yaml"), "ca: { directory: state/ca }\nnonsense: 1\n").unwrap();
    assert_eq!(run(folder.path(), &["ca", "path"]).0, 0);
}

#[test]
fn wrong_usage_is_64_and_help_is_no_mistake() {
    let folder = folder("");
    assert_eq!(run(folder.path(), &["no-such-command"]).0, 64);
    assert_eq!(run(folder.path(), &["explain", "GET"]).0, 64);
    let (code, out, _) = run(folder.path(), &["--help"]);
    assert_eq!(code, 0);
    for command in ["serve", "run", "demo", "check", "explain", "ca"] {
        assert!(out.contains(command), "{command}");
    }
    let (code, _, err) = run(folder.path(), &["serve"]);
    assert_eq!(code, 78);
    assert!(err.contains("nothing to listen on"), "{err}");
}

#[test]
fn the_demo_verifies_every_scheme_there_is() {
    let folder = folder("");
    let (code, out, err) = run(folder.path(), &["demo", "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    for kind in countersign::scheme::KINDS {
        assert!(rows.iter().any(|row| row["scheme"] == kind.name), "{} is not shown", kind.name);
    }
    for row in &rows {
        assert_eq!(row["passed"], true, "{row}");
        let text = |key: &str| row[key].as_str().unwrap();
        if text("api_verified").starts_with("200 ") {
            assert!(text("countersign_added").contains("[redacted]"), "{row}");
        } else {
            assert_eq!(text("countersign_added"), "nothing", "{row}");
            let refused = match text("scheme") {
                "policy" => ["403 this run's policy", "407 this caller"],
                _ => ["502 credential "; 2],
            };
            assert!(refused.iter().any(|words| text("api_verified").starts_with(words)), "{row}");
        }
        let without = text("without_countersign");
        assert!(without.starts_with("401 ") || without.starts_with("403 "), "{row}");
    }
    let verified = rows.iter().filter(|row| row["api_verified"].as_str().unwrap().starts_with("200 ")).count();
    assert_eq!(verified, rows.len() - 5, "all but the five that show a refusal");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "the demo left something behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_points_the_commands_tools_at_a_private_proxy_and_leaves_nothing_behind() {
    if crate::support::tool("run", "curl").is_none() {
        return;
    }
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let folder = folder(&Config::new().resolve("api.test:443", origin.address).text());
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let script = "test -z \"$SECRET\" && curl -sS https://api.test/x && curl -sS -o /dev/null -w '%{http_code}' http://api.test/ && echo && \
                  test -s \"$SSL_CERT_FILE\" && env | grep -c 127.0.0.1 && ls \"$TMPDIR\" | wc -l && exit 7";
    let output = countersign(&["run", "--", "sh", "-c", script])
        .current_dir(folder.path())
        .env("SECRET", SECRET)
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(7), "the exit code is the command's: {out}{err}");
    assert!(out.starts_with("hello from the origin403\n"), "{out}{err}");
    assert_eq!(origin.only().header("authorization").unwrap(), format!("Bearer {SECRET}"));
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "something was left behind");
    assert!(!folder.path().join("state").exists(), "the authority's key stays in memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_signals_on_and_reports_death_by_one() {
    let folder = folder(&Config::new().text());
    std::fs::write(folder.path().join("origin.pem"), Root::new().pem()).unwrap();
    for (signal, script, code) in [
        ("TERM", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done", 9),
        ("INT", "trap - INT; echo ready; exec sleep 600", 130),
    ] {
        let mut child = countersign(&["run", "--", "bash", "-c", script])
            .current_dir(folder.path())
            .env("SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
}

#[test]
fn run_says_what_is_wrong_with_a_command_that_does_not_exist() {
    let folder = folder("");
    let (code, _, err) = run(folder.path(), &["run", "--", "/no/such/command"]);
    assert_eq!(code, 127, "as a shell has it");
    assert!(err.contains("/no/such/command"), "{err}");
    let (code, _, err) = run(folder.path(), &["run", "--credential", "nonesuch", "--", "true"]);
    assert_eq!(code, 78);
    assert!(err.contains("nonesuch"), "{err}");
}

#[test]
fn the_example_configuration_is_in_order() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Private keys are files: a test key stands in for each.
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys/rsa-pkcs8.pem");
    let mut parts = text.split("{ file: /run/secrets/");
    let mut copy = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once(" }").unwrap();
        copy.push_str(&format!("{{ file: {} }}{rest}", key.display()));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("example.yaml");
    std::fs::write(&file, copy).unwrap();
    let mut command = countersign(&["check", "--config", file.to_str().unwrap()]);
    for (index, _) in text.match_indices("env: ") {
        let name: String = text[index + 5..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        // A service account's key is a document.
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys/google-service-account.json");
        let value =
            if name == "GOOGLE_KEY" { std::fs::read_to_string(document).unwrap() } else { format!("value-of-{name}") };
        command.env(&name, value);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reader_that_is_gone_ends_a_command_quietly_and_an_answer_that_cannot_be_written_is_told() {
    for arguments in [&["demo", "--json"][..], &["explain", "GET", "https://a.test/"], &["completions", "bash"]] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("countersign.yaml"), "listeners: { forward: [{ address: 127.0.0.1:0 }] }\n")
            .unwrap();
        let mut child = countersign(arguments);
        let (gone, full) = (child.current_dir(folder.path()), std::fs::File::create("/dev/full").unwrap());
        let mut gone = gone.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(gone.stdout.take());
        let output = gone.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() != Some(101) && !said.contains("panicked"), "{arguments:?}: {said}");
        let output = countersign(arguments).current_dir(folder.path()).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}
