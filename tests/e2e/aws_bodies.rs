//! Bodies of AWS requests: signed chunk by chunk, hashed, or not at all, and never held in memory.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;

use crate::aws::{KEYS, Scene};
use crate::support::{Config, Origin, Proxy, Root, kit, measured, read_answer, text, tls_tunnel};

const HOST: &str = "s3.us-east-1.amazonaws.com";

/// What an SDK with worthless keys writes around a chunk.
fn chunked(data: &[u8], size: usize, signed: bool, trailer: &str) -> Vec<u8> {
    let extension = if signed { format!(";chunk-signature={}", "0".repeat(64)) } else { String::new() };
    let mut body = Vec::new();
    for chunk in data.chunks(size) {
        body.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend(format!("0{extension}\r\n{trailer}\r\n").into_bytes());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_signed_again_so_that_a_server_that_verifies_each_takes_them() {
    let Some(kit) = kit("aws") else { return };
    let scene = Scene::new();
    let s3s = scene.s3s(&kit);
    let keys = [("KEY", s3s.fact("access_key")), ("SECRET", s3s.fact("secret_key"))];
    let proxy = scene.proxy(&s3s, KEYS, &keys).await;
    let signing = scene.proxy(&s3s, &format!("{KEYS}    payload: signed\n"), &keys).await;
    let wrong = scene.proxy(&s3s, KEYS, &[keys[0], ("SECRET", "another-secret")]).await;
    let bucket = format!("https://{HOST}/chunks");
    assert_eq!(proxy.client().put(&bucket).send().await.unwrap().status(), 200);
    let large: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let trailer = "x-amz-checksum-crc32:NhCmhg==\r\n";
    // The data, the size of the caller's chunks, what the SDK says of them, and the trailer.
    let cases: [(&str, &[u8], usize, &str, &str); 6] = [
        ("plain", &large, 70_001, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""),
        ("one", &large, 1_000_000, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""),
        ("tiny", b"hello", 1, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""),
        ("empty", b"", 1, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""),
        ("trailer", b"hello", 2, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", trailer),
        ("unsigned", b"hello", 3, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", trailer),
    ];
    let put = async |proxy: &Proxy, name: &str, body: Vec<u8>, length: usize, mode: &str, trailing: bool| {
        let mut request = proxy
            .client()
            .put(format!("{bucket}/{name}"))
            .header("x-amz-content-sha256", mode)
            .header("x-amz-decoded-content-length", length)
            .header("content-encoding", "aws-chunked")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=AKIAWORTHLESS/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0");
        if trailing {
            request = request.header("x-amz-trailer", "x-amz-checksum-crc32");
        }
        request.body(body).send().await
    };
    for (name, data, size, mode, trailer) in cases {
        for proxy in [&proxy, &signing] {
            let body = chunked(data, size, !mode.contains("UNSIGNED"), trailer);
            let answer = put(proxy, name, body, data.len(), mode, !trailer.is_empty()).await.unwrap();
            let status = answer.status();
            assert_eq!(status, 200, "{name}: {}", answer.text().await.unwrap());
            let got = proxy.client().get(format!("{bucket}/{name}")).send().await.unwrap();
            assert!(got.bytes().await.unwrap() == data, "{name} came back changed");
            proxy.client().delete(format!("{bucket}/{name}")).send().await.unwrap();
        }
        let body = chunked(data, size, !mode.contains("UNSIGNED"), trailer);
        // The server closes the connection on whom it refuses.
        if let Ok(answer) = put(&wrong, name, body, data.len(), mode, !trailer.is_empty()).await {
            assert_ne!(answer.status(), 200, "{name} with a wrong key");
        }
        assert_eq!(proxy.client().head(format!("{bucket}/{name}")).send().await.unwrap().status(), 404, "{name}");
    }
    // A body that is not what it says is not stored.
    let broken = chunked(b"hello", 2, true, "");
    let answer = put(&proxy, "broken", broken, 6, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", false).await;
    assert!(answer.is_err() || !answer.unwrap().status().is_success());
    assert_eq!(proxy.client().head(format!("{bucket}/broken")).send().await.unwrap().status(), 404);
}

/// Takes bodies without keeping them, and gives as many bytes as the path says.
async fn sink(root: &Root) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (taken, config) = (Arc::new(AtomicU64::new(0)), root.server_config(&[HOST], &["http/1.1"]));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, count) = (Arc::clone(&config), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let count = Arc::clone(&count);
                    async move {
                        let wanted: u64 = request.uri().path().rsplit('/').next().unwrap().parse().unwrap_or(0);
                        let mut body = request.into_body();
                        while let Some(Ok(frame)) = body.frame().await {
                            count.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
                        }
                        let piece = Bytes::from(vec![0; 256 * 1024]);
                        let pieces = (0..wanted.div_ceil(piece.len() as u64))
                            .map(move |_| Ok::<_, Infallible>(Frame::data(piece.clone())));
                        let mut answer = Response::new(StreamBody::new(futures_util::stream::iter(pieces)));
                        answer.headers_mut().insert("content-length", wanted.into());
                        Ok::<_, Infallible>(answer)
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_pass_either_way_in_little_memory_however_they_are_signed() {
    // Without optimisation, hashing alone would take minutes.
    let size: u64 = if std::env::var_os("COUNTERSIGN_BIN").is_some() { 2 << 30 } else { 64 << 20 };
    let root = Root::new();
    let (address, taken) = sink(&root).await;
    let config = |more: &str| {
        Config::new()
            .resolve(&format!("{HOST}:443"), address)
            .credentials(&format!(
                "  - {{ id: aws, scheme: aws, access_key: AKIAIOSFODNN7EXAMPLE, secret_key: {{ env: SECRET }}{more} }}\n"
            ))
            .bindings(&format!("  - {{ credential: aws, hosts: [{HOST}] }}\n"))
    };
    let upload = |proxy: &Proxy, size: u64, head: &str, wrap: Option<usize>| {
        let before = taken.load(Ordering::Relaxed);
        let mut stream = tls_tunnel(proxy, &format!("{HOST}:443"), HOST, &["http/1.1"]);
        let piece = vec![0; wrap.unwrap_or(1 << 20)];
        let around = wrap.map(|size| format!("{size:x};chunk-signature={}\r\n", "0".repeat(64)));
        let last = format!("0;chunk-signature={}\r\n\r\n", "0".repeat(64));
        let pieces = size / piece.len() as u64;
        let length = match &around {
            Some(around) => pieces * (around.len() + piece.len() + 2) as u64 + last.len() as u64,
            None => size,
        };
        write!(stream, "PUT /bucket/key HTTP/1.1\r\nHost: {HOST}\r\n{head}Content-Length: {length}\r\n\r\n").unwrap();
        for _ in 0..pieces {
            if let Some(around) = &around {
                stream.write_all(around.as_bytes()).unwrap();
            }
            stream.write_all(&piece).unwrap();
            if around.is_some() {
                stream.write_all(b"\r\n").unwrap();
            }
        }
        if around.is_some() {
            stream.write_all(last.as_bytes()).unwrap();
        }
        stream.flush().unwrap();
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(taken.load(Ordering::Relaxed) - before >= size);
    };
    let proxy = config("").start(&root);
    upload(&proxy, size, "", None);
    let hash = format!("x-amz-content-sha256: {}\r\n", "0".repeat(64));
    upload(&proxy, size / 4, &hash, None);
    let chunks =
        format!("x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nx-amz-decoded-content-length: {size}\r\n");
    upload(&proxy, size, &chunks, Some(1 << 20));
    let mut stream = tls_tunnel(&proxy, &format!("{HOST}:443"), HOST, &["http/1.1"]);
    write!(stream, "GET /{size} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").unwrap();
    let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(read) = stream.read(&mut buffer)
        && read > 0
    {
        got += read as u64;
    }
    assert!(got > size, "{got}");
    let (_, streaming) = proxy.memory();
    let proxy = config(", payload: signed").start(&root);
    upload(&proxy, size / 4, "", None);
    let (_, spooling) = proxy.memory();
    let mib = |kib: u64| kib / 1024;
    assert!(streaming.max(spooling) < 64 * 1024, "{} MiB streaming, {} MiB spooling", mib(streaming), mib(spooling));
    measured(&format!(
        "{} MiB up and down: {} MiB of memory at most; {} MiB hashed first: {} MiB",
        size >> 20,
        mib(streaming),
        size >> 22,
        mib(spooling)
    ));
}

/// An API that is no S3, behind the `aws` scheme.
fn sqs(origin: &Origin, binding: &str) -> Config {
    Config::new()
        .resolve("sqs.us-east-1.amazonaws.com:443", origin.address)
        .credentials("  - { id: aws, scheme: aws, access_key: AKIAIOSFODNN7EXAMPLE, secret_key: { env: SECRET } }\n")
        .bindings(&format!("  - {{ credential: aws, hosts: [\"*.amazonaws.com\"]{binding} }}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_hashed_is_asked_for_when_its_sender_waits_to_be_asked() {
    let root = Root::new();
    let host = "sqs.us-east-1.amazonaws.com";
    let origin = Origin::https_with(&root, &[host], &["http/1.1"], |_| text(200, "ok")).await;
    let proxy = sqs(&origin, "").start(&root);
    let mut stream = tls_tunnel(&proxy, &format!("{host}:443"), host, &["http/1.1"]);
    write!(stream, "POST / HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n").unwrap();
    let interim = read_answer(&mut stream);
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    write!(stream, "hello world").unwrap();
    let answer = read_answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = origin.only();
    assert_eq!(seen.body, "hello world");
    assert!(seen.header("authorization").unwrap().contains("/us-east-1/sqs/aws4_request"));
    assert!(seen.header("x-amz-content-sha256").is_none(), "other services do not ask for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_a_bindings_services_regions_and_actions_is_refused_before_anything_is_signed() {
    let root = Root::new();
    let host = "sqs.us-east-1.amazonaws.com";
    let origin = Origin::https_with(&root, &[host], &["http/1.1"], |_| text(200, "ok")).await;
    let form = "application/x-www-form-urlencoded";
    let call = async |proxy: &Proxy, url: &str, body: &str| {
        let answer = proxy.client().post(url).header("content-type", form).body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap())
    };
    let url = format!("https://{host}/");
    let proxy = sqs(&origin, ", services: [sqs], regions: [us-east-1], actions: [\"List*\", GetQueueUrl]").start(&root);
    assert_eq!(call(&proxy, &url, "Action=ListQueues").await.0, 200);
    assert_eq!(origin.only().body, "Action=ListQueues", "what was looked at goes out whole");
    for (url, body, words) in [
        (&*url, "Action=DeleteQueue", "action DeleteQueue"),
        (&url, "Action=ListQueues&Action=DeleteQueue", "more than one"),
        (&format!("{url}?Action=DeleteQueue"), "Action=ListQueues", "more than one"),
        (&url, "Version=1", "names none"),
        ("https://sns.us-east-1.amazonaws.com/", "Action=ListTopics", "service sns"),
        ("https://sqs.eu-west-1.amazonaws.com/", "Action=ListQueues", "region eu-west-1"),
        ("https://b.s3-accelerate.amazonaws.com/", "Action=ListQueues", "cannot be told"),
    ] {
        let (status, said) = call(&proxy, url, body).await;
        assert!(status == 400 && said.contains("cannot_infer") && said.contains(words), "{url} {body}: {said}");
    }
    // An empty list is a mistake, since it would allow everything.
    let empty = sqs(&origin, ", services: []").text();
    let check = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
        std::fs::write(&file, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let mut check = crate::support::countersign(&["check", "--config", file.to_str().unwrap()]);
        let output = check.env("SECRET", "x").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = check(&empty);
    assert!(code == Some(78) && said.contains("would allow everything"), "{said}");
    // `explain` says the same beforehand, and for what it would be signed.
    let explained = |url: &str| {
        let arguments = ["explain", "--json", "--config", proxy.config.to_str().unwrap(), "POST", url];
        let output = crate::support::countersign(&arguments).env("SECRET", "x").output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let use_it = explained(&url);
    let reason = "SigV4 for sqs in us-east-1; its action is judged when it is sent";
    assert_eq!((&use_it["decision"], &use_it["reason"]), (&"use".into(), &reason.into()));
    assert_eq!(use_it["headers"], serde_json::json!(["authorization", "x-amz-date"]));
    for url in ["https://sns.us-east-1.amazonaws.com/", "https://b.s3-accelerate.amazonaws.com/"] {
        assert_eq!(explained(url)["code"], "cannot_infer", "{url}");
    }
    // Hosts below the same domain that anybody can own have to be named.
    let whole = sqs(&origin, "").start(&root);
    let (status, said) = call(&whole, "https://abc123.execute-api.us-east-1.amazonaws.com/x", "a").await;
    assert!(status == 403 && said.contains("destination_forbidden"), "{said}");
    assert_eq!(origin.seen().len(), 1);
    // Other schemes cannot obey such a binding, so it is an error.
    let other = Config::new().bindings("  - { credential: key, hosts: [api.test], services: [s3] }\n").text();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    std::fs::write(&file, other.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let mut check = crate::support::countersign(&["check", "--config", file.to_str().unwrap()]);
    let output = check.env("SECRET", "x").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && said.contains("do not go with"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_one_host_share_its_services_between_them() {
    let root = Root::new();
    let names = ["*.us-east-1.amazonaws.com"];
    let origin = Origin::https_with(&root, &names, &["http/1.1"], |_| text(200, "ok")).await;
    let mut config =
        sqs(&origin, ", services: [sqs], actions: [\"List*\"]").resolve(&format!("{HOST}:443"), origin.address);
    config
        .credentials
        .push_str("  - { id: other, scheme: aws, access_key: AKIAOTHER00000000000, secret_key: { env: SECRET } }\n");
    let with = |more: &str| {
        let bindings = format!("{}{more}", config.bindings);
        Config {
            bindings,
            listeners: config.listeners.clone(),
            resolve: config.resolve.clone(),
            credentials: config.credentials.clone(),
            rest: String::new(),
        }
    };
    let proxy = with("  - { credential: other, hosts: [\"*.amazonaws.com\"], services: [s3] }\n").start(&root);
    let call = async |url: &str| proxy.client().get(url).send().await.unwrap().status().as_u16();
    assert_eq!(call("https://sqs.us-east-1.amazonaws.com/?Action=ListQueues").await, 200);
    assert_eq!(call(&format!("https://{HOST}/bucket")).await, 200);
    assert_eq!(call("https://sqs.us-east-1.amazonaws.com/?Action=DeleteQueue").await, 400);
    assert_eq!(call("https://iam.us-east-1.amazonaws.com/").await, 400);
    let signed: Vec<_> =
        origin.seen().iter().map(|seen| seen.header("authorization").unwrap().contains("OTHER")).collect();
    assert_eq!(signed, [false, true], "each by its own credential");
    // One that is for every service gives way to one that is for this.
    let proxy = with("  - { credential: other, hosts: [\"*.amazonaws.com\"] }\n").start(&root);
    assert_eq!(proxy.client().get(format!("https://{HOST}/bucket")).send().await.unwrap().status(), 200);
    assert!(origin.seen().last().unwrap().header("authorization").unwrap().contains("OTHER"));
    // Whichever stands first in the file, the narrower of two is asked first; one that is switched off is for its own service.
    let regional = "  - { credential: other, hosts: [\"*.amazonaws.com\"], services: [sqs], regions: [us-east-1] }\n";
    let proxy = with(regional).start(&root);
    assert_eq!(
        proxy.client().get("https://sqs.us-east-1.amazonaws.com/?Action=ListQueues").send().await.unwrap().status(),
        200
    );
    assert!(origin.seen().last().unwrap().header("authorization").unwrap().contains("OTHER"));
    let off = with("  - { credential: other, hosts: [\"*.amazonaws.com\"], services: [s3] }\n").text();
    let off = off.replace("{ id: other,", "{ id: other, enabled: false,");
    let proxy = Proxy::start_with(&off, &[("SECRET", "x")], |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    assert_eq!(
        proxy.client().get("https://sqs.us-east-1.amazonaws.com/?Action=ListQueues").send().await.unwrap().status(),
        200
    );
    assert_eq!(proxy.client().get(format!("https://{HOST}/bucket")).send().await.unwrap().status(), 403);
    // Two for the same are a tie.
    let tie =
        with("  - { credential: other, hosts: [\"*.amazonaws.com\"], services: [s3, sqs], actions: [\"Get*\"] }\n")
            .text();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    std::fs::write(&file, tie.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let mut check = crate::support::countersign(&["check", "--config", file.to_str().unwrap()]);
    let output = check.env("SECRET", "x").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && said.contains("services and regions"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_gives_aws_tools_worthless_keys_and_signs_with_the_real_ones() {
    let Some(kit) = kit("aws") else { return };
    let root = Root::new();
    let host = "sts.us-east-1.amazonaws.com";
    let origin = Origin::https_with(&root, &[host], &["http/1.1"], |_| {
        text(
            200,
            "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/u</Arn><UserId>U</UserId>\
             <Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
        )
    })
    .await;
    let config = Config::new()
        .resolve(&format!("{host}:443"), origin.address)
        .credentials("  - { id: aws, scheme: aws, access_key: { env: AWS_ACCESS_KEY_ID }, secret_key: { env: AWS_SECRET_ACCESS_KEY } }\n")
        .bindings("  - { credential: aws, hosts: [\"*.amazonaws.com\"] }\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.yaml");
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    let text = format!("{}ca: {{ directory: FOLDER/ca }}\n", config.text());
    std::fs::write(&file, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let python = kit.join("venv/bin/python");
    let script = "import boto3, os, json\n\
                  arn = boto3.client('sts', region_name='us-east-1').get_caller_identity()['Arn']\n\
                  print(json.dumps([arn, {k: v for k, v in os.environ.items() if k.startswith('AWS_')}]))";
    let output = crate::support::countersign(&["run", "--config", file.to_str().unwrap(), "--"])
        .args([python.to_str().unwrap(), "-c", script])
        .env("AWS_ACCESS_KEY_ID", "AKIAREALREALREALREAL")
        .env("AWS_SECRET_ACCESS_KEY", "the-real-secret")
        .env("AWS_SESSION_TOKEN", "a-real-token")
        .env("AWS_PROFILE", "production")
        .env("AWS_SECRET_KEY", "an-older-name-REALREAL")
        .env("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")
        .env("AWS_BEARER_TOKEN_BEDROCK", "a-REALREAL-bearer")
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said} {errors}");
    let answer: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(answer[0], "arn:aws:iam::1:user/u");
    assert_eq!(answer[1]["AWS_EC2_METADATA_DISABLED"], "true");
    assert!(answer[1]["AWS_PROFILE"].is_null() && answer[1]["AWS_SESSION_TOKEN"].is_null(), "{answer}");
    assert!(!said.contains("REALREAL") && !said.contains("the-real-secret"), "{said}");
    let seen = origin.only();
    assert!(seen.header("authorization").unwrap().contains("Credential=AKIAREALREALREALREAL/"));
    assert!(seen.header("x-amz-security-token").is_none(), "the worthless session is nobody's");
}
