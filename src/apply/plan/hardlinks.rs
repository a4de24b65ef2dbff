//! Hard-link groups of a manifest, compared with the inodes of the live tree.

use std::collections::HashMap;

use crate::apply::plan::live_tree::LiveTree;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// Lists the hard-link groups as indices of entries, first path first.
///
/// Paths that `is_separate` accepts are in no group.
pub(in crate::apply) fn groups(
    manifest: &Manifest,
    is_separate: impl Fn(&TreePath) -> bool,
) -> Vec<Vec<usize>> {
    let mut groups: HashMap<&TreePath, Vec<usize>> = HashMap::new();
    for (index, entry) in manifest.entries().iter().enumerate() {
        if let Some(group) = entry.group().filter(|_| !is_separate(&entry.path)) {
            groups.entry(group).or_default().push(index);
        }
    }

    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}

/// Lists the entries whose inode is shared although it should not be, or the reverse.
///
/// Paths that `is_ignored` accepts are skipped: a mount hides their inode, or the filesystem has no
/// hard links.
pub fn mismatches(
    manifest: &Manifest,
    live: &LiveTree,
    is_ignored: impl Fn(&TreePath) -> bool,
) -> Vec<usize> {
    // The first group that is found on an inode owns it; an entry without a group is one itself.
    let mut group_of_inode: HashMap<(u64, u64), &TreePath> = HashMap::new();
    let mut inode_of_group: HashMap<&TreePath, (u64, u64)> = HashMap::new();
    let mut mismatches = Vec::new();

    for (index, entry) in manifest.entries().iter().enumerate() {
        if entry.is_dir() {
            continue;
        }
        let Some(stat) = live.get(&entry.path) else { continue };
        if stat.links < 2 && entry.group().is_none() || is_ignored(&entry.path) {
            continue;
        }

        let group = entry.group().unwrap_or(&entry.path);
        let inode = (stat.dev, stat.ino);
        let has_foreign_inode = *group_of_inode.entry(inode).or_insert(group) != group;
        let is_apart = *inode_of_group.entry(group).or_insert(inode) != inode;
        if has_foreign_inode || is_apart {
            mismatches.push(index);
        }
    }

    mismatches
}
