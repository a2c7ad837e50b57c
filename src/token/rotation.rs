//! Refresh tokens that the provider replaces at every use: never lost, never spent twice.
//!
//! Each lives in a file of its own under the state directory, encrypted (AES-256-GCM). Before a token is sent the file
//! says so; before its successor's access token is used the successor is in the file. A process that dies between leaves a
//! file that says how far it came. The file is locked from reading to writing, so that two processes take turns.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use zeroize::Zeroizing;

use super::exchange::{Answer, ExchangeError};
use super::failure::{Failure, FailureKind};
use super::key::Key;
use crate::base::failpoint::reached;
use crate::base::{Random, Secret};

/// How long one waits for another process, or another credential with the same token: longer than an exchange may take.
const PATIENCE: Duration = Duration::from_secs(35);
const POLL: Duration = Duration::from_millis(20);

/// Bytes of the key that encrypts the files.
const KEY_LEN: usize = 32;

/// What happens after an attempt of which nobody knows whether it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshReuse {
    /// Nothing: the credential must be authorized again. Many providers revoke everything when a token comes twice.
    #[default]
    Refuse,
    /// The same token is sent again, for providers that take it for a while (a grace period).
    Retry,
}

/// Where refresh tokens rest. Makes the folder and the key when the first token is written.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    given: Option<Secret>,
    unsaved: Arc<Unsaved>,
}

/// Records that could not be written, by their file, with who knows how. They outlive the configuration they came from.
#[derive(Default)]
pub struct Unsaved {
    records: Mutex<HashMap<PathBuf, Left>>,
    /// Attempts under way.
    attempts: TaskTracker,
    /// The process ends: no attempt is begun any more.
    closed: AtomicBool,
}

/// A record that could not be written.
struct Left {
    rotation: Arc<Rotation>,
    record: Record,
    /// The token that was on disk: if another is there now, somebody else went on from it, and this record is old.
    before: String,
}

impl Unsaved {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Left>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins no attempt any more, and waits for those under way.
    pub(super) async fn settled(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.attempts.close();
        self.attempts.wait().await;
    }

    /// Tries once more to write what there is.
    pub(super) async fn save(unsaved: &Arc<Self>) {
        let left = std::mem::take(&mut *unsaved.lock());
        if left.is_empty() {
            return;
        }
        let writing = tokio::task::spawn_blocking(move || {
            for (path, Left { rotation, record, before }) in left {
                let write = || {
                    let file = rotation.open()?;
                    let newest = rotation.on_disk(&file)?.token == before;
                    if newest { rotation.write(&file, &record).map_err(unwritable) } else { Ok(()) }
                };
                if let Err(failure) = write() {
                    tracing::error!(target: "countersign::token", file = %path.display(), %failure, "a refresh token is lost");
                }
            }
        });
        // It can only fail by a panic, which is said by itself.
        let _ = writing.await;
    }
}

impl fmt::Debug for Unsaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsaved")
    }
}

impl StateDirectory {
    /// A folder, and the key when the operator brings one of their own (32 bytes, in base64).
    ///
    /// # Errors
    /// When the key has another length.
    pub fn new(path: PathBuf, key: Option<&Secret>, unsaved: Arc<Unsaved>) -> Result<Self, String> {
        let given = match key {
            None => None,
            Some(text) => {
                let bytes = Zeroizing::new(STANDARD.decode(text.expose().trim_ascii()).unwrap_or_default());
                if bytes.len() != KEY_LEN {
                    return Err("32 bytes in base64 are expected; `openssl rand -base64 32` makes them".into());
                }
                Some(Secret::new(bytes.to_vec()))
            }
        };
        Ok(Self { path, given, unsaved })
    }

