//! The blocks of a tar archive.

use std::io::{self, Read};
use std::ops::Range;

use tar::Header;

use super::TarError;
use crate::digest::{Digest, Hasher};

const BLOCK: usize = 512;
/// Position of the checksum in a header.
const CHECKSUM: Range<usize> = 148..156;

/// Reads an archive block by block.
pub(super) struct Blocks<R> {
    from: R,
    /// Offset of the next byte.
    offset: u64,
    buffer: Vec<u8>,
}

impl<R> Blocks<R> {
    pub(super) fn new(from: R) -> Self {
        Blocks { from, offset: 0, buffer: vec![0; 128 << 10] }
    }

    /// An error at the current offset.
    pub(super) fn error(&self, reason: &'static str) -> TarError {
        TarError::Format { offset: self.offset, reason }
    }

    /// The value of a numeric field of the current header.
    pub(super) fn number(&self, field: io::Result<u64>) -> Result<u64, TarError> {
        field.map_err(|_| self.error("a field of the header is not a number"))
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

        // The checksum counts its own field as spaces.
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, &byte)| if CHECKSUM.contains(&at) { b' ' } else { byte })
            .map(u32::from)
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.error("the checksum of a header is wrong"));
        }
        self.offset += BLOCK as u64;
        Ok(Some(header))
    }

    /// The next block, which continues a header.
    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block)?;
        self.offset += BLOCK as u64;
        Ok(block)
    }

    /// The whole body of a member, of at most `limit` bytes.
    pub(super) fn body(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(self.error("an extended header is too large"));
        }
        let mut body = Vec::new();
        self.each_chunk(size, |chunk| body.extend_from_slice(chunk))?;
        self.pad(size)?;
        Ok(body)
    }

    /// Skips the body of a member.
    pub(super) fn skip(&mut self, size: u64) -> Result<(), TarError> {
        self.each_chunk(size, |_| {})?;
        self.pad(size)
    }

    /// The digest of the body of a member.
    pub(super) fn digest(&mut self, size: u64) -> Result<Digest, TarError> {
        let mut hasher = Hasher::new();
        self.each_chunk(size, |chunk| hasher.update(chunk))?;
        self.pad(size)?;
        Ok(hasher.finish())
    }

    /// Calls `take` with all chunks of a body of `size` bytes, without the padding.
    pub(super) fn each_chunk(
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
            self.offset += length as u64;
        }
        Ok(())
    }

    /// Skips the padding after a body of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), TarError> {
        let used = size % BLOCK as u64;
        self.each_chunk(if used == 0 { 0 } else { BLOCK as u64 - used }, |_| {})
    }
}
