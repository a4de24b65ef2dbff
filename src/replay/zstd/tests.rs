//! Tests of frames by the reference library and program.

mod hostile;

use std::io::{Cursor, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ::zstd::stream::raw::CParameter;

use super::*;
use crate::replay::{Packet, PacketKind, Window};

const LIMITS: FrameLimits = FrameLimits { window: 1 << 27 };

/// Everything that a frame was read into.
struct Opened {
    head: ZstdFrameHead,
    content: Vec<u8>,
    blocks: Vec<(BlockHead, Vec<Packet>)>,
    checksum: Option<Checksum>,
    /// Length of the frame.
    length: usize,
}

/// Reads the frame at the beginning of `bytes`, with bounded memory.
fn open(bytes: &[u8]) -> Result<Opened, FrameOpenError> {
    let mut reader = ZstdFrameReader::open(Cursor::new(bytes), LIMITS)?;
    let head = reader.head().clone();
    let (mut plain, mut content, mut blocks) = (Window::default(), Vec::new(), Vec::new());
    loop {
        let mut packets = Vec::new();
        plain.forget_before_last(head.window() as usize);
        let begin = plain.end();
        let Some(block) = reader.next_block(&mut plain, &mut packets)? else { break };
        let added = plain.from(begin).expect("the block is held");
        assert_eq!(added.len(), block.size as usize);
        content.extend_from_slice(added);
        blocks.push((block, packets));
    }
    let checksum = reader.checksum();
    let length = reader.into_input().position() as usize;
    Ok(Opened { head, content, blocks, checksum, length })
}

/// Writes a frame again.
fn rebuild(opened: &Opened) -> Result<Vec<u8>, FrameWriteError> {
    let mut out = Vec::new();
    let mut writer = ReplayedFrame::new(&opened.head, &mut out);
    let mut rest = &opened.content[..];
    for (block, packets) in &opened.blocks {
        let (content, after) = rest.split_at(rest.len().min(block.size as usize));
        rest = after;
        writer.write_block(block, content, packets, &mut out)?;
    }
    writer.finish(opened.checksum, &mut out)?;
    Ok(out)
}

/// Checks that all frames of `bytes` yield `content`, and are written again exactly.
fn assert_round_trip(name: &str, bytes: &[u8], content: &[u8]) {
    let (mut rest, mut left) = (bytes, content);
    while !rest.is_empty() {
        let opened = open(rest).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = left.split_off(..opened.content.len()).expect("the content is longer");
        assert!(opened.content == expected, "{name}: the content differs");
        assert_ne!(opened.checksum.map(|sum| sum == Checksum::Computed), Some(false), "{name}");
        let rebuilt = rebuild(&opened).unwrap_or_else(|error| panic!("{name}: {error}"));
        let frame = rest.split_off(..opened.length).expect("the frame is within the input");
        assert!(rebuilt == frame, "{name}: the frame differs");
    }
    assert!(left.is_empty(), "{name}: content is missing");
}

/// A pseudorandom generator (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound.max(1)
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..length).map(|_| (random.next() >> 24) as u8).collect()
}

/// Words of which some are frequent.
fn text(length: usize) -> Vec<u8> {
    let mut random = Random(42);
    let words: Vec<Vec<u8>> = (0..3000)
        .map(|_| (0..2 + random.below(9)).map(|_| b'a' + random.below(26) as u8).collect())
        .collect();
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        let bound = 1 + random.below(words.len());
        text.extend_from_slice(&words[random.below(bound)]);
        text.push(if random.below(12) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(length);
    text
}

/// The beginning of this test's own executable.
fn executable(length: usize) -> Vec<u8> {
    let path = std::env::current_exe().expect("the path is known");
    let mut bytes = std::fs::read(path).expect("the executable is readable");
    bytes.truncate(length);
    bytes
}

/// Contents of different nature, of about `length` bytes if they are not small.
fn samples(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    let far: Vec<u8> = noise(length / 3);
    let skewed = noise(length).iter().map(|byte| byte & (byte >> 3) & 0x3f).collect();
    vec![
        ("empty", Vec::new()),
        ("one byte", vec![7]),
        ("short", b"abcabcabcabcabcabcabcabcabcabcabcabcabcabcX".to_vec()),
        ("run", vec![0; length]),
        ("noise", noise(length)),
        ("skewed", skewed),
        ("distant repeats", [&far[..], &far, &far[1000..]].concat()),
        ("period", noise(700).repeat(length / 700)),
        ("text", text(length)),
        ("executable", executable(length)),
    ]
}

/// Compresses by the library with parameters, without a declared content size.
fn compress(content: &[u8], level: i32, parameters: &[CParameter]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), level).expect("the level is valid");
    for parameter in parameters {
        encoder.set_parameter(*parameter).expect("the parameter is valid");
    }
    encoder.write_all(content).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

