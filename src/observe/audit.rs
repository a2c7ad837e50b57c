//! The audit record: every change, every refused use and every exchange of a token, as one line of JSON in a file and as a
//! row of the store.
//!
//! One thread writes: whatever came while it wrote goes together, with one synchronization. While nothing can be written,
//! [`AuditSink::blocked`] says so, no credential is used, and the lines wait in memory; they are tried again each second.
//! **Never loses or reorders a line that it accepted, never says that something was done which was refused for want of it.**

mod folder;
mod journal;
mod line;
mod queue;
mod rows;
mod search;
mod sweep;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, oneshot, watch};

use self::journal::Journal;
pub use self::line::{Facts, Line};
use self::queue::{Queue, Reply, Waiting};
pub use self::rows::{RowHashes, RowSink, row_hashes};
pub use self::search::{Query, search, search_rows};
pub use self::verify::{Before, Chain, Finding, Findings, Tail, verify, verify_files};
use crate::base::text::hex;
use crate::base::{AuditEvent, AuditSink, AuditUnavailable, BoxFuture, Clock, Deps};

/// After a failure, and while repetitions are counted, the writer is woken this often.
const TICK: Duration = Duration::from_secs(1);

/// Whoever waits longer for a line to be on disk is refused: a disk that does not answer is no better than a full one.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many events go with one synchronization at most.
const BATCH: usize = 1000;

/// The least that `audit.file_bytes` may be.
pub const SMALLEST_FILE: u64 = 64 * 1024;

/// How often outdated files are looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// How many lines that could not be written before the end are shown in the log instead.
const LAST_WORDS: usize = 1000;

/// The `audit` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Holds the files; made at the start, 0700.
    pub directory: PathBuf,
    /// Whether the lines are also rows of the store, where there is one.
    pub rows: bool,
    /// A file that has grown beyond this is followed by another; so is one of yesterday.
    pub file_bytes: u64,
    /// Files that are older are removed, which is itself recorded; without it none ever is.
    #[serde(deserialize_with = "crate::base::duration::deserialize_option")]
    pub keep: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directory: "state/audit".into(), rows: true, file_bytes: 64 * 1024 * 1024, keep: None }
    }
}

/// The record of this process. Clones share it.
#[derive(Clone)]
pub struct AuditLog(Arc<Handle>);

/// With the last one the thread ends.
struct Handle(Arc<Shared>);

struct Shared {
    settings: Settings,
    process: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// There is something for the writer.
    work: Condvar,
    /// There is something for the ticker: repetitions, or a failure.
    ticks: Arc<Notify>,
    /// See [`State::trouble`]: all that a use looks at.
    blocked: AtomicBool,
    /// The number of the last line on disk.
    written: watch::Sender<u64>,
    /// There is a store that takes rows.
    rows: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Why the last attempt failed.
    trouble: Option<AuditUnavailable>,
    /// A second has passed since.
    retry: bool,
    closing: bool,
    closed: Option<oneshot::Sender<()>>,
}

impl AuditLog {
    /// Opens the record of this process, and writes its first line. Within a runtime.
    ///
    /// # Errors
    /// Why it cannot be written, and what to change.
    pub fn open(settings: &Settings, deps: &Deps) -> Result<Self, String> {
        let mut name = [0; 8];
        if !deps.random.fill(&mut name) {
            return Err("the system has no randomness to give".into());
        }
        let process = hex(&name);
        let folder = &settings.directory;
        let fail = |error: std::io::Error| {
            format!("the audit record cannot be written to {} (`audit.directory`): {error}", folder.display())
        };
        let mut journal = Journal::begin(folder, &process, settings.file_bytes).map_err(fail)?;
        let mut start = AuditEvent::new(line::START, "", "ok")
            .fact("version", env!("CARGO_PKG_VERSION"))
            .fact("pid", std::process::id().to_string());
        let ends = verify::ends(folder, &process).map_err(fail)?;
        if !ends.is_empty() {
            start = start.fact(verify::AFTER, ends);
        }
        journal.append([(deps.clock.now(), &start)].into_iter()).map_err(fail)?;
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            process,
            clock: Arc::clone(&deps.clock),
            state: Mutex::default(),
            work: Condvar::new(),
            ticks: Arc::default(),
            blocked: AtomicBool::new(false),
            written: watch::Sender::new(journal.number()),
            rows: AtomicBool::new(false),
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.write(journal))
            .map_err(|error| format!("no thread for the audit record: {error}"))?;
        tokio::spawn(tick(Arc::downgrade(&shared)));
        if let Some(keep) = settings.keep {
            tokio::spawn(sweep(Arc::downgrade(&shared), keep));
        }
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.0.0.settings
    }

    /// Brings the lines into the store, those of ended processes too; until it is dropped.
    pub async fn keep_rows(&self, store: Arc<dyn RowSink>) {
        let shared = &self.0.0;
        shared.rows.store(true, Ordering::Relaxed);
        rows::keep(&shared.settings.directory, &shared.process, &*shared.clock, shared.written.subscribe(), &*store)
            .await;
    }

    /// Writes what waits, and the last line. What cannot be written is shown in the log.
    pub async fn close(&self) {
        let shared = &self.0.0;
        let (tell, closed) = oneshot::channel();
        {
            let mut state = shared.lock();
            if state.closing {
                return;
            }
            state.closing = true;
            state.closed = Some(tell);
        }
        shared.work.notify_one();
        let patience = shared.clock.sleep_until(shared.clock.instant() + PATIENCE);
        tokio::select! {
            _ = closed => {}
            () = patience => {
                tracing::error!(target: "countersign::audit", "the disk of the audit record does not answer");
            }
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditLog").field(&self.0.0.settings.directory).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.work.notify_one();
        self.0.ticks.notify_one();
    }
}

