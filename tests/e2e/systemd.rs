//! The units of deploy/systemd: systemd's own tools have nothing to say against them, and they allow what the program does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Config, Root, binary, raw};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

/// What systemd's tool says, where there is one.
fn analyze(arguments: &[&str]) -> Option<Output> {
    Command::new("systemd-analyze").args(arguments).output().ok()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_units_are_what_systemd_understands() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["countersign.service", "countersign.socket"] {
        let text = std::fs::read_to_string(units().join(name)).unwrap();
        // Where the program is on this machine, or there would be that to say.
        let text =
            text.replace("/usr/bin/countersign", binary().to_str().unwrap()).replace("man:countersign(1)", "man:sh(1)");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let service = folder.path().join("countersign.service");
    let verify = |path: &Path| analyze(&["verify", "--man=no", path.to_str().unwrap()]);
    for name in ["countersign.service", "countersign.socket"] {
        let Some(output) = verify(&folder.path().join(name)) else { return };
        let ours: Vec<_> =
            said(&output).lines().filter(|line| line.contains("countersign.")).map(str::to_owned).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
    // The tool would have said it.
    let text = std::fs::read_to_string(&service).unwrap();
    std::fs::write(&service, text.replace("ProtectSystem=", "ProtectSistem=")).unwrap();
    assert!(said(&verify(&service).unwrap()).contains("ProtectSistem"));
}

#[test]
fn the_service_is_hardly_exposed() {
    let unit = units().join("countersign.service");
    // Tenths: what is left is the network, which is its work.
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", unit.to_str().unwrap()])
    else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_that_the_documents_describe_is_one() {
    let text = std::fs::read_to_string(units().join("README.md")).unwrap();
    let root = Root::new();
    let folder = "/var/lib/countersign";
    let mut config = Config::new();
    for key in ["ca: {", "tokens: {", "store: {"] {
        let begin = text.find(key).unwrap_or_else(|| panic!("no {key}"));
        let end = begin + text[begin..].find("}`").unwrap() + 1;
        let own = text[begin..end].replace("/run/countersign", "FOLDER").replace(folder, "FOLDER");
        config = config.rest(&format!("{own}\n"));
    }
    let proxy = config.rest("admin: { address: 127.0.0.1:0 }\n").start(&root);
    let admin = proxy.address("admin", 0);
    let ready = raw(&admin, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(ready.status(), 200, "{}", ready.text);
    assert!(proxy.bundle().exists());
}
