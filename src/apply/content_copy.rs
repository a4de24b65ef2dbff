//! Copies content into a staged file: holes stay holes, and the digest is of what was read.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use crate::digest::{Digest, Hasher};
use crate::root::NewFile;

/// Holes are made of whole blocks of zeros of this size.
const BLOCK: usize = 4096;

/// On which side a copy failed.
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies exactly `size` bytes into the empty `file`, leaving holes for blocks of zeros; anything
/// longer or shorter has another digest.
pub(super) fn copy(from: &mut dyn Read, file: &NewFile, size: u64) -> Result<Digest, CopyError> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; usize::try_from(size.clamp(1, 256 << 10)).unwrap_or(256 << 10)];
    let mut at = 0;
    while at <= size {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        hasher.update(&buffer[..length]);
        if at + length as u64 <= size {
            write_sparsely(file, &buffer[..length], at).map_err(CopyError::Write)?;
        }
        at += length as u64;
    }
    file.set_len(size).map_err(CopyError::Write)?;
    Ok(hasher.finish())
}

/// Writes `bytes` at the offset `at`, but for whole blocks of zeros.
fn write_sparsely(file: &NewFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let zero = |block: &[u8]| block.len() == BLOCK && block.iter().all(|&b| b == 0);
    let mut blocks = bytes.chunks(BLOCK).enumerate().peekable();
    while let Some((first, block)) = blocks.next() {
        if zero(block) {
            continue;
        }
        let mut end = (first * BLOCK) + block.len();
        while let Some((_, next)) = blocks.next_if(|(_, next)| !zero(next)) {
            end += next.len();
        }
        file.write_all_at(&bytes[first * BLOCK..end], at + (first * BLOCK) as u64)?;
    }
    Ok(())
}

/// Reads a file that others read as well, without its shared position.
pub(super) struct Positioned<'a> {
    pub content: BorrowedFd<'a>,
    pub at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = rustix::io::pread(self.content, buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}
