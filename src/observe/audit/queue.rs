//! What waits to be written: in order, bounded, and what repeats folded into one line with a count.
//!
//! A refusal is written at once the first time. Its repetitions are counted and written together, after a second, then two,
//! and at most every minute while they go on. Refusals of ever new destinations are written one by one up to [`BURST`] for
//! each caller and then a few in a second; beyond that those of one caller and one code are counted together, whatever the
//! destination. So neither a flood nor a disk that is full for long takes more room than the callers there are.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use crate::base::{AuditEvent, AuditUnavailable};

/// Who waits for an event to be on disk.
pub(super) type Reply = oneshot::Sender<Result<(), AuditUnavailable>>;

/// Lines for destinations, or other subjects, that are new: so many at once, and then one in each [`REFILL`].
const BURST: u32 = 64;
const REFILL: Duration = Duration::from_millis(250);

/// How long repetitions are counted before they are written, at first and at most.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// Waiting events beyond which none is accepted that somebody waits for, and refusals are only counted.
const PLENTY: usize = 10_000;

/// The outcome of what could not be recorded in time, and so was refused.
pub(super) const REFUSED: &str = "audit_unavailable";

/// An event on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) at: SystemTime,
    pub(super) event: AuditEvent,
    pub(super) reply: Option<Reply>,
}

/// What makes two refusals the same: action, account, actor and outcome, and in detail also the subject and the place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    coarse: [String; 4],
    detail: Option<[String; 2]>,
}

#[derive(Debug)]
struct Fold {
    /// Repetitions that are not written yet.
    count: u64,
    /// The first of them.
    since: SystemTime,
    latest: AuditEvent,
    window: Duration,
    until: Instant,
}

/// How many new lines somebody may still cause.
#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    folds: HashMap<Key, Fold>,
    buckets: HashMap<[String; 2], Bucket>,
}

impl Queue {
    /// Whether too many wait for one more to be accepted that somebody waits for.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= PLENTY
    }

    /// An event that somebody waits for.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// An event that nobody waits for, which may be one of many alike.
    pub(super) fn note(&mut self, event: AuditEvent, now: SystemTime, instant: Instant) {
        let [fine, coarse] = keys(&event);
        for key in [&fine, &coarse] {
            if let Some(fold) = self.folds.get_mut(key) {
                fold.add(event, now);
                return;
            }
        }
        let key = if self.may_add(&fine, instant) && !self.is_full() { fine } else { coarse };
        self.folds.insert(key, Fold::new(event.clone(), now, instant));
        self.waiting.push_back(Waiting { at: now, event, reply: None });
    }

    /// Whether whoever this is about may cause one more line of its own.
    fn may_add(&mut self, key: &Key, instant: Instant) -> bool {
        let [_, account, actor, _] = &key.coarse;
        let bucket =
            self.buckets.entry([account.clone(), actor.clone()]).or_insert(Bucket { left: BURST, filled: instant });
        let steps = instant.saturating_duration_since(bucket.filled).as_millis() / REFILL.as_millis();
        if steps > 0 {
            bucket.left = bucket.left.saturating_add(u32::try_from(steps).unwrap_or(BURST)).min(BURST);
            bucket.filled = instant;
        }
        let may = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        may
    }

    /// Moves repetitions whose time has come to what waits, and forgets what did not repeat. With `all`, every one.
    pub(super) fn unfold(&mut self, now: SystemTime, instant: Instant, all: bool) {
        let waiting = &mut self.waiting;
        self.folds.retain(|key, fold| {
            if !all && instant < fold.until {
                return true;
            }
            let repeated = fold.count > 0;
            if repeated {
                waiting.push_back(Waiting { at: now, event: fold.take(key), reply: None });
                fold.window = (fold.window * 2).min(LONGEST_WINDOW);
                fold.until = instant + fold.window;
            }
            repeated
        });
        if self.folds.is_empty() {
            self.buckets.retain(|_, bucket| instant.saturating_duration_since(bucket.filled) < REFILL * BURST);
        }
    }

    /// Whether there are repetitions, or windows for them, to look at later.
    pub(super) fn is_folding(&self) -> bool {
        !self.folds.is_empty()
    }

    /// Takes what waits, so much at most.
    pub(super) fn take(&mut self, most: usize) -> Vec<Waiting> {
        let most = most.min(self.waiting.len());
        self.waiting.drain(..most).collect()
    }

    /// Puts back, at the front, what could not be written.
    pub(super) fn put_back(&mut self, batch: Vec<Waiting>) {
        for waiting in batch.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Tells everybody who waits that it was not written; the record will say that it was refused.
    pub(super) fn refuse(&mut self, why: &AuditUnavailable) {
        for waiting in &mut self.waiting {
            waiting.refuse(why);
        }
    }
}

impl Waiting {
    /// Tells who waits that it was not written; the record will say that it was refused.
    pub(super) fn refuse(&mut self, why: &AuditUnavailable) {
        if let Some(reply) = self.reply.take() {
            // Whoever has left does not do it either.
            let _ = reply.send(Err(why.clone()));
            self.event.outcome = REFUSED.into();
        }
    }
}

impl Fold {
    fn new(event: AuditEvent, now: SystemTime, instant: Instant) -> Self {
        Self { count: 0, since: now, latest: event, window: FIRST_WINDOW, until: instant + FIRST_WINDOW }
    }

