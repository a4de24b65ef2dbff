//! Takes gzip files apart, so that a delta can be taken of what is inside, and makes the same bytes again.
//!
#![doc = include_str!("format.md")]

mod block;
mod corrections;
mod deflater;
mod hash_chains;
mod huffman;
mod member_reader;
mod rebuild;
mod search;

use std::io::{self, Read, Write};

use flate2::Crc;

use corrections::CorrectionWriter;
use member_reader::{MemberPiece, MemberReader};
use search::{ModelSearch, NotReproduced};

pub use member_reader::OpenError;
pub use rebuild::{Rebuild, RebuildError, plain_length};

/// Corrections are never longer: those of one member have some tens of bytes, so that this suffices for
/// more than a thousand of them.
pub const MAX_CORRECTIONS: usize = 64 * 1024;

/// What may come out of a gzip file that is taken apart.
#[derive(Clone, Copy, Debug)]
pub struct GzipLimits {
    /// Bytes of the plain form.
    pub plain: u64,
    /// Bytes of the corrections, [`MAX_CORRECTIONS`] at most.
    pub corrections: usize,
}

impl Default for GzipLimits {
    /// A plain form of 1 GiB, larger than that of any initrd.
    fn default() -> Self {
        GzipLimits { plain: 1 << 30, corrections: MAX_CORRECTIONS }
    }
}

/// What [`decompose`] made of a file.
#[derive(Debug)]
pub enum Decomposed {
    /// Plain form and corrections are the file, which is proven.
    Apart(Decomposition),
    /// The file has to travel whole. What was written of its plain form is worth nothing.
    Whole(NotDecomposed),
}

/// A file that was taken apart; the plain form itself went to the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decomposition {
    /// What [`Rebuild`] needs besides the plain form.
    pub corrections: Vec<u8>,
    /// Bytes of the plain form.
    pub plain_length: u64,
    /// Bytes of the file.
    pub length: u64,
    /// How long making it again takes, in bytes of a plain form that GNU gzip compressed at its usual level.
    pub cost: u64,
}

/// Why a file has to travel whole.
#[derive(Debug, thiserror::Error)]
pub enum NotDecomposed {
    /// It is no gzip file, or not a sound one, or holds too much.
    #[error(transparent)]
    Open(OpenError),
    /// No program whose choices are known wrote these bytes.
    #[error("is not what gzip or zlib writes")]
    NotReproduced,
    /// It has too many members, or they have long headers.
    #[error("needs more than {0} bytes of corrections")]
    Corrections(usize),
}

/// Writes the plain form of `gz` to `plain`, and gives what is needed besides to make the same bytes again.
///
/// Every deflate stream is compressed again while it is read, by the code that [`Rebuild`] runs, and
/// compared byte by byte: what is answered as apart can be rebuilt. The same file gives the same
/// corrections. Errors are those of `gz` and `plain`. Memory: about 3 MB, whatever the sizes.
pub fn decompose(
    gz: &mut dyn Read,
    plain: &mut dyn Write,
    limits: &GzipLimits,
) -> io::Result<Decomposed> {
    match apart(gz, plain, limits) {
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

impl From<NotReproduced> for DecomposeError {
    fn from(_: NotReproduced) -> Self {
        DecomposeError::Whole(NotDecomposed::NotReproduced)
    }
}

fn apart(
    gz: &mut dyn Read,
    out: &mut dyn Write,
    limits: &GzipLimits,
) -> Result<Decomposition, DecomposeError> {
    let most = limits.corrections.min(MAX_CORRECTIONS);
    let mut opener = MemberReader::new(gz, limits.plain);
    let mut record = CorrectionWriter::default();
    let mut search = ModelSearch::new(0);
    let mut sum = Crc::new();
    let (mut plain_length, mut length, mut cost) = (0, 0, 0u64);
    while let Some(piece) = opener.next()? {
        length += piece.length();
        match piece {
            MemberPiece::Raw(bytes) => {
                plain_length += bytes.len() as u64;
                out.write_all(bytes).map_err(DecomposeError::Failed)?;
                record.raw(bytes.len());
            }
            MemberPiece::Header(header) => {
                record.bytes(header);
                search = ModelSearch::new(header[8]);
                sum.reset();
            }
            MemberPiece::Deflated { packed, plain, last } => {
                plain_length += plain.len() as u64;
                out.write_all(plain).map_err(DecomposeError::Failed)?;
                sum.update(plain);
                search.add(packed, plain)?;
                if last {
                    let repeated = std::mem::replace(&mut search, ModelSearch::new(0)).finish()?;
                    cost = cost.saturating_add(repeated.cost);
                    record.deflate(repeated.model, repeated.length);
                }
            }
            MemberPiece::Trailer(trailer) if trailer == rebuild::trailer(&sum) => record.sum(),
            MemberPiece::Trailer(trailer) => record.bytes(trailer),
        }
        if record.bytes.len() > most {
            return Err(DecomposeError::Whole(NotDecomposed::Corrections(most)));
        }
    }
    let corrections = record.finish();
    if corrections.len() > most {
        return Err(DecomposeError::Whole(NotDecomposed::Corrections(most)));
    }
    Ok(Decomposition { corrections, plain_length, length, cost })
}

/// Reads the plain form of `gz`, the same that [`decompose`] writes, of at most `limit` bytes.
///
/// Check sums are not looked at. A file that has no plain form is an error of the kind
/// [`io::ErrorKind::InvalidData`] with an [`OpenError`] inside. Memory: less than 0.3 MB.
pub fn gunzip<R: Read>(gz: R, limit: u64) -> Gunzip<R> {
    Gunzip { opener: MemberReader::new(gz, limit), held: Vec::new(), given: 0 }
}

/// The plain form of a gzip file as a reader: see [`gunzip`].
pub struct Gunzip<R> {
    opener: MemberReader<R>,
    held: Vec<u8>,
    given: usize,
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.held.len() {
            self.held.clear();
            self.given = 0;
            match self.opener.next() {
                Ok(Some(MemberPiece::Raw(plain) | MemberPiece::Deflated { plain, .. })) => {
                    self.held.extend_from_slice(plain)
                }
                Ok(Some(MemberPiece::Header(_) | MemberPiece::Trailer(_))) => {}
                Ok(None) => return Ok(0),
                Err(OpenError::Read(error)) => return Err(error),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        let length = buffer.len().min(self.held.len() - self.given);
        buffer[..length].copy_from_slice(&self.held[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}

#[cfg(test)]
pub(crate) mod tests;
