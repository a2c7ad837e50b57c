//! Bindings: which credential may be used where, in an account.

use serde::{Deserialize, Serialize};

use super::database::{Row, values};
use super::{Actor, BindingRecord, Result, Store, StoreError, from_json, named, to_json};

/// What a binding says, beside its place and its credential.
#[derive(Serialize, Deserialize)]
struct Content {
    callers: Vec<String>,
    hosts: Vec<String>,
    methods: Vec<String>,
    paths: Vec<String>,
    services: Vec<String>,
    regions: Vec<String>,
    actions: Vec<String>,
    allow_cleartext: bool,
    allow_addresses: Vec<String>,
    only_named: bool,
}

/// Reads account, id, credential and content.
pub(super) fn binding(row: &Row) -> Result<BindingRecord> {
    let content: Content = from_json(&row.get::<String>(3)?)?;
    Ok(BindingRecord {
        account: row.get(0)?,
        id: row.get(1)?,
        credential: row.get(2)?,
        callers: content.callers,
        hosts: content.hosts,
        methods: content.methods,
        paths: content.paths,
        services: content.services,
        regions: content.regions,
        actions: content.actions,
        allow_cleartext: content.allow_cleartext,
        allow_addresses: content.allow_addresses,
        only_named: content.only_named,
    })
}

fn shown(account: &str, id: &str) -> String {
    format!("binding {id} in account {account}")
}

impl Store {
    /// The bindings of an account, by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn bindings(&self, account: &str) -> Result<Vec<BindingRecord>> {
        let sql = "SELECT account, id, credential, content FROM bindings WHERE account = $1 ORDER BY id";
        self.inner.database.all(sql, values![account]).await?.iter().map(binding).collect()
    }

    /// Creates or replaces.
    ///
    /// # Errors
    /// `Unknown` when the credential does not exist.
    pub async fn put_binding(&self, binding: BindingRecord, by: &Actor) -> Result<()> {
        let BindingRecord { account, id, credential, .. } = &binding;
        named("a binding's id", id)?;
        let mut writing = self.write().await?;
        let sql = "SELECT 1 FROM credentials WHERE account = $1 AND id = $2 AND removed = 0";
        let values = values![account.as_str(), credential.as_str()];
        if writing.transaction.first(sql, values).await?.is_none() {
            return Err(StoreError::Unknown(format!("credential {credential} in account {account}")));
        }
        writing.touch_account(account, by).await?;
        let sql = "INSERT INTO bindings (account, id, credential, content, updated_at, updated_by) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (account, id) DO UPDATE SET \
                   credential = excluded.credential, content = excluded.content, updated_at = excluded.updated_at, \
                   updated_by = excluded.updated_by";
        let (place, now) = (values![account.as_str(), id.as_str(), credential.as_str()], writing.now);
        let content = to_json(&Content {
            callers: binding.callers,
            hosts: binding.hosts,
            methods: binding.methods,
            paths: binding.paths,
            services: binding.services,
            regions: binding.regions,
            actions: binding.actions,
            allow_cleartext: binding.allow_cleartext,
            allow_addresses: binding.allow_addresses,
            only_named: binding.only_named,
        })?;
        let values = [place, values![content, now, by.name.as_str()]].concat();
        writing.transaction.run(sql, values).await?;
        self.finish(writing).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// `Unknown` if there is none.
    pub async fn remove_binding(&self, account: &str, id: &str, _by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let sql = "DELETE FROM bindings WHERE account = $1 AND id = $2";
        if writing.transaction.run(sql, values![account, id]).await? == 0 {
            return Err(StoreError::Unknown(shown(account, id)));
        }
        self.finish(writing).await
    }
}
