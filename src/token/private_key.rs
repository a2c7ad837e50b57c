//! Private keys as people have them: PEM in PKCS#8, PKCS#1 or SEC1, encrypted or not, with whatever stands around it.
//!
//! The `rsa` and `pkcs8` crates read and check keys; none of them signs (their arithmetic takes time that depends on the key).

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use pkcs8::der::Decode;
use pkcs8::{EncryptedPrivateKeyInfo, ObjectIdentifier, PrivateKeyInfo};
use rsa::RsaPrivateKey;
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey};
use rsa::traits::PublicKeyParts;

use super::legacy_pem;
use crate::base::Secret;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The command that makes a readable key of one that is not.
const CONVERT: &str = "convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`";

const NO_PASSWORD: &str = "it is encrypted and there is no password for it";
const WRONG_PASSWORD: &str = "it cannot be decrypted: the password is wrong";

/// The header of a key that is encrypted as OpenSSL did before PKCS#8; empty when the block says no more.
fn dek_info(block: &pem::Pem) -> Option<&str> {
    let encrypted = block.headers().get("Proc-Type").is_some_and(|value| value.contains("ENCRYPTED"));
    encrypted.then(|| block.headers().get("DEK-Info").unwrap_or_default())
}

/// The name of the cipher, if it can be one: what stands there came with the key.
fn cipher(dek_info: &str) -> &str {
    let name = dek_info.split(',').next().unwrap_or_default().trim();
    let plain = name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && !name.is_empty() { name } else { "no DEK-Info that can be read" }
}

/// A private key, checked, in the encoding that signing takes. `Debug` shows its kind only.
#[derive(Clone)]
pub enum PrivateKey {
    /// RSA of 2048 to 8192 bits, PKCS#1 DER.
    Rsa(Secret),
    /// NIST P-256, PKCS#8 DER.
    P256(Secret),
    /// NIST P-384, PKCS#8 DER.
    P384(Secret),
    /// Ed25519, PKCS#8 DER.
    Ed25519(Secret),
}

impl PrivateKey {
    /// Reads the first private key of a PEM text. Text around it is ignored, as some providers write a label after it.
    ///
    /// # Errors
    /// What is wrong and how to mend it; nothing of the key.
    pub fn from_pem(pem: &Secret, password: Option<&Secret>) -> Result<Self, String> {
        let text = pem.expose_str().ok_or("it is not PEM text")?;
        let start = text.find("-----BEGIN ").ok_or("it is not PEM text: no `-----BEGIN …` line")?;
        let blocks = pem::parse_many(&text[start..]).map_err(|_| "its PEM is damaged".to_owned())?;
        let block = blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
        let block = block.ok_or("there is no private key in it, only other things in PEM")?;
        let der = block.contents();
        if let Some(dek_info) = dek_info(block) {
            return Self::decrypted_legacy(block, dek_info, password);
        }
        if block.tag() == "ENCRYPTED PRIVATE KEY" {
            return Self::decrypted(der, password);
        }
        if password.is_some() {
            return Err("there is a password and the key is not encrypted".into());
        }
        match block.tag() {
            "PRIVATE KEY" => Self::from_pkcs8(der),
            "RSA PRIVATE KEY" => Self::from_pkcs1(der),
            "EC PRIVATE KEY" => Self::from_ec(der),
            tag => Err(format!("keys of the form `{tag}` are not read; {CONVERT}")),
        }
    }

