//! Errors of the command line of `si_tardiff`, and their wording.

use std::io;
use std::path::PathBuf;

use crate::signature::KeyError;

/// Reason that a command is refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot write to standard output: {0}; the command itself is complete")]
    OutputOfComplete(io::Error),
    /// clap refuses such a command line.
    #[error("neither an image nor an override is named")]
    NoLayer,
    #[error("cannot sign without a key; pass --sign-key or --sign-command")]
    NoKey,
    #[error("cannot show a manifest: {} is a diff, which has none", path.display())]
    DiffWithoutManifest { path: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot read the passphrase: {0}")]
    Passphrase(io::Error),
    #[error("cannot make a key: the passphrase is empty; pass --no-passphrase for a key without")]
    EmptyPassphrase,
    #[error("cannot make a key: the two passphrases differ")]
    OtherPassphrase,
    #[error("cannot use the passphrase: it is longer than {limit} bytes")]
    LongPassphrase { limit: usize },
    #[error("cannot use the key {}: {source}", path.display())]
    Locked { path: PathBuf, source: KeyError },
    #[error("{}, line {line}: {reason}", path.display())]
    BadConfig { path: PathBuf, line: usize, reason: String },
}
