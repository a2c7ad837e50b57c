//! Unmodified clients through interception, with and without caller tokens: the origin sees the injected credential and
//! none of the caller's. The programs are in `tests/clients/`, their environment in its README.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Config, Origin, Proxy, Root, SECRET, countersign, kit, run_client, text, tool};

/// What a careless script sends beside its request; none of it may reach the API.
const CARELESS: &str = "callers-own-key";

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A bare repository that a static server can serve (the dumb protocol), and its one commit.
fn repository(folder: &Path) -> String {
    let git = |arguments: &[&str], inside: &Path| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(inside)
            .env("HOME", "/nonexistent")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let work = folder.join("work");
    std::fs::create_dir(&work).unwrap();
    git(&["init", "-q"], &work);
    git(&["commit", "-q", "--allow-empty", "-m", "first"], &work);
    git(&["clone", "-q", "--bare", "work", "repo.git"], folder);
    git(&["update-server-info"], &folder.join("repo.git"));
    git(&["rev-parse", "HEAD"], &work)
}

/// An HTTPS origin that serves the repository, and says `hello` to everything else.
async fn origin(root: &Root, repositories: &Path) -> Origin {
    let repositories = repositories.to_owned();
    Origin::https_with(root, &["api.test"], &["h2", "http/1.1"], move |seen| {
        let path = seen.target.split('?').next().unwrap_or_default();
        if !path.starts_with("/repo.git/") {
            return text(200, "hello from the origin");
        }
        match std::fs::read(repositories.join(path.trim_start_matches('/'))) {
            Ok(bytes) => text(200, &String::from_utf8_lossy(&bytes)),
            Err(_) => text(404, "no such file"),
        }
    })
    .await
}

