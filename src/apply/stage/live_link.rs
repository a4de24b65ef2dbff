//! Hard links from the live tree into a stage, to the inodes that the plan compared.

use std::collections::HashMap;

use crate::root::{InodeVersion, Root, RootError};
use crate::tree_path::TreePath;

/// Links live files, unless they were replaced or edited since they were compared.
#[derive(Default)]
pub(super) struct LiveLinker<'a> {
    /// Versions of the inodes after the links that this linker made, which change the ctime.
    linked: HashMap<(u64, u64), InodeVersion>,
    /// Live paths that were replaced, with the staged item that has the content.
    pub replaced: HashMap<&'a TreePath, usize>,
}

impl LiveLinker<'_> {
    /// Links the file at `path` to `place`; returns false if it is not `version` any more.
    ///
    /// The descriptor that is compared is the one that is linked.
    pub(super) fn link(
        &mut self,
        root: &Root,
        path: &TreePath,
        version: InodeVersion,
        stage: &Root,
        place: &TreePath,
    ) -> Result<bool, RootError> {
        let Some(held) = root.hold(path)? else { return Ok(false) };
        let inode = version.inode();
        let expected = self.linked.get(&inode).copied().unwrap_or(version);
        if held.stat().version() != expected {
            return Ok(false);
        }

        held.link_to(stage, place)?;
        self.linked.insert(inode, held.read_version()?);
        Ok(true)
    }
}
