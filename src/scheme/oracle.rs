//! `oracle`: requests to Oracle Cloud Infrastructure, signed with an API key, or with a session token's key.
//!
//! The fields are those of Flexera cred/v2 `oracle`, with session tokens and principals beside them.

use std::sync::Arc;

use http::HeaderName;
use http::header::{AUTHORIZATION, DATE};
use ipnet::IpNet;
use serde::Deserialize;

use self::instance::{Instance, metadata_address};
use self::principal::Session;
use self::signer::{Covers, Signer, SigningKey, X_CONTENT_SHA256};
use self::workload::{TOKEN_FILE, Workload};
use super::fields::endpoint;
use super::{Draft, Fields, Foresight, Identity, Kind, Scheme, SettingsError, Setup, at, settings};
use crate::base::{Authorizer, Environment, Refusal, RequestView, Secret};
use crate::base::{Public, SecretField, SecretRef, Unavailable};
use crate::token::{Handle, PrivateKey, Resting, TokenSource};

mod hosts;
mod instance;
mod principal;
mod signer;
mod workload;

pub(super) const KIND: Kind = Kind {
    name: "oracle",
    about: "Oracle Cloud Infrastructure: requests are signed with an API key, a session's key or a principal's",
    default_hosts: hosts::DOMAINS,
    strangers: hosts::is_strangers,
    narrows: None,
    fields: Fields {
        secret: &["private_key", "password", "security_token", "service_account_token"],
        leading: &["federation_url", "metadata_url", "allow_cleartext"],
        operators: &["allow_addresses", "principal"],
    },
    parse: |value| {
        let settings: Settings = settings(value)?;
        settings.check()?;
        Ok(Box::new(settings))
    },
};

/// The caller's `x-date` would take the place of the date that is signed.
static OWNED: [HeaderName; 4] = [AUTHORIZATION, DATE, X_CONTENT_SHA256, HeaderName::from_static("x-date")];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Principal {
    /// The compute instance this runs on.
    Instance,
    /// What a resource (a function, a data science job) finds in its environment.
    Resource,
    /// The service account of a pod on an enhanced cluster.
    Workload,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tenancy_ocid: Option<Public>,
    user_ocid: Option<Public>,
    fingerprint: Option<Public>,
    private_key: Option<SecretField>,
    /// Of the private key, if it is encrypted.
    password: Option<SecretField>,
    /// In place of the user's OCID and the fingerprint.
    security_token: Option<SecretField>,
    /// In place of every key above.
    principal: Option<Principal>,
    /// Of `principal: instance`.
    metadata_url: Option<Public>,
    /// Of `principal: instance` and `workload`: who exchanges a certificate or a service account's token.
    federation_url: Option<Public>,
    /// Of `principal: workload`; without it, the file that every pod has.
    service_account_token: Option<SecretField>,
    /// Let the exchange, and what a `metadata_url` elsewhere hands out, go over `http://`.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that `federation_url` and `metadata_url` may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        self.check_keys()?;
        for (key, field, check) in self.public() {
            if let Some(Public::Literal(text)) = field {
                check(text).map_err(|why| at(key, why))?;
            }
        }
        if let Some(Public::Literal(url)) = &self.federation_url {
            endpoint(url, self.allow_cleartext).map_err(|why| at("federation_url", why))?;
        }
        if let Some(Public::Literal(url)) = &self.metadata_url {
            metadata_address(url, self.allow_cleartext).map_err(|why| at("metadata_url", why))?;
        }
        Ok(())
    }

    /// Which keys there are.
    fn check_keys(&self) -> Result<(), SettingsError> {
        let own = [
            ("tenancy_ocid", self.tenancy_ocid.is_some()),
            ("user_ocid", self.user_ocid.is_some()),
            ("fingerprint", self.fingerprint.is_some()),
            ("private_key", self.private_key.is_some()),
            ("password", self.password.is_some()),
            ("security_token", self.security_token.is_some()),
        ];
        let calls = [
            ("metadata_url", self.metadata_url.is_some(), self.principal == Some(Principal::Instance)),
            (
                "federation_url",
                self.federation_url.is_some(),
                matches!(self.principal, Some(Principal::Instance | Principal::Workload)),
            ),
        ];
        let calls = calls.into_iter().chain([(
            "service_account_token",
            self.service_account_token.is_some(),
            self.principal == Some(Principal::Workload),
        )]);
        if let Some((name, ..)) = calls.into_iter().find(|(_, set, fits)| *set && !fits) {
            let why = "`metadata_url` goes with `principal: instance`, `service_account_token` with `workload`, `federation_url` with both";
            return Err(at(name, why));
        }
        let needed: &[&str] = match (self.principal, &self.security_token) {
            (Some(_), _) => {
                return match own.iter().find(|(_, set)| *set) {
                    Some((name, _)) => Err(at(*name, "a principal has keys of its own; leave this one out")),
                    None => Ok(()),
                };
            }
            (None, Some(_)) => &["private_key"],
            (None, None) => &["tenancy_ocid", "user_ocid", "fingerprint", "private_key"],
        };
        match own.iter().find(|(name, set)| needed.contains(name) && !set) {
            Some((name, _)) => Err(at(
                *name,
                format!(
                    "`{name}` is needed; or write `principal: instance`, `resource` or `workload` in place of keys"
                ),
            )),
            None => Ok(()),
        }
    }

    /// What is not secret, and what it must be.
    fn public(&self) -> [(&'static str, Option<&Public>, Check); 3] {
        [
            ("tenancy_ocid", self.tenancy_ocid.as_ref(), |text| check_ocid(text, "tenancy")),
            ("user_ocid", self.user_ocid.as_ref(), |text| check_ocid(text, "user")),
            ("fingerprint", self.fingerprint.as_ref(), check_fingerprint),
        ]
    }
}

