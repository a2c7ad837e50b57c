//! The configuration file: read whole, checked whole, every error with its path and line.
//!
//! **Never holds a secret, never builds anything: that is `app`'s.**

mod document;
mod sections;

pub use document::{ConfigError, Document};
pub(crate) use sections::method;
pub use sections::{
    BindingSettings, CallerProof, CallerSettings, Config, CredentialSettings, LimitSettings, LogFormat, LogSettings,
};
