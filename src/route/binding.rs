//! Bindings: this caller may use this credential for these destinations, methods and paths.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::Method;
use ipnet::IpNet;

use super::matcher::{HostPattern, PathPrefix};
use super::shape::HostShape;
use super::usage::Usage;
use crate::base::meter::MeterSlot;
use crate::base::{BoxFuture, Destination, Narrowing, Unavailable};
use crate::scheme::{Kind, Scheme};
use crate::token::Handle;

/// A credential as the table knows it: where it may go, and whether it can sign now.
#[derive(Debug)]
pub struct CredentialEntry {
    /// The account that owns it.
    pub account: Arc<str>,
    /// Its id within the account.
    pub id: Arc<str>,
    /// The version of its content; 0 where the configuration file declares it.
    pub version: i64,
    /// When its secret itself ends, where that is known.
    pub ends: Option<SystemTime>,
    /// Who used it, and when.
    pub usage: Arc<Usage>,
    /// The scheme's name.
    pub scheme: &'static str,
    /// The hosts it is used for, and no others.
    pub hosts: Vec<HostPattern>,
    /// Switched off by the operator.
    pub enabled: bool,
    /// Whoever waits for us to be ready waits for it.
    pub required: bool,
    /// Hosts that strangers can own.
    is_strangers: fn(&str) -> bool,
    /// Wildcards of `hosts` that mean a provider's own hosts, and not those that strangers own below the same domain.
    guarded: Vec<HostPattern>,
    readiness: ArcSwap<Readiness>,
    /// Held by whoever brings the content.
    waking: tokio::sync::Mutex<Option<Unavailable>>,
    /// Attempts that have ended; whoever waited for one takes its outcome.
    attempts: AtomicU64,
}

/// Whether a credential can sign.
#[derive(Debug)]
pub enum Readiness {
    /// It can.
    Ready(Arc<dyn Scheme>),
    /// It cannot, and why (never a secret).
    Unusable(String),
    /// Its content rests in the encrypted store until somebody uses it.
    Resting(Arc<dyn Waking>),
}

/// Brings the content of a credential from where it rests.
pub trait Waking: Send + Sync + fmt::Debug {
    /// What the credential is from now on.
    ///
    /// # Errors
    /// When it cannot be told now; the next use tries again.
    fn wake<'a>(&'a self, entry: &'a CredentialEntry) -> BoxFuture<'a, Result<Readiness, Unavailable>>;
}

impl Readiness {
    fn handles(&self) -> Vec<&Arc<Handle>> {
        match self {
            Self::Ready(scheme) => scheme.handles(),
            Self::Unusable(_) | Self::Resting(_) => Vec::new(),
        }
    }

    fn adopt(&self) {
        self.handles().into_iter().for_each(|handle| handle.adopt());
    }

    fn retire(&self) {
        self.handles().into_iter().for_each(|handle| handle.release());
    }
}

