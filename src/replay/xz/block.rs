//! Headers of blocks.

use super::check::{CheckKind, ContentCheck};
use super::chunk::{ChunkKind, DictionaryUse, RequiredReset, Reset};
use super::error::{SizeKind, XzDefect, XzOpenError, XzRefusal};
use super::varint;

const LZMA2: u64 = 0x21;
const FILTER_COUNT: u8 = 0x03;
const RESERVED: u8 = 0x3c;
const HAS_COMPRESSED_SIZE: u8 = 0x40;
const HAS_PLAIN_SIZE: u8 = 0x80;
/// Length of the checksum at the end in bytes.
const CHECKSUM: usize = 4;

/// The header of a block, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XzBlockHead {
    /// The header without its checksum.
    bytes: Vec<u8>,
    compressed_size: Option<u64>,
    plain_size: Option<u64>,
    filter_count: u8,
    dictionary_size: u32,
}

impl XzBlockHead {
    /// Length in bytes of a header, without its checksum, whose first byte is `first`.
    ///
    /// The length is at most 1020. `None` for zero, which begins an index and no block.
    pub fn length(first: u8) -> Option<usize> {
        (first != 0).then_some(usize::from(first) * 4)
    }

    /// Checks a header, which is given without its checksum.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, XzOpenError> {
        let [first, flags, fields @ ..] = bytes else { return Err(XzDefect::BlockHeader.into()) };
        if XzBlockHead::length(*first) != Some(bytes.len()) {
            return Err(XzDefect::BlockHeader.into());
        }
        if flags & RESERVED != 0 {
            return Err(XzRefusal::BlockFlags { flags: *flags }.into());
        }

        let mut rest = fields;
        let has_compressed_size = flags & HAS_COMPRESSED_SIZE != 0;
        let compressed_size = has_compressed_size.then(|| take_integer(&mut rest)).transpose()?;
        let has_plain_size = flags & HAS_PLAIN_SIZE != 0;
        let plain_size = has_plain_size.then(|| take_integer(&mut rest)).transpose()?;

        let filter_count = (flags & FILTER_COUNT) + 1;
        for _ in 1..filter_count {
            take_filter(&mut rest)?;
        }
        let dictionary_size = match take_filter(&mut rest)? {
            (LZMA2, &[size]) => decode_dictionary_size(size).ok_or(XzDefect::BlockHeader)?,
            (LZMA2, _) => return Err(XzDefect::BlockHeader.into()),
            (id, _) => return Err(XzRefusal::LastFilter { id }.into()),
        };

        if rest.iter().any(|&byte| byte != 0) {
            return Err(XzRefusal::BlockHeaderPadding.into());
        }
        let bytes = bytes.to_vec();
        Ok(XzBlockHead { bytes, compressed_size, plain_size, filter_count, dictionary_size })
    }

    /// Checks a header with its checksum.
    pub(super) fn read(header: &[u8]) -> Result<Self, XzOpenError> {
        let (bytes, checksum) =
            header.split_last_chunk::<CHECKSUM>().ok_or(XzDefect::BlockHeader)?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
            return Err(XzDefect::BlockHeaderChecksum.into());
        }
        XzBlockHead::from_bytes(bytes)
    }

    /// The header without its checksum: all that is needed to make it again.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Size of the dictionary in bytes.
    pub fn dictionary_size(&self) -> u32 {
        self.dictionary_size
    }

    /// Size of the compressed data in bytes, if the header declares it.
    pub fn compressed_size(&self) -> Option<u64> {
        self.compressed_size
    }

    /// Size of the plain content in bytes, if the header declares it.
    pub fn plain_size(&self) -> Option<u64> {
        self.plain_size
    }

    /// Whether the content passes other filters before LZMA2.
    pub fn has_other_filters(&self) -> bool {
        self.filter_count > 1
    }

    /// Appends the header.
    pub(super) fn push(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.bytes);
        output.extend_from_slice(&crc32fast::hash(&self.bytes).to_le_bytes());
    }
}

/// A block that is read or written, up to the current chunk.
pub(super) struct BlockProgress {
    head: XzBlockHead,
    check_kind: CheckKind,
    pub(super) check: ContentCheck,
    /// Bytes of chunks.
    pub(super) compressed_size: u64,
    plain_size: u64,
    /// Bytes of plain content since the last reset of the dictionary.
    dictionary_length: u64,
    required: RequiredReset,
}

/// A size that a block header declares, and that is wrong.
pub(super) struct WrongSize {
    pub(super) kind: SizeKind,
    pub(super) declared: u64,
    pub(super) actual: u64,
}

