//! Session tokens: what signs with one, and where those come from that lie ready.
//!
//! A session token is a JWT that Oracle made for the public part of a key. It is no bearer token: requests name it in their
//! `keyId` and are signed with the key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::signer::{Signer, SigningKey};
use crate::base::{Authorizer, BoxFuture, Secret};
use crate::sigv4::Skew;
use crate::token::{Failure, FailureKind, PrivateKey, Resting, Token, TokenSource};

/// When a session token ends, by its own word: it is Oracle's to verify it.
///
/// # Errors
/// When it is none.
pub(super) fn expiry(token: &Secret) -> Result<SystemTime, String> {
    let claims = || {
        let mut parts = token.expose_str()?.trim().splitn(3, '.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        serde_json::from_slice::<Value>(&claims).ok()
    };
    let claims = claims().ok_or("it is not a session token of Oracle's: not a JWT")?;
    let seconds = claims["exp"].as_f64().filter(|seconds| (0.0..1e12).contains(seconds));
    let seconds = seconds.ok_or("it is not a session token of Oracle's: it says no `exp`")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds as u64))
}

/// A session token with its key, as the engine keeps them: one text line, then the key's DER.
pub(super) fn issued(token: &Secret, key: &[u8], now: SystemTime, hint: &str) -> Result<Token, Failure> {
    let unusable = |why: String| Failure::new(FailureKind::Unavailable, why);
    let expires_at = expiry(token).map_err(|why| unusable(format!("the session token cannot be used: {why}")))?;
    if expires_at <= now {
        let ended = httpdate::fmt_http_date(expires_at);
        return Err(unusable(format!("the session token ended at {ended}; {hint}")));
    }
    // Of its whole length at once, so that growing leaves no copy behind.
    let token = token.expose().trim_ascii();
    let mut both = Vec::with_capacity(token.len() + 1 + key.len());
    both.extend_from_slice(token);
    both.push(b'\n');
    both.extend_from_slice(key);
    Ok(Token { secret: Secret::new(both), expires_at })
}

/// What signs with a token and its key.
pub(super) fn authorizer(token: &Token, skew: &Arc<Skew>) -> Result<Arc<dyn Authorizer>, Failure> {
    let unusable = |why: &str| Failure::new(FailureKind::Unavailable, format!("the session cannot be used: {why}"));
    let both = token.secret.expose();
    let end = both.iter().position(|byte| *byte == b'\n').ok_or_else(|| unusable("there is no key"))?;
    let session = std::str::from_utf8(&both[..end]).map_err(|_| unusable("its token is not text"))?;
    let key = SigningKey::from_der(&both[end + 1..]).map_err(|why| unusable(&why))?;
    let signer = Signer::new(Arc::new(key), &format!("ST${session}"), Arc::clone(skew));
    Ok(Arc::new(signer.map_err(unusable)?))
}

/// A key made for one session: Oracle issues the token for its public part.
pub(super) struct SessionKey {
    /// PKCS#8.
    pub(super) private: Secret,
    /// SubjectPublicKeyInfo, in base64 as PEM has it between its lines.
    pub(super) public: String,
}

impl SessionKey {
    /// A new one, made where it holds up nobody.
    pub(super) async fn generate() -> Result<Self, Failure> {
        let failed = |why: &str| Failure::new(FailureKind::Unavailable, format!("no key can be made: {why}"));
        let made = tokio::task::spawn_blocking(|| {
            let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
            let private: Pkcs8V1Der<'_> = pair.as_der().ok()?;
            let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
            Some(Self { private: Secret::new(private.as_ref()), public: STANDARD.encode(public.as_ref()) })
        });
        made.await.map_err(|error| failed(&error.to_string()))?.ok_or_else(|| failed("the library refuses"))
    }
}

/// A session that somebody else began and renews: token and key lie in files, or came with the environment.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) token: Resting,
    pub(super) key: Resting,
    pub(super) password: Option<Resting>,
    /// Who renews it.
    pub(super) hint: &'static str,
    pub(super) skew: Arc<Skew>,
}

impl TokenSource for Session {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let token = self.token.read().await?;
            let key = self.key.read().await?;
            let password = match &self.password {
                Some(password) => Some(password.read().await?),
                None => None,
            };
            let unusable = |why: String| Failure::new(FailureKind::Unavailable, format!("the session's key: {why}"));
            match PrivateKey::from_pem(&key, password.as_ref()).map_err(unusable)? {
                PrivateKey::Rsa(der) => issued(&token, der.expose(), now, self.hint),
                other => Err(unusable(format!("{other:?} does not sign for Oracle"))),
            }
        })
    }

    /// The session of this resource, or of who logged in on this host.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        authorizer(token, &self.skew)
    }
}
