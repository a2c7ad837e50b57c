//! Every order in which the steps of a few situations can happen, tried one after the other.
//!
//! A situation is a handful of events (a caller comes, a caller leaves, the provider answers, a 401 arrives, time passes, the
//! clock jumps, the credential goes). Events and the steps of every task between two waits are put in all their orders, and
//! after each step it is checked that no key has two exchanges under way, that nobody is given a token that has ended or was
//! refused, and that a failing provider is left alone; at the end, that nobody still waits.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::cache::{Handle, Live, Spawn, Tokens};
use super::failure::{Failure, FailureKind};
use super::key::KeyBuilder;
use super::sealer::FleetKey;
use super::shared::{Board, Entry, FORCED, Glance, Shared, Sight};
use super::{Token, TokenSource};
use crate::base::deps::{ProcessEnvironment, Sleep, SystemClock};
use crate::base::{
    Authorized, Authorizer, BoxFuture, Clock, Code, Deps, Environment, Mutations, Random, Refusal, RequestView, Secret,
};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// A caller asks for the token.
    Call,
    /// The caller who came first, if still waiting, hangs up.
    Leave,
    /// The provider grants a token of this lifetime.
    Grant(Duration),
    /// The provider fails.
    Fail(FailureKind),
    /// The exchange dies of a bug.
    Panic,
    /// The upstream answers 401 to what the last served caller sent.
    Unauthorized,
    /// Time passes.
    Pass(Duration),
    /// The wall clock is set forward or back; no time passes.
    Forward(Duration),
    Back(Duration),
    /// The credential is removed from the configuration.
    Remove,
    /// The same credential is configured again.
    Restore,
    /// Its secret changes, so that its key does.
    Change,
    /// A caller asks another process, which shares its tokens with the first.
    CallThere,
    /// The upstream answers 401 to what the last caller was served there.
    UnauthorizedThere,
    /// The first process is killed.
    Kill,
    /// What they share their tokens by cannot be reached, or can be again.
    Away,
    Here,
}

#[derive(Debug)]
struct TestClock(Mutex<Time>);

/// The two clocks, and who waits for a moment.
type Time = (SystemTime, Instant, Vec<(Instant, Waker)>);

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        self.0.lock().unwrap().0
    }
    fn instant(&self) -> Instant {
        self.0.lock().unwrap().1
    }
    fn sleep_until(&self, moment: Instant) -> Sleep {
        panic!("use the shared clock for {moment:?}")
    }
}

/// The clock as the engine gets it.
#[derive(Debug, Clone)]
struct SharedClock(Arc<TestClock>);

impl Clock for SharedClock {
    fn now(&self) -> SystemTime {
        self.0.now()
    }
    fn instant(&self) -> Instant {
        self.0.instant()
    }
    fn sleep_until(&self, moment: Instant) -> Sleep {
        let clock = Arc::clone(&self.0);
        Box::pin(std::future::poll_fn(move |cx| {
            let mut state = clock.0.lock().unwrap();
            if state.1 >= moment {
                return Poll::Ready(());
            }
            state.2.push((moment, cx.waker().clone()));
            Poll::Pending
        }))
    }
}

/// No jitter, and ids that nobody else has.
#[derive(Debug)]
struct Counting(u8, AtomicU8);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        bytes.fill(0);
        if bytes.len() > 4 {
            (bytes[0], bytes[1]) = (self.0, self.1.fetch_add(1, Ordering::Relaxed));
        }
        true
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// New tasks, each with the process that it belongs to.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Vec<(Task, bool)>>>);

/// What one process spawns.
struct Spawning(Queue, bool);

impl Spawn for Spawning {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.0.lock().unwrap().push((task, self.1));
    }
}

/// What two processes share their tokens by: each step of it happens at once, some time after it was begun.
#[derive(Debug, Clone)]
struct TestBoard(SharedClock, Arc<Mutex<Lying>>);

#[derive(Debug, Default)]
struct Lying {
    away: bool,
    token: Option<(Vec<u8>, Instant)>,
    failure: Option<(Vec<u8>, Instant)>,
    lease: Option<(String, Instant)>,
    forced: Option<Instant>,
}

impl TestBoard {
    fn step<'a, T: Send>(
        &'a self,
        step: impl FnOnce(&mut Lying, Instant) -> T + Send + 'a,
    ) -> BoxFuture<'a, Result<T, String>> {
        Box::pin(async move {
            let mut begun = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut begun, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            let (mut lying, now) = (self.1.lock().unwrap(), self.0.instant());
            if lying.away {
                return Err("away".into());
            }
            lying.token.take_if(|(_, end)| *end <= now);
            lying.failure.take_if(|(_, end)| *end <= now);
            lying.lease.take_if(|(_, end)| *end <= now);
            lying.forced.take_if(|end| *end <= now);
            Ok(step(&mut lying, now))
        })
    }
}

