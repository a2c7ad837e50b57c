//! Cuts a template into its blocks and reads the fields of those that matter.

use std::collections::{HashMap, HashSet};

use memchr::{memchr, memmem};

use super::lexer::{Dialect, Flaw, Kind, Token};
use super::machine::Machine;
use super::positions::without_mark;
use super::request::{Request, may_be};
use super::tag;
use super::value::Value;
use crate::policy::declared::{Block, Parameter};
use crate::policy::fold_scheme;

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
    /// What is wrong, and where.
    pub issues: Vec<(usize, String)>,
}

impl Notes<'_> {
    /// Something is wrong here.
    pub(super) fn issue(&mut self, at: usize, message: impl FnOnce() -> String) {
        if self.issues.len() < MOST_NOTED {
            self.issues.push((at, message()));
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
    /// A request asks it what to be.
    pub asked: bool,
    /// What it is given, from all that run it.
    pub arguments: Vec<Value<'a>>,
    /// What authenticates the request that asks it.
    pub auth: Option<(Value<'a>, usize)>,
}

/// Who runs a script.
struct Run<'a> {
    script: &'a [u8],
    arguments: Vec<Value<'a>>,
    asks: bool,
    auth: Option<(Value<'a>, usize)>,
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
            script.asked |= run.asks;
            script.auth = script.auth.take().or(run.auth);
            for (place, argument) in run.arguments.into_iter().enumerate().take(script.parameters.len()) {
                match script.arguments.get_mut(place) {
                    Some(known) => *known = self.machine.heap.either(known, &argument),
                    None => script.arguments.push(argument),
                }
            }
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
            b"define" => header.len() < line.len() && header.first().is_some_and(|byte| byte.is_ascii_alphabetic()),
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

    /// The next field of a block: its name. Goes behind the `end` when there is none.
    fn field(&mut self, open: Token) -> Option<Token> {
        loop {
            if !self.goes_on(open) {
                return None;
            }
            let token = self.advance();
            if token.kind == Kind::Word {
                match self.machine.content(token) {
                    b"end" => return None,
                    b"do" => self.skip_block(token),
                    _ => return Some(token),
                }
            }
        }
    }

    /// The texts of a field, with commas between them, in quotes or not.
    fn texts(&mut self, fields: &[&[u8]]) -> Vec<(Value<'a>, Token)> {
        self.values(fields, Some(b",;\n#"))
    }

    /// The values of a field, with commas between them; without quotes up to one of these characters, if at all.
    fn values(&mut self, fields: &[&[u8]], bare: Option<&[u8]>) -> Vec<(Value<'a>, Token)> {
        let mut values = Vec::new();
        let mut first = true;
        loop {
            let token = self.machine.token;
            let word = self.machine.word();
            if self.machine.is_end() || (first && token.first) {
                return values;
            }
            // A comma too many, before the next field.
            if !first && token.first && word.is_some_and(|word| fields.contains(&word)) {
                return values;
            }
            first = false;
            let calls = word.is_some() && self.machine.lexer.peek() == Some(b'(');
            match token.kind {
                Kind::Word if bare.is_some() && !calls => {
                    values.push((self.bare(fields, bare.unwrap_or_default()), token));
                }
                Kind::Mark(b':') => {
                    self.advance();
                    continue;
                }
                Kind::Mark(b',' | b';' | b')' | b']' | b'}') => {}
                _ => match self.machine.expression() {
                    Value::List(from, length) => {
                        values.extend(self.machine.heap.items(from, length).iter().map(|item| (item.clone(), token)));
                    }
                    value => values.push((value, token)),
                },
            }
            let follows = matches!(self.machine.token.kind, Kind::Text | Kind::Heredoc) && !self.machine.token.first;
            if !self.machine.eat(b',') && !follows {
                return values;
            }
        }
    }

    /// A value without quotes: up to one of these characters, or to the next field on the same line.
    fn bare(&mut self, fields: &[&[u8]], until: &[u8]) -> Value<'a> {
        let text = self.machine.lexer.text();
        let from = self.machine.token.start;
        let rest = text.get(from..).unwrap_or_default();
        let length = rest.iter().position(|byte| until.contains(byte)).unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        let mut end = 0;
        for word in line.split_inclusive(u8::is_ascii_whitespace) {
            let bare = word.trim_ascii();
            if end > 0 && (bare == b"end" || fields.contains(&bare)) {
                break;
            }
            end += word.len();
        }
        self.machine.lexer.skip_to(from + end);
        self.advance();
        Value::Literal(line.get(..end).unwrap_or_default().trim_ascii())
    }

    /// `credentials "auth_x" do … end`
    fn credentials(&mut self, open: Token, name: &'a [u8]) {
        const FIELDS: &[&[u8]] =
            &[b"schemes", b"scheme", b"label", b"description", b"tags", b"aws_account_number", b"end"];
        let mut block = Block { name: String::from_utf8_lossy(name).into_owned(), ..Block::default() };
        while let Some(field) = self.field(open) {
            let called = self.machine.content(field);
            if !FIELDS.contains(&called) {
                let called = self.shown(field);
                self.issue(field.start, format!("a `credentials` block has no field `{called}`"));
                self.texts(FIELDS);
                continue;
            }
            let sentence = matches!(called, b"label" | b"description");
            let values = self.values(FIELDS, Some(if sentence { b";\n#" } else { b",;\n#" }));
            match called {
                b"schemes" | b"scheme" => {
                    for (value, token) in values {
                        match plain(&value) {
                            Some(scheme) => {
                                let scheme = fold_scheme(&scheme);
                                if !scheme.is_empty() && !block.schemes.contains(&scheme) {
                                    block.schemes.push(scheme);
                                }
                            }
                            None => self.issue(token.start, "a scheme is a text such as \"oauth2\""),
                        }
                    }
                }
                b"tags" => {
                    for (value, token) in values {
                        match plain(&value) {
                            Some(text) if text.trim().is_empty() || tag(&text, &mut block.tags) => {}
                            _ => self.issue(token.start, "a tag is a text such as \"provider=aws\""),
                        }
                    }
                }
                b"aws_account_number" => block.account_number = self.account(&values),
                b"label" => block.label = self.text(&values, "label"),
                _ => block.description = self.text(&values, "description"),
            }
        }
        if block.schemes.is_empty() {
            let message = format!("`{}` names no scheme: write `schemes \"oauth2\"` or another", block.name);
            self.issue(open.start, message);
        }
        if block.name.is_empty() {
            self.issue(open.start, "`credentials` has no name: write `credentials \"name\" do`");
        } else if self.names.insert(block.name.clone()) {
            self.notes.blocks.push((block, open.start));
        } else {
            self.issue(open.start, format!("there is another `credentials` block called `{}`", block.name));
        }
    }

    fn text(&mut self, values: &[(Value<'a>, Token)], field: &str) -> Option<String> {
        let (value, token) = values.first()?;
        let text = plain(value);
        match &text {
            None => self.issue(token.start, format!("`{field}` is a text in quotes")),
            Some(_) if token.kind == Kind::Heredoc => return Some(self.heredoc(*token)),
            Some(_) => {}
        }
        text
    }

    /// The lines of a here-document; with `~`, without what all of them are indented by.
    fn heredoc(&self, token: Token) -> String {
        let text = String::from_utf8_lossy(self.machine.content(token)).replace("\r\n", "\n");
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if self.machine.lexer.text().get(token.start + 2) != Some(&b'~') {
            return text.to_owned();
        }
        let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
        let common = text.lines().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(|line| line.get(common..).unwrap_or_default()).collect();
        lines.join("\n")
    }

    fn account(&mut self, values: &[(Value<'a>, Token)]) -> Option<String> {
        let (value, token) = values.first()?;
        match value {
            Value::Named(name) => Some(format!("${}", String::from_utf8_lossy(name))),
            _ => match plain(value) {
                Some(number) if number.trim().is_empty() => None,
                Some(number) => Some(number.trim().to_owned()),
                None => {
                    self.issue(
                        token.start,
                        "`aws_account_number` is a parameter such as $param_aws_account_number, or digits",
                    );
                    None
                }
            },
        }
    }

    /// `parameter "param_x" do … end`
    fn parameter(&mut self, open: Token, name: &'a [u8]) {
        const FIELDS: &[&[u8]] = &[
            b"type",
            b"category",
            b"label",
            b"description",
            b"default",
            b"no_echo",
            b"allowed_values",
            b"min_length",
            b"max_length",
            b"min_value",
            b"max_value",
            b"allowed_pattern",
            b"constraint_description",
            b"end",
        ];
        let mut parameter = Parameter { name: String::from_utf8_lossy(name).into_owned(), ..Parameter::default() };
        while let Some(field) = self.field(open) {
            match self.machine.content(field) {
                b"default" => {
                    let list = self.machine.is(b'[');
                    let values = self.texts(FIELDS);
                    parameter.default = values.first().filter(|_| !list).and_then(|(value, _)| plain(value));
                }
                b"allowed_values" => {
                    let values = self.texts(FIELDS);
                    parameter.allowed = values.iter().filter_map(|(value, _)| plain(value)).collect();
                }
                _ => self.skip_field(FIELDS),
            }
        }
        if self.parameter_names.insert(parameter.name.clone()) {
            self.notes.parameters.push(parameter);
        }
    }

    /// Skips what a field says.
    fn skip_field(&mut self, fields: &[&[u8]]) {
        let mut open = 0_usize;
        let mut comma = false;
        loop {
            let token = self.machine.token;
            match token.kind {
                Kind::End => return,
                Kind::Word if self.machine.is_end() => return,
                _ if token.first && self.begins_block() => return,
                _ if token.first && open == 0 && !comma => return,
                Kind::Word if open == 0 && self.machine.word().is_some_and(|word| fields.contains(&word)) => return,
                Kind::Mark(b'(' | b'[' | b'{') => open += 1,
                Kind::Mark(b')' | b']' | b'}') => open = open.saturating_sub(1),
                Kind::Mark(b';') if open == 0 => return,
                _ => {}
            }
            comma = token.kind == Kind::Mark(b',');
            self.advance();
        }
    }

    /// `datasource "ds_x" do … end`: its request, or the script that it runs.
    fn datasource(&mut self, open: Token) {
        const FIELDS: &[&[u8]] = &[b"iterate", b"request", b"result", b"run_script", b"field", b"end"];
        let mut depth = 1_usize;
        while depth > 0 {
            if !self.goes_on(open) {
                return;
            }
            let token = self.advance();
            if token.kind != Kind::Word {
                continue;
            }
            match self.machine.content(token) {
                b"do" => depth += 1,
                b"end" => depth -= 1,
                b"request" if depth == 1 && self.machine.word() == Some(b"do") => {
                    self.advance();
                    self.request(token);
                }
                b"run_script" if depth == 1 => self.run_script(FIELDS, false),
                _ => {}
            }
        }
    }

    /// `request do … end`
    fn request(&mut self, open: Token) {
        const FIELDS: &[&[u8]] = &[
            b"auth",
            b"verb",
            b"scheme",
            b"host",
            b"path",
            b"url",
            b"run_script",
            b"query",
            b"header",
            b"body_field",
            b"body",
            b"pagination",
            b"ignore_status",
            b"end",
        ];
        let mut request = Request { at: open.start, ..Request::default() };
        let runs = self.runs.len();
        while let Some(field) = self.field(open) {
            let name = self.machine.content(field);
            if !matches!(name, b"auth" | b"verb" | b"scheme" | b"host" | b"path" | b"url" | b"run_script") {
                self.skip_field(FIELDS);
                continue;
            }
            if name == b"run_script" {
                self.run_script(FIELDS, true);
                continue;
            }
            if self.machine.token.first || self.machine.is_end() {
                continue;
            }
            let value = Some(self.machine.expression());
            match name {
                b"auth" => request.auth = value.map(|value| (value, field.start)),
                b"verb" => request.verb = value,
                b"scheme" => request.cleartext = value.is_some_and(|scheme| may_be(&scheme, b"http")),
                b"host" => request.host = value,
                b"path" => request.path = value,
                _ => request.url = value,
            }
        }
        // Otherwise the script says everything.
        if self.runs.len() == runs {
            self.notes.requests.push((request, true));
        } else if let Some(run) = self.runs.last_mut() {
            run.auth = request.auth;
        }
    }

    /// `run_script $js_x, arguments`
    fn run_script(&mut self, fields: &[&[u8]], asks: bool) {
        let mut values = self.values(fields, None).into_iter();
        if let Some((Value::Named(script) | Value::Literal(script), _)) = values.next() {
            let arguments = values.map(|(value, _)| value).collect();
            self.runs.push(Run { script, arguments, asks, auth: None });
        }
    }

    /// `script "js_x", type: "javascript" do … end`
    fn script(&mut self, open: Token, name: &'a [u8]) {
        const FIELDS: &[&[u8]] = &[b"parameters", b"result", b"code", b"end"];
        let mut script = Script { name, at: open.start, ..Script::default() };
        while let Some(field) = self.field(open) {
            match self.machine.content(field) {
                b"parameters" => {
                    let values = self.texts(FIELDS);
                    script.parameters = values.into_iter().filter_map(|(value, _)| word(&value)).collect();
                }
                b"result" => script.result = self.texts(FIELDS).first().and_then(|(value, _)| word(value)),
                b"code" => {
                    let token = self.machine.token;
                    if matches!(token.kind, Kind::Text | Kind::Heredoc) {
                        self.advance();
                        script.code = Some((token.from, token.to));
                    }
                }
                _ => self.skip_field(FIELDS),
            }
        }
        self.notes.scripts.push(script);
    }

    /// `define x($a) return $b do … end`
    fn definition(&mut self) {
        let open = self.advance();
        while self.machine.word() != Some(b"do") {
            if self.machine.token.first && (self.machine.token.kind == Kind::End || self.begins_block()) {
                self.issue(open.start, "`define` has no body: write `define name() do`, and `end` behind it");
                return;
            }
            self.advance();
        }
        // What stands in a definition is of another language.
        let from = self.machine.token.to;
        self.machine.lexer.switch(Dialect::Workflow, from);
        self.advance();
        let to = self.definition_end(open);
        let end = self.machine.token.start;
        self.machine.lexer.switch(Dialect::Template, end);
        self.advance();
        if may_send(self.machine.lexer.text().get(from..to).unwrap_or_default()) {
            self.notes.definitions.push((from, to));
        }
    }

    /// Where the body of a definition ends; the token behind it comes next.
    fn definition_end(&mut self, open: Token) -> usize {
        let mut depth = 1_usize;
        let mut begins = true;
        loop {
            if !self.goes_on(open) {
                return self.machine.token.start;
            }
            let token = self.advance();
            let word =
                if token.kind == Kind::Word && !self.machine.is(b':') { self.machine.content(token) } else { b"" };
            match word {
                b"do" => depth += 1,
                b"if" if begins || token.first => depth += 1,
                b"end" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return token.start;
            }
            begins = matches!(word, b"do" | b"else") || token.kind == Kind::Mark(b';');
        }
    }
}

/// A value that is one text.
fn plain(value: &Value<'_>) -> Option<String> {
    value.literal().map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// A value that is one text without escapes.
fn word<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    match value {
        Value::Literal(text) => Some(text),
        _ => None,
    }
}

/// Whether a text may hold a call that sends something.
fn may_send(text: &[u8]) -> bool {
    memmem::find(text, b"http_").is_some() || memmem::find(text, b"auth").is_some()
}
