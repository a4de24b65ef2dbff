//! Plan of a rollback: the changes that restore the undo set, for the tree as it is now.
//!
//! The tree may have changed since the update. An edited file is replaced and backed up, a removed
//! parent directory is created again, and an untracked path that is in the way is displaced.

mod items;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use crate::apply::difference::Difference;
use crate::apply::error::{FilesystemFault, RefusalKind, Untouched};
use crate::apply::filesystem::held_times::HeldTimes;
use crate::apply::filesystem::{Slots, limited};
use crate::apply::on_disk::{SlotAllocator, UNDO_DIR, slot_name};
use crate::apply::plan::ordering::{self, PendingInstall};
use crate::apply::plan::subtree_removal::{MountTopology, RemovableSubtrees};
use crate::apply::plan::{
    Action, Change, ChangePlan, OCCUPIED, privileged_paths, record_kernel_deviations,
    removal_changes,
};
use crate::apply::undo::undo_log::{PriorState, UndoRecord};
use crate::apply::undo::undo_set::{LeftOut, UndoSet};
use crate::entry::{Entry, EntryKind, Meta, Mtime, Node, Xattrs};
use crate::filter::Filter;
use crate::host::{Kernel, KernelRetention};
use crate::manifest::Manifest;
use crate::root::mounts::{Mount, RootMount};
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::state;
use crate::tree_path::TreePath;

use items::{RestoredBackup, RollbackItems};

/// The tree on which a rollback is planned.
#[derive(Clone, Copy)]
pub struct RollbackInput<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Filesystem of the root, if it is known.
    pub host: Option<&'a RootMount>,
    /// Mounts below the root.
    pub mounts: &'a [Mount],
    /// The running kernel, whose paths are not removed.
    pub kernel: Option<&'a Kernel>,
    /// Part of its paths that is not removed.
    pub kernel_retention: KernelRetention,
    /// Recorded manifest: other paths in a directory that is replaced are listed as displaced.
    pub tracked: Option<&'a Manifest>,
    /// Manifest that was recorded before: a restored path that differs from it is a deviation.
    pub before: Option<&'a Manifest>,
    /// Times that the filesystems of the tree can hold.
    pub times: &'a HeldTimes,
    /// Exclude rules: an excluded path is no deviation.
    pub filter: Option<&'a Filter>,
    /// Paths that are not restored, with the reason.
    pub kept: &'a BTreeMap<TreePath, String>,
    /// Paths of users that the preflight refuses, with the reason; nothing below them is restored.
    pub refused: &'a BTreeMap<TreePath, String>,
}

impl RollbackInput<'_> {
    /// Reason for which the preflight refuses a path, or a directory above it.
    fn refusal(&self, path: &TreePath) -> Option<&String> {
        if self.refused.is_empty() {
            return None;
        }
        std::iter::successors(Some(path.clone()), TreePath::parent)
            .find_map(|path| self.refused.get(&path))
    }

    /// Reads the metadata of a path; a path of a user that cannot be inspected is an answer too.
    fn inspect(&self, path: &TreePath) -> Result<Inspected, RootError> {
        if let Some(reason) = self.refusal(path) {
            return Ok(Inspected::LeftOut(reason.clone()));
        }
        match self.root.stat(path) {
            Ok(stat) => Ok(Inspected::Known(stat)),
            Err(error)
                if self.root.is_unknown(path, &error)
                    && self.root.is_writable_by_others(path)? =>
            {
                Ok(Inspected::LeftOut(format!("cannot be inspected: {}", error.source)))
            }
            Err(error) => Err(error),
        }
    }

    fn keeps_for_kernel(&self, path: &TreePath) -> bool {
        self.kernel.is_some_and(|kernel| kernel.keeps(path, self.kernel_retention))
    }
}

/// A path of the tree, as far as it can be inspected.
enum Inspected {
    /// Its metadata, if it exists.
    Known(Option<Stat>),
    /// It is left out for this reason.
    LeftOut(String),
}

