//! Which engine a name is of: as the settings say, or as Vault says itself, in the way of its own command line.

use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};

use super::super::line::{Line, Trouble};
use super::answer::{refused, reply};
use super::{Vault, encoded};

/// How a secret is asked for; paths are as they stand in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Engine {
    /// The key/value engine of version 2.
    Kv2 { mount: String, path: String },
    /// Whatever is read by its path: version 1, databases and the like.
    Other { path: String },
}

/// The engines of one server, as far as they are known.
#[derive(Debug)]
pub(super) struct Mounts {
    given: Option<String>,
    kv_version: Option<u8>,
    /// Those that Vault was asked about, and whether they are of version 2.
    known: Mutex<Vec<(String, bool)>>,
}

impl Mounts {
    pub(super) fn new(given: Option<String>, kv_version: Option<u8>) -> Self {
        Self { given, kv_version, known: Mutex::default() }
    }

    /// Whether names are without their engine.
    pub(super) fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// The engine of a name.
    pub(super) async fn find(&self, vault: &Vault, line: &Line, name: &str) -> Result<Engine, Trouble> {
        let whole = self.given.as_ref().map_or_else(|| name.to_owned(), |mount| format!("{mount}/{name}"));
        if let (Some(mount), Some(version)) = (&self.given, self.kv_version) {
            return Ok(engine(mount, version == 2, &whole));
        }
        if let Some((mount, versioned)) = self.known(&whole) {
            return Ok(engine(&mount, versioned, &whole));
        }
        let path = format!("sys/internal/ui/mounts/{}", encoded(&whole));
        let answer = vault.call(line, Method::GET, &path, None).await?;
        if answer.status == StatusCode::FORBIDDEN {
            let why = format!(
                "permission denied: there is no engine for {whole}, or the policy of the store's credential does not allow it"
            );
            return Err(Trouble { detail: why, ..refused(answer.status, &answer.body, &whole) });
        }
        let document = reply(&answer, &whole)?;
        let data = &document["data"];
        let mount = data["path"].as_str().unwrap_or_default().trim_matches('/').to_owned();
        if mount.is_empty() || !is_below(&whole, &mount) {
            return Err(Trouble::secret(format!("Vault does not say which engine {whole} is of; set `mount`")));
        }
        let versioned = data["type"] == "kv" && data["options"]["version"] == "2";
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| *other != mount);
        known.push((mount.clone(), versioned));
        Ok(engine(&mount, versioned, &whole))
    }

    fn known(&self, whole: &str) -> Option<(String, bool)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(mount, _)| is_below(whole, mount)).cloned()
    }
}

fn is_below(whole: &str, mount: &str) -> bool {
    whole.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
}

fn engine(mount: &str, versioned: bool, whole: &str) -> Engine {
    match whole.strip_prefix(mount).and_then(|rest| rest.strip_prefix('/')).filter(|_| versioned) {
        Some(path) => Engine::Kv2 { mount: encoded(mount), path: encoded(path) },
        None => Engine::Other { path: encoded(whole) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_versioned_engine_has_data_between_its_mount_and_the_rest() {
        let kv2 = Engine::Kv2 { mount: "teams/kv".into(), path: "a%20b/c".into() };
        assert_eq!(engine("teams/kv", true, "teams/kv/a b/c"), kv2);
        assert_eq!(engine("kv", false, "kv/a"), Engine::Other { path: "kv/a".into() });
        assert!(is_below("secret/db", "secret") && !is_below("secrets/db", "secret"));
    }
}
