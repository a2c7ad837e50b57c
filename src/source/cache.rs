//! What one store gave: read once however many ask, kept for its refresh time, read again by whoever follows it, and used
//! until the grace is over when the store does not answer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, watch};

use super::content::{Content, Reading};
use super::line::{About, Line, Trouble};
use super::settings::{Read, StoreSettings};
use super::vault::Lease;
use crate::base::{Clock, Lifetime, Random, StoreRef, Unavailable};

/// So many requests are under way to one store at a time.
const AT_ONCE: usize = 8;

/// Reading again begins at this part of the refresh time, and up to [`REFRESH_JITTER`] of it later, so that what comes is in
/// use before the time is over and not all secrets are asked for at once.
const REFRESH: f64 = 0.8;
const REFRESH_JITTER: f64 = 0.1;

/// The part of a lease after which it is renewed: a third is left for when Vault is away.
const RENEWAL: f64 = 2.0 / 3.0;

/// What ends is given up this long before its end, or a tenth of its life before, whichever is less: clocks differ.
const SKEW: Duration = Duration::from_secs(30);

/// What is due in a moment is due: whoever follows a value wakes by a clock that was read a little earlier.
const SLACK: Duration = Duration::from_millis(100);

/// Whoever has something that can still be used waits no longer for something newer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pauses after failures in a row, as Key Vault's guide for throttled clients wants them.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 16];

/// No pause is longer, whatever `Retry-After` says.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// One store, as one configuration reaches it.
pub(super) struct Store {
    pub(super) settings: Arc<StoreSettings>,
    pub(super) line: Line,
    pub(super) random: Arc<dyn Random>,
    pub(super) cache: Arc<Cache>,
}

/// What one store gave. Outlives configurations in which the store's settings stay the same.
pub(super) struct Cache {
    entries: Mutex<HashMap<SecretId, Arc<Entry>>>,
    /// The whole store is left alone for a while.
    pause: Mutex<Option<Pause>>,
    permits: Semaphore,
    /// Leases that may still be alive, with their ends.
    leases: Mutex<Vec<(Lease, Instant)>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            pause: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            leases: Mutex::default(),
        }
    }
}

/// Name and version.
type SecretId = (String, Option<String>);

/// Everything about one secret.
#[derive(Default)]
struct Entry(Mutex<State>);

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// When something was read last.
    success: Option<SystemTime>,
    pause: Option<Pause>,
    flight: Option<watch::Receiver<bool>>,
}

/// What was read last.
#[derive(Clone)]
struct Held {
    content: Arc<Content>,
    refresh_at: Instant,
    usable_until: Instant,
    lease: Option<Lease>,
}

/// After a failure nothing is tried for a while.
#[derive(Clone)]
struct Pause {
    count: u32,
    until: Instant,
    why: Trouble,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked changed nothing by halves.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    fn entry(&self, reference: &StoreRef, now: Instant) -> Arc<Entry> {
        let id = (reference.name.clone(), reference.version.clone());
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(&id) {
            return Arc::clone(entry);
        }
        // What nobody asks for any more is forgotten when its time is over.
        entries.retain(|_, entry| lock(&entry.0).is_alive(now));
        Arc::clone(entries.entry(id).or_default())
    }

    fn paused(&self, now: Instant) -> Option<Trouble> {
        lock(&self.pause).as_ref().filter(|pause| now < pause.until).map(|pause| pause.why.clone())
    }

    /// Why the store gives nothing at present.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.pause).as_ref().map(|pause| pause.why.detail.clone())
    }
}

impl State {
    fn is_alive(&self, now: Instant) -> bool {
        let held = self.held.as_ref().is_some_and(|held| now < held.usable_until);
        held || self.flight.is_some() || self.pause.as_ref().is_some_and(|pause| now < pause.until)
    }

    /// What can be used now, whatever its age.
    fn usable(&mut self, now: Instant) -> Option<Reading> {
        // Past its time it is not even kept.
        self.held.take_if(|held| now >= held.usable_until);
        let held = self.held.as_ref()?;
        let usable = held.usable_until.saturating_duration_since(now);
        let due = self.pause.as_ref().map_or(held.refresh_at, |pause| held.refresh_at.max(pause.until));
        let refresh = due.saturating_duration_since(now).max(SLACK).min(usable);
        Some(Reading { content: Arc::clone(&held.content), lifetime: Lifetime { refresh, usable } })
    }

