//! Google: what google-auth signs compared with what we sign, strict stubs of Google's services that refuse every near miss,
//! and its own client libraries without keys.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Proxy, Root, countersign, kit, measured, run_client, skip};

const EMAIL: &str = "service-account@example.com";
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
const RUN: &str = "https://reports-abc123-uc.a.run.app";
const STORAGE: &str = "https://storage.googleapis.com/storage/v1/b/reports";
const SECRETS: &str = "https://secretmanager.googleapis.com/v1/projects/example-project/secrets";
const NAMES: [&str; 7] = [
    "iamcredentials.googleapis.com",
    "oauth2.googleapis.com",
    "reports-abc123-uc.a.run.app",
    "secretmanager.googleapis.com",
    "sts.googleapis.com",
    "storage.googleapis.com",
    GRPC,
];
/// Another name for Secret Manager, which leads to the server that speaks gRPC.
const GRPC: &str = "secretmanager.us-east1.rep.googleapis.com";

/// The kit's Python with the SDKs of the clouds.
fn cloud(test: &str) -> Option<PathBuf> {
    let python = kit(test)?.join("cloud/bin/python");
    if python.exists() { Some(python) } else { skip(test, "the SDKs of the clouds are not installed; run tests/run") }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/google").join(name)
}

fn key(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(name)).unwrap()
}

/// The service account's file.
fn account() -> Value {
    json!({
        "type": "service_account", "project_id": "example-project", "private_key_id": "1", "client_email": EMAIL,
        "private_key": key("rsa-pkcs8.pem"), "token_uri": "https://oauth2.googleapis.com/token",
    })
}

/// The configuration of a workload identity pool.
fn pool(source: Value) -> Value {
    json!({
        "type": "external_account", "token_url": "https://sts.googleapis.com/v1/token", "credential_source": source,
        "audience": "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/pool/providers/provider",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    })
}

fn aws_pool() -> Value {
    let url = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";
    let source = json!({
        "environment_id": "aws1", "regional_cred_verification_url": url,
        "region_url": "http://169.254.169.254/latest/meta-data/placement/availability-zone",
        "url": "http://169.254.169.254/latest/meta-data/iam/security-credentials",
        "imdsv2_session_token_url": "http://169.254.169.254/latest/api/token",
    });
    changed(pool(source), "subject_token_type", json!("urn:ietf:params:aws:token-type:aws4_request"))
}

fn changed(mut document: Value, field: &str, value: Value) -> Value {
    document[field] = value;
    document
}

fn impersonating(document: Value) -> Value {
    let url =
        format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken");
    changed(document, "service_account_impersonation_url", json!(url))
}

/// The stubs, which end with the test.
struct Stubs {
    child: Child,
    ports: Value,
    root: Root,
    folder: tempfile::TempDir,
}

