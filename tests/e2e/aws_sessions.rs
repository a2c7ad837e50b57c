//! Sessions of AWS roles: asked of STS once for however many call, renewed and dropped in time, refused with what to change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::json;
use url::form_urlencoded;

use crate::support::management::Manager;
use crate::support::{Answer, Config, Origin, Proxy, Root, Seen, countersign, measured, text};

const HOST: &str = "s3.us-east-1.amazonaws.com";
const URL: &str = "https://s3.us-east-1.amazonaws.com/bucket/key";
const ROLE: &str = "arn:aws:iam::123456789012:role/policies";

fn form(seen: &Seen) -> HashMap<String, String> {
    form_urlencoded::parse(&seen.body).into_owned().collect()
}

/// The access key that a request was signed with.
fn signed_with(seen: &Seen) -> String {
    let authorization = seen.header("authorization").unwrap_or_default();
    authorization.split("Credential=").nth(1).unwrap_or_default().split('/').next().unwrap_or_default().to_owned()
}

fn moment(ahead: Duration) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() + ahead).to_string()
}

/// Keys of the n-th session.
fn session(number: usize, lifetime: Duration) -> Answer {
    let action = "AssumeRole";
    text(
        200,
        &format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>ASIASESSION{number:09}</AccessKeyId>\
             <SecretAccessKey>session-secret-{number}</SecretAccessKey><SessionToken>session-token-{number}</SessionToken>\
             <Expiration>{}</Expiration></Credentials></{action}Result></{action}Response>",
            moment(lifetime)
        ),
    )
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    text(
        status,
        &format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        ),
    )
}

/// An STS that answers every AssumeRole with another session.
async fn sts() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http_with(move |_| session(count.fetch_add(1, Ordering::SeqCst) + 1, Duration::from_secs(3600))).await
}

