//! Sessions of AWS as tokens of the engine: of a role, of the host's own keys, of a web identity token.
//!
//! Each step of a chain of roles is a token of its own, so that it is obtained once for all that follow, and renewed or
//! dropped by itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ambient::Ambient;
use super::keys::{Issued, Keys};
use super::role::Role;
use super::sts::Sts;
use super::sts_error::{StsError, StsErrorKind};
use crate::base::{Authorizer, BoxFuture, Clock, Host, Random};
use crate::sigv4::{self, Signer, Skew};
use crate::token::{Failure, FailureKind, Handle, Live, StateDirectory, Token, TokenSource};

/// Keys that do not end are looked up again after this time: their file or variable may hold others.
const LOOKED_UP_AGAIN: Duration = Duration::from_secs(5 * 60);

/// How what was obtained signs.
#[derive(Debug, Clone)]
pub struct Signing {
    /// For which services and regions, and how.
    pub settings: Arc<sigv4::Settings>,
    /// What is known of AWS's clock, for requests to STS and to every service.
    pub skew: Arc<Skew>,
    /// For signatures inside streams.
    pub clock: Arc<dyn Clock>,
}

impl Signing {
    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let unusable = |why: &str| Failure::new(FailureKind::Unavailable, format!("the keys cannot be used: {why}"));
        let keys = Keys::from_secret(&token.secret).ok_or_else(|| unusable("they are not keys"))?;
        let (settings, skew) = (Arc::clone(&self.settings), Arc::clone(&self.skew));
        let (secret, session) = (&keys.secret_key, keys.session_token.as_ref());
        let signer = Signer::new(&keys.access_key, secret, session, settings, skew, Arc::clone(&self.clock));
        Ok(Arc::new(signer.map_err(unusable)?))
    }

    /// Asks once, and once more after an answer that told the right time.
    ///
    /// # Errors
    /// What the second answer says, or the first if there is none.
    pub async fn timed<T, F>(&self, host: &Host, now: SystemTime, ask: impl Fn(SystemTime) -> F) -> Result<T, StsError>
    where
        F: Future<Output = Result<T, StsError>>,
    {
        let used = self.skew.seconds(host);
        let first = ask(self.skew.corrected(now, host)).await;
        if let Err(StsError { kind: StsErrorKind::ClockSkewed { server_time }, .. }) = &first
            && self.skew.learn(host, used, *server_time, self.clock.now())
        {
            return ask(self.skew.corrected(self.clock.now(), host)).await;
        }
        first
    }
}

/// The keys that ask for a session.
#[derive(Debug)]
pub enum Base {
    /// Always the same.
    Fixed(Keys),
    /// Those of another session.
    Session(Arc<Handle>),
}

/// The external ids that are made here: one for each account, the same for as long as the key of the directory is.
#[derive(Clone)]
pub struct ExternalIds {
    /// Where the key rests.
    pub state: Arc<StateDirectory>,
    /// For a key that is not there yet.
    pub random: Arc<dyn Random>,
    /// Whose id it is.
    pub account: Box<str>,
}

impl ExternalIds {
    /// The id. Makes the key if there is none.
    ///
    /// # Errors
    /// Why there is no key.
    pub fn id(&self) -> Result<String, String> {
        let id = self.state.derive(&*self.random, &format!("external id of account {}", self.account))?;
        Ok(format!("countersign-{id}"))
    }
}

impl fmt::Debug for ExternalIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalIds")
    }
}

/// A session of a role, asked for with other keys.
#[derive(Debug)]
pub struct RoleSession {
    /// Who asks.
    pub base: Base,
    /// For what.
    pub role: Role,
    /// Its external id is made here.
    pub external_ids: Option<ExternalIds>,
    /// Whom.
    pub sts: Sts,
    /// What it is for.
    pub signing: Signing,
}

impl RoleSession {
    async fn obtain(&self, now: SystemTime) -> Result<Issued, Failure> {
        let mut role = self.role.clone();
        if let Some(ids) = &self.external_ids {
            let ids = ids.clone();
            let id = tokio::task::spawn_blocking(move || ids.id()).await.unwrap_or_else(|error| Err(error.to_string()));
            let id = id.map_err(|why| {
                let why = format!("no external id can be made ({why}); let the folder be written, or set `tokens.key`");
                Failure::new(FailureKind::Unavailable, why)
            });
            role.external_id = Some(id?);
        }
        let ask = async |keys: &Keys| {
            let ask = async |time| self.sts.assume_role(&role, keys, time).await;
            self.signing.timed(self.sts.host(), now, ask).await
        };
        let handle = match &self.base {
            Base::Fixed(keys) => return Ok(ask(keys).await?),
            Base::Session(handle) => handle,
        };
        let live = handle.obtain_for_source().await?;
        match ask(&keys_of(&live)?).await {
            Err(StsError { kind: StsErrorKind::BaseExpired, .. }) if handle.rejected(&live) => {
                let live = handle.obtain_for_source().await?;
                Ok(ask(&keys_of(&live)?).await?)
            }
            answer => Ok(answer?),
        }
    }
}

/// The keys of a session, obtained if need be: for whoever asks STS about them.
///
/// # Errors
/// Why there are none.
pub async fn session_keys(handle: &Handle) -> Result<Keys, Failure> {
    keys_of(&*handle.obtain_for_source().await?)
}

fn keys_of(live: &Live) -> Result<Keys, Failure> {
    let unreadable = || Failure::new(FailureKind::Unavailable, "the base session cannot be used");
    Keys::from_secret(live.secret()).ok_or_else(unreadable)
}

impl TokenSource for RoleSession {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move { Ok(token(self.obtain(now).await?, now)) })
    }

    fn shareable(&self) -> bool {
        match &self.base {
            Base::Fixed(_) => true,
            Base::Session(handle) => handle.shareable(),
        }
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.signing.authorizer(token)
    }
}

/// The host's own keys, wherever they are.
#[derive(Debug)]
pub struct AmbientSession {
    /// Where they are looked for.
    pub ambient: Ambient,
    /// What they are for.
    pub signing: Signing,
}

impl TokenSource for AmbientSession {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let issued = self.ambient.load(now).await?;
            tracing::debug!(target: "countersign::token", source = issued.source, "this host's AWS keys were found");
            Ok(token(issued, now))
        })
    }

    /// They are this host's own.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.signing.authorizer(token)
    }
}

/// A session of a role, asked for with a token of an identity provider that rests in a file.
#[derive(Debug)]
pub struct WebIdentitySession {
    /// The role.
    pub role: Role,
    /// The file, which is read again at every exchange: whoever issues the token replaces it.
    pub token_file: PathBuf,
    /// Whom to ask.
    pub sts: Sts,
    /// What it is for.
    pub signing: Signing,
}

impl TokenSource for WebIdentitySession {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let read = crate::source::read_file(&self.token_file).await;
            let jwt = read.map_err(|error| Failure::new(FailureKind::Unavailable, format!("token_file: {error}")))?;
            let ask = async |time| self.sts.assume_role_with_web_identity(&self.role, &jwt, time).await;
            Ok(token(self.signing.timed(self.sts.host(), now, ask).await?, now))
        })
    }

    /// What is in the file says who this host is.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.signing.authorizer(token)
    }
}

fn token(issued: Issued, now: SystemTime) -> Token {
    Token { secret: issued.keys.to_secret(), expires_at: issued.expires_at.unwrap_or(now + LOOKED_UP_AGAIN) }
}
