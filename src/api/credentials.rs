//! The one way to a credential: every way in goes through here, and every right is checked here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use super::Api;
use super::credential::{Common, Condition, Credential, Input, Patch, TagsPatch, check_id, expiry_warning, slug};
use super::engine::{TestReport, TokenLife, WriteError};
use super::error::ApiError;
use super::filter::Filter;
use super::json::{self, Confidential};
use super::kinds;
use super::principal::Principal;
use crate::base::{AuditEvent, Secret, SecretRef};
use crate::route::DEFAULT_ACCOUNT;
use crate::scheme::{Kind, SealError, Sealed, Stored, seal};
use crate::store::{BindingRecord, CredentialRecord, NewCredential, Role, StoreError};

/// What is read from the store at once.
const BATCH: usize = 500;
/// As often as somebody else may be quicker before a change is given up.
const ATTEMPTS: usize = 5;
/// As many ids as are tried for one name.
const NAMESAKES: usize = 1000;

/// The credentials of one account, as one principal may see and change them.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    api: &'a Api,
    principal: &'a Principal,
    account: &'a str,
}

/// Which credentials to list.
#[derive(Debug, Clone, Default)]
pub struct Page<'f> {
    /// Those whose id comes after this one.
    pub after: Option<String>,
    /// So many at most.
    pub limit: usize,
    /// Those that it matches.
    pub filter: Option<&'f Filter>,
    /// Those that were removed, too.
    pub removed: bool,
}

/// Some of the credentials.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// By id.
    pub credentials: Vec<Credential>,
    /// Where the next page begins, if there is more.
    pub next: Option<String>,
}

/// How a credential is used.
#[derive(Debug, Clone, Default)]
pub struct UsageReport {
    /// How often, over all processes.
    pub count: u64,
    /// When last.
    pub last_used: Option<SystemTime>,
    /// By whom.
    pub last_caller: Option<String>,
    /// Its tokens that live in this process.
    pub tokens: Vec<TokenLife>,
    /// When the secret itself ends.
    pub expires_at: Option<SystemTime>,
    /// What to tell people about that.
    pub warning: Option<String>,
}

impl<'a> Credentials<'a> {
    /// For somebody who may see this account.
    pub(super) fn new(api: &'a Api, principal: &'a Principal, account: &'a str) -> Result<Self, ApiError> {
        super::principal::check_account(account)?;
        principal.may(Role::Viewer, account)?;
        Ok(Self { api, principal, account })
    }

