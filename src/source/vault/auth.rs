//! `auth`: how we log in to Vault, as the credential that it describes.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::settings::{Common, Implied, StoreError, at};
use super::{check_path, encoded};
use crate::base::{Destination, Public, SecretField};

/// Where Kubernetes puts a pod's own token.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// One way to log in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    approle: Option<AppRole>,
    kubernetes: Option<Kubernetes>,
    jwt: Option<Jwt>,
    token: Option<SecretField>,
    /// With `token`: it is renewed in time.
    #[serde(default)]
    renew: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppRole {
    #[serde(rename = "role_id")]
    _role_id: Public,
    /// None for a role that asks for none (`bind_secret_id: false`).
    #[serde(rename = "secret_id")]
    _secret_id: Option<SecretField>,
    mount: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kubernetes {
    #[serde(rename = "role")]
    _role: Public,
    /// The pod's own unless it is given.
    #[serde(rename = "token")]
    _token: Option<SecretField>,
    mount: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwt {
    #[serde(rename = "role")]
    _role: Option<Public>,
    #[serde(rename = "jwt")]
    _jwt: SecretField,
    mount: Option<String>,
}

impl Auth {
    /// Whether its tokens are made for us alone.
    pub(super) fn logs_in(&self) -> bool {
        self.token.is_none()
    }

    /// The credential that it describes. `written` is the section as it was written, for its references.
    ///
    /// # Errors
    /// When it is no way or more than one.
    pub(super) fn implied(
        &self,
        written: Option<Value>,
        address: &str,
        endpoint: &Destination,
        namespace: Option<&str>,
        common: &Common,
    ) -> Result<Implied, StoreError> {
        let mut written = written.unwrap_or_default();
        let ways = [self.approle.is_some(), self.kubernetes.is_some(), self.jwt.is_some(), self.token.is_some()];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            return Err(at("auth", "one of approle, kubernetes, jwt and token"));
        }
        if self.renew && self.token.is_none() {
            return Err(at("auth.renew", "it goes with `token`"));
        }
        let hosts = vec![format!("{}:{}", endpoint.host(), endpoint.port())];
        let mut headers = json!({});
        if let Some(namespace) = namespace {
            headers["X-Vault-Namespace"] = namespace.into();
        }
        let (path, body, way): (_, _, &'static str) = if let Some(role) = &self.approle {
            let how = &mut written["approle"];
            let mut body = json!({"role_id": how["role_id"].take()});
            if !how["secret_id"].is_null() {
                body["secret_id"] = how["secret_id"].take();
            }
            (login(role.mount.as_deref(), "approle")?, body, "auth.approle")
        } else if let Some(pod) = &self.kubernetes {
            let how = &mut written["kubernetes"];
            let given = Some(how["token"].take()).filter(|token| !token.is_null());
            let token = given.unwrap_or_else(|| json!({"file": POD_TOKEN}));
            let body = json!({"role": how["role"].take(), "jwt": token});
            (login(pod.mount.as_deref(), "kubernetes")?, body, "auth.kubernetes")
        } else if let Some(jwt) = &self.jwt {
            let how = &mut written["jwt"];
            let mut body = json!({"jwt": how["jwt"].take()});
            if !how["role"].is_null() {
                body["role"] = how["role"].take();
            }
            (login(jwt.mount.as_deref(), "jwt")?, body, "auth.jwt")
        } else if self.renew {
            headers["X-Vault-Token"] = written["token"].take();
            ("auth/token/renew-self".to_owned(), json!({}), "auth.token")
        } else {
            let settings = json!({"key": written["token"].take(), "field": "X-Vault-Token", "type": ""});
            return Ok(Implied { scheme: "api_key", settings, hosts, paths: &[("", "auth.token")] });
        };
        let settings = json!({
            "login_url": format!("{address}/v1/{path}"),
            "json": body,
            "additional_headers": headers,
            "token": {"pointer": "/auth/client_token"},
            "lifetime": {"pointer": "/auth/lease_duration", "form": "seconds"},
            "inject": {"header": "X-Vault-Token"},
            // A wrong secret id is a 400.
            "rejected": [400, 401, 403],
            "expired": [401, 403],
            "allow_cleartext": common.allow_cleartext,
            "allow_addresses": if common.allow_addresses.is_null() { json!([]) } else { common.allow_addresses.clone() },
        });
        let paths: &[(&str, &str)] = match way {
            "auth.approle" => &[("", "auth.approle")],
            "auth.kubernetes" => &[("", "auth.kubernetes")],
            "auth.jwt" => &[("", "auth.jwt")],
            _ => &[("", "auth.token")],
        };
        Ok(Implied { scheme: "login", settings, hosts, paths })
    }
}

fn login(mount: Option<&str>, usual: &str) -> Result<String, StoreError> {
    let mount = mount.unwrap_or(usual);
    check_path(mount).map_err(|why| at(format!("auth.{usual}.mount"), why))?;
    Ok(format!("auth/{}/login", encoded(mount)))
}
