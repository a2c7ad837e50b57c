//! Every recipe that logs in: one call through each, against what its vendor documents (`tests/login/recipes.json`).

use std::collections::BTreeMap;
use std::path::Path;

use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{Answer, Origin, Proxy, Root, Seen, measured, text};

#[derive(Deserialize)]
struct Case {
    recipe: String,
    documented: String,
    login: Request,
    answer: Reply,
    /// Further exchanges after the login.
    #[serde(default)]
    further: Vec<Further>,
    call: Request,
    /// What the call must carry.
    sent: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct Request {
    method: String,
    url: String,
    /// Those that must be there; a value that ends in `*` is the beginning of one.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

#[derive(Clone, Deserialize)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

#[derive(Clone, Deserialize)]
struct Further {
    login: Request,
    answer: Reply,
}

impl Request {
    fn host(&self) -> String {
        let url = url::Url::parse(&self.url).unwrap();
        format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap())
    }

    fn target(&self) -> String {
        let url = url::Url::parse(&self.url).unwrap();
        url[url::Position::BeforePath..].to_owned()
    }

    fn check(&self, what: &str, seen: &Seen) {
        assert_eq!(seen.target, self.target(), "{what}");
        assert_eq!(String::from_utf8_lossy(&seen.body), self.body, "{what}");
        matches(what, seen, &self.headers);
    }
}

fn matches(what: &str, seen: &Seen, headers: &BTreeMap<String, String>) {
    for (name, wanted) in headers {
        let got = seen.header(name).unwrap_or_default();
        let fits = wanted.strip_suffix('*').map_or(got == wanted, |beginning| got.starts_with(beginning));
        assert!(fits, "{what}: {name} is {got:?} and not {wanted:?}");
    }
}

impl Reply {
    fn response(&self) -> Answer {
        let mut response = http::Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = self.body.as_str().map_or_else(|| self.body.to_string(), str::to_owned);
        response.body(Full::new(body.into()).boxed()).unwrap()
    }
}

/// Every environment variable that a recipe reads, with a value of its own.
fn variables(recipe: &str) -> Vec<(String, String)> {
    let names = recipe
        .split("env: ")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
    names.map(|name| (name.clone(), format!("secret-of-{name}"))).collect()
}

async fn drive(case: &Case) {
    let what = &case.recipe;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = std::fs::read_to_string(folder.join(format!("config/recipes/{what}.yaml"))).unwrap();
    assert!(recipe.contains(&case.documented), "{what} does not name {}", case.documented);
    assert!(recipe.contains(&format!("{} {}", case.call.method, case.call.url)), "{what} has another example");
    let key = folder.join("tests/vectors/keys/rsa-pkcs8.pem");
    let recipe = recipe.replace("/run/secrets/github-app.pem", key.to_str().unwrap());

    let root = Root::new();
    let logins = std::iter::once(Further { login: case.login.clone(), answer: case.answer.clone() });
    let logins: Vec<Further> = logins.chain(case.further.iter().cloned()).collect();
    let exchanges = logins.clone();
    let places: Vec<String> = logins.iter().map(|exchange| exchange.login.host()).chain([case.call.host()]).collect();
    let names: Vec<&str> = places.iter().map(|place| place.split(':').next().unwrap()).collect();
    let call = case.call.target();
    let origin = Origin::https_with(&root, &names, &["http/1.1"], move |seen| {
        let login = exchanges.iter().find(|exchange| exchange.login.target() == seen.target);
        // One address for logins and calls (JSON-RPC): what carries the token is the call.
        match login {
            Some(login) if seen.target != call || seen.header("authorization").is_none() => login.answer.response(),
            _ => text(200, "the call"),
        }
    })
    .await;
    let mut resolve: Vec<String> =
        places.iter().map(|place| format!("    \"{place}\": {}\n", origin.address)).collect();
    resolve.sort();
    resolve.dedup();
    let config = format!(
        "listeners: {{ forward: [{{ address: 127.0.0.1:0 }}] }}\nlog: {{ level: trace }}\ntokens: {{ directory: FOLDER/tokens }}\n\
         upstream:\n  allow_addresses: [127.0.0.0/8]\n  ca_file: FOLDER/origin.pem\n  resolve:\n{}{recipe}",
        resolve.concat()
    );
    let variables = variables(&recipe);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let proxy = Proxy::start_with(&config, &variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    let method = case.call.method.parse().unwrap();
    let answer = proxy.client().request(method, &case.call.url).send().await.unwrap();
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!((status.as_u16(), body.as_str()), (200, "the call"), "{what}");
    let seen = origin.seen();
    assert_eq!(seen.len(), logins.len() + 1, "{what}: {seen:?}");
    for (exchange, seen) in logins.iter().zip(&seen) {
        exchange.login.check(what, seen);
    }
    let seen = &seen[logins.len()];
    assert_eq!(seen.target, case.call.target(), "{what}");
    matches(what, seen, &case.sent);
    // Nothing else of ours goes out: no secret, no proof of another credential.
    let sent = format!("{:?}", seen.headers);
    assert!(!sent.contains("secret-of-"), "{what}: {sent}");
    let log = proxy.stop();
    for (_, secret) in &variables {
        assert!(!log.contains(secret), "{what}: a secret is in the log");
    }
    assert!(!log.contains("sessiontoken"), "{what}: the token is in the log");
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/login/recipes.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipe_that_logs_in_sends_what_its_vendor_documents() {
    let cases = cases();
    for case in &cases {
        drive(case).await;
    }
    measured(&format!("{} recipes that log in: each login and call as its vendor documents", cases.len()));
}

#[test]
fn every_recipe_that_logs_in_has_a_case() {
    let cases: Vec<String> = cases().into_iter().map(|case| format!("{}.yaml", case.recipe)).collect();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/recipes")).unwrap() {
        let path = file.unwrap().path();
        let recipe = std::fs::read_to_string(&path).unwrap();
        if recipe.contains("scheme: login") || recipe.contains("scheme: apptio") {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(cases.iter().any(|case| case == name), "{name} has no case in tests/login/recipes.json");
        }
    }
}
