//! `countersign store`: the encrypted store on this host, or the one that the configuration on this host names.
//!
//! Always local: whoever changes keys or takes backups holds the key anyway.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Output, facts};
use super::{Context, Failure, ask};
use crate::api::Principal;
use crate::app::{OpenStore, open_store};
use crate::base::{AuditEvent, AuditSink};
use crate::store::{Info, Progress, StoreError};

#[derive(Args)]
pub(super) struct Arguments {
    /// Answer with JSON, as it is done where no terminal reads it
    #[arg(long, global = true)]
    json: bool,
    /// Answer in words, as it is done on a terminal
    #[arg(long, global = true, conflicts_with = "json")]
    table: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// What is in it, and which keys it is encrypted with
    Info,
    /// Change the key that everything is encrypted under, while Countersign runs
    #[command(
        after_help = "Without a configured key: a new one is made and put into the key file; the old one goes when nothing needs it \
        any more.\nWith one: write the new key under store.key and the old one under store.old_keys, reload every \
        Countersign of this store, run this, then take the old key away.\n\nWhat was interrupted is taken up by the next run."
    )]
    Rekey {
        /// Give every account a new data key and encrypt every secret anew, instead
        #[arg(long)]
        data_keys: bool,
    },
    /// Write everything into one file; secrets stay encrypted, and the key is not in it
    #[command(
        after_help = "Keep the key (countersign store info says which, `store.key` or the key file) apart from the \
        backups: neither is of use without the other. Others go on writing meanwhile."
    )]
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Read a backup into an empty store; whole or not at all
    #[command(
        after_help = "Put the key in its place first: the key file beside the database, or store.key. The backup may be of \
        SQLite and the store PostgreSQL, and the other way round."
    )]
    Restore {
        /// The file that `store backup` wrote
        file: PathBuf,
    },
    /// Forget old versions with their secrets, or old rows of the audit record
    #[command(
        after_help = "Examples:\n  countersign store prune --keep 10 --removed-before 90d\n  countersign store prune --audit-before 400d\n\n\
        What is forgotten cannot be restored. The audit record's files stay as they are."
    )]
    Prune {
        /// Of each credential, keep so many of the newest versions
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Forget every version of what was removed before: 2026-01-31, or 90d ago
        #[arg(long, value_name = "TIME")]
        removed_before: Option<String>,
        /// Forget rows of the audit record from before: 2026-01-31, or 400d ago
        #[arg(long, value_name = "TIME")]
        audit_before: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Action {
    /// As what it stands in the audit record.
    fn on_record(&self) -> Option<&'static str> {
        match self {
            Self::Info => None,
            Self::Rekey { .. } => Some("store.rekey"),
            Self::Backup { .. } => Some("store.backup"),
            Self::Restore { .. } => Some("store.restore"),
            Self::Prune { .. } => Some("store.prune"),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error.to_string())
    }
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let output = Output::new(arguments.json, arguments.table);
    let (_, config) = context.load()?;
    // What cannot be done is said before the store is opened.
    let prune = match &arguments.action {
        Action::Prune { keep, removed_before, audit_before, yes } => {
            let before = |text: &Option<String>, flag: &str| {
                let at = text.as_deref().map(|text| ago(context, text)).transpose();
                at.map_err(|why| Failure::Usage(format!("--{flag}: {why}")))
            };
            let prune = (*keep, before(removed_before, "removed-before")?, before(audit_before, "audit-before")?);
            if prune == (None, None, None) {
                return Err(Failure::Usage("say what to forget: --keep, --removed-before or --audit-before".into()));
            }
            ask::confirm("forget this for ever?", *yes)?;
            Some(prune)
        }
        _ => None,
    };
    context.start_quiet_logs();
    let OpenStore { store, key, audit } = open_store(config, &context.deps).await?;
    context.closes(audit.clone());
    if let Some(name) = arguments.action.on_record() {
        let event = AuditEvent::new(name, "", "ok").by(Principal::local().name);
        audit.record(event).await.map_err(|error| Failure::Other(error.to_string()))?;
    }
    let done = match &arguments.action {
        Action::Info => {
            let info = store.info().await?;
            output.answer(&document(&info), || in_words(&info));
            Ok(())
        }
        Action::Rekey { data_keys: true } => {
            let changed = store.rekey(None, &shown("secrets encrypted anew")).await;
            changed.map(|()| {
                output.done(&json!({ "changed": "data_keys" }), "every secret is encrypted with a new data key")
            })
        }
        Action::Rekey { data_keys: false } => {
            let key = match key {
                Some(key) => key,
                None => store.renew_key_file().await?,
            };
            let changed = store.rekey(Some(key.clone()), &shown("data keys")).await;
            let words = format!("every data key is encrypted with the key {} now", key.id());
            changed.map(|()| output.done(&json!({ "changed": "key", "key": key.id() }), &words))
        }
        Action::Backup { file } => store.backup(file, &shown("rows")).await.map(|rows| {
            let words = format!("{rows} rows in {}; the key is not in it: keep that apart", file.display());
            output.done(&json!({ "rows": rows, "file": file }), &words);
        }),
        Action::Restore { file } => store.restore(file, &shown("rows")).await.map(|rows| {
            output.done(&json!({ "rows": rows, "file": file }), &format!("{rows} rows are in {}", store.address()));
        }),
        Action::Prune { .. } => {
            let (keep, removed, audit) = prune.unwrap_or_default();
            let versions = match (keep, removed) {
                (None, None) => 0,
                (keep, removed) => store.prune(keep.unwrap_or(u32::MAX), removed).await?,
            };
            let rows = match audit {
                Some(before) => store.prune_audit_rows(before).await?,
                None => 0,
            };
            let words = format!("forgot {versions} versions and {rows} rows of the audit record");
            output.done(&json!({ "versions": versions, "auditRows": rows }), &words);
            Ok(())
        }
    };
    store.close().await;
    Ok(done.map(|()| 0)?)
}

