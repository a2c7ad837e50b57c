//! What is at rest: accounts, credentials, bindings, callers, management tokens, the audit record and the leases, in SQLite
//! or PostgreSQL.
//!
//! Every secret is encrypted under a data key of its account, which is encrypted under the key-encryption key.
//! **Never decides who may do what, never builds a scheme, never hands out a secret but to who asks for exactly that
//! version of that credential.**

mod record;
mod settings;

pub use record::{
    Actor, BindingRecord, CallerProofRecord, CallerRecord, Change, CredentialRecord, ManagementToken, NewCredential,
    Role, Routing, StoreError, UsageRecord,
};
pub use settings::{KeySettings, Settings, TransitSettings};

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::base::{AuditEvent, Secret};

/// The store, open. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    revision: watch::Sender<i64>,
}

type Result<T> = std::result::Result<T, StoreError>;

fn later<T>() -> Result<T> {
    Err(StoreError::Unavailable("it is being written".into()))
}

#[allow(clippy::unused_async, clippy::unused_self, missing_docs, reason = "the bodies follow")]
impl Store {
    // --- credentials: every change is one transaction with its audit row, bumps the revision and tells every process
    pub async fn create_credential(
        &self,
        _account: &str,
        _id: &str,
        _new: NewCredential,
        _by: &Actor,
    ) -> Result<CredentialRecord> {
        later()
    }
    /// A new version on top of `version` (else `Changed`).
    pub async fn update_credential(
        &self,
        _account: &str,
        _id: &str,
        _version: i64,
        _new: NewCredential,
        _by: &Actor,
    ) -> Result<CredentialRecord> {
        later()
    }
    /// Leaves a tombstone. Bindings that name it stay and refuse.
    pub async fn remove_credential(&self, _account: &str, _id: &str, _by: &Actor) -> Result<()> {
        later()
    }
    /// The content of an earlier version (of the one before a tombstone too) as a new one.
    pub async fn restore_credential(
        &self,
        _account: &str,
        _id: &str,
        _version: Option<i64>,
        _by: &Actor,
    ) -> Result<CredentialRecord> {
        later()
    }
    /// The present version; nothing for a tombstone.
    pub async fn credential(&self, _account: &str, _id: &str) -> Result<Option<CredentialRecord>> {
        later()
    }
    /// Every version, the newest first, tombstones included.
    pub async fn credential_versions(&self, _account: &str, _id: &str) -> Result<Vec<CredentialRecord>> {
        later()
    }
    /// Present versions by id, those after `after`, `limit` at most; tombstones on demand.
    pub async fn credentials(
        &self,
        _account: &str,
        _after: Option<&str>,
        _limit: usize,
        _removed: bool,
    ) -> Result<Vec<CredentialRecord>> {
        later()
    }
    /// The state of an account's credentials, for `If-None-Match`: changes with any of them.
    pub async fn account_revision(&self, _account: &str) -> Result<i64> {
        later()
    }
    /// The secrets of exactly this version.
    pub async fn secrets(&self, _record: &CredentialRecord) -> Result<BTreeMap<String, Secret>> {
        later()
    }

    // --- accounts
    /// Every account that was ever written to, by name.
    pub async fn accounts(&self) -> Result<Vec<(String, Change)>> {
        later()
    }

    // --- bindings and callers
    pub async fn bindings(&self, _account: &str) -> Result<Vec<BindingRecord>> {
        later()
    }
    /// Creates or replaces. `Unknown` when the credential does not exist.
    pub async fn put_binding(&self, _binding: BindingRecord, _by: &Actor) -> Result<()> {
        later()
    }
    pub async fn remove_binding(&self, _account: &str, _id: &str, _by: &Actor) -> Result<()> {
        later()
    }
    pub async fn callers(&self, _account: &str) -> Result<Vec<CallerRecord>> {
        later()
    }
    /// Adds a proof, and the caller if it is new.
    pub async fn add_caller_proof(
        &self,
        _account: &str,
        _caller: &str,
        _proof: CallerProofRecord,
        _by: &Actor,
    ) -> Result<()> {
        later()
    }
    /// Removes one proof, or the caller with all of them.
    pub async fn remove_caller(&self, _account: &str, _caller: &str, _proof: Option<&str>, _by: &Actor) -> Result<()> {
        later()
    }

    // --- management tokens
    pub async fn management_tokens(&self) -> Result<Vec<ManagementToken>> {
        later()
    }
    pub async fn management_token(&self, _digest: &[u8; 32]) -> Result<Option<ManagementToken>> {
        later()
    }
    pub async fn add_management_token(&self, _token: ManagementToken, _by: &Actor) -> Result<()> {
        later()
    }
    pub async fn remove_management_token(&self, _name: &str, _by: &Actor) -> Result<()> {
        later()
    }

    // --- what the proxy runs on
    /// Whether the last contact with the database succeeded: somebody looks at least every `poll`.
    pub fn reachable(&self) -> bool {
        false
    }
    /// Everything that the route table is made of, in one consistent read: of the credentials that bindings name the
    /// tombstones as well, with their last hosts, so that these stay bound.
    pub async fn routing(&self) -> Result<Routing> {
        later()
    }
    /// Told of every change, of this process and of others: the revision that there is at least.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }
    /// Adds uses: account, id, count, last, caller.
    pub async fn add_usage(&self, _uses: &[(String, String, UsageRecord)]) -> Result<()> {
        later()
    }
    pub async fn usage(&self, _account: &str, _id: &str) -> Result<Option<UsageRecord>> {
        later()
    }
    /// Credentials whose own secret ends before this time.
    pub async fn expiring(&self, _before: SystemTime) -> Result<Vec<CredentialRecord>> {
        later()
    }

    // --- the audit record's rows
    /// Rows as they were written to the file: process, number, time, event, hash.
    pub async fn add_audit_rows(&self, _rows: &[AuditRow]) -> Result<()> {
        later()
    }
    pub async fn audit_rows(&self, _query: &AuditQuery) -> Result<Vec<AuditRow>> {
        later()
    }
}

/// One row of the audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The process that wrote it: random, new at each start.
    pub process: String,
    /// Its number in that process's chain, from 1.
    pub number: i64,
    /// When.
    pub at: SystemTime,
    /// The event.
    pub event: AuditEvent,
    /// The whole JSON line, which the hash is over.
    pub line: String,
}

/// What to look for in the audit record.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// The account.
    pub account: Option<String>,
    /// What it happened to.
    pub subject: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    /// What happened; a prefix such as `credential.`.
    pub action: Option<String>,
    /// From this time.
    pub since: Option<SystemTime>,
    /// Before this time.
    pub until: Option<SystemTime>,
    /// So many at most, the newest first.
    pub limit: usize,
}
