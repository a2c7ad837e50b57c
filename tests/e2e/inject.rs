//! The injector: the documented pods get the changes of the golden files, others none, and twice is as once.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::inject::{Settings, patch};
use serde_json::{Value, json};

use crate::support::{Root, countersign, kit, provider, read_answer, skip};

const NAMESPACE: &str = "policies";

/// The settings that the golden files were made with.
fn settings(change: Value) -> Settings {
    let mut settings = json!({
        "address": "127.0.0.1:0",
        "tls": {"certificate": "tls.crt", "key": {"file": "tls.key"}},
        "namespaces": [NAMESPACE],
        "image": "countersign:0.1.0",
        "rules_image": "countersign-rules:0.1.0",
        "secrets": ["cloud-keys"],
        "tokens": [{"audience": "sts.amazonaws.com", "path": "aws"}],
        "overrides": ["config", "mode"],
    });
    settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let settings: Settings = serde_json::from_value(settings).unwrap();
    assert!(settings.check().is_empty(), "{:?}", settings.check());
    settings
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every golden pod: its name, itself, and what is expected: changes, or the reason why it is not admitted.
fn golden() -> Vec<(String, Value, Value)> {
    let mut cases: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, read(&path.join("pod.json")), read(&path.join("patch.json")))
        })
        .collect();
    cases.sort_by(|one, two| one.0.cmp(&two.0));
    assert!(cases.len() >= 12, "{}", cases.len());
    cases
}

/// What the webhook does to a pod: changes, or `{"denied": why}`.
fn outcome(name: &str, pod: &Value) -> Value {
    let namespace = if name == "other-namespace" { "elsewhere" } else { NAMESPACE };
    match patch(pod, namespace, &settings(json!({}))) {
        Ok(patch) => Value::Array(patch),
        Err(why) => json!({ "denied": why }),
    }
}

/// RFC 6902, as far as additions go.
fn applied(pod: &Value, patch: &Value) -> Value {
    let mut pod = pod.clone();
    for change in patch.as_array().unwrap() {
        assert_eq!(change["op"], "add");
        let path = change["path"].as_str().unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        match pod.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}")) {
            Value::Array(items) if last == "-" => items.push(change["value"].clone()),
            Value::Array(items) => items.insert(last.parse().unwrap(), change["value"].clone()),
            Value::Object(members) => {
                let before = members.insert(last.to_owned(), change["value"].clone());
                assert!(before.is_none(), "{path} was there");
            }
            other => panic!("{path} is within {other}"),
        }
    }
    pod
}

#[test]
fn the_documented_pods_get_the_changes_of_the_golden_files() {
    for (name, pod, expected) in golden() {
        let outcome = outcome(&name, &pod);
        assert_eq!(outcome, expected, "{name}:\n{}", serde_json::to_string_pretty(&outcome).unwrap());
    }
}

#[test]
fn a_second_run_changes_nothing_of_any_pod() {
    for (name, pod, patch) in golden() {
        if patch.is_array() {
            let once = applied(&pod, &patch);
            assert_eq!(outcome(&name, &once), json!([]), "{name}");
        }
    }
}

#[test]
fn no_other_container_sees_what_only_the_sidecar_may_and_none_but_ours_is_given_a_capability() {
    for (name, pod, patch) in golden() {
        let Some(changes) = patch.as_array().filter(|changes| !changes.is_empty()) else { continue };
        assert!(changes.len() > 2);
        let pod = applied(&pod, &patch);
        let list = |key: &str| pod["spec"][key].as_array().cloned().unwrap_or_default();
        let ours = |container: &Value| container["name"].as_str().unwrap().starts_with("countersign");
        let first = &list("initContainers")[0];
        assert!(ours(first), "{name}: ours are before all others");
        for container in list("initContainers").into_iter().chain(list("containers")) {
            let security = &container["securityContext"];
            if ours(&container) {
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true);
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
                let rules = container["name"] == "countersign-rules";
                assert_eq!(!security["capabilities"]["add"].is_null(), rules, "{name}");
                continue;
            }
            let mounts = container["volumeMounts"].as_array().unwrap().clone();
            let of_ours: Vec<_> =
                mounts.iter().filter(|mount| mount["name"].as_str().unwrap().starts_with("countersign")).collect();
            assert_eq!(of_ours.len(), 1, "{name}: {of_ours:?}");
            assert_eq!(
                (of_ours[0]["name"].as_str(), &of_ours[0]["readOnly"]),
                (Some("countersign-shared"), &json!(true))
            );
        }
    }
}

