//! Bearer tokens of an OIDC issuer: verified against its keys, and what their claims mean here.
//!
//! **A token that was not verified to the last claim means nothing; an issuer that cannot be reached is no reason to call
//! a token wrong.**

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::principal::{Grant, Principal};
use super::settings::{OidcSettings, RoleSettings};
use crate::base::{ClientOptions, Clock, HttpClients};
use crate::token::{Disbelief, Issuer, IssuerSettings, KeyPlace, texts};

/// An issuer, and what its tokens may here.
#[derive(Debug)]
pub(super) struct Oidc {
    settings: OidcSettings,
    issuer: Issuer,
}

fn refused(why: impl fmt::Display) -> ApiError {
    ApiError::unauthorized(format!("the token is refused: {why}"))
}

impl Oidc {
    /// An issuer; nothing is read yet.
    pub(super) fn new(settings: OidcSettings, clients: Arc<dyn HttpClients>, clock: Arc<dyn Clock>) -> Self {
        let of = IssuerSettings {
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            keys: settings.jwks_url.clone().map_or(KeyPlace::Discovered, KeyPlace::Url),
            options: ClientOptions { allow_addresses: settings.allow_addresses.clone(), ..ClientOptions::default() },
            allow_cleartext: settings.allow_cleartext,
        };
        Self { settings, issuer: Issuer::new(of, clients, clock) }
    }

    /// Who a token is of, and what that may do.
    ///
    /// # Errors
    /// `unauthorized` with what is wrong with it; `unavailable` when the issuer's keys cannot be had.
    pub(super) async fn verify(&self, token: &str) -> Result<Principal, ApiError> {
        let claims = self.issuer.verify(token).await.map_err(|disbelief| match disbelief {
            Disbelief::Refused(why) => ApiError::unauthorized(why),
            Disbelief::Unavailable(why) => ApiError::unavailable(why),
        })?;
        self.principal(&claims)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, ApiError> {
        let name = claims.get(&self.settings.name_claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| refused(format!("it has no claim {}", self.settings.name_claim)))?;
        let has = texts(find(claims, &self.settings.role_claim));
        // A text is words, as `scope` is; what stands in a list is whole.
        let text = find(claims, &self.settings.role_claim).and_then(Value::as_str);
        let words: Vec<&str> = text.into_iter().flat_map(str::split_whitespace).collect();
        let own = self.settings.account_claim.as_ref().map(|claim| texts(find(claims, claim)));
        let granted = self
            .settings
            .roles
            .iter()
            .filter(|role| has.contains(&role.value.as_str()) || words.contains(&role.value.as_str()));
        let grants = granted.flat_map(|role| grants(role, own.as_deref())).collect();
        // Whatever an issuer puts into a name, it stays one word of one line of the record.
        let name: String = name.chars().filter(|c| !c.is_control() && !c.is_whitespace()).take(200).collect();
        Ok(Principal { name: format!("oidc:{name}"), grants })
    }
}

/// What a role of the file gives to somebody of these accounts.
fn grants(role: &RoleSettings, own: Option<&[&str]>) -> Vec<Grant> {
    let grant = |account: Option<String>| Grant { role: role.role, account };
    match (role.account.as_deref(), own) {
        (Some("*"), _) | (None, None) => vec![grant(None)],
        (Some(account), _) => vec![grant(Some(account.to_owned()))],
        (None, Some(own)) => {
            let names = own.iter().filter(|name| super::check_account(name).is_ok());
            names.map(|name| grant(Some((*name).to_owned()))).collect()
        }
    }
}

/// A claim by its name, or by the names of objects that it is within.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        find(claims.get(first)?.as_object()?, rest)
    })
}
