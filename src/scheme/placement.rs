//! Where a key or a token goes in a request: into a header, a query pair or a cookie, behind a prefix (Flexera cred/v2 `api-key`).

use http::HeaderName;
use http::header::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{SettingsError, at, is_reserved};
use crate::base::request::is_spelling_of;
use crate::base::{Mutations, Secret};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Location {
    Header,
    Query,
    Cookie,
}

/// One place, every default filled in.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Where its keys stand below the credential, up to and with the last dot.
    pub(super) path: String,
    pub(super) location: Location,
    pub(super) field: &'a str,
    pub(super) prefix: &'a str,
}

impl<'a> Place<'a> {
    /// `Authorization: Bearer` unless it is a query pair or a cookie, whose name only the vendor knows.
    pub(super) fn usual(location: Option<Location>, field: Option<&'a str>, prefix: Option<&'a str>) -> Self {
        let location = location.unwrap_or(Location::Header);
        let usual = match location {
            Location::Header => ("Authorization", "Bearer"),
            Location::Query | Location::Cookie => ("", ""),
        };
        Self { path: String::new(), location, field: field.unwrap_or(usual.0), prefix: prefix.unwrap_or(usual.1) }
    }

    /// Puts a secret there.
    ///
    /// # Errors
    /// When it holds characters that cannot be sent there.
    pub(super) fn put(&self, secret: &Secret, mutations: &mut Mutations) -> Result<(), &'static str> {
        const UNFIT: &str = "it holds characters that cannot be sent there";
        let line = prefixed(self.prefix, secret);
        match self.location {
            Location::Header => {
                let name = header_name(self.field).ok_or(UNFIT)?;
                let mut value = HeaderValue::from_bytes(&line).map_err(|_| UNFIT)?;
                value.set_sensitive(true);
                mutations.set.push((name, value));
            }
            Location::Query => {
                let encoded: String = url::form_urlencoded::byte_serialize(&line).collect();
                mutations.query.push((self.field.to_owned(), Secret::new(encoded)));
            }
            Location::Cookie => {
                if line.iter().any(|b| !is_cookie_octet(*b)) {
                    return Err(UNFIT);
                }
                mutations.cookies.push((self.field.to_owned(), Secret::new(line.to_vec())));
            }
        }
        Ok(())
    }

    /// The header, if it is one.
    pub(super) fn header(&self) -> Option<HeaderName> {
        if self.location == Location::Header { header_name(self.field) } else { None }
    }

    /// What is added that is no header of its own, for people.
    pub(super) fn adds(&self) -> Option<String> {
        match self.location {
            Location::Header => None,
            Location::Query => Some(format!("?{}", self.field)),
            Location::Cookie => Some("cookie".into()),
        }
    }
}

/// Whether each place can be used, and no two are one.
pub(super) fn check(places: &[Place<'_>]) -> Result<(), SettingsError> {
    let mut seen: Vec<(Location, String)> = Vec::new();
    for place in places {
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

fn header_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

/// One space between, unless the prefix ends in `=`.
fn prefixed(prefix: &str, key: &Secret) -> Zeroizing<Vec<u8>> {
    let separator = if prefix.is_empty() || prefix.ends_with('=') { "" } else { " " };
    Zeroizing::new([prefix.as_bytes(), separator.as_bytes(), key.expose()].concat())
}

/// RFC 6265 section 4.1.1.
fn is_cookie_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}
