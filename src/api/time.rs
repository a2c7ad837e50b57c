//! Times as JSON has them: RFC 3339.

use std::time::SystemTime;

/// Reads one; an offset other than `Z` is taken too.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok().or_else(|| with_offset(text))
}

/// `2026-01-31T12:00:00+02:00`
fn with_offset(text: &str) -> Option<SystemTime> {
    let sign = text.char_indices().rev().find(|(_, c)| matches!(c, '+' | '-'))?;
    let (time, offset) = (text.get(..sign.0)?, text.get(sign.0 + 1..)?);
    let (hours, minutes) = offset.split_once(':')?;
    let digits = |part: &str| (part.len() == 2).then(|| part.parse::<u64>().ok()).flatten();
    let (hours, minutes) = (digits(hours).filter(|h| *h < 24)?, digits(minutes).filter(|m| *m < 60)?);
    let shift = std::time::Duration::from_secs(hours * 3600 + minutes * 60);
    let local = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    let time = if sign.1 == '+' { local.checked_sub(shift) } else { local.checked_add(shift) };
    time.filter(|time| *time < SystemTime::UNIX_EPOCH + LAST)
}

/// The year 10000, from which on there is no such text.
const LAST: std::time::Duration = std::time::Duration::from_secs(253_402_300_800);

/// Writes one, to the millisecond.
pub(super) fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        let at = |text: &str| parse(text).map(super::text);
        assert_eq!(at("2026-01-31T12:00:00Z").unwrap(), "2026-01-31T12:00:00.000Z");
        assert_eq!(at("2026-01-31T12:00:00.5+02:00").unwrap(), "2026-01-31T10:00:00.500Z");
        assert_eq!(at("2026-01-31T12:00:00-01:30").unwrap(), "2026-01-31T13:30:00.000Z");
        for text in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31T12:00:00+2:00",
            "2026-01-31T12:00:00+99:00",
            "+",
            "é+01:00",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
