//! What a template declares: its `credentials` blocks and its parameters.

use super::super::lexer::{Kind, Token};
use super::super::tag;
use super::super::value::Value;
use super::Reader;
use super::fields::plain;
use crate::policy::declared::{Block, Parameter, TOO_MANY_SCHEMES, add_scheme};
use crate::policy::fold_scheme;

impl<'a> Reader<'a> {
    /// `credentials "auth_x" do … end`
    pub(super) fn credentials(&mut self, open: Token, name: &'a [u8]) {
        const FIELDS: &[&[u8]] =
            &[b"schemes", b"scheme", b"label", b"description", b"tags", b"aws_account_number", b"end"];
        let mut block = Block { name: String::from_utf8_lossy(name).into_owned(), ..Block::default() };
        while let Some(field) = self.field(open) {
            let called = self.machine.content(field);
            if !FIELDS.contains(&called) {
                let called = self.shown(field);
                self.issue(field.start, format!("a `credentials` block has no field `{called}`"));
                self.texts(FIELDS);
                continue;
            }
            let sentence = matches!(called, b"label" | b"description");
            let values = self.values(FIELDS, Some(if sentence { b";\n#" } else { b",;\n#" }));
            match called {
                b"schemes" | b"scheme" => {
                    for (value, token) in values {
                        match plain(&value) {
                            Some(scheme) => {
                                if !add_scheme(&mut block.schemes, fold_scheme(&scheme)) {
                                    self.issue(token.start, TOO_MANY_SCHEMES);
                                    break;
                                }
                            }
                            None => self.issue(token.start, "a scheme is a text such as \"oauth2\""),
                        }
                    }
                }
                b"tags" => {
                    for (value, token) in values {
                        match plain(&value) {
                            Some(text) if text.trim().is_empty() || tag(&text, &mut block.tags) => {}
                            _ => self.issue(token.start, "a tag is a text such as \"provider=aws\""),
                        }
                    }
                }
                b"aws_account_number" => block.account_number = self.account(&values),
                b"label" => block.label = self.text(&values, "label"),
                _ => block.description = self.text(&values, "description"),
            }
        }
        self.notes.extents.push((open.start, self.machine.token.start, block.name.clone()));
        if block.schemes.is_empty() {
            let message = format!("`{}` names no scheme: write `schemes \"oauth2\"` or another", block.name);
            self.issue(open.start, message);
        }
        if block.name.is_empty() {
            self.issue(open.start, "`credentials` has no name: write `credentials \"name\" do`");
        } else if self.names.insert(block.name.clone()) {
            self.notes.blocks.push((block, open.start));
        } else {
            self.issue(open.start, format!("there is another `credentials` block called `{}`", block.name));
        }
    }

    pub(super) fn text(&mut self, values: &[(Value<'a>, Token)], field: &str) -> Option<String> {
        let (value, token) = values.first()?;
        let text = plain(value);
        match &text {
            None => self.issue(token.start, format!("`{field}` is a text in quotes")),
            Some(_) if token.kind == Kind::Heredoc => return Some(self.heredoc(*token)),
            Some(_) => {}
        }
        text
    }

    /// The lines of a here-document; with `~`, without what all of them are indented by.
    pub(super) fn heredoc(&self, token: Token) -> String {
        let text = String::from_utf8_lossy(self.machine.content(token)).replace("\r\n", "\n");
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if self.machine.lexer.text().get(token.start + 2) != Some(&b'~') {
            return text.to_owned();
        }
        let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
        let common = text.lines().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(|line| line.get(common..).unwrap_or_default()).collect();
        lines.join("\n")
    }

    pub(super) fn account(&mut self, values: &[(Value<'a>, Token)]) -> Option<String> {
        let (value, token) = values.first()?;
        match value {
            Value::Named(name) => Some(format!("${}", String::from_utf8_lossy(name))),
            _ => match plain(value) {
                Some(number) if number.trim().is_empty() => None,
                Some(number) => Some(number.trim().to_owned()),
                None => {
                    self.issue(
                        token.start,
                        "`aws_account_number` is a parameter such as $param_aws_account_number, or digits",
                    );
                    None
                }
            },
        }
    }

    /// `parameter "param_x" do … end`
    pub(super) fn parameter(&mut self, open: Token, name: &'a [u8]) {
        const FIELDS: &[&[u8]] = &[
            b"type",
            b"category",
            b"label",
            b"description",
            b"default",
            b"no_echo",
            b"allowed_values",
            b"min_length",
            b"max_length",
            b"min_value",
            b"max_value",
            b"allowed_pattern",
            b"constraint_description",
            b"end",
        ];
        let mut parameter = Parameter { name: String::from_utf8_lossy(name).into_owned(), ..Parameter::default() };
        while let Some(field) = self.field(open) {
            match self.machine.content(field) {
                b"default" => {
                    let list = self.machine.is(b'[');
                    let values = self.texts(FIELDS);
                    parameter.default = values.first().filter(|_| !list).and_then(|(value, _)| plain(value));
                }
                b"allowed_values" => {
                    let values = self.texts(FIELDS);
                    parameter.allowed = values.iter().filter_map(|(value, _)| plain(value)).collect();
                }
                _ => self.skip_field(FIELDS),
            }
        }
        if self.parameter_names.insert(parameter.name.clone()) {
            self.notes.parameters.push(parameter);
        }
    }
}
