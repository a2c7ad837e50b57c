//! `/metrics` on the admin listener: what the rooms counted, and what is looked up when somebody asks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;

use super::health::refuse_web_pages;
use crate::base::{Clock, meter};

/// Buckets of every duration, in seconds: from what a decision takes to what a report takes.
const BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// Samples are brought into their buckets this often, so that they take no more memory though nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The `metrics` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether anything is counted.
    pub enabled: bool,
    /// Bindings and credentials that have a series of their own; the rest is `other`.
    pub bindings: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, bindings: 1000 }
    }
}

/// What the rooms count: name and meaning.
const COUNTED: [(&str, &str); 14] = [
    ("countersign_requests_total", "Requests that are over."),
    ("countersign_request_duration_seconds", "How long the parts of a request took."),
    ("countersign_refusals_total", "Refusals that were answered, by their code."),
    ("countersign_upstream_unauthorized_total", "Answers 401 to requests that were signed."),
    ("countersign_token_uses_total", "Requests signed with a token that lived, or that had to be obtained."),
    ("countersign_token_exchanges_total", "Exchanges of tokens, by outcome."),
    ("countersign_token_exchange_duration_seconds", "How long an exchange took."),
    ("countersign_connections_open", "Connections of callers that are open."),
    ("countersign_upstream_connections_total", "Connections to upstreams that were made."),
    ("countersign_upstream_connections_open", "Connections to upstreams that are open, idle ones included."),
    ("countersign_bodies_spooled_total", "Bodies that were held to be hashed, in memory or in a file."),
    ("countersign_spooled_bytes_total", "Bytes of the bodies that were held to be hashed."),
    ("countersign_reloads_total", "Reloads of the configuration, by outcome."),
    ("countersign_last_reload_timestamp_seconds", "When the configuration in use was loaded."),
];

/// What was counted, to be read.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Begins to count: once in a process, whatever runs in it.
    pub fn install(settings: &Settings) -> Option<Self> {
        static EXPORTER: OnceLock<Option<Exporter>> = OnceLock::new();
        let make = || {
            let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS).ok()?.build_recorder();
            let exporter = Self(recorder.handle());
            metrics::set_global_recorder(recorder).ok()?;
            for (name, meaning) in COUNTED {
                match name {
                    _ if name.ends_with("_duration_seconds") => metrics::describe_histogram!(name, meaning),
                    _ if name.ends_with("_total") => metrics::describe_counter!(name, meaning),
                    _ => metrics::describe_gauge!(name, meaning),
                }
            }
            meter::begin(settings.bindings);
            Some(exporter)
        };
        EXPORTER.get_or_init(make).clone()
    }

    /// Keeps what was sampled small, for ever.
    pub async fn upkeep(self, clock: Arc<dyn Clock>) {
        loop {
            clock.sleep_until(clock.instant() + UPKEEP).await;
            self.0.run_upkeep();
        }
    }

    fn text(&self, looked_up: &[Gauge], open: bool) -> String {
        let mut text = self.0.render();
        looked_up.iter().for_each(|gauge| gauge.write(&mut text));
        if open { open_metrics(&text) } else { text }
    }
}

/// A gauge that is looked up when somebody asks, so that nothing of what is gone stays.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// A label, if it has one, and what is measured.
    pub samples: Vec<(Option<(&'static str, String)>, f64)>,
}

impl Gauge {
    /// A gauge of one value.
    pub fn of(name: &'static str, meaning: &'static str, value: f64) -> Self {
        Self { name, meaning, samples: vec![(None, value)] }
    }

    fn write(&self, text: &mut String) {
        use std::fmt::Write;
        if self.samples.is_empty() {
            return;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {0} {1}\n# TYPE {0} gauge", self.name, self.meaning);
        for (label, value) in &self.samples {
            let _ = match label {
                None => writeln!(text, "{} {value}", self.name),
                Some((key, word)) => {
                    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    writeln!(text, "{}{{{key}=\"{word}\"}} {value}", self.name)
                }
            };
        }
    }
}

/// The same as OpenMetrics: families of counters are named without `_total`, no line is empty, and the end is told.
fn open_metrics(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 8);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), rest) => {
                let name = name.strip_suffix("_total").unwrap_or(name);
                open.extend(["# ", what, " ", name, " ", rest.unwrap_or_default()]);
            }
            _ => open.push_str(line),
        }
        open.push('\n');
    }
    open.push_str("# EOF\n");
    open
}

/// `/metrics`, to be merged with the other routes of the admin listener.
pub fn metrics_router(exporter: Exporter, look_up: impl Fn() -> Vec<Gauge> + Send + Sync + 'static) -> Router {
    let look_up: Arc<dyn Fn() -> Vec<Gauge> + Send + Sync> = Arc::new(look_up);
    let answer = move |headers: HeaderMap| {
        let (exporter, look_up) = (exporter.clone(), Arc::clone(&look_up));
        async move { answer(&exporter, &look_up(), &headers) }
    };
    Router::new().route("/metrics", get(answer)).layer(middleware::from_fn(refuse_web_pages))
}

fn answer(exporter: &Exporter, looked_up: &[Gauge], headers: &HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let open =
        accepted.filter_map(|value| value.to_str().ok()).any(|text| text.contains("application/openmetrics-text"));
    let kind = if open { OPEN_METRICS } else { PROMETHEUS };
    ([(header::CONTENT_TYPE, kind)], exporter.text(looked_up, open)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_names_counters_without_total_and_tells_the_end() {
        let text = "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\n# TYPE b gauge\nb 1\n\n";
        let open = "# HELP a What.\n# TYPE a counter\na_total{x=\"1\"} 2\n# TYPE b gauge\nb 1\n# EOF\n";
        assert_eq!(open_metrics(text), open);
    }

    #[test]
    fn a_label_is_written_so_that_it_cannot_end_early() {
        let samples = vec![(Some(("credential", "a\"b\\c".to_owned())), 1.5)];
        let mut text = String::new();
        Gauge { name: "g", meaning: "M.", samples }.write(&mut text);
        assert_eq!(text, "# HELP g M.\n# TYPE g gauge\ng{credential=\"a\\\"b\\\\c\"} 1.5\n");
    }

    #[test]
    fn what_was_sampled_is_brought_into_its_buckets_though_nobody_asks() {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap().build_recorder();
        let exporter = Exporter(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            let samples = metrics::histogram!("h");
            for _ in 0..100 {
                (0..1000).for_each(|_| samples.record(0.003));
                exporter.0.run_upkeep();
            }
        });
        let text = exporter.text(&[], false);
        assert!(text.contains("h_bucket{le=\"0.005\"} 100000") && text.contains("h_count 100000"), "{text}");
    }
}
