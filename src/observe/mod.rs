//! What is seen of Countersign from outside: logs, health and readiness, metrics, and the audit record.
//!
//! **Never shows a secret, a query string or a caller's token; never changes anything.**

pub mod audit;
mod health;
mod line;
mod log;
pub mod metrics;
pub mod traces;
mod writer;

pub use health::{Health, Probed, router};
pub use log::{Form, init};
pub use writer::Flush;
