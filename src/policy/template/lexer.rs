//! Cuts the text of a template into tokens: the template language itself, its workflow definitions, and the JavaScript of
//! its scripts, which share strings, names and marks and differ in their comments.

mod strings;

use std::collections::HashMap;
use std::ops::Range;

use memchr::{memchr, memmem};

/// Which of the three languages of a template a text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Blocks and their fields.
    Template,
    /// What stands in a `define`.
    Workflow,
    /// What stands in a script.
    Script,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name without a sigil, keywords included.
    Word,
    /// `$x`, `$$x`, `@x`; its content has no sigil.
    Variable,
    /// A string; its content is still escaped.
    Text,
    /// A here-document; its content is its lines.
    Heredoc,
    /// A template literal of JavaScript.
    Quasi,
    /// A number.
    Number,
    /// A regular expression.
    Pattern,
    /// `=`, and everything that ends in it and changes what stands before.
    Assign,
    /// `+`
    Plus,
    /// `||` and what is like it.
    Or,
    /// `=>`
    Arrow,
    /// `++` and `--`
    Increment,
    /// Any other operator of several characters, of which nobody needs to know more.
    Binary,
    /// A character that stands for itself.
    Mark(u8),
    /// The end of the text.
    End,
}

/// A piece of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it begins in the text.
    pub start: usize,
    /// Where its content begins.
    pub from: usize,
    /// Where its content ends.
    pub to: usize,
    /// It is the first one of its line.
    pub first: bool,
}

/// Something that is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A string without its second quote.
    Text,
    /// A here-document without its last line.
    Heredoc,
    /// A bracket without its second one.
    Bracket,
}

/// Where the lexer stands; small, so that it can be put back there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    position: usize,
    resume: usize,
    after_value: bool,
}

/// Cuts a text into tokens.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    dialect: Dialect,
    place: Place,
    /// What is wrong and where; the reader takes it from here.
    pub flaws: Vec<(usize, Flaw)>,
    /// How many bytes may still be looked through for the second quote of a string of several lines. Without a bound,
    /// a text full of single quotes would take quadratic time.
    patience: usize,
    /// Where it was begun to be read: what stands before is of no interest.
    begin: usize,
    /// The lines that are one name, found when a here-document may not end.
    lone_lines: Option<HashMap<&'a [u8], LoneLine>>,
    /// Where no regular expression ends, which is not looked for twice: a line may be a million slashes.
    no_pattern: Range<usize>,
}

/// The last places of a line that is one name.
#[derive(Debug, Clone, Copy)]
struct LoneLine {
    /// At the beginning of a line.
    flush: Option<usize>,
    /// Behind blanks, or not.
    any: usize,
}

/// How long a string of several lines may be.
const LONGEST_STRING: usize = 64 * 1024;

const NAME: u8 = 1;
const BLANK: u8 = 2;

/// What each byte can be part of: one look instead of several comparisons, for every byte there is.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 {
            classes[byte as usize] = NAME;
        } else if matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c) {
            classes[byte as usize] = BLANK;
        }
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

const fn is_name(byte: u8) -> bool {
    CLASSES[byte as usize] == NAME
}

const fn is_blank(byte: u8) -> bool {
    CLASSES[byte as usize] == BLANK
}

impl<'a> Lexer<'a> {
    /// Reads from a place of a text to the end of the text.
    pub(super) fn new(text: &'a [u8], from: usize, dialect: Dialect) -> Self {
        let place = Place { position: from, resume: 0, after_value: false };
        let patience = text.len().saturating_sub(from).saturating_mul(2);
        Self { text, dialect, place, flaws: Vec::new(), patience, begin: from, lone_lines: None, no_pattern: 0..0 }
    }

    /// The text it reads, to its end.
    pub(super) fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Which language it reads.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Stands where it stood.
    pub(super) fn back(&mut self, place: Place) {
        self.place = place;
    }

