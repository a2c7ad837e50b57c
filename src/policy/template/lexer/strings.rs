//! Strings, template literals and here-documents, and how to tell that one does not end.

use std::collections::HashMap;

use memchr::{memchr, memchr2, memchr3, memmem};

use super::{Dialect, Flaw, Kind, LONGEST_STRING, Lexer, LoneLine, is_blank, is_name};

impl<'a> Lexer<'a> {
    /// A string. It ends on its line; or on a later one, where what follows the quote can follow a string.
    pub(super) fn string(&mut self, start: usize, quote: u8) -> (Kind, usize, usize, usize) {
        let from = start + 1;
        let mut position = from;
        let mut line_end = None;
        loop {
            let rest = self.rest(position);
            let Some(next) = memchr3(quote, b'\\', b'\n', rest).map(|offset| position + offset) else { break };
            match self.at(next) {
                Some(b'\\') => position = next + 2,
                Some(b'\n') => {
                    line_end.get_or_insert(next);
                    position = next + 1;
                }
                _ => {
                    if line_end.is_none() || self.may_follow_text(next + 1) {
                        return (Kind::Text, from, next, next + 1);
                    }
                    break;
                }
            }
            if line_end.is_some_and(|line_end| {
                self.dialect == Dialect::Script || position - line_end > LONGEST_STRING.min(self.patience)
            }) {
                break;
            }
        }
        self.patience = self.patience.saturating_sub(position.saturating_sub(start));
        let end = line_end.unwrap_or(self.text.len());
        // An escaped line end is inside; the string goes on behind it, but not behind the text.
        let to = if self.at(end.wrapping_sub(1)) == Some(b'\r') && end > from { end - 1 } else { end };
        self.flaws.push((start, Flaw::Text));
        (Kind::Text, from, to.max(from), end)
    }

    /// Whether what stands here can follow a string: this tells the second quote of a long string from the first quote
    /// of the next one.
    pub(super) fn may_follow_text(&self, offset: usize) -> bool {
        match self.at(offset) {
            None => true,
            Some(byte) => {
                is_blank(byte) || matches!(byte, b'\n' | b',' | b')' | b']' | b'}' | b';' | b'#' | b'+' | b':')
            }
        }
    }

    /// A template literal, with whatever is nested in it.
    pub(super) fn quasi(&mut self, start: usize) -> (Kind, usize, usize, usize) {
        // How many braces are open in each `${` that is.
        let mut open: Vec<usize> = Vec::new();
        let mut literal = true;
        let mut position = start + 1;
        while let Some(byte) = self.at(position) {
            match (literal, byte) {
                (_, b'\\') => position += 1,
                (true, b'`') => match open.last() {
                    None => return (Kind::Quasi, start + 1, position, position + 1),
                    Some(_) => literal = false,
                },
                (true, b'$') if self.at(position + 1) == Some(b'{') => {
                    open.push(0);
                    literal = false;
                    position += 1;
                }
                (false, b'`') => {
                    // The nesting of literals is told by what they are nested in.
                    literal = true;
                }
                (false, b'{') => {
                    if let Some(braces) = open.last_mut() {
                        *braces += 1;
                    }
                }
                (false, b'}') => match open.last_mut() {
                    Some(braces) if *braces > 0 => *braces -= 1,
                    _ => {
                        open.pop();
                        literal = true;
                    }
                },
                (false, b'"' | b'\'') => {
                    let rest = self.rest(position + 1);
                    position += memchr2(byte, b'\n', rest).map_or(0, |length| length + 1);
                }
                _ => {}
            }
            position += 1;
        }
        self.flaws.push((start, Flaw::Text));
        let end = self.text.len();
        (Kind::Quasi, (start + 1).min(end), end, end)
    }

    /// `<<TAG`, `<<-TAG`, `<<~TAG`, the tag in quotes or not.
    pub(super) fn heredoc(&mut self, start: usize) -> Option<(Kind, usize, usize, usize)> {
        let rest = self.rest(start).strip_prefix(b"<<")?;
        let (indented, rest) = match rest.first()? {
            b'-' | b'~' => (true, rest.get(1..)?),
            _ => (false, rest),
        };
        let quote = rest.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
        let rest = if quote.is_some() { rest.get(1..)? } else { rest };
        let length = rest.iter().position(|byte| !is_name(*byte)).unwrap_or(rest.len());
        let (tag, behind) = rest.split_at_checked(length)?;
        let first = *tag.first()?;
        if first.is_ascii_digit() || quote.is_some_and(|quote| behind.first() != Some(&quote)) {
            return None;
        }
        // In a workflow `<<` appends to a list.
        if self.dialect == Dialect::Workflow && !indented && (quote.is_some() || !first.is_ascii_uppercase()) {
            return None;
        }
        let end = self.text.len() - behind.len() + usize::from(quote.is_some());
        // Several on one line follow each other.
        let line_end = memchr(b'\n', self.rest(end)).map_or(self.text.len(), |length| end + length + 1);
        let from = if self.place.resume > end { self.place.resume } else { line_end };
        match self.last_line(tag, from, indented) {
            Some((to, resume)) => {
                self.place.resume = resume;
                Some((Kind::Heredoc, from, to, end))
            }
            None => {
                self.flaws.push((start, Flaw::Heredoc));
                Some((Kind::Heredoc, from, from, end))
            }
        }
    }

    /// The next line that is this tag alone: where it begins, and where the line behind it does.
    pub(super) fn last_line(&mut self, tag: &'a [u8], from: usize, indented: bool) -> Option<(usize, usize)> {
        if self.lone_lines.as_ref().is_some_and(|lines| lines.get(tag).is_none_or(|line| line.any < from)) {
            return None;
        }
        for offset in memmem::find_iter(self.rest(from), tag) {
            let start = from + offset;
            let before = self.text.get(from..start).unwrap_or_default();
            let blanks = before.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let line = start - blanks;
            if line > from && self.at(line - 1) != Some(b'\n') {
                continue;
            }
            let after = start + tag.len();
            let behind = after + self.rest(after).iter().take_while(|byte| is_blank(**byte)).count();
            if !matches!(self.at(behind), None | Some(b'\n')) {
                continue;
            }
            // Without `-` and `~` the last line is not indented; where no such line comes, an indented one it is.
            if indented || blanks == 0 || !self.comes_flush(tag, start) {
                return Some((line, behind));
            }
        }
        self.lone_lines();
        None
    }

    pub(super) fn comes_flush(&mut self, tag: &[u8], from: usize) -> bool {
        self.lone_lines().get(tag).and_then(|line| line.flush).is_some_and(|flush| flush > from)
    }

    pub(super) fn lone_lines(&mut self) -> &HashMap<&'a [u8], LoneLine> {
        let (text, begin) = (self.text, self.begin);
        self.lone_lines.get_or_insert_with(|| lone_lines(text, begin))
    }
}

/// The lines that are nothing but a name, from an offset on.
fn lone_lines(text: &[u8], from: usize) -> HashMap<&[u8], LoneLine> {
    let mut lines: HashMap<&[u8], LoneLine> = HashMap::new();
    let mut start = from;
    while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        let whole = rest.get(..length).unwrap_or_default();
        let name = whole.trim_ascii();
        if !name.is_empty() && name.iter().all(|byte| is_name(*byte)) {
            let line = lines.entry(name).or_insert(LoneLine { flush: None, any: start });
            line.any = start + (length - whole.trim_ascii_start().len());
            if whole.starts_with(name) {
                line.flush = Some(start);
            }
        }
        start += length + 1;
    }
    lines
}
