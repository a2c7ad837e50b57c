//! The keys that say how a JWT of ours is made, wherever they stand: in `jwt`, in a client assertion, in the `jwt_bearer` grant.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{SettingsError, Setup, at, settings};
use crate::base::{Public, SecretField, SecretRef, Unavailable};
use crate::token::{Algorithm, Assertion, AssertionParts, PrivateKey, SigningKey};

/// Flexera cred/v2 `jwtBearerParams`, as far as they make the JWT.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AssertionKeys {
    /// Stands in a client assertion only, where cred/v2 wants it.
    #[serde(default, rename = "assertion_type")]
    _assertion_type: AssertionType,
    pub(super) iss: Option<Public>,
    pub(super) sub: Option<Public>,
    pub(super) aud: Option<Public>,
    pub(super) alg: Option<Algorithm>,
    /// PEM.
    pub(super) signing_key: Option<SecretField>,
    pub(super) signing_key_password: Option<SecretField>,
    #[serde(default)]
    pub(super) additional_claims: Map<String, Value>,
    #[serde(default)]
    pub(super) jwt_headers: Map<String, Value>,
    pub(super) include_jti: Option<bool>,
    pub(super) max_minutes: Option<u32>,
    /// How far in the past `iat` lies, for servers whose clock is behind.
    #[serde(default, deserialize_with = "crate::base::duration::deserialize_option")]
    pub(super) backdate: Option<Duration>,
}

/// There is one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AssertionType {
    #[default]
    JwtBearer,
}

/// Who says it, of whom and to whom.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) audience: Option<String>,
}

impl AssertionKeys {
    const NAMES: [&str; 11] = [
        "iss",
        "sub",
        "aud",
        "alg",
        "signing_key",
        "signing_key_password",
        "additional_claims",
        "jwt_headers",
        "include_jti",
        "max_minutes",
        "backdate",
    ];

    /// Takes these keys out of a credential's own, among which they stand: `serde(flatten)` would lose the paths of errors.
    pub(super) fn among(value: &mut Value) -> Result<Self, SettingsError> {
        let Some(all) = value.as_object_mut() else { return Ok(Self::default()) };
        let own = Self::NAMES.iter().filter_map(|name| all.remove_entry(*name));
        settings(Value::Object(own.collect()))
    }

