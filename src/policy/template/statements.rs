//! Follows the statements of a script and of a workflow, so that a variable comes to what was assigned to it.
//!
//! Every statement is followed once, in the order of the text; what stands in a branch may have been done or not.

use super::lexer::Kind;
use super::machine::Machine;
use super::value::{Object, Slot, Value};

/// A variable, or a field of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    name: &'a [u8],
    at: usize,
    field: Field<'a>,
}

/// Which field of a variable.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    /// The variable itself.
    None,
    /// The one with this name.
    Named(&'a [u8]),
    /// One whose name is not told.
    Any,
    /// One of a field.
    TooDeep,
}

impl<'a> Target<'a> {
    /// A variable.
    pub(super) fn new(name: &'a [u8], at: usize) -> Self {
        Self { name, at, field: Field::None }
    }

    /// A field of it, by its name if that is told.
    pub(super) fn field(self, name: Option<&'a [u8]>) -> Self {
        let field = match (self.field, name) {
            (Field::None, Some(name)) => Field::Named(name),
            (Field::None, None) => Field::Any,
            _ => Field::TooDeep,
        };
        Self { field, ..self }
    }

    /// Whether it is what a request's method is read from.
    fn is_verb(&self) -> bool {
        matches!(self.field, Field::Named(b"verb" | b"method"))
    }
}

impl<'a> Machine<'a> {
    fn block(&self) -> usize {
        self.blocks.last().copied().unwrap_or_default()
    }

    fn open_block(&mut self) {
        self.block_count += 1;
        self.blocks.push(self.block_count);
    }

    /// Does something that may be done or not.
    fn in_branch(&mut self, branch: bool, what: impl FnOnce(&mut Self)) {
        if branch {
            self.open_block();
        }
        what(self);
        if branch {
            self.blocks.pop();
        }
    }

    /// Whether what is done here may not be done where it stands.
    fn is_branch(&self) -> bool {
        self.blocks.len() > usize::from(self.in_function)
    }

    /// Another branch of the same block.
    fn next_branch(&mut self) {
        if self.blocks.pop().is_some() {
            self.open_block();
        }
    }

    /// Follows a script to its end.
    pub(super) fn script(&mut self) {
        self.script_statements();
    }

    /// Follows the body of a function, from its brace to behind the other.
    pub(super) fn script_block(&mut self) {
        self.advance();
        self.open_block();
        let outside = std::mem::take(&mut self.blocks);
        self.blocks.extend(outside.last());
        let within = std::mem::replace(&mut self.in_function, true);
        self.script_statements();
        self.in_function = within;
        self.eat(b'}');
        self.blocks = outside;
        self.blocks.pop();
    }

