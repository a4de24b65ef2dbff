//! Matching by name: the old file of each new one, and the names of compressed files.

use std::collections::HashMap;

use crate::delta::matching::pairs::size_of;
use crate::entry::Entry;
use crate::manifest::Manifest;

/// Files of the base that can serve new ones, by the keys of their paths.
pub(super) struct NameIndex<'m, F> {
    base: &'m Manifest,
    /// Whether an entry of the base may be a source.
    may_serve: F,
    /// One map for each of [`KEYS`].
    by_key: [HashMap<Vec<u8>, Namesakes<'m>>; 3],
}

/// Writes the key of an entry: the part of its path that source and target must have in common.
type WriteKey = fn(&Entry, &mut Vec<u8>);

/// The keys, the most reliable first: a name in directories without version numbers; a path without
/// version numbers; a name without version numbers.
const KEYS: [WriteKey; 3] = [
    |entry, key| {
        let (path, name) = (entry.path.as_bytes(), entry.path.name());
        write_without_versions(&path[..path.len() - name.len()], key);
        key.extend_from_slice(name);
    },
    |entry, key| write_without_versions(entry.path.as_bytes(), key),
    |entry, key| write_without_versions(entry.path.name(), key),
];
/// Index in [`KEYS`] of the key that the files of a numbered series have in common.
const PATH: usize = 1;

/// Files with the same key: by size, equal sizes in the order of the tree.
///
/// These may be most of a tree, if names are little more than numbers.
#[derive(Default)]
struct Namesakes<'m>(Vec<&'m Entry>);

impl<'m, F: Fn(&Entry) -> bool> NameIndex<'m, F> {
    /// Indexes the files of `base` that have a key in common with one of `new_entries`, and for
    /// which `may_serve` holds.
    ///
    /// A new content of an old path needs the index only if its name has a number, because its old
    /// content may have moved to another number. So the index is small if little is new.
    pub fn new(base: &'m Manifest, new_entries: &[&Entry], may_serve: F) -> Self {
        let mut index = NameIndex { base, may_serve, by_key: Default::default() };
        let needs_index: Vec<&&Entry> = new_entries
            .iter()
            .filter(|entry| index.same_path(entry).is_none() || is_numbered(entry))
            .collect();
        if needs_index.is_empty() {
            return index;
        }

        let mut by_key = KEYS.map(|write_key| -> HashMap<Vec<u8>, Namesakes> {
            needs_index
                .iter()
                .map(|entry| (key_of(write_key, entry), Namesakes::default()))
                .collect()
        });
        let mut key = Vec::new();
        for entry in base.entries().iter().filter(|entry| index.serves(entry)) {
            for (namesakes, write_key) in by_key.iter_mut().zip(KEYS) {
                write_key(entry, &mut key);
                if let Some(Namesakes(files)) = namesakes.get_mut(&key) {
                    files.push(entry);
                }
            }
        }

        for namesakes in &mut by_key {
            namesakes.retain(|_, Namesakes(files)| !files.is_empty());
            for Namesakes(files) in namesakes.values_mut() {
                files.sort_by_key(|entry| size_of(entry));
            }
        }
        index.by_key = by_key;
        index
    }

    /// The source of a new content of `size` bytes.
    pub fn source_of(&self, entry: &Entry, size: u64) -> Option<&'m Entry> {
        if let Some(same) = self.same_path(entry) {
            return Some(same);
        }
        let namesakes = self
            .by_key
            .iter()
            .zip(KEYS)
            .find_map(|(namesakes, write_key)| namesakes.get(&key_of(write_key, entry)));
        namesakes?.nearest(size)
    }

    /// Whether an old path may have the content of another file of its numbered series.
    ///
    /// This holds if its name has a number, and the base has more files that differ only in
    /// numbers: all of them may have moved on by one, as rotated logs do.
    pub fn is_numbered_series(&self, entry: &Entry) -> bool {
        is_numbered(entry)
            && self.same_path(entry).is_some()
            && self.by_key[PATH]
                .get(&key_of(KEYS[PATH], entry))
                .is_some_and(|Namesakes(files)| files.len() > 1)
    }

    fn same_path(&self, entry: &Entry) -> Option<&'m Entry> {
        self.base.get(&entry.path).filter(|same| self.serves(same))
    }

    /// Whether an entry can be a source: a file that is not empty, and that is permitted.
    fn serves(&self, entry: &Entry) -> bool {
        size_of(entry) > 0 && (self.may_serve)(entry)
    }
}

