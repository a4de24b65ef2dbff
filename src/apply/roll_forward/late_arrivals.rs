//! What came into a directory meanwhile: between the look at the tree and the rename that took the directory
//! away as a whole. It was not to go, so it comes back to its place.
//!
//! What was to go is listed in the journal, path by path. Everything else that lies in such a directory
//! among the displaced is moved back, into what stands at the place now, or into the directory made again.
//! Only what would displace something, or lay in what is no directory any more, stays where it is. Can be
//! repeated.

use std::collections::{HashMap, HashSet};

use crate::apply::filesystem::Stages;
use crate::apply::on_disk::{slot_name, slot_number};
use crate::apply::plan::{Action, Change};
use crate::root::{Descend, FileKind, Rename, Root, RootError};
use crate::tree_path::TreePath;

/// What lay in directories that went, and was not to go.
#[derive(Debug, Default)]
pub(in crate::apply) struct LateArrivals {
    /// What was brought back.
    pub restored: Vec<TreePath>,
    /// What stays among the displaced, since it has no place any more or something else stands there.
    pub unrestorable: Vec<TreePath>,
}

/// Brings back what `changes` took along and do not list.
pub(in crate::apply) fn restore_late_arrivals(
    root: &Root,
    stages: &Stages,
    changes: &[Change],
) -> Result<LateArrivals, RootError> {
    let mut strangers = LateArrivals::default();
    let mut went: Option<RemovedDirs> = None;
    for (at, old) in stages.filesystems().filter_map(|at| Some((at, stages.backups(at)?))) {
        for (place, stat) in old.children(&TreePath::root())? {
            let (Some(slot), FileKind::Directory) = (slot_number(&place), stat.kind) else {
                continue;
            };
            let went = went.get_or_insert_with(|| RemovedDirs::of(changes));
            let Some(&change) = went.by_slot.get(&(at, slot)) else { continue };
            let stands = root.stat(&change.path)?.map(|live| live.kind == FileKind::Directory);
            let removed = matches!(change.action, Action::RemoveTree { .. });
            let taken = DisplacedDir { root, old, slot: slot_name(slot), from: &change.path };
            if stands == Some(true) || (stands.is_none() && removed) {
                taken.bring_back(went, &mut strangers)?;
            } else {
                taken.leave(went, &mut strangers);
            }
        }
    }
    Ok(strangers)
}

/// What went, and which slots it may be in.
struct RemovedDirs<'a> {
    by_slot: HashMap<(usize, u32), &'a Change>,
    listed: HashSet<&'a TreePath>,
}

impl<'a> RemovedDirs<'a> {
    fn of(changes: &'a [Change]) -> Self {
        let by_slot = changes.iter().filter_map(|change| match change.action {
            Action::Install { slot }
            | Action::Exchange { slot, .. }
            | Action::RemoveTree { slot } => Some(((change.filesystem, slot), change)),
            _ => None,
        });
        let inside = changes.iter().filter(|change| change.action == Action::CoveredByParent);
        RemovedDirs {
            by_slot: by_slot.collect(),
            listed: inside.map(|change| &change.path).collect(),
        }
    }
}

/// A directory among the displaced.
struct DisplacedDir<'a> {
    root: &'a Root,
    old: &'a Root,
    slot: TreePath,
    /// Where it stood.
    from: &'a TreePath,
}

impl DisplacedDir<'_> {
    fn bring_back(
        &self,
        went: &RemovedDirs,
        strangers: &mut LateArrivals,
    ) -> Result<(), RootError> {
        let mut coming = Vec::new();
        let looked = self.old.walk::<RootError>(&self.slot, |visit| {
            let path = self.moved(&visit.path, &self.slot, self.from)?;
            if went.listed.contains(&path) {
                return Ok(Descend::Into);
            }
            match self.root.stat(&path)? {
                None => coming.push((visit.path, path)),
                Some(live)
                    if live.kind == FileKind::Directory
                        && visit.stat.kind == FileKind::Directory =>
                {
                    return Ok(Descend::Into);
                }
                Some(_) => strangers.unrestorable.push(path),
            }
            Ok(Descend::Past)
        });
        if looked.is_err() {
            // Such as a path that is too long; that must not keep the update from its end.
            strangers.unrestorable.push(self.from.clone());
        }
        for (place, path) in coming {
            let moved = match self.make_above(&path)? {
                true => self.old.rename(&place, self.root, &path, Rename::NoReplace).map(|()| true),
                false => Ok(false),
            };
            match moved {
                Ok(true) => strangers.restored.push(path),
                Ok(false) => strangers.unrestorable.push(path),
                // Something is mounted there, or it has to stay on its filesystem.
                Err(error) if error.is_bound() => strangers.unrestorable.push(path),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is no directory any more takes nothing in.
    fn leave(&self, went: &RemovedDirs, strangers: &mut LateArrivals) {
        let looked = self.old.walk::<RootError>(&self.slot, |visit| {
            let path = self.moved(&visit.path, &self.slot, self.from)?;
            if went.listed.contains(&path) {
                return Ok(Descend::Into);
            }
            strangers.unrestorable.push(path);
            Ok(Descend::Past)
        });
        if looked.is_err() {
            strangers.unrestorable.push(self.from.clone());
        }
    }

    /// Makes the directory that holds `path` again, as it was; false where something else stands there.
    fn make_above(&self, path: &TreePath) -> Result<bool, RootError> {
        let Some(parent) = path.parent() else { return Ok(true) };
        match self.root.stat(&parent)? {
            Some(stat) => return Ok(stat.kind == FileKind::Directory),
            None if parent != *self.from && !parent.is_below(self.from) => return Ok(false),
            None => {}
        }
        let place = self.moved(&parent, self.from, &self.slot)?;
        let Some(stat) = self.old.stat(&place)? else { return Ok(false) };
        if !self.make_above(&parent)? {
            return Ok(false);
        }
        self.root.create_dir(&parent)?;
        self.root.set_meta(&parent, &stat.meta(self.old.xattrs(&place)?))?;
        Ok(true)
    }

    /// `path`, which is `from` or below it, as it is below `to`.
    fn moved(
        &self,
        path: &TreePath,
        from: &TreePath,
        to: &TreePath,
    ) -> Result<TreePath, RootError> {
        let inside = &path.as_bytes()[from.as_bytes().len()..];
        TreePath::new([to.as_bytes(), inside].concat()).map_err(|error| {
            let source = std::io::Error::other(error);
            RootError { what: "bring back", path: self.root.show(path), source }
        })
    }
}
