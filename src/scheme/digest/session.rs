//! How a challenge is answered: the hashes of RFC 7616 section 3.4, and the header that carries them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA512_256};
use http::header::{AUTHORIZATION, HeaderValue};
use md5::Digest as _;

use super::challenge::{Asked, Hash, Protection};
use crate::base::text::hex;
use crate::base::{Authorized, Authorizer, BodyNeed, Mutations, Refusal, RequestView, Secret};

/// Whose password it is.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) username: String,
    pub(super) password: Secret,
}

/// One nonce of a server's, and how often it was used. It signs requests, also at the same time: no count twice.
#[derive(Debug)]
pub(super) struct Session {
    proof: Arc<Proof>,
    nonce: Vec<u8>,
    count: Arc<AtomicU32>,
    /// The request that was asked has been signed, or the nonce is for whoever comes next.
    begun: AtomicBool,
}

/// What stays the same for an authentication session, which ends with the next challenge (RFC 7616 section 3.6).
#[derive(Debug)]
struct Proof {
    asked: Asked,
    /// Everything of the answer that is the same every time.
    opening: Vec<u8>,
    /// One for the whole session: `-sess` needs it so, and the others lose nothing by it.
    cnonce: String,
    /// H(A1): as good as the password within this realm.
    key: Secret,
}

