//! Key-encryption keys: held by us, or in Vault's transit engine, or in a file that the first start makes.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::envelope::{self, KEY_LEN};
use super::{Result, StoreError};
use crate::base::{BoxFuture, Random, Secret};

/// Encrypts data keys.
pub trait KeyEncryption: Send + Sync + fmt::Debug {
    /// What it is called: stands beside everything that it wrapped, and is no secret.
    fn id(&self) -> &str;

    /// Encrypts a data key for one place.
    fn wrap<'a>(&'a self, place: &'a [u8], key: &'a Secret) -> BoxFuture<'a, std::result::Result<Vec<u8>, KeyError>>;

    /// Decrypts what was wrapped for this place.
    fn unwrap<'a>(&'a self, place: &'a [u8], wrapped: &'a [u8])
    -> BoxFuture<'a, std::result::Result<Secret, KeyError>>;
}

/// Why a key-encryption key does not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It was wrapped with another key or for another place.
    #[error("it is not the key that this was encrypted with")]
    Wrong,
    /// The key cannot be reached now.
    #[error("{0}")]
    Unavailable(String),
}

/// A key that we hold.
#[derive(Debug)]
pub struct HeldKey {
    id: String,
    key: Secret,
}

impl HeldKey {
    /// Reads 32 bytes in base64, as `openssl rand -base64 32` prints them.
    ///
    /// # Errors
    /// What to change.
    pub fn new(text: &Secret) -> Result<Self> {
        let wrong = || {
            StoreError::Invalid(format!(
                "the key of the store is {KEY_LEN} bytes in base64: openssl rand -base64 {KEY_LEN} makes one"
            ))
        };
        let text = text.expose_str().ok_or_else(wrong)?.trim();
        let key = Zeroizing::new(STANDARD.decode(text).map_err(|_| wrong())?);
        if key.len() != KEY_LEN {
            return Err(wrong());
        }
        Ok(Self::of(&key))
    }

    fn of(key: &[u8]) -> Self {
        let mut named = Zeroizing::new(b"countersign store: the name of a key\0".to_vec());
        named.extend_from_slice(key);
        let name = digest(&SHA256, &named);
        let id: String = name.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { id: format!("held:{id}"), key: Secret::new(key) }
    }
}

impl KeyEncryption for HeldKey {
    fn id(&self) -> &str {
        &self.id
    }

    fn wrap<'a>(&'a self, place: &'a [u8], key: &'a Secret) -> BoxFuture<'a, std::result::Result<Vec<u8>, KeyError>> {
        let wrapped = envelope::seal(&self.key, place, key.expose());
        Box::pin(async { wrapped.ok_or_else(|| KeyError::Unavailable("there is no randomness".into())) })
    }

    fn unwrap<'a>(
        &'a self,
        place: &'a [u8],
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, std::result::Result<Secret, KeyError>> {
        let key = envelope::open(&self.key, place, wrapped);
        Box::pin(async { key.ok_or(KeyError::Wrong) })
    }
}

/// A key of a transit engine, which encrypts and decrypts and never shows the key.
pub trait Transit: Send + Sync + fmt::Debug {
    /// Encrypts; the answer is the engine's own text (`vault:v1:…`).
    fn encrypt<'a>(&'a self, plain: &'a Secret) -> BoxFuture<'a, std::result::Result<String, KeyError>>;

    /// Decrypts the engine's own text.
    fn decrypt<'a>(&'a self, sealed: &'a str) -> BoxFuture<'a, std::result::Result<Secret, KeyError>>;
}

/// A key-encryption key that never leaves a transit engine.
#[derive(Debug)]
pub struct TransitKey {
    id: String,
    transit: Arc<dyn Transit>,
}

impl TransitKey {
    /// The key `key` below `mount` of the secret store `store`.
    pub fn new(store: &str, mount: &str, key: &str, transit: Arc<dyn Transit>) -> Self {
        Self { id: format!("transit:{store}/{mount}/{key}"), transit }
    }
}

impl KeyEncryption for TransitKey {
    fn id(&self) -> &str {
        &self.id
    }

