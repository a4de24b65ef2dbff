//! Files of every gzip layout are split and rebuilt. Compressors, the chain search and hostile
//! input have their own modules.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;
use crate::delta::tests::cpio_member;

mod chain_search;
mod compressors;
mod hostile;

/// Generator of numbers below a limit; the same seed gives the same numbers.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |limit| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    }
}

/// Words, copies from near and far, noise and runs; the same seed gives the same bytes.
fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut below = random(seed);
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
    let mut below = random(7);
    (0..length).map(|_| below(256) as u8).collect()
}

/// The output of `gzip -9n` for `plain`.
pub(crate) fn gzip_best(plain: &[u8]) -> Vec<u8> {
    member(b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", 9, plain)
}

/// A gzip member as the compressor `model` (clause 6) writes it.
fn member(header: &[u8], model: u8, plain: &[u8]) -> Vec<u8> {
    let mut corrections = [&[1, header.len() as u8], header, &[2, model]].concat();

    let mut left = plain.len();
    while left > 0x7f {
        corrections.push(left as u8 | 0x80);
        left >>= 7;
    }
    corrections.extend([left as u8, 3]);
    rebuild_file(&corrections, plain)
}

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

fn rebuild_file(corrections: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut rebuild = Rebuild::new(corrections, Vec::new()).expect("good corrections");
    for piece in plain.chunks(1013) {
        rebuild.write(piece).expect("room");
    }
    rebuild.finish().expect("the whole plain form")
}

fn split(gz: &[u8], limits: &GzipLimits) -> (Vec<u8>, Decomposed) {
    let mut plain = Vec::new();
    let result = decompose(&mut &*gz, &mut plain, limits).expect("no failure in memory");
    (plain, result)
}

/// Splits `gz`, checks that it is rebuilt exactly, and returns its plain form and corrections.
fn round_trip(gz: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (plain, result) = split(gz, &GzipLimits::default());
    let parts = match result {
        Decomposed::Apart(parts) => parts,
        Decomposed::Whole(reason) => panic!("sent whole: {reason}"),
    };

    assert_eq!((parts.length, parts.plain_length), (gz.len() as u64, plain.len() as u64));
    assert_eq!(plain_length(&parts.corrections).expect("good corrections"), parts.plain_length);
    assert!(rebuild_file(&parts.corrections, &plain) == gz, "other bytes than before");

    let mut read = Vec::new();
    gunzip(gz, plain.len() as u64).read_to_end(&mut read).expect("a plain form");
    assert!(read == plain, "two plain forms");
    (plain, parts.corrections)
}

fn refusal(gz: &[u8]) -> NotDecomposed {
    match split(gz, &GzipLimits::default()).1 {
        Decomposed::Whole(reason) => reason,
        Decomposed::Apart(parts) => panic!("{} bytes were split", parts.length),
    }
}

#[test]
fn stream_longer_than_probe_is_proven_to_its_end() {
    let plain: Vec<u8> = (0..8).flat_map(|seed| sample(400_000, seed)).collect();
    assert!(round_trip(&member(&HEADER, 6, &plain)).0 == plain);

    let mut other = member(&HEADER, 6, &plain);
    let after_the_probe = other.len() - 1000;
    other[after_the_probe] ^= 1;
    assert!(matches!(
        refusal(&other),
        NotDecomposed::NotReproduced | NotDecomposed::Open(OpenError::Damaged(_))
    ));

    // The other level differs only after the probe, and is not searched there.
    let same: Vec<u8> = [vec![0; 3 << 20], plain].concat();
    assert!(round_trip(&member(&HEADER, 6, &same)).0 == same);
    assert!(matches!(refusal(&member(&HEADER, 8, &same)), NotDecomposed::NotReproduced));
}

#[test]
fn incompressible_data_becomes_stored_blocks() {
    let gz = member(&HEADER, 9, &noise(100_000));
    assert!(gz.len() > 100_000 && gz.len() < 100_100);
    assert_eq!(gz[10] & 0b110, 0, "a stored block");
    assert!(round_trip(&gz).0 == noise(100_000));
}

#[test]
fn member_without_content_is_rebuilt() {
    let gz = member(&HEADER, 6, b"");
    assert_eq!(gz.len(), 20);
    assert!(round_trip(&gz).0.is_empty());
}

#[test]
fn members_with_zeros_between_and_after_are_rebuilt() {
    let (a, b) = (sample(5000, 1), sample(70_000, 2));
    let zeros = vec![0; 700];
    let gz = [
        member(&HEADER, 9, &a),
        zeros.clone(),
        member(&HEADER, 6, &b),
        member(&HEADER, 1, b""),
        zeros.clone(),
    ];

    assert_eq!(round_trip(&gz.concat()).0, [a, zeros.clone(), b, zeros].concat());
}

#[test]
fn garbage_after_last_member_is_plain() {
    let plain = sample(5000, 3);

    for garbage in [
        &b"x"[..],
        b"\0\0\x1f\x8b",
        b"\0garbage \x1f\x8b\x08\0 that is long enough",
        &noise(100_000),
    ] {
        let gz = [member(&HEADER, 6, &plain), garbage.to_vec()].concat();
        assert!(round_trip(&gz).0 == [plain.clone(), garbage.to_vec()].concat());
    }
}

#[test]
fn wrong_checksum_is_kept() {
    let plain = sample(5000, 3);
    let mut gz = member(&HEADER, 6, &plain);
    let end = gz.len();
    gz[end - 1] ^= 1;
    assert!(round_trip(&gz).0 == plain);
}

#[test]
fn every_header_field_is_kept() {
    let plain = sample(5000, 4);
    let mut header = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 2, 3];
    header.extend(b"\x05\0extra");
    header.extend(b"name\0comment\0");
    header.extend([0xab, 0xcd]);

    let (found, corrections) = round_trip(&member(&header, 9, &plain));
    assert_eq!(found, plain);
    assert!(corrections.windows(header.len()).any(|window| window == header));
}