    /// What tells one key of the operator's own from another; nothing of the key can be learnt from it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        let given = self.given.as_ref().map(Secret::expose).unwrap_or_default();
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, given).as_ref());
        digest
    }

    /// Where the key rests that is not the operator's own, and whether it is there yet.
    pub fn own_key(&self) -> Option<(PathBuf, bool)> {
        let path = self.path.join("key");
        let whole = std::path::absolute(&path).unwrap_or(path);
        let there = whole.exists();
        self.given.is_none().then_some((whole, there))
    }

    /// A name that is the same for as long as the directory's key is, and that nobody else can choose: 40 hexadecimal
    /// digits.
    ///
    /// # Errors
    /// Why there is no key.
    pub fn derive(&self, random: &dyn Random, purpose: &str) -> Result<String, String> {
        if self.given.is_none() {
            make_folder(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key(random)?.expose());
        let tag = hmac::sign(&key, purpose.as_bytes());
        Ok(crate::base::text::hex(&tag.as_ref()[..20]))
    }

    fn key(&self, random: &dyn Random) -> Result<Secret, String> {
        if let Some(key) = &self.given {
            return Ok(key.clone());
        }
        let path = self.path.join("key");
        let fail = |error: std::io::Error| format!("{}: {error}", path.display());
        if !path.exists() {
            let mut bytes = Zeroizing::new(vec![0; KEY_LEN]);
            if !random.fill(&mut bytes) {
                return Err("no randomness for a key".into());
            }
            // Linked into place, so that of two processes that start together one wins and both read its key.
            let mut new = tempfile::NamedTempFile::new_in(&self.path).map_err(fail)?;
            new.write_all(&bytes).and_then(|()| new.as_file().sync_all()).map_err(fail)?;
            match new.persist_noclobber(&path) {
                Ok(_) => {
                    tracing::info!(target: "countersign::token", file = %path.display(), "made a key for refresh tokens")
                }
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fail(error.error)),
            }
            sync_folder(&self.path).map_err(fail)?;
        }
        let bytes = Zeroizing::new(fs::read(&path).map_err(fail)?);
        if bytes.len() != KEY_LEN {
            return Err(format!("{} does not hold a key of 32 bytes", path.display()));
        }
        Ok(Secret::new(bytes.to_vec()))
    }
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What is known of one refresh token.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    token: String,
    /// Whether this provider replaces tokens; unknown before the first answer.
    rotates: Option<bool>,
    /// It was sent, and no answer is on record.
    pending: bool,
}

impl Drop for Record {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.token);
    }
}

/// One credential's refresh token, from the one that was configured to the latest.
pub struct Rotation {
    directory: Arc<StateDirectory>,
    random: Arc<dyn Random>,
    name: String,
    configured: Secret,
    reuse: RefreshReuse,
}

impl Rotation {
    /// The rotation of a configured token. `key` stands for that token, its account and its endpoint: another configured
    /// token begins anew, which is how a person authorizes again.
    pub fn new(
        directory: Arc<StateDirectory>,
        random: Arc<dyn Random>,
        key: &Key,
        configured: Secret,
        reuse: RefreshReuse,
    ) -> Arc<Self> {
        Arc::new(Self { directory, random, name: key.hex(), configured, reuse })
    }

    /// Takes the latest token for one exchange, having noted that it is about to be spent.
    ///
    /// # Errors
    /// `reauthorization_required` when the last attempt's outcome is not known; when the state directory cannot be used.
    pub async fn begin(self: &Arc<Self>) -> Result<Attempt, Failure> {
        let rotation = Arc::clone(self);
        blocking(move || rotation.begin_now()).await
    }

    fn begin_now(self: Arc<Self>) -> Result<Attempt, Failure> {
        // Counted from before anything is announced: whoever ends the process waits for it, or it is not begun.
        let under_way = self.directory.unsaved.attempts.token();
        if self.directory.unsaved.closed.load(Ordering::SeqCst) {
            return Err(ending());
        }
        let file = self.open()?;
        let mut record = self.latest(&file)?;
        if record.pending && self.reuse == RefreshReuse::Refuse {
            return Err(Failure::new(
                FailureKind::Reauthorize,
                "nobody knows whether the last use of its refresh token was granted, and using it again could revoke \
                 it: authorize again and set the new token, or set `refresh_reuse: retry` if the provider allows reuse",
            ));
        }
        // A provider that is known to keep its tokens costs no write.
        let announced = record.rotates != Some(false);
        if announced {
            let before = std::mem::replace(&mut record.pending, true);
            if let Err(why) = self.write(&file, &record) {
                // It may be in place all the same, and nothing was sent: the next attempt takes the announcement back.
                record.pending = before;
                let left = Left { before: record.token.clone(), rotation: Arc::clone(&self), record };
                self.directory.unsaved.lock().insert(file.path.clone(), left);
                return Err(unwritable(why));
            }
            reached("refresh-announced");
        }
        let token = Secret::new(record.token.as_bytes());
        Ok(Attempt { rotation: self, file, record, announced, token, _under_way: under_way })
    }

