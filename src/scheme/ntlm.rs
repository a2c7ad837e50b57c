//! `ntlm`: NTLMv2 over HTTP (MS-NLMP, MS-NTHT), with an integrity code over the three messages and, over TLS, bound to the
//! server's certificate.
//!
//! What is proven holds for one connection; `proxy` and `upstream` see to it that nobody else's request travels there.
//! **Never speaks LM or NTLMv1, never negotiates signing or sealing, never sends anything under the name of Negotiate.**

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA224, SHA256, SHA384, SHA512, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use md4::{Digest, Md4};
use md5::Md5;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use zeroize::Zeroizing;

use super::{Draft, Fields, Identity, Kind, Scheme, SettingsError, Setup, at, settings};
use crate::base::destination::Protocol;
use crate::base::{
    Authorized, Authorizer, Challenge, Challenged, Code, Holds, Mutations, Random, Refusal, RequestView,
};
use crate::base::{Public, Secret, SecretField, SecretRef, Unavailable};

pub(super) const KIND: Kind = Kind {
    name: "ntlm",
    about: "NTLMv2 with a user's password, proven once for each connection (Windows authentication of IIS and others)",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields { secret: &["password"], leading: &["domain"], operators: &[] },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// `DOMAIN\user`, `user@domain`, or a user whose domain stands beside it or whom the server knows without one.
    username: Public,
    password: SecretField,
    domain: Option<Public>,
    /// For accounts that may log on only from certain workstations.
    workstation: Option<String>,
}

/// Stands for a text that is not known before its reference is read.
const LATER: &str = "later";

impl Settings {
    /// What can be told before any reference is read.
    fn check(&self) -> Result<(), SettingsError> {
        let known = |field: &'_ Public| match field {
            Public::Literal(text) => text.clone(),
            Public::Reference(_) => LATER.to_owned(),
        };
        Account::read(&known(&self.username), self.domain.as_ref().map(known).as_deref())?;
        self.workstation.as_deref().map_or(Ok(()), |name| check(name).map_err(|why| at("workstation", why)))
    }
}

/// What no name holds, and no server could look up.
fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    // The longest that Active Directory takes, a userPrincipalName.
    if name.chars().count() > 1024 {
        return Err("it is longer than 1024 characters");
    }
    Ok(())
}

/// A user as the messages name one.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    user: String,
    domain: String,
}

impl Account {
    fn read(username: &str, domain: Option<&str>) -> Result<Self, SettingsError> {
        check(username).map_err(|why| at("username", why))?;
        domain.map_or(Ok(()), |domain| check(domain).map_err(|why| at("domain", why)))?;
        let (prefix, user) = match username.split_once('\\') {
            Some((prefix, user)) => (Some(prefix), user),
            None => (None, username),
        };
        if prefix == Some("") || user.is_empty() || user.contains('\\') {
            return Err(at("username", "a domain, one backslash and a user are needed: DOMAIN\\user"));
        }
        let principal = user.split_once('@');
        if principal.is_some_and(|(name, suffix)| name.is_empty() || suffix.is_empty()) {
            return Err(at("username", "a user, one @ and a domain are needed: user@domain"));
        }
        match (prefix, principal, domain) {
            (Some(_), Some(_), _) => Err(at("username", "it names two domains; write DOMAIN\\user or user@domain")),
            (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                Err(at("domain", "the user name holds a domain already; write it once"))
            }
            // A principal goes out as it is, and the server takes it apart (MS-NLMP section 3.1.1.1).
            _ => Ok(Self { user: user.to_owned(), domain: prefix.or(domain).unwrap_or_default().to_owned() }),
        }
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let public = [Some(&self.username), self.domain.as_ref()].into_iter().flatten().filter_map(Public::reference);
        public.chain([self.password.reference()]).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let username = setup.secrets.public(&self.username)?;
        let domain = self.domain.as_ref().map(|domain| setup.secrets.public(domain)).transpose()?;
        let account = Account::read(&username, domain.as_deref())
            .map_err(|error| Unavailable(format!("{}: {}", error.path, error.message)))?;
        let password = setup.secrets.field(&self.password)?;
        let text = password.expose_str().ok_or_else(|| Unavailable("password: it is not UTF-8".into()))?;
        if text.is_empty() {
            return Err(Unavailable(
                "password: it is empty; no server lets anybody in over the network without one".into(),
            ));
        }
        let key = response_key(&account, &nt_hash(text));
        let workstation = self.workstation.clone().unwrap_or_default();
        let random = Arc::clone(&setup.outside.random);
        let user = Arc::new(User { account, workstation, key: Secret::new(key.to_vec()) });
        Ok(Arc::new(Ntlm(Arc::new(Talker { credential: setup.credential.to_owned(), user, random }))))
    }
}

