//! Directories that go: together with all that they hold, by one rename, however much that is, unless
//! something in them stays.

use std::collections::HashSet;

use crate::apply::filesystem::Filesystems;
use crate::root::mounts::{Host, Mount};
use crate::root::{Descend, Root, RootError};
use crate::tree_path::TreePath;

/// What of the directories that are to go does, and how.
pub(in crate::apply) struct RemovableSubtrees {
    /// The topmost that go as a whole, in tree order.
    tops: Vec<TreePath>,
    /// Those in which something stands that does not go, in tree order.
    occupied: Vec<TreePath>,
}

impl RemovableSubtrees {
    /// Looks through `directories`: one in which nothing stands but what goes, `names` and other
    /// `directories`, goes as a whole. None does on a filesystem without slots, around a filesystem of its
    /// own, or on a `host` that may not let a directory be renamed, as an overlay.
    pub(in crate::apply) fn find(
        root: &Root,
        (host, mounts): (Option<&Host>, &[Mount]),
        filesystems: &Filesystems,
        names: &[TreePath],
        directories: &[TreePath],
    ) -> Result<RemovableSubtrees, RootError> {
        let going: HashSet<&TreePath> = names.iter().chain(directories).collect();
        let mut candidates: Vec<&TreePath> = directories.iter().collect();
        candidates.sort_unstable();
        let holds_some = |path: &TreePath| {
            let next = candidates.partition_point(|candidate| *candidate <= path);
            candidates.get(next).is_some_and(|candidate| candidate.is_below(path))
        };
        let mut in_parts: HashSet<TreePath> = HashSet::new();
        let mut occupied: HashSet<TreePath> = HashSet::new();
        let mut seen: Option<&TreePath> = None;
        for &top in &candidates {
            // What lies below the last one was looked at with it.
            if seen.is_some_and(|seen| top.is_below(seen)) {
                continue;
            }
            seen = Some(top);
            let Some(stat) = root.stat(top)? else { continue };
            let apart = mounts.iter().map(|mount| &mount.at).chain(filesystems.mount_roots());
            let apart: HashSet<&TreePath> =
                apart.filter(|at| *at == top || at.is_below(top)).collect();
            apart.iter().for_each(|at| mark(&mut in_parts, at, top));
            if apart.contains(top) {
                continue;
            }
            let looked = root.walk::<RootError>(top, |visit| {
                // What is mounted is refused by its name, whatever it holds.
                if apart.contains(&visit.path) {
                    return Ok(Descend::Past);
                }
                let goes = going.contains(&visit.path);
                if !goes {
                    mark(&mut occupied, &visit.path, top);
                }
                if visit.stat.dev != stat.dev {
                    mark(&mut in_parts, &visit.path, top);
                }
                Ok(if goes || holds_some(&visit.path) { Descend::Into } else { Descend::Past })
            });
            if looked.is_err() {
                // Such as a path that is too long: what cannot be looked through does not go as a whole.
                candidates
                    .iter()
                    .filter(|path| path.is_below(top))
                    .for_each(|path| mark(&mut in_parts, path, top));
                mark(&mut in_parts, top, top);
            }
        }
        let movable = |path: &TreePath| {
            filesystems.filesystem_of(path) == filesystems.stage_filesystem_of(path)
                && host.is_none_or(|host| host.is_local())
        };
        let mut whole = RemovableSubtrees { tops: Vec::new(), occupied: Vec::new() };
        for path in candidates {
            if occupied.contains(path) {
                whole.occupied.push(path.clone());
            } else if !in_parts.contains(path) && movable(path) && !whole.covers(path) {
                whole.tops.push(path.clone());
            }
        }
        Ok(whole)
    }

    /// The topmost directories that go as a whole.
    pub(in crate::apply) fn roots(&self) -> &[TreePath] {
        &self.tops
    }

    /// Whether `path` is a directory in which something stays, so that it stays as well.
    pub(in crate::apply) fn is_occupied(&self, path: &TreePath) -> bool {
        self.occupied.binary_search(path).is_ok()
    }

    /// Whether `path` goes with a directory above it.
    pub(in crate::apply) fn covers(&self, path: &TreePath) -> bool {
        let before = self.tops.partition_point(|top| top < path);
        before.checked_sub(1).is_some_and(|at| path.is_below(&self.tops[at]))
    }
}

/// Marks `path` and the directories above it, up to `top`.
fn mark(marked: &mut HashSet<TreePath>, path: &TreePath, top: &TreePath) {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        at = if path == *top { None } else { path.parent() };
        if !marked.insert(path) {
            break;
        }
    }
}
