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
    has_ended: bool,
}

impl<R: Read> PeekInput<R> {
    pub fn new(inner: R) -> Self {
        PeekInput { inner, buffer: vec![0; BUFFER], start: 0, end: 0, offset: 0, has_ended: false }
    }

    /// Number of bytes that were consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes: at least `length`, of at most 64 KiB, unless the input ends before.
    pub fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        if self.end - self.start < length.min(BUFFER) {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Consumes `length` bytes that were shown, and returns them.
    pub fn take_bytes(&mut self, length: usize) -> &[u8] {
        let from = self.start;
        self.consume(length);
        &self.buffer[from..self.start]
    }

    /// Fills the buffer, with as many reads as it takes, so that the same input has the same pieces.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);

        while self.end < self.buffer.len() && !self.has_ended {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.has_ended = true,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
