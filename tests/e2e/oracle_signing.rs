//! Oracle's signatures byte for byte: generated requests, signed here and by Oracle's SDK for Python, and verified by `httpsig`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use countersign::base::deps::Sleep;
use countersign::base::request::BodyDigest;
use countersign::base::{Authorizer, BodyNeed, Clock, Deps, Destination, RequestView, Secret, SecretRef, Secrets};
use countersign::scheme::{Identity, Scheme, Setup, find};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::aws_signing::outside;
use crate::support::{kit, measured, skip};

const TENANCY: &str = "ocid1.tenancy.oc1..aaaaaaaaba3pv6wkcr4jqae5f15p2b2m2yt2j6rx32uzr4h25vqstifsfdsq";
const USER: &str = "ocid1.user.oc1..aaaaaaaat5nvwcna5j6aqzjcaty5eqbb6qt2jvpkanghtgdaqedqw3rynjq";

/// The test kit's folder for the SDKs of the clouds.
pub fn cloud(test: &str) -> Option<PathBuf> {
    let cloud = kit(test)?.join("cloud");
    if cloud.join("bin/python").exists() {
        Some(cloud)
    } else {
        skip(test, "the SDKs of the clouds are not installed; run tests/run")
    }
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle")
}

/// Before every session of the rows ends.
#[derive(Debug)]
struct Early(std::time::Instant);

impl Clock for Early {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
    fn instant(&self) -> std::time::Instant {
        self.0
    }
    fn sleep_until(&self, _: std::time::Instant) -> Sleep {
        Box::pin(std::future::pending())
    }
}

/// The scheme with one of the keys, and perhaps a session token.
fn scheme(key: &Value, token: Option<&str>) -> Arc<dyn Scheme> {
    let text = |name: &str| key[name].as_str();
    let mut settings = json!({ "private_key": { "env": "KEY" }, "fingerprint": key["fingerprint"] });
    let mut secrets = vec![("KEY", text("pem").unwrap())];
    if let Some(password) = text("password") {
        settings["password"] = json!({ "env": "PASSWORD" });
        secrets.push(("PASSWORD", password));
    }
    match token {
        Some(token) => {
            settings["security_token"] = json!({ "env": "TOKEN" });
            secrets.push(("TOKEN", token));
        }
        None => {
            settings["tenancy_ocid"] = TENANCY.into();
            settings["user_ocid"] = USER.into();
        }
    }
    let secret = |(name, value): (&str, &str)| (SecretRef::Env { env: name.into() }, Secret::new(value));
    let secrets: Secrets = secrets.into_iter().map(secret).collect();
    let outside = outside(Deps { clock: Arc::new(Early(std::time::Instant::now())), ..Deps::system() });
    let setup = Setup { account: "default", credential: "row", version: 0, secrets: &secrets, outside: &outside };
    (find("oracle").unwrap().parse)(settings).unwrap().build(&setup).unwrap()
}

fn authorizer(scheme: &dyn Scheme, runtime: &tokio::runtime::Runtime) -> Arc<dyn Authorizer> {
    match scheme.identity() {
        Identity::Fixed(authorizer) => Arc::clone(authorizer),
        Identity::Token(handle) => Arc::clone(runtime.block_on(handle.obtain()).unwrap().authorizer()),
        Identity::Challenged(_) => panic!("nobody asks first"),
    }
}

