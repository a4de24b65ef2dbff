//! What an archive or a generation holds, the largest first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use crate::diff_archive::Listing;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// How something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// A file, whole.
    Whole,
    /// A file, as a delta.
    Delta,
    /// A file whose content the base has.
    Known,
    /// A further name of a file.
    Link,
    /// Anything else, or metadata alone.
    Meta,
    /// Something that goes.
    Removed,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownItem {
    /// Size of the file when unpacked; 0 for anything else.
    pub size: u64,
    /// How it is held.
    pub how: How,
    /// Where.
    pub path: TreePath,
}

/// Number and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownTotal {
    /// How many.
    pub count: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// What is held, the largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Sorted by size, then by path.
    pub items: Vec<ShownItem>,
    /// What it comes to.
    pub totals: BTreeMap<How, ShownTotal>,
}

impl Contents {
    /// Of a diff.
    pub fn of_diff(listing: &Listing) -> Self {
        let known: HashSet<_> = listing.known().iter().map(|known| known.digest).collect();
        let patched: HashSet<_> = listing
            .groups()
            .iter()
            .flat_map(|group| &group.targets)
            .map(|target| target.digest)
            .collect();
        let how = |entry: &Entry| match entry.file() {
            None => How::Meta,
            Some(_) if is_link(entry) => How::Link,
            Some((_, digest)) if known.contains(&digest) => How::Known,
            Some((_, digest)) if patched.contains(&digest) => How::Delta,
            Some(_) => How::Whole,
        };
        let changed = listing.changed().iter().map(|entry| item(entry, how(entry)));
        let removed = listing.removed().iter().map(|entry| item(entry, How::Removed));
        Self::sorted(changed.chain(removed).collect())
    }

    /// Of a generation.
    pub fn of_image(manifest: &Manifest) -> Self {
        let how = |entry: &Entry| match entry.file() {
            None => How::Meta,
            Some(_) if is_link(entry) => How::Link,
            Some(_) => How::Whole,
        };
        Self::sorted(manifest.entries().iter().map(|entry| item(entry, how(entry))).collect())
    }

    fn sorted(mut items: Vec<ShownItem>) -> Self {
        items.sort_by(|a, b| (Reverse(a.size), &a.path).cmp(&(Reverse(b.size), &b.path)));
        let mut totals = BTreeMap::<How, ShownTotal>::new();
        for item in &items {
            let sum = totals.entry(item.how).or_default();
            sum.count += 1;
            sum.bytes = sum.bytes.saturating_add(item.size);
        }
        Contents { items, totals }
    }
}

fn item(entry: &Entry, how: How) -> ShownItem {
    ShownItem { size: entry.file().map_or(0, |(size, _)| size), how, path: entry.path.clone() }
}

fn is_link(entry: &Entry) -> bool {
    entry.group().is_some_and(|first| *first != entry.path)
}
