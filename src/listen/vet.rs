//! The connection that an HTTP/1 server reads from: every byte is looked at by [`Framing`] first, refusals are answered
//! here, and slow or idle callers are timed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::{Advance, Framing, HeadLimits};
use crate::base::body::Release;
use crate::base::{Code, Fault, Refusal};
use crate::proxy::problem_bytes;

/// How long a connection that we end in the middle of a message is drained, so that a caller that is still sending reads
/// our answer instead of a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Time allowed to callers.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a request head, from its first byte.
    pub header_read: Duration,
    /// Between two requests.
    pub idle: Duration,
}

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const FLUSHING: u8 = 2;

const UNKNOWN: u8 = 0;
const GRANTED: u8 = 1;
const NOT_GRANTED: u8 = 2;

/// Whose turn it is on a connection, shared between the bytes and the requests.
#[derive(Debug, Default)]
pub(super) struct Turn {
    phase: AtomicU8,
    switch: AtomicU8,
    last: AtomicBool,
    waker: AtomicWaker,
}

impl Turn {
    /// The answer says that it is the last one; a caller that has sent more by then must still be able to read it.
    pub(super) fn last(&self) {
        self.last.store(true, Ordering::Release);
    }

    /// The answer to a request is decided: it switches protocols, or not.
    pub(super) fn answered(&self, switches: bool) {
        self.switch.store(if switches { GRANTED } else { NOT_GRANTED }, Ordering::Release);
        self.waker.wake();
    }
}

impl Release for Turn {
    fn released(&self) {
        self.phase.store(FLUSHING, Ordering::Release);
    }
}

/// A vetted connection.
pub(super) struct Vet<S> {
    io: S,
    framing: Framing,
    turn: Arc<Turn>,
    /// Bytes that were read and not yet delivered; the first `cleared` of them may be.
    held: BytesMut,
    cleared: usize,
    refusal: Option<Refusal>,
    /// What is left to write of a refusal.
    goodbye: Option<Bytes>,
    ended: bool,
    patience: Patience,
    waiting_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Our last word was a refusal that the caller may still be talking over.
    lingering: bool,
    log: bool,
    linger_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Vet<S> {
    /// Wraps a connection of which some bytes were read already.
    pub(super) fn new(io: S, read_before: &[u8], limits: HeadLimits, patience: Patience, log: bool) -> Self {
        Self {
            io,
            framing: Framing::new(limits),
            turn: Arc::default(),
            held: BytesMut::from(read_before),
            cleared: 0,
            refusal: None,
            goodbye: None,
            ended: false,
            patience,
            waiting_since: None,
            timer: Box::pin(tokio::time::sleep(patience.header_read.min(patience.idle))),
            lingering: false,
            log,
            linger_until: None,
        }
    }

    /// The connection's turn.
    pub(super) fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// Looks at bytes and returns how many may be delivered; what becomes of the rest is noted in `self`.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at_head = self.framing.at_head();
            if at_head && self.turn.phase.load(Ordering::Acquire) != IDLE {
                // One request at a time: the next one waits until the answer before it is written.
                break;
            }
            match self.framing.advance(&bytes[done..]) {
                Advance::Deliver(n) => {
                    done += n;
                    if at_head {
                        self.turn.switch.store(UNKNOWN, Ordering::Release);
                        self.turn.phase.store(BUSY, Ordering::Release);
                        self.waiting_since = None;
                    }
                }
                Advance::Blank(n) => done += n,
                Advance::Partial | Advance::Await => break,
                Advance::Refuse(refusal) => {
                    self.refusal = Some(refusal);
                    break;
                }
                Advance::Broken => {
                    self.ended = true;
                    break;
                }
            }
        }
        done
    }

    /// Looks at what is held.
    fn look_at_held(&mut self) {
        if self.cleared == 0 && !self.held.is_empty() && self.refusal.is_none() {
            let held = std::mem::take(&mut self.held);
            self.cleared = self.look(&held);
            self.held = held;
        }
    }

    /// Writes the refusal, if it is its turn, and ends the connection.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(refusal) = &self.refusal {
            self.turn.waker.register(cx.waker());
            if self.turn.phase.load(Ordering::Acquire) != IDLE {
                // An earlier answer of this connection is still being written.
                return Poll::Pending;
            }
            if self.log {
                log_refusal(refusal);
            }
            self.goodbye = Some(problem_bytes(refusal).into());
            self.refusal = None;
        }
        while let Some(goodbye) = &mut self.goodbye {
            if goodbye.is_empty() {
                // Empty and still there until it is flushed: what was refused must not be looked at a second time.
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                self.goodbye = None;
                break;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, goodbye))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            goodbye.advance(written);
        }
        self.ended = true;
        self.lingering = true;
        Poll::Ready(Ok(()))
    }

    /// Times a caller that sends nothing. Ready when its time is up.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Between two requests; or after an answer that came before its request was complete, which nobody waits for.
        let idle = self.turn.phase.load(Ordering::Acquire) == IDLE
            && (self.framing.at_head() || self.framing.inside_message());
        if !idle {
            self.waiting_since = None;
            return Poll::Pending;
        }
        let mut now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        let limit = if self.held.is_empty() { self.patience.idle } else { self.patience.header_read };
        let deadline = since + limit;
        loop {
            if now >= deadline {
                return Poll::Ready(());
            }
            // A timer that rings too early costs less than setting it anew for every request.
            if self.timer.is_elapsed() || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            now = Instant::now();
        }
    }

    fn time_is_up(&mut self) {
        if self.held.is_empty() || !self.framing.at_head() {
            self.ended = true;
            return;
        }
        self.refusal = Some(
            Refusal::new(Code::Overloaded, "the request head did not come in time (`limits.header_read_timeout`)")
                .with_status(StatusCode::REQUEST_TIMEOUT)
                .with_proxy_error("http_request_error")
                .with_fault(Fault::Caller),
        );
    }
}

