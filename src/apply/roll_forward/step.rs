//! Execution of single actions. Each first tests whether it was done, so that it can be repeated.
//!
//! | action | done if |
//! |---|---|
//! | install | the staged slot is missing |
//! | exchange | the staged slot is missing, or has the type that was replaced |
//! | make a directory | a directory exists |
//! | remove | the backup exists |
//!
//! The tree may have changed since it was planned. An object that another program created in the
//! way of an action is moved to the backups, never removed.

use crate::apply::error::RedoError;
use crate::apply::filesystem::Filesystems;
use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::on_disk::{obstacle_name, slot_name};
use crate::apply::plan::{Action, Change};
use crate::apply::roll_forward::copy_rename::CopyRename;
use crate::apply::undo::backup;
use crate::entry::Mtime;
use crate::root::{FileKind, Rename, Root, RootError, Stat, mounts};
use crate::tree_path::TreePath;

/// Carries out actions on a tree.
pub(super) struct Executor<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    stages: &'a Stages,
    /// Parent directory of the last action; many actions in a row have the same one.
    parent: Option<(TreePath, Root)>,
    /// Time of the commit.
    sealed_at: Mtime,
    conflicts: &'a mut Conflicts,
}

/// Deviations from the plan; kept when the journal is repeated.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// Directories that had to be created again.
    pub recreated_dirs: Vec<TreePath>,
    /// Files that were edited after the commit point and then replaced.
    pub edited_after_seal: Vec<TreePath>,
}

/// Result of one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActionResult {
    /// The action is done.
    Done,
    /// A directory was not removed because it is not empty.
    DirectoryKept,
}

impl<'a> Executor<'a> {
    pub(super) fn new(
        root: &'a Root,
        filesystems: &'a Filesystems,
        stages: &'a Stages,
        sealed_at: Mtime,
        conflicts: &'a mut Conflicts,
    ) -> Self {
        Executor { root, filesystems, stages, parent: None, sealed_at, conflicts }
    }

    /// Carries out one action, unless it was done.
    pub(super) fn apply(&mut self, change: &Change) -> Result<ActionResult, RedoError> {
        // Directory metadata is set at the end; a covered path is moved with its directory.
        if matches!(change.action, Action::SetDirMetadata | Action::CoveredByParent) {
            return Ok(ActionResult::Done);
        }

        let stages = self.stages;
        let no_stage = || RedoError::NoStage { path: self.root.show(&change.path) };
        let staged = stages.staged(change.filesystem).ok_or_else(no_stage)?;
        let backups = stages.backups(change.filesystem).ok_or_else(no_stage)?;
        let installs = matches!(
            change.action,
            Action::Install { .. } | Action::Exchange { .. } | Action::MakeDir { .. }
        );

        let filesystem = self.filesystems.entry_filesystem_of(&change.path);
        let moves = installs || matches!(change.action, Action::Remove { .. });
        if moves && filesystem != change.filesystem {
            self.parent = None;
            let mount_root = &self.filesystems.mount_roots()[filesystem];
            let copy = CopyRename { root: self.root, mount_root, staged, backups };
            apply_by_copy(&copy, change, &mut self.conflicts.recreated_dirs)?;
            return Ok(ActionResult::Done);
        }

        let has_mount = self.has_mount_below(change);
        let entry = change.path.last_component();
        let Some(parent) = self.open_parent(&change.path, installs.then_some(backups))? else {
            return Ok(ActionResult::Done);
        };
        let rename =
            |slot| SlotRename { parent, entry: &entry, staged, backups, slot: slot_name(slot) };

        match change.action {
            Action::Install { slot } => {
                let replaced = rename(slot).install()?;
                if replaced.is_some_and(|replaced| replaced.is_edited_since(self.sealed_at)) {
                    self.conflicts.edited_after_seal.push(change.path.clone());
                }
            }
            // It would be moved to the undo set, and could not be removed from there.
            Action::Exchange { to_directory: false, .. } if has_mount => {
                return Err(self.root.busy(&change.path).into());
            }
            Action::Exchange { slot, .. } => {
                rename(slot).exchange(NewType::of_exchange(change.action))?;
            }
            Action::MakeDir { slot } => rename(slot).make_dir()?,
            Action::Remove { slot } => rename(slot).remove()?,
            // A filesystem that was mounted meanwhile must not be moved along: the directory stays.
            Action::RemoveTree { .. } if has_mount => {}
            Action::RemoveTree { slot } => rename(slot).remove_tree()?,
            Action::RemoveDir => {
                if !parent.remove_dir(&entry)? {
                    return Ok(ActionResult::DirectoryKept);
                }
            }
            Action::SetTime(mtime) => {
                if let Some(held) = parent.hold(&entry)? {
                    held.set_mtime(mtime)?;
                }
            }
            Action::SetDirMetadata | Action::CoveredByParent => {}
        }
        Ok(ActionResult::Done)
    }

