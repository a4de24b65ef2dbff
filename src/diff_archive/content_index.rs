//! The content index: the location of each content of the published archives.
//!
//! With it a reader fetches a single content by range instead of a whole archive.
//!
#![doc = include_str!("content_index.md")]

use std::cmp::Ordering;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use super::compression::{FrameCompression, FrameCompressor};
use super::frame_head::{FrameHead, FramedFile};
use super::frame_table::{FrameTable, StoredFrame};
use super::frames::VerifiedFrames;
use super::limits::MAX_RAW_FRAME;
use super::source_lines::parse_number;
use crate::catalog::{FirstFrame, MAX_FILE, RepoPath};
use crate::digest::Digest;

pub use super::error::IndexError;

/// Largest text in bytes, about two million lines; a larger one is refused.
const MAX_TEXT: u64 = 256 << 20;
/// Longest text of an index, for each of its compressed bytes; real ones have about three.
const MAX_RATIO: u64 = 32;
/// Text in bytes that is read in addition, so that a small index is read at any ratio.
const SMALL_TEXT: u64 = 1 << 20;
/// Longest line in bytes; the name of an archive is the longest.
const MAX_LINE: u64 = 1024;
/// Largest number of archives, more than a repository has; it bounds a reader's memory.
const MAX_ARCHIVES: usize = 1 << 20;
/// Text of a block in bytes, which a reader of one content fetches.
const BLOCK: usize = 64 << 10;
/// The text is mostly digests, which no level compresses.
const LEVEL: i32 = 1;
const HEAD: &[u8] = b"si-content 2\n";

/// A content in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRecord {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Location in its archive.
    pub place: ContentLocation,
}

/// Location of a content in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLocation {
    /// Number of the frame in which its member begins, counted from 0 after the head.
    pub frame: u64,
    /// Offset of the content, or of the patch that yields it, from the frame's first raw byte.
    pub offset: u64,
    /// Number of the delta group that yields it; `None` if the archive has it as a whole.
    pub group: Option<u64>,
}

/// Location of each content of the published archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentIndex {
    archives: Vec<RepoPath>,
    /// Keyed by digest, the best location first.
    records: Vec<NumberedRecord>,
}

/// A record, and the number of its archive.
pub type NumberedRecord = (IndexRecord, u32);

/// The head of a published index: its archives, and the first digest of each block.
#[derive(Clone, Debug)]
pub struct IndexHead {
    archives: Vec<RepoPath>,
    firsts: Vec<Digest>,
    table: Arc<FrameTable>,
    /// End of the text of the head.
    end: TextPosition,
}

/// A place between two lines of an index.
#[derive(Clone, Debug)]
struct TextPosition {
    /// Number of lines before it.
    lines: u64,
    /// Number of bytes before it.
    length: u64,
    /// Largest length.
    limit: u64,
    /// The record before it.
    last: Option<NumberedRecord>,
}

/// A part of the text with the digest of its first line.
struct IndexBlock {
    first: Digest,
    text: Vec<u8>,
}

impl ContentLocation {
    /// Number of frames that the content needs, or its patch, of `length` bytes.
    ///
    /// All frames of a large member but the last have the same number of raw bytes.
    pub fn frame_count(&self, length: u64) -> u64 {
        self.offset.saturating_add(length).div_ceil(MAX_RAW_FRAME as u64).max(1)
    }
}

impl IndexRecord {
    /// Order of clause 4: by digest, then the best location first.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let key = |record: &Self| {
            let ContentLocation { frame, offset, group } = record.place;
            (record.digest, group, frame, offset)
        };
        key(self).cmp(&key(other))
    }
}

impl ContentIndex {
    /// Merges the records of archives.
    pub fn new(archives: impl IntoIterator<Item = (RepoPath, Vec<IndexRecord>)>) -> Self {
        let mut archives: Vec<_> = archives.into_iter().collect();
        archives.sort_by(|a, b| a.0.cmp(&b.0));

        let mut index = ContentIndex::default();
        for (number, (file, records)) in (0u32..).zip(archives) {
            index.archives.push(file);
            index.records.extend(records.into_iter().map(|record| (record, number)));
        }
        index.records.sort_unstable_by(compare);
        index
    }

    /// The records of each archive, so that archives can be added and removed.
    pub fn into_archives(self) -> Vec<(RepoPath, Vec<IndexRecord>)> {
        let mut archives: Vec<_> =
            self.archives.into_iter().map(|file| (file, Vec::new())).collect();
        for (record, number) in self.records {
            archives[number as usize].1.push(record);
        }
        archives
    }