    fn outcome(&mut self, now: Instant, reference: &StoreRef) -> Result<Reading, Unavailable> {
        if let Some(reading) = self.usable(now) {
            return Ok(reading);
        }
        let why = self.pause.as_ref().map_or("the attempt to read it was given up", |pause| &pause.why.detail);
        let last = self.success.map(|at| format!("; it was read last at {}", humantime::format_rfc3339_seconds(at)));
        let whole = StoreRef { field: None, ..reference.clone() };
        Err(Unavailable(format!("{whole}: {why}{}", last.unwrap_or_default())))
    }

    /// The reading that is under way, if it is still.
    fn flight(&self) -> Option<watch::Receiver<bool>> {
        self.flight.clone().filter(|flight| flight.has_changed().is_ok())
    }
}

/// What an attempt brought.
enum Brought {
    New(Read),
    /// The lease goes on for so long.
    Renewed(Duration),
}

impl Store {
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.line.clock
    }

    /// From 0 to 1. Without randomness there is no jitter, which is no reason to fail.
    fn jitter(&self) -> f64 {
        let mut bytes = [0; 4];
        let filled = self.random.fill(&mut bytes);
        if filled { f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) } else { 0.0 }
    }

    /// A secret with all its fields.
    ///
    /// # Errors
    /// Why there is none, and when there was one.
    pub(super) async fn read(self: &Arc<Self>, reference: &StoreRef) -> Result<Reading, Unavailable> {
        let began = self.clock().instant();
        let entry = self.cache.entry(reference, began);
        let (mut flight, waits) = {
            let mut state = lock(&entry.0);
            let usable = state.usable(began);
            let fresh = state.held.as_ref().is_some_and(|held| began + SLACK < held.refresh_at);
            if fresh || state.pause.as_ref().is_some_and(|pause| began < pause.until) {
                return state.outcome(began, reference);
            }
            let flight = state.flight().unwrap_or_else(|| self.take_off(&entry, &mut state, reference));
            (flight, usable.is_none())
        };
        let landed = flight.wait_for(|landed| *landed);
        if waits {
            let _ = landed.await;
        } else {
            tokio::select! {
                _ = landed => {}
                () = self.clock().sleep_until(began + PATIENCE) => {}
            }
        }
        lock(&entry.0).outcome(self.clock().instant(), reference)
    }

    /// Begins to read. It goes on though nobody waits any more.
    fn take_off(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        state: &mut State,
        reference: &StoreRef,
    ) -> watch::Receiver<bool> {
        let (landed, flight) = watch::channel(false);
        state.flight = Some(flight.clone());
        let lease = state.held.as_ref().and_then(|held| held.lease.clone());
        let reference = StoreRef { field: None, ..reference.clone() };
        let (store, entry) = (Arc::clone(self), Arc::clone(entry));
        tokio::spawn(async move {
            let permit = store.cache.permits.acquire().await;
            let began = store.clock().instant();
            let outcome = match store.cache.paused(began) {
                Some(why) => Err(why),
                None => store.attempt(&reference, lease.as_ref()).await,
            };
            drop(permit);
            store.land(&entry, &reference, began, outcome);
            landed.send_replace(true);
        });
        flight
    }

    async fn attempt(&self, reference: &StoreRef, lease: Option<&Lease>) -> Result<Brought, Trouble> {
        if let Some((lease, vault)) = lease.filter(|lease| lease.renewable).zip(self.settings.backend.vault()) {
            match vault.renew(&self.line, lease).await {
                // Near its longest life it is renewed for less and less.
                Ok(lasts) if lasts >= lease.lasts / 2 => return Ok(Brought::Renewed(lasts)),
                Ok(_) => {}
                Err(trouble) if trouble.about == About::Store => return Err(trouble),
                // It is gone; another is made.
                Err(_) => {}
            }
        }
        self.settings.backend.read(&self.line, reference).await.map(Brought::New)
    }

    fn land(&self, entry: &Entry, reference: &StoreRef, began: Instant, outcome: Result<Brought, Trouble>) {
        let now = self.clock().instant();
        self.judge(began, now, outcome.as_ref().err());
        let mut state = lock(&entry.0);
        state.flight = None;
        match outcome {
            Ok(brought) => {
                if state.pause.take().is_some_and(|pause| pause.why.about == About::Secret) {
                    tracing::info!(store = self.settings.name, secret = reference.name, "it can be read again");
                }
                state.success = Some(self.clock().now());
                state.held = match brought {
                    Brought::New(read) => Some(self.held(read, began)),
                    Brought::Renewed(lasts) => state.held.take().map(|held| self.renewed(held, lasts, began)),
                };
            }
            Err(why) if why.about == About::Store => {
                let until = lock(&self.cache.pause).as_ref().map_or(now, |pause| pause.until);
                state.pause = Some(Pause { count: 0, until, why });
            }
            Err(why) => {
                let count = state.pause.as_ref().map_or(0, |pause| pause.count) + 1;
                if count == 1 && state.held.is_some() {
                    let (secret, error) = (&reference.name, &why.detail);
                    tracing::warn!(store = self.settings.name, secret, error, "a secret cannot be read again");
                }
                state.pause = Some(self.pause(count, now, why));
            }
        }
    }

    /// Notes what an attempt says of the whole store.
    fn judge(&self, began: Instant, now: Instant, why: Option<&Trouble>) {
        let mut pause = lock(&self.cache.pause);
        match why {
            Some(why) if why.about == About::Store => {
                // Those that were under way together count as one.
                if pause.as_ref().is_some_and(|pause| pause.until > began) {
                    return;
                }
                let count = pause.as_ref().map_or(0, |pause| pause.count) + 1;
                if count == 1 {
                    let error = &why.detail;
                    tracing::warn!(store = self.settings.name, error, "a secret store cannot be used");
                }
                *pause = Some(self.pause(count, now, why.clone()));
            }
            _ => {
                if pause.take().is_some() {
                    tracing::info!(store = self.settings.name, "the secret store can be used again");
                }
            }
        }
    }

    fn pause(&self, count: u32, now: Instant, why: Trouble) -> Pause {
        let grown = PAUSES.get(count.saturating_sub(1) as usize).or(PAUSES.last()).copied().unwrap_or(1);
        let wanted = Duration::from_secs(grown).max(why.retry_after.unwrap_or_default().min(LONGEST_PAUSE));
        Pause { count, until: now + wanted.mul_f64(1.0 + self.jitter() / 10.0), why }
    }

    fn held(&self, read: Read, began: Instant) -> Held {
        let content = Arc::new(read.content);
        if let Some(lease) = read.lease {
            let lasts = lease.lasts;
            return self.leased(content, lease, lasts, began);
        }
        let StoreSettings { refresh, grace, .. } = *self.settings;
        let usable = read.ends_in.map_or(refresh + grace, |ends| ends.min(refresh + grace));
        let refresh = refresh.mul_f64(REFRESH + REFRESH_JITTER * self.jitter());
        Held { content, refresh_at: began + refresh.min(usable), usable_until: began + usable, lease: None }
    }

    fn renewed(&self, held: Held, lasts: Duration, began: Instant) -> Held {
        match held.lease {
            Some(lease) => self.leased(held.content, lease, lasts, began),
            None => held,
        }
    }

    fn leased(&self, content: Arc<Content>, lease: Lease, lasts: Duration, began: Instant) -> Held {
        let end = began + lasts;
        let mut leases = lock(&self.cache.leases);
        leases.retain(|(other, end)| other.id != lease.id && *end > began);
        leases.push((lease.clone(), end));
        let usable_until = end.checked_sub(SKEW.min(lasts / 10)).unwrap_or(end);
        Held { content, refresh_at: began + lasts.mul_f64(RENEWAL), usable_until, lease: Some(lease) }
    }

    /// Gives back what was made for us. Nobody can do more about one that stays: it ends by itself.
    pub(super) async fn revoke(&self) {
        let leases = std::mem::take(&mut *lock(&self.cache.leases));
        let (Some(vault), now) = (self.settings.backend.vault(), self.clock().instant()) else { return };
        for (lease, _) in leases.iter().filter(|(_, end)| *end > now) {
            if let Err(why) = vault.revoke(&self.line, lease).await {
                let error = why.detail;
                tracing::warn!(store = self.settings.name, error, "a lease could not be given back; it ends by itself");
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.settings.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Said, Server, Signer, reference, says, says_with, stores};
    use super::super::{SecretStores, Stores};
    use super::*;

    fn settings() -> Value {
        json!({"name": "s", "kind": "azure_key_vault", "vault_url": "https://v.vault.azure.net", "credential": "c"})
    }

    fn value(text: &str) -> Said {
        says(200, json!({"value": text, "attributes": {"enabled": true}}))
    }

    fn busy(retry_after: &str) -> Said {
        says_with(429, "retry-after", retry_after, json!({"error": {"code": "Throttled", "message": "later"}}))
    }

    async fn read(stores: &Stores) -> Result<(String, Lifetime), String> {
        let reference = reference("a", None, None);
        let reading = stores.read(&reference).await.map_err(|error| error.0)?;
        Ok((reading.field(&reference).unwrap().expose_str().unwrap().to_owned(), reading.lifetime))
    }

    async fn text(stores: &Stores) -> Result<String, String> {
        read(stores).await.map(|(text, _)| text)
    }

    async fn wait(seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_read_once_however_many_ask_and_again_when_it_is_due() {
        let server = Server::new([value("one"), value("two")]);
        server.takes(Duration::from_millis(100));
        let stores = Arc::new(stores(settings(), &server, &Signer::new(0), None));
        let ask = |_| {
            let stores = Arc::clone(&stores);
            tokio::spawn(async move { text(&stores).await })
        };
        for asked in (0..500).map(ask).collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap().unwrap(), "one");
        }
        assert_eq!(server.count(), 1);
        // Five minutes, of which a fifth is left to bring the new one.
        let (_, lifetime) = read(&stores).await.unwrap();
        assert!((239..=240).contains(&lifetime.refresh.as_secs()), "{lifetime:?}");
        assert!((3890..=3900).contains(&lifetime.usable.as_secs()), "{lifetime:?}");
        wait(lifetime.refresh.as_secs_f64() - 1.0).await;
        assert_eq!((text(&stores).await.unwrap().as_str(), server.count()), ("one", 1));
        wait(1.0).await;
        assert_eq!((text(&stores).await.unwrap().as_str(), server.count()), ("two", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_store_is_left_alone_for_1_2_4_8_16_seconds_and_then_serves_again() {
        let server = Server::new([busy("0")]);
        let stores = stores(settings(), &server, &Signer::new(0), None);
        let error = text(&stores).await.unwrap_err();
        assert_eq!(error, "secret a of store s: it answers 429 Throttled: later");
        for (tries, pause) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 16.0)] {
            wait(pause - 0.1).await;
            assert!(text(&stores).await.is_err());
            assert_eq!(server.count(), tries, "still in the pause of {pause} s");
            wait(0.1).await;
            assert!(text(&stores).await.is_err());
            assert_eq!(server.count(), tries + 1, "after the pause of {pause} s");
        }
        server.say([busy("40")]);
        wait(16.0).await;
        assert!(text(&stores).await.is_err());
        server.say([value("one")]);
        let tries = server.count();
        wait(39.0).await;
        assert!(text(&stores).await.is_err());
        assert_eq!(server.count(), tries, "as Retry-After wants it");
        wait(1.0).await;
        assert_eq!(text(&stores).await.unwrap(), "one");
        assert!(stores.troubles().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_value_serves_through_an_outage_until_the_grace_is_over_and_not_a_moment_longer() {
        let server = Server::new([value("one")]);
        let mut settings = settings();
        (settings["refresh"], settings["grace"]) = ("10s".into(), "60s".into());
        let stores = stores(settings, &server, &Signer::new(0), None);
        assert_eq!(text(&stores).await.unwrap(), "one");
        server.say([]);
        for _ in 0..69 {
            wait(1.0).await;
            let (text, lifetime) = read(&stores).await.unwrap();
            assert_eq!(text, "one");
            assert!(lifetime.refresh <= lifetime.usable && lifetime.usable <= Duration::from_secs(70));
        }
        assert!(!stores.troubles().is_empty());
        // 1, 2, 4, 8, 16 and 16 seconds apart.
        assert!((5..=8).contains(&server.count()), "{}", server.count());
        wait(1.0).await;
        let error = text(&stores).await.unwrap_err();
        assert!(error.contains("it does not answer: connection refused"), "{error}");
        assert!(error.ends_with("it was read last at 2023-11-14T22:13:20Z"), "{error}");
        server.say([value("two")]);
        wait(16.0).await;
        assert_eq!(text(&stores).await.unwrap(), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_delays_nobody_who_has_something_that_still_serves() {
        let server = Server::new([value("one")]);
        let stores = stores(settings(), &server, &Signer::new(0), None);
        assert_eq!(text(&stores).await.unwrap(), "one");
        server.takes(Duration::from_secs(60));
        wait(300.0).await;
        let began = tokio::time::Instant::now();
        assert_eq!(text(&stores).await.unwrap(), "one");
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_with_one_secret_is_no_reason_to_leave_the_store_alone() {
        let missing = json!({"error": {"code": "SecretNotFound", "message": "x"}});
        let server = Server::with(move |request| {
            let gone = request.uri().path().starts_with("/secrets/gone/");
            Some(if gone { says(404, missing.clone()) } else { value("one") })
        });
        let stores = stores(settings(), &server, &Signer::new(0), None);
        let gone = reference("gone", None, None);
        for _ in 0..5 {
            let error = stores.read(&gone).await.unwrap_err().0;
            assert_eq!(
                error,
                "secret gone of store s: there is no such secret, or no such version of it, in this vault"
            );
        }
        assert_eq!(server.count(), 1, "remembered for a while");
        assert_eq!(text(&stores).await.unwrap(), "one");
        assert!(stores.troubles().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_keeps_what_was_read_while_the_settings_are_the_same() {
        let server = Server::new([value("one"), value("two")]);
        let signer = Signer::new(0);
        let first = stores(settings(), &server, &signer, None);
        assert_eq!(text(&first).await.unwrap(), "one");
        let same = stores(settings(), &server, &signer, Some(&first));
        assert_eq!((text(&same).await.unwrap().as_str(), server.count()), ("one", 1));
        let mut changed = settings();
        changed["vault_url"] = "https://w.vault.azure.net".into();
        let other = stores(changed, &server, &signer, Some(&same));
        assert_eq!((text(&other).await.unwrap().as_str(), server.count()), ("two", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_token_is_replaced_once_and_no_more() {
        let challenge =
            "Bearer authorization=\"https://login.microsoftonline.com/t\", resource=\"https://vault.azure.net\"";
        let unauthorized = || says_with(401, "www-authenticate", challenge, json!({}));
        let server = Server::new([unauthorized(), value("one")]);
        let stores_of = |server: &Server, lives| stores(settings(), server, &Signer::new(lives), None);
        assert_eq!(text(&stores_of(&server, 1)).await.unwrap(), "one");
        let tokens: Vec<_> = server.asked().iter().map(|asked| asked.headers()["x-vault-token"].clone()).collect();
        assert_eq!(tokens, ["token-0", "token-1"]);
        let server = Server::new([unauthorized()]);
        let error = text(&stores_of(&server, 1)).await.unwrap_err();
        assert!(error.contains("wants one for https://vault.azure.net of tenant t"), "{error}");
        assert_eq!(server.count(), 2);
        let server = Server::new([unauthorized()]);
        assert!(text(&stores_of(&server, 0)).await.is_err());
        assert_eq!(server.count(), 1, "no other token can be had");
    }

    #[tokio::test(start_paused = true)]
    async fn stores_are_open_to_the_accounts_that_the_operator_names_and_to_no_others() {
        let server = Server::new([]);
        let open = |accounts: Value| {
            let mut settings = settings();
            settings["accounts"] = accounts;
            stores(settings, &server, &Signer::new(0), None)
        };
        assert!(!open(json!([])).is_open_to("s", "7"));
        let two = open(json!(["7", "org-8"]));
        assert!(two.is_open_to("s", "7") && two.is_open_to("s", "org-8"));
        assert!(!two.is_open_to("s", "8") && !two.is_open_to("other", "7") && !two.is_open_to("s", "*"));
        assert!(open(json!(["*"])).is_open_to("s", "whoever"));
    }
}
