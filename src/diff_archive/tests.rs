//! Round trips of any pair of trees, reproducibility, and the places in the content index; the trees, the kinds of
//! patches, hostile input and GNU tar are in modules of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use proptest::prelude::*;

use super::*;
pub(crate) use crate::delta::tests::noise;
use crate::delta::{Effort, MatchedPairs, Matching, Opening};
use crate::entry::{LeafKind, Meta};
use crate::image::ImageName;
use crate::report::Silent;
pub(crate) use trees::{Builder, Tree, meta, pair_of_every_kind, rich_pair};

mod frozen;
mod gnu_tar;
mod hostile;
mod patches;
mod trees;

pub(crate) fn name() -> ImageName {
    "node".parse().expect("a good name")
}

pub(crate) fn build(
    base: &Tree,
    target: &Tree,
    deltas: bool,
    compression: FrameCompression,
) -> (Vec<u8>, WrittenArchiveInfo) {
    build_with(base, target, deltas.then_some(Effort::Fast), compression)
}

fn pairs_of<'m>(
    base: &'m Tree,
    target: &'m Tree,
    effort: Effort,
    opening: Opening,
) -> MatchedPairs<'m> {
    let named = Matching::by_names(&base.manifest, &target.manifest, effort, &opening);
    pair_by_content(named, base, target).into_pairs()
}

/// Without an effort, without deltas.
fn build_with(
    base: &Tree,
    target: &Tree,
    effort: Option<Effort>,
    compression: FrameCompression,
) -> (Vec<u8>, WrittenArchiveInfo) {
    let spool = tempfile::tempfile().expect("a spool");
    let opening = |effort: Effort| Opening { gain: 0, ..effort.opening() };
    let pair = (&base.manifest, &target.manifest);
    let pairs = effort.map(|effort| (effort, pairs_of(base, target, effort, opening(effort))));
    let deltas = pairs.as_ref().map(|(effort, pairs)| {
        let (effort, opening) = (*effort, opening(*effort));
        Deltas { sources: base, pairs, spool: &spool, effort, opening, depth: &|_| 0 }
    });
    let mut bytes = Vec::new();
    let options = WriteOptions::new(compression, Effort::Fast, None);
    let written =
        write_diff(pair, &name(), target, deltas, options, &mut bytes, &Silent).expect("writes");
    (bytes, written)
}

/// Reads an archive as a node does; gives the contents that it brings.
fn receive(bytes: &[u8], compression: FrameCompression, base: &Tree) -> HashMap<Digest, Vec<u8>> {
    let mut reader = Reader::open(bytes, compression, &ArchiveLimits::default()).expect("opens");
    let mut contents = HashMap::new();
    for known in reader.listing().known() {
        let source = base.manifest.get(&known.path).and_then(Entry::file);
        assert_eq!(source, Some((known.size, known.digest)), "the hint is good");
        contents.insert(known.digest, base.contents[&known.digest].clone());
    }
    while let Some(member) = reader.next_member().expect("reads") {
        match member {
            ArchiveMember::Plain(_) => {}
            ArchiveMember::Whole(_, mut content) => {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).expect("reads");
                contents.insert(Digest::of(&bytes), bytes);
            }
            ArchiveMember::Patch(group, patch) => {
                // What came before serves what copies pieces.
                let both = Tree {
                    contents: contents.clone().into_iter().chain(base.contents.clone()).collect(),
                    ..base.clone()
                };
                let made =
                    group.make(&patch, &both, &mut Workspace::default(), |target, content| {
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
    check_pair_in(base, target, &FrameCompression::ALL);
}

fn check_pair_in(base: &Tree, target: &Tree, compressions: &[FrameCompression]) {
    let efforts = [None, Some(Effort::Fast), Some(Effort::Normal), Some(Effort::Best)];
    for (&compression, effort) in
        compressions.iter().flat_map(|one| efforts.map(|effort| (one, effort)))
    {
        let (bytes, written) = build_with(base, target, effort, compression);
        assert_eq!((written.size, written.sha256), (bytes.len() as u64, Digest::of(&bytes)));
        let first = &bytes[..written.first_frame.length as usize];
        assert_eq!(Digest::of(first), written.first_frame.sha256);
        let listing = read_listing(first, compression, &ArchiveLimits::default()).expect("reads");
        assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);
        let contents = receive(&bytes, compression, base);
        for (_, digest) in listing.changed().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest]);
        }
        let both = BaseAndTarget { base, target: &target.manifest, content: target };
        verify_diff(&bytes[..], compression, &ArchiveLimits::default(), Some(&both), &Silent)
            .expect("verifies");
        check_places(&bytes, compression, &written, target);
    }
}