#[derive(Debug)]
struct Ntlm(Arc<dyn Challenged>);

impl Scheme for Ntlm {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Challenged(&self.0)
    }
}

/// Who answers.
#[derive(Debug)]
struct User {
    account: Account,
    workstation: String,
    /// NTOWFv2: all that is needed of the password, and good for this user alone.
    key: Secret,
}

#[derive(Debug)]
struct Talker {
    credential: String,
    user: Arc<User>,
    random: Arc<dyn Random>,
}

impl Challenged for Talker {
    fn holds(&self) -> Holds {
        Holds::ForConnection
    }

    fn opening(&self) -> Result<Mutations, Refusal> {
        authorization(&negotiate())
    }

    fn answer(&self, view: &RequestView<'_>, challenge: &Challenge<'_>) -> Result<Arc<dyn Authorizer>, Refusal> {
        let refused = |why: Cow<'static, str>| {
            let (id, host) = (&self.credential, view.destination.host());
            Refusal::new(Code::CredentialRejected, format!("credential {id} at {host}: {why}"))
        };
        let message = offered(challenge.headers).map_err(refused)?;
        let question = Question::read(message)
            .map_err(|why| refused(format!("the server's NTLM challenge cannot be answered: {why}").into()))?;
        let binding = match (view.destination.protocol(), challenge.certificate) {
            // MS-NLMP section 3.1.5.1.2: zeros say that there is no channel to bind to.
            (Protocol::Http, _) => [0; 16],
            (Protocol::Https, Some(certificate)) => channel_binding(certificate).ok_or_else(|| {
                refused("the server's certificate cannot be read, so NTLM cannot be bound to it".into())
            })?,
            (Protocol::Https, None) => {
                return Err(refused("the server's certificate is not known, so NTLM cannot be bound to it".into()));
            }
        };
        let mut nonce = [0; 8];
        if !self.random.fill(&mut nonce) {
            return Err(Refusal::new(Code::SecretUnavailable, "the system gives no random numbers"));
        }
        Ok(Arc::new(Answer { user: Arc::clone(&self.user), question, binding, nonce }))
    }
}

/// The answer to one question.
#[derive(Debug)]
struct Answer {
    user: Arc<User>,
    question: Question,
    binding: [u8; 16],
    nonce: [u8; 8],
}

impl Authorizer for Answer {
    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Authorized, Refusal> {
        let Self { user, question, binding, nonce } = self;
        let service = utf16(&format!("HTTP/{}", view.destination.host()));
        let response = Response::new(&user.key, question, nonce, &question.answered(&service, binding), filetime(now));
        let message = authenticate(user, question, &response);
        Ok(authorization(&message)?.into())
    }
}

