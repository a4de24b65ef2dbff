//! Public keys.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::comment::{self, UNTRUSTED};
use super::error::KeyError;
use super::key_id::KeyId;

/// Size of the largest key file in bytes; those of minisign have about 220.
pub const MAX_KEY_FILE: usize = 1024;
/// The only algorithm of keys: Ed25519.
pub(super) const ALGORITHM: [u8; 2] = *b"Ed";

/// An Ed25519 key that verifies signatures; its text is the base64 line of a `.pub` file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    pub(super) id: KeyId,
    pub(super) key: [u8; 32],
}

impl PublicKey {
    /// Reads the content of a `.pub` file.
    pub fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let line = key_line(file)?;
        let bytes =
            comment::read_base64(line).map_err(|fault| KeyError::BadLine { line: 2, fault })?;
        PublicKey::from_bytes(&bytes)
    }

    /// The id, which no signature covers.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Content of a `.pub` file.
    pub fn to_file(&self) -> String {
        format!("{UNTRUSTED}minisign public key {}\n{self}\n", self.id)
    }

    /// Whether both are the same key, perhaps under two ids.
    pub fn is_same_key(&self, other: &PublicKey) -> bool {
        self.key == other.key
    }

    /// Checks one Ed25519 signature.
    pub(super) fn accepts(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(message, signature).is_ok()
    }

    fn from_bytes(bytes: &[u8; 42]) -> Result<Self, KeyError> {
        let (algorithm, rest) = bytes.split_at(ALGORITHM.len());
        if algorithm != ALGORITHM {
            return Err(KeyError::Algorithm);
        }
        let mut id = [0; 8];
        let mut key = [0; 32];
        id.copy_from_slice(&rest[..8]);
        key.copy_from_slice(&rest[8..]);
        Ok(PublicKey { id: KeyId(id), key })
    }
}

/// The second line of a key file, of a file that has two and a comment in the first.
pub(super) fn key_line(file: &[u8]) -> Result<&[u8], KeyError> {
    if file.len() > MAX_KEY_FILE {
        return Err(KeyError::LongFile { limit: MAX_KEY_FILE });
    }
    let file = file.strip_suffix(b"\n").unwrap_or(file);
    let [first, second] = file.split(|&byte| byte == b'\n').collect::<Vec<_>>()[..] else {
        return Err(KeyError::NotTwoLines);
    };
    comment::read_comment(first, UNTRUSTED)
        .map_err(|fault| KeyError::BadLine { line: 1, fault })?;
    Ok(second)
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 42];
        bytes[..2].copy_from_slice(&ALGORITHM);
        bytes[2..10].copy_from_slice(&self.id.0);
        bytes[10..].copy_from_slice(&self.key);
        f.write_str(&comment::base64(&bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = comment::read_base64(text.as_bytes())
            .map_err(|fault| KeyError::BadLine { line: 1, fault })?;
        PublicKey::from_bytes(&bytes)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
