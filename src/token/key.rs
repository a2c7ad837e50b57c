//! The key of a token: a digest of every input that changes it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// Two credentials share a token only if every input is the same, the account and the credential included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The digest.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest in hexadecimal, for file names.
    pub fn hex(&self) -> String {
        crate::base::text::hex(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A few digits tell keys apart; the whole digest would let a short secret be guessed.
        write!(f, "Key({}…)", &self.hex()[..8])
    }
}

/// Collects the inputs. Each is written with its name and length, so that no two sets of inputs read alike.
pub struct KeyBuilder(Context);

impl KeyBuilder {
    /// Begins with the account and the credential, which always belong to a key.
    pub fn new(account: &str, credential: &str) -> Self {
        Self(Context::new(&SHA256)).with("account", account).with("credential", credential)
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds an input that may be absent, which is not the same as empty.
    #[must_use]
    pub fn with_option(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The key.
    pub fn finish(self) -> Key {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        Key(digest)
    }
}

impl fmt::Debug for KeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBuilder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_key_and_inputs_cannot_run_into_each_other() {
        let base = || KeyBuilder::new("default", "c").with("secret", "s");
        let keys = [
            base().finish(),
            base().with("scope", "a").finish(),
            base().with("scope", "").finish(),
            base().with_option("scope", None::<&str>).with("a", "scope").finish(),
            KeyBuilder::new("other", "c").with("secret", "s").finish(),
            KeyBuilder::new("default", "cs").with("ecret", "s").finish(),
            KeyBuilder::new("default", "c").with("secret", "S").finish(),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{index}");
        }
        assert_eq!(keys[0], base().with_option("scope", None::<&str>).finish());
    }

    #[test]
    fn debug_shows_a_few_digits_only() {
        assert_eq!(
            format!("{:?}", KeyBuilder::new("a", "b").finish()).chars().count(),
            "Key(12345678…)".chars().count()
        );
    }
}
