//! A credential as it comes in and as it is shown.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::engine::Declared;
use super::error::ApiError;
use super::json::{self, Confidential};
use crate::route::{DEFAULT_ACCOUNT, HostPattern};
use crate::store::{Change, CredentialRecord};

/// The longest name of anything, in characters.
const NAME: usize = 256;
/// The longest description, in characters.
const DESCRIPTION: usize = 4096;
/// As many as AWS allows on a resource, and more than anybody can read.
const TAGS: usize = 50;
/// More than any provider has services.
const HOSTS: usize = 256;

/// Where a credential is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the encrypted store.
    Store,
    /// In the configuration file: it is changed only there.
    File,
}

/// A credential without its secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    /// The account that owns it.
    pub account: String,
    /// Its id within the account.
    pub id: String,
    /// From 1; 0 where the configuration file declares it.
    pub version: i64,
    /// What people call it.
    pub name: String,
    /// A sentence for people.
    pub description: Option<String>,
    /// The scheme, in snake_case.
    pub scheme: String,
    /// Host patterns; empty for those of the scheme.
    pub hosts: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// The scheme's keys; `{ "sealed": PATH }` in place of each secret. See [`Credential::shown`].
    pub settings: Value,
    /// What a way in keeps beside them.
    pub extra: Value,
    /// When the secret itself ends, where that is known.
    pub expires_at: Option<SystemTime>,
    /// Where it is declared.
    pub origin: Origin,
    /// The first version; nothing for what the file declares.
    pub created: Option<Change>,
    /// This version.
    pub updated: Option<Change>,
    /// It was removed by this version.
    pub removed: bool,
    /// What this version changed.
    pub changed_fields: Vec<String>,
}

impl Credential {
    /// The scheme's keys without secrets, as the file spells them.
    pub fn shown(&self) -> Value {
        json::shown(&self.settings)
    }

    /// The paths of the secrets that are stored: `client_secret`, `additional[0].key`.
    pub fn secret_fields(&self) -> Vec<String> {
        json::marks(&self.settings)
    }
}

impl From<CredentialRecord> for Credential {
    fn from(record: CredentialRecord) -> Self {
        Self {
            account: record.account,
            id: record.id,
            version: record.version,
            name: record.name,
            description: record.description,
            scheme: record.scheme,
            hosts: record.hosts,
            tags: record.tags,
            enabled: record.enabled,
            settings: record.settings,
            extra: record.extra,
            expires_at: record.expires_at,
            origin: Origin::Store,
            created: Some(record.created),
            updated: Some(record.updated),
            removed: record.removed,
            changed_fields: record.changed_fields,
        }
    }
}

impl From<Declared> for Credential {
    fn from(declared: Declared) -> Self {
        Self {
            account: DEFAULT_ACCOUNT.to_owned(),
            name: declared.id.clone(),
            id: declared.id,
            version: 0,
            description: declared.description,
            scheme: declared.scheme.to_owned(),
            hosts: declared.hosts,
            tags: declared.tags,
            enabled: declared.enabled,
            settings: Value::Object(serde_json::Map::new()),
            extra: Value::Null,
            expires_at: None,
            origin: Origin::File,
            created: None,
            updated: None,
            removed: false,
            changed_fields: Vec::new(),
        }
    }
}

/// A new credential, or the whole content of one.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its id; made from the name when absent.
    pub id: Option<String>,
    /// What people call it; the id when absent.
    pub name: Option<String>,
    /// A sentence for people.
    pub description: Option<String>,
    /// The scheme; `-` and `_` are the same.
    pub scheme: String,
    /// Host patterns; empty for those of the scheme.
    pub hosts: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// When the secret itself ends, where that is known.
    pub expires_at: Option<SystemTime>,
    /// The scheme's keys as the file spells them, secrets in clear.
    pub settings: Confidential,
    /// What a way in keeps beside them: never a secret.
    pub extra: Value,
}

