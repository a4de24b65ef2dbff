//! Access to ranges of a repository's files, and to the verified heads of files in frames.

use std::io::Read;

use crate::catalog::{FileRef, FirstFrame};
use crate::diff_archive::{FrameCompression, FrameFault, FrameHead, FramedFile, MAX_FRAME_HEAD};
use crate::fetch::content::error::FrameError;
use crate::fetch::error::FetchError;

/// Access to ranges of a repository's files; several threads may use it at once.
pub trait Ranges: Sync {
    /// Reads `length` bytes of `file` from `offset`, unverified: the caller knows their digest.
    fn range(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError>;

    /// Like [`range`](Self::range), for bytes that were wrong: caches on the way are bypassed.
    fn range_again(
        &self,
        file: &FileRef,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        self.range(file, offset, length)
    }
}

/// Fetches the head of a file in frames, whose digest the catalog has.
pub(super) fn read_frame_head(
    ranges: &dyn Ranges,
    file: &FileRef,
    head: FirstFrame,
    compression: FrameCompression,
) -> Result<FrameHead, FrameError> {
    if head.length > MAX_FRAME_HEAD {
        return Err(FrameFault::HeadTooLong.into());
    }
    let size = file.size;
    let read =
        |bytes| FrameHead::read(&mut FramedFile { bytes, size, compression, head: Some(head) });
    match read(ranges.range(file, 0, head.length)?) {
        Err(FrameFault::OtherHead) => Ok(read(ranges.range_again(file, 0, head.length)?)?),
        result => Ok(result?),
    }
}
