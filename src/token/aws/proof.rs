//! A signed `GetCallerIdentity` that somebody else sends: how another cloud is shown who we are in AWS.
//!
//! The form is that of Google's Security Token Service, <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>:
//! the request as JSON, percent-encoded. The one who is to see it stands in a signed header, so that nobody else can use it.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::keys::Keys;
use super::sts::sign_request;
use crate::base::Secret;

/// For whom it is made.
const TARGET: &str = "x-goog-cloud-target-resource";

/// The request as Google wants it. `url` is the regional STS with the action in its query, `resource` the full name of the
/// workload identity pool's provider.
///
/// # Errors
/// What cannot be signed; nothing of the keys.
pub fn caller_identity_proof(
    keys: &Keys,
    url: &str,
    region: &str,
    resource: &str,
    now: SystemTime,
) -> Result<Secret, String> {
    let unsignable = "the proof of who we are in AWS cannot be signed";
    keys.check()?;
    let request = Request::builder().method(Method::POST).uri(url).header(TARGET, resource).body(Vec::new());
    let mut request = request.map_err(|_| unsignable)?;
    let host = request.uri().host().ok_or(unsignable)?.to_owned();
    sign_request(&mut request, keys, region, now).map_err(|()| unsignable)?;
    let mut headers: Vec<Value> = Vec::new();
    for (name, value) in request.headers() {
        let name = if *name == AUTHORIZATION { "Authorization" } else { name.as_str() };
        headers.push(json!({ "key": name, "value": value.to_str().map_err(|_| unsignable)? }));
    }
    if !request.headers().contains_key(HOST) {
        headers.push(json!({ "key": "host", "value": host }));
    }
    headers.sort_by_key(|header| header["key"].as_str().unwrap_or_default().to_owned());
    let document = json!({ "headers": headers, "method": "POST", "url": url }).to_string();
    let encoded: String = form_urlencoded::byte_serialize(document.as_bytes()).collect();
    Ok(Secret::new(encoded.replace('+', "%20")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const URL: &str = "https://sts.eu-central-1.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";

    fn proof(token: Option<&str>, url: &str) -> Result<Secret, String> {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let keys = Keys::new("AKIDEXAMPLE", secret, token.map(Secret::new)).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        caller_identity_proof(&keys, url, "eu-central-1", "//iam.googleapis.com/projects/1/x", now)
    }

    /// Signatures of the same request by botocore.
    #[test]
    fn the_request_is_signed_for_whom_it_is_shown_to() {
        for (token, names, signature) in [
            (
                None,
                "host;x-amz-date;x-goog-cloud-target-resource",
                "c41febc8b2dbd5c18ac8e45e7e3bbfcb295027bdb9d77b2cd0f3cb654484a5e0",
            ),
            (
                Some("session/token+=="),
                "host;x-amz-date;x-amz-security-token;x-goog-cloud-target-resource",
                "5ea84a802a84d9d55134a6e793e1fec1061b1c677f1fb83911826d682d01414a",
            ),
        ] {
            let proof = proof(token, URL).unwrap();
            let text = proof.expose_str().unwrap();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-._*".contains(&byte)), "{text}");
            let text = form_urlencoded::parse(format!("x={text}").as_bytes()).next().unwrap().1.into_owned();
            let document: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&document["url"], &document["method"]), (&json!(URL), &json!("POST")));
            let header = |name: &str| {
                let headers = document["headers"].as_array().unwrap();
                headers.iter().find(|header| header["key"] == name).map(|header| header["value"].as_str().unwrap())
            };
            let scope = "AKIDEXAMPLE/20231114/eu-central-1/sts/aws4_request";
            let authorization =
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}");
            assert_eq!(header("Authorization"), Some(&*authorization));
            assert_eq!(header("host"), Some("sts.eu-central-1.amazonaws.com"));
            assert_eq!(header("x-amz-date"), Some("20231114T221320Z"));
            assert_eq!(header("x-goog-cloud-target-resource"), Some("//iam.googleapis.com/projects/1/x"));
            assert_eq!(header("x-amz-security-token"), token);
        }
    }

    #[test]
    fn what_cannot_be_signed_says_so_without_the_keys() {
        for url in ["", "/?Action=GetCallerIdentity", "https://"] {
            let why = proof(None, url).unwrap_err();
            assert!(why.contains("cannot be signed") && !why.contains("wJalr"), "{why}");
        }
    }
}
