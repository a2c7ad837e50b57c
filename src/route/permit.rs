//! The permit: the proof that a binding was found, and the only thing that can sign.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, StatusCode};
use ipnet::IpNet;

use super::binding::Binding;
use super::usage::Usage;
use crate::base::meter::Meter;
use crate::base::{AnswerView, Authorized, Authorizer, BodyNeed, Challenged, Code, Destination};
use crate::base::{Refusal, RequestView, Verdict};
use crate::scheme::{Foresight, Identity, Scheme};
use crate::token::{Handle, Live};

/// Permission to sign one request to one destination. Made only by [`super::RouteTable::decide`]; consumed by signing.
#[derive(Debug)]
pub struct Permit {
    binding: Arc<Binding>,
    scheme: Arc<dyn Scheme>,
    destination: Destination,
}

impl Permit {
    pub(super) fn new(binding: Arc<Binding>, scheme: Arc<dyn Scheme>, destination: Destination) -> Self {
        Self { binding, scheme, destination }
    }

    /// The binding's name.
    pub fn binding(&self) -> &Arc<str> {
        &self.binding.name
    }

    /// The credential's id.
    pub fn credential(&self) -> &Arc<str> {
        &self.binding.credential.id
    }

    /// The name that the credential has within a run, if this is for one.
    pub fn alias(&self) -> Option<&Arc<str>> {
        self.binding.policy.as_ref().map(|policy| &policy.alias)
    }

    /// Where its uses are counted.
    pub fn usage(&self) -> &Usage {
        &self.binding.credential.usage
    }

    /// Where its requests are counted, in a process that counts.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        self.binding.meter.get(&self.binding.name, self.binding.credential.scheme)
    }

    /// Addresses that this binding may reach though they are normally refused.
    pub fn allow_addresses(&self) -> &Arc<[IpNet]> {
        &self.binding.allow_addresses
    }

    /// What signing would do to a request, for people; obtains nothing.
    ///
    /// # Errors
    /// When the request could not be signed, as far as that can be told without keys and body.
    pub fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        self.scheme.foresee(&RequestView { narrowing: self.binding.narrowing.as_ref(), ..*view })
    }

    /// Whether an upstream's refusal may mean no more than that what signed is not the latest.
    pub fn may_repeat(&self) -> bool {
        match self.scheme.identity() {
            Identity::Token(_) => true,
            Identity::Fixed(authorizer) => authorizer.reads_errors(),
            // A conversation sees to that by itself.
            Identity::Challenged(_) => false,
        }
    }

    /// Consumes the permit of a credential that is asked before it can answer; gives any other back.
    ///
    /// # Errors
    /// The permit of a credential that signs unasked.
    pub fn talk(self) -> Result<Talk, Self> {
        let challenged = match self.scheme.identity() {
            Identity::Challenged(challenged) => Arc::clone(challenged),
            Identity::Fixed(_) | Identity::Token(_) => return Err(self),
        };
        Ok(Talk { challenged, scheme: self.scheme, binding: self.binding, destination: self.destination })
    }

    /// The account of AWS that it is for in place of the credential's own: in a run the one that was chosen when the policy
    /// was applied, and no other.
    fn account<'a>(&'a self, asked: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
        let Some(policy) = &self.binding.policy else { return Ok(asked) };
        let chosen = policy.account_number.as_deref();
        match asked.filter(|asked| Some(*asked) != chosen) {
            None => Ok(chosen),
            Some(other) => Err(Refusal::new(
                Code::CredentialUnknown,
                format!("this run is not for account {other}; set the template's parameter when the policy is applied"),
            )),
        }
    }

    /// Obtains what signs: at once for a fixed key or a token that lives, else after the one exchange under way. `account`
    /// is the one that the request names in place of the credential's own.
    ///
    /// # Errors
    /// Why there is no token; then nothing is sent.
    pub async fn ready(self, account: Option<&str>) -> Result<Signer, Refusal> {
        let identity = match self.account(account)? {
            None => self.scheme.identity(),
            Some(account) => self.scheme.identity_in(account)?,
        };
        let (authorizer, live) = match identity {
            Identity::Fixed(authorizer) => (Arc::clone(authorizer), None),
            Identity::Challenged(_) => {
                return Err(Refusal::new(
                    Code::CredentialRejected,
                    "this scheme signs nothing before the server has asked",
                ));
            }
            Identity::Token(handle) => {
                let living = handle.current();
                if let Some(meter) = self.meter() {
                    meter.token(living.is_some());
                }
                let live = match living {
                    Some(live) => live,
                    // Rare, so it must not make the future of every request larger.
                    None => Box::pin(handle.obtain()).await?,
                };
                (Arc::clone(live.authorizer()), Some((Arc::clone(handle), live)))
            }
        };
        let receipt = Receipt { authorizer, live, mark: 0 };
        Ok(Signer { receipt, scheme: self.scheme, binding: self.binding, destination: self.destination })
    }
}

