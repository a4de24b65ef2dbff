//! The filesystems that take part in a transaction: each has its own stage, since a rename cannot
//! leave a filesystem.

use std::collections::BTreeMap;

use crate::root::{Root, RootError};
use crate::tree_path::TreePath;

use super::{DISPLACED, STAGE, UNDO, name};

/// Where filesystems begin, in tree order; the first is the top of the tree itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystems {
    tops: Vec<TreePath>,
}

/// The open stages and undo directories of those filesystems that take part.
pub struct Stages {
    by_filesystem: BTreeMap<usize, (Root, Root)>,
}

impl Filesystems {
    /// The top, and the local filesystems that are mounted at `below`, in tree order.
    pub fn new(below: Vec<TreePath>) -> Self {
        Filesystems { tops: std::iter::once(TreePath::root()).chain(below).collect() }
    }

    /// As a journal recorded them.
    pub fn from_tops(tops: Vec<TreePath>) -> Self {
        Filesystems { tops }
    }

    /// Where each one begins.
    pub fn tops(&self) -> &[TreePath] {
        &self.tops
    }

    /// The filesystem that holds the directory of `path`: where a rename of `path` happens. The
    /// directory that something is mounted on belongs, as a name, to the filesystem above.
    pub fn of(&self, path: &TreePath) -> usize {
        // The last in tree order is the innermost.
        self.tops.iter().rposition(|top| path.is_below(top)).unwrap_or(0)
    }

    /// Whether something is mounted at `path`.
    pub fn is_top(&self, path: &TreePath) -> bool {
        self.tops.contains(path)
    }

    /// Makes empty stages on the filesystems in `which`; what an earlier run left there goes.
    pub fn create_stages(&self, root: &Root, which: impl Iterator<Item = usize>) -> Result<Stages, RootError> {
        for at in which {
            for part in [STAGE, UNDO] {
                let path = self.part(at, part);
                root.remove_tree(&path)?;
                root.create_dir(&path)?;
            }
        }
        self.open_stages(root)
    }

    /// Opens the stages that are there.
    pub fn open_stages(&self, root: &Root) -> Result<Stages, RootError> {
        let mut by_filesystem = BTreeMap::new();
        for at in 0..self.tops.len() {
            let (stage, undo) = (self.part(at, STAGE), self.part(at, UNDO));
            if root.stat(&stage)?.is_some() && root.stat(&undo)?.is_some() {
                by_filesystem.insert(at, (root.below(&stage)?, root.below(&undo)?));
            }
        }
        Ok(Stages { by_filesystem })
    }

    /// Removes the stages of all filesystems, the top's last, and what was displaced, but for what the
    /// node would miss.
    pub fn remove_stages(&self, root: &Root) -> Result<(), RootError> {
        for at in (0..self.tops.len()).rev() {
            let undo = self.part(at, UNDO);
            let kept = undo.join(DISPLACED.as_bytes()).map(|list| root.stat(&list));
            if !matches!(kept, Ok(Ok(Some(_)))) {
                root.remove_tree(&undo)?;
            }
            root.remove_tree(&self.part(at, STAGE))?;
        }
        Ok(())
    }

    /// Syncs the filesystems in `which`.
    pub fn sync(&self, root: &Root, which: impl Iterator<Item = usize>) -> Result<(), RootError> {
        for at in which {
            root.below(&self.tops[at])?.sync_filesystem()?;
        }
        Ok(())
    }

    fn part(&self, at: usize, part: &str) -> TreePath {
        // Mount points are far shorter than the longest path.
        self.tops[at].join(part.as_bytes()).unwrap_or_else(|_| name(part))
    }
}

impl Stages {
    /// The stage of a filesystem.
    pub fn stage(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|(stage, _)| stage)
    }

    /// The undo directory of a filesystem.
    pub fn undo(&self, at: usize) -> Option<&Root> {
        self.by_filesystem.get(&at).map(|(_, undo)| undo)
    }

    /// The filesystems that take part.
    pub fn which(&self) -> impl Iterator<Item = usize> {
        self.by_filesystem.keys().copied()
    }
}
