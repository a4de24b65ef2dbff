//! The blocks that tar consists of.

use std::io::{self, Read};

use tar::Header;

use super::TarError;
use crate::digest::{Digest, Hasher};

const BLOCK: usize = 512;

/// Reads an archive block by block.
pub(super) struct Blocks<R> {
    from: R,
    at: u64,
    buffer: Vec<u8>,
}

impl<R> Blocks<R> {
    pub(super) fn new(from: R) -> Self {
        Blocks { from, at: 0, buffer: vec![0; 128 << 10] }
    }

    /// Says where `why` was found.
    pub(super) fn fault(&self, why: &'static str) -> TarError {
        TarError::Format { at: self.at, why }
    }

    /// A field of the header that was read last.
    pub(super) fn number(&self, field: io::Result<u64>) -> Result<u64, TarError> {
        field.map_err(|_| self.fault("a field of the header is not a number"))
    }
}

impl<R: Read> Blocks<R> {
    /// The next header; `None` at the block of zeros that ends an archive.
    pub(super) fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        self.from.read_exact(header.as_mut_bytes())?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let field = 148..156;
        let sum = |(at, &byte): (usize, &u8)| {
            if field.contains(&at) { u32::from(b' ') } else { byte.into() }
        };
        if header.cksum().ok() != Some(bytes.iter().enumerate().map(sum).sum()) {
            return Err(self.fault("the checksum of a header is wrong"));
        }
        self.at += BLOCK as u64;
        Ok(Some(header))
    }

    /// One more block, which continues a header.
    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block)?;
        self.at += BLOCK as u64;
        Ok(block)
    }

    /// The whole body of a member, of at most `limit` bytes.
    pub(super) fn body(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(self.fault("an extended header is too large"));
        }
        let mut body = Vec::new();
        self.each_piece(size, |piece| body.extend_from_slice(piece))?;
        self.pad(size)?;
        Ok(body)
    }

    /// Passes over the body of a member.
    pub(super) fn skip(&mut self, size: u64) -> Result<(), TarError> {
        self.each_piece(size, |_| {})?;
        self.pad(size)
    }

    /// The digest of the body of a member.
    pub(super) fn digest(&mut self, size: u64) -> Result<Digest, TarError> {
        let mut hasher = Hasher::new();
        self.each_piece(size, |piece| hasher.update(piece))?;
        self.pad(size)?;
        Ok(hasher.finish())
    }

    /// Reads `size` bytes of a body, without what fills its last block.
    pub(super) fn each_piece(
        &mut self,
        size: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), TarError> {
        let mut left = size;
        while left > 0 {
            let length = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.read_exact(&mut self.buffer[..length])?;
            take(&self.buffer[..length]);
            left -= length as u64;
            self.at += length as u64;
        }
        Ok(())
    }

    /// Passes over what fills the last block of a body of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), TarError> {
        let used = size % BLOCK as u64;
        self.each_piece(if used == 0 { 0 } else { BLOCK as u64 - used }, |_| {})
    }
}
