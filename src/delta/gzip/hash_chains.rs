//! Where in the window the same bytes stood before.
//!
//! gzip and zlib follow one chain: of the places whose first three bytes have the same hash, the nearest first, as
//! many as the level allows; they take the longest match, of equal ones the nearest. Many places share three bytes,
//! few share eight. So each place is in two chains more, by its first four and its first eight bytes, and has a
//! number in that of three: what is long is sought where eight bytes are the same, the rest where four are, and the
//! numbers tell whether the one chain would have been followed so far.

use crate::delta::gzip::block::{MAX_MATCH, MIN_MATCH};
use crate::delta::gzip::deflater::{MAX_DISTANCE, Match, SIZE, TOO_FAR};

/// Of the hashes of the two additional chains.
const BITS: u32 = 15;

/// What is sought.
pub(super) struct Query {
    /// The place in the window whose bytes they are.
    pub(super) at: usize,
    /// The match has to be longer than this.
    pub(super) least: usize,
    /// A match so long ends the search.
    pub(super) nice: usize,
    /// How many places of the chain of three are looked at.
    pub(super) chain: u16,
}

impl Query {
    /// The places of a chain that are near enough, the nearest first. At the largest distance only the `first` of the
    /// chain of three is.
    fn each<'p>(
        &self,
        chain: &'p HashChain,
        first: usize,
    ) -> impl Iterator<Item = usize> + use<'p> {
        let limit = self.at.saturating_sub(MAX_DISTANCE);
        let limit = if first == limit { limit.saturating_sub(1) } else { limit };
        let near = move |place: usize| (place > limit).then_some(place);
        std::iter::successors(near(chain.before(self.at)), move |&place| near(chain.before(place)))
    }
}

/// The longest match up to now, of equal ones the first.
struct Best {
    at: usize,
    length: usize,
    /// 0 before there is one.
    distance: usize,
}

impl Best {
    fn of(sought: &Query) -> Self {
        Best { at: sought.at, length: sought.least, distance: 0 }
    }

    /// Takes the match of `length` bytes at `place` where it is longer, and tells whether it is.
    fn takes(&mut self, place: usize, length: usize) -> bool {
        let longer = length > self.length;
        if longer {
            (self.length, self.distance) = (length, self.at - place);
        }
        longer
    }

    fn found(&self) -> Option<Match> {
        (self.distance != 0).then_some(Match { length: self.length, distance: self.distance })
    }
}

/// The chains. HashChains are those of the window; 0 is none.
pub(super) struct HashChains {
    hash_bits: u32,
    three: HashChain,
    /// Only where a level looks at so many places that it pays.
    shortcuts: Option<Box<Shortcuts>>,
    /// HashChains that were looked at.
    pub(super) looks: u64,
}

/// What makes the search shorter, and finds the same. All places are remembered, one after the other.
struct Shortcuts {
    four: HashChain,
    eight: HashChain,
    /// The first place that is in neither: fewer than eight bytes of it were known when it was remembered.
    next: usize,
    /// Which of those with its hash of three bytes each place is, modulo 2^16: no window has so many.
    numbers: Box<[u16; SIZE]>,
}

impl HashChains {
    /// `hash_bits`: how many bits of the hash of three bytes the program has tables for.
    pub(super) fn new(hash_bits: u32, shortcuts: bool) -> Self {
        let shortcuts = shortcuts.then(|| {
            Box::new(Shortcuts {
                four: HashChain::new(BITS),
                eight: HashChain::new(BITS),
                next: 0,
                numbers: Box::new([0; SIZE]),
            })
        });
        HashChains { hash_bits, three: HashChain::new(hash_bits), shortcuts, looks: 0 }
    }

    /// Remembers a place by its first bytes, of which those before `end` are known; gives the one that was remembered
    /// before by the same three.
    pub(super) fn remember(&mut self, window: &[u8], place: usize, end: usize) -> usize {
        let shift = self.hash_bits.div_ceil(MIN_MATCH as u32);
        let byte = |offset: usize| usize::from(window[place + offset]);
        let hash =
            (byte(0) << (2 * shift) ^ byte(1) << shift ^ byte(2)) & ((1 << self.hash_bits) - 1);
        let last = self.three.push(hash, place);
        if let Some(also) = &mut self.shortcuts {
            also.numbers[place % SIZE] = also.numbers[last % SIZE].wrapping_add(1);
            also.remember(window, place, end);
        }
        last
    }

    /// The upper half of the window moved down.
    pub(super) fn slide(&mut self) {
        self.three.slide();
        if let Some(also) = &mut self.shortcuts {
            also.four.slide();
            also.eight.slide();
            also.next = also.next.saturating_sub(SIZE);
        }
    }

    /// The match that the one chain leads to. The place whose match is sought was remembered last, and there is one
    /// like it that is near enough.
    pub(super) fn longest(
        &mut self,
        window: &[u8],
        sought: &Query,
        near_end: bool,
    ) -> Option<Match> {
        match &self.shortcuts {
            // what lies behind the end takes part there, and was not remembered as it is now
            Some(also) if !near_end => also.longest(&self.three, window, sought, &mut self.looks),
            _ => self.three.longest(window, sought, &mut self.looks),
        }
    }
}

