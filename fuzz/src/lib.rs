//! What several targets ask of a host or a destination, so that all of them ask the same.

use countersign::base::{Code, Destination, Host, Protocol, Refusal};
use url::Url;

/// Characters that end a host, begin another part of an address, or are read differently by different parsers.
const NEVER_IN_A_NAME: &[u8] = b"@:/\\?#[]%<>^| ";

/// The text parses to a host that is in its one normal form, and WHATWG clients see the same one in that form.
pub fn check_host(host: &Host) {
    let text = host.to_string();
    assert_eq!(Host::parse(&text).ok().as_ref(), Some(host), "the normal form of `{text}` is not its own");
    assert_eq!(whatwg(url::Host::parse(&text).ok()).as_ref(), Some(host), "`{text}` is another host to a URL parser");
    let Some(name) = host.name() else { return };
    assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len())), "{name:?}");
    let normal = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !NEVER_IN_A_NAME.contains(&b);
    assert!(name.bytes().all(normal), "{name:?}");
}

/// A host as the WHATWG parser read it, with the one trailing dot gone that DNS would drop.
pub fn whatwg<S: AsRef<str>>(host: Option<url::Host<S>>) -> Option<Host> {
    Some(match host? {
        url::Host::Domain(name) => Host::Name(name.as_ref().strip_suffix('.').unwrap_or(name.as_ref()).into()),
        url::Host::Ipv4(address) => Host::Address(address.into()),
        url::Host::Ipv6(address) => Host::Address(address.into()),
    })
}

/// Whoever else reads this address with a WHATWG parser must reach the same place, or refuse it.
pub fn check_against_url(address: &str, destination: &Destination) {
    let Ok(url) = Url::parse(address) else { return };
    assert!(url.username().is_empty() && url.password().is_none(), "userinfo passed in {address:?}");
    assert_eq!(whatwg(url.host()).as_ref(), Some(destination.host()), "two hosts in {address:?}");
    assert_eq!(url.port_or_known_default(), Some(destination.port()), "two ports in {address:?}");
    assert_eq!(url.scheme(), destination.protocol().as_str(), "two schemes in {address:?}");
}

/// Everything that holds of any destination, however it was made.
pub fn check_destination(destination: &Destination) {
    let (host, port, protocol) = (destination.host(), destination.port(), destination.protocol());
    check_host(host);
    assert_ne!(port, 0);

    let authority = destination.authority();
    let text = authority.as_str();
    let short = if port == protocol.default_port() { host.to_string() } else { format!("{host}:{port}") };
    assert_eq!(text, short);
    assert_eq!(destination.host_header().as_bytes(), text.as_bytes());
    assert!(!text.contains('@'), "{text:?}");
    // hyper and every other user of the `http` crate split this text by themselves.
    assert_eq!(authority.host(), host.to_string());
    assert_eq!(authority.port_u16().unwrap_or(protocol.default_port()), port);

    let long = format!("{host}:{port}");
    for same in [text, &long, &long.to_uppercase()] {
        assert!(destination.is_named_by(same.as_bytes()), "{destination} is not named by {same:?}");
    }
    for other in [
        format!("u@{text}"),
        format!("{text}@u"),
        format!("x{text}"),
        format!("{text}, {text}"),
        format!("{host}:0"),
        format!("{host}:{}", port ^ 1),
        format!("{text}/"),
    ] {
        assert!(!destination.is_named_by(other.as_bytes()), "{destination} is named by {other:?}");
    }

    assert_eq!(Destination::from_authority(protocol, text).ok().as_ref(), Some(destination));
    assert_eq!(Destination::from_upstream(&destination.to_string()).ok().as_ref(), Some(destination));
    if protocol == Protocol::Https {
        assert_eq!(Destination::from_connect(&long).ok().as_ref(), Some(destination));
    }
    check_against_url(&destination.to_string(), destination);
}

/// A refusal goes into logs and problem documents: it must be short, plain, and the caller's fault.
pub fn check_refusal(refusal: &Refusal) {
    assert_eq!(refusal.code, Code::BadRequest);
    assert!(refusal.detail.len() <= 1500, "{} bytes", refusal.detail.len());
    assert!(refusal.detail.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{:?}", refusal.detail);
}
