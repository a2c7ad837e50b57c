//! `credential setup flexera` and `credential rotate`, against a stub of Flexera's login and identity service that verifies
//! (`tests/flexera/iam.py`): accepted, refused, interrupted and killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Origin, Root, countersign, kit, provider, text};

const ADMINISTRATOR: &str = "refresh-token-of-an-administrator";

/// Flexera One's North American zone, which ends with the test.
struct Flexera {
    child: Child,
    port: u64,
    control: u64,
}

impl Flexera {
    fn start(kit: &Path, folder: &Path, root: &Root) -> Self {
        let (certificate, key) = root.leaf(&["login.flexera.com", "api.flexera.com"]);
        std::fs::write(folder.join("flexera.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("flexera.key"), key.serialize_pem()).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flexera/iam.py");
        let mut command = Command::new(kit.join("venv/bin/python"));
        command.arg(program).arg(folder.join("flexera.pem")).arg(folder.join("flexera.key"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts: Value = serde_json::from_str(&line).expect("the stub did not start");
        Self { child, port: facts["port"].as_u64().unwrap(), control: facts["control"].as_u64().unwrap() }
    }

    /// Changes its state and gives what there is. Nobody may ever have sent what it does not understand.
    async fn admin(&self, change: Value) -> Value {
        provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.put(format!("http://127.0.0.1:{}/admin", self.control));
        let answer = request.header("content-type", "application/json").body(change.to_string()).send().await.unwrap();
        let seen: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(seen["complaints"], json!([]));
        seen
    }

    /// The clients of its only service account.
    async fn clients(&self) -> Vec<Value> {
        let seen = self.admin(json!({})).await;
        let accounts = seen["accounts"].as_object().unwrap();
        assert_eq!(accounts.len(), 1, "{seen}");
        accounts.values().next().unwrap()["clients"].as_array().unwrap().clone()
    }

    async fn calls(&self, of: &str) -> usize {
        let seen = self.admin(json!({})).await;
        seen["calls"].as_array().unwrap().iter().filter(|call| call.as_str().unwrap().starts_with(of)).count()
    }
}

impl Drop for Flexera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host with a store, and Flexera.
struct Scene {
    folder: tempfile::TempDir,
    flexera: Flexera,
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let kit = kit(test)?;
        let (folder, root) = (tempfile::tempdir().unwrap(), Root::new());
        let flexera = Flexera::start(&kit, folder.path(), &root);
        std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
        let port = flexera.port;
        let config = format!(
            "store: {{}}\nupstream:\n  allow_addresses: [127.0.0.0/8]\n  ca_file: origin.pem\n  resolve:\n    \
             \"login.flexera.com:443\": 127.0.0.1:{port}\n    \"api.flexera.com:443\": 127.0.0.1:{port}\n"
        );
        std::fs::write(folder.path().join("countersign.yaml"), config).unwrap();
        Some(Self { folder, flexera })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = countersign(&[&["credential"], arguments].concat());
        command.current_dir(self.folder.path()).env("ADMINISTRATOR", ADMINISTRATOR).env("WRONG", "no-refresh-token");
        command.env("VIEWER", "refresh-token-of-somebody-else");
        command
    }

    /// Runs a command that shows no secret, whatever comes of it.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        self.judged(&output).await
    }

    async fn judged(&self, output: &Output) -> (i32, String, String) {
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        let seen = self.flexera.admin(json!({})).await;
        let clients = seen["accounts"].as_object().unwrap().values().flat_map(|one| one["clients"].as_array().unwrap());
        let secrets = clients.map(|client| client["clientSecret"].as_str().unwrap().to_owned());
        let given = [ADMINISTRATOR, "no-refresh-token", "refresh-token-of-somebody-else"].map(str::to_owned);
        for secret in secrets.chain(given) {
            assert!(!out.contains(&secret) && !err.contains(&secret), "{secret}:\n{out}\n{err}");
        }
        assert!(!out.contains("secret-") && !err.contains("secret-"), "one that is gone already:\n{out}\n{err}");
        (output.status.code().unwrap_or(-1), out, err)
    }

    async fn setup(&self, more: &[&str]) -> (i32, String, String) {
        let base = ["setup", "flexera", "--org", "1234", "--role", "policy_viewer"];
        let token = ["--refresh-token-env", "ADMINISTRATOR"];
        let own = more.contains(&"--refresh-token-env");
        self.run(&[&base[..], if own { &[] } else { &token[..] }, more].concat()).await
    }

    async fn rotate(&self) -> (i32, String, String) {
        self.run(&["rotate", "flexera-1234", "--refresh-token-env", "ADMINISTRATOR"]).await
    }

    async fn show(&self) -> Value {
        let (code, out, err) = self.run(&["show", "flexera-1234"]).await;
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// The credential has the only client that there is, and Countersign gets a token with it.
    async fn is_sound(&self) {
        let (clients, credential) = (self.flexera.clients().await, self.show().await);
        assert_eq!(clients.len(), 1, "{clients:?}");
        assert_eq!(clients[0]["clientId"], credential["settings"]["clientId"]);
        let tags = credential["tags"].as_object().unwrap();
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["flexera:org", "flexera:service-account", "provider"], "{tags:?}");
        let (code, out, err) = self.run(&["test", "flexera-1234"]).await;
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["result"], "accepted");
    }

