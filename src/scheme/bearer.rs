//! A bearer token (RFC 6750), with a header that some APIs want beside it where the caller sent none.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::base::{Authorized, Authorizer, Mutations, Refusal, RequestView};
use crate::token::{Failure, FailureKind, Token};

/// A header that a request gets where its caller sent none: it authenticates nothing, and the caller's own stays.
#[derive(Debug, Clone)]
pub(super) struct Supplied {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    /// The one host that wants it; without it every host does.
    pub(super) host: Option<String>,
}

impl Supplied {
    /// Whether this request gets it.
    pub(super) fn is_missing(&self, view: &RequestView<'_>) -> bool {
        let there = self.host.as_deref().is_none_or(|host| view.destination.host().name() == Some(host));
        there && !view.headers.contains_key(&self.name)
    }
}

/// `Bearer` and a token, as the value of a header.
///
/// # Errors
/// When the token holds what cannot be sent in one.
pub(super) fn line(token: &Token) -> Result<HeaderValue, Failure> {
    let line = Zeroizing::new([b"Bearer ", token.secret.expose()].concat());
    let mut value = HeaderValue::from_bytes(&line).map_err(|_| {
        Failure::new(FailureKind::Unavailable, "the access token holds characters that cannot be sent in a header")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Signs with one token.
#[derive(Debug)]
pub(super) struct Bearer {
    plain: Arc<Mutations>,
    supplied: Option<(Supplied, Arc<Mutations>)>,
}

impl Bearer {
    /// A token's authorizer, made once for it.
    pub(super) fn new(token: &Token, supplied: Option<&Supplied>) -> Result<Self, Failure> {
        let set = vec![(AUTHORIZATION, line(token)?)];
        let with = supplied.map(|header| {
            let set = [&set[..], &[(header.name.clone(), header.value.clone())]].concat();
            (header.clone(), Arc::new(Mutations { set, ..Mutations::default() }))
        });
        Ok(Self { plain: Arc::new(Mutations { set, ..Mutations::default() }), supplied: with })
    }
}

impl Authorizer for Bearer {
    fn authorize(&self, view: &RequestView<'_>, _: SystemTime) -> Result<Authorized, Refusal> {
        let mutations = match &self.supplied {
            Some((header, with)) if header.is_missing(view) => with,
            _ => &self.plain,
        };
        Ok(Authorized { mutations: Arc::clone(mutations), rewrite: None, mark: 0 })
    }
}
