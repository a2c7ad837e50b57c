//! `countersign policy list` and `countersign policy show`: applied policies, their runs, and what a run did.

use clap::Args;
use serde_json::Value;

use super::super::client::path;
use super::super::output::{cell, facts, table};
use super::super::{Context, Failure};
use super::{Place, Which, allowed, each, selection};

/// So many runs of a policy are shown; the API has the rest.
const NEWEST: &str = "10";

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  countersign policy show snapshots\n  countersign policy show --run 0a1b2c3d\n\n\
                        What a run did can be looked up for 90 days. The bindings at its end are those that would have \
                        sufficed: as the file takes them for its credentials, as commands for those of the store.")]
pub(super) struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn list(context: &Context, given: &List) -> Result<u8, Failure> {
    let account = given.place.account.as_str();
    let (client, output) = given.place.open(context).await?;
    let policies = client.get(&path(account, &["applied-policies"])).await?;
    output.answer(&policies, || {
        let row = |one: &Value| {
            vec![cell(one, "id"), cell(one, "name"), selection(one), cell(one, "created.at"), cell(one, "created.by")]
        };
        let none = format!("no policy is applied to account {account}");
        table(&["ID", "NAME", "CREDENTIALS", "APPLIED", "BY"], each(&policies, "policies").map(row), &none)
    });
    Ok(0)
}

pub(super) async fn run(context: &Context, given: &Show) -> Result<u8, Failure> {
    let account = given.place.account.as_str();
    let (client, output) = given.place.open(context).await?;
    if let Some(run) = &given.which.run {
        let report = client.get(&path(account, &["runs", run])).await?;
        output.answer(&report, || report_in_words(&report));
        return Ok(0);
    }
    let id = given.which.id.as_deref().unwrap_or_default();
    let mut policy = client.get(&path(account, &["applied-policies", id])).await?;
    let runs = path(account, &["applied-policies", id, "runs"]);
    let mut runs = client.get(&format!("{runs}?limit={NEWEST}")).await?;
    policy["runs"] = runs["runs"].take();
    output.answer(&policy, || policy_in_words(&policy));
    Ok(0)
}

fn change(document: &Value, key: &str) -> String {
    match &document[key] {
        Value::Null => String::new(),
        change => format!("{} by {}", cell(change, "at"), cell(change, "by")),
    }
}

fn policy_in_words(policy: &Value) -> String {
    let loose = if policy["loose"] == true { "yes: the credentials' own hosts" } else { "" };
    let about = facts(&[
        ("id", cell(policy, "id")),
        ("account", cell(policy, "account")),
        ("name", cell(policy, "name")),
        ("credentials", selection(policy)),
        ("asked for", cell(policy, "asked")),
        ("parameters", cell(policy, "parameters")),
        ("loose", loose.into()),
        ("applied", change(policy, "created")),
    ]);
    let runs = each(policy, "runs").map(|one| {
        let until = if one["ended"].is_null() { cell(one, "expiresAt") } else { cell(one, "ended.at") };
        vec![cell(one, "id"), state(one), cell(one, "created.at"), until, cell(one, "created.by")]
    });
    let runs = table(&["RUN", "STATE", "FROM", "UNTIL", "BY"], runs, "there was no run yet");
    [about, allowed(policy), runs].join("\n\n")
}

/// Whether a run's token still proves it.
fn state(run: &Value) -> String {
    let state = match (&run["lives"], &run["ended"]) {
        (Value::Bool(true), _) => "running",
        (_, Value::Null) => "expired",
        _ => "ended",
    };
    state.to_owned()
}

fn report_in_words(report: &Value) -> String {
    let about = facts(&[
        ("run", cell(report, "id")),
        ("policy", format!("{} ({})", cell(report, "policy"), cell(report, "policyName"))),
        ("account", cell(report, "account")),
        ("state", state(report)),
        ("from", change(report, "created")),
        ("ended", change(report, "ended")),
        ("until", if report["ended"].is_null() { cell(report, "expiresAt") } else { String::new() }),
        ("never used", cell(report, "unused")),
    ]);
    let calls = |key: &str, none: &str| {
        let rows = each(report, key).map(|one| {
            let host = cell(one, "host");
            vec![
                cell(one, "credential"),
                if host.is_empty() { "(many)".into() } else { host },
                cell(one, "method"),
                cell(one, "outcome"),
                cell(one, "count"),
                cell(one, "lastUsed"),
            ]
        });
        table(&["CREDENTIAL", "HOST", "METHOD", "OUTCOME", "COUNT", "LAST"], rows, none)
    };
    let mut parts = vec![about, calls("uses", "it called nobody")];
    let refused = calls("refused", "");
    if !refused.is_empty() {
        parts.push(format!("refused:\n{refused}"));
    }
    let (bindings, commands) = sufficient(report);
    if !bindings.is_empty() {
        parts.push(format!("would have sufficed, in the configuration file:\nbindings:\n{bindings}"));
    }
    if !commands.is_empty() {
        parts.push(format!("would have sufficed:\n{commands}"));
    }
    parts.join("\n\n")
}

