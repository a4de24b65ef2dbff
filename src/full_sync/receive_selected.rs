//! Receives selected paths of a layer without comparing them with the live tree.

use std::ffi::OsStr;

use super::error::FullSyncError;
use super::module::{Module, archive_options};
use super::receive_dir::ReceiveDir;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::{Descend, Root, RootError};
use crate::scan;
use crate::tree_path::TreePath;

/// Selected paths of a layer.
pub struct Selected {
    /// The paths, with the directories above them.
    pub manifest: Manifest,
    /// Directory of the received files.
    pub tree: Root,
}

/// Receives the paths that the rules of `module` include.
///
/// The rules select few paths, mostly directories, so that nothing is compared with the live tree.
pub fn receive_selected(
    module: &Module<'_>,
    receive_dir: &ReceiveDir,
    monitor: &dyn Monitor,
) -> Result<Selected, FullSyncError> {
    let directory = receive_dir.create_part("selected-", module.layer, module.rules)?;
    let mut options = archive_options();
    options.push(module.modify_window().into());
    let place = (&directory.top, OsStr::new("tree/"));
    let outcome = module.run(place, options, |_| Ok(()), monitor)?;
    module.check_outcome(&outcome)?;

    let mut paths = vec![TreePath::root()];
    directory.tree.walk::<RootError>(&TreePath::root(), |visit| {
        paths.push(visit.path);
        Ok(Descend::Into)
    })?;
    let entries: Vec<Entry> =
        scan::read_entries(&directory.tree, &paths, monitor)?.into_iter().flatten().collect();
    Ok(Selected { manifest: Manifest::new(entries)?, tree: directory.tree })
}
