//! The audit record: what must be written down before it may count as done.

use std::fmt;

/// One thing to write down. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditEvent {
    /// What happened: `credential.create`, `use.denied`, `token.exchange`; a noun, a dot, a verb.
    pub action: &'static str,
    /// The account it happened in.
    pub account: String,
    /// What it happened to: a credential's id, a binding's, a caller's name.
    pub subject: Option<String>,
    /// Who did it: a principal of the API, a caller; nobody for what happens by itself.
    pub actor: Option<String>,
    /// `ok`, or the code of the refusal.
    pub outcome: &'static str,
    /// Further facts by their names: the fields that changed, the host of a refused call.
    pub facts: Vec<(&'static str, String)>,
    /// It must be on disk before the answer goes out: changes, and exchanges of tokens.
    pub durable: bool,
}

/// The record cannot be written; what was to be recorded must not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be written: {0}")]
pub struct AuditUnavailable(pub String);

/// Where the record goes.
pub trait AuditSink: Send + Sync + fmt::Debug {
    /// Writes an event down.
    ///
    /// # Errors
    /// When it cannot be written: then what it is about must not happen.
    fn record(&self, event: AuditEvent) -> Result<(), AuditUnavailable>;

    /// Why nothing can be written down at present; then no credential is used. Asked for each use, so it only looks.
    fn blocked(&self) -> Option<AuditUnavailable>;
}

/// No record is kept: there is no `audit` section, and no management.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl AuditSink for NoAudit {
    fn record(&self, _: AuditEvent) -> Result<(), AuditUnavailable> {
        Ok(())
    }

    fn blocked(&self) -> Option<AuditUnavailable> {
        None
    }
}
