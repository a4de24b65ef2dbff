//! Round trips of any pair of trees, reproducibility, and the places in the content index; hostile input
//! and GNU tar are in modules of their own.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::delta::gzip::tests::gzipped;
use crate::delta::tests::member;
pub(crate) use crate::delta::tests::noise;
use crate::delta::{Effort, Kind, Opening, Pairing, Pairs};
use crate::entry::{Device, Leaf, LeafKind, Meta, Mtime, Node, Xattrs};
use crate::image::ImageName;
use crate::manifest::Manifest;
use crate::report::Silent;

mod frozen;
mod gnu_tar;
mod hostile;

/// A tree in memory: a manifest, and the contents by digest.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub manifest: Manifest,
    pub contents: HashMap<Digest, Vec<u8>>,
}

impl Content for Tree {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send + '_>> {
        let (_, digest) = entry.file().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(self.contents.get(&digest).ok_or(io::ErrorKind::NotFound)?.as_slice()))
    }
}

impl Sources for Tree {
    fn read(&self, digest: &Digest, _: u64, _: &TreePath) -> io::Result<Option<Vec<u8>>> {
        Ok(self.contents.get(digest).cloned())
    }
}

/// Builds a [`Tree`]; directories above an entry come by themselves.
#[derive(Default)]
pub(crate) struct Builder {
    entries: BTreeMap<TreePath, Entry>,
    contents: HashMap<Digest, Vec<u8>>,
    /// Directories that come by themselves are so much younger.
    younger: i64,
}

pub(crate) fn meta(mode: u16, seconds: i64, nanos: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Mtime { seconds, nanos }, xattrs: Xattrs::new() }
}

impl Builder {
    pub fn put(&mut self, path: &[u8], meta: Meta, kind: Option<LeafKind>) -> &mut Self {
        let path = TreePath::new(path).expect("a good path");
        let time = self::meta(0o755, 7 + self.younger, 0);
        let mut above = path.parent();
        while let Some(dir) = above {
            let node = Node::Directory;
            above = dir.parent();
            self.entries.entry(dir.clone()).or_insert(Entry::new(dir, time.clone(), node));
        }
        let node = kind.map_or(Node::Directory, |kind| Node::Leaf(Leaf { kind, group: None }));
        self.entries.insert(path.clone(), Entry::new(path, meta, node));
        self
    }

    pub fn file(&mut self, path: &[u8], meta: Meta, content: &[u8]) -> &mut Self {
        let digest = Digest::of(content);
        self.contents.insert(digest, content.to_vec());
        self.put(path, meta, Some(LeafKind::File { size: content.len() as u64, digest }))
    }

    /// Makes all of `paths`, which are in order, links of the first.
    pub fn link(&mut self, paths: &[&[u8]]) -> &mut Self {
        let path = |bytes: &[u8]| TreePath::new(bytes).expect("a good path");
        let mut first = self.entries[&path(paths[0])].clone();
        if let Node::Leaf(leaf) = &mut first.node {
            leaf.group = Some(path(paths[0]));
        }
        for link in paths {
            let path = path(link);
            self.put(link, first.meta.clone(), None);
            self.entries.insert(path.clone(), first.at(path));
        }
        self
    }

    pub fn tree(&self) -> Tree {
        let manifest = Manifest::new(self.entries.values().cloned().collect()).expect("a good manifest");
        Tree { manifest, contents: self.contents.clone() }
    }
}

