//! Redo journal: the durable list of all changes of a committed transaction.
//!
//! The journal and the files beside it are in the root's stage. Its rename into place is the commit
//! point. As long as it exists, every run carries it out before it does anything else, so it must
//! contain all that the roll forward needs: no network, no catalog and no configuration.
//!
#![doc = include_str!("format.md")]

mod codec;
mod file;
pub(super) mod space_reserve;

use std::collections::BTreeSet;

use crate::apply::filesystem::Slots;
use crate::apply::plan::Change;
use crate::apply::undo::UndoRetention;
use crate::entry::Entry;
use crate::image::ImageName;
use crate::tree_path::TreePath;

pub use codec::parse;
pub use file::{
    begin_reversal, close, end_reversal, find, is_reversing, mark_applied, peek, peek_closed,
    read_applied, seal, sealed_at, sync_close,
};

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Mount roots of the filesystems, see [`crate::apply::filesystem::Filesystems`].
    pub mount_roots: Vec<TreePath>,
    /// Origin of the content in the slots.
    pub slots: Slots,
    /// Rule for the backups.
    pub retention: UndoRetention,
    /// All changes, in order.
    pub changes: Vec<Change>,
    /// Directories with their final metadata. Each gets its time, and all its metadata if a change
    /// [`SetDirMetadata`](crate::apply::plan::Action::SetDirMetadata) names it.
    pub directories: Vec<Entry>,
    /// Recorded at the end.
    pub record: CommitRecord,
}

/// The part of the state directory that a transaction writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitRecord {
    /// The state as text; `None` if the generation of the tree is unknown afterwards.
    pub state: Option<String>,
    /// The compressed manifest that the state names; `None` if it is recorded already.
    pub manifest: Option<Vec<u8>>,
    /// The pinned generation as text.
    pub pinned: Option<String>,
    /// The image name for other tools, if no state is recorded.
    pub synced: Option<ImageName>,
}

/// State of the journal on disk.
#[derive(Debug)]
pub enum JournalState {
    /// No journal: no transaction is committed.
    Nothing,
    /// The transaction is committed and has to be completed.
    Sealed(Journal),
    /// The transaction has ended; its backups and stages are left.
    Done(Journal),
}

impl Journal {
    /// The filesystems whose stages the changes need, and the root's, which has the journal.
    pub fn participants(&self) -> BTreeSet<usize> {
        std::iter::once(0).chain(self.changes.iter().map(|change| change.filesystem)).collect()
    }
}