/// What is refused here never becomes a request, so it is logged here.
fn log_refusal(refusal: &Refusal) {
    tracing::info!(
        target: "countersign::request",
        status = refusal.status.as_u16(),
        code = refusal.code.as_str(),
        fault = refusal.fault.as_str(),
        detail = &*refusal.detail,
        "request refused before it was one"
    );
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Vet<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.cleared > 0 {
                let count = this.cleared.min(buf.remaining());
                buf.put_slice(&this.held[..count]);
                this.held.advance(count);
                this.cleared -= count;
                return Poll::Ready(Ok(()));
            }
            if this.refusal.is_some() || this.goodbye.is_some() {
                ready!(this.poll_refuse(cx))?;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.framing_awaits() {
                this.turn.waker.register(cx.waker());
                match this.turn.switch.load(Ordering::Acquire) {
                    UNKNOWN if !this.held.is_empty() => return Poll::Pending,
                    UNKNOWN => {}
                    outcome => this.framing.switched(outcome == GRANTED),
                }
            }
            if !this.held.is_empty() && this.framing.at_head() {
                this.turn.waker.register(cx.waker());
                if this.turn.phase.load(Ordering::Acquire) != IDLE {
                    return Poll::Pending;
                }
            }
            this.look_at_held();
            if this.cleared > 0 || this.refusal.is_some() || this.ended {
                continue;
            }
            let before = buf.filled().len();
            if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
                ready!(this.poll_patience(cx));
                this.time_is_up();
                continue;
            }
            if buf.filled().len() == before {
                this.ended = true;
                continue;
            }
            if this.held.is_empty() {
                this.waiting_since = None;
                let cleared = this.look(&buf.filled()[before..]);
                this.held.extend_from_slice(&buf.filled()[before + cleared..]);
                buf.set_filled(before + cleared);
                if cleared > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                // Rare: a head in several pieces, or bytes after a request to switch. `buf` only lent its space.
                this.held.extend_from_slice(&buf.filled()[before..]);
                buf.set_filled(before);
            }
        }
    }
}

