//! Where secret bytes rest, and how they are read: environment, file, command, and the secret stores that the operator
//! has configured.
//!
//! **Never prints, logs or returns a secret as text; never keeps one longer than it takes to hand it over, what a store
//! gave excepted, which is kept for its refresh time and its grace.**

mod aws_secrets_manager;
mod azure_key_vault;
mod cache;
mod command;
mod content;
mod line;
mod settings;
mod stores;
#[cfg(test)]
mod testing;
mod transit;
mod vault;

pub use command::run;
pub use content::{Content, Reading};
pub use settings::{Implied, StoreError, StoreSettings};
pub use stores::Stores;
pub use transit::TransitClient;

use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt;

use crate::base::{BoxFuture, Deps, Lifetime, Secret, SecretRef, Secrets, StoreRef, Unavailable};

/// A secret file larger than this is a mistake (a log, a disk image), not a key.
const MAX_SECRET_BYTES: u64 = 1024 * 1024;

/// So many secrets of stores are read at a time.
const READ_AT_ONCE: usize = 16;

/// The secret stores that the operator has configured, by their names.
pub trait SecretStores: Send + Sync + fmt::Debug {
    /// A secret of a store with all its fields, and for how long it is good. What the reference says of a field is not
    /// looked at.
    ///
    /// # Errors
    /// When there is no such store or secret, or the store cannot be reached and what was read last is too old.
    fn read<'a>(&'a self, reference: &'a StoreRef) -> BoxFuture<'a, Result<Reading, Unavailable>>;
}

fn no_store(name: &str) -> Unavailable {
    Unavailable(format!("there is no store {name}; list it under `secret_stores`"))
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
            SecretRef::Store(stored) => {
                let stores = self.stores.as_ref().ok_or_else(|| no_store(&stored.store))?;
                let reading = stores.read(stored).await?;
                lifetime = Some(reading.lifetime);
                reading.field(stored)
            }
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

    /// Loads those of several references that are not loaded yet. Fields of one secret of a store are of one reading: a
    /// user name never goes with the password that came after it.
    pub async fn load_into<'a>(&self, secrets: &mut Secrets, references: impl IntoIterator<Item = &'a SecretRef>) {
        let mut stored: Vec<&'a StoreRef> = Vec::new();
        for reference in references {
            if secrets.contains(reference) {
                continue;
            }
            if let SecretRef::Store(one) = reference {
                if !stored.contains(&&**one) {
                    stored.push(one);
                }
                continue;
            }
            let outcome = self.load(reference).await.map(|(secret, lifetime)| {
                lifetime.into_iter().for_each(|lifetime| secrets.ends(reference.clone(), lifetime));
                secret
            });
            secrets.insert(reference.clone(), outcome);
        }
        let mut whole: Vec<StoreRef> = Vec::new();
        for reference in &stored {
            if !whole.iter().any(|other| is_same_secret(other, reference)) {
                whole.push((*reference).clone());
            }
        }
        let read = |reference: StoreRef| {
            let stores = self.stores.clone();
            async move {
                let reading = match stores {
                    Some(stores) => stores.read(&reference).await,
                    None => Err(no_store(&reference.store)),
                };
                (reference, reading)
            }
        };
        let readings: Vec<_> = futures_util::stream::iter(whole).map(read).buffered(READ_AT_ONCE).collect().await;
        for reference in stored {
            let reading =
                readings.iter().find(|(other, _)| is_same_secret(other, reference)).map(|(_, reading)| reading);
            let outcome = match reading {
                Some(Ok(reading)) => reading.field(reference).map(|secret| (secret, reading.lifetime)),
                Some(Err(error)) => Err(error.clone()),
                None => Err(Unavailable(format!("{reference} was not read"))),
            };
            let key = SecretRef::Store(Box::new(reference.clone()));
            let outcome = outcome.and_then(|(secret, lifetime)| {
                secrets.ends(key.clone(), lifetime);
                if secret.is_empty() { Err(Unavailable(format!("{reference} is empty"))) } else { Ok(secret) }
            });
            secrets.insert(key, outcome);
        }
    }
}

/// Whether two references differ in the field at most.
fn is_same_secret(one: &StoreRef, other: &StoreRef) -> bool {
    (&one.store, &one.name, &one.version) == (&other.store, &other.name, &other.version)
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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

    /// Gives another user name and password each time.
    #[derive(Debug, Default)]
    struct Changing(AtomicUsize);

    impl SecretStores for Changing {
        fn read<'a>(&'a self, _: &'a StoreRef) -> BoxFuture<'a, Result<Reading, Unavailable>> {
            let count = self.0.fetch_add(1, Ordering::SeqCst);
            let field = |name: &str| (name.to_owned(), Secret::new(format!("{name}-{count}")));
            let content = Content::Fields([field("username"), field("password")].into());
            let lifetime = Lifetime::ending(Duration::from_secs(10));
            Box::pin(async move { Ok(Reading { content: Arc::new(content), lifetime }) })
        }
    }

    #[tokio::test]
    async fn two_fields_of_one_secret_are_of_one_reading() {
        let reference = |field: &str| -> SecretRef {
            serde_json::from_value(serde_json::json!({"store": "v", "name": "database/creds/x", "field": field}))
                .unwrap()
        };
        let references = [reference("username"), reference("password"), reference("none")];
        let stores = Arc::new(Changing::default());
        let sources = sources().with_stores(Arc::clone(&stores) as _);
        let secrets = sources.load_all(&references).await;
        assert_eq!(secrets.get(&references[0]).unwrap().expose(), b"username-0");
        assert_eq!(secrets.get(&references[1]).unwrap().expose(), b"password-0");
        let error = secrets.get(&references[2]).unwrap_err().0;
        assert!(error.contains("there is no field none; it has password, username"), "{error}");
        assert_eq!(stores.0.load(Ordering::SeqCst), 1);
        assert!(secrets.lifetime_of(&references).is_some());
    }
}
