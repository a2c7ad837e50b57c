//! The one body type of requests and responses: passed on frame by frame, never gathered here.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderName;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::deps::Sleep;

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
    /// Apart, since a body is moved from hand to hand and few have one.
    ahead: Option<Box<Frame<Bytes>>>,
    watch: Option<Box<dyn Watch>>,
    release: Option<Arc<dyn Release>>,
    trailers: Option<TrailerFilter>,
    keep: Option<Kept>,
}

/// A body in more pieces than this is not kept: each holds on to memory of its own.
const PIECES: usize = 64;

/// The bytes that passed of a body, for sending them once more. They are shared with what was sent, not copied.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Keep>>);

#[derive(Default)]
struct Keep {
    pieces: Vec<Bytes>,
    /// Bytes that may still be kept.
    left: usize,
    whole: bool,
    /// Too much passed, or something that cannot be repeated.
    lost: bool,
}

impl Kept {
    /// The same body again, if all of it passed and was not too much to keep.
    pub fn again(&self) -> Option<Body> {
        let keep = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !keep.whole || keep.lost {
            return None;
        }
        Some(match &keep.pieces[..] {
            [] => Body::empty(),
            [one] => Body::full(one.clone()),
            pieces => Body::full(pieces.concat()),
        })
    }

    fn passed(&self, frame: Option<&Result<Frame<Bytes>, BoxError>>) {
        let mut keep = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if data.len() <= keep.left && keep.pieces.len() < PIECES && !keep.lost => {
                    keep.left -= data.len();
                    keep.pieces.push(data.clone());
                }
                _ => {
                    keep.lost = true;
                    keep.pieces.clear();
                }
            },
            Some(Err(_)) => keep.lost = true,
            None => keep.whole = true,
        }
    }
}

/// Says which trailer fields may pass.
pub type TrailerFilter = Box<dyn Fn(&HeaderName) -> bool + Send + Sync>;

