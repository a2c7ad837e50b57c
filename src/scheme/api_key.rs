//! `api_key`: one or more fixed keys in headers, query pairs or cookies (Flexera cred/v2 `api-key`).

use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;

use super::placement::{self, Location, Place};
use super::{Draft, Fields, Identity, Kind, Scheme, SettingsError, Setup, settings};
use crate::base::{Authorizer, Mutations, Prepared};
use crate::base::{SecretField, SecretRef, Unavailable};

pub(super) const KIND: Kind = Kind {
    name: "api_key",
    about: "A fixed key in a header, a query pair or a cookie, with an optional prefix",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields { secret: &["key", "additional[].key"], leading: &[], operators: &[] },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    key: SecretField,
    location: Option<Location>,
    /// `Authorization` unless the key goes into a query pair or a cookie, whose name only the vendor knows.
    field: Option<String>,
    /// Put before the key and one space; a prefix that ends in `=` is joined without one. `Bearer` in a header.
    r#type: Option<String>,
    /// For services that want a second key beside the first.
    #[serde(default)]
    additional: Vec<Additional>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Additional {
    key: SecretField,
    location: Option<Location>,
    field: String,
    #[serde(default)]
    r#type: String,
}

impl Settings {
    /// Each key and where it goes.
    fn places(&self) -> Vec<(&SecretField, Place<'_>)> {
        let first = Place::usual(self.location, self.field.as_deref(), self.r#type.as_deref());
        let location = first.location;
        let more = self.additional.iter().enumerate().map(|(index, entry)| {
            let path = format!("additional[{index}].");
            let location = entry.location.unwrap_or(location);
            (&entry.key, Place { path, location, field: &entry.field, prefix: &entry.r#type })
        });
        std::iter::once((&self.key, first)).chain(more).collect()
    }

    fn check(&self) -> Result<(), SettingsError> {
        placement::check(&self.places().into_iter().map(|(_, place)| place).collect::<Vec<_>>())
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        self.places().iter().map(|(key, _)| key.reference()).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let mut mutations = Mutations::default();
        let mut adds: Vec<String> = Vec::new();
        for (key, place) in self.places() {
            let key = setup.secrets.field(key)?;
            place.put(&key, &mut mutations).map_err(|why| Unavailable(format!("{}key: {why}", place.path)))?;
            adds.extend(place.adds().filter(|added| !adds.contains(added)));
        }
        let owned = mutations.set.iter().map(|(name, _)| name.clone()).collect();
        Ok(Arc::new(ApiKey { owned, adds, authorizer: Arc::new(Prepared::new(mutations)) }))
    }
}

#[derive(Debug)]
struct ApiKey {
    owned: Vec<HeaderName>,
    adds: Vec<String>,
    authorizer: Arc<dyn Authorizer>,
}

impl Scheme for ApiKey {
    fn owned_headers(&self) -> &[HeaderName] {
        &self.owned
    }

    fn adds(&self) -> Vec<String> {
        self.adds.clone()
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Fixed(&self.authorizer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::Secret;

    fn build(mut settings: serde_json::Value, key: &str) -> Result<Arc<dyn Scheme>, String> {
        settings["key"] = json!({"env": "K"});
        let draft = (KIND.parse)(settings).map_err(|error| format!("{}: {}", error.path, error.message))?;
        let secrets = [(SecretRef::Env { env: "K".into() }, Secret::new(key))].into_iter().collect();
        crate::scheme::tests::build(&*draft, &secrets).map_err(|error| error.0)
    }

    #[test]
    fn a_key_with_a_line_end_never_becomes_a_header() {
        assert!(build(json!({}), "a\r\nX-Evil: 1").is_err());
        assert!(build(json!({"location": "cookie", "field": "sid"}), "a; b").is_err());
        assert!(build(json!({"location": "query", "field": "k"}), "a\r\n&b").is_ok(), "percent-encoded");
    }

    #[test]
    fn a_field_that_frames_the_message_is_refused_where_it_is_written() {
        for field in ["Host", "Content-Length", "Proxy-Authorization", "Cookie", "bad name", ""] {
            assert!(build(json!({"field": field}), "k").unwrap_err().starts_with("field:"), "{field}");
        }
        assert!(build(json!({"field": "X-Api-Key", "type": ""}), "k").is_ok());
    }

    #[test]
    fn a_query_key_needs_a_field_and_an_unknown_key_is_named() {
        assert!(build(json!({"location": "query"}), "k").is_err());
        assert!(build(json!({"feild": "x"}), "k").unwrap_err().contains("feild"));
    }

    #[test]
    fn two_keys_in_one_field_are_refused() {
        let twice = json!({"field": "x-key", "additional": [{"field": "X-KEY", "key": {"env": "K"}}]});
        assert!(build(twice, "k").unwrap_err().starts_with("additional[0].field"));
    }

    #[test]
    fn debug_shows_no_key_wherever_it_goes() {
        for settings in
            [json!({}), json!({"location": "query", "field": "k"}), json!({"location": "cookie", "field": "k"})]
        {
            let text = format!("{:?}", build(settings, "canary").unwrap());
            assert!(!text.contains("canary"), "{text}");
        }
    }
}