    /// The file, locked, with what a killed process left beside it put in place.
    fn open(&self) -> Result<Locked, Failure> {
        let directory = &self.directory.path;
        make_folder(directory).map_err(|error| unwritable(format!("{}: {error}", directory.display())))?;
        let path = directory.join(&self.name);
        let lock =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path.with_extension("lock"));
        let lock = lock.map_err(|error| unwritable(format!("{}: {error}", path.display())))?;
        let mut waited = Duration::ZERO;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::WouldBlock if self.directory.unsaved.closed.load(Ordering::SeqCst) => {
                    return Err(ending());
                }
                TryLockError::WouldBlock if waited < PATIENCE => {
                    std::thread::sleep(POLL);
                    waited += POLL;
                }
                TryLockError::WouldBlock => {
                    return Err(Failure::new(FailureKind::Unavailable, "its refresh token is in use elsewhere"));
                }
                TryLockError::Error(error) => return Err(unwritable(format!("{}: {error}", path.display()))),
            }
        }
        let key = self.directory.key(&*self.random).map_err(unwritable)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map_err(|_| unwritable("not a key".into()))?;
        Ok(Locked { path, key, _lock: lock })
    }

    fn latest(self: &Arc<Self>, file: &Locked) -> Result<Record, Failure> {
        let disk = self.on_disk(file)?;
        let left = self.directory.unsaved.lock().remove(&file.path);
        match left.filter(|left| left.before == disk.token) {
            None => Ok(disk),
            Some(Left { record, before, .. }) => {
                self.keep(file, record.clone(), &before)?;
                Ok(record)
            }
        }
    }

    /// What the file says.
    fn on_disk(&self, file: &Locked) -> Result<Record, Failure> {
        // A successor that was written whole and not yet moved into place is newer than what is there.
        let new = file.path.with_extension("new");
        // One that only announces an attempt was not followed by it.
        if let Some(record) = file.read(&new, &self.name)?.filter(|record| !record.pending) {
            fs::rename(&new, &file.path).map_err(|error| unwritable(format!("{}: {error}", new.display())))?;
            return Ok(record);
        }
        if let Some(record) = file.read(&file.path, &self.name)? {
            return Ok(record);
        }
        if file.path.exists() {
            return Err(Failure::new(
                FailureKind::Reauthorize,
                format!(
                    "{} cannot be read with this key: restore the key, or authorize again and set the new token",
                    file.path.display()
                ),
            ));
        }
        let token = self.configured.expose_str().unwrap_or_default().to_owned();
        Ok(Record { token, rotates: None, pending: false })
    }

    /// Writes, or remembers what could not be written for the next attempt. `before` is the token that it takes the place of.
    fn keep(self: &Arc<Self>, file: &Locked, record: Record, before: &str) -> Result<(), Failure> {
        self.write(file, &record).map_err(|why| {
            let left = Left { rotation: Arc::clone(self), record, before: before.to_owned() };
            self.directory.unsaved.lock().insert(file.path.clone(), left);
            unwritable(why)
        })
    }

    /// Durably: encrypted into a new file, synchronized, moved over the old one, the folder synchronized.
    fn write(&self, file: &Locked, record: &Record) -> Result<(), String> {
        let new = file.path.with_extension("new");
        let fail = |error: std::io::Error| format!("{}: {error}", new.display());
        let plain = Zeroizing::new(serde_json::to_vec(record).map_err(|error| error.to_string())?);
        let mut sealed = plain.to_vec();
        let aad = Aad::from(self.name.as_bytes());
        let nonce =
            file.key.seal_in_place_append_tag(aad, &mut sealed).map_err(|_| "it cannot be encrypted".to_owned())?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        // Before anything is in place: without it nothing could be made durable.
        let folder = File::open(&self.directory.path).map_err(fail)?;
        let mut out =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).map_err(fail)?;
        out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(fail)?;
        reached(if record.pending { "announcement-written" } else { "successor-written" });
        fs::rename(&new, &file.path).map_err(fail)?;
        folder.sync_all().map_err(fail)
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rotation")
    }
}

