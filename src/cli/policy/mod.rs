//! `countersign policy`: what policy templates need, applying them, and running what was applied.

mod apply;
mod inspect;
mod matching;
mod remove;
mod run;
mod show;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, Target};
use super::output::{Output, cell, shown, table};
use super::{Context, Failure, ask};

#[derive(Args)]
#[command(after_help = "In the order of use:\n  \
    countersign policy inspect old-snapshots.pt                            # what it asks for\n  \
    countersign policy match old-snapshots.pt                              # what fits, and why the rest does not\n  \
    countersign policy apply old-snapshots.pt --id snapshots --credential auth_aws=aws-prod\n  \
    countersign policy run --applied snapshots -- python3 engine.py        # the engine holds no key\n  \
    countersign policy show snapshots                                      # what it may use, and its runs\n  \
    countersign policy show --run RUN                                      # what a run did")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say what policy templates ask for: their credentials blocks, and where each is used
    Inspect(inspect::Arguments),
    /// Say which credentials of an account fit a template, best first, and why each other does not
    Match(matching::Match),
    /// Apply a template: say which credential each of its blocks stands for. What was applied is never changed
    Apply(Box<apply::Apply>),
    /// List the applied policies of an account
    List(show::List),
    /// Show an applied policy and its newest runs, or what a run did
    Show(show::Show),
    /// Remove an applied policy, which ends its runs; or end a run
    Remove(remove::Remove),
    /// Run a command under a lease on what an applied policy may use, and on nothing else
    Run(Box<run::Run>),
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    match &arguments.action {
        Action::Inspect(given) => inspect::run(given),
        Action::Match(given) => matching::run(context, given).await,
        Action::Apply(given) => apply::run(context, given).await,
        Action::List(given) => show::list(context, given).await,
        Action::Show(given) => show::run(context, given).await,
        Action::Remove(given) => remove::run(context, given).await,
        Action::Run(given) => run::run(context, given).await,
    }
}

/// Whose policies, and where.
#[derive(Args)]
struct Place {
    /// The account
    #[arg(long, value_name = "NAME", default_value = crate::route::DEFAULT_ACCOUNT)]
    account: String,
    #[command(flatten)]
    target: Target,
}

/// An applied policy, or one of its runs.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The id of the applied policy
    id: Option<String>,
    /// The id of a run instead
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
}

impl Place {
    async fn open(&self, context: &Context) -> Result<(Client, Output), Failure> {
        Ok((Client::open(context, &self.target).await?, Output::of(&self.target)))
    }
}

/// The text of a template or of a declaration; the API tells them apart.
fn template(path: &str) -> Result<Value, Failure> {
    let bytes = match path {
        "-" => ask::standard_input()?,
        path => std::fs::read(path).map_err(|error| Failure::Other(format!("{path}: {error}")))?,
    };
    // What is no text is at most in what people are shown.
    Ok(String::from_utf8_lossy(&bytes).into())
}

/// `NAME=VALUE` as often as it is said, each name once.
fn pairs(option: &str, what: &str, texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut pairs = BTreeMap::new();
    for text in texts {
        let pair = text.split_once('=').filter(|(name, _)| !name.trim().is_empty());
        let (name, value) = pair.ok_or_else(|| Failure::Usage(format!("{option} {text}: write {what}")))?;
        if pairs.insert(name.trim().to_owned(), value.to_owned()).is_some() {
            return Err(Failure::Usage(format!("{option}: {} is said twice", name.trim())));
        }
    }
    Ok(pairs)
}

/// The members of a list; none where there is no list.
fn each<'a>(document: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    document[key].as_array().into_iter().flatten()
}

/// What a run may use, a line for each binding and each place that needs no credential.
fn allowed(policy: &Value) -> String {
    let place = |one: &Value| {
        let narrowed = if each(one, "shapes").next().is_some() { "shapes" } else { "hosts" };
        let methods = cell(one, "methods");
        [if methods.is_empty() { "any".into() } else { methods }, cell(one, narrowed)]
    };
    let bindings = each(policy, "bindings").map(|one| {
        let mut more = Vec::new();
        if let Value::String(number) = &one["accountNumber"] {
            more.push(format!("as AWS account {number}"));
        }
        if one["onlyNamed"] == true {
            more.push("when a request names it".into());
        }
        if one["allowCleartext"] == true {
            more.push("unencrypted where the template says http".into());
        }
        let [methods, hosts] = place(one);
        vec![cell(one, "block"), cell(one, "credential"), methods, hosts, more.join(", ")]
    });
    let passages = each(policy, "passages").map(|one| {
        let [methods, hosts] = place(one);
        vec!["-".into(), "none".into(), methods, hosts, String::new()]
    });
    let rows: Vec<_> = bindings.chain(passages).collect();
    table(&["BLOCK", "CREDENTIAL", "METHODS", "HOSTS", "NOTE"], rows, "a run may call nobody")
}

/// `auth_aws=aws-prod, auth_flexera=flexera`.
fn selection(policy: &Value) -> String {
    shown(&policy["credentials"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pairs_have_each_name_once() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let read = |given: &[&str]| pairs("--credential", "BLOCK=ID", &texts(given));
        let expected = BTreeMap::from([("auth_a".into(), "x=y".into()), ("auth_b".into(), String::new())]);
        assert_eq!(read(&["auth_a=x=y", "auth_b="]).unwrap(), expected);
        for wrong in [&["auth_a"][..], &["=x"], &["auth_a=x", "auth_a=x"]] {
            assert!(matches!(read(wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_run_may_use_is_shown_as_narrow_as_it_is() {
        let policy = json!({
            "bindings": [
                { "block": "auth_aws", "credential": "aws", "hosts": ["*.amazonaws.com"], "methods": ["GET", "POST"],
                  "shapes": ["ec2.{region}.amazonaws.com"], "accountNumber": "123456789012" },
                { "block": "auth_jira", "credential": "jira", "hosts": ["jira.test"], "methods": [], "shapes": [],
                  "onlyNamed": true },
            ],
            "passages": [{ "hosts": ["prices.test"], "shapes": [], "methods": ["GET"] }],
        });
        let text = allowed(&policy);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let line = |number: usize| lines[number].iter().copied().filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
        let aws = ["auth_aws", "aws", "GET, POST", "ec2.{region}.amazonaws.com", "as AWS account 123456789012"];
        assert_eq!(line(1), aws);
        assert_eq!(line(2), ["auth_jira", "jira", "any", "jira.test", "when a request names it"]);
        assert_eq!(line(3), ["-", "none", "GET", "prices.test"]);
        assert_eq!(allowed(&json!({})), "a run may call nobody");
    }
}
