//! Tests of hostile frames and hostile decisions.

use std::io::Read;

use super::*;

#[test]
fn defects_are_named() {
    use ZstdDefect::*;
    let mut wrong_size = ::zstd::bulk::compress(b"abcdefgh", 3).expect("compressible");
    wrong_size[5] -= 1;
    let mut reserved = frame(&[(0, 0, b"")]);
    reserved[4] = 8;
    let cases = [
        (b"PK\x03\x04 ".to_vec(), Magic),
        (vec![0x28, 0xB5], Truncated),
        (frame(&[(0, 3, b"ab")]), Truncated),
        (reserved, ReservedBit),
        (frame(&[(3, 0, b"")]), BlockKind),
        (frame(&[(1, 1025, b"a")]), BlockSize),
        (frame(&[(2, 2, &[3 << 3, 0])]), LiteralsLength),
        (frame(&[(2, 5, &[3, 0, 0, 0, 0])]), MissingHuffmanTable),
        (frame(&[(2, 3, &[0, 1, 0xfc])]), MissingFseTable),
        (frame(&[(2, 3, &[0, 0, 0])]), BytesAfterSequences),
        (frame(&[(2, 3, &[0, 1, 1])]), ReservedBit),
        (frame(&[(2, 9, &[8, b'a', 1, 0x54, 36, 0, 0, 1, 0])]), FseTable),
        (frame(&[(2, 8, &[8, b'a', 1, 0x54, 1, 0, 0, 0])]), SequencesStream),
        (frame(&[(2, 8, &[8, b'a', 1, 0x54, 2, 0, 0, 1])]), LiteralsCount),
        (frame(&[(2, 7, &[0, 1, 0x54, 0, 0, 0, 1])]), Distance),
        (wrong_size, BlockSize),
    ];
    for (bytes, expected) in cases {
        match open(&bytes) {
            Err(FrameOpenError::Defect(defect)) => assert_eq!(defect, expected, "{bytes:x?}"),
            Err(error) => panic!("{bytes:x?}: {error}"),
            Ok(_) => panic!("{bytes:x?} is valid"),
        }
    }
}

#[test]
fn unsupported_frames_are_refused() {
    let dictionary = [0x28, 0xB5, 0x2F, 0xFD, 0x22, 0x39, 0x30, 5, 0x29, 0, 0];
    let window = [0x28, 0xB5, 0x2F, 0xFD, 0, 0xf8, 1, 0, 0];
    let cases = [
        (&dictionary[..], FrameRefusal::Dictionary { id: 12345 }),
        (&window, FrameRefusal::Window { size: 1 << 41, limit: 1 << 27 }),
        (&frame(&[(1, 0, b"a")]), FrameRefusal::EmptyRun),
        (&frame(&[(2, 3, &[1, b'a', 0])]), FrameRefusal::EmptyRun),
    ];
    for (bytes, expected) in cases {
        match open(bytes) {
            Err(FrameOpenError::Refused(refusal)) => assert_eq!(refusal, expected),
            Err(error) => panic!("{expected}: {error}"),
            Ok(_) => panic!("{expected}: it is valid"),
        }
    }
}

#[test]
fn match_beyond_the_window_is_a_defect() {
    // Five blocks of 1 KiB, then a match of 3 at a distance of 1025.
    let block = noise(1024);
    let value = 1025 + 3;
    let body = [0, 1, 0x54, 0, 10, 0, (value & 0xff) as u8, (value >> 8) as u8];
    let raw = (0, 1024, &block[..]);
    let bytes = frame(&[raw, raw, raw, raw, raw, (2, body.len(), &body)]);

    assert!(matches!(open(&bytes), Err(FrameOpenError::Defect(ZstdDefect::Distance))));
}

#[test]
fn match_before_the_frame_is_a_defect() {
    // One literal, then a match of 3 at a distance of 2.
    let body = [8, b'a', 1, 0x54, 1, 2, 0, 0b101];
    let bytes = frame(&[(2, body.len(), &body)]);
    let mut plain = Window::default();
    plain.push(b"content of another frame");
    let mut reader = ZstdFrameReader::open(&bytes[..], LIMITS).expect("the header is valid");

    let result = reader.next_block(&mut plain, &mut Vec::new());

    assert!(matches!(result, Err(FrameOpenError::Defect(ZstdDefect::Distance))));
    assert_eq!(plain.bytes(), b"content of another frame");
}

#[test]
fn bomb_respects_a_caller_that_stops() {
    let run = [0x02, 0x00, 0x10, 0];
    let head: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD, 0, 0x58];
    let input = head.chain(std::io::BufReader::new(Endless { bytes: run, at: 0 }));
    let mut reader = ZstdFrameReader::open(input, LIMITS).expect("valid");
    let mut plain = Window::default();

    for _ in 0..10_000 {
        let block = reader.next_block(&mut plain, &mut Vec::new()).expect("valid");
        assert_eq!(block.map(|block| block.size), Some(1 << 17));
        plain.forget_before_last(reader.head().window() as usize);
    }

    assert_eq!(plain.end(), 10_000 << 17);
    assert!(plain.bytes().len() < 8 << 20);
}

