//! The header pass over a caller's request: what belongs to one connection, to the proxy or to us is gone, in every
//! spelling, and everything else is as it was.
//!
//! The input is a header a line. It is the same pass that `benches/` measures.
#![no_main]

use countersign::proxy::header_pass;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// And Host, which is rebuilt from the destination.
const HOP_BY_HOP: &[&str] =
    &["connection", "host", "http2-settings", "keep-alive", "te", "transfer-encoding", "upgrade"];

fuzz_target!(|data: &[u8]| {
    let before = headers(data);
    let named = named_by_connection(&before);
    let mut after = before.clone();
    if header_pass(&mut after).is_err() {
        let unreadable = named.iter().any(|name| HeaderName::from_bytes(name).is_err());
        assert!(unreadable || frames_twice(&before), "refused: {before:?}");
        return;
    }
    assert!(!frames_twice(&after), "{after:?}");
    let put_back = put_back(&before, &after);
    for name in after.keys() {
        if put_back.contains(name) {
            continue;
        }
        assert!(!belongs_to_the_way(name), "{name} is left");
        assert!(
            !named.iter().any(|one| one.eq_ignore_ascii_case(name.as_ref())),
            "{name} is left; Connection names it"
        );
    }
    unchanged(&before, &after, &named, &put_back);

    let mut again = after.clone();
    assert!(header_pass(&mut again).is_ok() && again == after, "a second pass makes {again:?} of {after:?}");
});

fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value)
            && headers.try_append(name, value).is_err()
        {
            break;
        }
    }
    headers
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|token| token.trim_ascii().to_ascii_lowercase())
        .filter(|token| !token.is_empty())
        .collect()
}

fn named_by_connection(headers: &HeaderMap) -> Vec<Vec<u8>> {
    list(headers, &CONNECTION)
}

/// As a server reads a name that makes variables of headers: `_` is `-`, and one at the end is nothing.
fn spelling(name: &HeaderName) -> String {
    name.as_str().trim_end_matches('_').replace('_', "-")
}

fn belongs_to_the_way(name: &HeaderName) -> bool {
    let begins = |word: &str| name.as_str().strip_prefix(word).is_some_and(|rest| rest.starts_with(['-', '_']));
    HOP_BY_HOP.contains(&&*spelling(name)) || begins("proxy") || begins("countersign")
}

/// What two servers could read as two lengths, or two hosts; where HTTP/2 comes in, nothing has refused it before.
fn frames_twice(headers: &HeaderMap) -> bool {
    let frames = |name: &str| ["content-length", "host", "transfer-encoding"].contains(&name);
    headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        || headers.keys().any(|name| name.as_str().contains('_') && frames(&spelling(name)))
}

/// The three that the pass puts back: `TE: trailers` for gRPC, and the two of a WebSocket; each only when asked for.
fn put_back(before: &HeaderMap, after: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    if after.contains_key(TE) {
        assert_eq!(after.get_all(TE).iter().collect::<Vec<_>>(), ["trailers"]);
        assert!(list(before, &TE).contains(&b"trailers".to_vec()));
        names.push(TE);
    }
    assert_eq!(after.contains_key(CONNECTION), after.contains_key(UPGRADE));
    if after.contains_key(UPGRADE) {
        assert_eq!(after.get_all(CONNECTION).iter().collect::<Vec<_>>(), ["upgrade"]);
        assert_eq!(after.get_all(UPGRADE).iter().collect::<Vec<_>>(), ["websocket"]);
        assert!(list(before, &CONNECTION).contains(&b"upgrade".to_vec()));
        assert_eq!(list(before, &UPGRADE), [b"websocket"]);
        names.extend([CONNECTION, UPGRADE]);
    }
    names
}

/// End-to-end headers come through with all their values in their order; only cookies are joined.
fn unchanged(before: &HeaderMap, after: &HeaderMap, named: &[Vec<u8>], put_back: &[HeaderName]) {
    for name in before.keys().chain(after.keys()).filter(|name| !put_back.contains(name)) {
        let (old, new): (Vec<_>, Vec<_>) =
            (before.get_all(name).iter().collect(), after.get_all(name).iter().collect());
        if belongs_to_the_way(name) || named.iter().any(|one| **one == *name.as_str().as_bytes()) {
            assert!(new.is_empty(), "{name}");
        } else if *name == COOKIE {
            let joined = old.iter().map(|value| value.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
            assert_eq!(new.iter().map(|value| value.as_bytes()).collect::<Vec<_>>(), [&*joined]);
        } else {
            assert_eq!(old, new, "{name}");
        }
    }
}
