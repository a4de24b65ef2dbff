//! The archives of a catalog, whose heads are read when they are needed.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::catalog::{Archive, RepoPath};
use crate::diff_archive::{
    ArchiveLimits, DeltaGroup, FrameCompression, FrameTable, VerifiedFrames, read_listing,
};
use crate::fetch::content::error::{FrameError, is_final};
use crate::fetch::content::frame_run::{RunAttempt, find_group, range_of};
use crate::fetch::content::locking::lock;
use crate::fetch::content::range_pieces::RangePieces;
use crate::fetch::content::ranges::{Ranges, read_frame_head};
use crate::fetch::error::FetchError;

/// Requests in a row that may fail before an archive counts as missing; each is repeated in itself.
const MAX_FAILED_REQUESTS: u32 = 3;

/// The archives of a catalog.
pub(super) struct ArchiveHeads<'s> {
    archives: HashMap<&'s RepoPath, &'s Archive>,
    ranges: &'s dyn Ranges,
    /// Archives whose heads were read, or could not be read.
    opened: Mutex<HashMap<&'s RepoPath, HeadResult<'s>>>,
}

/// Result of the only attempt to read the head of an archive.
type HeadResult<'s> = Result<Arc<OpenedArchive<'s>>, Arc<FrameError>>;

/// Parts of the verified head of an archive.
pub(super) struct OpenedArchive<'s> {
    pub archive: &'s Archive,
    pub table: Arc<FrameTable>,
    pub groups: Vec<DeltaGroup>,
    compression: FrameCompression,
    ranges: &'s dyn Ranges,
    /// Requests in a row that have failed.
    failed_requests: AtomicU32,
}

impl<'s> ArchiveHeads<'s> {
    /// Reads no head yet.
    pub fn new(archives: &'s [Archive], ranges: &'s dyn Ranges) -> Self {
        let archives = archives.iter().map(|archive| (&archive.file.file, archive)).collect();
        ArchiveHeads { archives, ranges, opened: Mutex::default() }
    }

    /// The archive with this name.
    pub fn get(&self, file: &RepoPath) -> Option<&'s Archive> {
        self.archives.get(file).copied()
    }

    /// Archives whose heads were read, or could not be read.
    pub fn known(&self) -> HashSet<&'s RepoPath> {
        lock(&self.opened).keys().copied().collect()
    }

    /// Reads the head of an archive.
    ///
    /// A head that cannot be read is not tried again, except after a final error.
    pub fn open(&self, archive: &'s Archive) -> Result<Arc<OpenedArchive<'s>>, FrameError> {
        // Held meanwhile, so that a head is fetched once.
        let mut opened = lock(&self.opened);
        let result = match opened.get(&archive.file.file) {
            Some(result) => result.clone(),
            None => {
                let result = match self.read(archive) {
                    Ok(archive) => Ok(Arc::new(archive)),
                    Err(FrameError::Fetch(error)) if is_final(&error) => return Err(error.into()),
                    Err(error) => Err(Arc::new(error)),
                };
                opened.insert(&archive.file.file, result.clone());
                result
            }
        };
        result.map_err(FrameError::Head)
    }

    fn read(&self, archive: &'s Archive) -> Result<OpenedArchive<'s>, FrameError> {
        let compression = FrameCompression::from_name(archive.file.file.as_str());
        let compression = compression.ok_or(FrameError::UnknownCompression)?;
        let head = read_frame_head(self.ranges, &archive.file, archive.first_frame, compression)?;
        let groups = if head.has_frames() {
            read_listing(&head, &ArchiveLimits::default())?.groups().to_vec()
        } else {
            Vec::new()
        };
        Ok(OpenedArchive {
            archive,
            table: Arc::clone(head.table()),
            groups,
            compression,
            ranges: self.ranges,
            failed_requests: AtomicU32::new(0),
        })
    }
}

impl OpenedArchive<'_> {
    /// The delta group with this number.
    pub fn group(&self, number: u64) -> Option<&DeltaGroup> {
        find_group(&self.groups, number)
    }

    /// Stored bytes of adjacent frames.
    pub fn stored_bytes(&self, frames: &Range<u64>) -> u64 {
        range_of(&self.table, frames).map_or(0, |(_, length)| length)
    }

    /// Fetches adjacent frames; the reader requests all but the first [`MAX_RANGE`] bytes of them.
    pub fn fetch(
        &self,
        frames: &Range<u64>,
        attempt: RunAttempt,
    ) -> Result<VerifiedFrames<RangePieces<'_>>, FrameError> {
        if self.failed_requests.load(Ordering::Relaxed) >= MAX_FAILED_REQUESTS {
            return Err(FrameError::ManyFailures);
        }
        let (offset, length) = range_of(&self.table, frames).ok_or(FrameError::NoFrame)?;
        let range = offset..offset.saturating_add(length);
        let request = move |offset, length| self.fetch_range(attempt, offset, length);
        let pieces = RangePieces::start(range, request)?;

        let number = |frame: u64| usize::try_from(frame).map_err(|_| FrameError::NoFrame);
        let numbers = number(frames.start)?..number(frames.end)?;
        Ok(VerifiedFrames::part(pieces, Arc::clone(&self.table), numbers, self.compression))
    }

    /// Fetches one range, and counts the requests that fail.
    fn fetch_range(
        &self,
        attempt: RunAttempt,
        offset: u64,
        length: u64,
    ) -> Result<Box<dyn Read + '_>, FetchError> {
        let file = &self.archive.file;
        let range = match attempt {
            RunAttempt::First => self.ranges.range(file, offset, length),
            RunAttempt::BypassingCaches => self.ranges.range_again(file, offset, length),
        };
        match &range {
            Ok(_) => self.failed_requests.store(0, Ordering::Relaxed),
            Err(_) => drop(self.failed_requests.fetch_add(1, Ordering::Relaxed)),
        }
        range
    }
}
