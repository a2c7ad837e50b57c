//! The demo's AWS: services that verify Signature Version 4, and an STS that gives sessions of a role. It shares no code with
//! the schemes.
//!
//! Written after <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html> and
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, digest, hmac};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Parts;
use serde_json::json;

use super::cases::{ACCESS_KEY, EXTERNAL_ID, ROLE, random};

/// AWS takes a signature for so long before and after its date.
const VALIDITY: Duration = Duration::from_secs(15 * 60);

/// What S3 takes in place of a body's hash.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The user's secret key, and the sessions that STS gave.
pub(super) struct Aws {
    secret: String,
    sessions: Mutex<HashMap<String, Known>>,
}

/// Keys as their issuer knows them.
#[derive(Clone)]
struct Known {
    secret: String,
    session: Option<Session>,
}

#[derive(Clone)]
struct Session {
    token: String,
    until: SystemTime,
    number: usize,
}

/// AWS's code for it, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Refused(&'static str, &'static str);

impl Aws {
    pub(super) fn new(secret: &str) -> Self {
        Self { secret: secret.to_owned(), sessions: Mutex::default() }
    }

    /// Answers a request to one of AWS's hosts; `None` for any other host.
    pub(super) fn answer(&self, request: &Parts, body: &[u8], now: SystemTime) -> Option<(u16, String)> {
        let (service, region) = service_and_region(request)?;
        let verified = self.verify(request, body, (service, region), now);
        if service == "sts" {
            let issued = verified.and_then(|known| self.assume_role(&known, body, now));
            return Some(issued.map_or_else(|refused| (refused.status(), refused.document()), |answer| (200, answer)));
        }
        let (status, verdict) = match verified {
            Ok(known) => {
                let unsigned = request.headers.get("x-amz-content-sha256").is_some_and(|hash| hash == UNSIGNED);
                let over = if body.is_empty() || unsigned { "" } else { ", body included" };
                let by = known.session.map(|session| format!(", with session {} of the role", session.number));
                (200, format!("the signature is right{over}{}", by.unwrap_or_default()))
            }
            Err(refused) => (refused.status(), refused.1.to_owned()),
        };
        Some((status, json!({ "received": received(request), "verdict": verdict }).to_string()))
    }

    fn verify(&self, request: &Parts, body: &[u8], scope: (&str, &str), now: SystemTime) -> Result<Known, Refused> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let user = || Known { secret: self.secret.clone(), session: None };
        verify(request, body, scope, now, |id| if id == ACCESS_KEY { Some(user()) } else { sessions.get(id).cloned() })
    }

    /// The answer to `AssumeRole`: a session, for the user who sent the role's external id.
    fn assume_role(&self, asks: &Known, form: &[u8], now: SystemTime) -> Result<String, Refused> {
        let form: HashMap<String, String> = url::form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if field("Action") != "AssumeRole" || field("Version") != "2011-06-15" {
            return Err(Refused("InvalidAction", "this STS knows AssumeRole of 2011-06-15"));
        }
        let name = field("RoleSessionName");
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte));
        let seconds = field("DurationSeconds").parse().ok().filter(|seconds| (900..=43200).contains(seconds));
        let (true, 2..=64, Some(seconds)) = (plain, name.len(), seconds) else {
            return Err(Refused("ValidationError", "the session's name or duration is not one"));
        };
        // As AWS does, it does not say which of these it was.
        if asks.session.is_some() || field("RoleArn") != ROLE || field("ExternalId") != EXTERNAL_ID {
            return Err(Refused("AccessDenied", "the user is not authorized to perform sts:AssumeRole on this role"));
        }
        let failed = |_| Refused("InternalFailure", "no randomness");
        let (id, secret, token) = (random().map_err(failed)?, random().map_err(failed)?, random().map_err(failed)?);
        let id = format!("ASIA{}", id[..16].to_ascii_uppercase());
        let until = now + Duration::from_secs(seconds);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = Session { token: token.clone(), until, number: sessions.len() + 1 };
        let answer = format!(
            "<AssumeRoleResponse xmlns=\"{XMLNS}\"><AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
             <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
             <Expiration>{}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
            humantime::format_rfc3339_seconds(until)
        );
        sessions.insert(id, Known { secret, session: Some(session) });
        Ok(answer)
    }
}

