//! Walks through a file with gzip members and gives out its pieces in order.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

/// How much is read, and how much is decompressed, at a time.
const BUFFER: usize = 64 * 1024;
/// A gzip header is no longer: it holds little more than a name.
const MAX_HEADER: usize = 4096;
/// The CRC-32 and the length behind a deflate stream.
const TRAILER: usize = 8;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Without padding and name.
const CPIO_HEADER: usize = 110;

/// Why a file has no plain form.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It does not begin with a gzip member, nor with a cpio archive and a gzip member behind it.
    #[error("is not compressed by gzip")]
    NotGzip,
    /// It ends early, or holds what no decoder takes.
    #[error("is not sound gzip: {0}")]
    Damaged(&'static str),
    /// There is more inside than allowed.
    #[error("holds more than {0} bytes")]
    TooLarge(u64),
}

/// A part of the file.
pub(super) enum MemberPiece<'a> {
    /// Bytes outside all members: they are plain as they are.
    Raw(&'a [u8]),
    /// The header of a member.
    Header(&'a [u8]),
    /// Bytes of a deflate stream, and what became of them. Either may be empty.
    Deflated { packed: &'a [u8], plain: &'a [u8], last: bool },
    /// What stands behind a deflate stream.
    Trailer(&'a [u8]),
}

impl MemberPiece<'_> {
    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        match self {
            MemberPiece::Raw(bytes) | MemberPiece::Header(bytes) | MemberPiece::Trailer(bytes) => {
                bytes.len() as u64
            }
            MemberPiece::Deflated { packed, .. } => packed.len() as u64,
        }
    }
}

/// Reads pieces.
pub(super) struct MemberReader<R> {
    input: BufferedInput<R>,
    state: ReaderState,
    inflate: Decompress,
    plain: Vec<u8>,
    /// How many plain bytes may still come, of how many.
    left: u64,
    limit: u64,
    members: bool,
}

#[derive(Clone, Copy)]
enum ReaderState {
    /// Between two things.
    Between,
    /// Within an entry of a cpio archive.
    Entry { left: u64 },
    /// Within a deflate stream.
    Stream,
    /// Before a trailer.
    Trailer,
    /// Behind all that is known.
    Rest,
}

impl<R: Read> MemberReader<R> {
    /// Opens a file whose plain form may have `limit` bytes.
    pub(super) fn new(input: R, limit: u64) -> Self {
        MemberReader {
            input: BufferedInput {
                inner: input,
                buffer: vec![0; BUFFER],
                start: 0,
                end: 0,
                offset: 0,
                ended: false,
            },
            state: ReaderState::Between,
            inflate: Decompress::new(false),
            plain: vec![0; BUFFER],
            left: limit,
            limit,
            members: false,
        }
    }

    /// The next piece, or none at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        match self.state {
            ReaderState::Between => self.between(),
            ReaderState::Entry { left } => self.raw(left),
            ReaderState::Rest => self.raw(u64::MAX),
            ReaderState::Stream => self.stream(),
            ReaderState::Trailer => self.trailer(),
        }
    }

    fn between(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let at_start = self.input.offset == 0;
        let ahead = self.input.peek(MAX_HEADER)?;
        if ahead.is_empty() {
            return if self.members { Ok(None) } else { Err(OpenError::NotGzip) };
        }
        if let Some(length) = header_length(ahead)? {
            self.members = true;
            self.inflate.reset(false);
            self.state = ReaderState::Stream;
            return Ok(Some(MemberPiece::Header(self.input.take(length))));
        }
        let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 && !at_start {
            return self.raw(zeros as u64);
        }
        if let Some(left) = cpio_entry_length(ahead) {
            return self.raw(left);
        }
        if !self.members {
            return Err(OpenError::NotGzip);
        }
        self.state = ReaderState::Rest;
        self.raw(u64::MAX)
    }

    /// Up to `left` bytes as they are.
    fn raw(&mut self, left: u64) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let length = self.input.peek(1)?.len();
        let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return if self.members { Ok(None) } else { Err(OpenError::NotGzip) };
        }
        self.left = self.left.checked_sub(length as u64).ok_or(OpenError::TooLarge(self.limit))?;
        self.state = match self.state {
            ReaderState::Rest => ReaderState::Rest,
            _ if left > length as u64 => ReaderState::Entry { left: left - length as u64 },
            _ => ReaderState::Between,
        };
        Ok(Some(MemberPiece::Raw(self.input.take(length))))
    }

    fn stream(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        let input = self.input.peek(1)?;
        let ended = input.is_empty();
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, &mut self.plain, FlushDecompress::None);
        let status = status.map_err(|_| OpenError::Damaged("an invalid deflate stream"))?;
        let consumed = (self.inflate.total_in() - before_in) as usize;
        let produced = (self.inflate.total_out() - before_out) as usize;
        let last = status == Status::StreamEnd;
        if ended && !last && produced == 0 {
            return Err(OpenError::Damaged("it ends within a deflate stream"));
        }
        if consumed == 0 && produced == 0 && !last {
            return Err(OpenError::Damaged("a deflate stream that stands still"));
        }
        self.left =
            self.left.checked_sub(produced as u64).ok_or(OpenError::TooLarge(self.limit))?;
        if last {
            self.state = ReaderState::Trailer;
        }
        Ok(Some(MemberPiece::Deflated {
            packed: self.input.take(consumed),
            plain: &self.plain[..produced],
            last,
        }))
    }

    fn trailer(&mut self) -> Result<Option<MemberPiece<'_>>, OpenError> {
        if self.input.peek(TRAILER)?.len() < TRAILER {
            return Err(OpenError::Damaged("it ends before its check sum"));
        }
        self.state = ReaderState::Between;
        Ok(Some(MemberPiece::Trailer(self.input.take(TRAILER))))
    }
}

/// The length of the gzip header (RFC 1952, 2.3) that `bytes` begin with, if they do.
fn header_length(bytes: &[u8]) -> Result<Option<usize>, OpenError> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(None);
    }
    let flags = bytes.get(3).copied().unwrap_or_default();
    if flags & RESERVED != 0 {
        return Ok(None);
    }
    let length = header_end(bytes, flags).filter(|end| *end <= bytes.len().min(MAX_HEADER));
    length.map(Some).ok_or(OpenError::Damaged("a header that ends early or is too long"))
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

/// The length of the entry of a cpio archive ("newc") that `bytes` begin with, padding included.
fn cpio_entry_length(bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..CPIO_HEADER)?;
    if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
        return None;
    }
    let field = |number: usize| {
        let digits = str::from_utf8(&header[6 + 8 * number..14 + 8 * number]).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (size, name) = (field(6)?, field(11)?);
    Some((CPIO_HEADER as u64 + name).next_multiple_of(4) + size.next_multiple_of(4))
}

/// A reader that is looked ahead into.
struct BufferedInput<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes were taken.
    offset: u64,
    ended: bool,
}

impl<R: Read> BufferedInput<R> {
    /// All that is at hand, at least `least` bytes unless the file ends before.
    fn peek(&mut self, least: usize) -> Result<&[u8], OpenError> {
        if self.end - self.start < least {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Fills the buffer whatever the reader gives at a time, so that the same file has the same pieces.
    fn fill(&mut self) -> Result<(), OpenError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < self.buffer.len() && !self.ended {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(OpenError::Read(error)),
            }
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let taken = &self.buffer[self.start..self.start + length];
        self.start += length;
        self.offset += length as u64;
        taken
    }
}
