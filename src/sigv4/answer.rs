//! What an error of AWS's says about keys and clocks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use http::header::DATE;

use super::host;
use crate::base::{AnswerView, Host, Verdict};

/// No answer moves the clock further: a wrong or hostile date must not make signatures that are good for long.
const MOST: i64 = 15 * 60;

/// Less than this is the answer's way, not the clock.
const LEAST: i64 = 2;

/// What was learnt stands at least this long, in seconds: a server whose dates jump must not cost every request a second one.
const STANDS: u64 = 10;

/// How far the clock is from AWS's, as their answers told. It moves the time of signatures and nothing else.
#[derive(Debug)]
pub struct Skew {
    /// Which hosts are the provider's own.
    is_own: fn(&str) -> bool,
    /// The provider's own endpoints.
    own: Offset,
    /// Whoever else takes these signatures: another's wrong clock, or word, is none of the provider's.
    elsewhere: Offset,
}

impl Default for Skew {
    /// For AWS.
    fn default() -> Self {
        Self::of(|name| host::infer(name).is_ok() && !host::is_strangers(name))
    }
}

/// A difference in seconds, and when it was learnt, in seconds since 1970.
#[derive(Debug, Default)]
struct Offset {
    seconds: AtomicI64,
    learnt: AtomicI64,
}

impl Skew {
    /// For a provider whose own endpoints are these.
    pub fn of(is_own: fn(&str) -> bool) -> Self {
        Self { is_own, own: Offset::default(), elsewhere: Offset::default() }
    }

    fn offset(&self, host: &Host) -> &Offset {
        if host.name().is_some_and(self.is_own) { &self.own } else { &self.elsewhere }
    }

    /// What the time of signatures for a host is corrected by, in seconds.
    pub fn seconds(&self, host: &Host) -> i64 {
        self.offset(host).seconds.load(Ordering::Relaxed)
    }

    /// The time to sign with, for a host.
    pub fn corrected(&self, now: SystemTime, host: &Host) -> SystemTime {
        moved(now, self.seconds(host))
    }

    /// Learns from a host's answer that refused the time of a signature which was corrected by `used`; says whether the
    /// correction is another by now, whoever learnt it.
    pub fn learn(&self, host: &Host, used: i64, date: Option<SystemTime>, now: SystemTime) -> bool {
        let offset = self.offset(host);
        let before = offset.seconds.load(Ordering::Relaxed);
        let clock = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| seconds(since, i64::MAX));
        // Either way: what was learnt by a clock that has been set back since stands no longer than by any other.
        let stands = clock.abs_diff(offset.learnt.load(Ordering::Relaxed)) < STANDS;
        if let Some(date) = date.filter(|_| !stands) {
            let skew = match date.duration_since(now) {
                Ok(ahead) => seconds(ahead, MOST),
                Err(behind) => -seconds(behind.duration(), MOST),
            };
            if (skew - before).abs() >= LEAST {
                offset.seconds.store(skew, Ordering::Relaxed);
                offset.learnt.store(clock, Ordering::Relaxed);
                tracing::warn!(
                    target: "countersign::sigv4",
                    %host,
                    seconds = skew,
                    "the time of a signature was refused; signatures are corrected by the difference to that clock"
                );
            }
        }
        (offset.seconds.load(Ordering::Relaxed) - used).abs() >= LEAST
    }

    /// Judges an error.
    pub(super) fn verdict(&self, answer: &AnswerView<'_>, now: SystemTime) -> Verdict {
        let code = code(answer);
        match code {
            "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "UnrecognizedClientException" => {
                Verdict::Token
            }
            _ if is_about_time(code, &String::from_utf8_lossy(answer.body)) => {
                let date = answer.headers.get(DATE).and_then(|value| value.to_str().ok());
                let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
                let learnt = self.learn(answer.destination.host(), answer.mark, date, now);
                if learnt { Verdict::Clock } else { Verdict::Fine }
            }
            _ => Verdict::Fine,
        }
    }
}

fn seconds(duration: Duration, most: i64) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(most).min(most)
}

/// A time moved by seconds.
fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) }.unwrap_or(time)
}

