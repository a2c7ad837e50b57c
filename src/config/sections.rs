//! The sections of the configuration, each read into its room's own settings.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

use super::document::{ConfigError, Document, join};
use crate::base::Narrowing;
use crate::base::duration;
use crate::base::{SecretField, SecretRef};
use crate::listen::ca::Settings as CaSettings;
use crate::listen::framing::MAX_HEADERS;
use crate::listen::settings::{Forward, Reverse, Transparent};
use crate::observe::{audit, traces};
use crate::route::{HostPattern, PathPrefix, Unbound};
use crate::scheme::{self, Draft, Kind};
use crate::source::{Implied, StoreSettings};
use crate::token::{ServiceAccountSettings, check_account};
use crate::upstream;

/// A whole configuration, checked in itself; references are not loaded yet.
#[derive(Debug)]
pub struct Config {
    /// The document, for the lines of later errors.
    pub document: Document,
    /// The ways in.
    pub listeners: crate::listen::Settings,
    /// The admin listener.
    pub admin: Option<crate::api::Settings>,
    /// The certificate authority.
    pub ca: CaSettings,
    /// What happens to calls without a binding.
    pub unbound: Unbound,
    /// Who may call.
    pub callers: Vec<CallerSettings>,
    /// How tokens of service accounts are verified.
    pub service_accounts: Option<ServiceAccountSettings>,
    /// The credentials.
    pub credentials: Vec<CredentialSettings>,
    /// The bindings.
    pub bindings: Vec<BindingSettings>,
    /// Where secrets rest outside.
    pub secret_stores: Vec<SecretStoreSettings>,
    /// What is counted.
    pub metrics: crate::observe::metrics::Settings,
    /// Logs.
    pub log: LogSettings,
    /// The ways out.
    pub upstream: upstream::Settings,
    /// Where rotated refresh tokens rest.
    pub tokens: crate::token::Settings,
    /// Limits.
    pub limits: LimitSettings,
    /// The encrypted store, where it is asked for; the admin listener brings one with it.
    pub store: Option<crate::store::Settings>,
    /// The audit record, where it is asked for.
    pub audit: Option<audit::Settings>,
    /// Where traces go, if they go anywhere.
    pub traces: Option<traces::Settings>,
}

/// One of `callers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerSettings {
    /// The name.
    pub name: String,
    /// What proves it.
    pub proof: CallerProof,
}

/// What proves a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerProof {
    /// A token.
    Token(SecretField),
    /// The uid behind a unix socket.
    Uid(u32),
    /// A subject alternative name of a client certificate.
    ClientCert(String),
    /// A Kubernetes service account, `namespace/name`, by its token.
    ServiceAccount(String),
}

/// One of `credentials`.
#[derive(Debug)]
pub struct CredentialSettings {
    /// Its id.
    pub id: String,
    /// Its scheme.
    pub kind: &'static Kind,
    /// The hosts it is for.
    pub hosts: Vec<HostPattern>,
    /// What it is for, to people and to policy templates.
    pub tags: BTreeMap<String, String>,
    /// A sentence for people.
    pub description: Option<String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// Whether readiness waits for it.
    pub required: bool,
    /// The scheme's own keys, checked.
    pub draft: Box<dyn Draft>,
}

/// One of `secret_stores`.
#[derive(Debug)]
pub struct SecretStoreSettings {
    /// The store.
    pub settings: Arc<StoreSettings>,
    /// What authenticates its requests, where that is no other credential of the file.
    pub own: Option<CredentialSettings>,
}