/// One message in the header that carries them all (MS-NTHT section 2.2.3).
fn authorization(message: &[u8]) -> Result<Mutations, Refusal> {
    let line = Zeroizing::new(format!("NTLM {}", STANDARD.encode(message)));
    let mut value = HeaderValue::from_str(&line)
        .map_err(|_| Refusal::new(Code::CredentialRejected, "the NTLM message cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(Mutations { set: vec![(AUTHORIZATION, value)], ..Mutations::default() })
}

/// The NTLM message of a 401, or why there is none.
fn offered(headers: &HeaderMap) -> Result<Vec<u8>, Cow<'static, str>> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes);
    let offers: Vec<(&str, &[u8])> = lines.flat_map(challenges).collect();
    let of = |name: &'static str| offers.iter().filter(move |(scheme, _)| scheme.eq_ignore_ascii_case(name));
    if let Some((_, message)) = of("NTLM").find(|(_, message)| !message.is_empty()) {
        return STANDARD.decode(message).map_err(|_| "the server's NTLM challenge is not base64".into());
    }
    Err(if of("NTLM").next().is_some() {
        "the server offers NTLM and does not go on with it; something between may not keep the connection".into()
    } else if of("Negotiate").count() == offers.len() && !offers.is_empty() {
        "the server offers Negotiate only; add the provider NTLM to its Windows authentication".into()
    } else if offers.is_empty() {
        "the server answers 401 and does not say what it wants".into()
    } else {
        let names: Vec<&str> = offers.iter().take(8).map(|(scheme, _)| *scheme).collect();
        let names = names.join(", ");
        format!("the server asks for {names} and not for NTLM; a credential of that scheme is needed").into()
    })
}

/// The challenges in one header line: each scheme with its token, if it has one (RFC 9110 section 11.6.1). Parameters of
/// other schemes are passed over.
fn challenges(line: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = line.split(move |byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted && !literal => escaped = true,
            b'"' if !literal => quoted = !quoted,
            _ => {}
        }
        *byte == b',' && !quoted
    });
    parts.filter_map(|part| {
        let part = part.trim_ascii();
        let (scheme, rest) = part.split_at(part.iter().position(|byte| *byte == b' ').unwrap_or(part.len()));
        let rest = rest.trim_ascii();
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let named = (1..=32).contains(&scheme.len()) && scheme.iter().all(is_token) && !rest.starts_with(b"=");
        Some((std::str::from_utf8(scheme).ok().filter(|_| named)?, rest))
    })
}

/// MS-NLMP section 2.2.2.5: what we ask for. Text in UTF-16 only, and no key is exchanged, as nothing is signed or sealed
/// afterwards.
mod flags {
    pub(super) const UNICODE: u32 = 0x0000_0001;
    pub(super) const REQUEST_TARGET: u32 = 0x0000_0004;
    pub(super) const NTLM: u32 = 0x0000_0200;
    pub(super) const ALWAYS_SIGN: u32 = 0x0000_8000;
    pub(super) const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
    pub(super) const TARGET_INFO: u32 = 0x0080_0000;
    pub(super) const VERSION: u32 = 0x0200_0000;
    pub(super) const KEY_128: u32 = 0x2000_0000;
    pub(super) const KEY_56: u32 = 0x8000_0000;
    pub(super) const OURS: u32 =
        UNICODE | REQUEST_TARGET | NTLM | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY | VERSION | KEY_128 | KEY_56;
}

const SIGNATURE: [u8; 8] = *b"NTLMSSP\0";

/// Windows 10 and revision 15 of NTLMSSP, as everybody says (MS-NLMP section 2.2.2.10); gss-ntlmssp takes no message
/// without it.
const VERSION: [u8; 8] = [10, 0, 0, 0, 0, 0, 0, 15];

/// The first message, always the same: neither domain nor workstation stands in it.
fn negotiate() -> Vec<u8> {
    [&SIGNATURE[..], &1_u32.to_le_bytes(), &flags::OURS.to_le_bytes(), &[0; 16], &VERSION].concat()
}

/// Attributes of the target information (MS-NLMP section 2.2.2.1).
mod av {
    pub(super) const END: u16 = 0;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const TIMESTAMP: u16 = 7;
    pub(super) const SINGLE_HOST: u16 = 8;
    pub(super) const TARGET_NAME: u16 = 9;
    pub(super) const CHANNEL_BINDINGS: u16 = 10;
    /// In the flags: the third message carries an integrity code.
    pub(super) const HAS_CODE: u32 = 2;
}

/// The second message, as far as it is needed.
struct Question {
    message: Vec<u8>,
    flags: u32,
    challenge: [u8; 8],
    target: Vec<(u16, Vec<u8>)>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Question({:#010x})", self.flags)
    }
}

impl Question {
    /// IIS takes header lines up to 16 KiB, and the answer repeats what the question holds.
    const LIMIT: usize = 8 * 1024;

    /// Where the fields end and what they point to may begin; the version may be left out.
    const HEAD: usize = 48;

