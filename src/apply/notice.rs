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
    /// A path of a user refused its change, and keeps its object.
    LeftOut {
        /// Its path.
        path: String,
        /// The refusal.
        refusal: String,
    },
    /// A path refused its change, and the transaction is being reversed.
    Reversing,
    /// A path is not as before after a reversal, and the state does not say so.
    ReversalUnrecorded {
        /// Number of such paths.
        count: usize,
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
    /// A filesystem rounds times of tracked paths.
    TimesRounded {
        /// Its mount root.
        place: String,
        /// Number of these paths.
        paths: usize,
    },
    /// A replaced program loses its privileges, and has links that no manifest names.
    PrivilegesOfOtherLinks {
        /// Path of the program.
        path: String,
        /// Its inode number.
        inode: u64,
        /// Number of the other links.
        count: u64,
    },
    /// A replaced program kept its privileges.
    PrivilegesKept {
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
            ApplyNotice::Recovering => write!(f, "completing an update that was interrupted"),
            ApplyNotice::ReserveReleased { error } => {
                write!(f, "{error}; removing the space reserves and trying once more")
            }
            ApplyNotice::AgentNotKept { error } => write!(
                f,
                "cannot keep the agent beside the journal: {error}; if this run is interrupted, the installed agent has to complete the update"
            ),
            ApplyNotice::LateArrivalKept { path } => write!(
                f,
                "{path} was created during the update and cannot be moved back; it is kept in .si-undo until the next update"
            ),
            ApplyNotice::EditedAfterSeal { path, backup } => {
                write!(
                    f,
                    "{path} was edited during the update and replaced; the edited file {backup}"
                )
            }
            ApplyNotice::LeftOut { path, refusal } => {
                write!(f, "{path} was left out: {refusal}; a user can write its directory")
            }
            ApplyNotice::Reversing => write!(f, "undoing the update"),
            ApplyNotice::ReversalUnrecorded { count } => write!(
                f,
                "{count} paths could not be restored, and the state does not list them; run with --check=content"
            ),
            ApplyNotice::DirectoryOccupied { path } => {
                write!(f, "{path} was not removed: it contains untracked paths")
            }
            ApplyNotice::KernelDirectoryReplaced { path, kind } => write!(
                f,
                "{path} belongs to the running kernel and is removed: its directory becomes a {kind}"
            ),
            ApplyNotice::DirectoryRecreated { path } => {
                write!(f, "{path} was missing or had become another type; it was created again")
            }
            ApplyNotice::CleanUpFailed { error } => {
                write!(f, "cannot move the backups to .si-undo: {error}; the next run will retry")
            }
            ApplyNotice::StageNotRemoved { path } => write!(
                f,
                "cannot remove {path}: a filesystem is mounted in it, or a file in it was made immutable (chattr +i) by another link"
            ),
            ApplyNotice::BootFlushFailed { error } => write!(
                f,
                "cannot flush the filesystem of /boot: {error}; a boot loader that does not replay journals may find the old files"
            ),
            ApplyNotice::TimesRounded { place, paths } => write!(
                f,
                "the filesystem of {place} rounds times: those of {paths} paths are not exact"
            ),
            ApplyNotice::PrivilegesOfOtherLinks { path, inode, count } => write!(
                f,
                "{path} is replaced, and its set-id bits and capabilities are removed; they are also removed from {count} untracked links of its inode: find them with find -xdev -inum {inode}"
            ),
            ApplyNotice::PrivilegesKept { error } => {
                write!(f, "a replaced program keeps its set-id bits and capabilities: {error}")
            }
            ApplyNotice::UpdateNotUndoable { bytes, place, allowed } => write!(
                f,
                "this update will not be undoable: its backups need {bytes} bytes on {place}, and undo_share allows {allowed}"
            ),
            ApplyNotice::RepairNotKept { bytes, place, present, allowed } => write!(
                f,
                "cannot keep the backups of this repair: {bytes} bytes on {place}, beside {present} in the undo set; undo_share allows {allowed}"
            ),
        }
    }
}

impl fmt::Display for BackupFate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            BackupFate::Kept => "is kept in .si-undo until the next update",
            BackupFate::Removed => "was removed",
        })
    }
}
