//! Metadata of many paths at once.
//!
//! Paths of one directory are read through one descriptor of it, and directories on several
//! threads. On a disk this is several times faster than one path after the other.

use std::os::fd::{AsFd, BorrowedFd};

use rayon::prelude::*;
use rustix::fs::AtFlags;

use crate::tree_path::TreePath;

use super::inspect::{change_locks_in, none_if_absent};
use super::io_pool::on_many_threads;
use super::{ChangeLocks, Result, Root, RootError, Stat};

/// Fewer paths are read faster than additional threads start.
const MIN_PATHS_FOR_THREADS: usize = 1000;

impl Root {
    /// Same as [`Root::stat`] for each path; fastest if paths of one directory follow each other.
    ///
    /// A path that cannot be inspected has its error. Only an error of the disk is one of the call.
    pub fn stat_each(&self, paths: &[&TreePath]) -> Result<Vec<Option<Result<Stat>>>> {
        let unknown = |path: &TreePath, error: RootError| {
            if self.is_unknown(path, &error) { Ok(Some(Err(error))) } else { Err(error) }
        };
        self.inspect_each(
            paths,
            |path| self.stat(path).map(|stat| stat.map(Ok)).or_else(|error| unknown(path, error)),
            |dir, path| {
                let stat = rustix::fs::statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW);
                match none_if_absent(stat.map(|stat| Some(Stat::from(stat)))) {
                    Err(errno) => {
                        unknown(path, self.error("inspect", path, errno)).map_err(|_| errno)
                    }
                    Ok(stat) => Ok(stat.map(Ok)),
                }
            },
        )
    }

    /// Same as [`Root::change_locks`] for each path; fastest if paths of one directory follow each
    /// other.
    pub fn change_locks_each(&self, paths: &[&TreePath]) -> Result<Vec<Option<ChangeLocks>>> {
        self.inspect_each(
            paths,
            |path| self.change_locks(path),
            |dir, path| none_if_absent(change_locks_in(dir, path.name())),
        )
    }

    /// Inspects single paths with `alone`, and several paths of one directory with `inside`.
    pub(super) fn inspect_each<T: Send>(
        &self,
        paths: &[&TreePath],
        alone: impl Fn(&TreePath) -> Result<Option<T>> + Sync,
        inside: impl Fn(BorrowedFd<'_>, &TreePath) -> rustix::io::Result<Option<T>> + Sync,
    ) -> Result<Vec<Option<T>>> {
        let directories: Vec<&[&TreePath]> = paths
            .chunk_by(|a: &&TreePath, b: &&TreePath| {
                a.directory() == b.directory() && !a.is_root() && !b.is_root()
            })
            .collect();

        let inspect_all = || {
            directories
                .par_iter()
                .map(|paths: &&[&TreePath]| -> Result<Vec<Option<T>>> {
                    let [first, _, ..] = paths else {
                        return paths.iter().map(|path| alone(path)).collect();
                    };
                    let dir = match none_if_absent(self.parent_of(first).map(Some)) {
                        Ok(Some(dir)) => dir,
                        Ok(None) => return Ok(paths.iter().map(|_| None).collect()),
                        // Each path has an answer of its own.
                        Err(_) => return paths.iter().map(|path| alone(path)).collect(),
                    };
                    paths
                        .iter()
                        .map(|path| {
                            inside(dir.as_fd(), path).map_err(|e| self.error("inspect", path, e))
                        })
                        .collect()
                })
                .collect::<Result<_>>()
        };
        let results: Vec<Vec<Option<T>>> = if paths.len() < MIN_PATHS_FOR_THREADS {
            inspect_all()?
        } else {
            on_many_threads(inspect_all)?
        };
        Ok(results.into_iter().flatten().collect())
    }
}