impl Input {
    /// Nothing but a scheme and its keys.
    pub fn new(scheme: impl Into<String>, settings: Value) -> Self {
        Self {
            id: None,
            name: None,
            description: None,
            scheme: scheme.into(),
            hosts: Vec::new(),
            tags: BTreeMap::new(),
            enabled: true,
            expires_at: None,
            settings: Confidential::new(settings),
            extra: Value::Null,
        }
    }
}

/// A change of a credential: what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// What people call it.
    pub name: Option<String>,
    /// A sentence for people; `Some(None)` takes it away.
    pub description: Option<Option<String>>,
    /// The scheme, for whoever repeats it: it does not change.
    pub scheme: Option<String>,
    /// Host patterns.
    pub hosts: Option<Vec<String>>,
    /// Tags.
    pub tags: Option<TagsPatch>,
    /// Whether it may be used.
    pub enabled: Option<bool>,
    /// When the secret itself ends; `Some(None)` for unknown.
    pub expires_at: Option<Option<SystemTime>>,
    /// A JSON merge patch (RFC 7396) of the scheme's keys, as the file spells them, secrets in clear. Secrets that it does
    /// not mention stay.
    pub settings: Option<Confidential>,
    /// What a way in keeps beside them.
    pub extra: Option<Value>,
}

/// A change of tags.
#[derive(Debug, Clone)]
pub enum TagsPatch {
    /// These and no others.
    Replace(BTreeMap<String, String>),
    /// These among the others; `None` takes one away.
    Merge(BTreeMap<String, Option<String>>),
}

/// What must hold for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// `If-Match`: the present version is this one.
    Version(i64),
    /// `If-None-Match: *`: there is none yet.
    Absent,
}

/// What is common to all schemes, checked.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) hosts: Vec<String>,
    pub(super) tags: BTreeMap<String, String>,
}

impl Common {
    pub(super) fn check(
        name: &str,
        description: Option<&str>,
        hosts: &[String],
        tags: &BTreeMap<String, String>,
    ) -> Result<Self, ApiError> {
        check_name(name)?;
        let description = description.filter(|text| !text.is_empty());
        if description.is_some_and(|text| text.chars().count() > DESCRIPTION) {
            let why = format!("a description has {DESCRIPTION} characters at most");
            return Err(ApiError::unprocessable("description", why));
        }
        if hosts.len() > HOSTS {
            return Err(ApiError::unprocessable("hosts", format!("{HOSTS} at most; a `*.` stands for what is below")));
        }
        let pattern = |(index, host): (usize, &String)| {
            let parsed = HostPattern::parse(host);
            parsed
                .map_or_else(|why| Err(ApiError::unprocessable(format!("hosts[{index}]"), why)), |p| Ok(p.to_string()))
        };
        let hosts = hosts.iter().enumerate().map(pattern).collect::<Result<_, _>>()?;
        if tags.len() > TAGS {
            return Err(ApiError::unprocessable("tags", format!("{TAGS} at most")));
        }
        for (key, value) in tags {
            check_tag(key, value)?;
        }
        Ok(Self { name: name.to_owned(), description: description.map(str::to_owned), hosts, tags: tags.clone() })
    }
}

/// Checks what people call something.
fn check_name(name: &str) -> Result<(), ApiError> {
    let length = name.chars().count();
    if !(1..=NAME).contains(&length) || name.chars().any(char::is_control) || name.trim().is_empty() {
        return Err(ApiError::unprocessable(
            "name",
            format!("a name has 1 to {NAME} characters and no control characters"),
        ));
    }
    Ok(())
}

/// Checks a tag: cred/v2 `^[_\p{L}\d][-_:\p{L}\d]{0,127}$` and `^.{1,256}$`.
fn check_tag(key: &str, value: &str) -> Result<(), ApiError> {
    let letter = |c: char| c == '_' || c.is_alphabetic() || c.is_ascii_digit();
    let inner = |c: char| letter(c) || c == '-' || c == ':';
    let good = key.chars().next().is_some_and(letter) && key.chars().all(inner) && key.chars().count() <= 128;
    if !good {
        let why =
            "a tag's key has up to 128 letters, digits, `_`, `-` and `:`, and begins with a letter, a digit or `_`";
        return Err(ApiError::unprocessable("tags", why));
    }
    if !(1..=256).contains(&value.chars().count()) || value.chars().any(char::is_control) {
        return Err(ApiError::unprocessable(
            format!("tags.{key}"),
            "a tag's value has 1 to 256 characters in one line",
        ));
    }
    Ok(())
}

