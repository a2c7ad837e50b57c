//! The running application: start, reload, drain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

use super::build::{Built, Draining, Parts, Private, build, files};
use super::gauges;
use super::management::{ApiSlot, Around, Management};
use super::opening::StoreWanted;
use super::probes::Probes;
use super::refresh::Keepers;
use super::routes::Routes;
use super::secret_stores::InUse;
use super::supervisor;
use super::traces::Collecting;
use super::watch::{Fingerprints, Watch};
use crate::api::ProxyPlace;
use crate::base::Deps;
use crate::config::{Config, ConfigError};
use crate::listen::ca::{self, Ca, CaError};
use crate::listen::{Address, AdminTls, Bound, Door, HandedOver, Listener, Shared};
use crate::observe::audit::{self, AuditLog};
use crate::observe::metrics::{Exporter, metrics_router};
use crate::observe::router;
use crate::proxy::Proxy;
use crate::store::TokenStore;
use crate::token::{Reliance, Tokens};
use crate::upstream::{OwnAddresses, Roots, system_roots};

/// The system's roots are looked at this often, so that the bundle follows them.
const ROOTS_INTERVAL: Duration = Duration::from_secs(3600);

/// Longer than an exchange may take: half a minute for the call, and the disk.
const EXCHANGE_ENDS: Duration = Duration::from_secs(40);

/// A private listener ends with its command: whoever that left behind has no proxy any more, and a moment is enough for the rest.
const PRIVATE_DRAIN: Draining = Draining { delay: Duration::ZERO, timeout: Duration::from_secs(1) };

/// A request may be on its way on any connection that is open. One that has said nothing for so long is closed; this, and
/// no more than a fifth of the whole time.
const IDLE_STAYS: Duration = Duration::from_secs(3);

/// Why the application did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong.
    Config(Vec<ConfigError>),
    /// Something else is in the way: an address in use, a file that cannot be written.
    Other(String),
}

impl From<CaError> for StartError {
    fn from(error: CaError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Where the certificate authority's key rests.
#[derive(Debug, Clone)]
enum Authority {
    OnDisk(ca::Settings),
    InMemory,
}

/// The admin listener.
struct Admin {
    configured: Address,
    bound: Address,
    stop: CancellationToken,
}

/// The running application.
pub struct App {
    deps: Deps,
    path: Option<PathBuf>,
    private: Option<Private>,
    authority: Authority,
    roots: Roots,
    own: OwnAddresses,
    shared: Arc<Shared>,
    listeners: Vec<(Address, Listener)>,
    admin: Option<Admin>,
    exporter: Option<Exporter>,
    probes: Arc<Probes>,
    keepers: Keepers,
    stores: InUse,
    tokens: Tokens,
    routes: Arc<Routes>,
    management: Option<Management>,
    around: Around,
    admin_tls: AdminTls,
    seen: Fingerprints,
    /// The files of a configuration that is being tried.
    refused: Fingerprints,
    drain: Draining,
    audit: Option<AuditLog>,
    traces: Collecting,
    /// Listeners that were bound before this process began.
    handed: Arc<HandedOver>,
}

impl App {
    /// Starts from a configuration that was read from `path` (which is watched), or from nowhere, on the sockets that were
    /// handed over and others.
    ///
    /// # Errors
    /// Every mistake of the configuration, or the address that cannot be bound.
    pub async fn start(
        config: Config,
        path: Option<&Path>,
        deps: Deps,
        handed: Arc<HandedOver>,
    ) -> Result<Self, StartError> {
        let authority = Authority::OnDisk(config.ca.clone());
        Self::begin(config, path, deps, None, authority, handed).await
    }

    /// Starts one private listener for our own uid, with an authority whose key stays in memory.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_private(config: Config, deps: Deps, private: Private) -> Result<Self, StartError> {
        Self::begin(config, None, deps, Some(private), Authority::InMemory, Arc::default()).await
    }

    /// Starts the configured listeners with an authority whose key stays in memory, for demonstrations.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_in_memory(config: Config, deps: Deps) -> Result<Self, StartError> {
        Self::begin(config, None, deps, None, Authority::InMemory, Arc::default()).await
    }

