//! The same bytes whole, in chosen pieces and one by one: the same messages, as many bytes delivered, the same verdict.
//!
//! The first line of the input steers: its first byte answers requests to switch protocols, two bits each (`listen::vet`
//! answers for real), the others are lengths of pieces, from the space on. The rest is what the caller sends.
#![no_main]

use std::iter::repeat_n;

use countersign::listen::framing::{Advance, Framing, HeadLimits};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer reaches them.
const LIMITS: HeadLimits = HeadLimits { bytes: 512, count: 10 };

/// What came of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    delivered: usize,
    /// Where the delivered heads stand.
    heads: Vec<(usize, usize)>,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    BetweenMessages,
    InsideMessage,
    PartialHead,
    AwaitsSwitch,
    Switched,
    Refused,
    Broken,
}

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|b| *b == b'\n') else { return };
    let [answers, sizes @ ..] = &data[..end] else { return };
    let sent = &data[end + 1..];
    let whole = feed(sent, *answers, repeat_n(sent.len(), 1));
    let sizes = sizes.iter().map(|b| usize::from(b.wrapping_sub(b' ')) + 1);
    assert_eq!(feed(sent, *answers, sizes.cycle()), whole);
    assert_eq!(feed(sent, *answers, repeat_n(1, sent.len())), whole);
});

/// Feeds pieces as `listen::vet` does: what is not delivered is held, and looked at again with what follows.
fn feed(sent: &[u8], answers: u8, mut sizes: impl Iterator<Item = usize>) -> Outcome {
    let mut framing = Framing::new(LIMITS);
    let (mut done, mut arrived, mut asked) = (0, 0, 0);
    let mut heads = Vec::new();
    let (mut switched, mut unanswered) = (false, false);
    let verdict = loop {
        if !framing.at_head() && !framing.inside_message() && !switched && !unanswered {
            match answers >> (asked % 4 * 2) & 3 {
                0 => unanswered = true,
                answer => {
                    switched = answer == 1;
                    framing.switched(switched);
                    assert_eq!(framing.at_head(), !switched);
                }
            }
            asked += 1;
        }
        let mut stuck = done == arrived;
        if !stuck {
            let was_at_head = framing.at_head();
            let at_hand = &sent[done..arrived];
            match framing.advance(at_hand) {
                Advance::Deliver(n) => {
                    assert!(n > 0, "nothing is delivered, for ever");
                    assert!(n <= at_hand.len(), "{n} bytes delivered of {}", at_hand.len());
                    if was_at_head {
                        check_head(&at_hand[..n]);
                        heads.push((done, n));
                    }
                    assert!(!unanswered, "delivered before the switch was answered");
                    done += n;
                }
                Advance::Blank(n) => {
                    assert!(was_at_head && framing.at_head());
                    assert_eq!(at_hand[..n], *b"\r\n");
                    done += n;
                }
                Advance::Partial => {
                    assert!(was_at_head && at_hand.len() <= LIMITS.bytes);
                    stuck = true;
                }
                Advance::Await => {
                    assert!(unanswered);
                    break Verdict::AwaitsSwitch;
                }
                Advance::Refuse(refusal) => {
                    assert!(was_at_head, "{refusal}");
                    break Verdict::Refused;
                }
                Advance::Broken => {
                    assert!(!was_at_head && framing.inside_message());
                    assert!(matches!(framing.advance(at_hand), Advance::Broken), "a broken message goes on");
                    break Verdict::Broken;
                }
            }
        }
        if stuck && arrived == sent.len() {
            break match () {
                () if done < arrived => Verdict::PartialHead,
                () if switched => Verdict::Switched,
                () if unanswered => Verdict::AwaitsSwitch,
                () if framing.at_head() => Verdict::BetweenMessages,
                () => Verdict::InsideMessage,
            };
        }
        if stuck {
            // When the sizes run out, all the rest comes at once.
            arrived = sizes.next().map_or(sent.len(), |size| sent.len().min(arrived + size));
        }
    };
    Outcome { delivered: done, heads, verdict }
}

/// What no delivered head may hold, read line by line without a parser.
fn check_head(head: &[u8]) {
    let shown = head.escape_ascii();
    assert!(head.len() <= LIMITS.bytes, "{shown}");
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| panic!("does not end like a head: {shown}"));
    let lines: Vec<&[u8]> = split_lines(text).into_iter().skip_while(|line| line.is_empty()).collect();
    let clean = |line: &&[u8]| !line.is_empty() && !line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
    assert!(lines.iter().all(clean), "{shown}");
    let [request, headers @ ..] = &*lines else { panic!("no request line: {shown}") };
    assert!(headers.len() <= LIMITS.count, "{shown}");
    let (mut hosts, mut lengths, mut encodings) = (0, 0, 0);
    for header in headers {
        let colon = header.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("no header: {shown}"));
        let name = String::from_utf8_lossy(&header[..colon]).to_ascii_lowercase();
        assert!(!name.contains(|c: char| c.is_ascii_whitespace()), "{shown}");
        // As servers read it that make variables of headers.
        match &*name.trim_end_matches('_').replace('_', "-") {
            "host" => hosts += 1,
            "content-length" => {
                lengths += 1;
                assert!(header[colon + 1..].trim_ascii().iter().all(u8::is_ascii_digit), "{shown}");
            }
            "transfer-encoding" => {
                encodings += 1;
                assert!(header[colon + 1..].trim_ascii().eq_ignore_ascii_case(b"chunked"), "{shown}");
            }
            _ => {}
        }
    }
    assert!(hosts <= 1 && lengths + encodings <= 1, "{shown}");
    assert!(hosts == 1 || request.ends_with(b" HTTP/1.0"), "{shown}");
    assert!(encodings == 0 || request.ends_with(b" HTTP/1.1"), "{shown}");
}

fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}
