//! Hardlink groups, held against the inodes that are there.

use std::collections::HashMap;

use crate::apply::plan::live_tree::LiveTree;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// The members of each hardlink group of `manifest`, as indices into its entries, first path first; those
/// that are `apart` belong to none.
pub(in crate::apply) fn groups(
    manifest: &Manifest,
    apart: impl Fn(&TreePath) -> bool,
) -> Vec<Vec<usize>> {
    let mut groups: HashMap<&TreePath, Vec<usize>> = HashMap::new();
    for (index, entry) in manifest.entries().iter().enumerate() {
        if let Some(group) = entry.group().filter(|_| !apart(&entry.path)) {
            groups.entry(group).or_default().push(index);
        }
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}

/// Which entries share an inode that they should not share, or lack one that they should; what is
/// `hidden` below a mount tells nothing.
pub(in crate::apply) fn mismatches(
    manifest: &Manifest,
    live: &LiveTree,
    hidden: impl Fn(&TreePath) -> bool,
) -> Vec<usize> {
    // The group that was found first on an inode keeps it; an entry without a group is its own.
    let mut owner: HashMap<(u64, u64), &TreePath> = HashMap::new();
    let mut inode: HashMap<&TreePath, (u64, u64)> = HashMap::new();
    let mut faults = Vec::new();
    for (index, entry) in manifest.entries().iter().enumerate() {
        if entry.is_dir() {
            continue;
        }
        let Some(stat) = live.get(&entry.path) else { continue };
        if stat.links < 2 && entry.group().is_none() || hidden(&entry.path) {
            continue;
        }
        let group = entry.group().unwrap_or(&entry.path);
        let here = (stat.dev, stat.ino);
        let shared = *owner.entry(here).or_insert(group) != group;
        let apart = *inode.entry(group).or_insert(here) != here;
        if shared || apart {
            faults.push(index);
        }
    }
    faults
}