    /// Whether a filesystem is mounted below a directory that is moved to the backups, by now.
    fn has_mount_below(&self, change: &Change) -> bool {
        let moves_directory = matches!(
            change.action,
            Action::RemoveTree { .. } | Action::Exchange { to_directory: false, .. }
        );
        if !moves_directory {
            return false;
        }
        let mounts = mounts::read(self.root.location());
        mounts.is_ok_and(|(_, mounts)| mounts.iter().any(|mount| mount.at.is_below(&change.path)))
    }

    /// Opens the directory that contains `path`.
    ///
    /// With `backups` the action adds an entry: a missing directory is created again, and an object
    /// in its place is moved to `backups`. Otherwise a missing directory means that there is
    /// nothing left to do.
    fn open_parent(
        &mut self,
        path: &TreePath,
        backups: Option<&Root>,
    ) -> Result<Option<&Root>, RootError> {
        let Some(parent) = path.parent() else { return Ok(None) };

        // Only if the last action had another parent.
        if self.parent.as_ref().is_none_or(|(open, _)| *open != parent) {
            self.parent = None;
            if let Some(backups) = backups {
                let displace = |obstacle: &TreePath, slot: &TreePath| {
                    self.root.rename(obstacle, backups, slot, Rename::NoReplace)
                };
                let recreated = &mut self.conflicts.recreated_dirs;
                recreate_parents(self.root, backups, path, &displace, recreated)?;
            }
            match self.root.below(&parent) {
                Ok(open) => self.parent = Some((parent, open)),
                Err(error) if error.is_absent() && backups.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.parent.as_ref().map(|(_, open)| open))
    }
}

/// Carries out an action on a limited filesystem, where a copy replaces the rename.
fn apply_by_copy(
    copy: &CopyRename,
    change: &Change,
    recreated: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let (root, path) = (copy.root, &change.path);
    if !matches!(change.action, Action::Remove { .. }) {
        let displace = |obstacle: &TreePath, slot: &TreePath| copy.displace(slot, obstacle);
        recreate_parents(root, copy.backups, path, &displace, recreated)?;
    }

    let is_directory = root.stat(path)?.map(|live| live.kind == FileKind::Directory);
    match change.action {
        Action::Install { slot } | Action::Exchange { slot, .. } => {
            match copy.staged.stat(&slot_name(slot))? {
                Some(_) => copy.install(&slot_name(slot), path),
                None => Ok(()),
            }
        }
        // A directory was created there after planning: it is not the object to be removed.
        Action::Remove { slot } if is_directory == Some(false) => {
            copy.displace(&slot_name(slot), path)
        }
        Action::MakeDir { slot } if is_directory != Some(true) => {
            if is_directory.is_some() {
                copy.displace(&slot_name(slot), path)?;
            }
            root.create_dir(path)
        }
        _ => Ok(()),
    }
}

/// An object that an install replaced.
struct Replaced {
    live: Stat,
    /// Whether the backup is a link of the object, and not a copy.
    is_linked: bool,
}

impl Replaced {
    /// Whether the object was edited after the commit point.
    ///
    /// Linking and unlinking an inode changes its ctime as well, and the backup is a second link. So
    /// with more links, or without that one, only the time of the content counts.
    fn is_edited_since(&self, sealed_at: Mtime) -> bool {
        let has_own_ctime = self.is_linked && self.live.links <= 2;
        self.live.ctime > sealed_at && (has_own_ctime || self.live.mtime > sealed_at)
    }
}

/// Type of the object that an exchange installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewType {
    Directory,
    Leaf,
}

impl NewType {
    /// The type in an [`Action::Exchange`].
    pub(super) fn of_exchange(exchange: Action) -> Self {
        match exchange {
            Action::Exchange { to_directory: true, .. } => NewType::Directory,
            _ => NewType::Leaf,
        }
    }

    pub(super) fn is_of(self, stat: &Stat) -> bool {
        (stat.kind == FileKind::Directory) == (self == NewType::Directory)
    }
}

/// Renames between a slot and an entry of a directory on the same filesystem.
struct SlotRename<'a> {
    parent: &'a Root,
    entry: &'a TreePath,
    staged: &'a Root,
    backups: &'a Root,
    slot: TreePath,
}

