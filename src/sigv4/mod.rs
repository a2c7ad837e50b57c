//! Signing for AWS: Signature Version 4 and 4a over the bytes that go out, whatever the body.
//!
//! The `aws-sigv4` crate derives keys and computes signatures; this room decides what is signed: for which service and region,
//! which headers, and how the body is covered. It follows
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html> and
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>.
//! **Never obtains keys, never signs for a service or region that it had to guess, never holds a body.**

mod actions;
mod answer;
mod canonical;
mod chunks;
mod events;
mod host;
mod hosts_table;
mod payload;
mod scope;
mod target;

pub use answer::{Skew, is_about_time};
pub use payload::Payload;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_sigv4::sign::{v4, v4a};
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use self::canonical::{Canonical, Hashed, stamp};
use self::chunks::Chunks;
use self::payload::Mode;
use self::scope::Scope;
use self::target::Target;
use crate::base::{
    AnswerView, Authorized, Authorizer, BodyNeed, Clock, Mutations, Refusal, RequestView, Secret, Verdict,
};

const X_AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const X_AMZ_REGION_SET: HeaderName = HeaderName::from_static("x-amz-region-set");
const X_AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The headers that a signature consists of: a caller's copies are its own SDK's, made with worthless keys.
pub static OWNED_HEADERS: [HeaderName; 7] = [
    AUTHORIZATION,
    DATE,
    X_AMZ_DATE,
    X_AMZ_SECURITY_TOKEN,
    X_AMZ_CONTENT_SHA256,
    X_AMZ_REGION_SET,
    HeaderName::from_static("x-amz-s3session-token"),
];

/// Whether a host below AWS's domains can belong to a stranger: an API, a function, a machine, a website of a customer's.
pub fn is_strangers(host: &str) -> bool {
    host::is_strangers(host)
}

/// How a credential signs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The region, when it is fixed; else it is told by the request.
    pub region: Option<String>,
    /// The signing name of the service, when it is fixed; else it is told by the request.
    pub service: Option<String>,
    /// How bodies are covered.
    pub payload: Payload,
    /// Headers to sign beside `host`, `content-type` and `x-amz-*`.
    pub signed_headers: Vec<HeaderName>,
}

/// Whether a request is for a service and a region that its binding allows. Its action is another question: that may stand in
/// the body.
///
/// # Errors
/// `cannot_infer` when it is not, or when they cannot be told.
pub fn reaches(settings: &Settings, view: &RequestView<'_>) -> Result<(), Refusal> {
    let target = Target::of(view.path_and_query);
    Scope::of(settings, view, target.presigned.as_ref())?.reaches(view)
}

/// For what a request would be signed, as far as its head tells: the service, the region, and the headers that are set.
///
/// # Errors
/// `cannot_infer`; `bad_request` for a request that cannot be signed.
pub fn foresee(settings: &Settings, view: &RequestView<'_>) -> Result<(String, Vec<String>), Refusal> {
    let target = Target::of(view.path_and_query);
    let scope = Scope::of(settings, view, target.presigned.as_ref())?;
    let mut headers = Cow::Borrowed(view.headers);
    for (name, value) in target.presigned.iter().flat_map(|presigned| &presigned.hoisted) {
        headers.to_mut().append(name, value.clone());
    }
    let judged = scope.foresee(&RequestView { path_and_query: &target.wire, headers: &headers, ..*view })?;
    let how = if scope.asymmetric { "SigV4a" } else { "SigV4" };
    let mut headers = vec!["authorization".to_owned(), "x-amz-date".to_owned()];
    headers.extend(scope.is_s3().then(|| X_AMZ_CONTENT_SHA256.to_string()));
    headers.extend(scope.asymmetric.then(|| X_AMZ_REGION_SET.to_string()));
    let action = if judged { "" } else { "; its action is judged when it is sent" };
    Ok((format!("{how} for {} in {}{action}", scope.service, scope.region), headers))
}

/// Signs with one set of keys.
pub struct Signer {
    identity: Identity,
    settings: Arc<Settings>,
    skew: Arc<Skew>,
    clock: Arc<dyn Clock>,
    /// The key of the last day, region and service, which most requests share.
    day_key: ArcSwapOption<DayKey>,
}

