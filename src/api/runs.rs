//! Runs of applied policies: begun, ended, and what they did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Api;
use super::access::{new_name, new_token};
use super::credential::Origin;
use super::engine::ProxyPlace;
use super::error::ApiError;
use super::principal::{Principal, check_account};
use crate::base::{AuditEvent, Secret};
use crate::policy::Template;
use crate::route::{Outcome, RUN_PREFIX, fingerprint};
use crate::store::{AppliedPolicyRecord, Role, RunRecord, RunUse};

/// How long a run may be when nothing is said, and at most.
pub(super) const USUAL: Duration = Duration::from_secs(3600);
/// See [`USUAL`].
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A run that has just begun. Its token is told this once.
#[derive(Debug)]
pub struct NewRun {
    /// The run.
    pub run: RunRecord,
    /// The name that it calls by.
    pub caller: String,
    /// Its token.
    pub token: Secret,
    /// Where to call; nothing where no proxy listens in this process.
    pub proxy: Option<ProxyPlace>,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The run.
    pub run: RunRecord,
    /// The name of its policy.
    pub policy: String,
    /// Whether its token still proves it.
    pub lives: bool,
    /// Calls that went out, by credential, host and method.
    pub uses: Vec<RunUse>,
    /// Calls that were refused, and with which code.
    pub refused: Vec<RunUse>,
    /// Blocks whose credential was never used.
    pub unused: Vec<String>,
    /// The bindings that would have sufficed.
    pub sufficient: Vec<SufficientBinding>,
}

/// The least that would have let a run do what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SufficientBinding {
    /// The credential.
    pub credential: String,
    /// Where.
    pub hosts: Vec<String>,
    /// With which methods.
    pub methods: Vec<String>,
    /// Some of it was unencrypted.
    pub allow_cleartext: bool,
    /// Where the credential is declared, and so the binding would be.
    pub origin: Origin,
}

impl Api {
    /// Begins a run of an applied policy.
    ///
    /// # Errors
    /// `not_found`; `unprocessable` for a lifetime that is none.
    pub async fn start_run(
        &self,
        principal: &Principal,
        account: &str,
        policy: &str,
        lifetime: Option<Duration>,
    ) -> Result<NewRun, ApiError> {
        self.applied_policy(principal, account, policy).await?;
        principal.may(Role::Manager, account)?;
        let lifetime = lifetime.unwrap_or(USUAL);
        if lifetime < Duration::from_secs(1) || lifetime > LONGEST {
            return Err(ApiError::unprocessable("lifetime", "a run lasts from one second to 24 hours: `90m`, `3600s`"));
        }
        let (token, id) = (new_token(&*self.deps.random)?, new_name(&*self.deps.random)?);
        let digest = fingerprint("token", token.expose());
        let event = AuditEvent::new("run.start", account, "ok").of(&*id).by(&principal.name);
        let event = self.change(event.fact("policy", policy)).await?;
        let run = self.store.start_run(account, policy, &id, digest, lifetime, &principal.actor()).await;
        let run = run.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(NewRun { caller: format!("{RUN_PREFIX}{id}"), run, token, proxy: self.engine.proxy() })
    }

    /// Ends a run: its token proves nothing from the next request on, in open tunnels too.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn end_run(&self, principal: &Principal, account: &str, id: &str) -> Result<(), ApiError> {
        let run = self.known_run(principal, account, id).await?;
        principal.may(Role::Manager, account)?;
        let event = AuditEvent::new("run.end", account, "ok").of(id).by(&principal.name);
        let event = self.change(event.fact("policy", run.policy)).await?;
        let ended = self.store.stop_run(account, id, &principal.actor()).await;
        ended.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(())
    }

    async fn known_run(&self, principal: &Principal, account: &str, id: &str) -> Result<RunRecord, ApiError> {
        check_account(account)?;
        principal.may(Role::Viewer, account)?;
        let run = self.store.run(account, id).await?;
        run.ok_or_else(|| ApiError::not_found(format!("run {id} in the account {account}")))
    }

    /// The newest runs of an applied policy, and whether each still lives.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn runs(
        &self,
        principal: &Principal,
        account: &str,
        policy: &str,
        most: u32,
    ) -> Result<Vec<(RunRecord, bool)>, ApiError> {
        self.applied_policy(principal, account, policy).await?;
        let now = self.deps.clock.now();
        let runs = self.store.runs(account, policy, most).await?.into_iter();
        Ok(runs
            .map(|run| {
                let lives = run.lives(now);
                (run, lives)
            })
            .collect())
    }

    /// What a run did, up to now.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn run_report(&self, principal: &Principal, account: &str, id: &str) -> Result<RunReport, ApiError> {
        let run = self.known_run(principal, account, id).await?;
        let policy = self.store.applied_policy_of_run(&run).await?;
        let written = self.store.run_uses(account, id).await?;
        let uses = merged(written, self.engine.run_uses(account, id));
        let declared: BTreeSet<String> = self.engine.declared(account).into_iter().map(|one| one.id).collect();
        Ok(report(run, policy.as_ref(), uses, &declared, self.deps.clock.now()))
    }
}

