//! Buffered input with a look ahead.

use std::io::{self, BufRead, Read};

const BUFFER: usize = 64 << 10;

/// Reader that shows bytes before they are consumed.
pub struct PeekInput<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Number of bytes that were consumed.
    offset: u64,
}

impl<R: Read> PeekInput<R> {
    pub fn new(inner: R) -> Self {
        PeekInput { inner, buffer: vec![0; BUFFER], start: 0, end: 0, offset: 0 }
    }

    /// Number of bytes that were consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes: at least `length`, of at most 64 KiB, unless the input ends before.
    pub fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        while self.end - self.start < length.min(BUFFER) {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }
}

impl<R: Read> BufRead for PeekInput<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, amount: usize) {
        let consumed = amount.min(self.end - self.start);
        self.start += consumed;
        self.offset += consumed as u64;
    }
}

impl<R: Read> Read for PeekInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
