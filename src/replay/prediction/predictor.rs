//! Prediction of the next packet, and its coding.

use super::alignment::Alignment;
use super::comparison::Comparisons;
use super::match_finder::{MatchFinder, SearchLimits};
use super::models::{Models, NUMBERED};
use super::old_text::OldView;
use super::reach::Reach;
use super::repeats::{Family, RepeatedDistances};
use crate::replay::packet::{Packet, PacketKind};
use crate::replay::range_coder::Coder;
use crate::replay::text_view::TextView;

/// Contradiction in a decision stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionDefect {
    /// A kind of packet that the family does not have.
    #[error("a packet has a kind that its format lacks")]
    Kind,
    /// A distance before the beginning of the dictionary.
    #[error("a match begins before the dictionary")]
    Distance,
    /// A length of 0, or beyond the end of the block.
    #[error("a match ends after its block")]
    Length,
}

/// Predicts and codes the packets of one file, from its beginning to its end.
pub struct Predictor {
    family: Family,
    alignment: Alignment,
    finder: MatchFinder,
    comparisons: Comparisons,
    repeats: RepeatedDistances,
    /// First offset of the dictionary, and its size in bytes: the largest distance.
    dictionary: (usize, usize),
    /// Kind of the last packet.
    last: PacketKind,
    /// Right predictions since the last wrong one, and between it and the one before.
    right: [usize; 2],
    cursor: usize,
}

/// The new text around an offset.
#[derive(Clone, Copy)]
pub struct NewView<'n> {
    /// The bytes up to the end of the block, or at least the next 512.
    pub text: TextView<'n>,
    /// Offset of the next packet.
    pub at: usize,
    /// End of the block.
    pub end: usize,
}

/// A predicted packet, and the context of the prediction.
#[derive(Clone, Copy)]
struct Prediction {
    packet: Packet,
    /// Bits of `context::*`.
    context: usize,
}

/// Bits of the context of a prediction.
mod context {
    /// There is an aligned old packet.
    pub const ALIGNED: usize = 1;
    /// The aligned offset is inside the old packet.
    pub const INSIDE: usize = 2;
    /// The content agrees with the old one.
    pub const AGREES: usize = 4;
    /// The old packet is a short repeat, or its match is cut short here.
    pub const SHORT: usize = 8;
    /// A match is predicted.
    pub const MATCH: usize = 16;
    /// The old match ended at the first different byte.
    pub const TO_DIFFERENCE: usize = 32;
    /// The next eight bytes equal the old ones.
    pub const EQUAL: usize = 64;
}

impl Predictor {
    /// Prepares to code a file with `length` bytes of plain content.
    pub fn new(length: usize, reach: Reach) -> Self {
        let family = Family::Lzma;
        Predictor {
            family,
            alignment: Alignment::new(length, 2 * reach.bytes()),
            finder: MatchFinder::new(length, reach.bytes()),
            comparisons: Comparisons::default(),
            repeats: RepeatedDistances::new(family),
            dictionary: (0, 0),
            last: PacketKind::Match,
            right: [0; 2],
            cursor: 0,
        }
    }

    /// Old offset that corresponds to `at`, as far as is known.
    pub fn aligned_offset(&self, at: usize) -> usize {
        self.alignment.expected(at)
    }

    /// Makes more of the old text visible to the alignment.
    pub fn index_old(&mut self, old: TextView<'_>) {
        self.alignment.index(old);
    }

    /// Begins a stream of a family.
    pub fn begin_stream(&mut self, family: Family) {
        self.family = family;
        self.reset_repeats();
    }

    /// Begins a dictionary of `size` bytes: no match reaches before `at`.
    pub fn begin_dictionary(&mut self, at: usize, size: usize) {
        self.dictionary = (at, size);
        self.finder.begin_dictionary(at, size);
    }

    /// Forgets the content before `at`: no match reaches it.
    pub fn reset_dictionary(&mut self, at: usize) {
        self.begin_dictionary(at, self.dictionary.1);
    }

    /// Sets the repeated distances to those at the beginning of a stream.
    pub fn reset_repeats(&mut self) {
        self.repeats = RepeatedDistances::new(self.family);
    }

