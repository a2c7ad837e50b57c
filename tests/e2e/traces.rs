//! Traces, received by an OTLP collector of the test from the real binary.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{Answer, Config, DEADLINE, Origin, Proxy, Raw, Root, SECRET, Seen, countersign, raw, text};
use crate::tokens::Gate;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector: it decodes what it gets, and answers as it is told.
struct Collector {
    origin: Origin,
    /// What it was sent: known before the spans of it are.
    seen: Arc<Mutex<Vec<Seen>>>,
    spans: watch::Receiver<Vec<Span>>,
}

impl Collector {
    async fn start() -> Self {
        Self::answering(|_| 200).await
    }

    /// Spans count only if they were accepted.
    async fn answering(status: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Self {
        let (sender, spans) = watch::channel(Vec::new());
        let (calls, seen) = (AtomicUsize::new(0), Arc::<Mutex<Vec<Seen>>>::default());
        let record = Arc::clone(&seen);
        let origin = Origin::http_with(move |seen| {
            record.lock().unwrap().push(seen.clone());
            let status = status(calls.fetch_add(1, Ordering::SeqCst));
            if status == 200 {
                sender.send_modify(|spans| spans.extend(decoded(seen)));
            }
            text(status, "")
        })
        .await;
        Self { origin, seen, spans }
    }

    fn section(&self) -> String {
        self.section_with("")
    }

    fn section_with(&self, more: &str) -> String {
        format!("traces: {{ endpoint: \"http://{}\"{more} }}\n", self.origin.address)
    }

    /// Waits until what came fulfils a condition.
    async fn wait(&self, done: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut spans = self.spans.clone();
        let came = tokio::time::timeout(DEADLINE, spans.wait_for(|spans| done(spans))).await;
        came.unwrap_or_else(|_| panic!("they never came: {:#?}", self.spans.borrow())).unwrap().clone()
    }

    /// Waits for so many requests to be over.
    async fn requests(&self, count: usize) -> Vec<Span> {
        self.wait(|spans| spans.iter().filter(|span| span.kind() == SpanKind::Server).count() >= count).await
    }

    /// Every byte that reached it.
    fn bytes(&self) -> Vec<u8> {
        let seen = self.seen.lock().unwrap();
        seen.iter().flat_map(|seen| [format!("{:?}", seen.headers).as_bytes(), &*seen.body].concat()).collect()
    }

    fn has(&self, canary: &str) -> bool {
        self.bytes().windows(canary.len()).any(|window| window == canary.as_bytes())
    }
}

fn decoded(seen: &Seen) -> Vec<Span> {
    assert_eq!((seen.target.as_str(), seen.header("content-type")), ("/v1/traces", Some("application/x-protobuf")));
    let request = ExportTraceServiceRequest::decode(seen.body.clone()).unwrap();
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let about = resource.resource.unwrap().attributes;
        let name = about.iter().find(|one| one.key == "service.name").unwrap();
        assert_eq!(name.value.as_ref().unwrap().value, Some(Value::StringValue("countersign".into())));
        spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute as text.
fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == key);
    match found.and_then(|one| one.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn server(spans: &[Span]) -> &Span {
    let mut servers = spans.iter().filter(|span| span.kind() == SpanKind::Server);
    let server = servers.next().unwrap();
    assert!(servers.next().is_none(), "{spans:#?}");
    server
}

/// The spans right below another, by name.
fn below<'a>(spans: &'a [Span], parent: &Span, name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id && span.name == name).collect()
}

fn only<'a>(spans: &'a [Span], parent: &Span, name: &str) -> &'a Span {
    let found = below(spans, parent, name);
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

const OPEN: &str = "  - { credential: key, hosts: [api.test], allow_cleartext: true }\n";

fn config(api: &Origin) -> Config {
    Config::new().bindings(OPEN).resolve("api.test:80", api.address)
}

fn get(proxy: &Proxy, headers: &str) -> Raw {
    let request = format!("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n{headers}\r\n");
    raw(&proxy.forward(), request.as_bytes())
}

