//! Patterns and prefixes against destinations and paths, and against a server that reads the path in its own way.
//!
//! The input is five lines: a pattern, another pattern, an authority, a path prefix and a path.
#![no_main]

use countersign::base::{Destination, Host, Protocol};
use countersign::route::{HostPattern, PathPrefix, refuse_path_tricks};
use countersign_fuzz::check_host;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (one, two) = (pattern(line()), pattern(line()));
    let authority = line();
    let destinations: Vec<_> = [Protocol::Http, Protocol::Https]
        .into_iter()
        .filter_map(|protocol| Destination::from_authority(protocol, authority).ok())
        .collect();
    hosts(one.as_ref(), two.as_ref(), &destinations);
    paths(line(), line());
});

/// A pattern and what can be seen of it from outside: its text in normal form.
struct Seen {
    pattern: HostPattern,
    wildcard: bool,
    host: String,
    port: Option<u16>,
}

fn pattern(text: &str) -> Option<Seen> {
    let pattern = HostPattern::parse(text).ok()?;
    let shown = pattern.to_string();
    assert_eq!(HostPattern::parse(&shown).as_ref(), Ok(&pattern), "{text:?} is shown as `{shown}`");
    let (wildcard, rest) = shown.strip_prefix("*.").map_or((false, &*shown), |rest| (true, rest));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().expect("a port"))),
        _ => (rest, None),
    };
    let parsed = Host::parse(host).expect("a host");
    check_host(&parsed);
    assert!(!wildcard || parsed.name().is_some(), "{text:?} is a wildcard over addresses");
    assert!(pattern.overlaps(&pattern));
    Some(Seen { wildcard, host: host.to_owned(), port, pattern })
}

fn hosts(one: Option<&Seen>, two: Option<&Seen>, destinations: &[Destination]) {
    for seen in [one, two].into_iter().flatten() {
        for destination in destinations {
            let host = destination.host().to_string();
            let named = if seen.wildcard {
                let below = format!(".{}", seen.host);
                destination.host().name().is_some() && host.len() > below.len() && host.ends_with(&below)
            } else {
                host == seen.host
            };
            let expected = named && seen.port.is_none_or(|port| port == destination.port());
            assert_eq!(seen.pattern.matches(destination), expected, "{} and {destination}", seen.pattern);
        }
    }
    let (Some(one), Some(two)) = (one, two) else { return };
    let overlap = one.pattern.overlaps(&two.pattern);
    assert_eq!(overlap, two.pattern.overlaps(&one.pattern), "{} and {}", one.pattern, two.pattern);
    let both = |destination: &Destination| one.pattern.matches(destination) && two.pattern.matches(destination);
    for destination in destinations {
        assert!(overlap || !both(destination), "{} and {} both name {destination}", one.pattern, two.pattern);
    }
    // Among all destinations the narrowest that the narrower pattern names decides: both name it, or they do not overlap.
    let narrower = match (one.wildcard, two.wildcard) {
        (false, _) => one,
        (_, false) => two,
        _ if one.host.len() >= two.host.len() => one,
        _ => two,
    };
    let host = if narrower.wildcard { format!("a.{}", narrower.host) } else { narrower.host.clone() };
    let witness = format!("{host}:{}", one.port.or(two.port).unwrap_or(443));
    match Destination::from_connect(&witness) {
        Ok(destination) => {
            assert_eq!(overlap, both(&destination), "{} and {}: {destination}", one.pattern, two.pattern);
        }
        // A name of the greatest length has nothing below it.
        Err(_) => assert!(host.len() > 253, "{witness}"),
    }
}

fn paths(prefix: &str, path: &str) {
    let plain = refuse_path_tricks(path).is_ok();
    let Ok(parsed) = PathPrefix::parse(prefix) else { return };
    let shown = parsed.to_string();
    assert_eq!(PathPrefix::parse(&shown).as_ref(), Ok(&parsed), "{prefix:?} is shown as `{shown}`");
    assert!(refuse_path_tricks(&shown).is_ok() && parsed.matches(&shown));
    assert_eq!(parsed.len(), parsed.as_str().len());
    assert!(parsed.matches(&format!("{}/x", parsed.as_str())) && !parsed.matches("x"));
    assert!(parsed.is_empty() || !parsed.matches(&format!("{shown}x")));

    let rest = parsed.rest(path);
    assert_eq!(rest.is_some(), parsed.matches(path));
    let Some(rest) = rest else { return };
    assert_eq!(format!("{}{rest}", parsed.as_str()), path);
    // Only a path that hyper lets through is ever judged.
    if !plain || !path.parse::<PathAndQuery>().is_ok_and(|whole| whole.path() == path) {
        return;
    }
    for server in SERVERS {
        let (below, wanted) = (server.read(path), server.read(&shown));
        let wanted = if parsed.is_empty() { &[][..] } else { &wanted };
        assert!(below.starts_with(wanted), "{server:?} takes {path:?} out of `{parsed}`, to {below:?}");
    }
}

/// A server's way of reading a path.
#[derive(Debug)]
struct Server {
    /// How often escapes are decoded before the path is cut into segments.
    decodes: u8,
    /// Cuts before it decodes, and decodes segments.
    cuts_first: bool,
    backslash_is_slash: bool,
    merges_slashes: bool,
    drops_parameters: bool,
    ends_at_nul: bool,
}

const PLAIN: Server = Server {
    decodes: 1,
    cuts_first: false,
    backslash_is_slash: false,
    merges_slashes: false,
    drops_parameters: false,
    ends_at_nul: false,
};

const SERVERS: &[Server] = &[
    PLAIN,
    Server { decodes: 0, ..PLAIN },
    Server { decodes: 2, ..PLAIN },
    Server { cuts_first: true, ..PLAIN },
    Server { merges_slashes: true, ..PLAIN },
    Server { backslash_is_slash: true, merges_slashes: true, ..PLAIN },
    Server { drops_parameters: true, ..PLAIN },
    Server { drops_parameters: true, cuts_first: true, ..PLAIN },
    Server { ends_at_nul: true, ..PLAIN },
    Server {
        decodes: 3,
        backslash_is_slash: true,
        merges_slashes: true,
        drops_parameters: true,
        ends_at_nul: true,
        ..PLAIN
    },
];

impl Server {
    /// The segments of the path that this server serves (RFC 3986 section 5.2.4 after its own habits).
    fn read(&self, path: &str) -> Vec<Vec<u8>> {
        let mut bytes = path.as_bytes().to_vec();
        if !self.cuts_first {
            (0..self.decodes).for_each(|_| bytes = decode(&bytes));
        }
        if self.ends_at_nul
            && let Some(end) = bytes.iter().position(|b| *b == 0)
        {
            bytes.truncate(end);
        }
        let mut segments: Vec<Vec<u8>> = Vec::new();
        for segment in bytes.split(|b| *b == b'/' || (self.backslash_is_slash && *b == b'\\')).skip(1) {
            let segment =
                if self.drops_parameters { segment.split(|b| *b == b';').next().unwrap_or(b"") } else { segment };
            let segment = if self.cuts_first { decode(segment) } else { segment.to_vec() };
            match &*segment {
                b"." => {}
                b"" if self.merges_slashes => {}
                b".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        segments
    }
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
