//! What the encrypted store adds to the configuration file: its bindings, callers and credentials, whose content is
//! brought when it is first used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use ipnet::IpNet;

use super::build::Expiring;
use super::file::FilePart;
use super::refresh::{Held, keep_fresh};
use super::runs::{self, Addresses, Leases};
use crate::base::{BoxFuture, Lifetime, Narrowing, Secret, SecretRef, Secrets, Unavailable};
use crate::route::{
    Binding, CallerRule, Callers, CredentialEntry, DEFAULT_ACCOUNT, HostPattern, Lease, Lending, PathPrefix, Readiness,
    RouteTable, Tie, Usage, Waking,
};
use crate::scheme::{Draft, Lender, Outside, SettingsError, Setup};
use crate::source::Sources;
use crate::store::{BindingRecord, CallerRecord, CredentialRecord, Routing, Store, StoreError};

/// How many credentials may borrow from each other in a row.
const LONGEST_CHAIN: usize = 8;

/// Account and id.
type Name = (String, String);

/// The store's credentials as this process knows them.
#[derive(Debug)]
pub(super) struct Stored {
    store: Store,
    /// What was read last.
    last: Mutex<Option<Arc<Routing>>>,
    known: Mutex<HashMap<Name, Known>>,
    /// Counted by name, since a new version of a credential is still that credential.
    usage: Mutex<HashMap<Name, Arc<Usage>>>,
    leases: Leases,
}

#[derive(Debug)]
struct Known {
    entry: Arc<CredentialEntry>,
    /// What it is prepared with; another configuration prepares anew.
    file: Arc<FilePart>,
    /// What it borrows from, down the chain.
    loan: Option<Borrowed>,
    /// Loads its secrets again in time, if they end.
    keeper: Option<tokio::task::AbortHandle>,
}

/// What a credential borrows from.
#[derive(Debug, Clone)]
struct Borrowed {
    /// Each lender of the store with its version; nothing for one that was not there.
    chain: Vec<(String, Option<i64>)>,
    /// The first lender, kept for as long as it is borrowed from.
    _lender: Option<Arc<CredentialEntry>>,
    /// The first lender is one of the file.
    of_file: bool,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// What became of the store's part.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) routes: RouteTable,
    /// The state of the store that it is.
    pub(super) revision: i64,
    /// Bindings and callers that were left out, and why.
    pub(super) left_out: Vec<String>,
    /// When the next proof of a caller or the next run ends, and the table with it.
    pub(super) ends: Option<SystemTime>,
}

