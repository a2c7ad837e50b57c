//! `countersign ca path|print|bundle`: reads only its own section and resolves no secret.

use clap::{Args, Subcommand};

use super::{Context, Failure};
use crate::config::{ConfigError, Document};
use crate::listen::ca::{Ca, Settings, write_bundle};
use crate::upstream::system_roots;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The path of the CA certificate, on one line
    Path,
    /// The CA certificate, PEM
    Print,
    /// Write the bundle (system roots plus ours) anew and print its path
    Bundle,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let settings = settings(context)?;
    let failed = |error: crate::listen::ca::CaError| Failure::Other(error.to_string());
    // Made here when it is not yet, so that callers can be prepared before the first start.
    let ca = Ca::load_or_create(&settings, context.deps.clock.now()).map_err(failed)?;
    match arguments.what {
        What::Path => say!("{}", settings.certificate_path().display()),
        What::Print => say!("{}", ca.pem().trim_end()),
        What::Bundle => {
            write_bundle(&settings.bundle_path(), &system_roots(), &ca).map_err(failed)?;
            say!("{}", settings.bundle_path().display());
        }
    }
    Ok(0)
}

/// The `ca` section alone: an error elsewhere in the file is no matter here.
fn settings(context: &Context) -> Result<Settings, Failure> {
    let path = context.config_path()?;
    let unreadable = |error: std::io::Error| {
        Failure::Config(vec![ConfigError {
            path: String::new(),
            line: 0,
            message: format!("it cannot be read: {error}"),
        }])
    };
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    let document = Document::parse(&text).map_err(|error| Failure::Config(vec![error]))?;
    if !document.has("ca") {
        return Ok(Settings::default());
    }
    document.read("ca").map_err(|error| Failure::Config(vec![error]))
}
