//! The demo's identity provider: three grants, each verified by its own means. It shares no code with the schemes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::cases::{Keys, TOKEN_URL, random};

/// What it knows: its clients' keys, and the tokens that it issued.
pub(super) struct Identity {
    keys: Keys,
    issued: Mutex<Issued>,
}

struct Issued {
    /// The grant of each access token.
    access: HashMap<String, &'static str>,
    /// The one refresh token that is valid; it is replaced at every use.
    refresh: String,
}

impl Identity {
    pub(super) fn new(keys: Keys) -> Self {
        let refresh = keys.third.clone();
        Self { keys, issued: Mutex::new(Issued { access: HashMap::new(), refresh }) }
    }

    /// Answers a token request (RFC 6749 sections 5.1 and 5.2).
    pub(super) fn token(&self, form: &[u8], now: SystemTime) -> (u16, Value) {
        let field = |name: &str| {
            let found = url::form_urlencoded::parse(form).find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let refused = |error: &str| (400, json!({ "error": error }));
        let (Ok(access), Ok(refresh)) = (random(), random()) else { return (500, json!({ "error": "server_error" })) };
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = json!({ "access_token": access, "token_type": "Bearer", "expires_in": 300 });
        let grant = match &*field("grant_type") {
            "client_credentials" if field("client_id") == "demo" && field("client_secret") == self.keys.second => {
                "client_credentials"
            }
            "client_credentials" => return refused("invalid_client"),
            "refresh_token" if field("refresh_token") == issued.refresh => {
                answer["refresh_token"] = json!(refresh);
                issued.refresh = refresh;
                "refresh_token"
            }
            "urn:ietf:params:oauth:grant-type:jwt-bearer" if self.verifies(&field("assertion"), now) => "jwt_bearer",
            _ => return refused("invalid_grant"),
        };
        issued.access.insert(access, grant);
        (200, answer)
    }

    /// The grant that an access token was issued for.
    pub(super) fn grant_of(&self, token: &str) -> Option<&'static str> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).access.get(token).copied()
    }

    /// ES256 (RFC 7518 section 3.4), issuer, audience and expiry (RFC 7523 section 3).
    fn verifies(&self, assertion: &str, now: SystemTime) -> bool {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let Some((message, signature)) = assertion.rsplit_once('.') else { return false };
        let Some((header, claims)) = message.split_once('.') else { return false };
        let read = |text: &str| part(text).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let (Some(header), Some(claims), Some(signature)) = (read(header), read(claims), part(signature)) else {
            return false;
        };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.keys.signing.public_key_raw());
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        header["alg"] == "ES256"
            && claims["iss"] == "demo"
            && claims["aud"] == TOKEN_URL
            && claims["exp"].as_u64().is_some_and(|exp| exp > seconds)
            && key.verify(message.as_bytes(), &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(identity: &Identity, form: &[(&str, &str)]) -> (u16, Value) {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        identity.token(body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn wrong_clients_used_refresh_tokens_and_unsigned_assertions_are_refused() {
        let keys = Keys::generate().unwrap();
        let identity = Identity::new(keys.clone());
        let refreshing = [("grant_type", "refresh_token"), ("refresh_token", keys.third.as_str())];
        assert_eq!(asked(&identity, &refreshing).0, 200);
        assert_eq!(asked(&identity, &refreshing), (400, json!({ "error": "invalid_grant" })), "a token is used once");
        let client = |secret| [("grant_type", "client_credentials"), ("client_id", "demo"), ("client_secret", secret)];
        let (status, answer) = asked(&identity, &client(&keys.second));
        assert_eq!(
            (status, identity.grant_of(answer["access_token"].as_str().unwrap())),
            (200, Some("client_credentials"))
        );
        assert_eq!(asked(&identity, &client("wrong")), (400, json!({ "error": "invalid_client" })));
        for assertion in ["", "a.b.c", "e30.e30.AAAA"] {
            let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
            assert_eq!(asked(&identity, &form).0, 400);
        }
        assert_eq!(identity.grant_of("made up"), None);
    }
}
