//! What the management API asks of the running process.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::routes::Routes;
use super::stored::{binding, unsealed};
use super::test::test;
use crate::api::{Declared, Engine, ProxyPlace, TestReport, TokenLife, WriteError};
use crate::base::{BoxFuture, Secret};
use crate::route::{CredentialEntry, DEFAULT_ACCOUNT, HostPattern, Readiness, RouteTable, Unbound, Uses};
use crate::scheme::{Draft, Identity, Introduction, Kind, Lender, Setup};
use crate::store::{BindingRecord, RunUse};

/// The process, for the API.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) routes: Arc<Routes>,
}

fn wrong(path: impl Into<String>, message: impl Into<String>) -> WriteError {
    WriteError { path: path.into(), message: message.into() }
}

impl Running {
    /// The credential as the table has it, or one that is bound by nothing.
    async fn entry(&self, account: &str, id: &str) -> Option<Arc<CredentialEntry>> {
        let state = self.routes.proxy().state();
        let is_it = |entry: &&Arc<CredentialEntry>| &*entry.account == account && &*entry.id == id;
        if let Some(entry) = state.routes.credentials().iter().find(is_it) {
            return Some(Arc::clone(entry));
        }
        let stored = self.routes.stored()?;
        let record = stored.store().credential(account, id).await.ok().flatten()?;
        stored.entry(&self.routes.file(), record)
    }

    fn known(&self, account: &str, id: &str) -> Option<Arc<CredentialEntry>> {
        let state = self.routes.proxy().state();
        let found = state.routes.credentials().iter().find(|one| &*one.account == account && &*one.id == id);
        found.cloned().or_else(|| self.routes.stored()?.known_entry(account, id))
    }

    async fn credential_as_it_would_be(
        &self,
        account: &str,
        kind: &'static Kind,
        draft: &dyn Draft,
        hosts: &[String],
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<(), WriteError> {
        let mut patterns = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            patterns.push(HostPattern::parse(host).map_err(|why| wrong(format!("hosts[{index}]"), why))?);
        }
        let named: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        draft.check_hosts(&named).map_err(|error| wrong(error.path, error.message))?;
        let file = self.routes.file();
        let mut outside = file.outside.clone();
        if let Some(loan) = draft.borrows() {
            let lender = self.entry(account, loan.credential).await;
            let lender =
                lender.ok_or_else(|| wrong("credential", format!("there is no credential {}", loan.credential)))?;
            if let Some(to) = loan.destination.as_ref().filter(|to| !lender.hosts.iter().any(|host| host.matches(to))) {
                let why = format!("{} is not for {}; list it under its `hosts`", loan.credential, to.host());
                return Err(wrong("credential", why));
            }
            outside.lender = lending(&file.outside, &lender);
        }
        let mut loaded = unsealed(secrets);
        // What rests in a store of secrets is read when the credential is used.
        let waiting = draft.references().into_iter().any(|reference| !loaded.contains(reference));
        if waiting {
            file.sources.load_into(&mut loaded, draft.references()).await;
        }
        let setup = Setup { account, credential: "new", version: 0, secrets: &loaded, outside: &outside };
        let built = draft.build(&setup);
        match built {
            Ok(_) => Ok(()),
            Err(error) => Err(wrong("settings", format!("scheme {}: {}", kind.name, error.0))),
        }
    }
}

/// Lends one credential.
fn lending(outside: &crate::scheme::Outside, entry: &Arc<CredentialEntry>) -> Arc<dyn Lender> {
    let digest = format!("{}@{}", entry.id, entry.version);
    let known = [(entry.id.to_string(), digest)].into_iter().collect();
    let lending = crate::route::Lending::new(Arc::clone(&outside.clock), known);
    lending.open([entry].into_iter());
    Arc::new(lending)
}

