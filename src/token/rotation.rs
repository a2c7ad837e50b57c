//! Refresh tokens that the provider replaces at every use: never lost, never spent twice.
//!
//! Each has a journal, in a file or in a database. Before a token is sent the journal says so; before its successor's access
//! token is used the successor is in the journal. A process that dies between leaves a journal that says how far it came.
//! Nobody else has the journal from reading to writing, so that processes take turns.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::exchange::{Answer, ExchangeError};
use super::failure::{Failure, FailureKind};
use super::journal::{Journal, JournalError, Journals, Record};
use super::key::Key;
use super::state_directory::{Files, StateDirectory};
use crate::base::failpoint::reached;
use crate::base::{Random, Secret};

/// How long one waits for another process, or another credential with the same token: longer than an exchange may take.
const PATIENCE: Duration = Duration::from_secs(35);

/// The first wait, and the longest.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

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

/// Records that could not be written, by the name of their journal, with who knows how. They outlive the configuration they
/// came from.
#[derive(Default)]
pub struct Unsaved {
    records: Mutex<HashMap<String, Left>>,
    /// Attempts under way.
    attempts: TaskTracker,
    /// The process ends: no attempt is begun any more.
    closed: AtomicBool,
}

/// A record that could not be written.
struct Left {
    rotation: Arc<Rotation>,
    record: Record,
    /// The token that was in the journal: if another is there now, somebody else went on from it, and this record is old.
    before: String,
}

impl Unsaved {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Left>> {
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
        for (name, left) in left {
            if let Err(failure) = left.write().await {
                tracing::error!(target: "countersign::token", journal = name, %failure, "a refresh token is lost");
            }
        }
    }
}

impl Left {
    async fn write(self) -> Result<(), Failure> {
        let Self { rotation, record, before } = self;
        let mut journal = rotation.open().await?;
        let newest = record.follows(&before, &rotation.written(&mut *journal).await?);
        let outcome = if newest { journal.write(&record).await.map_err(unwritable) } else { Ok(()) };
        journal.release().await;
        outcome
    }
}

impl fmt::Debug for Unsaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsaved")
    }
}

