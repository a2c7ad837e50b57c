//! Where a request goes: the one value that decides the credential, the dial address, the TLS name and the Host header.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};

use super::error::{Code, Refusal};

/// How the destination is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Cleartext HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Protocol {
    /// The port that is meant when none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn from_scheme(scheme: Option<&Scheme>) -> Option<Self> {
        match scheme.map(Scheme::as_str) {
            Some("http") => Some(Self::Http),
            Some("https") => Some(Self::Https),
            _ => None,
        }
    }
}

/// A host in its one normal form: a lower-case ASCII (IDNA) name without a trailing dot, or an address.
///
/// Numbers that browsers and resolvers read as IPv4 addresses (`2130706433`, `0x7f.1`, `0177.0.0.1`) become addresses
/// here (WHATWG URL, host parsing), so that no later check sees a name where the resolver would see an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(Box<str>),
    /// An address literal.
    Address(IpAddr),
}

impl Host {
    /// Parses and normalises a host as it stands in an authority (an IPv6 literal in brackets).
    ///
    /// # Errors
    /// `bad_request` for anything that is not a host: empty, percent-encoded, with forbidden characters, empty labels.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if is_plain_name(text) {
            return Ok(Self::Name(text.into()));
        }
        let bad = || Refusal::new(Code::BadRequest, format!("`{}` is not a host name", printable(text)));
        if text.contains('%') {
            return Err(bad());
        }
        match url::Host::parse(text).map_err(|_| bad())? {
            url::Host::Domain(name) => {
                // One dot at the end is the root of the DNS and means the same name (RFC 1034 section 3.1).
                let name = name.strip_suffix('.').unwrap_or(&name);
                let empty_label = name.split('.').any(str::is_empty);
                if empty_label || name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
                    return Err(bad());
                }
                Ok(Self::Name(name.into()))
            }
            url::Host::Ipv4(address) => Ok(Self::Address(address.into())),
            url::Host::Ipv6(address) => Ok(Self::Address(address.into())),
        }
    }

    /// The name, if it is not an address.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// The common case needs no IDNA: lower-case letters, digits, `-` and `.`, no `xn--`, a last label that is not a number.
fn is_plain_name(text: &str) -> bool {
    let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if !plain || text.is_empty() || text.len() > 253 {
        return false;
    }
    let mut last = "";
    for label in text.split('.') {
        if label.is_empty() || label.len() > 63 || label.starts_with("xn--") {
            return false;
        }
        last = label;
    }
    last.as_bytes()[0].is_ascii_lowercase()
}

/// Text from outside, cut and cleaned for an error message.
fn printable(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

struct Inner {
    protocol: Protocol,
    place: (Host, u16),
    authority: Authority,
    host_header: HeaderValue,
}

/// Scheme, host and port that will be dialled. Made once per request by the listener; cheap to clone.
#[derive(Clone)]
pub struct Destination(Arc<Inner>);

impl Destination {
    fn new(protocol: Protocol, host: Host, port: u16) -> Result<Self, Refusal> {
        if port == 0 {
            return Err(Refusal::new(Code::BadRequest, "port 0 cannot be dialled"));
        }
        let text = if port == protocol.default_port() { host.to_string() } else { format!("{host}:{port}") };
        let bad = |_| Refusal::new(Code::BadRequest, "the host cannot stand in an HTTP authority");
        let host_header = HeaderValue::from_str(&text).map_err(|_| bad(()))?;
        let authority = Authority::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| bad(()))?;
        Ok(Self(Arc::new(Inner { protocol, place: (host, port), authority, host_header })))
    }

    /// For CONNECT: `host:port`, the port being required (RFC 9110 section 9.3.6). What is inside is taken to be TLS.
    ///
    /// # Errors
    /// `bad_request` when the target is not exactly a host and a port.
    pub fn from_connect(target: &str) -> Result<Self, Refusal> {
        let (host, port) = split_authority(target)?;
        let port = port.ok_or_else(|| {
            Refusal::new(Code::BadRequest, "the CONNECT target needs a port, as in `CONNECT host:443`")
        })?;
        Self::new(Protocol::Https, Host::parse(host)?, port)
    }

    /// For a connection that was redirected on its way to `port`: an authority as the client wrote it (a Host header,
    /// `:authority`, the name in TLS), in which the port may be left out. `None` when it names another port.
    ///
    /// # Errors
    /// `bad_request` for userinfo or a host that is none.
    pub fn from_captured(protocol: Protocol, authority: &str, port: u16) -> Result<Option<Self>, Refusal> {
        let (host, named) = split_authority(authority)?;
        if named.is_some_and(|named| named != port) {
            return Ok(None);
        }
        Self::new(protocol, Host::parse(host)?, port).map(Some)
    }

    /// For a request line in absolute form, or the pseudo-headers of HTTP/2.
    ///
    /// # Errors
    /// `bad_request` for another scheme, no authority, userinfo, or a host that is none.
    pub fn from_absolute(uri: &Uri) -> Result<Self, Refusal> {
        let protocol = Protocol::from_scheme(uri.scheme())
            .ok_or_else(|| Refusal::new(Code::BadRequest, "only http:// and https:// can be forwarded"))?;
        let authority = uri.authority().ok_or_else(|| Refusal::new(Code::BadRequest, "the request names no host"))?;
        Self::from_authority(protocol, authority.as_str())
    }

    /// For the upstream of a reverse route: `https://host[:port]`; a path is the route's own affair.
    ///
    /// # Errors
    /// A `bad_request` that says what is wrong with the address.
    pub fn from_upstream(url: &str) -> Result<Self, Refusal> {
        let uri: Uri = url
            .parse()
            .map_err(|_| Refusal::new(Code::BadRequest, format!("`{}` is not an address", printable(url))))?;
        Self::from_absolute(&uri)
    }

    /// For an authority as it stands in a Host header or `:authority`, under a known protocol.
    ///
    /// # Errors
    /// `bad_request` for userinfo or a host that is none.
    pub fn from_authority(protocol: Protocol, authority: &str) -> Result<Self, Refusal> {
        let (host, port) = split_authority(authority)?;
        Self::new(protocol, Host::parse(host)?, port.unwrap_or_else(|| protocol.default_port()))
    }

    /// Whether an authority (a Host header, `:authority`) names this very destination.
    pub fn is_named_by(&self, authority: &[u8]) -> bool {
        if authority == self.0.authority.as_str().as_bytes() {
            return true;
        }
        std::str::from_utf8(authority)
            .ok()
            .and_then(|text| Self::from_authority(self.0.protocol, text).ok())
            .is_some_and(|other| other == *self)
    }

    /// Cleartext or TLS.
    pub fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.0.place.0
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.place.1
    }

    /// Host and port, as one key.
    pub fn place(&self) -> &(Host, u16) {
        &self.0.place
    }

    /// `host` or `host:port`, the port left out where it is the protocol's own.
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// The same as a header value, for Host.
    pub fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }
}