impl Body {
    fn of(kind: Kind) -> Self {
        Self { kind, ahead: None, watch: None, release: None, trailers: None, keep: None }
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

    /// The same body, of which up to `limit` bytes are kept as they pass.
    #[must_use]
    pub fn keeping(mut self, limit: usize) -> (Self, Kept) {
        let kept = Kept(Arc::new(Mutex::new(Keep { left: limit, ..Keep::default() })));
        self.keep = Some(kept.clone());
        (self, kept)
    }

    /// The same body, whose end is told.
    #[must_use]
    pub fn releasing(mut self, release: Arc<dyn Release>) -> Self {
        self.release = Some(release);
        self
    }

    /// Reads up to about `limit` bytes, or to the end if that comes first, and keeps them in the body. What has not come
    /// when `patience` ends is not waited for.
    pub async fn peek(&mut self, limit: usize, mut patience: Sleep) -> Bytes {
        let mut seen = BytesMut::new();
        let rest = loop {
            if seen.len() >= limit {
                break None;
            }
            let next = std::future::poll_fn(|cx| match Pin::new(&mut *self).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
            });
            let Some(next) = next.await else { break None };
            match next {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => seen.extend_from_slice(&data),
                    Err(trailers) => break Some(Some(Ok(trailers))),
                },
                Some(Err(error)) => break Some(Some(Err(error))),
                None => break Some(None),
            }
        };
        let seen = seen.freeze();
        if let Some(last) = rest {
            self.kind = match last {
                Some(last) => Kind::Boxed(Box::pin(Last(Some(last)))),
                None => Kind::Empty,
            };
        }
        if !seen.is_empty() {
            self.ahead = Some(Box::new(Frame::data(seen.clone())));
        }
        seen
    }

    /// Reads the first frame now if it is there, without waiting for it, so that a body that is broken from its first
    /// byte is known to be so before anything is sent.
    ///
    /// # Errors
    /// The error of a body that is already known to be broken.
    pub async fn look_ahead(&mut self) -> Result<(), BoxError> {
        // What is read ahead has not passed yet.
        let keep = self.keep.take();
        let first = std::future::poll_fn(|cx| match Pin::new(&mut *self).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        self.keep = keep;
        match first {
            None => Ok(()),
            Some(None) => {
                self.kind = Kind::Empty;
                Ok(())
            }
            Some(Some(frame)) => {
                self.ahead = Some(Box::new(frame?));
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
            let frame = match &this.trailers {
                Some(filter) => filtered(*frame, filter),
                None => *frame,
            };
            let frame = Some(Ok(frame));
            if let Some(keep) = &this.keep {
                keep.passed(frame.as_ref());
            }
            return Poll::Ready(frame);
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
        if let Some(keep) = &this.keep {
            keep.passed(frame.as_ref());
        }
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
        let Some(ahead) = self.ahead.as_deref().and_then(Frame::data_ref) else { return inner };
        let ahead = ahead.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + ahead);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

/// What came after the bytes that were read ahead.
struct Last(Option<Result<Frame<Bytes>, BoxError>>);

impl HttpBody for Last {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
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
        if (self.watch.is_some() || self.keep.is_some())
            && self.ahead.is_none()
            && match &self.kind {
                Kind::Incoming(body) => body.is_end_stream(),
                Kind::Boxed(body) => body.is_end_stream(),
                Kind::Full(bytes) => bytes.is_empty() || self.keep.is_none(),
                Kind::Empty => true,
            }
        {
            if let Some(watch) = &mut self.watch {
                watch.ended();
            }
            if let Some(keep) = &self.keep {
                keep.passed(None);
            }
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
    use futures_util::StreamExt;
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
    async fn trailers_that_were_read_ahead_are_filtered_too() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("authorization", http::HeaderValue::from_static("evil"));
        trailers.insert("x-end", http::HeaderValue::from_static("1"));
        let frames = futures_util::stream::iter([Ok(Frame::trailers(trailers))]);
        let mut body = Body::boxed(http_body_util::StreamBody::new(frames));
        body.look_ahead().await.unwrap();
        let body = body.filtering_trailers(Box::new(|name| name != "authorization"));
        let trailers = body.collect().await.unwrap().trailers().unwrap().clone();
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
    }

    #[tokio::test]
    async fn what_is_peeked_at_is_passed_on_first_with_all_that_follows() {
        let frames = || {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-end", http::HeaderValue::from_static("1"));
            let frames = [Ok(Frame::data("hel".into())), Ok(Frame::data("lo".into())), Ok(Frame::trailers(trailers))];
            Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
        };
        for limit in [1, 5, 100] {
            let mut body = frames();
            let seen = body.peek(limit, Box::pin(std::future::pending())).await;
            assert_eq!(seen.len(), if limit == 1 { 3 } else { 5 }, "{limit}");
            let whole = body.collect().await.unwrap();
            assert!(whole.trailers().unwrap().contains_key("x-end"), "{limit}");
            assert_eq!(whole.to_bytes(), "hello", "{limit}");
        }
        let mut body = Body::empty();
        assert!(body.peek(9, Box::pin(std::future::pending())).await.is_empty() && body.is_end_stream());
        let never =
            futures_util::stream::once(async { Ok(Frame::data("a".into())) }).chain(futures_util::stream::pending());
        let mut body = Body::boxed(http_body_util::StreamBody::new(never));
        assert_eq!(body.peek(9, Box::pin(std::future::ready(()))).await, "a");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    }

    #[tokio::test]
    async fn a_kept_body_comes_again_if_all_of_it_passed_and_it_was_small() {
        let (body, kept) = Body::full("hello").keeping(5);
        assert!(kept.again().is_none(), "nothing passed yet");
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(kept.again().unwrap().collect().await.unwrap().to_bytes(), "hello");
        let (body, kept) = Body::full("hello").keeping(4);
        drop(body.collect().await.unwrap());
        assert!(kept.again().is_none(), "too large");
        let (body, kept) = Body::full("hello").keeping(5);
        drop(body);
        assert!(kept.again().is_none(), "given up before it was sent");
        let frames = [Ok(Frame::data("a".into())), Ok(Frame::data("b".into()))];
        let (mut body, kept) =
            Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames))).keeping(9);
        body.look_ahead().await.unwrap();
        drop(body.collect().await.unwrap());
        assert_eq!(kept.again().unwrap().collect().await.unwrap().to_bytes(), "ab");
        let frames = [Ok(Frame::data("a".into())), Ok(Frame::trailers(http::HeaderMap::new()))];
        let (body, kept) = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames))).keeping(9);
        drop(body.collect().await.unwrap());
        assert!(kept.again().is_none(), "trailers are not kept");
    }

    #[tokio::test]
    async fn looking_ahead_into_an_empty_body_leaves_it_empty() {
        let mut body = Body::empty();
        body.look_ahead().await.unwrap();
        assert!(body.is_end_stream());
    }
}
