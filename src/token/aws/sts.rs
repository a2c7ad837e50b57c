//! Requests to STS and their answers, which are XML.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/welcome.html>, version 2011-06-15.

use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use serde::Deserialize;
use url::form_urlencoded;

use super::keys::{Issued, Keys, moment};
use super::role::Role;
use super::sts_error::{Asked, Said, StsError};
use crate::base::{Destination, Host, HttpClient, Secret};
use crate::token::FailureKind;
use crate::token::exchange::{retry_after, scrubbed};

const VERSION: &str = "2011-06-15";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// One STS, and what requests to it are signed for.
#[derive(Debug, Clone)]
pub struct Sts {
    endpoint: Destination,
    http: Arc<dyn HttpClient>,
    region: String,
}

/// Whose keys they are.
///
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerIdentity {
    /// The account, 12 digits.
    pub account: String,
    /// The user, role session or account.
    pub arn: String,
    /// The unique id of the same.
    pub user_id: String,
}

impl Sts {
    /// The STS at an endpoint, called by a client that was made for it. The region is the one to sign for.
    pub fn new(endpoint: Destination, http: Arc<dyn HttpClient>, region: impl Into<String>) -> Self {
        Self { endpoint, http, region: region.into() }
    }

    /// Whom it calls.
    pub fn host(&self) -> &Host {
        self.endpoint.host()
    }

    /// The keys of a session of a role, asked for with other keys. `now` is the time by AWS's clock.
    ///
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
    ///
    /// # Errors
    /// What STS said and what to change; or that the role breaks a rule, before anything is sent.
    pub async fn assume_role(&self, role: &Role, keys: &Keys, now: SystemTime) -> Result<Issued, StsError> {
        check(role)?;
        let form = Form::new("AssumeRole").role(role).session(role);
        let mut secrets = keys.secrets();
        secrets.extend(role.external_id.as_deref().map(Secret::new));
        let answer = self.ask(form, Some(keys), secrets, Asked::Role(role), now).await?;
        answer.issued("AssumeRole", &self.endpoint)
    }

