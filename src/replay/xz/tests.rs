//! Round trips of streams that the `xz` program makes.

// The tests read files of the test machine, and no target tree.
#![allow(clippy::disallowed_methods)]

mod corpus;
mod hostile;

use std::io::{Cursor, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::replay::{Packet, Window};

const LIMITS: XzLimits = XzLimits { dictionary: 1 << 32 };

/// Number of chunks by the place of their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ChunkEnds {
    /// At the first packet boundary where the chunk is full.
    full: usize,
    /// At the end of the block.
    last: usize,
    /// Anywhere else.
    other: usize,
    stored: usize,
}

/// A stream that was read and made again.
#[derive(Debug, Default)]
struct Replay {
    plain: Vec<u8>,
    rebuilt: Vec<u8>,
    consumed: usize,
    ends: ChunkEnds,
    checks: Vec<XzCheck>,
    heads: Vec<XzBlockHead>,
    reading: Duration,
    writing: Duration,
}

/// Writes the steps of a reader again.
struct Driver {
    writer: XzWriter,
    plain: Window,
    packets: Vec<Packet>,
    dictionary: usize,
    /// Whether the last chunk ended where it was full.
    last_was_full: Option<bool>,
    replay: Replay,
}

impl Driver {
    /// Reads the first stream of `input` and makes it again.
    fn replay(input: &[u8]) -> Result<Replay, XzOpenError> {
        let mut reader = XzReader::open(Cursor::new(input), LIMITS)?;
        let mut driver = Driver {
            writer: XzWriter::new(reader.head()),
            plain: Window::default(),
            packets: vec![],
            dictionary: 0,
            last_was_full: None,
            replay: Replay::default(),
        };
        loop {
            let start = processor_time();
            let step = reader.read_step(&mut driver.plain, &mut driver.packets)?;
            driver.replay.reading += processor_time() - start;
            let Some(step) = step else { break };

            let start = processor_time();
            driver.write(step).expect("the decisions of a valid stream can be written");
            driver.replay.writing += processor_time() - start;
            driver.plain.forget_before_last(driver.dictionary);
        }
        let rest = driver.writer.finish().expect("all blocks are ended");
        driver.replay.rebuilt.extend(rest);
        driver.replay.consumed = reader.into_input().position() as usize;
        Ok(driver.replay)
    }

    fn write(&mut self, step: XzStep) -> Result<(), XzWriteError> {
        match step {
            XzStep::BlockStart(head) => {
                self.dictionary = head.dictionary_size() as usize;
                self.writer.begin_block(&XzBlockHead::from_bytes(head.bytes()).expect("valid"))?;
                self.replay.heads.push(head);
            }
            XzStep::Chunk(head) => {
                self.count_previous_end();
                let at = self.plain.end() - u64::from(head.plain_size);
                self.replay.plain.extend_from_slice(self.plain.from(at).expect("valid"));
                match head.kind {
                    ChunkKind::Stored(dictionary) => {
                        self.replay.ends.stored += 1;
                        let size = head.plain_size;
                        self.writer.write_stored_chunk(dictionary, self.plain.view(), at, size)?;
                    }
                    ChunkKind::Lzma(reset) => self.write_packets(reset, at)?,
                }
            }
            XzStep::BlockEnd(check) => {
                if self.last_was_full.take().is_some() {
                    self.replay.ends.last += 1;
                }
                self.writer.end_block(&check)?;
                self.replay.checks.push(check);
            }
            XzStep::StreamEnd => {}
        }
        let output = self.writer.take_output();
        self.replay.rebuilt.extend(output);
        Ok(())
    }

    fn write_packets(&mut self, reset: Reset, mut at: u64) -> Result<(), XzWriteError> {
        self.writer.begin_chunk(reset)?;
        let mut was_full = false;
        for mut packet in self.packets.drain(..) {
            while packet.length > 0 {
                was_full |= self.writer.chunk_is_full();
                let written = self.writer.write_packet(packet, self.plain.view(), at)?;
                assert!(written > 0);
                packet.length -= written;
                at += u64::from(written);
            }
        }
        self.last_was_full = Some(self.writer.chunk_is_full() && !was_full);
        self.writer.end_chunk()
    }

    /// Counts the end of a chunk that was not the last one.
    fn count_previous_end(&mut self) {
        match self.last_was_full.take() {
            None => {}
            Some(true) => self.replay.ends.full += 1,
            Some(false) => self.replay.ends.other += 1,
        }
    }
}

/// Processor time of this thread; zero if it is not known.
fn processor_time() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = statistics.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn xz(arguments: &[&str], content: &[u8]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz is installed");
    let mut stdin = child.stdin.take().expect("valid");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(content).expect("valid"));
        let output = child.wait_with_output().expect("valid");
        assert!(output.status.success(), "{arguments:?}");
        output.stdout
    })
}

