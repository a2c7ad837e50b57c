//! Refresh tokens that are replaced at every use, and a process that is killed at every point where that could lose one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::{Answer, Config, Origin, Proxy, Root, Seen, measured, raw, text};

/// A provider that replaces refresh tokens, notices when one comes twice, and then revokes them all.
#[derive(Default)]
pub struct Provider {
    pub used: Vec<String>,
    latest: String,
    pub revoked: bool,
    pub replays: usize,
    /// Takes the token before the latest once more.
    grace: bool,
}

impl Provider {
    fn answer(&mut self, seen: &Seen) -> Answer {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&seen.body).into_owned().collect();
        let token = form.iter().find(|(name, _)| name == "refresh_token").map(|(_, value)| value.clone()).unwrap();
        let again = self.used.last() == Some(&token) && self.grace;
        if self.revoked || (token != self.latest && !again) {
            if self.used.contains(&token) {
                self.replays += 1;
                self.revoked = true;
            }
            return text(400, r#"{"error":"invalid_grant","error_description":"unknown or used"}"#);
        }
        let next = format!("refresh-{}", self.used.len() + 1);
        self.used.push(token);
        self.latest = next.clone();
        let access = format!("access-{}", self.used.len());
        text(200, &json!({ "access_token": access, "expires_in": 3600, "refresh_token": next }).to_string())
    }
}

pub async fn provider(grace: bool) -> (Origin, Arc<Mutex<Provider>>) {
    provider_with(grace, |_| {}).await
}

/// The same, which does something between taking a token, by the number of those taken, and answering.
pub async fn provider_with(
    grace: bool,
    before: impl Fn(usize) + Send + Sync + 'static,
) -> (Origin, Arc<Mutex<Provider>>) {
    let provider = Arc::new(Mutex::new(Provider { latest: "refresh-0".into(), grace, ..Provider::default() }));
    let state = Arc::clone(&provider);
    let answering = move |seen: &Seen| {
        let (answer, used) = {
            let mut state = state.lock().unwrap();
            (state.answer(seen), state.used.len())
        };
        before(used);
        answer
    };
    (Origin::http_with(answering).await, provider)
}

pub fn config(idp: &Origin, api: &Origin, more: &str) -> String {
    let credential = format!(
        "  - id: key\n    scheme: oauth2\n    hosts: [api.test]\n    grant_type: refresh_token\n    \
         token_url: http://idp.test/token\n    allow_cleartext: true\n    token: {{ env: TOKEN }}\n{more}"
    );
    Config::new()
        .credentials(&credential)
        .bindings("  - { credential: key, allow_cleartext: true }\n")
        .resolve("idp.test:80", idp.address)
        .resolve("api.test:80", api.address)
        .rest("tokens: { directory: FOLDER/tokens }\n")
        .text()
}

/// Fail points are in debug builds only.
pub fn debug_build() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_countersign"))
}

pub fn start(program: &Path, config: &str, variables: &[(&str, &str)]) -> Proxy {
    let root = Root::new();
    Proxy::start_program(program, tempfile::tempdir().unwrap(), config, variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    })
}

pub const GET: &[u8] = b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
pub const TOKEN: (&str, &str) = ("TOKEN", "refresh-0");

/// Every point at which the process is killed, and what must come of it: the next process serves, or it says that a person
/// must act. `retry` is for providers that take a token twice.
pub const POINTS: [(&str, bool, bool); 5] = [
    // name, serves with `refuse`, serves with `retry`
    ("announcement-written", true, true),
    ("refresh-announced", false, true),
    ("refresh-answered", false, true),
    ("successor-written", true, true),
    ("refresh-stored", true, true),
];