    /// The keys of a session of a role, asked for with a token (a JWT) of an identity provider. Not signed.
    ///
    /// Session tags and the source identity come from the token: those of the role, and its external id, are not sent.
    ///
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>
    ///
    /// # Errors
    /// What STS said and what to change; or that the role or the token breaks a rule, before anything is sent.
    pub async fn assume_role_with_web_identity(
        &self,
        role: &Role,
        token: &Secret,
        now: SystemTime,
    ) -> Result<Issued, StsError> {
        check(role)?;
        let text = token
            .expose_str()
            .filter(|text| (4..=20_000).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
        let Some(text) = text else {
            let why = "the web identity token file does not hold a token: 4 to 20000 characters without white space";
            return Err(StsError::other(FailureKind::Rejected, why));
        };
        let form = Form::new("AssumeRoleWithWebIdentity").role(role).with("WebIdentityToken", text);
        let answer = self.ask(form, None, vec![token.clone()], Asked::RoleByToken(role), now).await?;
        answer.issued("AssumeRoleWithWebIdentity", &self.endpoint)
    }

    /// Whose keys these are. No policy is needed for this.
    ///
    /// # Errors
    /// What STS said and what to change.
    pub async fn caller_identity(&self, keys: &Keys, now: SystemTime) -> Result<CallerIdentity, StsError> {
        let form = Form::new("GetCallerIdentity");
        let answer = self.ask(form, Some(keys), keys.secrets(), Asked::CallerIdentity, now).await?;
        match answer.get_caller_identity_result {
            Some(IdentityElement { account: Some(account), arn: Some(arn), user_id: Some(user_id) }) => {
                Ok(CallerIdentity { account, arn, user_id })
            }
            _ => Err(unreadable(&self.endpoint, "without an account, an ARN and a user id")),
        }
    }

    async fn ask(
        &self,
        form: Form,
        keys: Option<&Keys>,
        secrets: Vec<Secret>,
        asked: Asked<'_>,
        now: SystemTime,
    ) -> Result<Document, StsError> {
        let request = self.request(form, keys, now)?;
        let host = self.endpoint.host();
        let answer = self.http.call(request).await.map_err(|error| {
            let why = scrubbed(&error.detail, &secrets);
            StsError::other(FailureKind::Unavailable, format!("no answer from {host}: {why}"))
        })?;
        let document = Document::read(answer.body());
        let status = answer.status();
        match document {
            Some(Document { error: Some(ErrorElement { code: Some(code), message }), .. }) => {
                let message = message.unwrap_or_default();
                let said = Said { host, code: code.trim(), message: message.trim(), secrets: &secrets };
                Err(said.meaning(asked, &answer, now))
            }
            Some(document) if status.is_success() => Ok(document),
            _ if status.is_redirection() => Err(unreadable(
                &self.endpoint,
                &format!("{} and points elsewhere; no redirect is followed: check `sts_endpoint`", status.as_u16()),
            )),
            _ => {
                // Something that stands between, or half an answer: it says nothing about the keys.
                let mut error = unreadable(&self.endpoint, &describe(&answer));
                error.failure = error.failure.with_retry_after(retry_after(answer.headers(), now));
                Err(error)
            }
        }
    }

    fn request(&self, form: Form, keys: Option<&Keys>, now: SystemTime) -> Result<Request<Vec<u8>>, StsError> {
        let impossible = |why: String| StsError::other(FailureKind::Refused, why);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/", self.endpoint))
            .header(CONTENT_TYPE, FORM)
            .body(form.0.into_bytes())
            .map_err(|_| impossible(format!("{} cannot be called", self.endpoint)))?;
        if let Some(keys) = keys {
            keys.check().map_err(|why| StsError::other(FailureKind::Rejected, why))?;
            sign_request(&mut request, keys, &self.region, now)
                .map_err(|()| impossible("the request to STS cannot be signed".into()))?;
        }
        Ok(request)
    }
}

/// Signature version 4 over all headers and the body, in the Authorization header. The keys were checked: what the signer
/// writes into headers would make it panic.
pub(super) fn sign_request(
    request: &mut Request<Vec<u8>>,
    keys: &Keys,
    region: &str,
    now: SystemTime,
) -> Result<(), ()> {
    let credentials = Credentials::new(
        keys.access_key.clone(),
        keys.secret_key.expose_str().ok_or(())?,
        keys.session_token.as_ref().and_then(Secret::expose_str).map(str::to_owned),
        None,
        "countersign",
    );
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| ())?
        .into();
    let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let body = SignableBody::Bytes(request.body());
    let method = request.method().as_str();
    let signable = SignableRequest::new(method, request.uri().to_string(), headers, body).map_err(|_| ())?;
    let (instructions, _) = sign(signable, &params).map_err(|_| ())?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}

fn check(role: &Role) -> Result<(), StsError> {
    role.check().map_err(|(key, why)| StsError::other(FailureKind::Refused, format!("`{key}`: {why}")))
}

fn unreadable(endpoint: &Destination, what: &str) -> StsError {
    StsError::other(FailureKind::Unavailable, format!("{} answered {what}", endpoint.host()))
}

fn describe(answer: &Response<Vec<u8>>) -> String {
    let what = if answer.body().is_empty() { "and nothing else" } else { "and something that is not an answer of STS" };
    format!("{} {what}", answer.status().as_u16())
}

/// A form body of the query protocol.
struct Form(String);

impl Form {
    fn new(action: &str) -> Self {
        Self(String::new()).with("Action", action).with("Version", VERSION)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0 = form_urlencoded::Serializer::new(self.0).append_pair(name, value).finish();
        self
    }

    /// What both ways of assuming a role have.
    fn role(self, role: &Role) -> Self {
        let mut form = self
            .with("RoleArn", &role.role_arn)
            .with("RoleSessionName", &role.session_name)
            .with("DurationSeconds", &role.duration.as_secs().to_string());
        if let Some(policy) = &role.policy {
            form = form.with("Policy", policy);
        }
        for (index, arn) in role.policy_arns.iter().enumerate() {
            form = form.with(&format!("PolicyArns.member.{}.arn", index + 1), arn);
        }
        form
    }

    /// What only `AssumeRole` has.
    fn session(self, role: &Role) -> Self {
        let mut form = self;
        if let Some(id) = &role.external_id {
            form = form.with("ExternalId", id);
        }
        for (index, (key, value)) in role.tags.iter().enumerate() {
            let member = |part: &str| format!("Tags.member.{}.{part}", index + 1);
            form = form.with(&member("Key"), key).with(&member("Value"), value);
        }
        for (index, key) in role.transitive_tag_keys.iter().enumerate() {
            form = form.with(&format!("TransitiveTagKeys.member.{}", index + 1), key);
        }
        if let Some(identity) = &role.source_identity {
            form = form.with("SourceIdentity", identity);
        }
        form
    }
}

