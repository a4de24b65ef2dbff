//! The filesystems that take part in a transaction: each has its own stage, since a rename cannot
//! leave a filesystem.

pub mod limited;
pub mod mount_root_times;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;

use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::{
    BACKUP_DIR, DISPLACED_LIST, FILESYSTEM_LIST, LEFTOVER_PREFIX, REMOVED_UNDO, REPAIRED_PREFIX,
    STAGE_DIR, STAGED_DIR, UNDO_DIR, name,
};
use crate::entry::Mtime;
use crate::manifest::{parse_path, path_text};
use crate::report::Monitor;
use crate::root::mounts::Mount;
use crate::root::{FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// A list larger than this is not ours.
const MAX_LIST: u64 = 1 << 20;

/// Where filesystems begin, in tree order; the first is the top of the tree itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystems {
    tops: Vec<TreePath>,
    /// Those of them that have no slots of their own, see [`crate::apply::filesystem::limited`]; a journal does not say.
    plain: Vec<TreePath>,
}

/// The open stages of those filesystems that take part.
pub struct Stages {
    by_filesystem: BTreeMap<usize, (Root, Root)>,
    /// The times that tops had before a stage was made in them.
    times: HashMap<TreePath, Mtime>,
}

/// Where the slots of a transaction come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// They were staged.
    #[default]
    Stage,
    /// They are the undo set: the transaction is a rollback.
    Undo,
}

impl Default for Filesystems {
    /// The top alone.
    fn default() -> Self {
        Filesystems::new(Vec::new())
    }
}

impl Filesystems {
    /// The top, and the filesystems that begin at `below`.
    pub fn new(below: Vec<TreePath>) -> Self {
        Filesystems::from_mount_roots(vec![TreePath::root()]).and(below)
    }

    /// These, and those that begin at `tops`.
    pub fn and(&self, mut tops: Vec<TreePath>) -> Self {
        tops.extend_from_slice(&self.tops);
        tops.sort_unstable();
        tops.dedup();
        Filesystems { tops, plain: self.plain.clone() }
    }

    /// These, of which the ones that `mounts` knows as plain have no slots of their own.
    pub fn with_limited(&self, mounts: &[Mount]) -> Self {
        let plain: Vec<TreePath> =
            mounts.iter().filter(|mount| mount.is_plain()).map(|m| m.at.clone()).collect();
        Filesystems { tops: self.tops.clone(), plain }
    }

    /// As a journal recorded them.
    pub fn from_mount_roots(tops: Vec<TreePath>) -> Self {
        Filesystems { tops, plain: Vec::new() }
    }

    /// Where each one begins.
    pub fn mount_roots(&self) -> &[TreePath] {
        &self.tops
    }

    /// The filesystem that holds the directory of `path`. The directory that something is mounted on
    /// belongs, as a name, to the filesystem above.
    pub fn stage_filesystem_of(&self, path: &TreePath) -> usize {
        // The last in tree order is the innermost.
        self.tops.iter().rposition(|top| path.is_below(top)).unwrap_or(0)
    }

    /// The filesystem whose slots serve `path`: where a rename of it happens, or the root's.
    pub fn filesystem_of(&self, path: &TreePath) -> usize {
        self.with_slots(self.stage_filesystem_of(path))
    }

    /// The filesystem whose slots serve the directory at `path` itself: its own where one begins there.
    pub fn holding(&self, path: &TreePath) -> usize {
        self.with_slots(
            self.tops.binary_search(path).unwrap_or_else(|_| self.stage_filesystem_of(path)),
        )
    }

    fn with_slots(&self, at: usize) -> usize {
        if self.plain.contains(&self.tops[at]) { 0 } else { at }
    }

    /// Whether what stands at `path` is on a filesystem that holds names, content and coarse times alone.
    pub fn is_limited(&self, path: &TreePath) -> bool {
        self.plain.iter().any(|top| path == top || path.is_below(top))
    }

