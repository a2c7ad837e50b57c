//! What an expression of a template comes to, as far as the text tells: texts with gaps, in a few alternatives.

use std::borrow::Cow;
use std::rc::Rc;

use super::heap::Heap;

/// How many alternatives one value may have; more are not told apart.
pub(super) const MOST_ALTERNATIVES: usize = 8;
/// How long one text may be.
pub(super) const LONGEST_TEXT: usize = 2048;
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
    /// It may not have been set at all: nothing but branches set it.
    pub unset: bool,
}

impl<'a> Slot<'a> {
    /// Set for the first time.
    pub(super) fn new(value: Value<'a>, at: usize, block: usize) -> Self {
        Self { value, at, block, otherwise: None, unset: false }
    }

    /// Sets it from a block: what a branch sets may be, and what the block around it sets is. Blocks are numbered in the
    /// order in which they begin.
    pub(super) fn set(&mut self, value: Value<'a>, block: usize, heap: &mut Heap<'a>) {
        if self.block < block {
            self.otherwise = Some(self.value.clone());
        } else if self.block > block {
            self.otherwise = None;
            self.unset = false;
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

/// What it costs to copy a text.
pub(super) fn size(pieces: &[Piece<'_>]) -> usize {
    pieces.len() * 16 + size_of_text(pieces)
}

pub(super) fn size_of_text(pieces: &[Piece<'_>]) -> usize {
    let length = |piece: &Piece<'_>| match piece {
        Piece::Literal(text) => text.len(),
        Piece::Gap(name) => name.len() + 2,
    };
    pieces.iter().map(length).sum()
}

pub(super) fn nameless() -> Pieces<'static> {
    vec![Piece::Gap(NAMELESS)]
}

/// Appends a piece; literals that meet become one.
pub(super) fn append<'a>(pieces: &mut Pieces<'a>, piece: Piece<'a>) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Literal(last)), Piece::Literal(text)) => last.to_mut().extend_from_slice(&text),
        (_, Piece::Literal(text)) if text.is_empty() => {}
        (_, piece) => pieces.push(piece),
    }
}

/// Adds a text to the alternatives. Two that differ in nothing but the names of their gaps tell nothing more than one,
/// unless the gaps are parameters, of which more is known, or all there is: they may be the names of blocks.
pub(super) fn add_alternative<'a>(all: &mut Vec<Pieces<'a>>, pieces: Pieces<'a>) {
    if !matches!(pieces[..], [Piece::Gap(_)]) {
        fold_alternative(all, pieces);
    } else if !all.contains(&pieces) {
        all.push(pieces);
    }
}

/// Adds a text to the alternatives that are shown.
pub(super) fn fold_alternative<'a>(all: &mut Vec<Pieces<'a>>, pieces: Pieces<'a>) {
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

    /// What it may be as a text, as it is shown. Never empty.
    pub(super) fn shown(&self) -> Vec<Pieces<'a>> {
        let mut all = Vec::new();
        self.texts().into_iter().for_each(|pieces| fold_alternative(&mut all, pieces));
        all
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
