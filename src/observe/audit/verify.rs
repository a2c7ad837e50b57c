//! Checks the record: every chain from its first line to its last, against the marks, against what processes that began later
//! saw, and against the rows of the store.
//!
//! The chain shows a line that was changed, swapped, removed or put in. It cannot show by itself that its end is missing: that
//! is what the mark is for (`PROCESS.mark`), the first line of later processes, which names the ends of the chains before, and
//! the rows. A process that was killed has no last line, and all of its lines; a chain that was cut has fewer than its mark says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::folder::{self, Lines, Mark};
use super::line::{END, Line, LineError, NOTHING, START};
use super::rows::RowHashes;
use super::sweep::REMOVE;
use crate::base::text::hex;

/// The fact of a first line that names the ends of the chains before.
pub(super) const AFTER: &str = "after";

/// So many of them.
const ENDS: usize = 8;

/// The ends of the chains that are there, as a process that begins sees them.
pub(super) fn ends(folder: &Path, own: &str) -> io::Result<String> {
    let mut ends = Vec::new();
    for process in folder::marked(folder)?.into_iter().filter(|process| process != own).take(ENDS) {
        // One that another user left here is no reason not to begin.
        if let Some(mark) = folder::mark(folder, &process).ok().flatten().filter(|mark| mark.number > 0) {
            ends.push(format!("{process}:{}:{}", mark.number, mark.hash));
        }
    }
    Ok(ends.join(" "))
}

/// How a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// With the last line of its process.
    Ended,
    /// Its process lives.
    Running,
    /// Its process was killed: it has no last line, and no line is missing.
    Killed,
    /// Lines are missing at the end.
    Cut,
    /// There is nothing that could tell.
    Unknown,
}

/// One process's lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The process.
    pub process: String,
    /// The number of its first line here.
    pub first: u64,
    /// The number of its last line here.
    pub last: u64,
    /// When the first was written.
    pub since: String,
    /// When the last was written.
    pub until: String,
    /// How it ends.
    pub tail: Tail,
    /// Lines that the store does not have yet.
    pub waiting: u64,
    /// Lines at the beginning that the store has no longer.
    pub forgotten: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file; none for what was found in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// What.
    pub problem: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Findings {
    /// Every chain.
    pub chains: Vec<Chain>,
    /// What is wrong; empty if the record is whole.
    pub problems: Vec<Finding>,
}

/// What is known of the folder before rows and lines are read, so that processes that go on writing meanwhile are judged
/// rightly.
#[derive(Debug)]
pub struct Before {
    folder: PathBuf,
    marks: HashMap<String, Mark>,
    /// How far the store has the lines of each process.
    positions: HashMap<String, u64>,
}

impl Before {
    /// Reads the marks.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let (mut marks, mut positions) = (HashMap::new(), HashMap::new());
        for process in folder::marked(folder)? {
            // First how far the store is, then how far the lines are.
            positions.insert(process.clone(), folder::rows(folder, &process));
            if let Some(mark) = folder::mark(folder, &process)? {
                marks.insert(process, mark);
            }
        }
        Ok(Self { folder: folder.to_owned(), marks, positions })
    }

    /// The processes that there are files of, or were.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn processes(&self) -> io::Result<BTreeSet<String>> {
        let files = folder::files(&self.folder)?.into_iter().map(|file| file.process);
        Ok(files.chain(self.positions.keys().cloned()).collect())
    }
}

/// Checks a whole folder, against rows that were read after `before` was made, if there is a store.
///
/// # Errors
/// When a file cannot be read.
pub fn verify(before: &Before, rows: Option<&RowHashes>) -> io::Result<Findings> {
    let mut check = Check::default();
    for file in folder::files(&before.folder)? {
        check.file(&file.path, &file.process)?;
    }
    check.beginnings();
    check.tails(&before.marks);
    check.anchors();
    if let Some(rows) = rows {
        check.rows(rows, &before.positions);
    }
    Ok(check.findings())
}

