//! Keys and signatures: a text that proves its author.
//!
//! A [`SignedText`] is divided strictly and without trust; [`SignedText::verify`] is the only maker
//! of an [`AuthenticText`]. No file is opened here: the caller reads keys and texts.
#![doc = include_str!("format.md")]

mod block;
mod comment;
mod encryption;
mod error;
mod key_id;
mod key_set;
mod public_key;
mod secret_key;
mod signed_text;

pub use block::SignatureBlock;
pub use encryption::Passphrase;
pub use error::{FormFault, KeyError, KeyFileError, SignatureError};
pub use key_id::KeyId;
pub use key_set::{KeySet, Role};
pub use public_key::{MAX_KEY_FILE, PublicKey};
pub use secret_key::{EncryptedKey, Protection, SecretKey, SecretKeyFile};
pub use signed_text::{AuthenticText, MAX_BLOCKS, SignedText};

#[cfg(test)]
mod tests;
