//! Credentials: every change is another version; a removal is a version too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::changes::Writing;
use super::data_keys::{DataKey, no_randomness};
use super::database::{Row, values};
use super::envelope::{open, place, seal};
use super::{
    Actor, Change, CredentialRecord, NewCredential, Result, Store, StoreError, from_json, millis, moment, named,
    to_json,
};
use crate::base::Secret;

/// Attempts to read secrets while a change of the data keys takes their key away.
const ATTEMPTS: usize = 5;

/// A statement that reads versions.
macro_rules! select_records {
    ($rest:literal) => {
        select_records!("credentials", $rest)
    };
    ($credentials:literal, $rest:literal) => {
        concat!(
            "SELECT v.account, v.id, v.version, v.content, v.expires_at, c.created_at, c.created_by, v.updated_at, \
             v.updated_by, v.removed, v.changed_fields FROM ",
            $credentials,
            " c JOIN credential_versions v ON v.account = c.account AND v.id = c.id ",
            $rest
        )
    };
}
pub(super) use select_records;

/// What a version says, beside its secrets.
#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
    description: Option<String>,
    scheme: String,
    hosts: Vec<String>,
    tags: BTreeMap<String, String>,
    enabled: bool,
    settings: Value,
    extra: Value,
}

/// Where a secret belongs.
pub(super) fn place_of_secret(account: &str, id: &str, version: i64, field: &str, generation: i64) -> Vec<u8> {
    let (version, generation) = (version.to_be_bytes(), generation.to_be_bytes());
    place("secret", &[account.as_bytes(), id.as_bytes(), &version, field.as_bytes(), &generation])
}

pub(super) fn record(row: &Row) -> Result<CredentialRecord> {
    let content: Content = from_json(&row.get::<String>(3)?)?;
    let change =
        |at: usize| -> Result<Change> { Ok(Change { at: moment(row.get(at)?), by: Actor { name: row.get(at + 1)? } }) };
    Ok(CredentialRecord {
        account: row.get(0)?,
        id: row.get(1)?,
        version: row.get(2)?,
        name: content.name,
        description: content.description,
        scheme: content.scheme,
        hosts: content.hosts,
        tags: content.tags,
        enabled: content.enabled,
        settings: content.settings,
        extra: content.extra,
        expires_at: row.get::<Option<i64>>(4)?.map(moment),
        created: change(5)?,
        updated: change(7)?,
        removed: row.is(9)?,
        changed_fields: from_json(&row.get::<String>(10)?)?,
    })
}

fn shown(account: &str, id: &str) -> String {
    format!("credential {id} in account {account}")
}

/// The newest version of a credential, and whether that is its tombstone.
struct Head {
    version: i64,
    removed: bool,
}

impl Writing {
    async fn head(&mut self, account: &str, id: &str) -> Result<Option<Head>> {
        let sql = "SELECT version, removed FROM credentials WHERE account = $1 AND id = $2";
        let row = self.transaction.first(sql, values![account, id]).await?;
        row.map(|row| Ok(Head { version: row.get(0)?, removed: row.is(1)? })).transpose()
    }

    /// The version that a change goes on from.
    async fn present(&mut self, account: &str, id: &str) -> Result<i64> {
        let head = self.head(account, id).await?.filter(|head| !head.removed);
        head.map(|head| head.version).ok_or_else(|| StoreError::Unknown(shown(account, id)))
    }

    /// Writes a version, with nothing secret.
    #[expect(clippy::too_many_arguments, reason = "a row has as many columns")]
    async fn add_version(
        &mut self,
        account: &str,
        id: &str,
        version: i64,
        removed: bool,
        content: &str,
        changed: &[String],
        expires_at: Option<i64>,
        by: &Actor,
    ) -> Result<()> {
        let sql = "UPDATE credentials SET version = $3, removed = $4, expires_at = $5 WHERE account = $1 AND id = $2";
        self.transaction.run(sql, values![account, id, version, removed, expires_at]).await?;
        let sql = "INSERT INTO credential_versions (account, id, version, removed, content, changed_fields, expires_at, \
                   updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let changed = to_json(&changed)?;
        let values = values![account, id, version, removed, content, changed, expires_at, self.now, by.name.as_str()];
        self.transaction.run(sql, values).await?;
        self.stamp_account(account).await
    }

