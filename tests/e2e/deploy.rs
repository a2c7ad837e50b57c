//! What `deploy/` holds: the chart, the manifests, the examples and the image, judged by the tools that judge a user's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{Root, binary, countersign, kit, measured, skip, tool};

/// The version whose schemas manifests are held against: that of the `kubectl` beside it.
const KUBERNETES: &str = "1.35.0";
const OURS: u64 = 65532;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tools(test: &str) -> Option<PathBuf> {
    let kit = kit(test)?;
    if kit.join("k8s/helm").exists() && kit.join("deploy/bin/kubernetes-validate").exists() {
        Some(kit)
    } else {
        skip(
            test,
            "helm, kubectl or what checks manifests could not be installed; the testkit's file `missing` says why",
        )
    }
}

fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let program = program.as_ref();
    // Tools look for settings, plug-ins and caches at home, and would speak of them.
    let home = tempfile::tempdir().unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(root())
        .env("HOME", home.path())
        .env("CARGO_HOME", cargo_home())
        .env("RUSTUP_HOME", rustup_home())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(|| std::env::home_dir().unwrap().join(".cargo"), PathBuf::from)
}

fn rustup_home() -> PathBuf {
    std::env::var_os("RUSTUP_HOME").map_or_else(|| std::env::home_dir().unwrap().join(".rustup"), PathBuf::from)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The files of a folder with this end, by name.
fn files(folder: &str, end: &str) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(end)?.to_owned();
        Some((name, path))
    });
    named.collect()
}

fn documents(kit: &Path, text: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifests.yaml");
    std::fs::write(&file, text).unwrap();
    let program = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
    let parsed = run(kit.join("deploy/bin/python"), &["-c", program, file.to_str().unwrap()]);
    serde_json::from_str(&done(parsed)).unwrap()
}

fn template(kit: &Path, arguments: &[&str]) -> Output {
    run(
        kit.join("k8s/helm"),
        &[&["template", "rel", "deploy/helm/countersign", "--namespace", "policies"], arguments].concat(),
    )
}

/// Everything that is shipped, as objects, by where it comes from: rendered once for all tests.
fn shipped(kit: &Path) -> &'static BTreeMap<String, Vec<Value>> {
    static SHIPPED: OnceLock<BTreeMap<String, Vec<Value>>> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        let mut shipped = BTreeMap::new();
        for (name, path) in files("deploy/helm/ci", "-values.yaml") {
            let text = done(template(kit, &["--values", path.to_str().unwrap()]));
            shipped.insert(format!("helm {name}"), documents(kit, &text));
        }
        shipped.insert("helm defaults".to_owned(), documents(kit, &done(template(kit, &[]))));
        for (name, path) in files("deploy/kustomize/overlays", "") {
            let text = done(run(kit.join("k8s/kubectl"), &["kustomize", path.to_str().unwrap()]));
            shipped.insert(format!("kustomize {name}"), documents(kit, &text));
        }
        for (name, path) in files("deploy/examples", ".yaml") {
            shipped.insert(format!("example {name}"), documents(kit, &std::fs::read_to_string(path).unwrap()));
        }
        assert!(shipped.len() >= 19, "{:?}", shipped.keys());
        assert!(shipped.values().all(|objects| !objects.is_empty()));
        shipped
    })
}