    /// The public key, SubjectPublicKeyInfo DER (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// When the key is not one that could sign.
    pub fn public_key(&self) -> Result<Vec<u8>, String> {
        let ec = |algorithm, der: &Secret| {
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.expose()).ok()?;
            spki(pair.public_key())
        };
        let der = match self {
            Self::Rsa(der) => RsaKeyPair::from_der(der.expose()).ok().and_then(|pair| spki(pair.public_key())),
            Self::P256(der) => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, der),
            Self::P384(der) => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, der),
            Self::Ed25519(der) => {
                Ed25519KeyPair::from_pkcs8(der.expose()).ok().and_then(|pair| spki(pair.public_key()))
            }
        };
        der.ok_or_else(|| "it cannot be used".into())
    }

    fn decrypted(der: &[u8], password: Option<&Secret>) -> Result<Self, String> {
        let unreadable = |_| format!("its encryption is not read (PBES1?); {CONVERT}");
        let encrypted = EncryptedPrivateKeyInfo::from_der(der).map_err(unreadable)?;
        let password = password.ok_or(NO_PASSWORD)?;
        // A wrong password shows as broken padding, or by chance as bytes that are no key.
        let plain = encrypted.decrypt(password.expose()).map_err(|_| WRONG_PASSWORD)?;
        PrivateKeyInfo::from_der(plain.as_bytes()).map_err(|_| WRONG_PASSWORD)?;
        Self::from_pkcs8(plain.as_bytes())
    }

    fn decrypted_legacy(block: &pem::Pem, dek_info: &str, password: Option<&Secret>) -> Result<Self, String> {
        let password = password.ok_or(NO_PASSWORD)?;
        let plain = legacy_pem::decrypt(block.contents(), dek_info, password).map_err(|error| match error {
            legacy_pem::Unreadable::Password => WRONG_PASSWORD.to_owned(),
            legacy_pem::Unreadable::Form => format!("its encryption ({}) is not read; {CONVERT}", cipher(dek_info)),
        })?;
        let der = plain.expose();
        // Padding alone proves nothing here: with one wrong password in 256 it is right by chance.
        match block.tag() {
            "RSA PRIVATE KEY" if rsa::pkcs1::RsaPrivateKey::from_der(der).is_ok() => Self::from_pkcs1(der),
            "EC PRIVATE KEY" if sec1::EcPrivateKey::from_der(der).is_ok() => Self::from_ec(der),
            "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Err(WRONG_PASSWORD.to_owned()),
            tag => Err(format!("keys of the form `{tag}` are not read; {CONVERT}")),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let info = PrivateKeyInfo::from_der(der).map_err(|_| "it is damaged: not PKCS#8".to_owned())?;
        match info.algorithm.oid {
            RSA | RSA_PSS => Self::from_pkcs1(info.private_key),
            EC => match info.algorithm.parameters_oid() {
                Ok(P256) => Ok(Self::P256(Secret::new(der))),
                Ok(P384) => Ok(Self::P384(Secret::new(der))),
                _ => Err("its curve is not used here; P-256 and P-384 are".into()),
            },
            ED25519 => Ok(Self::Ed25519(Secret::new(der))),
            other => Err(format!("keys of its kind ({other}) are not used here; RSA, P-256, P-384 and Ed25519 are")),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, String> {
        let key = RsaPrivateKey::from_pkcs1_der(der).map_err(|_| "it is damaged: not an RSA key".to_owned())?;
        key.validate().map_err(|_| "its numbers do not belong together: it is damaged".to_owned())?;
        let bits = key.n().bits();
        if !(2048..=8192).contains(&bits) {
            let wanted = if bits < 2048 { "2048 at least are needed" } else { "8192 at most are read" };
            return Err(format!("it has {bits} bits; {wanted}"));
        }
        // Written anew: what signs wants every number there, and two-prime keys alone have them all.
        let der = key.to_pkcs1_der().map_err(|_| "it cannot be used: more than two primes".to_owned())?;
        Ok(Self::Rsa(Secret::new(der.as_bytes())))
    }

    fn from_ec(der: &[u8]) -> Result<Self, String> {
        let pkcs8 = |algorithm| {
            let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
            Some(Secret::new(pair.to_pkcs8v1().ok()?.as_ref()))
        };
        let p384 = || pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING).map(Self::P384);
        let key = pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Self::P256).or_else(p384);
        key.ok_or_else(|| "it is damaged, or its curve is not used here; P-256 and P-384 are".into())
    }
}

