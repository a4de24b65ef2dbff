//! Backups: second links of files that a transaction replaces, and the space that they occupy.

use std::collections::HashMap;
use std::io;

use rustix::io::Errno;

use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::on_disk::slot_name;
use crate::apply::plan::{Action, ChangePlan, KernelBackup};
use crate::root::{Descend, FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Backs up every file that a rename will replace, and those that stay for the running kernel.
///
/// Directories and removed files need no link: their own rename moves them to the backups. A file
/// of the running kernel is removed by a later run, and this transaction's undo set restores it.
pub(in crate::apply) fn link_all_backups(
    root: &Root,
    stages: &Stages,
    plan: &ChangePlan,
) -> Result<(), RootError> {
    let installs = plan.changes.iter().filter_map(|change| match change.action {
        Action::Install { slot } => Some((change.filesystem, &change.path, slot)),
        _ => None,
    });
    let kernels = plan
        .kernel_backups
        .iter()
        .map(|KernelBackup { filesystem, path, slot }| (*filesystem, path, *slot));

    for (filesystem, path, slot) in installs.chain(kernels) {
        let Some(backups) = stages.backups(filesystem) else { continue };
        if root.stat(path)?.is_some_and(|live| live.kind != FileKind::Directory) {
            link_backup(root, backups, &slot_name(slot), path)?;
        }
    }
    Ok(())
}

/// Links the object at `path`, which is no directory, to the backup `slot`.
///
/// If it can have no other link, the backup is a copy: its inode has too many links, or its
/// filesystem knows none or is a limited one.
pub(in crate::apply) fn link_backup(
    root: &Root,
    backups: &Root,
    slot: &TreePath,
    path: &TreePath,
) -> Result<(), RootError> {
    match backups.create_link(slot, root, path) {
        Err(error) if cannot_link(&error.source) => root.copy(path, backups, slot),
        answer => answer,
    }
}

/// Whether `backup` is the backup of the object `live`: the same inode, or a copy of it.
pub(in crate::apply) fn is_backup_of(backup: &Stat, live: &Stat) -> bool {
    let is_copy = backup.links == 1
        && backup.kind == live.kind
        && (backup.size, backup.mtime) == (live.size, live.mtime);
    (backup.dev, backup.ino) == (live.dev, live.ino) || is_copy
}

fn cannot_link(error: &io::Error) -> bool {
    let errors = [Errno::XDEV, Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Bytes that the backups of `plan` will occupy on each filesystem, before the first change.
///
/// An inode counts if all its links are among the backups.
pub(in crate::apply) fn backup_sizes(
    root: &Root,
    plan: &ChangePlan,
) -> Result<HashMap<usize, u64>, RootError> {
    let mut usage = DiskUsage::default();
    for change in &plan.changes {
        let is_backed_up = matches!(
            change.action,
            Action::Install { .. }
                | Action::Exchange { .. }
                | Action::Remove { .. }
                | Action::RemoveTree { .. }
        );
        if !is_backed_up {
            continue;
        }

        match root.stat(&change.path)? {
            Some(stat) if stat.kind == FileKind::Directory => {
                usage.add_tree(change.filesystem, root, &change.path)?;
            }
            Some(stat) => usage.add(change.filesystem, &stat),
            None => {}
        }
    }
    Ok(usage.bytes())
}

/// Space that would be free without the links that were added.
#[derive(Default)]
pub(in crate::apply) struct DiskUsage {
    inodes: HashMap<(u64, u64), CountedInode>,
}

struct CountedInode {
    filesystem: usize,
    added: u64,
    links: u64,
    bytes: u64,
}

impl DiskUsage {
    /// Adds one link of an inode.
    pub(in crate::apply) fn add(&mut self, filesystem: usize, stat: &Stat) {
        let bytes = stat.blocks.saturating_mul(512);
        let inode = CountedInode { filesystem, added: 0, links: stat.links, bytes };
        self.inodes.entry((stat.dev, stat.ino)).or_insert(inode).added += 1;
    }

    /// Adds every link below a directory.
    pub(in crate::apply) fn add_tree(
        &mut self,
        filesystem: usize,
        root: &Root,
        path: &TreePath,
    ) -> Result<(), RootError> {
        root.walk(path, |visit| {
            if visit.stat.kind != FileKind::Directory {
                self.add(filesystem, &visit.stat);
            }
            Ok(Descend::Into)
        })
    }

    /// Number of inodes without another link, by filesystem.
    pub(in crate::apply) fn inodes(&self) -> HashMap<usize, u64> {
        self.sum(|_| 1)
    }

    /// Bytes of the inodes without another link, by filesystem.
    pub(in crate::apply) fn bytes(&self) -> HashMap<usize, u64> {
        self.sum(|inode| inode.bytes)
    }

    fn sum(&self, amount: impl Fn(&CountedInode) -> u64) -> HashMap<usize, u64> {
        let mut sums = HashMap::new();
        for inode in self.inodes.values().filter(|inode| inode.added >= inode.links) {
            *sums.entry(inode.filesystem).or_default() += amount(inode);
        }
        sums
    }
}
