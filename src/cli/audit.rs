//! `countersign audit`: checks the record, and looks things up in it.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::json;

use super::{Context, Failure, on_terminal};
use crate::app::open_store;
use crate::base::duration;
use crate::config::{Config, ConfigError};
use crate::observe::audit::{
    Before, Finding, Findings, Line, Query, Settings, Tail, row_hashes, search, search_rows, verify, verify_files,
};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    countersign audit verify\n  \
    countersign audit verify /mnt/backup/audit/*.jsonl\n  \
    countersign audit search --action use.denied --since 2h\n  \
    countersign audit search --subject azure-prod --since 2026-11-01 --until 2026-12-01 --json")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check that nothing of the record was changed, removed or put in; exit 0, or 1 and say where
    Verify(Verify),
    /// Find lines: who did what, when, and what was refused
    Search(Search),
}

#[derive(Args)]
struct Place {
    /// The folder of the record [default: `audit.directory` of the configuration]
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
}

#[derive(Args)]
struct Verify {
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Do not hold the files against the rows of the store; with --directory they never are
    #[arg(long)]
    without_store: bool,
    /// Only these files, and only what stands in them: what is missing before and after is not missed
    #[arg(value_name = "FILE", conflicts_with = "directory")]
    files: Vec<PathBuf>,
}

#[derive(Args)]
struct Search {
    #[command(flatten)]
    place: Place,
    /// Of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// About this credential, binding or caller
    #[arg(long, visible_alias = "credential", value_name = "ID")]
    subject: Option<String>,
    /// By this caller or principal
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// What happened, or its beginning: `use.denied`, `credential.`
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// From this time on: 2026-11-22T14:00:00Z, 2026-11-22, or `2h` for two hours ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// In the rows of the configured store, which has those of every process, instead of the files of this host
    #[arg(long, conflicts_with = "directory")]
    store: bool,
    /// So many at most, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// One JSON object in each line, as it was written
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    context.start_quiet_logs();
    match &arguments.command {
        Command::Verify(arguments) => check(context, arguments).await,
        Command::Search(arguments) => find(context, arguments).await,
    }
}

impl Place {
    fn folder(&self, context: &Context) -> Result<PathBuf, Failure> {
        let folder = match &self.directory {
            Some(folder) => folder.clone(),
            None => context.load()?.1.audit.unwrap_or_else(Settings::default).directory,
        };
        if folder.is_dir() {
            return Ok(folder);
        }
        let message = format!("there is no audit record at {}; name its folder with --directory", folder.display());
        Err(Failure::Config(vec![ConfigError { path: "audit.directory".into(), line: 0, message }]))
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::Other(format!("the audit record cannot be read: {error}"))
}

async fn findings(context: &Context, arguments: &Verify) -> Result<Findings, Failure> {
    if !arguments.files.is_empty() {
        return verify_files(&arguments.files).map_err(|error| unreadable(&error));
    }
    let before = Before::of(&arguments.place.folder(context)?).map_err(|error| unreadable(&error))?;
    let compared = arguments.place.directory.is_none() && !arguments.without_store;
    let config = if compared { Some(context.load()?.1).filter(has_store) } else { None };
    let rows = match config {
        Some(config) => {
            let processes = before.processes().map_err(|error| unreadable(&error))?;
            let why = |why| Failure::Other(format!("{why}; --without-store checks the files alone"));
            let store = open_store(config, &context.deps).await?.store;
            Some(row_hashes(&store, processes).await.map_err(|error| why(error.to_string()))?)
        }
        None => None,
    };
    verify(&before, rows.as_ref()).map_err(|error| unreadable(&error))
}

/// Whether lines become rows somewhere.
fn has_store(config: &Config) -> bool {
    let rows = config.audit.as_ref().is_none_or(|audit| audit.rows);
    rows && (config.store.is_some() || config.admin.as_ref().is_some_and(|admin| admin.api))
}

async fn check(context: &Context, arguments: &Verify) -> Result<u8, Failure> {
    let findings = findings(context, arguments).await?;
    let whole = findings.problems.is_empty();
    if arguments.json || !on_terminal() {
        say!("{}", json!({ "whole": whole, "chains": findings.chains, "problems": findings.problems }));
    } else {
        say!("{}", chains(&findings));
        for problem in &findings.problems {
            say!("{}", sentence(problem));
        }
        let lines: u64 = findings.chains.iter().map(|chain| chain.last + 1 - chain.first).sum();
        match findings.problems.len() {
            0 => say!("{lines} lines of {} processes, everything in order", findings.chains.len()),
            1 => say!("1 problem"),
            count => say!("{count} problems"),
        }
    }
    Ok(u8::from(!whole))
}

/// Rows below a line of names.
fn table(names: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(names.to_vec());
    for row in rows {
        // Part of it is what strangers wrote: nothing of that is for the terminal to obey.
        let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        table.add_row(row.iter().map(|cell| cell.chars().map(plain).collect::<String>()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn chains(findings: &Findings) -> String {
    let rows = findings.chains.iter().map(|chain| {
        let end = match chain.tail {
            Tail::Ended => "ended",
            Tail::Running => "running",
            Tail::Killed => "killed: no last line, none is missing",
            Tail::Cut => "cut: lines are missing",
            Tail::Unknown => "not known",
        };
        let lines = format!("{}-{}", chain.first, chain.last);
        vec![chain.process.clone(), lines, chain.since.clone(), chain.until.clone(), end.to_owned()]
    });
    table(&["PROCESS", "LINES", "FROM", "UNTIL", "END"], rows)
}

fn sentence(finding: &Finding) -> String {
    let mut sentence = String::new();
    if let Some(file) = &finding.file {
        sentence = format!("{}: ", file.display());
        if let Some(line) = finding.line {
            sentence = format!("{}:{line}: ", file.display());
        }
    } else if let Some(process) = &finding.process {
        sentence = format!("process {process}: ");
    }
    sentence + &finding.problem
}

async fn find(context: &Context, arguments: &Search) -> Result<u8, Failure> {
    let now = context.deps.clock.now();
    let time = |name: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(|text| moment(text, now)).transpose();
        parsed.map_err(|why| Failure::Other(format!("--{name}: {why}")))
    };
    let query = Query {
        account: arguments.account.clone(),
        subject: arguments.subject.clone(),
        actor: arguments.actor.clone(),
        action: arguments.action.clone(),
        since: time("since", &arguments.since)?,
        until: time("until", &arguments.until)?,
        limit: arguments.limit,
    };
    let (lines, unreadable_lines) = if arguments.store {
        let store = open_store(context.load()?.1, &context.deps).await?.store;
        search_rows(&store, &query).await.map_err(|error| Failure::Other(error.to_string()))?
    } else {
        search(&arguments.place.folder(context)?, &query).map_err(|error| unreadable(&error))?
    };
    if arguments.json || !on_terminal() {
        for line in &lines {
            say!("{}", json!(line));
        }
    } else {
        say!("{}", found(&lines));
    }
    if unreadable_lines > 0 {
        eprintln!("countersign: {unreadable_lines} lines are not as they were written; see `countersign audit verify`");
    }
    Ok(0)
}

fn found(lines: &[Line]) -> String {
    let rows = lines.iter().map(|line| {
        let facts: Vec<_> = line.facts.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let (account, subject, actor) = (dash(&line.account), dash(&line.subject), dash(&line.actor));
        vec![line.time.clone(), line.action.clone(), account, subject, actor, line.outcome.clone(), facts.join(" ")]
    });
    table(&["TIME", "ACTION", "ACCOUNT", "SUBJECT", "ACTOR", "OUTCOME", "FACTS"], rows)
}

/// A time, or how long ago it was.
fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let whole = || humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339(text));
    if let Ok(time) = whole().or_else(|_| humantime::parse_rfc3339(&format!("{text}T00:00:00Z"))) {
        return Ok(time);
    }
    let ago = duration::parse(text).ok().and_then(|ago| now.checked_sub(ago));
    ago.ok_or_else(|| format!("`{text}` is no time: write 2026-11-22T14:00:00Z, 2026-11-22, or 2h for two hours ago"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_in_full_as_a_day_or_as_how_long_ago() {
        let now = humantime::parse_rfc3339("2026-11-22T14:00:00Z").unwrap();
        let is = |text: &str| moment(text, now).map(|time| humantime::format_rfc3339_seconds(time).to_string());
        assert_eq!(is("2026-11-22T13:00:00Z").unwrap(), "2026-11-22T13:00:00Z");
        assert_eq!(is("2026-11-22 13:00:00").unwrap(), "2026-11-22T13:00:00Z");
        assert_eq!(is("2026-11-22").unwrap(), "2026-11-22T00:00:00Z");
        assert_eq!(moment("90m", now).unwrap(), now - Duration::from_secs(5400));
        for wrong in ["", "yesterday", "2026-13-01", "22.11.2026", "5"] {
            assert!(is(wrong).is_err(), "{wrong}");
        }
    }
}
