//! `basic`: user name and password (RFC 7617), in UTF-8.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use http::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Draft, Fields, Identity, Kind, Scheme, Setup, at, settings};
use crate::base::{Authorizer, Mutations, Prepared, Secret};
use crate::base::{Public, SecretField, SecretRef, Unavailable};

pub(super) const KIND: Kind = Kind {
    name: "basic",
    about: "User name and password in an Authorization header (RFC 7617)",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields { secret: &["password"], leading: &[], operators: &[] },
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
    /// May be empty: some services want only the password.
    username: Public,
    password: SecretField,
}

/// RFC 7617 section 2: no colon, no control characters.
pub(super) fn check_username(username: &str) -> Result<(), String> {
    if username.contains(':') {
        return Err("a user name cannot hold a colon (RFC 7617)".into());
    }
    if username.chars().any(char::is_control) {
        return Err("a user name cannot hold control characters (RFC 7617)".into());
    }
    Ok(())
}

/// The value of an Authorization header.
///
/// # Errors
/// When the pair cannot stand in one.
pub(super) fn header(username: &str, password: &Secret) -> Result<HeaderValue, Unavailable> {
    check_username(username).map_err(|message| Unavailable(format!("username: {message}")))?;
    if password.expose().iter().any(u8::is_ascii_control) {
        return Err(Unavailable("password: it holds a control character (RFC 7617)".into()));
    }
    let mut pair = Zeroizing::new(Vec::with_capacity(username.len() + 1 + password.expose().len()));
    pair.extend_from_slice(username.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(password.expose());
    let line = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
    let mut value =
        HeaderValue::from_str(&line).map_err(|_| Unavailable("the password cannot be sent in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        self.username.reference().into_iter().chain([self.password.reference()]).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let username = setup.secrets.public(&self.username)?;
        let value = header(&username, &setup.secrets.field(&self.password)?)?;
        let mutations = Mutations { set: vec![(AUTHORIZATION, value)], ..Mutations::default() };
        Ok(Arc::new(Basic { authorizer: Arc::new(Prepared::new(mutations)) }))
    }
}

#[derive(Debug)]
struct Basic {
    authorizer: Arc<dyn Authorizer>,
}

impl Scheme for Basic {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Fixed(&self.authorizer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn build(username: &str, password: &str) -> Result<Arc<dyn Scheme>, Unavailable> {
        let draft = (KIND.parse)(json!({"username": username, "password": {"env": "P"}})).unwrap();
        let secrets = [(SecretRef::Env { env: "P".into() }, Secret::new(password))].into_iter().collect();
        crate::scheme::tests::build(&*draft, &secrets)
    }

    #[test]
    fn a_colon_in_the_user_name_is_refused_where_it_is_written() {
        let error = (KIND.parse)(json!({"username": "a:b", "password": {"env": "P"}})).unwrap_err();
        assert_eq!(error.path, "username");
    }

    #[test]
    fn a_line_end_inside_the_password_is_refused() {
        assert!(build("u", "p\nq").is_err());
        assert!(build("u", "pä:q").is_ok());
    }

    #[test]
    fn debug_shows_no_password() {
        let scheme = build("u", "canary").unwrap();
        let encoded = STANDARD.encode("u:canary");
        let text = format!("{scheme:?}");
        assert!(!text.contains("canary") && !text.contains(&encoded), "{text}");
    }
}