/// One of `bindings`.
#[derive(Debug, Clone)]
pub struct BindingSettings {
    /// For logs; its place in the list when not given.
    pub name: String,
    /// The credential's id.
    pub credential: String,
    /// Who may use it.
    pub callers: Vec<String>,
    /// Where.
    pub hosts: Vec<HostPattern>,
    /// With which methods.
    pub methods: Vec<Method>,
    /// Below which paths.
    pub paths: Vec<PathPrefix>,
    /// The secret may travel unencrypted.
    pub allow_cleartext: bool,
    /// Addresses that may be reached though they are normally refused.
    pub allow_addresses: Vec<IpNet>,
    /// Only when the request names the credential.
    pub only_named: bool,
    /// What it allows of the provider's services.
    pub narrowing: Narrowing,
}

/// The `log` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, or a filter such as `info,countersign=debug`.
    pub level: String,
    /// One line for each request.
    pub requests: bool,
    /// `auto` is text on a terminal and JSON elsewhere.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".into(), requests: true, format: LogFormat::Auto }
    }
}

/// The `limits` section. Every default has its reason beside it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Bytes of a request head: twice what common servers take, since cloud session tokens are long.
    pub header_bytes: usize,
    /// Headers of a request: what the parser holds without asking the allocator.
    pub header_count: usize,
    /// Open connections: a sidecar serves one host, and each costs a few kilobytes.
    pub connections: usize,
    /// For a request head from its first byte: a slow network needs seconds, an attack minutes.
    #[serde(deserialize_with = "duration::deserialize")]
    pub header_read_timeout: Duration,
    /// Between two requests: longer than clients keep connections for reuse.
    #[serde(deserialize_with = "duration::deserialize")]
    pub idle_timeout: Duration,
    /// Bytes of a body that a scheme must hash before it can sign: the largest single upload of object stores.
    pub hashed_body: u64,
    /// Concurrent requests of one caller, so that one cannot use up everything.
    pub caller_requests: usize,
    /// For an upstream's answer to `Expect: 100-continue`: what clients themselves wait.
    #[serde(deserialize_with = "duration::deserialize")]
    pub expect_continue_timeout: Duration,
    /// For requests under way when the process is told to end: within the grace of common supervisors.
    #[serde(deserialize_with = "duration::deserialize")]
    pub drain_timeout: Duration,
    /// Between the order to end and its beginning: whoever sends callers here must have heard of it first.
    #[serde(deserialize_with = "duration::deserialize_or_zero")]
    pub drain_delay: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_count: MAX_HEADERS,
            connections: 10_000,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            hashed_body: 5 * 1024 * 1024 * 1024,
            caller_requests: 2_000,
            expect_continue_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(25),
            drain_delay: Duration::ZERO,
        }
    }
}

