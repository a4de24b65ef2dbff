//! What a boot loader reads.

use std::collections::BTreeSet;

use crate::apply::filesystem::Filesystems;
use crate::apply::journal::Journal;
use crate::apply::notice::ApplyNotice;
use crate::apply::on_disk::name;
use crate::report::Monitor;
use crate::root::{Root, mounts};

/// Kinds of filesystem whose sync may leave what is new in a journal. A btrfs and an f2fs are read from
/// what their last sync completed, and others have no journal.
const JOURNALED: [&str; 5] = ["ext3", "ext4", "xfs", "jfs", "reiserfs"];

/// Where something below `boot` changed, writes back the journal of the filesystem that holds it, which
/// is synced. Only where all of that filesystem is mounted at the top of the tree or below: one that
/// holds a tree in a plain directory, or in a bind mount, is another system's.
///
/// What cannot be done is no failure, since the content is durable.
pub(in crate::apply) fn write_back(root: &Root, journal: &Journal, monitor: &dyn Monitor) {
    let boot = name("boot");
    let filesystems = Filesystems::from_mount_roots(journal.tops.clone());
    let changed =
        journal.changes.iter().filter(|change| change.path == boot || change.path.is_below(&boot));
    let held: BTreeSet<usize> =
        changed.map(|change| filesystems.stage_filesystem_of(&change.path)).collect();
    if held.is_empty() {
        return;
    }
    let Ok((host, mounts)) = mounts::read(root.shown()) else { return };
    for top in held.into_iter().map(|at| &filesystems.mount_roots()[at]) {
        let mounted = if top.is_root() {
            host.as_ref().map(|host| (&host.kind, &host.source))
        } else {
            mounts.iter().find(|mount| mount.at == *top).map(|mount| (&mount.kind, &mount.source))
        };
        if !mounted
            .is_some_and(|(kind, source)| JOURNALED.contains(&kind.as_str()) && source == b"/")
        {
            continue;
        }
        if let Err(error) = root.below(top).and_then(|tree| tree.write_back()) {
            monitor.warn(ApplyNotice::BootFlushFailed { error });
        }
    }
}