impl Stored {
    pub(super) fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            store,
            last: Mutex::default(),
            known: Mutex::default(),
            usage: Mutex::default(),
            leases: Leases::default(),
        })
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of the file and of the store as it is now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn table(self: &Arc<Self>, file: &Arc<FilePart>) -> Result<Table, StoreError> {
        let routing = Arc::new(self.store.routing().await?);
        self.forget_changed_loans(file).await?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&routing));
        Ok(self.assemble(file, &routing))
    }

    /// The table of the file and of what the store said last.
    pub(super) fn last_table(self: &Arc<Self>, file: &Arc<FilePart>) -> Table {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.assemble(file, &last.unwrap_or_default())
    }

    /// The store could not be reached for too long: nothing of it is used until it can be, and it says why.
    pub(super) fn shut(&self, now: &RouteTable, why: &str) {
        self.leases.end();
        for entry in now.credentials().iter().filter(|entry| entry.version > 0 && entry.enabled) {
            entry.set_readiness(Readiness::Unusable(why.to_owned()));
        }
        self.known().clear();
    }

    fn assemble(self: &Arc<Self>, file: &Arc<FilePart>, routing: &Routing) -> Table {
        let mut left_out = Vec::new();
        let declared: HashSet<&str> = file.credentials.iter().map(|entry| &*entry.id).collect();
        let mut entries: HashMap<Name, Arc<CredentialEntry>> = HashMap::new();
        for record in &routing.credentials {
            if record.account == DEFAULT_ACCOUNT && declared.contains(record.id.as_str()) {
                left_out.push(format!("credential {}: the configuration file declares one of that id", record.id));
                continue;
            }
            let name = (record.account.clone(), record.id.clone());
            if let Some(entry) = self.entry(file, record.clone()) {
                entries.insert(name, entry);
            }
        }
        self.known().retain(|name, known| {
            // A keeper holds its entry as well, and keeps it for nobody.
            entries.contains_key(name) || Arc::strong_count(&known.entry) > 1 + usize::from(known.keeper.is_some())
        });
        let now = file.outside.clock.now();
        let leases = self.leases.rules(&routing.runs, &file.outside.clock);
        let callers = || callers(file, routing, &leases, now);
        let proofs = routing.callers.iter().flat_map(|caller| &caller.proofs);
        let runs = routing.runs.iter().map(|run| run.expires_at);
        let ends = proofs.filter_map(|proof| proof.expires_at).chain(runs).filter(|end| *end > now).min();
        let find = |account: &str, id: &str| {
            let own = entries.get(&(account.to_owned(), id.to_owned()));
            let of_file = || file.credentials.iter().find(|entry| *entry.id == *id && account == DEFAULT_ACCOUNT);
            own.or_else(of_file).map(Arc::clone)
        };
        let mut bindings: Vec<Arc<Binding>> = file.bindings.clone();
        for record in &routing.bindings {
            let Some(entry) = find(&record.account, &record.credential) else {
                left_out.push(format!("binding {}: there is no credential {}", record.id, record.credential));
                continue;
            };
            match binding(record, entry) {
                Ok(binding) => bindings.push(Arc::new(binding)),
                Err(error) => left_out.push(format!("binding {}: {}: {}", record.id, error.0, error.1)),
            }
        }
        let mut open = HashMap::new();
        let addresses = Addresses::of(&bindings);
        for policy in &routing.policies {
            let own = runs::bindings(policy, |id| find(&policy.account, id), &addresses, &mut left_out);
            bindings.extend(own.into_iter().map(Arc::new));
            open.insert(Lease::scope_of(&policy.account, &policy.id).into(), runs::open_places(policy));
        }
        let mut credentials = file.credentials.clone();
        credentials.extend(entries.into_values());
        let routes = settle(bindings, credentials, callers, file, &mut left_out).with_open(open);
        Table { routes, revision: routing.revision, left_out, ends }
    }

    /// The entry of a record: the one there is if that is of this version, else a new one, whose content rests.
    pub(super) fn entry(
        self: &Arc<Self>,
        file: &Arc<FilePart>,
        record: CredentialRecord,
    ) -> Option<Arc<CredentialEntry>> {
        let kind = crate::scheme::find(&record.scheme)?;
        let name = (record.account.clone(), record.id.clone());
        let mut known = self.known();
        let same = |one: &&Known| one.entry.version == record.version && one.file.is_prepared_alike(file);
        // A record that was read a moment ago takes the place of no newer one.
        let newer = |one: &&Known| one.entry.version > record.version && one.file.is_prepared_alike(file);
        if let Some(one) = known.get(&name).filter(|one| same(one) || newer(one)) {
            return Some(Arc::clone(&one.entry));
        }
        let usage =
            Arc::clone(self.usage.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default());
        let account: Arc<str> = record.account.as_str().into();
        // One that was removed leaves its bindings behind: their hosts stay bound, and refuse.
        let (id, version, enabled) = (record.id.clone(), record.version, record.enabled && !record.removed);
        let ends = record.expires_at;
        let hosts = kind.hosts(&record.hosts, &record.settings);
        let hosts = hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect();
        let readiness = if enabled {
            Readiness::Resting(Arc::new(Bring { stored: Arc::downgrade(self), file: Arc::clone(file), record }))
        } else {
            Readiness::Unusable("it is switched off".into())
        };
        let entry = CredentialEntry::new(&id, kind.name, hosts, enabled, readiness);
        let entry = Arc::new(entry.except_for_strangers(kind).stored(&account, version, usage).ending(ends));
        known.insert(name, Known { entry: Arc::clone(&entry), file: Arc::clone(file), loan: None, keeper: None });
        Some(entry)
    }

    /// The entry that this process has, if it has one.
    pub(super) fn known_entry(&self, account: &str, id: &str) -> Option<Arc<CredentialEntry>> {
        self.known().get(&(account.to_owned(), id.to_owned())).map(|known| Arc::clone(&known.entry))
    }

    /// What borrows from a credential that was changed or removed is prepared anew.
    async fn forget_changed_loans(&self, file: &Arc<FilePart>) -> Result<(), StoreError> {
        let with_loan = |(name, known): (&Name, &Known)| {
            let loan = known.loan.clone()?;
            Some((name.clone(), loan, Arc::ptr_eq(&known.file, file)))
        };
        let loans: Vec<_> = self.known().iter().filter_map(with_loan).collect();
        for (name, loan, same_file) in loans {
            if (loan.of_file && !same_file) || self.has_changed(&name.0, &loan.chain).await? {
                self.known().remove(&name);
            }
        }
        Ok(())
    }

    /// Whether one of these is not the version that it was.
    async fn has_changed(&self, account: &str, chain: &[(String, Option<i64>)]) -> Result<bool, StoreError> {
        for (id, version) in chain {
            let now = self.store.credential(account, id).await?;
            if now.map(|record| record.version) != *version {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes what a credential borrows from before it does, so that a change of that is seen from here on.
    fn note_loan(&self, record: &CredentialRecord, entry: &CredentialEntry, loan: Borrowed) {
        let mut known = self.known();
        if let Some(one) = known.get_mut(&(record.account.clone(), record.id.clone()))
            && std::ptr::eq(&raw const *one.entry, entry)
        {
            one.loan = Some(loan);
        }
    }

    /// Uses that were counted and not written down yet.
    pub(super) fn uses(&self) -> Vec<(Name, Arc<Usage>)> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.iter().map(|(name, usage)| (name.clone(), Arc::clone(usage))).collect()
    }

    /// What a credential borrows from.
    async fn lending(
        self: &Arc<Self>,
        file: &Arc<FilePart>,
        record: &CredentialRecord,
        entry: &CredentialEntry,
        draft: &dyn Draft,
    ) -> Result<Option<Arc<dyn Lender>>, Unsuitable> {
        let Some(loan) = draft.borrows() else { return Ok(None) };
        let id = loan.credential.to_owned();
        if record.account == DEFAULT_ACCOUNT && file.credentials.iter().any(|entry| *entry.id == id) {
            self.note_loan(record, entry, Borrowed { chain: Vec::new(), _lender: None, of_file: true });
            return Ok(Some(Arc::clone(&file.outside.lender)));
        }
        let mut versions = Vec::new();
        let mut chain = vec![record.id.clone()];
        let mut next = id.clone();
        let mut first = None;
        loop {
            if chain.contains(&next) || chain.len() > LONGEST_CHAIN {
                return Err(Unsuitable::Never(format!("{next} needs {} itself", record.id)));
            }
            let lender = self.store.credential(&record.account, &next).await.map_err(Unsuitable::of)?;
            versions.push((next.clone(), lender.as_ref().map(|lender| lender.version)));
            let Some(lender) = lender else {
                // Once there is one, it is looked for again.
                self.note_loan(record, entry, Borrowed { chain: versions, _lender: None, of_file: false });
                return Err(Unsuitable::Never(format!("there is no credential {next}")));
            };
            let draft = parse(&lender)?;
            chain.push(next);
            let further = draft.borrows().map(|loan| loan.credential.to_owned());
            first.get_or_insert(lender);
            match further {
                Some(further) => next = further,
                None => break,
            }
        }
        let Some(lender) = first else { return Ok(None) };
        let version = lender.version;
        let digest = format!("{}/{}@{version}", lender.account, lender.id);
        let lent = self.entry(file, lender).ok_or_else(|| Unsuitable::Never(format!("{id} signs nothing")))?;
        let lending = Lending::new(Arc::clone(&file.outside.clock), HashMap::from([(id, digest)]));
        lending.open([&lent].into_iter());
        let chain = versions.clone();
        self.note_loan(record, entry, Borrowed { chain, _lender: Some(lent), of_file: false });
        // What changed between the look and the note was seen by nobody.
        if self.has_changed(&record.account, &versions).await.map_err(Unsuitable::of)? {
            return Err(Unsuitable::Now("what it borrows from was changed this very moment".into()));
        }
        Ok(Some(Arc::new(lending)))
    }
}

/// Why a credential is not prepared.
enum Unsuitable {
    /// The next use may try again.
    Now(String),
    /// It has to be changed.
    Never(String),
}

impl Unsuitable {
    fn of(error: StoreError) -> Self {
        match error {
            // A key that is missing may be given to this process meanwhile.
            StoreError::Unavailable(_) | StoreError::Sealed(_) => Self::Now(error.to_string()),
            other => Self::Never(other.to_string()),
        }
    }
}

fn parse(record: &CredentialRecord) -> Result<Box<dyn Draft>, Unsuitable> {
    let kind = crate::scheme::find(&record.scheme);
    let kind = kind.ok_or_else(|| Unsuitable::Never(format!("scheme {} signs nothing", record.scheme)))?;
    let wrong = |error: SettingsError| Unsuitable::Never(format!("{}: {}", error.path, error.message));
    let draft = (kind.parse)(record.settings.clone()).map_err(wrong)?;
    crate::scheme::check_stored(kind, &record.settings, &*draft).map_err(wrong)?;
    Ok(draft)
}

/// A binding of the store.
///
/// # Errors
/// The key that is wrong, and what to change.
pub(super) fn binding(record: &BindingRecord, credential: Arc<CredentialEntry>) -> Result<Binding, (String, String)> {
    fn each<T>(
        key: &str,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, (String, String)> {
        let parsed = texts.iter().enumerate();
        parsed.map(|(index, text)| parse(text).map_err(|why| (format!("{key}[{index}]"), why))).collect()
    }
    let hosts = each("hosts", &record.hosts, HostPattern::parse)?;
    for (index, host) in hosts.iter().enumerate() {
        if !credential.hosts.is_empty() && !credential.hosts.iter().any(|own| own.overlaps(host)) {
            let own: Vec<_> = credential.hosts.iter().map(ToString::to_string).collect();
            let why = format!("{host} is not among the hosts of credential {} ({})", credential.id, own.join(", "));
            return Err((format!("hosts[{index}]"), why));
        }
    }
    let narrowing = Narrowing {
        services: each("services", &record.services, Narrowing::service)?,
        regions: each("regions", &record.regions, Narrowing::region)?,
        actions: each("actions", &record.actions, Narrowing::action)?,
    };
    let kind = crate::scheme::find(credential.scheme);
    if !narrowing.is_empty() && kind.is_some_and(|kind| kind.narrows.is_none()) {
        let why = format!("`services`, `regions` and `actions` do not go with scheme {}", credential.scheme);
        return Err(("services".to_owned(), why));
    }
    let addresses = |text: &str| text.parse::<IpNet>().map_err(|_| format!("{text} is not a range of addresses"));
    Ok(Binding {
        name: format!("{}/{}", record.account, record.id).into(),
        callers: record.callers.clone(),
        hosts: if hosts.is_empty() { credential.hosts.clone() } else { hosts },
        methods: each("methods", &record.methods, crate::config::method)?,
        paths: each("paths", &record.paths, PathPrefix::parse)?,
        allow_cleartext: record.allow_cleartext,
        allow_addresses: each("allow_addresses", &record.allow_addresses, addresses)?.into(),
        only_named: record.only_named,
        narrowing: (!narrowing.is_empty()).then_some(narrowing),
        route: None,
        policy: None,
        meter: crate::base::meter::MeterSlot::default(),
        credential,
    })
}

/// The callers of the file and of the store, each proof once, and the runs.
fn callers(file: &FilePart, routing: &Routing, leases: &[CallerRule], now: SystemTime) -> Callers {
    let mut rules = file.callers.clone();
    let mut seen: HashSet<[u8; 32]> = rules.iter().flat_map(|rule| rule.proofs.iter().copied()).collect();
    // A name of the file is the file's: what a manager of the store adds under it proves nothing.
    let is_files = |record: &CallerRecord| {
        record.account == DEFAULT_ACCOUNT && file.callers.iter().any(|rule| rule.name == record.name)
    };
    for record in routing.callers.iter().filter(|record| !is_files(record)) {
        let living = record.proofs.iter().filter(|proof| proof.expires_at.is_none_or(|end| now < end));
        let proofs = living.map(|proof| proof.digest).filter(|digest| seen.insert(*digest));
        let (account, name) = (record.account.clone(), record.name.clone());
        rules.push(CallerRule { account, name, proofs: proofs.collect(), lease: None });
    }
    rules.extend(leases.iter().cloned());
    let callers = Callers::new(rules);
    // Whoever could leave out who it is would be confined by no policy.
    if file.asks || routing.asks { callers.asking() } else { callers }
}

/// The table. Where nothing decides between two bindings, the file's stays and the store's go.
fn settle(
    mut bindings: Vec<Arc<Binding>>,
    credentials: Vec<Arc<CredentialEntry>>,
    callers: impl Fn() -> Callers,
    file: &FilePart,
    left_out: &mut Vec<String>,
) -> RouteTable {
    loop {
        let ties = match RouteTable::new(bindings.clone(), credentials.clone(), callers(), file.unbound) {
            Ok(routes) => return routes,
            Err(ties) => ties,
        };
        let own: HashSet<&Arc<str>> = file.bindings.iter().map(|binding| &binding.name).collect();
        let before = bindings.len();
        let loser = |tie: &Tie| Arc::clone(if own.contains(&tie.second) { &tie.first } else { &tie.second });
        let losers: HashSet<Arc<str>> = ties.iter().map(loser).collect();
        left_out.extend(ties.iter().map(ToString::to_string));
        bindings.retain(|binding| own.contains(&binding.name) || !losers.contains(&binding.name));
        if bindings.len() == before {
            // The file alone has no ties: it would not have been accepted.
            return RouteTable::default();
        }
    }
}

/// Brings the content of one version of a credential.
struct Bring {
    stored: Weak<Stored>,
    file: Arc<FilePart>,
    record: CredentialRecord,
}

impl fmt::Debug for Bring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bring({}/{}@{})", self.record.account, self.record.id, self.record.version)
    }
}

