//! Spooling: a body that a scheme must hash is held, in memory up to 1 MiB, then in an unlinked temporary file.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{Context as Digest, SHA256, SHA512_256};
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::JoinHandle;

use crate::base::body::BoxError;
use crate::base::meter;
use crate::base::request::BodyDigest;
use crate::base::{Body, BodyNeed, Code, Refusal};

/// Held in memory up to here; most signed API calls are far smaller.
const MEMORY: usize = 1024 * 1024;

/// How much is read back from the file at a time.
const CHUNK: usize = 64 * 1024;

/// Reads a body to its end, hashing it, and returns it with its digest, ready to be sent as often as need be.
///
/// # Errors
/// `body_too_large` past `limit` bytes, `spool_full` when the file cannot be written, `bad_request` when the body breaks.
pub(super) async fn spool(mut body: Body, limit: u64, need: BodyNeed) -> Result<(Spooled, BodyDigest), Refusal> {
    let too_large = || {
        Refusal::new(
            Code::BodyTooLarge,
            format!("a body that must be hashed may have {limit} bytes (`limits.hashed_body`)"),
        )
    };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let mut digest = Digest::new(&SHA256);
    let mut further = Further::of(need);
    let mut memory = BytesMut::new();
    let mut file: Option<std::fs::File> = None;
    let mut length = 0_u64;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Refusal::bad_request("the request body ended before it was complete, or is malformed"))?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        length += data.len() as u64;
        if length > limit {
            return Err(too_large());
        }
        digest.update(&data);
        if let Some(further) = &mut further {
            further.update(&data);
        }
        memory.extend_from_slice(&data);
        if memory.len() > MEMORY {
            file = Some(append(file.take(), memory.split().freeze()).await?);
        }
    }
    meter::spooled(file.is_some(), length);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.finish().as_ref());
    let (held, whole) = match file {
        None => {
            let memory = memory.freeze();
            (Held::Memory(memory.clone()), Some(memory))
        }
        Some(file) => (Held::File { file: Arc::new(append(Some(file), memory.freeze()).await?), length }, None),
    };
    Ok((Spooled { held, trailers }, BodyDigest { sha256, further: further.map(Further::finish), length, whole }))
}

/// A hash beside SHA-256.
enum Further {
    Md5(md5::Md5),
    Digest(Digest),
}

impl Further {
    fn of(need: BodyNeed) -> Option<Self> {
        match need {
            BodyNeed::None | BodyNeed::Sha256 => None,
            BodyNeed::Md5 => Some(Self::Md5(md5::Md5::default())),
            BodyNeed::Sha512Trunc256 => Some(Self::Digest(Digest::new(&SHA512_256))),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Md5(digest) => md5::Digest::update(digest, data),
            Self::Digest(digest) => digest.update(data),
        }
    }

    fn finish(self) -> Box<[u8]> {
        match self {
            Self::Md5(digest) => md5::Digest::finalize(digest).as_slice().into(),
            Self::Digest(digest) => digest.finish().as_ref().into(),
        }
    }
}

/// A body that is held here.
pub(super) struct Spooled {
    held: Held,
    trailers: Option<http::HeaderMap>,
}

enum Held {
    Memory(Bytes),
    File { file: Arc<std::fs::File>, length: u64 },
}

impl Spooled {
    /// The body, to be sent; every call gives the same again.
    pub(super) fn body(&self) -> Body {
        let trailers = self.trailers.clone();
        match &self.held {
            Held::Memory(bytes) if trailers.is_none() => Body::full(bytes.clone()),
            Held::Memory(bytes) => Body::boxed(Outgoing { trailers, reading: Reading::Memory(bytes.clone()) }),
            Held::File { file, length } => {
                let place = Place { file: Arc::clone(file), at: 0, left: *length };
                Body::boxed(Outgoing { trailers, reading: Reading::Idle(place) })
            }
        }
    }
}

/// Writes a piece to the (already unlinked) file, off the async threads.
async fn append(file: Option<std::fs::File>, piece: Bytes) -> Result<std::fs::File, Refusal> {
    let written = tokio::task::spawn_blocking(move || -> std::io::Result<std::fs::File> {
        let mut file = match file {
            Some(file) => file,
            None => tempfile::tempfile()?,
        };
        file.write_all(&piece)?;
        Ok(file)
    });
    match written.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(full(&error)),
        Err(_) => Err(Refusal::new(Code::SpoolFull, "the temporary file could not be written")),
    }
}

