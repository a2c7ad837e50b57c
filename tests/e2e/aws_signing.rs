//! Signatures byte for byte: thousands of generated requests, signed here and by botocore.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use countersign::base::request::BodyDigest;
use countersign::base::{Authorizer, BodyNeed, Deps, Destination, RequestView, Secret, SecretRef, Secrets};
use countersign::base::{BoxFuture, CallError, ClientOptions, HttpClient, HttpClients};
use countersign::scheme::{Identity, Outside, Setup, find};
use countersign::token::{StateDirectory, Tokens};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::support::{kit, measured};

/// Keys in the configuration need nobody.
#[derive(Debug)]
struct NoClients;

impl HttpClients for NoClients {
    fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Err("there is nobody to call".into())
    }
}

impl HttpClient for NoClients {
    fn call(&self, _: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
        Box::pin(async { Err(CallError { detail: "nobody".into(), sent: false }) })
    }
}

/// What schemes that call nobody are built with.
pub fn outside(deps: Deps) -> Outside {
    Outside {
        tokens: Tokens::new(&deps),
        http: Arc::new(NoClients),
        clock: deps.clock,
        environment: deps.environment,
        random: deps.random,
        state: Arc::new(StateDirectory::new("state".into(), None, Arc::default()).unwrap()),
        lender: Arc::new(countersign::route::Lending::new(Deps::system().clock, Default::default())),
    }
}

/// The signer of the `aws` scheme with a row's keys.
fn signer(row: &Value) -> Arc<dyn Authorizer> {
    let mut secrets = vec![(SecretRef::Env { env: "SECRET".into() }, Secret::new(row["secret_key"].as_str().unwrap()))];
    let mut settings = json!({
        "access_key": row["access_key"], "secret_key": { "env": "SECRET" },
        "service": row["service"], "region": row["region"],
    });
    if let Some(token) = row["session_token"].as_str() {
        settings["session_token"] = json!({ "env": "TOKEN" });
        secrets.push((SecretRef::Env { env: "TOKEN".into() }, Secret::new(token)));
    }
    if let Some(set) = row["region_set"].as_str() {
        settings["region"] = set.into();
    }
    if row["payload"] == "hash" {
        settings["payload"] = "signed".into();
    }
    let outside = outside(Deps::system());
    let secrets: Secrets = secrets.into_iter().collect();
    let setup = Setup { account: "default", credential: "row", version: 0, secrets: &secrets, outside: &outside };
    let scheme = (find("aws").unwrap().parse)(settings).unwrap().build(&setup).unwrap();
    let Identity::Fixed(authorizer) = scheme.identity() else { panic!("keys are fixed") };
    Arc::clone(authorizer)
}

