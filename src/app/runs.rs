//! Runs of applied policies: their leases, what they may use, and the writing down of what they did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use ipnet::IpNet;

use crate::base::Clock;
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

impl Known {
    fn end(&mut self, leases: HashMap<(String, String), Arc<Lease>>) {
        for lease in leases.into_values() {
            lease.end();
            self.ended.push(lease);
        }
    }
}

impl Leases {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases of these runs, as rules that prove them; those of all others end.
    pub(super) fn rules(&self, runs: &[RunRecord], clock: &Arc<dyn Clock>) -> Vec<CallerRule> {
        let now = clock.now();
        let mut known = self.known();
        let mut before = std::mem::take(&mut known.living);
        let mut rules = Vec::new();
        for run in runs.iter().filter(|run| run.lives(now)) {
            let name = (run.account.clone(), run.id.clone());
            let begin = || {
                let lease = Arc::new(Lease::new(&run.account, &run.policy, &run.id, run.expires_at));
                tokio::spawn(Lease::keep_time(Arc::downgrade(&lease), Arc::clone(clock)));
                lease
            };
            let lease = before.remove(&name).unwrap_or_else(begin);
            rules.push(CallerRule {
                account: run.account.clone(),
                name: format!("{RUN_PREFIX}{}", run.id),
                proofs: vec![run.digest],
                lease: Some(Arc::clone(&lease)),
            });
            known.living.insert(name, lease);
        }
        known.end(before);
        rules
    }

    /// Ends every lease: nobody knows any more whether its run was ended.
    pub(super) fn end(&self) {
        let mut known = self.known();
        let living = std::mem::take(&mut known.living);
        known.end(living);
    }

    /// Adds what the runs did to what is written down. What cannot be written now is kept.
    pub(super) async fn write_down(&self, store: &Store) {
        let leases: Vec<_> = {
            let known = self.known();
            known.living.values().chain(&known.ended).cloned().collect()
        };
        // Each for itself, so that no change waits for long.
        for lease in leases {
            let calls = lease.book.take();
            let rows: Vec<_> = calls.iter().map(|calls| row(&lease, calls)).collect();
            if let Err(error) = store.add_run_uses(&rows).await {
                tracing::debug!(%error, "what runs did cannot be written down now");
                lease.book.give_back(&calls);
                return;
            }
        }
        // Whoever still holds one has a request under way, which may yet be counted.
        self.known().ended.retain(|lease| Arc::strong_count(lease) > 1 || !lease.book.look().is_empty());
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
    addresses: &Addresses,
    left_out: &mut Vec<String>,
) -> Vec<Binding> {
    let scope: Arc<str> = Lease::scope_of(&policy.account, &policy.id).into();
    let mut bindings = Vec::new();
    let records = &policy.content.bindings;
    for record in records {
        let name = format!("{}/{}/{}", policy.account, policy.id, record.block);
        let Some(credential) = find(&record.credential) else {
            left_out.push(format!("policy {name}: there is no credential {}", record.credential));
            continue;
        };
        match binding(record, &scope, name.as_str().into(), is_told_by_id(record, records), credential) {
            Ok(binding) => bindings.extend(addresses.spread(binding)),
            Err(why) => left_out.push(format!("policy {name}: {why}")),
        }
    }
    bindings
}

/// What other bindings let a credential reach though it is normally refused: a run reaches the same on the same hosts.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<*const CredentialEntry, Vec<Arc<Binding>>>);

impl Addresses {
    pub(super) fn of(bindings: &[Arc<Binding>]) -> Self {
        let mut by_credential: HashMap<_, Vec<_>> = HashMap::new();
        for binding in bindings.iter().filter(|binding| !binding.allow_addresses.is_empty()) {
            by_credential.entry(Arc::as_ptr(&binding.credential)).or_default().push(Arc::clone(binding));
        }
        Self(by_credential)
    }

    /// The binding, or one for each of its hosts where that makes a difference.
    fn spread(&self, binding: Binding) -> Vec<Binding> {
        let Some(others) = self.0.get(&Arc::as_ptr(&binding.credential)) else { return vec![binding] };
        let on = |host: &HostPattern| {
            let covers = |own: &HostPattern| own.intersection(host).as_ref() == Some(host);
            let own = others.iter().filter(|other| other.hosts.iter().any(covers));
            let mut addresses: Vec<IpNet> = own.flat_map(|other| other.allow_addresses.iter().copied()).collect();
            addresses.sort();
            addresses.dedup();
            addresses
        };
        let each = |host: &HostPattern| Binding {
            hosts: vec![host.clone()],
            allow_addresses: on(host).into(),
            ..binding.clone()
        };
        binding.hosts.iter().map(each).collect()
    }
}

/// Whether the credential's id means this block and nothing else: it is no other block's name, and no other block has the
/// credential for another account.
fn is_told_by_id(record: &PolicyBinding, all: &[PolicyBinding]) -> bool {
    let other = |one: &&PolicyBinding| {
        (one.block == record.credential && one.credential != record.credential)
            || (one.credential == record.credential && one.account_number != record.account_number)
    };
    !all.iter().any(|one| other(&one))
}

fn binding(
    record: &PolicyBinding,
    scope: &Arc<str>,
    name: Arc<str>,
    by_id: bool,
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
            by_id,
            shapes: shapes(&record.shapes)?,
            account_number: record.account_number.as_deref().map(Into::into),
        }),
        credential,
        meter: crate::base::meter::MeterSlot::default(),
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::base::SystemClock;
    use crate::store::{Actor, Change};

    fn run(id: &str, expires_at: SystemTime) -> RunRecord {
        RunRecord {
            account: "default".into(),
            id: id.into(),
            policy: "p".into(),
            digest: [id.len() as u8; 32],
            created: Change { at: SystemTime::UNIX_EPOCH, by: Actor { name: "anna".into() } },
            expires_at,
            ended: None,
        }
    }

    #[tokio::test]
    async fn a_run_keeps_its_lease_until_it_is_gone_and_gets_another_when_all_were_ended() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (leases, now) = (Leases::default(), clock.now());
        let (one, two) = (run("a", now + Duration::from_secs(3600)), run("bb", now + Duration::from_secs(3600)));
        let over = run("ccc", now);
        let lease = |rules: &[CallerRule], place: usize| Arc::clone(rules[place].lease.as_ref().unwrap());
        let first = leases.rules(&[one.clone(), two.clone(), over], &clock);
        assert_eq!(first.len(), 2, "one whose time is over proves nothing");
        let again = leases.rules(&[one.clone(), two], &clock);
        assert!(Arc::ptr_eq(&lease(&first, 0), &lease(&again, 0)));
        let without = leases.rules(std::slice::from_ref(&one), &clock);
        assert!(without.len() == 1 && lease(&first, 0).holds(now) && !lease(&first, 1).holds(now));
        leases.end();
        assert!(!lease(&first, 0).holds(now));
        let later = leases.rules(&[one], &clock);
        assert!(!Arc::ptr_eq(&lease(&first, 0), &lease(&later, 0)) && lease(&later, 0).holds(now));
    }
}
