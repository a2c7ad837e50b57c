//! How a signature covers the body: the cheapest way that is right.

use serde::Deserialize;

use super::scope::Scope;
use crate::base::text::hex;
use crate::base::{Protocol, Refusal, RequestView};

/// What the operator wants of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// As the caller's SDK had it; without a word of it, S3 over TLS is not hashed and everything else is.
    #[default]
    Auto,
    /// Every body is covered by the signature.
    Signed,
    /// No body is hashed over TLS, for services that take `UNSIGNED-PAYLOAD`.
    Unsigned,
}

/// How one request's body is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is none.
    Empty,
    /// By the hash that the caller's SDK computed; the server compares.
    Stated(String),
    /// Not at all: TLS protects it.
    Unsigned,
    /// In chunks that are not signed, with a checksum at their end; TLS protects them.
    UnsignedChunks,
    /// Chunk by chunk, each signed here.
    Chunks {
        /// Checksums follow the last chunk.
        trailer: bool,
    },
    /// Event by event, each signed here.
    Events,
    /// By its hash, for which it has to be read first.
    Whole,
}

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const UNSIGNED_CHUNKS: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

impl Mode {
    /// Chooses. `wanted` is what the caller's SDK had put into `x-amz-content-sha256`.
    ///
    /// # Errors
    /// `bad_request` for a way that AWS does not have.
    pub(super) fn of(
        wanted: Option<&[u8]>,
        payload: Payload,
        scope: &Scope<'_>,
        view: &RequestView<'_>,
    ) -> Result<Self, Refusal> {
        let unsigned = view.destination.protocol() == Protocol::Https && payload != Payload::Signed;
        let Some(wanted) = wanted else {
            // S3 takes no body whose length nobody says.
            let trusted = if scope.is_s3() { view.length.is_some() } else { payload == Payload::Unsigned };
            return Ok(match view.length {
                Some(0) => Self::Empty,
                _ if unsigned && trusted => Self::Unsigned,
                _ => Self::Whole,
            });
        };
        let wanted = std::str::from_utf8(wanted).unwrap_or_default();
        Ok(match wanted {
            UNSIGNED_CHUNKS if unsigned => Self::UnsignedChunks,
            UNSIGNED_CHUNKS => Self::Chunks { trailer: true },
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD" => {
                Self::Chunks { trailer: false }
            }
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => {
                Self::Chunks { trailer: true }
            }
            "STREAMING-AWS4-HMAC-SHA256-EVENTS" if !scope.asymmetric => Self::Events,
            UNSIGNED if unsigned => Self::Unsigned,
            UNSIGNED if view.length == Some(0) => Self::Empty,
            UNSIGNED => Self::Whole,
            hash if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Self::Stated(hash.to_owned())
            }
            _ => {
                return Err(Refusal::bad_request(
                    "x-amz-content-sha256 is neither a SHA-256 in hexadecimal nor a way of signing that is known here",
                ));
            }
        })
    }

    /// What stands for the body in the canonical request, and in `x-amz-content-sha256`.
    ///
    /// # Errors
    /// `bad_request` when the body was to be hashed and was not.
    pub(super) fn text(&self, view: &RequestView<'_>, scope: &Scope<'_>) -> Result<String, Refusal> {
        let text = match (self, scope.asymmetric) {
            (Self::Empty, _) => "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            (Self::Stated(hash), _) => hash,
            (Self::Unsigned, _) => UNSIGNED,
            (Self::UnsignedChunks, _) => UNSIGNED_CHUNKS,
            (Self::Chunks { trailer: false }, false) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (Self::Chunks { trailer: true }, false) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (Self::Chunks { trailer: false }, true) => "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
            (Self::Chunks { trailer: true }, true) => "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
            (Self::Events, _) => "STREAMING-AWS4-HMAC-SHA256-EVENTS",
            (Self::Whole, _) => {
                let body = view.body.ok_or_else(|| Refusal::bad_request("the body was not read before signing"))?;
                return Ok(hex(&body.sha256));
            }
        };
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::base::Destination;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn mode(url: &str, payload: Payload, wanted: Option<&str>, length: Option<u64>, service: &str) -> Option<Mode> {
        let destination = Destination::from_upstream(url).unwrap();
        let headers = HeaderMap::new();
        let view = RequestView {
            method: &Method::PUT,
            path_and_query: "/",
            headers: &headers,
            removed: &headers,
            destination: &destination,
            length,
            body: None,
            narrowing: None,
        };
        Mode::of(wanted.map(str::as_bytes), payload, &Scope::for_tests(service, "us-east-1"), &view).ok()
    }

    #[test]
    fn the_cheapest_way_that_is_right_is_chosen() {
        use Mode::{Chunks, Empty, Events, Stated, Unsigned, UnsignedChunks, Whole};
        let (tls, clear) = ("https://a.test", "http://a.test");
        let (some, none, unknown) = (Some(9), Some(0), None);
        let (auto, signed, unsigned) = (Payload::Auto, Payload::Signed, Payload::Unsigned);
        let stated = || Stated(HASH.to_owned());
        let cases = [
            // Without a word of the client.
            (tls, auto, None, some, "s3", Some(Unsigned)),
            (tls, auto, None, unknown, "s3", Some(Whole)),
            (tls, auto, None, none, "s3", Some(Empty)),
            (clear, auto, None, some, "s3", Some(Whole)),
            (tls, auto, None, some, "sqs", Some(Whole)),
            (tls, signed, None, some, "s3", Some(Whole)),
            (tls, unsigned, None, some, "sqs", Some(Unsigned)),
            (tls, unsigned, None, unknown, "s3", Some(Whole)),
            (clear, unsigned, None, some, "sqs", Some(Whole)),
            // With one.
            (tls, auto, Some(HASH), some, "s3", Some(stated())),
            (clear, signed, Some(HASH), unknown, "sqs", Some(stated())),
            (tls, auto, Some("UNSIGNED-PAYLOAD"), some, "s3", Some(Unsigned)),
            (clear, auto, Some("UNSIGNED-PAYLOAD"), some, "s3", Some(Whole)),
            (clear, auto, Some("UNSIGNED-PAYLOAD"), none, "s3", Some(Empty)),
            (tls, signed, Some("UNSIGNED-PAYLOAD"), some, "s3", Some(Whole)),
            (tls, auto, Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), some, "s3", Some(UnsignedChunks)),
            (clear, auto, Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), some, "s3", Some(Chunks { trailer: true })),
            (tls, signed, Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), some, "s3", Some(Chunks { trailer: true })),
            (tls, auto, Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), some, "s3", Some(Chunks { trailer: false })),
            (tls, auto, Some("STREAMING-AWS4-HMAC-SHA256-EVENTS"), unknown, "transcribe", Some(Events)),
            // What nobody knows is refused.
            (tls, auto, Some("STREAMING-SOMEHOW"), some, "s3", None),
            (tls, auto, Some(&HASH[1..]), some, "s3", None),
            (tls, auto, Some(""), some, "s3", None),
        ];
        for (url, payload, wanted, length, service, expected) in cases {
            let chosen = mode(url, payload, wanted, length, service);
            assert_eq!(chosen, expected, "{url} {payload:?} {wanted:?} {length:?} {service}");
        }
    }
}
