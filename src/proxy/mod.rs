//! The life of one request: clean it, decide, sign, send, answer.
//!
//! **Never gathers a body that no scheme must hash and no conversation may have to send again, never follows a redirect,
//! never sends a request that was not decided about, never tells a caller more of a credential than its id.**

mod converse;
mod denial;
mod headers;
mod leased;
mod links;
mod pipeline;
mod record;
mod respond;
mod spool;
mod traced;
mod upgrade;

pub use denial::Denial;
pub use headers::refuse_two_hosts;
pub use links::Links;
pub use pipeline::{Inbound, Limits, Proxy, State, Via};
pub use record::Marks;
pub use respond::{problem, problem_bytes};

/// The header pass by itself, for the fuzzer and the benchmark.
///
/// # Errors
/// What it refuses.
#[doc(hidden)]
pub fn header_pass(headers: &mut http::HeaderMap) -> Result<(), crate::base::Refusal> {
    headers::clean_request(headers).map(drop)
}
