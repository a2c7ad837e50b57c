//! The secret stores among the credentials: a store's requests are signed by a credential, and credentials rest in stores.
//! So they are built in turns: what needs no store, then what rests in stores that those authenticate, and so on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::build::{Builder, Credentials, Parts};
use super::refresh::Followed;
use crate::base::{RequestSigner, SecretRef};
use crate::config::{Config, CredentialSettings};
use crate::route::{CredentialEntry, Readiness};
use crate::scheme::{Identity, Outside};
use crate::source::Stores;

/// For giving back leases when the process ends.
const REVOKING: Duration = Duration::from_secs(5);

/// The stores of one configuration, and the credentials that their own keys describe: nobody else names these.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// The stores.
    pub stores: Arc<Stores>,
    own: Vec<Arc<CredentialEntry>>,
}

/// The stores of the configuration in use.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse {
    /// For whoever outlives a configuration.
    pub(super) stores: Arc<ArcSwap<Stores>>,
    own: Arc<ArcSwap<Vec<Arc<CredentialEntry>>>>,
}

impl InUse {
    /// The configuration was accepted.
    pub(super) fn adopt(&self, opened: &Opened) {
        opened.own.iter().for_each(|entry| entry.adopt());
        self.stores.store(Arc::clone(&opened.stores));
        let old = self.own.swap(Arc::new(opened.own.clone()));
        old.iter().for_each(|entry| entry.retire());
    }

    /// Stores that cannot be used now, with the reason.
    pub(super) fn unusable(&self) -> Vec<String> {
        let own = self.own.load();
        let mut said: Vec<String> = own.iter().filter_map(|entry| unusable(entry)).collect();
        for (name, why) in self.stores.load().troubles() {
            let name = format!("secret_store:{name}: ");
            if !said.iter().any(|other| other.starts_with(&name)) {
                said.push(format!("{name}{why}"));
            }
        }
        said
    }

    /// Gives back what was made for us; the process ends.
    pub(super) async fn revoke(&self) {
        if tokio::time::timeout(REVOKING, self.stores.load_full().revoke()).await.is_err() {
            tracing::warn!("some leases could not be given back; they end by themselves");
        }
    }
}

/// Why a credential cannot be used now.
pub(super) fn unusable(credential: &CredentialEntry) -> Option<String> {
    match &*credential.readiness() {
        Readiness::Unusable(reason) if credential.enabled => Some(format!("{}: {reason}", credential.id)),
        Readiness::Ready(scheme) => {
            // Of what signs by itself: a session for another account is only asked for when a request names it.
            let trouble = match scheme.identity() {
                Identity::Token(handle) => handle.trouble(),
                Identity::Fixed(_) | Identity::Challenged(_) => None,
            };
            trouble.map(|why| format!("{}: {why}", credential.id))
        }
        Readiness::Unusable(_) | Readiness::Resting(_) => None,
    }
}

/// A credential that is to be built.
pub(super) struct Waiting {
    /// Where it stands.
    path: String,
    settings: CredentialSettings,
    /// The stores that must be there first.
    needs: BTreeSet<String>,
    /// It is a store's own.
    own: bool,
}

/// Names of stores that some references are to.
fn stores_of<'a>(references: impl IntoIterator<Item = &'a SecretRef>) -> impl Iterator<Item = String> {
    references.into_iter().filter_map(|reference| match reference {
        SecretRef::Store(stored) => Some(stored.store.clone()),
        _ => None,
    })
}

/// The stores that a credential needs, by itself or by what it borrows.
fn needs(config: &Config, credential: &CredentialSettings) -> BTreeSet<String> {
    let mut needs = BTreeSet::new();
    let (mut seen, mut next) = (HashSet::new(), Some(credential));
    while let Some(link) = next.filter(|link| seen.insert(link.id.as_str())) {
        needs.extend(stores_of(link.draft.references()));
        let loan = link.draft.borrows();
        next = loan.and_then(|loan| config.credentials.iter().find(|one| one.id == loan.credential));
    }
    needs
}

/// What is wrong with the stores as a whole.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut by_store: HashMap<&str, BTreeSet<String>> = HashMap::new();
    for (index, store) in config.secret_stores.iter().enumerate() {
        let (settings, path) = (&store.settings, format!("secret_stores[{index}].credential"));
        let named = config.credentials.iter().find(|one| one.id == settings.credential);
        let endpoint = settings.endpoint();
        match store.own.as_ref().or(named) {
            None => wrong.push((path, format!("there is no credential {}", settings.credential))),
            Some(credential) => {
                if !credential.hosts.iter().any(|pattern| pattern.matches(endpoint)) {
                    let why = format!("{} is not for {}; list it under its `hosts`", credential.id, endpoint.host());
                    wrong.push((path, why));
                }
                by_store.insert(&settings.name, needs(config, credential));
            }
        }
    }
    for (index, store) in config.secret_stores.iter().enumerate() {
        let name = &store.settings.name;
        let (mut reached, mut next) = (BTreeSet::new(), vec![name.as_str()]);
        while let Some(one) = next.pop() {
            for needed in by_store.get(one).into_iter().flatten() {
                if reached.insert(needed.clone()) {
                    next.push(needed);
                }
            }
        }
        if reached.contains(name) {
            let path = format!("secret_stores[{index}]{}", if store.own.is_some() { "" } else { ".credential" });
            let why = format!("{}, which signs for {name}, needs a secret of {name} itself", store.settings.credential);
            wrong.push((path, why));
        }
    }
    wrong
}

