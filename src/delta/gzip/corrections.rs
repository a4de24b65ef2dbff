//! The bytes of corrections (clauses 5 and 6 of the format).

use crate::delta::gzip::deflater::{Encoder, Model};
use crate::delta::gzip::error::CorrectionsDefect;

/// Largest length of corrections, in bytes.
///
/// The corrections of one member have 20 to 50 bytes, so this suffices for more than a thousand
/// members. A node holds them in memory.
pub const MAX_CORRECTIONS: usize = 64 * 1024;

/// One part of the corrections: it yields the next bytes of the compressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Correction<'c> {
    /// A number of bytes of the plain form, unchanged.
    Raw(u64),
    /// Literal bytes.
    Bytes(&'c [u8]),
    /// A number of bytes of the plain form, compressed.
    Deflate(Model, u64),
    /// CRC-32 and length of the content of the last stream.
    Sum,
}

const RAW: u8 = 0;
const BYTES: u8 = 1;
const DEFLATE: u8 = 2;
const SUM: u8 = 3;

/// Writes corrections.
#[derive(Default)]
pub(super) struct CorrectionWriter {
    pub(super) bytes: Vec<u8>,
    /// Length of a raw part that later calls may extend.
    raw: u64,
}

impl CorrectionWriter {
    pub(super) fn add_raw(&mut self, length: usize) {
        self.raw += length as u64;
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.end_raw();
        self.bytes.push(BYTES);
        self.add_number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn add_deflate(&mut self, model: Model, length: u64) {
        self.end_raw();

        let encoder = match model.encoder {
            Encoder::Gnu => 0,
            Encoder::Zlib => 1,
            Encoder::ZlibLarge => 2,
        };
        self.bytes.extend([DEFLATE, encoder << 4 | model.level]);
        self.add_number(length);
    }

    pub(super) fn add_sum(&mut self) {
        self.end_raw();
        self.bytes.push(SUM);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_raw();
        self.bytes
    }

    fn end_raw(&mut self) {
        let length = std::mem::take(&mut self.raw);
        if length > 0 {
            self.bytes.push(RAW);
            self.add_number(length);
        }
    }

    fn add_number(&mut self, mut value: u64) {
        while value > 0x7f {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// Reads corrections.
#[derive(Clone, Copy)]
pub(super) struct CorrectionReader<'c>(pub(super) &'c [u8]);

impl<'c> CorrectionReader<'c> {
    /// The next part; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Correction<'c>>, CorrectionsDefect> {
        let Some((kind, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;

        Ok(Some(match *kind {
            RAW => Correction::Raw(self.read_number()?),
            BYTES => {
                let length = usize::try_from(self.read_number()?).unwrap_or(usize::MAX);
                let (bytes, rest) =
                    self.0.split_at_checked(length).ok_or(CorrectionsDefect::MissingBytes)?;
                self.0 = rest;
                Correction::Bytes(bytes)
            }
            DEFLATE => {
                let (code, rest) = self.0.split_first().ok_or(CorrectionsDefect::TruncatedPart)?;
                self.0 = rest;
                Correction::Deflate(parse_model(*code)?, self.read_number()?)
            }
            SUM => Correction::Sum,
            _ => return Err(CorrectionsDefect::UnknownPart),
        }))
    }

    fn read_number(&mut self) -> Result<u64, CorrectionsDefect> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(CorrectionsDefect::TruncatedNumber)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CorrectionsDefect::LargeNumber)
    }
}

fn parse_model(code: u8) -> Result<Model, CorrectionsDefect> {
    let encoder = match code >> 4 {
        0 => Encoder::Gnu,
        1 => Encoder::Zlib,
        2 => Encoder::ZlibLarge,
        _ => return Err(CorrectionsDefect::UnknownCompressor),
    };
    match code & 0xf {
        level @ 1..=9 => Ok(Model { encoder, level }),
        _ => Err(CorrectionsDefect::UnknownLevel),
    }
}