/// Plans the transaction that restores an undo set.
pub fn plan_rollback(undo: &UndoSet, input: RollbackInput) -> Result<ChangePlan, Untouched> {
    for mount in input.mounts {
        if mount.at.components().any(|component| component == UNDO_DIR.as_bytes()) {
            let mount = input.root.show(&mount.at);
            return Err(RefusalKind::MountInUndoSet { mount }.into());
        }
    }

    let filesystems = undo.filesystems.with_limited(input.mounts);
    let mut planner = RollbackPlanner {
        input,
        undo,
        items: RollbackItems::new(input.root, input.before, filesystems.clone()),
        plan: ChangePlan {
            slots: Slots::Undo,
            filesystems,
            privileged_paths: input
                .before
                .or(input.tracked)
                .map_or_else(Vec::new, privileged_paths),
            ..ChangePlan::default()
        },
        slots: SlotAllocator::with_reserved(undo.slots()?),
        installs: Vec::new(),
        time_changes: Vec::new(),
        created_dirs: HashSet::new(),
        replaced_dirs: Vec::new(),
        removed_leaves: Vec::new(),
        removed_dirs: Vec::new(),
        directories: Vec::new(),
        directory_times: BTreeMap::new(),
        filter: Filter::builder().build(),
    };
    planner.record_skipped();
    planner.restore_directories()?;
    for record in &undo.log.records {
        planner.restore(record)?;
    }
    planner.report_unrecorded()?;
    planner.finish()
}

/// A rollback that is being planned.
struct RollbackPlanner<'a> {
    input: RollbackInput<'a>,
    undo: &'a UndoSet,
    items: RollbackItems<'a>,
    plan: ChangePlan,
    slots: SlotAllocator,
    installs: Vec<PendingInstall>,
    /// Files of which only the time is restored.
    time_changes: Vec<Change>,
    /// Directories that are created again.
    created_dirs: HashSet<TreePath>,
    replaced_dirs: Vec<ReplacedDir>,
    /// Objects to be removed, except directories.
    removed_leaves: Vec<TreePath>,
    removed_dirs: Vec<TreePath>,
    /// Directories that get all their metadata.
    directories: Vec<Entry>,
    /// Directories that get a time.
    directory_times: BTreeMap<TreePath, Mtime>,
    /// Excludes nothing; protected paths are not removed.
    filter: Filter,
}

/// A directory of the tree that a backup replaces.
struct ReplacedDir {
    path: TreePath,
    /// Filesystem and slot of the backup, if that is a directory as well.
    backup: Option<(usize, TreePath)>,
}

impl<'a> RollbackPlanner<'a> {
    /// Records each restored path of the skipped filesystems as a deviation.
    fn record_skipped(&mut self) {
        let undo = self.undo;
        let recorded = undo.log.records.iter().map(|record| &record.path);
        let directories = undo.log.directories.iter().map(|entry| &entry.path);
        let before = self.input.before.map(Manifest::entries).unwrap_or_default().iter();
        let paths = recorded.chain(directories).chain(before.map(|entry| &entry.path));

        if undo.left_out.is_empty() {
            return;
        }
        for path in paths.filter(|path| undo.left_out(path) == Some(LeftOut::Skipped)) {
            self.items.deviate(path, "on a filesystem that the rollback left out");
        }
    }

    /// Restores the metadata of directories, and creates missing ones before anything is installed
    /// in them.
    fn restore_directories(&mut self) -> Result<(), Untouched> {
        let undo = self.undo;
        for entry in &undo.log.directories {
            if undo.left_out(&entry.path).is_some() {
                continue;
            }
            let live = match self.input.inspect(&entry.path)? {
                Inspected::Known(live) => live,
                Inspected::LeftOut(reason) => {
                    self.leave_out(&entry.path, &reason);
                    continue;
                }
            };
            self.directories.push(entry.clone());
            match live.filter(|live| live.kind == FileKind::Directory) {
                Some(live) => {
                    let difference = Difference::from_stat(entry, Some(&live))
                        .with_details(self.input.root, entry)?;
                    let difference =
                        Difference { time: live.mtime != entry.meta.mtime, ..difference };
                    if difference.any() {
                        self.items.add_dir(&difference.itemize(entry), &entry.path);
                    }
                }
                None => {
                    let slot = self.slots.take_install()?;
                    self.create_parent(&entry.path)?;
                    self.created_dirs.insert(entry.path.clone());
                    self.add_change(&entry.path, Action::MakeDir { slot });
                    self.items.add_dir("cd+++++++++", &entry.path);
                }
            }

            // The metadata is set at the end.
            let filesystem = self.plan.filesystems.slot_filesystem_of_dir(&entry.path);
            let (path, action) = (entry.path.clone(), Action::SetDirMetadata);
            self.plan.changes.push(Change { filesystem, path, action });
        }
        Ok(())
    }