/// One use of a refresh token. Dropped without an end, it leaves the note that it was begun.
pub struct Attempt {
    rotation: Arc<Rotation>,
    file: Locked,
    record: Record,
    announced: bool,
    token: Secret,
    /// Whoever ends the process waits for this.
    _under_way: TaskTrackerToken,
}

impl Attempt {
    /// The token to send.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Keeps what the exchange brought, before anybody uses it.
    ///
    /// # Errors
    /// The exchange's own; or the successor cannot be written, and is then kept in memory until it can be.
    pub async fn end(self, result: Result<Answer, ExchangeError>) -> Result<Answer, Failure> {
        blocking(move || self.end_now(result)).await
    }

    fn end_now(self, result: Result<Answer, ExchangeError>) -> Result<Answer, Failure> {
        let Self { rotation, file, mut record, announced, .. } = self;
        reached("refresh-answered");
        match &result {
            Ok(answer) => {
                let successor = answer.refresh_token.as_ref().and_then(Secret::expose_str);
                let successor = successor.filter(|token| *token != record.token);
                if successor.is_some() || announced {
                    let rotates = Some(successor.is_some() || record.rotates == Some(true));
                    let token = successor.unwrap_or(&record.token).to_owned();
                    rotation.keep(&file, Record { token, rotates, pending: false }, &record.token)?;
                }
            }
            Err(error) if error.lost || !announced => {}
            Err(_) => {
                record.pending = false;
                let before = record.token.clone();
                rotation.keep(&file, record, &before)?;
            }
        }
        reached("refresh-stored");
        result.map_err(|error| error.failure)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt")
    }
}

/// A token's file, held by this process alone.
struct Locked {
    path: PathBuf,
    key: RandomizedNonceKey,
    _lock: File,
}

impl Locked {
    /// The record of a file; `None` when there is no file, or one that was not written to its end or with this key.
    fn read(&self, path: &Path, name: &str) -> Result<Option<Record>, Failure> {
        let mut sealed = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut sealed)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unwritable(format!("{}: {error}", path.display()))),
        }
        let Some((nonce, sealed)) = sealed.split_at_mut_checked(NONCE_LEN) else { return Ok(None) };
        let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else { return Ok(None) };
        let Ok(plain) = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), sealed) else { return Ok(None) };
        let record = serde_json::from_slice(plain).ok();
        zeroize::Zeroize::zeroize(plain);
        Ok(record)
    }
}

/// Off the async threads: a disk may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let cut_off = |_| unwritable("the work was cut off".into());
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(cut_off(error)))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn ending() -> Failure {
    Failure::new(FailureKind::Unavailable, "Countersign is ending")
}

