//! The one body type of requests and responses: passed on frame by frame, never gathered here.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

/// Any failure while a body is read or written.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sees a body pass: for logging, limits and bookkeeping. Dropped with the body, whether it ended well or not.
pub trait Watch: Send + Sync {
    /// Some bytes passed.
    fn passed(&mut self, bytes: usize);
    /// More was asked for and is not there yet.
    fn waiting(&mut self) {}
    /// The body came to its end (not called when it is dropped before).
    fn ended(&mut self);
    /// Reading it failed.
    fn failed(&mut self, error: &BoxError);
}

/// Told when a response body is dropped, that is, when its message is over.
pub trait Release: Send + Sync {
    /// The body is gone.
    fn released(&self);
}

type BoxBody = Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send + Sync>>;

enum Kind {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Boxed(BoxBody),
}

/// A request or response body.
pub struct Body {
    kind: Kind,
    /// A frame that was read ahead, to be passed on first.
    ahead: Option<Frame<Bytes>>,
    watch: Option<Box<dyn Watch>>,
    release: Option<Arc<dyn Release>>,
    trailers: Option<TrailerFilter>,
}

/// Says which trailer fields may pass.
pub type TrailerFilter = Box<dyn Fn(&HeaderName) -> bool + Send + Sync>;

impl Body {
    fn of(kind: Kind) -> Self {
        Self { kind, ahead: None, watch: None, release: None, trailers: None }
    }

    /// No body.
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// A body of known bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(bytes.into()))
    }

    /// A body that arrives on a connection.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// Any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BoxError> + Send + Sync + 'static,
    {
        Self::of(Kind::Boxed(Box::pin(body)))
    }

    /// The same body, observed.
    #[must_use]
    pub fn watched(mut self, watch: Box<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The same body, of whose trailers only some pass.
    #[must_use]
    pub fn filtering_trailers(mut self, filter: TrailerFilter) -> Self {
        self.trailers = Some(filter);
        self
    }

    /// The same body, whose end is told.
    #[must_use]
    pub fn releasing(mut self, release: Arc<dyn Release>) -> Self {
        self.release = Some(release);
        self
    }

    /// Reads the first frame now if it is there, without waiting for it, so that a body that is broken from its first
    /// byte is known to be so before anything is sent.
    ///
    /// # Errors
    /// The error of a body that is already known to be broken.
    pub async fn look_ahead(&mut self) -> Result<(), BoxError> {
        let first = std::future::poll_fn(|cx| match Pin::new(&mut *self).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        match first {
            None => Ok(()),
            Some(None) => {
                self.kind = Kind::Empty;
                Ok(())
            }
            Some(Some(frame)) => {
                self.ahead = Some(frame?);
                Ok(())
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(_) => match std::mem::replace(&mut this.kind, Kind::Empty) {
                Kind::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Kind::Incoming(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        };
        let Poll::Ready(frame) = polled else {
            if let Some(watch) = &mut this.watch {
                watch.waiting();
            }
            return Poll::Pending;
        };
        let frame = match (&this.trailers, frame) {
            (Some(filter), Some(Ok(frame))) => Some(Ok(filtered(frame, filter))),
            (_, frame) => frame,
        };
        if let Some(mut watch) = this.watch.take() {
            match &frame {
                Some(Ok(frame)) => {
                    watch.passed(frame.data_ref().map_or(0, Bytes::len));
                    this.watch = Some(watch);
                }
                Some(Err(error)) => watch.failed(error),
                None => watch.ended(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none()
            && match &self.kind {
                Kind::Empty => true,
                Kind::Full(bytes) => bytes.is_empty(),
                Kind::Incoming(body) => body.is_end_stream(),
                Kind::Boxed(body) => body.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let inner = match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        };
        let Some(ahead) = self.ahead.as_ref().and_then(Frame::data_ref) else { return inner };
        let ahead = ahead.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + ahead);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

fn filtered(frame: Frame<Bytes>, passes: &TrailerFilter) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let gone: Vec<HeaderName> = trailers.keys().filter(|name| !passes(name)).cloned().collect();
            for name in gone {
                trailers.remove(name);
            }
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // hyper does not poll a body whose end it knows already: a content-length reached, a 204, a HEAD.
        if let Some(watch) = &mut self.watch
            && self.ahead.is_none()
            && match &self.kind {
                Kind::Incoming(body) => body.is_end_stream(),
                Kind::Boxed(body) => body.is_end_stream(),
                Kind::Empty | Kind::Full(_) => true,
            }
        {
            watch.ended();
        }
        if let Some(release) = &self.release {
            release.released();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_frame_read_ahead_is_passed_on_first_and_counted_once() {
        let mut body = Body::full("hello");
        body.look_ahead().await.unwrap();
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }

    #[tokio::test]
    async fn looking_ahead_into_an_empty_body_leaves_it_empty() {
        let mut body = Body::empty();
        body.look_ahead().await.unwrap();
        assert!(body.is_end_stream());
    }
}
