//! Oracle's request signature, version 1: draft-cavage-http-signatures-08 in the Authorization header.
//!
//! <https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm>

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use md5::{Digest, Md5};

use crate::base::{AnswerView, Authorized, Authorizer, BodyNeed, Mutations, Protocol, Refusal, RequestView, Verdict};
use crate::sigv4::Skew;
use crate::token::PrivateKey;

pub(super) const X_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-content-sha256");

/// In seconds: Oracle refuses a date that is five minutes off, and the answer's way takes a little of that.
const CLOCK_IS_WRONG: i64 = 4 * 60 + 30;

/// A key that signs, in constant time. `Debug` shows no key.
pub(super) struct SigningKey {
    pair: KeyPair,
    /// Asked for and not used by this library.
    random: SystemRandom,
}

impl SigningKey {
    /// A key as it was read.
    ///
    /// # Errors
    /// A key of another kind or size than Oracle takes.
    pub(super) fn new(key: &PrivateKey) -> Result<Self, String> {
        let PrivateKey::Rsa(der) = key else {
            return Err(format!("{key:?} does not sign for Oracle; its keys are RSA of 2048 to 4096 bits"));
        };
        Self::from_der(der.expose())
    }

    /// A key in PKCS#1 or PKCS#8.
    ///
    /// # Errors
    /// A size that Oracle does not take.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, String> {
        let pair = KeyPair::from_der(der)
            .or_else(|_| KeyPair::from_pkcs8(der))
            .map_err(|_| "the key cannot sign: it is damaged".to_owned())?;
        if !(2048 / 8..=4096 / 8).contains(&pair.public_modulus_len()) {
            let bits = pair.public_modulus_len() * 8;
            return Err(format!("it has {bits} bits; Oracle takes RSA keys of 2048 to 4096"));
        }
        Ok(Self { pair, random: SystemRandom::new() })
    }

    /// SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub(super) fn public(&self) -> Result<Vec<u8>, String> {
        let der: Result<PublicKeyX509Der<'_>, _> = self.pair.public_key().as_der();
        der.map(|der| der.as_ref().to_vec()).map_err(|_| "its public part cannot be written".into())
    }

    /// As the console shows it: the MD5 of the public key, in pairs.
    ///
    /// # Errors
    /// When there is no public key.
    pub(super) fn fingerprint(&self) -> Result<String, String> {
        Ok(pairs(&Md5::digest(self.public()?), |byte| format!("{byte:02x}")))
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256, in base64.
    fn sign(&self, text: &[u8]) -> Result<String, Refusal> {
        let mut signature = [0; 4096 / 8];
        let signature = &mut signature[..self.pair.public_modulus_len()];
        let signed = self.pair.sign(&RSA_PKCS1_SHA256, &self.random, text, signature);
        signed.map_err(|_| Refusal::bad_request("the request cannot be signed with this key"))?;
        Ok(STANDARD.encode(signature))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} bits)", self.pair.public_modulus_len() * 8)
    }
}

/// Bytes with a colon between each two.
pub(super) fn pairs(bytes: &[u8], written: impl Fn(&u8) -> String) -> String {
    bytes.iter().map(written).collect::<Vec<_>>().join(":")
}

