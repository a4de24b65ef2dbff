//! Patches of every kind, sources in cpio archives, and hostile patches.

use proptest::prelude::*;

use super::*;

/// Output of a patch that is decoded in memory.
fn decode_patch(
    kind: Kind,
    source: &[u8],
    patch: &[u8],
    length: u64,
) -> Result<Vec<u8>, DeltaError> {
    let mut output = b"of an earlier patch".to_vec();
    decode(kind, source, patch, length, &mut output).map(|()| output)
}

fn old_and_new() -> (Vec<u8>, Vec<u8>) {
    let old: Vec<u8> =
        (0..200_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();

    let mut new = old.clone();
    new[1000..1010].fill(7);
    new.splice(300_000..300_000, b"something inserted".iter().copied());
    (old, new)
}

/// Kinds that are decoded in memory.
const KINDS: [Kind; 2] = [Kind::Prefix, Kind::Operations];

#[test]
fn small_change_gives_small_patch() {
    let (old, new) = old_and_new();

    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        assert!(patch.len() < 400, "{kind}: {}", patch.len());
        assert_eq!(decode_patch(kind, &old, &patch, new.len() as u64).expect("decodes"), new);
        assert_eq!(
            encode(kind, &old, &new, Effort::Normal).expect("encodes"),
            patch,
            "the same input gives the same patch"
        );
    }
}

#[test]
fn short_pieces_are_matched_at_any_offset() {
    // The pieces are too short for long-distance matching, and too many for zstd's default tables.
    let old = noise(1, 2 << 20);
    let pieces = (0..4096usize).map(|n| n.wrapping_mul(2_654_435_761) % (old.len() - 48));
    let new: Vec<u8> = pieces.flat_map(|at| old[at..at + 48].to_vec()).collect();

    let [fast, normal] = [Effort::Fast, Effort::Normal]
        .map(|effort| encode(Kind::Prefix, &old, &new, effort).expect("encodes").len());
    assert!(normal < fast && fast < new.len() * 3 / 4, "{fast} and {normal} of {}", new.len());
}

/// Addresses that all grew by the same number: the case in which bsdiff is smaller.
#[test]
fn operations_match_moved_addresses() {
    let number = |n: u32| n.wrapping_mul(2_654_435_761) % 1_000_000;
    let old: Vec<u8> = (0..100_000u32).flat_map(|n| number(n).to_le_bytes()).collect();
    let new: Vec<u8> = (0..100_000u32).flat_map(|n| (number(n) + 65_536).to_le_bytes()).collect();

    let [prefix, operations] =
        KINDS.map(|kind| encode(kind, &old, &new, Effort::Best).expect("encodes").len());
    assert!(operations * 2 < prefix, "{operations} against {prefix}");
}

#[test]
fn wrong_length_is_refused() {
    let (old, new) = old_and_new();
    let patch = encode(Kind::Prefix, &old, &new, Effort::Normal).expect("encodes");
    let length = new.len() as u64;
    for lie in [0, 1, length - 1, length + 1, MAX_GROUP] {
        assert!(
            matches!(
                decode_patch(Kind::Prefix, &old, &patch, lie),
                Err(DeltaError::NotTheFrame(_))
            ),
            "{lie}"
        );
    }

    let operations = encode(Kind::Operations, &old, &new, Effort::Normal).expect("encodes");
    for lie in [0, 1, length - 1, length + 1, MAX_GROUP] {
        assert!(
            matches!(
                decode_patch(Kind::Operations, &old, &operations, lie),
                Err(DeltaError::Damaged(_))
            ),
            "{lie}"
        );
    }

    for kind in KINDS {
        assert!(matches!(decode_patch(kind, &old, &patch, u64::MAX), Err(DeltaError::TooLarge(_))));
    }
}

#[test]
fn wrong_number_of_frames_is_refused() {
    let (old, new) = old_and_new();
    let length = new.len() as u64;

    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        let twice = [&patch[..], &patch[..]].concat();
        for bad in [&b""[..], b"x", &patch[..patch.len() - 1], &twice] {
            assert!(decode_patch(kind, &old, bad, length).is_err());
        }
    }
}

