//! Spans of exchanges, and of waiting for one that somebody else began.

use std::time::{Instant, SystemTime};

use super::failure::Failure;
use crate::base::trace::Attributes;
use crate::base::{ActiveSpan, Clock, SpanContext, SpanKind};

/// A span that began.
#[derive(Debug)]
struct Begun {
    span: ActiveSpan,
    at: (SystemTime, Instant),
}

impl Begun {
    fn now(span: ActiveSpan, clock: &dyn Clock) -> Self {
        Self { span, at: (clock.now(), clock.instant()) }
    }

    fn over(&self, kind: SpanKind, name: &'static str, attributes: Attributes, failed: bool, clock: &dyn Clock) {
        // The wall clock may jump meanwhile.
        let lasted = clock.instant().saturating_duration_since(self.at.1);
        let mut span = self.span.over(kind, name, (self.at.0, self.at.0 + lasted));
        (span.attributes, span.failed) = (attributes, failed);
        self.span.record(vec![span]);
    }
}

fn of(credential: &str) -> Attributes {
    vec![("countersign.credential", credential.to_owned().into())]
}

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Flown(Begun);

impl Flown {
    pub(super) fn begin(span: ActiveSpan, clock: &dyn Clock) -> Self {
        Self(Begun::now(span, clock))
    }

    pub(super) fn over(self, credential: &str, failure: Option<&Failure>, clock: &dyn Clock) {
        let mut attributes = of(credential);
        attributes.extend(failure.map(|failure| ("error.type", failure.kind.as_str().into())));
        self.0.over(SpanKind::Client, "token exchange", attributes, failure.is_some(), clock);
    }
}

/// A request that waits for an exchange of somebody else's, to which its span is linked.
#[derive(Debug)]
pub(super) struct Waited(Begun);

impl Waited {
    pub(super) fn begin(exchange: SpanContext, clock: &dyn Clock) -> Option<Self> {
        let span = ActiveSpan::within()?.child()?.linked(Some(exchange));
        Some(Self(Begun::now(span, clock)))
    }

    pub(super) fn over(self, credential: &str, clock: &dyn Clock) {
        self.0.over(SpanKind::Internal, "token wait", of(credential), false, clock);
    }
}
