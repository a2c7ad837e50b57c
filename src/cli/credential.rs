//! `countersign credential`: what a person does with credentials.

mod aws_sts;
mod content;
mod flexera;
mod iam;
mod rotate;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use self::content::Content;
use super::client::{Client, Condition, Target, path};
use super::output::{Output, cell, facts, shown, table};
use super::{Context, Failure, ask};
use crate::config::Config;

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
    /// List credentials
    #[command(after_help = "Examples:\n  countersign credential list --filter \"tags.provider eq 'aws'\"\n  \
                            countersign credential list --server https://cs.example:8190 --account team-a --json")]
    List {
        /// Only those that this is true of: id, name, scheme, tags.KEY, createdAt, updatedAt; eq, ne, co, lt, le, gt, ge; and, or
        #[arg(long, value_name = "EXPRESSION")]
        filter: Option<String>,
        /// Also those that were removed
        #[arg(long)]
        removed: bool,
    },
    /// Show a credential; never a secret of it
    Show {
        /// Its id
        id: String,
    },
    /// Create a credential, or replace the content of one
    #[command(after_help = "Examples:\n  \
        countersign credential put spot --scheme api_key --host api.spotinst.io --secret key\n  \
        countersign credential put azure-prod --file azure.yaml --secret client_secret=@/run/secrets/azure\n  \
        vault kv get -format=json -field=data secret/x | countersign credential put x --file x.yaml --secrets-from -\n\n\
        azure.yaml has the keys of one entry of `credentials` in the configuration file. Without an id, one is made of the \
        name. Where --account stands beside, the credential is that account's.")]
    Put(Box<Put>),
    /// Change something of a credential; what is not mentioned stays, secrets too
    #[command(after_help = "Examples:\n  countersign credential patch azure-prod --secret client_secret\n  \
        countersign credential patch azure-prod --disable\n  \
        countersign credential patch azure-prod --set token_url=https://… --secret client_secret\n\n\
        What decides where a secret goes (an address, hosts) is changed only together with the secret.")]
    Patch(Box<Patch>),
    /// Remove a credential: it is refused from the next request on; `restore` brings it back
    Remove {
        /// Its id
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Make an earlier version the present one; without --version, the one before this, or before it was removed
    Restore {
        /// Its id
        id: String,
        /// Which (see `versions`)
        #[arg(long, value_name = "NUMBER")]
        version: Option<i64>,
    },
    /// Use a credential for real, against its provider: exit 0 if it works, 1 if not
    Test {
        /// Its id
        id: String,
    },
    /// Who used a credential last, how often, which tokens live, when its secret ends
    Usage {
        /// Its id
        id: String,
    },
    /// The versions of a credential: when, by whom, which fields
    Versions {
        /// Its id
        id: String,
    },
    /// Prepare the other side: the trust policy of a role (aws_sts), a service account of Flexera One (flexera)
    Setup(Box<Setup>),
    /// Replace the provider's own secret by a new one, without a gap (flexera)
    Rotate(Box<rotate::Rotate>),
}

#[derive(Args)]
struct Put {
    /// Its id; it never changes
    id: Option<String>,
    /// Only if there is none of that id yet
    #[arg(long = "new", conflicts_with = "if_version")]
    fresh: bool,
    /// Only if this is the present version
    #[arg(long, value_name = "NUMBER")]
    if_version: Option<i64>,
    #[command(flatten)]
    content: Content,
}

#[derive(Args)]
struct Patch {
    /// Its id
    id: String,
    /// A field of the scheme to take away
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    /// A tag to take away
    #[arg(long, value_name = "KEY")]
    untag: Vec<String>,
    /// Only if this is the present version
    #[arg(long, value_name = "NUMBER")]
    if_version: Option<i64>,
    #[command(flatten)]
    content: Content,
}

#[derive(Args)]
struct Setup {
    #[command(subcommand)]
    scheme: Option<Scheme>,
    #[command(flatten)]
    aws_sts: aws_sts::AwsSts,
}

