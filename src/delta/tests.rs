use proptest::prelude::*;

use super::*;

/// What a patch makes.
fn made(kind: Kind, source: &[u8], patch: &[u8], length: u64) -> Result<Vec<u8>, DeltaError> {
    let mut output = b"of an earlier one".to_vec();
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

/// Those that are made and undone in memory.
const KINDS: [Kind; 2] = [Kind::Prefix, Kind::Operations];

#[test]
fn a_small_change_makes_a_small_patch() {
    let (old, new) = old_and_new();
    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        assert!(patch.len() < 400, "{kind}: {}", patch.len());
        assert_eq!(made(kind, &old, &patch, new.len() as u64).expect("decodes"), new);
        assert_eq!(
            encode(kind, &old, &new, Effort::Normal).expect("encodes"),
            patch,
            "the same input gives the same patch"
        );
    }
}

#[test]
fn short_pieces_are_found_wherever_in_the_source_they_were() {
    // Too short for the search for long matches, and too many for the tables that zstd has by itself at that level.
    let old = noise(1, 2 << 20);
    let pieces = (0..4096usize).map(|n| n.wrapping_mul(2_654_435_761) % (old.len() - 48));
    let new: Vec<u8> = pieces.flat_map(|at| old[at..at + 48].to_vec()).collect();
    let [fast, normal] = [Effort::Fast, Effort::Normal]
        .map(|effort| encode(Kind::Prefix, &old, &new, effort).expect("encodes").len());
    assert!(normal < fast && fast < new.len() * 3 / 4, "{fast} and {normal} of {}", new.len());
}

/// What makes bsdiff smaller: numbers everywhere, all of which have grown by the same.
#[test]
fn operations_see_through_addresses_that_moved() {
    let number = |n: u32| n.wrapping_mul(2_654_435_761) % 1_000_000;
    let old: Vec<u8> = (0..100_000u32).flat_map(|n| number(n).to_le_bytes()).collect();
    let new: Vec<u8> = (0..100_000u32).flat_map(|n| (number(n) + 65_536).to_le_bytes()).collect();
    let [prefix, operations] =
        KINDS.map(|kind| encode(kind, &old, &new, Effort::Best).expect("encodes").len());
    assert!(operations * 2 < prefix, "{operations} against {prefix}");
}

#[test]
fn lies_about_the_length_are_refused() {
    let (old, new) = old_and_new();
    let patch = encode(Kind::Prefix, &old, &new, Effort::Normal).expect("encodes");
    let length = new.len() as u64;
    for lie in [0, 1, length - 1, length + 1, MAX_GROUP] {
        assert!(
            matches!(made(Kind::Prefix, &old, &patch, lie), Err(DeltaError::NotTheFrame(_))),
            "{lie}"
        );
    }
    let operations = encode(Kind::Operations, &old, &new, Effort::Normal).expect("encodes");
    for lie in [0, 1, length - 1, length + 1, MAX_GROUP] {
        assert!(
            matches!(made(Kind::Operations, &old, &operations, lie), Err(DeltaError::Damaged(_))),
            "{lie}"
        );
    }
    for kind in KINDS {
        assert!(matches!(made(kind, &old, &patch, u64::MAX), Err(DeltaError::TooLarge(_))));
    }
}

#[test]
fn what_is_not_the_frames_that_it_should_be_is_refused() {
    let (old, new) = old_and_new();
    let length = new.len() as u64;
    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        let twice = [&patch[..], &patch[..]].concat();
        for bad in [&b""[..], b"x", &patch[..patch.len() - 1], &twice] {
            assert!(made(kind, &old, bad, length).is_err());
        }
    }
}

