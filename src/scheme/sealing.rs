//! Taking the secrets out of a credential's settings before these are stored, and judging what a change of them may do.
//!
//! What is left holds `{ "sealed": PATH }` in place of each secret, so that it can be shown, searched and compared.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::azure::is_service;
use super::{Draft, Kind, SettingsError, at};
use crate::base::{Secret, SecretRef};

/// The members of a reference, as people write it.
const REFERENCE: [&str; 9] = ["env", "file", "command", "expires", "store", "name", "version", "field", "sealed"];

/// Settings and, apart from them, their secrets.
#[derive(Debug)]
pub struct Sealed {
    /// The scheme's keys, as they may be shown to whoever may see the credential.
    pub settings: Value,
    /// The secrets, by the path of their field.
    pub secrets: BTreeMap<String, Secret>,
    /// The settings, checked.
    pub draft: Box<dyn Draft>,
}

/// Why settings are not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealError {
    /// Something about them is wrong.
    Settings(SettingsError),
    /// They hold what only the operator writes, in the configuration file.
    Operators(SettingsError),
    /// They lead secrets elsewhere that are not given anew: the fields that changed.
    Leading(Vec<String>),
}

/// What is stored of a credential already.
#[derive(Debug)]
pub struct Stored<'a> {
    /// Its settings, sealed.
    pub settings: &'a Value,
    /// Its secrets.
    pub secrets: &'a BTreeMap<String, Secret>,
}

/// Takes the secrets out of settings that came in from outside. `before` is what they change: a `{ "sealed": PATH }` that
/// stands where it stood keeps its secret. References that read this host are refused, and so is a change of where secrets
/// go that keeps one of them.
///
/// # Errors
/// See [`SealError`]; no message repeats a value.
pub fn seal(kind: &Kind, mut settings: Value, before: Option<&Stored<'_>>) -> Result<Sealed, SealError> {
    if let Some(path) = leaves(&settings).into_iter().find(|path| is_at(kind.fields.operators, path)) {
        let why = "only the operator sets this, in the configuration file: it reaches into this host";
        return Err(SealError::Operators(at(path, why)));
    }
    let mut taking = Taking { kind, before, secrets: BTreeMap::new(), kept: false };
    taking.walk("", &mut settings).map_err(SealError::Settings)?;
    let Taking { secrets, kept, .. } = taking;
    let draft = (kind.parse)(settings.clone()).map_err(SealError::Settings)?;
    if let Some(error) = draft.uses_host() {
        return Err(SealError::Operators(error));
    }
    for reference in draft.references() {
        match reference {
            SecretRef::Sealed { sealed } if secrets.contains_key(sealed) => {}
            SecretRef::Sealed { sealed } => {
                return Err(SealError::Settings(at(sealed.clone(), "nothing is stored here; give the value")));
            }
            other if other.is_operators() => {
                let why = format!("{other}: only the operator reads this host; give the value, or {{ store, name }}");
                return Err(SealError::Operators(at("", why)));
            }
            _ => {}
        }
    }
    if let Some(before) = before.filter(|_| kept) {
        let changed: Vec<String> = leading(kind, before.settings, &settings);
        if !changed.is_empty() {
            return Err(SealError::Leading(changed));
        }
    }
    Ok(Sealed { settings, secrets, draft })
}

/// Whether settings that were stored are such as [`seal`] lets pass: a row that somebody wrote past us is not used.
///
/// # Errors
/// What the operator alone may write.
pub fn check_stored(kind: &Kind, settings: &Value, draft: &dyn Draft) -> Result<(), SettingsError> {
    let own = leaves(settings).into_iter().find(|path| is_at(kind.fields.operators, path));
    if let Some(path) = own {
        return Err(at(path, "only the operator sets this, in the configuration file"));
    }
    if draft.references().into_iter().any(SecretRef::is_operators) {
        return Err(at("", "only the operator reads this host"));
    }
    draft.uses_host().map_or(Ok(()), Err)
}

/// The fields that decide where secrets go and that differ.
fn leading(kind: &Kind, before: &Value, after: &Value) -> Vec<String> {
    let named = |value: &Value| -> Vec<String> {
        leaves(value).into_iter().filter(|path| is_at(kind.fields.leading, path)).collect()
    };
    let mut paths = named(before);
    paths.extend(named(after));
    paths.sort();
    paths.dedup();
    paths.into_iter().filter(|path| find(before, path) != find(after, path)).collect()
}

struct Taking<'a> {
    kind: &'a Kind,
    before: Option<&'a Stored<'a>>,
    secrets: BTreeMap<String, Secret>,
    kept: bool,
}

