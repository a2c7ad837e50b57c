//! `countersign serve`: runs the proxy until SIGTERM or SIGINT, reloads on SIGHUP and when a file changes.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Failure, protect_memory, raise_file_limit};
use crate::app::{App, supervisor};

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let (path, config) = context.load()?;
    context.start_logs(&config.log);
    raise_file_limit();
    protect_memory();
    let listeners = &config.listeners;
    if listeners.forward.is_empty() && listeners.reverse.is_empty() && listeners.transparent.is_empty() {
        return Err(Failure::Config(vec![config.document.error(
            "listeners",
            "there is nothing to listen on; list a forward, a reverse or a transparent listener",
        )]));
    }
    let other = |error: std::io::Error| Failure::Other(error.to_string());
    let mut hangup = signal(SignalKind::hangup()).map_err(other)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(other)?;
    let mut app = App::start(config, Some(&path), context.deps.clone(), Arc::clone(&context.handed)).await?;
    supervisor::ready();
    let alive = tokio::spawn(supervisor::say_alive());
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let reload = async || {
        hangup.recv().await;
    };
    app.run(reload, stop).await;
    supervisor::stopping();
    let finished = tokio::select! {
        finished = app.drain() => finished,
        // A second Ctrl-C means now.
        _ = interrupt.recv() => false,
    };
    alive.abort();
    tracing::info!(finished, "stopped");
    Ok(0)
}
