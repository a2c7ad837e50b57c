//! The path and query that go out: a presigned query of the caller's goes, and S3 gets its reserved characters escaped.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use url::form_urlencoded;

use super::OWNED_HEADERS;
use super::canonical::encode;
use crate::base::request::is_spelling_of;

/// What a presigned address said, made with the caller's worthless keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Presigned {
    /// The scope of its signature: `KEY/20260101/us-east-1/s3/aws4_request`, or without the region for SigV4a.
    pub(super) credential: Option<String>,
    /// The regions of a SigV4a signature.
    pub(super) region_set: Option<String>,
    /// It was signed with SigV4a.
    pub(super) asymmetric: bool,
    /// How its body was to be covered.
    pub(super) payload: Option<Vec<u8>>,
    /// Headers that the SDK had put into the query, where only a presigned request may have them.
    pub(super) hoisted: Vec<(HeaderName, HeaderValue)>,
}

/// What is requested.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Path and query as they go out.
    pub(super) wire: Cow<'a, str>,
    /// What the caller's presigned query said.
    pub(super) presigned: Option<Presigned>,
}

impl<'a> Target<'a> {
    /// Splits a presigned query off.
    pub(super) fn of(path_and_query: &'a str) -> Self {
        let Some((path, query)) = path_and_query.split_once('?') else {
            return Self { wire: path_and_query.into(), presigned: None };
        };
        // Nearly every query is not presigned, so this is looked at without decoding anything.
        if !query.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"signature")) {
            return Self { wire: path_and_query.into(), presigned: None };
        }
        let pairs: Vec<_> = query.split('&').map(|pair| (pair, decoded(pair))).collect();
        let has = |wanted: &str| pairs.iter().any(|(_, (name, _))| name.eq_ignore_ascii_case(wanted));
        let mut presigned = Presigned::default();
        let rest: Vec<&str> = if has("X-Amz-Signature") {
            pairs.iter().filter(|(_, (name, value))| !presigned.takes(name, value)).map(|(pair, _)| *pair).collect()
        } else if has("Signature") && has("AWSAccessKeyId") {
            let own = ["AWSAccessKeyId", "Signature", "Expires", "x-amz-security-token"];
            let kept = |name: &str| !own.iter().any(|own| own.eq_ignore_ascii_case(name));
            pairs.iter().filter(|(_, (name, _))| kept(name)).map(|(pair, _)| *pair).collect()
        } else {
            return Self { wire: path_and_query.into(), presigned: None };
        };
        let query = rest.join("&");
        let wire = if query.is_empty() { Cow::Borrowed(path).into_owned() } else { [path, "?", &query].concat() };
        Self { wire: wire.into(), presigned: Some(presigned) }
    }
}

/// Puts reserved characters of the path that stand there unescaped into `%XX`: S3 computes its side of the signature
/// that way. Escapes that are there stay as they are, and so does the query.
pub(super) fn escape_reserved(target: &mut Cow<'_, str>) {
    let end = target.find('?').unwrap_or(target.len());
    let path = target.as_bytes().get(..end).unwrap_or_default();
    if path.iter().enumerate().all(|(at, byte)| goes_as_it_is(path, at, *byte)) {
        return;
    }
    let mut wire = String::with_capacity(target.len() + 32);
    for (at, byte) in path.iter().enumerate() {
        if goes_as_it_is(path, at, *byte) {
            wire.push(char::from(*byte));
        } else {
            encode(&[*byte], true, &mut wire);
        }
    }
    wire.push_str(&target[end..]);
    *target = Cow::Owned(wire);
}

