//! AWS keys: the two or three parts that sign together, and when they end.

use std::fmt;
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::{Deserialize, Serialize};

use crate::base::Secret;

/// What signs for AWS: an access key, and for a session its token. `Debug` shows the access key's id alone.
///
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_access-keys.html>
#[derive(Clone)]
pub struct Keys {
    /// The id, which stands in every signature for all to see (`AKIA…`, `ASIA…`).
    pub access_key: String,
    /// The secret access key.
    pub secret_key: Secret,
    /// The session's token, if these are a session's keys.
    pub session_token: Option<Secret>,
}

impl Keys {
    /// Keys whose parts can be sent.
    ///
    /// # Errors
    /// Which part is not of the form it has, and never its value.
    pub fn new(access_key: impl Into<String>, secret: Secret, token: Option<Secret>) -> Result<Self, String> {
        let keys = Self { access_key: access_key.into(), secret_key: secret, session_token: token };
        keys.check().map(|()| keys)
    }

    /// Whether the parts can be sent: an id as AWS and those who speak like it write it (3 to 128 of `[A-Za-z0-9_.-]`),
    /// secrets without control characters, a session token that can stand in a header.
    ///
    /// # Errors
    /// Which part is not of the form it has, and never its value: it may be another secret, put there by mistake.
    pub fn check(&self) -> Result<(), String> {
        let id = self.access_key.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !(3..=128).contains(&id.len()) || !id.iter().all(plain) {
            return Err("the access key id is not one: it has 3 to 128 letters and digits, as in AKIA…".into());
        }
        let secret = self.secret_key.expose_str().unwrap_or_default();
        if secret.is_empty() || secret.trim() != secret || secret.chars().any(char::is_control) {
            return Err("the secret access key is empty, not text, or has white space or control characters".into());
        }
        let fit = |token: &Secret| !token.is_empty() && token.expose().iter().all(u8::is_ascii_graphic);
        if !self.session_token.as_ref().is_none_or(fit) {
            return Err("the session token is empty or has characters that cannot stand in a header".into());
        }
        Ok(())
    }

    /// All parts as one secret, for [`Token::secret`](crate::token::Token::secret); read by [`Keys::from_secret`].
    pub fn to_secret(&self) -> Secret {
        let parts = Parts {
            access_key: &self.access_key,
            secret_key: self.secret_key.expose_str().unwrap_or_default(),
            session_token: self.session_token.as_ref().and_then(Secret::expose_str),
        };
        // Three strings are always JSON.
        Secret::new(serde_json::to_vec(&parts).unwrap_or_default())
    }

    /// The keys that [`Keys::to_secret`] wrote; `None` for anything else.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let parts: OwnedParts = serde_json::from_slice(secret.expose()).ok()?;
        Self::new(parts.access_key, Secret::new(parts.secret_key), parts.session_token.map(Secret::new)).ok()
    }

    /// What no error may repeat.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        std::iter::once(&self.secret_key).chain(&self.session_token).cloned().collect()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Parts<'a> {
    access_key: &'a str,
    secret_key: &'a str,
    session_token: Option<&'a str>,
}

#[derive(Deserialize)]
struct OwnedParts {
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
}

/// Keys that somebody gave us.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The keys.
    pub keys: Keys,
    /// They are not to be used from here on; `None` for keys that do not end.
    pub expires_at: Option<SystemTime>,
    /// Where they come from, for people.
    pub source: &'static str,
}

/// A moment as AWS writes it: ISO 8601, with `Z` or an offset. `None` for anything else.
pub(super) fn moment(text: &str) -> Option<SystemTime> {
    let moment = DateTime::from_str(text.trim(), Format::DateTimeWithOffset).ok()?;
    SystemTime::try_from(moment).ok()
}

/// Keys as metadata services and credential processes write them, which differ in the name of the token.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Document {
    /// `1` for a credential process.
    pub(super) version: Option<u64>,
    /// `Success`, or what went wrong, of the instance metadata service.
    pub(super) code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    #[serde(alias = "Token")]
    session_token: Option<String>,
    expiration: Option<String>,
}

