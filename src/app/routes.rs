//! Keeps the route table at what the configuration file and the encrypted store say, and writes down what is counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;

use super::file::FilePart;
use super::stored::{Stored, Table};
use crate::api::ProxyPlace;
use crate::base::{Clock, Deps};
use crate::proxy::{Proxy, State};
use crate::store::{Store, StoreError, UsageRecord};

/// After a failed read the store is asked again this soon.
const AGAIN: Duration = Duration::from_millis(500);

/// Uses are written down this often, and at the end.
const WRITE_DOWN: Duration = Duration::from_secs(10);

/// How long before a secret ends its owner is reminded, and how often it is looked for.
const REMINDER: Duration = Duration::from_secs(14 * 24 * 3600);
const REMIND: Duration = Duration::from_secs(6 * 3600);

/// What a run did can be looked up for so long after its end.
const KEEP_RUNS: Duration = Duration::from_secs(90 * 24 * 3600);

/// What the proxy decides by, and where it comes from.
#[derive(Debug)]
pub(super) struct Routes {
    proxy: Arc<Proxy>,
    clock: Arc<dyn Clock>,
    file: Mutex<Arc<FilePart>>,
    /// Open from the moment on when it could be reached first.
    stored: ArcSwapOption<Stored>,
    /// How long what was read last serves while nothing can be read.
    grace: Duration,
    turn: tokio::sync::Mutex<Turn>,
    /// The store was read, and what was read is not too old.
    serving: AtomicBool,
    /// Where runs of policies call.
    place: ArcSwapOption<ProxyPlace>,
}

/// What the table in use is made of. Held while another is made, so that none is overtaken.
#[derive(Debug, Default)]
struct Turn {
    revision: i64,
    /// The store could not be reached for longer than its grace.
    shut: bool,
    /// What was left out of the table last time; said once.
    left_out: Vec<String>,
    /// When the next proof of a caller ends.
    ends: Option<SystemTime>,
}

