//! What is counted of the requests of one binding: handles that are made when it is used first, so that a request looks
//! nothing up.
//!
//! Rooms count with the `metrics` crate, which does nothing where nobody installed a recorder; `observe` alone reads.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

const VIAS: [&str; 5] = ["forward", "tunnel", "reverse", "transparent", "other"];
const OUTCOMES: [&str; 5] = ["complete", "refused", "upstream_broke_off", "caller_left", "other"];
const FAULTS: [&str; 4] = ["none", "caller", "upstream", "countersign"];
const PHASES: [&str; 5] = ["decide", "authorize", "connect", "upstream", "total"];

/// Bodies that were held, in memory and in a file, and their bytes.
static SPOOLED: OnceLock<[Counter; 3]> = OnceLock::new();

/// Counts a body that was held to be hashed.
pub fn spooled(in_file: bool, bytes: u64) {
    let of = |held_in: &'static str| counter!("countersign_bodies_spooled_total", "held_in" => held_in);
    let [memory, file, total] =
        SPOOLED.get_or_init(|| [of("memory"), of("file"), counter!("countersign_spooled_bytes_total")]);
    if in_file { file } else { memory }.increment(1);
    total.increment(bytes);
}

/// Names that have a series of their own; whatever comes later is counted as `other`.
#[derive(Debug)]
struct Names {
    limit: usize,
    known: Mutex<HashSet<Arc<str>>>,
}

static NAMES: OnceLock<Names> = OnceLock::new();

/// From now on this process counts; `limit` bindings have a series of their own.
pub fn begin(limit: usize) {
    NAMES.get_or_init(|| Names { limit, known: Mutex::default() });
}

/// Whether this process counts.
pub fn is_on() -> bool {
    NAMES.get().is_some()
}

impl Names {
    fn label(&self, name: &Arc<str>) -> Arc<str> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return Arc::clone(name);
        }
        if known.len() >= self.limit {
            return "other".into();
        }
        known.insert(Arc::clone(name));
        Arc::clone(name)
    }
}

/// What a credential is called in a label: its id, or `other` where too many have one.
pub fn label(id: &str) -> Arc<str> {
    static CREDENTIALS: Mutex<Option<HashSet<Arc<str>>>> = Mutex::new(None);
    let Some(names) = NAMES.get() else { return "other".into() };
    let mut known = CREDENTIALS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(known) = known.get(id) {
        return Arc::clone(known);
    }
    if known.len() >= names.limit {
        return "other".into();
    }
    let id: Arc<str> = id.into();
    known.insert(Arc::clone(&id));
    id
}

/// The place of a word in its list; the list's last word stands for what is not in it.
fn place(words: &[&str], word: &str) -> usize {
    words.iter().position(|one| *one == word).unwrap_or(words.len() - 1)
}

/// How long the parts of a request took; nothing for a part that there was not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// Until it was known what may be used.
    pub decide: Option<Duration>,
    /// Until it was signed, an exchange of tokens included.
    pub authorize: Option<Duration>,
    /// Until the connection was open that was made for it.
    pub connect: Option<Duration>,
    /// Until the head of the answer.
    pub upstream: Option<Duration>,
    /// Until the end of the answer.
    pub total: Duration,
}

/// The counters of one binding.
#[derive(Debug)]
pub struct Meter {
    binding: Arc<str>,
    scheme: &'static str,
    requests: Vec<OnceLock<Counter>>,
    phases: [Histogram; PHASES.len()],
    unauthorized: OnceLock<Counter>,
    living: Counter,
    obtained: Counter,
}

impl Meter {
    /// The meter of a binding, whose name may have to be `other`.
    fn of(name: &Arc<str>, scheme: &'static str) -> Self {
        let binding = NAMES.get().map_or_else(|| "other".into(), |names| names.label(name));
        let cache =
            |result: &'static str| counter!("countersign_token_uses_total", "scheme" => scheme, "result" => result);
        Self {
            binding,
            scheme,
            requests: (0..VIAS.len() * OUTCOMES.len() * FAULTS.len()).map(|_| OnceLock::new()).collect(),
            phases: PHASES
                .map(|phase| histogram!("countersign_request_duration_seconds", "phase" => phase, "scheme" => scheme)),
            unauthorized: OnceLock::new(),
            living: cache("living"),
            obtained: cache("obtained"),
        }
    }

    /// What has no binding.
    pub fn unbound() -> &'static Self {
        static UNBOUND: OnceLock<Meter> = OnceLock::new();
        UNBOUND.get_or_init(|| {
            let mut meter = Self::of(&"none".into(), "none");
            meter.binding = "none".into();
            meter
        })
    }

    /// Counts a request that is over.
    pub fn request(&self, via: &'static str, outcome: &'static str, fault: &'static str, phases: &Phases) {
        let (via, outcome) = (place(&VIAS, via), place(&OUTCOMES, outcome));
        let fault = FAULTS.iter().position(|one| *one == fault).unwrap_or(0);
        let at = (via * OUTCOMES.len() + outcome) * FAULTS.len() + fault;
        if let Some(slot) = self.requests.get(at) {
            let make = || {
                counter!(
                    "countersign_requests_total", "listener" => VIAS[via], "binding" => Arc::clone(&self.binding),
                    "scheme" => self.scheme, "outcome" => OUTCOMES[outcome], "fault" => FAULTS[fault]
                )
            };
            slot.get_or_init(make).increment(1);
        }
        let times = [phases.decide, phases.authorize, phases.connect, phases.upstream, Some(phases.total)];
        for (histogram, time) in self.phases.iter().zip(times) {
            if let Some(time) = time {
                histogram.record(time.as_secs_f64());
            }
        }
    }

    /// Counts an upstream that refused what was signed.
    pub fn unauthorized(&self) {
        let make = || {
            let binding = Arc::clone(&self.binding);
            counter!("countersign_upstream_unauthorized_total", "binding" => binding, "scheme" => self.scheme)
        };
        self.unauthorized.get_or_init(make).increment(1);
    }

    /// Counts a request that was signed with a token: one that lived, or one that it had to wait for.
    pub fn token(&self, living: bool) {
        if living { self.living.increment(1) } else { self.obtained.increment(1) }
    }
}

/// The meter of a binding, made at its first use.
#[derive(Debug, Clone, Default)]
pub struct MeterSlot(OnceLock<Arc<Meter>>);

impl MeterSlot {
    /// The meter; nothing where this process does not count.
    pub fn get(&self, name: &Arc<str>, scheme: &'static str) -> Option<&Arc<Meter>> {
        is_on().then(|| self.0.get_or_init(|| Arc::new(Meter::of(name, scheme))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bindings_than_may_have_a_series_are_counted_together() {
        let names = Names { limit: 2, known: Mutex::default() };
        let label = |name: &str| names.label(&name.into()).to_string();
        assert_eq!([label("a"), label("b"), label("c"), label("a"), label("d")], ["a", "b", "other", "a", "other"]);
    }

    #[test]
    fn a_word_that_is_not_known_is_counted_as_other() {
        assert_eq!(VIAS[place(&VIAS, "reverse")], "reverse");
        assert_eq!(VIAS[place(&VIAS, "pigeon")], "other");
    }
}
