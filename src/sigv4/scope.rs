//! For which service and region a request is signed, and whether its binding allows that.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Method};
use url::form_urlencoded;

use super::target::Presigned;
use super::{Settings, X_AMZ_REGION_SET, actions, host};
use crate::base::{Code, Narrowing, Refusal, RequestView};

/// What a signature is scoped to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope<'a> {
    /// The signing name of the service.
    pub(super) service: Cow<'a, str>,
    /// The region; for SigV4a the set of regions, such as `*`.
    pub(super) region: Cow<'a, str>,
    /// SigV4a signs.
    pub(super) asymmetric: bool,
    /// What the host alone tells: a client's claim does not widen what a binding allows.
    told: Option<(Cow<'a, str>, Cow<'a, str>)>,
}

/// The scope of the signature that the caller's SDK made with its worthless keys.
struct Claim<'a> {
    service: &'a str,
    region: Option<&'a str>,
    asymmetric: bool,
}

impl<'a> Scope<'a> {
    /// The credential's own settings, then the caller's signature, then the host.
    ///
    /// # Errors
    /// `cannot_infer`.
    pub(super) fn of(
        settings: &'a Settings,
        view: &RequestView<'a>,
        presigned: Option<&Presigned>,
    ) -> Result<Self, Refusal> {
        let signed = view.removed.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let set = view.removed.get(X_AMZ_REGION_SET).and_then(|value| value.to_str().ok());
        let claim = signed.and_then(|line| Claim::of_header(line, set));
        let told = match view.destination.host().name() {
            Some(name) => host::infer(name),
            None => Err("an address names no service of AWS"),
        };
        let needed = |what: &str, told: Result<Cow<'a, str>, &'static str>| {
            told.map_err(|why| {
                let host = view.destination.host();
                let advice = match () {
                    () if why.contains("no AWS signature") => "it is not to be called with AWS credentials",
                    () if why.contains("region") => "set `region` on the credential, or let the client sign",
                    () => "set `service` and `region` on the credential, or let the client sign",
                };
                Refusal::new(Code::CannotInfer, format!("the {what} cannot be told from {host} ({why}); {advice}"))
            })
        };
        let of_host = || told.as_ref().map_err(|why| *why);
        let presigned = presigned.and_then(Claim::of_presigned);
        let asymmetric = claim.as_ref().is_some_and(|claim| claim.asymmetric)
            || presigned.as_ref().is_some_and(|claim| claim.asymmetric)
            || told.as_ref().is_ok_and(|told| told.asymmetric);
        let claimed = |part: fn(&Claim<'a>) -> Option<&'a str>| claim.as_ref().and_then(part).map(Cow::Borrowed);
        let queried = |part: fn(&Claim<'_>) -> Option<String>| presigned.as_ref().and_then(part).map(Cow::Owned);
        let service = match (&settings.service, claimed(|claim| Some(claim.service))) {
            (Some(fixed), _) => Cow::Borrowed(fixed.as_str()),
            (None, Some(claimed)) => claimed,
            (None, None) => match queried(|claim| Some(claim.service.to_owned())) {
                Some(queried) => queried,
                None => needed("service", of_host().map(|told| told.service.clone()))?,
            },
        };
        let region = match (&settings.region, claimed(|claim| claim.region)) {
            (Some(fixed), _) => Cow::Borrowed(fixed.as_str()),
            (None, Some(claimed)) => claimed,
            (None, None) => match queried(|claim| claim.region.map(str::to_owned)) {
                Some(queried) => queried,
                None => needed("region", of_host().map(|told| told.region.clone()))?,
            },
        };
        let told = told.ok().map(|told| (told.service, told.region));
        // An API of a customer's gets no signature that is good for another service: it could be used there.
        if let Some((name, (real, _))) = view.destination.host().name().zip(told.as_ref())
            && host::is_strangers(name)
            && settings.service.is_none()
            && *real != service
        {
            let why = format!("the client signed for {service}, and {name} is {real}");
            return Err(Refusal::new(Code::CannotInfer, why));
        }
        Ok(Self { service, region, asymmetric, told })
    }

    /// A scope that no request was read for.
    #[cfg(test)]
    pub(super) fn for_tests(service: &'a str, region: &'a str) -> Self {
        Self { service: service.into(), region: region.into(), asymmetric: false, told: None }
    }

    /// S3 and its kin: one encoding of the path, without normalisation, and a header that says how the body is covered.
    pub(super) fn is_s3(&self) -> bool {
        matches!(&*self.service, "s3" | "s3express" | "s3-object-lambda" | "s3-outposts")
    }

    /// Whether the binding allows it. `view` is the request as it goes out, `rewritten` says that its body is wrapped, so that
    /// no action can be read from it.
    ///
    /// # Errors
    /// `cannot_infer` for what is outside.
    pub(super) fn check(&self, view: &RequestView<'_>, rewritten: bool) -> Result<(), Refusal> {
        self.reaches(view)?;
        let actions = view.narrowing.map(|narrowing| &narrowing.actions[..]).unwrap_or_default();
        if actions.is_empty() {
            return Ok(());
        }
        let action = self.action(view, rewritten)?;
        let allowed = actions.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => action.starts_with(beginning),
            None => *allowed == action,
        });
        if allowed { Ok(()) } else { Err(outside("action", &action, "actions", actions)) }
    }

