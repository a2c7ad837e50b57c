//! How a challenge is answered: the hashes of RFC 7616 section 3.4, and the header that carries them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
        Self { proof: Arc::new(Proof { asked, opening, cnonce, key }), nonce, count: Arc::default() }
    }

    /// The same session with the nonce that the server wants next.
    pub(super) fn go_on(&self, nonce: Vec<u8>) -> Self {
        Self { proof: Arc::clone(&self.proof), nonce, count: Arc::default() }
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
        Ok(Mutations { set: vec![(AUTHORIZATION, value)], ..Mutations::default() }.into())
    }
}

impl Hash {
    /// The hash of some parts with colons between them, in hexadecimal.
    fn over(self, parts: &[&[u8]]) -> String {
        let pieces = parts.iter().enumerate().flat_map(|(at, part)| [if at == 0 { &b""[..] } else { b":" }, part]);
        match self {
            Self::Md5 => hex(&pieces.fold(md5::Md5::new(), |digest, piece| digest.chain_update(piece)).finalize()),
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

    fn session(challenge: &'static str, account: (&str, &str), cnonce: &str) -> Session {
        let mut headers = HeaderMap::new();
        headers.insert("www-authenticate", HeaderValue::from_static(challenge));
        let account = Account { username: account.0.into(), password: Secret::new(account.1) };
        Session::begin(choose(&headers, false).unwrap(), &account, cnonce.into())
    }

    fn answer(session: &Session, method: &Method, target: &str, body: Option<&BodyDigest>) -> Result<String, Refusal> {
        let view = RequestView {
            method,
            path_and_query: target,
            headers: &HeaderMap::new(),
            removed: &HeaderMap::new(),
            destination: &Destination::from_connect("www.test:443").unwrap(),
            length: Some(0),
            body,
            narrowing: None,
        };
        let signed = session.authorize(&view, SystemTime::UNIX_EPOCH)?;
        Ok(String::from_utf8(signed.mutations.set[0].1.as_bytes().to_vec()).unwrap())
    }

    const MUFASA: (&str, &str) = ("Mufasa", "Circle of Life");

    /// RFC 2617 section 3.5, whose client nonce is shorter than ours.
    #[test]
    fn the_example_of_rfc_2617_is_answered() {
        let asked = r#"Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let session = session(asked, ("Mufasa", "Circle Of Life"), "0a4f113b");
        assert_eq!(
            answer(&session, &Method::GET, "/dir/index.html", None).unwrap(),
            r#"Digest username="Mufasa", realm="testrealm@host.com", opaque="5ccc069c403ebaf9f0171e9517f40e41", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1""#
        );
    }

    /// What the server of RFC 2617 section 3.5 would have got without `qop`, and with the algorithms that the RFC has no
    /// example for; the figures are curl's (tests/libtest and tests/unit of its sources know the same inputs).
    #[test]
    fn an_old_server_gets_neither_count_nor_client_nonce() {
        let session = session(r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#, MUFASA, "c");
        let line = answer(&session, &Method::GET, "/dir/index.html", None).unwrap();
        assert!(!line.contains("nc=") && !line.contains("cnonce") && !line.contains("qop") && !line.contains("algorithm"));
        assert_eq!(session.body_need(&RequestView { ..view() }).unwrap(), BodyNeed::None);
    }
}