    /// The account.
    pub fn account(&self) -> &'a str {
        self.account
    }

    fn event(&self, action: &'static str, id: &str) -> AuditEvent {
        AuditEvent::new(action, self.account, "ok").of(id).by(&self.principal.name)
    }

    fn declared(&self, id: &str) -> Option<Credential> {
        self.api.engine.declared(self.account).into_iter().find(|declared| declared.id == id).map(Into::into)
    }

    /// Refuses a change of what the configuration file declares.
    fn not_declared(&self, id: &str) -> Result<(), ApiError> {
        if self.account == DEFAULT_ACCOUNT && self.declared(id).is_some() {
            return Err(ApiError::conflict(format!(
                "the configuration file declares the credential {id}: change it there, or take it out there first"
            )));
        }
        Ok(())
    }

    fn unknown(&self, id: &str) -> ApiError {
        ApiError::not_found(format!("credential {id} in the account {}", self.account))
    }

    /// The present version in the store.
    async fn present(&self, id: &str) -> Result<CredentialRecord, ApiError> {
        self.api.store.credential(self.account, id).await?.ok_or_else(|| self.unknown(id))
    }

    /// One credential, of the store or of the file.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn get(&self, id: &str) -> Result<Credential, ApiError> {
        match self.declared(id) {
            Some(declared) => Ok(declared),
            None => Ok(self.present(id).await?.into()),
        }
    }

    /// Changes whenever any credential of the account does.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn revision(&self) -> Result<i64, ApiError> {
        Ok(self.api.store.account_revision(self.account).await?)
    }

    /// Credentials by id, those of the file among them.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn list(&self, page: &Page<'_>) -> Result<Listed, ApiError> {
        let matches = |credential: &Credential| page.filter.is_none_or(|filter| filter.matches(credential));
        let mut declared: Vec<Credential> =
            self.api.engine.declared(self.account).into_iter().map(Into::into).collect();
        declared.retain(|credential| page.after.as_deref().is_none_or(|after| credential.id.as_str() > after));
        declared.sort_by(|one, two| two.id.cmp(&one.id));
        let mut listed = Listed::default();
        let mut after = page.after.clone();
        loop {
            // One more than fits tells whether there is more.
            let wanted =
                if page.filter.is_some() { BATCH } else { (page.limit - listed.credentials.len() + 1).min(BATCH) };
            let records = self.api.store.credentials(self.account, after.as_deref(), wanted, page.removed).await?;
            let last = records.len() < wanted;
            after = records.last().map(|record| record.id.clone());
            let mut batch: Vec<Credential> = Vec::with_capacity(records.len());
            for record in records {
                while declared.last().is_some_and(|first| first.id <= record.id) {
                    batch.extend(declared.pop());
                }
                // What the file declares stands before what the store has of the same id.
                if batch.last().is_none_or(|before| before.id != record.id) {
                    batch.push(record.into());
                }
            }
            if last {
                batch.extend(declared.drain(..).rev());
            }
            for credential in batch.into_iter().filter(matches) {
                if listed.credentials.len() == page.limit {
                    listed.next = listed.credentials.last().map(|last| last.id.clone());
                    return Ok(listed);
                }
                listed.credentials.push(credential);
            }
            if last {
                return Ok(listed);
            }
        }
    }

    /// A new credential.
    ///
    /// # Errors
    /// `conflict` when there is one of that id; what is wrong with it.
    pub async fn create(&self, input: Input) -> Result<Credential, ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        let explicit = input.id.is_some();
        let wanted = match &input.id {
            Some(id) => id.clone(),
            None => slug(input.name.as_deref().ok_or_else(|| {
                ApiError::unprocessable("name", "a credential has a name, or an id that is its name")
            })?),
        };
        check_id(&wanted)?;
        let new = self.prepare(&wanted, input, None).await?;
        for number in 1..=NAMESAKES {
            let id = if number == 1 { wanted.clone() } else { format!("{wanted}-{number}") };
            if !explicit && (self.declared(&id).is_some() || !self.versions_of(&id).await?.is_empty()) {
                continue;
            }
            self.not_declared(&id)?;
            if explicit && self.api.store.credential(self.account, &id).await?.is_some() {
                return Err(StoreError::Exists(format!("the credential {id}")).into());
            }
            let event = self.event("credential.create", &id).fact("scheme", new.scheme.clone());
            let event = self.api.change(event).await?;
            match self.api.store.create_credential(self.account, &id, new.clone(), &self.principal.actor()).await {
                Err(StoreError::Exists(_)) if !explicit => event.undone("conflict"),
                Err(error) => return Err(event.failed(error)),
                Ok(record) => {
                    self.api.engine.applied().await;
                    return Ok(record.into());
                }
            }
        }
        Err(ApiError::conflict(format!("there are {NAMESAKES} credentials of that name; give an `id`")))
    }

    async fn versions_of(&self, id: &str) -> Result<Vec<CredentialRecord>, ApiError> {
        Ok(self.api.store.credential_versions(self.account, id).await?)
    }

    /// The whole content anew; says whether it is a new credential.
    ///
    /// # Errors
    /// What is wrong with it; `precondition`; `conflict`.
    pub async fn replace(&self, id: &str, mut input: Input, on: Condition) -> Result<(Credential, bool), ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        check_id(id)?;
        self.not_declared(id)?;
        if input.id.as_deref().is_some_and(|own| own != id) {
            return Err(ApiError::unprocessable(
                "id",
                "an id never changes; leave it out, or repeat that of the address",
            ));
        }
        input.id = Some(id.to_owned());
        let before = self.api.store.credential(self.account, id).await?;
        let Some(before) = before else {
            if matches!(on, Condition::Version(_)) {
                return Err(ApiError::precondition(format!("there is no credential {id}")));
            }
            return Ok((self.create(input).await?, true));
        };
        met(on, &before)?;
        let new = self.prepare(id, input, Some(&before)).await?;
        Ok((self.write(&before, new).await?, false))
    }

    /// Some of the content anew. A change that changes nothing makes no version.
    ///
    /// # Errors
    /// What is wrong with it; `precondition`; `not_found`.
    pub async fn patch(&self, id: &str, patch: &Patch, on: Condition) -> Result<Credential, ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        self.not_declared(id)?;
        let mut attempt = 1;
        loop {
            let before = self.present(id).await?;
            met(on, &before)?;
            let input = patched(&before, patch)?;
            let new = self.prepare(id, input, Some(&before)).await?;
            match self.write(&before, new).await {
                Err(error)
                    if error.kind == super::ErrorKind::Conflict && on == Condition::None && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn write(&self, before: &CredentialRecord, new: NewCredential) -> Result<Credential, ApiError> {
        if new.changed_fields.is_empty() {
            return Ok(before.clone().into());
        }
        let event = self.event("credential.update", &before.id).fact("fields", new.changed_fields.join(" "));
        let event = self.api.change(event).await?;
        let actor = self.principal.actor();
        let written = self.api.store.update_credential(self.account, &before.id, before.version, new, &actor).await;
        let record = written.map_err(|error| event.failed(error))?;
        self.api.engine.applied().await;
        Ok(record.into())
    }

    /// Removes a credential; it can be restored.
    ///
    /// # Errors
    /// `not_found`; `precondition`.
    pub async fn remove(&self, id: &str, on: Condition) -> Result<(), ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        self.not_declared(id)?;
        let before = self.present(id).await?;
        met(on, &before)?;
        let event = self.api.change(self.event("credential.remove", id)).await?;
        let removed = self.api.store.remove_credential(self.account, id, &self.principal.actor()).await;
        removed.map_err(|error| event.failed(error))?;
        self.api.engine.applied().await;
        Ok(())
    }

    /// Every version, the newest first, tombstones included.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn versions(&self, id: &str) -> Result<Vec<Credential>, ApiError> {
        let versions = self.versions_of(id).await?;
        if versions.is_empty() {
            return match self.declared(id) {
                Some(declared) => Ok(vec![declared]),
                None => Err(self.unknown(id)),
            };
        }
        Ok(versions.into_iter().map(Into::into).collect())
    }

    /// The content of an earlier version as a new one: of the one before the present one if none is named, or of the one
    /// that was removed.
    ///
    /// # Errors
    /// `not_found`; what is wrong with it today.
    pub async fn restore(&self, id: &str, version: Option<i64>) -> Result<Credential, ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        self.not_declared(id)?;
        let versions = self.versions_of(id).await?;
        if versions.is_empty() {
            return Err(self.unknown(id));
        }
        let wanted =
            |record: &&CredentialRecord| !record.removed && version.is_none_or(|wanted| record.version == wanted);
        let earlier = versions.iter().skip(1).find(wanted).ok_or_else(|| match version {
            Some(version) => ApiError::not_found(format!("earlier version {version} of the credential {id}")),
            None => ApiError::not_found(format!("earlier version of the credential {id}")),
        })?;
        // What was right then need not be today: a store that was closed, a host that no scheme names any more.
        let input = Input {
            id: Some(id.to_owned()),
            name: Some(earlier.name.clone()),
            description: earlier.description.clone(),
            scheme: earlier.scheme.clone(),
            hosts: earlier.hosts.clone(),
            tags: earlier.tags.clone(),
            enabled: earlier.enabled,
            expires_at: earlier.expires_at,
            settings: Confidential::new(earlier.settings.clone()),
            extra: earlier.extra.clone(),
        };
        let present = versions.first().is_some_and(|now| !now.removed && is_cleartext(&now.settings));
        if is_cleartext(&earlier.settings) && !present {
            self.principal.may(Role::Admin, self.account)?;
        }
        self.prepare(id, input, Some(earlier)).await?;
        let event = self.event("credential.restore", id).fact("version", earlier.version.to_string());
        let event = self.api.change(event).await?;
        let actor = self.principal.actor();
        let restored = self.api.store.restore_credential(self.account, id, Some(earlier.version), &actor).await;
        let record = restored.map_err(|error| event.failed(error))?;
        self.api.engine.applied().await;
        Ok(record.into())
    }

    /// Uses it for real, as far as that harms nobody, and says what the provider answered.
    ///
    /// # Errors
    /// `not_found`; `unprocessable` for what signs nothing.
    pub async fn test(&self, id: &str) -> Result<TestReport, ApiError> {
        self.principal.may(Role::Manager, self.account)?;
        let credential = self.get(id).await?;
        if kinds::find(&credential.scheme).is_some_and(kinds::is_kept_only) {
            return Err(ApiError::unprocessable("scheme", "an ssh key signs no HTTP request, so nobody can be asked"));
        }
        if !credential.enabled {
            return Err(ApiError::conflict(format!("the credential {id} is switched off: `enabled` is false")));
        }
        let _recorded = self.api.change(self.event("credential.test", id)).await?;
        self.api.engine.test(self.account, id).await.ok_or_else(|| self.unknown(id))
    }

    /// How it is used.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn usage(&self, id: &str) -> Result<UsageReport, ApiError> {
        let credential = self.get(id).await?;
        let written = self.api.store.usage(self.account, id).await?;
        let counted = self.api.engine.uses(self.account, id);
        let mut report = UsageReport {
            tokens: self.api.engine.tokens(self.account, id),
            expires_at: credential.expires_at,
            warning: expiry_warning(credential.expires_at, self.api.deps.clock.now()),
            ..UsageReport::default()
        };
        if let Some(usage) = written {
            report.count = u64::try_from(usage.count).unwrap_or_default();
            report.last_used = Some(usage.last_used);
            report.last_caller = Some(usage.last_caller);
        }
        if let Some(uses) = counted {
            report.count = report.count.saturating_add(uses.count);
            if report.last_used.is_none_or(|last| last <= uses.last) {
                report.last_used = Some(uses.last);
                report.last_caller = Some(uses.caller.to_string());
            }
        }
        Ok(report)
    }

    /// The bindings that name it.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn bindings_of(&self, id: &str) -> Result<Vec<BindingRecord>, ApiError> {
        let bindings = self.api.store.bindings(self.account).await?;
        Ok(bindings.into_iter().filter(|binding| binding.credential == id).collect())
    }

    /// Judges what is about to be written, and takes its secrets out of it.
    async fn prepare(
        &self,
        id: &str,
        input: Input,
        before: Option<&CredentialRecord>,
    ) -> Result<NewCredential, ApiError> {
        let Input { id: _, name, description, scheme, hosts, tags, enabled, expires_at, settings, extra } = input;
        let Some(kind) = kinds::find(&scheme) else {
            let names: Vec<_> = kinds::all().map(|kind| kind.name).collect();
            return Err(ApiError::unprocessable("scheme", format!("unknown scheme; there are {}", names.join(", "))));
        };
        let common = Common::check(name.as_deref().unwrap_or(id), description.as_deref(), &hosts, &tags)?;
        if !settings.expose().is_object() {
            return Err(ApiError::unprocessable("settings", "an object with the keys of the scheme is expected"));
        }
        let same = before.filter(|before| before.scheme == kind.name);
        let stored = match same {
            Some(before) => Some(self.api.store.secrets(before).await?),
            None => None,
        };
        let kept = json::marks(settings.expose());
        let was = same.zip(stored.as_ref()).map(|(before, secrets)| Stored { settings: &before.settings, secrets });
        let sealed = seal(kind, settings.take(), was.as_ref()).map_err(|error| refused(error, &kept))?;
        if let Some(before) = same
            && !kept.is_empty()
            && leads_elsewhere(kind, &sealed, before, &common.hosts)
        {
            return Err(leading(&["hosts".to_owned()], "", &kept));
        }
        self.judge(kind, &sealed, before, &common.hosts).await?;
        let mut new = NewCredential {
            name: common.name,
            description: common.description,
            scheme: kind.name.to_owned(),
            hosts: common.hosts,
            tags: common.tags,
            enabled,
            settings: sealed.settings,
            extra,
            expires_at: expires_at.map(to_milliseconds),
            secrets: sealed.secrets,
            changed_fields: Vec::new(),
        };
        if let Some(before) = before {
            new.changed_fields = changed(before, &new, stored.as_ref());
        }
        Ok(new)
    }

    /// What no document can say of itself: whether a store is open, who writes it, whether it can be built.
    async fn judge(
        &self,
        kind: &'static Kind,
        sealed: &Sealed,
        before: Option<&CredentialRecord>,
        hosts: &[String],
    ) -> Result<(), ApiError> {
        for reference in sealed.draft.references() {
            if let SecretRef::Store(reference) = reference
                && !self.api.engine.store_is_open(&reference.store, self.account)
            {
                // One that is closed and one that does not exist are the same to who may not use it.
                let why = format!("the secret store {} is not open to the account {}", reference.store, self.account);
                return Err(ApiError::unprocessable("settings", why));
            }
        }
        if is_cleartext(&sealed.settings) && !before.is_some_and(|before| is_cleartext(&before.settings)) {
            self.principal.may(Role::Admin, self.account).map_err(|error| ApiError {
                path: Some("settings.allow_cleartext".into()),
                detail: format!("{}: `allow_cleartext` is an admin's to set", error.detail),
                ..error
            })?;
        }
        super::judge::content(kind, &sealed.secrets).await?;
        if kinds::is_kept_only(kind) {
            return Ok(());
        }
        let checked =
            self.api.engine.check_credential(self.account, kind, &*sealed.draft, hosts, &sealed.secrets).await;
        checked.map_err(|WriteError { path, message }| {
            let path = if path.starts_with("hosts") || path == "settings" { path } else { below("settings", &path) };
            ApiError::unprocessable(path, message)
        })
    }
}

