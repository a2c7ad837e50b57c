//! How to sign: one file per authentication scheme.
//!
//! A scheme is given its settings and secrets at load and prepares what it can. What signs is an [`Authorizer`]: the scheme
//! itself where its keys are fixed, or one made of a short-lived token, which `token` obtains and keeps.
//! **Never sends anything itself, never reads the clock or the configuration file, never decides who may use it.**
//!
//! A new scheme is one file here, the two lines below (`mod x;` and its entry in [`KINDS`]), its vectors in
//! `tests/vectors/x/` and a recipe in `config/recipes/`.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

use crate::base::{
    Authorizer, BoxFuture, Challenged, Clock, Destination, Environment, HttpClients, Random, Refusal, RequestView,
};
use crate::base::{Secret, SecretRef, Secrets, Unavailable};
use crate::token::{Handle, KeyBuilder, Live, StateDirectory, Tokens};

mod api_key;
mod apptio;
mod assertion;
mod aws;
mod aws_sts;
mod azure;
mod basic;
mod bearer;
mod digest;
mod fields;
mod flexera;
mod google;
mod hosts;
mod jwt;
mod login;
mod ntlm;
mod oauth2;
mod oracle;
mod placement;
mod sealing;

pub use azure::{Aim, aim};
pub use sealing::{SealError, Sealed, Stored, check_stored, is_at, seal};

/// Every scheme there is.
pub static KINDS: &[Kind] = &[
    api_key::KIND, //
    apptio::KIND,
    aws::KIND,
    aws_sts::KIND,
    azure::KIND,
    basic::KIND,
    digest::KIND,
    flexera::KIND,
    google::KIND,
    jwt::KIND,
    login::KIND,
    ntlm::KIND,
    oauth2::KIND,
    oracle::KIND,
];

/// A scheme as the configuration names it.
pub struct Kind {
    /// The name, in snake_case, as in `scheme: api_key`.
    pub name: &'static str,
    /// One sentence for help texts.
    pub about: &'static str,
    /// Hosts of the provider, used when the credential names none. Never hosts that strangers can own there.
    pub default_hosts: &'static [&'static str],
    /// Hosts that strangers can own: a credential has to name these; a wildcard over them and others does not mean them.
    pub strangers: fn(&str) -> bool,
    /// Where a binding may narrow it to `services`, `regions` and `actions`: judges a request as far as it tells these by itself.
    pub narrows: Option<Narrows>,
    /// Which of its keys are more than words.
    pub fields: Fields,
    /// Reads and checks the scheme's own keys.
    pub parse: fn(serde_json::Value) -> Result<Box<dyn Draft>, SettingsError>,
}

/// Keys of a scheme by what they hold, as paths such as `additional[].key`; `*` is any member, `**` whatever is below.
#[derive(Debug, Clone, Copy)]
pub struct Fields {
    /// What is secret, or may be: kept encrypted and shown to nobody. With `?` at its end, unless it is a template.
    pub secret: &'static [&'static str],
    /// What decides where a secret goes: changed only together with the secrets.
    pub leading: &'static [&'static str],
    /// What reads this host's own files, keys and networks: written by the operator in the configuration file alone.
    pub operators: &'static [&'static str],
}

/// Judges a request without a credential's own settings.
pub type Narrows = fn(&RequestView<'_>) -> Result<(), Refusal>;

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Kind {
    /// The hosts of a credential, as patterns: those that it names, or those that its settings or its scheme tell.
    pub fn hosts(&self, named: &[String], settings: &serde_json::Value) -> Vec<String> {
        if !named.is_empty() {
            return named.to_vec();
        }
        let own = || self.default_hosts.iter().map(|host| (*host).to_owned()).collect();
        let draft = (self.parse)(settings.clone());
        draft.ok().and_then(|draft| draft.default_hosts()).unwrap_or_else(own)
    }
}

/// A scheme of that name, `-` and `_` being the same.
pub fn find(name: &str) -> Option<&'static Kind> {
    let name = name.replace('-', "_");
    KINDS.iter().find(|kind| kind.name == name)
}

/// What is wrong with a credential's keys, and at which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The path below the credential, such as `additional[0].key`.
    pub path: String,
    /// What to change; never a value of a secret field.
    pub message: String,
}

/// Checked settings whose secrets are not loaded yet.
pub trait Draft: Send + Sync + fmt::Debug {
    /// Every reference that [`Draft::build`] will ask for.
    fn references(&self) -> Vec<&SecretRef>;

    /// The provider's hosts that these settings are for, used when the credential names none; `None` for those of the kind.
    fn default_hosts(&self) -> Option<Vec<String>> {
        None
    }

    /// Judges the hosts that the credential names, as patterns in their normal form; there may be none.
    ///
    /// # Errors
    /// At `hosts`, or at one of them, when these settings give a token that must not go there.
    fn check_hosts(&self, _named: &[String]) -> Result<(), SettingsError> {
        Ok(())
    }