impl AuditSink for AuditLog {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>> {
        Box::pin(self.0.0.record(event))
    }

    fn note(&self, event: AuditEvent) {
        let shared = &self.0.0;
        let (now, instant) = (shared.clock.now(), shared.clock.instant());
        let mut state = shared.lock();
        let waiting = state.queue.len();
        state.queue.note(event, now, instant);
        if state.queue.len() > waiting {
            shared.work.notify_one();
            shared.ticks.notify_one();
        }
    }

    fn blocked(&self) -> Option<AuditUnavailable> {
        if !self.0.0.blocked.load(Ordering::Relaxed) {
            return None;
        }
        self.0.0.lock().trouble.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn record(&self, mut event: AuditEvent) -> Result<(), AuditUnavailable> {
        let (reply, mut written): (Reply, _) = oneshot::channel();
        let (now, instant) = (self.clock.now(), self.clock.instant());
        {
            let mut state = self.lock();
            let refused = match &state.trouble {
                Some(trouble) => Some(trouble.clone()),
                None if state.closing => Some(AuditUnavailable("Countersign is ending".into())),
                None if state.queue.is_full() => Some(AuditUnavailable("too much waits to be written".into())),
                None => None,
            };
            if let Some(why) = refused {
                event.outcome = queue::REFUSED.into();
                state.queue.note(event, now, instant);
                drop(state);
                self.ticks.notify_one();
                return Err(why);
            }
            state.queue.push(Waiting { at: now, event, reply: Some(reply) });
        }
        self.work.notify_one();
        tokio::select! {
            outcome = &mut written => outcome.unwrap_or_else(|_| Err(AuditUnavailable("its writer has ended".into()))),
            () = self.clock.sleep_until(instant + PATIENCE) => {
                let stuck = AuditUnavailable(format!("the disk has not answered for {} s", PATIENCE.as_secs()));
                self.block(&mut self.lock(), stuck.clone());
                Err(stuck)
            }
        }
    }

    fn block(&self, state: &mut State, trouble: AuditUnavailable) {
        if state.trouble.is_none() {
            tracing::error!(
                target: "countersign::audit",
                reason = trouble.0,
                "the audit record cannot be written; no credential is used until it can"
            );
        }
        state.queue.refuse(&trouble);
        state.trouble = Some(trouble);
        state.retry = false;
        self.blocked.store(true, Ordering::Relaxed);
        self.ticks.notify_one();
    }

    async fn sweep(&self, keep: Duration) -> std::io::Result<()> {
        let (folder, now) = (self.settings.directory.clone(), self.clock.now());
        let rows = self.rows.load(Ordering::Relaxed);
        let search = tokio::task::spawn_blocking(move || sweep::outdated(&folder, keep, now, rows));
        for file in search.await.map_err(std::io::Error::other)?? {
            // What the record does not say was removed must not be missing.
            if self.record(file.event(keep, now)).await.is_err() {
                return Ok(());
            }
            file.remove(&self.settings.directory)?;
        }
        Ok(())
    }

    /// The life of the thread that writes.
    fn write(&self, mut journal: Journal) {
        loop {
            let mut batch = {
                let idle = |state: &mut State| {
                    let due = state.trouble.is_none() || state.retry;
                    !state.closing && (state.queue.len() == 0 || !due)
                };
                let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
                if state.closing {
                    break;
                }
                state.retry = false;
                state.queue.take(BATCH)
            };
            if let Err(error) = self.append(&mut journal, &mut batch) {
                let mut state = self.lock();
                state.queue.put_back(batch);
                self.block(&mut state, AuditUnavailable(error.to_string()));
            }
        }
        self.end(journal);
    }

    /// Writes a batch and tells who waits for it.
    fn append(&self, journal: &mut Journal, batch: &mut Vec<Waiting>) -> std::io::Result<()> {
        for waiting in batch.iter_mut() {
            if waiting.reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
                // Whoever it was does not do it any more.
                waiting.reply = None;
                waiting.event.outcome = "withdrawn".into();
            }
        }
        let first = journal.number() + 1;
        journal.append(batch.iter().map(|waiting| (waiting.at, &waiting.event)))?;
        let mut state = self.lock();
        if state.trouble.take().is_some() {
            tracing::info!(target: "countersign::audit", "the audit record can be written again");
            self.blocked.store(false, Ordering::Relaxed);
        }
        for (number, waiting) in (first..).zip(batch.drain(..)) {
            let Some(reply) = waiting.reply else { continue };
            if reply.send(Ok(())).is_err() {
                // Too late to change the line: another says that it was not done.
                let mut event = waiting.event.fact("withdraws", number.to_string());
                event.outcome = "withdrawn".into();
                let at = self.clock.now();
                state.queue.put_back(vec![Waiting { at, event, reply: None }]);
            }
        }
        drop(state);
        self.written.send_replace(journal.number());
        Ok(())
    }

