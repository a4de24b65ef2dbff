//! Errors of reading and rebuilding .xz streams, and their wording.

use std::io;

/// Damage of a stream: no decoder accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XzDefect {
    #[error("the .xz stream ends too early")]
    Truncated,
    #[error("the magic bytes of the .xz format are missing")]
    Magic,
    #[error("the checksum of the stream header is wrong")]
    StreamHeaderChecksum,
    #[error("the checksum of a block header is wrong")]
    BlockHeaderChecksum,
    #[error("a block header is malformed")]
    BlockHeader,
    #[error("a block header declares a {kind} of {declared} bytes, but it is {actual} bytes")]
    DeclaredSize { kind: SizeKind, declared: u64, actual: u64 },
    #[error("an LZMA2 chunk has the invalid control byte {control:#04x}")]
    Control { control: u8 },
    #[error("an LZMA2 chunk needs a reset that is missing")]
    MissingReset,
    #[error("an LZMA2 chunk has the invalid properties {properties:#04x}")]
    Properties { properties: u8 },
    #[error("the compressed data of an LZMA2 chunk is invalid")]
    ChunkData,
    #[error("a match at distance {distance} exceeds the dictionary")]
    Distance { distance: u32 },
    #[error("a match exceeds the end of its LZMA2 chunk")]
    MatchLength,
    #[error("the padding of a block is not zero")]
    BlockPadding,
    #[error("the index differs from the blocks")]
    XzIndex,
    #[error("the stream footer differs from the header and the index")]
    Footer,
}

/// The sizes that a block header can declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeKind {
    #[error("compressed size")]
    Compressed,
    #[error("plain size")]
    Plain,
}

/// Reasons to refuse a stream that may be intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XzRefusal {
    #[error("the dictionary size is {size} bytes; the limit is {limit}")]
    Dictionary { size: u64, limit: u64 },
    #[error("the stream flags {flags:#06x} are not supported")]
    StreamFlags { flags: u16 },
    #[error("the block flags {flags:#04x} are not supported")]
    BlockFlags { flags: u8 },
    #[error("the padding of a block header is not zero")]
    BlockHeaderPadding,
    #[error("the last filter is {id:#x}, not LZMA2")]
    LastFilter { id: u64 },
    #[error("the index exceeds {limit} bytes")]
    IndexSize { limit: usize },
}

/// Failure to read a stream.
#[derive(Debug, thiserror::Error)]
pub enum XzOpenError {
    #[error("cannot read the .xz stream: {0}")]
    Read(#[source] io::Error),
    #[error("the .xz stream is damaged: {0}")]
    Defect(#[from] XzDefect),
    #[error("the .xz stream is refused: {0}")]
    Refused(#[from] XzRefusal),
    /// The reader was used after an error.
    #[error("an earlier error ended the reading of the .xz stream")]
    AfterError,
}

/// Failure to make a stream from plain content and decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XzWriteError {
    /// A call that is not possible now, such as a packet outside a chunk.
    #[error("the parts of the .xz stream are in the wrong order")]
    Order,
    #[error("the plain content at offset {at} is missing")]
    MissingContent { at: u64 },
    #[error("a packet has the impossible length {length}")]
    PacketLength { length: u32 },
    #[error("a packet has the impossible distance {distance}")]
    PacketDistance { distance: u32 },
    #[error("an LZMA2 chunk needs a reset that is missing")]
    MissingReset,
    #[error("an LZMA2 chunk is empty")]
    EmptyChunk,
    #[error("an LZMA2 chunk exceeds its largest size")]
    ChunkSize,
    #[error("a block header declares a {kind} of {declared} bytes, but it is {actual} bytes")]
    DeclaredSize { kind: SizeKind, declared: u64, actual: u64 },
    #[error("the check of a block cannot be computed")]
    CheckNotComputable,
    #[error("the check of a block has {length} bytes")]
    CheckLength { length: usize },
    #[error("the index exceeds {limit} bytes")]
    IndexSize { limit: usize },
}
