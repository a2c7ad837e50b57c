//! AWS Secrets Manager: secrets of one region, by name or ARN and by version or stage.
//!
//! <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::content::Content;
use super::line::{Answer, Line, Trouble, printable};
use super::settings::{Backend, Common, Implied, Parsed, Read, StoreError, StoreKind, at, endpoint, keys};
use crate::base::{BoxFuture, Destination, Secret, StoreRef};

pub(super) const KIND: StoreKind = StoreKind { name: "aws_secrets_manager", parse };

const TARGET: &str = "secretsmanager.GetSecretValue";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    region: String,
    endpoint: Option<String>,
}

fn parse(mut own: Map<String, Value>, common: &Common) -> Result<Parsed, StoreError> {
    let mut mine = Map::new();
    for key in ["region", "endpoint"] {
        mine.extend(own.remove(key).map(|value| (key.to_owned(), value)));
    }
    let settings: Settings = keys(mine)?;
    let region = settings.region;
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(at("region", "a region such as eu-central-1"));
    }
    let usual = || {
        let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://secretsmanager.{region}.{end}")
    };
    let address = settings.endpoint.unwrap_or_else(usual);
    let endpoint = endpoint("endpoint", &address, common)?;
    let bare = address.trim_end_matches('/');
    if bare.matches('/').count() != 2 || bare.contains(['?', '#']) {
        return Err(at(
            "endpoint",
            "an address without a path, such as https://secretsmanager.eu-central-1.amazonaws.com",
        ));
    }
    let implied = match (own.is_empty(), common.borrows) {
        (true, true) => None,
        (false, true) => {
            let key = own.keys().next().cloned().unwrap_or_default();
            return Err(at(key, "the store authenticates in one way: by its own keys or by `credential`"));
        }
        (_, false) => Some(implied(own, &region, &endpoint, common)),
    };
    Ok(Parsed { backend: Box::new(SecretsManager { address: format!("{bare}/"), endpoint }), implied })
}

/// The store's own keys as those of `aws`, or of `aws_sts` when there is more than keys.
fn implied(mut own: Map<String, Value>, region: &str, endpoint: &Destination, common: &Common) -> Implied {
    let fixed = own.keys().all(|key| ["access_key", "secret_key", "session_token"].contains(&key.as_str()));
    let scheme = if fixed && !own.is_empty() { "aws" } else { "aws_sts" };
    own.insert("region".into(), region.into());
    own.insert("service".into(), "secretsmanager".into());
    if scheme == "aws_sts" {
        own.insert("allow_cleartext".into(), common.allow_cleartext.into());
        if !common.allow_addresses.is_null() {
            own.insert("allow_addresses".into(), common.allow_addresses.clone());
        }
    }
    let hosts = vec![format!("{}:{}", endpoint.host(), endpoint.port())];
    Implied { scheme, settings: Value::Object(own), hosts, paths: &[("hosts", "endpoint")] }
}

#[derive(Debug)]
struct SecretsManager {
    /// With a slash at its end.
    address: String,
    endpoint: Destination,
}

impl Backend for SecretsManager {
    fn endpoint(&self) -> &Destination {
        &self.endpoint
    }

    fn check(&self, reference: &StoreRef) -> Result<(), StoreError> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+=.@-:!".contains(&b));
        if !plain(&reference.name) || reference.name.len() > 2048 {
            return Err(at("name", "a secret's name or ARN"));
        }
        if reference.version.as_ref().is_some_and(|version| version.is_empty() || version.len() > 256) {
            return Err(at("version", "a version's id or a stage such as AWSPREVIOUS"));
        }
        Ok(())
    }

    fn read<'a>(&'a self, line: &'a Line, reference: &'a StoreRef) -> BoxFuture<'a, Result<Read, Trouble>> {
        Box::pin(async move {
            let mut body = json!({"SecretId": reference.name});
            if let Some(version) = &reference.version {
                let key = if is_uuid(version) { "VersionId" } else { "VersionStage" };
                body[key] = version.clone().into();
            }
            let request = Request::post(&self.address)
                .header(CONTENT_TYPE, "application/x-amz-json-1.1")
                .header("x-amz-target", TARGET)
                .body(body.to_string().into_bytes());
            let request = request.map_err(|_| Trouble::secret("its name cannot be asked for"))?;
            let answer = line.call(request, is_dead, words).await?;
            if !answer.status.is_success() {
                return Err(refused(&answer));
            }
            content(&answer.body)
        })
    }
}

/// AWS's ids of versions are such; stages are words.
fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The code of an error, whatever stands before and after its name, and its words.
fn error_of(body: &[u8]) -> (String, String) {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = document["__type"].as_str().or_else(|| document["code"].as_str()).unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let message = document["message"].as_str().or_else(|| document["Message"].as_str()).unwrap_or_default();
    (printable(code), printable(message))
}

fn words(body: &[u8]) -> String {
    let (code, message) = error_of(body);
    format!("{code}: {message}").trim_matches([' ', ':']).to_owned()
}

/// What the request was signed with is no longer good.
fn is_dead(answer: &Answer) -> bool {
    let dead = ["ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId"];
    answer.status.is_client_error() && dead.contains(&&*error_of(&answer.body).0)
}

/// What an error means.
fn refused(answer: &Answer) -> Trouble {
    let (code, message) = error_of(&answer.body);
    let status = answer.status.as_u16();
    match &*code {
        "ResourceNotFoundException" => {
            Trouble::secret(format!("there is no such secret, or no such version of it, in this region: {message}"))
        }
        "AccessDeniedException" => Trouble::secret(format!(
            "the store's credential may not read it: it needs secretsmanager:GetSecretValue, and kms:Decrypt for a key of your \
             own ({message})"
        )),
        "DecryptionFailure" => Trouble::secret(format!("its KMS key does not open it: {message}")),
        "InvalidRequestException" => {
            Trouble::secret(format!("it cannot be read; is it marked for deletion? {message}"))
        }
        "ThrottlingException" | "TooManyRequestsException" | "InternalServiceError" => {
            Trouble::store(format!("it answers {status} {code}: {message}"))
        }
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken" => {
            Trouble::store(format!("it refuses the store's credential: {code}: {message}"))
        }
        _ => Trouble::secret(format!("it answers {status} {}", words(&answer.body)).trim_end()),
    }
}

/// The secret of an answer: text, or bytes in base64.
fn content(body: &[u8]) -> Result<Read, Trouble> {
    #[derive(Deserialize)]
    struct Value {
        #[serde(rename = "SecretString")]
        text: Option<String>,
        #[serde(rename = "SecretBinary")]
        bytes: Option<String>,
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| Trouble::store("its answer is no secret; is this Secrets Manager?"))?;
    let secret = match (value.text, value.bytes) {
        (Some(text), _) => Secret::new(text),
        (None, Some(bytes)) => {
            Secret::new(STANDARD.decode(bytes).map_err(|_| Trouble::secret("its bytes are not base64"))?)
        }
        (None, None) => return Err(Trouble::secret("it has no value")),
    };
    Ok(Read { content: Content::Whole(secret), ends_in: None, lease: None })
}
