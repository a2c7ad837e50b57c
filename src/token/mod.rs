//! Obtaining short-lived tokens: once however many ask, renewed before they are missed, dropped when refused.
//!
//! **Never hands out a token past its time, never has two exchanges for one key under way, never repeats an exchange that
//! may have spent a refresh token, never decides who may use what.**

mod assertion;
pub mod aws;
mod cache;
mod certificate;
mod exchange;
mod failure;
mod key;
mod legacy_pem;
mod managed_identity;
mod moment;
mod pairs;
mod place;
mod private_key;
mod recorded;
mod resting;
mod rotation;
#[cfg(test)]
mod schedules;
mod service;

pub use assertion::{Algorithm, Assertion, AssertionParts, SigningKey, expiry};
pub use cache::{Handle, Live, Tokens};
pub use certificate::Certificate;
pub use exchange::{Answer, ClientAuth, Endpoint, ExchangeError, Grant, Param, TokenRequest};
pub use failure::{Failure, FailureKind};
pub use key::{Key, KeyBuilder};
pub use managed_identity::{IdentityId, ManagedIdentity};
pub use moment::{Moment, lifetime};
pub use pairs::Pairs;
pub use place::Place;
pub use private_key::PrivateKey;
pub use resting::Resting;
pub use rotation::{RefreshReuse, Rotation, StateDirectory, Unsaved};
pub use service::{Reply, Service};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use crate::base::{Authorizer, BoxFuture, Secret, SecretField};

/// The `tokens` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Holds refresh tokens that a provider replaced, encrypted; made when the first one comes, 0700.
    pub directory: PathBuf,
    /// The key they are encrypted with, 32 bytes in base64; without it one is made in the directory, 0600.
    pub key: Option<SecretField>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directory: "state/tokens".into(), key: None }
    }
}

/// A short-lived secret and the moment it ends.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself, or whatever several secrets a provider hands out together, in the source's own form.
    pub secret: Secret,
    /// It is not to be used from here on.
    pub expires_at: SystemTime,
}

/// Where tokens of one kind come from. [`Tokens`] gives every source the same life.
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// Obtains a new token. `now` is the time just before the exchange, from which a lifetime counts. Runs to its end
    /// even when nobody waits any more, and ends by itself.
    ///
    /// # Errors
    /// Why there is none.
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>>;

    /// What signs with this token; made once for each token.
    ///
    /// # Errors
    /// When the token cannot be sent.
    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure>;
}
