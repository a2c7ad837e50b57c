//! Who used a credential, and when: counted without a lock on the path of every request, written down now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

/// The uses of one credential by this process.
#[derive(Debug, Default)]
pub struct Usage {
    count: AtomicU64,
    /// Seconds since 1970.
    last: AtomicU64,
    caller: ArcSwapOption<Arc<str>>,
}

/// The uses since they were last taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uses {
    /// How many.
    pub count: u64,
    /// When the last one was, to the second.
    pub last: SystemTime,
    /// Who that was.
    pub caller: Arc<str>,
}

impl Usage {
    /// Counts one.
    pub fn count(&self, caller: &Arc<str>, now: SystemTime) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.last.store(seconds, Ordering::Relaxed);
        // The same one nearly always, which costs nothing.
        if self.caller.load().as_ref().is_none_or(|last| !Arc::ptr_eq(&**last, caller)) {
            self.caller.store(Some(Arc::new(Arc::clone(caller))));
        }
    }

    /// Takes what was counted, to be added to what is written down.
    pub fn take(&self) -> Option<Uses> {
        let uses = self.look()?;
        Some(Uses { count: self.count.swap(0, Ordering::Relaxed), ..uses })
    }

    /// What was counted since it was last taken.
    pub fn look(&self) -> Option<Uses> {
        let count = self.count.load(Ordering::Relaxed);
        let caller = self.caller.load_full().filter(|_| count > 0)?;
        let last = UNIX_EPOCH + Duration::from_secs(self.last.load(Ordering::Relaxed));
        Some(Uses { count, last, caller: Arc::clone(&caller) })
    }

    /// Gives back what could not be written down.
    pub fn give_back(&self, uses: &Uses) {
        self.count.fetch_add(uses.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_until_they_are_taken_and_what_is_given_back_counts_again() {
        let usage = Usage::default();
        assert_eq!(usage.take(), None);
        let (anna, now): (Arc<str>, _) = ("anna".into(), UNIX_EPOCH + Duration::from_secs(7));
        usage.count(&"bob".into(), UNIX_EPOCH);
        usage.count(&anna, now);
        let uses = usage.take().unwrap();
        assert_eq!(uses, Uses { count: 2, last: now, caller: anna });
        assert_eq!(usage.take(), None);
        usage.give_back(&uses);
        assert_eq!(usage.take(), Some(uses));
    }
}
