//! Where HTTP/1 messages begin and end, read more strictly than any server we forward to.
//!
//! hyper is the parser of record and writes every message anew; this looks at the bytes before hyper does and refuses what
//! two parsers could read in two ways (RFC 9112 section 11.2), so that the caller gets a clear answer instead of a guess.

use std::mem::MaybeUninit;

use http::StatusCode;

use crate::base::request::is_spelling_of;
use crate::base::{Code, Fault, Refusal};

/// The most headers that a request may be allowed to have: what hyper parses without asking the allocator.
pub const MAX_HEADERS: usize = 100;

/// The longest request target that the `http` crate takes.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// Empty lines that may stand before a head; careless clients send one.
const BLANKS: u8 = 4;

/// Bytes of one chunk-size line with its extensions; hyper's own bound is higher.
const CHUNK_LINE: usize = 4096;

/// Bounds of a message head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of request line and headers together.
    pub bytes: usize,
    /// Number of headers.
    pub count: usize,
}

impl HeadLimits {
    /// The refusal of a head with too many bytes.
    pub(super) fn too_large(self) -> Refusal {
        Self::refuse(format!("the request head is larger than {} bytes (`limits.header_bytes`)", self.bytes))
    }

    /// The refusal of a head with too many headers.
    pub(super) fn too_many(self) -> Refusal {
        Self::refuse(format!("the request has more than {} headers (`limits.header_count`)", self.count))
    }

    fn refuse(detail: String) -> Refusal {
        Refusal::new(Code::Overloaded, detail)
            .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            .with_proxy_error("http_request_error")
            .with_fault(Fault::Caller)
    }
}

/// What may be done with the bytes at hand.
#[derive(Debug)]
pub enum Advance {
    /// So many of them may go on to the parser.
    Deliver(usize),
    /// So many of them are an empty line before a head, which goes on and means nothing (RFC 9112 section 2.2).
    Blank(usize),
    /// They are the beginning of a head; keep them until there are more.
    Partial,
    /// They follow a request to switch protocols; keep them until it is answered.
    Await,
    /// They are refused.
    Refuse(Refusal),
    /// The body they belong to is malformed; the message cannot be completed.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Sized(u64),
    ChunkSize { line: usize, digits: u8, size: u64, rest: bool },
    ChunkData(u64),
    ChunkEnd { cr: bool },
    Trailers { total: usize, line: usize, cr: bool },
    Await,
    Raw,
    Broken,
}

const CHUNK_START: State = State::ChunkSize { line: 0, digits: 0, size: 0, rest: false };

/// Follows the messages of one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    limits: HeadLimits,
    blanks: u8,
}

