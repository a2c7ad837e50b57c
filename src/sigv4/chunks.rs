//! Bodies that are signed chunk by chunk (`aws-chunked`): a caller's chunks are unwrapped and signed again as they pass.
//!
//! Follows <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html> and its page on trailers. One chunk is
//! held at a time. The chunks that go out are all of one size, whatever came in, so that the length is known beforehand.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_sigv4::sign::{v4, v4a};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::http::Headers;
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::canonical::stamp;
use super::scope::Scope;
use crate::base::authorizer::Rewrite;
use crate::base::body::BoxError;
use crate::base::text::hex;
use crate::base::{Body, Refusal, RequestView};

/// The size of every chunk but the last; S3 wants 8 KiB at least.
const CHUNK: usize = 64 * 1024;

/// The longest line: a size, and an extension with a signature.
const LINE: usize = 1024;

/// The most that trailers may have together; checksums have a hundred bytes.
const TRAILERS: usize = 8 * 1024;

/// SigV4a signatures of chunks are filled up to this length.
const ASYMMETRIC_SIGNATURE: usize = 144;

const OTHER_LENGTH: &str = "the chunks have another length than x-amz-decoded-content-length says";

/// The chunks of one body, not begun yet.
pub(super) struct Chunks {
    signer: ChunkSigner,
    /// What the caller says the body has without its wrapping.
    announced: Option<u64>,
    /// The lengths of the trailers' values, by their names, as far as the caller says which there will be.
    trailers: Option<usize>,
    trailing: bool,
}

impl Chunks {
    /// Prepares to sign chunks after the request's own signature.
    ///
    /// # Errors
    /// `bad_request` when the announced length is none.
    pub(super) fn new(
        view: &RequestView<'_>,
        scope: &Scope<'_>,
        identity: &Identity,
        time: SystemTime,
        signature: String,
    ) -> Result<Self, Refusal> {
        let header = |name: &str| view.headers.get(name).and_then(|value| value.to_str().ok());
        let announced = header("x-amz-decoded-content-length").map(|text| {
            text.trim().parse::<u64>().map_err(|_| Refusal::bad_request("x-amz-decoded-content-length is no length"))
        });
        let trailing = header("x-amz-trailer");
        let trailers = trailing.map_or(Some(0), |names| names.split(',').map(str::trim).map(trailer_line).sum());
        let signer = ChunkSigner {
            identity: identity.clone(),
            service: scope.service.clone().into_owned(),
            region: scope.region.clone().into_owned(),
            asymmetric: scope.asymmetric,
            time,
            last: signature,
        };
        Ok(Self { signer, announced: announced.transpose()?, trailers, trailing: trailing.is_some() })
    }

    /// The length of what goes out, when it can be told.
    pub(super) fn length(&self) -> Option<u64> {
        let signature = if self.signer.asymmetric { ASYMMETRIC_SIGNATURE } else { 64 };
        let around = |size: u64| -> u64 {
            let digits = format!("{size:x}").len();
            (digits + ";chunk-signature=".len() + signature + 2) as u64
        };
        let announced = self.announced?;
        let (whole, rest) = (announced / CHUNK as u64, announced % CHUNK as u64);
        let mut length = whole.checked_mul(CHUNK as u64 + around(CHUNK as u64) + 2)?;
        if rest > 0 {
            length = length.checked_add(rest + around(rest) + 2)?;
        }
        let trailers =
            if self.trailing { self.trailers? + "x-amz-trailer-signature:".len() + signature + 2 } else { 0 };
        length.checked_add(around(0) + trailers as u64 + 2)
    }

    /// What makes the caller's body the one that goes out.
    pub(super) fn rewrite(self) -> Rewrite {
        Box::new(move |body| {
            let left = self.length();
            Body::boxed(Rechunked {
                inner: body,
                unread: Bytes::new(),
                state: State::Size,
                line: Vec::with_capacity(128),
                chunk: BytesMut::new(),
                trailers: Vec::new(),
                decoded: 0,
                left,
                out: VecDeque::new(),
                ended: false,
                chunks: self,
            })
        })
    }
}