fn spki(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Option<Vec<u8>> {
    Some(key.as_der().ok()?.as_ref().to_vec())
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "PrivateKey(RSA)",
            Self::P256(_) => "PrivateKey(P-256)",
            Self::P384(_) => "PrivateKey(P-384)",
            Self::Ed25519(_) => "PrivateKey(Ed25519)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, password: Option<&str>) -> Result<PrivateKey, String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(file);
        let pem = Secret::new(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        PrivateKey::from_pem(&pem, password.map(Secret::new).as_ref())
    }

    #[test]
    fn the_same_rsa_key_is_read_from_every_form() {
        let PrivateKey::Rsa(first) = read("rsa-pkcs1.pem", None).unwrap() else { panic!("not RSA") };
        for (file, password) in [
            ("rsa-pkcs8.pem", None),
            ("rsa-with-a-label.pem", None),
            ("rsa-encrypted-aes256.pem", Some("hunter2")),
            ("rsa-encrypted-des3.pem", Some("hunter2")),
            ("rsa-encrypted-scrypt.pem", Some("hunter2")),
            ("rsa-legacy-encrypted.pem", Some("hunter2")),
            ("rsa-legacy-aes192.pem", Some("hunter2")),
            ("rsa-legacy-aes256.pem", Some("hunter2")),
            ("rsa-legacy-des3.pem", Some("hunter2")),
        ] {
            let PrivateKey::Rsa(key) = read(file, password).unwrap_or_else(|why| panic!("{file}: {why}")) else {
                panic!("{file} is not RSA")
            };
            assert!(key.expose() == first.expose(), "{file}");
        }
    }

    #[test]
    fn elliptic_curves_and_ed25519_are_read() {
        assert!(matches!(read("p256-sec1.pem", None), Ok(PrivateKey::P256(_))));
        assert!(matches!(read("p256-pkcs8.pem", None), Ok(PrivateKey::P256(_))));
        assert!(matches!(read("p384-sec1.pem", None), Ok(PrivateKey::P384(_))));
        assert!(matches!(read("p256-legacy-aes128.pem", Some("hunter2")), Ok(PrivateKey::P256(_))));
        assert!(matches!(read("ed25519-pkcs8.pem", None), Ok(PrivateKey::Ed25519(_))));
    }

    /// Digests by `openssl pkey -pubout -outform DER | openssl dgst -sha256 -binary | base64`.
    #[test]
    fn the_public_key_is_the_one_that_openssl_writes() {
        use base64::Engine;
        for (file, digest) in [
            ("rsa-pkcs1.pem", "3Grfhhe6wrjQ6lml6VZW84bQ9sq92mbHADH0PfYLGgs="),
            ("p256-sec1.pem", "JYazSs7SUOT+1e/TVQyrpcz2aoudCGTyUhSg4ZFiw9g="),
            ("p384-sec1.pem", "AhVNrN5e8uChFzBQCv4Wlwz8RXOG9urN2LmMG/W8Ghc="),
            ("ed25519-pkcs8.pem", "g5DC3zh/df8ctbJJuHgoUNOBDu3isoZIQenG8fJA9yY="),
        ] {
            let der = read(file, None).unwrap().public_key().unwrap();
            let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
            assert_eq!(base64::engine::general_purpose::STANDARD.encode(sha256), digest, "{file}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why_and_how_to_mend_it() {
        for (file, password, why) in [
            ("rsa-encrypted-aes256.pem", Some("wrong"), "the password is wrong"),
            ("rsa-encrypted-aes256.pem", None, "no password"),
            ("rsa-pkcs8.pem", Some("hunter2"), "not encrypted"),
            ("rsa-legacy-encrypted.pem", Some("wrong"), "the password is wrong"),
            ("rsa-legacy-encrypted.pem", None, "no password"),
            ("rsa-legacy-seed.pem", Some("hunter2"), "SEED-CBC"),
            ("rsa-encrypted-pbes1.pem", Some("hunter2"), "openssl pkcs8 -topk8"),
            ("rsa-1024.pem", None, "1024 bits"),
            ("p521-sec1.pem", None, "P-256 and P-384"),
            ("p521-pkcs8.pem", None, "P-256 and P-384"),
            ("certificate.pem", None, "no private key in it"),
        ] {
            let error = read(file, password).unwrap_err();
            assert!(error.contains(why), "{file}: {error}");
            assert!(!error.contains("hunter2"));
        }
        for text in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"] {
            assert!(!PrivateKey::from_pem(&Secret::new(text), None).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn a_wrong_password_is_told_as_such_also_when_the_padding_is_right_by_chance() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/keys/rsa-legacy-encrypted.pem");
        let pem = Secret::new(std::fs::read(path).unwrap());
        let block = pem::parse(pem.expose()).unwrap();
        let mut by_chance = 0;
        for number in 0..2000 {
            let password = Secret::new(format!("wrong-{number}"));
            by_chance +=
                usize::from(legacy_pem::decrypt(block.contents(), dek_info(&block).unwrap(), &password).is_ok());
            assert_eq!(PrivateKey::from_pem(&pem, Some(&password)).unwrap_err(), WRONG_PASSWORD);
        }
        assert!(by_chance > 0, "none of them passed the padding");
    }

    #[test]
    fn debug_shows_the_kind_and_nothing_else() {
        assert_eq!(format!("{:?}", read("rsa-pkcs1.pem", None).unwrap()), "PrivateKey(RSA)");
    }
}
