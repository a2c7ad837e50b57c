//! The header pass: what belongs to one connection, to the proxy or to us goes, before anything is signed.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE,
};

use crate::base::Refusal;
use crate::base::request::is_spelling_of;

/// What the header pass found on its way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The caller wants to speak WebSocket after this.
    pub(super) websocket: bool,
    /// The caller waits for `100 Continue`.
    pub(super) expects_continue: bool,
}

/// A second Host header is how two servers are made to see two hosts.
///
/// # Errors
/// `bad_request`.
pub fn refuse_two_hosts(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Refusal::bad_request("two Host headers"));
    }
    Ok(())
}

/// Hop-by-hop headers (RFC 9110 section 7.6.1 and the customary ones), beside those named in `Connection`.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    const NAMES: [&str; 6] = ["connection", "http2-settings", "keep-alive", "te", "transfer-encoding", "upgrade"];
    NAMES.iter().any(|hop| is_spelling_of(name.as_str(), hop))
}

/// Every `Proxy-*` and `Countersign-*` header, also when spelt with `_`.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    let begins = |word: &str| name.strip_prefix(word).is_some_and(|rest| rest.starts_with(['-', '_']));
    begins("proxy") || begins("countersign")
}

/// Headers that frame or route a message.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "host"];

/// Cleans a caller's request. Host goes too: it is rebuilt from the destination.
///
/// # Errors
/// `bad_request` for a `Connection` header that is no list of names.
pub(super) fn clean_request(headers: &mut HeaderMap) -> Result<Found, Refusal> {
    let mut found = Found::default();
    let mut upgrade = false;
    let mut gone: Vec<HeaderName> = Vec::new();
    for (name, value) in headers.iter() {
        if *name == HOST {
            continue;
        }
        if *name == CONNECTION {
            for token in tokens(value).filter(|token| !goes_anyway(token)) {
                let token = HeaderName::from_bytes(token)
                    .map_err(|_| Refusal::bad_request("the Connection header is not a list of names"))?;
                gone.push(token);
            }
        } else if *name == EXPECT {
            found.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        if name.as_str().as_bytes().contains(&b'_')
            && FRAMING.iter().any(|framing| is_spelling_of(name.as_str(), framing))
        {
            return Err(Refusal::bad_request("a header looks like one that frames the message"));
        }
        if is_hop_by_hop(name) || is_ours(name) {
            upgrade |= *name == UPGRADE;
            if *name != CONNECTION {
                gone.push(name.clone());
            }
        }
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Refusal::bad_request("two Content-Length headers"));
    }
    found.expects_continue &= !gone.contains(&EXPECT);
    found.websocket = upgrade && is_websocket(headers);
    let trailers = headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    headers.remove(HOST);
    headers.remove(CONNECTION);
    for name in gone {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if found.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    join_cookies(headers)?;
    Ok(found)
}

/// Only WebSocket passes: any other protocol after the switch (h2c above all) would carry requests that nobody judges.
fn is_websocket(headers: &HeaderMap) -> bool {
    let asks = headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut protocols = headers.get_all(UPGRADE).iter().flat_map(tokens);
    asks && protocols.next().is_some_and(|name| name.eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

/// HTTP/2 may split the cookie into many fields; HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined =
        HeaderValue::from_bytes(&parts.join(&b"; "[..])).map_err(|_| Refusal::bad_request("malformed cookies"))?;
    headers.insert(COOKIE, joined);
    Ok(())
}

/// Removes the caller's own copies of the headers that a scheme sets, in every spelling, and returns the plain ones.
pub(super) fn remove_owned(headers: &mut HeaderMap, owned: &[HeaderName]) -> HeaderMap {
    let copies: Vec<_> = headers
        .keys()
        .filter(|name| owned.iter().any(|own| is_spelling_of(name.as_str(), own.as_str())))
        .cloned()
        .collect();
    let mut removed = HeaderMap::new();
    for name in copies {
        if let Entry::Occupied(entry) = headers.entry(&name) {
            let (_, values) = entry.remove_entry_mult();
            for value in values.filter(|_| owned.contains(&name)) {
                removed.append(&name, value);
            }
        }
    }
    removed
}

/// Whether a trailer field of a caller's may go on: it must be nothing that the header pass would have taken away.
pub(super) fn trailer_passes(name: &HeaderName, owned: &[HeaderName]) -> bool {
    let framing = |name: &str| FRAMING.iter().any(|framing| is_spelling_of(name, framing));
    !is_hop_by_hop(name)
        && !is_ours(name)
        && !framing(name.as_str())
        && !owned.iter().any(|own| is_spelling_of(name.as_str(), own.as_str()))
}

/// Cleans an upstream's answer: only what belongs to that one connection goes, and what would pass for our own word.
pub(super) fn clean_response(headers: &mut HeaderMap, switching: bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for (name, value) in headers.iter() {
        if *name == CONNECTION {
            let named = tokens(value).filter(|token| !goes_anyway(token));
            gone.extend(named.filter_map(|token| HeaderName::from_bytes(token).ok()));
        } else if matches!(
            name.as_str(),
            "keep-alive"
                | "transfer-encoding"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authentication-info"
        ) || (*name == UPGRADE && !switching)
            || (name == "proxy-status" && claims_to_be_us(value))
        {
            gone.push(name.clone());
        }
    }
    headers.remove(CONNECTION);
    for name in gone.into_iter().filter(|name| !(switching && *name == UPGRADE)) {
        headers.remove(name);
    }
    if switching {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// A `Proxy-Status` entry in our name from an upstream would make its 401 look like our refusal.
fn claims_to_be_us(value: &HeaderValue) -> bool {
    value.as_bytes().to_ascii_lowercase().windows(11).any(|window| window == b"countersign")
}

/// The token that nearly every `Connection` header holds; the header of that name goes wherever it stands.
fn goes_anyway(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive")
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_proxy_and_countersign_headers_are_gone() {
        let mut headers = map(&[
            ("host", "a.test"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("proxy_authorization", "x"),
            ("countersign-credential", "x"),
            ("countersign_authorization", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("accept", "*/*"),
        ]);
        clean_request(&mut headers).unwrap();
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn te_trailers_stays_for_grpc() {
        let mut headers = map(&[("te", "gzip;q=1, Trailers")]);
        clean_request(&mut headers).unwrap();
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn only_websocket_survives_as_an_upgrade() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]);
        assert!(clean_request(&mut headers).unwrap().websocket);
        assert_eq!(names(&headers), ["connection", "upgrade"]);
        for (connection, upgrade) in [("upgrade", "h2c"), ("keep-alive", "websocket"), ("upgrade", "websocket, h2c")] {
            let mut headers = map(&[("connection", connection), ("upgrade", upgrade)]);
            assert!(!clean_request(&mut headers).unwrap().websocket);
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn owned_headers_go_in_every_spelling() {
        let mut headers = map(&[
            ("authorization", "a"),
            ("authorization", "b"),
            ("authorization_", "c"),
            ("x_api_key", "d"),
            ("x_other", "e"),
        ]);
        let removed = remove_owned(&mut headers, &[http::header::AUTHORIZATION, HeaderName::from_static("x-api-key")]);
        assert_eq!(names(&headers), ["x_other"]);
        assert_eq!(removed.get_all("authorization").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(removed.len(), 2, "other spellings tell nothing");
    }

    #[test]
    fn split_cookies_become_one() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        clean_request(&mut headers).unwrap();
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_answer_loses_what_was_the_connections_and_what_claims_to_be_ours() {
        let mut headers = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("proxy-authenticate", "Basic"),
            ("location", "/x"),
            ("proxy-status", "Countersign; error=dns_error"),
            ("proxy-status", "edge; error=dns_error"),
        ]);
        clean_response(&mut headers, false);
        assert_eq!(names(&headers), ["location"]);
    }

    #[test]
    fn what_frames_a_message_is_neither_doubled_nor_imitated() {
        for pairs in [
            [("content-length", "1"), ("content-length", "1")],
            [("content_length", "1"), ("a", "b")],
            [("transfer_encoding", "x"), ("a", "b")],
        ] {
            assert!(clean_request(&mut map(&pairs)).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn trailers_are_judged_like_headers() {
        let owned = [http::header::AUTHORIZATION];
        for name in
            ["authorization", "authorization_", "proxy-x", "countersign_x", "connection", "content-length", "host"]
        {
            assert!(!trailer_passes(&HeaderName::from_static(name), &owned), "{name}");
        }
        assert!(trailer_passes(&HeaderName::from_static("grpc-status"), &owned));
    }

    #[test]
    fn two_hosts_are_refused() {
        assert!(refuse_two_hosts(&map(&[("host", "a"), ("host", "a")])).is_err());
        assert!(refuse_two_hosts(&map(&[("host", "a")])).is_ok());
    }
}
