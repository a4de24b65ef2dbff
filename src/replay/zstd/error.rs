//! Errors of reading a frame and of writing it again.

use std::io;

/// Failure to read a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameOpenError {
    /// The input failed.
    #[error("cannot read the zstd frame: {0}")]
    Read(#[source] io::Error),
    /// The frame is damaged.
    #[error("cannot decode the zstd frame: {0}")]
    Defect(#[from] ZstdDefect),
    /// The frame is valid, and is not supported.
    #[error("cannot decode the zstd frame: {0}")]
    Refused(#[from] FrameRefusal),
}

/// Properties of valid frames that are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameRefusal {
    #[error("it needs the dictionary {id}")]
    Dictionary { id: u32 },
    #[error("its window of {size} bytes exceeds the limit of {limit} bytes")]
    Window { size: u64, limit: u64 },
    /// The byte of a run without length does not follow from the content.
    #[error("it contains a run of length 0")]
    EmptyRun,
}

/// Damage of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZstdDefect {
    #[error("it is truncated")]
    Truncated,
    #[error("it does not begin with the magic number")]
    Magic,
    #[error("its header has an invalid length")]
    HeadLength,
    #[error("a reserved bit is set")]
    ReservedBit,
    #[error("a block has the reserved type")]
    BlockKind,
    #[error("a block exceeds the maximum size")]
    BlockSize,
    #[error("a block ends within its literals section")]
    LiteralsLength,
    #[error("a block uses the Huffman table of an earlier block, and there is none")]
    MissingHuffmanTable,
    #[error("the description of a Huffman table is invalid")]
    HuffmanTable,
    #[error("a Huffman stream is invalid")]
    HuffmanStream,
    #[error("the sizes of four Huffman streams are invalid")]
    HuffmanStreamSizes,
    #[error("a block ends within its sequences section")]
    SequencesLength,
    #[error("a block without sequences has data after their number")]
    BytesAfterSequences,
    #[error("a block uses the FSE table of an earlier block, and there is none")]
    MissingFseTable,
    #[error("the description of an FSE table is invalid")]
    FseTable,
    #[error("the bit stream of the sequences is invalid")]
    SequencesStream,
    #[error("a sequence has more literals than are left")]
    LiteralsCount,
    #[error("a match has the distance 0 or begins before the content or the window")]
    Distance,
    #[error("the length of the content differs from the size in the header")]
    ContentSize,
}

/// Failure to write a frame from content and decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameWriteError {
    #[error("cannot encode a zstd block: the content has {content} bytes instead of {size}")]
    ContentSize { content: usize, size: u32 },
    #[error("cannot encode a zstd block: its size of {size} bytes exceeds the maximum")]
    BlockSize { size: usize },
    #[error("cannot encode a zstd block: its packets do not cover its content")]
    Coverage,
    #[error("cannot encode a zstd block: a packet is no literals and no zstd match")]
    Packet,
    #[error("cannot encode a zstd block: the repeated distance is {actual} instead of {expected}")]
    Distance { expected: u32, actual: u32 },
    #[error("cannot encode a zstd block: a run has different bytes or none")]
    Run,
    #[error("cannot encode a zstd block: {length} literals do not fit the size format {format}")]
    LiteralsFormat { format: u8, length: usize },
    #[error("cannot encode a zstd block: {count} sequences do not fit the form of their number")]
    CountForm { count: usize },
    #[error("cannot encode a zstd block: a table has no code for a symbol")]
    Symbol,
    #[error("cannot encode a zstd block: a Huffman stream exceeds the maximum size")]
    HuffmanStreamSize,
    #[error("cannot encode a zstd block: the description of a table has the wrong length")]
    TableLength,
    #[error("cannot encode a zstd block: {0}")]
    Table(#[from] ZstdDefect),
    #[error("cannot encode a zstd frame: its header has no checksum flag")]
    Checksum,
}