impl CredentialEntry {
    /// A credential with its first state.
    pub fn new(id: &str, scheme: &'static str, hosts: Vec<HostPattern>, enabled: bool, readiness: Readiness) -> Self {
        Self {
            account: super::caller::DEFAULT_ACCOUNT.into(),
            id: id.into(),
            version: 0,
            ends: None,
            usage: Arc::default(),
            scheme,
            hosts,
            enabled,
            required: false,
            is_strangers: |_| false,
            guarded: Vec::new(),
            readiness: ArcSwap::from_pointee(readiness),
            waking: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// The same in an account of the encrypted store.
    #[must_use]
    pub fn stored(mut self, account: &Arc<str>, version: i64, usage: Arc<Usage>) -> Self {
        (self.account, self.version, self.usage) = (Arc::clone(account), version, usage);
        self
    }

    /// The same, without which we are not ready.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// The same with a secret that ends.
    #[must_use]
    pub fn ending(mut self, ends: Option<SystemTime>) -> Self {
        self.ends = ends;
        self
    }

    /// The same, except for hosts that strangers can own: these are meant by their whole name, or by a wildcard over a
    /// domain that is all theirs, never by one that means the provider's own hosts as well.
    #[must_use]
    pub fn except_for_strangers(mut self, kind: &Kind) -> Self {
        let is_providers = |domain: &str| {
            let covers = |own: &&str| own.strip_prefix("*.").is_some_and(|own| is_at_or_below(own, domain));
            // Where all is strangers', so is whatever name stands there.
            kind.default_hosts.iter().any(covers) || !(kind.strangers)(&format!("service.{domain}"))
        };
        self.guarded = self.hosts.iter().filter(|host| host.domain().is_some_and(is_providers)).cloned().collect();
        self.is_strangers = kind.strangers;
        self
    }

    /// Whether it may be used for this destination.
    pub fn is_for(&self, destination: &Destination) -> bool {
        let name = destination.host().name().unwrap_or_default();
        let excludes = |pattern: &HostPattern| self.guarded.contains(pattern) && (self.is_strangers)(name);
        self.hosts.iter().any(|pattern| pattern.matches(destination) && !excludes(pattern))
    }

    /// Its present state.
    pub fn readiness(&self) -> Arc<Readiness> {
        self.readiness.load_full()
    }

    /// Replaces its state, with effect on the next request.
    pub fn set_readiness(&self, readiness: Readiness) {
        readiness.adopt();
        let old = self.readiness.swap(Arc::new(readiness));
        old.retire();
    }

    /// Its configuration was accepted: it obtains its tokens by its own way from now on.
    pub fn adopt(&self) {
        self.readiness.load().adopt();
    }

    /// It belongs to a configuration that is no longer in use: it drops its token, unless another credential has the same.
    pub fn retire(&self) {
        self.readiness.load().retire();
    }

    /// Brings its content if that rests in the store: once, however many ask.
    ///
    /// # Errors
    /// When it cannot be brought now.
    pub async fn wake(&self) -> Result<(), Unavailable> {
        if !self.rests() {
            return Ok(());
        }
        let before = self.attempts.load(Ordering::Acquire);
        let mut last = self.waking.lock().await;
        let Readiness::Resting(waking) = &*self.readiness() else { return Ok(()) };
        if let Some(error) = last.clone().filter(|_| self.attempts.load(Ordering::Acquire) != before) {
            return Err(error);
        }
        let outcome = waking.wake(self).await;
        self.attempts.fetch_add(1, Ordering::AcqRel);
        *last = outcome.as_ref().err().cloned();
        self.set_readiness(outcome?);
        Ok(())
    }

    /// Whether its content was not used yet.
    pub fn rests(&self) -> bool {
        matches!(**self.readiness.load(), Readiness::Resting(_))
    }

    /// Its scheme, when it can sign, without counting a reference to the whole state.
    pub(super) fn scheme_now(&self) -> Result<Arc<dyn Scheme>, String> {
        match &**self.readiness.load() {
            Readiness::Ready(scheme) => Ok(Arc::clone(scheme)),
            Readiness::Unusable(reason) => Err(reason.clone()),
            Readiness::Resting(_) => Err("it was not loaded yet".to_owned()),
        }
    }
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// One binding, checked.
#[derive(Debug, Clone)]
pub struct Binding {
    /// For logs and `explain`.
    pub name: Arc<str>,
    /// What it binds.
    pub credential: Arc<CredentialEntry>,
    /// Who may use it; empty means every caller of the account.
    pub callers: Vec<String>,
    /// Where; the credential's own hosts when the operator wrote none.
    pub hosts: Vec<HostPattern>,
    /// With which methods; empty means any.
    pub methods: Vec<Method>,
    /// Below which paths; empty means any.
    pub paths: Vec<PathPrefix>,
    /// The secret may travel unencrypted.
    pub allow_cleartext: bool,
    /// Addresses that this binding may reach though they are normally refused.
    pub allow_addresses: Arc<[IpNet]>,
    /// Used only when a request names the credential, never chosen by the host alone.
    pub only_named: bool,
    /// What it allows of the provider's services, if that is less than everything.
    pub narrowing: Option<Narrowing>,
    /// Belongs to one route of a reverse listener and serves no other request.
    pub route: Option<Arc<str>>,
    /// Belongs to an applied policy and serves its runs alone.
    pub policy: Option<PolicyPart>,
    /// Where its requests are counted.
    pub meter: MeterSlot,
}

/// What a binding of an applied policy has beside the others' keys.
#[derive(Debug, Clone)]
pub struct PolicyPart {
    /// What it is filed under: see [`super::Lease::scope_of`].
    pub scope: Arc<str>,
    /// The name that the credential has within a run: that of the template's block.
    pub alias: Arc<str>,
    /// Its id is a name of it as well, since it is no other's.
    pub by_id: bool,
    /// What of the hosts is meant; empty for all.
    pub shapes: Vec<HostShape>,
    /// The account of AWS whose role is assumed in place of the credential's own.
    pub account_number: Option<Arc<str>>,
}

/// What the runs of an applied policy may call without a credential.
#[derive(Debug, Clone)]
pub struct OpenPlace {
    /// Where.
    pub hosts: Vec<HostPattern>,
    /// What of the hosts is meant; empty for all.
    pub shapes: Vec<HostShape>,
    /// With which methods; empty means any.
    pub methods: Vec<Method>,
}

impl OpenPlace {
    /// Whether this destination is meant.
    pub fn is_on(&self, destination: &Destination) -> bool {
        self.hosts.iter().any(|host| host.matches(destination)) && are_meant(&self.shapes, destination)
    }

    /// Whether it is for this method.
    pub fn allows(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

fn are_meant(shapes: &[HostShape], destination: &Destination) -> bool {
    shapes.is_empty() || shapes.iter().any(|shape| shape.matches(destination))
}

impl Binding {
    /// Whether this caller may use it.
    pub fn admits(&self, caller: &str) -> bool {
        self.callers.is_empty() || self.callers.iter().any(|name| name == caller)
    }

    /// Whether it is for this method.
    pub fn allows(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// Whether a request means it by this name.
    pub fn is_called(&self, name: &str) -> bool {
        match &self.policy {
            None => *self.credential.id == *name,
            Some(policy) => *policy.alias == *name || (policy.by_id && *self.credential.id == *name),
        }
    }

    /// Whether its hosts, where they are shapes, mean this destination.
    pub(super) fn means(&self, destination: &Destination) -> bool {
        self.policy.as_ref().is_none_or(|policy| are_meant(&policy.shapes, destination))
    }

    /// What it is filed under.
    pub(super) fn scope(&self) -> &Arc<str> {
        self.policy.as_ref().map_or(&self.credential.account, |policy| &policy.scope)
    }
}

/// Where in the order of specificity one host and one path of a binding stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coordinates {
    /// The port of the host pattern.
    pub(super) port: Option<u16>,
    /// The path prefix, if the binding has any.
    pub(super) path: Option<PathPrefix>,
}

/// Two bindings between which nothing decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    /// The name of the first.
    pub first: Arc<str>,
    /// The name of the second.
    pub second: Arc<str>,
    /// A host that both have.
    pub host: String,
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} and {} bind different credentials to the same calls of {}; narrow one by callers, methods, paths or (AWS) \
             services and regions, or set `only_named: true` on the one that requests name themselves",
            self.first, self.second, self.host
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Protocol;

    fn is_for(scheme: &str, hosts: &[&str], authority: &str) -> bool {
        let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
        let kind = crate::scheme::find(scheme).unwrap();
        let entry = CredentialEntry::new("a", kind.name, hosts, true, Readiness::Unusable("no".into()));
        let destination = Destination::from_authority(Protocol::Https, authority).unwrap();
        entry.except_for_strangers(kind).is_for(&destination)
    }

    #[test]
    fn a_wildcard_that_means_a_providers_hosts_does_not_mean_those_of_strangers() {
        for (scheme, wildcards, own, strangers) in [
            (
                "aws",
                &["*.amazonaws.com", "*.com", "*.us-east-1.amazonaws.com:443"][..],
                "sqs.us-east-1.amazonaws.com",
                "abc.execute-api.us-east-1.amazonaws.com",
            ),
            ("aws_sts", &["*.amazonaws.com:443"], "iam.amazonaws.com", "lb-1.us-east-1.elb.amazonaws.com"),
            (
                "google",
                &["*.googleapis.com", "*.googleapis.com:443", "*.com"],
                "storage.googleapis.com",
                "bucket.storage.googleapis.com",
            ),
            (
                "oracle",
                &["*.oraclecloud.com", "*.us-ashburn-1.oci.oraclecloud.com"],
                "query.us-ashburn-1.oci.oraclecloud.com",
                "x.apigateway.us-ashburn-1.oci.oraclecloud.com",
            ),
        ] {
            for wildcard in wildcards {
                assert!(is_for(scheme, &[wildcard], own), "{scheme} {wildcard} {own}");
                assert!(!is_for(scheme, &[wildcard], strangers), "{scheme} {wildcard} {strangers}");
                assert!(is_for(scheme, &[wildcard, strangers], strangers), "{scheme} {strangers} by its whole name");
            }
        }
    }

    #[test]
    fn a_wildcard_over_a_domain_of_strangers_and_one_elsewhere_mean_all_that_is_there() {
        for (scheme, wildcard, host) in [
            ("aws", "*.execute-api.us-east-1.amazonaws.com", "abc.execute-api.us-east-1.amazonaws.com"),
            ("aws", "*.lambda-url.us-east-1.on.aws", "abc.lambda-url.us-east-1.on.aws"),
            ("aws", "*.us-east-1.es.amazonaws.com", "search-a-b.us-east-1.es.amazonaws.com"),
            ("aws", "*.s3.minio.test", "bucket.s3.minio.test"),
            ("google", "*.p.googleapis.com", "storage-mine.p.googleapis.com"),
            ("google", "*.example.com", "reports.example.com"),
            ("oracle", "*.example.com", "gateway.example.com"),
            ("basic", "*.example.com", "a.example.com"),
        ] {
            assert!(is_for(scheme, &[wildcard], host), "{scheme} {wildcard} {host}");
            assert!(!is_for(scheme, &[wildcard], "other.test"), "{scheme} {wildcard}");
        }
    }
}