/// A pair of trees with every kind of entry, and every way in which one can change.
pub(crate) fn rich_pair() -> (Tree, Tree) {
    let (mut old, mut new) = (Builder::default(), Builder { younger: 1, ..Builder::default() });
    let library = noise(1, 300_000);
    let mut patched = library.clone();
    patched[100_000..100_020].fill(0);
    let mut attributed = meta(0o644, 5, 999_999_999);
    attributed.xattrs.insert(b"user.a=b%\xff".as_slice().into(), b"\0binary\nwith = lines\n\xff".as_slice().into());
    attributed.xattrs.insert(b"user.empty".as_slice().into(), b"".as_slice().into());
    let long = [vec![b'd'; 250], vec![b'e'; 250], vec![b'\xfe'; 200]].join(&b'/');
    let owned = Meta { uid: 3_000_000, gid: 4_000_000_000, ..meta(0o4755, -3, 250_000_000) };
    let symlink = |target: &[u8]| Some(LeafKind::Symlink { target: target.into() });
    let device = Device { major: 254, minor: 1_000_000 };
    for (builder, time) in [(&mut old, 1), (&mut new, 2)] {
        builder.file(b"same/file", meta(0o600, 1, 0), b"unchanged").file(b"same/link-a", meta(0o644, 1, 0), b"linked");
        builder.put(b"etc", meta(0o755, time, 0), None);
    }
    old.link(&[b"same/link-a", b"same/link-c"]);
    new.link(&[b"same/link-a", b"same/link-b", b"same/link-c"]);
    old.file(b"usr/lib/libx.so.1.2.3", meta(0o755, 1, 0), &library).file(b"gone/file", meta(0o644, 1, 0), b"gone");
    new.file(b"usr/lib/libx.so.1.2.4", meta(0o755, 2, 0), &patched).file(b"copy", meta(0o644, 2, 0), b"unchanged");
    old.file(b"type", meta(0o644, 1, 0), b"was a file").put(b"mode", meta(0o644, 1, 0), Some(LeafKind::Fifo));
    new.put(b"type", meta(0o1777, 2, 0), None).put(b"mode", meta(0o600, 1, 0), Some(LeafKind::Fifo));
    new.file(b"odd\n\xff name", attributed, &noise(2, 1500)).file(&long, owned, b"long").file(
        b"empty",
        meta(0, 0, 0),
        b"",
    );
    new.put(b"sym", meta(0o777, 9, 1), symlink(b"some/where")).put(b"far", meta(0o777, 9, 0), symlink(&[b'x'; 4095]));
    new.put(b"dev/c", meta(0o620, 3, 0), Some(LeafKind::Char(device)));
    new.put(b"dev/b", meta(0o660, 1 << 33, 0), Some(LeafKind::Block(device)));
    new.file(b"big", meta(0o644, 2, 0), &noise(3, 1_500_000)).file(b"linked-1", meta(0o644, 8, 0), b"new links");
    new.link(&[b"linked-1", b"linked-2", b"type/linked-3"]);
    new.file(b"acl", with_xattr(meta(0o640, 1, 0), b"system.posix_acl_access", ACL), b"acl");
    new.file(b"capable", with_xattr(meta(0o755, 1, 0), b"security.capability", CAPABILITY), b"capable");
    (old.tree(), new.tree())
}

/// rw- for the owner, r-- for user 1000, the group and the mask, nothing for others.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// cap_net_raw=ep
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A pair whose diffs at the efforts normal and best have every kind of patch and every form of a target. Frozen
/// samples hold it: it is never changed.
pub(crate) fn pair_of_every_kind() -> (Tree, Tree) {
    let (mut old, mut new) = (Builder::default(), Builder { younger: 1, ..Builder::default() });
    let text =
        |n: u32| (0..400u32).flat_map(move |i| format!("line {i} of {}\n", i.wrapping_mul(n) % 7919).into_bytes());
    for (builder, n) in [(&mut old, 3u32), (&mut new, 5)] {
        let time = meta(0o644, i64::from(n), 0);
        // A kernel's modules, of which one changes, and an archive of them.
        let changed = [&noise(11, 700_000)[..], &n.to_le_bytes(), &noise(12, 100_000)].concat();
        let same = noise(13, 260_000);
        let members = [member("x.ko", &changed), member("y.ko", &same), member("TRAILER!!!", &[])].concat();
        builder.file(format!("modules/{n}.1/x.ko").as_bytes(), time.clone(), &changed);
        builder.file(format!("modules/{n}.1/y.ko").as_bytes(), time.clone(), &same);
        builder.file(format!("initrd.img-{n}.1").as_bytes(), time.clone(), &gzipped(&members));
        let log: Vec<u8> = text(7).chain(text(n)).collect();
        builder.file(b"doc/changelog.gz", time.clone(), &gzipped(&log));
        builder.file(b"doc/no.gz", time.clone(), &[&noise(14, 3000)[..], &n.to_le_bytes()].concat());
        let moved = |i: u32| if (600_000..600_100).contains(&i) { n } else { 0 };
        let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8).wrapping_add(moved(i));
        let large: Vec<u8> = (0..1_200_000u32).flat_map(|i| number(i).to_le_bytes()).collect();
        builder.file(b"lib/large.so", time, &large);
    }
    (old.tree(), new.tree())
}

