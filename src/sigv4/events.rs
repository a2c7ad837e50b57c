//! Event streams: each message of the caller's is unwrapped and signed again as it passes.
//!
//! Follows <https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream>.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sigv4::event_stream::{SigningParams, sign_empty_message, sign_message};
use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_types::event_stream::Message;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};

use super::Skew;
use super::scope::Scope;
use crate::base::authorizer::Rewrite;
use crate::base::body::BoxError;
use crate::base::{Body, Clock, Host};

/// The longest message; those of speech and of models have some kilobytes.
const MESSAGE: usize = 1024 * 1024;

/// What makes the caller's stream the one that goes out, after the request's own signature.
pub(super) fn rewrite(
    scope: &Scope<'_>,
    identity: &Identity,
    (clock, skew, host): (Arc<dyn Clock>, Arc<Skew>, Host),
    signature: String,
) -> Rewrite {
    let signer = EventSigner {
        identity: identity.clone(),
        service: scope.service.clone().into_owned(),
        region: scope.region.clone().into_owned(),
        clock,
        skew,
        host,
        last: signature,
    };
    Box::new(move |body| Body::boxed(Resigned { inner: body, held: BytesMut::new(), signer, ended: false }))
}

/// Signs one message after the other, each signature being part of the next.
struct EventSigner {
    identity: Identity,
    service: String,
    region: String,
    clock: Arc<dyn Clock>,
    skew: Arc<Skew>,
    host: Host,
    last: String,
}

impl EventSigner {
    fn signed(&mut self, wrapped: &Message) -> Result<Bytes, BoxError> {
        let time = self.skew.corrected(self.clock.now(), &self.host);
        let params = SigningParams::builder().identity(&self.identity).region(&self.region);
        let params = params.name(&self.service).time(time).settings(()).build()?;
        let is_signed = wrapped.headers().iter().any(|header| header.name().as_str() == ":chunk-signature");
        let (message, signature) = if !is_signed {
            sign_message(wrapped, &self.last, &params)?.into_parts()
        } else if wrapped.payload().is_empty() {
            sign_empty_message(&self.last, &params)?.into_parts()
        } else {
            let message = read_message_from(&mut wrapped.payload().clone())?;
            sign_message(&message, &self.last, &params)?.into_parts()
        };
        self.last = signature;
        let mut bytes = Vec::with_capacity(message.payload().len() + 256);
        write_message_to(&message, &mut bytes)?;
        Ok(bytes.into())
    }
}

/// A stream on its way through.
struct Resigned {
    inner: Body,
    held: BytesMut,
    signer: EventSigner,
    ended: bool,
}

impl Resigned {
    /// The next message, if all of it is there.
    fn message(&mut self) -> Result<Option<Bytes>, BoxError> {
        let Some(first) = self.held.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*first))?;
        // A prelude of 12 bytes and a checksum of 4.
        if !(16..=MESSAGE).contains(&length) {
            return Err("a message of the event stream has a length that is not taken here".into());
        }
        if self.held.len() < length {
            return Ok(None);
        }
        let message = read_message_from(&mut self.held.split_to(length).freeze())?;
        self.signer.signed(&message).map(Some)
    }
}

impl HttpBody for Resigned {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match this.message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => this.held.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    if !this.held.is_empty() {
                        return Poll::Ready(Some(Err("the event stream ended inside a message".into())));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_smithy_types::event_stream::{Header, HeaderValue};
    use http_body_util::BodyExt;

    use super::*;
    use crate::base::Deps;

    fn frame(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_message_to(message, &mut bytes).unwrap();
        bytes
    }

    fn event(text: &'static str) -> Message {
        Message::new(text.as_bytes()).add_header(Header::new(":event-type", HeaderValue::String("AudioEvent".into())))
    }

    /// A message in the wrapping of an SDK with worthless keys.
    fn wrapped(inner: Vec<u8>) -> Message {
        Message::new(inner).add_header(Header::new(":chunk-signature", HeaderValue::ByteArray(vec![0; 32].into())))
    }

