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
    let code = if code.is_empty() && status == 403 { "AccessDeniedException".to_owned() } else { code };
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Said, Server, Signer, reference, says, stores};
    use super::super::{SecretStores, StoreSettings};
    use super::*;

    fn settings() -> Value {
        json!({"name": "s", "kind": "aws_secrets_manager", "region": "eu-central-1", "credential": "c"})
    }

    async fn read(said: Said, version: Option<&str>, field: Option<&str>) -> (Result<Vec<u8>, String>, Server) {
        let server = Server::new([said]);
        let stores = stores(settings(), &server, &Signer::new(1), None);
        let reference = reference("prod/db", version, field);
        let reading = stores.read(&reference).await.map_err(|error| error.0);
        let secret = reading.and_then(|reading| reading.field(&reference).map_err(|error| error.0));
        (secret.map(|secret| secret.expose().to_vec()), server)
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_asked_for_by_its_name_and_by_a_version_or_a_stage() {
        let text = || says(200, json!({"SecretString": "{\"username\":\"u\",\"password\":\"p\"}"}));
        let (value, server) = read(text(), None, Some("password")).await;
        assert_eq!(value.unwrap(), b"p");
        let asked = &server.asked()[0];
        assert_eq!(
            (asked.method().as_str(), asked.uri().to_string().as_str()),
            ("POST", "https://secretsmanager.eu-central-1.amazonaws.com/")
        );
        assert_eq!(asked.headers()["x-amz-target"], TARGET);
        let body = |server: &Server| serde_json::from_slice::<Value>(server.asked()[0].body()).unwrap();
        assert_eq!(body(&server), json!({"SecretId": "prod/db"}));
        let (_, server) = read(text(), Some("AWSPREVIOUS"), None).await;
        assert_eq!(body(&server), json!({"SecretId": "prod/db", "VersionStage": "AWSPREVIOUS"}));
        let id = "EXAMPLE1-90ab-cdef-fedc-ba987SECRET1";
        let (_, server) = read(text(), Some(id), None).await;
        assert_eq!(body(&server)["VersionStage"], id, "no id, which has hexadecimal digits only");
        let id = "a1b2c3d4-90ab-cdef-fedc-ba9876543210";
        let (_, server) = read(text(), Some(id), None).await;
        assert_eq!(body(&server), json!({"SecretId": "prod/db", "VersionId": id}));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_come_as_bytes() {
        let (value, _) = read(says(200, json!({"SecretBinary": "AP8H"})), None, None).await;
        assert_eq!(value.unwrap(), [0, 255, 7]);
        let (value, _) = read(says(200, json!({"Name": "x"})), None, None).await;
        assert!(value.unwrap_err().ends_with("it has no value"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_aws_refuses_is_told_with_what_to_change_and_an_expired_token_is_replaced() {
        let error =
            |code: &str| says(400, json!({"__type": format!("com.amazonaws.x#{code}:"), "message": "words of AWS"}));
        for (code, expected, asked) in [
            ("ResourceNotFoundException", "there is no such secret", 1),
            ("AccessDeniedException", "it needs secretsmanager:GetSecretValue, and kms:Decrypt", 1),
            ("InvalidRequestException", "is it marked for deletion?", 1),
            ("DecryptionFailure", "its KMS key does not open it", 1),
            ("ThrottlingException", "it answers 400 ThrottlingException: words of AWS", 1),
            ("ExpiredTokenException", "it refuses the store's credential", 2),
            ("UnrecognizedClientException", "it refuses the store's credential", 2),
            ("InvalidSignatureException", "it refuses the store's credential", 1),
            ("Whatever", "it answers 400 Whatever: words of AWS", 1),
        ] {
            let (value, server) = read(error(code), None, None).await;
            let text = value.unwrap_err();
            assert!(text.contains(expected), "{text}");
            assert_eq!(server.count(), asked, "{code}");
        }
    }

    #[test]
    fn keys_are_those_of_aws_and_a_role_or_nothing_those_of_aws_sts() {
        let parse = |more: Value| {
            let mut settings = settings();
            settings.as_object_mut().unwrap().remove("credential");
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            StoreSettings::parse(settings).map_err(|error| format!("{}: {}", error.path, error.message))
        };
        let implied = |more: Value| parse(more).unwrap().1.unwrap();
        let keys = implied(json!({"access_key": "AKIA", "secret_key": {"env": "S"}}));
        assert_eq!(keys.scheme, "aws");
        assert_eq!(keys.hosts, ["secretsmanager.eu-central-1.amazonaws.com:443"]);
        assert_eq!(
            (&keys.settings["region"], &keys.settings["service"]),
            (&json!("eu-central-1"), &json!("secretsmanager"))
        );
        assert_eq!(implied(json!({"role_arn": "arn:aws:iam::1:role/x"})).scheme, "aws_sts");
        assert_eq!(implied(json!({})).scheme, "aws_sts");
        let china = implied(json!({"region": "cn-north-1"}));
        assert_eq!(china.hosts, ["secretsmanager.cn-north-1.amazonaws.com.cn:443"]);
        for (changes, expected) in [
            (json!({"region": "eu central"}), "region: a region"),
            (json!({"region": null}), "region:"),
            (json!({"endpoint": "http://127.0.0.1:1"}), "endpoint: secrets would travel unencrypted"),
            (json!({"endpoint": "https://a.test/path"}), "endpoint: an address without a path"),
            (json!({"credential": "c", "access_key": "AKIA"}), "access_key: the store authenticates in one way"),
        ] {
            let error = parse(changes.clone()).err().unwrap_or_default();
            assert!(error.starts_with(expected), "{changes}: {error}");
        }
    }
}
