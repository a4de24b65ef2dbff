//! Stages: the directories `.si-stage` at the mount roots of a transaction.
//!
//! A stage without a journal was never visible, so that any run may remove it. A file in it that
//! cannot be removed, such as a mount point, is renamed to `left-N`: it must not stop an update.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use crate::apply::filesystem::{Filesystems, Slots, free_name, mount_root_times};
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{
    BACKUP_DIR, FILESYSTEM_LIST, LEFTOVER_PREFIX, STAGE_DIR, STAGED_DIR, UNDO_DIR, name,
};
use crate::entry::Mtime;
use crate::manifest::{parse_path, path_text};
use crate::report::Monitor;
use crate::root::{FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// A larger list of filesystems was not written by this program.
const MAX_LIST: u64 = 1 << 20;

/// The open stages of the filesystems that take part in a transaction.
pub struct Stages {
    by_filesystem: BTreeMap<usize, StageDirs>,
    /// Times of the mount roots before stages were created in them.
    times: HashMap<TreePath, Mtime>,
}

/// The two directories of one stage.
struct StageDirs {
    staged: Root,
    backups: Root,
}

impl Stages {
    /// Staged content of a filesystem.
    pub fn staged(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|dirs| &dirs.staged)
    }

    /// Backups of a filesystem.
    pub fn backups(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|dirs| &dirs.backups)
    }

    /// Time that a mount root had before a stage was created in it.
    pub fn time_before(&self, mount_root: &TreePath) -> Option<Mtime> {
        self.times.get(mount_root).copied()
    }

    /// Numbers of the filesystems that take part.
    pub fn filesystems(&self) -> impl Iterator<Item = usize> {
        self.by_filesystem.keys().copied()
    }
}

/// Creates empty stages on the filesystems in `which`, and removes earlier ones there.
///
/// For a rollback no staged directory is created: the undo set becomes it, after the commit point.
pub fn create(
    root: &Root,
    filesystems: &Filesystems,
    which: impl Iterator<Item = usize>,
    slots: Slots,
) -> Result<Stages, RootError> {
    let which: Vec<usize> = which.collect();

    // A receive directory in the root has already changed the time of the root; an earlier step
    // saved the time from before.
    let mount_roots = which.iter().map(|&at| &filesystems.mount_roots()[at]);
    let mut times = mount_root_times::read_live(root, mount_roots)?;
    times.extend(mount_root_times::read_saved(root)?);
    mount_root_times::save(root, &times)?;

    for &at in &which {
        if remove(root, filesystems, at)? == Removal::Complete {
            root.create_dir(&filesystems.at_mount_root(at, STAGE_DIR))?;
        }
        root.create_dir(&filesystems.in_stage(at, BACKUP_DIR))?;
        if slots == Slots::Stage {
            root.create_dir(&filesystems.in_stage(at, STAGED_DIR))?;
        }
        // The mount table does not name btrfs subvolumes. If this run dies, the next one finds
        // their stages by this list.
        if at == 0 && which.len() > 1 {
            write_mount_roots(root, filesystems, &which)?;
        }
    }
    Ok(Stages { times, ..open_all(root, filesystems)? })
}

fn write_mount_roots(
    root: &Root,
    filesystems: &Filesystems,
    which: &[usize],
) -> Result<(), RootError> {
    let list: String =
        which.iter().map(|&at: &usize| path_text(&filesystems.mount_roots()[at]) + "\n").collect();

    let stage = root.below(&name(STAGE_DIR))?;
    stage.write_durably(&name(FILESYSTEM_LIST), list.as_bytes(), 0o600)?;
    root.sync_dir(&TreePath::root())
}

/// Mount roots at which an interrupted run had stages, whether they are mounted or not.
pub fn read_mount_roots(root: &Root) -> Result<Vec<TreePath>, RootError> {
    let stage = match root.below(&name(STAGE_DIR)) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        answer => answer?,
    };
    let path = name(FILESYSTEM_LIST);
    let file = match stage.open_file(&path) {
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        answer => answer?,
    };

    let mut text = String::new();
    file.take(MAX_LIST).read_to_string(&mut text).map_err(|source| RootError {
        operation: "read",
        path: stage.show(&path),
        source,
    })?;
    Ok(text.lines().filter_map(|line| parse_path(line.as_bytes()).ok()).collect())
}