impl Taking<'_> {
    fn walk(&mut self, path: &str, value: &mut Value) -> Result<(), SettingsError> {
        let secret = !path.is_empty() && is_at(self.kind.fields.secret, path);
        match value {
            // Below a map of names, what looks like a reference may be names; a whole one is one.
            Value::Object(map) if is_reference(map) && (secret || !has_members(self.kind.fields.secret, path)) => {
                let Some(sealed) = map.get("sealed").and_then(Value::as_str) else { return Ok(()) };
                let kept = self.before.and_then(|before| before.secrets.get(path)).filter(|_| secret && sealed == path);
                let kept = kept.ok_or_else(|| at(path, "nothing is stored here; give the value"))?;
                self.secrets.insert(path.to_owned(), kept.clone());
                self.kept = true;
                Ok(())
            }
            // A document, such as Google's service account: what is secret is its text.
            Value::Object(_) if secret && !has_members(self.kind.fields.secret, path) => {
                self.take(path, value.to_string(), value);
                Ok(())
            }
            Value::Object(map) => map.iter_mut().try_for_each(|(name, value)| self.walk(&join(path, name), value)),
            Value::Array(items) => {
                items.iter_mut().enumerate().try_for_each(|(index, item)| self.walk(&format!("{path}[{index}]"), item))
            }
            // What stands around the place of a token is no secret, and has to be read.
            Value::String(text) if secret && text.contains('{') && is_template(self.kind.fields.secret, path) => Ok(()),
            // What a token is for tells nobody anything, and whoever chooses a credential has to know it.
            Value::String(text) if secret && names_a_service(path, text) => Ok(()),
            Value::Number(_) if secret => Err(at(path, "a number where a secret may stand: put it in quotes")),
            Value::String(text) if secret => {
                let text = std::mem::take(text);
                self.take(path, text, value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, path: &str, text: String, place: &mut Value) {
        self.secrets.insert(path.to_owned(), Secret::new(text));
        *place = serde_json::json!({ "sealed": path });
    }
}

/// Whether an object is a reference and nothing else.
fn is_reference(map: &Map<String, Value>) -> bool {
    let place = ["env", "file", "command", "store", "sealed"].iter().any(|key| map.contains_key(*key));
    place
        && map.keys().all(|key| REFERENCE.contains(&key.as_str()))
        && serde_json::from_value::<SecretRef>(Value::Object(map.clone())).is_ok()
}

/// Whether a pattern goes on below a path, so that an object there is no secret itself.
fn has_members(patterns: &[&str], path: &str) -> bool {
    is_at(patterns, &format!("{path}.x"))
}

/// Whether the pattern of this path is that of a field which may hold a template.
fn is_template(patterns: &[&str], path: &str) -> bool {
    patterns.iter().any(|pattern| pattern.ends_with('?') && is_at(&[pattern], path))
}

/// Whether a field whose name says that it holds a token's audience holds one that everybody knows.
fn names_a_service(path: &str, text: &str) -> bool {
    ["additional_params.resource", "additional_params.audience", "additional_params.scope"].contains(&path)
        && is_service(text)
}

/// A name below a path; what parts paths is escaped in names, so that each path has one meaning.
fn join(path: &str, name: &str) -> String {
    let name = name.replace('%', "%25").replace('.', "%2E").replace('[', "%5B").replace(']', "%5D");
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// A name as it was before [`join`].
fn unescaped(segment: &str) -> String {
    segment.replace("%5D", "]").replace("%5B", "[").replace("%2E", ".").replace("%25", "%")
}

/// The path of every value, those of objects and lists included.
fn leaves(value: &Value) -> Vec<String> {
    fn below(path: &str, value: &Value, found: &mut Vec<String>) {
        if !path.is_empty() {
            found.push(path.to_owned());
        }
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| below(&join(path, name), value, found)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| below(&format!("{path}[{index}]"), item, found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    below("", value, &mut found);
    found
}

fn find<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    let segments = path.split(['.', '[', ']']).filter(|segment| !segment.is_empty());
    segments.into_iter().try_fold(value, |value, segment| match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        other => other.get(unescaped(segment)),
    })
}

/// Whether a path such as `additional[0].key` is one of these patterns: `[]` is any index, `*` any member, and the elements
/// of a list there, `**` whatever is below.
pub fn is_at(patterns: &[&str], path: &str) -> bool {
    patterns.iter().any(|pattern| {
        let mut wanted = pattern.trim_end_matches('?').split('.');
        let mut given = path.split('.');
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(given)) if without_index(given) == wanted => {}
                _ => return false,
            }
        }
    })
}

