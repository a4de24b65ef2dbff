//! The probability model of LZMA: packets as bits of a range coder.
//!
//! Decoding and encoding are the same code, which is generic over the [`Coder`]. A decoder ignores
//! the values that it is given; both return the values that were coded.

use super::chunk::Properties;
use crate::replay::range_coder::{Coder, HALF, Probability};
use crate::replay::{Packet, PacketKind};

/// Smallest and largest length of a match, in bytes.
pub(super) const MATCH_LENGTHS: std::ops::RangeInclusive<u32> = 2..=273;

/// The format has 12 states. Tables have 16 entries, so that a masked index needs no check.
const STATES: usize = 16;
/// States before this one follow a literal.
const FIRST_MATCH_STATE: usize = 7;
/// Combinations of position bits.
const POSITIONS: usize = 16;
/// Combinations of literal context and position bits.
const LITERAL_CONTEXTS: usize = 16;
/// Probabilities of one literal context: three trees of 256.
const LITERAL_TREES: usize = 0x300;

/// The state of LZMA between two packets.
pub(super) struct LzmaModel {
    literal_context_bits: u32,
    literal_position_mask: usize,
    position_mask: usize,
    state: usize,
    /// The last four distances in bytes, the latest first.
    repeats: [u32; 4],
    kinds: Kinds,
    lengths: Lengths,
    repeat_lengths: Lengths,
    distances: Distances,
    literals: [[Probability; LITERAL_TREES]; LITERAL_CONTEXTS],
}

impl LzmaModel {
    /// The model after a reset of all state.
    pub(super) fn new(properties: Properties) -> Box<Self> {
        let mut model = Box::new(LzmaModel {
            literal_context_bits: 0,
            literal_position_mask: 0,
            position_mask: 0,
            state: 0,
            repeats: [1; 4],
            kinds: Kinds::INITIAL,
            lengths: Lengths::INITIAL,
            repeat_lengths: Lengths::INITIAL,
            distances: Distances::INITIAL,
            literals: [[HALF; LITERAL_TREES]; LITERAL_CONTEXTS],
        });
        model.set_properties(properties);
        model
    }

    /// Resets the state, and the properties if they are given.
    pub(super) fn reset(&mut self, properties: Option<Properties>) {
        if let Some(properties) = properties {
            self.set_properties(properties);
        }
        self.state = 0;
        self.repeats = [1; 4];
        self.kinds = Kinds::INITIAL;
        self.lengths = Lengths::INITIAL;
        self.repeat_lengths = Lengths::INITIAL;
        self.distances = Distances::INITIAL;

        // Only contexts that the properties use: new properties always make a reset of their own.
        let contexts = (self.literal_position_mask + 1) << self.literal_context_bits;
        for trees in self.literals.iter_mut().take(contexts) {
            trees.fill(HALF);
        }
    }

    fn set_properties(&mut self, properties: Properties) {
        self.literal_context_bits = properties.literal_context_bits();
        self.literal_position_mask = (1 << properties.literal_position_bits()) - 1;
        self.position_mask = (1 << properties.position_bits()) - 1;
    }

    /// The latest distance if the next literal depends on the byte there.
    #[inline(always)]
    pub(super) fn matched_distance(&self) -> Option<u32> {
        (self.state >= FIRST_MATCH_STATE).then_some(self.repeats[0])
    }

    /// Codes whether the next packet is a match (1) or a literal (0).
    ///
    /// `position` is the length of the dictionary so far; only its low bits count.
    #[inline(always)]
    pub(super) fn code_match_bit<C: Coder>(
        &mut self,
        coder: &mut C,
        position: usize,
        is_match: u32,
    ) -> u32 {
        let position_bits = position & self.position_mask & (POSITIONS - 1);
        coder.bit(&mut self.kinds.is_match[self.state & (STATES - 1)][position_bits], is_match)
    }

