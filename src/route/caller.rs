//! Who is calling, proven by the channel: a token, the uid behind a unix socket, a client certificate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

use super::lease::Lease;
use crate::base::{Clock, Secret, Vouched};

/// What the configuration file declares lives in this account.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The name of whoever reaches a listener that asks for no proof.
pub const LOCAL: &str = "local";

/// A caller that the channel has proven, or `local` where no proof is asked for.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name, as bindings list it.
    pub name: Arc<str>,
    /// The account whose credentials it may be bound to.
    pub account: Arc<str>,
    /// What the bindings that may be for it are filed under: the account, or what its lease confines it to.
    pub(super) scope: Arc<str>,
    /// The lease, if it is a run of a policy.
    pub lease: Option<Arc<Lease>>,
    /// How many of its requests are under way.
    pub in_flight: Arc<AtomicUsize>,
    proof: Proof,
    /// The token of somebody else's that proved it, and until when that may be believed.
    vouched: Option<Arc<Borrowed>>,
}

/// A token that others vouched for.
#[derive(Debug)]
struct Borrowed {
    token: Secret,
    until: SystemTime,
}

/// How a caller was proven. Kept so that a caller inside an open tunnel can be checked again after a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// No proof was asked for.
    None,
    /// The listener: everybody there is this caller.
    Listener,
    /// Something listed under `callers`: the SHA-256 of what was shown.
    Shown([u8; 32]),
}

impl Caller {
    fn new(account: &str, name: &str, proof: Proof) -> Self {
        let account: Arc<str> = account.into();
        Self {
            name: name.into(),
            scope: Arc::clone(&account),
            account,
            lease: None,
            in_flight: Arc::default(),
            proof,
            vouched: None,
        }
    }

    /// Whoever reaches a listener that asks for no proof.
    pub fn local() -> Self {
        Self::new(DEFAULT_ACCOUNT, LOCAL, Proof::None)
    }

    /// Whoever comes in by a listener that is for one caller: the command that `run` started, or what the operator wrote.
    pub fn of_listener(name: &str) -> Self {
        Self::new(DEFAULT_ACCOUNT, name, Proof::Listener)
    }

    /// The token that others vouched for: they are asked again before each later request inside a tunnel.
    pub fn vouched_token(&self) -> Option<&Secret> {
        self.vouched.as_ref().map(|borrowed| &borrowed.token)
    }

    /// Whether both are the same caller, proven in the same way.
    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.account == other.account && self.proof == other.proof
    }
}

/// One entry of `callers`, or one of the encrypted store, its token loaded.
#[derive(Debug, Clone)]
pub struct CallerRule {
    /// The account whose credentials it may be bound to.
    pub account: String,
    /// The name.
    pub name: String,
    /// What proves it: see [`fingerprint`].
    pub proofs: Vec<[u8; 32]>,
    /// The lease, if it is a run of a policy.
    pub lease: Option<Arc<Lease>>,
}

