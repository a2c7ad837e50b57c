//! Callers and the digests of what proves them.

use super::bindings::binding;
use super::database::{Row, values};
use super::{Actor, CallerProofRecord, CallerRecord, Result, Store, StoreError, millis, moment, named};

/// A statement that reads callers, each as often as it has proofs.
macro_rules! select_callers {
    ($rest:literal) => {
        concat!(
            "SELECT c.account, c.name, p.id, p.digest, p.created_at, p.expires_at FROM callers c \
             LEFT JOIN caller_proofs p ON p.account = c.account AND p.caller = c.name ",
            $rest,
            " ORDER BY c.account, c.name, p.created_at, p.id"
        )
    };
}
pub(super) use select_callers;

/// Puts the rows together.
pub(super) fn callers(rows: &[Row]) -> Result<Vec<CallerRecord>> {
    let mut callers: Vec<CallerRecord> = Vec::new();
    for row in rows {
        let (account, name): (String, String) = (row.get(0)?, row.get(1)?);
        if callers.last().is_none_or(|last| last.account != account || last.name != name) {
            callers.push(CallerRecord { account, name, proofs: Vec::new() });
        }
        let (Some(id), Some(last)) = (row.get(2)?, callers.last_mut()) else { continue };
        last.proofs.push(CallerProofRecord {
            id,
            digest: digest(row.get(3)?)?,
            created: moment(row.get(4)?),
            expires_at: row.get::<Option<i64>>(5)?.map(moment),
        });
    }
    Ok(callers)
}

/// SHA-256, as it came out of a column.
pub(super) fn digest(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| StoreError::Invalid("a digest in the store is damaged: restore a backup".into()))
}

fn shown(account: &str, caller: &str) -> String {
    format!("caller {caller} in account {account}")
}

impl Store {
    /// The callers of an account, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn callers(&self, account: &str) -> Result<Vec<CallerRecord>> {
        let sql = select_callers!("WHERE c.account = $1");
        callers(&self.inner.database.all(sql, values![account]).await?)
    }

    /// Adds a proof, and the caller if it is new.
    ///
    /// # Errors
    /// `Exists` when the caller has a proof of that id.
    pub async fn add_caller_proof(
        &self,
        account: &str,
        caller: &str,
        proof: CallerProofRecord,
        by: &Actor,
    ) -> Result<()> {
        named("a caller's name", caller)?;
        named("a proof's id", &proof.id)?;
        let mut writing = self.write().await?;
        writing.touch_account(account, by).await?;
        let sql = "INSERT INTO callers (account, name, created_at, created_by) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (account, name) DO NOTHING";
        let values = values![account, caller, writing.now, by.name.as_str()];
        writing.transaction.run(sql, values).await?;
        let sql = "INSERT INTO caller_proofs (account, caller, id, digest, created_at, expires_at) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (account, caller, id) DO NOTHING";
        let (created, expires_at) = (millis(proof.created), proof.expires_at.map(millis));
        let values = values![account, caller, proof.id.as_str(), proof.digest.as_slice(), created, expires_at];
        if writing.transaction.run(sql, values).await? == 0 {
            return Err(StoreError::Exists(format!("proof {} of {}", proof.id, shown(account, caller))));
        }
        self.finish(writing).await
    }

    /// Removes one proof, or the caller with all of them.
    ///
    /// # Errors
    /// `Unknown` if there is none; `InUse` when bindings name the caller that is to go: they would serve whoever gets its
    /// name next.
    pub async fn remove_caller(&self, account: &str, caller: &str, proof: Option<&str>, _by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let gone = if let Some(proof) = proof {
            let sql = "DELETE FROM caller_proofs WHERE account = $1 AND caller = $2 AND id = $3";
            writing.transaction.run(sql, values![account, caller, proof]).await?
        } else {
            let sql = "SELECT account, id, credential, content FROM bindings WHERE account = $1 ORDER BY id";
            let mut by = Vec::new();
            for row in writing.transaction.all(sql, values![account]).await? {
                let binding = binding(&row)?;
                if binding.callers.iter().any(|name| name == caller) {
                    by.push(binding.id);
                }
            }
            if !by.is_empty() {
                return Err(StoreError::InUse { what: shown(account, caller), by: by.join(", ") });
            }
            let sql = "DELETE FROM callers WHERE account = $1 AND name = $2";
            writing.transaction.run(sql, values![account, caller]).await?
        };
        if gone == 0 {
            let which = proof.map(|proof| format!("proof {proof} of ")).unwrap_or_default();
            return Err(StoreError::Unknown(which + &shown(account, caller)));
        }
        self.finish(writing).await
    }
}