    fn wrap<'a>(&'a self, place: &'a [u8], key: &'a Secret) -> BoxFuture<'a, std::result::Result<Vec<u8>, KeyError>> {
        Box::pin(async move {
            // Not every kind of key of the engine knows associated data, so the place goes in front of the key.
            let mut plain = digest(&SHA256, place).as_ref().to_vec();
            plain.reserve_exact(key.expose().len());
            plain.extend_from_slice(key.expose());
            Ok(self.transit.encrypt(&Secret::new(plain)).await?.into_bytes())
        })
    }

    fn unwrap<'a>(
        &'a self,
        place: &'a [u8],
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, std::result::Result<Secret, KeyError>> {
        Box::pin(async move {
            let wrapped = std::str::from_utf8(wrapped).map_err(|_| KeyError::Wrong)?;
            let plain = self.transit.decrypt(wrapped).await?;
            let key = plain.expose().strip_prefix(digest(&SHA256, place).as_ref()).ok_or(KeyError::Wrong)?;
            Ok(Secret::new(key))
        })
    }
}

/// Where the key-encryption keys of a store come from.
#[derive(Debug, Clone)]
pub enum Keys {
    /// From the configuration: the first is for a new store, the others open what was encrypted with them.
    Given(Vec<Arc<dyn KeyEncryption>>),
    /// From a file of our own, which is made when the store is new.
    File(PathBuf),
}

/// A key was made, in this file; without it nothing in the store can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMade(pub PathBuf);

/// The file of keys that we made: one a line, the newest first.
#[derive(Debug)]
pub(super) struct KeyFile(PathBuf);

impl KeyFile {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Its keys; nothing if there is no file.
    pub(super) fn read(&self) -> Result<Option<Vec<HeldKey>>> {
        let path = self.0.display();
        let text = match fs::read(&self.0) {
            Ok(text) => Secret::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Unavailable(format!("the key file {path}: {error}"))),
        };
        let mode = fs::metadata(&self.0).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            let why = format!("the key file {path} may be read by others: chmod 600 {path}");
            return Err(StoreError::Invalid(why));
        }
        let lines = text.expose_str().unwrap_or_default().lines().filter(|line| !line.trim().is_empty());
        let keys: Vec<HeldKey> = lines
            .map(|line| HeldKey::new(&Secret::new(line)))
            .collect::<Result<_>>()
            .map_err(|error| StoreError::Invalid(format!("the key file {path} is damaged; {error}")))?;
        if keys.is_empty() {
            return Err(StoreError::Invalid(format!("the key file {path} is empty: restore it from a backup")));
        }
        Ok(Some(keys))
    }

    /// Makes the file with a key in it, unless somebody else makes it at the same time.
    pub(super) fn make(&self, random: &dyn Random) -> Result<bool> {
        let key = fresh(random)?;
        if let Some(folder) = self.0.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
                StoreError::Unavailable(format!("the folder of the key file, {}: {error}", folder.display()))
            })?;
        }
        self.place(&[HeldKey::of(key.expose())], |new| match new.persist_noclobber(&self.0) {
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            outcome => outcome.map(|_| true).map_err(|error| error.error),
        })
    }

    /// Writes other keys, whole or not at all.
    pub(super) fn write(&self, keys: &[HeldKey]) -> Result<()> {
        let placing = |new: NamedTempFile| new.persist(&self.0).map(|_| true).map_err(|error| error.error);
        self.place(keys, placing).map(drop)
    }

    /// Puts a new key in front.
    pub(super) fn renew(&self, random: &dyn Random) -> Result<Arc<HeldKey>> {
        let mut keys = self.read()?.unwrap_or_default();
        let key = fresh(random)?;
        keys.insert(0, HeldKey::of(key.expose()));
        self.write(&keys)?;
        Ok(Arc::new(HeldKey::of(key.expose())))
    }

    /// Leaves only one key.
    pub(super) fn keep(&self, id: &str) -> Result<()> {
        let mut keys = self.read()?.unwrap_or_default();
        keys.retain(|key| key.id == id);
        if keys.is_empty() { Ok(()) } else { self.write(&keys) }
    }

    /// Removes a file that nothing was encrypted with.
    pub(super) fn discard(&self) {
        // It holds a key to nothing; a file that stays behind says so at the next start.
        let _ = fs::remove_file(&self.0);
    }

    fn place(&self, keys: &[HeldKey], placing: impl FnOnce(NamedTempFile) -> std::io::Result<bool>) -> Result<bool> {
        let mut text = Zeroizing::new(String::with_capacity(keys.len() * 45));
        for key in keys {
            STANDARD.encode_string(key.key.expose(), &mut text);
            text.push('\n');
        }
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || {
            // For nobody else from the beginning.
            let mut new = NamedTempFile::new_in(folder)?;
            new.write_all(text.as_bytes())?;
            new.as_file().sync_all()?;
            let placed = placing(new)?;
            fs::File::open(folder)?.sync_all()?;
            Ok(placed)
        };
        write().map_err(|error: std::io::Error| {
            StoreError::Unavailable(format!("the key file {} cannot be written: {error}", self.0.display()))
        })
    }
}

