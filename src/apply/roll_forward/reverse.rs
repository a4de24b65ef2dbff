//! Reversal of a transaction after its commit point, by the undo log and the backups.
//!
//! A durable mark beside the journal begins it: no later run carries out the journal any more. Each
//! change is then undone, the last one first, and each of these steps tests whether it was done. A
//! staged object returns to its slot, so that a rollback leaves its undo set complete. At the end
//! the journal is removed, and the tree and its recorded state are as before the transaction.
//!
//! | change | it was made if | it is undone by |
//! |---|---|---|
//! | install, over nothing | the staged slot is missing | a rename of the object to the slot |
//! | install, over an object | a backup exists, and the staged slot is missing or is the live inode | a link of the object in the slot, then a rename of the backup |
//! | exchange | the staged slot is missing, or has the type that was replaced | the moves in reverse |
//! | make a directory | the undo log says that nothing was there | removing it, if it is empty |
//! | remove | the backup exists | a rename of the backup |
//!
//! An object that another program created in the way is moved to a free name among the backups,
//! which are then kept beside the undo set.

use std::collections::HashMap;

use crate::apply::error::RedoError;
use crate::apply::filesystem::stage_dirs::{self, Stages};
use crate::apply::filesystem::{Filesystems, Slots, undo_dirs};
use crate::apply::journal::{self, space_reserve};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{copied_slot_name, obstacle_name, slot_name};
use crate::apply::plan::{Action, Change};
use crate::apply::roll_forward::RollForward;
use crate::apply::roll_forward::copy_rename::CopyRename;
use crate::apply::roll_forward::finalize::{self, MetadataScope};
use crate::apply::roll_forward::refusal::{LeftOut, Retries};
use crate::apply::roll_forward::step::NewType;
use crate::apply::undo;
use crate::apply::undo::undo_log::{PriorState, UndoLog};
use crate::entry::{Entry, Meta, Mtime, Node, Xattrs};
use crate::root::{Descend, FileKind, Rename, Root, RootError, Stat};
use crate::state::{self, LoadedState};
use crate::tree_path::TreePath;

impl RollForward<'_> {
    /// Reverses the transaction; returns the paths that could not be restored.
    ///
    /// An error leaves the journal and the mark: the next run completes the reversal.
    pub(super) fn reverse(&self) -> Result<Vec<String>, RedoError> {
        let (root, filesystems, journal) = (self.root, &self.filesystems, self.journal);
        let stages = stage_dirs::open_all(root, filesystems)?;
        let log = stages.backups(0).map(UndoLog::read).transpose()?.flatten();
        let is_reversing = journal::is_reversing(root)?;
        let Some(log) = log else {
            if is_reversing {
                // Everything is undone: the end of a reversal removes the log before the journal.
                Retries::default().attempt(|| self.end_reversal(&stages))?;
                return Ok(Vec::new());
            }
            // An older version wrote none for a transaction whose backups are not retained.
            return Err(RedoError::NoUndoLog);
        };

        if !is_reversing {
            self.monitor.warn(ApplyNotice::Reversing);
            Retries::default().attempt(|| journal::begin_reversal(root))?;
        }

        // Set-id bits and capabilities may have been removed from the backups already.
        Retries::default().attempt(|| -> Result<(), RedoError> {
            Ok(undo::restore_backup_privileges(&stages)?)
        })?;

        let mut reversal = Reversal::new(self, &stages, &log)?;
        for change in journal.changes.iter().rev() {
            reversal.undo_or_leave_out(change)?;
        }
        reversal.restore_directories()?;
        let Reversal { left_out, mut retries, .. } = reversal;

        if journal.slots == Slots::Undo {
            undo::remove_staged_privileges(&stages, self.monitor)?;
        }
        retries.attempt(|| finalize::sync(root, filesystems, journal))?;
        self.record_left_out(&left_out);
        retries.attempt(|| self.end_reversal(&stages))?;
        Ok(left_out.topmost().map(|(path, _)| root.show(path)).collect())
    }

    /// Gives the undo set back, keeps displaced objects, and removes the journal.
    ///
    /// It can be repeated after an interruption at any step.
    fn end_reversal(&self, stages: &Stages) -> Result<(), RootError> {
        let (root, filesystems, journal) = (self.root, &self.filesystems, self.journal);
        let participants = journal.participants();
        if journal.slots == Slots::Undo {
            undo_dirs::give_back(root, filesystems, participants.iter().copied())?;
        }
        // The list is among the backups, which may have been moved already.
        let is_moved = stages.backups(0).is_none();
        if is_moved || !undo::read_displaced(stages)?.is_empty() {
            if let Some(backups) = stages.backups(0) {
                UndoLog::remove(backups)?;
            }
            undo_dirs::append(root, filesystems, &participants)?;
        }
        let _ = space_reserve::release(root, filesystems);
        journal::end_reversal(root)
    }

    /// Records paths that could not be restored in the state, which is that of before.
    fn record_left_out(&self, left_out: &LeftOut) {
        if left_out.paths().is_empty() {
            return;
        }
        let recorded = match state::load(self.root) {
            Ok(LoadedState::Valid(mut state) | LoadedState::FromCopy(mut state)) => {
                for (path, refusal) in left_out.paths() {
                    state.record_left_out(path, format!("not restored: {refusal}"));
                }
                state::save(self.root, &state, None).is_ok()
            }
            _ => false,
        };
        if !recorded {
            let count = left_out.paths().len();
            self.monitor.warn(ApplyNotice::ReversalUnrecorded { count });
        }
    }
}