    /// Codes a literal that follows the byte `before`, and a literal.
    #[inline(always)]
    pub(super) fn code_literal<C: Coder>(
        &mut self,
        coder: &mut C,
        position: usize,
        before: u8,
        literal: u8,
    ) -> u8 {
        let trees = self.literal_trees(position, before);
        let mut node = 1;
        let mut rest = u32::from(literal) << 1;
        while node < 0x100 {
            let bit = coder.bit(&mut trees[node], rest >> 8 & 1);
            node = node << 1 | bit as usize;
            rest <<= 1;
        }
        self.update_state_after_literal();
        node as u8
    }

    /// Codes a literal that follows a match; `matched` is the byte at the latest distance.
    #[inline(always)]
    pub(super) fn code_literal_after_match<C: Coder>(
        &mut self,
        coder: &mut C,
        position: usize,
        [before, matched]: [u8; 2],
        literal: u8,
    ) -> u8 {
        let trees = self.literal_trees(position, before);
        let mut node = 1;
        let mut rest = u32::from(literal);
        let mut matched = usize::from(matched) << 1;
        // The upper two trees are used as long as the bits are equal.
        let mut offset = 0x100;
        while node < 0x100 {
            let matched_bit = matched & offset;
            let index = offset + matched_bit + node;
            let bit = coder.bit(&mut trees[index], rest >> 7 & 1);
            node = node << 1 | bit as usize;
            offset &= if bit == 1 { matched } else { !matched };
            matched <<= 1;
            rest <<= 1;
        }
        self.update_state_after_literal();
        node as u8
    }

    /// Codes a match after its match bit; the distance of a repeat is not used.
    ///
    /// The distance that is returned is 0 for the end marker, which LZMA2 does not permit.
    #[inline(always)]
    pub(super) fn code_match<C: Coder>(
        &mut self,
        coder: &mut C,
        position: usize,
        packet: Packet,
    ) -> Packet {
        let position_bits = position & self.position_mask & (POSITIONS - 1);
        let state = self.state & (STATES - 1);
        let follows_match = state >= FIRST_MATCH_STATE;

        let is_repeat = u32::from(packet.kind != PacketKind::Match);
        if coder.bit(&mut self.kinds.is_repeat[state], is_repeat) == 0 {
            self.state = if follows_match { 10 } else { 7 };
            let length = self.lengths.code(coder, position_bits, packet.length);
            let distance = self.distances.code(coder, length, packet.distance);
            let [r0, r1, r2, _] = self.repeats;
            self.repeats = [distance, r0, r1, r2];
            return Packet { kind: PacketKind::Match, length, distance };
        }

        let [r0, r1, r2, r3] = self.repeats;
        let kind;
        let is_older = u32::from(packet.kind > PacketKind::Repeat0);
        if coder.bit(&mut self.kinds.is_older_than_0[state], is_older) == 0 {
            let is_long = u32::from(packet.kind == PacketKind::Repeat0);
            if coder.bit(&mut self.kinds.is_long[state][position_bits], is_long) == 0 {
                self.state = if follows_match { 11 } else { 9 };
                return Packet { kind: PacketKind::ShortRepeat, length: 1, distance: r0 };
            }
            kind = PacketKind::Repeat0;
        } else {
            let is_older = u32::from(packet.kind > PacketKind::Repeat1);
            if coder.bit(&mut self.kinds.is_older_than_1[state], is_older) == 0 {
                kind = PacketKind::Repeat1;
                self.repeats = [r1, r0, r2, r3];
            } else {
                let is_older = u32::from(packet.kind > PacketKind::Repeat2);
                if coder.bit(&mut self.kinds.is_older_than_2[state], is_older) == 0 {
                    kind = PacketKind::Repeat2;
                    self.repeats = [r2, r0, r1, r3];
                } else {
                    kind = PacketKind::Repeat3;
                    self.repeats = [r3, r0, r1, r2];
                }
            }
        }
        self.state = if follows_match { 11 } else { 8 };
        let length = self.repeat_lengths.code(coder, position_bits, packet.length);
        Packet { kind, length, distance: self.repeats[0] }
    }

