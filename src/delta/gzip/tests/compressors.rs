//! Streams of each known compressor, of the installed gzip, and of other programs.

use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// Length and CRC-32 of the first sample, compressed by GNU gzip 1.12 (`-1` to `-9`) and by zlib
/// 1.2.13 (memory levels 8 and 9).
const KNOWN: [[(usize, u32); 9]; 3] = [
    [
        (37802, 0x31fd7497),
        (36538, 0xa51142c0),
        (35459, 0x595c816b),
        (33884, 0x8670f718),
        (33287, 0x0a89f65b),
        (32604, 0xec8ff9b3),
        (32423, 0xdf370eac),
        (31801, 0x4f8426f6),
        (31365, 0x54bd4711),
    ],
    [
        (37838, 0x1c4c9ea3),
        (36577, 0x30694a81),
        (35256, 0x906ddeb5),
        (33670, 0xb8509164),
        (33061, 0x20ba31df),
        (32395, 0xa5f7e7c0),
        (32211, 0x95a9b2fc),
        (31577, 0x9e360b12),
        (31140, 0x2e56a41f),
    ],
    [
        (37797, 0xa305ccfd),
        (36556, 0xc522585d),
        (35215, 0xbb4caaee),
        (33641, 0x7c806766),
        (33018, 0xf6cfeb42),
        (32351, 0x3220c206),
        (32172, 0x05a54f12),
        (31531, 0x97144a91),
        (31096, 0xb28625c7),
    ],
];

#[test]
fn each_model_writes_the_recorded_bytes() {
    let plain = sample(300_000, 1);
    let varint = [0xe0, 0xa7, 0x12];
    for (encoder, levels) in (0u8..).zip(KNOWN) {
        for (level, known) in (1u8..).zip(levels) {
            let model = encoder << 4 | level;
            let packed = rebuild_file(&[&[2, model][..], &varint].concat(), &plain);

            let mut sum = Crc::new();
            sum.update(&packed);
            assert_eq!((packed.len(), sum.sum()), known, "encoder {encoder}, level {level}");

            let (found, corrections) = round_trip(&member(&HEADER, model, &plain));
            assert!(found == plain);
            assert!(corrections.len() < 24);
        }
    }
}

/// The output of the installed gzip for `plain`; `None` if there is only that of busybox.
fn run_gzip(options: &[&str], plain: &[u8]) -> Option<Vec<u8>> {
    let version = Command::new("gzip").arg("--version").output().ok()?;
    if !version.stdout.starts_with(b"gzip 1.") {
        return None;
    }

    let mut command = Command::new("gzip");
    command.arg("-c").args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let mut input = child.stdin.take()?;
    let plain = plain.to_vec();

    let writer = std::thread::spawn(move || input.write_all(&plain));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    Some(output.stdout)
}

#[test]
fn output_of_installed_gzip_is_rebuilt() {
    for length in [0, 1, 2, 3, 4, 300, 32_768, 65_535, 65_536, 65_537, 98_304, 150_000] {
        for level in 1..=9 {
            let plain = sample(length, length as u64 + level);
            let Some(gz) = run_gzip(&[&format!("-{level}")], &plain) else { return };
            assert!(round_trip(&gz).0 == plain, "{length} bytes, level {level}");
        }
    }

    let Some(gz) = run_gzip(&["-6"], &noise(200_000)) else { return };
    assert!(round_trip(&gz).0 == noise(200_000), "stored blocks");
}

#[test]
fn stream_of_other_program_is_refused_or_rebuilt() {
    let plain = sample(100_000, 7);
    for level in 0..=9 {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&plain).expect("memory");
        let gz = encoder.finish().expect("memory");
        match split(&gz, &GzipLimits::default()) {
            (_, Decomposed::Whole(reason)) => {
                assert!(matches!(reason, NotDecomposed::NotReproduced))
            }
            (found, Decomposed::Apart(_)) => assert!(round_trip(&gz).0 == found),
        }

        let mut read = Vec::new();
        gunzip(&gz[..], 100_000).read_to_end(&mut read).expect("a plain form");
        assert!(read == plain);
    }

    let mut gz = member(&HEADER, 6, &plain);
    gz[2000] ^= 0x10;
    assert!(matches!(
        refusal(&gz),
        NotDecomposed::NotReproduced | NotDecomposed::Open(OpenError::Damaged(_))
    ));
}

/// The measured times differ by more; the sample is small and has runs.
#[test]
fn higher_level_costs_more() {
    let plain = sample(2 << 20, 3);
    let cost = |level| {
        let gz = member(&HEADER, level, &plain);
        match decompose(&mut &gz[..], &mut io::sink(), &GzipLimits::default()).expect("reads") {
            Decomposed::Apart(parts) => parts.cost,
            Decomposed::Whole(reason) => panic!("{reason}"),
        }
    };

    let (low, usual, high) = (cost(1), cost(6), cost(9));
    assert!(low < usual && 2 * usual < high, "{low} {usual} {high}");
    // At the default level the cost is about the number of bytes.
    assert!((1 << 20..4 << 20).contains(&usual), "{usual}");
}
