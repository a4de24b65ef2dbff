//! Directories that go together with all that they hold: one rename takes them, however much that is.

use std::collections::HashSet;

use crate::root::mounts::{Host, Mount};
use crate::root::{Descend, Root, RootError};
use crate::tree_path::TreePath;

use super::filesystems::Filesystems;

/// The topmost directories that go as a whole, in tree order.
pub(super) struct Whole(Vec<TreePath>);

impl Whole {
    /// Those of `directories` in which nothing stands but what goes: `names` and other `directories`. None
    /// on a filesystem without slots, around a filesystem of its own, or on a `host` that may not let a
    /// directory be renamed, as an overlay.
    pub(super) fn of(
        root: &Root,
        (host, mounts): (Option<&Host>, &[Mount]),
        filesystems: &Filesystems,
        names: &[TreePath],
        directories: &[TreePath],
    ) -> Result<Whole, RootError> {
        if host.is_some_and(|host| !host.is_local()) {
            return Ok(Whole(Vec::new()));
        }
        let going: HashSet<&TreePath> = names.iter().chain(directories).collect();
        let has_slots = |path: &&TreePath| filesystems.of(path) == filesystems.ground(path);
        let mut candidates: Vec<&TreePath> = directories.iter().filter(has_slots).collect();
        candidates.sort_unstable();
        let holds_some = |path: &TreePath| {
            let next = candidates.partition_point(|candidate| *candidate <= path);
            candidates.get(next).is_some_and(|candidate| candidate.is_below(path))
        };
        let mut spoilt: HashSet<TreePath> = HashSet::new();
        let mut seen: Option<&TreePath> = None;
        for &top in &candidates {
            // What lies below the last one was looked at with it.
            if seen.is_some_and(|seen| top.is_below(seen)) {
                continue;
            }
            seen = Some(top);
            let Some(stat) = root.stat(top)? else { continue };
            let apart = mounts.iter().map(|mount| &mount.at).chain(filesystems.tops());
            apart.filter(|at| *at == top || at.is_below(top)).for_each(|at| spoil(&mut spoilt, at, top));
            let looked = root.walk::<RootError>(top, |visit| {
                let goes = going.contains(&visit.path);
                if !goes || visit.stat.dev != stat.dev {
                    spoil(&mut spoilt, &visit.path, top);
                }
                Ok(if goes || holds_some(&visit.path) { Descend::Into } else { Descend::Past })
            });
            if looked.is_err() {
                // Such as a path that is too long: what cannot be looked through does not go as a whole.
                candidates.iter().filter(|path| path.is_below(top)).for_each(|path| spoil(&mut spoilt, path, top));
                spoil(&mut spoilt, top, top);
            }
        }
        let mut whole: Vec<TreePath> = Vec::new();
        for top in candidates.iter().filter(|top| !spoilt.contains(**top)) {
            if !whole.last().is_some_and(|last| top.is_below(last)) {
                whole.push((*top).clone());
            }
        }
        Ok(Whole(whole))
    }

    /// The directories.
    pub(super) fn tops(&self) -> &[TreePath] {
        &self.0
    }

    /// Whether `path` goes with one of them, from below it.
    pub(super) fn holds(&self, path: &TreePath) -> bool {
        let before = self.0.partition_point(|top| top < path);
        before.checked_sub(1).is_some_and(|at| path.is_below(&self.0[at]))
    }
}

/// Takes `path` and the directories above it, up to `top`, out of what goes as a whole.
fn spoil(spoilt: &mut HashSet<TreePath>, path: &TreePath, top: &TreePath) {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        at = if path == *top { None } else { path.parent() };
        if !spoilt.insert(path) {
            break;
        }
    }
}
