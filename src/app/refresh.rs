//! Secrets that expire are loaded again in time; when that fails to the end, the credential is unusable, never stale.

use std::time::Duration;

use tokio::time::Instant;

use super::build::Expiring;
use crate::base::Deps;
use crate::route::Readiness;
use crate::source::Sources;

/// The first pause after a failed load; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps one credential fresh, for ever; dropped by the next reload.
pub(super) async fn keep_fresh(expiring: Expiring, deps: Deps) {
    let Expiring { entry, draft, lifetime } = expiring;
    let sources = Sources::new(deps);
    let mut expires = Instant::now() + lifetime;
    loop {
        tokio::time::sleep_until(expires - lifetime / 5).await;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let secrets = sources.load_all(draft.references()).await;
            let error = match draft.build(&secrets) {
                Ok(scheme) => {
                    entry.set_readiness(Readiness::Ready(scheme));
                    expires = began + lifetime;
                    break;
                }
                Err(error) => error,
            };
            tracing::warn!(credential = &*entry.id, %error, "an expiring secret could not be loaded again");
            if Instant::now() >= expires {
                entry.set_readiness(Readiness::Unusable(format!(
                    "its secret expired and could not be loaded again: {error}"
                )));
            }
            let left = expires.saturating_duration_since(Instant::now());
            // Wake when it expires, so that it is not used a moment longer.
            tokio::time::sleep(if left.is_zero() { pause } else { pause.min(left) }).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Tasks of one configuration, ended together.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    /// Dropping the set ends its tasks; that is all it is kept for.
    tasks: tokio::task::JoinSet<()>,
}

impl Keepers {
    /// Starts one task for each credential whose secrets expire.
    pub(super) fn start(expiring: Vec<Expiring>, deps: &Deps) -> Self {
        let mut keepers = Self::default();
        for expiring in expiring {
            keepers.tasks.spawn(keep_fresh(expiring, deps.clone()));
        }
        keepers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::CredentialEntry;
    use crate::scheme;

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_cannot_be_loaded_again_makes_its_credential_unusable_when_it_expires() {
        let kind = scheme::find("api_key").unwrap();
        let draft = || {
            let settings = serde_json::json!({"key": {"command": ["/no/such/program"], "expires": "100s"}});
            (kind.parse)(settings).unwrap()
        };
        let other = (kind.parse)(serde_json::json!({"key": {"env": "X"}})).unwrap();
        let loaded =
            [(crate::source::SecretRef::Env { env: "X".into() }, crate::base::Secret::new("k"))].into_iter().collect();
        let ready = Readiness::Ready(other.build(&loaded).unwrap());
        let entry = Arc::new(CredentialEntry::new("c", "api_key", vec![], true, ready));
        let expiring = Expiring { entry: Arc::clone(&entry), draft: draft(), lifetime: Duration::from_secs(100) };
        let _keepers = Keepers::start(vec![expiring], &Deps::system());
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert!(matches!(*entry.readiness(), Readiness::Ready(_)));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(matches!(*entry.readiness(), Readiness::Unusable(_)));
    }
}
