//! Makes the compressed file again.

use std::io::{self, Write};

use flate2::Crc;

use crate::delta::gzip::MAX_CORRECTIONS;
use crate::delta::gzip::corrections::{Correction, CorrectionReader};
use crate::delta::gzip::deflater::Deflater;

/// So much is compressed before it is written.
const PIECE: usize = 64 * 1024;

/// Why a compressed file cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The corrections are none.
    #[error("the corrections of a gzip file hold {0}")]
    Corrections(&'static str),
    /// There are fewer plain bytes than the corrections claim.
    #[error("the plain content of a gzip file ends {0} bytes early")]
    TooShort(u64),
    /// There are more plain bytes than the corrections claim.
    #[error("the plain content of a gzip file goes on behind its end")]
    TooLong,
    /// The compressed bytes cannot be written.
    #[error("a gzip file cannot be written: {0}")]
    Write(#[source] io::Error),
}

/// Writes a compressed file from its plain form and its corrections.
///
/// Memory: less than one megabyte, whatever the sizes. Corrections from outside lead to an error or to
/// other bytes than wanted, never to more output than about the plain form and eight times the corrections.
#[must_use = "the file is complete when `finish` says so"]
pub struct Rebuild<'c, W> {
    parts: CorrectionReader<'c>,
    out: W,
    now: Now,
    sum: Crc,
    /// Plain bytes that are still to come, for this part and all later ones.
    missing: u64,
}

enum Now {
    Raw { left: u64 },
    Deflate { left: u64, deflater: Box<Deflater> },
    Done,
}

impl<'c, W: Write> Rebuild<'c, W> {
    /// Begins a file; all corrections are looked through first.
    pub fn new(corrections: &'c [u8], out: W) -> Result<Self, RebuildError> {
        let missing = plain_length(corrections)?;
        let mut rebuild = Rebuild {
            parts: CorrectionReader(corrections),
            out,
            now: Now::Done,
            sum: Crc::new(),
            missing,
        };
        rebuild.proceed()?;
        Ok(rebuild)
    }

    /// Takes in more of the plain form.
    pub fn write(&mut self, mut plain: &[u8]) -> Result<(), RebuildError> {
        while !plain.is_empty() {
            let left = match &self.now {
                Now::Raw { left } | Now::Deflate { left, .. } => {
                    usize::try_from(*left).unwrap_or(usize::MAX)
                }
                Now::Done => return Err(RebuildError::TooLong),
            };
            let (now, later) = plain.split_at(plain.len().min(left).min(PIECE));
            self.missing -= now.len() as u64;
            plain = later;
            self.piece(now)?;
            if now.len() == left {
                self.end_part()?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> Result<W, RebuildError> {
        match self.now {
            Now::Done => Ok(self.out),
            _ => Err(RebuildError::TooShort(self.missing)),
        }
    }

    fn piece(&mut self, plain: &[u8]) -> Result<(), RebuildError> {
        match &mut self.now {
            Now::Raw { left } => {
                *left -= plain.len() as u64;
                self.out.write_all(plain).map_err(RebuildError::Write)
            }
            Now::Deflate { left, deflater } => {
                *left -= plain.len() as u64;
                self.sum.update(plain);
                deflater.write(plain);
                self.out.write_all(&deflater.take()).map_err(RebuildError::Write)
            }
            Now::Done => Ok(()),
        }
    }

    fn end_part(&mut self) -> Result<(), RebuildError> {
        if let Now::Deflate { deflater, .. } = &mut self.now {
            deflater.finish();
            self.out.write_all(&deflater.take()).map_err(RebuildError::Write)?;
        }
        self.proceed()
    }

    /// Does the parts up to the one that takes plain bytes.
    fn proceed(&mut self) -> Result<(), RebuildError> {
        loop {
            match self.parts.next().map_err(RebuildError::Corrections)? {
                None => {
                    self.now = Now::Done;
                    return Ok(());
                }
                Some(Correction::Raw(0)) => {}
                Some(Correction::Raw(left)) => {
                    self.now = Now::Raw { left };
                    return Ok(());
                }
                Some(Correction::Bytes(bytes)) => {
                    self.out.write_all(bytes).map_err(RebuildError::Write)?
                }
                Some(Correction::Sum) => {
                    let trailer = trailer(&self.sum);
                    self.out.write_all(&trailer).map_err(RebuildError::Write)?;
                }
                Some(Correction::Deflate(model, left)) => {
                    self.sum.reset();
                    let mut deflater = Box::new(Deflater::new(model));
                    if left > 0 {
                        self.now = Now::Deflate { left, deflater };
                        return Ok(());
                    }
                    deflater.finish();
                    self.out.write_all(&deflater.take()).map_err(RebuildError::Write)?;
                }
            }
        }
    }
}

/// How many plain bytes belong to these corrections, which are looked through.
pub fn plain_length(corrections: &[u8]) -> Result<u64, RebuildError> {
    if corrections.len() > MAX_CORRECTIONS {
        return Err(RebuildError::Corrections("more than any may hold"));
    }
    let mut parts = CorrectionReader(corrections);
    let mut length = 0u64;
    while let Some(part) = parts.next().map_err(RebuildError::Corrections)? {
        if let Correction::Raw(more) | Correction::Deflate(_, more) = part {
            length = length
                .checked_add(more)
                .ok_or(RebuildError::Corrections("an impossible length"))?;
        }
    }
    Ok(length)
}

/// What stands behind a deflate stream of this content (RFC 1952, 2.3.1).
pub(super) fn trailer(sum: &Crc) -> [u8; 8] {
    let mut trailer = [0; 8];
    trailer[..4].copy_from_slice(&sum.sum().to_le_bytes());
    trailer[4..].copy_from_slice(&sum.amount().to_le_bytes());
    trailer
}
