//! The demo's guard with a nonce: verifies answers to its challenges by its own means (RFC 7616).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Algorithm, SHA256, SHA512_256, digest};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;

use super::api::{Call, Reply};
use super::cases::random;

/// Whoever knows the password is let in, and nobody by what somebody else sent.
pub(super) struct Guard {
    password: String,
    /// The nonces that it gave out, and the highest count that came with each.
    nonces: Mutex<BTreeMap<String, u32>>,
}

/// What it asks for at a path.
struct Rule {
    realm: &'static str,
    name: &'static str,
    algorithm: &'static Algorithm,
    qop: &'static str,
}

impl Rule {
    fn at(path: &str) -> Option<Self> {
        match path {
            "/digest" => Some(Self { realm: "the demo", name: "SHA-256", algorithm: &SHA256, qop: "auth" }),
            "/digest/body" => {
                Some(Self { realm: "whole requests", name: "SHA-512-256", algorithm: &SHA512_256, qop: "auth-int" })
            }
            _ => None,
        }
    }

    fn hash(&self, text: &str) -> String {
        self.hash_of(text.as_bytes())
    }

    fn hash_of(&self, bytes: &[u8]) -> String {
        digest(self.algorithm, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Guard {
    pub(super) fn new(password: &str) -> Self {
        Self { password: password.to_owned(), nonces: Mutex::default() }
    }

    /// What its paths answer: a question for whoever shows nothing right.
    pub(super) fn answer(&self, call: &Call<'_>) -> Option<Reply> {
        let path = call.head.uri.path();
        Rule::at(path)?;
        let (received, right) = self.judge(call.head, call.body);
        let reply = Reply::verdict(&received, right);
        Some(match self.challenge(path).filter(|_| !right) {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge),
            None => reply,
        })
    }

    /// The challenge at a path, with another nonce each time; a worse one beside it.
    fn challenge(&self, path: &str) -> Option<String> {
        let rule = Rule::at(path)?;
        let nonce = random().ok()?;
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce.clone(), 0);
        let Rule { realm, name, qop, .. } = rule;
        let asks =
            |algorithm| format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"{qop}\", algorithm={algorithm}");
        Some(format!("{}, {}", asks("MD5"), asks(name)))
    }

    /// What was received, the response left out, and whether it is right.
    fn judge(&self, request: &Parts, body: &[u8]) -> (String, bool) {
        let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(line) = header else { return (String::new(), false) };
        let given = parameters(line);
        let received = format!(
            "Authorization: Digest username=\"{}\", algorithm={}, qop={}, response=[redacted]",
            given.get("username").map_or("", String::as_str),
            given.get("algorithm").map_or("", String::as_str),
            given.get("qop").map_or("", String::as_str),
        );
        let right = self.is_right(&given, request, body).unwrap_or(false);
        (received, right)
    }

    fn is_right(&self, given: &BTreeMap<String, String>, request: &Parts, body: &[u8]) -> Option<bool> {
        let rule = Rule::at(request.uri.path())?;
        let get = |name: &str| given.get(name).map(String::as_str);
        let (nonce, nc, cnonce) = (get("nonce")?, get("nc")?, get("cnonce")?);
        let target = request.uri.path_and_query()?.as_str();
        let mut what = format!("{}:{target}", request.method);
        if rule.qop == "auth-int" {
            what = format!("{what}:{}", rule.hash_of(body));
        }
        let who = rule.hash(&format!("demo:{}:{}", rule.realm, self.password));
        let wanted = rule.hash(&format!("{who}:{nonce}:{nc}:{cnonce}:{}:{}", rule.qop, rule.hash(&what)));
        let fits = get("username") == Some("demo")
            && get("realm") == Some(rule.realm)
            && get("uri") == Some(target)
            && get("algorithm") == Some(rule.name)
            && get("qop") == Some(rule.qop)
            && get("response") == Some(&wanted);
        // A count comes once: what somebody overheard is of no use.
        let count = u32::from_str_radix(nc, 16).ok()?;
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let last = nonces.get_mut(nonce)?;
        let fresh = count > *last;
        if fits && fresh {
            *last = count;
        }
        Some(fits && fresh)
    }
}

/// The parameters of an answer. No value in this demo holds a comma or an escaped quote.
fn parameters(line: &str) -> BTreeMap<String, String> {
    let list = line.strip_prefix("Digest ").unwrap_or_default().split(", ");
    let pairs = list.filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_once_and_for_the_request_that_it_was_made_for() {
        let guard = Guard::new("secret");
        let challenge = guard.challenge("/digest").unwrap();
        let nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        let rule = Rule::at("/digest").unwrap();
        let line = |password: &str, count: u32| {
            let who = rule.hash(&format!("demo:the demo:{password}"));
            let response = rule.hash(&format!("{who}:{nonce}:{count:08x}:c:auth:{}", rule.hash("GET:/digest")));
            format!(
                "Digest username=\"demo\", realm=\"the demo\", algorithm=SHA-256, nonce=\"{nonce}\", uri=\"/digest\", \
                 qop=auth, nc={count:08x}, cnonce=\"c\", response=\"{response}\""
            )
        };
        let judged = |method: &str, line: &str| {
            let request = http::Request::builder().method(method).uri("/digest").header("authorization", line);
            guard.judge(&request.body(()).unwrap().into_parts().0, b"").1
        };
        assert!(!judged("GET", &line("secreu", 1)));
        assert!(!judged("POST", &line("secret", 1)));
        assert!(judged("GET", &line("secret", 1)));
        assert!(!judged("GET", &line("secret", 1)), "replayed");
        assert!(judged("GET", &line("secret", 2)));
        assert!(!judged("GET", &line("secret", 3).replace(nonce, "made up")));
        assert!(!judged("GET", "Digest"));
    }
}