/// The SHA-256 of one kind of evidence. Looking a digest up instead of comparing tokens takes the same time
/// whatever part of a guess is right.
pub fn fingerprint(kind: &str, evidence: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(kind.as_bytes());
    context.update(&[0]);
    context.update(evidence);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

impl CallerRule {
    /// A caller proven by a token.
    pub fn token(name: &str, token: &Secret) -> Self {
        Self::proven(name, fingerprint("token", token.expose()))
    }

    /// A caller proven by the uid behind a unix socket.
    pub fn uid(name: &str, uid: u32) -> Self {
        Self::proven(name, fingerprint("uid", &uid.to_be_bytes()))
    }

    /// A caller proven by a subject alternative name of its client certificate.
    pub fn client_cert(name: &str, san: &str) -> Self {
        Self::proven(name, fingerprint("san", san.as_bytes()))
    }

    /// A caller proven by the token of its Kubernetes service account, `namespace/name`, for which others vouch.
    pub fn service_account(name: &str, account: &str) -> Self {
        Self::proven(name, fingerprint("service_account", account.as_bytes()))
    }

    /// A caller of the configuration file that nothing proves at present.
    pub fn unproven(name: &str) -> Self {
        Self { account: DEFAULT_ACCOUNT.into(), name: name.into(), proofs: Vec::new(), lease: None }
    }

    fn proven(name: &str, proof: [u8; 32]) -> Self {
        Self { proofs: vec![proof], ..Self::unproven(name) }
    }
}

/// The table of callers.
#[derive(Debug, Default)]
pub struct Callers {
    by_proof: HashMap<[u8; 32], Arc<Caller>>,
    /// By account and name; a caller may have several proofs, or none at present.
    names: HashSet<(String, String)>,
    asked: bool,
}

impl Callers {
    /// Builds the table; a caller whose token could not be loaded is listed with no proof, so that it stays known.
    pub fn new(rules: impl IntoIterator<Item = CallerRule>) -> Self {
        let mut callers = Self::default();
        for rule in rules {
            for proof in rule.proofs {
                let mut caller = Caller::new(&rule.account, &rule.name, Proof::Shown(proof));
                if let Some(lease) = &rule.lease {
                    (caller.scope, caller.lease) = (Arc::clone(&lease.scope), Some(Arc::clone(lease)));
                }
                callers.by_proof.insert(proof, Arc::new(caller));
            }
            callers.names.insert((rule.account, rule.name));
        }
        callers.asked = !callers.names.is_empty();
        callers
    }

    /// The same, where callers are asked although none is listed yet.
    #[must_use]
    pub fn asking(mut self) -> Self {
        self.asked = true;
        self
    }

    /// Whether none is asked to prove itself, since no caller is listed.
    pub fn is_empty(&self) -> bool {
        !self.asked
    }

    /// Whether a caller of that name is listed in the account of the configuration file.
    pub fn knows(&self, name: &str) -> bool {
        self.knows_in(DEFAULT_ACCOUNT, name)
    }

    /// Whether a caller of that name is listed in an account.
    pub fn knows_in(&self, account: &str, name: &str) -> bool {
        self.names.contains(&(account.to_owned(), name.to_owned()))
    }

    /// The listed caller of that name as if proven, for `explain` and the like.
    pub fn named(&self, name: &str) -> Option<Caller> {
        self.named_in(DEFAULT_ACCOUNT, name)
    }

    /// The same of an account.
    pub fn named_in(&self, account: &str, name: &str) -> Option<Caller> {
        if name == LOCAL && self.is_empty() && account == DEFAULT_ACCOUNT {
            return Some(Caller::local());
        }
        let is_it = |caller: &&Arc<Caller>| &*caller.name == name && &*caller.account == account;
        let proven = self.by_proof.values().find(is_it);
        let unproven = || self.knows_in(account, name).then(|| Caller::new(account, name, Proof::None));
        proven.map(|caller| Caller::clone(caller)).or_else(unproven)
    }

    /// Who shows this token, if anybody may.
    pub fn by_token(&self, token: &[u8]) -> Option<&Arc<Caller>> {
        self.by_proof.get(&fingerprint("token", token))
    }

    /// Who runs under this uid.
    pub fn by_uid(&self, uid: u32) -> Option<&Arc<Caller>> {
        self.by_proof.get(&fingerprint("uid", &uid.to_be_bytes()))
    }

    /// Who has this name in its client certificate.
    pub fn by_san(&self, san: &str) -> Option<&Arc<Caller>> {
        self.by_proof.get(&fingerprint("san", san.as_bytes()))
    }

    /// Who is the service account that others vouched for, by this token.
    pub fn by_voucher(&self, vouched: &Vouched, token: &Secret) -> Option<Arc<Caller>> {
        let known = self.by_proof.get(&fingerprint("service_account", vouched.account.as_bytes()))?;
        let borrowed = Borrowed { token: token.clone(), until: vouched.until };
        Some(Arc::new(Caller { vouched: Some(Arc::new(borrowed)), ..Caller::clone(known) }))
    }

    /// Whether a caller that was proven earlier (when its tunnel was opened) still is what it was, and its lease holds.
    pub fn confirms(&self, caller: &Caller, clock: &dyn Clock) -> bool {
        if caller.lease.as_ref().is_some_and(|lease| !lease.holds(clock.now())) {
            return false;
        }
        if caller.vouched.as_ref().is_some_and(|borrowed| borrowed.until <= clock.now()) {
            return false;
        }
        match caller.proof {
            Proof::None | Proof::Listener => true,
            Proof::Shown(proof) => self.by_proof.get(&proof).is_some_and(|known| known.is(caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SystemClock;

    fn callers() -> Callers {
        Callers::new([
            CallerRule::token("runner", &Secret::new("t0ken")),
            CallerRule::uid("pod", 1000),
            CallerRule::client_cert("mesh", "spiffe://a/b"),
        ])
    }

    #[test]
    fn evidence_of_one_kind_proves_nothing_of_another() {
        let callers = callers();
        assert_eq!(&*callers.by_token(b"t0ken").unwrap().name, "runner");
        assert_eq!(&*callers.by_uid(1000).unwrap().name, "pod");
        assert_eq!(&*callers.by_san("spiffe://a/b").unwrap().name, "mesh");
        assert!(callers.by_token(b"t0ke").is_none());
        assert!(callers.by_token(b"spiffe://a/b").is_none());
        assert!(callers.by_uid(1001).is_none());
        assert!(callers.by_san("t0ken").is_none());
    }

    #[test]
    fn a_caller_that_others_vouched_for_is_one_until_they_must_be_asked_again() {
        let now = SystemClock.now();
        let hour = std::time::Duration::from_secs(3600);
        let callers = Callers::new([CallerRule::service_account("pod", "ns/app")]);
        let by =
            |account: &str, until| callers.by_voucher(&Vouched { account: account.into(), until }, &Secret::new("eyJ"));
        assert!(by("ns/other", now + hour).is_none());
        assert!(callers.by_token(b"ns/app").is_none());
        assert!(callers.confirms(&by("ns/app", now + hour).unwrap(), &SystemClock));
        assert!(!callers.confirms(&by("ns/app", now).unwrap(), &SystemClock));
        let others = Callers::new([CallerRule::service_account("pod", "ns/other")]);
        assert!(!others.confirms(&by("ns/app", now + hour).unwrap(), &SystemClock));
    }

    #[test]
    fn a_caller_whose_token_was_changed_is_no_longer_confirmed() {
        let before = Caller::clone(callers().by_token(b"t0ken").unwrap());
        assert!(callers().confirms(&before, &SystemClock));
        assert!(!Callers::new([CallerRule::token("runner", &Secret::new("new"))]).confirms(&before, &SystemClock));
        assert!(!Callers::new([CallerRule::token("other", &Secret::new("t0ken"))]).confirms(&before, &SystemClock));
    }
}
