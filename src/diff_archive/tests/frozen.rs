//! Frozen samples: every later version must read them. They are never edited.

use std::path::PathBuf;

use super::*;

/// Name, mode, compression and SHA-256 of each sample.
const SAMPLES: [(&str, DeltaMode, FrameCompression, &str); 4] = [
    (
        "v3-deltas.tar.zst",
        DeltaMode::WithDeltas,
        FrameCompression::Zstd,
        "4f0bbb66a542bff9bc81e18810ecfb83d53145f4b9675405d3e3e308a62b26b5",
    ),
    (
        "v3-plain.tar.zst",
        DeltaMode::WithoutDeltas,
        FrameCompression::Zstd,
        "e47b3862e3d05ad20d172456308cb127ed4c4d267cd547395bdace5602220c5a",
    ),
    (
        "v3-deltas.tar.gz",
        DeltaMode::WithDeltas,
        FrameCompression::Gzip,
        "64176f27889c1dadf2702371c7a2d370914787a32cae4cfb36b01a3b2ebf3511",
    ),
    (
        "v3-plain.tar.gz",
        DeltaMode::WithoutDeltas,
        FrameCompression::Gzip,
        "0488803928648f9a4f1cd3aa416c6d4da2bb5247d28a5457697a57e338c8d9dd",
    ),
];

/// Diffs of [`pair_of_every_kind`], at the efforts `normal` and `best`.
const EVERY_KIND: [(&str, &str); 2] = [
    ("v3-normal.tar.zst", "c503ee0208a87e7c429fd0ff06f4a4e00818a529c156ebb9b764855f57ed3d52"),
    ("v3-best.tar.zst", "b276bd3ff9d9153581775d2d1d8bf86b2cbe790a13eaacd86637b1f4b4671b67"),
];

/// A diff without deltas that has an ACL.
const ACLS: (&str, &str) =
    ("v3-acls.tar.zst", "e64f8e41c95091a77450610a02fcb4e67f40938f418c4dde6e13f7dbb7c33979");

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

        let listing = verify_diff(
            framed(&bytes, compression),
            &ArchiveLimits::default(),
            Some(&base),
            &Silent,
        )
        .expect("verifies");
        assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);
        assert_eq!(listing.header().mode(), mode);

        let contents = receive(&bytes, compression, &base);
        for (_, digest) in target.manifest.entries().iter().filter_map(Entry::file) {
            assert_eq!(contents[&digest], target.contents[&digest], "{name}");
        }

        // A later compressor may write other frames, but their raw bytes must be the same.
        if mode == DeltaMode::WithoutDeltas {
            assert_eq!(
                unpacked(&build(&base, &target, mode, compression).0, compression),
                unpacked(&bytes, compression),
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

/// ACLs also as text.
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
    let (zstd, limits) = (FrameCompression::Zstd, ArchiveLimits::default());
    assert_eq!(unpacked(&bytes, zstd), unpacked(&built, zstd));
    let text = String::from_utf8_lossy(&unpacked(&bytes, zstd)).into_owned();
    assert!(text.contains("acls = true") && text.contains("SCHILY.acl.access=user::"), "{text}");

    let file = framed(&bytes, zstd);
    let listing = verify_diff(file, &limits, Some(&base), &Silent).expect("verifies");
    assert_eq!(listing.target_of(&base.manifest).expect("applies"), target.manifest);
}

#[test]
fn every_sample_file_is_tested() {
    for file in std::fs::read_dir(directory()).expect("the samples are there") {
        let name = file.expect("a name").file_name();
        let mut samples =
            SAMPLES.iter().map(|(sample, ..)| *sample).chain(EVERY_KIND.map(|(sample, _)| sample));
        let mut samples = samples.by_ref().chain([ACLS.0]);
        assert!(samples.any(|sample| name == *sample), "{name:?}");
    }
}
