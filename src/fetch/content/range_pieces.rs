//! A long range of an archive that is requested in pieces, as its reader needs them.
//!
//! A range is held in memory while it is read. The frames of one large content would otherwise need
//! its size in memory, or on the disk in addition to the stage.

use std::io::{self, Read};
use std::ops::Range;

use super::frame_run::MAX_RANGE;
use crate::fetch::error::FetchError;

/// Requests bytes of a file by offset and length.
type Request<'r> = dyn Fn(u64, u64) -> Result<Box<dyn Read + 'r>, FetchError> + 'r;

/// Reader of a range. A request that fails is the cause of its error.
pub(super) struct RangePieces<'r> {
    request: Box<Request<'r>>,
    /// Bytes that were not requested yet.
    rest: Range<u64>,
    piece: Box<dyn Read + 'r>,
}

impl<'r> RangePieces<'r> {
    /// Requests the first piece of `range` by `request`.
    pub fn start(
        range: Range<u64>,
        request: impl Fn(u64, u64) -> Result<Box<dyn Read + 'r>, FetchError> + 'r,
    ) -> Result<Self, FetchError> {
        let piece = Box::new(io::empty());
        let mut pieces = RangePieces { request: Box::new(request), rest: range, piece };
        pieces.request_next()?;
        Ok(pieces)
    }

    fn request_next(&mut self) -> Result<(), FetchError> {
        let length = MAX_RANGE.min(self.rest.end - self.rest.start);
        self.piece = (self.request)(self.rest.start, length)?;
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
        self.request_next().map_err(io::Error::other)?;
        self.piece.read(buffer)
    }
}
