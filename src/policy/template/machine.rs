//! Works out expressions as far as the text tells. Executes nothing: a call of a function that it does not know comes to
//! something unknown.

mod calls;
mod operand;
mod strings;

use std::collections::HashMap;

use self::strings::text;
use super::heap::Heap;
use super::lexer::{Dialect, Flaw, Kind, Lexer, Token};
use super::statements::Target;
use super::value::{Slot, Value};

/// How deep expressions may be nested; what is deeper comes to something unknown.
const DEEPEST: usize = 64;
/// How deep template literals may be nested, each of which is read again by the one around it.
const DEEPEST_QUASI: usize = 4;

/// Reads expressions, one token ahead.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    /// Where tokens come from.
    pub lexer: Lexer<'a>,
    /// The token that comes next.
    pub token: Token,
    /// Where objects and lists live.
    pub heap: Heap<'a>,
    /// The variables, with their sigils.
    pub variables: HashMap<&'a [u8], Slot<'a>>,
    /// The blocks that are open.
    pub blocks: Vec<usize>,
    /// How many blocks there were.
    pub block_count: usize,
    /// The requests that calls make: the method that the function's name tells, and its object.
    pub calls: Vec<(&'a [u8], usize)>,
    /// The items of the lists that are open.
    pending: Vec<Value<'a>>,
    /// What the last operand would assign to, if a sign came behind it.
    pub target: Option<Target<'a>>,
    /// The innermost of the open blocks that is a function's is the first of them.
    pub in_function: bool,
    depth: usize,
    quasi_depth: usize,
}

impl<'a> Machine<'a> {
    /// Reads the text from an offset to its end.
    pub(super) fn new(text: &'a [u8], from: usize, dialect: Dialect) -> Self {
        let mut lexer = Lexer::new(text, from, dialect);
        let token = lexer.next();
        Self {
            lexer,
            token,
            heap: Heap::new(text.len() - from.min(text.len())),
            variables: HashMap::new(),
            blocks: Vec::new(),
            block_count: 0,
            calls: Vec::new(),
            pending: Vec::new(),
            target: None,
            in_function: false,
            depth: 0,
            quasi_depth: 0,
        }
    }

    /// Goes on to the next token; returns the one that was.
    pub(super) fn advance(&mut self) -> Token {
        std::mem::replace(&mut self.token, self.lexer.next())
    }