fn traced(proxy: &Proxy) -> Raw {
    get(proxy, &format!("traceparent: {PARENT}\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_span_in_its_callers_trace_and_below_it_its_signing_and_its_upstream() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let proxy = config(&api).rest(&collector.section()).start(&Root::new());
    let request = format!(
        "GET http://api.test/p4th-canary?q=qu3ry-canary HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\
         x-canary: h3ader-canary\r\nAuthorization: Bearer c4ller-canary\r\ntraceparent: {PARENT}\r\ntracestate: v=st4te-canary\r\n\r\n"
    );
    assert_eq!(raw(&proxy.forward(), request.as_bytes()).status(), 200);
    let spans = collector.requests(1).await;
    let whole = server(&spans);
    assert_eq!((hex(&whole.trace_id).as_str(), hex(&whole.parent_span_id).as_str()), (TRACE, "00f067aa0ba902b7"));
    assert_eq!(whole.name, "GET");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("server.address", "api.test"),
        ("server.port", "80"),
        ("http.response.status_code", "200"),
        ("countersign.via", "forward"),
        ("countersign.caller", "local"),
        ("countersign.credential", "key"),
        ("countersign.binding", "bindings[0]"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(whole, key), value, "{key}");
    }
    let signing = only(&spans, whole, "sign");
    let upstream = only(&spans, whole, "GET");
    assert_eq!((signing.kind(), upstream.kind(), spans.len()), (SpanKind::Internal, SpanKind::Client, 3));
    assert_eq!(attribute(upstream, "http.response.status_code"), "200");
    assert!(
        spans
            .iter()
            .all(|span| span.trace_id == whole.trace_id && span.end_time_unix_nano >= span.start_time_unix_nano)
    );
    assert!(
        signing.end_time_unix_nano <= upstream.start_time_unix_nano
            && upstream.start_time_unix_nano >= whole.start_time_unix_nano
    );
    // The upstream's spans are below ours, and what vendors added is as it was.
    let seen = api.only();
    let named = format!("00-{TRACE}-{}-01", hex(&upstream.span_id));
    assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (Some(&*named), Some("v=st4te-canary")));
    assert_eq!(seen.headers.get_all("traceparent").iter().count(), 1);
    for canary in ["canary", SECRET, "Bearer"] {
        assert!(!collector.has(canary), "{canary} reached the collector");
    }
    assert!(collector.has("api.test"), "it would be seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_traced_goes_on_with_the_headers_that_it_came_with() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let proxy = config(&api).rest(&collector.section_with(", ratio: 0")).start(&Root::new());
    let unsampled = PARENT.replace("-01", "-00");
    for headers in
        [String::new(), format!("traceparent: {unsampled}\r\ntracestate: a=b\r\n"), "traceparent: nonsense\r\n".into()]
    {
        assert_eq!(get(&proxy, &headers).status(), 200);
    }
    assert_eq!(traced(&proxy).status(), 200);
    let spans = collector.requests(1).await;
    assert_eq!(hex(&server(&spans).trace_id), TRACE, "the caller decides, whatever the ratio");
    let sent: Vec<_> = api.seen().iter().map(|seen| seen.header("traceparent").map(str::to_owned)).collect();
    assert_eq!(sent[..3], [None, Some(unsampled), Some("nonsense".into())]);
    assert_eq!(api.seen()[1].header("tracestate"), Some("a=b"));
    // Without a credential of ours it is traced, and goes on as it came: its caller may have signed it.
    let passing = config(&api).resolve("other.test:80", api.address);
    let passing = passing.rest(&format!("unbound: pass\n{}", collector.section())).start(&Root::new());
    let request = format!(
        "GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\ntraceparent: {PARENT}\r\n\r\n"
    );
    assert_eq!(raw(&passing.forward(), request.as_bytes()).status(), 200);
    let spans = collector.requests(2).await;
    let whole = spans.iter().find(|span| attribute(span, "server.address") == "other.test").unwrap();
    assert_eq!((attribute(whole, "countersign.credential").as_str(), hex(&whole.trace_id).as_str()), ("", TRACE));
    assert_eq!(api.seen().last().unwrap().header("traceparent"), Some(PARENT));
    // Without the section nothing is touched at all.
    let off = config(&api).start(&Root::new());
    assert_eq!(traced(&off).status(), 200);
    assert_eq!(api.seen().last().unwrap().header("traceparent"), Some(PARENT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_begins_here_where_the_caller_has_none_or_a_malformed_one() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let proxy = config(&api).rest(&collector.section()).start(&Root::new());
    get(&proxy, "traceparent: 00-xyz-01\r\ntracestate: a=b\r\n");
    get(&proxy, "");
    let spans = collector.requests(2).await;
    for (seen, whole) in api.seen().iter().zip(spans.iter().filter(|span| span.kind() == SpanKind::Server)) {
        assert!(whole.parent_span_id.is_empty());
        let upstream = only(&spans, whole, "GET");
        let named = format!("00-{}-{}-01", hex(&whole.trace_id), hex(&upstream.span_id));
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (Some(&*named), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_an_upstream_that_is_not_there_are_errors_of_their_code() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let config = config(&api).resolve("gone.api.test:80", "127.0.0.1:1".parse().unwrap());
    let config = config
        .bindings("  - { credential: key, hosts: [api.test, gone.api.test], methods: [GET], allow_cleartext: true }\n");
    let proxy = config.rest(&collector.section()).start(&Root::new());
    let ask = |method: &str, host: &str| {
        raw(
            &proxy.forward(),
            format!("{method} http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    };
    assert_eq!(ask("POST", "api.test").code(), "unbound");
    assert_eq!(ask("GET", "gone.api.test").code(), "upstream_unreachable");
    assert_eq!(ask("M4DE-UP", "api.test").code(), "unbound");
    let spans = collector.requests(3).await;
    let of = |code: &str| spans.iter().filter(|span| attribute(span, "error.type") == code).collect::<Vec<_>>();
    assert_eq!(of("unbound").len(), 2, "nothing was signed or sent");
    assert_eq!(of("unbound")[0].status.as_ref().unwrap().code, 0, "what the caller did wrong is no failure of ours");
    assert_eq!((of("unbound")[1].name.as_str(), collector.has("M4DE")), ("HTTP", false));
    assert_eq!(of("upstream_unreachable").len(), 2, "the whole and the way there");
    assert!(of("upstream_unreachable").iter().all(|span| span.status.as_ref().unwrap().code == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_signed_is_the_one_that_is_sent() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let aws = "  - { id: key, scheme: aws, access_key: AKIDEXAMPLE, secret_key: { env: SECRET }, service: s, region: us-east-1, \
               signed_headers: [traceparent], hosts: [api.test] }\n";
    let proxy = config(&api).credentials(aws).rest(&collector.section()).start(&Root::new());
    assert_eq!(traced(&proxy).status(), 200);
    let seen = api.only();
    let parent = seen.header("traceparent").unwrap();
    assert_ne!(parent, PARENT);
    assert!(seen.header("authorization").unwrap().contains("traceparent"), "{seen:?}");
    assert_eq!(signature(&seen, parent), sent_signature(&seen));
    assert_ne!(signature(&seen, PARENT), sent_signature(&seen), "the caller's own would not have verified");
}

fn sent_signature(seen: &Seen) -> String {
    seen.header("authorization").unwrap().rsplit_once("Signature=").unwrap().1.to_owned()
}

/// The signature of Version 4, by its specification, over what arrived and this `traceparent`.
fn signature(seen: &Seen, traceparent: &str) -> String {
    use aws_lc_rs::{digest, hmac};
    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let hmac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let authorization = seen.header("authorization").unwrap();
    let names = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    let mut canonical = format!("{}\n/\n\n", seen.method);
    for name in names.split(';') {
        let value = if name == "traceparent" { traceparent } else { seen.header(name).unwrap() };
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    let payload = seen.header("x-amz-content-sha256").map_or_else(|| sha256(b""), str::to_owned);
    canonical.push_str(&format!("\n{names}\n{payload}"));
    let moment = seen.header("x-amz-date").unwrap();
    let scope = authorization.split("Credential=AKIDEXAMPLE/").nth(1).unwrap().split(',').next().unwrap();
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part));
    hex(&hmac(&key, &format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(canonical.as_bytes()))))
}

const OAUTH2: &str = "  - id: key\n    scheme: oauth2\n    hosts: [api.test]\n    grant_type: client_credentials\n    \
     token_url: http://idp.test/token\n    allow_cleartext: true\n    client_id: me\n    client_secret: { env: SECRET }\n";

fn token(number: usize) -> Answer {
    text(
        200,
        &json!({ "access_token": format!("t0ken-canary-{number}"), "token_type": "Bearer", "expires_in": 3600 })
            .to_string(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exchange_that_a_request_waits_for_is_below_it_and_whoever_waits_too_is_linked_to_it() {
    let (asked, gate) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (ask, held) = (Arc::clone(&asked), Arc::clone(&gate));
    let idp = Origin::http_with(move |_| {
        ask.open();
        held.wait();
        token(1)
    })
    .await;
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let proxy = config(&api)
        .credentials(OAUTH2)
        .resolve("idp.test:80", idp.address)
        .rest(&collector.section())
        .start(&Root::new());
    let proxy = Arc::new(proxy);
    let call = |parent: &'static str| {
        let proxy = Arc::clone(&proxy);
        tokio::task::spawn_blocking(move || get(&proxy, &format!("traceparent: {parent}\r\n")).status())
    };
    let first = call(PARENT);
    asked.wait();
    let second = call("00-11111111111111111111111111111111-2222222222222222-01");
    // It has a place among this caller's requests and nothing else to do but wait; should it come later, it waits for nothing.
    while proxy_has_fewer_connections(&proxy, 2) {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    let spans = collector.requests(2).await;
    let of = |trace: &str| {
        spans.iter().find(|span| hex(&span.trace_id) == trace && span.kind() == SpanKind::Server).unwrap()
    };
    let (one, other) = (of(TRACE), of("11111111111111111111111111111111"));
    let exchange = only(&spans, one, "token exchange");
    assert_eq!((exchange.kind(), attribute(exchange, "countersign.credential").as_str()), (SpanKind::Client, "key"));
    assert!(below(&spans, other, "token exchange").is_empty(), "there was one exchange");
    for wait in below(&spans, other, "token wait") {
        assert_eq!((&wait.links[0].trace_id, &wait.links[0].span_id), (&exchange.trace_id, &exchange.span_id));
    }
    let signing = only(&spans, one, "sign");
    assert!(exchange.end_time_unix_nano <= signing.start_time_unix_nano);
    assert_eq!(traced(&proxy).status(), 200);
    let spans = collector.requests(3).await;
    assert_eq!(spans.iter().filter(|span| span.name == "token exchange").count(), 1, "a living token costs none");
    assert!(!collector.has("canary") && !collector.has(SECRET));
}

/// Connections of callers, as the kernel counts them.
fn proxy_has_fewer_connections(proxy: &Proxy, count: usize) -> bool {
    let port: u16 = proxy.forward().rsplit_once(':').unwrap().1.parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = format!("0100007F:{port:04X}");
    let established = table.lines().filter(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next() == Some(&*ours) && fields.nth(1) == Some("01")
    });
    established.count() < count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_once_more_has_one_way_to_the_upstream_and_two_signatures() {
    let exchanges = AtomicUsize::new(0);
    let idp = Origin::http_with(move |_| token(exchanges.fetch_add(1, Ordering::SeqCst))).await;
    let api = Origin::http_with(|seen| {
        text(if seen.header("authorization").unwrap().ends_with('0') { 401 } else { 200 }, "")
    })
    .await;
    let collector = Collector::start().await;
    let proxy = config(&api)
        .credentials(OAUTH2)
        .resolve("idp.test:80", idp.address)
        .rest(&collector.section())
        .start(&Root::new());
    assert_eq!(traced(&proxy).status(), 200);
    let spans = collector.requests(1).await;
    let whole = server(&spans);
    assert_eq!((below(&spans, whole, "sign").len(), below(&spans, whole, "token exchange").len()), (2, 2));
    let upstream = only(&spans, whole, "GET");
    assert_eq!(attribute(upstream, "http.request.resend_count"), "1");
    let named = format!("00-{TRACE}-{}-01", hex(&upstream.span_id));
    assert!(api.seen().iter().all(|seen| seen.header("traceparent") == Some(&named)) && api.seen().len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_carries_the_trace_on_each_leg() {
    let api = Origin::http_with(|seen| match seen.header("authorization") {
        None => {
            let mut asked = text(401, "");
            let challenge = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256";
            asked.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            asked
        }
        Some(_) => text(200, ""),
    })
    .await;
    let collector = Collector::start().await;
    let digest = "  - { id: key, scheme: digest, username: me, password: { env: SECRET }, hosts: [api.test] }\n";
    let proxy = config(&api).credentials(digest).rest(&collector.section()).start(&Root::new());
    assert_eq!(traced(&proxy).status(), 200);
    let spans = collector.requests(1).await;
    let upstream = only(&spans, server(&spans), "GET");
    let named = format!("00-{TRACE}-{}-01", hex(&upstream.span_id));
    assert_eq!(api.seen().len(), 2);
    assert!(api.seen().iter().all(|seen| seen.header("traceparent") == Some(&named)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stands_still_or_is_not_there_costs_requests_nothing() {
    let api = Origin::http().await;
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let collector = Collector::answering(move |_| {
        held.wait();
        200
    })
    .await;
    let proxy = config(&api).rest(&collector.section()).start(&Root::new());
    for _ in 0..50 {
        assert_eq!(get(&proxy, "").status(), 200);
    }
    gate.open();
    collector.requests(50).await;
    let nowhere = "traces: { endpoint: \"http://127.0.0.1:1\" }\n";
    let proxy = config(&api).rest(nowhere).start(&Root::new());
    for _ in 0..50 {
        assert_eq!(get(&proxy, "").status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_is_lost_and_said_and_what_it_puts_off_comes_later() {
    let refusing = Arc::new(AtomicBool::new(true));
    let refuses = Arc::clone(&refusing);
    let collector = Collector::answering(move |call| match call {
        _ if refuses.load(Ordering::SeqCst) => 400,
        call if call % 2 == 1 => 503,
        _ => 200,
    })
    .await;
    let api = Origin::http().await;
    let proxy = config(&api).rest(&collector.section()).start(&Root::new());
    get(&proxy, "");
    let log = proxy.wait_log(|log| log.contains("traces were lost"));
    assert!(log.contains("it answered 400") && log.contains("\"spans\":3"), "{log}");
    refusing.store(false, Ordering::SeqCst);
    get(&proxy, "");
    collector.requests(1).await;
    proxy.wait_log(|log| log.contains("traces reach the collector again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_sends_what_is_left_and_a_reload_changes_the_collector() {
    let (first, second) = (Collector::start().await, Collector::start().await);
    let api = Origin::http().await;
    let proxy = config(&api).rest(&first.section()).start(&Root::new());
    get(&proxy, "");
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    std::fs::write(&proxy.config, text.replace(&first.section(), &second.section())).unwrap();
    proxy.wait_log(|log| log.contains("configuration reloaded"));
    first.requests(1).await;
    get(&proxy, "");
    get(&proxy, "");
    proxy.stop();
    second.requests(2).await;
    assert_eq!(first.requests(1).await.iter().filter(|span| span.kind() == SpanKind::Server).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_gets_the_headers_of_the_section_and_none_of_the_environment() {
    let (collector, api) = (Collector::start().await, Origin::http().await);
    let section = ", allow_cleartext: true, headers: { authorization: { env: TOKEN }, x-tenant: me }";
    let config = config(&api).rest(&collector.section_with(section));
    let root = Root::new();
    let environment = [
        ("SECRET", SECRET),
        ("TOKEN", "Bearer t0ken"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-environment=1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_SERVICE_NAME", "another"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let proxy = Proxy::start_with(&config.text(), &environment, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    get(&proxy, "");
    collector.requests(1).await;
    let seen = collector.seen.lock().unwrap()[0].clone();
    assert_eq!((seen.header("authorization"), seen.header("x-tenant")), (Some("Bearer t0ken"), Some("me")));
    assert_eq!(seen.header("x-environment"), None);
    assert!(!proxy.log().contains("t0ken"));
    // A header that cannot be loaded: nothing is traced, everything is served, and `check` fails.
    let lacking = Proxy::start_with(&config.text(), &environment[..1], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    assert!(lacking.log().contains("nothing is traced"), "{}", lacking.log());
    assert_eq!(get(&lacking, "").status(), 200);
    let file = lacking.config.to_str().unwrap();
    let checked = countersign(&["check", "--config", file]).env("SECRET", SECRET).output().unwrap();
    assert!(
        !checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("traces.headers.authorization")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_run_is_traced_and_every_signature_verifies_all_the_same() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", collector.origin.address);
    let mut command = countersign(&["demo", "--json", "--traces", &endpoint]);
    command.current_dir(folder.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && rows.iter().all(|row| row["passed"] == true), "{rows:#?}");
    let spans = collector.requests(rows.len()).await;
    for scheme in ["sign", "token exchange"] {
        assert!(spans.iter().any(|span| span.name == scheme), "{scheme}");
    }
    // Nothing else is in them, and nothing of an address but its host.
    let known = [
        "http.request.method",
        "http.request.resend_count",
        "http.response.status_code",
        "url.scheme",
        "server.address",
        "server.port",
        "error.type",
        "countersign.via",
        "countersign.caller",
        "countersign.binding",
        "countersign.credential",
        "countersign.fault",
    ];
    for span in &spans {
        for one in &span.attributes {
            let value = attribute(span, &one.key);
            assert!(known.contains(&&*one.key) && !value.contains(['?', '=', ' ']), "{} is {value}", one.key);
            assert!(one.key != "server.address" || !value.contains('/'), "{value}");
        }
    }
}

#[test]
fn check_warns_of_a_collector_whose_address_is_not_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let checked = |more: &str| {
        let file = folder.path().join("countersign.yaml");
        let listeners = "listeners: { forward: [{ address: 127.0.0.1:0 }] }";
        std::fs::write(&file, format!("{listeners}\ntraces: {{ endpoint: \"http://127.0.0.1:4318\"{more} }}\n"))
            .unwrap();
        let output = countersign(&["check", "--config", file.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let warned = checked("");
    assert!(warned.contains("traces.endpoint") && warned.contains("allow_addresses"), "{warned}");
    assert_eq!(checked(", allow_addresses: [127.0.0.1]"), "");
}
