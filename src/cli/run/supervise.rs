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
use crate::upstream::Roots;

/// Java wants one; it protects nothing, the store holds public certificates.
const TRUST_STORE_PASSWORD: &str = "changeit";

/// Loopback services of the command's own are not for the proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

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
    write_private(&store, &trust_store(way)?).map_err(other)?;
    let [program, rest @ ..] = command else { return Err(Failure::Other("no command".into())) };
    let mut prepared = Command::new(program);
    prepared.args(rest).kill_on_drop(true);
    for name in hidden {
        prepared.env_remove(name);
    }
    for name in stand_ins.hidden() {
        prepared.env_remove(name);
    }
    prepared.envs(variables(way, &pem, &store, variable(context, "JAVA_TOOL_OPTIONS")));
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

/// A PKCS#12 store of trusted roots, as Java reads it.
fn trust_store(way: &Way) -> Result<Vec<u8>, Failure> {
    use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
    let mut store = KeyStore::new();
    for (index, certificate) in way.roots.0.iter().chain([&way.certificate]).enumerate() {
        // A root that this library cannot read is one that Java does without.
        if let Ok(certificate) = Certificate::from_der(certificate) {
            store.add_entry(&format!("root-{index}"), KeyStoreEntry::Certificate(certificate));
        }
    }
    store
        .writer(TRUST_STORE_PASSWORD)
        .write()
        .map_err(|error| Failure::Other(format!("the Java trust store cannot be made: {error}")))
}

/// Every variable by which a client finds its proxy and the certificates it trusts, in both cases where clients differ.
fn variables(way: &Way, bundle: &Path, store: &Path, java: Option<String>) -> Vec<(String, OsString)> {
    let url = way.url();
    let proxy = url.expose_str().unwrap_or_default();
    // Java shows its options to everybody, and would not take a token from there.
    let (host, port) = way.address.rsplit_once(':').unwrap_or((&way.address, ""));
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        variables.push((name.to_owned(), OsString::from(proxy)));
        variables.push((name.to_ascii_lowercase(), OsString::from(proxy)));
    }
    for name in ["npm_config_proxy", "npm_config_https_proxy", "CARGO_HTTP_PROXY", "GRPC_PROXY", "grpc_proxy"] {
        variables.push((name.to_owned(), OsString::from(proxy)));
    }
    for name in ["NO_PROXY", "no_proxy", "npm_config_noproxy"] {
        variables.push((name.to_owned(), OsString::from(NO_PROXY)));
    }
    for name in [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "OCI_CLI_CERT_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "npm_config_cafile",
        "CARGO_HTTP_CAINFO",
        "BAO_CACERT",
        "VAULT_CACERT",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "HTTPLIB2_CA_CERTS",
        "NIX_SSL_CERT_FILE",
        "DENO_CERT",
    ] {
        variables.push((name.to_owned(), bundle.as_os_str().to_owned()));
    }
    variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".into()));
    let mut options = java.map(|given| OsString::from(given + " ")).unwrap_or_default();
    options.push(format!(
        "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port} \
         -Dhttp.nonProxyHosts=localhost|127.*|[::1] -Djavax.net.ssl.trustStoreType=PKCS12 \
         -Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD} -Djavax.net.ssl.trustStore="
    ));
    options.push(store);
    variables.push(("JAVA_TOOL_OPTIONS".to_owned(), options));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(proof: Option<&str>) -> Way {
        Way {
            scheme: "http".into(),
            address: "127.0.0.1:9".into(),
            proof: proof.map(Secret::new),
            certificate: CertificateDer::from(Vec::new()),
            roots: Roots::default(),
        }
    }

    fn of(way: &Way) -> Vec<(String, OsString)> {
        variables(way, Path::new("/t/b.pem"), Path::new("/t/s.p12"), Some("-Xmx1g".into()))
    }

    fn get(variables: &[(String, OsString)], name: &str) -> Option<String> {
        variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn a_token_goes_into_the_address_of_the_proxy_and_nowhere_else() {
        let way = way(Some("run-1:t0ken"));
        assert!(!format!("{way:?}").contains("t0ken"));
        let variables = of(&way);
        assert_eq!(get(&variables, "https_proxy").unwrap(), "http://run-1:t0ken@127.0.0.1:9");
        let java = get(&variables, "JAVA_TOOL_OPTIONS").unwrap();
        assert!(java.contains("-Dhttps.proxyHost=127.0.0.1 ") && !java.contains("t0ken"), "{java}");
    }

    #[test]
    fn proxy_variables_are_set_in_both_cases_and_javas_own_options_stay() {
        let variables = of(&way(None));
        let get = |name: &str| get(&variables, name);
        assert_eq!(get("HTTPS_PROXY"), get("https_proxy"));
        assert_eq!(get("http_proxy").unwrap(), "http://127.0.0.1:9");
        assert_eq!(get("SSL_CERT_FILE").unwrap(), "/t/b.pem");
        let java = get("JAVA_TOOL_OPTIONS").unwrap();
        assert!(
            java.starts_with("-Xmx1g -D") && java.contains("-Dhttps.proxyPort=9 ") && java.ends_with("=/t/s.p12"),
            "{java}"
        );
    }
}
