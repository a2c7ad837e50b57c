//! The chain of this process, on disk: each batch of events is written whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::folder::{self, OwnMark};
use super::line::{Line, NOTHING};
use crate::base::AuditEvent;

const DAY: u64 = 24 * 3600;

/// The lines of this process.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    process: String,
    /// A file that has grown beyond this is followed by another.
    file_bytes: u64,
    mark: OwnMark,
    open: Option<Open>,
    number: u64,
    previous: [u8; 32],
}

/// The file that is written to.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    /// What of it is ours and on disk.
    length: u64,
    /// The day of its first line, since 1970.
    day: u64,
    /// Bytes after `length` may be left of a batch that failed.
    torn: bool,
}

impl Journal {
    /// A chain without lines yet.
    pub(super) fn begin(folder: &Path, process: &str, file_bytes: u64) -> io::Result<Self> {
        folder::prepare(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            process: process.to_owned(),
            file_bytes,
            mark: OwnMark::create(folder, process)?,
            open: None,
            number: 0,
            previous: NOTHING,
        })
    }

    /// The number of the last line on disk.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Writes events, one line each, and comes back when they are on disk. After a failure nothing of them is in the chain,
    /// and the same can be tried again.
    pub(super) fn append<'a>(
        &mut self,
        events: impl ExactSizeIterator<Item = (SystemTime, &'a AuditEvent)>,
    ) -> io::Result<()> {
        let (mut number, mut previous, mut day) = (self.number, self.previous, None);
        let mut bytes = Vec::with_capacity(events.len() * 512);
        for (at, event) in events {
            number += 1;
            day.get_or_insert(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / DAY);
            previous = Line::of(event, at, &self.process, number, &previous).write(&mut bytes)?;
        }
        let Some(day) = day else { return Ok(()) };
        let open = match self.fitting(day)? {
            Some(open) => open,
            None => {
                let (path, file) = folder::create(&self.folder, &self.process, self.number + 1)?;
                self.open.insert(Open { path, file, length: 0, day, torn: false })
            }
        };
        open.append(&bytes)?;
        (self.number, self.previous) = (number, previous);
        // It may lag behind the lines, and never be ahead of them: a failure costs no more than that.
        if let Err(error) = self.mark.set(number, &previous) {
            tracing::warn!(target: "countersign::audit", %error, "the mark of the audit record cannot be written");
        }
        Ok(())
    }

    /// The file that is open, unless another must begin.
    fn fitting(&mut self, day: u64) -> io::Result<Option<&mut Open>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        if !open.is_ours()? {
            tracing::error!(
                target: "countersign::audit",
                file = %open.path.display(),
                "somebody else removed or changed the file of the audit record; the record goes on in a new one"
            );
            self.open = None;
        } else if open.length >= self.file_bytes || (open.day != day && open.length > 0) {
            self.open = None;
        }
        Ok(self.open.as_mut())
    }
}

impl Open {
    /// Whether the file at its path is still this one, as we left it. What is left of a failed batch is taken away.
    fn is_ours(&mut self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        if self.torn && own.len() > self.length {
            self.file.set_len(self.length)?;
        } else if own.len() != self.length {
            return Ok(false);
        }
        self.torn = false;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.torn = true;
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Tried at once so that a reader does not see half a batch, and again before the next attempt.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.torn = false;
        Ok(())
    }
}
