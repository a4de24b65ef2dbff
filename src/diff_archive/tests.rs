//! Round trips of pairs of trees, reproducible bytes, and the locations of the content index.
//!
//! Trees, kinds of patches, frozen samples, hostile input and GNU tar have modules of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};

use proptest::prelude::*;

use super::changes::ListingParts;
use super::*;
pub(crate) use crate::delta::tests::noise;
use crate::delta::{Effort, MatchedPairs, Matching, RebuildLimit};
use crate::digest::Digest;
use crate::entry::{Entry, LeafKind, Meta};
use crate::filter::ExcludedContents;
use crate::image::ImageName;
use crate::report::Silent;
use crate::tree_path::TreePath;
pub(crate) use trees::{MemoryTree, TreeBuilder, meta, pair_of_every_kind, rich_pair};

mod frames;
mod frozen;
mod gnu_tar;
mod hostile;
pub(crate) mod mutations;
mod patches;
mod trees;

pub(crate) fn name() -> ImageName {
    "node".parse().expect("a good name")
}

/// An archive in memory, without a catalog.
pub(crate) fn framed(bytes: &[u8], compression: FrameCompression) -> FramedFile<&[u8]> {
    FramedFile { bytes, size: bytes.len() as u64, compression, head: None }
}

/// The listing in the head of an archive.
fn listing_of(bytes: &[u8], compression: FrameCompression) -> Result<Listing, ArchiveError> {
    let head = FrameHead::read(&mut framed(bytes, compression))?;
    read_listing(&head, &ArchiveLimits::default())
}

/// The raw bytes of a file, as plain zstd and gzip decompress it.
fn unpacked(bytes: &[u8], compression: FrameCompression) -> Vec<u8> {
    let mut raw = Vec::new();
    let result = match compression {
        FrameCompression::Zstd => zstd::Decoder::new(bytes).expect("opens").read_to_end(&mut raw),
        FrameCompression::Gzip => flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut raw),
    };
    result.expect("decompresses");
    raw
}

/// Writes a diff with the effort `fast`.
pub(crate) fn build(
    base: &MemoryTree,
    target: &MemoryTree,
    mode: DeltaMode,
    compression: FrameCompression,
) -> (Vec<u8>, WrittenArchiveInfo) {
    let effort = (mode == DeltaMode::WithDeltas).then_some(Effort::Fast);
    build_with(base, target, effort, compression)
}

fn pairs_of<'m>(
    base: &'m MemoryTree,
    target: &'m MemoryTree,
    effort: Effort,
    limit: RebuildLimit,
) -> MatchedPairs<'m> {
    let excluded = ExcludedContents::default();
    let named = Matching::by_names(&base.manifest, &target.manifest, effort, &limit, &excluded);
    pair_by_content(named, base, target).into_pairs()
}

/// Writes a diff; without an effort it has no deltas.
fn build_with(
    base: &MemoryTree,
    target: &MemoryTree,
    effort: Option<Effort>,
    compression: FrameCompression,
) -> (Vec<u8>, WrittenArchiveInfo) {
    let spool = tempfile::tempfile().expect("a spool");
    let excluded = ExcludedContents::default();
    let limit = |effort: Effort| RebuildLimit { gain: 0, ..effort.rebuild_limit() };
    let pairs = effort.map(|effort| (effort, pairs_of(base, target, effort, limit(effort))));
    let deltas = pairs.as_ref().map(|(effort, pairs)| {
        let (effort, rebuild_limit) = (*effort, limit(*effort));
        Deltas {
            sources: base,
            pairs,
            spool: &spool,
            effort,
            rebuild_limit,
            excluded: &excluded,
            depth: &|_| 0,
        }
    });

    let mut bytes = Cursor::new(Vec::new());
    let options = WriteOptions::new(compression, Effort::Fast, None);
    let input = diff_input(base, target, target, deltas);
    let written = write_diff(&input, options, &mut bytes, &Silent).expect("writes");
    (bytes.into_inner(), written)
}

/// Writes a full archive.
pub(crate) fn build_full(
    tree: &MemoryTree,
    compression: FrameCompression,
) -> (Vec<u8>, WrittenArchiveInfo) {
    let mut bytes = Cursor::new(Vec::new());
    let options = WriteOptions::new(compression, Effort::Fast, None);
    let written = write_full(&tree.manifest, tree, options, &mut bytes, &Silent).expect("writes");
    (bytes.into_inner(), written)
}

