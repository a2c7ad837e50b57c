//! What a captured connection speaks, told by its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_hello::{Greeter, Greeting, HANDSHAKE, MAJOR};
use super::http::PREFACE;

/// Longer than any registered method; what has no space by then is no request.
const LONGEST_METHOD: usize = 32;

/// What a connection opens with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It cannot be told yet.
    More,
    /// TLS, for this name or none.
    Tls(Option<String>),
    /// TLS that is no greeting of a client, or one that can be read in two ways.
    BrokenTls(&'static str),
    /// HTTP/1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Other,
}

/// Listens to the first bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Sniffer(Greeter);

impl Sniffer {
    /// Looks at everything that has come so far.
    pub(super) fn look(&mut self, read: &[u8]) -> Opening {
        match read {
            [] | [HANDSHAKE] => Opening::More,
            [HANDSHAKE, MAJOR, ..] => match self.0.look(read) {
                Greeting::More => Opening::More,
                Greeting::Names(name) => Opening::Tls(name),
                Greeting::Broken(why) => Opening::BrokenTls(why),
            },
            _ => http(read),
        }
    }
}

/// A method, a space, and the beginning of a target: a path, `*`, an address or what CONNECT has.
fn http(read: &[u8]) -> Opening {
    // Servers skip empty lines before a request (RFC 9112 section 2.2), so what is judged is what comes after them.
    let empty = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let read = &read[empty..];
    if read.is_empty() {
        return Opening::More;
    }
    if read.starts_with(PREFACE) {
        return Opening::Http2;
    }
    if PREFACE.starts_with(read) {
        return Opening::More;
    }
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = read.iter().take_while(|byte| is_token(byte)).count();
    if method > LONGEST_METHOD {
        return Opening::Other;
    }
    match &read[method..] {
        [] => Opening::More,
        [b' ', ..] if method == 0 => Opening::Other,
        [b' ', ..] if read.starts_with(b"CONNECT ") => Opening::Http,
        [b' ', b'/' | b'*', ..] => Opening::Http,
        [b' ', target @ ..] => {
            const ADDRESS: &[u8] = b"http";
            let seen = target.len().min(ADDRESS.len());
            match target[..seen].eq_ignore_ascii_case(&ADDRESS[..seen]) {
                true if seen == ADDRESS.len() => Opening::Http,
                true => Opening::More,
                false => Opening::Other,
            }
        }
        _ => Opening::Other,
    }
}

/// A stream whose other end let ours speak first, which no client of TLS or HTTP does. If it turns out to be one all the
/// same, it breaks off here: it was let through without a name.
pub(super) struct Silent<S> {
    io: S,
    judged: bool,
}

impl<S> Silent<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, judged: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Silent<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if !self.judged && !came.is_empty() {
            self.judged = true;
            if Sniffer::default().look(came) != Opening::Other {
                // A read that fails has read nothing.
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "TLS or HTTP after a long silence",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Silent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::client_hello::tests::{numbers, of_a_library};
    use super::*;

    /// What is told, and that nothing was told before the last byte of `bytes`.
    fn opening(bytes: &[u8]) -> Opening {
        let mut sniffer = Sniffer::default();
        for end in 0..bytes.len() {
            assert_eq!(sniffer.look(&bytes[..end]), Opening::More, "{:?}", String::from_utf8_lossy(&bytes[..end]));
        }
        sniffer.look(bytes)
    }

    #[test]
    fn http_is_told_by_a_method_and_the_beginning_of_a_target() {
        for text in [
            "GET /",
            "get /",
            "M-SEARCH *",
            "DELETE http",
            "PUT HTTP",
            "CONNECT ",
            "PRI * HTTP/1",
            "PRI /",
            "\r\n\r\nGET /",
        ] {
            assert_eq!(opening(text.as_bytes()), Opening::Http, "{text}");
        }
        assert_eq!(opening(PREFACE), Opening::Http2);
    }

    #[test]
    fn what_is_neither_is_something_else() {
        for text in
            ["EHLO m", "EHLO ho", "SSH-2.0-OpenSSH\r", "\r\n\0", " ", "GET  ", "USER a", "{", "\0", "\u{80}", "GETÄ"]
        {
            let bytes = text.as_bytes();
            let first =
                (1..=bytes.len()).map(|end| Sniffer::default().look(&bytes[..end])).find(|o| *o != Opening::More);
            assert_eq!(first, Some(Opening::Other), "{text}");
        }
        assert_eq!(Sniffer::default().look(&[b'A'; LONGEST_METHOD + 1]), Opening::Other);
        assert_eq!(Sniffer::default().look(&[HANDSHAKE, 2]), Opening::Other, "SSL 2.0");
    }

    #[test]
    fn tls_is_told_by_its_greeting() {
        assert_eq!(opening(&of_a_library("api.test")), Opening::Tls(Some("api.test".into())));
        assert_eq!(opening(&of_a_library("192.0.2.1")), Opening::Tls(None));
        assert!(matches!(Sniffer::default().look(&[HANDSHAKE, MAJOR, 1, 0, 0]), Opening::BrokenTls(_)));
    }

    #[tokio::test]
    async fn who_was_silent_may_speak_anything_but_tls_and_http() {
        for (said, passes) in [("EHLO mail.test\r\n", true), ("GET / HTTP/1.1\r\n", false), ("GE", false)] {
            let (mut client, ours) = tokio::io::duplex(100);
            client.write_all(said.as_bytes()).await.unwrap();
            drop(client);
            let mut heard = String::new();
            assert_eq!(Silent::new(ours).read_to_string(&mut heard).await.is_ok(), passes, "{said}");
        }
        let (mut client, ours) = tokio::io::duplex(10_000);
        client.write_all(&of_a_library("api.test")).await.unwrap();
        assert!(Silent::new(ours).read_u8().await.is_err());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut numbers = numbers(2);
        let mut next = || numbers.next().unwrap();
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..next() % 50).map(|_| next() as u8).collect();
            let _ = Sniffer::default().look(&bytes);
            bytes.iter_mut().for_each(|byte| *byte = b" /*AGHPhpt"[usize::from(*byte) % 10]);
            let _ = Sniffer::default().look(&bytes);
        }
    }
}