/// A key derived from the secret one for a day, a region and a service.
struct DayKey {
    reach: String,
    key: Zeroizing<[u8; 32]>,
}

impl Signer {
    /// A signer. `skew` is what was learnt of the clock, `clock` is asked inside streams that outlive their first signature.
    ///
    /// # Errors
    /// When a key is not text.
    pub fn new(
        access_key: &str,
        secret_key: &Secret,
        session_token: Option<&Secret>,
        settings: Arc<Settings>,
        skew: Arc<Skew>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, &'static str> {
        let secret_key = secret_key.expose_str().ok_or("the secret key is not text")?;
        let token = session_token.map(|token| token.expose_str().ok_or("the session token is not text")).transpose()?;
        if [Some(access_key), token].into_iter().flatten().any(|text| HeaderValue::from_str(text).is_err()) {
            return Err("a key holds characters that cannot be sent in a header");
        }
        let credentials = Credentials::new(access_key, secret_key, token.map(str::to_owned), None, "countersign");
        Ok(Self { identity: credentials.into(), settings, skew, clock, day_key: ArcSwapOption::empty() })
    }

    /// What is known of a request before its body is.
    fn plan<'a>(&'a self, view: &RequestView<'a>) -> Result<Plan<'a>, Refusal> {
        let Target { wire, presigned } = Target::of(view.path_and_query);
        let scope = Scope::of(&self.settings, view, presigned.as_ref())?;
        let wanted = view.removed.get(X_AMZ_CONTENT_SHA256).map(HeaderValue::as_bytes);
        let wanted = wanted.or(presigned.as_ref().and_then(|presigned| presigned.payload.as_deref()));
        let mode = Mode::of(wanted, self.settings.payload, &scope, view)?;
        let asked = wanted.is_some();
        let hoisted = presigned.map(|presigned| presigned.hoisted).unwrap_or_default();
        let mut headers = Cow::Borrowed(view.headers);
        for (name, value) in &hoisted {
            if headers.to_mut().insert(name, value.clone()).is_some() {
                return Err(Refusal::bad_request(format!("{name} stands in the presigned query and once more")));
            }
        }
        Ok(Plan { wire, headers, hoisted, scope, mode, asked })
    }
}

/// What a signature will be of: the request as it goes out.
struct Plan<'a> {
    wire: Cow<'a, str>,
    headers: Cow<'a, HeaderMap>,
    /// Those of the headers that stood in a presigned query.
    hoisted: Vec<(HeaderName, HeaderValue)>,
    scope: Scope<'a>,
    mode: Mode,
    /// The caller said itself how its body is covered.
    asked: bool,
}

impl Plan<'_> {
    /// The request as it goes out.
    fn sent<'b>(&'b self, view: &RequestView<'b>) -> RequestView<'b> {
        RequestView { path_and_query: &self.wire, headers: &self.headers, ..*view }
    }

    /// Whether the binding allows what goes out.
    fn check(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        let rewritten = matches!(self.mode, Mode::Chunks { .. } | Mode::UnsignedChunks | Mode::Events);
        self.scope.check(&self.sent(view), rewritten)
    }
}

impl Authorizer for Signer {
    fn body_need(&self, view: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
        if view.length == Some(0) && !scope::reads_body(view) {
            // Most requests; whatever is wrong with one is found when it is signed, which is next.
            return Ok(BodyNeed::None);
        }
        let plan = self.plan(view)?;
        let must_read = scope::reads_body(&plan.sent(view));
        // What can be told without the body is refused before it is read.
        if !must_read {
            plan.check(view)?;
        }
        Ok(if must_read || plan.mode == Mode::Whole { BodyNeed::Sha256 } else { BodyNeed::None })
    }

