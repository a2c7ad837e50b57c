//! The `secret_stores` section: what all stores have, and each kind's own keys.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::content::Content;
use super::line::{Line, Trouble};
use super::vault::Vault;
use super::{aws_secrets_manager, azure_key_vault, vault};
use crate::base::{BoxFuture, ClientOptions, Destination, Protocol, StoreRef};

/// Every kind of store there is.
static KINDS: [StoreKind; 3] = [aws_secrets_manager::KIND, azure_key_vault::KIND, vault::KIND];

/// From the first byte of an answer to the last: a store that needs longer is down, and others wait behind it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of store, as the configuration names it.
pub(super) struct StoreKind {
    /// The name, as in `kind: vault`.
    pub(super) name: &'static str,
    /// Reads and checks the kind's own keys.
    pub(super) parse: fn(Map<String, Value>, &Common) -> Result<Parsed, StoreError>,
}

/// What the kind's own keys were.
pub(super) struct Parsed {
    pub(super) backend: Box<dyn Backend>,
    /// The credential that they describe; none where the store names one.
    pub(super) implied: Option<Implied>,
}

/// What a kind needs to know of the keys that all stores have.
pub(super) struct Common {
    pub(super) name: String,
    /// Whether the store names a credential of the file.
    pub(super) borrows: bool,
    pub(super) allow_cleartext: bool,
    /// As it was written.
    pub(super) allow_addresses: Value,
}

/// What is wrong with a store's keys, and at which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// The path below the store.
    pub path: String,
    /// What to change.
    pub message: String,
}

/// The credential that a store's own keys describe: it is built, cached, refreshed and audited like any other.
#[derive(Debug)]
pub struct Implied {
    /// Its scheme.
    pub scheme: &'static str,
    /// The scheme's keys.
    pub settings: Value,
    /// The hosts that it is for.
    pub hosts: Vec<String>,
    /// Where the scheme's keys stand among the store's, by the beginning of their paths, if they are not called the same.
    pub paths: &'static [(&'static str, &'static str)],
}

impl Implied {
    /// The path among the store's keys of what the scheme says is wrong at this path.
    pub fn path(&self, path: &str) -> String {
        let named = self.paths.iter().find(|(theirs, _)| path.starts_with(theirs));
        named.map_or_else(|| path.to_owned(), |(_, ours)| (*ours).to_owned())
    }
}

/// How secrets of one store are read.
pub(super) trait Backend: Send + Sync + fmt::Debug {
    /// Whom it calls.
    fn endpoint(&self) -> &Destination;

    /// Judges a reference to a secret of it.
    ///
    /// # Errors
    /// At `name`, `version` or `field`: what to write instead.
    fn check(&self, reference: &StoreRef) -> Result<(), StoreError>;

    /// Reads a secret.
    fn read<'a>(&'a self, line: &'a Line, reference: &'a StoreRef) -> BoxFuture<'a, Result<Read, Trouble>>;

    /// It is Vault, for what only that has.
    fn vault(&self) -> Option<&Vault> {
        None
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) content: Content,
    /// Not used from then on, whatever the store's refresh and grace are.
    pub(super) ends_in: Option<Duration>,
    /// It was made for us and goes unless it is renewed.
    pub(super) lease: Option<vault::Lease>,
}

/// One of `secret_stores`, checked.
pub struct StoreSettings {
    /// Its name.
    pub name: String,
    /// What signs its requests: the id of a credential of the file, or of the implied one.
    pub credential: String,
    pub(super) kind: &'static str,
    pub(super) accounts: Vec<String>,
    pub(super) refresh: Duration,
    pub(super) grace: Duration,
    pub(super) allow_addresses: Vec<IpNet>,
    pub(super) backend: Box<dyn Backend>,
    /// Everything as it was written.
    written: String,
}