/// Checks an id: cred/v2 `^[_a-zA-Z0-9][-_a-zA-Z0-9]{0,127}$`.
///
/// # Errors
/// `unprocessable`.
pub fn check_id(id: &str) -> Result<(), ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=128).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with('-') {
        return Ok(());
    }
    let why = "an id has up to 128 letters, digits, `-` and `_`, and does not begin with `-`";
    Err(ApiError::unprocessable("id", why))
}

/// The id that a name becomes, before it is made unique.
pub(super) fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c.to_ascii_lowercase()),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    // Room for what makes it unique.
    out.truncate(120);
    let out = out.trim_end_matches('-');
    if out.is_empty() { "credential".to_owned() } else { out.to_owned() }
}

/// How long before its end a secret is warned about: long enough to order another from a person on holiday.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What to tell people about a secret that ends soon, or has ended.
pub fn expiry_warning(expires_at: Option<SystemTime>, now: SystemTime) -> Option<String> {
    let end = expires_at?;
    match end.duration_since(now) {
        Ok(left) if left > EXPIRY_NOTICE => None,
        Ok(left) if left < Duration::from_secs(48 * 3600) => {
            Some(format!("the secret ends in {} hours: give a new one", left.as_secs() / 3600))
        }
        Ok(left) => Some(format!("the secret ends in {} days: give a new one", left.as_secs() / 86_400)),
        Err(_) => Some("the secret has ended: give a new one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_an_id_that_may_be_one() {
        for (name, id) in [
            ("Azure prod", "azure-prod"),
            ("  AWS (EU) / 2  ", "aws-eu-2"),
            ("_x", "_x"),
            ("äöü", "credential"),
            ("-", "credential"),
        ] {
            assert_eq!(slug(name), id);
            assert!(check_id(id).is_ok());
        }
        assert!(check_id(&slug(&"x".repeat(400))).is_ok());
        for id in ["", "-a", "a b", "a/b", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn names_tags_and_hosts_are_checked_and_hosts_get_their_normal_form() {
        let none = BTreeMap::new();
        let hosts = ["API.Example.COM.".to_owned()];
        assert_eq!(Common::check("n", Some(""), &hosts, &none).unwrap().hosts, ["api.example.com"]);
        let path = |result: Result<Common, ApiError>| result.unwrap_err().path.unwrap();
        assert_eq!(path(Common::check("", None, &[], &none)), "name");
        assert_eq!(path(Common::check("a\nb", None, &[], &none)), "name");
        assert_eq!(path(Common::check("n", None, &["a.test".into(), "*".into()], &none)), "hosts[1]");
        let tag = |key: &str, value: &str| Common::check("n", None, &[], &BTreeMap::from([(key.into(), value.into())]));
        for (key, value) in [("provider", "aws"), ("ui", "aws_sts"), ("ключ:a-b", "x")] {
            assert!(tag(key, value).is_ok(), "{key}");
        }
        for (key, value) in [("", "x"), ("-a", "x"), ("a b", "x"), ("a", ""), ("a", "b\nc"), (&"k".repeat(129), "x")] {
            assert!(tag(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_secret_that_ends_is_told_of_in_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let after = |days: u64| expiry_warning(Some(now + Duration::from_secs(days * 86_400)), now);
        assert_eq!(after(15), None);
        assert!(after(13).unwrap().contains("13 days") && after(1).unwrap().contains("24 hours"));
        assert!(expiry_warning(Some(now - Duration::from_secs(1)), now).unwrap().contains("has ended"));
        assert_eq!(expiry_warning(None, now), None);
    }
}