    async fn begin(
        config: Config,
        path: Option<&Path>,
        mut deps: Deps,
        private: Option<Private>,
        authority: Authority,
        handed: Arc<HandedOver>,
    ) -> Result<Self, StartError> {
        // Before anything that it must hold.
        let audit = audit_wanted(&config, private.is_some());
        let audit = audit.map(|settings| AuditLog::open(&settings, &deps)).transpose();
        let audit = audit.map_err(StartError::Other)?;
        if let Some(audit) = &audit {
            deps.audit = Arc::new(audit.clone());
        }
        let begun = Self::begin_recorded(config, path, deps, private, (authority, handed), audit.clone()).await;
        match begun {
            Ok(app) => Ok(app),
            Err(error) => {
                if let Some(audit) = audit {
                    audit.close().await;
                }
                Err(error)
            }
        }
    }

    async fn begin_recorded(
        config: Config,
        path: Option<&Path>,
        deps: Deps,
        private: Option<Private>,
        (authority, handed): (Authority, Arc<HandedOver>),
        audit: Option<AuditLog>,
    ) -> Result<Self, StartError> {
        let own_file = path.map(|path| Fingerprints::take([path.to_owned()]));
        let roots = system_roots();
        let own: OwnAddresses = Arc::default();
        let admin = config.admin.clone().filter(|_| private.is_none());
        let may_quit = admin.as_ref().is_some_and(|admin| admin.quit);
        let exporter = config.metrics.enabled && admin.is_some();
        let exporter = exporter.then(|| Exporter::install(&config.metrics)).flatten();
        let tokens = Tokens::new(&deps);
        let token_store = TokenStore::new(Arc::clone(&deps.random));
        let parts = Parts {
            deps: &deps,
            roots: &roots,
            own: &own,
            tokens: &tokens,
            stores: None,
            previous: None,
            private: private.clone(),
        };
        let store = StoreWanted::of(&config, private.is_some());
        tokens.rely_on(store.is_some().then(|| reliance(&token_store)));
        let built = build(config, parts).await.map_err(StartError::Config)?;
        report(&built);
        handed.check(|address| is_wanted(address, &built, admin.as_ref())).map_err(StartError::Other)?;
        let mut bound = Vec::new();
        for door in &built.doors {
            bound.push(door.bind(&handed).await.map_err(StartError::Other)?);
        }
        let admin = match admin {
            Some(settings) => {
                let bound = handed.bind(&settings.address, 0o600).await.map_err(StartError::Other)?;
                Some((settings.address.clone(), bound))
            }
            None => None,
        };
        let ca = Arc::new(match &authority {
            Authority::OnDisk(settings) => Ca::load_or_create(settings, deps.clock.now())?,
            Authority::InMemory => Ca::in_memory(deps.clock.now())?,
        });
        if let Authority::OnDisk(settings) = &authority {
            ca::write_bundle(&settings.bundle_path(), &roots, &ca)?;
        }
        tokens.share(built.shared.clone());
        let Built { state, file, doors, admin_tls, limits, drain, expiring, followed, mut seen, collector, .. } = built;
        let state = if store.is_some() { state.before_the_store() } else { state };
        let proxy = Arc::new(Proxy::new(state, deps.clone()));
        let grace = store.as_ref().map(|store| store.settings.grace).unwrap_or_default();
        let routes = Routes::new(Arc::clone(&proxy), &deps, Arc::clone(&file), grace);
        let stores = InUse::default();
        stores.adopt(&file.secret_stores);
        let around = Around {
            slot: ApiSlot::default(),
            audit: audit.clone(),
            tokens: token_store,
            stores: Arc::clone(&stores.stores),
        };
        let management = match &store {
            Some(wanted) => {
                let started = Management::start(&routes, &deps, wanted.clone(), around.clone()).await;
                Some(started.map_err(|error| StartError::Other(error.to_string()))?)
            }
            None => None,
        };
        let probes = Probes::new(&proxy, &stores, &routes, store.is_some());
        probes.allow_quit(may_quit);
        let shared = Arc::new(Shared::new(proxy, Arc::clone(&deps.clock), Some(ca), limits));
        let keeping = Arc::clone(&probes).keep(Arc::clone(&deps.clock));
        tokio::spawn(shared.drain.clone().run_until_cancelled_owned(keeping));
        seen.extend(own_file);
        let mut traces = Collecting::default();
        traces.follow(collector, &file.upstream, &deps);
        let private_listener = private.is_some();
        let mut app = Self {
            seen,
            refused: Fingerprints::default(),
            keepers: Keepers::start(expiring, followed, &file.sources, &file.outside),
            stores,
            tokens,
            routes,
            management,
            around,
            admin_tls: Arc::new(ArcSwapOption::new(admin_tls)),
            deps,
            path: path.map(Path::to_owned),
            private,
            authority,
            roots,
            own,
            shared,
            listeners: Vec::new(),
            admin: None,
            exporter,
            probes,
            drain: if private_listener { PRIVATE_DRAIN } else { drain },
            handed,
            audit,
            traces,
        };
        for (door, bound) in doors.into_iter().zip(bound) {
            app.listen(door, bound);
        }
        if let Some((configured, bound)) = admin {
            app.open_admin(configured, bound);
        }
        if let Some(exporter) = app.exporter.clone() {
            let upkeep = exporter.upkeep(Arc::clone(&app.deps.clock));
            // To the end of the process: what is drained is counted as well.
            tokio::spawn(upkeep);
        }
        app.publish();
        gauges::loaded(&app.deps);
        tracing::info!("started");
        Ok(app)
    }