    /// What its tokens are for, where the settings tell: a service's address, or the number of an application.
    fn audience(&self) -> Option<String> {
        None
    }

    /// The accounts of the provider in which it can sign as a role, its own first; none where it signs as itself.
    fn accounts(&self) -> Vec<String> {
        Vec::new()
    }

    /// What of this host these settings use that no key of theirs names: whoever writes them is to be the operator.
    fn uses_host(&self) -> Option<SettingsError> {
        None
    }

    /// The credential that authenticates this one's own requests.
    fn borrows(&self) -> Option<Loan<'_>> {
        None
    }

    /// Prepares the scheme with its secrets. Obtains nothing yet.
    ///
    /// # Errors
    /// When a secret is missing or is not of the form the scheme needs.
    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable>;

    /// What the other side must be told so that it lets this credential in, for schemes where it must be told anything.
    fn introduce<'a>(&'a self, _setup: &'a Setup<'a>) -> Option<BoxFuture<'a, Result<Introduction, Unavailable>>> {
        None
    }
}

/// What a credential borrows.
#[derive(Debug, Clone)]
pub struct Loan<'a> {
    /// The lender's id.
    pub credential: &'a str,
    /// Where it is used, if that is known already: the lender must be for this host.
    pub destination: Option<Destination>,
}

/// What a person carries to the other side so that it trusts a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Facts by their names: the account to trust, the external id.
    pub facts: Vec<(&'static str, String)>,
    /// Documents to paste, by what they are for.
    pub documents: Vec<(String, serde_json::Value)>,
    /// What could not be found out, and why.
    pub missing: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
}

/// What a scheme is prepared with.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The account that owns the credential.
    pub account: &'a str,
    /// The credential's id.
    pub credential: &'a str,
    /// The version of its content; 0 where the configuration file declares it.
    pub version: i64,
    /// What its references gave.
    pub secrets: &'a Secrets,
    /// What it may use.
    pub outside: &'a Outside,
}

impl Setup<'_> {
    /// Begins the key of a token with whose it is.
    fn key(&self) -> KeyBuilder {
        let key = KeyBuilder::new(self.account, self.credential);
        if self.version > 0 { key.with("version", self.version.to_be_bytes()) } else { key }
    }

    /// Begins the key of a token with every key of the settings as it is written, and what every reference gave: nothing
    /// that changes the token is left out.
    fn token_key(&self, settings: &dyn Draft) -> Result<KeyBuilder, Unavailable> {
        let mut key = self.key().with("settings", format!("{settings:?}"));
        for reference in settings.references() {
            key = key.with(&reference.to_string(), self.secrets.get(reference)?.expose());
        }
        Ok(key)
    }

    /// What every reference gave: no error may repeat it.
    fn confidential(&self, settings: &dyn Draft) -> Result<Vec<Secret>, Unavailable> {
        settings.references().into_iter().map(|reference| self.secrets.get(reference)).collect()
    }
}

/// Other credentials of the same account, for a scheme whose own request one of them authenticates.
pub trait Lender: Send + Sync + fmt::Debug {
    /// A digest of everything that a credential is made of, for the key of a token that depends on it; `None` when there
    /// is no such credential.
    fn fingerprint(&self, id: &str) -> Option<String>;

    /// Signs a request of ours with it.
    ///
    /// # Errors
    /// `destination_forbidden` when the credential is not for that host; why it has no token.
    fn sign<'a>(&'a self, id: &'a str, request: http::Request<Vec<u8>>) -> BoxFuture<'a, Result<Lent, Refusal>>;
}

/// A request that another credential signed.
#[derive(Debug)]
pub struct Lent {
    /// The request, ready to be sent.
    pub request: http::Request<Vec<u8>>,
    /// The token it was signed with, if the lender has such.
    pub token: Option<LentToken>,
}

/// A token of another credential.
#[derive(Debug)]
pub struct LentToken {
    /// The lender's hold on it.
    pub handle: Arc<Handle>,
    /// The token.
    pub live: Arc<Live>,
}

impl LentToken {
    /// It was refused: it is dropped, and only it. Says whether asking for another is worth it.
    pub fn refused(&self) -> bool {
        self.handle.rejected(&self.live)
    }
}

/// What schemes use to obtain tokens.
#[derive(Debug, Clone)]
pub struct Outside {
    /// The one token engine.
    pub tokens: Tokens,
    /// Makes clients for token endpoints.
    pub http: Arc<dyn HttpClients>,
    /// For signatures inside long streams, and for what must be current while a token is obtained.
    pub clock: Arc<dyn Clock>,
    /// For credentials that rest where a provider's own tools look for them.
    pub environment: Arc<dyn Environment>,
    /// For assertions and keys.
    pub random: Arc<dyn Random>,
    /// Where rotated refresh tokens rest.
    pub state: Arc<StateDirectory>,
    /// Other credentials.
    pub lender: Arc<dyn Lender>,
}