impl SlotRename<'_> {
    /// Renames the staged slot to the entry; returns the object that it replaced.
    fn install(&self) -> Result<Option<Replaced>, RootError> {
        let Some(new) = self.staged.stat(&self.slot)? else { return Ok(None) };
        let Some(live) = self.parent.stat(self.entry)? else {
            self.rename_staged(Rename::NoReplace)?;
            return Ok(None);
        };

        if live.kind == FileKind::Directory || new.kind == FileKind::Directory {
            // The object was created there after the commit point; its type does not matter.
            self.move_to_backups()?;
            self.rename_staged(Rename::NoReplace)?;
            return Ok(Some(Replaced { live, is_linked: true }));
        }

        let backup = self.backups.stat(&self.slot)?;
        let mut is_linked = backup.is_some_and(|backup| backup::is_same_inode(&backup, &live));
        if !backup.is_some_and(|backup| backup::is_backup_of(&backup, &live)) {
            // The file was replaced after the backup of its predecessor was made.
            self.backups.unlink(&self.slot)?;
            backup::link_backup(self.parent, self.backups, &self.slot, self.entry)?;
            is_linked = true;
        }
        if (new.dev, new.ino) == (live.dev, live.ino) {
            // rename(2) between two links of one inode does nothing.
            self.staged.unlink(&self.slot)?;
            return Ok(None);
        }
        self.rename_staged(Rename::Replace)?;
        Ok(Some(Replaced { live, is_linked }))
    }

    /// Exchanges the staged slot and the entry, then moves the replaced object to the backups.
    ///
    /// One of the two is a directory. So the type of the slot shows whether the exchange was done.
    fn exchange(&self, new: NewType) -> Result<(), RootError> {
        let Some(staged) = self.staged.stat(&self.slot)? else { return Ok(()) };
        if new.is_of(&staged) {
            let live = self.parent.stat(self.entry)?;
            match live {
                None => return self.rename_staged(Rename::NoReplace),
                Some(live) if new.is_of(&live) => {
                    self.move_to_backups()?;
                    return self.rename_staged(Rename::NoReplace);
                }
                Some(_) => {}
            }

            match self.rename_staged(Rename::Exchange) {
                // The filesystem has no RENAME_EXCHANGE: the path is missing for a moment.
                Err(error) if error.is_unsupported() => {
                    self.move_to_backups()?;
                    return self.rename_staged(Rename::NoReplace);
                }
                answer => answer?,
            }
        }
        self.staged.rename(&self.slot, self.backups, &self.slot, Rename::NoReplace)
    }

    fn make_dir(&self) -> Result<(), RootError> {
        match self.parent.stat(self.entry)? {
            Some(live) if live.kind == FileKind::Directory => return Ok(()),
            Some(_) => self.move_to_backups()?,
            None => {}
        }
        self.parent.create_dir(self.entry)
    }

    /// Moves the object to the backups, unless it is a directory: that was created after planning.
    fn remove(&self) -> Result<(), RootError> {
        if self.backups.stat(&self.slot)?.is_some() {
            return Ok(());
        }
        match self.parent.stat(self.entry)? {
            Some(live) if live.kind != FileKind::Directory => self.rename_to_backups(),
            _ => Ok(()),
        }
    }

    /// Moves the directory to the backups; any other object was created after planning.
    fn remove_tree(&self) -> Result<(), RootError> {
        if self.backups.stat(&self.slot)?.is_some() {
            return Ok(());
        }
        match self.parent.stat(self.entry)? {
            Some(live) if live.kind == FileKind::Directory => self.rename_to_backups(),
            _ => Ok(()),
        }
    }

    fn rename_staged(&self, mode: Rename) -> Result<(), RootError> {
        self.staged.rename(&self.slot, self.parent, self.entry, mode)
    }

    fn rename_to_backups(&self) -> Result<(), RootError> {
        self.parent.rename(self.entry, self.backups, &self.slot, Rename::NoReplace)
    }

    /// Moves the object to the backups, in place of a backup that is there.
    fn move_to_backups(&self) -> Result<(), RootError> {
        self.backups.remove_tree(&self.slot)?;
        self.rename_to_backups()
    }
}

/// Creates the missing directories above `path`, and adds them to `recreated`.
///
/// `displace` moves an object in the place of a directory to a free name among `backups`. The final
/// metadata of a directory of the image is set at the end, as for all directories.
fn recreate_parents(
    root: &Root,
    backups: &Root,
    path: &TreePath,
    displace: &dyn Fn(&TreePath, &TreePath) -> Result<(), RootError>,
    recreated: &mut Vec<TreePath>,
) -> Result<(), RootError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if root.stat(&parent)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Ok(());
    }

    recreate_parents(root, backups, &parent, displace, recreated)?;
    if root.stat(&parent)?.is_some() {
        let mut number = 0;
        while backups.stat(&obstacle_name(number))?.is_some() {
            number += 1;
        }
        displace(&parent, &obstacle_name(number))?;
    }
    root.create_dir(&parent)?;
    recreated.push(parent);
    Ok(())
}
