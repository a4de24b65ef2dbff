//! Errors of a transaction, and their wording.
//!
//! The types follow the commit point. [`Untouched`] is a failure before it: the live tree is as it
//! was, so a caller may try another strategy. [`Interrupted`] is a failure after it: the next run
//! completes the transaction, and nothing else may be tried.

mod downloaded;
mod format;
mod interrupted;
mod refusal;
mod untouched;

use std::io;

use crate::diff_archive::ArchiveError;
use crate::root::RootError;
use crate::state::StateError;
use crate::tree_path::TreePath;

pub use downloaded::DownloadedFault;
pub use format::{FormatFault, JournalError, LineFault, UndoLogError};
pub use interrupted::{Interrupted, RedoError, RefusalText, Reversed, Unapplied};
pub use refusal::{FilesystemFault, InodeFlag, Obstacle, RefusalKind, SkipFault, SlotsExhausted};
pub use untouched::{BudgetExceeded, DiskSpaceError, SpaceUnit, Untouched};

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
    Interrupted(#[from] Interrupted),
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

/// Failure to open a tree for a run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The state directory or the lock failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The mount table cannot be read.
    #[error("cannot read the mount table (/proc/self/mountinfo): {0}")]
    Mounts(io::Error),
    /// The journal of an interrupted transaction is invalid.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An interrupted transaction cannot be completed now.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// An interrupted transaction was reversed.
    #[error(transparent)]
    Reversed(#[from] Reversed),
    /// A filesystem of an interrupted transaction is not mounted.
    #[error(
        "{mount_root} takes part in it, but is not mounted, or another filesystem is; mount it and run again"
    )]
    NotMounted {
        /// The mount root.
        mount_root: String,
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

impl From<Unapplied> for SessionError {
    fn from(error: Unapplied) -> Self {
        match error {
            Unapplied::Interrupted(error) => error.into(),
            Unapplied::Reversed(error) => error.into(),
        }
    }
}
