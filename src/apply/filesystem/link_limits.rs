//! Hard-link groups as the filesystems of a tree hold them.
//!
//! An image may have more names of one file than the node's filesystem allows. The names above the
//! limit become a second file with the same content, and its first name is a deviation. Otherwise no
//! update to that image could be staged.

use std::collections::BTreeMap;

use crate::apply::filesystem::Filesystems;
use crate::manifest::Manifest;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Most links of a file on each filesystem of a tree.
#[derive(Clone, Debug)]
pub struct LinkLimits {
    filesystems: Filesystems,
    /// By number of the filesystem.
    limits: Vec<usize>,
}

impl LinkLimits {
    /// Reads the limits of all filesystems.
    pub fn read(root: &Root, filesystems: &Filesystems) -> Result<Self, RootError> {
        let limit_at = |mount_root: &TreePath| match root.below(mount_root) {
            Err(error) if error.is_absent() => Ok(usize::MAX),
            filesystem => filesystem?.max_links(),
        };
        let limits = filesystems.mount_roots().iter().map(limit_at).collect::<Result<_, _>>()?;
        Ok(LinkLimits { filesystems: filesystems.clone(), limits })
    }

    /// The manifest with groups that can exist, and the deviations with their reason.
    pub fn apply(&self, manifest: &Manifest) -> (Manifest, BTreeMap<TreePath, String>) {
        let limit_of = |path: &TreePath| self.limits[self.filesystems.entry_filesystem_of(path)];
        let (manifest, split) = manifest.with_group_limit(limit_of);
        let reason = |path: &TreePath| {
            format!("no hard link: its filesystem allows {} names of a file", limit_of(path))
        };
        let deviations = split.into_iter().map(|path| (path.clone(), reason(&path))).collect();
        (manifest, deviations)
    }
}
