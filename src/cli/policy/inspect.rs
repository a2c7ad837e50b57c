//! `countersign policy inspect`: what templates and declarations ask for, one file after the other.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::output::{Output, plain, table};
use crate::cli::{FAILED, Failure};
use crate::policy::{Block, Issue, Parameter, Template, Use};

#[derive(Args)]
#[command(after_help = "Examples:\n  countersign policy inspect policies/\n  \
                        countersign policy inspect --json cost/aws/old_snapshots.pt engine.yaml\n\n\
                        A folder is searched for .pt files; what is named itself is read whatever it is called: JSON and YAML \
                        declare the same as {name, schemes, label, description, tags}. The exit code is 1 when a file could not \
                        be read; what is wrong within one is among its errors.")]
pub(super) struct Arguments {
    /// One JSON array, as it is done where no terminal reads it
    #[arg(long)]
    json: bool,
    /// In words, as it is done on a terminal
    #[arg(long, conflicts_with = "json")]
    table: bool,
    /// Files, and folders of policy templates; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What is said of one file.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    credentials: &'a [Block],
    unsigned: &'a [Use],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parameters: &'a [Parameter],
    errors: &'a [Issue],
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let json = Output::new(arguments.json, arguments.table).is_json();
    let mut printer = Printer { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), json, some: false };
    let mut unread = false;
    let printed = arguments.paths.iter().try_for_each(|path| visit(path, &mut printer, &mut unread));
    match printed.and_then(|()| printer.end()) {
        Ok(()) => Ok(if unread { FAILED } else { 0 }),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

/// Reads a file, or all templates of a folder. Only printing can fail; what cannot be read is named and passed.
fn visit<W: Write>(path: &Path, printer: &mut Printer<W>, unread: &mut bool) -> io::Result<()> {
    let mut fail = |path: &Path, error: &io::Error| {
        eprintln!("countersign: {}: {error}", plain(&path.display().to_string()));
        *unread = true;
    };
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        return match io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) => printer.print("-", &Template::read(path, &bytes)),
            Err(error) => {
                fail(path, &error);
                Ok(())
            }
        };
    }
    // The last is the next: a folder's entries in the order of their names, whatever the depth.
    let mut pending = vec![(path.to_owned(), fs::metadata(path).is_ok_and(|known| known.is_dir()))];
    while let Some((path, is_folder)) = pending.pop() {
        if is_folder {
            match templates(&path) {
                Ok(entries) => pending.extend(entries.into_iter().rev()),
                Err(error) => fail(&path, &error),
            }
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => printer.print(&path.display().to_string(), &Template::read(&path, &bytes))?,
            Err(error) => fail(&path, &error),
        }
    }
    Ok(())
}

/// The templates and the folders in a folder. Links to folders are not followed: they may lead in circles.
fn templates(folder: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let is_template = || path.extension().is_some_and(|extension| extension == "pt");
        // A pipe would be waited for. What cannot be looked at is named when it is read.
        let is_file = || fs::metadata(&path).map_or(true, |known| known.is_file());
        if kind.is_dir() || (is_template() && is_file()) {
            entries.push((path, kind.is_dir()));
        }
    }
    entries.sort();
    Ok(entries)
}

/// Prints what is said of each file when it is known.
struct Printer<W> {
    out: W,
    json: bool,
    some: bool,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, file: &str, template: &Template) -> io::Result<()> {
        let first = !std::mem::replace(&mut self.some, true);
        if !self.json {
            let gap = if first { "" } else { "\n" };
            return writeln!(self.out, "{gap}{}", in_words(file, template));
        }
        self.out.write_all(if first { b"[\n" } else { b",\n" })?;
        let report = Report {
            file,
            name: template.name.as_deref(),
            credentials: &template.credentials,
            unsigned: &template.unsigned,
            parameters: &template.parameters,
            errors: &template.errors,
        };
        serde_json::to_writer(&mut self.out, &report).map_err(io::Error::from)
    }

    fn end(mut self) -> io::Result<()> {
        if self.json {
            self.out.write_all(if self.some { b"\n]\n" } else { b"[]\n" })?;
        }
        self.out.flush()
    }
}

