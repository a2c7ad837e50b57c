//! The demo's API for JWTs, and the service that hands one out: verified by its own means (RFC 7515, RFC 7518, RFC 7519). It
//! shares no code with the schemes.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::{Value, json};

use super::cases::{Keys, random};

/// What it knows: its callers' keys, the JWTs it was sent, the tokens it handed out.
pub(super) struct Jwt {
    keys: Keys,
    seen: Mutex<Vec<String>>,
    issued: Mutex<Vec<String>>,
}

/// A JWT, taken apart. Nothing of it is verified yet.
struct Opened<'a> {
    header: Value,
    claims: Value,
    message: &'a str,
    signature: Vec<u8>,
}

fn opened(jwt: &str) -> Option<Opened<'_>> {
    let (message, signature) = jwt.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let part = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let read = |text: &str| part(text).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    Some(Opened { header: read(header)?, claims: read(claims)?, message, signature: part(signature)? })
}

impl Jwt {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, seen: Mutex::default(), issued: Mutex::default() }
    }

    /// Answers a request for one of its paths; `None` for any other.
    pub(super) fn answer(&self, request: &Parts, now: SystemTime) -> Option<(u16, String)> {
        let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if request.uri.path() == "/jwt-token" {
            return Some(self.hand_out(request, header));
        }
        let kind = request.uri.path().strip_prefix("/jwt/")?;
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let verdict = match (kind, token) {
            (_, None) => Err("no credential"),
            ("private-key", Some(token)) => self.verify(token, now, |opened| {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.keys.signing.public_key_raw());
                opened.header["alg"] == "ES256" && key.verify(opened.message.as_bytes(), &opened.signature).is_ok()
            }),
            ("shared-secret", Some(token)) => self.verify(token, now, |opened| {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.keys.second.as_bytes());
                opened.header["alg"] == "HS256"
                    && hmac::verify(&key, opened.message.as_bytes(), &opened.signature).is_ok()
            }),
            (_, Some(token)) => {
                let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
                let number = issued.iter().position(|known| known == token);
                number.map(|number| format!("token {} is right", number + 1)).ok_or("the token is unknown")
            }
        };
        let beside = request.headers.get("x-token-type").map_or("", |_| ", X-Token-Type: DEMO");
        let received = token.map_or_else(String::new, |_| format!("Authorization: Bearer [redacted]{beside}"));
        let (status, verdict) = verdict.map_or_else(|why| (401, why.to_owned()), |right| (200, right));
        Some((status, json!({ "received": received, "verdict": verdict }).to_string()))
    }

    /// The signature, who says it to whom, and when; each JWT it never saw before gets a number.
    fn verify(
        &self,
        jwt: &str,
        now: SystemTime,
        signature: impl Fn(&Opened<'_>) -> bool,
    ) -> Result<String, &'static str> {
        let opened = opened(jwt).ok_or("it is no JWT")?;
        if !signature(&opened) {
            return Err("the signature is wrong");
        }
        let claims = &opened.claims;
        if claims["iss"] != "demo" || claims["aud"] != "demo-api" || opened.header["kid"] != "demo-key" {
            return Err("it is not from the demo or not for it");
        }
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (Some(from), Some(to)) = (claims["iat"].as_u64(), claims["exp"].as_u64()) else {
            return Err("it has no time");
        };
        if !(from..to).contains(&seconds) || to - from > 600 {
            return Err("its time is over, or too long");
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let number = seen.iter().position(|known| known == jwt).unwrap_or_else(|| {
            seen.push(jwt.to_owned());
            seen.len() - 1
        });
        Ok(format!("the signature of JWT {} is right", number + 1))
    }

    /// A token for user name, password and account, over GET.
    fn hand_out(&self, request: &Parts, header: Option<&str>) -> (u16, String) {
        let right = format!("Basic {}", STANDARD.encode(format!("demo:{}", self.keys.second)));
        let account = request.headers.get("x-account").is_some_and(|account| account == "demo");
        match random() {
            Ok(token) if request.method == http::Method::GET && header == Some(&*right) && account => {
                self.issued.lock().unwrap_or_else(PoisonError::into_inner).push(token.clone());
                (200, json!({ "access_token": token, "expires_in": 300 }).to_string())
            }
            _ => (401, json!({ "error": "unauthorized" }).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(api: &Jwt, path: &str, authorization: &str) -> u16 {
        let request = http::Request::get(path).header("authorization", authorization).header("x-account", "demo");
        api.answer(&request.body(()).unwrap().into_parts().0, SystemTime::UNIX_EPOCH).unwrap().0
    }

    fn signed(secret: &str, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&json!({ "alg": "HS256", "kid": "demo-key" })), encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes())))
    }

    #[test]
    fn other_secrets_audiences_and_times_are_refused() {
        let keys = Keys::generate().unwrap();
        let api = Jwt::new(keys.clone());
        let claims = json!({ "iss": "demo", "aud": "demo-api", "iat": 0, "exp": 300 });
        assert_eq!(asked(&api, "/jwt/shared-secret", &signed(&keys.second, &claims)), 200);
        assert_eq!(asked(&api, "/jwt/shared-secret", &signed(&keys.first, &claims)), 401);
        assert_eq!(asked(&api, "/jwt/private-key", &signed(&keys.second, &claims)), 401);
        for (claim, value) in [("aud", json!("else")), ("iss", json!("else")), ("exp", json!(0)), ("iat", json!(1))] {
            let mut wrong = claims.clone();
            wrong[claim] = value;
            assert_eq!(asked(&api, "/jwt/shared-secret", &signed(&keys.second, &wrong)), 401, "{claim}");
        }
        for path in ["/jwt/shared-secret", "/jwt/fetched", "/jwt-token"] {
            for header in ["", "Bearer a.b.c", "Bearer e30.e30.AAAA", "Basic ZGVtbzo="] {
                assert_eq!(asked(&api, path, header), 401, "{path} {header}");
            }
        }
    }
}
