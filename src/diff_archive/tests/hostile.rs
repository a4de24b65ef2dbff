//! Hostile archives: each is refused; none panics or takes more memory than the limits allow.

use std::io::Write;

use super::frames::{frames_file, pack_frames};
use super::*;
use crate::delta::Kind;
use crate::entry::{Leaf, Node};
use crate::replay::file::Forms;

fn pack(raw: &[u8]) -> Vec<u8> {
    let (listing, members) = raw.split_at(listing_length(raw));
    pack_frames(listing, members, FrameCompression::Zstd)
}

/// Length of the first four members of a tar archive, or of all bytes if they are none.
pub(super) fn listing_length(raw: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..4 {
        let Some(block) = raw.get(at..at + 512) else { return raw.len() };
        let size = tar::Header::from_byte_slice(block).entry_size().unwrap_or(0);
        let length = usize::try_from(size).unwrap_or(usize::MAX / 2).saturating_add(511) / 512;
        at = at.saturating_add(512).saturating_add(length.saturating_mul(512));
    }
    at.min(raw.len())
}

/// All checks of a node.
fn judge(bytes: &[u8], base: &MemoryTree) -> Result<Listing, ArchiveError> {
    let file = framed(bytes, FrameCompression::Zstd);
    let listing = verify_diff(file, &ArchiveLimits::default(), Some(base), &Silent)?;
    listing.target_of(&base.manifest)?;
    Ok(listing)
}

pub(super) fn small_pair() -> (MemoryTree, MemoryTree) {
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
        for compression in FrameCompression::ALL {
            let (bytes, _) = build(&base, &target, mode, compression);
            for length in 0..bytes.len() {
                // The size may be that of the rest, or the one that a catalog states.
                for size in [length, bytes.len()] {
                    let cut = framed(&bytes[..length], compression);
                    let cut = FramedFile { size: size as u64, ..cut };
                    let result = verify_diff(cut, &ArchiveLimits::default(), Some(&base), &Silent);
                    assert!(result.is_err(), "cut to {length} of {}", bytes.len());
                }
            }
        }
    }
}

#[test]
fn flipped_bit_is_detected() {
    let (base, target) = small_pair();
    for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
        let (bytes, _) = build(&base, &target, mode, FrameCompression::Zstd);
        let good = judge(&bytes, &base).expect("the archive is good");
        let raw = unpacked(&bytes, FrameCompression::Zstd);

        // Of a patch only the output is checked.
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
fn damaged_byte_of_archive_is_refused() {
    let (base, target) = small_pair();
    for compression in FrameCompression::ALL {
        let (bytes, written) = build(&base, &target, DeltaMode::WithDeltas, compression);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let verify = |head| {
                let file = FramedFile { head, ..framed(&damaged, compression) };
                verify_diff(file, &ArchiveLimits::default(), Some(&base), &Silent)
            };
            assert!(verify(Some(written.first_frame)).is_err(), "byte {at}");

            // Without a catalog nothing covers the head, but the frames after it are covered.
            let in_head = at < written.first_frame.length as usize;
            assert!(verify(None).is_err() || in_head, "byte {at}");
        }
    }
}

#[test]
fn members_missing_doubled_or_out_of_order_are_refused() {
    let (base, target) = rich_pair();
    for mode in [DeltaMode::WithDeltas, DeltaMode::WithoutDeltas] {
        let (bytes, _) = build(&base, &target, mode, FrameCompression::Zstd);
        let raw = unpacked(&bytes, FrameCompression::Zstd);
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
        let longer = [&bytes[..], more].concat();
        assert!(judge(&longer, &base).is_err());

        let file =
            FramedFile { size: bytes.len() as u64, ..framed(&longer, FrameCompression::Zstd) };
        let result = verify_diff(file, &ArchiveLimits::default(), Some(&base), &Silent);
        assert!(result.is_err_and(|error| error.to_string().contains("continues")));
    }

    let whole = FrameHead::from_verified(bytes.clone(), bytes.len() as u64, FrameCompression::Zstd);
    assert!(matches!(whole, Err(FrameFault::OtherSize)), "the whole archive is not its head");
    let raw = unpacked(&bytes, FrameCompression::Zstd);
    let more = pack(&[&raw[..], &[0; 512]].concat());
    assert!(matches!(judge(&more, &base), Err(ArchiveError::Trailing)));
}