impl Board for TestBoard {
    fn take<'a>(&'a self, _: &'a str, glance: &'a Glance<'a>) -> BoxFuture<'a, Result<Sight, String>> {
        self.step(move |lying, now| {
            if let Some((token, end)) = lying.token.clone() {
                let known = glance.not.is_some_and(|not| token.starts_with(not.as_bytes()));
                if !known || (glance.refused && lying.forced.is_some()) {
                    return Sight::Token(token, end - now);
                }
                if glance.refused {
                    (lying.token, lying.forced) = (None, Some(now + FORCED));
                }
            }
            if let Some((failure, end)) = lying.failure.clone() {
                return Sight::Failure(failure, end - now);
            }
            if lying.lease.as_ref().is_some_and(|(holder, _)| holder != glance.holder) {
                return Sight::Busy;
            }
            lying.lease = Some((glance.holder.to_owned(), now + glance.lease));
            Sight::Leased
        })
    }

    fn hold<'a>(&'a self, _: &'a str, holder: &'a str, lease: Duration) -> BoxFuture<'a, Result<(), String>> {
        self.step(move |lying, now| {
            if lying.lease.as_ref().is_none_or(|(other, _)| other == holder) {
                lying.lease = Some((holder.to_owned(), now + lease));
            }
        })
    }

    fn leave<'a>(&'a self, _: &'a str, holder: &'a str, entry: Option<&'a Entry>) -> BoxFuture<'a, Result<(), String>> {
        self.step(move |lying, now| {
            let mine = lying.lease.as_ref().is_some_and(|(other, _)| other == holder);
            match entry {
                Some(Entry::Token(token, life)) if mine || lying.token.is_none() => {
                    lying.token = Some((token.clone(), now + *life));
                    lying.failure = None;
                }
                Some(Entry::Failure(failure, life)) if mine => lying.failure = Some((failure.clone(), now + *life)),
                _ => {}
            }
            lying.lease.take_if(|_| mine);
        })
    }

    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.step(|lying, _| (lying.token, lying.failure) = (None, None))
    }
}

/// What happened in one run so far.
#[derive(Default)]
struct Log {
    /// Exchanges under way, by key.
    under_way: Vec<(u8, Arc<Mutex<Pending>>)>,
    /// Beginnings (`true`) and failures (`false`) of exchanges, in their order.
    exchanges: Vec<(u8, Instant, bool)>,
    granted: u32,
    /// When each token ends, by its number.
    ends: Vec<(SystemTime, Instant)>,
    refused: HashSet<u32>,
    /// When a 401 last dropped a token.
    forced: Option<(u8, Instant)>,
    served: Option<(Arc<Handle>, Arc<Live>, u32)>,
    served_there: Option<(Arc<Handle>, Arc<Live>, u32)>,
    /// The processes could not always tell each other: each may do what the other did.
    was_away: bool,
    waiting: usize,
    finished: usize,
}

#[derive(Default)]
struct Pending {
    answer: Option<Event>,
    waker: Option<Waker>,
}

/// The provider: grants and fails when an event says so.
struct Provider {
    key: u8,
    clock: SharedClock,
    log: Arc<Mutex<Log>>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provider")
    }
}

/// Removed when the exchange ends, however it does.
struct UnderWay(Arc<Mutex<Log>>, Arc<Mutex<Pending>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .under_way
            .retain(|(_, pending)| !Arc::ptr_eq(pending, &self.1));
    }
}

impl TokenSource for Provider {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let pending = Arc::new(Mutex::new(Pending::default()));
            {
                let mut log = self.log.lock().unwrap();
                let alone = log.under_way.iter().all(|(key, _)| *key != self.key);
                assert!(alone || log.was_away, "two exchanges for one key");
                log.under_way.push((self.key, Arc::clone(&pending)));
                log.exchanges.push((self.key, self.clock.instant(), true));
            }
            let _end = UnderWay(Arc::clone(&self.log), Arc::clone(&pending));
            let answer = std::future::poll_fn(|cx| {
                let mut pending = pending.lock().unwrap();
                pending.waker = Some(cx.waker().clone());
                pending.answer.map_or(Poll::Pending, Poll::Ready)
            })
            .await;
            let mut log = self.log.lock().unwrap();
            match answer {
                Event::Grant(lifetime) => {
                    log.granted += 1;
                    let mine = |(key, _, begun): &&(u8, Instant, bool)| *begun && *key == self.key;
                    let began = log.exchanges.iter().rev().find(mine).unwrap().1;
                    log.ends.push((now + lifetime, began + lifetime));
                    Ok(Token { secret: Secret::new(log.granted.to_string()), expires_at: now + lifetime })
                }
                Event::Fail(kind) => {
                    log.exchanges.push((self.key, self.clock.instant(), false));
                    Err(Failure::new(kind, "as the schedule says"))
                }
                _ => {
                    log.exchanges.push((self.key, self.clock.instant(), false));
                    drop(log);
                    panic!("a bug")
                }
            }
        })
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        Ok(Arc::new(Numbered(token.secret.expose_str().unwrap().parse().unwrap())))
    }
}

