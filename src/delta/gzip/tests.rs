use std::io::{Read, Write};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::delta::tests::member as entry;

/// Words, copies from near and far, noise and runs: the same bytes for the same seed.
fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut out: Vec<u8> = Vec::new();
    while out.len() < length {
        match below(8) {
            0..=4 => {
                let word = below(97);
                out.extend((0..2 + word % 7).map(|i| 97 + (word * (i + 3) % 26) as u8));
                out.push(b' ');
            }
            5 if !out.is_empty() => {
                let distance = 1 + below(out.len().min(40_000) as u64) as usize;
                for _ in 0..3 + below(300) {
                    out.push(out[out.len() - distance]);
                }
            }
            6 => {
                for _ in 0..below(40) {
                    out.push(below(256) as u8);
                }
            }
            _ => {
                let byte = below(3) as u8;
                out.extend(std::iter::repeat_n(byte, below(400) as usize));
            }
        }
    }
    out.truncate(length);
    out
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// What `gzip -9n` makes of `plain`.
pub(crate) fn gzipped(plain: &[u8]) -> Vec<u8> {
    member(b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", 9, plain)
}

/// A member that GNU gzip could have written: `model` is its level.
fn member(header: &[u8], model: u8, plain: &[u8]) -> Vec<u8> {
    let mut corrections = [&[1, header.len() as u8], header, &[2, model]].concat();
    let mut left = plain.len();
    while left > 0x7f {
        corrections.push(left as u8 | 0x80);
        left >>= 7;
    }
    corrections.extend([left as u8, 3]);
    rebuilt(&corrections, plain)
}

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

fn rebuilt(corrections: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut rebuild = Rebuild::new(corrections, Vec::new()).expect("good corrections");
    for piece in plain.chunks(1013) {
        rebuild.write(piece).expect("room");
    }
    rebuild.finish().expect("the whole plain form")
}

fn taken(gz: &[u8], limits: &Limits) -> (Vec<u8>, Taken) {
    let mut plain = Vec::new();
    let taken = take_apart(&mut &*gz, &mut plain, limits).expect("no failure in memory");
    (plain, taken)
}

/// Takes `gz` apart, makes it again, and gives the plain form and the corrections.
fn apart(gz: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (plain, taken) = taken(gz, &Limits::default());
    let parts = match taken {
        Taken::Apart(parts) => parts,
        Taken::Whole(reason) => panic!("travels whole: {reason}"),
    };
    assert_eq!((parts.length, parts.plain_length), (gz.len() as u64, plain.len() as u64));
    assert_eq!(plain_length(&parts.corrections).expect("good corrections"), parts.plain_length);
    assert!(rebuilt(&parts.corrections, &plain) == gz, "other bytes than before");
    let mut read = Vec::new();
    gunzip(gz, plain.len() as u64).read_to_end(&mut read).expect("a plain form");
    assert!(read == plain, "two plain forms");
    (plain, parts.corrections)
}

fn whole(gz: &[u8]) -> Reason {
    match taken(gz, &Limits::default()).1 {
        Taken::Whole(reason) => reason,
        Taken::Apart(parts) => panic!("{} bytes are apart", parts.length),
    }
}

/// Length and CRC-32 of what GNU gzip 1.12 (`-1` to `-9`) and zlib 1.2.13 (memory levels 8 and 9) make
/// of the first sample.
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
fn every_compressor_gives_the_bytes_of_its_model() {
    let plain = sample(300_000, 1);
    let varint = [0xe0, 0xa7, 0x12];
    for (family, levels) in (0u8..).zip(KNOWN) {
        for (level, known) in (1u8..).zip(levels) {
            let model = family << 4 | level;
            let packed = rebuilt(&[&[2, model][..], &varint].concat(), &plain);
            let mut sum = Crc::new();
            sum.update(&packed);
            assert_eq!((packed.len(), sum.sum()), known, "family {family}, level {level}");
            let (found, corrections) = apart(&member(&HEADER, model, &plain));
            assert!(found == plain);
            assert!(corrections.len() < 24);
        }
    }
}

/// What the installed gzip makes of `plain`, if there is one that is not busybox's.
fn gzip(options: &[&str], plain: &[u8]) -> Option<Vec<u8>> {
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
fn what_the_installed_gzip_writes_is_made_again() {
    for length in [0, 1, 2, 3, 4, 300, 32_768, 65_535, 65_536, 65_537, 98_304, 150_000] {
        for level in 1..=9 {
            let plain = sample(length, length as u64 + level);
            let Some(gz) = gzip(&[&format!("-{level}")], &plain) else { return };
            assert!(apart(&gz).0 == plain, "{length} bytes, level {level}");
        }
    }
    let Some(gz) = gzip(&["-6"], &noise(200_000)) else { return };
    assert!(apart(&gz).0 == noise(200_000), "stored blocks");
}

#[test]
fn a_longer_stream_than_the_probe() {
    let plain: Vec<u8> = (0..8).flat_map(|seed| sample(400_000, seed)).collect();
    assert!(apart(&member(&HEADER, 6, &plain)).0 == plain);
    let mut other = member(&HEADER, 6, &plain);
    let behind_the_probe = other.len() - 1000;
    other[behind_the_probe] ^= 1;
    assert!(matches!(whole(&other), Reason::NotReproduced | Reason::Open(OpenError::Damaged(_))));
    // the other level differs only behind the probe, and is not looked for there
    let same: Vec<u8> = [vec![0; 3 << 20], plain].concat();
    assert!(apart(&member(&HEADER, 6, &same)).0 == same);
    assert!(matches!(whole(&member(&HEADER, 8, &same)), Reason::NotReproduced));
}

#[test]
fn noise_is_stored() {
    let gz = member(&HEADER, 9, &noise(100_000));
    assert!(gz.len() > 100_000 && gz.len() < 100_100);
    assert_eq!(gz[10] & 0b110, 0, "a stored block");
    assert!(apart(&gz).0 == noise(100_000));
}

#[test]
fn an_empty_file_inside() {
    let gz = member(&HEADER, 6, b"");
    assert_eq!(gz.len(), 20);
    assert!(apart(&gz).0.is_empty());
}

#[test]
fn several_members_and_zeros_between_and_behind() {
    let (a, b) = (sample(5000, 1), sample(70_000, 2));
    let zeros = vec![0; 700];
    let gz = [member(&HEADER, 9, &a), zeros.clone(), member(&HEADER, 6, &b), member(&HEADER, 1, b""), zeros.clone()];
    assert_eq!(apart(&gz.concat()).0, [a, zeros.clone(), b, zeros].concat());
}

#[test]
fn garbage_behind_the_last_member() {
    let plain = sample(5000, 3);
    for garbage in [&b"x"[..], b"\0\0\x1f\x8b", b"\0garbage \x1f\x8b\x08\0 that is long enough", &noise(100_000)] {
        let gz = [member(&HEADER, 6, &plain), garbage.to_vec()].concat();
        assert!(apart(&gz).0 == [plain.clone(), garbage.to_vec()].concat());
    }
}

#[test]
fn a_wrong_check_sum_is_kept() {
    let plain = sample(5000, 3);
    let mut gz = member(&HEADER, 6, &plain);
    let end = gz.len();
    gz[end - 1] ^= 1;
    assert!(apart(&gz).0 == plain);
}

#[test]
fn name_time_comment_extra_field_and_header_sum() {
    let plain = sample(5000, 4);
    let mut header = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 2, 3];
    header.extend(b"\x05\0extra");
    header.extend(b"name\0comment\0");
    header.extend([0xab, 0xcd]);
    let (found, corrections) = apart(&member(&header, 9, &plain));
    assert_eq!(found, plain);
    assert!(corrections.windows(header.len()).any(|window| window == header));
}

#[test]
fn microcode_before_the_compressed_part_of_an_initrd() {
    let inside = member(&HEADER, 9, b"this is not looked into");
    let mut early = [entry("kernel", b""), entry("microcode.bin", &inside), entry("TRAILER!!!", b"")].concat();
    early.resize(early.len().next_multiple_of(512), 0);
    let plain = sample(200_000, 5);
    let gz = [early.clone(), member(&HEADER, 6, &plain)].concat();
    assert!(apart(&gz).0 == [early.clone(), plain.clone()].concat());
    let twice = [gz.clone(), gz].concat();
    assert!(apart(&twice).0 == [early.clone(), plain.clone(), early.clone(), plain].concat());
    assert!(matches!(whole(&early), Reason::Open(OpenError::NotGzip)));
    let other = [early, b"(\xb5/\xfd not gzip".to_vec()].concat();
    assert!(matches!(whole(&other), Reason::Open(OpenError::NotGzip)));
}

#[test]
fn not_gzip_at_all() {
    for bytes in [&b""[..], b"\x1f", b"plain text", b"\x1f\x8b\x07\0", b"\x1f\x8b\x08\xff\0\0\0", &[0; 100], b"070701"]
    {
        assert!(matches!(whole(bytes), Reason::Open(OpenError::NotGzip)), "{bytes:?}");
        let error = gunzip(bytes, 1000).read_to_end(&mut Vec::new()).expect_err("no plain form");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn a_truncated_file_travels_whole() {
    let gz = member(&HEADER, 9, &sample(3000, 6));
    for length in 3..gz.len() {
        assert!(matches!(whole(&gz[..length]), Reason::Open(OpenError::Damaged(_))), "{length} bytes");
        gunzip(&gz[..length], 10_000).read_to_end(&mut Vec::new()).expect_err("no plain form");
    }
}

#[test]
fn streams_of_other_programs_travel_whole() {
    let plain = sample(100_000, 7);
    for level in 0..=9 {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&plain).expect("memory");
        let gz = encoder.finish().expect("memory");
        match taken(&gz, &Limits::default()) {
            (_, Taken::Whole(reason)) => assert!(matches!(reason, Reason::NotReproduced)),
            (found, Taken::Apart(_)) => assert!(apart(&gz).0 == found),
        }
        let mut read = Vec::new();
        gunzip(&gz[..], 100_000).read_to_end(&mut read).expect("a plain form");
        assert!(read == plain);
    }
    let mut gz = member(&HEADER, 6, &plain);
    gz[2000] ^= 0x10;
    assert!(matches!(whole(&gz), Reason::NotReproduced | Reason::Open(OpenError::Damaged(_))));
}

#[test]
fn limits_hold() {
    let plain = sample(100_000, 8);
    let gz = member(&HEADER, 6, &plain).repeat(40);
    let taken = |plain, corrections| taken(&gz, &Limits { plain, corrections }).1;
    assert!(matches!(taken(4_000_000, 1000), Taken::Apart(_)));
    assert!(matches!(taken(3_999_999, 1000), Taken::Whole(Reason::Open(OpenError::TooLarge(3_999_999)))));
    assert!(matches!(taken(4_000_000, 600), Taken::Whole(Reason::Corrections(600))));
    assert_eq!(gunzip(&gz[..], 4_000_000).read_to_end(&mut Vec::new()).expect("room"), 4_000_000);
    gunzip(&gz[..], 3_999_999).read_to_end(&mut Vec::new()).expect_err("no room");
    let tail = [member(&HEADER, 6, b"x"), b"tail".to_vec()].concat();
    gunzip(&tail[..], 4).read_to_end(&mut Vec::new()).expect_err("no room for the tail");
    let long = [&[0x1f, 0x8b, 8, NAME, 0, 0, 0, 0, 0, 3][..], &[b'a'; 5000], &[0]].concat();
    assert!(matches!(whole(&long), Reason::Open(OpenError::Damaged(_))));
    assert!(Rebuild::new(&vec![3; MAX_CORRECTIONS + 1], Vec::new()).is_err());
    let many = member(&HEADER, 6, b"x").repeat(5000);
    assert!(matches!(whole(&many), Reason::Corrections(MAX_CORRECTIONS)));
}

const NAME: u8 = 8;

#[test]
fn a_plain_form_of_the_wrong_length_is_an_error() {
    let plain = sample(5000, 9);
    let (_, corrections) = apart(&member(&HEADER, 6, &plain));
    let mut rebuild = Rebuild::new(&corrections, Vec::new()).expect("good corrections");
    rebuild.write(&plain[1..]).expect("room");
    assert!(matches!(rebuild.finish(), Err(RebuildError::TooShort(1))));
    let mut rebuild = Rebuild::new(&corrections, Vec::new()).expect("good corrections");
    rebuild.write(&plain).expect("room");
    assert!(matches!(rebuild.write(b"x"), Err(RebuildError::TooLong)));
}

#[test]
fn corrections_that_are_none() {
    let bad: [&[u8]; 9] = [
        &[4],
        &[1, 5, b'x'],
        &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[2],
        &[2, 0x06],
        &[2, 0x00, 1],
        &[2, 0x3a, 1],
        &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
        &[2, 0x36, 1],
    ];
    for corrections in bad {
        assert!(matches!(Rebuild::new(corrections, Vec::new()), Err(RebuildError::Corrections(_))), "{corrections:?}");
    }
    let huge = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(3);
    assert!(matches!(plain_length(&huge), Err(RebuildError::Corrections(_))));
}

#[test]
fn a_reader_that_gives_little_changes_nothing() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(7);
            self.0.read(&mut buffer[..length])
        }
    }
    let gz = member(&HEADER, 6, &sample(150_000, 10));
    let (plain, corrections) = apart(&gz);
    let mut slow = Vec::new();
    let Taken::Apart(parts) = take_apart(&mut Slow(&gz), &mut slow, &Limits::default()).expect("memory") else {
        panic!("travels whole");
    };
    assert!((slow, parts.corrections) == (plain, corrections));
}

