//! What the demo shows: one case for each way a scheme can authenticate. A new scheme adds its cases here and its verifier
//! in `api.rs`.

use std::sync::Arc;

use aws_lc_rs::rand;
use rcgen::KeyPair;

/// The name of the demo's API; it is resolved to loopback by the demo's own configuration.
pub(super) const HOST: &str = "api.demo.test";

/// The name of the demo's identity provider, and its token endpoint.
pub(super) const LOGIN_HOST: &str = "login.demo.test";
pub(super) const TOKEN_URL: &str = "https://login.demo.test/token";

/// One exchange.
pub(super) struct Case {
    pub(super) id: &'static str,
    pub(super) scheme: &'static str,
    pub(super) about: &'static str,
    pub(super) path: &'static str,
    /// The credential's own keys as YAML, `FOLDER` standing for where the keys are.
    pub(super) settings: &'static str,
}

pub(super) static CASES: &[Case] = &[
    Case {
        id: "bearer",
        scheme: "api_key",
        about: "a key in the Authorization header",
        path: "/bearer",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n",
    },
    Case {
        id: "two-headers",
        scheme: "api_key",
        about: "two keys in two headers of their own",
        path: "/two-headers",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    field: X-Api-Key\n    type: \"\"\n    \
                   additional: [{ field: X-Application-Key, key: { file: FOLDER/second } }]\n",
    },
    Case {
        id: "query",
        scheme: "api_key",
        about: "a key in the query",
        path: "/query",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    location: query\n    field: api_key\n",
    },
    Case {
        id: "cookie",
        scheme: "api_key",
        about: "a key in a cookie",
        path: "/cookie",
        settings: "    scheme: api_key\n    key: { file: FOLDER/first }\n    location: cookie\n    field: session\n",
    },
    Case {
        id: "basic",
        scheme: "basic",
        about: "user name and password",
        path: "/basic",
        settings: "    scheme: basic\n    username: demo\n    password: { file: FOLDER/second }\n",
    },
    Case {
        id: "client-credentials",
        scheme: "oauth2",
        about: "an access token for client credentials",
        path: "/oauth2/client_credentials",
        settings: "    scheme: oauth2\n    grant_type: client_credentials\n    token_url: https://login.demo.test/token\n    \
                   client_id: demo\n    client_secret: { file: FOLDER/second }\n",
    },
    Case {
        id: "refresh-token",
        scheme: "oauth2",
        about: "an access token for a refresh token, which is replaced and kept",
        path: "/oauth2/refresh_token",
        settings: "    scheme: oauth2\n    grant_type: refresh_token\n    token_url: https://login.demo.test/token\n    \
                   token: { file: FOLDER/third }\n",
    },
    Case {
        id: "jwt-bearer",
        scheme: "oauth2",
        about: "an access token for an assertion signed with a private key",
        path: "/oauth2/jwt_bearer",
        settings: "    scheme: oauth2\n    grant_type: jwt_bearer\n    token_url: https://login.demo.test/token\n    \
                   iss: demo\n    signing_key: { file: FOLDER/signing }\n",
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
}

impl Keys {
    /// Random keys.
    pub(super) fn generate() -> Result<Self, String> {
        let signing = Arc::new(KeyPair::generate().map_err(|error| error.to_string())?);
        Ok(Self { first: random()?, second: random()?, third: random()?, signing })
    }

    /// The files they are written to for Countersign.
    pub(super) fn files(&self) -> [(&'static str, String); 4] {
        [
            ("first", self.first.clone()),
            ("second", self.second.clone()),
            ("third", self.third.clone()),
            ("signing", self.signing.serialize_pem()),
        ]
    }
}

/// A random text.
pub(super) fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| "no randomness".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