    /// Whether the binding allows the service and the region.
    ///
    /// # Errors
    /// `cannot_infer` for what is outside.
    pub(super) fn reaches(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        let Some(narrowing) = view.narrowing else { return Ok(()) };
        let told = self.told.as_ref();
        let services = [Some(&self.service), told.map(|(service, _)| service)];
        let allowed = |name: &str, list: &[String]| {
            list.is_empty() || list.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
        };
        if let Some(name) = services.into_iter().flatten().find(|name| !allowed(name, &narrowing.services)) {
            return Err(outside("service", name, "services", &narrowing.services));
        }
        // A set of regions is inside when each of them is.
        // The host of every region's buckets says nothing of a bucket's region; the client does.
        let name = view.destination.host().name().unwrap_or_default();
        let global = name.strip_suffix("s3.amazonaws.com").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let regions = [Some(&self.region), told.map(|(_, region)| region).filter(|_| !global)];
        let mut regions = regions.into_iter().flatten().flat_map(|set| set.split(',').map(str::trim));
        if let Some(name) = regions.find(|name| !allowed(name, &narrowing.regions)) {
            return Err(outside("region", name, "regions", &narrowing.regions));
        }
        Ok(())
    }

    /// The same before there is a body; says whether the action could be judged, if only some are allowed.
    ///
    /// # Errors
    /// As [`Scope::check`].
    pub(super) fn foresee(&self, view: &RequestView<'_>) -> Result<bool, Refusal> {
        let told = self.told.as_ref().map_or(&self.service, |(service, _)| service);
        if reads_body(view) && actions::names_actions(&self.service) && actions::names_actions(told) {
            return self.reaches(view).map(|()| false);
        }
        let length = view.length.or((*view.method != Method::POST).then_some(0));
        self.check(&RequestView { length, ..*view }, false).map(|()| true)
    }

