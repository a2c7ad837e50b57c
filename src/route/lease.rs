//! The lease of a run: for how long its token proves it, what it is confined to, and what it did.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::Method;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::base::{Clock, Code, Destination, Protocol, Refusal};

/// A run is a caller, whose name is this and its id.
pub const RUN_PREFIX: &str = "run-";

/// So many different kinds of calls of one run are told apart; what comes after is counted under no host's name.
const MANY: usize = 2_000;

/// A run's lease on what its policy may use.
#[derive(Debug)]
pub struct Lease {
    /// The run's id.
    pub run: Arc<str>,
    /// The account.
    pub account: Arc<str>,
    /// What its bindings are filed under: see [`Lease::scope_of`].
    pub scope: Arc<str>,
    /// When it ends by itself.
    pub until: SystemTime,
    /// What it did.
    pub book: Book,
    over: AtomicBool,
    ended: CancellationToken,
}

impl Lease {
    /// A lease that has begun.
    pub fn new(account: &str, policy: &str, run: &str, until: SystemTime) -> Self {
        Self {
            run: run.into(),
            account: account.into(),
            scope: Self::scope_of(account, policy).into(),
            until,
            book: Book::default(),
            over: AtomicBool::new(false),
            ended: CancellationToken::new(),
        }
    }

    /// What the bindings of an applied policy are filed under. No account is called so.
    pub fn scope_of(account: &str, policy: &str) -> String {
        format!("{account}\n{policy}")
    }

    /// Whether it still holds.
    pub fn holds(&self, now: SystemTime) -> bool {
        now < self.until && !self.over.load(Ordering::Acquire)
    }

    /// Ends it, and whatever waits for that.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.ended.cancel();
    }

    /// Comes to its end when the lease was ended. Its time alone ends nothing that waits: see [`Lease::keep_time`].
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }

    /// Ends it at its time, whatever else can be read then.
    pub async fn keep_time(lease: Weak<Self>, clock: Arc<dyn Clock>) {
        let Some((ended, until)) = lease.upgrade().map(|lease| (lease.ended(), lease.until)) else { return };
        let left = until.duration_since(clock.now()).unwrap_or_default();
        tokio::select! {
            () = clock.sleep_until(clock.instant() + left) => {}
            () = ended => {}
        }
        if let Some(lease) = lease.upgrade() {
            lease.end();
        }
    }

    /// Refuses what has not gone out yet once the lease is over.
    ///
    /// # Errors
    /// `caller_unknown`.
    pub fn check(&self, now: SystemTime) -> Result<(), Refusal> {
        if self.holds(now) {
            return Ok(());
        }
        Err(Refusal::new(Code::CallerUnknown, "the run ended meanwhile"))
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It went out with a credential.
    Used,
    /// It went out without one.
    Passed,
    /// It was refused, with this code.
    Refused(&'static str),
}

impl Outcome {
    /// `used`, `passed`, or the code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Passed => "passed",
            Self::Refused(code) => code,
        }
    }
}

/// A credential, and the name that it has within the run.
pub type Means<'a> = Option<(&'a Arc<str>, &'a Arc<str>)>;

/// Calls of one kind, counted since they were last taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The block of the template, if its credential was used or found.
    pub block: Option<Arc<str>>,
    /// That credential.
    pub credential: Option<Arc<str>>,
    /// Where to: `host`, `host:port`, `http://host` where it was unencrypted; empty where too many kinds were told apart.
    pub host: Arc<str>,
    /// With which method; empty where too many kinds were told apart.
    pub method: Arc<str>,
    /// What became of them.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
    /// When the last one was, to the second.
    pub last: SystemTime,
}