/// Says what is wrong with a value.
type Check = fn(&str) -> Result<(), String>;

/// `ocid1.tenancy.oc1..aaaa`; the oldest tenancies have `ocidv1:tenancy:oc1:phx:1460406592660:aaaa`.
fn check_ocid(text: &str, kind: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split(['.', ':']).collect();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    let fits = matches!(&parts[..], ["ocid1" | "ocidv1", named, realm, _, .., unique]
        if *named == kind && !realm.is_empty() && !unique.is_empty());
    if plain && fits {
        return Ok(());
    }
    Err(format!("it is not the OCID of a {kind}, which begins with `ocid1.{kind}.` and ends with its unique part"))
}

fn check_fingerprint(text: &str) -> Result<(), String> {
    let pair = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.split(':').count() == 16 && text.split(':').all(pair) {
        return Ok(());
    }
    Err("it is not a fingerprint: 16 pairs of hexadecimal digits with colons between, as the console shows it".into())
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let public = [
            self.tenancy_ocid.as_ref(),
            self.user_ocid.as_ref(),
            self.fingerprint.as_ref(),
            self.metadata_url.as_ref(),
            self.federation_url.as_ref(),
        ];
        let secret = [
            self.private_key.as_ref(),
            self.password.as_ref(),
            self.security_token.as_ref(),
            self.service_account_token.as_ref(),
        ];
        let public = public.into_iter().flatten().filter_map(Public::reference);
        public.chain(secret.into_iter().flatten().map(SecretField::reference)).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        if let Some(principal) = self.principal {
            return self.principal(principal, setup);
        }
        for (key, field, check) in self.public() {
            let Some(field) = field else { continue };
            check(&setup.secrets.public(field)?).map_err(|why| Unavailable(format!("{key}: {why}")))?;
        }
        let needed = |key: &str| Unavailable(format!("{key}: it is needed"));
        let private_key = self.private_key.as_ref().ok_or_else(|| needed("private_key"))?;
        let (key, fingerprint) = self.signing_key(private_key, setup)?;
        if let Some(token) = &self.security_token {
            return self.session(token, private_key, setup);
        }
        let text = |key: &str, field: &Option<Public>| setup.secrets.public(field.as_ref().ok_or_else(|| needed(key))?);
        let (tenancy, user) = (text("tenancy_ocid", &self.tenancy_ocid)?, text("user_ocid", &self.user_ocid)?);
        let signer = Signer::new(Arc::new(key), &format!("{tenancy}/{user}/{fingerprint}"), Arc::new(hosts::skew()));
        let signer = signer.map_err(|why| Unavailable(format!("user_ocid: {why}")))?;
        Ok(Arc::new(Oracle { authorizer: Ready::Fixed(Arc::new(signer)) }))
    }
}

