//! Errors of gzip files and of corrections, with their wording.

use std::io;

/// Reason why a file has no plain form.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It begins neither with a gzip member nor with a cpio archive that a member follows.
    #[error("is not compressed by gzip")]
    NotGzip,
    /// It ends early, or a decoder rejects it.
    #[error("is not sound gzip: {0}")]
    Damaged(GzipDefect),
    /// Its plain form is larger than the caller allows; the limit in bytes.
    #[error("holds more than {0} bytes")]
    TooLarge(u64),
}

/// Defect of a gzip file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GzipDefect {
    /// Clause 4: a header beyond the limit, or cut off.
    #[error("a header ends early or is too long")]
    Header,
    /// The inflater rejects the stream.
    #[error("a deflate stream is invalid")]
    Stream,
    /// The file ends inside a stream.
    #[error("the file ends within a deflate stream")]
    TruncatedStream,
    /// The inflater neither reads nor writes.
    #[error("a deflate stream makes no progress")]
    StalledStream,
    /// The file ends before the eight bytes after a stream.
    #[error("the file ends before a checksum")]
    TruncatedTrailer,
}

/// Reason why a file must be sent whole.
#[derive(Debug, thiserror::Error)]
pub enum NotDecomposed {
    /// It is not gzip, is damaged, or holds too much.
    #[error(transparent)]
    Open(OpenError),
    /// No known compressor wrote these bytes.
    #[error("was not written by gzip or zlib")]
    NotReproduced,
    /// It has too many members, or their headers are too long; the limit in bytes.
    #[error("needs more than {0} bytes of corrections")]
    Corrections(usize),
}

/// Reason why a compressed file cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The corrections do not have their format.
    #[error("the corrections of a gzip file are invalid: {0}")]
    Corrections(#[from] CorrectionsDefect),
    /// Fewer plain bytes than the corrections claim; the missing bytes.
    #[error("the plain content of a gzip file ends {0} bytes early")]
    TooShort(u64),
    /// More plain bytes than the corrections claim.
    #[error("the plain content of a gzip file continues after its end")]
    TooLong,
    /// The compressed bytes cannot be written.
    #[error("cannot write a gzip file: {0}")]
    Write(#[source] io::Error),
}

/// Defect of corrections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorrectionsDefect {
    /// Above [`MAX_CORRECTIONS`](super::MAX_CORRECTIONS).
    #[error("they are longer than the format allows")]
    TooLong,
    /// The lengths of all parts overflow.
    #[error("they claim an impossible length")]
    Overflow,
    /// A literal part claims more bytes than follow.
    #[error("bytes are missing")]
    MissingBytes,
    /// A part ends after its first byte.
    #[error("a part ends early")]
    TruncatedPart,
    /// The first byte of a part has no meaning (clause 5).
    #[error("a part has an unknown kind")]
    UnknownPart,
    /// A number ends before its last byte.
    #[error("a number ends early")]
    TruncatedNumber,
    /// A number has more than nine bytes.
    #[error("a number is too large")]
    LargeNumber,
    /// Upper half of the compressor byte (clause 6).
    #[error("the compressor is unknown")]
    UnknownCompressor,
    /// Lower half of the compressor byte (clause 6).
    #[error("the compression level does not exist")]
    UnknownLevel,
}
