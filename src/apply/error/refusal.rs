//! Reasons that a change cannot be applied on a tree. Nothing was changed.

use std::error::Error;
use std::fmt;

use crate::root::ChangeLocks;
use crate::tree_path::TreePath;

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

/// The slots of a transaction are used up: it has more than four billion changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change has more than {} parts", u32::MAX)]
pub struct SlotsExhausted;

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

fn mounted(kind: &Option<String>) -> String {
    kind.as_ref().map_or_else(|| "a filesystem".to_owned(), |kind| format!("a {kind}"))
}
