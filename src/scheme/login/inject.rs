//! Where the tokens of a login go in every call: headers, cookies and query pairs, each with a template.

use std::collections::{BTreeMap, BTreeSet};

use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::{SettingsError, at, is_reserved};
use crate::base::{Mutations, Public, Secret, Secrets, Unavailable};

/// One of `inject`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inject {
    header: Option<String>,
    cookie: Option<String>,
    query: Option<String>,
    /// `{token}` and the like stand for tokens. What a reference gives is sent as it is.
    value: Option<Public>,
}

/// Where something goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Token(String),
}

/// What is put into every call.
#[derive(Debug)]
pub(super) struct Injection {
    target: Target,
    pieces: Vec<Piece>,
    /// In place of pieces.
    fixed: Option<Secret>,
}

impl Inject {
    /// `Authorization: Bearer {token}`.
    pub(super) fn bearer() -> Self {
        let value = Some(Public::Literal("Bearer {token}".into()));
        Self { header: Some("Authorization".into()), cookie: None, query: None, value }
    }

    /// Its value, if that is more than the token.
    pub(super) fn value(&self) -> Option<&Public> {
        self.value.as_ref()
    }

    fn target(&self) -> Result<Target, String> {
        match (&self.header, &self.cookie, &self.query) {
            (Some(name), None, None) => {
                let header =
                    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header name"))?;
                if is_reserved(&header) {
                    return Err(format!("{name} belongs to the connection, not to a credential"));
                }
                Ok(Target::Header(header))
            }
            (None, Some(name), None) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Target::Cookie(name.clone()))
            }
            (None, Some(name), None) => Err(format!("`{name}` is not a cookie name (RFC 6265 section 4.1.1)")),
            (None, None, Some(name)) if !name.is_empty() => Ok(Target::Query(name.clone())),
            _ => Err("it goes to one place: write `header: NAME`, `cookie: NAME` or `query: NAME`".into()),
        }
    }

    fn pieces(&self) -> Result<Vec<Piece>, String> {
        let template = match &self.value {
            None => "{token}",
            Some(Public::Literal(text)) => text,
            Some(Public::Reference(_)) => return Ok(Vec::new()),
        };
        if template.chars().any(char::is_control) {
            return Err("it holds control characters".into());
        }
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            let (name, tail) = after.split_once('}').ok_or("a `{` without a `}`; a token stands as `{token}`")?;
            pieces.extend((!text.is_empty()).then(|| Piece::Text(text.to_owned())));
            pieces.push(Piece::Token(name.to_owned()));
            rest = tail;
        }
        pieces.extend((!rest.is_empty()).then(|| Piece::Text(rest.to_owned())));
        Ok(pieces)
    }
}

/// Checks what is injected against the tokens that there are.
pub(super) fn check(injects: &[Inject], tokens: &BTreeSet<String>) -> Result<(), SettingsError> {
    let (mut used, mut targets) = (BTreeSet::new(), Vec::new());
    for (index, inject) in injects.iter().enumerate() {
        let here =
            |key: &str| if injects.len() == 1 { format!("inject{key}") } else { format!("inject[{index}]{key}") };
        let target = inject.target().map_err(|why| at(here(""), why))?;
        if targets.contains(&target) {
            return Err(at(here(""), "two of them go to one place"));
        }
        targets.push(target);
        for piece in inject.pieces().map_err(|why| at(here(".value"), why))? {
            let Piece::Token(name) = piece else { continue };
            if !tokens.contains(&name) {
                let known: Vec<_> = tokens.iter().map(|name| format!("{{{name}}}")).collect();
                return Err(at(
                    here(".value"),
                    format!("there is no token {{{name}}}; there are {}", known.join(", ")),
                ));
            }
            used.insert(name);
        }
    }
    match tokens.iter().find(|name| !used.contains(*name)) {
        Some(name) => Err(at("inject", format!("the token {{{name}}} goes nowhere"))),
        None => Ok(()),
    }
}

impl Injection {
    /// What was checked, with its secrets.
    ///
    /// # Errors
    /// When a secret is not there, or cannot be sent.
    pub(super) fn of(inject: &Inject, secrets: &Secrets) -> Result<Self, Unavailable> {
        let fixed = match inject.value() {
            Some(Public::Reference(reference)) => Some(secrets.get(reference)?),
            Some(Public::Literal(_)) | None => None,
        };
        let (target, pieces) = (inject.target().map_err(Unavailable)?, inject.pieces().map_err(Unavailable)?);
        let injection = Self { target, pieces, fixed };
        if let Some(fixed) = &injection.fixed {
            let unfit = |_| Unavailable("inject: a secret holds characters that cannot be sent there".into());
            injection.put(fixed.expose(), &mut Mutations::default()).map_err(unfit)?;
        }
        Ok(injection)
    }

    /// The header that it sets, if it does.
    pub(super) fn header(&self) -> Option<&HeaderName> {
        match &self.target {
            Target::Header(name) => Some(name),
            Target::Cookie(_) | Target::Query(_) => None,
        }
    }

    /// What it adds beside headers, for people.
    pub(super) fn adds(&self) -> Option<String> {
        match &self.target {
            Target::Header(_) => None,
            Target::Cookie(_) => Some("cookie".into()),
            Target::Query(name) => Some(format!("?{name}")),
        }
    }

