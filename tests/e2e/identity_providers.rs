//! Real token servers that refuse wrong clients: every grant and every client authentication, each with its negative twin.

use serde_json::{Value, json};

use crate::support::{Idp, Proxy, Root, kit};

const SECRET: &str = "a-client-secret-of-32-bytes-or-more";
/// What a client that does not encode, or encodes wrongly, cannot send.
const AWKWARD: &str = "p%41 +:/&=x-of-32-bytes-and-more";
const AWKWARD_ID: &str = "ba:s%20ic /&";

/// One credential, and what becomes of a call through it.
struct Case {
    id: &'static str,
    settings: String,
    expect: Expect,
}

enum Expect {
    /// The API takes the token, which was issued to this client.
    Accepted(&'static str),
    /// A code of ours, with these words of the server in its detail.
    Refused(&'static str, &'static str),
}
use Expect::{Accepted, Refused};

fn case(id: &'static str, settings: impl Into<String>, expect: Expect) -> Case {
    Case { id, settings: settings.into(), expect }
}

fn keys() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys/public.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn key(name: &str) -> String {
    format!("{{ file: {}/tests/vectors/keys/{name} }}", env!("CARGO_MANIFEST_DIR"))
}

/// The configuration: each case a credential for this API, used when a request names it.
fn configuration(idp: &Idp, cases: &[Case]) -> String {
    let port = &idp.facts["port"];
    let mut text = String::from(
        "listeners: { forward: [{ address: 127.0.0.1:0 }] }\nlog: { level: trace }\ntokens: { directory: FOLDER/tokens }\n\
         upstream: { allow_addresses: [127.0.0.0/8], ca_file: FOLDER/origin.pem }\ncredentials:\n",
    );
    let mut bindings = String::from("bindings:\n");
    for case in cases {
        let settings = case.settings.replace("TOKEN_URL", &idp.url("token_url")).replace('\n', "\n    ");
        text.push_str(&format!(
            "  - id: {}\n    scheme: oauth2\n    allow_cleartext: true\n    hosts: [\"127.0.0.1:{port}\"]\n    {settings}\n",
            case.id
        ));
        bindings.push_str(&format!("  - {{ credential: {}, only_named: true, allow_cleartext: true }}\n", case.id));
    }
    text + &bindings
}

const VARIABLES: [(&str, &str); 4] =
    [("SECRET", SECRET), ("AWKWARD", AWKWARD), ("WRONG", "not-the-secret-that-it-knows"), ("PASSWORD", "hunter2")];

fn start(idp: &Idp, cases: &[Case], refresh_tokens: &[(&str, &str)], root: &Root) -> Proxy {
    let mut variables = VARIABLES.to_vec();
    variables.extend_from_slice(refresh_tokens);
    Proxy::start_with(&configuration(idp, cases), &variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    })
}

/// Calls the API through each case, in their order.
async fn call_each(idp: &Idp, proxy: &Proxy, cases: &[Case]) {
    let client = proxy.client();
    for case in cases {
        let answer = client.get(idp.url("me_url")).header("countersign-credential", case.id).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let refusals = idp.admin("/refusals", None).await;
        match case.expect {
            Accepted(client) => {
                assert_eq!(status, 200, "{}: {body} {refusals:#}", case.id);
                assert!(client.is_empty() || body["client_id"] == client, "{}: {body}", case.id);
            }
            Refused(code, words) => {
                assert_eq!(body["code"], code, "{}: {body} {refusals:#}", case.id);
                let detail = body["detail"].as_str().unwrap();
                assert!(detail.contains(words), "{}: {detail}", case.id);
                for (name, secret) in VARIABLES {
                    assert!(!detail.contains(secret), "{} shows {name}: {detail}", case.id);
                }
            }
        }
    }
}

/// Nothing that was sent in confidence, nor a token, nor an assertion is in the log, at trace level.
fn nothing_leaked(log: &str, more: &[&str]) {
    for secret in VARIABLES.iter().map(|(_, secret)| secret).chain(more) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    // Every assertion begins like this, and so do tokens that are JWTs.
    assert!(!log.contains("eyJ0eXAi") && !log.contains("eyJhbGci"), "a JWT is in the log");
    assert!(log.contains("token obtained"), "the log was looked at");
}

