//! Signature blocks: the four lines of one signature.

use blake2::{Blake2b512, Digest as _};

use super::comment::{self, MAX_LINE, TRUSTED, UNTRUSTED};
use super::error::{FormFault, SignatureError};
use super::key_id::KeyId;
use super::public_key::PublicKey;

/// One signature of a text, and of its own trusted comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureBlock {
    pub(super) untrusted_comment: String,
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) key_id: KeyId,
    pub(super) signature: [u8; 64],
    pub(super) trusted_comment: String,
    pub(super) global_signature: [u8; 64],
}

/// Bytes that an Ed25519 signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureAlgorithm {
    /// `Ed`: the text.
    Pure,
    /// `ED`: its BLAKE2b-512 digest.
    Prehashed,
}

impl SignatureBlock {
    /// Parses exactly one block.
    pub fn parse(block: &[u8]) -> Result<Self, SignatureError> {
        let mut lines = Lines { rest: block, line: 1 };
        let parsed = SignatureBlock::read(&mut lines)?;
        if lines.rest.is_empty() {
            Ok(parsed)
        } else {
            Err(lines.bad(FormFault::ManyBlocks { limit: 1 }))
        }
    }

    /// Reads the next four lines.
    pub(super) fn read(lines: &mut Lines<'_>) -> Result<Self, SignatureError> {
        let untrusted_comment = lines.read(|line| comment::read_comment(line, UNTRUSTED))?;
        let (algorithm, key_id, signature) = lines.read(|line| {
            let bytes: [u8; 74] = comment::read_base64(line)?;
            let algorithm = match &bytes[..2] {
                b"Ed" => SignatureAlgorithm::Pure,
                b"ED" => SignatureAlgorithm::Prehashed,
                _ => return Err(FormFault::Algorithm),
            };
            let mut key_id = KeyId([0; 8]);
            let mut signature = [0; 64];
            key_id.0.copy_from_slice(&bytes[2..10]);
            signature.copy_from_slice(&bytes[10..]);
            Ok((algorithm, key_id, signature))
        })?;

        Ok(SignatureBlock {
            untrusted_comment,
            algorithm,
            key_id,
            signature,
            trusted_comment: lines.read(|line| comment::read_comment(line, TRUSTED))?,
            global_signature: lines.read(comment::read_base64)?,
        })
    }

    /// The four lines, each with its newline.
    pub fn to_text(&self) -> String {
        let mut bytes = [0; 74];
        bytes[..2].copy_from_slice(match self.algorithm {
            SignatureAlgorithm::Pure => b"Ed",
            SignatureAlgorithm::Prehashed => b"ED",
        });
        bytes[2..10].copy_from_slice(&self.key_id.0);
        bytes[10..].copy_from_slice(&self.signature);

        format!(
            "{UNTRUSTED}{}\n{}\n{TRUSTED}{}\n{}\n",
            self.untrusted_comment,
            comment::base64(&bytes),
            self.trusted_comment,
            comment::base64(&self.global_signature)
        )
    }

    /// Id of the key that the block names, which nothing secures.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Checks the signatures of the text and of the trusted comment.
    pub fn verify(&self, text: &[u8], key: &PublicKey) -> Result<(), SignatureError> {
        let is_text_right = match self.algorithm {
            SignatureAlgorithm::Pure => key.accepts(text, &self.signature),
            SignatureAlgorithm::Prehashed => {
                key.accepts(&Blake2b512::digest(text), &self.signature)
            }
        };
        let global = global_message(&self.signature, &self.trusted_comment);
        if is_text_right && key.accepts(&global, &self.global_signature) {
            Ok(())
        } else {
            Err(SignatureError::Wrong { id: self.key_id })
        }
    }
}

/// Bytes that the global signature covers.
pub(super) fn global_message(signature: &[u8; 64], trusted_comment: &str) -> Vec<u8> {
    [signature, trusted_comment.as_bytes()].concat()
}

/// Reads lines one by one.
pub(super) struct Lines<'a> {
    /// Bytes that were not read yet.
    pub(super) rest: &'a [u8],
    /// Number of the next line, for errors.
    pub(super) line: usize,
}

impl<'a> Lines<'a> {
    /// Parses the next line, without its newline.
    fn read<T>(
        &mut self,
        parse: impl FnOnce(&'a [u8]) -> Result<T, FormFault>,
    ) -> Result<T, SignatureError> {
        let line = self.split().map_err(|fault| self.bad(fault))?;
        let parsed = parse(line).map_err(|fault| self.bad(fault))?;
        self.line += 1;
        Ok(parsed)
    }

    /// An error about the next line.
    pub(super) fn bad(&self, fault: FormFault) -> SignatureError {
        SignatureError::BadForm { line: self.line, fault }
    }

    fn split(&mut self) -> Result<&'a [u8], FormFault> {
        let visible = &self.rest[..self.rest.len().min(MAX_LINE)];
        let Some(end) = memchr::memchr(b'\n', visible) else {
            return Err(match visible.len() {
                0 => FormFault::ShortBlock,
                MAX_LINE => FormFault::LongLine { limit: MAX_LINE },
                _ => FormFault::NoNewline,
            });
        };
        let line = &self.rest[..end];
        if line.contains(&b'\r') {
            return Err(FormFault::CarriageReturn);
        }
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }
}
