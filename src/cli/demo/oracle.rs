//! The demo's Oracle Cloud: an API that verifies Oracle's request signatures. It shares no code with the scheme.
//!
//! Written after <https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm> and
//! draft-cavage-http-signatures-08.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use md5::{Digest, Md5};
use serde_json::json;

use super::cases::{ORACLE_HOST, ORACLE_TENANCY, ORACLE_USER};

/// Oracle takes a date that is so far from its own.
const VALIDITY: Duration = Duration::from_secs(5 * 60);

/// The user's key, made for one run.
#[derive(Clone)]
pub(super) struct Key {
    /// For Countersign's file.
    pub(super) pem: String,
    pub(super) fingerprint: String,
    public: Vec<u8>,
}

impl Key {
    pub(super) fn generate() -> Result<Self, String> {
        let failed = |_| "no RSA key can be made".to_owned();
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
        let digits: Vec<String> = Md5::digest(public.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            pem: pem::encode(&pem::Pem::new("PRIVATE KEY", private.as_ref())),
            fingerprint: digits.join(":"),
            public: pair.public_key().as_ref().to_vec(),
        })
    }
}

/// Answers a request to the demo's Oracle; `None` for any other host.
pub(super) fn answer(request: &Parts, body: &[u8], key: &Key, now: SystemTime) -> Option<(u16, String)> {
    let host = request.headers.get(HOST)?.to_str().ok()?;
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    if name != ORACLE_HOST {
        return None;
    }
    let (status, verdict) = match verify(request, body, key, now) {
        Ok(verdict) => (200, verdict),
        Err(why) => (401, why),
    };
    let received = if request.headers.contains_key(AUTHORIZATION) { "Authorization: Signature [redacted]" } else { "" };
    Some((status, json!({ "received": received, "verdict": verdict }).to_string()))
}

fn verify(request: &Parts, body: &[u8], key: &Key, now: SystemTime) -> Result<&'static str, &'static str> {
    let header = |name: &str| {
        let mut values = request.headers.get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        value.filter(|_| values.next().is_none())
    };
    let line = header("authorization").ok_or("no credential")?;
    let parts = parameters(line).ok_or("not a signature")?;
    let part = |name: &str| parts.get(name).copied().unwrap_or_default();
    if part("version") != "1" || part("algorithm") != "rsa-sha256" {
        return Err("not a signature of version 1");
    }
    if part("keyId") != format!("{ORACLE_TENANCY}/{ORACLE_USER}/{}", key.fingerprint) {
        return Err("the key is not known");
    }
    let with_body = ["POST", "PUT", "PATCH"].contains(&request.method.as_str());
    let names: Vec<&str> = part("headers").split(' ').collect();
    let mut needed = vec!["date", "(request-target)", "host"];
    if with_body {
        needed.extend(["content-length", "content-type", "x-content-sha256"]);
    }
    if needed.iter().any(|name| !names.contains(name)) {
        return Err("a header that must be signed is not");
    }
    let date = header("date").and_then(|date| httpdate::parse_http_date(date).ok()).ok_or("no date")?;
    if now.duration_since(date).unwrap_or_else(|earlier| earlier.duration()) > VALIDITY {
        return Err("the date is more than five minutes away");
    }
    if with_body && header("x-content-sha256") != Some(&*STANDARD.encode(digest(&SHA256, body))) {
        return Err("the body is not the one that was hashed");
    }
    if with_body && header("content-length") != Some(&*body.len().to_string()) {
        return Err("the length is not the one that was signed");
    }
    let target = request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let line = |name: &&str| {
        let value = match *name {
            "(request-target)" => format!("{} {target}", request.method.as_str().to_ascii_lowercase()),
            name => header(name)?.to_owned(),
        };
        Some(format!("{name}: {value}"))
    };
    let text: Option<Vec<String>> = names.iter().map(line).collect();
    let text = text.ok_or("a signed header is missing")?.join("\n");
    let signature = STANDARD.decode(part("signature")).map_err(|_| "the signature is not base64")?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.public);
    public.verify(text.as_bytes(), &signature).map_err(|_| "the signature is wrong")?;
    Ok(if with_body { "the signature is right, body included" } else { "the signature is right" })
}

/// `name="value"`, separated by commas.
fn parameters(line: &str) -> Option<HashMap<&str, &str>> {
    let pair = |pair: &'_ str| -> Option<(usize, usize)> {
        let equals = pair.find("=\"")?;
        pair.ends_with('"').then_some((equals, pair.len() - 1))
    };
    let mut found = HashMap::new();
    for part in line.strip_prefix("Signature ")?.split(',') {
        let (equals, end) = pair(part)?;
        found.insert(part.get(..equals)?, part.get(equals + 2..end)?);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::RSA_PKCS1_SHA256;

    use super::*;

    /// A request signed here by the specification, with one thing changed afterwards.
    fn judged(key: &Key, change: impl FnOnce(&mut Parts, &mut Vec<u8>)) -> Result<&'static str, &'static str> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut body = br#"{"a":1}"#.to_vec();
        let hash = STANDARD.encode(digest(&SHA256, &body));
        let date = httpdate::fmt_http_date(now);
        let text = format!(
            "date: {date}\n(request-target): post /20160918/x?y=1\nhost: {ORACLE_HOST}\ncontent-length: 7\n\
             content-type: application/json\nx-content-sha256: {hash}"
        );
        let pair = KeyPair::from_pkcs8(pem::parse(&key.pem).unwrap().contents()).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        let id = format!("{ORACLE_TENANCY}/{ORACLE_USER}/{}", key.fingerprint);
        let names = "date (request-target) host content-length content-type x-content-sha256";
        let line = format!(
            "Signature version=\"1\",headers=\"{names}\",keyId=\"{id}\",algorithm=\"rsa-sha256\",signature=\"{}\"",
            STANDARD.encode(signature)
        );
        let request = http::Request::post("/20160918/x?y=1")
            .header("host", ORACLE_HOST)
            .header("date", date)
            .header("content-length", "7")
            .header("content-type", "application/json")
            .header("x-content-sha256", hash)
            .header("authorization", line);
        let mut parts = request.body(()).unwrap().into_parts().0;
        change(&mut parts, &mut body);
        verify(&parts, &body, key, now)
    }

    #[test]
    fn a_right_signature_is_right_and_one_wrong_byte_is_not() {
        let key = Key::generate().unwrap();
        let set = |name: &'static str, value: &'static str| {
            move |parts: &mut Parts, _: &mut Vec<u8>| drop(parts.headers.insert(name, value.parse().unwrap()))
        };
        assert_eq!(judged(&key, |_, _| {}), Ok("the signature is right, body included"));
        assert_eq!(judged(&key, |_, body| body[2] = b'b'), Err("the body is not the one that was hashed"));
        assert_eq!(
            judged(&key, |parts, _| parts.uri = "/20160918/x?y=2".parse().unwrap()),
            Err("the signature is wrong")
        );
        assert_eq!(judged(&key, set("content-type", "text/plain")), Err("the signature is wrong"));
        assert_eq!(judged(&key, set("date", "Tue, 14 Nov 2023 22:13:21 GMT")), Err("the signature is wrong"));
        let late = set("date", "Tue, 14 Nov 2023 22:19:20 GMT");
        assert_eq!(judged(&key, late), Err("the date is more than five minutes away"));
        assert_eq!(judged(&key, |parts, _| drop(parts.headers.remove("authorization"))), Err("no credential"));
        let other = Key::generate().unwrap();
        assert_eq!(judged(&Key { public: other.public, ..key }, |_, _| {}), Err("the signature is wrong"));
    }
}
