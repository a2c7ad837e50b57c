//! The `traces` section.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::base::{ClientOptions, Destination, Protocol, Public, SecretRef, Secrets};

/// Where an address without a path is called, as OTLP/HTTP has it.
const USUAL_PATH: &str = "/v1/traces";

/// The `traces` section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where traces are posted.
    pub endpoint: Endpoint,
    /// Further headers of each call: a tenant's name, or a reference to what proves us.
    #[serde(default)]
    headers: BTreeMap<String, Public>,
    /// Which part of the traces that begin here is kept, from 0 to 1. Of others the caller decides.
    #[serde(default = "all", deserialize_with = "ratio")]
    pub ratio: f64,
    /// What we are called there.
    #[serde(default = "name")]
    pub service_name: String,
    /// For one call, from its first byte to the last of the answer: spans wait behind a collector that needs longer.
    #[serde(default = "patience", deserialize_with = "crate::base::duration::deserialize")]
    pub timeout: Duration,
    /// What proves us may travel unencrypted.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses that are normally refused and that the collector may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
}

fn all() -> f64 {
    1.0
}

fn name() -> String {
    "countersign".into()
}

fn patience() -> Duration {
    Duration::from_secs(10)
}

fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(de::Error::custom("a part of all: from 0 to 1")) }
}

/// An address that is called: a destination and a path.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    destination: Destination,
    path: String,
}

impl Endpoint {
    /// Whom it names.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// All of it.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.destination.protocol().as_str(), self.destination.authority(), self.path)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| error.to_string())?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an address without `?` and `#`; what proves us goes into `headers`".into());
        }
        let destination = Destination::from_upstream(text).map_err(|refusal| refusal.detail.into_owned())?;
        let path = if url.path() == "/" { USUAL_PATH } else { url.path() };
        Ok(Self { destination, path: path.to_owned() })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Settings {
    /// The references that must be loaded before [`Settings::headers`].
    pub fn references(&self) -> Vec<&SecretRef> {
        self.headers.values().filter_map(Public::reference).collect()
    }

    /// What is wrong with it, each with its key.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        for (name, value) in &self.headers {
            let key = format!("headers.{name}");
            let Ok(header) = HeaderName::try_from(name.as_str()) else {
                wrong.push((key, "not the name of a header".into()));
                continue;
            };
            if is_the_calls_own(&header) {
                wrong.push((key, "this header belongs to the call".into()));
            } else if let Public::Literal(text) = value {
                if is_proof(&header) {
                    wrong.push((
                        key,
                        "a secret does not stand in this file; write { env: NAME } or { file: PATH }".into(),
                    ));
                } else if HeaderValue::try_from(text.as_str()).is_err() {
                    wrong.push((key, "not the value of a header".into()));
                }
            }
        }
        let secret = !self.references().is_empty();
        if secret && self.endpoint.destination.protocol() == Protocol::Http && !self.allow_cleartext {
            let why = "what proves us would travel unencrypted; use https, or set `allow_cleartext: true` beside it";
            wrong.push(("endpoint".into(), why.into()));
        }
        wrong
    }

    /// What the client of the endpoint is made with.
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions {
            allow_addresses: self.allow_addresses.clone(),
            timeout: Some(self.timeout),
            ..ClientOptions::default()
        }
    }

    /// The headers, with what their references gave.
    ///
    /// # Errors
    /// Why one has no value, with its key.
    pub fn headers(&self, secrets: &Secrets) -> Result<HeaderMap, (String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let at = |why: String| (format!("headers.{name}"), why);
            let text = secrets.public(value).map_err(|error| at(error.0))?;
            let header = HeaderName::try_from(name.as_str()).map_err(|_| at("not the name of a header".into()))?;
            let mut content = HeaderValue::try_from(text).map_err(|_| at("it does not fit into a header".into()))?;
            content.set_sensitive(value.reference().is_some());
            headers.insert(header, content);
        }
        Ok(headers)
    }
}

/// What the call itself sets, or a proxy reads.
fn is_the_calls_own(name: &HeaderName) -> bool {
    const OWN: [&str; 9] = [
        "host",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "content-type",
        "content-length",
        "transfer-encoding",
    ];
    OWN.contains(&name.as_str()) || name.as_str() == "content-encoding" || name.as_str().starts_with("proxy-")
}

/// Headers whose value proves somebody, by their names.
fn is_proof(name: &HeaderName) -> bool {
    ["auth", "key", "token", "secret", "cookie", "password"].iter().any(|word| name.as_str().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(value: serde_json::Value) -> Result<Settings, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn wrong(value: serde_json::Value) -> String {
        match settings(value) {
            Ok(settings) => settings.check().into_iter().map(|(key, why)| format!("{key}: {why}")).collect(),
            Err(why) => why,
        }
    }

    #[test]
    fn an_endpoint_without_a_path_has_the_usual_one_and_the_rest_its_defaults() {
        let bare = settings(serde_json::json!({ "endpoint": "https://collector.test:4318" })).unwrap();
        assert_eq!(bare.endpoint.url(), "https://collector.test:4318/v1/traces");
        assert_eq!((bare.ratio, &*bare.service_name, bare.timeout), (1.0, "countersign", Duration::from_secs(10)));
        let own =
            settings(serde_json::json!({ "endpoint": "https://collector.test/otlp/v1/traces", "ratio": 0 })).unwrap();
        assert_eq!((own.endpoint.url().as_str(), own.ratio), ("https://collector.test/otlp/v1/traces", 0.0));
        assert!(own.check().is_empty());
    }

    #[test]
    fn a_secret_rests_elsewhere_and_does_not_travel_unencrypted_unless_that_is_allowed() {
        let proof = serde_json::json!({ "authorization": { "env": "T" } });
        let over = |url: &str, allowed: bool| {
            wrong(serde_json::json!({ "endpoint": url, "headers": proof, "allow_cleartext": allowed }))
        };
        assert_eq!(over("https://c.test", false), "");
        assert!(over("http://c.test", false).contains("allow_cleartext"));
        assert_eq!(over("http://c.test", true), "");
        let plain = |name: &str| wrong(serde_json::json!({ "endpoint": "http://c.test", "headers": { name: "t1" } }));
        assert_eq!(plain("x-scope-orgid"), "");
        assert!(plain("authorization").contains("{ env: NAME }") && plain("x-api-key").contains("{ env: NAME }"));
    }

    #[test]
    fn what_is_no_address_no_part_and_no_header_is_refused() {
        for value in [
            serde_json::json!({}),
            serde_json::json!({ "endpoint": "collector.test:4318" }),
            serde_json::json!({ "endpoint": "https://user:password@collector.test" }),
            serde_json::json!({ "endpoint": "https://collector.test/?token=t" }),
            serde_json::json!({ "endpoint": "https://collector.test", "ratio": 1.5 }),
            serde_json::json!({ "endpoint": "https://collector.test", "ratio": -1 }),
            serde_json::json!({ "endpoint": "https://collector.test", "timeout": 10 }),
            serde_json::json!({ "endpoint": "https://collector.test", "headers": { "host": "x" } }),
            serde_json::json!({ "endpoint": "https://collector.test", "headers": { "no header": "x" } }),
            serde_json::json!({ "endpoint": "https://collector.test", "sampler": "x" }),
        ] {
            assert_ne!(wrong(value.clone()), "", "{value}");
        }
    }
}