    #[inline(always)]
    fn literal_trees(&mut self, position: usize, before: u8) -> &mut [Probability; LITERAL_TREES] {
        let high = (position & self.literal_position_mask) << self.literal_context_bits;
        let low = usize::from(before) >> (8 - self.literal_context_bits);
        &mut self.literals[(high + low) & (LITERAL_CONTEXTS - 1)]
    }

    #[inline(always)]
    fn update_state_after_literal(&mut self) {
        const NEXT: [u8; STATES] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 0, 0, 0, 0];
        self.state = NEXT[self.state & (STATES - 1)].into();
    }
}

/// Probabilities of packet kinds in each state.
struct Kinds {
    is_match: [[Probability; POSITIONS]; STATES],
    is_repeat: [Probability; STATES],
    is_older_than_0: [Probability; STATES],
    is_older_than_1: [Probability; STATES],
    is_older_than_2: [Probability; STATES],
    is_long: [[Probability; POSITIONS]; STATES],
}

impl Kinds {
    const INITIAL: Self = Kinds {
        is_match: [[HALF; POSITIONS]; STATES],
        is_repeat: [HALF; STATES],
        is_older_than_0: [HALF; STATES],
        is_older_than_1: [HALF; STATES],
        is_older_than_2: [HALF; STATES],
        is_long: [[HALF; POSITIONS]; STATES],
    };
}

/// Probabilities of match lengths.
struct Lengths {
    is_above_low: Probability,
    is_above_middle: Probability,
    low: [[Probability; 8]; POSITIONS],
    middle: [[Probability; 8]; POSITIONS],
    high: [Probability; 256],
}

impl Lengths {
    const INITIAL: Self = Lengths {
        is_above_low: HALF,
        is_above_middle: HALF,
        low: [[HALF; 8]; POSITIONS],
        middle: [[HALF; 8]; POSITIONS],
        high: [HALF; 256],
    };

    #[inline(always)]
    fn code<C: Coder>(&mut self, coder: &mut C, position_bits: usize, length: u32) -> u32 {
        let excess = length.wrapping_sub(2);
        if coder.bit(&mut self.is_above_low, u32::from(excess >= 8)) == 0 {
            return 2 + coder.tree(&mut self.low[position_bits], excess, 3);
        }
        let excess = excess.wrapping_sub(8);
        if coder.bit(&mut self.is_above_middle, u32::from(excess >= 8)) == 0 {
            return 10 + coder.tree(&mut self.middle[position_bits], excess, 3);
        }
        18 + coder.tree(&mut self.high, excess.wrapping_sub(8), 8)
    }
}

/// Probabilities of match distances.
struct Distances {
    slots: [[Probability; 64]; 4],
    middle: [Probability; 128],
    low: [Probability; 16],
}

impl Distances {
    const INITIAL: Self =
        Distances { slots: [[HALF; 64]; 4], middle: [HALF; 128], low: [HALF; 16] };

    /// Codes the distance of a match of `length` bytes, at least two.
    #[inline(always)]
    fn code<C: Coder>(&mut self, coder: &mut C, length: u32, distance: u32) -> u32 {
        let value = distance.wrapping_sub(1);
        let slots = &mut self.slots[length.wrapping_sub(2).min(3) as usize];
        let slot = coder.tree(slots, distance_slot(value), 6);
        let coded = if slot < 4 {
            slot
        } else {
            let bits = (slot >> 1) - 1;
            let base = (2 | slot & 1) << bits;
            let rest = value.wrapping_sub(base);
            if slot < 14 {
                let probabilities = &mut self.middle[(base - slot) as usize..];
                base + coder.reverse_tree(probabilities, rest, bits)
            } else {
                let high = coder.direct(rest >> 4, bits - 4);
                base + (high << 4) + coder.reverse_tree(&mut self.low, rest & 15, 4)
            }
        };
        coded.wrapping_add(1)
    }
}

/// The two highest bits of a distance and their place, in six bits.
#[inline(always)]
fn distance_slot(value: u32) -> u32 {
    if value < 4 {
        return value;
    }
    let highest = 31 - value.leading_zeros();
    highest * 2 + (value >> (highest - 1) & 1)
}
