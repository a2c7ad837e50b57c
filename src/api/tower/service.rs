//! What Tower's clients ask for, done by the service that all ways in share: rights, secrets and the record are its matter.

use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use serde_json::Value;

use super::super::json::Confidential;
use super::super::{
    Api, ApiError, Condition, Credential, Credentials, ErrorKind, Input, Origin, Page, Patch, Principal, Tested,
};
use super::Wrong;
use super::address::host;
use super::ids::candidates;
use super::keys::{Keys, unknown};
use super::map::{About, Mapped, map};
use super::provider::Provider;
use super::shown::{Kept, Observed, provider, shown};
use super::wire::{TowerConflict, TowerCredentials, TowerStatus, TowerValidation};
use crate::base::text::hex;
use crate::scheme::Introduction;

/// What is read at once while everything is listed.
const BATCH: usize = 1000;
/// As many validations and trust policies as are remembered.
const REMEMBERED: u64 = 10_000;
/// For as long a trust policy is shown before it is asked for again: what it says changes with the host's own identity.
const SNIPPET: Duration = Duration::from_secs(600);
/// As long as a description waits for the account that a role must trust.
const PATIENCE: Duration = Duration::from_secs(3);
/// As often as somebody else may be quicker before a change is given up.
const ATTEMPTS: usize = 5;

/// What may be about a message of Tower's.
const MESSAGE: usize = 4096;

/// One version of a credential.
type Version = (String, String, i64);

/// What is remembered of versions of credentials, by this process alone.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    observed: Cache<Version, Observed>,
    snippets: Cache<Version, String>,
}

impl Default for Memory {
    fn default() -> Self {
        let snippets = Cache::builder().max_capacity(REMEMBERED).time_to_live(SNIPPET).build();
        Self { observed: Cache::new(REMEMBERED), snippets }
    }
}

/// Tower's way in.
#[derive(Debug, Clone)]
pub(super) struct Tower {
    api: Api,
    memory: Memory,
}

/// A body as it came in.
#[derive(Debug)]
pub(super) struct Spec {
    id: Option<String>,
    name: Option<String>,
    description: Option<String>,
    provider: Option<Provider>,
    category: Option<String>,
    base_url: Option<String>,
    keys: Keys,
}

impl Spec {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it; never a value of a key.
    pub(super) fn read(mut body: Confidential) -> Result<Self, Wrong> {
        const WANTED: &str =
            "an object, such as { \"credentials\": { \"name\": …, \"provider\": …, \"keys\": { … } } }";
        let outer = body.expose_mut().as_object_mut().ok_or_else(|| Wrong::at("", WANTED))?;
        // What stands in the envelope, or without one.
        let bare = !outer.contains_key("credentials") && (outer.contains_key("name") || outer.contains_key("provider"));
        let inner = if bare { Some(outer) } else { outer.get_mut("credentials").and_then(Value::as_object_mut) };
        let credentials = inner.ok_or_else(|| Wrong::at("credentials", WANTED))?;
        let (keys, discriminator) = Keys::take(credentials)?;
        let text = |names: [&str; 2], most: usize| {
            let value = names.into_iter().find_map(|name| credentials.get(name));
            match value {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if text.chars().count() <= most => Ok(Some(text.clone())),
                Some(Value::String(_)) => Err(Wrong::at(names[0], format!("at most {most} characters"))),
                Some(_) => Err(Wrong::at(names[0], "text")),
            }
        };
        let named = text(["provider", "provider"], 20)?.filter(|name| !name.is_empty());
        let named =
            named.map(|name| Provider::parse(&name).ok_or_else(|| Wrong::at("provider", unknown()))).transpose()?;
        if let (Some(named), Some(discriminator)) = (named, discriminator)
            && named != discriminator
        {
            let why = format!("the credentials are of {} and the keys of {}", named.name(), discriminator.name());
            return Err(Wrong::at("keys.discriminator", why));
        }
        let base_url = text(["baseUrl", "base_url"], 200)?;
        if let Some(address) = base_url.as_deref().filter(|address| !address.trim().is_empty()) {
            host(address).map_err(|why| Wrong::at("baseUrl", why))?;
        }
        Ok(Self {
            id: text(["id", "id"], 128)?,
            name: text(["name", "name"], 256)?,
            description: text(["description", "description"], 1000)?,
            category: text(["category", "category"], 20)?,
            base_url,
            provider: named.or(discriminator),
            keys,
        })
    }
}

