//! Tokens that all processes of a fleet have in common: one exchange for all of them, under a lease.
//!
//! What lies there is encrypted under the account's data key, with the key of the token as associated data. **What lies
//! there only ever saves an exchange**: when the place is away, slow, empty or full of what cannot be read, each process
//! obtains its tokens itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::exchange::LONGEST_LIFE;
use super::failure::{Failure, FailureKind, LONGEST};
use super::key::Key;
use super::redis::{Redis, Whereabouts, text};
use super::sealer::{Sealer, SealerError};
use super::{Token, TokenSource};
use crate::base::text::hex;
use crate::base::{Authorizer, BoxFuture, Clock, Deps, Random, Secret};
use crate::upstream::Roots;

/// A holder that does not come back within this time is gone: its process was killed.
const LEASE: Duration = Duration::from_secs(5);

/// No exchange takes longer; one that does no longer keeps others from trying.
const LONGEST_LEASE: Duration = Duration::from_secs(120);

/// How long one waits for another process's exchange before doing it oneself.
const PATIENCE: Duration = Duration::from_secs(40);

/// The first wait, and the longest, each with as much again for chance.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// A failure without an answer may be this host's own: others are kept from trying for no longer.
const HEARSAY: Duration = Duration::from_secs(2);

/// A 401 may cause one exchange in this time, in the whole fleet.
pub(super) const FORCED: Duration = Duration::from_secs(60);

/// After it could not be used, the place is left alone: for this long at first, and at most.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How long encrypting may take: the account's key may have to be fetched first.
const SEALER: Duration = Duration::from_secs(1);

/// How often one look is followed by another at once, because what was there could not be used.
const LOOKS: u32 = 3;

/// What tells one token of a key from the next: nothing of the token can be learnt from it.
pub(super) type TokenId = Arc<str>;

/// Hexadecimal digits of a [`TokenId`].
const ID_LEN: usize = 32;

/// What one looks for.
#[derive(Debug)]
pub(super) struct Glance<'a> {
    pub(super) holder: &'a str,
    pub(super) lease: Duration,
    /// A token that is of no use: it is here already, or was refused.
    pub(super) not: Option<&'a str>,
    /// It was refused. It is taken away, unless a refusal caused an exchange within [`FORCED`]: then it is handed out again.
    pub(super) refused: bool,
}

/// What one finds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Sight {
    /// A token, and how long it stays.
    Token(Vec<u8>, Duration),
    /// A failure that keeps everybody from trying, and for how long.
    Failure(Vec<u8>, Duration),
    /// Nothing, and it is ours to obtain.
    Leased,
    /// Nothing yet: somebody else obtains it.
    Busy,
}

/// What one leaves, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Token(Vec<u8>, Duration),
    Failure(Vec<u8>, Duration),
}

/// The place. Each call is one step, and takes no longer than a moment.
pub(super) trait Board: Send + Sync + fmt::Debug {
    /// Looks, and takes the lease if there is nothing.
    fn take<'a>(&'a self, name: &'a str, glance: &'a Glance<'a>) -> BoxFuture<'a, Result<Sight, String>>;
    /// Keeps the lease.
    fn hold<'a>(&'a self, name: &'a str, holder: &'a str, lease: Duration) -> BoxFuture<'a, Result<(), String>>;
    /// Leaves what there is to leave, and gives the lease back.
    fn leave<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        entry: Option<&'a Entry>,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Takes token and failure away.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

/// Where Redis is, as the configuration has it, with its secrets loaded.
pub struct SharedSettings {
    /// The address, and whether it stands in the configuration file itself.
    pub address: (String, bool),
    /// The user, if it is not in the address.
    pub username: Option<String>,
    /// The password, if it is not in the address.
    pub password: Option<Secret>,
    /// Roots beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A password may travel unencrypted.
    pub allow_cleartext: bool,
}

impl fmt::Debug for SharedSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSettings")
    }
}

/// What the processes of a fleet share.
pub struct Shared {
    board: Box<dyn Board>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    circuit: Mutex<Circuit>,
}

/// Whether the place is worth asking.
#[derive(Default)]
struct Circuit {
    failures: u32,
    /// Nobody asks before this.
    closed_until: Option<Instant>,
}

/// Whose token it is, and what is known of it here.
pub(super) struct Asked {
    pub(super) key: Key,
    pub(super) account: Arc<str>,
    /// The token that is here, or was refused.
    pub(super) held: Option<Held>,
}

/// A token that was here before.
pub(super) struct Held {
    pub(super) id: Option<TokenId>,
    /// What takes its place must end later.
    pub(super) ends: Option<SystemTime>,
    pub(super) refused: bool,
}