    fn listen(&mut self, door: Door, bound: Bound) {
        if let Address::Tcp(address) = bound.address {
            // Known to the guard before the first connection is accepted.
            self.own.rcu(|own| own.iter().copied().chain([address]).collect::<Vec<_>>());
        }
        let configured = door.address.clone();
        self.listeners.push((configured, Listener::start(bound, door, &self.shared)));
    }

    fn open_admin(&mut self, configured: Address, bound: Bound) {
        let stop = CancellationToken::new();
        tracing::info!(listener = "admin", address = %bound.address, "listening");
        let address = bound.address.clone();
        let health = router(Arc::clone(&self.probes) as _);
        let health = match self.exporter.clone() {
            Some(exporter) => health.merge(metrics_router(exporter, self.gauges())),
            None => health,
        };
        let service = health.fallback_service(self.around.slot.clone());
        bound.serve_axum(service, Arc::clone(&self.admin_tls), stop.clone());
        self.admin = Some(Admin { configured, bound: address, stop });
    }

    /// What is looked up when somebody asks for the metrics.
    fn gauges(&self) -> impl Fn() -> Vec<crate::observe::metrics::Gauge> + Send + Sync + 'static {
        gauges::Looked {
            deps: self.deps.clone(),
            proxy: Arc::clone(&self.shared.proxy),
            stores: self.stores.clone(),
            routes: self.management.is_some().then(|| Arc::clone(&self.routes)),
            probes: Arc::clone(&self.probes),
            started: self.deps.clock.now(),
        }
        .into_closure()
    }

    /// Where runs of policies call: the first forward listener that intercepts.
    fn proxy_place(&self) -> Option<ProxyPlace> {
        let (address, encrypted) = self.listeners.iter().find_map(|(_, listener)| {
            let door = listener.door.load();
            match &listener.address {
                Address::Tcp(address) if door.intercepts() == Some(true) => Some((*address, door.is_encrypted())),
                _ => None,
            }
        })?;
        // An address that means every one of this host is called by the one that is there for sure.
        let host = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Some(ProxyPlace {
            scheme: if encrypted { "https" } else { "http" },
            address: SocketAddr::new(host, address.port()).to_string(),
            certificate: self.shared.ca()?.pem().to_owned(),
        })
    }

    /// Tells the guard and the admin listener what there is now.
    fn publish(&self) {
        let admin = self.admin.as_ref().map(|admin| &admin.bound);
        let addresses = self.listeners.iter().map(|(_, listener)| &listener.address).chain(admin);
        let sockets = addresses.filter_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        });
        self.own.store(Arc::new(sockets.collect()));
        self.routes.set_proxy_place(self.proxy_place());
        self.write_environment();
        let listening =
            |(_, listener): &(Address, Listener)| format!("{} {}", listener.door.load().kind(), listener.address);
        self.probes.publish(self.listeners.iter().map(listening).collect());
    }

    /// Tells the tools of callers where we are, where a file of it is asked for.
    fn write_environment(&self) {
        let (Authority::OnDisk(settings), Some(ca)) = (&self.authority, self.shared.ca()) else { return };
        let place = self.proxy_place();
        let proxy = place.map(|place| format!("{}://{}", place.scheme, place.address));
        if let Err(error) = ca::write_environment(settings, &self.roots, &ca, proxy.as_deref()) {
            tracing::error!(%error, "what points tools at Countersign cannot be written");
        }
    }

    /// The addresses that were bound, by kind.
    pub fn addresses(&self) -> Vec<(&'static str, Address)> {
        self.listeners.iter().map(|(_, listener)| (listener.door.load().kind(), listener.address.clone())).collect()
    }

    /// Where the admin listener is, if there is one.
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin.as_ref().map(|admin| &admin.bound)
    }

    /// The certificate authority.
    pub fn ca(&self) -> Option<Arc<Ca>> {
        self.shared.ca()
    }

    /// The system's roots.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Runs until told to stop, by `stop` or at the admin listener; `reload` is for SIGHUP. A change of a watched file reloads too.
    pub async fn run(&mut self, mut reload: impl AsyncFnMut(), stop: impl Future<Output = ()>) {
        let mut watch = Watch::new();
        let quit = self.probes.told_to_quit().clone();
        let stop = async {
            tokio::select! {
                () = stop => {}
                () = quit.cancelled() => {}
            }
        };
        let mut stop = std::pin::pin!(stop);
        let mut roots = tokio::time::interval(ROOTS_INTERVAL);
        roots.tick().await;
        loop {
            watch.set(self.seen.files());
            // What changed before its folder was watched.
            if self.seen.changed() {
                tokio::select! {
                    () = stop.as_mut() => return,
                    () = self.reload() => continue,
                }
            }
            let again = tokio::select! {
                () = stop.as_mut() => return,
                () = reload() => true,
                () = watch.changed() => false,
                () = self.keepers.outdated() => true,
                _ = roots.tick() => {
                    self.renew_authority();
                    system_roots() != self.roots
                }
            };
            if again {
                // Nothing is changed before everything is ready, so a stop may come at any moment.
                tokio::select! {
                    () = stop.as_mut() => return,
                    () = self.reload() => {}
                }
            }
        }
    }

    /// Reads the configuration again. A bad one changes nothing and says so.
    pub async fn reload(&mut self) {
        self.seen.renew();
        let Some(path) = self.path.clone() else { return };
        supervisor::reloading();
        let outcome = self.try_reload(&path).await;
        supervisor::ready();
        gauges::reloaded(&self.deps, outcome.is_ok());
        if outcome.is_err() {
            // What the refused configuration names may appear or be mended without the file itself changing.
            let named = std::mem::take(&mut self.refused);
            self.seen.extend_missing(named);
        }
        match outcome {
            Ok(()) => tracing::info!(file = %path.display(), "configuration reloaded"),
            Err(StartError::Config(errors)) => {
                for error in &errors {
                    tracing::error!(file = %path.display(), %error, "the new configuration is wrong; the old one stays");
                }
            }
            Err(StartError::Other(error)) => {
                tracing::error!(file = %path.display(), error, "the new configuration cannot be used; the old one stays");
            }
        }
    }

    async fn try_reload(&mut self, path: &Path) -> Result<(), StartError> {
        // Taken before anything is read: what changes from here on is a change again.
        let own_file = Fingerprints::take([path.to_owned()]);
        let config = Config::load(path).map_err(StartError::Config)?;
        if config.document.is_empty() {
            // Most often a file that is being written this very moment.
            return Err(StartError::Config(vec![config.document.error("", "the file is empty")]));
        }
        self.refused = Fingerprints::take(files(&config));
        let (ca_settings, admin) = (config.ca.clone(), config.admin.clone());
        let audit = audit_wanted(&config, self.private.is_some());
        let roots = system_roots();
        let upstream = Arc::clone(&self.shared.proxy.state().upstream);
        let stores = self.stores.stores.load_full();
        let parts = Parts {
            deps: &self.deps,
            roots: &roots,
            own: &self.own,
            tokens: &self.tokens,
            stores: Some(&stores),
            previous: Some(&upstream),
            private: self.private.clone(),
        };
        let store = StoreWanted::of(&config, self.private.is_some());
        self.tokens.rely_on((store.is_some() || self.management.is_some()).then(|| reliance(&self.around.tokens)));
        let built = build(config, parts).await.map_err(StartError::Config)?;
        self.handed.check(|address| is_wanted(address, &built, admin.as_ref())).map_err(StartError::Other)?;
        let mut free: Vec<_> = self
            .listeners
            .iter()
            .map(|(configured, listener)| (configured.clone(), listener.door.load().kind()))
            .collect();
        let mut new = Vec::new();
        for door in &built.doors {
            let same = free.iter().position(|(configured, kind)| *configured == door.address && *kind == door.kind());
            new.push(match same {
                Some(index) => {
                    free.swap_remove(index);
                    None
                }
                None => Some(door.bind(&self.handed).await.map_err(StartError::Other)?),
            });
        }
        let may_quit = admin.as_ref().is_some_and(|admin| admin.quit);
        let configured = admin.as_ref().map(|admin| &admin.address);
        let admin_stays = configured == self.admin.as_ref().map(|admin| &admin.configured);
        let new_admin = match configured.filter(|_| !admin_stays) {
            Some(address) => {
                Some((address.clone(), self.handed.bind(address, 0o600).await.map_err(StartError::Other)?))
            }
            None => None,
        };
        let ca = Arc::new(Ca::load_or_create(&ca_settings, self.deps.clock.now())?);
        ca::write_bundle(&ca_settings.bundle_path(), &roots, &ca)?;
        // From here on nothing fails.
        report(&built);
        self.tokens.share(built.shared.clone());
        let Built { state, file, doors, admin_tls, limits, drain, expiring, followed, mut seen, collector, .. } = built;
        self.traces.follow(collector, &file.upstream, &self.deps);
        if self.audit.as_ref().map(AuditLog::settings) != audit.as_ref() {
            tracing::warn!("the change of `audit` takes effect when Countersign starts again");
        }
        self.authority = Authority::OnDisk(ca_settings);
        if self.shared.ca().is_none_or(|old| old.pem() != ca.pem()) {
            self.shared.set_ca(Some(ca));
        }
        self.roots = roots;
        self.shared.set_limits(limits);
        self.admin_tls.store(admin_tls);
        self.stores.adopt(&file.secret_stores);
        self.keepers = Keepers::start(expiring, followed, &file.sources, &file.outside);
        self.routes.replace(state, file).await;
        self.manage(store).await;
        self.drain = drain;
        seen.extend(Some(own_file));
        self.seen = seen;
        self.replace_listeners(doors, new);
        self.probes.allow_quit(may_quit);
        if !admin_stays {
            if let Some(admin) = self.admin.take() {
                admin.stop.cancel();
            }
            if let Some((address, bound)) = new_admin {
                self.open_admin(address, bound);
            }
        }
        self.publish();
        Ok(())
    }

    /// Follows what the new configuration says of the store and the API.
    async fn manage(&mut self, wanted: Option<StoreWanted>) {
        match (&self.management, wanted) {
            (Some(management), Some(wanted)) => management.reload(wanted).await,
            (None, Some(_)) => tracing::error!("`store` or `admin` is new: that is obeyed after a restart"),
            (Some(_), None) => tracing::error!("`store` is gone: that is obeyed after a restart"),
            (None, None) => {}
        }
    }

    fn replace_listeners(&mut self, doors: Vec<Door>, new: Vec<Option<Bound>>) {
        let mut old = std::mem::take(&mut self.listeners);
        for (door, bound) in doors.into_iter().zip(new) {
            match bound {
                Some(bound) => self.listen(door, bound),
                None => {
                    let same = |(configured, listener): &(Address, Listener)| {
                        *configured == door.address && listener.door.load().kind() == door.kind()
                    };
                    if let Some(index) = old.iter().position(same) {
                        let kept = old.swap_remove(index);
                        kept.1.door.store(Arc::new(door));
                        self.listeners.push(kept);
                    }
                }
            }
        }
        for (_, listener) in old {
            listener.stop();
            tracing::info!(address = %listener.address, "no longer listening");
        }
    }

    /// Writes the bundle again when the system's roots changed, and makes a new authority before the old one ends.
    fn renew_authority(&mut self) {
        let Authority::OnDisk(settings) = &self.authority else { return };
        let roots = system_roots();
        match Ca::load_or_create(settings, self.deps.clock.now()) {
            Ok(ca) => {
                if let Err(error) = ca::write_bundle(&settings.bundle_path(), &roots, &ca) {
                    tracing::error!(%error, "the CA bundle cannot be written");
                }
                if self.shared.ca().is_none_or(|old| old.pem() != ca.pem()) {
                    self.shared.set_ca(Some(Arc::new(ca)));
                }
                self.write_environment();
            }
            Err(error) => tracing::error!(%error, "the certificate authority cannot be renewed"),
        }
    }

    /// Takes no new work, lets what is under way finish, and gives up at the deadline. Says whether all finished.
    pub async fn drain(self) -> bool {
        self.probes.drain();
        tracing::info!("draining");
        let Draining { delay, timeout } = self.drain;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.shared.begin_drain();
        self.shared.tasks.close();
        self.tokens.stop_renewing();
        let ended = async {
            if tokio::time::timeout((timeout / 5).min(IDLE_STAYS), self.shared.tasks.wait()).await.is_err() {
                self.shared.close_idle();
                self.shared.tasks.wait().await;
            }
        };
        let finished = tokio::time::timeout(timeout, ended).await.is_ok();
        self.stores.revoke().await;
        // An exchange under way may be spending a refresh token: what it brings must be stored, however little time is left
        // for requests.
        let settled = tokio::time::timeout(EXCHANGE_ENDS, self.tokens.settled()).await.is_ok();
        self.tokens.save().await;
        if let Some(management) = &self.management {
            management.close().await;
        }
        if !settled {
            tracing::error!("the use of a refresh token did not end; it may be lost");
        }
        if !finished {
            tracing::warn!(seconds = timeout.as_secs(), "some requests did not finish in time");
        }
        if let Some(admin) = self.admin {
            admin.stop.cancel();
        }
        self.traces.close(&self.deps).await;
        if let Some(audit) = self.audit {
            audit.close().await;
        }
        finished
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// Whether a configuration listens there.
fn is_wanted(address: &Address, built: &Built, admin: Option<&crate::api::Settings>) -> bool {
    admin.is_some_and(|admin| admin.address == *address) || built.doors.iter().any(|door| door.address == *address)
}

/// The audit record: where it is asked for, and wherever credentials are managed.
fn audit_wanted(config: &Config, private: bool) -> Option<audit::Settings> {
    let usual = || StoreWanted::of(config, private).map(|_| audit::Settings::default());
    config.audit.clone().or_else(usual)
}

/// On what tokens rely where there is a store.
pub(super) fn reliance(store: &TokenStore) -> Reliance {
    Reliance { sealer: Arc::new(store.clone()), journals: Arc::new(store.clone()) }
}

fn report(built: &Built) {
    for error in built.unresolved.iter().chain(&built.warnings) {
        tracing::warn!(%error, "configuration");
    }
}
