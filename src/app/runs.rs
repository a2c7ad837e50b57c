//! Runs of applied policies: their leases, what they may use, and the writing down of what they did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::Method;
use ipnet::IpNet;

use crate::route::{
    Binding, CallerRule, Calls, CredentialEntry, HostPattern, HostShape, Lease, OpenPlace, PolicyPart, RUN_PREFIX,
};
use crate::store::{AppliedPolicyRecord, PolicyBinding, PolicyPassage, RunRecord, RunUse, Store};

/// The leases that this process knows.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By account and run.
    living: HashMap<(String, String), Arc<Lease>>,
    /// Kept until what they did is written down.
    ended: Vec<Arc<Lease>>,
}

impl Leases {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases of these runs, as rules that prove them; those of all others end.
    pub(super) fn rules(&self, runs: &[RunRecord], now: SystemTime) -> Vec<CallerRule> {
        let mut known = self.known();
        let mut before = std::mem::take(&mut known.living);
        let mut rules = Vec::new();
        for run in runs.iter().filter(|run| run.lives(now)) {
            let name = (run.account.clone(), run.id.clone());
            let lease = before.remove(&name);
            let lease =
                lease.unwrap_or_else(|| Arc::new(Lease::new(&run.account, &run.policy, &run.id, run.expires_at)));
            rules.push(CallerRule {
                account: run.account.clone(),
                name: format!("{RUN_PREFIX}{}", run.id),
                proofs: vec![run.digest],
                lease: Some(Arc::clone(&lease)),
            });
            known.living.insert(name, lease);
        }
        for lease in before.into_values() {
            lease.end();
            known.ended.push(lease);
        }
        rules
    }

    /// Adds what the runs did to what is written down. What cannot be written now is kept.
    pub(super) async fn write_down(&self, store: &Store) {
        let leases: Vec<_> = {
            let known = self.known();
            known.living.values().chain(&known.ended).cloned().collect()
        };
        let taken: Vec<_> = leases.into_iter().map(|lease| (lease.book.take(), lease)).collect();
        let rows: Vec<_> =
            taken.iter().flat_map(|(calls, lease)| calls.iter().map(|calls| row(lease, calls))).collect();
        if let Err(error) = store.add_run_uses(&rows).await {
            tracing::debug!(%error, "what runs did cannot be written down now");
            taken.iter().for_each(|(calls, lease)| lease.book.give_back(calls));
            return;
        }
        // Whoever still holds one has a request under way, which may yet be counted.
        self.known().ended.retain(|lease| Arc::strong_count(lease) > 2 || !lease.book.look().is_empty());
    }

    /// What a run did that is not written down yet.
    pub(super) fn look(&self, account: &str, run: &str) -> Vec<RunUse> {
        let known = self.known();
        let of_run = |lease: &&Arc<Lease>| *lease.account == *account && *lease.run == *run;
        let leases = known.living.values().chain(&known.ended).filter(of_run);
        leases.flat_map(|lease| lease.book.look().into_iter().map(|calls| row(lease, &calls).2)).collect()
    }
}

fn row(lease: &Lease, calls: &Calls) -> (String, String, RunUse) {
    let line = RunUse {
        block: calls.block.as_deref().unwrap_or_default().to_owned(),
        credential: calls.credential.as_deref().unwrap_or_default().to_owned(),
        host: calls.host.to_string(),
        method: calls.method.to_string(),
        outcome: calls.outcome.as_str().to_owned(),
        count: i64::try_from(calls.count).unwrap_or(i64::MAX),
        last_used: calls.last,
    };
    (lease.account.to_string(), lease.run.to_string(), line)
}

/// What the runs of an applied policy may use. What cannot be read is left out, and the run is refused there.
pub(super) fn bindings(
    policy: &AppliedPolicyRecord,
    find: impl Fn(&str) -> Option<Arc<CredentialEntry>>,
    others: &[Arc<Binding>],
    left_out: &mut Vec<String>,
) -> Vec<Binding> {
    let scope: Arc<str> = Lease::scope_of(&policy.account, &policy.id).into();
    let mut bindings = Vec::new();
    for record in &policy.content.bindings {
        let name = format!("{}/{}/{}", policy.account, policy.id, record.block);
        let Some(credential) = find(&record.credential) else {
            left_out.push(format!("policy {name}: there is no credential {}", record.credential));
            continue;
        };
        let allow_addresses = addresses(others, &credential);
        match binding(record, &scope, name.as_str().into(), credential) {
            Ok(binding) => bindings.push(Binding { allow_addresses, ..binding }),
            Err(why) => left_out.push(format!("policy {name}: {why}")),
        }
    }
    bindings
}

/// What the account's own bindings let a credential reach though it is normally refused.
fn addresses(others: &[Arc<Binding>], credential: &Arc<CredentialEntry>) -> Arc<[IpNet]> {
    let own = others.iter().filter(|one| one.policy.is_none() && Arc::ptr_eq(&one.credential, credential));
    let mut addresses: Vec<IpNet> = own.flat_map(|one| one.allow_addresses.iter().copied()).collect();
    addresses.sort();
    addresses.dedup();
    addresses.into()
}

fn binding(
    record: &PolicyBinding,
    scope: &Arc<str>,
    name: Arc<str>,
    credential: Arc<CredentialEntry>,
) -> Result<Binding, String> {
    let hosts = hosts(&record.hosts)?;
    Ok(Binding {
        name,
        callers: Vec::new(),
        hosts: if hosts.is_empty() { credential.hosts.clone() } else { hosts },
        methods: methods(&record.methods)?,
        paths: Vec::new(),
        allow_cleartext: record.allow_cleartext,
        allow_addresses: Arc::default(),
        only_named: record.only_named,
        narrowing: None,
        route: None,
        policy: Some(PolicyPart {
            scope: Arc::clone(scope),
            alias: record.block.as_str().into(),
            shapes: shapes(&record.shapes)?,
            account_number: record.account_number.as_deref().map(Into::into),
        }),
        credential,
    })
}

/// What the runs of an applied policy may call without a credential.
pub(super) fn open_places(policy: &AppliedPolicyRecord) -> Vec<OpenPlace> {
    let place = |record: &PolicyPassage| {
        let hosts = hosts(&record.hosts)?;
        Ok::<_, String>(OpenPlace { hosts, shapes: shapes(&record.shapes)?, methods: methods(&record.methods)? })
    };
    policy.content.passages.iter().filter_map(|record| place(record).ok()).collect()
}

fn hosts(texts: &[String]) -> Result<Vec<HostPattern>, String> {
    texts.iter().map(|text| HostPattern::parse(text)).collect()
}

fn shapes(texts: &[String]) -> Result<Vec<HostShape>, String> {
    texts.iter().map(|text| HostShape::parse(text)).collect()
}

fn methods(texts: &[String]) -> Result<Vec<Method>, String> {
    texts.iter().map(|text| crate::config::method(text)).collect()
}
