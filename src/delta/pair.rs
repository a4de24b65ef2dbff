//! Which old file is like which new one: decided by names and sizes alone.

use std::collections::{HashMap, HashSet};

use super::{Effort, GROUP_OUTPUT, GROUP_SOURCE, Opening};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::manifest::Manifest;

/// A compressed file up to this size is taken apart in memory, in a group; a larger one as a stream.
const OPENED_IN_GROUP: u64 = 1 << 20;

/// What is compressed seldom finds anything in what was: a larger one is not tried.
const PACKED_TRIED: u64 = 1 << 20;

/// Which new contents are to be made of what.
#[derive(Clone, Debug, Default)]
pub struct Pairs<'m> {
    /// Contents of the base make contents of the target.
    pub groups: Vec<Group<'m>>,
    /// Compressed files that are opened and consist of files of the target, each a stream.
    pub archives: Vec<&'m Entry>,
    /// Contents that are too large for a group: source and target.
    pub large: Vec<(&'m Entry, &'m Entry)>,
}

/// New contents that are to be made out of old ones together.
#[derive(Clone, Debug, Default)]
pub struct Group<'m> {
    /// What they have in common.
    pub class: Class,
    /// Files of the base with distinct contents.
    pub sources: Vec<&'m Entry>,
    /// Files of the target with distinct contents, none of which the base holds.
    pub targets: Vec<&'m Entry>,
}

/// What the contents of a group have in common: what cannot be helped by a delta must not spoil the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Nothing compressed.
    #[default]
    Plain,
    /// Compressed, and left so.
    Packed,
    /// Compressed with gzip, and opened.
    Opened,
}

/// Pairs the contents that `target` has and `base` has not with contents of `base`, in groups.
///
/// The source of a file is the file of the same path; else one whose path is the same once version
/// numbers are taken out (so the modules of a new kernel find those of the old one); else one of the
/// same name, so taken; of several the one whose size is closest. What finds no source is in no group.
/// Of the compressed files the small ones are opened first, as far as `opening` goes.
pub fn pair<'m>(base: &'m Manifest, target: &'m Manifest, effort: Effort, opening: &Opening) -> Pairs<'m> {
    let files = Files::of(base);
    let mut seen: HashSet<Digest> = base.entries().iter().filter_map(Entry::file).map(|(_, digest)| digest).collect();
    let fresh = target.entries().iter().filter(|entry| entry.file().is_some_and(|(_, digest)| seen.insert(digest)));
    let fresh: Vec<&Entry> = fresh.filter(|entry| size_of(entry) > 0).collect();
    let opened = opened(&fresh, opening);
    let (mut plain, mut packed, mut inside) =
        (Groups::of(Class::Plain), Groups::of(Class::Packed), Groups::of(Class::Opened));
    let mut pairs = Pairs::default();
    for entry in fresh {
        let is_opened = entry.file().is_some_and(|(_, digest)| opened.contains(&digest));
        if is_opened && size_of(entry) > OPENED_IN_GROUP {
            pairs.archives.push(entry);
            continue;
        }
        let Some(source) = files.source_of(base, entry, size_of(entry)) else { continue };
        let larger = size_of(entry).max(size_of(source));
        let groups = match (is_opened, is_packed(entry.path.name())) {
            (_, true) if larger > PACKED_TRIED => continue,
            (_, false) if larger > effort.in_memory() => {
                pairs.large.push((source, entry));
                continue;
            }
            (true, _) => &mut inside,
            (false, true) => &mut packed,
            (false, false) => &mut plain,
        };
        groups.add(source, entry);
    }
    pairs.groups = [plain, packed, inside].into_iter().flat_map(Groups::finish).collect();
    pairs
}

/// The contents of `fresh` that are to be opened: the smallest first, as long as the node has time for them.
fn opened(fresh: &[&Entry], opening: &Opening) -> HashSet<Digest> {
    let is_gzip = |entry: &&&Entry| is_gzip(entry.path.name());
    let mut files: Vec<(u64, Digest)> = fresh.iter().filter(is_gzip).filter_map(|entry| entry.file()).collect();
    files.sort_unstable();
    let mut left = opening.budget();
    let fits = |(size, _): &(u64, Digest)| left.checked_sub(*size).inspect(|rest| left = *rest).is_some();
    files.into_iter().take_while(fits).map(|(_, digest)| digest).collect()
}

/// The base's files that can serve, by what remains of their names.
struct Files<'m> {
    by_path: HashMap<Vec<u8>, Vec<&'m Entry>>,
    by_name: HashMap<Vec<u8>, Vec<&'m Entry>>,
}