impl Shortcuts {
    fn remember(&mut self, window: &[u8], place: usize, end: usize) {
        while self.next <= place && self.next + 8 <= end {
            let bytes = eight(window, self.next);
            self.four.push(hash_of(bytes << 32), self.next);
            self.eight.push(hash_of(bytes), self.next);
            self.next += 1;
        }
    }

    fn longest(
        &self,
        three: &HashChain,
        window: &[u8],
        sought: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        if let found @ Some(_) = self.of_eight(three, window, sought, looks) {
            return found;
        }
        if sought.least >= 7 {
            return None;
        }
        if let found @ Some(_) = self.of_four(three, window, sought, looks) {
            return found;
        }
        if sought.least >= MIN_MATCH { None } else { of_three(three, window, sought, looks) }
    }

    /// Whether the search along the one chain comes to `place`, whose first three bytes are those that are sought.
    fn is_looked_at(&self, place: usize, sought: &Query) -> bool {
        self.numbers[sought.at % SIZE].wrapping_sub(self.numbers[place % SIZE]) <= sought.chain
    }

    fn of_eight(
        &self,
        three: &HashChain,
        window: &[u8],
        sought: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        let here = &window[sought.at..sought.at + MAX_MATCH];
        let bytes = eight(window, sought.at);
        let mut best = Best::of(sought);
        for place in sought.each(&self.eight, three.before(sought.at)) {
            *looks += 1;
            let there = &window[place..place + MAX_MATCH];
            if eight(there, 0) != bytes {
                continue;
            }
            if !self.is_looked_at(place, sought) {
                break;
            }
            let may_be_longer = there[best.length] == here[best.length];
            if may_be_longer && best.takes(place, common(there, here)) && best.length >= sought.nice
            {
                break;
            }
        }
        best.found()
    }

    /// A match of four to seven bytes, where none is longer.
    fn of_four(
        &self,
        three: &HashChain,
        window: &[u8],
        sought: &Query,
        looks: &mut u64,
    ) -> Option<Match> {
        let bytes = eight(window, sought.at);
        let mut best = Best::of(sought);
        for place in sought.each(&self.four, three.before(sought.at)) {
            *looks += 1;
            let different = eight(window, place) ^ bytes;
            if different << 32 != 0 {
                continue;
            }
            if !self.is_looked_at(place, sought) {
                break;
            }
            if best.takes(place, (different.trailing_zeros() / 8) as usize) && best.length == 7 {
                break;
            }
        }
        best.found()
    }
}

/// A match of three bytes, where none is longer, and not from where nobody wants it.
fn of_three(three: &HashChain, window: &[u8], sought: &Query, looks: &mut u64) -> Option<Match> {
    let bytes = eight(window, sought.at);
    let near = sought
        .each(three, three.before(sought.at))
        .take_while(|place| sought.at - place <= TOO_FAR);
    let mut near = near.take(sought.chain.into()).inspect(|_| *looks += 1);
    let place = near.find(|&place| (eight(window, place) ^ bytes) << 40 == 0)?;
    Some(Match { length: MIN_MATCH, distance: sought.at - place })
}

/// The last place of each hash, and of each place the one before with the same hash; 0 is none.
struct HashChain {
    heads: Vec<u16>,
    before: Box<[u16; SIZE]>,
}

impl HashChain {
    fn new(hash_bits: u32) -> Self {
        HashChain { heads: vec![0; 1 << hash_bits], before: Box::new([0; SIZE]) }
    }

    /// Puts a place in front; gives the one that was there.
    fn push(&mut self, hash: usize, place: usize) -> usize {
        let last = std::mem::replace(&mut self.heads[hash], place as u16);
        self.before[place % SIZE] = last;
        usize::from(last)
    }

    fn before(&self, place: usize) -> usize {
        usize::from(self.before[place % SIZE])
    }

    fn slide(&mut self) {
        // one loop each: they become vector instructions
        self.heads.iter_mut().for_each(|place| *place = place.saturating_sub(SIZE as u16));
        self.before.iter_mut().for_each(|place| *place = place.saturating_sub(SIZE as u16));
    }

    /// The longest match, as the program itself seeks it.
    fn longest(&self, window: &[u8], sought: &Query, looks: &mut u64) -> Option<Match> {
        let here = &window[sought.at..sought.at + MAX_MATCH];
        let mut best = Best::of(sought);
        for place in sought.each(self, self.before(sought.at)).take(sought.chain.into()) {
            *looks += 1;
            let there = &window[place..place + MAX_MATCH];
            // most places differ where a longer match would have to go on
            let end = best.length;
            let may_be_longer = there[end] == here[end]
                && there[end - 1] == here[end - 1]
                && there[..2] == here[..2];
            if may_be_longer && best.takes(place, common(there, here)) && best.length >= sought.nice
            {
                break;
            }
        }
        best.found()
    }
}

/// The bytes at `place` as a number, the first of them lowest.
fn eight(window: &[u8], place: usize) -> u64 {
    window[place..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Of a number's bytes; where they are fewer, of those in its upper part.
fn hash_of(bytes: u64) -> usize {
    (bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS)) as usize
}

/// How many bytes are the same.
fn common(a: &[u8], b: &[u8]) -> usize {
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
