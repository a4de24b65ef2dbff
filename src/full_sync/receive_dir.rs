//! The receive directory, into which rsync writes.

use std::io::Write;
use std::path::Path;

use crate::apply::filesystem::mount_root_times;
use crate::apply::on_disk::RECEIVE_DIR;
use crate::image::Layer;
use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

/// Directory of the received layers, beside the live tree or temporary.
pub struct ReceiveDir {
    directory: Root,
    /// Parent and name of a temporary directory, which is removed on drop.
    temporary: Option<(Root, TreePath)>,
}

/// Directory of one layer in the receive directory.
pub(super) struct LayerDir {
    /// The directory in which rsync runs. It has a file `rules` and the directory `tree`.
    pub top: Root,
    /// The directory of the received files.
    pub tree: Root,
}

impl ReceiveDir {
    /// Creates it at the top of `root`, unless it exists: its files can be renamed into a stage.
    ///
    /// The mtime of the top is saved before, since the new directory changes it.
    pub fn create(root: &Root) -> Result<Self, RootError> {
        mount_root_times::save_root_time(root)?;
        if root.stat(&Self::path())?.is_none() {
            root.create_dir(&Self::path())?;
        }
        Ok(ReceiveDir { directory: root.below(&Self::path())?, temporary: None })
    }

    /// Creates one in `parent` that is removed on drop, for a run that changes nothing.
    pub fn create_temporary(parent: &Path) -> Result<Self, RootError> {
        let parent = Root::open(parent)?;
        let name = fixed_path(&format!("si-received-{}", std::process::id()));
        parent.remove_tree(&name)?;
        parent.create_dir(&name)?;
        Ok(ReceiveDir { directory: parent.below(&name)?, temporary: Some((parent, name)) })
    }

    /// Path of the directory that [`create`](Self::create) makes.
    pub fn path() -> TreePath {
        fixed_path(RECEIVE_DIR)
    }

    /// Removes the receive directory of the tree at `root`.
    pub fn discard(root: &Root) -> Result<(), RootError> {
        root.remove_tree(&Self::path())
    }

    /// Creates the empty directory of `layer`, with the filter `rules` for rsync.
    pub(super) fn create_layer(&self, layer: &Layer, rules: &[u8]) -> Result<LayerDir, RootError> {
        self.create_part("", layer, rules)
    }

    /// The same for a second transfer of `layer`; `prefix` distinguishes its name.
    pub(super) fn create_part(
        &self,
        prefix: &str,
        layer: &Layer,
        rules: &[u8],
    ) -> Result<LayerDir, RootError> {
        // An image and an override may have the same name.
        let name = match layer {
            Layer::Image(name) => fixed_path(&format!("{prefix}image-{name}")),
            Layer::Override(name) => fixed_path(&format!("{prefix}override-{name}")),
            Layer::Cluster => fixed_path(&format!("{prefix}cluster")),
        };
        self.directory.remove_tree(&name)?;
        self.directory.create_dir(&name)?;
        let top = self.directory.below(&name)?;

        let rules_path = fixed_path("rules");
        let mut file = top.create_file(&rules_path)?;
        file.write_all(rules).map_err(|source| RootError {
            operation: "write",
            path: top.show(&rules_path),
            source,
        })?;

        top.create_dir(&fixed_path("tree"))?;
        let tree = top.below(&fixed_path("tree"))?;
        Ok(LayerDir { top, tree })
    }
}

impl Drop for ReceiveDir {
    fn drop(&mut self) {
        if let Some((parent, name)) = &self.temporary {
            // A leftover is among other temporary files, and no run uses it.
            let _ = parent.remove_tree(name);
        }
    }
}

/// A fixed name, or one with a checked layer name, as a path; it is always valid.
pub(super) fn fixed_path(name: &str) -> TreePath {
    TreePath::new(name).unwrap_or_else(|_| TreePath::root())
}