/// An authorizer whose `Debug` is its number.
struct Numbered(u32);

impl std::fmt::Debug for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Authorizer for Numbered {
    fn authorize(&self, _: &RequestView<'_>, _: SystemTime) -> Result<Authorized, Refusal> {
        Ok(Authorized::from(Mutations::default()))
    }
}

/// Chooses among what may happen next: what a former run chose, then the first.
struct Choices {
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn choose(&mut self, width: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, width));
        }
        let (choice, same) = self.path[self.at];
        assert_eq!(same, width, "a run must be repeatable");
        self.at += 1;
        choice
    }

    /// The next path that was not tried, depth first.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, width)) = self.path.pop() {
            if choice + 1 < width {
                self.path.push((choice + 1, width));
                return true;
            }
        }
        false
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn deps(clock: &SharedClock, there: bool) -> Deps {
    Deps {
        clock: Arc::new(clock.clone()),
        random: Arc::new(Counting(u8::from(there), AtomicU8::new(0))),
        environment: Arc::new(ProcessEnvironment),
        audit: Arc::new(crate::base::NoAudit),
        tracer: crate::base::Tracer::default(),
    }
}

struct World {
    clock: SharedClock,
    queue: Queue,
    tokens: Tokens,
    /// The other process, where there is one, with its hold on the token.
    there: Option<(Tokens, Arc<Handle>)>,
    board: Option<TestBoard>,
    log: Arc<Mutex<Log>>,
    /// What there is to do, and whether it is done there.
    tasks: Vec<(Task, Arc<Woken>, bool)>,
    callers: Vec<Arc<Woken>>,
    /// Tasks that have not run yet.
    fresh: Vec<usize>,
    handle: Option<Arc<Handle>>,
    key: u8,
    /// What has not happened yet.
    events: Vec<Event>,
}

impl World {
    fn new(events: &[Event]) -> Self {
        let clock = SharedClock(Arc::new(TestClock(Mutex::new((
            SystemTime::UNIX_EPOCH + HOUR * 500_000,
            SystemClock.instant() + HOUR,
            Vec::new(),
        )))));
        let queue = Queue::default();
        let tokens = |there| Tokens::with(&deps(&clock, there), Box::new(Spawning(queue.clone(), there)));
        let mut world = Self {
            tokens: tokens(false),
            clock: clock.clone(),
            queue: queue.clone(),
            there: None,
            board: None,
            log: Arc::default(),
            tasks: Vec::new(),
            callers: Vec::new(),
            fresh: Vec::new(),
            handle: None,
            key: 0,
            events: events.to_vec(),
        };
        world.handle = Some(world.new_handle());
        world
    }

    /// The same with another process that shares its tokens.
    fn shared(events: &[Event]) -> Self {
        let mut world = Self::new(events);
        let board = TestBoard(world.clock.clone(), Arc::default());
        let sharing = |there| {
            let sealer = Arc::new(FleetKey::new(&Secret::new([7; 32])));
            Some(Arc::new(Shared::by(Box::new(board.clone()), sealer, &deps(&world.clock, there))))
        };
        world.tokens.share(sharing(false));
        let tokens = Tokens::with(&deps(&world.clock, true), Box::new(Spawning(world.queue.clone(), true)));
        tokens.share(sharing(true));
        let source = Provider { key: 0, clock: world.clock.clone(), log: Arc::clone(&world.log) };
        let key = KeyBuilder::new("a", "c").with("version", [0]).finish();
        let handle = Arc::new(tokens.handle(key, "a", "c", Arc::new(source)));
        (world.there, world.board) = (Some((tokens, handle)), Some(board));
        world
    }

    fn new_handle(&self) -> Arc<Handle> {
        let source = Provider { key: self.key, clock: self.clock.clone(), log: Arc::clone(&self.log) };
        let key = KeyBuilder::new("a", "c").with("version", [self.key]).finish();
        Arc::new(self.tokens.handle(key, "a", "c", Arc::new(source)))
    }

