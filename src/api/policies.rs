//! Policy templates: which credentials fit, and applying them.

use std::collections::BTreeMap;

use super::Api;
use super::access::new_name;
use super::credential::check_id;
use super::engine::Declared;
use super::error::ApiError;
use super::principal::{Principal, check_account};
use crate::base::AuditEvent;
use crate::policy::{Candidate, Issue, Options, Proposal, Template, Verdicts, judge, propose, resolve};
use crate::store::{AppliedPolicy, AppliedPolicyRecord, Role};

/// More blocks than any template has.
const BLOCKS: usize = 256;
/// Of what is kept of a template.
const LARGEST: usize = 1024 * 1024;
/// Credentials that are read at once.
const BATCH: usize = 500;

/// A template that is to be applied.
#[derive(Debug, Clone, Default)]
pub struct PolicyInput {
    /// Its id; made when absent.
    pub id: Option<String>,
    /// What people call it; the template's own name when absent.
    pub name: Option<String>,
    /// What it declares.
    pub template: Template,
    /// Each block's credential; `{org_id}` and `{project_id}` are those of the account.
    pub credentials: BTreeMap<String, String>,
    /// Parameters of the template.
    pub parameters: BTreeMap<String, String>,
    /// See [`Options`].
    pub options: Options,
    /// The organization, where an account's name does not tell it.
    pub org: Option<String>,
}

/// A policy as it was applied, or as it would be.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its id; empty for one that is only looked at and brings none.
    pub id: String,
    /// What it consists of.
    pub content: AppliedPolicy,
    /// When and by whom; nothing for one that is only looked at.
    pub record: Option<AppliedPolicyRecord>,
    /// What else to know, as sentences.
    pub notes: Vec<String>,
}

/// Which credentials fit one block.
#[derive(Debug, Clone)]
pub struct BlockVerdicts {
    /// The block.
    pub block: String,
    /// What fits, and why the others do not.
    pub verdicts: Verdicts,
}

fn candidate(declared: Declared) -> Candidate {
    Candidate {
        name: declared.id.clone(),
        id: declared.id,
        scheme: declared.scheme.to_owned(),
        hosts: declared.hosts,
        tags: declared.tags,
        enabled: declared.enabled,
        removed: false,
        audience: declared.audience,
        accounts: declared.accounts,
    }
}

/// What is wrong with a template, as one sentence.
fn unread(errors: &[Issue]) -> String {
    let shown = errors.iter().map(|issue| format!("line {}, column {}: {}", issue.line, issue.column, issue.message));
    shown.collect::<Vec<_>>().join("; ")
}

/// Refuses what declares nothing.
fn check_template(template: &Template) -> Result<(), ApiError> {
    let wrong = |why: String| Err(ApiError::unprocessable("template", why));
    if template.credentials.is_empty() && !template.errors.is_empty() {
        return wrong(unread(&template.errors));
    }
    if template.credentials.is_empty() && template.unsigned.is_empty() {
        return wrong("it declares no credentials and calls nobody".into());
    }
    if template.credentials.len() > BLOCKS {
        return wrong(format!("{BLOCKS} credentials blocks at most"));
    }
    Ok(())
}

impl Api {
    /// Which credentials of an account fit each block of a template, and why each other does not. `all` drops the tags.
    ///
    /// # Errors
    /// `forbidden`; `unprocessable` for what is no template.
    pub async fn match_policy(
        &self,
        principal: &Principal,
        account: &str,
        template: &Template,
        parameters: &BTreeMap<String, String>,
        all: bool,
    ) -> Result<Vec<BlockVerdicts>, ApiError> {
        check_account(account)?;
        principal.may(Role::Viewer, account)?;
        check_template(template)?;
        let candidates = self.candidates(account).await?;
        let of = |block: &crate::policy::Block| BlockVerdicts {
            block: block.name.clone(),
            verdicts: judge(block, &candidates, parameters, template, all),
        };
        Ok(template.credentials.iter().map(of).collect())
    }

