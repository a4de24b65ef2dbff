//! Files of a transaction that cannot be read: the redo journal, the undo log, and those beside them.

use std::error::Error;

use crate::root::RootError;

/// Failure to read a redo journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The file was not written by this program or an older version.
    #[error(
        "cannot follow the journal {path}: {fault}; run --recover with the version that wrote it, or remove it and run with --check=content"
    )]
    Invalid {
        /// The file.
        path: String,
        /// The fault.
        fault: FormatFault,
    },
}

/// Failure to read an undo log.
#[derive(Debug, thiserror::Error)]
pub enum UndoLogError {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The file was not written by this program or an older version.
    #[error("cannot read the undo log {path}: {fault}")]
    Invalid {
        /// The file.
        path: String,
        /// The fault.
        fault: FormatFault,
    },
}

/// Fault of a journal, of an undo log, or of a file beside it.
#[derive(Debug, thiserror::Error)]
pub enum FormatFault {
    /// The file is not UTF-8.
    #[error("it is not text")]
    NotText,
    /// The file does not exist.
    #[error("it is missing")]
    Missing,
    /// A line is invalid.
    #[error("line {}: {}", .0.number, .0.reason)]
    Line(LineFault),
    /// A file beside it does not exist.
    #[error("{0} is missing beside it")]
    PartMissing(&'static str),
    /// A file beside it is not UTF-8.
    #[error("{0} beside it is not text")]
    PartNotText(&'static str),
    /// A file beside it is invalid.
    #[error("{name} beside it: {source}")]
    PartInvalid {
        /// Name of the file.
        name: &'static str,
        /// The fault.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The list of directories is invalid.
    #[error("{0}")]
    Directories(Box<dyn Error + Send + Sync>),
}

/// An invalid line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// Number of the line, from 1; 0 if the end of the file is missing.
    pub number: usize,
    /// The reason, with *it* for the line.
    pub reason: &'static str,
}
