//! Where log lines go: into a buffer that one thread writes to standard error.
//!
//! A line of its own is written at once. While lines keep coming they are written together, every few milliseconds, so
//! that a busy proxy does not pay for a system call with every request. Nothing is dropped: when the buffer is full, who
//! logs waits, and [`Flush`] writes what is left before the process ends.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// While lines keep coming, they are gathered for so long: nobody who watches a log notices, and at ten thousand lines a
/// second fifty go with each write.
const PAUSE: Duration = Duration::from_millis(5);

/// More bytes than this wait for nobody's pause; and who logs waits for the writer when there are [`FULL`].
const PLENTY: usize = 64 * 1024;
const FULL: usize = 1024 * 1024;

/// How long the end of the process waits for a standard error that takes nothing.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The lines of this process, once logging has begun.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Lines on their way to standard error.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, for a writer that sleeps or must not pause.
    work: Condvar,
    /// Something was written.
    room: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The writer has taken bytes that are not written yet.
    writing: bool,
    /// The writer sleeps until there is something to write.
    asleep: bool,
    /// Somebody waits for the last line: no more pauses.
    urgent: bool,
    /// Where there is no writer, whoever logs writes.
    alone: bool,
}

impl Lines {
    /// The lines of this process; the first call starts the thread that writes them.
    pub(super) fn start() -> Self {
        LINES.get_or_init(|| Self::to(io::stderr())).clone()
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let lines = Self(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), room: Condvar::new() }));
        let shared = Arc::clone(&lines.0);
        let started = std::thread::Builder::new().name("log".into()).spawn(move || shared.run(out));
        lines.0.lock().alone = started.is_err();
        lines
    }

    fn flush(&self) {
        let mut state = self.0.lock();
        state.urgent = true;
        self.0.work.notify_one();
        let unwritten = |state: &mut State| !state.alone && (state.writing || !state.waiting.is_empty());
        let waited = self.0.room.wait_timeout_while(state, LAST_WAIT, unwritten);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.urgent = false;
    }
}

/// Dropped at the end of the process, also when that is a panic: writes all that was logged.
#[derive(Debug)]
pub struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(lines) = LINES.get() {
            lines.flush();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let full =
            |state: &mut State| !state.alone && !state.waiting.is_empty() && state.waiting.len() + line.len() > FULL;
        let state = self.room.wait_while(self.lock(), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.alone {
            write_all(&mut io::stderr(), line);
            return;
        }
        state.waiting.extend_from_slice(line);
        if state.asleep || state.waiting.len() > PLENTY {
            state.asleep = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// The life of the writer.
    fn run(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        let mut state = self.lock();
        loop {
            if state.waiting.is_empty() {
                state.asleep = true;
                state = self
                    .work
                    .wait_while(state, |state| state.waiting.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                state.asleep = false;
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            state.writing = true;
            drop(state);
            write_all(&mut out, &batch);
            batch.clear();
            // A burst must not hold its memory for ever.
            batch.shrink_to(PLENTY);
            state = self.lock();
            state.writing = false;
            self.room.notify_all();
            let may_pause = |state: &mut State| !state.urgent && state.waiting.len() <= PLENTY;
            state = self.work.wait_timeout_while(state, PAUSE, may_pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes everything. An error that will not pass leaves nobody to tell, so the rest of these bytes is given up.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares our standard error may have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands every write to the test, and waits for its leave before it takes the next.
    struct Gate(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.1.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Lines, Receiver<Vec<u8>>, Sender<()>) {
        let (written, seen) = channel();
        let (leave, left) = channel();
        (Lines::to(Gate(written, left)), seen, leave)
    }

    #[test]
    fn a_single_line_is_written_without_being_flushed() {
        let (lines, seen, leave) = gate();
        (&lines).write_all(b"one\n").unwrap();
        assert_eq!(seen.recv().unwrap(), b"one\n");
        leave.send(()).unwrap();
    }

    #[test]
    fn what_comes_during_a_write_goes_together_and_in_order() {
        let (lines, seen, leave) = gate();
        (&lines).write_all(b"one\n").unwrap();
        assert_eq!(seen.recv().unwrap(), b"one\n");
        (&lines).write_all(b"two\n").unwrap();
        (&lines).write_all(b"three\n").unwrap();
        leave.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), b"two\nthree\n");
        leave.send(()).unwrap();
        lines.flush();
    }

    #[test]
    fn a_flush_returns_when_everything_is_written() {
        let (lines, seen, leave) = gate();
        let taker = std::thread::spawn(move || {
            let mut all = Vec::new();
            while let Ok(bytes) = seen.recv() {
                all.extend(bytes);
                if leave.send(()).is_err() || all.len() == 4000 {
                    break;
                }
            }
            all
        });
        for _ in 0..1000 {
            (&lines).write_all(b"abc\n").unwrap();
        }
        Lines::flush(&lines);
        let state = lines.0.lock();
        assert!(state.waiting.is_empty() && !state.writing);
        assert_eq!(taker.join().unwrap().len(), 4000);
    }

    #[test]
    fn a_full_buffer_makes_the_logger_wait_and_drops_nothing() {
        let (lines, seen, leave) = gate();
        let line = vec![b'x'; FULL / 4];
        (&lines).write_all(&line).unwrap();
        assert_eq!(seen.recv().unwrap().len(), line.len());
        let logger = std::thread::spawn(move || {
            for _ in 0..8 {
                (&lines).write_all(&line).unwrap();
            }
            lines
        });
        let mut total = 0;
        while total < 8 * (FULL / 4) {
            leave.send(()).unwrap();
            let written = seen.recv().unwrap().len();
            assert!(written <= FULL, "{written}");
            total += written;
        }
        leave.send(()).unwrap();
        Lines::flush(&logger.join().unwrap());
    }
}
