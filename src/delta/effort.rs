//! How much work goes into deltas, and what it buys.

use std::fmt;
use std::str::FromStr;

use super::{Kind, MAX_CONTENT};

/// A node rebuilds compressed files at about this rate, in bytes of their plain form a second, where they were made
/// by GNU gzip at its usual level.
pub const REBUILD_RATE: u64 = 25_000_000;
/// What is compressed is about this many times as large when it is plain.
const EXPANSION: u64 = 4;

/// How much work goes into a diff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Prefix deltas found with small tables; a new file finds an old one by its name alone.
    Fast,
    /// Prefix deltas found with larger tables; small compressed files are opened; what finds none by its name
    /// finds one by its content.
    #[default]
    Normal,
    /// What bsdiff finds, compressed as far as it goes; compressed files up to 16 MiB are opened, and of any size
    /// where they are archives of the tree's files; files find each other as with `Normal`.
    Best,
}

/// When compressed files are taken apart: what a node may be asked for what it is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Seconds of one processor that a diff may cost a node for rebuilding.
    pub seconds: u64,
    /// Bytes that each of these seconds has to save.
    pub gain: u64,
}

impl Effort {
    pub(super) const ALL: [(Effort, &'static str); 3] =
        [(Effort::Fast, "fast"), (Effort::Normal, "normal"), (Effort::Best, "best")];

    /// The kind of its patches, where source and output fit into memory.
    pub fn kind(self) -> Kind {
        match self {
            Effort::Fast | Effort::Normal => Kind::Prefix,
            Effort::Best => Kind::Operations,
        }
    }

    /// Where new files find no old one by their names: so many times their bytes are read of old ones, to compare
    /// what is in them.
    pub fn search_budget(self) -> u64 {
        match self {
            Effort::Fast => 0,
            // Enough for what was moved, and for copies of about the same size.
            Effort::Normal => 16,
            Effort::Best => 256,
        }
    }

    /// A file that is larger is made piece by piece, so that a node needs little memory for it.
    pub fn in_memory(self) -> u64 {
        match self {
            Effort::Fast | Effort::Normal => 2 << 20,
            Effort::Best => MAX_CONTENT,
        }
    }

    /// The level of zstd for patches. Where source and output are alike, what counts is that the tables have room
    /// for all of the source: see [`hash_log`](Self::hash_log).
    pub fn delta_level(self) -> i32 {
        match self {
            Effort::Fast | Effort::Normal => 1,
            Effort::Best => 19,
        }
    }

    /// So many entries (as a power of two) the table has in which a source is looked up, where level 1 has 2^14.
    ///
    /// On a patch day (80 MB) 2^18 entries save 5 % in the same time, 2^20 another 2 % for a tenth more; 2^22
    /// save hardly more. Levels 3 to 8 give larger patches in more time; level 9 saves 2 %, and the whole build takes
    /// twice as long.
    pub fn hash_log(self) -> Option<u32> {
        match self {
            Effort::Fast => Some(18),
            Effort::Normal => Some(20),
            Effort::Best => None,
        }
    }

    /// The level of zstd for what travels whole.
    pub fn whole_level(self) -> i32 {
        match self {
            Effort::Fast => 3,
            Effort::Normal => 6,
            Effort::Best => 19,
        }
    }

    /// The level of zstd for manifests, which are as long as the image has entries and mostly digests.
    pub fn manifest_level(self) -> i32 {
        match self {
            Effort::Fast => 1,
            Effort::Normal => 5,
            Effort::Best => 15,
        }
    }

    /// When compressed files are taken apart, unless the publisher says otherwise.
    pub fn opening(self) -> Opening {
        let seconds = match self {
            Effort::Fast => 0,
            Effort::Normal => 1,
            Effort::Best => 60,
        };
        Opening { seconds, gain: 1_000_000 }
    }
}

impl Opening {
    /// How much a node may be asked to compress again, as [`Decomposition::cost`](super::gzip::Decomposition::cost) counts it.
    pub fn most(&self) -> u64 {
        self.seconds.saturating_mul(REBUILD_RATE)
    }

    /// How many bytes of compressed files are taken apart to that end: a guess, before any of them was read.
    pub fn budget(&self) -> u64 {
        self.most() / EXPANSION
    }

    /// Whether `saved` bytes are worth a rebuilding of this `cost`.
    pub fn pays(&self, saved: u64, cost: u64) -> bool {
        let (saved, cost, gain) = (u128::from(saved), u128::from(cost), u128::from(self.gain));
        saved * u128::from(REBUILD_RATE) >= cost * gain
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::ALL.iter().find(|(effort, _)| effort == self).map_or("", |(_, word)| word),
        )
    }
}

impl FromStr for Effort {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, known)| *known == word);
        known
            .map(|(effort, _)| *effort)
            .ok_or_else(|| format!("{word} is neither fast, normal nor best"))
    }
}
