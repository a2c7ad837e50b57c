//! From a configuration to everything that it describes, binding nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::file::FilePart;
use super::refresh::Followed;
use super::secret_stores::Opened;
use super::watch::Fingerprints;
use crate::api::Declared;
use crate::base::{Deps, HttpClients, Narrowing, Secret, Voucher};
use crate::base::{Lifetime, SecretRef, Secrets};
use crate::config::{CallerProof, CallerSettings, Config, ConfigError, CredentialSettings};
use crate::listen::framing::HeadLimits;
use crate::listen::{ConnectionLimits, Door, Patience};
use crate::observe::traces::Collector;
use crate::proxy::{Limits, State};
use crate::route::{
    Binding, CallerRule, Callers, CredentialEntry, HostPattern, Lending, PathPrefix, Readiness, RouteTable,
};
use crate::scheme::{Draft, Outside, Setup};
use crate::source::{Sources, Stores};
use crate::token::{FleetKey, KeyBuilder, Sealer, ServiceAccounts, Shared, StateDirectory, Tokens};
use crate::upstream::{OwnAddresses, Roots, Upstream};

/// What building needs beside the configuration.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The outside.
    pub deps: &'a Deps,
    /// The system's root certificates.
    pub roots: &'a Roots,
    /// The addresses of our own listeners.
    pub own: &'a OwnAddresses,
    /// The token engine, which outlives configurations: what did not change keeps its token.
    pub tokens: &'a Tokens,
    /// The secret stores in use: what they gave is kept when their settings are the same.
    pub stores: Option<&'a Stores>,
    /// The upstream in use, whose connections are kept when its settings are the same.
    pub previous: Option<&'a Arc<Upstream>>,
    /// One private listener in place of the configured ones.
    pub private: Option<Private>,
}

