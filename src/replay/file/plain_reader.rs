//! The plain form of a file as a reader.

use std::io::{self, Read};

use super::error::FileOpenError;
use super::forms::Forms;
use super::reader::{OpenLimits, PartReader};
use crate::replay::{Packet, Window};

/// Reads the plain form of a file; its decisions are discarded.
///
/// A file without a plain form is an error of the kind [`io::ErrorKind::InvalidData`] with a
/// [`FileOpenError`] inside.
pub struct PlainReader<R> {
    reader: PartReader<R>,
    text: Window,
    packets: Vec<Packet>,
    /// Offset of the next byte that is returned.
    at: u64,
}

impl<R: Read> PlainReader<R> {
    /// Prepares to read a file from its beginning.
    pub fn new(input: R, limits: OpenLimits) -> Self {
        let reader = PartReader::new(input, limits);
        PlainReader { reader, text: Window::default(), packets: Vec::new(), at: 0 }
    }

    /// The forms that occurred so far.
    pub fn forms(&self) -> Forms {
        self.reader.forms()
    }

    /// Bytes of the plain form so far that are not in the file as they are.
    pub fn replayed(&self) -> u64 {
        self.reader.replayed()
    }
}

impl<R: Read> Read for PlainReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.text.end() {
            self.text.forget_before_last(self.reader.dictionary());
            self.packets.clear();
            match self.reader.read_step(&mut self.text, &mut self.packets) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(0),
                Err(FileOpenError::Read(error)) => return Err(error),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        let n = self.text.from(self.at).unwrap_or_default().read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}
