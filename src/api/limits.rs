//! How many requests an account and a principal may make.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock as Ticks, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::settings::RateLimit;
use crate::base::Clock;

type Limiter = RateLimiter<String, DefaultKeyedStateStore<String>, Watch, StateInformationMiddleware>;

/// After so many requests those who have not asked for a while are forgotten.
const FORGET: u32 = 1024;

/// Both limits.
pub(super) struct Limits {
    account: Option<Limiter>,
    principal: Option<Limiter>,
    watch: Watch,
    asked: AtomicU32,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limits")
    }
}

/// Our clock, as the limiter wants it.
#[derive(Clone)]
struct Watch {
    clock: Arc<dyn Clock>,
}

/// A moment of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Instant);

impl std::ops::Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0 + Duration::from(other))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

impl Ticks for Watch {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(self.clock.instant())
    }
}

impl Limits {
    pub(super) fn new(settings: RateLimit, clock: &Arc<dyn Clock>) -> Self {
        let watch = Watch { clock: Arc::clone(clock) };
        let limiter = |a_minute: u32| {
            let quota = Quota::per_minute(NonZeroU32::new(a_minute)?);
            let store = DefaultKeyedStateStore::default();
            Some(Limiter::new(quota, store, watch.clone()))
        };
        Self {
            account: limiter(settings.account),
            principal: limiter(settings.principal),
            watch: watch.clone(),
            asked: AtomicU32::new(0),
        }
    }

    /// Counts a request: how many more there may be at once, if there is a limit; or when the next one may come.
    pub(super) fn count(&self, account: Option<&str>, principal: &str) -> Result<Option<u32>, Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET == FORGET - 1 {
            self.account.iter().chain(&self.principal).for_each(RateLimiter::retain_recent);
        }
        let check = |limiter: &Option<Limiter>, key: Option<&str>| {
            let (Some(limiter), Some(key)) = (limiter, key) else { return Ok(None) };
            match limiter.check_key(&key.to_owned()) {
                Ok(state) => Ok(Some(state.remaining_burst_capacity())),
                Err(until) => Err(until.wait_time_from(self.watch.now())),
            }
        };
        let own = check(&self.principal, Some(principal))?;
        let account = check(&self.account, account)?;
        Ok([own, account].into_iter().flatten().min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Deps;

    #[test]
    fn each_account_and_principal_has_its_own_number_and_is_told_when_to_come_again() {
        let clock = Deps::system().clock;
        let limits = Limits::new(RateLimit { account: 3, principal: 2 }, &clock);
        assert_eq!(limits.count(Some("a"), "anna"), Ok(Some(1)));
        assert_eq!(limits.count(Some("a"), "anna"), Ok(Some(0)));
        let wait = limits.count(Some("a"), "anna").unwrap_err();
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30), "{wait:?}");
        assert_eq!(limits.count(Some("a"), "bob"), Ok(Some(0)), "of the account one is left, and it was this");
        assert!(limits.count(Some("a"), "carl").is_err());
        assert_eq!(limits.count(Some("b"), "bob"), Ok(Some(0)));
        let none = Limits::new(RateLimit { account: 0, principal: 0 }, &clock);
        assert!((0..5000).all(|_| none.count(Some("a"), "anna") == Ok(None)));
    }
}
