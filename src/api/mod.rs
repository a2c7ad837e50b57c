//! The management API: accounts, credentials, bindings, callers; the ways in of Flexera's and Tower's clients; who may do
//! what.
//!
//! **Never shows a secret that it was given; never signs; never acts for somebody whose right it has not checked.**

mod access;
mod bindings;
mod credential;
mod credentials;
mod document;
mod engine;
mod error;
mod filter;
mod flexera;
mod json;
mod judge;
pub mod kinds;
mod limits;
mod native;
mod oidc;
mod policies;
mod principal;
mod runs;
pub mod settings;
mod time;
mod tokens;
mod tower;
mod web;

pub use access::Access;
pub use bindings::{CallerEntry, NewCallerToken};
pub use credential::{Condition, Credential, EXPIRY_NOTICE, Input, Origin, Patch, TagsPatch, check_id, expiry_warning};
pub use credentials::{Credentials, Listed, Page, UsageReport};
pub use engine::{Declared, Engine, ProxyPlace, TestReport, Tested, TokenLife, WriteError};
pub use error::{ApiError, ErrorKind};
pub use filter::Filter;
pub use json::Confidential;
pub use policies::{Applied, BlockVerdicts, PolicyInput};
pub use principal::{Grant, Principal, check_account};
pub use runs::{NewRun, RunReport, SufficientBinding};
pub use settings::Settings;
pub use tokens::{TokenEntry, first_token};

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::header;
use axum::routing::get;
use axum::{Extension, Router, middleware};
use bytes::Bytes;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::base::{AuditEvent, Deps};
use crate::store::{Store, StoreError};

/// The management API over one store and one running process. Clones share them.
#[derive(Debug, Clone)]
pub struct Api {
    store: Store,
    engine: Arc<dyn Engine>,
    deps: Deps,
    access: Arc<ArcSwap<Access>>,
}

impl Api {
    /// Over a store, for a process. Until [`Api::set_access`], only the tokens of the store are let in.
    pub fn new(store: Store, engine: Arc<dyn Engine>, deps: Deps) -> Self {
        let access = Arc::new(ArcSwap::from_pointee(Access::closed(&deps)));
        Self { store, engine, deps, access }
    }

    /// The store it is over.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// From now on the `admin` section says this.
    pub fn set_access(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    /// The credentials of an account, for somebody.
    ///
    /// # Errors
    /// `forbidden` when the principal may not see that account; `bad_request` when that is no account's name.
    pub fn credentials<'a>(&'a self, principal: &'a Principal, account: &'a str) -> Result<Credentials<'a>, ApiError> {
        Credentials::new(self, principal, account)
    }

    /// The routes of the API, for the admin listener: they ask who it is.
    pub fn router(&self) -> Router {
        let enter = middleware::from_fn_with_state(self.clone(), web::enter);
        self.open().layer(enter).layer(CatchPanicLayer::custom(web::panicked))
    }

    /// The same for somebody who is proven otherwise, such as who runs a command on this host.
    pub fn router_as(&self, principal: Principal) -> Router {
        self.open().layer(Extension(web::Asking(principal))).layer(CatchPanicLayer::custom(web::panicked))
    }

    fn open(&self) -> Router {
        let (router, openapi) = Self::routes().split_for_parts();
        let document: Bytes = document::finished(&openapi).to_string().into();
        let document = get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) });
        router
            .route(web::OPENAPI, document)
            .fallback(web::nowhere)
            .method_not_allowed_fallback(web::not_so)
            .layer(middleware::from_fn(web::to_the_end))
            .with_state(self.clone())
    }

    /// Every way in.
    fn routes() -> OpenApiRouter<Self> {
        OpenApiRouter::with_openapi(document::head())
            .merge(native::routes())
            .merge(flexera::routes())
            .merge(tower::routes())
    }

    /// The description of all ways in, OpenAPI 3.1.
    pub fn openapi() -> serde_json::Value {
        document::finished(&Self::routes().split_for_parts().1)
    }

    /// Writes down a change that is about to be made; what cannot be written down is not made.
    async fn change(&self, event: AuditEvent) -> Result<Recorded<'_>, ApiError> {
        self.deps.audit.record(event.clone()).await?;
        Ok(Recorded { deps: &self.deps, event })
    }
}

/// A change that is written down and not made yet.
#[must_use]
struct Recorded<'a> {
    deps: &'a Deps,
    event: AuditEvent,
}

impl Recorded<'_> {
    /// Writes down that it was not made.
    fn undone(self, outcome: &'static str) {
        let facts = vec![("undone".into(), "the change that was written down before was not made".to_owned())];
        self.deps.audit.note(AuditEvent { outcome: outcome.into(), facts, ..self.event });
    }

    /// The same, for what the store said.
    fn failed(self, error: StoreError) -> ApiError {
        let error = ApiError::from(error);
        self.undone(error.code());
        error
    }
}

#[cfg(test)]
mod oidc_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