/// The rule of Tower's own forms.
fn check_name(name: &str) -> Result<(), ApiError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain && (2..=100).contains(&name.len()) {
        return Ok(());
    }
    Err(wrong(Wrong::at("name", "a name has 2 to 100 letters, digits, `_` and `-`")))
}

fn wrong(wrong: Wrong) -> ApiError {
    ApiError { path: (!wrong.path.is_empty()).then_some(wrong.path), ..ApiError::bad_request(wrong.message) }
}

/// An error in the words of Tower's keys.
fn in_towers_words(error: ApiError, provider: Provider) -> ApiError {
    let mut error = error;
    for field in provider.fields() {
        for at in field.at {
            error.detail = error.detail.replace(&format!("`{at}`"), &format!("`{}`", field.name));
        }
    }
    if let Some(path) = &error.path {
        let own = path.strip_prefix("settings").map(|path| path.trim_start_matches('.'));
        let field = own.and_then(|own| provider.fields().iter().find(|field| field.at.contains(&own)));
        error.path = match (field, own) {
            (Some(field), _) => Some(format!("keys.{}", field.name)),
            (None, Some(_)) => Some("keys".to_owned()),
            (None, None) if path.starts_with("hosts") => Some("baseUrl".to_owned()),
            (None, None) => Some(path.clone()),
        };
    }
    error
}

impl Tower {
    pub(super) fn new(api: Api, memory: Memory) -> Self {
        Self { api, memory }
    }

    /// Every credential that Tower has a provider for, by name.
    pub(super) async fn list(&self, principal: &Principal, account: &str) -> Result<Vec<TowerCredentials>, ApiError> {
        let service = self.api.credentials(principal, account)?;
        let mut found = Vec::new();
        for credential in everything(&service).await? {
            if provider(&credential).is_none() {
                continue;
            }
            let last_used = self.last_used(account, &credential).await?;
            found.extend(shown(&credential, last_used, self.observed(&credential).as_ref()));
        }
        found.sort_by(|one, two| one.name.cmp(&two.name).then_with(|| one.id.cmp(&two.id)));
        Ok(found)
    }

    /// One of them, with what to tell the owner of a role that it assumes.
    pub(super) async fn describe(
        &self,
        principal: &Principal,
        account: &str,
        id: &str,
    ) -> Result<TowerCredentials, ApiError> {
        let service = self.api.credentials(principal, account)?;
        let credential = known(&service, id).await?;
        let last_used = self.last_used(account, &credential).await?;
        let described = shown(&credential, last_used, self.observed(&credential).as_ref());
        let mut described = described.ok_or_else(|| ApiError::not_found(id))?;
        if credential.scheme == "aws_sts" {
            described.setup_snippet = self.snippet(&credential).await;
        }
        Ok(described)
    }

