//! Heads of LZMA2 chunks.

/// Largest compressed size of a chunk in bytes; also the largest stored chunk.
pub(super) const MAX_PACKED: usize = 1 << 16;
/// Largest plain size of an LZMA chunk in bytes.
pub(super) const MAX_PLAIN: u32 = 1 << 21;

/// The head of an LZMA2 chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    pub kind: ChunkKind,
    /// Bytes of plain content, at least one.
    pub plain_size: u32,
}

/// Kinds of chunks, with the resets before their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// Content without compression; it has no packets.
    Stored(DictionaryUse),
    /// Content that LZMA codes.
    Lzma(Reset),
}

/// Use of earlier content after the start of a stored chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DictionaryUse {
    /// Matches can reach earlier content.
    Keep,
    /// Matches reach this chunk at most.
    Reset,
}

/// State that is reset before an LZMA chunk; each includes those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Nothing,
    /// Probabilities and repeated distances.
    State,
    /// Also the properties.
    Properties(Properties),
    /// Also the dictionary: matches reach this chunk at most.
    Dictionary(Properties),
}

impl Reset {
    /// Number of the reset in the control byte.
    pub(super) fn level(self) -> u8 {
        match self {
            Reset::Nothing => 0,
            Reset::State => 1,
            Reset::Properties(_) => 2,
            Reset::Dictionary(_) => 3,
        }
    }

    /// The properties that it sets.
    pub(super) fn properties(self) -> Option<Properties> {
        match self {
            Reset::Nothing | Reset::State => None,
            Reset::Properties(properties) | Reset::Dictionary(properties) => Some(properties),
        }
    }
}

/// Parameters of the LZMA model: lc, lp and pb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties(u8);

impl Properties {
    /// Decodes the byte of the format.
    ///
    /// `None` if LZMA2 does not permit it: lc + lp is at most 4.
    pub fn from_byte(byte: u8) -> Option<Self> {
        let properties = Properties(byte);
        let literal_bits = properties.literal_context_bits() + properties.literal_position_bits();
        (properties.position_bits() <= 4 && literal_bits <= 4).then_some(properties)
    }

    /// The byte of the format.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// High bits of the byte before a literal that select its probabilities (lc).
    pub(super) fn literal_context_bits(self) -> u32 {
        u32::from(self.0 % 9)
    }

    /// Low bits of the position of a literal that select its probabilities (lp).
    pub(super) fn literal_position_bits(self) -> u32 {
        u32::from(self.0 / 9 % 5)
    }

    /// Low bits of the position of a packet that select its probabilities (pb).
    pub(super) fn position_bits(self) -> u32 {
        u32::from(self.0 / 45)
    }
}

/// The resets that the next chunk of a block has to make at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequiredReset {
    Dictionary,
    Properties,
    Nothing,
}

impl RequiredReset {
    /// The requirement after a chunk of this kind.
    ///
    /// `None` if the chunk makes too few resets.
    pub(super) fn after(self, kind: ChunkKind) -> Option<Self> {
        match (self, kind) {
            (_, ChunkKind::Stored(DictionaryUse::Reset)) => Some(RequiredReset::Properties),
            (_, ChunkKind::Lzma(Reset::Dictionary(_))) => Some(RequiredReset::Nothing),
            (RequiredReset::Dictionary, _) => None,
            (required, ChunkKind::Stored(DictionaryUse::Keep)) => Some(required),
            (_, ChunkKind::Lzma(Reset::Properties(_))) => Some(RequiredReset::Nothing),
            (RequiredReset::Properties, ChunkKind::Lzma(_)) => None,
            (RequiredReset::Nothing, ChunkKind::Lzma(_)) => Some(RequiredReset::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_limited_as_in_lzma2() {
        let permitted = (0..=u8::MAX).filter(|&byte| Properties::from_byte(byte).is_some()).count();

        // Fifteen pairs of lc and lp have a sum of at most four; pb has five values.
        assert_eq!(permitted, 15 * 5);
    }

    #[test]
    fn first_chunk_resets_the_dictionary() {
        let properties = Properties::from_byte(93).expect("valid");
        let start = RequiredReset::Dictionary;

        assert_eq!(start.after(ChunkKind::Stored(DictionaryUse::Keep)), None);
        assert_eq!(start.after(ChunkKind::Lzma(Reset::Properties(properties))), None);
        let stored = start.after(ChunkKind::Stored(DictionaryUse::Reset)).expect("valid");
        assert_eq!(stored.after(ChunkKind::Lzma(Reset::State)), None);
        assert!(stored.after(ChunkKind::Lzma(Reset::Properties(properties))).is_some());
    }
}
