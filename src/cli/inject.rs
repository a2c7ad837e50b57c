//! `countersign inject`: the mutating admission webhook, with a configuration of its own (`config/inject.md`).

use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Failure, protect_memory};
use crate::config::LogSettings;

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let path = context.config.clone().ok_or_else(|| {
        Failure::Usage("the injector has a configuration of its own: name it with --config (config/inject.md)".into())
    })?;
    context.start_logs(&LogSettings::default());
    protect_memory();
    let other = |error: std::io::Error| Failure::Other(error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(other)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    crate::app::inject(&path, &context.deps, stop).await?;
    tracing::info!("stopped");
    Ok(0)
}