impl Framing {
    /// At the beginning of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self { state: State::Head, limits, blanks: 0 }
    }

    /// Between two messages.
    pub fn at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Inside a message whose end has not come, or that is broken.
    pub fn inside_message(&self) -> bool {
        !matches!(self.state, State::Head | State::Raw | State::Await)
    }

    /// The request to switch protocols was granted, or not.
    pub fn switched(&mut self, granted: bool) {
        if self.state == State::Await {
            self.state = if granted { State::Raw } else { State::Head };
        }
    }

    /// Looks at the next bytes, which are not empty. After `Deliver(n)` it wants what follows those `n`; after `Partial`
    /// the same bytes and more.
    pub fn advance(&mut self, bytes: &[u8]) -> Advance {
        match self.state {
            State::Head if bytes.starts_with(b"\r\n") && self.blanks < BLANKS => {
                self.blanks += 1;
                Advance::Blank(2)
            }
            State::Head => match self.head(bytes) {
                Ok(Some((length, next))) => {
                    self.state = next;
                    self.blanks = 0;
                    Advance::Deliver(length)
                }
                Ok(None) => Advance::Partial,
                Err(refusal) => Advance::Refuse(refusal),
            },
            State::Sized(left) => {
                let taken = left.min(bytes.len() as u64);
                self.state = if taken == left { State::Head } else { State::Sized(left - taken) };
                Advance::Deliver(taken as usize)
            }
            State::Await => Advance::Await,
            State::Raw => Advance::Deliver(bytes.len()),
            State::Broken => Advance::Broken,
            _ => self.chunked(bytes),
        }
    }

    fn head(&self, bytes: &[u8]) -> Result<Option<(usize, State)>, Refusal> {
        let bad = |what: &'static str| Err(Refusal::bad_request(what));
        let too_large = || self.limits.too_large();
        // The search stops at the first empty line: what follows it may be a body, which is not looked through.
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').skip(1);
        let ended = lines.into_iter().any(|line| matches!(line, b"\n" | b"\r\n"));
        if !ended {
            return if bytes.len() > self.limits.bytes { Err(too_large()) } else { Ok(None) };
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        let room = &mut headers[..self.limits.count.min(MAX_HEADERS)];
        let length = match request.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(length)) if length > self.limits.bytes => return Err(too_large()),
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() > self.limits.bytes => return Err(too_large()),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(self.limits.too_many()),
            Err(error) => return Err(Refusal::bad_request(format!("the request head is malformed: {error}"))),
        };
        let lone = |index: usize| bytes[index] == b'\n' && (index == 0 || bytes[index - 1] != b'\r');
        if (0..length).any(lone) {
            return bad("a line of the request head does not end in CR LF");
        }
        // What hyper would refuse without a word is refused here with one.
        let target = request.path.unwrap_or_default();
        if target.len() > MAX_TARGET || http::Uri::try_from(target).is_err() {
            return bad("the request target is not a URI, or too long");
        }
        let next = next_state(&request)?;
        Ok(Some((length, next)))
    }

    fn chunked(&mut self, bytes: &[u8]) -> Advance {
        let mut index = 0;
        while index < bytes.len() {
            let byte = bytes[index];
            let next = match self.state {
                State::ChunkData(left) => {
                    let taken = left.min((bytes.len() - index) as u64);
                    index += taken as usize;
                    self.state =
                        if taken == left { State::ChunkEnd { cr: false } } else { State::ChunkData(left - taken) };
                    continue;
                }
                State::ChunkSize { line, digits, size, rest } => chunk_size(byte, line, digits, size, rest),
                State::ChunkEnd { cr: false } if byte == b'\r' => Some(State::ChunkEnd { cr: true }),
                State::ChunkEnd { cr: true } if byte == b'\n' => Some(CHUNK_START),
                State::Trailers { total, line, cr } => self.trailer(byte, total, line, cr),
                _ => None,
            };
            let Some(next) = next else {
                self.state = State::Broken;
                return if index == 0 { Advance::Broken } else { Advance::Deliver(index) };
            };
            self.state = next;
            index += 1;
            if next == State::Head {
                break;
            }
        }
        Advance::Deliver(index)
    }

    /// Trailer lines: only their length and their line ends matter here, hyper parses them.
    fn trailer(&self, byte: u8, total: usize, line: usize, cr: bool) -> Option<State> {
        if total > self.limits.bytes {
            return None;
        }
        let total = total + 1;
        match (byte, cr) {
            (b'\n', true) if line == 0 => Some(State::Head),
            (b'\n', true) => Some(State::Trailers { total, line: 0, cr: false }),
            (_, true) | (b'\n' | 0, false) => None,
            (b'\r', false) => Some(State::Trailers { total, line, cr: true }),
            (_, false) => Some(State::Trailers { total, line: line + 1, cr: false }),
        }
    }
}

/// One byte of a chunk-size line. `digits` is 255 once its CR has come.
fn chunk_size(byte: u8, line: usize, digits: u8, size: u64, rest: bool) -> Option<State> {
    if line > CHUNK_LINE {
        return None;
    }
    let line = line + 1;
    match byte {
        b'\n' if digits == u8::MAX => {
            Some(if size == 0 { State::Trailers { total: 0, line: 0, cr: false } } else { State::ChunkData(size) })
        }
        _ if digits == u8::MAX => None,
        b'\r' if digits > 0 => Some(State::ChunkSize { line, digits: u8::MAX, size, rest }),
        b'\r' | b'\n' | 0 => None,
        _ if rest => Some(State::ChunkSize { line, digits, size, rest }),
        b';' if digits > 0 => Some(State::ChunkSize { line, digits, size, rest: true }),
        _ if digits < 16 => {
            let digit = char::from(byte).to_digit(16)?;
            Some(State::ChunkSize { line, digits: digits + 1, size: size << 4 | u64::from(digit), rest })
        }
        _ => None,
    }
}

