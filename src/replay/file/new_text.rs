//! The plain form of the file that is made, read as it is needed.

use std::io::{self, Read};

use crate::replay::{TextView, Window};

const PIECE: usize = 64 << 10;
/// Bytes that are held before an offset, at least: the largest distance of the match finder.
const HELD: usize = 4 << 20;
/// Bytes that may be held after an offset, at most: a chunk of xz, and two pieces.
const AFTER: usize = (2 << 20) + 2 * PIECE;

/// Reader of a text of known length that holds the bytes around an offset.
pub struct NewText<R> {
    input: R,
    text: Window,
    /// Length of the whole text.
    length: u64,
    /// Bytes that are held before an offset.
    held: usize,
}

impl<R: Read> NewText<R> {
    pub fn new(input: R, length: u64) -> Self {
        NewText { input, text: Window::default(), length, held: HELD }
    }

    /// Length of the whole text in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Holds at least a dictionary of `size` bytes from now on.
    pub fn hold(&mut self, size: usize) {
        self.held = size.max(HELD);
    }

    /// Reads until the text is held up to the offset `end`, or to its end.
    pub fn read_until(&mut self, end: u64) -> io::Result<()> {
        let end = end.min(self.length);
        while self.text.end() < end {
            self.text.forget_before_last(self.held + AFTER);
            let missing = usize::try_from(self.length - self.text.end()).unwrap_or(PIECE);
            let before = self.text.bytes().len();
            let length = missing.min(PIECE);
            let target = self.text.grow(length);
            self.input.read_exact(&mut target[before..])?;
        }
        Ok(())
    }

    /// The text that is held.
    pub fn view(&self) -> TextView<'_> {
        self.text.view()
    }

    /// The text that is held.
    pub fn window(&self) -> &Window {
        &self.text
    }

    /// Whether the input has no more bytes than the text.
    pub fn is_exhausted(&mut self) -> io::Result<bool> {
        Ok(self.input.read(&mut [0])? == 0)
    }
}
