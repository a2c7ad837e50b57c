//! Keys that several schemes have: lists that may be one text, a service's address, headers that it wants beside the credential.

use std::collections::BTreeMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{SettingsError, at, is_reserved};
use crate::base::request::is_spelling_of;
use crate::base::{Destination, Protocol, Public, SecretRef, Secrets, Unavailable};

/// One text or a list of them.
#[derive(Debug, Default)]
pub(super) struct OneOrMany(pub(super) Vec<Public>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through a value, so that the error is the one of the form that was written.
        match Value::deserialize(deserializer)? {
            Value::Array(values) => values.into_iter().map(Public::deserialize).collect::<Result<_, _>>(),
            value => Public::deserialize(value).map(|one| vec![one]),
        }
        .map(Self)
        .map_err(de::Error::custom)
    }
}

/// The address of a service that a credential's own secret is sent to.
///
/// # Errors
/// What is wrong with it, or that the secret would travel unencrypted.
pub(super) fn endpoint(url: &str, allow_cleartext: bool) -> Result<Destination, String> {
    let endpoint = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
    if endpoint.protocol() == Protocol::Http && !allow_cleartext {
        return Err("the credential would travel unencrypted; use https, or set `allow_cleartext: true` on it".into());
    }
    Ok(endpoint)
}

/// Whether a field of this name holds a secret, which does not stand in the configuration file.
pub(super) fn is_confidential(name: &str) -> bool {
    let name: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let ends = [
        "password",
        "passwd",
        "pass",
        "pwd",
        "passphrase",
        "passcode",
        "secret",
        "token",
        "apikey",
        "secretkey",
        "privatekey",
        "sharedkey",
    ];
    name == "pin" || ends.iter().any(|end| name.ends_with(end))
}

/// `additional_headers`.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct AdditionalHeaders(BTreeMap<String, OneOrMany>);

impl AdditionalHeaders {
    /// Each name, and whether there is one value of it. `taken` is the header that is used otherwise, and for what.
    pub(super) fn check(&self, taken: Option<(&HeaderName, &str)>) -> Result<(), SettingsError> {
        for name in self.0.keys() {
            let wrong = |why: &str| at(format!("additional_headers.{name}"), why);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("not a header name"))?;
            if is_reserved(&name) || is_spelling_of(name.as_str(), "content-type") {
                return Err(wrong("this header belongs to the request itself"));
            }
            if let Some((taken, why)) = taken
                && is_spelling_of(name.as_str(), taken.as_str())
            {
                return Err(wrong(why));
            }
        }
        Ok(())
    }

    /// Whether each header has one value, which is all that a call can be given.
    pub(super) fn check_single(&self) -> Result<(), SettingsError> {
        match self.0.iter().find(|(_, values)| values.0.len() != 1) {
            Some((name, _)) => Err(at(format!("additional_headers.{name}"), "one value is sent; join them by commas")),
            None => Ok(()),
        }
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &SecretRef> {
        self.0.values().flat_map(|values| &values.0).filter_map(Public::reference)
    }

    /// What is sent. Values that came by reference are marked.
    pub(super) fn build(&self, secrets: &Secrets) -> Result<HeaderMap, Unavailable> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.0 {
            let unfit = || Unavailable(format!("additional_headers.{name}: it cannot be sent in a header"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            for field in &values.0 {
                let value = secrets.public(field)?;
                let mut value = HeaderValue::from_str(&value).map_err(|_| unfit())?;
                value.set_sensitive(field.reference().is_some());
                headers.append(header.clone(), value);
            }
        }
        Ok(headers)
    }
}