/// What a row's request is sent with.
fn signed(row: &Value, signer: &dyn Authorizer) -> Result<HeaderMap, String> {
    let text = |key: &str| row[key].as_str().unwrap();
    let destination = Destination::from_upstream(&format!("https://{}", text("authority"))).unwrap();
    let (mut headers, mut removed) = (HeaderMap::new(), HeaderMap::new());
    // What the caller's own SDK may have put there.
    removed.insert("date", HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    if row["kind"] == "theirs" {
        let line = "Signature algorithm=\"rsa-sha256\",headers=\"date (request-target) host\",keyId=\"worthless\",signature=\"AAAA\"";
        removed.insert("authorization", HeaderValue::from_static(line));
    }
    if let Some(kind) = row["content_type"].as_str() {
        headers.insert("content-type", kind.parse().unwrap());
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
        path_and_query: text("target"),
        headers: &headers,
        removed: &removed,
        destination: &destination,
        length: Some(digest.length),
        body: None,
        narrowing: None,
    };
    let hashed = signer.body_need(&view).map_err(|refusal| refusal.to_string())? == BodyNeed::Sha256;
    if hashed {
        view.body = Some(&digest);
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(row["time"].as_u64().unwrap());
    let signed = signer.authorize(&view, time).map_err(|refusal| refusal.to_string())?;
    let mut parts = http::Request::new(()).into_parts().0;
    parts.headers = headers;
    parts.headers.insert("host", destination.host_header().clone());
    if hashed {
        parts.headers.insert("content-length", digest.length.into());
    }
    signed.mutations.apply(&mut parts).map_err(|refusal| refusal.to_string())?;
    Ok(parts.headers)
}

/// A key's public part in PEM, by OpenSSL's program.
fn public(key: &Value) -> String {
    let password = key["password"].as_str().unwrap_or_default();
    let mut command = Command::new("openssl");
    command.args(["pkey", "-pubout", "-passin", &format!("pass:{password}")]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(key["pem"].as_str().unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn more_than_a_thousand_requests_are_signed_as_oracles_sdk_signs_them_and_another_library_verifies_each() {
    let Some(kit) = cloud("oracle_signing") else { return };
    let python = kit.join("bin/python");
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys");
    let output = Command::new(&python).arg(folder().join("vectors.py")).arg(keys).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let keys = lines.next().unwrap();
    let keys = keys["keys"].as_array().unwrap();
    let publics: Vec<String> = keys.iter().map(public).collect();
    let schemes: Vec<_> = keys.iter().map(|key| scheme(key, None)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut wrong, mut verifiable, mut counts) = (Vec::new(), Vec::new(), [0; 3]);
    for row in lines {
        let index = row["key"].as_u64().unwrap() as usize;
        let session = row["token"].as_str().map(|token| scheme(&keys[index], Some(token)));
        let signer = authorizer(&**session.as_ref().unwrap_or(&schemes[index]), &runtime);
        let headers = match signed(&row, &*signer) {
            Ok(headers) => headers,
            Err(why) => {
                wrong.push(format!("{why}: {row}"));
                continue;
            }
        };
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let covered = header("x-content-sha256").is_some();
        let mut fits = ["authorization", "date", "x-content-sha256"]
            .iter()
            .all(|name| header(name) == row["expect"][*name].as_str());
        // Of a body that is not covered, these two are the caller's.
        fits &= !covered
            || ["content-type", "content-length"].iter().all(|name| header(name) == row["expect"][*name].as_str());
        if !fits {
            wrong.push(format!("{headers:?}: {row:#}"));
        }
        counts[usize::from(covered) + usize::from(session.is_some() && !covered) * 2] += 1;
        let headers: serde_json::Map<String, Value> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect();
        verifiable.push(
            json!({ "public": publics[index], "method": row["method"], "target": row["target"], "headers": headers }),
        );
    }
    let count = wrong.len();
    wrong.truncate(3);
    assert!(wrong.is_empty(), "{count} of {} differ, such as {wrong:#?}", verifiable.len());
    assert!(verifiable.len() >= 1000 && counts.iter().all(|count| *count > 20), "{counts:?}");
    assert_eq!(verified(&python, &verifiable), Ok(verifiable.len()));
    for change in [
        |row: &mut Value| row["target"] = format!("{}x", row["target"].as_str().unwrap()).into(),
        |row: &mut Value| row["headers"]["host"] = "iaas.us-phoenix-2.oraclecloud.com".into(),
        |row: &mut Value| row["headers"]["date"] = "Thu, 01 Jan 1970 00:00:01 GMT".into(),
        |row: &mut Value| row["method"] = "get2".into(),
    ] {
        let mut forged = verifiable[0].clone();
        change(&mut forged);
        assert_eq!(verified(&python, &[forged]), Err(1));
    }
    // One that has a body, and covers it.
    let has_body =
        |row: &&Value| row["headers"].get("x-content-sha256").is_some() && row["headers"]["content-length"] != "0";
    let covered = verifiable.iter().find(has_body).unwrap();
    assert_eq!(verified(&python, std::slice::from_ref(covered)), Ok(1));
    let header = |row: &Value, name: &str| row["headers"][name].as_str().unwrap().to_owned();
    let one_byte_of_the_signature = |row: &Value| {
        let line = header(row, "authorization");
        let at = line.find("signature=\"").unwrap() + "signature=\"".len();
        let byte = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{byte}{}", &line[..at], &line[at + 1..])
    };
    for (name, value) in [
        ("x-content-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned()),
        ("content-length", format!("{}0", header(covered, "content-length"))),
        ("content-type", format!("{}x", header(covered, "content-type"))),
        ("authorization", one_byte_of_the_signature(covered)),
    ] {
        let mut forged = covered.clone();
        assert_ne!(forged["headers"][name], value);
        forged["headers"][name] = value.into();
        assert_eq!(verified(&python, &[forged]), Err(1), "{name}");
    }
    measured(&format!(
        "Oracle: {} signatures byte for byte as its SDK's and verified by httpsig, {} with the body covered",
        verifiable.len(),
        counts[1]
    ));
}

/// How many `httpsig` verified, or how many it did not.
fn verified(python: &Path, lines: &[Value]) -> Result<usize, usize> {
    let mut command = Command::new(python);
    command.arg(folder().join("verify.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    match output.status.success() {
        true => Ok(told["verified"].as_u64().unwrap() as usize),
        false => Err(told["failed"].as_array().unwrap().len()),
    }
}
