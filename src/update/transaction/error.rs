//! Failure of a transaction, by the reaction of the strategy loop.

use crate::apply::stage::StageError;
use crate::fetch::{FetchError, FetchErrorKind, Side};
use crate::plan::FullSyncReason;
use crate::update::error::{ArchiveFault, NoFullSync, UpdateError};

/// Failure of a strategy or of its transaction.
pub(in crate::update) enum TransactionError {
    /// No other strategy can help.
    Failed(UpdateError),
    /// An archive of the server is missing or damaged: another chain, or a full sync, may help.
    ArchiveUnusable { name: String, fault: ArchiveFault },
    /// Contents are missing in the repository: a full sync may help.
    ContentMissing(FullSyncReason),
}

impl TransactionError {
    /// Checks if the failure is after the commit point: the next run completes the transaction.
    pub fn is_after_commit_point(&self) -> bool {
        matches!(self, TransactionError::Failed(UpdateError::Interrupted(_)))
    }

    /// Returns the error of a run that tries no other strategy.
    pub fn into_final(self) -> UpdateError {
        match self {
            TransactionError::Failed(error) => error,
            TransactionError::ArchiveUnusable { name, fault } => {
                FetchError::new(FetchErrorKind::Corrupt, Side::Server, name, fault).into()
            }
            TransactionError::ContentMissing(reason) => NoFullSync::ImageChanged(reason).into(),
        }
    }
}

impl<E: Into<UpdateError>> From<E> for TransactionError {
    fn from(error: E) -> Self {
        TransactionError::Failed(error.into())
    }
}

impl From<StageError> for TransactionError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Untouched(error) => error.into(),
            StageError::Interrupted(error) => error.into(),
            StageError::Archive { name, source } => {
                TransactionError::ArchiveUnusable { name, fault: source.into() }
            }
            error @ (StageError::WrongContent { .. } | StageError::Unreadable(_)) => {
                FetchError::new(FetchErrorKind::Corrupt, Side::Server, "repository", error).into()
            }
        }
    }
}
