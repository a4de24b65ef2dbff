//! Backups: second links of files that a transaction replaces, and the space that they occupy.

use std::collections::HashMap;
use std::io;

use rustix::io::Errno;

use crate::apply::error::Untouched;
use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::on_disk::slot_name;
use crate::apply::plan::{Action, Change, ChangePlan, KernelBackup};
use crate::cancel::check_cancelled;
use crate::report::Monitor;
use crate::root::{Descend, FileKind, Object, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Fewest links of an inode whose backups may need more links than there can be.
const MANY_LINKS: u64 = 1000;
/// Most links of an inode on any filesystem, as far as the space for copies is concerned: ext4 has
/// 65,000, btrfs 65,535, xfs more than any tree.
const MAX_LINKS: u64 = 65_000;

/// Backs up every file that a rename will replace, and those that stay for the running kernel.
///
/// Directories and removed files need no link: their own rename moves them to the backups. A file
/// of the running kernel is removed by a later run, and this transaction's undo set restores it.
///
/// A path of a user that refuses now gets its backup when it is replaced, or it is left out.
pub(in crate::apply) fn link_all_backups(
    root: &Root,
    stages: &Stages,
    plan: &ChangePlan,
    monitor: &dyn Monitor,
) -> Result<(), Untouched> {
    let installs = plan.changes.iter().filter_map(|change| match change.action {
        Action::Install { slot } => Some((change.filesystem, &change.path, slot)),
        _ => None,
    });
    let kernels = plan
        .kernel_backups
        .iter()
        .map(|KernelBackup { filesystem, path, slot }| (*filesystem, path, *slot));

    let mut linker = BackupLinker { root, monitor, inodes: HashMap::new() };
    for (filesystem, path, slot) in installs.chain(kernels) {
        check_cancelled(monitor)?;
        let Some(backups) = stages.backups(filesystem) else { continue };
        match linker.link_if_leaf(backups, &slot_name(slot), path) {
            Err(error) if error.is_of_path() && root.is_writable_by_others(path)? => {
                backups.unlink(&slot_name(slot))?;
            }
            linked => linked.map_err(|error| Untouched::cancelled_or_full(monitor, error))?,
        }
    }
    Ok(())
}

/// Links files to backups; all backups of an inode that can have no further link share one copy.
///
/// Otherwise a rollback would restore separate files in place of a hard-link group.
struct BackupLinker<'a> {
    root: &'a Root,
    monitor: &'a dyn Monitor,
    /// Backups of inodes with several links, by device and inode number.
    inodes: HashMap<(u64, u64), InodeBackups>,
}

/// Backups of one inode.
#[derive(Default)]
struct InodeBackups {
    /// Slots that are links of the inode itself.
    links: Vec<TreePath>,
    /// Slot of the copy that replaces them.
    copy: Option<TreePath>,
}

