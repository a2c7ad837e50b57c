//! What a policy needs: which credentials its template declares and where it uses them, which of an account's credentials
//! fit, and the bindings that would let it run.
//!
//! A [`Template`] is read from the text of a Flexera policy template (`.pt`) or from a declaration in JSON or YAML; from
//! then on nothing asks which it was. **Never executes anything of a template, never sees a secret, never decides about a
//! request.**

mod candidate;
mod declaration;
mod declared;
mod groups;
mod matching;
mod parts;
mod placeholder;
mod places;
mod proposal;
mod template;
#[cfg(test)]
mod testing;
mod ties;

pub use candidate::Candidate;
pub use declared::{Block, Issue, Parameter, Template, Use};
pub use matching::{Cover, Fit, Misfit, Rank, Verdicts, judge};
pub use placeholder::resolve;
pub use proposal::{Options, Problem, Proposal, propose};

/// A scheme's name as templates write it: `AWS-STS` is `aws_sts`.
fn fold_scheme(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('-', "_")
}