/// What a run did. Counting takes no lock, and allocates for the first call of a kind only.
#[derive(Debug, Default)]
pub struct Book {
    lines: ArcSwap<HashMap<u64, Arc<Line>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Line {
    block: Option<Arc<str>>,
    credential: Option<Arc<str>>,
    host: Arc<str>,
    method: Arc<str>,
    outcome: Outcome,
    count: AtomicU64,
    last: AtomicU64,
}

impl Book {
    /// Counts one.
    pub fn count(
        &self,
        means: Means<'_>,
        destination: &Destination,
        method: &Method,
        outcome: Outcome,
        now: SystemTime,
    ) {
        let place = (destination.protocol(), destination.place());
        let key = self.hasher.hash_one((means, place, method, outcome));
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let lines = self.lines.load();
        let line = match lines.get(&key) {
            Some(line) => Arc::clone(line),
            None => self.open(key, means, destination, method, outcome),
        };
        line.count.fetch_add(1, Ordering::Relaxed);
        line.last.fetch_max(seconds, Ordering::Relaxed);
    }

    fn open(
        &self,
        key: u64,
        means: Means<'_>,
        destination: &Destination,
        method: &Method,
        outcome: Outcome,
    ) -> Arc<Line> {
        let lines = self.lines.load();
        let few = lines.len() < MANY;
        // Whatever came with it: of outcomes there are few.
        let means = means.filter(|_| few || outcome == Outcome::Used);
        let key = if few { key } else { self.hasher.hash_one((means, outcome)) };
        if let Some(line) = lines.get(&key) {
            return Arc::clone(line);
        }
        let line = Arc::new(Line {
            block: means.map(|(block, _)| Arc::clone(block)),
            credential: means.map(|(_, credential)| Arc::clone(credential)),
            host: if few { shown(destination).into() } else { "".into() },
            method: if few { method.as_str().into() } else { "".into() },
            outcome,
            count: AtomicU64::new(0),
            last: AtomicU64::new(0),
        });
        self.lines.rcu(|lines| {
            let mut lines = HashMap::clone(lines);
            lines.entry(key).or_insert_with(|| Arc::clone(&line));
            lines
        });
        self.lines.load().get(&key).map_or(line, Arc::clone)
    }

    /// Takes what was counted, to be added to what is written down.
    pub fn take(&self) -> Vec<Calls> {
        let calls = |line: &Arc<Line>| {
            let count = line.count.swap(0, Ordering::Relaxed);
            (count > 0).then(|| line.calls(count))
        };
        self.lines.load().values().filter_map(calls).collect()
    }

    /// What was counted since it was last taken.
    pub fn look(&self) -> Vec<Calls> {
        let lines = self.lines.load();
        let calls = lines.values().map(|line| line.calls(line.count.load(Ordering::Relaxed)));
        calls.filter(|calls| calls.count > 0).collect()
    }