impl Settings {
    /// The key and its fingerprint, which is the one that is written.
    fn signing_key(&self, field: &SecretField, setup: &Setup<'_>) -> Result<(SigningKey, String), Unavailable> {
        let unfit = |why: String| Unavailable(format!("private_key: {why}"));
        let password = self.password.as_ref().map(|password| setup.secrets.field(password)).transpose()?;
        let key = PrivateKey::from_pem(&setup.secrets.field(field)?, password.as_ref()).map_err(unfit)?;
        let key = SigningKey::new(&key).map_err(unfit)?;
        let own = key.fingerprint().map_err(unfit)?;
        if let Some(written) = &self.fingerprint
            && !setup.secrets.public(written)?.eq_ignore_ascii_case(&own)
        {
            return Err(Unavailable(format!(
                "fingerprint: it is of another key; private_key has {own}, so one of the two is wrong"
            )));
        }
        Ok((key, own))
    }

    /// A session that a person began with `oci session authenticate`.
    fn session(
        &self,
        token: &SecretField,
        key: &SecretField,
        setup: &Setup<'_>,
    ) -> Result<Arc<dyn Scheme>, Unavailable> {
        let loaded = setup.secrets.field(token)?;
        principal::expiry(&loaded).map_err(|why| Unavailable(format!("security_token: {why}")))?;
        let resting = |field: &SecretField| Resting::of(field.reference(), setup.secrets);
        let session = Session {
            token: resting(token)?,
            key: resting(key)?,
            password: self.password.as_ref().map(resting).transpose()?,
            hint: "`oci session refresh` renews it while it lives, `oci session authenticate` begins another",
            skew: Arc::new(hosts::skew()),
        };
        self.with_tokens(Arc::new(session), &[], setup)
    }

    fn principal(&self, principal: Principal, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let environment = &*setup.outside.environment;
        let federation = self.federation_url.as_ref().map(|url| {
            let url = setup.secrets.public(url)?;
            endpoint(&url, self.allow_cleartext).map_err(|why| Unavailable(format!("federation_url: {why}")))?;
            Ok(url)
        });
        let federation: Option<String> = federation.transpose()?;
        let http = Arc::clone(&setup.outside.http);
        match principal {
            Principal::Instance => {
                let metadata = self.metadata_url.as_ref().map(|url| setup.secrets.public(url)).transpose()?;
                let metadata = metadata.or_else(|| variable(environment, "OCI_METADATA_BASE_URL"));
                let seen = [Secret::new(metadata.clone().unwrap_or_default())];
                let allow = self.allow_addresses.clone();
                let source = Instance::new(metadata.as_deref(), federation, (self.allow_cleartext, allow), http)
                    .map_err(Unavailable)?;
                self.with_tokens(Arc::new(source), &seen, setup)
            }
            Principal::Workload => {
                let (url, mut allowed) = match federation {
                    Some(url) => (url, Vec::new()),
                    None => Workload::own(environment).map_err(Unavailable)?,
                };
                allowed.extend(&self.allow_addresses);
                let token = match &self.service_account_token {
                    Some(token) => Resting::of(token.reference(), setup.secrets)?,
                    None => Resting::File(TOKEN_FILE.into()),
                };
                let source = Workload::new(&url, allowed, token, &*http).map_err(Unavailable)?;
                self.with_tokens(Arc::new(source), &[Secret::new(url)], setup)
            }
            Principal::Resource => {
                let (source, seen) = resource(environment)?;
                self.with_tokens(Arc::new(source), &seen, setup)
            }
        }
    }

    /// `seen` is what came from outside the configuration and changes the token.
    fn with_tokens(
        &self,
        source: Arc<dyn TokenSource>,
        seen: &[Secret],
        setup: &Setup<'_>,
    ) -> Result<Arc<dyn Scheme>, Unavailable> {
        let key = seen.iter().fold(setup.token_key(self)?, |key, value| key.with("environment", value.expose()));
        let handle = setup.outside.tokens.handle(key.finish(), setup.account, setup.credential, source);
        Ok(Arc::new(Oracle { authorizer: Ready::Token(Arc::new(handle)) }))
    }
}

fn variable(environment: &dyn Environment, name: &str) -> Option<String> {
    environment.variable(name).filter(|value| !value.trim().is_empty())
}

