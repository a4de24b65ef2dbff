//! The search with shortcuts finds the same matches as that along a single chain.

use super::super::deflater::{Deflater, Encoder, Model};
use super::super::hash_chains::ChainSearch;
use super::*;

/// Runs of `alphabet` letters, random or copied from one of `distances` before.
///
/// With few letters more positions are equal than a level tries.
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

fn compress(mut deflater: Deflater, plain: &[u8]) -> Vec<u8> {
    for piece in plain.chunks(10_007) {
        deflater.write(piece);
    }
    deflater.finish();
    deflater.take()
}

fn assert_same_output(plain: &[u8], levels: &[u8]) {
    for encoder in [Encoder::Gnu, Encoder::Zlib, Encoder::ZlibLarge] {
        for &level in levels {
            let model = Model { encoder, level };
            let shortcuts = Deflater::with_search(model, ChainSearch::Shortcuts);
            let single = Deflater::with_search(model, ChainSearch::Single);
            let equal = compress(shortcuts, plain) == compress(single, plain);
            assert!(equal, "{model:?}, {} bytes", plain.len());
        }
    }
}

/// The largest distance of a match and that of the window, each with one byte less and more.
const DISTANCES: [usize; 8] = [1, 4096, 4097, 32_505, 32_506, 32_507, 32_767, 32_768];

#[test]
fn few_letters_at_limit_distances_give_same_output() {
    for (alphabet, seed) in [(1, 1), (2, 2), (3, 3), (4, 4), (20, 5), (200, 6)] {
        assert_same_output(&text(200_000, alphabet, &DISTANCES, seed), &[4, 5, 6, 7, 8, 9]);
    }
}

#[test]
fn words_runs_and_noise_give_same_output() {
    assert_same_output(
        &[sample(150_000, 11), noise(40_000), sample(70_000, 12)].concat(),
        &[4, 6, 8, 9],
    );
}

proptest! {
    #[test]
    fn any_text_gives_same_output(
        length in 0usize..80_000,
        alphabet in 1u64..12,
        near in 1usize..40_000,
        seed: u64,
        level in 4u8..=9,
    ) {
        assert_same_output(&text(length, alphabet, &[near, 32_506, 7], seed), &[level]);
    }
}