/// `additional[0]` as the patterns write it.
fn without_index(segment: &str) -> String {
    match segment.split_once('[') {
        Some((name, _)) => format!("{name}[]"),
        None => segment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scheme::find as kind;

    fn sealed(scheme: &str, settings: Value) -> Result<Sealed, SealError> {
        seal(kind(scheme).unwrap(), settings, None)
    }

    #[test]
    fn secrets_are_taken_out_wherever_they_stand() {
        let sealed = sealed(
            "oauth2",
            json!({
                "grant_type": "client_credentials", "token_url": "https://idp.test/token", "client_id": "me",
                "client_secret": "canary1", "additional_params": {"resource": "canary2"},
                "additional_headers": {"x-key": "canary3", "x-many": ["canary4", "canary5"]},
            }),
        )
        .unwrap();
        assert!(!sealed.settings.to_string().contains("canary"), "{}", sealed.settings);
        assert_eq!(sealed.settings["client_secret"], json!({"sealed": "client_secret"}));
        let paths: Vec<_> = sealed.secrets.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "additional_headers.x-key",
                "additional_headers.x-many[0]",
                "additional_headers.x-many[1]",
                "additional_params.resource",
                "client_secret"
            ]
        );
    }

    #[test]
    fn an_audience_that_everybody_knows_is_no_secret_and_another_value_is() {
        let param = |name: &str, value: &str| {
            let settings = json!({
                "grant_type": "client_credentials", "token_url": "https://idp.test/token", "client_id": "me",
                "client_secret": "canary", "additional_params": {name: value},
            });
            let sealed = sealed("oauth2", settings).unwrap();
            (sealed.settings["additional_params"][name] == *value, sealed.draft.audience())
        };
        let management = "https://management.azure.com";
        assert_eq!(param("resource", management), (true, Some(management.into())));
        assert_eq!(param("audience", management), (true, Some(management.into())));
        assert_eq!(param("scope", &format!("{management}/.default")), (true, Some(management.into())));
        let databricks = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";
        assert_eq!(param("resource", databricks), (true, Some(databricks.into())));
        assert_eq!(param("resource", "canary"), (false, None));
        assert_eq!(param("resource", "https://canary.example.com"), (false, None));
        assert_eq!(param("scope", &format!("{management}/.default canary")), (false, None));
        assert_eq!(param("other", management), (false, None));
    }

    #[test]
    fn what_was_sealed_as_an_audience_stays_until_it_is_given_anew() {
        let with = |params: Value| {
            json!({
                "grant_type": "client_credentials", "token_url": "https://idp.test/token", "client_id": "me",
                "client_secret": {"sealed": "client_secret"}, "additional_params": params,
            })
        };
        let settings = with(json!({"resource": {"sealed": "additional_params.resource"}}));
        let secret = |text: &str| Secret::new(text.to_owned());
        let secrets = [("client_secret", secret("a")), ("additional_params.resource", secret("b"))];
        let secrets = secrets.into_iter().map(|(path, secret)| (path.to_owned(), secret)).collect();
        let before = Stored { settings: &settings, secrets: &secrets };
        let kept = seal(kind("oauth2").unwrap(), settings.clone(), Some(&before)).unwrap();
        assert!(kept.secrets.contains_key("additional_params.resource"));
        let anew = with(json!({"resource": "https://management.azure.com"}));
        let anew = seal(kind("oauth2").unwrap(), anew, Some(&before)).unwrap();
        assert!(!anew.secrets.contains_key("additional_params.resource"));
    }

    #[test]
    fn a_document_is_one_secret() {
        let account = json!({"type": "service_account", "private_key": "canary"});
        let sealed = sealed("google", json!({"service_account": account})).unwrap();
        assert_eq!(sealed.settings["service_account"], json!({"sealed": "service_account"}));
        let text = sealed.secrets["service_account"].expose_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), account);
    }

    #[test]
    fn what_reads_this_host_is_refused_and_a_store_is_not() {
        for settings in [
            json!({"username": "u", "password": {"env": "P"}}),
            json!({"username": "u", "password": {"file": "/etc/passwd"}}),
            json!({"username": {"command": ["id"]}, "password": "p"}),
        ] {
            assert!(matches!(sealed("basic", settings), Err(SealError::Operators(_))));
        }
        for (scheme, settings) in [
            ("aws_sts", json!({"profile": "default"})),
            ("aws_sts", json!({"web_identity": {"role_arn": "x", "token_file": "/t"}})),
            ("azure", json!({"audience": "graph", "federated_token_file": "/t"})),
            ("oracle", json!({"principal": "instance"})),
            ("login", json!({"allow_addresses": ["10.0.0.0/8"]})),
        ] {
            assert!(matches!(sealed(scheme, settings), Err(SealError::Operators(_))), "{scheme}");
        }
        let stored = json!({"username": "u", "password": {"store": "kv", "name": "p"}});
        assert!(sealed("basic", stored).unwrap().secrets.is_empty());
        assert!(sealed("basic", json!({"username": "u", "password": {"sealed": "password"}})).is_err());
    }

    #[test]
    fn a_secret_is_kept_where_it_was_and_led_nowhere_else() {
        let kind = kind("oauth2").unwrap();
        let first = json!({
            "grant_type": "client_credentials", "token_url": "https://idp.test/token", "client_id": "me",
            "client_secret": "s",
        });
        let Sealed { settings, secrets, .. } = seal(kind, first, None).unwrap();
        let before = Stored { settings: &settings, secrets: &secrets };
        let with = |key: &str, value: Value| {
            let mut changed = settings.clone();
            changed[key] = value;
            changed
        };
        let kept = seal(kind, with("scopes", json!("a")), Some(&before)).unwrap();
        assert_eq!(kept.secrets["client_secret"].expose(), b"s");
        let elsewhere = with("token_url", json!("https://evil.test/token"));
        assert_eq!(
            seal(kind, elsewhere.clone(), Some(&before)).unwrap_err(),
            SealError::Leading(vec!["token_url".into()])
        );
        let mut anew = elsewhere;
        anew["client_secret"] = json!("s2");
        assert!(seal(kind, anew, Some(&before)).is_ok());
        let moved = with("client_password", json!({"sealed": "client_secret"}));
        assert!(matches!(seal(kind, moved, Some(&before)), Err(SealError::Settings(_))));
    }

    #[test]
    fn a_fixed_value_is_secret_and_a_template_is_read() {
        let login = |value: &str| {
            let settings = json!({
                "login_url": "https://a.test/login", "token": {"pointer": "/t"},
                "inject": [{"header": "Authorization", "value": "Bearer {token}"}, {"header": "X-Key", "value": value}],
            });
            sealed("login", settings).unwrap().settings["inject"].clone()
        };
        let inject = login("canary");
        assert_eq!(inject[0]["value"], "Bearer {token}");
        assert_eq!(inject[1]["value"], json!({"sealed": "inject[1].value"}));
    }

    #[test]
    fn no_name_and_no_form_keeps_a_secret_in_sight() {
        for (key, value) in [
            ("additional_headers", json!({"x.api.key": "canary"})),
            ("additional_params", json!({"com.acme.id": "canary", "a[0]": "canary"})),
            ("additional_params", json!({"store": "canary"})),
            ("additional_params", json!({"file": "canary", "name": "canary"})),
        ] {
            let mut settings = json!({
                "grant_type": "client_credentials", "token_url": "https://idp.test/token", "client_id": "me", "client_secret": "s",
            });
            settings[key] = value;
            match sealed("oauth2", settings) {
                Ok(sealed) => assert!(!sealed.settings.to_string().contains("canary"), "{}", sealed.settings),
                Err(error) => assert!(!format!("{error:?}").contains("canary"), "{error:?}"),
            }
        }
        let login = json!({
            "login_url": "https://a.test/login", "token": {"pointer": "/t"},
            "json": {"a.b": "canary1", "a": {"b": "canary2"}, "store": "canary3"},
        });
        let sealed_login = sealed("login", login).unwrap();
        assert_eq!(sealed_login.secrets.len(), 3, "{:?}", sealed_login.secrets.keys());
        let number = json!({"login_url": "https://a.test/login", "token": {"pointer": "/t"}, "json": {"pin": 4711}});
        assert!(matches!(sealed("login", number), Err(SealError::Settings(_))));
    }

    #[test]
    fn the_hosts_own_keys_are_used_with_a_role_and_at_aws_only() {
        let role = "arn:aws:iam::123456789012:role/x";
        assert!(matches!(sealed("aws_sts", json!({})), Err(SealError::Operators(_))));
        let elsewhere = json!({"role_arn": role, "sts_endpoint": "https://sts.eu-west-1.amazonaws.com"});
        assert!(matches!(sealed("aws_sts", elsewhere), Err(SealError::Operators(_))));
        assert!(sealed("aws_sts", json!({"role_arn": role})).is_ok());
    }

    #[test]
    fn no_message_repeats_a_secret() {
        for settings in [json!({"password": "canary"}), json!({"username": 1, "password": "canary"})] {
            let error = format!("{:?}", sealed("basic", settings).unwrap_err());
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
