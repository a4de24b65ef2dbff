//! Signing on the server: key files, and programs of the site that sign.
//!
//! The key files of a node are read by `root`, not here.

// Keys belong to the server; they are not in a target tree.
#![allow(clippy::disallowed_methods)]

mod command;
mod error;
mod key_files;

pub use command::SignCommand;
pub use error::{CommandFault, SigningError};
pub use key_files::{KeyPaths, create_key_pair, read_key_dir, read_public_key, read_secret_key};

use crate::signature::{PublicKey, SecretKey, SignatureBlock, SignedText};

/// Something that signs.
#[derive(Debug)]
pub enum Signer {
    /// A key in memory.
    Key(SecretKey),
    /// A program of the site.
    Command(SignCommand),
}

impl Signer {
    /// The key that verifies the signatures; `None` if only the program knows it.
    pub fn public_key(&self) -> Option<PublicKey> {
        match self {
            Signer::Key(key) => Some(key.public_key()),
            Signer::Command(command) => command.public_key(),
        }
    }

    /// Signs a text, and the comment with it; a command may choose a comment of its own.
    pub fn sign(&self, text: &[u8], trusted_comment: &str) -> Result<SignatureBlock, SigningError> {
        match self {
            Signer::Key(key) => Ok(key.sign(text, trusted_comment)?),
            Signer::Command(command) => command.sign(text, trusted_comment),
        }
    }

    /// The text followed by its signature.
    pub fn sign_text(&self, text: &[u8], trusted_comment: &str) -> Result<Vec<u8>, SigningError> {
        // A text that cannot be divided again is refused before anything signs it.
        SignedText::join(text, &[])?;
        Ok(SignedText::join(text, &[self.sign(text, trusted_comment)?])?)
    }
}

#[cfg(test)]
mod tests;
