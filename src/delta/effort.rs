//! Amount of work for deltas and compression, and the limit on rebuild time.

use std::fmt;
use std::str::FromStr;

use super::kind::Kind;
use super::limits::{MAX_CONTENT, MAX_GROUP};
use crate::replay::prediction::Reach;

/// Rate at which a node rebuilds gzip files, in bytes of plain form for each second.
///
/// Measured for files of GNU gzip at its default level.
pub const REBUILD_RATE: u64 = 25_000_000;
/// Usual ratio of the size of plain form to compressed file, for gzip, and for xz and zstd.
const GZIP_EXPANSION: u64 = 4;
const REPLAY_EXPANSION: u64 = 6;
/// Cost of replaying a byte of plain form, in halves of a byte that GNU gzip compresses.
///
/// Measured: 14 MB/s for modules in xz, 16 MB/s for an initrd in zstd, old file included.
const REPLAY_COST: u64 = 3;

/// Amount of work for a diff, counted in work and not in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Prefix patches with small tables; a new file matches an old one only by its name.
    Fast,
    /// Prefix patches with larger tables. Small gzip files are decomposed. Files that match none by
    /// name are matched by content.
    #[default]
    Normal,
    /// Patches of bsdiff at the highest compression. Gzip files are decomposed up to 16 MiB, and at
    /// any size if they are archives of the tree's files. Matching is that of `Normal`.
    Best,
}

/// Limit on the rebuild time of a node, and the saving that justifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildLimit {
    /// Seconds of one processor that a diff may cost a node.
    pub seconds: u64,
    /// Bytes that each second has to save.
    pub gain: u64,
    /// Seconds that one file may cost: one processor rebuilds it while the others wait.
    pub seconds_of_file: u64,
}

/// A word that names no effort.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is neither fast, normal nor best")]
pub struct UnknownEffort(pub String);

impl Effort {
    pub(super) const ALL: [(Effort, &'static str); 3] =
        [(Effort::Fast, "fast"), (Effort::Normal, "normal"), (Effort::Best, "best")];

    /// Kind of the patches that are built in memory.
    pub fn patch_kind(self) -> Kind {
        match self {
            Effort::Fast | Effort::Normal => Kind::Prefix,
            Effort::Best => Kind::Operations,
        }
    }

    /// Bytes of old files that the similarity search may read for each byte of unmatched new files.
    pub fn search_budget(self) -> u64 {
        match self {
            Effort::Fast => 0,
            // Enough for moved files, and for copies of about the same size.
            Effort::Normal => 16,
            Effort::Best => 256,
        }
    }

    /// Largest file in bytes that is built in memory; a larger one is built in segments.
    pub fn max_in_memory(self) -> u64 {
        match self {
            Effort::Fast | Effort::Normal => 2 << 20,
            Effort::Best => MAX_CONTENT,
        }
    }

    /// The level of zstd for patches.
    ///
    /// If source and output are similar, the size of the tables matters more than the level: see
    /// [`hash_log`](Self::hash_log).
    pub fn delta_level(self) -> i32 {
        match self {
            Effort::Fast | Effort::Normal => 1,
            Effort::Best => 19,
        }
    }

    /// Binary logarithm of the number of entries of zstd's table; level 1 alone has 14.
    ///
    /// On a patch day (80 MB) 2^18 entries save 5 % in the same time, 2^20 another 2 % in a tenth
    /// more time; 2^22 save hardly more. Levels 3 to 8 give larger patches in more time. Level 9
    /// saves 2 %, and doubles the time of the whole build.
    pub fn hash_log(self) -> Option<u32> {
        match self {
            Effort::Fast => Some(18),
            Effort::Normal => Some(20),
            Effort::Best => None,
        }
    }

    /// The level of zstd for contents that are sent whole.
    pub fn whole_level(self) -> i32 {
        match self {
            Effort::Fast => 3,
            Effort::Normal => 6,
            Effort::Best => 19,
        }
    }

    /// The level of zstd for manifests, which have a line for each entry and are mostly digests.
    pub fn manifest_level(self) -> i32 {
        match self {
            Effort::Fast => 1,
            Effort::Normal => 5,
            Effort::Best => 15,
        }
    }

    /// The level of zstd for the patches of plain forms of xz and zstd files.
    pub fn replay_level(self) -> i32 {
        match self {
            Effort::Fast | Effort::Normal => 3,
            Effort::Best => 19,
        }
    }

    /// Bytes in which the predictor of decisions looks for equal content.
    ///
    /// It decides the memory of a node; 4 MiB instead of 1 save a megabyte of a kernel.
    pub fn replay_reach(self) -> Reach {
        match self {
            Effort::Fast | Effort::Normal => Reach::from_bytes(1 << 20),
            Effort::Best => Reach::from_bytes(4 << 20),
        }
    }

    /// Largest plain form of an xz or zstd file that is built in memory, in bytes.
    pub fn max_replayed(self) -> u64 {
        match self {
            Effort::Fast | Effort::Normal => 8 << 20,
            Effort::Best => MAX_GROUP,
        }
    }

    /// Limit on rebuild time unless the publisher sets another.
    pub fn rebuild_limit(self) -> RebuildLimit {
        let (seconds, seconds_of_file) = match self {
            Effort::Fast => (0, 0),
            Effort::Normal => (45, 3),
            Effort::Best => (90, 90),
        };
        RebuildLimit { seconds, gain: 1_000_000, seconds_of_file }
    }
}

impl RebuildLimit {
    /// Largest sum of the [costs](super::gzip::Decomposition::cost) of a diff.
    pub fn max_cost(&self) -> u64 {
        self.seconds.saturating_mul(REBUILD_RATE)
    }

    /// Cost of rebuilding a gzip file of `size` bytes: an estimate before it is read.
    pub fn expected_gzip_cost(size: u64) -> u64 {
        size.saturating_mul(GZIP_EXPANSION)
    }

    /// Cost of replaying an xz or zstd file of `size` bytes: an estimate before it is read.
    pub fn expected_replay_cost(size: u64) -> u64 {
        RebuildLimit::replay_cost(size.saturating_mul(REPLAY_EXPANSION))
    }

    /// Cost of replaying `plain` bytes of plain form.
    pub fn replay_cost(plain: u64) -> u64 {
        plain.saturating_mul(REPLAY_COST) / 2
    }

    /// Whether one file may have this cost.
    pub fn permits_file(&self, cost: u64) -> bool {
        cost <= self.seconds_of_file.saturating_mul(REBUILD_RATE)
    }

    /// Whether saving `saved` bytes justifies a rebuild of this `cost`.
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
    type Err = UnknownEffort;

    fn from_str(word: &str) -> Result<Self, UnknownEffort> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(effort, _)| *effort)
            .ok_or_else(|| UnknownEffort(word.to_owned()))
    }
}
