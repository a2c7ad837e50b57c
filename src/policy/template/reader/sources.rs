//! Where a template sends requests: its datasources, the scripts that make them, and its workflow definitions.

use memchr::memmem;

use super::super::lexer::{Dialect, Kind, Token};
use super::super::request::{Request, may_be, names};
use super::super::value::Value;
use super::fields::word;
use super::{Caller, Reader, Run, Script};

impl<'a> Reader<'a> {
    /// `datasource "ds_x" do … end`: its request, or the script that it runs.
    pub(super) fn datasource(&mut self, open: Token) {
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
    pub(super) fn request(&mut self, open: Token) {
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
            if !matches!(
                name,
                b"auth" | b"verb" | b"scheme" | b"host" | b"path" | b"url" | b"pagination" | b"run_script"
            ) {
                self.skip_field(FIELDS);
                continue;
            }
            if name == b"run_script" {
                self.run_script(FIELDS, true);
                continue;
            }
            // On the next line stands its value, or the next field.
            let is_field = self.machine.token.first && self.machine.word().is_some_and(|word| FIELDS.contains(&word));
            if is_field || self.machine.is_end() || self.machine.token.kind == Kind::End {
                let called = self.shown(field);
                self.issue(field.start, format!("`{called}` has no value"));
                continue;
            }
            let value = Some(self.machine.expression());
            match name {
                b"auth" => request.auth = value.map(|value| (value, field.start)),
                b"verb" => request.verb = value,
                b"scheme" => request.cleartext = value.is_some_and(|scheme| may_be(&scheme, b"http")),
                b"host" => request.host = value,
                b"path" => request.path = value,
                b"pagination" => request.pagination = value,
                _ => request.url = value,
            }
        }
        let blocks = request.auth.as_ref().map(|(value, _)| names(value)).unwrap_or_default();
        let end = self.machine.token.start;
        let extents = blocks.into_iter().flatten().map(|(name, _)| (open.start, end, name));
        self.notes.extents.extend(extents);
        // Otherwise the script says everything.
        if self.runs.len() == runs {
            self.notes.requests.push((request, true));
        } else if let Some(run) = self.runs.last_mut() {
            run.caller.auth = request.auth;
        }
    }

    /// `pagination "pagination_x" do … end`: whether the next page's address comes from the answer, `uri true`.
    pub(super) fn pagination(&mut self, open: Token, name: &'a [u8]) {
        let mut depth = 1_usize;
        while depth > 0 && self.goes_on(open) {
            let token = self.advance();
            if token.kind != Kind::Word {
                continue;
            }
            match self.machine.content(token) {
                b"do" => depth += 1,
                b"end" => depth -= 1,
                b"uri" if self.machine.word() == Some(b"true") => drop(self.notes.followed.insert(name)),
                _ => {}
            }
        }
    }

    /// `run_script $js_x, arguments`
    pub(super) fn run_script(&mut self, fields: &[&[u8]], asks: bool) {
        let mut values = self.values(fields, None).into_iter();
        if let Some((Value::Named(script) | Value::Literal(script), _)) = values.next() {
            let arguments = values.map(|(value, _)| value).collect();
            self.runs.push(Run { script, caller: Caller { arguments, asks, auth: None } });
        }
    }

    /// `script "js_x", type: "javascript" do … end`
    pub(super) fn script(&mut self, open: Token, name: &'a [u8]) {
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
    pub(super) fn definition(&mut self) {
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
    pub(super) fn definition_end(&mut self, open: Token) -> usize {
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

/// Whether a text may hold a call that sends something.
fn may_send(text: &[u8]) -> bool {
    memmem::find(text, b"http_").is_some() || memmem::find(text, b"auth").is_some()
}
