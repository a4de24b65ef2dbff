//! The undo set on disk.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::apply::error::UndoLogError;
use crate::apply::filesystem::{Filesystems, mount_root_times, undo_dirs};
use crate::apply::on_disk::slot_number;
use crate::apply::undo::backup::DiskUsage;
use crate::apply::undo::identities::{Identities, read_identities};
use crate::apply::undo::privileges::BackupPrivileges;
use crate::apply::undo::undo_log::UndoLog;
use crate::generation::GenerationId;
use crate::root::{Root, RootError};
use crate::state::{self, StateBackup};
use crate::tree_path::TreePath;

/// An undo set with a valid undo log.
pub struct UndoSet {
    pub(super) log: UndoLog,
    pub(super) filesystems: Filesystems,
    /// The open directories by filesystem, as far as they exist.
    pub(super) dirs: HashMap<usize, Root>,
    /// Identities that the filesystems had at the update, if they were recorded.
    pub(super) identities: Identities,
    /// Privileges that programs among the backups had.
    pub(super) privileges: BackupPrivileges,
    /// Filesystems that a rollback does not touch.
    pub(super) left_out: BTreeMap<usize, LeftOut>,
}

/// Reason that a rollback leaves a filesystem out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// The administrator named it: its paths become deviations.
    Skipped,
    /// It is not mounted, and only times of its directories would be restored.
    Unmounted,
}

impl UndoSet {
    /// Opens the undo set of the tree, if there is one.
    pub fn find(root: &Root) -> Result<Option<UndoSet>, UndoLogError> {
        let Some(dir) = undo_dirs::open(root, &Filesystems::default(), 0)? else {
            return Ok(None);
        };
        let Some(log) = UndoLog::read(&dir)? else { return Ok(None) };

        let filesystems = Filesystems::from_mount_roots(log.mount_roots.clone());
        let mut dirs = HashMap::new();
        for at in 0..filesystems.mount_roots().len() {
            if let Some(part) = undo_dirs::open(root, &filesystems, at)? {
                dirs.insert(at, part);
            }
        }
        let (identities, privileges) = (read_identities(&dir)?, BackupPrivileges::read(&dir)?);
        let left_out = BTreeMap::new();
        Ok(Some(UndoSet { log, filesystems, dirs, identities, privileges, left_out }))
    }

    /// Mount roots of the undo set of the tree, if its log is valid.
    pub(in crate::apply) fn mount_roots(root: &Root) -> Vec<TreePath> {
        let undo_set = UndoSet::find(root).ok().flatten();
        undo_set.map_or_else(Vec::new, |undo_set| undo_set.log.mount_roots)
    }

    /// Whether it leads back from a tree with the recorded generation `now`.
    ///
    /// It does not if another update has changed the tree since.
    pub fn leads_from(&self, now: Option<GenerationId>) -> bool {
        self.log.recorded_id == now
    }

    /// Paths whose prior state is recorded.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        self.log.records.iter().map(|record| &record.path)
    }

    /// The state that was recorded before, and its manifest.
    pub fn record(&self) -> Result<StateBackup, RootError> {
        match self.dirs.get(&0) {
            Some(dir) => state::read_backup(dir),
            None => Ok(StateBackup::default()),
        }
    }

    /// Bytes that would be free without it.
    pub fn bytes(&self) -> Result<u64, RootError> {
        let mut usage = DiskUsage::default();
        for (at, dir) in &self.dirs {
            usage.add_tree(*at, dir, &TreePath::root())?;
        }
        Ok(usage.bytes().values().sum())
    }

    /// Slots that exist on any of its filesystems.
    pub(super) fn slots(&self) -> Result<HashSet<u32>, RootError> {
        let mut slots = HashSet::new();
        for dir in self.dirs.values() {
            let children = dir.children(&TreePath::root())?;
            slots.extend(children.iter().filter_map(|(path, _)| slot_number(path)));
        }
        Ok(slots)
    }

    /// The reason that a rollback leaves `path` out, if it does.
    pub(super) fn left_out(&self, path: &TreePath) -> Option<LeftOut> {
        self.left_out.get(&self.filesystems.filesystem_at(path)).copied()
    }

    /// Removes it, the undo log first: the rest of a set must not look like a whole one.
    fn remove(self, root: &Root) -> Result<(), RootError> {
        if let Some(dir) = self.dirs.get(&0) {
            UndoLog::remove(dir)?;
        }
        undo_dirs::remove_all(root, &self.filesystems)
    }
}

/// Removes the undo set of a tree to gain space, valid or not.
pub fn remove_undo_set(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    let all = filesystems.with_roots(UndoSet::mount_roots(root));
    mount_root_times::save_if_absent(root, &all)?;
    match UndoSet::find(root) {
        Ok(Some(undo_set)) => undo_set.remove(root)?,
        Ok(None) | Err(_) => undo_dirs::remove_all(root, filesystems)?,
    }
    mount_root_times::restore(root)
}

/// Space that would be free on one filesystem without the undo set.
pub(in crate::apply) struct UndoSetUsage {
    /// Mount root of the filesystem.
    pub mount_root: TreePath,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// Space that would be free on each filesystem without the undo set, valid or not.
pub(in crate::apply) fn disk_usage(
    root: &Root,
    filesystems: &Filesystems,
) -> Result<Vec<UndoSetUsage>, RootError> {
    let all = filesystems.with_roots(UndoSet::mount_roots(root));
    let mut usage = DiskUsage::default();
    for at in 0..all.mount_roots().len() {
        if let Some(dir) = undo_dirs::open(root, &all, at)? {
            usage.add_tree(at, &dir, &TreePath::root())?;
        }
    }

    let (bytes, inodes) = (usage.bytes(), usage.inodes());
    Ok(all
        .mount_roots()
        .iter()
        .enumerate()
        .map(|(at, mount_root): (usize, &TreePath)| UndoSetUsage {
            mount_root: mount_root.clone(),
            bytes: bytes.get(&at).copied().unwrap_or(0),
            inodes: inodes.get(&at).copied().unwrap_or(0),
        })
        .collect())
}
