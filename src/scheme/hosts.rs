//! Judging the hosts that a credential names: patterns in their normal form, with or without a wildcard and a port.
//!
//! A port says nothing of who answers there, so patterns are compared without it.

use super::{SettingsError, at};

/// The name in a pattern, without wildcard and port.
pub(super) fn name(pattern: &str) -> &str {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    match name.rsplit_once(':') {
        Some((front, _)) if !front.contains(':') || front.ends_with(']') => front,
        _ => name,
    }
}

pub(super) fn is_wildcard(pattern: &str) -> bool {
    pattern.starts_with("*.")
}

/// Whether a name is one or more labels longer than a domain.
pub(super) fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

/// Whether some host is meant by both patterns, at whatever port.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (one_name, other_name) = (name(one), name(other));
    match (is_wildcard(one), is_wildcard(other)) {
        (false, false) => one_name == other_name,
        (false, true) => is_below(one_name, other_name),
        (true, false) => is_below(other_name, one_name),
        (true, true) => one_name == other_name || is_below(one_name, other_name) || is_below(other_name, one_name),
    }
}

/// Of domains below which everybody can have a name, the first that a wildcard is above, equal to or below.
pub(super) fn shared<'a>(pattern: &str, domains: &[&'a str]) -> Option<&'a str> {
    let meets = |domain: &&&str| is_wildcard(pattern) && overlap(pattern, &format!("*.{domain}"));
    domains.iter().find(meets).copied()
}

/// Refuses what `wrong` finds wrong with a host, at its place.
///
/// # Errors
/// At `hosts[N]`.
pub(super) fn each(named: &[String], wrong: impl Fn(&str) -> Option<String>) -> Result<(), SettingsError> {
    for (index, host) in named.iter().enumerate() {
        if let Some(why) = wrong(host) {
            return Err(at(format!("hosts[{index}]"), format!("{host}: {why}")));
        }
    }
    Ok(())
}

/// What to say of a wildcard over a shared domain.
pub(super) fn write_the_whole_name(domain: &str, example: &str) -> String {
    format!("everybody can have a name below {domain}: write the whole name of yours, such as {example}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_known_by_its_name() {
        for (pattern, expected) in [
            ("a.test", "a.test"),
            ("a.test:443", "a.test"),
            ("*.a.test:443", "a.test"),
            ("10.0.0.7:1", "10.0.0.7"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]"),
        ] {
            assert_eq!(name(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn patterns_overlap_where_some_host_is_meant_by_both() {
        for (one, other) in [
            ("a.test", "a.test:443"),
            ("*.test:443", "a.test"),
            ("*.test", "*.a.test:1"),
            ("*.a.test", "*.a.test"),
            ("x.y.a.test", "*.a.test"),
        ] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in
            [("a.test", "b.test"), ("a.test", "*.a.test"), ("*.a.test", "*.b.test"), ("xa.test", "*.a.test")]
        {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }

    #[test]
    fn a_wildcard_above_at_or_below_a_shared_domain_is_over_it_and_a_name_is_not() {
        for pattern in ["*.app", "*.run.app:443", "*.a.run.app"] {
            assert_eq!(shared(pattern, &["x.test", "run.app"]), Some("run.app"), "{pattern}");
        }
        for pattern in ["mine.a.run.app", "mine.run.app:443", "run.app", "*.xrun.app", "*.test.example"] {
            assert_eq!(shared(pattern, &["x.test", "run.app"]), None, "{pattern}");
        }
    }
}