/// What follows a head, by its framing headers (RFC 9112 section 6.3), every doubt refused.
fn next_state(request: &httparse::Request<'_, '_>) -> Result<State, Refusal> {
    let bad = |what: &'static str| Err(Refusal::bad_request(what));
    let (mut hosts, mut length, mut chunked, mut upgrade) = (0, None, false, false);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("content-length") {
            let digits = std::str::from_utf8(header.value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let Some(value) = digits.and_then(|text| text.parse::<u64>().ok()) else {
                return bad("Content-Length is not a number");
            };
            if length.replace(value).is_some() {
                return bad("two Content-Length headers");
            }
        } else if is("transfer-encoding") {
            if chunked {
                return bad("two Transfer-Encoding headers");
            }
            if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return bad("Transfer-Encoding may only be `chunked`");
            }
            chunked = true;
        } else if is("upgrade") {
            upgrade = true;
        } else if header.name.contains('_') {
            let name = header.name.to_ascii_lowercase();
            if ["content-length", "transfer-encoding", "host"].iter().any(|framing| is_spelling_of(&name, framing)) {
                return bad("a header looks like one that frames the message");
            }
        }
    }
    if hosts > 1 {
        return bad("two Host headers");
    }
    let (one_one, connect) = (request.version == Some(1), request.method == Some("CONNECT"));
    if hosts == 0 && one_one {
        return bad("HTTP/1.1 needs a Host header");
    }
    if chunked && length.is_some() {
        return bad("both Content-Length and Transfer-Encoding");
    }
    if chunked && !one_one {
        return bad("HTTP/1.0 has no Transfer-Encoding");
    }
    if connect && (chunked || length.is_some_and(|length| length > 0)) {
        return bad("CONNECT has no body");
    }
    Ok(match (chunked, length) {
        _ if connect => State::Await,
        (true, _) => CHUNK_START,
        (false, Some(length)) if length > 0 => State::Sized(length),
        _ if upgrade && one_one => State::Await,
        _ => State::Head,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1000, count: 10 };

    /// Feeds a text whole and returns what came of it: how much may be delivered, and the verdict on the rest.
    fn feed(text: &str) -> (usize, String) {
        let mut framing = Framing::new(LIMITS);
        let mut done = 0;
        while done < text.len() {
            match framing.advance(&text.as_bytes()[done..]) {
                Advance::Deliver(n) | Advance::Blank(n) => done += n,
                Advance::Refuse(refusal) => return (done, refusal.detail.into_owned()),
                other => return (done, format!("{other:?}")),
            }
        }
        (done, if framing.at_head() { "head".into() } else { "inside".into() })
    }

    fn verdict(text: &str) -> String {
        feed(text).1
    }

    #[test]
    fn plain_messages_pass_one_after_another() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let chunked =
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n";
        for text in [get, post, chunked, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let text = format!("{text}{get}{text}");
            assert_eq!(feed(&text), (text.len(), "head".into()), "{text}");
        }
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let text =
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        let mut framing = Framing::new(LIMITS);
        let mut held = Vec::new();
        for byte in text {
            held.push(*byte);
            match framing.advance(&held) {
                Advance::Deliver(n) | Advance::Blank(n) => assert_eq!(held.drain(..n).count(), n),
                Advance::Partial => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(held.is_empty() && framing.at_head());
    }

    #[test]
    fn ambiguous_framing_is_refused_with_its_reason() {
        for (headers, reason) in [
            ("Host: a\r\nHost: a\r\n", "two Host"),
            ("Accept: b\r\n", "needs a Host"),
            ("Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "both"),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "both"),
            ("Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", "two Content-Length"),
            ("Host: a\r\nContent-Length: 5, 5\r\n", "not a number"),
            ("Host: a\r\nContent-Length: +5\r\n", "not a number"),
            ("Host: a\r\nContent-Length: \r\n", "not a number"),
            ("Host: a\r\nContent-Length: 99999999999999999999\r\n", "not a number"),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "two Transfer-Encoding"),
            ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", "only be"),
            ("Host: a\r\nTransfer-Encoding: xchunked\r\n", "only be"),
            ("Host: a\r\nContent_Length: 5\r\n", "looks like"),
            ("Host: a\r\nX: b\r\n folded\r\n", "malformed"),
            ("Host: a\r\nX: b\0c\r\n", "malformed"),
            ("Host: a\r\nX : b\r\n", "malformed"),
            ("Host: a\nX: b\r\n", "CR LF"),
        ] {
            let text = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            assert!(verdict(&text).contains(reason), "{headers:?}: {}", verdict(&text));
        }
        assert!(verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").contains("HTTP/1.0"));
        assert!(verdict("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").contains("CONNECT"));
        for target in ["/a<b", "http://[::1/", "http:///x"] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let said = verdict(&head);
            assert!(said.contains("not a URI") || said.contains("malformed"), "{target}: {said}");
        }
        assert!(verdict("GET / HTTP/2.0\r\nHost: a\r\n\r\n").contains("malformed"));
        assert!(verdict("GET  / HTTP/1.1\r\nHost: a\r\n\r\n").contains("malformed"));
    }

    #[test]
    fn a_malformed_chunk_breaks_the_message_where_it_stands() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "xyz\r\n",
            "\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 \r\n",
            "5\n",
            "11111111111111111\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "0\r\nX: y\n\r\n",
            "5;a\0\r\n",
        ] {
            assert_eq!(verdict(&format!("{head}{body}")), "Broken", "{body:?}");
        }
    }

    #[test]
    fn heads_past_the_limits_are_refused_as_431() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10));
        assert!(verdict(&many).contains("limits.header_count"));
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(1000));
        assert!(verdict(&large).contains("limits.header_bytes"));
        assert!(verdict(&format!("{large}\r\n\r\n")).contains("limits.header_bytes"));
    }

    #[test]
    fn after_a_request_to_switch_the_answer_decides_what_follows() {
        for head in
            ["CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"]
        {
            assert_eq!(verdict(&format!("{head}\x16\x03")), "Await");
            let mut framing = Framing::new(LIMITS);
            assert!(matches!(framing.advance(head.as_bytes()), Advance::Deliver(_)));
            framing.switched(true);
            assert!(matches!(framing.advance(b"\x16\x03"), Advance::Deliver(2)));
            let mut framing = Framing::new(LIMITS);
            framing.advance(head.as_bytes());
            framing.switched(false);
            assert!(framing.at_head());
        }
    }
}