fn check_places(
    bytes: &[u8],
    compression: FrameCompression,
    written: &WrittenArchiveInfo,
    target: &Tree,
) {
    for record in &written.index {
        let place = record.place;
        let frame = &bytes[place.frame_offset as usize..][..place.frame_length as usize];
        let mut raw = Vec::new();
        Decoder::new(compression, frame)
            .expect("opens")
            .read_to_end(&mut raw)
            .expect("one whole frame");
        if place.group.is_none() {
            assert_eq!(
                raw[place.offset as usize..][..record.size as usize],
                target.contents[&record.digest]
            );
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
fn the_same_pair_gives_the_same_bytes_on_any_number_of_processors() {
    let (base, target) = rich_pair();
    for compression in FrameCompression::ALL {
        let on = |threads| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| build(&base, &target, true, compression).0)
        };
        assert_eq!(on(1), on(3));
    }
}

#[test]
fn full_archives_come_back_whole() {
    let (base, target) = rich_pair();
    for compression in FrameCompression::ALL {
        let mut bytes = Vec::new();
        let options = WriteOptions::new(compression, Effort::Fast, None);
        let written =
            write_full(&target.manifest, &target, options, &mut bytes, &Silent).expect("writes");
        assert_eq!((written.size, written.sha256), (bytes.len() as u64, Digest::of(&bytes)));
        verify_full(&bytes[..], compression, &target.manifest, &Silent).expect("verifies");
        assert!(verify_full(&bytes[..], compression, &base.manifest, &Silent).is_err());
        check_places(&bytes, compression, &written, &target);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_fails_by_name() {
    let (base, target) = rich_pair();
    let changes: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes.push(1), |bytes| bytes.truncate(9), |bytes| bytes[0] ^= 1];
    for change in changes {
        let mut changed = target.clone();
        let (_, digest) = target
            .manifest
            .get(&TreePath::new("big").expect("good"))
            .and_then(Entry::file)
            .expect("there");
        change(changed.contents.get_mut(&digest).expect("there"));
        let pair = (&base.manifest, &target.manifest);
        let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
        let error = write_diff(pair, &name(), &changed, None, options, io::sink(), &Silent)
            .expect_err("fails");
        assert_eq!(error.to_string(), "/big changed while it was read");
    }
}

#[test]
fn a_large_file_is_compressed_straight_into_the_archive() {
    let (mut old, mut new) = (Builder::default(), Builder::default());
    old.file(b"x", meta(0o644, 1, 0), b"x");
    new.file(b"a", meta(0o644, 1, 0), b"before").file(
        b"large",
        meta(0o644, 1, 0),
        &vec![7; 40 << 20],
    );
    new.file(b"z", meta(0o644, 1, 0), b"after");
    let (base, target) = (old.tree(), new.tree());
    let (bytes, written) = build(&base, &target, true, FrameCompression::Zstd);
    verify_diff(
        &bytes[..],
        FrameCompression::Zstd,
        &ArchiveLimits::default(),
        Some(&base),
        &Silent,
    )
    .expect("verifies");
    check_places(&bytes, FrameCompression::Zstd, &written, &target);
}

#[test]
fn many_small_frames_keep_their_order() {
    let mut builder = Builder::default();
    for n in 0..600u32 {
        builder.file(
            format!("dir-{}/file-{n}", n % 7).as_bytes(),
            meta(0o644, 1, 0),
            &noise(n + 1, 40_000),
        );
    }
    check_pair(&Builder::default().file(b"x", meta(0, 0, 0), b"x").tree(), &builder.tree());
}

/// A small tree over few names and few contents, so that pairs have much in common.
fn any_tree() -> impl Strategy<Value = Tree> {
    let names = ["a", "b", "b-1.0", "c/a", "c/b-2.0", "c/d/e", "f", "g/h"];
    let node = (0..6u8, 0..5u32, 0..3i64);
    let links =
        prop::option::weighted(0.5, prop::sample::subsequence(vec!["f", "l1", "l2", "l3"], 2..=4));
    (prop::collection::btree_map(prop::sample::select(names.to_vec()), node, 0..8), links).prop_map(
        |(nodes, links)| {
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
        },
    )
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
    let deltas = Some(Deltas {
        sources: &base,
        pairs: &pairs,
        spool: &spool,
        effort,
        opening,
        depth: &|_| 0,
    });
    let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
    let error = write_diff(pair, &name(), &target, deltas, options, io::sink(), &Silent)
        .expect_err("fails");
    assert!(matches!(error, WriteError::Spool(_)), "{error}");
}
