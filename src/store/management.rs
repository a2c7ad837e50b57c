//! Tokens for the API, by their digests.

use super::callers::digest;
use super::database::{Row, values};
use super::{Actor, ManagementToken, Result, Role, Store, StoreError, millis, moment, named};

/// A statement that reads tokens.
macro_rules! select_tokens {
    ($rest:literal) => {
        concat!("SELECT name, digest, role, account, expires_at FROM management_tokens ", $rest)
    };
}

fn token(row: &Row) -> Result<ManagementToken> {
    let role = match row.get::<String>(2)?.as_str() {
        "viewer" => Role::Viewer,
        "manager" => Role::Manager,
        "admin" => Role::Admin,
        _ => return Err(StoreError::Invalid("a role in the store is unknown: a newer Countersign wrote it".into())),
    };
    Ok(ManagementToken {
        name: row.get(0)?,
        digest: digest(row.get(1)?)?,
        role,
        account: row.get(3)?,
        expires_at: row.get::<Option<i64>>(4)?.map(moment),
    })
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Manager => "manager",
        Role::Admin => "admin",
    }
}

impl Store {
    /// Every token, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn management_tokens(&self) -> Result<Vec<ManagementToken>> {
        let rows = self.inner.database.all(select_tokens!("ORDER BY name"), values![]).await?;
        rows.iter().map(token).collect()
    }

    /// The token with this digest; whether it has ended is for the caller to see.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn management_token(&self, digest: &[u8; 32]) -> Result<Option<ManagementToken>> {
        let sql = select_tokens!("WHERE digest = $1");
        let row = self.inner.database.first(sql, values![digest.as_slice()]).await?;
        row.map(|row| token(&row)).transpose()
    }

    /// Adds one.
    ///
    /// # Errors
    /// `Exists` when there is one of that name.
    pub async fn add_management_token(&self, token: ManagementToken, by: &Actor) -> Result<()> {
        named("a token's name", &token.name)?;
        let mut writing = self.write().await?;
        let sql = "INSERT INTO management_tokens (name, digest, role, account, expires_at, created_at, created_by) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let (account, expires_at) = (token.account.as_deref(), token.expires_at.map(millis));
        let values = values![
            token.name.as_str(),
            token.digest.as_slice(),
            role(token.role),
            account,
            expires_at,
            writing.now,
            by.name.as_str()
        ];
        if writing.transaction.run(sql, values).await? == 0 {
            return Err(StoreError::Exists(format!("token {}", token.name)));
        }
        self.finish(writing).await
    }

    /// Removes one.
    ///
    /// # Errors
    /// `Unknown` if there is none.
    pub async fn remove_management_token(&self, name: &str, _by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let sql = "DELETE FROM management_tokens WHERE name = $1";
        if writing.transaction.run(sql, values![name]).await? == 0 {
            return Err(StoreError::Unknown(format!("token {name}")));
        }
        self.finish(writing).await
    }
}
