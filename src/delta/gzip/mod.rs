//! Splits gzip files into plain form and corrections, and rebuilds exactly the same bytes.
//!
//! One changed byte inside a gzip file changes all compressed bytes after it, so a delta of two
//! gzip files saves nothing. A delta of their plain forms does, but a node must be able to rebuild
//! the compressed file bit for bit, because its digest is in the manifest.
//!
//! This module has its own deflate encoder for that purpose. The library `preflate-rs` covers more
//! streams, but rebuilds them at 2 MB/s with hundreds of MB of memory, and has no stable format
//! (`docs/decisions/0004-own-deflate.md` has the measurements). Our own encoder repeats GNU gzip
//! and zlib in less than 1 MB of memory; a file of any other program is sent whole.
//!
//! - [`decompose`] reads a file with `member_reader`, finds the program that wrote it with
//!   `search`, and records `corrections`.
//! - [`Rebuild`] runs the same encoder (`deflater`) to write the file again.
//! - [`gunzip`] reads only the plain form.
//!
#![doc = include_str!("format.md")]

mod block;
mod corrections;
mod deflater;
mod error;
mod hash_chains;
mod huffman;
mod member_reader;
mod rebuild;
mod search;

use std::io::{self, Read, Write};

use flate2::Crc;

use corrections::CorrectionWriter;
use member_reader::{MemberPiece, MemberReader};
use search::ModelSearch;

pub use corrections::MAX_CORRECTIONS;
pub use error::{CorrectionsDefect, GzipDefect, NotDecomposed, OpenError, RebuildError};
pub use rebuild::{Rebuild, plain_length};

/// Limits on the output of a decomposition.
#[derive(Clone, Copy, Debug)]
pub struct GzipLimits {
    /// Bytes of the plain form.
    pub plain: u64,
    /// Bytes of the corrections, at most [`MAX_CORRECTIONS`].
    pub corrections: usize,
}

impl Default for GzipLimits {
    /// A plain form of 1 GiB, larger than that of any initrd.
    fn default() -> Self {
        GzipLimits { plain: 1 << 30, corrections: MAX_CORRECTIONS }
    }
}

/// Result of [`decompose`].
#[derive(Debug)]
pub enum Decomposed {
    /// Plain form and corrections reproduce the file; this is proven.
    Apart(Decomposition),
    /// The file must be sent whole. The output of the plain form is to be discarded.
    Whole(NotDecomposed),
}

/// A decomposed file. Its plain form was passed to the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decomposition {
    /// Input of [`Rebuild`] besides the plain form.
    pub corrections: Vec<u8>,
    /// Bytes of the plain form.
    pub plain_length: u64,
    /// Bytes of the file.
    pub length: u64,
    /// Rebuild time, in bytes of plain form that GNU gzip at its default level compresses in that
    /// time.
    pub cost: u64,
}

/// Writes the plain form of `gz` to `plain`, and returns the corrections.
///
/// Every deflate stream is compressed again while it is read, by the encoder of [`Rebuild`], and
/// compared byte by byte. So a file that is returned as [`Decomposed::Apart`] can be rebuilt. The
/// same file gives the same corrections. Errors are those of `gz` and `plain`. Memory: about 3 MB
/// for any size.
pub fn decompose(
    gz: &mut dyn Read,
    plain: &mut dyn Write,
    limits: &GzipLimits,
) -> io::Result<Decomposed> {
    match try_decompose(gz, plain, limits) {
        Ok(parts) => Ok(Decomposed::Apart(parts)),
        Err(DecomposeError::Whole(reason)) => Ok(Decomposed::Whole(reason)),
        Err(DecomposeError::Failed(error)) => Err(error),
    }
}

enum DecomposeError {
    Whole(NotDecomposed),
    Failed(io::Error),
}

impl From<OpenError> for DecomposeError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Read(error) => DecomposeError::Failed(error),
            error => DecomposeError::Whole(NotDecomposed::Open(error)),
        }
    }
}

impl From<search::NotReproduced> for DecomposeError {
    fn from(_: search::NotReproduced) -> Self {
        DecomposeError::Whole(NotDecomposed::NotReproduced)
    }
}

fn try_decompose(
    gz: &mut dyn Read,
    out: &mut dyn Write,
    limits: &GzipLimits,
) -> Result<Decomposition, DecomposeError> {
    let most = limits.corrections.min(MAX_CORRECTIONS);
    let mut reader = MemberReader::new(gz, limits.plain);
    let mut corrections = CorrectionWriter::default();
    let mut search = ModelSearch::new(0);
    let mut sum = Crc::new();
    let (mut plain_length, mut length, mut cost) = (0, 0, 0u64);

    while let Some(piece) = reader.next()? {
        length += piece.length();
        match piece {
            MemberPiece::Raw(bytes) => {
                plain_length += bytes.len() as u64;
                out.write_all(bytes).map_err(DecomposeError::Failed)?;
                corrections.add_raw(bytes.len());
            }
            MemberPiece::Header(header) => {
                corrections.add_bytes(header);
                search = ModelSearch::new(header[8]);
                sum.reset();
            }
            MemberPiece::Deflated { packed, plain, last } => {
                plain_length += plain.len() as u64;
                out.write_all(plain).map_err(DecomposeError::Failed)?;
                sum.update(plain);
                search.add(packed, plain)?;
                if last {
                    let stream = std::mem::replace(&mut search, ModelSearch::new(0)).finish()?;
                    cost = cost.saturating_add(stream.cost);
                    corrections.add_deflate(stream.model, stream.length);
                }
            }
            MemberPiece::Trailer(trailer) if trailer == rebuild::trailer(&sum) => {
                corrections.add_sum()
            }
            // A wrong checksum is kept as it is (clause 4).
            MemberPiece::Trailer(trailer) => corrections.add_bytes(trailer),
        }

        if corrections.bytes.len() > most {
            return Err(DecomposeError::Whole(NotDecomposed::Corrections(most)));
        }
    }

    let corrections = corrections.finish();
    if corrections.len() > most {
        return Err(DecomposeError::Whole(NotDecomposed::Corrections(most)));
    }
    Ok(Decomposition { corrections, plain_length, length, cost })
}

/// Reads the plain form of `gz`, the same that [`decompose`] writes, of at most `limit` bytes.
///
/// Checksums are not checked. A file without a plain form is an error of the kind
/// [`io::ErrorKind::InvalidData`] with an [`OpenError`] inside. Memory: less than 0.3 MB.
pub fn gunzip<R: Read>(gz: R, limit: u64) -> Gunzip<R> {
    Gunzip { reader: MemberReader::new(gz, limit), buffer: Vec::new(), consumed: 0 }
}

/// The plain form of a gzip file as a reader: see [`gunzip`].
pub struct Gunzip<R> {
    reader: MemberReader<R>,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that were returned.
    consumed: usize,
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
            match self.reader.next() {
                Ok(Some(MemberPiece::Raw(plain) | MemberPiece::Deflated { plain, .. })) => {
                    self.buffer.extend_from_slice(plain)
                }
                Ok(Some(MemberPiece::Header(_) | MemberPiece::Trailer(_))) => {}
                Ok(None) => return Ok(0),
                Err(OpenError::Read(error)) => return Err(error),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }

        let length = buffer.len().min(self.buffer.len() - self.consumed);
        buffer[..length].copy_from_slice(&self.buffer[self.consumed..self.consumed + length]);
        self.consumed += length;
        Ok(length)
    }
}

#[cfg(test)]
pub(crate) mod tests;
