//! The configuration of the injector, and what a pod may change of it by its annotations.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::listen::Address;
use crate::listen::settings::Tls;

/// The configuration of `countersign inject`: a file of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// Its certificate, which the API server verifies; read again when it changes.
    pub tls: Tls,
    /// The namespaces whose pods may ask.
    pub namespaces: BTreeSet<String>,
    /// The image of the sidecar; its entry point is the program.
    pub image: String,
    /// The image of the container that writes the rules of a transparent pod.
    pub rules_image: Option<String>,
    /// When images are pulled; Kubernetes decides where this is not set.
    pub image_pull_policy: Option<String>,
    /// How the containers come to the proxy.
    #[serde(default)]
    pub mode: Mode,
    /// Whether a transparent pod can reach nothing but through the sidecar.
    #[serde(default)]
    pub only_way_out: bool,
    /// The ConfigMap of the pod's namespace that holds `countersign.yaml`.
    #[serde(default = "config_map")]
    pub config_map: String,
    /// Secrets of the pod's namespace, each mounted in the sidecar alone, at `/var/run/secrets/countersign/NAME`.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Tokens of the pod's service account for others than the API server, for the sidecar alone.
    #[serde(default)]
    pub tokens: Vec<TokenSettings>,
    /// Resources of the sidecar.
    #[serde(default = "resources")]
    pub resources: Map<String, Value>,
    /// What the containers call directly, beside loopback.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// What a pod may say itself by an annotation: `config`, `mode`.
    #[serde(default)]
    pub overrides: BTreeSet<String>,
    /// The user and group of the sidecar; no container of a transparent pod may have it.
    #[serde(default = "uid")]
    pub uid: u32,
}

/// How containers come to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By their variables.
    #[default]
    Explicit,
    /// By rules that redirect their connections.
    Transparent,
}

/// A projected token of the pod's service account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// For whom it is.
    pub audience: String,
    /// Its name below `/var/run/secrets/countersign-tokens`.
    pub path: String,
    /// For how long; the kubelet replaces it in time.
    #[serde(default = "hour")]
    pub expiration_seconds: u32,
}

fn config_map() -> String {
    "countersign".to_owned()
}

fn resources() -> Map<String, Value> {
    let resources = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
    resources.as_object().cloned().unwrap_or_default()
}

fn uid() -> u32 {
    65532
}

fn hour() -> u32 {
    3600
}

/// A name as Kubernetes gives it to objects (RFC 1123).
pub(super) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(plain) && ends(bytes.first()) && ends(bytes.last())
}

impl Settings {
    /// What is wrong with it: the key, and what to change.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut note = |key: &str, why: &str| wrong.push((key.to_owned(), why.to_owned()));
        if self.namespaces.is_empty() {
            note("namespaces", "list the namespaces whose pods may ask; without one no pod is changed");
        }
        if !self.namespaces.iter().all(|name| is_name(name)) {
            note("namespaces", "a name of a namespace is expected");
        }
        if self.image.is_empty() {
            note("image", "an image is expected");
        }
        let transparent = self.mode == Mode::Transparent || self.overrides.contains("mode");
        if transparent && self.rules_image.as_ref().is_none_or(String::is_empty) {
            note("rules_image", "a transparent pod needs the image that writes its rules");
        }
        if self.only_way_out && self.mode != Mode::Transparent {
            note("only_way_out", "it goes with `mode: transparent`");
        }
        if !is_name(&self.config_map) {
            note("config_map", "a name of a ConfigMap is expected");
        }
        // The name becomes one of a volume, which is a label and shorter.
        if !self.secrets.iter().all(|name| is_name(name) && !name.contains('.') && name.len() <= 40) {
            note("secrets", "a name of a Secret is expected, without dots and of up to 40 characters");
        }
        for (index, token) in self.tokens.iter().enumerate() {
            if token.audience.is_empty() || !is_name(&token.path) {
                note(&format!("tokens[{index}]"), "an `audience`, and a file name as `path`, are expected");
            }
            if token.expiration_seconds < 600 {
                note(&format!("tokens[{index}].expiration_seconds"), "600 at least, as Kubernetes wants it");
            }
        }
        if self.overrides.iter().any(|key| !["config", "mode"].contains(&key.as_str())) {
            note("overrides", "there are config, mode");
        }
        if self.uid == 0 {
            note("uid", "the sidecar does not run as root");
        }
        wrong
    }
}
