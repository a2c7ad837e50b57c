//! Secret bytes that cannot be printed by accident and are wiped when dropped.

use std::fmt;

use zeroize::Zeroizing;

/// Secret bytes. There is no `Display`, no `Serialize`, and `Debug` prints `[redacted]`;
/// [`Secret::expose`] is the only door, so that every use of the bytes can be found by its name.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes; the caller's copy is consumed.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Reads what a file, an environment variable or a command gave: one trailing line end is not part of a secret.
    pub fn from_text(mut bytes: Vec<u8>) -> Self {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::new(bytes)
    }

    /// The bytes themselves. Never hand them to a formatter.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("s3cr3t")), "[redacted]");
    }

    #[test]
    fn one_trailing_line_end_is_dropped_and_no_more() {
        assert_eq!(Secret::from_text(b"key\r\n".to_vec()).expose(), b"key");
        assert_eq!(Secret::from_text(b"key\n\n".to_vec()).expose(), b"key\n");
        assert_eq!(Secret::from_text(b" key ".to_vec()).expose(), b" key ");
    }
}
