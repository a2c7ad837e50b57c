//! Traces over OTLP (HTTP, protobuf): a queue that nobody waits at, and one task that sends what is in it.
//!
//! What finds no place in the queue, or cannot be sent for some time, is lost, and that is said once a minute. Every call goes
//! through the house's own client, so its guard, roots and corporate proxy are those of all our calls.
//! **Never delays a request, never reads the variables that OpenTelemetry knows, never sends a secret but the collector's own.**

mod encode;
mod settings;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;
use crate::base::{Clock, Deps, HttpClient, Span, SpanSink, Tracing};

/// Requests that wait to be sent: some megabytes at most, and as many as a busy sidecar has in a second or two.
const QUEUE: usize = 4096;

/// So many requests go with one call: some hundred kilobytes.
const BATCH: usize = 512;

/// What came is sent after this time: little enough to be looked at while one works.
const INTERVAL: Duration = Duration::from_secs(1);

/// A collector that is being restarted is tried again after these pauses; then what it was to have is lost.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// How often losses are said.
const SAID: Duration = Duration::from_secs(60);

/// For what is left when the process ends.
const LAST: Duration = Duration::from_secs(2);

/// Where spans are sent, and with what.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The section.
    pub settings: Settings,
    /// Calls the endpoint and nothing else.
    pub client: Arc<dyn HttpClient>,
    /// The headers of the section, loaded; those that are secret are marked so.
    pub headers: HeaderMap,
}

impl PartialEq for Collector {
    /// A client is made of the ways out and of the settings; the ways out that stayed have the same addresses and roots.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.headers == other.headers
    }
}

/// The task that sends, and the queue in front of it.
#[derive(Debug)]
pub struct Traces {
    collector: Collector,
    sink: Arc<Queue>,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<Vec<Span>>,
    lost: Arc<AtomicU64>,
}

impl SpanSink for Queue {
    fn record(&self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        if self.spans.try_send(spans).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Traces {
    /// Begins to send to a collector.
    ///
    /// # Errors
    /// When the exporter cannot be made.
    pub fn start(collector: Collector, deps: &Deps) -> Result<Self, String> {
        let (spans, queue) = mpsc::channel(QUEUE);
        let (lost, closing) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let line = Arc::new(Line {
            collector: collector.clone(),
            clock: Arc::clone(&deps.clock),
            closing: closing.clone(),
            trouble: Mutex::default(),
        });
        let exporter = exporter(&collector.settings, &line)?;
        let sending = Sending {
            queue,
            exporter,
            line,
            clock: Arc::clone(&deps.clock),
            closing: closing.clone(),
            lost: Arc::clone(&lost),
            said: None,
            failing: false,
        };
        let task = tokio::spawn(sending.run());
        Ok(Self { collector, sink: Arc::new(Queue { spans, lost }), closing, task })
    }

    /// What the tracer is turned to.
    pub fn tracing(&self, deps: &Deps) -> Arc<Tracing> {
        let sink = Arc::clone(&self.sink) as Arc<dyn SpanSink>;
        Arc::new(Tracing::new(self.collector.settings.ratio, Arc::clone(&deps.random), sink))
    }

    /// Whether it already sends there.
    pub fn is_to(&self, collector: &Collector) -> bool {
        self.collector == *collector
    }

    /// Sends what is left, for two seconds at most.
    pub async fn close(mut self) {
        self.closing.cancel();
        if tokio::time::timeout(LAST, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!(target: "countersign::traces", "the last traces could not be sent in time");
        }
    }
}

/// The exporter of the OpenTelemetry project. Everything that it would ask the environment for is given here; the headers that
/// it takes from there are left behind in [`Line`].
fn exporter(settings: &Settings, line: &Arc<Line>) -> Result<SpanExporter, String> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.url())
        .with_timeout(settings.timeout)
        // Its pauses would make a thread of the runtime sleep.
        .with_retry_policy(RetryPolicy::disabled())
        .with_http_client(Client(Arc::clone(line)))
        .build()
        .map_err(|error| error.to_string())?;
    let about = [
        KeyValue::new("service.name", settings.service_name.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    exporter.set_resource(&Resource::builder_empty().with_attributes(about).build());
    Ok(exporter)
}

/// The task.
struct Sending {
    queue: mpsc::Receiver<Vec<Span>>,
    exporter: SpanExporter,
    line: Arc<Line>,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
    lost: Arc<AtomicU64>,
    said: Option<Instant>,
    failing: bool,
}

impl Sending {
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let open = self.gather(&mut batch).await;
            let spans: Vec<Span> = batch.drain(..).flatten().collect();
            if !spans.is_empty() {
                self.send(spans).await;
            }
            if !open {
                return;
            }
        }
    }

