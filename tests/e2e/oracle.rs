//! Oracle's own programs with worthless keys or none, through Countersign, against a server that verifies every signature by
//! other means. The server, its metadata service and its exchanges are stubs: no registry has such a thing.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::aws::tunnel;
use crate::oracle_signing::{cloud, folder};
use crate::support::{Proxy, Root, countersign, measured};

/// A running `cloud_server.py` and the certificate it has.
struct Cloud {
    child: Child,
    facts: Value,
    kit: PathBuf,
    root: Root,
    files: tempfile::TempDir,
}

impl Cloud {
    fn start(kit: &Path, more: &[&str]) -> Self {
        let (root, files) = (Root::new(), tempfile::tempdir().unwrap());
        let names = ["*.us-ashburn-1.oraclecloud.com", "*.us-ashburn-1.oci.oraclecloud.com", "kubernetes.test"];
        let (certificate, key) = root.leaf(&names);
        std::fs::write(files.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(files.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(files.path().join("origin.pem"), root.pem()).unwrap();
        let mut command = Command::new(kit.join("bin/python"));
        command.arg(folder().join("cloud_server.py")).arg("--cert").arg(files.path().join("cert.pem"));
        command.arg("--key").arg(files.path().join("key.pem")).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).expect("cloud_server.py did not start");
        Self { child, facts, kit: kit.to_owned(), root, files }
    }

    fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    fn port(&self) -> u64 {
        self.facts["port"].as_u64().unwrap()
    }

    /// What its plain listener answers.
    async fn ask(&self, path: &str) -> Value {
        crate::support::provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.facts["plain"])).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// A configuration with this one credential, whose names lead to the server through a corporate proxy.
    fn config(&self, tunnel: SocketAddr, credential: &str) -> String {
        format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\ntokens: {{ directory: FOLDER/tokens }}\nca: {{ directory: FOLDER/ca }}\n\
             upstream:\n  ca_file: FOLDER/origin.pem\n  proxy: \"http://{tunnel}\"\n  resolve: {{ \"kubernetes.test:12250\": \"127.0.0.1:{}\" }}\n\
             credentials:\n  - id: oracle\n    scheme: oracle\n{credential}\n\
             bindings:\n  - {{ credential: oracle, hosts: [\"*.oraclecloud.com\"] }}\n",
            self.port()
        )
    }

    /// The credential of its user, with one of its keys.
    fn api_key(&self, fingerprint: &str) -> String {
        format!(
            "    tenancy_ocid: {}\n    user_ocid: {}\n    fingerprint: {}\n    private_key: {{ env: KEY }}\n",
            self.fact("tenancy"),
            self.fact("user"),
            self.fact(fingerprint)
        )
    }

    async fn proxy(&self, credential: &str, variables: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Proxy {
        let config = self.config(tunnel(self.port()).await, credential);
        let root = self.root.pem();
        Proxy::start_with(&config, variables, |folder| {
            std::fs::write(folder.join("origin.pem"), root).unwrap();
            prepare(folder);
        })
    }

    /// Runs a program of `tests/oracle` under `countersign run`; its operations.
    async fn run(&self, credential: &str, key: &str, program: &str, arguments: &[&str]) -> Vec<Value> {
        let config = self.config(tunnel(self.port()).await, credential);
        let config = config.replace("FOLDER", self.files.path().to_str().unwrap());
        let path = self.files.path().join("countersign.yaml");
        std::fs::write(&path, config).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut command = countersign(&["run", "--config", path.to_str().unwrap(), "--"]);
        command.arg(self.kit.join("bin/python")).arg(folder().join(program)).args(arguments);
        command.env("KEY", key).env("HOME", home.path()).stdin(Stdio::null());
        // Whatever it finds in its environment is not for the command.
        command.env("OCI_CLI_AUTH", "instance_principal").env("OCI_CLI_KEY_FILE", "/nonexistent");
        operations(command, program)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn operations(mut command: Command, program: &str) -> Vec<Value> {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}\n{stdout}\n{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Asks the regions once, through a proxy.
async fn regions(proxy: &Proxy) -> (u16, String) {
    let url = "https://identity.us-ashburn-1.oci.oraclecloud.com/20160918/regions";
    let answer = proxy.client().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn oracles_sdk_uses_every_kind_of_operation_with_a_worthless_key_and_is_refused_where_the_key_is_wrong() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let done = cloud.run(&cloud.api_key("fingerprint"), cloud.fact("pem"), "sdk_client.py", &[]).await;
    assert_eq!(done.len(), 19, "{done:?}");
    let seen = cloud.ask("/requests").await;
    let seen = seen.as_array().unwrap();
    assert!(seen.iter().all(|one| one["refused"].is_null()), "{seen:#?}");
    // What the service takes without a signature over its body is streamed, and nothing else is.
    let mut streamed = 0;
    for one in seen {
        let (method, target) = (one["method"].as_str().unwrap(), one["target"].as_str().unwrap());
        let upload = method == "PUT" && (target.contains("/o/") || target.contains("uploadPartNum"));
        let upload = upload || target.contains("uploadLogFile");
        let short = upload || ["GET", "HEAD", "DELETE"].contains(&method);
        assert_eq!(one["signed"].as_array().unwrap().len(), if short { 3 } else { 6 }, "{one}");
        streamed += if upload { one["length"].as_u64().unwrap() } else { 0 };
    }
    assert!(streamed > 30_000_000, "{streamed}");
    measured(&format!("Oracle's SDK: {} operations, {} requests, each verified by httpsig", done.len(), seen.len()));
    let wrong = cloud.api_key("other_fingerprint");
    let refused = cloud.run(&wrong, cloud.fact("other_pem"), "sdk_client.py", &["--expect-refused"]).await;
    assert_eq!(refused.len(), 19, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn oracles_command_line_works_with_a_worthless_key_and_is_refused_where_the_key_is_wrong() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let oci = kit.join("bin/oci");
    let oci = oci.to_str().unwrap();
    let done = cloud.run(&cloud.api_key("fingerprint"), cloud.fact("pem"), "cli.py", &[oci]).await;
    measured(&format!("oci-cli: {} commands with a worthless key", done.len()));
    let wrong = cloud.api_key("other_fingerprint");
    cloud.run(&wrong, cloud.fact("other_pem"), "cli.py", &[oci, "--expect-refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_principal_is_exchanged_and_renewed_when_it_is_refused() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    // The stub is right: Oracle's own SDK takes it for a compute instance.
    let mut own = Command::new(kit.join("bin/python"));
    own.arg(folder().join("sdk_client.py")).arg("--instance").env_clear();
    own.env("HTTPS_PROXY", format!("http://{}", tunnel(cloud.port()).await));
    own.env("REQUESTS_CA_BUNDLE", cloud.files.path().join("origin.pem"));
    own.env("OCI_METADATA_BASE_URL", format!("http://127.0.0.1:{}/opc/v2", cloud.facts["plain"]));
    assert_eq!(operations(own, "sdk_client.py --instance").len(), 2);
    let metadata =
        format!("    principal: instance\n    metadata_url: http://127.0.0.1:{}/opc/v2\n", cloud.facts["plain"]);
    let proxy = cloud.proxy(&metadata, &[], |_| {}).await;
    let before = cloud.ask("/requests").await.as_array().unwrap().len();
    for _ in 0..3 {
        assert_eq!(regions(&proxy).await.0, 200);
    }
    cloud.ask("/revoke").await;
    assert_eq!(regions(&proxy).await.0, 200, "the token that was refused is dropped, and the request signed once more");
    let seen = cloud.ask("/requests").await;
    let seen = &seen.as_array().unwrap()[before..];
    let exchanges = seen.iter().filter(|one| one["target"] == "/v1/x509").count();
    assert_eq!((seen.len(), exchanges), (3 + 2 + 2, 2), "{seen:#?}");
    let log = proxy.stop();
    assert!(!log.contains("eyJhbGci") && !log.contains("PRIVATE KEY"), "{log}");
    // The negative twin: an exchange that nobody answers.
    let nobody = metadata.replace("/opc/v2", "/opc/v1");
    let proxy = cloud.proxy(&nobody, &[], |_| {}).await;
    let (status, text) = regions(&proxy).await;
    assert!(status == 502 && text.contains("instance principals are for compute instances"), "{status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_principal_is_read_from_its_files_again_when_it_is_refused() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("rpst"), cloud.fact("rpst")).unwrap();
    std::fs::write(path("key"), cloud.fact("rpst_pem")).unwrap();
    let (token, key) = (path("rpst"), path("key"));
    let variables = [
        ("OCI_RESOURCE_PRINCIPAL_VERSION", "2.2"),
        ("OCI_RESOURCE_PRINCIPAL_RPST", &*token),
        ("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM", &*key),
        ("OCI_RESOURCE_PRINCIPAL_REGION", "us-ashburn-1"),
    ];
    let proxy = cloud.proxy("    principal: resource\n", &variables, |_| {}).await;
    assert_eq!(regions(&proxy).await.0, 200);
    let renewed = cloud.ask("/revoke").await;
    std::fs::write(path("rpst"), renewed.as_str().unwrap()).unwrap();
    assert_eq!(regions(&proxy).await.0, 200);
    let seen = cloud.ask("/requests").await;
    assert_eq!(seen.as_array().unwrap().iter().filter(|one| !one["refused"].is_null()).count(), 1, "{seen:#?}");
    assert!(seen[0]["session"] == true);
    // The negative twin: nothing is there to be read again.
    std::fs::remove_file(path("rpst")).unwrap();
    let proxy = cloud.proxy("    principal: resource\n", &variables, |_| {}).await;
    let (status, text) = regions(&proxy).await;
    assert!(status == 503 && text.contains("No such file") && text.contains("token_endpoint_unavailable"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_service_account_is_exchanged_by_its_cluster() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let credential = "    principal: workload\n    federation_url: https://kubernetes.test:12250/resourcePrincipalSessionTokens\n    \
                      service_account_token: { file: FOLDER/account }\n    allow_addresses: [127.0.0.0/8]\n";
    let account = cloud.fact("account_token").to_owned();
    let proxy = cloud.proxy(credential, &[], |folder| std::fs::write(folder.join("account"), account).unwrap()).await;
    assert_eq!(regions(&proxy).await.0, 200);
    let proxy = cloud.proxy(credential, &[], |folder| std::fs::write(folder.join("account"), "another").unwrap()).await;
    let (status, text) = regions(&proxy).await;
    assert!(status == 502 && text.contains("needs an enhanced cluster"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_command_line_signs_until_it_ends() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let credential = "    private_key: { env: KEY }\n    security_token: { file: FOLDER/token }\n";
    let token = cloud.fact("rpst").to_owned();
    let variables = [("KEY", cloud.fact("rpst_pem"))];
    let proxy =
        cloud.proxy(credential, &variables, |folder| std::fs::write(folder.join("token"), token).unwrap()).await;
    assert_eq!(regions(&proxy).await.0, 200);
    let ended = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE2OTk5OTk5OTl9.c2ln";
    let proxy =
        cloud.proxy(credential, &variables, |folder| std::fs::write(folder.join("token"), ended).unwrap()).await;
    let (status, text) = regions(&proxy).await;
    assert!(status == 503 && text.contains("oci session refresh") && !text.contains(ended), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ten_minutes_off_is_corrected_by_the_answer() {
    let Some(kit) = cloud("oracle") else { return };
    let cloud = Cloud::start(&kit, &[]);
    let proxy = cloud.proxy(&cloud.api_key("fingerprint"), &[("KEY", cloud.fact("pem"))], |_| {}).await;
    for seconds in ["600", "3600"] {
        cloud.ask(&format!("/clock/{seconds}")).await;
        let (status, text) = regions(&proxy).await;
        // No answer moves the clock further than a quarter of an hour, and none at once after another.
        if seconds == "600" {
            assert_eq!(status, 200, "{text}");
            assert_eq!(regions(&proxy).await.0, 200);
        } else {
            assert_eq!(status, 401, "{text}");
        }
    }
    let seen = cloud.ask("/requests").await;
    assert_eq!(seen[0]["refused"], "the date is more than five minutes away");
    assert!(seen[1]["refused"].is_null() && seen[2]["refused"].is_null(), "{seen:#?}");
}

#[test]
fn what_is_wrong_with_a_key_is_told_by_check() {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys");
    let key = |file: &str| keys.join(file).to_str().unwrap().to_owned();
    let good = "b2:16:7d:00:03:a2:f2:d1:14:b7:db:2a:6d:9d:13:b9";
    let user = "ocid1.user.oc1..aaaa";
    let checked = |fingerprint: &str, user: &str, file: &str, more: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("countersign.yaml");
        let text = format!(
            "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\ncredentials:\n  - id: oracle\n    scheme: oracle\n    \
             tenancy_ocid: ocid1.tenancy.oc1..aaaa\n    user_ocid: {user}\n    fingerprint: {fingerprint}\n    \
             private_key: {{ file: {} }}\n{more}",
            key(file)
        );
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let output =
            countersign(&["check", "--config", path.to_str().unwrap()]).env("PASSWORD", "Geheim-77").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(checked(good, user, "rsa-with-a-label.pem", ""), (0, String::new()));
    let password = "    password: { env: PASSWORD }\n";
    for (fingerprint, user, file, more, said) in [
        (good, user, "rsa-legacy-encrypted.pem", "", "private_key: it is encrypted and there is no password for it"),
        (
            good,
            user,
            "rsa-legacy-encrypted.pem",
            password,
            "private_key: it cannot be decrypted: the password is wrong",
        ),
        (
            good,
            user,
            "rsa-encrypted-aes256.pem",
            password,
            "private_key: it cannot be decrypted: the password is wrong",
        ),
        (good, user, "rsa-other.pem", "", "fingerprint: it is of another key"),
        (good, user, "rsa-1024.pem", "", "private_key: it has 1024 bits"),
        (good, user, "p256-pkcs8.pem", "", "its keys are RSA of 2048 to 4096 bits"),
        ("20:3b", user, "rsa-pkcs1.pem", "", "credentials[0].fingerprint: it is not a fingerprint"),
        (
            good,
            "ocid1.tenancy.oc1..aaaa",
            "rsa-pkcs1.pem",
            "",
            "credentials[0].user_ocid: it is not the OCID of a user",
        ),
    ] {
        let (code, errors) = checked(fingerprint, user, file, more);
        assert!(code == 78 && errors.contains(said), "{code} {errors}, and not {said}");
        assert!(!errors.contains("Geheim-77") && !errors.contains("PRIVATE KEY"), "{errors}");
    }
}
