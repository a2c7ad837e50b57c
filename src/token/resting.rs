//! A secret whose owner replaces it where it rests: what is in a file is read again at every exchange.

use std::path::PathBuf;

use super::failure::{Failure, FailureKind};
use crate::base::{Secret, SecretRef, Secrets, Unavailable};

/// Where a secret is when a token is obtained.
#[derive(Debug, Clone)]
pub enum Resting {
    /// Here, for as long as the configuration is loaded.
    Held(Secret),
    /// In a file.
    File(PathBuf),
}

impl Resting {
    /// What a reference names.
    ///
    /// # Errors
    /// When it could not be loaded.
    pub fn of(reference: &SecretRef, secrets: &Secrets) -> Result<Self, Unavailable> {
        let loaded = secrets.get(reference)?;
        Ok(match reference {
            SecretRef::File { file } => Self::File(file.clone()),
            // What a store gave is loaded again by whoever keeps the credential, which is then built anew.
            _ => Self::Held(loaded),
        })
    }

    /// The secret as it is now.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when the file cannot be read or is empty.
    pub async fn read(&self) -> Result<Secret, Failure> {
        let path = match self {
            Self::Held(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let unavailable = |why: String| Failure::new(FailureKind::Unavailable, why);
        let secret = crate::source::read_file(path).await.map_err(|error| unavailable(error.to_string()))?;
        if secret.is_empty() {
            return Err(unavailable(format!("file {} is empty", path.display())));
        }
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_anew_and_what_is_held_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let resting = Resting::File(file.clone());
        for content in ["first", "second\n"] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(resting.read().await.unwrap().expose(), content.trim().as_bytes());
        }
        std::fs::write(&file, "").unwrap();
        assert!(resting.read().await.unwrap_err().detail.contains("is empty"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(resting.read().await.unwrap_err().kind, FailureKind::Unavailable);
        let reference = SecretRef::Env { env: "T".into() };
        let secrets = [(reference.clone(), Secret::new("held"))].into_iter().collect();
        assert_eq!(Resting::of(&reference, &secrets).unwrap().read().await.unwrap().expose(), b"held");
    }
}