    /// Goes on behind this offset.
    pub(super) fn skip_to(&mut self, offset: usize) {
        self.place.position = offset;
        self.place.after_value = false;
    }

    /// Goes on at this offset, in another language.
    pub(super) fn switch(&mut self, dialect: Dialect, offset: usize) {
        self.dialect = dialect;
        self.skip_to(offset);
    }

    /// Reads a part of the text as if nothing came behind it; returns what to give to [`Lexer::leave`].
    pub(super) fn enter(&mut self, from: usize, to: usize) -> (&'a [u8], Place) {
        let outside = (self.text, self.place);
        self.text = outside.0.get(..to).unwrap_or(outside.0);
        self.place = Place { position: from, resume: 0, after_value: false };
        outside
    }

    /// Reads the whole text again.
    pub(super) fn leave(&mut self, outside: (&'a [u8], Place)) {
        (self.text, self.place) = outside;
    }

    /// The next byte that is no blank, on the same line.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest(self.place.position).iter().copied().find(|byte| !is_blank(*byte))
    }

    fn at(&self, offset: usize) -> Option<u8> {
        self.text.get(offset).copied()
    }

    fn rest(&self, offset: usize) -> &'a [u8] {
        self.text.get(offset..).unwrap_or_default()
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Token {
        let first = self.skip_blanks();
        let start = self.place.position;
        let Some(byte) = self.at(start) else {
            return Token { kind: Kind::End, start, from: start, to: start, first: true };
        };
        let (kind, from, to, end) = match byte {
            _ if is_name(byte) && !byte.is_ascii_digit() => self.word(start),
            b'0'..=b'9' => self.run(Kind::Number, start, |byte| is_name(byte) || byte == b'.'),
            b'"' | b'\'' => self.string(start, byte),
            b'(' | b')' | b'[' | b']' | b'{' | b'}' | b',' | b';' | b':' => (Kind::Mark(byte), start, start, start + 1),
            b'$' | b'@' => self.variable(start),
            b'`' if self.dialect == Dialect::Script => self.quasi(start),
            b'/' if self.expects_pattern() => {
                self.pattern(start).unwrap_or((Kind::Mark(b'/'), start, start, start + 1))
            }
            b'<' if self.dialect != Dialect::Script => self.heredoc(start).unwrap_or_else(|| self.operator(start)),
            _ => self.operator(start),
        };
        self.place.position = end;
        self.place.after_value = match kind {
            Kind::Mark(mark) => matches!(mark, b')' | b']' | b'}'),
            Kind::Word => !self.is_operator_word(from, to),
            Kind::Variable | Kind::Text | Kind::Heredoc | Kind::Quasi | Kind::Number | Kind::Pattern => true,
            _ => false,
        };
        Token { kind, start, from, to, first }
    }

    /// Skips blanks, comments and line ends; whether a line ended.
    fn skip_blanks(&mut self) -> bool {
        let text = self.text;
        let mut position = self.place.position;
        let mut first = position == 0;
        while let Some(&byte) = text.get(position) {
            match byte {
                _ if is_blank(byte) => position += 1,
                b'\n' => {
                    first = true;
                    // Where a here-document began, the text goes on behind its last line.
                    position = self.place.resume.max(position + 1);
                }
                b'#' if self.dialect != Dialect::Script => position = self.line_end(position),
                b'/' if self.dialect == Dialect::Script => match text.get(position + 1) {
                    Some(b'/') => position = self.line_end(position),
                    Some(b'*') => {
                        let end = memmem::find(self.rest(position + 2), b"*/");
                        position = end.map_or(text.len(), |end| position + 2 + end + 2);
                    }
                    _ => break,
                },
                _ => break,
            }
        }
        self.place.position = position;
        first
    }

    fn line_end(&self, from: usize) -> usize {
        memchr(b'\n', self.rest(from)).map_or(self.text.len(), |length| from + length)
    }

