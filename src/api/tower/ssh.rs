//! SSH keys, as people have them: OpenSSH's own form, PEM and PKCS#8, with a passphrase or without.
//!
//! They are kept for an agent and sign nothing here. What is read of one is what may be shown: its kind, its fingerprint,
//! its public key.

use pkcs8::der::Decode;
use pkcs8::spki::{DecodePublicKey, SubjectPublicKeyInfoRef};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData, RsaPublicKey};
use ssh_key::{Algorithm, HashAlg, Kdf, PublicKey};

use crate::base::Secret;
use crate::token::PrivateKey;

/// The longest text that is read as a key: RSA of 16384 bits has a fifth of it.
const LONGEST: usize = 64 * 1024;

/// Rounds of OpenSSH's key derivation; 16 are usual, and each costs milliseconds.
const MOST_ROUNDS: u32 = 256;

/// RSA of fewer bits is no longer taken by OpenSSH's servers of today, nor by this house elsewhere.
const FEWEST_BITS: usize = 2048;

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    /// Such as `ssh-ed25519`.
    pub(super) algorithm: String,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub(super) fingerprint: String,
    /// As it stands in `authorized_keys`.
    pub(super) public_key: String,
}

/// Whether a private key is one, and its passphrase the right one.
///
/// # Errors
/// As [`read`].
pub(in super::super) fn check(key: &Secret, passphrase: Option<&Secret>) -> Result<(), (&'static str, String)> {
    read(key, passphrase).map(drop)
}

/// Reads a private key with its passphrase.
///
/// # Errors
/// Which of `privateKey` and `passphrase` is wrong, and how to mend it; nothing of either.
pub(super) fn read(key: &Secret, passphrase: Option<&Secret>) -> Result<Read, (&'static str, String)> {
    let key_is = |why: &str| ("privateKey", why.to_owned());
    if key.expose().len() > LONGEST {
        return Err(key_is("it is longer than any key"));
    }
    let text = key.expose_str().ok_or_else(|| key_is("it is not text"))?;
    if text.trim_start().starts_with("PuTTY-User-Key-File") {
        return Err(key_is("keys of PuTTY are not read; export it with `puttygen OLD.ppk -O private-openssh -o NEW`"));
    }
    let public = if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        openssh(text, passphrase)?
    } else {
        // What is said of a password there is about the passphrase here.
        let read = PrivateKey::from_pem(key, passphrase).map_err(|why| {
            let name = if why.contains("password") { "passphrase" } else { "privateKey" };
            (name, why.replace("password", "passphrase"))
        })?;
        let spki = read.public_key().map_err(|why| key_is(&why))?;
        PublicKey::new(public_of(&read, &spki).ok_or_else(|| key_is("its public key cannot be told"))?, "")
    };
    let written = public.to_openssh().map_err(|_| key_is("its public key cannot be written"))?;
    Ok(Read {
        algorithm: public.algorithm().as_str().to_owned(),
        fingerprint: public.fingerprint(HashAlg::Sha256).to_string(),
        public_key: written,
    })
}

