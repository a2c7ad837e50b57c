//! `google`: tokens of Google Cloud and Workspace, from the files and places where Google's own programs find them.
//!
//! A service account's key as it is downloaded, a workload identity pool's configuration, the file of `gcloud auth
//! application-default login`, or the metadata server; of these an access token for scopes, a JWT that we sign ourselves,
//! or an ID token. It follows <https://google.aip.dev/auth/4110> and the pages it leads to, and for what is signed the
//! client libraries: `aud` of an assertion is always Google's own token endpoint, whatever address it is sent to.

mod document;
mod endpoint;
mod federation;
mod impersonation;
mod metadata;
mod plan;
mod source;

use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use self::document::{Form, PUBLIC, is_strangers};
use self::plan::{METADATA_HOST, Plan};
use super::fields::{self, OneOrMany};
use super::hosts::{self, is_below, is_wildcard, name, shared, write_the_whole_name};
use super::{Draft, Fields, Kind, Obtained, Scheme, SettingsError, Setup, at, settings};
use crate::base::{Destination, Host, Public, SecretField, SecretRef, Text, Unavailable};

pub(super) const KIND: Kind = Kind {
    name: "google",
    about: "A token of Google Cloud: from a service account's key, workload identity federation or the metadata server",
    // Google's own APIs alone: `*.run.app`, `*.cloudfunctions.net`, `*.appspot.com` and `*.pkg.dev` are its customers'.
    default_hosts: &["*.googleapis.com"],
    strangers: is_strangers,
    narrows: None,
    fields: Fields {
        secret: &["service_account", "external_account", "authorized_user"],
        leading: &["token_url", "iam_url", "universe_domain", "allow_cleartext"],
        operators: &["allow_addresses", "metadata", "metadata_url"],
    },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// Where Google's customers have services, under one domain for all of them: never meant by a wildcard.
const SHARED: &[&str] = &[
    "run.app",
    "cloudfunctions.net",
    "appspot.com",
    "pkg.dev",
    "web.app",
    "firebaseapp.com",
    "hosted.app",
    "gateway.dev",
    "cloudshell.dev",
    "cloudworkstations.dev",
    "cloud.goog",
    "usercontent.goog",
    "googleusercontent.com",
];

/// Below these every name is a bucket. A wildcard above them does not mean these: see [`is_strangers`].
const BUCKETS: &[&str] = &["storage.googleapis.com", "commondatastorage.googleapis.com"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The whole file, as each of these three.
    service_account: Option<SecretField>,
    external_account: Option<SecretField>,
    authorized_user: Option<SecretField>,
    #[serde(default)]
    metadata: bool,
    #[serde(default)]
    scopes: OneOrMany,
    /// Of an ID token.
    target_audience: Option<Public>,
    /// Of a JWT that is signed here and sent as it is.
    audience: Option<Public>,
    /// The same with scopes in place of an audience.
    #[serde(default)]
    self_signed: bool,
    /// The person to act for, with domain-wide delegation.
    subject: Option<Public>,
    quota_project: Option<Public>,
    universe_domain: Option<Text>,
    token_url: Option<Text>,
    iam_url: Option<Text>,
    metadata_url: Option<Text>,
    /// Let what is secret travel over `http://` to those addresses and to the `url` of an external account.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that they may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
}

impl Settings {
    /// The file, and what it must be.
    fn file(&self) -> Option<(Form, &SecretField)> {
        let forms = [
            (Form::ServiceAccount, &self.service_account),
            (Form::ExternalAccount, &self.external_account),
            (Form::AuthorizedUser, &self.authorized_user),
        ];
        forms.into_iter().find_map(|(form, field)| Some((form, field.as_ref()?)))
    }

    fn check(&self) -> Result<(), SettingsError> {
        let files = [&self.service_account, &self.external_account, &self.authorized_user];
        let sources = files.into_iter().flatten().count() + usize::from(self.metadata);
        if sources != 1 {
            let why = "write one of `service_account`, `external_account`, `authorized_user` and `metadata: true`";
            return Err(at("", why));
        }
        self.check_sources()?;
        self.check_kinds()?;
        for (index, scope) in self.scopes.0.iter().enumerate() {
            let fits =
                |scope: &str| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
            if matches!(scope, Public::Literal(scope) if !fits(scope)) {
                let why = "one scope, such as https://www.googleapis.com/auth/devstorage.read_only";
                return Err(at(format!("scopes[{index}]"), why));
            }
        }
        if let Some(Text(universe)) = &self.universe_domain
            && !matches!(Host::parse(universe), Ok(Host::Name(name)) if *name == **universe && name.contains('.'))
        {
            return Err(at("universe_domain", "a domain in lower case, such as googleapis.com"));
        }
        for (key, url) in [("token_url", &self.token_url), ("iam_url", &self.iam_url)] {
            if let Some(Text(url)) = url {
                fields::endpoint(url, self.allow_cleartext).map_err(|why| at(key, why))?;
            }
        }
        Ok(())
    }

    /// What goes with which source.
    fn check_sources(&self) -> Result<(), SettingsError> {
        let service_account = self.service_account.is_some();
        let elsewhere = self.universe_domain.as_ref().is_some_and(|universe| universe.0 != PUBLIC);
        let iam = self.external_account.is_some() || (service_account && elsewhere && self.target_audience.is_some());
        for (key, set, fits, only) in [
            ("audience", self.audience.is_some(), service_account, "`service_account`"),
            ("self_signed", self.self_signed, service_account, "`service_account`"),
            ("subject", self.subject.is_some(), service_account && !elsewhere, "`service_account` in googleapis.com"),
            ("universe_domain", self.universe_domain.is_some(), !self.metadata, "a file"),
            ("token_url", self.token_url.is_some(), !self.metadata, "a file; the metadata server has `metadata_url`"),
            ("iam_url", self.iam_url.is_some(), iam, "`external_account`, or an ID token in another universe"),
            ("metadata_url", self.metadata_url.is_some(), self.metadata, "`metadata: true`"),
            (
                "target_audience",
                self.target_audience.is_some(),
                self.authorized_user.is_none(),
                "a service account: no person has ID tokens for an audience",
            ),
        ] {
            if set && !fits {
                return Err(at(key, format!("it goes with {only}")));
            }
        }
        Ok(())
    }

    /// One kind of token, and what goes with it.
    fn check_kinds(&self) -> Result<(), SettingsError> {
        let signed_here = self.audience.is_some() || self.self_signed;
        let identity = self.target_audience.is_some();
        for (key, wrong, why) in [
            (
                "audience",
                self.audience.is_some() && identity,
                "a JWT signed here (`audience`) or an ID token (`target_audience`)",
            ),
            (
                "self_signed",
                self.self_signed && identity,
                "a JWT signed here (`self_signed`) or an ID token (`target_audience`)",
            ),
            (
                "scopes",
                self.audience.is_some() && (!self.scopes.0.is_empty() || self.self_signed),
                "a JWT signed here is for an `audience` or has scopes (`self_signed: true`, `scopes`), not both",
            ),
            ("scopes", identity && !self.scopes.0.is_empty(), "an ID token has no scopes"),
            (
                "subject",
                self.subject.is_some() && (signed_here || identity),
                "nobody is acted for with a JWT signed here or an ID token",
            ),
            ("quota_project", self.quota_project.is_some() && identity, "it goes with access tokens"),
            ("token_url", self.token_url.is_some() && signed_here, "nothing is asked for: the JWT is signed here"),
        ] {
            if wrong {
                return Err(at(key, why));
            }
        }
        Ok(())
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let public = [&self.target_audience, &self.audience, &self.subject, &self.quota_project];
        let public = public.into_iter().flatten().chain(&self.scopes.0).filter_map(Public::reference);
        self.file().into_iter().map(|(_, file)| file.reference()).chain(public).collect()
    }

    /// An ID token, and a token of another universe, go where the credential says and nowhere else; a JWT for one API goes
    /// to that API.
    fn default_hosts(&self) -> Option<Vec<String>> {
        let elsewhere = self.universe_domain.as_ref().is_some_and(|universe| universe.0 != PUBLIC);
        if self.target_audience.is_some() || elsewhere {
            return Some(Vec::new());
        }
        let Some(audience) = &self.audience else { return None };
        let host = match audience {
            Public::Literal(url) => Destination::from_upstream(url).ok().map(|api| api.host().to_string()),
            Public::Reference(_) => None,
        };
        let is_api = |host: &String| host.ends_with(".googleapis.com") && !is_strangers(host);
        Some(host.filter(is_api).into_iter().collect())
    }

    fn check_hosts(&self, named: &[String]) -> Result<(), SettingsError> {
        if named.is_empty() && self.default_hosts().is_some_and(|hosts| hosts.is_empty()) {
            return Err(at(
                "hosts",
                "list the host of the service: this token is for it alone, and no host follows from it",
            ));
        }
        hosts::each(named, |host| {
            let is_within = |domain: &&&str| name(host) == **domain || is_below(name(host), domain);
            let bucket = || BUCKETS.iter().filter(|_| is_wildcard(host)).find(is_within).copied();
            shared(host, SHARED).or_else(bucket).map(|domain| write_the_whole_name(domain, "mine"))
        })
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let source = Plan::new(self, setup)?.source()?;
        let owned = source.owned_headers();
        let host = setup.outside.environment.variable(METADATA_HOST).filter(|_| self.metadata);
        let key = setup.token_key(self)?.with_option(METADATA_HOST, host);
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, Arc::new(source));
        Ok(Arc::new(Obtained { handle: Arc::new(handle), owned, adds: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(mut value: serde_json::Value) -> Result<Settings, SettingsError> {
        if value.get("external_account").is_none()
            && value.get("authorized_user").is_none()
            && value.get("metadata").is_none()
        {
            value["service_account"] = json!({ "env": "KEY" });
        }
        let settings: Settings = settings(value)?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn what_does_not_go_together_is_said_at_its_key() {
        let external = json!({ "env": "CONFIG" });
        for (value, path) in [
            (json!({ "metadata": true, "service_account": { "env": "KEY" } }), ""),
            (json!({ "metadata": false }), ""),
            (json!({ "metadata": true, "token_url": "https://x.test" }), "token_url"),
            (json!({ "metadata": true, "universe_domain": "x.test" }), "universe_domain"),
            (json!({ "metadata_url": "http://169.254.169.254" }), "metadata_url"),
            (json!({ "external_account": external, "audience": "https://pubsub.googleapis.com/" }), "audience"),
            (json!({ "external_account": external, "self_signed": true }), "self_signed"),
            (json!({ "external_account": external, "subject": "a@example.com" }), "subject"),
            (json!({ "external_account": external, "iam_url": "http://iam.test" }), "iam_url"),
            (json!({ "authorized_user": { "env": "FILE" }, "target_audience": "x" }), "target_audience"),
            (json!({ "iam_url": "https://iam.test" }), "iam_url"),
            (json!({ "target_audience": "x", "audience": "y" }), "audience"),
            (json!({ "target_audience": "x", "self_signed": true }), "self_signed"),
            (json!({ "target_audience": "x", "quota_project": "p" }), "quota_project"),
            (json!({ "target_audience": "x", "subject": "a@example.com" }), "subject"),
            (json!({ "audience": "x", "self_signed": true }), "scopes"),
            (json!({ "self_signed": true, "token_url": "https://x.test" }), "token_url"),
            (json!({ "subject": "a@example.com", "universe_domain": "x.test" }), "subject"),
            (json!({ "universe_domain": "https://x.test" }), "universe_domain"),
            (json!({ "universe_domain": "X.test" }), "universe_domain"),
            (json!({ "universe_domain": "localhost" }), "universe_domain"),
            (json!({ "token_url": "http://x.test" }), "token_url"),
            (json!({ "token_url": "x" }), "token_url"),
            (json!({ "scopes": ["a", "b,c"] }), "scopes[1]"),
            (json!({ "scopes": [""] }), "scopes[0]"),
            (json!({ "service_acount": { "env": "KEY" } }), "service_acount"),
        ] {
            let error = parsed(value.clone()).unwrap_err();
            assert_eq!(error.path, path, "{value}: {}", error.message);
            assert!(error.message.len() > 10, "{value}");
        }
        assert!(parsed(json!({ "token_url": "http://x.test", "allow_cleartext": true })).is_ok());
        assert!(
            parsed(json!({ "target_audience": "x", "universe_domain": "x.test", "iam_url": "https://iam.test" }))
                .is_ok()
        );
    }

    #[test]
    fn hosts_follow_from_the_kind_of_token_and_from_the_universe() {
        let hosts = |value| parsed(value).unwrap().default_hosts();
        assert_eq!(hosts(json!({})), None);
        assert_eq!(hosts(json!({ "metadata": true })), None);
        let pubsub = Some(vec!["pubsub.googleapis.com".to_owned()]);
        assert_eq!(hosts(json!({ "audience": "https://pubsub.googleapis.com/" })), pubsub);
        for value in [
            json!({ "target_audience": "https://x.a.run.app" }),
            json!({ "target_audience": "https://pubsub.googleapis.com/" }),
            json!({ "audience": "https://x.endpoints.example.cloud.goog" }),
            json!({ "audience": "https://bucket.storage.googleapis.com/" }),
            json!({ "audience": { "env": "AUDIENCE" } }),
            json!({ "audience": "pubsub" }),
            json!({ "universe_domain": "cloud.example" }),
        ] {
            let settings = parsed(value.clone()).unwrap();
            assert_eq!(settings.default_hosts(), Some(Vec::new()), "{value}");
            assert_eq!(settings.check_hosts(&[]).unwrap_err().path, "hosts", "{value}");
            assert_eq!(settings.check_hosts(&["x.a.run.app".into()]), Ok(()), "{value}");
        }
        let wide = |host: &str| parsed(json!({})).unwrap().check_hosts(&["storage.googleapis.com".into(), host.into()]);
        for host in [
            "*.run.app",
            "*.run.app:443",
            "*.a.run.app:443",
            "*.app",
            "*.net",
            "*.com",
            "*.cloudfunctions.net",
            "*.r.appspot.com",
            "*.pkg.dev",
            "*.web.app",
            "*.firebaseapp.com",
            "*.cloudshell.dev:8443",
            "*.bc.googleusercontent.com",
            "*.storage.googleapis.com:443",
            "*.bucket.storage.googleapis.com",
            "*.commondatastorage.googleapis.com",
        ] {
            for value in [json!({}), json!({ "target_audience": "x" })] {
                let error = parsed(value).unwrap().check_hosts(&["storage.googleapis.com".into(), host.into()]);
                let error = error.unwrap_err();
                assert_eq!(error.path, "hosts[1]", "{host}");
                assert!(error.message.contains("write the whole name of yours, such as mine."), "{}", error.message);
            }
        }
        for host in [
            "*.googleapis.com",
            "*.p.googleapis.com",
            "bucket.storage.googleapis.com",
            "x.a.run.app:443",
            "us-docker.pkg.dev",
            "*.example.com:443",
            "*.xrun.app",
        ] {
            assert_eq!(wide(host), Ok(()), "{host}");
        }
    }
}