impl Routes {
    pub(super) fn new(proxy: Arc<Proxy>, deps: &Deps, file: Arc<FilePart>, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            proxy,
            clock: Arc::clone(&deps.clock),
            file: Mutex::new(file),
            stored: ArcSwapOption::empty(),
            grace,
            turn: tokio::sync::Mutex::default(),
            serving: AtomicBool::new(false),
            place: ArcSwapOption::empty(),
        })
    }

    pub(super) fn file(&self) -> Arc<FilePart> {
        Arc::clone(&self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    pub(super) fn stored(&self) -> Option<Arc<Stored>> {
        self.stored.load_full()
    }

    pub(super) fn proxy_place(&self) -> Option<ProxyPlace> {
        self.place.load_full().map(|place| ProxyPlace::clone(&place))
    }

    /// From now on runs of policies call here.
    pub(super) fn set_proxy_place(&self, place: Option<ProxyPlace>) {
        self.place.store(place.map(Arc::new));
    }

    /// Why what the store holds is not served, or not for long.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.stored() {
            None if self.grace > Duration::ZERO => Some("store: it is not open yet".to_owned()),
            None => None,
            Some(stored) => stored.store().reach().failing.map(|error| format!("store: {error}")),
        }
    }

    /// Why nothing of the store is served, if that is so.
    pub(super) fn refusing(&self) -> Option<String> {
        if self.serving.load(Ordering::Relaxed) {
            return None;
        }
        Some(match self.stored().and_then(|stored| stored.store().reach().failing) {
            Some(error) => format!("store: {error}"),
            None => "store: it is not open yet".to_owned(),
        })
    }

    /// From now on the store has its part in the table.
    ///
    /// # Errors
    /// When it cannot be read now; it will be, by [`Routes::follow`].
    pub(super) async fn open(&self, store: Store) -> Result<(), StoreError> {
        self.stored.store(Some(Stored::new(store)));
        self.refresh(true).await
    }

    /// A new configuration file was accepted. What the store said last stays, when it cannot be read now.
    pub(super) async fn replace(&self, mut state: State, file: Arc<FilePart>) {
        let mut turn = self.turn.lock().await;
        if let Some(stored) = self.stored() {
            let Table { routes, left_out, revision, ends } = match stored.table(&file).await {
                Ok(table) => table,
                Err(_) => {
                    let table = stored.last_table(&file);
                    if turn.shut {
                        // What was read last is too old to lease anything on.
                        stored.leases().end();
                    }
                    table
                }
            };
            state.routes = routes;
            (turn.revision, turn.ends) = (revision, ends);
            turn.say(left_out);
        }
        if self.stored().is_none() && self.grace > Duration::ZERO {
            state = state.before_the_store();
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        self.proxy.replace(state);
    }

    /// Reads the store again if it says that something changed, or anyway.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn refresh(&self, anyway: bool) -> Result<(), StoreError> {
        let Some(stored) = self.stored() else { return Ok(()) };
        let wanted = *stored.store().revisions().borrow();
        let mut turn = self.turn.lock().await;
        let ended = turn.ends.is_some_and(|end| end <= self.clock.now());
        if !anyway && !ended && turn.revision >= wanted && !turn.shut {
            return Ok(());
        }
        let Table { routes, revision, left_out, ends } = stored.table(&self.file()).await?;
        self.proxy.reroute(routes);
        (turn.revision, turn.shut, turn.ends) = (revision, false, ends);
        self.serving.store(true, Ordering::Relaxed);
        turn.say(left_out);
        Ok(())
    }

    /// Follows the store until told to stop.
    pub(super) async fn follow(self: Arc<Self>, store: Store) {
        let mut revisions = store.revisions();
        let mut failing_since: Option<Instant> = None;
        loop {
            let now = self.clock.instant();
            let reached = match self.refresh(false).await {
                Ok(()) => store.reach().failing.is_none(),
                Err(error) => {
                    if failing_since.is_none() {
                        tracing::error!(%error, "the store cannot be read; what was read last is used for {:?}", self.grace);
                    }
                    false
                }
            };
            match (reached, failing_since) {
                (true, Some(since)) => {
                    tracing::info!(
                        seconds = now.saturating_duration_since(since).as_secs(),
                        "the store can be read again"
                    );
                    failing_since = None;
                    // What was shut is made anew.
                    if self.refresh(true).await.is_err() {
                        failing_since = Some(since);
                    }
                }
                (true, None) => {}
                (false, since) => {
                    let since = *failing_since.insert(since.unwrap_or(now));
                    if now.saturating_duration_since(since) > self.grace {
                        self.shut().await;
                    }
                }
            }
            let pause = self.clock.sleep_until(self.clock.instant() + AGAIN);
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    async fn shut(&self) {
        let mut turn = self.turn.lock().await;
        if std::mem::replace(&mut turn.shut, true) {
            return;
        }
        self.serving.store(false, Ordering::Relaxed);
        tracing::error!(
            "the store could not be read for {:?}: its credentials are not used until it can be",
            self.grace
        );
        if let Some(stored) = self.stored() {
            stored.shut(&self.proxy.state().routes, "the store cannot be reached, and what was read last is too old");
        }
    }

    /// Writes uses down now and then, and reminds of secrets that end.
    pub(super) async fn keep_books(self: Arc<Self>) {
        let mut reminded = self.clock.instant();
        self.remind().await;
        loop {
            self.clock.sleep_until(self.clock.instant() + WRITE_DOWN).await;
            self.write_down().await;
            if self.clock.instant().saturating_duration_since(reminded) >= REMIND {
                reminded = self.clock.instant();
                self.remind().await;
            }
        }
    }

    /// Adds what was counted to what is written down.
    pub(super) async fn write_down(&self) {
        let Some(stored) = self.stored() else { return };
        stored.leases().write_down(stored.store()).await;
        let taken: Vec<_> = stored
            .uses()
            .into_iter()
            .filter_map(|(name, usage)| usage.take().map(|uses| (name, usage, uses)))
            .collect();
        if taken.is_empty() {
            return;
        }
        let record = |uses: &crate::route::Uses| UsageRecord {
            count: i64::try_from(uses.count).unwrap_or(i64::MAX),
            last_used: uses.last,
            last_caller: uses.caller.to_string(),
        };
        let rows: Vec<_> =
            taken.iter().map(|((account, id), _, uses)| (account.clone(), id.clone(), record(uses))).collect();
        if let Err(error) = stored.store().add_usage(&rows).await {
            tracing::debug!(%error, "uses cannot be written down now");
            taken.iter().for_each(|(_, usage, uses)| usage.give_back(uses));
        }
    }

    async fn remind(&self) {
        let Some(stored) = self.stored() else { return };
        let now = self.clock.now();
        if let Err(error) = stored.store().prune_runs(now - KEEP_RUNS).await {
            tracing::debug!(%error, "old runs cannot be forgotten now");
        }
        let Ok(expiring) = stored.store().expiring(now + REMINDER).await else { return };
        for record in expiring {
            let Some(end) = record.expires_at else { continue };
            let days = end.duration_since(now).map_or(0, |left| left.as_secs() / (24 * 3600));
            tracing::warn!(
                account = record.account,
                credential = record.id,
                ends = %humantime::format_rfc3339_seconds(end),
                days,
                "the secret of a credential ends soon; rotate it"
            );
        }
    }
}

impl Turn {
    fn say(&mut self, left_out: Vec<String>) {
        for why in left_out.iter().filter(|why| !self.left_out.contains(why)) {
            tracing::warn!(why, "something in the store is not used");
        }
        self.left_out = left_out;
    }
}
