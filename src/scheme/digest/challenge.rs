//! What a server asks: `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 7616 section 3.3), read as servers write it.

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::base::{Code, Fault, Refusal, RequestView};

/// No server needs more for one parameter, and all of them but `domain` go back with every request.
const PARAMETER: usize = 2048;

/// So many challenges, and so many names of other schemes, are looked at.
const CHALLENGES: usize = 16;

/// So many URIs of `domain` are kept.
const DOMAINS: usize = 16;

/// A hash function of RFC 7616, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hash {
    Md5,
    Sha256,
    /// SHA-512/256 of FIPS 180-4: not SHA-512 cut short, as in the example of the RFC (erratum 4897).
    Sha512Trunc256,
}

/// How the request is bound to the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// No `qop`: RFC 2069, as RFC 2617 section 3.2.2.1 still allows.
    Legacy,
    /// `auth`: method and target.
    Auth,
    /// `auth-int`: the body too.
    AuthInt,
}

/// A challenge that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) realm: Vec<u8>,
    pub(super) nonce: Vec<u8>,
    pub(super) opaque: Option<Vec<u8>>,
    pub(super) hash: Hash,
    /// The `-sess` form: the hash of the password is made with the nonces of the session.
    pub(super) session: bool,
    /// The algorithm as the server wrote it; it is sent back where it was.
    pub(super) algorithm: Option<Vec<u8>>,
    pub(super) protection: Protection,
    pub(super) domain: Vec<String>,
    pub(super) userhash: bool,
    /// The server says that it takes UTF-8.
    pub(super) utf8: bool,
}

/// The strongest challenge that can be answered; of equal ones the first, which the server prefers (RFC 7616 section 3.7).
///
/// # Errors
/// `credential_rejected`: what the server asks for instead.
pub(super) fn choose(headers: &HeaderMap, forbid_md5: bool) -> Result<Asked, Refusal> {
    let offers = Offers::read(headers);
    let mut best: Option<Asked> = None;
    let mut wrong = None;
    for parameters in offers.digests {
        match parameters.checked() {
            Ok(asked) if forbid_md5 && asked.hash == Hash::Md5 => {
                wrong = Some("it knows no better algorithm than MD5, and the credential says `forbid_md5`".to_owned());
            }
            Ok(asked) if best.as_ref().is_none_or(|best| asked.hash > best.hash) => best = Some(asked),
            Ok(_) => {}
            Err(why) => wrong = wrong.or(Some(why)),
        }
    }
    let rejected = |detail: String| Refusal::new(Code::CredentialRejected, detail).with_fault(Fault::Upstream);
    match (best, wrong) {
        (Some(best), _) => Ok(best),
        (None, Some(why)) => Err(rejected(format!("the server's digest challenge cannot be answered: {why}"))),
        (None, None) if offers.others.is_empty() => {
            Err(rejected("the server answered 401 and does not say how it is authenticated (WWW-Authenticate)".into()))
        }
        (None, None) => Err(rejected(format!(
            "the server asks for {} and not for Digest; bind a credential of a scheme that it takes",
            offers.others.join(", ")
        ))),
    }
}

/// The realms of every digest challenge.
pub(super) fn realms(headers: &HeaderMap) -> Vec<Vec<u8>> {
    Offers::read(headers).digests.into_iter().filter_map(|parameters| parameters.realm).collect()
}

/// Whether a digest challenge says that the nonce was old and the answer right (RFC 7616 section 3.3).
pub(super) fn is_stale(headers: &HeaderMap) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|line| {
        let mut digest = false;
        Items(line.as_bytes()).any(|item| match item {
            Item::Word(word) => {
                digest = word.eq_ignore_ascii_case(b"digest");
                false
            }
            Item::Parameter(name, Some(value)) => digest && *name == *b"stale" && value.eq_ignore_ascii_case(b"true"),
            Item::Parameter(..) | Item::Garbage => false,
        })
    })
}