impl Session {
    /// Answers a challenge from now on.
    pub(super) fn begin(asked: Asked, account: &Account, cnonce: String) -> Self {
        let hash = asked.hash;
        let username = account.username.as_bytes();
        let mut key = Secret::new(hash.over(&[username, &asked.realm, account.password.expose()]));
        if asked.session {
            key = Secret::new(hash.over(&[key.expose(), &asked.nonce, cnonce.as_bytes()]));
        }
        let mut opening = b"Digest ".to_vec();
        if asked.userhash {
            opening.extend(quoted("username", hash.over(&[username, &asked.realm]).as_bytes()));
        } else if asked.utf8 && !username.is_ascii() {
            opening.extend_from_slice(b"username*=UTF-8''");
            extended(&mut opening, username);
        } else {
            // Beyond ASCII, the bytes of UTF-8, as curl sends them; servers of before RFC 7616 compare bytes.
            opening.extend(quoted("username", username));
        }
        opening.extend_from_slice(b", ");
        opening.extend(quoted("realm", &asked.realm));
        if let Some(algorithm) = &asked.algorithm {
            opening.extend_from_slice(b", algorithm=");
            opening.extend_from_slice(algorithm);
        }
        if let Some(opaque) = &asked.opaque {
            opening.extend_from_slice(b", ");
            opening.extend(quoted("opaque", opaque));
        }
        if asked.userhash {
            opening.extend_from_slice(b", userhash=true");
        }
        let nonce = asked.nonce.clone();
        Self {
            proof: Arc::new(Proof { asked, opening, cnonce, key }),
            nonce,
            count: Arc::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// The same session with the nonce that the server wants next.
    pub(super) fn go_on(&self, nonce: Vec<u8>) -> Self {
        Self { proof: Arc::clone(&self.proof), nonce, count: Arc::default(), begun: AtomicBool::new(true) }
    }

    /// The same count as another one of this nonce.
    pub(super) fn count_with(&mut self, other: &Self) {
        self.count = Arc::clone(&other.count);
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.proof.asked
    }

    pub(super) fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    pub(super) fn cnonce(&self) -> &[u8] {
        self.proof.cnonce.as_bytes()
    }

    /// Whether others may go on with it.
    pub(super) fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the nonce was used so often that a new one is due: the count has eight digits.
    pub(super) fn is_spent(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= u32::MAX / 2
    }

    /// The hash of the body, where the server wants it covered.
    fn body_hash(&self, view: &RequestView<'_>) -> Result<String, Refusal> {
        let unread = || Refusal::bad_request("the body was not read before signing");
        let body = view.body.ok_or_else(unread)?;
        match self.proof.asked.hash {
            Hash::Sha256 => Ok(hex(&body.sha256)),
            Hash::Md5 | Hash::Sha512Trunc256 => body.further.as_deref().map(hex).ok_or_else(unread),
        }
    }
}

impl Authorizer for Session {
    fn body_need(&self, _: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
        Ok(match (self.proof.asked.protection, self.proof.asked.hash) {
            (Protection::Legacy | Protection::Auth, _) => BodyNeed::None,
            (Protection::AuthInt, Hash::Md5) => BodyNeed::Md5,
            (Protection::AuthInt, Hash::Sha256) => BodyNeed::Sha256,
            (Protection::AuthInt, Hash::Sha512Trunc256) => BodyNeed::Sha512Trunc256,
        })
    }

    fn authorize(&self, view: &RequestView<'_>, _: SystemTime) -> Result<Authorized, Refusal> {
        let Proof { asked, opening, cnonce, key } = &*self.proof;
        let (hash, qop) = (asked.hash, asked.protection.as_str());
        let (method, target) = (view.method.as_str().as_bytes(), view.path_and_query.as_bytes());
        let request = match asked.protection {
            Protection::Legacy | Protection::Auth => hash.over(&[method, target]),
            Protection::AuthInt => hash.over(&[method, target, self.body_hash(view)?.as_bytes()]),
        };
        let mut line = opening.clone();
        line.reserve(256 + self.nonce.len() + target.len());
        for (name, value) in [("nonce", &*self.nonce), ("uri", target)] {
            line.extend_from_slice(b", ");
            line.extend(quoted(name, value));
        }
        let response = if asked.protection == Protection::Legacy {
            if asked.session {
                // No RFC says how the server learns it otherwise.
                line.extend_from_slice(format!(", cnonce=\"{cnonce}\"").as_bytes());
            }
            hash.over(&[key.expose(), &self.nonce, request.as_bytes()])
        } else {
            let count = format!("{:08x}", self.count.fetch_add(1, Ordering::Relaxed) + 1);
            line.extend_from_slice(format!(", qop={qop}, nc={count}, cnonce=\"{cnonce}\"").as_bytes());
            let parts =
                [key.expose(), &self.nonce, count.as_bytes(), cnonce.as_bytes(), qop.as_bytes(), request.as_bytes()];
            hash.over(&parts)
        };
        line.extend_from_slice(format!(", response=\"{response}\"").as_bytes());
        let mut value = HeaderValue::try_from(line)
            .map_err(|_| Refusal::bad_request("the request target cannot be quoted in a header"))?;
        value.set_sensitive(true);
        self.begun.store(true, Ordering::Relaxed);
        Ok(Mutations { set: vec![(AUTHORIZATION, value)], ..Mutations::default() }.into())
    }
}

impl Hash {
    /// The hash of some parts with colons between them, in hexadecimal.
    fn over(self, parts: &[&[u8]]) -> String {
        let pieces = parts.iter().enumerate().flat_map(|(at, part)| [if at == 0 { &b""[..] } else { b":" }, part]);
        match self {
            Self::Md5 => hex(&pieces.fold(md5::Md5::new(), md5::Digest::chain_update).finalize()),
            Self::Sha256 | Self::Sha512Trunc256 => {
                let mut digest = Context::new(if self == Self::Sha256 { &SHA256 } else { &SHA512_256 });
                pieces.for_each(|piece| digest.update(piece));
                hex(digest.finish().as_ref())
            }
        }
    }
}

/// `name="value"`, escaped where it must be.
fn quoted(name: &str, value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 3);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"=\"");
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
    text
}