    /// Creates the missing directory above `path` again, with the metadata of a manifest.
    ///
    /// Somebody removed it after the update, and an object is restored into it.
    fn create_parent(&mut self, path: &TreePath) -> Result<(), Untouched> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.created_dirs.contains(&parent) || self.input.root.stat(&parent)?.is_some() {
            return Ok(());
        }
        self.create_parent(&parent)?;

        let manifests = [self.input.tracked, self.input.before];
        let entry = manifests.into_iter().flatten().find_map(|manifest| manifest.get(&parent));
        let Some(entry) = entry.filter(|entry| entry.is_dir()) else { return Ok(()) };
        let slot = self.slots.take_install()?;
        self.add_change(&parent, Action::MakeDir { slot });
        self.add_change(&parent, Action::SetDirMetadata);
        self.items.add_dir("cd+++++++++", &parent);
        self.directories.push(entry.clone());

        // Its removal has changed the time of the directory above it.
        let above = parent.parent().and_then(|above| self.input.tracked?.get(&above));
        if let Some(above) = above.filter(|above| !self.created_dirs.contains(&above.path)) {
            self.directory_times.entry(above.path.clone()).or_insert(above.meta.mtime);
        }
        self.created_dirs.insert(parent);
        Ok(())
    }

    /// Restores the prior state of one path.
    fn restore(&mut self, record: &UndoRecord) -> Result<(), Untouched> {
        if self.undo.left_out(&record.path).is_some() {
            return Ok(());
        }
        if let Some(reason) = self.input.kept.get(&record.path) {
            self.items.deviate(&record.path, reason);
            return Ok(());
        }
        let live = match self.input.inspect(&record.path)? {
            Inspected::Known(live) => live,
            Inspected::LeftOut(reason) => {
                self.leave_out(&record.path, &reason);
                return Ok(());
            }
        };

        match record.before {
            PriorState::Existed(_) if self.has_user_mount_inside(&record.path)? => {
                self.leave_out(&record.path, "a user has mounted a filesystem in it");
            }
            PriorState::Existed(slot) => self.install_backup(record, slot, live.as_ref())?,
            // It is removed, or kept, together with the directory that is replaced above it.
            PriorState::Missing(_) if self.items.is_below_restored(&record.path) => {}
            PriorState::Missing(_) => {
                // An excluded directory that the update created was no tracked path.
                let filter = self.input.filter;
                self.items.add_missing(&record.path, |_, path| is_excluded(filter, path));
                self.remove(&record.path, live.as_ref());
            }
            PriorState::AlreadyGone => self.items.add_missing(&record.path, |_, _| false),
            PriorState::Time { old, new } => self.restore_time(record, live, old, new),
            PriorState::DirectoryTime(old) => {
                self.directory_times.insert(record.path.clone(), old);
            }
        }
        Ok(())
    }

    /// Restores the time of a file, unless the file was edited since the update.
    ///
    /// An edited file must not look as if it had not been edited.
    fn restore_time(&mut self, record: &UndoRecord, live: Option<Stat>, old: Mtime, new: Mtime) {
        let Some(live) = live else {
            self.items.add_missing(&record.path, |_, _| false);
            return;
        };
        let is_limited = self.plan.filesystems.is_limited(&record.path);
        let is_untouched = live.mtime == new
            || live.mtime == self.input.times.held(&record.path, new)
            || (is_limited && limited::same_time(new, live.mtime));
        if is_untouched {
            let (filesystem, path) = (record.filesystem, record.path.clone());
            self.time_changes.push(Change { filesystem, path, action: Action::SetTime(old) });
            self.items.add(".f..t......", &record.path, FileKind::File, 0);
        } else if live.mtime != old {
            self.items.deviate(&record.path, "changed since the update that was undone");
        }
    }

    /// Installs a backup at its path.
    fn install_backup(
        &mut self,
        record: &UndoRecord,
        slot: u32,
        live: Option<&Stat>,
    ) -> Result<(), Untouched> {
        let path = &record.path;
        let backup = self.find_backup(record, slot)?;
        let is_directory = backup.stat.kind == FileKind::Directory;

        // A path that was kept for the running kernel shares its inode with the backup.
        if !is_directory && live.is_some_and(|live| is_same_inode(live, &backup.stat)) {
            self.items.compare(path, &backup.stat);
            return Ok(());
        }
        self.create_parent(path)?;
        self.items.add_restored(&backup, live)?;
        if is_directory {
            self.items.restored_dirs.insert(path.clone(), backup.stat);
        }

        let replaces_directory = live.map(|live| live.kind == FileKind::Directory);
        let is_untracked = self.input.tracked.is_some_and(|tracked| tracked.get(path).is_none());
        if replaces_directory == Some(false) && is_untracked {
            self.plan.displaced.push(path.clone());
        }
        if replaces_directory == Some(true) {
            let backup = is_directory.then(|| (record.filesystem, slot_name(slot)));
            self.replaced_dirs.push(ReplacedDir { path: path.clone(), backup });
        }

        let action = match replaces_directory {
            Some(replaces_directory) if replaces_directory != is_directory => {
                Action::Exchange { slot, to_directory: is_directory }
            }
            _ => Action::Install { slot },
        };
        let live_kind = live.map(|live| live.kind);
        self.installs.push(PendingInstall {
            change: Change { filesystem: record.filesystem, path: path.clone(), action },
            exists: live.is_some(),
            old_target: ordering::link_target(self.input.root, path, live_kind),
            new_target: ordering::link_target(backup.dir, &backup.slot, Some(backup.stat.kind)),
        });
        Ok(())
    }

    /// Finds the backup in a slot; refuses one that cannot be restored.
    fn find_backup<'r>(
        &self,
        record: &'r UndoRecord,
        slot: u32,
    ) -> Result<RestoredBackup<'r>, Untouched>
    where
        'a: 'r,
    {
        let shown = || self.input.root.show(&record.path);
        let undo: &'a UndoSet = self.undo;
        let slot = slot_name(slot);
        let missing = || Untouched::from(RefusalKind::BackupMissing { path: shown() });
        let dir = undo.dirs.get(&record.filesystem).ok_or_else(missing)?;
        let stat = dir.stat(&slot)?.ok_or_else(missing)?;

        if stat.kind != FileKind::Directory && state::is_above_own(&record.path) {
            return Err(RefusalKind::OwnDirectoryInUndoSet { path: shown() }.into());
        }
        if dir.change_locks(&slot)?.is_some_and(|pins| pins.immutable) {
            return Err(RefusalKind::BackupImmutable { path: shown() }.into());
        }
        let (filesystem, privileges) = (record.filesystem, &undo.privileges);
        let stat = privileges.with_mode(filesystem, &slot, stat);
        Ok(RestoredBackup { path: &record.path, filesystem, dir, slot, stat, privileges })
    }

    /// Removes a path that did not exist before the update.
    fn remove(&mut self, path: &TreePath, live: Option<&Stat>) {
        let Some(live) = live else { return };
        if self.filter.protects(path) {
            self.items.deviate(path, "stays, since it is the agent's own");
            return;
        }
        if self.input.keeps_for_kernel(path) {
            self.plan.kernel_paths.push(path.clone());
            return;
        }

        self.items.add_removal(path, live.kind);
        if live.kind == FileKind::Directory {
            self.removed_dirs.push(path.clone());
        } else {
            self.removed_leaves.push(path.clone());
        }
        self.plan.removed_count += 1;
    }

    /// Walks a directory that a backup replaces; a mount inside it stops the rollback.
    ///
    /// An untracked path in it is displaced, unless the backup is a directory that has room for it:
    /// then the roll forward moves it back, as a late arrival.
    fn add_replaced_dir(&mut self, replaced: &ReplacedDir) -> Result<(), Untouched> {
        let (root, top) = (self.input.root, &replaced.path);
        if let Some(mount) = self.input.mounts.iter().find(|mount| mount.at.is_below(top)) {
            let (path, mount) = (root.show(top), root.show(&mount.at));
            return Err(RefusalKind::MountInside { path, mount }.into());
        }

        let backup = replaced.backup.as_ref();
        let backup = backup.and_then(|(at, slot)| Some((self.undo.dirs.get(at)?, slot)));
        let (plan, items, tracked) = (&mut self.plan, &mut self.items, self.input.tracked);
        // The last directory that is displaced with all its content.
        let mut displaced_dir: Option<TreePath> = None;
        root.walk::<RootError>(top, |visit| {
            let is_directory = visit.stat.kind == FileKind::Directory;
            let is_untracked = match tracked {
                Some(tracked) => tracked.get(&visit.path).is_none(),
                None => backup.is_some(),
            };
            let is_below_displaced =
                displaced_dir.as_ref().is_some_and(|dir| visit.path.is_below(dir));
            let is_moved = match backup {
                Some((dir, slot)) if is_untracked && !is_below_displaced => {
                    let below = &visit.path.as_bytes()[top.as_bytes().len()..];
                    let inside = TreePath::new([slot.as_bytes(), below].concat()).ok();
                    let occupant = inside.map(|inside| dir.stat(&inside)).transpose()?.flatten();
                    occupant.is_some_and(|occupant| {
                        !is_directory || occupant.kind != FileKind::Directory
                    })
                }
                _ => true,
            };

            if is_untracked && is_moved {
                if is_directory && !is_below_displaced {
                    displaced_dir = Some(visit.path.clone());
                }
                plan.displaced.push(visit.path.clone());
            }
            if is_moved {
                items.add_removal(&visit.path, visit.stat.kind);
            }
            if backup.is_none() || !is_untracked {
                let filesystem = plan.filesystems.slot_filesystem_of(&visit.path);
                let (path, action) = (visit.path, Action::CoveredByParent);
                plan.changes.push(Change { filesystem, path, action });
            }
            Ok(Descend::Into)
        })?;
        Ok(())
    }

    /// Completes the plan, with the changes in the order in which they are made.
    fn finish(mut self) -> Result<ChangePlan, Untouched> {
        for replaced in std::mem::take(&mut self.replaced_dirs) {
            self.add_replaced_dir(&replaced)?;
        }
        self.add_missing_in_created_dirs();
        self.keep_mount_root_times()?;
        self.plan.directories = self.final_directories()?;
        let mut removals = self.plan_removals()?;

        let RollbackPlanner {
            input,
            undo,
            items,
            mut plan,
            mut slots,
            installs,
            mut time_changes,
            ..
        } = self;
        plan.deviations = items.deviations;
        plan.itemized = items.lines;
        plan.itemized.sort_by(|a, b| a.path.cmp(&b.path));
        plan.changes.append(&mut ordering::sort_installs(installs));
        plan.changes.append(&mut removals);
        plan.changes.append(&mut time_changes);
        record_kernel_deviations(&mut plan);
        plan.assign_kernel_slots(&mut slots)?;

        // Each filesystem that took part has a part of the undo set.
        for at in plan.participating() {
            if !undo.dirs.contains_key(&at) {
                let path = undo.filesystems.mount_roots()[at].clone();
                let (mount_root, fault) = (input.root.show(&path), FilesystemFault::NoUndoSet);
                return Err(RefusalKind::UndoFilesystem { mount_root, path, fault }.into());
            }
        }
        Ok(plan)
    }

    /// Records entries of created directories as missing, unless the undo set has them.
    fn add_missing_in_created_dirs(&mut self) {
        let recorded = self.undo.log.records.iter().map(|record| &record.path);
        let known: HashSet<TreePath> = recorded.chain(&self.created_dirs).cloned().collect();
        for path in &self.created_dirs {
            self.items.add_missing(path, |items, path| {
                known.contains(path) || items.is_below_restored(path)
            });
        }
    }

    /// Keeps the times of mount roots, which creating and removing the stages changes.
    fn keep_mount_root_times(&mut self) -> Result<(), Untouched> {
        for at in self.plan.participating() {
            let mount_root = &self.plan.filesystems.mount_roots()[at];
            if let Some(stat) = self.input.root.stat(mount_root)? {
                self.directory_times.entry(mount_root.clone()).or_insert(stat.mtime);
            }
        }
        Ok(())
    }

    /// All directories that get metadata or a time at the end, in tree order.
    fn final_directories(&mut self) -> Result<Vec<Entry>, Untouched> {
        let mut directories = std::mem::take(&mut self.directories);
        for (path, mtime) in &self.directory_times {
            let stat = match self.items.restored_dirs.get(path) {
                Some(backup) => Some(*backup),
                None => match self.input.inspect(path)? {
                    Inspected::Known(stat) => stat,
                    Inspected::LeftOut(_) => None,
                },
            };
            let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) else { continue };
            let meta = Meta { mtime: *mtime, ..stat.meta(Xattrs::new()) };
            directories.push(Entry::new(path.clone(), meta, Node::Directory));
        }
        directories.sort_by(|a, b| a.path.cmp(&b.path));
        directories.dedup_by(|a, b| a.path == b.path);
        Ok(directories)
    }

    /// Plans the removals; a directory with untracked content is kept.
    fn plan_removals(&mut self) -> Result<Vec<Change>, Untouched> {
        let leaves = std::mem::take(&mut self.removed_leaves);
        let dirs = std::mem::take(&mut self.removed_dirs);
        let filesystems = self.plan.filesystems.clone();
        let topology = MountTopology {
            host: self.input.host,
            mounts: self.input.mounts,
            filesystems: &filesystems,
        };
        let subtrees = RemovableSubtrees::find(self.input.root, &topology, &leaves, &dirs)?;

        let (occupied, dirs): (Vec<_>, Vec<_>) =
            dirs.into_iter().partition(|path| subtrees.is_occupied(path));
        self.plan.removed_count -= occupied.len();
        for path in occupied {
            self.items.lines.retain(|line| line.path != path);
            // An excluded directory that the update created belongs to the node now.
            if !is_excluded(self.input.filter, &path) {
                self.items.deviate(&path, OCCUPIED);
            }
        }
        Ok(removal_changes(&filesystems, &subtrees, leaves, dirs, &mut self.slots)?)
    }

    /// Records paths that differ between the generations and are in no record.
    ///
    /// The update left them out, and a later run repaired them; they keep their present content.
    fn report_unrecorded(&mut self) -> Result<(), RootError> {
        let (Some(before), Some(tracked)) = (self.input.before, self.input.tracked) else {
            return Ok(());
        };
        let records = self.undo.log.records.iter().filter(|record| {
            matches!(record.before, PriorState::Existed(_) | PriorState::Missing(_))
        });
        let whole: HashSet<&TreePath> = records.map(|record| &record.path).collect();
        let others = self.undo.log.records.iter().map(|record| &record.path);
        let directories = self.undo.log.directories.iter().map(|entry| &entry.path);
        let recorded: HashSet<&TreePath> = others.chain(directories).collect();
        let is_recorded = |path: &TreePath| {
            recorded.contains(path)
                || std::iter::successors(path.parent(), TreePath::parent)
                    .any(|above| whole.contains(&above))
        };

        let changed = before.entries().iter().filter(|old| tracked.get(&old.path) != Some(*old));
        let added = tracked.entries().iter().filter(|new| before.get(&new.path).is_none());
        let mut unrestored: Vec<TreePath> = Vec::new();
        for entry in changed.chain(added).filter(|entry| !is_recorded(&entry.path)) {
            let is_excluded =
                |filter: &Filter| filter.excludes(&entry.path, entry.kind()).is_some();
            if self.input.filter.is_some_and(is_excluded)
                || self.undo.left_out(&entry.path).is_some()
            {
                continue;
            }
            let Inspected::Known(live) = self.input.inspect(&entry.path)? else { continue };
            let differs = match before.get(&entry.path) {
                Some(old) => Difference::from_stat(old, live.as_ref()).any(),
                None => live.is_some(),
            };
            if differs {
                unrestored.push(entry.path.clone());
            }
        }
        for path in unrestored {
            self.items.deviate(&path, "as after the update: it has no backup");
        }
        Ok(())
    }

    /// Whether a user has mounted a filesystem in the directory at a path.
    fn has_user_mount_inside(&self, path: &TreePath) -> Result<bool, RootError> {
        for mount in self.input.mounts.iter().filter(|mount| mount.at.is_below(path)) {
            if self.input.root.is_writable_by_others(&mount.at)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Restores nothing at a path.
    fn leave_out(&mut self, path: &TreePath, reason: &str) {
        self.items.deviate(path, reason);
        self.plan.left_out.insert(path.clone());
    }

    fn add_change(&mut self, path: &TreePath, action: Action) {
        let filesystem = self.plan.filesystems.slot_filesystem_of(path);
        self.plan.changes.push(Change { filesystem, path: path.clone(), action });
    }
}

/// Whether a directory at `path` is excluded.
fn is_excluded(filter: Option<&Filter>, path: &TreePath) -> bool {
    filter.is_some_and(|filter| filter.excludes(path, EntryKind::Directory).is_some())
}

fn is_same_inode(a: &Stat, b: &Stat) -> bool {
    (a.dev, a.ino) == (b.dev, b.ino)
}