    /// Begins a block.
    pub fn begin_block(&mut self) {
        self.repeats.begin_block();
        self.last = PacketKind::Match;
    }

    /// Codes the next packet: a match, or one literal byte.
    ///
    /// `given` is the packet to be coded; a decoder ignores it.
    pub fn code<C: Coder>(
        &mut self,
        (coder, models): (&mut C, &mut Models),
        old: Option<OldView<'_>>,
        new: NewView<'_>,
        given: Packet,
    ) -> Result<Packet, DecisionDefect> {
        let predicted = match old {
            Some(old) => self.predict(old, new),
            None => Prediction { packet: Packet::literals(1), context: 0 },
        };

        let beside = self.equal_at_repeat(new, 0);
        let shape = (predicted.context * 11 + length_class(&predicted.packet)) * 3;
        let shape = shape + if predicted.packet.kind == PacketKind::Literals { beside } else { 0 };
        let row = run_class(self.right[0]) << 2 | run_class(self.right[1]) >> 1;
        let wrong = &mut models.wrong[shape << 5 | row];
        let packet = if coder.adaptive(wrong, u32::from(given != predicted.packet)) == 0 {
            self.right[0] += 1;
            predicted.packet
        } else {
            self.right = [0, self.right[0]];
            let packet = self.code_deviation((coder, models), predicted.packet, new, given)?;
            self.check(&packet, new)?;
            packet
        };

        self.repeats.apply(&packet);
        self.comparisons.advance(packet.length);
        self.last = packet.kind;
        Ok(packet)
    }

    /// Predicts a packet from the old one at the aligned offset.
    fn predict(&mut self, old: OldView<'_>, new: NewView<'_>) -> Prediction {
        let NewView { text, at, end } = new;
        let mut predicted = Prediction { packet: Packet::literals(1), context: 0 };
        let Some(aligned) = self.alignment.locate(old.text, text, at) else { return predicted };
        let Some((packet, before)) = old.decisions.at(aligned.offset, &mut self.cursor) else {
            return predicted;
        };

        let is_literal = packet.kind == PacketKind::Literals;
        predicted.context = context::ALIGNED
            | if before > 0 && !is_literal { context::INSIDE } else { 0 }
            | if aligned.agrees { context::AGREES } else { 0 };
        let left = packet.length as usize - before;
        if packet.kind == PacketKind::ShortRepeat {
            predicted.context |= context::SHORT;
            let last = self.repeats.last();
            if last > 0 && self.reaches(new, last) && self.count_equal(new, last, 1) == 1 {
                predicted.packet = Packet { kind: packet.kind, length: 1, distance: last };
            }
        } else if !is_literal && left > 1 {
            self.predict_match(old, new, (packet, left), &mut predicted, aligned.offset);
        }

        let (here, there) = (text.from(at), old.text.from(aligned.offset));
        let compared = 8.min(end - at).min(there.len());
        if here.get(..compared) == there.get(..compared) {
            predicted.context |= context::EQUAL;
        }
        predicted
    }

    /// Predicts a match from the rest of an old one, `left` bytes at the old offset `offset`.
    fn predict_match(
        &mut self,
        old: OldView<'_>,
        new: NewView<'_>,
        (packet, left): (Packet, usize),
        predicted: &mut Prediction,
        offset: usize,
    ) {
        let most = left.min(new.end - new.at);
        let row = self.repeats.row();

        // The same repeat; the place that corresponds to the old source; the same distance.
        let repeated = packet.kind.repeat().map_or(0, |index| row[index]);
        let moved = offset
            .checked_sub(packet.distance as usize)
            .and_then(|source| self.alignment.new_offset(source))
            .and_then(|source| new.at.checked_sub(source))
            .map_or(0, |distance| u32::try_from(distance).unwrap_or(0));
        let (mut length, mut distance) = (0, 0);
        for candidate in [repeated, moved, packet.distance] {
            if candidate == 0 || candidate == distance || !self.reaches(new, candidate) {
                continue;
            }
            let equal = self.count_equal(new, candidate, most);
            if equal > length {
                (length, distance) = (equal, candidate);
            }
            if equal == most {
                break;
            }
        }
        if length < self.family.shortest_match() {
            return;
        }

        predicted.context |= context::MATCH;
        if length < most {
            predicted.context |= context::SHORT;
        } else if old_match_ends_at_difference(old.text, offset + most, packet.distance) {
            // The old match ended where the bytes differ, and so does this one.
            predicted.context |= context::TO_DIFFERENCE;
            let longest = self.family.longest_match().min(new.end - new.at);
            let further = NewView { at: new.at + length, ..new };
            length += self.count_equal(further, distance, longest.saturating_sub(length));
        }

        let repeat = row.iter().position(|repeat| *repeat == distance);
        predicted.packet = Packet {
            kind: repeat.map_or(PacketKind::Match, repeat_kind),
            length: length as u32,
            distance,
        };
    }

