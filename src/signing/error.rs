//! Errors of signing, and their wording.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::process::ProcessError;
use crate::signature::{KeyError, KeyFileError, SignatureError};

/// Reason that a text is not signed, or that a key is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A system call on a file failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A key file exists already.
    #[error("cannot create {}: it exists; a key is never replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A key without a passphrase is readable for everyone.
    #[error(
        "cannot use the key {}: it has no passphrase, and everyone can read it; run chmod 600",
        path.display()
    )]
    OpenToAll {
        /// The file.
        path: PathBuf,
    },
    /// A key file is not valid.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A new key cannot be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// The text or the comment cannot be signed.
    #[error("cannot sign: {0}")]
    Text(#[from] SignatureError),
    /// A head key may only sign heads that expire.
    #[error(
        "cannot sign by a head key a head that never expires: nodes would refuse it; pass \
         --expires, for example 7d"
    )]
    HeadWithoutEnd,
    /// Nodes of the image would not trust the signature.
    #[error(
        "cannot publish an image whose nodes would refuse it: nodes make their keys exactly those \
         of its etc/systemimager/keys, and none there verifies the signature ({0}); add the \
         NAME.pub of the key to that directory, or pass a key that belongs to one there"
    )]
    NotOfImage(SignatureError),
    /// The command did not sign.
    #[error("cannot sign by {program}: {fault}")]
    Command {
        /// The program.
        program: String,
        /// The cause.
        fault: CommandFault,
    },
}

/// Reason that a command did not sign.
#[derive(Debug, thiserror::Error)]
pub enum CommandFault {
    /// There is no word in it.
    #[error("the command is empty")]
    Empty,
    /// It did not run to its end.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its exit status is not 0.
    #[error("it ended with {status}: {message}")]
    Status {
        /// The status.
        status: ExitStatus,
        /// The end of standard error.
        message: String,
    },
    /// Its output has more than the four lines of a signature.
    #[error("it printed more than one signature")]
    Surplus,
    /// Its output is no signature of the text by an expected key.
    #[error("its output is not accepted: {0}")]
    Output(SignatureError),
}

impl SigningError {
    pub(super) fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        SigningError::File { operation, path: path.to_owned(), source }
    }
}