/// The extended notation of RFC 8187 section 3.2.1.
fn extended(text: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(byte) {
            text.push(*byte);
        } else {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::challenge::choose;
    use super::*;
    use crate::base::Destination;
    use crate::base::request::BodyDigest;

    fn session(challenge: &str, account: (&str, &str), cnonce: &str) -> Session {
        let mut headers = HeaderMap::new();
        headers.insert("www-authenticate", HeaderValue::from_str(challenge).unwrap());
        let account = Account { username: account.0.into(), password: Secret::new(account.1) };
        Session::begin(choose(&headers, false).unwrap(), &account, cnonce.into())
    }

    fn with_view<T>(target: &str, body: Option<&BodyDigest>, use_it: impl FnOnce(&RequestView<'_>) -> T) -> T {
        use_it(&RequestView {
            method: &Method::GET,
            path_and_query: target,
            headers: &HeaderMap::new(),
            removed: &HeaderMap::new(),
            destination: &Destination::from_connect("www.test:443").unwrap(),
            length: Some(0),
            body,
            narrowing: None,
        })
    }

    fn answer(session: &Session, target: &str, body: Option<&BodyDigest>) -> Result<String, Refusal> {
        let signed = with_view(target, body, |view| session.authorize(view, SystemTime::UNIX_EPOCH))?;
        Ok(String::from_utf8(signed.mutations.set[0].1.as_bytes().to_vec()).unwrap())
    }

    const REALM: &str = r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#;

    /// RFC 2617 section 3.5, whose client nonce is shorter than ours. Without `qop`, the figure is that of Python's hashlib.
    #[test]
    fn the_example_of_rfc_2617_is_answered_and_a_server_of_before_it() {
        let asked = format!(r#"{REALM}, qop="auth,auth-int", opaque="5ccc069c403ebaf9f0171e9517f40e41""#);
        let new = session(&asked, ("Mufasa", "Circle Of Life"), "0a4f113b");
        assert_eq!(
            answer(&new, "/dir/index.html", None).unwrap(),
            r#"Digest username="Mufasa", realm="testrealm@host.com", opaque="5ccc069c403ebaf9f0171e9517f40e41", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1""#
        );
        let old = session(REALM, ("Mufasa", "Circle Of Life"), "0a4f113b");
        assert_eq!(
            answer(&old, "/dir/index.html", None).unwrap(),
            r#"Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", response="670fd8c2df070c60b045671b8b24ff02""#
        );
    }

    #[test]
    fn a_body_is_covered_only_where_nothing_less_will_do() {
        for (qop, algorithm, need) in [
            ("auth,auth-int", "MD5", BodyNeed::None),
            ("auth-int", "MD5-sess", BodyNeed::Md5),
            ("auth-int", "SHA-256", BodyNeed::Sha256),
            ("x, auth-int", "SHA-512-256", BodyNeed::Sha512Trunc256),
        ] {
            let session = session(&format!(r#"{REALM}, qop="{qop}", algorithm={algorithm}"#), ("u", "p"), "c");
            assert_eq!(with_view("/", None, |view| session.body_need(view)).unwrap(), need, "{qop}");
            assert_eq!(answer(&session, "/", None).is_ok(), need == BodyNeed::None, "a body that nobody read");
        }
    }

    #[test]
    fn names_and_targets_are_quoted_and_hashed_as_they_are() {
        let name = "J\u{e4}s\u{f8}n \"D\"";
        let plain = session(REALM, (name, "p"), "c");
        assert!(answer(&plain, "/", None).unwrap().starts_with("Digest username=\"J\u{e4}s\u{f8}n \\\"D\\\"\", realm"));
        let utf8 = session(&format!("{REALM}, charset=UTF-8"), (name, "p"), "c");
        let line = answer(&utf8, "/a%2Fb?c=\"d\"&\u{e9}", None).unwrap();
        assert!(line.starts_with("Digest username*=UTF-8''J%C3%A4s%C3%B8n%20%22D%22, realm"), "{line}");
        assert!(line.contains("uri=\"/a%2Fb?c=\\\"d\\\"&\u{e9}\""), "{line}");
        let ascii = session(&format!("{REALM}, charset=UTF-8, userhash=false"), ("u", "p"), "c");
        let line = answer(&ascii, "/", None).unwrap();
        assert!(line.starts_with("Digest username=\"u\"") && !line.contains("userhash"), "{line}");
    }

    #[test]
    fn a_session_keeps_its_key_when_the_nonce_goes_on() {
        let first = session(&format!("{REALM}, qop=auth, algorithm=MD5-sess"), ("u", "p"), "c");
        answer(&first, "/", None).unwrap();
        let next = first.go_on(b"n2".to_vec());
        let line = answer(&next, "/", None).unwrap();
        assert!(line.contains("nonce=\"n2\"") && line.contains("nc=00000001, cnonce=\"c\""), "{line}");
        assert_eq!(first.proof.key.expose(), next.proof.key.expose());
    }

    #[test]
    fn no_count_is_used_twice_however_many_sign_at_once() {
        let session = session(&format!("{REALM}, qop=auth"), ("u", "p"), "c");
        let mut counts: Vec<String> = std::thread::scope(|scope| {
            let count = |_| answer(&session, "/", None).unwrap().split("nc=").nth(1).unwrap()[..8].to_owned();
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(move || (0..500).map(count).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        counts.sort();
        counts.dedup();
        assert_eq!((counts.len(), &*counts[0], &*counts[3999]), (4000, "00000001", "00000fa0"));
    }
}
