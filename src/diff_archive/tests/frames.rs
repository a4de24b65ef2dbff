//! The frame table and the frames: each is verified before it is decoded, and hostile ones are
//! refused.

use std::sync::Arc;

use super::*;
use crate::catalog::FirstFrame;
use crate::diff_archive::compression::FrameCompressor;
use crate::diff_archive::frame_table::StoredFrame;
use crate::diff_archive::limits::MAX_STORED_FRAME;

const RAW: usize = MAX_RAW_FRAME;

/// A zstd file of stored frames, those of the head first.
pub(super) fn frames_file(head: &[&[u8]], frames: &[&[u8]]) -> Vec<u8> {
    file_in(FrameCompression::Zstd, head, frames)
}

fn file_in(compression: FrameCompression, head: &[&[u8]], frames: &[&[u8]]) -> Vec<u8> {
    let listed: Vec<StoredFrame> = frames.iter().map(|frame| StoredFrame::of(frame)).collect();
    let table = FrameTable::encode(compression, &listed);
    [table, head.concat(), frames.concat()].concat()
}

/// A file of which the head and the frames hold these raw bytes.
pub(super) fn pack_frames(head: &[u8], body: &[u8], compression: FrameCompression) -> Vec<u8> {
    let compress = |raw: &[u8]| -> Vec<Vec<u8>> {
        raw.chunks(RAW).map(|raw| stored(raw, compression)).collect()
    };
    let (head, body) = (compress(head), compress(body));
    file_in(compression, &slices(&head), &slices(&body))
}

fn slices(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

fn stored(raw: &[u8], compression: FrameCompression) -> Vec<u8> {
    FrameCompressor::new(compression).compress(raw, 1).expect("compresses")
}

/// All raw bytes after the head, or the first error.
fn read(bytes: &[u8], compression: FrameCompression) -> Result<Vec<u8>, String> {
    let mut file = framed(bytes, compression);
    let head = FrameHead::read(&mut file).map_err(|fault| fault.to_string())?;
    let mut raw = Vec::new();
    VerifiedFrames::new(file.bytes, Arc::clone(head.table()), compression)
        .read_to_end(&mut raw)
        .map_err(|error| error.to_string())?;
    Ok(raw)
}

fn samples(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|number| noise(u32::from(number) + 1, 3000)).collect()
}

fn sample_file(raws: &[Vec<u8>], compression: FrameCompression) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = raws.iter().map(|raw| stored(raw, compression)).collect();
    file_in(compression, &[], &slices(&frames))
}

#[test]
fn no_frame_is_decoded_before_its_digest_is_right() {
    for compression in FrameCompression::ALL {
        let raws = samples(6);
        let bytes = sample_file(&raws, compression);
        let mut file = framed(&bytes, compression);
        let head = FrameHead::read(&mut file).expect("reads");

        for number in 0..raws.len() {
            let (offset, length) = head.table().range(number..number + 1).expect("a frame");
            for at in [offset, offset + length / 2, offset + length - 1] {
                let mut damaged = bytes.clone();
                damaged[at as usize] ^= 4;
                let stored = &damaged[head.table().head_length() as usize..];
                let before = decoded_frames();
                let mut raw = Vec::new();

                let error = VerifiedFrames::new(stored, Arc::clone(head.table()), compression)
                    .read_to_end(&mut raw)
                    .expect_err("it is damaged");

                assert_eq!(decoded_frames() - before, number as u64, "frame {number}, byte {at}");
                assert_eq!(raw, raws[..number].concat());
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                let fault = error.into_inner().and_then(|error| error.downcast().ok());
                let fault = fault.map(|fault: Box<FrameFault>| *fault);
                assert!(matches!(fault, Some(FrameFault::Digest(wrong)) if wrong == number));
            }
        }
    }
}

#[test]
fn head_of_catalog_is_compared_before_it_is_decoded() {
    let (base, target) = rich_pair();
    let (bytes, written) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
    let other = FirstFrame { sha256: Digest([7; 32]), ..written.first_frame };
    let longer = FirstFrame { length: written.size + 1, ..written.first_frame };
    let huge = FirstFrame { length: MAX_FRAME_HEAD + 1, ..written.first_frame };
    let before = decoded_frames();

    for head in [other, longer, huge] {
        let file = FramedFile { head: Some(head), ..framed(&bytes, FrameCompression::Zstd) };
        assert!(Reader::open(file, &ArchiveLimits::default()).is_err(), "{head:?}");
    }
    assert_eq!(decoded_frames(), before);
}

