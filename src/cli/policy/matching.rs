//! `countersign policy match`: which credentials fit a template, and why the others do not.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::{Condition, path};
use super::super::output::{cell, plain, table};
use super::super::{Context, Failure};
use super::{Place, each, pairs, template};

#[derive(Args)]
#[command(after_help = "Ranks: exact (tags and every host), provider (tags), scheme (only the scheme).\n\
                        Example: countersign policy match --account team-a old-snapshots.pt")]
pub(super) struct Match {
    /// A parameter of the template, on which its hosts may depend; repeat it for several
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Whatever the tags are; the scheme always has to fit
    #[arg(long)]
    all: bool,
    /// A policy template, or a declaration in JSON or YAML; - is standard input
    template: String,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(context: &Context, given: &Match) -> Result<u8, Failure> {
    let body = json!({
        "template": template(&given.template)?,
        "parameters": pairs("--parameter", "NAME=VALUE", &given.parameters)?,
        "all": given.all,
    });
    let (client, output) = given.place.open(context).await?;
    let at = path(&given.place.account, &["policies", "match"]);
    let found = client.send(Method::POST, &at, &body, Condition::None).await?.body;
    output.answer(&found, || in_words(&found, &given.template));
    Ok(0)
}

fn in_words(found: &Value, file: &str) -> String {
    let mut parts: Vec<String> = each(found, "blocks").map(block_in_words).collect();
    let errors = each(found, "errors");
    let errors: Vec<String> = errors.map(|issue| unread(issue, file)).collect();
    if !errors.is_empty() {
        parts.push(errors.join("\n"));
    }
    parts.join("\n\n")
}

/// `FILE:7:3: what is wrong`.
fn unread(issue: &Value, file: &str) -> String {
    plain(&format!("{file}:{}:{}: {}", cell(issue, "line"), cell(issue, "column"), cell(issue, "message")))
}

fn block_in_words(block: &Value) -> String {
    let fits = each(block, "fits").map(|one| {
        let text = |key| cell(one, key).replace('_', " ");
        let notes = sentences(one, "notes");
        vec![text("rank"), cell(one, "credential"), cell(one, "scheme"), text("hosts"), text("audience"), notes]
    });
    let names = ["RANK", "CREDENTIAL", "SCHEME", "HOSTS", "AUDIENCE", "NOTE"];
    let mut lines = vec![plain(&cell(block, "block")), table(&names, fits, "nothing fits")];
    let others = each(block, "others");
    let others = others.map(|one| vec![cell(one, "credential"), cell(one, "scheme"), sentences(one, "reasons")]);
    let others = table(&["DOES NOT FIT", "SCHEME", "BECAUSE"], others, "");
    if !others.is_empty() {
        lines.push(String::new());
        lines.push(others);
    }
    lines.join("\n")
}

fn sentences(one: &Value, key: &str) -> String {
    each(one, key).filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_shows_what_fits_first_and_every_reason_of_the_rest() {
        let found = json!({
            "blocks": [
                { "block": "auth_aws",
                  "fits": [{ "credential": "aws-prod", "scheme": "aws_sts", "rank": "exact", "hosts": "fits",
                             "audience": "not_told", "notes": ["it assumes a role"] }],
                  "others": [{ "credential": "spot", "scheme": "api_key", "reasons": ["its scheme is api_key", "it is off"] }] },
                { "block": "auth_x", "fits": [], "others": [] },
            ],
            "errors": [{ "line": 3, "column": 9, "message": "no end" }],
        });
        let text = in_words(&found, "a.pt");
        let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        assert!(position("aws-prod") < position("spot"), "{text}");
        assert!(text.contains("not told") && text.contains("its scheme is api_key; it is off"), "{text}");
        assert!(text.contains("auth_x\nnothing fits\n") && text.ends_with("a.pt:3:9: no end"), "{text}");
    }
}
