//! The `admin` section.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Deserialize;

use crate::base::{SecretField, SecretRef};
use crate::listen::settings::{Address, Tls};
use crate::store::Role;

/// The admin listener, and who may manage what through it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where health is asked for and the API answers.
    pub address: Address,
    /// TLS towards callers; needed where others than this host reach it.
    pub tls: Option<Tls>,
    /// Let tokens travel unencrypted although others than this host reach the address: something before it ends TLS.
    #[serde(default)]
    pub allow_cleartext: bool,
    /// The management API beside health.
    #[serde(default = "yes")]
    pub api: bool,
    /// Whoever reaches it may end this process, by `POST /quit`.
    #[serde(default)]
    pub quit: bool,
    /// Names, beside its own address and localhost, under which it answers.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// Web pages of elsewhere that may use it, as `https://console.example.com`.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Management tokens that this file declares, beside those of the store.
    #[serde(default)]
    pub tokens: Vec<TokenSettings>,
    /// An issuer of tokens for people and services.
    pub oidc: Option<OidcSettings>,
    /// How many requests there may be.
    #[serde(default)]
    pub rate_limit: RateLimit,
    /// The zone in Flexera's references.
    #[serde(default)]
    pub zone: Zone,
}

/// A management token of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// For the audit record.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// In this account; in all if none is named.
    pub account: Option<String>,
    /// Where it rests.
    pub token: SecretField,
}

/// An issuer of OIDC tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSettings {
    /// As it stands in `iss`, character by character; its keys are found below it.
    pub issuer: String,
    /// What `aud` must hold.
    pub audience: String,
    /// Where its keys are, when its discovery document does not say.
    pub jwks_url: Option<String>,
    /// The claim that holds groups or roles; `a.b` is a member of an object.
    #[serde(default = "roles")]
    pub role_claim: String,
    /// What they mean here. Whoever has none of them may nothing.
    pub roles: Vec<RoleSettings>,
    /// The claim that holds the account, or several: where the roles hold that name no account themselves.
    pub account_claim: Option<String>,
    /// The claim that names the person in the audit record.
    #[serde(default = "subject")]
    pub name_claim: String,
    /// Addresses normally refused that the issuer may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    pub allow_addresses: Vec<IpNet>,
    /// Let its keys travel over `http://`.
    #[serde(default)]
    pub allow_cleartext: bool,
}

/// What a value of the role claim means.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSettings {
    /// A group or role of the issuer.
    pub value: String,
    /// What it may do here.
    pub role: Role,
    /// In this account; `*` for all although there is an `account_claim`. Without it, in those of the `account_claim`, and
    /// in all if there is none.
    pub account: Option<String>,
}

/// How many requests a minute there may be; 0 for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Of one account.
    pub account: u32,
    /// Of one principal.
    pub principal: u32,
}

impl Default for RateLimit {
    /// As Flexera's.
    fn default() -> Self {
        Self { account: 1000, principal: 500 }
    }
}

/// A zone of Flexera's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zone {
    /// North America.
    #[default]
    Nam,
    /// Europe.
    Eu,
    /// Asia and Pacific.
    Apac,
}

impl Zone {
    /// As it stands in references.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nam => "nam",
            Self::Eu => "eu",
            Self::Apac => "apac",
        }
    }
}

fn yes() -> bool {
    true
}

fn roles() -> String {
    "roles".to_owned()
}

fn subject() -> String {
    "sub".to_owned()
}

impl Settings {
    /// The references to load.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let tls = self.tls.as_ref().map(|tls| tls.key.reference());
        self.tokens.iter().map(|token| token.token.reference()).chain(tls)
    }

    /// What is wrong with it: the key below `admin`, and what to change.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut note = |path: String, why: &str| wrong.push((path, why.to_owned()));
        if self.api && self.tls.is_none() && !self.allow_cleartext && !self.address.is_local() {
            note(
                "address".into(),
                "others than this host reach it, and the management API takes tokens there: give `admin.tls`, or write \
                 `allow_cleartext: true` if something before it ends TLS, or `api: false` for health alone",
            );
        }
        let mut names = BTreeSet::new();
        for (index, token) in self.tokens.iter().enumerate() {
            let path = |key: &str| format!("tokens[{index}].{key}");
            if !is_name(&token.name) {
                note(path("name"), "a name has up to 128 letters, digits, `-`, `_`, `.`, `/` and `@`");
            } else if !names.insert(&token.name) {
                note(path("name"), "it is listed twice");
            }
            if token.account.as_deref().is_some_and(|account| super::check_account(account).is_err()) {
                note(path("account"), "an account's name has 1 to 64 letters, digits, `.`, `_` and `-`");
            }
        }
        for (index, origin) in self.allow_origins.iter().enumerate() {
            let parsed = url::Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            if parsed.is_none_or(|url| url.origin().ascii_serialization() != *origin) {
                note(
                    format!("allow_origins[{index}]"),
                    "an origin is written https://console.example.com, and no more",
                );
            }
        }
        for (index, name) in self.server_names.iter().enumerate() {
            if crate::base::Host::parse(name).is_err() {
                note(format!("server_names[{index}]"), "a host name is expected, without a port");
            }
        }
        if let Some(oidc) = &self.oidc {
            oidc.check(&mut note);
        }
        wrong
    }
}

