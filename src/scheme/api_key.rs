//! `api_key`: one or more fixed keys in headers, query pairs or cookies (Flexera cred/v2 `api-key`).

use std::sync::Arc;

use http::HeaderName;
use http::header::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Draft, Identity, Kind, Scheme, SettingsError, Setup, at, is_reserved, settings};
use crate::base::request::is_spelling_of;
use crate::base::{Authorizer, Mutations, Prepared, Secret};
use crate::base::{SecretField, SecretRef, Unavailable};

pub(super) const KIND: Kind = Kind {
    name: "api_key",
    about: "A fixed key in a header, a query pair or a cookie, with an optional prefix",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Location {
    Header,
    Query,
    Cookie,
}

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

/// One key and where it goes, every default filled in.
struct Place<'a> {
    path: String,
    key: &'a SecretField,
    location: Location,
    field: &'a str,
    prefix: &'a str,
}

impl Settings {
    fn places(&self) -> Vec<Place<'_>> {
        let location = self.location.unwrap_or(Location::Header);
        let (field, prefix) = match location {
            Location::Header => ("Authorization", "Bearer"),
            Location::Query | Location::Cookie => ("", ""),
        };
        let first = Place {
            path: String::new(),
            key: &self.key,
            location,
            field: self.field.as_deref().unwrap_or(field),
            prefix: self.r#type.as_deref().unwrap_or(prefix),
        };
        let more = self.additional.iter().enumerate().map(|(index, entry)| Place {
            path: format!("additional[{index}]."),
            key: &entry.key,
            location: entry.location.unwrap_or(location),
            field: &entry.field,
            prefix: &entry.r#type,
        });
        std::iter::once(first).chain(more).collect()
    }

    fn check(&self) -> Result<(), SettingsError> {
        let mut seen: Vec<(Location, String)> = Vec::new();
        for place in self.places() {
            let wrong = |message: &str| at(format!("{}field", place.path), message);
            if place.field.is_empty() {
                return Err(wrong("`field` is needed: the name of the query pair or cookie"));
            }
            match place.location {
                Location::Header => {
                    let name = header_name(place.field).ok_or_else(|| wrong("not a header name"))?;
                    if is_reserved(&name) {
                        return Err(wrong("this header belongs to the connection, not to a credential"));
                    }
                }
                Location::Cookie if header_name(place.field).is_none() => {
                    return Err(wrong("not a cookie name (RFC 6265 section 4.1.1)"));
                }
                Location::Cookie | Location::Query => {}
            }
            let same = |(location, field): &(Location, String)| {
                let lower = place.field.to_ascii_lowercase();
                *location == place.location && (is_spelling_of(field, &lower) || *field == lower)
            };
            if seen.iter().any(same) {
                return Err(wrong("two keys cannot stand in one field"));
            }
            seen.push((place.location, place.field.to_ascii_lowercase()));
            if place.prefix.bytes().any(|b| b.is_ascii_control()) {
                return Err(at(format!("{}type", place.path), "a prefix cannot hold control characters"));
            }
        }
        Ok(())
    }
}

fn header_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        self.places().iter().map(|place| place.key.reference()).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let mut mutations = Mutations::default();
        for place in self.places() {
            let key = setup.secrets.field(place.key)?;
            let unfit = || Unavailable(format!("{}key: it holds characters that cannot be sent there", place.path));
            let line = prefixed(place.prefix, &key);
            match place.location {
                Location::Header => {
                    let name = header_name(place.field).ok_or_else(unfit)?;
                    let mut value = HeaderValue::from_bytes(&line).map_err(|_| unfit())?;
                    value.set_sensitive(true);
                    mutations.set.push((name, value));
                }
                Location::Query => {
                    let encoded: String = url::form_urlencoded::byte_serialize(&line).collect();
                    mutations.query.push((place.field.to_owned(), Secret::new(encoded)));
                }
                Location::Cookie => {
                    if line.iter().any(|b| !is_cookie_octet(*b)) {
                        return Err(unfit());
                    }
                    mutations.cookies.push((place.field.to_owned(), Secret::new(line.to_vec())));
                }
            }
        }
        let owned = mutations.set.iter().map(|(name, _)| name.clone()).collect();
        let cookies = mutations.cookies.first().map(|_| "cookie".to_owned());
        let adds = cookies.into_iter().chain(mutations.query.iter().map(|(name, _)| format!("?{name}"))).collect();
        Ok(Arc::new(ApiKey { owned, adds, authorizer: Arc::new(Prepared::new(mutations)) }))
    }
}

fn prefixed(prefix: &str, key: &Secret) -> Zeroizing<Vec<u8>> {
    let separator = if prefix.is_empty() || prefix.ends_with('=') { "" } else { " " };
    Zeroizing::new([prefix.as_bytes(), separator.as_bytes(), key.expose()].concat())
}

/// RFC 6265 section 4.1.1.
fn is_cookie_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
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
