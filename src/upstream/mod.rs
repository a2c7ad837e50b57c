//! Dialling and sending: every byte that leaves goes through here.
//!
//! **Never dials an address that the guard has not seen, never follows a redirect, never chooses a destination.**

mod connect;
mod control;
mod guard;
mod link;
mod moment;
mod plain;
mod pool;
mod tls;

pub use guard::{Guard, OwnAddresses};
pub use link::{Link, Owner};
pub use moment::noting_connection;
pub use pool::{Egress, Unanswered, Upstream};
pub use tls::{Roots, system_roots};

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::base::duration;
use crate::base::{Public, SecretField, SecretRef};

/// The `upstream` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Ranges that are normally refused and may be dialled.
    #[serde(deserialize_with = "crate::base::nets::deserialize")]
    pub allow_addresses: Vec<IpNet>,
    /// Further roots, beside the system's, for upstreams.
    pub ca_file: Option<PathBuf>,
    /// `name:port` to the address that is dialled instead; the name stays the destination. The guard still looks.
    pub resolve: HashMap<String, SocketAddr>,
    /// A proxy that stands between us and everything.
    pub proxy: Option<ProxySettings>,
    /// DNS, TCP and TLS together. Ten seconds outlast a lost SYN and its two repetitions.
    #[serde(deserialize_with = "duration::deserialize")]
    pub connect_timeout: Duration,
    /// From the last byte of the request to the head of the answer. Five minutes, since reports take minutes.
    #[serde(deserialize_with = "duration::deserialize")]
    pub response_timeout: Duration,
    /// How long an unused connection is kept. Shorter than most servers keep theirs.
    #[serde(deserialize_with = "duration::deserialize")]
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_addresses: Vec::new(),
            ca_file: None,
            resolve: HashMap::new(),
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// A corporate proxy: an address, or an address with credentials and exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxySettings {
    /// `http://proxy.corp:3128`
    Address(String),
    /// With credentials or exceptions.
    Full(ProxyParts),
}

impl<'de> Deserialize<'de> for ProxySettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = ProxySettings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as http://proxy.corp:3128, or a map with `url`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProxySettings, E> {
                Ok(ProxySettings::Address(text.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ProxySettings, A::Error> {
                ProxyParts::deserialize(de::value::MapAccessDeserializer::new(map)).map(ProxySettings::Full)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The long form of a corporate proxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyParts {
    /// Its address; a reference may hold one with a user name and password in it, as HTTPS_PROXY does.
    pub url: Public,
    /// User name for Basic authentication.
    pub username: Option<Public>,
    /// Password for Basic authentication.
    pub password: Option<SecretField>,
    /// Hosts, domains and CIDRs that are dialled directly, as in NO_PROXY.
    #[serde(default)]
    pub no_proxy: Vec<String>,
}

impl Settings {
    /// The references that must be loaded before [`Upstream::new`].
    pub fn references(&self) -> Vec<&SecretRef> {
        match &self.proxy {
            Some(ProxySettings::Full(parts)) => [
                parts.url.reference(),
                parts.username.as_ref().and_then(Public::reference),
                parts.password.as_ref().map(SecretField::reference),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Some(ProxySettings::Address(_)) | None => Vec::new(),
        }
    }
}