#[test]
fn all_levels_round_trip() {
    for level in (-7..=22).filter(|level| *level != 0) {
        let length = if level > 12 { 350_000 } else { 600_000 };
        for (name, content) in samples(length) {
            let bytes = ::zstd::bulk::compress(&content, level).expect("compressible");
            assert_round_trip(&format!("{name}, level {level}"), &bytes, &content);
        }
    }
}

#[test]
fn parameters_round_trip() {
    let table: &[&[CParameter]] = &[
        &[CParameter::ChecksumFlag(true)],
        &[CParameter::WindowLog(10)],
        &[CParameter::WindowLog(14), CParameter::ChecksumFlag(true)],
        &[CParameter::EnableLongDistanceMatching(true), CParameter::WindowLog(27)],
        &[CParameter::TargetCBlockSize(1340)],
        &[CParameter::TargetCBlockSize(5000), CParameter::ChecksumFlag(true)],
        &[CParameter::MinMatch(3), CParameter::SearchLog(1)],
        &[CParameter::MinMatch(7), CParameter::TargetLength(4096)],
    ];
    for parameters in table {
        for level in [1, 5, 17] {
            for (name, content) in samples(300_000) {
                let bytes = compress(&content, level, parameters);
                assert_round_trip(&format!("{name} {level} {parameters:?}"), &bytes, &content);
            }
        }
    }
}

#[test]
fn flushed_blocks_round_trip() {
    let content = text(300_000);
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 5).expect("the level is valid");
    let (mut rest, mut random) = (&content[..], Random(5));
    while !rest.is_empty() {
        let length = rest.len().min(random.below(3000));
        encoder.write_all(&rest[..length]).expect("memory can be written");
        encoder.flush().expect("memory can be written");
        rest = &rest[length..];
    }
    let bytes = encoder.finish().expect("memory can be written");

    assert_round_trip("flushed", &bytes, &content);
}

/// Output of a program for standard input; `None` if there is no such program.
fn run(program: &str, arguments: &[&str], input: Vec<u8>) -> Option<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let sender = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the program ends");
    sender.join().expect("no panic").expect("the program reads its input");
    assert!(output.status.success(), "{program} {arguments:?}");
    Some(output.stdout)
}

#[test]
fn frames_by_the_program_round_trip() {
    let contents = [("executable", executable(3_000_000)), ("text", text(1_000_000))];
    for arguments in [
        "--fast=5",
        "-1",
        "-3",
        "-9",
        "-19",
        "--ultra -22",
        "-3 --long=27",
        "-3 -T2 -B1MiB --rsyncable",
        "-3 -T2 -B512KiB",
        "-6 --no-check",
        "-3 --single-thread",
        "-5 --target-compressed-block-size=2000",
        "-19 --target-compressed-block-size=1400",
        "-4 --no-compress-literals",
        "--fast=1 --compress-literals",
        "-7 --stream-size=1000000",
        "--zstd=wlog=11,strat=9",
    ] {
        for (name, content) in &contents {
            let size = format!("--stream-size={}", content.len());
            let mut list: Vec<&str> = arguments.split(' ').chain(["-q", "-c"]).collect();
            if let Some(argument) = list.iter_mut().find(|item| item.starts_with("--stream")) {
                *argument = &size;
            }
            let Some(bytes) = run("zstd", &list, content.clone()) else { return };
            assert_round_trip(&format!("{name} {arguments}"), &bytes, content);
        }
    }
}