    async fn add_secrets(
        &mut self,
        account: &str,
        id: &str,
        version: i64,
        key: &DataKey,
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<()> {
        for (field, secret) in secrets {
            let place = place_of_secret(account, id, version, field, key.generation);
            let sealed = seal(&key.key, &place, secret.expose()).ok_or_else(no_randomness)?;
            let sql = "INSERT INTO secrets (account, id, version, field, generation, sealed) \
                       VALUES ($1, $2, $3, $4, $5, $6)";
            let values = values![account, id, version, field.as_str(), key.generation, sealed];
            self.transaction.run(sql, values).await?;
        }
        Ok(())
    }

    async fn add_content(
        &mut self,
        account: &str,
        id: &str,
        version: i64,
        key: &DataKey,
        new: &NewCredential,
        by: &Actor,
    ) -> Result<()> {
        let content = to_json(&Content {
            name: new.name.clone(),
            description: new.description.clone(),
            scheme: new.scheme.clone(),
            hosts: new.hosts.clone(),
            tags: new.tags.clone(),
            enabled: new.enabled,
            settings: new.settings.clone(),
            extra: new.extra.clone(),
        })?;
        let expires_at = new.expires_at.map(millis);
        self.add_version(account, id, version, false, &content, &new.changed_fields, expires_at, by).await?;
        self.add_secrets(account, id, version, key, &new.secrets).await
    }

    async fn version(&mut self, account: &str, id: &str, version: i64) -> Result<CredentialRecord> {
        let sql = select_records!("WHERE c.account = $1 AND c.id = $2 AND v.version = $3");
        let row = self.transaction.first(sql, values![account, id, version]).await?;
        record(&row.ok_or_else(|| StoreError::Unknown(format!("version {version} of {}", shown(account, id))))?)
    }
}

impl Store {
    /// A new credential. Where one of that id was removed, its versions go on.
    ///
    /// # Errors
    /// `Exists`.
    pub async fn create_credential(
        &self,
        account: &str,
        id: &str,
        new: NewCredential,
        by: &Actor,
    ) -> Result<CredentialRecord> {
        named("a credential's id", id)?;
        let (mut writing, key) = self.write_sealed(account).await?;
        writing.touch_account(account, by).await?;
        let head = writing.head(account, id).await?;
        let version = match head {
            Some(head) if !head.removed => return Err(StoreError::Exists(shown(account, id))),
            Some(head) => head.version + 1,
            None => 1,
        };
        let sql = "INSERT INTO credentials (account, id, version, removed, created_at, created_by) \
                   VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT (account, id) \
                   DO UPDATE SET created_at = excluded.created_at, created_by = excluded.created_by";
        let values = values![account, id, version, writing.now, by.name.as_str()];
        writing.transaction.run(sql, values).await?;
        writing.add_content(account, id, version, &key, &new, by).await?;
        let record = writing.version(account, id, version).await?;
        self.finish(writing).await?;
        Ok(record)
    }

    /// A new version on top of `version`.
    ///
    /// # Errors
    /// `Unknown` if there is none, `Changed` if it is not at that version any more.
    pub async fn update_credential(
        &self,
        account: &str,
        id: &str,
        version: i64,
        new: NewCredential,
        by: &Actor,
    ) -> Result<CredentialRecord> {
        if self.credential(account, id).await?.is_none() {
            return Err(StoreError::Unknown(shown(account, id)));
        }
        let (mut writing, key) = self.write_sealed(account).await?;
        if writing.present(account, id).await? != version {
            return Err(StoreError::Changed(shown(account, id)));
        }
        writing.add_content(account, id, version + 1, &key, &new, by).await?;
        let record = writing.version(account, id, version + 1).await?;
        self.finish(writing).await?;
        Ok(record)
    }

