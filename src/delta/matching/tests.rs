use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::sync::Mutex;

use super::*;
use crate::delta::tests::noise;
use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::tree_path::TreePath;

fn manifest(files: &[(&str, u64, u8)]) -> Manifest {
    let meta = Meta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Mtime { seconds: 0, nanos: 0 },
        xattrs: Xattrs::new(),
    };
    let mut entries = vec![Entry::new(TreePath::root(), meta.clone(), Node::Directory)];
    let mut dirs = HashSet::new();
    for (path, size, content) in files {
        let path = TreePath::new(*path).expect("a good path");
        let above: Vec<TreePath> = iter::successors(path.parent(), TreePath::parent).collect();
        for dir in above.into_iter().filter(|dir| !dir.is_root()) {
            if dirs.insert(dir.clone()) {
                entries.push(Entry::new(dir, meta.clone(), Node::Directory));
            }
        }
        let kind = LeafKind::File { size: *size, digest: Digest([*content; 32]) };
        entries.push(Entry::new(path, meta.clone(), Node::Leaf(Leaf { kind, group: None })));
    }
    Manifest::new(entries).expect("a good manifest")
}

fn pairs(base: &[(&str, u64, u8)], target: &[(&str, u64, u8)]) -> Vec<(Vec<String>, Vec<String>)> {
    let names = |entries: &[&Entry]| entries.iter().map(|e| e.path.to_string()).collect();
    let (base, target) = (manifest(base), manifest(target));
    Matching::by_names(&base, &target, Effort::Best, &Effort::Fast.opening())
        .into_pairs()
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
fn the_same_path_comes_first_then_the_version_then_the_name() {
    let base = [("a/k-1.0", 10, 1), ("a/k-2.0", 90, 2), ("b/tool", 50, 3), ("c/tool", 11, 4)];
    assert_eq!(pairs(&base, &[("a/k-1.0", 90, 9)]), [group(&["/a/k-1.0"], &["/a/k-1.0"])]);
    assert_eq!(pairs(&base, &[("a/k-3.0", 80, 9)]), [group(&["/a/k-2.0"], &["/a/k-3.0"])]);
    assert_eq!(pairs(&base, &[("new/tool", 12, 9)]), [group(&["/c/tool"], &["/new/tool"])]);
    let modules = [("5.1/ca1.ko", 20, 1), ("5.1/ca2.ko", 10, 2), ("5.1/ca3.ko", 11, 3)];
    assert_eq!(
        pairs(&modules, &[("5.2/ca1.ko", 10, 9)]),
        [group(&["/5.1/ca1.ko"], &["/5.2/ca1.ko"])]
    );
    assert_eq!(
        pairs(&modules, &[("5.2/ca4.ko", 11, 9)]),
        [group(&["/5.1/ca3.ko"], &["/5.2/ca4.ko"])]
    );
    assert!(pairs(&base, &[("new/other", 12, 9)]).is_empty());
}

#[test]
fn what_the_base_holds_needs_no_delta() {
    assert!(pairs(&[("a", 10, 1), ("b", 10, 2)], &[("a", 10, 2), ("b", 10, 1)]).is_empty());
}

#[test]
fn groups_are_bounded_and_compressed_files_apart() {
    let mib = 1 << 20;
    let base =
        [("a", 3 * mib / 2, 1), ("b", mib, 2), ("c.gz", mib, 3), ("d", mib, 4), ("e", 60 * mib, 5)];
    let target =
        [("a", 3 * mib / 2, 11), ("b", mib, 12), ("c.gz", mib, 13), ("d", mib, 14), ("e", mib, 15)];
    let expected = [
        group(&["/a"], &["/a"]),
        group(&["/b", "/d"], &["/b", "/d"]),
        group(&["/c.gz"], &["/c.gz"]),
    ];
    assert_eq!(pairs(&base, &target), expected);
}

#[test]
fn compressed_files_are_opened_the_smallest_first_as_far_as_the_time_goes() {
    let mib = 1 << 20;
    let base = [("a.gz", 4000, 1), ("b.gz", 5000, 2), ("initrd.img-1", 30 * mib, 3)];
    let target = [("a.gz", 4001, 11), ("b.gz", 5001, 12), ("initrd.img-2", 30 * mib, 13)];
    let (base, target) = (manifest(&base), manifest(&target));
    let classes = |seconds| {
        let pairs = Matching::by_names(&base, &target, Effort::Best, &Opening { seconds, gain: 0 })
            .into_pairs();
        let classes: Vec<(Class, usize)> =
            pairs.groups.iter().map(|g| (g.class, g.targets.len())).collect();
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
    let target =
        [("a", 60 * mib, 11), ("b-2", 5 * mib, 12), ("c.xz", 60 * mib, 13), ("d", 60 * mib, 14)];
    let (base, target) = (manifest(&base), manifest(&target));
    let large = |effort: Effort| {
        let pairs = Matching::by_names(&base, &target, effort, &effort.opening()).into_pairs();
        pairs
            .large
            .iter()
            .map(|(from, to)| format!("{} {}", from.path, to.path))
            .collect::<Vec<_>>()
    };
    // Whether compressed ones have anything in common is found out by a look.
    assert_eq!(large(Effort::Best), ["/a /a", "/c.xz /c.xz"]);
    assert_eq!(large(Effort::Normal), ["/a /a", "/b-1 /b-2", "/c.xz /c.xz"]);
}

#[test]
fn one_source_serves_many_and_is_held_once() {
    let base = [("k-1", 10, 1)];
    let target = [("k-2", 10, 2), ("k-3", 10, 3)];
    assert_eq!(pairs(&base, &target), [group(&["/k-1"], &["/k-2", "/k-3"])]);
}

/// A base and a target whose contents can be looked into.
#[derive(Default)]
struct Looked {
    base: Vec<(String, u64, u8)>,
    target: Vec<(String, u64, u8)>,
    contents: HashMap<Digest, Vec<u8>>,
    last: u8,
    /// How often each content was read.
    read: Mutex<BTreeMap<String, u64>>,
}

impl Looked {
    fn content(&mut self, content: &[u8]) -> (u64, u8) {
        self.last += 1;
        self.contents.insert(Digest([self.last; 32]), content.to_vec());
        (content.len() as u64, self.last)
    }

    fn was(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let (size, number) = self.content(content);
        self.base.push((path.to_owned(), size, number));
        self
    }

    fn comes(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let (size, number) = self.content(content);
        self.target.push((path.to_owned(), size, number));
        self
    }

    /// What of `base` is in the target as well.
    fn stays(&mut self, path: &str) -> &mut Self {
        let file = self.base.iter().find(|(known, ..)| known == path).expect("is there").clone();
        self.target.push(file);
        self
    }

    fn sketch(&self, entry: &Entry) -> Option<Sketch> {
        let (size, digest) = entry.file()?;
        *self.read.lock().expect("lives").entry(entry.path.to_string()).or_default() += size;
        Sketch::of(&self.contents.get(&digest)?[..]).expect("reads")
    }

    /// What is made of what, in any group or as something large.
    fn pairs(&self, effort: Effort) -> Vec<(String, String)> {
        let named = |files: &[(String, u64, u8)]| {
            manifest(
                &files
                    .iter()
                    .map(|(path, size, content)| (&path[..], *size, *content))
                    .collect::<Vec<_>>(),
            )
        };
        let (base, target) = (named(&self.base), named(&self.target));
        let pairing = Matching::by_names(&base, &target, effort, &effort.opening());
        let wanted = pairing.sources();
        let pairs =
            pairing.by_content(|entry| self.sketch(entry), |entry| self.sketch(entry)).into_pairs();
        let ends = |group: &PairGroup<'_>| {
            let sources: Vec<String> =
                group.sources.iter().map(|source| source.path.to_string()).collect();
            group
                .targets
                .iter()
                .map(move |target| (sources.join(" "), target.path.to_string()))
                .collect::<Vec<_>>()
        };
        for source in pairs.groups.iter().flat_map(|group| &group.sources) {
            let (size, digest) = source.file().expect("a file");
            assert!(wanted.contains(&(digest, size)), "{} was fetched", source.path);
        }
        pairs.groups.iter().flat_map(ends).collect()
    }

    fn bytes_read(&self, below: &str) -> u64 {
        let read = self.read.lock().expect("lives");
        read.iter().filter(|(path, _)| path.starts_with(below)).map(|(_, bytes)| bytes).sum()
    }
}

fn edited(content: &[u8], at: usize) -> Vec<u8> {
    [&content[..at], b"other words", &content[at..]].concat()
}

fn pair_of(source: &str, target: &str) -> (String, String) {
    (source.to_owned(), target.to_owned())
}

#[test]
fn what_was_moved_renamed_and_edited_is_found_by_its_content() {
    let mut looked = Looked::default();
    let (tool, copied) = (noise(1, 300_000), noise(2, 9_000));
    looked
        .was("usr/bin/tool", &tool)
        .was("etc/daemon.conf", &copied)
        .was("usr/bin/other", &noise(3, 300_000));
    looked.stays("etc/daemon.conf");
    looked.comes("opt/suite/runner", &edited(&tool, 100_000));
    looked.comes("etc/site.conf", &edited(&copied, 4_000));
    looked.comes("opt/suite/unlike", &noise(4, 300_000));
    let expected = [
        pair_of("/usr/bin/tool", "/opt/suite/runner"),
        pair_of("/etc/daemon.conf", "/etc/site.conf"),
    ];
    for effort in [Effort::Normal, Effort::Best] {
        let mut found = looked.pairs(effort);
        found.sort_by(|a, b| b.cmp(a));
        // In a group of their own, of which each needs all sources.
        let all = "/etc/daemon.conf /usr/bin/tool";
        assert_eq!(found, expected.clone().map(|(_, target)| pair_of(all, &target)), "{effort}");
    }
    looked.read.lock().expect("lives").clear();
    assert!(looked.pairs(Effort::Fast).is_empty(), "fast goes by names");
    assert_eq!(looked.bytes_read("/"), 0);
}

#[test]
fn names_count_before_contents() {
    let mut looked = Looked::default();
    let (one, other) = (noise(1, 50_000), noise(2, 50_000));
    looked.was("lib/one-1.0", &one).was("lib/other", &other);
    looked.comes("lib/one-1.1", &edited(&other, 7));
    assert_eq!(looked.pairs(Effort::Normal), [pair_of("/lib/one-1.0", "/lib/one-1.1")]);
    assert_eq!(looked.bytes_read("/"), 0, "nothing is left to look for");
}

#[test]
fn what_moved_on_along_a_row_of_numbers_is_found_where_it_was() {
    let mut looked = Looked::default();
    let logs: Vec<Vec<u8>> = (1..6).map(|seed| noise(seed, 60_000)).collect();
    for (number, log) in logs[..3].iter().enumerate() {
        looked.was(&format!("log/messages.{number}"), log);
    }
    looked.was("log/solitary.1", &logs[4]).comes("log/solitary.1", &edited(&logs[0], 5));
    looked.comes("log/messages.0", &logs[3]);
    for number in 1..3 {
        looked.comes(&format!("log/messages.{number}"), &edited(&logs[number - 1], 30_000));
    }
    for effort in [Effort::Normal, Effort::Best] {
        let sources: BTreeMap<String, String> =
            looked.pairs(effort).into_iter().map(|(source, target)| (target, source)).collect();
        let all = "/log/messages.0 /log/messages.1 /log/solitary.1";
        assert_eq!(sources["/log/messages.1"], all, "{effort}");
        assert_eq!(sources["/log/messages.2"], all, "{effort}");
    }
    assert!(
        looked.pairs(Effort::Fast).iter().all(|(source, _)| source.contains("/log/messages.2"))
    );
}

#[test]
fn along_a_row_no_more_is_read_than_the_row_has() {
    let mut looked = Looked::default();
    let (one, other) = (noise(1, 50_000), noise(2, 50_000));
    looked.was("log/a.0", &one).was("log/a.1", &other);
    for number in 0..10u32 {
        let path = format!("bulk/{number}");
        looked.was(&path, &noise(number + 3, 50_000)).stays(&path);
    }
    looked.comes("log/a.0", &edited(&other, 7)).comes("log/a.1", &edited(&one, 7));
    assert_eq!(looked.pairs(Effort::Best).len(), 2);
    let bulk = looked.bytes_read("/bulk");
    assert!(bulk <= 150_000, "{bulk}");
}

#[test]
fn of_several_the_one_with_most_in_common_wins_then_the_closest_size_then_the_first_path() {
    let content = noise(1, 40_000);
    let mut looked = Looked::default();
    looked.was("a/half", &[&content[..20_000], &noise(2, 20_000)].concat());
    looked.was("b/longer", &[&content[..], &[0; 3_000]].concat());
    looked.was("c/same", &content).was("d/same", &[&content[..39_999], b"!"].concat());
    looked.comes("x/new", &edited(&content, 10));
    for _ in 0..3 {
        assert_eq!(looked.pairs(Effort::Normal), [pair_of("/c/same", "/x/new")]);
    }
}

#[test]
fn what_is_empty_tiny_compressed_or_unreadable_is_not_looked_into() {
    let content = noise(1, 100_000);
    let mut looked = Looked::default();
    looked.was("old/empty", b"").was("old/tiny", &content[..3_000]).was("old/packed.xz", &content);
    looked.was("old/lost", &content).was("old/zeros", &[0; 90_000]);
    looked.contents.remove(&Digest([looked.base[3].2; 32]));
    looked.comes("new/nothing", b"").comes("new/small", &edited(&content[..3_000], 50));
    looked.comes("new/put.zst", &edited(&content, 50)).comes("new/whole", &edited(&content, 60));
    assert!(looked.pairs(Effort::Best).is_empty());
    for path in
        ["/old/empty", "/old/tiny", "/old/packed.xz", "/new/nothing", "/new/small", "/new/put.zst"]
    {
        assert_eq!(looked.bytes_read(path), 0, "{path}");
    }
    assert!(looked.bytes_read("/old/lost") > 0 && looked.bytes_read("/new/whole") > 0);
}

#[test]
fn the_search_is_bounded_by_what_is_looked_for_and_begins_with_what_went_and_the_nearest_sizes() {
    let mut looked = Looked::default();
    let noise = noise(1, 20_000);
    for n in 0..80 {
        looked.was(&format!("gone/{n:03}x"), &noise[..4_100 + n * 100]);
        looked.was(&format!("kept/{n:03}y"), &noise[n..4_100 + n]).stays(&format!("kept/{n:03}y"));
    }
    looked.was("lib/changed-1", &noise[..4_100]).comes("lib/changed-2", &noise[1..4_100]);
    looked.comes("fresh", &noise[..4_100]);
    looked.pairs(Effort::Normal);
    let (gone, used) =
        (looked.bytes_read("/gone"), looked.bytes_read("/kept") + looked.bytes_read("/lib"));
    assert!((60_000..=4_100 * 16).contains(&(gone + used)), "{gone} and {used}");
    assert!(used < 5_500, "{used}: what is used comes last");
    assert_eq!((looked.bytes_read("/gone/000x"), looked.bytes_read("/gone/079x")), (4_100, 0));
}

#[test]
fn what_is_larger_than_the_budget_is_not_read() {
    let mib = 1 << 20;
    let base = [("a", 500 * mib, 1), ("b", 400 * mib, 2), ("c", 10 * mib, 3), ("d", 4000 * mib, 4)];
    let target =
        [("v", 520 * mib, 11), ("w", 500 * mib, 12), ("x", 10 * mib, 13), ("y", 6 * mib, 14)];
    let (base, target) = (manifest(&base), manifest(&target));
    let read = Mutex::new(Vec::new());
    let note = |entry: &Entry| {
        read.lock().expect("lives").push(entry.path.to_string());
        None
    };
    Matching::by_names(&base, &target, Effort::Normal, &Effort::Normal.opening())
        .by_content(note, note);
    let mut read = read.into_inner().expect("lives");
    read.sort();
    assert_eq!(read, ["/a", "/c", "/w", "/x"]);
}
