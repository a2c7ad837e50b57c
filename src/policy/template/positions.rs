//! Lines and columns of offsets, found in one pass however many they are.

use memchr::{memchr_iter, memrchr};

/// Where offsets stand in a text.
#[derive(Debug, Default)]
pub(super) struct Positions {
    offsets: Vec<usize>,
    found: Vec<(usize, usize)>,
}

impl Positions {
    /// Offsets that will be asked for.
    pub(super) fn add(&mut self, offsets: impl Iterator<Item = usize>) {
        self.offsets.extend(offsets);
    }

    /// Finds them all.
    pub(super) fn find(&mut self, text: &[u8]) {
        self.offsets.sort_unstable();
        self.offsets.dedup();
        let (mut line, mut column) = (1, 1);
        let mut at = text.len() - without_mark(text).len();
        for offset in &self.offsets {
            let between = text.get(at..*offset).unwrap_or_default();
            line += memchr_iter(b'\n', between).count();
            match memrchr(b'\n', between) {
                Some(last) => column = 1 + characters(between.get(last + 1..).unwrap_or_default()),
                None => column += characters(between),
            }
            at = at.max(*offset);
            self.found.push((line, column));
        }
    }

    /// The line and the column, in characters, of an offset that was added.
    pub(super) fn of(&self, offset: usize) -> (usize, usize) {
        let index = self.offsets.binary_search(&offset).unwrap_or_default();
        self.found.get(index).copied().unwrap_or((1, 1))
    }
}

/// A text without the mark that some editors put before it.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Every byte but those that continue a character begins one.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_are_counted_from_one_in_characters() {
        let text = "\u{feff}aé\nb\r\n\u{1f600}c".as_bytes();
        let mut positions = Positions::default();
        let of = |what: &str| memchr::memmem::find(text, what.as_bytes()).unwrap();
        positions.add([of("é"), of("a"), of("b"), of("c")].into_iter());
        positions.find(text);
        for (what, place) in [("a", (1, 1)), ("é", (1, 2)), ("b", (2, 1)), ("c", (3, 2))] {
            assert_eq!(positions.of(of(what)), place, "{what}");
        }
    }
}