impl OidcSettings {
    fn check(&self, note: &mut impl FnMut(String, &str)) {
        let addresses = [("issuer", Some(&self.issuer)), ("jwks_url", self.jwks_url.as_ref())];
        for (key, address) in addresses.into_iter().filter_map(|(key, address)| Some((key, address?))) {
            let destination = address.parse().ok().and_then(|uri| crate::base::Destination::from_absolute(&uri).ok());
            match destination {
                None => note(format!("oidc.{key}"), "an address such as https://login.example.com is expected"),
                Some(to) if to.protocol() == crate::base::Protocol::Http && !self.allow_cleartext => {
                    note(
                        format!("oidc.{key}"),
                        "keys that travel unencrypted prove nothing: https://, or `allow_cleartext: true`",
                    );
                }
                Some(_) => {}
            }
        }
        if self.audience.is_empty() {
            note("oidc.audience".into(), "without an audience every token of the issuer would do");
        }
        if self.roles.is_empty() {
            note("oidc.roles".into(), "without roles nobody may anything: list { value, role }");
        }
        for (index, role) in self.roles.iter().enumerate() {
            let bad = |account: &str| account != "*" && super::check_account(account).is_err();
            if role.account.as_deref().is_some_and(bad) {
                note(format!("oidc.roles[{index}].account"), "an account's name, or \"*\" for all");
            }
        }
    }
}

/// Whether this may name a token or a caller.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
    (1..=128).contains(&text.len()) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(value: Value) -> Vec<String> {
        let settings: Settings = serde_json::from_value(value).unwrap();
        settings.check().into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn an_address_that_others_reach_needs_tls_or_the_word_that_it_does_not() {
        assert!(wrong(json!({"address": "127.0.0.1:0"})).is_empty());
        assert!(wrong(json!({"address": "unix:/run/x"})).is_empty());
        assert_eq!(wrong(json!({"address": "0.0.0.0:1"})), ["address"]);
        assert!(wrong(json!({"address": "0.0.0.0:1", "allow_cleartext": true})).is_empty());
        assert!(wrong(json!({"address": "0.0.0.0:1", "api": false})).is_empty());
        let tls = json!({"certificate": "c.pem", "key": {"file": "k.pem"}});
        assert!(wrong(json!({"address": "0.0.0.0:1", "tls": tls})).is_empty());
    }

    #[test]
    fn tokens_origins_and_the_issuer_are_checked() {
        let token = |name: &str, account: Value| json!({"name": name, "role": "admin", "account": account, "token": {"env": "T"}});
        let with = |more: Value| {
            let mut all = json!({"address": "127.0.0.1:0"});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            wrong(all)
        };
        assert!(with(json!({"tokens": [token("a", Value::Null), token("b", json!("x"))]})).is_empty());
        assert_eq!(with(json!({"tokens": [token("a", Value::Null), token("a", Value::Null)]})), ["tokens[1].name"]);
        assert_eq!(with(json!({"tokens": [token("a b", json!("x/y"))]})), ["tokens[0].name", "tokens[0].account"]);
        assert!(with(json!({"allow_origins": ["https://a.test", "http://localhost:3000"]})).is_empty());
        for origin in ["https://a.test/", "a.test", "https://a.test/x", "*", "null"] {
            assert_eq!(with(json!({"allow_origins": [origin]})), ["allow_origins[0]"], "{origin}");
        }
        let oidc = |issuer: &str, audience: &str, roles: Value| {
            with(json!({"oidc": {"issuer": issuer, "audience": audience, "roles": roles}}))
        };
        let roles = json!([{"value": "g", "role": "viewer", "account": "*"}]);
        assert!(oidc("https://idp.test/realm", "a", roles.clone()).is_empty());
        assert_eq!(oidc("http://idp.test", "a", roles.clone()), ["oidc.issuer"]);
        assert_eq!(oidc("idp", "", json!([])), ["oidc.issuer", "oidc.audience", "oidc.roles"]);
    }
}
