//! The audit record of the running binary: what is in it, what happens when it cannot be written, and that tampering is found.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{
    Config, DEADLINE, Origin, Proxy, Root, SECRET, binary, countersign, measured, raw, skip, text, tool,
};

const AUDIT: &str = "audit: { directory: FOLDER/audit }\n";

fn get(host: &str, more: &str) -> Vec<u8> {
    format!("GET http://{host}/x?token=q-canary HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
        .into_bytes()
}

fn audit(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let directory = folder.join("audit");
    let mut all = vec!["audit"];
    all.extend(arguments);
    all.extend(["--directory", directory.to_str().unwrap()]);
    let output = countersign(&all).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn verified(folder: &Path) -> Value {
    let (whole, said) = audit(folder, &["verify", "--json"]);
    let findings: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(findings["whole"], whole, "{said}");
    findings
}

fn tails(findings: &Value) -> BTreeSet<String> {
    let chains = findings["chains"].as_array().unwrap().iter();
    chains.map(|chain| chain["tail"].as_str().unwrap().to_owned()).collect()
}

fn lines(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (found, said) = audit(folder, &[&["search", "--json"], arguments].concat());
    assert!(found, "{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ends it as a person would, and keeps its folder.
fn ended(mut proxy: Proxy) -> tempfile::TempDir {
    proxy.signal("TERM");
    proxy.child.wait().unwrap();
    std::mem::replace(&mut proxy.folder, tempfile::tempdir().unwrap())
}

/// Two credentials: one that is used as it is, one that is exchanged at `idp`.
fn config(idp: &Origin, api: &Origin) -> Config {
    Config::new()
        .credentials(
            "  - { id: key, scheme: api_key, key: { env: SECRET }, hosts: [api.test, plain.test] }\n  \
             - id: sp\n    scheme: oauth2\n    hosts: [token.test]\n    grant_type: client_credentials\n    \
             token_url: http://idp.test/token\n    allow_cleartext: true\n    client_id: me\n    client_secret: { env: SECRET }\n",
        )
        .bindings(
            "  - { credential: key, hosts: [api.test], methods: [GET], allow_cleartext: true }\n  \
             - { credential: key, hosts: [plain.test] }\n  \
             - { credential: sp, hosts: [token.test], allow_cleartext: true }\n",
        )
        .resolve("idp.test:80", idp.address)
        .resolve("api.test:80", api.address)
        .resolve("token.test:80", api.address)
        .resolve("open.test:80", api.address)
        .rest(AUDIT)
}

async fn idp() -> Origin {
    Origin::http_with(|_| text(200, &json!({ "access_token": "acc3ss", "expires_in": 3600 }).to_string())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_uses_and_exchanges_are_written_down_and_no_secret_or_query_is() {
    let (idp, api, root) = (idp().await, Origin::http().await, Root::new());
    let proxy = config(&idp, &api).start(&root);
    let ask = |request: &[u8]| raw(&proxy.forward(), request).code();
    assert_eq!(ask(&get("api.test", "")), "");
    assert_eq!(ask(&get("token.test", "")), "");
    assert_eq!(ask(&get("elsewhere.test", "")), "unbound");
    assert_eq!(ask(&get("api.test", "Countersign-Credential: other\r\n")), "credential_unknown");
    assert_eq!(ask(&get("plain.test", "")), "cleartext_refused");
    assert_eq!(ask(b"PUT http://api.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n"), "unbound");
    assert_eq!(ask(b"CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: elsewhere.test:443\r\n\r\n"), "unbound");
    let folder = ended(proxy);
    let findings = verified(folder.path());
    assert_eq!((&findings["problems"], tails(&findings)), (&json!([]), ["ended".to_owned()].into()));
    let exchanges = lines(folder.path(), &["--action", "token."]);
    assert_eq!(exchanges.len(), 1);
    let expected = json!({ "lifetime_seconds": "3600" });
    let exchange = &exchanges[0];
    assert_eq!(
        (&exchange["subject"], &exchange["outcome"], &exchange["facts"]),
        (&json!("sp"), &json!("ok"), &expected)
    );
    let told: Vec<_> = lines(folder.path(), &["--action", "use.denied", "--account", "default", "--actor", "local"])
        .iter()
        .map(|line| {
            let fact = |name: &str| line["facts"][name].as_str().unwrap_or("-").to_owned();
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", text("outcome"), text("subject"), fact("method"), fact("destination"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "unbound - GET http://elsewhere.test",
            "credential_unknown other GET http://api.test",
            "cleartext_refused - GET http://plain.test",
            "unbound - PUT http://api.test",
            "unbound - - https://elsewhere.test",
        ]
    );
    assert_eq!(lines(folder.path(), &["--credential", "other"]).len(), 1);
    assert_eq!(lines(folder.path(), &["--since", "1h", "--limit", "3"]).len(), 3);
    assert!(lines(folder.path(), &["--until", "2020-01-01"]).is_empty());
    for entry in std::fs::read_dir(folder.path().join("audit")).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read_to_string(&path).unwrap();
        for canary in [SECRET, "acc3ss", "q-canary"] {
            assert!(!content.contains(canary), "{canary} is in {content}");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_shows_a_wrong_token_is_written_down_and_a_flood_is_counted() {
    let (idp, api, root) = (idp().await, Origin::http().await, Root::new());
    let proxy = config(&idp, &api).rest("callers: [{ name: runner, token: { env: TOKEN } }]\n").start(&root);
    let wrong = get("api.test", "Proxy-Authorization: Bearer wr0ng-t0ken\r\n");
    for _ in 0..200 {
        assert_eq!(raw(&proxy.forward(), &wrong).status(), 407);
    }
    let folder = ended(proxy);
    assert_eq!(verified(folder.path())["problems"], json!([]));
    let refused = lines(folder.path(), &["--action", "use.denied"]);
    let count = |line: &Value| line["facts"]["count"].as_str().map_or(1, |count| count.parse::<u32>().unwrap());
    assert!(refused.len() < 20, "{}", refused.len());
    assert_eq!(refused.iter().map(count).sum::<u32>(), 200);
    assert!(refused.iter().all(|line| line["outcome"] == "caller_unknown" && line["account"].is_null()));
    assert!(!format!("{refused:?}").contains("wr0ng"));
}

/// A small file system of its own, gone with the test.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k,mode=0700", "tmpfs"]).arg(folder);
        let done = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        done.then(|| Self(folder.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_uses_and_not_the_record_and_recovers_without_a_restart() {
    let test = "a_full_disk_stops_the_uses_and_not_the_record";
    let (idp, api, root) = (idp().await, Origin::http().await, Root::new());
    let mut small = None;
    let text = config(&idp, &api).rest("unbound: pass\n").text();
    let proxy = Proxy::start_with(&text, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        small = Small::mount(&folder.join("audit"));
    });
    if small.is_none() {
        return skip(test, "no file system can be mounted here").unwrap_or_default();
    }
    let address = proxy.forward();
    let ask = |host: &str| raw(&address, &get(host, ""));
    let named = |id: &str| raw(&address, &get("api.test", &format!("Countersign-Credential: {id}\r\n"))).code();
    assert_eq!(ask("api.test").status(), 200);
    let filler = proxy.folder.path().join("audit/filler");
    let fill = || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    };
    fill();
    // The page that was begun has room for a few lines more.
    let mut asked = 0;
    let begun = Instant::now();
    while ask("api.test").code() != "audit_unavailable" {
        assert!(begun.elapsed() < DEADLINE, "the disk was never full");
        assert_eq!(named(&format!("c{asked}")), "credential_unknown");
        asked += 1;
    }
    let refused = ask("api.test");
    assert_eq!(refused.status(), 503);
    assert!(refused.text.contains("retry-after: 1"), "{}", refused.text);
    assert_eq!(ask("token.test").code(), "audit_unavailable");
    assert!(idp.untouched(), "what could not be recorded was not asked for");
    assert_eq!(ask("open.test").status(), 200, "what needs no credential is not stopped");
    let more = asked + 40;
    for id in asked..more {
        assert_eq!(named(&format!("c{id}")), "credential_unknown");
    }
    let served = api.seen().len();
    assert_eq!(ask("api.test").code(), "audit_unavailable");
    assert_eq!(api.seen().len(), served);
    std::fs::remove_file(&filler).unwrap();
    let begun = Instant::now();
    while ask("api.test").status() != 200 {
        assert!(begun.elapsed() < DEADLINE, "it did not recover");
    }
    measured(&format!("audit: uses again {} ms after a full disk had room", begun.elapsed().as_millis()));
    assert_eq!(ask("token.test").status(), 200);
    proxy.wait_log(|log| log.contains("can be written again"));
    let folder = ended(proxy);
    let findings = verified(folder.path());
    assert_eq!((&findings["problems"], tails(&findings)), (&json!([]), ["ended".to_owned()].into()));
    let unknown = lines(folder.path(), &["--action", "use.denied", "--limit", "1000"]);
    let unknown = unknown.iter().filter(|line| line["outcome"] == "credential_unknown");
    let subjects: Vec<_> = unknown.map(|line| line["subject"].as_str().unwrap().to_owned()).collect();
    assert_eq!(subjects, (0..more).map(|id| format!("c{id}")).collect::<Vec<_>>(), "every one, in order");
    assert_eq!(lines(folder.path(), &["--action", "token.exchange"]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_folder_and_a_killed_one_has_lost_nothing_that_counted() {
    let (idp, api, root) = (idp().await, Origin::http().await, Root::new());
    let shared = tempfile::tempdir().unwrap();
    let config = config(&idp, &api).text().replace("FOLDER/audit", &format!("{}/audit", shared.path().display()));
    let start = || {
        Proxy::start_with(&config, &[("SECRET", SECRET)], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        })
    };
    let (mut one, other) = (start(), start());
    for proxy in [&one, &other] {
        assert_eq!(raw(&proxy.forward(), &get("token.test", "")).status(), 200);
    }
    assert_eq!(tails(&verified(shared.path())), ["running".to_owned()].into());
    one.child.kill().unwrap();
    one.child.wait().unwrap();
    let findings = verified(shared.path());
    assert_eq!(tails(&findings), ["killed".to_owned(), "running".to_owned()].into());
    // The exchange was on disk before its token was used.
    assert_eq!(lines(shared.path(), &["--action", "token.exchange"]).len(), 2);
    drop(ended(other));
    assert_eq!(tails(&verified(shared.path())), ["ended".to_owned(), "killed".to_owned()].into());
    // A line less at the end of the killed one's file is not the same as having been killed.
    let killed = findings["chains"].as_array().unwrap().iter().find(|chain| chain["tail"] == "killed").unwrap();
    let file = format!("{}-000000000001.jsonl", killed["process"].as_str().unwrap());
    let path = shared.path().join("audit").join(file);
    let whole = std::fs::read_to_string(&path).unwrap();
    let cut = whole.trim_end().rsplit_once('\n').unwrap().0.to_owned() + "\n";
    std::fs::write(&path, cut).unwrap();
    let findings = verified(shared.path());
    assert_eq!(tails(&findings), ["cut".to_owned(), "ended".to_owned()].into());
    std::fs::write(&path, whole.replacen("\"ok\"", "\"OK\"", 1)).unwrap();
    let (right, said) = audit(shared.path(), &["verify"]);
    assert!(!right && said.contains("this line was changed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_that_can_be_written_nothing_starts_and_the_key_is_named() {
    let (idp, api) = (idp().await, Origin::http().await);
    let folder = tempfile::tempdir().unwrap();
    let config = config(&idp, &api).text().replace("FOLDER/audit", "/proc/nowhere/audit");
    let path = folder.path().join("countersign.yaml");
    let config = config.replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(&path, format!("{config}ca: {{ directory: {}/ca }}\n", folder.path().display())).unwrap();
    std::fs::write(folder.path().join("origin.pem"), Root::new().pem()).unwrap();
    let run = || {
        let mut command = countersign(&["serve", "--config", path.to_str().unwrap()]);
        let output = command.env("SECRET", SECRET).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run();
    assert_eq!(code, Some(1));
    assert!(said.contains("/proc/nowhere/audit (`audit.directory`)"), "{said}");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("/proc/nowhere/audit }", "x, file_bytes: 10 }")).unwrap();
    let (code, said) = run();
    assert!(code == Some(78) && said.contains("audit.file_bytes") && said.contains("at least 65536"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_process_leaves_no_core_file() {
    let test = "a_serving_process_leaves_no_core_file";
    let Some(shell) = tool(test, "sh") else { return };
    let unlimited = |program: &str, folder: &Path| {
        let path = folder.join("unlimited");
        std::fs::write(&path, format!("#!{}\nulimit -c unlimited || exit 3\nexec {program}\n", shell.display()))
            .unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let folder = tempfile::tempdir().unwrap();
    let sleeper = unlimited("sleep 60", folder.path());
    let mut sleeper = Command::new(sleeper).current_dir(folder.path()).spawn().unwrap();
    let begun = Instant::now();
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).unwrap_or_default();
    while name().trim() != "sleep" && begun.elapsed() < DEADLINE {
        std::thread::yield_now();
    }
    Command::new("kill").args(["-QUIT", &sleeper.id().to_string()]).status().unwrap();
    if !sleeper.wait().unwrap().core_dumped() {
        return skip(test, "this system writes no core files").unwrap_or_default();
    }
    let (idp, api, root) = (idp().await, Origin::http().await, Root::new());
    let folder = tempfile::tempdir().unwrap();
    let program = unlimited(&format!("{} \"$@\"", binary().display()), folder.path());
    let text = config(&idp, &api).text();
    let mut proxy = Proxy::start_program(&program, folder, &text, &[("SECRET", SECRET)], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    proxy.signal("QUIT");
    let status = proxy.child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(3), false));
    let files = std::fs::read_dir(proxy.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!files.into_iter().any(|name| name.to_string_lossy().starts_with("core")));
}