/// Checks only what is in these files: what is missing before and after them is not missed.
///
/// # Errors
/// When a file cannot be read.
pub fn verify_files(files: &[PathBuf]) -> io::Result<Findings> {
    let mut sorted = Vec::new();
    for path in files {
        let first = Lines::open(path, 0)?.next()?;
        let line =
            first.and_then(|raw| Line::read(&raw.bytes).map_or_else(|unread| unread.line.map(|line| *line), Some));
        let (process, number) = line.map(|line| (line.process, line.number)).unwrap_or_default();
        sorted.push((process, number, path));
    }
    sorted.sort();
    let mut check = Check::default();
    for (process, _, path) in sorted {
        check.file(path, &process)?;
    }
    Ok(check.findings())
}

/// Where a line stands, for a finding.
#[derive(Debug, Clone, Copy, Default)]
struct At<'a> {
    file: Option<&'a Path>,
    line: Option<u64>,
}

/// A chain as it is walked.
#[derive(Debug, Default)]
struct Walk {
    /// The hash of each line, by its number; those of lines that were changed are not here.
    hashes: BTreeMap<u64, String>,
    first: Option<(u64, String)>,
    last: u64,
    /// What the next line must name as the one before; unknown after a line that cannot be read.
    previous: Option<String>,
    since: String,
    until: String,
    ended: bool,
    /// The last file ends inside a line.
    torn: Option<(PathBuf, u64)>,
    tail: Option<Tail>,
    waiting: u64,
    forgotten: u64,
}

/// The end of a chain, as a process saw it that began later.
#[derive(Debug)]
struct Anchor {
    process: String,
    number: u64,
    hash: String,
    /// Who, and when.
    seen_by: String,
    at: String,
}

#[derive(Debug, Default)]
struct Check {
    walks: BTreeMap<String, Walk>,
    /// Ends of chains that others saw when they began.
    anchors: Vec<Anchor>,
    /// What was removed on purpose, up to which number.
    removed: HashMap<String, u64>,
    /// What was last written before this time may have been removed, by a process whose lines were removed since.
    removed_before: String,
    problems: Vec<Finding>,
}

impl Check {
    fn problem(&mut self, at: At<'_>, process: &str, problem: impl Into<String>) {
        self.problems.push(Finding {
            file: at.file.map(Path::to_owned),
            line: at.line,
            process: Some(process.to_owned()).filter(|process| !process.is_empty()),
            problem: problem.into(),
        });
    }

    fn file(&mut self, path: &Path, process: &str) -> io::Result<()> {
        let walk = self.walks.entry(process.to_owned()).or_default();
        if let Some((torn, line)) = walk.torn.take() {
            let at = At { file: Some(&torn), line: Some(line) };
            self.problem(at, process, "the file ends inside a line, and another follows");
        }
        let mut lines = Lines::open(path, 0)?;
        let mut count = 0;
        while let Some(raw) = lines.next()? {
            count += 1;
            if raw.whole {
                self.line(At { file: Some(path), line: Some(count) }, process, &raw.bytes);
            } else if let Some(walk) = self.walks.get_mut(process) {
                walk.torn = Some((path.to_owned(), count));
            }
        }
        Ok(())
    }

    fn line(&mut self, at: At<'_>, process: &str, bytes: &[u8]) {
        let (line, wrong) = match Line::read(bytes) {
            Ok(line) => (Some(line), None),
            Err(unread) => (unread.line.map(|line| *line), Some(unread.error)),
        };
        if let Some(error) = wrong {
            self.problem(at, process, error.to_string());
        }
        let Some(line) = line.filter(|line| wrong != Some(LineError::Form) && line.process == process) else {
            if wrong.is_none() {
                self.problem(at, process, "this is a line of another process");
            } else if let Some(walk) = self.walks.get_mut(process) {
                // It stands for one line, whatever it was.
                walk.last += 1;
                walk.previous = None;
            }
            return;
        };
        self.link(at, &line, wrong.is_none());
        if wrong.is_none() {
            self.learn(&line);
        }
    }