impl Builder {
    /// Every credential, the stores' own included, and what each has to wait for.
    fn waiting(&mut self) -> Vec<Waiting> {
        let own = self.config.secret_stores.iter().filter_map(|store| store.own.as_ref());
        let mut all: Vec<BTreeSet<String>> = own.map(|credential| needs(&self.config, credential)).collect();
        all.extend(self.config.credentials.iter().map(|credential| needs(&self.config, credential)));
        let stores = self.config.secret_stores.iter_mut().enumerate();
        let own =
            stores.filter_map(|(index, store)| Some((format!("secret_stores[{index}]"), store.own.take()?, true)));
        let mut credentials: Vec<_> = own.collect();
        let files = std::mem::take(&mut self.config.credentials).into_iter().enumerate();
        credentials.extend(files.map(|(index, settings)| (format!("credentials[{index}]"), settings, false)));
        let waiting = credentials.into_iter().zip(all);
        waiting.map(|((path, settings, own), needs)| Waiting { path, settings, needs, own }).collect()
    }

    /// Builds every credential, each when what it needs is there.
    pub(super) async fn credentials(&mut self, parts: &Parts<'_>, outside: Option<&Outside>) -> Credentials {
        for (path, why) in check(&self.config) {
            self.error(&path, why);
        }
        let signers = self.config.secret_stores.iter().map(|store| &store.settings);
        let signers: HashMap<String, String> =
            signers.map(|store| (store.name.clone(), store.credential.clone())).collect();
        let links = self.links();
        let mut waiting = self.waiting();
        let (mut credentials, mut own) = (Credentials::new(), Credentials::new());
        for turn in 0.. {
            let built = |store: &String| {
                signers.get(store).is_some_and(|id| own.contains_key(id) || credentials.contains_key(id))
            };
            let (ready, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|one| one.needs.iter().all(built));
            waiting = later;
            if turn == 1 {
                self.open_stores(parts, outside);
            }
            if ready.is_empty() && turn > 0 {
                break;
            }
            let references = ready.iter().flat_map(|one| one.settings.draft.references());
            self.sources.load_into(&mut self.secrets, references).await;
            self.describe(&links);
            for Waiting { path, settings, own: is_own, .. } in ready {
                let id = settings.id.clone();
                let entry = self.credential(&path, settings, outside, is_own);
                if is_own {
                    own.insert(id, entry)
                } else {
                    credentials.insert(id, entry)
                };
            }
            if let Some(lending) = &self.lending {
                lending.open(credentials.values().chain(own.values()));
            }
        }
        self.opened.own = own.into_values().collect();
        // A circle, which is an error by now; what else is wrong is still looked for.
        for Waiting { path, settings, own, .. } in waiting.into_iter().filter(|one| !one.own) {
            let id = settings.id.clone();
            credentials.insert(id, self.credential(&path, settings, None, own));
        }
        // What callers are proven by and listeners use.
        let rest: Vec<SecretRef> = self.config.references().into_iter().cloned().collect();
        self.sources.load_into(&mut self.secrets, &rest).await;
        let references: Vec<SecretRef> = rest.into_iter().filter(|one| matches!(one, SecretRef::Store(_))).collect();
        if !references.is_empty() {
            let (content, lifetime) = (self.secrets.digest_of(&references), self.secrets.lifetime_of(&references));
            self.followed = Some(Followed { references, content, lifetime });
        }
        credentials
    }

    fn open_stores(&mut self, parts: &Parts<'_>, outside: Option<&Outside>) {
        let (Some(outside), Some(lending)) = (outside, &self.lending) else { return };
        if self.config.secret_stores.is_empty() {
            return;
        }
        let settings: Vec<_> = self.config.secret_stores.iter().map(|store| Arc::clone(&store.settings)).collect();
        let signer = Arc::clone(lending) as Arc<dyn RequestSigner>;
        match Stores::new(&settings, parts.stores, &*outside.http, &signer, parts.deps) {
            Ok(stores) => {
                let stores = Arc::new(stores);
                self.sources = self.sources.clone().with_stores(Arc::clone(&stores) as _);
                self.opened.stores = stores;
            }
            Err((name, why)) => {
                let index = settings.iter().position(|store| store.name == name).unwrap_or_default();
                self.error(&format!("secret_stores[{index}]"), why);
            }
        }
    }
}