    fn authorize(&self, view: &RequestView<'_>, now: SystemTime) -> Result<Authorized, Refusal> {
        let mut plan = self.plan(view)?;
        plan.check(view)?;
        if plan.scope.is_s3() {
            target::escape_reserved(&mut plan.wire);
        }
        let host = view.destination.host();
        let (mark, time) = (self.skew.seconds(host), self.skew.corrected(now, host));
        let (mut mutations, signature) = self.sign(&plan, &plan.sent(view), time)?;
        let rewrite = match plan.mode {
            Mode::Chunks { .. } => {
                let chunks = Chunks::new(&plan.sent(view), &plan.scope, &self.identity, time, signature)?;
                match chunks.length().filter(|_| view.length.is_some()) {
                    Some(length) => mutations.set.push((CONTENT_LENGTH, length.into())),
                    None => mutations.remove.push(CONTENT_LENGTH),
                }
                Some(chunks.rewrite())
            }
            Mode::Events => {
                mutations.remove.push(CONTENT_LENGTH);
                let clock = (Arc::clone(&self.clock), Arc::clone(&self.skew), host.clone());
                Some(events::rewrite(&plan.scope, &self.identity, clock, signature))
            }
            _ => None,
        };
        mutations.set.append(&mut plan.hoisted);
        if let Cow::Owned(wire) = plan.wire {
            mutations.target = Some(PathAndQuery::try_from(wire).map_err(unsignable)?);
        }
        Ok(Authorized { mutations: Arc::new(mutations), rewrite, mark })
    }

    fn reads_errors(&self) -> bool {
        true
    }

    fn verdict(&self, answer: &AnswerView<'_>, now: SystemTime) -> Verdict {
        self.skew.verdict(answer, now)
    }
}

impl Signer {
    /// The headers that sign, and the signature.
    fn sign(&self, plan: &Plan<'_>, sent: &RequestView<'_>, time: SystemTime) -> Result<(Mutations, String), Refusal> {
        let Plan { scope, mode, .. } = plan;
        let payload = mode.text(sent, scope)?;
        let stamp = stamp(time);
        let untabbed = self.untabbed(sent)?;
        let replaced = |name: &HeaderName| untabbed.iter().any(|(other, _)| other == name);
        let mut headers = vec![("host", sent.destination.authority().as_str()), ("x-amz-date", &*stamp)];
        let given = sent.headers.iter().filter(|(name, _)| self.is_signed(name) && !replaced(name));
        for (name, value) in given.chain(untabbed.iter().map(|(name, value)| (name, value))) {
            let value = value.to_str().map_err(|_| {
                Refusal::bad_request(format!("{name} holds characters that AWS does not sign; percent-encode them"))
            })?;
            headers.push((name.as_str(), value));
        }
        let declares = plan.asked || scope.is_s3() || !matches!(mode, Mode::Whole | Mode::Empty);
        headers.extend(declares.then_some(("x-amz-content-sha256", &*payload)));
        headers.extend(scope.asymmetric.then_some(("x-amz-region-set", &*scope.region)));
        let token = self.keys()?.session_token();
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        let canonical = Canonical {
            method: sent.method.as_str(),
            wire: sent.path_and_query,
            as_it_stands: scope.is_s3(),
            headers,
            payload: &payload,
        };
        let Hashed { hash, signed_headers } = canonical.hashed();
        let (algorithm, reach, signature) = self.signature(scope, time, &stamp, &hash)?;
        let line = [
            algorithm,
            " Credential=",
            self.keys()?.access_key_id(),
            "/",
            &reach,
            ", SignedHeaders=",
            &signed_headers,
            ", Signature=",
            &signature,
        ]
        .concat();
        let mut mutations = Mutations::default();
        let mut set = |name: HeaderName, value: &str, sensitive: bool| -> Result<(), Refusal> {
            let mut value = HeaderValue::from_str(value).map_err(unsignable)?;
            value.set_sensitive(sensitive);
            mutations.set.push((name, value));
            Ok(())
        };
        set(AUTHORIZATION, &line, true)?;
        set(X_AMZ_DATE, &stamp, false)?;
        if declares {
            set(X_AMZ_CONTENT_SHA256, &payload, false)?;
        }
        if scope.asymmetric {
            set(X_AMZ_REGION_SET, &scope.region, false)?;
        }
        if let Some(token) = token {
            set(X_AMZ_SECURITY_TOKEN, token, true)?;
        }
        mutations.set.extend(untabbed);
        Ok((mutations, signature))
    }

