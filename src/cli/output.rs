//! What a management command answers: a table for people, JSON for programs.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::client::Target;
use super::on_terminal;

/// For whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// JSON on demand and where no terminal reads it.
    pub(super) fn of(target: &Target) -> Self {
        Self::new(target.json, target.table)
    }

    /// The same, by what was asked for.
    pub(super) fn new(json: bool, table: bool) -> Self {
        Self { json: json || !(table || on_terminal()) }
    }

    /// Whether programs read it.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// The answer, as a document or in words.
    pub(super) fn answer(self, document: &Value, words: impl FnOnce() -> String) {
        if self.json { say!("{document:#}") } else { say!("{}", words()) }
    }

    /// What was done, in words for people; the document that came of it for programs, where there is one.
    pub(super) fn done(self, document: &Value, words: &str) {
        if !self.json {
            say!("{words}");
        } else if !document.is_null() {
            say!("{document:#}");
        }
    }
}

/// What `say!` does.
pub(super) fn print_line(words: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let written = out.write_fmt(words).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        // An answer that is cut short must not pass for a whole one.
        eprintln!("countersign: standard output: {error}");
        std::process::exit(1);
    }
}

/// Rows below a line of names.
pub(super) fn table(names: &[&str], rows: impl IntoIterator<Item = Vec<String>>, none: &str) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(names.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    if table.is_empty() {
        return none.to_owned();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// One thing, a line for each of its facts; what is not known has none.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let known = || facts.iter().filter(|(_, value)| !value.is_empty());
    let width = known().map(|(name, _)| name.len()).max().unwrap_or_default();
    known().map(|(name, value)| format!("{name:width$}  {}", plain(value))).collect::<Vec<_>>().join("\n")
}

/// What others wrote must not steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A member of a document, for a cell: text as it is, a list with commas, a map as `key=value`.
pub(super) fn cell(document: &Value, path: &str) -> String {
    shown(path.split('.').fold(document, |value, name| &value[name]))
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(map) if map.keys().eq(["sealed"]) => "(secret)".into(),
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_its_names_above_and_nothing_trailing() {
        let rows = vec![vec!["azure-prod".into(), "oauth2".into()], vec!["a\u{1b}[31mb".into(), String::new()]];
        let text = table(&["ID", "SCHEME"], rows, "none");
        assert_eq!(text, "ID          SCHEME\nazure-prod  oauth2\na [31mb");
        assert_eq!(table(&["ID"], vec![], "there is none"), "there is none");
    }

    #[test]
    fn what_is_stored_encrypted_is_named_and_nothing_else_of_it() {
        let document =
            json!({"tags": {"provider": "aws"}, "hosts": ["a", "b"], "settings": {"key": {"sealed": "key"}}});
        assert_eq!(cell(&document, "tags"), "provider=aws");
        assert_eq!(cell(&document, "hosts"), "a, b");
        assert_eq!(cell(&document, "settings.key"), "(secret)");
        assert_eq!(cell(&document, "none.at.all"), "");
        assert_eq!(
            facts(&[("id", "a".into()), ("name", String::new()), ("scheme", "b".into())]),
            "id      a\nscheme  b"
        );
    }
}
