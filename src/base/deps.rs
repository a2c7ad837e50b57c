//! What comes from outside, injected: the clock, randomness and the process environment.
//!
//! This is the one file that may ask the system for the time or for an environment variable.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::audit::{AuditSink, NoAudit};
use super::trace::Tracer;

/// A wait for a moment; made by a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The time, as an argument.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time, for signatures and expiries.
    fn now(&self) -> SystemTime;
    /// Monotonic time, for measuring how long something took.
    fn instant(&self) -> Instant;
    /// Waits until a monotonic moment.
    fn sleep_until(&self, moment: Instant) -> Sleep;
}

/// Random numbers fit for keys and nonces.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills the bytes; `false` when the system has no randomness to give, which must be treated as a failure.
    #[must_use]
    fn fill(&self, bytes: &mut [u8]) -> bool;
}

/// The environment variables of the process.
pub trait Environment: Send + Sync + fmt::Debug {
    /// The value of a variable, if it is set and is text.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Everything that a room takes from outside.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The environment variables.
    pub environment: Arc<dyn Environment>,
    /// Where what happens is written down.
    pub audit: Arc<dyn AuditSink>,
    /// What begins spans.
    pub tracer: Tracer,
}

impl Deps {
    /// The real outside: the system's clock and randomness, and the process's environment; no audit record yet.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            environment: Arc::new(ProcessEnvironment),
            audit: Arc::new(NoAudit),
            tracer: Tracer::default(),
        }
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, moment: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(moment.into()))
    }
}

/// The random numbers of the TLS library.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        aws_lc_rs::rand::fill(bytes).is_ok()
    }
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