async fn killed_at(point: &str, retry: bool, serves: bool) {
    let (idp, provider) = provider(retry).await;
    let api = Origin::http().await;
    let more = if retry { "    refresh_reuse: retry\n" } else { "" };
    let stopping = [TOKEN, ("COUNTERSIGN_FAIL_POINT", point)];
    let proxy = start(debug_build(), &config(&idp, &api, more), &stopping);
    let address = proxy.forward();
    let caller = std::thread::spawn(move || raw(&address, GET));
    proxy.wait_log(|log| log.contains(&format!("fail point {point}\n")));
    let what = format!("killed at {point}, retry {retry}");
    assert!(api.untouched(), "{what}: the access token was used before its refresh token's successor was safe");
    let proxy = proxy.killed_and_started_again(debug_build(), &[TOKEN]);
    assert_eq!(caller.join().unwrap().status(), 0, "{what}: the first caller saw its connection break");
    let answer = raw(&proxy.forward(), GET);
    let outcome = if serves { (200, String::new()) } else { (502, "reauthorization_required".to_owned()) };
    assert_eq!((answer.status(), answer.code()), outcome, "{what}: {}", answer.text);
    let state = provider.lock().unwrap();
    assert_eq!((state.replays, state.revoked), (0, false), "{what}: a used token was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_refresh_token_survives_kill_9_at_every_point() {
    for (point, refuse, retry) in POINTS {
        killed_at(point, false, refuse).await;
        killed_at(point, true, retry).await;
    }
    let names: Vec<_> = POINTS.iter().map(|(name, _, _)| *name).collect();
    measured(&format!(
        "kill -9 at {}, each with and without refresh_reuse: no token sent twice, none lost silently",
        names.join(", ")
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_tokens_are_stored_encrypted_and_used_by_the_next_process() {
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let mut proxy = start(&crate::support::binary(), &config(&idp, &api, ""), &[TOKEN]);
    for number in 1..=4 {
        assert_eq!(raw(&proxy.forward(), GET).status(), 200);
        assert_eq!(
            api.seen().last().unwrap().header("authorization"),
            Some(format!("Bearer access-{number}").as_str())
        );
        proxy = proxy.killed_and_started_again(&crate::support::binary(), &[TOKEN]);
    }
    let state = provider.lock().unwrap();
    assert_eq!(state.used, ["refresh-0", "refresh-1", "refresh-2", "refresh-3"]);
    use std::os::unix::fs::PermissionsExt;
    let folder = proxy.folder.path().join("tokens");
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"refresh-"), "{} is not encrypted", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configured_token_begins_anew_after_one_was_lost() {
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let proxy = start(debug_build(), &config(&idp, &api, ""), &[TOKEN, ("COUNTERSIGN_FAIL_POINT", "refresh-answered")]);
    let address = proxy.forward();
    let caller = std::thread::spawn(move || raw(&address, GET));
    proxy.wait_log(|log| log.contains("fail point"));
    let proxy = proxy.killed_and_started_again(debug_build(), &[TOKEN]);
    drop(caller.join());
    let answer = raw(&proxy.forward(), GET);
    assert_eq!(answer.code(), "reauthorization_required", "{}", answer.text);
    // A person authorizes again: the provider issues a new token, and it is set.
    provider.lock().unwrap().latest = "refresh-by-hand".into();
    let proxy = proxy.killed_and_started_again(debug_build(), &[("TOKEN", "refresh-by-hand")]);
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_state_directory_never_spend_the_same_token() {
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let shared = tempfile::tempdir().unwrap();
    let text = config(&idp, &api, "").replace("FOLDER/tokens", shared.path().to_str().unwrap());
    let proxies: Vec<_> = (0..3).map(|_| start(&crate::support::binary(), &text, &[TOKEN])).collect();
    let callers: Vec<_> = proxies
        .iter()
        .map(|proxy| {
            let address = proxy.forward();
            std::thread::spawn(move || {
                let began = std::time::Instant::now();
                loop {
                    let answer = raw(&address, GET);
                    // One that finds the file locked says so, and is to come back.
                    if answer.status() != 503 || began.elapsed() > crate::support::DEADLINE {
                        return answer;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        let answer = caller.join().unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text);
    }
    let state = provider.lock().unwrap();
    assert_eq!((state.used.len(), state.replays), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_spends_nothing_and_is_used_once_it_can() {
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let proxy = start(&crate::support::binary(), &config(&idp, &api, ""), &[TOKEN]);
    let folder = proxy.folder.path().join("tokens");
    // A file where the folder should be: not even root can write into it.
    std::fs::write(&folder, "").unwrap();
    let answer = raw(&proxy.forward(), GET);
    assert_eq!(answer.code(), "token_endpoint_unavailable", "{}", answer.text);
    assert!(answer.text.contains("cannot be kept safe"), "{}", answer.text);
    assert!(idp.untouched() && provider.lock().unwrap().used.is_empty());
    std::fs::remove_file(&folder).unwrap();
    let began = std::time::Instant::now();
    while raw(&proxy.forward(), GET).status() != 200 {
        assert!(began.elapsed() < crate::support::DEADLINE, "it never came back");
    }
}
