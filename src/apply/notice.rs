//! Notices and warnings of a transaction, and their wording.

use std::fmt;

use crate::apply::error::RedoError;
use crate::root::RootError;

/// Notice or warning of a transaction. Paths are absolute, as shown to a person.
#[derive(Debug)]
pub enum ApplyNotice {
    /// An interrupted transaction is being completed.
    Recovering,
    /// A full disk stopped the roll forward; it is repeated without the space reserves.
    ReserveReleased {
        /// The failure.
        error: RedoError,
    },
    /// The program could not be kept beside the journal.
    AgentNotKept {
        /// The failure.
        error: RootError,
    },
    /// A late arrival could not be moved back.
    LateArrivalKept {
        /// Its path.
        path: String,
    },
    /// A file was edited between the commit point and its replacement.
    EditedAfterSeal {
        /// Its path.
        path: String,
        /// Fate of the edited file.
        backup: BackupFate,
    },
    /// A directory was not removed because it contains untracked paths.
    DirectoryOccupied {
        /// Its path.
        path: String,
    },
    /// A directory of the running kernel becomes another type, so that its paths are removed.
    KernelDirectoryReplaced {
        /// A path of the running kernel in it.
        path: String,
        /// The new type of the directory.
        kind: &'static str,
    },
    /// A directory was missing or had become another type, and was created again.
    DirectoryRecreated {
        /// Its path.
        path: String,
    },
    /// The backups could not be moved to the undo set.
    CleanUpFailed {
        /// The failure.
        error: RootError,
    },
    /// A part of a stage cannot be removed.
    StageNotRemoved {
        /// The stage.
        path: String,
    },
    /// The boot flush failed.
    BootFlushFailed {
        /// The failure.
        error: RootError,
    },
    /// The backups of an update exceed the limit and are not retained.
    UpdateNotUndoable {
        /// Bytes of the backups on one filesystem.
        bytes: u64,
        /// Its mount root.
        place: String,
        /// Largest number of bytes.
        allowed: u64,
    },
    /// The backups of a repair exceed the limit and are not retained.
    RepairNotKept {
        /// Bytes of the backups on one filesystem.
        bytes: u64,
        /// Its mount root.
        place: String,
        /// Bytes of the undo set there.
        present: u64,
        /// Largest number of bytes.
        allowed: u64,
    },
}

/// Fate of a replaced file at the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupFate {
    /// It is in the undo set.
    Kept,
    /// It is removed.
    Removed,
}

impl fmt::Display for ApplyNotice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ApplyNotice::Recovering => write!(f, "finishing an update that was interrupted"),
            ApplyNotice::ReserveReleased { error } => {
                write!(f, "{error}; going on with the room that was kept for this")
            }
            ApplyNotice::AgentNotKept { error } => write!(
                f,
                "{error}; an interruption will have to be recovered from by the installed one"
            ),
            ApplyNotice::LateArrivalKept { path } => write!(
                f,
                "{path} came while the update was made and had to make way; it is kept in .si-undo until the next update"
            ),
            ApplyNotice::EditedAfterSeal { path, backup } => {
                write!(f, "{path} was changed after the update was sealed; what it was {backup}")
            }
            ApplyNotice::DirectoryOccupied { path } => {
                write!(f, "{path} stays, since something untracked sits in it")
            }
            ApplyNotice::KernelDirectoryReplaced { path, kind } => write!(
                f,
                "{path} belongs to the running kernel and is removed: its directory becomes a {kind}"
            ),
            ApplyNotice::DirectoryRecreated { path } => {
                write!(f, "{path} had gone or become something else meanwhile; it was made anew")
            }
            ApplyNotice::CleanUpFailed { error } => write!(
                f,
                "what was displaced is not yet where it is kept; the next run sees to it: {error}"
            ),
            ApplyNotice::StageNotRemoved { path } => write!(
                f,
                "what is left in {path} cannot be removed: something is mounted in it, or a file of it was made immutable (chattr +i) under another name"
            ),
            ApplyNotice::BootFlushFailed { error } => write!(
                f,
                "a boot loader that does not replay journals may read what was there before: {error}"
            ),
            ApplyNotice::UpdateNotUndoable { bytes, place, allowed } => write!(
                f,
                "this update will not be undoable: it displaces {bytes} bytes on {place} and undo_share allows {allowed}"
            ),
            ApplyNotice::RepairNotKept { bytes, place, present, allowed } => write!(
                f,
                "what this repair displaces is not kept: {bytes} bytes on {place}, beside {present} in the undo set, and undo_share allows {allowed}"
            ),
        }
    }
}

impl fmt::Display for BackupFate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            BackupFate::Kept => "is kept in .si-undo until the next update",
            BackupFate::Removed => "is gone",
        })
    }
}
