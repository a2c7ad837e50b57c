//! What a caller may send first inside a tunnel, up to the server name: read as `listen::intercept` reads it.
//!
//! The first byte says what the rest is. `0x16`: records as on the wire, this byte included. `B`: the body of a
//! ClientHello, to which the target puts lengths (which mutations of whole records would hardly ever get right), in
//! records of the size that the second byte gives. `N`: only a server name, put into a hello that is otherwise good.
#![no_main]

use countersign::base::Host;
use countersign_fuzz::check_host;
use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio_rustls::LazyConfigAcceptor;

const TLS_HANDSHAKE: u8 = 0x16;

fuzz_target!(|data: &[u8]| {
    let (records, name) = match data {
        [TLS_HANDSHAKE, ..] => (data.to_vec(), None),
        [b'B', size, body @ ..] => (records(body, usize::from(*size) + 1), None),
        [b'N', name @ ..] => (records(&hello(name), 16 * 1024), Some(name)),
        _ => return,
    };
    // The first byte was read to tell TLS from cleartext, and is put back.
    let (first, rest) = records.split_at(1);
    let io = tokio::io::join(first.chain(rest), tokio::io::sink());
    let accepted = LazyConfigAcceptor::new(Acceptor::default(), io).now_or_never();
    let Ok(start) = accepted.expect("the bytes have ended, and the acceptor waits for more") else { return };
    let hello = start.client_hello();
    let Some(sni) = hello.server_name() else { return };
    if let Some(name) = name {
        assert!(sni.as_bytes().eq_ignore_ascii_case(name), "{sni:?} was sent as {name:?}");
    }
    if let Ok(host) = Host::parse(sni) {
        check_host(&host);
    }
});

/// A handshake message of type ClientHello, cut into records.
fn records(body: &[u8], size: usize) -> Vec<u8> {
    let mut message = vec![1];
    message.extend_from_slice(&u32::try_from(body.len()).expect("a small input").to_be_bytes()[1..]);
    message.extend_from_slice(body);
    message.chunks(size).flat_map(|part| [&[TLS_HANDSHAKE, 3, 1], &*sized(part)].concat()).collect()
}

/// The body of a ClientHello for TLS 1.2 and 1.3 with this server name.
fn hello(name: &[u8]) -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(content)].concat();
    let key_share = sized(&[&[0, 0x1d][..], &sized(&[9; 32])].concat());
    let extensions = [
        extension(0, &sized(&[&[0][..], &sized(name)].concat())),
        extension(10, &sized(&[0, 0x1d])),
        extension(13, &sized(&[4, 3, 8, 4])),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(51, &key_share),
    ];
    let fixed = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1, 0xc0, 0x2f]), &[1, 0]];
    [fixed.concat(), sized(&extensions.concat())].concat()
}

/// Bytes behind their length in two bytes. A longer content makes a wrong length, which is input too.
fn sized(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}
