//! Refresh tokens that the provider replaces at every use: never lost, never spent twice.
//!
//! Each lives in a file of its own under the state directory, encrypted (AES-256-GCM). Before a token is sent the file
//! says so; before its successor's access token is used the successor is in the file. A process that dies between leaves a
//! file that says how far it came. The file is locked from reading to writing, so that two processes take turns.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::exchange::{Answer, ExchangeError};
use super::failure::{Failure, FailureKind};
use super::key::Key;
use crate::base::failpoint::reached;
use crate::base::{Random, Secret};

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
}

impl StateDirectory {
    /// A folder, and the key when the operator brings one of their own (32 bytes, in base64).
    ///
    /// # Errors
    /// When the key has another length.
    pub fn new(path: PathBuf, key: Option<&Secret>) -> Result<Self, String> {
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
        Ok(Self { path, given })
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
    /// A successor that could not be written. It is written before anything else is tried.
    unsaved: Mutex<Option<Record>>,
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
    ) -> Self {
        Self { directory, random, name: key.hex(), configured, reuse, unsaved: Mutex::default() }
    }

    /// Takes the latest token for one exchange, having noted that it is about to be spent.
    ///
    /// # Errors
    /// `reauthorization_required` when the last attempt's outcome is not known; when the state directory cannot be used.
    pub fn begin(&self) -> Result<Attempt<'_>, Failure> {
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
            record.pending = true;
            self.write(&file, &record).map_err(unwritable)?;
            reached("refresh-announced");
        }
        let token = Secret::new(record.token.as_bytes());
        Ok(Attempt { rotation: self, file, record, announced, token })
    }

    /// The file, locked, with what a killed process left beside it put in place.
    fn open(&self) -> Result<Locked, Failure> {
        let directory = &self.directory.path;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| unwritable(format!("{}: {error}", directory.display())))?;
        let path = directory.join(&self.name);
        let lock =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path.with_extension("lock"));
        let lock = lock.map_err(|error| unwritable(format!("{}: {error}", path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    FailureKind::Unavailable,
                    "another Countersign process is using its refresh token right now",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(format!("{}: {error}", path.display()))),
        }
        let key = self.directory.key(&*self.random).map_err(unwritable)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map_err(|_| unwritable("not a key".into()))?;
        Ok(Locked { path, key, _lock: lock })
    }

    fn latest(&self, file: &Locked) -> Result<Record, Failure> {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(record) = unsaved {
            self.keep(file, record.clone())?;
            return Ok(record);
        }
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

    /// Writes, or remembers what could not be written for the next attempt.
    fn keep(&self, file: &Locked, record: Record) -> Result<(), Failure> {
        let written = self.write(file, &record);
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        *unsaved = written.is_err().then_some(record);
        written.map_err(unwritable)
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
        let mut out =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).map_err(fail)?;
        out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(fail)?;
        reached(if record.pending { "announcement-written" } else { "successor-written" });
        fs::rename(&new, &file.path).map_err(fail)?;
        sync_folder(&self.directory.path).map_err(fail)
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rotation")
    }
}

/// One use of a refresh token. Dropped without an end, it leaves the note that it was begun.
pub struct Attempt<'a> {
    rotation: &'a Rotation,
    file: Locked,
    record: Record,
    announced: bool,
    token: Secret,
}

impl Attempt<'_> {
    /// The token to send.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Keeps what the exchange brought, before anybody uses it.
    ///
    /// # Errors
    /// The exchange's own; or the successor cannot be written, and is then kept in memory until it can be.
    pub fn end(self, result: Result<Answer, ExchangeError>) -> Result<Answer, Failure> {
        let Self { rotation, file, mut record, announced, .. } = self;
        reached("refresh-answered");
        match &result {
            Ok(answer) => {
                let successor = answer.refresh_token.as_ref().and_then(Secret::expose_str);
                let successor = successor.filter(|token| *token != record.token);
                if successor.is_some() || announced {
                    let rotates = Some(successor.is_some() || record.rotates == Some(true));
                    let token = successor.unwrap_or(&record.token).to_owned();
                    rotation.keep(&file, Record { token, rotates, pending: false })?;
                }
            }
            Err(error) if error.lost || !announced => {}
            Err(_) => {
                record.pending = false;
                rotation.keep(&file, record)?;
            }
        }
        reached("refresh-stored");
        result.map_err(|error| error.failure)
    }
}

impl fmt::Debug for Attempt<'_> {
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

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn unwritable(why: String) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("its refresh token cannot be kept safe, so it is not used: {why}"))
}
