//! Bodies of a run's requests and answers: they break off when its lease ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::base::Body;
use crate::base::body::BoxError;
use crate::route::Lease;

/// A body that lasts no longer than a lease.
pub(super) struct Leased {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Leased {
    /// The body, for as long as the lease lasts. One that has come to its end stays what it is.
    pub(super) fn body(body: Body, lease: &Lease) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::boxed(Self { body, ended: Box::pin(lease.ended()) })
    }
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the run is over".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
