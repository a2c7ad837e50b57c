//! Lending: a credential signs a request that another credential's scheme makes itself, to the hosts it is for and no others.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, SHA512_256, digest};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request};
use md5::Digest as _;

use super::binding::CredentialEntry;
use crate::base::request::{BodyDigest, is_spelling_of};
use crate::base::{
    Authorizer, BodyNeed, BoxFuture, Clock, Code, Destination, Refusal, RequestSigner, RequestView, SignedRequest,
};
use crate::scheme::{Identity, Lender, Lent, LentToken};

/// The credentials of one configuration, for each other.
#[derive(Debug)]
pub struct Lending {
    clock: Arc<dyn Clock>,
    /// What each is made of.
    fingerprints: ArcSwap<HashMap<String, String>>,
    /// Those that are built. Not kept alive: what borrows is one of them.
    entries: ArcSwap<HashMap<Arc<str>, Weak<CredentialEntry>>>,
}

impl Lending {
    /// Lends nothing before [`Lending::open`]. `fingerprints` are digests of everything that each credential is made of.
    pub fn new(clock: Arc<dyn Clock>, fingerprints: HashMap<String, String>) -> Self {
        Self { clock, fingerprints: ArcSwap::from_pointee(fingerprints), entries: ArcSwap::default() }
    }

    /// From now on these are lent. Opened anew when more are built: those whose secrets rest in a store that one of the
    /// others authenticates.
    pub fn open<'a>(&self, entries: impl Iterator<Item = &'a Arc<CredentialEntry>>) {
        let entries = entries.map(|entry| (Arc::clone(&entry.id), Arc::downgrade(entry)));
        self.entries.store(Arc::new(entries.collect()));
    }

    /// What each credential is made of, now that more secrets are known.
    pub fn describe(&self, fingerprints: HashMap<String, String>) {
        self.fingerprints.store(Arc::new(fingerprints));
    }

    async fn signed(&self, id: &str, request: Request<Vec<u8>>) -> Result<Lent, Refusal> {
        let unusable = |why: String| Refusal::new(Code::CredentialRejected, format!("credential {id}: {why}"));
        let entry = self.entries.load().get(id).and_then(Weak::upgrade);
        let gone = || Refusal::new(Code::TokenEndpointUnavailable, format!("credential {id}: it cannot be used now"));
        let entry = entry.ok_or_else(gone)?;
        let destination = Destination::from_absolute(request.uri())?;
        if !entry.is_for(&destination) {
            let host = destination.host();
            let why = format!("credential {id} is not for {host}; list it under its `hosts`");
            return Err(Refusal::new(Code::DestinationForbidden, why));
        }
        // It may be loaded again at any moment, so this is no verdict about it.
        let now = |why: String| Refusal::new(Code::TokenEndpointUnavailable, format!("credential {id}: {why}"));
        entry.wake().await.map_err(|error| now(error.0))?;
        let scheme = entry.scheme_now().map_err(now)?;
        let mut token = None;
        let authorizer: Arc<dyn Authorizer> = match scheme.identity() {
            Identity::Fixed(authorizer) => Arc::clone(authorizer),
            Identity::Token(handle) => {
                let live = handle.obtain().await?;
                let authorizer = Arc::clone(live.authorizer());
                token = Some(LentToken { handle: Arc::clone(handle), live });
                authorizer
            }
            Identity::Challenged(_) => {
                return Err(unusable(format!("scheme {} cannot authenticate a login", entry.scheme)));
            }
        };
        let (mut parts, body) = request.into_parts();
        for owned in scheme.owned_headers() {
            let spellings: Vec<_> =
                parts.headers.keys().filter(|name| is_spelling_of(name.as_str(), owned.as_str())).cloned().collect();
            for name in spellings {
                parts.headers.remove(name);
            }
        }
        parts.headers.insert(HOST, destination.host_header().clone());
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
        let mut view = RequestView {
            method: &parts.method,
            path_and_query: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            headers: &parts.headers,
            removed: &HeaderMap::new(),
            destination: &destination,
            length: Some(body.len() as u64),
            body: None,
            narrowing: None,
        };
        let facts = facts(authorizer.body_need(&view)?, &body);
        view.body = facts.as_ref();
        let authorized = authorizer.authorize(&view, self.clock.now())?;
        authorized.mutations.apply(&mut parts)?;
        // The client writes both itself.
        parts.headers.remove(HOST);
        parts.headers.remove(CONTENT_LENGTH);
        Ok(Lent { request: Request::from_parts(parts, body), token })
    }
}

impl RequestSigner for Lending {
    fn sign<'a>(
        &'a self,
        credential: &'a str,
        request: Request<Vec<u8>>,
    ) -> BoxFuture<'a, Result<SignedRequest, Refusal>> {
        Box::pin(async move {
            let Lent { request, token } = self.signed(credential, request).await?;
            let refused = token.map(|token| Box::new(move || token.refused()) as Box<dyn FnOnce() -> bool + Send>);
            Ok(SignedRequest { request, refused })
        })
    }
}

