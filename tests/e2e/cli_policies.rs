//! Policies on the command line: against the store of this host and against a running Countersign.

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, countersign, raw, text, tool};

/// What no output may show.
const CANARY: &str = "canary-0123456789abcdef";

/// Asks Jira, and a price list that needs no credential.
const TEMPLATE: &str = r#"
name "Old tickets"
credentials "auth_jira" do
  schemes "api_key"
  label "Jira"
  tags "provider=jira"
end

datasource "ds_tickets" do
  request do
    auth $auth_jira
    host "jira.test"
    path "/rest/api/search"
  end
end
datasource "ds_prices" do
  request do
    host "prices.test"
    path "/list.json"
  end
end
"#;

/// A second block, so that more than one thing can be wrong.
const MORE: &str = r#"
credentials "auth_github" do
  schemes "api_key", "basic"
  label "GitHub"
end
datasource "ds_seats" do
  request do
    auth $auth_github
    host "api.github.test"
    path "/seats"
  end
end
"#;

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }

    fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }

    /// It was refused with this code, and says all of this.
    fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part}: {}", self.err);
        }
    }
}

fn command(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = countersign(arguments);
    let temporary = folder.join("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    command.current_dir(folder).env("TMPDIR", temporary).envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

/// Runs a command, which never shows the secret, and leaves nothing behind.
fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let output = command(folder, arguments, variables).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said = Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!said.out.contains(CANARY) && !said.err.contains(CANARY), "{arguments:?}\n{}{}", said.out, said.err);
    assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count(), 0, "{arguments:?} left something behind");
    said
}

fn files(folder: &Path) {
    std::fs::write(folder.join("key"), format!("{CANARY}\n")).unwrap();
    std::fs::write(folder.join("tickets.pt"), TEMPLATE).unwrap();
    std::fs::write(folder.join("both.pt"), format!("{TEMPLATE}{MORE}")).unwrap();
}

/// A folder with a configuration, the templates and a store with a credential for Jira.
fn host(config: &str) -> tempfile::TempDir {
    host_trusting(config, &Root::new())
}

/// The same, whose origins have certificates of this root.
fn host_trusting(config: &str, root: &Root) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    let config = config.replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(folder.path().join("countersign.yaml"), config).unwrap();
    files(folder.path());
    put(folder.path(), "default", "jira", &[]);
    folder
}

fn put(folder: &Path, account: &str, id: &str, variables: &[(&str, &str)]) {
    let put = ["credential", "put", id, "--account", account, "--scheme", "api_key", "--host", "jira.test"];
    let more = ["--secret", "key=@key", "--tag", "provider=jira"];
    run(folder, &[&put[..], &more].concat(), variables).done();
}

