//! Errors of a transaction, and their wording.
//!
//! The types follow the commit point. [`Untouched`] is a failure before it: the live tree is as it
//! was, so a caller may try another strategy. [`Interrupted`] is a failure after it: the next run
//! completes the transaction, and nothing else may be tried.

use std::error::Error;
use std::fmt;
use std::io;

use crate::cancel::Cancelled;
use crate::diff_archive::ArchiveError;
use crate::report::Monitor;
use crate::report::units::Count;
use crate::root::{ChangeLocks, RootError};
use crate::state::StateError;
use crate::tree_path::TreePath;

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

/// Reason that a change cannot be applied on this tree. Paths are absolute, as shown to a person.
#[derive(Debug, thiserror::Error)]
pub enum RefusalKind {
    /// The root is mounted read-only.
    #[error("{path} is mounted read-only")]
    ReadOnlyRoot {
        /// The root.
        path: String,
    },
    /// Transactions are not known to be safe on the filesystem of the root.
    #[error(
        "the filesystem of {path} is {kind}, on which updates are not known to be safe; pass --allow-root-fs={kind} to allow it"
    )]
    UnsafeRoot {
        /// The root.
        path: String,
        /// Type of the filesystem.
        kind: String,
    },
    /// A path that changes is in a read-only mount.
    #[error("{path} changes, but {mount} is mounted read-only")]
    ReadOnlyMount {
        /// The path that changes.
        path: String,
        /// The mount point.
        mount: String,
    },
    /// A path that changes is a mount point.
    #[error("{path} changes, but {} is mounted on it", mounted(.kind))]
    MountPoint {
        /// The path that changes.
        path: String,
        /// Type of the mounted filesystem, if it is known.
        kind: Option<String>,
    },
    /// A directory to be removed is a filesystem of its own.
    #[error("{path} is to be removed, but is a filesystem of its own (a btrfs subvolume)")]
    Subvolume {
        /// The directory.
        path: String,
    },
    /// A filesystem is mounted below a directory to be removed or replaced.
    #[error("{mount} is mounted in {path}, which is to be removed or replaced")]
    MountInside {
        /// The directory.
        path: String,
        /// The mount point.
        mount: String,
    },
    /// A path that changes has an inode flag that forbids it.
    #[error("{path} changes, but is {flag}")]
    FlaggedPath {
        /// The path.
        path: String,
        /// Its flag.
        flag: InodeFlag,
    },
    /// A directory with changing entries has an inode flag that forbids them.
    #[error("entries of {path} change, but it is {flag}")]
    FlaggedParent {
        /// The directory.
        path: String,
        /// Its flag.
        flag: InodeFlag,
    },
    /// The parent directory of a change is missing or has become another type.
    #[error("{path} is no longer a directory, but entries of it change; run again")]
    ParentMissing {
        /// The directory.
        path: String,
    },
    /// The quota project of a directory forbids renames from the stage.
    #[error(
        "entries of {path} change, but its project id (chattr +P) differs from that of {mount_root}, so that rename(2) between them fails"
    )]
    ProjectDiffers {
        /// The directory.
        path: String,
        /// The directory in which the stage is created.
        mount_root: String,
    },
    /// A file that changes is an active swap file.
    #[error("{path} changes, but is an active swap file; run swapoff on it, and run again")]
    ActiveSwap {
        /// The file.
        path: String,
    },
    /// A directory with new entries is encrypted, and the stage is not.
    #[error(
        "entries of {path} change, but it is encrypted (fscrypt), so that nothing can be renamed into it; exclude it"
    )]
    Encrypted {
        /// The directory.
        path: String,
    },
    /// A file of the agent itself has an inode flag that forbids its replacement.
    #[error("cannot record the state: {path} is {flag}; remove the flag")]
    FlaggedState {
        /// The file or directory.
        path: String,
        /// Its flag.
        flag: InodeFlag,
    },
    /// A directory is on another filesystem than when the tree was read.
    #[error("{path} is on another filesystem than when the tree was read; run again")]
    FilesystemChanged {
        /// The directory.
        path: String,
    },
    /// A filesystem that takes part is not writable.
    #[error("paths on {path} change, but it is not writable (a read-only subvolume?)")]
    NotWritable {
        /// The mount root.
        path: String,
    },
    /// A mount point of the tree's fstab that takes part is not mounted.
    #[error("{path} changes, but {mount}, which the tree's fstab names, is not mounted")]
    NotMounted {
        /// A path that changes below it.
        path: String,
        /// The mount point.
        mount: String,
    },
    /// The image has another type of object in place of a directory that the agent needs.
    #[error("{path} is a {kind} in the image, but the agent needs a directory there")]
    OwnDirectoryInImage {
        /// The path.
        path: String,
        /// Type of the image's object.
        kind: &'static str,
    },
    /// A hardlink group has members on two filesystems of this node.
    #[error("the hardlink group of {path} spans two filesystems here")]
    HardlinkAcrossFilesystems {
        /// A member.
        path: String,
    },
    /// The path in the stage would exceed the longest path.
    #[error("{path} is too long to be staged")]
    PathTooLong {
        /// The path in the tree.
        path: String,
    },
    /// A directory that becomes another type contains an object that must not be moved.
    #[error("{path} {obstacle} and is in a directory that becomes a {kind}")]
    ImmovableInside {
        /// The object.
        path: String,
        /// Reason that it must not be moved.
        obstacle: Obstacle,
        /// The new type of the directory.
        kind: &'static str,
    },
    /// A change has no stage on its filesystem.
    #[error("there is no stage for {path}")]
    NoStage {
        /// The path that changes.
        path: String,
    },
    /// The stage of the root's filesystem is missing.
    #[error("the stage is missing")]
    StageMissing,
    /// A staged file is missing.
    #[error("a staged file is missing")]
    StagedFileMissing,
    /// Not all contents were staged.
    #[error("{count} contents were not staged")]
    ContentsMissing {
        /// Number of contents that are missing.
        count: usize,
    },
    /// Too many changes for one transaction.
    #[error(transparent)]
    SlotsExhausted(#[from] SlotsExhausted),
    /// A filesystem is mounted inside the undo set.
    #[error("a filesystem is mounted at {mount}, in the undo set")]
    MountInUndoSet {
        /// The mount point.
        mount: String,
    },
    /// A backup is missing from the undo set.
    #[error("the backup of {path} is missing from the undo set")]
    BackupMissing {
        /// The path that it would be restored to.
        path: String,
    },
    /// A backup is immutable.
    #[error("the backup of {path} in .si-undo is immutable (chattr +i), perhaps by another link")]
    BackupImmutable {
        /// The path that it would be restored to.
        path: String,
    },
    /// A rollback would replace a directory that the agent needs by another type of object.
    #[error("{path} was no directory before the update, but the agent needs a directory there")]
    OwnDirectoryInUndoSet {
        /// The path.
        path: String,
    },
    /// A filesystem of the undo set is not there as it was at the update.
    #[error("{mount_root} takes part in the rollback, but {}", fault.with_hint(.path))]
    UndoFilesystem {
        /// The mount root, as shown to a person.
        mount_root: String,
        /// The mount root in the tree.
        path: TreePath,
        /// The fault.
        fault: FilesystemFault,
    },
    /// The state directory is on a filesystem that is not mounted.
    #[error("{mount_root} has the state of this node and is not mounted; mount it and run again")]
    StateNotMounted {
        /// The mount root.
        mount_root: String,
    },
    /// A filesystem was mounted over a directory after the update.
    #[error(
        "{mount} is mounted, but was a plain directory at the update; unmount it and run again"
    )]
    MountedSince {
        /// The mount point.
        mount: String,
    },
    /// A filesystem cannot be left out of the rollback.
    #[error("{path} cannot be left out of the rollback: {reason}")]
    NotSkippable {
        /// The path that the administrator named.
        path: String,
        /// The reason.
        reason: SkipFault,
    },
    /// A refusal by an upper layer, which words it.
    #[error(transparent)]
    Caller(Box<dyn Error + Send + Sync>),
}

