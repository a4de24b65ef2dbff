//! Sketches: a few numbers for each content; similar contents have many of them in common.
//!
//! Deduplicating stores search similar contents in this way. A rolling hash (gear) maps each range
//! of 32 bytes, at any offset, to a number. One in [`SAMPLED`] ranges is sampled, chosen by its
//! number, so that equal ranges are sampled in both contents (as in Odess). Each feature is the
//! smallest of all sampled numbers in an order of its own (the N-transform). The probability that
//! two contents agree in a feature is the share of ranges that they have in common (Broder).
//!
//! The hash is our own. The crate for it, `gearhash`, is optimised for cuts thousands of bytes
//! apart, and is slower than the plain loop if one in a few dozen ranges is sampled.

use std::io::{self, Read};

/// Number of features of a sketch: with an eighth in common, two of them usually agree.
pub const FEATURES: usize = 16;
/// Bits of the hash that each byte shifts out, so that it covers 32 bytes.
///
/// Longer ranges would miss similar code, in which a few bytes change everywhere.
const SHIFT: u32 = 2;
/// One in this number of ranges is sampled: some dozens for 4 KiB, at the speed of reading.
const SAMPLED: u32 = 64;
/// With fewer samples the content is tiny or uniform, and has no sketch.
const LEAST_SAMPLES: u32 = 8;
const BUFFER: usize = 64 << 10;

/// Summand of each byte value in the rolling hash.
const GEAR: [u64; 256] = numbers(0);
/// Order of each feature: the smallest of number * factor + offset counts.
const FACTORS: [u64; FEATURES] = numbers(1 << 32);
const OFFSETS: [u64; FEATURES] = numbers(2 << 32);

/// Features of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch([u64; FEATURES]);

impl Sketch {
    /// Reads `content` to its end; `None` if it has too few samples.
    ///
    /// Memory: one buffer.
    pub fn read(mut content: impl Read) -> io::Result<Option<Self>> {
        let mut smallest = [u64::MAX; FEATURES];
        let (mut hash, mut last, mut samples) = (0u64, 0u64, 0u32);
        let mut buffer = vec![0; BUFFER];

        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };

            for byte in &buffer[..n] {
                hash = (hash << SHIFT).wrapping_add(GEAR[usize::from(*byte)]);
                // A run of one byte gives the same number repeatedly.
                if hash >> (u64::BITS - SAMPLED.ilog2()) == 0 && hash != last {
                    add_sample(hash, &mut smallest);
                    last = hash;
                    samples = samples.saturating_add(1);
                }
            }
        }
        Ok((samples >= LEAST_SAMPLES).then_some(Sketch(smallest)))
    }

    /// The features; each compares with the one at the same index.
    pub fn features(&self) -> &[u64; FEATURES] {
        &self.0
    }
}

fn add_sample(hash: u64, smallest: &mut [u64; FEATURES]) {
    for ((smallest, factor), offset) in smallest.iter_mut().zip(FACTORS).zip(OFFSETS) {
        // An odd factor permutes all numbers; an even one would make some of them equal.
        *smallest = (*smallest).min(hash.wrapping_mul(factor | 1).wrapping_add(offset));
    }
}

/// Fixed pseudo-random numbers: splitmix64 from `start` on.
const fn numbers<const N: usize>(start: u64) -> [u64; N] {
    let mut numbers = [0; N];
    let (mut at, mut state) = (0, start);
    while at < N {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);

        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);

        numbers[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::tests::noise;

    fn sketch(content: &[u8]) -> Option<Sketch> {
        Sketch::read(content).expect("reads")
    }

    fn common_features(a: &[u8], b: &[u8]) -> usize {
        let (a, b) = (sketch(a).expect("enough"), sketch(b).expect("enough"));
        a.0.iter().zip(b.0).filter(|(a, b)| *a == b).count()
    }

    #[test]
    fn similar_contents_share_features_at_any_offset() {
        let old = noise(1, 100_000);
        let edited = [b"a new head", &old[..40_000], b"something else", &old[40_100..]].concat();

        assert!(common_features(&old, &edited) >= FEATURES - 2);
        assert_eq!(common_features(&old, &noise(2, 100_000)), 0);

        // A third of the union is common, and about a third of the features.
        let half = [&old[..50_000], &noise(3, 50_000)].concat();
        assert!((2..=FEATURES / 2 + 2).contains(&common_features(&old, &half)));
    }

    #[test]
    fn short_reads_give_the_same_sketch() {
        struct ShortReads<'b>(&'b [u8]);
        impl Read for ShortReads<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.len().min(buffer.len()).min(7);
                (&mut self.0).take(length as u64).read(buffer)
            }
        }

        let content = noise(5, 200_000);
        assert_eq!(Sketch::read(ShortReads(&content)).expect("reads"), sketch(&content));
    }

    #[test]
    fn short_or_uniform_content_has_no_sketch() {
        assert_eq!(sketch(b""), None);
        assert_eq!(sketch(&noise(1, 100)), None);
        assert_eq!(sketch(&[0; 100_000]), None);
    }

    /// Archives are reproducible, so a changed sketch must fail a test.
    #[test]
    fn constants_are_those_of_splitmix64() {
        let numbers: [u64; 2] = numbers(0);
        assert_eq!(numbers, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }
}
