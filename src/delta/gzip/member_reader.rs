//! Splits a file with gzip members into its pieces, in order (clauses 1 to 4 of the format).
//!
//! The pieces depend only on the bytes of the file, never on the sizes in which the reader returns
//! them. So the publisher and the node read the same plain form.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use crate::delta::gzip::error::{GzipDefect, OpenError};
use crate::replay::{CpioHeader, PeekInput};

/// Size of the buffers for the file and for its plain form.
const BUFFER: usize = 64 * 1024;
/// Largest gzip header: it holds little more than a file name.
const MAX_HEADER: usize = 4096;
/// Size of the CRC-32 and the length after a deflate stream.
const TRAILER: usize = 8;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// A piece of the file.
pub(super) enum MemberPiece<'a> {
    /// Bytes outside all members: part of the plain form as they are.
    Raw(&'a [u8]),
    /// The header of a member.
    Header(&'a [u8]),
    /// Bytes of a deflate stream, and their content. Either may be empty.
    Deflated { packed: &'a [u8], plain: &'a [u8], last: bool },
    /// The bytes after a deflate stream.
    Trailer(&'a [u8]),
}

impl MemberPiece<'_> {
    /// Number of bytes of the file.
    pub(super) fn length(&self) -> u64 {
        match self {
            MemberPiece::Raw(bytes) | MemberPiece::Header(bytes) | MemberPiece::Trailer(bytes) => {
                bytes.len() as u64
            }
            MemberPiece::Deflated { packed, .. } => packed.len() as u64,
        }
    }
}

/// Reads a file piece by piece.
pub(super) struct MemberReader<R> {
    input: PeekInput<R>,
    state: ReaderState,
    inflate: Decompress,
    plain: Vec<u8>,
    /// Number of plain bytes that are still allowed.
    left: u64,
    /// Number of plain bytes that are allowed in all.
    limit: u64,
    has_members: bool,
}

#[derive(Clone, Copy)]
enum ReaderState {
    /// Between two members or entries.
    Between,
    /// Inside a cpio entry or a run of zero bytes.
    Entry { left: u64 },
    /// Inside a deflate stream.
    Stream,
    /// Before a trailer.
    Trailer,
    /// After the last member or entry (clause 3).
    Rest,
}

impl<R: Read> MemberReader<R> {
    /// Opens a file whose plain form may have at most `limit` bytes.
    pub(super) fn new(input: R, limit: u64) -> Self {
        MemberReader {
            input: PeekInput::new(input),
            state: ReaderState::Between,
            inflate: Decompress::new(false),
            plain: vec![0; BUFFER],
            left: limit,
            limit,
            has_members: false,
        }
    }

    /// The next piece; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        match self.state {
            ReaderState::Between => self.read_next(),
            ReaderState::Entry { left } => self.read_raw(left),
            ReaderState::Rest => self.read_raw(u64::MAX),
            ReaderState::Stream => self.read_stream(),
            ReaderState::Trailer => self.read_trailer(),
        }
    }

    /// Decides which piece begins here (clauses 2 and 3).
    fn read_next(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let at_start = self.input.offset() == 0;
        let ahead = self.input.peek(MAX_HEADER).map_err(OpenError::Read)?;
        if ahead.is_empty() {
            return if self.has_members { Ok(None) } else { Err(OpenError::NotGzip) };
        }

        if let Some(length) = header_length(ahead)? {
            self.has_members = true;
            self.inflate.reset(false);
            self.state = ReaderState::Stream;
            return Ok(Some(MemberPiece::Header(self.input.take_bytes(length))));
        }

        let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 && !at_start {
            return self.read_raw(zeros as u64);
        }

        if let Some(header) = CpioHeader::parse(ahead) {
            return self.read_raw(header.entry_length());
        }

        if !self.has_members {
            return Err(OpenError::NotGzip);
        }
        self.state = ReaderState::Rest;
        self.read_raw(u64::MAX)
    }

    /// At most `left` bytes, unchanged.
    fn read_raw(&mut self, left: u64) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let length = self.input.peek(1).map_err(OpenError::Read)?.len();
        let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return if self.has_members { Ok(None) } else { Err(OpenError::NotGzip) };
        }

        self.left = self.left.checked_sub(length as u64).ok_or(OpenError::TooLarge(self.limit))?;
        self.state = match self.state {
            ReaderState::Rest => ReaderState::Rest,
            _ if left > length as u64 => ReaderState::Entry { left: left - length as u64 },
            _ => ReaderState::Between,
        };
        Ok(Some(MemberPiece::Raw(self.input.take_bytes(length))))
    }

    fn read_stream(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let input = self.input.peek(1).map_err(OpenError::Read)?;
        let ended = input.is_empty();
        let before_in = self.inflate.total_in();
        let before_out = self.inflate.total_out();
        let status = self.inflate.decompress(input, &mut self.plain, FlushDecompress::None);
        let status = status.map_err(|_| OpenError::Damaged(GzipDefect::Stream))?;
        let consumed = (self.inflate.total_in() - before_in) as usize;
        let produced = (self.inflate.total_out() - before_out) as usize;
        let last = status == Status::StreamEnd;

        if ended && !last && produced == 0 {
            return Err(OpenError::Damaged(GzipDefect::TruncatedStream));
        }
        if consumed == 0 && produced == 0 && !last {
            return Err(OpenError::Damaged(GzipDefect::StalledStream));
        }

        self.left =
            self.left.checked_sub(produced as u64).ok_or(OpenError::TooLarge(self.limit))?;
        if last {
            self.state = ReaderState::Trailer;
        }

        Ok(Some(MemberPiece::Deflated {
            packed: self.input.take_bytes(consumed),
            plain: &self.plain[..produced],
            last,
        }))
    }

    fn read_trailer(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        if self.input.peek(TRAILER).map_err(OpenError::Read)?.len() < TRAILER {
            return Err(OpenError::Damaged(GzipDefect::TruncatedTrailer));
        }
        self.state = ReaderState::Between;
        Ok(Some(MemberPiece::Trailer(self.input.take_bytes(TRAILER))))
    }
}

/// Length of the gzip header (RFC 1952, 2.3) at the beginning of `bytes`, if there is one.
fn header_length(bytes: &[u8]) -> Result<Option<usize>, OpenError> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(None);
    }
    let flags = bytes.get(3).copied().unwrap_or_default();
    if flags & RESERVED != 0 {
        return Ok(None);
    }
    let length = header_end(bytes, flags).filter(|end| *end <= bytes.len().min(MAX_HEADER));
    length.map(Some).ok_or(OpenError::Damaged(GzipDefect::Header))
}

fn header_end(bytes: &[u8], flags: u8) -> Option<usize> {
    let mut at = 10;
    if flags & EXTRA != 0 {
        let length = bytes.get(at..at + 2)?;
        at += 2 + usize::from(length[0]) + 256 * usize::from(length[1]);
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    Some(if flags & HEADER_CRC != 0 { at + 2 } else { at })
}
