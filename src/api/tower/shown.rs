//! A credential as Tower's clients see it.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::super::{Credential, kinds};
use super::provider::Provider;
use super::wire::{TowerCredentials, TowerStatus, time};
use crate::scheme::is_at;

/// What is kept of Tower's beside the settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) provider: Option<Provider>,
    pub(super) category: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) keys: Map<String, Value>,
}

impl Kept {
    /// Of a credential; nothing of one that another way in made.
    pub(super) fn of(credential: &Credential) -> Self {
        let own = credential.extra.get("tower");
        let text = |key: &str| own?.get(key)?.as_str().map(str::to_owned);
        Self {
            provider: text("provider").as_deref().and_then(Provider::parse),
            category: text("category"),
            base_url: text("base_url"),
            keys: own.and_then(|own| own.get("keys")?.as_object().cloned()).unwrap_or_default(),
        }
    }

    /// Puts it beside what other ways in keep.
    pub(super) fn into_extra(self, extra: &Value) -> Value {
        let mut extra = extra.as_object().cloned().unwrap_or_default();
        let provider = self.provider.map(Provider::name);
        let own =
            json!({ "provider": provider, "category": self.category, "base_url": self.base_url, "keys": self.keys });
        extra.insert("tower".into(), own);
        Value::Object(extra)
    }
}

/// What this process found when it validated a credential.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) status: TowerStatus,
    pub(super) message: Option<String>,
    pub(super) at: SystemTime,
}

/// The provider of a credential, whichever way in made it; `None` when Tower has no word for it.
pub(super) fn provider(credential: &Credential) -> Option<Provider> {
    let own = Kept::of(credential).provider;
    own.or_else(|| Provider::of(credential.tags.get("provider").map(String::as_str), &credential.scheme))
}

/// The keys that are no secret.
fn keys(provider: Provider, credential: &Credential, kept: &Map<String, Value>) -> Map<String, Value> {
    let mut keys = Map::from_iter([("discriminator".to_owned(), json!(provider.name()))]);
    let secret = kinds::find(&credential.scheme).map_or(&[][..], |kind| kind.fields.secret);
    for field in provider.fields().iter().filter(|field| !field.secret) {
        if let Some((path, Value::String(text))) = field.find(&credential.settings)
            && !is_at(secret, path)
        {
            keys.insert(field.name.to_owned(), json!(text));
        }
    }
    for name in provider.kept() {
        keys.extend(kept.get(*name).map(|value| ((*name).to_owned(), value.clone())));
    }
    if matches!(provider, Provider::Aws | Provider::SeqeraCompute) {
        let mode = if keys.contains_key("accessKey") { "keys" } else { "role" };
        keys.insert("mode".into(), json!(mode));
    }
    keys
}

/// A credential as it is listed; `None` when Tower has no word for its provider, since its clients take no other.
pub(super) fn shown(
    credential: &Credential,
    last_used: Option<SystemTime>,
    observed: Option<&Observed>,
) -> Option<TowerCredentials> {
    let provider = provider(credential)?;
    let kept = Kept::of(credential);
    let (status, message) = match observed {
        _ if !credential.enabled => (TowerStatus::Invalid, Some("it is switched off".to_owned())),
        Some(observed) => (observed.status, observed.message.clone()),
        None => (TowerStatus::Available, None),
    };
    Some(TowerCredentials {
        id: credential.id.clone(),
        name: credential.name.clone(),
        description: credential.description.clone(),
        provider: provider.name(),
        keys: keys(provider, credential, &kept.keys),
        category: kept.category,
        base_url: kept.base_url,
        deleted: false,
        status,
        message,
        last_used: last_used.map(time),
        last_validated: observed.map(|observed| time(observed.at)),
        date_created: credential.created.as_ref().map(|change| time(change.at)),
        last_updated: credential.updated.as_ref().map(|change| time(change.at)),
        setup_snippet: None,
    })
}