    /// All locations of a content, the best first.
    pub fn places(&self, digest: &Digest) -> impl Iterator<Item = (&RepoPath, &IndexRecord)> {
        let first = self.records.partition_point(|(record, _)| record.digest < *digest);
        let same =
            self.records[first..].iter().take_while(move |(record, _)| record.digest == *digest);
        same.map(|(record, number)| (&self.archives[*number as usize], record))
    }

    /// Every content with all its locations.
    pub fn iter(&self) -> impl Iterator<Item = (&RepoPath, &IndexRecord)> {
        self.records.iter().map(|(record, number)| (&self.archives[*number as usize], record))
    }

    /// Writes the index, compressed, and returns its head; the same index gives the same bytes.
    pub fn write_zstd(&self, mut to: impl Write) -> io::Result<FirstFrame> {
        let blocks = self.blocks()?;
        let mut text = HEAD.to_vec();
        for file in &self.archives {
            writeln!(text, "archive {file}")?;
        }
        for block in &blocks {
            writeln!(text, "block {}", block.first)?;
        }

        let mut compressor = FrameCompressor::new(FrameCompression::Zstd);
        let mut compress = |raw: &[u8]| compressor.compress(raw, LEVEL);
        let frames: Vec<Vec<u8>> =
            blocks.iter().map(|block| compress(&block.text)).collect::<io::Result<_>>()?;
        let listed: Vec<StoredFrame> = frames.iter().map(|frame| StoredFrame::of(frame)).collect();
        let mut head = FrameTable::encode(FrameCompression::Zstd, &listed);
        for raw in text.chunks(MAX_RAW_FRAME) {
            head.extend(compress(raw)?);
        }

        to.write_all(&head)?;
        frames.iter().try_for_each(|frame| to.write_all(frame))?;
        to.flush()?;
        Ok(FirstFrame { length: head.len() as u64, sha256: Digest::of(&head) })
    }

    /// The lines of all records, cut into blocks.
    fn blocks(&self) -> io::Result<Vec<IndexBlock>> {
        let mut blocks: Vec<IndexBlock> = Vec::new();
        let mut line = Vec::new();
        for (IndexRecord { digest, size, place }, archive) in &self.records {
            let ContentLocation { frame, offset, group } = place;
            line.clear();
            write!(line, "{digest} {size} {archive} {frame} {offset}")?;
            match group {
                Some(group) => writeln!(line, " {group}")?,
                None => writeln!(line)?,
            }

            match blocks.last_mut().filter(|block| block.text.len() + line.len() <= BLOCK) {
                Some(block) => block.text.extend_from_slice(&line),
                None => blocks.push(IndexBlock { first: *digest, text: line.clone() }),
            }
        }
        Ok(blocks)
    }

    /// Reads an index of `stored` compressed bytes, which its catalog states together with its head.
    ///
    /// Digests cannot be compressed, so a text that is much longer was made to fill memory.
    pub fn read_published(
        from: impl Read,
        stored: u64,
        head: Option<FirstFrame>,
    ) -> Result<Self, IndexError> {
        let compression = FrameCompression::Zstd;
        let mut file = FramedFile { bytes: from, size: stored, compression, head };
        let head = IndexHead::read(&FrameHead::read(&mut file)?, stored)?;

        let mut frames = VerifiedFrames::new(file.bytes, Arc::clone(&head.table), compression);
        let mut position = head.end.clone();
        let mut records = Vec::new();
        for number in 0..head.firsts.len() {
            let block = frames.next_frame()?.ok_or(IndexError::Blocks)?;
            head.read_lines(number, block, &mut position, &mut |record| records.push(record))?;
        }
        match frames.next_frame()? {
            None => Ok(ContentIndex { archives: head.archives, records }),
            Some(_) => Err(IndexError::Blocks),
        }
    }

    /// An index without records, for the archives of `head`.
    pub fn of_archives(head: &IndexHead) -> Self {
        ContentIndex { archives: head.archives.clone(), records: Vec::new() }
    }

    /// Adds records of blocks of the same index that it does not have.
    pub fn add(&mut self, records: Vec<NumberedRecord>) {
        self.records.extend(records);
        self.records.sort_unstable_by(compare);
    }
}

