//! Brings the lines from their files into the store, in order and in batches, and notes how far it has come.
//!
//! The files are the record; the rows are for those who search it from elsewhere. A store that is away for a week is caught
//! up with afterwards, by whatever process then runs: so are the lines of processes that have ended.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::folder::{self, Lines};
use super::line::Line;
use crate::base::{BoxFuture, Clock};
use crate::store::{AuditRow, Store, StoreError};

/// Rows of one insertion at most.
const BATCH: usize = 500;

/// Rows that are read at once.
const PAGE: usize = 5000;

/// How long nothing is tried after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What ended processes left behind is looked for this often: they may have ended since.
const SWEEP: Duration = Duration::from_secs(300);

/// What takes rows. One that it has already it leaves as it is.
pub trait RowSink: Send + Sync + fmt::Debug {
    /// Adds rows.
    fn add(&self, rows: Vec<AuditRow>) -> BoxFuture<'_, Result<(), StoreError>>;
}

impl RowSink for Store {
    fn add(&self, rows: Vec<AuditRow>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.add_audit_rows(&rows).await })
    }
}

/// The hashes of rows by process and number; nothing for a row that is not as it was written.
pub type RowHashes = BTreeMap<String, BTreeMap<u64, Option<String>>>;

/// Reads the rows of some processes, for a comparison with their files.
///
/// # Errors
/// When the store cannot be read.
pub async fn row_hashes(store: &Store, processes: impl IntoIterator<Item = String>) -> Result<RowHashes, StoreError> {
    let mut hashes = RowHashes::new();
    for process in processes {
        let of_process = hashes.entry(process.clone()).or_default();
        let mut after = 0;
        loop {
            let page = store.audit_lines(&process, after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            of_process.extend(page.iter().map(|(number, line)| row_hash(&process, *number, line)));
        }
    }
    Ok(hashes)
}

/// The hash of a row, if it is as it was written.
pub(super) fn row_hash(process: &str, number: i64, line: &str) -> (u64, Option<String>) {
    let number = u64::try_from(number).unwrap_or(0);
    let line = Line::read(line.as_bytes()).ok().filter(|line| line.process == process && line.number == number);
    (number, line.map(|line| line.hash))
}

/// Runs until it is dropped, or the process that writes has ended and everything is in the store.
pub(super) async fn keep(
    folder: &Path,
    own: &str,
    clock: &dyn Clock,
    mut written: watch::Receiver<u64>,
    store: &dyn RowSink,
) {
    let mut swept = None;
    let mut cursor = Cursor::new(folder, own);
    loop {
        let instant = clock.instant();
        if swept.is_none_or(|at| instant.saturating_duration_since(at) >= SWEEP) {
            swept = Some(instant);
            for (process, end) in left_behind(folder, own) {
                let (mut cursor, read) = drain_to(Cursor::new(folder, &process), end, clock, store).await;
                if read {
                    // What was cut off will not come any more.
                    cursor.at = end;
                    cursor.note();
                }
            }
        }
        let there = *written.borrow_and_update();
        cursor = drain_to(cursor, there, clock, store).await.0;
        let again = clock.sleep_until(clock.instant() + SWEEP);
        tokio::select! {
            changed = written.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Ended processes with lines that the store does not have, and the last of them.
fn left_behind(folder: &Path, own: &str) -> Vec<(String, u64)> {
    let behind = |process: String| {
        let mark = folder::mark(folder, &process).ok().flatten()?;
        (!mark.held && mark.number > folder::rows(folder, &process)).then_some((process, mark.number))
    };
    let marked = folder::marked(folder).unwrap_or_default().into_iter();
    marked.filter(|process| process != own).filter_map(behind).collect()
}

/// Brings everything up to a number into the store, however long that takes. Says whether it could be read.
async fn drain_to(mut cursor: Cursor, there: u64, clock: &dyn Clock, store: &dyn RowSink) -> (Cursor, bool) {
    let mut pause = PAUSE.0;
    while cursor.at < there {
        let outcome;
        (cursor, outcome) = read(cursor, there).await;
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(target: "countersign::audit", %error, "the audit record cannot be read for the store");
                return (cursor, false);
            }
        };
        if rows.is_empty() {
            return (cursor, true);
        }
        let mut rows = rows;
        while let Err(error) = store.add(rows.clone()).await {
            if matches!(error, StoreError::Invalid(_)) && rows.len() > 1 {
                // One of them does not fit; the others must not wait for it.
                for row in std::mem::take(&mut rows) {
                    add_alone(row, clock, store).await;
                }
                break;
            }
            if matches!(error, StoreError::Invalid(_)) {
                tracing::error!(target: "countersign::audit", %error, "a line of the record is in its file alone");
                break;
            }
            // Said at first and at the end of growing pauses, not each time: it may last for days.
            if pause == PAUSE.0 || pause == PAUSE.1 {
                tracing::warn!(target: "countersign::audit", %error, "the store does not take the audit record; it waits");
            }
            clock.sleep_until(clock.instant() + pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        pause = PAUSE.0;
        cursor.note();
    }
    (cursor, true)
}

/// Brings one line, unless it is one that no store takes.
async fn add_alone(row: AuditRow, clock: &dyn Clock, store: &dyn RowSink) {
    let number = row.number;
    while let Err(error) = store.add(vec![row.clone()]).await {
        if let StoreError::Invalid(why) = error {
            tracing::error!(target: "countersign::audit", why, number, "a line of the record is in its file alone");
            return;
        }
        clock.sleep_until(clock.instant() + PAUSE.0).await;
    }
}

async fn read(mut cursor: Cursor, there: u64) -> (Cursor, io::Result<Vec<AuditRow>>) {
    let fallback = cursor.clone();
    let task = tokio::task::spawn_blocking(move || {
        let rows = cursor.read(there);
        (cursor, rows)
    });
    task.await.unwrap_or_else(|error| (fallback, Err(io::Error::other(error.to_string()))))
}

/// How far the lines of a process are in the store.
#[derive(Debug, Clone)]
struct Cursor {
    folder: PathBuf,
    process: String,
    /// The last line that was read.
    at: u64,
    /// The file it was read from, and where the next line begins.
    place: Option<(PathBuf, u64)>,
}

impl Cursor {
    fn new(folder: &Path, process: &str) -> Self {
        let at = folder::rows(folder, process);
        Self { folder: folder.to_owned(), process: process.to_owned(), at, place: None }
    }

    /// The next rows, up to a number; none when there are no more.
    fn read(&mut self, there: u64) -> io::Result<Vec<AuditRow>> {
        if let Some((path, offset)) = self.place.take() {
            let rows = self.read_file(path, offset, there)?;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        let read = self.place.as_ref().map(|(path, _)| path.clone());
        let mut files = folder::files(&self.folder)?;
        files.retain(|file| file.process == self.process && Some(&file.path) != read.as_ref());
        let begin = files.iter().rposition(|file| file.first <= self.at + 1).unwrap_or(0);
        for file in files.drain(..).skip(begin) {
            let rows = self.read_file(file.path, 0, there)?;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    fn read_file(&mut self, path: PathBuf, mut offset: u64, there: u64) -> io::Result<Vec<AuditRow>> {
        let mut rows = Vec::new();
        let mut lines = Lines::open(&path, offset)?;
        while rows.len() < BATCH && self.at < there {
            let Some(raw) = lines.next()?.filter(|raw| raw.whole) else { break };
            offset += raw.bytes.len() as u64 + 1;
            match row(&raw.bytes) {
                Some(row) if row.process == self.process => {
                    let number = u64::try_from(row.number).unwrap_or(0);
                    if number > self.at {
                        self.at = number;
                        rows.push(row);
                    }
                }
                _ => tracing::error!(
                    target: "countersign::audit",
                    file = %path.display(),
                    "a line of the audit record was changed; `countersign audit verify` says which"
                ),
            }
        }
        self.place = Some((path, offset));
        Ok(rows)
    }

    /// Notes that the store has everything so far.
    fn note(&self) {
        // What is not noted is sent once more after a restart.
        if let Err(error) = folder::set_rows(&self.folder, &self.process, self.at) {
            tracing::debug!(target: "countersign::audit", %error, "the place in the audit record cannot be noted");
        }
    }
}

/// The row of a line; nothing if it is not as it was written.
fn row(bytes: &[u8]) -> Option<AuditRow> {
    let line = Line::read(bytes).ok()?;
    Some(AuditRow {
        number: i64::try_from(line.number).ok()?,
        at: line.at()?,
        event: line.event(),
        process: line.process,
        line: String::from_utf8(bytes.to_vec()).ok()?,
    })
}
