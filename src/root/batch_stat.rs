//! Looking at many paths at once.

use std::os::fd::{AsFd, BorrowedFd};

use rayon::prelude::*;
use rustix::fs::AtFlags;

use crate::root::inspect::{pins_in, present};
use crate::root::io_pool::on_many_threads;
use crate::root::{Pins, Result, Root, Stat};
use crate::tree_path::TreePath;

/// To look at fewer is done before threads begin.
const MANY: usize = 1000;

impl Root {
    /// What stands at each of `paths`, as [`Root::stat`] tells it, on many threads; fastest where neighbours
    /// are in one directory.
    pub fn stat_each(&self, paths: &[&TreePath]) -> Result<Vec<Option<Stat>>> {
        self.each(
            paths,
            |path| self.stat(path),
            |dir, path| {
                present(
                    rustix::fs::statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW)
                        .map(|found| Some(Stat::from(found))),
                )
            },
        )
    }

    /// What [`Root::pins`] tells of each of `paths`, as [`Root::stat_each`] looks at them.
    pub fn pins_each(&self, paths: &[&TreePath]) -> Result<Vec<Option<Pins>>> {
        self.each(paths, |path| self.pins(path), |dir, path| present(pins_in(dir, path.name())))
    }

    /// Looks at each of `paths`: at those of one directory through its descriptor.
    fn each<T: Send>(
        &self,
        paths: &[&TreePath],
        alone: impl Fn(&TreePath) -> Result<Option<T>> + Sync,
        inside: impl Fn(BorrowedFd<'_>, &TreePath) -> rustix::io::Result<Option<T>> + Sync,
    ) -> Result<Vec<Option<T>>> {
        let neighbours = |a: &&TreePath, b: &&TreePath| {
            a.directory() == b.directory() && !a.is_root() && !b.is_root()
        };
        let directories: Vec<&[&TreePath]> = paths.chunk_by(neighbours).collect();
        let look = |paths: &&[&TreePath]| {
            let [first, _, ..] = paths else {
                return paths.iter().map(|path| alone(path)).collect();
            };
            let dir = match present(self.parent_of(first).map(Some)) {
                Ok(Some(dir)) => dir,
                Ok(None) => return Ok(paths.iter().map(|_| None).collect()),
                Err(e) => return Err(self.error("inspect", first, e)),
            };
            let look = |path: &&TreePath| {
                inside(dir.as_fd(), path).map_err(|e| self.error("inspect", path, e))
            };
            paths.iter().map(look).collect()
        };
        let all = || directories.par_iter().map(look).collect::<Result<_>>();
        let found: Vec<Vec<Option<T>>> =
            if paths.len() < MANY { all()? } else { on_many_threads(all)? };
        Ok(found.into_iter().flatten().collect())
    }
}
