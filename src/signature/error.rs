//! Errors of keys and signatures, and their wording.

use std::fmt;

use super::key_id::KeyId;

/// Reason that a text is not accepted as signed. Each is a failure of trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature block.
    #[error("it is not signed")]
    Unsigned,
    /// The blocks break the format.
    #[error("line {line}: {fault}")]
    BadForm {
        /// From 1.
        line: usize,
        /// The clause that is broken.
        fault: FormFault,
    },
    /// No block names a key that is trusted here.
    #[error("it is signed by {}, which is not trusted here", KeyList(ids))]
    UnknownKeys {
        /// The keys that the blocks name.
        ids: Vec<KeyId>,
    },
    /// The only known key may sign heads, and this is a catalog.
    #[error("it is signed by key {id}, which may sign heads only")]
    HeadKeyOnly {
        /// The key.
        id: KeyId,
    },
    /// The only known key was revoked.
    #[error("it is signed by key {id}, which has been revoked")]
    Revoked {
        /// The key.
        id: KeyId,
    },
    /// Text or trusted comment are not those that the key signed.
    #[error("its signature by key {id} is wrong")]
    Wrong {
        /// The key that the block names.
        id: KeyId,
    },
    /// A comment that is to be signed breaks the format.
    #[error("cannot sign with this comment: {fault}")]
    BadComment {
        /// The clause that is broken.
        fault: FormFault,
    },
}

/// Clause of the format that a line breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormFault {
    #[error("a carriage return is not allowed")]
    CarriageReturn,
    #[error("the last line has no newline")]
    NoNewline,
    #[error("the line is longer than {limit} bytes")]
    LongLine { limit: usize },
    #[error("there are more than {limit} signatures")]
    ManyBlocks { limit: usize },
    #[error("a signature has less than four lines")]
    ShortBlock,
    #[error("the line does not begin with {expected:?}")]
    Prefix { expected: &'static str },
    #[error("a comment is not UTF-8, or has a control character")]
    Comment,
    #[error("the line is not base64 of {bytes} bytes")]
    Base64 { bytes: usize },
    #[error("the algorithm is neither Ed nor ED")]
    Algorithm,
    #[error("a line of the text itself begins like a signature")]
    CommentInText,
}

/// Reason that a key cannot be read, made or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file does not have two lines.
    #[error("it is not a key file of minisign: it does not consist of two lines")]
    NotTwoLines,
    /// A line breaks the format.
    #[error("line {line}: {fault}")]
    BadLine {
        /// From 1.
        line: usize,
        /// The clause that is broken.
        fault: FormFault,
    },
    /// The file is longer than any key.
    #[error("it is longer than {limit} bytes")]
    LongFile {
        /// In bytes.
        limit: usize,
    },
    /// The algorithms of a secret key are not those of minisign.
    #[error("its algorithms are unknown")]
    Algorithm,
    /// The parameters of scrypt exceed those that minisign writes, or are none.
    #[error("decryption needs {operations} operations and {memory} bytes, which is out of bounds")]
    Cost {
        /// The limit of operations in the file.
        operations: u64,
        /// The limit of memory in the file, in bytes.
        memory: u64,
    },
    /// The memory for scrypt is not available.
    #[error("decryption needs {bytes} bytes of memory, which are not available")]
    Memory {
        /// In bytes.
        bytes: usize,
    },
    /// The checksum is wrong after the decryption.
    #[error("the passphrase is wrong, or the file is damaged")]
    WrongPassphrase,
    /// The checksum of a key that is not encrypted is wrong.
    #[error("it is damaged: its checksum is wrong")]
    Damaged,
    /// Seed and public key do not belong together.
    #[error("it is damaged: its public and its secret part do not belong together")]
    Mismatch,
    /// The kernel has no random numbers.
    #[error("the system has no random numbers")]
    Random,
}

/// A key file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the key {name}: {source}")]
pub struct KeyFileError {
    /// The file.
    pub name: String,
    /// The cause.
    pub source: KeyError,
}

/// Ids for a message.
struct KeyList<'a>(&'a [KeyId]);

impl fmt::Display for KeyList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().map(KeyId::to_string).collect();
        write!(f, "{} {}", if ids.len() == 1 { "key" } else { "keys" }, ids.join(", "))
    }
}
