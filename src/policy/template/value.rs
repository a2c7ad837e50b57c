//! What an expression of a template comes to, as far as the text tells: texts with gaps, in a few alternatives.

use std::borrow::Cow;
use std::rc::Rc;

/// How many alternatives one value may have; more are not told apart.
const MOST_ALTERNATIVES: usize = 8;
/// How long one text may be.
const LONGEST_TEXT: usize = 2048;
/// The name of a gap that has none.
const NAMELESS: &[u8] = b"value";

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Known.
    Literal(Cow<'a, [u8]>),
    /// Known when the policy runs; by the name of what it is.
    Gap(&'a [u8]),
}

/// A text, in pieces; no two literals are neighbours.
pub(super) type Pieces<'a> = Vec<Piece<'a>>;

/// What an expression comes to.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    /// Nothing is known of it.
    Unknown,
    /// A text that stands there.
    Literal(&'a [u8]),
    /// Something that has a name.
    Named(&'a [u8]),
    /// A text that was put together, or one of several.
    Texts(Rc<[Pieces<'a>]>),
    /// A list, in the heap: where it begins there, and how long it is.
    List(usize, usize),
    /// An object in the heap, or one of several.
    Objects(Rc<[usize]>),
}

/// A field of an object, or a variable.
#[derive(Debug, Clone)]
pub(super) struct Slot<'a> {
    /// What it holds.
    pub value: Value<'a>,
    /// Where it was set first.
    pub at: usize,
    /// In which block it was set.
    block: usize,
    /// What it holds where that block is not run.
    otherwise: Option<Value<'a>>,
}

impl<'a> Slot<'a> {
    /// Set for the first time.
    pub(super) fn new(value: Value<'a>, at: usize, block: usize) -> Self {
        Self { value, at, block, otherwise: None }
    }

    /// Sets it from a block: what a branch sets may be, and what the block around it sets is. Blocks are numbered in the
    /// order in which they begin.
    pub(super) fn set(&mut self, value: Value<'a>, block: usize, heap: &mut Heap<'a>) {
        if self.block < block {
            self.otherwise = Some(self.value.clone());
        } else if self.block > block {
            self.otherwise = None;
        }
        self.block = block;
        self.value = match &self.otherwise {
            Some(otherwise) => heap.either(otherwise, &value),
            None => value,
        };
    }
}

/// An object: the arguments of a call, or what stands in braces.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'a> {
    /// Where it begins.
    pub at: usize,
    /// In which block it was made.
    pub block: usize,
    /// Its fields; of very many, only some.
    pub fields: Vec<(&'a [u8], Slot<'a>)>,
    /// A request that it makes was told already.
    pub told: bool,
}

/// How many fields of one object are kept besides those that make a request.
const MOST_FIELDS: usize = 64;
/// The fields that make a request.
const REQUEST_FIELDS: [&[u8]; 9] =
    [b"auth", b"verb", b"method", b"scheme", b"https", b"host", b"path", b"href", b"url"];

impl<'a> Object<'a> {
    /// What a field holds.
    pub(super) fn field(&self, name: &[u8]) -> Option<&Slot<'a>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, slot)| slot)
    }

    /// Sets a field that was not set, or sets it anew.
    pub(super) fn put(&mut self, name: &'a [u8], slot: Slot<'a>) {
        if let Some((_, old)) = self.fields.iter_mut().find(|(field, _)| *field == name) {
            *old = slot;
        } else if self.fields.len() < MOST_FIELDS || REQUEST_FIELDS.contains(&name) {
            self.fields.push((name, slot));
        }
    }
}

/// Where lists and objects live, so that values are small and cannot contain themselves.
#[derive(Debug)]
pub(super) struct Heap<'a> {
    /// The objects, in the order of the text.
    pub objects: Vec<Object<'a>>,
    items: Vec<Value<'a>>,
    /// How many bytes of text may still be put together; without a bound, `x = x + x` would go on for ever.
    fuel: usize,
}

impl<'a> Heap<'a> {
    /// An empty heap for a text of this length.
    pub(super) fn new(length: usize) -> Self {
        Self { objects: Vec::new(), items: Vec::new(), fuel: length.saturating_mul(4).saturating_add(1 << 20) }
    }