impl Presigned {
    /// Takes what belongs to the signature; says whether the pair goes from the query.
    fn takes(&mut self, name: &str, value: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "x-amz-algorithm" => self.asymmetric = value.starts_with("AWS4-ECDSA"),
            "x-amz-credential" => self.credential = Some(value.to_owned()),
            "x-amz-region-set" => self.region_set = Some(value.to_owned()),
            "x-amz-content-sha256" => self.payload = Some(value.as_bytes().to_vec()),
            "x-amz-date"
            | "x-amz-expires"
            | "x-amz-signedheaders"
            | "x-amz-signature"
            | "x-amz-security-token"
            | "x-amz-s3session-token" => {}
            other if other.starts_with("x-amz-") => {
                // In a spelling that some servers take for one of these, it goes with them.
                if OWNED_HEADERS.iter().any(|owned| is_spelling_of(other, owned.as_str())) {
                    return true;
                }
                let header = (HeaderName::from_bytes(other.as_bytes()), HeaderValue::from_str(value));
                let (Ok(name), Ok(value)) = header else { return false };
                self.hoisted.push((name, value));
            }
            _ => return false,
        }
        true
    }
}

fn decoded(pair: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default()
}

/// RFC 3986's unreserved characters, the slash, and escapes that are whole.
fn goes_as_it_is(path: &[u8], at: usize, byte: u8) -> bool {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => true,
        b'%' => path.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(path: &str) -> String {
        let mut target = Target::of(path);
        escape_reserved(&mut target.wire);
        target.wire.into_owned()
    }

    #[test]
    fn reserved_characters_of_a_path_are_escaped_and_escapes_are_left_alone() {
        assert_eq!(escaped("/b/a:b@c!$&'()*+,;=[]"), "/b/a%3Ab%40c%21%24%26%27%28%29%2A%2B%2C%3B%3D%5B%5D");
        assert_eq!(escaped("/b/%2f%7E%e4%"), "/b/%2f%7E%e4%25");
        assert_eq!(escaped("/b/%2"), "/b/%252");
        assert_eq!(escaped("/b//c/../d?x=a:b!"), "/b//c/../d?x=a:b!", "dots, slashes and the query stay");
        assert_eq!(escaped("/caf\u{e9}"), "/caf%C3%A9");
        assert!(matches!(Target::of("/plain?q=1").wire, Cow::Borrowed(_)), "nothing is copied for nothing");
    }

    #[test]
    fn a_presigned_query_goes_and_tells_what_it_was_for() {
        let target = Target::of(
            "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260101%2Feu-west-1%2Fs3%2Faws4_request&\
             X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&versionId=7&X-Amz-Signature=abc&\
             X-Amz-Security-Token=t&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x-amz-acl=private&x-id=GetObject",
        );
        assert_eq!(target.wire, "/k?versionId=7&x-id=GetObject");
        let presigned = target.presigned.unwrap();
        assert_eq!(presigned.credential.as_deref(), Some("AKID/20260101/eu-west-1/s3/aws4_request"));
        assert_eq!(presigned.payload.as_deref(), Some(&b"UNSIGNED-PAYLOAD"[..]));
        assert_eq!(presigned.hoisted.len(), 1);
        assert_eq!(presigned.hoisted[0].0, "x-amz-acl");
        let sly = Target::of("/k?X-Amz-Signature=0&X-Amz-Security_Token=evil&x-amz-date_=x&X%2DAmz-Region-Set=*");
        assert_eq!(sly.wire, "/k");
        assert!(sly.presigned.unwrap().hoisted.is_empty(), "no spelling of what signs becomes a header");
    }

    #[test]
    fn a_query_of_the_second_version_goes_too_and_a_parameter_of_the_apis_own_stays() {
        let target = Target::of("/k?AWSAccessKeyId=A&Signature=b%2B&Expires=1&acl");
        assert_eq!(target.wire, "/k?acl");
        assert!(target.presigned.is_some());
        let target = Target::of("/k?AWSAccessKeyId=A&Signature=b&Expires=1");
        assert_eq!(target.wire, "/k");
        for plain in ["/k?Expires=1", "/k?Signature=mine", "/k?signatureVersion=2&x-amz-acl=a"] {
            let target = Target::of(plain);
            assert!(target.wire == plain && target.presigned.is_none(), "{plain}");
        }
    }
}
