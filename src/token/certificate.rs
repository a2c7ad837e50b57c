//! A certificate that names the key of an assertion: read, and held against that key.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::private_key::PrivateKey;
use crate::base::Secret;

/// The certificate of a key, and those that lead from it to a root, in DER.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<Vec<u8>>,
}

impl Certificate {
    /// Reads PEM in which the key's own certificate stands first.
    ///
    /// # Errors
    /// When it is none, is of another key, stands in the wrong order, or is not valid now.
    pub fn from_pem(pem: &Secret, key: &PrivateKey, now: SystemTime) -> Result<Self, String> {
        let text =
            pem.expose_str().ok_or("it is not PEM text; a .pfx is made PEM by `openssl pkcs12 -in IT -nodes`")?;
        let start = text.find("-----BEGIN ").ok_or("it is not PEM text: no `-----BEGIN CERTIFICATE-----` line")?;
        let blocks = pem::parse_many(&text[start..]).map_err(|_| "its PEM is damaged".to_owned())?;
        let chain: Vec<Vec<u8>> =
            blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect();
        let own = chain.first().ok_or("there is no certificate in it, only other things in PEM")?;
        let PrivateKey::Rsa(der) = key else { return Err("its key must be RSA".into()) };
        let pair = RsaKeyPair::from_der(der.expose()).map_err(|_| "its key cannot sign")?;
        let place = {
            let parsed = chain.iter().map(|der| parsed(der)).collect::<Result<Vec<_>, _>>()?;
            parsed.iter().position(|one| *one.public_key().subject_public_key.data == *pair.public_key().as_ref())
        };
        match place {
            Some(0) => {}
            Some(place) => {
                let number = place + 1;
                return Err(format!(
                    "the certificate of the key is number {number} in it; it stands first, its issuers after it"
                ));
            }
            None => return Err("it is not the certificate of this key".into()),
        }
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let validity = parsed(own)?.validity().clone();
        if validity.not_after.timestamp() < seconds(now) {
            return Err(format!("it ended on {}; put a new one in its place", validity.not_after));
        }
        if validity.not_before.timestamp() > seconds(now) {
            return Err(format!("it is not valid before {}", validity.not_before));
        }
        Ok(Self { chain })
    }

    /// `x5t`: SHA-1 of the certificate (RFC 7515 section 4.1.7).
    pub fn sha1_thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.chain[0]))
    }

    /// `x5t#S256`: its SHA-256 (RFC 7515 section 4.1.8).
    pub fn sha256_thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, &self.chain[0]))
    }

    /// `x5c`: the whole chain (RFC 7515 section 4.1.6).
    ///
    /// # Errors
    /// When one did not issue the one before it.
    pub fn x5c(&self) -> Result<Vec<String>, String> {
        for (index, pair) in self.chain.windows(2).enumerate() {
            if parsed(&pair[0])?.issuer() != parsed(&pair[1])?.subject() {
                let (one, other) = (index + 1, index + 2);
                return Err(format!(
                    "certificate {other} in it did not issue certificate {one}; each stands before its issuer"
                ));
            }
        }
        Ok(self.chain.iter().map(|der| STANDARD.encode(der)).collect())
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.sha256_thumbprint())
    }
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|_| "a certificate in it is damaged".into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn file(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    fn read(pem: &str, key: &str) -> Result<Certificate, String> {
        let key = PrivateKey::from_pem(&Secret::new(file(key)), None).unwrap();
        Certificate::from_pem(&Secret::new(pem), &key, SystemTime::UNIX_EPOCH + NOW)
    }

    /// The certificates of a file, the last first.
    fn reversed(pem: &str) -> String {
        let mut blocks = pem::parse_many(pem).unwrap();
        blocks.reverse();
        pem::encode_many(&blocks)
    }

    /// The thumbprints are what `openssl x509 -fingerprint` prints, in base64url.
    #[test]
    fn a_certificate_has_its_thumbprints_and_its_chain() {
        let certificate = read(&file("rsa-certificate.pem"), "rsa-pkcs8.pem").unwrap();
        assert_eq!(certificate.sha1_thumbprint(), "7iwOMhw3hetYgk6YShFB-AjnWZg");
        assert_eq!(certificate.sha256_thumbprint(), "SYv32HNrDjfAhgnQ-meL2arQbe7Qqh0YOMy6LlQBDkQ");
        let chain = certificate.x5c().unwrap();
        let own = pem::parse_many(file("rsa-certificate.pem")).unwrap();
        assert_eq!(chain, own.iter().map(|block| STANDARD.encode(block.contents())).collect::<Vec<_>>());
        let both = [file("rsa-pkcs8.pem"), file("rsa-certificate.pem")].concat();
        assert!(read(&both, "rsa-pkcs8.pem").is_ok(), "with its key in one file");
    }

    #[test]
    fn what_is_not_the_keys_certificate_or_not_valid_is_refused_with_what_to_change() {
        let chain = file("rsa-certificate.pem");
        for (pem, key, said) in [
            (reversed(&chain), "rsa-pkcs8.pem", "is number 2 in it; it stands first"),
            (file("rsa-certificate-ended.pem"), "rsa-other.pem", "not the certificate of this key"),
            (file("rsa-certificate-ended.pem"), "rsa-pkcs8.pem", "it ended on Jan  1"),
            (file("rsa-certificate-early.pem"), "rsa-pkcs8.pem", "not valid before"),
            (chain.clone(), "p256-pkcs8.pem", "must be RSA"),
            (file("rsa-pkcs8.pem"), "rsa-pkcs8.pem", "no certificate in it"),
            ("nonsense".to_owned(), "rsa-pkcs8.pem", "not PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
                "rsa-pkcs8.pem",
                "a certificate in it is damaged",
            ),
            (chain[..chain.len() / 4].to_owned(), "rsa-pkcs8.pem", "no certificate in it"),
        ] {
            let error = read(&pem, key).unwrap_err();
            assert!(error.contains(said), "{error} and not {said}");
        }
        let unordered = [chain, file("rsa-certificate-early.pem")].concat();
        let error = read(&unordered, "rsa-pkcs8.pem").unwrap().x5c().unwrap_err();
        assert!(error.contains("certificate 3 in it did not issue certificate 2"), "{error}");
    }
}
