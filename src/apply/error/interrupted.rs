//! Failure after the commit point: the next run completes the transaction, or has nothing to do.

use super::format::UndoLogError;
use crate::report::units::Count;
use crate::root::RootError;
use crate::state::StateError;

const AFTER_COMMIT: &str = "the tree is between two generations; the next run of si_updateclient completes the transaction";

const DURING_REVERSAL: &str = "the tree is between two generations; the update is being undone, and the next run of si_updateclient completes that";

/// Failure after the commit point: the next run completes the transaction.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The roll forward stopped.
    #[error("{AFTER_COMMIT}: {0}")]
    Redo(#[from] RedoError),
    /// The reversal of the transaction stopped.
    #[error("{DURING_REVERSAL}: {0}")]
    Reversal(RedoError),
    /// The journal may be durable, and could not be removed: the transaction has to be completed.
    #[error(
        "{AFTER_COMMIT}: cannot make the journal durable: {write}; cannot remove it either: {removal}"
    )]
    CommitUnknown {
        /// Failure to make the journal durable.
        write: RootError,
        /// Failure to remove it.
        removal: RootError,
    },
}

/// A transaction that was reversed after its commit point: the tree is as it was before.
#[derive(Debug, thiserror::Error)]
#[error("the update was undone: {refusal}{}", left_in_place(.left_out))]
pub struct Reversed {
    /// The refusal of a path that could not be left out.
    pub refusal: RefusalText,
    /// Paths that could not be restored, since they refused that too.
    pub left_out: Vec<String>,
}

/// Refusal that led to a reversal.
#[derive(Debug, thiserror::Error)]
pub enum RefusalText {
    /// It happened in this run.
    #[error("{0}, and without it the new generation would be incomplete")]
    Now(RootError),
    /// It happened in the run that was interrupted.
    #[error("a path refused its change in the run that was interrupted")]
    Earlier,
}

/// Failure of a transaction after its commit point.
#[derive(Debug, thiserror::Error)]
pub enum Unapplied {
    /// The next run completes the transaction, or its reversal.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The tree is as it was before.
    #[error(transparent)]
    Reversed(#[from] Reversed),
}

/// Failure of the roll forward.
#[derive(Debug, thiserror::Error)]
pub enum RedoError {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The state could not be recorded.
    #[error(transparent)]
    State(#[from] StateError),
    /// The undo log could not be corrected.
    #[error(transparent)]
    UndoLog(#[from] UndoLogError),
    /// A path that only root can change refused its change, several times.
    #[error(transparent)]
    Refused(RootError),
    /// The transaction has no undo log, so that it cannot be reversed.
    #[error("there is no undo log to undo it by")]
    NoUndoLog,
    /// A stage that the journal needs does not exist.
    #[error("the stage of the filesystem that holds {path} is missing")]
    NoStage {
        /// A path that changes on that filesystem.
        path: String,
    },
}

impl Interrupted {
    pub(in crate::apply) fn from_root(error: RootError) -> Self {
        Interrupted::Redo(error.into())
    }
}

impl RedoError {
    /// Whether a filesystem is full.
    pub(in crate::apply) fn is_full(&self) -> bool {
        match self {
            RedoError::Root(error) | RedoError::State(StateError::Root(error)) => error.is_full(),
            RedoError::UndoLog(UndoLogError::Root(error)) => error.is_full(),
            _ => false,
        }
    }
}

fn left_in_place(paths: &[String]) -> String {
    match paths {
        [] => String::new(),
        [first, ..] => {
            let count = Count::new(paths.len(), "path", "paths");
            format!("; {count} could not be restored, for example {first}")
        }
    }
}
