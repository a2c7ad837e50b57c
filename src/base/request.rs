//! What a scheme sees of a request, and what it needs of the body.

use http::{HeaderMap, Method};

use super::destination::Destination;

/// What a scheme must know of the body before it can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyNeed {
    /// Nothing: the body streams.
    None,
    /// Its SHA-256 and its length: the body is spooled first.
    Sha256,
}

/// The facts of a spooled body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyDigest {
    /// SHA-256 of all its bytes.
    pub sha256: [u8; 32],
    /// Its length in bytes.
    pub length: u64,
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
    /// Where it goes.
    pub destination: &'a Destination,
    /// Present when the scheme asked for [`BodyNeed::Sha256`].
    pub body: Option<BodyDigest>,
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
