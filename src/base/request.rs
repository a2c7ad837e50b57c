//! What a scheme sees of a request, and what it needs of the body.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::destination::Destination;

/// What a scheme must know of the body before it can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyNeed {
    /// Nothing: the body streams.
    None,
    /// Its SHA-256 and its length: the body is spooled first.
    Sha256,
    /// The same and its MD5, for RFC 7616.
    Md5,
    /// The same and its SHA-512/256, for RFC 7616.
    Sha512Trunc256,
}

/// The facts of a spooled body.
#[derive(Clone, PartialEq, Eq)]
pub struct BodyDigest {
    /// SHA-256 of all its bytes.
    pub sha256: [u8; 32],
    /// The further hash that was asked for.
    pub further: Option<Box<[u8]>>,
    /// Its length in bytes.
    pub length: u64,
    /// All of it, if it was small enough to stay in memory.
    pub whole: Option<Bytes>,
}

impl fmt::Debug for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyDigest").field("length", &self.length).finish_non_exhaustive()
    }
}

/// What a binding allows of a provider whose hosts hold many services (AWS). An empty list allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Signing names of services, lower case.
    pub services: Vec<String>,
    /// Regions.
    pub regions: Vec<String>,
    /// Names of API actions; one that ends in `*` means every action that begins so.
    pub actions: Vec<String>,
}

/// Reads a list of a binding that must not be empty: no element would mean every one.
///
/// # Errors
/// When it is empty, or no list of texts.
pub fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<String> = serde::Deserialize::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(serde::de::Error::custom(
            "an empty list would allow everything; leave the key out, or list what is allowed",
        ));
    }
    Ok(list)
}

impl Narrowing {
    /// Checks the name of a service, as it stands in signatures.
    ///
    /// # Errors
    /// What such a name looks like.
    pub fn service(text: &str) -> Result<String, String> {
        let lower = text.to_ascii_lowercase();
        let plain = !lower.is_empty() && lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain.then_some(lower).ok_or_else(|| format!("`{text}` is not the name of a service, such as s3 or ec2"))
    }

    /// Checks the name of a region; `*` is the region of what is everywhere.
    ///
    /// # Errors
    /// What such a name looks like.
    pub fn region(text: &str) -> Result<String, String> {
        if text == "*" {
            return Ok(text.to_owned());
        }
        Self::service(text).map_err(|_| format!("`{text}` is not a region, such as us-east-1"))
    }

    /// Checks the name of an action, or of many by their beginning and `*`.
    ///
    /// # Errors
    /// What such a name looks like.
    pub fn action(text: &str) -> Result<String, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !text.is_empty();
        plain.then(|| text.to_owned()).ok_or_else(|| {
            format!(
                "`{text}` is not an action, such as DescribeInstances or Describe*; the service stands under `services`"
            )
        })
    }

    /// Whether it allows everything.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.regions.is_empty() && self.actions.is_empty()
    }
}

/// A request exactly as it will be sent, borrowed for the time of signing.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query, byte for byte as on the wire; `/` when the caller sent none.
    pub path_and_query: &'a str,
    /// The end-to-end headers, the caller's copies of owned headers already gone.
    pub headers: &'a HeaderMap,
    /// Those copies: nothing to send, but a client's own worthless signature tells what it wanted.
    pub removed: &'a HeaderMap,
    /// Where it goes.
    pub destination: &'a Destination,
    /// The body's length in bytes, when it is known before the body is read.
    pub length: Option<u64>,
    /// Present when the scheme asked for [`BodyNeed::Sha256`].
    pub body: Option<&'a BodyDigest>,
    /// What the binding allows of the provider's services.
    pub narrowing: Option<&'a Narrowing>,
}

/// Whether two header names are spellings of one: servers that make variables of headers read `_` as `-`, and some drop
/// an underscore at the end. Both are lower case, as [`http::HeaderName`] keeps them.
pub fn is_spelling_of(one: &str, other: &str) -> bool {
    let (one, other) = (plain(one.as_bytes()), plain(other.as_bytes()));
    let read = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| read(*one) == read(*other))
}

/// A name without the underscores at its end.
fn plain(mut name: &[u8]) -> &[u8] {
    while let [rest @ .., b'_'] = name {
        name = rest;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_is_another_spelling_of_a_hyphen() {
        assert!(is_spelling_of("x_api-key", "x-api-key"));
        assert!(is_spelling_of("authorization", "authorization"));
        assert!(is_spelling_of("authorization_", "authorization"));
        assert!(is_spelling_of("x-api-key", "x_api_key"));
        assert!(!is_spelling_of("x-api-keys", "x-api-key"));
        assert!(!is_spelling_of("x.api-key", "x-api-key"));
    }
}
