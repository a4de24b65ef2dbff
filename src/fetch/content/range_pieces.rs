//! A long range of an archive that is requested in pieces, as its reader needs them.
//!
//! A range is held in memory while it is read. The frames of one large content would otherwise need
//! its size in memory, or on the disk in addition to the stage.

use std::io::{self, Read};
use std::ops::Range;

use super::archive_heads::OpenedArchive;
use super::frame_run::{MAX_RANGE, RunAttempt};
use crate::fetch::error::FetchError;

/// Reader of a range. A request that fails is the cause of its error.
pub(super) struct RangePieces<'r> {
    archive: &'r OpenedArchive<'r>,
    attempt: RunAttempt,
    /// Bytes that were not requested yet.
    rest: Range<u64>,
    piece: Box<dyn Read + 'r>,
}

impl<'r> RangePieces<'r> {
    /// Requests the first piece.
    pub fn start(
        archive: &'r OpenedArchive<'r>,
        attempt: RunAttempt,
        range: Range<u64>,
    ) -> Result<Self, FetchError> {
        let mut pieces =
            RangePieces { archive, attempt, rest: range, piece: Box::new(io::empty()) };
        pieces.request()?;
        Ok(pieces)
    }

    fn request(&mut self) -> Result<(), FetchError> {
        let length = MAX_RANGE.min(self.rest.end - self.rest.start);
        self.piece = self.archive.fetch_range(self.attempt, self.rest.start, length)?;
        self.rest.start += length;
        Ok(())
    }
}

impl Read for RangePieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.read(buffer)?;
        if count > 0 || buffer.is_empty() || self.rest.is_empty() {
            return Ok(count);
        }
        self.request().map_err(io::Error::other)?;
        self.piece.read(buffer)
    }
}
