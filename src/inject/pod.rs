//! One pod: whether it gets a sidecar, and the changes (RFC 6902) that give it one. The same pod gives the same changes.

use std::path::Path;

use serde_json::{Value, json};

use super::settings::{Mode, Settings, is_name};
use crate::listen::environment::Pointing;

/// The label by which a pod asks.
const LABEL: &str = "countersign/inject";
/// Every annotation of ours begins so.
const ANNOTATIONS: &str = "countersign/";
const SIDECAR: &str = "countersign";
const RULES: &str = "countersign-rules";
/// What the containers may see: the bundle, `env.sh` and the roots for Java.
const SHARED: (&str, &str) = ("countersign-shared", "/var/run/countersign");
/// What they may not: the key of the authority.
const STATE: (&str, &str) = ("countersign-state", "/var/lib/countersign");
const CONFIG: (&str, &str) = ("countersign-config", "/etc/countersign");
const TOKENS: (&str, &str) = ("countersign-tokens", "/var/run/secrets/countersign-tokens");
const SECRETS: (&str, &str) = ("countersign-secret-", "/var/run/secrets/countersign/");
const PROXY: &str = "http://127.0.0.1:8180";
const BUNDLE: &str = "/var/run/countersign/ca-bundle.pem";
const TRUST_STORE: &str = "/var/run/countersign/trust.p12";
const ADMIN_PORT: u16 = 8190;

/// Changes to a pod, in their order; none when it stays as it is.
pub type Patch = Vec<Value>;

/// What one pod gets.
struct Wish<'a> {
    settings: &'a Settings,
    mode: Mode,
    config_map: String,
}

/// The changes that give a pod its sidecar.
///
/// # Errors
/// Why a pod that asks for one is not admitted, for whoever made it.
pub fn patch(pod: &Value, namespace: &str, settings: &Settings) -> Result<Patch, String> {
    let meta = &pod["metadata"];
    match meta["labels"].get(LABEL) {
        None => return Ok(Patch::new()),
        Some(value) if value == "false" => return Ok(Patch::new()),
        Some(value) if value == "true" => {}
        Some(_) => return Err(format!("the label {LABEL} is \"true\" or \"false\"")),
    }
    if !settings.namespaces.contains(namespace) {
        return Err(format!(
            "pods of the namespace {namespace} are not given a sidecar; its operator lists those that are"
        ));
    }
    let spec = &pod["spec"];
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err("the pod has no containers".into());
    }
    let wish = wish(meta, settings)?;
    if is_done(spec, &wish) {
        return Ok(Patch::new());
    }
    refuse(spec, &wish)?;
    Ok(changes(spec, &wish))
}

/// Whether another run of this put there all that it puts there. A container that only has our name has not our rules.
fn is_done(spec: &Value, wish: &Wish<'_>) -> bool {
    let there = |ours: &Value| {
        let same = |one: &Value| {
            ["name", "image", "args", "restartPolicy", "securityContext"].iter().all(|key| one[key] == ours[key])
        };
        spec["initContainers"].as_array().is_some_and(|all| all.iter().any(same))
    };
    spec["hostNetwork"] != true && containers(wish).iter().all(there)
}

/// The containers that a pod is given, in their order.
fn containers(wish: &Wish<'_>) -> Vec<Value> {
    (wish.mode == Mode::Transparent).then(|| rules(wish)).into_iter().chain([sidecar(wish)]).collect()
}

/// What the pod's annotations say, where they may.
fn wish<'a>(meta: &Value, settings: &'a Settings) -> Result<Wish<'a>, String> {
    let mut wish = Wish { settings, mode: settings.mode, config_map: settings.config_map.clone() };
    let annotations = meta["annotations"].as_object();
    for (name, value) in annotations.into_iter().flatten() {
        let Some(key) = name.strip_prefix(ANNOTATIONS) else { continue };
        if !["config", "mode"].contains(&key) {
            return Err(format!("there is no annotation {name}"));
        }
        if !settings.overrides.contains(key) {
            return Err(format!(
                "the annotation {name} is not permitted here; `overrides` of the injector would permit it"
            ));
        }
        match (key, value.as_str()) {
            ("mode", Some("explicit")) => wish.mode = Mode::Explicit,
            ("mode", Some("transparent")) => wish.mode = Mode::Transparent,
            ("config", Some(config)) if is_name(config) => wish.config_map = config.to_owned(),
            _ => return Err(format!("the annotation {name} says nothing that is known here")),
        }
    }
    Ok(wish)
}

