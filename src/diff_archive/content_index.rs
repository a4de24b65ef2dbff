//! The content index: the location of each content of the published archives.
//!
//! With it a reader fetches a single content by range instead of a whole archive.
//!
#![doc = include_str!("content_index.md")]

use std::cmp::Ordering;
use std::io::{self, BufRead, Read, Write};

use super::source_lines::parse_number;
use crate::catalog::{MAX_FILE, RepoPath};
use crate::digest::Digest;

pub use super::error::IndexError;

/// Largest text in bytes, about two million lines; a larger one is refused.
const MAX_TEXT: u64 = 256 << 20;
/// Longest text of a published index, for each of its compressed bytes; real ones have about three.
const MAX_RATIO: u64 = 32;
/// Text in bytes that is read in addition, so that a small index is read at any ratio.
const SMALL_TEXT: u64 = 1 << 20;
/// Longest line in bytes; the name of an archive is the longest.
const MAX_LINE: u64 = 1024;
/// Largest number of archives, more than a repository has; it bounds a reader's memory.
const MAX_ARCHIVES: usize = 1 << 20;
/// Limit on the window: 8 MiB.
const WINDOW_LOG: u32 = 23;
/// The text is mostly digests, which no level compresses.
const LEVEL: i32 = 1;
const HEAD: &[u8] = b"si-content 1\n";

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

/// Location of a content in an archive; all numbers are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLocation {
    /// Offset of the frame in the file.
    pub frame_offset: u64,
    /// Length of the frame in the file.
    pub frame_length: u64,
    /// Offset of the content, or of the patch that yields it, in the frame's raw bytes.
    pub offset: u64,
    /// Number of the delta group that yields it; `None` if the archive has it as a whole.
    pub group: Option<u64>,
}

/// Location of each content of the published archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentIndex {
    archives: Vec<RepoPath>,
    /// Keyed by digest, the best location first, with the number of the archive.
    records: Vec<(IndexRecord, u32)>,
}

impl IndexRecord {
    /// Order of clause 4: by digest, then the best location first.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let key = |record: &Self| {
            let ContentLocation { frame_offset, frame_length, offset, group } = record.place;
            (record.digest, group, frame_length, frame_offset, offset)
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

    /// Writes the index, compressed; the same index gives the same bytes.
    pub fn write_zstd(&self, to: impl Write) -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(to, LEVEL)?;
        encoder.include_checksum(true)?;
        let mut text = io::BufWriter::with_capacity(128 << 10, encoder);

        text.write_all(HEAD)?;
        for file in &self.archives {
            writeln!(text, "archive {file}")?;
        }
        for (IndexRecord { digest, size, place }, archive) in &self.records {
            let ContentLocation { frame_offset, frame_length, offset, group } = place;
            write!(text, "{digest} {size} {archive} {frame_offset} {frame_length} {offset}")?;
            match group {
                Some(group) => writeln!(text, " {group}")?,
                None => writeln!(text)?,
            }
        }
        text.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
    }

    /// Reads an index to its end.
    pub fn read_zstd(from: impl BufRead) -> Result<Self, IndexError> {
        Self::read_limited(from, MAX_TEXT)
    }

    /// Reads an index of `stored` compressed bytes, which its catalog states.
    ///
    /// Digests cannot be compressed, so a text that is much longer was made to fill memory.
    pub fn read_published(from: impl BufRead, stored: u64) -> Result<Self, IndexError> {
        let limit = stored.saturating_mul(MAX_RATIO).saturating_add(SMALL_TEXT);
        Self::read_limited(from, limit.min(MAX_TEXT))
    }

    fn read_limited(from: impl BufRead, max_text: u64) -> Result<Self, IndexError> {
        let mut decoder = zstd::Decoder::with_buffer(from)?;
        decoder.window_log_max(WINDOW_LOG)?;
        // One byte above the limit shows a text that is too long.
        let mut text = io::BufReader::with_capacity(128 << 10, decoder).take(max_text + 1);

        let mut index = ContentIndex::default();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            if text.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 && number > 1 {
                break;
            }

            let is_valid = if number == 1 { line == HEAD } else { index.add_line(&line).is_some() };
            if !is_valid || text.limit() == 0 {
                return Err(IndexError::Line(number));
            }
        }
        Ok(index)
    }

    /// Adds an archive or a record; `None` if the line is not valid.
    fn add_line(&mut self, line: &[u8]) -> Option<()> {
        let content = line.strip_suffix(b"\n")?;
        if let Some(name) = content.strip_prefix(b"archive ") {
            let file = RepoPath::new(std::str::from_utf8(name).ok()?).ok()?;
            let in_order = self.archives.last().is_none_or(|last| *last < file);
            if !in_order || !self.records.is_empty() || self.archives.len() >= MAX_ARCHIVES {
                return None;
            }
            self.archives.push(file);
            return Some(());
        }

        let mut words = content.split(|byte| *byte == b' ').peekable();
        let digest = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let mut number = || parse_number(&mut words).filter(|number| *number <= MAX_FILE);
        let (size, archive) = (number()?, u32::try_from(number()?).ok()?);
        let (frame_offset, frame_length, offset) = (number()?, number()?, number()?);

        let group = if words.peek().is_some() { Some(parse_number(&mut words)?) } else { None };
        let place = ContentLocation { frame_offset, frame_length, offset, group };

        let record = (IndexRecord { digest, size, place }, archive);
        let in_order = self.records.last().is_none_or(|last| compare(last, &record).is_lt());
        if words.next().is_some() || archive as usize >= self.archives.len() || !in_order {
            return None;
        }
        self.records.push(record);
        Some(())
    }
}

