//! A command that is pointed at a proxy: its variables, its files, its signals, and how it ended.

use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use rustls_pki_types::CertificateDer;
use tokio::process::Command;

use super::signals::Signals;
use super::stand_ins::StandIns;
use crate::app::App;
use crate::base::Secret;
use crate::cli::{Context, Failure, variable};
use crate::listen::Address;
use crate::listen::ca::bundle;
use crate::listen::environment::{Pointing, trust_store};
use crate::upstream::Roots;

/// The proxy that a command is pointed at.
#[derive(Debug)]
pub(in crate::cli) struct Way {
    /// `http`, or `https` where the proxy itself has to be spoken to by TLS.
    pub(in crate::cli) scheme: String,
    /// `HOST:PORT`.
    pub(in crate::cli) address: String,
    /// `NAME:TOKEN`, where each request has to show them.
    pub(in crate::cli) proof: Option<Secret>,
    /// The authority of the proxy.
    pub(in crate::cli) certificate: CertificateDer<'static>,
    /// What else is trusted.
    pub(in crate::cli) roots: Roots,
}

impl Way {
    /// To a private listener of this process.
    pub(in crate::cli) fn to(app: &App) -> Result<Self, Failure> {
        let address = app.addresses().into_iter().find_map(|(_, address)| match address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        });
        let (Some(address), Some(ca)) = (address, app.ca()) else {
            return Err(Failure::Other("the private listener did not start".into()));
        };
        Ok(Self {
            scheme: "http".into(),
            address: address.to_string(),
            proof: None,
            certificate: ca.certificate().clone(),
            roots: app.roots().clone(),
        })
    }

    fn url(&self) -> Secret {
        let (scheme, address) = (&self.scheme, &self.address);
        Secret::new(match self.proof.as_ref().and_then(Secret::expose_str) {
            Some(proof) => format!("{scheme}://{proof}@{address}"),
            None => format!("{scheme}://{address}"),
        })
    }
}

/// Runs a command with its tools pointed at a proxy, passing signals on to it, and leaves nothing behind. Its exit code as
/// shells have it: 127 when there is no such command, 126 when it cannot be run, 128 and the number of the signal that
/// ended it.
pub(in crate::cli) async fn supervise(
    context: &Context,
    way: &Way,
    command: &[OsString],
    hidden: &[String],
    stand_ins: StandIns,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let folder = tempfile::Builder::new().prefix("countersign-run-").tempdir().map_err(other)?;
    let ended = within(context, way, folder.path(), command, hidden, stand_ins, signals).await;
    // Before the exit code: nothing is left behind even when the command failed.
    folder.close().map_err(other)?;
    ended
}

fn other(error: std::io::Error) -> Failure {
    Failure::Other(error.to_string())
}

async fn within(
    context: &Context,
    way: &Way,
    folder: &Path,
    command: &[OsString],
    hidden: &[String],
    stand_ins: StandIns,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let pem = folder.join("ca-bundle.pem");
    write_private(&pem, bundle(&way.roots, &way.certificate).as_bytes()).map_err(other)?;
    let store = folder.join("trust.p12");
    let roots = trust_store(&way.roots, &way.certificate).map_err(Failure::Other)?;
    write_private(&store, &roots).map_err(other)?;
    let [program, rest @ ..] = command else { return Err(Failure::Other("no command".into())) };
    let mut prepared = Command::new(program);
    prepared.args(rest).kill_on_drop(true);
    for name in hidden {
        prepared.env_remove(name);
    }
    for name in stand_ins.hidden() {
        prepared.env_remove(name);
    }
    let (url, java) = (way.url(), variable(context, "JAVA_TOOL_OPTIONS"));
    let pointing = Pointing {
        proxy: url.expose_str(),
        bundle: &pem,
        trust_store: Some(&store),
        no_proxy: &[],
        java: java.as_deref(),
    };
    prepared.envs(pointing.variables());
    let _standing = stand_ins.begin(context, folder, &mut prepared).await?;
    match prepared.spawn() {
        Ok(mut child) => signals.wait(&mut child).await.map(code).map_err(other),
        Err(error) => {
            eprintln!("countersign: {}: {error}", program.to_string_lossy());
            Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    status.code().map_or_else(|| 128_u8.wrapping_add(status.signal().unwrap_or(0) as u8), |code| code as u8)
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_of_a_way_is_shown_in_its_address_and_to_no_formatter() {
        let way = Way {
            scheme: "http".into(),
            address: "127.0.0.1:9".into(),
            proof: Some(Secret::new("run-1:t0ken")),
            certificate: CertificateDer::from(Vec::new()),
            roots: Roots::default(),
        };
        assert!(!format!("{way:?}").contains("t0ken"));
        assert_eq!(way.url().expose_str().unwrap(), "http://run-1:t0ken@127.0.0.1:9");
    }
}