#[test]
fn a_template_is_matched_applied_shown_and_removed_in_the_store_of_this_host() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str]| run(host.path(), arguments, &[]);
    let matched = run(&["policy", "match", "both.pt"]).done().json();
    assert_eq!(matched["blocks"][0]["fits"][0]["credential"], "jira");
    assert_eq!(matched["blocks"][0]["fits"][0]["rank"], "exact");
    let reasons = matched["blocks"][1]["others"][0]["reasons"].to_string();
    assert!(reasons.contains("api.github.test"), "{matched}");
    let shown = run(&["policy", "match", "--table", "both.pt"]).done().out;
    assert!(shown.starts_with("auth_jira\nRANK") && shown.contains("DOES NOT FIT"), "{shown}");
    // A choice that cannot work names everything that is wrong with it, and nothing is applied.
    let wrong =
        ["policy", "apply", "both.pt", "--credential", "auth_jira=nonesuch", "--credential", "auth_github=jira"];
    run(&wrong).refused(1, &["auth_jira", "not found", "auth_github", "api.github.test"]);
    run(&["policy", "apply", "tickets.pt"]).refused(1, &["auth_jira", "no credential was chosen"]);
    let apply = ["policy", "apply", "tickets.pt", "--id", "tickets", "--credential", "auth_jira=jira"];
    let proposed = run(&[&apply[..], &["--dry-run"]].concat()).done().json();
    assert_eq!(proposed["bindings"][0]["hosts"], json!(["jira.test"]));
    assert!(proposed["created"].is_null(), "{proposed}");
    assert_eq!(run(&["policy", "list"]).done().json(), json!({ "policies": [] }));
    let made = run(&apply).done().json();
    assert_eq!((&made["id"], &made["name"]), (&"tickets".into(), &"Old tickets".into()));
    assert_eq!(made["bindings"], proposed["bindings"]);
    run(&apply).refused(1, &["tickets"]);
    assert_eq!(run(&["policy", "list"]).done().json()["policies"][0]["credentials"], json!({ "auth_jira": "jira" }));
    let shown = run(&["policy", "show", "tickets", "--table"]).done().out;
    let line = "auth_jira  jira        GET      jira.test";
    assert!(shown.contains(line) && shown.contains("prices.test") && shown.contains("no run yet"), "{shown}");
    run(&["policy", "remove", "tickets"]).done();
    run(&["policy", "show", "tickets"]).refused(1, &["no applied policy tickets"]);
    run(&["policy", "remove", "tickets"]).refused(1, &["no applied policy tickets"]);
    // Loose, and the selection as Flexera's tool writes it.
    let listed = ["policy", "apply", "tickets.pt", "--credentials", "auth_jira=jira", "--loose", "--name", "Mine"];
    let loose = run(&listed).done().json();
    assert_eq!((&loose["loose"], &loose["name"]), (&true.into(), &"Mine".into()));
    for wrong in [
        &["policy", "apply", "tickets.pt", "--credential", "auth_jira"][..],
        &["policy", "apply", "tickets.pt", "--credential", "auth_jira=a", "--credentials", "auth_jira=b"],
        &["policy", "match", "tickets.pt", "--parameter", "=x"],
        &["policy", "show"],
        &["policy", "show", "tickets", "--run", "r"],
        &["policy", "remove"],
        &["policy", "run", "--applied", "tickets"],
    ] {
        assert_eq!(run(wrong).code, 64, "{wrong:?}");
    }
    // An engine with another language declares the same.
    let declared = "- name: auth_jira\n  schemes: [api_key]\n  tags: { provider: jira }\n  uses: [{ method: GET, host: jira.test, path: / }]\n";
    std::fs::write(host.path().join("engine.yaml"), declared).unwrap();
    let made = run(&["policy", "apply", "engine.yaml", "--credential", "auth_jira=jira", "--dry-run"]).done().json();
    assert_eq!((&made["bindings"], &made["passages"]), (&proposed["bindings"], &json!([])));
    std::fs::write(host.path().join("wrong.yaml"), "- name: auth_jira\n  scheme: api_key\n  tag: x\n").unwrap();
    run(&["policy", "match", "wrong.yaml"]).refused(1, &["line 3", "tag"]);
    run(&["policy", "match", "nonesuch.pt"]).refused(1, &["nonesuch.pt"]);
    std::fs::write(host.path().join("nothing.pt"), "name \"X\"\n").unwrap();
    run(&["policy", "match", "nothing.pt"]).refused(1, &["declares no credentials"]);
}

