//! Mounts that an update has to know of: those in the tree's fstab, and foreign ones.

use crate::host;
use crate::manifest::Manifest;
use crate::root::Root;
use crate::tree_path::TreePath;
use crate::update::error::UpdateError;
use crate::update::fstab;
use crate::update::notice::TransactionNotice;
use crate::update::run::Run;

/// Reads the mount points of the tree's own fstab.
pub(super) fn read_fstab(root: &Root) -> Result<Vec<TreePath>, UpdateError> {
    Ok(host::mount_points(&fstab::read(root)?))
}

/// Warns of paths of the image below mounts that this program does not write to.
pub(super) fn warn_of_foreign_mounts(run: &Run<'_>, composed: &Manifest) {
    for mount in &run.session.mounts {
        // Images often have entries below the mount points of the kernel, such as `/dev`.
        if mount.takes_part() || mount.is_pseudo() {
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