impl Refused {
    fn status(&self) -> u16 {
        match self.0 {
            "InvalidAction" | "ValidationError" | "MissingSecurityHeader" | "XAmzContentSHA256Mismatch" => 400,
            "InternalFailure" => 500,
            _ => 403,
        }
    }

    fn document(&self) -> String {
        let Self(code, why) = self;
        format!(
            "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{why}</Message>\
             </Error></ErrorResponse>"
        )
    }
}

/// From `service.region.amazonaws.com`.
fn service_and_region(request: &Parts) -> Option<(&str, &str)> {
    let host = request.headers.get(HOST)?.to_str().ok()?;
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(".amazonaws.com")?.split_once('.')
}

/// What was received, the secret part left out.
fn received(request: &Parts) -> String {
    let mut received = Vec::new();
    match request.headers.get(AUTHORIZATION).map(|line| line.to_str().ok().and_then(Signature::parse)) {
        Some(Some(line)) => {
            received
                .push(format!("Authorization: AWS4-HMAC-SHA256 [redacted] for {} in {}", line.service, line.region));
        }
        Some(None) => received.push("Authorization: [redacted]".into()),
        None => {}
    }
    if request.headers.contains_key("x-amz-security-token") {
        received.push("X-Amz-Security-Token: [redacted]".into());
    }
    received.join(", ")
}

/// The parts of an `Authorization` line.
struct Signature<'a> {
    id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Signature<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.strip_prefix("AWS4-HMAC-SHA256 ")?.split(',').map(str::trim);
        let mut part = |name: &str| parts.next()?.strip_prefix(name);
        let (credential, signed, signature) = (part("Credential=")?, part("SignedHeaders=")?, part("Signature=")?);
        let mut scope = credential.split('/');
        let mut next = || scope.next();
        let (id, date, region, service, end) = (next()?, next()?, next()?, next()?, next()?);
        (end == "aws4_request" && next().is_none()).then(|| Self {
            id,
            date,
            region,
            service,
            signed: signed.split(';').collect(),
            signature,
        })
    }
}

/// Verifies a request as it arrived at a service in a region, signed with keys that `known` finds by their id.
fn verify(
    request: &Parts,
    body: &[u8],
    (service, region): (&str, &str),
    now: SystemTime,
    known: impl FnOnce(&str) -> Option<Known>,
) -> Result<Known, Refused> {
    let line = one(request, AUTHORIZATION.as_str()).map_err(|()| Refused("IncompleteSignature", "two credentials"))?;
    let line = line.ok_or(Refused("MissingAuthenticationToken", "no credential"))?;
    let line = Signature::parse(line).ok_or(Refused("IncompleteSignature", "not a signature of version 4"))?;
    let header = |name| one(request, name).map_err(|()| Refused("IncompleteSignature", "a header came twice"));
    let keys = known(line.id).ok_or(Refused("InvalidClientTokenId", "the access key is not known"))?;
    let token = header("x-amz-security-token")?;
    if token != keys.session.as_ref().map(|session| session.token.as_str()) {
        return Err(Refused("InvalidClientTokenId", "the session token is wrong"));
    }
    if keys.session.as_ref().is_some_and(|session| session.until <= now) {
        return Err(Refused("ExpiredToken", "the session has ended"));
    }
    let date = header("x-amz-date")?.unwrap_or_default();
    let time = moment(date).ok_or(Refused("IncompleteSignature", "no date"))?;
    let apart = now.duration_since(time).unwrap_or_else(|earlier| earlier.duration());
    if apart > VALIDITY {
        return Err(Refused("RequestTimeTooSkewed", "the date is more than 15 minutes away"));
    }
    if !date.starts_with(line.date) || line.date.len() != 8 || (line.service, line.region) != (service, region) {
        return Err(Refused("SignatureDoesNotMatch", "signed for another day, region or service"));
    }
    let must_be_signed = |name: &str| name.starts_with("x-amz-") || name == HOST || name == CONTENT_TYPE;
    let unsigned = |name: &str| must_be_signed(name) && !line.signed.contains(&name);
    if request.headers.keys().any(|name| unsigned(name.as_str())) || !line.signed.is_sorted() {
        return Err(Refused("SignatureDoesNotMatch", "a header that must be signed is not"));
    }
    let payload = payload(header("x-amz-content-sha256")?, body, service)?;
    let canonical = canonical_request(request, &line.signed, &payload, service)
        .ok_or(Refused("SignatureDoesNotMatch", "a signed header is missing"))?;
    let scope = format!("{}/{region}/{service}/aws4_request", line.date);
    let string_to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let expected = signature(&keys.secret, &scope, &string_to_sign);
    constant_time::verify_slices_are_equal(expected.as_bytes(), line.signature.as_bytes())
        .map_err(|_| Refused("SignatureDoesNotMatch", "the signature is wrong"))?;
    Ok(keys)
}

