//! The server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), read before anything is answered.
//!
//! Two readings of one greeting would be two names for one connection, so what is not written exactly as the
//! specifications say is refused, never passed on. The extension of Encrypted Client Hello (`encrypted_client_hello`,
//! 0xfe0d) is as any other and the outer name counts: we have no key for an inner one, and browsers send decoys.

/// The record that carries a handshake, and the message that begins it.
pub(super) const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
/// The first byte of every version since SSL 3.0.
pub(super) const MAJOR: u8 = 3;

/// RFC 8446 section 5.1.
const LONGEST_FRAGMENT: usize = 1 << 14;

/// A greeting with post-quantum key shares has about 2 KiB; no library sends one that comes near this.
const LONGEST: usize = 60 * 1024;

const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What is known of a greeting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It goes on.
    More,
    /// It is whole, and names this host or none.
    Names(Option<String>),
    /// It is none, or can be read in two ways.
    Broken(&'static str),
}

/// A greeting that comes in pieces: over several segments, and over several records.
#[derive(Debug, Default)]
pub(super) struct Greeter {
    taken: usize,
    message: Vec<u8>,
}

impl Greeter {
    /// Looks at everything that has come so far. Each record is looked at once, however often this is called.
    pub(super) fn look(&mut self, read: &[u8]) -> Greeting {
        loop {
            match whole(&self.message) {
                Ok(Some(body)) => {
                    return server_name(body).map_or_else(Greeting::Broken, Greeting::Names);
                }
                Ok(None) => {}
                Err(why) => return Greeting::Broken(why),
            }
            let Some(([kind, major, _, high, low], rest)) =
                read.get(self.taken..).and_then(<[u8]>::split_first_chunk::<5>)
            else {
                return Greeting::More;
            };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if (*kind, *major) != (HANDSHAKE, MAJOR) || length == 0 || length > LONGEST_FRAGMENT {
                return Greeting::Broken("a record that does not belong to a greeting");
            }
            let Some(fragment) = rest.get(..length) else { return Greeting::More };
            self.message.extend_from_slice(fragment);
            self.taken += 5 + length;
        }
    }
}

/// The body of the first handshake message, once it is all there.
fn whole(message: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err("a handshake that does not begin with a ClientHello");
    }
    let Some(([_, a, b, c], rest)) = message.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length > LONGEST {
        return Err("a ClientHello that is too long");
    }
    Ok(rest.get(..length))
}

/// The host that the body of a ClientHello names.
fn server_name(body: &[u8]) -> Result<Option<String>, &'static str> {
    const CUT: &str = "a ClientHello whose lengths do not agree";
    let mut body = Reader(body);
    body.take(2 + 32).ok_or(CUT)?;
    body.vector::<1>().ok_or(CUT)?;
    body.vector::<2>().ok_or(CUT)?;
    body.vector::<1>().ok_or(CUT)?;
    if body.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = body.vector::<2>().filter(|_| body.0.is_empty()).ok_or(CUT)?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>().ok_or(CUT)?;
        let content = extensions.vector::<2>().ok_or(CUT)?;
        if kind == usize::from(SERVER_NAME) && found.replace(content).is_some() {
            return Err("a ClientHello with two server name extensions");
        }
    }
    found.map(host_name).transpose()
}