impl BlockProgress {
    pub(super) fn new(head: XzBlockHead, check_kind: CheckKind) -> Self {
        let check = if head.has_other_filters() && check_kind.length() > 0 {
            ContentCheck::unknown()
        } else {
            ContentCheck::new(check_kind)
        };
        BlockProgress {
            head,
            check_kind,
            check,
            compressed_size: 0,
            plain_size: 0,
            dictionary_length: 0,
            required: RequiredReset::Dictionary,
        }
    }

    pub(super) fn head(&self) -> &XzBlockHead {
        &self.head
    }

    /// Bytes of plain content since the last reset of the dictionary.
    pub(super) fn dictionary_length(&self) -> u64 {
        self.dictionary_length
    }

    /// Bytes of plain content so far.
    pub(super) fn plain_size(&self) -> u64 {
        self.plain_size
    }

    /// Begins a chunk; false if it makes too few resets.
    #[must_use]
    pub(super) fn begin_chunk(&mut self, kind: ChunkKind) -> bool {
        let Some(required) = self.required.after(kind) else { return false };
        self.required = required;
        if matches!(
            kind,
            ChunkKind::Stored(DictionaryUse::Reset) | ChunkKind::Lzma(Reset::Dictionary(_))
        ) {
            self.dictionary_length = 0;
        }
        true
    }

    /// Adds plain content.
    #[inline]
    pub(super) fn push(&mut self, content: &[u8]) {
        self.check.update(content);
        self.plain_size += content.len() as u64;
        self.dictionary_length += content.len() as u64;
    }

    /// Compares the declared sizes with those of the block so far.
    pub(super) fn verify_sizes(&self) -> Result<(), WrongSize> {
        let sizes = [
            (SizeKind::Compressed, self.head.compressed_size, self.compressed_size),
            (SizeKind::Plain, self.head.plain_size, self.plain_size),
        ];
        match sizes.into_iter().find(|(_, declared, actual)| declared.is_some_and(|d| d != *actual))
        {
            Some((kind, Some(declared), actual)) => Err(WrongSize { kind, declared, actual }),
            _ => Ok(()),
        }
    }

    /// Zero bytes between the compressed data and the check.
    pub(super) fn padding(&self) -> &'static [u8] {
        const ZEROS: [u8; 3] = [0; 3];
        &ZEROS[..(self.compressed_size.wrapping_neg() % 4) as usize]
    }

    /// Size of header, compressed data and check, as the index has it.
    pub(super) fn unpadded_size(&self) -> u64 {
        let header = self.head.bytes.len() + CHECKSUM;
        (header + self.check_kind.length()) as u64 + self.compressed_size
    }
}

fn take_integer(rest: &mut &[u8]) -> Result<u64, XzDefect> {
    varint::take(rest).ok_or(XzDefect::BlockHeader)
}

/// Reads the flags of a filter: its number and its properties.
fn take_filter<'a>(rest: &mut &'a [u8]) -> Result<(u64, &'a [u8]), XzDefect> {
    let id = take_integer(rest)?;
    let length = usize::try_from(take_integer(rest)?).map_err(|_| XzDefect::BlockHeader)?;
    let (properties, tail) = rest.split_at_checked(length).ok_or(XzDefect::BlockHeader)?;
    *rest = tail;
    Ok((id, properties))
}

/// Decodes the size of a dictionary.
///
/// It is two or three times a power of two, or the largest 32-bit number.
fn decode_dictionary_size(byte: u8) -> Option<u32> {
    match byte {
        0..40 => Some((2 | u32::from(byte & 1)) << (byte / 2 + 11)),
        40 => Some(u32::MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionary_sizes_are_those_of_the_format() {
        assert_eq!(decode_dictionary_size(0), Some(4 << 10));
        assert_eq!(decode_dictionary_size(22), Some(8 << 20));
        assert_eq!(decode_dictionary_size(39), Some(3 << 30));
        assert_eq!(decode_dictionary_size(40), Some(u32::MAX));
        assert_eq!(decode_dictionary_size(41), None);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let intact = [2, 0, 0x21, 1, 22, 0, 0, 0];
        assert!(XzBlockHead::from_bytes(&intact).is_ok());

        for (index, byte) in [(0, 0), (0, 3), (1, 4), (2, 0x20), (3, 2), (4, 41), (7, 1), (1, 3)] {
            let mut header = intact;
            header[index] = byte;
            assert!(XzBlockHead::from_bytes(&header).is_err(), "{index}: {byte}");
        }
        assert!(XzBlockHead::from_bytes(&[]).is_err());
    }
}
