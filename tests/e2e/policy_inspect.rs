//! `policy inspect`: what templates ask for, as the command tells programs and people.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::countersign;

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut whole = vec!["policy", "inspect"];
    whole.extend(arguments);
    let output = countersign(&whole).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A template with one block, on the second line.
fn template(name: &str) -> String {
    format!("# a comment\ncredentials \"{name}\" do\n  schemes \"basic\"\nend\n")
}

fn files(report: &str) -> Vec<String> {
    let report: Vec<Value> = serde_json::from_str(report).unwrap();
    report.iter().map(|one| one["file"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_template_is_reported_with_every_key_that_programs_rely_on() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name \"Old disks\"
credentials \"auth_aws\" do
  schemes \"aws\", \"aws_sts\"
  label \"AWS\"
  description \"Select one\"
  tags \"provider=aws\"
  aws_account_number $param_aws_account_number
end
datasource \"ds\" do
  request do
    auth $auth_aws
    host join([\"ec2.\", val(iter_item, \"region\"), \".amazonaws.com\"])
    path \"/\"
  end
end
datasource \"open\" do
  request do
    scheme \"http\"
    host \"open.test\"
    path \"/x\"
  end
end
datasource \"wrong\" do
  request do
    auth $auth_other
    host \"other.test\"
  end
end
";
    fs::write(folder.path().join("disks.pt"), text).unwrap();
    let (code, out, err) = run(folder.path(), &["--json", "disks.pt"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = json!([{
        "file": "disks.pt",
        "name": "Old disks",
        "credentials": [{
            "name": "auth_aws", "line": 2, "schemes": ["aws", "aws_sts"], "tags": { "provider": "aws" }, "label": "AWS",
            "description": "Select one", "account_number": "$param_aws_account_number",
            "uses": [{ "line": 11, "method": "GET", "host": "ec2.{region}.amazonaws.com", "path": "/" }],
        }],
        "unsigned": [{ "line": 17, "method": "GET", "host": "open.test", "path": "/x", "cleartext": true }],
        "errors": [{ "line": 25, "column": 5, "message": "there is no `credentials` block called `auth_other`" }],
    }]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    // Where no terminal reads, it is the same.
    assert_eq!(run(folder.path(), &["disks.pt"]).1, out);
    let (code, words, _) = run(folder.path(), &["--table", "disks.pt"]);
    assert_eq!(code, 0);
    for part in ["disks.pt: Old disks", "provider=aws", "http://open.test/x", "disks.pt:25:5: there is no"] {
        assert!(words.contains(part), "{part}:\n{words}");
    }
}

#[test]
fn a_folder_is_searched_for_templates_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("p").join(name);
    fs::create_dir_all(at("b/c")).unwrap();
    fs::create_dir_all(at("d.pt")).unwrap();
    for name in ["z.pt", "a.pt", "b/b.pt", "b/c/c.pt", "b/a.pt", "d.pt/x.pt", "b.json", "notes.txt"] {
        fs::write(at(name), template("auth_x")).unwrap();
    }
    std::os::unix::fs::symlink("..", at("b/again")).unwrap();
    let expected = ["p/a.pt", "p/b/a.pt", "p/b/b.pt", "p/b/c/c.pt", "p/d.pt/x.pt", "p/z.pt"];
    let (code, out, err) = run(folder.path(), &["--json", "p"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(files(&out), expected);
    // As `find` prints them.
    assert_eq!(files(&run(folder.path(), &["--json", "p/"]).1), expected);
    assert_eq!(files(&run(&folder.path().join("p"), &["--json", "."]).1)[0], "./a.pt");
    // What is named itself is read whatever it is called, and once for each time it is named.
    let (code, out, _) = run(folder.path(), &["--json", "p/notes.txt", "p/z.pt", "p/b/c", "p/z.pt"]);
    assert_eq!((code, files(&out)), (0, ["p/notes.txt", "p/z.pt", "p/b/c/c.pt", "p/z.pt"].map(String::from).to_vec()));
    assert!(
        serde_json::from_str::<Value>(&out)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["credentials"][0]["line"] == 2)
    );
}

#[test]
fn declarations_in_json_and_yaml_are_told_like_templates() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("x.yaml", "- name: auth_x\n  schemes: [api-key]\n  tags: { provider: github }\n");
    put(
        "x.json",
        r#"{"credentials": [{"name": "auth_x", "schemes": ["api_key"], "tags": [{"key": "provider", "value": "github"}]}]}"#,
    );
    put("wrong.yaml", "- name: auth_x\n  schemes: [api-key]\n  lable: X\n");
    let (code, out, _) = run(folder.path(), &["--json", "x.yaml", "x.json", "wrong.yaml"]);
    assert_eq!(code, 0, "what is wrong within a file is among its errors");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report[0]["credentials"], report[1]["credentials"]);
    assert_eq!(report[0]["credentials"][0]["schemes"], json!(["api_key"]));
    assert_eq!((&report[2]["credentials"], &report[2]["errors"][0]["line"]), (&json!([]), &json!(3)));
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.pt"), template("auth_x")).unwrap();
    fs::write(folder.path().join("bytes.pt"), b"\xff\x00credentials").unwrap();
    let (code, out, err) = run(folder.path(), &["--json", "missing.pt", "a.pt", "bytes.pt", "no/folder"]);
    assert_eq!((code, files(&out)), (1, vec!["a.pt".to_owned(), "bytes.pt".into()]));
    assert!(err.contains("missing.pt: ") && err.contains("no/folder: ") && err.lines().count() == 2, "{err}");
    let (code, out, _) = run(folder.path(), &["--json", "missing.pt"]);
    assert_eq!((code, out.as_str()), (1, "[]\n"));
    assert_eq!(run(folder.path(), &["--json"]).0, 64, "without a path");
}

#[test]
fn standard_input_is_a_file_too_and_a_pipe_in_a_folder_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.pt"), template("auth_x")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("b.pt")).status().unwrap();
    assert!(made.success());
    let mut child = countersign(&["policy", "inspect", "--json", ".", "-"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(template("auth_in").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), files(&report)), (Some(0), vec!["./a.pt".to_owned(), "-".into()]));
    assert!(report.contains("auth_in"), "{report}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..300 {
        fs::write(folder.path().join(format!("{number}.pt")), template(&"auth_".repeat(500))).unwrap();
    }
    let mut child = countersign(&["policy", "inspect", "--json", "."])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    assert!(start.starts_with(b"[\n"));
}