fn with_xattr(mut meta: Meta, name: &[u8], value: &[u8]) -> Meta {
    meta.xattrs.insert(name.into(), value.into());
    meta
}

pub(crate) fn name() -> ImageName {
    "node".parse().expect("a good name")
}

pub(crate) fn build(base: &Tree, target: &Tree, deltas: bool, compression: Compression) -> (Vec<u8>, Written) {
    build_with(base, target, deltas.then_some(Effort::Fast), compression)
}

fn pairs_of<'m>(base: &'m Tree, target: &'m Tree, effort: Effort, opening: Opening) -> Pairs<'m> {
    let named = Pairing::by_names(&base.manifest, &target.manifest, effort, &opening);
    pair_by_content(named, base, target).into_pairs()
}

/// Without an effort, without deltas.
fn build_with(base: &Tree, target: &Tree, effort: Option<Effort>, compression: Compression) -> (Vec<u8>, Written) {
    let spool = tempfile::tempfile().expect("a spool");
    let opening = |effort: Effort| Opening { gain: 0, ..effort.opening() };
    let pair = (&base.manifest, &target.manifest);
    let pairs = effort.map(|effort| (effort, pairs_of(base, target, effort, opening(effort))));
    let deltas = pairs.as_ref().map(|(effort, pairs)| {
        let (effort, opening) = (*effort, opening(*effort));
        Deltas { sources: base, pairs, spool: &spool, effort, opening, depth: &|_| 0 }
    });
    let mut bytes = Vec::new();
    let options = Options::new(compression, Effort::Fast, None);
    let written = write_diff(pair, &name(), target, deltas, options, &mut bytes, &Silent).expect("writes");
    (bytes, written)
}

/// Reads an archive as a node does; gives the contents that it brings.
fn receive(bytes: &[u8], compression: Compression, base: &Tree) -> HashMap<Digest, Vec<u8>> {
    let mut reader = Reader::open(bytes, compression, &Limits::default()).expect("opens");
    let mut contents = HashMap::new();
    for known in reader.listing().known() {
        let source = base.manifest.get(&known.path).and_then(Entry::file);
        assert_eq!(source, Some((known.size, known.digest)), "the hint is good");
        contents.insert(known.digest, base.contents[&known.digest].clone());
    }
    while let Some(member) = reader.next_member().expect("reads") {
        match member {
            Member::Plain(_) => {}
            Member::Whole(_, mut content) => {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).expect("reads");
                contents.insert(Digest::of(&bytes), bytes);
            }
            Member::Patch(group, patch) => {
                // What came before serves what copies pieces.
                let both = Tree {
                    contents: contents.clone().into_iter().chain(base.contents.clone()).collect(),
                    ..base.clone()
                };
                let made = group.make(&patch, &both, &mut Workspace::default(), |target, content| {
                    let mut bytes = Vec::new();
                    content.read_to_end(&mut bytes)?;
                    contents.insert(target.digest, bytes);
                    Ok::<_, ArchiveError>(())
                });
                made.expect("patches");
            }
        }
    }
    contents
}

fn check_pair(base: &Tree, target: &Tree) {
    check_pair_in(base, target, &Compression::ALL);
}