    /// Follows statements to the brace that closes what is around them, or to the end.
    fn script_statements(&mut self) {
        let outermost = self.blocks.len();
        // The next statement is a branch without braces.
        let mut branch = false;
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Mark(b'}') => {
                    if self.blocks.len() <= outermost {
                        if outermost > 0 {
                            return;
                        }
                    } else {
                        self.blocks.pop();
                    }
                    self.advance();
                }
                Kind::Mark(b'{') => {
                    self.open_block();
                    self.advance();
                    branch = false;
                }
                Kind::Mark(b';' | b',' | b')' | b']' | b':') => {
                    self.advance();
                }
                _ => match self.word().unwrap_or_default() {
                    b"if" | b"while" | b"for" | b"with" | b"switch" | b"catch" => {
                        self.advance();
                        if self.is(b'(') {
                            let open = self.advance().start;
                            self.close(open, b')');
                        }
                        branch = true;
                    }
                    b"else" => {
                        self.advance();
                        branch = true;
                    }
                    b"do" | b"try" | b"finally" | b"var" | b"let" | b"const" | b"break" | b"continue" => {
                        self.advance();
                    }
                    b"return" | b"throw" => {
                        self.advance();
                        if !self.token.first {
                            self.in_branch(branch, |machine| drop(machine.expression()));
                        }
                        branch = false;
                    }
                    b"case" | b"default" => {
                        self.advance();
                        self.next_branch();
                        if !self.is(b':') {
                            self.expression();
                        }
                        self.eat(b':');
                    }
                    _ => {
                        self.in_branch(branch, Self::statement);
                        branch = false;
                    }
                },
            }
        }
    }

    /// Follows the body of a workflow definition.
    pub(super) fn workflow(&mut self) {
        while self.token.kind != Kind::End {
            match self.word().unwrap_or_default() {
                b"if" | b"do" => {
                    self.advance();
                    self.open_block();
                }
                b"else" | b"elsif" => {
                    self.advance();
                    self.next_branch();
                }
                b"end" => {
                    self.advance();
                    self.blocks.pop();
                }
                // What a definition returns, or what a list holds, is not told.
                b"retrieve" | b"foreach" | b"map" => {
                    self.advance();
                    while self.token.kind == Kind::Variable {
                        let token = self.advance();
                        let name = self.lexer.text().get(token.start..token.to).unwrap_or_default();
                        let value = Value::named(self.content(token));
                        self.assign(&Target::new(name, token.start), value);
                        self.eat(b',');
                    }
                }
                _ => self.statement(),
            }
        }
    }

    /// An assignment or an expression. Goes on in any case.
    fn statement(&mut self) {
        let before = (self.lexer.place(), self.token);
        if let Some(target) = self.target() {
            let adds = self.content(self.token) == b"+=";
            self.advance();
            let mut value = if target.is_verb() { self.verb() } else { self.expression() };
            if adds && matches!(target.field, Field::None) {
                let old = self.variables.get(target.name).map_or(Value::Unknown, |slot| slot.value.clone());
                value = self.heap.concat(&old, &value);
            }
            self.assign(&target, value);
        } else {
            self.lexer.back(before.0);
            self.token = before.1;
            self.expression();
        }
        if self.token.start == before.1.start && self.token.kind != Kind::End {
            self.advance();
        }
    }

    /// What is assigned to, up to the sign.
    fn target(&mut self) -> Option<Target<'a>> {
        if !matches!(self.token.kind, Kind::Word | Kind::Variable) {
            return None;
        }
        let token = self.advance();
        let name = self.lexer.text().get(token.start..token.to)?;
        let mut target = Target::new(name, token.start);
        loop {
            let field = match self.token.kind {
                Kind::Assign => return Some(target),
                Kind::Mark(b'.') => {
                    self.advance();
                    (self.token.kind == Kind::Word).then(|| self.advance())?
                }
                Kind::Mark(b'[') => {
                    self.advance();
                    let field = (self.token.kind == Kind::Text).then(|| self.advance())?;
                    if !self.eat(b']') {
                        return None;
                    }
                    field
                }
                _ => return None,
            };
            target = target.field(Some(self.content(field)));
        }
    }

    /// An assignment in the midst of an expression: it may be made or not.
    pub(super) fn assign_within(&mut self, target: &Target<'a>, value: Value<'a>) {
        self.in_branch(true, |machine| machine.assign(target, value));
    }

    /// What a method is set to: where nothing but branches set it, the request may be a GET.
    pub(super) fn verb(&mut self) -> Value<'a> {
        let name = self.lexer.text().get(self.token.start..self.token.to).unwrap_or_default();
        let unset = self.variables.get(name).is_some_and(|slot| slot.unset);
        let value = self.expression();
        if unset { self.heap.either(&Value::Literal(b"GET"), &value) } else { value }
    }

    fn assign(&mut self, target: &Target<'a>, value: Value<'a>) {
        let block = self.block();
        let unset = self.is_branch();
        match target.field {
            Field::TooDeep => {}
            Field::Any => {
                if let Some(Value::Objects(objects)) = self.variables.get(target.name).map(|slot| &slot.value) {
                    let objects = objects.clone();
                    self.heap.blur(&objects, target.at, block);
                }
            }
            Field::None => {
                // What is not told is called what it is assigned to.
                let bare = target.name.iter().position(|byte| !matches!(byte, b'$' | b'@')).unwrap_or_default();
                let value = match value {
                    Value::Unknown => Value::named(target.name.get(bare..).unwrap_or_default()),
                    told => told,
                };
                match self.variables.get_mut(target.name) {
                    Some(slot) => slot.set(value, block, &mut self.heap),
                    None => {
                        let mut slot = Slot::new(value, target.at, block);
                        slot.unset = unset;
                        self.variables.insert(target.name, slot);
                    }
                }
            }
            Field::Named(field) => {
                let objects = match self.variables.get(target.name).map(|slot| &slot.value) {
                    Some(Value::Objects(objects)) => objects.clone(),
                    // Of what it was made is not told; that it has this field is.
                    _ => {
                        let object = self.heap.object(Object { at: target.at, block, ..Object::default() });
                        let Value::Objects(objects) = &object else { return };
                        let objects = objects.clone();
                        self.variables.insert(target.name, Slot::new(object, target.at, block));
                        objects
                    }
                };
                self.heap.set_field(&objects, field, &value, target.at, block);
            }
        }
    }
}
