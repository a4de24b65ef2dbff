//! Makes new contents out of old ones: which old file serves which new one, and the patch between them.
//!
#![doc = include_str!("format.md")]

pub mod blocks;
mod copies;
pub mod cpio;
mod effort;
pub mod gzip;
mod matching;
mod operations;
mod prefix;
mod segments;
mod sketch;
mod varint;

use std::str::FromStr;
use std::{fmt, io};

use zstd::zstd_safe;

pub use copies::{Copies, CopiesWriter, ReadAt};
pub use effort::{Effort, Opening, REBUILD_RATE};
pub use matching::{Class, CompressedPair, MatchedPairs, Matching, PairGroup, is_packed};
pub use segments::{Segments, encode_segments, segments_weight};
pub use sketch::Sketch;

/// A content larger than this is made piece by piece: what is made in a group is held in memory, its source
/// and itself, and a node has little of it.
pub const MAX_CONTENT: u64 = 48 << 20;
/// About this many bytes of source make a group: enough for small files to share one prefix, few enough
/// for the match finder's tables to cover all of them.
pub const GROUP_SOURCE: u64 = 2 << 20;
/// A group's output is cut at about this size, also where one source serves many targets.
pub const GROUP_OUTPUT: u64 = 8 << 20;
/// The source of a group, and its output, are never larger: a large content is alone in its group.
pub const MAX_GROUP: u64 = MAX_CONTENT;
/// A patch larger than this saves too little to be worth the node's memory.
pub const MAX_PATCH: u64 = 24 << 20;

/// By this many deltas, one upon the other, a content of a repository may be made: what readers follow.
pub const MAX_DEPTH: u32 = 4;

/// How a patch tells what it makes; each has its clause in the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One zstd frame with the source as its prefix: fast on both sides.
    #[default]
    Prefix,
    /// What bsdiff finds, in separate streams: the smallest.
    Operations,
    /// A large file piece by piece, each with a stretch of the source as its prefix.
    Segments,
    /// Pieces of other files and what stands between them.
    Copies,
}

impl Kind {
    const ALL: [(Kind, &'static str); 4] = [
        (Kind::Prefix, "prefix"),
        (Kind::Operations, "operations"),
        (Kind::Segments, "segments"),
        (Kind::Copies, "copies"),
    ];

    /// Whether its patches are undone as a stream: neither source nor output are held in memory.
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

/// Why a patch does not give what its listing promises.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The listing claims more than any group may hold.
    #[error("the patch claims an output of {0} bytes, the limit is {MAX_GROUP}")]
    TooLarge(u64),
    /// The patch is not one frame with the claimed content size.
    #[error("the patch is not one zstd frame with {0} bytes of content")]
    NotTheFrame(u64),
    /// The decoder stumbled.
    #[error("the patch cannot be decoded: {0}")]
    Damaged(String),
    /// It ends too early, or its compressor stumbled.
    #[error("the patch cannot be decoded: {0}")]
    Read(#[from] io::Error),
    /// This machine has too little memory.
    #[error("there is not enough memory for {0} bytes of output")]
    Memory(u64),
}

/// Makes a patch, of the kind `prefix` or `operations`, that makes `output` out of `source`.
///
/// The same input and effort give the same patch.
pub fn encode(kind: Kind, source: &[u8], output: &[u8], effort: Effort) -> io::Result<Vec<u8>> {
    match kind {
        Kind::Prefix => prefix::encode(source, output, effort),
        Kind::Operations => operations::encode(source, output, effort.delta_level()),
        Kind::Segments | Kind::Copies => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Undoes a patch of the kind `prefix` or `operations`: exactly `length` bytes, in place of what `output` held.
pub fn decode(
    kind: Kind,
    source: &[u8],
    patch: &[u8],
    length: u64,
    output: &mut Vec<u8>,
) -> Result<(), DeltaError> {
    match kind {
        Kind::Prefix => prefix::decode(source, patch, length, output),
        Kind::Operations => operations::decode(source, patch, length, output),
        Kind::Segments | Kind::Copies => {
            Err(DeltaError::Damaged("it is to be read as a stream".to_owned()))
        }
    }
}

/// Empties `output` and gives it room for what a group may have.
fn reserve(output: &mut Vec<u8>, length: u64) -> Result<(), DeltaError> {
    let memory = || DeltaError::Memory(length);
    output.clear();
    output.try_reserve_exact(usize::try_from(length).map_err(|_| memory())?).map_err(|_| memory())
}

fn zstd_error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

#[cfg(test)]
pub(crate) mod tests;
