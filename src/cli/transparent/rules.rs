//! What is to be captured, as data: the arguments once they were checked, whichever tool writes them.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The mark of connections that TPROXY hands to us, and the number and priority of the route table for them. "CS", so that whoever
/// finds it elsewhere can tell whose it is, and above what container networks use (they mark with single bits from 0x4000 up).
pub(super) const MARK: u32 = 0x4353;

/// The longest name that the kernel gives an interface (IFNAMSIZ, less the end).
const INTERFACE_NAME: usize = 15;

/// A family of addresses, which some tools keep apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Whether an address is of this family.
    pub(super) fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// Whose connections are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those that programs of this host open, but never those of `not`; of `only` where that is not empty.
    Output { only: BTreeSet<u32>, not: BTreeSet<u32> },
    /// Those that come in by these interfaces and are for others.
    Prerouting { interfaces: BTreeSet<String> },
}

/// Which TCP ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ports {
    /// Every one.
    All,
    /// These, at least one.
    Some(BTreeSet<u16>),
}

impl Ports {
    /// Whether TCP connections to this port are captured.
    pub(super) fn cover(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Some(ports) => ports.contains(&port),
        }
    }

    /// Reads `80,443` or `all`.
    pub(super) fn read(texts: &[String]) -> Result<Self, String> {
        if texts == ["all"] {
            return Ok(Self::All);
        }
        let one = |text: &String| match text.parse() {
            Ok(0) | Err(_) => Err(format!("--ports {text}: a port from 1 to 65535, or `all` alone")),
            Ok(port) => Ok(port),
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self::Some)
    }
}

/// What `up` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub whose: Whose,
    /// Of our listener.
    pub port: u16,
    pub ports: Ports,
    /// Hand connections over with their address untouched, rather than redirect them.
    pub tproxy: bool,
    /// Capture IPv4 alone.
    pub ipv4_only: bool,
    /// Everything else of those whose connections are captured is rejected.
    pub only_way_out: bool,
    /// Who may be asked for names past us.
    pub resolvers: BTreeSet<IpAddr>,
}

impl Plan {
    /// The families whose connections are captured.
    pub(super) fn captured(&self) -> &'static [Family] {
        if self.ipv4_only { &Family::ALL[..1] } else { &Family::ALL }
    }

    /// The families that get any rule: under `only_way_out` IPv6 must not be a hole.
    pub(super) fn ruled(&self) -> &'static [Family] {
        if self.only_way_out { &Family::ALL } else { self.captured() }
    }

    /// The resolvers of a family.
    pub(super) fn resolvers_of(&self, family: Family) -> Vec<String> {
        self.resolvers.iter().filter(|address| family.has(address)).map(ToString::to_string).collect()
    }
}

/// A uid, or the name of a user in `/etc/passwd`, whose text this takes.
pub(super) fn uid(text: &str, passwd: &str) -> Result<u32, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The last one means "none" to the kernel.
        let number = text.parse().ok().filter(|number| *number != u32::MAX);
        return number.ok_or_else(|| format!("{text:?} is no uid"));
    }
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(text) { None } else { fields.nth(1)?.parse().ok() }
    });
    found.ok_or_else(|| format!("/etc/passwd has no user {text:?}: give the uid"))
}

/// The name of an interface, which goes into a script: nothing that means something there, no pattern.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if text.is_empty() || text.len() > INTERFACE_NAME || !text.bytes().all(plain) || text.starts_with(['-', '.']) {
        return Err(format!(
            "--interface {text:?}: the whole name of one interface, at most {INTERFACE_NAME} letters, digits, `_`, `.` and `-`"
        ));
    }
    if text == "lo" {
        return Err("--interface lo: connections of this host itself are captured with --for output".into());
    }
    Ok(text.to_owned())
}

/// The resolvers that a resolv.conf names. Those on loopback need no leave.
pub(super) fn resolvers(resolv_conf: &str) -> BTreeSet<IpAddr> {
    let named = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = if words.next() == Some("nameserver") { words.next() } else { None };
        // `fe80::1%eth0`: rules match the address.
        address.and_then(|text| text.split('%').next()).and_then(|text| text.parse::<IpAddr>().ok())
    });
    named.filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_a_number_or_a_user_of_this_host() {
        let passwd = "root:x:0:0::/root:/bin/sh\nproxy:x:65532:65532::/:/bin/false\n";
        assert_eq!(uid("65532", passwd), Ok(65532));
        assert_eq!(uid("proxy", passwd), Ok(65532));
        for wrong in ["nobody", "", "-1", "4294967295", "4294967296", "1 2", "prox", "x"] {
            assert!(uid(wrong, passwd).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interface_is_a_name_that_means_nothing_in_a_script() {
        for good in ["eth0", "br-1a2b", "enp0s1.100", "a23456789012345"] {
            assert_eq!(interface(good).as_deref(), Ok(good));
        }
        for wrong in
            ["", "eth0 ", "eth+", "eth*", "e\"", "e\nth", "-j", "..", "a234567890123456", "lo", "e;", "e/0", "é"]
        {
            assert!(interface(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_are_numbers_or_all() {
        let read = |text: &str| Ports::read(&text.split(',').map(ToOwned::to_owned).collect::<Vec<_>>());
        assert_eq!(read("443,80"), Ok(Ports::Some([80, 443].into())));
        assert_eq!(read("all"), Ok(Ports::All));
        for wrong in ["0", "65536", "", "80,all", "80-90", "http"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them_and_loopback_needs_no_leave() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.10\nnameserver\tfe80::1%eth0\nnameserver 127.0.0.53\nnameserver x\n";
        assert_eq!(resolvers(text), ["10.0.0.10".parse().unwrap(), "fe80::1".parse().unwrap()].into());
        assert!(resolvers("").is_empty());
    }
}
