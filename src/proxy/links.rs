//! On a reverse route, `Location` and `Link` that point at the upstream are rewritten to the route, so that the next page
//! comes through us. Nothing else of an answer is touched.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, LINK, LOCATION};

use crate::base::{Destination, Protocol};
use crate::route::PathPrefix;

/// Where a reverse route stands, seen from its caller.
#[derive(Debug, Clone)]
pub struct Links {
    /// How the caller reaches us.
    pub protocol: Protocol,
    /// The authority as the caller wrote it, such as `127.0.0.1:8181`.
    pub authority: HeaderValue,
    /// The prefix of the route.
    pub prefix: PathPrefix,
    /// The path below which the upstream is called, without a slash at the end; usually empty.
    pub base: Arc<str>,
}

impl Links {
    /// Rewrites the links of an answer from this upstream.
    pub(super) fn rewrite(&self, headers: &mut HeaderMap, upstream: &Destination) {
        if let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok())
            && let Some(rewritten) = self.target(location, upstream)
        {
            set(headers, LOCATION, &rewritten);
        }
        if headers.contains_key(LINK) {
            let lines: Vec<HeaderValue> =
                headers.get_all(LINK).iter().map(|value| self.link(value, upstream)).collect();
            headers.remove(LINK);
            for line in lines {
                headers.append(LINK, line);
            }
        }
    }

    /// The route's address for a target of the upstream's; `None` for targets elsewhere and for those relative to the
    /// present path, which are right as they are.
    fn target(&self, target: &str, upstream: &Destination) -> Option<String> {
        let path = if target.starts_with("//") {
            Self::path_at(target.strip_prefix("//")?, upstream)?
        } else if target.starts_with('/') {
            target
        } else {
            let (scheme, rest) = target.split_once("://")?;
            let same = scheme.eq_ignore_ascii_case(upstream.protocol().as_str());
            Self::path_at(rest, upstream).filter(|_| same)?
        };
        let below =
            path.strip_prefix(&*self.base).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))?;
        let authority = self.authority.to_str().ok()?;
        Some(format!("{}://{authority}{}{below}", self.protocol.as_str(), self.prefix.as_str()))
    }

    /// What follows the authority, if that is the upstream's.
    fn path_at<'t>(rest: &'t str, upstream: &Destination) -> Option<&'t str> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        upstream.is_named_by(authority.as_bytes()).then_some(path)
    }

    /// Rewrites every `<target>` of a Link line (RFC 8288), leaving what stands between them.
    fn link(&self, value: &HeaderValue, upstream: &Destination) -> HeaderValue {
        let Ok(line) = value.to_str() else { return value.clone() };
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(open) = rest.find('<') {
            let Some(close) = rest[open..].find('>') else { break };
            let target = &rest[open + 1..open + close];
            out.push_str(&rest[..=open]);
            out.push_str(self.target(target, upstream).as_deref().unwrap_or(target));
            rest = &rest[open + close..];
        }
        out.push_str(rest);
        HeaderValue::from_str(&out).unwrap_or_else(|_| value.clone())
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(base: &str, name: HeaderName, value: &str) -> String {
        let links = Links {
            protocol: Protocol::Http,
            authority: HeaderValue::from_static("127.0.0.1:8181"),
            prefix: PathPrefix::parse("/azure").unwrap(),
            base: base.into(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(name.clone(), value.parse().unwrap());
        links.rewrite(&mut headers, &Destination::from_upstream("https://api.test").unwrap());
        headers[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_location_at_the_upstream_becomes_the_routes() {
        for (from, to) in [
            ("https://api.test/next?page=2", "http://127.0.0.1:8181/azure/next?page=2"),
            ("https://API.test:443/a", "http://127.0.0.1:8181/azure/a"),
            ("https://api.test", "http://127.0.0.1:8181/azure"),
            ("//api.test/a", "http://127.0.0.1:8181/azure/a"),
            ("/a#b", "http://127.0.0.1:8181/azure/a#b"),
        ] {
            assert_eq!(rewritten("", LOCATION, from), to);
        }
    }

    #[test]
    fn a_location_elsewhere_or_relative_stays() {
        for same in [
            "https://evil.test/next",
            "http://api.test/a",
            "https://api.test@evil.test/",
            "https://api.test.evil.test/",
            "next",
            "?page=2",
            "https://api.test:8443/a",
        ] {
            assert_eq!(rewritten("", LOCATION, same), same);
        }
        assert_eq!(rewritten("/v1", LOCATION, "/v10/a"), "/v10/a");
        assert_eq!(rewritten("/v1", LOCATION, "/v1/a"), "http://127.0.0.1:8181/azure/a");
    }

    #[test]
    fn every_target_of_a_link_line_is_looked_at() {
        assert_eq!(
            rewritten(
                "",
                LINK,
                "<https://api.test/?p=2>; rel=\"next\", <https://other.test/>; rel=help, </l>; rel=last"
            ),
            "<http://127.0.0.1:8181/azure/?p=2>; rel=\"next\", <https://other.test/>; rel=help, \
             <http://127.0.0.1:8181/azure/l>; rel=last"
        );
        assert_eq!(rewritten("", LINK, "<unclosed"), "<unclosed");
    }
}
