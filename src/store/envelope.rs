//! Encryption of what rests: AES-256-GCM with a random nonce, bound to its place by the associated data.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::base::Secret;

/// Bytes of a key.
pub(super) const KEY_LEN: usize = 32;

/// The first byte of everything sealed, so that another way can follow.
const FORMAT: u8 = 1;

/// Bytes that GCM adds.
const TAG_LEN: usize = 16;

/// The place of what is sealed: a purpose and what identifies it, each part with its length, so that no two places look
/// alike.
pub(super) fn place(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut place = format!("countersign store 1: {purpose}").into_bytes();
    for part in parts {
        place.extend((part.len() as u64).to_be_bytes());
        place.extend(*part);
    }
    place
}

/// Encrypts for one place. Nothing if the key is none, or there is no randomness.
pub(super) fn seal(key: &Secret, place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose()).ok()?;
    // Grown now: what grows later leaves a copy of the plain text behind.
    let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + TAG_LEN));
    text.extend_from_slice(plain);
    let nonce = key.seal_in_place_append_tag(Aad::from(place), &mut *text).ok()?;
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(nonce.as_ref());
    sealed.extend_from_slice(&text);
    Some(sealed)
}

/// Decrypts what was sealed with this key for this place.
pub(super) fn open(key: &Secret, place: &[u8], sealed: &[u8]) -> Option<Secret> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose()).ok()?;
    let (&format, rest) = sealed.split_first()?;
    let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    let plain = key.open_in_place(nonce, Aad::from(place), &mut text).ok()?;
    (format == FORMAT).then(|| Secret::new(&*plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_and_nowhere_else() {
        let key = Secret::new([7; KEY_LEN]);
        let here = place("secret", &[b"a", b"bc"]);
        let sealed = seal(&key, &here, b"canary").unwrap();
        assert_eq!(open(&key, &here, &sealed).unwrap().expose(), b"canary");
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        for elsewhere in [place("secret", &[b"ab", b"c"]), place("secret", &[b"a"]), place("other", &[b"a", b"bc"])] {
            assert!(open(&key, &elsewhere, &sealed).is_none());
        }
        assert!(open(&Secret::new([8; KEY_LEN]), &here, &sealed).is_none());
        for cut in 0..sealed.len() {
            assert!(open(&key, &here, &sealed[..cut]).is_none(), "{cut}");
            let mut bent = sealed.clone();
            bent[cut] ^= 1;
            assert!(open(&key, &here, &bent).is_none(), "{cut}");
        }
    }

    #[test]
    fn the_same_is_never_sealed_alike() {
        let key = Secret::new([7; KEY_LEN]);
        assert_ne!(seal(&key, b"x", b"y"), seal(&key, b"x", b"y"));
        assert!(seal(&Secret::new("short"), b"x", b"y").is_none());
    }
}