impl Waking for Bring {
    fn wake<'a>(&'a self, entry: &'a CredentialEntry) -> BoxFuture<'a, Result<Readiness, Unavailable>> {
        Box::pin(async move {
            match self.prepare(entry).await {
                Ok(readiness) => Ok(readiness),
                Err(Unsuitable::Never(why)) => Ok(Readiness::Unusable(why)),
                Err(Unsuitable::Now(why)) => Err(Unavailable(why)),
            }
        })
    }
}

impl Bring {
    async fn prepare(&self, entry: &CredentialEntry) -> Result<Readiness, Unsuitable> {
        let stored = self.stored.upgrade().ok_or_else(|| Unsuitable::Now("Countersign is ending".into()))?;
        let record = &self.record;
        let draft = parse(record)?;
        let sealed = stored.store.secrets(record).await.map_err(Unsuitable::of)?;
        let mut secrets = unsealed(&sealed);
        let references = draft.references();
        self.file.sources.load_into(&mut secrets, references.clone()).await;
        // What a store of secrets does not give now, it may give a moment later.
        for reference in &references {
            let SecretRef::Store(place) = reference else { continue };
            if !self.file.secret_stores.stores.is_open_to(&place.store, &record.account) {
                return Err(Unsuitable::Never(format!(
                    "store {} is not open to account {}",
                    place.store, record.account
                )));
            }
            secrets.get(reference).map_err(|error| Unsuitable::Now(error.0))?;
        }
        let mut outside = self.file.outside.clone();
        if let Some(lender) = stored.lending(&self.file, record, entry, &*draft).await? {
            outside.lender = lender;
        }
        let setup = Setup {
            account: &record.account,
            credential: &record.id,
            version: record.version,
            secrets: &secrets,
            outside: &outside,
        };
        let scheme = draft.build(&setup).map_err(|error| Unsuitable::Never(error.0))?;
        let lifetime = secrets.lifetime_of(references);
        stored.woken(record, entry, lifetime.map(|lifetime| (lifetime, draft, self.file.sources.clone(), outside)));
        Ok(Readiness::Ready(scheme))
    }
}

