//! Downloaded updates that cannot be used.

use std::error::Error;

use super::LineFault;
use crate::root::RootError;

/// Fault of a downloaded update.
#[derive(Debug, thiserror::Error)]
pub enum DownloadedFault {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The download did not end.
    #[error("it is incomplete")]
    Incomplete,
    /// The directory has another owner or mode, or is none.
    #[error("{path} is no directory that only its owner can enter")]
    NotOwn {
        /// The path as it is printed.
        path: String,
    },
    /// The record is not valid.
    #[error("its record is not valid: {0}")]
    Record(Box<dyn Error + Send + Sync>),
    /// Another program wrote the record.
    #[error("its record has format {found}, which this program does not know")]
    UnknownFormat {
        /// The format.
        found: u32,
    },
    #[error("its record has no valid list of filesystems")]
    Filesystems,
    #[error("its record has no valid list of layers")]
    Layers,
    /// A line of the list of contents is invalid.
    #[error("its list of contents, line {}: {}", .0.number, .0.reason)]
    Contents(LineFault),
    /// A file that the record names is missing or has another content.
    #[error("{name} is missing or damaged")]
    Data {
        /// Name of the file.
        name: String,
    },
    /// The record cannot be written.
    #[error("cannot write its record: {0}")]
    NotWritten(Box<dyn Error + Send + Sync>),
}