    fn can(&self, event: Event) -> bool {
        let log = self.log.lock().unwrap();
        match event {
            Event::Call => self.handle.is_some(),
            Event::Leave => !self.callers.is_empty(),
            Event::Grant(_) | Event::Fail(_) | Event::Panic => {
                log.under_way.iter().any(|(_, pending)| pending.lock().unwrap().answer.is_none())
            }
            Event::Unauthorized => log.served.is_some(),
            Event::UnauthorizedThere => log.served_there.is_some(),
            Event::CallThere => self.there.is_some(),
            Event::Kill => self.handle.is_some(),
            Event::Away => self.board.as_ref().is_some_and(|board| !board.1.lock().unwrap().away),
            Event::Here => self.board.as_ref().is_some_and(|board| board.1.lock().unwrap().away),
            Event::Remove | Event::Change => self.handle.is_some(),
            Event::Restore => self.handle.is_none(),
            Event::Pass(_) | Event::Forward(_) | Event::Back(_) => true,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call => self.call(false),
            Event::CallThere => self.call(true),
            Event::Away | Event::Here => {
                let mut log = self.log.lock().unwrap();
                log.was_away = true;
                self.board.as_ref().unwrap().1.lock().unwrap().away = event == Event::Away;
            }
            Event::Kill => {
                // Nothing of it ends as it should.
                std::mem::forget(self.handle.take());
                let callers: Vec<_> =
                    self.tasks.iter().filter(|(_, woken, there)| !there && self.is_caller(woken)).collect();
                self.log.lock().unwrap().finished += callers.len();
                self.tasks.retain(|(_, _, there)| *there);
                self.callers.retain(|caller| self.tasks.iter().any(|(_, woken, _)| Arc::ptr_eq(woken, caller)));
            }
            Event::UnauthorizedThere => {
                let (handle, live, _) = self.log.lock().unwrap().served_there.take().unwrap();
                handle.rejected(&live);
            }
            Event::Leave => {
                let first = self.callers.remove(0);
                let before = self.tasks.len();
                self.tasks.retain(|(_, woken, _)| !Arc::ptr_eq(woken, &first));
                self.log.lock().unwrap().finished += before - self.tasks.len();
            }
            Event::Grant(_) | Event::Fail(_) | Event::Panic => {
                let log = self.log.lock().unwrap();
                let pending = log.under_way.iter().map(|(_, pending)| pending);
                let mut pending =
                    pending.map(|pending| pending.lock().unwrap()).find(|pending| pending.answer.is_none()).unwrap();
                pending.answer = Some(event);
                if let Some(waker) = pending.waker.take() {
                    waker.wake();
                }
            }
            Event::Unauthorized => {
                let served = self.log.lock().unwrap().served.take();
                let (handle, live, number) = served.unwrap();
                let current = handle.current().map(|live| format!("{:?}", live.authorizer()));
                let worth_it = handle.rejected(&live);
                if worth_it && current == Some(number.to_string()) {
                    let now = self.clock.instant();
                    let mut log = self.log.lock().unwrap();
                    log.refused.insert(number);
                    let minute = Duration::from_secs(60);
                    assert!(
                        log.forced.is_none_or(|(key, at)| key != self.key || now >= at + minute),
                        "401s cost too much"
                    );
                    log.forced = Some((self.key, now));
                }
            }
            Event::Pass(time) => {
                let mut state = self.clock.0.0.lock().unwrap();
                state.0 += time;
                state.1 += time;
                let now = state.1;
                for (moment, waker) in std::mem::take(&mut state.2) {
                    if moment <= now { waker.wake() } else { state.2.push((moment, waker)) }
                }
            }
            Event::Forward(time) => self.clock.0.0.lock().unwrap().0 += time,
            Event::Back(time) => self.clock.0.0.lock().unwrap().0 -= time,
            // As a reload does, whoever still holds the old one.
            Event::Remove => self.handle.take().unwrap().release(),
            Event::Restore => self.handle = Some(self.new_handle()),
            Event::Change => {
                self.key += 1;
                // The new one is there before the old one goes.
                let new = self.new_handle();
                self.handle.replace(new).unwrap().release();
            }
        }
    }

    fn is_caller(&self, woken: &Arc<Woken>) -> bool {
        self.callers.iter().any(|caller| Arc::ptr_eq(caller, woken))
    }

    fn call(&mut self, there: bool) {
        let handle = if there { self.there.as_ref().map(|(_, handle)| handle) } else { self.handle.as_ref() };
        let (handle, log, clock) = (handle.cloned().unwrap(), Arc::clone(&self.log), self.clock.clone());
        log.lock().unwrap().waiting += 1;
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.callers.push(Arc::clone(&woken));
        let task = async move {
            let outcome = handle.obtain().await;
            let (now, instant) = (clock.now(), clock.instant());
            let mut log = log.lock().unwrap();
            log.finished += 1;
            match outcome {
                Ok(live) => {
                    let number: u32 = format!("{:?}", live.authorizer()).parse().unwrap();
                    let (wall, monotonic) = log.ends[number as usize - 1];
                    assert!(now < wall && instant < monotonic, "a token that has ended was handed out");
                    // What one process knows to be refused another may still have.
                    assert!(there || !log.refused.contains(&number), "a token that was refused was handed out");
                    let served = Some((Arc::clone(&handle), live, number));
                    if there { log.served_there = served } else { log.served = served }
                }
                Err(refusal) => assert!(
                    matches!(
                        refusal.code,
                        Code::TokenEndpointUnavailable
                            | Code::CredentialRejected
                            | Code::ReauthorizationRequired
                            | Code::DestinationForbidden
                    ),
                    "{refusal}"
                ),
            }
        };
        self.fresh.push(self.tasks.len());
        self.tasks.push((Box::pin(task), woken, there));
    }