fn diff_input<'d>(
    base: &'d MemoryTree,
    target: &'d MemoryTree,
    content: &'d MemoryTree,
    deltas: Option<Deltas<'d>>,
) -> DiffInput<'d> {
    static NAME: std::sync::LazyLock<ImageName> = std::sync::LazyLock::new(name);
    let (base, target) = (&base.manifest, &target.manifest);
    DiffInput { image: &NAME, base, target, content, deltas }
}

/// Reads an archive as a node does; returns the contents that it yields.
fn receive(
    bytes: &[u8],
    compression: FrameCompression,
    base: &MemoryTree,
) -> HashMap<Digest, Vec<u8>> {
    let mut reader =
        Reader::open(framed(bytes, compression), &ArchiveLimits::default()).expect("opens");
    let mut contents = HashMap::new();

    for known in reader.listing().known() {
        let source = base.manifest.get(&known.path).and_then(Entry::file);
        assert_eq!(source, Some((known.size, known.digest)), "the hint is right");
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
                // A patch that copies pieces uses earlier contents of the archive too.
                let both = MemoryTree {
                    contents: contents.clone().into_iter().chain(base.contents.clone()).collect(),
                    ..base.clone()
                };
                group
                    .build_targets(&patch, &both, &mut Workspace::default(), |target, content| {
                        let mut bytes = Vec::new();
                        content.read_to_end(&mut bytes)?;
                        contents.insert(target.digest, bytes);
                        Ok::<_, ArchiveError>(())
                    })
                    .expect("patches");
            }
        }
    }
    contents
}

/// Checks the diff of a pair at every effort, in both compressions.
fn check_pair(base: &MemoryTree, target: &MemoryTree) {
    check_pair_in(base, target, &FrameCompression::ALL);
}

fn check_pair_in(base: &MemoryTree, target: &MemoryTree, compressions: &[FrameCompression]) {
    let efforts = [None, Some(Effort::Fast), Some(Effort::Normal), Some(Effort::Best)];
    for (&compression, effort) in
        compressions.iter().flat_map(|one| efforts.map(|effort| (one, effort)))
    {
        let (bytes, written) = build_with(base, target, effort, compression);

        check_head(&bytes, &written);
        let listing = listing_of(&bytes, compression).expect("reads");
        assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);

        let contents = receive(&bytes, compression, base);
        for (_, digest) in listing.changed().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest]);
        }

        let both = BaseAndTarget { base, target: &target.manifest, content: target };
        let file = framed(&bytes, compression);
        verify_diff(file, &ArchiveLimits::default(), Some(&both), &Silent).expect("verifies");
        check_locations(&bytes, compression, &written, target);
    }
}

fn check_head(bytes: &[u8], written: &WrittenArchiveInfo) {
    assert_eq!(written.size, bytes.len() as u64);
    let head = &bytes[..written.first_frame.length as usize];
    assert_eq!(Digest::of(head), written.first_frame.sha256);
}

/// Checks that each whole content is at the location of its record.
fn check_locations(
    bytes: &[u8],
    compression: FrameCompression,
    written: &WrittenArchiveInfo,
    target: &MemoryTree,
) {
    let head = FrameHead::read(&mut framed(bytes, compression)).expect("reads");
    for record in written.index.iter().filter(|record| record.place.group.is_none()) {
        let place = record.place;
        let frames = place.frame as usize..(place.frame + place.frame_count(record.size)) as usize;
        let (offset, length) = head.table().range(frames.clone()).expect("frames of the table");
        let stored = &bytes[offset as usize..][..length as usize];
        let table = std::sync::Arc::clone(head.table());
        let mut raw = Vec::new();
        VerifiedFrames::part(stored, table, frames, compression)
            .read_to_end(&mut raw)
            .expect("whole frames");

        let content = &raw[place.offset as usize..][..record.size as usize];
        assert_eq!(content, target.contents[&record.digest]);
    }
}

#[test]
fn every_kind_of_entry_round_trips() {
    let (base, target) = rich_pair();
    check_pair(&base, &target);
    check_pair(&target, &base);
}

