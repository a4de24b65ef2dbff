//! Patches of the kind `copies`: pieces of other files, and literal bytes between them (clause 7).
//!
//! Encoder and decoder work on a stream. So the kind serves files that are too large for memory,
//! and files that consist of many other files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zstd::stream::read::Decoder;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

use super::error::{DeltaError, PatchDefect, zstd_error};
use super::limits::MAX_PATCH;
use super::varint::{get, put};

/// Limit on the window of both sides: 8 MiB.
const WINDOW_LOG: u32 = 23;

/// A file from which pieces are copied.
pub trait ReadAt {
    /// Reads the bytes at `offset` into `buffer`; returns 0 only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Does not use the shared file position (pread(2)).
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

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
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
    /// Begins an empty patch.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_error)?;
        context.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(zstd_error)?;
        Ok(CopiesWriter { context, patch: Vec::new() })
    }

    /// Adds `length` bytes of file number `from`, from `offset` on.
    pub fn add_copy(&mut self, from: usize, offset: u64, length: u64) -> io::Result<()> {
        let mut instruction = Vec::new();
        put(&mut instruction, (from as u64) << 1 | 1);
        put(&mut instruction, offset);
        put(&mut instruction, length);
        self.write(&instruction)
    }

    /// Adds literal bytes.
    pub fn add_literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut instruction = Vec::new();
        put(&mut instruction, (bytes.len() as u64) << 1);
        self.write(&instruction)?;
        self.write(bytes)
    }

    /// Ends the patch; `None` if it is larger than [`MAX_PATCH`].
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
        // `finish` discards a patch that is too large, so it does not grow further.
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

/// Reader of the output of a patch; it yields exactly the bytes that the listing claims.
pub struct Copies<'a> {
    instructions: io::BufReader<Decoder<'static, &'a [u8]>>,
    /// Opens a file by its number.
    open: Box<dyn FnMut(usize) -> io::Result<Box<dyn ReadAt + 'a>> + 'a>,
    /// The file that was opened last, with its number.
    file: Option<(usize, Box<dyn ReadAt + 'a>)>,
    /// The rest of the current instruction.
    current: CopyPiece,
    /// Number of bytes of the output that are not read yet.
    left: u64,
}

#[derive(Clone, Copy)]
enum CopyPiece {
    Literal { length: u64 },
    Copy { offset: u64, length: u64 },
}

impl<'a> Copies<'a> {
    /// Prepares to decode `length` bytes from `patch`; `open` returns the file of a number.
    pub fn new(
        patch: &'a [u8],
        length: u64,
        open: impl FnMut(usize) -> io::Result<Box<dyn ReadAt + 'a>> + 'a,
    ) -> Result<Self, DeltaError> {
        if zstd_safe::find_frame_compressed_size(patch) != Ok(patch.len()) {
            return Err(PatchDefect::NotOneFrame.into());
        }

        let mut decoder = Decoder::with_buffer(patch)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let instructions = io::BufReader::with_capacity(16 << 10, decoder.single_frame());
        Ok(Copies {
            instructions,
            open: Box::new(open),
            file: None,
            current: CopyPiece::Literal { length: 0 },
            left: length,
        })
    }

    /// Reads the next instruction.
    fn advance(&mut self) -> io::Result<()> {
        let head = read_number(&mut self.instructions)?;
        self.current = if head & 1 == 0 {
            CopyPiece::Literal { length: head >> 1 }
        } else {
            let wanted = usize::try_from(head >> 1).map_err(io::Error::other)?;
            if self.file.as_ref().is_none_or(|(open, _)| *open != wanted) {
                self.file = Some((wanted, (self.open)(wanted)?));
            }
            CopyPiece::Copy {
                offset: read_number(&mut self.instructions)?,
                length: read_number(&mut self.instructions)?,
            }
        };

        let (CopyPiece::Literal { length } | CopyPiece::Copy { length, .. }) = self.current;
        if length == 0 || length > self.left {
            Err(PatchDefect::InstructionLength.into())
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
            return if more == 0 { Ok(0) } else { Err(PatchDefect::LongOutput.into()) };
        }
        if matches!(
            self.current,
            CopyPiece::Literal { length: 0 } | CopyPiece::Copy { length: 0, .. }
        ) {
            self.advance()?;
        }

        let (CopyPiece::Literal { length } | CopyPiece::Copy { length, .. }) = self.current;
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let (n, next) = match (self.current, &self.file) {
            (CopyPiece::Copy { offset, length }, Some((_, file))) => {
                let n = file.read_at(&mut buffer[..most], offset)?;
                let offset = offset.checked_add(n as u64).ok_or(PatchDefect::OutsideFile)?;
                (n, CopyPiece::Copy { offset, length: length - n as u64 })
            }
            _ => {
                let n = self.instructions.read(&mut buffer[..most])?;
                (n, CopyPiece::Literal { length: length - n as u64 })
            }
        };

        if n == 0 {
            return Err(PatchDefect::ShortPiece.into());
        }
        self.current = next;
        self.left -= n as u64;
        Ok(n)
    }
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    get(from)?.ok_or_else(|| PatchDefect::ShortOutput.into())
}
