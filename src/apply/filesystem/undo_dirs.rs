//! Undo sets: the directories `.si-undo` at the mount roots of the last transaction.
//!
//! The undo set on the root's filesystem has the undo log; without it the others are no undo set.
//! So the root's is removed first: a part of a set must never be taken for a set.

use std::collections::{BTreeSet, HashSet};

use crate::apply::filesystem::{Filesystems, free_name, stage_dirs};
use crate::apply::on_disk::{
    BACKUP_DIR, DISPLACED_LIST, REMOVED_UNDO, REPAIRED_PREFIX, STAGED_DIR, UNDO_DIR,
};
use crate::root::{FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// The undo set of a filesystem, if it exists.
pub fn open(root: &Root, filesystems: &Filesystems, at: usize) -> Result<Option<Root>, RootError> {
    let undo = filesystems.at_mount_root(at, UNDO_DIR);
    match root.stat(&undo)? {
        Some(stat) if stat.kind == FileKind::Directory => root.below(&undo).map(Some),
        _ => Ok(None),
    }
}

/// Makes the undo sets of the filesystems in `which` their staged content, for a rollback.
///
/// It can be repeated: a staged directory that exists is the undo set already.
pub fn take_over(
    root: &Root,
    filesystems: &Filesystems,
    which: impl Iterator<Item = usize>,
) -> Result<(), RootError> {
    for at in which {
        let staged = filesystems.in_stage(at, STAGED_DIR);
        let undo = filesystems.at_mount_root(at, UNDO_DIR);
        if root.stat(&staged)?.is_some() {
            continue;
        }
        match root.stat(&undo)? {
            Some(_) => root.rename(&undo, root, &staged, Rename::NoReplace)?,
            None => root.create_dir(&staged)?,
        }
    }
    Ok(())
}

/// Gives the undo sets back that [`take_over`] took. It can be repeated.
pub fn give_back(
    root: &Root,
    filesystems: &Filesystems,
    which: impl Iterator<Item = usize>,
) -> Result<(), RootError> {
    for at in which {
        let staged = filesystems.in_stage(at, STAGED_DIR);
        let undo = filesystems.at_mount_root(at, UNDO_DIR);
        if root.stat(&staged)?.is_some() && root.stat(&undo)?.is_none() {
            root.rename(&staged, root, &undo, Rename::NoReplace)?;
            sync_mount_root(root, filesystems, at)?;
        }
    }
    Ok(())
}

/// Replaces the undo sets by the backups of the filesystems in `which`. It can be repeated.
pub fn replace(
    root: &Root,
    filesystems: &Filesystems,
    which: &BTreeSet<usize>,
) -> Result<(), RootError> {
    for at in 0..filesystems.mount_roots().len() {
        let backups = filesystems.in_stage(at, BACKUP_DIR);
        if !which.contains(&at) {
            remove(root, filesystems, at)?;
        } else if root.stat(&backups)?.is_some() {
            remove(root, filesystems, at)?;
            let undo = filesystems.at_mount_root(at, UNDO_DIR);
            root.rename(&backups, root, &undo, Rename::NoReplace)?;
            carry_over_repairs(root, filesystems, at)?;
            sync_mount_root(root, filesystems, at)?;
        }
    }
    Ok(())
}

/// Moves the backups of earlier repairs into the new undo set.
///
/// After a rollback they are in the staged directory, which was the undo set before.
fn carry_over_repairs(root: &Root, filesystems: &Filesystems, at: usize) -> Result<(), RootError> {
    for (path, _) in root.children(&filesystems.in_stage(at, STAGED_DIR))? {
        if path.name().starts_with(REPAIRED_PREFIX.as_bytes()) {
            let repaired = free_repaired_name(root, filesystems, at)?;
            root.rename(&path, root, &repaired, Rename::NoReplace)?;
        }
    }
    Ok(())
}

/// Adds the backups of the filesystems in `which` to the undo sets, as those of a repair.
///
/// It can be repeated.
pub fn append(
    root: &Root,
    filesystems: &Filesystems,
    which: &BTreeSet<usize>,
) -> Result<(), RootError> {
    for &at in which {
        let backups = filesystems.in_stage(at, BACKUP_DIR);
        let undo = filesystems.at_mount_root(at, UNDO_DIR);
        if root.children(&backups)?.is_empty() {
            continue;
        }

        if root.stat(&undo)?.is_none() {
            root.create_dir(&undo)?;
        }
        let repaired = free_repaired_name(root, filesystems, at)?;
        root.rename(&backups, root, &repaired, Rename::NoReplace)?;
        if at != 0 {
            root.sync_dir(&undo)?;
        }
        sync_mount_root(root, filesystems, at)?;
    }
    Ok(())
}

/// Makes the entry `.si-undo` of a filesystem durable, except for the root's.
///
/// As long as `done` exists, a later run repeats the rename of the backups. `done` is on the root's
/// filesystem, which keeps the order of its own changes. The other filesystems have to be synced
/// before `done` is removed, or a power cut would lose their backups.
fn sync_mount_root(root: &Root, filesystems: &Filesystems, at: usize) -> Result<(), RootError> {
    if at == 0 { Ok(()) } else { root.sync_dir(&filesystems.mount_roots()[at]) }
}

fn free_repaired_name(
    root: &Root,
    filesystems: &Filesystems,
    at: usize,
) -> Result<TreePath, RootError> {
    free_name(root, &filesystems.at_mount_root(at, UNDO_DIR), REPAIRED_PREFIX)
}

/// Removes all backups except the slots in `slots` and the list of displaced paths.
pub fn remove_backups_except(
    root: &Root,
    filesystems: &Filesystems,
    slots: &HashSet<(usize, TreePath)>,
) -> Result<(), RootError> {
    for at in 0..filesystems.mount_roots().len() {
        for (path, _) in root.children(&filesystems.in_stage(at, BACKUP_DIR))? {
            let is_list = path.name() == DISPLACED_LIST.as_bytes();
            if !is_list && !slots.contains(&(at, path.last_component())) {
                root.remove_tree(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes the undo sets of all filesystems, the root's first.
pub fn remove_all(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    (0..filesystems.mount_roots().len()).try_for_each(|at| remove(root, filesystems, at))
}

/// Removes the undo set of a filesystem.
///
/// If there is a stage, one rename moves the set into it, and it is removed with the stage.
fn remove(root: &Root, filesystems: &Filesystems, at: usize) -> Result<(), RootError> {
    let undo = filesystems.at_mount_root(at, UNDO_DIR);
    if root.stat(&undo)?.is_none() || !stage_dirs::exists(root, filesystems, at)? {
        return root.remove_tree(&undo);
    }
    let removed = filesystems.in_stage(at, REMOVED_UNDO);
    root.remove_tree(&removed)?;
    root.rename(&undo, root, &removed, Rename::NoReplace)
}