    /// The action of a request to an API that names it.
    fn action(&self, view: &RequestView<'_>, rewritten: bool) -> Result<String, Refusal> {
        let unknown = |why: &str| {
            let why = format!("the binding allows only some `actions`, and {why}");
            Refusal::new(Code::CannotInfer, why)
        };
        let told = self.told.as_ref().map_or(&self.service, |(service, _)| service);
        if !actions::names_actions(&self.service) || !actions::names_actions(told) {
            let why = format!("requests to {} do not name theirs; narrow it by `methods` and `paths`", self.service);
            return Err(unknown(&why));
        }
        // What two servers could read in two ways is refused.
        let empty = view.length == Some(0);
        let plain = match *view.method {
            Method::GET | Method::HEAD => empty,
            Method::POST => !rewritten,
            _ => false,
        };
        if !plain
            || view.headers.contains_key(CONTENT_ENCODING)
            || view.headers.get_all(CONTENT_TYPE).iter().nth(1).is_some()
        {
            return Err(unknown("this request is not one of those that such APIs have"));
        }
        let (path, query) = view.path_and_query.split_once('?').unwrap_or((view.path_and_query, ""));
        // Whatever names an action counts, so that two servers cannot be meant by one request.
        let mut found: Vec<String> = Vec::new();
        match rpc_operation(path) {
            Some(operation) if view.headers.contains_key("smithy-protocol") => found.push(operation.to_owned()),
            None if path == "/" => {}
            _ => return Err(unknown("this path is none of an API that names its actions")),
        }
        let targets = view.headers.get_all("x-amz-target").iter().map(|value| value.to_str().unwrap_or_default());
        found.extend(targets.map(|target| target.rsplit('.').next().unwrap_or_default().to_owned()));
        let named = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name == "Action").then(|| value.into_owned());
        found.extend(form_urlencoded::parse(query.as_bytes()).filter_map(named));
        if *view.method == Method::POST && is_form(view) {
            let body = view.body.and_then(|body| body.whole.as_ref());
            let body = body.ok_or_else(|| unknown("this form is too large to be looked at"))?;
            found.extend(form_urlencoded::parse(body).filter_map(named));
        }
        match &found[..] {
            [action] if is_action(action) => Ok(action.clone()),
            [_] => Err(unknown("what this request names is none")),
            [] => Err(unknown("this request names none")),
            _ => Err(unknown("this request names more than one")),
        }
    }
}

/// What is wrong with a request that is outside what its binding allows, and where to add it.
fn outside(what: &str, name: &str, key: &str, list: &[String]) -> Refusal {
    let list = list.join(", ");
    let why = format!("{what} {name} is not among the binding's `{key}` ({list}); add it there to allow this");
    Refusal::new(Code::CannotInfer, why)
}

fn is_action(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the action stands in the body, which then has to be read whatever covers it.
pub(super) fn reads_body(view: &RequestView<'_>) -> bool {
    view.narrowing.is_some_and(|narrowing: &Narrowing| !narrowing.actions.is_empty())
        && *view.method == Method::POST
        && is_form(view)
}

/// Whatever is not said to be something else may be read as a form.
fn is_form(view: &RequestView<'_>) -> bool {
    match view.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        None => true,
        Some(kind) => {
            !kind.to_ascii_lowercase().starts_with(b"application/x-amz-json")
                && !kind.to_ascii_lowercase().starts_with(b"application/cbor")
        }
    }
}

/// The operation of Smithy's RPC protocol: `/service/NAME/operation/NAME`.
fn rpc_operation(path: &str) -> Option<&str> {
    let (service, operation) = path.strip_prefix("/service/")?.split_once("/operation/")?;
    (!service.contains('/') && !operation.contains('/')).then_some(operation)
}

impl<'a> Claim<'a> {
    /// Reads `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …`.
    fn of_header(line: &'a str, region_set: Option<&'a str>) -> Option<Self> {
        let asymmetric = line.starts_with("AWS4-ECDSA-P256-SHA256 ");
        if !asymmetric && !line.starts_with("AWS4-HMAC-SHA256 ") {
            return None;
        }
        let (_, credential) = line.split_once("Credential=")?;
        Self::of_credential(credential.split(',').next()?.trim(), asymmetric, region_set)
    }

    fn of_presigned(presigned: &'a Presigned) -> Option<Self> {
        Self::of_credential(presigned.credential.as_deref()?, presigned.asymmetric, presigned.region_set.as_deref())
    }

