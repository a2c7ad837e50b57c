//! Workload identity federation: the token of another provider, exchanged at Google's Security Token Service.
//!
//! <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token> (RFC 8693), credential sources as in
//! <https://google.aip.dev/auth/4117>.
//!
//! **What is exchanged is read anew each time, and goes to Google's own Security Token Service only, or to the one that
//! the operator names.**

use std::path::PathBuf;
use std::time::SystemTime;

use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::document::{Document, foreign, is_service};
use super::endpoint::{Access, Endpoint, Wanted, token};
use crate::base::{ClientOptions, Destination, Host, Secret};
use crate::scheme::{fields, is_reserved};
use crate::source;
use crate::token::aws::{Ambient, caller_identity_proof};
use crate::token::{Failure, FailureKind, Token};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const AWS_REQUEST: &str = "urn:ietf:params:aws:token-type:aws4_request";

/// The one address that is called over cleartext unless the operator says otherwise: Azure's managed identities, with
/// the path that gives tokens and nothing else.
const AZURE: &str = "http://169.254.169.254/metadata/identity/oauth2/token?";

/// A token of another provider that becomes one of Google's.
#[derive(Debug)]
pub(super) struct Federation {
    sts: Endpoint,
    client: Option<(String, Secret)>,
    audience: String,
    subject_token_type: String,
    scope: String,
    options: Option<String>,
    subject: Subject,
}

/// Where the other provider's token comes from.
#[derive(Debug)]
enum Subject {
    File { path: PathBuf, field: Option<String> },
    Url { endpoint: Endpoint, headers: Vec<(HeaderName, HeaderValue)>, field: Option<String> },
    Aws { ambient: Ambient, url: String, audience: String },
}

impl Federation {
    /// What the file configures. Its token is good for `scopes`.
    pub(super) fn new(
        document: &Document,
        universe: &str,
        token_url: Option<&str>,
        scopes: &[String],
        access: &Access<'_>,
        ambient: Ambient,
    ) -> Result<Self, String> {
        let sts = match token_url {
            Some(url) => access.written(url).map_err(|why| format!("token_url: {why}"))?,
            None => {
                let url = document.optional("token_url")?.map(str::to_owned);
                let url = url.unwrap_or_else(|| format!("https://sts.{universe}/v1/token"));
                if !is_service(&url, "sts", universe) {
                    return Err(foreign("token_url", &format!("https://sts.{universe}/v1/token"), "token_url"));
                }
                Endpoint::new(&url, access.http, &ClientOptions::default())?
            }
        };
        let client = match (document.optional("client_id")?, document.optional("client_secret")?) {
            (Some(id), Some(secret)) => Some((id.to_owned(), Secret::new(secret))),
            (None, None) => None,
            _ => return Err("`client_id` and `client_secret` in it go together".into()),
        };
        let audience = document.text("audience")?.to_owned();
        let project = document.optional("workforce_pool_user_project")?;
        if project.is_some() && !audience.contains("/workforcePools/") {
            return Err("`workforce_pool_user_project` in it goes with a workforce pool's `audience`".into());
        }
        // A client tells the project itself.
        let project = project.filter(|_| client.is_none());
        Ok(Self {
            sts,
            client,
            subject: subject(document, &audience, access, ambient)?,
            audience,
            subject_token_type: document.text("subject_token_type")?.to_owned(),
            scope: scopes.join(" "),
            options: project.map(|project| percent(&json!({ "userProject": project }).to_string())),
        })
    }

    /// An access token.
    pub(super) async fn fetch(&self, now: SystemTime) -> Result<Token, Failure> {
        let subject = self.subject.read(now).await?;
        let text = subject.expose_str().ok_or_else(|| unavailable("the subject token is not text"))?;
        let mut fields = vec![
            ("grant_type", TOKEN_EXCHANGE),
            ("audience", &self.audience),
            ("scope", &self.scope),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token", text),
            ("subject_token_type", &self.subject_token_type),
        ];
        fields.extend(self.options.as_deref().map(|options| ("options", options)));
        let mut secrets = vec![subject.clone()];
        secrets.extend(self.client.iter().map(|(_, secret)| secret.clone()));
        let reply = self.sts.form(&fields, self.client.as_ref(), &secrets, now).await.map_err(|failure| {
            // The other provider's next token may be taken, and nothing tells us when there is one.
            let kind = if failure.kind == FailureKind::Rejected { FailureKind::Refused } else { failure.kind };
            Failure { kind, ..failure }
        })?;
        token(&reply, Wanted::Access, now)
    }
}