    /// Takes up what was spawned or has just called, and lets it run to its first wait: nothing that anybody else could
    /// see lies between, so no order is lost by it.
    fn collect(&mut self) {
        loop {
            for (task, there) in std::mem::take(&mut *self.queue.0.lock().unwrap()) {
                self.fresh.push(self.tasks.len());
                self.tasks.push((task, Arc::new(Woken(AtomicBool::new(true))), there));
            }
            let Some(index) = self.fresh.pop() else { return };
            self.step(index);
        }
    }

    fn runnable(&self) -> Vec<usize> {
        (0..self.tasks.len()).filter(|index| self.tasks[*index].1.0.load(Ordering::Relaxed)).collect()
    }

    fn step(&mut self, index: usize) {
        let (task, woken, _) = &mut self.tasks[index];
        woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(woken));
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(&waker))));
        let done = match polled {
            Ok(polled) => polled.is_ready(),
            Err(panic) if panic.downcast_ref::<&str>() == Some(&"a bug") => true,
            Err(panic) => resume_unwind(panic),
        };
        if done {
            let (task, woken, _) = self.tasks.remove(index);
            self.fresh.iter_mut().filter(|fresh| **fresh > index).for_each(|fresh| *fresh -= 1);
            drop(task);
            self.callers.retain(|caller| !Arc::ptr_eq(caller, &woken));
        }
    }

    /// A provider that failed is left alone for a second at least.
    fn check_pauses(&self) {
        let log = self.log.lock().unwrap();
        if log.was_away {
            return;
        }
        for (index, (key, failed, begun)) in log.exchanges.iter().enumerate() {
            let again = log.exchanges[index + 1..].iter().find(|(other, _, begun)| other == key && *begun);
            if let (false, Some((_, again, _))) = (begun, again) {
                assert!(*again >= *failed + Duration::from_secs(1), "a failing provider was hammered");
            }
        }
    }

    /// Runs one schedule to its end.
    fn run(mut self, choices: &mut Choices) {
        loop {
            self.collect();
            let runnable = self.runnable();
            let mut possible: Vec<usize> = Vec::new();
            for (index, event) in self.events.iter().enumerate() {
                // Two like events are one choice.
                if self.can(*event) && !self.events[..index].contains(event) {
                    possible.push(index);
                }
            }
            let width = runnable.len() + possible.len();
            if width == 0 {
                break;
            }
            let choice = choices.choose(width);
            if choice < runnable.len() {
                self.step(runnable[choice]);
            } else {
                let event = self.events.remove(possible[choice - runnable.len()]);
                self.happen(event);
            }
            self.check_pauses();
        }
        self.settle();
    }

    /// Answers what is still under way; then nobody may wait any more.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.collect();
            if let Some(index) = self.runnable().first() {
                self.step(*index);
            } else if self.can(Event::Grant(HOUR)) {
                self.happen(Event::Grant(HOUR));
            } else {
                let log = self.log.lock().unwrap();
                if log.waiting == log.finished {
                    break;
                }
                drop(log);
                // Whoever waits for another process looks again.
                self.happen(Event::Pass(SECOND));
            }
        }
        let log = self.log.lock().unwrap();
        assert_eq!(log.waiting, log.finished, "somebody still waits");
        assert!(log.under_way.is_empty());
    }
}

/// Tries every schedule of some events after a beginning that is the same for all, and says how many there were.
fn explore(name: &str, beginning: &[Event], events: &[Event]) -> usize {
    explore_in(World::new, name, beginning, events)
}

/// The same in a world of some kind.
fn explore_in(make: fn(&[Event]) -> World, name: &str, beginning: &[Event], events: &[Event]) -> usize {
    let mut choices = Choices { path: Vec::new(), at: 0 };
    let mut count = 0;
    loop {
        let mut world = make(events);
        for event in beginning {
            world.happen(*event);
            world.collect();
            while let Some(index) = world.runnable().first() {
                world.step(*index);
                world.collect();
            }
        }
        world.run(&mut choices);
        count += 1;
        assert!(count < 2_000_000, "{name} has too many schedules to try them all");
        if !choices.next() {
            println!("{name}: {count} schedules");
            return count;
        }
    }
}

