//! The audit record: what must be written down before it may count as done.

use std::borrow::Cow;
use std::fmt;

use super::http_client::BoxFuture;

/// One thing to write down. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditEvent {
    /// What happened: `credential.create`, `use.denied`, `token.exchange`; a noun, a dot, a verb.
    pub action: Cow<'static, str>,
    /// The account it happened in; empty for what belongs to none, such as the beginning of a process.
    pub account: String,
    /// What it happened to: a credential's id, a binding's, a caller's name.
    pub subject: Option<String>,
    /// Who did it: a principal of the API, a caller; nobody for what happens by itself.
    pub actor: Option<String>,
    /// `ok`, or the code of the refusal.
    pub outcome: Cow<'static, str>,
    /// Further facts by their names: the fields that changed, the host of a refused call.
    pub facts: Vec<(Cow<'static, str>, String)>,
}

impl AuditEvent {
    /// An event without anything that it happened to.
    pub fn new(
        action: impl Into<Cow<'static, str>>,
        account: impl Into<String>,
        outcome: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { action: action.into(), account: account.into(), outcome: outcome.into(), ..Self::default() }
    }

    /// The same, of something that it happened to.
    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The same, done by somebody.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// The same with a further fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }
}

/// The record cannot be written; what was to be recorded must not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be written: {0}")]
pub struct AuditUnavailable(pub String);

/// Where the record goes.
pub trait AuditSink: Send + Sync + fmt::Debug {
    /// Writes down what is about to happen, and comes back when it is on disk: changes, and exchanges of tokens.
    ///
    /// # Errors
    /// When it cannot be written: then what it is about must not happen. The record will say that it was refused
    /// (`audit_unavailable`). The same when the future is dropped before it ended.
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>>;

    /// Writes down, soon, what nobody waits for: a refusal. While nothing can be written it is kept. What repeats may be
    /// written once, with a count.
    fn note(&self, event: AuditEvent);

    /// Why nothing can be written down at present; then no credential is used. Asked for each use, so it only looks.
    fn blocked(&self) -> Option<AuditUnavailable>;
}

/// No record is kept: there is no `audit` section, and no management.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl AuditSink for NoAudit {
    fn record(&self, _: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn note(&self, _: AuditEvent) {}

    fn blocked(&self) -> Option<AuditUnavailable> {
        None
    }
}