/// A header that may come once; `Err` when it came more often or is not text.
fn one<'a>(request: &'a Parts, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = request.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

/// `YYYYMMDDThhmmssZ`.
fn moment(date: &str) -> Option<SystemTime> {
    let digits = date.len() == 16 && date.is_ascii();
    let part = |range| if digits { date.get(range) } else { None };
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (t, hour, minute, second, z) = (part(8..9)?, part(9..11)?, part(11..13)?, part(13..15)?, part(15..16)?);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}{t}{hour}:{minute}:{second}{z}")).ok()
}

/// The canonical request's last line: what the request declares when that is right, else the body's hash.
fn payload(declared: Option<&str>, body: &[u8], service: &str) -> Result<String, Refused> {
    let hash = sha256(body);
    match declared {
        Some(UNSIGNED) if service == "s3" => Ok(UNSIGNED.into()),
        Some(declared) if declared == hash => Ok(hash),
        Some(_) => Err(Refused("XAmzContentSHA256Mismatch", "the body is not the one that was hashed")),
        None if service == "s3" => Err(Refused("MissingSecurityHeader", "x-amz-content-sha256 is missing")),
        None => Ok(hash),
    }
}

/// `None` when a header that is to be signed did not come.
fn canonical_request(request: &Parts, signed: &[&str], payload: &str, service: &str) -> Option<String> {
    let mut headers = String::new();
    for name in signed {
        let values = request.headers.get_all(*name).iter();
        let values: Option<Vec<String>> = values.map(|value| Some(collapsed(value.to_str().ok()?))).collect();
        let values = values.filter(|values| !values.is_empty())?;
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let path = canonical_path(request.uri.path(), service == "s3");
    let query = canonical_query(request.uri.query().unwrap_or_default());
    Some(format!("{}\n{path}\n{query}\n{headers}\n{}\n{payload}", request.method, signed.join(";")))
}

/// Without blanks at the ends, and single ones within.
fn collapsed(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// S3 encodes the name of an object once; elsewhere the path is brought into its normal form and, encoded as it came, is
/// encoded again.
fn canonical_path(path: &str, is_s3: bool) -> String {
    if is_s3 {
        return path.split('/').map(|part| encoded(&decoded(part))).collect::<Vec<_>>().join("/");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(encoded(part.as_bytes())),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<_> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(&decoded(name)), encoded(&decoded(value))))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// `UriEncode` of the specification.
fn encoded(text: &[u8]) -> String {
    let mut out = String::new();
    for byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    out
}

/// The key is derived from the secret over each part of the scope.
fn signature(secret: &str, scope: &str, string_to_sign: &str) -> String {
    let tag = |key: &[u8], text: &str| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        tag.as_ref().to_vec()
    };
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| tag(&key, part));
    hex(&tag(&key, string_to_sign))
}

