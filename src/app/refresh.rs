//! Secrets that expire are loaded again in time; when that fails to the end, the credential is unusable, never stale.

use std::time::Duration;

use tokio::time::Instant;

use super::build::Expiring;
use crate::base::{BoxFuture, Lifetime, SecretRef, Secrets};
use crate::route::Readiness;
use crate::scheme::{Outside, Setup};
use crate::source::Sources;

/// The first pause after a failed load; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// However soon something ends, it is not loaded more often than this.
const SHORTEST: Duration = Duration::from_millis(200);

/// Secrets of a credential that no source gives: those of the encrypted store.
pub(super) type Held = Box<dyn Fn() -> BoxFuture<'static, Secrets> + Send + Sync>;

/// For credentials that the configuration file declares.
fn nothing_held() -> Held {
    Box::new(|| Box::pin(async { Secrets::default() }))
}

/// Keeps one credential usable: loads its secrets again before they expire, and as long as they cannot be loaded.
/// `held` gives the secrets that come from nowhere else.
pub(super) async fn keep_fresh(expiring: Expiring, held: Held, sources: Sources, outside: Outside) {
    let Expiring { entry, draft, lifetime, loaded, mut content } = expiring;
    let mut expires = Instant::now();
    let mut due = Instant::now() + FIRST_PAUSE;
    if let (Some(lifetime), true) = (lifetime, loaded) {
        due = expires + lifetime.refresh;
        expires += lifetime.usable;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep_until(due).await;
        let began = Instant::now();
        let mut secrets = held().await;
        sources.load_into(&mut secrets, draft.references()).await;
        let setup = Setup {
            account: &entry.account,
            credential: &entry.id,
            version: entry.version,
            secrets: &secrets,
            outside: &outside,
        };
        let found = secrets.digest_of(draft.references());
        // The same again: nothing is made anew.
        let same = content == Some(found) && matches!(*entry.readiness(), Readiness::Ready(_));
        match if same { Ok(None) } else { draft.build(&setup).map(Some) } {
            Ok(scheme) => {
                if let Some(scheme) = scheme {
                    entry.set_readiness(Readiness::Ready(scheme));
                    tracing::info!(credential = &*entry.id, "a secret was loaded again");
                }
                content = Some(found);
                // One that does not expire is followed by its file's changes and by reloads.
                let Some(lifetime) = secrets.lifetime_of(draft.references()) else { return };
                expires = began + lifetime.usable;
                due = began + lifetime.refresh.max(SHORTEST);
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                tracing::warn!(credential = &*entry.id, %error, "a secret could not be loaded");
                if Instant::now() >= expires {
                    entry.set_readiness(Readiness::Unusable(format!("its secret cannot be loaded: {error}")));
                }
                // Awake when it expires, so that it is not used a moment longer.
                let next = Instant::now() + pause;
                due = if expires > Instant::now() { next.min(expires) } else { next };
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Secrets of stores that no credential has, such as the tokens of callers, and what they were.
#[derive(Debug)]
pub struct Followed {
    /// The references.
    pub references: Vec<SecretRef>,
    /// A digest of what they gave.
    pub content: [u8; 32],
    /// For how long that is good, if anything was given.
    pub lifetime: Option<Lifetime>,
}

/// Ends when they are no longer what they were.
async fn follow(followed: Followed, sources: Sources) {
    let Followed { references, content, lifetime } = followed;
    let mut pause = lifetime.map_or(FIRST_PAUSE, |lifetime| lifetime.refresh);
    loop {
        tokio::time::sleep(pause.max(SHORTEST)).await;
        let secrets = sources.load_all(&references).await;
        if secrets.digest_of(&references) != content {
            return;
        }
        pause = match secrets.lifetime_of(&references) {
            Some(lifetime) => lifetime.refresh,
            None => (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        };
    }
}

/// Tasks of one configuration, ended together.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    /// Dropping the set ends its tasks; that is all it is kept for.
    tasks: tokio::task::JoinSet<()>,
    /// Ends when the configuration is to be read again.
    following: tokio::task::JoinSet<()>,
}

impl Keepers {
    /// Waits until a secret changed that only a reload takes up.
    pub(super) async fn outdated(&mut self) {
        if self.following.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Starts one task for each credential whose secrets expire, and one for what no credential has.
    pub(super) fn start(
        expiring: Vec<Expiring>,
        followed: Option<Followed>,
        sources: &Sources,
        outside: &Outside,
    ) -> Self {
        let mut keepers = Self::default();
        if let Some(followed) = followed {
            keepers.following.spawn(follow(followed, sources.clone()));
        }
        for expiring in expiring {
            keepers.tasks.spawn(keep_fresh(expiring, nothing_held(), sources.clone(), outside.clone()));
        }
        keepers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Deps;
    use crate::route::CredentialEntry;
    use crate::scheme;
    use crate::token::{StateDirectory, Tokens};
    use crate::upstream::{Roots, Upstream};

    fn outside() -> Outside {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let deps = Deps::system();
        let upstream = Upstream::new(Default::default(), &Secrets::default(), &Roots::default(), Arc::default());
        Outside {
            clock: Arc::clone(&deps.clock),
            environment: Arc::clone(&deps.environment),
            tokens: Tokens::new(&deps),
            http: Arc::new(upstream.unwrap()),
            random: deps.random,
            state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
            lender: Arc::new(crate::route::Lending::new(Deps::system().clock, Default::default())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_cannot_be_loaded_again_makes_its_credential_unusable_when_it_expires() {
        let kind = scheme::find("api_key").unwrap();
        let draft = || {
            let settings = serde_json::json!({"key": {"command": ["/no/such/program"], "expires": "100s"}});
            (kind.parse)(settings).unwrap()
        };
        let other = (kind.parse)(serde_json::json!({"key": {"env": "X"}})).unwrap();
        let loaded =
            [(crate::base::SecretRef::Env { env: "X".into() }, crate::base::Secret::new("k"))].into_iter().collect();
        let ready = {
            let outside = outside();
            let setup = Setup { account: "default", credential: "c", version: 0, secrets: &loaded, outside: &outside };
            Readiness::Ready(other.build(&setup).unwrap())
        };
        let entry = Arc::new(CredentialEntry::new("c", "api_key", vec![], true, ready));
        let expiring = Expiring {
            entry: Arc::clone(&entry),
            draft: draft(),
            lifetime: Some(Lifetime::ending(Duration::from_secs(100))),
            loaded: true,
            content: None,
        };
        let _keepers = Keepers::start(vec![expiring], None, &Sources::new(Deps::system()), &outside());
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert!(matches!(*entry.readiness(), Readiness::Ready(_)));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(matches!(*entry.readiness(), Readiness::Unusable(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_credential_has_is_followed_until_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let references = vec![SecretRef::File { file: file.clone() }];
        let sources = Sources::new(Deps::system());
        let content = sources.load_all(&references).await.digest_of(&references);
        let followed = Followed { references, content, lifetime: None };
        let mut keepers = Keepers::start(vec![], Some(followed), &sources, &outside());
        assert!(tokio::time::timeout(Duration::from_secs(300), keepers.outdated()).await.is_err());
        std::fs::write(&file, "k").unwrap();
        keepers.outdated().await;
        assert!(tokio::time::timeout(Duration::from_secs(300), keepers.outdated()).await.is_err(), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_was_missing_at_the_start_is_found_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let kind = scheme::find("api_key").unwrap();
        let draft = (kind.parse)(serde_json::json!({"key": {"file": file}})).unwrap();
        let unusable = Readiness::Unusable("not yet".into());
        let entry = Arc::new(CredentialEntry::new("c", "api_key", vec![], true, unusable));
        let expiring = Expiring { entry: Arc::clone(&entry), draft, lifetime: None, loaded: false, content: None };
        let mut keeping = std::pin::pin!(keep_fresh(expiring, nothing_held(), Sources::new(Deps::system()), outside()));
        assert!(tokio::time::timeout(Duration::from_secs(90), keeping.as_mut()).await.is_err());
        std::fs::write(&file, "k").unwrap();
        keeping.await;
        assert!(matches!(*entry.readiness(), Readiness::Ready(_)));
    }
}