    /// Codes a packet that is not as predicted.
    fn code_deviation<C: Coder>(
        &mut self,
        (coder, models): (&mut C, &mut Models),
        predicted: Packet,
        new: NewView<'_>,
        given: Packet,
    ) -> Result<Packet, DecisionDefect> {
        let class =
            kind_class(predicted.kind) << 1 | usize::from(self.last == PacketKind::Literals);
        let beside = [0, 1, 2, 3].map(|index| self.equal_at_repeat(new, index));
        let third = if self.family == Family::Lzma { beside[2].max(beside[3]) } else { beside[2] };
        let kinds = &mut models.kinds[(class * 3 + beside[0]) * 9 + beside[1] * 3 + third];
        let kind = coder.adaptive_tree(kinds, given.kind as u32, 3);
        let kind = PacketKind::from_number(kind).ok_or(DecisionDefect::Kind)?;

        let row = self.repeats.row();
        match kind {
            PacketKind::Literals => Ok(Packet::literals(1)),
            PacketKind::ShortRepeat if self.family != Family::Lzma => Err(DecisionDefect::Kind),
            PacketKind::ShortRepeat => {
                Ok(Packet { kind, length: 1, distance: self.repeats.last() })
            }
            PacketKind::Match => {
                let is_alike = predicted.kind == PacketKind::Match;
                if is_alike {
                    let other = &mut models.other_distance[class];
                    let is_other = given.distance != predicted.distance;
                    if coder.adaptive(other, u32::from(is_other)) == 0 {
                        let distance = predicted.distance;
                        let place = (distance, 8 + class);
                        let length = self.code_length((coder, models), new, place, given.length)?;
                        return Ok(Packet { kind, length, distance });
                    }
                }
                self.code_match((coder, models), new, given)
            }
            _ => {
                let distance = row[kind.repeat().unwrap_or(0)];
                let length =
                    self.code_length((coder, models), new, (distance, class), given.length)?;
                Ok(Packet { kind, length, distance })
            }
        }
    }

    /// Codes the length of a match at a known distance: mostly as far as the bytes agree.
    fn code_length<C: Coder>(
        &mut self,
        (coder, models): (&mut C, &mut Models),
        new: NewView<'_>,
        (distance, class): (u32, usize),
        given: u32,
    ) -> Result<u32, DecisionDefect> {
        if distance == 0 || !self.reaches(new, distance) {
            return Err(DecisionDefect::Distance);
        }
        let longest = self.family.longest_match().min(new.end - new.at);
        let equal = self.count_equal(new, distance, longest);
        let few = equal.min(15);
        let not_longest = &mut models.not_longest[(class & 15) << 4 | few];
        if coder.adaptive(not_longest, u32::from(given as usize != equal)) == 0 {
            Ok(equal as u32)
        } else {
            Ok(models.lengths[few].code(coder, given))
        }
    }

