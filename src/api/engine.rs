//! What the API asks of the running process. `app` answers; the command line on this host answers without a proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde_json::Value;

use crate::base::{BoxFuture, Secret};
use crate::scheme::{Draft, Introduction, Kind};
use crate::store::{BindingRecord, RunUse};

/// A credential that the configuration file declares: it can be seen, and changed only there.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its id.
    pub id: String,
    /// The scheme's name.
    pub scheme: &'static str,
    /// Hosts.
    pub hosts: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// A sentence for people.
    pub description: Option<String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// What its tokens are for, where its settings tell.
    pub audience: Option<String>,
    /// The accounts of the provider in which it signs as a role, its own first.
    pub accounts: Vec<String>,
}

/// Where a policy's run calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPlace {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host and port.
    pub address: String,
    /// The certificate that the run has to trust, in PEM.
    pub certificate: String,
}

/// What is wrong with something that is about to be written, and at which key (snake_case, below the credential or binding).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteError {
    /// The key.
    pub path: String,
    /// What to change; never a value of a secret field.
    pub message: String,
}

/// Whether a credential works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tested {
    /// The provider accepted it.
    Accepted,
    /// The provider refused it.
    Refused,
    /// The provider could not be asked now; nothing is known.
    Unreachable,
    /// Nobody can be asked: it signs by itself, and it did.
    Signed,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq)]
pub struct TestReport {
    /// Whether it works.
    pub tested: Tested,
    /// What was done and what the provider answered, in a sentence; never a secret.
    pub detail: String,
    /// Facts by their names: who AWS says it is, how long the token lives.
    pub facts: Vec<(&'static str, String)>,
}

/// A token that lives now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenLife {
    /// What it is for, where a credential has several: an account number, a role.
    pub label: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// The running process.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Waits until this process obeys everything that was written before: then an answer may go out.
    fn applied(&self) -> BoxFuture<'_, ()>;

    /// Judges a credential that is about to be written: builds it as it would be used, and calls nobody.
    ///
    /// # Errors
    /// What to change.
    fn check_credential<'a>(
        &'a self,
        account: &'a str,
        kind: &'static Kind,
        draft: &'a dyn Draft,
        hosts: &'a [String],
        secrets: &'a BTreeMap<String, Secret>,
    ) -> BoxFuture<'a, Result<(), WriteError>>;

    /// Judges a binding that is about to be written: hosts, callers, and ties with others.
    ///
    /// # Errors
    /// What to change.
    fn check_binding<'a>(&'a self, binding: &'a BindingRecord) -> BoxFuture<'a, Result<(), WriteError>>;

    /// Whether the operator has opened a secret store to an account.
    fn store_is_open(&self, store: &str, account: &str) -> bool;

    /// What the configuration file declares in an account.
    fn declared(&self, account: &str) -> Vec<Declared>;

    /// The names of the callers that the configuration file declares in an account.
    fn declared_callers(&self, account: &str) -> Vec<String>;

    /// What the other side must be told so that it trusts a credential; nothing where it need not be told anything.
    fn introduce<'a>(&'a self, _account: &'a str, _id: &'a str) -> BoxFuture<'a, Option<Introduction>> {
        Box::pin(async { None })
    }

    /// Mints for real, past any pause; nothing when there is no such credential.
    fn test<'a>(&'a self, account: &'a str, id: &'a str) -> BoxFuture<'a, Option<TestReport>>;

    /// The tokens of a credential that live in this process.
    fn tokens(&self, account: &str, id: &str) -> Vec<TokenLife>;

    /// Uses that this process has counted and not written down yet: how many, the last, by whom.
    fn uses(&self, account: &str, id: &str) -> Option<crate::route::Uses>;

    /// A description of what a scheme takes, for documentation: its name, one sentence, its secret keys.
    fn schemes(&self) -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
        let secret = |kind: &Kind| kind.fields.secret.to_vec();
        crate::scheme::KINDS.iter().map(|kind| (kind.name, kind.about, secret(kind))).collect()
    }

    /// What a run of a policy did that this process has counted and not written down yet.
    fn run_uses(&self, _account: &str, _run: &str) -> Vec<RunUse> {
        Vec::new()
    }

    /// Whether callers are not asked yet who they are.
    fn lets_anybody_in(&self) -> bool {
        false
    }

    /// Where runs of policies call; nothing where no proxy listens.
    fn proxy(&self) -> Option<ProxyPlace> {
        None
    }

    /// Further facts for people, by name; for `GET /v1/status`.
    fn status(&self) -> Value;
}