    /// Holds a line against the one before.
    fn link(&mut self, at: At<'_>, line: &Line, sound: bool) {
        let mut problems = Vec::new();
        let walk = self.walks.entry(line.process.clone()).or_default();
        let expected = walk.last + 1;
        if walk.first.is_none() && walk.last == 0 {
            walk.first = Some((line.number, line.previous.clone()));
            walk.since = line.time.clone();
            if line.number == 1 && (line.previous != hex(&NOTHING) || line.action != START) && sound {
                problems.push("this is not how a chain begins".to_owned());
            }
        } else if line.number < expected && sound {
            self.problem(at, &line.process, format!("line {} stands after line {}", line.number, expected - 1));
            return;
        } else if line.number > expected && sound {
            problems.push(match line.number - expected {
                1 => format!("line {expected} is missing before this one"),
                _ => format!("lines {expected} to {} are missing before this one", line.number - 1),
            });
        } else if walk.previous.as_ref().is_some_and(|previous| *previous != line.previous) && sound {
            problems.push("it does not follow the line before: one of the two was replaced".to_owned());
        }
        if walk.ended {
            problems.push("it stands after the last line of its process".to_owned());
        }
        walk.last = if sound { line.number } else { expected.max(1) };
        walk.previous = sound.then(|| line.hash.clone());
        walk.until = line.time.clone();
        if sound {
            walk.ended = line.action == END;
            walk.hashes.insert(line.number, line.hash.clone());
        }
        for problem in problems {
            self.problem(at, &line.process, problem);
        }
    }

    /// What a line says about other chains.
    fn learn(&mut self, line: &Line) {
        if line.action == START {
            for end in line.facts.get(AFTER).unwrap_or_default().split(' ') {
                let mut parts = end.splitn(3, ':');
                if let (Some(process), Some(number), Some(hash)) = (parts.next(), parts.next(), parts.next())
                    && let Ok(number) = number.parse()
                {
                    self.anchors.push(Anchor {
                        process: process.to_owned(),
                        number,
                        hash: hash.to_owned(),
                        seen_by: line.process.clone(),
                        at: line.time.clone(),
                    });
                }
            }
        } else if line.action == REMOVE
            && let (Some(process), Some(last)) = (line.facts.get("process"), line.facts.get("last"))
            && let Ok(last) = last.parse::<u64>()
        {
            let before = line.facts.get("before").unwrap_or_default();
            if *before > *self.removed_before {
                self.removed_before = before.to_owned();
            }
            let removed = self.removed.entry(process.to_owned()).or_default();
            *removed = last.max(*removed);
        }
    }

    /// Whether a line was removed on purpose.
    fn was_removed(&self, process: &str, number: u64) -> bool {
        self.removed.get(process).is_some_and(|last| number <= *last)
    }

    fn beginnings(&mut self) {
        let late = self.walks.iter().filter_map(|(process, walk)| {
            let (first, _) = walk.first.as_ref()?;
            (*first > 1 && !self.was_removed(process, first - 1)).then(|| (process.clone(), *first))
        });
        for (process, first) in late.collect::<Vec<_>>() {
            self.problem(At::default(), &process, format!("its lines before {first} are missing"));
        }
    }

    /// Holds the ends of the chains against the marks.
    fn tails(&mut self, marks: &HashMap<String, Mark>) {
        let mut problems = Vec::new();
        for (process, walk) in &mut self.walks {
            let torn = walk.torn.take();
            let at = torn.as_ref().map(|(path, line)| (path.clone(), *line));
            let mark = marks.get(process);
            walk.tail = Some(match mark {
                Some(mark) if mark.number > walk.last => {
                    let gone = format!(
                        "it was cut: its last line here is {}, and line {} was on disk",
                        walk.last, mark.number
                    );
                    problems.push((process.clone(), at, gone));
                    Tail::Cut
                }
                Some(mark) if mark.held => Tail::Running,
                Some(_) if walk.ended && torn.is_some() => {
                    problems.push((process.clone(), at, "something stands after the last line of its process".into()));
                    Tail::Ended
                }
                // A line that was being written when the process was killed was promised to nobody.
                Some(_) if !walk.ended => Tail::Killed,
                None if !walk.ended => {
                    let unknown = "it has no last line, and its mark is gone: it may have been cut";
                    problems.push((process.clone(), at, unknown.into()));
                    Tail::Unknown
                }
                _ => Tail::Ended,
            });
            if let Some(mark) = mark
                && walk.hashes.get(&mark.number).is_some_and(|hash| *hash != mark.hash)
            {
                let other = format!("line {} is not the one that its process wrote", mark.number);
                problems.push((process.clone(), None, other));
            }
        }
        for (process, mark) in marks {
            if !self.walks.contains_key(process) && mark.number > 0 && !self.was_removed(process, mark.number) {
                problems.push((process.clone(), None, format!("all of its {} lines are gone", mark.number)));
            }
        }
        problems.sort();
        for (process, at, problem) in problems {
            let at = at.as_ref().map_or_else(At::default, |(path, line)| At { file: Some(path), line: Some(*line) });
            self.problem(at, &process, problem);
        }
    }