/// `nextnonce` and `cnonce` of `Authentication-Info` (RFC 7616 section 3.5).
pub(super) fn next_nonce(headers: &HeaderMap) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (mut next, mut cnonce) = (None, None);
    for line in headers.get_all("authentication-info") {
        for item in Items(line.as_bytes()) {
            match item {
                Item::Parameter(name, Some(value)) if value.len() <= PARAMETER => match &*name {
                    b"nextnonce" => next = Some(value),
                    b"cnonce" => cnonce = Some(value),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    next.filter(|next| !next.is_empty()).map(|next| (next, cnonce))
}

/// Every challenge of an answer: those of Digest, and the names of the other schemes.
#[derive(Default)]
struct Offers {
    digests: Vec<Parameters>,
    others: Vec<String>,
}

impl Offers {
    fn read(headers: &HeaderMap) -> Self {
        let mut offers = Self::default();
        for line in headers.get_all(WWW_AUTHENTICATE) {
            offers.read_line(line);
        }
        offers
    }

    fn read_line(&mut self, line: &HeaderValue) {
        let mut current: Option<Parameters> = None;
        for item in Items(line.as_bytes()) {
            match (item, &mut current) {
                // `qop=auth,auth-int` without quotes.
                (Item::Word(word), Some(digest)) if Protection::named(word).is_some() => {
                    digest.set(b"qop", Some(word.to_vec()));
                }
                (Item::Word(word), _) => {
                    self.digests.extend(current.take().filter(|_| self.digests.len() < CHALLENGES));
                    if word.eq_ignore_ascii_case(b"digest") {
                        current = Some(Parameters::default());
                    } else if self.others.len() < CHALLENGES {
                        self.others.push(printable(word));
                    }
                }
                (Item::Parameter(name, value), Some(digest)) => digest.set(&name, value),
                // Of another scheme, or of none.
                (Item::Parameter(..) | Item::Garbage, None) => {}
                (Item::Garbage, Some(digest)) => digest.wrong = Some("it is malformed"),
            }
        }
        self.digests.extend(current.filter(|_| self.digests.len() < CHALLENGES));
    }
}

/// Text from the server in a message for a person.
fn printable(text: &[u8]) -> String {
    text.iter().take(40).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// The parameters of one digest challenge.
#[derive(Debug, Default)]
struct Parameters {
    realm: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    opaque: Option<Vec<u8>>,
    algorithm: Option<Vec<u8>>,
    qop: Option<Vec<u8>>,
    domain: Option<Vec<u8>>,
    charset: Option<Vec<u8>>,
    userhash: Option<Vec<u8>>,
    wrong: Option<&'static str>,
}

impl Parameters {
    fn set(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        let Some(value) = value else {
            self.wrong = Some("a quoted text in it has no end");
            return;
        };
        let place = match name {
            b"realm" => &mut self.realm,
            b"nonce" => &mut self.nonce,
            b"opaque" => &mut self.opaque,
            b"algorithm" => &mut self.algorithm,
            b"qop" => &mut self.qop,
            b"domain" => &mut self.domain,
            b"charset" => &mut self.charset,
            b"userhash" => &mut self.userhash,
            _ => return,
        };
        if value.len() > PARAMETER {
            self.wrong = Some("a parameter of it is too long");
            return;
        }
        match place {
            None => *place = Some(value),
            Some(list) if name == b"qop" => {
                list.push(b',');
                list.extend(value);
                list.truncate(PARAMETER);
            }
            Some(first) if *first != value => self.wrong = Some("it gives one parameter twice"),
            Some(_) => {}
        }
    }

    /// The challenge, if it can be answered.
    fn checked(self) -> Result<Asked, String> {
        if let Some(wrong) = self.wrong {
            return Err(wrong.into());
        }
        let realm = self.realm.ok_or("it has no realm")?;
        let nonce = self.nonce.filter(|nonce| !nonce.is_empty()).ok_or("it has no nonce")?;
        let (hash, session) = match &self.algorithm {
            None => (Hash::Md5, false),
            Some(name) => Hash::named(name).ok_or_else(|| format!("its algorithm {} is not known", printable(name)))?,
        };
        let protection = match self.qop.as_deref().map(<[u8]>::trim_ascii) {
            None | Some(b"") => Protection::Legacy,
            Some(list) => {
                let known = || list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter_map(Protection::named);
                let auth = known().find(|one| *one == Protection::Auth);
                let asks = || format!("its qop {} is neither auth nor auth-int", printable(list));
                auth.or_else(|| known().next()).ok_or_else(asks)?
            }
        };
        let is = |value: &Option<Vec<u8>>, wanted: &[u8]| {
            value.as_ref().is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(wanted))
        };
        let domain = self.domain.as_deref().unwrap_or_default().split(u8::is_ascii_whitespace);
        let domain = domain.filter_map(|uri| std::str::from_utf8(uri).ok().filter(|uri| !uri.is_empty()));
        Ok(Asked {
            userhash: is(&self.userhash, b"true"),
            utf8: is(&self.charset, b"utf-8"),
            domain: domain.take(DOMAINS).map(str::to_owned).collect(),
            realm,
            nonce,
            opaque: self.opaque,
            hash,
            session,
            algorithm: self.algorithm,
            protection,
        })
    }
}

impl Hash {
    /// The hash of an algorithm's name, and whether it is the `-sess` form.
    fn named(name: &[u8]) -> Option<(Self, bool)> {
        let lower = name.to_ascii_lowercase();
        let (base, session) = lower.strip_suffix(b"-sess").map_or((&*lower, false), |base| (base, true));
        let hash = match base {
            b"md5" => Self::Md5,
            b"sha-256" => Self::Sha256,
            b"sha-512-256" => Self::Sha512Trunc256,
            _ => return None,
        };
        Some((hash, session))
    }
}

impl Protection {
    fn named(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"auth") {
            Some(Self::Auth)
        } else {
            name.eq_ignore_ascii_case(b"auth-int").then_some(Self::AuthInt)
        }
    }

    /// As it stands in the answer.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "",
            Self::Auth => "auth",
            Self::AuthInt => "auth-int",
        }
    }
}

