//! The demo's Flexera One: a login that knows two grants, and an API that takes what it issued. It shares no code with the schemes.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use http::request::Parts;
use serde_json::json;

use super::cases::{Keys, random};

pub(super) const LOGIN: &str = "login.flexera.com";
pub(super) const API: &str = "api.flexera.com";

/// The login and what it issued.
pub(super) struct Flexera {
    keys: Keys,
    issued: Mutex<HashSet<String>>,
}

impl Flexera {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, issued: Mutex::default() }
    }

    /// Answers for the names that are Flexera's.
    pub(super) fn answer(&self, request: &Parts, body: &[u8]) -> Option<(u16, String)> {
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match header("host").unwrap_or_default().split(':').next().unwrap_or_default() {
            LOGIN => {
                let mut fields: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
                fields.sort();
                let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
                let account = [
                    ("client_id", "demo"),
                    ("client_secret", &*self.keys.second),
                    ("grant_type", "client_credentials"),
                ];
                let person = [("grant_type", "refresh_token"), ("refresh_token", &*self.keys.third)];
                match random() {
                    // A field too many is as wrong as one that is missing.
                    Ok(token) if fields == account || fields == person => {
                        issued.insert(token.clone());
                        (200, json!({ "access_token": token, "expires_in": 3600, "token_type": "Bearer" }))
                    }
                    _ => (
                        401,
                        json!({ "name": "unauthorized", "id": "demo", "message": "AccessDenied", "fault": false }),
                    ),
                }
            }
            API => {
                let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
                let right = token.is_some_and(|token| issued.contains(token));
                let (status, verdict) = match (token, right) {
                    (_, true) => (200, "the credential is right"),
                    (None, _) => (401, "no credential"),
                    _ => (401, "the credential is wrong"),
                };
                let received = token.map_or("", |_| "Authorization: Bearer [redacted]");
                (status, json!({ "received": received, "verdict": verdict }))
            }
            _ => return None,
        };
        Some((answer.0, answer.1.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(flexera: &Flexera, form: &[(&str, &str)]) -> u16 {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = http::Request::post("/oidc/token").header("host", LOGIN).body(()).unwrap();
        flexera.answer(&request.into_parts().0, body.as_bytes()).unwrap().0
    }

    #[test]
    fn wrong_clients_and_whatever_is_sent_beside_a_refresh_token_are_refused() {
        let flexera = Flexera::new(Keys::generate().unwrap());
        let (secret, refresh) = (flexera.keys.second.clone(), flexera.keys.third.clone());
        let client = |secret| [("grant_type", "client_credentials"), ("client_id", "demo"), ("client_secret", secret)];
        let person = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
        assert_eq!((asked(&flexera, &client(&secret)), asked(&flexera, &person)), (200, 200));
        assert_eq!(asked(&flexera, &client("wrong")), 401);
        assert_eq!(asked(&flexera, &[&person[..], &[("client_id", "demo")]].concat()), 401);
        let request = http::Request::get("/x").header("host", API).header("authorization", "Bearer made up");
        assert_eq!(flexera.answer(&request.body(()).unwrap().into_parts().0, b"").unwrap().0, 401);
    }
}
