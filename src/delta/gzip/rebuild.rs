//! Rebuilds a compressed file from its plain form and its corrections.

use std::io::Write;

use flate2::Crc;

use crate::delta::gzip::corrections::{Correction, CorrectionReader, MAX_CORRECTIONS};
use crate::delta::gzip::deflater::Deflater;
use crate::delta::gzip::error::{CorrectionsDefect, RebuildError};

/// Number of bytes that are compressed before their output is written.
const PIECE: usize = 64 * 1024;

/// Writes a compressed file from its plain form and its corrections.
///
/// Memory: less than 1 MB for any size. Hostile corrections lead to an error or to other bytes,
/// which the caller detects by the digest. The output is never larger than about the plain form and
/// eight times the corrections.
#[must_use = "the file is complete only after `finish`"]
pub struct Rebuild<'c, W> {
    parts: CorrectionReader<'c>,
    out: W,
    current: CurrentPart,
    /// CRC-32 and length of the content of the last stream.
    sum: Crc,
    /// Number of plain bytes that this part and all later ones still need.
    missing: u64,
}

/// The part that takes plain bytes.
enum CurrentPart {
    Raw { left: u64 },
    Deflate { left: u64, deflater: Box<Deflater> },
    Done,
}

impl<'c, W: Write> Rebuild<'c, W> {
    /// Begins a file. All corrections are checked first.
    pub fn new(corrections: &'c [u8], out: W) -> Result<Self, RebuildError> {
        let missing = plain_length(corrections)?;
        let mut rebuild = Rebuild {
            parts: CorrectionReader(corrections),
            out,
            current: CurrentPart::Done,
            sum: Crc::new(),
            missing,
        };
        rebuild.begin_part()?;
        Ok(rebuild)
    }

    /// Adds bytes of the plain form.
    pub fn write(&mut self, mut plain: &[u8]) -> Result<(), RebuildError> {
        while !plain.is_empty() {
            let left = match &self.current {
                CurrentPart::Raw { left } | CurrentPart::Deflate { left, .. } => {
                    usize::try_from(*left).unwrap_or(usize::MAX)
                }
                CurrentPart::Done => return Err(RebuildError::TooLong),
            };
            let (now, later) = plain.split_at(plain.len().min(left).min(PIECE));
            self.missing -= now.len() as u64;
            plain = later;

            self.write_piece(now)?;
            if now.len() == left {
                self.end_part()?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> Result<W, RebuildError> {
        match self.current {
            CurrentPart::Done => Ok(self.out),
            _ => Err(RebuildError::TooShort(self.missing)),
        }
    }

    fn write_piece(&mut self, plain: &[u8]) -> Result<(), RebuildError> {
        match &mut self.current {
            CurrentPart::Raw { left } => {
                *left -= plain.len() as u64;
                self.out.write_all(plain).map_err(RebuildError::Write)
            }
            CurrentPart::Deflate { left, deflater } => {
                *left -= plain.len() as u64;
                self.sum.update(plain);
                deflater.write(plain);
                self.out.write_all(&deflater.take()).map_err(RebuildError::Write)
            }
            CurrentPart::Done => Ok(()),
        }
    }

    fn end_part(&mut self) -> Result<(), RebuildError> {
        if let CurrentPart::Deflate { deflater, .. } = &mut self.current {
            deflater.finish();
            self.out.write_all(&deflater.take()).map_err(RebuildError::Write)?;
        }
        self.begin_part()
    }

    /// Carries out the next parts, up to the first that takes plain bytes.
    fn begin_part(&mut self) -> Result<(), RebuildError> {
        loop {
            match self.parts.next()? {
                None => {
                    self.current = CurrentPart::Done;
                    return Ok(());
                }
                Some(Correction::Raw(0)) => {}
                Some(Correction::Raw(left)) => {
                    self.current = CurrentPart::Raw { left };
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
                        self.current = CurrentPart::Deflate { left, deflater };
                        return Ok(());
                    }
                    deflater.finish();
                    self.out.write_all(&deflater.take()).map_err(RebuildError::Write)?;
                }
            }
        }
    }
}

/// Number of plain bytes that corrections need; checks all of them.
pub fn plain_length(corrections: &[u8]) -> Result<u64, RebuildError> {
    if corrections.len() > MAX_CORRECTIONS {
        return Err(CorrectionsDefect::TooLong.into());
    }

    let mut parts = CorrectionReader(corrections);
    let mut length = 0u64;
    while let Some(part) = parts.next()? {
        if let Correction::Raw(more) | Correction::Deflate(_, more) = part {
            length = length.checked_add(more).ok_or(CorrectionsDefect::Overflow)?;
        }
    }
    Ok(length)
}

/// The eight bytes after a deflate stream (RFC 1952, 2.3.1) with this content.
pub(super) fn trailer(sum: &Crc) -> [u8; 8] {
    let mut trailer = [0; 8];
    trailer[..4].copy_from_slice(&sum.sum().to_le_bytes());
    trailer[4..].copy_from_slice(&sum.amount().to_le_bytes());
    trailer
}
