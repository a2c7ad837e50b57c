//! Objects, and calls of the functions that the languages of a template have.

use super::super::lexer::{Dialect, Kind, Token};
use super::super::value::{Object, Slot, Value};
use super::Machine;

impl<'a> Machine<'a> {
    /// The arguments of a call: those by their place, and the object that those by their name make.
    pub(super) fn arguments(&mut self) -> (Vec<Value<'a>>, Option<Object<'a>>) {
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
    pub(super) fn object(&mut self, at: usize) -> Object<'a> {
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
    pub(super) fn pair(&mut self, object: &mut Object<'a>) {
        let block = self.blocks.last().copied().unwrap_or_default();
        match self.token.kind {
            Kind::Word | Kind::Text | Kind::Number => {
                let key = self.advance();
                let name = self.content(key);
                if self.eat(b':') || (!self.is_script() && self.token.kind == Kind::Arrow && self.eat_arrow()) {
                    let value = if matches!(name, b"verb" | b"method") { self.verb() } else { self.expression() };
                    object.put(name, Slot::new(value, key.start, block));
                } else if self.is(b'(') {
                    self.function();
                } else if key.kind == Kind::Word && (self.is(b',') || self.is(b'}')) {
                    let known = self.variables.get(name);
                    let unset = known.is_some_and(|slot| slot.unset) && matches!(name, b"verb" | b"method");
                    let mut value = known.map_or_else(|| Value::named(name), |slot| slot.value.clone());
                    if unset {
                        value = self.heap.either(&Value::Literal(b"GET"), &value);
                    }
                    object.put(name, Slot::new(value, key.start, block));
                }
            }
            Kind::Mark(b'[') => {
                let open = self.advance().start;
                self.expression();
                self.close(open, b']');
                if self.eat(b':') {
                    self.expression();
                    // Any field may be meant.
                    for name in [&b"verb"[..], b"host"] {
                        object.put(name, Slot::new(Value::Unknown, open, block));
                    }
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

    pub(super) fn eat_arrow(&mut self) -> bool {
        self.advance();
        true
    }

    /// A call of a function by its name.
    pub(super) fn call(&mut self, token: Token, name: &'a [u8]) -> Value<'a> {
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
            // A credential by its id, in the way of one that stands there by its name.
            b"signer" => match first.literal() {
                Some(id) => Value::owned([&b"signer("[..], &id, b")"].concat()),
                None => Value::Unknown,
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
}

/// What a path such as `a.b` names; of more than names, nothing.
fn last_step(path: &[u8]) -> Value<'_> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !path.iter().all(plain) {
        return Value::Unknown;
    }
    Value::named(path.rsplit(|byte| *byte == b'.').next().unwrap_or_default())
}