    /// Writes what is left, and the last line.
    fn end(&self, mut journal: Journal) {
        let (now, instant) = (self.clock.now(), self.clock.instant());
        self.lock().queue.unfold(now, instant, true);
        loop {
            let mut batch = self.lock().queue.take(BATCH);
            let outcome = if batch.is_empty() {
                let last = AuditEvent::new(line::END, "", "ok");
                let written = journal.append([(self.clock.now(), &last)].into_iter());
                self.written.send_replace(journal.number());
                written.map(|()| true)
            } else {
                self.append(&mut journal, &mut batch).map(|()| false)
            };
            match outcome {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    let mut state = self.lock();
                    state.queue.put_back(batch);
                    state.queue.refuse(&AuditUnavailable(error.to_string()));
                    tracing::error!(
                        target: "countersign::audit",
                        %error,
                        lines = state.queue.len(),
                        "the audit record ends here; what could not be written follows"
                    );
                    for waiting in state.queue.take(LAST_WORDS) {
                        let event = format!("{:?}", waiting.event);
                        tracing::error!(target: "countersign::audit", event, "not written");
                    }
                    break;
                }
            }
        }
        // Whoever looks now sees that nobody holds the mark.
        drop(journal);
        if let Some(closed) = self.lock().closed.take() {
            let _ = closed.send(());
        }
    }
}

/// Wakes the writer while there is a failure to overcome, or repetitions to write.
async fn tick(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let resting = {
            let state = strong.lock();
            if state.closing {
                return;
            }
            state.trouble.is_none() && !state.queue.is_folding()
        };
        if resting {
            let ticks = Arc::clone(&strong.ticks);
            drop(strong);
            ticks.notified().await;
            continue;
        }
        let sleep = strong.clock.sleep_until(strong.clock.instant() + TICK);
        drop(strong);
        sleep.await;
        let Some(strong) = shared.upgrade() else { return };
        let mut state = strong.lock();
        state.retry = true;
        if state.trouble.is_none() {
            state.queue.unfold(strong.clock.now(), strong.clock.instant(), false);
        }
        drop(state);
        strong.work.notify_one();
    }
}

/// Removes outdated files, now and then.
async fn sweep(shared: std::sync::Weak<Shared>, keep: Duration) {
    // Not before it is known whether there is a store that wants the lines first.
    let mut pause = TICK * 60;
    while let Some(strong) = shared.upgrade() {
        let sleep = strong.clock.sleep_until(strong.clock.instant() + pause);
        drop(strong);
        sleep.await;
        pause = SWEEP;
        let Some(strong) = shared.upgrade() else { return };
        if let Err(error) = strong.sweep(keep).await {
            tracing::warn!(target: "countersign::audit", %error, "old files of the audit record cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests;
