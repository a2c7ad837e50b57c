//! Signed assertions (RFC 7519, RFC 7523): a JWT that stands for a grant or for a client.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use jsonwebtoken::Algorithm;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value};

use super::private_key::PrivateKey;
use crate::base::{Random, Secret};

/// The year 9999: what a JWT says of its end must not overflow when it is added to.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// What signs an assertion. `Debug` shows its kind only.
#[derive(Debug, Clone)]
pub enum SigningKey {
    /// RS256, ES256, ES384 or EdDSA by the kind of the key, unless told otherwise.
    Private(PrivateKey),
    /// A secret that the other side has too: HS256 unless told otherwise.
    Shared(Secret),
}

/// What an assertion is made of.
#[derive(Debug, Clone)]
pub struct AssertionParts {
    /// What signs.
    pub key: SigningKey,
    /// The algorithm of the header, where it is not the key's usual one.
    pub algorithm: Option<Algorithm>,
    /// The `iss` claim.
    pub issuer: Option<String>,
    /// The `sub` claim.
    pub subject: Option<String>,
    /// The `aud` claim.
    pub audience: Option<String>,
    /// Further claims; one of a registered name replaces ours.
    pub claims: Map<String, Value>,
    /// Further header parameters: `kid`, `x5t` and others.
    pub headers: Map<String, Value>,
    /// Whether each assertion has a `jti` of its own.
    pub include_jti: bool,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
    /// So far in the past lies `iat`, for a server whose clock is behind.
    pub backdate: Duration,
}

/// Makes assertions. `Debug` shows no key.
pub struct Assertion {
    key: EncodingKey,
    header: Header,
    claims: Map<String, Value>,
    include_jti: bool,
    not_before: bool,
    lifetime: Duration,
    backdate: Duration,
}

impl Assertion {
    /// Checks that key and algorithm fit, by signing once.
    ///
    /// # Errors
    /// What does not fit; nothing of the key.
    pub fn new(parts: AssertionParts) -> Result<Self, String> {
        let (key, usual) = match &parts.key {
            SigningKey::Private(PrivateKey::Rsa(der)) => (EncodingKey::from_rsa_der(der.expose()), Algorithm::RS256),
            SigningKey::Private(PrivateKey::P256(der)) => (EncodingKey::from_ec_der(der.expose()), Algorithm::ES256),
            SigningKey::Private(PrivateKey::P384(der)) => (EncodingKey::from_ec_der(der.expose()), Algorithm::ES384),
            SigningKey::Private(PrivateKey::Ed25519(der)) => (EncodingKey::from_ed_der(der.expose()), Algorithm::EdDSA),
            SigningKey::Shared(secret) => (EncodingKey::from_secret(secret.expose()), Algorithm::HS256),
        };
        let algorithm = parts.algorithm.unwrap_or(usual);
        let mismatch = match &parts.key {
            SigningKey::Private(key) => format!("{algorithm:?} does not go with the key, {key:?}"),
            SigningKey::Shared(_) => {
                format!("{algorithm:?} does not sign with a shared secret; HS256, HS384 and HS512 do")
            }
        };
        let made = Self::with(key, algorithm, parts)?;
        jsonwebtoken::encode(&made.header, &Value::Null, &made.key).map_err(|_| mismatch)?;
        Ok(made)
    }

    fn with(key: EncodingKey, algorithm: Algorithm, parts: AssertionParts) -> Result<Self, String> {
        let mut header = parts.headers;
        if header.contains_key("alg") {
            return Err("`alg` stands beside the key, not in `jwt_headers`".into());
        }
        header.entry("typ").or_insert_with(|| "JWT".into());
        header.insert("alg".into(), serde_json::to_value(algorithm).map_err(|error| error.to_string())?);
        let header = serde_json::from_value(header.into()).map_err(|error| format!("jwt_headers: {error}"))?;
        let mut claims = Map::new();
        for (name, value) in [("iss", parts.issuer), ("sub", parts.subject), ("aud", parts.audience)] {
            claims.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        claims.extend(parts.claims);
        let AssertionParts { include_jti, lifetime, backdate, .. } = parts;
        Ok(Self { key, header, claims, include_jti, not_before: false, lifetime, backdate })
    }

    /// The same with an `nbf` claim, which says when it was made.
    #[must_use]
    pub fn with_not_before(mut self) -> Self {
        self.not_before = true;
        self
    }

    /// How long one is good for after it was signed.
    pub fn remaining(&self) -> Duration {
        self.lifetime.saturating_sub(self.backdate)
    }

    /// A new assertion, valid from now on.
    ///
    /// # Errors
    /// When the system has no randomness for the `jti`.
    pub fn sign(&self, now: SystemTime, random: &dyn Random) -> Result<Secret, String> {
        let mut claims = self.claims.clone();
        let issued = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let issued = issued.saturating_sub(self.backdate).as_secs();
        claims.entry("iat").or_insert_with(|| issued.into());
        if self.not_before {
            claims.entry("nbf").or_insert_with(|| issued.into());
        }
        claims.entry("exp").or_insert_with(|| (issued + self.lifetime.as_secs()).into());
        if self.include_jti {
            let mut bytes = [0; 16];
            if !random.fill(&mut bytes) {
                return Err("no randomness for the assertion's jti".into());
            }
            claims.entry("jti").or_insert_with(|| crate::base::text::hex(&bytes).into());
        }
        let signed = jsonwebtoken::encode(&self.header, &claims, &self.key);
        signed.map(Secret::new).map_err(|_| "the assertion cannot be signed".into())
    }
}

/// When a JWT ends by its own `exp`. Its signature is not looked at: whom it is sent to does that.
pub fn expiry(jwt: &Secret) -> Option<SystemTime> {
    let claims = URL_SAFE_NO_PAD.decode(jwt.expose_str()?.split('.').nth(1)?).ok()?;
    let seconds = serde_json::from_slice::<Value>(&claims).ok()?.get("exp")?.as_f64()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?.min(LATEST))
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Assertion({:?})", self.header.alg)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{self, UnparsedPublicKey};
    use rsa::pkcs1::DecodeRsaPrivateKey;
    use rsa::traits::SignatureScheme;
    use serde_json::json;

