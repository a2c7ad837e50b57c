//! A source whose exchanges are written down before what they bring is used.

use std::sync::Arc;
use std::time::SystemTime;

use super::failure::{Failure, FailureKind};
use super::{Token, TokenSource};
use crate::base::meter;
use crate::base::{AuditEvent, AuditSink, Authorizer, BoxFuture};

/// The event of an exchange.
const EXCHANGE: &str = "token.exchange";

/// A source, and where its exchanges are written down.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) audit: Arc<dyn AuditSink>,
    pub(super) account: Box<str>,
    pub(super) credential: Box<str>,
}

impl Recorded {
    fn event(&self, outcome: &'static str) -> AuditEvent {
        AuditEvent::new(EXCHANGE, &*self.account, outcome).of(&*self.credential)
    }

    /// An exchange that counts only once it stands in the record.
    async fn exchange(&self, now: SystemTime) -> Result<Token, Failure> {
        if let Some(unavailable) = self.audit.blocked() {
            // What could not be used afterwards is not asked for.
            return Err(unavailable.into());
        }
        let token = match self.source.fetch(now).await {
            Ok(token) => token,
            Err(failure) => {
                self.audit.note(self.event(failure.kind.as_str()).fact("reason", failure.detail.clone()));
                return Err(failure);
            }
        };
        let lifetime = token.expires_at.duration_since(now).unwrap_or_default().as_secs();
        self.audit.record(self.event("ok").fact("lifetime_seconds", lifetime.to_string())).await?;
        Ok(token)
    }
}

impl TokenSource for Recorded {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let began = tokio::time::Instant::now();
            let outcome = self.exchange(now).await;
            let credential = metrics::Label::new("credential", meter::label(&self.credential));
            let word = outcome.as_ref().map_or_else(|failure| failure.kind.as_str(), |_| "ok");
            metrics::counter!(
                "countersign_token_exchanges_total",
                [credential, metrics::Label::new("outcome", word)].iter()
            )
            .increment(1);
            metrics::histogram!("countersign_token_exchange_duration_seconds").record(began.elapsed().as_secs_f64());
            outcome
        })
    }

    fn shareable(&self) -> bool {
        self.source.shareable()
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        self.source.authorizer(token)
    }
}

impl FailureKind {
    /// The word for it in the record.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Reauthorize => "reauthorization_required",
            Self::Forbidden => "forbidden",
            Self::Unrecorded => "audit_unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::base::{AuditUnavailable, Mutations, Prepared, Secret};

    #[derive(Debug, Default)]
    struct Sink {
        events: Mutex<Vec<AuditEvent>>,
        full: AtomicBool,
        known: AtomicBool,
    }

    impl AuditSink for Sink {
        fn record(&self, event: AuditEvent) -> BoxFuture<'_, Result<(), AuditUnavailable>> {
            let full = self.full.load(Ordering::Relaxed);
            self.events.lock().unwrap().push(event);
            Box::pin(async move { if full { Err(AuditUnavailable("full".into())) } else { Ok(()) } })
        }
        fn note(&self, event: AuditEvent) {
            self.events.lock().unwrap().push(event);
        }
        fn blocked(&self) -> Option<AuditUnavailable> {
            self.known.load(Ordering::Relaxed).then(|| AuditUnavailable("full".into()))
        }
    }

    /// Grants the first time, refuses the second.
    #[derive(Debug, Default)]
    struct Provider(AtomicUsize);

    impl TokenSource for Provider {
        fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
            let first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                let token = Token { secret: Secret::new("t0p"), expires_at: now + Duration::from_secs(60) };
                if first { Ok(token) } else { Err(Failure::new(FailureKind::Rejected, "invalid_client")) }
            })
        }
        fn authorizer(&self, _: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
            Ok(Arc::new(Prepared::new(Mutations::default())))
        }
    }

    fn recorded() -> (Recorded, Arc<Sink>, Arc<Provider>) {
        let (sink, provider) = (Arc::<Sink>::default(), Arc::<Provider>::default());
        let source = Arc::clone(&provider) as Arc<dyn TokenSource>;
        let audit = Arc::clone(&sink) as Arc<dyn AuditSink>;
        (Recorded { source, audit, account: "a".into(), credential: "c".into() }, sink, provider)
    }

    #[tokio::test]
    async fn an_exchange_and_its_failure_are_written_down_without_the_token() {
        let (recorded, sink, _) = recorded();
        assert!(recorded.fetch(SystemTime::UNIX_EPOCH).await.is_ok());
        assert!(recorded.fetch(SystemTime::UNIX_EPOCH).await.is_err());
        let events = sink.events.lock().unwrap();
        let expected = [
            AuditEvent::new(EXCHANGE, "a", "ok").of("c").fact("lifetime_seconds", "60"),
            AuditEvent::new(EXCHANGE, "a", "rejected").of("c").fact("reason", "invalid_client"),
        ];
        assert_eq!(*events, expected);
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_gives_no_token_and_is_then_not_asked_for() {
        let (recorded, sink, provider) = recorded();
        sink.full.store(true, Ordering::Relaxed);
        assert_eq!(recorded.fetch(SystemTime::UNIX_EPOCH).await.unwrap_err().kind, FailureKind::Unrecorded);
        sink.known.store(true, Ordering::Relaxed);
        assert_eq!(recorded.fetch(SystemTime::UNIX_EPOCH).await.unwrap_err().kind, FailureKind::Unrecorded);
        assert_eq!(provider.0.load(Ordering::Relaxed), 1);
    }
}