/// The length of a trailer's line, for the checksums that S3 knows.
fn trailer_line(name: &str) -> Option<usize> {
    let value = match name.to_ascii_lowercase().as_str() {
        "x-amz-checksum-crc32" | "x-amz-checksum-crc32c" => 8,
        "x-amz-checksum-crc64nvme" => 12,
        "x-amz-checksum-sha1" => 28,
        "x-amz-checksum-sha256" => 44,
        _ => return None,
    };
    Some(name.len() + 1 + value + 2)
}

/// Signs one chunk after the other, each signature being part of the next.
struct ChunkSigner {
    identity: Identity,
    service: String,
    region: String,
    asymmetric: bool,
    time: SystemTime,
    last: String,
}

impl ChunkSigner {
    fn chunk(&mut self, data: &Bytes) -> Result<String, BoxError> {
        if self.asymmetric {
            let hashes = format!("{}\n{}", hex(digest(&SHA256, b"").as_ref()), hex(digest(&SHA256, data).as_ref()));
            return self.asymmetric("AWS4-ECDSA-P256-SHA256-PAYLOAD", &hashes);
        }
        let signature = v4::sign_chunk(data, &self.last, &self.params()?)?.into_parts().1;
        Ok(self.keep(signature))
    }

    fn trailer(&mut self, trailers: &[(String, String)]) -> Result<String, BoxError> {
        if self.asymmetric {
            let mut sorted: Vec<_> = trailers.iter().collect();
            sorted.sort();
            let lines: String = sorted.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            return self.asymmetric("AWS4-ECDSA-P256-SHA256-TRAILER", &hex(digest(&SHA256, lines.as_bytes()).as_ref()));
        }
        let mut headers = Headers::new();
        for (name, value) in trailers {
            headers.try_append(name.clone(), value.clone())?;
        }
        let signature = v4::sign_trailer(&headers, &self.last, &self.params()?)?.into_parts().1;
        Ok(self.keep(signature))
    }

    fn params(&self) -> Result<v4::SigningParams<'_, ()>, BoxError> {
        let params = v4::SigningParams::builder().identity(&self.identity).region(&self.region);
        Ok(params.name(&self.service).time(self.time).settings(()).build()?)
    }

    fn asymmetric(&mut self, algorithm: &str, hashes: &str) -> Result<String, BoxError> {
        let keys = self.identity.data::<aws_credential_types::Credentials>().ok_or("there are no keys")?;
        let stamp = stamp(self.time);
        let scope = format!("{}/{}/aws4_request", stamp.get(..8).unwrap_or_default(), self.service);
        let text = format!("{algorithm}\n{stamp}\n{scope}\n{}\n{hashes}", self.last);
        let key = v4a::generate_signing_key(keys.access_key_id(), keys.secret_access_key());
        let signature = v4a::calculate_signature(key, text.as_bytes());
        let filled = format!("{signature:*<ASYMMETRIC_SIGNATURE$}");
        self.keep(signature);
        Ok(filled)
    }

    fn keep(&mut self, signature: String) -> String {
        self.last.clone_from(&signature);
        signature
    }
}

/// What comes next of the caller's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `size;chunk-signature=…` and a line end.
    Size,
    /// So many bytes.
    Data(u64),
    /// The line end after a chunk.
    After,
    /// Trailers, then an empty line.
    Trailers,
    /// Nothing.
    End,
}

/// A body on its way through.
struct Rechunked {
    inner: Body,
    unread: Bytes,
    state: State,
    line: Vec<u8>,
    /// What was unwrapped and is not signed yet.
    chunk: BytesMut,
    trailers: Vec<(String, String)>,
    decoded: u64,
    /// What is still to come out, when that is known.
    left: Option<u64>,
    out: VecDeque<Bytes>,
    ended: bool,
    chunks: Chunks,
}