#[test]
fn flipped_bit_never_panics_or_enlarges_output() {
    let (old, new) = old_and_new();

    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        for at in 0..patch.len() * 8 {
            let mut damaged = patch.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            if let Ok(output) = decode_patch(kind, &old, &damaged, new.len() as u64) {
                assert_eq!(output.len(), new.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_source_and_target_round_trip(
        old in prop::collection::vec(any::<u8>(), 0..3000),
        new in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        for kind in KINDS {
            for (effort, _) in Effort::ALL {
                let patch = encode(kind, &old, &new, effort).expect("encodes");
                let output = decode_patch(kind, &old, &patch, new.len() as u64);
                prop_assert_eq!(&output.expect("decodes"), &new);
            }
        }
    }
}

#[test]
fn empty_source_is_accepted() {
    for kind in KINDS {
        for new in [&b""[..], b"all bytes are new"] {
            let patch = encode(kind, b"", new, Effort::Normal).expect("encodes");
            assert_eq!(decode_patch(kind, b"", &patch, new.len() as u64).expect("decodes"), new);
        }
    }
}

/// Output of a patch of the kind `copies` with `old` as file 0.
fn read_copies(old: &[u8], patch: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let open = |number: usize| match number {
        0 => Ok(Box::new(old) as Box<dyn ReadAt>),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let mut copies = Copies::new(patch, length, open).map_err(io::Error::other)?;
    let mut output = Vec::new();
    // The reader never yields more than `length` bytes.
    io::Read::read_to_end(&mut copies, &mut output)?;
    assert_eq!(output.len() as u64, length);
    Ok(output)
}

#[test]
fn blocks_of_old_file_are_copied() {
    let (old, mut new) = old_and_new();
    new.extend_from_slice(b"appended");

    let signature = blocks::Signature::read(&old, old.len() as u64).expect("reads");
    let mut writer = CopiesWriter::new(3).expect("begins");
    blocks::diff(&signature, &new[..], &mut writer).expect("finds");
    let patch = writer.finish().expect("ends").expect("is small");

    assert!(patch.len() < 12_000, "{}", patch.len());
    assert_eq!(read_copies(&old, &patch, new.len() as u64).expect("reads"), new);
}

/// Output of a patch of the kind `segments`.
fn read_segments(old: &[u8], patch: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut buffers = (b"of an earlier patch".to_vec(), b"of another".to_vec());
    let buffers = (&mut buffers.0, &mut buffers.1);
    io::Read::read_to_end(&mut Segments::new(patch, length, Box::new(old), buffers), &mut output)?;
    assert_eq!(output.len() as u64, length);
    Ok(output)
}

#[test]
fn large_file_is_built_in_segments() {
    let old: Vec<u8> = (0..2_600_000u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes())
        .collect();
    let mut new = old.clone();
    new.splice(5_000_000..5_000_000, (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 5) as u8));
    new.truncate(new.len() - 1_000_000);

    let patch = encode_segments(&old, old.len() as u64, &new[..], new.len() as u64, Effort::Normal)
        .expect("encodes")
        .expect("is small");
    assert!(patch.len() < 350_000, "{}", patch.len());
    assert!(read_segments(&old, &patch, new.len() as u64).expect("decodes") == new);

    for lie in [0, 1, new.len() as u64 - 1, new.len() as u64 + 1, u64::MAX] {
        assert!(read_segments(&old, &patch, lie).is_err(), "{lie}");
    }
    assert!(
        read_segments(&old[..1_000_000], &patch, new.len() as u64).is_err(),
        "its source is shorter"
    );

    let mut random = 7usize;
    for _ in 0..200 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = patch.clone();
        let at = random >> 8;
        damaged[at % patch.len()] ^= 1 << (random % 8);
        let _ = read_segments(&old, &damaged, new.len() as u64);
    }

    let empty = encode_segments(&old, old.len() as u64, io::empty(), 0, Effort::Normal)
        .expect("encodes")
        .expect("is small");
    assert!(read_segments(&old, &empty, 0).expect("decodes").is_empty());
    assert_eq!((segments_memory(&patch), segments_memory(&empty)), (6 << 20, 0));
    assert_eq!(segments_memory(&patch[..patch.len() / 2]), 6 << 20, "up to the damage");
}

#[test]
fn segment_beyond_limits_is_refused() {
    let old = noise(3, 100);
    let piece = |stretch: u64, frame: &[u8]| {
        let mut patch = Vec::new();
        for number in [0, stretch, frame.len() as u64] {
            varint::put(&mut patch, number);
        }
        [&patch[..], frame].concat()
    };
    let frame = |length: usize| zstd::bulk::compress(&vec![7; length], 1).expect("compresses");

    let most = 4 << 20;
    assert_eq!(
        read_segments(&old, &piece(100, &frame(most)), most as u64).expect("decodes"),
        vec![7; most]
    );

    let mut silent = zstd::Encoder::new(Vec::new(), 1).expect("encodes");
    io::Write::write_all(&mut silent, b"a frame without a content size").expect("writes");
    let silent = silent.finish().expect("finishes");

    for (patch, length, defect) in [
        (piece(100, &frame(most + 1)), most + 1, PatchDefect::SegmentLength),
        (piece(100, &frame(0)), 1, PatchDefect::SegmentLength),
        (piece(100, &silent), 30, PatchDefect::SegmentLength),
        (piece((8 << 20) + 1, &frame(1)), 1, PatchDefect::LongRange),
        (piece(101, &frame(1)), 1, PatchDefect::SegmentOutsideSource),
        (piece(100, &frame(2)), 1, PatchDefect::LongOutput),
    ] {
        let error = read_segments(&old, &patch, length as u64).expect_err("refused");
        let found = error.get_ref().and_then(|error| error.downcast_ref::<DeltaError>());
        assert!(matches!(found, Some(DeltaError::Damaged(found)) if *found == defect), "{error}");
        assert!(segments_memory(&patch) <= 12 << 20);
    }
}

#[test]
fn hostile_copies_are_refused() {
    let old = vec![7; 1000];
    let patch = |write: &dyn Fn(&mut CopiesWriter) -> io::Result<()>| {
        let mut writer = CopiesWriter::new(3).expect("begins");
        write(&mut writer).expect("writes");
        writer.finish().expect("ends").expect("is small")
    };
    let good = patch(&|w| w.add_copy(0, 500, 500).and_then(|()| w.add_literal(b"x")));
    assert_eq!(read_copies(&old, &good, 501).expect("reads").len(), 501);
    for length in [0, 500, 502] {
        assert!(read_copies(&old, &good, length).is_err(), "{length}");
    }

    for (case, bad) in [
        ("another file", patch(&|w| w.add_copy(1, 0, 10))),
        ("after the end", patch(&|w| w.add_copy(0, 995, 10))),
        ("far outside", patch(&|w| w.add_copy(0, u64::MAX - 3, 10))),
        ("no output, repeatedly", patch(&|w| (0..10).try_for_each(|_| w.add_copy(0, 0, 0)))),
        ("too much", patch(&|w| w.add_copy(0, 0, 11))),
        (
            "a second frame",
            [patch(&|w| w.add_copy(0, 0, 10)), patch(&|w| w.add_copy(0, 0, 10))].concat(),
        ),
    ] {
        assert!(read_copies(&old, &bad, 10).is_err(), "{case}");
    }

    for at in 0..good.len() * 8 {
        let mut damaged = good.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let _ = read_copies(&old, &damaged, 501);
    }
}

/// A member of a cpio archive (newc).
pub(crate) fn cpio_member(name: &str, content: &[u8]) -> Vec<u8> {
    let numbers = [1, 0o100644, 0, 0, 1, 7, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut bytes = b"070701".to_vec();
    numbers.iter().for_each(|number| bytes.extend_from_slice(format!("{number:08X}").as_bytes()));
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn files_in_concatenated_archives_are_copied() {
    let file: Vec<u8> = old_and_new().0;
    let odd = &file[..1001];
    let archive = |name, content: &[u8]| {
        [cpio_member(name, content), cpio_member("TRAILER!!!", b"")].concat()
    };
    let mut first = archive("kernel/x86/microcode", odd);
    first.resize(first.len().next_multiple_of(512), 0);

    for (case, plain, copies) in [
        ("one", archive("usr/lib/x.ko", &file), 1),
        ("two", [first.clone(), archive("usr/lib/x.ko", &file)].concat(), 2),
        ("none", file.clone(), 0),
        ("cut off", archive("usr/lib/x.ko", &file)[..100_000].to_vec(), 0),
        ("nothing", Vec::new(), 0),
        ("archive after other bytes", [&b"\x1f\x8b12"[..], &first, b"more"].concat(), 1),
    ] {
        let mut writer = CopiesWriter::new(3).expect("begins");
        let mut found = 0;
        let known = |digest: &crate::digest::Digest| {
            let number = [&file[..], odd]
                .iter()
                .position(|known| crate::digest::Digest::of(known) == *digest)?;
            found += 1;
            Some((number, 0))
        };
        cpio::split(&plain[..], known, &mut writer).expect("reads");

        assert_eq!(found, copies, "{case}");

        let patch = writer.finish().expect("ends").expect("is small");
        let open = |number: usize| Ok(Box::new([&file[..], odd][number]) as Box<dyn ReadAt>);
        let mut output = Vec::new();
        let mut reader = Copies::new(&patch, plain.len() as u64, open).expect("begins");
        io::Read::read_to_end(&mut reader, &mut output).expect("reads");
        assert!(output == plain, "{case}");
    }
}

#[test]
fn front_of_initrd_has_offsets_of_members() {
    let (one, two) = (noise(5, 3001), noise(6, 20));
    let mut plain = [
        cpio_member("GenuineIntel.bin", &one),
        cpio_member("empty", b""),
        cpio_member("TRAILER!!!", b""),
    ]
    .concat();
    plain.resize(plain.len().next_multiple_of(512), 0);
    plain.extend([cpio_member("more", &two), cpio_member("TRAILER!!!", b"")].concat());
    let end = plain.len();
    plain.extend([&b"\x1f\x8b\x08 compressed "[..], &cpio_member("inside", &one)].concat());

    let front = cpio::read_front(&plain[..]).expect("reads");
    assert_eq!(front.len(), 2);
    for content in [&one, &two] {
        let at = front[&crate::digest::Digest::of(content)] as usize;
        assert!(plain[at..at + content.len()] == content[..]);
    }

    for cut in (0..end).step_by(97) {
        assert!(cpio::read_front(&plain[..cut]).expect("reads").len() <= 2);
    }
    assert!(cpio::read_front(&noise(7, 5000)[..]).expect("reads").is_empty());
}

/// Incompressible bytes, different for each seed.
pub(crate) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 9) as u8
    };
    (0..length).map(|_| byte()).collect()
}
