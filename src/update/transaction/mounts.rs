//! Mounts that an update has to know of: those in the tree's fstab, and foreign ones.

use crate::entry::Entry;
use crate::filter::Filter;
use crate::host;
use crate::manifest::Manifest;
use crate::root::Root;
use crate::root::mounts::{Mount, is_in_kernel_place};
use crate::tree_path::TreePath;
use crate::update::error::{UpdateError, UsageError};
use crate::update::fstab;
use crate::update::notice::TransactionNotice;
use crate::update::run::Run;

/// Reads the mount points of the tree's own fstab.
pub(super) fn read_fstab(root: &Root) -> Result<Vec<TreePath>, UpdateError> {
    Ok(host::mount_points(&fstab::read(root)?))
}

/// Warns of tracked paths that mounts hide, because this program does not write to them.
///
/// These are foreign mounts, and those that `fstype` leaves out.
pub(super) fn warn_of_foreign_mounts(
    run: &Run<'_>,
    composed: &Manifest,
) -> Result<(), UpdateError> {
    let fstypes = run.request.fstypes.as_deref();
    let is_left_out = |mount: &&Mount| fstypes.is_some_and(|types| !types.contains(&mount.kind));
    let hides = |mount: &&Mount| {
        (!mount.takes_part() || is_left_out(mount))
            // Images often have entries below the mount points of the kernel, such as `/dev`.
            && !(mount.is_pseudo() && is_in_kernel_place(&mount.at))
    };
    let mounts: Vec<&Mount> = run.session.mounts.iter().filter(hides).collect();
    if mounts.is_empty() {
        return Ok(());
    }

    let rules = Filter::builder()
        .exclude_file(&run.excludes.name, &run.excludes.rules)
        .map_err(UsageError::Excludes)?
        .build();
    let tracked = rules.included_part(composed);
    for mount in mounts {
        // The mount point itself is hidden only if it is a file.
        let is_hidden = |entry: &&Entry| {
            entry.path.is_below(&mount.at) || (entry.path == mount.at && !entry.is_dir())
        };
        let paths = tracked.entries().iter().filter(is_hidden).count();
        if paths > 0 {
            let path = run.session.root.show(&mount.at);
            run.monitor.warn(TransactionNotice::ForeignMount { path, kind: &mount.kind, paths });
        }
    }
    Ok(())
}