    /// Waits for what comes, and a little for what follows it. Says whether more may come.
    async fn gather(&mut self, batch: &mut Vec<Vec<Span>>) -> bool {
        let closing = self.closing.clone();
        tokio::select! {
            got = self.queue.recv_many(batch, BATCH) => if got == 0 { return false },
            () = closing.cancelled() => self.queue.close(),
        }
        let mut enough = self.clock.sleep_until(self.clock.instant() + INTERVAL);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                got = self.queue.recv_many(batch, room) => if got == 0 { return false },
                () = &mut enough => break,
                () = closing.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
        true
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let sent = self.exporter.export(spans.into_iter().map(encode::span).collect()).await;
        match sent {
            Ok(()) if self.failing => {
                tracing::info!(target: "countersign::traces", "traces reach the collector again");
                self.failing = false;
            }
            Ok(()) => {}
            Err(_) => {
                self.failing = true;
                self.lost.fetch_add(count, Ordering::Relaxed);
            }
        }
        self.complain();
    }

    /// Says what was lost, now and then.
    fn complain(&mut self) {
        let now = self.clock.instant();
        let lately = self.said.is_some_and(|said| now.saturating_duration_since(said) < SAID);
        if lately || self.lost.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.said = Some(now);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let reason = if self.failing { self.line.trouble() } else { "they came faster than they could be sent".into() };
        tracing::warn!(target: "countersign::traces", spans = lost, reason, "traces were lost");
    }
}

/// The way to the collector.
struct Line {
    collector: Collector,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
    trouble: Mutex<String>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({:?})", self.collector.client)
    }
}

impl Line {
    fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn troubled(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let mut pauses = PAUSES.iter();
        loop {
            let mut request = Request::new(body.to_vec());
            *request.method_mut() = http::Method::POST;
            *request.uri_mut() = parts.uri.clone();
            request.headers_mut().clone_from(&self.collector.headers);
            request.headers_mut().extend(parts.headers.get(CONTENT_TYPE).map(|kind| (CONTENT_TYPE, kind.clone())));
            let (error, passes) = match self.collector.client.call(request).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.map(Bytes::from)),
                // OTLP/HTTP, "Failures": these and no others are worth another try.
                Ok(answer) => {
                    (format!("it answered {}", answer.status()), matches!(answer.status().as_u16(), 429 | 502..=504))
                }
                Err(error) => (error.detail, true),
            };
            self.troubled(error.clone());
            let Some(pause) = pauses.next().filter(|_| passes) else { return Err(error.into()) };
            let over = self.clock.sleep_until(self.clock.instant() + *pause);
            if self.closing.run_until_cancelled(over).await.is_none() {
                return Err(error.into());
            }
        }
    }
}

/// The exporter's seam.
#[derive(Debug)]
struct Client(Arc<Line>);

impl opentelemetry_http::HttpClient for Client {
    fn send_bytes<'life, 'run>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'run>>
    where
        'life: 'run,
        Self: 'run,
    {
        Box::pin(self.0.send(request))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::SystemTime;

    use tokio::sync::Notify;

    use super::*;
    use crate::base::{BoxFuture, CallError, SpanContext, SpanKind, Tracer};

    /// Answers nobody before it is told to, and counts who asks.
    #[derive(Debug, Default)]
    struct Gone {
        asked: AtomicUsize,
        there: Notify,
    }

    impl HttpClient for Gone {
        fn call(&self, _: Request<Vec<u8>>) -> BoxFuture<'_, Result<Response<Vec<u8>>, CallError>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {
                self.there.notified().await;
                Ok(Response::new(Vec::new()))
            })
        }
    }

    fn span() -> Span {
        let context = SpanContext { trace: [1; 16], span: [2; 8], flags: 1 };
        let time = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        Span {
            context,
            parent: None,
            link: None,
            kind: SpanKind::Server,
            name: "GET",
            time,
            events: Vec::new(),
            attributes: Vec::new(),
            failed: false,
        }
    }

    fn collector(client: Arc<dyn HttpClient>) -> Collector {
        let settings = serde_json::from_value(serde_json::json!({ "endpoint": "https://collector.test" })).unwrap();
        Collector { settings, client, headers: HeaderMap::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_gone_fills_the_queue_and_no_more() {
        let gone = Arc::new(Gone::default());
        let traces = Traces::start(collector(Arc::clone(&gone) as Arc<dyn HttpClient>), &Deps::system()).unwrap();
        for _ in 0..3 * QUEUE {
            traces.sink.record(vec![span(), span()]);
        }
        // Nothing ran in between, so the task took nothing.
        assert_eq!(traces.sink.lost.load(Ordering::Relaxed), 2 * 2 * QUEUE as u64);
        // It ends all the same, after its two seconds.
        traces.close().await;
        assert_eq!(gone.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_sent_at_the_end() {
        let there = Arc::new(Gone::default());
        there.there.notify_one();
        let deps = Deps::system();
        let traces = Traces::start(collector(Arc::clone(&there) as Arc<dyn HttpClient>), &deps).unwrap();
        let tracer = Tracer::default();
        tracer.turn(Some(traces.tracing(&deps)));
        let root = tracer.request(&HeaderMap::new()).unwrap();
        root.record(vec![span()]);
        traces.close().await;
        assert_eq!(there.asked.load(Ordering::SeqCst), 1);
    }
}
