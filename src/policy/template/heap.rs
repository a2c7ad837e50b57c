//! Where the lists and objects of a text live while it is read, and where its texts are put together.

use std::borrow::Cow;
use std::collections::HashSet;
use std::rc::Rc;

use super::value::{
    LONGEST_TEXT, MOST_ALTERNATIVES, Object, Piece, Pieces, Slot, Value, add_alternative, append, nameless, size,
    size_of_text,
};

/// Where lists and objects live, so that values are small and cannot contain themselves.
#[derive(Debug)]
pub(super) struct Heap<'a> {
    /// The objects, in the order of the text.
    pub objects: Vec<Object<'a>>,
    items: Vec<Value<'a>>,
    /// The lists that are parts of a request that was told.
    items_told: HashSet<(usize, usize)>,
    /// The lists that something was pushed to since they were written down.
    changed: HashSet<(usize, usize)>,
    /// How many bytes of text may still be put together; without a bound, `x = x + x` would go on for ever.
    fuel: usize,
}

impl<'a> Heap<'a> {
    /// An empty heap for a text of this length.
    pub(super) fn new(length: usize) -> Self {
        Self {
            objects: Vec::new(),
            items: Vec::new(),
            items_told: HashSet::new(),
            changed: HashSet::new(),
            // Of very many small scripts, each has little.
            fuel: length.saturating_mul(16).saturating_add(1 << 16),
        }
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

    /// What is in a list is no longer told.
    pub(super) fn change(&mut self, from: usize, length: usize) {
        self.changed.insert((from, length));
    }

    /// Whether there is fuel for this much copying, which is then used.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let enough = self.fuel > bytes;
        self.fuel = self.fuel.saturating_sub(bytes);
        enough
    }

    /// A request was told, with whatever is in it: what its body holds is no request.
    pub(super) fn tell(&mut self, index: usize) {
        if let Some(object) = self.objects.get_mut(index) {
            object.told = true;
        }
        self.tell_parts(index);
    }

    /// What is in an object is no request.
    pub(super) fn tell_parts(&mut self, index: usize) {
        let mut pending = vec![index];
        while let Some(index) = pending.pop() {
            let Some(object) = self.objects.get(index) else { continue };
            let mut parts: Vec<usize> = Vec::new();
            for (_, slot) in &object.fields {
                match &slot.value {
                    Value::Objects(objects) => parts.extend(objects.iter()),
                    Value::List(from, length) if self.items_told.insert((*from, *length)) => {
                        for item in self.items.get(*from..from + length).unwrap_or_default() {
                            if let Value::Objects(objects) = item {
                                parts.extend(objects.iter());
                            }
                        }
                    }
                    _ => {}
                }
            }
            for part in parts {
                if let Some(object) = self.objects.get_mut(part).filter(|object| !object.told) {
                    object.told = true;
                    pending.push(part);
                }
            }
        }
    }

    /// Whoever knows a field's name only when the policy runs sets any of these.
    pub(super) fn blur(&mut self, objects: &[usize], at: usize, block: usize) {
        for name in [&b"verb"[..], b"host"] {
            self.set_field(objects, name, &Value::Unknown, at, block);
        }
        let named = |heap: &Self, index: &usize, name: &[u8]| {
            heap.objects.get(*index).is_some_and(|object| object.field(name).is_some())
        };
        for name in [&b"method"[..], b"url"] {
            let having: Vec<usize> = objects.iter().copied().filter(|index| named(self, index, name)).collect();
            self.set_field(&having, name, &Value::Unknown, at, block);
        }
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
        if length > LONGEST_TEXT || !self.spend(length * 16) || self.changed.contains(&(from, length)) {
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
