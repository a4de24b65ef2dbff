//! The frame table: length and digest of each frame after the head (clauses 2 and 3).

use std::ops::Range;

use crate::diff_archive::compression::FrameCompression;
use crate::diff_archive::error::FrameFault;
use crate::diff_archive::limits::{MAX_FRAME_HEAD, MAX_STORED_FRAME};
use crate::digest::Digest;

/// Magic of the table, with its version.
const MAGIC: [u8; 4] = *b"siF\x01";
/// Magic and number of frames.
const TABLE_START: usize = 8;
/// Length and digest of one frame.
const ENTRY: usize = 36;

/// Magic of a skippable frame of zstd.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// Magic and length of a skippable frame.
const ZSTD_START: usize = 8;

/// Beginning of a gzip member: deflate, an extra field, no time, system unknown.
const GZIP_START: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
/// Id of the subfield that holds the table.
const GZIP_SUBFIELD: [u8; 2] = *b"SI";
/// Bytes of a member before the table: its beginning, the extra field's length, id and length.
const GZIP_PREFIX: usize = GZIP_START.len() + 6;
/// End of a gzip member without content: an empty block, checksum 0, length 0.
const GZIP_END: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Most frames in one gzip member: an extra field has at most 65,535 bytes.
const GZIP_ENTRIES: usize = (65_535 - 4 - TABLE_START) / ENTRY;

/// A frame as the table describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredFrame {
    /// Length in the file, in bytes.
    pub length: u32,
    /// Digest of these bytes.
    pub sha256: Digest,
}

/// The frames of a file after its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameTable {
    frames: Vec<StoredFrame>,
    /// Offset of each frame in the file, then that of the end.
    offsets: Vec<u64>,
}

impl StoredFrame {
    /// Describes a frame, which has at most [`MAX_STORED_FRAME`] bytes.
    pub fn of(frame: &[u8]) -> Self {
        StoredFrame { length: frame.len() as u32, sha256: Digest::of(frame) }
    }
}

impl FrameTable {
    /// Length of the table of `count` frames; `None` if it exceeds every head.
    pub(super) fn encoded_length(compression: FrameCompression, count: u64) -> Option<u64> {
        let entries = count.checked_mul(ENTRY as u64)?;
        let length = match compression {
            FrameCompression::Zstd => entries.checked_add((ZSTD_START + TABLE_START) as u64)?,
            FrameCompression::Gzip => {
                let members = count.div_ceil(GZIP_ENTRIES as u64).max(1);
                let rest = GZIP_PREFIX + TABLE_START + GZIP_END.len();
                entries.checked_add(members.checked_mul(rest as u64)?)?
            }
        };
        Some(length).filter(|length| *length <= MAX_FRAME_HEAD)
    }

    /// The bytes of the table of `frames`.
    pub(super) fn encode(compression: FrameCompression, frames: &[StoredFrame]) -> Vec<u8> {
        let count = frames.len() as u32;
        let mut bytes = Vec::new();
        match compression {
            FrameCompression::Zstd => {
                bytes.extend_from_slice(&SKIPPABLE);
                let length = (TABLE_START + frames.len() * ENTRY) as u32;
                bytes.extend_from_slice(&length.to_le_bytes());
                push_entries(&mut bytes, count, frames);
            }
            FrameCompression::Gzip => {
                let mut chunks = frames.chunks(GZIP_ENTRIES);
                let first = chunks.next().unwrap_or_default();
                for chunk in std::iter::once(first).chain(chunks) {
                    let length = (TABLE_START + chunk.len() * ENTRY) as u16;
                    bytes.extend_from_slice(&GZIP_START);
                    bytes.extend_from_slice(&(length + 4).to_le_bytes());
                    bytes.extend_from_slice(&GZIP_SUBFIELD);
                    bytes.extend_from_slice(&length.to_le_bytes());
                    push_entries(&mut bytes, count, chunk);
                    bytes.extend_from_slice(&GZIP_END);
                }
            }
        }
        bytes
    }

    /// Number of bytes that [`stated_length`](Self::stated_length) needs.
    pub(super) fn prefix_length(compression: FrameCompression) -> usize {
        let before = match compression {
            FrameCompression::Zstd => ZSTD_START,
            FrameCompression::Gzip => GZIP_PREFIX,
        };
        before + TABLE_START
    }