/// Whether a condition holds.
fn met(on: Condition, before: &CredentialRecord) -> Result<(), ApiError> {
    match on {
        Condition::None => Ok(()),
        Condition::Version(version) if version == before.version => Ok(()),
        Condition::Version(_) => Err(ApiError::precondition(format!(
            "the credential {} is at version {} by now: read it again",
            before.id, before.version
        ))),
        Condition::Absent => Err(ApiError::precondition(format!("the credential {} exists already", before.id))),
    }
}

/// A record with a patch applied, as if it had been written whole.
fn patched(before: &CredentialRecord, patch: &Patch) -> Result<Input, ApiError> {
    if let Some(scheme) = &patch.scheme
        && kinds::find(scheme).is_none_or(|kind| kind.name != before.scheme)
    {
        let why = format!("it is {}; another scheme is another content: replace the whole with PUT", before.scheme);
        return Err(ApiError::unprocessable("scheme", why));
    }
    let mut settings = Confidential::new(before.settings.clone());
    if let Some(change) = &patch.settings {
        json::merge(settings.expose_mut(), change.clone().take());
    }
    let tags = match &patch.tags {
        None => before.tags.clone(),
        Some(TagsPatch::Replace(tags)) => tags.clone(),
        Some(TagsPatch::Merge(changes)) => {
            let mut tags = before.tags.clone();
            for (key, value) in changes {
                match value {
                    Some(value) => tags.insert(key.clone(), value.clone()),
                    None => tags.remove(key),
                };
            }
            tags
        }
    };
    Ok(Input {
        id: Some(before.id.clone()),
        name: Some(patch.name.clone().unwrap_or_else(|| before.name.clone())),
        description: patch.description.clone().unwrap_or_else(|| before.description.clone()),
        scheme: before.scheme.clone(),
        hosts: patch.hosts.clone().unwrap_or_else(|| before.hosts.clone()),
        tags,
        enabled: patch.enabled.unwrap_or(before.enabled),
        expires_at: patch.expires_at.unwrap_or(before.expires_at),
        settings,
        extra: patch.extra.clone().unwrap_or_else(|| before.extra.clone()),
    })
}

