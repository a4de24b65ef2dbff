//! Matching by names and by content, and its limits.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::sync::Mutex;

use super::*;
use crate::delta::tests::noise;
use crate::entry::{Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::filter::Filter;
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

/// The matching of a diff without excluded paths.
fn by_names<'m>(
    base: &'m Manifest,
    target: &'m Manifest,
    effort: Effort,
    limit: &RebuildLimit,
) -> Matching<'m> {
    Matching::by_names(base, target, effort, limit, &ExcludedContents::default())
}

/// The groups that names alone give, as paths of sources and targets.
fn name_groups(
    base: &[(&str, u64, u8)],
    target: &[(&str, u64, u8)],
) -> Vec<(Vec<String>, Vec<String>)> {
    let names = |entries: &[&Entry]| entries.iter().map(|e| e.path.to_string()).collect();
    let (base, target) = (manifest(base), manifest(target));
    by_names(&base, &target, Effort::Best, &Effort::Fast.rebuild_limit())
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
fn same_path_precedes_version_and_name() {
    let base = [("a/k-1.0", 10, 1), ("a/k-2.0", 90, 2), ("b/tool", 50, 3), ("c/tool", 11, 4)];
    assert_eq!(name_groups(&base, &[("a/k-1.0", 90, 9)]), [group(&["/a/k-1.0"], &["/a/k-1.0"])]);
    assert_eq!(name_groups(&base, &[("a/k-3.0", 80, 9)]), [group(&["/a/k-2.0"], &["/a/k-3.0"])]);
    assert_eq!(name_groups(&base, &[("new/tool", 12, 9)]), [group(&["/c/tool"], &["/new/tool"])]);

    let modules = [("5.1/ca1.ko", 20, 1), ("5.1/ca2.ko", 10, 2), ("5.1/ca3.ko", 11, 3)];
    assert_eq!(
        name_groups(&modules, &[("5.2/ca1.ko", 10, 9)]),
        [group(&["/5.1/ca1.ko"], &["/5.2/ca1.ko"])]
    );
    assert_eq!(
        name_groups(&modules, &[("5.2/ca4.ko", 11, 9)]),
        [group(&["/5.1/ca3.ko"], &["/5.2/ca4.ko"])]
    );
    assert!(name_groups(&base, &[("new/other", 12, 9)]).is_empty());
}

#[test]
fn content_of_base_needs_no_delta() {
    assert!(name_groups(&[("a", 10, 1), ("b", 10, 2)], &[("a", 10, 2), ("b", 10, 1)]).is_empty());
}

#[test]
fn groups_are_bounded_and_separate_compressed_files() {
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
    assert_eq!(name_groups(&base, &target), expected);
}

#[test]
fn smallest_gzip_files_are_decomposed_within_limit() {
    let mib = 1 << 20;
    let base = [("a.gz", 4000, 1), ("b.gz", 5000, 2), ("initrd.img-1", 30 * mib, 3)];
    let target = [("a.gz", 4001, 11), ("b.gz", 5001, 12), ("initrd.img-2", 30 * mib, 13)];
    let (base, target) = (manifest(&base), manifest(&target));
    let classes = |seconds| {
        let limit = RebuildLimit { seconds, gain: 0, seconds_of_file: seconds };
        let pairs = by_names(&base, &target, Effort::Best, &limit).into_pairs();
        let classes: Vec<(ContentClass, usize)> =
            pairs.groups.iter().map(|g| (g.class, g.targets.len())).collect();
        (classes, pairs.compressed.len())
    };

    // An initrd is tried as it is too.
    assert_eq!(classes(0), (vec![(ContentClass::Compressed, 2)], 1));
    assert_eq!(classes(1), (vec![(ContentClass::Decomposed, 2)], 1));
    assert_eq!(classes(60), (vec![(ContentClass::Decomposed, 2)], 1));
}

#[test]
fn xz_and_zstd_files_are_replayed_within_limit_and_apart_from_gzip() {
    let base = [("a.gz", 4000, 1), ("x.ko.xz", 5000, 2), ("y.ko.zst", 6000, 3)];
    let target = [("a.gz", 4001, 11), ("x.ko.xz", 5001, 12), ("y.ko.zst", 6001, 13)];
    let (base, target) = (manifest(&base), manifest(&target));
    let classes = |seconds| {
        let limit = RebuildLimit { seconds, gain: 0, seconds_of_file: seconds };
        let pairs = by_names(&base, &target, Effort::Normal, &limit).into_pairs();
        let classes: Vec<(ContentClass, usize)> =
            pairs.groups.iter().map(|g| (g.class, g.targets.len())).collect();
        classes
    };

    assert_eq!(classes(0), [(ContentClass::Compressed, 3)]);
    assert_eq!(classes(1), [(ContentClass::Decomposed, 1), (ContentClass::Replayed, 2)]);
}

#[test]
fn large_files_are_paired_alone() {
    let mib = 1 << 20;
    let base = [("a", 60 * mib, 1), ("b-1", 5 * mib, 2), ("c.bz2", 60 * mib, 3)];
    let target =
        [("a", 60 * mib, 11), ("b-2", 5 * mib, 12), ("c.bz2", 60 * mib, 13), ("d", 60 * mib, 14)];
    let (base, target) = (manifest(&base), manifest(&target));
    let large = |effort: Effort| {
        let pairs = by_names(&base, &target, effort, &effort.rebuild_limit()).into_pairs();
        pairs
            .large
            .iter()
            .map(|(from, to)| format!("{} {}", from.path, to.path))
            .collect::<Vec<_>>()
    };

    // Large compressed files are pairs too: their first bytes are compared later.
    assert_eq!(large(Effort::Best), ["/a /a", "/c.bz2 /c.bz2"]);
    assert_eq!(large(Effort::Normal), ["/a /a", "/b-1 /b-2", "/c.bz2 /c.bz2"]);
}

#[test]
fn source_of_many_targets_is_in_its_group_once() {
    let base = [("k-1", 10, 1)];
    let target = [("k-2", 10, 2), ("k-3", 10, 3)];
    assert_eq!(name_groups(&base, &target), [group(&["/k-1"], &["/k-2", "/k-3"])]);
}

/// A base and a target with contents.
#[derive(Default)]
struct ContentPair {
    base: Vec<(String, u64, u8)>,
    target: Vec<(String, u64, u8)>,
    contents: HashMap<Digest, Vec<u8>>,
    last: u8,
    /// Bytes that were read of each path.
    read: Mutex<BTreeMap<String, u64>>,
}

impl ContentPair {
    /// Adds a content; returns its size and number.
    fn content(&mut self, content: &[u8]) -> (u64, u8) {
        self.last += 1;
        self.contents.insert(Digest([self.last; 32]), content.to_vec());
        (content.len() as u64, self.last)
    }

    /// Adds a file to the base.
    fn old(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let (size, number) = self.content(content);
        self.base.push((path.to_owned(), size, number));
        self
    }

    /// Adds a file to the target.
    fn new_file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let (size, number) = self.content(content);
        self.target.push((path.to_owned(), size, number));
        self
    }

    /// Adds a file of the base to the target.
    fn keep(&mut self, path: &str) -> &mut Self {
        let file = self.base.iter().find(|(known, ..)| known == path).expect("is there").clone();
        self.target.push(file);
        self
    }

    fn sketch(&self, entry: &Entry) -> Option<Sketch> {
        let (size, digest) = entry.file()?;
        *self.read.lock().expect("lives").entry(entry.path.to_string()).or_default() += size;
        Sketch::read(&self.contents.get(&digest)?[..]).expect("reads")
    }

    /// Sources and target of each new file in a group.
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
        let matching = by_names(&base, &target, effort, &effort.rebuild_limit());
        let wanted = matching.sources();
        let pairs = matching
            .by_content(|entry| self.sketch(entry), |entry| self.sketch(entry))
            .into_pairs();

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
fn moved_and_edited_file_is_matched_by_content() {
    let mut files = ContentPair::default();
    let (tool, copied) = (noise(1, 300_000), noise(2, 9_000));
    files
        .old("usr/bin/tool", &tool)
        .old("etc/daemon.conf", &copied)
        .old("usr/bin/other", &noise(3, 300_000));
    files.keep("etc/daemon.conf");
    files.new_file("opt/suite/runner", &edited(&tool, 100_000));
    files.new_file("etc/site.conf", &edited(&copied, 4_000));
    files.new_file("opt/suite/unlike", &noise(4, 300_000));

    let expected = [
        pair_of("/usr/bin/tool", "/opt/suite/runner"),
        pair_of("/etc/daemon.conf", "/etc/site.conf"),
    ];
    for effort in [Effort::Normal, Effort::Best] {
        let mut found = files.pairs(effort);
        found.sort_by(|a, b| b.cmp(a));
        // Both are in one group, so each needs all its sources.
        let all = "/etc/daemon.conf /usr/bin/tool";
        assert_eq!(found, expected.clone().map(|(_, target)| pair_of(all, &target)), "{effort}");
    }

    files.read.lock().expect("lives").clear();
    assert!(files.pairs(Effort::Fast).is_empty(), "fast matches by names only");
    assert_eq!(files.bytes_read("/"), 0);
}

#[test]
fn name_precedes_content() {
    let mut files = ContentPair::default();
    let (one, other) = (noise(1, 50_000), noise(2, 50_000));
    files.old("lib/one-1.0", &one).old("lib/other", &other);
    files.new_file("lib/one-1.1", &edited(&other, 7));
    assert_eq!(files.pairs(Effort::Normal), [pair_of("/lib/one-1.0", "/lib/one-1.1")]);
    assert_eq!(files.bytes_read("/"), 0, "every new file has a source");
}

#[test]
fn rotated_log_is_matched_by_content() {
    let mut files = ContentPair::default();
    let logs: Vec<Vec<u8>> = (1..6).map(|seed| noise(seed, 60_000)).collect();
    for (number, log) in logs[..3].iter().enumerate() {
        files.old(&format!("log/messages.{number}"), log);
    }
    files.old("log/solitary.1", &logs[4]).new_file("log/solitary.1", &edited(&logs[0], 5));
    files.new_file("log/messages.0", &logs[3]);
    for number in 1..3 {
        files.new_file(&format!("log/messages.{number}"), &edited(&logs[number - 1], 30_000));
    }

    for effort in [Effort::Normal, Effort::Best] {
        let sources: BTreeMap<String, String> =
            files.pairs(effort).into_iter().map(|(source, target)| (target, source)).collect();
        let all = "/log/messages.0 /log/messages.1 /log/solitary.1";
        assert_eq!(sources["/log/messages.1"], all, "{effort}");
        assert_eq!(sources["/log/messages.2"], all, "{effort}");
    }
    assert!(files.pairs(Effort::Fast).iter().all(|(source, _)| source.contains("/log/messages.2")));
}

#[test]
fn search_budget_of_series_is_its_own_size() {
    let mut files = ContentPair::default();
    let (one, other) = (noise(1, 50_000), noise(2, 50_000));
    files.old("log/a.0", &one).old("log/a.1", &other);
    for number in 0..10u32 {
        let path = format!("bulk/{number}");
        files.old(&path, &noise(number + 3, 50_000)).keep(&path);
    }
    files.new_file("log/a.0", &edited(&other, 7)).new_file("log/a.1", &edited(&one, 7));

    assert_eq!(files.pairs(Effort::Best).len(), 2);
    let bulk = files.bytes_read("/bulk");
    assert!(bulk <= 150_000, "{bulk}");
}

#[test]
fn sources_rank_by_overlap_then_size_then_path() {
    let content = noise(1, 40_000);
    let mut files = ContentPair::default();
    files.old("a/half", &[&content[..20_000], &noise(2, 20_000)].concat());
    files.old("b/longer", &[&content[..], &[0; 3_000]].concat());
    files.old("c/same", &content).old("d/same", &[&content[..39_999], b"!"].concat());
    files.new_file("x/new", &edited(&content, 10));

    for _ in 0..3 {
        assert_eq!(files.pairs(Effort::Normal), [pair_of("/c/same", "/x/new")]);
    }
}

#[test]
fn empty_tiny_or_compressed_file_is_not_read() {
    let content = noise(1, 100_000);
    let mut files = ContentPair::default();
    files.old("old/empty", b"").old("old/tiny", &content[..3_000]).old("old/packed.xz", &content);
    files.old("old/lost", &content).old("old/zeros", &[0; 90_000]);
    files.contents.remove(&Digest([files.base[3].2; 32]));
    files.new_file("new/nothing", b"").new_file("new/small", &edited(&content[..3_000], 50));
    files
        .new_file("new/put.zst", &edited(&content, 50))
        .new_file("new/whole", &edited(&content, 60));

    assert!(files.pairs(Effort::Best).is_empty());
    for path in
        ["/old/empty", "/old/tiny", "/old/packed.xz", "/new/nothing", "/new/small", "/new/put.zst"]
    {
        assert_eq!(files.bytes_read(path), 0, "{path}");
    }
    assert!(files.bytes_read("/old/lost") > 0 && files.bytes_read("/new/whole") > 0);
}

#[test]
fn search_is_bounded_and_prefers_removed_files_of_close_size() {
    let mut files = ContentPair::default();
    let noise = noise(1, 20_000);
    for n in 0..80 {
        files.old(&format!("gone/{n:03}x"), &noise[..4_100 + n * 100]);
        files.old(&format!("kept/{n:03}y"), &noise[n..4_100 + n]).keep(&format!("kept/{n:03}y"));
    }
    files.old("lib/changed-1", &noise[..4_100]).new_file("lib/changed-2", &noise[1..4_100]);
    files.new_file("fresh", &noise[..4_100]);

    files.pairs(Effort::Normal);
    let (gone, used) =
        (files.bytes_read("/gone"), files.bytes_read("/kept") + files.bytes_read("/lib"));
    assert!((60_000..=4_100 * 16).contains(&(gone + used)), "{gone} and {used}");
    assert!(used < 5_500, "{used}: used files are last");
    assert_eq!((files.bytes_read("/gone/000x"), files.bytes_read("/gone/079x")), (4_100, 0));
}

#[test]
fn file_beyond_budget_is_not_read() {
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
    by_names(&base, &target, Effort::Normal, &Effort::Normal.rebuild_limit())
        .by_content(note, note);
    let mut read = read.into_inner().expect("lives");
    read.sort();
    assert_eq!(read, ["/a", "/c", "/w", "/x"]);
}

#[test]
fn excluded_contents_serve_only_each_other() {
    let rules = Filter::builder().exclude_file("rules", b"/cache/*\n").expect("good rules");
    let filter = rules.build();
    let base = manifest(&[
        ("app/a", 100, 1),
        ("app/b", 100, 2),
        ("cache/c", 100, 3),
        ("cache/moved", 100, 4),
        ("cache/shared", 100, 2),
    ]);
    // `app/c` has the name of an excluded file, and `app/moved` its content.
    let target = manifest(&[
        ("app/a", 100, 11),
        ("app/b", 100, 12),
        ("app/c", 100, 13),
        ("app/moved", 100, 4),
        ("cache/c", 100, 14),
        ("cache/shared", 100, 15),
    ]);
    let excluded = ExcludedContents::find(&base, &target, &filter);

    let limit = Effort::Normal.rebuild_limit();
    let matching = Matching::by_names(&base, &target, Effort::Normal, &limit, &excluded);
    let groups = matching.into_pairs().groups;

    let names = |entries: &[&Entry]| -> Vec<String> {
        entries.iter().map(|entry| entry.path.to_string()).collect()
    };
    let found: Vec<_> =
        groups.iter().map(|group| (names(&group.sources), names(&group.targets))).collect();
    let expected = [
        group(&["/app/a", "/app/b"], &["/app/a", "/app/b"]),
        group(&["/cache/c", "/cache/shared"], &["/cache/c", "/cache/shared"]),
    ];
    assert_eq!(found, expected);
    // Nodes lack the content that moves, although the base has it.
    assert!(!excluded.is_known(&Digest([4; 32])));
    assert!(excluded.is_known(&Digest([2; 32])));
}