const GRANT: Event = Event::Grant(HOUR);
const FAIL: Event = Event::Fail(FailureKind::Unavailable);
const SECOND: Duration = Duration::from_secs(1);

/// One token, used once.
const HELD: [Event; 2] = [Event::Call, GRANT];

#[test]
fn in_every_order_of_every_situation_the_rules_of_a_token_hold() {
    use Event::{Back, Call, Change, Fail, Forward, Grant, Leave, Panic, Pass, Remove, Restore, Unauthorized};
    // The panics that the schedules ask for are no news.
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"a bug") {
            eprintln!("{info}");
        }
    }));
    let due = Pass(HOUR * 8 / 10);
    let total: usize = [
        explore("the first caller leaves", &[], &[Call, Call, Call, Leave, GRANT]),
        explore("everybody leaves", &[], &[Call, Call, Leave, Leave, GRANT, Call]),
        explore("the first exchange fails", &[], &[Call, Call, FAIL, Call, Pass(SECOND), GRANT]),
        explore("the provider is dead", &[], &[Call, FAIL, Call, Pass(SECOND), FAIL, Call, Pass(SECOND * 2), FAIL]),
        explore(
            "the client is refused",
            &[],
            &[Call, Fail(FailureKind::Rejected), Call, Pass(SECOND * 29), Pass(SECOND), Call],
        ),
        explore("the exchange dies", &[], &[Call, Call, Panic, Pass(SECOND), GRANT]),
        explore("a renewal", &HELD, &[due, Call, Call, GRANT]),
        explore("a renewal fails", &HELD, &[due, Call, FAIL, Call, Pass(SECOND), GRANT]),
        explore(
            "a renewal fails until the token ends",
            &HELD,
            &[due, FAIL, Pass(HOUR / 5), Call, FAIL, Pass(SECOND * 2), Call],
        ),
        explore("a 401", &HELD, &[Unauthorized, Call, Call, GRANT, Unauthorized]),
        explore("a 401 while renewing", &HELD, &[due, Call, Unauthorized, Call, GRANT]),
        explore("a 401 while the renewal fails", &HELD, &[due, Unauthorized, FAIL, Call, Pass(SECOND), GRANT]),
        explore(
            "401 again and again",
            &HELD,
            &[Unauthorized, Call, GRANT, Unauthorized, Call, Pass(SECOND * 60), Unauthorized],
        ),
        explore("the credential is removed while obtaining", &[], &[Call, Call, Remove, GRANT]),
        explore("removed and restored while obtaining", &[], &[Call, Remove, Restore, Call, GRANT, GRANT]),
        explore("removed and restored while renewing", &HELD, &[due, Remove, GRANT, Restore, Call, GRANT]),
        explore("the secret changes while obtaining", &[], &[Call, Change, Call, GRANT, GRANT]),
        explore("the secret changes while renewing", &HELD, &[due, Call, Change, Call, GRANT, GRANT]),
        explore("the clock jumps forward", &HELD, &[Forward(HOUR * 2), Call, GRANT, Call]),
        explore("the clock jumps back", &HELD, &[Back(HOUR * 2), Pass(HOUR), Call, GRANT, Call]),
        explore("the clock jumps while obtaining", &[], &[Call, Forward(HOUR * 2), Back(HOUR * 4), GRANT, GRANT, Call]),
        explore("a token ends before it is used", &[], &[Call, Call, Grant(SECOND * 5), Pass(SECOND * 5), GRANT]),
        explore("a token that has ended already", &[], &[Call, Call, Grant(Duration::ZERO), Pass(SECOND), GRANT]),
    ]
    .iter()
    .sum();
    drop(std::panic::take_hook());
    println!("schedules explored: {total}");
    assert!(total > 10_000, "{total}");
    if let Some(file) = ProcessEnvironment.variable("COUNTERSIGN_MEASURED") {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "token engine: {total} schedules explored, every rule held in each").unwrap();
    }
}

/// Events one after the other, everything between them run to its end.
fn story(events: &[Event]) -> World {
    run_through(World::new(&[]), events)
}

fn run_through(mut world: World, events: &[Event]) -> World {
    for event in events {
        assert!(world.can(*event), "{event:?} cannot happen");
        world.happen(*event);
        world.collect();
        while let Some(index) = world.runnable().first() {
            world.step(*index);
            world.collect();
        }
    }
    world
}

impl World {
    fn exchanges(&self) -> usize {
        self.log.lock().unwrap().exchanges.iter().filter(|(_, _, begun)| *begun).count()
    }

    fn under_way(&self) -> usize {
        self.log.lock().unwrap().under_way.len()
    }