const CLIENT_CREDENTIALS: &str = "grant_type: client_credentials\ntoken_url: TOKEN_URL\n";

fn with_secret(id: &str, variable: &str, more: &str) -> String {
    format!("{CLIENT_CREDENTIALS}client_id: \"{id}\"\nclient_secret: {{ env: {variable} }}\n{more}")
}

fn with_user(id: &str, variable: &str) -> String {
    format!("{CLIENT_CREDENTIALS}client_user: \"{id}\"\nclient_password: {{ env: {variable} }}")
}

fn with_assertion(id: &str, file: &str, more: &str) -> String {
    format!("{CLIENT_CREDENTIALS}client_id: {id}\nclient_assertion:\n  signing_key: {}\n{}", key(file), indented(more))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn with_jwt(file: &str, more: &str) -> String {
    format!(
        "grant_type: jwt_bearer\ntoken_url: TOKEN_URL\niss: issuer\nsub: someone\ninclude_jti: true\nsigning_key: {}\n{more}",
        key(file)
    )
}

fn clients() -> Value {
    let jwks = |name: &str| json!({ "keys": [keys()[name]] });
    let signed = |id: &str, name: &str, alg: &str| json!({ "client_id": id, "jwks": jwks(name), "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": alg });
    let all = ["client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"];
    json!([
        { "client_id": "post", "client_secret": SECRET, "token_endpoint_auth_method": "client_secret_post", "grant_types": all, "scope": "read write" },
        { "client_id": AWKWARD_ID, "client_secret": AWKWARD, "grant_types": all },
        { "client_id": "plain", "client_secret": SECRET, "grant_types": all },
        { "client_id": "shared", "client_secret": SECRET, "token_endpoint_auth_method": "client_secret_jwt" },
        signed("rs256", "rsa", "RS256"),
        signed("ps256", "rsa", "PS256"),
        signed("es256", "p256", "ES256"),
        signed("eddsa", "ed25519", "EdDSA"),
    ])
}

/// What both servers must take and refuse alike.
fn client_cases(client_refused: &'static str) -> Vec<Case> {
    let rejected = |words| Refused("credential_rejected", words);
    let mut cases = vec![
        case("form", with_secret("post", "SECRET", "scopes: [read]"), Accepted("post")),
        case("form-wrong", with_secret("post", "WRONG", ""), rejected("invalid_client")),
        case("form-unknown", with_secret("nobody", "SECRET", ""), rejected("invalid_client")),
        case("form-resource", with_secret("post", "SECRET", "resource: https://api.test/"), Accepted("post")),
        case("basic", with_user(AWKWARD_ID, "AWKWARD"), Accepted(AWKWARD_ID)),
        case("basic-wrong", with_user(AWKWARD_ID, "WRONG"), rejected("invalid_client")),
        // What is not encoded is decoded all the same, and is another secret then.
        case(
            "basic-not-encoded",
            with_secret(AWKWARD_ID, "AWKWARD", "client_auth: basic_raw"),
            Refused("credential_rejected", "answered 4"),
        ),
        case("raw", with_secret("plain", "SECRET", "client_auth: basic_raw"), Accepted("plain")),
        case("raw-wrong", with_secret("plain", "WRONG", "client_auth: basic_raw"), rejected("invalid_client")),
        case("shared", with_secret("shared", "SECRET", "client_auth: client_secret_jwt"), Accepted("shared")),
        case(
            "shared-wrong",
            with_secret("shared", "WRONG", "client_auth: client_secret_jwt"),
            rejected("invalid_client"),
        ),
        case(
            "shared-audience",
            with_secret("shared", "SECRET", "client_auth: client_secret_jwt\naud: https://elsewhere.test/"),
            rejected("invalid_client"),
        ),
    ];
    for (id, wrong, file, other, alg) in [
        ("rs256", "rs256-wrong-key", "rsa-pkcs1.pem", "rsa-other.pem", "alg: RS256"),
        ("ps256", "ps256-wrong-key", "rsa-encrypted-aes256.pem", "rsa-other.pem", "alg: PS256"),
        ("es256", "es256-wrong-key", "p256-sec1.pem", "p256-other.pem", ""),
        ("eddsa", "eddsa-wrong-key", "ed25519-pkcs8.pem", "ed25519-other.pem", ""),
    ] {
        let password = if file.contains("encrypted") { "\nsigning_key_password: { env: PASSWORD }" } else { "" };
        cases.push(case(id, with_assertion(id, file, &format!("{alg}{password}")), Accepted(id)));
        cases.push(case(wrong, with_assertion(id, other, alg), rejected("invalid_client")));
    }
    cases.extend([
        case(
            "audience",
            with_assertion("rs256", "rsa-pkcs1.pem", "aud: https://elsewhere.test/"),
            rejected(client_refused),
        ),
        case(
            "expired",
            with_assertion("rs256", "rsa-pkcs1.pem", "additional_claims: { iat: 1, exp: 2 }"),
            rejected(client_refused),
        ),
        case(
            "once",
            with_assertion("rs256", "rsa-pkcs1.pem", "additional_claims: { jti: the-same }"),
            Accepted("rs256"),
        ),
        case(
            "replayed",
            with_assertion("rs256", "rsa-pkcs1.pem", "additional_claims: { jti: the-same }"),
            rejected(client_refused),
        ),
        case("algorithm", with_assertion("rs256", "rsa-pkcs1.pem", "alg: RS512"), rejected("invalid_client")),
    ]);
    cases
}

fn grant_cases(client: &str) -> Vec<Case> {
    let rejected = |words| Refused("credential_rejected", words);
    let jwt = |file: &str, more: &str| with_jwt(file, &format!("{client}{more}"));
    vec![
        case("grant", jwt("rsa-pkcs1.pem", "scopes: [read]\n"), Accepted("")),
        case("grant-ps256", jwt("rsa-pkcs8.pem", "alg: PS256\n"), Accepted("")),
        case("grant-wrong-key", jwt("rsa-other.pem", ""), rejected("invalid_grant")),
        case("grant-audience", jwt("rsa-pkcs1.pem", "aud: https://elsewhere.test/\n"), rejected("invalid_grant")),
        case(
            "grant-expired",
            jwt("rsa-pkcs1.pem", "additional_claims: { iat: 1, exp: 2 }\n"),
            rejected("invalid_grant"),
        ),
        case("grant-once", jwt("rsa-pkcs1.pem", "additional_claims: { jti: the-very-same }\n"), Accepted("")),
        case(
            "grant-replayed",
            jwt("rsa-pkcs1.pem", "additional_claims: { jti: the-very-same }\n"),
            rejected("invalid_grant"),
        ),
    ]
}

fn refreshing(variable: &str, client: &str) -> String {
    format!("grant_type: refresh_token\ntoken_url: TOKEN_URL\ntoken: {{ env: {variable} }}\n{client}")
}

/// Refresh tokens: used, rotated at every use, used again after a restart, revoked, replayed.
async fn refresh_tokens(idp: &Idp, root: &Root) {
    let client = "client_user: plain\nclient_password: { env: SECRET }";
    let wrong = "client_user: plain\nclient_password: { env: WRONG }";
    let new = async || idp.admin("/admin/refresh-token", Some(json!({ "client_id": "plain", "scope": "read" }))).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(new().await["refresh_token"].as_str().unwrap().to_owned());
    }
    idp.admin("/admin/revoke", Some(json!({ "refresh_token": tokens[1] }))).await;
    let variables = [("FIRST", tokens[0].as_str()), ("REVOKED", &tokens[1]), ("OTHER", &tokens[2])];
    let cases = [
        case("refresh", refreshing("FIRST", client), Accepted("plain")),
        case("revoked", refreshing("REVOKED", client), Refused("reauthorization_required", "invalid_grant")),
        case("made-up", refreshing("WRONG", client), Refused("reauthorization_required", "invalid_grant")),
        case("wrong-client", refreshing("OTHER", wrong), Refused("credential_rejected", "invalid_client")),
    ];
    let proxy = start(idp, &cases, &variables, root);
    call_each(idp, &proxy, &cases).await;
    nothing_leaked(&proxy.log(), &[&tokens[0], &tokens[1], &tokens[2]]);
    // The configured token is spent; a process that starts anew goes on with its successor.
    let mut all = VARIABLES.to_vec();
    all.extend(variables);
    let proxy = proxy.killed_and_started_again(&crate::support::binary(), &all);
    call_each(idp, &proxy, &cases[..1]).await;
    // Somebody else spends the configured token once more: the provider revokes the family, and we say so.
    let thief = start(
        idp,
        &[case("thief", refreshing("FIRST", client), Refused("reauthorization_required", "invalid_grant"))],
        &variables,
        root,
    );
    call_each(idp, &thief, &[case("thief", "", Refused("reauthorization_required", "invalid_grant"))]).await;
    let proxy = proxy.killed_and_started_again(&crate::support::binary(), &all);
    call_each(idp, &proxy, &[case("refresh", "", Refused("reauthorization_required", "invalid_grant"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oidc_provider_serves_every_grant_and_client_authentication_and_refuses_each_twin() {
    let Some(kit) = kit("oidc-provider") else { return };
    let root = Root::new();
    let config = json!({
        "clients": clients(),
        "assertion_issuers": [{ "iss": "issuer", "jwks": { "keys": [keys()["rsa"]] } }],
        "resources": ["https://api.test/"],
    });
    let idp = Idp::start(&kit, "oidc_provider", &config);
    let mut cases = client_cases("invalid_client");
    cases.extend(grant_cases("client_user: plain\nclient_password: { env: SECRET }\n"));
    cases.push(case(
        "resource-unknown",
        with_secret("post", "SECRET", "resource: https://elsewhere.test/"),
        Refused("credential_rejected", "invalid_target"),
    ));
    let proxy = start(&idp, &cases, &[], &root);
    call_each(&idp, &proxy, &cases).await;
    nothing_leaked(&proxy.stop(), &[]);
    refresh_tokens(&idp, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authlib_serves_every_grant_and_client_authentication_and_refuses_each_twin() {
    let Some(kit) = kit("authlib") else { return };
    let root = Root::new();
    let config = json!({
        "clients": clients(),
        "assertion_issuers": [{ "iss": "issuer", "jwks": { "keys": [keys()["rsa"]] } }],
    });
    let idp = Idp::start(&kit, "authlib", &config);
    let mut cases = client_cases("invalid_client");
    cases.extend(grant_cases(""));
    cases.push(case(
        "scope-unknown",
        with_secret("post", "SECRET", "scopes: [no-such-scope]"),
        Refused("credential_rejected", "invalid_scope"),
    ));
    let proxy = start(&idp, &cases, &[], &root);
    call_each(&idp, &proxy, &cases).await;
    nothing_leaked(&proxy.stop(), &[]);
    refresh_tokens(&idp, &root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shapes_of_google_and_azure_are_spoken_and_their_twins_refused() {
    let Some(kit) = kit("authlib shapes") else { return };
    let root = Root::new();
    let google = |claims: &str| {
        format!(
            "grant_type: jwt_bearer\ntoken_url: TOKEN_URL\niss: issuer\naud: \"\"\nalg: RS256\nsigning_key: {}\n{claims}",
            key("rsa-pkcs8.pem")
        )
    };
    let azure = |more: &str| with_secret("azure", "SECRET", more);
    let rejected = |words| Refused("credential_rejected", words);
    let mut with_x5t = keys()["rsa"].clone();
    with_x5t["x5t#S256"] = json!("thumb-print");
    let certificate = "alg: PS256\njwt_headers: { \"x5t#S256\": thumb-print }\nmax_minutes: 10";
    for (shape, cases) in [
        (
            "google",
            vec![
                case("google", google("additional_claims: { scope: read }"), Accepted("")),
                case("google-no-scope", google(""), rejected("invalid_scope")),
                case(
                    "google-two-hours",
                    google("max_minutes: 120\nadditional_claims: { scope: read }"),
                    rejected("invalid_grant"),
                ),
            ],
        ),
        (
            "azure_v1",
            vec![
                case(
                    "azure-v1",
                    azure("additional_params: { resource: https://management.azure.com }"),
                    Accepted("azure"),
                ),
                case("azure-v1-nothing", azure(""), rejected("900144")),
            ],
        ),
        (
            "azure_v2",
            vec![
                case("azure-v2", azure("scopes: [https://management.azure.com/.default]"), Accepted("azure")),
                case("azure-v2-scope", azure("scopes: [https://management.azure.com/user]"), rejected("1002012")),
                case(
                    "azure-certificate",
                    with_assertion("cert", "rsa-pkcs8.pem", certificate)
                        + "scopes: [https://management.azure.com/.default]",
                    Accepted("cert"),
                ),
                case(
                    "azure-other-certificate",
                    with_assertion("cert", "rsa-other.pem", certificate)
                        + "scopes: [https://management.azure.com/.default]",
                    rejected("invalid_client"),
                ),
            ],
        ),
    ] {
        let mut clients = clients();
        let cert = json!({ "client_id": "cert", "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [with_x5t] } });
        let azure = json!({ "client_id": "azure", "client_secret": SECRET, "token_endpoint_auth_method": "client_secret_post" });
        clients.as_array_mut().unwrap().extend([cert, azure]);
        let issuers = json!([{ "iss": "issuer", "jwks": { "keys": [keys()["rsa"]] }, "require_jti": false }]);
        let scopes = json!(["read", "https://management.azure.com/.default", "https://management.azure.com/user"]);
        let config = json!({ "shape": shape, "clients": clients, "assertion_issuers": issuers, "scopes": scopes });
        let idp = Idp::start(&kit, "authlib", &config);
        let proxy = start(&idp, &cases, &[], &root);
        call_each(&idp, &proxy, &cases).await;
        nothing_leaked(&proxy.stop(), &[]);
    }
}

/// Certificates of clients, signed by an authority that the token server trusts, or by another.
fn client_certificate(subject: &str, trusted: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![format!("{subject}.test")]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, subject);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    (params.signed_by(&key, trusted).unwrap().pem(), key.serialize_pem())
}

fn authority(name: &str) -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn oidc_provider_knows_a_client_by_its_certificate_and_refuses_another_or_none() {
    let Some(kit) = kit("mutual TLS") else { return };
    let root = Root::new();
    let (trusted, foreign) = (authority("Clients"), authority("Strangers"));
    let (certificate, server_key) = root.leaf(&["127.0.0.1"]);
    let config = json!({
        "clients": [
            { "client_id": "client", "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=client" },
            { "client_id": "by-name", "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "client.test" },
        ],
        "tls": { "cert": certificate.pem(), "key": server_key.serialize_pem(), "client_ca": trusted.pem() },
    });
    let idp = Idp::start(&kit, "oidc_provider", &config);
    let mut variables = VARIABLES.to_vec();
    let made = [
        ("OWN", client_certificate("client", &trusted)),
        ("OTHER", client_certificate("other", &trusted)),
        ("FOREIGN", client_certificate("client", &foreign)),
    ];
    let names: Vec<_> = made.iter().map(|(name, _)| (format!("{name}_CERT"), format!("{name}_KEY"))).collect();
    for ((_, (certificate, key)), (certificate_name, key_name)) in made.iter().zip(&names) {
        variables.extend([(certificate_name.as_str(), certificate.as_str()), (key_name.as_str(), key.as_str())]);
    }
    let with = |id: &str, name: &str| {
        format!(
            "{CLIENT_CREDENTIALS}client_id: {id}\nclient_certificate: {{ env: {name}_CERT }}\nclient_key: {{ env: {name}_KEY }}"
        )
    };
    let rejected = || Refused("credential_rejected", "invalid_client");
    let cases = [
        case("own", with("client", "OWN"), Accepted("client")),
        case("own-by-name", with("by-name", "OWN"), Accepted("by-name")),
        case("another", with("client", "OTHER"), rejected()),
        case("strangers", with("client", "FOREIGN"), rejected()),
        // A secret is no certificate.
        case("none", with_secret("client", "SECRET", ""), Refused("credential_rejected", "answered 4")),
    ];
    let proxy = Proxy::start_with(&configuration(&idp, &cases), &variables, |folder| {
        std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
    });
    call_each(&idp, &proxy, &cases).await;
    let keys: Vec<&str> = made.iter().map(|(_, (_, key))| key.lines().nth(1).unwrap()).collect();
    nothing_leaked(&proxy.stop(), &keys);
}