#[test]
fn microcode_before_a_member_is_plain() {
    let inside = member(&HEADER, 9, b"a nested member");
    let mut early = [
        cpio_member("kernel", b""),
        cpio_member("microcode.bin", &inside),
        cpio_member("TRAILER!!!", b""),
    ]
    .concat();
    early.resize(early.len().next_multiple_of(512), 0);
    let plain = sample(200_000, 5);

    let gz = [early.clone(), member(&HEADER, 6, &plain)].concat();
    assert!(round_trip(&gz).0 == [early.clone(), plain.clone()].concat());

    let twice = [gz.clone(), gz].concat();
    assert!(round_trip(&twice).0 == [early.clone(), plain.clone(), early.clone(), plain].concat());

    assert!(matches!(refusal(&early), NotDecomposed::Open(OpenError::NotGzip)));
    let other = [early, b"(\xb5/\xfd not gzip".to_vec()].concat();
    assert!(matches!(refusal(&other), NotDecomposed::Open(OpenError::NotGzip)));
}

#[test]
fn short_reads_give_the_same_corrections() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(7);
            self.0.read(&mut buffer[..length])
        }
    }
    let gz = member(&HEADER, 6, &sample(150_000, 10));
    let (plain, corrections) = round_trip(&gz);

    let mut slow = Vec::new();
    let Decomposed::Apart(parts) =
        decompose(&mut Slow(&gz), &mut slow, &GzipLimits::default()).expect("memory")
    else {
        panic!("sent whole");
    };
    assert!((slow, parts.corrections) == (plain, corrections));
}

proptest! {
    #[test]
    fn any_content_of_any_model_is_rebuilt(
        plain in prop::collection::vec(any::<u8>(), 0..3000),
        level in 1u8..=9,
        encoder in 0u8..3,
    ) {
        prop_assert!(round_trip(&member(&HEADER, encoder << 4 | level, &plain)).0 == plain);
    }
}
