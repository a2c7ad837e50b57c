//! Vault's answers, as its documentation and its server give them, and what becomes of them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Request;
use serde_json::{Value, json};

use super::super::testing::{Said, Server, Signer, reference, says, stores};
use super::super::{SecretStores, StoreSettings, Stores, TransitClient};
use super::*;

fn settings() -> Value {
    json!({"name": "s", "kind": "vault", "address": "https://v.test/base/", "credential": "c", "namespace": "team/a"})
}

fn with(changes: Value) -> Value {
    let mut settings = settings();
    for (key, value) in changes.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

fn kv2(path: &str) -> Value {
    json!({"data": {"path": path, "type": "kv", "options": {"version": "2"}}})
}

async fn read(stores: &Stores, name: &str, version: Option<&str>, field: Option<&str>) -> Result<String, String> {
    let reference = reference(name, version, field);
    let reading = stores.read(&reference).await.map_err(|error| error.0)?;
    reading.field(&reference).map(|secret| secret.expose_str().unwrap().to_owned()).map_err(|error| error.0)
}

fn targets(server: &Server) -> Vec<String> {
    server.asked().iter().map(|asked| format!("{} {}", asked.method(), asked.uri().path_and_query().unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn vault_is_asked_once_of_which_version_an_engine_is_and_names_go_below_its_data() {
    let server = Server::new([
        says(200, kv2("secret/")),
        says(200, json!({"data": {"data": {"k": "v"}, "metadata": {"version": 3}}})),
    ]);
    let stores = stores(settings(), &server, &Signer::new(0), None);
    assert_eq!(read(&stores, "secret/a b/c", None, None).await.unwrap(), "v");
    assert_eq!(read(&stores, "secret/d", Some("2"), Some("k")).await.unwrap(), "v");
    let expected = [
        "GET /base/v1/sys/internal/ui/mounts/secret/a%20b/c",
        "GET /base/v1/secret/data/a%20b/c",
        "GET /base/v1/secret/data/d?version=2",
    ];
    assert_eq!(targets(&server), expected);
    for asked in server.asked() {
        assert_eq!(asked.headers()[NAMESPACE], "team/a");
        assert_eq!(asked.headers()[REQUEST], "true");
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_engine_and_version_are_not_asked_for() {
    let server =
        Server::new([says(200, json!({"lease_id": "", "lease_duration": 2764800, "data": {"k": "v", "n": 3}}))]);
    let stores = stores(with(json!({"mount": "kv/one", "kv_version": 1})), &server, &Signer::new(0), None);
    assert_eq!(read(&stores, "a/b", None, Some("n")).await.unwrap(), "3");
    assert_eq!(targets(&server), ["GET /base/v1/kv/one/a/b"]);
    let error = read(&stores, "a/b", Some("1"), Some("n")).await.unwrap_err();
    assert!(error.ends_with("only the key/value engine of version 2 has versions"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_vault_refuses_is_told_with_what_to_change() {
    let metadata = |more: Value| {
        let mut metadata = json!({"version": 2, "deletion_time": "", "destroyed": false});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"data": {"data": null, "metadata": metadata}})
    };
    for (said, expected) in [
        (
            says(404, metadata(json!({"deletion_time": "2026-11-22T14:31:37Z"}))),
            "version 2 was deleted at 2026-11-22T14:31:37Z",
        ),
        (says(404, metadata(json!({"destroyed": true}))), "version 2 was destroyed"),
        (says(404, json!({"errors": []})), "there is no such secret, or no such version of it"),
        (
            says(403, json!({"errors": ["1 error occurred:\n\t* permission denied\n\n"]})),
            "permission denied: the policy of the store's credential does not allow a/data/b (permission denied)",
        ),
        (says(503, json!({"errors": ["Vault is sealed"]})), "it answers 503 Vault is sealed"),
        (says(500, json!({"errors": ["2 errors occurred:\n\t* one\n\t* two\n\n"]})), "it answers 500 one; two"),
        (says(307, json!({})), "no redirect is followed: write that address"),
        (says(200, json!({"wrap_info": {"token": "t0ken-of-the-wrap"}})), "its answer is wrapped"),
        (Ok(http::Response::new(b"<html>".to_vec())), "its answer is not JSON; is this Vault?"),
    ] {
        let server = Server::new([said]);
        let stores = stores(with(json!({"mount": "secret", "kv_version": 2})), &server, &Signer::new(0), None);
        let error = read(&stores, "a/data/b", None, None).await.unwrap_err();
        let hint = error.contains("leave `data/` out of its name");
        assert!(error.contains(expected) || hint && expected.starts_with("there is no such"), "{error}");
        assert!(!error.contains("t0ken"), "{error}");
    }
}

/// Database credentials with these lifetimes, each user once, and a token that lives for `ttl` seconds.
fn database(lease: u64, renewed: impl Fn(usize) -> Said + Send + 'static, ttl: u64) -> Server {
    let (users, renewals) = (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
    let next = |count: &std::sync::atomic::AtomicUsize| count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
    Server::with(move |request: &Request<Vec<u8>>| {
        Some(match request.uri().path() {
            "/base/v1/auth/token/lookup-self" => says(200, json!({"data": {"ttl": ttl}})),
            "/base/v1/sys/leases/renew" => renewed(next(&renewals)),
            "/base/v1/sys/leases/revoke" => says(403, json!({"errors": ["permission denied"]})),
            "/base/v1/auth/token/revoke-self" => says(204, json!({})),
            _ => {
                let user = next(&users);
                let data = json!({"username": format!("u{user}"), "password": format!("p{user}")});
                says(
                    200,
                    json!({"lease_id": format!("l{user}"), "lease_duration": lease, "renewable": true, "data": data}),
                )
            }
        })
    })
}

fn leasing(server: &Server) -> Stores {
    stores(with(json!({"mount": "database", "kv_version": 1})), server, &Signer::new(0), None)
}

async fn user(stores: &Stores) -> Result<(String, u64, u64), String> {
    let reading = stores.read(&reference("creds/x", None, None)).await.map_err(|error| error.0)?;
    let field = |name: &str| {
        let reference = reference("creds/x", None, Some(name));
        reading.field(&reference).unwrap().expose_str().unwrap().to_owned()
    };
    let (name, password) = (field("username"), field("password"));
    assert_eq!(name[1..], password[1..], "both are of one reading");
    let seconds = |duration: Duration| duration.as_secs_f64().round() as u64;
    Ok((name, seconds(reading.lifetime.refresh), seconds(reading.lifetime.usable)))
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_at_two_thirds_and_replaced_when_it_is_renewed_for_less_and_less() {
    let lasts = |seconds: u64| says(200, json!({"lease_duration": seconds}));
    let server = database(90, move |count| if count == 1 { lasts(90) } else { lasts(20) }, 0);
    let stores = leasing(&server);
    assert_eq!(user(&stores).await.unwrap(), ("u1".into(), 60, 81));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(user(&stores).await.unwrap(), ("u1".into(), 60, 81), "renewed");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(user(&stores).await.unwrap(), ("u2".into(), 60, 81), "at the end of its longest life");
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_the_token_that_asked_for_it() {
    let server = database(3600, |_| says(200, json!({"lease_duration": 3600})), 30);
    let stores = leasing(&server);
    assert_eq!(user(&stores).await.unwrap(), ("u1".into(), 20, 27));
    let lookup = server.asked()[1].clone();
    assert_eq!(
        (lookup.uri().path(), &lookup.headers()[TOKEN]),
        ("/base/v1/auth/token/lookup-self", &"token-0".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_is_replaced_and_one_that_cannot_be_renewed_serves_to_its_end() {
    let gone = database(90, |_| says(400, json!({"errors": ["lease not found"]})), 0);
    let stores = leasing(&gone);
    assert_eq!(user(&stores).await.unwrap().0, "u1");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(user(&stores).await.unwrap().0, "u2");
    let made = json!({"lease_id": "l1", "lease_duration": 90, "renewable": true, "data": {"username": "u1", "password": "p1"}});
    let sealed = says(503, json!({"errors": ["Vault is sealed"]}));
    let sealed = Server::new([says(200, made), says(200, json!({"data": {"ttl": 0}})), sealed]);
    let stores = leasing(&sealed);
    assert_eq!(user(&stores).await.unwrap().0, "u1");
    tokio::time::sleep(Duration::from_secs(75)).await;
    assert_eq!(user(&stores).await.unwrap().0, "u1");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let error = user(&stores).await.unwrap_err();
    assert!(error.contains("Vault is sealed") && error.contains("it was read last at"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn leases_are_given_back_at_the_end() {
    let server = database(90, |_| says(200, json!({"lease_duration": 90})), 0);
    let stores = leasing(&server);
    user(&stores).await.unwrap();
    stores.revoke().await;
    let last = server.asked().pop().unwrap();
    assert_eq!(
        (last.uri().path(), last.body().as_slice()),
        ("/base/v1/sys/leases/revoke", &b"{\"lease_id\":\"l1\"}"[..])
    );
    // A token of the operator's own is not ended for that; one of a login of ours is.
    stores.revoke().await;
    assert_eq!(server.count(), 3, "nothing is given back twice");
    let mut own = with(json!({"mount": "database", "kv_version": 1, "auth": {"approle": {"role_id": "r"}}}));
    own.as_object_mut().unwrap().remove("credential");
    let stores = super::super::testing::stores(own, &server, &Signer::new(0), None);
    user(&stores).await.unwrap();
    stores.revoke().await;
    assert_eq!(server.asked().pop().unwrap().uri().path(), "/base/v1/auth/token/revoke-self");
}

#[tokio::test(start_paused = true)]
async fn the_transit_engine_encrypts_and_decrypts_and_says_what_it_refuses() {
    let server = Server::with(|request| {
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        Some(match request.uri().path() {
            "/base/v1/tr/encrypt/kek" => {
                says(200, json!({"data": {"ciphertext": format!("vault:v1:{}", body["plaintext"].as_str().unwrap())}}))
            }
            "/base/v1/tr/decrypt/kek" => match body["ciphertext"].as_str().unwrap().strip_prefix("vault:v1:") {
                Some(plain) => says(200, json!({"data": {"plaintext": plain}})),
                None => says(400, json!({"errors": ["invalid ciphertext: no prefix"]})),
            },
            _ => says(403, json!({"errors": ["1 error occurred:\n\t* permission denied\n\n"]})),
        })
    });
    let stores = Arc::new(ArcSwap::from_pointee(stores(settings(), &server, &Signer::new(0), None)));
    let client = TransitClient::new(Arc::clone(&stores), "s", "tr", "kek");
    let sealed = client.encrypt(&Secret::new([0, 255, 7])).await.unwrap();
    assert_eq!(client.decrypt(&sealed).await.unwrap().expose(), [0, 255, 7]);
    let error = client.decrypt("nonsense").await.unwrap_err().0;
    assert_eq!(error, "transit key kek of store s: it answers 400 invalid ciphertext: no prefix");
    let other = TransitClient::new(Arc::clone(&stores), "s", "tr", "other");
    assert!(other.encrypt(&Secret::new("x")).await.unwrap_err().0.contains("permission denied"));
    let none = TransitClient::new(stores, "none", "tr", "kek");
    assert!(none.encrypt(&Secret::new("x")).await.unwrap_err().0.contains("there is no store none"));
}

#[test]
fn settings_and_names_are_judged_where_they_are_written() {
    let parse =
        |settings: Value| StoreSettings::parse(settings).map_err(|error| format!("{}: {}", error.path, error.message));
    let own = |auth: Value| {
        let mut settings = with(json!({"auth": auth}));
        settings.as_object_mut().unwrap().remove("credential");
        settings
    };
    assert!(parse(settings()).is_ok());
    for (settings, expected) in [
        (with(json!({"address": "http://v.test"})), "address: secrets would travel unencrypted"),
        (with(json!({"address": "v.test"})), "address:"),
        (with(json!({"kv_version": 2})), "kv_version: it goes with `mount`"),
        (with(json!({"mount": "kv", "kv_version": 3})), "kv_version: 1 or 2"),
        (with(json!({"mount": "/kv"})), "mount: a path"),
        (with(json!({"namespace": "a b"})), "namespace:"),
        (with(json!({"auth": {"token": {"env": "T"}}})), "auth: the store authenticates in one way"),
        (with(json!({"adress": "x"})), "adress: unknown field"),
        (own(Value::Null), "auth: `auth` is needed"),
        (own(json!({})), "auth: one of approle"),
        (own(json!({"token": {"env": "T"}, "jwt": {"jwt": {"env": "J"}}})), "auth: one of approle"),
        (
            own(json!({"approle": {"role_id": "r", "secret_id": "hunter2"}})),
            "auth.approle.secret_id: a secret does not stand",
        ),
        (own(json!({"approle": {"role_id": "r", "mount": "../x"}})), "auth.approle.mount: a path"),
        (own(json!({"approle": {"role_id": "r"}, "renew": true})), "auth.renew: it goes with `token`"),
    ] {
        let error = parse(settings.clone()).err().unwrap_or_default();
        assert!(error.starts_with(expected) && !error.contains("hunter2"), "{settings}: {error}");
    }
    let (given, _) = parse(with(json!({"mount": "kv"}))).unwrap();
    let (free, _) = parse(settings()).unwrap();
    assert!(given.check(&reference("db", None, None)).is_ok());
    assert_eq!(free.check(&reference("db", None, None)).unwrap_err().path, "name");
    for name in ["a//b", "/a/b", "a/b/", "a/../b", "a/b?x=1", ""] {
        assert_eq!(free.check(&reference(name, None, None)).unwrap_err().path, "name", "{name}");
    }
    assert_eq!(free.check(&reference("a/b", Some("latest"), None)).unwrap_err().path, "version");
}

#[test]
fn each_way_to_log_in_is_a_credential_of_ours() {
    let implied = |auth: Value| {
        let mut settings = with(json!({"auth": auth}));
        settings.as_object_mut().unwrap().remove("credential");
        StoreSettings::parse(settings).unwrap().1.unwrap()
    };
    let approle = implied(json!({"approle": {"role_id": "r", "secret_id": {"env": "S"}, "mount": "ci/approle"}}));
    assert_eq!(approle.scheme, "login");
    assert_eq!(approle.hosts, ["v.test:443"]);
    assert_eq!(approle.settings["login_url"], "https://v.test/base/v1/auth/ci/approle/login");
    assert_eq!(approle.settings["json"], json!({"role_id": "r", "secret_id": {"env": "S"}}));
    assert_eq!(approle.settings["additional_headers"], json!({"X-Vault-Namespace": "team/a"}));
    let pod = implied(json!({"kubernetes": {"role": "r"}}));
    assert_eq!(pod.settings["login_url"], "https://v.test/base/v1/auth/kubernetes/login");
    assert_eq!(
        pod.settings["json"],
        json!({"role": "r", "jwt": {"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"}})
    );
    let jwt = implied(json!({"jwt": {"jwt": {"file": "/t"}}}));
    assert_eq!(jwt.settings["json"], json!({"jwt": {"file": "/t"}}));
    let token = implied(json!({"token": {"env": "T"}}));
    assert_eq!((token.scheme, &token.settings["key"]), ("api_key", &json!({"env": "T"})));
    let renewed = implied(json!({"token": {"env": "T"}, "renew": true}));
    assert_eq!(renewed.settings["login_url"], "https://v.test/base/v1/auth/token/renew-self");
    assert_eq!(renewed.settings["additional_headers"]["X-Vault-Token"], json!({"env": "T"}));
}