/// Opens all stages that exist.
///
/// A rollback whose undo set was not taken over yet has its staged content in `.si-undo`.
pub fn open_all(root: &Root, filesystems: &Filesystems) -> Result<Stages, RootError> {
    let mut by_filesystem = BTreeMap::new();
    for at in 0..filesystems.mount_roots().len() {
        let backups = filesystems.in_stage(at, BACKUP_DIR);
        let mut staged = filesystems.in_stage(at, STAGED_DIR);
        if root.stat(&staged)?.is_none() {
            staged = filesystems.at_mount_root(at, UNDO_DIR);
        }
        if root.stat(&staged)?.is_some() && root.stat(&backups)?.is_some() {
            let dirs = StageDirs { staged: root.below(&staged)?, backups: root.below(&backups)? };
            by_filesystem.insert(at, dirs);
        }
    }
    Ok(Stages { by_filesystem, times: HashMap::new() })
}

/// The stage of a filesystem, if it exists.
pub fn open(root: &Root, filesystems: &Filesystems, at: usize) -> Result<Option<Root>, RootError> {
    if exists(root, filesystems, at)? {
        root.below(&filesystems.at_mount_root(at, STAGE_DIR)).map(Some)
    } else {
        Ok(None)
    }
}

/// Whether a filesystem has a stage.
///
/// It has none if it is not mounted, or if another filesystem is mounted at its mount root.
pub fn exists(root: &Root, filesystems: &Filesystems, at: usize) -> Result<bool, RootError> {
    let stat = root.stat(&filesystems.at_mount_root(at, STAGE_DIR))?;
    Ok(stat.is_some_and(|stat| stat.kind == FileKind::Directory))
}

/// Whether the backups are still in the root's stage.
pub fn has_backups(root: &Root, filesystems: &Filesystems) -> Result<bool, RootError> {
    Ok(root.stat(&filesystems.in_stage(0, BACKUP_DIR))?.is_some())
}

/// Removes the stages of all filesystems, the root's last.
pub fn remove_all(root: &Root, filesystems: &Filesystems) -> Result<(), RootError> {
    for at in (0..filesystems.mount_roots().len()).rev() {
        remove(root, filesystems, at)?;
    }
    Ok(())
}

/// Whether a stage was removed completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    Complete,
    /// An object in it cannot be removed now: its inode was made immutable under another name, or
    /// a filesystem was mounted in it. The object is renamed to `left-N`.
    Partial,
}

fn remove(root: &Root, filesystems: &Filesystems, at: usize) -> Result<Removal, RootError> {
    let stage = filesystems.at_mount_root(at, STAGE_DIR);
    match root.stat(&stage)? {
        None => return Ok(Removal::Complete),
        Some(stat) if stat.kind != FileKind::Directory => {
            root.unlink(&stage)?;
            return Ok(Removal::Complete);
        }
        Some(_) => {}
    }

    for (path, _) in root.children(&stage)? {
        match root.remove_tree(&path) {
            Err(error) if !error.is_forbidden() => return Err(error),
            _ => {}
        }
        if root.stat(&path)?.is_some() && !path.name().starts_with(LEFTOVER_PREFIX.as_bytes()) {
            let leftover = free_name(root, &stage, LEFTOVER_PREFIX)?;
            root.rename(&path, root, &leftover, Rename::NoReplace)?;
        }
    }
    Ok(if root.remove_dir(&stage)? { Removal::Complete } else { Removal::Partial })
}

/// Warns of each stage that could not be removed completely.
pub fn report_leftovers(
    root: &Root,
    filesystems: &Filesystems,
    monitor: &dyn Monitor,
) -> Result<(), RootError> {
    for at in 0..filesystems.mount_roots().len() {
        if exists(root, filesystems, at)? {
            let path = root.show(&filesystems.at_mount_root(at, STAGE_DIR));
            monitor.warn(ApplyNotice::StageNotRemoved { path });
        }
    }
    Ok(())
}
