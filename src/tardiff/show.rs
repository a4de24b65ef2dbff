//! Content of an archive or a generation, largest files first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use crate::diff_archive::Listing;
use crate::entry::Entry;
use crate::manifest::Manifest;
use crate::tree_path::TreePath;

/// Form in which an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Storage {
    /// A file with its whole content.
    Whole,
    /// A file as a delta.
    Delta,
    /// A file whose content the base already has.
    Known,
    /// A further hard link to a file.
    Link,
    /// Any other type, or only metadata.
    Meta,
    /// A removed path.
    Removed,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownItem {
    /// Size of the unpacked file; 0 for other types.
    pub size: u64,
    /// Form in which it is stored.
    pub storage: Storage,
    /// Its path.
    pub path: TreePath,
}

/// Number and total size of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownTotal {
    /// Number of entries.
    pub count: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

/// Entries with totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Largest first, then by path.
    pub items: Vec<ShownItem>,
    /// Totals by form.
    pub totals: BTreeMap<Storage, ShownTotal>,
}

impl Contents {
    /// Content of a diff.
    pub fn from_diff(listing: &Listing) -> Self {
        let known: HashSet<_> = listing.known().iter().map(|known| known.digest).collect();
        let patched: HashSet<_> = listing
            .groups()
            .iter()
            .flat_map(|group| &group.targets)
            .map(|target| target.digest)
            .collect();

        let changed = listing.changed().iter().map(|entry| {
            let storage = match entry.file() {
                None => Storage::Meta,
                Some(_) if is_link(entry) => Storage::Link,
                Some((_, digest)) if known.contains(&digest) => Storage::Known,
                Some((_, digest)) if patched.contains(&digest) => Storage::Delta,
                Some(_) => Storage::Whole,
            };
            item(entry, storage)
        });
        let removed = listing.removed().iter().map(|entry| item(entry, Storage::Removed));
        Self::sorted(changed.chain(removed).collect())
    }

    /// Content of a generation.
    pub fn from_image(manifest: &Manifest) -> Self {
        let items = manifest.entries().iter().map(|entry| {
            let storage = match entry.file() {
                None => Storage::Meta,
                Some(_) if is_link(entry) => Storage::Link,
                Some(_) => Storage::Whole,
            };
            item(entry, storage)
        });
        Self::sorted(items.collect())
    }

    fn sorted(mut items: Vec<ShownItem>) -> Self {
        items.sort_by(|a, b| (Reverse(a.size), &a.path).cmp(&(Reverse(b.size), &b.path)));
        let mut totals = BTreeMap::<Storage, ShownTotal>::new();
        for item in &items {
            let total = totals.entry(item.storage).or_default();
            total.count += 1;
            total.bytes = total.bytes.saturating_add(item.size);
        }
        Contents { items, totals }
    }
}

fn item(entry: &Entry, storage: Storage) -> ShownItem {
    ShownItem { size: entry.file().map_or(0, |(size, _)| size), storage, path: entry.path.clone() }
}

fn is_link(entry: &Entry) -> bool {
    entry.group().is_some_and(|first| *first != entry.path)
}
