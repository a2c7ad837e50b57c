//! Who may use which credential where: callers, bindings, and the decision that makes a permit.
//!
//! **The only room that makes a [`Permit`]; never dials, never reads a secret's bytes, never looks at a claim that the
//! channel did not prove.**

mod binding;
mod caller;
mod lending;
mod matcher;
mod permit;
mod table;
mod usage;

pub use binding::{Binding, CredentialEntry, Readiness, Tie, Waking};
pub use caller::{Caller, CallerRule, Callers, DEFAULT_ACCOUNT, LOCAL, fingerprint};
pub use lending::Lending;
pub use matcher::{HostPattern, PathPrefix, refuse_path_tricks};
pub use permit::{Passage, Permit, Receipt, Signer, Talk};
pub use table::{Ask, Decision, Gate, RouteTable, Unbound};
pub use usage::{Usage, Uses};
