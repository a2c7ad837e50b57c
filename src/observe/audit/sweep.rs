//! Removes files that are older than `audit.keep`, and says so in the record before it does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{self, LineFile, Lines};
use super::line::Line;
use crate::base::AuditEvent;

/// The event of a removal.
pub(super) const REMOVE: &str = "audit.remove";

/// A file to remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outdated {
    pub(super) path: PathBuf,
    pub(super) process: String,
    first: u64,
    last: u64,
    hash: String,
    /// It is the last of a process that has ended: its mark goes as well.
    whole: bool,
}

impl Outdated {
    /// What the record says of it.
    pub(super) fn event(&self, keep: Duration, now: SystemTime) -> AuditEvent {
        let before = humantime::format_rfc3339_millis(now.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH));
        AuditEvent::new(REMOVE, "", "ok")
            .fact("process", self.process.clone())
            .fact("first", self.first.to_string())
            .fact("last", self.last.to_string())
            .fact("hash", self.hash.clone())
            .fact("before", before.to_string())
    }

    /// Removes it.
    pub(super) fn remove(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            // Another process of this folder was faster.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if self.whole { folder::forget(folder, &self.process) } else { Ok(()) }
    }
}

/// The files whose last change is longer ago than `keep`, from the beginning of each chain on. The file that a living process
/// writes to is none of them, and with `rows` neither is one that the store does not have yet.
pub(super) fn outdated(folder: &Path, keep: Duration, now: SystemTime, rows: bool) -> io::Result<Vec<Outdated>> {
    let files = folder::files(folder)?;
    let mut found = Vec::new();
    for chain in files.chunk_by(|one, other| one.process == other.process) {
        let Some(process) = chain.first().map(|file| file.process.clone()) else { continue };
        let held = folder::mark(folder, &process)?.is_some_and(|mark| mark.held);
        let removable = if held { &chain[..chain.len() - 1] } else { chain };
        for file in removable {
            let age = now.duration_since(fs::metadata(&file.path)?.modified()?).unwrap_or_default();
            let Some((last, hash)) = last_line(file)? else { break };
            if age < keep || (rows && last > folder::rows(folder, &process)) {
                break;
            }
            let whole = chain.last() == Some(file);
            let LineFile { path, process, first } = file.clone();
            found.push(Outdated { path, process, first, last, hash, whole });
        }
    }
    Ok(found)
}

/// The number and the hash of the last line; nothing for a file that is not as it was written.
fn last_line(file: &LineFile) -> io::Result<Option<(u64, String)>> {
    let mut lines = Lines::open(&file.path, 0)?;
    let mut last = None;
    while let Some(raw) = lines.next()?.filter(|raw| raw.whole) {
        last = Line::read(&raw.bytes).ok();
    }
    Ok(last.map(|line| (line.number, line.hash)))
}