impl Rechunked {
    /// Reads as much as one step takes.
    fn step(&mut self) -> Result<(), BoxError> {
        match self.state {
            State::Data(left) => {
                let room = (CHUNK - self.chunk.len()) as u64;
                let take = usize::try_from(left.min(room))?.min(self.unread.len());
                self.chunk.extend_from_slice(&self.unread.split_to(take));
                self.decoded += take as u64;
                if self.chunks.announced.is_some_and(|announced| self.decoded > announced) {
                    return Err(OTHER_LENGTH.into());
                }
                self.state = if left == take as u64 { State::After } else { State::Data(left - take as u64) };
                if self.chunk.len() == CHUNK {
                    self.emit()?;
                }
                Ok(())
            }
            State::End => Err("bytes follow the end of the chunks".into()),
            State::Size | State::After | State::Trailers => {
                let end = self.unread.iter().position(|byte| *byte == b'\n');
                let piece = self.unread.split_to(end.map_or(self.unread.len(), |end| end + 1));
                self.line.extend_from_slice(&piece);
                if self.line.len() > LINE {
                    return Err("a line between chunks is too long".into());
                }
                if end.is_some() {
                    let line = std::mem::take(&mut self.line);
                    self.line_ended(line.trim_ascii_end())?;
                }
                Ok(())
            }
        }
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<(), BoxError> {
        match self.state {
            State::Size => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let digits = std::str::from_utf8(size).ok().filter(|size| size.bytes().all(|b| b.is_ascii_hexdigit()));
                let size =
                    digits.and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or("a chunk without a size")?;
                self.state = if size == 0 { State::Trailers } else { State::Data(size) };
            }
            State::After if line.is_empty() => self.state = State::Size,
            State::After => return Err("a chunk is longer than its size".into()),
            _ if line.is_empty() => return self.finish(),
            _ => {
                let line = std::str::from_utf8(line)?;
                let (name, value) = line.split_once(':').ok_or("a trailer without a colon")?;
                let held: usize = self.trailers.iter().map(|(name, value)| name.len() + value.len()).sum();
                if held + line.len() > TRAILERS {
                    return Err("the trailers are too long".into());
                }
                let name = name.trim().to_ascii_lowercase();
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                    return Err("a trailer without a name".into());
                }
                // The caller's own, made with its worthless keys.
                if name != "x-amz-trailer-signature" {
                    self.trailers.push((name, value.trim().to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Signs what was unwrapped and puts it out.
    fn emit(&mut self) -> Result<(), BoxError> {
        let data = self.chunk.split().freeze();
        let signature = self.chunks.signer.chunk(&data)?;
        self.out.push_back(format!("{:x};chunk-signature={signature}\r\n", data.len()).into());
        self.out.push_back(data);
        self.out.push_back(Bytes::from_static(b"\r\n"));
        Ok(())
    }

    /// Signs the rest, the last chunk, which is empty, and the trailers.
    fn finish(&mut self) -> Result<(), BoxError> {
        if self.chunks.announced.is_some_and(|announced| announced != self.decoded) {
            return Err(OTHER_LENGTH.into());
        }
        if !self.chunk.is_empty() {
            self.emit()?;
        }
        let mut last = format!("0;chunk-signature={}\r\n", self.chunks.signer.chunk(&Bytes::new())?);
        if self.chunks.trailing {
            for (name, value) in &self.trailers {
                last.push_str(&format!("{name}:{value}\r\n"));
            }
            let signature = self.chunks.signer.trailer(&self.trailers)?;
            last.push_str(&format!("x-amz-trailer-signature:{signature}\r\n"));
        }
        last.push_str("\r\n");
        self.out.push_back(last.into());
        let rest: usize = self.out.iter().map(Bytes::len).sum();
        if self.left.is_some_and(|left| left != rest as u64) {
            return Err("the trailers are not those that were announced".into());
        }
        self.state = State::End;
        Ok(())
    }
}

impl HttpBody for Rechunked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.out.pop_front() {
                if let Some(left) = &mut this.left {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.unread.has_remaining() {
                if let Err(error) = this.step() {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                continue;
            }
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                // Trailers of the message itself are none of aws-chunked.
                Some(Ok(frame)) => this.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    let complete = match this.state {
                        State::End => Ok(()),
                        // Some clients leave the last empty line away.
                        State::Trailers if this.line.is_empty() => this.finish(),
                        _ => Err("the body ended inside a chunk".into()),
                    };
                    if let Err(error) = complete {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.out.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_credential_types::Credentials;
    use http_body_util::BodyExt;

    use super::*;

    /// The example of AWS's pages: 66,560 times `a`, of 2013-05-24.
    fn example(asymmetric: bool, seed: &str, announced: Option<u64>, trailing: Option<&str>) -> Chunks {
        let keys =
            Credentials::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None, None, "a test");
        let signer = ChunkSigner {
            identity: keys.into(),
            service: "s3".into(),
            region: if asymmetric { "*" } else { "us-east-1" }.into(),
            asymmetric,
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600),
            last: seed.into(),
        };
        let trailers = trailing.map_or(Some(0), trailer_line);
        Chunks { signer, announced, trailers, trailing: trailing.is_some() }
    }

    /// What comes out of a body that comes in pieces of this size.
    async fn rewritten(chunks: Chunks, body: &[u8], piece: usize) -> Result<String, String> {
        let frames: Vec<_> = body.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let stream = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let length = chunks.length();
        let out = chunks.rewrite()(Body::boxed(stream));
        let out = out.collect().await.map_err(|error| error.to_string())?.to_bytes();
        if let Some(length) = length {
            assert_eq!(length, out.len() as u64, "the length that was announced");
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    fn wrapped(data: &[u8], chunk: usize, end: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in data.chunks(chunk) {
            body.extend_from_slice(format!("{:X};chunk-signature={}\r\n", piece.len(), "0".repeat(64)).as_bytes());
            body.extend_from_slice(piece);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(end.as_bytes());
        body
    }

    const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    const END: &str = "0;chunk-signature=worthless\r\n\r\n";

    #[tokio::test]
    async fn chunks_are_signed_as_the_page_of_aws_shows_however_they_came_in() {
        let data = vec![b'a'; 66_560];
        let expected = format!(
            "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n{}\r\n\
             400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n{}\r\n\
             0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
            "a".repeat(65_536),
            "a".repeat(1024)
        );
        for (chunk, piece) in [(65_536, 100_000), (8192, 7), (66_560, 65_537), (1, 1_000_000), (50_000, 1)] {
            let body = wrapped(&data, chunk, END);
            let out = rewritten(example(false, SEED, Some(66_560), None), &body, piece).await.unwrap();
            assert!(out == expected, "chunks of {chunk}, pieces of {piece}");
        }
        let unfinished = wrapped(&data, 9000, "0;chunk-signature=x\r\n");
        let out = rewritten(example(false, SEED, Some(66_560), None), &unfinished, 5000).await.unwrap();
        assert!(out == expected, "some clients leave the last line away");
    }

    #[tokio::test]
    async fn trailers_are_signed_as_the_page_of_aws_shows_whether_the_chunks_were_signed_or_not() {
        let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
        let name = "x-amz-checksum-crc32c";
        for end in [
            "0\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n\r\n".to_owned(),
            "0;chunk-signature=0\r\nX-Amz-Checksum-Crc32c: sOO8/Q==\nx-amz-trailer-signature:0\r\n\r\n".to_owned(),
        ] {
            let body = wrapped(&vec![b'a'; 66_560], 10_000, &end);
            let out = rewritten(example(false, seed, Some(66_560), Some(name)), &body, 1000).await.unwrap();
            assert!(out.starts_with(
                "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
            ));
            assert!(out.ends_with(
                "0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n\
                 x-amz-checksum-crc32c:sOO8/Q==\r\n\
                 x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
            ));
        }
    }

    #[tokio::test]
    async fn asymmetric_signatures_are_filled_up_so_that_the_length_is_known() {
        let body = wrapped(b"hello", 5, "0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n");
        let chunks = example(true, SEED, Some(5), Some("x-amz-checksum-crc32"));
        let out = rewritten(chunks, &body, 3).await.unwrap();
        let line = out.lines().next().unwrap();
        assert_eq!(line.len(), "5;chunk-signature=".len() + ASYMMETRIC_SIGNATURE);
        assert!(line["5;chunk-signature=".len()..].starts_with("30"), "DER in hexadecimal: {line}");
    }

    #[tokio::test]
    async fn an_empty_body_has_one_chunk() {
        let out = rewritten(example(false, SEED, Some(0), None), END.as_bytes(), 100).await.unwrap();
        assert!(out.starts_with("0;chunk-signature=") && out.ends_with("\r\n\r\n"), "{out}");
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_it_says_fails() {
        let refused = [
            ("5;chunk-signature=0\r\nhel", "inside a chunk"),
            ("5\r\nhello!\r\n0\r\n\r\n", "longer than its size"),
            ("x\r\nhello\r\n", "without a size"),
            ("\r\n", "without a size"),
            ("+5\r\nhello\r\n0\r\n\r\n", "without a size"),
            ("-1\r\n", "without a size"),
            ("fffffffffffffffff\r\n", "without a size"),
            ("4\r\nhell\r\n0\r\n\r\n", "another length"),
            ("6\r\nhello!", "another length"),
            ("5\r\nhello\r\n0\r\n\r\nmore", "follow the end"),
            ("5\r\nhello\r\n0\r\nno trailer\r\n\r\n", "colon"),
            ("5\r\nhello\r\n0\r\na b:c\r\n\r\n", "without a name"),
        ];
        for (body, why) in refused {
            let error = rewritten(example(false, SEED, Some(5), None), body.as_bytes(), 4).await.unwrap_err();
            assert!(error.contains(why), "{body:?}: {error}");
        }
        let endless = "5".repeat(LINE + 1);
        let error = rewritten(example(false, SEED, Some(5), None), endless.as_bytes(), 100).await.unwrap_err();
        assert!(error.contains("too long"), "{error}");
        let trailers = format!("0\r\n{}", format!("a:{}\r\n", "b".repeat(900)).repeat(20));
        let error = rewritten(example(false, SEED, Some(0), Some("a")), trailers.as_bytes(), 900).await.unwrap_err();
        assert!(error.contains("trailers are too long"), "{error}");
        let other = "5\r\nhello\r\n0\r\nx-amz-checksum-sha256:abc\r\n\r\n";
        let chunks = example(false, SEED, Some(5), Some("x-amz-checksum-crc32"));
        let error = rewritten(chunks, other.as_bytes(), 100).await.unwrap_err();
        assert!(error.contains("announced"), "{error}");
    }

    #[tokio::test]
    async fn whatever_bytes_come_there_is_an_end_and_no_panic() {
        let seed = wrapped(b"hello world, hello world", 7, "0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n");
        let mut next = super::super::generator(0x2545_f491_4f6c_dd1d);
        let mut passed = 0;
        for _ in 0..3000 {
            let mut body = seed.clone();
            for _ in 0..next(4) {
                let at = next(body.len());
                match next(4) {
                    0 => body[at] = b"\r\n;:0fF\0\xff"[next(9)],
                    1 => drop(body.remove(at)),
                    2 => body.insert(at, b"\r\n0a;"[next(5)]),
                    _ => body.truncate(at.max(1)),
                }
            }
            let piece = 1 + next(40);
            passed += usize::from(rewritten(example(false, SEED, None, None), &body, piece).await.is_ok());
        }
        assert!((500..2900).contains(&passed), "{passed}");
    }

    #[test]
    fn a_length_is_told_only_when_it_is_known() {
        let sized = |announced, trailing| example(false, SEED, announced, trailing).length();
        assert_eq!(sized(Some(66_560), None), Some(66_824), "as the page of AWS says");
        assert!(sized(None, None).is_none());
        assert!(sized(Some(5), Some("x-amz-checksum-crc64nvme")).is_some());
        assert!(sized(Some(5), Some("x-my-own")).is_none());
        assert!(sized(Some(u64::MAX), None).is_none());
    }
}