/// Fault of a filesystem of an undo set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesystemFault {
    /// Nothing is mounted at its mount root.
    NotMounted,
    /// Another filesystem is mounted there.
    Replaced,
    /// It is mounted, but its part of the undo set is missing.
    NoUndoSet,
}

/// Reason that a filesystem cannot be left out of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipFault {
    /// It is no mount root of the undo set, or nothing changed on it.
    TakesNoPart,
    /// It is mounted.
    Mounted,
    /// It has the state directory.
    HoldsState,
}

/// Inode flag that forbids a change, as chattr(1) sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeFlag {
    /// No change at all.
    Immutable,
    /// No change except appending.
    AppendOnly,
}

/// Reason that an object must not be moved together with its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A filesystem is mounted there.
    Mounted,
    /// The filter excludes it.
    Excluded,
    /// It belongs to the agent.
    Protected,
    /// It is on another filesystem.
    OtherFilesystem,
    /// Its inode flags forbid it.
    Flagged,
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

/// The slots of a transaction are used up: it has more than four billion changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change has more than {} parts", u32::MAX)]
pub struct SlotsExhausted;

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

fn left_in_place(paths: &[String]) -> String {
    match paths {
        [] => String::new(),
        [first, ..] => {
            let count = Count::new(paths.len(), "path", "paths");
            format!("; {count} could not be restored, for example {first}")
        }
    }
}

