//! When something ends, in the many forms in which services write it.

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::Deserialize;

use super::exchange::LONGEST_LIFE;

/// What the text of an end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// Minutes from now.
    Minutes,
    /// Seconds since 1970 (UTC).
    Timestamp,
    /// Milliseconds since 1970 (UTC).
    TimestampMs,
    /// RFC 3339 or an HTTP date; one without a zone is in UTC.
    Date,
}

/// A number of seconds that is guessed to be a lifetime has at most this many. An hour in milliseconds has more, and taking
/// it for seconds would keep a dead token for weeks.
const LONGEST_GUESS: f64 = 31.0 * 24.0 * 3600.0;

/// The years from 2001 to 2286 in seconds since 1970, and in milliseconds.
const TIMESTAMPS: std::ops::Range<f64> = 1e9..1e10;
const TIMESTAMPS_MS: std::ops::Range<f64> = 1e12..1e13;

/// How long something lives from `now`: zero when it is over already, nothing when the text says nothing that is understood.
/// Without a form it is guessed, and what could mean two things is not understood.
pub fn lifetime(text: &str, form: Option<Moment>, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let until = |end: SystemTime| end.duration_since(now).unwrap_or_default();
    let since = |seconds: f64| {
        let end = Duration::try_from_secs_f64(seconds).ok().and_then(|after| SystemTime::UNIX_EPOCH.checked_add(after));
        end.map(until)
    };
    let lasting = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let life = match (form, number) {
        (Some(Moment::Seconds), Some(number)) => lasting(number),
        (Some(Moment::Milliseconds), Some(number)) => lasting(number / 1e3),
        (Some(Moment::Minutes), Some(number)) => lasting(number * 60.0),
        (Some(Moment::Timestamp), Some(number)) => since(number),
        (Some(Moment::TimestampMs), Some(number)) => since(number / 1e3),
        (Some(Moment::Date), None) => date(text).or_else(|| date(&format!("{text}Z"))).map(until),
        (None, Some(number)) if number <= LONGEST_GUESS => lasting(number),
        (None, Some(number)) if TIMESTAMPS.contains(&number) => since(number),
        (None, Some(number)) if TIMESTAMPS_MS.contains(&number) => since(number / 1e3),
        (None, None) => date(text).map(until).or_else(|| clock(text)),
        _ => None,
    };
    life.map(|life| life.min(LONGEST_LIFE))
}

/// A date with its zone: RFC 3339, with a space for the `T` and without the colon in the offset too, or an HTTP date in any
/// of its three forms (RFC 9110 section 5.6.7), with the hyphens of cookies too (RFC 6265 section 5.1.1).
fn date(text: &str) -> Option<SystemTime> {
    if let Ok(moment) = httpdate::parse_http_date(text) {
        return Some(moment);
    }
    let bytes = text.as_bytes();
    // `Thu, 01-Jan-2026 00:00:00 GMT`
    if bytes.len() == 29 && bytes[7] == b'-' && bytes[11] == b'-' {
        return httpdate::parse_http_date(&text.replace('-', " ")).ok();
    }
    if !text.is_ascii() || bytes.len() < 20 || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let mut text = format!("{}T{}", &text[..10], text[11..].trim().replace(' ', ""));
    let end = text.len();
    let is_offset = |part: &str| part.starts_with(['+', '-']) && part[1..].bytes().all(|byte| byte.is_ascii_digit());
    if text.get(end - 5..).is_some_and(is_offset) {
        text.insert(end - 2, ':');
    }
    let moment = DateTime::from_str(&text.to_ascii_uppercase(), Format::DateTimeWithOffset).ok()?;
    SystemTime::try_from(moment).ok()
}

/// `HH:MM:SS` from now, as Tableau writes it.
fn clock(text: &str) -> Option<Duration> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [hours, minutes @ 0..60, seconds @ 0..60] => {
            hours.checked_mul(3600).map(|whole| Duration::from_secs(whole.saturating_add(minutes * 60 + seconds)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2023-11-14T22:13:20Z.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn guessed(text: &str) -> Option<u64> {
        lifetime(text, None, now()).map(|life| life.as_secs())
    }

    #[test]
    fn an_hour_is_an_hour_in_every_form_in_which_services_write_it() {
        for text in [
            "3600",
            " 3600.9 ",
            "1700003600",
            "1700003600000",
            "1700003600123",
            "2023-11-14T23:13:20Z",
            "2023-11-14t23:13:20z",
            "2023-11-14T23:13:20.123456789Z",
            "2023-11-14T23:13:20.1+00:00",
            "2023-11-15T00:13:20+01:00",
            "2023-11-14T18:13:20-0500",
            "2023-11-14 23:13:20 +0000",
            "Tue, 14 Nov 2023 23:13:20 GMT",
            "Tue, 14-Nov-2023 23:13:20 GMT",
            "Tuesday, 14-Nov-23 23:13:20 GMT",
            "Tue Nov 14 23:13:20 2023",
            "01:00:00",
        ] {
            assert_eq!(guessed(text), Some(3600), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_or_none_is_not_guessed() {
        for text in [
            "",
            "soon",
            "-1",
            "NaN",
            "inf",
            "1e400",
            // An hour in milliseconds, or six weeks in seconds.
            "3600000",
            "100000000000",
            "99999999999999",
            // In whose zone?
            "2023-11-14T23:13:20",
            "2023-11-14",
            "2023-13-14T23:13:20Z",
            "2023-11-14T23:13:20+99:99:99",
            "1:2",
            "1:60:00",
            "99999999999999999999:00:00",
            "é023-11-14T23:13:20Z",
            "2023-11-14Té3:13:20Z",
        ] {
            assert_eq!(guessed(text), None, "{text}");
        }
    }

    #[test]
    fn a_form_says_what_a_number_means() {
        let said = |text, form| lifetime(text, Some(form), now()).map(|life| life.as_secs());
        assert_eq!(said("3600000", Moment::Milliseconds), Some(3600));
        assert_eq!(said("30", Moment::Minutes), Some(1800));
        assert_eq!(said("3600000", Moment::Seconds), Some(3_600_000));
        assert_eq!(said("1700003600", Moment::Timestamp), Some(3600));
        assert_eq!(said("1700003600000", Moment::TimestampMs), Some(3600));
        assert_eq!(said("2023-11-14T23:13:20", Moment::Date), Some(3600), "in UTC");
        assert_eq!(said("2023-11-14T23:13:20-01:00", Moment::Date), Some(7200));
        assert_eq!(said("3600", Moment::Date), None);
        assert_eq!(said("2023-11-14T23:13:20Z", Moment::Seconds), None);
        assert_eq!(said("-5", Moment::Seconds), None);
    }

    #[test]
    fn what_is_over_lives_no_more_and_nothing_lives_longer_than_a_year() {
        assert_eq!(guessed("0"), Some(0));
        assert_eq!(guessed("1600000000"), Some(0));
        assert_eq!(guessed("1999-01-01T00:00:00Z"), Some(0));
        assert_eq!(guessed("9999-12-31T23:59:59Z"), Some(LONGEST_LIFE.as_secs()));
        for (text, form) in [("1e300", Moment::Minutes), ("1e300", Moment::Timestamp), ("1e19", Moment::Timestamp)] {
            // Nothing overflows.
            let life = lifetime(text, Some(form), now());
            assert!(life.is_none_or(|life| life <= LONGEST_LIFE), "{text}");
        }
    }
}
