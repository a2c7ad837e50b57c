//! Declarations in JSON and YAML of what a template declares, for policy engines with a language of their own.
//!
//! A list of blocks, `{credentials: […]}` around it, or blocks by their names. JSON is read as YAML too, which says where
//! an error is.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::declared::{Block, Issue, Parameter, TOO_MANY_SCHEMES, Template, Use, add_scheme};

impl Template {
    /// Reads a template or a declaration, as the name of its file says: `.pt`, `.json`, `.yaml` or `.yml`; of any other
    /// name, as its text looks. Total: what is wrong is among the `errors`.
    pub fn read(path: &Path, bytes: &[u8]) -> Self {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("pt") => Self::parse(bytes),
            Some("json" | "yaml" | "yml") => declaration(bytes),
            _ if looks_like_declaration(bytes) => declaration(bytes),
            _ => Self::parse(bytes),
        }
    }
}

/// JSON begins with a bracket; YAML with a dash or a key and its colon. A template does neither.
fn looks_like_declaration(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let Some(first) = lines.into_iter().find(|line| !line.is_empty() && !line.starts_with(b"#")) else { return false };
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
    let name = first.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')).count();
    let behind = first.get(name..).unwrap_or_default();
    matches!(first.first(), Some(b'{' | b'['))
        || first.starts_with(b"- ")
        || first.starts_with(b"---")
        || (name > 0 && behind.starts_with(b":"))
}

fn declaration(bytes: &[u8]) -> Template {
    match read(bytes) {
        Ok(template) => template,
        Err(issue) => Template { errors: vec![issue], ..Template::default() },
    }
}

fn read(bytes: &[u8]) -> Result<Template, Issue> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
        let line = good.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Issue { line, column, message: "not UTF-8".into(), block: None }
    })?;
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let document = serde_saphyr::from_str_with_options::<Document>(text, options).map_err(|error| {
        let place = error.location();
        let number = |of: fn(&serde_saphyr::Location) -> u64| {
            place.as_ref().map_or(1, |place| usize::try_from(of(place)).unwrap_or(1).max(1))
        };
        let message = error.to_string();
        let message = message.lines().next().unwrap_or_default();
        // Where it is has a place of its own.
        let message = message.split(" at line ").next().unwrap_or(message).to_owned();
        let (line, column) = (number(serde_saphyr::Location::line), number(serde_saphyr::Location::column));
        Issue { line, column, message, block: None }
    })?;
    Ok(document.template())
}

/// What a file declares.
#[derive(Debug, Default)]
struct Document {
    name: Option<String>,
    blocks: Vec<(Option<String>, Spanned<Entry>)>,
    unsigned: Vec<Spanned<Call>>,
    parameters: Vec<Parameter>,
}

/// One block.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    #[serde(alias = "scheme")]
    schemes: Schemes,
    label: Option<String>,
    description: Option<String>,
    #[serde(default)]
    tags: Tags,
    #[serde(alias = "aws_account_number")]
    account_number: Option<String>,
    #[serde(default)]
    uses: Vec<Spanned<Call>>,
}

/// One place where requests go.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    #[serde(default)]
    method: Option<String>,
    host: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    cleartext: bool,
}

impl Call {
    fn into_use(call: Spanned<Self>) -> Use {
        let line = usize::try_from(call.referenced.line()).unwrap_or_default();
        let Self { method, host, path, cleartext } = call.value;
        let path = path.unwrap_or_default();
        let begins = path.starts_with(['/', '{']);
        Use {
            line,
            method: method.unwrap_or_else(|| "GET".into()).to_ascii_uppercase(),
            host: lower_outside_braces(&host),
            path: if begins { path } else { format!("/{path}") },
            cleartext,
            followed: false,
        }
    }
}

fn lower_outside_braces(host: &str) -> String {
    let mut inside = false;
    let fold = |c: char| {
        inside = c == '{' || (inside && c != '}');
        if inside { c } else { c.to_ascii_lowercase() }
    };
    host.chars().map(fold).collect()
}