/// A token, with what it signs by.
pub(super) struct Obtained {
    pub(super) token: Token,
    pub(super) authorizer: Arc<dyn Authorizer>,
    /// Just before it was obtained, or found.
    pub(super) began: (SystemTime, Instant),
    /// How long it had lived by then.
    pub(super) age: Duration,
    pub(super) id: Option<TokenId>,
}

/// No token.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// How often it failed in a row, and for how long nothing is tried: as somebody else found out, or as was left there.
    pub(super) pause: Option<(u32, Duration)>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, pause: None }
    }
}

/// Counts a failure: how often in a row, and for how long nothing is to be tried.
pub(super) type Count<'a> = &'a (dyn Fn(&Failure) -> (u32, Duration) + Send + Sync);

/// Obtains a token here, for nobody else.
pub(super) async fn alone(source: &dyn TokenSource, clock: &dyn Clock) -> Result<Obtained, Failed> {
    let began = (clock.now(), clock.instant());
    let token = source.fetch(began.0).await?;
    let authorizer = source.authorizer(&token)?;
    Ok(Obtained { token, authorizer, began, age: Duration::ZERO, id: None })
}

/// A failure as it lies there.
#[derive(Serialize, Deserialize)]
struct Told {
    kind: FailureKind,
    detail: String,
    count: u32,
}

impl Shared {
    /// Sharing by Redis. Connects when it is first needed.
    ///
    /// # Errors
    /// The key of the `tokens` section that is wrong, and why.
    pub fn new(
        settings: SharedSettings,
        sealer: Arc<dyn Sealer>,
        roots: &Roots,
        deps: &Deps,
    ) -> Result<Self, (&'static str, String)> {
        let (address, written) = &settings.address;
        let mut there = Whereabouts::parse(address, *written).map_err(|why| ("shared", why))?;
        let twice = |key| (key, "it stands in the address already".to_owned());
        if let Some(username) = settings.username
            && there.username.replace(username).is_some()
        {
            return Err(twice("shared_username"));
        }
        if let Some(password) = &settings.password {
            let password = text(password, "shared_password").map_err(|why| ("shared_password", why))?;
            if there.password.replace(password).is_some() {
                return Err(twice("shared_password"));
            }
        }
        if there.username.is_some() && there.password.is_none() {
            return Err(("shared_username", "a user has a password; set `shared_password`".into()));
        }
        if there.is_open() && !settings.allow_cleartext {
            let why = "the password would travel unencrypted; write rediss:// or set `shared_allow_cleartext: true`";
            return Err(("shared", why.into()));
        }
        let roots = match &settings.ca_file {
            Some(file) => roots.clone().with_file(file).map_err(|why| ("shared_ca_file", why))?,
            None => roots.clone(),
        };
        let board = Redis::new(there, &roots).map_err(|why| ("shared", why))?;
        Ok(Self::by(Box::new(board), sealer, deps))
    }

    pub(super) fn by(board: Box<dyn Board>, sealer: Arc<dyn Sealer>, deps: &Deps) -> Self {
        let (clock, random) = (Arc::clone(&deps.clock), Arc::clone(&deps.random));
        Self { board, sealer, clock, random, circuit: Mutex::default() }
    }

    /// Obtains a token: another process's if there is one, else a new one for all.
    pub(super) async fn obtain(
        &self,
        asked: &Asked,
        source: &dyn TokenSource,
        count: Count<'_>,
    ) -> Result<Obtained, Failed> {
        let (Some(name), Some(holder)) = (self.name(asked).await, self.id()) else {
            return alone(source, &*self.clock).await;
        };
        match self.look(asked, source, &name, &holder).await {
            Looked::Found(obtained) => Ok(*obtained),
            Looked::Failed(failed) => Err(failed),
            Looked::Leased => self.exchange(asked, source, &name, &holder, count).await,
            Looked::Alone => alone(source, &*self.clock).await,
        }
    }