/// Tells a terminal how far it has come.
fn shown(what: &'static str) -> impl Fn(Progress) + Send + Sync {
    let terminal = std::io::stderr().is_terminal();
    move |Progress { done, of }| {
        if terminal {
            let end = if done >= of { "\n" } else { "" };
            eprint!("\r{done} of {of} {what}{end}");
            let _ = std::io::stderr().flush();
        }
    }
}

/// A moment that is over: a date, a time, or how long ago.
fn ago(context: &Context, text: &str) -> Result<SystemTime, String> {
    let date = text.len() == 10 && text.as_bytes().get(4) == Some(&b'-');
    let full = if date { format!("{text}T00:00:00Z") } else { text.to_owned() };
    if let Ok(at) = humantime::parse_rfc3339(&full) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).map_err(|_| format!("{text}: write 2026-01-31 or 90d"))?;
    context.deps.clock.now().checked_sub(ago).ok_or_else(|| format!("{text}: too long ago"))
}

fn document(info: &Info) -> Value {
    let data_keys = info.data_keys.iter().map(|(key, count)| (key.clone(), Value::from(*count)));
    json!({
        "address": info.address,
        "database": info.database,
        "schema": info.schema,
        "revision": info.revision,
        "key": info.key,
        "dataKeys": data_keys.collect::<serde_json::Map<_, _>>(),
        "rekeying": info.rekeying,
        "accounts": info.accounts,
        "credentials": info.credentials,
        "removed": info.removed,
        "versions": info.versions,
        "bindings": info.bindings,
        "auditRows": info.audit_rows,
    })
}

fn in_words(info: &Info) -> String {
    let data_keys: Vec<_> = info.data_keys.iter().map(|(key, count)| format!("{count} under {key}")).collect();
    let rekeying =
        if info.rekeying { "a change of them was interrupted: countersign store rekey --data-keys" } else { "" };
    facts(&[
        ("store", info.address.clone()),
        ("database", format!("{}, schema {}", info.database, info.schema)),
        ("revision", info.revision.to_string()),
        ("key", info.key.clone().unwrap_or_default()),
        ("data keys", data_keys.join(", ")),
        ("", rekeying.to_owned()),
        ("accounts", info.accounts.to_string()),
        ("credentials", format!("{}, and {} removed; {} versions", info.credentials, info.removed, info.versions)),
        ("bindings", info.bindings.to_string()),
        ("audit rows", info.audit_rows.to_string()),
    ])
}