fn in_words(file: &str, template: &Template) -> String {
    let mut lines = vec![match &template.name {
        Some(name) => format!("{}: {}", plain(file), plain(name)),
        None => plain(file),
    }];
    let rows = template.credentials.iter().map(|block| {
        let tags: Vec<String> = block.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            block.name.clone(),
            block.line.to_string(),
            block.schemes.join(", "),
            tags.join(", "),
            block.label.clone().unwrap_or_default(),
            block.account_number.clone().unwrap_or_default(),
        ]
    });
    let names = ["CREDENTIAL", "LINE", "SCHEMES", "TAGS", "LABEL", "ACCOUNT"];
    lines.push(table(&names, rows, "asks for no credentials"));
    let uses = template.credentials.iter().flat_map(|block| block.uses.iter().map(|one| (block.name.as_str(), one)));
    let unsigned = template.unsigned.iter().map(|one| ("(none)", one));
    let rows: Vec<Vec<String>> = uses
        .chain(unsigned)
        .map(|(name, one)| {
            let scheme = if one.cleartext { "http" } else { "https" };
            vec![
                name.to_owned(),
                one.line.to_string(),
                one.method.clone(),
                format!("{scheme}://{}{}", one.host, one.path),
            ]
        })
        .collect();
    if !rows.is_empty() {
        lines.push(table(&["CREDENTIAL", "LINE", "METHOD", "CALLS"], rows, ""));
    }
    let errors = template.errors.iter();
    lines.extend(
        errors.map(|error| format!("{}:{}:{}: {}", plain(file), error.line, error.column, plain(&error.message))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool, files: &[(&str, &str)]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer { out: &mut out, json, some: false };
        for (file, text) in files {
            printer.print(file, &Template::parse(text.as_bytes())).unwrap();
        }
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    const BLOCK: &str = "name \"N\"\ncredentials \"auth_x\" do schemes \"basic\"; tags \"a=b\"; label \"X\" end
datasource \"d\" do request do auth $auth_x host \"h.test\" end end
datasource \"e\" do request do scheme \"http\" host \"u.test\" end end\ncredentials do end\n";

    #[test]
    fn the_answer_is_one_array_however_many_files_there_are() {
        assert_eq!(printed(true, &[]), "[]\n");
        let all: serde_json::Value = serde_json::from_str(&printed(true, &[("a.pt", BLOCK), ("b.pt", "")])).unwrap();
        assert_eq!(all[0]["credentials"][0]["uses"][0]["host"], "h.test");
        let empty = serde_json::json!({ "file": "b.pt", "credentials": [], "unsigned": [], "errors": [] });
        assert_eq!(all[1], empty);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_a_folder_is_passed_and_a_link_to_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.pt"), BLOCK).unwrap();
        std::os::unix::fs::symlink("a.pt", folder.path().join("b.pt")).unwrap();
        std::os::unix::fs::symlink("nowhere.pt", folder.path().join("c.pt")).unwrap();
        let _listening = std::os::unix::net::UnixListener::bind(folder.path().join("d.pt")).unwrap();
        let found = templates(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.pt", "b.pt", "c.pt"]);
    }

    #[test]
    fn people_see_blocks_calls_and_errors() {
        let text = printed(false, &[("a.pt", BLOCK), ("b.pt", "")]);
        let expected = "\
a.pt: N
CREDENTIAL  LINE  SCHEMES  TAGS  LABEL  ACCOUNT
auth_x      2     basic    a=b   X
CREDENTIAL  LINE  METHOD  CALLS
auth_x      3     GET     https://h.test/
(none)      4     GET     http://u.test/
a.pt:5:1: `credentials` has no name: write `credentials \"name\" do`

b.pt
asks for no credentials
";
        assert_eq!(text, expected);
    }
}
