//! The JSON form of the request log: the same bytes as tracing-subscriber's own, for a tenth of the work.
//!
//! There is one such line for each request, and the general formatter passes every quote and comma of it through four
//! layers. Every other event still goes to that formatter.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::base::Clock;
use crate::base::deps::SystemClock;

/// The target of the request log.
const REQUESTS: &str = "countersign::request";

/// One JSON object a line.
pub(super) struct JsonLines(Format<Json>);

impl JsonLines {
    pub(super) fn new() -> Self {
        Self(Format::default().json().flatten_event(true))
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        if about.target() != REQUESTS || context.lookup_current().is_some() {
            return self.0.format_event(context, writer, event);
        }
        write!(
            writer,
            "{{\"timestamp\":\"{}\"",
            humantime::format_rfc3339_micros(SystemClock.now().max(SystemTime::UNIX_EPOCH))
        )?;
        writer.write_str(",\"level\":\"")?;
        writer.write_str(about.level().as_str())?;
        writer.write_char('"')?;
        let mut fields = Fields { writer, scratch: String::new(), result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.writer.write_str(",\"target\":\"countersign::request\"}\n")
    }
}

/// Writes each field as a member of the object.
struct Fields<'w> {
    writer: Writer<'w>,
    scratch: String,
    result: fmt::Result,
}

impl Fields<'_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.name(field).and_then(|()| value(&mut self.writer));
        }
    }

    /// The names are those of our own fields, and need no escapes.
    fn name(&mut self, field: &Field) -> fmt::Result {
        self.writer.write_str(",\"")?;
        self.writer.write_str(field.name())?;
        self.writer.write_str("\":")
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| string(writer, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |writer| match serde_json::Number::from_f64(value) {
            Some(number) => write!(writer, "{number}"),
            None => writer.write_str("null"),
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        self.member(field, |writer| {
            write!(text, "{value:?}")?;
            string(writer, &text)
        });
        self.scratch = text;
    }
}

/// A JSON string. Nearly none needs an escape.
fn string(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        return writer.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?);
    }
    writer.write_char('"')?;
    writer.write_str(text)?;
    writer.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn log_something() {
        for text in ["plain", "a \"quote\" and \\", "line\nend\u{1}", "", "é"] {
            tracing::info!(
                target: "countersign::request",
                text,
                shown = %text,
                missing = None::<&str>,
                there = Some(1.5),
                count = 7_u64,
                less = -7,
                yes = true,
                whole = 12.0,
                small = 0.001,
                large = 1e18,
                no_number = f64::NAN,
                "request"
            );
        }
        tracing::warn!(target: "countersign::other", a = 1, "another");
        let span = tracing::info_span!("span", a = 1);
        span.in_scope(|| tracing::info!(target: "countersign::request", "request"));
    }

    #[test]
    fn a_request_line_is_what_the_general_formatter_writes() {
        let layer = |sink: &Sink| tracing_subscriber::fmt::layer().with_writer(sink.clone()).json().flatten_event(true);
        let (ours, general) = (Sink::default(), Sink::default());
        let subscriber = tracing_subscriber::registry().with(layer(&ours).event_format(JsonLines::new()));
        tracing::subscriber::with_default(subscriber, log_something);
        let subscriber = tracing_subscriber::registry().with(layer(&general));
        tracing::subscriber::with_default(subscriber, log_something);
        let lines = |sink: &Sink| {
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            let line = |line: &str| {
                let (time, rest) = line.split_once(",\"level\"").unwrap();
                // All but the digits of the time, which differ.
                (time.replace(|c: char| c.is_ascii_digit(), "0"), rest.to_owned())
            };
            text.lines().map(line).collect::<Vec<_>>()
        };
        assert_eq!(lines(&ours), lines(&general));
        assert_eq!(lines(&ours).len(), 7);
    }
}