#[derive(Deserialize)]
struct Raw {
    name: String,
    kind: String,
    #[serde(default)]
    accounts: Vec<String>,
    /// A rotation is followed within it; a store of a few hundred secrets is asked about once a second.
    #[serde(default = "five_minutes", deserialize_with = "crate::base::duration::deserialize")]
    refresh: Duration,
    /// An outage of a store that is noticed and mended.
    #[serde(default = "hour", deserialize_with = "crate::base::duration::deserialize")]
    grace: Duration,
    #[serde(default)]
    allow_cleartext: bool,
    #[serde(default)]
    allow_addresses: Value,
    credential: Option<String>,
    #[serde(flatten)]
    own: Map<String, Value>,
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

fn hour() -> Duration {
    Duration::from_secs(3600)
}

pub(super) fn at(path: impl Into<String>, message: impl Into<String>) -> StoreError {
    StoreError { path: path.into(), message: message.into() }
}

/// Reads keys with the path of what is wrong.
pub(super) fn keys<T: serde::de::DeserializeOwned>(own: Map<String, Value>) -> Result<T, StoreError> {
    serde_path_to_error::deserialize(Value::Object(own))
        .map_err(|error| at(error.path().to_string(), error.into_inner().to_string()))
}

/// The address of a store.
///
/// # Errors
/// At this key: what is wrong with it, or that secrets would travel unencrypted.
pub(super) fn endpoint(key: &str, url: &str, common: &Common) -> Result<Destination, StoreError> {
    let endpoint = Destination::from_upstream(url).map_err(|refusal| at(key, refusal.detail.into_owned()))?;
    if endpoint.protocol() == Protocol::Http && !common.allow_cleartext {
        let why = "secrets would travel unencrypted; use https, or set `allow_cleartext: true` on the store";
        return Err(at(key, why));
    }
    Ok(endpoint)
}

impl StoreSettings {
    /// Reads and checks one store, and what its own keys say of the credential that it needs.
    ///
    /// # Errors
    /// What is wrong, with its path below the store.
    pub fn parse(value: Value) -> Result<(Self, Option<Implied>), StoreError> {
        let written = value.to_string();
        let Value::Object(members) = value else { return Err(at("", "a store is a map: write `name: …`")) };
        let raw: Raw = keys(members)?;
        if !is_name(&raw.name) {
            return Err(at("name", "a store's name has up to 64 letters, digits, `-`, `_` and `.`"));
        }
        let Some(kind) = KINDS.iter().find(|kind| kind.name == raw.kind) else {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
            return Err(at("kind", format!("unknown kind of store; there are {}", names.join(", "))));
        };
        for (index, account) in raw.accounts.iter().enumerate() {
            if account != "*" && !is_name(account) {
                return Err(at(format!("accounts[{index}]"), "an account's name, or \"*\" for all"));
            }
        }
        let common = Common {
            name: raw.name,
            borrows: raw.credential.is_some(),
            allow_cleartext: raw.allow_cleartext,
            allow_addresses: raw.allow_addresses.clone(),
        };
        let allow_addresses = match raw.allow_addresses {
            Value::Null => Vec::new(),
            written => {
                crate::base::nets::deserialize(written).map_err(|error| at("allow_addresses", error.to_string()))?
            }
        };
        let Parsed { backend, implied } = (kind.parse)(raw.own, &common)?;
        let name = common.name;
        let settings = Self {
            // `:` is in no id that people write.
            credential: raw.credential.unwrap_or_else(|| format!("secret_store:{name}")),
            name,
            kind: kind.name,
            accounts: raw.accounts,
            refresh: raw.refresh,
            grace: raw.grace,
            allow_addresses,
            backend,
            written,
        };
        Ok((settings, implied))
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// Whom it calls.
    pub fn endpoint(&self) -> &Destination {
        self.backend.endpoint()
    }

    /// Judges a reference to a secret of it.
    ///
    /// # Errors
    /// At `name`, `version` or `field`: what to write instead.
    pub fn check(&self, reference: &StoreRef) -> Result<(), StoreError> {
        self.backend.check(reference)
    }

    /// Whether credentials of this account, which others write, may use its secrets.
    pub fn is_open_to(&self, account: &str) -> bool {
        self.accounts.iter().any(|opened| opened == "*" || opened == account)
    }

    /// Whether what was read from the other may be used as if it were from this one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.written == other.written
    }

    pub(super) fn client_options(&self) -> ClientOptions {
        ClientOptions { allow_addresses: self.allow_addresses.clone(), timeout: Some(TIMEOUT), ..Default::default() }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreSettings({} {})", self.kind, self.name)
    }
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}
