//! `aws`: an IAM user's or a session's keys, signing with Signature Version 4 for whatever service is called.
//!
//! The fields are those of Flexera cred/v2 `aws`, with a session token and three more that say how to sign. Signing itself is
//! the room `sigv4`.

use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Draft, Fields, Foresight, Identity, Kind, Scheme, SettingsError, Setup, at, is_reserved, settings};
use crate::base::{Authorizer, Public, Refusal, RequestView, SecretField, SecretRef, Unavailable};
use crate::sigv4::{self, OWNED_HEADERS, Payload, Signer};

pub(super) const KIND: Kind = Kind {
    name: "aws",
    about: "AWS keys: requests are signed for the service and region that they are for (Signature Version 4)",
    default_hosts: DEFAULT_HOSTS,
    strangers: sigv4::is_strangers,
    narrows: NARROWS,
    fields: Fields { secret: &["secret_key", "session_token"], leading: &[], operators: &[] },
    parse: |mut value| {
        let signing = take_signing(&mut value)?;
        let keys: Keys = settings(value)?;
        if let Public::Literal(key) = &keys.access_key {
            check_access_key(key).map_err(|why| at("access_key", why))?;
        }
        Ok(Box::new(Settings { keys, signing }))
    },
};

/// By what the request says of its service and region.
pub(super) const NARROWS: Option<super::Narrows> = Some(|view| sigv4::reaches(&sigv4::Settings::default(), view));

/// The service endpoints of every partition of AWS.
pub(super) const DEFAULT_HOSTS: &[&str] = &[
    "*.amazonaws.com",
    "*.api.aws",
    "*.amazonaws.com.cn",
    "*.api.amazonwebservices.com.cn",
    "*.amazonaws.eu",
    "*.api.amazonwebservices.eu",
    "*.c2s.ic.gov",
    "*.api.aws.ic.gov",
    "*.sc2s.sgov.gov",
    "*.api.aws.scloud",
    "*.csp.hci.ic.gov",
    "*.api.aws.hci.ic.gov",
    "*.cloud.adc-e.uk",
    "*.api.cloud-aws.adc-e.uk",
];

#[derive(Debug)]
struct Settings {
    keys: Keys,
    signing: Arc<sigv4::Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    access_key: Public,
    secret_key: SecretField,
    session_token: Option<SecretField>,
}

/// How it signs: the same keys for every scheme of AWS.
#[derive(Debug, Deserialize)]
struct Signing {
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    version: Option<u8>,
    #[serde(default)]
    payload: Payload,
    #[serde(default)]
    signed_headers: Vec<String>,
}

/// Takes the keys that say how to sign out of a credential's settings, so that what is left is the scheme's own.
pub(super) fn take_signing(value: &mut Value) -> Result<Arc<sigv4::Settings>, SettingsError> {
    let mut own = Map::new();
    if let Value::Object(all) = value {
        for key in ["region", "service", "version", "payload", "signed_headers"] {
            own.extend(all.remove(key).map(|value| (key.to_owned(), value)));
        }
    }
    let Signing { region, service, version, payload, signed_headers } = settings(Value::Object(own))?;
    if version.is_some_and(|version| version != 4) {
        return Err(at("version", "4 is the version that AWS takes"));
    }
    let fixed = |key: &str, text: Option<String>| match text.filter(|text| text != "inferred") {
        None => Ok(None),
        Some(text) => {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*,".contains(&b));
            let why = || at(key, format!("`inferred`, or the {key} as it stands in signatures"));
            if plain { Ok(Some(text)) } else { Err(why()) }
        }
    };
    let mut names = Vec::new();
    for (index, name) in signed_headers.iter().enumerate() {
        let wrong = |why: &str| at(format!("signed_headers[{index}]"), why);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("not a header name"))?;
        // What proxies on the way change or remove must not be signed; host is signed anyway.
        let changes = ["user-agent", "x-amzn-trace-id", "accept-encoding", "via", "x-forwarded-for"];
        if is_reserved(&name) || OWNED_HEADERS.contains(&name) || changes.contains(&name.as_str()) {
            return Err(wrong("this header may change on its way, or is part of the signature itself"));
        }
        names.push(name);
    }
    Ok(Arc::new(sigv4::Settings {
        region: fixed("region", region)?,
        service: fixed("service", service)?,
        payload,
        signed_headers: names,
    }))
}

/// Whether a text may be an access key id.
pub(super) fn check_access_key(text: &str) -> Result<(), &'static str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if plain && (3..=128).contains(&text.len()) {
        Ok(())
    } else {
        Err("an access key id is up to 128 letters and digits")
    }
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let Keys { access_key, secret_key, session_token } = &self.keys;
        let secret = [Some(secret_key), session_token.as_ref()];
        access_key.reference().into_iter().chain(secret.into_iter().flatten().map(SecretField::reference)).collect()
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        let Keys { access_key, secret_key, session_token } = &self.keys;
        let access_key = setup.secrets.public(access_key)?;
        check_access_key(&access_key).map_err(|why| Unavailable(format!("access_key: {why}")))?;
        let secret_key = setup.secrets.field(secret_key)?;
        let token = session_token.as_ref().map(|token| setup.secrets.field(token)).transpose()?;
        let (signing, clock) = (Arc::clone(&self.signing), Arc::clone(&setup.outside.clock));
        let signer = Signer::new(&access_key, &secret_key, token.as_ref(), signing, Arc::default(), clock);
        let signer = signer.map_err(|why| Unavailable(why.to_owned()))?;
        let token = session_token.is_some();
        Ok(Arc::new(Aws { signer: Arc::new(signer), signing: Arc::clone(&self.signing), token }))
    }
}

/// What signing does, for people.
pub(super) fn foresight(signing: &sigv4::Settings, token: bool, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
    let (note, mut adds) = sigv4::foresee(signing, view)?;
    adds.extend(token.then(|| "x-amz-security-token".to_owned()));
    Ok(Foresight { adds, note: Some(note) })
}

#[derive(Debug)]
struct Aws {
    signer: Arc<dyn Authorizer>,
    signing: Arc<sigv4::Settings>,
    token: bool,
}

impl Scheme for Aws {
    fn owned_headers(&self) -> &[HeaderName] {
        &OWNED_HEADERS
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Fixed(&self.signer)
    }

    fn reaches(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        sigv4::reaches(&self.signing, view)
    }

    fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        foresight(&self.signing, self.token, view)
    }
}
