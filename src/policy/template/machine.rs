//! Works out expressions as far as the text tells. Executes nothing: a call of a function that it does not know comes to
//! something unknown.

use std::collections::HashMap;

use memchr::memchr;

use super::lexer::{Dialect, Flaw, Kind, Lexer, Token};
use super::value::{Heap, Object, Slot, Value};

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
                    self.advance();
                    value = self.sum();
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

    /// A value and what is taken of it.
    fn operand(&mut self) -> Value<'a> {
        let mut value = self.primary();
        loop {
            let mark = self.token.kind;
            let optional = mark == Kind::Mark(b'?') && self.is_script() && self.lexer.peek() == Some(b'.');
            match mark {
                _ if self.line_ends() => return value,
                _ if optional => {
                    self.advance();
                }
                Kind::Mark(b'.') => {
                    self.advance();
                    value = self.member(&value);
                }
                Kind::Mark(b'[') if !self.token.first => {
                    let open = self.advance().start;
                    let index = self.expression();
                    self.close(open, b']');
                    value = self.element(&value, &index);
                }
                Kind::Mark(b'(') if !self.token.first => {
                    self.arguments();
                    value = Value::Unknown;
                }
                Kind::Increment if !self.token.first => {
                    self.advance();
                    value = Value::Unknown;
                }
                _ => return value,
            }
        }
    }

    /// What stands behind a point.
    fn member(&mut self, of: &Value<'a>) -> Value<'a> {
        // `a?.[0]`
        if self.token.kind != Kind::Word {
            return of.clone();
        }
        let token = self.advance();
        let name = self.content(token);
        if !self.is(b'(') {
            return self.property(of, name);
        }
        let (arguments, _) = self.arguments();
        match (name, of) {
            (b"toString" | b"trim" | b"toLowerCase" | b"toUpperCase" | b"valueOf", _) => of.clone(),
            (b"join", Value::List(from, length)) => {
                self.heap.join(*from, *length, arguments.first().unwrap_or(&Value::Literal(b",")))
            }
            (b"concat", Value::Literal(_) | Value::Named(_) | Value::Texts(_)) => {
                let mut whole = of.clone();
                for argument in &arguments {
                    whole = self.heap.concat(&whole, argument);
                }
                whole
            }
            _ => Value::Unknown,
        }
    }

    /// A field of something, by its name.
    fn property(&mut self, of: &Value<'a>, name: &'a [u8]) -> Value<'a> {
        match of {
            Value::Objects(objects) => self.heap.field(objects, name).unwrap_or_else(|| Value::named(name)),
            _ => Value::named(name),
        }
    }

    /// What stands in brackets behind something.
    fn element(&mut self, of: &Value<'a>, index: &Value<'a>) -> Value<'a> {
        let number =
            |text: &[u8]| text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()?.parse().ok());
        match (of, index) {
            (Value::List(from, length), Value::Literal(text)) => {
                let items = self.heap.items(*from, *length);
                number(text).flatten().and_then(|index: usize| items.get(index).cloned()).unwrap_or(Value::Unknown)
            }
            // One of many, named after them all.
            (Value::Named(_), Value::Literal(text)) if number(text).is_some() => of.clone(),
            (_, Value::Literal(name)) => self.property(of, name),
            (Value::Named(_), _) => of.clone(),
            _ => Value::Unknown,
        }
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

    fn primary(&mut self) -> Value<'a> {
        match self.token.kind {
            Kind::Text => {
                let token = self.advance();
                text(self.content(token), self.lexer.text().get(token.start) == Some(&b'"') || self.is_script())
            }
            Kind::Heredoc => {
                let token = self.advance();
                Value::Literal(self.content(token))
            }
            Kind::Quasi => self.quasi(),
            Kind::Number => {
                let token = self.advance();
                Value::Literal(self.content(token))
            }
            Kind::Pattern => {
                self.advance();
                Value::Unknown
            }
            Kind::Variable => {
                let token = self.advance();
                let name = self.lexer.text().get(token.start..token.to).unwrap_or_default();
                self.variables.get(name).map_or_else(|| Value::named(self.content(token)), |slot| slot.value.clone())
            }
            Kind::Word if !self.is_end() => self.name(),
            Kind::Mark(b'(') => self.parentheses(),
            Kind::Mark(b'[') => {
                let open = self.advance().start;
                let outer = self.pending.len();
                while !self.is(b']') && !self.is_end() {
                    let before = self.token.start;
                    let item = self.expression();
                    self.pending.push(item);
                    if !self.eat(b',') && (!self.is(b']') || self.token.start == before) {
                        break;
                    }
                }
                self.close(open, b']');
                self.heap.list(self.pending.drain(outer..))
            }
            Kind::Mark(b'{') => {
                let at = self.advance().start;
                let object = self.object(at);
                self.heap.object(object)
            }
            // What cannot begin an expression, and does not end one either.
            Kind::Mark(mark) if !matches!(mark, b')' | b']' | b'}' | b',' | b';' | b':' | b'?') => {
                self.advance();
                Value::Unknown
            }
            _ => Value::Unknown,
        }
    }

    fn parentheses(&mut self) -> Value<'a> {
        let open = self.advance().start;
        let mut value = Value::Unknown;
        while !self.is(b')') && !self.is_end() {
            let before = self.token.start;
            value = self.expression();
            if !self.eat(b',') && (!self.is(b')') || self.token.start == before) {
                break;
            }
        }
        self.close(open, b')');
        self.arrow();
        value
    }

    /// The body of an arrow function, where one comes.
    fn arrow(&mut self) {
        if self.token.kind == Kind::Arrow && self.is_script() {
            self.advance();
            if self.is(b'{') { self.function_body() } else { drop(self.expression()) }
        }
    }

    /// A name, a call or a function.
    fn name(&mut self) -> Value<'a> {
        let token = self.advance();
        let name = self.content(token);
        if self.is_script() {
            match name {
                b"function" => return self.function(),
                b"null" | b"undefined" => return Value::Unknown,
                _ => {}
            }
            if self.token.kind == Kind::Arrow {
                self.arrow();
                return Value::Unknown;
            }
        }
        if self.is(b'(') && !self.token.first {
            return self.call(token, name);
        }
        match name {
            b"true" | b"false" => Value::Literal(name),
            b"null" | b"nil" => Value::Unknown,
            _ => self.variables.get(name).map_or_else(|| Value::named(name), |slot| slot.value.clone()),
        }
    }

    /// `function name(a, b) { … }`, from behind the first word. What it returns is nobody's; what is in it is seen.
    fn function(&mut self) -> Value<'a> {
        while matches!(self.token.kind, Kind::Word | Kind::Mark(b'*')) {
            self.advance();
        }
        if self.is(b'(') {
            let open = self.advance().start;
            while let Some(parameter) = self.word() {
                let at = self.advance().start;
                let block = self.block_count + 1;
                self.variables.insert(parameter, Slot::new(Value::named(parameter), at, block));
                self.eat(b',');
            }
            self.close(open, b')');
        }
        if self.is(b'{') {
            self.function_body();
        }
        Value::Unknown
    }

    fn function_body(&mut self) {
        if self.depth >= DEEPEST {
            self.advance();
            self.skip_list();
            return;
        }
        self.depth += 1;
        self.script_block();
        self.depth -= 1;
    }

    /// The arguments of a call: those by their place, and the object that those by their name make.
    fn arguments(&mut self) -> (Vec<Value<'a>>, Option<Object<'a>>) {
        let at = self.advance().start;
        let mut by_place = Vec::new();
        let mut by_name: Option<Object<'a>> = None;
        // Brackets end no line.
        self.depth += 1;
        while !self.is(b')') && !self.is_end() {
            let before = self.token.start;
            let named = matches!(self.token.kind, Kind::Word | Kind::Text) && self.lexer.peek() == Some(b':');
            if named && !self.is_script() {
                let object = by_name.get_or_insert_with(|| Object { at, ..Object::default() });
                let mut one = std::mem::take(object);
                self.pair(&mut one);
                by_name = Some(one);
            } else {
                by_place.push(self.expression());
            }
            if !self.eat(b',') && (!self.is(b')') || self.token.start == before) {
                break;
            }
        }
        self.depth -= 1;
        self.close(at, b')');
        (by_place, by_name)
    }

    /// What stands in braces, from behind the first.
    fn object(&mut self, at: usize) -> Object<'a> {
        let block = self.blocks.last().copied().unwrap_or_default();
        let mut object = Object { at, block, ..Object::default() };
        self.depth += 1;
        while !self.is(b'}') && !self.is_end() {
            let before = self.token.start;
            self.pair(&mut object);
            if !self.eat(b',') && !self.is(b'}') && self.token.start == before {
                break;
            }
        }
        self.depth -= 1;
        self.close(at, b'}');
        object
    }

    /// `key: value` in all their forms.
    fn pair(&mut self, object: &mut Object<'a>) {
        let block = self.blocks.last().copied().unwrap_or_default();
        match self.token.kind {
            Kind::Word | Kind::Text | Kind::Number => {
                let key = self.advance();
                let name = self.content(key);
                if self.eat(b':') || (!self.is_script() && self.token.kind == Kind::Arrow && self.eat_arrow()) {
                    let value = self.expression();
                    object.put(name, Slot::new(value, key.start, block));
                } else if self.is(b'(') {
                    self.function();
                } else if key.kind == Kind::Word && (self.is(b',') || self.is(b'}')) {
                    let value = self.variables.get(name).map_or_else(|| Value::named(name), |slot| slot.value.clone());
                    object.put(name, Slot::new(value, key.start, block));
                }
            }
            Kind::Mark(b'[') => {
                let open = self.advance().start;
                self.expression();
                self.close(open, b']');
                if self.eat(b':') {
                    self.expression();
                }
            }
            // `...others`
            Kind::Binary => {
                self.advance();
                if let Value::Objects(others) = self.expression() {
                    let fields = others.first().and_then(|index| self.heap.objects.get(*index));
                    let cost = fields.map_or(0, |other| other.fields.len() * 1024);
                    if !self.heap.spend(cost) {
                        return;
                    }
                    let fields = others.first().and_then(|index| self.heap.objects.get(*index));
                    let fields = fields.map(|other| other.fields.clone()).unwrap_or_default();
                    // What others are made of is no request itself.
                    if let Some(other) = others.first().and_then(|index| self.heap.objects.get_mut(*index)) {
                        other.told = true;
                    }
                    fields.into_iter().for_each(|(name, slot)| object.put(name, slot));
                }
            }
            _ => self.skip_expression(),
        }
    }

    fn eat_arrow(&mut self) -> bool {
        self.advance();
        true
    }

    /// A call of a function by its name.
    fn call(&mut self, token: Token, name: &'a [u8]) -> Value<'a> {
        let (arguments, by_name) = self.arguments();
        let first = arguments.first().unwrap_or(&Value::Unknown);
        match name {
            b"join" => match first {
                Value::List(from, length) => {
                    self.heap.join(*from, *length, arguments.get(1).unwrap_or(&Value::Literal(b"")))
                }
                _ => Value::Unknown,
            },
            b"val" => match arguments.get(1) {
                Some(Value::Literal(field)) => self.property(first, field),
                _ => Value::Unknown,
            },
            b"jmes_path" | b"jq" => match arguments.get(1) {
                Some(Value::Literal(path)) => last_step(path),
                _ => Value::Unknown,
            },
            b"switch" => match (arguments.get(1), arguments.get(2)) {
                (Some(one), Some(other)) => self.heap.either(one, other),
                _ => Value::Unknown,
            },
            b"to_s"
            | b"strip"
            | b"lstrip"
            | b"rstrip"
            | b"downcase"
            | b"upcase"
            | b"String"
            | b"encodeURIComponent"
            | b"encodeURI" => first.clone(),
            _ => {
                if let Some(method) = name.strip_prefix(b"http_").filter(|_| self.lexer.dialect() == Dialect::Workflow)
                {
                    let object = match (by_name, first) {
                        (Some(object), _) => self.heap.object(Object { at: token.start, ..object }),
                        (None, object) => object.clone(),
                    };
                    if let Value::Objects(objects) = object {
                        self.calls.extend(objects.iter().map(|index| (method, *index)));
                    }
                }
                Value::Unknown
            }
        }
    }

    /// A template literal: its text, and the expressions in it.
    fn quasi(&mut self) -> Value<'a> {
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
    fn close_gap(&mut self) {
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
        let next = from + memchr::memchr2(b'$', b'\\', rest)?;
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

/// What a path such as `a.b` names; of more than names, nothing.
fn last_step(path: &[u8]) -> Value<'_> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !path.iter().all(plain) {
        return Value::Unknown;
    }
    Value::named(path.rsplit(|byte| *byte == b'.').next().unwrap_or_default())
}