    /// Adds its part to the instructions.
    ///
    /// # Errors
    /// When a token holds what cannot be sent there: it would become another header, cookie or pair.
    pub(super) fn fill(&self, tokens: &BTreeMap<String, String>, mutations: &mut Mutations) -> Result<(), String> {
        let mut text = Zeroizing::new(Vec::new());
        match &self.fixed {
            Some(fixed) => text.extend_from_slice(fixed.expose()),
            None => {
                for piece in &self.pieces {
                    text.extend_from_slice(match piece {
                        Piece::Text(text) => text.as_bytes(),
                        Piece::Token(name) => tokens.get(name).ok_or("a token is missing")?.as_bytes(),
                    });
                }
            }
        }
        self.put(&text, mutations)
    }

    fn put(&self, text: &[u8], mutations: &mut Mutations) -> Result<(), String> {
        let unfit = |place: &str| format!("the token holds characters that cannot be sent in a {place}");
        match &self.target {
            Target::Header(name) => {
                let mut value = HeaderValue::from_bytes(text).map_err(|_| unfit("header"))?;
                value.set_sensitive(true);
                mutations.set.push((name.clone(), value));
            }
            Target::Cookie(name) => {
                // Browsers return quotes and commas as they came; what ends a cookie or a line is never one.
                if text.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b';') {
                    return Err(unfit("cookie"));
                }
                mutations.cookies.push((name.clone(), Secret::new(text)));
            }
            Target::Query(name) => {
                let encoded: String = url::form_urlencoded::byte_serialize(text).collect();
                mutations.query.push((name.clone(), Secret::new(encoded)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn injects(value: Value) -> Vec<Inject> {
        serde_json::from_value(value).unwrap()
    }

    fn checked(value: Value) -> Result<(), String> {
        let tokens = ["token".to_owned(), "csrf".to_owned()].into();
        check(&injects(value), &tokens).map_err(|error| format!("{}: {}", error.path, error.message))
    }

    fn filled(value: Value, token: &str) -> Result<Mutations, String> {
        let mut mutations = Mutations::default();
        let tokens = [("token".to_owned(), token.to_owned())].into();
        for inject in injects(value) {
            Injection::of(&inject, &Secrets::default()).unwrap().fill(&tokens, &mut mutations)?;
        }
        Ok(mutations)
    }

    #[test]
    fn every_token_goes_somewhere_and_every_place_has_one_value() {
        assert!(checked(json!([{"cookie": "sid"}, {"header": "X-CSRF", "value": "{csrf}"}])).is_ok());
        for (wrong, path) in [
            (json!([{"cookie": "sid"}]), "inject: the token {csrf} goes nowhere"),
            (json!([{"header": "a", "value": "{token}{csrf}"}, {"header": "A"}]), "inject[1]: two"),
            (json!([{"header": "a", "value": "{token}{csrf}{x}"}]), "inject.value: there is no token {x}"),
            (json!([{"header": "a", "value": "{token"}]), "inject.value: a `{`"),
            (json!([{"header": "a", "value": "{token}\r\nX: {csrf}"}]), "inject.value: it holds control"),
            (json!([{"header": "Host"}]), "inject: Host belongs"),
            (json!([{"header": "a b"}]), "inject: `a b` is not"),
            (json!([{"cookie": "a;b"}]), "inject: `a;b` is not"),
            (json!([{"header": "a", "cookie": "b"}]), "inject: it goes to one place"),
            (json!([{"value": "{token}"}]), "inject: it goes to one place"),
        ] {
            let error = checked(wrong).unwrap_err();
            assert!(error.starts_with(path), "{error}");
        }
    }

    #[test]
    fn templates_are_filled() {
        let all = json!([{"header": "Authorization", "value": "Token token=\"{token}\""}, {"query": "k", "value": "a {token}"}, {"cookie": "sid"}, {"header": "x-version", "value": "2"}]);
        let mutations = filled(all, "t&1").unwrap();
        assert_eq!(mutations.set[0].1, "Token token=\"t&1\"");
        assert!(mutations.set[0].1.is_sensitive());
        assert_eq!(mutations.set[1].1, "2");
        assert_eq!(mutations.query[0].1.expose_str(), Some("a+t%261"));
        assert_eq!(mutations.cookies[0].1.expose_str(), Some("t&1"));
    }

    #[test]
    fn a_hostile_token_becomes_no_second_header_and_no_second_cookie() {
        for token in ["t\r\nX-Evil: 1", "t\n", "\0", "t\u{7f}"] {
            assert!(filled(json!([{"header": "x"}]), token).unwrap_err().contains("header"), "{token:?}");
            assert!(filled(json!([{"cookie": "x"}]), token).unwrap_err().contains("cookie"), "{token:?}");
            assert!(filled(json!([{"query": "x"}]), token).is_ok(), "percent-encoded");
        }
        for token in ["t; admin=1", "a b", "é"] {
            assert!(filled(json!([{"cookie": "x"}]), token).is_err(), "{token:?}");
        }
        assert!(filled(json!([{"cookie": "x"}]), "\"a,b\"").is_ok());
    }
}
