//! Late arrivals: paths that another program created in a directory between planning and the rename
//! that moved the directory to the backups as a whole. No lock prevents that race on a live tree.
//!
//! The journal lists every path that was to be removed with such a directory. Each other path below
//! it is moved back, into the directory that exists at its place now, or into the removed
//! directory, which is created again. A late arrival stays among the backups only if its place is
//! occupied, or if its directory has become another type. The step is idempotent.

use std::collections::{HashMap, HashSet};

use crate::apply::filesystem::stage_dirs::Stages;
use crate::apply::on_disk::{slot_name, slot_number};
use crate::apply::plan::{Action, Change};
use crate::root::{Descend, FileKind, Rename, Root, RootError, Stat};
use crate::tree_path::TreePath;

/// Late arrivals of a transaction.
#[derive(Debug, Default)]
pub(super) struct LateArrivals {
    /// Moved back to their paths.
    pub restored: Vec<TreePath>,
    /// Still among the backups.
    pub unrestorable: Vec<TreePath>,
}

/// Moves every late arrival back to its path.
pub(super) fn restore_late_arrivals(
    root: &Root,
    stages: &Stages,
    changes: &[Change],
) -> Result<LateArrivals, RootError> {
    let mut arrivals = LateArrivals::default();
    let mut removed: Option<RemovedDirs> = None;
    for at in stages.filesystems() {
        let Some(backups) = stages.backups(at) else { continue };
        for (path, stat) in backups.children(&TreePath::root())? {
            let (Some(slot), FileKind::Directory) = (slot_number(&path), stat.kind) else {
                continue;
            };
            let removed = removed.get_or_insert_with(|| RemovedDirs::new(changes));
            let Some(&change) = removed.by_slot.get(&(at, slot)) else { continue };

            let slot = slot_name(slot);
            let dir = DisplacedDir { root, backups, slot, path: &change.path, removed };
            match root.stat(&change.path)? {
                Some(live) if live.kind == FileKind::Directory => dir.restore(&mut arrivals)?,
                None if matches!(change.action, Action::RemoveTree { .. }) => {
                    dir.restore(&mut arrivals)?;
                }
                _ => dir.keep(&mut arrivals),
            }
        }
    }
    Ok(arrivals)
}

/// Directories that were moved to the backups, and the paths that were to be moved with them.
struct RemovedDirs<'a> {
    by_slot: HashMap<(usize, u32), &'a Change>,
    listed: HashSet<&'a TreePath>,
}

impl<'a> RemovedDirs<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let (mut by_slot, mut listed) = (HashMap::new(), HashSet::new());

        for change in changes {
            match change.action {
                Action::Install { slot }
                | Action::Exchange { slot, .. }
                | Action::RemoveTree { slot } => {
                    by_slot.insert((change.filesystem, slot), change);
                }
                Action::CoveredByParent => {
                    listed.insert(&change.path);
                }
                _ => {}
            }
        }
        RemovedDirs { by_slot, listed }
    }
}

/// A directory among the backups.
struct DisplacedDir<'a> {
    root: &'a Root,
    backups: &'a Root,
    slot: TreePath,
    /// Its path in the tree.
    path: &'a TreePath,
    removed: &'a RemovedDirs<'a>,
}

/// A path that is to be moved back.
struct Arrival {
    backup: TreePath,
    path: TreePath,
}

impl DisplacedDir<'_> {
    fn restore(&self, arrivals: &mut LateArrivals) -> Result<(), RootError> {
        for Arrival { backup, path } in self.find(arrivals) {
            let moved = if self.recreate_parents(&path)? {
                let renamed = self.backups.rename(&backup, self.root, &path, Rename::NoReplace);
                renamed.map(|()| true)
            } else {
                Ok(false)
            };

            match moved {
                Ok(true) => arrivals.restored.push(path),
                Ok(false) => arrivals.unrestorable.push(path),
                // A filesystem is mounted on it, or it cannot leave its filesystem.
                Err(error) if error.is_immovable() => arrivals.unrestorable.push(path),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Finds the late arrivals whose paths are free; others are unrestorable.
    fn find(&self, arrivals: &mut LateArrivals) -> Vec<Arrival> {
        let mut free_arrivals = Vec::new();
        let walked = self.backups.walk::<RootError>(&self.slot, |visit| {
            let path = self.moved(&visit.path, &self.slot, self.path)?;
            if self.removed.listed.contains(&path) {
                return Ok(Descend::Into);
            }

            let is_directory = |stat: &Stat| stat.kind == FileKind::Directory;
            match self.root.stat(&path)? {
                None => free_arrivals.push(Arrival { backup: visit.path, path }),
                Some(live) if is_directory(&live) && is_directory(&visit.stat) => {
                    return Ok(Descend::Into);
                }
                Some(_) => arrivals.unrestorable.push(path),
            }
            Ok(Descend::Past)
        });
        if walked.is_err() {
            // A path that is too long, for example, must not stop the roll forward.
            arrivals.unrestorable.push(self.path.clone());
        }
        free_arrivals
    }

    /// Counts all late arrivals as unrestorable: their directory has become another type.
    fn keep(&self, arrivals: &mut LateArrivals) {
        let walked = self.backups.walk::<RootError>(&self.slot, |visit| {
            let path = self.moved(&visit.path, &self.slot, self.path)?;
            if self.removed.listed.contains(&path) {
                return Ok(Descend::Into);
            }
            arrivals.unrestorable.push(path);
            Ok(Descend::Past)
        });
        if walked.is_err() {
            arrivals.unrestorable.push(self.path.clone());
        }
    }

    /// Creates the missing directories above `path` with their metadata.
    ///
    /// It returns false if another type of object is in the place of one of them.
    fn recreate_parents(&self, path: &TreePath) -> Result<bool, RootError> {
        let Some(parent) = path.parent() else { return Ok(true) };
        match self.root.stat(&parent)? {
            Some(stat) => return Ok(stat.kind == FileKind::Directory),
            None if parent != *self.path && !parent.is_below(self.path) => return Ok(false),
            None => {}
        }

        let backup = self.moved(&parent, self.path, &self.slot)?;
        let Some(stat) = self.backups.stat(&backup)? else { return Ok(false) };
        if !self.recreate_parents(&parent)? {
            return Ok(false);
        }
        self.root.create_dir(&parent)?;
        if let Some(created) = self.root.hold_dir(&parent)? {
            created.set_meta(&stat.meta(self.backups.xattrs(&backup)?))?;
        }
        Ok(true)
    }

    /// The path of `path`, which is `from` or below it, after `from` was moved to `to`.
    fn moved(
        &self,
        path: &TreePath,
        from: &TreePath,
        to: &TreePath,
    ) -> Result<TreePath, RootError> {
        let below = &path.as_bytes()[from.as_bytes().len()..];
        TreePath::new([to.as_bytes(), below].concat()).map_err(|error| RootError {
            operation: "bring back",
            path: self.root.show(path),
            source: std::io::Error::other(error),
        })
    }
}
