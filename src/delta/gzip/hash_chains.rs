//! Search for earlier occurrences of the bytes at a position of the window.
//!
//! gzip and zlib follow one chain: the positions whose first three bytes have the same hash, the
//! nearest first, at most as many as the level allows. They take the longest match, and of equally
//! long ones the nearest.
//!
//! Many positions share three bytes, few share eight. With [`ChainSearch::Shortcuts`] each position
//! is also in a chain of its first four and in one of its first eight bytes, and has a number
//! within the chain of three. A long match is searched among positions with the same eight bytes, a
//! shorter one among those with the same four. The numbers decide if the single chain would have
//! reached a position, so both searches find the same match. Without the shortcuts, level 9 takes
//! up to four times as long.

use crate::delta::gzip::block::{MAX_MATCH, MIN_MATCH};

/// Largest distance in the format: half of the window.
pub(super) const SIZE: usize = 1 << 15;
/// The window is filled before fewer bytes than this are ahead.
pub(super) const MARGIN: usize = MAX_MATCH + MIN_MATCH + 1;
/// Largest distance that both programs use.
pub(super) const MAX_DISTANCE: usize = SIZE - MARGIN;
/// A match of three bytes at a larger distance costs more than three literals.
pub(super) const TOO_FAR: usize = 4096;

/// Size of the hashes of the two additional chains, in bits.
const BITS: u32 = 15;

/// An earlier occurrence of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) length: usize,
    pub(super) distance: usize,
}

/// One search.
pub(super) struct Query {
    /// Position in the window whose bytes are searched.
    pub(super) at: usize,
    /// The match must be longer than this.
    pub(super) least: usize,
    /// A match of this length ends the search.
    pub(super) nice: usize,
    /// Largest number of positions to try in the chain of three.
    pub(super) chain: u16,
}

impl Query {
    /// The positions of a chain that are near enough, the nearest first.
    ///
    /// Both programs accept the largest distance only for `first`, the head of the chain of three.
    fn positions<'p>(
        &self,
        chain: &'p HashChain,
        first: usize,
    ) -> impl Iterator<Item = usize> + use<'p> {
        let limit = self.at.saturating_sub(MAX_DISTANCE);
        let limit = if first == limit { limit.saturating_sub(1) } else { limit };
        let near = move |position: usize| (position > limit).then_some(position);

        std::iter::successors(near(chain.before(self.at)), move |&position| {
            near(chain.before(position))
        })
    }
}

/// The longest match so far, of equally long ones the first.
struct BestMatch {
    at: usize,
    length: usize,
    /// 0 if there is none yet.
    distance: usize,
}

impl BestMatch {
    fn new(query: &Query) -> Self {
        BestMatch { at: query.at, length: query.least, distance: 0 }
    }

    /// Takes the match at `position` if it is longer; returns whether it is.
    fn replace_if_longer(&mut self, position: usize, length: usize) -> bool {
        let longer = length > self.length;
        if longer {
            (self.length, self.distance) = (length, self.at - position);
        }
        longer
    }

    fn into_match(self) -> Option<Match> {
        (self.distance != 0).then_some(Match { length: self.length, distance: self.distance })
    }
}

/// Way in which matches are searched; the result is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainSearch {
    /// Along the chain of three only, as both programs do.
    Single,
    /// With two additional chains; pays if a level tries many positions.
    Shortcuts,
}

/// The chains of all positions of the window. Position 0 means "none".
pub(super) struct HashChains {
    hash_bits: u32,
    three: HashChain,
    shortcuts: Option<Box<Shortcuts>>,
    /// Number of positions that were tried.
    pub(super) looks: u64,
}

/// The two additional chains. All positions are added, in order.
struct Shortcuts {
    four: HashChain,
    eight: HashChain,
    /// The first position in neither chain: fewer than eight of its bytes were known so far.
    next: usize,
    /// Number of each position within its chain of three, modulo 2^16, which exceeds the window.
    numbers: Box<[u16; SIZE]>,
}

