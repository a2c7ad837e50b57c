//! Host patterns and path prefixes: parsed when they are written by the code that matches when they are used.

use std::fmt;
use std::sync::Arc;

use crate::base::{Destination, Host, Refusal};

/// An exact name, an address literal, or `*.` for one or more labels; with or without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    pub(super) wildcard: bool,
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

impl HostPattern {
    /// Parses a pattern. What can never match, or would match more than it seems to, is refused.
    ///
    /// # Errors
    /// A sentence that says what a pattern looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.contains('*') {
            return Err(format!("`{text}`: a wildcard stands only first, as `*.` before a name: `*.example.com`"));
        }
        if rest.contains("//") || rest.contains('/') {
            return Err(format!("`{text}`: a host pattern has no scheme and no path; paths go under `paths`"));
        }
        let destination = Destination::from_authority(crate::base::Protocol::Https, rest)
            .map_err(|refusal| format!("`{text}`: {}", refusal.detail))?;
        let host = destination.host().clone();
        if wildcard && host.name().is_none() {
            return Err(format!("`{text}`: a wildcard needs a domain after it, such as `*.example.com`"));
        }
        if wildcard && host.to_string().len() > 251 {
            return Err(format!("`{text}`: no name below it is short enough for the DNS"));
        }
        let has_port = rest.rfind(':').is_some_and(|colon| rest.rfind(']').is_none_or(|bracket| colon > bracket));
        Ok(Self { wildcard, host, port: has_port.then(|| destination.port()) })
    }

    /// Whether it names this destination. Without a port it means any port.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.port.is_none_or(|port| port == destination.port()) && self.matches_host(destination.host())
    }

    pub(super) fn matches_host(&self, host: &Host) -> bool {
        if !self.wildcard {
            return self.host == *host;
        }
        match (&self.host, host) {
            (Host::Name(suffix), Host::Name(name)) => {
                name.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            _ => false,
        }
    }

    /// The port, if it names one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The domain that it means everything below, if it is a wildcard.
    pub(super) fn domain(&self) -> Option<&str> {
        self.host.name().filter(|_| self.wildcard)
    }

    /// What both name, if that is anything.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        // Of two that overlap, one is within the other but for its port.
        let inner = match (self.wildcard, other.wildcard) {
            (true, false) => other,
            (true, true) if self.matches_host(&other.host) => other,
            _ => self,
        };
        Some(Self { port: self.port.or(other.port), ..inner.clone() })
    }

    /// Whether some destination is named by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ports = match (self.port, other.port) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        ports
            && match (self.wildcard, other.wildcard) {
                (_, false) => self.matches_host(&other.host),
                (false, true) => other.matches_host(&self.host),
                (true, true) => {
                    self.host == other.host || self.matches_host(&other.host) || other.matches_host(&self.host)
                }
            }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wildcard {
            f.write_str("*.")?;
        }
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A path prefix of whole segments: `/setup` names `/setup` and `/setup/x`, not `/setup-x`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    /// Parses a prefix; a slash at its end changes nothing.
    ///
    /// # Errors
    /// When it does not begin with a slash, or holds what no judged request may hold.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("`{text}`: a path begins with `/`"));
        }
        if text.bytes().any(|b| matches!(b, b'?' | b'#' | b'*' | b' ') || b.is_ascii_control() || !b.is_ascii()) {
            return Err(format!("`{text}`: a path prefix is plain: no `?`, `#`, `*`, space or unescaped letter"));
        }
        refuse_path_tricks(text).map_err(|_| format!("`{text}`: such a path would be refused in every request"))?;
        Ok(Self(text.trim_end_matches('/').into()))
    }

    /// Whether the path is this prefix or goes on below it.
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What follows the prefix, from its slash on; empty when nothing does.
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&*self.0).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Its text without a slash at the end; empty for `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Longer prefixes are more specific.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is `/`, which every path begins with.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// Refuses what servers read in different ways: escaped dots, slashes and backslashes, dot segments, `\`, empty
/// segments' cousins and `;` parameters. Only on requests that a path rule judges.
///
/// # Errors
/// `bad_request`.
pub fn refuse_path_tricks(path: &str) -> Result<(), Refusal> {
    let refuse =
        |what: &str| Err(Refusal::bad_request(format!("the path holds {what}, and a path rule judges this request")));
    let bytes = path.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => return refuse("a backslash"),
            b';' => return refuse("a `;` parameter"),
            b'%' => match bytes.get(index + 1..index + 3).map(<[u8]>::to_ascii_lowercase).as_deref() {
                Some(b"2e") => return refuse("an escaped dot"),
                Some(b"2f") => return refuse("an escaped slash"),
                Some(b"5c") => return refuse("an escaped backslash"),
                // Servers that decode twice would see any of the above behind an escaped percent sign.
                Some(b"25") => return refuse("an escaped percent sign"),
                Some(b"00") => return refuse("an escaped NUL"),
                // No UTF-8 begins so; some servers read an overlong dot or slash in it.
                Some(b"c0" | b"c1") => return refuse("an overlong escape"),
                Some(b"3b") => return refuse("an escaped `;`"),
                Some(_)
                    if path.is_char_boundary(index + 3)
                        && bytes[index + 1..index + 3].iter().all(u8::is_ascii_hexdigit) => {}
                _ => return refuse("a broken escape"),
            },
            _ => {}
        }
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return refuse("a dot segment");
    }
    // `//setup` is one segment more to us and the same path to servers that merge slashes.
    if path.contains("//") {
        return refuse("an empty segment");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(authority: &str) -> Destination {
        Destination::from_authority(crate::base::Protocol::Https, authority).unwrap()
    }

    #[test]
    fn a_pattern_names_a_host_exactly_or_below_a_domain() {
        let matches = |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().matches(&destination(host));
        assert!(matches("API.example.com.", "api.example.com"));
        assert!(matches("*.example.com", "a.example.com"));
        assert!(matches("*.example.com", "a.b.example.com"));
        assert!(matches("10.0.0.1", "10.0.0.1:8443"));
        assert!(matches("api.example.com:8443", "api.example.com:8443"));
        assert!(matches("[::1]", "[::1]:9"));
        for (pattern, host) in [
            ("*.example.com", "example.com"),
            ("*.example.com", "badexample.com"),
            ("*.example.com", ".example.com.evil.test"),
            ("api.example.com", "api.example.com.evil.test"),
            ("api.example.com:8443", "api.example.com"),
            ("api.example.com", "www.api.example.com"),
        ] {
            let other = Destination::from_authority(crate::base::Protocol::Https, host);
            assert!(other.is_err() || !matches(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn a_wildcard_in_the_wrong_place_is_refused() {
        for text in [
            "*",
            "*.*.com",
            "api.*.com",
            "a*.example.com",
            "*example.com",
            "*.",
            "*.10.0.0.1",
            "https://a.test",
            "a.test/x",
            "",
            "u@a.test",
            "a.test:*",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_overlap_when_some_destination_has_both() {
        let overlap = |one: &str, two: &str| {
            let (one, two) = (HostPattern::parse(one).unwrap(), HostPattern::parse(two).unwrap());
            assert_eq!(one.overlaps(&two), two.overlaps(&one));
            one.overlaps(&two)
        };
        assert!(overlap("*.a.test", "x.a.test"));
        assert!(overlap("*.a.test", "*.b.a.test"));
        assert!(overlap("*.a.test", "*.a.test:443"));
        assert!(!overlap("*.a.test", "a.test"));
        assert!(!overlap("a.test:1", "a.test:2"));
    }

    #[test]
    fn what_two_patterns_name_is_the_narrower_at_the_port_of_either() {
        let both = |one: &str, two: &str| {
            let (one, two) = (HostPattern::parse(one).unwrap(), HostPattern::parse(two).unwrap());
            assert_eq!(one.intersection(&two), two.intersection(&one));
            one.intersection(&two).map(|both| both.to_string())
        };
        assert_eq!(both("*.a.test", "x.a.test").as_deref(), Some("x.a.test"));
        assert_eq!(both("*.a.test:443", "*.b.a.test").as_deref(), Some("*.b.a.test:443"));
        assert_eq!(both("*.a.test", "*.a.test:1").as_deref(), Some("*.a.test:1"));
        assert_eq!(both("a.test", "a.test").as_deref(), Some("a.test"));
        assert_eq!(both("a.test:1", "a.test:2"), None);
        assert_eq!(both("*.a.test", "a.test"), None);
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        let prefix = PathPrefix::parse("/setup/").unwrap();
        for path in ["/setup", "/setup/", "/setup/x"] {
            assert!(prefix.matches(path), "{path}");
        }
        for path in ["/setup-x", "/setupx", "/", "/Setup", "/x/setup"] {
            assert!(!prefix.matches(path), "{path}");
        }
        assert!(PathPrefix::parse("/").unwrap().matches("/anything"));
    }

    #[test]
    fn a_prefix_that_no_request_could_have_is_refused() {
        for text in ["setup", "/a/../b", "/a%2fb", "/a?b", "/a;b", "/a*"] {
            assert!(PathPrefix::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn path_tricks_are_refused_and_plain_escapes_are_not() {
        for path in [
            "/setup/%2e%2e/",
            "/setup/%2E./",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/setup/../x",
            "/./a",
            "/a;b",
            "/a/..;/b",
            "/%252e",
            "/a%",
            "/a%zz",
            "//a",
            "/a%00",
            "/%c0%ae",
        ] {
            assert!(refuse_path_tricks(path).is_err(), "{path}");
        }
        for path in ["/", "/a.b/..c", "/a%20b", "/a:b@c,d", "/…"] {
            assert!(refuse_path_tricks(path).is_ok(), "{path}");
        }
    }
}