/// An API that answers by the access key and the number of the request.
async fn api(root: &Root, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Origin {
    Origin::https_with(root, &[HOST], &["http/1.1"], answer).await
}

fn configuration(sts: &str, api: &Origin, more: &str) -> Config {
    Config::new()
        .resolve(&format!("{HOST}:443"), api.address)
        .credentials(&format!(
            "  - id: role\n    scheme: aws_sts\n    sts_endpoint: {sts}\n    allow_cleartext: true\n{more}"
        ))
        .bindings(&format!("  - {{ credential: role, hosts: [{HOST}] }}\n"))
        .rest("tokens: { directory: FOLDER/tokens }\n")
}

const BASE: &str = "    role_arn: arn:aws:iam::123456789012:role/policies\n    role_session_name: countersign\n    \
                    access_key: AKIAIOSFODNN7EXAMPLE\n    secret_key: { env: SECRET }\n";

async fn start(sts: &Origin, api: &Origin, root: &Root, more: &str) -> Proxy {
    configuration(&format!("http://{}", sts.address), api, more).start(root)
}

async fn refused(proxy: &Proxy) -> (u16, String, String) {
    let answer = proxy.client().get(URL).send().await.unwrap();
    let status = answer.status().as_u16();
    let problem: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    (status, problem["code"].as_str().unwrap().to_owned(), problem["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_at_once_cost_one_assume_role() {
    let root = Root::new();
    let sts = sts().await;
    let api = api(&root, |_| text(200, "ok")).await;
    let proxy =
        start(&sts, &api, &root, &format!("{BASE}    external_id: \"the-external-id\"\n    max_minutes: 30\n")).await;
    let client = proxy.client();
    let calls = (0..1000).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get(URL).send().await.unwrap().status().as_u16() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    let asked = sts.only();
    assert_eq!(signed_with(&asked), "AKIAIOSFODNN7EXAMPLE");
    let form = form(&asked);
    let expected = [
        ("Action", "AssumeRole"),
        ("RoleArn", ROLE),
        ("RoleSessionName", "countersign"),
        ("ExternalId", "the-external-id"),
        ("DurationSeconds", "1800"),
    ];
    for (name, value) in expected {
        assert_eq!(form[name], value);
    }
    let seen = api.seen();
    assert_eq!(seen.len(), 1000);
    for request in seen {
        assert_eq!(signed_with(&request), "ASIASESSION000000001");
        assert_eq!(request.header("x-amz-security-token"), Some("session-token-1"));
    }
    let log = proxy.stop();
    assert!(!log.contains("session-secret") && !log.contains("session-token") && !log.contains("the-external-id"));
    measured("1,000 callers at once: 1 AssumeRole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_aws_calls_expired_is_replaced_and_the_request_signed_once_more() {
    let bodies = [
        "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
        "{\"__type\":\"com.amazon.coral.service#ExpiredTokenException\"}",
        "<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>",
        "{\"__type\":\"UnrecognizedClientException\"}",
    ];
    for said in bodies {
        let root = Root::new();
        let sts = sts().await;
        let api = api(&root, move |seen| match &*signed_with(seen) {
            "ASIASESSION000000001" => text(400, said),
            _ => text(200, "ok"),
        })
        .await;
        let proxy = start(&sts, &api, &root, &format!("{BASE}    payload: signed\n")).await;
        // More than is kept of a body that streams: this one was spooled to be hashed.
        let body = vec![7_u8; 300_000];
        let answer = proxy.client().put(URL).body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{said}");
        assert_eq!(sts.seen().len(), 2, "{said}");
        let seen = api.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|request| request.body == body), "the same body twice");
        assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
        assert_eq!(sts.seen().len(), 2, "the new session stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_always_says_expired_costs_one_more_session_and_the_caller_sees_its_answer() {
    let root = Root::new();
    let sts = sts().await;
    let api = api(&root, |_| text(403, "<Error><Code>ExpiredToken</Code></Error>")).await;
    let proxy = start(&sts, &api, &root, BASE).await;
    for _ in 0..5 {
        let answer = proxy.client().get(URL).send().await.unwrap();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.text().await.unwrap(), "<Error><Code>ExpiredToken</Code></Error>", "nothing is lost of it");
    }
    assert_eq!(sts.seen().len(), 2);
    // Any other refusal is passed on at once.
    let other = self::api(&root, |_| text(403, "<Error><Code>AccessDenied</Code></Error>")).await;
    let proxy = start(&sts, &other, &root, BASE).await;
    assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 403);
    assert_eq!((sts.seen().len(), other.seen().len()), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sts_refuses_is_told_with_what_to_change() {
    let root = Root::new();
    let api = api(&root, |_| text(200, "ok")).await;
    let message = format!(
        "User: arn:aws:iam::999999999999:user/x is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    );
    let cases = [
        (error(403, "AccessDenied", &message), "credential_rejected", "external id"),
        (error(403, "InvalidClientTokenId", "The security token is invalid"), "credential_rejected", "access key"),
        (error(403, "SignatureDoesNotMatch", "The request signature does not match"), "credential_rejected", "secret"),
        (
            error(
                400,
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ),
            "credential_rejected",
            "max_minutes",
        ),
        (
            error(
                400,
                "ValidationError",
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            ),
            "credential_rejected",
            "60",
        ),
        (
            error(403, "ExpiredToken", "The security token included in the request is expired"),
            "credential_rejected",
            "renew",
        ),
        (error(503, "Throttling", "Rate exceeded"), "token_endpoint_unavailable", "Throttling"),
        (text(200, ""), "token_endpoint_unavailable", "answered 200"),
        (text(502, "<html>"), "token_endpoint_unavailable", "502"),
        (session(1, Duration::ZERO), "token_endpoint_unavailable", "expired"),
    ];
    for (answer, code, words) in cases {
        let (parts, body) = answer.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        let (status, said) = (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap());
        let sts = Origin::http_with(move |_| text(status, &said)).await;
        let proxy = start(&sts, &api, &root, &format!("{BASE}    external_id: some-external-id\n")).await;
        let (status, told, detail) = refused(&proxy).await;
        assert_eq!((status, &*told), (if code == "credential_rejected" { 502 } else { 503 }, code), "{detail}");
        assert!(detail.contains(words), "{detail}");
        assert!(!detail.contains("some-external-id") && !detail.contains("s3cret-k3y"), "{detail}");
        // The failure is remembered, so that a broken role does not hammer STS.
        refused(&proxy).await;
        assert_eq!(sts.seen().len(), 1, "{detail}");
    }
    assert!(api.untouched(), "nothing is sent unsigned");
    // Nobody listens there.
    let unreachable = configuration("http://127.0.0.1:9", &api, BASE).start(&root);
    let (status, code, detail) = refused(&unreachable).await;
    assert_eq!((status, &*code), (503, "token_endpoint_unavailable"), "{detail}");
    assert!(detail.contains("127.0.0.1"), "{detail}");
    // What can be known before anything runs is an error of the configuration.
    let long = configuration("http://127.0.0.1:9", &api, &BASE.replace("countersign", &"x".repeat(65))).text();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.yaml");
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    std::fs::write(&file, long.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let check = countersign(&["check", "--config", file.to_str().unwrap()]).env("SECRET", "x").output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(78), "{said}");
    assert!(said.contains("credentials[0].role_session_name") && said.contains("2 to 64"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_name_another_listed_account_and_no_other() {
    let root = Root::new();
    let sts = sts().await;
    let api = api(&root, |_| text(200, "ok")).await;
    let accounts = format!("{BASE}    accounts: [\"210987654321\", \"000000000001\"]\n");
    let proxy = start(&sts, &api, &root, &accounts).await;
    let client = proxy.client();
    let call = async |account: &str| {
        let mut request = client.get(URL);
        if !account.is_empty() {
            request = request.header("countersign-aws-account", account);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for account in ["210987654321", "", "000000000001", "123456789012", "210987654321", ""] {
        assert_eq!(call(account).await.0, 200, "{account}");
    }
    let asked: Vec<_> = sts.seen().iter().map(|seen| form(seen)["RoleArn"].clone()).collect();
    assert_eq!(
        asked,
        ["arn:aws:iam::210987654321:role/policies", ROLE, "arn:aws:iam::000000000001:role/policies"],
        "each account has a session of its own, obtained once"
    );
    let keys: Vec<_> = api.seen().iter().map(signed_with).collect();
    assert_eq!(keys[0], keys[4]);
    assert_eq!((&keys[1], &keys[1]), (&keys[3], &keys[5]));
    assert!(api.seen().iter().all(|seen| seen.header("countersign-aws-account").is_none()), "it is stripped");
    for account in ["999999999999", "arn", "1", "123456789012, 210987654321"] {
        let (status, body) = call(account).await;
        assert_eq!(status, 403, "{account}: {body}");
        assert!(body.contains("credential_unknown"), "{body}");
    }
    assert_eq!((sts.seen().len(), api.seen().len()), (3, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_assumes_the_role_in_the_account_that_was_chosen_when_its_policy_was_applied() {
    let root = Root::new();
    let sts = sts().await;
    let api = api(&root, |_| text(200, "ok")).await;
    let config =
        configuration(&format!("http://{}", sts.address), &api, &format!("{BASE}    accounts: [\"210987654321\"]\n"));
    let proxy = config.rest("admin: { address: 127.0.0.1:0 }\n").start(&root);
    let manager = Manager::of(&proxy);
    let template = r#"
        parameter "param_account" do
          type "string"
          default ""
        end
        credentials "auth_aws" do
          schemes "aws", "aws_sts"
          label "AWS"
          aws_account_number $param_account
        end
        datasource "ds" do
          request do
            auth $auth_aws
            host join(["s3.", $param_region, ".amazonaws.com"])
            path "/"
          end
        end"#;
    let apply = async |account: &str| {
        let body = json!({
            "template": template, "credentials": { "auth_aws": "role" }, "parameters": { "param_account": account },
        });
        manager.call("POST", "/v1/accounts/default/applied-policies", Some(body)).await
    };
    for (account, why) in [("999999999999", "accounts"), ("12", "12 digits")] {
        let (status, answer) = apply(account).await;
        assert_eq!(status, 422);
        assert!(answer["detail"].as_str().unwrap().contains(why), "{answer}");
    }
    let call = async |account: &str, named: Option<&str>| {
        let (status, policy) = apply(account).await;
        assert_eq!(status, 201, "{policy}");
        let path = format!("/v1/accounts/default/applied-policies/{}/runs", policy["id"].as_str().unwrap());
        let run = manager.done("POST", &path, None).await;
        let user = format!("{}:{}@", run["caller"].as_str().unwrap(), run["token"].as_str().unwrap());
        let mut request = proxy.client_as(&user).get(URL);
        if let Some(named) = named {
            request = request.header("countersign-aws-account", named);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(call("210987654321", None).await, 200);
    assert_eq!(call("", None).await, 200);
    assert_eq!(call("210987654321", Some("210987654321")).await, 200);
    assert_eq!(call("210987654321", Some("123456789012")).await, 403, "the run is not for that account");
    assert_eq!(call("", Some("210987654321")).await, 403, "though the credential is for both");
    let asked: Vec<_> = sts.seen().iter().map(|seen| form(seen)["RoleArn"].clone()).collect();
    assert_eq!(asked, ["arn:aws:iam::210987654321:role/policies", ROLE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_assumed_one_with_the_session_of_the_other() {
    let root = Root::new();
    // The last session of the chain is refused once, because the one before it has ended by then.
    let count = Arc::new(AtomicUsize::new(0));
    let sts = Origin::http_with(move |seen| {
        if signed_with(seen) == "ASIASESSION000000002" {
            return error(403, "ExpiredToken", "The security token included in the request is expired");
        }
        session(count.fetch_add(1, Ordering::SeqCst) + 1, Duration::from_secs(3600))
    })
    .await;
    let api = api(&root, |_| text(200, "ok")).await;
    let chain = format!(
        "{BASE}    external_id: last\n    chain:\n      - {{ role_arn: \"arn:aws:iam::111111111111:role/one\" }}\n      \
         - {{ role_arn: \"arn:aws:iam::222222222222:role/two\", role_session_name: second, external_id: mid }}\n"
    );
    let proxy = start(&sts, &api, &root, &chain).await;
    assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
    let seen = sts.seen();
    let steps: Vec<_> = seen.iter().map(|seen| (signed_with(seen), form(seen)["RoleArn"].clone())).collect();
    let step = |key: &str, role: &str| (key.to_owned(), role.to_owned());
    assert_eq!(
        steps,
        [
            step("AKIAIOSFODNN7EXAMPLE", "arn:aws:iam::111111111111:role/one"),
            step("ASIASESSION000000001", "arn:aws:iam::222222222222:role/two"),
            step("ASIASESSION000000002", ROLE),
            // It had ended: another is asked for, and the last step made once more.
            step("ASIASESSION000000001", "arn:aws:iam::222222222222:role/two"),
            step("ASIASESSION000000003", ROLE),
        ]
    );
    assert_eq!(form(&seen[1])["ExternalId"], "mid");
    assert_eq!(form(&seen[4])["ExternalId"], "last");
    assert!(!form(&seen[0]).contains_key("ExternalId"));
    assert_eq!(signed_with(&api.only()), "ASIASESSION000000004");
    // One that ends in the middle refuses the whole.
    let broken = Origin::http_with(|seen| match form(seen)["RoleArn"].contains("two") {
        true => error(403, "AccessDenied", "no"),
        false => session(1, Duration::from_secs(3600)),
    })
    .await;
    let proxy = start(&broken, &api, &root, &chain).await;
    let (status, code, detail) = refused(&proxy).await;
    assert_eq!((status, &*code), (502, "credential_rejected"), "{detail}");
    assert!(detail.contains("role/two"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_token_is_read_again_at_every_exchange() {
    let root = Root::new();
    let count = AtomicUsize::new(0);
    let sts = Origin::http_with(move |seen| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = session(number, Duration::from_secs(3600));
        if form(seen)["Action"] == "AssumeRole" {
            return answer;
        }
        assert!(seen.header("authorization").is_none(), "this request is not signed");
        text(
            200,
            &format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <AccessKeyId>ASIASESSION{number:09}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                 <SessionToken>t</SessionToken><Expiration>{}</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                moment(Duration::from_secs(3600))
            ),
        )
    })
    .await;
    let expired = Arc::new(Mutex::new(Vec::<String>::new()));
    let refuse = Arc::clone(&expired);
    let api = api(&root, move |seen| match refuse.lock().unwrap().contains(&signed_with(seen)) {
        true => text(400, "<Error><Code>ExpiredToken</Code></Error>"),
        false => text(200, "ok"),
    })
    .await;
    let web = "    web_identity: { role_arn: \"arn:aws:iam::123456789012:role/pod\", token_file: FOLDER/jwt }\n";
    let config = configuration(&format!("http://{}", sts.address), &api, web).text();
    let proxy = Proxy::start_with(&config, &[], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("jwt"), "first.token.x\n").unwrap();
    });
    assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
    std::fs::write(proxy.folder.path().join("jwt"), "second.token.x\n").unwrap();
    expired.lock().unwrap().push("ASIASESSION000000001".into());
    assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
    let tokens: Vec<_> = sts.seen().iter().map(|seen| form(seen)["WebIdentityToken"].clone()).collect();
    assert_eq!(tokens, ["first.token.x", "second.token.x"]);
    assert!(sts.seen().iter().all(|seen| form(seen)["RoleArn"].ends_with("role/pod")));
    assert!(!proxy.stop().contains("token.x"));
    // Without the file there is no session, and nothing is sent.
    let missing = configuration(&format!("http://{}", sts.address), &api, &web.replace("jwt", "no-such-file"));
    let (_, code, detail) = refused(&missing.start(&root)).await;
    assert_eq!(code, "token_endpoint_unavailable");
    assert!(detail.contains("token_file"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_time_corrects_the_next_signature_and_never_an_expiry() {
    let root = Root::new();
    let sts = sts().await;
    let ahead = Duration::from_secs(600);
    let api = api(&root, move |seen| {
        let date = httpdate::fmt_http_date(SystemTime::now() + ahead);
        let signed = seen.header("x-amz-date").unwrap().to_owned();
        let wanted = moment(ahead - Duration::from_secs(60)).replace(['-', ':'], "");
        let late = signed < wanted;
        let mut answer = match late {
            true => text(403, "<Error><Code>RequestTimeTooSkewed</Code></Error>"),
            false => text(200, "ok"),
        };
        answer.headers_mut().insert("date", date.parse().unwrap());
        answer
    })
    .await;
    let proxy = start(&sts, &api, &root, BASE).await;
    for _ in 0..3 {
        assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
    }
    assert_eq!(api.seen().len(), 4, "one was signed twice, and every later one rightly");
    assert_eq!(sts.seen().len(), 1, "the session is not dropped for that, nor older for that");
    let log = proxy.stop();
    assert!(log.contains("the time of a signature was refused"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_keys_ask_with_an_external_id_that_nobody_chose() {
    let root = Root::new();
    let sts = Origin::http_with(|seen| match &*form(seen)["Action"] {
        "GetCallerIdentity" => text(
            200,
            "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::555555555555:user/host</Arn>\
             <UserId>U</UserId><Account>555555555555</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
        ),
        _ => session(1, Duration::from_secs(3600)),
    })
    .await;
    let api = api(&root, |_| text(200, "ok")).await;
    let config = configuration(&format!("http://{}", sts.address), &api, &format!("    role_arn: {ROLE}\n")).text();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAAMBIENT000000000"), ("AWS_SECRET_ACCESS_KEY", "ambient-secret")];
    let proxy =
        Proxy::start_with(&config, &keys, |folder| std::fs::write(folder.join("origin.pem"), root.pem()).unwrap());
    assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
    let asked = sts.only();
    assert_eq!(signed_with(&asked), "AKIAAMBIENT000000000");
    let id = form(&asked)["ExternalId"].clone();
    assert!(id.starts_with("countersign-") && id.len() == 52, "{id}");
    // What is to be pasted into the trust policy is what is sent.
    let path = proxy.config.to_str().unwrap();
    let setup = |more: &[&str]| {
        let arguments = [&["credential", "setup", "aws_sts", "--config", path][..], more].concat();
        let output = countersign(&arguments).envs(keys).current_dir(proxy.folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said, errors) = setup(&[]);
    assert_eq!(code, Some(0), "{errors}");
    for expected in [&*id, "555555555555", "arn:aws:iam::555555555555:root", "sts:ExternalId", "sts:AssumeRole", ROLE] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (_, said, _) = setup(&["--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&answer["external_id"], &answer["account_to_trust"]), (&id.clone().into(), &"555555555555".into()));
    let condition = &answer["documents"][0]["document"]["Statement"][0]["Condition"];
    assert_eq!(condition["StringEquals"]["sts:ExternalId"], id);
    assert!(!said.contains("ambient-secret"));
    let (code, _, errors) = setup(&["--credential", "nobody"]);
    assert_eq!(code, Some(1), "{errors}");
    // With keys of its own and no external id, one is proposed, to be written on both sides.
    let own = configuration(&format!("http://{}", sts.address), &api, BASE).text();
    let file = proxy.folder.path().join("own.yaml");
    std::fs::write(&file, own.replace("FOLDER", proxy.folder.path().to_str().unwrap())).unwrap();
    let mut command = countersign(&["credential", "setup", "--json", "--config", file.to_str().unwrap()]);
    let output = command.env("SECRET", "x").current_dir(proxy.folder.path()).output().unwrap();
    let (said, notes) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_str(said.trim()).unwrap_or_else(|_| panic!("{said} {notes}"));
    let proposed = answer["external_id"].as_str().unwrap();
    assert!(proposed != id && notes.contains(&format!("external_id: {proposed}")), "{notes}");
    let condition = &answer["documents"][0]["document"]["Statement"][0]["Condition"];
    assert_eq!(condition["StringEquals"]["sts:ExternalId"], proposed);
    // It cannot be chosen, or one account could use the trust that another was given.
    let chosen = config.replace("    role_arn", "    external_id: mine\n    role_arn");
    let file = proxy.folder.path().join("chosen.yaml");
    std::fs::write(&file, chosen.replace("FOLDER", proxy.folder.path().to_str().unwrap())).unwrap();
    let check = countersign(&["check", "--config", file.to_str().unwrap()]).output().unwrap();
    let errors = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.code() == Some(78) && errors.contains("cannot be chosen"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_keys_may_come_from_its_metadata_service_and_its_container() {
    let root = Root::new();
    let sts = sts().await;
    let api = api(&root, |_| text(200, "ok")).await;
    let metadata = Origin::http_with(|seen| match (&*seen.target, seen.header("x-aws-ec2-metadata-token")) {
        ("/latest/api/token", _) => text(200, "v2-token"),
        ("/latest/meta-data/iam/security-credentials/", Some("v2-token")) => text(200, "instance-role"),
        ("/latest/meta-data/iam/security-credentials/instance-role", Some("v2-token")) => text(
            200,
            &format!(
                "{{\"Code\":\"Success\",\"AccessKeyId\":\"ASIAINSTANCE00000000\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\
                 \"Expiration\":\"{}\"}}",
                moment(Duration::from_secs(3600))
            ),
        ),
        ("/pod", _) if seen.header("authorization") == Some("pod-token") => text(
            200,
            &format!(
                "{{\"AccessKeyId\":\"ASIAPOD0000000000000\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\"Expiration\":\"{}\"}}",
                moment(Duration::from_secs(3600))
            ),
        ),
        _ => text(404, "no"),
    })
    .await;
    let config = configuration(&format!("http://{}", sts.address), &api, &format!("    role_arn: {ROLE}\n"));
    // Its own exemption: the operator's list of addresses does not name them.
    let config = config.text().replace("  allow_addresses: [127.0.0.0/8]\n", "");
    let config = config
        .replace("    allow_cleartext: true\n", "    allow_cleartext: true\n    allow_addresses: [127.0.0.0/8]\n")
        .replace("hosts: [s3.us", "allow_addresses: [127.0.0.0/8], hosts: [s3.us");
    let address = format!("http://{}", metadata.address);
    let cases = [
        (vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", address.clone())], "ASIAINSTANCE00000000"),
        (
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{address}/pod")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token".to_owned()),
            ],
            "ASIAPOD0000000000000",
        ),
    ];
    for (variables, key) in cases {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let proxy = Proxy::start_with(&config, &variables, |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
        });
        let answer = proxy.client().get(URL).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(signed_with(sts.seen().last().unwrap()), key);
        // A caller inherits nothing of it.
        let answer = proxy.client().get(format!("{address}/latest/api/token")).send().await.unwrap();
        assert_eq!(answer.status(), 403);
        let seen = metadata.seen().len();
        assert_eq!(proxy.client().get(URL).send().await.unwrap().status(), 200);
        assert_eq!(metadata.seen().len(), seen, "once");
    }
}