impl Document {
    fn template(self) -> Template {
        let mut template = Template {
            name: self.name,
            unsigned: self.unsigned.into_iter().map(Call::into_use).collect(),
            parameters: self.parameters,
            ..Template::default()
        };
        let mut names = HashSet::new();
        for (key, entry) in self.blocks {
            let place = entry.referenced;
            let number = |number: u64| usize::try_from(number).unwrap_or_default();
            let (line, column) = (number(place.line()), number(place.column()));
            let mut wrong = |block: Option<&str>, message| {
                template.errors.push(Issue { line, column, message, block: block.map(Into::into) })
            };
            let entry = entry.value;
            let name = match (key, entry.name) {
                (Some(key), Some(name)) if key != name => {
                    wrong(Some(&key), format!("`{key}` calls itself `{name}`"));
                    key
                }
                (Some(name), _) | (None, Some(name)) if !name.is_empty() => name,
                _ => {
                    wrong(None, "a block has no name".into());
                    continue;
                }
            };
            if !names.insert(name.clone()) {
                wrong(Some(&name), format!("there is another block called `{name}`"));
                continue;
            }
            if entry.schemes.0.is_empty() {
                wrong(Some(&name), format!("`{name}` names no scheme"));
            }
            template.credentials.push(Block {
                name,
                line,
                schemes: entry.schemes.0,
                tags: entry.tags.0,
                label: entry.label,
                description: entry.description,
                account_number: entry.account_number.filter(|number| !number.is_empty()),
                uses: entry.uses.into_iter().map(Call::into_use).collect(),
            });
        }
        template
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of credentials blocks, or a map with `credentials`, or with blocks by their names")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(entry) = seq.next_element()? {
                    document.blocks.push((None, entry));
                }
                Ok(document)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => document.name = map.next_value()?,
                        "credentials" => {
                            let below: Self::Value = map.next_value()?;
                            document.blocks.extend(below.blocks);
                        }
                        "unsigned" => document.unsigned = map.next_value()?,
                        "parameters" => document.parameters = map.next_value()?,
                        _ => {
                            let entry = map.next_value()?;
                            document.blocks.push((Some(key), entry));
                        }
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

/// Scheme names: one, or a list of them.
#[derive(Debug)]
struct Schemes(Vec<String>);

impl<'de> Deserialize<'de> for Schemes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Schemes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a scheme, or a list of them")
            }
            fn visit_str<E: de::Error>(self, one: &str) -> Result<Schemes, E> {
                Ok(Schemes(vec![super::fold_scheme(one)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Schemes, A::Error> {
                let mut schemes = Vec::new();
                while let Some(one) = seq.next_element::<String>()? {
                    if !add_scheme(&mut schemes, super::fold_scheme(&one)) {
                        return Err(de::Error::custom(TOO_MANY_SCHEMES));
                    }
                }
                Ok(Schemes(schemes))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Tags: a map, or a list of `{key, value}`, as the policy API has them, or of `key=value`, as templates do.
#[derive(Debug, Default)]
struct Tags(BTreeMap<String, String>);

/// One tag of a list.
struct Tag(String, String);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapOrList;
        impl<'de> Visitor<'de> for MapOrList {
            type Value = Tags;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tags: a map, or a list of {key, value}")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Tags, E> {
                Ok(Tags::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tags, A::Error> {
                let mut tags = BTreeMap::new();
                while let Some(Tag(key, value)) = seq.next_element()? {
                    tags.insert(key, value);
                }
                Ok(Tags(tags))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
                let mut tags = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    tags.insert(key, value);
                }
                Ok(Tags(tags))
            }
        }
        deserializer.deserialize_any(MapOrList)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairOrText;
        impl<'de> Visitor<'de> for PairOrText {
            type Value = Tag;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tag: {key, value}, or key=value")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Tag, E> {
                let (key, value) =
                    text.split_once('=').ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(text), &self))?;
                Ok(Tag(key.trim().to_owned(), value.trim().to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tag, A::Error> {
                let (mut key, mut value) = (None, None);
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "key" => key = Some(map.next_value()?),
                        "value" => value = Some(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["key", "value"])),
                    }
                }
                let key = key.ok_or_else(|| de::Error::missing_field("key"))?;
                Ok(Tag(key, value.ok_or_else(|| de::Error::missing_field("value"))?))
            }
        }
        deserializer.deserialize_any(PairOrText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Template {
        Template::read(Path::new("x.yaml"), text.as_bytes())
    }

    const LIST: &str = "
- name: auth_aws
  schemes: [aws, AWS-STS]
  label: AWS
  tags: { provider: aws }
  account_number: 012345678901
  uses: [{ host: 'EC2.{Region}.amazonaws.com' }, { method: post, host: sts.amazonaws.com, path: x, cleartext: true },
    { host: third.test }]
- name: auth_key
  scheme: api-key
  description: A key
  tags: [{ key: provider, value: github }, 'env=prod']
";

    #[test]
    fn a_list_of_blocks_is_read_with_its_lines() {
        let template = of(LIST);
        assert_eq!(template.errors, []);
        let [aws, key] = &template.credentials[..] else { panic!("{template:?}") };
        assert_eq!((aws.line, key.line), (2, 9));
        assert_eq!(aws.uses.iter().map(|one| one.line).collect::<Vec<_>>(), [7, 7, 8]);
        assert_eq!(aws.schemes, ["aws", "aws_sts"]);
        assert_eq!(aws.account_number.as_deref(), Some("012345678901"));
        let uses: Vec<_> =
            aws.uses.iter().map(|one| (one.method.as_str(), one.host.as_str(), one.path.as_str())).collect();
        assert_eq!(
            uses,
            [
                ("GET", "ec2.{Region}.amazonaws.com", "/"),
                ("POST", "sts.amazonaws.com", "/x"),
                ("GET", "third.test", "/")
            ]
        );
        assert_eq!(aws.uses.iter().map(|one| one.cleartext).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(key.schemes, ["api_key"]);
        assert_eq!(key.tags, BTreeMap::from([("env".into(), "prod".into()), ("provider".into(), "github".into())]));
    }

    #[test]
    fn blocks_by_name_and_blocks_under_a_key_are_the_same_blocks() {
        let blocks = |template: Template| {
            assert_eq!(template.errors, []);
            template.credentials.into_iter().map(|block| Block { line: 0, ..block }).collect::<Vec<_>>()
        };
        let by_name = "auth_x: { schemes: [oauth2], label: X }\nauth_y:\n  name: auth_y\n  schemes: basic\n";
        let under =
            "name: A policy\ncredentials:\n  auth_x: { schemes: [oauth2], label: X }\n  auth_y: { schemes: [basic] }\n";
        let json = r#"{"credentials": [{"name": "auth_x", "schemes": ["oauth2"], "label": "X", "tags": []},
            {"name": "auth_y", "schemes": ["basic"], "tags": {}}]}"#;
        let expected = blocks(of(by_name));
        assert_eq!(expected.len(), 2);
        assert_eq!(blocks(of(under)), expected);
        assert_eq!(of(under).name.as_deref(), Some("A policy"));
        assert_eq!(blocks(Template::read(Path::new("x.json"), json.as_bytes())), expected);
        let escaped = "[{\"name\": \"auth_\\u00e9\\ud83d\\ude00\",\t\"schemes\": [\"basic\"]}]";
        assert_eq!(of(escaped).credentials[0].name, "auth_é😀");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let many: Vec<String> = (0..65).map(|number| format!("s{number}")).collect();
        for (text, line, message) in [
            ("- name: a\n  schemes: [basic]\n  lable: x\n", 3, "lable"),
            ("- name: a\n", 1, "schemes"),
            ("- schemes: [basic]\n", 1, "no name"),
            ("- { name: a, schemes: [] }\n", 1, "no scheme"),
            ("- { name: a, schemes: x }\n- { name: a, schemes: y }\n", 2, "another block"),
            ("a: { name: b, schemes: x }\n", 1, "calls itself"),
            ("- name: a\n  schemes: x\n  tags: [novalue]\n", 3, "tag"),
            ("- name: a\n  schemes: x\n  uses: [{ path: / }]\n", 3, "host"),
            (&format!("- name: a\n  schemes: [{}]\n", many.join(", ")), 1, "more than 64"),
            ("- name: [\n", 1, ""),
            ("3", 1, "list"),
        ] {
            let template = of(text);
            let [error] = &template.errors[..] else { panic!("{text:?}: {template:?}") };
            assert!(error.line >= line && error.message.contains(message), "{text:?}: {error:?}");
        }
        let error = &Template::read(Path::new("x.json"), b"[\n{\"a\xff").errors[0];
        assert_eq!((error.line, error.column, error.message.as_str()), (2, 4, "not UTF-8"));
        assert_eq!(of("").credentials, []);
    }

    #[test]
    fn a_file_of_any_name_is_read_as_it_looks() {
        for (text, blocks) in [
            ("credentials \"a\" do schemes \"basic\" end", 1),
            ("# a comment\n- { name: a, schemes: [basic] }\n", 1),
            ("---\na: { schemes: [basic] }\n", 1),
            ("\n {\"a\": {\"schemes\": [\"basic\"]}}", 1),
            ("name \"x\"\ncredentials \"a\" do schemes \"basic\" end", 1),
            ("credentials: []\n", 0),
        ] {
            let template = Template::read(Path::new("policy"), text.as_bytes());
            assert_eq!((template.credentials.len(), template.errors.len()), (blocks, 0), "{text}: {template:?}");
        }
        let misnamed = Template::read(Path::new("x.PT"), LIST.as_bytes());
        assert!(misnamed.credentials.is_empty());
    }
}