#[test]
fn every_values_file_lints_and_renders_and_values_that_make_no_sense_do_not() {
    let Some(kit) = tools("helm") else { return };
    for (name, path) in files("deploy/helm/ci", "-values.yaml") {
        let lint = ["lint", "--strict", "deploy/helm/countersign", "--values", path.to_str().unwrap()];
        let lint = said(&run(kit.join("k8s/helm"), &lint));
        assert!(lint.contains("1 chart(s) linted, 0 chart(s) failed") && !lint.contains("[WARN"), "{name}: {lint}");
    }
    assert!(shipped(&kit).keys().filter(|name| name.starts_with("helm ")).count() >= 12);
    let shared = root().join("deploy/helm/ci/shared-tls-values.yaml");
    let injector = root().join("deploy/helm/ci/injector-values.yaml");
    let (shared, injector) = (shared.to_str().unwrap(), injector.to_str().unwrap());
    for (refused, why) in [
        (vec!["--set", "frm=shared"], "'frm' not allowed"),
        (vec!["--set", "form=shared"], "shared.caSecret"),
        (vec!["--set", "mode=magic"], "mode"),
        (vec!["--values", shared, "--set", "shared.tlsSecret="], "shared.tlsSecret"),
        (vec!["--values", shared, "--set", "shared.replicas=1"], "replicas"),
        (vec!["--values", shared, "--set", "shared.serviceAccounts.mode=issuer"], "shared.serviceAccounts.issuer"),
        (vec!["--values", shared, "--set", "shared.store.url=postgres://db.example.com/c"], "shared.store.keySecret"),
        (vec!["--values", injector, "--set", "injector.namespaces=null"], "injector.namespaces"),
        (vec!["--values", injector, "--set", "injector.caBundle="], "injector.caBundle"),
        (vec!["--values", injector, "--set", "injector.onlyWayOut=true"], "injector.mode=transparent"),
        (vec!["--set", "identity.azure.clientId=x"], "identity.azure.tenantId"),
    ] {
        let output = template(&kit, &refused);
        assert!(!output.status.success() && said(&output).contains(why), "{refused:?}: {}", said(&output));
    }
}