/// One credential's refresh token, from the one that was configured to the latest.
pub struct Rotation {
    directory: Arc<StateDirectory>,
    journals: Arc<dyn Journals>,
    files: Files,
    account: String,
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
        account: &str,
        key: &Key,
        configured: Secret,
        reuse: RefreshReuse,
    ) -> Arc<Self> {
        let files = Files { directory: Arc::clone(&directory), random };
        let journals = directory.elsewhere.clone().unwrap_or_else(|| Arc::new(files.clone()));
        let (account, name) = (account.to_owned(), key.hex());
        Arc::new(Self { directory, journals, files, account, name, configured, reuse })
    }

    /// Takes the latest token for one exchange, having noted that it is about to be spent.
    ///
    /// # Errors
    /// `reauthorization_required` when the last attempt's outcome is not known; when the journal cannot be used.
    pub async fn begin(self: &Arc<Self>) -> Result<Attempt, Failure> {
        // Counted from before anything is announced: whoever ends the process waits for it, or it is not begun.
        let under_way = self.directory.unsaved.attempts.token();
        if self.directory.unsaved.closed.load(Ordering::SeqCst) {
            return Err(ending());
        }
        let mut journal = self.open().await?;
        match self.announce(&mut *journal).await {
            Ok((record, announced)) => {
                if announced {
                    reached("refresh-announced");
                }
                let token = Secret::new(record.token.as_bytes());
                let rotation = Arc::clone(self);
                Ok(Attempt { rotation, journal, record, announced, token, _under_way: under_way })
            }
            Err(failure) => {
                journal.release().await;
                Err(failure)
            }
        }
    }

    /// The latest token, and whether the journal says now that it is being spent.
    async fn announce(self: &Arc<Self>, journal: &mut dyn Journal) -> Result<(Record, bool), Failure> {
        let mut record = self.latest(journal).await?;
        if record.pending && self.reuse == RefreshReuse::Refuse {
            return Err(Failure::new(
                FailureKind::Reauthorize,
                "nobody knows whether the last use of its refresh token was granted, and using it again could revoke \
                 it: authorize again and set the new token, or set `refresh_reuse: retry` if the provider allows reuse",
            ));
        }
        // A provider that is known to keep its tokens costs no write.
        if record.rotates == Some(false) {
            return Ok((record, false));
        }
        let mut mark = [0; 16];
        if !self.files.random.fill(&mut mark) {
            return Err(Failure::new(FailureKind::Unavailable, "the system has no randomness to give"));
        }
        record.mark = Some(crate::base::text::hex(&mark));
        let before = std::mem::replace(&mut record.pending, true);
        if let Err(why) = journal.write(&record).await {
            // It may be in place all the same, and nothing was sent: the next attempt takes the announcement back.
            record.pending = before;
            let token = record.token.clone();
            self.remember(record, token);
            return Err(unwritable(why));
        }
        Ok((record, true))
    }

    /// The journal, once nobody else has it.
    async fn open(&self) -> Result<Box<dyn Journal>, Failure> {
        let (mut waited, mut wait) = (Duration::ZERO, POLL.0);
        loop {
            match self.journals.lock(&self.account, &self.name).await {
                Ok(Some(journal)) => return Ok(journal),
                Ok(None) if self.directory.unsaved.closed.load(Ordering::SeqCst) => return Err(ending()),
                Ok(None) if waited < PATIENCE => {
                    tokio::time::sleep(wait).await;
                    waited += wait;
                    wait = (wait * 3 / 2).min(POLL.1);
                }
                Ok(None) => {
                    return Err(Failure::new(FailureKind::Unavailable, "its refresh token is in use elsewhere"));
                }
                Err(error) => return Err(unusable(error)),
            }
        }
    }

    async fn latest(self: &Arc<Self>, journal: &mut dyn Journal) -> Result<Record, Failure> {
        let written = self.written(journal).await?;
        let left = self.directory.unsaved.lock().remove(&self.name);
        match left.filter(|left| left.record.follows(&left.before, &written)) {
            None => Ok(written),
            Some(Left { record, before, .. }) => {
                self.keep(journal, record.clone(), &before).await?;
                Ok(record)
            }
        }
    }

    /// What the journal says.
    async fn written(&self, journal: &mut dyn Journal) -> Result<Record, Failure> {
        if let Some(record) = journal.read().await.map_err(unusable)? {
            return Self::still_here(record);
        }
        if self.directory.elsewhere.is_some() && self.files.has(&self.name) {
            return self.take_over(journal).await;
        }
        Ok(Record::new(self.configured.expose_str().unwrap_or_default().to_owned()))
    }

    fn still_here(record: Record) -> Result<Record, Failure> {
        if record.moved {
            let why = "its refresh token was taken over by the encrypted store: configure that store again, or authorize \
                       again and set the new token";
            return Err(Failure::new(FailureKind::Reauthorize, why));
        }
        Ok(record)
    }

    /// What a file says goes on in this journal, as it is. The file then says so, lest it be gone on from again.
    async fn take_over(&self, journal: &mut dyn Journal) -> Result<Record, Failure> {
        let file = self.files.lock(&self.account, &self.name).await.map_err(unusable)?;
        let in_use = || Failure::new(FailureKind::Unavailable, "its refresh token is in use elsewhere");
        let mut file = file.ok_or_else(in_use)?;
        let Some(record) = file.read().await.map_err(unusable)? else {
            return Ok(Record::new(self.configured.expose_str().unwrap_or_default().to_owned()));
        };
        let record = Self::still_here(record)?;
        journal.write(&record).await.map_err(unwritable)?;
        let mut gone = Record::new(String::new());
        (gone.pending, gone.moved) = (true, true);
        file.write(&gone).await.map_err(unwritable)?;
        tracing::info!(target: "countersign::token", journal = self.name, "a refresh token moved from its file into the store");
        Ok(record)
    }

    /// Writes, or remembers what could not be written for the next attempt. `before` is the token that it takes the place of.
    async fn keep(self: &Arc<Self>, journal: &mut dyn Journal, record: Record, before: &str) -> Result<(), Failure> {
        let Err(why) = journal.write(&record).await else { return Ok(()) };
        self.remember(record, before.to_owned());
        Err(unwritable(why))
    }

    fn remember(self: &Arc<Self>, record: Record, before: String) {
        let left = Left { rotation: Arc::clone(self), record, before };
        self.directory.unsaved.lock().insert(self.name.clone(), left);
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
    journal: Box<dyn Journal>,
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
        let Self { rotation, mut journal, mut record, announced, _under_way, .. } = self;
        reached("refresh-answered");
        let kept = match &result {
            Ok(answer) => {
                let successor = answer.refresh_token.as_ref().and_then(Secret::expose_str);
                let successor = successor.filter(|token| *token != record.token);
                if successor.is_some() || announced {
                    let rotates = Some(successor.is_some() || record.rotates == Some(true));
                    let mut next = Record::new(successor.unwrap_or(&record.token).to_owned());
                    next.rotates = rotates;
                    next.mark.clone_from(&record.mark);
                    rotation.keep(&mut *journal, next, &record.token).await
                } else {
                    Ok(())
                }
            }
            Err(error) if error.lost || !announced => Ok(()),
            Err(_) => {
                record.pending = false;
                let before = record.token.clone();
                rotation.keep(&mut *journal, record, &before).await
            }
        };
        if kept.is_ok() {
            reached("refresh-stored");
        }
        journal.release().await;
        kept?;
        result.map_err(|error| error.failure)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt")
    }
}

