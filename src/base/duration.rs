//! Durations as people write them in the configuration: `30s`, `5m`, `1h30m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Nothing here lasts longer, and the sum of a moment and a duration must not overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads `30s`, `250ms`, `5m` or `1h 30m`. A bare number is refused: its unit would be a guess.
///
/// # Errors
/// When the text is not a duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

/// The same for a key that may be absent.
///
/// # Errors
/// When the text is not a duration.
pub fn deserialize_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

/// The same for a wait that may be none: `0s`.
///
/// # Errors
/// When the text is not a duration.
pub fn deserialize_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "0s" {
        return Ok(Duration::ZERO);
    }
    parse(&text).map_err(de::Error::custom)
}

/// Parses one duration.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a duration: write 30s, 5m or 1h"))?;
    if duration.is_zero() {
        return Err("a duration of zero would refuse everything".to_owned());
    }
    if duration > LONGEST {
        return Err("at most ten years".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5400)));
    }

    #[test]
    fn only_a_wait_may_be_none() {
        let read = |text: &str| deserialize_or_zero(serde_json::Value::from(text));
        assert_eq!(read("0s").unwrap(), Duration::ZERO);
        assert_eq!(read("5s").unwrap(), Duration::from_secs(5));
        assert!(read("0").is_err() && read("5").is_err());
    }

    #[test]
    fn a_bare_number_and_zero_are_refused() {
        assert!(parse("30").is_err());
        assert!(parse("0s").is_err());
        assert!(parse("9years").is_ok() && parse("400000000000y").is_err());
    }
}
