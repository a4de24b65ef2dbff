//! Coding decisions of compressors of the LZ77 family.

/// One coding decision: literal bytes, or a match with earlier content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Kind of the decision, as it was coded.
    pub kind: PacketKind,
    /// Bytes of plain content that it yields: at least one.
    pub length: u32,
    /// Distance of a match in bytes, at least one; 0 for literals.
    pub distance: u32,
}

/// Kinds of coding decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PacketKind {
    /// Literal bytes; neighbouring literals of one block are one packet.
    #[default]
    Literals = 0,
    /// One byte at the last distance (LZMA's short rep).
    ShortRepeat = 1,
    /// A match at the first of the repeated distances (LZMA's rep 0, zstd's offset value 1).
    Repeat0 = 2,
    /// A match at the second of them.
    Repeat1 = 3,
    /// A match at the third of them.
    Repeat2 = 4,
    /// A match at the fourth of them; LZMA only.
    Repeat3 = 5,
    /// A match at a distance that is coded.
    Match = 6,
}

impl PacketKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        use PacketKind::{Literals, Match, Repeat0, Repeat1, Repeat2, Repeat3, ShortRepeat};
        [Literals, ShortRepeat, Repeat0, Repeat1, Repeat2, Repeat3, Match]
            .get(usize::try_from(number).ok()?)
            .copied()
    }

    /// Index of the repeated distance that it uses; `None` for literals and coded distances.
    ///
    /// That of [`ShortRepeat`](Self::ShortRepeat) is 0.
    pub fn repeat(self) -> Option<usize> {
        match self {
            PacketKind::Literals | PacketKind::Match => None,
            PacketKind::ShortRepeat | PacketKind::Repeat0 => Some(0),
            PacketKind::Repeat1 => Some(1),
            PacketKind::Repeat2 => Some(2),
            PacketKind::Repeat3 => Some(3),
        }
    }
}

impl Packet {
    /// A run of literal bytes.
    pub fn literals(length: u32) -> Self {
        Packet { kind: PacketKind::Literals, length, distance: 0 }
    }

    /// Appends `packet` to `packets`; literals are added to a run at the end after `from`.
    pub fn push(self, packets: &mut Vec<Packet>, from: usize) {
        match packets.get_mut(from..).and_then(<[Packet]>::last_mut) {
            Some(last)
                if last.kind == PacketKind::Literals && self.kind == PacketKind::Literals =>
            {
                last.length += self.length
            }
            _ => packets.push(self),
        }
    }
}
