//! What the demo shows: one case for each way a scheme can authenticate. A new scheme adds its cases here and its verifier
//! in `api.rs`.

use aws_lc_rs::rand;

/// The name of the demo's API; it is resolved to loopback by the demo's own configuration.
pub(super) const HOST: &str = "api.demo.test";

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
];

/// Keys made for one run.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) first: String,
    pub(super) second: String,
}

impl Keys {
    /// Random keys.
    pub(super) fn generate() -> Result<Self, String> {
        let key = || {
            let mut bytes = [0; 16];
            rand::fill(&mut bytes).map_err(|_| "no randomness".to_owned())?;
            Ok::<_, String>(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        Ok(Self { first: key()?, second: key()? })
    }

    /// The files they are written to for Countersign.
    pub(super) fn files(&self) -> [(&'static str, &str); 2] {
        [("first", &self.first), ("second", &self.second)]
    }
}
