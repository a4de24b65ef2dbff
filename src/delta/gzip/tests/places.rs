//! The shorter search finds what the one along a single chain finds.

use super::super::deflater::{Deflater, Encoder, Model};
use super::*;

/// Pieces of `alphabet` letters, new or from one of `distances` before: with few letters the places that a level
/// looks at do not suffice for all that are alike.
fn text(length: usize, alphabet: u64, distances: &[usize], seed: u64) -> Vec<u8> {
    let mut below = random(seed);
    let mut out: Vec<u8> = Vec::new();
    while out.len() < length {
        match distances.get(below(2 * distances.len() as u64 + 1) as usize) {
            Some(&distance) if distance <= out.len() => {
                for _ in 0..3 + below(12) * below(30) {
                    out.push(out[out.len() - distance]);
                }
            }
            _ => out.extend((0..1 + below(60)).map(|_| b'a'.wrapping_add(below(alphabet) as u8))),
        }
    }
    out
}

fn stream(mut deflater: Deflater, plain: &[u8]) -> Vec<u8> {
    for piece in plain.chunks(10_007) {
        deflater.write(piece);
    }
    deflater.finish();
    deflater.take()
}

fn same_at_every_level(plain: &[u8], levels: &[u8]) {
    for family in [Encoder::Gnu, Encoder::Zlib, Encoder::ZlibLarge] {
        for &level in levels {
            let model = Model { family, level };
            let short = stream(Deflater::with_shortcuts(model, true), plain);
            let long = stream(Deflater::with_shortcuts(model, false), plain);
            assert!(short == long, "{model:?}, {} bytes", plain.len());
        }
    }
}

/// The reach of a match, and one byte to both sides of it; the same of the window.
const DISTANCES: [usize; 8] = [1, 4096, 4097, 32_505, 32_506, 32_507, 32_767, 32_768];

#[test]
fn few_letters_and_the_ends_of_the_reach() {
    for (alphabet, seed) in [(1, 1), (2, 2), (3, 3), (4, 4), (20, 5), (200, 6)] {
        same_at_every_level(&text(200_000, alphabet, &DISTANCES, seed), &[4, 5, 6, 7, 8, 9]);
    }
}

#[test]
fn words_runs_and_noise() {
    same_at_every_level(
        &[sample(150_000, 11), noise(40_000), sample(70_000, 12)].concat(),
        &[4, 6, 8, 9],
    );
}

proptest! {
    #[test]
    fn any_text(length in 0usize..80_000, alphabet in 1u64..12, near in 1usize..40_000, seed: u64, level in 4u8..=9) {
        same_at_every_level(&text(length, alphabet, &[near, 32_506, 7], seed), &[level]);
    }
}