#[test]
fn frames_of_every_size_round_trip() {
    for compression in FrameCompression::ALL {
        for raws in [vec![], vec![vec![1]], vec![noise(1, RAW), noise(2, 1), vec![0; RAW]]] {
            let bytes = sample_file(&raws, compression);
            assert!(read(&bytes, compression).expect("reads") == raws.concat());
            assert!(unpacked(&bytes, compression) == raws.concat(), "plain programs read it");
        }
    }
}

#[test]
fn table_of_many_frames_is_divided_among_gzip_members() {
    for compression in FrameCompression::ALL {
        for count in [1818, 1819, 1820, 1821, 3640, 3700] {
            let frame = stored(b"x", compression);
            let bytes = file_in(compression, &[], &vec![&frame[..]; count]);

            assert_eq!(read(&bytes, compression).expect("reads").len(), count);
            assert_eq!(unpacked(&bytes, compression).len(), count);
            let table = bytes.len() - count * frame.len();
            let length = FrameTable::encoded_length(compression, count as u64);
            assert_eq!(length, Some(table as u64));
        }
    }
}

#[test]
fn frame_that_breaks_the_format_is_refused() {
    for compression in FrameCompression::ALL {
        let one = stored(&[1; 100], compression);
        let two = [&one[..], &one].concat();
        let (too_long, empty) = (stored(&vec![0; RAW + 1], compression), stored(&[], compression));
        let padded = [&one[..], b"\0"].concat();
        let cases: [(&str, &[u8]); 6] = [
            ("1 MiB and a byte", &too_long),
            ("nothing", &empty),
            ("two frames", &two),
            ("bytes after it", &padded),
            ("cut off", &one[..one.len() - 1]),
            ("no frame", b"neither zstd nor gzip"),
        ];

        for (case, frame) in cases {
            let bytes = file_in(compression, &[], &[&one, frame]);
            let error = read(&bytes, compression).expect_err(case);
            assert!(error.starts_with("frame 1 "), "{case}: {error}");
        }
    }

    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0][..], b"x"].concat();
    assert!(read(&frames_file(&[], &[&skippable]), FrameCompression::Zstd).is_err());
}

#[test]
fn table_that_lies_is_refused_without_decoding() {
    let before = decoded_frames();
    for compression in FrameCompression::ALL {
        let frame = stored(&[1; 100], compression);
        let listed = StoredFrame::of(&frame);
        let file = |frames: &[StoredFrame]| {
            [FrameTable::encode(compression, frames), frame.clone()].concat()
        };
        let with = |length| file(&[StoredFrame { length, ..listed }]);
        let good = file(&[listed]);
        let cases = [
            ("length 0", with(0)),
            ("a byte too long", with(listed.length + 1)),
            ("longer than a frame", with(MAX_STORED_FRAME + 1)),
            ("the longest length", with(u32::MAX)),
            ("a frame that is not there", file(&[listed, listed])),
            ("lengths beyond the file", file(&vec![with_length(listed, MAX_STORED_FRAME); 5000])),
            ("a table of another version", replaced(&good, b"siF\x01", b"siF\x02")),
            ("no table", replaced(&good, b"siF\x01", b"six\x01")),
            (
                "more frames than any head",
                replaced(&good, b"siF\x01\x01\0\0\0", b"siF\x01\xff\xff\xff\xff"),
            ),
            (
                "one frame more in the count",
                replaced(&good, b"siF\x01\x01\0\0\0", b"siF\x01\x02\0\0\0"),
            ),
            (
                "one frame less in the count",
                replaced(&good, b"siF\x01\x01\0\0\0", b"siF\x01\0\0\0\0"),
            ),
            ("no frames at all", frame.clone()),
            ("nothing", Vec::new()),
        ];

        for (case, bytes) in cases {
            assert!(read(&bytes, compression).is_err(), "{case}, {compression:?}");
        }
        let table = good.len() - frame.len();
        for length in 0..table {
            assert!(read(&good[..length], compression).is_err(), "table cut to {length}");
        }
    }
    assert_eq!(decoded_frames(), before);
}

