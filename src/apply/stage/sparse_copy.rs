//! Copies content into a staged file: holes stay holes, and the digest is of what was read.

use std::io::{self, BufRead, Read};
use std::os::fd::BorrowedFd;

use crate::digest::{Digest, Hasher};
use crate::root::NewFile;

/// Holes are made of whole blocks of zeros of this size.
const BLOCK: usize = 4096;
/// What is not in memory yet is read in pieces of this size.
pub(in crate::apply) const PIECE: usize = 64 << 10;

/// On which side a copy failed.
pub(in crate::apply) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies exactly `size` bytes into the empty `file`, leaving holes for blocks of zeros; anything
/// longer or shorter has another digest.
pub(in crate::apply) fn copy(
    from: &mut dyn BufRead,
    file: &NewFile,
    size: u64,
) -> Result<Digest, CopyError> {
    let mut hasher = Hasher::new();
    let (mut at, mut written) = (0, 0);
    while at <= size {
        let piece = match from.fill_buf() {
            Ok([]) => break,
            Ok(piece) => piece,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        hasher.update(piece);
        let length = piece.len();
        if at + length as u64 <= size {
            written = write_sparsely(file, piece, at).map_err(CopyError::Write)?.unwrap_or(written);
        }
        at += length as u64;
        from.consume(length);
    }
    if written < size {
        file.set_len(size).map_err(CopyError::Write)?;
    }
    Ok(hasher.finish())
}

/// Writes `bytes` at the offset `at`, but for whole blocks of zeros; returns where what was written ends.
fn write_sparsely(file: &NewFile, bytes: &[u8], at: u64) -> io::Result<Option<u64>> {
    let zero = |block: &[u8]| block.len() == BLOCK && block.iter().all(|&b| b == 0);
    let mut blocks = bytes.chunks(BLOCK).enumerate().peekable();
    let mut written = None;
    while let Some((first, block)) = blocks.next() {
        if zero(block) {
            continue;
        }
        let mut end = (first * BLOCK) + block.len();
        while let Some((_, next)) = blocks.next_if(|(_, next)| !zero(next)) {
            end += next.len();
        }
        file.write_all_at(&bytes[first * BLOCK..end], at + (first * BLOCK) as u64)?;
        written = Some(at + end as u64);
    }
    Ok(written)
}

/// Reads a file that others read as well, without its shared position.
pub(in crate::apply) struct Positioned<'a> {
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
