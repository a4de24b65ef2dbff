//! What a transaction displaces, kept under a second name until it is over, or longer.

use std::collections::HashMap;
use std::io;

use rustix::io::Errno;

use crate::apply::filesystem::Stages;
use crate::apply::on_disk::slot_name;
use crate::apply::plan::{Action, ChangePlan, KernelBackup};
use crate::root::{FileKind, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Gives everything that will be replaced by a rename its second name. What is replaced together with
/// what it holds, or goes, is moved there when its turn comes. What stays for the running kernel gets one,
/// too: it goes later.
pub(in crate::apply) fn link_all_backups(
    root: &Root,
    stages: &Stages,
    transaction: &ChangePlan,
) -> Result<(), RootError> {
    for change in &transaction.changes {
        let (Action::Install { slot }, Some(old)) =
            (change.action, stages.backups(change.filesystem))
        else {
            continue;
        };
        if root.stat(&change.path)?.is_some_and(|live| live.kind != FileKind::Directory) {
            link_backup(root, old, &slot_name(slot), &change.path)?;
        }
    }
    for KernelBackup { filesystem, path, slot } in &transaction.kernel_backups {
        let Some(old) = stages.backups(*filesystem) else { continue };
        if root.stat(path)?.is_some_and(|live| live.kind != FileKind::Directory) {
            link_backup(root, old, &slot_name(*slot), path)?;
        }
    }
    Ok(())
}

/// Gives what stands at `path`, which is no directory, the second name `slot`; where it can have no
/// second name (its inode has too many, the filesystem knows none, or it has no slots), the slot gets a
/// copy.
pub(in crate::apply) fn link_backup(
    root: &Root,
    old: &Root,
    slot: &TreePath,
    path: &TreePath,
) -> Result<(), RootError> {
    match old.create_link(slot, root, path) {
        Err(error) if has_no_links(&error.source) => root.copy(path, old, slot),
        answer => answer,
    }
}

/// Whether what is `kept` is what is `live`: the same inode, or the copy of one that can have no second
/// name.
pub(in crate::apply) fn is_backup_of(kept: &Stat, live: &Stat) -> bool {
    let copied = kept.links == 1
        && kept.kind == live.kind
        && (kept.size, kept.mtime) == (live.size, live.mtime);
    (kept.dev, kept.ino) == (live.dev, live.ino) || copied
}

fn has_no_links(error: &io::Error) -> bool {
    let errors = [Errno::XDEV, Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The bytes on each filesystem that only what is displaced will hold, once it is; before the first
/// change.
pub(in crate::apply) fn cost(
    root: &Root,
    transaction: &ChangePlan,
) -> Result<HashMap<usize, u64>, RootError> {
    let mut sum = DiskUsage::default();
    for change in &transaction.changes {
        match change.action {
            Action::Install { .. }
            | Action::Exchange { .. }
            | Action::Remove { .. }
            | Action::RemoveTree { .. } => {}
            _ => continue,
        }
        match root.stat(&change.path)? {
            Some(stat) if stat.kind == FileKind::Directory => {
                sum.add_tree(change.filesystem, root, &change.path)?
            }
            Some(stat) => sum.add(change.filesystem, &stat),
            None => {}
        }
    }
    Ok(sum.bytes())
}

/// Adds up what inodes hold that have no name but the counted ones.
#[derive(Default)]
pub(in crate::apply) struct DiskUsage {
    inodes: HashMap<(u64, u64), CountedInode>,
}

struct CountedInode {
    filesystem: usize,
    names: u64,
    links: u64,
    bytes: u64,
}

impl DiskUsage {
    /// One name of an inode.
    pub(in crate::apply) fn add(&mut self, filesystem: usize, stat: &Stat) {
        let new = CountedInode {
            filesystem,
            names: 0,
            links: stat.links,
            bytes: stat.blocks.saturating_mul(512),
        };
        self.inodes.entry((stat.dev, stat.ino)).or_insert(new).names += 1;
    }

    /// All that lies below a directory.
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
            Ok(crate::root::Descend::Into)
        })
    }

    /// By filesystem: how many have no name elsewhere.
    pub(in crate::apply) fn inodes(&self) -> HashMap<usize, u64> {
        let mut inodes = HashMap::new();
        for inode in self.inodes.values().filter(|inode| inode.names >= inode.links) {
            *inodes.entry(inode.filesystem).or_default() += 1;
        }
        inodes
    }

    /// By filesystem, in bytes.
    pub(in crate::apply) fn bytes(&self) -> HashMap<usize, u64> {
        let mut bytes = HashMap::new();
        for inode in self.inodes.values().filter(|inode| inode.names >= inode.links) {
            *bytes.entry(inode.filesystem).or_default() += inode.bytes;
        }
        bytes
    }
}
