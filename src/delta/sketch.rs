//! What a content is like, in a few numbers: two contents that have much in common agree in many of them.
//!
//! Deduplicating stores find what to make a delta of in this way. A rolling hash (gear) numbers every stretch
//! of 32 bytes, wherever it stands; one of [`SAMPLED`] is taken, for what its own number is, so that
//! equal stretches are taken or left in either content (as Odess does). Each feature is the smallest of all
//! numbers taken, under an order of its own (the N-transform): that two contents have the same smallest one is
//! as likely as the share of stretches that they have in common is large (Broder).
//!
//! The hash is our own: the crate for it, `gearhash`, is made for cuts that are thousands of bytes apart, and
//! is slower than the plain loop where every few dozen bytes count.

use std::io::{self, Read};

/// How many numbers make a sketch: where an eighth is in common, two of them agree more often than not.
pub const FEATURES: usize = 16;
/// Of 64 bits the hash loses so many with each byte, so a stretch has 32 bytes. Longer ones would miss what is
/// alike in code, of which a few bytes change everywhere.
const SHIFT: u32 = 2;
/// One stretch of so many is taken: a file of 4 KiB has some dozens, and reading is not held up.
const SAMPLED: u32 = 64;
/// Where fewer are taken, the content is tiny or the same all over.
const LEAST_TAKEN: u32 = 8;
const BUFFER: usize = 64 << 10;

/// The number of each byte.
const GEAR: [u64; 256] = numbers(0);
/// The order of each feature: number * factor + offset, of which the smallest counts.
const FACTORS: [u64; FEATURES] = numbers(1 << 32);
const OFFSETS: [u64; FEATURES] = numbers(2 << 32);

/// What a content is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch([u64; FEATURES]);

impl Sketch {
    /// Reads `content` to its end; `None` where there is too little of it to tell.
    ///
    /// Memory: one buffer.
    pub fn of(mut content: impl Read) -> io::Result<Option<Self>> {
        let mut smallest = [u64::MAX; FEATURES];
        let (mut hash, mut last, mut taken) = (0u64, 0u64, 0u32);
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            for byte in &buffer[..n] {
                hash = (hash << SHIFT).wrapping_add(GEAR[usize::from(*byte)]);
                // A run of one byte gives the same number again and again.
                if hash >> (u64::BITS - SAMPLED.ilog2()) == 0 && hash != last {
                    take(hash, &mut smallest);
                    last = hash;
                    taken = taken.saturating_add(1);
                }
            }
        }
        Ok((taken >= LEAST_TAKEN).then_some(Sketch(smallest)))
    }

    /// The features, each of which compares with that of the same place.
    pub fn features(&self) -> &[u64; FEATURES] {
        &self.0
    }
}

fn take(hash: u64, smallest: &mut [u64; FEATURES]) {
    for ((smallest, factor), offset) in smallest.iter_mut().zip(FACTORS).zip(OFFSETS) {
        // An odd factor is an order of all numbers; an even one would make some equal.
        *smallest = (*smallest).min(hash.wrapping_mul(factor | 1).wrapping_add(offset));
    }
}

/// Numbers without a pattern, the same ones always: splitmix64 from `start` on.
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
        Sketch::of(content).expect("reads")
    }

    fn common(a: &[u8], b: &[u8]) -> usize {
        let (a, b) = (sketch(a).expect("enough"), sketch(b).expect("enough"));
        a.0.iter().zip(b.0).filter(|(a, b)| *a == b).count()
    }

    #[test]
    fn what_is_much_alike_has_much_in_common_wherever_it_stands() {
        let old = noise(1, 100_000);
        let edited = [b"a new head", &old[..40_000], b"something else", &old[40_100..]].concat();
        assert!(common(&old, &edited) >= FEATURES - 2);
        assert_eq!(common(&old, &noise(2, 100_000)), 0);
        // A third of the union in common: the features that agree are about as many.
        let half = [&old[..50_000], &noise(3, 50_000)].concat();
        assert!((2..=FEATURES / 2 + 2).contains(&common(&old, &half)));
    }

    #[test]
    fn how_the_bytes_come_makes_no_difference() {
        struct Dripping<'b>(&'b [u8]);
        impl Read for Dripping<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.len().min(buffer.len()).min(7);
                (&mut self.0).take(length as u64).read(buffer)
            }
        }
        let content = noise(5, 200_000);
        assert_eq!(Sketch::of(Dripping(&content)).expect("reads"), sketch(&content));
    }

    #[test]
    fn what_is_too_short_or_all_the_same_tells_nothing() {
        assert_eq!(sketch(b""), None);
        assert_eq!(sketch(&noise(1, 100)), None);
        assert_eq!(sketch(&[0; 100_000]), None);
    }

    /// Archives are reproducible, so sketches must not change unnoticed.
    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let numbers: [u64; 2] = numbers(0);
        assert_eq!(numbers, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }
}
