//! What names tell: which old file a new one comes from, and whether it is compressed.

use std::collections::HashMap;

use crate::delta::matching::size_of;
use crate::entry::Entry;
use crate::manifest::Manifest;

/// The base's files that can serve new ones, by what remains of their names.
pub(super) struct NameIndex<'m> {
    base: &'m Manifest,
    alike: [HashMap<Vec<u8>, Namesakes<'m>>; 3],
}

/// What of a path has to be the same, the nearest first: a name, in directories that differ in version numbers;
/// a path but for version numbers; a name but for version numbers.
const REMAINS: [fn(&Entry, &mut Vec<u8>); 3] = [
    |entry, kept| {
        let (path, name) = (entry.path.as_bytes(), entry.path.name());
        take_versions_out(&path[..path.len() - name.len()], kept);
        kept.extend_from_slice(name);
    },
    |entry, kept| take_versions_out(entry.path.as_bytes(), kept),
    |entry, kept| take_versions_out(entry.path.name(), kept),
];
/// Which of them a row of numbered files has in common.
const PATH: usize = 1;

/// NameIndex of which the same remains: by size, those of one size in the order of the tree. They may be most of a
/// tree, where names are little more than numbers.
#[derive(Default)]
struct Namesakes<'m>(Vec<&'m Entry>);

impl<'m> NameIndex<'m> {
    /// Those that `fresh` ask for, and no others: where little is new, few are looked for.
    /// What stays in its place asks only where its name has a number, which its content may have left.
    pub fn of(base: &'m Manifest, fresh: &[&Entry]) -> Self {
        let mut files = NameIndex { base, alike: Default::default() };
        let moved =
            || fresh.iter().filter(|entry| files.same(entry).is_none() || is_numbered(entry));
        let asked = |remains: fn(&Entry, &mut Vec<u8>)| -> HashMap<Vec<u8>, Namesakes> {
            moved().map(|entry| (key(remains, entry), Namesakes::default())).collect()
        };
        let mut alike = REMAINS.map(asked);
        if alike[PATH].is_empty() {
            return files;
        }
        let mut kept = Vec::new();
        for entry in base.entries().iter().filter(|entry| serves(entry)) {
            for (asked, remains) in alike.iter_mut().zip(REMAINS) {
                remains(entry, &mut kept);
                asked.get_mut(&kept).into_iter().for_each(|found| found.0.push(entry));
            }
        }
        for asked in &mut alike {
            asked.retain(|_, found| !found.0.is_empty());
            asked.values_mut().for_each(|found| found.0.sort_by_key(|entry| size_of(entry)));
        }
        files.alike = alike;
        files
    }

    fn same(&self, entry: &Entry) -> Option<&'m Entry> {
        self.base.get(&entry.path).filter(|same| serves(same))
    }

    pub fn source_of(&self, entry: &Entry, size: u64) -> Option<&'m Entry> {
        if let Some(same) = self.same(entry) {
            return Some(same);
        }
        let similar = self
            .alike
            .iter()
            .zip(REMAINS)
            .find_map(|(alike, remains)| alike.get(&key(remains, entry)));
        similar?.nearest(size)
    }

    /// Whether a file that was there before may have got the content of a neighbour: where its name has a number, and
    /// others of the base differ from it in that, all may have moved on by one, as rotated logs do.
    pub fn is_numbered_series(&self, entry: &Entry) -> bool {
        let row = || self.alike[PATH].get(&key(REMAINS[PATH], entry));
        is_numbered(entry)
            && self.same(entry).is_some()
            && row().is_some_and(|Namesakes(files)| files.len() > 1)
    }
}

impl<'m> Namesakes<'m> {
    /// The one whose size is closest, of several the first of the tree.
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

fn serves(entry: &Entry) -> bool {
    size_of(entry) > 0
}

fn key(remains: fn(&Entry, &mut Vec<u8>), entry: &Entry) -> Vec<u8> {
    let mut kept = Vec::new();
    remains(entry, &mut kept);
    kept
}

/// Makes `kept` of `bytes`, with each version number (digits, and digits joined by `.`, `-`, `+`, `~` or `_`) as one `#`.
fn take_versions_out(bytes: &[u8], kept: &mut Vec<u8>) {
    kept.clear();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            kept.push(bytes[at]);
            at += 1;
            continue;
        }
        kept.push(b'#');
        while at < bytes.len() {
            let joined =
                b".-+~_".contains(&bytes[at]) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !bytes[at].is_ascii_digit() && !joined {
                break;
            }
            at += 1;
        }
    }
}

/// Whether a file's name tells that it may be gzip; its first bytes decide.
pub(super) fn is_gzip(name: &[u8]) -> bool {
    [b".gz".as_slice(), b".tgz"].iter().any(|end| name.ends_with(end))
        || name.starts_with(b"initrd")
}

/// Whether a file's name tells that its bytes are compressed.
pub fn is_packed(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 16] = [
        b".gz", b".tgz", b".xz", b".zst", b".bz2", b".lz4", b".lzma", b".zip", b".jar", b".whl",
        b".png", b".jpg", b".webp", b".woff2", b".deb", b".rpm",
    ];
    ENDS.iter().any(|end| name.ends_with(end))
        || name.starts_with(b"initrd")
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
        fn the_nearest_is_the_one_that_a_look_at_all_finds(sizes in prop::collection::vec(1..40u64, 0..12), size in 0..45u64) {
            let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 }, xattrs: Xattrs::new() };
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
        let mut kept = Vec::new();
        take_versions_out(bytes, &mut kept);
        kept
    }

    #[test]
    fn versions_are_taken_out() {
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
