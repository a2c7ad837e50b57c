//! `digest`: user name and password, proven by a hash over what the server asks (RFC 7616, and RFC 2617 for old servers).
//!
//! What a server asked is remembered by protection space, so that one challenge serves many requests, also at the same
//! time. How a challenge is read, how it is answered and what is remembered are the three files below this one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use self::session::{Account, Session};
use self::spaces::Spaces;
use super::{Draft, Fields, Foresight, Identity, Kind, Scheme, Setup, at, settings};
use crate::base::{Authorizer, Challenge, Challenged, Code, Holds, Mutations, Random, Refusal, RequestView};
use crate::base::{Public, SecretField, SecretRef, Unavailable};

mod challenge;
mod session;
mod spaces;

pub(super) const KIND: Kind = Kind {
    name: "digest",
    about: "User name and password, proven by a hash that answers the server's challenge (RFC 7616)",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields { secret: &["password"], leading: &["forbid_md5"], operators: &[] },
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
    username: Public,
    password: SecretField,
    /// Refuses servers that know nothing better than MD5.
    #[serde(default)]
    forbid_md5: bool,
}

/// A colon would move the border between user name and realm inside the hash.
fn check_username(username: &str) -> Result<(), &'static str> {
    if username.is_empty() {
        return Err("a user name is needed");
    }
    if username.contains(':') {
        return Err("a user name cannot hold a colon: the hash joins user name, realm and password with colons");
    }
    if username.chars().any(char::is_control) {
        return Err("a user name cannot hold control characters");
    }
    Ok(())
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        self.username.reference().into_iter().chain([self.password.reference()]).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let username = setup.secrets.public(&self.username)?;
        check_username(&username).map_err(|message| Unavailable(format!("username: {message}")))?;
        let password = setup.secrets.field(&self.password)?;
        if password.expose().iter().any(u8::is_ascii_control) {
            return Err(Unavailable("password: it holds a control character".into()));
        }
        Ok(Arc::new(Digest {
            challenged: Arc::new(Conversation {
                account: Account { username: username.to_string(), password: password.clone() },
                forbid_md5: self.forbid_md5,
                random: Arc::clone(&setup.outside.random),
                spaces: Spaces::default(),
            }),
        }))
    }
}

#[derive(Debug)]
struct Digest {
    challenged: Arc<dyn Challenged>,
}

impl Scheme for Digest {
    fn owned_headers(&self) -> &[HeaderName] {
        &[AUTHORIZATION]
    }

    fn foresee(&self, _: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let note = "the first request to a server goes without it, to be asked; a long body stays behind";
        Ok(Foresight { adds: vec![AUTHORIZATION.to_string()], note: Some(note.into()) })
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Challenged(&self.challenged)
    }
}

#[derive(Debug)]
struct Conversation {
    account: Account,
    forbid_md5: bool,
    random: Arc<dyn Random>,
    spaces: Spaces,
}

impl Conversation {
    /// 33 bytes, as in the examples of RFC 7616.
    fn cnonce(&self) -> Result<String, Refusal> {
        let mut bytes = [0; 33];
        if !self.random.fill(&mut bytes) {
            return Err(Refusal::new(Code::Overloaded, "the system has no randomness for an answer to a challenge"));
        }
        Ok(STANDARD.encode(bytes))
    }
}

impl Challenged for Conversation {
    fn holds(&self) -> Holds {
        Holds::ForRequest
    }

    fn remembered(&self, view: &RequestView<'_>) -> Option<Arc<dyn Authorizer>> {
        self.spaces.remembered(view).map(|session| session as Arc<dyn Authorizer>)
    }

    fn opening(&self) -> Result<Mutations, Refusal> {
        Ok(Mutations::default())
    }

    fn answer(&self, view: &RequestView<'_>, challenge: &Challenge<'_>) -> Result<Arc<dyn Authorizer>, Refusal> {
        let asked = challenge::choose(challenge.headers, self.forbid_md5)?;
        let session = Session::begin(asked, &self.account, self.cnonce()?);
        Ok(self.spaces.remember(view, session))
    }

    fn is_stale(&self, headers: &HeaderMap) -> bool {
        challenge::is_stale(headers)
    }

