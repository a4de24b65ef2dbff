//! Removal of names, directories and trees.

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::tree_path::TreePath;

use super::error::is_absent;
use super::fault::change;
use super::{Descend, FileKind, Result, Root, RootError};

/// Length of a path from which on a directory is removed through a handle of its own.
///
/// Another program may have paths below it that are longer than any [`TreePath`].
const LONG_PATH: usize = 2048;

impl Root {
    /// Removes the name of a file that is not a directory; a missing file is no error.
    pub fn unlink(&self, path: &TreePath) -> Result<()> {
        let removed = self.remove_name(path, AtFlags::empty());
        self.unless_absent("remove", path, removed)
    }

    /// Removes an empty directory; returns false if it is not empty.
    pub fn remove_dir(&self, path: &TreePath) -> Result<bool> {
        match self.remove_name(path, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
            answer => self.unless_absent("remove the directory", path, answer).map(|()| true),
        }
    }

    fn remove_name(&self, path: &TreePath, flags: AtFlags) -> rustix::io::Result<()> {
        let dir = self.parent_of(path)?;
        change(|| rustix::fs::unlinkat(dir, path.name(), flags))
    }

    /// Removes a path with everything below it; a missing path is no error.
    ///
    /// Mounts below it stay. If a path must not be removed, the rest is removed first, and then the
    /// error is returned.
    ///
    /// An rsync that outlived its run may still create files in the directory. Repeated passes
    /// remove them, until rsync fails because its directory is missing.
    pub fn remove_tree(&self, path: &TreePath) -> Result<()> {
        const MAX_PASSES: usize = 10;
        for _ in 0..MAX_PASSES {
            self.remove_tree_once(path)?;
            if self.stat(path)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn remove_tree_once(&self, path: &TreePath) -> Result<()> {
        match self.stat(path)? {
            None => return Ok(()),
            Some(stat) if stat.kind != FileKind::Directory => return self.unlink(path),
            Some(_) => {}
        }

        let mut dirs = vec![path.clone()];
        let mut first_refusal: Option<RootError> = None;
        let mut keep_refusal = |removed: Result<()>| match removed {
            Err(error) if error.is_forbidden() => {
                first_refusal.get_or_insert(error);
                Ok(())
            }
            removed => removed,
        };

        self.walk::<RootError>(path, |visit| {
            if visit.stat.kind != FileKind::Directory {
                keep_refusal(self.unlink(&visit.path))?;
                return Ok(Descend::Into);
            }
            if self.change_locks(&visit.path)?.is_some_and(|locks| locks.mount_root) {
                return Ok(Descend::Past);
            }

            let is_long = visit.path.as_bytes().len() > LONG_PATH;
            if is_long {
                let tree = self.below(&visit.path)?;
                for (child, _) in tree.children(&TreePath::root())? {
                    keep_refusal(tree.remove_tree(&child))?;
                }
            }
            dirs.push(visit.path);
            Ok(if is_long { Descend::Past } else { Descend::Into })
        })?;

        // In reverse: a directory after everything below it.
        for dir in dirs.iter().rev() {
            keep_refusal(self.remove_dir(dir).map(drop))?;
        }
        first_refusal.map_or(Ok(()), Err)
    }

    fn unless_absent(
        &self,
        operation: &'static str,
        path: &TreePath,
        result: rustix::io::Result<()>,
    ) -> Result<()> {
        match result {
            Err(e) if is_absent(&e.into()) => Ok(()),
            result => result.map_err(|e| self.error(operation, path, e)),
        }
    }
}
