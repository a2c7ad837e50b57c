//! Traces: where a request stands in one (W3C Trace Context), the spans that are made of what is known of it, and the seam
//! through which they leave.
//!
//! The spans of a request are made when it is over, from moments that were noted on its way. Nothing here waits, and a
//! request that is not traced costs one load.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::deps::Random;
use super::text::hex;

/// The header that carries a [`SpanContext`].
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with what vendors add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// This request is traced.
const SAMPLED: u8 = 1;

/// The trace's id was drawn at random (W3C Trace Context, level 2).
const RANDOM: u8 = 2;

/// `00-`, a trace, `-`, a span, `-`, flags.
const LENGTH: usize = 55;

/// A span of a trace, by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Whether the trace is kept, and whether its id is random.
    pub flags: u8,
}

impl SpanContext {
    /// What the one `traceparent` of a request says. Nothing for none, for two, and for what is malformed: then a trace begins
    /// anew, as W3C Trace Context section 3.3 has it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { Self::parse(value.as_bytes()) }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let version: [u8; 1] = bytes(&known[..2])?;
        // A later version may go on after a hyphen.
        let ends = if version[0] == 0 { rest.is_empty() } else { rest.is_empty() || rest[0] == b'-' };
        let dashed = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if version[0] == 0xff || !ends || !dashed {
            return None;
        }
        let (trace, span) = (bytes::<16>(&known[3..35])?, bytes::<8>(&known[36..52])?);
        let [flags] = bytes(&known[53..])?;
        let named = trace != [0; 16] && span != [0; 8];
        named.then_some(Self { trace, span, flags: flags & (SAMPLED | RANDOM) })
    }

    /// Whether the trace is kept.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of `traceparent` that names it.
    pub fn header(&self) -> Option<HeaderValue> {
        let text = format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), self.flags);
        HeaderValue::try_from(text).ok()
    }
}

/// Lower-case hexadecimal digits, and no others.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What a span is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Somebody called us.
    Server,
    /// We called somebody.
    Client,
    /// Our own work.
    Internal,
}