/// Whether an error is about the time of a signature. Services that speak Query or JSON say so under the code of a wrong
/// signature, in words.
pub fn is_about_time(code: &str, message: &str) -> bool {
    match code.strip_suffix("Exception").unwrap_or(code) {
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => true,
        "SignatureDoesNotMatch" | "InvalidSignature" => {
            message.contains("Signature expired") || message.contains("Signature not yet current")
        }
        _ => false,
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
    use crate::base::Destination;

    const S3: &str = "s3.us-east-1.amazonaws.com:443";
    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn date(seconds: u64) -> String {
        httpdate::fmt_http_date(at(seconds))
    }

    fn answered(
        (host, now): (&str, u64),
        headers: &[(&'static str, &str)],
        (body, mark): (&[u8], i64),
        skew: &Skew,
    ) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let destination = Destination::from_connect(host).unwrap();
        let answer = AnswerView { destination: &destination, mark, status: StatusCode::FORBIDDEN, headers: &map, body };
        skew.verdict(&answer, at(now))
    }

    fn judged(headers: &[(&'static str, &str)], body: &[u8], skew: &Skew) -> Verdict {
        answered((S3, NOW), headers, (body, 0), skew)
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
            assert_eq!(judged(&[], body, &Skew::default()), Verdict::Token, "{text}");
        }
        let header = [("x-amzn-errortype", "ExpiredTokenException:http://internal.amazon.com/coral/")];
        assert_eq!(judged(&header, b"", &Skew::default()), Verdict::Token);
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
            assert_eq!(judged(&[], body, &Skew::default()), Verdict::Fine, "{}", String::from_utf8_lossy(body));
        }
    }

    const SKEWED: &[u8] = b"<Error><Code>RequestTimeTooSkewed</Code></Error>";

    #[test]
    fn a_refused_time_corrects_signatures_by_a_quarter_of_an_hour_at_most() {
        let skew = Skew::default();
        let host = Destination::from_connect(S3).unwrap().host().clone();
        assert_eq!(judged(&[("date", &date(NOW + 600))], SKEWED, &skew), Verdict::Clock);
        assert_eq!(skew.corrected(at(NOW), &host), at(NOW + 600));
        assert_eq!(answered((S3, NOW + 20), &[("date", &date(0))], (SKEWED, 600), &skew), Verdict::Clock);
        assert_eq!(skew.corrected(at(NOW), &host), at(NOW - 900));
        for headers in [&[("date", "yesterday")][..], &[]] {
            assert_eq!(answered((S3, NOW + 40), headers, (SKEWED, -900), &skew), Verdict::Fine);
        }
    }

    #[test]
    fn whoever_signed_with_the_old_correction_signs_again_and_nobody_twice() {
        let skew = Skew::default();
        let header = [("date", &*date(NOW + 600))];
        for _ in 0..8 {
            assert_eq!(answered((S3, NOW), &header, (SKEWED, 0), &skew), Verdict::Clock, "one of many at once");
        }
        assert_eq!(answered((S3, NOW), &header, (SKEWED, 600), &skew), Verdict::Fine, "the new one is refused too");
        // A server whose dates jump does not cost every request a second one.
        assert_eq!(answered((S3, NOW + 1), &[("date", &date(NOW))], (SKEWED, 600), &skew), Verdict::Fine);
    }

    #[test]
    fn a_clock_that_was_set_right_is_right_again_whichever_service_says_so() {
        let bodies: [&[u8]; 4] = [
            SKEWED,
            b"<Response><Errors><Error><Code>RequestExpired</Code><Message>x</Message></Error></Errors></Response>",
            b"{\"__type\":\"InvalidSignatureException\",\"message\":\"Signature not yet current: 2 is still later\"}",
            b"<Error><Code>SignatureDoesNotMatch</Code><Message>Signature expired: 1 is now earlier</Message></Error>",
        ];
        for body in bodies {
            let skew = Skew::default();
            assert_eq!(judged(&[("date", &date(NOW + 900))], SKEWED, &skew), Verdict::Clock);
            let other = "dynamodb.eu-west-1.amazonaws.com:443";
            let right = [("date", &*date(NOW + 60))];
            assert_eq!(answered((other, NOW + 60), &right, (body, 900), &skew), Verdict::Clock);
            assert_eq!(skew.seconds(Destination::from_connect(other).unwrap().host()), 0);
        }
        let wrong = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>";
        assert_eq!(judged(&[("date", &date(NOW + 900))], wrong, &Skew::default()), Verdict::Fine);
    }

    #[test]
    fn a_clock_that_was_set_back_learns_at_once() {
        let skew = Skew::default();
        let hours = 5 * 3600;
        assert_eq!(answered((S3, NOW + hours), &[("date", &date(NOW))], (SKEWED, 0), &skew), Verdict::Clock);
        assert_eq!(answered((S3, NOW + 60), &[("date", &date(NOW + 60))], (SKEWED, -900), &skew), Verdict::Clock);
        assert_eq!(skew.seconds(Destination::from_connect(S3).unwrap().host()), 0);
    }

    #[test]
    fn the_word_of_others_is_not_believed_about_aws() {
        let skew = Skew::default();
        for host in ["abc.execute-api.us-east-1.amazonaws.com:443", "minio.test:443", "192.0.2.1:443"] {
            let skewed = answered((host, NOW), &[("date", &date(NOW + 600))], (SKEWED, 0), &skew);
            assert_eq!(skewed, Verdict::Clock, "{host}");
            assert_eq!(skew.seconds(Destination::from_connect(host).unwrap().host()), 600, "{host}");
        }
        assert_eq!(skew.seconds(Destination::from_connect(S3).unwrap().host()), 0);
    }
}