    /// Whether a filesystem begins at `path`.
    pub fn is_mount_root(&self, path: &TreePath) -> bool {
        self.tops.contains(path)
    }

    /// Makes empty stages on the filesystems in `which`; what an earlier run left there goes. Where the
    /// slots come from the undo set, that is taken over only after the seal: see [`Self::take_undo`].
    pub fn create_stages(
        &self,
        root: &Root,
        which: impl Iterator<Item = usize>,
        slots: Slots,
    ) -> Result<Stages, RootError> {
        let which: Vec<usize> = which.collect();
        let which_tops = which.iter().map(|&at| &self.tops[at]);
        let mut times = mount_root_times::now(root, which_tops)?;
        // What this run received lies at the top already, and changed its time.
        times.extend(mount_root_times::noted(root)?);
        mount_root_times::save(root, &times)?;
        for &at in &which {
            if self.clear_stage(root, at)? {
                root.create_dir(&self.part(at, STAGE_DIR))?;
            }
            root.create_dir(&self.inside(at, BACKUP_DIR))?;
            if slots == Slots::Stage {
                root.create_dir(&self.inside(at, STAGED_DIR))?;
            }
            // No mountinfo names a subvolume: where this run dies, the next one looks for its stage here.
            if at == 0 && which.len() > 1 {
                self.write_list(root, &which)?;
            }
        }
        Ok(Stages { times, ..self.open_stages(root)? })
    }

    fn write_list(&self, root: &Root, which: &[usize]) -> Result<(), RootError> {
        let list: String = which.iter().map(|&at| path_text(&self.tops[at]) + "\n").collect();
        root.below(&name(STAGE_DIR))?.write_durably(
            &name(FILESYSTEM_LIST),
            list.as_bytes(),
            0o600,
        )?;
        root.sync_dir(&TreePath::root())
    }