/// An input that repeats its bytes.
struct Endless {
    bytes: [u8; 4],
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        for byte in &mut *target {
            *byte = self.bytes[self.at % 4];
            self.at += 1;
        }
        Ok(target.len())
    }
}

/// Checks that a frame which can be read is written again exactly.
fn assert_error_or_exact(bytes: &[u8]) -> bool {
    let Ok(opened) = open(bytes) else { return false };
    let rebuilt = rebuild(&opened).unwrap_or_else(|error| panic!("{error}: {bytes:x?}"));
    assert!(rebuilt == bytes[..opened.length], "{bytes:x?}");
    true
}

/// Small frames that use all features.
fn small_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for content in [text(2500), executable(3000), b"ab".repeat(40), noise(60), vec![1; 3000]] {
        for (level, flag) in [(1, true), (3, false), (19, true)] {
            frames.push(compress(&content, level, &[CParameter::ChecksumFlag(flag)]));
            frames.push(::zstd::bulk::compress(&content, level).expect("compressible"));
        }
    }
    let parameters = [CParameter::TargetCBlockSize(1340), CParameter::WindowLog(12)];
    frames.push(compress(&text(12_000), 19, &parameters));
    frames
}

#[test]
fn truncated_frames_are_defects() {
    for bytes in small_frames() {
        for length in 0..bytes.len() {
            let result = open(&bytes[..length]);
            assert!(matches!(result, Err(FrameOpenError::Defect(ZstdDefect::Truncated))));
        }
    }
}

#[test]
fn mutated_byte_is_an_error_or_exact() {
    let mut valid = 0;

    for mut bytes in small_frames() {
        for index in 0..bytes.len() {
            let byte = bytes[index];
            for change in [1, 6, 16, 128, 255, byte] {
                bytes[index] = byte ^ change;
                valid += usize::from(assert_error_or_exact(&bytes));
            }
            bytes[index] = byte;
        }
    }

    assert!(valid > 1000, "{valid}");
}

#[test]
fn random_mutations_are_errors_or_exact() {
    let frames = small_frames();
    let mut random = Random(77);
    for _ in 0..30_000 {
        let mut bytes = frames[random.below(frames.len())].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.insert(at, random.next() as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        assert_error_or_exact(&bytes);
    }
}

/// Changes one property at random.
fn mutate(opened: &mut Opened, random: &mut Random) {
    let number = random.next() >> random.below(64);
    let at = random.below(opened.blocks.len());
    let (block, packets) = &mut opened.blocks[at];
    let packet = random.below(packets.len());
    match (random.below(14), packets.get_mut(packet), &mut block.kind) {
        (0, ..) => block.size = number as u32,
        (1, ..) => block.is_last ^= true,
        (2, Some(packet), _) => packet.length = number as u32,
        (3, Some(packet), _) => packet.distance = number as u32,
        (4, Some(packet), _) => {
            packet.kind = PacketKind::from_number(number as u32 % 7).unwrap_or_default();
        }
        (5, Some(_), _) => drop(packets.remove(packet)),
        (6, Some(copy), _) => {
            let copy = *copy;
            packets.insert(packet, copy);
        }
        (7, _, BlockKind::Compressed(head)) => head.literals.format = number as u8,
        (8, _, BlockKind::Compressed(head)) => head.sequences.modes = number as u8,
        (9, _, BlockKind::Compressed(head)) => {
            head.sequences.first_ranks[random.below(3)] = number as u16;
        }
        (10, _, BlockKind::Compressed(head)) => {
            if let Some(byte) = head.sequences.tables.first_mut() {
                *byte = number as u8;
            }
        }
        (11, _, BlockKind::Compressed(head)) => match &mut head.literals.kind {
            LiteralsKind::Huffman { table } => table.truncate(number as usize % 64),
            kind => *kind = LiteralsKind::Repeat,
        },
        (12, ..) => {
            let at = random.below(opened.content.len());
            if let Some(byte) = opened.content.get_mut(at) {
                *byte = number as u8;
            }
        }
        (13, _, kind) => *kind = BlockKind::Rle,
        _ => block.kind = BlockKind::Raw,
    }
}

#[test]
fn hostile_decisions_are_errors_or_frames() {
    let frames = small_frames();
    let mut random = Random(99);
    let (mut errors, mut valid) = (0, 0);

    for _ in 0..30_000 {
        let mut opened = open(&frames[random.below(frames.len())]).expect("valid");
        for _ in 0..1 + random.below(3) {
            mutate(&mut opened, &mut random);
        }
        match rebuild(&opened) {
            Ok(bytes) => {
                valid += 1;
                drop(open(&bytes));
            }
            Err(_) => errors += 1,
        }
    }

    assert!(errors > 1000 && valid > 1000, "{errors} {valid}");
}