    fn run(&self, kind: Kind, from: usize, is: impl Fn(u8) -> bool) -> (Kind, usize, usize, usize) {
        let rest = self.rest(from);
        let end = from + rest.iter().position(|byte| !is(*byte)).unwrap_or(rest.len());
        (kind, from, end, end)
    }

    fn word(&self, start: usize) -> (Kind, usize, usize, usize) {
        let script = self.dialect == Dialect::Script;
        let (kind, from, mut to, mut end) =
            self.run(Kind::Word, start, |byte| is_name(byte) || (script && byte == b'$'));
        // Functions such as `include?(…)`.
        if !script && self.at(end) == Some(b'?') && self.at(end + 1) == Some(b'(') {
            (to, end) = (to + 1, end + 1);
        }
        (kind, from, to, end)
    }

    fn variable(&self, start: usize) -> (Kind, usize, usize, usize) {
        if self.dialect == Dialect::Script {
            return match self.at(start) {
                Some(b'$') => self.run(Kind::Word, start, |byte| is_name(byte) || byte == b'$'),
                _ => self.operator(start),
            };
        }
        let sigil = self.at(start);
        let from = if self.at(start + 1) == sigil { start + 2 } else { start + 1 };
        match self.at(from) {
            Some(byte) if is_name(byte) => self.run(Kind::Variable, from, is_name),
            _ => self.operator(start),
        }
    }

    fn is_operator_word(&self, from: usize, to: usize) -> bool {
        let word = self.text.get(from..to).unwrap_or_default();
        match self.dialect {
            Dialect::Script => {
                matches!(
                    word,
                    b"return" | b"typeof" | b"case" | b"in" | b"of" | b"delete" | b"void" | b"else" | b"do" | b"new"
                )
            }
            // A field's name, before its value.
            Dialect::Template => true,
            Dialect::Workflow => false,
        }
    }

    fn expects_pattern(&self) -> bool {
        !self.place.after_value
    }

    /// A regular expression, if one ends on this line. Where one did not, none is looked for on the rest of the line.
    fn pattern(&mut self, start: usize) -> Option<(Kind, usize, usize, usize)> {
        if self.no_pattern.contains(&start) {
            return None;
        }
        let mut position = start + 1;
        let mut in_class = false;
        loop {
            match self.at(position) {
                None | Some(b'\n') => {
                    self.no_pattern = start..position;
                    return None;
                }
                Some(byte) => match byte {
                    b'\\' if self.at(position + 1) != Some(b'\n') => position += 1,
                    b'[' => in_class = true,
                    b']' => in_class = false,
                    b'/' if !in_class => break,
                    _ => {}
                },
            }
            position += 1;
        }
        let (_, _, _, end) = self.run(Kind::Pattern, position + 1, |byte| byte.is_ascii_alphabetic());
        Some((Kind::Pattern, start, end, end))
    }

    fn operator(&self, start: usize) -> (Kind, usize, usize, usize) {
        let three = self.text.get(start..start + 3).unwrap_or_default();
        let two = self.text.get(start..start + 2).unwrap_or_default();
        let (kind, length) = match (three, two) {
            (b"===" | b"!==" | b"...", _) => (Kind::Binary, 3),
            (_, b"==" | b"!=" | b"<=" | b">=" | b"=~" | b"!~" | b"&&" | b"<<" | b">>" | b"**" | b"..") => {
                (Kind::Binary, 2)
            }
            (_, b"||" | b"??") => (Kind::Or, 2),
            (_, b"=>") => (Kind::Arrow, 2),
            (_, b"++" | b"--") => (Kind::Increment, 2),
            (_, b"+=" | b"-=" | b"*=" | b"/=" | b"%=" | b"|=" | b"&=") => (Kind::Assign, 2),
            _ => match self.at(start) {
                Some(b'=') => (Kind::Assign, 1),
                Some(b'+') => (Kind::Plus, 1),
                Some(byte) => (Kind::Mark(byte), 1),
                None => (Kind::End, 0),
            },
        };
        (kind, start, start + length, start + length)
    }
}
