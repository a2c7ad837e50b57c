//! The JSON files that Google hands out: what is in them, whether it is the file that is meant, and where they may point.
//!
//! A file comes from elsewhere than the configuration, so **no address in one is called unless it is Google's own**
//! (<https://cloud.google.com/docs/authentication/client-libraries#external-credentials>), and **nothing that stands in
//! one is repeated in an error**, the names of its fields excepted.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::base::{Destination, Host, Protocol, Secret};

/// The universe that is meant where a file names none: Google's public cloud.
pub(super) const PUBLIC: &str = "googleapis.com";

/// The kinds of files that are read here, by the key that each stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    ServiceAccount,
    ExternalAccount,
    AuthorizedUser,
}

impl Form {
    /// The value of `type` in the file, and the key of the credential.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account",
            Self::ExternalAccount => "external_account",
            Self::AuthorizedUser => "authorized_user",
        }
    }

    /// Where a person gets such a file.
    fn origin(self) -> &'static str {
        match self {
            Self::ServiceAccount => {
                "the JSON key of a service account, as it is downloaded (IAM & Admin, Service Accounts, Keys)"
            }
            Self::ExternalAccount => {
                "the configuration of a workload identity pool's provider (`gcloud iam workload-identity-pools \
                 create-cred-config`)"
            }
            Self::AuthorizedUser => "what `gcloud auth application-default login` writes",
        }
    }
}

/// A file, or a part of one. Its texts are wiped when it is dropped.
pub(super) struct Document(Map<String, Value>);

impl Drop for Document {
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

impl Document {
    /// Reads the whole file, which must be of this form.
    ///
    /// # Errors
    /// What it is instead, and what to change.
    pub(super) fn read(content: &Secret, form: Form) -> Result<Self, String> {
        let wanted = format!("{} is {}", form.name(), form.origin());
        if content.expose().trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err(format!("it is a key alone; {wanted}, the whole of it"));
        }
        let document = match serde_json::from_slice(content.expose()) {
            Ok(Value::Object(fields)) => Self(fields),
            Ok(_) | Err(_) => return Err(format!("it is not a JSON object, or not the whole of one; {wanted}")),
        };
        let named = document.0.get("type").and_then(Value::as_str);
        let instead = match named {
            Some(name) if name == form.name() => return Ok(document),
            Some("service_account") => {
                format!(
                    "it is a service account's key: write it under `service_account`, or give what is meant; {wanted}"
                )
            }
            Some("external_account") => {
                format!(
                    "it configures workload identity federation: write it under `external_account`, or give what is meant; {wanted}"
                )
            }
            Some("authorized_user") => {
                format!("it is a person's own file: write it under `authorized_user`, or give what is meant; {wanted}")
            }
            Some("impersonated_service_account" | "external_account_authorized_user" | "gdch_service_account") => {
                format!("files of its `type` are not read here; {wanted}")
            }
            Some(_) => format!("its `type` is none that is known here; {wanted}"),
            None if document.has("installed") || document.has("web") => {
                format!("it is an OAuth client's file, which needs a person at a browser; {wanted}")
            }
            None => format!("it has no `type`; {wanted}"),
        };
        Err(instead)
    }

    /// The text of a field that must be there.
    pub(super) fn text(&self, field: &str) -> Result<&str, String> {
        self.optional(field)?.ok_or_else(|| format!("there is no `{field}` in it; write the whole file as it was made"))
    }