impl Asked {
    /// The beginnings of the paths that `domain` names at the server that asked (RFC 7616 section 3.3): its own URIs only,
    /// for the credential goes nowhere else unasked.
    pub(super) fn paths<'a>(&'a self, view: &'a RequestView<'_>) -> impl Iterator<Item = &'a str> {
        self.domain.iter().filter_map(|uri| {
            if uri.starts_with('/') {
                return Some(uri.as_str());
            }
            let (scheme, rest) = uri.split_once("://")?;
            let at = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            let here = scheme.eq_ignore_ascii_case(view.destination.protocol().as_str())
                && view.destination.is_named_by(authority.as_bytes());
            here.then_some(if path.is_empty() { "/" } else { path })
        })
    }
}

/// One piece of such a header.
#[derive(Debug, PartialEq, Eq)]
enum Item<'a> {
    /// A word by itself: the name of a scheme, its token (RFC 9110 section 11.2) left out.
    Word(&'a [u8]),
    /// A parameter, its name in lower case; no value where a quoted text has no end.
    Parameter(Vec<u8>, Option<Vec<u8>>),
    /// What is neither.
    Garbage,
}

/// The pieces of a header, one after another. Every step takes at least one byte.
struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    /// Takes what fulfils a condition.
    fn take(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !fits(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn spaces(&mut self) {
        self.take(|byte| matches!(byte, b' ' | b'\t'));
    }

    /// A value: quoted, or without quotes as many servers write it, up to the next comma.
    fn value(&mut self) -> Option<Vec<u8>> {
        let Some(mut rest) = self.0.strip_prefix(b"\"") else {
            return Some(self.take(|byte| byte != b',').trim_ascii().to_vec());
        };
        let mut value = Vec::new();
        loop {
            match rest {
                [b'\\', byte, tail @ ..] => {
                    value.push(*byte);
                    rest = tail;
                }
                [b'"', tail @ ..] => {
                    self.0 = tail;
                    return Some(value);
                }
                [byte, tail @ ..] => {
                    value.push(*byte);
                    rest = tail;
                }
                [] => {
                    self.0 = rest;
                    return None;
                }
            }
        }
    }

    /// Leaves out the token of another scheme, such as Negotiate's: it may look like a parameter with an empty value, so it
    /// is one only where nothing but a comma follows.
    fn skip_token(&mut self) {
        let before = self.0;
        self.spaces();
        let token = self.take(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        self.take(|byte| byte == b'=');
        self.spaces();
        if token.is_empty() || !matches!(self.0, [] | [b',', ..]) {
            self.0 = before;
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        self.take(|byte| matches!(byte, b' ' | b'\t' | b','));
        if self.0.is_empty() {
            return None;
        }
        // RFC 9110 section 5.6.2.
        let word = self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if word.is_empty() {
            self.value();
            return Some(Item::Garbage);
        }
        self.spaces();
        if let [b'=', rest @ ..] = self.0 {
            self.0 = rest;
            self.spaces();
            return Some(Item::Parameter(word.to_ascii_lowercase(), self.value()));
        }
        if !word.eq_ignore_ascii_case(b"digest") {
            self.skip_token();
        }
        Some(Item::Word(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn chosen(lines: &[&str]) -> Result<Asked, String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        choose(&headers(&lines), false).map_err(|refusal| {
            assert_eq!((refusal.code, refusal.status.as_u16()), (Code::CredentialRejected, 502));
            refusal.detail.into_owned()
        })
    }

    #[test]
    fn a_challenge_is_read_whatever_stands_around_it() {
        let plain = chosen(&[r#"Digest realm="r", nonce="n", qop="auth", opaque="o""#]).unwrap();
        assert_eq!((&*plain.realm, &*plain.nonce, plain.hash), (&b"r"[..], &b"n"[..], Hash::Md5));
        assert_eq!(plain.protection, Protection::Auth);
        for lines in [
            &[r#"Basic realm="a, Digest nonce=\"x\"", Digest realm="r", nonce="n", qop="auth", opaque="o""#][..],
            &["Negotiate", "NTLM", r#"Digest realm="r", nonce="n", qop="auth", opaque="o""#],
            &[r#"Negotiate YIIg/+=, NTLM TlRM==,Digest realm="r",nonce="n",qop="auth",opaque="o", Bearer"#],
            &[r#"Negotiate abc, digest REALM = "r" ,, Nonce= n , QOP=auth, opaque=o, Basic realm="q""#],
            &["Digest realm=r, nonce=n, qop=auth,auth-int, opaque=o"],
            &[r#"Digest realm="r" nonce="n" qop="auth-int, auth" opaque="o" algorithm_of=us"#],
            &[r#"Digest realm="r", nonce="\n", qop="auth", qop="auth-int", opaque="o", realm="r", stale=TRUE"#],
        ] {
            assert_eq!(chosen(lines).unwrap(), plain, "{lines:?}");
        }
    }

    #[test]
    fn quoted_text_keeps_commas_escapes_and_foreign_bytes() {
        let line = b"Digest realm=\"a\\\"b\\\\c, d=e \xe4\xff\", nonce=\"ab==\"";
        let asked = choose(&headers(&[line]), false).unwrap();
        assert_eq!(asked.realm, b"a\"b\\c, d=e \xe4\xff");
        assert_eq!((&*asked.nonce, asked.protection), (&b"ab=="[..], Protection::Legacy));
        let bare = chosen(&["Digest realm=My Camera, nonce=ab==, algorithm=\"MD5\", qop="]).unwrap();
        assert_eq!((&*bare.realm, &*bare.nonce), (&b"My Camera"[..], &b"ab=="[..]));
    }

    #[test]
    fn the_strongest_algorithm_is_taken_and_the_first_of_equals() {
        let line = |algorithm: &str| format!(r#"Digest realm="{algorithm}", nonce="n", algorithm={algorithm}"#);
        let best = |names: &[&str]| {
            let lines: Vec<String> = names.iter().map(|name| line(name)).collect();
            String::from_utf8(chosen(&lines.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().realm).unwrap()
        };
        assert_eq!(best(&["MD5", "SHA-256"]), "SHA-256");
        assert_eq!(best(&["SHA-256-sess", "SHA-256", "MD5"]), "SHA-256-sess");
        assert_eq!(best(&["SHA-256", "sha-512-256-SESS", "MD5-sess"]), "sha-512-256-SESS");
        assert_eq!(best(&["SHA3-999", "MD5"]), "MD5", "what is not known is passed over");
        let one = chosen(&[&format!("{}, {}", line("MD5"), line("SHA-256"))]).unwrap();
        assert_eq!(one.realm, b"SHA-256", "both in one header");
    }

    #[test]
    fn what_cannot_be_answered_is_said() {
        let long = format!(r#"Digest realm="r", nonce="{}""#, "n".repeat(PARAMETER + 1));
        for (lines, why) in [
            (&[][..], "does not say how"),
            (&["Basic realm=\"x\"", "Negotiate"], "asks for Basic, Negotiate and not for Digest"),
            (&["Digest"], "no realm"),
            (&["Digest nonce=\"n\""], "no realm"),
            (&["Digest realm=\"r\""], "no nonce"),
            (&["Digest realm=\"r\", nonce=\"\""], "no nonce"),
            (&["Digest realm=\"r\", nonce=n, algorithm=SHA3-256"], "algorithm SHA3-256 is not known"),
            (&["Digest realm=\"r\", nonce=n, algorithm=\"a\\\x09b\""], "algorithm a?b is not known"),
            (&["Digest realm=\"r\", nonce=n, qop=\"auth-conf\""], "qop auth-conf is neither"),
            (&["Digest realm=\"r\", nonce=\"n"], "has no end"),
            (&["Digest realm=\"r\", nonce=\"a\", nonce=\"b\""], "one parameter twice"),
            (&["Digest realm=\"r\", nonce=\"a\", {junk"], "malformed"),
            (&[&long], "too long"),
            (&["\"", "=", ",,,", "{}"], "does not say how"),
        ] {
            let got = chosen(lines).unwrap_err();
            assert!(got.contains(why), "{lines:?}: {got}");
        }
        let refusal = choose(&headers(&[b"Digest realm=r, nonce=n"]), true).unwrap_err();
        assert!(refusal.detail.contains("forbid_md5"), "{refusal}");
        assert!(choose(&headers(&[b"Digest realm=r, nonce=n, algorithm=SHA-256"]), true).is_ok());
    }

    #[test]
    fn no_bytes_at_all_make_it_fail_or_hang() {
        // Pieces of challenges in any order, cut anywhere: a generator of its own, so that a failure comes again.
        let pieces: [&[u8]; 18] = [
            b"Digest ",
            b"Basic ",
            b"realm",
            b"nonce",
            b"qop",
            b"=",
            b"\"",
            b"\\",
            b",",
            b" ",
            b"auth",
            b"auth-int",
            b"\xff",
            b"\t",
            b"ab==",
            b"algorithm=MD5",
            b"Negotiate",
            b"{",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut line = if random(2) == 0 { b"Digest realm=\"r\", nonce=\"n\", ".to_vec() } else { Vec::new() };
            for _ in 0..random(20) {
                line.extend_from_slice(pieces[random(pieces.len())]);
            }
            line.truncate(random(line.len() + 1).max(line.len() / 2));
            let headers = headers(&[&line]);
            match choose(&headers, false) {
                Ok(asked) => {
                    assert!(!asked.nonce.is_empty() && asked.nonce.len() <= PARAMETER);
                    answered += 1;
                }
                Err(refusal) => {
                    assert!(refusal.detail.len() < 1000 && refusal.detail.is_ascii(), "{refusal}");
                    refused += 1;
                }
            }
            let _ = realms(&headers);
        }
        assert!(answered > 1000 && refused > 1000, "{answered} answered, {refused} refused");
        let many = vec![&b"Digest realm=r, nonce=n, algorithm=MD5, Basic realm=x"[..]; 500];
        let offers = Offers::read(&headers(&many));
        assert!(offers.digests.len() <= CHALLENGES && offers.others.len() <= CHALLENGES);
    }

    #[test]
    fn the_next_nonce_is_read() {
        let info = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("authentication-info", HeaderValue::from_static(line));
            next_nonce(&headers)
        };
        assert_eq!(
            info(r#"rspauth="00", nextnonce="b, c", cnonce="d""#),
            Some((b"b, c".to_vec(), Some(b"d".to_vec())))
        );
        assert_eq!(info("nextnonce=b"), Some((b"b".to_vec(), None)));
        assert_eq!(info(r#"nextnonce="""#), None);
        assert_eq!(info(r#"nextnonce="b"#), None);
    }
}