    /// The algorithm, what the signature reaches to, and the signature over the hash of a canonical request.
    fn signature(
        &self,
        scope: &Scope<'_>,
        time: SystemTime,
        stamp: &str,
        hash: &str,
    ) -> Result<(&'static str, String, String), Refusal> {
        let day = stamp.get(..8).unwrap_or_default();
        let keys = self.keys()?;
        let Scope { service, region, .. } = scope;
        if scope.asymmetric {
            let algorithm = "AWS4-ECDSA-P256-SHA256";
            let reach = [day, "/", service, "/aws4_request"].concat();
            let text = [algorithm, "\n", stamp, "\n", &reach, "\n", hash].concat();
            let key = v4a::generate_signing_key(keys.access_key_id(), keys.secret_access_key());
            return Ok((algorithm, reach, v4a::calculate_signature(key, text.as_bytes())));
        }
        let algorithm = "AWS4-HMAC-SHA256";
        let reach = [day, "/", region, "/", service, "/aws4_request"].concat();
        let text = [algorithm, "\n", stamp, "\n", &reach, "\n", hash].concat();
        let known = self.day_key.load();
        if let Some(key) = known.as_ref().filter(|key| key.reach == reach) {
            return Ok((algorithm, reach, v4::calculate_signature(key.key.as_slice(), text.as_bytes())));
        }
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(v4::generate_signing_key(keys.secret_access_key(), time, region, service).as_ref());
        let signature = v4::calculate_signature(key.as_slice(), text.as_bytes());
        self.day_key.store(Some(Arc::new(DayKey { reach: reach.clone(), key })));
        Ok((algorithm, reach, signature))
    }

    fn keys(&self) -> Result<&Credentials, Refusal> {
        self.identity.data::<Credentials>().ok_or_else(|| unsignable("there are no keys"))
    }

    fn is_signed(&self, name: &HeaderName) -> bool {
        *name == CONTENT_TYPE || name.as_str().starts_with("x-amz-") || self.settings.signed_headers.contains(name)
    }

