//! Checks of the clauses of the format that concern values, order and groups.
//!
//! Both ways to a [`Manifest`](super::Manifest) pass these checks: reading a text, and building one
//! from a tree.

use std::collections::HashMap;

use super::{MAX_XATTR_NAMES, MAX_XATTR_VALUES, ManifestError};
use crate::entry::{Device, Entry, LeafKind, Meta, Node, xattr_travels};
use crate::tree_path::{MAX_PATH, TreePath};

/// Length of the longest name of an extended attribute, a limit of the kernel.
const MAX_XATTR_NAME: usize = 255;

/// The error for a fault of this entry.
pub(super) fn fault_of(entry: &Entry, why: &'static str) -> ManifestError {
    ManifestError::Entry { path: entry.path.clone(), why }
}

/// Checks an entry by itself (clauses 7 to 11).
pub(super) fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    check_meta(&entry.meta)?;
    match &entry.node {
        Node::Directory => Ok(()),
        Node::Leaf(leaf) => match &leaf.kind {
            LeafKind::File { size, .. } if *size > i64::MAX as u64 => {
                Err("its size is beyond 2^63-1")
            }
            LeafKind::Symlink { target } => check_symlink(entry.meta.mode, target),
            LeafKind::Char(number) | LeafKind::Block(number) => check_device(*number),
            LeafKind::File { .. } | LeafKind::Fifo => Ok(()),
        },
    }
}

fn check_meta(meta: &Meta) -> Result<(), &'static str> {
    if meta.mode > 0o7777 {
        return Err("its mode has more than the permission bits");
    }
    if meta.uid == u32::MAX || meta.gid == u32::MAX {
        return Err("its owner or group is 4294967295, which chown cannot set");
    }
    if meta.mtime.nanos >= 1_000_000_000 {
        return Err("its time has a second or more in nanoseconds");
    }

    if meta
        .xattrs
        .keys()
        .any(|name| name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0))
    {
        return Err(
            "the name of an extended attribute is empty, longer than 255 bytes or holds a NUL",
        );
    }
    if !meta.xattrs.keys().all(|name| xattr_travels(name)) {
        return Err("it has an extended attribute that a filesystem or a security module sets");
    }
    if meta.xattrs.keys().map(|name| name.len() + 1).sum::<usize>() > MAX_XATTR_NAMES {
        return Err("the names of its extended attributes have more than 64 KiB");
    }
    if meta.xattrs.values().map(|value| value.len()).sum::<usize>() > MAX_XATTR_VALUES {
        return Err("its extended attributes have more than 1 MiB");
    }
    Ok(())
}

fn check_symlink(mode: u16, target: &[u8]) -> Result<(), &'static str> {
    if mode != 0o777 {
        return Err("the mode of a symlink is not 0777");
    }
    if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
        return Err("the text of a symlink is empty, longer than 4095 bytes or holds a NUL");
    }
    Ok(())
}

fn check_device(number: Device) -> Result<(), &'static str> {
    if number.major >= 1 << 12 || number.minor >= 1 << 20 {
        Err("Linux has no such device number")
    } else {
        Ok(())
    }
}

/// Checks the order, the root and the parents (clause 5).
pub(super) fn check_tree(entries: &[Entry]) -> Result<(), ManifestError> {
    let Some(top) = entries.first() else {
        return Err(ManifestError::Entry {
            path: TreePath::root(),
            why: "the top of the tree is missing",
        });
    };
    if !top.path.is_root() || !top.is_dir() {
        return Err(fault_of(top, "the first entry is not the top directory"));
    }

    // The directories above the current entry.
    let mut open = vec![&top.path];
    for pair in entries.windows(2) {
        let (before, entry) = (&pair[0], &pair[1]);
        if before.path >= entry.path {
            return Err(fault_of(entry, "it occurs twice or is not in order"));
        }

        while open.last().is_some_and(|dir| !entry.path.is_below(dir)) {
            open.pop();
        }
        if !open.last().is_some_and(|dir| is_child(entry, dir)) {
            return Err(fault_of(entry, "its parent is missing or not a directory"));
        }
        if entry.is_dir() {
            open.push(&entry.path);
        }
    }
    Ok(())
}

/// Whether `entry`, which is below `dir`, is directly in it.
fn is_child(entry: &Entry, dir: &TreePath) -> bool {
    let slash = usize::from(!dir.is_root());
    dir.as_bytes().len() + slash + entry.path.name().len() == entry.path.as_bytes().len()
}

/// Checks the hard-link groups (clause 11).
pub(super) fn check_groups(entries: &[Entry]) -> Result<(), ManifestError> {
    // The first member of each group, and whether another one follows.
    let mut firsts: HashMap<&TreePath, (&Entry, bool)> = HashMap::new();
    for entry in entries {
        let Some(group) = entry.group() else { continue };
        if *group == entry.path {
            firsts.insert(group, (entry, false));
            continue;
        }

        let Some((first, shared)) = firsts.get_mut(group) else {
            return Err(fault_of(entry, "its hardlink group is not named by its first path"));
        };
        if first.meta != entry.meta || first.node != entry.node {
            return Err(fault_of(entry, "it is not like the first of its hardlink group"));
        }
        *shared = true;
    }

    match firsts.values().find(|(_, shared)| !shared) {
        Some((alone, _)) => Err(fault_of(alone, "its hardlink group has no other member")),
        None => Ok(()),
    }
}
