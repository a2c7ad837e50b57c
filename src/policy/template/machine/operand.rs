//! Values, what is taken of them, and functions.

use super::super::lexer::Kind;
use super::super::statements::Target;
use super::super::value::{Object, Slot, Value};
use super::{DEEPEST, Machine, text};

impl<'a> Machine<'a> {
    /// A value and what is taken of it.
    pub(super) fn operand(&mut self) -> Value<'a> {
        let begin = self.token;
        let name = self.lexer.text().get(begin.start..begin.to).unwrap_or_default();
        let mut target = (begin.kind == Kind::Word).then(|| Target::new(name, begin.start));
        let mut value = self.primary();
        loop {
            let mark = self.token.kind;
            let optional = mark == Kind::Mark(b'?') && self.is_script() && self.lexer.peek() == Some(b'.');
            match mark {
                _ if self.line_ends() => break,
                _ if optional => {
                    self.advance();
                }
                Kind::Mark(b'.') => {
                    self.advance();
                    let field = self.word();
                    value = self.member(&value);
                    // Behind a call stands nothing that could be assigned to.
                    target = target.map(|target| target.field(field));
                }
                Kind::Mark(b'[') if !self.token.first => {
                    let open = self.advance().start;
                    let index = self.expression();
                    self.close(open, b']');
                    let field = if let Value::Literal(name) = index { Some(name) } else { None };
                    target = target.map(|target| target.field(field));
                    value = self.element(&value, &index);
                }
                Kind::Mark(b'(') if !self.token.first => {
                    target = None;
                    self.arguments();
                    value = Value::Unknown;
                }
                Kind::Increment if !self.token.first => {
                    self.advance();
                    value = Value::Unknown;
                }
                _ => break,
            }
        }
        self.target = target;
        value
    }

    /// What stands behind a point.
    pub(super) fn member(&mut self, of: &Value<'a>) -> Value<'a> {
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
            (
                b"push" | b"unshift" | b"splice" | b"pop" | b"shift" | b"reverse" | b"sort",
                Value::List(from, length),
            ) => {
                self.heap.change(*from, *length);
                Value::Unknown
            }
            // Of underscore.js, and of the language.
            (b"extend" | b"assign" | b"extendOwn" | b"merge" | b"defaults", _) => {
                if let Some((Value::Objects(whole), parts)) = arguments.split_first() {
                    parts.iter().for_each(|part| self.copy_fields(part, whole, name == b"defaults"));
                }
                arguments.into_iter().next().unwrap_or(Value::Unknown)
            }
            (b"clone" | b"cloneDeep", _) => self.copied(arguments.first().unwrap_or(&Value::Unknown)),
            _ => Value::Unknown,
        }
    }

    /// Another object with the same fields.
    fn copied(&mut self, of: &Value<'a>) -> Value<'a> {
        let Value::Objects(objects) = of else { return of.clone() };
        let at = objects.first().and_then(|index| self.heap.objects.get(*index)).map_or(0, |object| object.at);
        let block = self.blocks.last().copied().unwrap_or_default();
        let copy = self.heap.object(Object { at, block, ..Object::default() });
        if let Value::Objects(copy) = &copy {
            self.copy_fields(of, copy, false);
        }
        copy
    }

    /// Gives the fields of one object to others, or only those that they have not.
    fn copy_fields(&mut self, part: &Value<'a>, whole: &[usize], absent: bool) {
        let block = self.blocks.last().copied().unwrap_or_default();
        let Value::Objects(part) = part else { return };
        for index in part.iter() {
            let Some(object) = self.heap.objects.get_mut(*index) else { continue };
            let fields = object.fields.clone();
            object.told = true;
            if self.heap.spend(fields.len() * whole.len() * 1024) {
                for (name, slot) in fields {
                    let lacks =
                        |index: &usize| self.heap.objects.get(*index).is_some_and(|one| one.field(name).is_none());
                    let whole = match absent {
                        true => whole.iter().copied().filter(lacks).collect(),
                        false => whole.to_vec(),
                    };
                    self.heap.set_field(&whole, name, &slot.value, slot.at, block);
                }
            }
        }
    }

    /// A field of something, by its name.
    pub(super) fn property(&mut self, of: &Value<'a>, name: &'a [u8]) -> Value<'a> {
        match of {
            Value::Objects(objects) => self.heap.field(objects, name).unwrap_or_else(|| Value::named(name)),
            _ => Value::named(name),
        }
    }

    /// What stands in brackets behind something.
    pub(super) fn element(&mut self, of: &Value<'a>, index: &Value<'a>) -> Value<'a> {
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

    pub(super) fn primary(&mut self) -> Value<'a> {
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

    pub(super) fn parentheses(&mut self) -> Value<'a> {
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
    pub(super) fn arrow(&mut self) {
        if self.token.kind == Kind::Arrow && self.is_script() {
            self.advance();
            if self.is(b'{') { self.function_body() } else { drop(self.expression()) }
        }
    }

    /// A name, a call or a function.
    pub(super) fn name(&mut self) -> Value<'a> {
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
    pub(super) fn function(&mut self) -> Value<'a> {
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

    pub(super) fn function_body(&mut self) {
        if self.depth >= DEEPEST {
            self.advance();
            self.skip_list();
            return;
        }
        self.depth += 1;
        self.script_block();
        self.depth -= 1;
    }
}