fn names(containers: &Value) -> impl Iterator<Item = &str> {
    containers.as_array().into_iter().flatten().filter_map(|container| container["name"].as_str())
}

fn lists(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|key| spec[key].as_array().into_iter().flatten())
}

/// Seconds: the drain, and what the use of a refresh token may take beyond it.
const GRACE: u64 = 90;

/// Pods in which a sidecar would not be what it seems.
fn refuse(spec: &Value, wish: &Wish<'_>) -> Result<(), String> {
    let windows = spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows";
    if windows {
        return Err("a pod of Windows can have no sidecar".into());
    }
    if spec["hostNetwork"] == true {
        return Err("a pod in its host's network can have no sidecar: all of that host would reach it, and its rules \
                    would be the host's"
            .into());
    }
    let taken = |name: &&str| [SIDECAR, RULES].contains(name);
    if let Some(name) = lists(spec).filter_map(|container| container["name"].as_str()).find(taken) {
        return Err(format!("the pod has a container {name} of its own"));
    }
    let volumes = names(&spec["volumes"]).find(|name| name.starts_with("countersign-"));
    if let Some(name) = volumes {
        return Err(format!("the pod has a volume {name} of its own"));
    }
    for container in lists(spec) {
        let name = container["name"].as_str().unwrap_or_default();
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let within = |mount: &Value| {
            let path = mount["mountPath"].as_str().unwrap_or_default();
            Path::new(path).starts_with(SHARED.1) || (path != "/" && Path::new(SHARED.1).starts_with(path))
        };
        if mounts.into_iter().any(within) {
            return Err(format!("the container {name} has a volume of its own at or above {}", SHARED.1));
        }
        let user = [container, spec].iter().find_map(|one| one["securityContext"]["runAsUser"].as_u64());
        // An image may say who it runs as, and many say the same as ours does: what the pod does not say is not known.
        if wish.mode == Mode::Transparent && user.is_none_or(|user| user == u64::from(wish.settings.uid)) {
            return Err(format!(
                "the container {name} has no `runAsUser` other than {}, the sidecar's user, whose connections are not \
                 redirected; give it one",
                wish.settings.uid
            ));
        }
    }
    Ok(())
}

fn add(path: impl Into<String>, value: Value) -> Value {
    json!({"op": "add", "path": path.into(), "value": value})
}

/// Appends to a list, which is made where there is none.
fn append(patch: &mut Patch, path: &str, list: &Value, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    if list.is_array() {
        patch.extend(items.into_iter().map(|item| add(format!("{path}/-"), item)));
    } else {
        patch.push(add(path, Value::Array(items)));
    }
}

fn changes(spec: &Value, wish: &Wish<'_>) -> Patch {
    let mut patch = Patch::new();
    // The containers that are there keep their places until all of them are done.
    for key in ["initContainers", "containers"] {
        for (index, container) in spec[key].as_array().into_iter().flatten().enumerate() {
            let path = format!("/spec/{key}/{index}");
            let own: Vec<_> = names(&container["env"]).collect();
            // A client that knows both spellings believes the one that we would add.
            let is_own = |name: &str| own.iter().any(|one| one.eq_ignore_ascii_case(name));
            let variables = variables(wish).into_iter().filter(|(name, _)| !is_own(name));
            let env = variables.map(|(name, value)| json!({"name": name, "value": value})).collect();
            append(&mut patch, &format!("{path}/env"), &container["env"], env);
            let mount = json!({"name": SHARED.0, "mountPath": SHARED.1, "readOnly": true});
            append(&mut patch, &format!("{path}/volumeMounts"), &container["volumeMounts"], vec![mount]);
        }
    }
    append(&mut patch, "/spec/volumes", &spec["volumes"], volumes(wish));
    let ours = containers(wish);
    if spec["initContainers"].is_array() {
        // Each goes before the one that was put there last.
        patch.extend(ours.into_iter().rev().map(|container| add("/spec/initContainers/0", container)));
    } else {
        patch.push(add("/spec/initContainers", Value::Array(ours)));
    }
    if spec["terminationGracePeriodSeconds"].as_u64().is_none_or(|grace| grace < GRACE) {
        patch.push(add("/spec/terminationGracePeriodSeconds", GRACE.into()));
    }
    patch
}