fn unwritable(why: String) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("its refresh token cannot be kept safe, so it is not used: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::deps::SystemRandom;
    use crate::token::KeyBuilder;

    fn rotation(folder: &Path, configured: &str, reuse: RefreshReuse) -> Arc<Rotation> {
        let directory = Arc::new(StateDirectory::new(folder.join("tokens"), None, Arc::default()).unwrap());
        let key = KeyBuilder::new("default", "").with("token", configured).finish();
        Rotation::new(directory, Arc::new(SystemRandom), &key, Secret::new(configured), reuse)
    }

    fn token(attempt: &Attempt) -> String {
        attempt.token().expose_str().unwrap().to_owned()
    }

    fn granted(refresh_token: Option<&str>) -> Result<Answer, ExchangeError> {
        let refresh_token = refresh_token.map(Secret::new);
        Ok(Answer { access_token: Secret::new("access"), lifetime: None, refresh_token })
    }

    fn failed(lost: bool) -> Result<Answer, ExchangeError> {
        Err(ExchangeError { failure: Failure::new(FailureKind::Unavailable, "no answer"), lost })
    }

    #[test]
    fn a_successor_takes_the_place_of_its_predecessor_in_this_process_and_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        for (sent, next) in [("r0", "r1"), ("r1", "r2")] {
            let attempt = Arc::clone(&first).begin_now().unwrap();
            assert_eq!(token(&attempt), sent);
            attempt.end_now(granted(Some(next))).unwrap();
        }
        let next = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        assert_eq!(token(&Arc::clone(&next).begin_now().unwrap()), "r2");
        assert_eq!(token(&rotation(folder.path(), "other", RefreshReuse::Refuse).begin_now().unwrap()), "other");
    }

    #[test]
    fn a_provider_that_keeps_its_tokens_is_remembered_and_costs_no_more_writes() {
        let folder = tempfile::tempdir().unwrap();
        let kept = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&kept).begin_now().unwrap().end_now(granted(None)).unwrap();
        let file = folder.path().join("tokens").join(&kept.name);
        let written = fs::read(&file).unwrap();
        // The same token in the answer is no rotation either.
        Arc::clone(&kept).begin_now().unwrap().end_now(granted(Some("r0"))).unwrap();
        drop(Arc::clone(&kept).begin_now().unwrap());
        let lost = Arc::clone(&kept).begin_now().unwrap().end_now(failed(true)).unwrap_err();
        assert_eq!(lost.kind, FailureKind::Unavailable);
        assert_eq!(token(&Arc::clone(&kept).begin_now().unwrap()), "r0", "an unknown outcome does not matter here");
        assert!(fs::read(&file).unwrap() == written);
        // It may begin to replace them one day.
        Arc::clone(&kept).begin_now().unwrap().end_now(granted(Some("r1"))).unwrap();
        assert_eq!(token(&Arc::clone(&kept).begin_now().unwrap()), "r1");
    }

    #[test]
    fn an_attempt_without_an_outcome_is_not_repeated_unless_the_provider_allows_it() {
        for lost in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let refused = rotation(folder.path(), "r0", RefreshReuse::Refuse);
            let attempt = Arc::clone(&refused).begin_now().unwrap();
            match lost {
                true => drop(attempt.end_now(failed(true))),
                // As a process that is killed leaves it.
                false => drop(attempt),
            }
            assert_eq!(Arc::clone(&refused).begin_now().unwrap_err().kind, FailureKind::Reauthorize);
            assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Retry).begin_now().unwrap()), "r0");
        }
        let folder = tempfile::tempdir().unwrap();
        let answered = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&answered).begin_now().unwrap().end_now(failed(false)).unwrap_err();
        assert_eq!(token(&Arc::clone(&answered).begin_now().unwrap()), "r0", "a refusal that came back spends nothing");
    }

    #[test]
    fn a_successor_that_cannot_be_written_is_not_used_and_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let attempt = Arc::clone(&full).begin_now().unwrap();
        // A folder where the new file would be: not even root can write it.
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        let failure = attempt.end_now(granted(Some("r1"))).unwrap_err();
        assert!(failure.detail.contains("cannot be kept safe"), "{failure}");
        assert!(Arc::clone(&full).begin_now().is_err(), "nothing is tried before it is written");
        // A reload makes another rotation of the same token; what was not written outlives that.
        let key = KeyBuilder::new("default", "").with("token", "r0").finish();
        let directory = StateDirectory::new(folder.path().join("tokens"), None, Arc::clone(&full.directory.unsaved));
        let next = Rotation::new(
            Arc::new(directory.unwrap()),
            Arc::new(SystemRandom),
            &key,
            Secret::new("r0"),
            RefreshReuse::Refuse,
        );
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(token(&next.begin_now().unwrap()), "r1");
    }

    #[tokio::test]
    async fn what_could_not_be_written_never_takes_the_place_of_what_another_process_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir_all(&obstacle).unwrap();
        assert!(Arc::clone(&full).begin_now().is_err(), "the announcement fails");
        fs::remove_dir(&obstacle).unwrap();
        let other = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&other).begin_now().unwrap().end_now(granted(Some("r1"))).unwrap();
        assert_eq!(token(&Arc::clone(&full).begin_now().unwrap()), "r1");
        Arc::clone(&full).begin_now().unwrap_err();
        Unsaved::save(&full.directory.unsaved).await;
    }

    #[tokio::test]
    async fn at_the_end_an_attempt_under_way_is_waited_for_and_none_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let last = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let attempt = last.begin().await.unwrap();
        let mut settled = std::pin::pin!(last.directory.unsaved.settled());
        assert!(futures_util::poll!(settled.as_mut()).is_pending());
        assert_eq!(last.begin().await.unwrap_err().detail, "Countersign is ending");
        attempt.end(granted(Some("r1"))).await.unwrap();
        settled.await;
        assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Refuse).begin_now().unwrap()), "r1");
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_tried_once_more_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let attempt = Arc::clone(&full).begin_now().unwrap();
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        attempt.end_now(granted(Some("r1"))).unwrap_err();
        fs::remove_dir(&obstacle).unwrap();
        Unsaved::save(&full.directory.unsaved).await;
        assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Refuse).begin_now().unwrap()), "r1");
    }

    #[test]
    fn an_announcement_that_failed_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        drop(Arc::clone(&full).begin_now().unwrap().end_now(failed(false)));
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        assert_eq!(Arc::clone(&full).begin_now().unwrap_err().kind, FailureKind::Unavailable);
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(token(&Arc::clone(&full).begin_now().unwrap()), "r0");
    }

    #[test]
    fn two_processes_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) =
            (rotation(folder.path(), "r0", RefreshReuse::Refuse), rotation(folder.path(), "r0", RefreshReuse::Refuse));
        let attempt = Arc::clone(&one).begin_now().unwrap();
        let waiting = std::thread::spawn(move || token(&other.begin_now().unwrap()));
        attempt.end_now(granted(Some("r1"))).unwrap();
        assert_eq!(waiting.join().unwrap(), "r1");
    }

    #[test]
    fn files_are_encrypted_private_and_useless_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let one = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&one).begin_now().unwrap().end_now(granted(Some("the-next-token"))).unwrap();
        let tokens = folder.path().join("tokens");
        for entry in fs::read_dir(&tokens).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
            assert!(!fs::read(&path).unwrap().windows(5).any(|bytes| bytes == b"token"), "{}", path.display());
        }
        // Moved to another token's place, or read with another key, it does not open; nothing is sent then.
        let other = rotation(folder.path(), "other", RefreshReuse::Refuse);
        fs::copy(tokens.join(&one.name), tokens.join(&other.name)).unwrap();
        assert_eq!(Arc::clone(&other).begin_now().unwrap_err().kind, FailureKind::Reauthorize);
        fs::write(tokens.join("key"), [7; KEY_LEN]).unwrap();
        assert_eq!(Arc::clone(&one).begin_now().unwrap_err().kind, FailureKind::Reauthorize);
        fs::write(tokens.join("key"), [7; 3]).unwrap();
        assert!(Arc::clone(&one).begin_now().unwrap_err().detail.contains("32 bytes"));
    }

    #[test]
    fn a_key_of_the_operators_own_has_32_bytes() {
        let key = |text: &str| StateDirectory::new("x".into(), Some(&Secret::new(text)), Arc::default());
        assert!(key(&STANDARD.encode([1; 32])).is_ok() && key(&(STANDARD.encode([1; 32]) + "\n")).is_ok());
        for wrong in ["", "hunter2", &STANDARD.encode([1; 31])] {
            assert!(!key(wrong).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let one = rotation(folder.path(), "canary", RefreshReuse::Refuse);
        let shown = format!("{one:?} {:?} {:?}", Arc::clone(&one).begin_now().unwrap(), one.directory);
        assert!(!shown.contains("canary"), "{shown}");
    }
}