/// Order of all records (clause 4): of equal digests, whole contents first, then short frames.
fn compare(a: &(IndexRecord, u32), b: &(IndexRecord, u32)) -> Ordering {
    let key = |(record, archive): &(IndexRecord, u32)| {
        (record.digest, record.place.group.is_some(), record.place.frame_length, *archive)
    };
    key(a).cmp(&key(b)).then_with(|| a.0.compare(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(digest: u8, frame_length: u64, group: Option<u64>) -> IndexRecord {
        let place = ContentLocation { frame_offset: 7, frame_length, offset: 512, group };
        IndexRecord { digest: Digest([digest; 32]), size: 5, place }
    }

    fn sample() -> ContentIndex {
        let file = |name| RepoPath::new(name).expect("a good name");
        ContentIndex::new([
            (file("full/b.tar.zst"), vec![record(2, 900, None), record(1, 900, None)]),
            (
                file("diffs/a-b.tar.zst"),
                vec![record(1, 50, Some(0)), record(2, 100, None), record(3, 50, Some(0))],
            ),
        ])
    }

    fn compressed(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 3).expect("compresses")
    }

    #[test]
    fn index_round_trips() {
        let index = sample();
        let mut bytes = Vec::new();
        index.write_zstd(&mut bytes).expect("writes");

        assert_eq!(ContentIndex::read_zstd(&bytes[..]).expect("reads"), index);
        assert_eq!(ContentIndex::new(index.clone().into_archives()), index);
    }

    #[test]
    fn whole_contents_and_short_frames_come_first() {
        let index = sample();
        let places = |digest| -> Vec<&str> {
            index.places(&Digest([digest; 32])).map(|(file, _)| file.as_str()).collect()
        };

        assert_eq!(places(1), ["full/b.tar.zst", "diffs/a-b.tar.zst"]);
        assert_eq!(places(2), ["diffs/a-b.tar.zst", "full/b.tar.zst"]);
        assert_eq!(places(3), ["diffs/a-b.tar.zst"]);
        assert!(places(4).is_empty());
    }

    #[test]
    fn text_that_is_far_longer_than_stored_is_refused() {
        let mut text = "si-content 1\narchive a.tar.zst\n".to_owned();
        for number in 0..60_000 {
            text += &format!("{number:064x} 5 0 7 50 512\n");
        }
        let bytes = zstd::encode_all(text.as_bytes(), 19).expect("compresses");
        let stored = bytes.len() as u64;

        assert!(text.len() as u64 > stored * MAX_RATIO + SMALL_TEXT, "{stored} bytes");
        assert!(ContentIndex::read_zstd(&bytes[..]).is_ok());
        assert!(ContentIndex::read_published(&bytes[..], stored).is_err());
    }

    #[test]
    fn invalid_line_is_refused() {
        let digest = "ab".repeat(32);
        let good = format!("si-content 1\narchive a.tar.zst\n{digest} 5 0 7 50 512\n");
        assert!(ContentIndex::read_zstd(&compressed(&good)[..]).is_ok());

        for (from, to) in [
            ("content 1", "content 2"),
            ("a.tar", "../a.tar"),
            (" 5 0 ", " 5 1 "),
            (" 5 0 ", " 05 0 "),
            (" 5 0 ", " -5 0 "),
            (" 512\n", " 512 0 0\n"),
            (" 512\n", " 512 \n"),
            (" 512\n", " 512"),
            (" 512\n", "\n"),
            (" 7 ", " 18446744073709551615 "),
            ("ab", "AB"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(ContentIndex::read_zstd(&compressed(&bad)[..]).is_err(), "{bad}");
        }

        let twice = format!("{good}{digest} 5 0 7 50 512\n");
        assert!(ContentIndex::read_zstd(&compressed(&twice)[..]).is_err());
        assert!(ContentIndex::read_zstd(&b""[..]).is_err());
        assert!(ContentIndex::read_zstd(&compressed("")[..]).is_err());
    }
}
