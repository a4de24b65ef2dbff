//! Failures of staging and sealing, with their wording.

use std::io;

use crate::apply::{Interrupted, Untouched};
use crate::diff_archive::ArchiveError;
use crate::tree_path::TreePath;

/// Failure to stage content or to seal the transaction.
///
/// Only [`StageError::Interrupted`] is a failure after the commit point. A caller tries another
/// source of the content after `WrongContent`, `Unreadable` and `Archive`, and ends the run after
/// the others.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// This node failed, or the run was cancelled; the tree is unchanged.
    #[error(transparent)]
    Untouched(#[from] Untouched),

    /// The journal may be durable: only the next run can find out.
    #[error(transparent)]
    Interrupted(Interrupted),

    /// A source offered content with another digest or size.
    #[error("the content for {path} does not have the digest that is listed")]
    WrongContent {
        /// First path that is to hold the content.
        path: TreePath,
    },

    /// A source of content could not be read.
    #[error("cannot read new content: {0}")]
    Unreadable(io::Error),

    /// An archive of a chain does not hold the contents that it lists.
    #[error("{name}: {source}")]
    Archive {
        /// File name in the repository.
        name: String,
        /// Defect of the archive.
        source: ArchiveError,
    },
}

impl StageError {
    /// Whether another source of the same content may succeed.
    pub fn is_of_source(&self) -> bool {
        match self {
            StageError::WrongContent { .. }
            | StageError::Unreadable(_)
            | StageError::Archive { .. } => true,
            StageError::Untouched(_) | StageError::Interrupted(_) => false,
        }
    }
}
