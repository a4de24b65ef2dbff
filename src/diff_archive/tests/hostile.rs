//! Archives that lie: every one is refused, none panics or grows beyond its claims.

use std::io::Write;

use super::*;
use crate::delta::Kind;
use crate::entry::{Leaf, Node};

fn raw(bytes: &[u8], compression: FrameCompression) -> Vec<u8> {
    let mut raw = Vec::new();
    Decoder::new(compression, bytes).expect("opens").read_to_end(&mut raw).expect("decompresses");
    raw
}

fn pack(raw: &[u8]) -> Vec<u8> {
    zstd::encode_all(raw, 1).expect("compresses")
}

/// Everything that a node checks.
fn judge(bytes: &[u8], base: &Tree) -> Result<Listing, ArchiveError> {
    let listing =
        verify_diff(bytes, FrameCompression::Zstd, &ArchiveLimits::default(), Some(base), &Silent)?;
    listing.target_of(&base.manifest)?;
    Ok(listing)
}

fn small_pair() -> (Tree, Tree) {
    let (mut old, mut new) = (Builder::default(), Builder::default());
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

/// The members of a tar archive without its end: extended headers stay with what follows them.
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
fn a_cut_archive_is_refused_wherever_it_is_cut() {
    let (base, target) = small_pair();
    for deltas in [true, false] {
        let (bytes, _) = build(&base, &target, deltas, FrameCompression::Zstd);
        for length in 0..bytes.len() {
            assert!(judge(&bytes[..length], &base).is_err(), "cut to {length} of {}", bytes.len());
        }
        let (bytes, _) = build(&base, &target, deltas, FrameCompression::Gzip);
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
fn a_flipped_bit_is_found_wherever_it_is() {
    let (base, target) = small_pair();
    for deltas in [true, false] {
        let (bytes, _) = build(&base, &target, deltas, FrameCompression::Zstd);
        let good = judge(&bytes, &base).expect("the archive is good");
        let raw = raw(&bytes, FrameCompression::Zstd);
        // zstd ignores a bit of a frame's header; what a patch makes is checked, not its spelling.
        let patch = good
            .groups()
            .last()
            .map_or(0, |group| group.patch_length.next_multiple_of(512) as usize);
        let end = raw.len() - 1024;
        for at in (0..end - patch).chain(end..raw.len()) {
            let mut damaged = raw.clone();
            damaged[at] ^= 1 << (at % 8);
            let Ok(listing) = judge(&pack(&damaged), &base) else { continue };
            // The name of the image is checked by who asked for it, and a path in `sources` is a hint.
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
fn damage_of_compressed_bytes_never_panics() {
    let (base, target) = small_pair();
    for compression in FrameCompression::ALL {
        let (bytes, _) = build(&base, &target, true, compression);
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
    for deltas in [true, false] {
        let (bytes, _) = build(&base, &target, deltas, FrameCompression::Zstd);
        let raw = raw(&bytes, FrameCompression::Zstd);
        let members = members(&raw);
        let refused = |members: &[&[u8]], what: &str| {
            let bytes = pack(&[&members.concat()[..], &[0; 1024]].concat());
            assert!(judge(&bytes, &base).is_err(), "{what}");
        };
        for at in 0..members.len() {
            let mut fewer = members.clone();
            let taken = fewer.remove(at);
            refused(&fewer, &format!("member {at} is missing"));
            fewer.splice(at..at, [taken, taken]);
            refused(&fewer, &format!("member {at} comes twice"));
            if at > 0 {
                let mut swapped = members.clone();
                swapped.swap(at - 1, at);
                refused(&swapped, &format!("member {at} comes early"));
            }
        }
        let mut escape = members.clone();
        let outside = member::own_header("../../etc/passwd", 0);
        escape.push(&outside);
        refused(&escape, "a member more");
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, true, FrameCompression::Zstd);
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
fn an_unknown_format_is_refused_whatever_else_it_holds() {
    let text = b"format = 2\nwonder = true\n";
    let mut raw = member::own_header("header.toml", text.len() as u64);
    raw.extend_from_slice(text);
    raw.resize(1024, 0);
    let error = read_listing(&pack(&raw), FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");
    assert!(matches!(error, ArchiveError::UnknownFormat(2)));
}

#[test]
fn a_size_beyond_the_limits_is_refused_before_it_is_read() {
    let raw = member::own_header("header.toml", 1 << 30);
    let error = read_listing(&pack(&raw), FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");
    assert!(error.to_string().contains("larger than it may be"), "{error}");
}

#[test]
fn a_bomb_of_zeros_is_not_unpacked() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, true, FrameCompression::Zstd);
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
fn a_window_beyond_the_limit_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("compresses");
    encoder.window_log(27).expect("a large window");
    encoder.write_all(&[0; 4096]).expect("compresses");
    encoder.flush().expect("compresses");
    let bytes = encoder.finish().expect("compresses");
    let error = read_listing(&bytes, FrameCompression::Zstd, &ArchiveLimits::default())
        .expect_err("refused");
    assert!(matches!(error, ArchiveError::Io(_)), "{error}");
}

/// Listings that the writer would never make: each is put together by hand.
#[test]
fn listings_that_contradict_themselves_are_refused() {
    let (base, target) = small_pair();
    let (bytes, _) = build(&base, &target, true, FrameCompression::Zstd);
    let good = judge(&bytes, &base).expect("the archive is good");
    type Parts = (Vec<Entry>, Vec<Entry>, Vec<KnownContent>, Vec<DeltaGroup>);
    let refused = |what: &str, change: &dyn Fn(&mut Parts)| {
        let mut parts: Parts = (
            good.removed().to_vec(),
            good.changed().to_vec(),
            good.known().to_vec(),
            good.groups().to_vec(),
        );
        change(&mut parts);
        let header = good.header();
        let names = (header.image.clone(), header.base, header.target);
        let result = Listing::new(names, true, parts.0, parts.1, parts.2, parts.3);
        assert!(result.is_err(), "{what}");
    };
    refused("a group without targets", &|p| p.3[0].targets.clear());
    refused("a group without sources", &|p| p.3[0].sources.clear());
    refused("a group out of order", &|p| p.3[0].number = 1);
    refused("a patch too large", &|p| p.3[0].patch_length = u64::MAX);
    refused("a source too large", &|p| p.3[0].sources[0].size = u64::MAX);
    refused("sources whose sum overflows", &|p| {
        let mut more = p.3[0].sources[0].clone();
        more.size = u64::MAX;
        p.3[0].sources.push(more);
    });
    refused("a target of another size", &|p| p.3[0].targets[0].size += 1);
    refused("a target that nothing needs", &|p| p.3[0].targets[0].digest = Digest([7; 32]));
    refused("a target made twice", &|p| {
        let again = p.3[0].targets[0];
        p.3[0].targets.push(again);
    });
    refused("a content known twice", &|p| {
        let again = p.2[0].clone();
        p.2.push(again);
    });
    refused("a content known and made", &|p| {
        let GroupTarget { digest, size, .. } = p.3[0].targets[0];
        p.2.push(KnownContent { digest, size, path: TreePath::root() });
        p.2.sort_by_key(|known| known.digest);
    });
    refused("a stream of two targets", &|p| {
        p.3[0].kind = Kind::Copies;
        let another =
            p.1.iter()
                .filter_map(Entry::file)
                .find(|(_, digest)| *digest != p.3[0].targets[0].digest);
        let (size, digest) = another.expect("another file");
        p.2.retain(|known| known.digest != digest);
        p.3[0].targets.push(GroupTarget { digest, size, inside: None });
    });
    refused("a stream of what is inside a source", &|p| {
        p.3[0].kind = Kind::Segments;
        p.3[0].sources[0].plain = Some(1);
    });
    refused("pieces of two sources", &|p| {
        p.3[0].kind = Kind::Segments;
        let more = p.3[0].sources[0].clone();
        p.3[0].sources.push(more);
    });
    refused("a plain form too large", &|p| p.3[0].sources[0].plain = Some(u64::MAX));
    refused("parts whose sum overflows", &|p| {
        p.3[0].targets[0].inside = Some(Inside { corrections: 20, plain: u64::MAX });
    });
    refused("corrections too large", &|p| {
        p.3[0].targets[0].inside = Some(Inside { corrections: 65_537, plain: 1 });
    });
    refused("copies before what they may copy", &|p| {
        let mut next = p.3[0].clone();
        p.3[0].kind = Kind::Copies;
        next.number = 1;
        next.targets.clear();
        let another =
            p.1.iter()
                .filter_map(Entry::file)
                .find(|(_, digest)| *digest != p.3[0].targets[0].digest);
        let (size, digest) = another.expect("another file");
        p.2.retain(|known| known.digest != digest);
        next.targets.push(GroupTarget { digest, size, inside: None });
        p.3.push(next);
    });
    refused("a path that goes and comes", &|p| p.0.push(p.1[0].clone()));
    refused("a path of the archive's own", &|p| {
        p.1[0].path = TreePath::new(".si-diff/x").expect("good")
    });
    refused("one digest, two sizes", &|p| {
        let mut twin = p.1.iter().find(|e| e.file().is_some()).expect("a file").clone();
        if let Node::Leaf(Leaf { kind: LeafKind::File { size, .. }, .. }) = &mut twin.node {
            *size += 1;
        }
        p.1.push(twin);
    });
}
