//! The injector at work: its configuration and its certificate are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::serve::StartError;
use super::watch::{Fingerprints, Watch};
use crate::base::{Deps, SecretRef};
use crate::config::{ConfigError, Document};
use crate::inject::{Settings, router};
use crate::listen::Bound;
use crate::source::Sources;

/// Reads the configuration of the injector.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_injector(path: &Path) -> Result<Settings, Vec<ConfigError>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![ConfigError { path: String::new(), line: 0, message: format!("it cannot be read: {error}") }]
    })?;
    let document = Document::parse(&text).map_err(|error| vec![error])?;
    let settings: Settings = document.read("").map_err(|error| vec![error])?;
    let errors: Vec<_> = settings.check().into_iter().map(|(key, why)| document.error(&key, why)).collect();
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

async fn certificate(settings: &Settings, deps: &Deps) -> Result<Option<Arc<ServerConfig>>, String> {
    let secrets = Sources::new(deps.clone()).load_all([settings.tls.key.reference()]).await;
    crate::listen::tls(Some(&settings.tls), &secrets).map_err(|(key, why)| format!("{key}: {why}"))
}

fn files(path: &Path, settings: &Settings) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned(), settings.tls.certificate.clone()];
    if let SecretRef::File { file } = settings.tls.key.reference() {
        files.push(file.clone());
    }
    files
}

/// Serves the webhook until told to stop.
///
/// # Errors
/// What is wrong with the configuration or the certificate, or the address that cannot be bound.
pub async fn inject(path: &Path, deps: &Deps, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let settings = read_injector(path).map_err(StartError::Config)?;
    let mut seen = Fingerprints::take(files(path, &settings));
    let tls = certificate(&settings, deps).await.map_err(StartError::Other)?;
    let bound = Bound::new(&settings.address, 0o600).await.map_err(StartError::Other)?;
    tracing::info!(listener = "inject", address = %bound.address, "listening");
    let address = settings.address.clone();
    let (settings, tls) = (Arc::new(ArcSwap::from_pointee(settings)), Arc::new(ArcSwapOption::from(tls)));
    let end = CancellationToken::new();
    bound.serve_axum(router(Arc::clone(&settings)), Arc::clone(&tls), end.clone());
    tracing::info!("started");
    let mut watch = Watch::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        watch.set(seen.files());
        if !seen.changed() {
            tokio::select! {
                () = stop.as_mut() => break,
                () = watch.changed() => {}
            }
        }
        if !seen.changed() {
            continue;
        }
        seen.renew();
        let new = match read_injector(path) {
            Ok(new) => new,
            Err(errors) => {
                for error in errors {
                    tracing::error!(%error, "the new configuration is wrong; the old one stays");
                }
                continue;
            }
        };
        match certificate(&new, deps).await {
            Ok(certificate) => {
                if new.address != address {
                    tracing::warn!("the change of `address` takes effect when the injector starts again");
                }
                seen = Fingerprints::take(files(path, &new));
                tls.store(certificate);
                settings.store(Arc::new(new));
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!(error, "the new certificate cannot be used; the old one stays"),
        }
    }
    end.cancel();
    Ok(())
}