/// The private listener of one command.
#[derive(Debug, Clone)]
pub enum Private {
    /// `run`: every connection is this caller, and means this credential.
    Command {
        /// The caller.
        caller: String,
        /// The credential, unless a request names another.
        credential: Option<String>,
    },
    /// `policy run`: each request shows the token of a run.
    Leased,
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
pub struct Draining {
    /// How long everything goes on as before, but for `/readyz`.
    pub delay: Duration,
    /// How long the rest may take.
    pub timeout: Duration,
}

/// Everything that a configuration describes.
#[derive(Debug)]
pub struct Built {
    /// For the proxy.
    pub state: State,
    /// What the route table is made of, to be made again with what the store adds.
    pub file: Arc<FilePart>,
    /// Where other processes leave their tokens.
    pub shared: Option<Arc<Shared>>,
    /// Where traces go.
    pub collector: Option<Collector>,
    /// For the listeners.
    pub doors: Vec<Door>,
    /// TLS of the admin listener.
    pub admin_tls: Option<Arc<rustls::ServerConfig>>,
    /// Limits of connections.
    pub limits: ConnectionLimits,
    /// How long draining may take, and when it begins.
    pub drain: Draining,
    /// References that could not be resolved and the like: `serve` goes on without them, `check` fails.
    pub unresolved: Vec<ConfigError>,
    /// What looks like a mistake and is none for certain.
    pub warnings: Vec<ConfigError>,
    /// Credentials whose secrets expire, to be loaded again in time.
    pub expiring: Vec<Expiring>,
    /// Secrets of stores whose change means a reload.
    pub followed: Option<Followed>,
    /// What brings the content of the store's credentials, where their routes are among the others.
    pub(super) stored: Option<Arc<super::stored::Stored>>,
    /// Files whose change means a reload, as they were before they were read.
    pub seen: Fingerprints,
}

/// A credential whose secrets expire, or could not be loaded yet.
#[derive(Debug)]
pub struct Expiring {
    /// Where the new content goes.
    pub entry: Arc<CredentialEntry>,
    /// How to make it.
    pub draft: Box<dyn Draft>,
    /// For how long what was loaded is good; for ever when nothing about it expires.
    pub lifetime: Option<Lifetime>,
    /// Whether the first load gave what was needed.
    pub loaded: bool,
    /// A digest of what was loaded, where it is known: the same content again changes nothing.
    pub content: Option<[u8; 32]>,
}

/// Builds everything.
///
/// # Errors
/// Every mistake that the whole shows and the parts do not.
pub async fn build(config: Config, parts: Parts<'_>) -> Result<Built, Vec<ConfigError>> {
    let mut builder = Builder::new(config, parts.deps).await;
    let upstream = builder.upstream(&parts);
    let outside = builder.outside(&parts, upstream.as_ref());
    let shared = builder.sharing(&parts);
    let credentials = builder.credentials(&parts, outside.as_ref()).await;
    let collector = builder.collector(&parts, upstream.as_ref());
    let rules = builder.callers(parts.private.as_ref());
    // Until the store was read nobody is listed, and whoever shows nothing would be `local`.
    let asks = matches!(parts.private, Some(Private::Leased));
    let callers = Callers::new(rules.clone());
    let callers = if asks { callers.asking() } else { callers };
    let mut doors = builder.doors(&callers);
    let admin_tls = builder.admin_tls();
    let mut bindings = builder.bindings(&credentials, &callers);
    bindings.extend(builder.route_bindings(&doors, &credentials, &callers));
    if let Some(private) = &parts.private {
        // The configured listeners were built for their routes' bindings alone.
        let loopback = crate::listen::Address::Tcp(([127, 0, 0, 1], 0).into());
        doors = vec![match private {
            Private::Command { caller, credential } => Door::private(loopback, caller, credential.as_deref()),
            Private::Leased => Door::leased(loopback),
        }];
    }
    builder.check_private(parts.private.as_ref(), &credentials, &callers);
    let unbound = builder.config.unbound;
    let bindings: Vec<Arc<Binding>> = bindings.into_iter().map(Arc::new).collect();
    let credentials: Vec<_> = credentials.into_values().collect();
    let table = RouteTable::new(bindings.clone(), credentials.clone(), callers, unbound);
    let table = table.map_err(|ties| {
        for tie in ties {
            let path = builder.paths.get(&*tie.second).cloned().unwrap_or_else(|| "bindings".to_owned());
            builder.error(&path, tie.to_string());
        }
    });
    match (table, upstream, outside, builder.errors.is_empty()) {
        (Ok(routes), Some(upstream), Some(outside), true) => {
            let file = FilePart {
                bindings,
                credentials,
                declared: std::mem::take(&mut builder.declared),
                callers: rules,
                asks,
                unbound,
                outside,
                sources: builder.sources.clone(),
                secret_stores: std::mem::take(&mut builder.opened),
                tokens: builder.config.tokens.clone(),
                upstream,
            };
            Ok(Built { shared, collector, ..builder.finish(routes, file, doors, admin_tls) })
        }
        _ => Err(builder.errors),
    }
}

/// The files that a configuration names.
pub(super) fn files(config: &Config) -> Vec<PathBuf> {
    let file = |reference: &SecretRef| match reference {
        SecretRef::File { file } => Some(file.clone()),
        _ => None,
    };
    let mut files: Vec<PathBuf> = config.references().into_iter().filter_map(file).collect();
    files.extend(config.upstream.ca_file.clone());
    files.extend(config.tokens.shared_ca_file.clone());
    let forward = config.listeners.forward.iter().filter_map(|listener| listener.tls.as_ref());
    let reverse = config.listeners.reverse.iter().filter_map(|listener| listener.tls.as_ref());
    for tls in forward.chain(reverse).chain(config.admin.iter().filter_map(|admin| admin.tls.as_ref())) {
        files.push(tls.certificate.clone());
        files.extend(tls.client_ca.clone());
    }
    files.sort();
    files.dedup();
    files
}

pub(super) struct Builder {
    pub(super) config: Config,
    pub(super) secrets: Secrets,
    pub(super) sources: Sources,
    pub(super) opened: Opened,
    pub(super) followed: Option<Followed>,
    declared: Vec<Declared>,
    pub(super) errors: Vec<ConfigError>,
    unresolved: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    expiring: Vec<Expiring>,
    seen: Fingerprints,
    pub(super) lending: Option<Arc<Lending>>,
    /// Where each binding stands, by its name.
    paths: HashMap<String, String>,
}

/// The settings and references of each credential and of what it borrows in turn.
pub(super) type Links = HashMap<String, Vec<(String, Vec<SecretRef>)>>;

pub(super) type Credentials = HashMap<String, Arc<CredentialEntry>>;

impl Builder {
    pub(super) async fn new(config: Config, deps: &Deps) -> Self {
        let sources = Sources::new(deps.clone());
        // Those that rest in stores follow when the stores can be asked.
        let here = config.references().into_iter().filter(|one| !matches!(one, SecretRef::Store(_)));
        Self {
            seen: Fingerprints::take(files(&config)),
            secrets: sources.load_all(here).await,
            sources,
            opened: Opened::default(),
            followed: None,
            declared: Vec::new(),
            config,
            errors: Vec::new(),
            unresolved: Vec::new(),
            warnings: Vec::new(),
            expiring: Vec::new(),
            lending: None,
            paths: HashMap::new(),
        }
    }