/// The session that a resource principal of version 2.2 finds in its environment: values, or the paths of files.
fn resource(environment: &dyn Environment) -> Result<(Session, Vec<Secret>), Unavailable> {
    let named = |name: &str| format!("OCI_RESOURCE_PRINCIPAL_{name}");
    let value = |name: &str| variable(environment, &named(name));
    match value("VERSION").as_deref().map(str::trim) {
        Some("2.2") => {}
        Some(_) => {
            return Err(Unavailable(
                "principal: OCI_RESOURCE_PRINCIPAL_VERSION is another than 2.2, which is read here".into(),
            ));
        }
        None => {
            return Err(Unavailable(
                "principal: OCI_RESOURCE_PRINCIPAL_VERSION is not set: this does not run as a resource of Oracle's"
                    .into(),
            ));
        }
    }
    let mut seen = Vec::new();
    let mut resting = |name: &str| {
        let value = value(name)?;
        let held = Secret::new(value.as_str());
        seen.push(held.clone());
        Some(if value.starts_with('/') { Resting::File(value.into()) } else { Resting::Held(held) })
    };
    let missing = |name: &str| Unavailable(format!("principal: {} is not set", named(name)));
    let session = Session {
        token: resting("RPST").ok_or_else(|| missing("RPST"))?,
        key: resting("PRIVATE_PEM").ok_or_else(|| missing("PRIVATE_PEM"))?,
        password: resting("PRIVATE_PEM_PASSPHRASE"),
        hint: "whoever runs this resource has to renew it",
        skew: Arc::new(hosts::skew()),
    };
    Ok((session, seen))
}

#[derive(Debug)]
enum Ready {
    Fixed(Arc<dyn Authorizer>),
    Token(Arc<Handle>),
}

#[derive(Debug)]
struct Oracle {
    authorizer: Ready,
}

impl Scheme for Oracle {
    fn owned_headers(&self) -> &[HeaderName] {
        &OWNED
    }

