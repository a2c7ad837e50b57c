//! Two keys of which either opens: one is in use, the other is there so that replacing one interrupts nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::failure::{Failure, FailureKind};
use crate::base::BoxFuture;

/// How long the second key is used after the first was refused, before the first is tried again: it may have been replaced,
/// or switched on again. Long enough that nobody locks it.
const RETURN: Duration = Duration::from_secs(3600);

/// Which of two keys is in use.
#[derive(Debug, Default)]
pub struct Pairs {
    /// When the first was last refused, while the second is in use.
    refused: Mutex<Option<SystemTime>>,
}

impl Pairs {
    /// Asks with the key in use, 0 being the first, and with the other only if that one is refused; so each is asked with
    /// once at most, and neither when the service is not there. `has_second` says whether there is another, `of` names the
    /// credential in the log.
    ///
    /// # Errors
    /// What the service said of the key that was tried last.
    pub async fn ask<'a, T>(
        &self,
        has_second: bool,
        of: &str,
        now: SystemTime,
        with: impl Fn(usize) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if !has_second {
            return with(0).await;
        }
        let first = self.begin(now);
        let failure = match with(first).await {
            Err(failure) if failure.kind == FailureKind::Rejected => failure,
            outcome => return outcome,
        };
        let other = 1 - first;
        tracing::warn!(
            target: "countersign::token",
            credential = of,
            reason = failure.detail,
            "the {} key was refused; the {} one is tried",
            ordinal(first),
            ordinal(other)
        );
        let outcome = with(other).await;
        if outcome.is_ok() {
            *self.lock() = (other == 1).then_some(now);
            tracing::warn!(target: "countersign::token", credential = of, "the {} key is in use now", ordinal(other));
        }
        outcome
            .map_err(|last| Failure { detail: format!("{}; the other key: {}", failure.detail, last.detail), ..last })
    }

    /// The key to begin with.
    fn begin(&self, now: SystemTime) -> usize {
        let refused = *self.lock();
        // A clock that was set back is no reason to wait for ever.
        let lasting = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < RETURN);
        usize::from(refused.is_some_and(lasting))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SystemTime>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ordinal(key: usize) -> &'static str {
    if key == 0 { "first" } else { "second" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Keys that open, by number, and what was asked.
    #[derive(Debug, Default)]
    struct Door {
        opens: Mutex<[Option<FailureKind>; 2]>,
        asked: Mutex<Vec<usize>>,
    }

    impl Door {
        fn ask(self: &Arc<Self>, pairs: &Pairs, seconds: u64) -> (Result<usize, Failure>, Vec<usize>) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let with = |key: usize| -> BoxFuture<'static, _> {
                self.asked.lock().unwrap().push(key);
                let failure = self.opens.lock().unwrap()[key].map(|kind| Failure::new(kind, format!("key {key}")));
                Box::pin(std::future::ready(failure.map_or(Ok(key), Err)))
            };
            let outcome = futures_util::FutureExt::now_or_never(pairs.ask(true, "c", now, with)).unwrap();
            (outcome, std::mem::take(&mut *self.asked.lock().unwrap()))
        }
    }

    #[test]
    fn the_second_is_tried_when_the_first_is_refused_and_stays_until_the_first_is_worth_another_try() {
        let (door, pairs) = (Arc::new(Door::default()), Pairs::default());
        assert_eq!(door.ask(&pairs, 0), (Ok(0), vec![0]));
        door.opens.lock().unwrap()[0] = Some(FailureKind::Rejected);
        assert_eq!(door.ask(&pairs, 10), (Ok(1), vec![0, 1]));
        assert_eq!(door.ask(&pairs, 20), (Ok(1), vec![1]), "it stays");
        assert_eq!(door.ask(&pairs, 3609), (Ok(1), vec![1]));
        assert_eq!(door.ask(&pairs, 3610), (Ok(1), vec![0, 1]), "the first is tried again");
        assert_eq!(door.ask(&pairs, 3620), (Ok(1), vec![1]));
        door.opens.lock().unwrap()[0] = None;
        assert_eq!(door.ask(&pairs, 7300), (Ok(0), vec![0]), "and taken up again");
        assert_eq!(door.ask(&pairs, 7310), (Ok(0), vec![0]));
    }

    #[test]
    fn a_second_key_that_is_refused_in_turn_makes_way_for_the_first() {
        let (door, pairs) = (Arc::new(Door::default()), Pairs::default());
        *door.opens.lock().unwrap() = [Some(FailureKind::Rejected), None];
        assert_eq!(door.ask(&pairs, 0), (Ok(1), vec![0, 1]));
        *door.opens.lock().unwrap() = [None, Some(FailureKind::Rejected)];
        assert_eq!(door.ask(&pairs, 10), (Ok(0), vec![1, 0]));
        assert_eq!(door.ask(&pairs, 20), (Ok(0), vec![0]));
    }

    #[test]
    fn both_refused_are_both_told_and_a_service_that_is_not_there_is_asked_once() {
        let (door, pairs) = (Arc::new(Door::default()), Pairs::default());
        *door.opens.lock().unwrap() = [Some(FailureKind::Rejected); 2];
        let (outcome, asked) = door.ask(&pairs, 0);
        let failure = outcome.unwrap_err();
        assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Rejected, "key 0; the other key: key 1"));
        assert_eq!(asked, [0, 1]);
        for kind in [FailureKind::Unavailable, FailureKind::Refused] {
            *door.opens.lock().unwrap() = [Some(kind), None];
            let (outcome, asked) = door.ask(&pairs, 0);
            assert_eq!((outcome.unwrap_err().kind, asked), (kind, vec![0]));
        }
    }
}