    /// Codes a match by its place in the list of a match finder, or by length and distance.
    fn code_match<C: Coder>(
        &mut self,
        (coder, models): (&mut C, &mut Models),
        new: NewView<'_>,
        given: Packet,
    ) -> Result<Packet, DecisionDefect> {
        let kind = PacketKind::Match;
        let limits = SearchLimits {
            longest: self.family.longest_match().min(new.end - new.at),
            sufficient: self.family.sufficient_length(),
            steps: self.family.search_steps(),
        };
        let found = self.finder.search(new.text, new.at, limits, &mut self.comparisons);

        // The list is coded from its longest match on.
        let class = usize::from(self.last == PacketKind::Literals);
        for (number, candidate) in found.iter().rev().take(NUMBERED).enumerate() {
            let is_other = (candidate.length, candidate.distance) != (given.length, given.distance);
            let not_candidate = &mut models.not_candidate[class << 3 | number];
            if coder.adaptive(not_candidate, u32::from(is_other)) == 0 {
                let (length, distance) = (candidate.length, candidate.distance);
                return Ok(Packet { kind, length, distance });
            }
        }

        let longest = found.last().map_or(0, |longest| longest.length);
        let length = models.lengths[16 + (longest as usize).min(15)].code(coder, given.length);
        let nearest = found.iter().find(|found| found.length >= length);
        let nearest = nearest.map_or(0, |nearest| nearest.distance);
        let class = (length as usize).min(9) << 1 | usize::from(nearest != 0);
        let is_other = given.distance != nearest;
        if coder.adaptive(&mut models.not_nearest[class], u32::from(is_other)) == 0 {
            return Ok(Packet { kind, length, distance: nearest });
        }

        let distance = models.distances.code(coder, given.distance);
        Ok(Packet { kind, length, distance })
    }

    /// Refuses a packet that the text cannot hold.
    fn check(&self, packet: &Packet, new: NewView<'_>) -> Result<(), DecisionDefect> {
        if packet.length == 0 || packet.length as usize > new.end - new.at {
            return Err(DecisionDefect::Length);
        }
        if packet.kind != PacketKind::Literals
            && (packet.distance == 0 || !self.reaches(new, packet.distance))
        {
            return Err(DecisionDefect::Distance);
        }
        Ok(())
    }

    /// Whether the dictionary has a byte at this distance.
    #[inline(always)]
    fn reaches(&self, new: NewView<'_>, distance: u32) -> bool {
        let (first, size) = self.dictionary;
        distance as usize <= (new.at - first).min(size)
    }

    #[inline(always)]
    fn count_equal(&mut self, new: NewView<'_>, distance: u32, limit: usize) -> usize {
        let NewView { text, at, .. } = new;
        self.comparisons.count_equal(text.bytes, at - text.start, distance as usize, limit)
    }

    /// Number of equal bytes at a repeated distance, at most two.
    #[inline(always)]
    fn equal_at_repeat(&self, new: NewView<'_>, index: usize) -> usize {
        let distance = self.repeats.row()[index];
        if distance == 0 || !self.reaches(new, distance) {
            return 0;
        }
        let here = new.text.from(new.at);
        let there = new.text.from(new.at - distance as usize);
        let limit = 2.min(new.end - new.at);
        here.iter().zip(there).take(limit).take_while(|(x, y)| x == y).count()
    }
}

/// Whether the old bytes differ at `end` and at `distance` before it.
fn old_match_ends_at_difference(old: TextView<'_>, end: usize, distance: u32) -> bool {
    let here = old.from(end).first();
    let there = end.checked_sub(distance as usize).and_then(|source| old.from(source).first());
    matches!((here, there), (Some(here), Some(there)) if here != there)
}

fn repeat_kind(index: usize) -> PacketKind {
    [PacketKind::Repeat0, PacketKind::Repeat1, PacketKind::Repeat2, PacketKind::Repeat3][index & 3]
}

/// Class of a length: short ones by themselves, three for longer ones.
#[inline(always)]
fn length_class(packet: &Packet) -> usize {
    match packet.length {
        length @ 0..8 => length as usize,
        8..16 => 8,
        16..32 => 9,
        _ => 10,
    }
}

/// Class of a number of right predictions, 0 to 7.
#[inline(always)]
fn run_class(right: usize) -> usize {
    match right {
        0..3 => right,
        3..5 => 3,
        5..9 => 4,
        9..33 => 5,
        33..129 => 6,
        _ => 7,
    }
}

fn kind_class(kind: PacketKind) -> usize {
    match kind {
        PacketKind::Literals => 0,
        PacketKind::ShortRepeat => 1,
        PacketKind::Match => 3,
        _ => 2,
    }
}
