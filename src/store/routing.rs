//! What the proxy runs on, in one consistent read. Of the credentials only those that bindings name, however many others
//! an account has.

use super::bindings::binding;
use super::callers::{callers, select_callers};
use super::credentials::{record, select_records};
use super::database::values;
use super::{Result, Routing, Store};

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
        let credentials = snapshot.all(sql, values![]).await?;
        let proofs = snapshot.all(select_callers!(""), values![]).await?;
        snapshot.commit().await?;
        Ok(Routing {
            revision: revision.map_or(Ok(0), |row| row.get(0))?,
            bindings: bindings.iter().map(binding).collect::<Result<_>>()?,
            credentials: credentials.iter().map(record).collect::<Result<_>>()?,
            callers: callers(&proofs)?,
        })
    }
}