/// The value of an attribute. Nothing secret, and no part of a URL but its scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One of a few words.
    Word(&'static str),
    /// The name of something.
    Text(Arc<str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// Attributes by their names.
pub type Attributes = Vec<(&'static str, Value)>;

/// A span that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its ids.
    pub context: SpanContext,
    /// The span that it is a child of, and whether that is another process's.
    pub parent: Option<([u8; 8], bool)>,
    /// Another trace that has to do with it.
    pub link: Option<SpanContext>,
    /// What it is.
    pub kind: SpanKind,
    /// Its name, of which there are few.
    pub name: &'static str,
    /// When it began and ended.
    pub time: (SystemTime, SystemTime),
    /// Moments within it.
    pub events: Vec<(&'static str, SystemTime)>,
    /// What is known of it.
    pub attributes: Attributes,
    /// It is an error.
    pub failed: bool,
}

/// Where spans go.
pub trait SpanSink: Send + Sync + fmt::Debug {
    /// Takes spans that belong together. Never waits: what finds no place is lost, and counted there.
    fn record(&self, spans: Vec<Span>);
}

/// What is traced, and where its spans go.
#[derive(Debug)]
pub struct Tracing {
    random: Arc<dyn Random>,
    sink: Arc<dyn SpanSink>,
    /// Traces that begin here are kept if what is random of their id is below this, of 2^63.
    below: u64,
}

impl Tracing {
    /// Keeps a part of the traces that begin here, from 0 to 1.
    pub fn new(ratio: f64, random: Arc<dyn Random>, sink: Arc<dyn SpanSink>) -> Self {
        const ALL: f64 = 9_223_372_036_854_775_808.0;
        // A float becomes the nearest number that there is.
        Self { random, sink, below: (ratio.clamp(0.0, 1.0) * ALL) as u64 }
    }

    fn root(self: &Arc<Self>, link: Option<SpanContext>) -> Option<ActiveSpan> {
        if self.below == 0 && link.is_none() {
            return None;
        }
        let mut trace = [0; 16];
        if !self.random.fill(&mut trace) {
            return None;
        }
        let [.., a, b, c, d, e, f, g, h] = trace;
        // As other samplers by ratio do it, so that they keep the same traces. What it is linked to is kept, so this is too.
        let kept = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.below || link.is_some();
        let span = self.id().filter(|_| kept && trace != [0; 16])?;
        let context = SpanContext { trace, span, flags: SAMPLED };
        Some(ActiveSpan { tracing: Arc::clone(self), context, parent: None, link })
    }

    fn id(&self) -> Option<[u8; 8]> {
        let mut id = [0; 8];
        (self.random.fill(&mut id) && id != [0; 8]).then_some(id)
    }
}

tokio::task_local! {
    /// The span within which a token is asked for. Sources of tokens ask for tokens of other sources, through seams that
    /// have nothing to do with traces.
    static WITHIN: ActiveSpan;
}

/// Begins spans; a switch that every room holds and `app` turns.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Arc<ArcSwapOption<Tracing>>);

impl Tracer {
    /// Traces so from now on, or not at all.
    pub fn turn(&self, tracing: Option<Arc<Tracing>>) {
        self.0.store(tracing);
    }

    /// The span of a request: a child of the one that the caller names, if the caller's trace is kept; without a caller's
    /// trace perhaps the first of a new one.
    pub fn request(&self, headers: &HeaderMap) -> Option<ActiveSpan> {
        let tracing = self.0.load();
        let tracing = tracing.as_ref()?;
        let Some(caller) = SpanContext::of(headers) else { return tracing.root(None) };
        if !caller.is_sampled() {
            return None;
        }
        let context = SpanContext { span: tracing.id()?, ..caller };
        Some(ActiveSpan { tracing: Arc::clone(tracing), context, parent: Some((caller.span, true)), link: None })
    }

    /// A span of what the present task waits for; the first of a new trace, perhaps, where nobody traced waits.
    pub fn awaited(&self) -> Option<ActiveSpan> {
        match WITHIN.try_with(ActiveSpan::child) {
            Ok(child) => child,
            Err(_) => self.0.load().as_ref()?.root(None),
        }
    }

    /// A span of what nobody waits for, in a trace of its own: linked to the one that caused it, if there is one.
    pub fn detached(&self) -> Option<ActiveSpan> {
        self.0.load().as_ref()?.root(WITHIN.try_with(|span| span.context).ok())
    }
}

/// A span that is not over.
#[derive(Debug, Clone)]
pub struct ActiveSpan {
    tracing: Arc<Tracing>,
    context: SpanContext,
    parent: Option<([u8; 8], bool)>,
    link: Option<SpanContext>,
}

impl ActiveSpan {
    /// The span that the present task works within, if it is traced.
    pub fn within() -> Option<Self> {
        WITHIN.try_with(Self::clone).ok()
    }

    /// Runs something within this span.
    pub async fn around<F: Future>(self, work: F) -> F::Output {
        WITHIN.scope(self, work).await
    }

    /// A span below this one.
    pub fn child(&self) -> Option<Self> {
        let context = SpanContext { span: self.tracing.id()?, ..self.context };
        Some(Self { tracing: Arc::clone(&self.tracing), context, parent: Some((self.context.span, false)), link: None })
    }

    /// The same, linked to another span.
    #[must_use]
    pub fn linked(self, link: Option<SpanContext>) -> Self {
        Self { link, ..self }
    }

    /// Whether its trace begins with it.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Its ids.
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// The span as it is when it is over.
    pub fn over(&self, kind: SpanKind, name: &'static str, time: (SystemTime, SystemTime)) -> Span {
        let Self { context, parent, link, .. } = *self;
        Span { context, parent, link, kind, name, time, events: Vec::new(), attributes: Vec::new(), failed: false }
    }

    /// Hands over what is over.
    pub fn record(&self, spans: Vec<Span>) {
        self.tracing.sink.record(spans);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::base::deps::SystemRandom;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[derive(Debug, Default)]
    struct Sink(Mutex<Vec<Span>>);

    impl SpanSink for Sink {
        fn record(&self, spans: Vec<Span>) {
            self.0.lock().unwrap().extend(spans);
        }
    }

    fn tracer(ratio: f64) -> Tracer {
        let tracer = Tracer::default();
        tracer.turn(Some(Arc::new(Tracing::new(ratio, Arc::new(SystemRandom), Arc::new(Sink::default())))));
        tracer
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = SpanContext::of(&headers(&[PARENT])).unwrap();
        assert_eq!((context.trace[0], context.span[7], context.flags), (0x4b, 0xb7, 1));
        assert_eq!(context.header().unwrap(), PARENT);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes-later";
        let later = SpanContext::of(&headers(&[later])).unwrap();
        assert_eq!((later.trace, later.flags), (context.trace, SAMPLED | RANDOM), "what is not known is not passed on");
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(SpanContext::of(&headers(&[PARENT, PARENT])), None, "two say nothing");
    }

    #[test]
    fn the_callers_decision_is_honoured_whatever_the_ratio() {
        let span = tracer(0.0).request(&headers(&[PARENT])).unwrap();
        let caller = SpanContext::of(&headers(&[PARENT])).unwrap();
        assert_eq!((span.context.trace, span.parent), (caller.trace, Some((caller.span, true))));
        assert_ne!(span.context.span, caller.span);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(tracer(1.0).request(&headers(&[&unsampled])).is_none());
        assert!(Tracer::default().request(&headers(&[PARENT])).is_none(), "it is switched off");
    }

    #[test]
    fn a_trace_that_begins_here_is_kept_by_the_ratio() {
        let span = tracer(1.0).request(&HeaderMap::new()).unwrap();
        assert!(span.parent.is_none() && span.context.is_sampled());
        assert!(tracer(0.0).request(&HeaderMap::new()).is_none());
        let again = tracer(1.0).request(&headers(&["malformed"])).unwrap();
        assert!(again.parent.is_none(), "a malformed one begins anew");
        let half = tracer(0.5);
        let kept = (0..2000).filter(|_| half.request(&HeaderMap::new()).is_some()).count();
        assert!((700..1300).contains(&kept), "{kept} of 2000");
    }

    #[tokio::test]
    async fn what_is_awaited_is_a_child_and_what_is_not_is_linked() {
        let tracer = tracer(0.0);
        let span = tracer.request(&headers(&[PARENT])).unwrap();
        let context = span.context();
        let (awaited, detached) = span.around(async { (tracer.awaited(), tracer.detached()) }).await;
        let (awaited, detached) = (awaited.unwrap(), detached.unwrap());
        assert_eq!((awaited.context.trace, awaited.parent), (context.trace, Some((context.span, false))));
        assert_ne!(detached.context.trace, context.trace);
        assert_eq!((detached.parent, detached.link), (None, Some(context)));
        assert!(tracer.awaited().is_none() && tracer.detached().is_none(), "outside, the ratio decides");
    }
}