fn check_pair_in(base: &Tree, target: &Tree, compressions: &[Compression]) {
    let efforts = [None, Some(Effort::Fast), Some(Effort::Normal), Some(Effort::Best)];
    for (&compression, effort) in compressions.iter().flat_map(|one| efforts.map(|effort| (one, effort))) {
        let (bytes, written) = build_with(base, target, effort, compression);
        assert_eq!((written.size, written.sha256), (bytes.len() as u64, Digest::of(&bytes)));
        let first = &bytes[..written.first_frame.length as usize];
        assert_eq!(Digest::of(first), written.first_frame.sha256);
        let listing = read_listing(first, compression, &Limits::default()).expect("reads");
        assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);
        let contents = receive(&bytes, compression, base);
        for (_, digest) in listing.changed().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest]);
        }
        let both = BaseAndTarget { base, target: &target.manifest, content: target };
        verify_diff(&bytes[..], compression, &Limits::default(), Some(&both), &Silent).expect("verifies");
        check_places(&bytes, compression, &written, target);
    }
}

fn check_places(bytes: &[u8], compression: Compression, written: &Written, target: &Tree) {
    for record in &written.index {
        let place = record.place;
        let frame = &bytes[place.frame_offset as usize..][..place.frame_length as usize];
        let mut raw = Vec::new();
        Decoder::new(compression, frame).expect("opens").read_to_end(&mut raw).expect("one whole frame");
        if place.group.is_none() {
            assert_eq!(raw[place.offset as usize..][..record.size as usize], target.contents[&record.digest]);
        }
    }
}

#[test]
fn every_kind_of_entry_travels() {
    let (base, target) = rich_pair();
    check_pair(&base, &target);
    check_pair(&target, &base);
}

#[test]
fn every_kind_of_patch_travels() {
    let (base, target) = pair_of_every_kind();
    check_pair_in(&base, &target, &[Compression::Zstd]);
    let listing = |effort| {
        let (bytes, _) = build_with(&base, &target, Some(effort), Compression::Zstd);
        Reader::open(&bytes[..], Compression::Zstd, &Limits::default()).expect("opens").into_listing()
    };
    let kinds = |effort| {
        let kinds =
            listing(effort).groups().iter().map(|g| (g.kind, g.targets.iter().any(|t| t.inside.is_some()))).collect();
        let kinds: Vec<(Kind, bool)> = kinds;
        kinds
    };
    assert_eq!(kinds(Effort::Fast), [(Kind::Prefix, false), (Kind::Prefix, false), (Kind::Segments, false)]);
    assert_eq!(
        kinds(Effort::Normal),
        [(Kind::Prefix, false), (Kind::Prefix, true), (Kind::Segments, false), (Kind::Copies, true)]
    );
    assert_eq!(
        kinds(Effort::Best),
        [(Kind::Operations, false), (Kind::Operations, false), (Kind::Prefix, true), (Kind::Copies, true)]
    );
    let header = listing(Effort::Best).header().clone();
    assert_eq!(header.rebuilt, 2);
    assert!(header.rebuilt_bytes > 1_000_000 && header.patch_bytes < 1_000_000, "{header:?}");
}

#[test]
fn what_was_moved_renamed_and_edited_travels_as_a_patch_but_with_fast() {
    let content = noise(21, 300_000);
    let edited = [&content[..100_000], b"other words", &content[100_500..]].concat();
    let (mut old, mut new) = (Builder::default(), Builder { younger: 1, ..Builder::default() });
    old.file(b"usr/bin/tool", meta(0o755, 3, 0), &content).file(b"usr/bin/other", meta(0o755, 3, 0), &noise(22, 9_000));
    new.file(b"opt/suite/runner", meta(0o755, 5, 0), &edited);
    let (base, target) = (old.tree(), new.tree());
    check_pair_in(&base, &target, &[Compression::Zstd]);
    let length = |effort| build_with(&base, &target, Some(effort), Compression::Zstd).0.len();
    assert!(length(Effort::Fast) > 300_000);
    for effort in [Effort::Normal, Effort::Best] {
        assert!(length(effort) < 5_000, "{effort}: {}", length(effort));
    }
    let unread = Tree { contents: HashMap::new(), ..base.clone() };
    let (bytes, _) = build_with(&unread, &target, Some(Effort::Normal), Compression::Zstd);
    assert!(bytes.len() > 300_000, "what cannot be read serves nothing");
    assert_eq!(receive(&bytes, Compression::Zstd, &base).len(), 1);
}

