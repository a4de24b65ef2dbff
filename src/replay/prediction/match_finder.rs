//! Finder of earlier places with the same content.

use super::comparison::Comparisons;
use crate::replay::text_view::TextView;

/// Bits of the hashes of two, three and four bytes.
const HASH_BITS: [u32; 3] = [16, 16, 17];
const NONE: u32 = u32::MAX;

/// Finds the nearest earlier places of a text that agree with an offset, as match finders do.
pub struct MatchFinder {
    /// The last offset of each hash of two, three and four bytes.
    heads: [Vec<u32>; 3],
    /// The offset before with the same hash of four bytes, for the last offsets, by their low bits.
    chain: Vec<u32>,
    /// Offset up to which the text is indexed.
    indexed: usize,
    /// First offset of the dictionary.
    first: usize,
    /// Largest distance, in bytes, and its limit.
    reach: usize,
    max_reach: usize,
    found: Vec<EarlierPlace>,
}

/// An earlier place: the length that agrees, and its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierPlace {
    pub length: u32,
    pub distance: u32,
}

/// Limits of a search.
#[derive(Clone, Copy)]
pub struct SearchLimits {
    /// Longest match.
    pub longest: usize,
    /// Length at which the search ends.
    pub sufficient: usize,
    /// Places that are visited at most.
    pub steps: usize,
}

impl MatchFinder {
    /// Prepares to index a text of `length` bytes; no distance is larger than `max_reach`.
    pub fn new(length: usize, max_reach: usize) -> Self {
        let held = length.min(max_reach).next_power_of_two();
        MatchFinder {
            heads: HASH_BITS.map(|bits| vec![NONE; 1 << bits]),
            chain: vec![NONE; held],
            indexed: 0,
            first: 0,
            reach: 0,
            max_reach,
            found: Vec::new(),
        }
    }

    /// Begins a dictionary of `size` bytes at `at`: earlier places are not found any more.
    pub fn begin_dictionary(&mut self, at: usize, size: usize) {
        self.first = at;
        self.reach = size.min(self.max_reach);
    }

    /// The nearest earlier places for growing lengths of content that agrees with that at `at`.
    pub fn search(
        &mut self,
        text: TextView<'_>,
        at: usize,
        limits: SearchLimits,
        comparisons: &mut Comparisons,
    ) -> &[EarlierPlace] {
        self.index_before(text, at);
        self.found.clear();
        let here = text.from(at);
        let mut best = 1;

        for (heads, length) in self.heads.iter().zip([2, 3]) {
            let Some(hash) = hash(here, length).filter(|_| length <= limits.longest) else { break };
            let place = heads[hash];
            if !self.is_reachable(place, at) {
                continue;
            }
            let distance = at - place as usize;
            let equal =
                comparisons.count_equal(text.bytes, at - text.start, distance, limits.longest);
            if equal > best {
                best = equal;
                self.found.push(EarlierPlace { length: equal as u32, distance: distance as u32 });
            }
        }

        let Some(hash) = hash(here, 4).filter(|_| limits.longest >= 4) else { return &self.found };
        let mask = self.chain.len() - 1;
        let mut place = self.heads[2][hash];
        for _ in 0..limits.steps {
            if !self.is_reachable(place, at) || best >= limits.sufficient.min(limits.longest) {
                break;
            }

            let there = text.from(place as usize);
            if there.get(best).is_some_and(|byte| here.get(best) == Some(byte)) {
                let distance = at - place as usize;
                let equal =
                    comparisons.count_equal(text.bytes, at - text.start, distance, limits.longest);
                if equal > best {
                    best = equal;
                    self.found
                        .push(EarlierPlace { length: equal as u32, distance: distance as u32 });
                }
            }

            // An entry that was overwritten has a larger offset than the one that led to it.
            let before = self.chain[place as usize & mask];
            if before >= place {
                break;
            }
            place = before;
        }
        &self.found
    }

    /// Indexes the offsets before `at`.
    fn index_before(&mut self, text: TextView<'_>, at: usize) {
        let mask = self.chain.len() - 1;
        self.indexed = self.indexed.max(self.first).max(at.saturating_sub(self.reach));
        while self.indexed < at {
            let here = text.from(self.indexed);
            let Some(four) = hash(here, 4) else { break };
            let offset = self.indexed as u32;
            for (heads, length) in self.heads.iter_mut().zip([2, 3]) {
                if let Some(hash) = hash(here, length) {
                    heads[hash] = offset;
                }
            }
            self.chain[self.indexed & mask] = std::mem::replace(&mut self.heads[2][four], offset);
            self.indexed += 1;
        }
    }

    #[inline(always)]
    fn is_reachable(&self, place: u32, at: usize) -> bool {
        let place = place as usize;
        place >= self.first && place < at && at - place <= self.reach
    }
}

/// Hash of the first `length` bytes; `None` if there are fewer than four.
#[inline(always)]
fn hash(bytes: &[u8], length: usize) -> Option<usize> {
    let four = u32::from_le_bytes(*bytes.first_chunk()?);
    let bits = HASH_BITS[length - 2];
    Some(match length {
        2 => four as usize & 0xffff,
        3 => ((four & 0x00ff_ffff).wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize,
        _ => (four.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize,
    })
}
