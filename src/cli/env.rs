//! `countersign env`: prints what points tools at a proxy and at a bundle, for a shell, a file or a program to read.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Failure};
use crate::listen::Address;
use crate::listen::environment::Pointing;

#[derive(Args)]
pub(super) struct Arguments {
    /// The proxy [default: the first forward listener of the configuration]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// The file of roots [default: that of the configuration]
    #[arg(long, value_name = "PATH")]
    bundle: Option<PathBuf>,
    /// The roots for Java, PKCS#12 [default: that of the configuration, if it names one]
    #[arg(long, value_name = "PATH")]
    trust_store: Option<PathBuf>,
    /// A host, or a domain with a dot before it, that is called directly; may be repeated
    #[arg(long, value_name = "HOST")]
    no_proxy: Vec<String>,
    /// Roots alone: connections are redirected
    #[arg(long, conflicts_with_all = ["proxy", "no_proxy"])]
    transparent: bool,
    /// Lines for a POSIX shell (this is the default)
    #[arg(long, conflicts_with_all = ["json", "dotenv"])]
    shell: bool,
    /// One JSON object
    #[arg(long, conflicts_with = "dotenv")]
    json: bool,
    /// NAME=VALUE lines, as container engines read them
    #[arg(long)]
    dotenv: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let needs_proxy = arguments.proxy.is_none() && !arguments.transparent;
    let config = match needs_proxy || arguments.bundle.is_none() {
        true => Some(context.load()?.1),
        false => None,
    };
    let proxy = match (&arguments.proxy, &config) {
        _ if arguments.transparent => None,
        (Some(proxy), _) => Some(checked(proxy)?),
        (None, Some(config)) => {
            let usable = config.listeners.forward.iter().find_map(|listener| match &listener.address {
                Address::Tcp(socket) if socket.port() != 0 => Some((socket, listener.tls.is_some())),
                _ => None,
            });
            let (socket, tls) = usable.ok_or_else(|| {
                Failure::Usage("the configuration has no forward listener on a port of its own: give --proxy".into())
            })?;
            Some(format!("{}://{socket}", if tls { "https" } else { "http" }))
        }
        (None, None) => None,
    };
    let ca = config.map(|config| config.ca);
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(|error| Failure::Other(error.to_string()));
    let bundle = arguments.bundle.clone().or_else(|| ca.as_ref().map(crate::listen::ca::Settings::bundle_path));
    let bundle = absolute(bundle.ok_or_else(|| Failure::Usage("give --bundle".into()))?)?;
    let store = arguments.trust_store.clone().or_else(|| ca.and_then(|ca| ca.trust_store));
    let store = store.map(absolute).transpose()?;
    let pointing = Pointing {
        proxy: proxy.as_deref(),
        bundle: &bundle,
        trust_store: store.as_deref(),
        no_proxy: &arguments.no_proxy,
        java: None,
    };
    if arguments.json {
        let map: serde_json::Map<_, _> =
            pointing.variables().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        say!("{}", serde_json::Value::Object(map));
    } else if arguments.dotenv {
        for (name, value) in pointing.variables() {
            say!("{name}={value}");
        }
    } else {
        say!("{}", pointing.shell().trim_end());
    }
    Ok(0)
}

/// An address of a proxy. What is printed ends in files and process lists, so it may hold no password.
fn checked(proxy: &str) -> Result<String, Failure> {
    let wrong = || Failure::Usage("--proxy is an address such as http://127.0.0.1:8180".into());
    let url = url::Url::parse(proxy).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || proxy.chars().any(char::is_control) {
        return Err(wrong());
    }
    if url.password().is_some() {
        return Err(Failure::Usage("--proxy holds a password, and what is printed is no place for one".into()));
    }
    Ok(proxy.trim_end_matches('/').to_owned())
}
