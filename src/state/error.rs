//! Errors of the state, and their wording.

use std::io;

use super::FORMAT;
use crate::printable::one_line;
use crate::root::RootError;

/// Reason for which the state of a node cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Another run holds the lock.
    #[error("another update of {root} is running")]
    Locked { root: String },
    #[error("cannot lock {path}: {source}")]
    Lock { path: String, source: io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    /// The file is not TOML, or has unknown or missing keys.
    #[error("{path} is not valid: {}", one_line(source.message()))]
    Malformed { path: String, source: Box<toml::de::Error> },
    #[error("{path} is not valid: it has format {found}, this program reads format {FORMAT}")]
    UnknownFormat { path: String, found: u32 },
    /// The record of the newest heads seen is damaged; a run must not forget it by itself.
    #[error("{0}; pass --forget-seen to remove it")]
    DamagedSeen(Box<StateError>),
    /// The state belongs to another tree, of which this one is a copy.
    #[error("the recorded state was copied from another machine")]
    OtherTree,
    #[error("cannot record the state: {0}")]
    Unwritable(#[from] toml::ser::Error),
    /// A file of the agent would be written at this path.
    #[error("cannot write the agent's file {path}: it is a directory; remove it")]
    IsDirectory { path: String },
    /// Files of the agent would be written below this path.
    #[error("cannot write the agent's files below {path}: it is no directory; remove it")]
    NotDirectory { path: String },
}
