//! Report of a rollback: itemised lines, and the paths that will not be as they were recorded.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::apply::difference::Difference;
use crate::apply::filesystem::{Filesystems, limited};
use crate::apply::plan::ItemizedLine;
use crate::apply::undo::privileges::BackupPrivileges;
use crate::entry::Xattrs;
use crate::manifest::Manifest;
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Lines and deviations of a rollback that is being planned.
pub(super) struct RollbackItems<'a> {
    root: &'a Root,
    /// Manifest that was recorded before the transaction that is rolled back.
    before: Option<&'a Manifest>,
    filesystems: Filesystems,
    /// Itemised lines, in no order.
    pub lines: Vec<ItemizedLine>,
    /// Tracked paths that will differ from `before`, with the difference.
    pub deviations: BTreeMap<TreePath, String>,
    /// Directories that are restored with their content.
    pub restored_dirs: HashMap<TreePath, Stat>,
}

/// A backup that is restored.
pub(super) struct RestoredBackup<'a> {
    /// Path in the tree.
    pub path: &'a TreePath,
    /// Number of the filesystem of the undo set.
    pub filesystem: usize,
    /// The undo set.
    pub dir: &'a Root,
    /// Path in the undo set.
    pub slot: TreePath,
    /// Stat of the backup, with the mode that it had.
    pub stat: Stat,
    /// Privileges that the rollback sets again.
    pub privileges: &'a BackupPrivileges,
}

impl<'a> RollbackItems<'a> {
    pub(super) fn new(
        root: &'a Root,
        before: Option<&'a Manifest>,
        filesystems: Filesystems,
    ) -> Self {
        RollbackItems {
            root,
            before,
            filesystems,
            lines: Vec::new(),
            deviations: BTreeMap::new(),
            restored_dirs: HashMap::new(),
        }
    }

    /// Adds a line for a directory.
    pub(super) fn add_dir(&mut self, change: &str, path: &TreePath) {
        self.add(change, path, FileKind::Directory, 0);
    }

    /// Adds a line for an object of type `kind`.
    pub(super) fn add(&mut self, change: &str, path: &TreePath, kind: FileKind, bytes: u64) {
        let suffix = if kind == FileKind::Directory { "/" } else { "" };
        let (change, suffix) = (change.to_owned(), suffix.to_owned());
        self.lines.push(ItemizedLine { change, path: path.clone(), suffix, bytes });
    }

    /// Adds a line for a removal.
    pub(super) fn add_removal(&mut self, path: &TreePath, kind: FileKind) {
        self.add("*deleting  ", path, kind, 0);
    }

    /// Records a deviation.
    pub(super) fn deviate(&mut self, path: &TreePath, what: &str) {
        self.deviations.insert(path.clone(), what.to_owned());
    }

    /// Whether `path` is below a directory that is restored with its content.
    pub(super) fn is_below_restored(&self, path: &TreePath) -> bool {
        std::iter::successors(path.parent(), TreePath::parent)
            .any(|parent| self.restored_dirs.contains_key(&parent))
    }

    /// Records the recorded entries at and below `path` as missing, except those in `restored`.
    pub(super) fn add_missing(
        &mut self,
        path: &TreePath,
        restored: impl Fn(&Self, &TreePath) -> bool,
    ) {
        let entries = self.before.map(Manifest::entries).unwrap_or_default();
        let first = entries.partition_point(|entry| entry.path < *path);
        let missing: Vec<TreePath> = entries[first..]
            .iter()
            .map(|entry| &entry.path)
            .take_while(|entry| *entry == path || entry.is_below(path))
            .filter(|entry| !restored(self, entry))
            .cloned()
            .collect();

        let what = Difference { missing: true, ..Difference::default() }.to_string();
        self.deviations.extend(missing.into_iter().map(|path| (path, what.clone())));
    }

    /// Adds lines for a backup, with its content, that replaces the object `live`.
    pub(super) fn add_restored(
        &mut self,
        backup: &RestoredBackup,
        live: Option<&Stat>,
    ) -> Result<(), RootError> {
        let RestoredBackup { path, stat, .. } = backup;
        let difference = match live {
            Some(live) if live.kind == stat.kind => Difference {
                content: (live.size, live.mtime) != (stat.size, stat.mtime),
                mode: live.mode != stat.mode,
                uid: live.uid != stat.uid,
                gid: live.gid != stat.gid,
                time: live.mtime != stat.mtime,
                xattrs: self.root.xattrs(path)? != backup.xattrs()?,
                ..Difference::default()
            },
            _ => missing(),
        };

        let change = difference.itemize_as(letter(stat.kind));
        self.add(&change, path, stat.kind, stat.size);
        if stat.kind == FileKind::Directory {
            self.add_children(backup)?;
        }
        self.compare(path, stat);
        Ok(())
    }

    /// Adds a line for each path inside a directory that is restored.
    fn add_children(&mut self, backup: &RestoredBackup) -> Result<(), RootError> {
        let RestoredBackup { path: top, filesystem, dir, slot, privileges, .. } = backup;
        let mut restored = HashSet::from([(*top).clone()]);

        dir.walk::<RootError>(slot, |visit| {
            let below = &visit.path.as_bytes()[slot.as_bytes().len()..];
            if let Ok(path) = TreePath::new([top.as_bytes(), below].concat()) {
                let stat = privileges.with_mode(*filesystem, &visit.path, visit.stat);
                self.compare(&path, &stat);
                restored.insert(path.clone());
                if visit.stat.kind == FileKind::Directory {
                    self.restored_dirs.insert(path.clone(), visit.stat);
                }
                let change = missing().itemize_as(letter(visit.stat.kind));
                self.add(&change, &path, visit.stat.kind, visit.stat.size);
            }
            Ok(Descend::Into)
        })?;
        self.add_missing(top, |_, path| restored.contains(path));
        Ok(())
    }

    /// Records a deviation if the backup differs from the recorded entry.
    pub(super) fn compare(&mut self, path: &TreePath, backup: &Stat) {
        let Some(entry) = self.before.and_then(|before| before.get(path)) else { return };
        let mut difference = Difference::from_stat(entry, Some(backup));
        if self.filesystems.is_limited(path) {
            difference = limited::mask_unsupported(difference, entry, Some(backup));
        }
        if difference.any() {
            self.deviations.insert(path.clone(), difference.to_string());
        }
    }
}

impl RestoredBackup<'_> {
    /// Extended attributes of the backup, with the capabilities that it had.
    fn xattrs(&self) -> Result<Xattrs, RootError> {
        let present = self.dir.xattrs(&self.slot)?;
        Ok(self.privileges.with_capability(self.filesystem, &self.slot, &self.stat, present))
    }
}

fn missing() -> Difference {
    Difference { missing: true, ..Difference::default() }
}

/// The letter of a type in rsync's itemised lines.
fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Directory => 'd',
        FileKind::File => 'f',
        FileKind::Symlink => 'L',
        FileKind::Char(_) | FileKind::Block(_) => 'D',
        FileKind::Fifo | FileKind::Socket => 'S',
    }
}
