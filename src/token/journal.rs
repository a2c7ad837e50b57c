//! Where it is written down which refresh token is the latest, and whether it is being spent.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::base::{BoxFuture, Secret};

/// What is known of one refresh token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    pub(super) token: String,
    /// Whether this provider replaces tokens; unknown before the first answer.
    pub(super) rotates: Option<bool>,
    /// It was sent, and no answer is on record.
    pub(super) pending: bool,
    /// It was taken over by another journal; here is nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) moved: bool,
    /// Which attempt announced it: random, so that nobody takes back what another announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
}

impl Record {
    /// Nothing is known but the token.
    pub(super) fn new(token: String) -> Self {
        Self { token, rotates: None, pending: false, moved: false, mark: None }
    }

    /// Whether this may take the place of what is written: nobody else has announced anything since.
    pub(super) fn follows(&self, before: &str, written: &Self) -> bool {
        written.token == before && (!written.pending || written.mark == self.mark)
    }

    /// Whether it only says that an attempt is about to be made.
    pub fn is_announcement(&self) -> bool {
        self.pending
    }

    /// As it is encrypted.
    ///
    /// # Errors
    /// Never, for what is a record.
    pub fn to_secret(&self) -> Result<Secret, String> {
        serde_json::to_vec(self).map(Secret::new).map_err(|error| error.to_string())
    }

    /// What was encrypted; nothing if it is none.
    pub fn from_secret(plain: &Secret) -> Option<Self> {
        serde_json::from_slice(plain.expose()).ok()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Record")
    }
}

/// Why a journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// What is written there cannot be read: a person must act.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be reached, or not be written.
    #[error("{0}")]
    Unavailable(String),
}

/// Journals, each by its name.
pub trait Journals: Send + Sync + fmt::Debug {
    /// Takes a journal for one attempt. Nothing while somebody else has it.
    fn lock<'a>(
        &'a self,
        account: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Journal>>, JournalError>>;
}

/// A journal that nobody else has. Dropped, others may have it.
pub trait Journal: Send + Sync + fmt::Debug {
    /// What is written there; nothing if nothing ever was.
    fn read(&mut self) -> BoxFuture<'_, Result<Option<Record>, JournalError>>;

    /// Writes, durably, unless somebody else took it meanwhile.
    fn write<'a>(&'a mut self, record: &'a Record) -> BoxFuture<'a, Result<(), String>>;

    /// Lets others have it, and waits until they may.
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}