/// The source that the file names.
fn subject(document: &Document, audience: &str, access: &Access<'_>, ambient: Ambient) -> Result<Subject, String> {
    let part = document.part("credential_source")?.ok_or("there is no `credential_source` in it")?;
    if let Some(environment) = part.optional("environment_id")? {
        return aws(document, &part, environment, audience, ambient);
    }
    let field = format_of(&part)?;
    match (part.optional("file")?, part.optional("url")?) {
        (Some(file), None) => Ok(Subject::File { path: file.into(), field }),
        (None, Some(url)) => {
            let mut options = access.options.clone();
            if let Some(azure) = azure(url) {
                options.allow_addresses.push(azure);
                options.direct = true;
            } else {
                fields::endpoint(url, access.allow_cleartext).map_err(|why| format!("`credential_source.url` in it: {why}"))?;
            }
            let endpoint = Endpoint::new(url, access.http, &options);
            let endpoint = endpoint.map_err(|why| format!("`credential_source.url` in it: {why}"))?;
            let headers = part.part("headers")?.map(|headers| headers_of(&headers)).transpose()?.unwrap_or_default();
            Ok(Subject::Url { endpoint, headers, field })
        }
        (Some(_), Some(_)) => Err("`credential_source` in it has both a file and a url".into()),
        (None, None) if part.has("executable") => Err(
            "`credential_source.executable` in it is not run here: a file must not name a program; let the program write \
             its token into a file, and name that with `file`"
                .into(),
        ),
        (None, None) if part.has("certificate") => {
            Err("`credential_source.certificate` in it is not supported; use a file, a url or AWS".into())
        }
        (None, None) => Err("`credential_source` in it has neither `file` nor `url` nor `environment_id`".into()),
    }
}

/// The one metadata service that is called for the sake of a file.
fn azure(url: &str) -> Option<IpNet> {
    if !url.starts_with(AZURE) {
        return None;
    }
    match Destination::from_upstream(url).ok()?.host() {
        Host::Address(address) => Some(IpNet::from(*address)),
        Host::Name(_) => None,
    }
}

/// The field of a JSON document that holds the token; `None` for text.
fn format_of(part: &Document) -> Result<Option<String>, String> {
    let Some(format) = part.part("format")? else { return Ok(None) };
    match format.optional("type")?.unwrap_or("text") {
        "text" => Ok(None),
        "json" => format.text("subject_token_field_name").map(|field| Some(field.to_owned())),
        _ => Err("`credential_source.format.type` in it is text or json".into()),
    }
}

fn headers_of(part: &Document) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): (&str, &str)| {
        let unfit = || "`credential_source.headers` in it cannot be sent".to_owned();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| unfit())?;
        value.set_sensitive(true);
        if is_reserved(&name) {
            return Err(unfit());
        }
        Ok((name, value))
    };
    part.texts()?.into_iter().map(header).collect()
}

/// AWS: keys and region as its own programs find them. The addresses in the file must be those that we call anyway.
fn aws(
    document: &Document,
    part: &Document,
    environment: &str,
    audience: &str,
    ambient: Ambient,
) -> Result<Subject, String> {
    if environment != "aws1" {
        return Err("`credential_source.environment_id` in it is another than aws1, the one that there is".into());
    }
    if document.text("subject_token_type")? != AWS_REQUEST {
        return Err(format!("`subject_token_type` in it is {AWS_REQUEST} for AWS"));
    }
    for field in ["url", "region_url", "imdsv2_session_token_url"] {
        let is_own =
            |url: &str| ["http://169.254.169.254/", "http://[fd00:ec2::254]/"].iter().any(|own| url.starts_with(own));
        if !part.optional(field)?.is_none_or(is_own) {
            return Err(format!(
                "`credential_source.{field}` in it leads elsewhere than to the instance metadata service"
            ));
        }
    }
    let url = part.text("regional_cred_verification_url")?;
    if !is_sts(url) {
        return Err("`credential_source.regional_cred_verification_url` in it is not AWS's; write \
                    https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"
            .into());
    }
    Ok(Subject::Aws { ambient, url: url.to_owned(), audience: audience.to_owned() })
}

/// `GetCallerIdentity` of a regional STS of AWS's.
fn is_sts(url: &str) -> bool {
    let front = url
        .strip_suffix("?Action=GetCallerIdentity&Version=2011-06-15")
        .map(|front| front.strip_suffix('/').unwrap_or(front))
        .and_then(|front| front.strip_prefix("https://"));
    let Some(host) = front else { return false };
    let region = ["sts.", "sts-fips."]
        .iter()
        .find_map(|service| host.strip_prefix(service))
        .and_then(|rest| [".amazonaws.com", ".amazonaws.com.cn"].iter().find_map(|suffix| rest.strip_suffix(suffix)));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    region.is_some_and(|region| region == "{region}" || (!region.is_empty() && region.bytes().all(plain)))
}

