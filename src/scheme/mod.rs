//! How to sign: one file per authentication scheme.
//!
//! A scheme is given its settings and secrets at load and prepares what it can; per request it returns [`Mutations`].
//! **Never sends anything, never reads the clock, the network or the configuration file, never decides who may use it.**
//!
//! A new scheme is one file here, the two lines below (`mod x;` and its entry in [`KINDS`]), its vectors in
//! `tests/vectors/x/` and a recipe in `config/recipes/`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;

use crate::base::{BodyNeed, Mutations, Refusal, RequestView};
use crate::base::{SecretRef, Secrets, Unavailable};

mod api_key;
mod basic;

/// Every scheme there is.
pub static KINDS: &[Kind] = &[
    api_key::KIND, //
    basic::KIND,
];

/// A scheme as the configuration names it.
pub struct Kind {
    /// The name, in snake_case, as in `scheme: api_key`.
    pub name: &'static str,
    /// One sentence for help texts.
    pub about: &'static str,
    /// Hosts of the provider, used when the credential names none. Never hosts that strangers can own there.
    pub default_hosts: &'static [&'static str],
    /// Reads and checks the scheme's own keys.
    pub parse: fn(serde_json::Value) -> Result<Box<dyn Draft>, SettingsError>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A scheme of that name, `-` and `_` being the same.
pub fn find(name: &str) -> Option<&'static Kind> {
    let name = name.replace('-', "_");
    KINDS.iter().find(|kind| kind.name == name)
}

/// What is wrong with a credential's keys, and at which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The path below the credential, such as `additional[0].key`.
    pub path: String,
    /// What to change; never a value of a secret field.
    pub message: String,
}

/// Checked settings whose secrets are not loaded yet.
pub trait Draft: Send + Sync + fmt::Debug {
    /// Every reference that [`Draft::build`] will ask for.
    fn references(&self) -> Vec<&SecretRef>;

    /// Prepares the scheme with its secrets.
    ///
    /// # Errors
    /// When a secret is missing or is not of the form the scheme needs.
    fn build(&self, secrets: &Secrets) -> Result<Arc<dyn Scheme>, Unavailable>;
}

/// A credential ready to sign. `Debug` of an implementation shows no secret.
pub trait Scheme: Send + Sync + fmt::Debug {
    /// The headers that are this scheme's own: the caller's copies are removed before signing.
    fn owned_headers(&self) -> &[HeaderName];

    /// What it adds beside its own headers, by name, for people: `cookie`, `?api_key`.
    fn adds(&self) -> Vec<String> {
        Vec::new()
    }

    /// What must be known of the body first.
    fn body_need(&self, _view: &RequestView<'_>) -> BodyNeed {
        BodyNeed::None
    }

    /// The instructions that authenticate this request at this time.
    ///
    /// # Errors
    /// When the request cannot be signed.
    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Arc<Mutations>, Refusal>;
}

/// Reads settings with the path of what is wrong.
fn settings<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, SettingsError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| SettingsError { path: error.path().to_string(), message: error.into_inner().to_string() })
}

/// A settings error at one key.
fn at(path: impl Into<String>, message: impl Into<String>) -> SettingsError {
    SettingsError { path: path.into(), message: message.into() }
}
