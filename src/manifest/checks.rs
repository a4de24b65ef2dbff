//! The clauses of the format, checked.

use std::collections::HashMap;

use super::{MAX_XATTR_NAMES, MAX_XATTR_VALUES, ManifestError};
use crate::entry::{Device, Entry, LeafKind, Meta, Node};
use crate::tree_path::{MAX_PATH, TreePath};

/// An attribute's name, as the kernel limits it.
const MAX_XATTR_NAME: usize = 255;

/// Says where `why` was found.
pub(super) fn at(entry: &Entry, why: &'static str) -> ManifestError {
    ManifestError::Entry { path: entry.path.clone(), why }
}

/// What is wrong with `entry` by itself (clauses 7 to 11).
pub(super) fn entry(entry: &Entry) -> Result<(), &'static str> {
    meta(&entry.meta)?;
    match &entry.node {
        Node::Directory => Ok(()),
        Node::Leaf(leaf) => match &leaf.kind {
            LeafKind::File { size, .. } if *size > i64::MAX as u64 => {
                Err("its size is beyond 2^63-1")
            }
            LeafKind::Symlink { target } => symlink(entry.meta.mode, target),
            LeafKind::Char(number) | LeafKind::Block(number) => device(*number),
            LeafKind::File { .. } | LeafKind::Fifo => Ok(()),
        },
    }
}

fn meta(meta: &Meta) -> Result<(), &'static str> {
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
    if meta.xattrs.keys().map(|name| name.len() + 1).sum::<usize>() > MAX_XATTR_NAMES {
        return Err("the names of its extended attributes have more than 64 KiB");
    }
    if meta.xattrs.values().map(|value| value.len()).sum::<usize>() > MAX_XATTR_VALUES {
        return Err("its extended attributes have more than 1 MiB");
    }
    Ok(())
}

fn symlink(mode: u16, target: &[u8]) -> Result<(), &'static str> {
    if mode != 0o777 {
        return Err("the mode of a symlink is not 0777");
    }
    if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
        return Err("the text of a symlink is empty, longer than 4095 bytes or holds a NUL");
    }
    Ok(())
}

fn device(number: Device) -> Result<(), &'static str> {
    if number.major >= 1 << 12 || number.minor >= 1 << 20 {
        Err("Linux has no such device number")
    } else {
        Ok(())
    }
}

/// What is wrong with the order, the top and the parents (clause 5).
pub(super) fn tree(entries: &[Entry]) -> Result<(), ManifestError> {
    let Some(top) = entries.first() else {
        return Err(ManifestError::Entry {
            path: TreePath::root(),
            why: "the top of the tree is missing",
        });
    };
    if !top.path.is_root() || !top.is_dir() {
        return Err(at(top, "the first entry is not the top directory"));
    }
    let mut open = vec![&top.path];
    for pair in entries.windows(2) {
        let (before, entry) = (&pair[0], &pair[1]);
        if before.path >= entry.path {
            return Err(at(entry, "it occurs twice or is not in order"));
        }
        while open.last().is_some_and(|dir| !entry.path.is_below(dir)) {
            open.pop();
        }
        if !open.last().is_some_and(|dir| is_child(entry, dir)) {
            return Err(at(entry, "its parent is missing or not a directory"));
        }
        if entry.is_dir() {
            open.push(&entry.path);
        }
    }
    Ok(())
}

/// Whether no directory lies between `dir` and `entry`, which is below it.
fn is_child(entry: &Entry, dir: &TreePath) -> bool {
    let slash = usize::from(!dir.is_root());
    dir.as_bytes().len() + slash + entry.path.name().len() == entry.path.as_bytes().len()
}

/// What is wrong with the hardlink groups (clause 11).
pub(super) fn groups(entries: &[Entry]) -> Result<(), ManifestError> {
    let mut firsts: HashMap<&TreePath, (&Entry, bool)> = HashMap::new();
    for entry in entries {
        let Some(group) = entry.group() else { continue };
        if *group == entry.path {
            firsts.insert(group, (entry, false));
            continue;
        }
        let Some((first, shared)) = firsts.get_mut(group) else {
            return Err(at(entry, "its hardlink group is not named by its first path"));
        };
        if first.meta != entry.meta || first.node != entry.node {
            return Err(at(entry, "it is not like the first of its hardlink group"));
        }
        *shared = true;
    }
    match firsts.values().find(|(_, shared)| !shared) {
        Some((alone, _)) => Err(at(alone, "its hardlink group has no other member")),
        None => Ok(()),
    }
}