    /// The number of the token that a caller would get at once.
    fn current(&self) -> Option<String> {
        self.handle.as_ref()?.current().map(|live| format!("{:?}", live.authorizer()))
    }
}

#[test]
fn in_every_order_two_processes_that_share_their_tokens_keep_the_same_rules() {
    use Event::{Away, Call, CallThere, Fail, Here, Kill, Pass, Remove, Unauthorized, UnauthorizedThere};
    let explore = |name, beginning: &[Event], events: &[Event]| explore_in(World::shared, name, beginning, events);
    let (blink, lease, due) = (Duration::from_millis(300), SECOND * 6, Pass(HOUR * 8 / 10));
    let both = [Call, GRANT, CallThere];
    let total: usize = [
        explore("both are cold", &[], &[Call, CallThere, GRANT]),
        explore("both are cold and one looks again", &[], &[Call, CallThere, Pass(blink), GRANT]),
        explore("the provider is dead", &[], &[Call, CallThere, FAIL, Pass(SECOND)]),
        explore("the client is refused", &[], &[Call, CallThere, Fail(FailureKind::Rejected), Pass(SECOND)]),
        explore("the one that obtains is killed", &[Call], &[CallThere, Kill, CallThere, GRANT]),
        explore("the one that obtained was killed", &[Call, CallThere, Kill], &[Pass(lease), CallThere, GRANT]),
        explore("both renew", &both, &[due, Call, CallThere, GRANT]),
        explore("a 401 in one", &both, &[Unauthorized, Call, CallThere, GRANT]),
        explore("a 401 in each", &both, &[Unauthorized, UnauthorizedThere, CallThere, GRANT]),
        explore("one removes the credential", &both, &[Remove, CallThere, due]),
        explore("the place is away", &[], &[Away, Call, CallThere, GRANT]),
        explore("the place goes and comes back", &[Call], &[Away, CallThere, Here, GRANT]),
    ]
    .iter()
    .sum();
    println!("schedules of two processes explored: {total}");
    assert!(total > 1_000, "{total}");
    if let Some(file) = ProcessEnvironment.variable("COUNTERSIGN_MEASURED") {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "shared tokens: {total} schedules of two processes explored, every rule held in each").unwrap();
    }
}

/// Events one after the other in two processes that share their tokens.
fn shared_story(events: &[Event]) -> World {
    run_through(World::shared(&[]), events)
}

#[test]
fn one_exchange_serves_two_processes_from_the_first_to_every_renewal() {
    use Event::{Call, CallThere, Pass};
    let world = shared_story(&[Call, GRANT, CallThere]);
    assert_eq!(world.exchanges(), 1);
    let due = Pass(HOUR * 8 / 10);
    let world = shared_story(&[Call, GRANT, CallThere, due, GRANT, Call, CallThere, Pass(SECOND), CallThere]);
    assert_eq!(world.exchanges(), 2, "the one that comes later finds the other's");
    let there = world.there.as_ref().unwrap().1.current().map(|live| format!("{:?}", live.authorizer()));
    assert_eq!((world.current().as_deref(), there.as_deref()), (Some("2"), Some("2")));
}

#[test]
fn a_failure_is_told_to_others_as_far_as_it_is_theirs_too() {
    use Event::{Call, CallThere, Fail, Pass};
    let tries = |kind, wait| shared_story(&[Call, Fail(kind), Pass(wait), CallThere]).exchanges();
    assert_eq!(tries(FailureKind::Rejected, SECOND * 29), 1);
    assert_eq!(tries(FailureKind::Rejected, SECOND * 31), 2);
    assert_eq!(tries(FailureKind::Refused, SECOND / 2), 1);
    assert_eq!(tries(FailureKind::Unavailable, SECOND / 2), 1);
    assert_eq!(tries(FailureKind::Reauthorize, SECOND / 2), 2, "what is lost here may not be lost there");
    assert_eq!(tries(FailureKind::Forbidden, SECOND / 2), 2, "what this host may not do another may");
}

#[test]
fn what_lies_there_ends_no_later_than_the_token_and_is_not_taken_just_before() {
    use Event::{Call, CallThere, Grant, Kill, Pass};
    for (lifetime, wait, taken) in
        [(HOUR, 3569, true), (HOUR, 3571, false), (SECOND * 100, 89, true), (SECOND * 100, 91, false)]
    {
        // Nobody renews it meanwhile.
        let world = shared_story(&[Call, Grant(lifetime), Kill, Pass(SECOND * wait)]);
        let end = world.board.as_ref().unwrap().1.lock().unwrap().token.as_ref().unwrap().1;
        assert!(end <= world.log.lock().unwrap().exchanges[0].1 + lifetime);
        let world = run_through(world, &[CallThere]);
        let there = world.there.as_ref().unwrap().1.current().map(|live| format!("{:?}", live.authorizer()));
        assert_eq!(there, taken.then(|| "1".to_owned()), "{lifetime:?} after {wait} s");
    }
}

