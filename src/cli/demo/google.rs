//! The demo's Google: a token endpoint that verifies assertions, an API, and a service of a customer's that wants an ID token.
//! It shares no code with the scheme.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde_json::{Value, json};

use super::cases::{GOOGLE_RUN, GOOGLE_TOKEN_HOST, PUBSUB, STORAGE, random};

const EMAIL: &str = "demo@demo-project.iam.gserviceaccount.com";
const KEY_ID: &str = "demo-key";

/// A service account: the file that its owner downloads, and what Google keeps of it.
pub(super) struct Account {
    pub(super) file: String,
    public: Vec<u8>,
}

impl Account {
    /// One with a new key.
    pub(super) fn generate() -> Result<Self, String> {
        let made = || {
            let pair = KeyPair::generate(KeySize::Rsa2048)?;
            let private: Pkcs8V1Der<'_> = pair.as_der()?;
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
            let private = pem::encode(&pem::Pem::new("PRIVATE KEY", private.as_ref()));
            Ok::<_, aws_lc_rs::error::Unspecified>((private, public.as_ref().to_vec()))
        };
        let (private, public) = made().map_err(|_| "no RSA key can be made".to_owned())?;
        let file = json!({
            "type": "service_account",
            "project_id": "demo-project",
            "private_key_id": KEY_ID,
            "private_key": private,
            "client_email": EMAIL,
            "token_uri": format!("https://{GOOGLE_TOKEN_HOST}/token"),
        });
        Ok(Self { file: file.to_string(), public })
    }
}

/// What it knows: an account, and for each token that it issued what that is for.
pub(super) struct Google {
    account: Arc<Account>,
    issued: Mutex<HashMap<String, String>>,
}

impl Google {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { account, issued: Mutex::default() }
    }

    /// Answers for the hosts that are Google's, and for no others.
    pub(super) fn answer(&self, request: &Parts, body: &[u8], now: SystemTime) -> Option<(u16, String)> {
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        let host = header("host")?.split(':').next()?;
        let wanted = match host {
            GOOGLE_TOKEN_HOST => {
                let (status, document) = self.token(body, now);
                return Some((status, document.to_string()));
            }
            STORAGE => "https://www.googleapis.com/auth/devstorage.read_only",
            GOOGLE_RUN => "https://reports-demo-uc.a.run.app",
            PUBSUB => "https://pubsub.googleapis.com/",
            _ => return None,
        };
        let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let right = token.is_some_and(|token| match host {
            PUBSUB => claims(&self.account, token, now)
                .is_some_and(|claims| claims["aud"] == wanted && claims["sub"] == EMAIL),
            _ => self
                .issued
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(token)
                .is_some_and(|issued| issued == wanted),
        });
        let (status, verdict) = match (right, token) {
            (true, _) => (200, "the token is right, and for this"),
            (false, Some(_)) => (403, "the token is wrong, or for something else"),
            (false, None) => (401, "no token"),
        };
        let received = if token.is_some() { "Authorization: Bearer [redacted]" } else { "" };
        Some((status, json!({ "received": received, "verdict": verdict }).to_string()))
    }

    /// RFC 7523 section 2.1, and Google's `target_audience`, which is answered with an ID token.
    fn token(&self, form: &[u8], now: SystemTime) -> (u16, Value) {
        let field = |name: &str| {
            let found = url::form_urlencoded::parse(form).find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let refused = |code: &str| (400, json!({ "error": code }));
        if field("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
            return refused("unsupported_grant_type");
        }
        let claims = claims(&self.account, &field("assertion"), now);
        let Some(claims) = claims.filter(|claims| claims["aud"] == "https://oauth2.googleapis.com/token") else {
            return refused("invalid_grant");
        };
        let Ok(made) = random() else { return (500, json!({ "error": "server_error" })) };
        let (token, purpose, answer) = match (&claims["scope"], &claims["target_audience"]) {
            (Value::String(scope), Value::Null) => {
                let answer = json!({ "access_token": made, "expires_in": 3599, "token_type": "Bearer" });
                (made, scope, answer)
            }
            (Value::Null, Value::String(audience)) => {
                let payload = json!({ "aud": audience, "exp": seconds(now) + 3600 }).to_string();
                let token = format!("e30.{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(made));
                let answer = json!({ "id_token": token });
                (token, audience, answer)
            }
            _ => return refused("invalid_scope"),
        };
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).insert(token, purpose.clone());
        (200, answer)
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The claims of a JWT that this account signed with RS256 (RFC 7518 section 3.3) and that lives an hour at most.
fn claims(account: &Account, jwt: &str, now: SystemTime) -> Option<Value> {
    let (message, signature) = jwt.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (header, claims) = (read(header)?, read(claims)?);
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &account.public);
    key.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    let (issued, ends) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?);
    let timely = issued <= seconds(now) + 60 && ends > seconds(now) && ends <= issued + 3600;
    let whose = header["alg"] == "RS256" && header["kid"] == KEY_ID && claims["iss"] == EMAIL;
    (timely && whose).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_were_not_issued_and_assertions_that_are_not_signed_are_refused() {
        let google = Google::new(Arc::new(Account::generate().unwrap()));
        let now = SystemTime::UNIX_EPOCH;
        for assertion in ["", "a.b.c", "e30.e30.AAAA"] {
            let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
            let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            assert_eq!(google.token(body.as_bytes(), now), (400, json!({ "error": "invalid_grant" })));
        }
        for (host, token, status) in
            [(STORAGE, "Bearer made-up", 403), (PUBSUB, "Bearer a.b.c", 403), (GOOGLE_RUN, "Basic x", 401)]
        {
            let request = http::Request::builder().header("host", host).header("authorization", token);
            let request = request.body(()).unwrap().into_parts().0;
            assert_eq!(google.answer(&request, b"", now).unwrap().0, status, "{host}");
        }
        let other = http::Request::builder().header("host", "api.demo.test").body(()).unwrap().into_parts().0;
        assert!(google.answer(&other, b"", now).is_none());
    }
}
