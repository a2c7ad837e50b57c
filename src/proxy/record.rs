//! The one log line of a request: who, through which binding, to where, with what outcome, whose fault, how long.
//!
//! Never a secret, never a query string.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{Method, StatusCode};
use tokio::sync::oneshot;

use super::denial::Denial;
use super::traced::Traced;
use crate::base::body::{BoxError, Watch};
use crate::base::meter::{Meter, Phases};
use crate::base::{Clock, Destination, Refusal};
use crate::route::{Caller, Outcome};

/// A place among a caller's concurrent requests; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes a place, if the caller has one left.
    pub(super) fn take(caller: &Caller, limit: usize) -> Option<Self> {
        let taken = Self(Arc::clone(&caller.in_flight));
        (taken.0.fetch_add(1, Ordering::Relaxed) < limit).then_some(taken)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a request came how far; a mark is missing where it never came so far, or where nobody wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    /// What may be used for it was known.
    pub decided: Option<Instant>,
    /// It was signed: tokens were there, its body was hashed if it had to be.
    pub authorized: Option<Instant>,
    /// The connection that was made for it was open, TLS included; none was made if it went over one that was there.
    pub connected: Option<Instant>,
    /// The head of the upstream's answer was there.
    pub answered: Option<Instant>,
}

/// What is known of a request so far. Logged once, when it is dropped.
pub(super) struct Record {
    pub(super) clock: Arc<dyn Clock>,
    /// It is logged.
    pub(super) enabled: bool,
    /// It is counted.
    pub(super) metered: bool,
    /// Where; nothing while no binding was found for it.
    pub(super) meter: Option<Arc<Meter>>,
    /// Its marks are wanted.
    pub(super) measured: bool,
    pub(super) started: Instant,
    pub(super) caller: Arc<Caller>,
    pub(super) via: &'static str,
    pub(super) method: Method,
    pub(super) destination: Destination,
    pub(super) binding: Option<Arc<str>>,
    pub(super) credential: Option<Arc<str>>,
    /// The name that the credential has within a run.
    pub(super) alias: Option<Arc<str>>,
    /// It goes out, so.
    pub(super) going: Option<Outcome>,
    /// It stands in the book of a run.
    pub(super) counted: bool,
    /// The credential that the request named.
    pub(super) named: Option<Arc<str>>,
    pub(super) status: Option<StatusCode>,
    pub(super) refusal: Option<Refusal>,
    pub(super) marks: Marks,
    pub(super) bytes: u64,
    /// What became of the answer's body: `None` while it is under way.
    pub(super) ended: Option<&'static str>,
    pub(super) place: Option<Place>,
    /// Its spans, if it is traced.
    pub(super) trace: Option<Box<Traced>>,
    /// Dropped with the answer: ends a request body that the upstream never wanted.
    pub(super) holds: Option<oneshot::Sender<()>>,
}

impl Record {
    /// What is written down of it when its use is refused.
    pub(super) fn denial(&self) -> Denial<'_> {
        Denial {
            via: self.via,
            caller: Some(&self.caller),
            destination: Some(&self.destination),
            method: Some(&self.method),
            credential: self.credential.as_ref().or(self.named.as_ref()),
        }
    }

    /// Counts it among what a run did: once, when it was answered or refused, or nobody waits for that any more.
    pub(super) fn count(&mut self, outcome: Outcome) {
        let Some(lease) = self.caller.lease.as_ref().filter(|_| !self.counted) else { return };
        let means = self.alias.as_ref().zip(self.credential.as_ref());
        lease.book.count(means, &self.destination, &self.method, outcome, self.clock.now());
        self.counted = true;
    }

    /// Notes that a refusal of ours is the answer.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.count(Outcome::Refused(refusal.code.as_str()));
        self.status = Some(refusal.status);
        self.refusal = Some(refusal.clone());
        self.ended = Some("refused");
    }

    /// Notes the end of a conversation after `101`, and how many bytes the upstream said.
    pub(super) fn conversation_ended(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.ended = Some("complete");
    }

    /// Notes the head of an upstream's answer.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(outcome) = self.going {
            self.count(outcome);
        }
        self.status = Some(status);
        self.marks.answered = self.mark();
    }

    /// Notes what an upstream says of what was signed, whether or not it is the answer.
    pub(super) fn heard(&self, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED
            && let Some(meter) = &self.meter
        {
            meter.unauthorized();
        }
    }

    /// Counts it, now that it is over.
    fn meter(&self, fault: &'static str, now: Instant) {
        let (started, marks) = (self.started, &self.marks);
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        let signed = marks.authorized.or(marks.decided);
        let phases = Phases {
            decide: between(Some(started), marks.decided),
            authorize: between(marks.decided, marks.authorized),
            connect: between(signed, marks.connected),
            upstream: between(marks.connected.or(signed), marks.answered),
            total: now.saturating_duration_since(started),
        };
        let meter = self.meter.as_deref().unwrap_or_else(|| Meter::unbound());
        meter.request(self.via, self.ended.unwrap_or("caller_left"), fault, &phases);
    }

    /// The moment, for one of the marks.
    pub(super) fn mark(&self) -> Option<Instant> {
        self.measured.then(|| self.clock.instant())
    }

    /// Notes that it goes out to the upstream.
    pub(super) fn sending(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.sending(&*self.clock);
        }
    }
}

impl Watch for Record {
    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    fn ended(&mut self) {
        self.ended = Some("complete");
    }

    fn failed(&mut self, _: &BoxError) {
        self.ended = Some("upstream_broke_off");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.place = None;
        if let Some(outcome) = self.going {
            self.count(outcome);
        }
        if !self.enabled && !self.metered && self.trace.is_none() {
            return;
        }
        let now = self.clock.instant();
        if let Some(trace) = self.trace.take() {
            trace.over(self, now);
        }
        let millis =
            |since: Instant, until: Instant| until.saturating_duration_since(since).as_micros() as f64 / 1000.0;
        let (code, fault) = match &self.refusal {
            Some(refusal) => (refusal.code.as_str(), refusal.fault.as_str()),
            None if self.ended == Some("upstream_broke_off") => ("-", "upstream"),
            None if self.ended.is_none() => ("-", "caller"),
            None => ("-", "-"),
        };
        if self.metered {
            self.meter(fault, now);
        }
        if !self.enabled {
            return;
        }
        tracing::info!(
            target: "countersign::request",
            caller = &*self.caller.name,
            via = self.via,
            method = self.method.as_str(),
            destination = %self.destination,
            binding = self.binding.as_deref().unwrap_or("-"),
            credential = self.credential.as_deref().unwrap_or("-"),
            status = self.status.map_or(0, |status| status.as_u16()),
            code,
            fault,
            detail = self.refusal.as_ref().map(|refusal| &*refusal.detail),
            outcome = self.ended.unwrap_or("caller_left"),
            bytes = self.bytes,
            upstream_ms = self.marks.answered.map(|at| millis(self.started, at)),
            total_ms = millis(self.started, now),
            "request"
        );
    }
}
