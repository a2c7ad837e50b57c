//! Cuts a template into its blocks and reads the fields of those that matter.

mod declarations;
mod fields;
mod sources;

use std::collections::{HashMap, HashSet};

use memchr::memchr;

use self::fields::plain;
use super::heap::Heap;
use super::lexer::{Dialect, Flaw, Kind, Token};
use super::machine::Machine;
use super::positions::without_mark;
use super::request::Request;
use super::value::Value;
use crate::policy::declared::{Block, Parameter};

/// How far is looked to tell a block from a field of the same name.
const HEADER: usize = 512;
/// How many errors are collected; of more, only the number is of interest.
const MOST_NOTED: usize = 10_000;

/// What a template has, by offsets.
#[derive(Debug, Default)]
pub(super) struct Notes<'a> {
    /// What it calls itself.
    pub name: Option<String>,
    /// Its `credentials` blocks and where they begin.
    pub blocks: Vec<(Block, usize)>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// The requests of its datasources; certainly requests.
    pub requests: Vec<(Request<'a>, bool)>,
    /// Its scripts.
    pub scripts: Vec<Script<'a>>,
    /// Where the bodies of those workflow definitions stand that may send something.
    pub definitions: Vec<(usize, usize)>,
    /// The names of `auth` blocks, which hold their own secrets.
    pub legacy: HashSet<&'a [u8]>,
    /// Where blocks, and requests that say their block, begin and end, with the block's name.
    pub extents: Vec<(usize, usize, String)>,
    /// The paginations whose next address comes from the answer.
    pub followed: HashSet<&'a [u8]>,
    /// What is wrong: where, and what block it is about.
    pub issues: Vec<(usize, Option<String>, String)>,
}

impl Notes<'_> {
    /// Something is wrong here.
    pub(super) fn issue(&mut self, at: usize, message: impl FnOnce() -> String) {
        if self.issues.len() < MOST_NOTED {
            self.issues.push((at, None, message()));
        }
    }

    /// Tells of what is wrong so far which block it is about: the one in whose extent it stands.
    fn tell_blocks(&mut self, names: &HashSet<String>) {
        self.extents.retain(|(_, _, name)| names.contains(name));
        self.extents.sort();
        for (at, block, _) in &mut self.issues {
            let behind = self.extents.partition_point(|(from, _, _)| from <= at);
            let extent = self.extents.get(..behind).and_then(<[_]>::last);
            *block = extent.filter(|(_, to, _)| *at < *to).map(|(_, _, name)| name.clone());
        }
    }

    /// What is wrong with tokens.
    pub(super) fn flaws(&mut self, flaws: Vec<(usize, Flaw)>) {
        for (at, flaw) in flaws {
            let message = match flaw {
                Flaw::Text => "this string is not ended: its second quote is missing",
                Flaw::Heredoc => "this text is not ended: no line is its end mark alone",
                Flaw::Bracket => "this bracket is not closed",
            };
            self.issue(at, || message.into());
        }
    }
}

/// A script.
#[derive(Debug, Default)]
pub(super) struct Script<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where it begins.
    pub at: usize,
    /// What its parameters are called.
    pub parameters: Vec<&'a [u8]>,
    /// The variable that it leaves.
    pub result: Option<&'a [u8]>,
    /// Where its text stands.
    pub code: Option<(usize, usize)>,
    /// Who runs it.
    pub callers: Vec<Caller<'a>>,
}

/// One that runs a script.
#[derive(Debug, Default)]
pub(super) struct Caller<'a> {
    /// What it gives.
    pub arguments: Vec<Value<'a>>,
    /// It is a request, which asks what to be.
    pub asks: bool,
    /// What authenticates that request.
    pub auth: Option<(Value<'a>, usize)>,
}

impl<'a> Caller<'a> {
    /// Whether another one gives the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let auth = |caller: &Self| caller.auth.as_ref().map(|(value, _)| value.texts());
        let texts = |caller: &Self| caller.arguments.iter().map(Value::texts).collect::<Vec<_>>();
        auth(self) == auth(other) && texts(self) == texts(other)
    }

    /// Gives what this one or another one gives.
    pub(super) fn merge(&mut self, other: Self, heap: &mut Heap<'a>) {
        self.asks |= other.asks;
        self.auth = match (self.auth.take(), other.auth) {
            (Some((one, at)), Some((two, _))) => Some((heap.either(&one, &two), at)),
            (one, two) => one.or(two),
        };
        for (one, two) in self.arguments.iter_mut().zip(&other.arguments) {
            *one = heap.either(one, two);
        }
    }
}

/// Who runs a script.
struct Run<'a> {
    script: &'a [u8],
    caller: Caller<'a>,
}

/// Reads a template from its first token to its last.
pub(super) struct Reader<'a> {
    machine: Machine<'a>,
    notes: Notes<'a>,
    runs: Vec<Run<'a>>,
    names: HashSet<String>,
    parameter_names: HashSet<String>,
}

impl<'a> Reader<'a> {
    /// Reads this text.
    pub(super) fn new(text: &'a [u8]) -> Self {
        let from = text.len() - without_mark(text).len();
        Self {
            machine: Machine::new(text, from, Dialect::Template),
            notes: Notes::default(),
            runs: Vec::new(),
            names: HashSet::new(),
            parameter_names: HashSet::new(),
        }
    }