/// What signs for a credential.
#[derive(Debug)]
pub enum Identity<'a> {
    /// The same for as long as the credential is loaded.
    Fixed(&'a Arc<dyn Authorizer>),
    /// Whatever token there is at the time.
    Token(&'a Arc<Handle>),
    /// Nothing before the server has asked.
    Challenged(&'a Arc<dyn Challenged>),
}

/// What signing would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foresight {
    /// What would be added, by name.
    pub adds: Vec<String>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// A credential that signs with a token and has nothing else to say.
#[derive(Debug)]
struct Obtained {
    handle: Arc<Handle>,
    owned: Vec<HeaderName>,
    adds: Vec<String>,
}

impl Scheme for Obtained {
    fn owned_headers(&self) -> &[HeaderName] {
        &self.owned
    }

    fn adds(&self) -> Vec<String> {
        self.adds.clone()
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }
}

/// A credential ready to sign. `Debug` of an implementation shows no secret.
pub trait Scheme: Send + Sync + fmt::Debug {
    /// The headers that are this scheme's own: the caller's copies are removed before signing.
    fn owned_headers(&self) -> &[HeaderName];

    /// What it adds beside its own headers, by name, for people: `cookie`, `?api_key`.
    fn adds(&self) -> Vec<String> {
        Vec::new()
    }

    /// What signing would do to a request, for people; obtains nothing.
    ///
    /// # Errors
    /// When the request could not be signed, as far as that can be told without keys and body.
    fn foresee(&self, _view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let own = self.owned_headers().iter().map(ToString::to_string);
        Ok(Foresight { adds: own.chain(self.adds()).collect(), note: None })
    }

    /// Whether a request is for what its binding is narrowed to, as far as that chooses between bindings.
    ///
    /// # Errors
    /// `cannot_infer` when it is not.
    fn reaches(&self, _view: &RequestView<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// What signs.
    fn identity(&self) -> Identity<'_>;

    /// What signs for another account of the provider than the credential's own, as the request asks by
    /// `Countersign-Aws-Account`.
    ///
    /// # Errors
    /// When the credential is not for that account.
    fn identity_in(&self, _account: &str) -> Result<Identity<'_>, Refusal> {
        Err(Refusal::bad_request("Countersign-Aws-Account goes with a credential that lists `accounts` (aws_sts)"))
    }

    /// Every token there may be.
    fn handles(&self) -> Vec<&Arc<Handle>> {
        match self.identity() {
            Identity::Token(handle) => vec![handle],
            Identity::Fixed(_) | Identity::Challenged(_) => Vec::new(),
        }
    }
}

/// Reads settings with the path of what is wrong.
fn settings<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, SettingsError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| SettingsError { path: error.path().to_string(), message: error.into_inner().to_string() })
}

/// A settings error at one key.
fn at(path: impl Into<String>, message: impl Into<String>) -> SettingsError {
    SettingsError { path: path.into(), message: message.into() }
}

/// Headers that frame or route the message: a credential in one of them would break the request or be stripped.
fn is_reserved(name: &HeaderName) -> bool {
    // As servers read it that take `_` for `-`.
    let name = name.as_str().replace('_', "-");
    name.starts_with("proxy-")
        || name.starts_with("countersign-")
        || matches!(
            name.as_str(),
            "host"
                | "connection"
                | "content-length"
                | "transfer-encoding"
                | "te"
                | "trailer"
                | "upgrade"
                | "keep-alive"
                | "expect"
                | "cookie"
        )
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClientOptions, Deps, HttpClient};

    /// For schemes that call nobody.
    #[derive(Debug)]
    struct NoClients;

    impl HttpClients for NoClients {
        fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
            Err("there is nobody to call".into())
        }
    }

    /// For schemes that borrow nothing.
    #[derive(Debug)]
    struct NoLender;

    impl Lender for NoLender {
        fn fingerprint(&self, _: &str) -> Option<String> {
            None
        }

        fn sign<'a>(&'a self, id: &'a str, _: http::Request<Vec<u8>>) -> BoxFuture<'a, Result<Lent, Refusal>> {
            Box::pin(async move { Err(Refusal::bad_request(format!("there is no credential {id}"))) })
        }
    }

    /// Builds a draft with some secrets and no network.
    pub(super) fn build(draft: &dyn Draft, secrets: &Secrets) -> Result<Arc<dyn Scheme>, Unavailable> {
        let deps = Deps::system();
        let outside = Outside {
            tokens: Tokens::new(&deps),
            http: Arc::new(NoClients),
            clock: deps.clock,
            environment: deps.environment,
            random: deps.random,
            state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
            lender: Arc::new(NoLender),
        };
        draft.build(&Setup { account: "default", credential: "c", version: 0, secrets, outside: &outside })
    }
}
