//! The audit record's rows: the lines of the files once more, to be searched.

use std::borrow::Cow;
use std::time::SystemTime;

use super::database::{Row, Value, values};
use super::{Result, Store, from_json, millis, moment, to_json};
use crate::base::AuditEvent;

/// One row of the audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The process that wrote it: random, new at each start.
    pub process: String,
    /// Its number in that process's chain, from 1.
    pub number: i64,
    /// When.
    pub at: SystemTime,
    /// The event.
    pub event: AuditEvent,
    /// The whole JSON line, which the hash is over.
    pub line: String,
}

/// What to look for in the audit record.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// The account.
    pub account: Option<String>,
    /// What it happened to.
    pub subject: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    /// What happened; a prefix such as `credential.`.
    pub action: Option<String>,
    /// From this time.
    pub since: Option<SystemTime>,
    /// Before this time.
    pub until: Option<SystemTime>,
    /// So many at most, the newest first.
    pub limit: usize,
}

fn audit_row(row: &Row) -> Result<AuditRow> {
    let facts: Vec<(String, String)> = from_json(&row.get::<String>(8)?)?;
    Ok(AuditRow {
        process: row.get(0)?,
        number: row.get(1)?,
        at: moment(row.get(2)?),
        event: AuditEvent {
            action: row.get::<String>(3)?.into(),
            account: row.get(4)?,
            subject: row.get(5)?,
            actor: row.get(6)?,
            outcome: row.get::<String>(7)?.into(),
            facts: facts.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect(),
        },
        line: row.get(9)?,
    })
}

impl Store {
    /// Adds rows as they were written to the file. One that is there already stays, so that a batch may come again.
    ///
    /// # Errors
    /// When they cannot be written: then none is.
    pub async fn add_audit_rows(&self, rows: &[AuditRow]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.inner.database.begin().await?;
        for row in rows {
            let sql = "INSERT INTO audit (process, number, at, action, account, subject, actor, outcome, facts, line) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (process, number) DO NOTHING";
            let AuditEvent { action, account, subject, actor, outcome, facts, .. } = &row.event;
            let values = values![
                row.process.as_str(),
                row.number,
                millis(row.at),
                &**action,
                account.as_str(),
                subject.as_deref(),
                actor.as_deref(),
                &**outcome,
                to_json(facts)?,
                row.line.as_str(),
            ];
            transaction.run(sql, values).await?;
        }
        transaction.commit().await
    }

    /// The rows that a query asks for, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_rows(&self, query: &AuditQuery) -> Result<Vec<AuditRow>> {
        let mut sql = "SELECT process, number, at, action, account, subject, actor, outcome, facts, line FROM audit \
                       WHERE 1 = 1"
            .to_owned();
        let mut values: Vec<Value> = Vec::new();
        let mut narrow = |condition: &str, value: Option<Value>| {
            if let Some(value) = value {
                values.push(value);
                sql.push_str(" AND ");
                sql.push_str(&condition.replace("$n", &format!("${}", values.len())));
            }
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        narrow("account = $n", text(&query.account));
        narrow("subject = $n", text(&query.subject));
        narrow("actor = $n", text(&query.actor));
        narrow("substr(action, 1, length($n)) = $n", text(&query.action));
        narrow("at >= $n", query.since.map(|since| millis(since).into()));
        narrow("at < $n", query.until.map(|until| millis(until).into()));
        values.extend(values![i64::try_from(query.limit).unwrap_or(i64::MAX)]);
        sql.push_str(&format!(" ORDER BY at DESC, process, number DESC LIMIT ${}", values.len()));
        // Put together from the conditions above and nothing that anybody gave.
        self.inner.database.all(sqlx::AssertSqlSafe(sql), values).await?.iter().map(audit_row).collect()
    }

    /// The numbers of the rows of a process, in order; what `audit verify` compares with its file.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_lines(&self, process: &str, after: i64, limit: usize) -> Result<Vec<(i64, String)>> {
        let sql = "SELECT number, line FROM audit WHERE process = $1 AND number > $2 ORDER BY number LIMIT $3";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.inner.database.all(sql, values![process, after, limit]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    }
}