impl IndexHead {
    /// Reads the verified `head` of an index of `stored` bytes.
    pub fn read(head: &FrameHead, stored: u64) -> Result<Self, IndexError> {
        let limit = stored.saturating_mul(MAX_RATIO).saturating_add(SMALL_TEXT).min(MAX_TEXT);
        let mut index = IndexHead {
            archives: Vec::new(),
            firsts: Vec::new(),
            table: Arc::clone(head.table()),
            end: TextPosition { lines: 0, length: 0, limit, last: None },
        };

        // One byte above the limit shows a text that is too long.
        let mut text = BufReader::new(head.frames().take(limit + 1));
        let mut line = Vec::new();
        let TextPosition { mut lines, mut length, .. } = index.end;
        loop {
            line.clear();
            length += text.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            if line.is_empty() && lines > 0 {
                break;
            }
            lines += 1;
            let is_valid = match lines {
                1 => line == HEAD,
                _ => index.add_line(&line).is_some(),
            };
            if !is_valid || length > limit {
                return Err(IndexError::Line(lines));
            }
        }
        if index.firsts.len() != index.table.count() {
            return Err(IndexError::Blocks);
        }
        (index.end.lines, index.end.length) = (lines, length);
        Ok(index)
    }

    /// Numbers of the blocks that may have records of a content (clause 4).
    pub fn blocks_of(&self, digest: &Digest) -> Range<usize> {
        let start = self.firsts.partition_point(|first| first < digest).saturating_sub(1);
        start..self.firsts.partition_point(|first| first <= digest)
    }

    /// The blocks: length and digest of each.
    pub fn table(&self) -> &Arc<FrameTable> {
        &self.table
    }

    /// Reads the records of one block whose content `is_wanted`; `stored` are its bytes in the file.
    pub fn read_block(
        &self,
        number: usize,
        stored: &[u8],
        is_wanted: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<NumberedRecord>, IndexError> {
        let (table, compression) = (Arc::clone(&self.table), FrameCompression::Zstd);
        let mut frames = VerifiedFrames::part(stored, table, number..number + 1, compression);
        let block = frames.next_frame()?.ok_or(IndexError::Blocks)?;

        let mut records = Vec::new();
        self.read_lines(number, block, &mut self.end.clone(), &mut |record| {
            if is_wanted(&record.0.digest) {
                records.push(record);
            }
        })?;
        Ok(records)
    }

    /// Passes the records of block `number` to `on_record`; `position` is its place in the text.
    fn read_lines(
        &self,
        number: usize,
        block: &[u8],
        position: &mut TextPosition,
        on_record: &mut dyn FnMut(NumberedRecord),
    ) -> Result<(), IndexError> {
        position.length += block.len() as u64;
        let mut first = None;
        for line in block.split_inclusive(|byte| *byte == b'\n') {
            position.lines += 1;
            let record = self.parse_record(line).filter(|record| {
                let in_order =
                    position.last.as_ref().is_none_or(|last| compare(last, record).is_lt());
                in_order && position.length <= position.limit
            });
            let Some(record) = record else { return Err(IndexError::Line(position.lines)) };
            first.get_or_insert(record.0.digest);
            position.last = Some(record);
            on_record(record);
        }
        if first == self.firsts.get(number).copied() { Ok(()) } else { Err(IndexError::Blocks) }
    }

    /// Adds an archive or the first digest of a block; `None` if the line is not valid.
    fn add_line(&mut self, line: &[u8]) -> Option<()> {
        let content = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        if let Some(digest) = content.strip_prefix("block ") {
            let first = digest.parse().ok()?;
            let in_order = self.firsts.last().is_none_or(|last| *last <= first);
            self.firsts.push(first);
            return in_order.then_some(());
        }

        let file = RepoPath::new(content.strip_prefix("archive ")?).ok()?;
        let in_order = self.archives.last().is_none_or(|last| *last < file);
        if !in_order || !self.firsts.is_empty() || self.archives.len() >= MAX_ARCHIVES {
            return None;
        }
        self.archives.push(file);
        Some(())
    }

    /// Parses a record; `None` if the line is not valid.
    fn parse_record(&self, line: &[u8]) -> Option<NumberedRecord> {
        let content = line.strip_suffix(b"\n")?;
        let mut words = content.split(|byte| *byte == b' ').peekable();
        let digest = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let mut number = || parse_number(&mut words).filter(|number| *number <= MAX_FILE);
        let (size, archive) = (number()?, u32::try_from(number()?).ok()?);
        let (frame, offset) = (number()?, number()?);
        let group = if words.peek().is_some() { Some(parse_number(&mut words)?) } else { None };

        if words.next().is_some() || archive as usize >= self.archives.len() {
            return None;
        }
        Some((
            IndexRecord { digest, size, place: ContentLocation { frame, offset, group } },
            archive,
        ))
    }
}

/// Order of all records (clause 4): of equal digests, whole contents first.
fn compare(a: &NumberedRecord, b: &NumberedRecord) -> Ordering {
    let key = |(record, archive): &NumberedRecord| {
        (record.digest, record.place.group.is_some(), *archive)
    };
    key(a).cmp(&key(b)).then_with(|| a.0.compare(&b.0))
}

#[cfg(test)]
mod tests;
