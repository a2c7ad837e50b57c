//! A span of ours as OpenTelemetry's.

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::base::trace;

/// Makes it.
pub(super) fn span(span: trace::Span) -> SpanData {
    let mut events = SpanEvents::default();
    events.events = span.events.into_iter().map(|(name, at)| Event::new(name, at, Vec::new(), 0)).collect();
    let mut links = SpanLinks::default();
    links.links = span.link.into_iter().map(|link| Link::with_context(context(link))).collect();
    let (parent, remote) =
        span.parent.map_or((SpanId::INVALID, false), |(id, remote)| (SpanId::from_bytes(id), remote));
    SpanData {
        span_context: context(span.context),
        parent_span_id: parent,
        parent_span_is_remote: remote,
        span_kind: match span.kind {
            trace::SpanKind::Server => SpanKind::Server,
            trace::SpanKind::Client => SpanKind::Client,
            trace::SpanKind::Internal => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: span.time.0,
        end_time: span.time.1,
        attributes: span.attributes.into_iter().map(|(name, one)| KeyValue::new(name, value(one))).collect(),
        dropped_attributes_count: 0,
        events,
        links,
        status: if span.failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("countersign").build(),
    }
}

/// The caller's `tracestate` goes to the upstream and stays out of this: it may hold whatever its writer likes.
fn context(context: trace::SpanContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace),
        SpanId::from_bytes(context.span),
        TraceFlags::new(context.flags),
        false,
        TraceState::NONE,
    )
}

fn value(value: trace::Value) -> Value {
    match value {
        trace::Value::Word(word) => word.into(),
        trace::Value::Text(text) => Value::String(text.into()),
        trace::Value::Number(number) => number.into(),
    }
}