fn ending() -> Failure {
    Failure::new(FailureKind::Unavailable, "Countersign is ending")
}

fn unusable(error: JournalError) -> Failure {
    match error {
        JournalError::Wrong(why) => Failure::new(FailureKind::Reauthorize, why),
        JournalError::Unavailable(why) => unwritable(why),
    }
}

fn unwritable(why: String) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("its refresh token cannot be kept safe, so it is not used: {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::base::deps::SystemRandom;
    use crate::token::KeyBuilder;
    use crate::token::state_directory::KEY_LEN;

    fn rotation(folder: &Path, configured: &str, reuse: RefreshReuse) -> Arc<Rotation> {
        let directory = Arc::new(StateDirectory::new(folder.join("tokens"), None, Arc::default()).unwrap());
        let key = KeyBuilder::new("default", "").with("token", configured).finish();
        Rotation::new(directory, Arc::new(SystemRandom), "default", &key, Secret::new(configured), reuse)
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

    #[tokio::test]
    async fn a_successor_takes_the_place_of_its_predecessor_in_this_process_and_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        for (sent, next) in [("r0", "r1"), ("r1", "r2")] {
            let attempt = Arc::clone(&first).begin().await.unwrap();
            assert_eq!(token(&attempt), sent);
            attempt.end(granted(Some(next))).await.unwrap();
        }
        let next = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        assert_eq!(token(&Arc::clone(&next).begin().await.unwrap()), "r2");
        assert_eq!(token(&rotation(folder.path(), "other", RefreshReuse::Refuse).begin().await.unwrap()), "other");
    }

    #[tokio::test]
    async fn a_provider_that_keeps_its_tokens_is_remembered_and_costs_no_more_writes() {
        let folder = tempfile::tempdir().unwrap();
        let kept = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&kept).begin().await.unwrap().end(granted(None)).await.unwrap();
        let file = folder.path().join("tokens").join(&kept.name);
        let written = fs::read(&file).unwrap();
        // The same token in the answer is no rotation either.
        Arc::clone(&kept).begin().await.unwrap().end(granted(Some("r0"))).await.unwrap();
        drop(Arc::clone(&kept).begin().await.unwrap());
        let lost = Arc::clone(&kept).begin().await.unwrap().end(failed(true)).await.unwrap_err();
        assert_eq!(lost.kind, FailureKind::Unavailable);
        assert_eq!(token(&Arc::clone(&kept).begin().await.unwrap()), "r0", "an unknown outcome does not matter here");
        assert!(fs::read(&file).unwrap() == written);
        // It may begin to replace them one day.
        Arc::clone(&kept).begin().await.unwrap().end(granted(Some("r1"))).await.unwrap();
        assert_eq!(token(&Arc::clone(&kept).begin().await.unwrap()), "r1");
    }

    #[tokio::test]
    async fn an_attempt_without_an_outcome_is_not_repeated_unless_the_provider_allows_it() {
        for lost in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let refused = rotation(folder.path(), "r0", RefreshReuse::Refuse);
            let attempt = Arc::clone(&refused).begin().await.unwrap();
            match lost {
                true => drop(attempt.end(failed(true)).await),
                // As a process that is killed leaves it.
                false => drop(attempt),
            }
            assert_eq!(Arc::clone(&refused).begin().await.unwrap_err().kind, FailureKind::Reauthorize);
            assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Retry).begin().await.unwrap()), "r0");
        }
        let folder = tempfile::tempdir().unwrap();
        let answered = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&answered).begin().await.unwrap().end(failed(false)).await.unwrap_err();
        assert_eq!(
            token(&Arc::clone(&answered).begin().await.unwrap()),
            "r0",
            "a refusal that came back spends nothing"
        );
    }

    #[tokio::test]
    async fn a_successor_that_cannot_be_written_is_not_used_and_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let attempt = Arc::clone(&full).begin().await.unwrap();
        // A folder where the new file would be: not even root can write it.
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        let failure = attempt.end(granted(Some("r1"))).await.unwrap_err();
        assert!(failure.detail.contains("cannot be kept safe"), "{failure}");
        assert!(Arc::clone(&full).begin().await.is_err(), "nothing is tried before it is written");
        // A reload makes another rotation of the same token; what was not written outlives that.
        let key = KeyBuilder::new("default", "").with("token", "r0").finish();
        let directory = StateDirectory::new(folder.path().join("tokens"), None, Arc::clone(&full.directory.unsaved));
        let next = Rotation::new(
            Arc::new(directory.unwrap()),
            Arc::new(SystemRandom),
            "default",
            &key,
            Secret::new("r0"),
            RefreshReuse::Refuse,
        );
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(token(&next.begin().await.unwrap()), "r1");
    }

    #[tokio::test]
    async fn what_could_not_be_written_never_takes_the_place_of_what_another_process_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir_all(&obstacle).unwrap();
        assert!(Arc::clone(&full).begin().await.is_err(), "the announcement fails");
        fs::remove_dir(&obstacle).unwrap();
        let other = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&other).begin().await.unwrap().end(granted(Some("r1"))).await.unwrap();
        assert_eq!(token(&Arc::clone(&full).begin().await.unwrap()), "r1");
        Arc::clone(&full).begin().await.unwrap_err();
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
        assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Refuse).begin().await.unwrap()), "r1");
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_tried_once_more_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        let attempt = Arc::clone(&full).begin().await.unwrap();
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        attempt.end(granted(Some("r1"))).await.unwrap_err();
        fs::remove_dir(&obstacle).unwrap();
        Unsaved::save(&full.directory.unsaved).await;
        assert_eq!(token(&rotation(folder.path(), "r0", RefreshReuse::Refuse).begin().await.unwrap()), "r1");
    }

    #[tokio::test]
    async fn an_announcement_that_failed_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let full = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        drop(Arc::clone(&full).begin().await.unwrap().end(failed(false)).await);
        let obstacle = folder.path().join("tokens").join(&full.name).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        assert_eq!(Arc::clone(&full).begin().await.unwrap_err().kind, FailureKind::Unavailable);
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(token(&Arc::clone(&full).begin().await.unwrap()), "r0");
    }

    #[tokio::test]
    async fn two_processes_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) =
            (rotation(folder.path(), "r0", RefreshReuse::Refuse), rotation(folder.path(), "r0", RefreshReuse::Refuse));
        let attempt = Arc::clone(&one).begin().await.unwrap();
        let waiting = tokio::spawn(async move { token(&other.begin().await.unwrap()) });
        attempt.end(granted(Some("r1"))).await.unwrap();
        assert_eq!(waiting.await.unwrap(), "r1");
    }

    #[tokio::test]
    async fn files_are_encrypted_private_and_useless_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let one = rotation(folder.path(), "r0", RefreshReuse::Refuse);
        Arc::clone(&one).begin().await.unwrap().end(granted(Some("the-next-token"))).await.unwrap();
        let tokens = folder.path().join("tokens");
        for entry in fs::read_dir(&tokens).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
            assert!(!fs::read(&path).unwrap().windows(5).any(|bytes| bytes == b"token"), "{}", path.display());
        }
        // Moved to another token's place, or read with another key, it does not open; nothing is sent then.
        let other = rotation(folder.path(), "other", RefreshReuse::Refuse);
        fs::copy(tokens.join(&one.name), tokens.join(&other.name)).unwrap();
        assert_eq!(Arc::clone(&other).begin().await.unwrap_err().kind, FailureKind::Reauthorize);
        fs::write(tokens.join("key"), [7; KEY_LEN]).unwrap();
        assert_eq!(Arc::clone(&one).begin().await.unwrap_err().kind, FailureKind::Reauthorize);
        fs::write(tokens.join("key"), [7; 3]).unwrap();
        assert!(Arc::clone(&one).begin().await.unwrap_err().detail.contains("32 bytes"));
    }

    #[test]
    fn a_key_of_the_operators_own_has_32_bytes() {
        let key = |text: &str| StateDirectory::new("x".into(), Some(&Secret::new(text)), Arc::default());
        assert!(key(&STANDARD.encode([1; 32])).is_ok() && key(&(STANDARD.encode([1; 32]) + "\n")).is_ok());
        for wrong in ["", "hunter2", &STANDARD.encode([1; 31])] {
            assert!(!key(wrong).unwrap_err().contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn debug_shows_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let one = rotation(folder.path(), "canary", RefreshReuse::Refuse);
        let shown = format!("{one:?} {:?} {:?}", Arc::clone(&one).begin().await.unwrap(), one.directory);
        assert!(!shown.contains("canary"), "{shown}");
    }
}