#[derive(Subcommand)]
enum Scheme {
    /// Print what the owner of a role must be told: the account to trust, an external id and the trust policy to paste
    #[command(name = "aws_sts", alias = "aws-sts")]
    AwsSts(aws_sts::AwsSts),
    /// Make a service account of Flexera One with roles and a client, and store the client's secret
    Flexera(flexera::Flexera),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let (target, account, output) = (&arguments.target, arguments.account.as_str(), Output::of(&arguments.target));
    if let Action::Setup(setup) = &arguments.action {
        let misplaced = setup.aws_sts.credential.is_some() && setup.scheme.is_some();
        return match &setup.scheme {
            _ if misplaced => Err(Failure::Usage("write --credential after aws_sts; no other scheme has it".into())),
            Some(Scheme::Flexera(flexera)) => flexera::setup(context, target, account, output, flexera).await,
            Some(Scheme::AwsSts(given)) => aws_sts::setup(context, "aws_sts", given, target).await,
            Some(Scheme::Other(name)) => {
                let name = name.first().map(String::as_str).unwrap_or_default();
                aws_sts::setup(context, name, &setup.aws_sts, target).await
            }
            None => aws_sts::setup(context, "aws_sts", &setup.aws_sts, target).await,
        };
    }
    let client = Client::open(context, target).await?;
    let at = |id: &str, more: &[&str]| path(account, &[&["credentials", id], more].concat());
    match &arguments.action {
        Action::List { filter, removed } => list(&client, account, filter.as_deref(), *removed, output).await?,
        Action::Show { id } => {
            let credential = client.get(&at(id, &[])).await?;
            output.answer(&credential, || in_words(&credential));
        }
        Action::Put(given) => put(context, &client, account, given, output).await?,
        Action::Patch(given) => patch(context, &client, account, given, output).await?,
        Action::Remove { id, yes } => {
            ask::confirm(&format!("remove the credential {id} of account {account}?"), *yes)?;
            client.delete(&at(id, &[])).await?;
            output.done(&Value::Null, &format!("removed {id}; `countersign credential restore {id}` brings it back"));
        }
        Action::Restore { id, version } => {
            let body = version.map_or_else(|| json!({}), |version| json!({ "version": version }));
            let reply = client.send(Method::POST, &at(id, &["restore"]), &body, Condition::None).await?;
            output.done(&reply.body, &format!("restored\n{}", in_words(&reply.body)));
        }
        Action::Test { id } => {
            let reply = client.send(Method::POST, &at(id, &["test"]), &json!({}), Condition::None).await?;
            output.answer(&reply.body, || tested_in_words(context, &reply.body));
            return Ok(u8::from(!works(&reply.body)));
        }
        Action::Usage { id } => {
            let usage = client.get(&at(id, &["usage"])).await?;
            output.answer(&usage, || usage_in_words(&usage));
        }
        Action::Versions { id } => {
            let versions = client.get(&at(id, &["versions"])).await?;
            output.answer(&versions, || versions_in_words(&versions));
        }
        Action::Rotate(rotate) => return rotate::run(context, &client, account, output, rotate).await,
        Action::Setup(_) => {}
    }
    Ok(0)
}

async fn list(
    client: &Client,
    account: &str,
    filter: Option<&str>,
    removed: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut query: Vec<(&str, &str)> = filter.map(|filter| ("filter", filter)).into_iter().collect();
    if removed {
        query.push(("removed", "true"));
    }
    let credentials = client.all(&path(account, &["credentials"]), "credentials", &query).await?;
    let words = || {
        let rows = credentials.iter().map(|one| {
            let hosts = one["hosts"].as_array().map_or(&[][..], Vec::as_slice);
            let hosts = match hosts {
                [] => String::new(),
                [only] => shown(only),
                [first, rest @ ..] => format!("{} +{}", shown(first), rest.len()),
            };
            let text = |key| cell(one, key);
            vec![
                text("id"),
                text("scheme"),
                text("name"),
                hosts,
                state(one),
                text("version"),
                text("expiresAt"),
                text("source"),
            ]
        });
        let names = ["ID", "SCHEME", "NAME", "HOSTS", "STATE", "VERSION", "UNTIL", "SOURCE"];
        table(&names, rows, &format!("there is no credential in account {account}{}", such(filter)))
    };
    output.answer(&json!({ "credentials": credentials }), words);
    Ok(())
}

fn such(filter: Option<&str>) -> &str {
    if filter.is_some() { " that this is true of" } else { "" }
}

async fn put(context: &Context, client: &Client, account: &str, put: &Put, output: Output) -> Result<(), Failure> {
    let given = put.content.gather(context, client, None).await?;
    let id = match (&put.id, given.text("id")) {
        (Some(id), Some(other)) if id != other => {
            return Err(Failure::Usage(format!("the file is about {other}, the command line about {id}")));
        }
        (Some(id), _) => Some(id.clone()),
        (None, other) => other.map(str::to_owned),
    };
    let mut document = given.document;
    document.remove("id");
    if !document.contains_key("scheme") {
        return Err(Failure::Usage("say how it signs with --scheme, or in --file".into()));
    }
    let reply = match id {
        Some(id) => {
            let condition = match (put.fresh, put.if_version) {
                (true, _) => Condition::New,
                (_, Some(version)) => Condition::Version(version),
                _ => Condition::None,
            };
            client.send(Method::PUT, &path(account, &["credentials", &id]), &document.into(), condition).await?
        }
        None if document.contains_key("name") && put.if_version.is_none() => {
            client.send(Method::POST, &path(account, &["credentials"]), &document.into(), Condition::None).await?
        }
        None => return Err(Failure::Usage("say which with an id; a new one may have a --name instead".into())),
    };
    let done = if reply.status == StatusCode::CREATED { "created" } else { "replaced" };
    output.done(&reply.body, &format!("{done}\n{}", in_words(&reply.body)));
    Ok(())
}

