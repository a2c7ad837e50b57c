//! Spans of exchanges, and of waiting for one that somebody else began.

use std::time::{Instant, SystemTime};

use super::failure::Failure;
use crate::base::trace::Attributes;
use crate::base::{ActiveSpan, Clock, SpanContext, SpanKind};

/// A span that began.
#[derive(Debug)]
struct Begun {
    span: ActiveSpan,
    at: (SystemTime, Instant),
}

impl Begun {
    fn now(span: ActiveSpan, clock: &dyn Clock) -> Self {
        Self { span, at: (clock.now(), clock.instant()) }
    }

    fn over(&self, kind: SpanKind, name: &'static str, attributes: Attributes, failed: bool, clock: &dyn Clock) {
        // The wall clock may jump meanwhile.
        let lasted = clock.instant().saturating_duration_since(self.at.1);
        let mut span = self.span.over(kind, name, (self.at.0, self.at.0 + lasted));
        (span.attributes, span.failed) = (attributes, failed);
        self.span.record(vec![span]);
    }
}

fn of(credential: &str) -> Attributes {
    vec![("countersign.credential", credential.to_owned().into())]
}

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Flown(Begun);

impl Flown {
    pub(super) fn begin(span: ActiveSpan, clock: &dyn Clock) -> Self {
        Self(Begun::now(span, clock))
    }

    pub(super) fn over(self, credential: &str, failure: Option<&Failure>, clock: &dyn Clock) {
        let mut attributes = of(credential);
        attributes.extend(failure.map(|failure| ("error.type", failure.kind.as_str().into())));
        self.0.over(SpanKind::Client, "token exchange", attributes, failure.is_some(), clock);
    }
}

/// A request that waits for an exchange of somebody else's, to which its span is linked.
#[derive(Debug)]
pub(super) struct Waited(Begun);

impl Waited {
    pub(super) fn begin(exchange: SpanContext, clock: &dyn Clock) -> Option<Self> {
        let span = ActiveSpan::within()?.child()?.linked(Some(exchange));
        Some(Self(Begun::now(span, clock)))
    }

    pub(super) fn over(self, credential: &str, clock: &dyn Clock) {
        self.0.over(SpanKind::Internal, "token wait", of(credential), false, clock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures_util::poll;
    use http::HeaderMap;
    use tokio::sync::Notify;

    use super::super::failure::FailureKind;
    use super::super::key::KeyBuilder;
    use super::super::{Token, TokenSource, Tokens};
    use super::*;
    use crate::base::trace::Value;
    use crate::base::{Authorizer, BoxFuture, Deps, Mutations, Prepared, Secret, Span, SpanSink, Tracing};

    #[derive(Debug, Default)]
    struct Sink(Mutex<Vec<Span>>);

    impl SpanSink for Sink {
        fn record(&self, spans: Vec<Span>) {
            self.0.lock().unwrap().extend(spans);
        }
    }

    /// Answers when it is told to; of a token it has none.
    #[derive(Debug, Default)]
    struct Slow(Notify, bool);

    impl TokenSource for Slow {
        fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
            Box::pin(async move {
                self.0.notified().await;
                let token = Token { secret: Secret::new("t0p"), expires_at: now + Duration::from_secs(60) };
                if self.1 { Ok(token) } else { Err(Failure::new(FailureKind::Rejected, "invalid_client t0p")) }
            })
        }
        fn authorizer(&self, _: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
            Ok(Arc::new(Prepared::new(Mutations::default())))
        }
    }

    fn text(span: &Span, key: &str) -> Option<Value> {
        span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }

    async fn waited_twice(grants: bool) -> (SpanContext, SpanContext, Vec<Span>) {
        let (sink, source, deps) = (Arc::new(Sink::default()), Arc::new(Slow(Notify::new(), grants)), Deps::system());
        let tracing = Tracing::new(1.0, Arc::clone(&deps.random), Arc::clone(&sink) as Arc<dyn SpanSink>);
        deps.tracer.turn(Some(Arc::new(tracing)));
        let key = KeyBuilder::new("a", "c").finish();
        let handle = Tokens::new(&deps).handle(key, "a", "c", Arc::clone(&source) as Arc<dyn TokenSource>);
        let span = || deps.tracer.request(&HeaderMap::new()).unwrap();
        let (one, other) = (span(), span());
        let mut first = Box::pin(one.clone().around(handle.obtain()));
        let mut second = Box::pin(other.clone().around(handle.obtain()));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        source.0.notify_one();
        assert_eq!((first.await.is_ok(), second.await.is_ok()), (grants, grants));
        let spans = sink.0.lock().unwrap().clone();
        (one.context(), other.context(), spans)
    }

    #[tokio::test]
    async fn an_exchange_is_below_whoever_began_it_and_who_waits_too_is_linked_to_it() {
        let (one, other, spans) = waited_twice(true).await;
        let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (exchange, wait) = (of("token exchange"), of("token wait"));
        assert_eq!(spans.len(), 2);
        assert_eq!((exchange.context.trace, exchange.parent), (one.trace, Some((one.span, false))));
        assert_eq!((wait.context.trace, wait.parent), (other.trace, Some((other.span, false))));
        assert_eq!((wait.link, exchange.failed), (Some(exchange.context), false));
    }

    #[tokio::test]
    async fn a_failed_exchange_says_of_what_kind_it_was_and_no_more() {
        let (_, _, spans) = waited_twice(false).await;
        let exchange = spans.iter().find(|span| span.name == "token exchange").unwrap();
        assert!(exchange.failed && text(exchange, "error.type") == Some("rejected".into()));
        assert!(!format!("{spans:?}").contains("t0p"));
    }
}