    /// Gives back what could not be written down.
    pub fn give_back(&self, taken: &[Calls]) {
        let lines = self.lines.load();
        for line in lines.values() {
            let same = |calls: &&Calls| {
                calls.block == line.block
                    && calls.credential == line.credential
                    && calls.host == line.host
                    && calls.method == line.method
                    && calls.outcome == line.outcome
            };
            if let Some(calls) = taken.iter().find(same) {
                line.count.fetch_add(calls.count, Ordering::Relaxed);
            }
        }
    }
}

/// As bindings write it, with `http://` where it is unencrypted.
fn shown(destination: &Destination) -> String {
    match destination.protocol() {
        Protocol::Https => destination.authority().to_string(),
        Protocol::Http => destination.to_string(),
    }
}

impl Line {
    fn calls(&self, count: u64) -> Calls {
        Calls {
            block: self.block.clone(),
            credential: self.credential.clone(),
            host: Arc::clone(&self.host),
            method: Arc::clone(&self.method),
            outcome: self.outcome,
            count,
            last: UNIX_EPOCH + Duration::from_secs(self.last.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Destination {
        Destination::from_connect(host).unwrap()
    }

    #[test]
    fn calls_of_a_kind_are_counted_together_and_others_apart() {
        let (book, now) = (Book::default(), UNIX_EPOCH + Duration::from_secs(7));
        let (block, credential): (Arc<str>, Arc<str>) = ("auth_c".into(), "c".into());
        for _ in 0..3 {
            book.count(Some((&block, &credential)), &at("a.test:443"), &Method::GET, Outcome::Used, now);
        }
        book.count(Some((&block, &credential)), &at("a.test:443"), &Method::PUT, Outcome::Used, now);
        book.count(None, &at("b.test:443"), &Method::GET, Outcome::Refused("unbound"), now);
        let mut taken = book.take();
        taken.sort_by_key(|calls| std::cmp::Reverse((calls.count, calls.outcome.as_str())));
        let shown: Vec<_> = taken.iter().map(|calls| (calls.count, calls.outcome.as_str())).collect();
        assert_eq!(shown, [(3, "used"), (1, "used"), (1, "unbound")]);
        assert_eq!(taken[0].last, now);
        assert!(book.take().is_empty());
        book.give_back(&taken);
        assert_eq!(book.take().iter().map(|calls| calls.count).sum::<u64>(), 5);
    }

    #[test]
    fn a_run_that_calls_ever_new_hosts_keeps_a_book_of_bounded_length() {
        let book = Book::default();
        for index in 0..3 * MANY {
            book.count(None, &at(&format!("h{index}.test:443")), &Method::GET, Outcome::Refused("unbound"), UNIX_EPOCH);
        }
        let taken = book.take();
        assert!(taken.len() == MANY + 1);
        assert_eq!(taken.iter().map(|calls| calls.count).sum::<u64>(), 3 * MANY as u64);
    }

    #[test]
    fn names_that_nobody_has_make_no_lines_of_their_own_once_there_are_many() {
        let book = Book::default();
        for index in 0..3 * MANY {
            let (block, credential): (Arc<str>, Arc<str>) = (format!("b{index}").into(), format!("c{index}").into());
            let outcome = Outcome::Refused("credential_unknown");
            book.count(Some((&block, &credential)), &at("a.test:443"), &Method::GET, outcome, UNIX_EPOCH);
        }
        assert_eq!(book.take().len(), MANY + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_at_its_time_though_nobody_looks() {
        #[derive(Debug)]
        struct Paused(tokio::time::Instant);
        impl Clock for Paused {
            fn now(&self) -> SystemTime {
                UNIX_EPOCH + self.0.elapsed()
            }
            fn instant(&self) -> std::time::Instant {
                tokio::time::Instant::now().into_std()
            }
            fn sleep_until(&self, moment: std::time::Instant) -> crate::base::Sleep {
                Box::pin(tokio::time::sleep_until(moment.into()))
            }
        }
        let (began, until) = (tokio::time::Instant::now(), UNIX_EPOCH + Duration::from_secs(3600));
        let lease = Arc::new(Lease::new("default", "p", "r", until));
        let keeper = tokio::spawn(Lease::keep_time(Arc::downgrade(&lease), Arc::new(Paused(began))));
        let ended = lease.ended();
        tokio::time::timeout(Duration::from_secs(3599), lease.ended()).await.unwrap_err();
        assert!(lease.check(UNIX_EPOCH).is_ok());
        ended.await;
        assert_eq!(began.elapsed(), Duration::from_secs(3600));
        assert_eq!(lease.check(UNIX_EPOCH).unwrap_err().code, Code::CallerUnknown);
        keeper.await.unwrap();
        // One that is ended before its time leaves no task behind.
        let lease = Arc::new(Lease::new("default", "p", "s", until));
        let keeper = tokio::spawn(Lease::keep_time(Arc::downgrade(&lease), Arc::new(Paused(began))));
        tokio::task::yield_now().await;
        lease.end();
        keeper.await.unwrap();
    }

    #[tokio::test]
    async fn a_lease_ends_at_its_time_or_when_it_is_ended_and_not_before() {
        let lease = Lease::new("default", "p", "r", UNIX_EPOCH + Duration::from_secs(10));
        assert!(lease.holds(UNIX_EPOCH + Duration::from_secs(9)));
        assert!(!lease.holds(UNIX_EPOCH + Duration::from_secs(10)));
        lease.end();
        assert!(!lease.holds(UNIX_EPOCH));
        lease.ended().await;
    }
}