/// Reads the answer to `GetCallerIdentity`, however the request was signed.
///
/// # Errors
/// AWS's code and message, or that it is no such answer.
pub fn read_caller_identity(answer: &Response<Vec<u8>>) -> Result<CallerIdentity, String> {
    let status = answer.status();
    match Document::read(answer.body()) {
        Some(Document {
            get_caller_identity_result:
                Some(IdentityElement { account: Some(account), arn: Some(arn), user_id: Some(user_id) }),
            ..
        }) => Ok(CallerIdentity { account, arn, user_id }),
        Some(Document { error: Some(ErrorElement { code: Some(code), message }), .. }) => {
            Err(format!("{code}: {}", message.unwrap_or_default()))
        }
        _ => Err(format!("status {} without an identity", status.as_u16())),
    }
}

/// Any answer of STS: elements come in any order, and more may come.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    assume_role_result: Option<RoleElement>,
    assume_role_with_web_identity_result: Option<RoleElement>,
    get_caller_identity_result: Option<IdentityElement>,
    error: Option<ErrorElement>,
    errors: Option<ErrorsElement>,
}

/// Some who speak like STS have one more element around the error.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorsElement {
    error: Option<ErrorElement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleElement {
    credentials: Option<CredentialsElement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CredentialsElement {
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    expiration: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IdentityElement {
    account: Option<String>,
    arn: Option<String>,
    user_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorElement {
    code: Option<String>,
    message: Option<String>,
}

impl Document {
    /// What the parser says of an answer is not repeated: it may quote it.
    fn read(body: &[u8]) -> Option<Self> {
        let mut document: Self = quick_xml::de::from_str(std::str::from_utf8(body).ok()?).ok()?;
        document.error = document.error.or(document.errors.take().and_then(|errors| errors.error));
        Some(document)
    }

    fn issued(self, source: &'static str, endpoint: &Destination) -> Result<Issued, StsError> {
        let result = self.assume_role_result.or(self.assume_role_with_web_identity_result);
        let Some(CredentialsElement {
            access_key_id: Some(id),
            secret_access_key: Some(secret),
            session_token: Some(token),
            expiration: Some(expiration),
        }) = result.and_then(|result| result.credentials)
        else {
            return Err(unreadable(endpoint, "without keys"));
        };
        let keys = Keys::new(id.trim(), Secret::new(secret.trim()), Some(Secret::new(token.trim())))
            .map_err(|why| unreadable(endpoint, &format!("with keys that cannot be used: {why}")))?;
        let expires_at =
            moment(&expiration).ok_or_else(|| unreadable(endpoint, "with an Expiration that is not a date"))?;
        Ok(Issued { keys, expires_at: Some(expires_at), source })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sts_error::StsErrorKind;
    use super::super::testing::{Network, answer, failing};
    use super::*;
    use crate::base::{ClientOptions, HttpClients};
    use crate::token::Failure;

    const URL: &str = "https://sts.us-east-1.amazonaws.com";

    /// 2023-11-14T22:13:20Z
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn sts(network: &Network) -> Sts {
        let endpoint = Destination::from_upstream(URL).unwrap();
        let client = network.client(&endpoint, &ClientOptions::default()).unwrap();
        Sts::new(endpoint, client, "us-east-1")
    }

    fn keys() -> Keys {
        Keys::new("AKIAIOSFODNN7EXAMPLE", Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), None).unwrap()
    }

    fn session() -> Keys {
        let token = Some(Secret::new("FwoGZXIvYXdzEXAMPLETOKEN"));
        Keys { session_token: token, ..keys() }
    }

    fn role() -> Role {
        Role {
            external_id: Some("external:0815/x".into()),
            policy: Some(r#"{"Version":"2012-10-17"}"#.into()),
            policy_arns: vec!["arn:aws:iam::aws:policy/ReadOnlyAccess".into()],
            tags: vec![("Team".into(), "a b".into()), ("Größe".into(), String::new())],
            transitive_tag_keys: vec!["Team".into()],
            source_identity: Some("me@example.test".into()),
            duration: Duration::from_secs(900),
            ..Role::new("arn:aws:iam::123456789012:role/reader", "countersign")
        }
    }

    const ASSUMED: &str = r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
        <New>x</New><PackedPolicySize>6</PackedPolicySize>
        <Credentials><Expiration>2023-11-14T23:13:20Z</Expiration><SessionToken>FwoG+/=</SessionToken>
        <SecretAccessKey>s3cr3t/K7</SecretAccessKey><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId></Credentials>
        <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/reader/x</Arn></AssumedRoleUser></AssumeRoleResult>
        <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></AssumeRoleResponse>"#;

    fn assumed(body: &str) -> Network {
        Network::answering([(&*format!("POST {URL}/"), answer(200, body))])
    }

    #[tokio::test]
    async fn a_role_is_assumed_with_every_parameter_where_sts_reads_it() {
        let network = assumed(ASSUMED);
        let issued = sts(&network).assume_role(&role(), &session(), now()).await.unwrap();
        assert_eq!(issued.keys.access_key, "ASIAIOSFODNN7EXAMPLE");
        assert_eq!(issued.keys.secret_key.expose(), b"s3cr3t/K7");
        assert_eq!(issued.keys.session_token.unwrap().expose(), b"FwoG+/=");
        assert_eq!(issued.expires_at, Some(now() + Duration::from_secs(3600)));
        let call = network.calls().remove(0);
        let fields: Vec<_> = form_urlencoded::parse(call.body.as_bytes()).into_owned().collect();
        let expected = [
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", "arn:aws:iam::123456789012:role/reader"),
            ("RoleSessionName", "countersign"),
            ("DurationSeconds", "900"),
            ("Policy", r#"{"Version":"2012-10-17"}"#),
            ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
            ("ExternalId", "external:0815/x"),
            ("Tags.member.1.Key", "Team"),
            ("Tags.member.1.Value", "a b"),
            ("Tags.member.2.Key", "Größe"),
            ("Tags.member.2.Value", ""),
            ("TransitiveTagKeys.member.1", "Team"),
            ("SourceIdentity", "me@example.test"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(call.headers["x-amz-security-token"], "FwoGZXIvYXdzEXAMPLETOKEN");
        assert_eq!(call.headers["x-amz-date"], "20231114T221320Z");
        let authorization = call.headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token"));
        assert!(authorization.contains("/20231114/us-east-1/sts/aws4_request"), "{authorization}");
    }

    const IDENTITY: &str = "<GetCallerIdentityResponse><GetCallerIdentityResult><UserId>AIDA</UserId><Account>123456789012\
        </Account><Arn>arn:aws:iam::123456789012:user/me</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>";

    #[tokio::test]
    async fn the_signature_is_the_one_that_another_implementation_computes() {
        let network = assumed(IDENTITY);
        let identity = sts(&network).caller_identity(&keys(), now()).await.unwrap();
        assert_eq!((identity.account.as_str(), identity.user_id.as_str()), ("123456789012", "AIDA"));
        assert_eq!(identity.arn, "arn:aws:iam::123456789012:user/me");
        let call = network.calls().remove(0);
        assert_eq!(call.body, "Action=GetCallerIdentity&Version=2011-06-15");
        // By hmac and hashlib of Python, after the SigV4 description in the IAM user guide.
        let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20231114/us-east-1/sts/aws4_request, \
            SignedHeaders=content-type;host;x-amz-date, \
            Signature=dac6f2fd3b09d1f3ca33a2bed8a38dcc0692967dcb53426e6ad9095b4d868062";
        assert_eq!(call.headers["authorization"], expected);
    }

    #[tokio::test]
    async fn a_web_identity_is_exchanged_without_a_signature() {
        let body = ASSUMED.replace("AssumeRoleRes", "AssumeRoleWithWebIdentityRes");
        let network = assumed(&body);
        let token = Secret::new("eyJhbGciOi.J9.c2ln");
        let issued = sts(&network).assume_role_with_web_identity(&role(), &token, now()).await.unwrap();
        assert_eq!(issued.keys.access_key, "ASIAIOSFODNN7EXAMPLE");
        let call = network.calls().remove(0);
        assert!(!call.headers.contains_key("authorization") && !call.headers.contains_key("x-amz-date"));
        assert!(
            call.body.starts_with("Action=AssumeRoleWithWebIdentity&") && call.body.contains("WebIdentityToken=eyJ")
        );
        for absent in ["ExternalId", "Tags", "SourceIdentity"] {
            assert!(!call.body.contains(absent), "{absent}");
        }
    }

    #[tokio::test]
    async fn what_breaks_a_rule_is_not_sent() {
        let network = assumed(ASSUMED);
        let bad = Role { session_name: "x".into(), ..role() };
        let failure = sts(&network).assume_role(&bad, &keys(), now()).await.unwrap_err().failure;
        assert!(failure.kind == FailureKind::Refused && failure.detail.starts_with("`session_name`"), "{failure}");
        for token in ["", "hid den", "hidden\n", &"x".repeat(20_001)] {
            let error = sts(&network).assume_role_with_web_identity(&role(), &Secret::new(token), now()).await;
            let failure = error.unwrap_err().failure;
            assert!(failure.kind == FailureKind::Rejected && !failure.detail.contains("hid"), "{failure}");
        }
        let broken = Keys { session_token: Some(Secret::new("a\r\nb")), ..keys() };
        assert!(sts(&network).caller_identity(&broken, now()).await.is_err());
        assert!(network.calls().is_empty());
    }

    async fn failure(network: Network) -> Failure {
        sts(&network).assume_role(&role(), &session(), now()).await.unwrap_err().failure
    }

    #[tokio::test]
    async fn what_is_not_an_answer_of_sts_is_a_temporary_failure() {
        let truncated = &ASSUMED[..ASSUMED.len() / 2];
        let bodies = [
            "",
            "<html><body>Sign in</body></html>",
            truncated,
            "{}",
            "<a/>",
            "\u{0}",
            &ASSUMED.replace("SessionToken>", "Other>"),
            &ASSUMED.replace("ASIAIOSFODNN7EXAMPLE", "no key"),
            &ASSUMED.replace("2023-11-14T", "tomorrow "),
            "<!DOCTYPE a [<!ENTITY x \"y\">]><AssumeRoleResponse><AssumeRoleResult>&x;</AssumeRoleResult></AssumeRoleResponse>",
            "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>",
        ];
        for body in bodies {
            for status in [200, 302, 403, 502] {
                if status != 200 && body.contains("Expiration") {
                    continue;
                }
                let failure = failure(Network::answering([(&*format!("POST {URL}/"), answer(status, body))])).await;
                assert_eq!(failure.kind, FailureKind::Unavailable, "{status} {body}");
                assert!(failure.detail.starts_with("sts.us-east-1.amazonaws.com answered"), "{failure}");
            }
        }
        let deep = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
        assert_eq!(failure(assumed(&deep)).await.kind, FailureKind::Unavailable);
    }

    #[tokio::test]
    async fn no_answer_is_a_temporary_failure_and_so_is_one_that_is_too_long() {
        let failure = failure(Network::answering([(&*format!("POST {URL}/"), failing("more than 1 MiB"))])).await;
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert_eq!(failure.detail, "no answer from sts.us-east-1.amazonaws.com: more than 1 MiB");
    }

    #[tokio::test]
    async fn an_error_is_an_error_whatever_its_status_and_repeats_no_secret() {
        for status in [200, 400, 403] {
            let body = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                <Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/me &amp; FwoGZXIvYXdzEXAMPLETOKEN external:0815/x \
                </Message></Error><RequestId>1</RequestId></ErrorResponse>";
            let network = Network::answering([(&*format!("POST {URL}/"), answer(status, body))]);
            let error = sts(&network).assume_role(&role(), &session(), now()).await.unwrap_err();
            assert_eq!((error.failure.kind, error.kind), (FailureKind::Rejected, StsErrorKind::Other));
            assert!(error.failure.detail.contains("user/me & [redacted] [redacted]; arn:aws"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_busy_gateway_is_left_alone_for_as_long_as_it_says() {
        let mut busy = answer(503, "busy").unwrap();
        busy.headers_mut().insert("retry-after", "9".parse().unwrap());
        let failure = failure(Network::answering([(&*format!("POST {URL}/"), Ok(busy))])).await;
        assert_eq!(failure.retry_after, Some(Duration::from_secs(9)));
    }

    #[test]
    fn debug_of_everything_shows_no_secret() {
        let network = assumed(ASSUMED);
        assert!(!format!("{:?} {:?}", sts(&network), session()).contains("FwoG"));
    }
}
