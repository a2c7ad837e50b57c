//! The one life of a token: cached, obtained once for however many ask, renewed in the background, dropped when refused.
//!
//! Every change of a [`Slot`] happens under its lock and none waits there, so what can interleave are whole steps;
//! `schedules.rs` tries all their orders. moka holds the slots, so that a reload with the same inputs finds its token again.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TokenSource;
use super::exchange::LONGEST_LIFE;
use super::failure::{Failure, FailureKind};
use super::journal::Journals;
use super::key::Key;
use super::recorded::Recorded;
use super::rotation::Unsaved;
use super::sealer::Sealer;
use super::shared::{Asked, Failed, Held, Obtained, Shared, TokenId, alone};
use super::traced::{Flown, Waited};
use crate::base::{
    ActiveSpan, AuditSink, Authorizer, BoxFuture, Clock, Deps, Random, Refusal, Secret, SpanContext, Tracer,
};

/// A token is given up this long before its end, or a tenth of its life before, whichever is less: clocks differ, and the
/// request must still reach the server.
const SKEW: Duration = Duration::from_secs(30);

/// The same for a lifetime.
pub(super) fn skew(lifetime: Duration) -> Duration {
    SKEW.min(lifetime / 10)
}

/// Renewal begins at this part of the lifetime, and up to [`RENEWAL_JITTER`] of it later.
const RENEWAL: f64 = 0.7;
const RENEWAL_JITTER: f64 = 0.1;

/// An upstream's 401 may cause one exchange in this time, so that a path which always answers 401 costs nothing.
const FORCED_INTERVAL: Duration = Duration::from_secs(60);

/// How often one request waits for an exchange whose token ended before the request could take it.
const ROUNDS: u32 = 3;

/// Runs a task to its end, whoever waits for it.
pub(super) trait Spawn: Send + Sync {
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// On the runtime of whoever asks.
struct Detached;

impl Spawn for Detached {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // What is not on a runtime any more has nobody left to do it for.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(task);
        }
    }
}

/// Every token of the process.
#[derive(Clone)]
pub struct Tokens(Arc<Engine>);

struct Engine {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    audit: Arc<dyn AuditSink>,
    tracer: Tracer,
    spawn: Box<dyn Spawn>,
    /// The process is about to end: nothing is renewed any more.
    draining: AtomicBool,
    /// It ends now: nothing is obtained any more.
    closed: AtomicBool,
    unsaved: Arc<Unsaved>,
    /// Where other processes leave their tokens.
    shared: ArcSwapOption<Shared>,
    /// The process's encrypted store.
    store: ArcSwapOption<Reliance>,
    slots: moka::sync::Cache<Key, Arc<Slot>>,
}

impl Tokens {
    /// No tokens yet.
    pub fn new(deps: &Deps) -> Self {
        Self::with(deps, Box::new(Detached))
    }

    pub(super) fn with(deps: &Deps, spawn: Box<dyn Spawn>) -> Self {
        Self(Arc::new(Engine {
            clock: Arc::clone(&deps.clock),
            random: Arc::clone(&deps.random),
            audit: Arc::clone(&deps.audit),
            tracer: deps.tracer.clone(),
            spawn,
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            unsaved: Arc::default(),
            shared: ArcSwapOption::empty(),
            store: ArcSwapOption::empty(),
            // Bounded by the credentials there are: a slot is removed with its last handle.
            slots: moka::sync::Cache::new(u64::MAX),
        }))
    }

    /// Relies on an encrypted store from the next configuration on: on its keys for what is shared, and for where refresh
    /// tokens rest. Before it is open it may say so.
    pub fn rely_on(&self, store: Option<Reliance>) {
        self.0.store.store(store.map(Arc::new));
    }

    /// The encrypted store that is relied on.
    pub fn reliance(&self) -> Option<Arc<Reliance>> {
        self.0.store.load_full()
    }

    /// Shares tokens with other processes from now on, or no longer.
    pub fn share(&self, shared: Option<Arc<Shared>>) {
        self.0.shared.store(shared);
    }

    /// The token of a key, shared with every other handle of that key. Nothing is obtained before it is asked for.
    pub fn handle(&self, key: Key, account: &str, credential: &str, source: Arc<dyn TokenSource>) -> Handle {
        let audit = Arc::clone(&self.0.audit);
        let source: Arc<dyn TokenSource> =
            Arc::new(Recorded { source, audit, account: account.into(), credential: credential.into() });
        loop {
            let slot = self.0.slots.get_with(key, || {
                Arc::new(Slot {
                    key,
                    account: account.into(),
                    credential: credential.into(),
                    engine: Arc::clone(&self.0),
                    live: ArcSwapOption::empty(),
                    state: Mutex::new(State::new(Arc::clone(&source))),
                })
            });
            let mut state = slot.lock();
            if !state.gone {
                state.users += 1;
                drop(state);
                return Handle { slot, source, released: AtomicBool::new(false) };
            }
        }
    }