/// Reproducible bytes without structure.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}

/// Content with matches at many distances, and literals.
fn text(length: usize) -> Vec<u8> {
    let noise = noise(length + 8);
    let mut text: Vec<u8> = Vec::with_capacity(length);
    while text.len() < length {
        let [a, b, c, d, ..] = noise[text.len()..] else { unreachable!() };
        let distance = usize::from(a) << (b % 16);
        if distance == 0 || distance > text.len() || c < 64 {
            text.extend(noise[text.len()..].iter().take(usize::from(d % 8) + 1).map(|x| x & 0x5f));
        } else {
            for _ in 0..c % 40 + 1 {
                text.push(text[text.len() - distance]);
            }
        }
    }
    text.truncate(length);
    text
}

#[track_caller]
fn assert_replayed(arguments: &[&str], content: &[u8]) -> Replay {
    let stream = xz(arguments, content);
    let replay = Driver::replay(&stream).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    assert!(replay.rebuilt == stream, "{arguments:?}");
    assert_eq!(replay.consumed, stream.len());
    replay
}

#[test]
fn streams_of_all_settings_are_reproduced() {
    let content = text(3 << 20);
    let presets = ["-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9", "-0e", "-6e", "-9e"];
    let lzma2 = [
        "--lzma2=lc=0,lp=0,pb=0",
        "--lzma2=lc=4,lp=0,pb=4",
        "--lzma2=lc=0,lp=4,pb=2",
        "--lzma2=lc=2,lp=2,pb=1",
        "--lzma2=dict=4KiB",
        "--lzma2=dict=100KiB,nice=273,mf=bt2",
        "--lzma2=mode=fast,mf=hc3,nice=5",
    ];
    for argument in presets.into_iter().chain(lzma2) {
        let replay = assert_replayed(&["-T1", argument], &content);

        assert!(replay.plain == content, "{argument}");
        assert_eq!(replay.checks, [XzCheck::Computed]);
        assert_eq!(replay.ends.other, 0, "{argument}: {:?}", replay.ends);
        assert!(replay.ends.full > 0, "{argument}: {:?}", replay.ends);
    }
}

#[test]
fn checks_of_all_kinds_are_computed() {
    let content = text(100_000);
    for check in ["none", "crc32", "crc64", "sha256"] {
        let replay = assert_replayed(&[&format!("--check={check}")], &content);

        assert_eq!(replay.checks, [XzCheck::Computed], "{check}");
    }
}

#[test]
fn blocks_of_threads_are_reproduced() {
    let content = text(5 << 20);
    let threads = assert_replayed(&["-T2", "-1", "--block-size=1MiB"], &content);
    let single = assert_replayed(&["-T1", "-1", "--block-size=1MiB"], &content);
    let list = assert_replayed(&["-T1", "-0", "--block-list=100000,1,2000000,0"], &content);

    assert_eq!(threads.heads.len(), 5);
    assert!(threads.heads.iter().all(|head| head.plain_size() == Some(1 << 20)));
    assert!(threads.heads.iter().all(|head| head.compressed_size().is_some()));
    assert!(single.heads.iter().all(|head| head.plain_size().is_none()));
    assert!(list.heads.len() > 3);
    assert!(threads.plain == content && single.plain == content && list.plain == content);
}

#[test]
fn filtered_content_has_a_stored_check() {
    let content = text(300_000);
    for arguments in [&["--x86", "--lzma2=preset=1"][..], &["--delta=dist=4", "--lzma2"]] {
        let replay = assert_replayed(arguments, &content);

        assert!(replay.heads[0].has_other_filters());
        assert!(matches!(&replay.checks[..], [XzCheck::Stored(bytes)] if bytes.len() == 8));
    }
}

#[test]
fn empty_content_is_reproduced() {
    let replay = assert_replayed(&["-6"], b"");

    assert!(replay.heads.is_empty());
}

#[test]
fn short_contents_are_reproduced() {
    for length in 1..40 {
        assert_replayed(&["-6"], &text(length));
    }
}

#[test]
fn incompressible_content_is_in_stored_chunks() {
    let mut content = noise(1 << 20);
    content.extend(text(500_000));
    content.extend(noise(300_000));
    content.extend_from_slice(&[7; 5_000_000]);

    let replay = assert_replayed(&["-6"], &content);

    assert!(replay.plain == content);
    assert!(replay.ends.stored > 16, "{:?}", replay.ends);
}