    fn identity(&self) -> Identity<'_> {
        match &self.authorizer {
            Ready::Fixed(authorizer) => Identity::Fixed(authorizer),
            Ready::Token(handle) => Identity::Token(handle),
        }
    }

    fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        Ok(match Covers::of(view)? {
            Covers::Head => Foresight { adds: names(&["authorization", "date"]), note: None },
            Covers::Body => Foresight {
                adds: names(&["authorization", "date", "x-content-sha256"]),
                note: Some("the signature covers the body, which is read first".into()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TENANCY: &str = "ocid1.tenancy.oc1..aaaaaaaaba3pv6wkcr4jqae5f15p2b2m2yt2j6rx32uzr4h25vqstifsfdsq";
    const USER: &str = "ocid1.user.oc1..aaaaaaaat5nvwcna5j6aqzjcaty5eqbb6qt2jvpkanghtgdaqedqw3rynjq";
    /// Of `rsa-pkcs1.pem`, by `openssl rsa -pubout -outform DER | openssl md5 -c`.
    const FINGERPRINT: &str = "b2:16:7d:00:03:a2:f2:d1:14:b7:db:2a:6d:9d:13:b9";
    const ANOTHER: &str = "20:3b:97:13:55:1c:5b:0d:d3:37:d8:50:4e:c5:3a:34";

    fn settings() -> Value {
        json!({ "tenancy_ocid": TENANCY, "user_ocid": USER, "fingerprint": FINGERPRINT, "private_key": { "env": "KEY" } })
    }

    fn with(key: &str, value: impl Into<Value>) -> Value {
        let mut settings = settings();
        settings[key] = value.into();
        settings
    }

    fn key(file: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(file);
        std::fs::read_to_string(path).unwrap()
    }

    fn built(settings: Value, secrets: &[(&str, &str)]) -> Result<Arc<dyn Scheme>, String> {
        let draft = (KIND.parse)(settings).map_err(|error| format!("{}: {}", error.path, error.message))?;
        let secret = |(name, value): &(&str, &str)| (SecretRef::Env { env: (*name).into() }, Secret::new(*value));
        let secrets = secrets.iter().map(secret).collect();
        crate::scheme::tests::build(&*draft, &secrets).map_err(|error| error.0)
    }

    /// A session token that ends at a second.
    fn token(exp: &str) -> String {
        use base64::Engine;
        let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(&format!(r#"{{"exp":{exp}}}"#)))
    }

    #[test]
    fn an_api_key_is_one_key_under_the_ids_that_are_written() {
        for (settings, key_file) in [
            (settings(), "rsa-pkcs1.pem"),
            (settings(), "rsa-pkcs8.pem"),
            (settings(), "rsa-with-a-label.pem"),
            (with("fingerprint", FINGERPRINT.to_uppercase()), "rsa-pkcs1.pem"),
            (
                with("tenancy_ocid", "ocidv1:tenancy:oc1:phx:1460406592660:aaaaaaaab4faofrfkxecohhjuivjq262pu"),
                "rsa-pkcs1.pem",
            ),
            (with("user_ocid", json!({ "env": "USER" })), "rsa-pkcs1.pem"),
            (with("fingerprint", "9d:7a:33:98:48:e6:61:7a:1f:ee:3e:11:da:33:73:7a"), "rsa-4096.pem"),
        ] {
            let scheme = built(settings, &[("KEY", &key(key_file)), ("USER", USER)]).unwrap();
            assert!(matches!(scheme.identity(), Identity::Fixed(_)));
            assert!(!format!("{scheme:?}").contains("aaaaaaaa"));
        }
        for file in ["rsa-encrypted-aes256.pem", "rsa-legacy-encrypted.pem", "rsa-legacy-des3.pem"] {
            let settings = with("password", json!({ "env": "PASSWORD" }));
            built(settings, &[("KEY", &key(file)), ("PASSWORD", "hunter2")]).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_right_is_told_where_it_is_written() {
        let good = key("rsa-pkcs1.pem");
        for (settings, said) in [
            (with("tenancy_ocid", USER), "tenancy_ocid: it is not the OCID of a tenancy"),
            (with("tenancy_ocid", "ocid1.tenancy."), "tenancy_ocid: it is not the OCID of a tenancy"),
            (
                with("user_ocid", "ocid1.usr.oc1..aaaa"),
                "user_ocid: it is not the OCID of a user, which begins with `ocid1.user.`",
            ),
            (with("user_ocid", format!("{USER} ")), "user_ocid: it is not"),
            (with("user_ocid", "ocid1.user.oc1.."), "user_ocid: it is not"),
            (with("fingerprint", "20:3b"), "fingerprint: it is not a fingerprint"),
            (
                with("fingerprint", ANOTHER),
                &format!("fingerprint: it is of another key; private_key has {FINGERPRINT}"),
            ),
            (
                with("password", json!({ "env": "PASSWORD" })),
                "private_key: there is a password and the key is not encrypted",
            ),
            (with("private_key", "text"), "private_key: a secret does not stand in this file"),
            (with("principal", "instance"), "tenancy_ocid: a principal has keys of its own"),
            (with("federation_url", "https://a.test"), "federation_url: `metadata_url` goes with"),
            (
                with("security_token", json!({ "env": "TOKEN" })),
                "security_token: it is not a session token of Oracle's",
            ),
            (json!({ "tenancy_ocid": TENANCY, "private_key": { "env": "KEY" } }), "user_ocid: `user_ocid` is needed"),
            (json!({}), "tenancy_ocid: `tenancy_ocid` is needed"),
            (json!({ "security_token": { "env": "TOKEN" } }), "private_key: `private_key` is needed"),
            (
                json!({ "principal": "resource", "metadata_url": "http://a.test" }),
                "metadata_url: `metadata_url` goes with",
            ),
            (json!({ "principal": "instance", "service_account_token": { "env": "T" } }), "service_account_token: "),
            (
                json!({ "principal": "instance", "federation_url": "http://a.test/v1" }),
                "federation_url: the credential would",
            ),
            (json!({ "principal": "instance", "metadata_url": "a b" }), "metadata_url: `a b` is not an address"),
            (json!({ "principal": "user" }), "principal: unknown variant `user`"),
            (with("region", "us-ashburn-1"), "unknown field `region`"),
        ] {
            let error =
                built(settings, &[("KEY", &good), ("PASSWORD", "hunter2"), ("TOKEN", "none.such.token")]).unwrap_err();
            assert!(error.contains(said), "{error}, and not {said}");
        }
    }

    #[test]
    fn keys_that_cannot_sign_say_why() {
        let encrypted = with("password", json!({ "env": "PASSWORD" }));
        for (settings, file, said) in [
            (settings(), "rsa-1024.pem", "private_key: it has 1024 bits"),
            (settings(), "p256-pkcs8.pem", "private_key: PrivateKey(P-256) does not sign for Oracle; its keys are RSA"),
            (settings(), "rsa-legacy-encrypted.pem", "private_key: it is encrypted and there is no password for it"),
            (settings(), "rsa-encrypted-aes256.pem", "private_key: it is encrypted and there is no password for it"),
            (
                encrypted.clone(),
                "rsa-legacy-encrypted.pem",
                "private_key: it cannot be decrypted: the password is wrong",
            ),
            (encrypted, "rsa-encrypted-aes256.pem", "private_key: it cannot be decrypted: the password is wrong"),
            (settings(), "rsa-other.pem", "fingerprint: it is of another key"),
            (settings(), "certificate.pem", "private_key: there is no private key in it"),
        ] {
            let error = built(settings, &[("KEY", &key(file)), ("PASSWORD", "wrong")]).unwrap_err();
            assert!(error.starts_with(said), "{error}, and not {said}");
        }
    }

    #[test]
    fn a_session_token_says_when_it_ends() {
        let ends =
            |text: &str| principal::expiry(&Secret::new(text)).map(|end| end.duration_since(SystemTime::UNIX_EPOCH));
        use std::time::SystemTime;
        assert_eq!(ends(&token("1700000000")).unwrap().unwrap().as_secs(), 1_700_000_000);
        for text in ["", "a.b", "a.b.c", &token("\"soon\""), &token("-1"), &token("1e300"), &token("null")] {
            assert!(ends(text).is_err(), "{text}");
        }
    }

    /// The environment of a resource principal.
    #[derive(Debug)]
    struct Variables(Vec<(&'static str, String)>);

    impl Environment for Variables {
        fn variable(&self, name: &str) -> Option<String> {
            let name = name.strip_prefix("OCI_RESOURCE_PRINCIPAL_")?;
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
        }
    }

    #[tokio::test]
    async fn a_resource_principal_is_values_or_files_that_are_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        std::fs::write(path("key"), key("rsa-legacy-encrypted.pem")).unwrap();
        std::fs::write(path("password"), "hunter2\n").unwrap();
        let all = |version: &str, token: String| {
            let pairs = [("VERSION", version.to_owned()), ("RPST", token), ("PRIVATE_PEM", path("key"))];
            Variables(pairs.into_iter().chain([("PRIVATE_PEM_PASSPHRASE", path("password"))]).collect())
        };
        let (session, seen) = resource(&all("2.2", path("token"))).unwrap();
        assert_eq!(seen.len(), 3);
        for end in [1_700_000_100_u64, 1_700_009_999] {
            std::fs::write(path("token"), token(&end.to_string()) + "\n").unwrap();
            let issued = session.fetch(now).await.unwrap();
            assert_eq!(issued.expires_at.duration_since(now).unwrap().as_secs(), end - 1_700_000_000);
            assert!(format!("{:?}", session.authorizer(&issued).unwrap()).contains("2048 bits"));
        }
        std::fs::write(path("token"), token("1699999999")).unwrap();
        let failure = session.fetch(now).await.unwrap_err();
        assert!(failure.detail.contains("ended at Tue, 14 Nov 2023 22:13:19 GMT; whoever"), "{failure}");
        std::fs::write(path("password"), "wrong").unwrap();
        assert!(session.fetch(now).await.unwrap_err().detail.contains("the password is wrong"));
        std::fs::remove_file(path("key")).unwrap();
        assert!(session.fetch(now).await.unwrap_err().detail.contains("No such file"));
        let held = Variables(vec![
            ("VERSION", "2.2".into()),
            ("RPST", token("1700000100")),
            ("PRIVATE_PEM", key("rsa-pkcs1.pem")),
        ]);
        assert!(resource(&held).unwrap().0.fetch(now).await.is_ok());
        for (variables, said) in [
            (all("3.0", path("token")), "another than 2.2"),
            (Variables(vec![]), "OCI_RESOURCE_PRINCIPAL_VERSION is not set"),
            (Variables(vec![("VERSION", "2.2".into())]), "OCI_RESOURCE_PRINCIPAL_RPST is not set"),
        ] {
            assert!(resource(&variables).unwrap_err().0.contains(said));
        }
    }
}