/// Too large for a group, and no archive of the tree's files.
#[test]
fn a_large_compressed_file_is_made_of_what_was_inside_the_old_one() {
    let (mut old, mut new) = (Builder::default(), Builder { younger: 1, ..Builder::default() });
    let text: String = (0..400_000u32).map(|n| format!("{:08x}\n", n.wrapping_mul(2_654_435_761))).collect();
    let changed = text.replacen("00000000\n", "one line and another\n", 1);
    for (builder, text) in [(&mut old, text), (&mut new, changed)] {
        builder.file(b"var/data.gz", meta(0o644, 5, 0), &gzipped(text.as_bytes()));
    }
    let (base, target) = (old.tree(), new.tree());
    let file = target.manifest.entries().iter().find_map(Entry::file).expect("the file");
    assert!(file.0 > 1 << 20, "{} bytes are opened in a group", file.0);
    let (bytes, _) = build_with(&base, &target, Some(Effort::Best), Compression::Zstd);
    assert!(bytes.len() < 50_000, "{} bytes", bytes.len());
    assert_eq!(receive(&bytes, Compression::Zstd, &base).get(&file.1).map(Vec::len), Some(file.0 as usize));
}

/// The guess from the compressed size is far off for what compresses a hundredfold.
#[test]
fn what_rebuilding_may_cost_is_not_exceeded() {
    let (mut old, mut new) = (Builder::default(), Builder { younger: 1, ..Builder::default() });
    for (builder, n) in [(&mut old, 3u8), (&mut new, 5)] {
        for name in ["a", "b", "c", "d"] {
            let plain = [&vec![b'x'; 8_000_000][..], name.as_bytes(), &[n]].concat();
            builder.file(format!("{name}.gz").as_bytes(), meta(0o644, n.into(), 0), &gzipped(&plain));
        }
    }
    let (base, target) = (old.tree(), new.tree());
    let (bytes, _) = build_with(&base, &target, Some(Effort::Normal), Compression::Zstd);
    let listing = Reader::open(&bytes[..], Compression::Zstd, &Limits::default()).expect("opens").into_listing();
    let (limit, cost) = (1000 * Effort::Normal.opening().seconds, listing.header().rebuild_ms);
    assert!(cost <= limit, "{cost} of {limit}");
    assert_eq!(receive(&bytes, Compression::Zstd, &base).len(), 4);
}

#[test]
fn a_small_change_of_a_renamed_file_travels_as_a_patch() {
    let (base, target) = rich_pair();
    let (bytes, written) = build(&base, &target, true, Compression::Zstd);
    assert!(written.index.iter().any(|record| record.place.group.is_some()));
    let listing = verify_diff(&bytes[..], Compression::Zstd, &Limits::default(), None, &Silent).expect("verifies");
    assert_eq!(listing.groups()[0].sources[0].path.to_string(), "/usr/lib/libx.so.1.2.3");
    assert!(listing.header().patch_bytes < 1000, "{}", listing.header().patch_bytes);
    assert!(listing.known().iter().any(|known| known.path.to_string() == "/same/file"), "a copy is known");
}

#[test]
fn the_same_pair_gives_the_same_bytes_on_any_number_of_processors() {
    let (base, target) = rich_pair();
    for compression in Compression::ALL {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| build(&base, &target, true, compression).0)
        };
        assert_eq!(on(1), on(3));
    }
}

