//! Input of the planner: the states of the tree, and the rules of the run.

use std::collections::{BTreeMap, HashSet};

use crate::apply::filesystem::Filesystems;
use crate::apply::plan::live_tree::LiveTree;
use crate::apply::plan::policy::ComparePolicy;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::host::{Kernel, KernelRetention};
use crate::manifest::Manifest;
use crate::report::Monitor;
use crate::root::Root;
use crate::root::mounts::{Mount, RootMount};
use crate::tree_path::TreePath;

/// Everything that decides about the changes of a transaction, except the live tree.
#[derive(Clone, Copy)]
pub struct PlanInput<'a> {
    /// Root of the tree.
    pub root: &'a Root,
    /// Manifest of the installed generation without excluded paths; `None` if it is not known.
    pub installed: Option<&'a Manifest>,
    /// Manifest of the target without excluded paths.
    pub target: &'a Manifest,
    /// Entries of an older record that neither `installed` nor `target` names; they are stale.
    pub formerly_tracked: &'a [Entry],
    /// Excluded entries that are created if the tree lacks them, in tree order.
    pub provisions: &'a [Entry],
    /// Kernel paths that an earlier run kept for the kernel of that time, in tree order.
    ///
    /// They are stale, even if their type has changed.
    pub old_kernel_paths: &'a [TreePath],
    /// Protected paths that the target removes in spite of their protection, in tree order.
    pub surplus_keys: &'a [TreePath],
    /// Kernel that runs on the tree.
    pub kernel: Option<&'a Kernel>,
    /// Paths of that kernel that are kept.
    pub kernel_retention: KernelRetention,
    /// Tracked paths that are recorded as deviations.
    pub known_deviations: &'a HashSet<TreePath>,
    /// Paths of which a difference is repaired at any policy: public keys, and paths that an
    /// earlier run left out.
    pub repaired: &'a HashSet<TreePath>,
    /// Paths of users that the preflight refuses, with the reason; nothing below them changes.
    pub refused: &'a BTreeMap<TreePath, String>,
    /// Exclude rules of the run.
    pub filter: &'a Filter,
    /// Filesystems of the tree: a rename works only within one of them.
    pub filesystems: &'a Filesystems,
    /// Mount of the root, if it is known.
    pub host: Option<&'a RootMount>,
    /// Mounts below the root.
    pub mounts: &'a [Mount],
    /// Pairs of paths that show the same directory: a mount point and its source.
    pub bind_mounts: &'a [(TreePath, TreePath)],
    /// Treatment of deviations and of untracked paths.
    pub policy: ComparePolicy,
    /// Asked for a cancellation while files are read.
    pub monitor: &'a dyn Monitor,
}

impl PlanInput<'_> {
    /// Whether `path` is kept for the running kernel.
    pub(super) fn is_kernel_path(&self, path: &TreePath) -> bool {
        self.kernel.is_some_and(|kernel| kernel.keeps(path, self.kernel_retention))
    }

    /// Whether any record of this node names `path`, so that it is not untracked.
    pub(super) fn was_tracked(&self, path: &TreePath) -> bool {
        self.installed.is_some_and(|installed| installed.get(path).is_some())
            || self.formerly_tracked.binary_search_by(|entry| entry.path.cmp(path)).is_ok()
            || self.old_kernel_paths.binary_search(path).is_ok()
            || self.surplus_keys.binary_search(path).is_ok()
    }

    /// Whether `path` is kept although the target does not have it.
    pub(super) fn protects(&self, path: &TreePath) -> bool {
        self.filter.protects(path) && self.surplus_keys.binary_search(path).is_err()
    }

    /// Reason for which a path is left out: it, or a directory above it, is unknown or refuses.
    pub(super) fn left_out_reason(&self, live: &LiveTree, path: &TreePath) -> Option<String> {
        if let Some(reason) = live.unknown_reason(path) {
            return Some(format!("cannot be inspected: {reason}"));
        }
        if self.refused.is_empty() {
            return None;
        }
        let mut at_or_above = std::iter::successors(Some(path.clone()), TreePath::parent);
        at_or_above.find_map(|path| self.refused.get(&path)).cloned()
    }

    /// Whether `path` is on a mount that is read-only.
    pub(super) fn is_read_only(&self, path: &TreePath) -> bool {
        let holds = |mount: &Mount| *path == mount.at || path.is_below(&mount.at);
        self.mounts.iter().any(|mount| mount.read_only && holds(mount))
    }

    /// Whether a filesystem is mounted on `path`.
    pub(super) fn is_mount_point(&self, path: &TreePath) -> bool {
        self.mounts.iter().any(|mount| mount.at == *path)
    }
}
