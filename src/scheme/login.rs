//! `login`: a request to a login address hands out a token, which then goes with every call: the way of the many services
//! that have a login of their own in place of OAuth2.

mod body;
mod inject;
mod session;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};

use self::body::{Tree, form};
use self::inject::{Inject, Injection};
use self::session::{Borrowed, Login, Session, Wanted};
use self::settings::{Basic, Settings, Spot};
use super::{Draft, Fields, Kind, Loan, Obtained, Scheme, Setup, basic};
use crate::base::{ClientOptions, Destination, Public, Secret, SecretField, SecretRef, Unavailable};
use crate::token::Service;

pub(super) const KIND: Kind = Kind {
    name: "login",
    about: "A token from a service's own login, put into headers, cookies or the query of every call",
    default_hosts: &[],
    strangers: |_| false,
    narrows: None,
    fields: Fields {
        secret: &[
            "client_certificate",
            "client_key",
            "basic.password",
            "form.*",
            "json.**",
            "additional_headers.*",
            "inject.value?",
            "inject[].value?",
        ],
        leading: &["login_url", "credential", "allow_cleartext"],
        operators: &["allow_addresses"],
    },
    parse: |value| {
        let settings: Settings = super::settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Used when an answer says nothing of a lifetime. Short, since a token that ended earlier costs the caller a 401.
const UNSAID_LIFETIME: Duration = Duration::from_secs(300);

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let values = self.inject.iter().filter_map(Inject::value);
        let public = [Some(&self.login_url), self.basic.as_ref().map(|basic| &basic.username)].into_iter().flatten();
        let public = public.chain(self.form.values()).chain(values);
        let secret = [
            self.basic.as_ref().map(|basic| &basic.password),
            self.client_certificate.as_ref(),
            self.client_key.as_ref(),
        ];
        public
            .filter_map(Public::reference)
            .chain(secret.into_iter().flatten().map(SecretField::reference))
            .chain(self.json.iter().flat_map(Tree::references))
            .chain(self.additional_headers.references())
            .collect()
    }

    fn borrows(&self) -> Option<Loan<'_>> {
        let destination = match &self.login_url {
            Public::Literal(url) => Destination::from_upstream(url).ok(),
            Public::Reference(_) => None,
        };
        self.credential.as_deref().map(|credential| Loan { credential, destination })
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let secrets = setup.secrets;
        let unfit = |path: &str, why: String| Unavailable(format!("{path}: {why}"));
        let url = secrets.public(&self.login_url)?;
        let endpoint = self.endpoint(&url).map_err(|why| match self.login_url.reference() {
            // What it holds may be another secret, put there by mistake.
            Some(reference) => unfit("login_url", format!("what {reference} holds is not an address that can be used")),
            None => unfit("login_url", why),
        })?;
        let uri: Uri = url.parse().map_err(|_| unfit("login_url", "not an address".into()))?;
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some((secrets.field(certificate)?, secrets.field(key)?)),
            _ => None,
        };
        let options =
            ClientOptions { allow_addresses: self.allow_addresses.clone(), identity, ..ClientOptions::default() };
        let http = setup.outside.http.client(&endpoint, &options);
        let http = http.map_err(|why| unfit("client_certificate", why))?;
        let mut key = setup.token_key(self)?;
        let confidential = setup.confidential(self)?;
        let lender = &setup.outside.lender;
        if let Some(id) = &self.credential {
            let fingerprint = lender.fingerprint(id);
            let fingerprint = fingerprint.ok_or_else(|| unfit("credential", format!("there is no credential {id}")))?;
            key = key.with("credential", fingerprint);
        }
        let borrowed = self.credential.clone().map(|id| Borrowed { id, lender: Arc::clone(lender) });
        let (headers, body) = self.request(setup)?;
        let login = Login {
            service: Service::new(endpoint, http),
            method: self.method().map_err(|why| unfit("method", why))?,
            uri,
            headers,
            body,
            borrowed,
            confidential,
            rejected: statuses(self.rejected.as_deref(), &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]),
        };
        let place = |spot: &Spot| spot.place().map_err(|why| unfit("token", why));
        let tokens = self.spots().map(|(name, spot)| Ok((name.to_owned(), place(spot)?)));
        let wanted = Wanted {
            tokens: tokens.collect::<Result<_, Unavailable>>()?,
            lifetime: self.lifetime.as_ref().map(|spot| Ok((place(spot)?, spot.form))).transpose()?,
            unsaid_lifetime: self.token_lifetime.unwrap_or(UNSAID_LIFETIME),
        };
        let injections =
            self.injects().iter().map(|inject| Injection::of(inject, secrets)).collect::<Result<Vec<_>, _>>()?;
        let owned = injections.iter().filter_map(|injection| injection.header().cloned()).collect();
        let mut adds: Vec<String> = injections.iter().filter_map(Injection::adds).collect();
        adds.dedup();
        let expired = statuses(self.expired.as_deref(), &[StatusCode::UNAUTHORIZED]);
        let session = Session { login, wanted, injections, expired: expired.into() };
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(session));
        Ok(Arc::new(Obtained { handle: Arc::new(handle), owned, adds }))
    }
}

