//! Boot flush: writes the journal of the filesystem of `/boot` back to its final place.
//!
//! After syncfs(2), new metadata may be durable only in the filesystem's own journal. A boot loader
//! that does not replay it, such as GRUB on ext4 or xfs, would not find the new kernel. Freezing
//! and thawing the filesystem writes everything back.

use std::collections::BTreeSet;

use crate::apply::filesystem::Filesystems;
use crate::apply::journal::Journal;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::name;
use crate::report::Monitor;
use crate::root::{Root, mounts};

/// Filesystem types whose sync may leave metadata in a journal. btrfs and f2fs are read from the
/// checkpoint of their last sync; other types have no journal.
const JOURNALED: [&str; 5] = ["ext3", "ext4", "xfs", "jfs", "reiserfs"];

/// Flushes each filesystem on which a path at or below `/boot` changed; it has been synced before.
///
/// Only a filesystem that is mounted as a whole is flushed: one that contains the root in a plain
/// directory, or by a bind mount, belongs to another system. A failure is a warning, since the
/// content is durable.
pub(super) fn write_back(
    root: &Root,
    filesystems: &Filesystems,
    journal: &Journal,
    monitor: &dyn Monitor,
) {
    let boot = name("boot");
    let changed: BTreeSet<usize> = journal
        .changes
        .iter()
        .filter(|change| change.path == boot || change.path.is_below(&boot))
        .map(|change| filesystems.entry_filesystem_of(&change.path))
        .collect();
    if changed.is_empty() {
        return;
    }

    let Ok((host, mounts)) = mounts::read(root.location()) else { return };
    for mount_root in changed.into_iter().map(|at| &filesystems.mount_roots()[at]) {
        let mounted = if mount_root.is_root() {
            host.as_ref().map(|host| (&host.kind, &host.source))
        } else {
            let mount = mounts.iter().find(|mount| mount.at == *mount_root);
            mount.map(|mount| (&mount.kind, &mount.source))
        };
        let Some((kind, source)) = mounted else { continue };
        if !JOURNALED.contains(&kind.as_str()) || source != b"/" {
            continue;
        }
        if let Err(error) = root.below(mount_root).and_then(|tree| tree.flush_journal()) {
            monitor.warn(ApplyNotice::BootFlushFailed { error });
        }
    }
}
