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
mod issuer;
mod journal;
mod key;
mod legacy_pem;
mod managed_identity;
mod moment;
mod pairs;
mod place;
mod private_key;
mod recorded;
mod redis;
mod resting;
mod rotation;
#[cfg(test)]
mod schedules;
mod sealer;
mod service;
mod service_accounts;
mod shared;
mod state_directory;
mod traced;

pub use assertion::{Algorithm, Assertion, AssertionParts, SigningKey, expiry};
pub use cache::{Handle, Live, Reliance, Tokens};
pub use certificate::Certificate;
pub use exchange::{Answer, ClientAuth, Endpoint, ExchangeError, Grant, Param, TokenRequest};
pub use failure::{Failure, FailureKind};
pub use issuer::{Disbelief, Issuer, IssuerSettings, KeyPlace, texts};
pub use journal::{Journal, JournalError, Journals, Record};
pub use key::{Key, KeyBuilder};
pub use managed_identity::{IdentityId, ManagedIdentity};
pub use moment::{Moment, lifetime};
pub use pairs::Pairs;
pub use place::Place;
pub use private_key::PrivateKey;
pub use resting::Resting;
pub use rotation::{RefreshReuse, Rotation, Unsaved};
pub use sealer::{FleetKey, Sealer, SealerError};
pub use service::{Reply, Service};
pub use service_accounts::{ServiceAccountSettings, ServiceAccounts, TokenReviewSettings, check_account};
pub use shared::{Shared, SharedSettings};
pub use state_directory::StateDirectory;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use crate::base::{Authorizer, BoxFuture, Public, Secret, SecretField, SecretRef, Secrets};

/// The `tokens` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Holds refresh tokens that a provider replaced, encrypted; made when the first one comes, 0700.
    pub directory: PathBuf,
    /// The key they are encrypted with, 32 bytes in base64; without it one is made in the directory, 0600.
    pub key: Option<SecretField>,
    /// Where the processes of a fleet share their tokens: `redis://HOST:6379/0`, `rediss://` for TLS, or `unix:/PATH`; without
    /// a password if it is written here.
    pub shared: Option<Public>,
    /// The user there.
    pub shared_username: Option<Public>,
    /// The password there.
    pub shared_password: Option<SecretField>,
    /// Roots that its certificate may come from, beside the system's (PEM).
    pub shared_ca_file: Option<PathBuf>,
    /// Let the password travel over `redis://` to another host.
    pub shared_allow_cleartext: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: "state/tokens".into(),
            key: None,
            shared: None,
            shared_username: None,
            shared_password: None,
            shared_ca_file: None,
            shared_allow_cleartext: false,
        }
    }
}

impl Settings {
    /// The references to load.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let public = [&self.shared, &self.shared_username].into_iter().flatten().filter_map(Public::reference);
        let secret = [&self.key, &self.shared_password].into_iter().flatten().map(SecretField::reference);
        public.chain(secret)
    }

    /// Whether the keys go together.
    ///
    /// # Errors
    /// The key that is useless, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let beside = [
            ("shared_username", self.shared_username.is_some()),
            ("shared_password", self.shared_password.is_some()),
            ("shared_ca_file", self.shared_ca_file.is_some()),
            ("shared_allow_cleartext", self.shared_allow_cleartext),
        ];
        let useless = beside.into_iter().find(|(_, given)| *given && self.shared.is_none());
        useless.map_or(Ok(()), |(key, _)| Err((key, "it goes with `shared`".into())))
    }

    /// What sharing is set up with; nothing when nothing is shared.
    ///
    /// # Errors
    /// The key whose reference gives nothing, and why.
    pub fn sharing(&self, secrets: &Secrets) -> Result<Option<SharedSettings>, (&'static str, String)> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let public = |key, field: &Public| secrets.public(field).map_err(|error| (key, error.0));
        let username = self.shared_username.as_ref().map(|field| public("shared_username", field)).transpose()?;
        let password = self.shared_password.as_ref().map(|field| secrets.field(field)).transpose();
        Ok(Some(SharedSettings {
            address: (public("shared", shared)?, shared.reference().is_none()),
            username,
            password: password.map_err(|error| ("shared_password", error.0))?,
            ca_file: self.shared_ca_file.clone(),
            allow_cleartext: self.shared_allow_cleartext,
        }))
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

    /// Whether a token may serve another process that has the same credential: not if it is made of what this host is or
    /// has, and there is no use in it if it is made here without asking anybody.
    fn shareable(&self) -> bool {
        true
    }

    /// What signs with this token; made once for each token.
    ///
    /// # Errors
    /// When the token cannot be sent.
    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure>;
}