/// What a row's request is sent with, and its target.
fn signed(row: &Value) -> Result<(HeaderMap, String), String> {
    let text = |key: &str| row[key].as_str().unwrap();
    let uri: http::Uri = format!("https://{}{}", text("host"), text("path_and_query")).parse().unwrap();
    let destination = Destination::from_absolute(&uri).unwrap();
    let (mut headers, mut removed) = (HeaderMap::new(), HeaderMap::new());
    let set = row["region_set"].as_str();
    if let Some(set) = set {
        // The caller's own SDK says that the asymmetric form is wanted.
        let line = format!("AWS4-ECDSA-P256-SHA256 Credential=worthless/20260101/{}/aws4_request", text("service"));
        removed.insert("authorization", line.parse().unwrap());
        removed.insert("x-amz-region-set", set.parse().unwrap());
    }
    for pair in row["headers"].as_array().unwrap() {
        let name: HeaderName = pair[0].as_str().unwrap().parse().unwrap();
        // As a server reads it: white space around a value is none of it.
        let value: HeaderValue = pair[1].as_str().unwrap().trim_matches(' ').parse().unwrap();
        if name == "x-amz-content-sha256" {
            removed.insert(name, value);
        } else if name != "host" {
            headers.append(name, value);
        }
    }
    if ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"].contains(&text("payload")) {
        removed.insert("x-amz-content-sha256", text("payload").parse().unwrap());
    }
    let body: Vec<u8> = (0..text("body").len() / 2)
        .map(|at| u8::from_str_radix(&text("body")[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, &body).as_ref());
    let digest = BodyDigest { sha256, further: None, length: body.len() as u64, whole: None };
    let method = text("method").parse().unwrap();
    let mut view = RequestView {
        method: &method,
        path_and_query: uri.path_and_query().unwrap().as_str(),
        headers: &headers,
        removed: &removed,
        destination: &destination,
        length: Some(digest.length),
        body: None,
        narrowing: None,
    };
    assert_eq!(view.path_and_query, text("path_and_query"), "what is signed is what is on the wire");
    let signer = signer(row);
    if signer.body_need(&view).map_err(|refusal| refusal.to_string())? == BodyNeed::Sha256 {
        view.body = Some(&digest);
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(row["time"].as_u64().unwrap());
    let signed = signer.authorize(&view, time).map_err(|refusal| refusal.to_string())?;
    let mut parts = http::Request::builder().uri(uri).body(()).unwrap().into_parts().0;
    signed.mutations.apply(&mut parts).map_err(|refusal| refusal.to_string())?;
    Ok((parts.headers, parts.uri.path_and_query().unwrap().as_str().to_owned()))
}

#[test]
fn thousands_of_requests_are_signed_as_botocore_signs_them() {
    let Some(kit) = kit("aws_signing") else { return };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
    let python = kit.join("venv/bin/python");
    let rows = Command::new(&python).arg(folder.join("vectors.py")).output().unwrap();
    assert!(rows.status.success(), "{}", String::from_utf8_lossy(&rows.stderr));
    let rows: Vec<Value> =
        String::from_utf8(rows.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut wrong, mut asymmetric, mut same) = (Vec::new(), Vec::new(), 0);
    for row in &rows {
        let (headers, target) = match signed(row) {
            Ok(signed) => signed,
            Err(why) => {
                wrong.push(format!("{why}: {row}"));
                continue;
            }
        };
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let authorization = header("authorization").unwrap();
        let expect = &row["expect"];
        let mut fits = target == row["wire"] && header("x-amz-security-token") == row["session_token"].as_str();
        fits &= header("x-amz-content-sha256") == expect["x-amz-content-sha256"].as_str();
        if let Some(expected) = expect["authorization"].as_str() {
            fits &= authorization == expected;
            same += usize::from(fits);
        } else {
            let start = expect["authorization_start"].as_str().unwrap();
            fits &= authorization.starts_with(start) && header("x-amz-region-set") == row["region_set"].as_str();
            asymmetric.push(json!({
                "access_key": row["access_key"], "secret_key": row["secret_key"],
                "string_to_sign": expect["string_to_sign"], "signature": authorization.get(start.len()..),
            }));
        }
        if !fits {
            wrong.push(format!("{authorization} {target} {headers:?}: {row:#}"));
        }
    }
    let count = wrong.len();
    wrong.truncate(3);
    assert!(wrong.is_empty(), "{count} of {} differ, such as {wrong:#?}", rows.len());
    assert!(same >= 3000, "{same} are not enough");
    // Over the string that botocore signs, so that the canonical request is the same too.
    verify(&python, &folder, &asymmetric, true);
    let mut forged = asymmetric[0].clone();
    forged["string_to_sign"] = format!("{} ", forged["string_to_sign"].as_str().unwrap()).into();
    verify(&python, &folder, &[forged], false);
    measured(&format!("SigV4: {same} signatures as botocore's, {} of SigV4a verified", asymmetric.len()));
}

fn verify(python: &std::path::Path, folder: &std::path::Path, lines: &[Value], expected: bool) {
    let mut command = Command::new(python);
    command.arg(folder.join("verify_v4a.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), expected, "{}", String::from_utf8_lossy(&output.stdout));
}
