//! Where a service's answer holds something: a header, a cookie, a place in its JSON, or all of its body.

use std::time::{Duration, SystemTime};

use http::HeaderName;
use http::header::SET_COOKIE;
use serde_json::Value;

use super::moment::{Moment, lifetime};
use super::service::Reply;
use crate::base::Secret;

/// A place in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header; of several the first that is not empty.
    Header(HeaderName),
    /// A cookie that the answer sets; of several the last, as RFC 6265 section 5.3 has it.
    Cookie(String),
    /// A place in the JSON body (RFC 6901).
    Pointer(String),
    /// The whole body, as a JSON string or as plain text.
    Body,
}

impl Place {
    /// The text that stands there: of JSON a string or a whole number. Nothing when there is none, or an empty one.
    pub fn text(&self, reply: &Reply) -> Option<Secret> {
        let text = match self {
            Self::Header(name) => {
                let values = reply.headers().get_all(name).iter();
                values.map(|value| value.as_bytes().trim_ascii()).find(|value| !value.is_empty()).map(Secret::new)?
            }
            Self::Cookie(name) => Secret::new(cookie(reply, name)?.value),
            Self::Pointer(pointer) => scalar(reply.document()?.pointer(pointer)?)?,
            Self::Body => match reply.document() {
                Some(Value::String(text)) => Secret::new(text),
                // Whatever else is JSON is no token, nor is a page for people.
                Some(_) => return None,
                None => plain(reply.body().expose())?,
            },
        };
        (!text.is_empty()).then_some(text)
    }

    /// How long something lives from `now`, as it is said there; of a cookie, how long that does.
    pub fn lifetime(&self, reply: &Reply, form: Option<Moment>, now: SystemTime) -> Option<Duration> {
        if let Self::Cookie(name) = self {
            return cookie(reply, name)?.life(now);
        }
        lifetime(self.text(reply)?.expose_str()?, form, now)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "in its header {name}"),
            Self::Cookie(name) => write!(f, "in a cookie {name}"),
            Self::Pointer(pointer) => write!(f, "at {pointer} in its JSON"),
            Self::Body => f.write_str("that its whole body would be"),
        }
    }
}

fn scalar(value: &Value) -> Option<Secret> {
    match value {
        Value::String(text) => Some(Secret::new(text.as_bytes())),
        Value::Number(number) => Some(Secret::new(number.to_string())),
        _ => None,
    }
}

/// One word: not a page, not a sentence.
fn plain(body: &[u8]) -> Option<Secret> {
    let word = body.trim_ascii();
    let fits = word.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'));
    fits.then(|| Secret::new(word))
}

/// A cookie as a server sets it.
struct Cookie<'a> {
    value: &'a [u8],
    attributes: &'a [u8],
}

impl Cookie<'_> {
    /// RFC 6265 section 5.3: `Max-Age` before `Expires`; neither means as long as the browser runs.
    fn life(&self, now: SystemTime) -> Option<Duration> {
        let attribute = |wanted: &str, form| {
            let mut values = self.attributes.split(|byte| *byte == b';').filter_map(|pair| {
                let (name, value) = pair_of(pair)?;
                name.eq_ignore_ascii_case(wanted.as_bytes()).then_some(value)
            });
            lifetime(std::str::from_utf8(values.next_back()?).ok()?, Some(form), now)
        };
        attribute("max-age", Moment::Seconds).or_else(|| attribute("expires", Moment::Date))
    }
}

fn cookie<'a>(reply: &'a Reply, wanted: &str) -> Option<Cookie<'a>> {
    let mut cookies = reply.headers().get_all(SET_COOKIE).iter().filter_map(|line| {
        let line = line.as_bytes();
        let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
        let (name, value) = pair_of(&line[..end])?;
        (name == wanted.as_bytes()).then_some(Cookie { value, attributes: &line[end..] })
    });
    cookies.next_back()
}

fn pair_of(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(&str, &str)], body: &str) -> Reply {
        let mut response = http::Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Reply::of("login.test", response.body(body.as_bytes().to_vec()).unwrap())
    }

    fn text(place: &Place, reply: &Reply) -> Option<String> {
        place.text(reply).map(|secret| secret.expose_str().unwrap().to_owned())
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn a_header_is_found_whatever_its_case_and_an_empty_one_is_none() {
        let place = Place::Header(HeaderName::from_static("x-auth-token"));
        let found = reply(&[("X-Auth-Token", ""), ("X-AUTH-TOKEN", " t ")], "");
        assert_eq!(text(&place, &found).as_deref(), Some("t"));
        assert_eq!(text(&place, &reply(&[("x-other", "t"), ("x-auth-token", " ")], "")), None);
    }

    #[test]
    fn of_cookies_the_last_of_that_very_name_counts_with_its_own_life() {
        let found = reply(
            &[
                ("set-cookie", "sid=old; Max-Age=1"),
                ("set-cookie", "SID=other"),
                ("set-cookie", " sid = a=b ;Path=/; expires=Tue, 14-Nov-2023 22:23:20 GMT; Secure"),
            ],
            "",
        );
        let place = Place::Cookie("sid".into());
        assert_eq!(text(&place, &found).as_deref(), Some("a=b"));
        assert_eq!(place.lifetime(&found, None, now()), Some(Duration::from_secs(600)));
        let found = reply(&[("set-cookie", "sid=x; Expires=Tue, 14 Nov 2023 22:23:20 GMT; max-age=60")], "");
        assert_eq!(place.lifetime(&found, None, now()), Some(Duration::from_secs(60)));
        for (line, life) in [("sid=x", None), ("sid=x; Max-Age=soon", None), ("sid=x; Max-Age=0", Some(Duration::ZERO))]
        {
            assert_eq!(place.lifetime(&reply(&[("set-cookie", line)], ""), None, now()), life, "{line}");
        }
        for line in ["sid", "sid=", "=sid", "", "xsid=x", "other=1; sid=x"] {
            assert_eq!(text(&place, &reply(&[("set-cookie", line)], "")), None, "{line}");
        }
    }

    #[test]
    fn a_pointer_finds_texts_and_numbers_and_nothing_else() {
        let found = reply(&[], "\u{feff}{\"a\":[{\"b\":\"t\"}],\"n\":7,\"m\":{},\"e\":\"\",\"x/y\":\"s\",\"z\":null}");
        let at = |pointer: &str| text(&Place::Pointer(pointer.into()), &found);
        assert_eq!(at("/a/0/b").as_deref(), Some("t"));
        assert_eq!(at("/n").as_deref(), Some("7"));
        assert_eq!(at("/x~1y").as_deref(), Some("s"));
        for pointer in ["/a", "/m", "/e", "/z", "/a/1/b", "/none"] {
            assert_eq!(at(pointer), None, "{pointer}");
        }
        assert_eq!(text(&Place::Pointer("/a".into()), &reply(&[], "<html>")), None);
    }

    #[test]
    fn a_whole_body_is_a_json_string_or_one_word_and_never_a_page() {
        let body = |body: &str| text(&Place::Body, &reply(&[], body));
        assert_eq!(
            body(" \"b00db39f948d13ea1e59b4d6fce56389\"\r\n").as_deref(),
            Some("b00db39f948d13ea1e59b4d6fce56389")
        );
        assert_eq!(body("eyJhbGciOi.J9-_\n").as_deref(), Some("eyJhbGciOi.J9-_"));
        for other in ["", "\"\"", "<html></html>", "wrong password", "{\"token\":\"t\"}", "[\"t\"]", "null", "é"] {
            assert_eq!(body(other), None, "{other}");
        }
    }
}