/// The bindings that would have sufficed: of the file's credentials as it takes them under `bindings`, of the store's as
/// commands.
fn sufficient(report: &Value) -> (String, String) {
    // JSON is YAML, and quotes whatever would be something else without quotes.
    let quoted = |key: &str, one: &Value| one[key].to_string();
    let of_file = |one: &Value| {
        let (credential, hosts) = (quoted("credential", one), quoted("hosts", one));
        let cleartext = if one["allowCleartext"] == true { ", allow_cleartext: true" } else { "" };
        let methods = quoted("methods", one);
        format!("  - {{ credential: {credential}, hosts: {hosts}, methods: {methods}{cleartext} }}")
    };
    let list = |key: &str, one: &Value| each(one, key).filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let account = cell(report, "account");
    let of_store = |(number, one): (usize, &Value)| {
        let (id, credential) = (format!("run-{}-{}", cell(report, "id"), number + 1), cell(one, "credential"));
        let mut words = ["countersign", "binding", "--account", &account, "put", &id].map(str::to_owned).to_vec();
        words.extend(["--credential".into(), credential, "--host".into(), list("hosts", one)]);
        words.extend(["--method".into(), list("methods", one)]);
        if one["allowCleartext"] == true {
            words.push("--allow-cleartext".into());
        }
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
    };
    let is_files = |one: &&Value| one["source"] == "file";
    let bindings: Vec<_> = each(report, "sufficient").filter(is_files).map(of_file).collect();
    let commands = each(report, "sufficient").filter(|one| !is_files(one)).enumerate().map(of_store);
    (bindings.join("\n"), commands.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Document;

    fn report() -> Value {
        json!({
            "id": "r1", "policy": "p1", "policyName": "Snapshots", "account": "default", "lives": false,
            "created": { "at": "2027-01-01T00:00:00Z", "by": "local" },
            "ended": { "at": "2027-01-01T00:10:00Z", "by": "local" }, "expiresAt": "2027-01-01T01:00:00Z",
            "uses": [
                { "credential": "aws", "host": "ec2.eu-west-1.amazonaws.com", "method": "GET", "outcome": "used",
                  "count": 3, "lastUsed": "2027-01-01T00:09:00Z" },
                { "host": "prices.test", "method": "GET", "outcome": "passed", "count": 1, "lastUsed": "x" },
            ],
            "refused": [{ "method": "GET", "outcome": "unbound", "count": 2, "lastUsed": "x" }],
            "unused": ["auth_flexera"],
            "sufficient": [
                { "credential": "no", "hosts": ["a.test:8443", "[::1]"], "methods": ["GET"], "source": "file" },
                { "credential": "k", "hosts": ["a.test", "b.test"], "methods": ["GET", "PUT"], "source": "store",
                  "allowCleartext": true },
            ],
        })
    }

    #[test]
    fn what_a_run_did_has_its_calls_what_it_never_used_and_what_was_refused() {
        let text = report_in_words(&report());
        let lines: Vec<String> =
            text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "policy p1 (Snapshots)",
            "state ended",
            "never used auth_flexera",
            "aws ec2.eu-west-1.amazonaws.com GET used 3 2027-01-01T00:09:00Z",
            "prices.test GET passed 1 x",
            "(many) GET unbound 2 x",
        ] {
            assert!(lines.iter().any(|one| one == line), "{line}: {text}");
        }
        let nothing = report_in_words(&json!({ "id": "r", "lives": true }));
        assert!(nothing.contains("it called nobody") && nothing.contains("running"), "{nothing}");
        assert!(!nothing.contains("refused") && !nothing.contains("bindings"), "{nothing}");
    }

    #[test]
    fn what_would_have_sufficed_is_read_back_as_it_was_meant() {
        let (bindings, commands) = sufficient(&report());
        let document = Document::parse(&format!("bindings:\n{bindings}\n")).unwrap();
        let expected = json!([{ "credential": "no", "hosts": ["a.test:8443", "[::1]"], "methods": ["GET"] }]);
        assert_eq!(document.value("bindings"), expected);
        let expected = "countersign binding --account default put run-r1-1 --credential k --host 'a.test,b.test' \
                        --method 'GET,PUT' --allow-cleartext";
        assert_eq!(commands, expected);
    }

    #[test]
    fn an_applied_policy_shows_what_it_may_use_and_its_runs() {
        let mut policy = json!({
            "id": "p1", "account": "default", "name": "Snapshots", "credentials": { "auth_aws": "aws" },
            "parameters": { "param_zone": "eu" }, "created": { "at": "2027-01-01T00:00:00Z", "by": "local" },
            "loose": false, "bindings": [], "passages": [],
            "runs": [{ "id": "r1", "lives": false, "expiresAt": "2027-01-01T01:00:00Z",
                       "created": { "at": "2027-01-01T00:00:00Z", "by": "local" } }],
        });
        let text = policy_in_words(&policy);
        assert!(text.contains("auth_aws=aws") && text.contains("param_zone=eu") && text.contains("expired"), "{text}");
        assert!(!text.contains("loose"), "{text}");
        policy["runs"] = json!([]);
        policy["loose"] = true.into();
        let text = policy_in_words(&policy);
        assert!(text.contains("there was no run yet") && text.contains("loose"), "{text}");
    }
}
