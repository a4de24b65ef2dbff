//! Check of the filesystems of an undo set before a rollback: each must be there as at the update.
//!
//! Otherwise the rollback would restore a part of the tree, and write the rest below a mount point
//! or to another disk.

use std::collections::BTreeSet;

use crate::apply::error::{FilesystemFault, RefusalKind, SkipFault, Untouched};
use crate::apply::filesystem::is_mounted;
use crate::apply::undo::undo_log::PriorState;
use crate::apply::undo::undo_set::{LeftOut, UndoSet};
use crate::root::mounts::Mount;
use crate::root::{Root, RootError};
use crate::state;
use crate::tree_path::TreePath;

/// A tree and its mounts, against which an undo set is checked.
#[derive(Clone, Copy)]
pub struct MountedTree<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Mounts below its root.
    pub mounts: &'a [Mount],
}

/// Refuses a rollback if the filesystem of the state directory is not mounted.
///
/// It is called before the lock is taken: the lock file would be created below the mount point.
pub fn check_state_filesystem(undo: &UndoSet, tree: MountedTree<'_>) -> Result<(), Untouched> {
    let check = FilesystemCheck { undo, tree };
    for mount_root in undo.filesystems.mount_roots().iter().skip(1) {
        if state::is_above_own(mount_root) && !check.is_mounted(mount_root)? {
            let mount_root = tree.root.show(mount_root);
            return Err(RefusalKind::StateNotMounted { mount_root }.into());
        }
    }
    Ok(())
}

/// Refuses a rollback unless each filesystem with changes is mounted, or named in `skip`.
///
/// The result leaves out the filesystems in `skip`.
pub fn check_filesystems(
    mut undo: UndoSet,
    tree: MountedTree<'_>,
    skip: &[TreePath],
) -> Result<UndoSet, Untouched> {
    let check = FilesystemCheck { undo: &undo, tree };
    let changed = check.filesystems_with_changes();
    let mut left_out = undo.left_out.clone();
    for path in skip {
        left_out.insert(check.check_skip(path, &changed)?, LeftOut::Skipped);
    }

    for (at, mount_root) in undo.filesystems.mount_roots().iter().enumerate().skip(1) {
        if left_out.contains_key(&at) {
            continue;
        }
        match check.find_fault(at)? {
            Some(fault) if changed.contains(&at) => {
                let (shown, path) = (tree.root.show(mount_root), mount_root.clone());
                return Err(RefusalKind::UndoFilesystem { mount_root: shown, path, fault }.into());
            }
            // Only times of directories would be restored there.
            Some(_) => {
                left_out.insert(at, LeftOut::Unmounted);
            }
            None => {}
        }
    }

    check.check_new_mounts()?;
    undo.left_out = left_out;
    Ok(undo)
}

/// An undo set, and the tree as it is now.
struct FilesystemCheck<'a> {
    undo: &'a UndoSet,
    tree: MountedTree<'a>,
}

impl FilesystemCheck<'_> {
    /// The number of the filesystem at `path`, which may be skipped.
    fn check_skip(&self, path: &TreePath, changed: &BTreeSet<usize>) -> Result<usize, Untouched> {
        let refuse = |reason| {
            let path = self.tree.root.show(path);
            Untouched::from(RefusalKind::NotSkippable { path, reason })
        };
        let mount_roots = self.undo.filesystems.mount_roots();
        let at = mount_roots.iter().position(|mount_root| mount_root == path);
        let at = at.filter(|at| changed.contains(at)).ok_or(refuse(SkipFault::TakesNoPart))?;

        if state::is_above_own(path) {
            return Err(refuse(SkipFault::HoldsState));
        }
        match self.find_fault(at)? {
            Some(FilesystemFault::NotMounted | FilesystemFault::Replaced) => Ok(at),
            Some(FilesystemFault::NoUndoSet) | None => Err(refuse(SkipFault::Mounted)),
        }
    }

    /// Filesystems on which a rollback changes more than times of directories; never the root's.
    fn filesystems_with_changes(&self) -> BTreeSet<usize> {
        let UndoSet { log, filesystems, .. } = self.undo;
        let mut changed = BTreeSet::new();
        for record in log.records.iter().filter(|record| is_change(&record.before)) {
            changed.extend([record.filesystem, filesystems.filesystem_at(&record.path)]);
        }
        changed.extend(log.directories.iter().map(|entry| filesystems.filesystem_at(&entry.path)));
        changed.remove(&0);
        changed
    }

    fn find_fault(&self, at: usize) -> Result<Option<FilesystemFault>, RootError> {
        let mount_root = &self.undo.filesystems.mount_roots()[at];
        if !self.is_mounted(mount_root)? {
            return Ok(Some(FilesystemFault::NotMounted));
        }

        if let Some(recorded) = self.undo.identities.get(mount_root) {
            let present = self.tree.root.below(mount_root)?.filesystem_identity()?;
            if present.as_ref() != Some(recorded) {
                return Ok(Some(FilesystemFault::Replaced));
            }
        }
        let has_slots = self.undo.log.records.iter().any(|record| record.filesystem == at);
        let is_incomplete = has_slots && !self.undo.dirs.contains_key(&at);
        Ok(is_incomplete.then_some(FilesystemFault::NoUndoSet))
    }

    fn is_mounted(&self, mount_root: &TreePath) -> Result<bool, RootError> {
        let points = self.tree.mounts.iter().map(|mount| &mount.at);
        is_mounted(self.tree.root, points, mount_root)
    }

    /// Refuses a mount over a directory that was on the filesystem above it at the update.
    ///
    /// A mount in a directory of a user only leaves out the paths below it.
    fn check_new_mounts(&self) -> Result<(), Untouched> {
        let UndoSet { log, filesystems, .. } = self.undo;
        let has_changes = |at: &TreePath| {
            log.records.iter().any(|record| is_change(&record.before) && record.path.is_below(at))
        };
        let new = self.tree.mounts.iter().filter(|mount| !filesystems.is_mount_root(&mount.at));
        for mount in new.filter(|mount| has_changes(&mount.at)) {
            if !self.tree.root.is_writable_by_others(&mount.at)? {
                let mount = self.tree.root.show(&mount.at);
                return Err(RefusalKind::MountedSince { mount }.into());
            }
        }
        Ok(())
    }
}

fn is_change(before: &PriorState) -> bool {
    !matches!(before, PriorState::DirectoryTime(_))
}