#[test]
fn failures_of_reader_and_writer_are_failures() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let gz = member(&HEADER, 6, b"content");
    take_apart(&mut Broken, &mut Vec::new(), &Limits::default()).expect_err("cannot be read");
    take_apart(&mut &gz[..], &mut &mut [0u8; 3][..], &Limits::default()).expect_err("cannot be written");
    let (plain, corrections) = apart(&gz);
    assert_eq!(plain, b"content");
    assert!(matches!(Rebuild::new(&corrections, &mut [0u8; 3][..]), Err(RebuildError::Write(_))));
}

proptest! {
    #[test]
    fn any_corrections_and_any_plain_form(corrections: Vec<u8>, plain: Vec<u8>) {
        if let Ok(mut rebuild) = Rebuild::new(&corrections, Vec::new()) {
            let written = rebuild.write(&plain);
            let finished = rebuild.finish();
            prop_assert!(written.is_err() || finished.is_err() || plain_length(&corrections).ok() == Some(plain.len() as u64));
        }
    }

    #[test]
    fn changed_corrections(at: prop::sample::Index, value: u8, seed: u64, keep: prop::sample::Index) {
        let plain = sample(20_000, seed);
        let gz = member(&HEADER, 1 + (seed % 9) as u8, &plain);
        let (_, mut corrections) = apart(&gz);
        let at = at.index(corrections.len());
        corrections[at] = value;
        if let Ok(mut rebuild) = Rebuild::new(&corrections, Vec::new())
            && rebuild.write(&plain[..keep.index(plain.len())]).is_ok()
            && let Ok(out) = rebuild.finish()
        {
            prop_assert!(out.len() < plain.len() + 8 * corrections.len() + 1000);
        }
    }

    #[test]
    fn changed_files(at: prop::sample::Index, value: u8, seed: u64) {
        let mut gz = member(&HEADER, 6, &sample(3000, seed));
        let at = at.index(gz.len());
        gz[at] = value;
        let (plain, taken) = taken(&gz, &Limits { plain: 1 << 20, corrections: 10_000 });
        if let Taken::Apart(parts) = taken {
            prop_assert!(rebuilt(&parts.corrections, &plain) == gz);
        }
    }

    #[test]
    fn any_content_any_model(plain in prop::collection::vec(any::<u8>(), 0..3000), level in 1u8..=9, family in 0u8..3) {
        prop_assert!(apart(&member(&HEADER, family << 4 | level, &plain)).0 == plain);
    }
}

/// In time they differ by more; the sample is small, and has runs.
#[test]
fn what_was_searched_harder_costs_more() {
    let plain = sample(2 << 20, 3);
    let cost = |level| {
        let gz = member(&HEADER, level, &plain);
        match take_apart(&mut &gz[..], &mut io::sink(), &Limits::default()).expect("reads") {
            Taken::Apart(parts) => parts.cost,
            Taken::Whole(reason) => panic!("{reason}"),
        }
    };
    let (low, usual, high) = (cost(1), cost(6), cost(9));
    assert!(low < usual && 2 * usual < high, "{low} {usual} {high}");
    // About as many bytes as there are, which is what a second is counted in.
    assert!((1 << 20..4 << 20).contains(&usual), "{usual}");
}