const SECTIONS: [&str; 17] = [
    "listeners",
    "admin",
    "ca",
    "unbound",
    "callers",
    "service_accounts",
    "credentials",
    "bindings",
    "secret_stores",
    "metrics",
    "log",
    "upstream",
    "tokens",
    "limits",
    "store",
    "audit",
    "traces",
];

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![ConfigError { path: String::new(), line: 0, message: format!("it cannot be read: {error}") }]
        })?;
        Self::parse(&text)
    }

    /// Every reference of the configuration to a secret's resting place.
    pub fn references(&self) -> Vec<&SecretRef> {
        let tokens = self.callers.iter().filter_map(|caller| match &caller.proof {
            CallerProof::Token(token) => Some(token.reference()),
            CallerProof::Uid(_) | CallerProof::ClientCert(_) | CallerProof::ServiceAccount(_) => None,
        });
        let own = self.secret_stores.iter().filter_map(|store| store.own.as_ref());
        let credentials = self.credentials.iter().chain(own).flat_map(|credential| credential.draft.references());
        tokens
            .chain(credentials)
            .chain(self.upstream.references())
            .chain(self.listeners.references())
            .chain(self.store.iter().flat_map(crate::store::Settings::references))
            .chain(self.admin.iter().flat_map(crate::api::Settings::references))
            .chain(self.tokens.references())
            .chain(self.traces.iter().flat_map(traces::Settings::references))
            .collect()
    }

    /// Checks a configuration text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<ConfigError>> {
        let document = Document::parse(text).map_err(|error| vec![error])?;
        let mut reader = Reader { document: &document, errors: Vec::new() };
        reader.known_keys();
        let listeners = crate::listen::Settings {
            forward: reader.list::<Forward>("listeners.forward"),
            reverse: reader.list::<Reverse>("listeners.reverse"),
            transparent: reader.list::<Transparent>("listeners.transparent"),
        };
        reader.known_listeners();
        let admin: Option<crate::api::Settings> = reader.section("admin");
        for (key, why) in admin.iter().flat_map(crate::api::Settings::check) {
            reader.error(&join("admin", &key), why);
        }
        let ca = reader.section("ca").unwrap_or_default();
        let unbound = reader.section("unbound").unwrap_or_default();
        let callers = reader.callers();
        let service_accounts = reader.service_accounts(&callers);
        let credentials = reader.credentials();
        let bindings = reader.bindings();
        let secret_stores = reader.secret_stores();
        reader.store_references(&secret_stores);
        let log: LogSettings = reader.section("log").unwrap_or_default();
        let metrics = reader.section("metrics").unwrap_or_default();
        let upstream = reader.section("upstream").unwrap_or_default();
        let tokens: crate::token::Settings = reader.section("tokens").unwrap_or_default();
        if let Err((key, why)) = tokens.check() {
            reader.error(&join("tokens", key), why);
        }
        let limits: LimitSettings = reader.section("limits").unwrap_or_default();
        let store = reader.section("store");
        let audit: Option<audit::Settings> = reader.section("audit");
        if audit.as_ref().is_some_and(|audit| audit.file_bytes < audit::SMALLEST_FILE) {
            reader.error(
                "audit.file_bytes",
                format!("at least {}, or there would be too many files", audit::SMALLEST_FILE),
            );
        }
        let traces: Option<traces::Settings> = reader.section("traces");
        for (key, why) in traces.iter().flat_map(traces::Settings::check) {
            reader.error(&join("traces", &key), why);
        }
        reader.limits(&limits);
        reader.log(&log);
        let errors = reader.errors;
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            listeners,
            admin,
            ca,
            unbound,
            callers,
            service_accounts,
            credentials,
            bindings,
            secret_stores,
            log,
            metrics,
            upstream,
            tokens,
            limits,
            store,
            audit,
            traces,
            document,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCaller {
    name: String,
    token: Option<SecretField>,
    uid: Option<u32>,
    client_cert: Option<String>,
    service_account: Option<String>,
}