fn sha256(text: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, text).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const AT: &str = "20130524T000000Z";

    type Headers<'a> = Vec<(&'a str, &'a str)>;

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let request = http::Request::builder().method(method).uri(target);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    /// By an S3 in us-east-1 that knows the documentation's key.
    fn at_s3(request: &Parts, body: &str) -> Result<(), Refused> {
        let known = |id: &str| (id == "AKIAIOSFODNN7EXAMPLE").then(|| Known { secret: SECRET.into(), session: None });
        verify(request, body.as_bytes(), ("s3", "us-east-1"), moment(AT).unwrap(), known).map(drop)
    }

    fn s3_line(signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders={signed},Signature={signature}"
        )
    }

    /// "Example: GET Object" of the S3 API reference, as it is sent.
    fn get_object<'a>(line: &'a str) -> Headers<'a> {
        vec![
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", AT),
            ("authorization", line),
        ]
    }

    fn get_object_line() -> String {
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        s3_line("host;range;x-amz-content-sha256;x-amz-date", signature)
    }

    // https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    #[test]
    fn the_examples_of_s3s_documentation_are_right() {
        assert_eq!(at_s3(&request("GET", "/test.txt", &get_object(&get_object_line())), ""), Ok(()));
        let line = s3_line(
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        );
        let put = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
            ("x-amz-date", AT),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("authorization", &line),
        ];
        assert_eq!(at_s3(&request("PUT", "/test%24file.text", &put), "Welcome to Amazon S3."), Ok(()));
        let changed = at_s3(&request("PUT", "/test%24file.text", &put), "Welcome to Amazon S3!");
        assert_eq!(changed.unwrap_err().0, "XAmzContentSHA256Mismatch");
        for (target, signature) in [
            ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("/?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let line = s3_line("host;x-amz-content-sha256;x-amz-date", signature);
            let mut headers = get_object(&line);
            headers.remove(1);
            assert_eq!(at_s3(&request("GET", target, &headers), ""), Ok(()), "{target}");
        }
    }

    #[test]
    fn a_request_that_was_changed_after_it_was_signed_is_refused() {
        let line = get_object_line();
        let code = |parts: Parts, body: &str| at_s3(&parts, body).unwrap_err().0;
        let with = |index: usize, name, value| {
            let mut headers = get_object(&line);
            headers[index] = (name, value);
            request("GET", "/test.txt", &headers)
        };
        let whole = get_object(&line);
        for (method, target) in
            [("GET", "/test.tx"), ("HEAD", "/test.txt"), ("GET", "/test.txt?a"), ("GET", "//test.txt")]
        {
            assert_eq!(code(request(method, target, &whole), ""), "SignatureDoesNotMatch", "{method} {target}");
        }
        assert_eq!(code(with(0, "host", "other.s3.amazonaws.com"), ""), "SignatureDoesNotMatch");
        assert_eq!(code(with(1, "range", "bytes=0-10"), ""), "SignatureDoesNotMatch");
        assert_eq!(code(with(1, "x-other", "1"), ""), "SignatureDoesNotMatch", "a signed header is gone");
        assert_eq!(code(with(2, "x-amz-content-sha256", "UNSIGNED-PAYLOAD"), ""), "SignatureDoesNotMatch");
        assert_eq!(code(request("GET", "/test.txt", &whole), "a body"), "XAmzContentSHA256Mismatch");
        assert_eq!(code(with(3, "x-amz-date", "20130524T000001Z"), ""), "SignatureDoesNotMatch");
        assert_eq!(code(with(3, "x-amz-date", "20130524T001501Z"), ""), "RequestTimeTooSkewed");
        assert_eq!(code(with(3, "x-amz-date", "yesterday"), ""), "IncompleteSignature");
        let more = [&whole[..], &[("x-amz-acl", "public-read")]].concat();
        assert_eq!(code(request("GET", "/test.txt", &more), ""), "SignatureDoesNotMatch", "it must be signed");
        let twice = [&whole[..], &whole[4..]].concat();
        assert_eq!(code(request("GET", "/test.txt", &twice), ""), "IncompleteSignature");
        assert_eq!(code(request("GET", "/test.txt", &whole[..4]), ""), "MissingAuthenticationToken");
        for (from, to, expected) in [
            ("AKIAIOSFODNN7EXAMPLE", "AKIASOMEBODYELSE", "InvalidClientTokenId"),
            ("20130524", "20130523", "SignatureDoesNotMatch"),
            ("us-east-1", "us-east-2", "SignatureDoesNotMatch"),
            ("/s3/", "/sts/", "SignatureDoesNotMatch"),
            ("aws4_request", "aws5_request", "IncompleteSignature"),
            ("bdb41", "bdb42", "SignatureDoesNotMatch"),
            ("AWS4-HMAC-SHA256 ", "Bearer ", "IncompleteSignature"),
        ] {
            let line = line.replace(from, to);
            assert_eq!(code(request("GET", "/test.txt", &get_object(&line)), ""), expected, "{to}");
        }
        let other = |_: &str| Some(Known { secret: SECRET.to_lowercase(), session: None });
        let refused =
            verify(&request("GET", "/test.txt", &whole), b"", ("s3", "us-east-1"), moment(AT).unwrap(), other);
        assert_eq!(refused.err().unwrap().0, "SignatureDoesNotMatch", "signed with another secret");
    }

    // Of the SigV4 test suite of AWS: get-vanilla, get-vanilla-query-order-key-case, post-sts-header-before.
    #[test]
    fn the_test_suite_of_aws_is_right_sessions_included() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let now = moment("20150830T123600Z").unwrap();
        let asked = |method: &str, target: &str, sent: Option<&str>, line: &str, known: Option<&str>, until: u64| {
            let line =
                format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, {line}");
            let mut headers =
                vec![("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"), ("authorization", &line)];
            headers.extend(sent.map(|token| ("x-amz-security-token", token)));
            let until = now + Duration::from_secs(until);
            let session = known.map(|token| Session { token: token.to_owned(), until, number: 1 });
            let known = Known { secret: SECRET.replace("G/b", "G+b"), session };
            let scope = ("service", "us-east-1");
            verify(&request(method, target, &headers), b"", scope, now, |_| Some(known))
                .map_err(|refused| refused.0)
                .err()
        };
        let vanilla = "SignedHeaders=host;x-amz-date, \
                       Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        assert_eq!(asked("GET", "/", None, vanilla, None, 1), None);
        assert_eq!(
            asked("GET", "/a/.././/", None, vanilla, None, 1),
            None,
            "get-slashes and get-relative are the same"
        );
        let query = "SignedHeaders=host;x-amz-date, \
                     Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
        assert_eq!(asked("GET", "/?Param2=value2&Param1=value1", None, query, None, 1), None);
        let session = "SignedHeaders=host;x-amz-date;x-amz-security-token, \
                       Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead";
        assert_eq!(asked("POST", "/", Some(token), session, Some(token), 1), None);
        assert_eq!(asked("POST", "/", Some("another"), session, Some("another"), 1), Some("SignatureDoesNotMatch"));
        assert_eq!(asked("POST", "/", Some(token), session, Some("another"), 1), Some("InvalidClientTokenId"));
        assert_eq!(asked("POST", "/", None, session, Some(token), 1), Some("InvalidClientTokenId"));
        assert_eq!(asked("POST", "/", Some(token), session, None, 1), Some("InvalidClientTokenId"));
        assert_eq!(asked("POST", "/", Some(token), session, Some(token), 0), Some("ExpiredToken"));
    }

    #[test]
    fn a_path_is_encoded_twice_except_for_s3() {
        assert_eq!(canonical_path("/a%20b//c%2Fd/../e", true), "/a%20b//c%2Fd/../e");
        assert_eq!(canonical_path("/a%20b//c%2Fd/../e/", false), "/a%2520b/e/");
        assert_eq!(canonical_query("b=%7e+&a=1&a=0&c&d=%"), "a=0&a=1&b=~%2B&c=&d=%25");
    }

    /// Signs for this file's own STS and services, by what the vectors above prove.
    fn signed(aws: &Aws, host: &str, id: &str, keys: &Known, body: &str) -> (u16, String) {
        let (service, region) = host.strip_suffix(".amazonaws.com").unwrap().split_once('.').unwrap();
        let (scope, hash) = (format!("20130524/{region}/{service}/aws4_request"), sha256(body.as_bytes()));
        let mut headers = vec![("host", host), ("x-amz-content-sha256", &hash), ("x-amz-date", AT)];
        headers.extend(keys.session.as_ref().map(|session| ("x-amz-security-token", session.token.as_str())));
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let canonical = canonical_request(&request("POST", "/", &headers), &names, &hash, service).unwrap();
        let text = format!("AWS4-HMAC-SHA256\n{AT}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let line = format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={}, Signature={}",
            names.join(";"),
            signature(&keys.secret, &scope, &text)
        );
        headers.push(("authorization", &line));
        aws.answer(&request("POST", "/", &headers), body.as_bytes(), moment(AT).unwrap()).unwrap()
    }

    #[test]
    fn sts_gives_a_session_to_who_knows_the_external_id_and_only_that_session_is_taken() {
        let aws = Aws::new(SECRET);
        let user = Known { secret: SECRET.into(), session: None };
        let ask = |keys: &Known, id: &str, role: &str, external_id: &str, seconds: &str| {
            let form = [
                ("Action", "AssumeRole"),
                ("Version", "2011-06-15"),
                ("RoleArn", role),
                ("RoleSessionName", "test"),
                ("DurationSeconds", seconds),
                ("ExternalId", external_id),
            ];
            let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            signed(&aws, "sts.us-east-1.amazonaws.com", id, keys, &form)
        };
        for (role, external_id, seconds, expected) in [
            (ROLE, "", "900", (403, "<Code>AccessDenied</Code>")),
            (ROLE, "somebody-elses", "900", (403, "<Code>AccessDenied</Code>")),
            ("arn:aws:iam::123456789012:role/other", EXTERNAL_ID, "900", (403, "<Code>AccessDenied</Code>")),
            (ROLE, EXTERNAL_ID, "899", (400, "<Code>ValidationError</Code>")),
        ] {
            let (status, document) = ask(&user, ACCESS_KEY, role, external_id, seconds);
            assert!(status == expected.0 && document.contains(expected.1), "{status} {document}");
        }
        let stranger = Known { secret: "another".into(), session: None };
        assert_eq!(ask(&stranger, ACCESS_KEY, ROLE, EXTERNAL_ID, "900").0, 403);
        assert!(aws.sessions.lock().unwrap().is_empty(), "none was given");

        let (status, document) = ask(&user, ACCESS_KEY, ROLE, EXTERNAL_ID, "900");
        let element = |name: &str| {
            let (_, rest) = document.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        assert_eq!((status, &*element("Expiration")), (200, "2013-05-24T00:15:00Z"));
        let (id, session) = {
            let sessions = aws.sessions.lock().unwrap();
            let (id, session) = sessions.iter().next().unwrap();
            (id.clone(), session.clone())
        };
        assert_eq!((&element("AccessKeyId"), &element("SecretAccessKey")), (&id, &session.secret));
        assert_eq!(element("SessionToken"), session.session.as_ref().unwrap().token);
        let (status, answer) = signed(&aws, "ec2.eu-central-1.amazonaws.com", &id, &session, "Action=DescribeRegions");
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("session 1") && !answer.contains(&element("SessionToken")), "{answer}");
        let bare = Known { session: None, ..session.clone() };
        assert_eq!(signed(&aws, "ec2.eu-central-1.amazonaws.com", &id, &bare, "").0, 403, "without its token");
        assert_eq!(ask(&session, &id, ROLE, EXTERNAL_ID, "900").0, 403, "the user asks, not a session");
    }
}
