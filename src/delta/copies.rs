//! Patches of the kind `copies`: pieces of other files, and what stands between them, as one stream.
//!
//! Both sides work on it without holding it: for what is too large to be in memory, and for what consists
//! of many other files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zstd::stream::read::Decoder;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

use super::varint::{get, put};
use super::{DeltaError, MAX_PATCH, zstd_error};

/// Neither side allocates a larger window: 8 MiB.
const WINDOW_LOG: u32 = 23;

/// A file that pieces are copied from.
pub trait ReadAt {
    /// Reads into `buffer` what stands at `offset`; fewer bytes only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Without its shared position.
impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// Writes a patch, instruction by instruction.
pub struct CopiesWriter {
    context: CCtx<'static>,
    patch: Vec<u8>,
}

impl CopiesWriter {
    /// An empty patch.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_error)?;
        context.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(zstd_error)?;
        Ok(CopiesWriter { context, patch: Vec::new() })
    }

    /// `length` bytes of file number `from`, from `offset` on.
    pub fn copy(&mut self, from: usize, offset: u64, length: u64) -> io::Result<()> {
        let mut instruction = Vec::new();
        put(&mut instruction, (from as u64) << 1 | 1);
        put(&mut instruction, offset);
        put(&mut instruction, length);
        self.write(&instruction)
    }

    /// Bytes that stand nowhere.
    pub fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut instruction = Vec::new();
        put(&mut instruction, (bytes.len() as u64) << 1);
        self.write(&instruction)?;
        self.write(bytes)
    }

    /// Ends the patch; `None` where it has become larger than a patch may be.
    pub fn finish(mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.patch.reserve(CCtx::out_size());
            let length = self.patch.len();
            let mut output = OutBuffer::around_pos(&mut self.patch, length);
            if self.context.end_stream(&mut output).map_err(zstd_error)? == 0 {
                break;
            }
        }
        Ok(Some(self.patch).filter(|patch| patch.len() as u64 <= MAX_PATCH))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What has grown too large is dropped in the end, and need not grow further.
        let mut input =
            InBuffer::around(if self.patch.len() as u64 > MAX_PATCH { &[] } else { bytes });
        while input.pos < input.src.len() {
            self.patch.reserve(CCtx::out_size());
            let length = self.patch.len();
            let mut output = OutBuffer::around_pos(&mut self.patch, length);
            self.context.compress_stream(&mut output, &mut input).map_err(zstd_error)?;
        }
        Ok(())
    }
}

/// What a patch makes, as a stream of exactly the bytes that its listing claims.
pub struct Copies<'a> {
    instructions: io::BufReader<Decoder<'static, &'a [u8]>>,
    /// Opens a file by its number.
    open: Box<dyn FnMut(usize) -> io::Result<Box<dyn ReadAt + 'a>> + 'a>,
    from: Option<(usize, Box<dyn ReadAt + 'a>)>,
    now: CopyPiece,
    left: u64,
}

#[derive(Clone, Copy)]
enum CopyPiece {
    Literal { length: u64 },
    Copy { offset: u64, length: u64 },
}

impl<'a> Copies<'a> {
    /// Prepares to make `length` bytes out of `patch`; `open` gives the file of a number.
    pub fn new(
        patch: &'a [u8],
        length: u64,
        open: impl FnMut(usize) -> io::Result<Box<dyn ReadAt + 'a>> + 'a,
    ) -> Result<Self, DeltaError> {
        if zstd_safe::find_frame_compressed_size(patch) != Ok(patch.len()) {
            return Err(DeltaError::Damaged("it is not one frame".to_owned()));
        }
        let mut decoder = Decoder::with_buffer(patch)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let instructions = io::BufReader::with_capacity(16 << 10, decoder.single_frame());
        Ok(Copies {
            instructions,
            open: Box::new(open),
            from: None,
            now: CopyPiece::Literal { length: 0 },
            left: length,
        })
    }

    /// The next instruction that makes something.
    fn advance(&mut self) -> io::Result<()> {
        let number =
            |from: &mut _| get(from)?.ok_or_else(|| wrong("the patch makes less than it claims"));
        let head = number(&mut self.instructions)?;
        self.now = if head & 1 == 0 {
            CopyPiece::Literal { length: head >> 1 }
        } else {
            let wanted = usize::try_from(head >> 1).map_err(io::Error::other)?;
            if self.from.as_ref().is_none_or(|(open, _)| *open != wanted) {
                self.from = Some((wanted, (self.open)(wanted)?));
            }
            CopyPiece::Copy {
                offset: number(&mut self.instructions)?,
                length: number(&mut self.instructions)?,
            }
        };
        let (CopyPiece::Literal { length } | CopyPiece::Copy { length, .. }) = self.now;
        if length == 0 || length > self.left {
            Err(wrong("an instruction makes nothing, or too much"))
        } else {
            Ok(())
        }
    }
}

impl Read for Copies<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let more = self.instructions.read(&mut [0])?;
            return if more == 0 {
                Ok(0)
            } else {
                Err(wrong("the patch makes more than it claims"))
            };
        }
        if matches!(self.now, CopyPiece::Literal { length: 0 } | CopyPiece::Copy { length: 0, .. })
        {
            self.advance()?;
        }
        let (CopyPiece::Literal { length } | CopyPiece::Copy { length, .. }) = self.now;
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let (n, next) = match (self.now, &self.from) {
            (CopyPiece::Copy { offset, length }, Some((_, from))) => {
                let n = from.read_at(&mut buffer[..most], offset)?;
                let offset = offset
                    .checked_add(n as u64)
                    .ok_or_else(|| wrong("a piece lies outside its file"))?;
                (n, CopyPiece::Copy { offset, length: length - n as u64 })
            }
            _ => {
                let n = self.instructions.read(&mut buffer[..most])?;
                (n, CopyPiece::Literal { length: length - n as u64 })
            }
        };
        if n == 0 {
            return Err(wrong("a piece is longer than what it comes from"));
        }
        self.now = next;
        self.left -= n as u64;
        Ok(n)
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
