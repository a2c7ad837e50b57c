//! Who may use which credential where: callers, bindings, and the decision that makes a permit.
//!
//! **The only room that makes a [`Permit`]; never dials, never reads a secret's bytes, never looks at a claim that the
//! channel did not prove.**

mod binding;
mod caller;
mod lease;
mod lending;
mod matcher;
mod permit;
mod shape;
mod table;
mod usage;

pub use binding::{Binding, CredentialEntry, OpenPlace, PolicyPart, Readiness, Tie, Waking};
pub use caller::{Caller, CallerRule, Callers, DEFAULT_ACCOUNT, LOCAL, fingerprint};
pub use lease::{Book, Calls, Lease, Means, Outcome, RUN_PREFIX};
pub use lending::Lending;
pub use matcher::{HostPattern, PathPrefix, refuse_path_tricks};
pub use permit::{Passage, Permit, Receipt, Signer, Talk};
pub use shape::HostShape;
pub use table::{Ask, Decision, Gate, RouteTable, Unbound};
pub use usage::{Usage, Uses};