#[test]
fn one_template_is_applied_to_many_accounts_each_with_its_own_credential() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str]| run(host.path(), arguments, &[]);
    for account in ["1001", "1002"] {
        put(host.path(), account, &format!("jira_{account}"), &[]);
    }
    let apply = ["policy", "apply", "tickets.pt", "--id", "t", "--credential", "auth_jira=jira_{project_id}"];
    let both = run(&[&apply[..], &["--account", "1001,1002"]].concat()).done().json();
    let chosen = |index: usize| both["results"][index]["policy"]["credentials"]["auth_jira"].clone();
    assert_eq!((chosen(0), chosen(1)), (json!("jira_1001"), json!("jira_1002")));
    let other = ["policy", "apply", "tickets.pt", "--id", "u", "--credential", "auth_jira=jira_{project_id}"];
    let some = ["--account", "1001", "--account", "1003", "--dry-run"];
    run(&[&apply[..], &some].concat()).refused(1, &["refused for 2 of 2 accounts"]);
    let some = run(&[&other[..], &some].concat());
    some.refused(1, &["refused for 1 of 2 accounts: 1003"]);
    let results = some.json()["results"].clone();
    assert!(results[0]["error"].is_null() && results[1]["error"].as_str().unwrap().contains("auth_jira"), "{results}");
    let shown = run(&[&apply[..], &["--account", "1004,1003", "--table"]].concat());
    shown.refused(1, &["1004, 1003"]);
    assert!(shown.out.contains("account 1003: "), "{}", shown.out);
    let of_two = run(&["policy", "list", "--account", "1002"]).done().json();
    assert_eq!(of_two["policies"][0]["asked"], json!({ "auth_jira": "jira_{project_id}" }));
    assert_eq!(run(&["policy", "list"]).done().json(), json!({ "policies": [] }));
    // An organization that an account's name does not tell.
    let of_org = ["policy", "apply", "tickets.pt", "--credential", "auth_jira=jira_{org_id}", "--account", "1001"];
    run(&of_org).refused(1, &["give its number"]);
    run(&[&of_org[..], &["--org", "1001"]].concat()).done();
}

/// A configuration with everything but a store or an API; both hosts of the template are one origin.
fn config(origin: &Origin) -> Config {
    let config = Config::new().credentials("  []\n").bindings("  []\n");
    let hosts = ["jira.test:443", "prices.test:443", "other.test:443"];
    hosts.into_iter().fold(config, |config, host| config.resolve(host, origin.address))
}

fn text_of(config: &Config) -> String {
    config.text().replace("credentials:\n  []", "credentials: []").replace("bindings:\n  []", "bindings: []")
}

async fn origin(root: &Root) -> Origin {
    let answer = |seen: &crate::support::Seen| match seen.header("authorization") {
        // What it was sent is not shown to the command, which would print it.
        Some(sent) if sent == format!("Bearer {CANARY}") => text(200, "signed\n"),
        _ => text(200, "unsigned\n"),
    };
    Origin::https_with(root, &["jira.test", "prices.test", "other.test"], &["http/1.1"], answer).await
}

/// What an engine does: calls what it may, what it may not, looks around, and fails with 7.
const ENGINE: &str = r#"
printf '%s' "$https_proxy" > proxy
for file in /proc/[0-9]*/cmdline; do tr '\0' ' ' < $file; echo; done > arguments 2>/dev/null
env > environment
curl -sS https://jira.test/rest/api/search
curl -sS -H 'Countersign-Credential: auth_jira' https://jira.test/rest/api/search
curl -sS https://prices.test/list.json
curl -sS -o /dev/null -w '%{http_code}\n' -X DELETE https://jira.test/rest/api/search
curl -sS -o /dev/null -w '%{http_connect}\n' https://other.test/
curl -sS -o /dev/null -w '%{http_connect}\n' -x "http://${https_proxy#*@}" https://jira.test/
exit 7
"#;

/// What the engine left in its folder: the token, after a look that it stands where it may and nowhere else.
fn token(folder: &Path, said: &Said) -> String {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let proxy = read("proxy");
    let token = proxy.split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(proxy.starts_with("http://run-") && token.starts_with("cs_"), "{proxy}");
    for (place, shown) in [("arguments", read("arguments")), ("output", said.out.clone()), ("log", said.err.clone())] {
        assert!(!shown.contains(&token), "the token stands in {place}");
    }
    for line in read("environment").lines().filter(|line| line.contains(&token)) {
        assert!(line.to_lowercase().contains("proxy="), "{line}");
    }
    token
}

