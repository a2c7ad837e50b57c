//! The folder where refresh tokens rest that a provider replaced: each in a file of its own, encrypted (AES-256-GCM).

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use super::journal::{Journal, JournalError, Journals, Record};
use super::rotation::Unsaved;
use crate::base::failpoint::reached;
use crate::base::{BoxFuture, Random, Secret};

/// Bytes of the key that encrypts the files.
pub(super) const KEY_LEN: usize = 32;

/// Where refresh tokens rest: in a folder, which is made with its key when the first token is written, or elsewhere. Then the
/// folder only gives what was left in it before.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    given: Option<Secret>,
    pub(super) unsaved: Arc<Unsaved>,
    pub(super) elsewhere: Option<Arc<dyn Journals>>,
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
        Ok(Self { path, given, unsaved, elsewhere: None })
    }

    /// Refresh tokens rest elsewhere. What is in the folder is taken over when it is first needed.
    #[must_use]
    pub fn with_journals(self, elsewhere: Option<Arc<dyn Journals>>) -> Self {
        Self { elsewhere, ..self }
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

/// The journals in the folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) directory: Arc<StateDirectory>,
    pub(super) random: Arc<dyn Random>,
}

impl Files {
    /// Whether there is one of this name. Makes nothing.
    pub(super) fn has(&self, name: &str) -> bool {
        let path = self.directory.path.join(name);
        path.exists() || path.with_extension("new").exists()
    }

    /// The file, locked; nothing while somebody else has it.
    fn open(&self, name: &str) -> Result<Option<Locked>, JournalError> {
        let directory = &self.directory.path;
        let path = directory.join(name);
        let fail =
            |path: &Path, error: std::io::Error| JournalError::Unavailable(format!("{}: {error}", path.display()));
        make_folder(directory).map_err(|error| fail(directory, error))?;
        let lock =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path.with_extension("lock"));
        let lock = lock.map_err(|error| fail(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(fail(&path, error)),
        }
        let key = self.directory.key(&*self.random).map_err(JournalError::Unavailable)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose());
        let key = key.map_err(|_| JournalError::Unavailable("not a key".into()))?;
        Ok(Some(Locked { path, name: name.to_owned(), folder: directory.clone(), key, _lock: lock }))
    }
}

impl Journals for Files {
    fn lock<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Box<dyn Journal>>, JournalError>> {
        let (files, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            let locked = blocking(move || files.open(&name)).await.map_err(JournalError::Unavailable)??;
            Ok(locked.map(|locked| Box::new(FileJournal(Arc::new(locked))) as Box<dyn Journal>))
        })
    }
}

/// A file that this process alone has.
#[derive(Debug)]
struct FileJournal(Arc<Locked>);

impl Journal for FileJournal {
    fn read(&mut self) -> BoxFuture<'_, Result<Option<Record>, JournalError>> {
        let locked = Arc::clone(&self.0);
        Box::pin(async move { blocking(move || locked.read()).await.map_err(JournalError::Unavailable)? })
    }

    fn write<'a>(&'a mut self, record: &'a Record) -> BoxFuture<'a, Result<(), String>> {
        let (locked, record) = (Arc::clone(&self.0), record.clone());
        Box::pin(async move { blocking(move || locked.write(&record)).await? })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A token's file, held by this process alone.
struct Locked {
    path: PathBuf,
    name: String,
    folder: PathBuf,
    key: RandomizedNonceKey,
    _lock: File,
}

impl Locked {
    /// What the file says.
    fn read(&self) -> Result<Option<Record>, JournalError> {
        // A successor that was written whole and not yet moved into place is newer than what is there.
        let new = self.path.with_extension("new");
        // One that only announces an attempt was not followed by it.
        if let Some(record) = self.record(&new)?.filter(|record| !record.pending) {
            fs::rename(&new, &self.path)
                .map_err(|error| JournalError::Unavailable(format!("{}: {error}", new.display())))?;
            return Ok(Some(record));
        }
        if let Some(record) = self.record(&self.path)? {
            return Ok(Some(record));
        }
        if self.path.exists() {
            return Err(JournalError::Wrong(format!(
                "{} cannot be read with this key: restore the key, or authorize again and set the new token",
                self.path.display()
            )));
        }
        Ok(None)
    }

    /// The record of a file; `None` when there is no file, or one that was not written to its end or with this key.
    fn record(&self, path: &Path) -> Result<Option<Record>, JournalError> {
        let mut sealed = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut sealed)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::Unavailable(format!("{}: {error}", path.display()))),
        }
        let Some((nonce, sealed)) = sealed.split_at_mut_checked(NONCE_LEN) else { return Ok(None) };
        let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else { return Ok(None) };
        let aad = Aad::from(self.name.as_bytes());
        let Ok(plain) = self.key.open_in_place(nonce, aad, sealed) else { return Ok(None) };
        let record = serde_json::from_slice(plain).ok();
        plain.zeroize();
        Ok(record)
    }

    /// Durably: encrypted into a new file, synchronized, moved over the old one, the folder synchronized.
    fn write(&self, record: &Record) -> Result<(), String> {
        let new = self.path.with_extension("new");
        let fail = |error: std::io::Error| format!("{}: {error}", new.display());
        let plain = record.to_secret()?;
        let mut sealed = plain.expose().to_vec();
        let aad = Aad::from(self.name.as_bytes());
        let nonce =
            self.key.seal_in_place_append_tag(aad, &mut sealed).map_err(|_| "it cannot be encrypted".to_owned())?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        // Before anything is in place: without it nothing could be made durable.
        let folder = File::open(&self.folder).map_err(fail)?;
        let mut out =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).map_err(fail)?;
        out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(fail)?;
        reached(if record.pending { "announcement-written" } else { "successor-written" });
        fs::rename(&new, &self.path).map_err(fail)?;
        folder.sync_all().map_err(fail)
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Locked({})", self.path.display())
    }
}

/// Off the async threads: a disk may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "the work was cut off".to_owned())
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
