//! Deltas: the choice of an old file for each new one, and the patch between them.
//!
//! [`Matching`] decides which old contents serve as sources for which new ones. [`encode`] and
//! [`decode`] handle patches that are built in memory; [`Segments`] and [`Copies`] are readers of
//! patches that are too large for that. [`gzip`] makes the content of gzip files accessible to
//! deltas.
//!
//! All of it is deterministic: the same input and [`Effort`] give the same bytes, on any number of
//! processors.
//!
#![doc = include_str!("format.md")]

pub mod blocks;
mod copies;
pub mod cpio;
mod effort;
mod error;
pub mod gzip;
mod kind;
mod limits;
mod matching;
mod operations;
mod output_buffer;
mod prefix;
mod segments;
mod sketch;
mod varint;

use std::io;

pub use copies::{Copies, CopiesWriter, ReadAt};
pub use effort::{Effort, REBUILD_RATE, RebuildLimit, UnknownEffort};
pub use error::{DeltaError, PatchDefect};
pub use kind::Kind;
pub use limits::{GROUP_OUTPUT, GROUP_SOURCE, MAX_CONTENT, MAX_DEPTH, MAX_GROUP, MAX_PATCH};
pub use matching::{
    CompressedPair, ContentClass, MatchedPairs, Matching, PairGroup, is_compressed_name,
    is_replayed_name,
};
pub use segments::{Segments, encode_segments, segments_memory};
pub use sketch::Sketch;

/// Computes a patch of the kind `prefix` or `operations` from `source` to `output`.
///
/// The same input and effort give the same patch.
pub fn encode(kind: Kind, source: &[u8], output: &[u8], effort: Effort) -> io::Result<Vec<u8>> {
    match kind {
        Kind::Prefix => prefix::encode(source, output, effort),
        Kind::Operations => operations::encode(source, output, effort.delta_level()),
        Kind::Segments | Kind::Copies => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Computes a patch of the kind `operations`, compressed at a level of zstd.
pub fn encode_operations(source: &[u8], output: &[u8], level: i32) -> io::Result<Vec<u8>> {
    operations::encode(source, output, level)
}

/// Decodes a patch of the kind `prefix` or `operations`; `output` is replaced by exactly `length`
/// bytes.
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
        Kind::Segments | Kind::Copies => Err(PatchDefect::NotInMemory.into()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
