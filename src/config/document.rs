//! A YAML document with the line of every value, so that an error can say where.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The path of the key, such as `bindings[2].hosts[0]`; empty for the whole file.
    pub path: String,
    /// The line, from 1; 0 when it is not known.
    pub line: u64,
    /// What to change.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A parsed document.
#[derive(Debug, Clone, Default)]
pub struct Document {
    root: Node,
}

#[derive(Debug, Clone, Default)]
struct Node {
    line: u64,
    content: Content,
}

#[derive(Debug, Clone, Default)]
enum Content {
    #[default]
    Null,
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, u64, Node)>),
}

impl Document {
    /// Parses YAML.
    ///
    /// # Errors
    /// The place where it stops being YAML. Nothing of the text is repeated.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        match serde_saphyr::from_str_with_options::<Option<Node>>(text, options) {
            Ok(root) => Ok(Self { root: root.unwrap_or_default() }),
            Err(error) => Err(ConfigError {
                path: String::new(),
                line: error.location().map_or(0, |location| location.line()),
                message: format!("not valid YAML: {}", first_line(&error.to_string())),
            }),
        }
    }

    /// The names of the keys at the top.
    pub fn keys(&self) -> Vec<&str> {
        match &self.root.content {
            Content::Map(entries) => entries.iter().map(|(key, _, _)| key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the document is a map, or empty.
    pub fn is_map(&self) -> bool {
        matches!(self.root.content, Content::Map(_) | Content::Null)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        matches!(self.root.content, Content::Null)
    }

    /// How many elements the list at a path has; 0 when there is no list.
    pub fn count(&self, path: &str) -> usize {
        match self.find(path).map(|node| &node.content) {
            Some(Content::List(items)) => items.len(),
            _ => 0,
        }
    }

    /// Whether something stands at a path.
    pub fn has(&self, path: &str) -> bool {
        self.find(path).is_some_and(|node| !matches!(node.content, Content::Null))
    }

    /// Whether a list stands at a path, or nothing.
    pub fn is_list(&self, path: &str) -> bool {
        self.find(path).is_none_or(|node| matches!(node.content, Content::List(_) | Content::Null))
    }

    /// The value at a path, without its lines.
    pub fn value(&self, path: &str) -> Value {
        self.find(path).map_or(Value::Null, Node::to_value)
    }

    /// Every map in the document, with its path.
    pub fn maps(&self) -> Vec<(String, Value)> {
        let mut maps = Vec::new();
        self.root.maps("", &mut maps);
        maps
    }

    /// Reads what stands at a path.
    ///
    /// # Errors
    /// The first thing that does not fit, with its path and line.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ConfigError> {
        serde_path_to_error::deserialize(self.value(path)).map_err(|error| {
            let below = error.path().to_string();
            self.error(&join(path, &below), error.into_inner().to_string())
        })
    }

    /// An error at a path, with its line.
    pub fn error(&self, path: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { path: path.to_owned(), line: self.line(path), message: message.into() }
    }

    /// The line of a path, or of the nearest thing above it that exists.
    pub fn line(&self, path: &str) -> u64 {
        let mut line = 0;
        let mut node = Some(&self.root);
        for segment in segments(path) {
            let Some((found, child)) = node.and_then(|node| node.child(segment)) else { break };
            line = found;
            node = Some(child);
        }
        line
    }

    fn find(&self, path: &str) -> Option<&Node> {
        segments(path).try_fold(&self.root, |node, segment| node.child(segment).map(|(_, child)| child))
    }
}

/// Joins a path and what is below it.
pub(super) fn join(path: &str, below: &str) -> String {
    match (path.is_empty(), below.is_empty() || below == ".") {
        (_, true) => path.to_owned(),
        (true, false) => below.to_owned(),
        (false, false) if below.starts_with('[') => format!("{path}{below}"),
        (false, false) => format!("{path}.{below}"),
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[', ']']).filter(|segment| !segment.is_empty())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl Node {
    fn child(&self, segment: &str) -> Option<(u64, &Self)> {
        match &self.content {
            Content::Map(entries) => {
                entries.iter().find(|(key, _, _)| key == segment).map(|(_, line, node)| (*line, node))
            }
            Content::List(items) => items.get(segment.parse::<usize>().ok()?).map(|node| (node.line, node)),
            Content::Null | Content::Scalar(_) => None,
        }
    }

    fn maps(&self, path: &str, found: &mut Vec<(String, Value)>) {
        match &self.content {
            Content::Map(entries) => {
                found.push((path.to_owned(), self.to_value()));
                entries.iter().for_each(|(key, _, node)| node.maps(&join(path, key), found));
            }
            Content::List(items) => {
                items.iter().enumerate().for_each(|(index, node)| node.maps(&join(path, &format!("[{index}]")), found));
            }
            Content::Null | Content::Scalar(_) => {}
        }
    }

    fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|(key, _, node)| (key.clone(), node.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }
            fn visit_none<E: de::Error>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
                deserializer.deserialize_any(self)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Content, E> {
                Ok(Content::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Content::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    entries.push((key.value, key.referenced.line(), map.next_value()?));
                }
                Ok(Content::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a:\n  - b: 1\n    c: text\n  - { b: x }\nd:\n";

    #[test]
    fn every_path_has_its_line() {
        let document = Document::parse(TEXT).unwrap();
        assert_eq!(document.keys(), ["a", "d"]);
        assert_eq!(document.count("a"), 2);
        for (path, line) in
            [("a", 1), ("a[0].b", 2), ("a[0].c", 3), ("a[1].b", 4), ("d", 5), ("a[0].missing", 2), ("", 0)]
        {
            assert_eq!(document.line(path), line, "{path}");
        }
    }

    #[test]
    fn every_map_is_found_with_its_path() {
        let maps = Document::parse(TEXT).unwrap().maps();
        let paths: Vec<&str> = maps.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["", "a[0]", "a[1]"]);
        assert_eq!(maps[2].1, serde_json::json!({"b": "x"}));
    }

    #[test]
    fn an_error_below_a_path_carries_the_whole_path() {
        #[derive(Debug, serde::Deserialize)]
        struct Item {
            #[expect(dead_code, reason = "only its type matters here")]
            b: u8,
        }
        let document = Document::parse(TEXT).unwrap();
        let error = document.read::<Item>("a[1]").unwrap_err();
        assert_eq!((error.path.as_str(), error.line), ("a[1].b", 4));
    }

    #[test]
    fn words_are_words_and_only_true_and_false_are_booleans() {
        let document = Document::parse("a: [off, no, on, yes, true]\n").unwrap();
        assert_eq!(document.value("a"), serde_json::json!(["off", "no", "on", "yes", true]));
    }

    #[test]
    fn what_is_not_yaml_is_said_with_its_line_and_nothing_is_repeated() {
        let error = Document::parse("a: 1\nb: [hunter2\n").unwrap_err();
        assert!(error.line >= 2 && !error.message.contains("hunter2"), "{error}");
        assert!(Document::parse("a: 1\na: 2\n").is_err(), "a key twice");
        assert!(Document::parse("").unwrap().is_map());
    }
}
