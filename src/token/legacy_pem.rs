//! Keys encrypted as OpenSSL did before PKCS#8: `Proc-Type: 4,ENCRYPTED` and `DEK-Info: CIPHER,IV` stand above the base64.
//!
//! Nothing in that form tells a wrong password from a right one but the padding, which one wrong password in 256 passes by
//! chance: whoever reads the result must check that it is a key.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockCipher, BlockDecryptMut, BlockSizeUser, KeyInit, KeyIvInit, KeySizeUser};
use cbc::Decryptor;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use crate::base::Secret;

/// Why there is no plain text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The padding is wrong, as with a wrong password.
    Password,
    /// A cipher, or a form of the header, that is not read.
    Form,
}

/// Decrypts what a PEM block holds; `dek_info` is that header's value.
///
/// # Errors
/// When the header is none, its cipher is not read, or the padding is wrong.
pub(super) fn decrypt(encrypted: &[u8], dek_info: &str, password: &Secret) -> Result<Secret, Unreadable> {
    let (cipher, iv) = dek_info.split_once(',').ok_or(Unreadable::Form)?;
    let iv = bytes(iv.trim()).ok_or(Unreadable::Form)?;
    match cipher.trim() {
        "AES-128-CBC" => with::<aes::Aes128>(encrypted, &iv, password),
        "AES-192-CBC" => with::<aes::Aes192>(encrypted, &iv, password),
        "AES-256-CBC" => with::<aes::Aes256>(encrypted, &iv, password),
        "DES-EDE3-CBC" => with::<des::TdesEde3>(encrypted, &iv, password),
        _ => Err(Unreadable::Form),
    }
}

fn with<C>(encrypted: &[u8], iv: &[u8], password: &Secret) -> Result<Secret, Unreadable>
where
    C: BlockCipher + BlockDecryptMut + BlockSizeUser + KeyInit + KeySizeUser,
{
    let salt = iv.get(..8).filter(|_| iv.len() == C::block_size()).ok_or(Unreadable::Form)?;
    let key = derived(password.expose(), salt, C::key_size());
    let decryptor = Decryptor::<C>::new_from_slices(&key, iv).map_err(|_| Unreadable::Form)?;
    let mut buffer = Zeroizing::new(encrypted.to_vec());
    let plain = decryptor.decrypt_padded_mut::<Pkcs7>(&mut buffer).map_err(|_| Unreadable::Password)?;
    Ok(Secret::new(plain))
}

/// `EVP_BytesToKey` of OpenSSL with MD5 and one round.
fn derived(password: &[u8], salt: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < length {
        let digest = Md5::new().chain_update(&*last).chain_update(password).chain_update(salt).finalize();
        last = Zeroizing::new(digest.to_vec());
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

/// Bytes from hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    // `from_str_radix` takes a sign too.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_as_openssl_derives_them() {
        // openssl enc -aes-192-cbc -md md5 -k hunter2 -S 0001020304050607 -P
        let key = derived(b"hunter2", &[0, 1, 2, 3, 4, 5, 6, 7], 24);
        assert_eq!(crate::base::text::hex(&key), "06940008fff3c7ae9eee41d8ebff03dfb475b35c08d50767");
    }

    #[test]
    fn a_header_that_is_none_is_told_from_a_wrong_password() {
        let password = Secret::new("hunter2");
        for header in
            ["", "AES-128-CBC", "AES-128-CBC,0011", "AES-128-CBC,zz", "DES-CBC,0001020304050607", "AES-128-CBC,é1"]
        {
            assert_eq!(decrypt(&[0; 32], header, &password).unwrap_err(), Unreadable::Form, "{header}");
        }
        let header = "AES-128-CBC,000102030405060708090A0B0C0D0E0F";
        assert_eq!(decrypt(&[0; 31], header, &password).unwrap_err(), Unreadable::Password, "no whole blocks");
    }
}