/// Whether secrets that are kept could go to a host that they could not go to before. Taking hosts away leads nowhere.
fn leads_elsewhere(kind: &Kind, sealed: &Sealed, before: &CredentialRecord, hosts: &[String]) -> bool {
    let own = |draft: &dyn crate::scheme::Draft| {
        draft.default_hosts().unwrap_or_else(|| kind.default_hosts.iter().map(|host| (*host).to_owned()).collect())
    };
    let earlier = || (kind.parse)(before.settings.clone()).map(|draft| own(&*draft)).unwrap_or_default();
    let from = if before.hosts.is_empty() { earlier() } else { before.hosts.clone() };
    let to = if hosts.is_empty() { own(&*sealed.draft) } else { hosts.to_vec() };
    to.iter().any(|host| !from.contains(host))
}

fn below(parent: &str, path: &str) -> String {
    if path.is_empty() || path == "." { parent.to_owned() } else { format!("{parent}.{path}") }
}

fn refused(error: SealError, kept: &[String]) -> ApiError {
    match error {
        SealError::Settings(error) | SealError::Operators(error) => {
            ApiError::unprocessable(below("settings", &error.path), error.message)
        }
        SealError::Leading(fields) => leading(&fields, "settings", kept),
    }
}

/// A change that leads a stored secret elsewhere.
fn leading(fields: &[String], parent: &str, kept: &[String]) -> ApiError {
    let names = |paths: &[String]| paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    let why =
        format!("{} decides where the secret goes; whoever changes it must give anew: {}", names(fields), names(kept));
    let first = fields.first().map(String::as_str).unwrap_or_default();
    ApiError::unprocessable(if parent.is_empty() { first.to_owned() } else { below(parent, first) }, why)
}