    fn read(message: Vec<u8>) -> Result<Self, &'static str> {
        if message.len() > Self::LIMIT {
            return Err("it is longer than 8 KiB");
        }
        let (short, outside) = ("it is cut short", "its target information lies outside of it");
        let head: [u8; 12] = array(&message, 0).ok_or(short)?;
        if head[..8] != SIGNATURE {
            return Err("it is not an NTLM message");
        }
        if head[8..] != 2_u32.to_le_bytes() {
            return Err("it is not the second message of NTLM");
        }
        let flags = u32::from_le_bytes(array(&message, 20).ok_or(short)?);
        let challenge = array(&message, 24).ok_or(short)?;
        if flags & flags::UNICODE == 0 {
            return Err("the server does not speak Unicode");
        }
        if flags & flags::TARGET_INFO == 0 {
            return Err("it names no target, as NTLMv1 does, which is not spoken; let the server take NTLMv2");
        }
        let length = usize::from(u16::from_le_bytes(array(&message, 40).ok_or(short)?));
        let offset = u32::from_le_bytes(array(&message, 44).ok_or(short)?);
        let offset = usize::try_from(offset).ok().filter(|offset| *offset >= Self::HEAD).ok_or(outside)?;
        let target = message.get(offset..).and_then(|rest| rest.get(..length)).ok_or(outside)?;
        let target = pairs(target)?;
        Ok(Self { message, flags, challenge, target })
    }

    /// The target information that is answered (MS-NLMP section 3.1.5.1.2): the server's own, and what we say of the three
    /// messages, the service that is meant, and the channel.
    fn answered(&self, service: &[u8], binding: &[u8; 16]) -> Vec<u8> {
        let flags = self.value(av::FLAGS).and_then(|value| array(value, 0)).map_or(0, u32::from_le_bytes);
        let ours = [av::FLAGS, av::TARGET_NAME, av::CHANNEL_BINDINGS];
        let mut answered = Vec::new();
        let mut put = |id: u16, value: &[u8]| {
            answered.extend(id.to_le_bytes());
            answered.extend(length(value));
            answered.extend(value);
        };
        self.target.iter().filter(|(id, _)| !ours.contains(id)).for_each(|(id, value)| put(*id, value));
        put(av::FLAGS, &(flags | av::HAS_CODE).to_le_bytes());
        put(av::TARGET_NAME, service);
        put(av::CHANNEL_BINDINGS, binding);
        put(av::END, &[]);
        answered
    }

    fn value(&self, id: u16) -> Option<&[u8]> {
        self.target.iter().find(|(own, _)| *own == id).map(|(_, value)| &**value)
    }
}

/// Reads target information to its end.
fn pairs(mut rest: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, &'static str> {
    let mut pairs = Vec::new();
    loop {
        let head = (array(rest, 0).map(u16::from_le_bytes), array(rest, 2).map(u16::from_le_bytes));
        let (Some(id), Some(length)) = head else { return Err("its target information has no end") };
        let value = rest.get(4..4 + usize::from(length)).ok_or("its target information is cut short")?;
        match id {
            av::END if length == 0 => return Ok(pairs),
            av::FLAGS if length == 4 => {}
            av::TIMESTAMP if length == 8 => {}
            av::CHANNEL_BINDINGS if length == 16 => {}
            // The names, in UTF-16.
            1..=5 | av::TARGET_NAME if length % 2 == 0 => {}
            av::SINGLE_HOST | 11.. => {}
            _ => return Err("its target information holds a value of the wrong length"),
        }
        pairs.push((id, value.to_vec()));
        rest = &rest[4 + usize::from(length)..];
    }
}

/// The bytes at a place, if they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The length of a field, which no message of ours exceeds: names have 1024 characters, a question has 8 KiB.
fn length(field: &[u8]) -> [u8; 2] {
    u16::try_from(field.len()).unwrap_or(u16::MAX).to_le_bytes()
}

/// What is computed from a question and a password (MS-NLMP section 3.3.2).
struct Response {
    nt: Vec<u8>,
    lm: [u8; 24],
    /// SessionBaseKey, which is ExportedSessionKey where no key is exchanged.
    session_key: Zeroizing<[u8; 16]>,
}

impl Response {
    /// `target` is the target information that is answered; `clock` our own time, if the server does not tell its.
    fn new(key: &Secret, question: &Question, nonce: &[u8; 8], target: &[u8], clock: [u8; 8]) -> Self {
        let key = key.expose();
        let server_time = question.value(av::TIMESTAMP).and_then(|value| array(value, 0));
        let time = server_time.unwrap_or(clock);
        let temp = [&[1, 1, 0, 0, 0, 0, 0, 0], &time[..], nonce, &[0; 4], target, &[0; 4]];
        let temp = temp.concat();
        let proof = hmac_md5(key, &[&question.challenge, &temp]);
        let mut lm = [0; 24];
        // A server that tells its time expects none.
        if server_time.is_none() {
            lm[..16].copy_from_slice(&*hmac_md5(key, &[&question.challenge, nonce]));
            lm[16..].copy_from_slice(nonce);
        }
        Self { nt: [&proof[..], &temp].concat(), lm, session_key: hmac_md5(key, &[&proof[..]]) }
    }
}