    /// Where an interrupted run had stages, mounted there or not.
    pub fn list_backups(root: &Root) -> Result<Vec<TreePath>, RootError> {
        let stage = match root.below(&name(STAGE_DIR)) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            answer => answer?,
        };
        let place = name(FILESYSTEM_LIST);
        let file = match stage.open_file(&place) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            answer => answer?,
        };
        let mut text = String::new();
        let read = file.take(MAX_LIST).read_to_string(&mut text);
        read.map_err(|source| RootError { what: "read", path: stage.show(&place), source })?;
        Ok(text.lines().filter_map(|line| parse_path(line.as_bytes()).ok()).collect())
    }

    /// Whether the filesystem has a stage: not so where another one, or none, is mounted at its place.
    pub fn has_stage(&self, root: &Root, at: usize) -> Result<bool, RootError> {
        Ok(root
            .stat(&self.part(at, STAGE_DIR))?
            .is_some_and(|stat| stat.kind == FileKind::Directory))
    }

    /// Whether what was displaced is still in the stage of the top.
    pub fn has_backups(&self, root: &Root) -> Result<bool, RootError> {
        Ok(root.stat(&self.inside(0, BACKUP_DIR))?.is_some())
    }

    /// Opens the stages that are there.
    pub fn open_stages(&self, root: &Root) -> Result<Stages, RootError> {
        let mut by_filesystem = BTreeMap::new();
        for at in 0..self.tops.len() {
            let (new, old) = (self.inside(at, STAGED_DIR), self.inside(at, BACKUP_DIR));
            let new = if root.stat(&new)?.is_some() { new } else { self.part(at, UNDO_DIR) };
            if root.stat(&new)?.is_some() && root.stat(&old)?.is_some() {
                by_filesystem.insert(at, (root.below(&new)?, root.below(&old)?));
            }
        }
        Ok(Stages { by_filesystem, times: HashMap::new() })
    }

    /// Makes the undo set of the filesystems in `which` what is to come; can be repeated.
    pub fn take_undo(
        &self,
        root: &Root,
        which: impl Iterator<Item = usize>,
    ) -> Result<(), RootError> {
        for at in which {
            let (new, undo) = (self.inside(at, STAGED_DIR), self.part(at, UNDO_DIR));
            if root.stat(&new)?.is_some() {
                continue;
            }
            match root.stat(&undo)? {
                Some(_) => root.rename(&undo, root, &new, Rename::NoReplace)?,
                None => root.create_dir(&new)?,
            }
        }
        Ok(())
    }

    /// Makes what was displaced on the filesystems in `which` the undo set, in place of an earlier one;
    /// can be repeated.
    pub fn save_backups(&self, root: &Root, which: &BTreeSet<usize>) -> Result<(), RootError> {
        for at in 0..self.tops.len() {
            let (old, undo) = (self.inside(at, BACKUP_DIR), self.part(at, UNDO_DIR));
            if !which.contains(&at) {
                self.drop_undo(root, at)?;
            } else if root.stat(&old)?.is_some() {
                self.drop_undo(root, at)?;
                root.rename(&old, root, &undo, Rename::NoReplace)?;
                self.save_repaired(root, at)?;
                // The top's own filesystem names the undo set; the parts of the others come first.
                if at != 0 {
                    root.sync_dir(&self.tops[at])?;
                }
            }
        }
        Ok(())
    }

    /// Keeps what repairs displaced before a rollback, whose slots the undo set has become.
    fn save_repaired(&self, root: &Root, at: usize) -> Result<(), RootError> {
        for (path, _) in root.children(&self.inside(at, STAGED_DIR))? {
            if path.name().starts_with(REPAIRED_PREFIX.as_bytes()) {
                root.rename(&path, root, &self.free_repaired(root, at)?, Rename::NoReplace)?;
            }
        }
        Ok(())
    }

    /// Keeps what was displaced on the filesystems in `which` beside an earlier undo set; can be repeated.
    pub fn save_beside(&self, root: &Root, which: &BTreeSet<usize>) -> Result<(), RootError> {
        for &at in which {
            let (old, undo) = (self.inside(at, BACKUP_DIR), self.part(at, UNDO_DIR));
            if root.children(&old)?.is_empty() {
                continue;
            }
            if root.stat(&undo)?.is_none() {
                root.create_dir(&undo)?;
            }
            root.rename(&old, root, &self.free_repaired(root, at)?, Rename::NoReplace)?;
        }
        Ok(())
    }

    fn free_repaired(&self, root: &Root, at: usize) -> Result<TreePath, RootError> {
        free(root, &self.part(at, UNDO_DIR), REPAIRED_PREFIX)
    }

    /// Removes of what was displaced everything but the slots that `keeps` names, and the list of them.
    pub fn thin_out(
        &self,
        root: &Root,
        keeps: &HashSet<(usize, TreePath)>,
    ) -> Result<(), RootError> {
        for at in 0..self.tops.len() {
            for (path, _) in root.children(&self.inside(at, BACKUP_DIR))? {
                if path.name() != DISPLACED_LIST.as_bytes() && !keeps.contains(&(at, path.alone()))
                {
                    root.remove_tree(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the stages of all filesystems, the top's last.
    pub fn remove_stages(&self, root: &Root) -> Result<(), RootError> {
        (0..self.tops.len()).rev().try_for_each(|at| self.clear_stage(root, at).map(drop))
    }

    /// Names the stages of which something is left that cannot be removed.
    pub fn report_leftovers(&self, root: &Root, monitor: &dyn Monitor) -> Result<(), RootError> {
        for at in 0..self.tops.len() {
            if self.has_stage(root, at)? {
                let path = root.show(&self.part(at, STAGE_DIR));
                monitor.warn(ApplyNotice::StageNotRemoved { path });
            }
        }
        Ok(())
    }

    /// Removes a stage; false where something in it cannot be removed now, since its inode was made immutable
    /// under another name or something was mounted in it. That is put aside, and stops nothing.
    fn clear_stage(&self, root: &Root, at: usize) -> Result<bool, RootError> {
        let stage = self.part(at, STAGE_DIR);
        match root.stat(&stage)? {
            None => return Ok(true),
            Some(stat) if stat.kind != FileKind::Directory => {
                return root.unlink(&stage).map(|()| true);
            }
            Some(_) => {}
        }
        for (path, _) in root.children(&stage)? {
            match root.remove_tree(&path) {
                Err(error) if !error.is_forbidden() => return Err(error),
                _ => {}
            }
            if root.stat(&path)?.is_some() && !path.name().starts_with(LEFTOVER_PREFIX.as_bytes()) {
                root.rename(&path, root, &free(root, &stage, LEFTOVER_PREFIX)?, Rename::NoReplace)?;
            }
        }
        root.remove_dir(&stage)
    }

    /// Removes the undo set of all filesystems, the top's first: without that it is none.
    pub fn remove_undo(&self, root: &Root) -> Result<(), RootError> {
        (0..self.tops.len()).try_for_each(|at| self.drop_undo(root, at))
    }

    /// Takes an undo set away, at once where there is a stage, with which it goes: half a set would look
    /// like a whole one.
    fn drop_undo(&self, root: &Root, at: usize) -> Result<(), RootError> {
        let (undo, gone) = (self.part(at, UNDO_DIR), self.inside(at, REMOVED_UNDO));
        if root.stat(&undo)?.is_none() || !self.has_stage(root, at)? {
            return root.remove_tree(&undo);
        }
        root.remove_tree(&gone)?;
        root.rename(&undo, root, &gone, Rename::NoReplace)
    }

    /// Syncs the filesystems in `which`.
    pub fn sync(&self, root: &Root, which: impl Iterator<Item = usize>) -> Result<(), RootError> {
        for at in which {
            root.below(&self.tops[at])?.sync_filesystem()?;
            // For FUSE, which a sync of a filesystem does not reach.
            root.sync_dir(&self.tops[at])?;
        }
        Ok(())
    }

    /// The whole stage of a filesystem, or nothing.
    pub fn stage_of(&self, root: &Root, at: usize) -> Result<Option<Root>, RootError> {
        if self.has_stage(root, at)? {
            root.below(&self.part(at, STAGE_DIR)).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The undo set of a filesystem, or nothing.
    pub fn undo_of(&self, root: &Root, at: usize) -> Result<Option<Root>, RootError> {
        let undo = self.part(at, UNDO_DIR);
        let there = root.stat(&undo)?.is_some_and(|stat| stat.kind == FileKind::Directory);
        if there { root.below(&undo).map(Some) } else { Ok(None) }
    }

    fn part(&self, at: usize, part: &str) -> TreePath {
        // Mount points are far shorter than the longest path.
        self.tops[at].join(part.as_bytes()).unwrap_or_else(|_| name(part))
    }

    fn inside(&self, at: usize, part: &str) -> TreePath {
        self.part(at, STAGE_DIR).join(part.as_bytes()).unwrap_or_else(|_| name(part))
    }
}

/// A name in `directory` that begins with `prefix` and ends with the first number that is free.
fn free(root: &Root, directory: &TreePath, prefix: &str) -> Result<TreePath, RootError> {
    let mut number = 1;
    loop {
        let place =
            directory.join(format!("{prefix}{number}").as_bytes()).unwrap_or_else(|_| name(prefix));
        if root.stat(&place)?.is_none() {
            return Ok(place);
        }
        number += 1;
    }
}

impl Stages {
    /// What is to come on a filesystem.
    pub fn staged(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|(new, _)| new)
    }

    /// What is displaced on a filesystem.
    pub fn backups(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|(_, old)| old)
    }

    /// The time that the directory at `path` had before a stage was made in it.
    pub fn time_before(&self, path: &TreePath) -> Option<Mtime> {
        self.times.get(path).copied()
    }

    /// The filesystems that take part.
    pub fn filesystems(&self) -> impl Iterator<Item = usize> {
        self.by_filesystem.keys().copied()
    }
}