impl<'m> Files<'m> {
    fn of(base: &'m Manifest) -> Self {
        let mut files = Files { by_path: HashMap::new(), by_name: HashMap::new() };
        for entry in base.entries().iter().filter(|entry| serves(entry)) {
            files.by_path.entry(without_versions(entry.path.as_bytes())).or_default().push(entry);
            files.by_name.entry(without_versions(entry.path.name())).or_default().push(entry);
        }
        files
    }

    fn source_of(&self, base: &'m Manifest, entry: &Entry, size: u64) -> Option<&'m Entry> {
        if let Some(same) = base.get(&entry.path).filter(|same| serves(same)) {
            return Some(same);
        }
        let similar = self.by_path.get(&without_versions(entry.path.as_bytes()));
        let similar = similar.or_else(|| self.by_name.get(&without_versions(entry.path.name())));
        similar?.iter().copied().min_by_key(|candidate| size_of(candidate).abs_diff(size))
    }
}

fn serves(entry: &Entry) -> bool {
    size_of(entry) > 0
}

fn size_of(entry: &Entry) -> u64 {
    entry.file().map_or(0, |(size, _)| size)
}

/// Groups that are filled in the order of the tree, where neighbours are alike.
#[derive(Default)]
struct Groups<'m> {
    class: Class,
    done: Vec<Group<'m>>,
    open: Group<'m>,
    held: HashSet<Digest>,
    source: u64,
    output: u64,
}

impl<'m> Groups<'m> {
    fn of(class: Class) -> Self {
        Groups { class, ..Groups::default() }
    }

    fn add(&mut self, source: &'m Entry, target: &'m Entry) {
        let more = if self.holds(source) { 0 } else { size_of(source) };
        // What is opened is several times as large when it is plain.
        let share = if self.class == Class::Opened { 4 } else { 1 };
        if self.source + more > GROUP_SOURCE / share || self.output + size_of(target) > GROUP_OUTPUT / share {
            self.close();
        }
        if let Some((size, digest)) = source.file()
            && self.held.insert(digest)
        {
            self.open.sources.push(source);
            self.source += size;
        }
        self.open.targets.push(target);
        self.output += size_of(target);
    }

    fn holds(&self, source: &Entry) -> bool {
        source.file().is_some_and(|(_, digest)| self.held.contains(&digest))
    }

    fn close(&mut self) {
        let full = Group { class: self.class, ..std::mem::take(&mut self.open) };
        if !full.targets.is_empty() {
            self.done.push(full);
        }
        self.held.clear();
        (self.source, self.output) = (0, 0);
    }

    fn finish(mut self) -> Vec<Group<'m>> {
        self.close();
        self.done
    }
}

/// `bytes` with each version number (digits, and digits joined by `.`, `-`, `+`, `~` or `_`) as one `#`.
fn without_versions(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            kept.push(bytes[at]);
            at += 1;
            continue;
        }
        kept.push(b'#');
        while at < bytes.len() {
            let joined = b".-+~_".contains(&bytes[at]) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !bytes[at].is_ascii_digit() && !joined {
                break;
            }
            at += 1;
        }
    }
    kept
}

/// Whether a file's name tells that it may be gzip; its first bytes decide.
fn is_gzip(name: &[u8]) -> bool {
    [b".gz".as_slice(), b".tgz"].iter().any(|end| name.ends_with(end)) || name.starts_with(b"initrd")
}