    /// Refresh tokens that could not be written yet. They outlive configurations.
    pub fn unsaved(&self) -> &Arc<Unsaved> {
        &self.0.unsaved
    }

    /// Renews nothing any more; whoever is still served may obtain.
    pub fn stop_renewing(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Obtains nothing any more, and waits for the exchanges that are spending a refresh token.
    pub async fn settled(&self) {
        self.stop_renewing();
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.unsaved.settled().await;
    }

    /// Tries once more to write the refresh tokens that could not be written.
    pub async fn save(&self) {
        Unsaved::save(&self.0.unsaved).await;
    }
}

/// What the token engine has of an encrypted store.
#[derive(Debug, Clone)]
pub struct Reliance {
    /// The keys of accounts.
    pub sealer: Arc<dyn Sealer>,
    /// Where refresh tokens rest.
    pub journals: Arc<dyn Journals>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Engine {
    /// From 0 to 1. Without randomness there is no jitter, which is no reason to fail.
    fn jitter(&self) -> f64 {
        let mut bytes = [0; 4];
        let filled = self.random.fill(&mut bytes);
        if filled { f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) } else { 0.0 }
    }
}

/// A token that may be sent now.
pub struct Live {
    authorizer: Arc<dyn Authorizer>,
    secret: Secret,
    /// Not used from here on, by the wall clock and by the monotonic one: either may have been wrong or asleep.
    until: SystemTime,
    deadline: Instant,
    renew_at: Instant,
    /// When it ends, and which it is among the tokens that processes share.
    ends: SystemTime,
    id: Option<TokenId>,
    /// Somebody asked for it; what nobody uses is not renewed.
    used: AtomicBool,
}

impl Live {
    /// What signs with it.
    pub fn authorizer(&self) -> &Arc<dyn Authorizer> {
        &self.authorizer
    }