impl Stubs {
    fn start(python: &Path, more: &[&str]) -> Self {
        let (root, folder) = (Root::new(), tempfile::tempdir().unwrap());
        let (certificate, certificate_key) = root.leaf(&NAMES);
        for (name, text) in [
            ("cert.pem", certificate.pem()),
            ("key.pem", certificate_key.serialize_pem()),
            ("account.pem", key("rsa-pkcs8.pem")),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut command = Command::new(python);
        command.arg(program("google_server.py")).args(more);
        for (option, file) in [("--cert", "cert.pem"), ("--key", "key.pem"), ("--account", "account.pem")] {
            command.arg(option).arg(folder.path().join(file));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ports = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the stubs did not start: {line}"));
        Self { child, ports, root, folder }
    }

    fn port(&self, name: &str) -> u64 {
        self.ports[name].as_u64().unwrap()
    }

    /// A file of the test's own, by its path.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A configuration with these credentials, used when a request names them.
    fn config(&self, credentials: &[(&str, String)], bindings: &str) -> String {
        let mut text = String::from(
            "listeners: { forward: [{ address: 127.0.0.1:0 }] }\nlog: { level: trace }\nupstream:\n  \
             allow_addresses: [127.0.0.0/8]\n  ca_file: FOLDER/origin.pem\n  resolve:\n",
        );
        for name in NAMES {
            let port = self.port(if name == GRPC { "grpc" } else { "tls" });
            text.push_str(&format!("    \"{name}:443\": 127.0.0.1:{port}\n"));
        }
        text.push_str("credentials:\n");
        let mut named = String::from("bindings:\n");
        for (id, settings) in credentials {
            text.push_str(&format!("  - id: {id}\n    scheme: google\n{}", indented(settings)));
            named.push_str(&format!("  - {{ credential: {id}, only_named: true }}\n"));
        }
        format!("{text}{named}{bindings}")
    }

    fn proxy(&self, credentials: &[(&str, String)], variables: &[(&str, &str)]) -> Proxy {
        Proxy::start_with(&self.config(credentials, ""), variables, |folder| {
            std::fs::write(folder.join("origin.pem"), self.root.pem()).unwrap();
        })
    }

    /// What the stubs were shown, in order.
    async fn seen(&self, what: &str) -> Vec<Value> {
        crate::support::provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}/{what}", self.port("plain"))).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// A credential with a file of this content.
    fn with(&self, id: &str, field: &str, document: &Value, more: &str) -> String {
        let path = self.file(&format!("{id}.json"), &document.to_string());
        format!("{field}: {{ file: {path} }}\n{more}")
    }
}

impl Drop for Stubs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn indented(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty()).map(|line| format!("    {line}\n")).collect()
}

async fn call(proxy: &Proxy, credential: &str, url: &str) -> (u16, Value) {
    let answer = proxy.client().get(url).header("countersign-credential", credential).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_is_what_google_auth_signs_field_by_field() {
    let Some(python) = cloud("google-auth") else { return };
    let stubs = Stubs::start(&python, &[]);
    let file = stubs.file("account.json", &account().to_string());
    let write = "https://www.googleapis.com/auth/devstorage.read_write";
    let cases = [
        ("scopes", String::new(), STORAGE),
        ("several-scopes", format!("scopes: [{write}, {PLATFORM}]"), STORAGE),
        ("subject", "subject: person@example.com".into(), STORAGE),
        ("target-audience", format!("target_audience: {RUN}\nhosts: [reports-abc123-uc.a.run.app]"), RUN),
        ("audience", "audience: https://secretmanager.googleapis.com/".into(), SECRETS),
        ("self-signed", "self_signed: true".into(), STORAGE),
    ];
    let credentials: Vec<_> =
        cases.iter().map(|(id, more, _)| (*id, format!("service_account: {{ file: {file} }}\n{more}"))).collect();
    let proxy = stubs.proxy(&credentials, &[]);
    let theirs = program("google_auth_assertions.py");
    let theirs = run_client(&python, &[theirs.to_str().unwrap(), &file], &HashMap::new()).unwrap();
    let mut fields = 0;
    for (id, _, url) in &cases {
        let (status, body) = call(&proxy, id, url).await;
        assert_eq!(status, 200, "{id}: {body}");
        let (ours, theirs) = (stubs.seen("assertions").await.pop().unwrap(), &theirs[*id]);
        assert_eq!(ours["header"], theirs["header"], "{id}");
        let claims = |jwt: &Value| jwt["claims"].as_object().unwrap().clone();
        let (mut ours, mut theirs) = (claims(&ours), claims(theirs));
        fields += ours.len() + 3;
        let times = |claims: &mut serde_json::Map<String, Value>| {
            let mut time = |name: &str| claims.remove(name).unwrap().as_i64().unwrap();
            (time("iat"), time("exp"))
        };
        let (our_times, their_times) = (times(&mut ours), times(&mut theirs));
        assert_eq!(our_times.1 - our_times.0, their_times.1 - their_times.0, "{id}");
        assert!((our_times.0 - their_times.0).abs() < 300, "{id}");
        assert_eq!(ours, theirs, "{id}");
    }
    measured(&format!("google: {} kinds of JWT compared with google-auth, {fields} fields", cases.len()));
}

/// How a call must end.
enum Expect {
    /// Accepted, by whom the API sees.
    As(&'static str),
    /// Refused by us, with this code and these words.
    Refused(&'static str, &'static str),
    /// Refused by the API.
    Api(u16),
}
use Expect::{Api, As, Refused};

async fn each(stubs: &Stubs, cases: &[(&'static str, String, &'static str, Expect)], variables: &[(&str, &str)]) {
    let credentials: Vec<_> = cases.iter().map(|(id, settings, _, _)| (*id, settings.clone())).collect();
    let proxy = stubs.proxy(&credentials, variables);
    for (id, _, url, expect) in cases {
        let (status, body) = call(&proxy, id, url).await;
        match expect {
            As(who) => assert!(status == 200 && (who.is_empty() || body["who"] == *who), "{id}: {status} {body}"),
            Api(expected) => assert!(status == *expected && body["code"].is_null(), "{id}: {status} {body}"),
            Refused(code, words) => {
                let detail = body["detail"].as_str().unwrap_or_default();
                assert!(body["code"] == *code && detail.contains(words), "{id}: {status} {body}");
            }
        }
    }
    let bearers = stubs.seen("bearers").await;
    let log = proxy.stop();
    for secret in bearers.iter().filter_map(Value::as_str).chain(["a-refresh-token-of-a-person", "good-subject"]) {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    assert!(!log.contains("eyJ0eXAi"), "a JWT is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_source_is_accepted_and_its_near_misses_are_refused() {
    let Some(python) = cloud("Google's token services") else { return };
    let stubs = Stubs::start(&python, &[]);
    let account_with = |id: &str, field: &str, value: Value, more: &str| {
        stubs.with(id, "service_account", &changed(account(), field, value), more)
    };
    let user = json!({
        "type": "authorized_user", "client_id": "764086051850-x.apps.googleusercontent.com",
        "client_secret": "a-client-secret-of-32-characters", "refresh_token": "1//a-refresh-token-of-a-person",
        "quota_project_id": "billing-project",
    });
    let user_with = |id: &str, field: &str, value: &str| {
        stubs.with(id, "authorized_user", &changed(user.clone(), field, json!(value)), "")
    };
    let rejected = |words| Refused("credential_rejected", words);
    let run = "hosts: [reports-abc123-uc.a.run.app]";
    each(
        &stubs,
        &[
            ("account", stubs.with("a", "service_account", &account(), ""), SECRETS, As(EMAIL)),
            (
                "other-key",
                account_with("b", "private_key", json!(key("rsa-other.pem")), ""),
                SECRETS,
                rejected("Invalid JWT Signature"),
            ),
            ("other-kid", account_with("c", "private_key_id", json!("2"), ""), SECRETS, rejected("Invalid JWT header")),
            (
                "other-account",
                account_with("d", "client_email", json!("service-accounT@example.com"), ""),
                SECRETS,
                rejected("Invalid issuer"),
            ),
            (
                "other-key-of-our-own",
                account_with("e", "private_key", json!(key("rsa-other.pem")), "self_signed: true"),
                SECRETS,
                Api(401),
            ),
            (
                "delegated",
                stubs.with("f", "service_account", &account(), "subject: person@example.com"),
                SECRETS,
                As("person@example.com"),
            ),
            (
                "not-delegated",
                stubs.with("g", "service_account", &account(), "subject: persom@example.com"),
                SECRETS,
                rejected("unauthorized_client"),
            ),
            ("too-few-scopes", stubs.with("h", "service_account", &account(), "scopes: [email]"), SECRETS, Api(401)),
            (
                "identity",
                stubs.with("i", "service_account", &account(), &format!("target_audience: {RUN}\n{run}")),
                RUN,
                As(EMAIL),
            ),
            (
                "identity-of-another",
                stubs.with("j", "service_account", &account(), &format!("target_audience: {RUN}/\n{run}")),
                RUN,
                Api(401),
            ),
            (
                "identity-elsewhere",
                stubs.with("k", "service_account", &account(), &format!("target_audience: {RUN}\n{run}")),
                SECRETS,
                Refused("credential_unknown", ""),
            ),
            (
                "api",
                stubs.with("l", "service_account", &account(), "audience: https://secretmanager.googleapis.com/"),
                SECRETS,
                As(EMAIL),
            ),
            (
                "api-elsewhere",
                stubs.with("m", "service_account", &account(), "audience: https://secretmanager.googleapis.com/"),
                STORAGE,
                Refused("credential_unknown", ""),
            ),
            ("person", stubs.with("n", "authorized_user", &user, ""), SECRETS, As("person@example.com")),
            (
                "person-revoked",
                user_with("o", "refresh_token", "1//a-refresh-token-of-a-persom"),
                SECRETS,
                Refused("reauthorization_required", "application-default login"),
            ),
            (
                "person-client",
                user_with("p", "client_secret", "a-client-secret-of-32-charakters"),
                SECRETS,
                rejected("invalid_client"),
            ),
        ],
        &[],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_is_too_old_for_the_server_is_refused() {
    let Some(python) = cloud("Google's clock") else { return };
    let stubs = Stubs::start(&python, &["--ahead", "3660"]);
    let settings = stubs.with("a", "service_account", &account(), "");
    let own = stubs.with("b", "service_account", &account(), "self_signed: true");
    let late = Refused("credential_rejected", "short-lived token");
    each(&stubs, &[("late", settings, SECRETS, late), ("late-too", own, SECRETS, Api(401))], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn federation_takes_files_addresses_and_aws_and_nothing_that_is_nearly_one() {
    let Some(python) = cloud("workload identity federation") else { return };
    let stubs = Stubs::start(&python, &[]);
    let text = stubs.file("text", "good-subject-1\n");
    let document = stubs.file("document", r#"{"value":"good-subject-2"}"#);
    let wrong = stubs.file("wrong", "bad-subject-1\n");
    let plain = stubs.port("plain");
    let json_format = |field: &str| json!({ "type": "json", "subject_token_field_name": field });
    let address = |query: &str| {
        json!({
            "url": format!("http://127.0.0.1:{plain}/subject?audience={query}"),
            "headers": { "X-Request-Token": "a-request-token" }, "format": json_format("value"),
        })
    };
    let here = "allow_cleartext: true\nallow_addresses: [127.0.0.0/8]";
    let with = |id: &str, document: Value, more: &str| stubs.with(id, "external_account", &document, more);
    let unavailable = |words| Refused("token_endpoint_unavailable", words);
    let rejected = |words| Refused("credential_rejected", words);
    let run = format!("target_audience: {RUN}\nhosts: [reports-abc123-uc.a.run.app]");
    let file = |path: &str| pool(json!({ "file": path }));
    let cases = [
        ("text", with("a", file(&text), ""), SECRETS, As("pool")),
        ("json", with("b", pool(json!({ "file": document, "format": json_format("value") })), ""), SECRETS, As("pool")),
        (
            "json-field",
            with("c", pool(json!({ "file": document, "format": json_format("valve") })), ""),
            SECRETS,
            unavailable("subject_token_field_name"),
        ),
        ("wrong", with("d", file(&wrong), ""), SECRETS, rejected("invalid_grant")),
        ("missing", with("e", file("/no/such/token"), ""), SECRETS, unavailable("/no/such/token")),
        ("address", with("f", pool(address("pool")), here), SECRETS, As("pool")),
        ("address-refused", with("g", pool(address("pooI")), here), SECRETS, rejected("who are you")),
        (
            "address-cleartext",
            with("h", pool(address("pool")), ""),
            SECRETS,
            Refused("secret_unavailable", "allow_cleartext"),
        ),
        ("acting", with("i", impersonating(file(&text)), ""), SECRETS, As(EMAIL)),
        ("identity", with("j", impersonating(file(&text)), &run), RUN, As(EMAIL)),
        (
            "not-acting",
            with(
                "k",
                changed(
                    file(&text),
                    "service_account_impersonation_url",
                    json!(
                        "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/other@example.com:generateAccessToken"
                    ),
                ),
                "",
            ),
            SECRETS,
            rejected("PERMISSION_DENIED"),
        ),
        ("aws", with("l", aws_pool(), ""), SECRETS, As("pool")),
        ("aws-acting", with("m", impersonating(aws_pool()), ""), SECRETS, As(EMAIL)),
        (
            "aws-other-pool",
            with("n", changed(aws_pool(), "audience", json!("//iam.googleapis.com/projects/1/x")), ""),
            SECRETS,
            Refused("credential_rejected", "invalid_request"),
        ),
    ];
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE0000000"), ("AWS_REGION", "us-east-1")];
    let secret = ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY");
    each(&stubs, &cases, &[keys[0], keys[1], secret]).await;
    // One wrong byte of the secret key, no region anywhere, and the instance's own role.
    let aws = |expect| [("aws", with("o", aws_pool(), ""), SECRETS, expect)];
    let nearly = ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEZ");
    each(&stubs, &aws(rejected("the signature is wrong")), &[keys[0], keys[1], nearly]).await;
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    each(&stubs, &aws(rejected("AWS_REGION")), &[keys[0], secret, off]).await;
    let instance = format!("http://127.0.0.1:{plain}");
    each(&stubs, &aws(As("pool")), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_token_is_read_anew_for_each_exchange() {
    let Some(python) = cloud("subject tokens") else { return };
    let stubs = Stubs::start(&python, &[]);
    let subject = stubs.file("subject", "bad-subject\n");
    let settings = stubs.with("a", "external_account", &pool(json!({ "file": subject })), "");
    let proxy = stubs.proxy(&[("pool", settings.clone()), ("again", settings)], &[]);
    let (_, body) = call(&proxy, "pool", SECRETS).await;
    assert_eq!(body["code"], "credential_rejected");
    stubs.file("subject", "good-subject-new\n");
    assert_eq!(call(&proxy, "again", SECRETS).await.0, 200);
    assert_eq!(stubs.seen("assertions").await.pop().unwrap()["subject_token"], "good-subject-new");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_server_is_believed_only_if_it_says_that_it_is_googles() {
    let Some(python) = cloud("the metadata server") else { return };
    let stubs = Stubs::start(&python, &[]);
    let at = |name: &str, more: &str| {
        let port = stubs.port(name);
        format!("metadata: true\nmetadata_url: http://127.0.0.1:{port}\nallow_cleartext: true\n{more}")
    };
    let run = format!("target_audience: {RUN}\nhosts: [reports-abc123-uc.a.run.app]");
    let other = Refused("token_endpoint_unavailable", "Metadata-Flavor");
    let host = format!("127.0.0.1:{}", stubs.port("plain"));
    each(
        &stubs,
        &[
            ("access", at("plain", ""), SECRETS, As("instance")),
            ("scopes", at("plain", "scopes: [email]"), SECRETS, Api(401)),
            ("identity", at("plain", &run), RUN, As("instance")),
            ("flavorless", at("flavorless", ""), SECRETS, other),
            ("named", "metadata: true\nallow_cleartext: true".into(), SECRETS, As("instance")),
            ("cleartext", "metadata: true".into(), SECRETS, Refused("secret_unavailable", "GCE_METADATA_HOST")),
        ],
        &[("GCE_METADATA_HOST", &host)],
    )
    .await;
}

/// `countersign run` of the SDK's program with one credential for Google's APIs.
fn run_sdk(stubs: &Stubs, python: &Path, settings: &str, arguments: &[&str]) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("origin.pem"), stubs.root.pem()).unwrap();
    let config = stubs.config(&[("google", settings.to_owned())], "  - { credential: google }\n");
    let config = config.replace("FOLDER", folder.path().to_str().unwrap());
    let file = folder.path().join("countersign.yaml");
    std::fs::write(&file, format!("{config}ca: {{ directory: {}/ca }}\n", folder.path().display())).unwrap();
    let output = countersign(&["run", "--config", file.to_str().unwrap(), "--"])
        .arg(python)
        .arg(program("sdk_client.py"))
        .args(["--grpc-endpoint", GRPC])
        .args(arguments)
        // What a person may have set is not for the program.
        .env("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
        .env("CLOUDSDK_AUTH_ACCESS_TOKEN", "a-real-token")
        .env("AWS_SECRET_ACCESS_KEY", "a-real-key")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = out.trim().lines().last().unwrap_or_default();
    match output.status.success() {
        true => Ok(serde_json::from_str(last).unwrap()),
        false => Err(format!("{out} {err}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn googles_own_libraries_work_without_keys_and_with_worthless_ones() {
    let Some(python) = cloud("Google's client libraries") else { return };
    let stubs = Stubs::start(&python, &[]);
    let good = stubs.with("good", "service_account", &account(), "");
    let other = changed(account(), "private_key", json!(key("rsa-other.pem")));
    let bad = stubs.with("bad", "service_account", &other, "");
    let mut operations = 0;
    for arguments in [&["--credentials", "default"], &["--credentials", "anonymous"]] {
        let done = run_sdk(&stubs, &python, &good, arguments).unwrap();
        assert_eq!(done["operations"].as_array().unwrap().len(), 6, "{done}");
        operations += 6;
        let refused = run_sdk(&stubs, &python, &bad, &[arguments, &["--expect-refused"][..]].concat()).unwrap();
        assert_eq!(refused["operations"].as_array().unwrap().len(), 6, "{refused}");
    }
    let bearers = stubs.seen("bearers").await;
    assert!(bearers.len() >= operations, "{bearers:?}");
    for bearer in bearers {
        let bearer = bearer.as_str().unwrap();
        assert!(bearer.starts_with("ya29."), "an API was shown what the library has");
    }
    measured(&format!(
        "google: {operations} operations of google-cloud-storage and google-cloud-secret-manager without keys"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_refuses_what_the_libraries_have_by_themselves() {
    let Some(python) = cloud("worthless tokens") else { return };
    let stubs = Stubs::start(&python, &[]);
    crate::support::provider();
    let root = reqwest::Certificate::from_pem(stubs.root.pem().as_bytes()).unwrap();
    let address = format!("127.0.0.1:{}", stubs.port("tls")).parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    let client = client.resolve("secretmanager.googleapis.com", address).build().unwrap();
    for authorization in [None, Some("Bearer worthless-countersign-puts-in-the-real-one"), Some("Basic eDp5")] {
        let mut request = client.get(SECRETS.replace(".com", &format!(".com:{}", stubs.port("tls"))));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "{authorization:?}");
    }
}

#[test]
fn hosts_follow_from_the_kind_of_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.json");
    std::fs::write(&file, account().to_string()).unwrap();
    let decided = |settings: &str, url: &str| {
        let config = format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\ncredentials:\n  - id: google\n    scheme: google\n    \
             service_account: {{ file: {} }}\n{}bindings: [{{ credential: google }}]\n",
            file.display(),
            indented(settings)
        );
        std::fs::write(folder.path().join("countersign.yaml"), config).unwrap();
        let output = countersign(&["explain", "--json", "GET", url]).current_dir(folder.path()).output().unwrap();
        // Where no host follows from the kind of token, one must be written.
        if output.status.code() == Some(78) {
            let why = String::from_utf8(output.stderr).unwrap();
            assert!(why.contains("credentials[0].hosts"), "{why}");
            return false;
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        answer["decision"] == "use"
    };
    let (audience, api) = (format!("target_audience: {RUN}"), "audience: https://pubsub.googleapis.com/");
    for (settings, url, used) in [
        ("", "https://storage.googleapis.com/b/o", true),
        ("", "https://europe-west1-aiplatform.googleapis.com/v1", true),
        ("", "https://spanner.me-central2.rep.googleapis.com/v1", true),
        ("", "https://bucket.storage.googleapis.com/o", false),
        ("", "https://storage-mine.p.googleapis.com/b/o", false),
        ("", "https://reports-abc123-uc.a.run.app/", false),
        ("", "https://googleapis.com/", false),
        ("hosts: [bucket.storage.googleapis.com]", "https://bucket.storage.googleapis.com/o", true),
        (audience.as_str(), RUN, false),
        ("hosts: [\"*.run.app\"]", RUN, false),
        (audience.as_str(), "https://storage.googleapis.com/b/o", false),
        (api, "https://pubsub.googleapis.com/v1", true),
        (api, "https://storage.googleapis.com/b/o", false),
        ("audience: https://bucket.storage.googleapis.com/", "https://bucket.storage.googleapis.com/o", false),
    ] {
        assert_eq!(decided(settings, url), used, "{settings} {url}");
    }
}
