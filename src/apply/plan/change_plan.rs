//! The change plan: all changes of one transaction, computed before any of them is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::apply::error::SlotsExhausted;
use crate::apply::filesystem::{Filesystems, Slots};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::SlotAllocator;
use crate::digest::Digest;
use crate::entry::{Entry, Mtime};
use crate::root::InodeVersion;
use crate::tree_path::TreePath;

/// All changes of one transaction, with everything that a report says about them.
#[derive(Debug, Default)]
pub struct ChangePlan {
    /// Filesystems of the tree; each `filesystem` below is an index into them.
    pub filesystems: Filesystems,
    /// Items to be staged; a directory precedes the items in it.
    pub staged_items: Vec<StagedItem>,
    /// Actions of the roll forward, in order.
    pub changes: Vec<Change>,
    /// Tracked directories whose mtime the roll forward sets last.
    ///
    /// If [`Action::SetDirMetadata`] names one, all of its metadata is set.
    pub directories: Vec<Entry>,
    /// Tracked paths that will not match the target, with the reason.
    pub deviations: BTreeMap<TreePath, String>,
    /// Paths that should change and cannot be inspected; they are deviations too.
    pub left_out: BTreeSet<TreePath>,
    /// Drift that this transaction repairs, with the difference.
    pub repaired: BTreeMap<TreePath, String>,
    /// Untracked paths in directories that become another type; they are moved to the undo set.
    pub displaced: Vec<TreePath>,
    /// Paths of the running kernel that the target does not have and that are kept, in tree order.
    pub kernel_paths: Vec<TreePath>,
    /// Backups of these paths: a later run removes the paths, and the undo set has to restore them.
    pub kernel_backups: Vec<KernelBackup>,
    /// Entries of the target with set-id bits or capabilities.
    pub privileged_paths: Vec<TreePath>,
    /// Warnings for the administrator.
    pub warnings: Vec<ApplyNotice>,
    /// Changes of single paths in rsync's itemized form, in tree order.
    pub itemized: Vec<ItemizedLine>,
    /// Number of paths that are removed without a replacement.
    pub removed_count: usize,
    /// Number of untracked paths that are kept, if the whole tree was read.
    pub untracked_count: Option<u64>,
    /// Source of the slots' content.
    pub slots: Slots,
}

/// Backup of a path that is kept for the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelBackup {
    /// Filesystem whose stage holds the slot.
    pub filesystem: usize,
    /// Path that is kept.
    pub path: TreePath,
    /// The slot; unused if the path is a directory.
    pub slot: u32,
}

/// One line of an itemized list of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemizedLine {
    /// Eleven characters as rsync prints them, or `*deleting  `.
    pub change: String,
    /// Path that changes.
    pub path: TreePath,
    /// Text after the path: target of a link, or a slash after a directory.
    pub suffix: String,
    /// Bytes of new content.
    pub bytes: u64,
}

/// An item to be staged.
#[derive(Debug)]
pub struct StagedItem {
    /// Entry of the target manifest.
    pub entry: Entry,
    /// Filesystem that has the stage.
    pub filesystem: usize,
    /// Path in the `new` directory of that stage.
    pub place: TreePath,
    /// Source of the item.
    pub source: ContentSource,
}

/// Source of a staged item.
#[derive(Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// The entry alone describes it: a directory, symbolic link, FIFO or device.
    Node,
    /// A regular file with this content.
    Content {
        /// Size in bytes.
        size: u64,
        /// Digest of the content.
        digest: Digest,
    },
    /// A hard link of another staged item, by its index.
    LinkStaged(usize),
    /// A hard link of a file of the live tree.
    LinkLive {
        /// Path of the file.
        path: TreePath,
        /// The inode that was compared with the target; another one is not linked.
        version: InodeVersion,
    },
}

/// One action of the roll forward at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Filesystem whose stage holds the slot.
    pub filesystem: usize,
    /// Path in the tree.
    pub path: TreePath,
    /// The action.
    pub action: Action,
}

/// Kind of a change, as the journal records it. Each can be repeated without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Renames the staged item to the path, over nothing or over an object that is no directory.
    Install {
        /// Number of the slot.
        slot: u32,
    },
    /// Exchanges the staged item and the object at the path; exactly one of them is a directory.
    Exchange {
        /// Number of the slot.
        slot: u32,
        /// Whether the staged item is the directory.
        to_directory: bool,
    },
    /// Creates an empty directory; another object at the path is moved to the backup slot.
    MakeDir {
        /// Number of the slot.
        slot: u32,
    },
    /// Moves the object at the path to the backup slot.
    Remove {
        /// Number of the slot.
        slot: u32,
    },
    /// Moves the directory at the path, with everything in it, to the backup slot.
    ///
    /// [`Action::CoveredByParent`] lists the paths in it that are to be removed. Any other path in
    /// it is a late arrival, and is moved back.
    RemoveTree {
        /// Number of the slot.
        slot: u32,
    },
    /// No action of its own: a directory above it is moved.
    CoveredByParent,
    /// Removes the directory if it is empty by then.
    RemoveDir,
    /// Sets the mtime in place: nothing else differs, and the inode has no other name.
    SetTime(Mtime),
    /// Sets owner, mode and extended attributes of a directory, after all other changes.
    SetDirMetadata,
}