#[test]
fn unknown_format_is_refused_first() {
    let text = b"format = 4\nwonder = true\n";
    let mut raw = member::own_header("header.toml", text.len() as u64);
    raw.extend_from_slice(text);
    raw.resize(1024, 0);

    let error = listing_of(&pack(&raw), FrameCompression::Zstd).expect_err("refused");
    assert!(matches!(error, ArchiveError::UnknownFormat(4)));
}

#[test]
fn oversized_member_is_refused_before_reading() {
    let raw = member::own_header("header.toml", 1 << 30);

    let error = listing_of(&pack(&raw), FrameCompression::Zstd).expect_err("refused");
    let is_too_large = matches!(error, ArchiveError::Member { defect: MemberDefect::TooLarge, .. });
    assert!(is_too_large, "{error}");
}

#[test]
fn decompression_bomb_is_refused() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    let raw = unpacked(&bytes, FrameCompression::Zstd);
    let listing = &raw[..listing_length(&raw)];
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("compresses");
    for _ in 0..256 {
        encoder.write_all(&vec![0; 1 << 20]).expect("compresses");
    }
    let bomb = encoder.finish().expect("compresses");

    let start = std::time::Instant::now();
    let in_frame = frames_file(&[&zstd::encode_all(listing, 1).expect("compresses")], &[&bomb]);
    let in_head = frames_file(&[&bomb], &[]);
    for bytes in [in_frame, in_head] {
        let error = judge(&bytes, &base).expect_err("refused");
        assert!(error.to_string().contains("cannot be decompressed"), "{error}");
    }
    assert!(start.elapsed().as_secs() < 5);
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
        p.groups[0].targets.push(GroupTarget { digest, size, rebuilt: None });
    });
    assert_refused(&good, "a stream with a source in plain form", &|p| {
        p.groups[0].kind = Kind::Segments;
        p.groups[0].sources[0].plain = Some(PlainForm { length: 1, container: Container::Gzip });
    });
    assert_refused(&good, "segments of two sources", &|p| {
        p.groups[0].kind = Kind::Segments;
        let more = p.groups[0].sources[0].clone();
        p.groups[0].sources.push(more);
    });
    assert_refused(&good, "a plain form too large", &|p| {
        p.groups[0].sources[0].plain =
            Some(PlainForm { length: u64::MAX, container: Container::Gzip })
    });
    assert_refused(&good, "parts whose sum overflows", &|p| {
        p.groups[0].targets[0].rebuilt =
            Some(RebuiltParts::Gzip(GzipParts { corrections: 20, plain: u64::MAX }));
    });
    assert_refused(&good, "corrections too large", &|p| {
        p.groups[0].targets[0].rebuilt =
            Some(RebuiltParts::Gzip(GzipParts { corrections: 65_537, plain: 1 }));
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
        next.targets.push(GroupTarget { digest, size, rebuilt: None });
        p.groups.push(next);
    });
}

#[test]
fn decisions_that_contradict_their_targets_are_refused() {
    let good = valid_listing();
    let replayed = |length| PlainForm {
        length,
        container: Container::Replayed(Forms { xz: true, zstd: false }),
    };

    assert_refused(&good, "a decision stream that no target needs", &|p| {
        p.groups[0].decisions = 1;
    });
    assert_refused(&good, "a replayed target without a decision stream", &|p| {
        p.groups[0].targets[0].rebuilt = Some(RebuiltParts::Replayed(replayed(1)));
    });
    assert_refused(&good, "a decision stream longer than its patch", &|p| {
        p.groups[0].targets[0].rebuilt = Some(RebuiltParts::Replayed(replayed(1)));
        p.groups[0].decisions = p.groups[0].patch_length + 1;
    });
    assert_refused(&good, "a plain form to be replayed that is too large", &|p| {
        p.groups[0].targets[0].rebuilt = Some(RebuiltParts::Replayed(replayed(u64::MAX)));
        p.groups[0].decisions = 1;
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