    async fn rewritten(body: Vec<u8>, piece: usize) -> Result<Vec<Message>, String> {
        let scope = Scope::for_tests("transcribe", "us-east-1");
        let keys = Credentials::new("AKIDEXAMPLE", "secret", None, None, "a test").into();
        let clock = (Deps::system().clock, Arc::default(), Host::parse("transcribe.test").unwrap());
        let rewrite = rewrite(&scope, &keys, clock, "0".repeat(64));
        let frames: Vec<_> = body.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let stream = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let out = rewrite(Body::boxed(stream)).collect().await.map_err(|error| error.to_string())?;
        let (mut out, mut messages) = (out.to_bytes(), Vec::new());
        while !out.is_empty() {
            messages.push(read_message_from(&mut out).unwrap());
        }
        Ok(messages)
    }

    fn signature(message: &Message) -> Vec<u8> {
        let header = message.headers().iter().find(|header| header.name().as_str() == ":chunk-signature").unwrap();
        header.value().as_byte_array().unwrap().to_vec()
    }

    #[tokio::test]
    async fn every_message_is_wrapped_once_with_a_signature_of_ours() {
        let stream =
            [frame(&wrapped(frame(&event("one")))), frame(&event("two")), frame(&wrapped(Vec::new()))].concat();
        for piece in [1, 13, 100_000] {
            let messages = rewritten(stream.clone(), piece).await.unwrap();
            assert_eq!(messages.len(), 3);
            for (message, text) in messages.iter().zip(["one", "two"]) {
                let inner = read_message_from(&mut message.payload().clone()).unwrap();
                assert_eq!(inner, event(if text == "one" { "one" } else { "two" }));
            }
            assert!(messages[2].payload().is_empty(), "the end of the stream stays empty");
            let signatures: Vec<_> = messages.iter().map(signature).collect();
            assert!(signatures.iter().all(|one| one.len() == 32 && *one != vec![0; 32]));
            assert!(signatures[0] != signatures[1] && signatures[1] != signatures[2]);
        }
    }

    /// As <https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html> has it, without the library.
    fn computed(message: &Message, before: &str) -> Vec<u8> {
        use aws_lc_rs::digest::{SHA256, digest};
        use aws_lc_rs::hmac;
        use aws_smithy_types::date_time::Format;

        use crate::base::text::hex;

        let mac = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let date = message.headers().iter().find(|header| header.name().as_str() == ":date").unwrap();
        let date = *date.value().as_timestamp().as_ref().unwrap();
        let stamp = date.fmt(Format::DateTime).unwrap().replace(['-', ':'], "");
        // A name and its length, the type of a timestamp, milliseconds.
        let header = [&b"\x05:date\x08"[..], &date.to_millis().unwrap().to_be_bytes()].concat();
        let scope = format!("{}/us-east-1/transcribe/aws4_request", &stamp[..8]);
        let hash = |bytes: &[u8]| hex(digest(&SHA256, bytes).as_ref());
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{before}\n{}\n{}",
            hash(&header),
            hash(message.payload())
        );
        let key = ["us-east-1", "transcribe", "aws4_request"]
            .iter()
            .fold(mac(b"AWS4secret", &stamp[..8]), |key, part| mac(&key, part));
        mac(&key, &text)
    }

    #[tokio::test]
    async fn signatures_are_those_of_the_page_of_aws_each_made_of_the_one_before() {
        let stream =
            [frame(&wrapped(frame(&event("one")))), frame(&event("two")), frame(&wrapped(Vec::new()))].concat();
        let mut before = "0".repeat(64);
        for message in rewritten(stream, 100).await.unwrap() {
            let expected = computed(&message, &before);
            assert_eq!(signature(&message), expected);
            before = crate::base::text::hex(&expected);
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_broken_fails() {
        let whole = frame(&wrapped(frame(&event("one"))));
        assert!(rewritten(whole[..whole.len() - 1].to_vec(), 50).await.unwrap_err().contains("inside a message"));
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        assert!(rewritten(flipped, 50).await.is_err(), "a checksum");
        assert!(rewritten(vec![0xff; 64], 50).await.unwrap_err().contains("length"));
        assert!(rewritten(frame(&wrapped(b"no message".to_vec())), 50).await.is_err());
    }
}