impl Action {
    /// The slot of the action, if it has one.
    pub(in crate::apply) fn slot(self) -> Option<u32> {
        match self {
            Action::Install { slot }
            | Action::Exchange { slot, .. }
            | Action::MakeDir { slot }
            | Action::Remove { slot }
            | Action::RemoveTree { slot } => Some(slot),
            Action::CoveredByParent
            | Action::RemoveDir
            | Action::SetTime(_)
            | Action::SetDirMetadata => None,
        }
    }

    /// Whether the action adds a directory entry, in the tree or among the backups.
    pub(in crate::apply) fn adds_entry(self) -> bool {
        match self {
            Action::Install { .. } | Action::Exchange { .. } | Action::MakeDir { .. } => true,
            Action::Remove { .. } | Action::RemoveTree { .. } => true,
            Action::CoveredByParent
            | Action::RemoveDir
            | Action::SetTime(_)
            | Action::SetDirMetadata => false,
        }
    }

    /// Whether the action itself adds, replaces or removes an object of the tree.
    pub(in crate::apply) fn is_visible(self) -> bool {
        !matches!(self, Action::SetTime(_) | Action::SetDirMetadata | Action::CoveredByParent)
    }
}

impl ChangePlan {
    /// Whether the tree already matches the target.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Filesystems that take part; that of the root always does, since it has the journal.
    pub fn participating(&self) -> BTreeSet<usize> {
        std::iter::once(0).chain(self.changes.iter().map(|change| change.filesystem)).collect()
    }

    /// Gives each path that is kept for the running kernel a slot for its backup.
    pub(in crate::apply) fn assign_kernel_slots(
        &mut self,
        slots: &mut SlotAllocator,
    ) -> Result<(), SlotsExhausted> {
        for path in &self.kernel_paths {
            let (filesystem, slot) =
                (self.filesystems.slot_filesystem_of(path), slots.take_backup()?);
            self.kernel_backups.push(KernelBackup { filesystem, path: path.clone(), slot });
        }
        Ok(())
    }

    /// Bytes of content to be staged.
    pub fn bytes(&self) -> u64 {
        self.staged_items.iter().map(StagedItem::bytes).sum()
    }

    /// Contents to be staged, with their sizes in bytes.
    pub fn contents(&self) -> BTreeMap<Digest, u64> {
        let contents = self.staged_items.iter().filter_map(|item| match item.source {
            ContentSource::Content { size, digest } => Some((digest, size)),
            _ => None,
        });
        contents.collect()
    }
}

impl StagedItem {
    /// Whether the item is a hard link of another object.
    pub fn is_link(&self) -> bool {
        !matches!(self.source, ContentSource::Node | ContentSource::Content { .. })
    }

    /// Bytes of content; 0 unless the item is a file with content of its own.
    pub fn bytes(&self) -> u64 {
        match self.source {
            ContentSource::Content { size, .. } => size,
            ContentSource::Node | ContentSource::LinkStaged(_) | ContentSource::LinkLive { .. } => {
                0
            }
        }
    }
}

impl ItemizedLine {
    /// The line of a path that is removed without a replacement.
    pub fn deletion(path: TreePath, suffix: &str) -> Self {
        let change = "*deleting  ".to_owned();
        ItemizedLine { change, path, suffix: suffix.to_owned(), bytes: 0 }
    }

    /// Whether a path is removed without a replacement.
    pub fn is_deletion(&self) -> bool {
        self.change.starts_with('*')
    }

    /// Target of a symbolic link, or the path that a hard link shares its inode with; else empty.
    pub fn link_target(&self) -> &str {
        let arrows = [" -> ", " => "];
        arrows.iter().find_map(|arrow| self.suffix.strip_prefix(arrow)).unwrap_or_default()
    }
}

impl fmt::Display for ItemizedLine {
    /// Writes the line as it is printed; the slash of the root is its path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.path.is_root() { "" } else { &self.suffix };
        write!(f, "{} {}{suffix}", self.change, self.path)
    }
}
