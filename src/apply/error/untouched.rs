//! Failure before the commit point: lack of space, a budget, a cancellation, or a refusal.

use std::error::Error;
use std::fmt;

use super::refusal::{RefusalKind, SlotsExhausted};
use crate::cancel::Cancelled;
use crate::report::Monitor;
use crate::report::units::Count;
use crate::root::RootError;
use crate::state::StateError;

/// Failure before the commit point: the live tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Untouched {
    /// A call on the tree failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A filesystem is full, or too small for the change.
    #[error("no room on this node: {0}")]
    DiskSpace(DiskSpaceError),
    /// The change cannot be applied on this tree.
    #[error("cannot change this node: {0}")]
    Refused(RefusalKind),
    /// The deletion budget is exceeded.
    #[error(transparent)]
    Budget(BudgetExceeded),
    /// The run was cancelled.
    #[error("cancelled; nothing was changed")]
    Cancelled,
}

/// A filesystem is full, or too small for the change.
#[derive(Debug, thiserror::Error)]
pub enum DiskSpaceError {
    /// A call failed for lack of space.
    #[error(transparent)]
    Full(RootError),
    /// The free space of a filesystem is less than the change needs.
    #[error("{place} has {free} {unit} free and the update needs {needed}")]
    TooSmall {
        /// Mount root of the filesystem.
        place: String,
        /// Unit of the numbers.
        unit: SpaceUnit,
        /// Needed amount.
        needed: u64,
        /// Free amount.
        free: u64,
    },
    /// An upper layer found too little space, and words it.
    #[error(transparent)]
    Caller(Box<dyn Error + Send + Sync>),
}

/// Unit of space on a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceUnit {
    /// Bytes.
    Bytes,
    /// Inodes.
    Inodes,
}

/// More paths would be deleted than the deletion budget allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot delete {}: at most {limit} are allowed (--max-delete); check the list with --dry-run, and raise --max-delete if it is right; the first ones:{}",
    Count::new(*deletions as usize, "path", "paths"), lines(.first)
)]
pub struct BudgetExceeded {
    /// Number of paths that would be deleted.
    pub deletions: u64,
    /// Largest number that is allowed.
    pub limit: u64,
    /// Some of the paths.
    pub first: Vec<String>,
}

impl Untouched {
    /// An error of the tree, or [`Untouched::DiskSpace`] if it means that a filesystem is full.
    pub fn from_root(error: RootError) -> Self {
        if error.is_full() { DiskSpaceError::Full(error).into() } else { Untouched::Root(error) }
    }

    /// A failure of a cancellable read: after a cancellation, the cancellation is the reason.
    pub(in crate::apply) fn cancelled_or(monitor: &dyn Monitor, error: RootError) -> Self {
        if monitor.is_cancelled() { Untouched::Cancelled } else { Untouched::Root(error) }
    }

    /// A failure of a cancellable write: the cancellation, or a full filesystem, is the reason.
    pub(in crate::apply) fn cancelled_or_full(monitor: &dyn Monitor, error: RootError) -> Self {
        if monitor.is_cancelled() { Untouched::Cancelled } else { Untouched::from_root(error) }
    }

    /// A refusal by an upper layer.
    pub fn refused(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Untouched::Refused(RefusalKind::Caller(reason.into()))
    }

    /// Lack of space that an upper layer found.
    pub fn disk_space(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Untouched::DiskSpace(DiskSpaceError::Caller(reason.into()))
    }
}

impl From<Cancelled> for Untouched {
    fn from(_: Cancelled) -> Self {
        Untouched::Cancelled
    }
}

impl From<RefusalKind> for Untouched {
    fn from(kind: RefusalKind) -> Self {
        Untouched::Refused(kind)
    }
}

impl From<DiskSpaceError> for Untouched {
    fn from(error: DiskSpaceError) -> Self {
        Untouched::DiskSpace(error)
    }
}

impl From<BudgetExceeded> for Untouched {
    fn from(exceeded: BudgetExceeded) -> Self {
        Untouched::Budget(exceeded)
    }
}

impl From<SlotsExhausted> for Untouched {
    fn from(exhausted: SlotsExhausted) -> Self {
        RefusalKind::from(exhausted).into()
    }
}

impl fmt::Display for SpaceUnit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            SpaceUnit::Bytes => "bytes",
            SpaceUnit::Inodes => "inodes",
        })
    }
}

fn lines(paths: &[String]) -> String {
    paths.iter().map(|path| format!("\n  {path}")).collect()
}