#[derive(Deserialize)]
struct RawCredential {
    id: String,
    scheme: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    description: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    required: bool,
    #[serde(flatten)]
    own: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBinding {
    name: Option<String>,
    credential: String,
    #[serde(default)]
    callers: Vec<String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    allow_cleartext: bool,
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    #[serde(default)]
    only_named: bool,
    #[serde(default, deserialize_with = "crate::base::request::some")]
    services: Vec<String>,
    #[serde(default, deserialize_with = "crate::base::request::some")]
    regions: Vec<String>,
    #[serde(default, deserialize_with = "crate::base::request::some")]
    actions: Vec<String>,
}

fn yes() -> bool {
    true
}

struct Reader<'d> {
    document: &'d Document,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(self.document.error(path, message));
    }

    fn known_keys(&mut self) {
        if !self.document.is_map() {
            self.error("", "a configuration is a map of sections");
        }
        let unknown: Vec<String> =
            self.document.keys().into_iter().filter(|key| !SECTIONS.contains(key)).map(str::to_owned).collect();
        for key in unknown {
            self.error(&key, format!("unknown section; there are {}", SECTIONS.join(", ")));
        }
    }

    fn known_listeners(&mut self) {
        if let serde_json::Value::Object(kinds) = self.document.value("listeners") {
            for kind in kinds.keys().filter(|kind| !["forward", "reverse", "transparent"].contains(&kind.as_str())) {
                self.error(
                    &format!("listeners.{kind}"),
                    "unknown kind of listener; there are forward, reverse, transparent",
                );
            }
        } else if self.document.has("listeners") {
            self.error("listeners", "write `forward:`, `reverse:` or `transparent:` below it");
        }
    }

    fn section<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        if !self.document.has(path) {
            return None;
        }
        self.document.read(path).map_err(|error| self.errors.push(error)).ok()
    }

    fn list<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Vec<T> {
        if !self.document.is_list(path) {
            self.error(path, "a list is expected: write `- ` before each element");
        }
        (0..self.document.count(path)).filter_map(|index| self.section(&format!("{path}[{index}]"))).collect()
    }

    /// Reads a list together with the path of each element.
    fn entries<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Vec<(String, T)> {
        if !self.document.is_list(path) {
            self.error(path, "a list is expected: write `- ` before each element");
        }
        let mut entries = Vec::new();
        for index in 0..self.document.count(path) {
            let at = format!("{path}[{index}]");
            if let Some(entry) = self.section(&at) {
                entries.push((at, entry));
            }
        }
        entries
    }

    /// Parses each text of a list, noting every error.
    fn each<T>(&mut self, path: &str, texts: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut parsed = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(why) => self.error(&format!("{path}[{index}]"), why),
            }
        }
        parsed
    }

    fn callers(&mut self) -> Vec<CallerSettings> {
        let mut callers: Vec<CallerSettings> = Vec::new();
        for (path, raw) in self.entries::<RawCaller>("callers") {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
            if raw.name.is_empty() || !raw.name.chars().all(plain) {
                self.error(&join(&path, "name"), "a caller's name has letters, digits, `-`, `_`, `.`, `/` and `@`");
            }
            if callers.iter().any(|other| other.name == raw.name) {
                self.error(&join(&path, "name"), format!("{} is listed twice", raw.name));
            }
            let proof = match (raw.token, raw.uid, raw.client_cert, raw.service_account) {
                (Some(token), None, None, None) => CallerProof::Token(token),
                (None, Some(uid), None, None) => CallerProof::Uid(uid),
                (None, None, Some(name), None) => CallerProof::ClientCert(name),
                (None, None, None, Some(account)) => {
                    if let Err(why) = check_account(&account) {
                        self.error(&join(&path, "service_account"), why);
                    }
                    CallerProof::ServiceAccount(account)
                }
                _ => {
                    self.error(
                        &path,
                        "a caller is proven by one of `token`, `uid`, `client_cert` and `service_account`",
                    );
                    continue;
                }
            };
            callers.push(CallerSettings { name: raw.name, proof });
        }
        callers
    }

    fn service_accounts(&mut self, callers: &[CallerSettings]) -> Option<ServiceAccountSettings> {
        let path = "service_accounts";
        let settings: Option<ServiceAccountSettings> = self.section(path);
        for (key, why) in settings.iter().flat_map(ServiceAccountSettings::check) {
            self.error(&if key.is_empty() { path.to_owned() } else { join(path, key) }, why);
        }
        let proven = |caller: &CallerSettings| matches!(caller.proof, CallerProof::ServiceAccount(_));
        if let Some(index) = callers.iter().position(proven).filter(|_| !self.document.has(path)) {
            let at = format!("callers[{index}].service_account");
            self.error(&at, "`service_accounts` says how its token is verified: `token_review: {}` in a pod");
        }
        settings
    }

    fn credentials(&mut self) -> Vec<CredentialSettings> {
        let mut credentials = Vec::new();
        let mut seen = HashSet::new();
        for (path, raw) in self.entries::<RawCredential>("credentials") {
            if !is_id(&raw.id) {
                self.error(
                    &join(&path, "id"),
                    "an id has up to 128 letters, digits, `-` and `_`, and does not begin with `-`",
                );
            }
            if !seen.insert(raw.id.clone()) {
                self.error(&join(&path, "id"), format!("{} is listed twice", raw.id));
            }
            let Some(kind) = scheme::find(&raw.scheme) else {
                let names: Vec<_> = scheme::KINDS.iter().map(|kind| kind.name).collect();
                self.error(&join(&path, "scheme"), format!("unknown scheme; there are {}", names.join(", ")));
                continue;
            };
            let mut hosts = self.each(&join(&path, "hosts"), &raw.hosts, HostPattern::parse);
            let draft = match (kind.parse)(serde_json::Value::Object(raw.own)) {
                Ok(draft) => draft,
                Err(error) => {
                    self.error(&join(&path, &error.path), error.message);
                    continue;
                }
            };
            let named: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            // With one that is no pattern the others have other places.
            if let Some(error) = draft.check_hosts(&named).err().filter(|_| named.len() == raw.hosts.len()) {
                self.error(&join(&path, &error.path), error.message);
            }
            if raw.hosts.is_empty() {
                let own = || kind.default_hosts.iter().map(|host| (*host).to_owned()).collect();
                let own: Vec<String> = draft.default_hosts().unwrap_or_else(own);
                hosts.extend(own.iter().filter_map(|host| HostPattern::parse(host).ok()));
            }
            credentials.push(CredentialSettings {
                id: raw.id,
                kind,
                hosts,
                tags: raw.tags,
                description: raw.description,
                enabled: raw.enabled,
                required: raw.required,
                draft,
            });
        }
        credentials
    }

    fn secret_stores(&mut self) -> Vec<SecretStoreSettings> {
        let mut stores: Vec<SecretStoreSettings> = Vec::new();
        for (path, value) in self.entries::<serde_json::Value>("secret_stores") {
            let (settings, implied) = match StoreSettings::parse(value) {
                Ok(parsed) => parsed,
                Err(error) => {
                    self.error(&join(&path, &error.path), error.message);
                    continue;
                }
            };
            if stores.iter().any(|other| other.settings.name == settings.name) {
                self.error(&join(&path, "name"), format!("{} is listed twice", settings.name));
            }
            let own = match implied.map(|implied| own_credential(&settings.credential, implied)).transpose() {
                Ok(own) => own,
                Err((below, why)) => {
                    self.error(&join(&path, &below), why);
                    continue;
                }
            };
            stores.push(SecretStoreSettings { settings: Arc::new(settings), own });
        }
        stores
    }

    /// Judges every reference to a secret of a store where it stands.
    fn store_references(&mut self, stores: &[SecretStoreSettings]) {
        let find = |name: &str| stores.iter().map(|store| &store.settings).find(|settings| settings.name == name);
        let unknown = |name: &str| format!("there is no store {name}; list it under `secret_stores`");
        // What is wrong with a store is said there, and not once more of every reference to it.
        let count = self.document.count("secret_stores");
        let listed: Vec<_> = (0..count).map(|at| self.document.value(&format!("secret_stores[{at}].name"))).collect();
        for (path, map) in self.document.maps() {
            let section = path.split(['.', '[']).next().unwrap_or_default();
            if path == "store.key.transit" {
                let name = map["store"].as_str().unwrap_or_default();
                match find(name) {
                    None => self.error(&join(&path, "store"), unknown(name)),
                    Some(settings) if !settings.is("vault") => {
                        self.error(&join(&path, "store"), format!("{name} is not of kind vault"));
                    }
                    Some(_) => {}
                }
            }
            let Ok(SecretRef::Store(reference)) = serde_json::from_value(map) else { continue };
            match find(&reference.store).map(|settings| settings.check(&reference)) {
                None if listed.contains(&reference.store.as_str().into()) => {}
                None => self.error(&join(&path, "store"), unknown(&reference.store)),
                Some(Err(error)) => self.error(&join(&path, &error.path), error.message),
                Some(Ok(())) if ["upstream", "tokens", "store", "service_accounts"].contains(&section) => {
                    let why = "stores are read over the way out and with the tokens that this sets up, so it cannot rest there; \
                               write { env }, { file } or { command }";
                    self.error(&path, why);
                }
                Some(Ok(())) => {}
            }
        }
    }

    fn bindings(&mut self) -> Vec<BindingSettings> {
        let mut bindings = Vec::new();
        for (path, raw) in self.entries::<RawBinding>("bindings") {
            bindings.push(BindingSettings {
                hosts: self.each(&join(&path, "hosts"), &raw.hosts, HostPattern::parse),
                methods: self.each(&join(&path, "methods"), &raw.methods, method),
                paths: self.each(&join(&path, "paths"), &raw.paths, PathPrefix::parse),
                narrowing: Narrowing {
                    services: self.each(&join(&path, "services"), &raw.services, Narrowing::service),
                    regions: self.each(&join(&path, "regions"), &raw.regions, Narrowing::region),
                    actions: self.each(&join(&path, "actions"), &raw.actions, Narrowing::action),
                },
                name: raw.name.unwrap_or(path),
                credential: raw.credential,
                callers: raw.callers,
                allow_cleartext: raw.allow_cleartext,
                allow_addresses: raw.allow_addresses,
                only_named: raw.only_named,
            });
        }
        bindings
    }

    fn limits(&mut self, limits: &LimitSettings) {
        if !(1..=MAX_HEADERS).contains(&limits.header_count) {
            self.error("limits.header_count", format!("from 1 to {MAX_HEADERS}"));
        }
        if !(1024..=256 * 1024).contains(&limits.header_bytes) {
            self.error("limits.header_bytes", "from 1024 to 262144");
        }
        for (key, value) in [("connections", limits.connections), ("caller_requests", limits.caller_requests)] {
            if value == 0 {
                self.error(&format!("limits.{key}"), "zero would refuse everything");
            }
        }
    }

    fn log(&mut self, log: &LogSettings) {
        let level = |part: &str| part.rsplit('=').next().unwrap_or_default().trim().parse::<LevelFilter>().is_ok();
        if !log.level.split(',').all(level) {
            self.error("log.level", "write error, warn, info, debug or trace, or such as `info,countersign=debug`");
        }
    }
}