#[test]
fn a_used_token_is_renewed_by_time_alone_and_an_unused_one_is_left_to_end() {
    use Event::{Call, Pass};
    let early = story(&[Call, GRANT, Pass(HOUR * 69 / 100)]);
    assert_eq!((early.exchanges(), early.under_way()), (1, 0));
    let due = story(&[Call, GRANT, Pass(HOUR * 71 / 100)]);
    assert_eq!((due.exchanges(), due.under_way()), (2, 1), "at seven tenths, without any caller");
    // What replaced it was used by nobody: no third exchange.
    let unused = story(&[Call, GRANT, Pass(HOUR * 71 / 100), GRANT, Pass(HOUR * 71 / 100)]);
    assert_eq!((unused.exchanges(), unused.under_way()), (2, 0));
    assert_eq!(unused.current().as_deref(), Some("2"), "and a caller who comes late is still served");
    assert_eq!(
        story(&[Call, GRANT, Pass(HOUR * 71 / 100), GRANT, Pass(HOUR * 71 / 100), Call]).exchanges(),
        3,
        "renewing it"
    );
}

#[test]
fn the_old_token_serves_until_the_lesser_of_thirty_seconds_and_a_tenth_before_its_end() {
    use Event::{Call, Grant, Pass};
    for (lifetime, served, ended) in [(HOUR, 3569, 3571), (SECOND * 100, 89, 91), (SECOND * 10, 8, 10)] {
        let after = |seconds: u32| story(&[Call, Grant(lifetime), Pass(SECOND * seconds)]).current();
        assert_eq!(after(served).as_deref(), Some("1"), "{lifetime:?}");
        assert_eq!(after(ended), None, "{lifetime:?}");
    }
}

#[test]
fn after_failures_in_a_row_the_pauses_grow_and_a_success_ends_them() {
    use Event::{Call, Fail, Pass};
    let rejected = Fail(FailureKind::Rejected);
    let mut events = vec![Call, rejected];
    for pause in [30, 60, 120, 240, 480, 900, 900] {
        events.extend([Pass(SECOND * (pause - 1)), Call]);
        let calm = story(&events).exchanges();
        events.extend([Pass(SECOND), Call]);
        assert_eq!(story(&events).exchanges(), calm + 1, "after {pause} s");
        events.push(rejected);
    }
    *events.last_mut().unwrap() = GRANT;
    events.extend([Event::Unauthorized, Call, FAIL, Pass(SECOND), Call]);
    assert_eq!(story(&events).under_way(), 1, "one second again, not fifteen minutes");
}

#[test]
fn what_failed_is_told_until_a_token_is_there() {
    use Event::{Call, Pass};
    let trouble = |events: &[Event]| story(events).handle.as_ref().unwrap().trouble();
    assert_eq!(trouble(&[Call]), None);
    assert_eq!(trouble(&[Call, FAIL]).as_deref(), Some("as the schedule says"));
    assert_eq!(trouble(&[Call, GRANT, Pass(HOUR * 8 / 10), FAIL]), None, "the old token still serves");
    assert!(trouble(&[Call, GRANT, Pass(HOUR * 8 / 10), FAIL, Pass(HOUR)]).is_some());
}

#[test]
fn a_configuration_that_was_refused_does_not_change_the_way_to_the_endpoint() {
    use Event::{Call, Pass};
    let mut world = story(&[Call, GRANT]);
    // The same key by another way: its handle is made when a configuration is built, and adopted once that is accepted.
    let other = Provider { key: 9, clock: world.clock.clone(), log: Arc::clone(&world.log) };
    let key = KeyBuilder::new("a", "c").with("version", [0]).finish();
    let new = Arc::new(world.tokens.handle(key, "a", "c", Arc::new(other)));
    let asked = |world: &World| world.log.lock().unwrap().exchanges.last().unwrap().0;
    let go_on = |world: &mut World, event| {
        world.happen(event);
        world.collect();
        while let Some(index) = world.runnable().first() {
            world.step(*index);
            world.collect();
        }
    };
    go_on(&mut world, Pass(HOUR * 3 / 4));
    assert_eq!((world.under_way(), asked(&world)), (1, 0), "renewed by the way that is in use");
    go_on(&mut world, GRANT);
    new.adopt();
    world.handle.replace(new).unwrap().release();
    go_on(&mut world, Call);
    go_on(&mut world, Pass(HOUR * 3 / 4));
    assert_eq!((world.under_way(), asked(&world)), (1, 9), "and by the new one once that is accepted");
}