fn full(error: &std::io::Error) -> Refusal {
    Refusal::new(
        Code::SpoolFull,
        format!("the temporary file in {} cannot be written: {error}", std::env::temp_dir().display()),
    )
}

/// Where the next piece of a file stands.
struct Place {
    file: Arc<std::fs::File>,
    at: u64,
    left: u64,
}

enum Reading {
    Memory(Bytes),
    Idle(Place),
    Busy(JoinHandle<std::io::Result<(Place, Bytes)>>),
}

/// A spooled body on its way out.
struct Outgoing {
    reading: Reading,
    trailers: Option<http::HeaderMap>,
}

impl Outgoing {
    fn is_spent(&self) -> bool {
        match &self.reading {
            Reading::Memory(bytes) => bytes.is_empty(),
            Reading::Idle(place) => place.left == 0,
            Reading::Busy(_) => false,
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.is_spent() {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let next = match std::mem::replace(&mut this.reading, Reading::Memory(Bytes::new())) {
                Reading::Memory(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Reading::Idle(place) => Reading::Busy(tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; CHUNK.min(usize::try_from(place.left).unwrap_or(CHUNK))];
                    let read = place.file.read_at(&mut piece, place.at)?;
                    piece.truncate(read);
                    let read = read as u64;
                    Ok((Place { at: place.at + read, left: place.left - read, ..place }, Bytes::from(piece)))
                })),
                Reading::Busy(mut job) => match Pin::new(&mut job).poll(cx) {
                    Poll::Pending => {
                        this.reading = Reading::Busy(job);
                        return Poll::Pending;
                    }
                    Poll::Ready(result) => {
                        let (place, piece) = result??;
                        if piece.is_empty() {
                            return Poll::Ready(Some(Err("the temporary file lost its end".into())));
                        }
                        this.reading = Reading::Idle(place);
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                },
            };
            this.reading = next;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_spent() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reading {
            Reading::Memory(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Reading::Idle(place) => SizeHint::with_exact(place.left),
            Reading::Busy(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref());
        out
    }

    #[tokio::test]
    async fn a_small_body_stays_in_memory_and_comes_back_whole() {
        let (body, facts) = spool(Body::full("hello"), 10, BodyNeed::Sha256).await.unwrap();
        assert_eq!(
            facts,
            BodyDigest { sha256: sha256(b"hello"), further: None, length: 5, whole: Some("hello".into()) }
        );
        assert_eq!(body.body().size_hint().exact(), Some(5));
        for _ in 0..2 {
            assert_eq!(body.body().collect().await.unwrap().to_bytes(), "hello");
        }
    }

    #[tokio::test]
    async fn a_large_body_goes_through_a_file_and_comes_back_whole() {
        let bytes: Vec<u8> = (0..3 * MEMORY + 17).map(|index| (index % 251) as u8).collect();
        let frames: Vec<_> =
            bytes.chunks(100_000).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let stream = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let (body, facts) = spool(Body::boxed(stream), u64::MAX, BodyNeed::Sha256).await.unwrap();
        assert_eq!((facts.length, facts.sha256), (bytes.len() as u64, sha256(&bytes)));
        assert!(facts.whole.is_none());
        assert_eq!(body.body().size_hint().exact(), Some(bytes.len() as u64));
        let (mut one, two) = (body.body(), body.body());
        // Two readers of one file do not disturb each other.
        assert!(one.frame().await.unwrap().is_ok());
        assert!(two.collect().await.unwrap().to_bytes() == bytes);
        assert!(one.collect().await.unwrap().to_bytes() == bytes[CHUNK..]);
    }

    #[tokio::test]
    async fn an_empty_body_is_hashed_too() {
        let (body, facts) = spool(Body::empty(), 0, BodyNeed::Sha256).await.unwrap();
        assert_eq!((facts.length, facts.sha256), (0, sha256(b"")));
        assert!(body.body().is_end_stream());
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused() {
        assert_eq!(spool(Body::full("hello"), 4, BodyNeed::Sha256).await.err().unwrap().code, Code::BodyTooLarge);
    }
}
