//! `countersign run -- COMMAND…`: a private proxy for one command, its tools pointed at it, nothing left behind.

mod azure;
mod endpoint;
mod google;
mod oracle;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use clap::Args;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::azure::Azure;
use self::google::Google;
use super::{Context, Failure, protect_memory, raise_file_limit, variable};
use crate::app::App;
use crate::base::SecretRef;
use crate::listen::Address;
use crate::listen::ca::bundle;
use crate::upstream::Roots;

/// Java wants one; it protects nothing, the store holds public certificates.
const TRUST_STORE_PASSWORD: &str = "changeit";

/// Loopback services of the command's own are not for the proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// Where tools of AWS's find keys, or another way to some: not for the command.
const AWS_KEYS: [&str; 17] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_ROLE_SESSION_NAME",
    "AWS_BEARER_TOKEN_BEDROCK",
];

/// What tools of AWS's get in their place: they sign with these, and Countersign signs again.
const WORTHLESS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIACOUNTERSIGN00000"),
    ("AWS_SECRET_ACCESS_KEY", "worthless/countersign/signs/what/is/sent"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

#[derive(Args)]
pub(super) struct Arguments {
    /// The credential that every request means, unless it names another
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// Which caller the command is, where bindings name callers
    #[arg(long, value_name = "NAME", default_value = crate::route::LOCAL)]
    caller: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<u8, Failure> {
    let (_, mut config) = context.load()?;
    // The command's own output must stay readable: only what goes wrong is said, unless the file asks for more.
    if !config.document.has("log.level") {
        config.log.level = "warn".into();
    }
    context.start_logs(&config.log);
    raise_file_limit();
    protect_memory();
    // A tool of AWS's that finds no keys does not even ask; one that finds real ones would not need us.
    let has = |scheme: &str| config.credentials.iter().any(|one| one.enabled && one.kind.name.starts_with(scheme));
    let (aws, azure, google, oracle) = (has("aws"), has("azure"), has("google"), has("oracle"));
    // From here on no signal ends us before what we made is gone again.
    let mut signals = Signals::new().map_err(|error| Failure::Other(error.to_string()))?;
    // What Countersign reads from the environment is not for the command.
    let mut hidden: Vec<String> = config.references().into_iter().filter_map(variable_of).collect();
    // A configuration of Google's may prove itself with AWS's keys.
    let groups: [(bool, &[&str]); 4] =
        [(aws || google, &AWS_KEYS), (azure, &azure::KEYS), (google, &google::KEYS), (oracle, &oracle::KEYS)];
    hidden.extend(groups.iter().filter(|(has, _)| *has).flat_map(|(_, names)| *names).map(|name| (*name).to_owned()));
    let tenancy = oracle::tenancy(&config);
    let app = tokio::select! {
        app = App::start_private(config, context.deps.clone(), arguments.caller, arguments.credential) => app?,
        number = signals.before() => return Ok(128 + number),
    };
    let folder = tempfile::Builder::new()
        .prefix("countersign-run-")
        .tempdir()
        .map_err(|error| Failure::Other(error.to_string()))?;
    let worthless = Worthless { aws, azure, google, oracle, tenancy };
    let status = supervise(context, &app, folder.path(), &arguments.command, &hidden, worthless, &mut signals).await;
    // Before the exit code: nothing is left behind even when the command failed.
    folder.close().map_err(|error| Failure::Other(error.to_string()))?;
    // A second signal ends us at once, whatever is still under way.
    tokio::select! {
        _ = app.drain() => {}
        _ = signals.before() => {}
    }
    let status = match status? {
        Ended::Status(status) => status,
        Ended::NotStarted(code) => return Ok(code),
    };
    Ok(status.code().map_or_else(|| 128_u8.wrapping_add(status.signal().unwrap_or(0) as u8), |code| code as u8))
}

/// For whose programs the command gets what stands in for keys.
struct Worthless {
    aws: bool,
    azure: bool,
    google: bool,
    oracle: bool,
    /// For Oracle's.
    tenancy: Option<String>,
}

/// How the command ended.
enum Ended {
    Status(ExitStatus),
    /// It could not be started: 127 when there is none, 126 when it cannot be run, as shells have it.
    NotStarted(u8),
}

fn variable_of(reference: &SecretRef) -> Option<String> {
    match reference {
        SecretRef::Env { env } => Some(env.clone()),
        _ => None,
    }
}

async fn supervise(
    context: &Context,
    app: &App,
    folder: &Path,
    command: &[OsString],
    hidden: &[String],
    worthless: Worthless,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let other = |error: std::io::Error| Failure::Other(error.to_string());
    let address = app.addresses().into_iter().find_map(|(_, address)| match address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    });
    let (Some(address), Some(ca)) = (address, app.ca()) else {
        return Err(Failure::Other("the private listener did not start".into()));
    };
    let pem = folder.join("ca-bundle.pem");
    write_private(&pem, bundle(app.roots(), &ca).as_bytes()).map_err(other)?;
    let mut certificates = app.roots().clone();
    certificates.0.push(ca.certificate().clone());
    let store = folder.join("trust.p12");
    write_private(&store, &trust_store(&certificates)?).map_err(other)?;
    let [program, rest @ ..] = command else { return Err(Failure::Other("no command".into())) };
    let mut prepared = Command::new(program);
    prepared.args(rest).kill_on_drop(true);
    for name in hidden {
        prepared.env_remove(name);
    }
    prepared.envs(variables(&address.to_string(), &pem, &store, variable(context, "JAVA_TOOL_OPTIONS")));
    if worthless.aws {
        prepared.envs(WORTHLESS);
    }
    // These endpoints are there for as long as the command is.
    let azure = match worthless.azure {
        true => Some(Azure::begin(&context.deps).await),
        false => None,
    };
    let azure = azure.transpose();
    let azure = azure.map_err(|why| Failure::Other(format!("Azure's programs cannot be given a token: {why}")))?;
    if let Some(azure) = &azure {
        prepared.envs(azure.variables());
    }
    let google = match worthless.google {
        true => Some(Google::begin(folder, Arc::clone(&context.deps.clock)).await),
        false => None,
    };
    let google = google.transpose();
    let google = google.map_err(|why| Failure::Other(format!("Google's programs cannot be given a key: {why}")))?;
    if let Some(google) = &google {
        prepared.envs(google.variables());
    }
    if worthless.oracle {
        let made = oracle::stand_in(context, folder, worthless.tenancy);
        prepared.envs(made.map_err(|why| Failure::Other(format!("Oracle's programs cannot be given a key: {why}")))?);
    }
    match prepared.spawn() {
        Ok(mut child) => signals.wait(&mut child).await.map(Ended::Status).map_err(other),
        Err(error) => {
            eprintln!("countersign: {}: {error}", program.to_string_lossy());
            Ok(Ended::NotStarted(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
        }
    }
}

/// The signals that are the command's affair.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal that ends everything before the command has begun; its number.
    async fn before(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.quit.recv() => 3,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }

    /// Waits for the command, passing signals on to it.
    async fn wait(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        // A terminal sends Ctrl-C and Ctrl-\ to the command as well; twice would mean "at once" to many programs.
        let terminal = std::io::stdin().is_terminal();
        loop {
            let (number, from_terminal) = tokio::select! {
                status = child.wait() => return status,
                _ = self.interrupt.recv() => (rustix::process::Signal::INT, terminal),
                _ = self.quit.recv() => (rustix::process::Signal::QUIT, terminal),
                _ = self.terminate.recv() => (rustix::process::Signal::TERM, false),
                _ = self.hangup.recv() => (rustix::process::Signal::HUP, false),
                _ = self.user1.recv() => (rustix::process::Signal::USR1, false),
                _ = self.user2.recv() => (rustix::process::Signal::USR2, false),
            };
            let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
            if let (Some(pid), false) = (pid, from_terminal) {
                // It may have ended just now; then `wait` says so next.
                let _ = rustix::process::kill_process(pid, number);
            }
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// A PKCS#12 store of trusted roots, as Java reads it.
fn trust_store(roots: &Roots) -> Result<Vec<u8>, Failure> {
    use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
    let mut store = KeyStore::new();
    for (index, certificate) in roots.0.iter().enumerate() {
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
fn variables(address: &str, bundle: &Path, store: &Path, java: Option<String>) -> Vec<(String, OsString)> {
    let proxy = format!("http://{address}");
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        variables.push((name.to_owned(), OsString::from(&proxy)));
        variables.push((name.to_ascii_lowercase(), OsString::from(&proxy)));
    }
    for name in ["npm_config_proxy", "npm_config_https_proxy", "CARGO_HTTP_PROXY", "GRPC_PROXY", "grpc_proxy"] {
        variables.push((name.to_owned(), OsString::from(&proxy)));
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

    #[test]
    fn proxy_variables_are_set_in_both_cases_and_javas_own_options_stay() {
        let variables = variables("127.0.0.1:9", Path::new("/t/b.pem"), Path::new("/t/s.p12"), Some("-Xmx1g".into()));
        let get = |name: &str| {
            variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string_lossy().into_owned())
        };
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
