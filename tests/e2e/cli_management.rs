//! Management on the command line: against the store of this host and against a running Countersign, on a terminal and
//! elsewhere.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::management::Manager;
use crate::support::{Config, Origin, Proxy, Root, binary, countersign, kit, measured, raw, text};

const CANARY: &str = "canary-0123456789abcdef";

/// A folder with a configuration and nothing else.
fn host(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("countersign.yaml"), config).unwrap();
    std::fs::write(folder.path().join("key"), format!("{CANARY}\n")).unwrap();
    folder
}

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
}

/// Runs a command, which never shows the secret that it was given.
fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Said {
    use std::io::Write;
    let mut command = countersign(arguments);
    command.current_dir(folder).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever does not read its input has closed it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said = Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!said.out.contains(CANARY) && !said.err.contains(CANARY), "{arguments:?}\n{}{}", said.out, said.err);
    said
}

fn local(folder: &Path, arguments: &[&str]) -> Said {
    run(folder, arguments, &[("SECRET_KEY", CANARY)], "")
}

#[test]
fn a_credential_lives_in_the_store_of_this_host() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str]| local(host.path(), arguments);
    assert_eq!(run(&["credential", "list"]).done().json(), json!({"credentials": []}));
    let made = run(&[
        "credential",
        "put",
        "spot",
        "--scheme",
        "api-key",
        "--host",
        "api.test,*.api.test",
        "--name",
        "Spot",
        "--secret",
        "key=@key",
        "--tag",
        "provider=spot",
        "--expires-at",
        "2099-01-31",
        "--set",
        "field=X-Key",
    ]);
    let made = made.done().json();
    assert_eq!(
        (&made["version"], &made["scheme"], &made["secretFields"]),
        (&1.into(), &"api_key".into(), &json!(["key"]))
    );
    assert_eq!(made["hosts"], json!(["api.test", "*.api.test"]));
    assert!(made["expiresAt"].as_str().unwrap().starts_with("2099-01-31T00:00:00"), "{made}");
    assert_eq!(run(&["credential", "show", "spot"]).done().json(), made);
    // Only creating is refused when it is there; a version that is not the present one too.
    let again = ["credential", "put", "spot", "--scheme", "api_key", "--secret", "key=@key"];
    assert_eq!(run(&[&again[..], &["--new"]].concat()).code, 1);
    assert_eq!(run(&[&again[..], &["--if-version", "7"]].concat()).code, 1);
    // What is not mentioned stays, the secret too; where it goes is changed only together with it.
    let patched =
        run(&["credential", "patch", "spot", "--unset", "field", "--untag", "provider", "--disable"]).done().json();
    assert_eq!((&patched["settings"], &patched["tags"], &patched["enabled"]), (&json!({}), &json!({}), &false.into()));
    let refused = run(&["credential", "patch", "spot", "--host", "evil.test"]);
    assert!(refused.code == 1 && refused.err.contains("anew") && refused.err.contains("key"), "{}", refused.err);
    run(&["credential", "patch", "spot", "--host", "other.test", "--secret", "key=@key", "--enable"]).done();
    let versions = run(&["credential", "versions", "spot"]).done().json();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    run(&["credential", "remove", "spot"]).done();
    let gone = run(&["credential", "show", "spot"]);
    assert!(gone.code == 1 && gone.err.contains("there is no credential spot"), "{}", gone.err);
    assert_eq!(run(&["credential", "list"]).done().json()["credentials"], json!([]));
    assert_eq!(run(&["credential", "list", "--removed"]).done().json()["credentials"][0]["removed"], true);
    assert_eq!(run(&["credential", "restore", "spot", "--version", "1"]).done().json()["hosts"], made["hosts"]);
    let tested = run(&["credential", "test", "spot"]).done().json();
    assert_eq!(tested["result"], "signed");
    assert_eq!(run(&["credential", "usage", "spot"]).done().json()["count"], 0);
    assert_eq!(run(&["credential", "list", "--filter", "scheme eq 'basic'"]).done().json()["credentials"], json!([]));
    let wrong = run(&["credential", "list", "--filter", "scheme is 'basic'"]);
    assert!(wrong.code == 1 && wrong.err.contains("filter"), "{}", wrong.err);
    assert_eq!(run(&["account", "list"]).done().json()["accounts"][0]["name"], "default");
    // Whatever was done is on record; what only looked made none.
    let found = run(&["audit", "search", "--json"]).done();
    assert!(found.out.contains("credential.remove") && found.out.contains("\"local\""), "{}", found.out);
    let records = std::fs::read_dir(host.path().join("state/audit")).unwrap().count();
    run(&["credential", "list"]).done();
    assert_eq!(std::fs::read_dir(host.path().join("state/audit")).unwrap().count(), records);
}

