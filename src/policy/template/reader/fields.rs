//! The fields of a block and their values.

use super::super::lexer::{Kind, Token};
use super::super::value::Value;
use super::Reader;

impl<'a> Reader<'a> {
    /// The next field of a block: its name. Goes behind the `end` when there is none.
    pub(super) fn field(&mut self, open: Token) -> Option<Token> {
        loop {
            if !self.goes_on(open) {
                return None;
            }
            let token = self.advance();
            if token.kind == Kind::Word {
                match self.machine.content(token) {
                    b"end" => return None,
                    b"do" => self.skip_block(token),
                    _ => return Some(token),
                }
            }
        }
    }

    /// The texts of a field, with commas between them, in quotes or not.
    pub(super) fn texts(&mut self, fields: &[&[u8]]) -> Vec<(Value<'a>, Token)> {
        self.values(fields, Some(b",;\n#"))
    }

    /// The values of a field, with commas between them; without quotes up to one of these characters, if at all.
    pub(super) fn values(&mut self, fields: &[&[u8]], bare: Option<&[u8]>) -> Vec<(Value<'a>, Token)> {
        let mut values = Vec::new();
        let mut first = true;
        loop {
            let token = self.machine.token;
            let word = self.machine.word();
            if self.machine.is_end() {
                return values;
            }
            // A value that is missing, or a comma too many, before the next field.
            let field = word.is_some_and(|word| first || fields.contains(&word));
            if token.first && (field || self.begins_block()) {
                return values;
            }
            first = false;
            let calls = word.is_some() && self.machine.lexer.peek() == Some(b'(');
            match token.kind {
                Kind::Word if bare.is_some() && !calls => {
                    values.push((self.bare(fields, bare.unwrap_or_default()), token));
                }
                Kind::Mark(b':') => {
                    self.advance();
                    continue;
                }
                Kind::Mark(b',' | b';' | b')' | b']' | b'}') => {}
                _ => match self.machine.expression() {
                    Value::List(from, length) => {
                        values.extend(self.machine.heap.items(from, length).iter().map(|item| (item.clone(), token)));
                    }
                    value => values.push((value, token)),
                },
            }
            let follows = matches!(self.machine.token.kind, Kind::Text | Kind::Heredoc) && !self.machine.token.first;
            if !self.machine.eat(b',') && !follows {
                return values;
            }
        }
    }

    /// A value without quotes: up to one of these characters, or to the next field on the same line.
    pub(super) fn bare(&mut self, fields: &[&[u8]], until: &[u8]) -> Value<'a> {
        let text = self.machine.lexer.text();
        let from = self.machine.token.start;
        let rest = text.get(from..).unwrap_or_default();
        let length = rest.iter().position(|byte| until.contains(byte)).unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        let mut end = 0;
        for word in line.split_inclusive(u8::is_ascii_whitespace) {
            let bare = word.trim_ascii();
            if end > 0 && (bare == b"end" || fields.contains(&bare)) {
                break;
            }
            end += word.len();
        }
        self.machine.lexer.skip_to(from + end);
        self.advance();
        Value::Literal(line.get(..end).unwrap_or_default().trim_ascii())
    }

    /// Skips what a field says.
    pub(super) fn skip_field(&mut self, fields: &[&[u8]]) {
        let mut open = 0_usize;
        let mut comma = false;
        loop {
            let token = self.machine.token;
            match token.kind {
                Kind::End => return,
                Kind::Word if self.machine.is_end() => return,
                _ if token.first && self.begins_block() => return,
                _ if token.first && open == 0 && !comma => return,
                Kind::Word if open == 0 && self.machine.word().is_some_and(|word| fields.contains(&word)) => return,
                Kind::Mark(b'(' | b'[' | b'{') => open += 1,
                Kind::Mark(b')' | b']' | b'}') => open = open.saturating_sub(1),
                Kind::Mark(b';') if open == 0 => return,
                _ => {}
            }
            comma = token.kind == Kind::Mark(b',');
            self.advance();
        }
    }
}

/// A value that is one text.
pub(super) fn plain(value: &Value<'_>) -> Option<String> {
    value.literal().map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// A value that is one text without escapes.
pub(super) fn word<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    match value {
        Value::Literal(text) => Some(text),
        _ => None,
    }
}
