//! Flexera One: a real authorization server for the grants, and a stub of its login for what no registry has: its errors, its two
//! clients and RightScale's older form.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use url::form_urlencoded;

use crate::support::{Answer, Config, Idp, Origin, Proxy, Root, Seen, kit, text};

const FIRST: &str = "the-first-clients-secret-0123456789";
const SECOND: &str = "the-second-clients-secret-0123456789";
const REFRESH: &str = "a-refresh-token-0123456789";

fn field(seen: &Seen, name: &str) -> String {
    let pairs = form_urlencoded::parse(&seen.body);
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect::<Vec<_>>().join(", ")
}

/// An answer of goa, the framework that Flexera's services are made with.
fn goa(status: u16, name: &str, message: &str) -> Answer {
    let document =
        json!({ "name": name, "id": "x", "message": message, "temporary": false, "timeout": false, "fault": false });
    text(status, &document.to_string())
}

/// The login of a zone or a shard, as it is documented: what it takes exactly, refused when anything else is there too.
fn login(seen: &Seen, number: usize) -> Answer {
    let names: Vec<_> = form_urlencoded::parse(&seen.body).map(|(name, _)| name.into_owned()).collect();
    let legacy = seen.target == "/api/oauth2";
    if seen.header("content-type") != Some("application/x-www-form-urlencoded")
        || seen.header("authorization").is_some()
    {
        return goa(400, "bad_request", "request is invalid");
    }
    if legacy && seen.header("x-api-version") != Some("1.5") {
        return text(400, "API version must be specified");
    }
    let right = match &*field(seen, "grant_type") {
        "refresh_token" => names == ["grant_type", "refresh_token"] && field(seen, "refresh_token") == REFRESH,
        "client_credentials" if !legacy => {
            let pair = (field(seen, "client_id"), field(seen, "client_secret"));
            names == ["grant_type", "client_id", "client_secret"]
                && [("first", FIRST), ("second", SECOND)].contains(&(&*pair.0, &*pair.1))
        }
        _ => false,
    };
    if !right {
        return goa(
            401,
            "unauthorized",
            &format!("not {} nor {}", field(seen, "client_secret"), field(seen, "refresh_token")),
        );
    }
    let client = field(seen, "client_id");
    let token = format!("flexera-{number}-{client}");
    let mut answer =
        json!({ "access_token": token, "expires_in": 3600, "token_type": if legacy { "bearer" } else { "Bearer" } });
    if field(seen, "grant_type") == "refresh_token" {
        answer["refresh_token"] = json!(REFRESH);
    }
    text(200, &answer.to_string())
}

/// A proxy whose names lead to the login and to an API that shows what it got.
async fn scene(
    credentials: &[(&str, &str)],
    login: &Origin,
    root: &Root,
    variables: &[(&str, &str)],
) -> (Proxy, Origin) {
    let hosts = [
        "api.flexera.com",
        "api.flexera.eu",
        "api.flexera.au",
        "api.optima.flexeraeng.com",
        "us-3.rightscale.com",
        "governance-3.rightscale.com",
    ];
    let show = |seen: &Seen| {
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        text(200, &json!({ "token": header("authorization"), "version": header("x-api-version") }).to_string())
    };
    let api = Origin::https_with(root, &hosts, &["http/1.1"], show).await;
    let mut config = Config::new();
    for host in hosts.iter().filter(|host| **host != "us-3.rightscale.com") {
        config = config.resolve(&format!("{host}:443"), api.address);
    }
    for host in ["login.flexera.com", "login.flexera.eu", "login.flexera.au", "us-3.rightscale.com"] {
        config = config.resolve(&format!("{host}:443"), login.address);
    }
    let (mut text, mut bindings) = (String::new(), String::new());
    for (id, settings) in credentials {
        let settings = settings.replace('\n', "\n    ");
        text.push_str(&format!("  - id: {id}\n    scheme: flexera\n    {settings}\n"));
        bindings.push_str(&format!("  - {{ credential: {id}, only_named: true }}\n"));
    }
    let config = config.credentials(&text).bindings(&bindings);
    let config = config.rest("log: { level: trace }\ntokens: { directory: FOLDER/tokens }\n").text();
    let pem = root.pem();
    let proxy = Proxy::start_with(&config, variables, |folder| std::fs::write(folder.join("origin.pem"), pem).unwrap());
    (proxy, api)
}