#[test]
fn a_secret_is_taken_from_files_and_standard_input_and_never_from_an_argument() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str], input: &str| run(host.path(), arguments, &[("SECRET_KEY", CANARY)], input);
    let put = ["credential", "put", "x", "--scheme", "oauth2", "--set", "grant_type=client_credentials"];
    let url = ["--set", "token_url=https://idp.test/token", "--set", "client_id=me", "--host", "api.test"];
    let put = [&put[..], &url].concat();
    for wrong in [
        &["--set", "client_secret=guess"][..],
        &["--set", "clientSecret=guess"],
        &["--set", "client_secret:=\"guess\""],
        &["--secret", "client_secret=guess"],
        &["--secret", "client_id=@key"],
        &["--set", "client_secret"],
        &["--secret", "client_secret=@-", "--secrets-from", "-"],
        &["--scheme", "nonesuch", "--secret", "key=@key"],
    ] {
        let said = run(&[&put[..], wrong].concat(), "");
        assert!(said.code == 64 && !said.err.contains("guess"), "{wrong:?}: {} {}", said.code, said.err);
    }
    for wrong in
        [&["--secret", "client_secret=@/no/such"][..], &["--secret", "client_secret=@-"], &["--secrets-from", "-"]]
    {
        assert_eq!(run(&[&put[..], wrong].concat(), "").code, 1, "{wrong:?}");
    }
    assert_eq!(run(&["credential", "list"], "").json()["credentials"], json!([]));
    for (right, input) in [
        (&["--secret", "client_secret=@key"][..], String::new()),
        (&["--secret", "client_secret=@-"], format!("{CANARY}\n")),
        (&["--secrets-from", "-"], format!("client_secret: {CANARY}\nadditional_params: {{ resource: {CANARY} }}\n")),
        (&["--secrets-from", "-"], json!({"client_secret": CANARY, "additional_params.resource": CANARY}).to_string()),
    ] {
        let said = run(&[&put[..], right].concat(), &input).done().json();
        assert!(said["secretFields"].as_array().unwrap().contains(&"client_secret".into()), "{said}");
    }
    // Nothing of it stands in any file but the one that it was read from.
    for file in ["countersign.db", "countersign.db-wal"] {
        let bytes = std::fs::read(host.path().join("state").join(file)).unwrap_or_default();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{file}");
    }
}

