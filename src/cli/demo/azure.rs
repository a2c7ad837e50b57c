//! The demo's Entra and three of Azure's services: an application proves itself to the one by its own means of checking, and
//! the others take a token for themselves only. It shares no code with the schemes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::cases::{Keys, random};

pub(super) const LOGIN: &str = "login.microsoftonline.com";
pub(super) const MANAGEMENT: &str = "management.azure.com";
pub(super) const GRAPH: &str = "graph.microsoft.com";
pub(super) const STORAGE: &str = "demo.blob.core.windows.net";

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "66666666-7777-8888-9999-000000000000";

/// What each of the services wants a token to be for.
const AUDIENCES: [(&str, &str); 3] = [
    (MANAGEMENT, "https://management.azure.com"),
    (GRAPH, "https://graph.microsoft.com"),
    (STORAGE, "https://storage.azure.com"),
];

/// The key and certificate that the application registered.
pub(super) struct Registered {
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Registered {
    pub(super) fn generate() -> Result<Self, String> {
        let text = |error: rcgen::Error| error.to_string();
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).map_err(text)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Demo application");
        let certificate = params.self_signed(&key).map_err(text)?;
        Ok(Self { key, certificate })
    }

    /// Key and certificate in one file.
    pub(super) fn pem(&self) -> String {
        [self.key.serialize_pem(), self.certificate.pem()].concat()
    }

    /// PS256 and `x5t#S256`, and the claims that Microsoft documents.
    fn made(&self, assertion: &str, url: &str, now: SystemTime) -> bool {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let read = |text: &str| part(text).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some((message, signature)) = assertion.rsplit_once('.') else { return false };
        let Some((header, claims)) = message.split_once('.') else { return false };
        let (Some(header), Some(claims), Some(signature)) = (read(header), read(claims), part(signature)) else {
            return false;
        };
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, self.certificate.der()));
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let within =
            |name: &str, holds: fn(u64, u64) -> bool| claims[name].as_u64().is_some_and(|at| holds(at, seconds));
        let key = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, self.key.public_key_raw());
        header["alg"] == "PS256"
            && header["typ"] == "JWT"
            && header["x5t#S256"] == thumbprint
            && claims["iss"] == CLIENT
            && claims["sub"] == CLIENT
            && claims["aud"] == url
            && claims["jti"].as_str().is_some_and(|jti| !jti.is_empty())
            && within("nbf", |at, now| at <= now)
            && within("exp", |at, now| at > now && at <= now + 600)
            && key.verify(message.as_bytes(), &signature).is_ok()
    }
}

/// Entra and what it issued: tokens and their audiences.
pub(super) struct Azure {
    keys: Keys,
    issued: Mutex<HashMap<String, String>>,
}

impl Azure {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, issued: Mutex::default() }
    }

    /// Answers for the names that are Azure's.
    pub(super) fn answer(&self, request: &Parts, body: &[u8], now: SystemTime) -> Option<(u16, String)> {
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        let host = header("host").unwrap_or_default().split(':').next().unwrap_or_default();
        if host == LOGIN {
            let (status, document) = self.token(request.uri.path(), body, now);
            return Some((status, document.to_string()));
        }
        let (_, audience) = AUDIENCES.iter().find(|(name, _)| *name == host)?;
        let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let own = token.and_then(|token| issued.get(token)).is_some_and(|issued| issued == audience);
        let version = header("x-ms-version");
        let (status, verdict) = match (token, own) {
            (None, _) => (401, "no credential"),
            (_, false) => (401, "the token is not for this service"),
            (_, true) if host == STORAGE && version.is_none() => (400, "a token goes with x-ms-version"),
            _ => (200, "the token is for this service"),
        };
        let mut received = token.map_or_else(String::new, |_| "Authorization: Bearer [redacted]".to_owned());
        if let Some(version) = version {
            received.push_str(&format!(", x-ms-version: {version}"));
        }
        Some((status, json!({ "received": received, "verdict": verdict }).to_string()))
    }

    fn token(&self, path: &str, form: &[u8], now: SystemTime) -> (u16, Value) {
        let field = |name: &str| {
            let found = url::form_urlencoded::parse(form).find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let url = format!("https://{LOGIN}/{TENANT}/oauth2/v2.0/token");
        let known = !field("client_secret").is_empty() && field("client_secret") == self.keys.second;
        let refused = |error: &str, number: u32, text: &str| {
            let description = format!("AADSTS{number}: {text}");
            (401, json!({ "error": error, "error_description": description, "error_codes": [number] }))
        };
        if format!("https://{LOGIN}{path}") != url || field("client_id") != CLIENT {
            return refused("unauthorized_client", 700016, "Application not found in the directory.");
        }
        if !known && !self.keys.registered.made(&field("client_assertion"), &url, now) {
            return refused("invalid_client", 7000215, "Invalid client secret or assertion provided.");
        }
        let scope = field("scope");
        let audience = AUDIENCES.iter().find(|(_, audience)| scope.strip_suffix("/.default") == Some(audience));
        let (Some((_, audience)), Ok(token)) = (audience, random()) else {
            return refused("invalid_resource", 500011, "The resource principal was not found.");
        };
        let answer = json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": token });
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).insert(token, (*audience).to_owned());
        (200, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(azure: &Azure, form: &[(&str, &str)]) -> (u16, Value) {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        azure.token(&format!("/{TENANT}/oauth2/v2.0/token"), body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    fn called(azure: &Azure, host: &str, headers: &[(&str, &str)]) -> u16 {
        let request = headers.iter().fold(http::Request::get("/x").header("host", host), |request, (name, value)| {
            request.header(*name, *value)
        });
        azure.answer(&request.body(()).unwrap().into_parts().0, b"", SystemTime::UNIX_EPOCH).unwrap().0
    }

    #[test]
    fn wrong_secrets_unsigned_assertions_and_tokens_of_other_services_are_refused() {
        let azure = Azure::new(Keys::generate().unwrap());
        let secret = azure.keys.second.clone();
        let scope = ("scope", "https://graph.microsoft.com/.default");
        let (status, answer) = asked(&azure, &[("client_id", CLIENT), ("client_secret", &secret), scope]);
        assert_eq!(status, 200);
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        assert_eq!(called(&azure, GRAPH, &[("authorization", &bearer)]), 200);
        assert_eq!(called(&azure, MANAGEMENT, &[("authorization", &bearer)]), 401);
        assert_eq!(called(&azure, GRAPH, &[("authorization", "Bearer made up")]), 401);
        for form in [
            &[("client_id", CLIENT), ("client_secret", "wrong"), scope][..],
            &[("client_id", CLIENT), ("client_secret", ""), scope],
            &[("client_id", "another"), ("client_secret", &secret), scope],
            &[("client_id", CLIENT), ("client_assertion", "e30.e30.AAAA"), scope],
            &[("client_id", CLIENT), ("client_secret", &secret), ("scope", "https://graph.microsoft.com/User.Read")],
        ] {
            assert_eq!(asked(&azure, form).0, 401, "{form:?}");
        }
        let scope = ("scope", "https://storage.azure.com/.default");
        let (_, answer) = asked(&azure, &[("client_id", CLIENT), ("client_secret", &secret), scope]);
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        assert_eq!(called(&azure, STORAGE, &[("authorization", &bearer)]), 400);
        assert_eq!(called(&azure, STORAGE, &[("authorization", &bearer), ("x-ms-version", "2023-11-03")]), 200);
    }
}