    /// Length of a table by its first bytes.
    pub(super) fn stated_length(
        compression: FrameCompression,
        prefix: &[u8],
    ) -> Result<usize, FrameFault> {
        let start = match compression {
            FrameCompression::Zstd if prefix.starts_with(&SKIPPABLE) => ZSTD_START,
            FrameCompression::Gzip if prefix.starts_with(&GZIP_START) => GZIP_PREFIX,
            FrameCompression::Zstd | FrameCompression::Gzip => return Err(FrameFault::NoTable),
        };

        let table = prefix.get(start..start + TABLE_START).ok_or(FrameFault::NoTable)?;
        let (magic, count) = table.split_at(MAGIC.len());
        if magic[..3] != MAGIC[..3] {
            return Err(FrameFault::NoTable);
        }
        if magic[3] != MAGIC[3] {
            return Err(FrameFault::UnknownTable(magic[3]));
        }

        let count = count.try_into().map(u32::from_le_bytes).map_err(|_| FrameFault::NoTable)?;
        FrameTable::encoded_length(compression, count.into())
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(FrameFault::TooManyFrames)
    }

    /// Reads the bytes of a table. A table has one form, so its other bytes can be compared.
    pub(super) fn decode(
        compression: FrameCompression,
        bytes: &[u8],
    ) -> Result<Vec<StoredFrame>, FrameFault> {
        let frames: Vec<StoredFrame> = match compression {
            FrameCompression::Zstd => {
                parse_entries(bytes.get(ZSTD_START + TABLE_START..).unwrap_or_default()).collect()
            }
            FrameCompression::Gzip => {
                let start = GZIP_PREFIX + TABLE_START;
                let members = bytes.chunks(start + GZIP_ENTRIES * ENTRY + GZIP_END.len());
                let entries = members.flat_map(|member| {
                    let end = member.len().saturating_sub(GZIP_END.len());
                    parse_entries(member.get(start..end).unwrap_or_default())
                });
                entries.collect()
            }
        };

        if FrameTable::encode(compression, &frames) == bytes {
            Ok(frames)
        } else {
            Err(FrameFault::Table)
        }
    }

    /// The table of a file of `size` bytes, of which `frames` are the last part.
    pub(super) fn new(frames: Vec<StoredFrame>, size: u64) -> Result<Self, FrameFault> {
        let mut total = 0u64;
        for (number, frame) in frames.iter().enumerate() {
            if frame.length == 0 || frame.length > MAX_STORED_FRAME {
                return Err(FrameFault::Length(number));
            }
            // No overflow: a head has far fewer than 2^32 frames.
            total += u64::from(frame.length);
        }

        let mut offset = size.checked_sub(total).ok_or(FrameFault::OtherSize)?;
        let mut offsets = Vec::with_capacity(frames.len() + 1);
        offsets.push(offset);
        for frame in &frames {
            offset += u64::from(frame.length);
            offsets.push(offset);
        }
        Ok(FrameTable { frames, offsets })
    }

    /// Number of frames.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// Length of the head.
    pub fn head_length(&self) -> u64 {
        self.offsets[0]
    }

    /// The frame `number`.
    pub(super) fn frame(&self, number: usize) -> Option<&StoredFrame> {
        self.frames.get(number)
    }

    /// Offset and length of adjacent frames in the file; `None` if it does not have them all.
    pub fn range(&self, frames: Range<usize>) -> Option<(u64, u64)> {
        if frames.start > frames.end {
            return None;
        }
        let (start, end) = (self.offsets.get(frames.start)?, self.offsets.get(frames.end)?);
        Some((*start, end - start))
    }
}

fn push_entries(bytes: &mut Vec<u8>, count: u32, frames: &[StoredFrame]) {
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&count.to_le_bytes());
    for StoredFrame { length, sha256 } in frames {
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&sha256.0);
    }
}

fn parse_entries(bytes: &[u8]) -> impl Iterator<Item = StoredFrame> {
    bytes.chunks_exact(ENTRY).filter_map(|entry| {
        let (length, sha256) = entry.split_first_chunk::<4>()?;
        let sha256 = Digest(sha256.try_into().ok()?);
        Some(StoredFrame { length: u32::from_le_bytes(*length), sha256 })
    })
}