#[test]
fn reader_stops_at_the_end_of_its_frame() {
    let (first, second) = (text(5000), noise(5000));
    let mut bytes = compress(&first, 3, &[CParameter::ChecksumFlag(true)]);
    bytes.extend(compress(&second, 3, &[]));
    bytes.extend_from_slice(b"end");
    let mut input = &bytes[..];
    let mut plain = Window::default();

    for expected in [&first, &second] {
        let begin = plain.end();
        let mut reader = ZstdFrameReader::open(&mut input, LIMITS).expect("valid");
        while reader.next_block(&mut plain, &mut Vec::new()).expect("valid").is_some() {}
        assert_eq!(plain.from(begin), Some(&expected[..]));
        assert!(reader.next_block(&mut plain, &mut Vec::new()).expect("finished").is_none());
    }

    assert_eq!(input, b"end");
}

#[test]
fn packets_describe_the_content() {
    let content = text(200_000);
    let opened = open(&compress(&content, 5, &[])).expect("valid");

    let mut rebuilt = Window::default();
    for (block, packets) in &opened.blocks {
        let begin = rebuilt.end();
        for packet in packets {
            if packet.kind == PacketKind::Literals {
                let at = rebuilt.end() as usize;
                rebuilt.push(&content[at..at + packet.length as usize]);
            } else {
                assert!(rebuilt.push_match(packet.distance as usize, packet.length as usize));
            }
        }
        assert_eq!(rebuilt.end() - begin, u64::from(block.size));
    }

    assert!(rebuilt.bytes() == content);
}