fn merged(written: Vec<RunUse>, counted: Vec<RunUse>) -> Vec<RunUse> {
    let mut uses: BTreeMap<[String; 5], RunUse> = BTreeMap::new();
    for one in written.into_iter().chain(counted) {
        let key = [&one.block, &one.credential, &one.host, &one.method, &one.outcome].map(String::clone);
        match uses.get_mut(&key) {
            Some(line) => {
                line.count += one.count;
                line.last_used = line.last_used.max(one.last_used);
            }
            None => drop(uses.insert(key, one)),
        }
    }
    uses.into_values().collect()
}

fn report(
    run: RunRecord,
    policy: Option<&AppliedPolicyRecord>,
    uses: Vec<RunUse>,
    declared: &BTreeSet<String>,
    now: std::time::SystemTime,
) -> RunReport {
    let went_out = [Outcome::Used.as_str(), Outcome::Passed.as_str()];
    let (uses, refused): (Vec<_>, Vec<_>) = uses.into_iter().partition(|one| went_out.contains(&&*one.outcome));
    let used: BTreeSet<&str> = uses.iter().map(|one| one.block.as_str()).collect();
    let content = policy.map(|policy| policy.content.clone()).unwrap_or_default();
    let template: Template = serde_json::from_value(content.template.clone()).unwrap_or_default();
    let blocks = template.credentials.iter().map(|block| block.name.clone());
    let never = |block: &String| content.credentials.contains_key(block) && !used.contains(block.as_str());
    RunReport {
        policy: content.name.clone(),
        lives: run.lives(now),
        unused: blocks.filter(never).collect(),
        sufficient: sufficient(&uses, declared),
        run,
        uses,
        refused,
    }
}

/// The hosts of each credential, those with the same methods together.
fn sufficient(uses: &[RunUse], declared: &BTreeSet<String>) -> Vec<SufficientBinding> {
    let mut methods: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for one in uses.iter().filter(|one| !one.credential.is_empty() && !one.host.is_empty()) {
        methods.entry((&one.credential, &one.host)).or_default().insert(&one.method);
    }
    let mut bindings: BTreeMap<(&str, BTreeSet<&str>, bool), Vec<String>> = BTreeMap::new();
    for ((credential, host), methods) in methods {
        let cleartext = host.strip_prefix("http://");
        let key = (credential, methods, cleartext.is_some());
        bindings.entry(key).or_default().push(cleartext.unwrap_or(host).to_owned());
    }
    let binding = |((credential, methods, allow_cleartext), hosts): ((&str, BTreeSet<&str>, bool), Vec<String>)| {
        let methods = methods.into_iter().map(str::to_owned).collect();
        let origin = if declared.contains(credential) { Origin::File } else { Origin::Store };
        SufficientBinding { credential: credential.to_owned(), hosts, methods, allow_cleartext, origin }
    };
    bindings.into_iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn line(credential: &str, host: &str, method: &str, outcome: &str, count: i64) -> RunUse {
        RunUse {
            block: format!("auth_{credential}"),
            credential: credential.into(),
            host: host.into(),
            method: method.into(),
            outcome: outcome.into(),
            count,
            last_used: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_sufficed_are_the_hosts_of_each_credential_with_the_methods_that_were_used_there() {
        let uses = [
            line("a", "one.test", "GET", "used", 3),
            line("a", "two.test", "GET", "used", 1),
            line("a", "three.test", "GET", "used", 1),
            line("a", "three.test", "PUT", "used", 1),
            line("a", "http://four.test", "GET", "used", 1),
            line("", "open.test", "GET", "passed", 1),
        ];
        let shown: Vec<_> = sufficient(&uses, &BTreeSet::from(["a".to_owned()]))
            .into_iter()
            .map(|one| {
                assert_eq!(one.origin, Origin::File);
                let cleartext = if one.allow_cleartext { " unencrypted" } else { "" };
                format!("{} {} {}{cleartext}", one.credential, one.methods.join(","), one.hosts.join(","))
            })
            .collect();
        assert_eq!(shown, ["a GET one.test,two.test", "a GET four.test unencrypted", "a GET,PUT three.test"]);
    }

    #[test]
    fn what_is_written_down_and_what_is_not_yet_are_one_line() {
        let uses = merged(
            vec![line("a", "h", "GET", "used", 3), line("a", "h", "GET", "unbound", 1)],
            vec![line("a", "h", "GET", "used", 2)],
        );
        assert_eq!(uses.iter().map(|one| one.count).collect::<Vec<_>>(), [1, 5]);
    }
}
