//! `countersign account`: the accounts that own credentials.

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, Target};
use super::output::{Output, cell, table};
use super::{Context, Failure};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them
    #[command(after_help = "An account exists from the first thing that is written into it: \
                            `countersign credential put … --account NAME` makes it.")]
    List,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let Action::List = arguments.action;
    let client = Client::open(context, &arguments.target).await?;
    let accounts = client.all("/v1/accounts", "accounts", &[]).await?;
    let words = || {
        let rows =
            accounts.iter().map(|account| ["name", "created.at", "created.by"].map(|at| cell(account, at)).into());
        table(&["ACCOUNT", "SINCE", "BY"], rows, "there is no account yet")
    };
    Output::of(&arguments.target).answer(&json!({ "accounts": accounts }), words);
    Ok(0)
}
