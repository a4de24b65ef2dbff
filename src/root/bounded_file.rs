//! An open file of a tree that yields at most the bytes that it had when it was opened.
//!
//! The owner of a file can let it grow while root reads it, also to 16 TiB of hole at once. A read
//! up to the end would take as long as he likes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use crate::delta::ReadAt;

/// A regular file that is open for reading, with a bound for all reads.
#[derive(Debug)]
pub struct BoundedFile {
    file: File,
    /// Size when it was opened.
    size: u64,
    /// Offset at which reads end.
    limit: u64,
    /// Offset of the next sequential read.
    at: u64,
}

impl BoundedFile {
    pub(super) fn new(file: File, size: u64) -> Self {
        BoundedFile { file, size, limit: size, at: 0 }
    }

    /// Size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The same file, of which at most `judged` bytes and one more are read.
    ///
    /// The additional byte shows that the file is longer than it was when it was judged.
    #[must_use]
    pub fn limited_to(self, judged: u64) -> Self {
        BoundedFile { limit: self.limit.min(judged.saturating_add(1)), ..self }
    }

    /// A reader from the begin, which leaves the offset of this one alone.
    pub fn reader(&self) -> BoundedReader<'_> {
        BoundedReader { file: self, at: 0 }
    }

    fn read_within(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        FileExt::read_at(&self.file, &mut buffer[..length], at)
    }
}

/// Reader of a [`BoundedFile`] with an offset of its own.
#[derive(Debug)]
pub struct BoundedReader<'a> {
    file: &'a BoundedFile,
    at: u64,
}

impl Read for BoundedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_within(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Read for BoundedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.read_within(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl ReadAt for BoundedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_within(buffer, offset)
    }
}

/// For calls on the metadata, and for reflinks.
impl AsFd for BoundedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> (File, BoundedFile) {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(text, 0).expect("writes");
        let reader = file.try_clone().expect("duplicates");
        (file, BoundedFile::new(reader, text.len() as u64))
    }

    #[test]
    fn file_that_grows_is_read_up_to_its_first_size() {
        let (writer, mut bounded) = file(b"twelve bytes");
        writer.set_len(1 << 43).expect("grows");

        let (mut first, mut again) = (Vec::new(), Vec::new());
        bounded.read_to_end(&mut first).expect("reads");
        bounded.reader().read_to_end(&mut again).expect("reads");

        assert_eq!(
            (first.as_slice(), again.as_slice()),
            (&b"twelve bytes"[..], &b"twelve bytes"[..])
        );
        assert_eq!(ReadAt::read_at(&bounded, &mut [0; 4], 12).expect("reads"), 0);
    }

    #[test]
    fn longer_file_than_judged_yields_one_more_byte() {
        let (_writer, bounded) = file(b"twelve bytes");
        let mut bounded = bounded.limited_to(5);

        let mut bytes = Vec::new();
        bounded.read_to_end(&mut bytes).expect("reads");

        assert_eq!(bytes, b"twelve");
        assert_eq!(bounded.size(), 12);
    }
}