fn with_length(frame: StoredFrame, length: u32) -> StoredFrame {
    StoredFrame { length, ..frame }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn other_forms_of_gzip_tables_are_refused() {
    let good = sample_file(&samples(2), FrameCompression::Gzip);
    assert!(read(&good, FrameCompression::Gzip).is_ok());

    // Flags, time, system, length of the extra field, id and length of the subfield, the end.
    for at in (3..16).chain(96..106) {
        for value in [0, 1, 8, 0x1c, 0xff] {
            let mut other = good.clone();
            if std::mem::replace(&mut other[at], value) != value {
                assert!(read(&other, FrameCompression::Gzip).is_err(), "byte {at} is {value}");
            }
        }
    }
}

#[test]
fn frame_number_and_offset_are_found_in_adjacent_frames() {
    let raws = [noise(1, 500), noise(2, RAW), noise(3, RAW), noise(4, 700), noise(5, 100)];
    let bytes = sample_file(&raws, FrameCompression::Zstd);
    let head = FrameHead::read(&mut framed(&bytes, FrameCompression::Zstd)).expect("reads");
    let open = |frames: std::ops::Range<usize>| {
        let (offset, length) = head.table().range(frames.clone()).expect("frames");
        let stored = &bytes[offset as usize..][..length as usize];
        let table = Arc::clone(head.table());
        VerifiedFrames::part(stored, table, frames, FrameCompression::Zstd)
    };
    let mut found = [0; 50];

    let mut frames = open(1..5);
    assert!(frames.move_to(1, 512).expect("is there"));
    frames.read_exact(&mut found).expect("reads");
    assert_eq!(found, raws[1][512..562]);
    assert!(frames.move_to(1, 2 * RAW as u64 + 10).expect("spans frames"));
    frames.read_exact(&mut found).expect("reads");
    assert_eq!(found, raws[3][10..60]);
    assert!(!frames.move_to(1, 0).expect("was passed"));
    assert!(!frames.move_to(3, 59).expect("was passed"));
    assert!(frames.move_to(4, 0).expect("is there"));
    frames.read_exact(&mut found).expect("reads");
    assert_eq!(found, raws[4][..50]);
    assert!(frames.move_to(4, 101).is_err(), "beyond the end");

    let before = decoded_frames();
    assert!(open(0..5).move_to(4, 100).expect("is there"));
    assert_eq!(decoded_frames() - before, 1, "frames that are passed are not decoded");
    assert!(open(0..5).move_to(0, u64::MAX).is_err());
    assert!(head.table().range(0..6).is_none());
}

#[test]
fn diff_of_metadata_alone_is_its_head() {
    let (mut old, mut new) = (TreeBuilder::default(), TreeBuilder::default());
    old.file(b"f", meta(0o644, 1, 0), b"x");
    new.file(b"f", meta(0o600, 1, 0), b"x");
    let (base, target) = (old.tree(), new.tree());

    for compression in FrameCompression::ALL {
        let (bytes, written) = build(&base, &target, DeltaMode::WithDeltas, compression);
        assert_eq!(written.first_frame.length, written.size);
        let head = FrameHead::read(&mut framed(&bytes, compression)).expect("reads");
        assert_eq!(head.table().count(), 0);
    }
    check_pair(&base, &target);
}

#[test]
fn end_of_archive_is_in_last_frame_unless_it_is_full() {
    for (size, frames) in [(RAW - 512, 2), (RAW - 511, 2), (RAW - 1536, 1), (RAW - 1535, 2)] {
        let mut new = TreeBuilder::default();
        new.file(b"f", meta(0o644, 1, 0), &noise(1, size));
        let mut old = TreeBuilder::default();
        old.file(b"g", meta(0o644, 1, 0), b"");
        let (base, target) = (old.tree(), new.tree());

        let (bytes, _) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);
        let head = FrameHead::read(&mut framed(&bytes, FrameCompression::Zstd)).expect("reads");
        assert_eq!(head.table().count(), frames, "{size}");
        check_pair_in(&base, &target, &[FrameCompression::Zstd]);
    }
}

#[test]
fn full_archive_has_small_frames() {
    let mut builder = TreeBuilder::default();
    for number in 0..100u32 {
        let content = noise(number + 1, 10_000);
        builder.file(format!("f{number:03}").as_bytes(), meta(0o644, 1, 0), &content);
    }
    let tree = builder.tree();

    let (bytes, written) = build_full(&tree, FrameCompression::Zstd);

    let head = FrameHead::read(&mut framed(&bytes, FrameCompression::Zstd)).expect("reads");
    assert_eq!(head.table().count(), 12, "each holds nine files");
    assert_eq!(head.table().head_length(), written.first_frame.length);
    check_locations(&bytes, FrameCompression::Zstd, &written, &tree);
}