    /// What it has.
    pub(super) fn read(mut self) -> Notes<'a> {
        while self.machine.token.kind != Kind::End {
            self.statement();
        }
        self.notes.flaws(std::mem::take(&mut self.machine.lexer.flaws));
        self.hand_over();
        self.notes.tell_blocks(&self.names);
        self.notes
    }

    /// Gives the scripts what those that run them say.
    fn hand_over(&mut self) {
        let mut by_name: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (index, script) in self.notes.scripts.iter().enumerate() {
            by_name.entry(script.name).or_default().push(index);
        }
        for run in std::mem::take(&mut self.runs) {
            // Of two scripts with one name, the last is meant.
            let index = by_name.get(run.script).and_then(|indices| indices.last());
            let Some(script) = index.and_then(|index| self.notes.scripts.get_mut(*index)) else { continue };
            script.callers.push(run.caller);
        }
    }

    fn issue(&mut self, at: usize, message: impl Into<String>) {
        self.notes.issue(at, || message.into());
    }

    fn advance(&mut self) -> Token {
        self.machine.advance()
    }

    fn skip_token(&mut self) {
        self.advance();
    }

    fn shown(&self, token: Token) -> String {
        String::from_utf8_lossy(self.machine.content(token)).into_owned()
    }

    /// A statement at the top.
    fn statement(&mut self) {
        match self.machine.word() {
            Some(b"credentials") => self.block(Self::credentials),
            Some(b"parameter") => self.block(Self::parameter),
            Some(b"datasource") => self.block(|reader, open, _| reader.datasource(open)),
            Some(b"script") => self.block(Self::script),
            Some(b"pagination") => self.block(Self::pagination),
            Some(b"define") => self.definition(),
            Some(b"auth") => {
                self.advance();
                if matches!(self.machine.token.kind, Kind::Text | Kind::Word) {
                    self.notes.legacy.insert(self.machine.content(self.machine.token));
                }
                self.skip_statement();
            }
            Some(b"name") => {
                self.advance();
                if self.machine.token.kind == Kind::Text && self.notes.name.is_none() {
                    self.notes.name = plain(&self.machine.expression());
                } else {
                    self.skip_statement();
                }
            }
            // What is left of something else.
            Some(b"end") => self.skip_token(),
            _ if self.machine.is(b';') => self.skip_token(),
            _ => {
                self.advance();
                self.skip_statement();
            }
        }
    }

    /// The header of a block with a name, then its body.
    fn block(&mut self, body: impl FnOnce(&mut Self, Token, &'a [u8])) {
        let open = self.advance();
        let kind = self.shown(open);
        let named = matches!(self.machine.token.kind, Kind::Text | Kind::Word | Kind::Variable)
            && !(self.machine.token.first || self.machine.is_end());
        if !named {
            self.issue(open.start, format!("`{kind}` has no name: write `{kind} \"name\" do`"));
            return self.skip_statement();
        }
        let token = self.advance();
        let name = self.machine.content(token);
        // `script "js_x", type: "javascript" do`
        while !self.machine.token.first && !self.machine.is_end() && !self.machine.is(b';') {
            self.advance();
        }
        if self.machine.word() != Some(b"do") {
            self.issue(open.start, format!("`{kind}` has no body: write `{kind} \"name\" do`, and `end` behind it"));
            return;
        }
        self.advance();
        body(self, open, name);
    }

    /// Skips to the next statement, with the block that this one may have.
    fn skip_statement(&mut self) {
        let mut open = 0_usize;
        loop {
            let token = self.machine.token;
            match token.kind {
                Kind::End => return,
                _ if token.first && (open == 0 || self.begins_block()) => return,
                Kind::Mark(b'(' | b'[' | b'{') => open += 1,
                Kind::Mark(b')' | b']' | b'}') => open = open.saturating_sub(1),
                Kind::Mark(b';') if open == 0 => {
                    self.advance();
                    return;
                }
                Kind::Word if self.machine.word() == Some(b"do") => {
                    self.advance();
                    return self.skip_block(token);
                }
                _ => {}
            }
            self.advance();
        }
    }

    /// Skips the rest of a block, behind its `end`.
    fn skip_block(&mut self, open: Token) {
        let mut depth = 1_usize;
        while depth > 0 {
            if !self.goes_on(open) {
                return;
            }
            let token = self.advance();
            if token.kind == Kind::Word {
                match self.machine.content(token) {
                    b"do" => depth += 1,
                    b"end" => depth -= 1,
                    _ => {}
                }
            }
        }
    }

    /// Whether a block goes on; notes that it does not end where the text does, or another block begins.
    fn goes_on(&mut self, open: Token) -> bool {
        let ended = self.machine.token.kind == Kind::End || (self.machine.token.first && self.begins_block());
        if ended {
            self.issue(open.start, "this block is not ended: its `end` is missing");
        }
        !ended
    }

    /// Whether a block begins here that stands in no other block.
    fn begins_block(&self) -> bool {
        let Some(word) = self.machine.word() else { return false };
        let text = self.machine.lexer.text();
        let line = text.get(self.machine.token.to..).unwrap_or_default();
        let line = line.get(..HEADER).unwrap_or(line);
        let line = line.get(..memchr(b'\n', line).unwrap_or(line.len())).unwrap_or_default();
        let header = line.trim_ascii_start();
        match word {
            b"define" => header.len() < line.len() && header.first().is_some_and(u8::is_ascii_alphabetic),
            b"credentials" | b"datasource" | b"script" | b"parameter" | b"policy" | b"escalation" | b"pagination"
            | b"resources" | b"auth" => {
                let Some(quote) = header.first().filter(|byte| matches!(byte, b'"' | b'\'')) else { return false };
                let rest = header.get(1..).unwrap_or_default();
                let Some(end) = memchr(*quote, rest) else { return false };
                let behind = rest.get(end + 1..).unwrap_or_default().trim_ascii_start();
                behind.starts_with(b",") || (behind.starts_with(b"do") && word != b"auth")
            }
            _ => false,
        }
    }
}
