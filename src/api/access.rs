//! Who a request is of: a management token of the file or of the store, or a token of the issuer.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::credential::Origin;
use super::error::ApiError;
use super::limits::Limits;
use super::oidc::Oidc;
use super::principal::Principal;
use super::settings::{RateLimit, Settings, Zone};
use super::tokens::TokenEntry;
use crate::base::{Deps, HttpClients, Random, Secret, Secrets};
use crate::store::Store;

/// Shorter tokens of the file can be guessed.
const SHORTEST: usize = 16;

/// What the `admin` section says, ready to be used.
#[derive(Debug)]
pub struct Access {
    tokens: HashMap<[u8; 32], Principal>,
    declared: Vec<TokenEntry>,
    oidc: Option<Oidc>,
    pub(super) limits: Limits,
    pub(super) server_names: Vec<String>,
    pub(super) allow_origins: Vec<String>,
    pub(super) zone: Zone,
    /// Tokens of the file that cannot be used, by name, with the reason.
    pub unusable: Vec<(String, String)>,
}

impl Access {
    /// Only the store's tokens, from this host.
    pub fn closed(deps: &Deps) -> Self {
        Self {
            tokens: HashMap::new(),
            declared: Vec::new(),
            oidc: None,
            limits: Limits::new(RateLimit::default(), &deps.clock),
            server_names: Vec::new(),
            allow_origins: Vec::new(),
            zone: Zone::default(),
            unusable: Vec::new(),
        }
    }

    /// What a checked section says.
    pub fn new(settings: &Settings, secrets: &Secrets, clients: &Arc<dyn HttpClients>, deps: &Deps) -> Self {
        let mut access = Self {
            oidc: settings.oidc.clone().map(|oidc| Oidc::new(oidc, Arc::clone(clients), Arc::clone(&deps.clock))),
            limits: Limits::new(settings.rate_limit, &deps.clock),
            server_names: settings.server_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            allow_origins: settings.allow_origins.clone(),
            zone: settings.zone,
            ..Self::closed(deps)
        };
        for token in &settings.tokens {
            let principal = Principal::new(format!("token:{}", token.name), token.role, token.account.clone());
            access.declared.push(TokenEntry {
                name: token.name.clone(),
                role: token.role,
                account: token.account.clone(),
                expires_at: None,
                origin: Origin::File,
            });
            let why = match secrets.field(&token.token) {
                Ok(secret) if secret.expose().len() < SHORTEST => {
                    format!("a token has {SHORTEST} bytes at least: make one with `openssl rand -base64 32`")
                }
                Ok(secret) => {
                    access.tokens.insert(sha256(secret.expose()), principal);
                    continue;
                }
                Err(error) => error.0,
            };
            access.unusable.push((token.name.clone(), why));
        }
        access
    }

    /// The tokens that the file declares.
    pub(super) fn declared(&self) -> Vec<TokenEntry> {
        self.declared.clone()
    }

    /// Whether somebody can come in without a token of the store.
    pub fn lets_somebody_in(&self) -> bool {
        !self.declared.is_empty() || self.oidc.is_some()
    }

    /// Who a request is of.
    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        store: &Store,
        deps: &Deps,
    ) -> Result<Principal, ApiError> {
        let token = bearer(headers)?;
        let digest = sha256(token.as_bytes());
        if let Some(principal) = self.tokens.get(&digest) {
            return Ok(principal.clone());
        }
        if let Some(oidc) = self.oidc.as_ref().filter(|_| token.split('.').count() == 3) {
            return oidc.verify(token).await;
        }
        let known = store.management_token(&digest).await?;
        let live = known.filter(|token| token.expires_at.is_none_or(|end| deps.clock.now() < end));
        let live = live.ok_or_else(|| ApiError::unauthorized("this token is not known, or has ended"))?;
        Ok(Principal::new(format!("token:{}", live.name), live.role, live.account))
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(ApiError::unauthorized("send a management token: Authorization: Bearer TOKEN"));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
    });
    token.ok_or_else(|| ApiError::unauthorized("send a management token: Authorization: Bearer TOKEN"))
}

/// SHA-256. Looking a digest up takes the same time whatever part of a guess is right.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// A new token: 256 random bits behind a prefix that secret scanners can look for.
pub(super) fn new_token(random: &dyn Random) -> Result<Secret, ApiError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    if !random.fill(&mut *bytes) {
        return Err(ApiError::unavailable("the system has no randomness to give"));
    }
    Ok(Secret::new(format!("cs_{}", URL_SAFE_NO_PAD.encode(*bytes))))
}

/// A short random name for one of several.
pub(super) fn new_name(random: &dyn Random) -> Result<String, ApiError> {
    let mut bytes = [0; 6];
    if !random.fill(&mut bytes) {
        return Err(ApiError::unavailable("the system has no randomness to give"));
    }
    Ok(crate::base::text::hex(&bytes))
}