#[test]
fn a_flipped_bit_never_panics_or_grows_the_output() {
    let (old, new) = old_and_new();
    for kind in KINDS {
        let patch = encode(kind, &old, &new, Effort::Normal).expect("encodes");
        for at in 0..patch.len() * 8 {
            let mut damaged = patch.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            if let Ok(output) = made(kind, &old, &damaged, new.len() as u64) {
                assert_eq!(output.len(), new.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_source_and_any_target(
        old in prop::collection::vec(any::<u8>(), 0..3000),
        new in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        for (kind, effort) in KINDS.into_iter().flat_map(|kind| Effort::ALL.map(|(effort, _)| (kind, effort))) {
            let patch = encode(kind, &old, &new, effort).expect("encodes");
            prop_assert_eq!(&made(kind, &old, &patch, new.len() as u64).expect("decodes"), &new);
        }
    }
}

#[test]
fn an_empty_source_serves() {
    for kind in KINDS {
        for new in [&b""[..], b"all of it is new"] {
            let patch = encode(kind, b"", new, Effort::Normal).expect("encodes");
            assert_eq!(made(kind, b"", &patch, new.len() as u64).expect("decodes"), new);
        }
    }
}

/// A patch that copies `old`, as a stream.
fn copied(old: &[u8], patch: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let open = |number: usize| match number {
        0 => Ok(Box::new(old) as Box<dyn ReadAt>),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let mut copies = Copies::new(patch, length, open).map_err(io::Error::other)?;
    let mut output = Vec::new();
    // What is made is held to what is claimed, so that nothing has to be bounded here.
    io::Read::read_to_end(&mut copies, &mut output)?;
    assert_eq!(output.len() as u64, length);
    Ok(output)
}

#[test]
fn blocks_of_a_large_file_are_found_in_another() {
    let (old, mut new) = old_and_new();
    new.extend_from_slice(b"appended");
    let signature = blocks::Signature::of(&old, old.len() as u64).expect("reads");
    let mut writer = CopiesWriter::new(3).expect("begins");
    blocks::diff(&signature, &new[..], &mut writer).expect("finds");
    let patch = writer.finish().expect("ends").expect("is small");
    assert!(patch.len() < 12_000, "{}", patch.len());
    assert_eq!(copied(&old, &patch, new.len() as u64).expect("reads"), new);
}

fn segmented(old: &[u8], patch: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut buffers = (b"of an earlier one".to_vec(), b"likewise".to_vec());
    let buffers = (&mut buffers.0, &mut buffers.1);
    io::Read::read_to_end(&mut Segments::new(patch, length, Box::new(old), buffers), &mut output)?;
    assert_eq!(output.len() as u64, length);
    Ok(output)
}

#[test]
fn a_large_file_is_made_piece_by_piece() {
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
    assert!(segmented(&old, &patch, new.len() as u64).expect("decodes") == new);
    for lie in [0, 1, new.len() as u64 - 1, new.len() as u64 + 1, u64::MAX] {
        assert!(segmented(&old, &patch, lie).is_err(), "{lie}");
    }
    assert!(
        segmented(&old[..1_000_000], &patch, new.len() as u64).is_err(),
        "its source has become shorter"
    );
    let mut random = 7usize;
    for _ in 0..200 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = patch.clone();
        let at = random >> 8;
        damaged[at % patch.len()] ^= 1 << (random % 8);
        let _ = segmented(&old, &damaged, new.len() as u64);
    }
    let empty = encode_segments(&old, old.len() as u64, io::empty(), 0, Effort::Normal)
        .expect("encodes")
        .expect("is small");
    assert!(segmented(&old, &empty, 0).expect("decodes").is_empty());
    assert_eq!((segments_weight(&patch), segments_weight(&empty)), (6 << 20, 0));
    assert_eq!(segments_weight(&patch[..patch.len() / 2]), 6 << 20, "of what can be read of it");
}

#[test]
fn a_piece_is_no_larger_than_the_format_allows() {
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
        segmented(&old, &piece(100, &frame(most)), most as u64).expect("decodes"),
        vec![7; most]
    );
    let mut silent = zstd::Encoder::new(Vec::new(), 1).expect("encodes");
    io::Write::write_all(&mut silent, b"it does not say how long it is").expect("writes");
    let silent = silent.finish().expect("finishes");
    for (patch, length, why) in [
        (piece(100, &frame(most + 1)), most + 1, "too much"),
        (piece(100, &frame(0)), 1, "too much"),
        (piece(100, &silent), 30, "does not say"),
        (piece((8 << 20) + 1, &frame(1)), 1, "too long a stretch"),
        (piece(101, &frame(1)), 1, "does not have"),
        (piece(100, &frame(2)), 1, "more than it claims"),
    ] {
        let error = segmented(&old, &patch, length as u64).expect_err(why);
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert!(segments_weight(&patch) <= 12 << 20);
    }
}

#[test]
fn copies_that_lie_are_refused() {
    let old = vec![7; 1000];
    let patch = |write: &dyn Fn(&mut CopiesWriter) -> io::Result<()>| {
        let mut writer = CopiesWriter::new(3).expect("begins");
        write(&mut writer).expect("writes");
        writer.finish().expect("ends").expect("is small")
    };
    let good = patch(&|w| w.copy(0, 500, 500).and_then(|()| w.literal(b"x")));
    assert_eq!(copied(&old, &good, 501).expect("reads").len(), 501);
    for length in [0, 500, 502] {
        assert!(copied(&old, &good, length).is_err(), "{length}");
    }
    for (what, bad) in [
        ("another file", patch(&|w| w.copy(1, 0, 10))),
        ("past the end", patch(&|w| w.copy(0, 995, 10))),
        ("far outside", patch(&|w| w.copy(0, u64::MAX - 3, 10))),
        ("nothing, for ever", patch(&|w| (0..10).try_for_each(|_| w.copy(0, 0, 0)))),
        ("too much", patch(&|w| w.copy(0, 0, 11))),
        ("a second frame", [patch(&|w| w.copy(0, 0, 10)), patch(&|w| w.copy(0, 0, 10))].concat()),
    ] {
        assert!(copied(&old, &bad, 10).is_err(), "{what}");
    }
    for at in 0..good.len() * 8 {
        let mut damaged = good.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let _ = copied(&old, &damaged, 501);
    }
}

/// A member as cpio writes it.
pub(crate) fn member(name: &str, content: &[u8]) -> Vec<u8> {
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
fn files_are_found_in_archives_also_behind_others() {
    let file: Vec<u8> = old_and_new().0;
    let odd = &file[..1001];
    let archive =
        |name, content: &[u8]| [member(name, content), member("TRAILER!!!", b"")].concat();
    let mut first = archive("kernel/x86/microcode", odd);
    first.resize(first.len().next_multiple_of(512), 0);
    for (what, plain, copies) in [
        ("one", archive("usr/lib/x.ko", &file), 1),
        ("two", [first.clone(), archive("usr/lib/x.ko", &file)].concat(), 2),
        ("none", file.clone(), 0),
        ("cut off", archive("usr/lib/x.ko", &file)[..100_000].to_vec(), 0),
        ("nothing", Vec::new(), 0),
        ("what comes after no archive", [&b"\x1f\x8b12"[..], &first, b"more"].concat(), 1),
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
        assert_eq!(found, copies, "{what}");
        let patch = writer.finish().expect("ends").expect("is small");
        let open = |number: usize| Ok(Box::new([&file[..], odd][number]) as Box<dyn ReadAt>);
        let mut again = Vec::new();
        let mut reader = Copies::new(&patch, plain.len() as u64, open).expect("begins");
        io::Read::read_to_end(&mut reader, &mut again).expect("reads");
        assert!(again == plain, "{what}");
    }
}

#[test]
fn the_front_of_an_initrd_tells_where_its_members_stand() {
    let (one, two) = (noise(5, 3001), noise(6, 20));
    let mut plain =
        [member("GenuineIntel.bin", &one), member("empty", b""), member("TRAILER!!!", b"")]
            .concat();
    plain.resize(plain.len().next_multiple_of(512), 0);
    plain.extend([member("more", &two), member("TRAILER!!!", b"")].concat());
    let end = plain.len();
    plain.extend([&b"\x1f\x8b\x08 compressed "[..], &member("inside", &one)].concat());
    let front = cpio::front(&plain[..]).expect("reads");
    assert_eq!(front.len(), 2);
    for content in [&one, &two] {
        let at = front[&crate::digest::Digest::of(content)] as usize;
        assert!(plain[at..at + content.len()] == content[..]);
    }
    for cut in (0..end).step_by(97) {
        assert!(cpio::front(&plain[..cut]).expect("reads").len() <= 2);
    }
    assert!(cpio::front(&noise(7, 5000)[..]).expect("reads").is_empty());
}

/// Bytes that do not compress by themselves, different for each seed.
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
