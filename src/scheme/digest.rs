//! `digest`: user name and password, proven by a hash over what the server asks (RFC 7616, and RFC 2617 for old servers).
//!
//! What a server asked is remembered by protection space, so that one challenge serves many requests, also at the same
//! time. How a challenge is read, how it is answered and what is remembered are the three files below this one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use self::session::{Account, Session};
use self::spaces::Spaces;
use super::{Draft, Foresight, Identity, Kind, Scheme, Setup, at, settings};
use crate::base::{Authorizer, Challenge, Challenged, Code, Holds, Mutations, Random, Refusal, RequestView};
use crate::base::{Public, SecretField, SecretRef, Unavailable};

mod challenge;
mod session;
mod spaces;

pub(super) const KIND: Kind = Kind {
    name: "digest",
    about: "User name and password, proven by a hash that answers the server's challenge (RFC 7616)",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    parse: |value| {
        let settings: Settings = settings(value)?;
        if let Public::Literal(username) = &settings.username {
            check_username(username).map_err(|message| at("username", message))?;
        }
        Ok(Box::new(settings))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    username: Public,
    password: SecretField,
    /// Refuses servers that know nothing better than MD5.
    #[serde(default)]
    forbid_md5: bool,
}

/// A colon would move the border between user name and realm inside the hash.
fn check_username(username: &str) -> Result<(), &'static str> {
    if username.is_empty() {
        return Err("a user name is needed");
    }
    if username.contains(':') {
        return Err("a user name cannot hold a colon: the hash joins user name, realm and password with colons");
    }
    if username.chars().any(char::is_control) {
        return Err("a user name cannot hold control characters");
    }
    Ok(())
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        self.username.reference().into_iter().chain([self.password.reference()]).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let username = setup.secrets.public(&self.username)?;
        check_username(&username).map_err(|message| Unavailable(format!("username: {message}")))?;
        let password = setup.secrets.field(&self.password)?;
        if password.expose().iter().any(u8::is_ascii_control) {
            return Err(Unavailable("password: it holds a control character".into()));
        }
        Ok(Arc::new(Digest {
            challenged: Arc::new(Conversation {
                account: Account { username: username.to_string(), password: password.clone() },
                forbid_md5: self.forbid_md5,
                random: Arc::clone(&setup.outside.random),
                spaces: Spaces::default(),
            }),
        }))
    }
}

#[derive(Debug)]
struct Digest {
    challenged: Arc<dyn Challenged>,
}

impl Scheme for Digest {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn foresee(&self, _: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let note = "the first request to a server asks for its challenge, without the body";
        Ok(Foresight { adds: vec![AUTHORIZATION.to_string()], note: Some(note.into()) })
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Challenged(&self.challenged)
    }
}

#[derive(Debug)]
struct Conversation {
    account: Account,
    forbid_md5: bool,
    random: Arc<dyn Random>,
    spaces: Spaces,
}

impl Conversation {
    /// 33 bytes, as in the examples of RFC 7616.
    fn cnonce(&self) -> Result<String, Refusal> {
        let mut bytes = [0; 33];
        if !self.random.fill(&mut bytes) {
            return Err(Refusal::new(Code::Overloaded, "the system has no randomness for an answer to a challenge"));
        }
        Ok(STANDARD.encode(bytes))
    }
}

impl Challenged for Conversation {
    fn holds(&self) -> Holds {
        Holds::ForRequest
    }

    fn remembered(&self, view: &RequestView<'_>) -> Option<Arc<dyn Authorizer>> {
        self.spaces.remembered(view).map(|session| session as Arc<dyn Authorizer>)
    }

    fn opening(&self) -> Result<Mutations, Refusal> {
        Ok(Mutations::default())
    }

    fn answer(&self, view: &RequestView<'_>, challenge: &Challenge<'_>) -> Result<Arc<dyn Authorizer>, Refusal> {
        let asked = challenge::choose(challenge.headers, self.forbid_md5)?;
        let session = Session::begin(asked, &self.account, self.cnonce()?);
        Ok(self.spaces.remember(view, session))
    }

    fn heard(&self, view: &RequestView<'_>, headers: &HeaderMap, refused: bool) {
        if refused {
            self.spaces.refused(view, &challenge::realms(headers));
        } else {
            self.spaces.informed(view, headers);
        }
    }
}

#[cfg(test)]
mod tests;