/// A transaction that is being reversed.
struct Reversal<'a> {
    root: &'a Root,
    filesystems: &'a Filesystems,
    stages: &'a Stages,
    log: &'a UndoLog,
    /// Prior states by path.
    before: HashMap<&'a TreePath, PriorState>,
    slots: Slots,
    /// Time of the commit.
    sealed_at: Mtime,
    retries: Retries,
    left_out: LeftOut,
}

impl<'a> Reversal<'a> {
    fn new(
        run: &'a RollForward<'_>,
        stages: &'a Stages,
        log: &'a UndoLog,
    ) -> Result<Self, RootError> {
        // A directory time is no state of a path of its own.
        let records =
            log.records.iter().filter(|r| !matches!(r.before, PriorState::DirectoryTime(_)));
        let before = records.map(|record| (&record.path, record.before)).collect();
        Ok(Reversal {
            root: run.root,
            filesystems: &run.filesystems,
            stages,
            log,
            before,
            slots: run.journal.slots,
            sealed_at: journal::sealed_at(run.root)?,
            retries: Retries::default(),
            left_out: LeftOut::default(),
        })
    }

    /// Whether another program has created an object since the commit.
    fn is_of_other(&self, path: &TreePath, stat: &Stat) -> bool {
        !self.before.contains_key(path) && stat.ctime > self.sealed_at
    }

    /// Undoes a change; leaves it out if a user refuses it.
    fn undo_or_leave_out(&mut self, change: &Change) -> Result<(), RedoError> {
        let mut retries = std::mem::take(&mut self.retries);
        let undone = retries.attempt(|| self.undo(change));
        self.retries = retries;

        let Err(error) = undone else { return Ok(()) };
        let refusal = error.into_refusal()?;
        self.left_out.add(self.root, self.filesystems, &change.path, refusal)?;
        // Its backup is the only copy of the object.
        Ok(self.list_displaced(std::slice::from_ref(&change.path))?)
    }

