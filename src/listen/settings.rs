//! The `listeners` section as it is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::base::{SecretField, SecretRef};

/// The `listeners` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// For absolute-form requests and CONNECT.
    pub forward: Vec<Forward>,
    /// For plain requests that a route sends on.
    pub reverse: Vec<Reverse>,
    /// For connections that the kernel redirects.
    pub transparent: Vec<Transparent>,
}

/// A forward listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where it listens.
    pub address: Address,
    /// Whether TLS is terminated for hosts with a binding.
    #[serde(default = "yes")]
    pub intercept: bool,
    /// TLS towards callers.
    pub tls: Option<Tls>,
    /// Serve callers that prove nothing, as `local`, even where `callers` are listed or the address is not loopback.
    #[serde(default)]
    pub allow_anonymous: bool,
    /// Serve only sockets of our own uid or root.
    #[serde(default)]
    pub same_user: bool,
    /// Permissions of a unix socket, octal.
    pub mode: Option<Mode>,
}

/// A reverse listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reverse {
    /// Where it listens.
    pub address: Address,
    /// TLS towards callers.
    pub tls: Option<Tls>,
    /// As for a forward listener.
    #[serde(default)]
    pub allow_anonymous: bool,
    /// As for a forward listener.
    #[serde(default)]
    pub same_user: bool,
    /// Permissions of a unix socket, octal.
    pub mode: Option<Mode>,
    /// Names, beside its own address and localhost, under which it answers.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// What it sends where.
    pub routes: Vec<Route>,
}

/// A transparent listener: whoever is redirected to it knows nothing of a proxy, so it has neither TLS nor tokens of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transparent {
    /// Where connections are redirected to.
    pub address: Address,
    /// They come by TPROXY: the socket may stand for any address, and its own is the one that was called.
    #[serde(default)]
    pub tproxy: bool,
    /// Everybody who comes in here is this one of `callers`; without it the uid of the other end's socket tells.
    pub caller: Option<String>,
    /// As for a forward listener.
    #[serde(default)]
    pub allow_anonymous: bool,
    /// As for a forward listener.
    #[serde(default)]
    pub same_user: bool,
}

/// A route of a reverse listener: a binding for its upstream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Stripped before forwarding; whole segments.
    pub prefix: String,
    /// `https://host[:port][/path]`
    pub upstream: String,
    /// The credential; without one the bindings decide.
    pub credential: Option<String>,
    /// Who may use it; empty means everybody who may reach the listener.
    #[serde(default)]
    pub callers: Vec<String>,
    /// With which methods; empty means any.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Of a provider with many services (AWS), which; empty means any.
    #[serde(default, deserialize_with = "crate::base::request::some")]
    pub services: Vec<String>,
    /// Of these, in which regions; empty means any.
    #[serde(default, deserialize_with = "crate::base::request::some")]
    pub regions: Vec<String>,
    /// Of these, which actions; empty means any.
    #[serde(default, deserialize_with = "crate::base::request::some")]
    pub actions: Vec<String>,
    /// Below which paths of the upstream; empty means any.
    #[serde(default)]
    pub paths: Vec<String>,
    /// The secret may travel unencrypted to the upstream.
    #[serde(default)]
    pub allow_cleartext: bool,
    /// Addresses that this route may reach though they are normally refused.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    pub allow_addresses: Vec<IpNet>,
    /// Web pages that may use it.
    #[serde(default)]
    pub allow_origins: Vec<String>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM: a reference.
    pub key: SecretField,
    /// Roots that client certificates are verified against; without it none is asked for.
    pub client_ca: Option<PathBuf>,
}

impl Settings {
    /// The references that must be loaded before the doors are built.
    pub fn references(&self) -> Vec<&SecretRef> {
        let forward = self.forward.iter().filter_map(|listener| listener.tls.as_ref());
        let reverse = self.reverse.iter().filter_map(|listener| listener.tls.as_ref());
        forward.chain(reverse).map(|tls| tls.key.reference()).collect()
    }
}

fn yes() -> bool {
    true
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// `127.0.0.1:8180`; port 0 takes any free one.
    Tcp(SocketAddr),
    /// `unix:/run/countersign/proxy.sock`
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!("`{text}`: a unix socket needs a path from the root: unix:/run/countersign.sock"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| format!("`{text}`: not a port"))?;
            return Ok(Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("`{text}` is not an address: write 127.0.0.1:8180, [::1]:8180 or unix:/path"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// File permissions as people write them: `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(de::Error::custom(format!("`{text}` is not a file mode; write it in quotes: \"0660\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_of_two_kinds() {
        assert_eq!(Address::parse("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(Address::parse("unix:/run/x").unwrap().to_string(), "unix:/run/x");
        assert!(Address::parse("[::1]:0").unwrap().is_local());
        assert!(Address::parse("[::ffff:127.0.0.1]:0").unwrap().is_local());
        assert!(!Address::parse("0.0.0.0:1").unwrap().is_local());
        for text in ["", "8180", "example.com:80", "unix:x", "127.0.0.1"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