    use super::*;
    use crate::base::deps::SystemRandom;

    fn key(file: &str) -> PrivateKey {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(file);
        PrivateKey::from_pem(&Secret::new(std::fs::read(path).unwrap()), None).unwrap()
    }

    fn parts(file: &str, algorithm: Option<Algorithm>) -> AssertionParts {
        AssertionParts {
            key: SigningKey::Private(key(file)),
            algorithm,
            issuer: Some("me".into()),
            subject: None,
            audience: Some("https://idp.test/token".into()),
            claims: json!({"scope": "a b", "n": 7}).as_object().unwrap().clone(),
            headers: json!({"kid": "k1", "x5t#S256": "thumb", "custom": [1]}).as_object().unwrap().clone(),
            include_jti: true,
            lifetime: Duration::from_secs(600),
            backdate: Duration::ZERO,
        }
    }

    fn shared(secret: &str, algorithm: Option<Algorithm>) -> AssertionParts {
        AssertionParts { key: SigningKey::Shared(Secret::new(secret)), ..parts("rsa-pkcs1.pem", algorithm) }
    }

    fn taken_apart(jwt: &Secret) -> (Value, Value, String, Vec<u8>) {
        let text = jwt.expose_str().unwrap();
        let (message, signature) = text.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        (read(header), read(claims), message.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn header_and_claims_are_what_was_asked_for() {
        let assertion = Assertion::new(parts("rsa-pkcs1.pem", None)).unwrap();
        let now = NOW + Duration::from_secs(1000);
        let (header, claims, _, _) = taken_apart(&assertion.sign(now, &SystemRandom).unwrap());
        assert_eq!(header, json!({"typ": "JWT", "alg": "RS256", "kid": "k1", "x5t#S256": "thumb", "custom": [1]}));
        let jti = claims["jti"].as_str().unwrap().to_owned();
        assert_eq!(jti.len(), 32);
        let expected = json!({"iss": "me", "aud": "https://idp.test/token", "iat": 1000, "exp": 1600, "scope": "a b", "n": 7, "jti": jti});
        assert_eq!(claims, expected);
        let (_, again, _, _) = taken_apart(&assertion.sign(now, &SystemRandom).unwrap());
        assert_ne!(again["jti"], claims["jti"], "a jti is used once");
        let mut without = parts("rsa-pkcs1.pem", None);
        (without.include_jti, without.subject) = (false, Some("you".into()));
        let (_, claims, _, _) = taken_apart(&Assertion::new(without).unwrap().sign(now, &SystemRandom).unwrap());
        assert!(claims.get("jti").is_none() && claims["sub"] == "you");
        let assertion = Assertion::new(parts("rsa-pkcs1.pem", None)).unwrap().with_not_before();
        let (_, claims, _, _) = taken_apart(&assertion.sign(now, &SystemRandom).unwrap());
        assert_eq!((&claims["nbf"], &claims["iat"]), (&json!(1000), &json!(1000)));
    }

    #[test]
    fn what_is_not_given_is_left_out_and_the_past_counts_as_part_of_the_lifetime() {
        let mut bare = parts("p256-sec1.pem", None);
        (bare.issuer, bare.audience, bare.include_jti) = (None, None, false);
        (bare.claims, bare.backdate) = (Map::new(), Duration::from_secs(60));
        let assertion = Assertion::new(bare).unwrap();
        let (_, claims, _, _) = taken_apart(&assertion.sign(NOW + Duration::from_secs(1000), &SystemRandom).unwrap());
        assert_eq!(claims, json!({"iat": 940, "exp": 1540}));
        assert_eq!(assertion.remaining(), Duration::from_secs(540));
    }

    #[test]
    fn a_jwt_says_when_it_ends_and_other_tokens_say_nothing() {
        let assertion = Assertion::new(parts("p256-sec1.pem", None)).unwrap();
        let jwt = assertion.sign(NOW + Duration::from_secs(1000), &SystemRandom).unwrap();
        assert_eq!(expiry(&jwt), Some(NOW + Duration::from_secs(1600)));
        let with = |claims: &str| expiry(&Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))));
        assert_eq!(with(r#"{"exp":1600.5}"#), Some(NOW + Duration::from_millis(1_600_500)));
        assert!(with(r#"{"exp":1e300}"#).is_none_or(|end| end == NOW + LATEST));
        for claims in ["{}", "[]", "no", r#"{"exp":"x"}"#, r#"{"exp":-5}"#] {
            assert_eq!(with(claims), None, "{claims}");
        }
        assert_eq!(expiry(&Secret::new("opaque")), None);
    }

    /// RSA by the pure-Rust implementation, which shares no code with what signed.
    #[test]
    fn every_rsa_algorithm_makes_a_signature_that_another_library_verifies() {
        use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
        let PrivateKey::Rsa(der) = key("rsa-pkcs1.pem") else { panic!("not RSA") };
        let public = rsa::RsaPrivateKey::from_pkcs1_der(der.expose()).unwrap().to_public_key();
        for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512] {
            let assertion = Assertion::new(parts("rsa-pkcs1.pem", Some(algorithm))).unwrap();
            let (header, _, message, signature) = taken_apart(&assertion.sign(NOW, &SystemRandom).unwrap());
            assert_eq!(header["alg"], format!("{algorithm:?}"));
            let digest = |kind| aws_lc_rs::digest::digest(kind, message.as_bytes()).as_ref().to_vec();
            use aws_lc_rs::digest::{SHA256, SHA384, SHA512};
            let verified = match algorithm {
                RS256 => rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha256>().verify(&public, &digest(&SHA256), &signature),
                RS384 => rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha384>().verify(&public, &digest(&SHA384), &signature),
                RS512 => rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha512>().verify(&public, &digest(&SHA512), &signature),
                PS256 => rsa::Pss::new::<rsa::sha2::Sha256>().verify(&public, &digest(&SHA256), &signature),
                PS384 => rsa::Pss::new::<rsa::sha2::Sha384>().verify(&public, &digest(&SHA384), &signature),
                _ => rsa::Pss::new::<rsa::sha2::Sha512>().verify(&public, &digest(&SHA512), &signature),
            };
            assert!(verified.is_ok(), "{algorithm:?}");
        }
    }

    #[test]
    fn elliptic_curve_and_shared_secret_signatures_are_right() {
        use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};
        let signed =
            |file: &str| taken_apart(&Assertion::new(parts(file, None)).unwrap().sign(NOW, &SystemRandom).unwrap());
        let PrivateKey::P256(der) = key("p256-sec1.pem") else { panic!("not P-256") };
        let pair = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, der.expose()).unwrap();
        let (header, _, message, sig) = signed("p256-sec1.pem");
        assert_eq!(header["alg"], "ES256");
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, pair.public_key())
            .verify(message.as_bytes(), &sig)
            .unwrap();
        let (header, _, _, _) = signed("p384-sec1.pem");
        assert_eq!(header["alg"], "ES384");
        let PrivateKey::Ed25519(der) = key("ed25519-pkcs8.pem") else { panic!("not Ed25519") };
        let pair = Ed25519KeyPair::from_pkcs8(der.expose()).unwrap();
        let (header, _, message, sig) = signed("ed25519-pkcs8.pem");
        assert_eq!(header["alg"], "EdDSA");
        UnparsedPublicKey::new(&signature::ED25519, pair.public_key()).verify(message.as_bytes(), &sig).unwrap();
        let shared = Assertion::new(shared("k", None)).unwrap();
        let (header, _, message, sig) = taken_apart(&shared.sign(NOW, &SystemRandom).unwrap());
        assert_eq!(header["alg"], "HS256");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"k");
        aws_lc_rs::hmac::verify(&key, message.as_bytes(), &sig).unwrap();
    }

    #[test]
    fn an_algorithm_that_does_not_go_with_the_key_is_refused_when_it_is_written() {
        for (file, algorithm) in [
            ("rsa-pkcs1.pem", Algorithm::ES256),
            ("rsa-pkcs1.pem", Algorithm::HS256),
            ("p256-sec1.pem", Algorithm::RS256),
            ("p256-sec1.pem", Algorithm::ES384),
            ("p384-sec1.pem", Algorithm::ES256),
            ("ed25519-pkcs8.pem", Algorithm::ES256),
        ] {
            let error = Assertion::new(parts(file, Some(algorithm))).unwrap_err();
            assert!(error.contains("does not go with the key"), "{file} {algorithm:?}: {error}");
        }
        let error = Assertion::new(shared("k", Some(Algorithm::RS256))).unwrap_err();
        assert!(error.contains("HS256, HS384 and HS512"), "{error}");
        let mut sly = parts("rsa-pkcs1.pem", None);
        sly.headers.insert("alg".into(), "none".into());
        assert!(Assertion::new(sly).unwrap_err().contains("jwt_headers"));
    }
}
