//! `countersign caller`: who may call the proxy, and the tokens that prove it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, Condition, Target, path};
use super::output::{Output, cell, shown, table};
use super::{Context, Failure, ask, moment};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// The account
    #[arg(long, global = true, value_name = "NAME", default_value = crate::route::DEFAULT_ACCOUNT)]
    account: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them with the ids of their tokens
    List,
    /// Add a caller with its first token, which is shown once
    #[command(after_help = "Example: countersign caller add policy-runner --expires 90d --out runner.token\n\
                            The caller then says http://policy-runner:TOKEN@PROXY as its proxy.")]
    Add(Issue),
    /// Give a caller another token, which is shown once; the others stay
    #[command(after_help = "To replace a token without a gap: add one here, hand it over, then \
                            `countersign caller remove NAME --token ID` with the id of the old one.")]
    Token(Issue),
    /// Remove a caller, or one of its tokens: it is refused from then on
    Remove {
        /// Its name
        name: String,
        /// The id of the token; the caller stays
        #[arg(long, value_name = "ID")]
        token: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args)]
struct Issue {
    /// The caller's name
    name: String,
    /// When the token ends: 2027-01-31 or 90d [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Write the token into a new file, readable by you alone, and show it nowhere
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let (account, output) = (arguments.account.as_str(), Output::of(&arguments.target));
    let client = Client::open(context, &arguments.target).await?;
    match &arguments.action {
        Action::List => {
            let callers = client.all(&path(account, &["callers"]), "callers", &[]).await?;
            let none = format!("there is no caller in account {account}");
            output.answer(&json!({ "callers": callers }), || {
                table(&["CALLER", "SOURCE", "TOKENS"], rows(&callers), &none)
            });
        }
        Action::Add(issue) => {
            let mut body = Map::from_iter([("name".to_owned(), issue.name.clone().into())]);
            expiry(context, issue.expires.as_deref(), &mut body)?;
            let at = path(account, &["callers"]);
            handed(&client, output, &at, body.into(), issue.out.as_deref()).await?;
        }
        Action::Token(issue) => {
            let mut body = Map::new();
            expiry(context, issue.expires.as_deref(), &mut body)?;
            let at = path(account, &["callers", &issue.name, "tokens"]);
            handed(&client, output, &at, body.into(), issue.out.as_deref()).await?;
        }
        Action::Remove { name, token: None, yes } => {
            ask::confirm(&format!("remove the caller {name} of account {account} with all its tokens?"), *yes)?;
            client.delete(&path(account, &["callers", name])).await?;
            output.done(&Value::Null, &format!("removed {name}"));
        }
        Action::Remove { name, token: Some(id), yes } => {
            ask::confirm(&format!("remove the token {id} of caller {name}?"), *yes)?;
            client.delete(&path(account, &["callers", name, "tokens", id])).await?;
            output.done(&Value::Null, &format!("removed the token {id} of {name}"));
        }
    }
    Ok(0)
}

fn rows(callers: &[Value]) -> impl Iterator<Item = Vec<String>> {
    callers.iter().map(|caller| {
        let tokens = caller["tokens"].as_array().into_iter().flatten().map(|token| match &token["expiresAt"] {
            Value::Null => shown(&token["id"]),
            end => format!("{} (until {})", shown(&token["id"]), shown(end)),
        });
        vec![cell(caller, "name"), cell(caller, "source"), tokens.collect::<Vec<_>>().join(", ")]
    })
}

/// When something ends, put into a body.
pub(super) fn expiry(context: &Context, expires: Option<&str>, body: &mut Map<String, Value>) -> Result<(), Failure> {
    if let Some(text) = expires {
        let at = moment(context, text).map_err(|why| Failure::Usage(format!("--expires {text}: {why}")))?;
        body.insert("expiresAt".into(), at.into());
    }
    Ok(())
}

/// Asks for a token and hands it over: shown once, or into a file that is made before anything is asked for.
pub(super) async fn handed(
    client: &Client,
    output: Output,
    at: &str,
    body: Value,
    out: Option<&std::path::Path>,
) -> Result<(), Failure> {
    let file = out.map(|path| ask::new_file(path).map(|file| (file, path))).transpose()?;
    let reply = match client.send(Method::POST, at, &body, Condition::None).await {
        Ok(reply) => reply,
        Err(denied) => {
            if let Some((_, path)) = file {
                let _ = std::fs::remove_file(path);
            }
            return Err(denied.into());
        }
    };
    let mut document = reply.body;
    let Some(Value::String(token)) = document.get_mut("token").map(Value::take) else {
        return Err(Failure::Other("the answer has no token in it".into()));
    };
    let name = cell(&document, "name");
    let name = if name.is_empty() { "the caller".to_owned() } else { name };
    match file {
        Some((mut file, path)) => {
            use std::io::Write;
            let written = writeln!(file, "{token}").and_then(|()| file.sync_all());
            written.map_err(|error| {
                let id = cell(&document, "id");
                Failure::Other(format!("{}: {error}; the token is lost: remove it (id {id})", path.display()))
            })?;
            if let Value::Object(document) = &mut document {
                document.remove("token");
                document.insert("file".into(), path.display().to_string().into());
            }
            output.done(&document, &format!("the token of {name} is in {}", path.display()));
        }
        None => {
            document["token"] = token.clone().into();
            output.done(&document, &token);
            eprintln!("countersign: this is the token of {name}; it is not shown again");
        }
    }
    Ok(())
}
