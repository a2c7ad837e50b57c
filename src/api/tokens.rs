//! Management tokens: listed, made, removed; and the first one.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Api;
use super::access::{Access, new_token, sha256};
use super::credential::Origin;
use super::error::ApiError;
use super::principal::Principal;
use super::settings::is_name;
use crate::base::{AuditEvent, Deps, Secret};
use crate::store::{Actor, ManagementToken, Role, Store};

/// A management token without the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// In this account; in all if none is named.
    pub account: Option<String>,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
    /// Where it is declared.
    pub origin: Origin,
}

/// Whether somebody manages the tokens of an account, or of all.
fn may_manage(principal: &Principal, account: Option<&str>) -> Result<(), ApiError> {
    match account {
        Some(account) => principal.may(Role::Admin, account),
        None => principal.may_everywhere(Role::Admin),
    }
}

impl Api {
    /// The management tokens that somebody manages.
    ///
    /// # Errors
    /// `forbidden` for who manages none.
    pub async fn tokens(&self, principal: &Principal) -> Result<Vec<TokenEntry>, ApiError> {
        if principal.accounts(Role::Admin).is_some_and(|accounts| accounts.is_empty()) {
            principal.may_everywhere(Role::Admin)?;
        }
        let stored = self.store.management_tokens().await?.into_iter().map(|token| TokenEntry {
            name: token.name,
            role: token.role,
            account: token.account,
            expires_at: token.expires_at,
            origin: Origin::Store,
        });
        let mut tokens = self.access.load().declared();
        tokens.extend(stored);
        tokens.retain(|token| may_manage(principal, token.account.as_deref()).is_ok());
        Ok(tokens)
    }

    /// A new management token; the token itself is told this once.
    ///
    /// # Errors
    /// `conflict` when there is one of that name; `forbidden`.
    pub async fn add_token(&self, principal: &Principal, token: TokenEntry) -> Result<(TokenEntry, Secret), ApiError> {
        let token = TokenEntry { origin: Origin::Store, ..token };
        may_manage(principal, token.account.as_deref())?;
        if let Some(account) = &token.account {
            super::check_account(account)?;
        }
        if !is_name(&token.name) {
            let why = "a name has up to 128 letters, digits, `-`, `_`, `.`, `/` and `@`";
            return Err(ApiError::unprocessable("name", why));
        }
        self.not_ended(token.expires_at)?;
        if self.access.load().declared().iter().any(|declared| declared.name == token.name) {
            return Err(ApiError::conflict(format!("the configuration file declares the token {}", token.name)));
        }
        let secret = new_token(&*self.deps.random)?;
        let record = ManagementToken {
            name: token.name.clone(),
            digest: sha256(secret.expose()),
            role: token.role,
            account: token.account.clone(),
            expires_at: token.expires_at,
        };
        let event = AuditEvent::new("token.create", token.account.as_deref().unwrap_or_default(), "ok")
            .of(&token.name)
            .by(&principal.name)
            .fact("role", super::principal::name(token.role));
        let event = self.change(event).await?;
        let added = self.store.add_management_token(record, &principal.actor()).await;
        added.map_err(|error| event.failed(error))?;
        Ok((token, secret))
    }

    /// Removes a management token; it is refused from the next request on.
    ///
    /// # Errors
    /// `not_found`, also for one that somebody else manages; `conflict` for one of the file.
    pub async fn remove_token(&self, principal: &Principal, name: &str) -> Result<(), ApiError> {
        let known = self.tokens(principal).await?.into_iter().find(|token| token.name == name);
        let known = known.ok_or_else(|| ApiError::not_found(format!("token {name}")))?;
        if known.origin == Origin::File {
            return Err(ApiError::conflict(format!(
                "the configuration file declares the token {name}: remove it there"
            )));
        }
        let account = known.account.as_deref().unwrap_or_default();
        let event = AuditEvent::new("token.remove", account, "ok").of(name).by(&principal.name);
        let event = self.change(event).await?;
        self.store.remove_management_token(name, &principal.actor()).await.map_err(|error| event.failed(error))
    }

    /// Refuses an end that has passed.
    pub(super) fn not_ended(&self, end: Option<SystemTime>) -> Result<(), ApiError> {
        if end.is_some_and(|end| end <= self.deps.clock.now()) {
            return Err(ApiError::unprocessable("expires_at", "this time has passed"));
        }
        Ok(())
    }
}

/// The name of the token that the first start makes.
const FIRST: &str = "first";

/// Makes an admin token when nobody could come in otherwise, and says where it is: `admin-token` in this folder, 0600.
///
/// # Errors
/// Why it cannot be made or written down.
pub async fn first_token(
    store: &Store,
    access: &Access,
    folder: &Path,
    deps: &Deps,
) -> Result<Option<PathBuf>, String> {
    if access.lets_somebody_in() || !store.management_tokens().await.map_err(|error| error.to_string())?.is_empty() {
        return Ok(None);
    }
    let token = new_token(&*deps.random).map_err(|error| error.detail)?;
    let event = AuditEvent::new("token.create", "", "ok").of(FIRST).fact("role", "admin");
    deps.audit.record(event).await.map_err(|error| error.to_string())?;
    let path = folder.join("admin-token");
    let fail = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
    // Written whole, then given its name: whoever looks finds all of it or nothing.
    let new = folder.join("admin-token.new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(fail)?;
    file.write_all(token.expose()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all()).map_err(fail)?;
    // Under its name only if there is none: another process of this host may be as far.
    let placed = std::fs::hard_link(&new, &path);
    let _ = std::fs::remove_file(&new);
    match placed {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
        placed => placed.map_err(fail)?,
    }
    let record = ManagementToken {
        name: FIRST.to_owned(),
        digest: sha256(token.expose()),
        role: Role::Admin,
        account: None,
        expires_at: None,
    };
    let actor = Actor { name: "start".to_owned() };
    match store.add_management_token(record, &actor).await {
        Ok(()) => Ok(Some(path)),
        // Another process of the fleet was quicker: its token is the one.
        Err(crate::store::StoreError::Exists(_)) => {
            let _ = std::fs::remove_file(&path);
            Ok(None)
        }
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            Err(error.to_string())
        }
    }
}