    fn heard(&self, view: &RequestView<'_>, headers: &HeaderMap, refused: bool) {
        if refused {
            self.spaces.refused(view, &challenge::realms(headers));
        } else {
            self.spaces.informed(view, headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};
    use serde_json::json;

    use super::*;
    use crate::base::{Destination, Secret};

    fn build(username: &str, password: &str) -> Result<Arc<dyn Scheme>, Unavailable> {
        let draft = (KIND.parse)(json!({"username": username, "password": {"env": "P"}})).unwrap();
        let secrets = [(SecretRef::Env { env: "P".into() }, Secret::new(password))].into_iter().collect();
        crate::scheme::tests::build(&*draft, &secrets)
    }

    /// A caller of one server, and the server's word.
    struct Talk {
        scheme: Arc<dyn Scheme>,
        host: &'static str,
    }

    impl Talk {
        fn new() -> Self {
            Self { scheme: build("u", "p").unwrap(), host: "www.test:443" }
        }

        fn challenged(&self) -> &dyn Challenged {
            let Identity::Challenged(challenged) = self.scheme.identity() else { panic!("digest is asked") };
            &**challenged
        }

        fn with<T>(&self, target: &str, use_it: impl FnOnce(&RequestView<'_>) -> T) -> T {
            use_it(&RequestView {
                method: &Method::GET,
                path_and_query: target,
                headers: &HeaderMap::new(),
                removed: &HeaderMap::new(),
                destination: &Destination::from_connect(self.host).unwrap(),
                length: Some(0),
                body: None,
                narrowing: None,
            })
        }

        /// Realm, nonce and count of what signs, as `r n 1`.
        fn line(&self, target: &str, authorizer: &dyn Authorizer) -> String {
            let signed = self.with(target, |view| authorizer.authorize(view, std::time::UNIX_EPOCH)).unwrap();
            let line = signed.mutations.set[0].1.to_str().unwrap().to_owned();
            let part = |name: &str| line.split(name).nth(1).unwrap().split(['"', ',']).next().unwrap().to_owned();
            let count = u32::from_str_radix(&part("nc="), 16).unwrap();
            format!("{} {} {count}", part("realm=\""), part(" nonce=\""))
        }

        fn remembered(&self, target: &str) -> Option<String> {
            let authorizer = self.with(target, |view| self.challenged().remembered(view))?;
            Some(self.line(target, &*authorizer))
        }

        fn answer(&self, target: &str, challenge: &str) -> String {
            let headers = headers("www-authenticate", challenge);
            let challenge = Challenge { headers: &headers, certificate: None };
            let authorizer = self.with(target, |view| self.challenged().answer(view, &challenge)).unwrap();
            self.line(target, &*authorizer)
        }

        fn refused(&self, target: &str, challenge: &str) {
            let headers = headers("www-authenticate", challenge);
            self.with(target, |view| self.challenged().heard(view, &headers, true));
        }

        fn informed(&self, target: &str, info: &str) {
            let headers = headers("authentication-info", info);
            self.with(target, |view| self.challenged().heard(view, &headers, false));
        }
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    const R: &str = r#"Digest realm="r", nonce="n", qop="auth""#;
    const S: &str = r#"Digest realm="s", nonce="m", qop="auth""#;

    #[test]
    fn one_challenge_serves_many_requests_and_only_at_its_server() {
        let mut talk = Talk::new();
        assert_eq!(talk.remembered("/a"), None);
        assert_eq!(talk.answer("/a", R), "r n 1");
        assert_eq!(talk.remembered("/a").unwrap(), "r n 2");
        assert_eq!(talk.remembered("/elsewhere?x").unwrap(), "r n 3", "without `domain`, the whole server");
        // A caller that came at the same time and was asked the same.
        assert_eq!(talk.answer("/b", R), "r n 4");
        talk.host = "www.test:444";
        assert_eq!(talk.remembered("/a"), None);
    }

    #[test]
    fn a_stale_nonce_is_forgotten_and_its_count_is_not() {
        let talk = Talk::new();
        talk.answer("/", R);
        talk.refused("/", r#"Digest realm="r", nonce="n2", qop="auth", stale=true"#);
        assert_eq!(talk.remembered("/"), None);
        assert_eq!(talk.answer("/", r#"Digest realm="r", nonce="n2", qop="auth", stale=true"#), "r n2 1");
        assert_eq!(talk.remembered("/").unwrap(), "r n2 2");
        // A slow caller, who asked before.
        assert_eq!(talk.answer("/", R), "r n 2", "no count twice for one nonce");
        assert_eq!(talk.answer("/", r#"Digest realm="r", nonce="n", qop="auth", opaque="o""#), "r n 3");
    }

    #[test]
    fn the_longest_path_chooses_between_the_realms_of_a_server() {
        let talk = Talk::new();
        talk.answer("/one/x", R);
        talk.answer("/two/y", S);
        assert_eq!(talk.remembered("/one/z").unwrap(), "r n 2");
        assert_eq!(talk.remembered("/two/deeper/z").unwrap(), "s m 2");
        assert_eq!(talk.remembered("/three").unwrap(), "s m 3", "whoever asked last");
        // That guess was wrong, which is no fault of its nonce.
        talk.refused("/three", R);
        assert_eq!(talk.answer("/three", R), "r n 3");
        assert_eq!(talk.remembered("/two/y").unwrap(), "s m 4");
        // A folder that changed hands.
        talk.answer("/one/x", S);
        assert_eq!(talk.remembered("/one/z").unwrap(), "s m 6");
    }

    #[test]
    fn a_domain_says_how_far_a_realm_reaches() {
        let talk = Talk::new();
        let domain = "/api https://WWW.test:443/more https://other.test/x http://www.test/y junk";
        talk.answer("/api/login", &format!(r#"{R}, domain="{domain}""#));
        for path in ["/api/login", "/api", "/more/of/it"] {
            assert!(talk.remembered(path).is_some(), "{path}");
        }
        for path in ["/", "/x", "/y", "/login", "junk"] {
            assert_eq!(talk.remembered(path), None, "{path}");
        }
        talk.answer("/", &format!(r#"{S}, domain="https://other.test/x""#));
        assert_eq!(talk.remembered("/x").unwrap(), "s m 2", "a domain that names nothing here");
        assert!(talk.remembered("/api/x").unwrap().starts_with("r n "));
    }

    #[test]
    fn the_server_says_which_nonce_comes_next() {
        let talk = Talk::new();
        talk.answer("/", R);
        talk.informed("/", r#"nextnonce="n2", qop=auth"#);
        assert_eq!(talk.remembered("/").unwrap(), "r n2 1");
        talk.informed("/", r#"nextnonce="n2""#);
        assert_eq!(talk.remembered("/").unwrap(), "r n2 2", "the same again begins nothing");
        talk.informed("/", r#"nextnonce="n""#);
        assert_eq!(talk.remembered("/").unwrap(), "r n2 3", "an answer that was overtaken");
        talk.informed("/", r#"nextnonce="n4", cnonce="of another session""#);
        assert_eq!(talk.remembered("/").unwrap(), "r n2 4");
        talk.informed("/", "nextnonce=");
        assert_eq!(talk.remembered("/").unwrap(), "r n2 5");
        Talk::new().informed("/", r#"nextnonce="n2""#);
    }

    #[test]
    fn a_server_that_makes_up_realms_nonces_and_paths_does_not_fill_the_memory() {
        let account = Account { username: "u".into(), password: Secret::new("p") };
        let random = crate::base::Deps::system().random;
        let conversation = Conversation { account, forbid_md5: false, random, spaces: Spaces::default() };
        let answer = |host: &str, path: &str, challenge: &str| {
            let view = RequestView {
                method: &Method::GET,
                path_and_query: path,
                headers: &HeaderMap::new(),
                removed: &HeaderMap::new(),
                destination: &Destination::from_connect(host).unwrap(),
                length: None,
                body: None,
                narrowing: None,
            };
            let headers = headers("www-authenticate", challenge);
            let signs = conversation.answer(&view, &Challenge { headers: &headers, certificate: None }).unwrap();
            signs.authorize(&view, std::time::UNIX_EPOCH).unwrap();
            conversation.heard(&view, &self::headers("authentication-info", &format!("nextnonce=next-{path}")), false);
            assert!(conversation.remembered(&view).is_some());
        };
        let kept = "kept.test:443";
        for index in 0..1000 {
            answer("www.test:443", &format!("/{index}/x"), &format!("Digest realm=r{index}, nonce=n, qop=auth"));
            answer(&format!("host{index}.test:443"), "/", R);
            answer(kept, &format!("/{index}/x"), &format!("Digest realm=r, nonce=n{index}, qop=auth"));
            answer(kept, &format!("/{}/x", "long/".repeat(1000)), R);
        }
        assert_eq!(conversation.spaces.sizes(), (128, 4, 16));
    }

    #[test]
    fn what_the_hash_cannot_hold_is_refused_where_it_is_written() {
        for (username, why) in [("a:b", "colon"), ("", "needed"), ("a\nb", "control")] {
            let error = (KIND.parse)(json!({"username": username, "password": {"env": "P"}})).unwrap_err();
            assert!(error.path == "username" && error.message.contains(why), "{error:?}");
        }
        let reference = json!({"username": {"env": "U"}, "password": {"env": "P"}});
        let secret = |name: &str, value: &str| (SecretRef::Env { env: name.into() }, Secret::new(value));
        let secrets = [secret("U", "a:b"), secret("P", "p")].into_iter().collect();
        let error = crate::scheme::tests::build(&*(KIND.parse)(reference).unwrap(), &secrets).unwrap_err();
        assert!(error.0.starts_with("username: "), "{error}");
        assert!(build("u", "p\nq").unwrap_err().0.starts_with("password: "));
        assert!(build("J\u{e4}s\u{f8}n", "pä:q").is_ok());
    }

    #[test]
    fn without_randomness_nothing_is_answered() {
        #[derive(Debug)]
        struct Dry;
        impl Random for Dry {
            fn fill(&self, _: &mut [u8]) -> bool {
                false
            }
        }
        let account = Account { username: "u".into(), password: Secret::new("p") };
        let conversation =
            Conversation { account, forbid_md5: false, random: Arc::new(Dry), spaces: Spaces::default() };
        assert!(conversation.cnonce().is_err());
    }

    #[test]
    fn debug_shows_neither_password_nor_what_stands_for_it() {
        let talk = Talk { scheme: build("u", "canary").unwrap(), host: "www.test:443" };
        talk.answer("/", R);
        let text = format!("{:?}", talk.scheme);
        let hash = crate::base::text::hex(&<md5::Md5 as md5::Digest>::digest(b"u:r:canary"));
        assert!(text.contains("realm") && !text.contains("canary") && !text.contains(&hash), "{text}");
    }
}