impl BackupLinker<'_> {
    fn link_if_leaf(
        &mut self,
        backups: &Root,
        slot: &TreePath,
        path: &TreePath,
    ) -> Result<(), RootError> {
        let Some(held) = self.root.hold(path)? else { return Ok(()) };
        let live = held.stat();
        if live.kind == FileKind::Directory {
            Ok(())
        } else if live.links == 1 {
            link_or_copy(&held, backups, slot, &|| self.monitor.is_cancelled())
        } else {
            self.link(backups, slot, &held)
        }
    }

    fn link(
        &mut self,
        backups: &Root,
        slot: &TreePath,
        held: &Object<'_>,
    ) -> Result<(), RootError> {
        let is_cancelled = || self.monitor.is_cancelled();
        let live = held.stat();
        let inode = self.inodes.entry((live.dev, live.ino)).or_default();
        let linked = match &inode.copy {
            Some(copy) => link_slot(backups, copy, slot),
            None => held.link_to(backups, slot),
        };
        match linked {
            Ok(()) if inode.copy.is_none() => inode.links.push(slot.clone()),
            Ok(()) => {}
            Err(error) if cannot_link(&error.source) => {
                held.copy_to(backups, slot, &is_cancelled)?;
                for link in inode.links.drain(..) {
                    backups.unlink(&link)?;
                    link_slot(backups, slot, &link)?;
                }
                inode.copy = Some(slot.clone());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
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
    match root.hold(path)? {
        Some(held) => link_or_copy(&held, backups, slot, &|| false),
        None => Ok(()),
    }
}

fn link_or_copy(
    held: &Object<'_>,
    backups: &Root,
    slot: &TreePath,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<(), RootError> {
    match held.link_to(backups, slot) {
        Err(error) if cannot_link(&error.source) => held.copy_to(backups, slot, is_cancelled),
        answer => answer,
    }
}

/// Links the file of one slot to another slot.
fn link_slot(backups: &Root, from: &TreePath, to: &TreePath) -> Result<(), RootError> {
    match backups.hold(from)? {
        Some(held) => held.link_to(backups, to),
        None => Ok(()),
    }
}

/// Whether `backup` is the backup of the object `live`: the same inode, or a copy of it.
pub(in crate::apply) fn is_backup_of(backup: &Stat, live: &Stat) -> bool {
    let attributes =
        |stat: &Stat| (stat.kind, stat.size, stat.mtime, stat.mode, stat.uid, stat.gid);
    is_same_inode(backup, live) || attributes(backup) == attributes(live)
}

/// Whether both are links of one inode.
pub(in crate::apply) fn is_same_inode(a: &Stat, b: &Stat) -> bool {
    (a.dev, a.ino) == (b.dev, b.ino)
}

fn cannot_link(error: &io::Error) -> bool {
    let errors = [Errno::XDEV, Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Space for the backups of `plan` that have to be copies, by filesystem.
///
/// These are the backups of inodes that would have too many links.
pub(in crate::apply) fn copied_backups(
    root: &Root,
    plan: &ChangePlan,
) -> Result<HashMap<usize, CopiedBackups>, RootError> {
    let installs: Vec<&Change> = plan
        .changes
        .iter()
        .filter(|change| matches!(change.action, Action::Install { .. }))
        .collect();
    let paths: Vec<&TreePath> = installs.iter().map(|change| &change.path).collect();

    let mut inodes: HashMap<(u64, u64), (usize, Stat, u64)> = HashMap::new();
    for (change, stat) in installs.iter().zip(root.stat_each(&paths)?) {
        let stat = stat.transpose().unwrap_or_default();
        if let Some(stat) = stat.filter(|stat| stat.links >= MANY_LINKS) {
            let inode = inodes.entry((stat.dev, stat.ino));
            inode.or_insert((change.filesystem, stat, 0)).2 += 1;
        }
    }

    let mut copied: HashMap<usize, CopiedBackups> = HashMap::new();
    for (filesystem, stat, names) in inodes.into_values() {
        if stat.links.saturating_add(names) > MAX_LINKS {
            let copies = names.div_ceil(MAX_LINKS);
            let sum = copied.entry(filesystem).or_default();
            sum.inodes += copies;
            sum.bytes += copies.saturating_mul(stat.blocks.saturating_mul(512));
        }
    }
    Ok(copied)
}

/// Space for copies of files that can have no other link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::apply) struct CopiedBackups {
    pub bytes: u64,
    pub inodes: u64,
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

        let stat = match root.stat(&change.path) {
            Err(error) if root.is_unknown(&change.path, &error) => continue,
            stat => stat?,
        };
        match stat {
            Some(stat) if stat.kind == FileKind::Directory => {
                match usage.add_tree(change.filesystem, root, &change.path) {
                    // It is an estimate; the part that cannot be read is left out of it.
                    Err(error) if root.is_unknown(&change.path, &error) => {}
                    answer => answer?,
                }
            }
            Some(stat) => usage.add(change.filesystem, &stat),
            None => {}
        }
    }
    let mut bytes = usage.bytes();
    for (filesystem, copied) in copied_backups(root, plan)? {
        *bytes.entry(filesystem).or_default() += copied.bytes;
    }
    Ok(bytes)
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