fn openssh(text: &str, passphrase: Option<&Secret>) -> Result<PublicKey, (&'static str, String)> {
    let wrong = |name: &'static str, why: &str| (name, why.to_owned());
    let start = text.find("-----BEGIN OPENSSH PRIVATE KEY-----").unwrap_or_default();
    let damaged = || wrong("privateKey", "it is damaged: give the whole file, every line of it");
    let block = pem::parse(&text[start..]).map_err(|_| damaged())?;
    let contents = Secret::new(block.into_contents());
    let key = ssh_key::PrivateKey::from_bytes(contents.expose()).map_err(|error| match error {
        ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => {
            wrong("privateKey", "keys of its kind are not read; Ed25519, RSA and ECDSA are")
        }
        _ => damaged(),
    })?;
    if let Kdf::Bcrypt { rounds, .. } = key.kdf()
        && *rounds > MOST_ROUNDS
    {
        let why = "its passphrase is derived in more rounds than are worked through here (256); set it anew with \
                   `ssh-keygen -p -a 64 -f KEY`";
        return Err(wrong("privateKey", why));
    }
    let key = match (key.is_encrypted(), passphrase) {
        (false, None) => key,
        (false, Some(_)) => return Err(wrong("passphrase", "there is a passphrase and the key is not encrypted")),
        (true, None) => return Err(wrong("passphrase", "the key is encrypted and there is no passphrase for it")),
        (true, Some(passphrase)) => key
            .decrypt(passphrase.expose())
            .map_err(|_| wrong("passphrase", "the key cannot be decrypted: the passphrase is wrong"))?,
    };
    match key.algorithm() {
        Algorithm::Ed25519 => {}
        Algorithm::Ecdsa { .. } if key.public_key().key_data().ecdsa().is_some() => {}
        Algorithm::Rsa { .. } => {
            let bits = key
                .key_data()
                .rsa()
                .map_or(0, |pair| pair.public.n.as_positive_bytes().map_or(0, |bytes| bytes.len() * 8));
            if bits < FEWEST_BITS {
                return Err(wrong("privateKey", "it is an RSA key of fewer than 2048 bits"));
            }
        }
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => {
            return Err(wrong("privateKey", "it is only the handle of a key that a security token holds"));
        }
        _ => {
            let why = "keys of its kind are not used any more; Ed25519, RSA and ECDSA are";
            return Err(wrong("privateKey", why));
        }
    }
    // The comment is not public where the key is encrypted.
    Ok(PublicKey::new(key.public_key().key_data().clone(), ""))
}

