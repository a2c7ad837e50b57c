//! What the demo shows: one case for each way a scheme can authenticate. A new scheme adds its cases here and its verifier
//! in `api.rs`, or in a file of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::rand;
use http::Method;
use rcgen::KeyPair;

use super::google::Account;
use super::{azure, flexera, oracle};

/// The name of the demo's API; it is resolved to loopback by the demo's own configuration.
pub(super) const HOST: &str = "api.demo.test";

/// The name of the demo's identity provider, and its token endpoint.
pub(super) const LOGIN_HOST: &str = "login.demo.test";
pub(super) const TOKEN_URL: &str = "https://login.demo.test/token";

/// Where the demo's Apptio logs in, and its API.
pub(super) const FRONTDOOR_HOST: &str = "frontdoor.apptio.com";
const CLOUDABILITY: &str = "api.cloudability.com";

/// What the demo's AWS knows: its STS, its user's access key, a role and the external id that the role's trust policy asks for.
pub(super) const STS_HOST: &str = "sts.us-east-1.amazonaws.com";
pub(super) const ACCESS_KEY: &str = "AKIACOUNTERSIGNDEMO";
pub(super) const ROLE: &str = "arn:aws:iam::123456789012:role/demo";
pub(super) const EXTERNAL_ID: &str = "demo-0815";

/// Its services.
const S3: &str = "s3.us-east-1.amazonaws.com";
const DYNAMODB: &str = "dynamodb.eu-west-1.amazonaws.com";

/// What the demo's Oracle Cloud knows: an API of its, and a user there.
pub(super) const ORACLE_HOST: &str = "iaas.us-phoenix-1.oraclecloud.com";
pub(super) const ORACLE_TENANCY: &str = "ocid1.tenancy.oc1..aaaaaaaademo";
pub(super) const ORACLE_USER: &str = "ocid1.user.oc1..aaaaaaaademo";
/// Where the demo's Google gives tokens, two of its APIs, and a service that a customer runs there.
pub(super) const GOOGLE_TOKEN_HOST: &str = "oauth2.googleapis.com";
pub(super) const STORAGE: &str = "storage.googleapis.com";
pub(super) const PUBSUB: &str = "pubsub.googleapis.com";
pub(super) const GOOGLE_RUN: &str = "reports-demo-uc.a.run.app";

/// One exchange.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) id: &'static str,
    pub(super) scheme: &'static str,
    pub(super) about: &'static str,
    pub(super) method: Method,
    pub(super) host: &'static str,
    pub(super) path: &'static str,
    pub(super) query: &'static str,
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: &'static str,
    /// The same call is made so often, and the API must see the same each time.
    pub(super) times: usize,
    /// The credential's own keys as YAML, `FOLDER` standing for where the keys are.
    pub(super) settings: &'static str,
    pub(super) expected: Expected,
}

/// How an exchange must end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The API finds the credential right.
    Verified,
    /// The identity provider refuses the credential with this word, and the call goes nowhere.
    Rejected(&'static str),
}

/// What most exchanges are.
const CALL: Case = Case {
    id: "",
    scheme: "",
    about: "",
    method: Method::GET,
    host: HOST,
    path: "/",
    query: "",
    headers: &[],
    body: "",
    times: 1,
    settings: "",
    expected: Expected::Verified,
};

/// The names that the demo's API and identity provider answer to.
pub(super) fn hosts() -> BTreeSet<&'static str> {
    let logins = [azure::LOGIN, flexera::LOGIN, FRONTDOOR_HOST, GOOGLE_TOKEN_HOST, LOGIN_HOST, STS_HOST];
    CASES.iter().map(|case| case.host).chain(logins).collect()
}

