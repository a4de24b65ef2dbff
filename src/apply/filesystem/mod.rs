//! Mount topology: the filesystems below a root, and the one that each path belongs to.
//!
//! rename(2) cannot move an object to another filesystem. So each filesystem that takes part in a
//! transaction has a stage and an undo set of its own, at its mount root. Bind mounts and nested
//! btrfs subvolumes count as filesystems too, since a rename cannot leave them either.
//!
//! A [limited filesystem](limited) has no slots: those of the root's filesystem serve it, and a
//! copy replaces each rename.

pub mod held_times;
pub mod limited;
pub mod link_limits;
pub mod mount_root_times;
pub(in crate::apply) mod stage_dirs;
pub(in crate::apply) mod stage_lock;
#[cfg(test)]
mod tests;
pub(in crate::apply) mod undo_dirs;

use crate::apply::on_disk::{STAGE_DIR, name};
use crate::root::mounts::Mount;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// The filesystems of a tree, by their mount roots in tree order; number 0 is the root's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystems {
    mount_roots: Vec<TreePath>,
    /// Mount roots of limited filesystems. A journal does not record them.
    limited: Vec<TreePath>,
}

/// Origin of the content in the slots of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// The content was staged.
    #[default]
    Stage,
    /// The undo set is the content: the transaction is a rollback.
    Undo,
}

impl Default for Filesystems {
    /// The root's filesystem alone.
    fn default() -> Self {
        Filesystems::new(Vec::new())
    }
}

impl Filesystems {
    /// The root's filesystem and those mounted at `mount_points`.
    pub fn new(mount_points: Vec<TreePath>) -> Self {
        Filesystems::from_mount_roots(vec![TreePath::root()]).with_roots(mount_points)
    }

    /// Exactly these filesystems, as a journal or an undo log lists them.
    pub fn from_mount_roots(mount_roots: Vec<TreePath>) -> Self {
        Filesystems { mount_roots, limited: Vec::new() }
    }

    /// These filesystems and those at `mount_roots`.
    pub fn with_roots(&self, mut mount_roots: Vec<TreePath>) -> Self {
        mount_roots.extend_from_slice(&self.mount_roots);
        mount_roots.sort_unstable();
        mount_roots.dedup();
        Filesystems { mount_roots, limited: self.limited.clone() }
    }

    /// These filesystems, with the limited ones of `mounts` marked.
    pub fn with_limited(&self, mounts: &[Mount]) -> Self {
        let limited =
            mounts.iter().filter(|mount| mount.is_limited()).map(|mount| mount.at.clone());
        Filesystems { mount_roots: self.mount_roots.clone(), limited: limited.collect() }
    }

    /// Mount roots, in tree order; the index is the number of the filesystem.
    pub fn mount_roots(&self) -> &[TreePath] {
        &self.mount_roots
    }

    /// The filesystem with the directory entry of `path`.
    ///
    /// A mount root, as an entry, belongs to the filesystem above it.
    pub fn entry_filesystem_of(&self, path: &TreePath) -> usize {
        // The last one in tree order is the innermost.
        self.mount_roots.iter().rposition(|mount_root| path.is_below(mount_root)).unwrap_or(0)
    }

    /// The filesystem that `path` is on or is the mount root of.
    pub fn filesystem_at(&self, path: &TreePath) -> usize {
        let mount_root = self.mount_roots.binary_search(path);
        mount_root.unwrap_or_else(|_| self.entry_filesystem_of(path))
    }

    /// The filesystem whose slots serve `path`: the root's if the entry's is limited.
    pub fn slot_filesystem_of(&self, path: &TreePath) -> usize {
        self.slot_filesystem(self.entry_filesystem_of(path))
    }

    /// The filesystem whose slots serve the inode of the directory `path`.
    ///
    /// It differs from [`Filesystems::slot_filesystem_of`] for mount roots.
    pub fn slot_filesystem_of_dir(&self, path: &TreePath) -> usize {
        self.slot_filesystem(self.filesystem_at(path))
    }

    /// Whether `path` is on a limited filesystem.
    pub fn is_limited(&self, path: &TreePath) -> bool {
        self.limited.iter().any(|mount_root| path == mount_root || path.is_below(mount_root))
    }

    /// Whether `path` is the mount root of a filesystem.
    pub fn is_mount_root(&self, path: &TreePath) -> bool {
        self.mount_roots.contains(path)
    }

    /// Makes the filesystems in `which` durable.
    pub fn sync(&self, root: &Root, which: impl Iterator<Item = usize>) -> Result<(), RootError> {
        for at in which {
            root.below(&self.mount_roots[at])?.sync_filesystem()?;
            // syncfs(2) does not reach the server of a FUSE filesystem, fsync(2) does.
            root.sync_dir(&self.mount_roots[at])?;
        }
        Ok(())
    }

    fn slot_filesystem(&self, at: usize) -> usize {
        if self.limited.contains(&self.mount_roots[at]) { 0 } else { at }
    }

    /// The path `entry` at the mount root of filesystem `at`.
    fn at_mount_root(&self, at: usize, entry: &str) -> TreePath {
        // A mount point is far shorter than the longest path.
        self.mount_roots[at].join(entry.as_bytes()).unwrap_or_else(|_| name(entry))
    }

    /// The path `entry` in the stage of filesystem `at`.
    fn in_stage(&self, at: usize, entry: &str) -> TreePath {
        let stage = self.at_mount_root(at, STAGE_DIR);
        stage.join(entry.as_bytes()).unwrap_or_else(|_| name(entry))
    }
}

/// Whether a filesystem is mounted at `mount_root`, or a btrfs subvolume exists there.
///
/// `mount_points` are those of the mount table, which does not list nested subvolumes.
pub fn is_mounted<'a>(
    root: &Root,
    mut mount_points: impl Iterator<Item = &'a TreePath>,
    mount_root: &TreePath,
) -> Result<bool, RootError> {
    if mount_points.any(|point| point == mount_root) {
        return Ok(true);
    }
    let Some(parent) = mount_root.parent() else { return Ok(true) };
    let (stat, parent) = (root.stat(mount_root)?, root.stat(&parent)?);
    Ok(stat.zip(parent).is_some_and(|(stat, parent)| stat.dev != parent.dev))
}

/// The path `prefix` with the first free number in `directory`.
fn free_name(root: &Root, directory: &TreePath, prefix: &str) -> Result<TreePath, RootError> {
    let mut number = 1;
    loop {
        let entry = format!("{prefix}{number}");
        let path = directory.join(entry.as_bytes()).unwrap_or_else(|_| name(&entry));
        if root.stat(&path)?.is_none() {
            return Ok(path);
        }
        number += 1;
    }
}