    /// The token itself, for a source that obtains another with it.
    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    fn usable(&self, now: SystemTime, instant: Instant) -> bool {
        now < self.until && instant < self.deadline
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

/// A credential's hold on its token. When the last handle of a key is released, the token goes.
pub struct Handle {
    slot: Arc<Slot>,
    /// The way to the endpoint, as this handle's configuration has it.
    source: Arc<dyn TokenSource>,
    released: AtomicBool,
}

impl Handle {
    /// The configuration of this handle was accepted: its way to the endpoint is the slot's from now on. One that was
    /// refused after it was built changes nothing.
    pub fn adopt(&self) {
        self.slot.lock().source = Arc::clone(&self.source);
    }

    /// Whether its token may serve other processes too.
    pub(super) fn shareable(&self) -> bool {
        self.source.shareable()
    }

    /// The token, if there is one that may be sent now. Begins its renewal when that is due.
    pub fn current(&self) -> Option<Arc<Live>> {
        let slot = &self.slot;
        let live = slot.live.load_full()?;
        let instant = slot.engine.clock.instant();
        if !live.usable(slot.engine.clock.now(), instant) {
            return None;
        }
        if !live.used.load(Ordering::Relaxed) {
            live.used.store(true, Ordering::Relaxed);
        }
        if instant >= live.renew_at {
            slot.renew(&live);
        }
        Some(live)
    }

    /// The token, obtained if there is none: one exchange for all who ask.
    ///
    /// # Errors
    /// `credential_rejected`, `reauthorization_required`, `token_endpoint_unavailable`; at once while a failure is remembered.
    pub async fn obtain(&self) -> Result<Arc<Live>, Refusal> {
        self.wait().await.map_err(|failure| self.slot.refusal(&failure))
    }

    /// The same for a source whose own exchange needs this token: the failure becomes its own.
    ///
    /// # Errors
    /// Why there is none; while a failure is remembered, with the time that is left of its pause.
    pub(super) async fn obtain_for_source(&self) -> Result<Arc<Live>, Failure> {
        let failure = match self.wait().await {
            Ok(live) => return Ok(live),
            Err(failure) => failure,
        };
        let pause = self.slot.pause();
        Err(failure.with_retry_after(pause))
    }

    async fn wait(&self) -> Result<Arc<Live>, Failure> {
        for _ in 0..ROUNDS {
            if let Some(live) = self.current() {
                return Ok(live);
            }
            let (mut outcome, other) = self.slot.join()?;
            let waited = other.and_then(|exchange| Waited::begin(exchange, &*self.slot.engine.clock));
            let landed = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            if let Some(waited) = waited {
                waited.over(&self.slot.credential, &*self.slot.engine.clock);
            }
            if let Some(Err(failure)) = landed {
                return Err(failure);
            }
        }
        Err(Failure::new(FailureKind::Unavailable, "its tokens end before they can be used"))
    }

    /// An upstream refused a request that was signed with this token: it is dropped, and only it. Says whether signing
    /// once more is worth it, which it is not while the last exchange that a 401 caused is younger than a minute.
    pub fn rejected(&self, sent: &Arc<Live>) -> bool {
        let slot = &self.slot;
        let mut state = slot.lock();
        match slot.live.load_full() {
            Some(live) if Arc::ptr_eq(&live, sent) => {
                let now = slot.engine.clock.instant();
                if state.forced.is_some_and(|at| now.saturating_duration_since(at) < FORCED_INTERVAL) {
                    return false;
                }
                state.forced = Some(now);
                state.refused.clone_from(&live.id);
                slot.live.store(None);
                tracing::info!(
                    target: "countersign::token",
                    credential = &*slot.credential,
                    "the upstream refused the token; it is dropped"
                );
                true
            }
            // Somebody renewed or dropped it meanwhile; what comes next is another token.
            _ => true,
        }
    }

    /// Why there is no token, if the last exchange failed and no older token is left.
    pub fn trouble(&self) -> Option<String> {
        let slot = &self.slot;
        let live = slot.live.load_full();
        let (now, instant) = (slot.engine.clock.now(), slot.engine.clock.instant());
        if live.is_some_and(|live| live.usable(now, instant)) {
            return None;
        }
        slot.lock().remembered.as_ref().map(|remembered| remembered.failure.detail.clone())
    }
}

impl Handle {
    /// Obtains a token now, whatever there is and whatever failed before: somebody tests the credential.
    ///
    /// # Errors
    /// As [`Handle::obtain`].
    pub async fn mint(&self) -> Result<Arc<Live>, Refusal> {
        let slot = &self.slot;
        let mut outcome = {
            let mut state = slot.lock();
            state.remembered = None;
            match &state.flight {
                Some(flight) => flight.clone(),
                // What others have or were told is no answer to the question.
                None => slot.launch_with(&mut state, None, slot.engine.tracer.awaited()),
            }
        };
        let landed = outcome.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
        if let Some(Err(failure)) = landed {
            return Err(slot.refusal(&failure));
        }
        self.obtain().await
    }

    /// When the token that lives now ends, by the wall clock.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.slot.live.load().as_ref().map(|live| live.until)
    }

    /// Lets go: the credential was changed or removed. Requests that still hold this handle get a token only if another
    /// handle has the same key.
    pub fn release(&self) {
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        let slot = &self.slot;
        let mut state = slot.lock();
        state.users -= 1;
        if state.users == 0 {
            slot.live.store(None);
            state.timer.cancel();
            if state.flight.is_none() {
                slot.leave(&mut state);
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.slot.key)
    }
}

/// Everything about one key.
struct Slot {
    key: Key,
    account: Arc<str>,
    credential: Box<str>,
    engine: Arc<Engine>,
    live: ArcSwapOption<Live>,
    state: Mutex<State>,
}

struct State {
    source: Arc<dyn TokenSource>,
    /// Handles there are. With none, what an exchange under way brings is thrown away.
    users: usize,
    /// No longer in the cache.
    gone: bool,
    flight: Option<watch::Receiver<Landed>>,
    /// The span of that exchange, if it is traced.
    flight_span: Option<SpanContext>,
    remembered: Option<Remembered>,
    /// When an upstream's 401 last caused an exchange.
    forced: Option<Instant>,
    /// The token that it was about.
    refused: Option<TokenId>,
    /// Ends the wait for the next renewal.
    timer: CancellationToken,
}

/// `None` while the exchange is under way.
type Landed = Option<Result<(), Failure>>;

struct Remembered {
    failure: Failure,
    count: u32,
    until: Instant,
}

impl State {
    fn new(source: Arc<dyn TokenSource>) -> Self {
        Self {
            source,
            users: 0,
            gone: false,
            flight: None,
            flight_span: None,
            remembered: None,
            forced: None,
            refused: None,
            timer: CancellationToken::new(),
        }
    }

    /// The failure that still keeps everybody from trying.
    fn pausing(&self, now: Instant) -> Option<&Remembered> {
        self.remembered.as_ref().filter(|remembered| now < remembered.until)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No step leaves the state half changed, so a panic elsewhere is no reason to stop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, state: &mut State) {
        state.gone = true;
        // Under the lock: whoever sees `gone` finds the cache without this slot.
        self.engine.slots.invalidate(&self.key);
        // What a process that ends has left there is of use to others.
        if !self.engine.draining.load(Ordering::Relaxed)
            && state.source.shareable()
            && let Some(shared) = self.engine.shared.load_full()
        {
            let (key, account) = (self.key, Arc::clone(&self.account));
            self.engine.spawn.spawn(Box::pin(async move { shared.remove(&key, &account).await }));
        }
    }

    fn refusal(&self, failure: &Failure) -> Refusal {
        failure.refusal(&self.credential, self.pause().unwrap_or_default())
    }

    /// For how long nothing is tried.
    fn pause(&self) -> Option<Duration> {
        let now = self.engine.clock.instant();
        self.lock().pausing(now).map(|remembered| remembered.until.saturating_duration_since(now))
    }

    /// The exchange under way, with its span, or a new one, which is within the span of whoever asks.
    fn join(self: &Arc<Self>) -> Result<(watch::Receiver<Landed>, Option<SpanContext>), Failure> {
        let mut state = self.lock();
        let over = |why: &str| Failure::new(FailureKind::Unavailable, why);
        if state.users == 0 {
            return Err(over("it was changed or removed meanwhile"));
        }
        if let Some(flight) = &state.flight {
            return Ok((flight.clone(), state.flight_span));
        }
        let now = self.engine.clock.instant();
        if let Some(Remembered { failure, .. }) = state.pausing(now) {
            return Err(failure.clone());
        }
        let usable = |live: &Arc<Live>| live.usable(self.engine.clock.now(), now);
        if self.live.load_full().as_ref().is_some_and(usable) {
            // It landed since the caller looked.
            return Ok((watch::channel(Some(Ok(()))).1, None));
        }
        if self.engine.closed.load(Ordering::Relaxed) {
            return Err(over("Countersign is ending"));
        }
        Ok((self.launch(&mut state, self.engine.tracer.awaited()), None))
    }

    /// Begins a renewal, unless one is under way or a failure is remembered.
    fn renew(self: &Arc<Self>, live: &Arc<Live>) {
        let mut state = self.lock();
        let same = self.live.load_full().is_some_and(|current| Arc::ptr_eq(&current, live));
        let draining = self.engine.draining.load(Ordering::Relaxed);
        if same
            && !draining
            && state.users > 0
            && state.flight.is_none()
            && state.pausing(self.engine.clock.instant()).is_none()
        {
            drop(self.launch(&mut state, self.engine.tracer.detached()));
        }
    }

    /// Starts an exchange on its own, so that nobody who leaves can end it.
    fn launch(self: &Arc<Self>, state: &mut State, span: Option<ActiveSpan>) -> watch::Receiver<Landed> {
        self.launch_with(state, self.engine.shared.load_full(), span)
    }

    fn launch_with(
        self: &Arc<Self>,
        state: &mut State,
        shared: Option<Arc<Shared>>,
        span: Option<ActiveSpan>,
    ) -> watch::Receiver<Landed> {
        let (tell, outcome) = watch::channel(None);
        state.flight = Some(outcome.clone());
        state.flight_span = span.as_ref().map(ActiveSpan::context);
        let flown = span.clone().map(|span| Flown::begin(span, &*self.engine.clock));
        let source = Arc::clone(&state.source);
        let shared = shared.filter(|_| source.shareable());
        let live = self.live.load_full();
        let held = live.map(|live| Held { id: live.id.clone(), ends: Some(live.ends), refused: false });
        let refused = || state.refused.clone().map(|id| Held { id: Some(id), ends: None, refused: true });
        let asked = Asked { key: self.key, account: Arc::clone(&self.account), held: held.or_else(refused) };
        let mut landing = Landing { slot: Arc::clone(self), tell, outcome: None, flown };
        let exchange = async move {
            landing.outcome = Some(match shared {
                Some(shared) => {
                    let slot = &landing.slot;
                    shared.obtain(&asked, &*source, &|failure| slot.count(failure)).await
                }
                None => alone(&*source, &*landing.slot.engine.clock).await,
            });
            drop(landing);
        };
        // What the source itself has to wait for is within the exchange.
        self.engine.spawn.spawn(match span {
            Some(span) => Box::pin(span.around(exchange)),
            None => Box::pin(exchange),
        });
        outcome
    }

    /// How often it failed in a row with this failure, and for how long nothing is tried then.
    fn count(&self, failure: &Failure) -> (u32, Duration) {
        let state = self.lock();
        let row = state.remembered.as_ref().filter(|remembered| remembered.failure.is_like(failure));
        let count = row.map_or(1, |remembered| remembered.count.saturating_add(1));
        (count, failure.pause(count, self.engine.jitter()))
    }

    fn land(self: &Arc<Self>, outcome: Result<Obtained, Failed>) -> Result<(), Failure> {
        let outcome = outcome.and_then(|obtained| self.live(&obtained).map_err(Failed::from));
        let outcome = outcome.map_err(|Failed { failure, pause }| {
            let pause = pause.unwrap_or_else(|| self.count(&failure));
            (failure, pause)
        });
        let mut state = self.lock();
        if state.users == 0 {
            state.flight = None;
            self.leave(&mut state);
            return Err(Failure::new(FailureKind::Unavailable, "the credential was removed"));
        }
        match outcome {
            Ok(live) => {
                tracing::info!(target: "countersign::token", credential = &*self.credential, "token obtained");
                self.live.store(Some(Arc::clone(&live)));
                (state.flight, state.remembered, state.refused) = (None, None, None);
                self.wake_at(&mut state, live.renew_at, &live);
                Ok(())
            }
            Err((failure, (count, pause))) => {
                tracing::warn!(
                    target: "countersign::token",
                    credential = &*self.credential,
                    reason = failure.detail,
                    failures = count,
                    pause_seconds = pause.as_secs(),
                    "no token could be obtained"
                );
                let until = self.engine.clock.instant() + pause;
                state.remembered = Some(Remembered { failure: failure.clone(), count, until });
                state.flight = None;
                // One that ends before the pause does is left alone until somebody asks.
                if let Some(live) = self.live.load_full().filter(|live| until < live.deadline) {
                    self.wake_at(&mut state, until, &live);
                }
                Err(failure)
            }
        }
    }

    /// The token with the moments of its life, all counted from before it was obtained or found.
    fn live(&self, obtained: &Obtained) -> Result<Arc<Live>, Failure> {
        let Obtained { token, began, age, .. } = obtained;
        // Bounded, whatever the answer says: an end in the wrong unit must not keep a token for ever.
        let left = token.expires_at.duration_since(began.0).unwrap_or_default().min(LONGEST_LIFE);
        let lifetime = left + *age;
        let left = left.saturating_sub(skew(lifetime));
        let part = RENEWAL + RENEWAL_JITTER * self.engine.jitter();
        let live = Live {
            authorizer: Arc::clone(&obtained.authorizer),
            secret: token.secret.clone(),
            until: began.0 + left,
            deadline: began.1 + left,
            renew_at: began.1 + lifetime.mul_f64(part).saturating_sub(*age),
            ends: token.expires_at,
            id: obtained.id.clone(),
            used: AtomicBool::new(false),
        };
        if !live.usable(self.engine.clock.now(), self.engine.clock.instant()) {
            return Err(Failure::new(FailureKind::Unavailable, "the token had already expired when it arrived"));
        }
        Ok(Arc::new(live))
    }

    /// Looks at a token again at a moment: it is renewed if it was used and is still the one.
    fn wake_at(self: &Arc<Self>, state: &mut State, moment: Instant, live: &Arc<Live>) {
        state.timer.cancel();
        state.timer = CancellationToken::new();
        let (slot, live, timer) = (Arc::downgrade(self), Arc::downgrade(live), state.timer.clone());
        let sleep = self.engine.clock.sleep_until(moment);
        self.engine.spawn.spawn(Box::pin(async move {
            if timer.run_until_cancelled_owned(sleep).await.is_none() {
                return;
            }
            if let (Some(slot), Some(live)) = (slot.upgrade(), live.upgrade())
                && live.used.load(Ordering::Relaxed)
            {
                slot.renew(&live);
            }
        }));
    }
}

/// An exchange that ends in its slot, however it ends.
struct Landing {
    slot: Arc<Slot>,
    tell: watch::Sender<Landed>,
    outcome: Option<Result<Obtained, Failed>>,
    flown: Option<Flown>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let cut_off = || Err(Failure::new(FailureKind::Unavailable, "the exchange was cut off").into());
        let landed = self.slot.land(self.outcome.take().unwrap_or_else(cut_off));
        if let Some(flown) = self.flown.take() {
            flown.over(&self.slot.credential, landed.as_ref().err(), &*self.slot.engine.clock);
        }
        self.tell.send_replace(Some(landed));
    }
}
