//! Hostile archives: each is refused; none panics or takes more memory than the limits allow.

use std::io::Write;

use super::*;
use crate::delta::Kind;
use crate::entry::{Leaf, Node};

fn raw(bytes: &[u8], compression: FrameCompression) -> Vec<u8> {
    let mut raw = Vec::new();
    FrameDecoder::new(compression, bytes)
        .expect("opens")
        .read_to_end(&mut raw)
        .expect("decompresses");
    raw
}

fn pack(raw: &[u8]) -> Vec<u8> {
    zstd::encode_all(raw, 1).expect("compresses")
}

/// All checks of a node.
fn judge(bytes: &[u8], base: &MemoryTree) -> Result<Listing, ArchiveError> {
    let listing =
        verify_diff(bytes, FrameCompression::Zstd, &ArchiveLimits::default(), Some(base), &Silent)?;
    listing.target_of(&base.manifest)?;
    Ok(listing)
}

fn small_pair() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) = (TreeBuilder::default(), TreeBuilder::default());
    let source = noise(5, 3000);

    old.file(b"lib-1.0", meta(0o644, 1, 0), &source).file(b"gone", meta(0o644, 1, 0), b"gone");
    new.file(b"lib-1.1", meta(0o644, 1, 5), &[&source[..], b"!"].concat()).file(
        b"new",
        meta(0o644, 1, 0),
        b"whole",
    );
    new.file(b"moved", meta(0o644, 1, 0), b"gone").put(
        b"sym",
        meta(0o777, 1, 0),
        Some(LeafKind::Symlink { target: b"new".as_slice().into() }),
    );
    (old.tree(), new.tree())
}

/// The members of a tar archive without its end; an extended header belongs to the next member.
fn members(raw: &[u8]) -> Vec<&[u8]> {
    let mut members = Vec::new();
    let (mut start, mut at) = (0, 0);
    while raw[at] != 0 {
        let header = tar::Header::from_byte_slice(&raw[at..at + 512]);
        let size = header.entry_size().expect("a size") as usize;
        at += 512 + size.div_ceil(512) * 512;
        if !header.entry_type().is_pax_local_extensions() {
            members.push(&raw[start..at]);
            start = at;
        }
    }
    members
}

#[test]
fn truncated_archive_is_refused() {
    let (base, target) = small_pair();
    for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
        let (bytes, _) = build(&base, &target, mode, FrameCompression::Zstd);
        for length in 0..bytes.len() {
            assert!(judge(&bytes[..length], &base).is_err(), "cut to {length} of {}", bytes.len());
        }

        let (bytes, _) = build(&base, &target, mode, FrameCompression::Gzip);
        for length in 0..bytes.len() {
            let cut = verify_diff(
                &bytes[..length],
                FrameCompression::Gzip,
                &ArchiveLimits::default(),
                Some(&base),
                &Silent,
            );
            assert!(cut.is_err(), "cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn flipped_bit_is_detected() {
    let (base, target) = small_pair();
    for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
        let (bytes, _) = build(&base, &target, mode, FrameCompression::Zstd);
        let good = judge(&bytes, &base).expect("the archive is good");
        let raw = raw(&bytes, FrameCompression::Zstd);

        // zstd ignores a bit of a frame's header, and of a patch only the output is checked.
        let patch = good
            .groups()
            .last()
            .map_or(0, |group| group.patch_length.next_multiple_of(512) as usize);
        let end = raw.len() - 1024;
        for at in (0..end - patch).chain(end..raw.len()) {
            let mut damaged = raw.clone();
            damaged[at] ^= 1 << (at % 8);
            let Ok(listing) = judge(&pack(&damaged), &base) else { continue };

            // The caller checks the name of the image; a path in `sources` is only a hint.
            let other_image = listing.header().image != good.header().image;
            let hints = |l: &Listing| -> Vec<TreePath> {
                let sources = l
                    .groups()
                    .iter()
                    .flat_map(|group| &group.sources)
                    .map(|source| source.path.clone());
                l.known().iter().map(|known| known.path.clone()).chain(sources).collect()
            };
            assert!(other_image || hints(&listing) != hints(&good), "byte {at} of {}", raw.len());
        }
    }
}

#[test]
fn damaged_frame_never_panics() {
    let (base, target) = small_pair();
    for compression in FrameCompression::ALL {
        let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, compression);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let _ = verify_diff(
                &damaged[..],
                compression,
                &ArchiveLimits::default(),
                Some(&base),
                &Silent,
            );
        }
    }
}

