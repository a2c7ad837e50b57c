//! The instructions that signing returns: what to remove from a request and what to set. The caller applies them, all or nothing.

use http::header::{COOKIE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::error::Refusal;
use super::secret::Secret;
use super::text::decoded;

/// Instructions to change a request. Header values that carry a secret are marked sensitive by whoever makes them.
#[derive(Debug, Default, Clone)]
pub struct Mutations {
    /// Headers to remove, every copy of each.
    pub remove: Vec<HeaderName>,
    /// Headers to set, in place of any copy there is.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Query pairs to set: the plain name, and the value already percent-encoded. Every pair of that name goes first.
    pub query: Vec<(String, Secret)>,
    /// The path and query to send in place of the request's own, which `query` then changes.
    pub target: Option<PathAndQuery>,
    /// Cookie pairs to set: name and value. Every cookie of that name goes first, the others stay.
    pub cookies: Vec<(String, Secret)>,
}

impl Mutations {
    /// Applies everything to a request head, or nothing.
    ///
    /// # Errors
    /// `bad_request` when the outcome would not be a request.
    pub fn apply(&self, parts: &mut http::request::Parts) -> Result<(), Refusal> {
        let own = self.target.as_ref().or(parts.uri.path_and_query());
        let target = if self.query.is_empty() { self.target.clone() } else { Some(self.rewritten_target(own)?) };
        let cookie = if self.cookies.is_empty() { None } else { Some(self.rewritten_cookie(&parts.headers)?) };
        if let Some(target) = target {
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.path_and_query = Some(target);
            parts.uri = http::Uri::from_parts(uri)
                .map_err(|_| Refusal::bad_request("the query cannot carry the credential"))?;
        }
        for name in &self.remove {
            parts.headers.remove(name);
        }
        for (name, value) in &self.set {
            parts.headers.insert(name.clone(), value.clone());
        }
        if let Some(cookie) = cookie {
            parts.headers.insert(COOKIE, cookie);
        }
        Ok(())
    }

    fn rewritten_target(&self, own: Option<&PathAndQuery>) -> Result<PathAndQuery, Refusal> {
        let mut target = own.map_or("", PathAndQuery::path).to_owned();
        if target.is_empty() {
            target.push('/');
        }
        let mut separator = '?';
        for pair in own.and_then(PathAndQuery::query).unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let name = decoded(pair.split('=').next().unwrap_or_default());
            if self.query.iter().all(|(own, _)| own.as_bytes() != name) {
                target.push(separator);
                target.push_str(pair);
                separator = '&';
            }
        }
        for (name, value) in &self.query {
            target.push(separator);
            separator = '&';
            target.extend(url::form_urlencoded::byte_serialize(name.as_bytes()));
            target.push('=');
            target.push_str(value.expose_str().unwrap_or_default());
        }
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(target))
            .map_err(|_| Refusal::bad_request("the query cannot carry the credential"))
    }

    fn rewritten_cookie(&self, headers: &http::HeaderMap) -> Result<HeaderValue, Refusal> {
        let mut line: Vec<u8> = Vec::new();
        let mut push = |pair: &[u8]| {
            if !line.is_empty() {
                line.extend_from_slice(b"; ");
            }
            line.extend_from_slice(pair);
        };
        for value in headers.get_all(COOKIE) {
            for pair in value.as_bytes().split(|b| *b == b';').map(<[u8]>::trim_ascii) {
                let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
                if !pair.is_empty() && self.cookies.iter().all(|(own, _)| own.as_bytes() != name) {
                    push(pair);
                }
            }
        }
        for (name, value) in &self.cookies {
            push(&[name.as_bytes(), b"=", value.expose()].concat());
        }
        let mut value = HeaderValue::from_bytes(&line)
            .map_err(|_| Refusal::bad_request("the cookie cannot carry the credential"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(mutations: &Mutations, uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        mutations.apply(&mut parts).unwrap();
        parts
    }

    #[test]
    fn a_query_key_replaces_every_copy_of_the_callers_and_leaves_the_rest_byte_for_byte() {
        let mutations = Mutations { query: vec![("api_key".into(), Secret::new("new%2Bkey"))], ..Mutations::default() };
        let parts = applied(&mutations, "https://a.test/p%2fq?b=%20+x&api_key=old&api%5Fkey=sly&=&c", &[]);
        assert_eq!(parts.uri.path_and_query().unwrap(), "/p%2fq?b=%20+x&=&c&api_key=new%2Bkey");
        let parts = applied(&mutations, "https://a.test", &[]);
        assert_eq!(parts.uri.path_and_query().unwrap(), "/?api_key=new%2Bkey");
    }

    #[test]
    fn a_target_takes_the_place_of_the_requests_own() {
        let target = Some(PathAndQuery::from_static("/a%20b?c"));
        let parts = applied(&Mutations { target, ..Mutations::default() }, "https://a.test/a%21?Signature=x&c", &[]);
        assert_eq!(parts.uri, "https://a.test/a%20b?c");
    }

    #[test]
    fn a_cookie_replaces_its_own_name_only() {
        let mutations = Mutations { cookies: vec![("sid".into(), Secret::new("s"))], ..Mutations::default() };
        let parts = applied(&mutations, "/", &[("cookie", "a=1; sid=old"), ("cookie", "SID=2; sid=x")]);
        let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; SID=2; sid=s"]);
        assert!(cookies[0].is_sensitive());
    }

    #[test]
    fn headers_are_set_in_place_of_every_copy() {
        let mutations = Mutations {
            remove: vec![HeaderName::from_static("x-old")],
            set: vec![(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer k"))],
            ..Mutations::default()
        };
        let parts = applied(&mutations, "/", &[("authorization", "a"), ("authorization", "b"), ("x-old", "1")]);
        assert_eq!(parts.headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer k"]);
        assert!(!parts.headers.contains_key("x-old"));
    }
}
