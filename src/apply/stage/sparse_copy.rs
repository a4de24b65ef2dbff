//! Copies content into a staged file, keeps its holes, and computes its digest.

use std::io::{self, BufRead, Read};
use std::os::fd::BorrowedFd;

use crate::digest::{Digest, Hasher};
use crate::root::NewFile;

/// A hole consists of whole blocks of zeros of this size.
const BLOCK: usize = 4096;
/// Buffer size for content that is read from a file.
pub(in crate::apply) const CHUNK: usize = 64 << 10;

/// Failure of one side of a copy.
pub(in crate::apply) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies `size` bytes into the empty `file`, with a hole for each block of zeros.
///
/// Returns the digest of all bytes read. It reads at least one byte more than `size` if there is
/// one, so that a longer content has another digest than the expected one.
pub(in crate::apply) fn copy_sparse(
    from: &mut dyn BufRead,
    file: &NewFile,
    size: u64,
) -> Result<Digest, CopyError> {
    let mut hasher = Hasher::new();
    copy_chunks(from, file, size, &mut |chunk| hasher.update(chunk))?;
    Ok(hasher.finish())
}

/// Like [`copy_sparse`], for a reader that compares the digest itself before it reports its end.
pub(in crate::apply) fn copy_verified(
    from: &mut dyn BufRead,
    file: &NewFile,
    size: u64,
) -> Result<(), CopyError> {
    copy_chunks(from, file, size, &mut |_| ())
}

fn copy_chunks(
    from: &mut dyn BufRead,
    file: &NewFile,
    size: u64,
    on_chunk: &mut dyn FnMut(&[u8]),
) -> Result<(), CopyError> {
    let (mut at, mut written_end) = (0, 0);

    while at <= size {
        let chunk = match from.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };

        on_chunk(chunk);
        let length = chunk.len();
        if at + length as u64 <= size
            && let Some(end) = write_nonzero_blocks(file, chunk, at).map_err(CopyError::Write)?
        {
            written_end = end;
        }
        at += length as u64;
        from.consume(length);
    }

    // A hole at the end of the file was not written.
    if written_end < size {
        file.set_len(size).map_err(CopyError::Write)?;
    }
    Ok(())
}

/// Writes `bytes` at the offset `at`, except whole blocks of zeros.
///
/// Returns the offset after the last byte written, if any.
fn write_nonzero_blocks(file: &NewFile, bytes: &[u8], at: u64) -> io::Result<Option<u64>> {
    let mut blocks = bytes.chunks(BLOCK).enumerate().peekable();
    let mut written_end = None;

    while let Some((first, block)) = blocks.next() {
        if is_zero_block(block) {
            continue;
        }

        // One write for all blocks up to the next hole.
        let start = first * BLOCK;
        let mut end = start + block.len();
        while let Some((_, next)) = blocks.next_if(|(_, next)| !is_zero_block(next)) {
            end += next.len();
        }
        file.write_all_at(&bytes[start..end], at + start as u64)?;
        written_end = Some(at + end as u64);
    }

    Ok(written_end)
}

fn is_zero_block(block: &[u8]) -> bool {
    block.len() == BLOCK && block.iter().all(|&byte| byte == 0)
}

/// Reads an open file from its own offset, and leaves the shared offset of the file alone.
pub(in crate::apply) struct PositionedReader<'a> {
    pub content: BorrowedFd<'a>,
    pub offset: u64,
}

impl Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = rustix::io::pread(self.content, buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
