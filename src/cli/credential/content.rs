//! A credential's content as the command line gives it: a file with the keys of the configuration file, single fields, and
//! secrets from a prompt, a file or standard input.

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::client::Client;
use super::super::{Context, Failure, ask, moment};
use crate::base::{Secret, SecretRef};
use crate::config::Document;
use crate::scheme::is_at;
use crate::source::Sources;

/// What stands beside the scheme's own keys.
const COMMON: [&str; 8] = ["id", "name", "description", "scheme", "hosts", "tags", "enabled", "expires_at"];

/// What an answer of the API has beside these; nobody sets it.
const ANSWERED: [&str; 7] = ["account", "version", "secret_fields", "source", "created", "updated", "removed"];

/// How a secret is given.
const HOW: &str = "give it with --secret FIELD (asked for without echo), --secret FIELD=@FILE, or --secrets-from -";

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Content")]
pub(super) struct Content {
    /// How it signs: api_key, basic, oauth2, aws_sts, … as in the configuration file
    #[arg(long, value_name = "SCHEME")]
    pub(super) scheme: Option<String>,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    pub(super) name: Option<String>,
    /// A sentence for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A host that it is for; repeat it for several [default: those of the provider, where the scheme has one]
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// A tag, such as provider=aws; repeat it for several
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// A field of the scheme that is no secret: FIELD=TEXT, or FIELD:=JSON for numbers, true, lists and the like; a.b is b in a
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// A secret field of the scheme: asked for without echo, or read from a file (@- is standard input)
    #[arg(long = "secret", value_name = "FIELD[=@FILE]")]
    secret: Vec<String>,
    /// A document, JSON or YAML, with the secret fields and their values; - is standard input
    #[arg(long, value_name = "FILE")]
    secrets_from: Option<String>,
    /// The credential as the configuration file has it, YAML or JSON; { env }, { file } and { command } are read here and now
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// When the secret itself ends: 2027-01-31, 2027-01-31T12:00:00Z, or 90d from now
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Switch it on
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Switch it off without removing it
    #[arg(long)]
    disable: bool,
}

/// The credential as it was given, in the API's form: snake_case, the scheme's keys under `settings`.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The document, secrets included. Never to be shown.
    pub(super) document: Map<String, Value>,
}

impl Given {
    /// The text of a common key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.document.get(key).and_then(Value::as_str)
    }
}

impl Content {
    /// Whether standard input is asked for twice, and the like.
    fn check(&self) -> Result<(), Failure> {
        let files = [self.file.as_deref(), self.secrets_from.as_deref()];
        let named = self.secret.iter().filter(|text| text.ends_with("=@-")).count();
        if files.iter().flatten().filter(|file| **file == "-").count() + named > 1 {
            return Err(Failure::Usage("standard input can be read once: name files for the others".into()));
        }
        Ok(())
    }

    /// Reads the file, and nothing else yet.
    async fn read(&self, context: &Context) -> Result<Given, Failure> {
        let mut given = Given::default();
        if let Some(path) = &self.file {
            given.document = from_file(path, &ask::secret_in(path).await?)?;
            if let Some(settings) = given.document.get_mut("settings") {
                resolve(&Sources::new(context.deps.clone()), settings).await?;
            }
        }
        Ok(given)
    }

    /// Gathers everything. `present` is the scheme of what is changed, where something is.
    pub(super) async fn gather(
        &self,
        context: &Context,
        client: &Client,
        present: Option<&str>,
    ) -> Result<Given, Failure> {
        self.check()?;
        let mut given = self.read(context).await?;
        let document = &mut given.document;
        for (key, value) in [("scheme", &self.scheme), ("name", &self.name), ("description", &self.description)] {
            if let Some(value) = value {
                document.insert(key.into(), value.clone().into());
            }
        }
        if !self.hosts.is_empty() {
            document.insert("hosts".into(), self.hosts.clone().into());
        }
        for tag in &self.tags {
            let pair = tag.split_once('=').filter(|(key, _)| !key.is_empty());
            let (key, value) = pair.ok_or_else(|| Failure::Usage(format!("--tag {tag}: write KEY=VALUE")))?;
            object(document, "tags")[key] = value.into();
        }
        if let Some(text) = &self.expires_at {
            let at = moment(context, text).map_err(|why| Failure::Usage(format!("--expires-at {text}: {why}")))?;
            document.insert("expires_at".into(), at.into());
        }
        if self.enable || self.disable {
            document.insert("enabled".into(), self.enable.into());
        }
        let scheme = document.get("scheme").and_then(Value::as_str).or(present).map(str::to_owned);
        self.fields(client, scheme.as_deref(), object(document, "settings")).await?;
        document.retain(|key, value| key != "settings" || *value != json!({}));
        Ok(given)
    }