    /// A new object.
    pub(super) fn object(&mut self, object: Object<'a>) -> Value<'a> {
        self.objects.push(object);
        Value::Objects(Rc::new([self.objects.len() - 1]))
    }

    /// A new list.
    pub(super) fn list(&mut self, items: impl Iterator<Item = Value<'a>>) -> Value<'a> {
        let from = self.items.len();
        self.items.extend(items);
        Value::List(from, self.items.len() - from)
    }

    /// The items of a list.
    pub(super) fn items(&self, from: usize, length: usize) -> &[Value<'a>] {
        self.items.get(from..from + length).unwrap_or_default()
    }

    /// Whether there is fuel for this much copying, which is then used.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let enough = self.fuel > bytes;
        self.fuel = self.fuel.saturating_sub(bytes);
        enough
    }

    /// A field of an object, or of any of several.
    pub(super) fn field(&mut self, objects: &[usize], name: &[u8]) -> Option<Value<'a>> {
        let mut found: Option<Value<'a>> = None;
        for index in objects {
            let Some(slot) = self.objects.get(*index).and_then(|object| object.field(name)) else { continue };
            let value = slot.value.clone();
            found = Some(match found {
                Some(other) => self.either(&other, &value),
                None => value,
            });
        }
        found
    }

    /// Sets a field of an object, or of each of several.
    pub(super) fn set_field(&mut self, objects: &[usize], name: &'a [u8], value: &Value<'a>, at: usize, block: usize) {
        for index in objects {
            let old = self.objects.get(*index).and_then(|object| object.field(name)).cloned();
            let slot = match old {
                Some(mut slot) => {
                    slot.set(value.clone(), block, self);
                    slot
                }
                None => {
                    let branch = self.objects.get(*index).is_some_and(|object| object.block < block);
                    let mut slot = Slot::new(value.clone(), at, block);
                    // Where the branch is not taken, the request is a GET.
                    if branch && matches!(name, b"verb" | b"method") {
                        slot = Slot::new(Value::Literal(b"GET"), at, 0);
                        slot.set(value.clone(), block, self);
                    }
                    slot
                }
            };
            if let Some(object) = self.objects.get_mut(*index) {
                object.put(name, slot);
            }
        }
    }

    /// One value or the other.
    pub(super) fn either(&mut self, one: &Value<'a>, other: &Value<'a>) -> Value<'a> {
        match (one, other) {
            (Value::Objects(one), Value::Objects(other)) => {
                let mut all: Vec<usize> = one.to_vec();
                all.extend(other.iter().filter(|index| !one.contains(index)));
                all.truncate(MOST_ALTERNATIVES);
                Value::Objects(all.into())
            }
            (Value::Objects(_), _) => one.clone(),
            (_, Value::Objects(_)) => other.clone(),
            _ if self.fuel == 0 => Value::Unknown,
            _ => {
                let mut all = one.texts();
                for pieces in other.texts() {
                    add_alternative(&mut all, pieces);
                }
                self.made(all)
            }
        }
    }

    /// One text behind the other.
    pub(super) fn concat(&mut self, one: &Value<'a>, other: &Value<'a>) -> Value<'a> {
        if self.fuel == 0 {
            return Value::Unknown;
        }
        let (one, other) = (one.texts(), other.texts());
        let (one, other) = match one.len() * other.len() > MOST_ALTERNATIVES {
            true if one.len() > other.len() => (vec![nameless()], other),
            true => (one, vec![nameless()]),
            false => (one, other),
        };
        let mut all = Vec::with_capacity(one.len() * other.len());
        for head in &one {
            for tail in &other {
                let mut pieces = head.clone();
                for piece in tail {
                    append(&mut pieces, piece.clone());
                }
                add_alternative(&mut all, pieces);
            }
        }
        self.made(all)
    }

    /// The items of a list, with something between them.
    pub(super) fn join(&mut self, from: usize, length: usize, between: &Value<'a>) -> Value<'a> {
        if length > LONGEST_TEXT || !self.spend(length * 16) {
            return Value::Unknown;
        }
        let items: Vec<Value<'a>> = self.items(from, length).to_vec();
        let between = Some(between).filter(|between| !matches!(between, Value::Literal([])));
        let mut whole = Value::Literal(b"");
        // What is one text each is put together at once.
        let mut pending = Pieces::new();
        for (index, item) in items.iter().enumerate() {
            for part in between.filter(|_| index > 0).into_iter().chain([item]) {
                match part {
                    Value::Literal(text) => append(&mut pending, Piece::Literal(Cow::Borrowed(text))),
                    Value::Named(name) => pending.push(Piece::Gap(name)),
                    _ => {
                        let before = self.made(vec![std::mem::take(&mut pending)]);
                        whole = self.concat(&whole, &before);
                        whole = self.concat(&whole, part);
                    }
                }
            }
            if matches!(whole, Value::Unknown) || pending.len() > LONGEST_TEXT {
                return Value::Unknown;
            }
        }
        let rest = self.made(vec![pending]);
        match whole {
            Value::Literal(_) => rest,
            whole => self.concat(&whole, &rest),
        }
    }

    fn made(&mut self, all: Vec<Pieces<'a>>) -> Value<'a> {
        let size: usize = all.iter().map(|pieces| size(pieces)).sum();
        self.fuel = self.fuel.saturating_sub(size + 64);
        let too_long = all.iter().any(|pieces| size_of_text(pieces) > LONGEST_TEXT);
        if all.len() > MOST_ALTERNATIVES || too_long { Value::Unknown } else { Value::Texts(all.into()) }
    }
}

/// What it costs to copy a text.
fn size(pieces: &[Piece<'_>]) -> usize {
    pieces.len() * 16 + size_of_text(pieces)
}

fn size_of_text(pieces: &[Piece<'_>]) -> usize {
    let length = |piece: &Piece<'_>| match piece {
        Piece::Literal(text) => text.len(),
        Piece::Gap(name) => name.len() + 2,
    };
    pieces.iter().map(length).sum()
}

fn nameless() -> Pieces<'static> {
    vec![Piece::Gap(NAMELESS)]
}

/// Appends a piece; literals that meet become one.
fn append<'a>(pieces: &mut Pieces<'a>, piece: Piece<'a>) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Literal(last)), Piece::Literal(text)) => last.to_mut().extend_from_slice(&text),
        (_, Piece::Literal(text)) if text.is_empty() => {}
        (_, piece) => pieces.push(piece),
    }
}

