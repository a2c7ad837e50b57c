//! Logs on standard error: text for a person on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::line::JsonLines;
use super::writer::Lines;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Starts logging for the whole process, once. Does nothing when that was done before.
pub fn init(level: &str, form: Form, colour: bool) {
    let terminal = std::io::stderr().is_terminal();
    // rustls warns once per handshake of an IP literal, and h2, hyper and aws_sigv4 trace bytes that may hold secrets.
    let filter: Targets = level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let quiet = filter
        .with_target("rustls", LevelFilter::ERROR)
        .with_target("hyper", LevelFilter::ERROR)
        .with_target("hyper_util", LevelFilter::ERROR)
        .with_target("h2", LevelFilter::ERROR)
        .with_target("aws_sigv4", LevelFilter::ERROR)
        .with_target("aws_smithy_eventstream", LevelFilter::ERROR)
        .with_target("aws_smithy_runtime_api", LevelFilter::ERROR)
        .with_target("reqwest", LevelFilter::ERROR);
    let registry = tracing_subscriber::registry().with(quiet);
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines::start());
    let started = if form == Form::Json || (form == Form::Auto && !terminal) {
        registry.with(lines.json().event_format(JsonLines::new())).try_init()
    } else {
        registry.with(lines.with_ansi(colour && terminal)).try_init()
    };
    // A second start in one process (tests) keeps the first.
    drop(started);
}