    /// The single fields, judged by what the scheme says of them before any secret is asked for.
    async fn fields(&self, client: &Client, scheme: Option<&str>, settings: &mut Value) -> Result<(), Failure> {
        if self.set.is_empty() && self.secret.is_empty() && self.secrets_from.is_none() {
            return Ok(());
        }
        let scheme = scheme.ok_or_else(|| Failure::Usage("say how it signs with --scheme".into()))?;
        let patterns = secret_fields(client, scheme).await?;
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        for assignment in &self.set {
            let (field, value) = assigned(assignment, &patterns).map_err(Failure::Usage)?;
            place(settings, field, value).map_err(Failure::Usage)?;
        }
        let fields: Vec<(&str, Option<&str>)> =
            self.secret.iter().map(|text| secret_of(text, scheme, &patterns)).collect::<Result<_, _>>()?;
        if let Some(path) = &self.secrets_from {
            let document = parsed(path, &ask::secret_in(path).await?)?;
            let Value::Object(fields) = document else {
                return Err(Failure::Other(format!("{}: fields and their values are needed", named(path))));
            };
            for (field, value) in fields {
                place(settings, &field, value).map_err(Failure::Other)?;
            }
        }
        for (field, file) in fields {
            let secret = match file {
                Some(path) => ask::secret_in(path).await?,
                None => ask::secret(field, &format!("write --secret {field}=@FILE or --secrets-from -"))?,
            };
            place(settings, field, text_of(field, &secret)?).map_err(Failure::Usage)?;
        }
        Ok(())
    }
}

fn text_of(field: &str, secret: &Secret) -> Result<Value, Failure> {
    let text = secret.expose_str().ok_or_else(|| Failure::Other(format!("{field}: it is not text")))?;
    Ok(text.into())
}

/// An object among a credential's keys, made if it is not there.
pub(super) fn object<'a>(document: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    let value = document.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = json!({});
    }
    value
}

/// `--secret FIELD` or `--secret FIELD=@FILE`.
fn secret_of<'a>(text: &'a str, scheme: &str, patterns: &[&str]) -> Result<(&'a str, Option<&'a str>), Failure> {
    let (field, file) = match text.split_once('=') {
        None => (text, None),
        Some((field, place)) => {
            let file = place.strip_prefix('@').filter(|file| !file.is_empty());
            // What stands there may be the secret: it is not repeated.
            let file = file.ok_or_else(|| {
                Failure::Usage(format!("--secret {field}: a secret is no argument; write --secret {field}=@FILE"))
            })?;
            (field, Some(file))
        }
    };
    if !is_secret(patterns, field) {
        let what = format!("--secret {field}: scheme {scheme} has no secret field of that name");
        return Err(Failure::Usage(format!("{what}; there are {}; others are given with --set", patterns.join(", "))));
    }
    Ok((field, file))
}

/// `FIELD=TEXT` or `FIELD:=JSON`.
fn assigned<'a>(text: &'a str, patterns: &[&str]) -> Result<(&'a str, Value), String> {
    let (field, value) = text.split_once('=').ok_or_else(|| format!("--set {text}: write FIELD=VALUE"))?;
    let (field, json) = match field.strip_suffix(':') {
        Some(field) => (field, true),
        None => (field, false),
    };
    // From here on no message has the value: it may be a secret.
    let covered = |path: &str| is_secret(patterns, path) || patterns.iter().any(|one| below(one, path));
    if covered(field) {
        return Err(format!("--set {field}: this is a secret, which is no argument; {}", HOW.replace("FIELD", field)));
    }
    if !json {
        return Ok((field, value.into()));
    }
    let value = serde_json::from_str(value);
    Ok((field, value.map_err(|_| format!("--set {field}: what follows := is not JSON; for text write {field}=TEXT"))?))
}

/// Whether a field is one of the secret ones, in whatever way of the API's it is spelt.
fn is_secret(patterns: &[&str], field: &str) -> bool {
    is_at(patterns, field) || is_at(patterns, &folded(field))
}