impl<'m> Namesakes<'m> {
    /// The file with the closest size, of several the first of the tree.
    fn nearest(&self, size: u64) -> Option<&'m Entry> {
        let Namesakes(files) = self;
        let first_from = |size: u64| files.partition_point(|file| size_of(file) < size);
        let above = first_from(size);
        let below = above.checked_sub(1).map(|last| first_from(size_of(files[last])));

        let nearest = below.into_iter().chain(Some(above)).filter_map(|at| files.get(at).copied());
        nearest.min_by_key(|file| (size_of(file).abs_diff(size), &file.path))
    }
}

fn is_numbered(entry: &Entry) -> bool {
    entry.path.name().iter().any(u8::is_ascii_digit)
}

fn key_of(write_key: WriteKey, entry: &Entry) -> Vec<u8> {
    let mut key = Vec::new();
    write_key(entry, &mut key);
    key
}

/// Replaces `key` by `bytes` with one `#` for each version number.
///
/// A version number is digits, or digits joined by `.`, `-`, `+`, `~` or `_`.
fn write_without_versions(bytes: &[u8], key: &mut Vec<u8>) {
    key.clear();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            key.push(bytes[at]);
            at += 1;
            continue;
        }

        key.push(b'#');
        while at < bytes.len() {
            let is_joined =
                b".-+~_".contains(&bytes[at]) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !bytes[at].is_ascii_digit() && !is_joined {
                break;
            }
            at += 1;
        }
    }
}

/// Whether the name is that of a gzip file; the first bytes of the file decide.
pub(super) fn is_gzip_name(name: &[u8]) -> bool {
    [b".gz".as_slice(), b".tgz"].iter().any(|end| name.ends_with(end)) || is_initrd_name(name)
}

/// Whether the name is that of a file with parts of xz or zstd; its first bytes decide.
pub fn is_replayed_name(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 4] = [b".xz", b".zst", b".txz", b".tzst"];
    ENDS.iter().any(|end| name.ends_with(end)) || name.starts_with(b"vmlinuz")
}

/// Whether the name is that of an initial RAM disk, in any form.
pub(super) fn is_initrd_name(name: &[u8]) -> bool {
    name.starts_with(b"initrd") || name.starts_with(b"initramfs")
}

/// Whether the name is that of a compressed file.
pub fn is_compressed_name(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 18] = [
        b".gz", b".tgz", b".xz", b".zst", b".txz", b".tzst", b".bz2", b".lz4", b".lzma", b".zip",
        b".jar", b".whl", b".png", b".jpg", b".webp", b".woff2", b".deb", b".rpm",
    ];

    ENDS.iter().any(|end| name.ends_with(end))
        || is_initrd_name(name)
        || name.starts_with(b"vmlinuz")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;
    use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
    use crate::tree_path::TreePath;

    proptest! {
        #[test]
        fn nearest_equals_result_of_full_scan(
            sizes in prop::collection::vec(1..40u64, 0..12),
            size in 0..45u64,
        ) {
            let mtime = Mtime { seconds: 0, nanos: 0 };
            let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() };
            let file = |(n, size): (usize, &u64)| {
                let kind = LeafKind::File { size: *size, digest: Digest([0; 32]) };
                let path = TreePath::new(format!("{n:02}")).expect("a good path");
                Entry::new(path, meta.clone(), Node::Leaf(Leaf { kind, group: None }))
            };
            let files: Vec<Entry> = sizes.iter().enumerate().map(file).collect();
            let mut namesakes = Namesakes(files.iter().collect());
            namesakes.0.sort_by_key(|entry| size_of(entry));

            let found = namesakes.nearest(size).map(|entry| &entry.path);
            let all = files.iter().min_by_key(|file| size_of(file).abs_diff(size));
            prop_assert_eq!(found, all.map(|entry| &entry.path));
        }
    }

    fn without_versions(bytes: &[u8]) -> Vec<u8> {
        let mut key = Vec::new();
        write_without_versions(bytes, &mut key);
        key
    }

    #[test]
    fn version_numbers_are_replaced() {
        for (a, b) in [
            ("usr/lib/modules/6.1.0-50-amd64/x.ko", "usr/lib/modules/6.1.0-56-amd64/x.ko"),
            ("libfoo.so.1.2.3", "libfoo.so.1.2.4"),
            ("libfoo.so.1.2.10.1", "libfoo.so.1.2"),
        ] {
            assert_eq!(without_versions(a.as_bytes()), without_versions(b.as_bytes()));
        }

        assert_ne!(without_versions(b"a1b"), without_versions(b"a1c"));
        assert_eq!(without_versions(b"1.2."), b"#.");
    }
}