#[test]
fn an_entry_of_the_configuration_file_is_put_as_it_stands() {
    let host = host("store: {}\n");
    let file = host.path().join("azure.yaml");
    let entry = "id: azure-prod\nscheme: oauth2\ngrant_type: client_credentials\ntoken_url: https://idp.test/token\n\
                 client_id: { env: CLIENT }\nclient_secret: { env: SECRET_KEY }\nadditional_params: { resource: { file: key } }\n\
                 hosts: [management.test]\ntags: { provider: azure_rm }\n";
    std::fs::write(&file, entry).unwrap();
    let run = |arguments: &[&str]| run(host.path(), arguments, &[("SECRET_KEY", CANARY), ("CLIENT", "me")], "");
    let made = run(&["credential", "put", "--file", "azure.yaml", "--account", "team-a"]).done().json();
    assert_eq!((&made["id"], &made["account"]), (&"azure-prod".into(), &"team-a".into()));
    assert_eq!(made["settings"]["clientId"], "me");
    assert_eq!(made["secretFields"], json!(["additional_params.resource", "client_secret"]));
    // What the API shows can be edited and put back; the secrets are given anew.
    std::fs::write(host.path().join("shown.json"), made.to_string().replace("management.test", "other.test")).unwrap();
    let secrets = ["--secret", "client_secret=@key", "--secret", "additional_params.resource=@key"];
    let put = ["credential", "put", "--file", "shown.json", "--account", "team-a"];
    let again = run(&[&put[..], &secrets].concat()).done().json();
    assert_eq!((&again["version"], &again["hosts"]), (&2.into(), &json!(["other.test"])));
    let missing = run(&["credential", "put", "--file", "azure.yaml", "other-id"]);
    assert!(missing.code == 64 && missing.err.contains("about azure-prod"), "{}", missing.err);
    std::fs::write(&file, entry.replace("env: SECRET_KEY", "env: GONE")).unwrap();
    let gone = run(&["credential", "put", "--file", "azure.yaml"]);
    assert!(gone.code == 1 && gone.err.contains("GONE is not set"), "{}", gone.err);
    // Without an id, one is made of the name.
    let named = run(&[
        "credential",
        "put",
        "--name",
        "My Key",
        "--scheme",
        "api_key",
        "--host",
        "a.test",
        "--secret",
        "key=@key",
    ]);
    assert_eq!(named.done().json()["id"], "my-key");
}

/// What a person at a terminal sees.
fn at_terminal(kit: &Path, folder: &Path, script: &Value, arguments: &[&str]) -> (i32, String) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/terminal.py");
    let mut command = Command::new(kit.join("venv/bin/python"));
    command.arg(program).arg(script.to_string()).arg(binary()).args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm").current_dir(folder);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn at_a_terminal_there_are_tables_questions_and_prompts_without_echo() {
    let Some(kit) = kit("cli_terminal") else { return };
    let host = host("store: {}\n");
    let type_it = json!([["key: ", CANARY, true]]);
    let put = ["credential", "put", "spot", "--scheme", "api_key", "--host", "api.test", "--secret", "key"];
    let (code, screen) = at_terminal(&kit, host.path(), &type_it, &put);
    assert!(code == 0 && screen.contains("created") && !screen.contains(CANARY), "{code} {screen}");
    let (code, screen) = at_terminal(&kit, host.path(), &json!([["key: ", "", true]]), &put);
    assert!(code == 1 && screen.contains("nothing was entered"), "{screen}");
    let (_, screen) = at_terminal(&kit, host.path(), &json!([]), &["credential", "list"]);
    assert!(screen.starts_with("ID    SCHEME   NAME  HOSTS     STATE  VERSION"), "{screen}");
    let (_, screen) = at_terminal(&kit, host.path(), &json!([]), &["credential", "list", "--json"]);
    assert!(screen.starts_with('{'), "{screen}");
    let remove = ["credential", "remove", "spot"];
    let (code, screen) = at_terminal(&kit, host.path(), &json!([["[y/N] ", "n", false]]), &remove);
    assert!(code == 1 && screen.contains("nothing was changed"), "{screen}");
    let (code, _) = at_terminal(&kit, host.path(), &json!([]), &["credential", "show", "spot"]);
    assert_eq!(code, 0);
    let (code, screen) = at_terminal(&kit, host.path(), &json!([["[y/N] ", "y", false]]), &remove);
    assert!(code == 0 && screen.contains("removed spot"), "{screen}");
    let (code, screen) = at_terminal(&kit, host.path(), &json!([]), &["credential", "restore", "spot"]);
    assert!(code == 0 && screen.contains("restored"), "{screen}");
    let (code, _) = at_terminal(&kit, host.path(), &json!([]), &[&remove[..], &["--yes"]].concat());
    assert_eq!(code, 0);
    // Where nobody can be asked, how else is said.
    let said = local(host.path(), &["credential", "put", "y", "--scheme", "nonesuch", "--secret", "key"]);
    assert!(said.code == 64 && said.err.contains("unknown scheme"), "a mistake is told before anything is asked for");
}

