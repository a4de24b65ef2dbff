//! Frozen samples: every later version must read them. They are never edited.

use std::path::PathBuf;

use super::*;

/// Name, mode, compression and SHA-256 of each sample.
const SAMPLES: [(&str, DeltaMode, FrameCompression, &str); 4] = [
    (
        "v1-deltas.tar.zst",
        DeltaMode::WithDeltas,
        FrameCompression::Zstd,
        "eb64e50ce4e661866e15ca1b317758aa8954cc755ff2775d5e2ad44d1790e7a0",
    ),
    (
        "v1-plain.tar.zst",
        DeltaMode::WithoutDeltas,
        FrameCompression::Zstd,
        "7fc6482584ab340d544e687ba4011d336b4f7d1cc53eb4683bdfafe83a0b4fe6",
    ),
    (
        "v1-deltas.tar.gz",
        DeltaMode::WithDeltas,
        FrameCompression::Gzip,
        "35550f8bbc64ab59a66380558453a700903c94be9d1c902eb76fbc269c046f94",
    ),
    (
        "v1-plain.tar.gz",
        DeltaMode::WithoutDeltas,
        FrameCompression::Gzip,
        "96825d88e2dfa2e8c256eb3a7943c4357e9bb653c586978800a0aebc67c319db",
    ),
];

/// Diffs of [`pair_of_every_kind`], at the efforts `normal` and `best`.
const EVERY_KIND: [(&str, &str); 2] = [
    ("v1-normal.tar.zst", "81d69325ba4b093f7fd29d42832ad48376a482970c37619baec758317875197f"),
    ("v1-best.tar.zst", "cd7e5f326e640e40bfa1b7db563c85ec4dad8af1487d818df58c483bc72a1605"),
];

/// A diff without deltas that has an ACL.
const ACLS: (&str, &str) =
    ("v2-acls.tar.zst", "8736718cdbfbce25af0b0bb82f366c6910cc139363a2e0b4f663bcbba03b8c00");

/// The same of a writer that had no format 2.
const OLD_ACLS: (&str, &str) =
    ("v1-acls.tar.zst", "cba4b25ce443aaeb9da3fd24e5cfe68d2f03d011cbc1f4772054e321b1d9a706");

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/diff_archive")
}

/// The trees of the samples; they must never change.
fn pair() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) = (TreeBuilder::default(), TreeBuilder::default());
    old.file(b"lib/x-1.0", meta(0o755, 1, 0), &noise(1, 2000)).file(
        b"gone",
        meta(0o644, 1, 0),
        b"gone\n",
    );
    new.file(b"lib/x-1.1", meta(0o755, -2, 500_000_000), &[&noise(1, 2000)[..], b"more"].concat());
    new.file(b"kept elsewhere", meta(0o644, 1, 0), b"gone\n").file(
        b"new",
        meta(0o4711, 1, 0),
        b"new\n",
    );
    new.link(&[b"new", b"newer"]).put(
        b"sym",
        meta(0o777, 1, 0),
        Some(LeafKind::Symlink { target: b"new".as_slice().into() }),
    );
    (old.tree(), new.tree())
}

#[test]
fn frozen_samples_are_read() {
    let (base, target) = pair();
    for (name, mode, compression, digest) in SAMPLES {
        let bytes = std::fs::read(directory().join(name)).expect("the sample is there");
        assert_eq!(Digest::of(&bytes).to_string(), digest, "{name} has been edited");

        let listing =
            verify_diff(&bytes[..], compression, &ArchiveLimits::default(), Some(&base), &Silent)
                .expect("verifies");
        assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);
        assert_eq!(listing.header().mode(), mode);

        let contents = receive(&bytes, compression, &base);
        for (_, digest) in target.manifest.entries().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest], "{name}");
        }

        // A later compressor may write other frames, but their raw bytes must be the same.
        let unpacked = |bytes: &[u8]| {
            let mut raw = Vec::new();
            FrameDecoder::new(compression, bytes)
                .expect("opens")
                .read_to_end(&mut raw)
                .expect("decompresses");
            raw
        };
        if mode == DeltaMode::WithoutDeltas {
            assert_eq!(
                unpacked(&build(&base, &target, mode, compression).0),
                unpacked(&bytes),
                "{name}"
            );
        }
    }
}

/// Every kind of patch and every form of a target.
#[test]
fn frozen_patches_are_decoded() {
    let (base, target) = pair_of_every_kind();
    for (name, digest) in EVERY_KIND {
        let bytes = std::fs::read(directory().join(name)).expect("the sample is there");
        assert_eq!(Digest::of(&bytes).to_string(), digest, "{name} has been edited");

        let contents = receive(&bytes, FrameCompression::Zstd, &base);
        for (_, digest) in target.manifest.entries().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest], "{name}");
        }
    }
}

/// Format 2: ACLs also as text.
#[test]
fn frozen_acls_are_read_and_written() {
    let (mut base, mut target) = (TreeBuilder::default(), TreeBuilder::default());
    base.file(b"f", meta(0o664, 1, 0), b"a\n");
    let mut with_acl = meta(0o664, 1, 0);
    with_acl.xattrs.insert(crate::acl::ACCESS.into(), super::trees::ACL.into());
    target.file(b"f", with_acl, b"a\n").file(b"g", meta(0o644, 1, 0), b"b\n");
    let (base, target) = (base.tree(), target.tree());
    let (built, _) = build(&base, &target, DeltaMode::WithoutDeltas, FrameCompression::Zstd);
    let (name, digest) = ACLS;
    let bytes = std::fs::read(directory().join(name)).expect("the sample is there");
    assert_eq!(Digest::of(&bytes).to_string(), digest, "{name} has been edited");
    let unpacked = |bytes: &[u8]| zstd::decode_all(bytes).expect("decompresses");
    assert_eq!(unpacked(&bytes), unpacked(&built));
    let text = String::from_utf8_lossy(&unpacked(&bytes)).into_owned();
    assert!(text.contains("format = 2") && text.contains("SCHILY.acl.access=user::"), "{text}");

    let (zstd, limits) = (FrameCompression::Zstd, ArchiveLimits::default());
    let listing = verify_diff(&bytes[..], zstd, &limits, Some(&base), &Silent).expect("verifies");
    assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);

    // In format 1 the ACL is an attribute alone.
    let (name, digest) = OLD_ACLS;
    let bytes = std::fs::read(directory().join(name)).expect("the sample is there");
    assert_eq!(Digest::of(&bytes).to_string(), digest, "{name} has been edited");
    let listing = verify_diff(&bytes[..], zstd, &limits, None, &Silent).expect("verifies");
    assert!(
        listing.changed().iter().any(|entry| entry.meta.xattrs.contains_key(crate::acl::ACCESS))
    );
}

#[test]
fn every_sample_file_is_tested() {
    for file in std::fs::read_dir(directory()).expect("the samples are there") {
        let name = file.expect("a name").file_name();
        let mut samples =
            SAMPLES.iter().map(|(sample, ..)| *sample).chain(EVERY_KIND.map(|(sample, _)| sample));
        let mut samples = samples.by_ref().chain([ACLS.0, OLD_ACLS.0]);
        assert!(samples.any(|sample| name == *sample), "{name:?}");
    }
}
