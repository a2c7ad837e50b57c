//! `countersign token`: tokens for the management API.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::caller::{expiry, handed};
use super::client::{Client, Target, below};
use super::output::{Output, cell, table};
use super::{Context, Failure, ask};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them: names, roles, accounts and ends, never the tokens
    List,
    /// Make one, which is shown once
    #[command(after_help = "Examples:\n  countersign token add ci --role manager --account team-a --expires 90d\n  \
                            countersign token add backup --role viewer --out backup.token")]
    Add {
        /// Its name
        name: String,
        /// What it may do
        #[arg(long)]
        role: Role,
        /// In this account alone [default: in all]
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        /// When it ends: 2027-01-31 or 90d [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Write it into a new file, readable by you alone, and show it nowhere
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Remove one: it is refused from then on
    Remove {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What a token may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// See what is not secret
    Viewer,
    /// Manage credentials, bindings and callers
    Manager,
    /// Everything, tokens and the audit record included
    Admin,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let output = Output::of(&arguments.target);
    let client = Client::open(context, &arguments.target).await?;
    match &arguments.action {
        Action::List => {
            let tokens = client.all("/v1/tokens", "tokens", &[]).await?;
            let keys = ["name", "role", "account", "expiresAt"];
            let words = || {
                let rows = tokens.iter().map(|token| keys.map(|key| cell(token, key)).into());
                table(&["NAME", "ROLE", "ACCOUNT", "UNTIL"], rows, "there is no token in the store")
            };
            output.answer(&json!({ "tokens": tokens }), words);
        }
        Action::Add { name, role, account, expires, out } => {
            let role = format!("{role:?}").to_lowercase();
            let mut body = Map::from_iter([("name".to_owned(), name.clone().into()), ("role".to_owned(), role.into())]);
            if let Some(account) = account {
                body.insert("account".into(), account.clone().into());
            }
            expiry(context, expires.as_deref(), &mut body)?;
            handed(&client, output, "/v1/tokens", body.into(), out.as_deref()).await?;
        }
        Action::Remove { name, yes } => {
            ask::confirm(&format!("remove the management token {name}?"), *yes)?;
            client.delete(&below(&["tokens", name])).await?;
            output.done(&Value::Null, &format!("removed {name}"));
        }
    }
    Ok(0)
}
