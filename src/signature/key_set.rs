//! The keys that a node trusts.

use super::error::{KeyError, KeyFileError};
use super::public_key::PublicKey;

/// Right of a key to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Catalogs and heads.
    Publish,
    /// Heads only.
    Head,
}

/// Trusted keys by role, and revoked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    publish: Vec<PublicKey>,
    head: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

impl KeySet {
    /// A set without keys.
    pub fn new() -> Self {
        KeySet::default()
    }

    /// Trusts the key of a `.pub` file; the name is for the error.
    pub fn add(&mut self, role: Role, name: &str, file: &[u8]) -> Result<(), KeyFileError> {
        self.insert(role, parse(name, file)?);
        Ok(())
    }

    /// Revokes the key of a `.pub` file, whether it was or will be trusted for a role.
    pub fn revoke(&mut self, name: &str, file: &[u8]) -> Result<(), KeyFileError> {
        self.insert_revoked(parse(name, file)?);
        Ok(())
    }

    /// Trusts a key.
    pub fn insert(&mut self, role: Role, key: PublicKey) {
        let keys = match role {
            Role::Publish => &mut self.publish,
            Role::Head => &mut self.head,
        };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// Revokes a key.
    pub fn insert_revoked(&mut self, key: PublicKey) {
        if !self.revoked.contains(&key) {
            self.revoked.push(key);
        }
    }

    /// Keys that may sign catalogs.
    pub fn publish_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.publish.iter().filter(|key| !self.is_revoked(key))
    }

    /// Keys that may sign heads: those for heads and those for catalogs.
    pub fn head_keys(&self) -> impl Iterator<Item = &PublicKey> {
        let keys = self.head.iter().chain(&self.publish);
        keys.filter(|key| !self.is_revoked(key))
    }

    /// Keys that never count.
    pub fn revoked_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.revoked.iter()
    }

    /// Whether any key was added, of any role.
    ///
    /// A revocation of the last key must not switch the verification off, nor must its removal from
    /// the trusted ones.
    pub fn requires_signature(&self) -> bool {
        [&self.publish, &self.head, &self.revoked].iter().any(|keys| !keys.is_empty())
    }

    /// Keys that may sign a text of this role.
    pub(super) fn trusted(&self, role: Role) -> Vec<&PublicKey> {
        match role {
            Role::Publish => self.publish_keys().collect(),
            Role::Head => self.head_keys().collect(),
        }
    }

    fn is_revoked(&self, key: &PublicKey) -> bool {
        self.revoked.iter().any(|revoked| revoked.is_same_key(key))
    }
}

fn parse(name: &str, file: &[u8]) -> Result<PublicKey, KeyFileError> {
    let named = |source: KeyError| KeyFileError { name: name.to_owned(), source };
    PublicKey::parse(file).map_err(named)
}
