//! Where secret bytes rest, and how they are read: environment, file, command, and the secret stores that the operator
//! has configured.
//!
//! **Never prints, logs or returns a secret as text; never keeps one longer than it takes to hand it over, what a store
//! gave excepted, which is kept for its refresh time and its grace.**

mod command;

pub use command::run;

use std::fmt;
use std::sync::Arc;

use crate::base::{BoxFuture, Deps, Lifetime, Secret, SecretRef, Secrets, StoreRef, Unavailable};

/// A secret file larger than this is a mistake (a log, a disk image), not a key.
const MAX_SECRET_BYTES: u64 = 1024 * 1024;

/// The secret stores that the operator has configured, by their names.
pub trait SecretStores: Send + Sync + fmt::Debug {
    /// A secret of a store, and for how long it is good.
    ///
    /// # Errors
    /// When there is no such store or secret, or the store cannot be reached and what was read last is too old.
    fn load<'a>(&'a self, reference: &'a StoreRef) -> BoxFuture<'a, Result<(Secret, Lifetime), Unavailable>>;
}

/// Reads what references name.
#[derive(Debug, Clone)]
pub struct Sources {
    deps: Deps,
    stores: Option<Arc<dyn SecretStores>>,
}

impl Sources {
    /// Sources that read this outside, and no secret store.
    pub fn new(deps: Deps) -> Self {
        Self { deps, stores: None }
    }

    /// The same with these secret stores.
    #[must_use]
    pub fn with_stores(self, stores: Arc<dyn SecretStores>) -> Self {
        Self { stores: Some(stores), ..self }
    }

    /// Whether both read the same secret stores.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.stores, &other.stores) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The secret behind a reference, and for how long it is good, if it ends at all.
    ///
    /// # Errors
    /// When the variable is not set, the file cannot be read, the command or the store fails, or what it gives is empty.
    pub async fn load(&self, reference: &SecretRef) -> Result<(Secret, Option<Lifetime>), Unavailable> {
        let mut lifetime = reference.expires().map(Lifetime::ending);
        let secret = match reference {
            SecretRef::Env { env } => self
                .deps
                .environment
                .variable(env)
                .map(|value| Secret::new(value.into_bytes()))
                .ok_or_else(|| Unavailable(format!("environment variable {env} is not set"))),
            SecretRef::File { file } => read_file(file).await,
            SecretRef::Command { command, .. } => command::run(command).await,
            SecretRef::Store(stored) => match &self.stores {
                Some(stores) => stores.load(stored).await.map(|(secret, good)| {
                    lifetime = Some(good);
                    secret
                }),
                None => Err(Unavailable(format!("there is no store {}; list it under `secret_stores`", stored.store))),
            },
            SecretRef::Sealed { .. } => Err(Unavailable(format!("{reference} is not in the encrypted store"))),
        }?;
        if secret.is_empty() {
            return Err(Unavailable(format!("{reference} is empty")));
        }
        Ok((secret, lifetime))
    }

    /// Loads several references, each once.
    pub async fn load_all<'a>(&self, references: impl IntoIterator<Item = &'a SecretRef>) -> Secrets {
        let mut secrets = Secrets::default();
        self.load_into(&mut secrets, references).await;
        secrets
    }

    /// Loads those of several references that are not loaded yet.
    pub async fn load_into<'a>(&self, secrets: &mut Secrets, references: impl IntoIterator<Item = &'a SecretRef>) {
        for reference in references {
            if secrets.contains(reference) {
                continue;
            }
            let outcome = self.load(reference).await.map(|(secret, lifetime)| {
                lifetime.into_iter().for_each(|lifetime| secrets.ends(reference.clone(), lifetime));
                secret
            });
            secrets.insert(reference.clone(), outcome);
        }
    }
}

/// The content of a file, without one trailing line end.
///
/// # Errors
/// When it cannot be read or is larger than 1 MiB.
pub async fn read_file(path: &std::path::Path) -> Result<Secret, Unavailable> {
    let failed = |error: std::io::Error| Unavailable(format!("file {}: {error}", path.display()));
    // A pipe or a device would keep the reader waiting, or never end.
    let found = tokio::fs::metadata(path).await.map_err(failed)?;
    if !found.is_file() {
        return Err(Unavailable(format!("file {} is not a file", path.display())));
    }
    if found.len() > MAX_SECRET_BYTES {
        return Err(Unavailable(format!("file {} is larger than 1 MiB", path.display())));
    }
    tokio::fs::read(path).await.map(Secret::from_text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Environment;

    #[derive(Debug)]
    struct Variables;

    impl Environment for Variables {
        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "KEY" => Some("k".into()),
                "EMPTY" => Some(String::new()),
                _ => None,
            }
        }
    }

    fn sources() -> Sources {
        Sources::new(Deps { environment: Arc::new(Variables), ..Deps::system() })
    }

    #[tokio::test]
    async fn an_environment_variable_is_read_and_a_missing_or_empty_one_is_named() {
        let load = |env: &str| {
            let reference = SecretRef::Env { env: env.into() };
            async move { sources().load(&reference).await }
        };
        assert_eq!(load("KEY").await.unwrap().0.expose(), b"k");
        assert_eq!(load("GONE").await.unwrap_err().0, "environment variable GONE is not set");
        assert_eq!(load("EMPTY").await.unwrap_err().0, "environment variable EMPTY is empty");
    }

    #[tokio::test]
    async fn a_file_is_read_without_its_last_line_end_and_a_missing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "k\n").unwrap();
        assert_eq!(sources().load(&SecretRef::File { file: file.clone() }).await.unwrap().0.expose(), b"k");
        let gone = SecretRef::File { file: directory.path().join("gone") };
        assert!(sources().load(&gone).await.unwrap_err().0.contains("gone"));
    }
}