#[test]
fn chunks_of_runs_end_at_the_largest_plain_size() {
    let content = vec![0; 20 << 20];

    let replay = assert_replayed(&["-6"], &content);

    assert_eq!((replay.ends.full, replay.ends.last), (10, 1), "{:?}", replay.ends);
}

#[test]
fn flushed_chunks_end_early() {
    let content = text(400_000);
    let mut child = Command::new("xz")
        .args(["-T1", "-1", "--flush-timeout=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("valid");
    let mut stdin = child.stdin.take().expect("valid");
    let output = std::thread::scope(|scope| {
        let reader = scope.spawn(move || child.wait_with_output().expect("valid"));
        for piece in content.chunks(100_000) {
            stdin.write_all(piece).expect("valid");
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(stdin);
        reader.join().expect("valid")
    });

    let replay = Driver::replay(&output.stdout).expect("valid");

    assert!(replay.rebuilt == output.stdout && replay.plain == content);
    assert!(replay.ends.other > 0, "{:?}", replay.ends);
}

#[test]
fn chunks_of_other_encoders_are_reproduced() {
    let content = noise(62_000);
    let mut plain = Window::default();
    plain.push(&content);
    let mut writer = XzWriter::new(StreamHead { check: CheckKind::from_id(4).expect("valid") });
    writer
        .begin_block(&XzBlockHead::from_bytes(&[2, 0, 0x21, 1, 20, 0, 0, 0]).expect("valid"))
        .expect("valid");
    writer
        .begin_chunk(Reset::Dictionary(Properties::from_byte(93).expect("valid")))
        .expect("valid");
    let mut at = 0;
    // The encoder of liblzma would end the chunk after about 60,500 bytes.
    while at < content.len() as u64 {
        let packet = Packet::literals((content.len() as u64 - at) as u32);
        at += u64::from(writer.write_packet(packet, plain.view(), at).expect("valid"));
    }
    writer.end_chunk().expect("valid");
    writer.end_block(&XzCheck::Computed).expect("valid");
    let stream = writer.finish().expect("valid");

    let replay = Driver::replay(&stream).expect("valid");

    assert!(replay.rebuilt == stream && replay.plain == content);
    assert!(xz(&["-dc"], &stream) == content);
}

#[test]
fn reader_stops_at_the_end_of_its_stream() {
    let mut file = xz(&["-1"], &text(50_000));
    let first = file.len();
    let second = xz(&["-3", "--check=sha256"], &text(70_000));
    file.extend_from_slice(&second);
    file.extend_from_slice(&[0; 8]);

    let replay = Driver::replay(&file).expect("valid");
    let next = Driver::replay(&file[replay.consumed..]).expect("valid");

    assert_eq!((replay.consumed, next.consumed), (first, second.len()));
    assert!(replay.rebuilt == file[..first]);
    assert!(next.rebuilt == second);
}

#[test]
fn wrong_check_is_stored() {
    let mut stream = xz(&["--check=crc32", "-6"], b"content of a small file");
    // Footer, index, then the check.
    let check = stream.len() - 12 - 8 - 4;
    stream[check] ^= 1;

    let replay = Driver::replay(&stream).expect("valid");

    assert!(replay.rebuilt == stream);
    assert_eq!(replay.checks, [XzCheck::Stored(stream[check..check + 4].to_vec())]);
}

#[test]
fn large_dictionary_is_refused_with_its_size() {
    let stream = xz(&["--lzma2=dict=64MiB"], b"content");
    let limits = XzLimits { dictionary: (64 << 20) - 1 };
    let mut reader = XzReader::open(&stream[..], limits).expect("valid");

    let error = reader.read_step(&mut Window::default(), &mut vec![]).expect_err("refused");

    let XzOpenError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal, XzRefusal::Dictionary { size: 64 << 20, limit: (64 << 20) - 1 });
    let error = reader.read_step(&mut Window::default(), &mut vec![]).expect_err("refused");
    assert!(matches!(error, XzOpenError::AfterError));
}

#[test]
fn wrong_declared_size_is_a_defect() {
    let stream = xz(&["-T2", "--block-size=100KiB", "-0"], &text(150_000));
    let head = Driver::replay(&stream).expect("valid").heads[0].clone();
    let mut header = head.bytes().to_vec();
    header[2] ^= 1;
    let checksum = crc32fast::hash(&header);
    let mut damaged = stream.clone();
    damaged[12..12 + header.len()].copy_from_slice(&header);
    damaged[12 + header.len()..][..4].copy_from_slice(&checksum.to_le_bytes());

    let error = Driver::replay(&damaged).expect_err("refused");

    let XzOpenError::Defect(XzDefect::DeclaredSize { kind, .. }) = error else { panic!("{error}") };
    assert_eq!(kind, SizeKind::Compressed);
}
