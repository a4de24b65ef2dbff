//! Patches of the kind `segments`: a large file in pieces, each with a stretch of the old file as its prefix.
//!
//! What changes in a large file moves its parts by little, as seen from their places. So neither side has
//! to hold more of either file than one piece and the stretch around it.

use std::io::{self, BufRead, Read};

use super::prefix;
use super::varint::{get, put};
use super::{DeltaError, Effort, MAX_PATCH, ReadAt};

/// So many bytes are made at a time.
const SEGMENT: u64 = 2 << 20;
/// So far before and behind its own place a piece finds what it is like.
const AROUND: u64 = 1 << 20;
const STRETCH: u64 = SEGMENT + 2 * AROUND;

/// A patch may make so many bytes at a time, of a stretch no longer than this.
const MAX_SEGMENT: u64 = 4 << 20;
const MAX_STRETCH: u64 = 8 << 20;

/// Makes the patch of what `new` yields, `length` bytes, out of `old`, which has `old_length`; `None` where
/// it becomes larger than a patch may be.
pub fn encode_segments(
    old: &dyn ReadAt,
    old_length: u64,
    mut new: impl Read,
    length: u64,
    effort: Effort,
) -> io::Result<Option<Vec<u8>>> {
    let (mut patch, mut piece, mut stretch) = (Vec::new(), Vec::new(), Vec::new());
    for at in (0..length).step_by(SEGMENT as usize) {
        piece.clear();
        new.by_ref().take(SEGMENT).read_to_end(&mut piece)?;
        let there = u128::from(at) * u128::from(old_length) / u128::from(length.max(1));
        let from = u64::try_from(there).unwrap_or(old_length).saturating_sub(AROUND);
        read_stretch(old, from, STRETCH.min(old_length - from.min(old_length)), &mut stretch)?;
        let frame = prefix::encode(&stretch, &piece, effort)?;
        for number in [from, stretch.len() as u64, frame.len() as u64] {
            put(&mut patch, number);
        }
        patch.extend_from_slice(&frame);
        if patch.len() as u64 > MAX_PATCH {
            return Ok(None);
        }
    }
    Ok(Some(patch))
}

/// What undoing `patch` holds in memory at a time, besides the patch itself.
pub fn segments_weight(mut patch: &[u8]) -> u64 {
    let (mut stretch, mut makes) = (0, 0);
    // What is wrong with a patch is told where it is undone.
    while let Ok(segment) = Segment::next(&mut patch) {
        (stretch, makes) = (segment.length.max(stretch), segment.makes.max(makes));
    }
    stretch + makes
}

/// One piece of a patch.
struct Segment<'p> {
    /// Where its stretch of the old file begins, and how long it is.
    from: u64,
    length: u64,
    frame: &'p [u8],
    /// So many bytes.
    makes: u64,
}

impl<'p> Segment<'p> {
    /// Takes the next one off `patch`.
    fn next(patch: &mut &'p [u8]) -> Result<Self, DeltaError> {
        let wrong = |why: &str| DeltaError::Damaged(why.to_owned());
        let cut = || wrong("it is cut off");
        let mut number = || get(patch)?.ok_or_else(cut);
        let (from, length, frame) = (number()?, number()?, number()?);
        if length > MAX_STRETCH {
            return Err(wrong("a piece needs too long a stretch"));
        }
        let (frame, rest) =
            usize::try_from(frame).ok().and_then(|n| patch.split_at_checked(n)).ok_or_else(cut)?;
        *patch = rest;
        match prefix::content_size(frame) {
            Some(makes @ 1..=MAX_SEGMENT) => Ok(Segment { from, length, frame, makes }),
            _ => Err(wrong("a piece does not say how much it makes, or too much")),
        }
    }
}

/// What a patch makes, as a stream of exactly the bytes that its listing claims.
pub struct Segments<'a> {
    patch: &'a [u8],
    old: Box<dyn ReadAt + 'a>,
    stretch: &'a mut Vec<u8>,
    made: &'a mut Vec<u8>,
    given: usize,
    left: u64,
}

impl<'a> Segments<'a> {
    /// Prepares to make `length` bytes out of `patch` and `old`, a piece at a time in `buffers`.
    pub fn new(
        patch: &'a [u8],
        length: u64,
        old: Box<dyn ReadAt + 'a>,
        (stretch, made): (&'a mut Vec<u8>, &'a mut Vec<u8>),
    ) -> Self {
        made.clear();
        Segments { patch, old, stretch, made, given: 0, left: length }
    }

    fn advance(&mut self) -> Result<(), DeltaError> {
        let wrong = |why: &str| Err(DeltaError::Damaged(why.to_owned()));
        let Segment { from, length, frame, makes } = Segment::next(&mut self.patch)?;
        if makes > self.left {
            return wrong("it makes more than it claims");
        }
        read_stretch(&*self.old, from, length, self.stretch)?;
        if self.stretch.len() as u64 != length {
            return wrong("a piece needs what its source does not have");
        }
        prefix::decode(self.stretch, frame, makes, self.made)?;
        self.left -= self.made.len() as u64;
        self.given = 0;
        Ok(())
    }
}

impl BufRead for Segments<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.given == self.made.len() {
            if self.left == 0 {
                let why = "the patch makes more than it claims";
                return if self.patch.is_empty() {
                    Ok(&[])
                } else {
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                };
            }
            self.advance().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(&self.made[self.given..])
    }

    fn consume(&mut self, amount: usize) {
        self.given += amount;
    }
}

impl Read for Segments<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// `length` bytes of `file` from `from` on, in place of what `bytes` held; fewer where it ends before.
fn read_stretch(file: &dyn ReadAt, from: u64, length: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(length.min(MAX_STRETCH)).map_err(io::Error::other)?;
    bytes.clear();
    bytes.reserve_exact(length);
    bytes.resize(length, 0);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from.saturating_add(filled as u64))? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(())
}
