//! The permit: the proof that a binding was found, and the only thing that can sign.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use ipnet::IpNet;

use super::binding::Binding;
use crate::base::{Authorizer, BodyNeed, Code, Destination, Mutations, Refusal, RequestView};
use crate::scheme::{Identity, Scheme};
use crate::token::Live;

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

    /// Addresses that this binding may reach though they are normally refused.
    pub fn allow_addresses(&self) -> &Arc<[IpNet]> {
        &self.binding.allow_addresses
    }

    /// The headers that the caller's copies of are removed before signing.
    pub fn owned_headers(&self) -> &[HeaderName] {
        self.scheme.owned_headers()
    }

    /// What it adds beside its own headers, by name.
    pub fn adds(&self) -> Vec<String> {
        self.scheme.adds()
    }

    /// Whether it signs with a token, so that an upstream's 401 may mean no more than that the token is not the latest.
    pub fn has_token(&self) -> bool {
        matches!(self.scheme.identity(), Identity::Token(_))
    }

    /// Obtains what signs: at once for a fixed key or a token that lives, else after the one exchange under way.
    ///
    /// # Errors
    /// Why there is no token; then nothing is sent.
    pub async fn ready(self) -> Result<Signer, Refusal> {
        let (authorizer, live) = match self.scheme.identity() {
            Identity::Fixed(authorizer) => (Arc::clone(authorizer), None),
            Identity::Token(handle) => {
                let live = match handle.current() {
                    Some(live) => live,
                    // Rare, so it must not make the future of every request larger.
                    None => Box::pin(handle.obtain()).await?,
                };
                (Arc::clone(live.authorizer()), Some(live))
            }
        };
        let receipt = Receipt { scheme: self.scheme, live };
        Ok(Signer { authorizer, receipt, destination: self.destination })
    }
}

/// A permit with what signs; consumed by signing.
#[derive(Debug)]
pub struct Signer {
    authorizer: Arc<dyn Authorizer>,
    receipt: Receipt,
    destination: Destination,
}

impl Signer {
    /// The headers that the caller's copies of are removed before signing.
    pub fn owned_headers(&self) -> &[HeaderName] {
        self.receipt.scheme.owned_headers()
    }

    /// What must be known of the body.
    pub fn body_need(&self, view: &RequestView<'_>) -> BodyNeed {
        self.authorizer.body_need(view)
    }

    /// Signs the one request that the permit was made for.
    ///
    /// # Errors
    /// `destination_mismatch` for a request to anywhere else; what the scheme refuses.
    pub fn sign(self, view: &RequestView<'_>, now: SystemTime) -> Result<(Arc<Mutations>, Receipt), Refusal> {
        if *view.destination != self.destination {
            return Err(Refusal::new(Code::DestinationMismatch, "the permit is for another destination"));
        }
        Ok((self.authorizer.authorize(view, now)?, self.receipt))
    }
}

/// What a request was signed with, for the case that the upstream refuses it.
#[derive(Debug)]
pub struct Receipt {
    scheme: Arc<dyn Scheme>,
    live: Option<Arc<Live>>,
}

impl Receipt {
    /// The upstream answered 401: the token, if it was one, is dropped. Says whether signing once more is worth it.
    pub fn rejected(&self) -> bool {
        match (self.scheme.identity(), &self.live) {
            (Identity::Token(handle), Some(live)) => handle.rejected(live),
            _ => false,
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