impl<S> Vet<S> {
    fn framing_awaits(&self) -> bool {
        !self.framing.at_head() && !self.framing.inside_message()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Vet<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.turn.phase.compare_exchange(FLUSHING, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.turn.waker.wake();
            // hyper may not ask for bytes again before some come, so the idle time begins here.
            if self.poll_patience(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        let last = this.turn.last.load(Ordering::Acquire);
        if !this.lingering && !last && !this.framing.inside_message() {
            return Poll::Ready(Ok(()));
        }
        let until = *this.linger_until.get_or_insert_with(|| Instant::now() + LINGER);
        if this.timer.deadline() != until {
            this.timer.as_mut().reset(until);
        }
        let mut scrap = [0; 8192];
        loop {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && Instant::now() < until => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return this.timer.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1000, count: 10 };
    const PATIENCE: Patience = Patience { header_read: Duration::from_secs(10), idle: Duration::from_secs(60) };
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn pair() -> (tokio::io::DuplexStream, Vet<tokio::io::DuplexStream>) {
        let (caller, ours) = tokio::io::duplex(4096);
        (caller, Vet::new(ours, b"", LIMITS, PATIENCE, true))
    }

    async fn read(vet: &mut Vet<tokio::io::DuplexStream>) -> String {
        let mut buffer = [0; 4096];
        let count = vet.read(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[tokio::test]
    async fn a_head_in_pieces_is_delivered_whole() {
        let (mut caller, mut vet) = pair();
        let reading = tokio::spawn(async move { read(&mut vet).await });
        for piece in [&GET[..5], &GET[5..20], &GET[20..]] {
            caller.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(reading.await.unwrap(), GET);
    }

    #[tokio::test]
    async fn a_refused_head_is_answered_and_never_delivered() {
        let (mut caller, mut vet) = pair();
        caller.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
        assert_eq!(read(&mut vet).await, "");
        drop(vet);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("two Host headers"), "{answer}");
    }

    /// A stream whose flushes are not done the first time they are asked for, as TLS over a full socket.
    struct SlowFlush(tokio::io::DuplexStream, bool);

    impl AsyncRead for SlowFlush {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for SlowFlush {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.1, true) {
                return Pin::new(&mut self.0).poll_flush(cx);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_refusal_is_written_once_however_slow_its_flush() {
        let (mut caller, ours) = tokio::io::duplex(4096);
        let mut vet = Vet::new(SlowFlush(ours, false), b"", LIMITS, PATIENCE, true);
        caller.write_all(b"NONSENSE\r\n\r\n").await.unwrap();
        assert_eq!(vet.read(&mut [0; 64]).await.unwrap(), 0);
        drop(vet);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.matches("HTTP/1.1 400 ").count(), 1, "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipelined_head_waits_for_its_turn_and_is_then_judged() {
        let (mut caller, mut vet) = pair();
        caller.write_all(format!("{GET}{GET}NONSENSE\r\n\r\n").as_bytes()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(read(&mut vet).await, GET);
            let turn = vet.turn();
            let early = tokio::time::timeout(Duration::from_millis(20), read(&mut vet)).await;
            assert!(early.is_err(), "the next head was delivered before the answer was written");
            turn.released();
            vet.flush().await.unwrap();
        }
        assert_eq!(read(&mut vet).await, "");
        drop(vet);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_gets_408_and_an_idle_connection_is_closed_silently() {
        let (mut caller, mut vet) = pair();
        caller.write_all(&GET.as_bytes()[..5]).await.unwrap();
        assert_eq!(read(&mut vet).await, "");
        drop(vet);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

        let (mut caller, mut vet) = pair();
        assert_eq!(read(&mut vet).await, "");
        drop(vet);
        assert_eq!(caller.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn bytes_after_a_request_to_switch_wait_for_the_answer() {
        let (mut caller, mut vet) = pair();
        let head = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        caller.write_all(format!("{head}raw").as_bytes()).await.unwrap();
        assert_eq!(read(&mut vet).await, head);
        vet.turn().answered(true);
        assert_eq!(read(&mut vet).await, "raw");
    }
}
