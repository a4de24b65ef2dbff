//! The published content index, of which only the needed blocks are fetched.
//!
//! Its head is verified by the digest in the catalog, and each block by the frame table in the head.
//! Blocks that were fetched stay in memory as they are stored, since the sources of deltas are
//! searched later.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::ops::Range;

use crate::catalog::{FileRef, IndexFile};
use crate::diff_archive::content_index::{ContentIndex, IndexError, IndexHead, IndexRecord};
use crate::diff_archive::{FrameCompression, FrameFault};
use crate::digest::Digest;
use crate::fetch::content::error::FrameError;
use crate::fetch::content::ranges::{Ranges, read_frame_head};
use crate::fetch::error::FetchError;

/// Largest index of which blocks are kept in memory; the text of an index has the same limit.
const MAX_INDEX: u64 = 256 << 20;
/// Bytes between two needed blocks that are fetched with them, instead of a further request.
const MAX_GAP: u64 = 32 << 10;
/// Bytes that one request fetches.
const MAX_RANGE: u64 = 8 << 20;

/// A published index and those of its records that were searched.
pub(super) struct PublishedIndex<'s> {
    file: &'s FileRef,
    ranges: &'s dyn Ranges,
    head: IndexHead,
    /// Fetched blocks, as they are stored.
    blocks: HashMap<usize, Vec<u8>>,
    /// Contents whose records were searched.
    searched: HashSet<Digest>,
    found: ContentIndex,
    /// Whether a block stayed damaged.
    is_damaged: bool,
    /// Bytes fetched until now.
    fetched_bytes: u64,
}

impl<'s> PublishedIndex<'s> {
    /// Fetches the head of an index.
    pub fn open(index: &'s IndexFile, ranges: &'s dyn Ranges) -> Result<Self, FrameError> {
        if index.file.size > MAX_INDEX {
            return Err(FrameFault::OtherSize.into());
        }
        let first = index.first_frame;
        let head = read_frame_head(ranges, &index.file, first, FrameCompression::Zstd)?;
        let head = IndexHead::read(&head, index.file.size)?;
        Ok(PublishedIndex {
            file: &index.file,
            ranges,
            found: ContentIndex::of_archives(&head),
            head,
            blocks: HashMap::new(),
            searched: HashSet::new(),
            is_damaged: false,
            fetched_bytes: first.length,
        })
    }

    /// Records of the contents that were searched.
    pub fn found(&self) -> &ContentIndex {
        &self.found
    }

    /// The file of the index.
    pub fn file(&self) -> &'s FileRef {
        self.file
    }

    /// Whether a block that was searched is damaged.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Bytes fetched until now.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Searches contents, and fetches the blocks that it needs.
    ///
    /// A block that stays damaged has no records: its contents are then not indexed.
    pub fn search(&mut self, wanted: impl Iterator<Item = Digest>) -> Result<(), FetchError> {
        let wanted: HashSet<Digest> =
            wanted.filter(|digest| !self.searched.contains(digest)).collect();
        let needed: BTreeSet<usize> =
            wanted.iter().flat_map(|digest| self.head.blocks_of(digest)).collect();
        let absent: Vec<usize> =
            needed.iter().copied().filter(|number| !self.blocks.contains_key(number)).collect();
        for numbers in self.join(&absent) {
            self.fetch(numbers)?;
        }

        let mut records = Vec::new();
        for number in needed {
            match self.read_block(number, &wanted)? {
                Some(found) => records.extend(found),
                None => self.is_damaged = true,
            }
        }
        self.found.add(records);
        self.searched.extend(wanted);
        Ok(())
    }

    /// Reads the wanted records of a fetched block; fetches it again if a cache has damaged it.
    fn read_block(
        &mut self,
        number: usize,
        wanted: &HashSet<Digest>,
    ) -> Result<Option<Vec<(IndexRecord, u32)>>, FetchError> {
        let is_wanted = |digest: &Digest| wanted.contains(digest);
        let Some(stored) = self.blocks.get(&number) else { return Ok(None) };
        let error = match self.head.read_block(number, stored, is_wanted) {
            Ok(records) => return Ok(Some(records)),
            Err(error) => error,
        };
        if !is_wrong_digest(&error) {
            return Ok(None);
        }

        let Some((offset, length)) = self.head.table().range(number..number + 1) else {
            return Ok(None);
        };
        let stored = read_all(self.ranges.range_again(self.file, offset, length)?);
        self.fetched_bytes += length;
        let Ok(stored) = stored else { return Ok(None) };
        let records = self.head.read_block(number, &stored, is_wanted).ok();
        self.blocks.insert(number, stored);
        Ok(records)
    }

    /// Fetches adjacent blocks, unverified.
    fn fetch(&mut self, numbers: Range<usize>) -> Result<(), FetchError> {
        let Some((offset, length)) = self.head.table().range(numbers.clone()) else {
            return Ok(());
        };
        let bytes = read_all(self.ranges.range(self.file, offset, length)?).unwrap_or_default();
        self.fetched_bytes += length;

        let mut rest = &bytes[..];
        for number in numbers {
            let Some((_, length)) = self.head.table().range(number..number + 1) else { break };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((block, others)) = rest.split_at_checked(length) else { break };
            self.blocks.insert(number, block.to_vec());
            rest = others;
        }
        Ok(())
    }

    /// Joins the numbers of blocks that one request fetches; all of them if most are needed.
    fn join(&self, numbers: &[usize]) -> Vec<Range<usize>> {
        let table = self.head.table();
        let bytes = |range: Range<usize>| table.range(range).map_or(0, |(_, length)| length);
        let needed: u64 = numbers.iter().map(|number| bytes(*number..number + 1)).sum();
        let has_most = needed * 2 >= self.file.size;

        let mut joined: Vec<Range<usize>> = Vec::new();
        for &number in numbers {
            let last = joined.last_mut().filter(|last| {
                let is_near = has_most || bytes(last.end..number) <= MAX_GAP;
                is_near && bytes(last.start..number + 1) <= MAX_RANGE
            });
            match last {
                Some(last) => last.end = number + 1,
                None => joined.push(number..number + 1),
            }
        }
        joined
    }
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_wrong_digest(error: &IndexError) -> bool {
    let IndexError::Io(error) = error else { return false };
    let fault = error.get_ref().and_then(|fault| fault.downcast_ref::<FrameFault>());
    matches!(fault, Some(FrameFault::Digest(_)))
}