    /// Which of them are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &'static str> {
        let written = [
            self.iss.is_some(),
            self.sub.is_some(),
            self.aud.is_some(),
            self.alg.is_some(),
            self.signing_key.is_some(),
            self.signing_key_password.is_some(),
            !self.additional_claims.is_empty(),
            !self.jwt_headers.is_empty(),
            self.include_jti.is_some(),
            self.max_minutes.is_some(),
            self.backdate.is_some(),
        ];
        Self::NAMES.into_iter().zip(written).filter_map(|(name, written)| written.then_some(name))
    }

    /// `path` is where they stand, up to and with the last dot.
    pub(super) fn check(&self, path: &str) -> Result<(), SettingsError> {
        let wrong = |key: &str, why: &str| Err(at(format!("{path}{key}"), why));
        if self.max_minutes.is_some_and(|minutes| !(1..=1440).contains(&minutes)) {
            return wrong("max_minutes", "from 1 to 1440");
        }
        if self.backdate.is_some_and(|backdate| backdate >= self.lifetime()) {
            return wrong("backdate", "it is part of the lifetime (`max_minutes`), and has to leave some of it");
        }
        for (key, values) in [("additional_claims", &self.additional_claims), ("jwt_headers", &self.jwt_headers)] {
            if let Some((name, _)) = values.iter().find(|(_, value)| looks_like_a_reference(value)) {
                let why = "it is sent as it is written here; references are not read";
                return wrong(&format!("{key}.{name}"), why);
            }
        }
        if let Some(name) = ["crit", "b64"].into_iter().find(|name| self.jwt_headers.contains_key(*name)) {
            let why = "extensions of JWS that must be understood are not spoken here";
            return wrong(&format!("jwt_headers.{name}"), why);
        }
        Ok(())
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let public = [&self.iss, &self.sub, &self.aud].into_iter().flatten().filter_map(Public::reference);
        let secret = [&self.signing_key, &self.signing_key_password].into_iter().flatten();
        public.chain(secret.map(SecretField::reference))
    }

    /// An hour unless said otherwise, as cred/v2 has it.
    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(self.max_minutes.unwrap_or(60)) * 60)
    }

    /// The key in `signing_key`.
    pub(super) fn private_key(&self, setup: &Setup<'_>, path: &str) -> Result<PrivateKey, Unavailable> {
        let unfit = |why: &str| Unavailable(format!("{path}signing_key: {why}"));
        let key = self.signing_key.as_ref().ok_or_else(|| unfit("there is none"))?;
        let password = self.signing_key_password.as_ref().map(|field| setup.secrets.field(field)).transpose()?;
        PrivateKey::from_pem(&setup.secrets.field(key)?, password.as_ref()).map_err(|why| unfit(&why))
    }

    /// What `iss`, `sub` and `aud` say; `otherwise` fills in for those that are empty or not written.
    pub(super) fn claims(&self, setup: &Setup<'_>, otherwise: Claims) -> Result<Claims, Unavailable> {
        let said = |field: &Option<Public>, otherwise: Option<String>| -> Result<_, Unavailable> {
            let text = field.as_ref().map(|field| setup.secrets.public(field)).transpose()?;
            Ok(text.filter(|text| !text.is_empty()).or(otherwise))
        };
        Ok(Claims {
            issuer: said(&self.iss, otherwise.issuer)?,
            subject: said(&self.sub, otherwise.subject)?,
            audience: said(&self.aud, otherwise.audience)?,
        })
    }

    /// What makes the JWTs. Whether each has a `jti` is `include_jti` unless a key says so.
    pub(super) fn assertion(&self, key: SigningKey, claims: Claims, include_jti: bool) -> Result<Assertion, String> {
        Assertion::new(AssertionParts {
            key,
            algorithm: self.alg,
            issuer: claims.issuer,
            subject: claims.subject,
            audience: claims.audience,
            claims: self.additional_claims.clone(),
            headers: self.jwt_headers.clone(),
            include_jti: self.include_jti.unwrap_or(include_jti),
            lifetime: self.lifetime(),
            backdate: self.backdate.unwrap_or_default(),
        })
    }
}

/// `{ env: X }` where a value is meant, however deep.
fn looks_like_a_reference(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            let named = ["env", "file", "command"].iter().any(|key| map.contains_key(*key));
            let alone = map.keys().all(|key| ["env", "file", "command", "expires"].contains(&key.as_str()));
            (named && alone) || map.values().any(looks_like_a_reference)
        }
        Value::Array(values) => values.iter().any(looks_like_a_reference),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut value: Value) -> (AssertionKeys, Value) {
        (AssertionKeys::among(&mut value).unwrap(), value)
    }

    #[test]
    fn each_key_is_taken_from_among_the_others_and_counted_as_written() {
        let all = json!({
            "iss": "i", "sub": "s", "aud": "a", "alg": "ES256", "signing_key": {"env": "K"},
            "signing_key_password": {"env": "P"}, "additional_claims": {"c": 1}, "jwt_headers": {"kid": "k"},
            "include_jti": false, "max_minutes": 5, "backdate": "60s", "token_url": "u",
        });
        let (keys, rest) = read(all);
        assert_eq!(rest, json!({"token_url": "u"}));
        assert_eq!(keys.written().collect::<Vec<_>>(), AssertionKeys::NAMES);
        assert_eq!(keys.references().count(), 2);
        assert_eq!(read(json!({})).0.written().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_told_at_its_path() {
        let mut text = json!({"signing_key": "hunter2"});
        let error = AssertionKeys::among(&mut text).unwrap_err();
        assert_eq!(error.path, "signing_key");
        assert!(!error.message.contains("hunter2"));
        for (value, path) in [
            (json!({"max_minutes": 0}), "x.max_minutes"),
            (json!({"max_minutes": 1, "backdate": "60s"}), "x.backdate"),
            (json!({"additional_claims": {"a": [{"env": "A"}]}}), "x.additional_claims.a"),
            (json!({"jwt_headers": {"b64": false}}), "x.jwt_headers.b64"),
        ] {
            assert_eq!(read(value).0.check("x.").unwrap_err().path, path);
        }
        assert!(read(json!({"max_minutes": 2, "backdate": "60s"})).0.check("").is_ok());
    }
}