    fn undo(&mut self, change: &Change) -> Result<(), RedoError> {
        let slot = match change.action {
            Action::Install { slot }
            | Action::Exchange { slot, .. }
            | Action::MakeDir { slot }
            | Action::Remove { slot }
            | Action::RemoveTree { slot } => slot_name(slot),
            Action::RemoveDir => return Ok(self.recreate_dir(&change.path)?),
            Action::SetTime(_) => return Ok(self.restore_time(&change.path)?),
            // Directory metadata is restored at the end.
            Action::SetDirMetadata | Action::CoveredByParent => return Ok(()),
        };
        let no_stage = || RedoError::NoStage { path: self.root.show(&change.path) };
        let staged = self.stages.staged(change.filesystem).ok_or_else(no_stage)?;
        let backups = self.stages.backups(change.filesystem).ok_or_else(no_stage)?;

        let filesystem = self.filesystems.entry_filesystem_of(&change.path);
        let is_moved = !matches!(change.action, Action::RemoveTree { .. });
        if is_moved && filesystem != change.filesystem {
            let mount_root = &self.filesystems.mount_roots()[filesystem];
            let swapped =
                CopyRename { root: self.root, mount_root, staged: backups, backups: staged };
            return Ok(self.undo_by_copy(&swapped, change, &slot)?);
        }

        let Some(above) = change.path.parent() else { return Ok(()) };
        let parent = match self.root.below(&above) {
            Ok(parent) => parent,
            // Another program removed it: nothing can be restored in it.
            Err(error) if error.is_absent() && backups.stat(&slot)?.is_none() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let entry = change.path.last_component();
        let moves = SlotMoves { parent: &parent, entry: &entry, staged, backups, slot };

        match change.action {
            Action::Install { .. } => self.undo_install(&moves, &change.path)?,
            Action::Exchange { .. } => {
                self.undo_exchange(&moves, &change.path, NewType::of_exchange(change.action))?;
            }
            Action::MakeDir { .. } => self.undo_make_dir(&moves, &change.path)?,
            Action::Remove { .. } | Action::RemoveTree { .. } => {
                self.undo_removal(&moves, &change.path)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Restores the object that an install replaced, or removes the one that it installed.
    fn undo_install(&mut self, moves: &SlotMoves<'_>, path: &TreePath) -> Result<(), RootError> {
        let SlotMoves { parent, entry, staged, backups, slot } = moves;
        let live = parent.stat(entry)?;

        if backups.stat(slot)?.is_none() {
            let (None, Some(live)) = (staged.stat(slot)?, live) else { return Ok(()) };
            if !matches!(self.before.get(path), Some(PriorState::Missing(_))) {
                return Ok(());
            }
            return match live.kind {
                FileKind::Directory => self.remove_installed_dir(moves, path),
                _ => parent.rename(entry, staged, slot, Rename::NoReplace),
            };
        }

        let Some(live) = live else {
            return backups.rename(slot, parent, entry, Rename::NoReplace);
        };
        match staged.stat(slot)? {
            // It was not installed.
            Some(new) if !is_same_inode(&new, &live) => return Ok(()),
            Some(_) => {}
            None => {
                let linked = match parent.hold(entry)? {
                    Some(held) if live.kind != FileKind::Directory => {
                        held.link_to(staged, slot).is_ok()
                    }
                    _ => false,
                };
                if !linked {
                    // A directory, or an inode that can have no other link.
                    parent.rename(entry, staged, slot, Rename::NoReplace)?;
                    return backups.rename(slot, parent, entry, Rename::NoReplace);
                }
            }
        }
        backups.rename(slot, parent, entry, Rename::Replace)?;
        // rename(2) between two links of one inode does nothing.
        backups.unlink(slot)
    }

    /// Moves a new directory back to its slot, unless another program has created paths in it.
    ///
    /// Then only the paths of the transaction are removed.
    fn remove_installed_dir(
        &mut self,
        moves: &SlotMoves<'_>,
        path: &TreePath,
    ) -> Result<(), RootError> {
        let SlotMoves { parent, entry, staged, slot, .. } = moves;
        let mut installed: Vec<(TreePath, FileKind)> = Vec::new();
        let mut has_others = false;
        self.root.walk::<RootError>(path, |visit| {
            if self.is_of_other(&visit.path, &visit.stat) {
                has_others = true;
                return Ok(Descend::Past);
            }
            installed.push((visit.path, visit.stat.kind));
            Ok(Descend::Into)
        })?;
        // The undo set of a rollback keeps the content of the directory.
        if !has_others || self.slots == Slots::Undo {
            return parent.rename(entry, staged, slot, Rename::NoReplace);
        }

        // In reverse tree order, a directory follows everything in it.
        for (path, kind) in installed.iter().rev() {
            match kind {
                FileKind::Directory => self.root.remove_dir(path).map(drop)?,
                _ => self.root.unlink(path)?,
            }
        }
        Ok(())
    }

    fn undo_exchange(
        &mut self,
        moves: &SlotMoves<'_>,
        path: &TreePath,
        installed: NewType,
    ) -> Result<(), RootError> {
        let SlotMoves { parent, entry, staged, backups, slot } = moves;
        let is_new = |stat: &Stat| installed.is_of(stat);
        let displaced_new = copied_slot_name(slot);

        if staged.stat(slot)?.is_none() && backups.stat(slot)?.is_some() {
            backups.rename(slot, staged, slot, Rename::NoReplace)?;
        }
        match (staged.stat(slot)?, parent.stat(entry)?) {
            (Some(old), None) if !is_new(&old) => {
                staged.rename(slot, parent, entry, Rename::NoReplace)?;
            }
            (Some(old), Some(live)) if !is_new(&old) && is_new(&live) => {
                match staged.rename(slot, parent, entry, Rename::Exchange) {
                    // The filesystem has no RENAME_EXCHANGE: the path is missing for a moment.
                    Err(error) if error.is_unsupported() => {
                        parent.rename(entry, backups, &displaced_new, Rename::NoReplace)?;
                        staged.rename(slot, parent, entry, Rename::NoReplace)?;
                    }
                    answer => answer?,
                }
            }
            // Without RENAME_EXCHANGE, the replaced object was already among the backups.
            (Some(new), None) if is_new(&new) && backups.stat(slot)?.is_some() => {
                backups.rename(slot, parent, entry, Rename::NoReplace)?;
            }
            _ => {}
        }
        if backups.stat(&displaced_new)?.is_some() && staged.stat(slot)?.is_none() {
            backups.rename(&displaced_new, staged, slot, Rename::NoReplace)?;
        }

        if installed == NewType::Directory && self.slots == Slots::Stage {
            self.keep_others_in(moves, path)?;
        }
        Ok(())
    }

    /// Keeps a staged directory among the backups if another program has created paths in it.
    fn keep_others_in(&mut self, moves: &SlotMoves<'_>, path: &TreePath) -> Result<(), RootError> {
        let SlotMoves { staged, backups, slot, .. } = moves;
        let Some(FileKind::Directory) = staged.stat(slot)?.map(|stat| stat.kind) else {
            return Ok(());
        };
        let mut others = Vec::new();
        staged.walk::<RootError>(slot, |visit| {
            let below = &visit.path.as_bytes()[slot.as_bytes().len()..];
            match TreePath::new([path.as_bytes(), below].concat()) {
                Ok(path) if self.is_of_other(&path, &visit.stat) => others.push(path),
                _ => {}
            }
            Ok(Descend::Into)
        })?;
        if others.is_empty() {
            return Ok(());
        }
        self.list_displaced(&others)?;
        staged.rename(slot, backups, slot, Rename::NoReplace)
    }

    /// Lists objects of other programs that are kept among the backups.
    ///
    /// They are listed before they are moved: a reversal that is interrupted after the move would
    /// not find them again.
    fn list_displaced(&self, paths: &[TreePath]) -> Result<(), RootError> {
        let listed = undo::read_displaced(self.stages)?;
        let new: Vec<TreePath> =
            paths.iter().filter(|path| !listed.contains(path)).cloned().collect();
        if new.is_empty() { Ok(()) } else { undo::append_displaced(self.stages, &new) }
    }

    fn undo_make_dir(&mut self, moves: &SlotMoves<'_>, path: &TreePath) -> Result<(), RootError> {
        let SlotMoves { parent, entry, backups, slot, .. } = moves;
        let had_nothing = matches!(self.before.get(path), Some(PriorState::Missing(_)));
        let has_backup = backups.stat(slot)?.is_some();
        let is_directory = parent.stat(entry)?.is_some_and(|live| live.kind == FileKind::Directory);

        if is_directory && (had_nothing || has_backup) {
            // A directory with paths of other programs stays.
            let is_removed = parent.remove_dir(entry)?;
            if !is_removed && has_backup {
                return self.list_displaced(std::slice::from_ref(path));
            }
        }
        if has_backup && parent.stat(entry)?.is_none() {
            backups.rename(slot, parent, entry, Rename::NoReplace)?;
        }
        Ok(())
    }

    fn undo_removal(&mut self, moves: &SlotMoves<'_>, path: &TreePath) -> Result<(), RootError> {
        let SlotMoves { parent, entry, backups, slot, .. } = moves;
        let Some(backup) = backups.stat(slot)? else { return Ok(()) };

        if let Some(live) = parent.stat(entry)? {
            let is_directory = |stat: &Stat| stat.kind == FileKind::Directory;
            let obstacle = free_obstacle(backups)?;
            self.list_displaced(std::slice::from_ref(path))?;
            parent.rename(entry, backups, &obstacle, Rename::NoReplace)?;
            backups.rename(slot, parent, entry, Rename::NoReplace)?;
            // Late arrivals had been moved back into a directory that was created again.
            if is_directory(&backup) && is_directory(&live) {
                merge(backups, &obstacle, self.root, path)?;
            }
            return Ok(());
        }
        backups.rename(slot, parent, entry, Rename::NoReplace)
    }

    /// Undoes a change on a limited filesystem; `swapped` has the backups as its staged content.
    fn undo_by_copy(
        &mut self,
        swapped: &CopyRename<'_>,
        change: &Change,
        slot: &TreePath,
    ) -> Result<(), RootError> {
        let path = &change.path;
        let live = self.root.stat(path)?;
        let is_missing_before = matches!(self.before.get(path), Some(PriorState::Missing(_)));

        if let Action::MakeDir { .. } = change.action {
            let is_directory = live.is_some_and(|live| live.kind == FileKind::Directory);
            if is_directory && is_missing_before {
                self.root.remove_dir(path)?;
            }
            return Ok(());
        }
        let installs = matches!(change.action, Action::Install { .. } | Action::Exchange { .. });
        if installs && live.is_some() && swapped.backups.stat(slot)?.is_none() {
            // The path is missing for a moment.
            swapped.displace(slot, path)?;
        }
        if swapped.staged.stat(slot)?.is_some() {
            swapped.install(slot, path)?;
        }
        Ok(())
    }

    /// Creates a removed directory again; its metadata is restored at the end.
    fn recreate_dir(&self, path: &TreePath) -> Result<(), RootError> {
        let existed = self.log.directories.binary_search_by(|entry| entry.path.cmp(path)).is_ok();
        if existed && self.root.stat(path)?.is_none() {
            self.root.create_dir(path)?;
        }
        Ok(())
    }

    fn restore_time(&self, path: &TreePath) -> Result<(), RootError> {
        let Some(PriorState::Time { old, new }) = self.before.get(path).copied() else {
            return Ok(());
        };
        match self.root.hold(path)? {
            Some(held) if held.stat().mtime == new => held.set_mtime(old),
            _ => Ok(()),
        }
    }

    /// Restores the metadata of directories, the deepest first.
    fn restore_directories(&mut self) -> Result<(), RedoError> {
        let times = self.log.records.iter().filter_map(|record| match record.before {
            PriorState::DirectoryTime(mtime) => {
                let meta = Meta { mode: 0, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() };
                let entry = Entry::new(record.path.clone(), meta, Node::Directory);
                Some((entry, MetadataScope::Time))
            }
            _ => None,
        });
        let whole = self.log.directories.iter().cloned().map(|entry| (entry, MetadataScope::All));
        let mut directories: Vec<(Entry, MetadataScope)> = times.chain(whole).collect();
        directories.sort_by(|a, b| b.0.path.cmp(&a.0.path));

        for (entry, scope) in directories {
            let set = || -> Result<(), RedoError> {
                Ok(finalize::set_directory(self.root, &entry, scope)?)
            };
            if let Err(error) = self.retries.attempt(set) {
                let refusal = error.into_refusal()?;
                self.left_out.add(self.root, self.filesystems, &entry.path, refusal)?;
            }
        }
        Ok(())
    }
}

/// A slot and the directory entry that its change concerns, on one filesystem.
struct SlotMoves<'a> {
    parent: &'a Root,
    entry: &'a TreePath,
    staged: &'a Root,
    backups: &'a Root,
    slot: TreePath,
}

/// A free name among the backups, for an object in the way.
fn free_obstacle(backups: &Root) -> Result<TreePath, RootError> {
    let mut number = 0;
    while backups.stat(&obstacle_name(number))?.is_some() {
        number += 1;
    }
    Ok(obstacle_name(number))
}

/// Moves everything in the directory `from` that is missing in `to` there, then removes `from` if
/// it is empty.
fn merge(source: &Root, from: &TreePath, root: &Root, to: &TreePath) -> Result<(), RootError> {
    let mut directories = vec![from.clone()];
    source.walk::<RootError>(from, |visit| {
        let below = &visit.path.as_bytes()[from.as_bytes().len()..];
        let Ok(target) = TreePath::new([to.as_bytes(), below].concat()) else {
            return Ok(Descend::Past);
        };
        let is_directory = visit.stat.kind == FileKind::Directory;
        match root.stat(&target)? {
            None => {
                source.rename(&visit.path, root, &target, Rename::NoReplace)?;
                return Ok(Descend::Past);
            }
            Some(live) if is_directory && live.kind == FileKind::Directory => {
                directories.push(visit.path);
            }
            Some(_) => {}
        }
        Ok(Descend::Into)
    })?;
    for directory in directories.iter().rev() {
        source.remove_dir(directory)?;
    }
    Ok(())
}

fn is_same_inode(a: &Stat, b: &Stat) -> bool {
    (a.dev, a.ino) == (b.dev, b.ino)
}
