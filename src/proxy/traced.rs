//! The spans of a request: itself, its signing, and its way to the upstream. Exchanges add their own (`token`).
//!
//! A request that is traced tells the upstream so, before it is signed. One that is not, and one that passes without a
//! credential of ours, goes on with the headers that it came with. No span holds a path, a query or a header.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::record::Record;
use crate::base::trace::{Attributes, TRACEPARENT, TRACESTATE, Value};
use crate::base::{ActiveSpan, Clock, Deps, Span, SpanKind};

/// A request that is traced.
pub(super) struct Traced {
    span: ActiveSpan,
    upstream: ActiveSpan,
    /// One moment by both clocks.
    began: (SystemTime, Instant),
    /// More than once where it was sent once more.
    signed: Vec<(Instant, Instant)>,
    sent: Option<Instant>,
    again: bool,
}

impl Traced {
    /// Begins with a request, if it is traced.
    pub(super) fn begin(deps: &Deps, headers: &HeaderMap, started: Instant) -> Option<Box<Self>> {
        let span = deps.tracer.request(headers)?;
        let upstream = span.child()?;
        Some(Box::new(Self {
            span,
            upstream,
            began: (deps.clock.now(), started),
            signed: Vec::new(),
            sent: None,
            again: false,
        }))
    }

    /// Names the span that the upstream's are below, in place of the caller's.
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        if let Some(header) = self.upstream.context().header() {
            headers.insert(TRACEPARENT, header);
        }
        if self.span.is_root() {
            // What vendors added belongs to the trace that it came with.
            headers.remove(TRACESTATE);
        }
    }

    /// What a token is obtained within.
    pub(super) fn span(&self) -> &ActiveSpan {
        &self.span
    }

    /// Notes that it was signed.
    pub(super) fn signed(&mut self, since: Instant, clock: &dyn Clock) {
        self.signed.push((since, clock.instant()));
    }

    /// Notes that it goes out.
    pub(super) fn sending(&mut self, clock: &dyn Clock) {
        self.again = self.sent.is_some();
        self.sent.get_or_insert_with(|| clock.instant());
    }

    /// Hands over the spans of a request that is over.
    pub(super) fn over(&self, record: &Record, now: Instant) {
        let mut spans = Vec::with_capacity(3);
        for (began, ended) in &self.signed {
            // Without randomness there is one span less.
            let Some(span) = self.span.child() else { break };
            let mut span = span.over(SpanKind::Internal, "sign", (self.at(*began), self.at(*ended)));
            name(&mut span.attributes, "countersign.credential", record.credential.as_ref());
            spans.push(span);
        }
        spans.extend(self.sent.map(|sent| self.to_upstream(record, sent, now)));
        spans.push(self.whole(record, now));
        self.span.record(spans);
    }

    fn at(&self, moment: Instant) -> SystemTime {
        self.began.0 + moment.saturating_duration_since(self.began.1)
    }

    fn whole(&self, record: &Record, now: Instant) -> Span {
        let mut span = self.span.over(SpanKind::Server, method(&record.method).1, (self.began.0, self.at(now)));
        let attributes = &mut span.attributes;
        place(attributes, record);
        attributes.push(("countersign.via", record.via.into()));
        name(attributes, "countersign.caller", Some(&record.caller.name));
        name(attributes, "countersign.binding", record.binding.as_ref());
        name(attributes, "countersign.credential", record.credential.as_ref());
        status(attributes, record.status);
        if let Some(refusal) = &record.refusal {
            attributes.push(("countersign.fault", refusal.fault.as_str().into()));
        }
        let wrong = wrong(record, 500);
        span.failed =
            wrong.is_some() && record.status.is_none_or(|status| status.as_u16() >= 500 || status.is_success());
        span.attributes.extend(wrong.map(|wrong| ("error.type", wrong)));
        span
    }

    fn to_upstream(&self, record: &Record, sent: Instant, now: Instant) -> Span {
        let mut span = self.upstream.over(SpanKind::Client, method(&record.method).1, (self.at(sent), self.at(now)));
        place(&mut span.attributes, record);
        let marks = [("connected", record.marks.connected), ("answered", record.marks.answered)];
        span.events.extend(marks.into_iter().filter_map(|(name, mark)| Some((name, self.at(mark?)))));
        if record.marks.answered.is_some() {
            status(&mut span.attributes, record.status.filter(|_| record.refusal.is_none()));
        }
        if self.again {
            span.attributes.push(("http.request.resend_count", 1u16.into()));
        }
        let wrong = wrong(record, 400);
        span.failed = wrong.is_some();
        span.attributes.extend(wrong.map(|wrong| ("error.type", wrong)));
        span
    }
}

fn name(attributes: &mut Attributes, key: &'static str, name: Option<&Arc<str>>) {
    attributes.extend(name.map(|name| (key, Arc::clone(name).into())));
}

/// The method and where it goes: of the URL this and nothing else.
fn place(attributes: &mut Attributes, record: &Record) {
    let to = &record.destination;
    attributes.push(("http.request.method", method(&record.method).0.into()));
    attributes.push(("url.scheme", to.protocol().as_str().into()));
    attributes.push(("server.address", to.host().to_string().into()));
    attributes.push(("server.port", to.port().into()));
}

fn status(attributes: &mut Attributes, status: Option<StatusCode>) {
    attributes.extend(status.map(|status| ("http.response.status_code", status.as_u16().into())));
}

/// What was wrong, if anything was: our own code for it, or a status from `least` on.
fn wrong(record: &Record, least: u16) -> Option<Value> {
    match (&record.refusal, record.ended) {
        (Some(refusal), _) => Some(refusal.code.as_str().into()),
        (None, Some("upstream_broke_off")) => Some("upstream_broke_off".into()),
        (None, None) => Some("caller_left".into()),
        (None, Some(_)) => {
            let status = record.status.filter(|status| status.as_u16() >= least)?;
            Some(status.as_str().to_owned().into())
        }
    }
}

/// As the attribute has it, and as the span's name: what a caller made up is in neither.
fn method(method: &Method) -> (&'static str, &'static str) {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).map_or(("_OTHER", "HTTP"), |known| (known, known))
}
