//! What an error of AWS's says about keys and clocks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use http::header::DATE;

use crate::base::{AnswerView, Verdict};

/// No answer moves the clock further: a wrong or hostile date must not make signatures that are good for long.
const MOST: i64 = 15 * 60;

/// Less than this is the answer's way, not the clock.
const LEAST: i64 = 2;

/// How far the clock is from AWS's, in seconds, as their answers told. It moves the time of signatures and nothing else.
#[derive(Debug, Default)]
pub struct Skew(AtomicI64);

impl Skew {
    /// The time to sign with.
    pub fn corrected(&self, now: SystemTime) -> SystemTime {
        let skew = self.0.load(Ordering::Relaxed);
        let moved = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { now.checked_sub(moved) } else { now.checked_add(moved) }.unwrap_or(now)
    }

    /// Learns from an answer that refused the time; says whether that changed anything.
    pub fn learn(&self, date: Option<SystemTime>, now: SystemTime) -> bool {
        let Some(date) = date else { return false };
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(MOST);
        let skew = match date.duration_since(now) {
            Ok(ahead) => seconds(ahead),
            Err(behind) => -seconds(behind.duration()),
        };
        let skew = skew.clamp(-MOST, MOST);
        let before = self.0.swap(skew, Ordering::Relaxed);
        if (skew - before).abs() < LEAST {
            return false;
        }
        tracing::warn!(
            target: "countersign::sigv4",
            seconds = skew,
            "AWS refused the time of a signature; signatures are corrected by the difference to its clock"
        );
        true
    }

    /// Judges an error.
    pub(super) fn verdict(&self, answer: &AnswerView<'_>, now: SystemTime) -> Verdict {
        match code(answer) {
            "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "UnrecognizedClientException" => {
                Verdict::Token
            }
            "RequestTimeTooSkewed" => {
                let date = answer.headers.get(DATE).and_then(|value| value.to_str().ok());
                let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
                if self.learn(date, now) { Verdict::Clock } else { Verdict::Fine }
            }
            _ => Verdict::Fine,
        }
    }
}

/// The code of an error, from where each protocol of AWS has it; empty when there is none.
fn code<'a>(answer: &AnswerView<'a>) -> &'a str {
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(code) = header("x-amzn-errortype").or_else(|| header("x-amzn-query-error")) {
        return bare(code.as_bytes());
    }
    let after = |mark: &[u8]| {
        let at = answer.body.windows(mark.len()).position(|window| window == mark)?;
        answer.body.get(at + mark.len()..)
    };
    // XML of S3 and the Query APIs, then JSON: quotes, a colon and white space come first.
    let text = [&b"<Code>"[..], b"\"__type\"", b"\"code\"", b"\"Code\""].into_iter().find_map(|mark| {
        let rest = after(mark)?;
        let begin = rest.iter().take(8).position(u8::is_ascii_alphabetic)?;
        rest.get(begin..)
    });
    // CBOR: a text with its length (RFC 8949 section 3.1).
    let cbor = || match after(b"__type")? {
        [0x60..=0x77, text @ ..] | [0x78, _, text @ ..] => Some(text),
        _ => None,
    };
    text.or_else(cbor).map(bare).unwrap_or_default()
}

/// `com.amazonaws.sts#ExpiredToken` and `ExpiredToken:http://…` without their surroundings.
fn bare(text: &[u8]) -> &str {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'#' | b'-');
    let end = text.iter().position(|byte| !is_name(byte)).unwrap_or(text.len());
    let name = text.get(..end).unwrap_or_default();
    let name = std::str::from_utf8(name).unwrap_or_default();
    name.rsplit('#').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn judged(status: u16, headers: &[(&'static str, &str)], body: &[u8], skew: &Skew) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let answer = AnswerView { status: StatusCode::from_u16(status).unwrap(), headers: &map, body };
        skew.verdict(&answer, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }

    #[test]
    fn a_session_that_ended_is_seen_in_every_protocol() {
        let bodies: [&[u8]; 6] = [
            b"<?xml version=\"1.0\"?>\n<Error><Code>ExpiredToken</Code><Message>x</Message></Error>",
            b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code></Error></ErrorResponse>",
            b"{\"__type\":\"com.amazon.coral.service#ExpiredTokenException\",\"message\":\"x\"}",
            b"{ \"__type\" : \"UnrecognizedClientException\" }",
            b"{\"code\":\"ExpiredTokenException\"}",
            b"\xbf\x66__type\x78\x27com.amazonaws.sqs#ExpiredTokenException\xff",
        ];
        for body in bodies {
            let text = String::from_utf8_lossy(body);
            assert_eq!(judged(400, &[], body, &Skew::default()), Verdict::Token, "{text}");
        }
        let header = [("x-amzn-errortype", "ExpiredTokenException:http://internal.amazon.com/coral/")];
        assert_eq!(judged(403, &header, b"", &Skew::default()), Verdict::Token);
    }

    #[test]
    fn any_other_error_is_the_callers() {
        let bodies: [&[u8]; 5] = [
            b"",
            b"<Error><Code>AccessDenied</Code><Message>ExpiredToken</Message></Error>",
            b"{\"__type\":\"ExpiredTokenExceptionally\"}",
            b"{\"message\":\"<Code>\"}",
            b"not found",
        ];
        for body in bodies {
            assert_eq!(judged(403, &[], body, &Skew::default()), Verdict::Fine, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_refused_time_corrects_signatures_by_a_quarter_of_an_hour_at_most() {
        let body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>";
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = |seconds: u64| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let skew = Skew::default();
        assert_eq!(judged(403, &[("date", &at(1_700_000_600))], body, &skew), Verdict::Clock);
        assert_eq!(skew.corrected(now), now + Duration::from_secs(600));
        assert_eq!(judged(403, &[("date", &at(1_700_000_600))], body, &skew), Verdict::Fine, "nothing new");
        assert_eq!(judged(403, &[("date", &at(1_600_000_000))], body, &skew), Verdict::Clock);
        assert_eq!(skew.corrected(now), now - Duration::from_secs(900));
        // A clock that was set right is right again.
        assert_eq!(judged(403, &[("date", &at(1_700_000_000))], body, &skew), Verdict::Clock);
        assert_eq!(skew.corrected(now), now);
        assert_eq!(judged(403, &[("date", "yesterday")], body, &skew), Verdict::Fine);
        assert_eq!(judged(403, &[], body, &skew), Verdict::Fine);
    }
}