#[test]
fn unusual_encodings_round_trip() {
    let content = text(3000);
    let opened = open(&compress(&content, 3, &[CParameter::ChecksumFlag(true)])).expect("valid");
    let change = |change: fn(&mut CompressedHead)| {
        let mut opened = Opened { blocks: opened.blocks.clone(), ..open_parts(&opened) };
        for (block, _) in &mut opened.blocks {
            if let BlockKind::Compressed(head) = &mut block.kind {
                change(head);
            }
        }
        opened
    };
    for (name, changed) in [
        ("larger sizes", change(|head| head.literals.format = 2)),
        ("largest sizes", change(|head| head.literals.format = 3)),
        (
            "raw literals",
            change(|head| {
                head.literals = LiteralsHead { kind: LiteralsKind::Raw, format: 1 };
            }),
        ),
        (
            "large raw literals",
            change(|head| {
                head.literals = LiteralsHead { kind: LiteralsKind::Raw, format: 3 };
            }),
        ),
        ("other first state", change(|head| head.sequences.first_ranks = [0, 1, 0])),
        (
            "predefined tables",
            change(|head| {
                head.sequences.modes = 0;
                head.sequences.tables.clear();
                head.sequences.first_ranks = [0; 3];
            }),
        ),
    ] {
        let bytes = rebuild(&changed).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_round_trip(name, &bytes, &content);
        let decoded = ::zstd::decode_all(&bytes[..]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(decoded == content, "{name}");
        let again = open(&bytes).expect("valid");
        assert!(again.blocks == changed.blocks, "{name}");
    }
}

/// The same head, content and checksum without blocks.
fn open_parts(opened: &Opened) -> Opened {
    Opened {
        head: opened.head.clone(),
        content: opened.content.clone(),
        blocks: Vec::new(),
        checksum: opened.checksum,
        length: opened.length,
    }
}

/// A frame with a window of 1 KiB, these blocks, and no checksum.
fn frame(blocks: &[(u32, usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD, 0, 0];
    for (index, (kind, size, body)) in blocks.iter().enumerate() {
        let is_last = index + 1 == blocks.len();
        let header = u32::from(is_last) | kind << 1 | (*size as u32) << 3;
        bytes.extend_from_slice(&header.to_le_bytes()[..3]);
        bytes.extend_from_slice(body);
    }
    bytes
}

#[test]
fn rare_blocks_round_trip() {
    let cases: &[(&str, Vec<u8>, &[u8])] = &[
        ("empty raw block", frame(&[(0, 0, b"")]), b""),
        ("run block", frame(&[(1, 5, b"x")]), b"xxxxx"),
        ("raw literals", frame(&[(2, 5, &[3 << 3, b'a', b'b', b'c', 0])]), b"abc"),
        ("long size", frame(&[(2, 7, &[12 | 3 << 4, 0, 0, b'a', b'b', b'c', 0])]), b"abc"),
        ("run literals", frame(&[(2, 3, &[1 | 9 << 3, b'a', 0])]), b"aaaaaaaaa"),
        ("no sequences, two bytes", frame(&[(2, 4, &[1 << 3, b'a', 128, 0])]), b"a"),
        ("empty compressed block", frame(&[(2, 2, &[0, 0]), (0, 1, b"a")]), b"a"),
    ];
    for (name, bytes, content) in cases {
        assert_round_trip(name, bytes, content);
        if !name.contains("two bytes") {
            assert_eq!(::zstd::decode_all(&bytes[..]).expect("valid"), *content, "{name}");
        }
    }
}

#[test]
fn one_sequence_in_two_bytes_round_trips() {
    // One literal, then a match of 3 at distance 1, by single symbols: offset value 1.
    let body = [1 << 3, b'a', 128, 1, 0x54, 1, 0, 0, 1];
    let bytes = frame(&[(2, body.len(), &body)]);

    assert_round_trip("two bytes", &bytes, b"aaaa");
    let opened = open(&bytes).expect("valid");

    let BlockKind::Compressed(head) = &opened.blocks[0].0.kind else { panic!("compressed") };
    assert_eq!(head.sequences.count_form, CountForm::TwoBytes);
    let expected = Packet { kind: PacketKind::Repeat0, length: 3, distance: 1 };
    assert_eq!(opened.blocks[0].1, [Packet::literals(1), expected]);
}

#[test]
fn wrong_checksum_is_kept() {
    let content = text(1000);
    let mut bytes = compress(&content, 3, &[CParameter::ChecksumFlag(true)]);
    *bytes.last_mut().expect("it has bytes") ^= 1;

    let opened = open(&bytes).expect("the content is valid");

    assert!(matches!(opened.checksum, Some(Checksum::Stored(_))));
    assert!(rebuild(&opened).expect("valid") == bytes);
}

/// Totals of frames that were read and written again at once, block by block.
#[derive(Default)]
struct Totals {
    content: u64,
    coded: usize,
    reading: Duration,
    writing: Duration,
}

impl Totals {
    /// Reads and writes the frame at the beginning of `bytes`; returns its length.
    fn add(&mut self, bytes: &[u8]) -> Result<usize, FrameOpenError> {
        let mut reader = ZstdFrameReader::open(Cursor::new(bytes), LIMITS)?;
        let (mut plain, mut packets, mut out) = (Window::default(), Vec::new(), Vec::new());
        let mut writer = ReplayedFrame::new(reader.head(), &mut out);
        let mut at = 0;
        loop {
            assert!(bytes[at..].starts_with(&out));
            at += out.len();
            out.clear();
            packets.clear();
            let (begin, start) = (plain.end(), Instant::now());
            plain.forget_before_last(reader.head().window() as usize);
            let block = reader.next_block(&mut plain, &mut packets)?;
            self.reading += start.elapsed();
            let Some(block) = block else { break };

            let start = Instant::now();
            let content = plain.from(begin).expect("the block is held");
            writer.write_block(&block, content, &packets, &mut out).expect("rebuildable");
            self.writing += start.elapsed();
        }
        writer.finish(reader.checksum(), &mut out).expect("rebuildable");
        assert!(bytes[at..].starts_with(&out));
        at += out.len();
        assert_eq!(at as u64, reader.into_input().position());
        self.content += plain.end();
        self.coded += at;
        Ok(at)
    }
}

/// Round trip and speed of all frames in the files that `REPLAY_ZSTD_FILES` lists (by colons).
#[test]
#[ignore = "needs files"]
fn given_files_round_trip() {
    let list = std::env::var("REPLAY_ZSTD_FILES").expect("REPLAY_ZSTD_FILES is set");
    let mut totals = Totals::default();
    for path in list.split(':') {
        let bytes = std::fs::read(path).expect("the file is readable");
        let (mut at, mut frames, mut rejected) = (0, 0, 0);
        while let Some(next) = find_magic(&bytes[at..]) {
            at += next;
            match totals.add(&bytes[at..]) {
                Ok(length) => {
                    frames += 1;
                    at += length;
                }
                Err(_) => {
                    rejected += 1;
                    at += 4;
                }
            }
        }
        println!("{path}: {frames} frames, {rejected} without a valid frame");
    }
    let Totals { content, coded, reading, writing } = totals;
    let speed = |time: Duration| content as f64 / 1e6 / time.as_secs_f64();
    println!("{coded} -> {content}: read {:.0}, write {:.0} MB/s", speed(reading), speed(writing));
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == [0x28, 0xB5, 0x2F, 0xFD])
}