/// The Authorization header for a text that was signed under these names, in the order of Oracle's SDK for Python.
///
/// # Errors
/// When the key cannot sign, or the id cannot stand in a header.
pub(super) fn authorization(key: &SigningKey, id: &str, names: &str, text: &[u8]) -> Result<HeaderValue, Refusal> {
    let signature = key.sign(text)?;
    let line = format!(
        "Signature algorithm=\"rsa-sha256\",headers=\"{names}\",keyId=\"{id}\",signature=\"{signature}\",version=\"1\""
    );
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(line));
    let mut value = value.map_err(|_| Refusal::bad_request("the key's id cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Covers {
    /// Time, method, target and host.
    Head,
    /// The body too, by its hash.
    Body,
}

impl Covers {
    /// What Oracle wants covered of a request.
    ///
    /// # Errors
    /// `bad_request` for a method that no API of Oracle's has.
    pub(super) fn of(view: &RequestView<'_>) -> Result<Self, Refusal> {
        match *view.method {
            Method::GET | Method::HEAD | Method::DELETE => Ok(Self::Head),
            // Not over cleartext, where anybody could change what no signature covers; and an upload whose length nobody
            // says is taken by no service of Oracle's: once it was read, its length is known.
            Method::POST | Method::PUT | Method::PATCH => Ok(
                if view.destination.protocol() == Protocol::Https
                    && view.length.is_some()
                    && (is_object_upload(view) || is_streamed_by_the_caller(view))
                {
                    Self::Head
                } else {
                    Self::Body
                },
            ),
            _ => Err(Refusal::bad_request(
                "Oracle's signature is for GET, HEAD, DELETE, POST, PUT and PATCH; no API of Oracle's has other methods",
            )),
        }
    }
}

/// PutObject and UploadPart of Object Storage, which take bodies that no signature covers.
fn is_object_upload(view: &RequestView<'_>) -> bool {
    let named =
        view.destination.host().name().is_some_and(|host| host.split('.').any(|label| label == "objectstorage"));
    let (path, query) = view.path_and_query.split_once('?').unwrap_or((view.path_and_query, ""));
    let mut parts = path.splitn(7, '/');
    let mut part = || parts.next().unwrap_or_default();
    let shape = [part(), part(), part(), part(), part(), part(), part()];
    let ["", "n", namespace, "b", bucket, kind, object] = shape else { return false };
    let all = [namespace, bucket, object].iter().all(|part| !part.is_empty());
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let upload = kind == "o" || (kind == "u" && has("uploadId") && has("uploadPartNum"));
    *view.method == Method::PUT && named && all && upload
}

/// Whether the caller's SDK signed this request without its body, with whatever worthless key: it knows which operations
/// are uploads. A service whose operation is none refuses such a signature, of ours as of anybody's.
fn is_streamed_by_the_caller(view: &RequestView<'_>) -> bool {
    let line = view.removed.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let line = line.and_then(|line| line.strip_prefix("Signature "));
    let names = line.and_then(|line| line.split_once("headers=\"")?.1.split_once('"'));
    names.is_some_and(|(names, _)| {
        let mut names = names.split(' ');
        names.clone().any(|name| name == "(request-target)") && names.all(|name| name != X_CONTENT_SHA256)
    })
}

/// Signs with one key, under one id.
pub(super) struct Signer {
    key: Arc<SigningKey>,
    /// `tenancy/user/fingerprint`, or `ST$` and a session token, which is secret.
    id: Box<str>,
    skew: Arc<Skew>,
}

impl Signer {
    /// A signer; `id` must be able to stand between quotes in a header.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn new(key: Arc<SigningKey>, id: &str, skew: Arc<Skew>) -> Result<Self, &'static str> {
        let plain = id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if plain {
            Ok(Self { key, id: id.into(), skew })
        } else {
            Err("it has characters that cannot stand in a header")
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Authorizer for Signer {
    fn body_need(&self, view: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
        Ok(match Covers::of(view)? {
            Covers::Head => BodyNeed::None,
            Covers::Body => BodyNeed::Sha256,
        })
    }

    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Authorized, Refusal> {
        let host = view.destination.host();
        let mark = self.skew.seconds(host);
        let date = httpdate::fmt_http_date(self.skew.corrected(now, host));
        let Covered { text, names, mut set } = Covered::of(view, &date)?;
        set.push((AUTHORIZATION, authorization(&self.key, &self.id, names, &text)?));
        set.push((DATE, value(date)?));
        let mutations = Mutations { set, ..Mutations::default() };
        Ok(Authorized { mutations: Arc::new(mutations), rewrite: None, mark })
    }

    /// A 401 is worth looking at also where there is no token: it may have been the time.
    fn reads_errors(&self) -> bool {
        true
    }

    fn suspects(&self, status: StatusCode) -> bool {
        status == StatusCode::UNAUTHORIZED
    }

    fn verdict(&self, answer: &AnswerView<'_>, now: SystemTime) -> Verdict {
        if answer.status != StatusCode::UNAUTHORIZED {
            return Verdict::Fine;
        }
        // Its 401 does not say whether it was the time, but every answer tells what the time is there.
        let date = answer.headers.get(DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
        };
        let wrong = date.is_some_and(|date| (seconds(date) - seconds(now) - answer.mark).abs() > CLOCK_IS_WRONG);
        if wrong && self.skew.learn(answer.destination.host(), answer.mark, date, now) {
            return Verdict::Clock;
        }
        Verdict::Token
    }
}

/// What is signed.
struct Covered {
    text: Vec<u8>,
    /// The names of its lines.
    names: &'static str,
    /// What it takes of headers that the request may not have.
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Covered {
    fn of(view: &RequestView<'_>, date: &str) -> Result<Self, Refusal> {
        let method = view.method.as_str().to_ascii_lowercase();
        let mut text = Vec::with_capacity(512);
        for part in ["date: ", date, "\n(request-target): ", &method, " ", view.path_and_query, "\nhost: "] {
            text.extend_from_slice(part.as_bytes());
        }
        text.extend_from_slice(view.destination.host_header().as_bytes());
        if Covers::of(view)? == Covers::Head {
            return Ok(Self { text, names: "date (request-target) host", set: Vec::with_capacity(2) });
        }
        let names = "date (request-target) host content-length content-type x-content-sha256";
        let body = view.body.ok_or_else(|| Refusal::bad_request("the body was not read before signing"))?;
        let mut set = Vec::with_capacity(4);
        let mut kinds = view.headers.get_all(CONTENT_TYPE).iter();
        let kind = match (kinds.next(), kinds.next()) {
            (Some(kind), None) => kind.clone(),
            (None, _) => {
                let kind = HeaderValue::from_static("application/json");
                set.push((CONTENT_TYPE, kind.clone()));
                kind
            }
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request("there are two content-type headers, and one can be signed"));
            }
        };
        let hash = STANDARD.encode(body.sha256);
        text.extend_from_slice(format!("\ncontent-length: {}\ncontent-type: ", body.length).as_bytes());
        text.extend_from_slice(kind.as_bytes());
        text.extend_from_slice(b"\nx-content-sha256: ");
        text.extend_from_slice(hash.as_bytes());
        set.push((X_CONTENT_SHA256, value(hash)?));
        Ok(Self { text, names, set })
    }
}

fn value(text: String) -> Result<HeaderValue, Refusal> {
    let unfit = |_| Refusal::bad_request("what is signed cannot stand in a header");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).map_err(unfit)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::base::request::BodyDigest;
    use crate::base::{Destination, Secret};

    /// From Oracle's own tests of its SDK for Go (`common/http_signer_test.go` of oci-go-sdk), whose key has 1024 bits and
    /// signs nothing here.
    #[test]
    fn the_text_that_is_signed_is_that_of_the_published_vectors() {
        let date = "Thu, 05 Jan 2014 21:31:40 GMT";
        let destination = Destination::from_connect("iaas.us-phoenix-1.oraclecloud.com:443").unwrap();
        let (none, mut headers) = (HeaderMap::new(), HeaderMap::new());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let target = "/20160918/instances?availabilityDomain=Pjwf%3A%20PHX-AD-1&compartmentId=ocid1.compartment.oc1..aaaaaaaam3we6vgnherjq5q2idnccdflvjsnog7mlr6rtdb25gilchfeyjxa&displayName=TeamXInstances&volumeId=ocid1.volume.oc1.phx.abyhqljrgvttnlx73nmrwfaux7kcvzfs3s66izvxf2h4lgvyndsdsnoiwr5q";
        let removed = HeaderMap::new();
        let mut view = RequestView {
            method: &Method::GET,
            path_and_query: target,
            headers: &none,
            removed: &removed,
            destination: &destination,
            length: Some(0),
            body: None,
            narrowing: None,
        };
        let covered = Covered::of(&view, date).unwrap();
        let host = "iaas.us-phoenix-1.oraclecloud.com";
        let expected = format!("date: {date}\n(request-target): get {target}\nhost: {host}");
        assert_eq!((String::from_utf8(covered.text).unwrap(), covered.set.len()), (expected, 0));
        let mut sha256 = [0; 32];
        let hash = "V9Z20UJTvkvpJ50flBzKE32+6m2zJjweHpDMX/U4Uy0=";
        sha256.copy_from_slice(&STANDARD.decode(hash).unwrap());
        let digest = BodyDigest { sha256, further: None, length: 316, whole: None };
        (view.method, view.path_and_query) = (&Method::POST, "/20160918/volumeAttachments");
        (view.length, view.body) = (Some(316), Some(&digest));
        let expected = format!(
            "date: {date}\n(request-target): post /20160918/volumeAttachments\nhost: {host}\ncontent-length: 316\n\
             content-type: application/json\nx-content-sha256: {hash}"
        );
        let without = Covered::of(&view, date).unwrap();
        assert_eq!((String::from_utf8(without.text).unwrap(), without.set.len()), (expected.clone(), 2));
        view.headers = &headers;
        let with = Covered::of(&view, date).unwrap();
        assert_eq!((String::from_utf8(with.text).unwrap(), with.set.len()), (expected, 1));
    }

    fn covers(method: &str, url: &str, length: Option<u64>, theirs: &str) -> Option<Covers> {
        let uri: http::Uri = url.parse().unwrap();
        let mut removed = HeaderMap::new();
        if !theirs.is_empty() {
            let line = format!("Signature algorithm=\"rsa-sha256\",headers=\"{theirs}\",keyId=\"x\",signature=\"y\"");
            removed.insert(AUTHORIZATION, line.parse().unwrap());
        }
        let view = RequestView {
            method: &method.parse().unwrap(),
            path_and_query: uri.path_and_query().unwrap().as_str(),
            headers: &HeaderMap::new(),
            removed: &removed,
            destination: &Destination::from_absolute(&uri).unwrap(),
            length,
            body: None,
            narrowing: None,
        };
        Covers::of(&view).ok()
    }

    const STORE: &str = "https://objectstorage.us-ashburn-1.oraclecloud.com";

    #[test]
    fn uploads_to_object_storage_stream_and_nothing_else_does_by_itself() {
        let at = |method: &str, path: &str| covers(method, &format!("{STORE}{path}"), Some(9), "");
        for path in ["/n/space/b/bucket/o/a", "/n/space/b/bucket/o/a/b%2F?x", "/n/s/b/b/u/o?uploadId=1&uploadPartNum=2"]
        {
            assert_eq!(at("PUT", path), Some(Covers::Head), "{path}");
            assert_eq!(at("POST", path), Some(Covers::Body), "{path}");
            let elsewhere = format!("https://iaas.us-ashburn-1.oraclecloud.com{path}");
            assert_eq!(covers("PUT", &elsewhere, Some(9), ""), Some(Covers::Body));
            let clear = format!("http://objectstorage.us-ashburn-1.oraclecloud.com{path}");
            assert_eq!(covers("PUT", &clear, Some(9), ""), Some(Covers::Body), "anybody could change it");
            assert_eq!(covers("PUT", &format!("{STORE}{path}"), None, ""), Some(Covers::Body), "of unknown length");
        }
        for path in [
            "/n/space/b/bucket/o/",
            "/n/space/b/bucket/o",
            "/n/space/b//o/a",
            "/n/space/b/bucket/l/a",
            "/n/space/b/bucket/u/a?uploadId=1",
            "/x/n/space/b/bucket/o/a",
            "/n/space/b/bucket",
            "/",
        ] {
            assert_eq!(at("PUT", path), Some(Covers::Body), "{path}");
        }
        for method in ["GET", "HEAD", "DELETE"] {
            assert_eq!(at(method, "/n/space/b/bucket/o/a"), Some(Covers::Head));
        }
        for method in ["OPTIONS", "TRACE", "CONNECT", "get", "PURGE"] {
            assert_eq!(at(method, "/"), None, "{method}");
        }
    }

    #[test]
    fn what_the_callers_sdk_streams_is_streamed() {
        let url = "https://datascience.us-ashburn-1.oci.oraclecloud.com/20190101/models/m/artifact";
        assert_eq!(covers("POST", url, Some(9), "date (request-target) host"), Some(Covers::Head));
        for theirs in ["date (request-target) host content-length content-type x-content-sha256", "", "host"] {
            assert_eq!(covers("POST", url, Some(9), theirs), Some(Covers::Body), "{theirs}");
        }
        assert_eq!(covers("POST", url, None, "date (request-target) host"), Some(Covers::Body));
        assert_eq!(covers("POST", &url.replace("https", "http"), Some(9), "(request-target)"), Some(Covers::Body));
    }

    fn key(file: &str) -> Result<SigningKey, String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(file);
        SigningKey::new(&PrivateKey::from_pem(&Secret::new(std::fs::read(path).unwrap()), None).unwrap())
    }

    #[test]
    fn a_wrong_clock_is_corrected_by_the_answer_and_another_refusal_drops_the_token() {
        let signer = Signer::new(Arc::new(key("rsa-pkcs1.pem").unwrap()), "a/b/c", Arc::default()).unwrap();
        let destination = Destination::from_connect("iaas.us-phoenix-1.oraclecloud.com:443").unwrap();
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let judged = |status: u16, ahead: u64, mark: i64| {
            let mut headers = HeaderMap::new();
            let date = httpdate::fmt_http_date(now + std::time::Duration::from_secs(ahead));
            headers.insert(DATE, date.parse().unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            let answer = AnswerView { destination: &destination, mark, status, headers: &headers, body: b"" };
            signer.verdict(&answer, now)
        };
        assert_eq!(judged(404, 600, 0), Verdict::Fine);
        assert_eq!(judged(401, 200, 0), Verdict::Token);
        assert_eq!(judged(401, 600, 0), Verdict::Clock);
        assert_eq!(judged(401, 600, 600), Verdict::Token, "the corrected time was refused too");
        let view = RequestView {
            method: &Method::GET,
            path_and_query: "/",
            headers: &HeaderMap::new(),
            removed: &HeaderMap::new(),
            destination: &destination,
            length: Some(0),
            body: None,
            narrowing: None,
        };
        let signed = signer.authorize(&view, now).unwrap();
        assert!(signed.mark == 600 && format!("{:?}", signed.mutations).contains("22:23:20"), "{signed:?}");
    }

    #[test]
    fn keys_are_rsa_of_2048_to_4096_bits_and_debug_shows_nothing_else() {
        assert_eq!(format!("{:?}", key("rsa-4096.pem").unwrap()), "SigningKey(4096 bits)");
        assert!(key("p256-pkcs8.pem").unwrap_err().contains("RSA of 2048 to 4096 bits"));
        assert!(Signer::new(Arc::new(key("rsa-pkcs1.pem").unwrap()), "ST$a\"b", Arc::default()).is_err());
    }
}
