//! Policies that were applied, the runs of them, and what these did.

use std::time::SystemTime;

use super::callers::digest;
use super::database::{Row, values};
use super::{
    Actor, AppliedPolicy, AppliedPolicyRecord, Change, Result, RunRecord, RunUse, Store, StoreError, from_json, millis,
    moment, named, to_json,
};

/// A statement that reads applied policies, which it calls `p`; without their templates for who does not need them.
macro_rules! select_policies {
    ($rest:literal) => {
        select_policies!("p.template", $rest)
    };
    ($template:literal, $rest:literal) => {
        concat!(
            "SELECT p.account, p.id, p.content, p.created_at, p.created_by, ",
            $template,
            " FROM applied_policies p ",
            $rest
        )
    };
}
pub(super) use select_policies;

/// A statement that reads runs.
macro_rules! select_runs {
    ($rest:literal) => {
        concat!(
            "SELECT account, id, policy, digest, created_at, created_by, expires_at, ended_at, ended_by FROM runs ",
            $rest
        )
    };
}
pub(super) use select_runs;

/// Reads what [`select_policies`] selects.
pub(super) fn policy(row: &Row) -> Result<AppliedPolicyRecord> {
    let content: AppliedPolicy = from_json(&row.get::<String>(2)?)?;
    let template = row.get::<Option<String>>(5)?.map(|text| from_json(&text)).transpose()?.unwrap_or_default();
    Ok(AppliedPolicyRecord {
        account: row.get(0)?,
        id: row.get(1)?,
        content: AppliedPolicy { template, ..content },
        created: Change { at: moment(row.get(3)?), by: Actor { name: row.get(4)? } },
    })
}

/// Reads what [`select_runs`] selects.
pub(super) fn run(row: &Row) -> Result<RunRecord> {
    let ended = match (row.get::<Option<i64>>(7)?, row.get::<Option<String>>(8)?) {
        (Some(at), Some(name)) => Some(Change { at: moment(at), by: Actor { name } }),
        _ => None,
    };
    Ok(RunRecord {
        account: row.get(0)?,
        id: row.get(1)?,
        policy: row.get(2)?,
        digest: digest(row.get(3)?)?,
        created: Change { at: moment(row.get(4)?), by: Actor { name: row.get(5)? } },
        expires_at: moment(row.get(6)?),
        ended,
    })
}

fn shown(account: &str, id: &str) -> String {
    format!("applied policy {id} in account {account}")
}

fn shown_run(account: &str, id: &str) -> String {
    format!("run {id} in account {account}")
}

