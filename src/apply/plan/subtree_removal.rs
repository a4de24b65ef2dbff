//! Finds directories that one rename can remove, together with everything in them.
//!
//! Removing a kernel's modules one by one takes thousands of renames, during which the tree is
//! mixed. A directory with only paths to be removed needs one.

use std::collections::HashSet;

use crate::apply::filesystem::Filesystems;
use crate::root::mounts::{Mount, RootMount};
use crate::root::{Descend, Root, RootError};
use crate::tree_path::TreePath;

/// Mounts and filesystems of a tree.
pub(in crate::apply) struct MountTopology<'a> {
    /// Mount of the root, if it is known.
    pub host: Option<&'a RootMount>,
    /// Mounts below the root.
    pub mounts: &'a [Mount],
    pub filesystems: &'a Filesystems,
}

/// Directories that one rename can remove.
pub(in crate::apply) struct RemovableSubtrees {
    /// The topmost of them, in tree order.
    roots: Vec<TreePath>,
    /// Directories to be removed that hold something that is kept, in tree order.
    occupied: Vec<TreePath>,
}

impl RemovableSubtrees {
    /// Searches `directories`, which are to be removed together with `leaves`.
    ///
    /// One rename can remove a directory if everything in it is to be removed. It cannot if the
    /// directory is on a limited filesystem, if it contains another filesystem, or if the
    /// filesystem of the root may refuse to rename directories, as an overlay does.
    pub(in crate::apply) fn find(
        root: &Root,
        topology: &MountTopology,
        leaves: &[TreePath],
        directories: &[TreePath],
    ) -> Result<RemovableSubtrees, RootError> {
        let mut candidates: Vec<&TreePath> = directories.iter().collect();
        candidates.sort_unstable();
        let mut search = Search {
            root,
            boundaries: topology
                .mounts
                .iter()
                .map(|mount| &mount.at)
                .chain(topology.filesystems.mount_roots())
                .collect(),
            removed: leaves.iter().chain(directories).collect(),
            candidates: &candidates,
            in_parts: HashSet::new(),
            occupied: HashSet::new(),
        };

        let mut topmost: Option<&TreePath> = None;
        for &candidate in &candidates {
            // The walk of the topmost candidate covers those below it.
            if !topmost.is_some_and(|topmost| candidate.is_below(topmost)) {
                topmost = Some(candidate);
                search.examine(candidate)?;
            }
        }
        let Search { in_parts, occupied, .. } = search;

        let is_renamable = |path: &TreePath| {
            let filesystems = topology.filesystems;
            filesystems.slot_filesystem_of(path) == filesystems.entry_filesystem_of(path)
                && topology.host.is_none_or(RootMount::is_supported)
        };
        let mut subtrees = RemovableSubtrees { roots: Vec::new(), occupied: Vec::new() };
        for path in candidates {
            if occupied.contains(path) {
                subtrees.occupied.push(path.clone());
            } else if !in_parts.contains(path) && is_renamable(path) && !subtrees.covers(path) {
                subtrees.roots.push(path.clone());
            }
        }
        Ok(subtrees)
    }

    /// The topmost directories that one rename can remove, in tree order.
    pub(in crate::apply) fn roots(&self) -> &[TreePath] {
        &self.roots
    }

    /// Whether the directory `path` holds something that is kept, so that it is kept as well.
    pub(in crate::apply) fn is_occupied(&self, path: &TreePath) -> bool {
        self.occupied.binary_search(path).is_ok()
    }

    /// Whether `path` is removed by the rename of a directory above it.
    pub(in crate::apply) fn covers(&self, path: &TreePath) -> bool {
        let before = self.roots.partition_point(|root| root < path);
        before.checked_sub(1).is_some_and(|index| path.is_below(&self.roots[index]))
    }
}

/// Search of the directories to be removed.
struct Search<'a> {
    root: &'a Root,
    /// Mount points and mount roots.
    boundaries: HashSet<&'a TreePath>,
    /// All paths to be removed.
    removed: HashSet<&'a TreePath>,
    /// Directories to be removed, in tree order.
    candidates: &'a [&'a TreePath],
    /// Directories that cannot be renamed as a whole.
    in_parts: HashSet<TreePath>,
    /// Directories that hold something that is kept.
    occupied: HashSet<TreePath>,
}

impl Search<'_> {
    /// Walks the directory `top` and marks the directories in it.
    fn examine(&mut self, top: &TreePath) -> Result<(), RootError> {
        let Some(stat) = self.root.stat(top)? else { return Ok(()) };
        let boundaries: HashSet<&TreePath> =
            self.boundaries.iter().copied().filter(|at| *at == top || at.is_below(top)).collect();
        for boundary in &boundaries {
            mark(&mut self.in_parts, boundary, top);
        }
        if boundaries.contains(top) {
            return Ok(());
        }

        let Search { root, removed, candidates, in_parts, occupied, .. } = self;
        let walked = root.walk::<RootError>(top, |visit| {
            // The preflight refuses to remove a mount point, even if its filesystem is empty.
            if boundaries.contains(&visit.path) {
                return Ok(Descend::Past);
            }

            let is_removed = removed.contains(&visit.path);
            if !is_removed {
                mark(occupied, &visit.path, top);
            }
            if visit.stat.dev != stat.dev {
                mark(in_parts, &visit.path, top);
            }
            Ok(if is_removed || has_descendant(candidates, &visit.path) {
                Descend::Into
            } else {
                Descend::Past
            })
        });

        // A directory that cannot be walked, because a path is too long, is removed in parts.
        if walked.is_err() {
            for path in self.candidates.iter().filter(|path| path.is_below(top)) {
                mark(&mut self.in_parts, path, top);
            }
            mark(&mut self.in_parts, top, top);
        }
        Ok(())
    }
}

/// Whether any of `sorted` is below `path`.
fn has_descendant(sorted: &[&TreePath], path: &TreePath) -> bool {
    let next = sorted.partition_point(|other| *other <= path);
    sorted.get(next).is_some_and(|other| other.is_below(path))
}

/// Marks `path` and the directories above it, up to `top`.
fn mark(marked: &mut HashSet<TreePath>, path: &TreePath, top: &TreePath) {
    let mut next = Some(path.clone());
    while let Some(path) = next {
        next = if path == *top { None } else { path.parent() };
        if !marked.insert(path) {
            break;
        }
    }
}
