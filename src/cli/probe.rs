//! `countersign health` and `countersign quit`: what a probe or a `preStop` hook runs where there is no shell and no curl.
//!
//! **Never sends a token; asks the admin listener and nothing else.**

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};

use super::client::Address;
use super::{Context, Failure};
use crate::listen;
use crate::upstream::system_roots;

/// Where the admin listener is, when nothing says so.
const USUAL: &str = "127.0.0.1:8190";

/// A probe that takes longer has failed: supervisors wait a second or a few.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at a listener that is going.
const LOOK: Duration = Duration::from_millis(100);

/// Which admin listener.
#[derive(Args, Debug)]
pub(super) struct Asked {
    /// The admin listener: http://127.0.0.1:8190, https://HOST:PORT, unix:/PATH [default: that of the configuration file if there is
    /// one, else 127.0.0.1:8190]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Further root certificates to verify it against, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Ask whether a running Countersign is well; exit 0, or 1 and why not
#[derive(Args, Debug)]
pub(super) struct Health {
    /// Ask whether work should come here (the default)
    #[arg(long, conflicts_with_all = ["live", "startup"])]
    ready: bool,
    /// Ask whether the process answers at all
    #[arg(long, conflicts_with = "startup")]
    live: bool,
    /// Ask whether it has started: listeners, store and required credentials were there once
    #[arg(long)]
    startup: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Tell a running Countersign to drain and end (`admin.quit: true`), and wait until it has
#[derive(Args, Debug)]
pub(super) struct Quit {
    /// Wait no longer than this for its end
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn health(context: &Context, arguments: &Health) -> Result<u8, Failure> {
    let page = match (arguments.live, arguments.startup) {
        (true, _) => "/livez",
        (_, true) => "/startupz",
        _ => "/readyz",
    };
    let (status, text) = Probe::new(context, &arguments.asked)?.ask(Method::GET, page).await.map_err(Failure::Other)?;
    if status.is_success() {
        return Ok(0);
    }
    Err(Failure::Other(format!("{page}: {}", reason(status, &text))))
}

pub(super) async fn quit(context: &Context, arguments: &Quit) -> Result<u8, Failure> {
    let probe = Probe::new(context, &arguments.asked)?;
    let (status, text) = probe.ask(Method::POST, "/quit").await.map_err(Failure::Other)?;
    match status {
        StatusCode::ACCEPTED => {}
        StatusCode::NOT_FOUND => {
            return Err(Failure::Other("it may not be ended like this: `admin.quit` is not true".into()));
        }
        _ => return Err(Failure::Other(format!("/quit: {}", reason(status, &text)))),
    }
    // Its admin listener is the last that goes.
    let gone = async {
        while probe.ask(Method::GET, "/livez").await.is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(arguments.wait, gone).await {
        Ok(()) => Ok(0),
        Err(_) => Err(Failure::Other(format!("it is still draining after {:?}", arguments.wait))),
    }
}

/// What an answer says of why.
fn reason(status: StatusCode, text: &str) -> String {
    let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let reasons: Vec<&str> =
        document["reasons"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    match (reasons.is_empty(), document["detail"].as_str()) {
        (false, _) => reasons.join("; "),
        (true, Some(detail)) => detail.to_owned(),
        (true, None) => status.to_string(),
    }
}

/// A client of an admin listener.
struct Probe {
    http: reqwest::Client,
    base: String,
}

impl Probe {
    fn new(context: &Context, asked: &Asked) -> Result<Self, Failure> {
        let text = match &asked.address {
            Some(text) => text.clone(),
            None => configured(context)?,
        };
        // Nothing secret is sent, so cleartext to another host is no danger.
        let address = Address::parse("--address", &text, true).map_err(Failure::Usage)?;
        let roots = match &asked.ca_file {
            Some(path) => system_roots().with_file(path).map_err(Failure::Other)?,
            None => system_roots(),
        };
        let mut tls = roots.client_config().map_err(Failure::Other)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            // A connection that is kept would be one that the drain waits for.
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE);
        if let Some(socket) = &address.socket {
            builder = builder.unix_socket(socket.clone());
        }
        let http = builder.build().map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Self { http, base: address.base })
    }

    async fn ask(&self, method: Method, page: &str) -> Result<(StatusCode, String), String> {
        let fail = |error: reqwest::Error| {
            format!("no answer from {}: {}", self.base, super::client::innermost(&error.without_url()))
        };
        let answer = self.http.request(method, format!("{}{page}", self.base)).send().await.map_err(fail)?;
        let status = answer.status();
        Ok((status, answer.text().await.map_err(fail)?))
    }
}

/// The admin listener of the configuration file, as this host reaches it.
fn configured(context: &Context) -> Result<String, Failure> {
    if context.config.is_none() && context.config_path().is_err() {
        return Ok(USUAL.to_owned());
    }
    let (path, config) = context.load()?;
    let Some(admin) = config.admin else {
        return Err(Failure::Other(format!("{} has no `admin` listener; name one with --address", path.display())));
    };
    if admin.tls.is_some() {
        let why = "the admin listener speaks TLS: name it as its certificate does, with --address https://NAME:PORT, and \
                   perhaps --ca-file";
        return Err(Failure::Usage(why.into()));
    }
    Ok(reachable(&admin.address))
}

/// An address that means every one of this host is asked at the one that is there for sure.
fn reachable(address: &listen::Address) -> String {
    match address {
        listen::Address::Tcp(socket) if socket.ip().is_unspecified() => {
            let loopback: IpAddr =
                if socket.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            SocketAddr::new(loopback, socket.port()).to_string()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_listener_is_asked_where_this_host_reaches_it() {
        let tcp = |text: &str| reachable(&listen::Address::Tcp(text.parse().unwrap()));
        assert_eq!(tcp("0.0.0.0:8190"), "127.0.0.1:8190");
        assert_eq!(tcp("[::]:8190"), "[::1]:8190");
        assert_eq!(tcp("10.0.0.3:8190"), "10.0.0.3:8190");
        assert_eq!(reachable(&listen::Address::Unix("/run/a.sock".into())), "unix:/run/a.sock");
    }

    #[test]
    fn why_not_is_told_in_a_sentence() {
        let why = |text: &str| reason(StatusCode::SERVICE_UNAVAILABLE, text);
        assert_eq!(why(r#"{"reasons": ["draining", "store: gone"]}"#), "draining; store: gone");
        assert_eq!(why(r#"{"detail": "no web page"}"#), "no web page");
        assert_eq!(why("?"), "503 Service Unavailable");
    }
}