fn variables(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The origin saw the bound credential `count` times and nothing of the caller's.
fn judged(origin: &Origin, client: &str, from: usize) {
    let seen = &origin.seen()[from..];
    assert!(!seen.is_empty(), "{client} did not reach the origin");
    for seen in seen {
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {SECRET}")), "{client}: {seen:?}");
        let all = format!("{seen:?}");
        assert!(
            !all.contains(CARELESS) && !all.contains("t0ken") && seen.header("proxy-authorization").is_none(),
            "{client}: {all}"
        );
    }
}

/// A client: its name, program, arguments and environment.
type Invocation = (&'static str, PathBuf, Vec<String>, HashMap<String, String>);

struct Setup {
    proxy: Proxy,
    origin: Origin,
    kit: PathBuf,
    head: String,
    _folder: tempfile::TempDir,
}

async fn setup(test: &str, callers: &str) -> Option<Setup> {
    let kit = kit(test)?;
    for program in ["curl", "git", "node", "java"] {
        tool(test, program)?;
    }
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let head = repository(folder.path());
    let origin = origin(&root, folder.path()).await;
    let proxy = Config::new().resolve("api.test:443", origin.address).rest(callers).start(&root);
    Some(Setup { proxy, origin, kit, head, _folder: folder })
}

impl Setup {
    /// Every client, pointed at the proxy by its own variables, with these proxy credentials.
    fn run_all(&self, user: &str, password: &str) {
        let address = self.proxy.forward();
        let userinfo = if user.is_empty() { String::new() } else { format!("{user}:{password}@") };
        let url = format!("http://{userinfo}{address}");
        let bundle = self.proxy.bundle();
        let bundle = bundle.to_str().unwrap();
        let python = self.kit.join("venv/bin/python");
        let script = |name: &str| clients().join(name).to_str().unwrap().to_owned();
        let headers = format!("{{\"authorization\": \"Bearer {CARELESS}\"}}");
        let target = "https://api.test/v1/x?q=1";
        let store = self.trust_store();
        let (host, port) = address.rsplit_once(':').unwrap();
        let java = format!(
            "-Dhttps.proxyHost={host} -Dhttps.proxyPort={port} -Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStoreType=PKCS12 \
             -Djavax.net.ssl.trustStorePassword=changeit -Djdk.http.auth.tunneling.disabledSchemes=",
            store.display()
        );
        let node = self.kit.join("node");
        let cases: Vec<Invocation> = vec![
            (
                "requests",
                python.clone(),
                vec![script("requests_client.py")],
                variables(&[("HTTPS_PROXY", &url), ("REQUESTS_CA_BUNDLE", bundle)]),
            ),
            (
                "httpx",
                python.clone(),
                vec![script("httpx_client.py")],
                variables(&[("HTTPS_PROXY", &url), ("SSL_CERT_FILE", bundle)]),
            ),
            (
                "aiohttp",
                python,
                vec![script("aiohttp_client.py")],
                variables(&[("HTTPS_PROXY", &url), ("SSL_CERT_FILE", bundle)]),
            ),
            (
                "node",
                "node".into(),
                vec![script("node_client.mjs")],
                variables(&[
                    ("HTTPS_PROXY", &url),
                    ("NODE_EXTRA_CA_CERTS", bundle),
                    ("TESTKIT_NODE", node.to_str().unwrap()),
                ]),
            ),
            (
                "java",
                "java".into(),
                vec![script("JavaClient.java")],
                variables(&[("JAVA_TOOL_OPTIONS", &java), ("PROXY_USER", user), ("PROXY_PASSWORD", password)]),
            ),
        ];
        for (client, program, mut arguments, mut environment) in cases {
            let from = self.origin.seen().len();
            arguments.push(target.to_owned());
            environment.insert("CLIENT_HEADERS".to_owned(), headers.clone());
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let answer =
                run_client(&program, &arguments, &environment).unwrap_or_else(|error| panic!("{client}: {error}"));
            assert_eq!(
                (answer["status"].as_u64(), answer["body"].as_str()),
                (Some(200), Some("hello from the origin")),
                "{client}: {answer}"
            );
            judged(&self.origin, client, from);
        }
        let from = self.origin.seen().len();
        let (status, out) = plain(
            "curl",
            &["-sS", "-H", &format!("authorization: Bearer {CARELESS}"), target],
            &[("https_proxy", &url), ("CURL_CA_BUNDLE", bundle)],
        );
        assert!(status && out == "hello from the origin", "curl: {out}");
        judged(&self.origin, "curl", from);
        let from = self.origin.seen().len();
        let (status, out) = plain(
            "git",
            &["ls-remote", "https://api.test/repo.git"],
            &[("https_proxy", &url), ("GIT_SSL_CAINFO", bundle), ("GIT_TERMINAL_PROMPT", "0")],
        );
        assert!(status && out.contains(&self.head), "git: {out}");
        judged(&self.origin, "git", from);
    }

    /// The bundle as Java reads it, made by Java's own tool.
    fn trust_store(&self) -> PathBuf {
        let store = self.proxy.folder.path().join("ca.p12");
        if !store.exists() {
            let arguments =
                ["-importcert", "-noprompt", "-alias", "ca", "-storetype", "PKCS12", "-storepass", "changeit", "-file"];
            let output = Command::new("keytool")
                .args(arguments)
                .arg(self.proxy.ca_file())
                .arg("-keystore")
                .arg(&store)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        store
    }
}

/// Runs a program with nothing but these variables.
fn plain(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reaches_the_api_without_a_key_and_without_a_caller_token() {
    let Some(setup) = setup("clients without tokens", "").await else { return };
    setup.run_all("", "");
    assert!(!setup.proxy.stop().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reaches_the_api_with_its_caller_token_and_not_without() {
    let callers = "callers:\n  - { name: runner, token: { env: TOKEN } }\n";
    let Some(setup) = setup("clients with tokens", callers).await else { return };
    setup.run_all("runner", "t0ken");
    let seen = setup.origin.seen().len();
    let bundle = setup.proxy.bundle();
    for userinfo in ["", "runner:wrong@"] {
        let url = format!("http://{userinfo}{}", setup.proxy.forward());
        let (status, out) = plain(
            "curl",
            &["-sS", "https://api.test/"],
            &[("https_proxy", &url), ("CURL_CA_BUNDLE", bundle.to_str().unwrap())],
        );
        assert!(!status && out.contains("407"), "{out}");
        let (status, _) = plain(
            "git",
            &["ls-remote", "https://api.test/repo.git"],
            &[("https_proxy", &url), ("GIT_SSL_CAINFO", bundle.to_str().unwrap()), ("GIT_TERMINAL_PROMPT", "0")],
        );
        assert!(!status);
    }
    assert_eq!(setup.origin.seen().len(), seen, "something passed without a token");
    assert!(!setup.proxy.stop().contains("t0ken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_our_authority_is_refused_by_its_own_check() {
    let Some(setup) = setup("clients without the CA", "").await else { return };
    let url = format!("http://{}", setup.proxy.forward());
    let (status, out) = plain("curl", &["-sS", "https://api.test/"], &[("https_proxy", &url)]);
    assert!(!status && out.contains("certificate"), "{out}");
    assert!(setup.origin.untouched());
    setup.proxy.wait_log(|log| log.contains("does it trust our CA"));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_run_every_client_works_with_nothing_set_by_hand() {
    let test = "clients under run";
    let Some(kit) = kit(test) else { return };
    for program in ["curl", "git", "node", "java"] {
        if tool(test, program).is_none() {
            return;
        }
    }
    let root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    let head = repository(folder.path());
    let origin = origin(&root, folder.path()).await;
    let config =
        Config::new().resolve("api.test:443", origin.address).text().replace("FOLDER", folder.path().to_str().unwrap());
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    let path = folder.path().join("countersign.yaml");
    std::fs::write(&path, config).unwrap();
    let script = |name: &str| clients().join(name).to_str().unwrap().to_owned();
    let python = kit.join("venv/bin/python").to_str().unwrap().to_owned();
    let target = "https://api.test/v1/x";
    let commands: Vec<(&str, Vec<String>, &str)> = vec![
        ("curl", vec!["curl".into(), "-sS".into(), target.into()], "hello from the origin"),
        ("git", vec!["git".into(), "ls-remote".into(), "https://api.test/repo.git".into()], &head),
        ("requests", vec![python.clone(), script("requests_client.py"), target.into()], "hello from the origin"),
        ("httpx", vec![python.clone(), script("httpx_client.py"), target.into()], "hello from the origin"),
        ("aiohttp", vec![python, script("aiohttp_client.py"), target.into()], "hello from the origin"),
        ("node", vec!["node".into(), script("node_client.mjs"), target.into()], "hello from the origin"),
        ("java", vec!["java".into(), script("JavaClient.java"), target.into()], "hello from the origin"),
    ];
    for (client, command, expected) in commands {
        let from = origin.seen().len();
        let mut arguments = vec!["run", "--config", path.to_str().unwrap(), "--"];
        arguments.extend(command.iter().map(String::as_str));
        let output = countersign(&arguments)
            .env("SECRET", SECRET)
            .env("TESTKIT_NODE", kit.join("node"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .output()
            .unwrap();
        let out = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains(expected), "{client}: {out}");
        judged(&origin, client, from);
    }
}
