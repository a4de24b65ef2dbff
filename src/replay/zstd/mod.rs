//! zstd frames (RFC 8878) as plain content and coding decisions, and back to the same bytes.
//!
//! A frame's bytes follow from its header, the content, the sequences, and the descriptions of the
//! entropy tables. The tables' descriptions are kept verbatim, so that no choice of an encoder
//! needs to be imitated; the entropy coding itself has one result for given tables. The remaining
//! freedoms of the format are fields of [`BlockHead`].

mod bits;
mod block;
mod error;
mod fse;
mod head;
mod huffman;
mod literals;
mod reader;
mod sequences;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{FrameOpenError, FrameRefusal, FrameWriteError, ZstdDefect};
pub use head::{
    BlockHead, BlockKind, Checksum, CompressedHead, CountForm, LiteralsHead, LiteralsKind,
    MAX_HEAD_LENGTH, SequencesHead, ZstdFrameHead,
};
pub use reader::{FrameLimits, ZstdFrameReader};
pub use writer::ReplayedFrame;

/// Most bytes of content in a block; a smaller window is a smaller bound.
pub const MAX_BLOCK_SIZE: usize = 1 << 17;