/// New bytes for a key.
pub(super) fn fresh(random: &dyn Random) -> Result<Secret> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if !random.fill(&mut *key) {
        return Err(StoreError::Unavailable("the system gives no randomness".into()));
    }
    Ok(Secret::new(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deps::SystemRandom;

    #[tokio::test]
    async fn a_held_key_unwraps_what_it_wrapped_for_that_place() {
        let key = HeldKey::new(&Secret::new(STANDARD.encode([1; 32]) + "\n")).unwrap();
        let other = HeldKey::new(&Secret::new(STANDARD.encode([2; 32]))).unwrap();
        assert_ne!(key.id(), other.id());
        let wrapped = key.wrap(b"here", &Secret::new("data key")).await.unwrap();
        assert_eq!(key.unwrap(b"here", &wrapped).await.unwrap().expose(), b"data key");
        assert_eq!(key.unwrap(b"there", &wrapped).await.unwrap_err(), KeyError::Wrong);
        assert_eq!(other.unwrap(b"here", &wrapped).await.unwrap_err(), KeyError::Wrong);
    }

    #[test]
    fn a_key_of_another_length_is_refused_and_not_repeated() {
        for text in ["", "hunter2", "aHVudGVyMg==", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            let error = HeldKey::new(&Secret::new(text)).unwrap_err().to_string();
            assert!(error.contains("openssl rand -base64 32") && !error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", HeldKey::of(b"canary")).contains("canary"));
    }

    /// Reverses the bytes; what is asked for in vain fails.
    #[derive(Debug)]
    struct Reversing;

    impl Transit for Reversing {
        fn encrypt<'a>(&'a self, plain: &'a Secret) -> BoxFuture<'a, std::result::Result<String, KeyError>> {
            let reversed: Vec<u8> = plain.expose().iter().rev().copied().collect();
            Box::pin(async move { Ok(format!("vault:v1:{}", STANDARD.encode(reversed))) })
        }

        fn decrypt<'a>(&'a self, sealed: &'a str) -> BoxFuture<'a, std::result::Result<Secret, KeyError>> {
            Box::pin(async move {
                let sealed = sealed.strip_prefix("vault:v1:").ok_or(KeyError::Wrong)?;
                let mut plain = STANDARD.decode(sealed).map_err(|_| KeyError::Wrong)?;
                plain.reverse();
                Ok(Secret::new(plain))
            })
        }
    }

    #[tokio::test]
    async fn a_transit_key_binds_to_the_place_as_well() {
        let key = TransitKey::new("kv", "transit", "store", Arc::new(Reversing));
        assert_eq!(key.id(), "transit:kv/transit/store");
        let wrapped = key.wrap(b"here", &Secret::new("data key")).await.unwrap();
        assert_eq!(key.unwrap(b"here", &wrapped).await.unwrap().expose(), b"data key");
        assert_eq!(key.unwrap(b"there", &wrapped).await.unwrap_err(), KeyError::Wrong);
        assert_eq!(key.unwrap(b"here", b"\xff").await.unwrap_err(), KeyError::Wrong);
    }

    #[test]
    fn a_key_file_is_private_is_made_once_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(&folder.path().join("store.key"));
        assert!(file.read().unwrap().is_none());
        assert!(file.make(&SystemRandom).unwrap());
        let id = file.read().unwrap().unwrap()[0].id.clone();
        assert!(!file.make(&SystemRandom).unwrap());
        assert_eq!(file.read().unwrap().unwrap()[0].id, id);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let newer = file.renew(&SystemRandom).unwrap();
        let ids: Vec<String> = file.read().unwrap().unwrap().into_iter().map(|key| key.id).collect();
        assert_eq!(ids, [newer.id.clone(), id]);
        file.keep(&newer.id).unwrap();
        assert_eq!(file.read().unwrap().unwrap().len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file.path(), "\n").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("empty"));
    }
}