    fn of_credential(credential: &'a str, asymmetric: bool, region_set: Option<&'a str>) -> Option<Self> {
        let mut parts = credential.rsplit('/');
        if parts.next() != Some("aws4_request") {
            return None;
        }
        let service = parts.next().filter(|name| is_plain(name))?;
        let region = if asymmetric {
            let plain = |set: &&str| set.split(',').map(str::trim).all(|name| name.contains('*') || is_plain(name));
            region_set.filter(plain)
        } else {
            Some(parts.next().filter(|name| is_plain(name))?)
        };
        parts.next().filter(|date| date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some(Self { service, region, asymmetric })
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::{HeaderMap, HeaderName};

    use super::super::target::Target;
    use super::*;
    use crate::base::Destination;
    use crate::base::request::BodyDigest;

    struct Call<'a> {
        method: &'a str,
        url: &'a str,
        headers: &'a [(&'a str, &'a str)],
        body: &'a str,
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        pairs.collect::<HashMap<_, _>>().into_iter().collect()
    }

    /// `service/region`, with `*` after it for SigV4a; or why not.
    fn scoped(settings: &Settings, call: Call<'_>, narrowing: Option<&Narrowing>) -> Result<String, String> {
        let uri: http::Uri = call.url.parse().unwrap();
        let destination = Destination::from_absolute(&uri).unwrap();
        let all = headers(call.headers);
        let (mut sent, mut removed) = (HeaderMap::new(), HeaderMap::new());
        for (name, value) in &all {
            let into = if super::super::OWNED_HEADERS.contains(name) { &mut removed } else { &mut sent };
            into.insert(name, value.clone());
        }
        let whole = Some(bytes::Bytes::copy_from_slice(call.body.as_bytes()));
        let digest = BodyDigest { sha256: [0; 32], further: None, length: call.body.len() as u64, whole };
        let method = call.method.parse().unwrap();
        let view = RequestView {
            method: &method,
            path_and_query: uri.path_and_query().unwrap().as_str(),
            headers: &sent,
            removed: &removed,
            destination: &destination,
            length: Some(digest.length),
            body: Some(&digest),
            narrowing,
        };
        let target = Target::of(view.path_and_query);
        let why = |refusal: Refusal| {
            assert_eq!(refusal.code, Code::CannotInfer);
            refusal.detail.into_owned()
        };
        let scope = Scope::of(settings, &view, target.presigned.as_ref()).map_err(why)?;
        scope.check(&view, false).map_err(why)?;
        Ok(format!("{}/{}{}", scope.service, scope.region, if scope.asymmetric { "*" } else { "" }))
    }

    fn get<'a>(url: &'a str, headers: &'a [(&'a str, &'a str)]) -> Call<'a> {
        Call { method: "GET", url, headers, body: "" }
    }

    const SIGNED: (&str, &str) =
        ("authorization", "AWS4-HMAC-SHA256 Credential=AK/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host");

    #[test]
    fn the_credential_is_asked_first_then_the_callers_signature_then_the_host() {
        let inferred = Settings::default();
        let fixed = Settings { region: Some("cn-hangzhou".into()), service: Some("oss".into()), ..Settings::default() };
        let told = |settings: &Settings, call: Call<'_>| scoped(settings, call, None).unwrap();
        let host = "https://sqs.us-east-2.amazonaws.com/";
        assert_eq!(told(&inferred, get(host, &[])), "sqs/us-east-2");
        assert_eq!(told(&inferred, get(host, &[SIGNED])), "s3/eu-west-1");
        assert_eq!(told(&fixed, get(host, &[SIGNED])), "oss/cn-hangzhou");
        let half = Settings { service: Some("s3".into()), ..Settings::default() };
        assert_eq!(told(&half, get(host, &[])), "s3/us-east-2");
        assert_eq!(told(&half, get("https://minio.test/b", &[SIGNED])), "s3/eu-west-1");
        let presigned =
            "https://minio.test/b?X-Amz-Credential=AK%2F20260101%2Feu-west-3%2Fs3%2Faws4_request&X-Amz-Signature=0";
        assert_eq!(told(&inferred, get(presigned, &[])), "s3/eu-west-3");
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_the_key_to_set() {
        let why = scoped(&Settings::default(), get("https://minio.test/b", &[]), None).unwrap_err();
        assert!(why.contains("minio.test") && why.contains("set `service` and `region`"), "{why}");
        let half = Settings { service: Some("s3".into()), ..Settings::default() };
        let why = scoped(&half, get("https://192.0.2.1/b", &[]), None).unwrap_err();
        assert!(why.contains("region cannot be told"), "{why}");
        let why = scoped(&Settings::default(), get("https://b.s3-accelerate.amazonaws.com/", &[]), None).unwrap_err();
        assert!(why.contains("set `region` on"), "{why}");
        for line in [
            "AWS AK:signature",
            "Bearer x",
            "AWS4-HMAC-SHA256 Credential=AK/20260101/eu west/s3/aws4_request",
            "AWS4-HMAC-SHA256 Credential=AK/s3/aws4_request",
            "AWS4-ECDSA-P256-SHA256 Credential=AK/20260101/s3/aws4_request",
        ] {
            let call = [("authorization", line)];
            assert!(scoped(&Settings::default(), get("https://minio.test/", &call), None).is_err(), "{line}");
        }
    }

    #[test]
    fn the_asymmetric_form_is_used_where_the_caller_used_it_and_where_the_host_wants_it() {
        let line = "AWS4-ECDSA-P256-SHA256 Credential=AK/20260101/s3/aws4_request, SignedHeaders=host";
        let call = [("authorization", line), ("x-amz-region-set", "us-west-2,eu-*")];
        let told = |call: Call<'_>| scoped(&Settings::default(), call, None).unwrap();
        assert_eq!(told(get("https://b.s3.us-west-2.amazonaws.com/", &call)), "s3/us-west-2,eu-**");
        let alias = "https://mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com/";
        assert_eq!(told(get(alias, &[])), "s3/**");
        assert_eq!(told(get("https://b.s3.us-west-2.amazonaws.com/", &[SIGNED])), "s3/eu-west-1");
    }

    #[test]
    fn a_binding_narrows_services_and_regions_whatever_the_caller_claims() {
        let narrowing =
            Narrowing { services: vec!["s3".into()], regions: vec!["eu-west-1".into()], ..Narrowing::default() };
        let judge =
            |url: &str, headers: &[(&str, &str)]| scoped(&Settings::default(), get(url, headers), Some(&narrowing));
        assert!(judge("https://b.s3.eu-west-1.amazonaws.com/", &[]).is_ok());
        assert!(judge("https://b.s3.eu-west-1.amazonaws.com/", &[SIGNED]).is_ok());
        assert!(judge("https://sqs.eu-west-1.amazonaws.com/", &[]).unwrap_err().contains("service sqs"));
        assert!(judge("https://b.s3.us-west-2.amazonaws.com/", &[]).unwrap_err().contains("region us-west-2"));
        assert!(judge("https://b.s3.us-west-2.amazonaws.com/", &[SIGNED]).is_err(), "the host is there");
        for bucket in ["b", "logs-us-east-1", "us-east-1"] {
            let url = format!("https://{bucket}.s3.amazonaws.com/");
            assert!(judge(&url, &[SIGNED]).is_ok(), "{url} may be anywhere");
        }
        assert!(judge("https://iam.amazonaws.com/", &[SIGNED]).unwrap_err().contains("service iam"), "a claim");
        let odd = Narrowing { services: vec!["iotsecuredtunneling".into()], ..Narrowing::default() };
        let tunneling = get("https://api.tunneling.iot.us-east-1.amazonaws.com/", &[]);
        assert!(scoped(&Settings::default(), tunneling, Some(&odd)).is_ok(), "names are written in lower case");
    }

    #[test]
    fn a_customers_api_gets_no_signature_for_another_service() {
        let url = "https://abc123.execute-api.eu-west-1.amazonaws.com/x";
        assert_eq!(scoped(&Settings::default(), get(url, &[]), None).unwrap(), "execute-api/eu-west-1");
        let why = scoped(&Settings::default(), get(url, &[SIGNED]), None).unwrap_err();
        assert!(why.contains("signed for s3"), "{why}");
    }

    #[test]
    fn a_binding_narrows_the_actions_of_query_and_json_apis() {
        let narrowing = Narrowing { actions: vec!["Describe*".into(), "GetItem".into()], ..Narrowing::default() };
        let judge = |method: &str, url: &str, headers: &[(&str, &str)], body: &str| {
            scoped(&Settings::default(), Call { method, url, headers, body }, Some(&narrowing))
        };
        let ec2 = "https://ec2.us-east-1.amazonaws.com/";
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let json = ("content-type", "application/x-amz-json-1.0");
        let get_item = ("x-amz-target", "DynamoDB_20120810.GetItem");
        let dynamo = "https://dynamodb.us-east-1.amazonaws.com/";
        assert!(judge("POST", ec2, &[form], "Action=DescribeInstances&Version=2016-11-15").is_ok());
        assert!(judge("GET", "https://ec2.us-east-1.amazonaws.com/?Action=DescribeRegions", &[], "").is_ok());
        assert!(judge("POST", dynamo, &[json, get_item], "{}").is_ok());
        let refused = [
            (judge("POST", ec2, &[form], "Action=TerminateInstances"), "action TerminateInstances"),
            (judge("POST", ec2, &[form], "Version=1"), "names none"),
            (judge("POST", ec2, &[form], "Action=DescribeRegions&Action=RunInstances"), "more than one"),
            (judge("POST", ec2, &[form, get_item], "Action=RunInstances"), "more than one"),
            (judge("POST", ec2, &[get_item], "Action=RunInstances"), "more than one"),
            (judge("POST", dynamo, &[json, ("x-amz-target", "D.DeleteTable")], "{}"), "action DeleteTable"),
            (judge("PUT", "https://b.s3.us-east-1.amazonaws.com/", &[get_item], ""), "methods"),
            (judge("POST", "https://ec2.us-east-1.amazonaws.com/x", &[form], "Action=DescribeX"), "path"),
            (judge("PUT", ec2, &[form], "Action=DescribeX"), "not one of those"),
            (judge("GET", "https://ec2.us-east-1.amazonaws.com/?Action=DescribeX", &[form], "Action=RunX"), "not one"),
            (judge("POST", ec2, &[form, ("content-encoding", "gzip")], "Action=DescribeX"), "not one of those"),
            (judge("POST", ec2, &[form], "Action=Describe%2F..%2FRunInstances"), "is none"),
        ];
        for (judged, why) in refused {
            let said = judged.unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let rpc = "https://monitoring.us-east-1.amazonaws.com/service/GraniteServiceVersion20100801/operation/";
        let cbor = [("smithy-protocol", "rpc-v2-cbor"), ("content-type", "application/cbor")];
        assert!(judge("POST", &format!("{rpc}DescribeAlarms"), &cbor, "").is_ok());
        assert!(judge("POST", &format!("{rpc}DeleteAlarms"), &cbor, "").is_err());
        assert!(judge("POST", &format!("{rpc}DescribeAlarms"), &cbor[1..], "Action=DeleteAlarms").is_err());
        assert!(judge("POST", &format!("{rpc}DescribeAlarms"), &cbor[..1], "Action=DeleteAlarms").is_err());
    }
}