async fn call(proxy: &Proxy, id: &str, host: &str, version: Option<&str>) -> Value {
    let mut request = proxy.client().get(format!("https://{host}/x")).header("countersign-credential", id);
    if let Some(version) = version {
        request = request.header("x-api-version", version);
    }
    let answer = request.send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

const VARIABLES: [(&str, &str); 4] =
    [("FIRST", FIRST), ("SECOND", SECOND), ("REFRESH", REFRESH), ("WRONG", "not-it-0123456789")];

const LOGINS: [&str; 4] = ["login.flexera.com", "login.flexera.eu", "login.flexera.au", "us-3.rightscale.com"];

async fn stub(root: &Root) -> Origin {
    let count = AtomicUsize::new(0);
    let answer = move |seen: &Seen| {
        if seen.target.ends_with("/token") || seen.target == "/api/oauth2" {
            return login(seen, count.fetch_add(1, Ordering::SeqCst));
        }
        // The shard is its own API too.
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        text(200, &json!({ "token": header("authorization"), "version": header("x-api-version") }).to_string())
    };
    Origin::https_with(root, &LOGINS, &["http/1.1"], answer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_zone_has_its_login_and_a_service_account_goes_on_with_its_second_client() {
    let root = Root::new();
    let login = stub(&root).await;
    let account =
        |zone: &str, first: &str| format!("zone: {zone}\nclient_id: first\nclient_secret: {{ env: {first} }}");
    let second = |secret: &str| format!("\nsecond: {{ client_id: second, client_secret: {{ env: {secret} }} }}");
    let credentials = [
        ("nam", account("nam", "FIRST")),
        ("eu", account("eu", "FIRST")),
        ("apac", account("apac", "FIRST")),
        ("refresh", "zone: nam\nrefresh_token: { env: REFRESH }".to_owned()),
        ("both", account("nam", "FIRST") + &second("SECOND")),
        ("replaced", account("nam", "WRONG") + &second("SECOND")),
        ("neither", account("nam", "WRONG") + &second("WRONG")),
        ("wrong", account("nam", "WRONG")),
        ("revoked", "zone: nam\nrefresh_token: { env: WRONG }".to_owned()),
    ];
    let credentials: Vec<_> = credentials.iter().map(|(id, settings)| (*id, &**settings)).collect();
    let (proxy, api) = scene(&credentials, &login, &root, &VARIABLES).await;
    for (id, host, client) in [
        ("nam", "api.flexera.com", "-first"),
        ("nam", "api.optima.flexeraeng.com", "-first"),
        ("eu", "api.flexera.eu", "-first"),
        ("apac", "api.flexera.au", "-first"),
        ("refresh", "api.flexera.com", "-"),
        ("both", "api.flexera.com", "-first"),
        ("replaced", "api.flexera.com", "-second"),
    ] {
        let seen = call(&proxy, id, host, None).await;
        let token = seen["token"].as_str().unwrap_or_else(|| panic!("{id}: {seen}"));
        assert!(token.starts_with("Bearer flexera-") && token.ends_with(client), "{id}: {token}");
        assert_eq!(seen["version"], "", "{id}");
    }
    let before = api.seen().len();
    for (id, code, said) in [
        (
            "neither",
            "credential_rejected",
            "login.flexera.com answered 401 unauthorized: not [redacted] nor; the second client: ",
        ),
        ("wrong", "credential_rejected", "login.flexera.com answered 401 unauthorized: not [redacted] nor"),
        ("revoked", "reauthorization_required", "login.flexera.com answered 401 unauthorized: not  nor [redacted]"),
    ] {
        let refused = call(&proxy, id, "api.flexera.com", None).await;
        assert!(refused["code"] == code && refused["detail"].as_str().unwrap().contains(said), "{id}: {refused}");
    }
    // A token of one zone goes nowhere else.
    let refused = call(&proxy, "nam", "api.flexera.eu", None).await;
    assert_eq!(refused["code"], "credential_unknown", "{refused}");
    assert_eq!(api.seen().len(), before, "what is refused goes nowhere");
    let log = proxy.stop();
    let tried = "\"the first client was refused, the second is tried\",\"credential\":\"replaced\"";
    assert!(log.contains(tried), "{log}");
    assert!(!log.contains("refused, the second is tried\",\"credential\":\"both\""));
    for secret in [FIRST, SECOND, REFRESH, "not-it-0123456789", "flexera-0"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rightscale_gets_its_version_and_a_move_to_another_shard_is_told() {
    let root = Root::new();
    let login = stub(&root).await;
    let credentials = [
        ("shard", "shard: us-3\nrefresh_token: { env: REFRESH }"),
        ("revoked", "shard: us-3\nrefresh_token: { env: WRONG }"),
    ];
    let (proxy, _api) = scene(&credentials, &login, &root, &VARIABLES).await;
    for (host, sent, seen) in [
        ("us-3.rightscale.com", None, "1.5"),
        ("us-3.rightscale.com", Some("1.6"), "1.6"),
        ("governance-3.rightscale.com", None, ""),
    ] {
        let got = call(&proxy, "shard", host, sent).await;
        assert!(
            got["version"] == seen && got["token"].as_str().unwrap().starts_with("Bearer flexera-"),
            "{host}: {got}"
        );
    }
    let refused = call(&proxy, "revoked", "us-3.rightscale.com", None).await;
    assert_eq!(refused["code"], "reauthorization_required", "{refused}");
    // One account is on another shard.
    let moved = Mutex::new(0);
    let away = Origin::https_with(&root, &LOGINS, &["http/1.1"], move |_| {
        *moved.lock().unwrap() += 1;
        let mut answer = text(301, "");
        answer.headers_mut().insert("location", "https://us-4.rightscale.com/api/oauth2?x=hidden".parse().unwrap());
        answer
    })
    .await;
    let (proxy, _api) = scene(&credentials[..1], &away, &root, &VARIABLES).await;
    let refused = call(&proxy, "shard", "us-3.rightscale.com", None).await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("points to us-4.rightscale.com;") && detail.ends_with("write it under `shard`"),
        "{detail}"
    );
    assert!(away.seen().len() == 1 && !detail.contains("hidden"));
}

#[tokio::test(flavor = "multi_thread")]
async fn authlib_knows_a_service_account_and_a_refresh_token_and_refuses_wrong_and_revoked_ones() {
    let Some(kit) = kit("flexera") else { return };
    let root = Root::new();
    let clients = json!([
        { "client_id": "first", "client_secret": FIRST, "token_endpoint_auth_method": "client_secret_post" },
        { "client_id": "person", "token_endpoint_auth_method": "refresh_token", "grant_types": ["refresh_token"] },
    ]);
    let idp = Idp::start(&kit, "authlib", &json!({ "clients": clients, "scopes": ["read"] }));
    let (port, url) = (&idp.facts["port"], idp.url("token_url"));
    let token = async |client: &str| {
        let made = idp.admin("/admin/refresh-token", Some(json!({ "client_id": client, "scope": "read" }))).await;
        made["refresh_token"].as_str().unwrap().to_owned()
    };
    // A token of a client that has a secret is of no use alone.
    let (refresh, revoked, foreign) = (token("person").await, token("person").await, token("first").await);
    idp.admin("/admin/revoke", Some(json!({ "refresh_token": revoked }))).await;
    let mut variables = VARIABLES.to_vec();
    variables.retain(|(name, _)| *name != "REFRESH");
    variables.extend([("REFRESH", &*refresh), ("REVOKED", &*revoked), ("FOREIGN", &*foreign)]);
    let credential = |id: &str, more: &str| {
        format!(
            "  - id: {id}\n    scheme: flexera\n    zone: nam\n    token_url: {url}\n    allow_cleartext: true\n    \
             allow_addresses: [127.0.0.1]\n    hosts: [\"127.0.0.1:{port}\"]\n    {more}\n"
        )
    };
    let ids = ["account", "second", "wrong", "refresh", "revoked", "unknown", "foreign"];
    let credentials = [
        credential("account", "client_id: first\n    client_secret: { env: FIRST }"),
        credential(
            "second",
            "client_id: gone\n    client_secret: { env: WRONG }\n    second: { client_id: first, client_secret: { env: FIRST } }",
        ),
        credential("wrong", "client_id: first\n    client_secret: { env: WRONG }"),
        credential("refresh", "refresh_token: { env: REFRESH }"),
        credential("revoked", "refresh_token: { env: REVOKED }"),
        credential("unknown", "refresh_token: { env: WRONG }"),
        credential("foreign", "refresh_token: { env: FOREIGN }"),
    ]
    .concat();
    let bindings: String =
        ids.iter().map(|id| format!("  - {{ credential: {id}, only_named: true, allow_cleartext: true }}\n")).collect();
    let config = Config::new().credentials(&credentials).bindings(&bindings);
    let config = config.rest("tokens: { directory: FOLDER/tokens }\n").text();
    let pem = root.pem();
    let proxy =
        Proxy::start_with(&config, &variables, |folder| std::fs::write(folder.join("origin.pem"), pem).unwrap());
    for (id, expected) in [
        ("account", Ok("first")),
        ("second", Ok("first")),
        ("wrong", Err("credential_rejected")),
        ("refresh", Ok("person")),
        ("revoked", Err("reauthorization_required")),
        ("unknown", Err("reauthorization_required")),
        ("foreign", Err("reauthorization_required")),
    ] {
        let answer = proxy.client().get(idp.url("me_url")).header("countersign-credential", id).send().await.unwrap();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        match expected {
            Err(code) => assert_eq!(body["code"], code, "{id}: {body}"),
            Ok(client) => assert_eq!(body["client_id"], client, "{id}: {body}"),
        }
    }
}
