//! What the configuration file declares, kept so that the route table can be made again when the encrypted store changes.

use std::sync::Arc;

use super::secret_stores::Opened;
use crate::api::Declared;
use crate::route::{Binding, CallerRule, CredentialEntry, Unbound};
use crate::scheme::Outside;
use crate::source::Sources;
use crate::upstream::Upstream;

/// The file's part of the route table, and what the store's credentials are prepared with.
#[derive(Debug)]
pub struct FilePart {
    /// Its bindings, routes included.
    pub bindings: Vec<Arc<Binding>>,
    /// Its credentials.
    pub credentials: Vec<Arc<CredentialEntry>>,
    /// The same as the API shows them.
    pub declared: Vec<Declared>,
    /// Its callers.
    pub callers: Vec<CallerRule>,
    /// Callers have to prove themselves even while none is listed: a listener is open to others than this host.
    pub asks: bool,
    /// What happens to calls without a binding.
    pub unbound: Unbound,
    /// What schemes obtain tokens with.
    pub outside: Outside,
    /// Where secrets are read from.
    pub sources: Sources,
    /// The secret stores among those.
    pub secret_stores: Opened,
    /// Where rotated refresh tokens rest.
    pub tokens: crate::token::Settings,
    /// The way out.
    pub upstream: Arc<Upstream>,
}

impl FilePart {
    /// Whether a credential that was prepared with the other is as good as one prepared with this.
    pub(super) fn is_prepared_alike(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream)
            && self.tokens == other.tokens
            && self.sources.is_same(&other.sources)
    }
}