    /// Leaves a tombstone. Bindings that name it stay and refuse; its versions rest encrypted until they are pruned.
    ///
    /// # Errors
    /// `Unknown` if there is none.
    pub async fn remove_credential(&self, account: &str, id: &str, by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let version = writing.present(account, id).await?;
        let sql = "SELECT content FROM credential_versions WHERE account = $1 AND id = $2 AND version = $3";
        let row = writing.transaction.first(sql, values![account, id, version]).await?;
        let content: String = row.ok_or_else(|| StoreError::Unknown(shown(account, id)))?.get(0)?;
        writing.add_version(account, id, version + 1, true, &content, &[], None, by).await?;
        self.finish(writing).await
    }

    /// The content of an earlier version as a new one: of `version`, or of the one before the present one, or of the one
    /// before the tombstone.
    ///
    /// # Errors
    /// `Unknown` if there is no such version (any more).
    pub async fn restore_credential(
        &self,
        account: &str,
        id: &str,
        version: Option<i64>,
        by: &Actor,
    ) -> Result<CredentialRecord> {
        for _ in 0..ATTEMPTS {
            let versions = self.credential_versions(account, id).await?;
            let head = versions.first().ok_or_else(|| StoreError::Unknown(shown(account, id)))?;
            let earlier = versions.iter().filter(|earlier| !earlier.removed);
            let chosen = match version {
                Some(version) => earlier.clone().find(|earlier| earlier.version == version),
                None => earlier.clone().find(|earlier| earlier.version < head.version),
            };
            let chosen = chosen.ok_or_else(|| {
                let which = version.map_or("an earlier version".to_owned(), |version| format!("version {version}"));
                StoreError::Unknown(format!("{which} of {} that could be restored", shown(account, id)))
            })?;
            let secrets = self.secrets(chosen).await?;
            let present = if head.removed { BTreeMap::new() } else { self.secrets(head).await? };
            let new = NewCredential {
                name: chosen.name.clone(),
                description: chosen.description.clone(),
                scheme: chosen.scheme.clone(),
                hosts: chosen.hosts.clone(),
                tags: chosen.tags.clone(),
                enabled: chosen.enabled,
                settings: chosen.settings.clone(),
                extra: chosen.extra.clone(),
                expires_at: chosen.expires_at,
                changed_fields: differences(head, &present, chosen, &secrets),
                secrets,
            };
            let (mut writing, key) = self.write_sealed(account).await?;
            if writing.head(account, id).await?.is_none_or(|now| now.version != head.version) {
                continue;
            }
            writing.add_content(account, id, head.version + 1, &key, &new, by).await?;
            let record = writing.version(account, id, head.version + 1).await?;
            self.finish(writing).await?;
            return Ok(record);
        }
        Err(StoreError::Changed(shown(account, id)))
    }

    /// The present version; nothing for a tombstone.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn credential(&self, account: &str, id: &str) -> Result<Option<CredentialRecord>> {
        let sql = select_records!("AND v.version = c.version WHERE c.account = $1 AND c.id = $2 AND c.removed = 0");
        self.inner.database.first(sql, values![account, id]).await?.map(|row| record(&row)).transpose()
    }

