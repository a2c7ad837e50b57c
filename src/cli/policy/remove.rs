//! `countersign policy remove`: an applied policy goes, or a run ends before its time.

use clap::Args;
use serde_json::Value;

use super::super::client::path;
use super::super::{Context, Failure, ask};
use super::{Place, Which};

#[derive(Args)]
pub(super) struct Remove {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(context: &Context, given: &Remove) -> Result<u8, Failure> {
    let account = given.place.account.as_str();
    let (question, at, done) = match &given.which {
        Which { run: Some(run), .. } => {
            (format!("end the run {run} of account {account}?"), path(account, &["runs", run]), format!("ended {run}"))
        }
        Which { id, .. } => {
            let id = id.as_deref().unwrap_or_default();
            let question = format!("remove the applied policy {id} of account {account}, and end its runs?");
            (question, path(account, &["applied-policies", id]), format!("removed {id}"))
        }
    };
    let (client, output) = given.place.open(context).await?;
    ask::confirm(&question, given.yes)?;
    client.delete(&at).await?;
    output.done(&Value::Null, &done);
    Ok(0)
}
