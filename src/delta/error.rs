//! Errors of patches, with their wording.

use std::io;

use zstd::zstd_safe;

use super::limits::MAX_GROUP;

/// Reason why a patch does not yield the output that its listing claims.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The listing claims more bytes than a group may have.
    #[error("the patch claims an output of {0} bytes, the limit is {MAX_GROUP}")]
    TooLarge(u64),
    /// The patch is not one frame with the claimed content size.
    #[error("the patch is not one zstd frame with {0} bytes of content")]
    NotTheFrame(u64),
    /// The patch does not have its format.
    #[error("cannot decode the patch: {0}")]
    Damaged(#[from] PatchDefect),
    /// The patch ends early, or decompression failed.
    #[error("cannot decode the patch: {0}")]
    Read(#[from] io::Error),
    /// This machine has too little memory for this number of bytes.
    #[error("there is not enough memory for {0} bytes of output")]
    Memory(u64),
}

/// Defect of a patch; the clauses are those of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchDefect {
    /// zstd rejects it, with this error name.
    #[error("{0}")]
    Zstd(&'static str),
    /// It has a kind that is only decoded as a stream.
    #[error("it has to be read as a stream")]
    NotInMemory,
    /// Clause 7: not exactly one frame.
    #[error("it is not one frame")]
    NotOneFrame,
    /// Clause 5: fewer than five frames.
    #[error("a stream is missing")]
    MissingStream,
    /// Clause 5: bytes after the fifth frame.
    #[error("it continues after its last stream")]
    TrailingBytes,
    /// Clause 5: a stream has fewer bytes than the operations need.
    #[error("a stream ends too early")]
    ShortStream,
    /// Clause 5: a stream has more numbers than another.
    #[error("its streams do not end together")]
    UnequalStreams,
    /// Clause 5: a stream of numbers ends before the first one.
    #[error("its operations are cut off")]
    TruncatedOperations,
    /// Clause 5: an operation with no output, or beyond the claimed length.
    #[error("an operation makes nothing or too much")]
    OperationLength,
    /// Clause 5: an operation reads before or after its source.
    #[error("an operation reads outside its source")]
    OutsideSource,
    /// Clause 6: a segment ends early.
    #[error("it is cut off")]
    TruncatedSegment,
    /// Clause 6: a range of the source beyond the limit.
    #[error("a segment needs too long a range of its source")]
    LongRange,
    /// Clause 6: a frame without a content size, empty, or beyond the limit.
    #[error("a segment does not state its length, or makes too much")]
    SegmentLength,
    /// Clause 6: a range that the source does not have.
    #[error("a segment reads outside its source")]
    SegmentOutsideSource,
    /// Clause 7: an instruction with no output, or beyond the claimed length.
    #[error("an instruction makes nothing or too much")]
    InstructionLength,
    /// Clause 7: an offset beyond that of any file.
    #[error("a piece is outside its file")]
    OutsideFile,
    /// Clause 7: the file or the frame ends within a piece.
    #[error("a piece has fewer bytes than its instruction states")]
    ShortPiece,
    /// The output is shorter than the listing claims.
    #[error("it makes less than it claims")]
    ShortOutput,
    /// The output is longer than the listing claims.
    #[error("it makes more than it claims")]
    LongOutput,
}

impl From<PatchDefect> for io::Error {
    fn from(defect: PatchDefect) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, DeltaError::Damaged(defect))
    }
}

/// An error of the compressor.
pub(super) fn zstd_error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}
