//! Entra as strict as it is documented, Microsoft's own assertions, and Azure's own clients with worthless tokens.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Proxy, Root, binary, countersign, kit, measured, skip};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const SECRET: &str = "qWgdYAmab0YSkuL1qKv5bPX-azure";
const HEADER: &str = "an-identity-header-0123456789";

/// Names that lead to the program; the last three are customers'.
const NAMES: [&str; 13] = [
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "management.azure.com",
    "management.usgovcloudapi.net",
    "management.chinacloudapi.cn",
    "graph.microsoft.com",
    "microsoftgraph.chinacloudapi.cn",
    "api.loganalytics.io",
    "api.mine.test",
    "myaccount.blob.core.windows.net",
    "myvault.vault.azure.net",
    "adb-1.2.azuredatabricks.net",
];

/// The Python of Azure's SDKs, or a skip.
fn cloud(test: &str) -> Option<PathBuf> {
    let cloud = kit(test)?.join("cloud");
    if cloud.join("bin/python").exists() {
        Some(cloud)
    } else {
        skip(test, "the clouds' SDKs are not installed; run tests/run")
    }
}

fn file(name: &str) -> String {
    format!("{}/tests/vectors/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// `tests/azure/entra.py`, which ends with the test.
struct Entra {
    child: Child,
    facts: Value,
    root: Root,
    folder: tempfile::TempDir,
}

impl Entra {
    fn start(kit: &Path) -> Self {
        let (root, folder) = (Root::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = root.leaf(&NAMES);
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let registered = text("rsa-certificate.pem");
        let (own, issuer) = registered.split_at(registered.find("-----END").unwrap() + 26);
        let ended = text("rsa-certificate-ended.pem");
        let federated = json!([{ "issuer": "https://oidc.cluster.test/", "subject": "system:serviceaccount:ns:app" }]);
        let facts = json!({
            "tenant": TENANT,
            "apps": {
                "secret": { "secret": SECRET },
                "certificate": { "certificates": [own, ended] },
                "subject-name": { "trusted_issuer": issuer, "subject": "CN=countersign test" },
                "workload": { "federated": federated },
            },
            "oidc_key": text("rsa-pkcs8.pem"),
            "identities": ["mine", "/subscriptions/1"],
            "identity_header": HEADER,
            "resources": ["api://mine"],
            "own_hosts": { "api.mine.test": "api://mine" },
            "certificate": path("cert.pem"),
            "certificate_key": path("key.pem"),
        });
        let mut command = Command::new(kit.join("bin/python"));
        command.arg(program("entra.py")).env("ENTRA", facts.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| panic!("entra.py did not start"));
        Self { child, facts, root, folder }
    }

    async fn admin(&self, path: &str, body: Option<Value>) -> Value {
        crate::support::provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.facts["admin"]);
        let request = match body {
            Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
            None => client.get(url),
        };
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    }

    /// A token that the cluster writes for a pod, into its file.
    async fn mount(&self, claims: Value) -> String {
        let token = self.admin("/federated", Some(claims)).await["token"].as_str().unwrap().to_owned();
        std::fs::write(self.token_file(), format!("{token}\n")).unwrap();
        token
    }

    fn token_file(&self) -> String {
        self.folder.path().join("federated-token").to_str().unwrap().to_owned()
    }

    /// A configuration in which Azure's names lead here.
    fn config(&self, credentials: &str, bindings: &str) -> String {
        let port = &self.facts["port"];
        let resolve: String = NAMES.iter().map(|name| format!("    \"{name}:443\": 127.0.0.1:{port}\n")).collect();
        format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nlog: {{ level: trace }}\ntokens: {{ directory: FOLDER/tokens }}\n\
             upstream:\n  allow_addresses: [127.0.0.0/8]\n  ca_file: FOLDER/origin.pem\n  resolve:\n{resolve}\
             credentials:\n{credentials}bindings:\n{bindings}"
        )
    }

    fn proxy(&self, cases: &[Case], variables: &[(&str, &str)]) -> Proxy {
        let mut credentials = String::new();
        let mut bindings = String::new();
        for case in cases {
            let settings = case.settings.trim().replace('\n', "\n    ");
            credentials.push_str(&format!("  - id: {}\n    scheme: azure\n    {settings}\n", case.id));
            bindings.push_str(&format!("  - {{ credential: {}, only_named: true }}\n", case.id));
        }
        let root = self.root.pem();
        Proxy::start_with(&self.config(&credentials, &bindings), variables, |folder| {
            std::fs::write(folder.join("origin.pem"), root).unwrap();
        })
    }
}

impl Drop for Entra {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/azure").join(name)
}

/// A credential, a call with it, and what becomes of that.
struct Case {
    id: &'static str,
    settings: String,
    host: &'static str,
    expect: Result<&'static str, &'static str>,
}

fn case(
    id: &'static str,
    settings: impl Into<String>,
    host: &'static str,
    expect: Result<&'static str, &'static str>,
) -> Case {
    Case { id, settings: settings.into(), host, expect }
}

async fn call(proxy: &Proxy, id: &str, host: &str) -> (u16, Value) {
    let url = format!("https://{host}/x?api-version=1&comp=list&restype=container");
    let answer = proxy.client().get(url).header("countersign-credential", id).send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
}

async fn call_each(proxy: &Proxy, cases: &[Case]) {
    for case in cases {
        let (status, body) = call(proxy, case.id, case.host).await;
        match case.expect {
            Ok(words) => assert!(status == 200 && body.to_string().contains(words), "{}: {status} {body}", case.id),
            Err(words) => {
                assert_eq!(body["code"], "credential_rejected", "{}: {status} {body}", case.id);
                let detail = body["detail"].as_str().unwrap();
                assert!(detail.contains(words), "{}: {detail}", case.id);
            }
        }
    }
}

fn application(id: &str, proof: &str, target: &str) -> String {
    format!("tenant: {TENANT}\nclient_id: {id}\n{proof}\n{target}\n")
}

fn certificate(id: &str, key: &str, pem: &str, more: &str) -> String {
    let proof = format!("certificate: {{ file: {} }}\nkey: {{ file: {} }}\n{more}", file(pem), file(key));
    application(id, &proof, "audience: resource_management")
}

const BY_SECRET: &str = "client_secret: { env: SECRET }";
const ARM: &str = "management.azure.com";

/// Nothing that was sent in confidence is in the log, at trace level.
fn nothing_leaked(log: &str, more: &[&str]) {
    for secret in [SECRET, HEADER, "entra-", "eyJ0eXAi", "eyJhbGci"].iter().chain(more) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.contains("token obtained"), "the log was looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn entra_takes_each_way_to_prove_an_application_and_refuses_each_with_one_thing_wrong() {
    let Some(kit) = cloud("azure") else { return };
    let entra = Entra::start(&kit);
    let secret = |target: &str| application("secret", BY_SECRET, target);
    let other = |from: &str, to: &str| secret("audience: graph").replace(from, to);
    let cases = [
        case("v2", secret("audience: resource_management"), ARM, Ok("two")),
        case("v1", secret("resource: https://management.azure.com/"), ARM, Ok("two")),
        case("graph", secret("audience: graph"), "graph.microsoft.com", Ok("https://graph.microsoft.com")),
        case("logs", secret("audience: log_analytics"), "api.loganalytics.io", Ok("loganalytics")),
        case(
            "databricks",
            secret("audience: databricks\nhosts: [adb-1.2.azuredatabricks.net]"),
            "adb-1.2.azuredatabricks.net",
            Ok("2ff814a6"),
        ),
        case(
            "storage",
            secret("audience: storage\nhosts: [myaccount.blob.core.windows.net]"),
            "myaccount.blob.core.windows.net",
            Ok("EnumerationResults"),
        ),
        case(
            "government",
            secret("audience: resource_management\ncloud: us_government"),
            "management.usgovcloudapi.net",
            Ok("two"),
        ),
        case("china", secret("audience: graph\ncloud: china"), "microsoftgraph.chinacloudapi.cn", Ok("microsoftgraph")),
        case("own", secret("scope: api://mine/.default\nhosts: [api.mine.test]"), "api.mine.test", Ok("api://mine")),
        case("other-secret", other("{ env: SECRET }", "{ env: WRONG }"), "graph.microsoft.com", Err("AADSTS7000215")),
        case("other-app", other("client_id: secret", "client_id: gone"), "graph.microsoft.com", Err("AADSTS700016")),
        case("other-tenant", other(TENANT, "contoso.com"), "graph.microsoft.com", Err("AADSTS90002")),
        case(
            "other-resource",
            secret("scope: api://gone/.default\nhosts: [api.mine.test]"),
            "api.mine.test",
            Err("AADSTS500011"),
        ),
        case("ps256", certificate("certificate", "rsa-pkcs8.pem", "rsa-certificate.pem", ""), ARM, Ok("two")),
        case(
            "rs256",
            certificate("certificate", "rsa-pkcs1.pem", "rsa-certificate.pem", "assertion_algorithm: RS256"),
            ARM,
            Ok("two"),
        ),
        case(
            "encrypted",
            certificate(
                "certificate",
                "rsa-encrypted-aes256.pem",
                "rsa-certificate.pem",
                "key_password: { env: PASSWORD }",
            ),
            ARM,
            Ok("two"),
        ),
        case(
            "subject-name",
            certificate("subject-name", "rsa-pkcs8.pem", "rsa-certificate.pem", "send_chain: true"),
            ARM,
            Ok("two"),
        ),
        // Trusted by its issuer, but it is not shown.
        case(
            "no-chain",
            certificate("subject-name", "rsa-pkcs8.pem", "rsa-certificate.pem", ""),
            ARM,
            Err("AADSTS700027"),
        ),
        // Right in itself, and of an application that does not know it.
        case(
            "other-certificate",
            certificate("certificate", "rsa-other.pem", "../../../FOLDER/other.pem", "")
                .replace(&file("../../../FOLDER/other.pem"), entra.folder.path().join("other.pem").to_str().unwrap()),
            ARM,
            Err("AADSTS700027"),
        ),
        case(
            "no-application",
            certificate("secret", "rsa-pkcs8.pem", "rsa-certificate.pem", ""),
            ARM,
            Err("AADSTS700027"),
        ),
    ];
    let issuer = text("rsa-certificate.pem");
    let issuer = &issuer[issuer.find("-----END").unwrap() + 26..];
    std::fs::write(entra.folder.path().join("other.pem"), issuer).unwrap();
    let variables = [("SECRET", SECRET), ("WRONG", "another-secret-0123456789"), ("PASSWORD", "hunter2")];
    let proxy = entra.proxy(&cases, &variables);
    call_each(&proxy, &cases).await;
    // A token for one audience reaches no other's host, whatever is asked.
    for (id, host) in
        [("graph", ARM), ("v2", "graph.microsoft.com"), ("storage", "adb-1.2.azuredatabricks.net"), ("own", ARM)]
    {
        let before = entra.admin("/seen", None).await.as_array().unwrap().len();
        let (status, body) = call(&proxy, id, host).await;
        assert!(status == 403 && body["code"] == "credential_unknown", "{id} to {host}: {status} {body}");
        assert_eq!(entra.admin("/seen", None).await.as_array().unwrap().len(), before);
    }
    let seen = entra.admin("/seen", None).await;
    assert!(seen.as_array().unwrap().iter().all(|call| call["accepted"] == true), "{seen:#}");
    nothing_leaked(&proxy.stop(), &["another-secret-0123456789", "hunter2"]);
}

/// The two halves of a JWT that are JSON.
fn halves(jwt: &str) -> (Value, Value) {
    let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let mut parts = jwt.split('.');
    (read(parts.next().unwrap()), read(parts.next().unwrap()))
}

/// A header as both write it: msal pads thumbprints and breaks the lines of certificates, where RFC 7515 does neither.
fn plain(header: &Value) -> Value {
    let mut header = header.clone();
    for name in ["x5t", "x5t#S256"] {
        if let Some(text) = header[name].as_str() {
            header[name] = json!(text.trim_end_matches('='));
        }
    }
    if let Some(chain) = header["x5c"].as_array() {
        header["x5c"] = chain.iter().map(|one| json!(one.as_str().unwrap().replace('\n', ""))).collect();
    }
    header.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn assertions_are_those_of_msal_field_by_field() {
    let Some(kit) = cloud("msal") else { return };
    let entra = Entra::start(&kit);
    // msal shows the leaf whenever it makes the thumbprint itself, so the application trusts the issuer.
    let leaf = entra.folder.path().join("leaf.pem").to_str().unwrap().to_owned();
    let both = text("rsa-certificate.pem");
    std::fs::write(&leaf, &both[..both.find("-----END").unwrap() + 26]).unwrap();
    let ours = |id: &str, more: &str| {
        let settings = certificate(id, "rsa-pkcs8.pem", "rsa-certificate.pem", more);
        settings.replace(&file("rsa-certificate.pem"), &leaf)
    };
    let cases = [
        case("PS256", ours("subject-name", "send_chain: true"), ARM, Ok("two")),
        case("RS256", ours("certificate", "assertion_algorithm: RS256"), ARM, Ok("two")),
    ];
    let proxy = entra.proxy(&cases, &[]);
    call_each(&proxy, &cases).await;
    let ours = entra.admin("/assertions", None).await;
    let mut fields = 0;
    for (index, (algorithm, client)) in [("PS256", "subject-name"), ("RS256", "certificate")].into_iter().enumerate() {
        let output = Command::new(kit.join("bin/python"))
            .arg(program("msal_assertion.py"))
            .args([algorithm, TENANT, client, &file("rsa-pkcs8.pem"), &leaf])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let theirs: Value = serde_json::from_str(said.trim().lines().last().unwrap_or_default())
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let (their_header, their_claims) = halves(theirs["assertion"].as_str().unwrap());
        assert_eq!(ours[index]["accepted"], true);
        let (our_header, our_claims) = halves(ours[index]["assertion"].as_str().unwrap());
        assert_eq!(our_header["alg"], algorithm);
        assert_eq!(plain(&our_header), plain(&their_header));
        fields += our_header.as_object().unwrap().len();
        for name in ["aud", "iss", "sub"] {
            assert_eq!(our_claims[name], their_claims[name], "{name}");
        }
        assert_eq!(our_claims["aud"], format!("https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"));
        let life = |claims: &Value| (claims["exp"].as_f64().unwrap() - claims["iat"].as_f64().unwrap()).round();
        assert_eq!((life(&our_claims), life(&their_claims)), (600.0, 600.0));
        // The documentation has `nbf`, which msal leaves out; it is the time at which the assertion was made.
        assert!(our_claims["nbf"] == our_claims["iat"] && their_claims["nbf"].is_null());
        let mut names: Vec<_> = our_claims.as_object().unwrap().keys().filter(|name| *name != "nbf").collect();
        let mut their_names: Vec<_> = their_claims.as_object().unwrap().keys().collect();
        names.sort();
        their_names.sort();
        assert_eq!(names, their_names);
        fields += names.len();
        for claims in [&our_claims, &their_claims] {
            assert!(claims["jti"].as_str().unwrap().replace('-', "").len() == 32, "{claims}");
        }
        assert_eq!(theirs["form"]["scope"], "https://management.azure.com/.default");
        assert_eq!(theirs["form"]["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    }
    measured(&format!("msal: {fields} fields of PS256 and RS256 assertions are the same"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_read_again_at_each_exchange_and_another_pods_is_refused() {
    let Some(kit) = cloud("workload identity") else { return };
    let entra = Entra::start(&kit);
    let pod = json!({ "sub": "system:serviceaccount:ns:app" });
    let first = entra.mount(pod.clone()).await;
    let file = entra.token_file();
    let proof = format!("federated_token_file: {file}");
    let cases = [
        case("file", application("workload", &proof, "audience: resource_management"), ARM, Ok("two")),
        case("environment", "workload_identity: true\naudience: graph", "graph.microsoft.com", Ok("graph")),
    ];
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", &*file),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", "workload"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let proxy = entra.proxy(&cases, &variables);
    call_each(&proxy, &cases).await;
    // The cluster replaces the token, and Entra forgets what it issued: the next call renews with what the file has now.
    let second = entra.mount(pod).await;
    entra.admin("/revoke", Some(json!({}))).await;
    call_each(&proxy, &cases).await;
    let sent = entra.admin("/assertions", None).await;
    let sent: Vec<_> = sent.as_array().unwrap().iter().map(|row| row["assertion"].as_str().unwrap()).collect();
    assert_eq!(sent, [&*first, &*first, &*second, &*second]);
    for (claims, said) in [
        (json!({ "sub": "system:serviceaccount:ns:other" }), "AADSTS700213"),
        (json!({ "sub": "system:serviceaccount:ns:app", "iss": "https://other.test/" }), "AADSTS700211"),
        (json!({ "sub": "system:serviceaccount:ns:app", "aud": "api://other" }), "AADSTS50027"),
        (json!({ "sub": "system:serviceaccount:ns:app", "exp": 1 }), "AADSTS50027"),
        (json!({ "sub": "system:serviceaccount:ns:app", "key": text("rsa-other.pem") }), "AADSTS50027"),
    ] {
        entra.mount(claims).await;
        let again = entra.proxy(&cases[..1], &variables);
        call_each(&again, &[case("file", "", ARM, Err(said))]).await;
    }
    std::fs::remove_file(&file).unwrap();
    let again = entra.proxy(&cases[..1], &variables);
    let (status, body) = call(&again, "file", ARM).await;
    assert!(status == 503 && body["detail"].as_str().unwrap().contains("federated_token_file: file "), "{body}");
    nothing_leaked(&proxy.stop(), &[&first, &second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_identity_is_asked_for_where_the_platform_says_and_as_it_is_documented() {
    let Some(kit) = cloud("managed identity") else { return };
    let entra = Entra::start(&kit);
    let admin = format!("http://127.0.0.1:{}", entra.facts["admin"]);
    let imds = format!(
        "managed_identity: true\naudience: resource_management\ntoken_url: {admin}/metadata/identity/oauth2/token\n\
         allow_cleartext: true\nallow_addresses: [127.0.0.1]\n"
    );
    let cases = [
        case("system", &*imds, ARM, Ok("two")),
        case("client", format!("{imds}client_id: mine"), ARM, Ok("two")),
        case("object", format!("{imds}object_id: mine"), ARM, Ok("two")),
        case("resource", format!("{imds}resource_id: /subscriptions/1"), ARM, Ok("two")),
        case("stranger", format!("{imds}client_id: another"), ARM, Err("Identity not found")),
    ];
    let proxy = entra.proxy(&cases, &[]);
    call_each(&proxy, &cases).await;
    nothing_leaked(&proxy.stop().replace(HEADER, ""), &[]);
    // App Service tells its processes where it is.
    let service = "managed_identity: true\naudience: graph\n";
    let cases = [
        case("service", service, "graph.microsoft.com", Ok("system")),
        case("service-client", format!("{service}client_id: mine"), "graph.microsoft.com", Ok("mine")),
        case(
            "service-resource",
            format!("{service}resource_id: /subscriptions/1"),
            "graph.microsoft.com",
            Ok("/subsc"),
        ),
    ];
    let endpoint = format!("{admin}/msi/token");
    let proxy = entra.proxy(&cases, &[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", HEADER)]);
    call_each(&proxy, &cases).await;
    nothing_leaked(&proxy.stop(), &[]);
    let cases = [case("service", service, "graph.microsoft.com", Err("answered 401 no identity header"))];
    let proxy = entra.proxy(&cases, &[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", "another")]);
    call_each(&proxy, &cases).await;
}

/// Where the operator of Countersign may have proofs for it, and for other tools.
const OPERATORS: [&str; 13] = [
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "MSI_ENDPOINT",
    "ARM_CLIENT_SECRET",
    "ARM_CLIENT_CERTIFICATE_PASSWORD",
    "ARM_OIDC_TOKEN",
    "ARM_OIDC_TOKEN_FILE_PATH",
    "ARM_ACCESS_KEY",
    "ARM_SAS_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
];

/// Azure's clients under `countersign run`, with these credentials: whether all went to plan, their rows, all that was said.
fn run(entra: &Entra, kit: &Path, credentials: &str, arguments: &[&str]) -> (bool, Vec<Value>, String) {
    let ids = credentials.lines().filter_map(|line| line.strip_prefix("  - id: "));
    let bindings: String = ids.map(|id| format!("  - {{ credential: {id} }}\n")).collect();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("countersign.yaml");
    let text = entra.config(credentials, &bindings).replace("log: { level: trace }", "log: { level: error }");
    std::fs::write(&config, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    std::fs::write(folder.path().join("origin.pem"), entra.root.pem()).unwrap();
    let python = kit.join("bin/python");
    let client = program("sdk_client.py");
    let command = [python.to_str().unwrap(), client.to_str().unwrap()];
    let head = ["run", "--config", config.to_str().unwrap(), "--"];
    let mut run = Command::new(binary());
    run.args(head).args(command).args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    if credentials.contains("scheme: azure") {
        // What Azure's clients would prove themselves with, were it not kept from them.
        run.envs(OPERATORS.map(|name| (name, format!("real-{name}"))));
    }
    run.env("HOME", folder.path()).env("SECRET", SECRET).env("WRONG", "another-secret").stdin(Stdio::null());
    let output = run.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let rows = stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    (output.status.success(), rows, format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// A credential for each service that the clients call.
fn services(proof: &str) -> String {
    let one = |(id, target): (&str, &str)| {
        let settings = application("secret", proof, target).trim().replace('\n', "\n    ");
        format!("  - id: {id}\n    scheme: azure\n    {settings}\n")
    };
    let targets = [
        ("azure", "audience: resource_management"),
        ("storage", "audience: storage\nhosts: [myaccount.blob.core.windows.net]"),
        ("vault", "audience: key_vault\nhosts: [myvault.vault.azure.net]"),
    ];
    targets.map(one).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn azures_clients_work_with_a_worthless_token_and_are_refused_with_another_secret() {
    let Some(kit) = cloud("azure sdk") else { return };
    let entra = Entra::start(&kit);
    let (done, rows, said) = run(&entra, &kit, &services(BY_SECRET), &[]);
    assert!(done && rows.len() == 13, "{said}");
    let seen = entra.admin("/seen", None).await;
    let seen = seen.as_array().unwrap();
    for call in seen {
        // Only what a vault is to answer with a challenge goes out unsigned, and never with a body.
        let elicits = call["signed"] == false && call["host"] == "myvault.vault.azure.net" && call["length"] == 0;
        assert!(call["accepted"] == true || elicits, "{call}");
    }
    assert_eq!(seen.iter().filter(|call| call["signed"] == false).count(), 2, "{seen:#?}");
    measured(&format!("Azure SDKs: {} operations, {} requests with a worthless token", rows.len(), seen.len()));
    // With another secret there is no token, and nothing goes out.
    let (done, rows, said) = run(&entra, &kit, &services("client_secret: { env: WRONG }"), &["--expect-refused"]);
    assert!(done && rows.len() == 13, "{said}");
    assert!(said.contains("AADSTS7000215"), "{said}");
    assert_eq!(entra.admin("/seen", None).await.as_array().unwrap().len(), seen.len());
    // And the services refuse a token that Entra did not issue.
    let hosts = "hosts: [management.azure.com, myaccount.blob.core.windows.net, myvault.vault.azure.net]";
    let forged = format!("  - id: forged\n    scheme: api_key\n    key: {{ env: WRONG }}\n    {hosts}\n");
    let (done, rows, said) = run(&entra, &kit, &forged, &["--expect-refused"]);
    assert!(done && rows.len() == 13, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_finds_its_own_credential_works_unmodified_and_is_refused_with_another_secret() {
    let Some(kit) = cloud("azure sdk") else { return };
    for found in ["--default", "--managed"] {
        let entra = Entra::start(&kit);
        let (done, rows, said) = run(&entra, &kit, &services(BY_SECRET), &[found]);
        assert!(done && rows.len() == 13, "{found}: {said}");
        let seen = entra.admin("/seen", None).await;
        let accepted = seen.as_array().unwrap().iter().filter(|call| call["accepted"] == true).count();
        measured(&format!("Azure SDKs: {accepted} requests of a program with `{found}`"));
        // It gets its worthless token all the same, and nothing goes out.
        let (done, rows, said) =
            run(&entra, &kit, &services("client_secret: { env: WRONG }"), &[found, "--expect-refused"]);
        assert!(done && rows.len() == 13 && said.contains("AADSTS7000215"), "{found}: {said}");
        assert!(rows.iter().all(|row| row["status"] == 502), "{found}: {said}");
        assert_eq!(entra.admin("/seen", None).await, seen, "{found}");
    }
}

/// What `check` says of one credential.
fn checked(settings: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("countersign.yaml");
    let settings = settings.trim().replace('\n', "\n    ");
    std::fs::write(&config, format!("credentials:\n  - id: azure\n    scheme: azure\n    {settings}\n")).unwrap();
    let mut command = countersign(&["check", "--config", config.to_str().unwrap()]);
    let output = command.envs(variables.iter().copied().collect::<HashMap<_, _>>()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_is_wrong_with_a_certificate_or_a_host_is_said_when_it_is_written() {
    let arm = |key: &str, pem: &str, more: &str| certificate("certificate", key, pem, more);
    let (fine, said) = checked(&arm("rsa-pkcs8.pem", "rsa-certificate.pem", "send_chain: true"), &[]);
    assert!(fine, "{said}");
    let storage = |hosts: &str| application("a", BY_SECRET, &format!("audience: storage\n{hosts}"));
    for (settings, wanted) in [
        (arm("rsa-other.pem", "rsa-certificate-ended.pem", ""), "certificate: it is not the certificate of this key"),
        (arm("rsa-other.pem", "rsa-certificate.pem", ""), "certificate: the certificate of the key is number 2 in it"),
        (arm("rsa-pkcs8.pem", "rsa-certificate-ended.pem", ""), "certificate: it ended on"),
        (arm("rsa-pkcs8.pem", "rsa-certificate-early.pem", ""), "certificate: it is not valid before"),
        (arm("rsa-pkcs8.pem", "rsa-pkcs8.pem", ""), "certificate: there is no certificate in it"),
        (arm("p256-pkcs8.pem", "rsa-certificate.pem", ""), "certificate: its key must be RSA"),
        (arm("rsa-1024.pem", "rsa-certificate.pem", ""), "key: "),
        (arm("rsa-encrypted-aes256.pem", "rsa-certificate.pem", ""), "key: it is encrypted and there is no password"),
        (
            arm("rsa-encrypted-aes256.pem", "rsa-certificate.pem", "key_password: { env: WRONG }"),
            "key: it cannot be decrypted: the password is wrong",
        ),
        (storage(""), "credentials[0].hosts: every customer has hosts there"),
        (storage("hosts: [\"*.blob.core.windows.net\"]"), "others have hosts there too"),
        (storage("hosts: [myvault.vault.azure.net]"), "must not go to a host of https://vault.azure.net"),
        (
            "workload_identity: true\naudience: graph".to_owned(),
            "workload_identity: the environment has no AZURE_TENANT_ID",
        ),
    ] {
        let (fine, said) = checked(&settings, &[("SECRET", "s"), ("WRONG", "hunter3")]);
        assert!(!fine && said.contains(wanted), "{said} and not {wanted}");
        assert!(!said.contains("hunter3"));
    }
}
