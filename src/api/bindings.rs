//! Bindings and callers of an account, and what accounts there are.

use std::time::SystemTime;

use super::Api;
use super::access::{new_name, new_token};
use super::credential::{Origin, check_id};
use super::engine::WriteError;
use super::error::ApiError;
use super::principal::{Principal, check_account};
use super::settings::is_name;
use crate::base::{AuditEvent, Secret};
use crate::route::{LOCAL, fingerprint};
use crate::store::{AuditQuery, AuditRow, BindingRecord, CallerProofRecord, Change, Role, StoreError};

/// More callers than these in one list are not written by people.
const MANY: usize = 256;

/// A caller without its tokens.
#[derive(Debug, Clone)]
pub struct CallerEntry {
    /// Its name.
    pub name: String,
    /// Where it is declared.
    pub origin: Origin,
    /// Its tokens: id, when it was made, when it ends.
    pub tokens: Vec<(String, SystemTime, Option<SystemTime>)>,
}

/// A token of a caller, told once.
#[derive(Debug)]
pub struct NewCallerToken {
    /// Its id.
    pub id: String,
    /// Itself.
    pub token: Secret,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
}

fn sees(principal: &Principal, account: &str) -> Result<(), ApiError> {
    check_account(account)?;
    principal.may(Role::Viewer, account)
}

fn manages(principal: &Principal, account: &str) -> Result<(), ApiError> {
    check_account(account)?;
    principal.may(Role::Manager, account)
}

