//! Kinds of patches.

use std::fmt;
use std::str::FromStr;

/// Kind of a patch; each has its clause in the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One zstd frame with the source as its prefix: fast to encode and to decode.
    #[default]
    Prefix,
    /// The operations of bsdiff in separate streams: the smallest patches.
    Operations,
    /// A large file in segments, each with a range of the source as its prefix.
    Segments,
    /// Pieces of other files, and the literal bytes between them.
    Copies,
}

impl Kind {
    const ALL: [(Kind, &'static str); 4] = [
        (Kind::Prefix, "prefix"),
        (Kind::Operations, "operations"),
        (Kind::Segments, "segments"),
        (Kind::Copies, "copies"),
    ];

    /// Whether its patches are decoded as a stream, without source or output in memory.
    pub fn is_streamed(self) -> bool {
        matches!(self, Kind::Segments | Kind::Copies)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(kind, _)| kind == self).map_or("", |(_, word)| word))
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind).ok_or(())
    }
}