async fn patch(
    context: &Context,
    client: &Client,
    account: &str,
    patch: &Patch,
    output: Output,
) -> Result<(), Failure> {
    let at = path(account, &["credentials", &patch.id]);
    // Before a secret is asked for: whether there is such a credential, and of which scheme.
    let present = client.get(&at).await?;
    let given = patch.content.gather(context, client, present["scheme"].as_str()).await?;
    if given.text("id").is_some_and(|id| id != patch.id) {
        return Err(Failure::Usage("the file is about another credential, and an id never changes".into()));
    }
    let mut document = given.document;
    document.remove("id");
    for (key, taken) in [("settings", &patch.unset), ("tags", &patch.untag)] {
        for name in taken {
            let whole = content::object(&mut document, key);
            if key == "settings" {
                content::place(whole, name, Value::Null).map_err(Failure::Usage)?;
            } else {
                // A tag may have a dot in its name.
                whole[name] = Value::Null;
            }
        }
    }
    if document.is_empty() {
        return Err(Failure::Usage("say what to change; `countersign credential patch --help` shows how".into()));
    }
    let condition = patch.if_version.map_or(Condition::None, Condition::Version);
    let reply = client.send(Method::PATCH, &at, &document.into(), condition).await?;
    output.done(&reply.body, &format!("changed\n{}", in_words(&reply.body)));
    Ok(())
}

/// The configuration whose ways out a command takes; the defaults where there is none.
fn own_config(context: &Context) -> Result<Config, Failure> {
    match context.load() {
        Ok((_, config)) => Ok(config),
        // Whoever has no configuration yet is just about to write one, or speaks to a Countersign elsewhere.
        Err(_) if context.config.is_none() && context.config_path().is_err() => {
            Config::parse("").map_err(Failure::Config)
        }
        Err(failure) => Err(failure),
    }
}

fn state(credential: &Value) -> String {
    let state = match (&credential["removed"], &credential["enabled"]) {
        (Value::Bool(true), _) => "removed",
        (_, Value::Bool(false)) => "off",
        _ => "on",
    };
    state.to_owned()
}

/// A credential, a line for each thing that is known of it.
fn in_words(credential: &Value) -> String {
    let text = |key: &str| cell(credential, key);
    let change = |key: &str| match &credential[key] {
        Value::Null => String::new(),
        change => format!("{} by {}", cell(change, "at"), cell(change, "by")),
    };
    let mut lines = vec![
        ("id".to_owned(), text("id")),
        ("account".to_owned(), text("account")),
        ("name".to_owned(), text("name")),
        ("description".to_owned(), text("description")),
        ("scheme".to_owned(), text("scheme")),
        ("hosts".to_owned(), text("hosts")),
        ("tags".to_owned(), text("tags")),
        ("state".to_owned(), state(credential)),
        ("version".to_owned(), text("version")),
        ("until".to_owned(), text("expiresAt")),
        ("source".to_owned(), text("source")),
        ("created".to_owned(), change("created")),
        ("updated".to_owned(), change("updated")),
        ("secrets".to_owned(), text("secretFields")),
    ];
    for (name, value) in credential["settings"].as_object().into_iter().flatten() {
        lines.push((format!("  {name}"), shown(value)));
    }
    let lines: Vec<(&str, String)> = lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts(&lines)
}

/// Whether a test found that a credential works, as far as that can be found.
fn works(report: &Value) -> bool {
    ["accepted", "signed"].iter().any(|good| report["result"] == *good)
}

fn tested_in_words(context: &Context, report: &Value) -> String {
    use owo_colors::OwoColorize;
    let result = cell(report, "result");
    let result = match context.colour && super::on_terminal() {
        true if works(report) => result.green().to_string(),
        true => result.red().to_string(),
        false => result,
    };
    let mut lines = vec![format!("{result}: {}", super::output::plain(&cell(report, "detail")))];
    for (name, value) in report["facts"].as_object().into_iter().flatten() {
        lines.push(format!("  {name}: {}", super::output::plain(&shown(value))));
    }
    lines.join("\n")
}

fn usage_in_words(usage: &Value) -> String {
    let tokens = usage["tokens"].as_array().into_iter().flatten();
    let tokens = tokens.map(|token| format!("{} until {}", cell(token, "label"), cell(token, "expiresAt")));
    facts(&[
        ("used", format!("{} times", cell(usage, "count"))),
        ("last", cell(usage, "lastUsed")),
        ("by", cell(usage, "lastCaller")),
        ("tokens", tokens.map(|token| token.trim().to_owned()).collect::<Vec<_>>().join(", ")),
        ("until", cell(usage, "expiresAt")),
        ("warning", cell(usage, "warning")),
    ])
}

fn versions_in_words(versions: &Value) -> String {
    let rows = versions["versions"].as_array().into_iter().flatten().map(|version| {
        let changed = if version["removed"] == true { "removed".to_owned() } else { cell(version, "changedFields") };
        vec![cell(version, "version"), cell(version, "at"), cell(version, "by"), changed]
    });
    table(&["VERSION", "AT", "BY", "CHANGED"], rows, "there is no version")
}