impl Engine for Running {
    fn applied(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // What cannot be read back now was written all the same, and is followed as soon as it can be.
            if let Err(error) = self.routes.refresh(false).await {
                tracing::warn!(%error, "what was just written is not in use yet");
            }
        })
    }

    fn check_credential<'a>(
        &'a self,
        account: &'a str,
        kind: &'static Kind,
        draft: &'a dyn Draft,
        hosts: &'a [String],
        secrets: &'a BTreeMap<String, Secret>,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(self.credential_as_it_would_be(account, kind, draft, hosts, secrets))
    }

    fn check_binding<'a>(&'a self, record: &'a BindingRecord) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let credential = self.entry(&record.account, &record.credential).await;
            let credential = credential
                .ok_or_else(|| wrong("credential", format!("there is no credential {}", record.credential)))?;
            let new = binding(record, credential).map_err(|(path, why)| wrong(path, why))?;
            if new.hosts.is_empty() {
                return Err(wrong("hosts", "the credential names no hosts, so the binding has to"));
            }
            let state = self.routes.proxy().state();
            for (index, name) in record.callers.iter().enumerate() {
                let stored = state.routes.callers().named_in(&record.account, name);
                if stored.is_none() {
                    return Err(wrong(format!("callers[{index}]"), format!("there is no caller {name}")));
                }
            }
            let name = Arc::clone(&new.name);
            let others = state.routes.bindings(&record.account).filter(|one| one.name != name);
            let all: Vec<_> = others.cloned().chain([Arc::new(new)]).collect();
            RouteTable::new(all, Vec::new(), Default::default(), Unbound::Deny)
                .map(drop)
                .map_err(|ties| wrong("", ties.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
        })
    }

    fn store_is_open(&self, store: &str, account: &str) -> bool {
        self.routes.file().secret_stores.stores.is_open_to(store, account)
    }

    fn declared(&self, account: &str) -> Vec<Declared> {
        if account == DEFAULT_ACCOUNT { self.routes.file().declared.clone() } else { Vec::new() }
    }

    fn declared_callers(&self, account: &str) -> Vec<String> {
        let file = self.routes.file();
        let names = file.callers.iter().map(|rule| rule.name.clone());
        if account == DEFAULT_ACCOUNT { names.collect() } else { Vec::new() }
    }

    fn introduce<'a>(&'a self, account: &'a str, id: &'a str) -> BoxFuture<'a, Option<Introduction>> {
        Box::pin(async move {
            let stored = self.routes.stored()?;
            let record = stored.store().credential(account, id).await.ok().flatten()?;
            let draft = (crate::scheme::find(&record.scheme)?.parse)(record.settings.clone()).ok()?;
            let mut secrets = unsealed(&stored.store().secrets(&record).await.ok()?);
            let file = self.routes.file();
            if draft.references().into_iter().any(|reference| !secrets.contains(reference)) {
                file.sources.load_into(&mut secrets, draft.references()).await;
            }
            let (version, outside) = (record.version, &file.outside);
            let setup = Setup { account, credential: id, version, secrets: &secrets, outside };
            draft.introduce(&setup)?.await.ok()
        })
    }

    fn test<'a>(&'a self, account: &'a str, id: &'a str) -> BoxFuture<'a, Option<TestReport>> {
        Box::pin(async move {
            let entry = self.entry(account, id).await?;
            Some(test(&entry, &self.routes.file()).await)
        })
    }

    fn tokens(&self, account: &str, id: &str) -> Vec<TokenLife> {
        let Some(entry) = self.known(account, id) else { return Vec::new() };
        let Readiness::Ready(scheme) = &*entry.readiness() else { return Vec::new() };
        let own = match scheme.identity() {
            Identity::Token(handle) => Some(Arc::clone(handle)),
            Identity::Fixed(_) | Identity::Challenged(_) => None,
        };
        let life = |handle: &Arc<crate::token::Handle>| {
            let is_own = own.as_ref().is_some_and(|own| Arc::ptr_eq(own, handle));
            let label = if is_own { "token" } else { "further" };
            handle.expires_at().map(|expires_at| TokenLife { label: label.into(), expires_at })
        };
        scheme.handles().into_iter().filter_map(life).collect()
    }

    fn uses(&self, account: &str, id: &str) -> Option<Uses> {
        self.known(account, id)?.usage.look()
    }

    fn run_uses(&self, account: &str, run: &str) -> Vec<RunUse> {
        self.routes.stored().map(|stored| stored.leases().look(account, run)).unwrap_or_default()
    }

    fn lets_anybody_in(&self) -> bool {
        self.routes.proxy().state().routes.callers().is_empty()
    }

    fn proxy(&self) -> Option<ProxyPlace> {
        self.routes.proxy_place()
    }

    fn status(&self) -> Value {
        let state = self.routes.proxy().state();
        let store = self.routes.stored().map(|stored| stored.store().reach().failing.is_none());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "storeReachable": store,
            "credentialsInUse": state.routes.credentials().len(),
        })
    }
}
