//! The permit: the proof that a binding was found, and the only thing that can sign.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use ipnet::IpNet;

use super::binding::Binding;
use crate::base::{BodyNeed, Code, Destination, Mutations, Refusal, RequestView};
use crate::scheme::Scheme;

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

    /// What the scheme must know of the body.
    pub fn body_need(&self, view: &RequestView<'_>) -> BodyNeed {
        self.scheme.body_need(view)
    }

    /// Signs the one request that this permit was made for.
    ///
    /// # Errors
    /// `destination_mismatch` for a request to anywhere else; what the scheme refuses.
    pub fn sign(self, view: &RequestView<'_>, now: SystemTime) -> Result<Arc<Mutations>, Refusal> {
        if *view.destination != self.destination {
            return Err(Refusal::new(Code::DestinationMismatch, "the permit is for another destination"));
        }
        self.scheme.authorize(view, now)
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
