//! `countersign completions` and `countersign man`: made from the definitions of the commands themselves.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

const NAME: &str = "countersign";

#[derive(Args)]
#[command(after_help = "Examples:\n  countersign completions bash > /etc/bash_completion.d/countersign\n  \
                        countersign completions zsh > \"${fpath[1]}/_countersign\"\n  \
                        countersign completions fish > ~/.config/fish/completions/countersign.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  countersign man | man -l -\n  countersign man --out /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Write a page for each command into this directory, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), NAME, &mut script);
    print(&script)
}

pub(super) fn man(arguments: &Man) -> Result<u8, Failure> {
    let mut command = Cli::command();
    // So that each command knows the whole of its name.
    command.build();
    match &arguments.out {
        None => print(&page(&command, NAME)?),
        Some(directory) => {
            let fail = |error: std::io::Error| Failure::Other(format!("{}: {error}", directory.display()));
            std::fs::create_dir_all(directory).map_err(fail)?;
            write(directory, &command, NAME)?;
            Ok(0)
        }
    }
}

/// A page for a command and for each below it: `countersign-credential-put.1`.
fn write(directory: &Path, command: &clap::Command, name: &str) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?)
        .map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set());
    below.into_iter().try_for_each(|below| write(directory, below, &format!("{name}-{}", below.get_name())))
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone().disable_help_subcommand(true)).title(name);
    page.render(&mut text).map_err(|error| Failure::Other(error.to_string()))?;
    Ok(text)
}

/// Whoever reads only the beginning has seen enough.
fn print(bytes: &[u8]) -> Result<u8, Failure> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Other(error.to_string())),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_commands_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Cli::command();
        command.build();
        write(folder.path(), &command, NAME).unwrap();
        let pages: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for expected in ["countersign.1", "countersign-credential-put.1", "countersign-credential-setup-flexera.1"] {
            assert!(pages.iter().any(|page| page == expected), "{expected}: {pages:?}");
        }
        let text = std::fs::read_to_string(folder.path().join("countersign-credential-put.1")).unwrap();
        assert!(text.contains("secret") && text.contains("SYNOPSIS"), "{text}");
    }
}