/// Holds objects against the API's schemas; those of the Prometheus operator are no part of them.
fn validate(kit: &Path, objects: &[(String, Value)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> = objects
        .iter()
        .enumerate()
        .filter(|(_, (_, object))| object["apiVersion"] != "monitoring.coreos.com/v1")
        .map(|(index, (from, object))| {
            let path = folder.path().join(format!("{} {index}.json", from.replace('/', "-")));
            std::fs::write(&path, object.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let mut arguments = vec!["-k", KUBERNETES, "--strict"];
    arguments.extend(paths.iter().map(String::as_str));
    run(kit.join("deploy/bin/kubernetes-validate"), &arguments)
}

#[test]
fn every_object_is_one_that_kubernetes_knows_and_one_with_a_slip_is_not() {
    let Some(kit) = tools("kubernetes-validate") else { return };
    let all: Vec<(String, Value)> = shipped(&kit)
        .iter()
        .flat_map(|(from, objects)| objects.iter().map(|object| (from.clone(), object.clone())))
        .collect();
    let monitors = all.iter().filter(|(_, object)| object["apiVersion"] == "monitoring.coreos.com/v1").count();
    let output = validate(&kit, &all);
    let judged = said(&output);
    assert!(output.status.success() && judged.matches(" passed for ").count() == all.len() - monitors, "{judged}");
    // Of the two kinds of slip: a key that does not exist, and a value of another type.
    let pod = all.iter().find(|(_, object)| object["kind"] == "Job").unwrap();
    let mut unknown = pod.clone();
    unknown.1["spec"]["template"]["spec"]["restartPolicyy"] = json!("Never");
    let mut mistyped = pod.clone();
    mistyped.1["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!("65");
    for wrong in [unknown, mistyped] {
        assert!(!validate(&kit, &[wrong]).status.success());
    }
    assert_eq!(monitors, 4, "what no schema judged is counted, so that it stays known");
}

/// The pod in an object, where it has one.
fn pod(object: &Value) -> Option<&Value> {
    ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec"].iter().find_map(|place| object.pointer(place))
}

fn list<'value>(value: &'value Value, key: &str) -> &'value [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// What a pod could do and must not. `token`: it asks the API server whose tokens are, so it has one of its own.
fn faults(pod: &Value, token: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut must = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    must(pod["automountServiceAccountToken"] == false, "a token is mounted by itself".into());
    for open in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        must(pod[open].is_null() || pod[open] == false, open.into());
    }
    let volumes: BTreeMap<&str, &Value> =
        list(pod, "volumes").iter().map(|volume| (volume["name"].as_str().unwrap(), volume)).collect();
    // The API server's own token is one without an audience.
    let api_tokens = volumes
        .values()
        .flat_map(|volume| list(&volume["projected"], "sources"))
        .filter(|source| source.get("serviceAccountToken").is_some_and(|token| token.get("audience").is_none()));
    must(api_tokens.count() == usize::from(token), "a token for the API server".into());
    must(volumes.values().all(|volume| volume.get("hostPath").is_none()), "a volume of the node".into());
    let all = list(pod, "initContainers").iter().map(|container| (container, true));
    for (container, first) in all.chain(list(pod, "containers").iter().map(|container| (container, false))) {
        let name = container["name"].as_str().unwrap();
        let context = &container["securityContext"];
        let rules = first && name == "countersign-rules";
        let ours = name == "countersign" || name == "countersign-authority";
        must(context["readOnlyRootFilesystem"] == true, format!("{name} writes its root"));
        must(context["allowPrivilegeEscalation"] == false, format!("{name} may gain privileges"));
        must(context["privileged"].is_null(), format!("{name} says privileged"));
        must(context["seccompProfile"]["type"] == "RuntimeDefault", format!("{name} has no seccomp profile"));
        must(context["capabilities"]["drop"] == json!(["ALL"]), format!("{name} keeps capabilities"));
        let added = if rules { json!(["NET_ADMIN"]) } else { Value::Null };
        must(context["capabilities"]["add"] == added, format!("{name} adds capabilities"));
        must(context["runAsNonRoot"] == !rules, format!("{name} runs as root"));
        let user = context["runAsUser"].as_u64();
        must((user == Some(OURS)) == (ours || name == "injector"), format!("{name} runs as {user:?}"));
        must(
            !ours && name != "injector" || !container["resources"]["requests"]["memory"].is_null(),
            format!("{name} asks for no memory"),
        );
        for mount in list(container, "volumeMounts") {
            let volume = mount["name"].as_str().unwrap();
            must(volumes.contains_key(volume), format!("{name} mounts {volume}, which is not there"));
            let (path, read_only) = (mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true);
            // Keys, tokens and the authority are Countersign's; the others see the shared files, and write none.
            let private = volume.starts_with("countersign-") && volume != "countersign-shared";
            must(ours || !private, format!("{name} mounts {volume}"));
            must(ours || volume != "countersign-shared" || read_only, format!("{name} writes {volume}"));
            let state = "/var/lib/countersign";
            must(path != state || volume == "countersign-state", format!("{name} has {volume} at {state}"));
        }
    }
    // Nothing runs before it, but what writes the rules; and it runs as long as the pod does.
    if list(pod, "containers")
        .iter()
        .all(|container| container["name"] != "countersign" && container["name"] != "injector")
    {
        let first: Vec<&Value> =
            list(pod, "initContainers").iter().filter(|one| one["name"] != "countersign-rules").take(1).collect();
        must(
            first.iter().any(|one| one["name"] == "countersign" && one["restartPolicy"] == "Always"),
            "it is not first".into(),
        );
        must(
            first.iter().all(|one| one["startupProbe"].is_object() && one["readinessProbe"].is_object()),
            "no probe".into(),
        );
        let rules = list(pod, "initContainers").iter().position(|one| one["name"] == "countersign-rules");
        must(rules.is_none_or(|at| at == 0), "something runs before the rules".into());
    }
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    let injector = list(pod, "containers").iter().any(|container| container["name"] == "injector");
    must(injector || grace > 25 + 30, "the grace is shorter than a drain".into());
    faults
}

#[test]
fn no_pod_may_do_more_than_its_work_asks_for() {
    let Some(kit) = tools("the policy of pods") else { return };
    let mut judged = 0;
    for (from, objects) in shipped(&kit) {
        for object in objects {
            assert!(object["kind"] != "ServiceAccount" || object["automountServiceAccountToken"] == false, "{from}");
            let Some(pod) = pod(object) else { continue };
            let review = from == "helm shared-token-review";
            assert_eq!(faults(pod, review), Vec::<String>::new(), "{from}: {object:#}");
            judged += 1;
        }
    }
    assert!(judged >= 17, "{judged} pods");
}

#[test]
fn a_pod_that_may_do_more_is_found_out() {
    let Some(kit) = tools("the policy of pods") else { return };
    let good = |from: &str| {
        let pods = shipped(&kit)[from].iter().find_map(pod);
        pods.unwrap().clone()
    };
    let (ours, main) = ("/initContainers/1", "/containers/0");
    let changes: Vec<(String, Value)> = vec![
        ("/automountServiceAccountToken".into(), json!(true)),
        ("/hostNetwork".into(), json!(true)),
        ("/terminationGracePeriodSeconds".into(), json!(30)),
        ("/initContainers/0/name".into(), json!("other")),
        ("/initContainers/0/securityContext/capabilities/add".into(), json!(["NET_ADMIN", "SYS_ADMIN"])),
        (format!("{ours}/restartPolicy"), Value::Null),
        (format!("{ours}/startupProbe"), Value::Null),
        (format!("{ours}/securityContext/capabilities/add"), json!(["NET_ADMIN"])),
        (format!("{ours}/securityContext/runAsUser"), json!(0)),
        (format!("{ours}/securityContext/readOnlyRootFilesystem"), json!(false)),
        (format!("{main}/securityContext/runAsUser"), json!(OURS)),
        (format!("{main}/securityContext/allowPrivilegeEscalation"), json!(true)),
        (format!("{main}/securityContext/seccompProfile/type"), json!("Unconfined")),
        (format!("{main}/securityContext/privileged"), json!(true)),
        (format!("{main}/volumeMounts/0/readOnly"), json!(false)),
        (format!("{main}/volumeMounts/0/name"), json!("countersign-state")),
        (format!("{main}/volumeMounts/0/name"), json!("countersign-secret-example")),
        ("/volumes/0".into(), json!({"name": "countersign-config", "hostPath": {"path": "/"}})),
        (
            "/volumes/0".into(),
            json!({"name": "countersign-config", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
        ),
    ];
    for (place, value) in changes {
        let mut pod = good("helm sidecar-job-transparent");
        assert_eq!(faults(&pod, false), Vec::<String>::new());
        let (parent, key) = place.rsplit_once('/').unwrap();
        match pod.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            object => object[key] = value.clone(),
        }
        assert!(!faults(&pod, false).is_empty(), "{place} = {value} goes unnoticed");
    }
    assert!(!faults(&good("helm shared-token-review"), false).is_empty(), "a token that nobody asked for");
    assert!(!faults(&good("helm shared-tls"), true).is_empty());
}

#[test]
fn rights_in_the_cluster_and_ways_through_the_network_are_the_least_there_can_be() {
    let Some(kit) = tools("rights and networks") else { return };
    let of = |from: &str, kind: &str| -> Vec<&Value> {
        shipped(&kit)[from].iter().filter(|object| object["kind"] == kind).collect()
    };
    for (from, objects) in shipped(&kit) {
        let roles: Vec<&Value> =
            objects.iter().filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1").collect();
        let expected = usize::from(from == "helm shared-token-review");
        assert_eq!(roles.len(), expected, "{from}");
        assert!(roles.iter().all(|role| role["roleRef"]["name"] == "system:auth-delegator"), "{from}");
        for webhook in objects.iter().filter(|object| object["kind"] == "MutatingWebhookConfiguration") {
            let webhook = &webhook["webhooks"][0];
            assert_eq!(webhook["failurePolicy"], "Fail");
            assert_eq!(webhook["sideEffects"], "None");
            assert_eq!(webhook["objectSelector"]["matchLabels"], json!({"countersign/inject": "true"}));
            let namespaces = &webhook["namespaceSelector"]["matchExpressions"][0];
            assert!(namespaces["operator"] == "In" && !list(namespaces, "values").is_empty(), "{from}");
        }
    }
    for from in ["helm shared-tls", "helm shared-token-review", "kustomize shared"] {
        let policies = of(from, "NetworkPolicy");
        let [into, out] = policies[..] else { panic!("{from}: {policies:#?}") };
        assert_eq!(
            (&into["spec"]["policyTypes"], &out["spec"]["policyTypes"]),
            (&json!(["Ingress"]), &json!(["Egress"]))
        );
        let clients = json!({"countersign/client": "true"});
        assert_eq!(into["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"], clients, "{from}");
        assert_eq!(into["spec"]["ingress"][0]["ports"], json!([{"port": "proxy", "protocol": "TCP"}]));
        assert_eq!(out["spec"]["podSelector"]["matchLabels"], clients, "{from}");
        // To the proxy, and to name servers: every way out names pods, none an address or nobody in particular.
        let ways = list(&out["spec"], "egress");
        assert_eq!(ways.len(), 2, "{from}");
        for way in ways {
            assert!(!list(way, "to").is_empty() && !list(way, "ports").is_empty(), "{from}");
            assert!(
                list(way, "to")
                    .iter()
                    .all(|to| to["podSelector"]["matchLabels"].is_object() && to["ipBlock"].is_null())
            );
        }
        let target = &ways[0]["to"][0]["podSelector"]["matchLabels"];
        let deployment = of(from, "Deployment")[0];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert!(
            target.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value),
            "{from}: nobody has {target}"
        );
        assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0, "{from}");
        assert_eq!(of(from, "PodDisruptionBudget").len(), 1, "{from}");
        let scaled = of(from, "HorizontalPodAutoscaler");
        let least = scaled.first().map_or(&deployment["spec"]["replicas"], |scaler| &scaler["spec"]["minReplicas"]);
        assert!(least.as_u64().unwrap() >= 2, "{from}");
    }
    assert!(of("helm shared-issuer", "NetworkPolicy").is_empty());
}

/// Puts what a configuration reads where it says, below a folder, and runs `countersign check` on it.
fn check(text: &str, authority: &Root, variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_str().unwrap();
    let mut text = text.to_owned();
    for place in ["/var/lib/countersign", "/var/run/countersign", "/var/run/secrets/", "/run/secrets/"] {
        // The longer first, and each once: what begins with the folder was moved.
        let moved = format!("{base}/moved{}", place.replace("/var/run", "/run-of-var"));
        text = text
            .split(&format!("{base}/moved"))
            .map(|rest| rest.replace(place, &moved))
            .collect::<Vec<_>>()
            .join(&format!("{base}/moved"));
    }
    let (certificate, key) = authority.leaf(&["countersign.policies.svc"]);
    for word in text.split([' ', '\n', '"', '}', ',']).filter(|word| word.starts_with(base)) {
        let path = Path::new(word);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = match path.file_name().and_then(|name| name.to_str()).unwrap() {
            "tls.crt" => certificate.pem(),
            "tls.key" => key.serialize_pem(),
            "ca.crt" => authority.pem(),
            "key" => "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned(),
            "token" | "password" => "s3cret".to_owned(),
            _ => continue,
        };
        std::fs::write(path, content).unwrap();
    }
    let file = folder.path().join("countersign.yaml");
    std::fs::write(&file, &text).unwrap();
    let token = folder.path().join("web-identity");
    std::fs::write(&token, "e30.e30.e30").unwrap();
    countersign(&["check", "--config", file.to_str().unwrap()])
        .current_dir(folder.path())
        .envs(variables.iter().copied())
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
        .env("AZURE_FEDERATED_TOKEN_FILE", &token)
        .output()
        .unwrap()
}

#[test]
fn every_configuration_that_is_shipped_passes_the_check_and_one_with_a_slip_does_not() {
    let Some(kit) = tools("shipped configurations") else { return };
    let authority = Root::new();
    let variables = [
        ("EXAMPLE_TOKEN", "s3cret"),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/policies"),
        ("AWS_REGION", "eu-west-1"),
        ("AZURE_CLIENT_ID", "66666666-7777-8888-9999-000000000000"),
        ("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let mut judged = 0;
    let mut wrong = Vec::new();
    for (from, objects) in shipped(&kit) {
        for object in objects.iter().filter(|object| object["kind"] == "ConfigMap") {
            let Some(text) = object["data"]["countersign.yaml"].as_str() else { continue };
            // A database that nobody asks for: what is wrong then is that it is not there, and nothing else.
            let text = &text.replace("@db.example.com/", "@127.0.0.1:1/");
            let output = check(text, &authority, &variables);
            let away = |line: &str| line.contains("store: the store cannot be used now");
            let only_away = text.contains("postgres:") && said(&output).lines().all(away);
            if !output.status.success() && !only_away {
                wrong.push(format!("{from}: {}", said(&output)));
            }
            judged += 1;
            let slip = text.replace("credentials:", "credential:");
            assert!(slip == *text || !check(&slip, &authority, &variables).status.success(), "{from}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(judged >= 15, "{judged} configurations");
}

#[test]
fn the_injector_starts_with_the_configurations_that_are_shipped_and_not_with_a_slip() {
    let Some(kit) = tools("the injector's configuration") else { return };
    let authority = Root::new();
    let (certificate, key) = authority.leaf(&["localhost"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    let file = folder.path().join("inject.yaml");
    let starts = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut process =
            countersign(&["inject", "--config", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let log: Vec<String> = lines.take_while(|line| !line.contains("\"started\"")).collect();
        // It ended by itself, or it is told to.
        let _ = process.kill();
        process.wait().unwrap();
        log.iter().any(|line| line.contains("\"listening\""))
    };
    let mut judged = 0;
    for (from, objects) in shipped(&kit) {
        for text in objects.iter().filter_map(|object| object["data"]["inject.yaml"].as_str()) {
            let text = text.replace("/run/secrets/countersign-tls", folder.path().to_str().unwrap());
            let text = text.replace("0.0.0.0:8443", "127.0.0.1:0");
            assert!(starts(&text), "{from}: {text}");
            assert!(!starts(&text.replace("namespaces:", "namespace:")), "{from}");
            judged += 1;
        }
    }
    assert_eq!(judged, 3);
}

#[test]
fn containers_are_told_of_the_proxy_by_the_variables_that_run_sets() {
    let Some(kit) = tools("the variables of pods") else { return };
    let Some(env) = tool("the variables of pods", "env") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.yaml");
    std::fs::write(&file, "listeners: {}\n").unwrap();
    let output = countersign(&["run", "--config", file.to_str().unwrap(), "--", env.to_str().unwrap()])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let set = done(output);
    // What points at the proxy, at the roots, or at what needs neither; not the worthless keys for the clouds' tools.
    let proxy = set.lines().find_map(|line| line.strip_prefix("HTTPS_PROXY=")).unwrap();
    let roots = set.lines().find_map(|line| line.strip_prefix("CURL_CA_BUNDLE=")).unwrap();
    let expected: BTreeSet<&str> = set
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, value)| {
            *value == proxy || *value == roots || name.to_lowercase().contains("no_proxy") || name.ends_with("noproxy")
        })
        .map(|(name, _)| name)
        .chain(["NODE_USE_ENV_PROXY", "JAVA_TOOL_OPTIONS"])
        .collect();
    for from in ["helm defaults", "kustomize sidecar"] {
        let found = shipped(&kit)[from].iter().find_map(pod).unwrap();
        let told: BTreeSet<&str> =
            list(&found["containers"][0], "env").iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(told, expected, "{from}");
    }
    // In transparent mode nobody is told of a proxy.
    let found = shipped(&kit)["helm sidecar-job-transparent"].iter().find_map(pod).unwrap();
    let told: BTreeSet<&str> =
        list(&found["containers"][0], "env").iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert!(told.contains("CURL_CA_BUNDLE") && !told.contains("HTTPS_PROXY") && told.is_subset(&expected), "{told:?}");
    // What a container says itself wins.
    let found = shipped(&kit)["helm sidecar-only-way-out"].iter().find_map(pod).unwrap();
    let own: Vec<&Value> =
        list(&found["containers"][0], "env").iter().filter(|variable| variable["name"] == "NO_PROXY").collect();
    assert_eq!(own, [&json!({"name": "NO_PROXY", "value": "localhost,intranet.example.com"})]);
}

#[test]
fn the_dockerfile_is_clean_and_one_that_is_not_is_told_so() {
    let Some(kit) = tools("hadolint") else { return };
    let hadolint = kit.join("deploy/bin/hadolint");
    done(run(&hadolint, &["deploy/Dockerfile"]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Dockerfile");
    let text = std::fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    std::fs::write(&file, text.replace("WORKDIR /countersign", "RUN cd /countersign")).unwrap();
    assert!(!run(&hadolint, &[file.to_str().unwrap()]).status.success());
    // The image that is built unless a target is named is the one without a shell.
    let last = text.rsplit("\nFROM ").next().unwrap();
    assert!(last.starts_with("scratch AS countersign") && last.contains("USER 65532:65532") && !last.contains("RUN"));
}

#[test]
fn the_bill_of_materials_names_every_crate_that_is_built() {
    let Some(kit) = tools("the bill of materials") else { return };
    let triple = "x86_64-unknown-linux-gnu";
    let text = done(run(root().join("deploy/sbom"), &[triple]));
    assert_eq!(text, done(run(root().join("deploy/sbom"), &[triple])), "the same sources, the same bytes");
    let bill: Value = serde_json::from_str(&text).unwrap();
    let named: BTreeSet<String> = list(&bill, "components")
        .iter()
        .map(|one| format!("{} v{}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap()))
        .collect();
    // Cargo's own tree, which another part of Cargo draws.
    let tree =
        ["tree", "--locked", "--offline", "--edges=normal,build", "--target", triple, "--prefix=none", "--format={p}"];
    let tree = done(run(env!("CARGO"), &tree));
    let built: BTreeSet<String> = tree
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("countersign "))
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(built.len() > 200, "{}", built.len());
    assert_eq!(built.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new());
    // What tests alone use is not in the binary.
    assert!(!named.iter().any(|name| name.starts_with("divan ") || name.starts_with("http_desync_guardian ")));
    assert!(
        list(&bill, "components")
            .iter()
            .all(|one| one["hashes"][0]["content"].as_str().is_some_and(|digest| digest.len() == 64))
    );
    let valid = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bill.json");
        std::fs::write(&file, text).unwrap();
        let program = "import sys\nfrom cyclonedx.validation.json import JsonStrictValidator\nfrom cyclonedx.schema import SchemaVersion\n\
                       sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) is not None)";
        run(kit.join("deploy/bin/python"), &["-c", program, file.to_str().unwrap()]).status.success()
    };
    assert!(valid(&text));
    assert!(!valid(&text.replace("\"bom-ref\"", "\"bomref\"")));
}

/// A root of only what `deploy/rootfs` laid out, read-only, with the writable places that a pod has.
const EMPTY_ROOT: &str = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && \
    for place in tmp var/lib/countersign var/run; do mount -t tmpfs -o mode=0777,size=64m none \"$0/$place\" || exit 1; done; \
    exec chroot --userspec=65534:65534 \"$0\" /countersign \"$@\"";

#[test]
fn the_content_of_the_image_is_static_small_and_runs_in_an_empty_root_as_nobody() {
    let test = "the content of the image";
    let Some(_) = tool(test, "readelf") else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let lay_out =
        |image: &Path| run(root().join("deploy/rootfs"), &[image.to_str().unwrap(), binary().to_str().unwrap()]);
    let headers = done(run("readelf", &["--program-headers", "--wide", binary().to_str().unwrap()]));
    let output = lay_out(&image);
    if headers.contains("INTERP") {
        // The other half of the test: such a binary would not start in the image, and is refused.
        assert!(!output.status.success() && said(&output).contains("is not static"), "{}", said(&output));
        assert!(!image.exists());
        skip::<()>(test, "the binary under test is not static; COUNTERSIGN_BIN names none of deploy/build");
        return;
    }
    done(output);
    assert!(!lay_out(&image).status.success(), "what is there is not laid over");
    // The same content from the same binary, whenever it is laid out.
    let again = folder.path().join("again");
    done(lay_out(&again));
    done(run("diff", &["--recursive", image.to_str().unwrap(), again.to_str().unwrap()]));
    let found = done(run("find", &[image.to_str().unwrap(), "-type", "f", "-printf", "%P %m\n"]));
    let mut content: Vec<&str> = found.lines().collect();
    content.sort_unstable();
    let expected = [
        "countersign 755",
        "etc/group 644",
        "etc/nsswitch.conf 644",
        "etc/passwd 644",
        "etc/ssl/certs/ca-certificates.crt 644",
        "usr/share/licenses/countersign/LICENSE 644",
        "usr/share/sbom/countersign.cdx.json 644",
    ];
    assert_eq!(content, expected);
    let size = std::fs::metadata(image.join("countersign")).unwrap().len();
    measured(&format!("static binary of the image: {:.1} MB", size as f64 / 1e6));
    assert!(size < 25_000_000, "{size} bytes");
    let Some(_) = tool(test, "unshare") else { return };
    if !run("unshare", &["--mount", "true"]).status.success() {
        skip::<()>(test, "no mount namespace can be made here");
        return;
    }
    let inside = |arguments: &[&str]| {
        let mut all = vec!["--mount", "sh", "-c", EMPTY_ROOT, image.to_str().unwrap()];
        all.extend(arguments);
        run("unshare", &all)
    };
    let demo = done(inside(&["demo"]));
    assert!(demo.contains("exchanges ended as they must"), "{demo}");
    let absent = inside(&["check", "--config", "/etc/countersign/absent.yaml"]);
    assert_eq!(absent.status.code(), Some(78), "{}", said(&absent));
}