/// What differs, by name.
fn changed(before: &CredentialRecord, new: &NewCredential, stored: Option<&BTreeMap<String, Secret>>) -> Vec<String> {
    let mut fields = Vec::new();
    let mut note = |differs: bool, field: &str| {
        if differs {
            fields.push(field.to_owned());
        }
    };
    note(before.name != new.name, "name");
    note(before.description != new.description, "description");
    note(before.scheme != new.scheme, "scheme");
    note(before.hosts != new.hosts, "hosts");
    note(before.tags != new.tags, "tags");
    note(before.enabled != new.enabled, "enabled");
    note(before.expires_at != new.expires_at, "expires_at");
    note(before.extra != new.extra, "extra");
    let empty = serde_json::Map::new();
    let (old, now) = (before.settings.as_object().unwrap_or(&empty), new.settings.as_object().unwrap_or(&empty));
    let mut keys: Vec<&String> = old.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let of = |path: &str| path.split(['.', '[']).next() == Some(key.as_str());
        let none = BTreeMap::new();
        let one = stored.unwrap_or(&none).iter().filter(|(path, _)| of(path)).map(|(path, s)| (path, s.expose()));
        let two = new.secrets.iter().filter(|(path, _)| of(path)).map(|(path, s)| (path, s.expose()));
        note(old.get(key) != now.get(key) || !one.eq(two), &format!("settings.{key}"));
    }
    fields
}

/// As the store keeps it, so that nothing differs by being read back.
fn to_milliseconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a credential's own secrets may travel unencrypted.
fn is_cleartext(settings: &Value) -> bool {
    settings.get("allow_cleartext") == Some(&Value::Bool(true))
}