impl Settings {
    /// Headers and body of the login.
    fn request(&self, setup: &Setup<'_>) -> Result<(HeaderMap, Secret), Unavailable> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = match &self.json {
            Some(tree) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Secret::new(tree.filled(setup.secrets)?.to_string())
            }
            None if self.form.is_empty() => Secret::new(""),
            None => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                form(&self.form, setup.secrets)?
            }
        };
        if let Some(Basic { username, password }) = &self.basic {
            let value = basic::header(&setup.secrets.public(username)?, &setup.secrets.field(password)?);
            headers.insert(AUTHORIZATION, value.map_err(|error| Unavailable(format!("basic.{}", error.0)))?);
        }
        let further = self.additional_headers.build(setup.secrets)?;
        for name in further.keys() {
            headers.remove(name);
        }
        headers.extend(further);
        Ok((headers, body))
    }
}

fn statuses(written: Option<&[u16]>, default: &[StatusCode]) -> Vec<StatusCode> {
    match written {
        Some(written) => written.iter().filter_map(|status| StatusCode::from_u16(*status).ok()).collect(),
        None => default.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Network, answer, built, parsed, signed};
    use super::*;
    use crate::base::Code;

    fn minimal() -> Value {
        json!({"login_url": "https://login.test/login", "form": {"user": "u", "password": {"env": "P"}}, "token": {"pointer": "/token"}})
    }

    fn with(changes: Value) -> Value {
        let mut settings = minimal();
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        settings
    }

    #[test]
    fn every_mistake_is_named_where_it_is_written() {
        assert!(parsed(&KIND, minimal()).is_ok());
        for (change, path) in [
            (json!({"login_url": "http://login.test/"}), "login_url: the credential would travel"),
            (json!({"login_url": "login.test"}), "login_url:"),
            (json!({"method": "DELETE"}), "method: POST, PUT or GET"),
            (json!({"method": "GET"}), "method: a GET has no body"),
            (json!({"json": {"a": 1}}), "json: a login has one body"),
            (json!({"form": {"password": "hunter2"}}), "form.password: a secret does not stand"),
            (json!({"basic": {"username": "u:v", "password": {"env": "P"}}}), "basic.username: a user name"),
            (
                json!({"basic": {"username": "u", "password": {"env": "P"}}, "credential": "x"}),
                "credential: a login is",
            ),
            (json!({"form": {"user": "u"}}), ": a login says who asks"),
            (json!({"additional_headers": {"Host": "x"}}), "additional_headers.Host: this header"),
            (
                json!({"additional_headers": {"Authorization": "x"}, "credential": "c"}),
                "additional_headers.Authorization: the login",
            ),
            (json!({"client_certificate": {"env": "C"}}), "client_certificate: `client_certificate` and"),
            (json!({"token": null}), "token: where in the answer"),
            (json!({"token": {"pointer": "token"}}), "token: `token`: a JSON pointer begins"),
            (json!({"token": {"pointer": "/a", "header": "b"}}), "token: it is in one place"),
            (json!({"token": {"pointer": "/a", "form": "seconds"}}), "token.form: it goes with `lifetime`"),
            (json!({"tokens": {"csrf": {"header": "x-csrf"}}}), "inject: the token {csrf} goes nowhere"),
            (json!({"tokens": {"token": {"header": "x-csrf"}}}), "tokens.token: it has a key"),
            (json!({"tokens": {"a-b": {"header": "x-csrf"}}}), "tokens.a-b: a name has letters"),
            (json!({"lifetime": {"cookie": "a", "form": "date"}}), "lifetime.form: of a cookie"),
            (json!({"token_lifetime": "400d"}), "token_lifetime: at most a year"),
            (json!({"inject": {"header": "Cookie"}}), "inject: Cookie belongs"),
            (json!({"rejected": [200]}), "rejected: statuses from 400 to 499"),
            (json!({"rejected": [429]}), "rejected: statuses from 400 to 499"),
            (json!({"expired": [500]}), "expired: statuses from 300 to 499"),
        ] {
            let error = parsed(&KIND, with(change)).unwrap_err();
            assert!(error.starts_with(path), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = parsed(&KIND, with(json!({"json": {"a": {"password": "hunter2"}}, "form": {}}))).unwrap_err();
        assert!(error.starts_with("json.a.password: a secret"), "{error}");
    }

    #[test]
    fn a_login_address_from_a_reference_is_not_repeated_when_it_is_none() {
        let settings = with(json!({"login_url": {"env": "URL"}}));
        let error = built(&KIND, settings, &Network::default()).unwrap_err();
        assert!(error.contains("environment variable URL") && !error.contains("secret-of"), "{error}");
    }

    #[test]
    fn every_reference_changes_the_token_and_is_asked_for() {
        let settings = json!({
            "login_url": {"env": "A"}, "json": {"x": [{"env": "B"}]}, "basic": {"username": {"env": "C"}, "password": {"env": "D"}},
            "additional_headers": {"x": {"env": "E"}}, "client_certificate": {"env": "F"}, "client_key": {"env": "G"},
            "token": {"body": true}, "inject": [{"header": "a"}, {"header": "b", "value": {"env": "H"}}],
        });
        let draft = parsed(&KIND, settings).unwrap();
        let mut names: Vec<String> = draft.references().into_iter().map(ToString::to_string).collect();
        names.sort();
        let expected: Vec<_> = "ABCDEFGH".chars().map(|name| format!("environment variable {name}")).collect();
        assert_eq!(names, expected);
    }

    #[tokio::test]
    async fn a_login_borrows_another_credential() {
        let network = Network::answering([answer(201, &[], r#"{"token": "t1"}"#)]);
        let settings =
            json!({"login_url": "https://login.test/x", "credential": "other", "token": {"pointer": "/token"}});
        let draft = parsed(&KIND, settings.clone()).unwrap();
        let loan = draft.borrows().unwrap();
        assert_eq!((loan.credential, loan.destination.unwrap().to_string()), ("other", "https://login.test".into()));
        let scheme = built(&KIND, settings.clone(), &network).unwrap();
        let mutations = signed(&*scheme).await.unwrap();
        assert_eq!(mutations.set, [(AUTHORIZATION, HeaderValue::from_static("Bearer t1"))]);
        let asked = network.asked();
        assert_eq!((asked.len(), &asked[0].headers()["x-lent"]), (1, &HeaderValue::from_static("lent-secret-value")));
        let mut none = settings;
        none["credential"] = "nobody".into();
        assert_eq!(built(&KIND, none, &network).unwrap_err(), "credential: there is no credential nobody");
    }

    #[tokio::test]
    async fn what_the_service_says_decides_who_is_told_what_and_repeats_no_secret() {
        let said = r#"{"error": "denied", "message": "you sent secret-of-P and lent-secret-value"}"#;
        for (status, body, rejected, code, words) in [
            (401, said, None, Code::CredentialRejected, "answered 401 denied: you sent [redacted]"),
            (403, "<html>", None, Code::CredentialRejected, "answered 403"),
            (400, said, None, Code::CredentialRejected, "answered 400 denied"),
            (400, said, Some(json!([400])), Code::CredentialRejected, "answered 400 denied"),
            (404, "", None, Code::CredentialRejected, "answered 404"),
            (500, "<html>", None, Code::TokenEndpointUnavailable, "answered 500"),
            (429, said, None, Code::TokenEndpointUnavailable, "answered 429"),
            (200, "", None, Code::CredentialRejected, "there is no token at /token in its JSON"),
            (200, "<html>", None, Code::CredentialRejected, "there is no token"),
            (200, r#"{"token": ""}"#, None, Code::CredentialRejected, "there is no token"),
            (200, r#"{"token": "a\nb"}"#, None, Code::TokenEndpointUnavailable, "cannot be sent in a header"),
            (200, said, None, Code::CredentialRejected, "no token at /token in its JSON: denied: you sent [redacted]"),
            (302, "", None, Code::TokenEndpointUnavailable, "no redirect is followed"),
        ] {
            let network = Network::answering([answer(status, &[], body)]);
            let mut settings = with(json!({"credential": "other"}));
            if let Some(rejected) = rejected {
                settings["rejected"] = rejected;
            }
            let scheme = built(&KIND, settings, &network).unwrap();
            let refusal = signed(&*scheme).await.unwrap_err();
            assert_eq!(refusal.code, code, "{status} {body}: {refusal}");
            assert!(refusal.detail.contains(words), "{status} {body}: {refusal}");
            assert!(!refusal.detail.contains("secret-of-P") && !refusal.detail.contains("lent-secret"), "{refusal}");
            // What was refused is remembered: no retry storm.
            assert!(signed(&*scheme).await.is_err());
            assert_eq!(network.asked().len(), 1, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn several_tokens_go_where_each_belongs() {
        let headers = [("set-cookie", "SID=s%3A1; HttpOnly"), ("X-CSRF-Token", "c1")];
        let network = Network::answering([answer(200, &headers, "{}")]);
        let scheme = built(
            &KIND,
            with(json!({
                "token": {"cookie": "SID"}, "tokens": {"csrf": {"header": "x-csrf-token"}},
                "inject": [{"cookie": "SID"}, {"header": "X-CSRF-Token", "value": "{csrf}"}, {"header": "X-Requested-With", "value": "x"}],
            })),
            &network,
        );
        let scheme = scheme.unwrap();
        assert_eq!(scheme.owned_headers(), ["x-csrf-token", "x-requested-with"]);
        assert_eq!(scheme.adds(), ["cookie"]);
        let mutations = signed(&*scheme).await.unwrap();
        assert_eq!(mutations.cookies[0].1.expose_str(), Some("s%3A1"));
        assert_eq!((mutations.set[0].1.to_str().unwrap(), mutations.set[1].1.to_str().unwrap()), ("c1", "x"));
        assert!(!format!("{mutations:?}").contains("c1"), "marked sensitive");
    }
}
