//! The folder of the record: which files there are, whose they are, and how far each process has come.
//!
//! `PROCESS-NUMBER.jsonl` holds the lines of one process from that number on. Beside them are `PROCESS.mark`, the number and
//! the hash of the last line that is on disk, which the process holds locked while it lives, and `PROCESS.rows`, the number
//! of the last line that the store has.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::line::NOTHING;
use crate::base::text::hex;

const LINES: &str = "jsonl";
const MARK: &str = "mark";
const ROWS: &str = "rows";

/// A line longer than this is none of ours: facts are cut, and there are few.
const LONGEST_LINE: usize = 1024 * 1024;

/// Makes the folder, for its owner alone.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The file for the lines of a process from this number on; never one that is there already.
pub(super) fn create(folder: &Path, process: &str, first: u64) -> io::Result<(PathBuf, File)> {
    let path = folder.join(format!("{process}-{first:012}.{LINES}"));
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
    // Its name must be on disk as well as its content.
    File::open(folder)?.sync_all()?;
    Ok((path, file))
}

/// One of the files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineFile {
    pub(super) process: String,
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// Every file of lines, by process and number.
pub(super) fn files(folder: &Path) -> io::Result<Vec<LineFile>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == LINES)
            && let Some((process, first)) = stem.rsplit_once('-')
            && let Ok(first) = first.parse()
        {
            found.push(LineFile { process: process.to_owned(), first, path });
        }
    }
    found.sort();
    Ok(found)
}

/// The processes that have a mark, the newest first.
pub(super) fn marked(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == MARK)
            && let Some(process) = path.file_stem().and_then(|stem| stem.to_str())
        {
            found.push((entry.metadata()?.modified()?, process.to_owned()));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, process)| process).collect())
}

/// The last line of a process that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) hash: String,
    /// The process lives.
    pub(super) held: bool,
}

/// The mark of a process; nothing if it has none, or nothing readable.
pub(super) fn mark(folder: &Path, process: &str) -> io::Result<Option<Mark>> {
    let mut file = match File::open(folder.join(format!("{process}.{MARK}"))) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Asked before it is read: who holds it afterwards has written no more than its files will show.
    let held = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
    let mut text = String::new();
    if file.read_to_string(&mut text).is_err() {
        return Ok(None);
    }
    let parsed = text.trim_end().split_once(' ').and_then(|(number, hash)| Some((number.parse().ok()?, hash)));
    Ok(parsed.map(|(number, hash)| Mark { number, hash: hash.to_owned(), held }))
}

/// The mark of this process, held while it lives.
#[derive(Debug)]
pub(super) struct OwnMark(File);

impl OwnMark {
    pub(super) fn create(folder: &Path, process: &str) -> io::Result<Self> {
        let path = folder.join(format!("{process}.{MARK}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.try_lock().map_err(|error| io::Error::other(error.to_string()))?;
        let mark = Self(file);
        // Its room is taken now: later it must not need any.
        mark.set(0, &NOTHING)?;
        mark.0.sync_all()?;
        Ok(mark)
    }

    /// Says how far the lines on disk go. It always has the same length, so it needs no room that it does not have.
    pub(super) fn set(&self, number: u64, hash: &[u8; 32]) -> io::Result<()> {
        self.0.write_all_at(format!("{number:020} {}\n", hex(hash)).as_bytes(), 0)
    }
}

/// The number of the last line of a process that the store has.
pub(super) fn rows(folder: &Path, process: &str) -> u64 {
    let text = fs::read_to_string(folder.join(format!("{process}.{ROWS}"))).unwrap_or_default();
    // What cannot be read is written again; the store knows a row that it has.
    text.trim().parse().unwrap_or(0)
}

/// Notes the number of the last line of a process that the store has.
pub(super) fn set_rows(folder: &Path, process: &str, number: u64) -> io::Result<()> {
    let path = folder.join(format!("{process}.{ROWS}"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(format!("{number:020}\n").as_bytes(), 0)
}

/// Removes what is left of a process whose lines are gone.
pub(super) fn forget(folder: &Path, process: &str) -> io::Result<()> {
    for kind in [MARK, ROWS] {
        match fs::remove_file(folder.join(format!("{process}.{kind}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What a file holds, line by line.
pub(super) struct Lines {
    reader: BufReader<File>,
}

/// A line as it stands in its file.
pub(super) struct RawLine {
    /// Without its line end.
    pub(super) bytes: Vec<u8>,
    /// It has a line end.
    pub(super) whole: bool,
}

impl Lines {
    pub(super) fn open(path: &Path, from: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, file) })
    }

    /// The next line; nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<RawLine>> {
        let mut bytes = Vec::new();
        let limit = LONGEST_LINE as u64;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut bytes)?;
        let whole = bytes.last() == Some(&b'\n');
        if whole {
            bytes.pop();
        }
        Ok((read > 0).then_some(RawLine { bytes, whole }))
    }
}