    /// Kills a command at a place of its work.
    fn killed_at(&self, place: &str, arguments: &[&str]) {
        let debug = PathBuf::from(env!("CARGO_BIN_EXE_countersign"));
        let mut command = Command::new(debug);
        command.env_clear().arg("credential").args(arguments).current_dir(self.folder.path());
        command.env("ADMINISTRATOR", ADMINISTRATOR).env("COUNTERSIGN_FAIL_POINT", place);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut all = Vec::new();
        let wanted = format!("fail point {place}");
        let reached = lines.inspect(|line| all.push(line.clone())).any(|line| line == wanted);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(reached, "{place}: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_is_made_once_and_its_secret_is_stored_and_shown_to_nobody() {
    let Some(scene) = Scene::new("flexera_setup") else { return };
    let (code, out, err) = scene.setup(&["--role", "observer"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&made["id"], &made["scheme"], &made["version"]),
        (&"flexera-1234".into(), &"flexera".into(), &1.into())
    );
    assert_eq!(made["tags"], json!({"provider": "flexera", "flexera:org": "1234", "flexera:service-account": "10827"}));
    scene.is_sound().await;
    let seen = scene.flexera.admin(json!({"clear": true})).await;
    let account = &seen["accounts"]["10827"];
    assert_eq!(
        (&account["name"], &account["roles"]),
        (&"countersign-flexera-1234".into(), &json!(["observer", "policy_viewer"]))
    );
    // Again: what there is, is found; a further role is granted.
    let (code, _, err) = scene.setup(&["--role", "credential_viewer"]).await;
    assert_eq!(code, 0, "{err}");
    let seen = scene.flexera.admin(json!({})).await;
    assert_eq!(seen["accounts"]["10827"]["roles"].as_array().unwrap().len(), 3);
    assert_eq!(scene.flexera.calls("POST").await, 0);
    assert_eq!(scene.show().await["version"], 1);
    scene.is_sound().await;
    // In another account of ours it is another credential; the service account is found by its name.
    let (code, _, err) = scene.setup(&["--account", "team-b"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("already (10827)") && err.contains("has another client"), "{err}");
    assert_eq!(scene.flexera.clients().await.len(), 2);
    // What was deleted at Flexera is made again.
    let gone = scene.show().await["settings"]["clientId"].as_str().unwrap().to_owned();
    let (code, _, err) = scene.setup(&["--account", "team-b", "--remove-client", &gone]).await;
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flexera_refuses_is_said_and_leaves_nothing_that_is_half_made() {
    let Some(scene) = Scene::new("flexera_setup_refused") else { return };
    for (more, expected) in [
        (&["--refresh-token-env", "WRONG"][..], "the refresh token: login.flexera.com answered 401"),
        (&["--refresh-token-env", "VIEWER"][..], "403 forbidden: access token does not have sufficient privileges"),
        (&["--refresh-token-env", "NONE"][..], "environment variable NONE is not set"),
        (&["--refresh-token-file", "/no/such", "--refresh-token-env", "X"][..], "cannot be used with"),
        (&["--zone", "moon"][..], "possible values: nam, eu, apac"),
    ] {
        let (code, out, err) = scene.setup(more).await;
        assert!(code != 0 && err.contains(expected), "{more:?}: {code} {out}{err}");
    }
    let zero = scene.run(&["setup", "flexera", "--org", "0", "--role", "observer"]).await;
    assert!(zero.0 == 64 && zero.2.contains("0 is not in 1.."), "{}", zero.2);
    assert_eq!(scene.flexera.calls("POST").await, 0);
    let arguments = ["setup", "flexera", "--org", "1234", "--role", "emperor", "--refresh-token-env", "ADMINISTRATOR"];
    let (code, _, err) = scene.run(&arguments).await;
    assert!(code == 1 && err.contains("role emperor: ") && err.contains("no such role"), "{err}");
    assert_eq!(scene.flexera.clients().await.len(), 0);
    assert_eq!(scene.run(&["show", "flexera-1234"]).await.0, 1);
    // No terminal to ask for the token on.
    let mut command = Command::new("setsid");
    let program = scene.command(&["setup", "flexera", "--org", "1234", "--role", "observer"]);
    command.arg("--wait").arg(program.get_program()).args(program.get_args()).current_dir(scene.folder.path());
    let (code, _, err) = scene.judged(&command.stdin(Stdio::null()).output().unwrap()).await;
    assert!(code == 64 && err.contains("--refresh-token-file"), "{code} {err}");
    // A credential of that id that is another one stays what it is.
    let put = ["put", "flexera-1234", "--scheme", "api_key", "--host", "a.test", "--secret", "key=@key"];
    std::fs::write(scene.folder.path().join("key"), "k3y-of-another").unwrap();
    assert_eq!(scene.run(&put).await.0, 0);
    let (code, _, err) = scene.setup(&[]).await;
    assert!(code == 1 && err.contains("which is another one"), "{err}");
    assert_eq!(scene.flexera.clients().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_leaves_no_second_account_and_no_client_without_a_secret() {
    let Some(scene) = Scene::new("flexera_setup_lost") else { return };
    let soon = json!({"retry-after": "0"});
    let faults = json!([
        {"call": "GET /service-accounts", "status": 503, "headers": soon},
        {"call": "POST /service-accounts", "status": 502, "done": true},
        {"call": "PUT /access-rules/grant", "status": 429, "headers": soon},
        {"call": "POST /service-accounts/.*/clients", "status": 502, "done": true, "headers": soon},
        {"call": "POST /service-accounts/.*/clients", "status": 0, "done": true},
        {"call": "DELETE /service-accounts/.*", "status": 500, "headers": soon},
    ]);
    scene.flexera.admin(json!({"faults": faults, "late": 1, "listing": "values"})).await;
    let (code, out, err) = scene.setup(&[]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(scene.flexera.admin(json!({})).await["state"]["faults"], json!([]));
    assert_eq!(scene.flexera.calls("POST /service-accounts/10827/clients").await, 3);
    scene.is_sound().await;
}

/// A Countersign that answers everything but writes as it would, and these as it is told.
async fn unwilling(status: u16) -> Origin {
    let calls = AtomicUsize::new(0);
    Origin::http_with(move |seen| {
        let problem =
            |status: u16, detail: &str| text(status, &json!({"status": status, "detail": detail}).to_string());
        calls.fetch_add(1, Ordering::SeqCst);
        match seen.method.as_str() {
            "GET" => problem(404, "there is no credential flexera-1234"),
            _ => problem(status, "the store is read-only"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_secret_cannot_be_stored_is_deleted_again_or_named() {
    let Some(scene) = Scene::new("flexera_setup_unstored") else { return };
    for (status, faults, expected) in [
        (403, 0, "was deleted again"),
        (503, 0, "was deleted again"),
        (503, 5, "nor could the client be deleted again"),
    ] {
        let server = unwilling(status).await;
        let fault = json!({"call": "DELETE .*", "status": 500, "headers": {"retry-after": "0"}});
        scene.flexera.admin(json!({"faults": vec![fault; faults]})).await;
        let address = format!("http://{}", server.address);
        let arguments = ["setup", "flexera", "--org", "1234", "--role", "observer", "--server", &address];
        let mut command = scene.command(&arguments);
        let output = command.args(["--refresh-token-env", "ADMINISTRATOR"]).env("COUNTERSIGN_TOKEN", "t0ken").output();
        let (code, _, err) = scene.judged(&output.unwrap()).await;
        assert!(code == 1 && err.contains("the store is read-only") && err.contains(expected), "{code} {err}");
        let clients = scene.flexera.clients().await;
        assert_eq!(clients.len(), usize::from(faults > 0));
        for client in clients {
            assert!(err.contains(&format!("--remove-client {}", client["clientId"].as_str().unwrap())), "{err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_third_client_and_one_that_nothing_uses_makes_room() {
    let Some(scene) = Scene::new("flexera_setup_full") else { return };
    let name = "countersign-flexera-1234";
    scene.flexera.admin(json!({"accounts": [name], "clients": ["10827", "10827"]})).await;
    let (code, _, err) = scene.setup(&[]).await;
    assert!(code == 1 && err.contains("two clients already"), "{err}");
    let clients = scene.flexera.clients().await;
    let first = clients[0]["clientId"].as_str().unwrap();
    assert!(err.contains(first) && err.contains("--remove-client"), "{err}");
    let (code, _, err) = scene.setup(&["--remove-client", "client-nobody"]).await;
    assert!(code == 64 && err.contains("no such client"), "{err}");
    let (code, _, err) = scene.setup(&["--remove-client", first]).await;
    assert_eq!(code, 0, "{err}");
    let left = scene.flexera.clients().await;
    assert!(left.len() == 2 && left.iter().all(|client| client["clientId"] != first), "{left:?}");
    // The other one is in the way of a rotation until it is said that nothing uses it.
    let (code, _, err) = scene.rotate().await;
    assert!(code == 1 && err.contains("which the credential uses"), "{err}");
    let own = scene.show().await["settings"]["clientId"].as_str().unwrap().to_owned();
    let base = ["rotate", "flexera-1234", "--refresh-token-env", "ADMINISTRATOR", "--remove-client"];
    let (code, _, err) = scene.run(&[&base[..], &[&own]].concat()).await;
    assert!(code == 64 && err.contains("the credential uses this one"), "{err}");
    let other = clients[1]["clientId"].as_str().unwrap();
    let (code, _, err) = scene.run(&[&base[..], &[other]].concat()).await;
    assert_eq!(code, 0, "{err}");
    scene.is_sound().await;
    // Two of one name: none is chosen.
    scene.flexera.admin(json!({"accounts": [name]})).await;
    let (code, _, err) = scene.setup(&["--id", "other", "--name", name]).await;
    assert!(code == 1 && err.contains("several service accounts"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_replaces_the_client_and_leaves_one() {
    let Some(scene) = Scene::new("flexera_rotate") else { return };
    assert_eq!(scene.setup(&[]).await.0, 0);
    let before = scene.flexera.clients().await;
    // A login learns of a new client a little later.
    scene.flexera.admin(json!({"late": 1, "clear": true})).await;
    let (code, out, err) = scene.rotate().await;
    assert_eq!(code, 0, "{out}{err}");
    let after = scene.flexera.clients().await;
    assert_ne!(after[0]["clientId"], before[0]["clientId"]);
    scene.is_sound().await;
    let seen = scene.flexera.admin(json!({})).await;
    let calls: Vec<&str> = seen["calls"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let place = |call: &str| calls.iter().rposition(|one| one.starts_with(call)).unwrap_or_else(|| panic!("{calls:?}"));
    assert!(place("POST /service-accounts") < place("DELETE"), "{calls:?}");
    let proven = calls.iter().position(|one| *one == "token client_credentials").unwrap();
    assert!(place("POST /service-accounts") < proven && proven < place("DELETE"), "{calls:?}");
    // And again.
    assert_eq!(scene.rotate().await.0, 0);
    scene.is_sound().await;
    // A new client that never works is deleted, and the old one stays.
    let old = scene.flexera.clients().await;
    scene.flexera.admin(json!({"late": 5})).await;
    let (code, _, err) = scene.rotate().await;
    assert!(code == 1 && err.contains("does not accept the new client") && err.contains("deleted again"), "{err}");
    scene.flexera.admin(json!({"late": 0})).await;
    assert_eq!(scene.flexera.clients().await, old);
    scene.is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_killed_at_any_point_is_ended_by_the_next_run() {
    let Some(scene) = Scene::new("flexera_rotate_killed") else { return };
    let setup = ["setup", "flexera", "--org", "1234", "--role", "observer", "--refresh-token-env", "ADMINISTRATOR"];
    scene.killed_at("flexera.account_made", &setup);
    assert_eq!(scene.setup(&[]).await.0, 0);
    scene.is_sound().await;
    let rotate = ["rotate", "flexera-1234", "--refresh-token-env", "ADMINISTRATOR"];
    for place in ["flexera.intended", "flexera.made", "flexera.stored", "flexera.deleted"] {
        let before = scene.flexera.clients().await;
        scene.killed_at(place, &rotate);
        // Whatever was stored works meanwhile.
        let (code, out, err) = scene.run(&["test", "flexera-1234"]).await;
        assert_eq!(code, 0, "{place}: {out}{err}");
        let (code, out, err) = scene.rotate().await;
        assert_eq!(code, 0, "{place}: {out}{err}");
        assert_ne!(scene.flexera.clients().await[0]["clientId"], before[0]["clientId"], "{place}");
        scene.is_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_was_killed_with_a_client_whose_secret_is_lost_tells_of_it() {
    let Some(scene) = Scene::new("flexera_setup_killed") else { return };
    let setup = ["setup", "flexera", "--org", "1234", "--role", "observer", "--refresh-token-env", "ADMINISTRATOR"];
    scene.killed_at("flexera.client_made", &setup);
    let lost = scene.flexera.clients().await[0]["clientId"].as_str().unwrap().to_owned();
    let (code, _, err) = scene.setup(&[]).await;
    assert!(code == 0 && err.contains(&lost) && err.contains("--remove-client"), "{err}");
    let remove = ["rotate", "flexera-1234", "--refresh-token-env", "ADMINISTRATOR", "--remove-client", &lost];
    let (code, _, err) = scene.run(&remove).await;
    assert_eq!(code, 0, "{err}");
    scene.is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_program_can_rotate_is_told_how_a_person_does() {
    let Some(scene) = Scene::new("flexera_rotate_refused") else { return };
    let folder = scene.folder.path();
    std::fs::write(folder.join("secret"), "not-a-real-secret-0123456789").unwrap();
    let put = |id: &'static str, more: &[&'static str]| [&["put", id], more].concat();
    for arguments in [
        put("key", &["--scheme", "api_key", "--host", "a.test", "--secret", "key=@secret"]),
        put("pair", &["--scheme", "apptio", "--set", "key_access=a-b-c", "--secret", "key_secret=@secret"]),
        put("token", &["--scheme", "flexera", "--set", "zone=nam", "--secret", "refresh_token=@secret"]),
        put(
            "own",
            &["--scheme", "flexera", "--set", "zone=nam", "--set", "client_id=x", "--secret", "client_secret=@secret"],
        ),
    ] {
        let (code, _, err) = scene.run(&arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {err}");
    }
    for (id, expected) in [
        ("key", "is of scheme api_key, whose secrets are made by a person"),
        ("pair", "Frontdoor documents no way for a program to make key pairs"),
        ("token", "has a refresh token and no client"),
        ("own", "write --org NUMBER"),
        ("nobody", "nobody"),
    ] {
        let (code, _, err) = scene.run(&["rotate", id, "--refresh-token-env", "ADMINISTRATOR"]).await;
        assert!(code == 1 && err.contains(expected), "{id}: {err}");
    }
    assert_eq!(scene.flexera.calls("").await, 0, "Flexera was not asked");
    // One that was made by hand is rotated when it is said whose it is.
    scene.flexera.admin(json!({"accounts": ["by-hand"], "clients": ["10827"]})).await;
    let made = scene.flexera.clients().await;
    let by_hand = ["--scheme", "flexera", "--set", "zone=nam", "--secret", "client_secret=@hand", "--set"];
    let client = format!("client_id={}", made[0]["clientId"].as_str().unwrap());
    std::fs::write(folder.join("hand"), made[0]["clientSecret"].as_str().unwrap()).unwrap();
    let arguments = [&["put", "flexera-1234"], &by_hand[..], &[&client], &["--tag", "provider=flexera"]].concat();
    assert_eq!(scene.run(&arguments).await.0, 0);
    let whose = ["--org", "1234", "--service-account", "10827", "--refresh-token-env", "ADMINISTRATOR"];
    let (code, _, err) = scene.run(&[&["rotate", "flexera-1234"], &whose[..]].concat()).await;
    assert_eq!(code, 0, "{err}");
    scene.is_sound().await;
}