    /// Until there is something, or it is ours to obtain, or the wait has lasted long enough.
    async fn look(&self, asked: &Asked, source: &dyn TokenSource, name: &str, holder: &str) -> Looked {
        let held = asked.held.as_ref();
        let mut not = held.and_then(|held| held.id.clone());
        let mut refused = held.is_some_and(|held| held.refused && held.id.is_some());
        let (deadline, mut wait, mut looks) = (self.clock.instant() + PATIENCE, POLL.0, 0);
        loop {
            let glance = Glance { holder, lease: LEASE, not: not.as_deref(), refused };
            let Some(sight) = self.careful(self.board.take(name, &glance)).await else { return Looked::Alone };
            match sight {
                Sight::Leased => return Looked::Leased,
                Sight::Failure(sealed, left) => {
                    let told = self.read_failure(asked, &sealed).await;
                    return told.map_or(Looked::Alone, |Told { kind, detail, count }| {
                        let failure = Failure::new(kind, detail);
                        Looked::Failed(Failed { failure, pause: Some((count, left.min(LONGEST))) })
                    });
                }
                Sight::Token(sealed, left) => {
                    let id = id_of(&sealed);
                    // What was refused and lies there nevertheless is what there is.
                    let again = refused && id.is_some() && id == not;
                    if let Some(obtained) = self.adopt(asked, source, &sealed, left, again).await {
                        return Looked::Found(Box::new(obtained));
                    }
                    looks += 1;
                    if looks == LOOKS || id.is_none() {
                        return Looked::Alone;
                    }
                    (not, refused) = (id, false);
                }
                Sight::Busy if self.clock.instant() >= deadline => {
                    tracing::warn!(
                        target: "countersign::token",
                        seconds = PATIENCE.as_secs(),
                        "another process does not finish obtaining a token; it is obtained here too"
                    );
                    return Looked::Alone;
                }
                Sight::Busy => {
                    self.clock.sleep_until(self.clock.instant() + wait.mul_f64(1.0 + self.jitter())).await;
                    wait = (wait * 3 / 2).min(POLL.1);
                }
            }
        }
    }

    /// Obtains it for all, and leaves it there before anybody uses it.
    async fn exchange(
        &self,
        asked: &Asked,
        source: &dyn TokenSource,
        name: &str,
        holder: &str,
        count: Count<'_>,
    ) -> Result<Obtained, Failed> {
        let held = async {
            let end = self.clock.instant() + LONGEST_LEASE;
            while self.clock.instant() < end {
                self.clock.sleep_until(self.clock.instant() + LEASE / 3).await;
                self.careful(self.board.hold(name, holder, LEASE)).await;
            }
            std::future::pending().await
        };
        let outcome = tokio::select! {
            biased;
            outcome = alone(source, &*self.clock) => outcome,
            never = held => never,
        };
        let (entry, outcome) = match outcome {
            Ok(mut obtained) => {
                obtained.id = self.id().map(Arc::from);
                (self.token_entry(asked, &obtained).await, Ok(obtained))
            }
            Err(Failed { failure, .. }) => {
                let pause = count(&failure);
                (self.failure_entry(asked, &failure, pause).await, Err(Failed { failure, pause: Some(pause) }))
            }
        };
        self.careful(self.board.leave(name, holder, entry.as_ref())).await;
        outcome
    }

    /// Takes away what lies there: the credential was changed or removed here.
    pub(super) async fn remove(&self, key: &Key, account: &Arc<str>) {
        let asked = Asked { key: *key, account: Arc::clone(account), held: None };
        if let Some(name) = self.name(&asked).await {
            self.careful(self.board.remove(&name)).await;
        }
    }

    /// The name under which a key's token lies there.
    async fn name(&self, asked: &Asked) -> Option<String> {
        let named = self.sealer.name(&asked.account, asked.key.bytes());
        Some(hex(&self.sealer(named).await?))
    }

    /// What was there, if it is of use.
    async fn adopt(
        &self,
        asked: &Asked,
        source: &dyn TokenSource,
        sealed: &[u8],
        left: Duration,
        again: bool,
    ) -> Option<Obtained> {
        let (began, id) = ((self.clock.now(), self.clock.instant()), id_of(sealed)?);
        let aad = aad("token", asked, &id);
        let plain = self.sealer(self.sealer.open(&asked.account, &aad, &sealed[ID_LEN..])).await?;
        let (life, secret) = plain.expose().split_first_chunk()?;
        let life = Duration::from_millis(u64::from_be_bytes(*life)).min(LONGEST_LIFE);
        // By the place's own clock: those of two processes may differ.
        let left = left.min(life);
        let token = Token { secret: Secret::new(secret), expires_at: began.0 + left };
        let held = asked.held.as_ref().filter(|_| !again);
        let is_later = held.and_then(|held| held.ends).is_none_or(|ends| token.expires_at > ends);
        if !is_later || left <= super::cache::skew(life) {
            return None;
        }
        let authorizer = source.authorizer(&token).ok()?;
        Some(Obtained { token, authorizer, began, age: life - left, id: Some(id) })
    }