/// What the containers are told; a variable that one sets itself stays as it is.
fn variables(wish: &Wish<'_>) -> Vec<(&'static str, String)> {
    let pointing = Pointing {
        proxy: (wish.mode == Mode::Explicit).then_some(PROXY),
        bundle: Path::new(BUNDLE),
        trust_store: Some(Path::new(TRUST_STORE)),
        no_proxy: &wish.settings.no_proxy,
        java: None,
    };
    pointing.variables()
}

fn volumes(wish: &Wish<'_>) -> Vec<Value> {
    let mut volumes = vec![
        json!({"name": SHARED.0, "emptyDir": {"sizeLimit": "16Mi"}}),
        json!({"name": STATE.0, "emptyDir": {}}),
        json!({"name": CONFIG.0, "configMap": {"name": wish.config_map}}),
    ];
    for secret in &wish.settings.secrets {
        volumes.push(json!({"name": format!("{}{secret}", SECRETS.0), "secret": {"secretName": secret}}));
    }
    if !wish.settings.tokens.is_empty() {
        let token = |token: &super::TokenSettings| {
            json!({"serviceAccountToken": {
                "audience": token.audience, "path": token.path, "expirationSeconds": token.expiration_seconds,
            }})
        };
        let sources: Vec<Value> = wish.settings.tokens.iter().map(token).collect();
        volumes.push(json!({"name": TOKENS.0, "projected": {"sources": sources}}));
    }
    volumes
}

/// What every container of ours forbids itself.
fn security(uid: u32, capabilities: Value) -> Value {
    json!({
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": uid != 0,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": capabilities,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn image(mut container: Value, wish: &Wish<'_>) -> Value {
    if let Some(policy) = &wish.settings.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

/// A native sidecar: it is there before every other container, and a job does not wait for it.
fn sidecar(wish: &Wish<'_>) -> Value {
    let settings = wish.settings;
    let mut mounts = vec![
        json!({"name": SHARED.0, "mountPath": SHARED.1}),
        json!({"name": STATE.0, "mountPath": STATE.1}),
        json!({"name": CONFIG.0, "mountPath": CONFIG.1, "readOnly": true}),
    ];
    for secret in &settings.secrets {
        let (name, path) = (format!("{}{secret}", SECRETS.0), format!("{}{secret}", SECRETS.1));
        mounts.push(json!({"name": name, "mountPath": path, "readOnly": true}));
    }
    if !settings.tokens.is_empty() {
        mounts.push(json!({"name": TOKENS.0, "mountPath": TOKENS.1, "readOnly": true}));
    }
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": ADMIN_PORT}, "periodSeconds": period, "failureThreshold": failures});
    let container = json!({
        "name": SIDECAR,
        "image": settings.image,
        "args": ["serve", "--config", format!("{}/countersign.yaml", CONFIG.1)],
        "restartPolicy": "Always",
        // What it holds of a body that must be hashed; the root file system is read only.
        "env": [{"name": "TMPDIR", "value": STATE.1}],
        "startupProbe": probe("/startupz", 1, 60),
        "readinessProbe": probe("/readyz", 10, 3),
        "resources": settings.resources,
        "securityContext": security(settings.uid, json!({"drop": ["ALL"]})),
        "volumeMounts": mounts,
    });
    image(container, wish)
}

/// Writes the rules and ends, before anything of the pod runs. It alone has a capability.
fn rules(wish: &Wish<'_>) -> Value {
    let mut args = vec!["transparent".to_owned(), "up".to_owned(), "--exclude-uid".to_owned()];
    args.push(wish.settings.uid.to_string());
    args.extend(["--port".to_owned(), "15001".to_owned()]);
    if wish.settings.only_way_out {
        args.push("--only-way-out".to_owned());
    }
    let container = json!({
        "name": RULES,
        "image": wish.settings.rules_image,
        "args": args,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": security(0, json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})),
    });
    image(container, wish)
}
