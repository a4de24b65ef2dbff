//! Paths that refuse a change after the commit point.
//!
//! A user can refuse a change in his own directories for as long as he likes, by a mount or by
//! renames. So such a path is retried, and then left out: it keeps its object, becomes a deviation,
//! and the next run tries it again. No user can do this to a path whose directories only root can
//! change. There a refusal has another cause, and a generation without the path could be broken. So
//! the whole transaction is reversed.
//!
//! Errors of the disk, such as EIO and ENOSPC, are not retried: they concern every path. Only ENOSPC
//! on a filesystem that has room belongs to the path: its directory cannot take another name.

use std::collections::{BTreeMap, HashSet};
use std::thread;
use std::time::Duration;

use crate::apply::error::{RedoError, UndoLogError};
use crate::apply::filesystem::Filesystems;
use crate::root::{Root, RootError, mounts};
use crate::state::StateError;
use crate::tree_path::TreePath;

/// Pauses before the second and each later attempt. A rename by a user lasts only microseconds.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(50)];
/// Longest time that all pauses of a run take together.
const MAX_PAUSED: Duration = Duration::from_secs(2);

/// Free space of a filesystem that is not full, in bytes and in inodes.
const MIN_FREE: u64 = 1 << 20;
const MIN_FREE_INODES: u64 = 16;

/// Retries of one run.
#[derive(Debug, Default)]
pub(super) struct Retries {
    paused: Duration,
}

impl Retries {
    /// Attempts a step several times, as long as a path refuses it.
    pub(super) fn attempt<T, E: MaybeRefusal>(
        &mut self,
        mut step: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        for pause in PAUSES {
            match step() {
                Err(error) if error.is_refusal() => {}
                answer => return answer,
            }
            if self.paused < MAX_PAUSED {
                thread::sleep(pause);
                self.paused += pause;
            }
        }
        step()
    }
}

/// An error that may be the refusal of one path.
pub(super) trait MaybeRefusal: Sized {
    /// Whether one path refused, and the error does not concern every path.
    fn is_refusal(&self) -> bool;
}

impl MaybeRefusal for RootError {
    fn is_refusal(&self) -> bool {
        self.is_of_path()
    }
}

impl MaybeRefusal for RedoError {
    fn is_refusal(&self) -> bool {
        match self {
            RedoError::Root(error)
            | RedoError::UndoLog(UndoLogError::Root(error))
            | RedoError::State(StateError::Root(error)) => error.is_of_path(),
            _ => false,
        }
    }
}

impl RedoError {
    /// As [`RedoError::into_refusal`]; a directory without room for a name is a refusal too, if its
    /// filesystem has room.
    pub(super) fn into_refusal_at(
        self,
        root: &Root,
        path: &TreePath,
    ) -> Result<RootError, RedoError> {
        let directory = path.parent().unwrap_or_else(TreePath::root);
        let has_room = || {
            let space = root.below(&directory).and_then(|directory| directory.free_space());
            space.is_ok_and(|space| {
                space.bytes > MIN_FREE && (!space.has_inodes || space.inodes > MIN_FREE_INODES)
            })
        };
        match self {
            RedoError::Root(error) if error.is_full() && has_room() => Ok(error),
            error => error.into_refusal(),
        }
    }

    /// The refusal of one path; any other error is returned as it is.
    pub(super) fn into_refusal(self) -> Result<RootError, RedoError> {
        match self {
            RedoError::Root(error)
            | RedoError::UndoLog(UndoLogError::Root(error))
            | RedoError::State(StateError::Root(error))
                if error.is_of_path() =>
            {
                Ok(error)
            }
            error => Err(error),
        }
    }
}

/// Paths that a run leaves out, with the refusal.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    paths: BTreeMap<TreePath, String>,
}

impl LeftOut {
    /// Leaves out `path` if a user can have refused it; returns the refusal otherwise.
    pub(super) fn add(
        &mut self,
        root: &Root,
        filesystems: &Filesystems,
        path: &TreePath,
        refusal: RootError,
    ) -> Result<(), RootError> {
        // A directory that cannot be judged is not one of a user's.
        let is_of_user = root.is_writable_by_others(path).unwrap_or(false)
            || is_covered_by_mount(root, filesystems, path);
        if !is_of_user {
            return Err(refusal);
        }
        self.paths.insert(path.clone(), refusal.source.to_string());
        Ok(())
    }

    /// Leaves out a path because a directory above it is left out; returns false if none is.
    pub(super) fn add_dependant(&mut self, path: &TreePath) -> bool {
        if self.paths.is_empty() || self.paths.contains_key(path) {
            return self.paths.contains_key(path);
        }
        let reason = std::iter::successors(path.parent(), TreePath::parent)
            .find_map(|above| self.paths.get(&above))
            .cloned();
        match reason {
            Some(reason) => {
                self.paths.insert(path.clone(), reason);
                true
            }
            None => false,
        }
    }

    /// The paths with the refusals, in tree order.
    pub(super) fn paths(&self) -> &BTreeMap<TreePath, String> {
        &self.paths
    }

    /// The paths that are below no other one.
    pub(super) fn topmost(&self) -> impl Iterator<Item = (&TreePath, &String)> {
        let paths: HashSet<&TreePath> = self.paths.keys().collect();
        self.paths.iter().filter(move |(path, _)| {
            std::iter::successors(path.parent(), TreePath::parent)
                .all(|above| !paths.contains(&above))
        })
    }
}

/// Whether a filesystem that takes no part in the transaction is mounted at or above a path.
fn is_covered_by_mount(root: &Root, filesystems: &Filesystems, path: &TreePath) -> bool {
    let mounts = mounts::read(root.location()).map_or_else(|_| Vec::new(), |(_, mounts)| mounts);
    mounts
        .iter()
        .filter(|mount| !filesystems.is_mount_root(&mount.at))
        .any(|mount| mount.at == *path || path.is_below(&mount.at))
}
