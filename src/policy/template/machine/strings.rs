//! Strings and their escapes, and template literals with the expressions in them.

use memchr::{memchr, memchr2};

use super::super::lexer::Kind;
use super::super::value::Value;
use super::{DEEPEST, DEEPEST_QUASI, Machine};

impl<'a> Machine<'a> {
    /// A template literal: its text, and the expressions in it.
    pub(super) fn quasi(&mut self) -> Value<'a> {
        let token = self.advance();
        if self.quasi_depth >= DEEPEST_QUASI || self.depth >= DEEPEST {
            return Value::Unknown;
        }
        self.quasi_depth += 1;
        let next = self.token;
        let mut whole = Value::Literal(b"");
        let mut from = token.from;
        while from < token.to {
            let rest = self.lexer.text().get(from..token.to).unwrap_or_default();
            let length = gap(rest).unwrap_or(rest.len());
            whole = self.heap.concat(&whole, &text(rest.get(..length).unwrap_or_default(), true));
            from += length;
            if from >= token.to {
                break;
            }
            let outside = self.lexer.enter(from + 2, token.to);
            self.advance();
            self.depth += 1;
            let value = self.expression();
            self.depth -= 1;
            self.close_gap();
            from = self.token.start;
            self.lexer.leave(outside);
            whole = self.heap.concat(&whole, &value);
        }
        self.token = next;
        self.quasi_depth -= 1;
        whole
    }

    /// Goes to the end of an expression in a template literal; the token that comes next begins behind its brace.
    pub(super) fn close_gap(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Mark(b'}') if open == 0 => {
                    self.token.start += 1;
                    return;
                }
                Kind::Mark(b'{') => open += 1,
                Kind::Mark(b'}') => open -= 1,
                _ => {}
            }
            self.advance();
        }
    }
}

/// Where the first `${` of a template literal is.
fn gap(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = text.get(from..)?;
        let next = from + memchr2(b'$', b'\\', rest)?;
        match (text.get(next)?, text.get(next + 1)) {
            (b'$', Some(b'{')) => return Some(next),
            (b'\\', _) => from = next + 2,
            _ => from = next + 1,
        }
    }
}

/// The value of a string. In single quotes, a template knows two escapes.
pub(super) fn text<'a>(raw: &'a [u8], all_escapes: bool) -> Value<'a> {
    if memchr(b'\\', raw).is_none() {
        return Value::Literal(raw);
    }
    let mut plain = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        match bytes.next() {
            Some(quoted @ (b'\\' | b'\'')) => plain.push(quoted),
            Some(other) if !all_escapes => plain.extend([b'\\', other]),
            Some(b'n') => plain.push(b'\n'),
            Some(b't') => plain.push(b'\t'),
            Some(b'r') => plain.push(b'\r'),
            Some(b's') => plain.push(b' '),
            // An escaped line end is none.
            Some(b'\n') => {}
            Some(other) => plain.push(other),
            None => plain.push(b'\\'),
        }
    }
    Value::owned(plain)
}