impl Document {
    /// Reads the document; what the parser says of it is not repeated, since it quotes values.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|_| "it is not the JSON document that AWS describes".to_owned())
    }

    /// The keys in it, which must not have ended.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(super) fn keys(self, source: &'static str, now: SystemTime) -> Result<Issued, String> {
        let (Some(id), Some(secret)) = (self.access_key_id, self.secret_access_key) else {
            return Err("there is no AccessKeyId or no SecretAccessKey in it".into());
        };
        let token = self.session_token.filter(|token| !token.is_empty()).map(Secret::new);
        let keys = Keys::new(id, Secret::new(secret), token)?;
        let Some(text) = self.expiration else { return Ok(Issued { keys, expires_at: None, source }) };
        let end = moment(&text).ok_or("its Expiration is not a date as in 2030-01-31T12:00:00Z")?;
        if end <= now {
            // As it was written: it was just read as a date, so there is nothing else in it.
            return Err(format!("its keys ended at {}", text.trim()));
        }
        Ok(Issued { keys, expires_at: Some(end), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIAIOSFODNN7EXAMPLE";

    fn keys(id: &str, secret: &str, token: Option<&str>) -> Result<Keys, String> {
        Keys::new(id, Secret::new(secret), token.map(Secret::new))
    }

    #[test]
    fn keys_go_into_one_secret_and_come_back() {
        for token in [None, Some("FwoGZXIvYXdzE\"\\/+=")] {
            let secret = keys(ID, "wJalrXUtnFEMI/K7MDENG+b\"PxRfi", token).unwrap().to_secret();
            let back = Keys::from_secret(&secret).unwrap();
            assert_eq!(back.access_key, ID);
            assert_eq!(back.secret_key.expose(), b"wJalrXUtnFEMI/K7MDENG+b\"PxRfi");
            assert_eq!(back.session_token.as_ref().and_then(Secret::expose_str), token);
        }
        assert!(Keys::from_secret(&Secret::new("AKIA")).is_none());
        assert!(Keys::from_secret(&Secret::new(r#"{"access_key":"no key","secret_key":"s"}"#)).is_none());
    }

    #[test]
    fn debug_shows_the_id_and_no_secret() {
        let text = format!("{:?}", keys(ID, "the-secret", Some("the-token")).unwrap());
        assert!(text.contains(ID) && !text.contains("the-"), "{text}");
    }

    #[test]
    fn a_part_that_cannot_be_sent_is_named_without_its_value() {
        let long = "A".repeat(129);
        for id in ["AK", &long, "AKIAIOSFODNN7EXAMPL\r\n", "AKIA/OSFODNN7EXAMPLE", ""] {
            assert!(keys(id, "s", None).unwrap_err().contains("access key id"), "{id}");
        }
        assert!(keys(&long[..128], "s", None).is_ok() && keys("minio-admin", "s", None).is_ok());
        for secret in ["", "hidden\n", " hidden", "hid\u{7}den"] {
            let error = keys(ID, secret, None).unwrap_err();
            assert!(error.contains("secret access key") && !error.contains("hidden"), "{error}");
        }
        for token in ["", "hidden\r\nX: y", "hidden token", "hiddén"] {
            let error = keys(ID, "s", Some(token)).unwrap_err();
            assert!(error.contains("session token") && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_document_gives_its_keys_or_says_what_is_missing() {
        let read = |json: &str| Document::read(json.as_bytes()).and_then(|document| document.keys("x", now()));
        let whole = r#"{"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-14T23:13:20+01:00"}"#;
        let issued = read(whole).unwrap();
        assert_eq!(issued.expires_at, moment("2023-11-14T22:13:20Z"));
        assert_eq!(issued.keys.session_token.unwrap().expose(), b"t");
        let endless = read(&whole.replace(r#","Expiration":"2023-11-14T23:13:20+01:00""#, "")).unwrap();
        assert_eq!(endless.expires_at, None);
        for (json, said) in [
            (whole.replace("T23:13:20", "T23:13:19"), "ended at 2023-11-14T23:13:19+01:00"),
            (whole.replace("2023-11-14T", "soon "), "Expiration"),
            (whole.replace("AccessKeyId", "Id"), "AccessKeyId"),
            (whole.replace("SecretAccessKey", "Secret"), "SecretAccessKey"),
            (whole.replace("\"s\"", "4711"), "JSON document"),
            (whole.replace("\"s\"", "\"s\\n\""), "secret access key"),
            (String::new(), "JSON document"),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.contains(said) && !error.contains("4711"), "{json}: {error}");
        }
    }

    fn now() -> SystemTime {
        moment("2023-11-14T22:13:19Z").unwrap()
    }
}