    /// A new credential: its id.
    pub(super) async fn create(
        &self,
        principal: &Principal,
        account: &str,
        spec: Spec,
        use_external_id: Option<bool>,
    ) -> Result<String, ApiError> {
        let service = self.api.credentials(principal, account)?;
        let Spec { id: _, name, description, provider, category, base_url, mut keys } = spec;
        let name = name.ok_or_else(|| wrong(Wrong::at("name", "a name is needed")))?;
        check_name(&name)?;
        let provider = provider.ok_or_else(|| wrong(Wrong::at("provider", unknown())))?;
        let base_url = base_url.filter(|url| !url.trim().is_empty());
        let external_id = self.external_id(provider, use_external_id, &mut keys)?;
        let mapped = mapped(keys, provider, base_url.clone(), external_id, None).await?;
        if everything(&service).await?.iter().any(|credential| credential.name == name) {
            return Err(taken(&name));
        }
        let Mapped { scheme, hosts, settings, kept } = mapped;
        let kept = Kept { provider: Some(provider), category, base_url, keys: kept };
        let mut input = Input::new(scheme, Value::Null);
        input.name = Some(name.clone());
        input.description = description;
        input.hosts = hosts;
        input.tags.insert("provider".into(), provider.name().to_owned());
        input.settings = settings;
        input.extra = kept.into_extra(&Value::Null);
        for id in candidates(&name, self.salt()?) {
            match service.get(&id).await {
                // Whoever was quicker with the same name met this id as well.
                Ok(other) if other.name == name => return Err(taken(&name)),
                Ok(_) => continue,
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match service.create(Input { id: Some(id.clone()), ..input.clone() }).await {
                Ok(created) => return Ok(created.id),
                Err(error) if error.kind == ErrorKind::Conflict => {
                    if service.get(&id).await.is_ok_and(|other| other.name == name) {
                        return Err(taken(&name));
                    }
                }
                Err(error) => return Err(in_towers_words(error, provider)),
            }
        }
        Err(ApiError::conflict("no id is left for that name: take another"))
    }

    /// A change: what is left out stays, secrets too.
    pub(super) async fn update(
        &self,
        principal: &Principal,
        account: &str,
        id: &str,
        spec: Spec,
        use_external_id: Option<bool>,
    ) -> Result<(), ApiError> {
        let service = self.api.credentials(principal, account)?;
        let before = known(&service, id).await?;
        let own = provider(&before).ok_or_else(|| ApiError::not_found(id))?;
        if spec.id.as_deref().is_some_and(|own| !own.is_empty() && own != id) {
            return Err(wrong(Wrong::at("id", "an id never changes: repeat that of the path, or leave it out")));
        }
        if spec.provider.is_some_and(|provider| provider != own) {
            let why = format!("a provider never changes, and this one is {}: create another credential", own.name());
            return Err(wrong(Wrong::at("provider", why)));
        }
        if let Some(name) = spec.name.as_deref().filter(|name| **name != *before.name) {
            check_name(name)?;
            if everything(&service).await?.iter().any(|credential| credential.name == name) {
                return Err(taken(name));
            }
        }
        let outcome = self.written(&service, before, own, spec, use_external_id).await;
        outcome.map_err(|error| in_towers_words(error, own))
    }

    async fn written(
        &self,
        service: &Credentials<'_>,
        before: Credential,
        provider: Provider,
        spec: Spec,
        use_external_id: Option<bool>,
    ) -> Result<(), ApiError> {
        let Spec { id: _, name, description, provider: _, category, base_url, mut keys } = spec;
        let kept = Kept::of(&before);
        let touches = keys.are_given(provider) || base_url.is_some() || use_external_id.is_some();
        if !touches || before.origin == Origin::File {
            let extra = category.map(|category| Kept { category: Some(category), ..kept }.into_extra(&before.extra));
            let patch = Patch { name, description: description.map(Some), extra, ..Patch::default() };
            return service.patch(&before.id, &patch, Condition::None).await.map(|_| ());
        }
        if kept.provider.is_none() {
            let why =
                "these were not made by a client of Tower's: their keys and address are changed where they were made";
            return Err(wrong(Wrong::at("keys", why)));
        }
        let (given, anew) = (keys.are_given(provider), keys.give_a_secret(provider));
        let earlier = match kept.base_url.clone() {
            _ if provider == Provider::Ssh => None,
            earlier => {
                let mut keys = Keys::default();
                keys.complete(provider, &before.settings, &kept.keys);
                let about = Stored { username: username(&kept) };
                mapped(keys, provider, earlier, None, Some(about)).await.ok()
            }
        };
        keys.complete(provider, &before.settings, &kept.keys);
        let base_url = base_url.or(kept.base_url.clone()).filter(|url| !url.trim().is_empty());
        let external_id = self.external_id(provider, use_external_id, &mut keys)?;
        let now = if provider == Provider::Ssh && !given {
            Mapped::stored("ssh", before.settings.clone(), kept.keys.clone())
        } else {
            mapped(keys, provider, base_url.clone(), external_id, Some(Stored { username: username(&kept) })).await?
        };
        let Mapped { scheme, hosts, settings, kept: keys } = now;
        // Hosts that were narrowed since stay, unless what they follow from is another.
        let hosts = if earlier.is_some_and(|earlier| earlier.hosts == hosts) { before.hosts.clone() } else { hosts };
        let category = category.or(kept.category);
        let input = Input {
            id: None,
            name: Some(name.unwrap_or_else(|| before.name.clone())),
            description: description.or_else(|| before.description.clone()),
            scheme: scheme.to_owned(),
            hosts,
            tags: before.tags.clone(),
            enabled: before.enabled,
            expires_at: before.expires_at.filter(|_| !anew),
            settings: if scheme == before.scheme { overlaid(&before.settings, provider, settings) } else { settings },
            extra: Kept { provider: Some(provider), category, base_url, keys }.into_extra(&before.extra),
        };
        let mut version = before.version;
        for _ in 0..ATTEMPTS {
            match service.replace(&before.id, input.clone(), Condition::Version(version)).await {
                Err(error) if matches!(error.kind, ErrorKind::Precondition | ErrorKind::Conflict) => {
                    // Only what nobody else touched meanwhile may be written over.
                    let present = service.get(&before.id).await?;
                    if present.settings != before.settings || present.extra != before.extra {
                        return Err(error);
                    }
                    version = present.version;
                }
                outcome => return outcome.map(|_| ()),
            }
        }
        Err(ApiError::conflict(format!("the credentials {} are changed by somebody else all the time", before.id)))
    }

    /// Removes one. `checked`: unless a binding names it, and then these are told.
    pub(super) async fn remove(
        &self,
        principal: &Principal,
        account: &str,
        id: &str,
        checked: bool,
    ) -> Result<Vec<TowerConflict>, ApiError> {
        let service = self.api.credentials(principal, account)?;
        let credential = known(&service, id).await?;
        if checked {
            let bindings = service.bindings_of(id).await?;
            if !bindings.is_empty() {
                let conflict = |binding: crate::store::BindingRecord| TowerConflict {
                    url: format!("/v1/accounts/{account}/bindings/{}", binding.id),
                    name: binding.id.clone(),
                    id: binding.id,
                    r#type: "binding",
                };
                return Ok(bindings.into_iter().map(conflict).collect());
            }
        }
        service.remove(id, Condition::None).await?;
        self.memory.observed.invalidate(&version(&credential));
        Ok(Vec::new())
    }

    /// Whether a name is free.
    pub(super) async fn is_free(&self, principal: &Principal, account: &str, name: &str) -> Result<bool, ApiError> {
        let service = self.api.credentials(principal, account)?;
        check_name(name)?;
        Ok(!everything(&service).await?.iter().any(|credential| credential.name == name))
    }

    /// Uses one for real. `force` takes back that it is invalid without asking anybody.
    pub(super) async fn validate(
        &self,
        principal: &Principal,
        account: &str,
        id: &str,
        force: bool,
    ) -> Result<TowerValidation, ApiError> {
        let service = self.api.credentials(principal, account)?;
        let credential = known(&service, id).await?;
        let own = provider(&credential).ok_or_else(|| ApiError::not_found(id))?;
        let key = version(&credential);
        let before = self.observed(&credential);
        let was = before.as_ref().map_or(TowerStatus::Available, |observed| observed.status);
        let now = self.api.deps.clock.now();
        if force {
            principal.may(crate::store::Role::Manager, account)?;
            if was != TowerStatus::Invalid {
                return Err(ApiError::conflict("only what is INVALID can be forced to AVAILABLE"));
            }
            self.memory.observed.insert(key, Observed { status: TowerStatus::Available, message: None, at: now });
            return Ok(TowerValidation { status: TowerStatus::Available, message: None, transient_error: false });
        }
        if own == Provider::Ssh {
            // It was read, with its passphrase, when it was written; nobody can be asked about it.
            principal.may(crate::store::Role::Manager, account)?;
            self.memory.observed.insert(key, Observed { status: TowerStatus::Available, message: None, at: now });
            let message = Some("the key and its passphrase go together; no host was asked".to_owned());
            return Ok(TowerValidation { status: TowerStatus::Available, message, transient_error: false });
        }
        let report = service.test(id).await.map_err(|error| in_towers_words(error, own))?;
        let message = shortened(report.detail);
        let status = match report.tested {
            Tested::Accepted | Tested::Signed => TowerStatus::Available,
            Tested::Refused => TowerStatus::Invalid,
            Tested::Unreachable => {
                return Ok(TowerValidation { status: was, message: Some(message), transient_error: true });
            }
        };
        let told = (status == TowerStatus::Invalid).then(|| message.clone());
        self.memory.observed.insert(key, Observed { status, message: told, at: now });
        Ok(TowerValidation { status, message: Some(message), transient_error: false })
    }

    fn observed(&self, credential: &Credential) -> Option<Observed> {
        self.memory.observed.get(&version(credential))
    }

    /// When it was used last, by this process or another.
    async fn last_used(&self, account: &str, credential: &Credential) -> Result<Option<SystemTime>, ApiError> {
        let written = match credential.origin {
            Origin::Store => self.api.store.usage(account, &credential.id).await?.map(|usage| usage.last_used),
            Origin::File => None,
        };
        Ok(written.max(self.api.engine.uses(account, &credential.id).map(|uses| uses.last)))
    }

    /// The trust policy of the role, in which the account to trust may still be a placeholder.
    async fn snippet(&self, credential: &Credential) -> Option<String> {
        let key = version(credential);
        if let Some(known) = self.memory.snippets.get(&key) {
            return Some(known);
        }
        let clock = &self.api.deps.clock;
        let deadline = clock.sleep_until(clock.instant() + PATIENCE);
        let introduction = tokio::select! {
            introduction = self.api.engine.introduce(&credential.account, &credential.id) => introduction,
            () = deadline => None,
        };
        let snippet = snippet_of(&introduction?)?;
        self.memory.snippets.insert(key, snippet.clone());
        Some(snippet)
    }

    /// The external id to use, when a new one is asked for.
    fn external_id(
        &self,
        provider: Provider,
        wanted: Option<bool>,
        keys: &mut Keys,
    ) -> Result<Option<String>, ApiError> {
        if !matches!(provider, Provider::Aws | Provider::SeqeraCompute) {
            return Ok(None);
        }
        if wanted == Some(false) {
            keys.remove("externalId");
        }
        match wanted {
            Some(true) => {
                let mut bytes = [0; 16];
                let filled = self.api.deps.random.fill(&mut bytes);
                let id = filled.then(|| format!("countersign-{}", hex(&bytes)));
                id.map(Some).ok_or_else(|| ApiError::internal("there is no randomness for an external id"))
            }
            _ => Ok(None),
        }
    }

    fn salt(&self) -> Result<[u8; 8], ApiError> {
        let mut salt = [0; 8];
        let filled = self.api.deps.random.fill(&mut salt);
        filled.then_some(salt).ok_or_else(|| ApiError::internal("there is no randomness for an id"))
    }
}

/// What a change goes by beside the keys.
struct Stored {
    username: Option<String>,
}

fn username(kept: &Kept) -> Option<String> {
    kept.keys.get("username").and_then(Value::as_str).map(str::to_owned)
}

/// Maps on a thread of its own: the passphrase of an SSH key is slow to derive on purpose.
async fn mapped(
    keys: Keys,
    provider: Provider,
    base_url: Option<String>,
    external_id: Option<String>,
    stored: Option<Stored>,
) -> Result<Mapped, ApiError> {
    let work = move || {
        let username = stored.as_ref().and_then(|stored| stored.username.as_deref());
        let (base_url, external_id) = (base_url.as_deref(), external_id.as_deref());
        map(keys, About { provider, base_url, external_id, username })
    };
    if provider != Provider::Ssh {
        return work().map_err(wrong);
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::internal("the key could not be read"))?.map_err(wrong)
}

/// The settings with the provider's own keys replaced, whatever else was set on them since.
fn overlaid(before: &Value, provider: Provider, settings: Confidential) -> Confidential {
    let mut all = before.as_object().cloned().unwrap_or_default();
    all.retain(|key, _| !provider.fields().iter().any(|field| field.at.contains(&key.as_str())));
    if let Value::Object(own) = settings.take() {
        all.extend(own);
    }
    Confidential::new(Value::Object(all))
}

/// A credential that is there, to Tower.
async fn known(service: &Credentials<'_>, id: &str) -> Result<Credential, ApiError> {
    let credential = service.get(id).await?;
    if credential.removed { Err(ApiError::not_found(id)) } else { Ok(credential) }
}

async fn everything(service: &Credentials<'_>) -> Result<Vec<Credential>, ApiError> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let listed = service.list(&Page { after, limit: BATCH, ..Page::default() }).await?;
        found.extend(listed.credentials);
        after = listed.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

fn taken(name: &str) -> ApiError {
    wrong(Wrong::at("name", format!("there are credentials named {name} in this workspace already")))
}

fn version(credential: &Credential) -> Version {
    (credential.account.clone(), credential.id.clone(), credential.version)
}

/// A message as long as Tower takes one.
fn shortened(message: String) -> String {
    const CUT: &str = " (truncated)";
    if message.chars().count() <= MESSAGE {
        return message;
    }
    message.chars().take(MESSAGE - CUT.len()).chain(CUT.chars()).collect()
}

/// The trust policy of the role that signs in the end.
fn snippet_of(introduction: &Introduction) -> Option<String> {
    let (_, document) = introduction.documents.last()?;
    serde_json::to_string_pretty(document).ok()
}