#[test]
fn pods_that_cannot_be_given_what_they_ask_for_are_refused_and_their_twins_are_not() {
    let pod = |meta: Value, spec: Value| {
        let mut pod = json!({"metadata": {"labels": {"countersign/inject": "true"}},
            "spec": {"containers": [{"name": "main", "image": "i"}]}});
        pod["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        pod
    };
    let said = |settings: &Settings, meta: Value, spec: Value| patch(&pod(meta, spec), NAMESPACE, settings).err();
    let explicit = settings(json!({}));
    let strict = settings(json!({"overrides": []}));
    let transparent = settings(json!({"mode": "transparent"}));
    let annotated = |name: &str, value: &str| json!({"annotations": {name: value}});
    let none = || json!({});
    let runs_as = |uid: u32| json!({"securityContext": {"runAsUser": uid}});
    let own = |uid: u32| json!({"containers": [{"name": "m", "image": "i", "securityContext": {"runAsUser": uid}}]});
    assert_eq!(said(&explicit, none(), none()), None);
    assert_eq!(said(&explicit, annotated("countersign/mode", "transparent"), runs_as(1000)), None);
    assert_eq!(said(&explicit, annotated("countersign/config", "mine"), none()), None);
    assert_eq!(said(&transparent, none(), runs_as(1000)), None);
    assert_eq!(said(&explicit, none(), runs_as(65532)), None, "by variables it is no matter");
    for (settings, meta, spec, why) in [
        (&explicit, annotated("countersign/mode", "both"), none(), "says nothing"),
        (&explicit, annotated("countersign/config", "../x"), none(), "says nothing"),
        (&explicit, annotated("countersign/image", "evil"), none(), "no annotation"),
        (&strict, annotated("countersign/mode", "explicit"), none(), "overrides"),
        (&explicit, json!({"labels": {"countersign/inject": "yes"}}), none(), "\"true\" or \"false\""),
        (&transparent, none(), runs_as(65532), "other than 65532"),
        (&transparent, none(), own(65532), "other than 65532"),
        // Its image may say 65532.
        (&transparent, none(), none(), "other than 65532"),
        (
            &explicit,
            none(),
            json!({"initContainers": [{"name": "countersign", "image": "i", "restartPolicy": "Always"}]}),
            "of its own",
        ),
        (&explicit, none(), json!({"hostNetwork": true}), "host's network"),
        (&explicit, none(), json!({"os": {"name": "windows"}}), "Windows"),
        (&explicit, none(), json!({"containers": [{"name": "countersign"}]}), "of its own"),
        (&explicit, none(), json!({"volumes": [{"name": "countersign-state", "emptyDir": {}}]}), "of its own"),
        (
            &explicit,
            none(),
            json!({"containers": [{"name": "m", "volumeMounts": [{"name": "v", "mountPath": "/var/run"}]}]}),
            "at or above",
        ),
        (&explicit, none(), json!({"containers": []}), "no containers"),
    ] {
        let refused = said(settings, meta, spec).unwrap_or_else(|| panic!("admitted: {why}"));
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn the_changed_pods_are_valid() {
    let Some(kit) = kit("kubernetes-validate") else { return };
    let program = kit.join("deploy/bin/kubernetes-validate");
    if !program.exists() {
        skip::<()>("the changed pods", "kubernetes-validate is not in the test kit");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, pod, patch) in golden() {
        if patch.is_array() {
            let file = folder.path().join(format!("{name}.json"));
            std::fs::write(&file, applied(&pod, &patch).to_string()).unwrap();
            files.push(file);
        }
    }
    let output = std::process::Command::new(program).arg("--strict").args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_webhook_answers_over_tls_and_takes_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let certificate = |root: &Root| {
        let (certificate, key) = root.leaf(&["injector.test"]);
        std::fs::write(place("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(place("tls.crt"), certificate.pem()).unwrap();
    };
    let root = Root::new();
    certificate(&root);
    let config = "address: 127.0.0.1:0\ntls: { certificate: FOLDER/tls.crt, key: { file: FOLDER/tls.key } }\nnamespaces: [policies]\nimage: countersign:0.1.0\n";
    let config = config.replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(place("inject.yaml"), &config).unwrap();
    let mut child = countersign(&["inject", "--config", place("inject.yaml").to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = |what: &str| {
        log.by_ref().map(Result::unwrap).find(|line| line.contains(what)).unwrap_or_else(|| panic!("never {what}"))
    };
    let listening: Value = serde_json::from_str(&said("\"listening\"")).unwrap();
    let address = listening["address"].as_str().unwrap().to_owned();
    let call = |root: &Root, head: &str, body: &str| -> Option<(String, Value)> {
        provider();
        let mut roots = rustls::RootCertStore::empty();
        let pem = pem::parse(root.pem()).unwrap().into_contents();
        roots.add(pem.into()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from("injector.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(&address).unwrap());
        let head = format!(
            "{head} HTTP/1.1\r\nHost: injector.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
        let answer = read_answer(&mut stream);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.to_owned(), serde_json::from_str(body).unwrap_or_default()))
    };
    let review = |namespace: &str, kind: &str, pod: &Value| {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": kind}, "namespace": namespace, "operation": "CREATE",
            "object": pod}})
        .to_string()
    };
    let pod = read(&self::folder().join("plain/pod.json"));
    let mutate = |body: &str| call(&root, "POST /mutate", body).unwrap();
    let (status, answer) = mutate(&review("policies", "Pod", &pod));
    let response = &answer["response"];
    assert_eq!((status.as_str(), &response["uid"], &response["allowed"]), ("200", &json!("u-1"), &json!(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    let changes: Value =
        serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(applied(&pod, &changes)["spec"]["initContainers"][0]["name"], "countersign");
    let (_, denied) = mutate(&review("elsewhere", "Pod", &pod));
    assert_eq!(denied["response"]["allowed"], false);
    assert!(denied["response"]["status"]["message"].as_str().unwrap().contains("elsewhere"));
    assert_eq!(mutate(&review("policies", "Deployment", &pod)).1["response"]["allowed"], false);
    let (_, plain) = mutate(&review("policies", "Pod", &json!({"spec": {"containers": [{"name": "m"}]}})));
    assert_eq!(plain["response"], json!({"uid": "u-1", "allowed": true}));
    for malformed in
        ["", "{}", "[", &review("policies", "Pod", &json!(1)), &review("policies", "Pod", &pod).replace("/v1", "/v2")]
    {
        assert_eq!(mutate(malformed).0, "400", "{malformed}");
    }
    assert_eq!(call(&root, "GET /livez", "").unwrap().0, "200");
    // The certificate is replaced as Kubernetes does it; a configuration that is wrong changes nothing.
    let other = Root::new();
    assert!(call(&other, "GET /livez", "").is_none());
    certificate(&other);
    said("configuration reloaded");
    let until = std::time::SystemTime::now() + crate::support::DEADLINE;
    while call(&other, "GET /livez", "").is_none() {
        assert!(std::time::SystemTime::now() < until, "the new certificate is never shown");
    }
    std::fs::write(place("inject.yaml"), "image: x\n").unwrap();
    said("the old one stays");
    assert_eq!(call(&other, "GET /livez", "").unwrap().0, "200");
    std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(child.wait().unwrap().success());
    let refused = countersign(&["inject", "--config", place("inject.yaml").to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
}
