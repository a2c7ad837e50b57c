//! Encrypting what leaves the process: each account under a key of its own, bound to the place it is for.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use crate::base::{BoxFuture, Secret};

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// Why nothing was sealed or opened. Says nothing of the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealerError {
    /// It was sealed with another key, for another place, or is damaged.
    #[error("it was encrypted with another key, or for another place")]
    Wrong,
    /// The key cannot be had now.
    #[error("{0}")]
    Unavailable(String),
}

/// Encrypts under the data key of an account. The encrypted store is one; without a store it is [`FleetKey`].
pub trait Sealer: Send + Sync + fmt::Debug {
    /// Encrypts. What is given as `aad` must be given again to open it.
    fn seal<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        plain: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, SealerError>>;

    /// Decrypts.
    fn open<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, SealerError>>;

    /// A name for something: the same in every process that has the key, and nobody without the key can tell or guess
    /// what it is made of.
    fn name<'a>(&'a self, account: &'a str, of: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SealerError>>;
}

/// The account's own keys, derived from one key (HKDF-SHA-256, RFC 5869).
pub struct FleetKey(hkdf::Prk);

impl FleetKey {
    /// From 32 bytes that every process has.
    pub fn new(key: &Secret) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"countersign shared tokens").extract(key.expose()))
    }

    /// From the text of such a key.
    ///
    /// # Errors
    /// When it is not 32 bytes in base64.
    pub fn parse(text: &Secret) -> Result<Self, String> {
        let bytes = Zeroizing::new(STANDARD.decode(text.expose().trim_ascii()).unwrap_or_default());
        if bytes.len() != KEY_LEN {
            return Err("32 bytes in base64 are expected; `openssl rand -base64 32` makes them".into());
        }
        Ok(Self::new(&Secret::new(bytes.to_vec())))
    }

    fn derive(&self, purpose: &str, account: &str) -> Result<Zeroizing<[u8; 32]>, SealerError> {
        let mut key = Zeroizing::new([0; 32]);
        let info = [purpose.as_bytes(), &[0], account.as_bytes()];
        let derived = self.0.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *key));
        derived.map_err(|_| SealerError::Unavailable("no key can be derived".into()))?;
        Ok(key)
    }

    fn sealing(&self, account: &str) -> Result<RandomizedNonceKey, SealerError> {
        let key = self.derive("seal", account)?;
        RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| SealerError::Unavailable("not a key".into()))
    }

    fn seal_now(&self, account: &str, aad: &[u8], plain: &Secret) -> Result<Vec<u8>, SealerError> {
        let mut sealed = plain.expose().to_vec();
        let nonce = self.sealing(account)?.seal_in_place_append_tag(Aad::from(aad), &mut sealed);
        let nonce = nonce.map_err(|_| {
            sealed.zeroize();
            SealerError::Unavailable("it cannot be encrypted".into())
        })?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn open_now(&self, account: &str, aad: &[u8], sealed: &[u8]) -> Result<Secret, SealerError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(SealerError::Wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealerError::Wrong)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let opened = self.sealing(account)?.open_in_place(nonce, Aad::from(aad), &mut plain);
        Ok(Secret::new(&*opened.map_err(|_| SealerError::Wrong)?))
    }
}

impl Sealer for FleetKey {
    fn seal<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        plain: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, SealerError>> {
        Box::pin(std::future::ready(self.seal_now(account, aad, plain)))
    }

    fn open<'a>(
        &'a self,
        account: &'a str,
        aad: &'a [u8],
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, SealerError>> {
        Box::pin(std::future::ready(self.open_now(account, aad, sealed)))
    }

    fn name<'a>(&'a self, account: &'a str, of: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SealerError>> {
        let name = self.derive("name", account).map(|key| {
            let mut name = [0; 32];
            name.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key), of).as_ref());
            name
        });
        Box::pin(std::future::ready(name))
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sealed_opens_with_the_same_key_for_the_same_account_and_place_only() {
        let key = FleetKey::new(&Secret::new([7; 32]));
        let sealed = key.seal("a", b"place", &Secret::new("canary")).await.unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(key.open("a", b"place", &sealed).await.unwrap().expose(), b"canary");
        let other = FleetKey::new(&Secret::new([8; 32]));
        assert_eq!(other.open("a", b"place", &sealed).await.unwrap_err(), SealerError::Wrong);
        assert_eq!(key.open("b", b"place", &sealed).await.unwrap_err(), SealerError::Wrong);
        assert_eq!(key.open("a", b"elsewhere", &sealed).await.unwrap_err(), SealerError::Wrong);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open("a", b"place", &damaged).await.unwrap_err(), SealerError::Wrong, "byte {at}");
            assert_eq!(key.open("a", b"place", &sealed[..at]).await.unwrap_err(), SealerError::Wrong, "cut at {at}");
        }
    }

    #[tokio::test]
    async fn names_depend_on_the_key_and_the_account() {
        let key = |byte| FleetKey::new(&Secret::new([byte; 32]));
        let name = key(1).name("a", b"x").await.unwrap();
        assert_eq!(key(1).name("a", b"x").await.unwrap(), name);
        for other in [key(2).name("a", b"x"), key(1).name("b", b"x"), key(1).name("a", b"y")] {
            assert_ne!(other.await.unwrap(), name);
        }
    }
}