    /// The text of a field that may be there.
    pub(super) fn optional(&self, field: &str) -> Result<Option<&str>, String> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{field}` in it is not text")),
        }
    }

    /// A whole number that may be there.
    pub(super) fn number(&self, field: &str) -> Result<Option<u64>, String> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("`{field}` in it is not a whole number")),
        }
    }

    /// A part that may be there.
    pub(super) fn part(&self, field: &str) -> Result<Option<Self>, String> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self(fields.clone()))),
            Some(_) => Err(format!("`{field}` in it is not an object")),
        }
    }

    /// Whether a field is there.
    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// The names and values of a part all of whose values are text.
    pub(super) fn texts(&self) -> Result<Vec<(&str, &str)>, String> {
        let pair = |(name, value): (&'_ String, &'_ Value)| value.as_str().is_some() && !name.is_empty();
        match self.0.iter().all(pair) {
            true => Ok(self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect()),
            false => Err("`headers` in it has values that are not text".into()),
        }
    }

    /// The universe that the file is of. One that is not Google's public cloud must be the operator's word as well, since
    /// every address follows from it.
    ///
    /// # Errors
    /// When file and operator do not agree.
    pub(super) fn universe(&self, operators: Option<&str>) -> Result<String, String> {
        let own = self.optional("universe_domain")?.unwrap_or(PUBLIC);
        match operators {
            Some(stated) if stated == own => Ok(own.to_owned()),
            Some(_) => Err("its `universe_domain` is not the one that the credential names; write the same".into()),
            None if own == PUBLIC => Ok(own.to_owned()),
            None => Err("it is of another universe than googleapis.com; if that is right, write its \
                         `universe_domain` on the credential too, since every address follows from it"
                .into()),
        }
    }
}

/// Whether an address is one at which Google itself answers for a service: `https`, its usual port, and one of the names
/// that the service has in this universe (global, regional, with mutual TLS).
///
/// Names below `p.` are made in networks of customers and are not among them.
pub(super) fn is_service(url: &str, service: &str, universe: &str) -> bool {
    let Ok(destination) = Destination::from_upstream(url) else { return false };
    let Host::Name(name) = destination.host() else { return false };
    if destination.protocol() != Protocol::Https || destination.port() != 443 {
        return false;
    }
    let Some(front) = name.strip_suffix(universe).and_then(|front| front.strip_suffix('.')) else { return false };
    let labels: Vec<&str> = front.split('.').collect();
    match labels[..] {
        [one] => one == service || one.strip_suffix(service).is_some_and(|front| front.ends_with('-')),
        [first, "mtls"] => first == service,
        [first, _, "rep"] => first == service,
        _ => false,
    }
}

/// Whether an address is a token endpoint of Google's, of those that its key files have named over the years.
pub(super) fn is_token_endpoint(url: &str, universe: &str) -> bool {
    is_service(url, "oauth2", universe)
        || (universe == PUBLIC
            && [
                "https://www.googleapis.com/oauth2/v3/token",
                "https://www.googleapis.com/oauth2/v4/token",
                "https://accounts.google.com/o/oauth2/token",
            ]
            .contains(&url))
}

/// What an address in a file must be.
pub(super) fn foreign(field: &str, usual: &str, key: &str) -> String {
    format!(
        "`{field}` in it leads elsewhere than to Google ({usual}), and would be given the credential; if you mean that \
         address, write it on the credential as `{key}`"
    )
}

/// Hosts below `googleapis.com` that a credential serves only if it names them: a bucket of anybody's, a name in a
/// network of a customer's, whatever is not known to be an API of Google's own.
///
/// An API has one label (`storage`, `us-central1-aiplatform`), or is regional (`spanner.me-central2.rep`), or is the same
/// with mutual TLS (`storage.mtls`).
pub(super) fn is_strangers(host: &str) -> bool {
    let Some(front) = host.strip_suffix(PUBLIC).and_then(|front| front.strip_suffix('.')) else { return false };
    let labels: Vec<&str> = front.split('.').collect();
    !matches!(labels[..], [_] | [_, "mtls"] | [_, _, "rep"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(content: &str, form: Form) -> String {
        Document::read(&Secret::new(content), form).err().unwrap_or_default()
    }

    #[test]
    fn a_file_of_another_kind_says_what_it_is_and_where_it_belongs() {
        use Form::{AuthorizedUser, ExternalAccount, ServiceAccount};
        for (content, form, said) in [
            (r#"{"type":"authorized_user"}"#, ServiceAccount, "write it under `authorized_user`"),
            (r#"{"type":"external_account"}"#, ServiceAccount, "write it under `external_account`"),
            (r#"{"type":"service_account"}"#, ExternalAccount, "write it under `service_account`"),
            (r#"{"type":"service_account"}"#, AuthorizedUser, "write it under `service_account`"),
            (r#"{"installed":{"client_secret":"hunter2"}}"#, ServiceAccount, "an OAuth client's file"),
            (r#"{"web":{}}"#, AuthorizedUser, "an OAuth client's file"),
            (r#"{"type":"impersonated_service_account"}"#, ServiceAccount, "are not read here"),
            (r#"{"type":"hunter2"}"#, ServiceAccount, "none that is known"),
            (r#"{"private_key":"hunter2"}"#, ServiceAccount, "it has no `type`"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2", ServiceAccount, "it is a key alone"),
            (r#"{"type":"service_account","private_key":"hunter2"#, ServiceAccount, "not the whole of one"),
            ("[]", ServiceAccount, "not a JSON object"),
            ("", ExternalAccount, "not a JSON object"),
            ("hunter2", ServiceAccount, "IAM & Admin, Service Accounts, Keys"),
            (r#""hunter2""#, ExternalAccount, "create-cred-config"),
        ] {
            let why = fault(content, form);
            assert!(why.contains(said) && !why.contains("hunter2"), "{content}: {why}");
        }
        assert_eq!(fault(r#"{"type":"service_account"}"#, ServiceAccount), "");
    }

    #[test]
    fn fields_are_text_or_an_error_that_names_them() {
        let read = |text: &str| Document::read(&Secret::new(text), Form::ServiceAccount).unwrap();
        let document = read(r#"{"type":"service_account","a":"x","b":"","c":3,"d":null,"e":{"f":"g"}}"#);
        assert_eq!(document.text("a"), Ok("x"));
        assert_eq!(
            (document.optional("b"), document.optional("d"), document.optional("z")),
            (Ok(None), Ok(None), Ok(None))
        );
        assert!(document.text("b").unwrap_err().contains("no `b`"));
        assert!(document.text("c").unwrap_err().contains("`c` in it is not text"));
        assert_eq!(document.number("c"), Ok(Some(3)));
        assert!(document.number("a").is_err() && document.part("a").is_err());
        assert_eq!(document.part("e").unwrap().unwrap().texts(), Ok(vec![("f", "g")]));
        assert!(document.texts().is_err());
    }

    #[test]
    fn another_universe_is_the_operators_word_too() {
        let universe = |own: &str, operators| {
            let text = format!(r#"{{"type":"service_account"{own}}}"#);
            Document::read(&Secret::new(text), Form::ServiceAccount).unwrap().universe(operators)
        };
        assert_eq!(universe("", None).unwrap(), PUBLIC);
        assert_eq!(universe(r#","universe_domain":"googleapis.com""#, Some(PUBLIC)).unwrap(), PUBLIC);
        assert_eq!(universe(r#","universe_domain":"cloud.test""#, Some("cloud.test")).unwrap(), "cloud.test");
        for (own, operators) in [
            (r#","universe_domain":"evil.test""#, None),
            (r#","universe_domain":"evil.test""#, Some(PUBLIC)),
            ("", Some("cloud.test")),
        ] {
            assert!(universe(own, operators).unwrap_err().contains("universe"), "{own} {operators:?}");
        }
    }

    #[test]
    fn only_addresses_of_googles_own_are_followed() {
        for url in [
            "https://sts.googleapis.com/v1/token",
            "https://sts.googleapis.com:443/v1/token",
            "https://us-east1-sts.googleapis.com/v1/token",
            "https://sts.us-east1.rep.googleapis.com/v1/token",
            "https://sts.mtls.googleapis.com/v1/token",
        ] {
            assert!(is_service(url, "sts", PUBLIC), "{url}");
        }
        for url in [
            "http://sts.googleapis.com/v1/token",
            "https://sts.googleapis.com:8443/v1/token",
            "https://sts.googleapis.com.evil.test/v1/token",
            "https://stsgoogleapis.com/v1/token",
            "https://evilsts.googleapis.com/v1/token",
            "https://googleapis.com/v1/token",
            "https://sts.googleapis.com@evil.test/v1/token",
            "https://evil.test/sts.googleapis.com",
            "https://evil.storage.googleapis.com/v1/token",
            "https://sts.evil.googleapis.com/v1/token",
            "https://sts-evil.p.googleapis.com/v1/token",
            "https://storage.googleapis.com/evil/token",
            "https://169.254.169.254/",
            "sts.googleapis.com",
            "",
        ] {
            assert!(!is_service(url, "sts", PUBLIC), "{url}");
        }
        assert!(is_service("https://sts.cloud.test/v1/token", "sts", "cloud.test"));
        assert!(!is_service("https://sts.googleapis.com/v1/token", "sts", "cloud.test"));
        for url in [
            "https://oauth2.googleapis.com/token",
            "https://www.googleapis.com/oauth2/v4/token",
            "https://accounts.google.com/o/oauth2/token",
        ] {
            assert!(is_token_endpoint(url, PUBLIC), "{url}");
        }
        for url in
            ["https://accounts.google.com/x", "https://www.googleapis.com/upload", "https://oauth2.evil.test/token"]
        {
            assert!(!is_token_endpoint(url, PUBLIC), "{url}");
        }
        assert!(!is_token_endpoint("https://accounts.google.com/o/oauth2/token", "cloud.test"));
    }

    #[test]
    fn buckets_and_private_names_are_strangers_and_apis_are_not() {
        for host in [
            "storage.googleapis.com",
            "us-central1-aiplatform.googleapis.com",
            "spanner.me-central2.rep.googleapis.com",
            "storage.mtls.googleapis.com",
        ] {
            assert!(!is_strangers(host), "{host}");
        }
        for host in [
            "bucket.storage.googleapis.com",
            "a.bucket.storage.googleapis.com",
            "bucket.commondatastorage.googleapis.com",
            "storage-mine.p.googleapis.com",
            "a.b.c.googleapis.com",
        ] {
            assert!(is_strangers(host), "{host}");
        }
    }
}
