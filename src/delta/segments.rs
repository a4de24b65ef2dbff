//! Patches of the kind `segments`: a large file in segments, each with a range of the old file as
//! its prefix (clause 6).
//!
//! A change in a large file moves its other parts by little, relative to their offsets. So each
//! segment finds its source near the same relative offset, and neither side holds more of either
//! file than one segment and the range around it.

use std::io::{self, BufRead, Read};

use super::copies::ReadAt;
use super::effort::Effort;
use super::error::{DeltaError, PatchDefect};
use super::limits::MAX_PATCH;
use super::prefix;
use super::varint::{get, put};

/// Bytes of the output of a segment, as the encoder makes them.
const SEGMENT: u64 = 2 << 20;
/// Bytes of the range before and after the relative offset of a segment.
const AROUND: u64 = 1 << 20;
const RANGE: u64 = SEGMENT + 2 * AROUND;

/// Limits of the format: output and range of a segment. They bound a decoder's memory.
const MAX_SEGMENT: u64 = 4 << 20;
const MAX_RANGE: u64 = 8 << 20;

/// Computes the patch from `old`, of `old_length` bytes, to the `length` bytes of `new`.
///
/// `None` if it is larger than [`MAX_PATCH`].
pub fn encode_segments(
    old: &dyn ReadAt,
    old_length: u64,
    mut new: impl Read,
    length: u64,
    effort: Effort,
) -> io::Result<Option<Vec<u8>>> {
    let (mut patch, mut piece, mut range) = (Vec::new(), Vec::new(), Vec::new());

    for at in (0..length).step_by(SEGMENT as usize) {
        piece.clear();
        new.by_ref().take(SEGMENT).read_to_end(&mut piece)?;

        let center = u128::from(at) * u128::from(old_length) / u128::from(length.max(1));
        let from = u64::try_from(center).unwrap_or(old_length).saturating_sub(AROUND);
        read_range(old, from, RANGE.min(old_length - from.min(old_length)), &mut range)?;

        let frame = prefix::encode(&range, &piece, effort)?;
        for number in [from, range.len() as u64, frame.len() as u64] {
            put(&mut patch, number);
        }
        patch.extend_from_slice(&frame);
        if patch.len() as u64 > MAX_PATCH {
            return Ok(None);
        }
    }
    Ok(Some(patch))
}

/// Memory in bytes that decoding `patch` takes, without the patch itself.
///
/// A damaged patch counts up to its first defect; the decoder reports the defect.
pub fn segments_memory(mut patch: &[u8]) -> u64 {
    let (mut range, mut output) = (0, 0);
    while let Ok(segment) = Segment::parse(&mut patch) {
        range = segment.range_length.max(range);
        output = segment.output_length.max(output);
    }
    range + output
}

/// One segment of a patch.
struct Segment<'p> {
    /// Offset of its range in the old file.
    range_offset: u64,
    range_length: u64,
    frame: &'p [u8],
    output_length: u64,
}

impl<'p> Segment<'p> {
    /// Removes the next segment from `patch`.
    fn parse(patch: &mut &'p [u8]) -> Result<Self, DeltaError> {
        let mut number = || get(patch)?.ok_or(DeltaError::from(PatchDefect::TruncatedSegment));
        let (range_offset, range_length, frame) = (number()?, number()?, number()?);
        if range_length > MAX_RANGE {
            return Err(PatchDefect::LongRange.into());
        }

        let (frame, rest) = usize::try_from(frame)
            .ok()
            .and_then(|length| patch.split_at_checked(length))
            .ok_or(PatchDefect::TruncatedSegment)?;
        *patch = rest;

        match prefix::content_size(frame) {
            Some(output_length @ 1..=MAX_SEGMENT) => {
                Ok(Segment { range_offset, range_length, frame, output_length })
            }
            _ => Err(PatchDefect::SegmentLength.into()),
        }
    }
}

/// Buffers of a decoder: the range of the old file, and the output of one segment.
pub type SegmentBuffers<'a> = (&'a mut Vec<u8>, &'a mut Vec<u8>);

/// Reader of the output of a patch; it yields exactly the bytes that the listing claims.
pub struct Segments<'a> {
    patch: &'a [u8],
    old: Box<dyn ReadAt + 'a>,
    range: &'a mut Vec<u8>,
    output: &'a mut Vec<u8>,
    /// Number of bytes of `output` that were read.
    consumed: usize,
    /// Number of bytes of the segments that are not decoded yet.
    left: u64,
}

impl<'a> Segments<'a> {
    /// Prepares to decode `length` bytes from `patch` and `old`, one segment at a time.
    pub fn new(
        patch: &'a [u8],
        length: u64,
        old: Box<dyn ReadAt + 'a>,
        (range, output): SegmentBuffers<'a>,
    ) -> Self {
        output.clear();
        Segments { patch, old, range, output, consumed: 0, left: length }
    }

    fn decode_next(&mut self) -> Result<(), DeltaError> {
        let Segment { range_offset, range_length, frame, output_length } =
            Segment::parse(&mut self.patch)?;
        if output_length > self.left {
            return Err(PatchDefect::LongOutput.into());
        }

        read_range(&*self.old, range_offset, range_length, self.range)?;
        if self.range.len() as u64 != range_length {
            return Err(PatchDefect::SegmentOutsideSource.into());
        }

        prefix::decode(self.range, frame, output_length, self.output)?;
        self.left -= self.output.len() as u64;
        self.consumed = 0;
        Ok(())
    }
}

impl BufRead for Segments<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.output.len() {
            if self.left == 0 {
                return if self.patch.is_empty() {
                    Ok(&[])
                } else {
                    Err(PatchDefect::LongOutput.into())
                };
            }
            self.decode_next()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(&self.output[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}

impl Read for Segments<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Replaces `bytes` by `length` bytes of `file` from `from` on; by fewer if it ends earlier.
fn read_range(file: &dyn ReadAt, from: u64, length: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(length.min(MAX_RANGE)).map_err(io::Error::other)?;
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
