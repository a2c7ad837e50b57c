//! The demo's services with logins of their own: a web session, a token for a Basic login, and Apptio Frontdoor. It shares no code with the schemes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{HeaderName, SET_COOKIE};
use serde_json::{Value, json};

use super::api::{Call, Reply};
use super::cases::{FRONTDOOR_HOST, Keys, random};

/// The environment that the demo's customer has.
const ENVIRONMENT: &str = "e0000000-0000-0000-0000-000000000001";

/// What they know: their users' keys, and the sessions that they began.
pub(super) struct Logins {
    keys: Keys,
    /// What each token needs beside it, where it needs anything.
    sessions: Mutex<HashMap<String, String>>,
}

impl Logins {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, sessions: Mutex::default() }
    }

    /// Answers what is for one of them.
    pub(super) fn answer(&self, call: &Call<'_>) -> Option<Reply> {
        let frontdoor = call.header("host").is_some_and(|host| host.split(':').next() == Some(FRONTDOOR_HOST));
        Some(match (&call.head.method, call.head.uri.path()) {
            (&Method::POST, "/session") => self.web_session(call.body),
            (&Method::POST, "/basic/token") => self.basic_token(call),
            (&Method::POST, "/service/apikeylogin") if frontdoor => self.frontdoor_login(call.body),
            (_, "/api/environment/demo.test/main") if frontdoor => self.environment(call),
            (_, "/login/session") => self.judge_session(call),
            (_, "/login/borrowed") => {
                let token = call.header("x-demo-token");
                let right = token.is_some_and(|token| self.began(token).is_some());
                Reply::verdict(token.map_or("", |_| "X-Demo-Token: [redacted]"), right)
            }
            (_, "/v3/views") => {
                let token = call.header("apptio-opentoken");
                let begun = token.is_some_and(|token| self.began(token).is_some());
                let right = begun && call.header("apptio-environmentid") == Some(ENVIRONMENT);
                let received = "apptio-opentoken: [redacted], apptio-environmentid: e0000000-…-000000000001";
                Reply::verdict(token.map_or("", |_| received), right)
            }
            _ => return None,
        })
    }

    /// A form; the session in a cookie, and a second token against forged requests.
    fn web_session(&self, body: &[u8]) -> Reply {
        let field = |name: &str| url::form_urlencoded::parse(body).find(|(key, _)| key == name).map(|(_, value)| value);
        if field("user").as_deref() != Some("demo") || field("password").as_deref() != Some(&*self.keys.first) {
            return refused(401);
        }
        let (Ok(session), Ok(csrf)) = (random(), random()) else { return refused(500) };
        let cookie = format!("demosession={session}; Path=/; Secure; HttpOnly; Max-Age=300");
        self.begin(session, csrf.clone());
        let answer = document(200, &json!({ "user": "demo" })).with(SET_COOKIE, cookie);
        answer.with(HeaderName::from_static("x-csrf-token"), csrf)
    }

    fn judge_session(&self, call: &Call<'_>) -> Reply {
        let cookies = call.header("cookie");
        let session = cookies.and_then(|line| line.split("; ").find_map(|pair| pair.strip_prefix("demosession=")));
        let right = session.and_then(|session| self.began(session));
        let right = right.is_some_and(|csrf| call.header("x-csrf-token") == Some(&csrf));
        Reply::verdict(session.map_or("", |_| "Cookie: demosession=[redacted], X-CSRF-Token: [redacted]"), right)
    }

    /// Basic; the token in JSON.
    fn basic_token(&self, call: &Call<'_>) -> Reply {
        let pair = call.header("authorization").and_then(|value| value.strip_prefix("Basic "));
        let pair = pair.and_then(|pair| STANDARD.decode(pair).ok());
        if pair != Some(format!("demo:{}", self.keys.second).into_bytes()) {
            return refused(401);
        }
        let Ok(token) = random() else { return refused(500) };
        self.begin(token.clone(), String::new());
        document(201, &json!({ "data": { "token": token }, "expires": "2099-01-01T00:00:00Z" }))
    }

    /// Frontdoor: only the second of the key pairs is known to it.
    fn frontdoor_login(&self, body: &[u8]) -> Reply {
        let right = json!({ "keyAccess": "demo-second", "keySecret": self.keys.second });
        if serde_json::from_slice::<Value>(body).ok() != Some(right) {
            return refused(400);
        }
        let Ok(token) = random() else { return refused(500) };
        self.begin(token.clone(), String::new());
        let answer = document(200, &json!({})).with(HeaderName::from_static("apptio-opentoken"), token);
        answer.with(HeaderName::from_static("valid_till"), "4070908800000".into())
    }

    fn environment(&self, call: &Call<'_>) -> Reply {
        match call.header("apptio-opentoken").and_then(|token| self.began(token)) {
            Some(_) => document(200, &json!({ "id": ENVIRONMENT, "name": "main" })),
            None => refused(403),
        }
    }

    fn begin(&self, token: String, beside: String) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(token, beside);
    }

    fn began(&self, token: &str) -> Option<String> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

fn document(status: u16, document: &Value) -> Reply {
    (status, document.to_string()).into()
}

fn refused(status: u16) -> Reply {
    document(status, &json!({ "error": "denied" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(logins: &Logins, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = http::Request::builder().method(method).uri(url).header("host", FRONTDOOR_HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = &request.body(()).unwrap().into_parts().0;
        let now = std::time::SystemTime::UNIX_EPOCH;
        let session = &super::super::ntlm::Session::default();
        logins.answer(&Call { head, body: body.as_bytes(), session, now }).unwrap()
    }

    fn sent<'a>(reply: &'a Reply, name: &str) -> &'a str {
        &reply.headers.iter().find(|(header, _)| header == name).unwrap().1
    }

    #[test]
    fn wrong_keys_made_up_sessions_and_a_missing_half_are_refused() {
        let keys = Keys::generate().unwrap();
        let logins = Logins::new(keys.clone());
        let status =
            |method, url, headers: &[(&str, &str)], body: &str| asked(&logins, method, url, headers, body).status;
        assert_eq!(status("POST", "/session", &[], "user=demo&password=x"), 401);
        let begun = asked(&logins, "POST", "/session", &[], &format!("user=demo&password={}", keys.first));
        let cookie = sent(&begun, "set-cookie").split(';').next().unwrap();
        let both = [("cookie", cookie), ("x-csrf-token", sent(&begun, "x-csrf-token"))];
        assert_eq!(status("GET", "/login/session", &both, ""), 200);
        assert_eq!(status("GET", "/login/session", &both[..1], ""), 401);
        assert_eq!(status("GET", "/login/session", &[("cookie", "demosession=x")], ""), 401);
        assert_eq!(status("POST", "/basic/token", &[("authorization", "Basic ZGVtbzp4")], ""), 401);
        assert_eq!(status("GET", "/login/borrowed", &[("x-demo-token", "x")], ""), 401);
        let pair = |access: &str| json!({ "keyAccess": access, "keySecret": keys.second }).to_string();
        assert_eq!(status("POST", "/service/apikeylogin", &[], &pair("demo-first")), 400);
        let granted = asked(&logins, "POST", "/service/apikeylogin", &[], &pair("demo-second"));
        let token = ("apptio-opentoken", sent(&granted, "apptio-opentoken"));
        assert_eq!(status("GET", "/v3/views", &[token, ("apptio-environmentid", ENVIRONMENT)], ""), 200);
        assert_eq!(status("GET", "/v3/views", &[token], ""), 401);
        assert_eq!(status("GET", "/api/environment/demo.test/main", &[], ""), 403);
    }
}