/// Whether a secret field is below this one, so that a whole object or list would hold it.
fn below(pattern: &str, field: &str) -> bool {
    let field = folded(field);
    let pattern = pattern.replace("[]", "");
    pattern.strip_prefix(field.as_str()).is_some_and(|rest| rest.starts_with('.'))
}

/// `clientSecret` and `client-secret` are `client_secret`.
fn folded(field: &str) -> String {
    let mut folded = String::new();
    for c in field.chars() {
        match c {
            '-' => folded.push('_'),
            c if c.is_ascii_uppercase() => {
                if !folded.is_empty() && !folded.ends_with(['.', '_']) {
                    folded.push('_');
                }
                folded.push(c.to_ascii_lowercase());
            }
            c => folded.push(c),
        }
    }
    folded
}

/// Puts a value at a path such as `second.client_id` of an object.
pub(super) fn place(settings: &mut Value, field: &str, value: Value) -> Result<(), String> {
    if field.contains(['[', ']']) {
        return Err(format!("{field}: write the whole list, in a document (--file or --secrets-from)"));
    }
    let mut segments: Vec<&str> = field.split('.').collect();
    let last = segments.pop().unwrap_or_default();
    if last.is_empty() || segments.contains(&"") {
        return Err(format!("{field}: not the name of a field"));
    }
    let mut inner = settings;
    for segment in segments {
        inner = &mut inner[segment];
        if !inner.is_object() {
            *inner = json!({});
        }
    }
    inner[last] = value;
    Ok(())
}

