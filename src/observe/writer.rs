//! Where log lines go: into a buffer that one thread writes to standard error.
//!
//! A line of its own is written at once. While lines keep coming they are written together, every few milliseconds, so
//! that a busy proxy does not pay for a system call with every request. When the buffer is full, who logs waits, and
//! [`Flush`] writes what is left before the process ends. Only when standard error takes nothing for a second are lines
//! dropped, and counted: a reader that stands still must not make the proxy stand still.

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

/// What a pipe takes in one piece (POSIX PIPE_BUF, on Linux), so that lines of others who write to it stay apart from ours.
const PIECE: usize = 4096;

/// How long whoever logs waits for room.
const LOGGER_WAIT: Duration = Duration::from_secs(1);

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
    /// Nobody waits for room any more, until something was written again.
    stalled: bool,
    /// Lines that were dropped meanwhile.
    dropped: u64,
    /// Pieces that were written.
    moved: u64,
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
        let mut state = self.lock();
        while !state.stalled && full(&mut state) {
            let before = state.moved;
            state = self.room.wait_timeout_while(state, LOGGER_WAIT, full).unwrap_or_else(PoisonError::into_inner).0;
            // A slow reader is waited for, one that stands still is not.
            state.stalled = full(&mut state) && state.moved == before;
        }
        if state.alone {
            write_all(&mut io::stderr(), line, &mut || {});
            return;
        }
        if full(&mut state) {
            state.dropped += 1;
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
            if state.dropped > 0 {
                let lost = format!(
                    "{{\"level\":\"ERROR\",\"message\":\"log lines were lost\",\"lines\":{}}}\n",
                    state.dropped
                );
                batch.extend_from_slice(lost.as_bytes());
                state.dropped = 0;
            }
            drop(state);
            write_all(&mut out, &batch, &mut || self.lock().moved += 1);
            batch.clear();
            // A burst must not hold its memory for ever.
            batch.shrink_to(PLENTY);
            state = self.lock();
            state.writing = false;
            state.stalled = false;
            self.room.notify_all();
            let may_pause = |state: &mut State| !state.urgent && state.waiting.len() <= PLENTY;
            state = self.work.wait_timeout_while(state, PAUSE, may_pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes everything, in pieces of whole lines. An error that will not pass leaves nobody to tell, so the rest of these
/// bytes is given up. `moved` is told that something was taken.
fn write_all(out: &mut impl Write, mut bytes: &[u8], moved: &mut dyn FnMut()) {
    while !bytes.is_empty() {
        let within = bytes.len().min(PIECE);
        let last = bytes[..within].iter().rposition(|byte| *byte == b'\n');
        let end = last.or_else(|| bytes.iter().position(|byte| *byte == b'\n')).map_or(bytes.len(), |end| end + 1);
        match out.write(&bytes[..end]) {
            Ok(0) => return,
            Ok(written) => {
                bytes = &bytes[written..];
                moved();
            }
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

    #[test]
    fn whoever_logs_goes_on_when_nobody_reads_and_what_was_lost_is_counted() {
        let (lines, seen, leave) = gate();
        let line = [vec![b'x'; FULL / 4 - 1], vec![b'\n']].concat();
        // The first is taken and does not leave; the buffer takes four more.
        (&lines).write_all(&line).unwrap();
        assert_eq!(seen.recv().unwrap().len(), line.len());
        for _ in 0..7 {
            (&lines).write_all(&line).unwrap();
        }
        leave.send(()).unwrap();
        let taker = std::thread::spawn(move || {
            let mut all = Vec::new();
            while let Ok(bytes) = seen.recv() {
                all.extend(bytes);
                let _ = leave.send(());
                if all.ends_with(b"}\n") {
                    break;
                }
            }
            String::from_utf8(all).unwrap()
        });
        Lines::flush(&lines);
        let all = taker.join().unwrap();
        assert!(all.ends_with("\"log lines were lost\",\"lines\":3}\n"), "{}", &all[all.len() - 100..]);
        (&lines).write_all(b"again\n").unwrap();
        assert!(!lines.0.lock().stalled);
    }

    #[test]
    fn every_write_holds_whole_lines_and_no_more_than_a_pipe_takes_at_once() {
        struct Sizes(Vec<usize>);
        impl Write for Sizes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                assert!(bytes.ends_with(b"\n") || bytes.len() > PIECE);
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut all = Vec::new();
        for size in [100, 3000, 2000, 5000, 10, 10] {
            all.extend(vec![b'x'; size - 1]);
            all.push(b'\n');
        }
        let mut sizes = Sizes(Vec::new());
        write_all(&mut sizes, &all, &mut || {});
        assert_eq!(sizes.0, [3100, 2000, 5000, 20]);
    }
}
