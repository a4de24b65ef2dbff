//! The corrections as bytes.

use crate::delta::gzip::deflater::{Encoder, Model};

/// What the next bytes of the compressed file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Correction<'c> {
    /// So many bytes of the plain form, as they are.
    Raw(u64),
    /// These bytes.
    Bytes(&'c [u8]),
    /// So many bytes of the plain form, compressed.
    Deflate(Model, u64),
    /// CRC-32 and length of what was compressed last.
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
    /// A part of raw bytes that may still grow.
    raw: u64,
}

impl CorrectionWriter {
    pub(super) fn raw(&mut self, length: usize) {
        self.raw += length as u64;
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.end_raw();
        self.bytes.push(BYTES);
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn deflate(&mut self, model: Model, length: u64) {
        self.end_raw();
        let family = match model.family {
            Encoder::Gnu => 0,
            Encoder::Zlib => 1,
            Encoder::ZlibLarge => 2,
        };
        self.bytes.extend([DEFLATE, family << 4 | model.level]);
        self.number(length);
    }

    pub(super) fn sum(&mut self) {
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
            self.number(length);
        }
    }

    fn number(&mut self, mut value: u64) {
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
    /// The next part, none at the end, or what is wrong with it.
    pub(super) fn next(&mut self) -> Result<Option<Correction<'c>>, &'static str> {
        let Some((kind, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        Ok(Some(match *kind {
            RAW => Correction::Raw(self.number()?),
            BYTES => {
                let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
                let (bytes, rest) =
                    self.0.split_at_checked(length).ok_or("bytes that are not there")?;
                self.0 = rest;
                Correction::Bytes(bytes)
            }
            DEFLATE => {
                let (code, rest) = self.0.split_first().ok_or("a part that ends early")?;
                self.0 = rest;
                Correction::Deflate(model(*code)?, self.number()?)
            }
            SUM => Correction::Sum,
            _ => return Err("a part of an unknown kind"),
        }))
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("a number that ends early")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number that is too large")
    }
}

fn model(code: u8) -> Result<Model, &'static str> {
    let family = match code >> 4 {
        0 => Encoder::Gnu,
        1 => Encoder::Zlib,
        2 => Encoder::ZlibLarge,
        _ => return Err("a compressor that is not known"),
    };
    match code & 0xf {
        level @ 1..=9 => Ok(Model { family, level }),
        _ => Err("a compression level that does not exist"),
    }
}