/// The one name in the server name extension.
fn host_name(mut content: Reader<'_>) -> Result<String, &'static str> {
    const BAD: &str = "a server name extension that does not hold exactly one host name";
    let mut list = content.vector::<2>().filter(|_| content.0.is_empty()).ok_or(BAD)?;
    let kind = list.number::<1>().ok_or(BAD)?;
    let name = list.vector::<2>().filter(|_| list.0.is_empty()).ok_or(BAD)?;
    if kind != usize::from(HOST_NAME) || name.0.is_empty() || !name.0.is_ascii() {
        return Err(BAD);
    }
    String::from_utf8(name.0.to_vec()).map_err(|_| BAD)
}

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Option<usize> {
        Some(self.take(BYTES)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length stands before it in so many bytes.
    fn vector<const BYTES: usize>(&mut self) -> Option<Self> {
        let length = self.number::<BYTES>()?;
        self.take(length).map(Reader)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn vector(bytes: usize, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u64).to_be_bytes();
        [&length[8 - bytes..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes(), &*vector(2, content)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &vector(2, &[&[HOST_NAME], &*vector(2, name)].concat()))
    }

    fn body(extensions: Option<&[u8]>) -> Vec<u8> {
        let fixed = [&[3, 3], &[7; 32][..], &vector(1, &[9; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0])].concat();
        [fixed, extensions.map(|extensions| vector(2, extensions)).unwrap_or_default()].concat()
    }

    /// The message over records of at most so many bytes.
    fn records(body: &[u8], longest: usize) -> Vec<u8> {
        let message = [&[CLIENT_HELLO], &*vector(3, body)].concat();
        message.chunks(longest).flat_map(|part| [&[HANDSHAKE, MAJOR, 1], &*vector(2, part)].concat()).collect()
    }

    fn read(bytes: &[u8]) -> Greeting {
        Greeter::default().look(bytes)
    }

    fn named(name: &str) -> Greeting {
        Greeting::Names(Some(name.into()))
    }

    /// What rustls sends.
    pub(crate) fn of_a_library(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_greeting_of_a_library_names_its_host_and_none_for_an_address() {
        assert_eq!(read(&of_a_library("api.test")), named("api.test"));
        assert_eq!(read(&of_a_library("10.1.2.3")), Greeting::Names(None));
    }

    #[test]
    fn a_greeting_in_pieces_is_read_when_it_is_whole_and_not_before() {
        let extensions = [extension(16, b"\0\x03\x02h2"), sni(b"api.test")].concat();
        for longest in [1, 2, 3, 4, 5, 50, 1000] {
            let bytes = records(&body(Some(&extensions)), longest);
            let mut greeter = Greeter::default();
            for end in 0..bytes.len() {
                assert_eq!(greeter.look(&bytes[..end]), Greeting::More, "{longest} {end}");
            }
            assert_eq!(greeter.look(&bytes), named("api.test"));
            let with_more = [&*bytes, b"\x17\x03\x03\0\x05early"].concat();
            assert_eq!(read(&with_more), named("api.test"), "early data changes nothing");
        }
    }

    #[test]
    fn without_a_name_there_is_none() {
        for extensions in [None, Some(&[][..]), Some(&extension(16, b"\0\x03\x02h2"))] {
            assert_eq!(read(&records(&body(extensions), 1000)), Greeting::Names(None));
        }
    }

    #[test]
    fn an_encrypted_greeting_leaves_the_outer_name() {
        for (before, after) in [(true, false), (false, true)] {
            let decoy = extension(0xfe0d, &[0x5a; 200]);
            let mut extensions = sni(b"outer.test");
            if before {
                extensions = [decoy.clone(), extensions].concat();
            }
            if after {
                extensions.extend(decoy);
            }
            assert_eq!(read(&records(&body(Some(&extensions)), 1000)), named("outer.test"));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_broken() {
        let two_names =
            extension(0, &vector(2, &[&[0], &*vector(2, b"a.test"), &[0], &*vector(2, b"b.test")].concat()));
        let other_kind = extension(0, &vector(2, &[&[7], &*vector(2, b"a.test")].concat()));
        let beyond = extension(0, &[&*vector(2, &[&[0], &*vector(2, b"a.test")].concat()), b"x"].concat());
        for extensions in [
            [sni(b"a.test"), sni(b"b.test")].concat(),
            [sni(b"a.test"), sni(b"a.test")].concat(),
            two_names,
            other_kind,
            beyond,
            sni(b""),
            sni("ä.test".as_bytes()),
            extension(0, b""),
            extension(0, &vector(2, b"")),
        ] {
            let greeting = read(&records(&body(Some(&extensions)), 1000));
            assert!(matches!(greeting, Greeting::Broken(_)), "{extensions:?} {greeting:?}");
        }
        let trailing = [body(Some(&sni(b"a.test"))), b"x".to_vec()].concat();
        assert!(matches!(read(&records(&trailing, 1000)), Greeting::Broken(_)));
    }

    #[test]
    fn what_is_no_greeting_is_broken() {
        let good = records(&body(Some(&sni(b"a.test"))), 20);
        let mut another_record = good.clone();
        another_record[25] = 0x17;
        let empty_record = [&[HANDSHAKE, MAJOR, 1, 0, 0], &*good].concat();
        let server_hello = [&[HANDSHAKE, MAJOR, 3], &*vector(2, &[2, 0, 0, 1, 0])].concat();
        let too_long = [&[HANDSHAKE, MAJOR, 3], &*vector(2, &[1, 1, 0, 0])].concat();
        let long_record = [HANDSHAKE, MAJOR, 3, 0x40, 1];
        for bytes in [&*another_record, &*empty_record, &*server_hello, &*too_long, &long_record] {
            assert!(matches!(read(bytes), Greeting::Broken(_)), "{bytes:?}");
        }
        let whole = body(Some(&sni(b"a.test")));
        for end in 0..whole.len() {
            let greeting = read(&records(&whole[..end], 1000));
            let unnamed = end == body(None).len();
            assert_eq!(matches!(greeting, Greeting::Broken(_)), !unnamed, "{end} {greeting:?}");
        }
    }

    /// Numbers that look random and are the same in every run.
    pub(crate) fn numbers(mut seed: u64) -> impl Iterator<Item = usize> {
        std::iter::repeat_with(move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize
        })
    }

    #[test]
    fn no_bytes_make_it_panic_or_change_its_mind() {
        let good = records(&body(Some(&sni(b"a.test"))), 30);
        let mut numbers = numbers(1);
        let mut next = || numbers.next().unwrap();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            let once = read(&bytes);
            let mut greeter = Greeter::default();
            let first = greeter.look(&bytes[..next() % (bytes.len() + 1)]);
            let twice = if first == Greeting::More { greeter.look(&bytes) } else { first };
            assert_eq!(once, twice, "{bytes:?}");
        }
    }
}