    /// Holds the chains against what later processes saw.
    fn anchors(&mut self) {
        for Anchor { process, number, hash, seen_by, at } in std::mem::take(&mut self.anchors) {
            let walk = self.walks.get(&process);
            if self.was_removed(&process, number) || (walk.is_none() && at < self.removed_before) {
                continue;
            }
            let seen = walk.and_then(|walk| walk.hashes.get(&number));
            if seen.is_none_or(|seen| *seen != hash) {
                let what = if seen.is_some() { "is not the one that was" } else { "is gone, which was" };
                let problem = format!("line {number} {what} there when process {seen_by} began");
                self.problem(At::default(), &process, problem);
            }
        }
    }

    /// Holds the chains against the rows of the store.
    fn rows(&mut self, rows: &RowHashes, positions: &HashMap<String, u64>) {
        let mut said = Vec::new();
        for (process, walk) in &mut self.walks {
            let none = BTreeMap::new();
            let rows = rows.get(process).unwrap_or(&none);
            let removed = self.removed.get(process).copied().unwrap_or(0);
            let (mut other, mut gone) = (Vec::new(), Vec::new());
            for (number, hash) in rows {
                match walk.hashes.get(number) {
                    Some(own) if hash.as_ref() != Some(own) => other.push(*number),
                    None if *number > removed => gone.push(*number),
                    _ => {}
                }
            }
            let position = positions.get(process).copied().unwrap_or(0);
            // What the store forgets on demand are its oldest rows; the files have them still.
            let oldest = rows.keys().next().copied().unwrap_or(u64::MAX);
            let missing = walk.hashes.keys().copied().filter(|number| !rows.contains_key(number));
            let (sent, waiting): (Vec<u64>, Vec<u64>) = missing.partition(|number| *number <= position);
            walk.waiting = waiting.len() as u64;
            let (lost, forgotten): (Vec<u64>, Vec<u64>) = sent.into_iter().partition(|number| *number > oldest);
            walk.forgotten = forgotten.len() as u64;
            for (numbers, one, several) in [
                (other, "differs between the file and the store", "differ between the files and the store"),
                (gone, "is in the store and not in the files", "are in the store and not in the files"),
                (lost, "is in the files and gone from the store", "are in the files and gone from the store"),
            ] {
                for range in ranges(&numbers) {
                    let (first, last) = (range.start(), range.end());
                    let what = if first == last {
                        format!("line {first} {one}")
                    } else {
                        format!("lines {first} to {last} {several}")
                    };
                    said.push((process.clone(), what));
                }
            }
        }
        for (process, problem) in said {
            self.problem(At::default(), &process, problem);
        }
    }

    fn findings(self) -> Findings {
        let chains = self.walks.into_iter().filter(|(_, walk)| walk.first.is_some() || walk.last > 0);
        let chains = chains.map(|(process, walk)| Chain {
            process,
            first: walk.first.map_or(1, |(first, _)| first),
            last: walk.last,
            since: walk.since,
            until: walk.until,
            tail: walk.tail.unwrap_or(if walk.ended { Tail::Ended } else { Tail::Unknown }),
            waiting: walk.waiting,
            forgotten: walk.forgotten,
        });
        let mut chains: Vec<_> = chains.collect();
        chains.sort_by(|one, other| one.since.cmp(&other.since));
        Findings { chains, problems: self.problems }
    }
}

/// Numbers in order, as ranges.
fn ranges(numbers: &[u64]) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(range) if *range.end() + 1 == *number => *range = *range.start()..=*number,
            _ => ranges.push(*number..=*number),
        }
    }
    ranges
}