    /// Signed headers with tabs, with spaces in their place: signers differ in what becomes of a tab, and none in what
    /// becomes of a space.
    fn untabbed(&self, sent: &RequestView<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
        let with_tab =
            sent.headers.iter().filter(|(name, value)| value.as_bytes().contains(&b'\t') && self.is_signed(name));
        let spaced = with_tab.map(|(name, value)| {
            if sent.headers.get_all(name).iter().nth(1).is_some() {
                return Err(Refusal::bad_request(format!("{name} is repeated and holds a tab, which is not signed")));
            }
            let bytes: Vec<u8> =
                value.as_bytes().iter().map(|byte| if *byte == b'\t' { b' ' } else { *byte }).collect();
            Ok((name.clone(), HeaderValue::from_bytes(&bytes).map_err(unsignable)?))
        });
        spaced.collect()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What the signing library does not take.
fn unsignable(error: impl fmt::Display) -> Refusal {
    Refusal::bad_request(format!("the request cannot be signed for AWS: {error}"))
}

/// Numbers below what is asked, the same in every run.
#[cfg(test)]
fn generator(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::base::{Deps, Destination, Narrowing};

    fn signer() -> Signer {
        let settings = Arc::new(Settings { region: Some("us-east-1".into()), ..Settings::default() });
        let clock = Deps::system().clock;
        Signer::new("AKIDEXAMPLE", &Secret::new("secret"), None, settings, Arc::default(), clock).unwrap()
    }

    fn authorize(url: &str, headers: &HeaderMap, removed: &HeaderMap) -> Result<Authorized, Refusal> {
        let uri: http::Uri = url.parse().unwrap();
        let destination = Destination::from_absolute(&uri).unwrap();
        let view = RequestView {
            method: &Method::POST,
            path_and_query: uri.path_and_query().unwrap().as_str(),
            headers,
            removed,
            destination: &destination,
            length: Some(0),
            body: None,
            narrowing: None,
        };
        signer().body_need(&view)?;
        signer().authorize(&view, SystemTime::UNIX_EPOCH)
    }

    fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
        (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    }

    #[test]
    fn whatever_a_request_holds_it_is_signed_or_refused() {
        let mut next = generator(0x9e37_79b9_7f4a_7c15);
        let words = [
            "/",
            "//",
            "..",
            ".",
            "%2F",
            "%",
            "%zz",
            "%FF",
            "+",
            "&",
            "=",
            "?",
            ";",
            ":",
            "\u{e9}",
            "a",
            "A1-_~",
            "@",
            "'",
            "X-Amz-Signature=0",
            "&X-Amz-Credential=a%2F20260101%2Fr%2Fs3%2Faws4_request",
            "&x-amz-acl=\u{e9}",
            "&x-amz-=",
            "&Signature=1&AWSAccessKeyId=2",
            "*",
            "(",
            "!",
            "$",
            ",",
            "&X-Amz-Target=x",
            "&x-amz-a=%0d%0a",
        ];
        let values = [
            "",
            " ",
            "\t",
            "a\tb",
            "a  b",
            "\u{e9}",
            "\"x\"",
            ",",
            "AWS4-HMAC-SHA256 Credential=",
            "/aws4_request",
            "AWS4-ECDSA-P256-SHA256 Credential=k/20260101/s3/aws4_request",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "*",
        ];
        let names =
            ["x-amz-a", "x-amz-meta-", "content-type", "x-amz-target", "x-amz-decoded-content-length", "x-amz-trailer"];
        let owned = ["authorization", "x-amz-content-sha256", "x-amz-region-set", "x-amz-date"];
        let hosts =
            ["s3.us-east-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com", "a.mrap.accesspoint.s3-global.amazonaws.com"];
        let (mut signed, mut refused) = (0, 0);
        for _ in 0..4000 {
            let path: String = (0..next(8)).map(|_| words[next(words.len())]).collect();
            let Ok(uri) = format!("https://{}/{path}", hosts[next(hosts.len())]).parse::<http::Uri>() else { continue };
            let (mut headers, mut removed) = (HeaderMap::new(), HeaderMap::new());
            for (names, map) in [(&names[..], &mut headers), (&owned, &mut removed)] {
                for _ in 0..next(3) {
                    let (name, value) = header(names[next(names.len())], values[next(values.len())]);
                    map.append(name, value);
                }
            }
            match authorize(&uri.to_string(), &headers, &removed) {
                Ok(authorized) => {
                    signed += 1;
                    let mut parts = http::Request::builder().uri(uri).body(()).unwrap().into_parts().0;
                    parts.headers = headers;
                    authorized.mutations.apply(&mut parts).unwrap();
                    assert_eq!(parts.headers.get_all(AUTHORIZATION).iter().count(), 1);
                    let query = parts.uri.query().unwrap_or_default();
                    assert!(!query.split('&').any(|pair| pair.starts_with("X-Amz-Signature=")), "{}", parts.uri);
                }
                Err(refusal) => {
                    refused += 1;
                    assert_eq!(refusal.status, 400, "{refusal}");
                }
            }
        }
        assert!(signed > 1000 && refused > 200, "{signed} {refused}");
    }

    #[test]
    fn signatures_are_those_that_the_library_makes_of_the_same_request() {
        use aws_sigv4::http_request as library;

        let seeds = [
            "/", "a", "B9", "-_.~", "%2F", "%c3%a9", ":", "@", "+", "%20", "!$'()*", "//", "x", "=", "&", "?q=1&", ";",
        ];
        let mut next = generator(0x0123_4567_89ab_cdef);
        let mut compared = 0;
        for _ in 0..3000 {
            let path: String = (0..next(9)).map(|_| seeds[next(seeds.len())]).collect();
            let host = ["s3.us-east-1.amazonaws.com", "iam.us-east-1.amazonaws.com"][next(2)];
            let Ok(uri) = format!("https://{host}/{path}").parse::<http::Uri>() else { continue };
            let given = HeaderMap::from_iter([
                header("content-type", ["text/plain", " a   b "][next(2)]),
                header("x-amz-meta-a", ["1", "", "a  b,c", "~"][next(4)]),
            ]);
            let authorized = authorize(&uri.to_string(), &given, &HeaderMap::new()).unwrap();
            let set = |name: &HeaderName| {
                let found = authorized.mutations.set.iter().find(|(other, _)| other == name);
                found.map(|(_, value)| value.to_str().unwrap().to_owned())
            };
            let wire =
                authorized.mutations.target.as_ref().map_or(uri.path_and_query().unwrap().as_str(), |t| t.as_str());
            let s3 = host.starts_with("s3");
            let mut settings = library::SigningSettings::default();
            settings.excluded_headers = None;
            if s3 {
                settings.percent_encoding_mode = library::PercentEncodingMode::Single;
                settings.uri_path_normalization_mode = library::UriPathNormalizationMode::Disabled;
                settings.payload_checksum_kind = library::PayloadChecksumKind::XAmzSha256;
            }
            let signer = signer();
            let params = v4::SigningParams::builder().identity(&signer.identity).region("us-east-1");
            let params = params.name(if s3 { "s3" } else { "iam" }).time(SystemTime::UNIX_EPOCH).settings(settings);
            let params = params.build().unwrap().into();
            let headers = given.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
            let body = library::SignableBody::Bytes(b"");
            let request =
                library::SignableRequest::new("POST", format!("https://{host}{wire}"), headers, body).unwrap();
            let theirs = library::sign(request, &params).unwrap().into_parts().0;
            let theirs: Vec<_> = theirs.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            for (name, value) in theirs {
                assert_eq!(set(&name.parse().unwrap()), Some(value), "{name} of {host}{wire}");
            }
            compared += 1;
        }
        assert!(compared > 2000, "{compared}");
    }

    #[test]
    fn a_header_that_stands_in_the_presigned_query_as_well_is_refused() {
        let url = "https://b.s3.us-east-1.amazonaws.com/k?X-Amz-Signature=0&X-Amz-Acl=public-read";
        let given = HeaderMap::from_iter([header("x-amz-acl", "private")]);
        assert!(authorize(url, &given, &HeaderMap::new()).unwrap_err().detail.contains("once more"));
        let authorized = authorize(url, &HeaderMap::new(), &HeaderMap::new()).unwrap();
        let set = &authorized.mutations.set;
        assert!(set.iter().any(|(name, value)| name == "x-amz-acl" && value == "public-read"), "{set:?}");
        let twice = format!("{url}&x-amz-acl=private");
        assert!(authorize(&twice, &HeaderMap::new(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn an_action_in_a_presigned_query_is_judged_like_one_in_a_header() {
        let url = "https://dynamodb.us-east-1.amazonaws.com/?Action=DescribeTable&X-Amz-Signature=0&\
                   X-Amz-Target=DynamoDB_20120810.DeleteTable";
        let uri: http::Uri = url.parse().unwrap();
        let destination = Destination::from_absolute(&uri).unwrap();
        let headers = HeaderMap::from_iter([header("content-type", "application/x-amz-json-1.0")]);
        let narrowing = Narrowing { actions: vec!["DescribeTable".into()], ..Narrowing::default() };
        let removed = HeaderMap::new();
        let view = RequestView {
            method: &Method::POST,
            path_and_query: uri.path_and_query().unwrap().as_str(),
            headers: &headers,
            removed: &removed,
            destination: &destination,
            length: Some(2),
            body: None,
            narrowing: Some(&narrowing),
        };
        assert!(signer().body_need(&view).unwrap_err().detail.contains("more than one"));
        assert!(signer().authorize(&view, SystemTime::UNIX_EPOCH).is_err());
    }

    #[test]
    fn a_tab_is_signed_and_sent_as_a_space() {
        let url = "https://b.s3.us-east-1.amazonaws.com/k";
        let sent = |value: &str| {
            let given = HeaderMap::from_iter([header("x-amz-meta-a", value)]);
            authorize(url, &given, &HeaderMap::new()).unwrap().mutations
        };
        let tabbed = sent("a\tb");
        assert!(tabbed.set.iter().any(|(name, value)| name == "x-amz-meta-a" && value == "a b"), "{tabbed:?}");
        let signature = |mutations: &Mutations| mutations.set.iter().find(|(name, _)| name == AUTHORIZATION).cloned();
        assert_eq!(signature(&tabbed), signature(&sent("a b")));
    }
}