/// What an authorizer wants to know of a body that is all there.
fn facts(need: BodyNeed, body: &[u8]) -> Option<BodyDigest> {
    let further: Option<Box<[u8]>> = match need {
        BodyNeed::None => return None,
        BodyNeed::Sha256 => None,
        BodyNeed::Md5 => Some(md5::Md5::digest(body).as_slice().into()),
        BodyNeed::Sha512Trunc256 => Some(digest(&SHA512_256, body).as_ref().into()),
    };
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, body).as_ref());
    Some(BodyDigest { sha256, further, length: body.len() as u64, whole: Some(body.to_vec().into()) })
}

impl Lender for Lending {
    fn fingerprint(&self, id: &str) -> Option<String> {
        self.fingerprints.load().get(id).cloned()
    }

    fn sign<'a>(&'a self, id: &'a str, request: Request<Vec<u8>>) -> BoxFuture<'a, Result<Lent, Refusal>> {
        Box::pin(self.signed(id, request))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

    use super::*;
    use crate::base::{Deps, Mutations, Prepared};
    use crate::route::{HostPattern, Readiness};
    use crate::scheme::Scheme;

    /// Signs with the SHA-256 of the body.
    #[derive(Debug)]
    struct Hashing(Arc<dyn Authorizer>);

    #[derive(Debug)]
    struct HashAuthorizer;

    impl Authorizer for HashAuthorizer {
        fn body_need(&self, _: &RequestView<'_>) -> Result<BodyNeed, Refusal> {
            Ok(BodyNeed::Sha256)
        }

        fn authorize(
            &self,
            view: &RequestView<'_>,
            _: std::time::SystemTime,
        ) -> Result<crate::base::Authorized, Refusal> {
            let digest = view.body.unwrap();
            let text = format!(
                "{} {} {} {} {}",
                view.method,
                view.path_and_query,
                view.headers[HOST].to_str().unwrap(),
                digest.length,
                crate::base::text::hex(&digest.sha256[..2]),
            );
            let set = vec![(AUTHORIZATION, HeaderValue::from_str(&text).unwrap())];
            Ok(Mutations { set, ..Mutations::default() }.into())
        }
    }

    impl Scheme for Hashing {
        fn owned_headers(&self) -> &[HeaderName] {
            &[AUTHORIZATION]
        }

        fn identity(&self) -> Identity<'_> {
            Identity::Fixed(&self.0)
        }
    }

    fn entry(id: &str, host: &str, authorizer: Arc<dyn Authorizer>) -> Arc<CredentialEntry> {
        let ready = Readiness::Ready(Arc::new(Hashing(authorizer)));
        Arc::new(CredentialEntry::new(id, "test", vec![HostPattern::parse(host).unwrap()], true, ready))
    }

    fn lending<'a>(entries: impl IntoIterator<Item = &'a Arc<CredentialEntry>>) -> Lending {
        let lending = Lending::new(Deps::system().clock, HashMap::from([("a".to_owned(), "digest".to_owned())]));
        lending.open(entries.into_iter());
        lending
    }

    fn request() -> Request<Vec<u8>> {
        let request = Request::post("https://login.test/x?y=1").header("authorization", "worthless");
        request.header("Authorization_", "stays").body(b"body".to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_signed_as_it_will_be_sent() {
        let entry = entry("a", "login.test", Arc::new(HashAuthorizer));
        let lending = lending([&entry]);
        let lent = lending.signed("a", request()).await.unwrap();
        // SHA-256 of `body` begins with 230d.
        assert_eq!(lent.request.headers()[AUTHORIZATION], "POST /x?y=1 login.test 4 230d");
        assert!(!lent.request.headers().contains_key(HOST) && lent.token.is_none());
        assert_eq!(lent.request.body(), b"body");
        assert_eq!((lending.fingerprint("a").as_deref(), lending.fingerprint("b")), (Some("digest"), None));
    }

    #[tokio::test]
    async fn a_query_key_goes_into_the_address() {
        let query = vec![("key".to_owned(), crate::base::Secret::new("k%261"))];
        let entry = entry("a", "*.test", Arc::new(Prepared::new(Mutations { query, ..Mutations::default() })));
        let lent = lending([&entry]).signed("a", request()).await.unwrap();
        assert_eq!(lent.request.uri(), "https://login.test/x?y=1&key=k%261");
    }

    #[tokio::test]
    async fn what_is_for_another_host_or_not_there_lends_nothing() {
        let away = entry("a", "api.test", Arc::new(HashAuthorizer));
        let refusal = lending([&away]).signed("a", request()).await.unwrap_err();
        assert_eq!(refusal.code, Code::DestinationForbidden);
        assert!(refusal.detail.contains("credential a is not for login.test; list it under its `hosts`"), "{refusal}");
        let refusal = lending([&away]).signed("b", request()).await.unwrap_err();
        assert_eq!(refusal.code, Code::TokenEndpointUnavailable);
        let gone = lending([&entry("a", "login.test", Arc::new(HashAuthorizer))]);
        assert_eq!(
            gone.signed("a", request()).await.unwrap_err().code,
            Code::TokenEndpointUnavailable,
            "it keeps nobody alive"
        );
        let off = Readiness::Unusable("it is switched off".into());
        let hosts = vec![HostPattern::parse("login.test").unwrap()];
        let off = Arc::new(CredentialEntry::new("a", "test", hosts, false, off));
        let refusal = lending([&off]).signed("a", request()).await.unwrap_err();
        assert!(refusal.detail.contains("it is switched off"), "{refusal}");
    }
}
