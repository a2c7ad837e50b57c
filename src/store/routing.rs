//! What the proxy runs on, in one consistent read. Of the credentials only those that bindings name, however many others
//! an account has.

use super::bindings::binding;
use super::callers::{callers, select_callers};
use super::credentials::{record, select_records};
use super::database::values;
use super::policies::{policy, run, select_policies, select_runs};
use super::{Result, Routing, Store, millis};

impl Store {
    /// Everything that the route table is made of, as it is at one moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn routing(&self) -> Result<Routing> {
        let mut snapshot = self.inner.database.snapshot().await?;
        let revision = snapshot.first("SELECT revision FROM store", values![]).await?;
        let sql = "SELECT account, id, credential, content FROM bindings ORDER BY account, id";
        let bindings = snapshot.all(sql, values![]).await?;
        let sql = select_records!(
            "AND v.version = c.version JOIN (SELECT DISTINCT account, credential FROM bindings) b \
             ON b.account = c.account AND b.credential = c.id ORDER BY c.account, c.id"
        );
        let mut credentials = snapshot.all(sql, values![]).await?;
        let proofs = snapshot.all(select_callers!(""), values![]).await?;
        let now = millis(self.inner.deps.clock.now());
        let living = select_runs!("WHERE ended_at IS NULL AND expires_at > $1 ORDER BY account, id");
        let runs = snapshot.all(living, values![now]).await?;
        let mut policies = Vec::new();
        if !runs.is_empty() {
            let sql = select_policies!(
                "NULL",
                "WHERE EXISTS (SELECT 1 FROM runs r WHERE r.account = p.account AND r.policy = p.id \
                 AND r.ended_at IS NULL AND r.expires_at > $1) ORDER BY p.account, p.id"
            );
            policies = snapshot.all(sql, values![now]).await?;
            let sql = select_records!(
                "AND v.version = c.version WHERE EXISTS (SELECT 1 FROM policy_credentials u JOIN runs r \
                 ON r.account = u.account AND r.policy = u.policy AND r.ended_at IS NULL AND r.expires_at > $1 \
                 WHERE u.account = c.account AND u.credential = c.id) AND NOT EXISTS (SELECT 1 FROM bindings b \
                 WHERE b.account = c.account AND b.credential = c.id) ORDER BY c.account, c.id"
            );
            credentials.extend(snapshot.all(sql, values![now]).await?);
        }
        // Also one that was removed, for as long as its runs are known: what they leave behind must not be taken for nobody.
        let asks = "SELECT 1 FROM applied_policies LIMIT 1";
        let asks = snapshot.first(asks, values![]).await?.is_some();
        snapshot.commit().await?;
        Ok(Routing {
            revision: revision.map_or(Ok(0), |row| row.get(0))?,
            bindings: bindings.iter().map(binding).collect::<Result<_>>()?,
            credentials: credentials.iter().map(record).collect::<Result<_>>()?,
            callers: callers(&proofs)?,
            runs: runs.iter().map(run).collect::<Result<_>>()?,
            policies: policies.iter().map(policy).collect::<Result<_>>()?,
            asks,
        })
    }
}