/// A public key as SSH writes it, from SubjectPublicKeyInfo.
fn public_of(key: &PrivateKey, spki: &[u8]) -> Option<KeyData> {
    let info = SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    let point = info.subject_public_key.as_bytes()?;
    Some(match key {
        PrivateKey::Rsa(_) => {
            let key = rsa::RsaPublicKey::from_public_key_der(spki).ok()?;
            KeyData::Rsa(RsaPublicKey::try_from(&key).ok()?)
        }
        PrivateKey::P256(_) | PrivateKey::P384(_) => KeyData::Ecdsa(EcdsaPublicKey::from_sec1_bytes(point).ok()?),
        PrivateKey::Ed25519(_) => KeyData::Ed25519(Ed25519PublicKey(point.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, passphrase: Option<&str>) -> Result<Read, (&'static str, String)> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path);
        let key = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        read(&Secret::new(key), passphrase.map(Secret::new).as_ref())
    }

    #[test]
    fn a_key_is_read_in_every_form_with_the_fingerprint_that_ssh_keygen_gives_it() {
        for (path, passphrase, algorithm, fingerprint) in [
            ("tower/keys/ed25519", None, "ssh-ed25519", "001gY8VRx4E5fzX5DEuPDztCGP+kEHmjRLdQWqJZcjk"),
            (
                "tower/keys/ed25519-encrypted",
                Some("hunter2"),
                "ssh-ed25519",
                "ApuvP8tm7fQo5k6zP27IOPCxuwaUf7pF87txTyHN2C8",
            ),
            ("tower/keys/rsa-2048", None, "ssh-rsa", "5hp3OU2r3xOh1GZ/LVz3tcRVuLnE2ll9RJj4/aumm3g"),
            ("tower/keys/rsa-encrypted", Some("hunter2"), "ssh-rsa", "9nSyTlpDbb5Bjy8tzsbK2opYXtPaAOZ9N30dXdgDjJo"),
            ("tower/keys/ecdsa-256", None, "ecdsa-sha2-nistp256", "7nxt2m0XuEBxD/gOCVZHEPLBkq8mT4SlkKRb0FB8w/g"),
            ("tower/keys/ecdsa-384", None, "ecdsa-sha2-nistp384", "NXVOyr5qW0UMW9LH4Z+Ws9C86tMXM2fFgXPW3gbWxVc"),
            ("tower/keys/ecdsa-521", None, "ecdsa-sha2-nistp521", "nqc3jqstoCnTx9cZHTiCgRMjCeuMw79RxUZ3BEq9gsA"),
            ("vectors/keys/rsa-pkcs1.pem", None, "ssh-rsa", "4gWO5b9iSsphT3CuIvMattUJQK7x/zIyRSTg4HtKcRc"),
            ("vectors/keys/rsa-pkcs8.pem", None, "ssh-rsa", "4gWO5b9iSsphT3CuIvMattUJQK7x/zIyRSTg4HtKcRc"),
            (
                "vectors/keys/rsa-legacy-encrypted.pem",
                Some("hunter2"),
                "ssh-rsa",
                "4gWO5b9iSsphT3CuIvMattUJQK7x/zIyRSTg4HtKcRc",
            ),
            (
                "vectors/keys/rsa-encrypted-aes256.pem",
                Some("hunter2"),
                "ssh-rsa",
                "4gWO5b9iSsphT3CuIvMattUJQK7x/zIyRSTg4HtKcRc",
            ),
            ("vectors/keys/p256-pkcs8.pem", None, "ecdsa-sha2-nistp256", "egiKlh/2IeuYJrsbufH7V6hQ5U7CX7p5SNRqi26NK7o"),
            ("vectors/keys/p384-sec1.pem", None, "ecdsa-sha2-nistp384", "ANCVgZLIW5EdUm0GMkbkff1/IjY08pQXTf3yViMRhCA"),
            ("vectors/keys/ed25519-pkcs8.pem", None, "ssh-ed25519", "xGqhp1xa0qtl8Cmoy/2QYBUVRiClCKq+CfHkDg0hppc"),
        ] {
            let read = file(path, passphrase).unwrap_or_else(|why| panic!("{path}: {why:?}"));
            assert_eq!(
                (read.algorithm.as_str(), read.fingerprint.as_str()),
                (algorithm, &*format!("SHA256:{fingerprint}")),
                "{path}"
            );
            assert!(read.public_key.starts_with(algorithm), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_the_key_or_at_the_passphrase() {
        for (path, passphrase, at, said) in [
            ("tower/keys/ed25519-encrypted", None, "passphrase", "no passphrase"),
            ("tower/keys/ed25519-encrypted", Some("hunter3"), "passphrase", "wrong"),
            ("tower/keys/ed25519", Some("hunter2"), "passphrase", "not encrypted"),
            ("tower/keys/ed25519-many-rounds", Some("hunter2"), "privateKey", "ssh-keygen -p"),
            ("tower/keys/rsa-1024", None, "privateKey", "2048"),
            ("vectors/keys/rsa-legacy-encrypted.pem", None, "passphrase", "no passphrase"),
            ("vectors/keys/rsa-legacy-encrypted.pem", Some("hunter3"), "passphrase", "wrong"),
            ("vectors/keys/rsa-pkcs8.pem", Some("hunter2"), "passphrase", "not encrypted"),
            ("vectors/keys/rsa-1024.pem", None, "privateKey", "2048"),
            ("vectors/keys/certificate.pem", None, "privateKey", "no private key"),
        ] {
            let (name, why) = file(path, passphrase).unwrap_err();
            assert!(name == at && why.contains(said) && !why.contains("hunter"), "{path}: {name} {why}");
        }
    }

    #[test]
    fn a_damaged_key_is_refused_and_line_ends_and_text_around_one_do_no_harm() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tower/keys/ed25519");
        let text = std::fs::read_to_string(path).unwrap();
        let ok = |text: String| read(&Secret::new(text), None).is_ok();
        assert!(ok(text.replace('\n', "\r\n")) && ok(format!("  my key\n{text}\n\n")));
        assert!(!ok(text.replace("b3Bl", "b3Bm")) && !ok(text[..text.len() / 2].to_owned()));
        let ppk = read(&Secret::new("PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-MAC: canary"), None).unwrap_err();
        assert!(ppk.1.contains("puttygen") && !ppk.1.contains("canary"));
        assert!(!ok("x".repeat(LONGEST + 1)));
    }
}
