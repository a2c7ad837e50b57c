//! What points the tools of a pod at us: the files beside the bundle, and the same by hand.

use std::process::Command;

use serde_json::Value;

use crate::support::{Config, Origin, Proxy, Root, SECRET, countersign, tool};

async fn start() -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::https(&root, &["api.test"]).await;
    let ca = "ca:\n  directory: FOLDER/ca\n  bundle: FOLDER/shared/ca-bundle.pem\n  environment: FOLDER/shared/env.sh\n  trust_store: FOLDER/shared/trust.p12\n";
    let proxy = Config::new().resolve("api.test:443", origin.address).rest(ca).start(&root);
    (proxy, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_with_nothing_but_the_file_that_a_pod_shares_reaches_through() {
    let test = "env.sh";
    let (Some(curl), Some(python)) = (tool(test, "curl"), tool(test, "python3")) else { return };
    let (proxy, origin) = start().await;
    let shared = proxy.folder.path().join("shared");
    let fetch = "import urllib.request as u; print(u.urlopen('https://api.test/python').read().decode())";
    let script = format!(
        ". {}/env.sh && {} -sS https://api.test/curl && {} -c \"{fetch}\"",
        shared.display(),
        curl.display(),
        python.display()
    );
    let output = Command::new("/bin/sh").args(["-c", &script]).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("hello from the origin").count(), 2);
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some(&format!("Bearer {SECRET}"))), "{seen:?}");
    let mut names: Vec<_> =
        std::fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ca-bundle.pem", "env.sh", "trust.p12"], "and never a key");
    for name in names {
        let content = std::fs::read(shared.join(&name)).unwrap();
        let holds = |what: &[u8]| content.windows(what.len()).any(|part| part == what);
        assert!(!holds(b"PRIVATE KEY") && !holds(SECRET.as_bytes()), "{name}");
    }
    // Without it, the same script finds neither the proxy nor the name.
    let output = Command::new(curl).args(["-sS", "https://api.test/"]).env_clear().output().unwrap();
    assert!(!output.status.success());
}

#[test]
fn env_prints_the_same_variables_in_three_forms_and_no_password() {
    let env = |arguments: &[&str]| {
        let fixed = ["env", "--proxy", "http://127.0.0.1:8180", "--bundle", "/b'x.pem"];
        let output = countersign(&[&fixed, arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&env(&["--json"])).unwrap();
    assert_eq!((&json["https_proxy"], &json["SSL_CERT_FILE"]), (&"http://127.0.0.1:8180".into(), &"/b'x.pem".into()));
    assert!(env(&["--shell"]).contains(r"export SSL_CERT_FILE='/b'\''x.pem'"));
    assert_eq!(env(&[]), env(&["--shell"]));
    assert!(env(&["--dotenv"]).lines().any(|line| line == "NO_PROXY=localhost,127.0.0.1,::1"));
    assert!(env(&["--json", "--no-proxy", ".svc"]).contains("127.0.0.1,::1,.svc"));
    let names = json.as_object().unwrap().len();
    assert_eq!(env(&["--dotenv"]).lines().count(), names);
    for wrong in [
        &["env", "--proxy", "http://a:secret@127.0.0.1:1", "--bundle", "/b"] as &[&str],
        &["env", "--proxy", "ftp://x", "--bundle", "/b"],
        &["env", "--json", "--dotenv", "--proxy", "http://x:1", "--bundle", "/b"],
        &["env", "--transparent", "--proxy", "http://x:1", "--bundle", "/b"],
    ] {
        let output = countersign(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(output.stdout.is_empty() && !String::from_utf8_lossy(&output.stderr).contains("secret"));
    }
    let transparent = countersign(&["env", "--transparent", "--bundle", "/b", "--json"]).output().unwrap();
    let transparent: Value = serde_json::from_slice(&transparent.stdout).unwrap();
    assert!(transparent["https_proxy"].is_null() && transparent["CURL_CA_BUNDLE"] == "/b");
}
