//! The plain form of the file that is made, in memory or read as it is needed.

use std::io::{self, Read};

use crate::replay::{TextView, Window};

const PIECE: usize = 64 << 10;
/// Bytes that may be held after an offset, at most: a chunk of xz, and two pieces.
const AFTER: usize = (2 << 20) + 2 * PIECE;

/// A text of known length, of which at least the bytes around an offset are held.
pub enum NewText<'t> {
    /// All of it is in memory.
    Held(&'t [u8]),
    /// It is read as it is needed.
    Read(ReadText<'t>),
}

/// The end of a text that is read.
pub struct ReadText<'t> {
    input: Box<dyn Read + 't>,
    text: Window,
    /// Length of the whole text.
    length: u64,
    /// Bytes that are held before an offset.
    held: usize,
}

impl<'t> NewText<'t> {
    /// Prepares to read a text of `length` bytes.
    pub fn read(input: Box<dyn Read + 't>, length: u64) -> Self {
        NewText::Read(ReadText { input, text: Window::default(), length, held: 0 })
    }

    /// Length of the whole text in bytes.
    pub fn length(&self) -> u64 {
        match self {
            NewText::Held(text) => text.len() as u64,
            NewText::Read(text) => text.length,
        }
    }

    /// Holds at least `size` bytes before an offset from now on.
    pub(super) fn hold(&mut self, size: usize) {
        if let NewText::Read(text) = self {
            text.held = size;
            let most = (size + AFTER) / 4 * 5 + PIECE;
            text.text.reserve(most.min(usize::try_from(text.length).unwrap_or(most)));
        }
    }

    /// Reads until the text is held up to the offset `end`, or to its end.
    #[inline]
    pub(super) fn read_until(&mut self, end: u64) -> io::Result<()> {
        match self {
            NewText::Held(_) => Ok(()),
            NewText::Read(text) => text.read_until(end),
        }
    }

    /// The text that is held.
    #[inline]
    pub(super) fn view(&self) -> TextView<'_> {
        match self {
            NewText::Held(bytes) => TextView { bytes, start: 0 },
            NewText::Read(text) => text.text.view(),
        }
    }

    /// Whether the input has no more bytes than the text.
    pub(super) fn is_exhausted(&mut self) -> io::Result<bool> {
        match self {
            NewText::Held(_) => Ok(true),
            NewText::Read(text) => Ok(text.input.read(&mut [0])? == 0),
        }
    }
}

impl ReadText<'_> {
    fn read_until(&mut self, end: u64) -> io::Result<()> {
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
}
