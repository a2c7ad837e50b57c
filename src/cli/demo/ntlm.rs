//! The demo's Windows server: asks each connection once and verifies what it is answered, by its own means. It shares no
//! code with the scheme.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::WWW_AUTHENTICATE;
use md4::{Digest, Md4};
use md5::Md5;

use super::api::{Call, Reply};
use super::cases::HOST;

/// Its one user.
const USER: &str = "demo";
const DOMAIN: &str = "DEMO";

/// What it knows.
pub(super) struct Windows {
    password: String,
    /// The MD5 of what a client must have seen of the channel.
    channel: [u8; 16],
    proven: AtomicUsize,
}

/// One connection, as far as it has come.
#[derive(Default)]
pub(super) struct Session(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unasked,
    /// Both messages so far.
    Asked(Vec<u8>, Vec<u8>),
    /// The how manyeth connection that was proven.
    Proven(usize),
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Judgement {
    /// The first message came, and this is the header that asks.
    Ask(String),
    /// Whether it is let in, and what it showed of itself.
    Ruled(bool, String),
}

impl Windows {
    /// `certificate` is the server's own, in DER, signed with SHA-256.
    pub(super) fn new(password: &str, certificate: &[u8]) -> Self {
        // gss_channel_bindings_struct: no addresses, and the data with its length (RFC 2744 section 3.11, RFC 5929 section 4).
        let data = [&b"tls-server-end-point:"[..], digest(&SHA256, certificate).as_ref()].concat();
        let structure = [&[0; 16][..], &[data.len() as u8, 0, 0, 0], &data].concat();
        Self { password: password.into(), channel: Md5::digest(structure).into(), proven: AtomicUsize::new(0) }
    }

    /// What `/ntlm` answers.
    pub(super) fn answer(&self, call: &Call<'_>) -> Option<Reply> {
        if call.head.uri.path() != "/ntlm" {
            return None;
        }
        Some(match self.judge(call.session, call.header("authorization"), call.now) {
            Judgement::Ruled(right, received) => Reply::verdict(&received, right),
            Judgement::Ask(challenge) => Reply::verdict("", false).with(WWW_AUTHENTICATE, challenge),
        })
    }

    /// Judges a request by its Authorization header and by what its connection has proven.
    fn judge(&self, session: &Session, authorization: Option<&str>, now: SystemTime) -> Judgement {
        let mut state = session.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = authorization.and_then(|value| value.strip_prefix("NTLM "));
        let message = message.and_then(|text| STANDARD.decode(text).ok());
        let shown = |number: usize| format!("Authorization: NTLM [redacted], on connection {number}");
        match (std::mem::take(&mut *state), message) {
            (State::Proven(number), None) => {
                *state = State::Proven(number);
                Judgement::Ruled(true, shown(number))
            }
            (_, None) => Judgement::Ruled(false, String::new()),
            (_, Some(first)) if first.starts_with(b"NTLMSSP\0\x01") => match challenge(now) {
                Some(second) => {
                    let asking = format!("NTLM {}", STANDARD.encode(&second));
                    *state = State::Asked(first, second);
                    Judgement::Ask(asking)
                }
                None => Judgement::Ruled(false, "no random numbers".into()),
            },
            (State::Asked(first, second), Some(third)) if self.verifies(&first, &second, &third) == Some(true) => {
                let number = self.proven.fetch_add(1, Ordering::Relaxed) + 1;
                *state = State::Proven(number);
                Judgement::Ruled(true, shown(number))
            }
            (_, Some(_)) => Judgement::Ruled(false, "Authorization: NTLM [redacted]".into()),
        }
    }

    /// The proof, the integrity code, the service that is meant and the channel.
    fn verifies(&self, first: &[u8], second: &[u8], third: &[u8]) -> Option<bool> {
        let field = |at: usize| {
            let length = u16::from_le_bytes(third.get(at..at + 2)?.try_into().ok()?).into();
            let offset = u32::from_le_bytes(third.get(at + 4..at + 8)?.try_into().ok()?) as usize;
            third.get(offset..)?.get(..length)
        };
        let names = field(28)? == wide(DOMAIN) && field(36)? == wide(USER);
        let key = hmac(&Md4::digest(wide(&self.password)), &[&wide(&USER.to_uppercase()), &wide(DOMAIN)]);
        let (proof, answered) = field(20)?.split_at_checked(16)?;
        let proven = hmac(&key, &[second.get(24..32)?, answered]) == proof;
        let mut without = third.to_vec();
        let code = without.get_mut(72..88)?;
        code.fill(0);
        let whole = hmac(&hmac(&key, &[proof]), &[first, second, &without]) == third.get(72..88)?;
        let has = |id: u8, value: &[u8]| {
            let pair = [&[id, 0, value.len() as u8, 0][..], value].concat();
            answered.windows(pair.len()).any(|own| own == pair)
        };
        let meant = has(6, &[2, 0, 0, 0]) && has(9, &wide(&format!("HTTP/{HOST}"))) && has(10, &self.channel);
        Some(names && proven && whole && meant)
    }
}

/// The second message: what Windows sets of the flags, a random challenge, the domain and the time.
fn challenge(now: SystemTime) -> Option<Vec<u8>> {
    let mut random = [0; 8];
    rand::fill(&mut random).ok()?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()? + Duration::from_secs(11_644_473_600);
    let time = ((since.as_nanos() / 100) as u64).to_le_bytes();
    let name = wide(DOMAIN);
    let target = [&[2, 0, name.len() as u8, 0][..], &name, &[7, 0, 8, 0], &time, &[0; 4]].concat();
    let place = |length: usize, offset: u8| [length as u8, 0, length as u8, 0, offset, 0, 0, 0];
    let head = [&b"NTLMSSP\0\x02\0\0\0"[..], &place(name.len(), 56), &0xa28a_8205_u32.to_le_bytes(), &random, &[0; 8]];
    let rest = [&place(target.len(), 64)[..], &[10, 0, 0, 0, 0, 0, 0, 15], &name, &target];
    Some([head.concat(), rest.concat()].concat())
}

/// RFC 2104 over MD5.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut padded = [0; 64];
    padded[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| padded.map(|own| own ^ byte);
    let inner = Md5::digest([&pad(0x36)[..], &parts.concat()].concat());
    Md5::digest([&pad(0x5c)[..], &inner].concat()).into()
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_its_specification() {
        // RFC 2202 section 2, test case 2.
        let expected = 0x750c_783e_6ab0_b503_eaa8_6e31_0a5d_b738_u128.to_be_bytes();
        assert_eq!(hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]), expected);
    }

    #[test]
    fn an_answer_that_proves_nothing_is_refused_and_a_connection_is_not_proven_by_another() {
        let windows = Windows::new("password", b"certificate");
        let now = SystemTime::UNIX_EPOCH;
        let (one, other) = (Session::default(), Session::default());
        assert_eq!(windows.judge(&one, None, now), Judgement::Ruled(false, String::new()));
        let first = format!("NTLM {}", STANDARD.encode(b"NTLMSSP\0\x01\0\0\0"));
        assert!(matches!(windows.judge(&one, Some(&first), now), Judgement::Ask(_)));
        let third = format!("NTLM {}", STANDARD.encode([&b"NTLMSSP\0\x03\0\0\0"[..], &[0; 100]].concat()));
        for session in [&one, &other] {
            assert!(matches!(windows.judge(session, Some(&third), now), Judgement::Ruled(false, _)));
            assert_eq!(windows.judge(session, None, now), Judgement::Ruled(false, String::new()));
        }
    }
}