/// Secrets of the store, by the references that stand in the settings for them.
pub(super) fn unsealed(sealed: &BTreeMap<String, Secret>) -> Secrets {
    let each = |(path, secret): (&String, &Secret)| (SecretRef::Sealed { sealed: path.clone() }, secret.clone());
    sealed.iter().map(each).collect()
}

type Kept = (Lifetime, Box<dyn Draft>, Sources, Outside);

impl Stored {
    /// Notes what a credential depends on, and keeps it fresh if its secrets end.
    fn woken(self: &Arc<Self>, record: &CredentialRecord, entry: &CredentialEntry, kept: Option<Kept>) {
        let mut known = self.known();
        let Some(one) = known.get_mut(&(record.account.clone(), record.id.clone())) else { return };
        if !std::ptr::eq(&raw const *one.entry, entry) {
            return;
        }
        let Some((lifetime, draft, sources, outside)) = kept else { return };
        // The secrets that do not end are brought anew with those that do.
        let entry = Arc::clone(&one.entry);
        let (stored, record) = (Arc::downgrade(self), Arc::new(record.clone()));
        let held: Held = Box::new(move || {
            let (stored, record) = (stored.clone(), Arc::clone(&record));
            Box::pin(async move {
                let Some(stored) = stored.upgrade() else { return Secrets::default() };
                // What cannot be read now is missing, and the old content serves for as long as it may.
                stored.store.secrets(&record).await.map(|sealed| unsealed(&sealed)).unwrap_or_default()
            })
        });
        let keeper = tokio::spawn(async move {
            let expiring = Expiring { entry, draft, lifetime: Some(lifetime), loaded: true, content: None };
            keep_fresh(expiring, held, sources, outside).await;
        });
        one.keeper = Some(keeper.abort_handle());
    }
}
