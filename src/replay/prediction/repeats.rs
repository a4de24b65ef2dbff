//! Repeated distances, by the rules of each family of formats.

use crate::replay::packet::{Packet, PacketKind};

/// A family of compressed formats, with its rules for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LZMA2, in xz.
    Lzma,
    /// zstd.
    Zstd,
}

impl Family {
    /// Longest match in bytes.
    pub fn longest_match(self) -> usize {
        match self {
            Family::Lzma => 273,
            // The longest that 17 bits hold above the shortest; a block ends before.
            Family::Zstd => 131_074,
        }
    }

    /// Shortest match in bytes.
    pub fn shortest_match(self) -> usize {
        match self {
            Family::Lzma => 2,
            Family::Zstd => 3,
        }
    }

    /// Places that a match finder visits at most.
    pub fn search_steps(self) -> usize {
        match self {
            Family::Lzma => 256,
            Family::Zstd => 48,
        }
    }

    /// Length of a match at which a match finder searches no further.
    pub fn sufficient_length(self) -> usize {
        match self {
            Family::Lzma => 64,
            Family::Zstd => usize::MAX,
        }
    }
}

/// The repeated distances at an offset.
#[derive(Clone, Copy, Debug)]
pub struct RepeatedDistances {
    family: Family,
    distances: [u32; 4],
    /// Whether the packet before was literals; zstd's offset values depend on it.
    after_literals: bool,
}

impl RepeatedDistances {
    /// Those at the beginning of a stream.
    pub fn new(family: Family) -> Self {
        let distances = match family {
            Family::Lzma => [1; 4],
            Family::Zstd => [1, 4, 8, 0],
        };
        RepeatedDistances { family, distances, after_literals: false }
    }

    /// Marks the beginning of a block: no literals precede in it.
    pub fn begin_block(&mut self) {
        self.after_literals = false;
    }

    /// The distance of each kind of repeat; 0 if there is no such kind.
    #[inline]
    pub fn row(&self) -> [u32; 4] {
        let [first, second, third, _] = self.distances;
        match self.family {
            Family::Lzma => self.distances,
            Family::Zstd if self.after_literals => [first, second, third, 0],
            Family::Zstd => [second, third, first.wrapping_sub(1), 0],
        }
    }

    /// The last distance.
    pub fn last(&self) -> u32 {
        self.distances[0]
    }

    /// Applies a packet.
    #[inline]
    pub fn apply(&mut self, packet: &Packet) {
        let shift = usize::from(self.family == Family::Zstd && !self.after_literals);
        self.after_literals = packet.kind == PacketKind::Literals;

        let place = match packet.kind {
            PacketKind::Literals | PacketKind::ShortRepeat => return,
            PacketKind::Match => 3,
            kind => (kind.repeat().unwrap_or(0) + shift).min(3),
        };
        self.distances[..=place].rotate_right(1);
        self.distances[0] = packet.distance;
    }
}
