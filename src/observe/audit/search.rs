//! Looks for lines in the files, or in the rows of a store.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::folder::{self, Lines};
use super::line::Line;
use crate::store::{AuditQuery, Store, StoreError};

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct Query {
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
    /// So many at most, the newest.
    pub limit: usize,
}

impl Query {
    /// Whether a line is one of those.
    pub fn finds(&self, line: &Line) -> bool {
        let is = |wanted: &Option<String>, there: &Option<String>| wanted.is_none() || wanted == there;
        let at = || line.at().unwrap_or(SystemTime::UNIX_EPOCH);
        is(&self.account, &line.account)
            && is(&self.subject, &line.subject)
            && is(&self.actor, &line.actor)
            && self.action.as_ref().is_none_or(|prefix| line.action.starts_with(prefix.as_str()))
            && self.since.is_none_or(|since| at() >= since)
            && self.until.is_none_or(|until| at() < until)
    }
}

/// The lines that a query is for, the oldest first, and how many lines could not be read.
///
/// # Errors
/// When a file cannot be read.
pub fn search(folder: &Path, query: &Query) -> io::Result<(Vec<Line>, u64)> {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    for file in folder::files(folder)? {
        let mut lines = Lines::open(&file.path, 0)?;
        while let Some(raw) = lines.next()?.filter(|raw| raw.whole) {
            match Line::read(&raw.bytes) {
                Ok(line) if query.finds(&line) => found.push(line),
                Ok(_) => {}
                Err(_) => unreadable += 1,
            }
        }
        // What is beyond the limit must not be held while the rest is read.
        if found.len() > query.limit.max(1000).saturating_mul(4) {
            newest(&mut found, query.limit);
        }
    }
    newest(&mut found, query.limit);
    Ok((found, unreadable))
}

/// The same, in the rows of a store.
///
/// # Errors
/// When the store cannot be read.
pub async fn search_rows(store: &Store, query: &Query) -> Result<(Vec<Line>, u64), StoreError> {
    let Query { account, subject, actor, action, since, until, limit } = query.clone();
    let rows = store.audit_rows(&AuditQuery { account, subject, actor, action, since, until, limit }).await?;
    let (mut found, mut unreadable) = (Vec::new(), 0);
    for row in rows {
        match Line::read(row.line.as_bytes()) {
            Ok(line) => found.push(line),
            Err(_) => unreadable += 1,
        }
    }
    newest(&mut found, limit);
    Ok((found, unreadable))
}

/// Sorts by time, and keeps the newest.
fn newest(found: &mut Vec<Line>, limit: usize) {
    // All times have the same form, so their order is that of the texts.
    found.sort_by(|one, other| (&one.time, &one.process, one.number).cmp(&(&other.time, &other.process, other.number)));
    found.drain(..found.len().saturating_sub(limit));
}