impl HashChains {
    /// `hash_bits` is the size of the hash of three bytes in the repeated program.
    pub(super) fn new(hash_bits: u32, search: ChainSearch) -> Self {
        let shortcuts = (search == ChainSearch::Shortcuts).then(|| {
            Box::new(Shortcuts {
                four: HashChain::new(BITS),
                eight: HashChain::new(BITS),
                next: 0,
                numbers: Box::new([0; SIZE]),
            })
        });
        HashChains { hash_bits, three: HashChain::new(hash_bits), shortcuts, looks: 0 }
    }

    /// Adds a position, whose bytes are known up to `end`; returns the previous head of its chain
    /// of three.
    pub(super) fn insert(&mut self, window: &[u8], position: usize, end: usize) -> usize {
        let shift = self.hash_bits.div_ceil(MIN_MATCH as u32);
        let byte = |offset: usize| usize::from(window[position + offset]);
        let hash =
            (byte(0) << (2 * shift) ^ byte(1) << shift ^ byte(2)) & ((1 << self.hash_bits) - 1);
        let last = self.three.push(hash, position);

        if let Some(also) = &mut self.shortcuts {
            also.numbers[position % SIZE] = also.numbers[last % SIZE].wrapping_add(1);
            also.insert(window, position, end);
        }
        last
    }

    /// Follows the move of the window's upper half to the lower.
    pub(super) fn slide(&mut self) {
        self.three.slide();
        if let Some(also) = &mut self.shortcuts {
            also.four.slide();
            also.eight.slide();
            also.next = also.next.saturating_sub(SIZE);
        }
    }

    /// The match that the single chain finds.
    ///
    /// The position of the query must be the last one added, and the head before it near enough.
    pub(super) fn longest(&mut self, window: &[u8], query: &Query) -> Option<Match> {
        match &self.shortcuts {
            Some(also) => also.longest(&self.three, window, query, &mut self.looks),
            None => self.three.longest(window, query, &mut self.looks),
        }
    }

    /// The same match near the end of the content, without shortcuts.
    ///
    /// The programs also compare bytes after the end. These have changed since the positions were
    /// added to the additional chains.
    pub(super) fn longest_near_end(&mut self, window: &[u8], query: &Query) -> Option<Match> {
        self.three.longest(window, query, &mut self.looks)
    }
}

impl Shortcuts {
    fn insert(&mut self, window: &[u8], position: usize, end: usize) {
        while self.next <= position && self.next + 8 <= end {
            let bytes = eight_bytes(window, self.next);
            self.four.push(hash_of(bytes << 32), self.next);
            self.eight.push(hash_of(bytes), self.next);
            self.next += 1;
        }
    }

    fn longest(
        &self,
        three: &HashChain,
        window: &[u8],
        query: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        if let found @ Some(_) = self.longest_of_eight(three, window, query, looks) {
            return found;
        }
        if query.least >= 7 {
            return None;
        }
        if let found @ Some(_) = self.longest_of_four(three, window, query, looks) {
            return found;
        }
        if query.least >= MIN_MATCH { None } else { nearest_of_three(three, window, query, looks) }
    }

    /// Whether the single chain reaches `position`, which has the three bytes of the query.
    fn is_reached(&self, position: usize, query: &Query) -> bool {
        self.numbers[query.at % SIZE].wrapping_sub(self.numbers[position % SIZE]) <= query.chain
    }

    /// The longest match of at least eight bytes.
    fn longest_of_eight(
        &self,
        three: &HashChain,
        window: &[u8],
        query: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        let here = &window[query.at..query.at + MAX_MATCH];
        let bytes = eight_bytes(window, query.at);
        let mut best = BestMatch::new(query);

        for position in query.positions(&self.eight, three.before(query.at)) {
            *looks += 1;
            let there = &window[position..position + MAX_MATCH];
            if eight_bytes(there, 0) != bytes {
                continue;
            }
            if !self.is_reached(position, query) {
                break;
            }
            let may_be_longer = there[best.length] == here[best.length];
            if may_be_longer
                && best.replace_if_longer(position, common_length(there, here))
                && best.length >= query.nice
            {
                break;
            }
        }
        best.into_match()
    }

