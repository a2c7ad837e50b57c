//! `countersign policy apply`: a template and the choice of credentials, for one account or many.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::super::client::{Client, Condition, Target, below, path};
use super::super::output::{Output, cell, facts, plain};
use super::super::{Context, Failure};
use super::{allowed, each, pairs, selection, template};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    countersign policy apply old-snapshots.pt --id snapshots --credential auth_aws=aws-prod --credential auth_flexera=flexera\n  \
    countersign policy apply old-snapshots.pt --account 1001,1002 --credential 'auth_aws=aws_{project_id}' --dry-run\n\n\
    In an id, {project_id} and {org_id} are those of each account. Exit code 1 when it was refused for any account.")]
pub(super) struct Apply {
    /// The account; repeat it for several, or separate them by commas
    #[arg(long = "account", value_name = "NAME", value_delimiter = ',', default_value = crate::route::DEFAULT_ACCOUNT)]
    accounts: Vec<String>,
    /// The id of what is applied [default: made]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// What people call it [default: the template's own name]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Which credential a block stands for; repeat it for several
    #[arg(long = "credential", value_name = "BLOCK=ID")]
    credentials: Vec<String>,
    /// The same for several blocks at once: auth_a=ID,auth_b=ID
    #[arg(long = "credentials", value_name = "BLOCK=ID,…", value_delimiter = ',')]
    listed: Vec<String>,
    /// A parameter of the template, such as param_aws_account_number; repeat it for several
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// The organization's number, for {org_id} where the account's name does not tell it
    #[arg(long, value_name = "NUMBER")]
    org: Option<String>,
    /// Let a run use the credentials' own hosts, not only those that the template calls
    #[arg(long)]
    loose: bool,
    /// Say nothing of tags that differ
    #[arg(long)]
    all: bool,
    /// Let secrets travel unencrypted where the template sends its requests so (administrators)
    #[arg(long)]
    allow_cleartext: bool,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// A policy template, or a declaration in JSON or YAML; - is standard input
    template: String,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(context: &Context, given: &Apply) -> Result<u8, Failure> {
    let mut body = body(given)?;
    let client = Client::open(context, &given.target).await?;
    let output = Output::of(&given.target);
    match &given.accounts[..] {
        [account] => {
            let at = path(account, &["applied-policies"]);
            let made = client.send(Method::POST, &at, &body.into(), Condition::None).await?.body;
            output.answer(&made, || in_words(&made, given.dry_run));
            Ok(0)
        }
        several => {
            body.insert("accounts".into(), several.into());
            let at = below(&["applied-policies"]);
            let made = client.send(Method::POST, &at, &body.into(), Condition::None).await?.body;
            output.answer(&made, || many_in_words(&made, given.dry_run));
            let refused: Vec<String> = each(&made, "results")
                .filter(|one| !one["error"].is_null())
                .map(|one| plain(&cell(one, "account")))
                .collect();
            if refused.is_empty() {
                return Ok(0);
            }
            let many = format!("{} of {}", refused.len(), several.len());
            Err(Failure::Other(format!("it was refused for {many} accounts: {}", refused.join(", "))))
        }
    }
}

fn body(given: &Apply) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::from_iter([
        ("template".to_owned(), template(&given.template)?),
        ("credentials".to_owned(), json!(chosen(&given.credentials, &given.listed)?)),
        ("parameters".to_owned(), json!(pairs("--parameter", "NAME=VALUE", &given.parameters)?)),
    ]);
    for (key, text) in [("id", &given.id), ("name", &given.name), ("orgId", &given.org)] {
        body.extend(text.clone().map(|text| (key.to_owned(), text.into())));
    }
    let switches = [
        ("loose", given.loose),
        ("all", given.all),
        ("allowCleartext", given.allow_cleartext),
        ("dryRun", given.dry_run),
    ];
    body.extend(switches.into_iter().filter(|(_, on)| *on).map(|(key, on)| (key.to_owned(), on.into())));
    Ok(body)
}

/// The credential of each block, however it was said.
fn chosen(single: &[String], listed: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs("--credential", "BLOCK=ID", &[single, listed].concat())
}

fn in_words(policy: &Value, dry_run: bool) -> String {
    let done = if dry_run { "would be applied" } else { "applied" };
    let mut lines = vec![
        done.to_owned(),
        facts(&[
            ("id", cell(policy, "id")),
            ("account", cell(policy, "account")),
            ("name", cell(policy, "name")),
            ("credentials", selection(policy)),
        ]),
        String::new(),
        allowed(policy),
    ];
    let notes: Vec<String> =
        each(policy, "notes").filter_map(Value::as_str).map(|note| format!("note: {}", plain(note))).collect();
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines.join("\n")
}

fn many_in_words(made: &Value, dry_run: bool) -> String {
    let words = |one: &Value| match &one["error"] {
        Value::Null => in_words(&one["policy"], dry_run),
        error => plain(&format!("account {}: {}", cell(one, "account"), error.as_str().unwrap_or_default())),
    };
    each(made, "results").map(words).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_chosen_one_by_one_or_in_a_list() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let chosen = |single: &[&str], listed: &[&str]| super::chosen(&texts(single), &texts(listed));
        let expected = BTreeMap::from([("auth_a".into(), "a".into()), ("auth_b".into(), "b_{org_id}".into())]);
        assert_eq!(chosen(&["auth_a=a"], &["auth_b=b_{org_id}"]).unwrap(), expected);
        assert_eq!(chosen(&[], &["auth_a=a", "auth_b=b_{org_id}"]).unwrap(), expected);
        assert!(chosen(&["auth_a=a"], &["auth_a=b"]).is_err());
    }

    #[test]
    fn many_accounts_are_shown_one_after_the_other_and_the_refused_with_their_reasons() {
        let made = json!({ "results": [
            { "account": "1", "policy": { "account": "1", "name": "P", "credentials": { "auth_a": "a_1" }, "id": "p",
              "bindings": [{ "block": "auth_a", "credential": "a_1", "hosts": ["a.test"], "methods": ["GET"] }],
              "passages": [], "notes": ["line 3 is left out"] } },
            { "account": "2", "error": "block auth_a: there is no credential a_2" },
        ] });
        let text = many_in_words(&made, false);
        assert!(text.starts_with("applied\nid           p\n") && text.contains("auth_a=a_1"), "{text}");
        assert!(text.contains("note: line 3 is left out\n\naccount 2: block auth_a: there is no"), "{text}");
        assert!(many_in_words(&made, true).starts_with("would be applied\n"));
    }
}