    async fn token_entry(&self, asked: &Asked, obtained: &Obtained) -> Option<Entry> {
        let id = obtained.id.as_ref()?;
        let (began, token) = (obtained.began, &obtained.token);
        let life = token.expires_at.duration_since(began.0).ok()?.min(LONGEST_LIFE);
        let spent = self.clock.instant().saturating_duration_since(began.1);
        let left = life.checked_sub(spent).filter(|left| *left > super::cache::skew(life))?;
        let milliseconds = u64::try_from(life.as_millis()).ok()?;
        let mut plain = Zeroizing::new(Vec::with_capacity(8 + token.secret.expose().len()));
        plain.extend(milliseconds.to_be_bytes());
        plain.extend(token.secret.expose());
        let plain = Secret::new(std::mem::take(&mut *plain));
        let aad = aad("token", asked, id);
        let sealed = self.sealer(self.sealer.seal(&asked.account, &aad, &plain)).await?;
        Some(Entry::Token([id.as_bytes(), &sealed].concat(), left))
    }

    /// What others are told of a failure: what the provider said of the credential holds for all; what may be in the way
    /// of this host alone is told for a moment, and what certainly is not at all.
    async fn failure_entry(&self, asked: &Asked, failure: &Failure, (count, pause): (u32, Duration)) -> Option<Entry> {
        let life = match failure.kind {
            FailureKind::Rejected | FailureKind::Refused => pause,
            FailureKind::Unavailable if failure.retry_after.is_some() => pause,
            FailureKind::Unavailable => pause.min(HEARSAY),
            FailureKind::Reauthorize | FailureKind::Forbidden | FailureKind::Unrecorded => return None,
        };
        let told = Told { kind: failure.kind, detail: failure.detail.clone(), count };
        let plain = Secret::new(serde_json::to_vec(&told).ok()?);
        let aad = aad("failure", asked, "");
        let sealed = self.sealer(self.sealer.seal(&asked.account, &aad, &plain)).await?;
        Some(Entry::Failure(sealed, life))
    }

    async fn read_failure(&self, asked: &Asked, sealed: &[u8]) -> Option<Told> {
        let aad = aad("failure", asked, "");
        let plain = self.sealer(self.sealer.open(&asked.account, &aad, sealed)).await?;
        serde_json::from_slice(plain.expose()).ok()
    }

    /// What the sealer gives, in time.
    async fn sealer<T>(&self, work: impl Future<Output = Result<T, SealerError>>) -> Option<T> {
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.clock.sleep_until(self.clock.instant() + SEALER) => {
                Err(SealerError::Unavailable("its key does not come in time".into()))
            }
        };
        outcome
            .map_err(|error| tracing::warn!(target: "countersign::token", %error, "a shared token cannot be used"))
            .ok()
    }

    /// Does a step, unless the place is left alone.
    async fn careful<T>(&self, step: impl Future<Output = Result<T, String>>) -> Option<T> {
        if !self.may_ask() {
            return None;
        }
        let outcome = step.await;
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(value) => {
                if circuit.failures > 0 {
                    tracing::info!(target: "countersign::token", place = ?self.board, "tokens are shared again");
                }
                *circuit = Circuit::default();
                Some(value)
            }
            Err(reason) => {
                if circuit.failures == 0 {
                    tracing::warn!(
                        target: "countersign::token",
                        place = ?self.board,
                        reason,
                        "tokens cannot be shared now; each process obtains its own"
                    );
                }
                circuit.failures = circuit.failures.saturating_add(1);
                circuit.closed_until = Some(self.clock.instant() + self.away(circuit.failures));
                None
            }
        }
    }

    /// After a failure, one tries while the others still leave it alone.
    fn may_ask(&self) -> bool {
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.instant();
        if circuit.closed_until.is_some_and(|until| now < until) {
            return false;
        }
        if circuit.failures > 0 {
            circuit.closed_until = Some(now + self.away(circuit.failures));
        }
        true
    }

    fn away(&self, failures: u32) -> Duration {
        let grown = AWAY.0.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(AWAY.1);
        grown.mul_f64(1.0 + self.jitter() / 4.0)
    }

    /// From 0 to 1.
    fn jitter(&self) -> f64 {
        let mut byte = [0];
        if self.random.fill(&mut byte) { f64::from(byte[0]) / 255.0 } else { 0.0 }
    }

    /// Something that nobody else has.
    fn id(&self) -> Option<String> {
        let mut bytes = [0; ID_LEN / 2];
        self.random.fill(&mut bytes).then(|| hex(&bytes))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({:?})", self.board)
    }
}

/// What looking came to.
enum Looked {
    Found(Box<Obtained>),
    Failed(Failed),
    Leased,
    Alone,
}

/// The id that a token begins with, as it lies there.
fn id_of(sealed: &[u8]) -> Option<TokenId> {
    let id = std::str::from_utf8(sealed.get(..ID_LEN)?).ok()?;
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| id.into())
}

/// What something is bound to: what it is, and the key of the token.
fn aad(what: &str, asked: &Asked, id: &str) -> Vec<u8> {
    [b"countersign shared ", what.as_bytes(), b" ", asked.key.bytes(), id.as_bytes()].concat()
}