/// A permit of a credential that is asked before it can answer: it may sign the one request anew for each challenge.
#[derive(Debug)]
pub struct Talk {
    challenged: Arc<dyn Challenged>,
    scheme: Arc<dyn Scheme>,
    binding: Arc<Binding>,
    destination: Destination,
}

impl Talk {
    /// For another account of the provider, which no scheme of this kind knows.
    ///
    /// # Errors
    /// Why not.
    pub fn in_account(&self, account: &str) -> Result<(), Refusal> {
        self.scheme.identity_in(account).map(drop)
    }

    /// What answers.
    pub fn challenged(&self) -> &Arc<dyn Challenged> {
        &self.challenged
    }

    /// The credential's id.
    pub fn credential(&self) -> &Arc<str> {
        &self.binding.credential.id
    }

    /// The account that the credential belongs to.
    pub fn account(&self) -> &Arc<str> {
        &self.binding.credential.account
    }

    /// The headers that the caller's copies of are removed before anything is sent.
    pub fn owned_headers(&self) -> &[HeaderName] {
        self.scheme.owned_headers()
    }

    /// Signs the request that the permit was made for, with what answers the challenge.
    ///
    /// # Errors
    /// `destination_mismatch` for a request to anywhere else; what the scheme refuses.
    pub fn sign(
        &self,
        authorizer: &dyn Authorizer,
        view: &RequestView<'_>,
        now: SystemTime,
    ) -> Result<Authorized, Refusal> {
        if *view.destination != self.destination {
            return Err(elsewhere());
        }
        authorizer.authorize(view, now)
    }
}

fn elsewhere() -> Refusal {
    Refusal::new(Code::DestinationMismatch, "the permit is for another destination")
}

/// A permit with what signs; consumed by signing.
#[derive(Debug)]
pub struct Signer {
    receipt: Receipt,
    scheme: Arc<dyn Scheme>,
    binding: Arc<Binding>,
    destination: Destination,
}

impl Signer {
    /// The headers that the caller's copies of are removed before signing.
    pub fn owned_headers(&self) -> &[HeaderName] {
        self.scheme.owned_headers()
    }

    /// What must be known of the body.
    ///
    /// # Errors
    /// When the request cannot be signed whatever its body is.
    pub fn body_need(&self, view: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
        self.receipt.authorizer.body_need(&self.narrowed(view))
    }

    /// Signs the one request that the permit was made for.
    ///
    /// # Errors
    /// `destination_mismatch` for a request to anywhere else; what the scheme refuses.
    pub fn sign(self, view: &RequestView<'_>, now: SystemTime) -> Result<(Authorized, Receipt), Refusal> {
        if *view.destination != self.destination {
            return Err(elsewhere());
        }
        let authorized = self.receipt.authorizer.authorize(&self.narrowed(view), now)?;
        let receipt = Receipt { mark: authorized.mark, ..self.receipt };
        Ok((authorized, receipt))
    }

    /// What a scheme sees is what the binding allows.
    fn narrowed<'a>(&'a self, view: &RequestView<'a>) -> RequestView<'a> {
        RequestView { narrowing: self.binding.narrowing.as_ref(), ..*view }
    }
}

/// What a request was signed with, for the case that the upstream refuses it.
#[derive(Debug)]
pub struct Receipt {
    authorizer: Arc<dyn Authorizer>,
    live: Option<(Arc<Handle>, Arc<Live>)>,
    mark: i64,
}

impl Receipt {
    /// Whether the beginning of the upstream's errors is worth reading before [`Receipt::judge`].
    pub fn reads_errors(&self) -> bool {
        self.authorizer.reads_errors()
    }

    /// Whether an answer of this status, which is no success, may be about what the request was signed with.
    pub fn suspects(&self, status: StatusCode) -> bool {
        self.authorizer.suspects(status)
    }

    /// Judges the upstream's answer: a token that was refused is dropped. Says whether signing once more is worth it.
    pub fn judge(&self, answer: &AnswerView<'_>, now: SystemTime) -> bool {
        match self.authorizer.verdict(&AnswerView { mark: self.mark, ..*answer }, now) {
            Verdict::Fine => false,
            Verdict::Clock => true,
            Verdict::Token => self.live.as_ref().is_some_and(|(handle, live)| handle.rejected(live)),
        }
    }
}

/// Permission to forward a call without any credential of ours.
#[derive(Debug)]
pub struct Passage(Option<String>);

impl Passage {
    pub(super) fn new(observed: Option<String>) -> Self {
        Self(observed)
    }

    /// The binding that the call would have needed, when unbound calls are observed.
    pub fn observed(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