    fn add(&mut self, event: AuditEvent, now: SystemTime) {
        if self.count == 0 {
            self.since = now;
        }
        self.count += 1;
        self.latest = event;
    }

    /// The line for the repetitions.
    fn take(&mut self, key: &Key) -> AuditEvent {
        let mut event = std::mem::take(&mut self.latest);
        if key.detail.is_none() {
            event.subject = None;
            event.facts.retain(|(name, _)| name == "via");
        }
        let since = humantime::format_rfc3339_millis(self.since).to_string();
        event = event.fact("count", self.count.to_string()).fact("since", since);
        self.count = 0;
        event
    }
}

/// The key of an event in detail, and its coarse one.
fn keys(event: &AuditEvent) -> [Key; 2] {
    let coarse = [
        event.action.clone().into_owned(),
        event.account.clone(),
        event.actor.clone().unwrap_or_default(),
        event.outcome.clone().into_owned(),
    ];
    let place = event.facts.iter().find(|(name, _)| name == "destination").map(|(_, place)| place.clone());
    let detail = [event.subject.clone().unwrap_or_default(), place.unwrap_or_default()];
    [Key { coarse: coarse.clone(), detail: Some(detail) }, Key { coarse, detail: None }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Clock;
    use crate::base::deps::SystemClock;

    fn denial(host: &str) -> AuditEvent {
        AuditEvent::new("use.denied", "a", "unbound").by("runner").fact("destination", host).fact("path", "/x")
    }

    fn counts(queue: &mut Queue) -> Vec<String> {
        let name = |event: AuditEvent| {
            let fact = |name: &str| event.facts.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
            format!("{} {}", fact("destination").unwrap_or("*".into()), fact("count").unwrap_or("1".into()))
        };
        let mut all: Vec<_> = queue.take(usize::MAX).into_iter().map(|waiting| name(waiting.event)).collect();
        all.sort();
        all
    }

    #[test]
    fn the_same_refusal_is_written_at_once_and_its_repetitions_with_a_count() {
        let (mut queue, now, start) = (Queue::default(), SystemTime::UNIX_EPOCH, SystemClock.instant());
        for _ in 0..100 {
            queue.note(denial("a.test"), now, start);
        }
        queue.note(denial("b.test"), now, start);
        assert_eq!(counts(&mut queue), ["a.test 1", "b.test 1"]);
        queue.unfold(now, start + FIRST_WINDOW / 2, false);
        assert_eq!(queue.len(), 0);
        queue.unfold(now, start + FIRST_WINDOW, false);
        assert_eq!(counts(&mut queue), ["a.test 99"]);
        // Two seconds now; what does not go on is forgotten.
        queue.note(denial("a.test"), now, start + FIRST_WINDOW);
        queue.note(denial("b.test"), now, start + FIRST_WINDOW);
        assert_eq!(counts(&mut queue), ["b.test 1"]);
        queue.unfold(now, start + FIRST_WINDOW * 5 / 2, false);
        assert_eq!(counts(&mut queue), [""; 0]);
        queue.unfold(now, start + FIRST_WINDOW * 3, false);
        assert_eq!(counts(&mut queue), ["a.test 1"]);
        queue.unfold(now, start + LONGEST_WINDOW, false);
        assert!(!queue.is_folding());
    }

    #[test]
    fn a_flood_of_new_destinations_is_counted_together_and_loses_no_refusal() {
        let (mut queue, now, start) = (Queue::default(), SystemTime::UNIX_EPOCH, SystemClock.instant());
        for index in 0..100_000 {
            queue.note(denial(&format!("{index}.test")), now, start);
        }
        let lines = counts(&mut queue);
        assert_eq!(lines.len(), 65, "a burst, and the one that was too many");
        queue.unfold(now, start + FIRST_WINDOW, false);
        assert_eq!(counts(&mut queue), [format!("* {}", 100_000 - 65)]);
        for index in 0..100_000 {
            queue.note(denial(&format!("x{index}.test")), now, start + FIRST_WINDOW);
        }
        assert_eq!(queue.len(), 0, "all of them are repetitions");
    }

    #[test]
    fn an_hour_of_a_flood_takes_a_bounded_number_of_lines() {
        let (mut queue, now, start) = (Queue::default(), SystemTime::UNIX_EPOCH, SystemClock.instant());
        let mut written = 0;
        for second in 0..3600 {
            let instant = start + Duration::from_secs(second);
            for index in 0..50 {
                queue.note(denial(&format!("{second}-{index}.test")), now, instant);
            }
            queue.unfold(now, instant, false);
            written += counts(&mut queue).len();
        }
        assert!(written < 64 + 4 * 3600 + 200, "{written}");
    }

    #[test]
    fn what_waits_is_bounded_and_what_could_not_be_written_keeps_its_place() {
        let (mut queue, now) = (Queue::default(), SystemTime::UNIX_EPOCH);
        let waiting = |n: usize| Waiting { at: now, event: AuditEvent::new("x.y", n.to_string(), "ok"), reply: None };
        for n in 0..PLENTY {
            assert!(!queue.is_full());
            queue.push(waiting(n));
        }
        assert!(queue.is_full());
        let batch = queue.take(10);
        queue.put_back(batch);
        let order: Vec<_> = queue.take(usize::MAX).into_iter().map(|waiting| waiting.event.account).collect();
        assert_eq!(order, (0..PLENTY).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}