    pub(super) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(self.config.document.error(path, message));
    }

    /// Notes what looks like a mistake.
    pub(super) fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(self.config.document.error(path, message));
    }

    /// Notes what `serve` goes on without.
    pub(super) fn unresolved(&mut self, path: &str, message: impl Into<String>) {
        self.unresolved.push(self.config.document.error(path, message));
    }

    fn callers(&mut self, private: Option<&Private>) -> Vec<CallerRule> {
        let mut rules = Vec::new();
        for (index, CallerSettings { name, proof }) in self.config.callers.iter().enumerate() {
            rules.push(match proof {
                CallerProof::Uid(uid) => CallerRule::uid(name, *uid),
                CallerProof::ClientCert(san) => CallerRule::client_cert(name, san),
                CallerProof::ServiceAccount(account) => CallerRule::service_account(name, account),
                CallerProof::Token(token) => match self.secrets.field(token) {
                    Ok(token) => CallerRule::token(name, &token),
                    // A private listener asks for nobody's token but a run's, so one that only the service has is no matter.
                    Err(_) if private.is_some() => CallerRule::unproven(name),
                    Err(error) => {
                        let path = format!("callers[{index}].token");
                        self.unresolved.push(self.config.document.error(&path, error.0));
                        CallerRule::unproven(name)
                    }
                },
            });
        }
        let mut seen: HashMap<[u8; 32], String> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for proof in &rule.proofs {
                if let Some(other) = seen.insert(*proof, rule.name.clone()) {
                    let error = self.config.document.error(
                        &format!("callers[{index}]"),
                        format!("{} and {other} are proven by the same thing", rule.name),
                    );
                    self.errors.push(error);
                }
            }
        }
        rules
    }

    /// What schemes obtain tokens with; nothing when the way out or the state directory is set up wrongly.
    pub(super) fn outside(&mut self, parts: &Parts<'_>, upstream: Option<&Arc<Upstream>>) -> Option<Outside> {
        let settings = &self.config.tokens;
        let key = settings.key.as_ref().map(|key| self.secrets.field(key)).transpose();
        let state = key.map_err(|error| error.0);
        let state = state.and_then(|key| {
            StateDirectory::new(settings.directory.clone(), key.as_ref(), Arc::clone(parts.tokens.unsaved()))
        });
        let state = state.map_err(|why| self.error("tokens.key", why)).ok()?;
        Some(Outside {
            tokens: parts.tokens.clone(),
            http: Arc::clone(upstream?) as Arc<dyn HttpClients>,
            clock: Arc::clone(&parts.deps.clock),
            environment: Arc::clone(&parts.deps.environment),
            random: Arc::clone(&parts.deps.random),
            state: Arc::new(state.with_journals(parts.tokens.reliance().map(|store| Arc::clone(&store.journals)))),
            lender: self.lending(parts),
        })
    }

    /// Where tokens are shared, encrypted with keys that every process of the fleet has: those of a database that they have
    /// in common, else those that come of `tokens.key`.
    fn sharing(&mut self, parts: &Parts<'_>) -> Option<Arc<Shared>> {
        let settings = match self.config.tokens.sharing(&self.secrets) {
            Ok(settings) => settings?,
            Err((key, why)) => {
                let why = format!("each process obtains its own tokens: {why}");
                self.unresolved.push(self.config.document.error(&format!("tokens.{key}"), why));
                return None;
            }
        };
        let url = self.config.store.as_ref().map(|store| self.secrets.public(&store.url).unwrap_or_default());
        let in_common = url.as_ref().is_some_and(|url| url.starts_with("postgres"));
        let has_store = url.is_some() || self.config.admin.is_some();
        let key = self.config.tokens.key.as_ref().filter(|_| !in_common);
        let key = key.and_then(|key| self.secrets.field(key).ok());
        let sealer = match key.map(|key| FleetKey::parse(&key)) {
            Some(Ok(key)) => Some(Arc::new(key) as Arc<dyn Sealer>),
            // What is wrong with it is said where the state directory is set up.
            Some(Err(_)) => return None,
            None if has_store || self.config.tokens.key.is_some() => {
                parts.tokens.reliance().map(|store| Arc::clone(&store.sealer))
            }
            None => {
                let why = "shared tokens are encrypted: set `tokens.key` to the same 32 bytes in base64 in every \
                           process, or `store.url` to a database that they have in common";
                self.error("tokens.shared", why);
                return None;
            }
        };
        // Without a store that is open to this process, as `check` is, it is only looked whether it could be done.
        let checked = sealer.clone().unwrap_or_else(|| Arc::new(FleetKey::new(&Secret::new(Vec::new()))));
        match Shared::new(settings, checked, parts.roots, parts.deps) {
            Ok(shared) => sealer.map(|_| Arc::new(shared)),
            Err((key, why)) => {
                self.error(&format!("tokens.{key}"), why);
                None
            }
        }
    }

    /// Lets credentials authenticate each other's own requests.
    fn lending(&mut self, parts: &Parts<'_>) -> Arc<Lending> {
        let lending = Arc::new(Lending::new(Arc::clone(&parts.deps.clock), HashMap::new()));
        self.lending = Some(Arc::clone(&lending));
        lending
    }

    /// What each credential is made of, what it borrows included; wrong loans are errors.
    pub(super) fn links(&mut self) -> Links {
        let credentials = &self.config.credentials;
        let (mut links, mut errors) = (Links::new(), Vec::new());
        for (index, credential) in credentials.iter().enumerate() {
            let mut own = Vec::new();
            let (mut chain, mut next) = (vec![&credential.id], Some(credential));
            while let Some(link) = next {
                let place = (link.enabled, &link.hosts);
                let settings = format!("{} {place:?} {:?}", link.kind.name, link.draft);
                own.push((settings, link.draft.references().into_iter().cloned().collect()));
                let Some(loan) = link.draft.borrows() else { break };
                let id = loan.credential;
                next = credentials.iter().find(|one| one.id == id);
                let wrong = match (next, &loan.destination) {
                    (None, _) => Some(format!("there is no credential {id}")),
                    (Some(next), _) if chain.contains(&&next.id) => {
                        Some(format!("{id} needs {} itself", credential.id))
                    }
                    (Some(next), Some(to)) if !next.hosts.iter().any(|pattern| pattern.matches(to)) => {
                        Some(format!("{id} is not for {}; list it under its `hosts`", to.host()))
                    }
                    (Some(_), _) => None,
                };
                if let Some(why) = wrong {
                    // What is wrong further down the chain is said there.
                    if chain.len() == 1 || why.ends_with("itself") {
                        errors.push((format!("credentials[{index}].credential"), why));
                    }
                    break;
                }
                chain.extend(next.map(|next| &next.id));
            }
            links.insert(credential.id.clone(), own);
        }
        for (path, why) in errors {
            self.error(&path, why);
        }
        links
    }

    /// Tells lending the digest of each, with the secrets that are known by now.
    pub(super) fn describe(&self, links: &Links) {
        let digest = |links: &Vec<(String, Vec<SecretRef>)>| {
            let mut key = KeyBuilder::new(crate::route::DEFAULT_ACCOUNT, "");
            for (settings, references) in links {
                key = key.with("settings", settings);
                for reference in references {
                    // One that cannot be loaded makes the credential unusable; that is said where it is built.
                    let loaded = self.secrets.get(reference).ok();
                    key = key.with_option(&reference.to_string(), loaded.map(|secret| secret.expose().to_vec()));
                }
            }
            key.finish().hex()
        };
        if let Some(lending) = &self.lending {
            lending.describe(links.iter().map(|(id, links)| (id.clone(), digest(links))).collect());
        }
    }

    /// One credential, prepared as far as its secrets are there. What is a store's own is shown to nobody.
    pub(super) fn credential(
        &mut self,
        path: &str,
        settings: CredentialSettings,
        outside: Option<&Outside>,
        own: bool,
    ) -> Arc<CredentialEntry> {
        if settings.hosts.is_empty() {
            let warning = format!("{} has no hosts, so it signs nothing; list them under `hosts`", settings.id);
            self.warnings.push(self.config.document.error(path, warning));
        }
        if !own {
            self.declared.push(Declared {
                id: settings.id.clone(),
                scheme: settings.kind.name,
                hosts: settings.hosts.iter().map(ToString::to_string).collect(),
                tags: settings.tags.clone(),
                description: settings.description.clone(),
                enabled: settings.enabled,
                audience: settings.draft.audience(),
                accounts: settings.draft.accounts(),
            });
        }
        let CredentialSettings { id, kind, hosts, enabled, required, draft, .. } = settings;
        let build = |outside: &Outside| {
            let account = crate::route::DEFAULT_ACCOUNT;
            draft.build(&Setup { account, credential: &id, version: 0, secrets: &self.secrets, outside })
        };
        let readiness = match outside.filter(|_| enabled).map(build) {
            Some(Ok(scheme)) => Readiness::Ready(scheme),
            Some(Err(error)) => {
                self.unresolved.push(self.config.document.error(path, format!("{id} cannot be used: {error}")));
                Readiness::Unusable(error.0)
            }
            None => Readiness::Unusable("it is switched off".into()),
        };
        let loaded = matches!(readiness, Readiness::Ready(_));
        let entry = CredentialEntry::new(&id, kind.name, hosts, enabled, readiness)
            .except_for_strangers(kind)
            .required(required);
        let entry = Arc::new(entry);
        let lifetime = self.secrets.lifetime_of(draft.references());
        if enabled && (lifetime.is_some() || !loaded) {
            let content = loaded.then(|| self.secrets.digest_of(draft.references()));
            self.expiring.push(Expiring { entry: Arc::clone(&entry), draft, lifetime, loaded, content });
        }
        entry
    }

    fn bindings(&mut self, credentials: &Credentials, callers: &Callers) -> Vec<Binding> {
        let mut bindings = Vec::new();
        for (index, settings) in std::mem::take(&mut self.config.bindings).into_iter().enumerate() {
            let path = format!("bindings[{index}]");
            let Some(credential) = credentials.get(&settings.credential) else {
                self.error(&format!("{path}.credential"), format!("there is no credential {}", settings.credential));
                continue;
            };
            self.check_callers(&path, &settings.callers, callers);
            for (at, host) in settings.hosts.iter().enumerate() {
                self.check_host(&format!("{path}.hosts[{at}]"), host, credential);
            }
            if self.paths.insert(settings.name.clone(), path.clone()).is_some() {
                self.error(&format!("{path}.name"), format!("two bindings have the name {}", settings.name));
            }
            let hosts = if settings.hosts.is_empty() { credential.hosts.clone() } else { settings.hosts };
            bindings.push(Binding {
                name: settings.name.into(),
                credential: Arc::clone(credential),
                callers: settings.callers,
                hosts,
                methods: settings.methods,
                paths: settings.paths,
                allow_cleartext: settings.allow_cleartext,
                allow_addresses: settings.allow_addresses.into(),
                only_named: settings.only_named,
                narrowing: self.narrowing(&path, settings.narrowing, credential),
                route: None,
                policy: None,
                meter: crate::base::meter::MeterSlot::default(),
            });
        }
        bindings
    }

    /// A route with a credential is a binding for its upstream.
    fn route_bindings(&mut self, doors: &[Door], credentials: &Credentials, callers: &Callers) -> Vec<Binding> {
        let mut bindings = Vec::new();
        let listeners = self.config.listeners.reverse.clone();
        for (index, listener) in listeners.iter().enumerate() {
            for (at, settings) in listener.routes.iter().enumerate() {
                let path = format!("listeners.reverse[{index}].routes[{at}]");
                self.check_callers(&path, &settings.callers, callers);
                let methods: Vec<Method> = self.each(&path, "methods", &settings.methods, crate::config::method);
                let paths: Vec<PathPrefix> = self.each(&path, "paths", &settings.paths, PathPrefix::parse);
                let narrowing = Narrowing {
                    services: self.each(&path, "services", &settings.services, Narrowing::service),
                    regions: self.each(&path, "regions", &settings.regions, Narrowing::region),
                    actions: self.each(&path, "actions", &settings.actions, Narrowing::action),
                };
                let Some(id) = &settings.credential else {
                    let narrowed = !(settings.callers.is_empty() && methods.is_empty() && paths.is_empty());
                    let narrowed = narrowed || !narrowing.is_empty();
                    if narrowed || settings.allow_cleartext || !settings.allow_addresses.is_empty() {
                        self.error(&path, "callers, methods, paths, services, regions, actions, allow_cleartext and allow_addresses go with `credential`; without one the bindings decide");
                    }
                    continue;
                };
                let Some(credential) = credentials.get(id) else {
                    self.error(&format!("{path}.credential"), format!("there is no credential {id}"));
                    continue;
                };
                let Some(route) = doors.iter().flat_map(Door::routes).find(|route| *route.name == *path) else {
                    continue;
                };
                let authority = format!("{}:{}", route.destination.host(), route.destination.port());
                let Ok(host) = HostPattern::parse(&authority) else { continue };
                self.check_host(&format!("{path}.upstream"), &host, credential);
                bindings.push(Binding {
                    name: Arc::clone(&route.name),
                    credential: Arc::clone(credential),
                    callers: settings.callers.clone(),
                    hosts: vec![host],
                    methods,
                    paths,
                    allow_cleartext: settings.allow_cleartext,
                    allow_addresses: settings.allow_addresses.clone().into(),
                    only_named: false,
                    narrowing: self.narrowing(&path, narrowing, credential),
                    route: Some(Arc::clone(&route.name)),
                    policy: None,
                    meter: crate::base::meter::MeterSlot::default(),
                });
            }
        }
        bindings
    }

    fn each<T>(
        &mut self,
        path: &str,
        key: &str,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(why) => self.error(&format!("{path}.{key}[{index}]"), why),
            }
        }
        parsed
    }

    /// A binding's narrowing, which only a scheme that knows its services can obey.
    fn narrowing(&mut self, path: &str, narrowing: Narrowing, credential: &CredentialEntry) -> Option<Narrowing> {
        if narrowing.is_empty() {
            return None;
        }
        if crate::scheme::find(credential.scheme).is_none_or(|kind| kind.narrows.is_none()) {
            let why = format!(
                "`services`, `regions` and `actions` do not go with a credential of scheme {}",
                credential.scheme
            );
            self.error(path, why);
        }
        Some(narrowing)
    }

    fn check_callers(&mut self, path: &str, names: &[String], callers: &Callers) {
        for (index, name) in names.iter().enumerate() {
            if callers.named(name).is_none() {
                self.error(&format!("{path}.callers[{index}]"), format!("there is no caller {name}"));
            }
        }
    }

    fn check_host(&mut self, path: &str, host: &HostPattern, credential: &CredentialEntry) {
        if !credential.hosts.is_empty() && !credential.hosts.iter().any(|own| own.overlaps(host)) {
            let own: Vec<_> = credential.hosts.iter().map(ToString::to_string).collect();
            self.error(
                path,
                format!("{host} is not among the hosts of credential {} ({})", credential.id, own.join(", ")),
            );
        }
    }

    fn doors(&mut self, callers: &Callers) -> Vec<Door> {
        let mut doors = Vec::new();
        let has_callers = !callers.is_empty();
        let listeners = self.config.listeners.clone();
        let mut built = |builder: &mut Self, path: String, door: Result<Door, (String, String)>| match door {
            Ok(door) => doors.push(door),
            Err((key, why)) => builder.error(&format!("{path}.{key}"), why),
        };
        for (index, settings) in listeners.forward.iter().enumerate() {
            let door = Door::forward(settings, &self.secrets, has_callers);
            built(self, format!("listeners.forward[{index}]"), door);
        }
        for (index, settings) in listeners.reverse.iter().enumerate() {
            let path = format!("listeners.reverse[{index}]");
            let door = Door::reverse(settings, &self.secrets, has_callers, &path);
            built(self, path, door);
        }
        for (index, settings) in listeners.transparent.iter().enumerate() {
            built(self, format!("listeners.transparent[{index}]"), Door::transparent(settings, callers));
        }
        self.check_addresses(&listeners);
        doors
    }

    fn admin_tls(&mut self) -> Option<Arc<rustls::ServerConfig>> {
        let settings = self.config.admin.as_ref()?.tls.clone();
        crate::listen::tls(settings.as_ref(), &self.secrets).unwrap_or_else(|(key, why)| {
            self.error(&format!("admin.{key}"), why);
            None
        })
    }

    /// No two listeners on one address; port 0 is a new one each time.
    fn check_addresses(&mut self, listeners: &crate::listen::Settings) {
        use crate::listen::Address;
        let forward = listeners.forward.iter().map(|listener| &listener.address).enumerate();
        let reverse = listeners.reverse.iter().map(|listener| &listener.address).enumerate();
        let transparent = listeners.transparent.iter().map(|listener| &listener.address).enumerate();
        let paths = forward
            .map(|(index, address)| (format!("listeners.forward[{index}].address"), address))
            .chain(reverse.map(|(index, address)| (format!("listeners.reverse[{index}].address"), address)))
            .chain(transparent.map(|(index, address)| (format!("listeners.transparent[{index}].address"), address)));
        let mut seen: Vec<&Address> = Vec::new();
        for (path, address) in
            paths.filter(|(_, address)| !matches!(address, Address::Tcp(socket) if socket.port() == 0))
        {
            if seen.contains(&address) {
                self.error(&path, format!("two listeners on {address}"));
            }
            seen.push(address);
        }
    }

    fn check_private(&mut self, private: Option<&Private>, credentials: &Credentials, callers: &Callers) {
        let Some(Private::Command { caller, credential }) = private else { return };
        if caller != crate::route::LOCAL && !callers.knows(caller) {
            self.error("callers", format!("there is no caller {caller}"));
        }
        if let Some(id) = credential
            && !credentials.contains_key(id)
        {
            self.error("credentials", format!("there is no credential {id}"));
        }
    }

    pub(super) fn upstream(&mut self, parts: &Parts<'_>) -> Option<Arc<Upstream>> {
        if let Some(previous) = parts.previous.filter(|previous| previous.is_same(&self.config.upstream, parts.roots)) {
            return Some(Arc::clone(previous));
        }
        match Upstream::new(self.config.upstream.clone(), &self.secrets, parts.roots, Arc::clone(parts.own)) {
            Ok(upstream) => Some(Arc::new(upstream)),
            Err((key, why)) => {
                let path = if key.is_empty() { "upstream".to_owned() } else { format!("upstream.{key}") };
                self.error(&path, why);
                None
            }
        }
    }

    /// Who vouches for callers that are service accounts.
    fn voucher(&self, file: &FilePart) -> Option<Arc<dyn Voucher>> {
        let settings = self.config.service_accounts.as_ref()?;
        let listed = self.config.callers.iter().filter_map(|caller| match &caller.proof {
            CallerProof::ServiceAccount(account) => Some(account.clone()),
            _ => None,
        });
        let clients = Arc::clone(&file.upstream) as Arc<dyn HttpClients>;
        let clock = Arc::clone(&file.outside.clock);
        let accounts = ServiceAccounts::new(settings, listed, clients, clock, file.sources.clone())?;
        Some(Arc::new(accounts))
    }

    fn finish(
        self,
        routes: RouteTable,
        file: FilePart,
        doors: Vec<Door>,
        admin_tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Built {
        let limits = &self.config.limits;
        Built {
            state: State {
                routes,
                upstream: Arc::clone(&file.upstream),
                limits: Limits {
                    caller_requests: limits.caller_requests,
                    hashed_body: limits.hashed_body,
                    // Well before the wait for an answer is over, or no body would ever be sent.
                    expect_continue: limits.expect_continue_timeout.min(self.config.upstream.response_timeout / 2),
                },
                voucher: self.voucher(&file),
                log_requests: self.config.log.requests,
                metered: self.config.metrics.enabled && crate::base::meter::is_on(),
            },
            shared: None,
            collector: None,
            doors,
            admin_tls,
            limits: ConnectionLimits {
                connections: limits.connections,
                head: HeadLimits { bytes: limits.header_bytes, count: limits.header_count },
                patience: Patience { header_read: limits.header_read_timeout, idle: limits.idle_timeout },
            },
            drain: Draining { delay: limits.drain_delay, timeout: limits.drain_timeout },
            unresolved: self.unresolved,
            warnings: self.warnings,
            expiring: self.expiring,
            followed: self.followed,
            file: Arc::new(file),
            stored: None,
            seen: self.seen,
        }
    }
}