/// Whether a file's name tells that its bytes are compressed.
fn is_packed(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 16] = [
        b".gz", b".tgz", b".xz", b".zst", b".bz2", b".lz4", b".lzma", b".zip", b".jar", b".whl", b".png", b".jpg",
        b".webp", b".woff2", b".deb", b".rpm",
    ];
    ENDS.iter().any(|end| name.ends_with(end)) || name.starts_with(b"initrd") || name.starts_with(b"vmlinuz")
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
    use crate::tree_path::TreePath;

    fn manifest(files: &[(&str, u64, u8)]) -> Manifest {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Mtime { seconds: 0, nanos: 0 }, xattrs: Xattrs::new() };
        let mut entries = vec![Entry { path: TreePath::root(), meta: meta.clone(), node: Node::Directory }];
        let mut dirs = HashSet::new();
        for (path, size, content) in files {
            let path = TreePath::new(*path).expect("a good path");
            let above: Vec<TreePath> = iter::successors(path.parent(), TreePath::parent).collect();
            for dir in above.into_iter().filter(|dir| !dir.is_root()) {
                if dirs.insert(dir.clone()) {
                    entries.push(Entry { path: dir, meta: meta.clone(), node: Node::Directory });
                }
            }
            let kind = LeafKind::File { size: *size, digest: Digest([*content; 32]) };
            entries.push(Entry { path, meta: meta.clone(), node: Node::Leaf(Leaf { kind, group: None }) });
        }
        Manifest::new(entries).expect("a good manifest")
    }

    fn pairs(base: &[(&str, u64, u8)], target: &[(&str, u64, u8)]) -> Vec<(Vec<String>, Vec<String>)> {
        let names = |entries: &[&Entry]| entries.iter().map(|e| e.path.to_string()).collect();
        let (base, target) = (manifest(base), manifest(target));
        pair(&base, &target, Effort::Best, &Effort::Fast.opening())
            .groups
            .iter()
            .map(|g| (names(&g.sources), names(&g.targets)))
            .collect()
    }

    fn group(sources: &[&str], targets: &[&str]) -> (Vec<String>, Vec<String>) {
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        (own(sources), own(targets))
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

    #[test]
    fn the_same_path_comes_first_then_the_version_then_the_name() {
        let base = [("a/k-1.0", 10, 1), ("a/k-2.0", 90, 2), ("b/tool", 50, 3), ("c/tool", 11, 4)];
        assert_eq!(pairs(&base, &[("a/k-1.0", 90, 9)]), [group(&["/a/k-1.0"], &["/a/k-1.0"])]);
        assert_eq!(pairs(&base, &[("a/k-3.0", 80, 9)]), [group(&["/a/k-2.0"], &["/a/k-3.0"])]);
        assert_eq!(pairs(&base, &[("new/tool", 12, 9)]), [group(&["/c/tool"], &["/new/tool"])]);
        assert!(pairs(&base, &[("new/other", 12, 9)]).is_empty());
    }

    #[test]
    fn what_the_base_holds_needs_no_delta() {
        assert!(pairs(&[("a", 10, 1), ("b", 10, 2)], &[("a", 10, 2), ("b", 10, 1)]).is_empty());
    }

    #[test]
    fn groups_are_bounded_and_compressed_files_apart() {
        let mib = 1 << 20;
        let base = [("a", 3 * mib, 1), ("b", 2 * mib, 2), ("c.gz", mib, 3), ("d", mib, 4), ("e", 60 * mib, 5)];
        let target = [("a", 3 * mib, 11), ("b", 2 * mib, 12), ("c.gz", mib, 13), ("d", mib, 14), ("e", mib, 15)];
        let expected = [group(&["/a"], &["/a"]), group(&["/b", "/d"], &["/b", "/d"]), group(&["/c.gz"], &["/c.gz"])];
        assert_eq!(pairs(&base, &target), expected);
    }

    #[test]
    fn compressed_files_are_opened_the_smallest_first_as_far_as_the_time_goes() {
        let mib = 1 << 20;
        let base = [("a.gz", 4000, 1), ("b.gz", 5000, 2), ("initrd.img-1", 30 * mib, 3)];
        let target = [("a.gz", 4001, 11), ("b.gz", 5001, 12), ("initrd.img-2", 30 * mib, 13)];
        let (base, target) = (manifest(&base), manifest(&target));
        let classes = |seconds| {
            let pairs = pair(&base, &target, Effort::Best, &Opening { seconds, gain: 0 });
            let classes: Vec<(Class, usize)> = pairs.groups.iter().map(|g| (g.class, g.targets.len())).collect();
            (classes, pairs.archives.len())
        };
        assert_eq!(classes(0), (vec![(Class::Packed, 2)], 0));
        assert_eq!(classes(1), (vec![(Class::Opened, 2)], 0));
        assert_eq!(classes(60), (vec![(Class::Opened, 2)], 1));
    }

    #[test]
    fn what_is_too_large_for_a_group_is_paired_all_the_same() {
        let mib = 1 << 20;
        let base = [("a", 60 * mib, 1), ("b-1", 5 * mib, 2), ("c.xz", 60 * mib, 3)];
        let target = [("a", 60 * mib, 11), ("b-2", 5 * mib, 12), ("c.xz", 60 * mib, 13), ("d", 60 * mib, 14)];
        let (base, target) = (manifest(&base), manifest(&target));
        let large = |effort: Effort| {
            let pairs = pair(&base, &target, effort, &effort.opening());
            pairs.large.iter().map(|(from, to)| format!("{} {}", from.path, to.path)).collect::<Vec<_>>()
        };
        assert_eq!(large(Effort::Best), ["/a /a"]);
        assert_eq!(large(Effort::Normal), ["/a /a", "/b-1 /b-2"]);
    }

    #[test]
    fn one_source_serves_many_and_is_held_once() {
        let base = [("k-1", 10, 1)];
        let target = [("k-2", 10, 2), ("k-3", 10, 3)];
        assert_eq!(pairs(&base, &target), [group(&["/k-1"], &["/k-2", "/k-3"])]);
    }
}