/// A running Countersign with an admin listener, and an origin that shows what it was sent.
async fn serving(more: &str) -> (Proxy, Origin) {
    let root = Root::new();
    let origin = Origin::http_with(|seen| text(200, seen.header("authorization").unwrap_or("nothing"))).await;
    let config = Config::new().resolve("one.test:80", origin.address).rest(more);
    (config.start(&root), origin)
}

fn get(proxy: &Proxy, more: &str) -> crate::support::Raw {
    raw(&proxy.forward(), format!("GET http://one.test/ HTTP/1.1\r\nHost: one.test\r\n{more}\r\n").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_countersign_is_managed_with_a_token_and_obeys_at_once() {
    let (proxy, _origin) = serving("admin: { address: 127.0.0.1:0 }\n").await;
    let folder = proxy.folder.path();
    std::fs::write(folder.join("key"), "first").unwrap();
    let server = format!("http://{}", proxy.address("admin", 0));
    let token = std::fs::read_to_string(folder.join("state/admin-token")).unwrap();
    let token = token.trim();
    let variables = [("COUNTERSIGN_SERVER", &*server), ("COUNTERSIGN_TOKEN", token)];
    let run = |arguments: &[&str]| run(folder, arguments, &variables, "");
    run(&["credential", "put", "one", "--scheme", "api_key", "--host", "one.test", "--secret", "key=@key"]).done();
    let bind = ["binding", "put", "b", "--credential", "one", "--method", "GET", "--allow-cleartext"];
    assert_eq!(run(&bind).done().json()["methods"], json!(["GET"]));
    let caller = run(&["caller", "add", "runner", "--expires", "1d"]).done();
    let first = caller.json()["token"].as_str().unwrap().to_owned();
    assert!(caller.err.contains("not shown again"), "{}", caller.err);
    let proven = |token: &str| format!("Proxy-Authorization: Bearer {token}\r\n");
    assert!(get(&proxy, &proven(&first)).text.ends_with("Bearer first"));
    let second = run(&["caller", "token", "runner", "--out", "second"]).done();
    assert!(!second.out.contains("cs_"), "{}", second.out);
    let second = std::fs::read_to_string(folder.join("second")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.join("second")).unwrap().permissions())
            & 0o777,
        0o600
    );
    assert!(get(&proxy, &proven(second.trim())).text.ends_with("Bearer first"));
    assert_eq!(run(&["caller", "token", "runner", "--out", "second"]).code, 1, "no file is written over");
    let listed = run(&["caller", "list"]).done().json();
    let tokens = listed["callers"][0]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2, "{listed}");
    run(&["caller", "remove", "runner", "--token", caller.json()["id"].as_str().unwrap()]).done();
    assert_eq!(get(&proxy, &proven(&first)).code(), "caller_unknown");
    assert!(get(&proxy, &proven(second.trim())).text.ends_with("Bearer first"));
    assert_eq!(run(&["credential", "usage", "one"]).done().json()["lastCaller"], "runner");
    run(&["binding", "remove", "b"]).done();
    assert_eq!(get(&proxy, &proven(second.trim())).code(), "unbound");
    assert_eq!(run(&["binding", "list"]).done().json()["bindings"], json!([]));
    // Rights: a viewer sees and changes nothing.
    let viewer = run(&["token", "add", "look", "--role", "viewer", "--account", "default"]).done().json();
    let viewer = viewer["token"].as_str().unwrap().to_owned();
    let asked = |arguments: &[&str], token: &str| {
        let variables = [("COUNTERSIGN_SERVER", &*server), ("COUNTERSIGN_TOKEN", token)];
        self::run(folder, arguments, &variables, "")
    };
    asked(&["credential", "list"], &viewer).done();
    let refused = asked(&["credential", "remove", "one"], &viewer);
    assert!(refused.code == 1 && refused.err.contains("lacks the role manager"), "{}", refused.err);
    run(&["token", "remove", "look"]).done();
    let refused = asked(&["credential", "list"], &viewer);
    assert!(refused.code == 1 && refused.err.contains("does not accept the management token"), "{}", refused.err);
    // The same store from the command line of this host: the process that serves it learns of it.
    run(&["binding", "put", "b", "--credential", "one", "--allow-cleartext"]).done();
    let config = proxy.config.to_str().unwrap().to_owned();
    let mut command = countersign(&["credential", "patch", "one", "--disable", "--config", &config]);
    let output = command.current_dir(folder).env("SECRET", "x").env("TOKEN", "y").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let since = Instant::now();
    while get(&proxy, &proven(second.trim())).code() != "credential_unknown" {
        assert!(since.elapsed() < crate::support::DEADLINE);
    }
    measured(&format!("a change on the command line was obeyed by a serving process after {:?}", since.elapsed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_needed_and_goes_nowhere_unencrypted() {
    let (proxy, _origin) = serving("admin: { address: 127.0.0.1:0 }\n").await;
    let folder = proxy.folder.path();
    let server = format!("http://{}", proxy.address("admin", 0));
    let list = ["credential", "list"];
    let said = |more: &[&str], variables: &[(&str, &str)]| run(folder, &[&list[..], more].concat(), variables, "");
    // Though this host's own first token lies there: it is not for every address that somebody names.
    let none = said(&["--server", &server], &[]);
    assert!(
        none.code == 64 && none.err.contains("COUNTERSIGN_TOKEN") && none.err.contains("--token-file"),
        "{}",
        none.err
    );
    said(&["--server", &server, "--token-file", "state/admin-token"], &[]).done();
    let wrong = said(&["--server", &server], &[("COUNTERSIGN_TOKEN", "cs_wrong")]);
    assert!(wrong.code == 1 && !wrong.err.contains("cs_wrong"), "{}", wrong.err);
    let token = [("COUNTERSIGN_TOKEN", "t0ken-0123")];
    for (server, expected) in [
        ("http://192.0.2.1:8190", "unencrypted"),
        ("https://me:t0ken-0123@cs.test", "no token or password"),
        ("gopher://x", "write https://"),
    ] {
        let refused = said(&["--server", server], &token);
        assert!(
            refused.code == 64 && refused.err.contains(expected) && !refused.err.contains("t0ken-0123"),
            "{}",
            refused.err
        );
    }
    let nobody = said(&["--server", "http://127.0.0.1:1"], &token);
    assert!(nobody.code == 1 && nobody.err.contains("no answer from http://127.0.0.1:1"), "{}", nobody.err);
    // The forward listener is no admin listener.
    let other = said(&["--server", &format!("http://{}", proxy.forward())], &token);
    assert!(other.code == 1, "{}", other.err);
    let alone = said(&["--token-file", "state/admin-token"], &[]);
    assert!(alone.code == 64 && alone.err.contains("--server"), "{}", alone.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_and_a_server_with_a_certificate_are_managed_alike() {
    let (proxy, _origin) = serving("admin: { address: \"unix:FOLDER/admin.sock\" }\n").await;
    let folder = proxy.folder.path();
    let list = |more: &[&str]| {
        run(folder, &[&["credential", "list", "--token-file", "state/admin-token"], more].concat(), &[], "")
    };
    let socket = format!("unix:{}/admin.sock", folder.display());
    list(&["--server", &socket]).done();
    let root = Root::new();
    let (certificate, key) = root.leaf(&["localhost"]);
    let tls = tempfile::tempdir().unwrap();
    let at = |name: &str| tls.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(at("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(at("root.pem"), root.pem()).unwrap();
    let settings = format!(
        "admin: {{ address: 127.0.0.1:0, tls: {{ certificate: {}, key: {{ file: {} }} }} }}\n",
        at("cert.pem"),
        at("key.pem")
    );
    let (proxy, _origin) = serving(&settings).await;
    let folder = proxy.folder.path();
    let address = proxy.address("admin", 0).replace("127.0.0.1", "localhost");
    let server = format!("https://{address}");
    let list = |more: &[&str]| {
        run(folder, &[&["credential", "list", "--token-file", "state/admin-token"], more].concat(), &[], "")
    };
    list(&["--server", &server, "--ca-file", &at("root.pem")]).done();
    let unknown = list(&["--server", &server]);
    assert!(unknown.code == 1 && unknown.err.to_lowercase().contains("certificate"), "{}", unknown.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_every_page() {
    let (proxy, _origin) = serving("admin: { address: 127.0.0.1:0, rate_limit: { account: 0, principal: 0 } }\n").await;
    let api = Manager::of(&proxy);
    const COUNT: usize = 1003;
    for number in 0..COUNT {
        let body = json!({ "scheme": "api_key", "hosts": ["one.test"], "settings": { "key": "k" } });
        api.done("PUT", &format!("/v1/accounts/default/credentials/c{number:04}"), Some(body)).await;
    }
    let server = format!("http://{}", proxy.address("admin", 0));
    let arguments = ["credential", "list", "--server", &server, "--token-file", "state/admin-token"];
    let listed = run(proxy.folder.path(), &arguments, &[], "").done().json();
    let ids: Vec<&str> =
        listed["credentials"].as_array().unwrap().iter().filter_map(|one| one["id"].as_str()).collect();
    let mine = ids.iter().filter(|id| id.starts_with('c')).count();
    assert_eq!(mine, COUNT);
    assert!(ids.is_sorted() || ids.len() > COUNT, "each once, by id");
}

#[test]
fn the_store_is_looked_after_where_it_is() {
    let host = host("store: {}\n");
    let run = |arguments: &[&str]| local(host.path(), arguments);
    for id in ["a", "b"] {
        run(&["credential", "put", id, "--scheme", "api_key", "--host", "a.test", "--secret", "key=@key"]).done();
        run(&["credential", "patch", id, "--name", "again"]).done();
    }
    let before = run(&["store", "info"]).done().json();
    assert_eq!((&before["credentials"], &before["versions"]), (&2.into(), &4.into()));
    let changed = run(&["store", "rekey"]).done().json();
    let after = run(&["store", "info"]).done().json();
    assert!(after["key"] == changed["key"] && after["key"] != before["key"], "{before} {after}");
    run(&["store", "rekey", "--data-keys"]).done();
    run(&["store", "backup", "backup.jsonl"]).done();
    assert_eq!(run(&["store", "backup", "backup.jsonl"]).code, 1, "no file is written over");
    let bytes = std::fs::read_to_string(host.path().join("backup.jsonl")).unwrap();
    assert!(!bytes.contains(CANARY));
    assert_eq!(run(&["store", "restore", "backup.jsonl"]).code, 1, "the store holds something");
    let fresh = self::host("store: {}\n");
    let backup = host.path().join("backup.jsonl");
    let backup = backup.to_str().unwrap();
    let without = local(fresh.path(), &["store", "restore", backup]);
    assert!(without.code == 1 && without.err.contains("key"), "{}", without.err);
    std::fs::remove_dir_all(fresh.path().join("state")).unwrap();
    std::fs::create_dir(fresh.path().join("state")).unwrap();
    let key = std::fs::read(host.path().join("state/store.key")).unwrap();
    std::fs::write(fresh.path().join("state/store.key"), key).unwrap();
    std::fs::set_permissions(fresh.path().join("state/store.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    local(fresh.path(), &["store", "restore", backup]).done();
    assert_eq!(local(fresh.path(), &["credential", "test", "a"]).done().json()["result"], "signed");
    assert_eq!(run(&["store", "prune"]).code, 64);
    assert_eq!(run(&["store", "prune", "--keep", "1"]).done().json()["versions"], 2);
    assert_eq!(run(&["credential", "restore", "a", "--version", "1"]).code, 1, "it is forgotten");
    let nothing = self::host("listeners: {}\n");
    let said = local(nothing.path(), &["store", "info"]);
    assert!(said.code == 78 && said.err.contains("store: {}"), "{}", said.err);
}

#[test]
fn shells_and_manuals_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = local(folder.path(), &["completions", shell]).done();
        assert!(said.out.contains("credential") && said.out.contains("secrets-from"), "{shell}");
    }
    assert_eq!(local(folder.path(), &["completions", "cmd"]).code, 64);
    assert!(local(folder.path(), &["man"]).done().out.contains(".TH"));
    local(folder.path(), &["man", "--out", "man1"]).done();
    let pages = std::fs::read_dir(folder.path().join("man1")).unwrap().count();
    assert!(pages > 30, "{pages}");
}