/// The paths of a scheme's secret fields, as this Countersign has them.
async fn secret_fields(client: &Client, scheme: &str) -> Result<Vec<String>, Failure> {
    let answer = client.get("/v1/schemes").await?;
    let schemes = answer.as_array().or_else(|| answer["schemes"].as_array()).cloned().unwrap_or_default();
    let found = schemes.iter().find(|one| one["name"] == folded(scheme));
    let Some(found) = found else {
        let names: Vec<_> = schemes.iter().filter_map(|one| one["name"].as_str()).collect();
        return Err(Failure::Usage(format!("unknown scheme {scheme}; there are {}", names.join(", "))));
    };
    let paths = found["secret"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(paths.map(str::to_owned).collect())
}

fn named(path: &str) -> String {
    if path == "-" { "standard input".into() } else { path.to_owned() }
}

/// JSON is YAML, but for what a JSON document may be that is larger than YAML readers like.
fn parsed(path: &str, text: &Secret) -> Result<Value, Failure> {
    let fail = |why: String| Failure::Other(format!("{}: {why}", named(path)));
    let text = text.expose_str().ok_or_else(|| fail("it is not text".into()))?;
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    Ok(Document::parse(text).map_err(|error| fail(error.to_string()))?.value(""))
}

/// A credential with the keys of the configuration file, or of the API's documents, in the API's form.
fn from_file(path: &str, text: &Secret) -> Result<Map<String, Value>, Failure> {
    let fail = |why: &str| Failure::Other(format!("{}: {why}", named(path)));
    let mut document = parsed(path, text)?;
    if let Some(Value::Array(several)) = document.get_mut("credentials") {
        if several.len() != 1 {
            return Err(fail("one credential is needed; write its keys at the top"));
        }
        document = several.remove(0);
    }
    let Value::Object(keys) = document else {
        return Err(fail("a credential's keys are needed: id, scheme, hosts …"));
    };
    // Then it is in the API's form, and what stands beside is the API's: `show --json` can be edited and put back.
    let shown = keys.contains_key("settings");
    let (mut given, mut settings) = (Map::new(), Map::new());
    for (key, value) in keys {
        let name = folded(&key);
        match (name.as_str(), value) {
            ("settings", Value::Object(inner)) => settings.extend(inner),
            ("settings", _) => return Err(fail("settings: the scheme's keys are needed")),
            (name, _) if shown && ANSWERED.contains(&name) => {}
            (name, value) if COMMON.contains(&name) => {
                given.insert(name.into(), value);
            }
            (_, _) if shown => return Err(fail(&format!("{key}: unknown; the scheme's keys stand under settings"))),
            (_, value) => {
                settings.insert(key, value);
            }
        }
    }
    if !settings.is_empty() {
        given.insert("settings".into(), settings.into());
    }
    Ok(given)
}

/// Puts what `{ env }`, `{ file }` and `{ command }` give in their place: the API takes values, since it must not read the
/// host that Countersign runs on for those who use it.
async fn resolve(sources: &Sources, settings: &mut Value) -> Result<(), Failure> {
    let mut open: Vec<&mut Value> = vec![settings];
    while let Some(value) = open.pop() {
        let reference = match &*value {
            Value::Object(map) if ["env", "file", "command"].iter().any(|key| map.contains_key(*key)) => {
                SecretRef::deserialize(&*value).ok().filter(SecretRef::is_operators)
            }
            _ => None,
        };
        if let Some(reference) = reference {
            let (secret, _) = sources.load(&reference).await.map_err(|error| Failure::Other(error.0))?;
            *value = text_of(&reference.to_string(), &secret)?;
            continue;
        }
        match value {
            Value::Object(map) => open.extend(map.values_mut()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [&str; 5] =
        ["client_secret", "additional_params.*", "additional_headers.**", "second.client_secret", "more[].key"];

    #[test]
    fn a_field_is_text_unless_it_is_said_to_be_json() {
        let value = |text| assigned(text, &SECRET).unwrap();
        assert_eq!(value("client_id=0123"), ("client_id", json!("0123")));
        assert_eq!(value("max_minutes:=60"), ("max_minutes", json!(60)));
        assert_eq!(value("scopes:=[\"a\"]"), ("scopes", json!(["a"])));
        assert_eq!(value("token_url=https://a.test/?b=c"), ("token_url", json!("https://a.test/?b=c")));
        assert!(assigned("client_id", &SECRET).is_err());
    }

    #[test]
    fn a_secret_field_is_no_argument_however_it_is_spelt_or_wrapped() {
        for text in [
            "client_secret=canary",
            "clientSecret=canary",
            "client-secret=canary",
            "client_secret:=\"canary\"",
            "additional_params.resource=canary",
            "additional_params:={\"a\":\"canary\"}",
            "additionalHeaders.X-Key=canary",
            "second.client_secret=canary",
            "second:={\"client_secret\":\"canary\"}",
            "more:=[{\"key\":\"canary\"}]",
            "max_minutes:=canary",
        ] {
            let error = assigned(text, &SECRET).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(assigned("second.client_id=a", &SECRET).is_ok());
        let Err(Failure::Usage(error)) = secret_of("client_secret=canary", "oauth2", &SECRET) else { panic!() };
        assert!(error.contains("@FILE") && !error.contains("canary"), "{error}");
        assert!(matches!(secret_of("client_secret=@f", "oauth2", &SECRET), Ok(("client_secret", Some("f")))));
        assert!(matches!(secret_of("clientSecret", "oauth2", &SECRET), Ok(("clientSecret", None))));
        assert!(secret_of("client_id=@f", "oauth2", &SECRET).is_err());
    }

    #[test]
    fn a_path_leads_into_what_is_there_already() {
        let mut settings = json!({});
        place(&mut settings, "second.client_id", json!("a")).unwrap();
        place(&mut settings, "second.client_secret", json!("b")).unwrap();
        assert_eq!(settings, json!({"second": {"client_id": "a", "client_secret": "b"}}));
        for wrong in ["", "a..b", ".a", "a[0].b"] {
            assert!(place(&mut settings, wrong, json!(1)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_has_the_keys_of_the_configuration_file_or_of_the_api() {
        let read = |text: &str| from_file("f", &Secret::new(text)).map(Value::Object);
        let flat = "id: a\nscheme: basic\nusername: u\npassword: { env: P }\nhosts: [a.test]\ntags: { x: y }\n";
        let expected = json!({
            "id": "a", "scheme": "basic", "hosts": ["a.test"], "tags": {"x": "y"},
            "settings": {"username": "u", "password": {"env": "P"}},
        });
        assert_eq!(read(flat).unwrap(), expected);
        let listed = format!("credentials:\n- {}", flat.trim().replace('\n', "\n  "));
        assert_eq!(read(&listed).unwrap(), expected);
        let shown = json!({
            "account": "default", "id": "a", "version": 3, "scheme": "basic", "hosts": ["a.test"], "tags": {"x": "y"},
            "settings": {"username": "u", "password": {"env": "P"}}, "secretFields": ["password"], "source": "store",
            "created": {"at": "x", "by": "y"}, "removed": false,
        });
        assert_eq!(read(&shown.to_string()).unwrap(), expected);
        let own = read("id: a\nscheme: aws\nversion: 4\n").unwrap();
        assert_eq!(own["settings"]["version"], 4, "a key of the scheme");
        for wrong in ["- a\n", "credentials: []", "just text", "a: [", "settings: 1", "settings: {}\nusername: u"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