#[test]
fn archive_bytes_are_independent_of_thread_count() {
    let (base, target) = rich_pair();

    for compression in FrameCompression::ALL {
        let on = |threads| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let (diff, _) = build(&base, &target, DeltaMode::WithDeltas, compression);
                (diff, build_full(&target, compression).0)
            })
        };
        assert!(on(1) == on(3));
    }
}

#[test]
fn full_archive_round_trips() {
    let (base, target) = rich_pair();
    for compression in FrameCompression::ALL {
        let (bytes, written) = build_full(&target, compression);

        check_head(&bytes, &written);
        verify_full(framed(&bytes, compression), &target.manifest, &Silent).expect("verifies");
        assert!(verify_full(framed(&bytes, compression), &base.manifest, &Silent).is_err());
        check_locations(&bytes, compression, &written, &target);
    }
}

#[test]
fn file_that_changes_while_read_is_named() {
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

        let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
        let input = diff_input(&base, &target, &changed, None);
        let error =
            write_diff(&input, options, io::Cursor::new(Vec::new()), &Silent).expect_err("fails");
        assert_eq!(error.to_string(), "/big changed while it was read");
    }
}

#[test]
fn large_file_spans_frames() {
    let (mut old, mut new) = (TreeBuilder::default(), TreeBuilder::default());
    old.file(b"x", meta(0o644, 1, 0), b"x");
    new.file(b"a", meta(0o644, 1, 0), b"before").file(
        b"large",
        meta(0o644, 1, 0),
        &vec![7; 40 << 20],
    );
    new.file(b"z", meta(0o644, 1, 0), b"after");
    let (base, target) = (old.tree(), new.tree());

    let (bytes, written) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    let file = framed(&bytes, FrameCompression::Zstd);
    verify_diff(file, &ArchiveLimits::default(), Some(&base), &Silent).expect("verifies");
    check_locations(&bytes, FrameCompression::Zstd, &written, &target);
    let table = FrameHead::read(&mut framed(&bytes, FrameCompression::Zstd)).expect("reads");
    assert_eq!(table.table().count(), 1 + 41 + 1, "before, the file, after");
}

#[test]
fn small_frames_keep_their_order() {
    let mut builder = TreeBuilder::default();
    for n in 0..600u32 {
        builder.file(
            format!("dir-{}/file-{n}", n % 7).as_bytes(),
            meta(0o644, 1, 0),
            &noise(n + 1, 40_000),
        );
    }

    check_pair(&TreeBuilder::default().file(b"x", meta(0, 0, 0), b"x").tree(), &builder.tree());
}

/// A small tree with few names and few contents, so that pairs have much in common.
fn any_tree() -> impl Strategy<Value = MemoryTree> {
    let names = ["a", "b", "b-1.0", "c/a", "c/b-2.0", "c/d/e", "f", "g/h"];
    let node = (0..6u8, 0..5u32, 0..3i64);
    let links =
        prop::option::weighted(0.5, prop::sample::subsequence(vec!["f", "l1", "l2", "l3"], 2..=4));
    (prop::collection::btree_map(prop::sample::select(names.to_vec()), node, 0..8), links).prop_map(
        |(nodes, links)| {
            let mut builder = TreeBuilder::default();
            builder.put(b"", meta(0o755, 0, 0), None);

            for (path, (kind, content, time)) in nodes {
                // A name with entries below it remains a directory.
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
    fn any_pair_of_trees_round_trips(base in any_tree(), target in any_tree()) {
        check_pair(&base, &target);
    }
}

#[test]
fn failing_scratch_file_is_named() {
    let (base, target) = rich_pair();
    let spool = File::open("/dev/null").expect("opens read-only");
    let (effort, rebuild_limit) = (Effort::Fast, Effort::Fast.rebuild_limit());
    let pairs = pairs_of(&base, &target, effort, rebuild_limit);
    let deltas = Some(Deltas {
        sources: &base,
        pairs: &pairs,
        spool: &spool,
        effort,
        rebuild_limit,
        excluded: &ExcludedContents::default(),
        depth: &|_| 0,
    });

    let options = WriteOptions::new(FrameCompression::Zstd, Effort::Fast, None);
    let input = diff_input(&base, &target, &target, deltas);
    let error =
        write_diff(&input, options, io::Cursor::new(Vec::new()), &Silent).expect_err("fails");
    assert!(matches!(error, WriteError::Spool(_)), "{error}");
}