    /// Every version, the newest first, tombstones included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn credential_versions(&self, account: &str, id: &str) -> Result<Vec<CredentialRecord>> {
        let sql = select_records!("WHERE c.account = $1 AND c.id = $2 ORDER BY v.version DESC");
        self.inner.database.all(sql, values![account, id]).await?.iter().map(record).collect()
    }

    /// Present versions by id, those after `after`, `limit` at most; tombstones on demand.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn credentials(
        &self,
        account: &str,
        after: Option<&str>,
        limit: usize,
        removed: bool,
    ) -> Result<Vec<CredentialRecord>> {
        // The page first, then its contents: what comes after the page is not looked at.
        let sql = select_records!(
            "(SELECT account, id, version, created_at, created_by FROM credentials \
             WHERE account = $1 AND id > $2 AND removed <= $3 ORDER BY id LIMIT $4)",
            "AND v.version = c.version ORDER BY c.id"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = values![account, after.unwrap_or_default(), removed, limit];
        self.inner.database.all(sql, values).await?.iter().map(record).collect()
    }

    /// The state of an account's credentials, for `If-None-Match`: changes with any of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn account_revision(&self, account: &str) -> Result<i64> {
        let sql = "SELECT revision FROM accounts WHERE name = $1";
        let row = self.inner.database.first(sql, values![account]).await?;
        row.map_or(Ok(0), |row| row.get(0))
    }

    /// The secrets of exactly this version.
    ///
    /// # Errors
    /// `Sealed` when they were written with another key, or moved here from elsewhere.
    pub async fn secrets(&self, record: &CredentialRecord) -> Result<BTreeMap<String, Secret>> {
        let CredentialRecord { account, id, version, .. } = record;
        let sql = "SELECT field, generation, sealed FROM secrets WHERE account = $1 AND id = $2 AND version = $3";
        'again: for _ in 0..ATTEMPTS {
            let mut secrets = BTreeMap::new();
            for row in self.inner.database.all(sql, values![account.as_str(), id.as_str(), *version]).await? {
                let (field, generation, sealed): (String, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
                // Gone when the data keys were changed just now: then the row is another one too.
                let Some(key) = self.data_key(account, generation).await? else { continue 'again };
                let place = place_of_secret(account, id, *version, &field, generation);
                let secret = open(&key.key, &place, &sealed).ok_or_else(|| {
                    StoreError::Sealed(format!(
                        "the secret {field} of version {version} of {} does not open: it was moved here from elsewhere, \
                         or damaged",
                        shown(account, id)
                    ))
                })?;
                secrets.insert(field, secret);
            }
            return Ok(secrets);
        }
        Err(StoreError::Sealed(format!("the data key of {} is gone", shown(account, id))))
    }

    /// Credentials whose own secret ends before this time, the first to end first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn expiring(&self, before: SystemTime) -> Result<Vec<CredentialRecord>> {
        let sql = select_records!(
            "AND v.version = c.version WHERE c.expires_at IS NOT NULL AND c.removed = 0 AND c.expires_at < $1 \
             ORDER BY c.expires_at"
        );
        self.inner.database.all(sql, values![millis(before)]).await?.iter().map(record).collect()
    }

    /// Every account that was ever written to, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn accounts(&self) -> Result<Vec<(String, Change)>> {
        let sql = "SELECT name, created_at, created_by FROM accounts ORDER BY name";
        let rows = self.inner.database.all(sql, values![]).await?;
        let account = |row: &Row| -> Result<(String, Change)> {
            Ok((row.get(0)?, Change { at: moment(row.get(1)?), by: Actor { name: row.get(2)? } }))
        };
        rows.iter().map(account).collect()
    }
}

/// The fields in which one version differs from another, never values.
fn differences(
    from: &CredentialRecord,
    from_secrets: &BTreeMap<String, Secret>,
    to: &CredentialRecord,
    to_secrets: &BTreeMap<String, Secret>,
) -> Vec<String> {
    let whole = [
        ("name", from.name != to.name),
        ("description", from.description != to.description),
        ("scheme", from.scheme != to.scheme),
        ("hosts", from.hosts != to.hosts),
        ("tags", from.tags != to.tags),
        ("enabled", from.enabled != to.enabled),
        ("expires_at", from.expires_at != to.expires_at),
    ];
    let mut fields: BTreeSet<&str> = whole.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    let names = [&from.settings, &to.settings].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    fields.extend(names.map(String::as_str).filter(|name| from.settings.get(name) != to.settings.get(name)));
    let secret = from_secrets.keys().chain(to_secrets.keys()).map(String::as_str);
    let exposed = |name: &str| (from_secrets.get(name).map(Secret::expose), to_secrets.get(name).map(Secret::expose));
    fields.extend(secret.filter(|name| exposed(name).0 != exposed(name).1));
    fields.into_iter().map(str::to_owned).collect()
}