/// The credential that a store's own keys describe, or what is wrong with it at which of those keys.
fn own_credential(id: &str, implied: Implied) -> Result<CredentialSettings, (String, String)> {
    let unknown = || (String::new(), format!("there is no scheme {}", implied.scheme));
    let kind = scheme::find(implied.scheme).ok_or_else(unknown)?;
    let draft = (kind.parse)(implied.settings.clone()).map_err(|error| (implied.path(&error.path), error.message))?;
    draft.check_hosts(&implied.hosts).map_err(|error| (implied.path(&error.path), error.message))?;
    let hosts: Result<_, _> = implied.hosts.iter().map(|host| HostPattern::parse(host)).collect();
    let hosts = hosts.map_err(|why| (implied.path("hosts"), why))?;
    let (id, tags) = (id.to_owned(), BTreeMap::new());
    Ok(CredentialSettings { id, kind, hosts, tags, description: None, enabled: true, required: false, draft })
}

/// `^[_a-zA-Z0-9][-_a-zA-Z0-9]{0,127}$`
fn is_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=128).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-')
}

/// A method as it is sent: upper case, since methods are case-sensitive and a lower-case rule would never match.
pub(crate) fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    if upper == "CONNECT" {
        return Err("CONNECT opens a tunnel and is not a method of a request".into());
    }
    Method::from_bytes(upper.as_bytes()).map_err(|_| format!("`{text}` is not a method"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        Config::parse(text).map_or_else(|errors| errors.iter().map(ToString::to_string).collect(), |_| vec![])
    }

    #[test]
    fn an_empty_file_is_a_configuration_with_every_default() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.unbound, Unbound::Deny);
        assert_eq!(config.limits, LimitSettings::default());
    }

    #[test]
    fn every_error_is_reported_at_once_with_its_path_and_line() {
        let text = "listners: {}\nunbound: maybe\nbindings:\n  - credential: x\n    hosts: [\"a.*.test\", \"*\"]\n  - credentail: y\n\
                    credentials:\n  - { id: a, scheme: magic }\n  - id: b\n    scheme: api_key\n    key: hunter2\n";
        let errors = errors(text);
        let expect =
            |start: &str| assert!(errors.iter().any(|error| error.starts_with(start)), "{start} in {errors:#?}");
        expect("line 1: listners: unknown section");
        expect("line 2: unbound");
        expect("line 5: bindings[0].hosts[0]");
        expect("line 5: bindings[0].hosts[1]");
        expect("line 6: bindings[1].credentail: unknown field");
        expect("line 8: credentials[0].scheme: unknown scheme");
        expect("line 11: credentials[1].key: a secret does not stand in this file");
        assert_eq!(errors.len(), 7, "{errors:#?}");
        assert!(!errors.iter().any(|error| error.contains("hunter2")));
    }

    #[test]
    fn an_unknown_key_of_a_scheme_is_an_error_with_its_line() {
        let text = "credentials:\n  - id: a\n    scheme: basic\n    username: u\n    pasword: { env: P }\n";
        assert_eq!(errors(text).len(), 1);
        assert!(errors(text)[0].contains("credentials[0].pasword"), "{:?}", errors(text));
    }

    #[test]
    fn a_scheme_tells_its_own_hosts_from_those_of_others() {
        let azure =
            |more: &str| format!("credentials:\n  - id: a\n    scheme: azure\n    managed_identity: true\n{more}");
        let config = Config::parse(&azure("    audience: graph\n")).unwrap();
        let hosts: Vec<_> = config.credentials[0].hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["graph.microsoft.com"]);
        let foreign = errors(&azure("    audience: graph\n    hosts: [graph.microsoft.com, Management.Azure.com]\n"));
        assert_eq!(foreign.len(), 1);
        assert!(foreign[0].starts_with("line 6: credentials[0].hosts[1]: management.azure.com: "), "{foreign:?}");
        let none = errors(&azure("    audience: key_vault\n"));
        assert!(none.len() == 1 && none[0].contains("credentials[0].hosts: every customer"), "{none:?}");
    }

    #[test]
    fn ids_names_and_limits_are_checked() {
        for text in [
            "credentials: [{ id: -a, scheme: basic, username: u, password: { env: P } }]",
            "callers: [{ name: \"a+b\", uid: 1 }]",
            "callers: [{ name: a }]",
            "callers: [{ name: a, uid: 1, client_cert: x }]",
            "callers: [{ name: a, service_account: ns/app }]",
            "callers: [{ name: a, service_account: app }]\nservice_accounts: { token_review: {} }",
            "service_accounts: { audience: countersign }",
            "service_accounts: { audience: \"\", token_review: {} }",
            "service_accounts: { token_review: { server: \"http://kubernetes.default.svc\" } }",
            "service_accounts: { token_review: {}, issuer: \"https://issuer.test\" }",
            "service_accounts: { issuer: \"http://issuer.test\" }",
            "service_accounts: { issuer: \"https://issuer.test\", jwks: keys.json }",
            "limits: { header_count: 0 }",
            "limits: { idle_timeout: 5 }",
            "log: { level: \"no such level\" }",
            "bindings: { a: b }",
            "listeners: { transparnt: [] }",
            "listeners: { reverse: [{ address: 127.0.0.1:0 }] }",
            "[]",
        ] {
            assert!(!errors(text).is_empty(), "{text}");
        }
    }
}