/// The run that a command said was over.
fn run_of(said: &Said) -> String {
    let (_, rest) = said.err.split_once("policy show --run ").unwrap_or_else(|| panic!("{}", said.err));
    rest.split('`').next().unwrap().to_owned()
}

fn engine_was_confined(said: &Said, origin: &Origin) {
    assert_eq!(said.code, 7, "{}{}", said.out, said.err);
    assert_eq!(said.out, "signed\nsigned\nunsigned\n403\n403\n407\n", "{}", said.err);
    assert!(said.err.contains("made 3 calls, and 2 more were refused"), "{}", said.err);
    assert_eq!(origin.seen().len(), 3);
}

fn report_tells(report: &Value, shown: &str) {
    assert_eq!((&report["lives"], &report["policyName"]), (&false.into(), &"Old tickets".into()), "{report}");
    let sufficient = json!([{ "credential": "jira", "hosts": ["jira.test"], "methods": ["GET"], "source": "store" }]);
    assert_eq!(report["sufficient"], sufficient);
    assert_eq!(report["unused"], json!([]));
    assert!(shown.contains("state    ended") && shown.contains("refused:\nCREDENTIAL"), "{shown}");
    let pasted = "-1 --credential jira --host jira.test --method GET";
    assert!(shown.contains("countersign binding --account default put run-") && shown.contains(pasted), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_under_a_lease_with_a_proxy_of_its_own() {
    if tool("policy run", "curl").is_none() {
        return;
    }
    let root = Root::new();
    let origin = origin(&root).await;
    let host = host_trusting(&text_of(&config(&origin).rest("store: {}\n")), &root);
    let run = |arguments: &[&str]| run(host.path(), arguments, &[("COUNTERSIGN_TOKEN", "not-for-the-command")]);
    run(&["policy", "apply", "tickets.pt", "--id", "tickets", "--credential", "auth_jira=jira"]).done();
    let said = run(&["policy", "run", "--applied", "tickets", "--", "sh", "-c", ENGINE]);
    engine_was_confined(&said, &origin);
    token(host.path(), &said);
    let environment = std::fs::read_to_string(host.path().join("environment")).unwrap();
    assert!(!environment.contains("not-for-the-command"), "{environment}");
    let id = run_of(&said);
    let shown = run(&["policy", "show", "--run", &id, "--table"]).done().out;
    report_tells(&run(&["policy", "show", "--run", &id]).done().json(), &shown);
    let runs = run(&["policy", "show", "tickets"]).done().json()["runs"].clone();
    assert_eq!((&runs[0]["id"], &runs[0]["lives"]), (&id.into(), &false.into()));
    // It is on record, in one chain or the other.
    let found = run(&["audit", "search", "--json"]).done().out;
    assert!(found.contains("run.start") && found.contains("run.end"), "{found}");
    run(&["audit", "verify"]).done();
    // What cannot begin says what to change, and leaves no run behind.
    run(&["policy", "run", "--applied", "nonesuch", "--", "true"]).refused(1, &["nonesuch", "countersign policy list"]);
    let long = ["policy", "run", "--applied", "tickets", "--lifetime", "25h", "--", "true"];
    run(&long).refused(1, &["lifetime", "24 hours"]);
    let absent = run(&["policy", "run", "--applied", "tickets", "--", "/no/such/engine"]);
    absent.refused(127, &["/no/such/engine"]);
    assert_eq!(run(&["policy", "show", "--run", &run_of(&absent)]).done().json()["lives"], false);
    let nothing = tempfile::tempdir().unwrap();
    std::fs::write(nothing.path().join("countersign.yaml"), "listeners: {}\n").unwrap();
    let bare = self::run(nothing.path(), &["policy", "run", "--applied", "x", "--", "true"], &[]);
    bare.refused(78, &["store: {}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_under_a_lease_of_a_countersign_that_serves() {
    if tool("policy run with a server", "curl").is_none() {
        return;
    }
    let root = Root::new();
    let origin = origin(&root).await;
    let text = text_of(&config(&origin).rest("admin: { address: 127.0.0.1:0 }\n"));
    let proxy = Proxy::start_with(&text, &[], |folder| std::fs::write(folder.join("origin.pem"), root.pem()).unwrap());
    let folder = proxy.folder.path();
    files(folder);
    let server = format!("http://{}", proxy.address("admin", 0));
    let management = std::fs::read_to_string(folder.join("state/admin-token")).unwrap();
    let variables = [("COUNTERSIGN_SERVER", &*server), ("COUNTERSIGN_TOKEN", management.trim())];
    let run = |arguments: &[&str]| run(folder, arguments, &variables);
    put(folder, "default", "jira", &variables);
    run(&["policy", "apply", "tickets.pt", "--id", "tickets", "--credential", "auth_jira=jira"]).done();
    let said = run(&["policy", "run", "--applied", "tickets", "--lifetime", "10m", "--", "sh", "-c", ENGINE]);
    engine_was_confined(&said, &origin);
    let token = token(folder, &said);
    assert!(!std::fs::read_to_string(folder.join("environment")).unwrap().contains(management.trim()));
    let id = run_of(&said);
    let shown = run(&["policy", "show", "--run", &id, "--table"]).done().out;
    report_tells(&run(&["policy", "show", "--run", &id]).done().json(), &shown);
    // The run is over: its token proves nothing any more.
    let head = "CONNECT jira.test:443 HTTP/1.1\r\nHost: jira.test:443\r\n";
    let refused = raw(&proxy.forward(), format!("{head}Proxy-Authorization: Bearer {token}\r\n\r\n").as_bytes());
    assert_eq!((refused.status(), refused.code().as_str()), (407, "caller_unknown"), "a run that is over still calls");
    assert_eq!(origin.seen().len(), 3);
    // Beside it, a run with a proxy of its own over the same store.
    let call = "curl -sS https://jira.test/rest/api/search";
    let beside = self::run(folder, &["policy", "run", "--applied", "tickets", "--", "sh", "-c", call], &[]).done();
    assert_eq!(beside.out, "signed\n", "{}", beside.err);
    let report = run(&["policy", "show", "--run", &run_of(&beside)]).done().json();
    assert_eq!((&report["uses"][0]["count"], &report["lives"]), (&1.into(), &false.into()), "{report}");
    // A viewer may look, and not run.
    let viewer = run(&["token", "add", "look", "--role", "viewer"]).done().json()["token"].as_str().unwrap().to_owned();
    let variables = [("COUNTERSIGN_SERVER", &*server), ("COUNTERSIGN_TOKEN", &*viewer)];
    let look = |arguments: &[&str]| self::run(folder, arguments, &variables);
    look(&["policy", "match", "tickets.pt"]).done();
    look(&["policy", "show", "tickets"]).done();
    look(&["policy", "run", "--applied", "tickets", "--", "true"]).refused(1, &["manager"]);
    // A run can be ended by somebody else; the command is not hindered by that, and its calls are refused.
    let manager = Manager::of(&proxy);
    let runs = manager.done("GET", "/v1/accounts/default/applied-policies/tickets/runs", None).await;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2, "who may not run began none: {runs}");
    let other = manager.done("POST", "/v1/accounts/default/applied-policies/tickets/runs", Some(json!({}))).await;
    let other = other["id"].as_str().unwrap();
    run(&["policy", "remove", "--run", other]).done();
    assert_eq!(run(&["policy", "show", "--run", other]).done().json()["lives"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_countersign_that_no_run_could_call_says_so_and_keeps_no_run() {
    let text = "listeners: { forward: [{ address: \"unix:FOLDER/proxy.sock\" }] }\nadmin: { address: 127.0.0.1:0 }\n";
    let proxy = Proxy::start_with(text, &[], |_| {});
    let folder = proxy.folder.path();
    files(folder);
    let server = format!("http://{}", proxy.address("admin", 0));
    let at = ["--server", &server, "--token-file", "state/admin-token"];
    let run = |arguments: &[&str]| run(folder, arguments, &[]);
    let put = ["credential", "put", "jira", "--scheme", "api_key", "--host", "jira.test", "--secret", "key=@key"];
    run(&[&put[..], &at].concat()).done();
    let apply = ["policy", "apply", "tickets.pt", "--id", "t", "--credential", "auth_jira=jira"];
    run(&[&apply[..], &at].concat()).done();
    let begin = [&["policy", "run", "--applied", "t"][..], &at, &["--", "true"]].concat();
    let said = run(&begin);
    said.refused(1, &["listeners.forward", "made 0 calls"]);
    let report = run(&[&["policy", "show", "--run", &run_of(&said)][..], &at].concat()).done().json();
    assert!(report["lives"] == false && !report["ended"].is_null(), "{report}");
}

#[test]
fn a_command_that_is_killed_ends_its_run_and_signals_reach_it() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str]| run(host.path(), arguments, &[]);
    run(&["policy", "apply", "tickets.pt", "--id", "t", "--credential", "auth_jira=jira"]).done();
    let begin = ["policy", "run", "--applied", "t", "--"];
    let over = |err: &str| {
        let said = Said { code: 0, out: String::new(), err: err.to_owned() };
        let report = run(&["policy", "show", "--run", &run_of(&said)]).done().json();
        assert!(report["lives"] == false && !report["ended"].is_null(), "{report}");
    };
    let killed = run(&[&begin[..], &["sh", "-c", "kill -KILL $$"]].concat());
    assert_eq!(killed.code, 137, "{}", killed.err);
    over(&killed.err);
    for (signal, script, code) in [
        ("TERM", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done", 9),
        ("INT", "trap - INT; echo ready; exec sleep 600", 130),
    ] {
        let arguments = [&begin[..], &["bash", "-c", script]].concat();
        let mut child = command(host.path(), &arguments, &[]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal}: {err}");
        over(&err);
    }
}

#[test]
fn the_tools_of_a_provider_get_worthless_keys_where_the_policy_signs_for_it() {
    let host = host("store: {}\n");
    let run =
        |arguments: &[&str]| run(host.path(), arguments, &[("AWS_ACCESS_KEY_ID", "AKIAREAL"), ("AWS_PROFILE", "p")]);
    let template = "credentials \"auth_aws\" do schemes \"aws\"; label \"AWS\"; end\n\
                    datasource \"d\" do\n request do\n auth $auth_aws\n host \"sts.amazonaws.com\"\n path \"/\"\n end\nend\n";
    std::fs::write(host.path().join("aws.pt"), template).unwrap();
    let put = ["credential", "put", "aws", "--scheme", "aws", "--set", "access_key=AKIDEXAMPLE"];
    run(&[&put[..], &["--secret", "secret_key=@key"]].concat()).done();
    run(&["policy", "apply", "aws.pt", "--id", "aws", "--credential", "auth_aws=aws"]).done();
    run(&["policy", "apply", "tickets.pt", "--id", "jira", "--credential", "auth_jira=jira"]).done();
    let keys = |policy: &str| {
        let script = "echo $AWS_ACCESS_KEY_ID $AWS_PROFILE";
        run(&["policy", "run", "--applied", policy, "--", "sh", "-c", script]).done().out
    };
    assert_eq!(keys("aws"), "AKIACOUNTERSIGN00000\n");
    assert_eq!(keys("jira"), "AKIAREAL p\n", "what no credential of the policy is for stays");
}