    async fn candidates(&self, account: &str) -> Result<Vec<Candidate>, ApiError> {
        let mut candidates: Vec<_> = self.engine.declared(account).into_iter().map(candidate).collect();
        let declared: Vec<String> = candidates.iter().map(|one| one.id.clone()).collect();
        let mut after: Option<String> = None;
        loop {
            let records = self.store.credentials(account, after.as_deref(), BATCH, false).await?;
            let last = records.len() < BATCH;
            after = records.last().map(|record| record.id.clone());
            // The file wins over an id.
            candidates.extend(records.iter().filter(|one| !declared.contains(&one.id)).map(Candidate::of));
            if last {
                return Ok(candidates);
            }
        }
    }

    /// What applying a template would make, without making it.
    ///
    /// # Errors
    /// As [`Api::apply_policy`].
    pub async fn propose_policy(
        &self,
        principal: &Principal,
        account: &str,
        input: &PolicyInput,
    ) -> Result<Applied, ApiError> {
        check_account(account)?;
        principal.may(Role::Manager, account)?;
        if input.options.allow_cleartext {
            principal.may(Role::Admin, account).map_err(|error| ApiError {
                detail: format!("{}: `allow_cleartext` is an admin's to set", error.detail),
                path: Some("allow_cleartext".into()),
                ..error
            })?;
        }
        if let Some(id) = &input.id {
            check_id(id)?;
            if self.store.applied_policy(account, id).await?.is_some() {
                let why = format!("the applied policy {id} exists already; what was applied is never changed");
                return Err(ApiError::conflict(why));
            }
        }
        check_template(&input.template)?;
        let mut credentials = BTreeMap::new();
        let mut selection = BTreeMap::new();
        let declared = self.engine.declared(account);
        for (block, asked) in &input.credentials {
            let id = resolve(asked, account, input.org.as_deref());
            let id = id.map_err(|why| ApiError::unprocessable(format!("credentials.{block}"), why))?;
            let of_file = declared.iter().find(|one| one.id == id).cloned().map(candidate);
            if of_file.is_some() {
                // The store's managers cannot bind it either: who may use it where is written in the file.
                principal.may_everywhere(Role::Admin).map_err(|error| ApiError {
                    detail: format!(
                        "{}: the configuration file declares {id}, which only an admin lends to runs",
                        error.detail
                    ),
                    path: Some(format!("credentials.{block}")),
                    ..error
                })?;
            }
            let found = match of_file {
                Some(found) => Some(found),
                None => self.store.credential(account, &id).await?.as_ref().map(Candidate::of),
            };
            selection.insert(block.clone(), found);
            credentials.insert(block.clone(), id);
        }
        let proposed = propose(&input.template, &selection, &input.parameters, input.options);
        let Proposal { bindings, passages, mut notes } = proposed.map_err(|problems| {
            let path = match &problems[..] {
                [one] => one.block.as_ref().map(|block| format!("credentials.{block}")),
                _ => None,
            };
            let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            ApiError::unprocessable(path.unwrap_or_else(|| "credentials".into()), why)
        })?;
        if self.engine.lets_anybody_in() {
            notes.push(
                "this is the first policy: from now on whoever calls, in whatever account, has to prove who it is, since a \
                 run could leave that out (listeners with `allow_anonymous` excepted)"
                    .to_owned(),
            );
        }
        let template = serde_json::to_value(&input.template).unwrap_or_default();
        if template.to_string().len() > LARGEST {
            return Err(ApiError::unprocessable("template", "it says more of credentials than any policy does"));
        }
        let own = input.template.name.clone();
        let name = input.name.clone().or(own).or_else(|| input.id.clone()).unwrap_or_else(|| "policy".into());
        if name.trim().is_empty() || name.chars().count() > 256 {
            return Err(ApiError::unprocessable("name", "from 1 to 256 characters"));
        }
        let asked = if credentials == input.credentials { BTreeMap::new() } else { input.credentials.clone() };
        let parameters = input.parameters.clone();
        let loose = input.options.loose;
        let content = AppliedPolicy { name, template, credentials, asked, parameters, loose, bindings, passages };
        Ok(Applied { id: input.id.clone().unwrap_or_default(), content, record: None, notes })
    }