impl Store {
    /// The applied policies of an account, by id, without those that were removed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn applied_policies(&self, account: &str) -> Result<Vec<AppliedPolicyRecord>> {
        let sql = select_policies!("WHERE p.account = $1 AND p.removed = 0 ORDER BY p.id");
        self.inner.database.all(sql, values![account]).await?.iter().map(policy).collect()
    }

    /// One applied policy, if it was not removed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn applied_policy(&self, account: &str, id: &str) -> Result<Option<AppliedPolicyRecord>> {
        let sql = select_policies!("WHERE p.account = $1 AND p.id = $2 AND p.removed = 0");
        self.inner.database.first(sql, values![account, id]).await?.as_ref().map(policy).transpose()
    }

    /// One applied policy, also if it was removed since: what its runs did is still of interest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn applied_policy_of_run(&self, run: &RunRecord) -> Result<Option<AppliedPolicyRecord>> {
        let sql = select_policies!("WHERE p.account = $1 AND p.id = $2");
        let values = values![run.account.as_str(), run.policy.as_str()];
        self.inner.database.first(sql, values).await?.as_ref().map(policy).transpose()
    }

    /// Applies a policy. Nothing changes one that was applied.
    ///
    /// # Errors
    /// `Exists` when there is, or was, one of that id.
    pub async fn apply_policy(
        &self,
        account: &str,
        id: &str,
        content: AppliedPolicy,
        by: &Actor,
    ) -> Result<AppliedPolicyRecord> {
        named("an applied policy's id", id)?;
        let mut writing = self.write().await?;
        writing.touch_account(account, by).await?;
        let sql = "INSERT INTO applied_policies (account, id, content, template, removed, created_at, created_by) \
                   VALUES ($1, $2, $3, $4, 0, $5, $6) ON CONFLICT (account, id) DO NOTHING";
        let template = to_json(&content.template)?;
        let rest = to_json(&AppliedPolicy { template: serde_json::Value::Null, ..content.clone() })?;
        let values = values![account, id, rest, template, writing.now, by.name.as_str()];
        if writing.transaction.run(sql, values).await? == 0 {
            // What the runs of a removed one did is looked up by its id.
            let what = format!("{}, or one of that id that was removed,", shown(account, id));
            return Err(StoreError::Exists(what));
        }
        for credential in content.credentials.values().collect::<std::collections::BTreeSet<_>>() {
            let sql = "INSERT INTO policy_credentials (account, policy, credential) VALUES ($1, $2, $3)";
            writing.transaction.run(sql, values![account, id, credential.as_str()]).await?;
        }
        let created = Change { at: moment(writing.now), by: by.clone() };
        self.finish(writing).await?;
        Ok(AppliedPolicyRecord { account: account.to_owned(), id: id.to_owned(), content, created })
    }

    /// Removes an applied policy, and ends its runs with it.
    ///
    /// # Errors
    /// `Unknown` if there is none.
    pub async fn remove_applied_policy(&self, account: &str, id: &str, by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let sql = "UPDATE applied_policies SET removed = 1 WHERE account = $1 AND id = $2 AND removed = 0";
        if writing.transaction.run(sql, values![account, id]).await? == 0 {
            return Err(StoreError::Unknown(shown(account, id)));
        }
        let sql = "UPDATE runs SET ended_at = $3, ended_by = $4 \
                   WHERE account = $1 AND policy = $2 AND ended_at IS NULL AND expires_at > $3";
        writing.transaction.run(sql, values![account, id, writing.now, by.name.as_str()]).await?;
        self.finish(writing).await
    }

    /// Begins a run.
    ///
    /// # Errors
    /// `Unknown` when its policy is not applied; `Exists` when there is, or was, a run of that id.
    pub async fn start_run(
        &self,
        account: &str,
        policy: &str,
        id: &str,
        digest: [u8; 32],
        lifetime: std::time::Duration,
        by: &Actor,
    ) -> Result<RunRecord> {
        named("a run's id", id)?;
        let mut writing = self.write().await?;
        let sql = "SELECT 1 FROM applied_policies WHERE account = $1 AND id = $2 AND removed = 0";
        if writing.transaction.first(sql, values![account, policy]).await?.is_none() {
            return Err(StoreError::Unknown(shown(account, policy)));
        }
        let created = moment(writing.now);
        let expires_at = created + lifetime;
        let sql = "INSERT INTO runs (account, id, policy, digest, created_at, created_by, expires_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (account, id) DO NOTHING";
        let values = values![account, id, policy, digest.as_slice(), writing.now, by.name.as_str(), millis(expires_at)];
        if writing.transaction.run(sql, values).await? == 0 {
            return Err(StoreError::Exists(shown_run(account, id)));
        }
        self.finish(writing).await?;
        Ok(RunRecord {
            account: account.to_owned(),
            id: id.to_owned(),
            policy: policy.to_owned(),
            digest,
            created: Change { at: created, by: by.clone() },
            expires_at,
            ended: None,
        })
    }

    /// Ends a run. One that has ended stays as it is.
    ///
    /// # Errors
    /// `Unknown` if there is none.
    pub async fn stop_run(&self, account: &str, id: &str, by: &Actor) -> Result<()> {
        let mut writing = self.write().await?;
        let sql = "SELECT 1 FROM runs WHERE account = $1 AND id = $2";
        if writing.transaction.first(sql, values![account, id]).await?.is_none() {
            return Err(StoreError::Unknown(shown_run(account, id)));
        }
        let sql = "UPDATE runs SET ended_at = $3, ended_by = $4 \
                   WHERE account = $1 AND id = $2 AND ended_at IS NULL AND expires_at > $3";
        writing.transaction.run(sql, values![account, id, writing.now, by.name.as_str()]).await?;
        self.finish(writing).await
    }

    /// The newest runs of an applied policy, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn runs(&self, account: &str, policy: &str, most: u32) -> Result<Vec<RunRecord>> {
        let sql = select_runs!("WHERE account = $1 AND policy = $2 ORDER BY created_at DESC, id DESC LIMIT $3");
        let values = values![account, policy, i64::from(most)];
        self.inner.database.all(sql, values).await?.iter().map(run).collect()
    }

    /// One run.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run(&self, account: &str, id: &str) -> Result<Option<RunRecord>> {
        let sql = select_runs!("WHERE account = $1 AND id = $2");
        self.inner.database.first(sql, values![account, id]).await?.as_ref().map(run).transpose()
    }

    /// Adds what runs did: account, run, and calls of one kind. What a run that is not there any more did is nobody's.
    ///
    /// # Errors
    /// When it cannot be written: then nothing is.
    pub async fn add_run_uses(&self, uses: &[(String, String, RunUse)]) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        // In one order, so that two processes do not wait for each other.
        let mut uses: Vec<_> = uses.iter().collect();
        let key = |(account, run, line): &(String, String, RunUse)| {
            [account, run, &line.block, &line.credential, &line.host, &line.method, &line.outcome].map(String::clone)
        };
        uses.sort_by_cached_key(|one| key(one));
        let mut transaction = self.inner.database.begin().await?;
        for (account, run, line) in uses {
            let sql = "INSERT INTO run_uses (account, run, block, credential, host, method, outcome, count, last_used) \
                       SELECT account, id, $3, $4, $5, $6, $7, $8, $9 FROM runs WHERE account = $1 AND id = $2 \
                       ON CONFLICT (account, run, block, credential, host, method, outcome) DO UPDATE SET \
                       count = run_uses.count + excluded.count, last_used = CASE \
                       WHEN excluded.last_used < run_uses.last_used THEN run_uses.last_used ELSE excluded.last_used END";
            let values = values![
                account.as_str(),
                run.as_str(),
                line.block.as_str(),
                line.credential.as_str(),
                line.host.as_str(),
                line.method.as_str(),
                line.outcome.as_str(),
                line.count,
                millis(line.last_used)
            ];
            transaction.run(sql, values).await?;
        }
        transaction.commit().await
    }

    /// What a run did, as far as it was written down.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run_uses(&self, account: &str, run: &str) -> Result<Vec<RunUse>> {
        let sql = "SELECT block, credential, host, method, outcome, count, last_used FROM run_uses \
                   WHERE account = $1 AND run = $2 ORDER BY block, credential, host, method, outcome";
        let line = |row: &Row| {
            Ok(RunUse {
                block: row.get(0)?,
                credential: row.get(1)?,
                host: row.get(2)?,
                method: row.get(3)?,
                outcome: row.get(4)?,
                count: row.get(5)?,
                last_used: moment(row.get(6)?),
            })
        };
        self.inner.database.all(sql, values![account, run]).await?.iter().map(line).collect()
    }

    /// Forgets runs that ended before a time, with what they did, and removed policies that have none left.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_runs(&self, before: SystemTime) -> Result<u64> {
        let mut transaction = self.inner.database.begin().await?;
        let sql = "DELETE FROM runs WHERE COALESCE(ended_at, expires_at) < $1";
        let gone = transaction.run(sql, values![millis(before)]).await?;
        let sql = "DELETE FROM applied_policies WHERE removed = 1 AND NOT EXISTS (SELECT 1 FROM runs r \
                   WHERE r.account = applied_policies.account AND r.policy = applied_policies.id)";
        transaction.run(sql, values![]).await?;
        transaction.commit().await?;
        Ok(gone)
    }
}
