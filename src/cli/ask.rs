//! What a command asks a person, and the secrets that it is given: by a prompt without echo, a file or standard input.
//!
//! **A secret never comes in an argument: others on this host read those, and shells write them down.**

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use super::Failure;
use crate::base::Secret;

/// As much as the API takes in one request.
const MAX_INPUT: u64 = 1024 * 1024;

/// Asks for a secret without showing it.
pub(super) fn secret(what: &str, instead: &str) -> Result<Secret, Failure> {
    let given = rpassword::prompt_password(format!("{what}: "));
    // The console is opened by its name, so a pipe on standard input does not matter.
    let given = given.map_err(|_| Failure::Usage(format!("there is no terminal to ask for {what} on: {instead}")))?;
    let given = Secret::new(given);
    if given.is_empty() {
        return Err(Failure::Other(format!("{what}: nothing was entered")));
    }
    Ok(given)
}

/// The secret in a file, `-` being standard input; one trailing line end is not part of it.
pub(super) async fn secret_in(path: &str) -> Result<Secret, Failure> {
    if path != "-" {
        return crate::source::read_file(Path::new(path)).await.map_err(|error| Failure::Other(error.0)).and_then(
            |it| {
                if it.is_empty() { Err(Failure::Other(format!("file {path} is empty"))) } else { Ok(it) }
            },
        );
    }
    let secret = Secret::from_text(standard_input()?);
    if secret.is_empty() {
        return Err(Failure::Other("there is nothing on standard input".into()));
    }
    Ok(secret)
}

/// Everything on standard input, as much as the API takes.
pub(super) fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes);
    let read = read.map_err(|error| Failure::Other(format!("standard input: {error}")))?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_INPUT) {
        return Err(Failure::Other("standard input: more than 1 MiB".into()));
    }
    Ok(bytes)
}

/// Asks on a terminal whether to go on, unless that was said already; where nobody can answer, the command was the answer.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Other("nothing was changed".into())),
    }
}

/// A file that was not there before and that nobody else reads.
pub(super) fn new_file(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open.map_err(|error| Failure::Other(format!("{}: {error}", path.display())))
}