#[test]
fn members_missing_doubled_or_out_of_order_are_refused() {
    let (base, target) = rich_pair();
    for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
        let (bytes, _) = build(&base, &target, mode, FrameCompression::Zstd);
        let raw = raw(&bytes, FrameCompression::Zstd);
        let members = members(&raw);

        let refused = |members: &[&[u8]], case: &str| {
            let bytes = pack(&[&members.concat()[..], &[0; 1024]].concat());
            assert!(judge(&bytes, &base).is_err(), "{case}");
        };
        for at in 0..members.len() {
            let mut fewer = members.clone();
            let taken = fewer.remove(at);
            refused(&fewer, &format!("member {at} is missing"));
            fewer.splice(at..at, [taken, taken]);
            refused(&fewer, &format!("member {at} is there twice"));
            if at > 0 {
                let mut swapped = members.clone();
                swapped.swap(at - 1, at);
                refused(&swapped, &format!("member {at} is early"));
            }
        }

        let mut escape = members.clone();
        let outside = member::own_header("../../etc/passwd", 0);
        escape.push(&outside);
        refused(&escape, "a member more");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    for more in [&pack(&[0; 512])[..], b"garbage", &[0; 10], &bytes] {
        assert!(judge(&[&bytes[..], more].concat(), &base).is_err());
    }

    let first = read_listing(&bytes, FrameCompression::Zstd, &ArchiveLimits::default());
    assert!(
        matches!(first, Err(ArchiveError::Trailing)),
        "the whole archive is not its first frame"
    );
}