/// The third message (MS-NLMP section 2.2.1.3).
fn authenticate(user: &User, question: &Question, response: &Response) -> Vec<u8> {
    const HEAD: usize = 88;
    const CODE: std::ops::Range<usize> = 72..HEAD;
    let (domain, name) = (utf16(&user.account.domain), utf16(&user.account.user));
    let (workstation, session_key) = (utf16(&user.workstation), []);
    let (mut message, mut payload) = ([&SIGNATURE[..], &3_u32.to_le_bytes()].concat(), Vec::<u8>::new());
    for field in [&response.lm[..], &response.nt, &domain, &name, &workstation, &session_key] {
        message.extend([length(field), length(field)].concat());
        message.extend(u32::try_from(HEAD + payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend(field);
    }
    let agreed = question.flags & (flags::OURS | flags::TARGET_INFO);
    message.extend(agreed.to_le_bytes());
    message.extend(if agreed & flags::VERSION == 0 { [0; 8] } else { VERSION });
    message.extend([0; CODE.end - CODE.start]);
    message.extend(payload);
    let code = hmac_md5(&*response.session_key, &[&negotiate(), &question.message, &message]);
    message[CODE].copy_from_slice(&*code);
    message
}

/// NTOWFv1: what Windows keeps of a password.
fn nt_hash(password: &str) -> Zeroizing<[u8; 16]> {
    Zeroizing::new(Md4::digest(&*utf16(password)).into())
}

/// NTOWFv2.
fn response_key(account: &Account, nt_hash: &[u8; 16]) -> Zeroizing<[u8; 16]> {
    let user: String = account.user.chars().map(upper).collect();
    hmac_md5(nt_hash, &[&utf16(&user), &utf16(&account.domain)])
}

/// As Windows does it: one UTF-16 unit stays one, and nothing becomes an ASCII letter that was none.
fn upper(letter: char) -> char {
    let mut upper = letter.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) if letter.len_utf16() == 1 && one.len_utf16() == 1 && letter.is_ascii() == one.is_ascii() => {
            one
        }
        _ => letter,
    }
}

fn utf16(text: &str) -> Zeroizing<Vec<u8>> {
    // With its whole length from the beginning, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    bytes
}

/// 100 nanoseconds since 1601 (MS-DTYP section 2.3.3).
fn filetime(now: SystemTime) -> [u8; 8] {
    const UNIX_EPOCH: Duration = Duration::from_secs(11_644_473_600);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + UNIX_EPOCH;
    u64::try_from(since.as_nanos() / 100).unwrap_or(u64::MAX).to_le_bytes()
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 16]> {
    // A key shorter than a block is filled up with zeros (RFC 2104 section 2); all of ours have 16 bytes.
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key).for_each(|(own, byte)| *own = *byte);
    let mut hmac = Hmac::<Md5>::new((&*block).into());
    parts.iter().for_each(|part| hmac.update(part));
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

/// The MD5 of a `gss_channel_bindings_struct` without addresses (RFC 2744 section 3.11), whose application data is the
/// `tls-server-end-point` of RFC 5929 section 4.1.
fn channel_binding(certificate: &[u8]) -> Option<[u8; 16]> {
    let data = [b"tls-server-end-point:", end_point(certificate)?.as_ref()].concat();
    let length = u32::try_from(data.len()).ok()?.to_le_bytes();
    Some(Md5::digest([&[0; 16], &length[..], &data].concat()).into())
}