const AFTER_COMMIT: &str = "the tree is between two generations; the next run of si_updateclient completes the transaction";

const DURING_REVERSAL: &str = "the tree is between two generations; the update is being undone, and the next run of si_updateclient completes that";

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

impl Interrupted {
    pub(in crate::apply) fn from_root(error: RootError) -> Self {
        Interrupted::Redo(error.into())
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

impl FilesystemFault {
    /// The fault of the filesystem at `path` of the tree, and the remedy.
    fn with_hint(self, path: &TreePath) -> String {
        let skip = format!("or pass --skip-filesystem={path} if its disk is lost");
        match self {
            FilesystemFault::NotMounted => format!("is not mounted; mount it, {skip}"),
            FilesystemFault::Replaced => {
                format!("another filesystem is mounted there; mount that of the update, {skip}")
            }
            FilesystemFault::NoUndoSet => {
                "its part of the undo set (.si-undo) is missing".to_owned()
            }
        }
    }
}

impl InodeFlag {
    /// The flag that forbids a change of the inode, if it has one.
    pub(in crate::apply) fn from_locks(locks: &ChangeLocks) -> Option<Self> {
        match (locks.immutable, locks.append_only) {
            (true, _) => Some(InodeFlag::Immutable),
            (false, true) => Some(InodeFlag::AppendOnly),
            (false, false) => None,
        }
    }
}

impl fmt::Display for SkipFault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            SkipFault::TakesNoPart => "it is no filesystem on which the rollback changes anything",
            SkipFault::Mounted => "it is mounted; leave out --skip-filesystem",
            SkipFault::HoldsState => "it has the state of this node; mount it and run again",
        })
    }
}

impl fmt::Display for InodeFlag {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            InodeFlag::Immutable => "immutable (chattr +i)",
            InodeFlag::AppendOnly => "append-only (chattr +a)",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Obstacle::Mounted => "is mounted",
            Obstacle::Excluded => "is excluded",
            Obstacle::Protected => "is the agent's own",
            Obstacle::OtherFilesystem => "is another filesystem",
            Obstacle::Flagged => "is immutable or append-only (chattr)",
        })
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

fn mounted(kind: &Option<String>) -> String {
    kind.as_ref().map_or_else(|| "a filesystem".to_owned(), |kind| format!("a {kind}"))
}

fn lines(paths: &[String]) -> String {
    paths.iter().map(|path| format!("\n  {path}")).collect()
}