/// Adds a text to the alternatives. Two that differ in nothing but the names of their gaps tell nothing more than one,
/// unless the gaps are parameters, of which more is known.
fn add_alternative<'a>(all: &mut Vec<Pieces<'a>>, pieces: Pieces<'a>) {
    let parameter = |piece: &Piece<'_>| matches!(piece, Piece::Gap(name) if name.starts_with(b"param_"));
    for known in all.iter_mut() {
        let mut pairs = known.iter().zip(&pieces);
        let same_shape = known.len() == pieces.len()
            && pairs.all(|(one, other)| match (one, other) {
                (Piece::Literal(one), Piece::Literal(other)) => one == other,
                (Piece::Gap(_), Piece::Gap(_)) => one == other || !(parameter(one) || parameter(other)),
                _ => false,
            });
        if same_shape {
            for (one, other) in known.iter_mut().zip(&pieces) {
                if one != other {
                    *one = Piece::Gap(NAMELESS);
                }
            }
            return;
        }
    }
    all.push(pieces);
}

impl<'a> Value<'a> {
    /// A text whose escapes were undone.
    pub(super) fn owned(text: Vec<u8>) -> Self {
        Self::Texts(Rc::new([vec![Piece::Literal(Cow::Owned(text))]]))
    }

    /// Something with a name, if the name is one.
    pub(super) fn named(name: &'a [u8]) -> Self {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !name.is_empty() && name.len() <= 64 && name.iter().all(plain) { Self::Named(name) } else { Self::Unknown }
    }

    /// What it may be as a text. Never empty.
    pub(super) fn texts(&self) -> Vec<Pieces<'a>> {
        match self {
            Self::Literal([]) => vec![Vec::new()],
            Self::Literal(text) => vec![vec![Piece::Literal(Cow::Borrowed(text))]],
            Self::Named(name) => vec![vec![Piece::Gap(name)]],
            Self::Texts(all) => all.to_vec(),
            Self::Unknown | Self::List(..) | Self::Objects(_) => vec![nameless()],
        }
    }

    /// The text, if it is one that stands there whole.
    pub(super) fn literal(&self) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Literal(text) => Some(Cow::Borrowed(text)),
            Self::Texts(all) => match &all[..] {
                [pieces] => match &pieces[..] {
                    [] => Some(Cow::Borrowed(b"")),
                    [Piece::Literal(text)] => Some(text.clone()),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}
