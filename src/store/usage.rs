//! How often credentials were used, over all processes. No change that anybody has to obey, so no revision.

use super::database::values;
use super::{Result, Store, UsageRecord, millis, moment};

impl Store {
    /// Adds uses: account, id, and how many, the last, by whom.
    ///
    /// # Errors
    /// When they cannot be written: then none is.
    pub async fn add_usage(&self, uses: &[(String, String, UsageRecord)]) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        // In one order, so that two processes do not wait for each other.
        let mut uses: Vec<_> = uses.iter().collect();
        uses.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        let mut transaction = self.inner.database.begin().await?;
        for (account, id, add) in uses {
            let sql = "INSERT INTO usage (account, id, count, last_used, last_caller) VALUES ($1, $2, $3, $4, $5) \
                       ON CONFLICT (account, id) DO UPDATE SET count = usage.count + excluded.count, \
                       last_caller = CASE WHEN excluded.last_used < usage.last_used THEN usage.last_caller \
                       ELSE excluded.last_caller END, \
                       last_used = CASE WHEN excluded.last_used < usage.last_used THEN usage.last_used \
                       ELSE excluded.last_used END";
            let last = millis(add.last_used);
            let values = values![account.as_str(), id.as_str(), add.count, last, add.last_caller.as_str()];
            transaction.run(sql, values).await?;
        }
        transaction.commit().await
    }

    /// The uses of a credential; nothing if it was never used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn usage(&self, account: &str, id: &str) -> Result<Option<UsageRecord>> {
        let sql = "SELECT count, last_used, last_caller FROM usage WHERE account = $1 AND id = $2";
        let row = self.inner.database.first(sql, values![account, id]).await?;
        row.map(|row| Ok(UsageRecord { count: row.get(0)?, last_used: moment(row.get(1)?), last_caller: row.get(2)? }))
            .transpose()
    }
}