/// Splits `host[:port]`. Userinfo is refused: it is how one host is made to look like another.
fn split_authority(text: &str) -> Result<(&str, Option<u16>), Refusal> {
    let bad = |why: &str| Err(Refusal::new(Code::BadRequest, format!("`{}`: {why}", printable(text))));
    if text.contains('@') {
        return Err(Refusal::new(
            Code::BadRequest,
            "userinfo in the authority is refused; credentials never stand in an address",
        ));
    }
    if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'/' | b'\\' | b'?' | b'#')) {
        return bad("not a host and port");
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some(end) = rest.find(']') else { return bad("an IPv6 literal ends in `]`") };
        let (host, after) = text.split_at(end + 2);
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return bad("not a host and port"),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => None,
        Some(digits) => {
            let valid = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
            match digits.parse::<u16>() {
                Ok(port) if valid && port != 0 => Some(port),
                _ => return bad("the port is not a number from 1 to 65535"),
            }
        }
    };
    Ok((host, port))
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.protocol == other.0.protocol && self.0.place == other.0.place)
    }
}

impl Eq for Destination {}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.protocol.as_str(), self.0.authority)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> String {
        Host::parse(text).map_or_else(|_| "refused".to_owned(), |h| h.to_string())
    }

    #[test]
    fn hosts_have_one_normal_form() {
        assert_eq!(host("API.Example.COM"), "api.example.com");
        assert_eq!(host("api.example.com."), "api.example.com");
        assert_eq!(host("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(host("a_b.example.com"), "a_b.example.com");
        assert_eq!(host("[::FFFF:127.0.0.1]"), "[::ffff:127.0.0.1]");
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_is_an_address() {
        for text in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0x7f000001", "127.0.0.1."] {
            assert_eq!(Host::parse(text).unwrap(), Host::Address([127, 0, 0, 1].into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "..",
            "a b",
            "a%2eb",
            "a/b",
            "[::1",
            "1.2.3.4.5",
            "100..",
            "127.0.0.1..",
            "exa<mple",
            "[1.2.3.4]",
            "a.".repeat(140).as_str(),
        ] {
            assert_eq!(host(text), "refused", "{text}");
        }
    }

    #[test]
    fn a_connect_target_is_a_host_and_a_port() {
        let destination = Destination::from_connect("Api.Test:443").unwrap();
        assert_eq!(destination.to_string(), "https://api.test");
        assert_eq!(Destination::from_connect("[::1]:8443").unwrap().to_string(), "https://[::1]:8443");
        for text in [
            "api.test",
            "api.test:",
            "api.test:0",
            "api.test:65536",
            "api.test:+1",
            "u@api.test:443",
            "::1:443",
            "api.test:443/x",
            "[::1]x:443",
        ] {
            assert!(Destination::from_connect(text).is_err(), "{text}");
        }
    }

    #[test]
    fn userinfo_in_an_authority_is_refused() {
        for text in ["http://good.test@evil.test/", "https://user:pw@good.test/"] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(Destination::from_absolute(&uri).unwrap_err().code, Code::BadRequest);
        }
    }

    #[test]
    fn an_authority_names_a_destination_whatever_its_spelling() {
        let destination = Destination::from_connect("api.test:443").unwrap();
        for text in ["api.test", "API.TEST:443", "api.test."] {
            assert!(destination.is_named_by(text.as_bytes()), "{text}");
        }
        for text in ["api.test:80", "evil.test", "api.test@evil.test", "api.test, evil.test", "", "api.test:443:1"] {
            assert!(!destination.is_named_by(text.as_bytes()), "{text}");
        }
    }
}