    /// The longest match of four to seven bytes, if there is no longer one.
    fn longest_of_four(
        &self,
        three: &HashChain,
        window: &[u8],
        query: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        let bytes = eight_bytes(window, query.at);
        let mut best = BestMatch::new(query);

        for position in query.positions(&self.four, three.before(query.at)) {
            *looks += 1;
            let different = eight_bytes(window, position) ^ bytes;
            if different << 32 != 0 {
                continue;
            }
            if !self.is_reached(position, query) {
                break;
            }
            if best.replace_if_longer(position, (different.trailing_zeros() / 8) as usize)
                && best.length == 7
            {
                break;
            }
        }
        best.into_match()
    }
}

/// The nearest match of three bytes, if there is no longer one, up to [`TOO_FAR`].
///
/// The lazy levels, the only ones with shortcuts, ignore matches of three bytes at larger
/// distances.
fn nearest_of_three(
    three: &HashChain,
    window: &[u8],
    query: &Query,
    looks: &mut u64,
) -> Option<Match> {
    let bytes = eight_bytes(window, query.at);
    let near = query
        .positions(three, three.before(query.at))
        .take_while(|position| query.at - position <= TOO_FAR);
    let mut near = near.take(query.chain.into()).inspect(|_| *looks += 1);

    let position = near.find(|&position| (eight_bytes(window, position) ^ bytes) << 40 == 0)?;
    Some(Match { length: MIN_MATCH, distance: query.at - position })
}

/// The last position of each hash, and for each position the previous one with the same hash.
struct HashChain {
    heads: Vec<u16>,
    before: Box<[u16; SIZE]>,
}

impl HashChain {
    fn new(hash_bits: u32) -> Self {
        HashChain { heads: vec![0; 1 << hash_bits], before: Box::new([0; SIZE]) }
    }

    /// Makes a position the head of its chain; returns the previous head.
    fn push(&mut self, hash: usize, position: usize) -> usize {
        let last = std::mem::replace(&mut self.heads[hash], position as u16);
        self.before[position % SIZE] = last;
        usize::from(last)
    }

    fn before(&self, position: usize) -> usize {
        usize::from(self.before[position % SIZE])
    }

    fn slide(&mut self) {
        // Two loops, because the compiler turns each into vector instructions.
        self.heads.iter_mut().for_each(|position| *position = position.saturating_sub(SIZE as u16));
        self.before
            .iter_mut()
            .for_each(|position| *position = position.saturating_sub(SIZE as u16));
    }

    /// The longest match, searched as both programs do.
    fn longest(&self, window: &[u8], query: &Query, looks: &mut u64) -> Option<Match> {
        let here = &window[query.at..query.at + MAX_MATCH];
        let mut best = BestMatch::new(query);

        for position in query.positions(self, self.before(query.at)).take(query.chain.into()) {
            *looks += 1;
            let there = &window[position..position + MAX_MATCH];

            // Most positions differ at the end of the best match, which a longer one has to pass.
            let end = best.length;
            let may_be_longer = there[end] == here[end]
                && there[end - 1] == here[end - 1]
                && there[..2] == here[..2];
            if may_be_longer
                && best.replace_if_longer(position, common_length(there, here))
                && best.length >= query.nice
            {
                break;
            }
        }
        best.into_match()
    }
}

/// The eight bytes at `position` as a number, the first lowest.
fn eight_bytes(window: &[u8], position: usize) -> u64 {
    window[position..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Hash of eight bytes, or of four in the upper half.
fn hash_of(bytes: u64) -> usize {
    (bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS)) as usize
}

/// Number of equal bytes at the beginning.
fn common_length(a: &[u8], b: &[u8]) -> usize {
    let mut length = 0;
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let different = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if different != 0 {
            return length + (different.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    length + a[length..].iter().zip(&b[length..]).take_while(|(a, b)| a == b).count()
}