    /// What a token says.
    pub(super) fn content(&self, token: Token) -> &'a [u8] {
        self.lexer.text().get(token.from..token.to).unwrap_or_default()
    }

    /// What the next token says, if it is a word.
    pub(super) fn word(&self) -> Option<&'a [u8]> {
        (self.token.kind == Kind::Word).then(|| self.content(self.token))
    }

    /// Whether the next token is this mark.
    pub(super) fn is(&self, mark: u8) -> bool {
        self.token.kind == Kind::Mark(mark)
    }

    /// Goes on behind this mark, if it comes next.
    pub(super) fn eat(&mut self, mark: u8) -> bool {
        let is = self.is(mark);
        if is {
            self.advance();
        }
        is
    }

    fn is_script(&self) -> bool {
        self.lexer.dialect() == Dialect::Script
    }

    /// Whether an expression ends where the next token is on a new line: everywhere but in brackets and in scripts.
    fn line_ends(&self) -> bool {
        self.token.first && self.depth <= 1 && !self.is_script()
    }

    /// Whether the next token ends every expression, so that an open bracket does not swallow the rest of the text.
    pub(super) fn is_end(&self) -> bool {
        match self.token.kind {
            Kind::End => true,
            Kind::Word if !self.is_script() => {
                let word = self.content(self.token);
                matches!(word, b"end" | b"do") && self.lexer.peek() != Some(b':')
            }
            _ => false,
        }
    }

    /// An expression. Reads nothing where none begins.
    pub(super) fn expression(&mut self) -> Value<'a> {
        if self.depth >= DEEPEST {
            self.skip_expression();
            return Value::Unknown;
        }
        self.depth += 1;
        let value = self.choice();
        self.depth -= 1;
        value
    }

    /// Skips what is too deep, without going deeper.
    pub(super) fn skip_expression(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.token.kind {
                Kind::Mark(b'(' | b'[' | b'{') => open += 1,
                Kind::Mark(b')' | b']' | b'}') if open == 0 => return,
                Kind::Mark(b')' | b']' | b'}') => open -= 1,
                Kind::Mark(b',' | b';') if open == 0 => return,
                _ if self.is_end() => return,
                _ if open == 0 && self.line_ends() => return,
                _ => {}
            }
            self.advance();
        }
    }

    /// `a ? b : c`, several of them behind each other without going deeper.
    fn choice(&mut self) -> Value<'a> {
        let mut found: Option<Value<'a>> = None;
        loop {
            let value = self.alternatives();
            if !self.is(b'?') || self.line_ends() {
                return match found {
                    Some(found) => self.heap.either(&found, &value),
                    None => value,
                };
            }
            self.advance();
            let first = self.expression();
            found = Some(match found {
                Some(found) => self.heap.either(&found, &first),
                None => first,
            });
            if !self.eat(b':') {
                return found.unwrap_or(Value::Unknown);
            }
        }
    }

    /// `a || b`, and operators of which nothing comes.
    fn alternatives(&mut self) -> Value<'a> {
        let mut value = self.sum();
        loop {
            let is_word = self.is_script() && matches!(self.word(), Some(b"in" | b"instanceof" | b"of"));
            match self.token.kind {
                _ if self.line_ends() => return value,
                Kind::Or => {
                    self.advance();
                    let other = self.sum();
                    value = self.heap.either(&value, &other);
                }
                Kind::Assign => {
                    let target = self.target.take().filter(|_| self.is_script());
                    self.advance();
                    value = self.expression();
                    if let Some(target) = target {
                        self.assign_within(&target, value.clone());
                    }
                }
                Kind::Binary | Kind::Mark(b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'&' | b'|' | b'^') => {
                    self.advance();
                    self.sum();
                    value = Value::Unknown;
                }
                Kind::Word if is_word => {
                    self.advance();
                    self.sum();
                    value = Value::Unknown;
                }
                _ => return value,
            }
        }
    }

    fn sum(&mut self) -> Value<'a> {
        let mut value = self.signed();
        while self.token.kind == Kind::Plus && !self.line_ends() {
            self.advance();
            let other = self.signed();
            value = self.heap.concat(&value, &other);
        }
        value
    }

    fn signed(&mut self) -> Value<'a> {
        let mut plain = true;
        loop {
            match self.token.kind {
                Kind::Mark(b'!' | b'-' | b'~') | Kind::Increment | Kind::Plus => {}
                Kind::Word if self.is_script() => match self.word() {
                    Some(b"typeof" | b"new" | b"void" | b"delete") => {}
                    Some(b"async" | b"await" | b"yield") => {
                        self.advance();
                        continue;
                    }
                    _ => break,
                },
                _ => break,
            }
            self.advance();
            plain = false;
        }
        let value = self.operand();
        if plain { value } else { Value::Unknown }
    }

    /// Goes on behind the bracket that closes the one at an offset, skipping what should not stand before it.
    pub(super) fn close(&mut self, open: usize, mark: u8) {
        loop {
            if self.eat(mark) {
                return;
            }
            // The bracket of something around it, or the next field.
            let next = self.token.first && matches!(self.token.kind, Kind::Word | Kind::Variable);
            match self.token.kind {
                Kind::Mark(b')' | b']' | b'}') | Kind::End => break,
                _ if self.is_end() || (next && !self.is_script()) => break,
                Kind::Mark(b'(' | b'[' | b'{') => {
                    self.advance();
                    self.depth += 1;
                    self.skip_list();
                    self.depth -= 1;
                }
                _ => {
                    self.advance();
                }
            }
        }
        if !self.is_script() {
            self.lexer.flaws.push((open, Flaw::Bracket));
        }
    }

    /// Skips to the end of an open bracket and behind it.
    fn skip_list(&mut self) {
        let mut open = 1_usize;
        while open > 0 && !self.is_end() {
            match self.advance().kind {
                Kind::Mark(b'(' | b'[' | b'{') => open += 1,
                Kind::Mark(b')' | b']' | b'}') => open -= 1,
                _ => {}
            }
        }
    }
}