#[test]
fn full_archives_come_back_whole() {
    let (base, target) = rich_pair();
    for compression in Compression::ALL {
        let mut bytes = Vec::new();
        let options = Options::new(compression, Effort::Fast, None);
        let written = write_full(&target.manifest, &target, options, &mut bytes, &Silent).expect("writes");
        assert_eq!((written.size, written.sha256), (bytes.len() as u64, Digest::of(&bytes)));
        verify_full(&bytes[..], compression, &target.manifest, &Silent).expect("verifies");
        assert!(verify_full(&bytes[..], compression, &base.manifest, &Silent).is_err());
        check_places(&bytes, compression, &written, &target);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_fails_by_name() {
    let (base, target) = rich_pair();
    let changes: [fn(&mut Vec<u8>); 3] = [|bytes| bytes.push(1), |bytes| bytes.truncate(9), |bytes| bytes[0] ^= 1];
    for change in changes {
        let mut changed = target.clone();
        let (_, digest) =
            target.manifest.get(&TreePath::new("big").expect("good")).and_then(Entry::file).expect("there");
        change(changed.contents.get_mut(&digest).expect("there"));
        let pair = (&base.manifest, &target.manifest);
        let options = Options::new(Compression::Zstd, Effort::Fast, None);
        let error = write_diff(pair, &name(), &changed, None, options, io::sink(), &Silent).expect_err("fails");
        assert_eq!(error.to_string(), "/big changed while it was read");
    }
}

#[test]
fn a_large_file_is_compressed_straight_into_the_archive() {
    let (mut old, mut new) = (Builder::default(), Builder::default());
    old.file(b"x", meta(0o644, 1, 0), b"x");
    new.file(b"a", meta(0o644, 1, 0), b"before").file(b"large", meta(0o644, 1, 0), &vec![7; 40 << 20]);
    new.file(b"z", meta(0o644, 1, 0), b"after");
    let (base, target) = (old.tree(), new.tree());
    let (bytes, written) = build(&base, &target, true, Compression::Zstd);
    verify_diff(&bytes[..], Compression::Zstd, &Limits::default(), Some(&base), &Silent).expect("verifies");
    check_places(&bytes, Compression::Zstd, &written, &target);
}

#[test]
fn many_small_frames_keep_their_order() {
    let mut builder = Builder::default();
    for n in 0..600u32 {
        builder.file(format!("dir-{}/file-{n}", n % 7).as_bytes(), meta(0o644, 1, 0), &noise(n + 1, 40_000));
    }
    check_pair(&Builder::default().file(b"x", meta(0, 0, 0), b"x").tree(), &builder.tree());
}

/// A small tree over few names and few contents, so that pairs have much in common.
fn any_tree() -> impl Strategy<Value = Tree> {
    let names = ["a", "b", "b-1.0", "c/a", "c/b-2.0", "c/d/e", "f", "g/h"];
    let node = (0..6u8, 0..5u32, 0..3i64);
    let links = prop::option::weighted(0.5, prop::sample::subsequence(vec!["f", "l1", "l2", "l3"], 2..=4));
    (prop::collection::btree_map(prop::sample::select(names.to_vec()), node, 0..8), links).prop_map(|(nodes, links)| {
        let mut builder = Builder::default();
        builder.put(b"", meta(0o755, 0, 0), None);
        for (path, (kind, content, time)) in nodes {
            // A name that others lie below stays a directory.
            let path = path.as_bytes();
            let time = meta(0o644, time, 0);
            match kind {
                0 => builder.put(path, time, Some(LeafKind::Fifo)),
                1 => builder.put(
                    path,
                    Meta { mode: 0o777, ..time },
                    Some(LeafKind::Symlink { target: b"x".as_slice().into() }),
                ),
                2 => builder.file(path, time, &noise(content, content as usize)),
                _ => builder.file(path, time, &[noise(99, 3000), noise(content, 9)].concat()),
            };
        }
        if let Some(links) = links {
            let links: Vec<&[u8]> = links.iter().map(|link| link.as_bytes()).collect();
            builder.file(links[0], meta(0o600, 3, 0), b"linked").link(&links);
        }
        builder.tree()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_pair_of_trees(base in any_tree(), target in any_tree()) {
        check_pair(&base, &target);
    }
}

/// The spool is a real file: positioned reads and writes.
#[test]
fn a_spool_that_fails_is_named() {
    let (base, target) = rich_pair();
    let spool = File::open("/dev/null").expect("opens read-only");
    let pair = (&base.manifest, &target.manifest);
    let (effort, opening) = (Effort::Fast, Effort::Fast.opening());
    let pairs = pairs_of(&base, &target, effort, opening);
    let deltas = Some(Deltas { sources: &base, pairs: &pairs, spool: &spool, effort, opening, depth: &|_| 0 });
    let options = Options::new(Compression::Zstd, Effort::Fast, None);
    let error = write_diff(pair, &name(), &target, deltas, options, io::sink(), &Silent).expect_err("fails");
    assert!(matches!(error, WriteError::Spool(_)), "{error}");
}