#[test]
fn unknown_format_is_refused_first() {
    let text = b"format = 3\nwonder = true\n";
    let mut raw = member::own_header("header.toml", text.len() as u64);
    raw.extend_from_slice(text);
    raw.resize(1024, 0);

    let error = read_listing(&pack(&raw), FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");
    assert!(matches!(error, ArchiveError::UnknownFormat(3)));
}

#[test]
fn oversized_member_is_refused_before_reading() {
    let raw = member::own_header("header.toml", 1 << 30);

    let error = read_listing(&pack(&raw), FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");
    let is_too_large = matches!(error, ArchiveError::Member { defect: MemberDefect::TooLarge, .. });
    assert!(is_too_large, "{error}");
}

#[test]
fn decompression_bomb_is_refused() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("compresses");
    for _ in 0..256 {
        encoder.write_all(&vec![0; 1 << 20]).expect("compresses");
    }
    let bomb = encoder.finish().expect("compresses");

    let start = std::time::Instant::now();
    assert!(matches!(judge(&[&bytes[..], &bomb].concat(), &base), Err(ArchiveError::Trailing)));
    assert!(judge(&bomb, &base).is_err());
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn oversized_window_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("compresses");
    encoder.window_log(27).expect("a large window");
    encoder.write_all(&[0; 4096]).expect("compresses");
    encoder.flush().expect("compresses");
    let bytes = encoder.finish().expect("compresses");
    let error = read_listing(&bytes, FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");

    assert!(matches!(error, ArchiveError::Io(_)), "{error}");
}

/// Checks that a listing is refused after a change that the writer never makes.
fn assert_refused(good: &Listing, case: &str, change: &dyn Fn(&mut ListingParts)) {
    let header = good.header();
    let mut parts = ListingParts {
        image: header.image.clone(),
        base: header.base,
        target: header.target,
        mode: DeltaMode::WithDeltas,
        removed: good.removed().to_vec(),
        changed: good.changed().to_vec(),
        known: good.known().to_vec(),
        groups: good.groups().to_vec(),
    };
    change(&mut parts);
    assert!(Listing::new(parts).is_err(), "{case}");
}

fn valid_listing() -> Listing {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    judge(&bytes, &base).expect("the archive is good")
}

#[test]
fn listings_that_contradict_themselves_are_refused() {
    let good = valid_listing();

    assert_refused(&good, "a group without targets", &|p| p.groups[0].targets.clear());
    assert_refused(&good, "a group without sources", &|p| p.groups[0].sources.clear());
    assert_refused(&good, "a group out of order", &|p| p.groups[0].number = 1);
    assert_refused(&good, "a patch too large", &|p| p.groups[0].patch_length = u64::MAX);
    assert_refused(&good, "a source too large", &|p| p.groups[0].sources[0].size = u64::MAX);
    assert_refused(&good, "sources whose sum overflows", &|p| {
        let mut more = p.groups[0].sources[0].clone();
        more.size = u64::MAX;
        p.groups[0].sources.push(more);
    });
    assert_refused(&good, "a target of another size", &|p| p.groups[0].targets[0].size += 1);
    assert_refused(&good, "a target that nothing needs", &|p| {
        p.groups[0].targets[0].digest = Digest([7; 32])
    });
    assert_refused(&good, "a target built twice", &|p| {
        let again = p.groups[0].targets[0];
        p.groups[0].targets.push(again);
    });
    assert_refused(&good, "a content known twice", &|p| {
        let again = p.known[0].clone();
        p.known.push(again);
    });
    assert_refused(&good, "a content known and built", &|p| {
        let GroupTarget { digest, size, .. } = p.groups[0].targets[0];
        p.known.push(KnownContent { digest, size, path: TreePath::root() });
        p.known.sort_by_key(|known| known.digest);
    });
    assert_refused(&good, "a stream of two targets", &|p| {
        p.groups[0].kind = Kind::Copies;
        let another = p
            .changed
            .iter()
            .filter_map(Entry::file)
            .find(|(_, digest)| *digest != p.groups[0].targets[0].digest);
        let (size, digest) = another.expect("another file");
        p.known.retain(|known| known.digest != digest);
        p.groups[0].targets.push(GroupTarget { digest, size, gzip: None });
    });
    assert_refused(&good, "a stream with a source in plain form", &|p| {
        p.groups[0].kind = Kind::Segments;
        p.groups[0].sources[0].plain = Some(1);
    });
    assert_refused(&good, "segments of two sources", &|p| {
        p.groups[0].kind = Kind::Segments;
        let more = p.groups[0].sources[0].clone();
        p.groups[0].sources.push(more);
    });
    assert_refused(&good, "a plain form too large", &|p| {
        p.groups[0].sources[0].plain = Some(u64::MAX)
    });
    assert_refused(&good, "parts whose sum overflows", &|p| {
        p.groups[0].targets[0].gzip = Some(GzipParts { corrections: 20, plain: u64::MAX });
    });
    assert_refused(&good, "corrections too large", &|p| {
        p.groups[0].targets[0].gzip = Some(GzipParts { corrections: 65_537, plain: 1 });
    });
    assert_refused(&good, "copies before their sources", &|p| {
        let mut next = p.groups[0].clone();
        p.groups[0].kind = Kind::Copies;
        next.number = 1;
        next.targets.clear();
        let another = p
            .changed
            .iter()
            .filter_map(Entry::file)
            .find(|(_, digest)| *digest != p.groups[0].targets[0].digest);
        let (size, digest) = another.expect("another file");
        p.known.retain(|known| known.digest != digest);
        next.targets.push(GroupTarget { digest, size, gzip: None });
        p.groups.push(next);
    });
}

#[test]
fn contradicting_entries_are_refused() {
    let good = valid_listing();

    assert_refused(&good, "a path both removed and changed", &|p| {
        p.removed.push(p.changed[0].clone())
    });
    assert_refused(&good, "a reserved path", &|p| {
        p.changed[0].path = TreePath::new(".si-diff/x").expect("good")
    });
    assert_refused(&good, "one digest, two sizes", &|p| {
        let mut twin = p.changed.iter().find(|e| e.file().is_some()).expect("a file").clone();
        if let Node::Leaf(Leaf { kind: LeafKind::File { size, .. }, .. }) = &mut twin.node {
            *size += 1;
        }
        p.changed.push(twin);
    });
}