    /// Applies a template to an account. What was applied is never changed: another is applied in its place.
    ///
    /// # Errors
    /// `unprocessable` for a selection that cannot work, naming why; `conflict` when there is, or was, one of that id.
    pub async fn apply_policy(
        &self,
        principal: &Principal,
        account: &str,
        input: &PolicyInput,
    ) -> Result<Applied, ApiError> {
        let applied = self.apply_unfollowed(principal, account, input).await?;
        self.engine.applied().await;
        Ok(applied)
    }

    /// Applies a template to many accounts, each for itself; what came of each.
    pub async fn apply_to_many(
        &self,
        principal: &Principal,
        accounts: Vec<String>,
        input: &PolicyInput,
        dry_run: bool,
    ) -> Vec<(String, Result<Applied, ApiError>)> {
        let mut results: Vec<(String, Result<Applied, ApiError>)> = Vec::new();
        for account in accounts {
            if results.iter().any(|(known, _)| *known == account) {
                continue;
            }
            let done = match dry_run {
                true => self.propose_policy(principal, &account, input).await,
                false => self.apply_unfollowed(principal, &account, input).await,
            };
            results.push((account, done));
        }
        if !dry_run {
            self.engine.applied().await;
        }
        results
    }

    async fn apply_unfollowed(
        &self,
        principal: &Principal,
        account: &str,
        input: &PolicyInput,
    ) -> Result<Applied, ApiError> {
        let mut applied = self.propose_policy(principal, account, input).await?;
        if applied.id.is_empty() {
            applied.id = new_name(&*self.deps.random)?;
        }
        let event = AuditEvent::new("policy.apply", account, "ok").of(&*applied.id).by(&principal.name);
        let pairs = applied.content.credentials.iter().map(|(block, id)| format!("{block}={id}"));
        let event = event.fact("credentials", pairs.collect::<Vec<_>>().join(","));
        let event = self.change(event).await?;
        let written = self.store.apply_policy(account, &applied.id, applied.content.clone(), &principal.actor()).await;
        applied.record = Some(written.map_err(|error| event.failed(error))?);
        Ok(applied)
    }

    /// The applied policies of an account.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn applied_policies(
        &self,
        principal: &Principal,
        account: &str,
    ) -> Result<Vec<AppliedPolicyRecord>, ApiError> {
        check_account(account)?;
        principal.may(Role::Viewer, account)?;
        Ok(self.store.applied_policies(account).await?)
    }

    /// One applied policy.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn applied_policy(
        &self,
        principal: &Principal,
        account: &str,
        id: &str,
    ) -> Result<AppliedPolicyRecord, ApiError> {
        check_account(account)?;
        principal.may(Role::Viewer, account)?;
        let found = self.store.applied_policy(account, id).await?;
        found.ok_or_else(|| ApiError::not_found(format!("applied policy {id} in the account {account}")))
    }

    /// Removes an applied policy; its runs end with it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_applied_policy(&self, principal: &Principal, account: &str, id: &str) -> Result<(), ApiError> {
        self.applied_policy(principal, account, id).await?;
        principal.may(Role::Manager, account)?;
        let event = AuditEvent::new("policy.remove", account, "ok").of(id).by(&principal.name);
        let event = self.change(event).await?;
        let removed = self.store.remove_applied_policy(account, id, &principal.actor()).await;
        removed.map_err(|error| event.failed(error))?;
        self.engine.applied().await;
        Ok(())
    }
}
