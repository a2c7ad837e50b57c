//! What is at rest: accounts, credentials, bindings, callers, management tokens, the audit record and the leases, in SQLite
//! or PostgreSQL.
//!
//! Every secret is encrypted under a data key of its account, which is encrypted under the key-encryption key. Every change
//! is one transaction, which counts the store's revision up by one and is told to every process.
//! **Never decides who may do what, never builds a scheme, never hands out a secret but to who asks for exactly that
//! version of that credential.**

mod audit_rows;
mod backup;
mod bindings;
mod callers;
mod care;
mod changes;
mod connect;
mod credentials;
mod data_keys;
mod database;
mod envelope;
mod keys;
mod leases;
mod management;
mod migrate;
mod open;
mod policies;
mod record;
mod rekey;
mod routing;
mod settings;
#[cfg(test)]
mod testing;
mod tokens;
mod usage;

pub use audit_rows::{AuditQuery, AuditRow};
pub use care::Info;
pub use changes::Reach;
pub use keys::{HeldKey, KeyEncryption, KeyError, KeyMade, Keys, Transit, TransitKey};
pub use open::Place;
pub use record::{
    Actor, AppliedPolicy, AppliedPolicyRecord, BindingRecord, CallerProofRecord, CallerRecord, Change,
    CredentialRecord, ManagementToken, NewCredential, PolicyBinding, PolicyPassage, Role, Routing, RunRecord, RunUse,
    StoreError, UsageRecord,
};
pub use rekey::{Progress, Watcher};
pub use settings::{KeySettings, Settings, TransitSettings};
pub use tokens::TokenStore;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::base::Deps;
use database::Database;

/// The store, open. Clones share it; when the last one is dropped, nothing watches any more.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the clones share.
struct Inner {
    database: Database,
    /// Without user and password.
    address: String,
    ring: open::Ring,
    data_keys: Mutex<data_keys::Opened>,
    revision: watch::Sender<i64>,
    reach: Mutex<Reach>,
    /// Woken, the watch looks at once.
    look: tokio::sync::Notify,
    watch: Mutex<Vec<tokio::task::AbortHandle>>,
    deps: Deps,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in lock(&self.watch).drain(..) {
            task.abort();
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

type Result<T> = std::result::Result<T, StoreError>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The moment so many milliseconds after 1970.
fn moment(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A document of ours, as text.
fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Invalid(format!("it cannot be written as JSON: {error}")))
}

/// The same, back. Its error says where, never what.
fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        StoreError::Invalid(format!(
            "what is stored is damaged at {}:{}: restore a backup",
            error.line(),
            error.column()
        ))
    })
}

/// An account's name, or an id within one, as it may be stored.
fn named(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(StoreError::Invalid(format!("{what} has 1 to 256 bytes and no control characters")));
    }
    Ok(())
}
