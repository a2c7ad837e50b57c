//! The guard: which addresses may be dialled. It looks at the address itself, after DNS, just before the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::base::{Code, Refusal};

/// The addresses that our own listeners are bound to.
pub type OwnAddresses = Arc<ArcSwap<Vec<SocketAddr>>>;

/// IPv4 ranges that are not the public internet (IANA special-purpose registry), with what they are.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this host"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local, where metadata services live"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "reserved"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    // Azure's WireServer hands out certificates and configuration to whoever asks from a virtual machine.
    (v4(168, 63, 129, 16, 32), "a metadata service"),
];

/// IPv6 ranges that are not the public internet.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    // Local NAT64 (RFC 8215): where the IPv4 address stands in it is the network's own affair.
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "translated locally"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "segment routing"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "private"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), prefix)
}

/// The IPv4 address inside an IPv6 one: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056),
/// Teredo (RFC 4380, stored inverted) and ISATAP (RFC 5214). A gateway would deliver to that address.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(from(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => Some(from(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(from(!high, !low)),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(from(high, low)),
        _ => None,
    }
}

/// Why an address is refused, if it is.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, what)| *what),
        IpAddr::V6(address) => SPECIAL_V6
            .iter()
            .find(|(net, _)| net.contains(&address))
            .map(|(_, what)| *what)
            .or_else(|| special(embedded(address)?.into())),
    }
}

/// Decides about the address that is about to be dialled.
#[derive(Debug, Clone)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
    own: OwnAddresses,
}

impl Guard {
    /// A guard that allows some ranges beside the public internet, and never our own listeners.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>, own: OwnAddresses) -> Self {
        Self { allowed: allowed.into(), own }
    }

    /// Looks at an address just before it is dialled.
    ///
    /// # Errors
    /// `destination_forbidden`, with the range and the key that would allow it.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refusal> {
        if self.own.load().iter().any(|own| same_listener(*own, address)) {
            return Err(loop_detected());
        }
        let Some(what) = special(address.ip()) else { return Ok(()) };
        let plain = match address.ip() {
            IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let allowed = |ip: IpAddr| self.allowed.iter().any(|net| net.contains(&ip));
        if allowed(address.ip()) || plain.is_some_and(allowed) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::DestinationForbidden,
            format!("the address {} is {what}; `allow_addresses` would permit it", address.ip()),
        ))
    }

    /// Looks at a connection that was made: one to a wildcard listener of ours is known only now.
    ///
    /// # Errors
    /// `destination_forbidden` for a loop.
    pub fn check_connected(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), Refusal> {
        let wildcard = |own: &SocketAddr| own.ip().is_unspecified() && own.port() == peer.port();
        if local.ip() == peer.ip() && self.own.load().iter().any(wildcard) {
            return Err(loop_detected());
        }
        Ok(())
    }

    /// Looks at where a connection was going before it was redirected to us, from `peer`: not to ourselves.
    ///
    /// # Errors
    /// `destination_forbidden` for a loop.
    pub fn check_captured(&self, captured: SocketAddr, peer: SocketAddr) -> Result<(), Refusal> {
        let own = self.own.load();
        // Who calls an address of its own machine has that address itself.
        let wildcard =
            |own: &SocketAddr| own.ip().is_unspecified() && own.port() == captured.port() && peer.ip() == captured.ip();
        if own.iter().any(|own| same_listener(*own, captured) || wildcard(own)) {
            return Err(loop_detected());
        }
        Ok(())
    }
}

fn loop_detected() -> Refusal {
    Refusal::new(Code::DestinationForbidden, "the destination is this proxy itself")
        .with_proxy_error("proxy_loop_detected")
}

fn same_listener(own: SocketAddr, dialled: SocketAddr) -> bool {
    let plain = |ip: IpAddr| match ip {
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let dialled_ip = plain(dialled.ip());
    own.port() == dialled.port()
        && (own.ip() == dialled_ip
            || (own.ip().is_unspecified() && (dialled_ip.is_loopback() || dialled_ip.is_unspecified())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allowed: &[&str], own: &[&str]) -> Guard {
        let own: Vec<SocketAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
        let allowed: Vec<IpNet> = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Guard::new(allowed, Arc::new(ArcSwap::from_pointee(own)))
    }

    fn passes(guard: &Guard, ip: &str) -> bool {
        guard.check(SocketAddr::new(ip.parse().unwrap(), 443)).is_ok()
    }

    #[test]
    fn every_address_that_is_not_the_public_internet_is_refused() {
        let guard = guard(&[], &[]);
        for ip in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:0.0.0.1",
            "64:ff9b:1:7f00:0:101:101:101",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001:0:1:2:3:4:80ff:fffe",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "::ffff:0:127.0.0.1",
            "fe80::5efe:7f00:1",
            "2001:4860::5efe:10.0.0.1",
        ] {
            assert!(!passes(&guard, ip), "{ip}");
        }
        for ip in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(passes(&guard, ip), "{ip}");
        }
    }

    #[test]
    fn an_allowed_range_passes_in_every_spelling_and_its_neighbours_do_not() {
        let guard = guard(&["127.0.0.0/8", "fd00::/16"], &[]);
        for ip in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert!(passes(&guard, ip), "{ip}");
        }
        for ip in ["10.0.0.1", "::1", "fd01::1"] {
            assert!(!passes(&guard, ip), "{ip}");
        }
    }

    #[test]
    fn our_own_listeners_are_never_dialled_even_in_an_allowed_range() {
        let guard = guard(&["127.0.0.0/8"], &["127.0.0.1:443", "0.0.0.0:8180"]);
        assert!(!passes(&guard, "127.0.0.1"));
        assert!(!passes(&guard, "::ffff:127.0.0.1"));
        assert!(passes(&guard, "127.0.0.2"));
        assert!(guard.check("127.0.0.9:8180".parse().unwrap()).is_err());
        let (local, peer) = ("192.0.2.7:5".parse().unwrap(), "192.0.2.7:8180".parse().unwrap());
        assert!(guard.check_connected(local, peer).is_err());
        assert!(guard.check_connected("192.0.2.8:5".parse().unwrap(), peer).is_ok());
        let captured =
            |captured: &str, peer: &str| guard.check_captured(captured.parse().unwrap(), peer.parse().unwrap());
        for (to, from) in
            [("127.0.0.1:443", "192.0.2.7:5"), ("127.0.0.9:8180", "127.0.0.9:5"), ("192.0.2.7:8180", "192.0.2.7:5")]
        {
            assert!(captured(to, from).is_err(), "{to}");
        }
        for to in ["127.0.0.2:443", "192.0.2.8:8180", "192.0.2.7:443"] {
            assert!(captured(to, "192.0.2.7:5").is_ok(), "{to}");
        }
    }
}