/// The certificate hashed as its own signature hashes, SHA-256 in place of MD5, SHA-1 and of what has no hash of its own
/// (Ed25519).
fn end_point(certificate: &[u8]) -> Option<aws_lc_rs::digest::Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut algorithm = parsed.signature_algorithm.algorithm.to_id_string();
    // RSASSA-PSS names the hash in its parameters.
    if algorithm == "1.2.840.113549.1.1.10" {
        let parameters = RsaSsaPssParams::try_from(parsed.signature_algorithm.parameters()?).ok()?;
        algorithm = parameters.hash_algorithm_oid().to_id_string();
    }
    // Of RSA, of ECDSA, and the hash itself.
    let hash = match &*algorithm {
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => &SHA512,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => &SHA224,
        _ => &SHA256,
    };
    Some(digest(hash, certificate))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::text::hex;
    use crate::base::{Deps, Destination};

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// The challenge of MS-NLMP section 4.2.4.3.
    fn challenge() -> Vec<u8> {
        unhex(
            "4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef0000000000000000240024004400000006007017\
             0000000f53006500720076006500720002000c0044006f006d00610069006e0001000c0053006500720076006500720000000000",
        )
    }

    /// The same from a server that tells its time.
    fn timed() -> Vec<u8> {
        let mut message = challenge();
        message.truncate(message.len() - 4);
        message.extend(unhex("07000800a0b1c2d3e4f5060700000000"));
        message[40..44].copy_from_slice(&[0x30, 0, 0x30, 0]);
        message
    }

    /// The user of MS-NLMP section 4.2.1.
    fn talker(workstation: &str) -> Talker {
        let account = Account::read("Domain\\User", None).unwrap();
        let key = Secret::new(response_key(&account, &nt_hash("Password")).to_vec());
        let user = Arc::new(User { account, workstation: workstation.into(), key });
        Talker { credential: "c".into(), user, random: Deps::system().random }
    }

    fn headers(challenge: &str) -> HeaderMap {
        HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_bytes(challenge.as_bytes()).unwrap())])
    }

    /// The third message, or why there is none.
    fn answered(talker: &Talker, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let destination = Destination::from_upstream("http://server.test").unwrap();
        let method = http::Method::GET;
        let none = HeaderMap::new();
        let view = RequestView {
            method: &method,
            path_and_query: "/",
            headers: &none,
            removed: &none,
            destination: &destination,
            length: None,
            body: None,
            narrowing: None,
        };
        let headers = headers(&format!("NTLM {}", STANDARD.encode(message)));
        let authorizer = talker.answer(&view, &Challenge { headers: &headers, certificate: None })?;
        let authorized = authorizer.authorize(&view, SystemTime::UNIX_EPOCH)?;
        let (_, value) = &authorized.mutations.set[0];
        assert!(value.is_sensitive());
        Ok(STANDARD.decode(value.to_str().unwrap().strip_prefix("NTLM ").unwrap()).unwrap())
    }

    #[test]
    fn keys_and_responses_are_those_of_the_specification() {
        assert_eq!(hex(&*nt_hash("Password")), "a4f49c406510bdcab6824ee7c30fd852");
        let Talker { user, .. } = talker("COMPUTER");
        assert_eq!(hex(user.key.expose()), "0c868a403bfd7a93a3001ef22ef02e3f");
        let question = Question::read(challenge()).unwrap();
        let target = &question.message[68..];
        let response = Response::new(&user.key, &question, &[0xaa; 8], target, [0; 8]);
        assert_eq!(hex(&response.nt[..16]), "68cd0ab851e51c96aabc927bebef6a1c");
        assert_eq!(hex(&response.lm), "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa");
        assert_eq!(hex(&*response.session_key), "8de40ccadbc14a82f15cb0ad0de95ca3");
        assert_eq!(
            hex(&response.nt[16..]),
            "01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e0001000c0053006500\
             72007600650072000000000000000000"
        );
    }

    #[test]
    fn the_first_message_has_a_version_and_no_names() {
        let first = "4e544c4d5353500001000000058208a2000000000000000000000000000000000a0000000000000f";
        assert_eq!(hex(&negotiate()), first);
        let opening = talker("").opening().unwrap();
        assert_eq!(opening.set[0].1, "NTLM TlRMTVNTUAABAAAABYIIogAAAAAAAAAAAAAAAAAAAAAKAAAAAAAADw==");
    }

    #[test]
    fn the_answer_holds_what_the_server_needs_and_covers_all_three_messages() {
        let talker = talker("COMPUTER");
        let third = answered(&talker, &timed()).unwrap();
        let field = |at: usize| {
            let length = usize::from(u16::from_le_bytes(array(&third, at).unwrap()));
            let offset = u32::from_le_bytes(array(&third, at + 4).unwrap()) as usize;
            &third[offset..offset + length]
        };
        let wide = |text: &str| utf16(text).to_vec();
        assert_eq!((field(28), field(36), field(44)), (&*wide("Domain"), &*wide("User"), &*wide("COMPUTER")));
        // The server told its time, so that it expects no LM response; nothing is signed afterwards, so that no key goes over.
        assert_eq!((field(12), field(52)), (&[0; 24][..], &[][..]));
        // Of what the server could do, what we asked for: neither key exchange nor signing nor sealing.
        assert_eq!(array(&third, 60), Some(0xa288_8201_u32.to_le_bytes()));
        let (proof, temp) = field(20).split_at(16);
        assert_eq!(hex(&temp[8..16]), "a0b1c2d3e4f50607");
        let names = |id: u16, value: &[u8]| [&id.to_le_bytes()[..], &length(value), value].concat();
        let ours = [names(6, &[2, 0, 0, 0]), names(9, &wide("HTTP/server.test")), names(10, &[0; 16]), vec![0; 8]];
        assert!(temp.ends_with(&ours.concat()), "{}", hex(temp));
        let session_key = hmac_md5(talker.user.key.expose(), &[proof]);
        let mut without = third.clone();
        without[72..88].fill(0);
        assert_eq!(hex(&third[72..88]), hex(&*hmac_md5(&*session_key, &[&negotiate(), &timed(), &without])));
    }

    #[test]
    fn whatever_byte_a_server_changes_the_answer_is_one_or_is_refused() {
        let talker = talker("");
        let (mut taken, mut refused) = (0, 0);
        for original in [challenge(), timed()] {
            for at in 0..original.len() {
                for byte in [0, 1, 2, 0x7f, 0x80, 0xff, original[at] ^ 1, original[at].wrapping_add(1)] {
                    let mut message = original.clone();
                    message[at] = byte;
                    match answered(&talker, &message) {
                        Ok(third) => {
                            taken += 1;
                            assert!(third.len() < 1024);
                        }
                        Err(refusal) => {
                            refused += 1;
                            assert_eq!(refusal.code, Code::CredentialRejected);
                        }
                    }
                }
                assert!(answered(&talker, &original[..at]).is_err(), "{at} bytes");
            }
        }
        // Names may be anything; signature, type, flags and lengths may not.
        assert!(taken > 500 && refused > 300, "{taken} {refused}");
    }

    #[test]
    fn target_information_that_is_not_as_it_must_be_is_refused() {
        for (pairs_of, why) in [
            ("", "no end"),
            ("0000", "no end"),
            ("00000100aa", "wrong length"),
            ("0100030041004200000000", "wrong length"),
            ("060002000200", "wrong length"),
            ("0700040001020304", "wrong length"),
            ("0a00040001020304", "wrong length"),
            ("0200ffff4100", "cut short"),
            ("02000200", "cut short"),
        ] {
            let error = pairs(&unhex(pairs_of)).unwrap_err();
            assert!(error.contains(why), "{pairs_of}: {error}");
        }
        // What nobody knows yet is passed on, and what follows the end is nobody's.
        assert_eq!(pairs(&unhex("0b000100ff00000000eeee")).unwrap(), [(11, vec![0xff])]);
    }

    #[test]
    fn the_longest_names_and_the_longest_challenge_fit() {
        let long = "\u{10400}".repeat(1024);
        let account = Account::read(&long, Some(&long)).unwrap();
        let key = Secret::new(response_key(&account, &nt_hash("p")).to_vec());
        let talker = Talker { user: Arc::new(User { account, workstation: long, key }), ..talker("") };
        let mut message = timed();
        message.truncate(message.len() - 4);
        let rest = Question::LIMIT - message.len() - 8;
        message.extend([&[0xff, 0][..], &u16::try_from(rest).unwrap().to_le_bytes(), &vec![7; rest], &[0; 4]].concat());
        let target = u16::try_from(message.len() - 68).unwrap().to_le_bytes();
        message[40..42].copy_from_slice(&target);
        let third = answered(&talker, &message).unwrap();
        let ends = [12, 20, 28, 36, 44].map(|at| {
            let length = u16::from_le_bytes(array(&third, at).unwrap());
            u32::from(length) + u32::from_le_bytes(array(&third, at + 4).unwrap())
        });
        assert_eq!(ends.into_iter().max(), u32::try_from(third.len()).ok());
        message.push(0);
        assert!(answered(&talker, &message).unwrap_err().detail.contains("8 KiB"));
    }

    #[test]
    fn the_ntlm_challenge_is_found_among_others() {
        let found = |line: &str| offered(&headers(line)).map_err(Cow::into_owned);
        for line in [
            "NTLM AAEC",
            "ntlm  AAEC",
            "Negotiate, NTLM AAEC",
            "Negotiate YII=, NTLM AAEC, Basic realm=\"a, NTLM //8=\"",
            "Digest realm=\"\\\"NTLM //8=\\\", \", nonce=\"x\", NTLM AAEC",
            "NTLM, NTLM AAEC",
            "Basic realm=\"B\u{fc}ro\", NTLM AAEC",
        ] {
            assert_eq!(found(line), Ok(vec![0, 1, 2]), "{line}");
        }
        for (line, why) in [
            ("NTLM", "does not go on"),
            ("Negotiate", "Negotiate only"),
            ("Negotiate YII=", "Negotiate only"),
            ("Basic realm=\"NTLM AAEC\", Digest nonce = 1, qop = auth", "asks for Basic, Digest and not for NTLM"),
            ("", "does not say"),
            ("<script>", "does not say"),
            ("NTLM A", "not base64"),
        ] {
            let error = found(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn letters_are_raised_as_windows_does_it() {
        let raised: String = "aß\u{131}\u{17f}éłяﬁ\u{10428}Ω".chars().map(upper).collect();
        assert_eq!(raised, "Aß\u{131}\u{17f}ÉŁЯﬁ\u{10428}Ω");
    }

    #[test]
    fn what_is_wrong_with_a_name_is_said_at_its_key() {
        let error = |settings: serde_json::Value| {
            let mut settings = settings;
            settings["password"] = json!({"env": "P"});
            (KIND.parse)(settings).err().map(|error| error.path)
        };
        for settings in [
            json!({"username": "a"}),
            json!({"username": "D\\a", "workstation": "W"}),
            json!({"username": "a@b"}),
            json!({"username": "a", "domain": "D"}),
            json!({"username": {"env": "U"}, "domain": {"env": "D"}}),
        ] {
            assert_eq!(error(settings.clone()), None, "{settings}");
        }
        for (settings, path) in [
            (json!({"username": ""}), "username"),
            (json!({"username": "\\a"}), "username"),
            (json!({"username": "D\\"}), "username"),
            (json!({"username": "D\\\\a"}), "username"),
            (json!({"username": "a\nb"}), "username"),
            (json!({"username": "@b"}), "username"),
            (json!({"username": "a@"}), "username"),
            (json!({"username": "D\\a@b"}), "username"),
            (json!({"username": "D\\a", "domain": "D"}), "domain"),
            (json!({"username": "D\\a", "domain": {"env": "D"}}), "domain"),
            (json!({"username": "a@b", "domain": "D"}), "domain"),
            (json!({"username": "a", "domain": ""}), "domain"),
            (json!({"username": {"env": "U"}, "domain": "\u{7}"}), "domain"),
            (json!({"username": "a", "workstation": ""}), "workstation"),
            (json!({"username": "a".repeat(1025)}), "username"),
        ] {
            assert_eq!(error(settings.clone()).as_deref(), Some(path), "{settings}");
        }
    }

    #[test]
    fn what_only_secrets_can_tell_is_said_when_they_are_there() {
        let build = |username: &str, password: &[u8]| {
            let draft =
                (KIND.parse)(json!({"username": {"env": "U"}, "domain": "D", "password": {"env": "P"}})).unwrap();
            let secret = |name: &str, value: &[u8]| (SecretRef::Env { env: name.into() }, Secret::new(value));
            let secrets = [secret("U", username.as_bytes()), secret("P", password)].into_iter().collect();
            crate::scheme::tests::build(&*draft, &secrets).map(|scheme| format!("{scheme:?}")).map_err(|error| error.0)
        };
        let shown = build("a", b"canary").unwrap();
        assert!(!shown.contains("canary") && shown.contains("[redacted]"), "{shown}");
        assert!(build("E\\a", b"p").unwrap_err().starts_with("domain: "));
        assert!(build("a", b"").unwrap_err().starts_with("password: "));
        assert!(build("a", b"\xff").unwrap_err().starts_with("password: "));
    }
}