impl Subject {
    /// The other provider's token, as it is now.
    async fn read(&self, now: SystemTime) -> Result<Secret, Failure> {
        match self {
            Self::File { path, field } => {
                let content = source::read_file(path).await;
                let content = content.map_err(|why| unavailable(&format!("the subject token's {why}")))?;
                picked(&content, field.as_deref())
                    .ok_or_else(|| unavailable(&missing(&format!("file {}", path.display()), field.as_deref())))
            }
            Self::Url { endpoint, headers, field } => {
                let reply = endpoint.get("", headers.clone(), now).await.map_err(|mut failure| {
                    failure.detail = format!("the subject token: {}", failure.detail);
                    failure
                })?;
                let token = picked(reply.body(), field.as_deref());
                token.ok_or_else(|| reply.unusable(&missing("it", field.as_deref())))
            }
            Self::Aws { ambient, url, audience } => {
                let region = ambient.region_now(now).await?;
                let issued = ambient.load(now).await?;
                let url = url.replace("{region}", &region);
                caller_identity_proof(&issued.keys, &url, &region, audience, now)
                    .map_err(|why| Failure::new(FailureKind::Refused, why))
            }
        }
    }
}

/// The token of a text or of a field of a JSON object.
fn picked(content: &Secret, field: Option<&str>) -> Option<Secret> {
    let token = match field {
        None => Secret::new(content.expose().trim_ascii()),
        Some(field) => {
            let mut fields: Map<String, Value> = serde_json::from_slice(content.expose()).ok()?;
            match fields.remove(field) {
                Some(Value::String(token)) => Secret::new(token),
                _ => return None,
            }
        }
    };
    (!token.is_empty()).then_some(token)
}

fn missing(place: &str, field: Option<&str>) -> String {
    match field {
        None => format!("there is no token in {place}"),
        Some(_) => format!("there is no token in {place} under the name that `subject_token_field_name` says"),
    }
}

fn unavailable(why: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, why)
}

fn percent(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_metadata_services_one_path_of_azures_is_called_for_a_file() {
        let azure = |url| azure(url).map(|net| net.to_string());
        let url = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2Fx";
        assert_eq!(azure(url).as_deref(), Some("169.254.169.254/32"));
        for url in [
            "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
            "http://169.254.169.254/latest/meta-data/iam/security-credentials/role",
            "http://169.254.169.254/metadata/identity/oauth2/token/../../instance?x",
            "http://169.254.169.254.evil.test/metadata/identity/oauth2/token?x",
            "http://169.254.169.254@evil.test/metadata/identity/oauth2/token?x",
            "http://169.254.169.253/metadata/identity/oauth2/token?x",
        ] {
            assert_eq!(azure(url), None, "{url}");
        }
    }

    #[test]
    fn a_regional_sts_of_aws_is_one_and_nothing_else_is() {
        const QUERY: &str = "?Action=GetCallerIdentity&Version=2011-06-15";
        for front in [
            "https://sts.{region}.amazonaws.com",
            "https://sts.{region}.amazonaws.com/",
            "https://sts.eu-central-1.amazonaws.com",
            "https://sts-fips.us-east-1.amazonaws.com",
            "https://sts.{region}.amazonaws.com.cn",
        ] {
            assert!(is_sts(&format!("{front}{QUERY}")), "{front}");
        }
        for url in [
            "http://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
            "https://sts.{region}.amazonaws.com?Action=GetSessionToken&Version=2011-06-15",
            "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15&X=1",
            "https://sts.evil.test/.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
            "https://sts..amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
            "https://iam.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
            "https://sts.{region}.amazonaws.com",
        ] {
            assert!(!is_sts(url), "{url}");
        }
    }

    #[test]
    fn a_token_is_the_whole_text_or_the_field_that_is_named() {
        let picked = |content: &str, field| picked(&Secret::new(content), field).map(|token| token.expose().to_vec());
        assert_eq!(picked(" a.b.c\n", None).unwrap(), b"a.b.c");
        assert_eq!(picked(r#"{"t":"a.b.c","u":1}"#, Some("t")).unwrap(), b"a.b.c");
        for (content, field) in [
            ("", None),
            (" \n", None),
            (r#"{"t":""}"#, Some("t")),
            (r#"{"t":1}"#, Some("t")),
            (r#"{"u":"x"}"#, Some("t")),
            (r#"["t"]"#, Some("t")),
            ("a.b.c", Some("t")),
        ] {
            assert_eq!(picked(content, field), None, "{content}");
        }
    }
}