impl Api {
    /// The accounts that somebody may see, by name.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn accounts(&self, principal: &Principal) -> Result<Vec<(String, Change)>, ApiError> {
        let mut accounts = self.store.accounts().await?;
        if let Some(own) = principal.accounts(Role::Viewer) {
            accounts.retain(|(name, _)| own.contains(&name.as_str()));
        }
        Ok(accounts)
    }

    /// The bindings of an account that the store has.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn bindings(&self, principal: &Principal, account: &str) -> Result<Vec<BindingRecord>, ApiError> {
        sees(principal, account)?;
        Ok(self.store.bindings(account).await?)
    }

    /// Creates or replaces a binding; says whether it is new.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn put_binding(&self, principal: &Principal, binding: BindingRecord) -> Result<bool, ApiError> {
        manages(principal, &binding.account)?;
        check_id(&binding.id)?;
        if binding.allow_cleartext {
            principal.may(Role::Admin, &binding.account).map_err(|error| ApiError {
                detail: format!("{}: `allow_cleartext` is an admin's to set", error.detail),
                path: Some("allow_cleartext".into()),
                ..error
            })?;
        }
        if !binding.allow_addresses.is_empty() {
            principal.may_everywhere(Role::Admin).map_err(|error| ApiError {
                detail: format!("{}: `allow_addresses` opens this host's networks", error.detail),
                path: Some("allow_addresses".into()),
                ..error
            })?;
        }
        let lists = [
            ("callers", &binding.callers),
            ("hosts", &binding.hosts),
            ("methods", &binding.methods),
            ("paths", &binding.paths),
            ("services", &binding.services),
            ("regions", &binding.regions),
            ("actions", &binding.actions),
            ("allow_addresses", &binding.allow_addresses),
        ];
        if let Some((name, _)) = lists.into_iter().find(|(_, list)| list.len() > MANY) {
            return Err(ApiError::unprocessable(name, format!("{MANY} at most")));
        }
        let checked = self.engine.check_binding(&binding).await;
        checked.map_err(|WriteError { path, message }| ApiError::unprocessable(path, message))?;
        let before = self.store.bindings(&binding.account).await?.into_iter().find(|one| one.id == binding.id);
        let event = AuditEvent::new("binding.put", &*binding.account, "ok")
            .of(&*binding.id)
            .by(&principal.name)
            .fact("credential", &*binding.credential);
        let event = self.change(event).await?;
        match self.store.put_binding(binding, &principal.actor()).await {
            Ok(()) => {}
            Err(error @ StoreError::Unknown(_)) => {
                let why = error.to_string();
                event.undone("unprocessable");
                return Err(ApiError::unprocessable("credential", why));
            }
            Err(error) => return Err(event.failed(error)),
        }
        self.engine.applied().await;
        Ok(before.is_none())
    }

    /// Removes a binding.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_binding(&self, principal: &Principal, account: &str, id: &str) -> Result<(), ApiError> {
        manages(principal, account)?;
        if !self.store.bindings(account).await?.iter().any(|binding| binding.id == id) {
            return Err(ApiError::not_found(format!("binding {id} in the account {account}")));
        }
        let event = AuditEvent::new("binding.remove", account, "ok").of(id).by(&principal.name);
        let event = self.change(event).await?;
        let removed = self.store.remove_binding(account, id, &principal.actor()).await;
        removed.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(())
    }

    /// The callers of an account, those of the file among them.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn callers(&self, principal: &Principal, account: &str) -> Result<Vec<CallerEntry>, ApiError> {
        sees(principal, account)?;
        let declared = self.engine.declared_callers(account).into_iter();
        let declared = declared.map(|name| CallerEntry { name, origin: Origin::File, tokens: Vec::new() });
        let stored = self.store.callers(account).await?.into_iter().map(|caller| CallerEntry {
            name: caller.name,
            origin: Origin::Store,
            tokens: caller.proofs.into_iter().map(|proof| (proof.id, proof.created, proof.expires_at)).collect(),
        });
        let mut callers: Vec<_> = declared.chain(stored).collect();
        callers.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(callers)
    }

    /// A caller of the store, for somebody who is about to change it.
    async fn stored_caller(&self, account: &str, name: &str) -> Result<Option<Vec<CallerProofRecord>>, ApiError> {
        if self.engine.declared_callers(account).iter().any(|declared| declared == name) {
            let why = format!("the configuration file declares the caller {name}: change it there");
            return Err(ApiError::conflict(why));
        }
        let known = self.store.callers(account).await?.into_iter().find(|caller| caller.name == name);
        Ok(known.map(|caller| caller.proofs))
    }

    fn unknown_caller(account: &str, name: &str) -> ApiError {
        ApiError::not_found(format!("caller {name} in the account {account}"))
    }

    /// A new caller with its first token.
    ///
    /// # Errors
    /// `conflict` when there is one of that name.
    pub async fn add_caller(
        &self,
        principal: &Principal,
        account: &str,
        name: &str,
        expires_at: Option<SystemTime>,
    ) -> Result<NewCallerToken, ApiError> {
        manages(principal, account)?;
        if !is_name(name) || name == LOCAL {
            let why = "a caller's name has up to 128 letters, digits, `-`, `_`, `.`, `/` and `@`, and is not `local`";
            return Err(ApiError::unprocessable("name", why));
        }
        if self.stored_caller(account, name).await?.is_some() {
            return Err(ApiError::conflict(format!("the caller {name} exists already; give it a further token")));
        }
        self.add_proof(principal, account, name, expires_at, "caller.create").await
    }

    /// A further token for a caller, so that one can be replaced without a gap.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn add_caller_token(
        &self,
        principal: &Principal,
        account: &str,
        name: &str,
        expires_at: Option<SystemTime>,
    ) -> Result<NewCallerToken, ApiError> {
        manages(principal, account)?;
        let Some(proofs) = self.stored_caller(account, name).await? else {
            return Err(Self::unknown_caller(account, name));
        };
        if proofs.len() >= MANY {
            return Err(ApiError::conflict(format!("the caller {name} has {MANY} tokens: remove some first")));
        }
        self.add_proof(principal, account, name, expires_at, "caller.token").await
    }

    async fn add_proof(
        &self,
        principal: &Principal,
        account: &str,
        name: &str,
        expires_at: Option<SystemTime>,
        action: &'static str,
    ) -> Result<NewCallerToken, ApiError> {
        self.not_ended(expires_at)?;
        let (token, id) = (new_token(&*self.deps.random)?, new_name(&*self.deps.random)?);
        let proof = CallerProofRecord {
            id: id.clone(),
            digest: fingerprint("token", token.expose()),
            created: self.deps.clock.now(),
            expires_at,
        };
        let event = AuditEvent::new(action, account, "ok").of(name).by(&principal.name).fact("token", &*id);
        let event = self.change(event).await?;
        let added = self.store.add_caller_proof(account, name, proof, &principal.actor()).await;
        added.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(NewCallerToken { id, token, expires_at })
    }

    /// Removes a caller, or one of its tokens: it is refused from the next request on.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_caller(
        &self,
        principal: &Principal,
        account: &str,
        name: &str,
        token: Option<&str>,
    ) -> Result<(), ApiError> {
        manages(principal, account)?;
        let Some(proofs) = self.stored_caller(account, name).await? else {
            return Err(Self::unknown_caller(account, name));
        };
        if let Some(token) = token.filter(|token| !proofs.iter().any(|proof| proof.id == *token)) {
            return Err(ApiError::not_found(format!("token {token} of the caller {name}")));
        }
        let event = AuditEvent::new("caller.remove", account, "ok").of(name).by(&principal.name);
        let event = token.into_iter().fold(event, |event, token| event.fact("token", token));
        let event = self.change(event).await?;
        let removed = self.store.remove_caller(account, name, token, &principal.actor()).await;
        removed.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(())
    }

    /// The audit record's rows, the newest first. An admin of some accounts names one of them.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn audit(&self, principal: &Principal, query: &AuditQuery) -> Result<Vec<AuditRow>, ApiError> {
        match &query.account {
            Some(account) => {
                check_account(account)?;
                principal.may(Role::Admin, account)?;
            }
            None => principal.may_everywhere(Role::Admin).map_err(|error| ApiError {
                detail: format!("{}: name an `account` that it has it in", error.detail),
                ..error
            })?,
        }
        Ok(self.store.audit_rows(query).await?)
    }
}