pub(super) static CASES: &[Case] = &[
    Case {
        id: "bearer",
        scheme: "api_key",
        about: "a key in the Authorization header",
        path: "/bearer",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n",
        ..CALL
    },
    Case {
        id: "two-headers",
        scheme: "api_key",
        about: "two keys in two headers of their own",
        path: "/two-headers",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    field: X-Api-Key\n    type: \"\"\n    \
                   additional: [{ field: X-Application-Key, key: { file: FOLDER/second } }]\n",
        ..CALL
    },
    Case {
        id: "query",
        scheme: "api_key",
        about: "a key in the query",
        path: "/query",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    location: query\n    field: api_key\n",
        ..CALL
    },
    Case {
        id: "cookie",
        scheme: "api_key",
        about: "a key in a cookie",
        path: "/cookie",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    location: cookie\n    field: session\n",
        ..CALL
    },
    Case {
        id: "basic",
        scheme: "basic",
        about: "user name and password",
        path: "/basic",
        settings: "    scheme: basic\n    username: demo\n    password: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "digest",
        scheme: "digest",
        about: "an answer to the server's challenge, which serves the calls after it too",
        path: "/digest",
        times: 3,
        settings: "    scheme: digest\n    username: demo\n    password: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "digest-body",
        scheme: "digest",
        about: "an answer that covers the body, for a server that takes nothing less",
        method: Method::POST,
        path: "/digest/body",
        body: "{\"limit\":10}",
        settings: "    scheme: digest\n    username: demo\n    password: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "ntlm",
        scheme: "ntlm",
        about: "a user's password, proven once for the connection that is then kept for the caller",
        path: "/ntlm",
        times: 2,
        settings: "    scheme: ntlm\n    username: DEMO\\demo\n    password: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "login-session",
        scheme: "login",
        about: "a session of a login form: a cookie, and a second token against forged requests",
        path: "/login/session",
        times: 2,
        settings: "    scheme: login\n    login_url: https://login.demo.test/session\n    \
                   form: { user: demo, password: { file: FOLDER/first } }\n    token: { cookie: demosession }\n    \
                   tokens: { csrf: { header: X-CSRF-Token } }\n    \
                   inject: [{ cookie: demosession }, { header: X-CSRF-Token, value: \"{csrf}\" }]\n",
        ..CALL
    },
    Case {
        id: "login-borrowed",
        scheme: "login",
        about: "a token for a login that another credential authenticates",
        path: "/login/borrowed",
        settings: "    scheme: login\n    login_url: https://api.demo.test/basic/token\n    credential: basic\n    \
                   token: { pointer: /data/token }\n    lifetime: { pointer: /expires }\n    inject: { header: X-Demo-Token }\n",
        ..CALL
    },
    Case {
        id: "apptio",
        scheme: "apptio",
        about: "a token of Frontdoor for the second key pair, since the first is refused, and the environment by its name",
        host: CLOUDABILITY,
        path: "/v3/views",
        times: 2,
        settings: "    scheme: apptio\n    key_access: demo-first\n    key_secret: { file: FOLDER/first }\n    \
                   second: { key_access: demo-second, key_secret: { file: FOLDER/second } }\n    product: cloudability\n    \
                   environment: { domain: demo.test, name: main }\n",
        ..CALL
    },
    Case {
        id: "client-credentials",
        scheme: "oauth2",
        about: "an access token for client credentials",
        path: "/oauth2/client_credentials",
        settings: "    scheme: oauth2\n    grant_type: client_credentials\n    token_url: https://login.demo.test/token\n    \
                   client_id: demo\n    client_secret: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "refresh-token",
        scheme: "oauth2",
        about: "an access token for a refresh token, which is replaced and kept",
        path: "/oauth2/refresh_token",
        settings: "    scheme: oauth2\n    grant_type: refresh_token\n    token_url: https://login.demo.test/token\n    \
                   token: { file: FOLDER/third }\n",
        ..CALL
    },
    Case {
        id: "jwt-bearer",
        scheme: "oauth2",
        about: "an access token for an assertion signed with a private key",
        path: "/oauth2/jwt_bearer",
        settings: "    scheme: oauth2\n    grant_type: jwt_bearer\n    token_url: https://login.demo.test/token\n    \
                   iss: demo\n    signing_key: { file: FOLDER/signing }\n",
        ..CALL
    },
    Case {
        id: "jwt-private-key",
        scheme: "jwt",
        about: "a JWT signed with a private key, the same for each call of its lifetime",
        path: "/jwt/private-key",
        times: 2,
        settings: "    scheme: jwt\n    signing_key: { file: FOLDER/signing }\n    iss: demo\n    aud: demo-api\n    \
                   jwt_headers: { kid: demo-key }\n    max_minutes: 10\n    backdate: 10s\n    \
                   additional_headers: { X-Token-Type: DEMO }\n",
        ..CALL
    },
    Case {
        id: "jwt-shared-secret",
        scheme: "jwt",
        about: "a JWT signed with a secret that the API has too",
        path: "/jwt/shared-secret",
        settings: "    scheme: jwt\n    shared_secret: { file: FOLDER/second }\n    iss: demo\n    aud: demo-api\n    \
                   jwt_headers: { kid: demo-key }\n    max_minutes: 10\n",
        ..CALL
    },
    Case {
        id: "jwt-fetched",
        scheme: "jwt",
        about: "a token that a service hands out for a user name and password, the same for each call",
        path: "/jwt/fetched",
        times: 2,
        settings: "    scheme: jwt\n    token_url: https://login.demo.test/jwt-token\n    basic_auth_username: demo\n    \
                   basic_auth_password: { file: FOLDER/second }\n    additional_headers: { X-Account: demo }\n",
        ..CALL
    },
    Case {
        id: "aws",
        scheme: "aws",
        about: "a signature for the service and region that the host names",
        host: S3,
        path: "/bucket/report.csv",
        query: "partNumber=1",
        settings: "    scheme: aws\n    access_key: AKIACOUNTERSIGNDEMO\n    secret_key: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "aws-body",
        scheme: "aws",
        about: "a signature over the body, in place of the one that an SDK made with worthless keys",
        method: Method::POST,
        host: DYNAMODB,
        headers: &[
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", "DynamoDB_20120810.ListTables"),
            ("x-amz-date", "20260101T000000Z"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAWORTHLESSKEY/20260101/eu-west-1/dynamodb/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
                 Signature=0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ],
        body: "{\"Limit\":10}",
        settings: "    scheme: aws\n    access_key: AKIACOUNTERSIGNDEMO\n    secret_key: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "aws-sts",
        scheme: "aws_sts",
        about: "a session of a role, asked of STS with an external id and used for every call",
        host: S3,
        path: "/partner/report.csv",
        times: 2,
        settings: "    scheme: aws_sts\n    role_arn: arn:aws:iam::123456789012:role/demo\n    external_id: demo-0815\n    \
                   access_key: AKIACOUNTERSIGNDEMO\n    secret_key: { file: FOLDER/second }\n",
        ..CALL
    },
    Case {
        id: "aws-sts-stranger",
        scheme: "aws_sts",
        about: "no session of the same role with somebody else's external id",
        host: S3,
        path: "/stranger/report.csv",
        settings: "    scheme: aws_sts\n    role_arn: arn:aws:iam::123456789012:role/demo\n    external_id: demo-0816\n    \
                   access_key: AKIACOUNTERSIGNDEMO\n    secret_key: { file: FOLDER/second }\n",
        expected: Expected::Rejected("AccessDenied"),
        ..CALL
    },
    Case {
        id: "azure",
        scheme: "azure",
        about: "a token for Resource Manager, for a client secret",
        host: azure::MANAGEMENT,
        path: "/subscriptions",
        query: "api-version=2022-12-01",
        settings: "    scheme: azure\n    tenant: 11111111-2222-3333-4444-555555555555\n    \
                   client_id: 66666666-7777-8888-9999-000000000000\n    client_secret: { file: FOLDER/second }\n    \
                   audience: resource_management\n",
        ..CALL
    },
    Case {
        id: "azure-certificate",
        scheme: "azure",
        about: "a token for Graph, for an assertion signed with a certificate's key (PS256)",
        host: azure::GRAPH,
        path: "/v1.0/users",
        settings: "    scheme: azure\n    tenant: 11111111-2222-3333-4444-555555555555\n    \
                   client_id: 66666666-7777-8888-9999-000000000000\n    certificate: { file: FOLDER/azure }\n    \
                   audience: graph\n",
        ..CALL
    },
    Case {
        id: "azure-storage",
        scheme: "azure",
        about: "a token for one storage account, with the version that the caller left out",
        host: azure::STORAGE,
        path: "/reports",
        query: "restype=container&comp=list",
        settings: "    scheme: azure\n    tenant: 11111111-2222-3333-4444-555555555555\n    \
                   client_id: 66666666-7777-8888-9999-000000000000\n    client_secret: { file: FOLDER/second }\n    \
                   audience: storage\n",
        ..CALL
    },
    Case {
        id: "azure-stranger",
        scheme: "azure",
        about: "no token for another secret",
        host: azure::MANAGEMENT,
        path: "/stranger",
        settings: "    scheme: azure\n    tenant: 11111111-2222-3333-4444-555555555555\n    \
                   client_id: 66666666-7777-8888-9999-000000000000\n    client_secret: { file: FOLDER/first }\n    \
                   audience: resource_management\n",
        expected: Expected::Rejected("AADSTS7000215"),
        ..CALL
    },
    Case {
        id: "flexera",
        scheme: "flexera",
        about: "a token for a service account whose first client is gone, by its second",
        host: flexera::API,
        path: "/cred/v2/orgs/12345/credentials",
        settings: "    scheme: flexera\n    zone: nam\n    client_id: gone\n    client_secret: { file: FOLDER/first }\n    \
                   second: { client_id: demo, client_secret: { file: FOLDER/second } }\n",
        ..CALL
    },
    Case {
        id: "flexera-person",
        scheme: "flexera",
        about: "a token for a person's refresh token, which is sent alone",
        host: flexera::API,
        path: "/iam/v1/refresh-tokens",
        settings: "    scheme: flexera\n    zone: nam\n    refresh_token: { file: FOLDER/third }\n",
        ..CALL
    },
    Case {
        id: "flexera-stranger",
        scheme: "flexera",
        about: "no token for a client with another secret",
        host: flexera::API,
        path: "/stranger",
        settings: "    scheme: flexera\n    zone: nam\n    client_id: demo\n    client_secret: { file: FOLDER/first }\n",
        expected: Expected::Rejected("unauthorized"),
        ..CALL
    },
    Case {
        id: "oracle",
        scheme: "oracle",
        about: "a signature with an API key, in place of the one that an SDK made with a worthless key",
        host: ORACLE_HOST,
        path: "/20160918/instances",
        query: "compartmentId=ocid1.compartment.oc1..aaaa&limit=5",
        headers: &[(
            "authorization",
            "Signature algorithm=\"rsa-sha256\",headers=\"date (request-target) host\",keyId=\"worthless\",\
             signature=\"AAAA\",version=\"1\"",
        )],
        settings: "    scheme: oracle\n    tenancy_ocid: ocid1.tenancy.oc1..aaaaaaaademo\n    user_ocid: \
                   ocid1.user.oc1..aaaaaaaademo\n    fingerprint: { file: FOLDER/oracle-fingerprint }\n    \
                   private_key: { file: FOLDER/oracle-key }\n",
        ..CALL
    },
    Case {
        id: "oracle-body",
        scheme: "oracle",
        about: "a signature over the body too",
        method: Method::POST,
        host: ORACLE_HOST,
        path: "/20160918/volumeAttachments",
        body: "{\"volumeId\":\"ocid1.volume.oc1..aaaa\"}",
        settings: "    scheme: oracle\n    tenancy_ocid: ocid1.tenancy.oc1..aaaaaaaademo\n    user_ocid: \
                   ocid1.user.oc1..aaaaaaaademo\n    fingerprint: { file: FOLDER/oracle-fingerprint }\n    \
                   private_key: { file: FOLDER/oracle-key }\n",
        ..CALL
    },
    Case {
        id: "google",
        scheme: "google",
        about: "an access token for a service account's key file, as it is downloaded",
        host: STORAGE,
        path: "/storage/v1/b/reports/o",
        times: 2,
        settings: "    scheme: google\n    service_account: { file: FOLDER/google.json }\n    \
                   scopes: [https://www.googleapis.com/auth/devstorage.read_only]\n",
        ..CALL
    },
    Case {
        id: "google-id-token",
        scheme: "google",
        about: "an ID token for one service of a customer's, which is sent to that service only",
        host: GOOGLE_RUN,
        path: "/report",
        settings: "    scheme: google\n    service_account: { file: FOLDER/google.json }\n    \
                   target_audience: https://reports-demo-uc.a.run.app\n",
        ..CALL
    },
    Case {
        id: "google-jwt",
        scheme: "google",
        about: "a JWT for one API, signed here without asking anybody",
        host: PUBSUB,
        path: "/v1/projects/demo-project/topics",
        settings: "    scheme: google\n    service_account: { file: FOLDER/google.json }\n    \
                   audience: https://pubsub.googleapis.com/\n",
        ..CALL
    },
];

/// Keys made for one run.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) third: String,
    /// P-256.
    pub(super) signing: Arc<KeyPair>,
    pub(super) oracle: oracle::Key,
    /// A service account of Google's.
    pub(super) google: Arc<Account>,
    /// RSA, with a certificate.
    pub(super) registered: Arc<azure::Registered>,
}

impl Keys {
    /// Random keys.
    pub(super) fn generate() -> Result<Self, String> {
        let signing = Arc::new(KeyPair::generate().map_err(|error| error.to_string())?);
        let (oracle, google) = (oracle::Key::generate()?, Arc::new(Account::generate()?));
        let registered = Arc::new(azure::Registered::generate()?);
        Ok(Self { first: random()?, second: random()?, third: random()?, signing, oracle, google, registered })
    }

    /// The files they are written to for Countersign.
    pub(super) fn files(&self) -> [(&'static str, String); 8] {
        [
            ("first", self.first.clone()),
            ("second", self.second.clone()),
            ("third", self.third.clone()),
            ("signing", self.signing.serialize_pem()),
            ("oracle-key", self.oracle.pem.clone()),
            ("oracle-fingerprint", self.oracle.fingerprint.clone()),
            ("google.json", self.google.file.clone()),
            ("azure", self.registered.pem()),
        ]
    }
}

/// A random text.
pub(super) fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| "no randomness".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
