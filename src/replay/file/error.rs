//! Reasons why a file is not taken apart or made again.

use std::io;

use crate::replay::prediction::DecisionDefect;
use crate::replay::{xz, zstd};

/// Failure to take a file apart.
#[derive(Debug, thiserror::Error)]
pub enum FileOpenError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// An xz stream in it cannot be taken apart.
    #[error("xz stream: {0}")]
    Xz(xz::XzOpenError),
    /// A zstd frame in it cannot be taken apart.
    #[error("zstd frame: {0}")]
    Zstd(zstd::FrameOpenError),
    /// The file as a whole is refused.
    #[error(transparent)]
    Refused(#[from] FileRefusal),
}

/// Reason to leave a file as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// It has neither an xz stream nor a zstd frame where one is looked for.
    #[error("the file has no compressed part that is known")]
    NoPart,
    /// Its plain form is larger than the limit, in bytes.
    #[error("its plain form has more than {0} bytes")]
    TooLarge(u64),
    /// The decisions do not make the same bytes.
    #[error("its bytes do not follow from its decisions")]
    NotReproduced,
}

/// Failure to make a file again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The plain form cannot be read.
    #[error("read the plain form: {0}")]
    Read(io::Error),
    /// The file cannot be written.
    #[error("write: {0}")]
    Write(io::Error),
    /// The old file is not as expected.
    #[error("the old file: {0}")]
    Old(#[from] FileOpenError),
    /// The decision stream ends early, or has no beginning.
    #[error("the decision stream is cut")]
    Cut,
    /// The decision stream names an old file that the group does not have.
    #[error("the decision stream names an unknown old file")]
    UnknownOldFile,
    /// A step is not possible at its place.
    #[error("the decision stream has a step at a wrong place")]
    Order,
    /// A header in the decision stream is not possible.
    #[error("the decision stream has an impossible header")]
    Head,
    /// The plain form is longer or shorter than the decisions.
    #[error("plain form and decisions differ in length")]
    Length,
    /// The file would be larger than stated.
    #[error("the file would have more than {0} bytes")]
    TooLarge(u64),
    /// A packet is not possible at its place.
    #[error("the decision stream is damaged: {0}")]
    Decision(#[from] DecisionDefect),
    /// An xz stream cannot be written.
    #[error("xz stream: {0}")]
    Xz(#[from] xz::XzWriteError),
    /// A zstd frame cannot be written.
    #[error("zstd frame: {0}")]
    Zstd(#[from] zstd::FrameWriteError),
}

/// Failure to record the decisions of a file.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be taken apart, or not made again.
    #[error(transparent)]
    Open(#[from] FileOpenError),
    /// The file cannot be made again.
    #[error(transparent)]
    Rebuild(#[from] ReplayError),
}
