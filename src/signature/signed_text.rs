//! Signed texts: a text followed by signature blocks.

use std::iter;

use super::block::{Lines, SignatureBlock};
use super::error::{FormFault, SignatureError};
use super::key_id::KeyId;
use super::key_set::{KeySet, Role};
use super::public_key::PublicKey;

/// Number of signatures of a text; a rotation needs two.
pub const MAX_BLOCKS: usize = 16;
/// Beginning of the line that ends the text. It has no space after the colon, as in the documented
/// command of sed.
const MARK: &[u8] = b"untrusted comment:";

/// A text and its signatures, before any verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedText<'a> {
    text: &'a [u8],
    blocks: Vec<SignatureBlock>,
}

/// A text with a valid signature by a trusted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticText<'a> {
    text: &'a [u8],
    key: PublicKey,
    comment: String,
}

impl<'a> SignedText<'a> {
    /// Divides a file into its text and its signature blocks; verifies nothing.
    pub fn split(bytes: &'a [u8]) -> Result<Self, SignatureError> {
        let (text, rest) = bytes.split_at(find_mark(bytes).unwrap_or(bytes.len()));
        if let Some(place) = memchr::memchr(b'\r', text) {
            let line = line_number(&text[..place]);
            return Err(SignatureError::BadForm { line, fault: FormFault::CarriageReturn });
        }

        let mut lines = Lines { rest, line: line_number(text) };
        let mut blocks = Vec::new();
        while !lines.rest.is_empty() {
            if blocks.len() == MAX_BLOCKS {
                return Err(lines.bad(FormFault::ManyBlocks { limit: MAX_BLOCKS }));
            }
            blocks.push(SignatureBlock::read(&mut lines)?);
        }
        Ok(SignedText { text, blocks })
    }

    /// Whether there is a signature, right or wrong.
    pub fn is_signed(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// The signature blocks.
    pub fn signatures(&self) -> &[SignatureBlock] {
        &self.blocks
    }

    /// The text without any verification: for nodes without keys, and for tools of the server.
    pub fn unverified_text(&self) -> &'a [u8] {
        self.text
    }

    /// Verifies that a key, trusted for texts of this role, has signed the text.
    ///
    /// One valid signature is enough. Without one, the error is the one that helps most: a wrong
    /// signature by a trusted key before a key without trust.
    pub fn verify(&self, keys: &KeySet, role: Role) -> Result<AuthenticText<'a>, SignatureError> {
        let trusted = keys.trusted(role);

        let mut refusals = Vec::new();
        for block in &self.blocks {
            let mut named = trusted.iter().filter(|key| key.id() == block.key_id()).peekable();
            if named.peek().is_none() {
                refusals.extend(distrust(block.key_id(), keys, role));
            }
            for key in named {
                match block.verify(self.text, key) {
                    Ok(()) => {
                        let comment = block.trusted_comment.clone();
                        return Ok(AuthenticText { text: self.text, key: **key, comment });
                    }
                    Err(refusal) => refusals.insert(0, refusal),
                }
            }
        }

        let mut ids: Vec<KeyId> = self.blocks.iter().map(SignatureBlock::key_id).collect();
        ids.dedup();
        Err(match refusals.into_iter().next() {
            Some(refusal) => refusal,
            None if ids.is_empty() => SignatureError::Unsigned,
            None => SignatureError::UnknownKeys { ids },
        })
    }

    /// Joins a text and its signatures to a file that [`split`](Self::split) divides again.
    pub fn join(text: &[u8], blocks: &[SignatureBlock]) -> Result<Vec<u8>, SignatureError> {
        if let Some(place) = find_mark(text) {
            let line = line_number(&text[..place]);
            return Err(SignatureError::BadForm { line, fault: FormFault::CommentInText });
        }
        if !text.ends_with(b"\n") {
            let line = line_number(text);
            return Err(SignatureError::BadForm { line, fault: FormFault::NoNewline });
        }

        let mut file = text.to_vec();
        for block in blocks {
            file.extend_from_slice(block.to_text().as_bytes());
        }
        SignedText::split(&file)?;
        Ok(file)
    }
}

impl<'a> AuthenticText<'a> {
    /// The text.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The key that signed it.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The trusted comment of that signature.
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

/// Reason that a key with this id is known and not trusted; `None` if it is unknown.
fn distrust(id: KeyId, keys: &KeySet, role: Role) -> Option<SignatureError> {
    if keys.revoked_keys().any(|key| key.id() == id) {
        return Some(SignatureError::Revoked { id });
    }
    let is_head_key = role == Role::Publish && keys.head_keys().any(|key| key.id() == id);
    is_head_key.then_some(SignatureError::HeadKeyOnly { id })
}

/// Place of the first line that begins a signature block.
fn find_mark(bytes: &[u8]) -> Option<usize> {
    let starts = iter::once(0).chain(memchr::memchr_iter(b'\n', bytes).map(|end| end + 1));
    starts.into_iter().find(|&start| bytes[start..].starts_with(MARK))
}

/// Number of the line, from 1, that begins after `before`.
fn line_number(before: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', before).count() + 1
}
