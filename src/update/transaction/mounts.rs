//! Mounts that an update has to know of: those in the tree's fstab, and foreign ones.

use crate::host;
use crate::manifest::Manifest;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::fstab;
use crate::update::notice::TransactionNotice;
use crate::update::run::Run;

/// Filesystems of the kernel. Images often have entries below their mount points, such as `/dev`.
const PSEUDO_FILESYSTEMS: [&str; 9] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "mqueue",
    "hugetlbfs",
    "cgroup2",
    "securityfs",
];

/// Reads the mount points of the tree's own fstab.
pub(super) fn read_fstab(root: &Root) -> Result<Vec<TreePath>, UpdateError> {
    Ok(host::mount_points(&fstab::read(root)?))
}

/// Warns of paths of the image below mounts that this program does not write to.
pub(super) fn warn_of_foreign_mounts(run: &Run<'_>, composed: &Manifest) {
    for mount in &run.session.mounts {
        if mount.takes_part() || PSEUDO_FILESYSTEMS.contains(&mount.kind.as_str()) {
            continue;
        }
        let paths =
            composed.entries().iter().filter(|entry| entry.path.is_below(&mount.at)).count();
        if paths > 0 {
            let path = run.session.root.show(&mount.at);
            run.monitor.warn(TransactionNotice::ForeignMount { path, kind: &mount.kind, paths });
        }
    }
}
